#!/usr/bin/env python3
"""Misbehaves towards http_echo in many ways at once and checks that it stays healthy.

    test_http_abuse.py --server build/release/http_echo [--seed N]

After each kind of abuse: no connection, no live stream and no queued byte is left, and memory is back within a bound.
While it lasts: an ordinary client is served within --latency-s. Ends with "N passed, N failed".
"""

import argparse
import json
import random
import resource
import select
import socket
import struct
import subprocess
import sys
import threading
import time

GET = "GET {} HTTP/1.1\r\nHost: a\r\n\r\n"
MAX_WRITE_BUFFER = 262144
OPTIONS = {
    "max_connections": 3000,
    "max_write_buffer": MAX_WRITE_BUFFER,
    "header_timeout_ms": 1000,
    "body_timeout_ms": 1000,
    "idle_timeout_ms": 20000,
    "write_timeout_ms": 1500,
}


class Server:
    def __init__(self, binary):
        arguments = [binary, "--port", "0"]
        for name, value in OPTIONS.items():
            arguments += [f"--{name}", str(value)]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        self.address = ("127.0.0.1", int(self.process.stdout.readline().split()[-1]))

    def connect(self, receive_buffer=None):
        s = socket.socket()
        if receive_buffer:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        s.settimeout(10)
        s.connect(self.address)
        return s

    def stats(self):
        with self.connect() as s:
            s.sendall(b"GET /stats HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            received = b""
            while data := s.recv(65536):
                received += data
        return json.loads(received.partition(b"\r\n\r\n")[2])

    def until(self, condition, timeout_s=15.0):
        """The first stats that meet the condition, or the last ones."""
        end = time.monotonic() + timeout_s
        while True:
            stats = self.stats()
            if condition(stats) or time.monotonic() > end:
                return stats
            time.sleep(0.05)

    def quiet(self):
        """What is left after everybody went; the connection that asks is the only one."""
        done = lambda s: s["connections"] == 1 and s["live"] == 0 and s["queued_bytes"] == 0
        stats = self.until(done)
        assert done(stats), f"left behind: {stats}"
        return stats


class OrdinaryClient(threading.Thread):
    """Asks on one keep-alive connection every few milliseconds; remembers the slowest answer."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.slowest_s, self.n, self.failure, self.stopping = server, 0.0, 0, None, False
        self.start()

    def run(self):
        try:
            with self.server.connect() as s:
                while not (self.stopping and self.n):  # at least one
                    before = time.monotonic()
                    s.sendall(b"POST /ordinary HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello")
                    received = b""
                    while not received.endswith(b"hello"):
                        data = s.recv(65536)
                        assert data, "the ordinary client was disconnected"
                        received += data
                    self.slowest_s = max(self.slowest_s, time.monotonic() - before)
                    self.n += 1
                    time.sleep(0.005)
        except (OSError, AssertionError) as e:
            self.failure = e

    def stop(self, bound_s):
        self.stopping = True
        self.join(timeout=30)
        assert not self.failure, self.failure
        assert self.n > 0 and self.slowest_s < bound_s, f"slowest of {self.n} answers: {self.slowest_s:.3f} s"
        return f"{self.n} ordinary requests, slowest {self.slowest_s * 1000:.0f} ms"


def readable(s, timeout_ms=0):
    poll = select.poll()  # select.select ends at descriptor 1023
    poll.register(s, select.POLLIN)
    return bool(poll.poll(timeout_ms))


def reset(s):
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def idle_connections(server, chance):
    """1,000 connections that have been served once and keep silent."""
    before = server.stats()["resident_bytes"]
    clients = [server.connect() for _ in range(1000)]
    for s in clients:
        s.sendall(GET.format("/x").encode())
    for s in clients:
        assert s.recv(65536).startswith(b"HTTP/1.1 200 ")
    stats = server.stats()
    assert stats["connections"] >= 1001, stats
    each = (stats["resident_bytes"] - before) / 1000
    for s in clients:
        reset(s) if chance.random() < 0.5 else s.close()
    assert server.sanitized or each < 4096, f"{each:.0f} bytes for each idle connection"
    return f"{each:.0f} bytes each"


def slow_readers(server, chance):
    """64 clients ask for endless streams and read nothing: each is cut off at the buffer's bound."""
    clients = [server.connect(receive_buffer=4096) for _ in range(64)]
    aborts = server.stats()["aborts"]
    for s in clients:
        s.sendall(GET.format("/flood?count=1000000&bytes=2000").encode())
    most = 0
    def over(stats):
        nonlocal most
        most = max(most, stats["queued_bytes"])
        return stats["aborts"] - aborts >= 64
    stats = server.until(over, 60)
    assert stats["aborts"] - aborts == 64, f"{stats['aborts'] - aborts} of 64 were cut off"
    assert most <= 64 * (MAX_WRITE_BUFFER + 4096), f"{most} bytes were queued"
    for s in clients:
        s.close()
    return f"at most {most >> 10} KiB queued"


def stuck_readers(server, chance):
    """64 clients ask for one large answer and read nothing: each is cut off after the write timeout. One more reads
    slowly and must get all of it."""
    before = server.stats()["done_aborted"]
    clients = [server.connect(receive_buffer=4096) for _ in range(64)]
    for s in clients:
        s.sendall(GET.format("/large?bytes=1000000").encode())
    slow = server.connect(receive_buffer=65536)
    slow.sendall(GET.format("/large?bytes=6000000").encode())
    received, end = 0, time.monotonic() + 30
    while received < 6000000 and time.monotonic() < end:
        data = slow.recv(30000)
        assert data, f"the slow reader was cut off after {received} bytes"
        received += len(data)
        time.sleep(0.01)
    slow.close()
    stats = server.until(lambda s: s["done_aborted"] - before >= 64)
    for s in clients:
        s.close()
    assert stats["done_aborted"] - before == 64, f"{stats['done_aborted'] - before} of 64 were cut off"
    return "the slow one got all"


def leaving_clients(server, chance):
    """200 clients leave at random moments in random ways."""
    requests = [
        GET.format("/slow?count=1000&ms=1&bytes=50"),
        GET.format("/flood?count=2000&bytes=500"),
        GET.format("/hold"),
        GET.format("/large?bytes=3000000"),
        "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + "x" * 50000,
        "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "GET /x HTTP/1.1\r\nHos",
        GET.format("/1") + GET.format("/2") + GET.format("/hold") + GET.format("/3"),
        "nonsense\r\n\r\n",
    ]
    leaving = []
    for _ in range(200):
        s = server.connect()
        s.sendall(chance.choice(requests).encode())
        leaving.append((time.monotonic() + chance.expovariate(20), s))
    for when, s in sorted(leaving, key=lambda pair: pair[0]):
        time.sleep(max(0, when - time.monotonic()))
        how = chance.randrange(4)
        try:
            if how == 0:
                s.close()
            elif how == 1:
                reset(s)
            elif how == 2:
                s.shutdown(socket.SHUT_WR)
                s.close()
            else:
                s.recv(100) if readable(s, 10) else None
                reset(s)
        except OSError:  # the server closed first
            s.close()
    return None


def half_closers(server, chance):
    """Clients that shut their sending side down and wait: live streams end at once, by our choice."""
    clients = [server.connect() for _ in range(50)]
    for s in clients:
        s.sendall(GET.format("/slow?count=100000&ms=5").encode())
    for s in clients:
        assert s.recv(100)
        s.shutdown(socket.SHUT_WR)
    before = time.monotonic()
    for s in clients:
        while s.recv(65536):
            pass
        s.close()
    took = time.monotonic() - before
    assert took < 30, f"took {took:.1f} s"  # to their end the streams would take 500 s
    return None


def dripping_clients(server, chance):
    """200 clients send a header byte by byte, for ever: each gets 408."""
    clients = [server.connect() for _ in range(200)]
    begin, n_refused = time.monotonic(), 0
    while clients and time.monotonic() - begin < 10:
        for s in list(clients):
            try:
                if readable(s):
                    data = s.recv(4096)
                    n_refused += data.startswith(b"HTTP/1.1 408 ")
                    clients.remove(s)
                    s.close()
                else:
                    s.sendall(b"G" if time.monotonic() == begin else b"E")
            except OSError:
                clients.remove(s)
        time.sleep(0.05)
    assert not clients, f"{len(clients)} still drip"
    assert n_refused >= 190, f"{n_refused} of 200 were told"
    return f"{time.monotonic() - begin:.1f} s"


def pipeliners(server, chance):
    """20 clients pipeline without pause and never read: the server stops reading and cuts them off."""
    before = server.stats()["resident_bytes"]
    clients = [server.connect(receive_buffer=4096) for _ in range(20)]
    for s in clients:
        s.setblocking(False)
    block, most, end = (GET.format("/large?bytes=20000") * 200).encode(), 0, time.monotonic() + 3
    while time.monotonic() < end:
        for s in list(clients):
            try:
                s.send(block)
            except BlockingIOError:
                pass
            except OSError:
                s.close()
                clients.remove(s)
        most = max(most, server.stats()["resident_bytes"])
        time.sleep(0.01)
    n_cut = 20 - len(clients)
    for s in clients:
        s.close()
    assert server.sanitized or most - before < 20 << 20, f"{(most - before) >> 20} MiB more"
    return f"{n_cut} of 20 cut off meanwhile, {(most - before) >> 10} KiB more"


def too_many(server, chance):
    """More connections than allowed: those above get 503 or are closed; those below still work."""
    clients = []
    for _ in range(OPTIONS["max_connections"] + 100):
        clients.append(server.connect())
    n_refused = n_open = 0
    end = time.monotonic() + 15
    while sum(map(readable, clients)) < 100 and time.monotonic() < end:
        time.sleep(0.05)
    for s in clients:
        if not readable(s):
            n_open += 1
            continue
        try:
            data = s.recv(4096)
        except ConnectionResetError:
            data = b""
        n_refused += data == b"" or data.startswith(b"HTTP/1.1 503 ")
    for s in clients:
        s.close()
    assert n_open <= OPTIONS["max_connections"] and n_open + n_refused == len(clients), (n_open, n_refused)
    assert n_refused >= 100, n_refused
    return f"{n_open} open, {n_refused} refused"


def random_bytes(server, chance):
    """300 connections of noise, some of it after a good beginning."""
    for _ in range(300):
        with server.connect() as s:
            good = chance.choice(["", "GET / HTTP/1.1\r\n", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"])
            try:
                s.sendall(good.encode() + chance.randbytes(chance.randrange(1, 3000)))
                s.shutdown(socket.SHUT_WR)
                while s.recv(65536):
                    pass
            except ConnectionResetError:
                pass
    return None


def run(server, seed, latency_s):
    kinds = [idle_connections, slow_readers, stuck_readers, leaving_clients, half_closers, dripping_clients, pipeliners,
             too_many, random_bytes]
    n_passed = n_failed = 0
    resident = []
    for round_id in range(2):
        for kind in kinds:
            chance = random.Random(f"{seed} {round_id} {kind.__name__}")
            ordinary = None if kind is too_many else OrdinaryClient(server)
            begin = time.monotonic()
            try:
                try:
                    told = kind(server, chance)
                finally:
                    served = ordinary.stop(latency_s) if ordinary else None
                server.quiet()
                n_passed += 1
                told = "; ".join(t for t in (told, served) if t)
                print(f"ok     {kind.__name__} {time.monotonic() - begin:.1f} s: {told}")
            except (AssertionError, OSError) as e:
                n_failed += 1
                print(f"FAILED {kind.__name__}: {e!r}")
        resident.append(server.quiet()["resident_bytes"])
    # The allocator keeps what the first round's peak needed; a second round like it must not need more.
    growth = resident[1] - resident[0]
    if server.sanitized or growth < 2 << 20:
        n_passed += 1
        print(f"ok     resident {resident[0] >> 10} KiB after the first round, {growth >> 10} KiB more after the second")
    else:
        n_failed += 1
        print(f"FAILED resident memory grew by {growth >> 10} KiB in the second round")
    print(f"{n_passed} passed, {n_failed} failed")
    return n_failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", required=True, help="http_echo's path")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--latency-s", type=float, default=5.0, help="bound for an ordinary request's answer meanwhile")
    parser.add_argument("--sanitized", action="store_true", help="a sanitizer build: memory is not compared")
    options = parser.parse_args()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPTIONS["max_connections"] + 500
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, wanted), hard))
    server = Server(options.server)
    server.sanitized = options.sanitized
    try:
        failed = run(server, options.seed, options.latency_s)
    finally:
        server.process.terminate()
        code = server.process.wait(timeout=30)
    if code:
        print(f"the server ended with {code}")
    return 1 if failed or code else 0


if __name__ == "__main__":
    sys.exit(main())
