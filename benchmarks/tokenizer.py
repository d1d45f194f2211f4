#!/usr/bin/env python3
"""Tandem's tokenizer beside Hugging Face `tokenizers`: MB of text per second of CPU time, on one thread, in one run.

    python3 benchmarks/tokenizer.py [--build build/release] [--repeat 7] [--text FILE]... [--json]

English: SciFact abstracts. Code: this repository's C and Python sources. Chinese: clauses of 2 to 8 words drawn from the
Chinese words of Qwen's vocabulary, the frequent ones more often (the shared data holds no Chinese prose; --text adds any
file). Each text is encoded as one long string and line by line as many short ones. Hugging Face runs with its parallelism
off, its word cache warm, and by the fastest of its calls (encode, encode_batch, encode_batch_fast). Both sides' ids are
checked to be the same. Exit status 1 where Tandem is not at least twice as fast. Needs the packages `tokenizers` and
`xxhash` and the shared data.
"""
import argparse
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "golden" / "tokenizer"))
import assemble  # noqa: E402

MAX_BYTES = 2_000_000


def english():
    lines = (assemble.SHARED / "rag-eval" / "scifact" / "corpus.jsonl").read_text(encoding="utf-8").split("\n")
    abstracts = [json.loads(line) for line in lines if line]
    return "\n\n".join(f"{a['title']}\n{a['text']}" for a in abstracts)


def code():
    paths = sorted(p for kind in ("*.c", "*.h", "*.py") for p in ROOT.glob(f"*/**/{kind}") if "build" not in p.parts)
    return "\n".join(p.read_text(encoding="utf-8") for p in paths)


def chinese():
    vocab = json.loads((assemble.SHARED / "qwen-tokenizer" / "vocab.json").read_text(encoding="utf-8"))
    alphabet = assemble.byte_alphabet()
    words = []
    for token in sorted(vocab, key=vocab.get):
        word = bytes(alphabet[c] for c in token).decode("utf-8", "replace")
        if re.fullmatch(r"[\u4e00-\u9fff]+", word):
            words.append(word)
    pick = random.Random(7)

    def clause():  # the words by Zipf's law with exponent 1, by inversion
        return "".join(words[int(len(words) ** pick.random()) - 1] for _ in range(pick.randint(2, 8)))
    return "".join(clause() + pick.choice("，，，。。\n") for _ in range(60_000))


def reference(tokenizer, text, by_line, repeat):
    """(seconds, ids) by the fastest call."""
    strings = text.splitlines(keepends=True) if by_line else [text]
    calls = [lambda: [tokenizer.encode(s, add_special_tokens=False) for s in strings],
             lambda: tokenizer.encode_batch(strings, add_special_tokens=False),
             lambda: tokenizer.encode_batch_fast(strings, add_special_tokens=False)]
    best, ids = float("inf"), None
    for call in calls:
        for _ in range(repeat):
            start = time.process_time()
            encodings = call()
            best = min(best, time.process_time() - start)
        ids = [i for e in encodings for i in e.ids]
    return best, ids


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(ROOT / "build" / "release"), help="where bench_tokenizer was built")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--text", action="append", default=[], help="another UTF-8 file to measure")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    options = parser.parse_args()
    try:
        import tokenizers
        import xxhash
    except ImportError as e:
        print(f"skipped: the Python package `{e.name}` is not installed")
        return 0
    if not (assemble.SHARED / "qwen-tokenizer" / "vocab.json").exists():
        print(f"skipped: the shared data is not at {assemble.SHARED}")
        return 0

    texts = {"english": english(), "chinese": chinese(), "code": code()}
    texts.update((pathlib.Path(p).name, pathlib.Path(p).read_text(encoding="utf-8")) for p in options.text)
    slow = 0
    with tempfile.TemporaryDirectory() as tmp:
        folder = assemble.write(pathlib.Path(tmp) / "tokenizer")
        hf = tokenizers.Tokenizer.from_str(json.dumps(assemble.assemble(plain=True)))
        if not options.json:
            print(f"MB per second of CPU time, one thread; tokenizers {tokenizers.__version__}")
            print(f"{'text':<12} {'strings':<8} {'bytes':>9} {'tokens':>8} {'Hugging Face':>13} {'Tandem':>9} {'times':>7}")
        for name, text in texts.items():
            # splitlines() knows more line ends than '\n'; both sides shall cut the same strings.
            data = re.sub("[\r\v\f\x1c-\x1e\x85\u2028\u2029]", " ", text).encode()[:MAX_BYTES].decode("utf-8", "ignore")
            path = pathlib.Path(tmp) / name
            path.write_text(data, encoding="utf-8", newline="")
            command = [str(pathlib.Path(options.build) / "bench_tokenizer"), str(folder), str(path), "--repeat", str(options.repeat)]
            out = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout
            for line in out.decode().splitlines():
                ours = json.loads(line)
                seconds, ids = reference(hf, data, ours["strings"] == "short", options.repeat)
                if xxhash.xxh3_64_hexdigest(b"".join(i.to_bytes(4, sys.byteorder) for i in ids)) != ours["hash"]:
                    print(f"{name}, {ours['strings']}: the ids differ from Hugging Face's")
                    return 1
                theirs = ours["bytes"] / seconds / 1e6
                times = ours["mb_per_s"] / theirs
                slow += times < 2
                if options.json:
                    print(json.dumps({**ours, "file": name, "hugging_face_mb_per_s": round(theirs, 2), "times": round(times, 2)}))
                else:
                    print(f"{name:<12} {ours['strings']:<8} {ours['bytes']:>9} {ours['tokens']:>8} {theirs:>13.2f} "
                          f"{ours['mb_per_s']:>9.2f} {times:>6.1f}x")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
