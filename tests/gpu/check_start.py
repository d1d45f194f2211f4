#!/usr/bin/env python3
"""Process start to first token of a checkpoint of Qwen3-14B-AWQ's shapes that lies in the page cache.

Writes the checkpoint (random weights, 9 GB) once, reads it once, then runs `tandem generate --max-tokens 1` and takes the wall
time of the whole process. Fails above --bound seconds. The tokenizer is the sample model's.

    tests/gpu/check_start.py --tandem build/cuda/tandem [--bound 4]
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import torch
from safetensors.torch import save_file

GROUP = 128


def tensors_of(c):
    """One layer's tensors by name, as AutoAWQ writes them."""
    C, F, D = c["hidden_size"], c["intermediate_size"], c["head_dim"]
    QD, KD = c["num_attention_heads"] * D, c["num_key_value_heads"] * D
    linears = {"self_attn.q_proj": (QD, C), "self_attn.k_proj": (KD, C), "self_attn.v_proj": (KD, C),
               "self_attn.o_proj": (C, QD), "mlp.gate_proj": (F, C), "mlp.up_proj": (F, C), "mlp.down_proj": (C, F)}
    tensors = {}
    for name, (n, k) in linears.items():
        tensors[name + ".qweight"] = torch.randint(-2**31, 2**31 - 1, (k, n // 8), dtype=torch.int32)
        tensors[name + ".qzeros"] = torch.randint(-2**31, 2**31 - 1, (k // GROUP, n // 8), dtype=torch.int32)
        tensors[name + ".scales"] = torch.full((k // GROUP, n), 0.15 * k ** -0.5, dtype=torch.float16)
    for name, n in {"input_layernorm": C, "post_attention_layernorm": C, "self_attn.q_norm": D,
                    "self_attn.k_norm": D}.items():
        tensors[name + ".weight"] = torch.ones(n, dtype=torch.float16)
    return tensors


def write_checkpoint(folder, shape, tokenizer):
    config = json.loads(pathlib.Path(shape).read_text())
    (folder / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (tokenizer / name).exists():
            shutil.copy(tokenizer / name, folder / name)
    V, C, L = config["vocab_size"], config["hidden_size"], config["num_hidden_layers"]
    index, layer = {}, tensors_of(config)

    def shard(file, tensors):
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index.update({name: file for name in tensors})

    shard("model-0.safetensors", {
        "model.embed_tokens.weight": torch.randn(V, C, dtype=torch.float16) * C ** -0.5,
        "lm_head.weight": torch.randn(V, C, dtype=torch.float16) * C ** -0.5,
        "model.norm.weight": torch.ones(C, dtype=torch.float16)})
    for l in range(L):
        shard(f"model-{l + 1}.safetensors", {f"model.layers.{l}.{name}": t for name, t in layer.items()})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tandem", default=os.environ.get("TANDEM", "build/cuda/tandem"))
    parser.add_argument("--shape", help="a shape file [that of Qwen3-14B-AWQ]")
    parser.add_argument("--tokenizer", default="weights/sample/small", type=pathlib.Path)
    parser.add_argument("--bound", type=float, default=4.0)
    args = parser.parse_args()
    here = pathlib.Path(__file__).resolve().parent  # a bundle has bin/configs beside this file
    configs = [p for p in (here / "bin/configs", here / "../../benchmarks/configs") if p.is_dir()]
    shape = args.shape or configs[0] / "Qwen3-14B-AWQ.json"
    folder = pathlib.Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    try:
        start = time.monotonic()
        write_checkpoint(folder, shape, args.tokenizer)
        size = sum(f.stat().st_size for f in folder.iterdir())
        print(f"wrote {size / 1e9:.2f} GB in {time.monotonic() - start:.1f} s", flush=True)
        seconds = []
        for _ in range(3):
            start = time.monotonic()
            subprocess.run([args.tandem, "generate", str(folder), "--prompt", "a b c", "--max-tokens", "1", "--ignore-eos",
                            "--device", "cuda", "--max-model-len", "4096"], check=True, timeout=120,
                           stdout=subprocess.DEVNULL)
            seconds.append(time.monotonic() - start)
        best, median = min(seconds), statistics.median(seconds)
        passed = median <= args.bound
        print(f"{'PASS' if passed else 'FAIL'}  start: {median:.2f} s from process start to its end after the first token "
              f"(best {best:.2f}, bound {args.bound:g}), {size / 1e9 / median:.1f} GB/s")
        print(f"{int(passed)} passed, {int(not passed)} failed")
        return not passed
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
