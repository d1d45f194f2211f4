"""The same request gives the same bits: alone, in a crowd, from a cold and from a warm prefix cache, over HTTP."""

import asyncio
import json
import random

import pytest

from conftest import NAME, SLOW

CROWD = 15


async def post(port, body):
    """One request on raw sockets: the decoded answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: t\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
    writer.write(head.encode() + data)
    answer = await asyncio.wait_for(reader.read(), 120 * SLOW)
    writer.close()
    head, _, payload = answer.partition(b"\r\n\r\n")
    assert b" 200 " in head.split(b"\r\n")[0], answer[:500]
    return json.loads(payload)


def what(answer):
    """The tokens and their logprobs of an answer, and how much of the prompt was cached."""
    c = answer["choices"][0]
    cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return (c["token_ids"], c["logprobs"]["token_logprobs"], c["logprobs"]["top_logprobs"]), cached


@pytest.mark.parametrize("sampling", ["greedy", "seeded"])
@pytest.mark.parametrize("n_prompt", [1, 15, 16, 17, 300])
def test_alone_in_a_crowd_cold_and_warm(server, letters, n_prompt, sampling):
    rng = random.Random(n_prompt)

    def request(salt, ids):
        return {
            "model": NAME,
            "prompt": ids,
            "max_tokens": 40,
            "ignore_eos": True,
            "logprobs": 5,
            "return_token_ids": True,
            "cache_salt": salt,
            **({"temperature": 0} if sampling == "greedy" else {"temperature": 1, "seed": 99, "top_p": 0.95}),
        }

    ids = [rng.choice(letters) for _ in range(n_prompt)]
    run = f"{sampling}-{n_prompt}-"

    async def scenario():
        results = {}
        for temperature in ("cold", "warm"):
            results[f"alone, {temperature}"] = what(await post(server.port, request(run + "a", ids)))

        async def crowd():
            others = []
            for i in range(CROWD):
                body = request(run + "b", [rng.choice(letters) for _ in range(rng.randrange(1, 500))])
                body["max_tokens"] = rng.randrange(1, 60)
                others.append(asyncio.create_task(post(server.port, body)))
            await asyncio.sleep(0.02)
            mine = what(await post(server.port, request(run + "b", ids)))
            await asyncio.gather(*others)
            return mine

        for temperature in ("cold", "warm"):
            results[f"in a crowd, {temperature}"] = await crowd()
        return results

    results = asyncio.run(scenario())
    want, cached = results["alone, cold"]
    assert cached == 0 and len(want[0]) == 40
    for name, (got, cached) in results.items():
        assert got[0] == want[0], f"{name}: other tokens"
        assert got[1] == want[1], f"{name}: the same tokens, other logprobs"
        assert got[2] == want[2], f"{name}: other top logprobs"
        if name.endswith("warm") and n_prompt == 300:
            assert cached >= 272, name
        if name.endswith("cold"):
            assert cached == 0, name


def test_cached_tokens(api, letters):
    """Usage says how much of a prompt was there already; another salt shares nothing."""
    rng = random.Random(7)
    ids = [rng.choice(letters) for _ in range(200)]

    def cached(ids, salt):
        answer = api.complete(ids, max_tokens=2, temperature=0, extra={"cache_salt": salt, "ignore_eos": True})
        return answer.usage.prompt_tokens_details.cached_tokens

    assert cached(ids, "one") == 0
    again = cached(ids, "one")
    assert 160 <= again < 200
    assert cached(ids, "two") == 0
    assert 80 <= cached(ids[:100] + ids[:100], "one") <= 100
    changed = [ids[1]] + ids[1:] if ids[0] != ids[1] else [ids[2]] + ids[1:]
    assert changed == ids or cached(changed, "one") == 0
    chat = [{"role": "user", "content": "x y " * 150}]
    for want in (0, 1):
        answer = api.chat(chat, max_tokens=2, extra={"cache_salt": "three"})
        assert (answer.usage.prompt_tokens_details.cached_tokens > 100) == want


def test_no_prefix_caching(start, letters):
    server = start("--no-enable-prefix-caching")
    for _ in range(2):
        body = {"model": NAME, "prompt": letters * 4, "max_tokens": 1}
        status, answer = server.post("/v1/completions", body)
        assert status == 200
        details = answer["usage"].get("prompt_tokens_details")
        assert not details or details["cached_tokens"] == 0


def test_preemption_changes_nothing(start, letters):
    """A pool that is far too small for the crowd: sequences are preempted and recomputed, and nobody can tell. The crowd
    comes in one request, so that it is one on any machine."""
    rng = random.Random(3)
    prompts = [[rng.choice(letters) for _ in range(rng.randrange(20, 120))] for _ in range(12)]
    body = {
        "model": NAME,
        "max_tokens": 100,
        "ignore_eos": True,
        "logprobs": 1,
        "return_token_ids": True,
        "temperature": 1,
        "seed": 7,
    }
    small = start("--num-gpu-blocks-override", "24", "--max-model-len", "256", "--no-enable-prefix-caching")
    status, crowded = small.post("/v1/completions", body | {"prompt": prompts})
    assert status == 200 and [c["index"] for c in crowded["choices"]] == list(range(12))
    assert sum(v for _, v in small.metrics()["vllm:num_preemptions_total"]) > 0, "the pool was large enough after all"
    for prompt, answer in zip(prompts, crowded["choices"]):
        [alone] = small.post("/v1/completions", body | {"prompt": prompt})[1]["choices"]
        assert alone["token_ids"] == answer["token_ids"]
        assert alone["logprobs"] == answer["logprobs"]
