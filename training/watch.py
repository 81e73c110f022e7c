"""A quick look at texts that training does not see, so that a run can be watched.

They are not those of evaluate.py: what is watched may steer a run, what is reported may not.
"""
import numpy as np
import torch

import losses
from batches import CLS, SEP, WATCHED_PAIRS
from measures import auc, pair_cosines, spearman

MAX_TOKENS = 250
LENGTH = 4096     # tokens of the beginning of each watched meeting


class Watch:
    def __init__(self, corpus, teacher, passage, kept):
        """kept: a file of the teacher's vectors, made if it is not there."""
        rows = [r for r in corpus.held_out[-WATCHED_PAIRS:] if r[3] - r[2] <= MAX_TOKENS]
        self.short = [corpus.framed(a, b) for a, b, _, _ in rows]
        self.long = [corpus.framed(c, d) for _, _, c, d in rows]
        if not kept.exists():
            torch.save([torch.cat([teacher(t[None]) for t in texts])
                        for texts in (self.short, self.long)], kept)
        self.short_vectors, self.long_vectors = torch.load(kept, map_location=corpus.device)
        corpus.reseed(0, 0)
        self.documents = [corpus.story((n, begin, min(end, begin + LENGTH)), LENGTH, passage, 99)
                          for n, begin, end in corpus.watched_stories]

    @torch.no_grad()
    def measure(self, model):
        model.eval()
        short = torch.cat([losses.vectors(model, t[None])[0] for t in self.short])
        long = torch.cat([losses.vectors(model, t[None])[0] for t in self.long])
        return {"spearman": spearman(pair_cosines(short, long),
                                     pair_cosines(self.short_vectors, self.long_vectors)),
                "cosine": float((long * self.long_vectors).sum(-1).mean()),
                **self.documents_measure(model)}

    def documents_measure(self, model):
        hits, right, wrong = {1: [], 5: []}, [], []
        for i, document in enumerate(self.documents):
            states, _ = model.encode(document.ids)
            passages = losses.passage_vectors(model, states, document.passages)
            if document.questions:
                asked = losses.vectors_of_texts(model, document.questions)
                for found, gold in zip((asked @ passages.T).argsort(dim=-1, descending=True),
                                       document.gold):
                    for k, hit in hits.items():
                        hit.append(bool(gold.intersection(found[:k].tolist())))
            if model.config.decoder_layers > 0:
                other = self.documents[(i + 1) % len(self.documents)]
                cross = model.decoder.cross_keys_values(states)
                for scores, targets in ((right, document.targets), (wrong, other.targets)):
                    scores += [float(model.target_log_probs(t, cross, CLS, SEP).mean())
                               for t in targets[0::2]]  # questions; their answers are between
        found = {f"recall@{k}": float(np.mean(hit)) for k, hit in hits.items()}
        if right:
            found |= {"auc": auc(right, wrong), "log_prob": float(np.mean(right))}
        return found
