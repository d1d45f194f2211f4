"""The JSONTestSuite as request bodies: what is no JSON is refused, what is JSON is understood or refused by its shape;
never an internal error, and the server lives."""

import json

import pytest

from conftest import NAME, SHARED, assert_idle

SUITE = SHARED / "json/JSONTestSuite/test_parsing"
FILES = sorted(SUITE.glob("*.json"))
pytestmark = pytest.mark.skipif(not FILES, reason=f"{SUITE} is not here")


def good_error(status, data):
    error = json.loads(data)["error"]
    return status == 400 and error["code"] == 400 and error["type"] == "BadRequestError" and error["message"]


def of(kind):
    return [pytest.param(f.read_bytes(), id=f.stem) for f in FILES if f.name.startswith(kind)]


@pytest.mark.parametrize("body", of("n_"))
def test_not_json(server, body):
    for path in ("/v1/chat/completions", "/v1/completions", "/tokenize"):
        status, _, data = server.request("POST", path, body)
        assert good_error(status, data), (path, status, data[:300])


@pytest.mark.parametrize("body", of("y_") + of("i_"))
def test_json(server, body):
    status, _, data = server.request("POST", "/v1/completions", body)
    assert good_error(status, data), (status, data[:300])  # no file of the suite is a request
    # As the value of an unknown field it is ignored; as a prompt it is refused or understood.
    head = json.dumps({"model": NAME, "prompt": "a", "max_tokens": 1})[:-1].encode()
    status, _, data = server.request("POST", "/v1/completions", head + b', "unknown": ' + body + b"}")
    assert status == 200 or good_error(status, data), (status, data[:300])
    head = json.dumps({"model": NAME, "max_tokens": 1})[:-1].encode()
    status, _, data = server.request("POST", "/v1/completions", head + b', "prompt": ' + body + b"}")
    assert status == 200 or good_error(status, data), (status, data[:300])


@pytest.mark.parametrize("body", of("y_"))
def test_valid_json_in_an_unknown_field(server, body):
    head = json.dumps({"model": NAME, "prompt": "a", "max_tokens": 1})[:-1].encode()
    status, _, data = server.request("POST", "/v1/completions", head + b', "unknown": ' + body + b"}")
    assert status == 200, (status, data[:300])


def test_deep_nesting(server):
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        for depth in (1000, 100_000):
            body = b'{"model": "x", "messages": ' + opening * depth + b"1" + closing * depth + b"}"
            status, _, data = server.request("POST", "/v1/chat/completions", body)
            assert status in (400, 404), (status, data[:300])


def test_the_server_is_well(server):
    assert_idle(server)
