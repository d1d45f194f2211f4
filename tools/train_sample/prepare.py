#!/usr/bin/env python3
"""Trains the tokenizer of the sample models, or takes one, and turns the corpus into token arrays.

The tokenizer has the structure of Qwen's: NFC, Qwen's split regex (one digit at a time), byte-level BPE, the same
special tokens. Its vocabulary is smaller: 256 bytes, learned merges, seven added tokens at the end. Models that draft
for one another need the same vocabulary: --tokenizer takes that of a trained sample, with its chat template.

Reads train.txt, val.txt, chat.jsonl (see corpus.py) in --data and writes there:
    tokenizer.json, tokenizer_config.json
    text.u16.xz  chat.u16.xz  val.u16.xz     token ids, little-endian, documents separated by <|endoftext|>

Example:
    tools/train_sample/prepare.py --data .train --tokenizer weights/sample/small
    tools/train_sample/prepare.py --data .train --chat-template Qwen2.5-7B-Instruct.jinja --vocab 6144
"""
import argparse
import json
import lzma
import shutil
from pathlib import Path

import jinja2
import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|"
         r"\s+")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ADDED = ["<tool_call>", "</tool_call>", "<think>", "</think>"]


def render(template, conversation):
    messages = [{"role": "system", "content": conversation["system"]}] if conversation["system"] else []
    for question, answer in conversation["turns"]:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return template.render(messages=messages, tools=None, add_generation_prompt=False)


def byte_level(**options):
    return dict(add_prefix_space=False, trim_offsets=False, use_regex=False, **options)


def train_tokenizer(texts, n_vocab):
    tokenizer = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix=""))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated", invert=False),
        pre_tokenizers.ByteLevel(**byte_level())])
    tokenizer.post_processor = processors.ByteLevel(**byte_level())
    tokenizer.decoder = decoders.ByteLevel(**byte_level())
    trainer = trainers.BpeTrainer(vocab_size=n_vocab - len(SPECIAL) - len(ADDED), special_tokens=[],
                                  show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                                  continuing_subword_prefix="",
                                  end_of_word_suffix="")
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=True) for text in SPECIAL] +
                         [AddedToken(text, normalized=False, special=False) for text in ADDED])
    assert tokenizer.get_vocab_size() == n_vocab, tokenizer.get_vocab_size()
    return tokenizer


def tokenizer_config(tokenizer, chat_template):
    added = {str(tokenizer.token_to_id(text)): {"content": text, "lstrip": False, "normalized": False, "rstrip": False,
                                                "single_word": False, "special": text in SPECIAL}
             for text in SPECIAL + ADDED}
    return {"add_bos_token": False, "add_prefix_space": False, "added_tokens_decoder": added,
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "bos_token": None,
            "chat_template": chat_template,
            "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "errors": "replace",
            "model_max_length": 4096,
            "pad_token": "<|endoftext|>", "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer",
            "unk_token": None}


def encode(tokenizer, texts, end):
    """All texts as one array, each followed by <|endoftext|>."""
    parts = []
    for first in range(0, len(texts), 4096):
        for encoding in tokenizer.encode_batch(texts[first:first + 4096]):
            parts.append(np.array(encoding.ids + [end], dtype=np.uint16))
    return np.concatenate(parts)


def save(path, ids):
    # two bytes a token, and LZMA told so: a quarter smaller than its defaults
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 3, "lp": 1, "pb": 1}]
    path.write_bytes(lzma.compress(ids.astype("<u2").tobytes(), filters=filters))
    print(f"{path.name}: {len(ids) / 1e6:.2f} M tokens, {path.stat().st_size / 1e6:.1f} MB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the corpus; the arrays are written here")
    parser.add_argument("--tokenizer", type=Path, help="folder with tokenizer.json and tokenizer_config.json to keep")
    parser.add_argument("--chat-template", type=Path,
                        help="for a new tokenizer: the template file, copied byte for byte")
    parser.add_argument("--vocab", type=int, default=6144,
                        help="vocabulary size with all special tokens (default %(default)s)")
    arguments = parser.parse_args()
    if arguments.vocab % 64:
        parser.error("--vocab must be a multiple of 64")
    if (arguments.tokenizer is None) == (arguments.chat_template is None):
        parser.error("either --tokenizer or --chat-template is needed")
    data = arguments.data
    train = (data / "train.txt").read_text().split("\n\f\n")
    conversations = [json.loads(line) for line in open(data / "chat.jsonl")]
    if arguments.tokenizer:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile(arguments.tokenizer / name, data / name)
        tokenizer = Tokenizer.from_file(str(data / "tokenizer.json"))
        chat_template = json.loads((data / "tokenizer_config.json").read_text(encoding="utf-8"))["chat_template"]
    else:
        chat_template = arguments.chat_template.read_bytes().decode("utf-8")
        spoken = [" ".join(question + "\n" + answer for question, answer in c["turns"]) for c in conversations[::5]]
        tokenizer = train_tokenizer((text for texts in (train[::2], spoken) for text in texts), arguments.vocab)
        tokenizer.save(str(data / "tokenizer.json"), pretty=False)
        (data / "tokenizer_config.json").write_text(
            json.dumps(tokenizer_config(tokenizer, chat_template), indent=2, ensure_ascii=False) + "\n")
    template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(chat_template)
    end = tokenizer.token_to_id("<|endoftext|>")
    save(data / "val.u16.xz", encode(tokenizer, (data / "val.txt").read_text().split("\n\f\n"), end))
    save(data / "chat.u16.xz", encode(tokenizer, [render(template, c) for c in conversations], end))
    save(data / "text.u16.xz", encode(tokenizer, train, end))


if __name__ == "__main__":
    main()
