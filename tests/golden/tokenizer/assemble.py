"""Puts the tokenizer of Qwen3 together from the shared data: vocab.json, merges.txt and the skeleton of tokenizer.json."""
import json
import pathlib
import re

SHARED = pathlib.Path(__file__).resolve().parents[4] / "shared" / "data"


def assemble_skeleton(shared=SHARED):
    """The tokenizer.json without its vocabulary and merges."""
    text = (pathlib.Path(shared) / "qwen-tokenizer" / "qwen3-4b-tokenizer.json.skeleton.txt").read_text(encoding="utf-8")
    return json.loads(re.sub(r",(\s*})", r"\1", text))  # the model ends where its vocabulary was cut out


def assemble(shared=SHARED, pairs=False, plain=False):
    """The tokenizer.json as a dict. pairs: merges as ["a", "b"], else "a b". plain: without added tokens."""
    folder = pathlib.Path(shared) / "qwen-tokenizer"
    whole = assemble_skeleton(shared)
    merges = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    merges = [line for line in merges if line and not line.startswith("#version")]
    whole["model"]["vocab"] = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    whole["model"]["merges"] = [line.split(" ") for line in merges] if pairs else merges
    if plain:
        whole["added_tokens"] = []
    return whole


def write(path, **options):
    """Writes tokenizer.json and tokenizer_config.json to the folder `path`."""
    path = pathlib.Path(path)
    path.mkdir(parents=True, exist_ok=True)
    (path / "tokenizer.json").write_text(json.dumps(assemble(**options), ensure_ascii=False), encoding="utf-8")
    shared = pathlib.Path(options.get("shared", SHARED)) / "qwen-tokenizer"
    (path / "tokenizer_config.json").write_bytes((shared / "qwen3-4b-tokenizer_config.json").read_bytes())
    return path


def byte_alphabet():
    """GPT-2's alphabet, in which token files write bytes: {character: byte}."""
    printable = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or 174 <= b]
    others = [b for b in range(256) if b not in printable]
    return {**{chr(b): b for b in printable}, **{chr(256 + i): b for i, b in enumerate(others)}}
