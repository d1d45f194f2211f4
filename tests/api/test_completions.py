"""/v1/completions: prompts of every kind, echo, logprobs, limits."""

import math

import pytest

from conftest import NAME, text_of

PROMPT = "Once upon a time"


def greedy(n, **extra):
    return {"temperature": 0, "max_tokens": n, "extra": {"ignore_eos": True, **extra}}


def test_answer(api):
    answer = api.complete(PROMPT, **greedy(10))
    assert answer.object == "text_completion" and answer.model == NAME and answer.id.startswith("cmpl-")
    [choice] = answer.choices
    assert choice.index == 0 and choice.finish_reason == "length" and choice.logprobs is None and choice.text
    assert answer.usage.prompt_tokens == api.tokenize(PROMPT)["count"] and answer.usage.completion_tokens == 10


def test_sixteen_tokens_by_default(api):
    answer = api.complete(PROMPT, extra={"ignore_eos": True})
    assert answer.usage.completion_tokens == 16 and answer.choices[0].finish_reason == "length"


def test_stream(api):
    whole = api.complete(PROMPT, **greedy(20)).choices[0].text
    chunks = list(api.complete(PROMPT, stream=True, stream_options={"include_usage": True}, **greedy(20)))
    last = chunks.pop()
    assert last.choices == [] and last.usage.completion_tokens == 20
    assert text_of(chunks) == (whole, "length") and len({c.id for c in chunks}) == 1


def test_token_ids_are_the_text(api):
    ids = api.tokenize(PROMPT)["tokens"]
    want = api.complete(PROMPT, **greedy(12))
    got = api.complete(ids, **greedy(12))
    assert got.choices[0].text == want.choices[0].text and got.usage.prompt_tokens == len(ids)


def test_many_prompts(api):
    texts = [PROMPT, "The quick brown fox", "1 2 3"]
    alone = [api.complete(t, **greedy(8)).choices[0].text for t in texts]
    batch = api.complete(texts, **greedy(8))
    assert [c.index for c in batch.choices] == [0, 1, 2] and [c.text for c in batch.choices] == alone
    assert batch.usage.completion_tokens == 24
    ids = [api.tokenize(t)["tokens"] for t in texts]
    assert [c.text for c in api.complete(ids, **greedy(8)).choices] == alone
    twice = api.complete(texts[:2], n=2, **greedy(8))
    assert [c.text for c in twice.choices] == [alone[0], alone[0], alone[1], alone[1]]
    assert [c.index for c in twice.choices] == [0, 1, 2, 3]
    chunks = list(api.complete(texts, stream=True, **greedy(8)))
    assert [text_of(chunks, i)[0] for i in range(3)] == alone


def test_echo(api):
    answer = api.complete(PROMPT, echo=True, **greedy(6))
    assert answer.choices[0].text == PROMPT + api.complete(PROMPT, **greedy(6)).choices[0].text
    chunks = list(api.complete(PROMPT, echo=True, stream=True, **greedy(6)))
    assert text_of(chunks)[0] == answer.choices[0].text


def test_logprobs(api):
    answer = api.complete(PROMPT, logprobs=3, **greedy(9))
    l = answer.choices[0].logprobs
    assert len(l.tokens) == len(l.token_logprobs) == len(l.top_logprobs) == len(l.text_offset) == 9
    for token, p, top in zip(l.tokens, l.token_logprobs, l.top_logprobs):
        assert p <= 0 and 3 <= len(top) <= 4
        assert p == max(top.values()), "greedy, but not the likeliest"
        assert sum(math.exp(x) for x in top.values()) <= 1.0001
    assert l.text_offset[0] in (0, len(PROMPT)) and l.text_offset == sorted(l.text_offset)
    assert api.complete(PROMPT, logprobs=0, **greedy(3)).choices[0].logprobs.token_logprobs == l.token_logprobs[:3]
    chunks = [c.choices[0] for c in api.complete(PROMPT, logprobs=3, stream=True, **greedy(9))]
    streamed = [p for c in chunks if c.logprobs for p in c.logprobs.token_logprobs]
    assert streamed == l.token_logprobs


def test_echo_scores_a_prompt(api):
    """What generation said of its tokens, scoring the whole text says too: to the bit."""
    ids = api.tokenize(PROMPT)["tokens"]
    made = api.complete(ids, logprobs=1, **greedy(12, return_token_ids=True)).choices[0]
    made_ids = made.to_dict()["token_ids"]
    assert len(made_ids) == 12
    for n in (0, 1):
        scored = api.complete(ids + made_ids, echo=True, logprobs=1, **greedy(n)).choices[0].logprobs
        assert len(scored.tokens) == len(ids) + 12 + n
        assert scored.token_logprobs[0] is None and scored.top_logprobs[0] is None
        assert scored.token_logprobs[len(ids) : len(ids) + 12] == made.logprobs.token_logprobs
        assert all(p <= 0 for p in scored.token_logprobs[1:])


def test_prompt_logprobs(api):
    ids = api.tokenize(PROMPT)["tokens"]
    answer = api.complete(ids, **greedy(2, prompt_logprobs=2)).choices[0].to_dict()["prompt_logprobs"]
    assert len(answer) == len(ids) and answer[0] is None
    for i, position in enumerate(answer[1:], 1):
        entry = position[str(ids[i])]
        assert entry["logprob"] <= 0 and entry["rank"] >= 1 and 2 <= len(position) <= 3
    scored = api.complete(ids, echo=True, logprobs=2, **greedy(1)).choices[0].logprobs.token_logprobs
    assert [p[str(i)]["logprob"] for p, i in zip(answer[1:], ids[1:])] == scored[1 : len(ids)]


def test_stop_token_ids(api):
    made = api.complete(PROMPT, logprobs=0, **greedy(12, return_token_ids=True)).choices[0].to_dict()["token_ids"]
    stop = made[5]
    n = made.index(stop) + 1
    answer = api.complete(PROMPT, **greedy(12, stop_token_ids=[stop]))
    assert answer.choices[0].finish_reason == "stop" and answer.usage.completion_tokens == n


@pytest.mark.parametrize("text", ["", " ", "a", "\n\n\n", "é", "日本語 text", "🦙", "<|im_end|>"])
def test_tokenize_round_trip(api, text):
    t = api.tokenize(text)
    assert t["max_model_len"] > 0
    assert api.detokenize(t["tokens"]) == text


def test_token_strings(api):
    t = api.tokenize("hello world", return_token_strs=True)
    assert len(t["token_strs"]) == t["count"]


def test_truncate_prompt_tokens(api):
    ids = api.tokenize("a b c d e f g h i j k l m n o p q r s t u v w x y z")["tokens"]
    cut = api.complete(ids, **greedy(8, truncate_prompt_tokens=10))
    assert cut.usage.prompt_tokens == 10
    assert cut.choices[0].text == api.complete(ids[-10:], **greedy(8)).choices[0].text
