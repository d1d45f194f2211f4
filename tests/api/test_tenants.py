"""A file of API keys: each key belongs to a tenant, and tenants share no cached prefixes."""

import hashlib
import subprocess

import openai
import pytest

from conftest import BINARY, Api

PROMPT = "The licence says what may be done with the work, and under which conditions. " * 4


@pytest.fixture
def keys(tmp_path):
    path = tmp_path / "keys"
    lines = ["# made for a test"] + [f"{hashlib.sha256(k.encode()).hexdigest()} {t}" for k, t in
                                     (("alice-1", "alice"), ("alice-2", "alice"), ("bob-1", "bob"))]  # fmt: skip
    path.write_text("\n".join(lines) + "\n")
    return path


def test_tenants(start, specification, keys):
    server = start("--api-key-file", keys)

    def cached(key):
        answer = Api(server, specification, api_key=key).complete(PROMPT, max_tokens=2, temperature=0)
        return answer.usage.prompt_tokens_details.cached_tokens

    assert cached("alice-1") == 0
    assert cached("alice-1") > 0
    assert cached("alice-2") > 0, "two keys of one tenant share its cache"
    assert cached("bob-1") == 0, "a tenant can tell what another one asked"
    for key in ("carol-1", "alice", hashlib.sha256(b"alice-1").hexdigest()):
        with pytest.raises(openai.AuthenticationError):
            cached(key)
    assert "alice-1" not in server.output() and "bob-1" not in server.output(), "a key stands in the log"


def test_tandem_key(start, specification, tmp_path):
    """`tandem key` makes a key and its line for the file."""
    p = subprocess.run([str(BINARY), "key", "dora"], capture_output=True, text=True, check=True)
    path = tmp_path / "keys"
    path.write_text(p.stdout)
    key = p.stderr.split()[-1]
    assert key.startswith("sk-") and key not in p.stdout
    server = start("--api-key-file", path)
    assert Api(server, specification, api_key=key).complete("a", max_tokens=1).usage.total_tokens > 0


def test_bad_key_file(tmp_path):
    path = tmp_path / "keys"
    path.write_text("# fine\nnot-a-hash alice\n")
    with pytest.raises(RuntimeError) as e:
        from conftest import Server

        Server("--api-key-file", path)
    assert "ended with 1" in str(e.value) and "2" in str(e.value)
