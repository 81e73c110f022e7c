"""What training minimises. Vectors are of length 1; formulas beside each function."""
import math

import torch
from torch.nn import functional

TEMPERATURE = 0.05       # of contrastive losses between vectors
SCORE_TEMPERATURE = 0.2  # of those between mean log-probabilities, in nats


def by_length(texts):
    """Indices of texts of equal length, as lists."""
    groups = {}
    for i, text in enumerate(texts):
        groups.setdefault(text.shape[0], []).append(i)
    return groups.values()


def vectors(model, ids):
    """[B, C'] of whole texts [B, n], and their states."""
    states, _ = model.encode(ids)
    return functional.normalize(model.encoder.vector(states).float(), dim=-1), states


def vectors_of_texts(model, texts):
    """[B, C'] of texts of several lengths."""
    parts, order = [], []
    for group in by_length(texts):
        parts.append(vectors(model, torch.stack([texts[i] for i in group]))[0])
        order += group
    return torch.cat(parts)[torch.argsort(torch.tensor(order, device=parts[0].device))]


def passage_vectors(model, states, passages):
    """[P, C'], the means over token ranges of states [n, C]: each sees the whole document."""
    means = torch.stack([states[begin:end].mean(dim=0) for begin, end in passages])
    output = model.encoder.output(means) if hasattr(model.encoder, "output") else means
    return functional.normalize(output.float(), dim=-1)


def distillation(student, teacher):
    """1 - cos, and 10 * the mean square difference of all cosines within the batch."""
    cosine = (student * teacher).sum(dim=-1)
    matrix = (student @ student.T - teacher @ teacher.T).square().mean()
    return (1 - cosine).mean() + 10 * matrix


def contrast(queries, passages, gold, others=None):
    """-log of the gold passages' share of softmax(cos / temperature); gold: a set per query."""
    logits = queries @ passages.T / TEMPERATURE
    mask = torch.zeros_like(logits, dtype=torch.bool)
    for i, found in enumerate(gold):
        mask[i, list(found)] = True
    right = logits.masked_fill(~mask, -torch.inf).logsumexp(dim=-1)
    if others is not None:
        logits = torch.cat([logits, queries @ others.T / TEMPERATURE], dim=-1)
    return (logits.logsumexp(dim=-1) - right).mean()


def pad(rows, value):
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def log_probs(model, states, targets, cls, sep, words):
    """Log-probability of each target (without special tokens) and how many tokens it counts, [T]
    each. states: [n, C] of one document for all, or [T, n, C], one for each; words: the table of
    embeddings. The decoder is causal, so tokens that pad on the right change nothing."""
    inputs = pad([functional.pad(t, (1, 0), value=cls) for t in targets], sep)
    wanted = pad([functional.pad(t, (0, 1), value=sep) for t in targets], -100)
    decoded = model.decoder(functional.embedding(inputs, words),
                            model.decoder.cross_keys_values(states))
    # As LongdocColt5.logits, for the tokens that count: the vocabulary is most of the work.
    counted = wanted >= 0
    logits = decoded[counted] @ words.T / math.sqrt(model.config.hidden_size)
    nats = functional.cross_entropy(logits.float(), wanted[counted], reduction="none")
    rows = counted.nonzero()[:, 0]
    return nats.new_zeros(len(targets)).index_add(0, rows, -nats), counted.sum(dim=-1)


def likelihood(model, states, targets, cls, sep):
    """Mean negative log-probability per token of targets, given states as in log_probs()."""
    sums, counts = log_probs(model, states, targets, cls, sep, model.embeddings.weight)
    return -sums.sum() / counts.sum()


def preference(scores, own):
    """How far wrong ones come close: scores [D, T], mean log-probabilities of targets given
    documents; own [D, T]: the document that a target belongs to. Mean of -log of an own score's
    share of softmax(score / temperature) among the wrong targets of its document, and among the
    wrong documents of its target."""
    scores = scores / SCORE_TEMPERATURE
    wrong = scores.masked_fill(own, -torch.inf)
    return sum((torch.logaddexp(scores, wrong.logsumexp(dim=dim, keepdim=True)) - scores)[own].mean()
               for dim in (0, 1)) / 2


def candidates(model, states, targets, cls, sep):
    """preference() among documents, and likelihood() of every target given its own: states, D of
    [n, C]; targets, D lists of some each."""
    every = [t for own in targets for t in own]
    words, rows = model.embeddings.weight, []
    for document in states:
        sums, counts = log_probs(model, document, every, cls, sep, words)
        rows.append(sums)
    sums = torch.stack(rows)
    owner = torch.tensor([d for d, own in enumerate(targets) for _ in own], device=sums.device)
    own = functional.one_hot(owner, len(states)).T.bool()
    return preference(sums / counts, own), -sums[own].sum() / counts.sum()
