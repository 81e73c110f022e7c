#!/usr/bin/env python3
"""How large the logits of a trained model get: the bound that tile skipping works with, per head.

Usage: logits.py --model DIR [--book FILE.txt.gz] [--lengths 8192,32768,100000]

Prints max||q|| * max||k|| / sqrt(D) of every layer's light and heavy heads over the beginning of the
Debian Reference, keys as they are and (`centred`) with their mean taken out, as docs/attention.md has
it. Heavy keys carry their routing weight.
"""
import argparse
import gzip
import math
import pathlib
import sys

import torch
from tokenizers import Tokenizer

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"))
import colt5_model  # noqa: E402
from documents import framed  # noqa: E402
from encoders import blocked_heavy  # noqa: E402
from evaluate import load_model  # noqa: E402


def bounds(q, k):
    """[H], of queries and keys [H, n, D]."""
    longest = q.norm(dim=-1).amax(dim=-1) * k.norm(dim=-1).amax(dim=-1)
    return longest / math.sqrt(q.shape[-1])


def attention_bounds(attention, queries, keys):
    q = attention.queries(queries)
    k, _ = attention.keys_values(keys)
    return bounds(q, k), bounds(q, k - k.mean(dim=-2, keepdim=True))


def layer_bounds(layer, x):
    """Per kind of attention: bounds with keys as they are, and centred."""
    h, config = layer.attention_norm(x), layer.config
    query = colt5_model.route(layer.attention_router["query"](h), config.query_rate)
    kv = colt5_model.route(layer.attention_router["kv"](h), config.kv_rate)
    routed = colt5_model.gather(h, kv.indices) * kv.weights[..., None]
    return {"light": attention_bounds(layer.light_attention, h, h),
            "heavy": attention_bounds(layer.heavy_attention,
                                      colt5_model.gather(h, query.indices), routed)}


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--book", default="/usr/share/debian-reference/debian-reference.en.txt.gz")
    parser.add_argument("--lengths", default="8192,32768,100000")
    args = parser.parse_args()
    model = load_model(args.model)
    colt5_model.EncoderLayer.heavy = blocked_heavy
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    text = gzip.open(args.book, "rt").read()
    ids = torch.tensor(tokenizer.encode(text, add_special_tokens=False).ids)
    for length in map(int, args.lengths.split(",")):
        x, largest = model.embeddings(framed(ids[:length - 2])), 0.0
        for number, layer in enumerate(model.encoder.layers):
            for kind, (plain, centred) in layer_bounds(layer, x).items():
                largest = max(largest, float(centred.max()))
                print(length, f"layer {number} {kind}",
                      "  as they are", *(f"{b:.1f}" for b in plain.tolist()),
                      "  centred", *(f"{b:.1f}" for b in centred.tolist()), flush=True)
            x, _ = layer(x)
        print(length, f"largest, centred: {largest:.1f}", flush=True)


if __name__ == "__main__":
    main()
