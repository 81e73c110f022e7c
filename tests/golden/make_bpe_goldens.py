#!/usr/bin/env python3
"""Makes tests/golden/bpe_goldens.jsonl with the Hugging Face tokenizers library.

Byte-level BPE on our own merges (engine/text/data/bpe_merges.txt), in three variants (VARIANTS):
"roberta" as RobertaTokenizerFast has it, "gpt2" without trimming of offsets and with ignore_merges
and words that no merge reaches, "prefixed" with a prefix space and added tokens that take white
space. Vocabulary of all: <s> <pad> </s> <unk> <mask> are 0 to 4, then the 256 bytes by their
characters, then what the merges make, then the variant's own words and added tokens.

A line is [text, ids, offsets, hash, hash]: ids and byte offsets (begin, end, begin, ...) of
"roberta" in full, of the others the 64-bit FNV-1a hash of ids, then offsets, as hexadecimal (over
8 little-endian bytes a number). The last line is one array of hashes: of the first texts of
tokenizer_goldens.jsonl, over the three variants one after the other. No special tokens are added.

Needs: pip install tokenizers (0.23.3 made the committed file).
Usage: tests/golden/make_bpe_goldens.py
"""
import json
import pathlib
import random
import re
import struct

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SEED = 20261123
NUM_RANDOM = 420
NUM_SHARED = 4000  # texts of tokenizer_goldens.jsonl
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
WORDS = ["\u0120embedding", "embeddings", "\u0120\u00c3\u00a9t\u00c3\u00a9", "xyzzyxyzzy", "12345",
         "\u0120\u0120\u0120\u0120\u0120", "!?!?!?", "\u010a\u010a\u010a\u010a\u010a\u010a"]

PIECES = """don't I'll we've they're she'd I'm it's 'tis 'S DON'T y'all'd've 's 't 're 've 'm 'll 'd
'r 'v 'l 'rex 'lx 'vx '' ''s 's's '"' "'s" rock'n'roll O'Neill l'été c'est d’accord it’s
embedding embeddings xyzzyxyzzy attention the of documents 3.14 1,000,000 0x7fff 2024-11-23 ½ ²³ Ⅷ ①
१२३ ٤٥٦ a1b2c3 12345 1234567890123 _ __init__ foo_bar x==y a!=b !?!?!? <s> </s> <mask> <pad> <unk>
<|endoftext|> <s <mask> </s>> <ma <|endo <l> <r> <l><r> http://a.b/c?d=e&f=g user@host #tag $x %d
Привет мир Ελληνικά עברית العربية हिन्दी ไทย 日本語のテキスト 中文文本 한국어 Ünïcödé naïve café été İstanbul ß
👩‍👩‍👧‍👦 👍🏽 🇩🇪 ❤️ 🏳️‍🌈 1️⃣ 😀😀😀 \u00c0\u0080 \u00ed\u00a0\u0080 \ufffd \ufffe \uffff
\U0010ffff \U000e0041 \ue000 \U00010d4a \U00016d70 \U0002ebf0 \u1c89 a\u0301 e\u0323\u0307 \u0301
\u200b \u200d \ufeff \x00 \x01\x02 \x1b[0m \x7f \u00ad \u0120 \u0120the \u010a \u00c3\u00a9""".split()
SPACES = [" ", " ", " ", " ", " ", " ", "  ", "   ", "     ", "\t", "\n", "\n\n", "\r\n", " \n", "\n ",
          "\u00a0", "\u00a0\u00a0", " \u00a0", "\u00a0 ", "\u3000", "\u2003\u2028", "\x0b\x0c",
          "\x85", "\u1680 \u202f", "\n\n\n\n\n\n", "\t\t  \t"]


def merges():
    lines = (ROOT / "engine/text/data/bpe_merges.txt").read_text(encoding="utf-8").split("\n")
    return [tuple(line.split(" ")) for line in lines if line]


def added_tokens(name):
    if name == "gpt2":
        return [AddedToken("<|endoftext|>", normalized=True)]
    special = [AddedToken(t, normalized=t != "<mask>", lstrip=t == "<mask>") for t in SPECIAL]
    if name == "prefixed":
        special += [AddedToken("<l>", lstrip=True), AddedToken("<r>", rstrip=True),
                    AddedToken(" <b> ", lstrip=True, rstrip=True, normalized=False)]
    return special


def make(name):
    vocab = {t: i for i, t in enumerate(SPECIAL)}
    for token in sorted(pre_tokenizers.ByteLevel.alphabet()) + [a + b for a, b in merges()]:
        vocab.setdefault(token, len(vocab))
    if name == "gpt2":
        for token in WORDS:
            vocab.setdefault(token, len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges(), ignore_merges=name == "gpt2"))
    prefix = name == "prefixed"
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.add_special_tokens(added_tokens(name))
    if name == "gpt2":
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    else:
        tokenizer.post_processor = processors.RobertaProcessing(
            ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=prefix)
    return tokenizer


VARIANTS = ["roberta", "gpt2", "prefixed"]


def encode(tokenizer, text):
    """Ids, and the library's character offsets as byte offsets."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    byte_at = [0]
    for c in text:
        byte_at.append(byte_at[-1] + len(c.encode("utf-8")))
    return encoding.ids, [byte_at[x] for pair in encoding.offsets for x in pair]


def fnv(numbers):
    value = 0xCBF29CE484222325
    for byte in struct.pack(f"<{len(numbers)}q", *numbers):
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def random_text(rng):
    parts = [rng.choice(SPACES)] if rng.random() < 0.25 else []
    for _ in range(rng.randint(1, 9)):
        kind = rng.random()
        if kind < 0.75:
            parts.append(rng.choice(PIECES))
        elif kind < 0.85:  # a character again and again
            parts.append(rng.choice("aAé9٣.!-=_ \n\t\u00a0中😀\u0301") * rng.randint(2, 40))
        else:
            parts.append("".join(rng.choice("etaoin'shrdlu.,0123 éß中\n") for _ in range(12)))
        if rng.random() < 0.7:
            parts.append(rng.choice(SPACES))
    return "".join(parts)


def main():
    rng = random.Random(SEED)
    texts = ["", " ", "\n", "'", "\u00a0", " <b> ", "x <b>  y", "<b>", " <l>", "  <l>x", "<r> \n x"]
    texts += [p + s + q for p in ("a", "<s>", "中") for s in (" ", "\n", "\u3000", "  ") for q in
              ("", "b", "'s", "<mask>", "<r>", "é", "中")]
    texts += [random_text(rng) for _ in range(NUM_RANDOM)]
    tokenizers = [make(name) for name in VARIANTS]
    shared = []
    with open(HERE / "tokenizer_goldens.jsonl", encoding="utf-8") as file:
        for line, _ in zip(file, range(NUM_SHARED)):
            shared.append(json.loads(line)[0])
    with open(HERE / "bpe_goldens.jsonl", "w", encoding="utf-8", newline="\n") as out:
        def write(record):
            text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
            text = re.sub("[\x7f-\x9f\u2028\u2029\ufeff]", lambda m: f"\\u{ord(m[0]):04x}", text)
            out.write(text + "\n")
        for text in texts:
            ids, offsets = encode(tokenizers[0], text)
            write([text, ids, offsets] + [fnv(sum(encode(t, text), [])) for t in tokenizers[1:]])
        write([fnv(sum((sum(encode(t, text), []) for t in tokenizers), [])) for text in shared])
    print(f"{len(texts)} texts, {len(shared)} hashes")


if __name__ == "__main__":
    main()
