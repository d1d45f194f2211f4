"""SIGTERM and SIGINT drain: what runs is finished, what is new is refused, the exit code is 0."""

import json
import signal
import socket
import subprocess
import time

import pytest

from conftest import BINARY, MODEL, NAME, ROOT, SLOW, wait_until


def stream(server, n):
    s = socket.create_connection(("127.0.0.1", server.port))
    s.settimeout(60 * SLOW)
    body = {"model": NAME, "prompt": "Once", "max_tokens": n, "ignore_eos": True, "stream": True}
    body["stream_options"] = {"include_usage": True}
    data = json.dumps(body).encode()
    s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
    return s


def rest(s, so_far=b""):
    while piece := s.recv(1 << 16):
        so_far += piece
    return so_far


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_drain(start, number):
    server = start()
    s = stream(server, 1000)
    first = s.recv(4096)
    idle = socket.create_connection(("127.0.0.1", server.port))
    server.process.send_signal(number)

    def refuses():  # when the signal is noticed depends on the machine's load
        try:
            status, _, _ = server.request("POST", "/v1/completions", {"model": NAME, "prompt": "a", "max_tokens": 1})
            assert status in (200, 503)
            return status == 503
        except ConnectionError:
            return True

    wait_until(refuses, 20, f"signal {number} changed nothing")
    whole = rest(s, first)
    assert b"data: [DONE]" in whole and b'"completion_tokens":1000' in whole, whole[-800:]
    assert server.process.wait(30 * SLOW) == 0, server.output()
    idle.close()


def test_a_second_signal_ends_at_once(start):
    server = start()
    s = stream(server, 2000)
    s.recv(4096)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.05 * SLOW)
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(10 * SLOW)
    s.close()


def test_idle_server_stops_at_once(start):
    server = start()
    t = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - t < 5 * SLOW


def run(*args):
    return subprocess.run(
        [str(BINARY), *map(str, args)], cwd=ROOT, capture_output=True, text=True, timeout=60 * SLOW, stdin=subprocess.DEVNULL
    )


def test_port_in_use(start):
    server = start()
    p = run("serve", MODEL, "--host", "127.0.0.1", "--port", server.port)
    assert p.returncode == 1 and str(server.port) in p.stderr and "in use" in p.stderr


def test_wrong_usage():
    for args in (["serve"], ["serve", MODEL, "--no-such-flag"], ["serve", MODEL, "--port", "x"], ["fly"]):
        p = run(*args)
        assert p.returncode == 2 and p.stderr, (args, p)
    p = run("serve", ROOT / "no/such/model")
    assert p.returncode == 1 and "no/such/model" in p.stderr, p
    p = run("serve", "--help")
    assert p.returncode == 0 and "--max-model-len" in p.stdout
