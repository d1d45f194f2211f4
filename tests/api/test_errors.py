"""Errors as the official client sees them: its exception types, the body's shape, sentences with numbers."""

import json
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from conftest import NAME, Api, metric


def body_of(error, kind, code):
    b = error.value.body
    assert error.value.status_code == code
    assert b["type"] == kind and b["code"] == code and "param" in b and len(b["message"]) > 10, b
    return b["message"]


def test_unknown_model(api):
    for call in (api.chat, api.complete):
        with pytest.raises(openai.NotFoundError) as e:
            call("hello", model="gpt-4", max_tokens=1)
        assert "gpt-4" in body_of(e, "NotFoundError", 404)


def test_prompt_that_is_too_long(api, letters):
    ids = letters * 100  # 2,700 tokens, 2,048 fit
    for call, prompt in ((api.complete, ids), (api.chat, "ab cd ef " * 4000)):
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as e:
                list(call(prompt, max_tokens=4, stream=stream))
            message = body_of(e, "BadRequestError", 400)
            assert "2048" in message.replace(",", "")
            if prompt is ids:
                assert "2700" in message.replace(",", "")


def test_prompt_and_max_tokens_together(api, letters):
    ids = (letters * 100)[:2000]
    with pytest.raises(openai.BadRequestError) as e:
        api.complete(ids, max_tokens=100)
    message = body_of(e, "BadRequestError", 400).replace(",", "")
    assert "2048" in message and "2000" in message and "100" in message
    assert api.complete(ids, max_tokens=48, extra={"ignore_eos": True}).usage.completion_tokens == 48


@pytest.mark.parametrize("prompt", [[-1], [99999999], ["a", 1], [], "", [[]], {"a": 1}, 5, [1.5], None])
def test_bad_prompts(server, prompt):
    status, answer = server.post("/v1/completions", {"model": NAME, "prompt": prompt, "max_tokens": 1})
    assert status == 400 and answer["error"]["type"] == "BadRequestError", answer


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize"])
def test_bodies_that_are_no_request(server, path):
    for body in [b"", b"{", b"[]", b"null", b'"x"', b"{}", b"\xff\xfe", b'{"model": 5}', b'{"a":1}{"b":2}']:
        status, _, data = server.request("POST", path, body)
        assert status == 400, (path, body, status, data)
        error = json.loads(data)["error"]
        assert error["code"] == 400 and error["message"], (path, body, error)


def test_body_above_the_bound(server):
    status, _, data = server.request(
        "POST", "/v1/completions", None, {"Content-Length": str(1 << 40), "Content-Type": "application/json"}
    )
    assert status == 413 and json.loads(data)["error"]["code"] == 413


def test_too_many_requests(start, specification):
    """With a bound on the queue the surplus is refused at once, and the others are served. How many are refused depends
    on how fast they come; that never more than three are held does not."""
    server = start("--max-num-seqs", "1", "--max-requests-queued", "2")
    api = Api(server, specification)

    def one(_):
        try:
            return api.complete("a", max_tokens=600, extra={"ignore_eos": True}).usage.completion_tokens
        except openai.RateLimitError as e:
            return e

    held = []
    with ThreadPoolExecutor(20) as pool:
        results = [pool.submit(one, i) for i in range(20)]
        while not all(r.done() for r in results):
            m = server.metrics()
            held.append(metric(m, "vllm:num_requests_running") + metric(m, "vllm:num_requests_waiting"))
    results = [r.result() for r in results]
    refused = [e for e in results if isinstance(e, openai.RateLimitError)]
    assert refused and max(held) <= 3, "one may run and two may wait"
    assert len(results) - len(refused) >= 3 and all(r == 600 for r in results if r not in refused)
    for e in refused:
        assert e.status_code == 429 and e.body["code"] == 429 and len(e.body["message"]) > 10
    assert api.complete("a", max_tokens=2).usage.completion_tokens >= 1


def test_api_key(start, specification):
    server = start("--api-key", "secret")
    assert Api(server, specification, api_key="secret").complete("a", max_tokens=2).usage.completion_tokens >= 1
    for key in ("wrong", "secre", "secrets"):
        with pytest.raises(openai.AuthenticationError) as e:
            Api(server, specification, api_key=key).complete("a", max_tokens=2)
        assert e.value.status_code == 401
    for path in ("/health", "/metrics", "/version"):
        assert server.request("GET", path)[0] == 200, path
    for path in ("/v1/models", "/v1/completions", "/v1/chat/completions"):
        assert server.request("GET", path)[0] in (401, 405)
        assert server.request("POST", path, {}, {"Authorization": "Basic secret"})[0] in (401, 405)
    assert server.request("GET", "/v1/models", None, {"Authorization": "Bearer secret"})[0] == 200
