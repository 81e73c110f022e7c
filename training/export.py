#!/usr/bin/env python3
"""A checkpoint as a model directory: config.json, model.safetensors in bf16, tokenizer.json.

Usage: export.py --checkpoint FILE --vocab vocab.txt --out DIR [--weights mean|model]
"""
import argparse
import json
import pathlib
import sys

import torch
from safetensors.torch import save_file
from tokenizers import BertWordPieceTokenizer
from tokenizers.processors import TemplateProcessing

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"))
import colt5_model  # noqa: E402


def export(state, config, vocab, out):
    out.mkdir(parents=True, exist_ok=True)
    shape = colt5_model.Colt5Config(**config["model"])
    (out / "config.json").write_text(json.dumps(shape.fields(), indent=1) + "\n")
    save_file({name: tensor.to(torch.bfloat16).contiguous() for name, tensor in state.items()},
              out / "model.safetensors", metadata={"format": "pt"})
    tokenizer = BertWordPieceTokenizer(str(vocab), lowercase=True)
    special = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer._tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special)
    tokenizer.save(str(out / "tokenizer.json"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("checkpoint", "vocab", "out"):
        parser.add_argument("--" + name, type=pathlib.Path, required=True)
    parser.add_argument("--weights", choices=("mean", "model"), default="mean",
                        help="running mean over the last steps, or the last step's")
    args = parser.parse_args()
    checkpoint = torch.load(args.checkpoint, map_location="cpu")
    export(checkpoint[args.weights], checkpoint["config"], args.vocab, args.out)
    print(f"step {checkpoint['step']}, {checkpoint['tokens']} tokens")


if __name__ == "__main__":
    main()
