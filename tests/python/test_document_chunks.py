#!/usr/bin/env python3
"""Chunks of the five corpora in ../shared/data/rag-eval/chunking: exact spans, and figures beside fixed windows.

    python3 tests/python/test_document_chunks.py [--build build/release]

Tokens are those of bge and MiniLM (../shared/data/bert-tokenizer), counted here by Hugging Face's `tokenizers` for every
chunk again: none may be over its cap. A chunk's body must be the text at its place, its words those of the corpus at the
place that it names, and together the chunks must hold every word of the corpus. The table shows what a retriever starts
from: how many of the 472 questions' reference spans lie whole in one chunk, beside windows that are cut every 200 and
400 tokens without regard to the text. Skips with a sentence without the data or the package.
"""
import argparse
import bisect
import csv
import json
import pathlib
import re
import subprocess
import sys

from test_documents import ROOT, Score

SHARED = ROOT.parent / "shared/data"
CHUNKING = SHARED / "rag-eval/chunking"
VOCABULARY = SHARED / "bert-tokenizer"
SIZES = ((200, 0), (200, 40), (400, 0), (400, 80))


def plain(text):
    """Letters and digits alone: markers, escapes and white space are what normalising may change."""
    return re.sub(r"[\W_]+", "", text)


def references():
    csv.field_size_limit(1 << 30)
    spans = {}
    for row in csv.DictReader(open(CHUNKING / "questions.csv", newline="", encoding="utf-8")):
        for r in json.loads(row["references"]):
            spans.setdefault(row["corpus_id"], []).append((r["start_index"], r["end_index"]))
    return spans


def whole(spans, chunks):
    """How many of the spans lie in one chunk."""
    chunks = sorted(chunks)
    starts = [c[0] for c in chunks]
    return sum(any(c[1] >= end for c in chunks[max(0, bisect.bisect_right(starts, start) - 3):bisect.bisect_right(starts, start)]) for start, end in spans)


def bytes_to_characters(text):
    """The character offset of each byte offset."""
    table = []
    for i, c in enumerate(text):
        table += [i] * len(c.encode())
    return table + [len(text)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build/release")
    args = parser.parse_args()
    if not CHUNKING.exists() or not VOCABULARY.exists():
        print(f"skipped: no corpora at {CHUNKING}, or no vocabulary at {VOCABULARY}")
        return
    try:
        import tokenizers
    except ImportError:
        print("skipped: the Python package tokenizers is not installed")
        return
    bert = tokenizers.BertWordPieceTokenizer(str(VOCABULARY / "vocab.txt"))
    bert.no_truncation()

    def count(text):
        return len(bert.encode(text, add_special_tokens=False).ids)

    score, spans = Score(), references()
    files = sorted((CHUNKING / "corpora").glob("*.md"))
    corpora = {p.stem: p.read_text(encoding="utf-8") for p in files}
    places = {name: bytes_to_characters(text) for name, text in corpora.items()}
    print(f"{'cut':34} {'chunks':>6} {'mean':>7} {'p50':>5} {'max':>5} {'whole answers':>22}")
    best = {}
    for size, overlap in SIZES:
        run = subprocess.run([ROOT / args.build / "tandem", "extract", "--json", "--chunks", "--tokenizer", VOCABULARY, "--max-tokens", str(size),
                              "--overlap", str(overlap), *files], capture_output=True, timeout=300)
        score.check(run.returncode == 0, run.stderr.decode()[-500:])
        all_tokens, covered, n_spans = [], 0, 0
        for line in run.stdout.decode("utf-8").splitlines():
            o = json.loads(line)
            name = pathlib.Path(o["path"]).stem
            source, text = corpora[name].encode(), o["text"].encode()
            chunks, tokens, seen = [], [], bytearray(len(text))
            for c in o["chunks"]:
                body = text[c["start"]:c["end"]].decode()
                score.check(body == c["body"] and c["body"].strip(), f"{name} [{c['start']}, {c['end']}): the body is not the text there")
                tokens.append(count(c["context"] + c["body"]))
                score.check(tokens[-1] <= size and tokens[-1] == c["tokens"], f"{name}: {tokens[-1]} tokens, {c['tokens']} counted, cap {size}")
                seen[c["start"]:c["end"]] = b"\1" * (c["end"] - c["start"])
                there = source[c["source_start"]:c["source_end"]].decode()
                body = re.sub(r"^ *\d+\. ", "", body)  # the number of a list's item, which Markdown may count anew
                score.check(plain(there) in (plain(body), plain(c["body"])), f"{name}: {body[:80]!r} is not {there[:80]!r}")
                chunks.append((places[name][c["source_start"]], places[name][c["source_end"]]))
            left = "".join(chr(b) for b, s in zip(text, seen) if not s)
            score.check(not plain(left), f"{name}: in no chunk: {left[:80]!r}")
            covered += whole(spans[name], chunks)
            n_spans += len(spans[name])
            all_tokens += tokens
        s = sorted(all_tokens)
        best[size] = max(best.get(size, 0), covered)
        print(f"{f'sections, {size} tokens, overlap {overlap}':34} {len(s):6} {sum(s) / len(s):7.1f} {s[len(s) // 2]:5} {s[-1]:5} {covered:5} of {n_spans:4} {100 * covered / n_spans:8.1f} %")
    for size in (200, 400):
        covered = n_spans = n = 0
        for name, text in corpora.items():
            offsets = bert.encode(text, add_special_tokens=False).offsets
            windows = [(offsets[i][0], offsets[min(i + size, len(offsets)) - 1][1]) for i in range(0, len(offsets), size)]
            covered += whole(spans[name], windows)
            n_spans += len(spans[name])
            n += len(windows)
        print(f"{f'windows, {size} tokens':34} {n:6} {size:7.1f} {size:5} {size:5} {covered:5} of {n_spans:4} {100 * covered / n_spans:8.1f} %")
        score.check(best[size] > covered, f"{size} tokens: {best[size]} whole answers, windows have {covered}")
    score.end()


if __name__ == "__main__":
    main()
