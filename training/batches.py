"""What one step of training looks at. All texts of a batch have one length, so nothing is padded.

A batch is a dataclass of tensors on the device. Random choices come from one generator, so that a
run is repeated by its seed.
"""
import dataclasses

import numpy as np
import torch

CLS, SEP = 101, 102
WATCHED_PAIRS = 300       # the last of the held-out descriptions: looked at while training
WATCHED_MEETINGS = (7, 20)  # first and step: these of the training meetings are only looked at
CLOZE = (12, 40)          # tokens of a span whose passage is to be found


@dataclasses.dataclass
class Texts:
    """Short texts, for the teacher's vectors."""
    ids: torch.Tensor  # [B, n], [CLS] and [SEP] included

    def size(self):
        return self.ids.numel()


@dataclasses.dataclass
class Pairs:
    """A question, heading or summary, and the text it belongs to."""
    short: list  # of B tensors [n_i], [CLS] and [SEP] included
    long: torch.Tensor  # [B, n]

    def size(self):
        return self.long.numel()


@dataclasses.dataclass
class Document:
    """One long document: passages of it, and questions about it."""
    ids: torch.Tensor       # [n], [CLS] and [SEP] included
    passages: list          # [begin, end) in ids
    questions: list         # tensors, [CLS] and [SEP] included
    gold: list              # per question, the set of passages that answer it
    targets: list           # tensors without special tokens, for the decoder: questions, answers,
                            # headings

    def size(self):
        return self.ids.numel()


@dataclasses.dataclass
class Candidates:
    """Encoded documents of one kind, and what is to be preferred given each: the decoder tells
    whose is whose."""
    states: list   # of D tensors [n, C]
    targets: list  # per document, tensors without special tokens

    def size(self):
        return sum(len(s) for s in self.states)


class Corpus:
    def __init__(self, path, seed, device):
        self.__dict__.update(np.load(path))
        self.reseed(seed, 0)
        self.device = device
        # Documents: ranges of rows of `sections`.
        starts = np.flatnonzero(np.diff(self.sections[:, 0], prepend=-1))
        self.documents = np.stack([starts, np.append(starts[1:], len(self.sections))], axis=-1)
        self.spans_of = {}
        for question, begin, end in self.spans:
            self.spans_of.setdefault(int(question), []).append((int(begin), int(end)))
        self.watch_some()
        texts = np.concatenate([self.sections[:, 3:5], self.pairs[:, 2:4], self.stories[:, 1:3]])
        self.windows = texts
        sizes = np.minimum(texts[:, 1] - texts[:, 0], 20_000).astype(np.float64)
        self.window_chance = np.cumsum(sizes) / sizes.sum()
        asked = self.questions[np.isin(self.questions[:, 0], self.stories[:, 0])]
        shorts = np.concatenate([self.sections[:, 1:3], self.pairs[:, :2], asked[:, 1:3]])
        self.short_by_length = {}
        for begin, end in shorts:
            if 3 <= end - begin <= 24:
                self.short_by_length.setdefault(int(end - begin), []).append((begin, end))

    def watch_some(self):
        """Takes some meetings out of `stories`, to be looked at during training."""
        with_spans = np.unique(self.questions[sorted(self.spans_of), 0])
        chosen = with_spans[WATCHED_MEETINGS[0]::WATCHED_MEETINGS[1]]
        watched = np.isin(self.stories[:, 0], chosen)
        self.watched_stories, self.stories = self.stories[watched], self.stories[~watched]

    def reseed(self, seed, step):
        """A step's own random stream."""
        self.random = np.random.default_rng([seed, step])

    def counts(self, vocab):
        return torch.from_numpy(np.bincount(self.ids, minlength=vocab))

    def tensor(self, ids):
        return torch.from_numpy(ids.astype(np.int64)).to(self.device)

    def framed(self, begin, end):
        return self.tensor(np.concatenate([[CLS], self.ids[begin:end], [SEP]]))

    # ---- short texts -----------------------------------------------------------------------------

    def texts(self, tokens, length):
        """Windows of `length` tokens in all, from anywhere."""
        rows = []
        inner = length - 2
        while len(rows) < max(2, tokens // length):
            begin, end = self.windows[
                np.searchsorted(self.window_chance, self.random.random())]
            if end - begin >= inner:
                at = self.random.integers(begin, end - inner + 1)
                rows.append(self.framed(at, at + inner))
        return Texts(torch.stack(rows))

    def short_texts(self, count):
        """Headings, short descriptions and questions of one length."""
        lengths = sorted(self.short_by_length)
        weights = np.array([len(self.short_by_length[n]) for n in lengths], dtype=np.float64)
        chosen = self.short_by_length[self.random.choice(lengths, p=weights / weights.sum())]
        rows = [chosen[i] for i in self.random.integers(len(chosen), size=min(count, len(chosen)))]
        return Texts(torch.stack([self.framed(begin, end) for begin, end in rows]))

    # ---- pairs -----------------------------------------------------------------------------------

    def described(self, count, length):
        """Descriptions and headings with texts cut to one length."""
        inner = length - 2
        short, long = [], []
        while len(short) < count:
            if self.random.random() < 0.5:
                a, b, begin, end = self.pairs[self.random.integers(len(self.pairs))]
            else:
                _, a, b, begin, end = self.sections[self.random.integers(len(self.sections))]
            if b - a < 2 or b - a > 48 or end - begin < inner:
                continue
            short.append(self.framed(a, b))
            long.append(self.framed(begin, begin + inner))
        return Pairs(short, torch.stack(long))

    # ---- documents -------------------------------------------------------------------------------

    def document(self, length, passage, max_questions):
        """A meeting or story with its questions, documentation with its headings, or either with
        spans of itself."""
        kind = self.random.random()
        if kind < 0.3:
            story = self.stories[self.random.integers(len(self.stories))]
            return self.story(story, length, passage, max_questions)
        if kind < 0.65:
            return self.manual(length, passage, max_questions)
        return self.cloze(length, passage, max_questions)

    def story(self, story, length, passage, max_questions):
        """A window of a meeting or story [number, begin, end]; None if nothing is asked of it."""
        number, begin, end = story
        first = 0
        if end - begin > length:
            first = int(self.random.integers(end - begin - length))
        size = int(min(length, end - begin - first))
        passages = [(p, min(p + passage, size)) for p in range(0, size, passage)]
        questions, gold, targets = [], [], []
        rows = np.flatnonzero(self.questions[:, 0] == number)
        for row in self.random.permutation(rows)[:max_questions]:
            _, a, b, c, d = self.questions[row]
            found = {i for i, (p, q) in enumerate(passages)
                     for s, e in self.spans_of.get(int(row), [])
                     if min(q, e - first) - max(p, s - first) > (q - p) // 2}
            # A span that is half the meeting says nothing of where the answer is.
            if found and len(found) <= max(2, len(passages) // 3):
                questions.append(self.framed(a, b))
                gold.append(found)
            targets.append(self.tensor(self.ids[a:b][:48]))
            targets.append(self.tensor(self.ids[c:min(d, c + 32)]))
        return self.make_document(self.ids[begin + first:begin + first + size], passages,
                                  questions, gold, targets)

    def manual(self, length, passage, max_questions):
        """Sections of consecutive documents. Headings stay out of the text half of the time."""
        at = self.random.integers(len(self.documents))
        parts, heads, size = [], [], 0
        row = self.documents[at][0]
        keep = self.random.random() < 0.5
        while size < length and row < len(self.sections):
            _, a, b, begin, end = self.sections[row]
            end = min(end, begin + 1024)
            if keep:
                parts.append(self.ids[a:b])
                size += b - a
            if 2 <= b - a <= 32:
                heads.append((a, b, size, size + end - begin))
            parts.append(self.ids[begin:end])
            size += end - begin
            row += 1
        size = int(min(size, length))
        passages = [(p, min(p + passage, size)) for p in range(0, size, passage)]
        questions, gold, targets = [], [], []
        for i in self.random.permutation(len(heads))[:max_questions]:
            a, b, s, e = heads[i]
            found = {j for j, (p, q) in enumerate(passages)
                     if min(q, e) - max(p, s) > min(q - p, e - s) // 2}
            if found:
                questions.append(self.framed(a, b))
                gold.append(found)
                targets.append(self.tensor(self.ids[a:b]))
        return self.make_document(np.concatenate(parts)[:size], passages, questions, gold, targets)

    def cloze(self, length, passage, max_questions):
        """Spans of the document and where they were: most are taken out of it."""
        if self.random.random() < 0.5:
            story = self.stories[self.random.integers(len(self.stories))]
            whole = self.story(story, length, passage, 0)
        else:
            whole = self.manual(length, passage, 0)
        ids = whole.ids[1:-1].cpu().numpy()
        count = len(whole.passages)
        asked = set(self.random.permutation(count)[:max_questions].tolist())
        parts, passages, questions, gold, size = [], [], [], [], 0
        for i, (begin, end) in enumerate(whole.passages):
            part = ids[begin - 1:end - 1]
            span = int(self.random.integers(CLOZE[0], CLOZE[1] + 1))
            if i in asked and len(part) >= 4 * span:
                at = int(self.random.integers(len(part) - span + 1))
                questions.append(self.tensor(np.concatenate([[CLS], part[at:at + span], [SEP]])))
                gold.append({i})
                if self.random.random() < 0.8:
                    part = np.delete(part, slice(at, at + span))
            parts.append(part)
            passages.append((size, size + len(part)))
            size += len(part)
        return self.make_document(np.concatenate(parts), passages, questions, gold, [])

    def make_document(self, ids, passages, questions, gold, targets):
        framed = self.tensor(np.concatenate([[CLS], ids, [SEP]]))
        return Document(framed, [(p + 1, q + 1) for p, q in passages], questions, gold, targets)
