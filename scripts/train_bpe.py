#!/usr/bin/env python3
"""Trains engine/text/data/bpe_merges.txt, the byte-level BPE of rerankers made by `longdoc model`.

GPT-2's pre-tokenizer, no prefix space; only the merges are kept, one a line, because the vocabulary
follows from them: RoBERTa's special tokens, the 256 bytes, then the merges' results in order.

Text: that of train_vocab.py (its header names packages and licences), English and the handbook's
translations, so that bytes of other scripts have merges too. Ties between equally frequent pairs
are broken as there, not by anything that lasts: a second run gives slightly other merges.

Needs what train_vocab.py needs. Usage: scripts/train_bpe.py [OUTPUT]
"""
import json
import pathlib
import sys

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

import train_vocab

NUM_MERGES = 4096
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    output = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else \
        root / "engine/text/data/bpe_merges.txt"
    texts = sorted(set(train_vocab.english_texts()))
    for path in train_vocab.package_files("debian-handbook", r"/html/(?!en-US).*\.html$"):
        texts.append(train_vocab.from_html(path))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=len(SPECIAL) + len(alphabet) + NUM_MERGES, special_tokens=SPECIAL,
        initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    assert len(merges) == NUM_MERGES, len(merges)
    output.write_text("".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    print(f"{output}: {len(merges)} merges, {output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
