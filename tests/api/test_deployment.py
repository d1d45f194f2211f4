"""Several models in one process: each answers to its names, as it would alone; what is wrong in the file is said."""

import concurrent.futures
import json
import re
import signal
import subprocess
import time

import openai
import pytest

from conftest import BINARY, MODEL, ROOT, SLOW, Api, Server, assert_idle, metric, wait_until

OTHER = ROOT / "tests/golden/qwen2-fp32"
ENCODER = ROOT / "tests/golden/bert-fp32"
ENTRIES = {
    "large": {"model": str(MODEL), "served-model-name": ["large", "also-large"], "role": "large", "max-model-len": 1024},
    "small": {
        "model": str(MODEL),
        "served-model-name": "small",
        "role": ["small", "draft"],
        "max-model-len": 512,
        "max-num-seqs": 3,
        "max-num-batched-tokens": 64,
        "kv-cache-dtype": "fp8",
    },
    "other": {"model": str(OTHER), "served-model-name": "other", "max-model-len": 512, "block-size": 8},
}
CONFIG = {"kv-cache-memory-bytes": "64M", "models": list(ENTRIES.values())}
PROMPTS = ["Once upon a time", "What is a kernel?", "The licence says what may be done with the work. " * 6, "x"]


@pytest.fixture(scope="module")
def deployment():
    s = Server(config=CONFIG)
    yield s
    assert s.process.poll() is None, f"the server died with {s.process.returncode}:\n{s.output()}"
    assert s.stop() == 0, s.output()


@pytest.fixture(scope="module")
def apart():
    """The same models, each served by a process of its own."""
    servers = {}
    for name, entry in ENTRIES.items():
        config = {k: v for k, v in CONFIG.items() if k != "models"} | {k: v for k, v in entry.items() if k != "role"}
        servers[name] = Server(config=config)
    yield servers
    assert [s.stop() for s in servers.values()] == [0] * len(servers)


def ask(api, model, i, chat, stream):
    """One request: whatever of its answer must not depend on the others."""
    kw = {"model": model, "stream": stream, "max_tokens": 30 + i, "seed": i, "temperature": i % 2}
    extra = {"ignore_eos": True, "return_token_ids": True, "cache_salt": f"{model}-{i}-{chat}-{stream}"}
    if chat:
        answer = api.chat(PROMPTS[i % len(PROMPTS)], logprobs=True, top_logprobs=3, extra=extra, **kw)
    else:
        answer = api.complete(PROMPTS[i % len(PROMPTS)], logprobs=3, extra=extra, **kw)
    ids, text, logprobs, reason = [], "", [], None
    for part in answer if stream else [answer]:
        assert part.model == model
        for choice in part.choices:
            value = choice.to_dict()
            ids += value.get("token_ids") or []
            words = value["text"] if not chat else (value["delta"] if stream else value["message"]).get("content")
            text += words or ""
            if value.get("logprobs"):
                logprobs += value["logprobs"]["content"] if chat else value["logprobs"]["token_logprobs"]
            reason = value["finish_reason"] or reason
    assert len(ids) == len(logprobs) == 30 + i and reason == "length"
    return ids, text, logprobs


def test_answers_are_those_of_servers_apart(deployment, apart, specification):
    """Streaming and whole, chat and completions, greedy and sampled, of all models at once: to the bit."""
    requests = [
        (model, i, chat, stream)
        for i in range(4)
        for model in ENTRIES
        for chat in ([True, False] if model != "other" else [False])
        for stream in (True, False)
    ]
    together, alone = Api(deployment, specification), {m: Api(s, specification) for m, s in apart.items()}
    with concurrent.futures.ThreadPoolExecutor(len(requests)) as pool:
        got = list(pool.map(lambda r: ask(together, *r), requests))
    want = [ask(alone[r[0]], *r) for r in requests]
    for r, g, w in zip(requests, got, want):
        assert g[0] == w[0], f"{r}: other tokens"
        assert g[1] == w[1], f"{r}: the same tokens, other text"
        assert g[2] == w[2], f"{r}: the same tokens, other logprobs"
    by_request = dict(zip(requests, got))
    # else this test would not notice if all were answered by one model
    assert by_request["large", 0, False, False][2] != by_request["small", 0, False, False][2]
    assert by_request["large", 0, False, False][0] != by_request["other", 0, False, False][0]
    assert_idle(deployment)


def test_models(deployment, specification):
    api = Api(deployment, specification)
    models = api.client.models.list()
    specification.check(models.to_dict(mode="json"), "ListModelsResponse")
    cards = {c.id: c.to_dict(mode="json") for c in models.data}
    assert list(cards) == ["large", "also-large", "small", "other"]
    assert [c["max_model_len"] for c in cards.values()] == [1024, 1024, 512, 512]
    assert [c["root"] for c in cards.values()] == [str(MODEL)] * 3 + [str(OTHER)]
    assert [c["roles"] for c in cards.values()] == [["large"], ["large"], ["small", "draft"], []]
    for name in cards:
        assert api.checked(api.client.models.retrieve(name), "Model").to_dict(mode="json") == cards[name]
    with pytest.raises(openai.NotFoundError, match="`large`, `also-large`, `small`, `other`"):
        api.client.models.retrieve("no-such-model")


def test_names(deployment, specification):
    api = Api(deployment, specification)
    assert api.complete("a", model="also-large", max_tokens=1).model == "also-large"
    names = "`large`, `also-large`, `small`, `other`"
    for path, body in [
        ("/v1/completions", {"prompt": "a", "max_tokens": 1}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}),
        ("/tokenize", {"prompt": "a"}),
        ("/detokenize", {"tokens": [1]}),
    ]:
        status, answer = deployment.post(path, body | {"model": "nobody"})
        error = answer["error"]
        assert status == 404 and error["type"] == "NotFoundError" and error["param"] == "model", path
        assert error["message"] == f"The model `nobody` does not exist; this server has {names}."
        for nothing in ({}, {"model": ""}):
            status, answer = deployment.post(path, body | nothing)
            assert status == 400 and answer["error"]["param"] == "model", (path, answer)
            assert names in answer["error"]["message"]


def test_bounds_are_the_models(deployment, specification):
    """max-model-len, the vocabulary and the tokenizer are those of the model that was asked."""
    api = Api(deployment, specification)
    answer = api.complete([5] * 700, model="large", max_tokens=1)
    assert answer.usage.prompt_tokens == 700
    with pytest.raises(openai.BadRequestError, match="512 tokens"):
        api.complete([5] * 700, model="small", max_tokens=1)
    text = "What is a kernel? "
    tokens = {}
    for name in ENTRIES:
        answer = api.tokenize(text, model=name)
        assert answer["max_model_len"] == ENTRIES[name]["max-model-len"]
        tokens[name] = answer["tokens"]
        status, answer = deployment.post("/detokenize", {"model": name, "tokens": tokens[name]})
        assert status == 200 and answer["prompt"] == text
    assert tokens["large"] == tokens["small"] != tokens["other"]
    high = max(tokens["large"]) + 1
    vocab = json.loads((OTHER / "config.json").read_text())["vocab_size"]
    assert vocab < json.loads((MODEL / "config.json").read_text())["vocab_size"]
    assert deployment.post("/v1/completions", {"model": "large", "prompt": [vocab], "max_tokens": 1})[0] == 200
    assert deployment.post("/v1/completions", {"model": "other", "prompt": [vocab], "max_tokens": 1})[0] == 400
    assert high > 0


def test_a_long_body_goes_to_its_model(deployment):
    """Bodies above 64 KiB are read on a worker."""
    text = "word " * 20000
    counts = {m: deployment.post("/tokenize", {"model": m, "prompt": text})[1]["count"] for m in ENTRIES}
    assert counts["large"] == counts["small"] != counts["other"]
    status, answer = deployment.post("/tokenize", {"model": "nobody", "prompt": text})
    assert status == 404 and answer["error"]["param"] == "model"


def test_metrics(deployment, specification):
    api = Api(deployment, specification)
    before = deployment.metrics()
    sent = {"large": (3, 7), "small": (2, 5), "other": (1, 11)}
    prompt = api.tokenize("a b c d", model="large")["tokens"]
    for name, (requests, tokens) in sent.items():
        for i in range(requests):
            ids = prompt if name != "other" else [1, 2, 3]
            extra = {"ignore_eos": True, "cache_salt": f"metrics-{i}"}
            api.complete(ids, model=name, max_tokens=tokens, extra=extra)
    assert_idle(deployment)
    after = deployment.metrics()

    def grown(name, **labels):
        return metric(after, name, **labels) - metric(before, name, **labels)

    for i, (name, (requests, tokens)) in enumerate(sent.items()):
        labels = {"model_name": name, "engine": str(i)}
        assert grown("vllm:generation_tokens_total", **labels) == requests * tokens
        assert grown("vllm:request_success_total", finished_reason="length", **labels) == requests
        assert grown("vllm:time_to_first_token_seconds_count", **labels) == requests
        assert grown("vllm:inter_token_latency_seconds_count", **labels) == requests * (tokens - 1)
        assert grown("vllm:request_generation_tokens_sum", **labels) == requests * tokens
        assert grown("vllm:iteration_tokens_total_count", **labels) > 0
    # all together: nothing is counted twice, nothing for nobody
    assert grown("vllm:generation_tokens_total") == sum(r * t for r, t in sent.values())
    assert grown("vllm:request_success_total") == 6 == grown("http_requests_total", handler="/v1/completions")
    for name, samples in after.items():
        if name.startswith("vllm:"):
            assert {p["model_name"] for p, _ in samples} == set(ENTRIES), name
        if name.startswith("http_") or name in ("tandem:server_load", "tandem:http_connections"):
            assert not any("model_name" in p for p, _ in samples), name
    configs = {p["model_name"]: p for p, _ in after["vllm:cache_config_info"]}
    assert [configs[m]["block_size"] for m in ENTRIES] == ["16", "16", "8"]
    assert [configs[m]["cache_dtype"] for m in ENTRIES] == ["auto", "fp8", "auto"]


def stream(server, model, n):
    """A connection on which an answer has begun."""
    import socket

    s = socket.create_connection(("127.0.0.1", server.port))
    s.settimeout(60 * SLOW)
    body = {"model": model, "prompt": "Once", "max_tokens": n, "ignore_eos": True, "stream": True}
    body["stream_options"] = {"include_usage": True}
    data = json.dumps(body).encode()
    s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    return s, s.recv(4096)


def rest(s, so_far):
    while piece := s.recv(1 << 16):
        so_far += piece
    return so_far


def test_clients_that_leave(deployment):
    """Their requests end in every engine, and the others' go on."""
    before = deployment.metrics()
    leaving = [stream(deployment, m, 450)[0] for m in ENTRIES for _ in range(2)]
    staying, first = stream(deployment, "small", 100)
    for s in leaving:
        s.close()
    staying.settimeout(60 * SLOW)
    answer = first
    while b"[DONE]" not in answer:
        answer += staying.recv(1 << 16)
    assert b'"completion_tokens":100' in answer
    staying.close()
    assert_idle(deployment)
    after = deployment.metrics()
    for m in ENTRIES:
        name, labels = "vllm:request_success_total", {"model_name": m}
        ended = metric(after, name, **labels) - metric(before, name, **labels)
        assert ended == (3 if m == "small" else 2), m


def test_load_counts_all_models(deployment):
    streams = [stream(deployment, m, 480)[0] for m in ("large", "other")]
    status, _, data = deployment.request("GET", "/load")
    assert status == 200 and 1 <= json.loads(data)["server_load"] <= 2
    for s in streams:
        s.close()
    assert_idle(deployment)


def test_shutdown_finishes_requests_of_all(start):
    server = start(config=CONFIG)
    streams = {m: stream(server, m, 450) for m in ENTRIES}
    server.process.send_signal(signal.SIGTERM)
    for m, (s, first) in streams.items():
        answer = rest(s, first)
        assert b"data: [DONE]" in answer and b'"completion_tokens":450' in answer, (m, answer[-800:])
    assert server.process.wait(30 * SLOW) == 0, server.output()


def test_shutdown_ends_requests_of_all_in_the_end(start):
    """The drain timeout: every running request is ended with an error, whichever model has it."""
    server = start("--drain-timeout", "0.05", config=CONFIG | {"models": [ENTRIES["large"] | {"max-model-len": 4096}]
                                                               + [ENTRIES["small"] | {"max-model-len": 4096}]})  # fmt: skip
    streams = [stream(server, m, 4000) for m in ("large", "small") for _ in range(3)]
    server.process.send_signal(signal.SIGTERM)
    answers = [rest(s, first) for s, first in streams]
    assert server.process.wait(30 * SLOW) == 0, server.output()
    ended = [a for a in answers if b"shutting down" in a]
    assert len(ended) >= 2 and all(b"data: [DONE]" in a for a in ended), answers


def test_log(start):
    server = start(config=CONFIG)
    for name in ("also-large", "other"):
        assert server.post("/v1/completions", {"model": name, "prompt": "a", "max_tokens": 1})[0] == 200
    assert server.post("/v1/completions", {"model": "nobody", "prompt": "a"})[0] == 404
    assert server.stop() == 0
    log = server.output()
    for name, role in (("large", " as large"), ("small", " as small and draft"), ("other", "")):
        assert re.search(rf"info {name}: loaded .* of weights in ", log), log
        assert re.search(rf"info ready in .* serves {name}{role} \(", log), log
    for name in ("also-large", "other"):
        assert re.search(rf"POST /v1/completions 200 .* ms, {name}, ", log), log


# ---- files that are refused ------------------------------------------------------------------------------------------


def serve(tmp_path, config, *flags):
    """(exit code, standard error, path of the file): of a start that must fail, and quickly."""
    path = tmp_path / "deployment.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    began = time.monotonic()
    command = [str(BINARY), "serve", "--config", str(path), "--port", "0", *map(str, flags)]
    p = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60 * SLOW, stdin=subprocess.DEVNULL
    )
    assert time.monotonic() - began < 20 * SLOW and p.stdout == ""
    return p.returncode, p.stderr, str(path)


def two(**second):
    """A good model, and one with these keys."""
    return {"models": [{"model": str(MODEL), "served-model-name": "one"}, {"model": str(OTHER)} | second]}


@pytest.mark.parametrize(
    "config, code, sentences",
    [
        ('{"models": [', 2, ["invalid JSON at byte 12"]),
        ({"models": []}, 2, ["models: expected 1 to 4 models, found 0"]),
        (two(rolle="small"), 2, ["models[1]", "qwen2-fp32", "unknown key rolle; did you mean role?"]),
        (two(role="tiny"), 2, ["models[1]", "role: expected one of large, small, draft, embedder", '"tiny"']),
        (two(**{"max-num-seqs": "many"}), 2, ["models[1]", "max-num-seqs", "integer from 1 to 4096", '"many"']),
        (two(**{"served-model-name": "one"}), 2, ["models[1]", "served-model-name", '"one"', "models[0]"]),
        (two(**{"kv-cache-memory-bytes": 5}), 2, ["models[1]", "kv-cache-memory-bytes", "top level"]),
        (two() | {"max-model-len": 5}, 2, ["max-model-len: expected in the entries"]),
        (two(model="no/such/folder"), 1, ["no/such/folder"]),
        (two(dtype="float8"), 1, ["qwen2-fp32", "--dtype", "float8"]),
        (two(quantization="awq"), 1, ["qwen2-fp32", "--quantization awq", "AWQ checkpoint"]),
        (two(**{"max-model-len": 1000000}), 1, ["qwen2-fp32", "--max-model-len 1000000", "max_position_embeddings"]),
        (two(**{"chat-template": "no-such"}), 1, ["qwen2-fp32", "--chat-template", "no-such"]),
        (two(**{"num-gpu-blocks-override": 9}), 1, ["qwen2-fp32", "num-gpu-blocks-override", "kv-cache-memory-bytes"]),
        (two() | {"kv-cache-memory-bytes": 100000}, 1, ["room", "kv-cache-memory-bytes"]),
        (
            two(**{"kv-cache-floor-bytes": "1g"}) | {"kv-cache-memory-bytes": "100m"},
            2,
            ["models[1]", "qwen2-fp32", "kv-cache-floor-bytes", "kv-cache-memory-bytes, which is 100000000"],
        ),
        (two(role="embedder"), 1, ["qwen2-fp32", "role", "generates text", "as embedder"]),
        (two(model=str(ENCODER), role="large"), 1, ["bert-fp32", "role: expected embedder", "as large"]),
        (two(model=str(ENCODER), role=["small", "embedder"]), 1, ["bert-fp32", "role", "as small and embedder"]),
    ],
)
def test_refused(tmp_path, config, code, sentences):
    got, said, path = serve(tmp_path, config)
    assert got == code, said
    for sentence in [path, *sentences]:
        assert sentence in said, said
    assert "ready in" not in said and "loaded" not in said


def test_no_model_beside_a_file_of_models(tmp_path):
    got, said, path = serve(tmp_path, two(), MODEL)
    assert got == 2 and str(MODEL) in said and path in said


def test_example(tmp_path):
    """The file of the documentation is understood; its models are not here."""
    example = json.loads((ROOT / "server/examples/deployment.json").read_text())
    for entry in example["models"]:
        entry["model"] = "no/such/" + entry["model"]
    got, said, _ = serve(tmp_path, example)
    assert got == 1 and "no/such/Qwen/Qwen3-14B-AWQ" in said, said
