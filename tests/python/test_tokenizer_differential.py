#!/usr/bin/env python3
"""Tandem's tokenizer against Hugging Face `tokenizers`: the same ids and the same text for every string.

    python3 tests/python/test_tokenizer_differential.py [--build build/release] [--count 24000] [--seed 1]

Needs the package `tokenizers` and the shared data; skips with a sentence where one is missing. Plain encoding is compared
with a Hugging Face tokenizer that has no added tokens, encoding with special tokens with the whole one.
"""
import argparse
import copy
import json
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "golden" / "tokenizer"))
import assemble  # noqa: E402

SHARED = assemble.SHARED
QWEN35_REGEX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def skip(sentence):
    print(f"skipped: {sentence}")
    sys.exit(0)


try:
    import tokenizers
except ImportError:
    skip("the Python package `tokenizers` is not installed")


# ---- the two sides ---------------------------------------------------------------------------------------------------

class Tandem:
    def __init__(self, binary, folder):
        self.command = [str(binary), str(folder)]

    def ask(self, kind, requests):
        """Sends all requests (bytes) at once and returns the answers; None for one that failed."""
        sent = b"".join(kind + struct.pack("I", len(r)) + r for r in requests)
        done = subprocess.run(self.command, input=sent, stdout=subprocess.PIPE, check=True)
        answers, at = [], 0
        for _ in requests:
            (n,) = struct.unpack_from("I", done.stdout, at)
            at += 4
            if n == 0xFFFFFFFF:
                answers.append(None)
                continue
            answers.append(done.stdout[at:at + n])
            at += n
        assert at == len(done.stdout)
        return answers

    def encode(self, texts, special):
        answers = self.ask(b"s" if special else b"e", texts)
        return [None if a is None else list(struct.unpack(f"{len(a) // 4}i", a)) for a in answers]

    def decode(self, lists, kind):
        return self.ask(kind, [struct.pack(f"{len(ids)}i", *ids) for ids in lists])


class Reference:
    def __init__(self, description):
        self.whole = tokenizers.Tokenizer.from_str(json.dumps(description))
        self.plain = tokenizers.Tokenizer.from_str(json.dumps({**description, "added_tokens": []}))

    def encode(self, texts, special):
        which = self.whole if special else self.plain
        texts = [t.decode("utf-8", "replace") for t in texts]
        return [e.ids for e in which.encode_batch(texts, add_special_tokens=False)]

    def decode(self, lists, kind):
        return [self.whole.decode(ids, skip_special_tokens=kind == b"k").encode() for ids in lists]


class Tally:
    def __init__(self):
        self.passed = self.failed = 0

    def compare(self, name, questions, got, expected):
        wrong = 0
        for question, a, b in zip(questions, got, expected, strict=True):
            if a == b:
                self.passed += 1
                continue
            self.failed += 1
            wrong += 1
            if wrong <= 3:
                print(f"  {name}: {question[:200]!r}\n    Tandem       {str(a)[:300]}\n    Hugging Face {str(b)[:300]}")
        print(f"{'FAIL' if wrong else 'ok'}    {name}: {len(questions) - wrong} of {len(questions)}")


# ---- strings ---------------------------------------------------------------------------------------------------------

def text_of(path, limit=200000):
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:limit]
    except OSError:
        return ""


def real_texts():
    """Prose, code and other scripts to mutate."""
    paths = [
        ROOT / "engine" / "bpe.c",
        ROOT / "tests" / "python" / "test_tokenizer_differential.py",
        SHARED / "documents" / "commonmark" / "spec.txt",
        SHARED / "unicode" / "blns" / "blns.txt",
        SHARED / "chat-templates" / "golden-generated.jsonl",
        SHARED / "chat-templates" / "qwen-function_call.md",
        *sorted((SHARED / "traces").rglob("*.jsonl")),
        *sorted((SHARED / "rag-eval" / "xquad").glob("*")),
    ]
    return [t for t in map(text_of, paths) if t]


class Strings:
    """Random strings of many kinds."""

    SCRIPTS = [(0x20, 0x7E), (0xA0, 0x24F), (0x370, 0x3FF), (0x400, 0x52F), (0x590, 0x5FF), (0x600, 0x6FF), (0x900, 0x97F),
               (0xE00, 0xE7F), (0x1000, 0x109F), (0x1100, 0x11FF), (0x1780, 0x17FF), (0x1E00, 0x1EFF), (0x3040, 0x30FF),
               (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFAFF), (0xFF00, 0xFFEF), (0x1D400, 0x1D7FF),
               (0x1F300, 0x1FAFF), (0x20000, 0x2A6DF)]
    SPACES = "\t\n\v\f\r \x1c\x1d\x1e\x1f\x85\xa0\u1680\u180e\u2000\u2009\u200a\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff"
    MARKS = [*range(0x300, 0x370), *range(0x591, 0x5C8), *range(0x64B, 0x660), 0x93C, 0x94D, 0x3099, 0x309A, *range(0x1AB0, 0x1AF1),
             *range(0x1DC0, 0x1E00), *range(0x20D0, 0x20F1), *range(0x302A, 0x3030), 0x1D165, 0x1D16D, *range(0x8CA, 0x900),
             *range(0x1161, 0x1176), *range(0x11A8, 0x11C3), 0x11930, 0x113C2, 0x113C9, 0x1611E, 0x105D2]

    def __init__(self, seed, added):
        self.random = random.Random(seed)
        self.added = added
        self.texts = real_texts()
        self.kinds = [self.any_plane, self.scripts, self.spaces, self.digits, self.contractions, self.combining, self.code,
                      self.mutated, self.special, self.repeated, self.bytes]

    def point(self):
        while True:
            c = self.random.randrange(self.random.choice([0x80, 0x800, 0x3000, 0x10000, 0x20000, 0x110000]))
            if not 0xD800 <= c <= 0xDFFF:
                return chr(c)

    def any_plane(self):
        return "".join(self.point() for _ in range(self.random.randrange(1, 60)))

    def scripts(self):
        out = []
        for _ in range(self.random.randrange(1, 8)):
            low, high = self.random.choice(self.SCRIPTS)
            out += [chr(self.random.randint(low, high)) for _ in range(self.random.randrange(1, 14))]
            out.append(self.random.choice(["", " ", "\n", ", ", "'", "-"]))
        return "".join(out)

    def spaces(self):
        pick = lambda: self.random.choice(self.SPACES if self.random.random() < .5 else " \n\r\t")
        return "".join(self.random.choice([pick(), pick(), pick(), "a", "é", "7", ".", "字", "'s"])
                       for _ in range(self.random.randrange(1, 40)))

    def digits(self):
        kinds = "0123456789٣४²½Ⅷ①〇一𝟘\u0e51.,-+eE% $€"
        return "".join(self.random.choice(kinds) for _ in range(self.random.randrange(1, 40)))

    def contractions(self):
        parts = ["'s", "'S", "'\u017f", "'t", "'T", "'re", "'Re", "'rE", "'RE", "'ve", "'VE", "'m", "'M", "'ll", "'lL", "'LL", "'d",
                 "'D", "'l", "'r", "'", "''", "\u2019s", "I", "we", " you", "ſ", "'\u212a", " ", "\n", "'é", "x", "1", "'\u0301s"]
        return "".join(self.random.choice(parts) for _ in range(self.random.randrange(1, 16)))

    def combining(self):
        out = []
        for _ in range(self.random.randrange(1, 8)):
            low, high = self.random.choice(self.SCRIPTS)
            out.append(self.random.choice([chr(self.random.randint(low, high)), "", self.point(), chr(self.random.choice(self.MARKS))]))
            out += [chr(self.random.choice(self.MARKS)) for _ in range(self.random.randrange(0, 5))]
        return "".join(out)

    def code(self):
        words = ["if", "(", ")", "{", "}", ";", "\n", "    ", "\t", "return", "x_1", "camelCase", "SNAKE_CASE", "0x1F", "//", "/*", "*/",
                 "\"str\\n\"", "'c'", "->", "::", "!=", "===", "<html>", "&amp;", "\r\n", "\n\n\n", "#include", " ", "  ", "λ", "def f():"]
        return "".join(self.random.choice(words) for _ in range(self.random.randrange(1, 50)))

    def mutated(self):
        text = self.random.choice(self.texts)
        start = self.random.randrange(len(text))
        text = list(text[start:start + self.random.randrange(1, 300)])
        for _ in range(self.random.randrange(0, 6)):
            at = self.random.randrange(len(text) + 1)
            text[at:at + self.random.randrange(0, 3)] = self.random.choice([[], [self.point()], [" "], ["\n"], ["'"], ["\u0301"]])
        return "".join(text)

    def special(self):
        parts = [*self.added, *self.added, " ", "\n", "user", "é", "<|", "|>", "<", "im_start", "</", "e\u0301", "<|im_start", "1"]
        return "".join(self.random.choice(parts) for _ in range(self.random.randrange(1, 14)))

    def repeated(self):
        return self.random.choice(["a", "aa", " ", "\n", "字", "é", "ab", "!", "7", "\u0301", "한", "'s", "\t ", "<"]) * \
            self.random.randrange(1, 400) + self.random.choice(["", "a", " ", "."])

    def bytes(self):
        """Invalid UTF-8: valid text with bytes changed, cut or inserted, or nothing but noise."""
        data = bytearray(self.random.choice(self.kinds[:-1])().encode())
        if self.random.random() < .2:
            data = bytearray(self.random.randbytes(self.random.randrange(1, 40)))
        for _ in range(self.random.randrange(1, 6)):
            at = self.random.randrange(len(data) + 1)
            noise = self.random.choice([b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\xf0\x9f\x98", b"\xff", b"\x80", b""])
            data[at:at + self.random.randrange(0, 2)] = noise
        return bytes(data)

    def take(self, n):
        out = []
        for i in range(n):
            s = self.kinds[i % len(self.kinds)]()
            out.append(s if isinstance(s, bytes) else s.encode())
        return out


def vectors():
    """The 47 published vectors: (texts, ids)."""
    stem = SHARED / "qwen-tokenizer" / "ggml-vocab-qwen2.gguf"
    texts = stem.with_suffix(".gguf.inp").read_bytes().split(b"\n__ggml_vocab_test__\n")
    lines = stem.with_suffix(".gguf.out").read_text().split("\n")
    return texts, [[int(x) for x in line.split()] for line in lines[:len(texts)]]


def nfc_rows():
    rows = []
    for line in (SHARED / "unicode" / "NormalizationTest-8.0.0.txt").read_text(encoding="utf-8").split("\n"):
        fields = line.split("#")[0].split(";")
        if len(fields) >= 5:
            rows += ["".join(chr(int(x, 16)) for x in f.split()).encode() for f in fields[:5]]
    other = SHARED / "unicode" / "NormalizationTest-16.0.0-converted.txt"
    rows += [line.encode() for line in other.read_text(encoding="utf-8").split("\n") if line]
    return rows


def every_code_point():
    """Each code point between characters of each class, 32 to a string (Hugging Face is quadratic in the string here)."""
    points = [chr(c) for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
    return ["".join(f"a{c} {c}x1{c}{c}.{c}'{c}\n{c}  {c}" for c in points[i:i + 32]).encode() for i in range(0, len(points), 32)]


def invalid_files():
    folder = SHARED / "unicode" / "utf8tests"
    lines = (folder / "utf8tests.bin").read_bytes().split(b"\n")
    return [*lines, (folder / "utf8tests.bin").read_bytes(), (folder / "utf8tests.txt").read_bytes()]


def long_strings():
    return [s.encode() for s in ("a" * 100000, "字" * 50000, " " * 100000, "\n" * 100000, " " * 99999 + "x", "e\u0301" * 50000,
                                 "e" + "\u0301\u0323" * 20000, "!" * 100000, "abcdefghij" * 20000, "1" * 50000,
                                 "한국어" * 30000, "<" * 50000, "'" * 50000, "\U00010D4A" * 1000)]


# ---- the tests -------------------------------------------------------------------------------------------------------

def with_flags(description):
    """Qwen's tokenizer with more added tokens, with all flags."""
    d = copy.deepcopy(description)
    flags = [("<lstrip>", {"lstrip": True}), ("<rstrip>", {"rstrip": True}), ("<both>", {"lstrip": True, "rstrip": True}),
             ("wordzq", {"single_word": True}), ("<|im", {"special": True}), ("<|im_start|>x", {}), ("caf\u00e9", {"normalized": True}),
             ("norzq", {"normalized": True, "single_word": True}), ("\u1e9b\u0323", {"normalized": True}), ("é\u4e00", {}),
             (" sp", {"rstrip": True}), ("\u0120xqzj", {"normalized": True, "lstrip": True})]
    for i, (content, set_flags) in enumerate(flags):
        d["added_tokens"].append({"id": 151669 + i, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
                                  "normalized": False, "special": False, **set_flags})
    return d


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(ROOT / "build" / "release"), help="where tokenize_stream was built")
    parser.add_argument("--count", type=int, default=24000, help="random strings")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    binary = pathlib.Path(options.build) / "tokenize_stream"
    if not (SHARED / "qwen-tokenizer" / "vocab.json").exists():
        skip(f"the shared data is not at {SHARED}")
    if not binary.exists():
        sys.exit(f"{binary}: expected the harness tokenize_stream, found nothing; build it first")

    tally = Tally()
    description = assemble.assemble()
    added = [t["content"] for t in description["added_tokens"]]
    reference = Reference(description)
    strings = Strings(options.seed, added)
    texts, ids = vectors()
    sets = [("47 vectors", texts), ("naughty strings", [s.encode() for s in json.loads((SHARED / "unicode" / "blns" / "blns.json").read_text(encoding="utf-8"))]),
            ("normalization rows", nfc_rows()), ("invalid UTF-8", invalid_files()), ("every code point", every_code_point()),
            ("long strings", long_strings()), (f"random strings, seed {options.seed}", strings.take(options.count))]

    with tempfile.TemporaryDirectory() as tmp:
        tmp = pathlib.Path(tmp)

        def folder(name, d):
            (tmp / name).mkdir()
            (tmp / name / "tokenizer.json").write_text(json.dumps(d, ensure_ascii=False), encoding="utf-8")
            return Tandem(binary, tmp / name)

        tandem = folder("whole", description)
        tally.compare("47 vectors, published ids", texts, tandem.encode(texts, False), ids)
        everything = []
        for name, strs in sets:
            everything += strs
            for special in (False,) if name == "every code point" else (False, True):
                tally.compare(f"{name}, {'special tokens' if special else 'plain'}", strs, tandem.encode(strs, special),
                              reference.encode(strs, special))

        some = everything[:200] + strings.take(options.count // 8)
        expected = {special: reference.encode(some, special) for special in (False, True)}
        other = tmp / "files"
        other.mkdir()
        for name in ("vocab.json", "merges.txt"):
            (other / name).write_bytes((SHARED / "qwen-tokenizer" / name).read_bytes())
        (other / "tokenizer_config.json").write_bytes((SHARED / "qwen-tokenizer" / "qwen3-4b-tokenizer_config.json").read_bytes())
        regex = copy.deepcopy(description)
        split = regex["pre_tokenizer"]["pretokenizers"][0]["pattern"]
        split["Regex"] = f"(?:{split['Regex']})"
        in_pcre2 = folder("regex", regex)
        with_marks = copy.deepcopy(description)
        with_marks["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = QWEN35_REGEX
        for name, variant in (("vocab.json and merges.txt", Tandem(binary, other)), ("merges as pairs", folder("pairs", assemble.assemble(pairs=True))),
                              ("the regex in PCRE2", in_pcre2)):
            for special in (False, True):
                tally.compare(f"{name}, {'special tokens' if special else 'plain'}", some, variant.encode(some, special), expected[special])
        points = every_code_point()
        marked = points[::7] + some
        tally.compare("Qwen3.5's regex", marked, folder("marks", with_marks).encode(marked, False), Reference(with_marks).encode(marked, False))
        tally.compare("every code point, the regex in PCRE2", points, in_pcre2.encode(points, False), tandem.encode(points, False))

        flagged = with_flags(description)
        flag_strings = Strings(options.seed + 1, [t["content"] for t in flagged["added_tokens"][26:]] * 2 + ["cafe\u0301", " ", "\u3000", "x", "_", "\u24b6", "\u0301"])
        flag_texts = [flag_strings.special().encode() for _ in range(options.count // 8)]
        tally.compare("added tokens with flags", flag_texts, folder("flags", flagged).encode(flag_texts, True), Reference(flagged).encode(flag_texts, True))
        ignoring = copy.deepcopy(description)
        ignoring["model"]["ignore_merges"] = True
        tally.compare("ignore_merges", some, folder("ignore", ignoring).encode(some, True), Reference(ignoring).encode(some, True))

        pick = random.Random(options.seed)
        lists = [[pick.choice([pick.randrange(151669), pick.randrange(151640, 151669), pick.randrange(256), pick.randrange(151669, 152000)])
                  for _ in range(pick.randrange(1, 30))] for _ in range(options.count // 8)] + tandem.encode(some, True)
        tally.compare("decoding", lists, tandem.decode(lists, b"d"), reference.decode(lists, b"d"))
        tally.compare("decoding without special tokens", lists, tandem.decode(lists, b"k"), reference.decode(lists, b"k"))
        tally.compare("text streams", lists, tandem.decode(lists, b"t"), reference.decode(lists, b"d"))

    print(f"{tally.passed} passed, {tally.failed} failed (tokenizers {tokenizers.__version__})")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
