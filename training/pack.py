#!/usr/bin/env python3
"""Token ids of the collected texts in one compressed file: all that training reads.

Usage: pack.py --texts FILE.jsonl.gz --vocab vocab.txt --out FILE.npz [--max-tokens N]

Arrays: `ids` uint16, all tokens one after the other, without special tokens. The others are int64
tables of ranges [begin, end) in it, one row each:
    sections      [., 5]: document number, heading range, text range. Sections of a document follow
                  one another, and documents of a source.
    pairs         [., 4]: short description, long description
    questions     [., 5]: meeting or story number, query range, one answer's range
    stories       [., 3]: number, text range; `spans` [., 3]: question number, token range of a gold
                  passage within the text
    held_out      [., 4]: pairs that training never sees (agreement with the teacher is told on them)
"""
import argparse
import gzip
import json
import pathlib

import numpy as np
from tokenizers import BertWordPieceTokenizer

HELD_OUT_EVERY = 25  # of the descriptions


class Packer:
    def __init__(self, tokenizer, max_tokens):
        self.tokenizer, self.max_tokens = tokenizer, max_tokens
        self.parts, self.size = [], 0
        self.tables = {name: [] for name in
                       ("sections", "pairs", "questions", "stories", "spans", "held_out")}
        self.documents = 0

    def full(self):
        return self.size >= self.max_tokens

    def add(self, text):
        """The range of a text's tokens, and their byte offsets."""
        encoded = self.tokenizer.encode(text, add_special_tokens=False)
        self.parts.append(np.array(encoded.ids, dtype=np.uint16))
        begin, self.size = self.size, self.size + len(encoded.ids)
        return (begin, self.size), encoded.offsets

    def add_document(self, row):
        for section in row["sections"]:
            heading, _ = self.add(section["heading"])
            text, _ = self.add(section["text"])
            self.tables["sections"].append((self.documents, *heading, *text))
        self.documents += 1

    def add_description(self, row, number):
        short, _ = self.add(row["short"])
        long, _ = self.add(row["long"])
        table = "held_out" if number % HELD_OUT_EVERY == 0 else "pairs"
        self.tables[table].append((*short, *long))

    def add_story(self, row):
        story = len(self.tables["stories"])
        text, offsets = self.add(row["text"])
        self.tables["stories"].append((story, *text))
        # Offsets count characters; spans count bytes.
        bytes_before = np.concatenate(
            [[0], np.cumsum([len(c.encode()) for c in row["text"]])]) if row["text"] else [0]
        starts = np.array([bytes_before[begin] for begin, _ in offsets])
        for query in row["queries"]:
            asked, _ = self.add(query["query"])
            for begin, end in query["spans"]:
                tokens = np.searchsorted(starts, [begin, end])
                self.tables["spans"].append((len(self.tables["questions"]), *tokens))
            answer, _ = self.add(query["answers"][0])
            self.tables["questions"].append((story, *asked, *answer))

    def arrays(self):
        return {"ids": np.concatenate(self.parts),
                **{name: np.array(rows, dtype=np.int64) for name, rows in self.tables.items()}}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--texts", type=pathlib.Path, required=True)
    parser.add_argument("--vocab", required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--max-tokens", type=int, default=60_000_000)
    args = parser.parse_args()
    packer = Packer(BertWordPieceTokenizer(args.vocab, lowercase=True), args.max_tokens)
    rows = [json.loads(line) for line in gzip.open(args.texts, "rt")]
    # What is scarce first, so that a limit cuts documentation only.
    for number, row in enumerate(r for r in rows if r["source"] == "descriptions"):
        packer.add_description(row, number)
    for row in rows:
        if row["source"] in ("qmsum", "squality"):
            packer.add_story(row)
    for row in rows:
        if "sections" in row and not packer.full():
            packer.add_document(row)
    arrays = packer.arrays()
    np.savez_compressed(args.out, **arrays)
    print({name: array.shape for name, array in arrays.items()},
          f"{args.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
