#!/usr/bin/env python3
"""Process start to first token of a checkpoint of Qwen3-14B-AWQ's shapes that lies in the page cache.

Writes the checkpoint (random weights, 10 GB; seconds, by threads) and measures, --runs times each:

  generate  `tandem generate`: from the start of the process to the line that follows the first token
  serve     `tandem serve`: from the start of the process to the first chunk of a stream over HTTP, asked for at "ready"

The first start on a machine also reads CUDA's libraries from the disk: the verdict is on the median, the list shows
all. What the server says of its own start is printed with it. Fails above --bound seconds. The tokenizer is the sample
model's; --tokenizer takes the folder of another, whose size matters (Qwen's: 5 MB).

    tests/gpu/check_start.py --tandem build/cuda/tandem [--bound 4]
"""
import argparse
import http.client
import json
import os
import pathlib
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

GROUP = 128
ENGINE = ("--device", "cuda", "--max-model-len", "4096")
PROMPT = "What is a kernel?"


def random_words(n):
    """n bytes of random bits; 16 MB of them, again and again."""
    block = os.urandom(min(n, 1 << 24))
    return (block * (n // len(block) + 1))[:n]


def small_halves(n):
    """n values of float16 between 2^-7 and 2^-6, of either sign."""
    block = bytearray(min(2 * n, 1 << 24))
    block[0::2] = os.urandom(len(block) // 2)
    block[1::2] = os.urandom(len(block) // 2).translate(bytes(b & 0x83 | 0x20 for b in range(256)))
    return (bytes(block) * (2 * n // len(block) + 1))[: 2 * n]


def constant_halves(x, n):
    return struct.pack("<e", x) * n


def layer_of(c):
    """One layer's tensors as AutoAWQ writes them: name, dtype, shape, bytes."""
    C, F, D = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    QD, KD = c["num_attention_heads"] * D, c["num_key_value_heads"] * D
    linears = {"self_attn.q_proj": (QD, C), "self_attn.k_proj": (KD, C), "self_attn.v_proj": (KD, C),
               "self_attn.o_proj": (C, QD), "mlp.gate_proj": (F, C), "mlp.up_proj": (F, C), "mlp.down_proj": (C, F)}
    for name, (n, k) in linears.items():
        yield name + ".qweight", "I32", [k, n // 8], random_words(k * n // 2)
        yield name + ".qzeros", "I32", [k // GROUP, n // 8], random_words(k // GROUP * n // 2)
        yield name + ".scales", "F16", [k // GROUP, n], constant_halves(0.15 * k ** -0.5, k // GROUP * n)
    for name, n in {"input_layernorm": C, "post_attention_layernorm": C, "self_attn.q_norm": D,
                    "self_attn.k_norm": D}.items():
        yield name + ".weight", "F16", [n], constant_halves(1, n)


def write_file(path, tensors):
    """A safetensors file of (name, dtype, shape, bytes)."""
    header, at = {}, 0
    for name, dtype, shape, data in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb", buffering=0) as f:
        for piece in [struct.pack("<Q", len(text)) + text, *(data for *_, data in tensors)]:
            view = memoryview(piece)
            while view:
                view = view[f.write(view):]


def write_checkpoint(folder, shape, tokenizer):
    """Returns its bytes."""
    config = json.loads(pathlib.Path(shape).read_text())
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, folder / name)
    V, C, L = config["vocab_size"], config["hidden_size"], config["num_hidden_layers"]
    layer, table = list(layer_of(config)), small_halves(V * C)
    files = {"model-embedding.safetensors": [("model.embed_tokens.weight", "F16", [V, C], table),
                                             ("model.norm.weight", "F16", [C], constant_halves(1, C))],
             "model-head.safetensors": [("lm_head.weight", "F16", [V, C], table)]}
    for l in range(L):
        files[f"model-{l:02}.safetensors"] = [(f"model.layers.{l}.{name}", *rest) for name, *rest in layer]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda file: write_file(folder / file, files[file]), files))
    index = {name: file for file, tensors in files.items() for name, *_ in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return sum(len(data) for tensors in files.values() for *_, data in tensors)


def line_of(process, wanted):
    """The next line of the process's standard error that matches; the lines before it are kept for a complaint."""
    seen = []
    for line in process.stderr:
        seen.append(line)
        if re.search(wanted, line):
            return line, seen
    sys.exit(f"no line {wanted!r} in:\n{''.join(seen)}")


def time_generate(tandem, folder):
    start = time.monotonic()
    command = [tandem, "generate", str(folder), "--prompt", PROMPT, "--max-tokens", "1", "--ignore-eos", *ENGINE]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        line_of(process, r"^\[\d+ prompt tokens, 1 generated")
        seconds = time.monotonic() - start
        process.communicate(timeout=60)
    whole = time.monotonic() - start
    if process.returncode:
        sys.exit(f"tandem generate ended with {process.returncode}")
    return seconds, f"{whole:.2f} s to the end of the process"


def time_serve(tandem, folder):
    body = json.dumps({"model": "m", "prompt": PROMPT, "max_tokens": 1, "ignore_eos": True, "stream": True})
    start = time.monotonic()
    command = [tandem, "serve", str(folder), "--host", "127.0.0.1", "--port", "0", "--served-model-name", "m", *ENGINE]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            line, seen = line_of(process, r" ready in .*http://")
            ready = time.monotonic() - start
            port = int(re.search(r"http://127\.0\.0\.1:(\d+)", line)[1])
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            chunk = response.readline()
            seconds = time.monotonic() - start
            if response.status != 200 or not chunk.startswith(b"data: {"):
                sys.exit(f"tandem serve answered {response.status} {chunk!r}")
            response.read()
            connection.close()
        finally:
            process.terminate()
        process.communicate(timeout=60)
    return seconds, f"ready after {ready:.2f} s\n" + "".join("        " + line for line in seen)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tandem", default=os.environ.get("TANDEM", "build/cuda/tandem"))
    parser.add_argument("--shape", help="a shape file [that of Qwen3-14B-AWQ]")
    parser.add_argument("--tokenizer", default="weights/sample/small", type=pathlib.Path)
    parser.add_argument("--folder", help="where to write the checkpoint [/dev/shm, or what mkdtemp says]")
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--bound", type=float, default=4.0)
    args = parser.parse_args()
    here = pathlib.Path(__file__).resolve().parent  # a bundle has bin/configs beside this file
    configs = [p for p in (here / "bin/configs", here / "../../benchmarks/configs") if p.is_dir()]
    shape = args.shape or configs[0] / "Qwen3-14B-AWQ.json"
    folder = pathlib.Path(tempfile.mkdtemp(dir=args.folder or ("/dev/shm" if os.path.isdir("/dev/shm") else None)))
    failed, medians = 0, []
    try:
        start = time.monotonic()
        size = write_checkpoint(folder, shape, args.tokenizer)
        print(f"wrote {size / 1e9:.2f} GB in {time.monotonic() - start:.1f} s", flush=True)
        for name, measure in {"generate": time_generate, "serve": time_serve}.items():
            runs = [measure(args.tandem, folder) for _ in range(args.runs)]
            seconds = [s for s, _ in runs]
            median = statistics.median(seconds)
            medians.append(f"{median:.2f} s {name}")
            passed = median <= args.bound
            failed += not passed
            print(f"{'PASS' if passed else 'FAIL'}  start, {name}: {median:.2f} s from process start to first token "
                  f"(bound {args.bound:g}; runs {', '.join(f'{s:.2f}' for s in seconds)}), "
                  f"{size / 1e9 / median:.1f} GB/s of weights")
            print(f"      the last: {runs[-1][1].rstrip()}", flush=True)
        print(f"figure: {', '.join(medians)} to the first token of {size / 1e9:.1f} GB (bound {args.bound:g})")
        print(f"{2 - failed} passed, {failed} failed")
        return failed > 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
