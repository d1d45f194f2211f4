#!/usr/bin/env python3
"""Writes the small tokenizer of this folder and its vectors, both by Hugging Face `tokenizers`.

    pip install tokenizers==0.23.3 jinja2==3.1.6
    python3 tests/golden/tokenizer/make_tiny.py

    tiny/tokenizer.json                          Qwen's pipeline and added tokens with a vocabulary of 256 + 200 tokens
    tiny-files/{vocab.json,merges.txt,...}       the same in the older files
    vectors.jsonl                                text (or bytes in hex) -> ids without and with special tokens
    decode.jsonl                                 ids -> text with and without special tokens
    chat.jsonl                                   conversations -> text (by jinja2) -> ids; needs the shared data
    ../../fuzz/corpus/fuzz_tokenizer/            first inputs for the fuzzer: a minimal tokenizer.json, a zero byte, a text
"""
import json
import pathlib
import random
import sys

import jinja2.sandbox
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import assemble

HERE = pathlib.Path(__file__).resolve().parent
QWEN_REGEX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CORPUS = ["The quick brown fox jumps over the lazy dog, and the other dogs there think that this is nothing new.",
          "What is the weather in the city? The system answers the user, and the assistant calls a tool for it.",
          "Der schnelle braune Fuchs springt über den faulen Hund; die Übung ist natürlich für große Köpfe.",
          "我们在这里学习中文。我们的模型是一个小的模型，它不是很好，但是很快。这是什么？这是一个问题。",
          "日本語の文章もあります。これはペンです。", "Быстрая лиса прыгает через ленивую собаку. Это новая страна.",
          "int main(void) {\n    for (int i = 0; i < n; i++) {\n        printf(\"%d\\n\", i);\n    }\n    return 0;\n}\n",
          "def f(x):\n    return x + 1\n\n\nclass A:\n    pass\n", "https://example.com/index.html?q=1&r=2", "{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Köln\"}}"]

TEXTS = ["", " ", "Hello world", " Hello  world \n", "The quick brown fox", "the other dogs'll think they're NOTHING, 'Tis DON'T 'ſ 'LL", "12345 3.14 ½ Ⅷ ٣",
         "Köln Ko\u0308ln \u212b \u0344 \uac00 \u1100\u1161\u11a8", "a\u0301\u0323 a\u0323\u0301 \u0301 q\u0307\u0323", "我们在这里学习中文。", "日本語の文章もあります",
         "Быстрая лиса", "😀 👩‍👩‍👧 🇩🇪", "\t\n\r\n  \n x", "   x", "x   ", "\u00a0x\u2003y\u3000z\u180ew\u200bv\u0085u\u2028t", "int main(void) {\n    return 0;\n}\n",
         "<|im_start|>user\nHi<|im_end|>\n", "a<|im_end|>b<think>c</think>\n\n<tool_call>", "<|im_start|", "<<|im_end|>>", "<|im_start|><|im_start|>", "e<|im_end|>\u0301",
         "\U00010d4a\U00010d50 \U00020000 \U0001f600", "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz",
         "thethethethethethethethethethethethethethethethethethethethethethethethethethethethethethethethethethethethethethethethethe"]
BYTES = ["ff", "61c3", "c3a9c3", "e282", "e28261", "f09f98", "f09f9880", "eda080", "f4908080", "c080", "80", "61ff62fe63", "e0809f", "f0808080", "c3c3a9"]


def tiny():
    skeleton = assemble.assemble_skeleton()
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN_REGEX), "isolated"),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False, trim_offsets=False)])
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    t.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=456, initial_alphabet=alphabet, show_progress=False))
    whole = json.loads(t.to_str())
    n = len(whole["model"]["vocab"])
    whole["added_tokens"] = [{**token, "id": n + i} for i, token in enumerate(skeleton["added_tokens"])]
    return whole


def write_lines(name, rows):
    (HERE / name).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_files(whole):
    (HERE / "tiny").mkdir(exist_ok=True)
    (HERE / "tiny" / "tokenizer.json").write_text(json.dumps(whole, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    folder = HERE / "tiny-files"
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(whole["model"]["vocab"], ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in whole["model"]["merges"]), encoding="utf-8")
    decoder = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in whole["added_tokens"]}
    config = {"added_tokens_decoder": decoder, "chat_template": [{"name": "tools", "template": "no"}, {"name": "default", "template": "{{ messages }}"}]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def chats(reference):
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = lambda x: json.dumps(x, ensure_ascii=False)
    names = {"Qwen-Qwen2.5-7B-Instruct.jinja": "qwen2.5", "Qwen-Qwen3-0.6B.jinja": "qwen3", "Qwen3-4B-from-tokenizer_config.jinja": "qwen3-thinking",
             "qwen3_nonthinking.jinja": "qwen3-nonthinking", "Qwen-QwQ-32B.jinja": "qwq"}
    tool = {"type": "function", "function": {"name": "f", "description": "<b>\"Köln\"</b>\n", "parameters": {"x": [1, 1.0, -0.5, 1e22, 1e-7, 12345678901234567890, True, None, {}]}}}
    call = {"type": "function", "id": "c1", "function": {"name": "f", "arguments": {"city": "Köln", "n": 2.50}}}
    system, hi = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi, 我们"}
    thought = {"role": "assistant", "content": "<thinks>\nhmm", "reasoning_content": "\nso so\n"}
    cases = [[hi], [system, hi], [hi, {"role": "assistant", "content": "Hello!"}, hi], [system, hi, thought, hi], [hi, thought],
             [hi, {"role": "assistant", "content": "", "tool_calls": [call]}, {"role": "tool", "content": "21"}, {"role": "tool", "content": "\n22"}],
             [hi, {"role": "assistant", "content": "Let me see.", "tool_calls": [call, call]}, {"role": "tool", "content": "21"}, {"role": "assistant", "content": "\n\n21"}],
             [system, hi, system, hi], [{"role": "assistant", "content": "Hello!"}]]
    rows = []
    for file, name in names.items():
        template = environment.from_string((assemble.SHARED / "chat-templates" / file).read_text(encoding="utf-8"))
        for messages in cases:
            for extra in ({"add_generation_prompt": True}, {"add_generation_prompt": True, "tools": [tool], "enable_thinking": False}, {"enable_thinking": True}):
                text = template.render(messages=messages, **extra)
                rows.append({"template": name, "messages": messages, **extra, "text": text, "ids": reference.encode(text, add_special_tokens=False).ids})
    return rows


def write_seeds(whole):
    """256 bytes and a few merges, with flags and other regexes."""
    folder = HERE.parents[1] / "fuzz" / "corpus" / "fuzz_tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    vocab = {token: i for token, i in whole["model"]["vocab"].items() if i < 264}
    merges = [pair for pair in whole["model"]["merges"] if all(t in vocab for t in (*pair, "".join(pair)))]
    added = [{**token, "id": 300 + i} for i, token in enumerate(whole["added_tokens"][:3])]
    added[1].update(content="ab", lstrip=True, rstrip=True)
    added[2].update(content="\u00e9", single_word=True, normalized=True, special=False)
    for name, regex in (("qwen", QWEN_REGEX), ("pcre2", r"(?i:ab)|\p{L}+(?!\S)|\s+"), ("backtracking", r"(?:a+)+b|[^a]")):
        seed = json.loads(json.dumps(whole))
        seed["model"] = {"type": "BPE", "vocab": vocab, "merges": merges}
        seed["added_tokens"] = added
        seed["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = regex
        text = json.dumps(seed, ensure_ascii=False, separators=(",", ":")).encode()
        (folder / name).write_bytes(text + b"\0" + "The other  ab \u00e9 e\u0301 <|endoftext|> 12 aab".encode() + b"\xe4\xb8")


def write_bert_seeds():
    """WordPiece over a few tokens, one with every step of the normalizer and one with as few as can be."""
    folder = HERE.parents[1] / "fuzz" / "corpus" / "fuzz_tokenizer"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "##s", "a", "b", "ab", "##ab", "e", "##\u00e9", ".", "'", "\u5929", "do not"]
    for name, on in (("wordpiece", True), ("wordpiece-cased", False)):
        t = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]", max_input_chars_per_word=100 if on else 5))
        t.normalizer = normalizers.BertNormalizer(clean_text=on, handle_chinese_chars=on, lowercase=on)
        t.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        t.decoder = decoders.WordPiece(cleanup=on)
        t.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        t.add_special_tokens(tokens[:5])
        t.add_tokens([AddedToken("\u00e9 X", normalized=True), AddedToken("zq", single_word=True, lstrip=True, rstrip=True)])
        text = json.dumps(json.loads(t.to_str()), ensure_ascii=False, separators=(",", ":")).encode()
        (folder / name).write_bytes(text + b"\0" + "[CLS] The thes abab  E\u0301 x zq \u5929b. do not\u200d \u0130 aaaaaab'".encode() + b"\xe4\xb8")


def main():
    whole = tiny()
    write_seeds(whole)
    write_bert_seeds()
    write_files(whole)
    reference = Tokenizer.from_str(json.dumps(whole))
    plain = Tokenizer.from_str(json.dumps({**whole, "added_tokens": []}))
    rows = []
    for given in [{"text": t} for t in TEXTS] + [{"hex": h} for h in BYTES]:
        text = given.get("text", bytes.fromhex(given.get("hex", "")).decode("utf-8", "replace"))
        rows.append({**given, "plain": plain.encode(text, add_special_tokens=False).ids, "special": reference.encode(text, add_special_tokens=False).ids})
    write_lines("vectors.jsonl", rows)
    pick = random.Random(3)
    lists = [row["special"] for row in rows] + [[pick.randrange(490) for _ in range(12)] for _ in range(20)]
    write_lines("decode.jsonl", [{"ids": ids, "text": reference.decode(ids, skip_special_tokens=False),
                                  "skipped": reference.decode(ids, skip_special_tokens=True)} for ids in lists])
    write_lines("chat.jsonl", chats(reference))


if __name__ == "__main__":
    sys.exit(main())
