#!/usr/bin/env python3
"""Logits of the CUDA backend beside Hugging Face transformers: random weights, the layer shapes of real models.

For each model a checkpoint of a few layers is written (to /dev/shm where there is one), run by transformers in fp32 on
its own weights (the reference) and in the checkpoint's dtype (the yardstick), and by `tandem logits`:

  prefill   the whole sequence in one step
  decode    one token a step, which is the path of generation

Our distance to the reference, ||ours - fp32|| / ||fp32||, may be 1.2 times the yardstick's. AWQ checkpoints are
compared with their dequantised fp16 model. fp8 KV is compared with our own bf16 KV, with and without large biases of K.

    tests/gpu/check_logits.py --tandem build/cuda/tandem [--layers 3] [--tokens 1056] [--only NAME]
"""
import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file, save_file

MODELS = {
    "qwen2.5-3b": dict(arch="qwen2", hidden_size=2048, num_attention_heads=16, num_key_value_heads=2,
                       intermediate_size=11008, tie_word_embeddings=True),
    "qwen3-14b": dict(arch="qwen3", hidden_size=5120, num_attention_heads=40, num_key_value_heads=8,
                      intermediate_size=17408, head_dim=128, tie_word_embeddings=False),
}
VOCAB, PAST, GROUP = 151936, 1024, 128
ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # nibble i of a word holds column ORDER[i] of its eight
failures = passes = 0
ratios = []  # of our distance to transformers'


def verdict(name, passed, text):
    global failures, passes
    print(f"{'PASS' if passed else 'FAIL'}  {name}: {text}", flush=True)
    passes += passed
    failures += not passed


def make_model(shape, layers, k_bias=0.0):
    """A transformers model with weights that keep activations near unit variance."""
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    shape = dict(shape)
    arch = shape.pop("arch")
    config_class, model_class = (Qwen2Config, Qwen2ForCausalLM) if arch == "qwen2" else (Qwen3Config, Qwen3ForCausalLM)
    config = config_class(vocab_size=VOCAB, num_hidden_layers=layers, max_position_embeddings=4096, rms_norm_eps=1e-6,
                          rope_theta=1e6, **shape)
    torch.manual_seed(1)
    with torch.device("cuda"):
        model = model_class(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.uniform_(0.75, 1.25)
            elif name.endswith("bias"):
                p.normal_(0, 0.25)
                if k_bias and "k_proj" in name:  # a channel of each head far beyond the rest, as Qwen2.5 has them
                    p[5 :: 128].fill_(k_bias)
            else:
                p.normal_(0, p.shape[1] ** -0.5)
    return model.eval()


def cast(model, dtype):
    """Parameters to dtype; the rotary frequencies stay fp32, as from_pretrained leaves them."""
    rotary = model.model.rotary_emb
    frequencies = {name: buffer.float().clone() for name, buffer in rotary.named_buffers()}
    model.to(dtype)
    for name, buffer in frequencies.items():
        setattr(rotary, name, buffer)
    return model


def run_transformers(model, ids, dtype):
    cast(model, dtype)
    with torch.no_grad():
        return model(torch.tensor([ids], device="cuda")).logits[0].float()


def quantize(model):
    """Replaces each linear of the decoder by its AWQ form; returns the extra tensors. The model keeps fp16 weights."""
    tensors = {}
    for name, module in model.named_modules():
        if not name.endswith("_proj"):
            continue
        w = module.weight.data.float()  # [N, K]
        n, k = w.shape
        groups = w.reshape(n, k // GROUP, GROUP)
        low, high = groups.amin(2), groups.amax(2)
        scale = ((high - low) / 15).half()
        zero = (-low / scale.float()).round().clamp(0, 15)
        q = (groups / scale.float()[..., None] + zero[..., None]).round().clamp(0, 15)
        module.weight.data = ((q - zero[..., None]).half() * scale[..., None]).reshape(n, k).to(module.weight.dtype)

        def pack(x):  # [rows, N] of 0..15 -> [rows, N / 8] int32
            x = x.to(torch.int64).reshape(x.shape[0], -1, 8)
            word = sum(x[:, :, ORDER[i]] << (4 * i) for i in range(8))
            return torch.where(word >= 1 << 31, word - (1 << 32), word).to(torch.int32).contiguous().cpu()

        tensors[name + ".qweight"] = pack(q.reshape(n, k).T)
        tensors[name + ".qzeros"] = pack(zero.T)
        tensors[name + ".scales"] = scale.T.contiguous().cpu()
    return tensors


def write_checkpoint(folder, model, dtype, quantized=None):
    folder.mkdir(parents=True)
    config = model.config.to_dict()
    config["architectures"] = [type(model).__name__]
    config["dtype"] = {torch.bfloat16: "bfloat16", torch.float16: "float16"}[dtype]
    tensors = {k: v.to(dtype).contiguous().cpu() for k, v in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    if quantized:
        config["quantization_config"] = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True,
                                         "version": "gemm", "modules_to_not_convert": None}
        tensors = {k: v for k, v in tensors.items() if not k.endswith("_proj.weight")} | quantized
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def run_tandem(tandem, folder, ids, *flags):
    output = folder / "logits.safetensors"
    command = [tandem, "logits", str(folder), "--token-ids", ",".join(map(str, ids)), "--output", str(output),
               "--device", "cuda", "--max-num-seqs", "2048", "--max-model-len", "2048",
               "--kv-cache-memory-bytes", "4G", *flags]
    subprocess.run(command, check=True, timeout=120)
    logits = load_file(output, device="cuda")["logits"]
    output.unlink()
    return logits


def distance(x, reference):
    return ((x - reference).norm() / reference.norm()).item()


PATHS = {"prefill": (), "decode": ("--long-prefill-token-threshold", "1")}


def compare(tandem, folder, name, ids, reference, yardstick, *flags):
    for path, path_flags in PATHS.items():
        ours = run_tandem(tandem, folder, ids, *path_flags, *flags)
        tail = slice(PAST, None) if path == "decode" else slice(None)
        d, theirs = distance(ours[tail], reference[tail]), distance(yardstick[tail], reference[tail])
        ratios.append(d / theirs)
        verdict(f"{name} {path}", d <= 1.2 * theirs,
                f"{d:.3e} from fp32, transformers {theirs:.3e}: {d / theirs:.2f} x")


def fp8_with_biases(args, folder, ids, dtype):
    costs = {}
    for k_bias in (0.0, 50.0):
        model = cast(make_model(MODELS["qwen2.5-3b"], args.layers, k_bias), dtype)
        write_checkpoint(folder, model, dtype)
        reference = run_transformers(model, ids, torch.float32)
        del model
        for path, flags in PATHS.items():
            exact = run_tandem(args.tandem, folder, ids, *flags)
            fp8 = run_tandem(args.tandem, folder, ids, "--kv-cache-dtype", "fp8", *flags)
            costs[path, k_bias] = distance(fp8, exact), distance(exact, reference), distance(fp8, reference)
        shutil.rmtree(folder)
    for path in PATHS:
        (plain, *_), (biased, exact, fp8) = costs[path, 0.0], costs[path, 50.0]
        verdict(f"fp8 KV with K biases of 50, {dtype}, {path}", biased <= 2 * plain,
                f"logits move by {biased:.3e}, without such biases by {plain:.3e}: {biased / plain:.2f} x; from fp32: "
                f"{exact:.3e} before, {fp8:.3e} after")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tandem", default=os.environ.get("TANDEM", "build/cuda/tandem"))
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=PAST + 32)
    parser.add_argument("--only", default="")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    root = pathlib.Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    ids = torch.randint(0, VOCAB, (args.tokens,), generator=torch.Generator().manual_seed(2)).tolist()
    try:
        for name, shape in MODELS.items():
            if args.only not in name:
                continue
            model = cast(make_model(shape, args.layers), torch.bfloat16)
            write_checkpoint(root / name, model, torch.bfloat16)
            reference = run_transformers(model, ids, torch.float32)
            yardstick = run_transformers(model, ids, torch.bfloat16)
            compare(args.tandem, root / name, name + " bf16", ids, reference, yardstick)
            shutil.rmtree(root / name)

            cast(model, torch.float16)
            quantized = quantize(model)
            write_checkpoint(root / name, model, torch.float16, quantized)
            reference = run_transformers(model, ids, torch.float32)
            yardstick = run_transformers(model, ids, torch.float16)
            compare(args.tandem, root / name, name + " awq", ids, reference, yardstick)
            shutil.rmtree(root / name)
            del model
            torch.cuda.empty_cache()

        if args.only in "qwen2.5-3b fp8":
            for dtype in (torch.bfloat16, torch.float16):
                fp8_with_biases(args, root / "fp8", ids, dtype)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if ratios:
        print(f"figure: {min(ratios):.2f} to {max(ratios):.2f} x transformers' distance from fp32 (bound 1.2)")
    print(f"{passes} passed, {failures} failed")
    return failures > 0 or passes == 0


if __name__ == "__main__":
    sys.exit(main())
