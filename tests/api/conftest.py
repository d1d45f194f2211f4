"""The server under test, clients for it, and the check of every answer against OpenAI's own specification.

Environment: TANDEM (the binary; build/release/tandem), TANDEM_MODEL (the checkpoint; weights/sample/small, else a golden
one), TANDEM_SLOW (a factor on every timeout, for sanitizer builds)."""

import http.client
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import tempfile
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SHARED = ROOT.parent / "shared/data"
BINARY = pathlib.Path(os.environ.get("TANDEM", ROOT / "build/release/tandem")).resolve()
SLOW = float(os.environ.get("TANDEM_SLOW", "1"))
RELEASE = "TANDEM_SLOW" not in os.environ and "release" in str(BINARY)
NAME = "tandem-test"


def default_model():
    if "TANDEM_MODEL" in os.environ:
        return pathlib.Path(os.environ["TANDEM_MODEL"]).resolve()
    sample = ROOT / "weights/sample/small"
    return sample if (sample / "config.json").exists() else ROOT / "tests/golden/qwen3-fp32"


MODEL = default_model()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """`tandem serve` on a free port; its output is kept in a file and shown when a test fails to start it. It serves one
    model, or those of a config: a dict, which becomes the --config file."""

    def __init__(self, *flags, model=MODEL, names=(NAME,), config=None):
        self.port = free_port()
        self.log = tempfile.NamedTemporaryFile("w+", prefix="tandem-", suffix=".log")
        self.config = tempfile.NamedTemporaryFile("w+", prefix="tandem-", suffix=".json")
        what = [model, "--served-model-name", *names] if config is None else ["--config", self.config.name]
        json.dump(config, self.config)
        self.config.flush()
        command = [BINARY, "serve", *what, "--host", "127.0.0.1", "--port", str(self.port), *flags]
        self.process = subprocess.Popen(
            [str(c) for c in command],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        deadline = time.monotonic() + 60 * SLOW
        while True:
            if self.process.poll() is not None:
                raise RuntimeError(f"tandem serve ended with {self.process.returncode}:\n{self.output()}")
            try:
                if self.request("GET", "/health", timeout=5)[0] == 200:
                    break
            except OSError:
                pass
            if time.monotonic() > deadline:
                self.process.kill()
                raise RuntimeError(f"tandem serve was not healthy after {60 * SLOW:.0f} s:\n{self.output()}")
            time.sleep(0.02)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def output(self):
        return pathlib.Path(self.log.name).read_text(errors="replace")[-20000:]

    def request(self, method, path, body=None, headers=None, timeout=None):
        """(status, headers, body): one request on a connection of its own, without any client library."""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout or 60 * SLOW)
        try:
            if body is not None and not isinstance(body, bytes):
                body = json.dumps(body).encode()
            kind = {"Content-Type": "application/json"} if body else {}
            c.request(method, path, body, kind | (headers or {}))
            r = c.getresponse()
            return r.status, dict(r.headers.items()), r.read()
        finally:
            c.close()

    def post(self, path, body, **kw):
        """(status, decoded JSON)."""
        status, _, data = self.request("POST", path, body, **kw)
        return status, json.loads(data)

    def metrics(self):
        return parse_metrics(self.request("GET", "/metrics")[2].decode())

    def rss(self):
        """Resident bytes."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024

    def stop(self, timeout=None):
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout or 60 * SLOW)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


def parse_metrics(text):
    """Prometheus' text format: {name: [(labels, value)]}; every sample must belong to a family with TYPE and HELP."""
    families, helped, samples = {}, set(), {}
    sample = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$")
    label = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name not in families, f"two TYPE lines for {name}"
            families[name] = kind
        elif line.startswith("# HELP "):
            helped.add(line.split(" ")[2])
        elif line and not line.startswith("#"):
            m = sample.match(line)
            assert m, f"not a sample: {line!r}"
            name, labels, value = m[1], m[2] or "", float(m[3])
            family = name
            for suffix in ("_bucket", "_sum", "_count"):
                if name.endswith(suffix) and families.get(name[: -len(suffix)]) == "histogram":
                    family = name[: -len(suffix)]
            assert family in families and family in helped, f"{name} has no TYPE or HELP"
            pairs = dict(label.findall(labels))
            assert label.sub("", labels) == "", f"bad labels: {line!r}"
            samples.setdefault(name, []).append((pairs, value))
    return samples


def metric(samples, name, **labels):
    """The sum of the samples of that name and these labels."""
    assert name in samples, f"/metrics has no {name}"
    return sum(v for pairs, v in samples[name] if labels.items() <= pairs.items())


def wait_until(condition, seconds, what):
    deadline = time.monotonic() + seconds * SLOW
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds * SLOW:.0f} s: {what}"
        time.sleep(0.05)


def assert_idle(server, seconds=20):
    """No request is running or waiting, and no KV block is held by one."""
    names = ["vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"]

    def values():
        m = server.metrics()
        return [metric(m, n) for n in names]

    wait_until(lambda: values() == [0, 0, 0], seconds, f"{names} are {values()}")


# ---- OpenAI's specification ------------------------------------------------------------------------------------------


class Specification:
    """Validates JSON against the named schema of openapi.json."""

    def __init__(self, path):
        import jsonschema

        self.make = jsonschema.Draft202012Validator
        self.components = self.translate(json.loads(path.read_text())["components"])
        # The specification gives completions' logprobs as numbers; the API itself answers null for an echoed prompt's
        # first token, and every client copes with that.
        logprobs = self.components["schemas"]["CreateCompletionResponse"]["properties"]["choices"]["items"]["properties"]
        fields = logprobs["logprobs"]["anyOf"][0]["properties"]
        for field in ("token_logprobs", "top_logprobs"):
            fields[field]["items"] = {"anyOf": [fields[field]["items"], {"type": "null"}]}
        self.validators = {}

    def translate(self, node):
        """OpenAPI 3.0's `nullable` is still used in the 3.1 file; JSON Schema does not know it."""
        if isinstance(node, list):
            return [self.translate(x) for x in node]
        if not isinstance(node, dict):
            return node
        node = {k: self.translate(v) for k, v in node.items()}
        if node.pop("nullable", False) is True:
            node = {"anyOf": [node, {"type": "null"}]}
        return node

    def check(self, value, schema):
        if schema not in self.validators:
            root = {"$ref": f"#/components/schemas/{schema}", "components": self.components}
            self.validators[schema] = self.make(root)
        errors = sorted(self.validators[schema].iter_errors(value), key=lambda e: list(map(str, e.path)))
        assert not errors, f"not a {schema}: " + "; ".join(f"{e.json_path}: {e.message}" for e in errors[:5])


class NoSpecification:
    def check(self, value, schema):
        pass


@pytest.fixture(scope="session")
def specification():
    path = SHARED / "openapi/openapi.json"
    return Specification(path) if path.exists() else NoSpecification()


# ---- servers and clients ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def server():
    s = Server("--max-model-len", "2048")
    yield s
    assert s.process.poll() is None, f"the server died with {s.process.returncode}:\n{s.output()}"
    assert s.stop() == 0, s.output()


@pytest.fixture
def start():
    """start(*flags): a server of the test's own, stopped afterwards."""
    servers = []

    def start(*flags, **kw):
        servers.append(Server(*flags, **kw))
        return servers[-1]

    yield start
    for s in servers:
        if s.process.poll() is None:
            s.process.kill()
            s.process.wait()


class Api:
    """The official client; every answer and every chunk is checked against the specification before a test sees it."""

    def __init__(self, server, specification, api_key="none"):
        import openai

        self.server, self.specification = server, specification
        self.client = openai.OpenAI(
            base_url=server.url + "/v1", api_key=api_key, max_retries=0, timeout=60 * SLOW
        )

    def checked(self, answer, schema):
        self.specification.check(answer.to_dict(mode="json"), schema)
        return answer

    def chat(self, messages, extra=None, **kw):
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        answer = self.client.chat.completions.create(
            model=kw.pop("model", NAME), messages=messages, extra_body=extra, **kw
        )
        if not kw.get("stream"):
            return self.checked(answer, "CreateChatCompletionResponse")
        return self.chunks(answer, "CreateChatCompletionStreamResponse")

    def complete(self, prompt, extra=None, **kw):
        answer = self.client.completions.create(model=kw.pop("model", NAME), prompt=prompt, extra_body=extra, **kw)
        if not kw.get("stream"):
            return self.checked(answer, "CreateCompletionResponse")
        return self.chunks(answer, "CreateCompletionResponse")

    def chunks(self, stream, schema):
        for chunk in stream:
            value = chunk.to_dict(mode="json")
            if schema == "CreateCompletionResponse":  # one schema for both: a chunk's last fields are null till the end
                for choice in value["choices"]:
                    if choice.get("finish_reason") is None:
                        choice["finish_reason"] = "stop"
                if value.get("usage", 0) is None:
                    del value["usage"]
            self.specification.check(value, schema)
            yield chunk

    def tokenize(self, prompt=None, **kw):
        body = {"model": NAME, **({"prompt": prompt} if prompt is not None else {}), **kw}
        status, answer = self.server.post("/tokenize", body)
        assert status == 200, answer
        assert answer["count"] == len(answer["tokens"])
        return answer

    def detokenize(self, tokens):
        status, answer = self.server.post("/detokenize", {"model": NAME, "tokens": tokens})
        assert status == 200, answer
        return answer["prompt"]


@pytest.fixture(scope="session")
def api(server, specification):
    return Api(server, specification)


@pytest.fixture(scope="session")
def letters(api):
    """Ids of single-letter tokens: with allowed_token_ids any model writes plain text, also an untrained one."""
    ids = []
    for c in "abcdefghijklmnopqrstuvwxyz ":
        ids += api.tokenize(c)["tokens"]
    assert len(ids) == 27
    return ids


@pytest.fixture(scope="session")
def eos():
    """The ids that end a generation, from the checkpoint."""
    for name in ("generation_config.json", "config.json"):
        path = MODEL / name
        value = json.loads(path.read_text()).get("eos_token_id") if path.exists() else None
        if value is not None:
            return value if isinstance(value, list) else [value]
    raise AssertionError(f"{MODEL} names no eos_token_id")


def text_of(chunks, index=0):
    """(text, finish_reason) of one choice of a stream."""
    text, reason = "", None
    for chunk in chunks:
        for choice in chunk.choices:
            if choice.index != index:
                continue
            assert reason is None, "a chunk after the one with finish_reason"
            piece = choice.delta.content if hasattr(choice, "delta") else choice.text
            text += piece or ""
            reason = choice.finish_reason
    return text, reason
