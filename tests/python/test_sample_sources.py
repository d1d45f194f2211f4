#!/usr/bin/env python3
"""The conversations that the sample models learn to answer from sources with, and the score of such answers.

    test_sample_sources.py

Out of a little pool, tools/train_sample/sources.py must only make conversations whose answer is, letter by letter, a
sentence of the passage that it names, or "Not in the documents."; both must occur, and every passage number up to four.
evaluate.py must judge answers as its text says. Needs nothing but Python. Ends with "N passed, N failed".
"""

import argparse
import json
import lzma
import random
import re
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools/train_sample"))
import articles
import evaluate
import sources

failures = []
n_passed = 0


def check(good, what):
    global n_passed
    if good:
        n_passed += 1
    else:
        failures.append(what)


def pool(path):
    """24 documents of three paragraphs; a sentence and its question share the name of a thing."""
    r = random.Random(1)
    with lzma.open(path, "wt", encoding="utf-8") as file:
        for i in range(24):
            paragraphs = []
            for _ in range(3):
                rows = []
                for _ in range(3):
                    thing, verb = articles.invent(r, 3), r.choice(["sorts", "prints", "removes", "moves"])
                    rows.append([f"The {thing} filter {verb} old messages on the server.",
                                 f"What does the {thing} filter do?", f"which filter is {thing}"])
                paragraphs.append(["Filters", rows])
            file.write(json.dumps({"held": i % 4 == 0, "paragraphs": paragraphs}) + "\n")
        file.write(json.dumps({"frequency": {"filter": 90, "server": 90, "messag": 90, "old": 90},
                               "synonyms": {"filter": ["sieve"]}, "surnames": ["Aaa", "Bbb"], "places": []}) + "\n")


def conversations(path):
    maker, numbers, n_absent = sources.Maker(path, 3), set(), 0
    for i in range(600):
        conversation = maker.conversation(i / 600)
        if conversation is None:
            continue
        first = conversation["turns"][0][0]
        passages = {int(number): text for number, text in
                    re.findall(r"^\[(\d)\] (.*?)(?=\n\n\[\d\] |\n\nQuestion: |\n\n[^\n]*\Z)", first, re.S | re.M)}
        for question, answer in conversation["turns"]:
            if answer == sources.NOT_FOUND:
                n_absent += 1
                continue
            found = re.fullmatch(r"(.+) \[(\d)\]", answer, re.S)
            check(found and found[1] in passages.get(int(found[2]), ""), f"{question} -> {answer} in {first}")
            numbers.add(found and int(found[2]))
    check(numbers >= {1, 2, 3, 4}, f"numbers cited: {numbers}")
    check(n_absent > 100, f"only {n_absent} questions without an answer")
    first = [sources.Maker(path, 5).conversation() for _ in range(2)]
    check(first[0] == first[1], "the same seed makes the same conversation")


def invented():
    r = random.Random(2)
    for _ in range(300):
        _, subject, rows, missing = articles.article(r)
        text = " ".join(sentence for sentence, _ in rows)
        check("{" not in text + " ".join(missing) and subject.split()[0].lower() in text.lower(), text)


def judged():
    for text, right, cited, refused, span in [
            ("It was built in 1890. [2]", 2, 2, False, True), ("It was built in\n1890 [1], not [3]", 1, 3, False, True),
            ("Not in the documents.", 1, 0, True, False), ("not in the documents [1]", 1, 0, True, False),
            ("In 1891.", 1, 0, False, False)]:
        got = evaluate.judge(text, ["in 1890"], right)
        check((got["cited"], got["refused"], got["span"]) == (cited, refused, span), f"{text}: {got}")
    figures = evaluate.report([evaluate.judge("x [1]", ["x"], 1), evaluate.judge("y [1]", ["x"], 2)],
                              [evaluate.judge(sources.NOT_FOUND, ["x"], 0)])
    check(figures["cites the right passage"] == 0.5 and figures["contains the answer"] == 0.5 and
          figures["says not in the documents, rightly"] == 1, f"{figures}")


def main():
    argparse.ArgumentParser(description=__doc__).parse_known_args()       # whatever the other programs here are given
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sources.jsonl.xz"
        pool(path)
        conversations(path)
    invented()
    judged()
    for failure in failures[:10]:
        print("failed:", failure)
    print(f"{n_passed} passed, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
