"""Sampling parameters: seeds, temperature, biases, allowed tokens, logprobs of chat."""

import math

import openai
import pytest

QUESTION = "Tell me a story."


def text(api, extra=None, **kw):
    kw.setdefault("max_tokens", 24)
    return api.chat(QUESTION, extra={"ignore_eos": True, **(extra or {})}, **kw).choices[0].message.content


def test_seed(api):
    one = [text(api, seed=1, temperature=1.2) for _ in range(3)]
    assert one[0] == one[1] == one[2]
    assert len({text(api, seed=s, temperature=1.2) for s in range(6)}) >= 5
    assert len({text(api, temperature=1.2) for _ in range(4)}) > 1, "without a seed every answer is the same"


def test_temperature_zero(api):
    greedy = text(api, temperature=0)
    assert greedy == text(api, temperature=0, seed=3)
    assert greedy == text(api, temperature=1, seed=4, extra={"top_k": 1})
    assert greedy == text(api, temperature=1, seed=5, top_p=1e-6)
    assert greedy == text(api, temperature=1, seed=6, extra={"min_p": 1.0})


def test_logit_bias(api, letters):
    x, y = letters[3], letters[7]
    assert text(api, logit_bias={str(x): 100}, temperature=0) == "d" * 24
    extra = {"allowed_token_ids": [x, y]}
    assert text(api, logit_bias={str(x): -100}, extra=extra) == "h" * 24


def test_allowed_token_ids(api, letters):
    out = text(api, extra={"allowed_token_ids": letters[:3]}, seed=2, temperature=1.5, max_tokens=60)
    assert len(out) == 60 and set(out) <= set("abc")


def test_penalties(api, letters):
    extra = {"allowed_token_ids": letters[:4]}
    bias = {str(letters[0]): 5}
    assert set(text(api, extra=extra, logit_bias={str(letters[0]): 100}, temperature=0)) == {"a"}
    spread = text(api, extra=extra, logit_bias=bias, temperature=0, frequency_penalty=2, max_tokens=40)
    assert len(set(spread)) == 4, "the frequency penalty never pushed a token out"
    assert text(api, temperature=0, presence_penalty=2) != "" and text(api, extra={"repetition_penalty": 1.3}) != ""


def test_distribution(api, letters):
    """Four hundred samples of one position agree with its logprobs."""
    ids = letters[:5]
    kw = dict(max_tokens=1, temperature=1)
    n, counts = 400, {}
    for s in range(0, n, 100):
        extra = {"allowed_token_ids": ids, "ignore_eos": True, "top_k": -1}
        answer = api.chat(QUESTION, n=100, seed=1000 + s, top_p=1, extra=extra, **kw)
        for c in answer.choices:
            counts[c.message.content] = counts.get(c.message.content, 0) + 1
    logprobs = {}
    for i, letter in zip(ids, "abcde"):
        answer = api.chat(
            QUESTION, logprobs=True, max_tokens=1, temperature=0, extra={"allowed_token_ids": [i], "ignore_eos": True}
        )
        logprobs[letter] = answer.choices[0].logprobs.content[0].logprob
    total = sum(math.exp(p) for p in logprobs.values())
    for letter, p in logprobs.items():
        share = math.exp(p) / total
        deviation = math.sqrt(n * share * (1 - share)) + 1
        assert abs(counts.get(letter, 0) - n * share) < 5 * deviation, (counts, logprobs)


def test_chat_logprobs(api):
    kw = dict(logprobs=True, top_logprobs=5, temperature=0, max_tokens=10, extra={"ignore_eos": True})
    choice = api.chat(QUESTION, **kw).choices[0]
    entries = choice.logprobs.content
    assert len(entries) == 10
    for e in entries:
        assert len(e.top_logprobs) == 5 and e.logprob <= 0
        tops = [t.logprob for t in e.top_logprobs]
        assert tops == sorted(tops, reverse=True) and e.logprob == tops[0] and e.token == e.top_logprobs[0].token
        assert sum(map(math.exp, tops)) <= 1.0001
    joined = b"".join(bytes(e.bytes) for e in entries)
    assert joined.decode(errors="replace") == choice.message.content
    streamed = []
    for chunk in api.chat(QUESTION, stream=True, **kw):
        for c in chunk.choices:
            streamed += c.logprobs.content if c.logprobs and c.logprobs.content else []
    assert [(e.token, e.logprob) for e in streamed] == [(e.token, e.logprob) for e in entries]
    only = api.chat(QUESTION, logprobs=True, temperature=0, max_tokens=3, extra={"ignore_eos": True})
    assert [e.top_logprobs for e in only.choices[0].logprobs.content] == [[], [], []]


BAD = {
    "temperature": [-0.1, 2.1, 1e9, "hot"],
    "top_p": [-1, 1.5, "x"],
    "n": [0, -1, 100000, 1.5],
    "max_tokens": [-1, "many"],
    "presence_penalty": [-2.5, 2.5],
    "frequency_penalty": [-2.5, 2.5],
    "stop": [[""], 3, ["x"] * 1000, ["x" * 100000]],
    "seed": ["a", 1.5],
    "top_logprobs": [21, -1],
    "logit_bias": [{"-1": 1}, {"99999999": 1}, {"a": 1}, {"5": 101}, {"5": "x"}, [1]],
    "min_p": [-0.1, 1.1],
    "top_k": [-2],
    "repetition_penalty": [0, -1],
    "min_tokens": [-1, 100],
    "stop_token_ids": [[-1], ["a"], [99999999], 5],
    "allowed_token_ids": [[], [-1], [99999999]],
    "stream": ["yes"],
    "messages": [[], "hello", [{"role": "user"}], [{"role": "martian", "content": "x"}], [5], [{"content": "x"}]],
}


@pytest.mark.parametrize("field", BAD)
def test_values_out_of_range(api, field):
    for value in BAD[field]:
        kw = {"messages": QUESTION, "max_tokens": 4, "extra": {}}
        if field == "messages":
            kw["messages"] = []
        if field == "top_logprobs":
            kw["logprobs"] = True
        kw["extra"][field] = value  # over the client's own argument
        with pytest.raises(openai.BadRequestError) as e:
            api.chat(**kw)
        error = e.value.body
        assert error["type"] == "BadRequestError" and error["code"] == 400, (value, error)
        assert isinstance(error["message"], str) and len(error["message"]) > 10, (value, error)
        named = field in error["message"] or error.get("param") == field
        assert named, f"{field}={value!r}: the error does not name the field: {error}"


def test_top_logprobs_needs_logprobs(api):
    with pytest.raises(openai.BadRequestError):
        api.chat(QUESTION, max_tokens=1, extra={"top_logprobs": 3})
