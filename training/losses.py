"""What training minimises. Vectors are of length 1; formulas beside each function."""
import math

import torch
from torch.nn import functional

TEMPERATURE = 0.05       # of contrastive losses between vectors
SCORE_TEMPERATURE = 0.2  # of those between mean log-probabilities, in nats
FREQUENT, DRAWN = 2000, 2000  # words of a WordSample


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


def decoded(model, states, targets, cls, sep):
    """Decoder outputs [R, C] where targets (without special tokens) have a token or their end; the
    tokens [R]; and the target that each is of, [R]. states: [n, C] of one document for all, or
    [T, n, C], one for each. The decoder is causal, so tokens that pad on the right change
    nothing."""
    inputs = pad([functional.pad(t, (1, 0), value=cls) for t in targets], sep)
    wanted = pad([functional.pad(t, (0, 1), value=sep) for t in targets], -100)
    cross = model.decoder.cross_keys_values(states)
    if states.dim() == 2:  # keys [n, D] for all: the rows of targets and heads are one product
        cross = [(keys[0], values[0]) for keys, values in cross]
    outputs = model.decoder(model.embeddings(inputs), cross)
    counted = wanted >= 0  # the vocabulary is most of the work
    return outputs[counted], wanted[counted], counted.nonzero()[:, 0]


def surprise(model, outputs, wanted, among=None):
    """-log p [R] of the tokens, as by LongdocColt5.logits; among: a WordSample, that estimates the
    sum over all words."""
    words, offsets = model.embeddings.weight, 0.0
    if among is not None:
        words, offsets, wanted = words[among.words], among.offsets, among.place[wanted]
    logits = outputs @ words.T / math.sqrt(model.config.hidden_size)
    return functional.cross_entropy(logits.float() + offsets, wanted, reduction="none")


class WordSample:
    """Words that stand for all: the frequent ones and those wanted for themselves, and some drawn
    of the rest for the rest. E[sum over words of exp(logit + offset)] = sum over all words of
    exp(logit)."""

    def __init__(self, counts, wanted, random):
        """counts: how often each word occurs, [V]; wanted: tokens that must be among the words."""
        exact = torch.zeros_like(counts, dtype=torch.bool)
        exact[counts.topk(FREQUENT).indices] = True
        exact[wanted] = True
        rest = (~exact).nonzero()[:, 0]
        drawn = rest[torch.from_numpy(random.permutation(len(rest))[:DRAWN]).to(rest.device)]
        own = exact.nonzero()[:, 0]
        self.words = torch.cat([own, drawn])
        self.offsets = torch.zeros(len(self.words), device=rest.device)
        self.offsets[len(own):] = math.log(len(rest) / len(drawn))
        self.place = torch.full_like(counts, -1)
        self.place[own] = torch.arange(len(own), device=rest.device)


def likelihood(model, states, targets, cls, sep):
    """Mean negative log-probability per token of targets, given states as in decoded()."""
    outputs, wanted, _ = decoded(model, states, targets, cls, sep)
    return surprise(model, outputs, wanted).mean()


def preference(scores, own):
    """How far wrong ones come close: scores [D, T], mean log-probabilities of targets given
    documents; own [D, T]: the document that a target belongs to. Mean of -log of an own score's
    share of softmax(score / temperature) among the wrong documents of its target, among the wrong
    targets of its document, and among all that is wrong."""
    scores = scores / SCORE_TEMPERATURE
    wrong = scores.masked_fill(own, -torch.inf)
    return sum((torch.logaddexp(scores, wrong.logsumexp(dim=dim, keepdim=True)) - scores)[own].mean()
               for dim in (0, 1, (0, 1))) / 3


def candidates(model, states, targets, cls, sep, counts, random):
    """preference() among documents, and likelihood() of every target given its own: states, D of
    [n, C]; targets, D lists of some each; counts and random as of WordSample."""
    every = [t for own in targets for t in own]
    owner = torch.tensor([d for d, own in enumerate(targets) for _ in own], device=counts.device)
    among = WordSample(counts, torch.cat([*every, owner.new_tensor([sep])]), random)
    lengths = torch.tensor([len(t) + 1 for t in every], device=counts.device)
    means, own_nats = [], []
    for d, document in enumerate(states):
        outputs, wanted, target = decoded(model, document, every, cls, sep)
        nats = surprise(model, outputs, wanted, among)
        means.append(-nats.new_zeros(len(every)).index_add(0, target, nats) / lengths)
        own = owner[target] == d
        own_nats.append(surprise(model, outputs[own], wanted[own]))
    return (preference(torch.stack(means), functional.one_hot(owner, len(states)).T.bool()),
            torch.cat(own_nats).mean())
