"""`tandem bench`: what it counts and says about itself, at sizes that take a moment. Speeds are not judged."""

import csv
import io
import json
import subprocess

import pytest

from conftest import BINARY, MODEL, ROOT, SLOW


def bench(*arguments, code=0):
    out = subprocess.run(
        [str(a) for a in (BINARY, "bench", *arguments)], cwd=ROOT, capture_output=True, text=True, timeout=300 * SLOW
    )
    assert out.returncode == code, out.stdout + out.stderr
    return out


def figures(*arguments):
    return json.loads(bench(*arguments, "--json").stdout)


QUICK = ("--model", MODEL, "--device", "cpu", "--samples", "2", "--sample-ms", "0.5")


def test_kernels():
    found = figures("kernels", *QUICK, "--tokens", "1", "16", "--only", "^(rms_norm|linear|sample|qk_norm_rope_store)/")
    peaks = found["peaks"]["bfloat16"]
    assert {r["kernel"] for r in found["rows"]} == {"rms_norm", "linear", "sample", "qk_norm_rope_store"}
    for r in found["rows"]:
        floor = max(r["bytes"] / peaks["read_bytes_per_s"], r["flops"] / peaks["gemm_flops_per_s"])
        assert r["share"] == pytest.approx(floor / r["median_s"], rel=1e-6)
        assert 0 < r["best_s"] <= r["median_s"] and r["bytes"] > 0 and r["copies"] >= 1
        assert r["bound"] in ("memory", "arithmetic")
    config = json.loads((MODEL / "config.json").read_text())
    norm = [r for r in found["rows"] if r["kernel"] == "rms_norm" and r["T"] == 16]
    assert [r["bytes"] for r in norm] == [(2 * 16 + 1) * config["hidden_size"] * 2]
    down = [r for r in found["rows"] if r["shape"].startswith("down") and r["T"] == 16]
    assert [r["flops"] for r in down] == [2 * 16 * config["hidden_size"] * config["intermediate_size"]]


def test_every_kernel_runs():
    listed = bench("kernels", *QUICK, "--tokens", "3", "--list").stdout
    kernels = [line.split(":")[0] for line in listed.splitlines() if not line.startswith(" ")]
    assert len(kernels) == len(list((ROOT / "benchmarks/kernels").glob("*.c")))
    # Attention has sizes of its own, of which the smallest will do.
    few = "^([^a]|add|attention_decode.*4k GQA.*T=1$|.*/T=1024$)"
    found = figures("kernels", *QUICK, "--tokens", "3", "--only", few)
    assert {r["kernel"] for r in found["rows"]} == set(kernels) - {"linear_library"}  # a CPU has none


def test_shapes():
    models = ("--model", "Qwen3-14B", "Qwen3-14B-AWQ")
    listed = bench("kernels", *models, "--tokens", "1", "--list", "--device", "cpu").stdout
    assert "linear/Qwen3-14B/gate_up 34816x5120/T=1 bfloat16" in listed
    assert "linear/Qwen3-14B-AWQ/gate_up 34816x5120/T=1 float16" in listed
    assert "linear_library/Qwen3-14B-AWQ" not in listed  # that is the dense model's case


def test_latency():
    sizes = ("--batch-size", "1", "4", "--input-len", "48", "--output-len", "16")
    found = figures("latency", MODEL, *sizes, "--runs", "1", "--device", "cpu")
    assert [(r["batch_size"], r["input_len"]) for r in found["rows"]] == [(1, 48), (4, 48)]
    for r in found["rows"]:
        assert 0 < r["ttft_s"] <= r["prefill_s"]
        assert r["decode_tokens_per_s"] == pytest.approx(r["batch_size"] / r["per_token_s"])
        assert r["kernel_floor_s"] >= r["byte_floor_s"] > 0
        assert r["share_of_byte_floor"] == pytest.approx(r["byte_floor_s"] / r["per_token_s"])
        assert r["prefill_tokens_per_s"] == pytest.approx(r["batch_size"] * r["input_len"] / r["prefill_s"])
    # One more sequence costs its KV and nothing else.
    one, four = found["rows"]
    config = json.loads((MODEL / "config.json").read_text())
    kv = 2 * config["num_key_value_heads"] * config["head_dim"] * 2 * config["num_hidden_layers"]
    assert four["step_bytes"] - one["step_bytes"] == pytest.approx(3 * kv * (48 + 16 / 2))


def test_throughput():
    sizes = ("--num-prompts", "9", "--input-len", "20", "--output-len", "7")
    found = figures("throughput", MODEL, *sizes, "--device", "cpu")
    assert (found["requests"], found["input_tokens"], found["output_tokens"]) == (9, 180, 63)
    assert found["preemptions"] == 0 and found["steps"] >= 7
    assert found["output_tokens_per_s"] == pytest.approx(63 / found["seconds"])


def test_throughput_preempts():
    sizes = ("--num-prompts", "8", "--input-len", "16", "--output-len", "64")
    found = figures("throughput", MODEL, *sizes, "--num-gpu-blocks-override", "20", "--device", "cpu")
    assert found["output_tokens"] == 8 * 64
    assert found["preemptions"] > 0


def test_trace(tmp_path):
    trace = tmp_path / "trace.csv"
    head = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    trace.write_text(head + "2023-11-16 18:15:46.6805900,12,3\n2023-11-16 18:15:50.9951690,1000000,5\n")
    found = figures("throughput", MODEL, "--trace", trace, "--device", "cpu", "--max-model-len", "64")
    assert (found["requests"], found["requests_cut"], found["output_tokens"]) == (2, 1, 8)
    assert found["input_tokens"] == 12 + 64 - 5
    trace.write_text(head + "yesterday,1,2\n")
    assert "line 2" in bench("throughput", MODEL, "--trace", trace, code=1).stderr


def test_sweep():
    sizes = ("--num-prompts", "4", "--input-len", "16", "--output-len", "4")
    grid = ("--sweep-max-num-seqs", "1", "4", "--sweep-kv-cache-dtype", "auto", "fp8")
    out = bench("sweep", MODEL, *sizes, *grid, "--csv", "--device", "cpu")
    rows = list(csv.DictReader(io.StringIO(out.stdout)))
    points = [(r["max_num_seqs"], r["kv_cache_dtype"]) for r in rows]
    assert points == [("1", "auto"), ("1", "fp8"), ("4", "auto"), ("4", "fp8")]
    assert all(float(r["requests_per_s"]) > 0 for r in rows)


def test_serve(server):
    load = ("serve", "--port", server.port, "--num-prompts", "12", "--input-len", "24", "--output-len", "6")
    closed = figures(*load, "--max-concurrency", "3", "--percentiles", "50")
    assert (closed["completed"], closed["failed"]) == (12, 0)
    assert closed["max_concurrent_requests"] <= 3
    assert (closed["total_input_tokens"], closed["total_output_tokens"]) == (12 * 24, 12 * 6)
    assert closed["p50_ttft_ms"] == closed["median_ttft_ms"]
    assert 0 < closed["mean_ttft_ms"] < closed["mean_e2el_ms"]
    paced = figures(*load, "--request-rate", "60", "--goodput", "ttft:0.001")
    assert paced["completed"] == 12 and paced["request_goodput"] == 0
    assert paced["duration"] >= 0.05  # eleven gaps of a sixtieth of a second on average, for this seed


def test_serve_fails(server):
    out = bench("serve", "--port", server.port, "--num-prompts", "2", "--input-len", "100000", code=1)
    assert "status 400" in out.stderr
    assert "no server" in bench("serve", "--port", 1, "--num-prompts", "1", code=1).stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nothing",),
        ("latency",),
        ("latency", MODEL, "--batch-size", "0"),
        ("serve", "--goodput", "e2e:1"),
        ("kernels", "x"),
    ],
)
def test_usage(arguments):
    bench(*arguments, code=2)
