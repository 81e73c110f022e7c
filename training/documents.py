"""Documents that evaluate.py asks about: meetings and stories with their questions."""
import gzip
import json

import numpy as np
import torch

from batches import CLS, SEP

PASSAGE = 256  # tokens


def framed(ids):
    return torch.cat([ids.new_tensor([CLS]), ids, ids.new_tensor([SEP])])


class Story:
    """A meeting or story: token ids, and questions as (ids, token ranges of their answers)."""

    def __init__(self, row, tokenizer):
        encoded = tokenizer.encode(row["text"], add_special_tokens=False)
        self.ids = torch.tensor(encoded.ids)
        # Offsets count characters; spans count bytes.
        before = np.cumsum([0] + [len(c.encode()) for c in row["text"]])
        starts = before[[begin for begin, _ in encoded.offsets]]

        def ids_of(text):
            return torch.tensor(tokenizer.encode(text, add_special_tokens=False).ids)
        self.questions = [
            (ids_of(q["query"]), [tuple(int(t) for t in np.searchsorted(starts, span))
                                  for span in q.get("spans", [])]) for q in row["queries"]]


def read_stories(path, tokenizer):
    return [Story(json.loads(line), tokenizer) for line in gzip.open(path, "rt")]


class Document:
    """Ids of a document, and the questions that a few of its passages answer.

    Passages are PASSAGE tokens each. One answers a question if half of it lies within a gold span.
    Questions that more than a third of the passages answer say nothing of place and are left out.
    questions: (ids, the set of gold passages, the range of passages of its own meeting).
    """

    def __init__(self, ids, questions):
        """questions: (ids, token ranges of answers, token range of the meeting)."""
        self.ids = ids
        self.passages = -(-len(ids) // PASSAGE)
        self.questions = []
        for asked, spans, (first, last) in questions:
            gold = {p for p in range(self.passages) for begin, end in spans
                    if min(end, (p + 1) * PASSAGE) - max(begin, p * PASSAGE) >= PASSAGE // 2}
            if gold and len(gold) <= self.passages / 3:
                own = range(max(0, first // PASSAGE), min(self.passages, -(-last // PASSAGE)))
                self.questions.append((asked, gold, own))


def single_documents(stories, limit):
    """Every meeting as it is."""
    documents = [Document(s.ids, [(*q, (0, len(s.ids))) for q in s.questions]) for s in stories]
    return [d for d in documents if d.questions][:limit]


def long_documents(stories, length, limit):
    """`length` tokens each, whole passages, cut from all meetings one after the other. A question
    counts where all of its spans lie in one document."""
    length -= length % PASSAGE
    ids = torch.cat([s.ids for s in stories])
    questions, offset = [], 0
    for story in stories:
        questions += [(asked, [(b + offset, e + offset) for b, e in spans],
                       (offset, offset + len(story.ids)))
                      for asked, spans in story.questions if spans]
        offset += len(story.ids)
    documents = []
    for begin in range(0, len(ids) - length + 1, length):
        inside = [(asked, [(b - begin, e - begin) for b, e in spans], (first - begin, last - begin))
                  for asked, spans, (first, last) in questions
                  if all(begin <= b and e <= begin + length for b, e in spans)]
        document = Document(ids[begin:begin + length], inside)
        if document.questions:
            documents.append(document)
    return documents[:limit]
