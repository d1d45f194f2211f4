"""Clients that leave, do not read, or say nothing: afterwards nothing is held, and meanwhile others are served."""

import asyncio
import json
import random
import resource
import socket
import time

import pytest

from conftest import NAME, SLOW, Server, assert_idle, metric

MIB = 1 << 20


@pytest.fixture(scope="module")
def server():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard < 65536 else 65536, hard))
    s = Server("--max-model-len", "2048", "--max-num-seqs", "128", "--max-write-buffer", "64K")
    yield s
    assert s.process.poll() is None, f"the server died with {s.process.returncode}:\n{s.output()}"
    assert s.stop() == 0, s.output()


def request_bytes(**fields):
    body = {"model": NAME, "prompt": "Once upon a time", "max_tokens": 400, "ignore_eos": True, "stream": True, **fields}
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
    return head.encode() + b"\r\n\r\n" + data


def served(server):
    """A normal request is served; how long it took."""
    start = time.monotonic()
    status, answer = server.post("/v1/completions", {"model": NAME, "prompt": "a", "max_tokens": 4, "ignore_eos": True})
    assert status == 200 and answer["usage"]["completion_tokens"] == 4, answer
    return time.monotonic() - start


async def in_thread(function, *args):
    return await asyncio.get_running_loop().run_in_executor(None, function, *args)


def crowd(server, rng):
    """Two hundred clients that leave; how long a normal request took meanwhile."""

    async def leaver(i):
        await asyncio.sleep(rng.random() * 2)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        data = request_bytes(n=rng.choice([1, 1, 2]), prompt="Once upon a time " * rng.randrange(1, 60), seed=i)
        if rng.random() < 0.15:
            data = data[: rng.randrange(len(data))]
        writer.write(data)
        try:
            async with asyncio.timeout(rng.random() * 0.5):
                for _ in range(rng.randrange(0, 20)):
                    await reader.readuntil(b"\n\n")
        except (TimeoutError, asyncio.IncompleteReadError):
            pass
        if rng.random() < 0.5:  # RST instead of FIN
            s = writer.get_extra_info("socket")
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.close()

    async def scenario():
        leavers = [asyncio.create_task(leaver(i)) for i in range(200)]
        await asyncio.sleep(0.5)
        took = await in_thread(served, server)
        await asyncio.gather(*leavers)
        return took

    took = asyncio.run(scenario())
    assert_idle(server)
    return took


def test_clients_that_leave(start):
    """Two hundred leave at random moments: in the request, before the first token, mid-stream, with a reset.

    The pool is small: memory of KV blocks is the system's until they are first used, so a large pool grows crowd by
    crowd, the more the faster the processor is, and would be taken for what a crowd leaves behind."""
    server = start("--num-gpu-blocks-override", "512")
    rng = random.Random(1)
    served(server)
    rss = None
    for round in range(3):
        took = crowd(server, rng)
        rss = rss or server.rss()
        print(f"round {round}: a normal request took {took:.2f} s meanwhile; {server.rss() / MIB:.0f} MiB resident")
    assert server.rss() < rss + 32 * MIB, "every crowd leaves memory behind"
    served(server)


def test_slow_readers(start):
    """Sixty-four ask for a long stream and then read nothing, or a little: the server keeps its memory bounded and
    serves others; who reads too slowly is cut off, and that frees everything. The pool is small and a crowd comes first,
    so that KV blocks that are used for the first time are not taken for buffers."""
    server = start("--num-gpu-blocks-override", "640")
    crowd(server, random.Random(1))
    before = server.rss()
    sockets = []
    data = request_bytes(max_tokens=1000, logprobs=5)
    for _ in range(64):
        s = socket.create_connection(("127.0.0.1", server.port))
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.sendall(data)
        sockets.append(s)
    times = []
    for _ in range(5):
        time.sleep(0.3)
        times.append(served(server))
        for s in sockets[::2]:
            s.setblocking(False)
            try:
                s.recv(512)
            except BlockingIOError:
                pass
    grown = server.rss() - before
    print(f"a normal request took {max(times):.2f} s beside 64 slow readers; {grown / MIB:.0f} MiB more resident")
    assert grown < 64 * MIB
    # All are cut off, or done with what the kernel and the server keep for them, while they hold their connections.
    assert_idle(server, 120)
    for s in sockets:
        s.close()
    assert_idle(server)
    served(server)


def test_idle_connections(server):
    """A thousand connections that say nothing, or half a request."""
    served(server)
    before = server.rss()
    sockets = []
    for i in range(1000):
        s = socket.create_connection(("127.0.0.1", server.port))
        if i % 2:
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: t\r\n")
        sockets.append(s)
    times = [served(server) for _ in range(5)]
    grown = server.rss() - before
    print(f"a normal request took {max(times):.2f} s beside 1,000 idle connections; {grown / MIB:.0f} MiB more resident")
    assert grown < 100 * MIB
    for s in sockets:
        s.close()
    assert_idle(server)
    served(server)


def test_slowloris_is_ended(server):
    """Headers that never end are answered with 408 or closed, not waited for."""
    s = socket.create_connection(("127.0.0.1", server.port))
    s.settimeout(60 * SLOW)
    s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nX: ")
    start = time.monotonic()
    answer = s.recv(4096)
    assert answer == b"" or b" 408 " in answer.split(b"\r\n")[0]
    assert time.monotonic() - start < 30 * SLOW


GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
    b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 50_000 + b"\r\n",
    b"\0" * 10_000,
]


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage(server, data):
    s = socket.create_connection(("127.0.0.1", server.port))
    s.settimeout(20 * SLOW)
    try:
        s.sendall(data)
        answer = s.recv(4096)
        assert answer == b"" or answer.split(b" ")[1][:1] == b"4" or b" 505 " in answer, answer[:200]
    except ConnectionError:
        pass
    s.close()
    assert server.request("GET", "/health")[0] == 200


def test_chunked_and_pipelined_requests(server):
    body = json.dumps({"model": NAME, "prompt": "a", "max_tokens": 1}).encode()
    one = b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n"
    one += b"".join(b"%x\r\n%c\r\n" % (1, c) for c in body) + b"0\r\n\r\n"
    s = socket.create_connection(("127.0.0.1", server.port))
    s.settimeout(30 * SLOW)
    s.sendall(one * 3 + b"GET /health HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
    answer = b""
    while piece := s.recv(1 << 16):
        answer += piece
    assert answer.count(b"HTTP/1.1 200 ") == 4, answer


def test_nothing_is_left(server):
    assert_idle(server)
    m = server.metrics()
    assert metric(m, "vllm:num_requests_running") == 0
    status, _, data = server.request("GET", "/load")
    assert status == 200 and json.loads(data)["server_load"] == 0
