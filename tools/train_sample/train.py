#!/usr/bin/env python3
"""Trains a sample model, small or large: the Qwen3 architecture, tied embeddings, on one GPU in minutes.

    x = E[t];  per layer: x += Wo attention(rope(norm(Wq n)), rope(norm(Wk n)), Wv n), n = norm(x)
                          x += Wdown(silu(Wgate n) * Wup n),                           n = norm(x)
    logits = norm(x) E'

A batch mixes windows of text, windows of conversations, and windows of conversations that answer from sources, which
worker processes make while training runs (sources.py). schedule() has the shares. In conversations an answer's tokens
weigh 1 and all others 0.1; where it answers from sources they weigh more, most of all the first tokens, which choose
the sentence, and the number of the source. Matrices are trained by Muon (momentum, orthogonalised by five Newton-Schulz
steps; Jordan et al. 2024), embeddings and norms by AdamW. The schedule follows wall time: --minutes counts from the
start of the program and covers loading and compiling; up to --check-seconds of checks follow. Every --save-seconds the
checkpoint is written, so that a run that is cut off leaves one.

Reads from --data what prepare.py and sources.py wrote, and heldout.txt. Writes a folder in Hugging Face layout to --out
and, with --parts, the same as a tar.gz in parts of 15 MiB. Last, it prints the score on sources-heldout.jsonl (greedy:
is the passage right, is the sentence right, NOT_FOUND where it is not there), loads the folder with transformers, and
prints the held-out perplexity: heldout.txt is tokenised whole and split into consecutive windows of 1024 tokens; in
each window every token but the first is scored; perplexity = exp(mean negative log-likelihood), logits in fp32 from the
bf16 model.

Example:
    tools/train_sample/train.py --data .train --size small --out small --minutes 2.6
    tools/train_sample/train.py --data .train --size large --out large --minutes 6
"""
import argparse
import io
import json
import lzma
import math
import multiprocessing
import os
import queue
import shutil
import sys
import tarfile
import threading
import time
import traceback
from pathlib import Path

START = time.time()                  # before the long imports: the schedule counts from here

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import sources

WINDOW = 1024                        # of the perplexity protocol
PART = 15 << 20
# AWQ with groups of 128: every matrix of the large one has a multiple of 128 inputs
SIZES = {"small": dict(layers=6, hidden=256, heads=4, kv_heads=2, head_dim=64, ffn=640),
         "large": dict(layers=10, hidden=512, heads=8, kv_heads=2, head_dim=64, ffn=1024)}


# ------------------------------------------------------------------------------------------------------- model

class Norm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x):
        y = x.float()
        return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps) * self.weight).to(x.dtype)


def rotate(x, cos, sin):             # [B, H, T, D]; the halves of a head are the pairs, as in Hugging Face
    a, b = x.float().chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads, self.kv_heads, self.dim = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        self.q_proj = nn.Linear(c["hidden_size"], self.heads * self.dim, bias=False)
        self.k_proj = nn.Linear(c["hidden_size"], self.kv_heads * self.dim, bias=False)
        self.v_proj = nn.Linear(c["hidden_size"], self.kv_heads * self.dim, bias=False)
        self.o_proj = nn.Linear(self.heads * self.dim, c["hidden_size"], bias=False)
        self.q_norm, self.k_norm = Norm(self.dim, c["rms_norm_eps"]), Norm(self.dim, c["rms_norm_eps"])

    def forward(self, x, cos, sin):
        b, t, _ = x.shape
        q = rotate(self.q_norm(self.q_proj(x).view(b, t, self.heads, self.dim)).transpose(1, 2), cos, sin)
        k = rotate(self.k_norm(self.k_proj(x).view(b, t, self.kv_heads, self.dim)).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(b, t, self.kv_heads, self.dim).transpose(1, 2)
        k, v = (y.repeat_interleave(self.heads // self.kv_heads, dim=1) for y in (k, v))
        o = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v, is_causal=True)
        return self.o_proj(o.transpose(1, 2).reshape(b, t, -1))


class FeedForward(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.gate_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.up_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        self.down_proj = nn.Linear(c["intermediate_size"], c["hidden_size"], bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm = Norm(c["hidden_size"], c["rms_norm_eps"])
        self.self_attn = Attention(c)
        self.post_attention_layernorm = Norm(c["hidden_size"], c["rms_norm_eps"])
        self.mlp = FeedForward(c)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Qwen3(nn.Module):
    """Parameter names are those of the checkpoint, without the prefix "model."."""

    def __init__(self, c, context):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.norm = Norm(c["hidden_size"], c["rms_norm_eps"])
        angle = torch.outer(torch.arange(context).float(),
                            c["rope_theta"] ** (-torch.arange(0, c["head_dim"], 2).float() / c["head_dim"]))
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=5.12 / p.shape[1] if "embed" in name else p.shape[1] ** -0.5)
            if "o_proj" in name or "down_proj" in name:
                nn.init.zeros_(p)

    def hidden(self, ids):
        x = self.embed_tokens(ids)
        if x.is_cuda:
            x = x.to(torch.bfloat16)                   # the residual stream as at inference
        cos, sin = self.cos[:ids.shape[1]], self.sin[:ids.shape[1]]
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)

    def forward(self, ids, targets, weights):
        """The weighted mean loss of a batch [B, T]."""
        logits = F.linear(self.hidden(ids), self.embed_tokens.weight)
        losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")
        weights = weights.flatten()
        return (losses * weights).sum() / weights.sum()


def make_config(a, n_vocab, ids):
    return {"architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
            "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"], "head_dim": a.head_dim,
            "hidden_act": "silu",
            "hidden_size": a.hidden, "initializer_range": 0.02, "intermediate_size": a.ffn,
            "max_position_embeddings": 4096,
            "max_window_layers": a.layers, "model_type": "qwen3", "num_attention_heads": a.heads,
            "num_hidden_layers": a.layers,
            "num_key_value_heads": a.kv_heads, "rms_norm_eps": 1e-6, "rope_scaling": None, "rope_theta": 10000,
            "sliding_window": None, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
            "transformers_version": "4.51.0",
            "use_cache": True, "use_sliding_window": False, "vocab_size": n_vocab}


# --------------------------------------------------------------------------------------------------- optimizer

class Muon:
    """Momentum, orthogonalised. Matrices of one shape (or its transpose) are stacked and go through together."""

    def __init__(self, params, rate, momentum=0.95, decay=0.01):
        self.rate, self.momentum, self.decay = rate, momentum, decay
        self.groups = {}
        for p in params:
            self.groups.setdefault(tuple(sorted(p.shape)), []).append(p)
        self.state = {shape: torch.zeros(len(group), *shape, device=group[0].device) for shape,
                      group in self.groups.items()}

    @staticmethod
    def orthogonalise(g):            # [N, rows <= cols]
        x = g.to(torch.bfloat16 if g.is_cuda else g.dtype)
        x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
        for _ in range(5):
            s = x @ x.mT
            x = 3.4445 * x + (-4.7750 * s + 2.0315 * (s @ s)) @ x
        return x.float()

    @torch.no_grad()
    def step(self, factor, momentum):
        for shape, group in self.groups.items():
            flips = [p.shape[0] > p.shape[1] for p in group]
            g = torch.stack([p.grad.mT if flip else p.grad for p, flip in zip(group, flips)])
            m = self.state[shape]
            m.lerp_(g, 1 - momentum)
            update = self.orthogonalise(g.lerp(m, momentum))
            rate = self.rate * factor
            torch._foreach_mul_(group, 1 - rate * self.decay)
            scaled = [(u.mT if flip else u) * max(1, p.shape[0] / p.shape[1]) ** 0.5 for u, p,
                      flip in zip(update, group, flips)]
            torch._foreach_add_(group, scaled, alpha=-rate)


# -------------------------------------------------------------------------------------------------------- data

def load(path):
    return np.frombuffer(lzma.decompress(path.read_bytes()), dtype="<u2")


def answer_weights(ids, special, other):
    """1 on the tokens of assistant turns with their <|im_end|>, `other` elsewhere. A turn's head is three tokens long:
    <|im_start|> assistant newline."""
    weights = np.full(len(ids), other, np.float32)
    starts = np.flatnonzero(ids == special["<|im_start|>"])
    ends = np.flatnonzero(ids == special["<|im_end|>"])
    ends = ends[np.searchsorted(ends, starts)]
    for start, end in zip(starts.tolist(), ends.tolist()):
        if special["assistant"] == tuple(ids[start + 1:start + 1 + len(special["assistant"])].tolist()):
            weights[start + 1 + len(special["assistant"]):end + 1] = 1
    return weights


class Stream:
    """Token array on the device; windows start anywhere or at the start of a document."""

    def __init__(self, ids, end, device, weights=None, at_start=1.0):
        starts = np.concatenate(([0], np.flatnonzero(ids == end) + 1))
        self.ids = torch.from_numpy(ids.astype(np.int16)).to(device)
        self.weights = None if weights is None else torch.from_numpy(weights).to(device)
        self.starts = torch.from_numpy(starts).to(device)
        self.at_start = at_start

    def draw(self, n, context):
        device, last = self.ids.device, len(self.ids) - context - 1
        free = torch.randint(0, last, (n,), device=device)
        document = self.starts[torch.randint(0, len(self.starts), (n,), device=device)].clamp(max=last - 1)
        at = torch.where(torch.rand(n, device=device) < self.at_start, document, free)
        index = at[:, None] + torch.arange(context + 1, device=device)
        ids = self.ids[index].long()
        weights = torch.ones(n, context, device=device) if self.weights is None else self.weights[index[:, 1:]]
        return ids[:, :-1], ids[:, 1:], weights


# Weights of an answer's tokens, of its first three, which choose the sentence, and of its source's number. They are
# more than 1 since a window has only some 200 of them, and a window of plain text 1,536 that weigh 1.
ANSWER, FIRST, NUMBER = 2.0, 5.0, 6.0


def source_rows(path, tokenizer, special, context, seed, progress, out):
    """A worker: shards of 32 rows (ids [32, context + 1] uint16, weights [32, context] float16), without end."""
    maker, pieces, weighted, n = sources.Maker(path, seed), [], [], 0
    while True:
        rows = []
        while len(rows) < 32:
            conversation = maker.conversation(progress.value)
            if conversation is None:
                continue
            ids = np.array(tokenizer.encode(sources.chatml(**conversation)).ids + [special["<|endoftext|>"]], np.uint16)
            weights = answer_weights(ids, special, 0.1)
            answer = np.flatnonzero(np.diff(weights >= 1, prepend=False) & (weights >= 1))
            for first in answer.tolist():
                end = first + int(np.flatnonzero(ids[first:] == special["<|im_end|>"])[0])
                weights[first:end + 1] = ANSWER
                weights[first:min(first + 3, end)] = FIRST
                if end - first > 3 and ids[end - 1] == special["]"]:
                    weights[end - 2] = NUMBER
            pieces.append(ids)
            weighted.append(weights)
            n += len(ids)
            if n > context:
                rows.append((np.concatenate(pieces)[:context + 1], np.concatenate(weighted)[1:context + 1]))
                pieces, weighted, n = [], [], 0
        ids, weights = zip(*rows)
        out.put((np.stack(ids), np.stack(weights).astype(np.float16)))


class SourceStream:
    """The last rows that the workers have made, on the device; new ones replace the oldest."""

    def __init__(self, a, special, n_workers):
        from tokenizers import Tokenizer
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        tokenizer = Tokenizer.from_file(str(a.data / "tokenizer.json"))
        context = multiprocessing.get_context("fork")
        self.progress, self.queue = context.Value("d", 0.0), context.Queue(256)
        self.workers = [context.Process(target=source_rows, daemon=True, args=(
            a.data / "sources.jsonl.xz", tokenizer, special, a.context, seed, self.progress, self.queue))
            for seed in range(1, n_workers + 1)]
        for worker in self.workers:
            worker.start()
        self.capacity, self.made = 16384, 0
        self.shape = a.context

    def place(self, device):
        self.device = device
        self.ids = torch.zeros(self.capacity, self.shape + 1, dtype=torch.int16, device=device)
        self.weights = torch.zeros(self.capacity, self.shape, dtype=torch.float16, device=device)

    def take(self, limit, wait):
        for _ in range(limit):
            try:
                ids, weights = self.queue.get(block=wait, timeout=60 if wait else None)
            except queue.Empty:
                return
            at = self.made % self.capacity
            self.ids[at:at + len(ids)] = torch.from_numpy(ids.astype(np.int16)).to(self.device)
            self.weights[at:at + len(ids)] = torch.from_numpy(weights).to(self.device)
            self.made += len(ids)

    def draw(self, n, _context):
        if not self.made:
            self.take(1, True)
            if not self.made:
                raise RuntimeError("no worker has made a conversation in 60 s")
        self.take(4, False)
        rows = torch.randint(0, min(self.made, self.capacity), (n,), device=self.device)
        ids = self.ids[rows].long()
        return ids[:, :-1], ids[:, 1:], self.weights[rows].float()

    def stop(self):
        for worker in self.workers:
            worker.kill()


# ------------------------------------------------------------------------------------------------------ output

def write_parts(out, folder):
    """The checkpoint's folder as NAME.0, NAME.1, ...: cat NAME.? | tar xz"""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        archive.add(out, arcname=out.name)
    whole = buffer.getbuffer()
    folder.mkdir(parents=True, exist_ok=True)
    for i, first in enumerate(range(0, len(whole), PART)):
        (folder / f"{out.name}.{i}").write_bytes(whole[first:first + PART])


def save(model, config, special, data, out):
    """The checkpoint in Hugging Face layout, bf16."""
    from safetensors.torch import save_file
    out.mkdir(parents=True, exist_ok=True)
    tensors = {"model." + name: p.detach().to(torch.bfloat16).cpu().contiguous() for name,
               p in model.named_parameters()}
    save_file(tensors, str(out / "model.safetensors"), metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (out / "generation_config.json").write_text(json.dumps(
        {"bos_token_id": special["<|endoftext|>"], "do_sample": True,
         "eos_token_id": [special["<|im_end|>"], special["<|endoftext|>"]], "pad_token_id": special["<|endoftext|>"],
         "temperature": 0.7, "top_k": 20, "top_p": 0.8, "transformers_version": "4.51.0"}, indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(data / name, out / name)


def perplexity(model, ids, device):
    total = count = 0
    with torch.no_grad():
        for first in range(0, len(ids), WINDOW):
            window = torch.tensor([ids[first:first + WINDOW]], device=device)
            if window.shape[1] < 2:
                break
            logits = model(window).logits[0].float()
            total += F.cross_entropy(logits[:-1], window[0, 1:], reduction="sum").double().item()
            count += window.shape[1] - 1
    return math.exp(total / count), count


@torch.no_grad()
def greedy(model, prompts, end, device, n_tokens, deadline):
    """Answers to prompts (lists of ids), None for those that there was no time for. There is no KV cache: for so small
    a model the whole again is fast enough."""
    answers = [[] for _ in prompts]
    for i, prompt in enumerate(prompts):
        if len(prompt) + n_tokens > model.cos.shape[0]:
            answers[i] = None
    order = sorted((i for i in range(len(prompts)) if answers[i] is not None), key=lambda i: len(prompts[i]))
    for first in range(0, len(order), 64):
        going = order[first:first + 64]
        for _ in range(n_tokens):
            if not going:
                break
            if time.time() > deadline:
                for i in going + order[first + 64:]:
                    answers[i] = None
                return answers
            rows = [prompts[i] + answers[i] for i in going]
            longest = max(map(len, rows))
            ids = torch.tensor([row + [end] * (longest - len(row)) for row in rows], device=device)
            with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
                x = model.hidden(ids)[torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])]
                tokens = F.linear(x, model.embed_tokens.weight).argmax(-1).tolist()
            for i, token in zip(going, tokens):
                answers[i].append(token)
            going = [i for i in going if answers[i][-1] != end]
    return answers


def check_sources(model, data, device, special, n, deadline):
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(str(data / "tokenizer.json"))
    rows = [json.loads(line) for line in open(data / "sources-heldout.jsonl", encoding="utf-8")][:n]
    texts = [sources.chatml(row["system"], row["turns"]).rsplit("<|im_start|>assistant\n", 1)[0] +
             "<|im_start|>assistant\n" for row in rows]
    prompts = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
    answers = greedy(model, prompts, special["<|im_end|>"], device, 90, deadline)
    done = [(row["turns"][0][1], tokenizer.decode(reply).strip(), row["turns"][0][0]) for row, reply in
            zip(rows, answers) if reply is not None]
    there = [(want, got) for want, got, _ in done if want != sources.NOT_FOUND]
    absent = [got for want, got, _ in done if want == sources.NOT_FOUND]
    if not there or not absent:
        print(f"sources: {len(done)} of {len(rows)} held-out questions were answered; no score")
        return
    cited = sum(want[-3:] == got[-3:] for want, got in there)
    print(f"sources, held out ({len(done)} of {len(rows)} answered): right passage {cited / len(there):.3f}, right "
          f"sentence {sum(want == got for want, got in there) / len(there):.3f}, wrongly not found "
          f"{sum(got == sources.NOT_FOUND for _, got in there) / len(there):.3f} of {len(there)}; not found where it "
          f"is not {sum(got == sources.NOT_FOUND for got in absent) / len(absent):.3f} of {len(absent)}", flush=True)
    for want, got, asked in done[:12]:
        print(f"    {asked.rsplit('Question: ', 1)[-1]}\n      wanted {want}\n      got    {got}")


PROMPTS = ["Hello!", "Who are you?", "What is a computer?", "What is the capital of France?",
           "What does the command ls do?",
           "Tell me a story about a fox.", "Tell me about databases.", "What is the opposite of hot?",
           "Who was Albert Einstein?",
           "How do I install a package?", "What is water?", "Explain what a transaction is.", "What is 2 plus 3?",
           "Write a short poem about the sea.", "What is the meaning of life?"]


def check(out, data, device, tokens, deadline):
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM, AutoTokenizer
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(str(out), dtype=torch.bfloat16).to(device).eval()
    ids = tokenizer.encode((data / "heldout.txt").read_text(encoding="utf-8"), add_special_tokens=False).ids
    value, count = perplexity(model, ids, device)
    print(f"heldout.txt: {len(ids)} tokens, {count} scored, perplexity {value:.4f} (transformers, bf16 on {device})",
          flush=True)
    exact = AutoModelForCausalLM.from_pretrained(str(out), dtype=torch.float32).to(device).eval()
    print(f"heldout.txt: perplexity {perplexity(exact, ids, device)[0]:.4f} (the same weights, computed in fp32)",
          flush=True)
    chat = AutoTokenizer.from_pretrained(str(out))
    torch.manual_seed(1)
    for prompt in PROMPTS:
        if time.time() > deadline:
            print("no time for more samples")
            return
        text = chat.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False,
                                        add_generation_prompt=True)
        prompt_ids = tokenizer.encode(text, add_special_tokens=False).ids
        reply = model.generate(torch.tensor([prompt_ids], device=device), max_new_tokens=tokens, do_sample=True,
                               temperature=0.7,
                               top_p=0.8, top_k=20)[0, len(prompt_ids):].tolist()
        print(f"\n>>> {prompt}\n{tokenizer.decode(reply, skip_special_tokens=False)}", flush=True)
    for prompt in ("The database server", "When you install a new package,"):
        prompt_ids = tokenizer.encode(prompt, add_special_tokens=False).ids
        reply = model.generate(torch.tensor([prompt_ids], device=device), max_new_tokens=tokens, do_sample=True,
                               temperature=0.7,
                               top_p=0.8, top_k=20)[0].tolist()
        print(f"\n||| {tokenizer.decode(reply, skip_special_tokens=False)}", flush=True)


# -------------------------------------------------------------------------------------------------------- main

def schedule(progress):
    """Learning-rate factor, and the shares of conversations and of answers from sources in a batch."""
    factor = min(1.0, progress / 0.01) * min(1.0, (1 - progress) / 0.6)
    late = max(0.0, (progress - 0.4) / 0.6)
    return max(factor, 0.0), 0.12 + 0.08 * late, 0.33 + 0.12 * late


def train(model, config, special, stream, a, device):
    end = special["<|endoftext|>"]
    chat_ids = load(a.data / "chat.u16.xz")
    chat = Stream(chat_ids, end, device, answer_weights(chat_ids, special, 0.1))
    text = Stream(load(a.data / "text.u16.xz"), end, device, at_start=0.3)
    val = Stream(load(a.data / "val.u16.xz"), end, device, at_start=0.0)
    print(f"text {len(text.ids) / 1e6:.2f} M tokens, chat {len(chat_ids) / 1e6:.2f} M, val {len(val.ids) / 1e6:.2f} M; "
          f"loaded after {time.time() - START:.0f} s", flush=True)
    torch.manual_seed(0)
    val_batch = val.draw(a.rows, a.context)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim == 1 or "embed" in name]
    muon = Muon(matrices, a.muon_rate)
    adam = torch.optim.AdamW(others, lr=a.adam_rate, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0,
                             fused=device == "cuda")

    stream.place(device)

    def draw(chats, cited):
        n_chat, n_cited = max(1, round(a.rows * chats)), max(1, round(a.rows * cited))
        return [torch.cat(parts) for parts in zip(text.draw(a.rows - n_chat - n_cited, a.context),
                                                  chat.draw(n_chat, a.context), stream.draw(n_cited, a.context))]

    def checkpoint(wait):
        nonlocal packing
        save(model, config, special, a.data, a.out)
        if a.parts:
            if packing:
                packing.join()
            packing = threading.Thread(target=write_parts, args=(a.out, a.parts))
            packing.start()
            if wait:
                packing.join()

    def loss_of(net, batch):
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            return net(*batch)

    net, how, packing = model, "eager", None
    if device == "cuda" and not a.eager:
        try:
            net = torch.compile(model, dynamic=False)
            loss_of(net, draw(0.2, 0.3)).backward()
            torch.cuda.synchronize()
            how = "torch.compile"
        except Exception as error:                     # whatever the compiler fails on, eager works
            print(f"torch.compile failed: {type(error).__name__}: {str(error)[:300]}", flush=True)
            net = model
        model.zero_grad(set_to_none=True)
    print(f"training in {how} mode from second {time.time() - START:.0f}", flush=True)

    seconds, begin, step, shown, saved, running = a.minutes * 60, time.time(), 0, time.time(), time.time(), None
    span = max(seconds - (begin - START), 1)
    while True:
        progress = (time.time() - begin) / span
        if progress >= 1 or step == a.steps:
            break
        stream.progress.value = progress
        factor, chats, cited = schedule(progress)
        loss = loss_of(net, draw(chats, cited))
        loss.backward()
        muon.step(factor, 0.85 + 0.1 * min(1, step / 300))
        for group in adam.param_groups:
            group["lr"] = a.adam_rate * factor
        adam.step()
        model.zero_grad(set_to_none=True)
        step += 1
        if step % 8 == 0:                              # keeps the host from running ahead of the clock
            value = loss.item()
            running = value if running is None else 0.95 * running + 0.05 * value
            if not math.isfinite(value):
                raise RuntimeError(f"loss is {value} at step {step}")
        if time.time() - shown > a.report or step in (1, 50):
            shown = time.time()
            with torch.no_grad():
                held = loss_of(model, val_batch).item()            # eager: no second compilation
            tokens = step * a.rows * a.context
            print(f"{100 * progress:5.1f}% step {step:6d} tokens {tokens / 1e6:8.1f} M "
                  f"{tokens / (time.time() - begin) / 1e6:5.2f} M/s "
                  f"rate {factor:.3f} rows made {stream.made} train {running or loss.item():.4f} val {held:.4f} "
                  f"{time.time() - START:5.0f} s", flush=True)
        if time.time() - saved > a.save_seconds:
            saved = time.time()
            checkpoint(False)
    checkpoint(True)
    with torch.no_grad():
        held = loss_of(model, val_batch).item()
    print(f"done: {step} steps, {step * a.rows * a.context / 1e6:.1f} M tokens, {time.time() - begin:.0f} s of "
          f"training, "
          f"val {held:.4f}, second {time.time() - START:.0f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True,
                        help="folder with the arrays, the tokenizer and heldout.txt")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--parts", type=Path, help="folder for the checkpoint as a tar.gz in parts")
    parser.add_argument("--minutes", type=float, default=5,
                        help="wall time of loading, compiling and training (default %(default)s)")
    parser.add_argument("--check-seconds", type=float, default=60, help="wall time of the checks (default %(default)s)")
    parser.add_argument("--save-seconds", type=float, default=60, help="between checkpoints (default %(default)s)")
    parser.add_argument("--steps", type=int, default=-1, help="stop after so many steps, for trying it out")
    parser.add_argument("--size", choices=sorted(SIZES), default="small", help="default %(default)s")
    for name in SIZES["small"]:
        parser.add_argument("--" + name.replace("_", "-"), type=int, help="default: that of the size")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 3),
                        help="processes that make conversations (default %(default)s)")
    parser.add_argument("--context", type=int, default=1536, help="tokens in a training window (default %(default)s)")
    parser.add_argument("--rows", type=int, default=44, help="windows in a batch (default %(default)s)")
    parser.add_argument("--muon-rate", type=float, default=0.02)
    parser.add_argument("--adam-rate", type=float, help="default 0.004, of the large one 0.003")
    parser.add_argument("--report", type=float, default=15, help="seconds between progress lines (default %(default)s)")
    parser.add_argument("--sample-tokens", type=int, default=150,
                        help="longest sample generation (default %(default)s)")
    parser.add_argument("--check-rows", type=int, default=512,
                        help="held-out questions on sources (default %(default)s)")
    parser.add_argument("--eager", action="store_true", help="do not try torch.compile")
    a = parser.parse_args()
    for name, value in SIZES[a.size].items():
        setattr(a, name, getattr(a, name) or value)
    a.adam_rate = a.adam_rate or {"small": 0.004, "large": 0.003}[a.size]

    vocabulary = json.loads((a.data / "tokenizer.json").read_text(encoding="utf-8"))
    special = {token["content"]: token["id"] for token in vocabulary["added_tokens"]}
    special["]"] = vocabulary["model"]["vocab"]["]"]
    n_vocab = len(vocabulary["model"]["vocab"]) + len(vocabulary["added_tokens"])
    from tokenizers import Tokenizer
    special["assistant"] = tuple(Tokenizer.from_file(str(a.data / "tokenizer.json")).encode("assistant\n").ids)
    stream = SourceStream(a, special, a.workers)       # before CUDA starts: the workers are forked

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    config = make_config(a, n_vocab, special)
    model = Qwen3(config, a.context).to(device)
    n_params = sum(p.numel() for p in model.parameters())
    print(f"{n_params / 1e6:.3f} M parameters, vocabulary {n_vocab}, torch {torch.__version__} on {device}", flush=True)

    status = 0
    try:
        train(model, config, special, stream, a, device)
    except Exception:
        traceback.print_exc()
        status = 1
        if not (a.out / "model.safetensors").exists() and all(torch.isfinite(p).all() for p in model.parameters()):
            save(model, config, special, a.data, a.out)
    stream.stop()
    sys.stdout.flush()
    end = time.time() + a.check_seconds
    try:
        check_sources(model, a.data, device, special, a.check_rows, time.time() + 0.6 * a.check_seconds)
        size = sum(path.stat().st_size for path in a.out.iterdir())
        print(f"{a.out}: {size} bytes in {len(list(a.out.iterdir()))} files", flush=True)
        check(a.out, a.data, device, a.sample_tokens, end)
    except Exception:
        traceback.print_exc()
        status = 1
    print(f"finished after {time.time() - START:.0f} s", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
