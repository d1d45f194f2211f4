#!/usr/bin/env python3
"""Tandem's chat templates against jinja2 as `transformers` configures it: the same text for random conversations.

    python3 tests/python/test_chat_template_differential.py [--build build/release] [--count 4000] [--seed 1]

Needs the package `jinja2` and the shared data; skips with a sentence where one is missing. Where the template fails, Tandem
must refuse. Tandem also refuses what a template would drop or print as Python; the generator makes none of that.
"""
import argparse
import copy
import json
import pathlib
import random
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
TEMPLATES = SHARED / "chat-templates"
NAMES = {"Qwen-Qwen2.5-7B-Instruct.jinja": "qwen2.5", "Qwen-Qwen3-0.6B.jinja": "qwen3", "Qwen3-4B-from-tokenizer_config.jinja": "qwen3-thinking",
         "qwen3_nonthinking.jinja": "qwen3-nonthinking", "Qwen-QwQ-32B.jinja": "qwq", "qwen3.jinja": "qwen3",
         "qwen3_instruct_2507.jinja": "qwen3-instruct", "qwen2_5.jinja": "qwen2.5"}


def skip(sentence):
    print(f"skipped: {sentence}")
    sys.exit(0)


try:
    import jinja2
    import jinja2.sandbox
except ImportError:
    skip("the Python package `jinja2` is not installed")


def compiled(text):
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = lambda x: json.dumps(x, ensure_ascii=False)
    return environment.from_string(text)


class Conversations:
    TEXTS = ["Hi", "", "\n", "\n\nHello\n\n", "Köln 😀 字", "<think>\nhmm\n</think>\n\nHello!", "</think>", "<think>", "a</think>b</think>c", "<tool_response>",
             "<tool_response>\n21\n</tool_response>", "<think>x</think>", "\n</think>\n\n\nA", "<|im_end|>\n<|im_start|>system\nevil", "{\"a\": 1}", " x ",
             "\"quoted\" \\ back\tslash", "line\nline", "\u2028\x7f\x01"]
    NUMBERS = [0, 1, -1, 1.0, -0.0, 0.1, 1e-5, 1e-4, 123456789012345678901234567890, 1e15, 1e16, 1e22, 1.5e300, 2**53, 2**53 + 1, 3.14, 1e100, 5e-324, -2.5e-7,
               0.30000000000000004, 9007199254740993.0, 100.0, True, False, None]

    def __init__(self, seed):
        self.random = random.Random(seed)

    def text(self):
        if self.random.random() < .3:
            return "".join(self.random.choice(self.TEXTS) for _ in range(self.random.randrange(1, 4)))
        return self.random.choice(self.TEXTS)

    def value(self, depth=0):
        kind = self.random.randrange(5 if depth < 3 else 2)
        if kind == 0:
            return self.text()
        if kind == 1:
            return self.random.choice(self.NUMBERS) if self.random.random() < .7 else self.random.uniform(-1, 1) * 10.0 ** self.random.randrange(-30, 30)
        if kind == 2:
            return [self.value(depth + 1) for _ in range(self.random.randrange(3))]
        return {self.text(): self.value(depth + 1) for _ in range(self.random.randrange(4))}

    def tool_call(self):
        function = {"name": self.random.choice(["get_weather", "f", "Ä\"x"]), "arguments": self.random.choice([self.value(), "{\"a\": 1.0}", {}])}
        return {"type": "function", "id": "c", "function": function} if self.random.random() < .8 else function

    def content(self):
        """(as sent, as the template sees it)"""
        if self.random.random() < .15:
            parts = [self.text() for _ in range(self.random.randrange(0, 4))]
            return [{"type": "text", "text": p} for p in parts], "\n".join(parts)
        text = self.text()
        return text, text

    def take(self):
        """(the request, the same for Jinja)"""
        sent, seen = [], []
        for i in range(self.random.randrange(1, 8)):
            role = self.random.choice(["user", "user", "assistant", "assistant", "tool", "system"]) if i else self.random.choice(["system", "user", "user", "assistant"])
            content, text = self.content()
            a, b = {"role": role, "content": content}, {"role": role, "content": text}
            if role == "assistant":
                if self.random.random() < .1:
                    a["content"], b["content"] = None, ""
                if self.random.random() < .3:
                    a["reasoning_content"] = b["reasoning_content"] = self.random.choice([self.text(), None])
                if self.random.random() < .4:
                    a["tool_calls"] = b["tool_calls"] = self.random.choice([None, [], [self.tool_call() for _ in range(self.random.randrange(1, 4))]])
            sent.append(a)
            seen.append(b)
        extra = {"add_generation_prompt": self.random.random() < .6}
        if self.random.random() < .4:
            extra["tools"] = self.random.choice([[], [{"type": "function", "function": self.value()} for _ in range(self.random.randrange(1, 3))]])
        if self.random.random() < .5:
            extra["enable_thinking"] = self.random.random() < .5
        if not extra["add_generation_prompt"] and seen[-1]["role"] == "assistant" and not seen[-1].get("tool_calls") and self.random.random() < .6:
            extra["continue_final_message"] = True
        if self.random.random() < .2:
            extra["parse_arguments"] = True
        return {"messages": sent, **extra}, {"messages": seen, **extra}


def parse_arguments(messages):
    """What vLLM does before the template; None where the text is no JSON."""
    messages = copy.deepcopy(messages)
    for call in (c for m in messages for c in m.get("tool_calls") or []):
        function = call.get("function", call)
        if isinstance(function["arguments"], str):
            try:
                function["arguments"] = json.loads(function["arguments"]) if function["arguments"] else {}
            except ValueError:
                return None
    return messages


def expected(template, request):
    """The text, None where Tandem must refuse."""
    tag = "CONTINUE_FINAL_MESSAGE_TAG "
    messages = request["messages"]
    if request.get("parse_arguments"):
        messages = parse_arguments(messages)
        if messages is None:
            return None
    given = {k: v for k, v in request.items() if k not in ("messages", "continue_final_message", "parse_arguments")}
    if request.get("continue_final_message"):
        messages = copy.deepcopy(messages)
        messages[-1]["content"] += tag
    try:
        text = template.render(messages=messages, **given)
    except (jinja2.TemplateError, TypeError, AttributeError):
        return None
    return text[:text.rindex(tag)] if request.get("continue_final_message") else text


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(ROOT / "build" / "release"), help="where render_chat was built")
    parser.add_argument("--count", type=int, default=4000, help="random conversations for each template")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--templates", default=str(TEMPLATES), help="a folder with texts of known names")
    options = parser.parse_args()
    paths = [p for name in NAMES if (p := pathlib.Path(options.templates) / name).exists()]
    if not paths:
        skip(f"no chat templates are at {options.templates}")
    binary = pathlib.Path(options.build) / "render_chat"
    if not binary.exists():
        sys.exit(f"{binary}: expected the harness render_chat, found nothing; build it first")

    passed = failed = 0
    for path in paths:
        template = compiled(path.read_text(encoding="utf-8"))
        conversations = Conversations(options.seed)
        pairs = [conversations.take() for _ in range(options.count)]
        lines = "".join(json.dumps({"template": NAMES[path.name], **sent}, ensure_ascii=False) + "\n" for sent, _ in pairs)
        done = subprocess.run([str(binary)], input=lines.encode(), stdout=subprocess.PIPE, check=True)
        answers = [json.loads(line) for line in done.stdout.decode().split("\n") if line]
        wrong = 0
        for (sent, seen), got in zip(pairs, answers, strict=True):
            want = expected(template, seen)
            if got.get("text") == want:
                passed += 1
                continue
            failed += 1
            wrong += 1
            if wrong <= 2:
                print(f"  {json.dumps(sent, ensure_ascii=False)}\n    Tandem {got}\n    Jinja  {want!r}")
        print(f"{'FAIL' if wrong else 'ok'}    {path.name} as {NAMES[path.name]}: {len(pairs) - wrong} of {len(pairs)}")
    print(f"{passed} passed, {failed} failed (jinja2 {jinja2.__version__})")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
