#!/usr/bin/env python3
"""Writes the golden checkpoints and vectors: what Hugging Face's transformers computes for tiny random Qwen models.

    python tests/golden/make_golden.py            # rewrites tests/golden/{qwen2,qwen3}-{fp32,bf16,fp16}
    python tests/golden/make_golden.py --sample   # rewrites tests/golden/sample, after weights/sample/small has changed

Needs torch, transformers, tokenizers and safetensors (the tests that read the result need none of them). Each folder is
a checkpoint in Hugging Face layout, written by save_pretrained, with a byte-level tokenizer and the family's chat
template, so that it can be served; and vectors.safetensors:

    ids_K      [n]    i32   prompt K
    rows_K     [r]    i32   the positions whose logits are stored
    logits_K   [r, V] f32   Hugging Face's logits there, run in fp32 (weights of the dtype, upcast)
    own_K      [1]    f32   ||HF in the dtype - HF in fp32|| over those rows: what a correct run in the dtype costs
    greedy     [m]    i32   fp32 only: what Hugging Face generates greedily after the first 100 ids of the last prompt

Prompt 0 stands for eight prompts of length one: ids_0 holds their ids, and row i is the logits after ids_0[i] alone.
One such row says little about rounding (its few dozen hidden values share their errors); eight do.

The folder sample holds vectors only: those of the trained model weights/sample/small on the text beside it. There
logits_K is f16, whose rounding is a hundredth of what is measured.

The shapes are awkward on purpose: three query heads to a KV head, a head_dim that is not hidden/heads (qwen3), a
vocabulary with a padded tail, sizes that are no multiple of 64. Weights are scaled so that logits spread over several
units, biases and norm weights are random, a few K biases are large as in Qwen2.5. The bound on size is 4 MB for
everything, hence two layers in fp32, three in the 16-bit types."""

import argparse
import json
import pathlib
import shutil

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
VOCAB = 320  # 256 bytes, 40 merges, 4 added tokens, and a padded tail that no text reaches
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SPLIT = (  # Qwen's pre-tokenizer
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def make_tokenizer():
    """Byte-level BPE with forty merges learnt from this repository's licence; the three ChatML tokens, and one that is
    added but not special (as <think> in Qwen3)."""
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    t.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=296, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    t.train_from_iterator((ROOT / "LICENSE").read_text().splitlines(), trainer)
    t.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in SPECIALS])
    t.add_tokens([AddedToken("<think>", normalized=False, special=False)])
    assert t.get_vocab_size() == 300
    return t


def write_tokenizer(t, folder, template):
    t.save(str(folder / "tokenizer.json"))
    added = {
        str(i): {
            "content": a.content,
            "lstrip": False,
            "normalized": False,
            "rstrip": False,
            "single_word": False,
            "special": a.special,
        }
        for i, a in sorted(t.get_added_tokens_decoder().items())
    }
    config = {
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "bos_token": None,
        "chat_template": template,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": 2048,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def make_model(family, n_layers, ids):
    common = dict(
        vocab_size=VOCAB,
        hidden_size=96,
        intermediate_size=112,
        num_hidden_layers=n_layers,
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
        rope_theta=1e6,
        bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<|endoftext|>"],
    )
    if family == "qwen2":
        config = Qwen2Config(**common, num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True)
        model = Qwen2ForCausalLM(config)
    else:
        config = Qwen3Config(
            **common, num_attention_heads=6, num_key_value_heads=2, head_dim=32, tie_word_embeddings=False
        )
        model = Qwen3ForCausalLM(config)
    # A residual stream of about unit size, logits with a spread of about three, attention neither flat nor one-hot.
    for name, p in model.named_parameters():
        if "norm" in name:
            p.data = 1 + 0.25 * torch.randn_like(p)
        elif name.endswith("bias"):
            p.data = (0.1 if "v_proj" in name else 0.5) * torch.randn_like(p)  # v's would be the same in every token
            if "k_proj" in name:
                p.data[::11] += 8.0
        elif "embed_tokens" in name or "lm_head" in name:
            p.data = 0.3 * torch.randn_like(p)
        elif "q_proj" in name or "k_proj" in name:
            p.data = torch.randn_like(p) * 0.6 / p.shape[1] ** 0.5
        elif "o_proj" in name or "down_proj" in name:  # enough for tied embeddings not to repeat their input for ever
            p.data = torch.randn_like(p) * 2.5 / p.shape[1] ** 0.5
        else:
            p.data = torch.randn_like(p) * 0.9 / p.shape[1] ** 0.5
    return model


@torch.inference_mode()
def logits(model, batches):
    """[sum of rows, V] f32 for a list of (ids, rows)."""
    return torch.cat([model(ids[None]).logits[0, rows].float() for ids, rows in batches])


def make_folder(family, dtype_name, tokenizer, template, seed):
    torch.manual_seed(seed)
    dtype = DTYPES[dtype_name]
    folder = HERE / f"{family}-{dtype_name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    ids = {s: tokenizer.token_to_id(s) for s in SPECIALS}

    model = make_model(family, 2 if dtype_name == "fp32" else 3, ids).eval()
    own = model.to(dtype)
    # One checkpoint comes in shards, with an index.
    sharded = dict(max_shard_size="200KB") if (family, dtype_name) == ("qwen3", "bf16") else {}
    own.save_pretrained(folder, **sharded)
    write_tokenizer(tokenizer, folder, template)

    cls = type(model)
    own = cls.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa").eval()
    full = cls.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    assert own.dtype == dtype and full.dtype == torch.float32
    if family == "qwen3" and dtype == torch.bfloat16:
        assert len(list(folder.glob("model-*-of-*.safetensors"))) >= 2

    print(f"{family}-{dtype_name}: {sum(p.numel() for p in full.parameters())} parameters")
    edges = [0, 1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 99, 100, 101, 127, 128, 129, 159, 160]
    prompts = [torch.randint(0, VOCAB, (n,)) for n in (8, 37, 200)]
    vectors = compare(own, full, prompts, edges)
    if dtype == torch.float32:
        start = prompts[2][:100]
        out = full.generate(start[None], max_new_tokens=24, do_sample=False, eos_token_id=None)[0, 100:]
        vectors["greedy"] = out.int()
        print("  greedy:", out.tolist())
    save_file(vectors, folder / "vectors.safetensors")
    for p in folder.iterdir():
        p.chmod(0o644)


def compare(own, full, prompts, edges, store=torch.float32):
    """The vectors of two runs of a model: prompt 0 one id at a time,
    of the others the rows in `edges` and the last two."""
    vectors = {}
    for k, prompt in enumerate(prompts):
        n = len(prompt)
        if k == 0:
            rows = torch.arange(n)
            batches = [(prompt[i : i + 1], torch.tensor([0])) for i in range(n)]
        else:
            rows = torch.tensor(sorted({r for r in edges + [n - 2, n - 1] if r < n}))
            batches = [(prompt, rows)]
        reference, mine = logits(full, batches), logits(own, batches)
        distance = (mine - reference).norm()
        print(f"  prompt {k}: {n:3} ids, {len(rows):2} rows, logits' spread {reference.std():.2f}, "
              f"relative distance {distance / reference.norm():.2e}")  # fmt: skip
        vectors |= {
            f"ids_{k}": prompt.int(),
            f"rows_{k}": rows.int(),
            f"logits_{k}": reference.to(store).contiguous(),
            f"own_{k}": distance[None],
        }
    return vectors


def make_sample():
    """A trained model has what random ones lack: outliers, sharp attention, confident logits."""
    model, folder = ROOT / "weights/sample/small", HERE / "sample"
    folder.mkdir(exist_ok=True)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    text = torch.tensor(tokenizer.encode((model.parent / "heldout.txt").read_text()).ids)
    dtype = getattr(torch, json.loads((model / "config.json").read_text())["torch_dtype"])
    own = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, attn_implementation="sdpa").eval()
    full = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32, attn_implementation="eager").eval()
    print("sample")
    prompts = [text[:8], text[100:137], text[1000:1500]]
    vectors = compare(own, full, prompts, [0, 5, 16, 255, 256, 400], store=torch.float16)
    save_file(vectors, folder / "vectors.safetensors")
    (folder / "vectors.safetensors").chmod(0o644)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--templates",
        type=pathlib.Path,
        default=ROOT / "../shared/data/chat-templates",
        help="folder with Qwen-Qwen2.5-7B-Instruct.jinja and Qwen-Qwen3-0.6B.jinja",
    )
    parser.add_argument("--sample", action="store_true", help="only the vectors of weights/sample/small")
    args = parser.parse_args()
    if args.sample:
        return make_sample()
    torch.use_deterministic_algorithms(True)
    tokenizer = make_tokenizer()
    templates = {"qwen2": "Qwen-Qwen2.5-7B-Instruct.jinja", "qwen3": "Qwen-Qwen3-0.6B.jinja"}
    for f, (family, name) in enumerate(templates.items()):
        template = (args.templates / name).read_text()
        for d, dtype_name in enumerate(DTYPES):
            make_folder(family, dtype_name, tokenizer, template, seed=1000 * f + d)
    total = sum(p.stat().st_size for p in HERE.glob("qwen*/*"))
    print(f"{total / 1e6:.2f} MB in all")
    assert total < 4.2e6


if __name__ == "__main__":
    main()
