#!/usr/bin/env python3
"""Tandem's WordPiece tokenizer against Hugging Face `tokenizers`: the same ids and the same text for every string.

    python3 tests/python/test_wordpiece_differential.py [--build build/release] [--count 24000] [--seed 1]

Needs the package `tokenizers`; skips with a sentence without it. The vocabulary is that of bge and MiniLM from the shared
data, or where that is absent one that `tokenizers` trains on this repository's texts. Strings, harness and comparison are
those of test_tokenizer_differential.py.
"""
import argparse
import copy
import json
import pathlib
import random
import sys
import tempfile

from test_tokenizer_differential import ROOT, SHARED, Reference, Strings, Tally, Tandem, every_code_point, invalid_files, long_strings, nfc_rows

import tokenizers

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
BERT = SHARED / "bert-tokenizer"


def vocabulary():
    if (BERT / "vocab.txt").exists():
        return (BERT / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
    t = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    t.normalizer = tokenizers.normalizers.BertNormalizer()
    t.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    texts = [p.read_text(encoding="utf-8") for p in sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("*/*.md"))]
    texts += [p.read_text(encoding="utf-8") for p in sorted((ROOT / "engine").glob("*.c"))]
    t.train_from_iterator(texts, tokenizers.trainers.WordPieceTrainer(vocab_size=3000, special_tokens=SPECIALS, show_progress=False))
    return [token for token, _ in sorted(t.get_vocab().items(), key=lambda item: item[1])]


def characters():
    """A vocabulary that hides nothing of the normal form: each character below U+20000 is a token."""
    points = [chr(c) for c in range(0x21, 0x20000) if not 0xD800 <= c <= 0xDFFF]
    return SPECIALS + points + ["##" + c for c in points]


def describe(tokens):
    """The tokenizer.json of BERT's encoders around a vocabulary."""
    ids = {token: i for i, token in enumerate(tokens)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [{"id": ids[s], "content": s, **flags} for s in sorted(SPECIALS, key=ids.get)],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "TemplateProcessing",
                           "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                                      {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
                           "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                           "special_tokens": {s: {"id": s, "ids": [ids[s]], "tokens": [s]} for s in ("[CLS]", "[SEP]")}},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": ids},
    }


def with_flags(description):
    """The same with more added tokens, with all flags."""
    d = copy.deepcopy(description)
    flags = [("<lstrip>", {"lstrip": True}), ("<rstrip>", {"rstrip": True}), ("<both>", {"lstrip": True, "rstrip": True}),
             ("wordzq", {"single_word": True}), ("[CLS", {"special": True}), ("[CLS]x", {}), ("Caf\u00e9 Zq", {"normalized": True}),
             ("NORZQ", {"normalized": True, "single_word": True}), ("\u4e00\u4e8c", {"normalized": True}), ("é\u4e00", {}),
             (" do not", {"rstrip": True}), ("zz \u0130x", {"normalized": True, "lstrip": True}), ("##xqzj", {})]
    n = len(d["model"]["vocab"])
    for i, (content, set_flags) in enumerate(flags):
        d["added_tokens"].append({"id": n + i, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
                                  "normalized": False, "special": False, **set_flags})
    return d


class Words(Strings):
    """Random strings with more words: whole ones, joined, accented, too long."""

    def __init__(self, seed, added, tokens):
        super().__init__(seed, added)
        self.tokens = tokens
        self.kinds = [self.pieces, self.accents, *self.kinds]

    def pieces(self):
        picked = [self.random.choice(self.tokens).removeprefix("##") for _ in range(self.random.randrange(1, 30))]
        return "".join(self.random.choice(["", "", " ", ".", "-", "\u00ad"]) + self.random.choice([p, p.upper(), p.title()]) for p in picked)

    def accents(self):
        parts = [*"aeiouAEIOUnNİıſßΣςάЙйŁłǅḁẞÅ\u212b\uac00가힣ཀྵ", "\u0301", "\u0323", "\u0308", "\U0001d165", "\U0001d16d", "\u302e",
                 "\u0f71", "\u3099", "\u094d", "\U00011938", "\ufb1d", "\u0344", " ", "the", "\U00010570", "\u2c2f", "\ua7c0"]
        return "".join(self.random.choice(parts) for _ in range(self.random.randrange(1, 40)))


def vectors():
    """The 47 published vectors: (texts, ids)."""
    texts = (BERT / "ggml-vocab-bert-bge.gguf.inp").read_bytes().split(b"\n__ggml_vocab_test__\n")
    lines = (BERT / "ggml-vocab-bert-bge.gguf.out").read_text().split("\n")
    return texts, [[int(x) for x in line.split()] for line in lines[:len(texts)]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=str(ROOT / "build" / "release"), help="where tokenize_stream was built")
    parser.add_argument("--count", type=int, default=24000, help="random strings")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    binary = pathlib.Path(options.build) / "tokenize_stream"
    if not binary.exists():
        sys.exit(f"{binary}: expected the harness tokenize_stream, found nothing; build it first")

    tally = Tally()
    tokens = vocabulary()
    description = describe(tokens)
    strings = Words(options.seed, SPECIALS + ["##ing", "[", "]", "cls"], tokens)
    sets = [("every code point", every_code_point()), ("long strings", long_strings()),
            (f"random strings, seed {options.seed}", strings.take(options.count))]
    if BERT.exists():
        sets += [("47 vectors", vectors()[0]), ("normalization rows", nfc_rows()), ("invalid UTF-8", invalid_files()),
                 ("naughty strings", [s.encode() for s in json.loads((SHARED / "unicode" / "blns" / "blns.json").read_text(encoding="utf-8"))])]

    with tempfile.TemporaryDirectory() as tmp:
        tmp = pathlib.Path(tmp)

        def folder(name, files):
            (tmp / name).mkdir()
            for file, content in files.items():
                text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
                (tmp / name / file).write_text(text, encoding="utf-8")
            return Tandem(binary, tmp / name)

        tandem, reference = folder("whole", {"tokenizer.json": description}), Reference(description)
        if BERT.exists():
            tally.compare("47 vectors, published ids", vectors()[0], tandem.encode(vectors()[0], False), vectors()[1])
        everything = []
        for name, strs in sets:
            everything += strs
            for special in (False, True):
                tally.compare(f"{name}, {'special tokens' if special else 'plain'}", strs, tandem.encode(strs, special),
                              reference.encode(strs, special))

        some = every_code_point()[::5] + (nfc_rows()[::7] if BERT.exists() else []) + strings.take(options.count // 8)
        variants = [{"lowercase": False}, {"strip_accents": False}, {"lowercase": False, "strip_accents": True}, {"clean_text": False},
                    {"handle_chinese_chars": False}, {"clean_text": False, "strip_accents": False, "lowercase": False}]
        for i, change in enumerate([{}, *variants]):
            d = describe(characters())
            d["normalizer"].update(change)
            tally.compare(f"normalizer {change}", some, folder(f"variant{i}", {"tokenizer.json": d}).encode(some, True), Reference(d).encode(some, True))
        short = copy.deepcopy(description)
        short["model"]["max_input_chars_per_word"] = 7
        tally.compare("words of at most 7 characters", some, folder("short", {"tokenizer.json": short}).encode(some, False), Reference(short).encode(some, False))

        lines = "\n".join(tokens) + "\n"
        config = {"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False, "cls_token": {"content": "[CLS]"}}
        configured = copy.deepcopy(description)
        configured["normalizer"].update({"lowercase": False, "strip_accents": True, "handle_chinese_chars": False})
        for name, d, files in (("vocab.txt", description, {"vocab.txt": lines}),
                               ("vocab.txt and its settings", configured, {"vocab.txt": lines.replace("\n", "\r\n"), "tokenizer_config.json": config})):
            for special in (False, True):
                tally.compare(f"{name}, {'special tokens' if special else 'plain'}", some,
                              folder(f"{name} {special}", files).encode(some, special), Reference(d).encode(some, special))

        flagged = with_flags(description)
        contents = [t["content"] for t in flagged["added_tokens"][5:]]
        flag_strings = Words(options.seed + 1, contents * 2 + ["CAFE\u0301 zq", "cafe", " ", "\u3000", "x", "_", "\u00ad", "norzq", "\u4e00", "zz i\u0307x"], tokens)
        flag_texts = [flag_strings.special().encode() for _ in range(options.count // 8)]
        with_added, flag_reference = folder("flags", {"tokenizer.json": flagged}), Reference(flagged)
        tally.compare("added tokens with flags", flag_texts, with_added.encode(flag_texts, True), flag_reference.encode(flag_texts, True))

        pick = random.Random(options.seed)
        n = len(tokens)
        lists = [[pick.choice([pick.randrange(n), pick.randrange(n), pick.randrange(min(n, 1200)), pick.randrange(n, n + 20)])
                  for _ in range(pick.randrange(1, 30))] for _ in range(options.count // 8)] + with_added.encode(some, True)
        plain = copy.deepcopy(flagged)
        plain["decoder"]["cleanup"] = False
        for name, side, other in (("", with_added, flag_reference), (" without cleanup", folder("plain", {"tokenizer.json": plain}), Reference(plain))):
            tally.compare(f"decoding{name}", lists, side.decode(lists, b"d"), other.decode(lists, b"d"))
            tally.compare(f"decoding without special tokens{name}", lists, side.decode(lists, b"k"), other.decode(lists, b"k"))
            tally.compare(f"text streams{name}", lists, side.decode(lists, b"t"), other.decode(lists, b"d"))

    print(f"{tally.passed} passed, {tally.failed} failed (tokenizers {tokenizers.__version__}, {len(tokens)} tokens)")
    return 1 if tally.failed else 0


if __name__ == "__main__":
    sys.exit(main())
