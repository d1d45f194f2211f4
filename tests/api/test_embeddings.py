"""/v1/embeddings: vectors to the bit those of `tandem embed`, whatever the batch, the format and the company."""

import base64
import concurrent.futures
import json
import signal
import socket
import struct
import subprocess

import openai
import pytest

from conftest import BINARY, MODEL, ROOT, SLOW, Api, Server, assert_idle, metric, wait_until

ENCODER = ROOT / "tests/golden/bert-fp32"
C = json.loads((ENCODER / "config.json").read_text())["hidden_size"]
MAX = 160
ENTRIES = [
    {"model": str(MODEL), "served-model-name": "small", "role": "small", "max-model-len": 512},
    {"model": str(ENCODER), "served-model-name": ["embedder", "also-embedder"], "role": "embedder"},
]
CONFIG = {"kv-cache-memory-bytes": "64M", "models": ENTRIES}
WORDS = "The licence says what may be done with the work, and [SEP] is text like any other. Ünïcode 機械 x1".split()


def text(i):
    """A text that depends on nothing but its number; 1 to some 60 tokens."""
    return " ".join(WORDS[(7 * i + 3 * k * k) % len(WORDS)] for k in range(1 + i % 13))


TEXTS = [text(i) for i in range(200)]


@pytest.fixture(scope="module")
def deployment():
    s = Server(config=CONFIG)
    yield s
    assert s.process.poll() is None, f"the server died with {s.process.returncode}:\n{s.output()}"
    assert s.stop() == 0, s.output()


@pytest.fixture(scope="module")
def embed(deployment, specification):
    """embed(input, ...) with the official client, which asks for base64 unless told otherwise: [vectors as bytes]."""
    api = Api(deployment, specification)

    def embed(value, **kw):
        return [bits(v) for v in ask(api, value, **kw)]

    return embed


def ask(api, value, usage=None, **kw):
    answer = api.client.embeddings.create(model=kw.pop("model", "embedder"), input=value, **kw)
    if kw.get("encoding_format") != "base64":  # else the vectors are strings, which OpenAI's schema does not know
        api.specification.check(answer.to_dict(mode="json"), "CreateEmbeddingResponse")
    assert [d.index for d in answer.data] == list(range(len(answer.data)))
    assert answer.usage.prompt_tokens == answer.usage.total_tokens
    assert usage is None or answer.usage.prompt_tokens == usage
    return [d.embedding for d in answer.data]


def bits(vector):
    """Of floats, or of their base64: the f32s in memory."""
    text = isinstance(vector, str)
    data = base64.b64decode(vector, validate=True) if text else struct.pack(f"<{len(vector)}f", *vector)
    assert len(data) == 4 * C and any(data)
    return data


def tokens(server, prompt, **kw):
    status, answer = server.post("/tokenize", {"model": "embedder", "prompt": prompt} | kw)
    assert status == 200 and answer["max_model_len"] == MAX, answer
    return answer["tokens"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """What `tandem embed` says of TEXTS."""
    path = tmp_path_factory.mktemp("embed") / "texts.jsonl"
    path.write_text("".join(json.dumps(t) + "\n" for t in TEXTS))
    command = [str(BINARY), "embed", str(ENCODER), "--file", str(path), "--device", "cpu"]
    p = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60 * SLOW)
    assert p.returncode == 0, p.stderr
    vectors = [bits(json.loads(line)) for line in p.stdout.splitlines()]
    assert len(vectors) == len(TEXTS)
    return vectors


def test_batch_of_texts(embed, reference):
    """A batch, whose answer a worker writes, in three ways of asking for it."""
    assert embed(TEXTS) == reference
    assert embed(TEXTS, encoding_format="float") == reference
    assert embed(TEXTS, encoding_format="base64") == reference
    assert len(set(reference)) == len({t.lower() for t in TEXTS})


def test_one_at_a_time(embed, reference):
    for i in range(0, len(TEXTS), 3):
        assert embed(TEXTS[i]) == [reference[i]], TEXTS[i]
    assert embed([TEXTS[5]], model="also-embedder") == [reference[5]]


def test_together_with_others(deployment, embed, reference, specification):
    """Many calls at once, beside a model that generates: everybody gets what they get alone."""
    api = Api(deployment, specification)
    extra = {"ignore_eos": True}

    def chat(i):
        answer = api.chat(f"{i}: what is a kernel?", model="small", max_tokens=40, temperature=0, extra=extra)
        return answer.choices[0].message.content

    alone = [chat(i) for i in range(4)]
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        chats = [pool.submit(chat, i) for i in range(4)]
        batches = [pool.submit(embed, TEXTS[i : i + 60]) for i in range(0, 140, 20)]
        singles = [pool.submit(embed, TEXTS[i]) for i in range(0, 200, 7)]
        assert [c.result() for c in chats] == alone
        for i, b in zip(range(0, 140, 20), batches):
            assert b.result() == reference[i : i + 60]
        for i, s in zip(range(0, 200, 7), singles):
            assert s.result() == [reference[i]]
    assert_idle(deployment)


def test_token_ids_are_taken_as_they_are(deployment, embed, reference):
    ids = [tokens(deployment, t) for t in TEXTS[:20]]
    plain = [tokens(deployment, t, add_special_tokens=False) for t in TEXTS[:20]]
    cls, sep = ids[0][0], ids[0][-1]
    assert all(a == [cls] + b + [sep] and cls not in b and sep not in b for a, b in zip(ids, plain))
    assert embed(ids, usage=sum(map(len, ids))) == reference[:20]
    assert embed(ids[3]) == [reference[3]]
    assert embed(plain[3], usage=len(plain[3])) != [reference[3]]
    assert embed(TEXTS[3], extra_body={"add_special_tokens": False}) == embed(plain[3])


def test_text_with_special_tokens_is_text(deployment, embed):
    assert tokens(deployment, "a [SEP] b").count(tokens(deployment, "")[-1]) == 1
    assert embed("a [SEP] b") != embed("a b")


def test_bodies_above_64_kib(embed, reference):
    """They are read on a worker."""
    padded = [t + " " * 400 for t in TEXTS]  # spaces are no tokens
    assert sum(map(len, padded)) > 65536
    assert embed(padded) == reference


def test_length(deployment, embed):
    fits, long = "a " * (MAX - 2), "a " * (MAX - 1)
    embed(fits, usage=MAX)
    cases = ((long, "input[0]", 161), (["x", long], "input[1]", 161), ([[5] * 500], "input[0]", 500))
    for value, where, found in cases:
        with pytest.raises(openai.BadRequestError) as e:
            embed(value)
        message = e.value.body["message"]
        assert e.value.body["param"] == "input" and "160 tokens" in message and f"{found} tokens in {where}" in message


def test_truncation(deployment, embed):
    """The beginning stays unless truncation_side says otherwise, and a text keeps its special tokens."""
    words = " ".join("abcdefghij"[i * i % 10] for i in range(300))
    ids, cls_sep = tokens(deployment, words), tokens(deployment, "")
    [cls, sep], body = cls_sep, ids[1:-1]
    assert len(ids) == 302
    for k in (-1, 2, 3, 10, MAX):
        n = MAX if k == -1 else k
        for side, kept in ((None, body[: n - 2]), ("right", body[: n - 2]), ("left", body[len(body) - n + 2 :])):
            extra = {"truncate_prompt_tokens": k} | ({"truncation_side": side} if side else {})
            assert embed(words, extra_body=extra, usage=n) == embed([cls] + kept + [sep]), (k, side)
        assert embed(ids, extra_body={"truncate_prompt_tokens": k}) == embed(ids[:n])
        assert embed(ids, extra_body={"truncate_prompt_tokens": k, "truncation_side": "left"}) == embed(ids[-n:])
    short = "a b"
    assert embed(short, extra_body={"truncate_prompt_tokens": 5}) == embed(short)
    assert embed(short, extra_body={"truncate_prompt_tokens": None}) == embed(short)
    for extra, sentence in (
        ({"truncate_prompt_tokens": 161}, "160"),
        ({"truncate_prompt_tokens": 1}, "at least 2"),
        ({"truncate_prompt_tokens": -2}, "-2"),
        ({"truncation_side": "middle"}, '"right" or "left"'),
    ):
        with pytest.raises(openai.BadRequestError) as e:
            embed(short, extra_body=extra)
        assert sentence in e.value.body["message"] and e.value.body["param"] == list(extra)[0]


def test_what_would_be_another_vector_is_refused(embed, reference):
    assert embed(TEXTS[7], dimensions=C, user="somebody") == [reference[7]]
    same = {"normalize": True, "embed_dtype": "float32", "endianness": "little", "no_such_field": 1}
    assert embed(TEXTS[7], extra_body=same) == [reference[7]]
    for field, value in (
        ("dimensions", C - 1),
        ("dimensions", 0),
        ("dimensions", "96"),
        ("encoding_format", "bytes"),
        ("normalize", False),
        ("embed_dtype", "float16"),
        ("endianness", "big"),
    ):
        with pytest.raises(openai.BadRequestError) as e:
            embed("a", extra_body={field: value})
        assert e.value.body["param"] == field
        if field == "dimensions" and value == C - 1:
            assert f"expected {C}" in e.value.body["message"]


def test_bad_inputs(deployment):
    for value in ([], None, 5, {}, [None], ["a", 5], [[]], ["a", []], [5, "a"], [-1], [121], [1.5], [["a"]], [[[1]]]):
        status, answer = deployment.post("/v1/embeddings", {"model": "embedder", "input": value})
        assert status == 400 and answer["error"]["param"] == "input", (value, answer)
        assert answer["error"]["type"] == "BadRequestError" and len(answer["error"]["message"]) > 10
    status, answer = deployment.post("/v1/embeddings", {"model": "embedder", "input": ["a"] * 2049})
    assert status == 400 and "2048" in answer["error"]["message"] and "2049" in answer["error"]["message"]
    for body in (b"", b"{", b"[]", b"null", b"{}", b'{"model": 5}'):
        assert deployment.request("POST", "/v1/embeddings", body)[0] == 400


def test_empty_texts(embed):
    """As in vLLM: the vector of [CLS] [SEP]."""
    assert embed(["", "a", " "], usage=7) == embed([[2, 3]]) + embed("a") + embed([[2, 3]])
    with pytest.raises(openai.BadRequestError, match="at least one token"):
        embed("", extra_body={"add_special_tokens": False})


def test_each_model_does_its_own(deployment, embed, specification):
    api = Api(deployment, specification)
    with pytest.raises(openai.BadRequestError) as e:
        embed("a", model="small")
    message = e.value.body["message"]
    assert "`small` generates text" in message and "these do: `embedder`, `also-embedder`" in message
    message = [{"role": "user", "content": "a"}]
    for path, body in (
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/chat/completions", {"messages": message}),
        ("/tokenize", {"messages": message}),
    ):
        status, answer = deployment.post(path, body | {"model": "embedder"})
        error = answer["error"]
        assert status == 400 and error["param"] == "model", (path, answer)
        assert "`embedder` turns texts into vectors" in error["message"] and "these do: `small`" in error["message"]
    status, answer = deployment.post("/v1/embeddings", {"model": "nobody", "input": "a"})
    assert status == 404
    status, answer = deployment.post("/v1/embeddings", {"input": "a"})
    assert status == 400 and answer["error"]["param"] == "model"
    status, answer = deployment.post("/detokenize", {"model": "embedder", "tokens": tokens(deployment, "a b")})
    assert status == 200 and "a b" in answer["prompt"]
    cards = {c.id: c.to_dict() for c in api.client.models.list()}
    assert cards["embedder"]["max_model_len"] == MAX and cards["embedder"]["roles"] == ["embedder"]


def test_metrics(deployment, embed):
    before = deployment.metrics()
    embed(TEXTS[:50])
    embed("a")
    assert_idle(deployment)
    after = deployment.metrics()

    def grown(name, **labels):
        return metric(after, name, model_name="embedder", engine="1", **labels) - metric(
            before, name, model_name="embedder", engine="1", **labels
        )

    n = grown("vllm:prompt_tokens_total")
    assert n > 100 and n == grown("vllm:request_prompt_tokens_sum") == grown("vllm:iteration_tokens_total_sum")
    assert grown("vllm:request_success_total", finished_reason="stop") == 51 == grown("vllm:request_success_total")
    for name in ("e2e_request_latency", "request_queue_time", "request_inference_time"):
        assert grown(f"vllm:{name}_seconds_count") == 51
    for name in ("time_to_first_token", "request_time_per_output_token", "request_decode_time"):
        assert grown(f"vllm:{name}_seconds_count") == 0
    requests = "http_requests_total"
    assert metric(after, requests, handler="/v1/embeddings") - metric(before, requests, handler="/v1/embeddings") == 2
    assert {p["model_name"] for p, _ in after["vllm:cache_config_info"]} == {"small"}


def send(server, body):
    """A connection on which the request was sent."""
    s = socket.create_connection(("127.0.0.1", server.port))
    s.settimeout(60 * SLOW)
    data = json.dumps(body).encode()
    s.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    return s


LONG = {"model": "embedder", "input": [[5 + i % 100] * MAX for i in range(2048)]}


def test_a_client_that_leaves(deployment, embed, reference):
    before = deployment.metrics()
    held = ("vllm:num_requests_running", "vllm:num_requests_waiting")
    s = send(deployment, LONG)
    wait_until(lambda: sum(metric(deployment.metrics(), n) for n in held) > 100, 60, "no text is at work")
    s.close()
    assert_idle(deployment)
    assert embed(TEXTS[9]) == [reference[9]]
    after = deployment.metrics()

    def ended(reason):
        name = "vllm:request_success_total"
        return metric(after, name, finished_reason=reason) - metric(before, name, finished_reason=reason)

    stopped, aborted = ended("stop"), ended("abort")
    assert stopped + aborted == 2049 and aborted > 0


def test_more_texts_than_the_queue_holds(start):
    """A call's texts are taken all together: how many wait counts before the first."""
    entry = ENTRIES[1] | {"max-num-seqs": 4, "max-requests-queued": 2}
    server = start(config=CONFIG | {"models": [entry]})
    status, answer = server.post("/v1/embeddings", {"input": TEXTS})
    assert status == 200 and len(answer["data"]) == len(TEXTS)


def test_shutdown_finishes_the_batch(start):
    server = start(config=CONFIG)
    s = send(server, LONG | {"input": LONG["input"][:200], "encoding_format": "base64"})
    wait_until(lambda: metric(server.metrics(), "tandem:server_load") == 1, 20, "the request was not taken")
    server.process.send_signal(signal.SIGTERM)
    answer = b""
    while piece := s.recv(1 << 20):
        answer += piece
    assert answer.startswith(b"HTTP/1.1 200") and len(json.loads(answer.split(b"\r\n\r\n", 1)[1])["data"]) == 200
    assert server.process.wait(30 * SLOW) == 0, server.output()


def test_an_encoder_alone(start, specification, reference):
    server = start(model=ENCODER, names=("only",))
    assert [bits(v) for v in ask(Api(server, specification), TEXTS[:9], model="only")] == reference[:9]
    status, answer = server.post("/v1/embeddings", {"input": TEXTS[2]})
    assert status == 200 and bits(answer["data"][0]["embedding"]) == reference[2] and answer["model"] == "only"
    status, answer = server.post("/v1/completions", {"prompt": "a"})
    assert status == 400 and "no model of this server does" in answer["error"]["message"]
    assert server.stop() == 0
    log = server.output()
    assert f"vectors of {C} dimensions, max-model-len {MAX}" in log and "KV" not in log and "chat template" not in log
    assert "POST /v1/embeddings 200" in log and "output tokens" in log


def test_keys(start):
    server = start("--api-key", "secret", model=ENCODER)
    assert server.post("/v1/embeddings", {"input": "a"})[0] == 401
    assert server.post("/v1/embeddings", {"input": "a"}, headers={"Authorization": "Bearer secret"})[0] == 200
