"""The three ways to make vectors that evaluate.py compares, and the model with other routing."""
import contextlib

import torch
from torch.nn import functional

import colt5_model
import losses
import teacher as minilm
from documents import PASSAGE, framed

BATCH_TOKENS = 4096
QUERIES = 512  # queries of heavy attention at once


def blocked_heavy(layer, h, query, kv):
    """EncoderLayer.heavy, some queries at a time: the same numbers in bounded memory."""
    attention = layer.heavy_attention
    q = attention.queries(colt5_model.gather(h, query.indices))
    k, v = attention.keys_values(
        colt5_model.gather(h, kv.indices) * kv.weights[..., None].to(h.dtype))
    blocks = [attention.attend(q[..., at:at + QUERIES, :], k, v,
                               query.indices[..., at:at + QUERIES], kv.indices)
              for at in range(0, query.indices.shape[-1], QUERIES)]
    return torch.cat(blocks, dim=-2)


class Encoder:
    """Vectors of texts, kept: the same passage is met in documents of several lengths."""

    def __init__(self, longest):
        self.longest, self.kept = longest, {}

    def batch(self, ids):
        raise NotImplementedError

    @torch.no_grad()
    def texts(self, texts):
        texts = [t[:self.longest] for t in texts]
        keys = [t.cpu().numpy().tobytes() for t in texts]
        new = list({key: text for key, text in zip(keys, texts) if key not in self.kept}.items())
        for group in losses.by_length([text for _, text in new]):
            size = max(1, BATCH_TOKENS // len(new[group[0]][1]))
            for at in range(0, len(group), size):
                some = [new[i] for i in group[at:at + size]]
                vectors = self.batch(torch.stack([framed(text) for _, text in some]))
                self.kept.update((key, vector) for (key, _), vector in zip(some, vectors))
        return torch.stack([self.kept[key] for key in keys])

    def passages(self, ids):
        return self.texts(ids.split(PASSAGE))

    def document(self, ids):
        """One vector of a whole document."""
        return functional.normalize(self.passages(ids).mean(dim=0), dim=-1)


class TeacherEncoder(Encoder):
    """Chunk by chunk; it reads 256 tokens at most, two of them special."""
    name = "teacher"

    def __init__(self, teacher):
        super().__init__(minilm.MAX_TOKENS - 2)
        self.teacher = teacher

    def batch(self, ids):
        return self.teacher(ids)


class PassageEncoder(Encoder):
    """The model, every passage alone."""
    name = "passage"

    def __init__(self, model):
        super().__init__(None)
        self.model = model

    def batch(self, ids):
        return losses.vectors(self.model, ids)[0]


class DocumentEncoder(PassageEncoder):
    """The model, every passage within its document."""
    name = "document"

    @torch.no_grad()
    def passages(self, ids):
        states, _ = self.model.encode(framed(ids))
        ranges = [(1 + p, 1 + min(p + PASSAGE, len(ids))) for p in range(0, len(ids), PASSAGE)]
        return losses.passage_vectors(self.model, states, ranges)

    @torch.no_grad()
    def document(self, ids):
        return losses.vectors(self.model, framed(ids)[None])[0][0]


@contextlib.contextmanager
def routed(model, rate=None, random=None):
    """The model with other rates, or with scores drawn by `random`, a torch.Generator."""
    config, route = model.config, colt5_model.route
    kept = (config.query_rate, config.kv_rate, config.ff_rate)
    if rate is not None:
        config.query_rate = config.ff_rate = rate
        config.kv_rate = min(1.0, 2 * rate)
    if random is not None:
        def drawn(scores, rate):
            values = torch.rand(scores.shape, generator=random, device="cpu")
            return route(values.to(scores.device), rate)
        colt5_model.route = drawn
    try:
        yield
    finally:
        config.query_rate, config.kv_rate, config.ff_rate = kept
        colt5_model.route = route
