#!/usr/bin/env python3
"""What `tandem quantize` writes against Hugging Face: our logits of the 4-bit folder are those that transformers gives
with the weights which the folder's tensors stand for, and its config.json is one that transformers takes for AWQ.

    python3 tests/python/test_quantize_differential.py [--build build/release]

Needs torch, transformers, safetensors and numpy; skips with a sentence where one is missing. The tensors are unpacked here
by a statement of AutoAWQ's "gemm" format of its own (WQLinear_GEMM.from_linear, read backwards).
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "weights/sample/small"
# Between our float16 run and an fp32 run of the same weights: of each row's norm, and of the probabilities.
LOGITS_BOUND, PROBABILITY_BOUND = 3e-3, 2e-3


def skip(sentence):
    print(f"skipped: {sentence}")
    sys.exit(0)


try:
    import numpy as np
    import torch
    import transformers
    from safetensors.numpy import load_file
except ImportError as missing:
    skip(f"the Python package `{missing.name}` is not installed")


def unpack(words):
    """[rows, n / 8] int32 -> [rows, n]: nibble i, counted from the lowest, is column [0, 2, 4, 6, 1, 3, 5, 7][i]."""
    out = np.empty((words.shape[0], 8 * words.shape[1]), np.int32)
    for i, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
        out[:, column::8] = words.view(np.uint32) >> np.uint32(4 * i) & np.uint32(15)
    return out


def dequantised(folder):
    """The folder's tensors with every linear layer as a float16 weight again."""
    tensors = load_file(folder / "model.safetensors")
    weights = {}
    for name, value in tensors.items():
        base, kind = name.rsplit(".", 1)
        if kind == "qweight":
            q, zeros, scales = unpack(value), unpack(tensors[base + ".qzeros"]), tensors[base + ".scales"]
            assert q.shape == (128 * scales.shape[0], scales.shape[1]) and zeros.shape == scales.shape
            steps = (q - np.repeat(zeros, 128, 0)).astype(np.float32) * np.repeat(scales, 128, 0).astype(np.float32)
            weights[base + ".weight"] = steps.astype(np.float16).T.copy()
        elif kind not in ("qzeros", "scales"):
            assert value.dtype == np.float16, name
            weights[name] = value
    return weights


def reference(folder, ids):
    """(config as transformers reads it, logits [n, V] in fp32)."""
    config = transformers.AutoConfig.from_pretrained(folder)
    quantization = config.quantization_config
    del config.quantization_config
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    state = {name: torch.from_numpy(w.astype(np.float32)) for name, w in dequantised(folder).items()}
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    with torch.no_grad():
        return quantization, model(torch.tensor([ids])).logits[0].numpy()


def ours(binary, folder, ids):
    with tempfile.TemporaryDirectory() as scratch:
        path = pathlib.Path(scratch) / "logits.safetensors"
        subprocess.run([str(binary), "logits", str(folder), "--token-ids", ",".join(map(str, ids)), "--output", str(path),
                        "--device", "cpu"], check=True)
        return load_file(path)["logits"]


def softmax(x):
    e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def check(binary, folder, ids, original):
    quantization, want = reference(folder, ids)
    awq = transformers.AwqConfig.from_dict(dict(quantization))
    assert awq.bits == 4 and awq.group_size == 128 and awq.zero_point, awq
    assert str(getattr(awq, "format", getattr(awq, "version", ""))).lower().endswith("gemm"), awq
    found = ours(binary, folder, ids)
    rows = np.linalg.norm(found - want, axis=1) / np.linalg.norm(want, axis=1)
    probabilities = np.abs(softmax(found) - softmax(want)).max()
    lost = np.linalg.norm(want - original, axis=1) / np.linalg.norm(original, axis=1)
    print(f"{folder.name}: logits off by {rows.max():.1e} of a row at most (bound {LOGITS_BOUND:.0e}), probabilities by "
          f"{probabilities:.1e} (bound {PROBABILITY_BOUND:.0e}); quantisation itself moved rows by {lost.mean():.1e}")
    assert rows.max() <= LOGITS_BOUND and probabilities <= PROBABILITY_BOUND
    assert lost.mean() > 3 * rows.max() # else the comparison would say nothing about the 4 bits


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build/release")
    binary = parser.parse_args().build.resolve() / "tandem"
    text = (ROOT / "weights/sample/heldout.txt").read_text()[:2000]
    listed = subprocess.run([str(binary), "tokenize", str(SAMPLE), "--text", text, "--json"], check=True,
                            capture_output=True, text=True)
    ids = json.loads(listed.stdout)[:300]
    original = ours(binary, SAMPLE, ids)
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        calibration = scratch / "documentation.md"
        calibration.write_text("\n".join(p.read_text() for p in sorted(ROOT.glob("*/README.md"))))
        for method in (["--awq", "--calibration", calibration, "--samples", 16, "--length", 128], ["--round-to-nearest"]):
            folder = scratch / method[0].strip("-")
            arguments = [binary, "quantize", SAMPLE, *method, "--no-perplexity", "--device", "cpu", "--output", folder]
            subprocess.run([str(a) for a in arguments], check=True, stdout=subprocess.DEVNULL)
            check(binary, folder, ids, original)
    print("passed")


if __name__ == "__main__":
    main()
