#!/usr/bin/env python3
"""Trains engine/text/data/wordpiece_vocab.txt, the vocabulary of models made by `longdoc model`.

BERT's layout, so that real checkpoints and ours look alike: [PAD] is 0, [unused1] to [unused99]
are 1 to 99, [UNK] 100, [CLS] 101, [SEP] 102, [MASK] 103, then characters and pieces; 30,522
entries, one a line, UTF-8, uncased.

Text: documentation packages of Debian 12, English unless said otherwise.
  debian-reference-en   GPL-2+             debian-handbook     CC-BY-SA-3.0 or GPL-2+
  debian-policy         GPL-2+             developers-reference GPL-2+
  python3-doc           PSF-2              linux-doc-6.1       GPL-2 (without device bindings)
  installation-guide-amd64  GPL-2+         debian-faq          GPL-2+
  manpages, manpages-dev  several free licences (GPL-2+, BSD, "man-pages" verbatim licence)
The handbook's translations (20 languages or more) only say which characters are worth an entry.
The trainer breaks ties between equally frequent pairs by the order of a randomly seeded hash table:
a second run gives other ids to about 4 % of the tokens and exchanges about 15 of the rarest.
The vocabulary is a list of words, characters and word parts counted over these texts; none of the
text is in it.

Needs: pip install tokenizers (0.23.3 made the committed file);
  apt-get install debian-reference-en debian-handbook debian-policy developers-reference \\
    python3-doc linux-doc-6.1 manpages manpages-dev installation-guide-amd64 debian-faq
Usage: scripts/train_vocab.py [OUTPUT]
"""
import collections
import gzip
import html.parser
import pathlib
import re
import subprocess
import sys

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

VOCAB_SIZE = 30522
MIN_FREQUENCY = 3
MAX_ALPHABET = 900  # most frequent characters; each costs two entries
# Characters of ordinary text in any case: Latin-1, Greek, Cyrillic, dashes, quotes, arrows, signs.
FORCED_RANGES = [(0x21, 0x7E), (0xA1, 0xFF), (0x3B1, 0x3C9), (0x430, 0x45F), (0x2010, 0x2027),
                 (0x2030, 0x203A), (0x2070, 0x209C), (0x20AC, 0x20AC), (0x2122, 0x2122),
                 (0x2190, 0x2199), (0x2200, 0x222B), (0x2248, 0x2265), (0x2500, 0x2502),
                 (0x2016, 0x2016), (0x22C5, 0x22C5), (0x2713, 0x2717)]
MIN_CHARACTER_COUNT = 20
SKIPPED_TAGS = {"script", "style", "head", "nav"}
SPECIAL = (["[PAD]"] + [f"[unused{i}]" for i in range(1, 100)] +
           ["[UNK]", "[CLS]", "[SEP]", "[MASK]"])


class TextOfHtml(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.parts, self.skipping = [], 0

    def handle_starttag(self, tag, attrs):
        self.skipping += tag in SKIPPED_TAGS
        self.parts.append("\n" if tag in ("p", "li", "div", "pre", "tr", "dt", "dd") else "")

    def handle_endtag(self, tag):
        self.skipping -= tag in SKIPPED_TAGS and self.skipping > 0

    def handle_data(self, data):
        if not self.skipping:
            self.parts.append(data)


def read(path):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        return file.read().decode("utf-8", errors="ignore")


def from_html(path):
    parser = TextOfHtml()
    parser.feed(read(path))
    return "".join(parser.parts)


def from_man(path):
    """Text of a manual page's roff source, without requests and escapes."""
    lines = []
    for line in read(path).splitlines():
        if re.match(r"[.']\s*(SH|SS|B|I|BR|IR|BI|IB|RB|RI|TP)\b", line):
            line = re.sub(r"^[.']\s*\w+\s*", "", line).replace('"', "")
        elif line.startswith((".", "'")):
            continue
        line = re.sub(r"\\f[A-Z]|\\f\(..|\\f\[\w*\]|\\[&|^/,cd]|\\s[-+]?\d", "", line)
        line = re.sub(r"\\\((?:aq|dq|cq)", "'", line).replace("\\-", "-").replace("\\e", "\\")
        lines.append(re.sub(r"\\\(..|\\\[\w+\]|\\.", " ", line))
    return "\n".join(lines)


def package_files(package, pattern):
    listing = subprocess.run(["dpkg", "-L", package], check=True, capture_output=True, text=True)
    return sorted(pathlib.Path(p) for p in listing.stdout.splitlines() if re.search(pattern, p)
                  and pathlib.Path(p).is_file() and not pathlib.Path(p).is_symlink())


def english_texts():
    for path in package_files("debian-reference-en", r"\.txt\.gz$"):
        yield read(path)
    for path in package_files("debian-handbook", r"/en-US/.*\.html$"):
        yield from_html(path)
    for package in ("debian-policy", "developers-reference"):
        for path in package_files(package, r"\.html$"):
            yield from_html(path)
    for path in package_files("python3-doc", r"/_sources/.*\.txt$"):
        yield read(path)
    skipped = r"/(?:devicetree|ABI|translations|hwmon|html)/"
    for path in package_files("linux-doc-6.1", r"\.(rst|txt)(\.gz)?$"):
        if not re.search(skipped, str(path)):
            yield read(path)
    for path in package_files("installation-guide-amd64", r"/en/.*\.html$"):
        yield from_html(path)
    for path in package_files("debian-faq", r"/debian-faq\.en\.txt\.gz$"):
        yield read(path)
    for package in ("manpages", "manpages-dev"):
        for path in package_files(package, r"/man\d/.*\.gz$"):
            yield from_man(path)


def alphabet(normalize, texts):
    counts = collections.Counter()
    for text in texts:
        counts.update(normalize(text))
    for path in package_files("debian-handbook", r"/html/(?!en-US).*\.html$"):
        counts.update(normalize(from_html(path)))
    chosen = [c for c, n in counts.items() if n >= MIN_CHARACTER_COUNT and not c.isspace()]
    chosen.sort(key=lambda c: (-counts[c], c))
    forced = {chr(cp) for lo, hi in FORCED_RANGES for cp in range(lo, hi + 1)}
    forced = {c for c in forced if normalize(c) == c and c.isprintable()}
    return sorted(forced | set(chosen[:MAX_ALPHABET]))


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    output = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else \
        root / "engine/text/data/wordpiece_vocab.txt"
    normalizer = normalizers.BertNormalizer(lowercase=True)
    texts = sorted(set(english_texts()))  # without copies of the same page
    print(f"{len(texts)} files, {sum(map(len, texts)) / 1e6:.1f} million characters")
    characters = alphabet(normalizer.normalize_str, texts)

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=VOCAB_SIZE, min_frequency=MIN_FREQUENCY, special_tokens=SPECIAL,
        initial_alphabet=characters, limit_alphabet=len(characters), show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)

    tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    assert [i for _, i in tokens] == list(range(VOCAB_SIZE)), len(tokens)
    assert [t for t, _ in tokens[:len(SPECIAL)]] == SPECIAL
    assert not any(c.isspace() for t, _ in tokens for c in t)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("".join(t + "\n" for t, _ in tokens), encoding="utf-8")
    print(f"{output}: {len(tokens)} tokens, {len(characters)} characters")


if __name__ == "__main__":
    main()
