"""Documents encoded once, for a stage that trains the decoder alone.

The encoder stands still there, so its states of a document are always the same; encoding them
again would be most of a step. Meetings and stories are encoded whole, as the service does it, and
a batch looks at windows of their states.
"""
import numpy as np
import torch

from batches import CLOZE, Candidates

RIVALS = 4          # documents among which a target's own is told, and targets of each
MAX_CANDIDATE = 24  # tokens of a target
MANUALS, MANUAL = 250, 2048            # documents of documentation, tokens of each
DESCRIPTIONS, DESCRIPTION = 4000, 96   # of packages or sections, with what they are called
KINDS = {"meeting": 0.45, "story": 0.1, "manual": 0.25, "description": 0.2}
SPANS = 0.4         # share of batches about spans of the documents instead of what is asked
REMOVED = 0.8       # share of those whose spans' states are taken out


class Document:
    """ids [n], states [n, C] in half precision, and what may be asked of it: targets, for
    a meeting or story rows of `questions`."""

    def __init__(self, ids, states, targets):
        self.ids, self.states, self.targets = ids, states.half(), targets


class KeptDocuments:
    def __init__(self, corpus, model, path, fresh):
        """path: the file that keeps them. fresh: made anew, for an encoder that has changed."""
        self.corpus = corpus
        if fresh or not path.exists():
            torch.save(self.encode(model), path)
        self.documents = torch.load(path, map_location=corpus.device, weights_only=False)

    @torch.no_grad()
    def encode(self, model):
        """Documents by kind."""
        def states(ids):
            return model.encode(ids)[0]
        found = self.encode_stories(states)
        self.corpus.reseed(1, 0)
        return found | {"manual": self.encode_manuals(states),
                        "description": self.encode_descriptions(states)}

    def encode_stories(self, states):
        corpus, found = self.corpus, {"meeting": [], "story": []}
        with_spans = set(corpus.questions[sorted(corpus.spans_of), 0].tolist())
        for number, begin, end in corpus.stories:
            ids = corpus.framed(begin, end)
            rows = np.flatnonzero(corpus.questions[:, 0] == number)
            found["meeting" if int(number) in with_spans else "story"].append(
                Document(ids, states(ids), rows))
        return found

    def encode_manuals(self, states):
        found = []
        while len(found) < MANUALS:
            manual = self.corpus.manual(MANUAL, MANUAL, 8)
            if len(manual.targets) >= 2:
                found.append(Document(manual.ids, states(manual.ids), manual.targets))
        return found

    def encode_descriptions(self, states):
        found = []
        while len(found) < DESCRIPTIONS:
            pairs = self.corpus.described(32, DESCRIPTION)
            found += [Document(ids, own.clone(), [short[1:-1]]) for ids, own, short
                      in zip(pairs.long, states(pairs.long), pairs.short)]
        return found

    # ---- batches ---------------------------------------------------------------------------------

    def candidates(self, length):
        """RIVALS documents of one kind, `length` tokens of each at most, and some targets of each
        that are no other's."""
        random = self.corpus.random
        kind = random.choice(list(KINDS), p=list(KINDS.values()))
        rivals = 2 * RIVALS if kind == "description" else RIVALS
        window = self.span_window if kind != "description" and random.random() < SPANS \
            else self.asked_window
        states, targets, seen = [], [], set()
        for i in random.permutation(len(self.documents[kind])):
            found, wanted = window(self.documents[kind][i], length)
            wanted = {tuple(t[:MAX_CANDIDATE].tolist()): t[:MAX_CANDIDATE] for t in wanted}
            fresh = [key for key in wanted if key not in seen][:RIVALS]
            if not fresh:
                continue
            seen.update(wanted)
            states.append(found.float())
            targets.append([wanted[key] for key in fresh])
            if len(states) == rivals:
                break
        return Candidates(states, targets)

    def place(self, document, length):
        """[begin, end) of a window."""
        n = len(document.ids)
        begin = int(self.corpus.random.integers(max(1, n - length + 1)))
        return begin, min(n, begin + length)

    def asked_window(self, document, length):
        """States, and questions, answers or headings of it in random order."""
        corpus, random = self.corpus, self.corpus.random
        begin, end = self.place(document, length)
        if isinstance(document.targets, list):  # about all of it
            order = random.permutation(len(document.targets))
            return document.states, [document.targets[i] for i in order]
        targets = []
        for row in random.permutation(document.targets):
            _, a, b, c, d = corpus.questions[row]
            spans = corpus.spans_of.get(int(row), [])
            if not spans or any(s < end and e > begin for s, e in spans):
                a, b = (a, b) if random.random() < 2 / 3 else (c, d)
                targets.append(corpus.tensor(corpus.ids[a:b]))
        return document.states[begin:end], targets

    def span_window(self, document, length):
        """States, and spans of the window's text; mostly without the spans' own states."""
        random = self.corpus.random
        begin, end = self.place(document, length)
        states, ids = document.states[begin:end], document.ids[begin:end]
        remove = random.random() < REMOVED
        left, targets = torch.ones(end - begin, dtype=torch.bool, device=ids.device), []
        for _ in range(RIVALS):
            size = int(random.integers(CLOZE[0] // 2, MAX_CANDIDATE + 1))
            at = int(random.integers(max(1, end - begin - size)))
            targets.append(ids[at:at + size])
            left[at:at + size] = not remove
        return states[left], targets
