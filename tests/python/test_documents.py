#!/usr/bin/env python3
"""`tandem extract` over every document in ../shared/data/documents: text, or a reason; no crash, no hang.

    python3 tests/python/test_documents.py [--build build/release] [--list]

1. Each file is read with its kind as Docling and pdf.js name it, or refused with a sentence that says what it is.
2. Docling's files against its expected Markdown: the share of the expected words that stand in our text in the same
   order (longest common subsequence of words), per kind, with a floor for each. --list prints it per file.
3. The command alone, without the program that it starts for reading.
4. Throughput on PDF and DOCX: at least 1,000 pages a minute, processes and all, two files at a time.
Ends with "N passed, N failed" and exit code 1 if any failed. Skips with a sentence where the shared data is missing.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOCUMENTS = ROOT.parent / "shared/data/documents"
# What pdf.js' suite has for its rendering, without text or with none that a file gives away; counted in the table.
REASONS = ("there is no text", "it is broken; pdftotext says", "it is encrypted", "its author forbids")
# Measured: csv 1.000, docx 0.912 (formulas, which Docling writes as LaTeX, and charts), html 0.997, md 1.000, pdf 0.927 (columns
# and tables in another order, right-to-left ligatures).
FLOORS = {"csv": 0.99, "docx": 0.90, "html": 0.985, "md": 0.99, "pdf": 0.91}
SECONDS = 60  # for one process over one file; extract's own limit is 30


class Score:
    def __init__(self):
        self.passed = self.failed = 0

    def check(self, ok, what):
        self.passed += bool(ok)
        self.failed += not ok
        if not ok:
            print(f"FAILED: {what}")
        return bool(ok)

    def end(self):
        print(f"{self.passed} passed, {self.failed} failed")
        sys.exit(self.failed > 0)


def extract(tandem, paths, *flags):
    """The JSON objects that the command prints for these files, by path; the exit code; what it said beside."""
    run = subprocess.run([tandem, "extract", "--json", *flags, *map(str, paths)], capture_output=True, timeout=SECONDS * len(paths))
    objects = [json.loads(line) for line in run.stdout.decode("utf-8").splitlines()]  # strict: our text is UTF-8
    return {o["path"]: o for o in objects}, run.returncode, run.stderr.decode("utf-8", "replace")


def words(text):
    """The words of Markdown: without its signs, which are a matter of style."""
    text = re.sub(r"<!--.*?-->", " ", text, flags=re.S)
    text = re.sub(r"\]\((?:[^()\s]|\([^()]*\))*\)", "] ", text)
    text = text.replace("&#124;", "|").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return [w.lower() for w in re.findall(r"\w+", text.replace("_", " "))]


def common(a, b):
    """Length of the longest common subsequence of two lists of words (Hyyrö's bit-parallel method)."""
    masks = {}
    for i, word in enumerate(a):
        masks[word] = masks.get(word, 0) | 1 << i
    full = (1 << len(a)) - 1
    v = full
    for word in b:
        u = v & masks.get(word, 0)
        v = (v + u | v - u) & full
    return bin(~v & full).count("1")


def expected(source):
    for name in (source.name + ".md", source.stem + ".md"):
        for folder in (source.parent / "groundtruth", source.parent.parent / "groundtruth"):
            if (folder / name).exists() and folder / name != source:
                return folder / name
    return None


def check_all(score, results, files):
    kinds = {}
    for path in files:
        o = results.get(str(path))
        if not score.check(o is not None, f"{path}: no answer"):
            continue
        kind = path.suffix[1:] if path.suffix[1:] in ("pdf", "docx", "html", "csv", "md") else "txt"
        row = kinds.setdefault(kind, [0, 0])
        if "error" in o:
            row[1] += 1
            known = kind == "pdf" and "pdfjs" in str(path) and o["error"].startswith(REASONS)
            score.check(known and o["format"] == "pdf", f"{path}: {o['error']}")
        else:
            row[0] += 1
            score.check(o["format"] == kind, f"{path}: expected {kind}, found {o['format']}")
            ends = [(b["start"], b["end"]) for b in o["blocks"]]
            data = o["text"].encode()
            whole = all(a < b for a, b in ends) and all(a[1] <= b[0] for a, b in zip(ends, ends[1:]))
            score.check(whole and (not ends or ends[-1][1] <= len(data)), f"{path}: blocks out of order")
    print(f"{'kind':6} {'text':>6} {'reason':>6}")
    for kind, (text, reason) in sorted(kinds.items()):
        print(f"{kind:6} {text:6} {reason:6}")


def check_groundtruth(score, results, files, listed):
    table = {}
    for path in files:
        truth = expected(path)
        o = results.get(str(path), {})
        if not truth or "text" not in o:
            continue
        want, have = words(truth.read_text(encoding="utf-8")), words(o["text"])
        found = common(want, have)
        row = table.setdefault(path.suffix[1:], [0, 0, 0, 0])
        for i, v in enumerate((1, len(want), found, len(have))):
            row[i] += v
        if listed:
            print(f"  {found / max(1, len(want)):6.3f} {len(want):6} {len(have):6}  {path.name}")
    print(f"{'kind':6} {'files':>5} {'expected':>9} {'in order':>9} {'share':>7} {'floor':>7} {'ours':>7}")
    for kind, (n, want, found, have) in sorted(table.items()):
        print(f"{kind:6} {n:5} {want:9} {found:9} {found / want:7.3f} {FLOORS[kind]:7.3f} {have:7}")
        score.check(found / want >= FLOORS[kind], f"{kind}: {found / want:.3f} of the expected words, below {FLOORS[kind]}")
    score.check(set(table) == set(FLOORS), f"kinds with expected text: {sorted(table)}")


def check_alone(score, tandem):
    """Without tandem-extractor beside it, the command starts itself anew; what another program there answers is refused."""
    with tempfile.TemporaryDirectory() as folder:
        alone, text = pathlib.Path(folder) / "tandem", pathlib.Path(folder) / "a.md"
        shutil.copy(tandem, alone)
        text.write_text("# Title\n\nText.\n")
        objects, code, said = extract(alone, [text])
        score.check(code == 0 and objects[str(text)]["text"] == "# Title\n\nText.", f"without the extractor: {said}")
        other = pathlib.Path(folder) / "tandem-extractor"
        other.write_text("#!/bin/sh\necho no document\n")
        other.chmod(0o755)
        objects, code, said = extract(alone, [text])
        score.check(code == 1 and "no document" not in objects[str(text)].get("text", ""), f"another extractor: {objects}")


def check_throughput(score, tandem):
    """Docling's PDF and DOCX files three times over, by two processes. A DOCX counts a page for 3,000 bytes of text, or one."""
    for kind in ("pdf", "docx"):
        files = sorted((DOCUMENTS / "docling" / kind / "sources").glob(f"*.{kind}")) + \
            (sorted((DOCUMENTS / "docling/pdf").glob("*.pdf")) if kind == "pdf" else [])
        parts = [files[i::2] * 3 for i in range(2)]
        start = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda part: subprocess.run([tandem, "extract", "--json", "--chunks", *map(str, part)],
                                                                capture_output=True, timeout=SECONDS * len(part)), parts))
        seconds = time.monotonic() - start
        objects = [json.loads(line) for a in answers for line in a.stdout.decode().splitlines()]
        pages = sum(o.get("pages") or max(1, len(o.get("text", "")) / 3000) for o in objects)
        rate = 60 * pages / seconds
        print(f"throughput: {kind}: {pages:.0f} pages in {seconds:.1f} s, {rate:.0f} pages/minute, {60 * len(objects) / seconds:.0f} files/minute")
        score.check(rate >= 1000 or "asan" in str(tandem), f"{kind}: {rate:.0f} pages a minute, below 1,000")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default="build/release")
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    tandem = ROOT / args.build / "tandem"
    if not DOCUMENTS.exists():
        print(f"skipped: no documents at {DOCUMENTS}")
        return
    files = sorted(p for p in DOCUMENTS.rglob("*") if p.is_file() and p.name != "LICENSE" and p.parent.name != "groundtruth")
    score, results = Score(), {}
    parts = [files[i::16] for i in range(16)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for part, (objects, code, said) in zip(parts, pool.map(lambda part: extract(tandem, part), parts)):
            failed = any("error" in o for o in objects.values())
            score.check(code == int(failed), f"exit code {code}, of {len(part)} files from {part[0].name} on: {said[-500:]}")
            score.check("Sanitizer" not in said and "CHECK(" not in said, f"one of the files from {part[0].name} on: {said[-2000:]}")
            results.update(objects)
    check_all(score, results, files)
    check_groundtruth(score, results, files, args.list)
    check_alone(score, tandem)
    check_throughput(score, tandem)
    score.end()


if __name__ == "__main__":
    main()
