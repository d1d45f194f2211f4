#!/usr/bin/env python3
"""`tandem embed` with all-MiniLM-L6-v2 against sentence-transformers, and what its vectors find in SciFact.

    python3 tests/python/test_encoder_minilm.py [--build build/release] [--device cpu] [--dtype auto] [--model DIR]

1. Some hundred texts (SciFact's, long ones, every script, what is no text at all) give vectors of cosine >= 0.9999 with
   sentence-transformers', which needs the package sentence-transformers.
2. Exact search over SciFact's 5,183 abstracts has nDCG@10 = 0.645 +- 0.005, all-MiniLM-L6-v2's published figure, which
   needs numpy and the shared data.

The model is --model, or in the Hugging Face cache (tools/pull_minilm brings it there). Each part skips with a sentence
where something that it needs is missing. Takes some minutes on two cores: 1.2 million tokens; --texts N takes fewer
abstracts, and no figure is then checked."""

import argparse
import json
import math
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SCIFACT = ROOT.parent / "shared/data/rag-eval/scifact"
NAME = "sentence-transformers/all-MiniLM-L6-v2"
COSINE, NDCG, SLACK = 0.9999, 0.645, 0.005


def skip(sentence):
    print(f"skipped: {sentence}")


try:
    import numpy as np
except ImportError:
    skip("the Python package `numpy` is not installed")
    sys.exit(0)


class Embedder:
    """`tandem embed` on lists of texts."""

    def __init__(self, options):
        self.command = [str(ROOT / options.build / "tandem"), "embed", options.model, "--truncate", "--json",
                        "--dtype", options.dtype, "--device", options.device]  # fmt: skip

    def __call__(self, texts):
        with tempfile.TemporaryDirectory() as folder:
            lines, output = pathlib.Path(folder) / "texts.jsonl", pathlib.Path(folder) / "vectors.safetensors"
            lines.write_text("".join(json.dumps(t) + "\n" for t in texts))
            command = [*self.command, "--file", str(lines), "--output", str(output)]
            run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            return read_tensor(output, "embeddings"), json.loads(run.stdout)


def read_tensor(path, name):
    data = path.read_bytes()
    (n,) = struct.unpack("<Q", data[:8])
    entry = json.loads(data[8:8 + n])[name]
    begin, end = entry["data_offsets"]
    return np.frombuffer(data[8 + n + begin:8 + n + end], np.float32).reshape(entry["shape"])


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ---- 1. against sentence-transformers ---------------------------------------------------------------------------------


def texts_to_compare(seed=1):
    """Short and long, plain and strange. (Not "[CLS]": what users send never becomes a special token here.)"""
    rng = random.Random(seed)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    words = readme.split()
    texts = [" ".join(words[:n]) for n in (1, 2, 3, 5, 10, 50, 150, 170, 200, 400, len(words))]
    texts += [readme, readme * 5, "a" * 99, "a" * 101, "a " * 3000, ".", "?!" * 200, "  spaces\tand\nlines  "]
    texts += ["Die Straße hört im Süden auf.", "Καλημέρα κόσμε", "Съешь ещё этих мягких булок", "مرحبا بالعالم"]
    texts += ["नमस्ते दुनिया", "你好，世界", "今日はいい天気ですね", "안녕하세요 세계", "שלום עולם", "สวัสดีชาวโลก", "ﬁ ligature ½ ² ™"]
    texts += ["e\u0301 \u00e9 \u00e9\u0301 ÀÉÎÕÜ", "👩\u200d👩\u200d👧 emoji 🎉", "\u200bzero\u200dwidth\ufeff", "\u202ertl\u202c"]
    texts += ["ꟻ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈", "\x7f\x01control"]
    ranges = [(0x20, 0x7E), (0xA0, 0x2FFF), (0x3000, 0xD7FF), (0x10000, 0x1FFFF)]
    for _ in range(60):  # characters of every script, cut anywhere
        texts.append("".join(chr(rng.randint(*rng.choice(ranges))) for _ in range(rng.randint(1, 300))))
    if (SCIFACT / "corpus.jsonl").exists():
        texts += [d["title"] + " " + d["text"] for d in read_jsonl(SCIFACT / "corpus.jsonl")[:150]]
    return texts


def compare(options, embed):
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        return skip("the Python package `sentence-transformers` is not installed")
    texts = texts_to_compare()
    expected = SentenceTransformer(options.folder, device="cpu").encode(texts, batch_size=16, convert_to_numpy=True)
    found, _ = embed(texts)
    bound = COSINE if options.dtype in ("auto", "float32") else 0.999
    cosine = (found * expected).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(expected, axis=1)
    worst = int(cosine.argmin())
    print(f"sentence-transformers: {len(texts)} texts, cosine {cosine.min():.7f} at least, elements differ by "
          f"{abs(found - expected).max():.1e} at most")  # fmt: skip
    if cosine[worst] < bound:
        sys.exit(f"failed: expected a cosine of at least {bound}, found {cosine[worst]:.6f} for {texts[worst][:80]!r}")


# ---- 2. SciFact -------------------------------------------------------------------------------------------------------


def ndcg_at_10(ranked, relevant):
    """One query: ids in order, and {id: grade}."""
    gain = sum((2 ** relevant.get(d, 0) - 1) / math.log2(i + 2) for i, d in enumerate(ranked[:10]))
    best = sorted(relevant.values(), reverse=True)[:10]
    return gain / sum((2**g - 1) / math.log2(i + 2) for i, g in enumerate(best))


def scifact(options, embed):
    if not (SCIFACT / "corpus.jsonl").exists():
        return skip(f"no SciFact is at {SCIFACT}")
    corpus = read_jsonl(SCIFACT / "corpus.jsonl")[: options.texts]
    queries = dict(line.split("\t") for line in (SCIFACT / "queries.test.tsv").read_text(encoding="utf-8").splitlines())
    relevant = {}
    for line in (SCIFACT / "qrels.test.txt").read_text().splitlines():
        query, _, document, grade = line.split()
        relevant.setdefault(query, {})[document] = int(grade)
    documents, figures = embed([d["title"] + " " + d["text"] for d in corpus])
    asked, _ = embed([queries[q] for q in relevant])
    order = np.argsort(-(asked @ documents.T), axis=1, kind="stable")[:, :100]
    ids = np.array([d["_id"] for d in corpus])
    ndcg = np.mean([ndcg_at_10(list(ids[row]), r) for row, r in zip(order, relevant.values())])
    recall = np.mean([len(r.keys() & set(ids[row])) / len(r) for row, r in zip(order, relevant.values())])
    print(f"SciFact: {len(corpus)} abstracts, {len(relevant)} queries: nDCG@10 {ndcg:.4f}, recall@100 {recall:.4f}; "
          f"{figures['seconds']:.0f} s on {figures['backend']} in {figures['dtype']}: {figures['texts_per_s']:.1f} texts/s, "
          f"{figures['tokens_per_s']:.0f} tokens/s")  # fmt: skip
    if options.texts is None and abs(ndcg - NDCG) > SLACK:
        sys.exit(f"failed: expected an nDCG@10 of {NDCG} +- {SLACK}, found {ndcg:.4f}")


def find_model():
    """As model_find.c: a snapshot in the Hugging Face cache, or None."""
    places = {"HF_HUB_CACHE": "", "HF_HOME": "hub", "XDG_CACHE_HOME": "huggingface/hub", "HOME": ".cache/huggingface/hub"}
    for variable, rest in places.items():
        if os.environ.get(variable):
            repo = pathlib.Path(os.environ[variable]) / rest / ("models--" + NAME.replace("/", "--"))
            main = repo / "refs/main"
            return str(repo / "snapshots" / main.read_text().strip()) if main.exists() else None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", default="build/release")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--model")
    parser.add_argument("--texts", type=int, help="of SciFact's abstracts, so many")
    options = parser.parse_args()
    options.folder = options.model or find_model()
    options.model = options.folder
    if not options.folder:
        return skip(f"{NAME} is not in the Hugging Face cache; tools/pull_minilm brings it there")
    embed = Embedder(options)
    compare(options, embed)
    scifact(options, embed)


if __name__ == "__main__":
    main()
