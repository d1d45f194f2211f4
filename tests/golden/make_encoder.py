#!/usr/bin/env python3
"""Writes the golden encoders and vectors: what Hugging Face's transformers computes for tiny random BERTs.

    python tests/golden/make_encoder.py            # rewrites tests/golden/bert-{fp32,bf16,fp16}

Needs torch, transformers and safetensors (the tests that read the result need none of them). Each folder is a
checkpoint in Hugging Face layout with sentence-transformers' files and a small WordPiece vocabulary, so that it can be
served; and vectors.safetensors:

    ids_K     [n]        i32   text K
    vectors   [texts, C] f32   Hugging Face's vectors, run in fp32 (weights of the dtype, upcast)
    own       [1]        f32   ||HF in the dtype - HF in fp32|| over all of them: what a correct run in the dtype costs

The three differ in what else there is to get wrong: head_dim 32, 64 and 18, the mean and CLS, normalised and not, names
with and without "bert.", a pooler and position_ids that are surplus, widths that are no multiple of 64."""

import json
import pathlib
import shutil
import string

import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

HERE = pathlib.Path(__file__).resolve().parent
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "of", "and", "kernel", "vector", "##ing", "##er", "bank", "river", "money", "small", "large"]
CHARACTERS = string.ascii_lowercase + string.digits
VOCAB = SPECIALS + WORDS + list(string.punctuation) + list(CHARACTERS) + ["##" + c for c in CHARACTERS]
POSITIONS = 160
LENGTHS = [1, 2, 3, 15, 16, 17, 33, 64, 65, 127, 160]
CASES = {  # dtype, hidden, heads, feed-forward, layers, pooling, normalised, prefix, surplus
    "fp32": (torch.float32, 96, 3, 112, 2, "mean", True, "", True),
    "bf16": (torch.bfloat16, 128, 2, 200, 3, "cls", True, "", False),
    "fp16": (torch.float16, 90, 5, 130, 3, "mean", False, "bert.", True),
}


def make_model(hidden, heads, ffn, layers):
    """Weights under which attention is neither flat nor one-hot, and every bias and norm matters."""
    config = BertConfig(vocab_size=len(VOCAB), hidden_size=hidden, num_attention_heads=heads, intermediate_size=ffn,
                        num_hidden_layers=layers, max_position_embeddings=POSITIONS, layer_norm_eps=1e-12)  # fmt: skip
    model = BertModel(config)
    for name, p in model.named_parameters():
        if "LayerNorm.weight" in name:
            p.data = 1 + 0.25 * torch.randn_like(p)
        elif name.endswith("bias"):
            p.data = 0.3 * torch.randn_like(p)
        elif "embeddings" in name:
            p.data = (0.6 if "word" in name else 0.3) * torch.randn_like(p)
        else:
            p.data = torch.randn_like(p) * 1.2 / p.shape[1] ** 0.5
    return model.eval()


def write_json(path, value):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n")


def write_folder(folder, model, prefix, surplus, pooling, normalize):
    state = {prefix + k: v.contiguous() for k, v in model.state_dict().items() if surplus or "pooler" not in k}
    if surplus:
        state[prefix + "embeddings.position_ids"] = torch.arange(POSITIONS)[None]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    config = model.config.to_dict() | {"architectures": ["BertModel"], "dtype": str(model.dtype).split(".")[1]}
    config.pop("transformers_version", None)
    write_json(folder / "config.json", config)
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    write_json(folder / "tokenizer_config.json", {"do_lower_case": True, "model_max_length": POSITIONS})
    kinds = {"cls_token": pooling == "cls", "mean_tokens": pooling == "mean", "max_tokens": False}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": model.config.hidden_size}
               | {f"pooling_mode_{k}": v for k, v in kinds.items()})  # fmt: skip
    modules = ["Transformer", "Pooling"] + ["Normalize"] * normalize
    paths = ["", "1_Pooling", "2_Normalize"]
    write_json(folder / "modules.json", [
        {"idx": i, "name": str(i), "path": paths[i], "type": "sentence_transformers.models." + m}
        for i, m in enumerate(modules)
    ])  # fmt: skip
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": POSITIONS, "do_lower_case": False})


@torch.inference_mode()
def encode(model, texts, pooling, normalize):
    rows = []
    for ids in texts:
        hidden = model(ids[None]).last_hidden_state[0].float()
        rows.append(hidden[0] if pooling == "cls" else hidden.mean(0))
    vectors = torch.stack(rows)
    return torch.nn.functional.normalize(vectors, dim=1) if normalize else vectors


def make(name):
    dtype, hidden, heads, ffn, layers, pooling, normalize, prefix, surplus = CASES[name]
    torch.manual_seed(sorted(CASES).index(name) + 1)
    folder = HERE / f"bert-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    own = make_model(hidden, heads, ffn, layers).to(dtype)
    write_folder(folder, own, prefix, surplus, pooling, normalize)
    full = BertModel(own.config, add_pooling_layer=True).eval()
    full.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in own.state_dict().items()})
    texts = [torch.randint(0, len(VOCAB), (n,)) for n in LENGTHS]
    vectors, mine = encode(full, texts, pooling, normalize), encode(own, texts, pooling, normalize)
    distance = (mine - vectors).norm()
    alike = torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=2)
    print(f"bert-{name}: {sum(p.numel() for p in full.parameters())} parameters, relative distance "
          f"{distance / vectors.norm():.2e}, cosine between texts {alike.fill_diagonal_(0).max():.2f} at most")  # fmt: skip
    save_file({f"ids_{k}": t.int() for k, t in enumerate(texts)} | {"vectors": vectors.contiguous(), "own": distance[None]},
              folder / "vectors.safetensors")  # fmt: skip
    for p in folder.rglob("*"):
        if p.is_file():
            p.chmod(0o644)


if __name__ == "__main__":
    for case in CASES:
        make(case)
