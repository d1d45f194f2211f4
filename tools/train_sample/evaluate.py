#!/usr/bin/env python3
"""Scores a model at answering from numbered sources: XQuAD English, three passages, greedy.

Every one of XQuAD's 240 paragraphs is shown with two others, drawn with a fixed seed from the other 239 and shuffled,
and each of its questions (1,190 in all) is asked in the scaffold of sources.py. Then each question is asked again with
three other paragraphs, so that the answer is not there. It prints
    - the share of answers whose last [k] is the right passage, and what the others did;
    - the share of answers that contain one of XQuAD's answer spans, letter case aside, and of those that do both;
    - the share of "not in the documents" where the passage is left out.
The questions of a paragraph share their passages, so a server with a prefix cache reads them once.

The data is looked for at ../shared/data/rag-eval/xquad beside the checkout. It is for evaluation only: nothing of it,
nor of SQuAD from which it comes, is in the training data.

Example:
    tools/train_sample/evaluate.py --model weights/sample/small
    tools/train_sample/evaluate.py --url http://127.0.0.1:8000 --limit 100
"""
import argparse
import concurrent.futures
import http.client
import json
import random
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path

import sources

ROOT = Path(__file__).resolve().parents[2]


def cases(path, n_passages, seed, same_article):
    """(passages, question, answers, number of the right passage or 0), right and left-out ones in two lists."""
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    paragraphs = [(i, p) for i, article in enumerate(articles) for p in article["paragraphs"]]
    r = random.Random(seed)
    there, absent = [], []
    for i, paragraph in paragraphs:
        others = [p["context"] for j, p in paragraphs if p is not paragraph and (j == i or not same_article)]
        with_it = [paragraph["context"]] + r.sample(others, n_passages - 1)
        r.shuffle(with_it)
        without = r.sample(others, n_passages)
        for qa in paragraph["qas"]:
            spans = [answer["text"] for answer in qa["answers"]]
            there.append((with_it, qa["question"], spans, with_it.index(paragraph["context"]) + 1))
            absent.append((without, qa["question"], spans, 0))
    return there, absent


local = threading.local()


def complete(url, key, model, passages, question, max_tokens):
    if getattr(local, "connection", None) is None:
        local.connection = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=600)
    body = {"model": model, "temperature": 0, "max_tokens": max_tokens, "messages": [
        {"role": "system", "content": sources.SYSTEM},
        {"role": "user", "content": sources.ask(passages, question)}]}
    headers = {"Content-Type": "application/json"} | ({"Authorization": "Bearer " + key} if key else {})
    try:
        local.connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = local.connection.getresponse()
        answer = json.loads(response.read())
    except (OSError, http.client.HTTPException):
        local.connection.close()
        local.connection = None
        raise
    if response.status != 200:
        raise RuntimeError(f"the server answered {response.status}: {answer}")
    return answer["choices"][0]["message"]["content"] or ""


def judge(text, spans, right):
    """What an answer did: cited (0: nothing), refused, holds the answer."""
    numbers = re.findall(r"\[(\d+)\]", text)
    refused = "not in the documents" in text.lower()
    plain = " ".join(text.lower().split())
    return {"cited": int(numbers[-1]) if numbers and not refused else 0, "refused": refused, "right": right,
            "span": any(" ".join(span.lower().split()) in plain for span in spans)}


def report(there, absent):
    def share(rows, test):
        return sum(map(test, rows)) / max(1, len(rows))

    return {
        "questions": len(there),
        "cites the right passage": share(there, lambda x: x["cited"] == x["right"]),
        "cites another passage": share(there, lambda x: x["cited"] not in (0, x["right"])),
        "says not in the documents, wrongly": share(there, lambda x: x["refused"]),
        "neither": share(there, lambda x: not x["cited"] and not x["refused"]),
        "contains the answer": share(there, lambda x: x["span"]),
        "contains the answer and cites the right passage": share(
            there, lambda x: x["span"] and x["cited"] == x["right"]),
        "questions without their passage": len(absent),
        "says not in the documents, rightly": share(absent, lambda x: x["refused"])}


def serve(tandem, model):
    """A server of our own on a free port: (process, url)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([str(tandem), "serve", str(model), "--port", str(port), "--disable-log-requests",
                                "--log-level", "warning"])
    for _ in range(600):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return process, f"http://127.0.0.1:{port}"
        except OSError:
            pass
        if process.poll() is not None:
            sys.exit(f"{tandem} serve {model} ended with {process.returncode}")
        time.sleep(0.2)
    process.terminate()
    sys.exit(f"{tandem} serve {model} is not healthy after 120 s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--url", help="a running server")
    where.add_argument("--model", help="a model folder: a server is started for it")
    parser.add_argument("--tandem", type=Path, default=ROOT / "build/release/tandem",
                        help="the program for --model (default build/release/tandem)")
    parser.add_argument("--api-key", help="of the server at --url")
    parser.add_argument("--data", type=Path, default=ROOT / "../shared/data/rag-eval/xquad/xquad.en.json",
                        help="XQuAD's file (default ../shared/data/rag-eval/xquad/xquad.en.json beside the checkout)")
    parser.add_argument("--passages", type=int, default=3, help="passages shown (default %(default)s)")
    parser.add_argument("--same-article", action="store_true",
                        help="the other passages from the right one's article: harder, and some of them also answer")
    parser.add_argument("--limit", type=int, help="only so many questions, spread over the set")
    parser.add_argument("--in-flight", type=int, default=32, help="requests at a time (default %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=120, help="longest answer (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the passages' choice and order (default %(default)s)")
    parser.add_argument("--show", type=int, default=0, help="print so many questions with their answers")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    a = parser.parse_args()
    if not a.data.is_file():
        print(f"skipped: there is no {a.data}")
        return 0
    sets = cases(a.data, a.passages, a.seed, a.same_article)
    if a.limit:
        step = max(1, len(sets[0]) // a.limit)
        sets = [rows[::step][:a.limit] for rows in sets]
    process = None
    if a.model:
        process, a.url = serve(a.tandem, a.model)
    try:
        url = urllib.parse.urlsplit(a.url)
        if url.scheme != "http" or not url.hostname:
            parser.error("--url must be http://HOST:PORT")
        connection = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=60)
        connection.request("GET", "/v1/models", headers={"Authorization": "Bearer " + a.api_key} if a.api_key else {})
        model = json.loads(connection.getresponse().read())["data"][0]["id"]
        rows = sets[0] + sets[1]
        begin, done, texts = time.time(), 0, []
        with concurrent.futures.ThreadPoolExecutor(a.in_flight) as pool:
            for text in pool.map(lambda row: complete(url, a.api_key, model, row[0], row[1], a.max_tokens), rows):
                texts.append(text)
                done += 1
                if sys.stderr.isatty() and done % 10 == 0:
                    print(f"\r{done} of {len(rows)}", end="", file=sys.stderr, flush=True)
        if sys.stderr.isatty():
            print("\r", end="", file=sys.stderr)
    finally:
        if process:
            process.terminate()
            process.wait()
    for (_, question, spans, right), text in list(zip(rows, texts))[::max(1, len(rows) // max(1, a.show))][:a.show]:
        print(f"{question}   [{right}] {spans[0] if right else 'left out'}\n    {text}")
    judged = [judge(text, row[2], row[3]) for row, text in zip(rows, texts)]
    figures = report(judged[:len(sets[0])], judged[len(sets[0]):])
    if a.json:
        print(json.dumps(figures | {"model": model, "passages": a.passages, "seed": a.seed,
                                    "seconds": time.time() - begin}, indent=2))
        return 0
    print(f"{model} on XQuAD English, {a.passages} passages, greedy, seed {a.seed}: {time.time() - begin:.0f} s")
    for name, value in figures.items():
        print(f"  {name:50} {value if isinstance(value, int) else f'{100 * value:.1f} %'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
