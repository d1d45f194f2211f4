"""Models, health, version, load, metrics, tokenization of messages; routes and methods that do not exist."""

import json

import openai
import pytest

from conftest import NAME, assert_idle, metric, wait_until


def test_models(api, specification):
    models = api.client.models.list()
    specification.check(models.to_dict(mode="json"), "ListModelsResponse")
    [card] = models.data
    assert card.id == NAME and card.object == "model"
    card = card.to_dict(mode="json")
    assert card["max_model_len"] == 2048 and card["root"] and card["parent"] is None and card["permission"]
    assert api.checked(api.client.models.retrieve(NAME), "Model").id == NAME
    with pytest.raises(openai.NotFoundError):
        api.client.models.retrieve("no-such-model")


def test_several_names(start, specification):
    server = start(names=("first", "second"))
    _, _, data = server.request("GET", "/v1/models")
    assert [c["id"] for c in json.loads(data)["data"]] == ["first", "second"]
    for name in ("first", "second"):
        body = {"model": name, "prompt": "a", "max_tokens": 1}
        status, answer = server.post("/v1/completions", body)
        assert status == 200, answer


def load(server):
    status, _, data = server.request("GET", "/load")
    assert status == 200
    return json.loads(data)["server_load"]


def test_health_version_load(server):
    for method, path in [("GET", "/health"), ("GET", "/ping"), ("POST", "/ping"), ("HEAD", "/health")]:
        assert server.request(method, path)[0] == 200, (method, path)
    status, _, data = server.request("GET", "/version")
    assert status == 200 and json.loads(data)["version"]
    wait_until(lambda: load(server) == 0, 20, "the load of an idle server is not 0")


GAUGES = "num_requests_running num_requests_waiting kv_cache_usage_perc"
COUNTERS = """prefix_cache_queries prefix_cache_hits num_preemptions prompt_tokens prompt_tokens_cached
generation_tokens request_success"""
HISTOGRAMS = """time_to_first_token_seconds inter_token_latency_seconds request_time_per_output_token_seconds
e2e_request_latency_seconds request_queue_time_seconds request_inference_time_seconds request_prefill_time_seconds
request_decode_time_seconds request_prompt_tokens request_generation_tokens iteration_tokens_total"""


def test_metrics(api, server):
    assert server.request("GET", "/metrics")[1]["Content-Type"].startswith("text/plain")
    before = server.metrics()
    for name in GAUGES.split():
        [(labels, _)] = before[f"vllm:{name}"]
        assert labels["model_name"] == NAME and "engine" in labels
    [(config, one)] = before["vllm:cache_config_info"]
    assert one == 1 and int(config["block_size"]) > 0
    for name in COUNTERS.split():
        assert f"vllm:{name}_total" in before, name

    ids = api.tokenize("a b c d e f g h")["tokens"]
    api.complete(ids, max_tokens=7, temperature=0, extra={"ignore_eos": True, "cache_salt": "metrics"})
    assert_idle(server)
    after = server.metrics()

    def grown(name, **labels):
        return metric(after, name, **labels) - (metric(before, name, **labels) if name in before else 0)

    assert grown("vllm:prompt_tokens_total") == len(ids) and grown("vllm:generation_tokens_total") == 7
    assert grown("vllm:request_success_total", finished_reason="length") == 1
    assert grown("vllm:request_success_total", finished_reason="stop") == 0
    assert grown("vllm:prefix_cache_queries_total") == len(ids)
    for name in HISTOGRAMS.split():
        name = f"vllm:{name}"
        buckets = [(float(p["le"]), v) for p, v in after[name + "_bucket"]]
        assert buckets == sorted(buckets) and buckets[-1][0] == float("inf"), name
        counts = [v for _, v in buckets]
        assert counts == sorted(counts) and counts[-1] == metric(after, name + "_count"), name
        assert metric(after, name + "_sum") >= 0
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_generation_tokens"):
        assert grown(f"vllm:{name}_count") == 1
    assert grown("vllm:inter_token_latency_seconds_count") == 6
    assert grown("vllm:request_generation_tokens_sum") == 7 and grown("vllm:request_prompt_tokens_sum") == len(ids)
    assert min(float(p["le"]) for p, _ in after["vllm:inter_token_latency_seconds_bucket"]) < 0.01
    assert any(name.startswith("http_requests") for name in after)
    assert "http_request_duration_seconds_count" in after


def test_tokenize_messages(api):
    messages = [{"role": "user", "content": "hi"}]
    with_prompt = api.tokenize(messages=messages)["tokens"]
    without = api.tokenize(messages=messages, add_generation_prompt=False)["tokens"]
    assert with_prompt[: len(without)] == without and len(with_prompt) > len(without)
    assert "hi" in api.detokenize(with_prompt)


def test_detokenize_refuses(server):
    for tokens in ([-1], [99999999], ["a"], "abc", None):
        status, answer = server.post("/detokenize", {"model": NAME, "tokens": tokens})
        assert status == 400 and answer["error"]["code"] == 400, (tokens, answer)


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/v1/chat/completions/", "/v1/../etc/passwd", "/%00"])
def test_no_such_route(server, path):
    status, _, data = server.request("POST", path, b"{}")
    assert status in (400, 404, 405)
    if status == 404:
        assert json.loads(data)["error"]["type"] == "NotFoundError"


@pytest.mark.parametrize(
    "method, path", [("GET", "/v1/chat/completions"), ("DELETE", "/v1/models"), ("PUT", "/health"), ("POST", "/metrics")]
)
def test_wrong_method(server, method, path):
    assert server.request(method, path)[0] == 405
