#!/usr/bin/env python3
"""Texts to train on, from Debian's free documentation and the two question sets.

Usage: collect.py --data DIR --out FILE.jsonl.gz [--work DIR]

Downloads the packages of PACKAGES with apt-get (nothing is installed), unpacks them into the work
folder, and writes one JSON line per document:

    {"source": package, "id": path, "sections": [{"heading": text, "text": text}]}
    {"source": "descriptions", "id": package, "short": text, "long": text}
    {"source": "qmsum", "id", "text", "queries": [{"query", "answers", "spans": [[begin, end]]}]}

Spans are byte ranges of the text in UTF-8. DIR holds qmsum-train.jsonl.gz, squality-train.jsonl.gz.
Held out and never written: debian-reference (the demonstration asks about it), and the evaluation
halves of both question sets. Licences: DATA.md.
"""
import argparse
import gzip
import html.parser
import json
import lzma
import pathlib
import re
import subprocess
import sys
import urllib.request

PACKAGES = """
apache2-doc aptitude-doc-en bash-doc bind9-doc debian-faq debian-handbook debian-history
debian-kernel-handbook debian-policy debmake-doc developers-reference doc-debian emacs-common
exim4-doc-html gimp-help-en git-doc gnuplot-doc installation-guide-amd64 krb5-doc
libreoffice-help-en-us libvirt-doc lilypond-doc-html linux-doc-6.1 maint-guide manpages
manpages-dev nodejs-doc octave-doc perl-doc postgresql-doc-15 python3.11-doc python-django-doc
python-pandas-doc python-sklearn-doc r-doc-html rust-doc sqlite3-doc vim-doc zsh-doc
""".split()
MIN_TEXT = 200            # characters of a section worth learning from
MAX_PACKAGE = 40_000_000  # characters taken of one package, so that none drowns the others


class HtmlSections(html.parser.HTMLParser):
    """Cuts a page at its headings. Navigation, scripts and code listings are left out."""
    SKIPPED = {"script", "style", "nav", "head", "footer", "header", "pre", "table", "svg", "button"}
    BREAKING = {"p", "li", "dt", "dd", "div", "br", "section", "blockquote"}
    HEADING = re.compile(r"h[1-5]$")

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.sections, self.heading, self.text = [], [], []
        self.skipping, self.in_heading = 0, False

    def handle_starttag(self, tag, attrs):
        if tag in self.SKIPPED:
            self.skipping += 1
        elif self.HEADING.match(tag):
            self.finish()
            self.in_heading = True
        elif tag in self.BREAKING:
            self.text.append("\n")

    def handle_endtag(self, tag):
        if tag in self.SKIPPED:
            self.skipping = max(0, self.skipping - 1)
        elif self.HEADING.match(tag):
            self.in_heading = False

    def handle_data(self, data):
        if not self.skipping:
            (self.heading if self.in_heading else self.text).append(data)

    def finish(self):
        add_section(self.sections, "".join(self.heading), "".join(self.text))
        self.heading, self.text = [], []


def clean(text):
    lines = (re.sub(r"\s+", " ", line).strip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def add_section(sections, heading, text):
    heading = clean(heading).replace("\n", " ")
    # Numbers and pilcrows belong to the page, not to what it says.
    heading = re.sub(r"^(chapter |appendix )?[0-9A-Z]{0,3}(\.[0-9]+)*\.?\s+|[¶#§]", "", heading,
                     flags=re.I).strip()
    text = clean(text)
    if len(text) >= MIN_TEXT:
        sections.append({"heading": heading[:200], "text": text})


def html_sections(raw):
    parser = HtmlSections()
    parser.feed(raw)
    parser.finish()
    return parser.sections


ROFF_ESCAPE = re.compile(r"\\(?:f(?:\[[^]]*\]|\(..|.)|s[-+]?\d+|\*\(..|\*.|[&|^/,%:]|[-e ])")
ROFF_SPECIAL = {"\\(aq": "'", "\\(dq": '"', "\\(em": "--", "\\(en": "-", "\\(bu": "*",
                "\\(lq": '"', "\\(rq": '"', "\\(cq": "'", "\\(oq": "'", "\\(ti": "~", "\\(ha": "^"}


def roff_sections(raw):
    """Sections of a page in the man macros; pages in other macros give little and are skipped."""
    sections, heading, lines, listing = [], "", [], False
    title = ""
    for line in raw.split("\n"):
        for escape, plain in ROFF_SPECIAL.items():
            line = line.replace(escape, plain)
        line = ROFF_ESCAPE.sub(lambda m: "-" if m.group() == "\\-" else "", line)
        macro = re.match(r"[.'](\S*)\s*(.*)", line)
        if not macro:
            if not listing:
                lines.append(line)
            continue
        name, rest = macro.group(1), macro.group(2).replace('"', "")
        if name == "TH":
            title = rest.split(" ")[0].lower()
        elif name in ("SH", "SS"):
            add_section(sections, f"{title} {heading}", " ".join(lines))
            heading, lines = rest.lower(), []
        elif name in ("EX", "nf"):
            listing = True
        elif name in ("EE", "fi"):
            listing = False
        elif name in ("B", "I", "BR", "IR", "RB", "RI", "BI", "IB") and not listing:
            words = rest.split(" ")
            lines.append("".join(words) if len(name) == 2 and len(words) < 4 else rest)
        elif name in ("PP", "P", "TP", "IP", "LP"):
            lines.append("\n")
    add_section(sections, f"{title} {heading}", " ".join(lines))
    return sections


def plain_sections(raw):
    """Text whose headings are underlined or start with a number; else one section."""
    sections, heading, lines = [], "", []
    source = raw.split("\n")
    for i, line in enumerate(source):
        below = source[i + 1] if i + 1 < len(source) else ""
        if line.strip() and re.fullmatch(r"([=\-~*^\"#])\1{3,}", below.strip()):
            add_section(sections, heading, "\n".join(lines))
            heading, lines = line, []
        elif not re.fullmatch(r"([=\-~*^\"#])\1{3,}", line.strip()):
            lines.append(line)
    add_section(sections, heading, "\n".join(lines))
    return sections


READERS = {".html": html_sections, ".htm": html_sections, ".txt": plain_sections,
           ".rst": plain_sections, ".pod": plain_sections}
FOREIGN = re.compile(r"/(de|fr|es|it|ja|ko|pt|pt-br|ru|zh|zh-cn|tr|da|cs|pl|nl|ca|hu|sv|vi|id|ar-MA"
                     r"|da-DK|de-DE|el-GR|es-ES|fr-FR|hr-HR|id-ID|it-IT|ja-JP|ko-KR|nb-NO|nl-NL"
                     r"|pl-PL|pt-BR|ro-RO|ru-RU|sv-SE|tr-TR|vi-VN|zh-CN|zh-TW|fa-IR)/|"
                     r"genindex|search\.html|/_sources/|/_modules/|\.(de|fr|es|ja|ko|pt-br|tr|da)\.")


def read_file(path):
    raw = gzip.open(path).read() if path.suffix == ".gz" else path.read_bytes()
    text = raw.decode("utf-8", errors="replace")
    name = path.name.removesuffix(".gz")
    if re.search(r"\.[1-8]([a-z]*)$", name):
        return roff_sections(text)
    reader = READERS.get(pathlib.Path(name).suffix)
    return reader(text) if reader else []


def package_documents(package, work):
    folder = work / package
    if not folder.exists():
        subprocess.run(["apt-get", "download", "-q", package], cwd=work, check=True)
        archive = next(work.glob(package + "_*.deb"))
        subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)
    taken, seen = 0, set()
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file() or FOREIGN.search(str(path)):
            continue
        sections = [s for s in read_file(path) if s["text"] not in seen]
        seen.update(s["text"] for s in sections)
        if sections and taken < MAX_PACKAGE:
            taken += sum(len(s["text"]) for s in sections)
            yield {"source": package, "id": str(path.relative_to(folder)), "sections": sections}


def descriptions(work):
    """Short and long descriptions of all packages of this release."""
    path = work / "Translation-en.xz"
    if not path.exists():
        targets = subprocess.run(["apt-get", "indextargets", "--format", "$(URI)"], check=True,
                                 capture_output=True, text=True).stdout.split()
        uri = next(t for t in targets if t.endswith("/main/binary-amd64/Packages"))
        uri = uri.replace("binary-amd64/Packages", "i18n/Translation-en.xz")
        urllib.request.urlretrieve(uri, path)
    seen = set()
    for entry in lzma.open(path, "rt", encoding="utf-8").read().split("\n\n"):
        match = re.match(r"Package: (\S+)\n.*?Description-en: (.*?)\n(.*)", entry, re.S)
        if not match:
            continue
        package, short, long = match.groups()
        long = clean(re.sub(r"^ \.$", "", long, flags=re.M))
        if len(long) >= MIN_TEXT // 2 and long not in seen:
            seen.add(long)
            yield {"source": "descriptions", "id": package, "short": short, "long": long}


def questions(data, name):
    for line in gzip.open(data / f"{name}-train.jsonl.gz", "rt"):
        row = json.loads(line)
        queries = [{"query": q["query"], "answers": q.get("answers") or [q["answer"]],
                    "spans": q.get("spans", [])} for q in row["queries"]]
        yield {"source": name, "id": row["id"], "text": row["text"], "queries": queries}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--work", type=pathlib.Path, default=pathlib.Path("build/corpus"))
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    with gzip.open(args.out, "wt") as out:
        def write(name, rows):
            count = characters = 0
            for row in rows:
                line = json.dumps(row, ensure_ascii=False)
                out.write(line + "\n")
                count += 1
                characters += len(line)
            print(f"{name:28} {count:7} documents {characters / 1e6:8.1f} M characters",
                  file=sys.stderr)
        for package in PACKAGES:
            write(package, package_documents(package, args.work))
        write("descriptions", descriptions(args.work))
        for name in ("qmsum", "squality"):
            write(name, questions(args.data, name))


if __name__ == "__main__":
    main()
