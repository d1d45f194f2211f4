"""`tandem embed`: texts in, vectors out, with the golden encoders."""

import json
import math
import struct
import subprocess

import pytest

from conftest import BINARY, ROOT, SLOW

ENCODER = ROOT / "tests/golden/bert-fp32"
TEXTS = ["the kernel", "river bank", "", "a small vector and the large one", "Money, money!"]


def embed(*arguments, code=0, model=ENCODER):
    command = [str(a) for a in (BINARY, "embed", model, *arguments)]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60 * SLOW)
    assert out.returncode == code, out.stdout + out.stderr
    return out


def figures(*arguments, **more):
    return json.loads(embed(*arguments, "--device", "cpu", "--json", **more).stdout)


def read(path):
    """{name: list of numbers, row by row}"""
    data = path.read_bytes()
    (n,) = struct.unpack("<Q", data[:8])
    header, formats = json.loads(data[8 : 8 + n]), {"F32": "f", "I32": "i"}
    header.pop("__metadata__")
    tensors = {}
    for name, t in header.items():
        begin, end = (8 + n + offset for offset in t["data_offsets"])
        tensors[name] = t["shape"], list(struct.unpack(f"<{(end - begin) // 4}{formats[t['dtype']]}", data[begin:end]))
    return tensors


def test_texts():
    found = figures("--text", *TEXTS)
    assert found["texts"] == len(TEXTS) and found["dimensions"] == 96 and found["truncated"] == 0
    assert found["dtype"] == "float32" and found["tokens"] > 2 * len(TEXTS)
    for v in found["embeddings"]:
        assert len(v) == 96 and math.fsum(x * x for x in v) == pytest.approx(1, abs=1e-5)
    lines = embed("--device", "cpu", "--text", *TEXTS).stdout.splitlines()
    assert [json.loads(line) for line in lines] == found["embeddings"]
    prefixed = figures("--text", "kernel", "--prefix", "the ")
    assert prefixed["embeddings"] == found["embeddings"][:1]


def test_file(tmp_path):
    lines, output = tmp_path / "texts.jsonl", tmp_path / "x.safetensors"
    objects = [json.dumps({"title": "the", "text": t}) for t in TEXTS[:2]] + [json.dumps("the " + TEXTS[3])]
    lines.write_text("\n".join(objects) + "\n\n")
    found = figures("--file", lines, "--fields", "title", "text", "--output", output)
    assert found["texts"] == 3 and "embeddings" not in found
    tensors = read(output)
    shape, vectors = tensors["embeddings"]
    assert shape == [3, 96] and sum(tensors["n_tokens"][1]) == found["tokens"]
    expected = figures("--text", *("the " + TEXTS[i] for i in (0, 1, 3)))["embeddings"]
    assert struct.pack("<288f", *vectors) == struct.pack("<288f", *(x for v in expected for x in v))


def test_steps_change_no_bit(tmp_path):
    lines = tmp_path / "texts.jsonl"
    lines.write_text("".join(json.dumps("the kernel " * (i % 70)) + "\n" for i in range(100)))
    whole = figures("--file", lines)["embeddings"]
    assert figures("--file", lines, "--max-num-seqs", 1, "--threads", 1)["embeddings"] == whole
    assert figures("--file", lines, "--max-num-batched-tokens", 161, "--threads", 3)["embeddings"] == whole


def test_long_texts():
    long = "the kernel " * 200
    assert "expected at most 160 tokens, found 402; --truncate" in embed("--text", long, code=1).stderr
    found = figures("--text", long, "the kernel " * 79, "--truncate")
    assert found["truncated"] == 1 and found["tokens"] == 160 + 160
    assert found["embeddings"][0] == found["embeddings"][1]  # what is left of the one is the other


def test_faults(tmp_path):
    lines = tmp_path / "texts.jsonl"
    assert "--text TEXT or --file FILE is needed" in embed(code=2).stderr
    assert "expected an encoder" in embed("--text", "x", code=1, model=ROOT / "tests/golden/qwen2-fp32").stderr
    for content, sentence in (
        ('{"title": "x"}\n', 'line 1: expected a string, or an object with a string "text", found an object without it'),
        ('"x"\n{"text": 7}\n', "line 2: expected a string"),
        ('"x"\n"y\n', "line 2: invalid JSON"),
        ("\n\n", "no texts in it"),
    ):
        lines.write_text(content)
        assert sentence in embed("--file", lines, code=1).stderr
    assert "cannot be opened" in embed("--file", tmp_path / "none", code=1).stderr


def test_inspect():
    out = subprocess.run(
        [str(BINARY), "inspect", str(ENCODER), "--json"], capture_output=True, text=True, timeout=60 * SLOW, check=True
    )
    found = json.loads(out.stdout)
    assert found["architecture"] == "BertModel" and found["hidden"] == 96 and found["max_tokens"] == 160
    assert found["pooling"] == "mean" and found["normalized"] is True
