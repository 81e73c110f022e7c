"""First weights: an encoder that begins as a table of the teacher's vectors of single words.

The teacher reads every word piece alone; the principal axes of those vectors become the content
half of our embeddings, rare words longer than frequent ones (a word's inverse frequency is most of
what a mean over tokens needs). The residual stream ends in an RMSNorm, which makes all tokens
equally long, so length is kept as direction: coordinates that the output projection does not read
fill every embedding up to the same norm. Branches begin near zero. So the untrained model already
is a weighted mean of word vectors, and training only has to add what context says.
"""
import math

import torch

WEIGHT_OF = 1e-3  # a / (a + p): Arora et al. 2017, "A simple but tough-to-beat baseline"
FREQUENCY = 4.0   # of the coordinate that tells how frequent a word is, standard deviation


def word_vectors(teacher, vocab_size, cls, sep, batch=2048):
    """[V, 384], of every word piece between [CLS] and [SEP]."""
    device = teacher.words.weight.device
    vectors = []
    for begin in range(0, vocab_size, batch):
        word = torch.arange(begin, min(begin + batch, vocab_size), device=device)
        ends = torch.ones_like(word)
        vectors.append(teacher(torch.stack([cls * ends, word, sep * ends], dim=-1)))
    return torch.cat(vectors)


def principal_axes(vectors, weights, count):
    """Mean [C] and the `count` leading axes [count, C] of weighted rows."""
    weights = weights / weights.sum()
    mean = (weights[:, None] * vectors).sum(dim=0)
    centred = (vectors - mean) * weights.sqrt()[:, None]
    axes = torch.linalg.svd(centred, full_matrices=False).Vh[:count]
    return mean, axes


def frequencies(counts, special):
    """Of every word piece, [SEP] as often as texts of 30 tokens would have it."""
    counts = counts.float() + 1
    counts[special["sep"]] = counts.sum() / 30
    return counts / counts.sum()


@torch.no_grad()
def embed(model, vectors, p, special, content, generator):
    """Fills the embeddings and the output projection. vectors [V, C'] of words, p [V]."""
    vocab, size = model.embeddings.weight.shape
    # The mean of single words is the teacher's common direction: weighing it down is half the job.
    mean, axes = principal_axes(vectors, p.sqrt(), content)
    rows = (vectors - mean) @ axes.T * (WEIGHT_OF / (WEIGHT_OF + p))[:, None]
    rows[list(special.values())] = 0
    norm = math.sqrt(size)  # every row's: RMSNorm leaves it as it is
    rows = rows * (0.9 * norm / rows.norm(dim=-1).max())
    # The last coordinate tells how frequent a word is, for the decoder's first guess and routing.
    often = p.log()
    often = FREQUENCY * (often - often.mean()) / often.std()
    left = (norm**2 - rows.square().sum(dim=-1)).clamp(min=0).sqrt()
    often = torch.minimum(often, 0.9 * left).maximum(-0.9 * left)
    left = (left.square() - often.square()).clamp(min=0).sqrt()
    rest = torch.randn(vocab, size - content - 1, generator=generator).to(rows.device)
    rest = rest * (left / rest.norm(dim=-1))[:, None]
    model.embeddings.weight.copy_(torch.cat([rows, rest, often[:, None]], dim=-1))
    model.encoder.output.weight.zero_()
    model.encoder.output.weight[:, :content] = axes.T


@torch.no_grad()
def initialise(model, teacher, counts, special, content, generator):
    """counts [V]: of every word piece in the training texts. special: ids whose content is none."""
    device = model.embeddings.weight.device
    vectors = word_vectors(teacher, model.config.vocab_size, special["cls"], special["sep"])
    embed(model, vectors, frequencies(counts, special).to(device), special, content, generator)
    for name, parameter in model.named_parameters():
        if name.endswith(("output.weight", "down.weight")) and "encoder.output" not in name:
            parameter.mul_(0.1)
        if "router" in name:
            # Rare words first.
            parameter.mul_(0.3)
            parameter[-1] = -0.5
    if model.config.decoder_layers > 0:
        # The decoder's input is its output's table: it would begin by repeating each word.
        model.decoder.final_norm.weight.fill_(0.1)
        model.decoder.final_norm.weight[-1] = 0.5
