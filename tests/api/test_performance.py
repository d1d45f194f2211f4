"""Figures of a release build on this machine, and two bounds: batching pays, and so does the prefix cache.

The client is tests/harness/load_client (C), so that Python is not what is measured. A machine that runs other things is
noisy: each bound holds if one of three attempts reaches it."""

import json
import random
import subprocess

import pytest

from conftest import BINARY, NAME, RELEASE

CLIENT = BINARY.parent / "load_client"
pytestmark = pytest.mark.skipif(not CLIENT.exists(), reason=f"{CLIENT} is not built")
ATTEMPTS = 3


def load(server, bodies, concurrency):
    """(one dict per request, the dict of the whole run)"""
    out = subprocess.run(
        [str(CLIENT), str(server.port), "/v1/completions", str(concurrency)],
        input="\n".join(json.dumps(b) for b in bodies) + "\n",
        capture_output=True,
        text=True,
        timeout=300,
    )
    lines = [json.loads(line) for line in out.stdout.splitlines()]
    assert out.returncode == 0, out.stdout + out.stderr
    return lines[:-1], lines[-1]


def body(ids, n, **fields):
    return {
        "model": NAME,
        "prompt": ids,
        "max_tokens": n,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        **fields,
    }


def require(holds, sentence):
    print(sentence)
    if not holds:
        assert not RELEASE, sentence
        pytest.skip("not a release build: " + sentence)


def test_sixteen_streams(server, letters):
    rng = random.Random(1)
    best = 0, 0, 0
    for _ in range(ATTEMPTS):
        bodies = [body([rng.choice(letters) for _ in range(32)], 128) for _ in range(17)]
        load(server, bodies[:1], 1)  # warm
        requests, _ = load(server, bodies[:1], 1)
        one = 127 / (requests[0]["end"] - requests[0]["first"])
        _, run = load(server, bodies[1:], 16)
        sixteen = run["tokens"] / run["seconds"]
        best = max(best, (sixteen / one, one, sixteen))
    ratio, one, sixteen = best
    require(ratio >= 4, f"one stream {one:.0f} tokens/s, sixteen {sixteen:.0f}: {ratio:.1f} x (at least 4)")


def test_repeated_prompt(server, letters):
    rng = random.Random(2)
    best = float("inf"), 0, 0
    for _ in range(ATTEMPTS):
        b = body([rng.choice(letters) for _ in range(1000)], 4)
        (cold,), _ = load(server, [b], 1)
        warm = min(load(server, [b], 1)[0][0]["first"] for _ in range(3))
        best = min(best, (warm / cold["first"], cold["first"], warm))
    ratio, cold, warm = best
    require(
        ratio <= 0.2,
        f"first token of a 1,000-token prompt: {1e3 * cold:.1f} ms cold, {1e3 * warm:.1f} ms repeated: "
        f"{ratio:.2f} x (at most 0.2)",
    )


def test_figures(server, letters):
    """No bound: what this machine does under a closed loop of mixed requests."""
    rng = random.Random(3)
    for concurrency in (1, 4, 16, 64):
        bodies = [
            body([rng.choice(letters) for _ in range(rng.randrange(16, 200))], rng.randrange(8, 64))
            for _ in range(max(8, 2 * concurrency))
        ]
        requests, run = load(server, bodies, concurrency)
        ttft = sorted(r["first"] - r["start"] for r in requests)
        itl = [(r["end"] - r["first"]) / (r["tokens"] - 1) for r in requests]
        print(
            f"{concurrency:3} at a time: {run['tokens'] / run['seconds']:7.0f} tokens/s, first token "
            f"{1e3 * ttft[len(ttft) // 2]:6.1f} ms (median) {1e3 * ttft[-1]:6.1f} ms (worst), "
            f"{1e3 * sum(itl) / len(itl):5.2f} ms a token"
        )
