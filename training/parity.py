#!/usr/bin/env python3
"""Vectors and scores of real documents by PyTorch, for the engine to reproduce.

Usage: parity.py --model DIR --out DIR [--book FILE.txt.gz]

The documents are 20 pieces of the Debian Reference (2.100, as in Debian bookworm), which training
never reads, of 10 to 20,000 tokens. Writes to DIR:
    candidates.txt   what is scored by likelihood given each document, one a line
    documents.tsv    per document: first and last byte in the book, tokens, the sum of
                     log-probabilities of each candidate, then the vector's components
In float32 from the weights as they are stored.
"""
import argparse
import gzip
import pathlib
import sys

import torch
from tokenizers import Tokenizer

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"))
import colt5_model  # noqa: E402
from batches import CLS, SEP  # noqa: E402
from documents import framed  # noqa: E402
from encoders import blocked_heavy  # noqa: E402
from evaluate import load_model  # noqa: E402

TOKENS = (10, 20, 50, 100, 127, 129, 255, 257, 300, 511, 700, 1000, 1500, 2500, 4000, 6000, 8000,
          12000, 16000, 20000)
CANDIDATES = ("How do I set up a firewall?", "package management", "the state of the weather")


def pieces(book, tokenizer):
    """Ranges of bytes, in lines: each begins where the last ended, and is about as long."""
    lines, begin, tokens, found = book.splitlines(keepends=True), 0, 0, []
    wanted, end = iter(TOKENS), 0
    target = next(wanted)
    for line in lines:
        end += len(line)
        tokens += len(tokenizer.encode(line.decode(), add_special_tokens=False).ids)
        if tokens + 2 >= target:
            found.append((begin, end))
            begin, tokens = end, 0
            target = next(wanted, None)
            if target is None:
                break
    return found


@torch.no_grad()
def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--book", default="/usr/share/debian-reference/debian-reference.en.txt.gz")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    colt5_model.EncoderLayer.heavy = blocked_heavy
    model = load_model(args.model)
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    tokenizer.no_truncation()

    def ids(text):
        return torch.tensor(tokenizer.encode(text, add_special_tokens=False).ids)

    book = gzip.open(args.book).read()
    (args.out / "candidates.txt").write_text("".join(c + "\n" for c in CANDIDATES))
    with open(args.out / "documents.tsv", "w") as file:
        for begin, end in pieces(book, tokenizer):
            document = framed(ids(book[begin:end].decode()))
            states, _ = model.encode(document)
            vector = torch.nn.functional.normalize(model.encoder.vector(states), dim=-1)
            cross = model.decoder.cross_keys_values(states)
            scores = [float(model.target_log_probs(ids(c), cross, CLS, SEP).sum())
                      for c in CANDIDATES]
            print(begin, end, len(document), *(f"{s:.4f}" for s in scores),
                  *(f"{v:.5f}" for v in vector.tolist()), sep="\t", file=file)


if __name__ == "__main__":
    main()
