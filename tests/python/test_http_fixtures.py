#!/usr/bin/env python3
"""Sends llhttp's own test requests to a running http_echo and compares the verdicts.

    test_http_fixtures.py --server build/release/http_echo [--fixtures ../shared/data/http/llhttp]
    test_http_fixtures.py --address 127.0.0.1:8000

Each fixture is a Markdown section with a request and the parser's expected log. Where the log ends in an error, the
server must refuse: an answer of 400 or above, or a closed connection, and no handler call for that request. Where it
does not, every request that the log completes must reach the handler, with the body that the log shows. Each request is
sent whole, byte by byte and in random pieces. HTTP/1.1 requests without a Host header get one, since our server,
unlike a bare parser, demands it. Ends with "N passed, N failed" and exit code 1 if any failed. Skips with a sentence
where the shared data is missing.
"""

import argparse
import json
import random
import re
import select
import socket
import subprocess
import sys
import time
from pathlib import Path

SHARED = Path(__file__).resolve().parents[3] / "shared/data"

# Fixtures on which we differ from the library on purpose: what must happen instead, and why. A status here means "the
# first answer has this status and the connection closes"; "ok" means that the handler is called.
DIFFERENT = {
    "sample/No HTTP version": (400, "HTTP/0.9 is not spoken"),
    "method/REPORT request": (501, "WebDAV"),
    "method/CONNECT request": (501, "no proxy"),
    "method/CONNECT request with CAPS": (501, "no proxy"),
    "method/CONNECT with body": (501, "no proxy"),
    "uri/Underscore in hostname": (501, "CONNECT: no proxy"),
    "method/M-SEARCH request": (501, "UPnP"),
    "method/PURGE request": (501, "a cache's method"),
    "method/SEARCH request": (501, "WebDAV"),
    "method/LINK request": (501, "LINK and UNLINK are not served"),
    "method/SOURCE request": (501, "Icecast"),
    "method/SOURCE request with ICE": (400, "Icecast's protocol"),
    "method/OPTIONS request with RTSP": (400, "RTSP"),
    "method/ANNOUNCE request with RTSP": (400, "RTSP"),
    "method/QUERY request": (501, "not a method that we serve"),
    "uri/`host:port` and basic auth": (400, "RFC 9110, 4.2.4: userinfo in a target is an error"),
    "transfer-encoding/POST with `chunked` as last transfer-encoding": (501, "we decode no deflate bodies"),
    "transfer-encoding/POST with `chunked` as last transfer-encoding (multiple headers)": (501, "the same"),
    "connection/Multiple tokens with folding and LWS": ("ok", "an offered upgrade is ignored (RFC 9110, 7.8)"),
    "connection/Setting a flag and pausing": ("ok", "an offered upgrade is ignored"),
    "connection/Emitting part of body and pausing": ("ok", "an offered upgrade is ignored"),
    "connection/Upgrade GET request": ("ok", "an offered upgrade is ignored"),
    "connection/Upgrade POST request": ("ok", "an offered upgrade is ignored"),
    "connection/No restart when keep-alive is off (1.0)": ("ok", "what follows the last request is not read"),
    "connection/CRLF between requests, explicit `close`": ("ok", "what follows the last request is not read"),
    "connection/CRLF between requests, explicit `close` followed by tab": ("ok", "the same"),
}


class Fixture:
    def __init__(self, name, kind, meta, data, log):
        self.name, self.kind, self.meta, self.data, self.log = name, kind, meta, data, log
        self.error = any(" error code=" in line for line in log)
        self.n_complete = sum(line.endswith(" message complete") for line in log)

    def ending(self):
        """The library sees some errors inside a head that we judge at the head's end: what ends it."""
        last = max(i for i, line in enumerate(self.log) if line.endswith(" message begin"))
        in_head = not any(" headers complete" in line for line in self.log[last:])
        return b"\r\n\r\n" if self.error and in_head else b""

    def bodies(self):
        """The bodies of the completed requests, from the log's offsets."""
        bodies, body = [], b""
        for line in self.log:
            span = re.match(r"off=(\d+) len=(\d+) span\[body\]", line)
            if span:
                body += self.data[int(span[1]) : int(span[1]) + int(span[2])]
            elif line.endswith(" message begin"):
                body = b""
            elif line.endswith(" message complete"):
                bodies.append(body)
        return bodies

    def with_hosts(self):
        """The request with a Host header in each HTTP/1.1 head that has none; the log says where heads begin."""
        inserts, host_seen, at, version = [], True, 0, ""
        def close():
            if not host_seen and version == "1.1" and self.data[at : at + 2] == b"\r\n":
                inserts.append(at + 2)
        for line in self.log:
            if line.endswith(" message begin"):
                close()
                host_seen, version = False, ""
            span = re.match(r'off=(\d+) len=\d+ span\[(version|header_field)\]="(.*)"$', line)
            if span and span[2] == "version":
                version = span[3]
            elif span and span[3].lower() == "host":
                host_seen = True
            done = re.match(r"off=(\d+) version complete", line)
            if done:
                at = int(done[1])
            error = re.match(r"off=(\d+) error", line)
            if error and int(error[1]) <= at + 3:
                host_seen = True  # the error is the line after the request line: leave that alone
        close()
        data = self.data
        for where in reversed(inserts):
            data = data[:where] + b"Host: fixture\r\n" + data[where:]
        return data


def unescape(text):
    """The escapes of llhttp's fixtures, in the order in which its own runner applies them."""
    text = text.removesuffix("\n")
    text = re.sub(r"\\(\r\n|\r|\n)", "", text)
    text = re.sub(r"\r\n|\r|\n", "\r\n", text)
    for escape, char in (("\\r", "\r"), ("\\n", "\n"), ("\\t", "\t"), ("\\f", "\f")):
        text = text.replace(escape, char)
    text = re.sub(r"\\x([0-9a-fA-F]+)", lambda m: chr(int(m[1], 16)), text)
    text = re.sub(r"\\([0-7]{1,3})", lambda m: chr(int(m[1], 8)), text)
    return text.encode("utf-8")


def read_fixtures(folder):
    fixtures = []
    for path in sorted((folder / "test" / "request").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        parts = re.split(r"^#+ +(.*)$", text, flags=re.M)
        for title, section in zip(parts[1::2], parts[2::2]):
            request = re.search(r"^```http\n(.*?)^```", section, flags=re.M | re.S)
            log = re.search(r"^```log\n(.*?)^```", section, flags=re.M | re.S)
            meta = re.search(r"<!--\s*meta=(\{.*?\})\s*-->", section)
            if not (request and log and meta):
                continue
            meta = json.loads(meta[1])
            lines = log[1].replace("\\t", "\t").replace("\\f", "\f").splitlines()
            name = f"{path.stem}/{title.strip()}"
            fixtures.append(Fixture(name, meta["type"], meta, unescape(request[1]), lines))
    return fixtures


class Answers:
    """Answers to pipelined requests: [(status, headers, body)], and whether the server closed."""

    def __init__(self, received, closed):
        self.closed, self.all = closed, []
        while received:
            head, separator, rest = received.partition(b"\r\n\r\n")
            if not separator:
                raise ValueError(f"an unfinished answer: {received[:80]!r}")
            lines = head.decode("latin-1").split("\r\n")
            status = int(lines[0].split()[1])
            headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
            length = int(headers.get("content-length", 0))
            if status == 100 or headers.get("x-method") == "HEAD":
                length = 0
            body, received = rest[:length], rest[length:]
            if status != 100:
                self.all.append((status, headers, body))

    def handled(self):
        return [a for a in self.all if a[1].get("x-echo") or a[0] == 204]


def complete(received, head_only):
    """How many whole answers these bytes hold."""
    n = 0
    while True:
        head, separator, rest = received.partition(b"\r\n\r\n")
        if not separator:
            return n
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, flags=re.I)
        length = int(length[1]) if length and not head_only else 0
        if len(rest) < length:
            return n
        n, received = n + 1, rest[length:]


def exchange(address, pieces, n_expected, must_close, head_only, quiet_s, ending=b""):
    """Sends the pieces; reads until the server closes, or n_expected answers are there and nothing follows, unless the
    server must close. When nothing comes although something is expected, the ending is sent."""
    with socket.create_connection(address, timeout=5) as s:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        received, closed = b"", False
        try:
            for piece in pieces:
                s.sendall(piece)
        except (BrokenPipeError, ConnectionResetError):
            pass
        end = time.monotonic() + 15
        while time.monotonic() < end:
            enough = not must_close and complete(received, head_only) >= n_expected
            wait = quiet_s if ending or enough else max(0, end - time.monotonic())
            if not select.select([s], [], [], wait)[0]:
                if not ending:
                    break
                s.sendall(ending)
                ending = b""
                continue
            try:
                data = s.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                closed = True
                break
            received += data
        return Answers(received, closed)


def splittings(data, seed):
    yield "whole", [data]
    yield "byte by byte", [data[i : i + 1] for i in range(len(data))]
    chance = random.Random(seed)
    for n in range(3):
        cuts = sorted(chance.sample(range(1, len(data)), min(len(data) - 1, chance.randint(1, 6)))) if len(data) > 1 else []
        yield f"in {len(cuts) + 1} pieces", [data[a:b] for a, b in zip([0] + cuts, cuts + [len(data)])]


def judge(fixture, answers):
    """None, or what is wrong."""
    handled = answers.handled()
    statuses = [a[0] for a in answers.all]
    if fixture.name in DIFFERENT and fixture.kind == "request":
        expected, _ = DIFFERENT[fixture.name]
        if expected == "ok":
            return None if statuses[:1] == [200] else f"expected the handler's answer, found {statuses}"
        if statuses != [expected] or handled:
            return f"expected {expected} alone, found {statuses}"
        return None if answers.closed else "the connection stays open after a refusal"
    if fixture.error:
        # Requests before the bad one may have been answered; the bad one may not reach the handler.
        if len(handled) > fixture.n_complete:
            return f"the handler was called: {statuses}"
        if not answers.closed:
            return f"not refused: {statuses}"
        if statuses[len(handled) :] and statuses[-1] < 400:
            return f"expected a refusal, found {statuses}"
        return None
    if len(handled) != fixture.n_complete or len(handled) != len(statuses):
        return f"expected {fixture.n_complete} requests handled, found {statuses}"
    for answer, body in zip(handled, fixture.bodies()):
        if answer[1].get("x-echo") and answer[2] and answer[2].partition(b"\n")[2] != body:
            return f"expected the body {body!r}, found {answer[2]!r}"
    return None


def get(address, path):
    with socket.create_connection(address, timeout=5) as s:
        s.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        received = b""
        while True:
            data = s.recv(65536)
            if not data:
                return json.loads(received.partition(b"\r\n\r\n")[2])
            received += data


def no_connections_left(address):
    end = time.monotonic() + 10
    while time.monotonic() < end:
        stats = get(address, b"/stats")
        if stats["connections"] == 1:  # the one that asks
            return None
        time.sleep(0.05)
    return f"{stats['connections'] - 1} connections are left"


def run(address, fixtures, quiet_s):
    n_passed = n_failed = n_lenient = 0
    unused = set(DIFFERENT)
    for fixture in fixtures:
        # We are strict: nothing to compare in lenient modes but that nothing breaks. "skipBody" tells the parser to drop
        # a body that was announced, which no server does.
        lenient = "lenient" in fixture.kind or "skipBody" in fixture.meta
        unused.discard(fixture.name)
        n_lenient += lenient
        data = fixture.with_hosts()
        head_only = data.startswith(b"HEAD ")
        wrong = None
        for how, pieces in splittings(data, fixture.name):
            differs = DIFFERENT.get(fixture.name) if fixture.kind == "request" else None
            refused = differs[0] != "ok" if differs else fixture.error
            n_expected = 1 if fixture.error or fixture.name in DIFFERENT else fixture.n_complete
            try:
                answers = exchange(address, pieces, 0 if lenient else n_expected, refused and not lenient, head_only,
                                   quiet_s, b"" if lenient else fixture.ending())
                wrong = None if lenient else judge(fixture, answers)
            except (OSError, ValueError) as e:
                wrong = str(e)
            if wrong:
                wrong = f"{how}: {wrong}"
                break
        if wrong:
            n_failed += 1
            print(f"FAILED {fixture.name}: {wrong}")
        else:
            n_passed += 1
    wrong = no_connections_left(address)
    if wrong or unused:
        n_failed += 1
        print(f"FAILED {wrong or f'fixtures that do not exist: {sorted(unused)}'}")
    print(f"{len(fixtures)} fixtures, {n_lenient} of them for lenient modes (sent, verdict not compared)")
    for name, (expected, why) in DIFFERENT.items():
        print(f"  differs on purpose: {name}: {expected}, {why}")
    print(f"{n_passed} passed, {n_failed} failed")
    return n_failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", help="http_echo's path; started on a free port")
    parser.add_argument("--address", help="host:port of one that runs")
    parser.add_argument("--fixtures", type=Path, default=SHARED / "http/llhttp")
    parser.add_argument("--quiet-ms", type=int, default=15, help="silence after which no further answer is expected")
    options = parser.parse_args()
    if bool(options.server) == bool(options.address):
        parser.error("exactly one of --server and --address is expected")
    if options.fixtures.is_relative_to(SHARED) and not SHARED.exists():
        print(f"skipped: the shared data is not at {SHARED}")
        return 0
    fixtures = read_fixtures(options.fixtures)
    if not fixtures:
        print(f"no fixtures in {options.fixtures}", file=sys.stderr)
        return 1
    if options.address:
        host, _, port = options.address.rpartition(":")
        return run((host, int(port)), fixtures, options.quiet_ms / 1000) > 0
    server = subprocess.Popen([options.server, "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        port = int(server.stdout.readline().split()[-1])
        failed = run(("127.0.0.1", port), fixtures, options.quiet_ms / 1000)
    finally:
        server.terminate()
        code = server.wait(timeout=20)
    if code:
        print(f"the server ended with {code}")
    return 1 if failed or code else 0


if __name__ == "__main__":
    sys.exit(main())
