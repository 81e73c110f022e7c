#!/usr/bin/env python3
"""Goldens of the JinaBERT encoders, variants A and B, from an implementation in PyTorch.

Written from the papers' and model cards' equations (docs/models.md), independently of the engine:
float64 throughout, the n x n score matrix of every head in full, nothing tiled, nothing skipped.
The weights are pseudo-random and are not stored: a counter-based hash that needs only integer
arithmetic makes them here and in tests/support/golden_model.cc, bit for bit alike.

One of them is a reranker, too (the shape of the published ones): a pooler and a classifier on the
first token's state, whose logits are kept.

Needs: torch, numpy, safetensors. Run: make_encoder_goldens.py [--check-only]
Writes next to itself: encoder/manifest.json (shapes, lengths, token ranges, logits) and
encoder/<name>/model.safetensors (float32 vectors, un-normalised).
"""
import argparse
import json
import math
import os

import numpy as np
import torch
from safetensors.numpy import save_file

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "encoder")
VOCAB, CLS, SEP = 997, 101, 102
MASK64 = (1 << 64) - 1

# name, variant, hidden, heads, layers, intermediate
MODELS = [
    ("a_h8_c512", "A", 512, 8, 2, 512),
    ("a_h12_c384", "A", 384, 12, 3, 768),
    ("b_h12_c192", "B", 192, 12, 3, 384),
    ("b_h8_c512", "B", 512, 8, 2, 512),
]
RERANKER = "a_h12_c384"
LENGTHS = [1, 2, 17, 300, 3000]
# Passages by length: size in text tokens, then free token ranges.
PASSAGE_TOKENS = {17: [4], 300: [256, 97], 3000: [256]}
FREE_RANGES = {17: [(5, 6)], 300: [(0, 300), (13, 14)], 3000: [(1000, 1999), (2998, 3000)]}


# ---- pseudo-random numbers: FNV-1a of the name, then SplitMix64 of a counter -------------------

def name_key(name):
    key = 0xCBF29CE484222325
    for byte in name.encode():
        key = ((key ^ byte) * 0x100000001B3) & MASK64
    return key


def hashes(name, count):
    """count 64-bit hashes of the stream `name`."""
    with np.errstate(over="ignore"):
        x = np.uint64(name_key(name)) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(
            0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def uniform(name, shape, base1024, amplitude1024):
    """(base + amplitude*u)/1024 with u uniform in [-1, 1) on a grid of 2^-23; float32, rounded once."""
    u = (hashes(name, int(np.prod(shape))) >> np.uint64(40)).astype(np.int64) - (1 << 23)
    return ((base1024 * 2.0**23 + amplitude1024 * u.astype(np.float64)) / 2.0**33).astype(
        np.float32).reshape(shape)


def token_ids(name, length):
    ids = (hashes(f"{name}/ids/{length}", length) % np.uint64(VOCAB)).astype(np.int64)
    if length > 1:
        ids[0], ids[-1] = CLS, SEP
    return ids


# ---- weights --------------------------------------------------------------------------------------

def scales(variant, c, f):
    """Amplitudes in 1/1024: outputs of order one; logits of both signs up to 10-20."""
    sharp = math.sqrt(2.5)  # standard deviation of a component of q or k: 2.5 for a logit
    return {
        "linear": round(1024 * math.sqrt(3 / c)),
        "qk": round(1024 * math.sqrt(3 / c) * (sharp if variant == "A" else 1)),
        "qk_gain": round(1024 * (1 if variant == "A" else sharp)),
        "output": round(1024 * 1.5 * math.sqrt(3 / c)),
        "down": round(1024 * 1.5 * math.sqrt(3 / f)),
    }


def make_weights(name, variant, c, heads, layers, f):
    s = scales(variant, c, f)
    w = {}

    def add(tensor, shape, base, amplitude):
        w[tensor] = torch.from_numpy(uniform(f"{name}/{tensor}", shape, base, amplitude))

    def norm(tensor, gain=1024, beta=128):
        add(tensor + ".weight", (c,), gain, gain // 8)
        add(tensor + ".bias", (c,), 0, beta)

    add("embeddings.word_embeddings.weight", (VOCAB, c), 0, 1024)
    add("embeddings.token_type_embeddings.weight", (2, c), 0, 512)
    norm("embeddings.LayerNorm")
    for i in range(layers):
        p = f"encoder.layer.{i}."
        for part, scale in (("query", "qk"), ("key", "qk"), ("value", "linear")):
            add(f"{p}attention.self.{part}.weight", (c, c), 0, s[scale])
            add(f"{p}attention.self.{part}.bias", (c,), 0, 256)
        add(p + "attention.output.dense.weight", (c, c), 0, s["output"])
        add(p + "attention.output.dense.bias", (c,), 0, 128)
        norm(p + "attention.output.LayerNorm")
        if variant == "A":
            add(p + "mlp.gated_layers.weight", (2 * f, c), 0, s["linear"])
            add(p + "mlp.wo.weight", (c, f), 0, s["down"])
            add(p + "mlp.wo.bias", (c,), 0, 128)
            norm(p + "mlp.layernorm")
        else:
            norm(p + "attention.self.layer_norm_q", s["qk_gain"], 256)
            norm(p + "attention.self.layer_norm_k", s["qk_gain"], 256)
            norm(p + "layer_norm_1")
            norm(p + "layer_norm_2")
            add(p + "mlp.up_gated_layer.weight", (2 * f, c), 0, s["linear"])
            add(p + "mlp.down_layer.weight", (c, f), 0, s["down"])
            add(p + "mlp.down_layer.bias", (c,), 0, 128)
    if name == RERANKER:
        add("pooler.dense.weight", (c, c), 0, s["linear"])
        add("pooler.dense.bias", (c,), 0, 256)
        add("classifier.weight", (1, c), 0, 3 * s["linear"])
        add("classifier.bias", (1,), 0, 512)
    return w


# ---- the model --------------------------------------------------------------------------------------

def alibi_slopes(n):
    """Press et al. 2022: a geometric series, completed by every other term of the doubled one."""
    def series(m):
        return [2.0 ** (-8.0 * (i + 1) / m) for i in range(m)]
    if n & (n - 1) == 0:
        return series(n)
    lower = 1 << (n.bit_length() - 1)
    return series(lower) + series(2 * lower)[0::2][: n - lower]


class JinaBert(torch.nn.Module):
    """`rounded`: matrix operands pass through bfloat16, as a bf16 engine with wide sums does it."""

    def __init__(self, weights, variant, hidden, heads, layers, dtype, rounded=False):
        super().__init__()
        self.round = (lambda x: x.to(torch.bfloat16).to(dtype)) if rounded else (lambda x: x)
        self.w = {k: v.to(dtype) for k, v in weights.items()}
        self.variant, self.c, self.h, self.layers, self.dtype = variant, hidden, heads, layers, dtype
        self.max_logit = 0.0

    def linear(self, x, name):
        y = self.round(x) @ self.round(self.w[name + ".weight"]).T
        return y + self.w[name + ".bias"] if name + ".bias" in self.w else y

    def norm(self, x, name):
        return torch.nn.functional.layer_norm(
            x, (self.c,), self.w[name + ".weight"], self.w[name + ".bias"], eps=1e-12)

    def attention(self, x, p):
        n, d = x.shape[0], self.c // self.h
        q, k, v = (self.linear(x, f"{p}attention.self.{t}") for t in ("query", "key", "value"))
        if self.variant == "B":
            q = self.norm(q, p + "attention.self.layer_norm_q")
            k = self.norm(k, p + "attention.self.layer_norm_k")
        q, k, v = self.round(q), self.round(k), self.round(v)
        position = torch.arange(n, dtype=self.dtype)
        distance = (position[:, None] - position[None, :]).abs()
        out = torch.empty_like(x)
        for h, slope in enumerate(alibi_slopes(self.h)):
            s = slice(h * d, (h + 1) * d)
            logits = q[:, s] @ k[:, s].T / math.sqrt(d)
            self.max_logit = max(self.max_logit, float(logits.abs().max()))
            out[:, s] = self.round(torch.softmax(logits - slope * distance, dim=-1)) @ v[:, s]
        return out

    def forward(self, ids):
        w = self.w
        x = w["embeddings.word_embeddings.weight"][ids] + w[
            "embeddings.token_type_embeddings.weight"][0]
        x = self.norm(x, "embeddings.LayerNorm")
        gelu = torch.nn.functional.gelu  # exact, erf
        for i in range(self.layers):
            p = f"encoder.layer.{i}."
            a = self.linear(self.attention(x, p), p + "attention.output.dense")
            a = self.norm(a + x, p + "attention.output.LayerNorm")
            if self.variant == "A":
                first, second = self.linear(a, p + "mlp.gated_layers").chunk(2, dim=-1)
                x = self.norm(self.linear(gelu(first) * second, p + "mlp.wo") + a, p + "mlp.layernorm")
            else:
                y = self.norm(x + a, p + "layer_norm_1")
                first, second = self.linear(y, p + "mlp.up_gated_layer").chunk(2, dim=-1)
                x = self.norm(y + self.linear(first * gelu(second), p + "mlp.down_layer"),
                              p + "layer_norm_2")
        return x


    def logit(self, hidden):
        return float(self.linear(torch.tanh(self.linear(hidden[0], "pooler.dense")), "classifier"))


# ---- late chunking ----------------------------------------------------------------------------------

def passage_ranges(length, size):
    """Ranges over all tokens: `size` text tokens each; [CLS] joins the first, [SEP] the last."""
    text = length - 2
    starts = list(range(0, text, size))
    ranges = [[1 + s, 1 + min(s + size, text)] for s in starts]
    ranges[0][0] = 0
    ranges[-1][1] = length
    return [tuple(r) for r in ranges]


def case_ranges(length):
    ranges = []
    for size in PASSAGE_TOKENS.get(length, []):
        ranges += passage_ranges(length, size)
    return ranges + FREE_RANGES.get(length, [])


def pool(hidden, ranges):
    return torch.stack([hidden[a:b].mean(dim=0) for a, b in ranges])


def cosine_min(a, b):
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=-1).min())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check-only", action="store_true", help="write nothing")
    args = parser.parse_args()
    torch.manual_seed(0)
    manifest = {"vocab_size": VOCAB, "models": []}
    for name, variant, c, heads, layers, f in MODELS:
        weights = make_weights(name, variant, c, heads, layers, f)
        model = JinaBert(weights, variant, c, heads, layers, torch.float64)
        single = JinaBert(weights, variant, c, heads, layers, torch.float32)
        half = JinaBert(weights, variant, c, heads, layers, torch.float32, rounded=True)
        tensors, cases, worst32, worst16 = {}, [], 0.0, 1.0
        for length in LENGTHS:
            ids = torch.from_numpy(token_ids(name, length))
            ranges = [(0, length)] + case_ranges(length)
            with torch.no_grad():
                hidden = model(ids)
                want = pool(hidden, ranges)
                worst32 = max(worst32, float((pool(single(ids), ranges).double() - want).abs().max()))
                if length <= 300:
                    worst16 = min(worst16, cosine_min(pool(half(ids).double(), ranges), want))
            tensors[f"n{length}"] = want.to(torch.float32).numpy()
            cases.append({"tokens": length, "ids_sum": int(ids.sum()), "ranges": ranges})
            if name == RERANKER:
                cases[-1]["logit"] = model.logit(hidden)
        spread = cosine_min(want[1:2], want[2:3])
        # One checksum for each kind of tensor tells a wrong generator from a wrong model.
        probe = {t: float(weights[t].reshape(-1)[-1]) for t in (
            "embeddings.word_embeddings.weight", "encoder.layer.1.attention.self.query.weight")}
        print(f"{name}: max logit {model.max_logit:.2f}, float32 differs by {worst32:.1e}, "
              f"bf16 cosine {worst16:.6f}, cosine of two passages {spread:.3f}")
        manifest["models"].append({
            "name": name, "variant": variant, "hidden_size": c, "num_heads": heads,
            "num_layers": layers, "intermediate_size": f, "scales": scales(variant, c, f),
            "max_logit": round(model.max_logit, 3), "probe": probe, "cases": cases})
        if not args.check_only:
            os.makedirs(os.path.join(HERE, name), exist_ok=True)
            save_file(tensors, os.path.join(HERE, name, "model.safetensors"))
    if not args.check_only:
        with open(os.path.join(HERE, "manifest.json"), "w") as out:
            json.dump(manifest, out, indent=1)
            out.write("\n")


if __name__ == "__main__":
    main()
