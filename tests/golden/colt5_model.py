"""longdoc-CoLT5 in PyTorch: the definition of the model, written from docs/models.md alone.

Plain and complete rather than fast: every attention forms its scores in full (light attention block
by block), nothing is fused or skipped. In float64 it judges the engine (make_colt5_goldens.py); it
is differentiable throughout, so that it also trains. Names of parameters are those of the tensors
in model.safetensors: state_dict() can be saved as it is.

Every function takes one sequence or a batch of sequences of the same length: shapes are [..., n, C].
"""
import dataclasses
import json
import math

import torch
from torch import nn


def alibi_slopes(heads):
    """Press et al. 2022: a geometric series, completed by every other term of the doubled one."""
    def series(m):
        return [2.0 ** (-8.0 * (i + 1) / m) for i in range(m)]
    if heads & (heads - 1) == 0:
        return series(heads)
    lower = 1 << (heads.bit_length() - 1)
    return series(lower) + series(2 * lower)[0::2][: heads - lower]


@dataclasses.dataclass
class Colt5Config:
    vocab_size: int
    hidden_size: int
    num_layers: int
    light_heads: int
    heavy_heads: int
    light_ff_size: int
    heavy_ff_size: int
    head_dim: int = 64
    light_slopes: list = None
    heavy_slopes: list = None
    light_radius: int = 127
    query_rate: float = 1 / 16
    kv_rate: float = 1 / 8
    ff_rate: float = 1 / 16
    output_size: int = 0
    decoder_layers: int = 0
    decoder_heads: int = 0
    decoder_slopes: list = None
    decoder_ff_size: int = 0
    max_target_tokens: int = 2048
    rms_norm_eps: float = 1e-6

    def __post_init__(self):
        for side in ("light", "heavy", "decoder"):
            heads = getattr(self, side + "_heads")
            if getattr(self, side + "_slopes") is None and heads > 0:
                setattr(self, side + "_slopes", alibi_slopes(heads))

    @classmethod
    def read(cls, path):
        """From a config.json; fields that are not ours are ignored."""
        with open(path) as file:
            fields = json.load(file)
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{k: v for k, v in fields.items() if k in known and v is not None})

    def fields(self):
        """What config.json says."""
        return {"model_type": "longdoc_colt5", **dataclasses.asdict(self)}


# ---- routing ------------------------------------------------------------------------------------

def routed_count(n, rate):
    """n * rate rounded half up, at least 1, at most n; none when the rate is 0."""
    if rate <= 0 or n <= 0:
        return 0
    return min(n, max(1, math.floor(n * rate + 0.5)))


def soft_topk_offset(scores, k):
    """t such that sum_i min(1, exp(score_i + t)) = k, for 0 < k < n. scores: [..., n].

    With the scores sorted downwards and the first j of them clipped at 1, t = ln(k - j) - lse(rest).
    The right j is the first for which the largest of the rest is not clipped too.
    """
    ordered = torch.sort(scores, dim=-1, descending=True).values
    rest = torch.logcumsumexp(ordered.flip(-1), dim=-1).flip(-1)[..., :k]
    left = torch.log(k - torch.arange(k, dtype=scores.dtype, device=scores.device))
    offsets = left - rest
    fits = (ordered[..., :k] + offsets <= 0)
    # By the last j (k - j = 1) the largest of the rest weighs at most the rest's sum, so it fits.
    fits[..., -1] = True
    first = fits.int().argmax(dim=-1, keepdim=True)
    return torch.gather(offsets, -1, first).squeeze(-1)


def soft_topk(scores, k):
    """Exact solution of: maximise s.l + H(l) subject to sum l = k and 0 <= l <= 1 (epsilon 1)."""
    if k == 0:
        return torch.zeros_like(scores)
    if k >= scores.shape[-1]:
        return torch.ones_like(scores)
    return torch.exp(torch.clamp(scores + soft_topk_offset(scores, k)[..., None], max=0))


def soft_topk_iterative(scores, k, iterations=50, epsilon=1.0):
    """The published algorithm (CoLT5, appendix C): coordinate descent on the dual."""
    b = -scores
    for _ in range(iterations):
        a = epsilon * (math.log(k) - torch.logsumexp((scores + b) / epsilon, dim=-1, keepdim=True))
        b = -torch.clamp(scores + a, min=0)
    return torch.exp((scores + a + b) / epsilon)


@dataclasses.dataclass
class Routing:
    scores: torch.Tensor   # [..., n]
    indices: torch.Tensor  # [..., k], ascending
    weights: torch.Tensor  # [..., k], soft top-k of the chosen


def route(scores, rate):
    """The tokens of highest score, ties to the lower index."""
    k = routed_count(scores.shape[-1], rate)
    best = torch.sort(scores, dim=-1, descending=True, stable=True).indices[..., :k]
    indices = torch.sort(best, dim=-1).values
    return Routing(scores, indices, torch.gather(soft_topk(scores, k), -1, indices))


def gather(x, indices):
    """Rows [..., k, C] of x [..., n, C]."""
    return torch.take_along_dim(x, indices[..., None], dim=-2)


def scatter(x, indices, rows):
    """x with rows [..., k, C] added at the indices, which are distinct."""
    return x.scatter_add(-2, indices[..., None].expand_as(rows), rows)


# ---- layers ------------------------------------------------------------------------------------

class RmsNorm(nn.Module):
    def __init__(self, size, epsilon):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.epsilon = epsilon

    def forward(self, x):
        wide = x if x.dtype == torch.float64 else x.float()
        scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.epsilon)
        return (wide * scale).to(x.dtype) * self.weight


class Router(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size) / math.sqrt(size))

    def forward(self, h):
        """Scores [..., n], at least float32. A sum per row: equal rows get equal scores, which a
        matrix product does not promise."""
        wide = torch.promote_types(h.dtype, torch.float32)
        return (h.to(wide) * self.weight.to(wide)).sum(dim=-1)


class GatedFeedForward(nn.Module):
    def __init__(self, size, inner):
        super().__init__()
        self.gate_up = nn.Linear(size, 2 * inner, bias=False)
        self.down = nn.Linear(inner, size, bias=False)

    def forward(self, h):
        first, second = self.gate_up(h).chunk(2, dim=-1)
        return self.down(nn.functional.gelu(first, approximate="tanh") * second)


class Attention(nn.Module):
    """`kv_heads` is `heads`, or 1: then all query heads share one key and one value head."""

    def __init__(self, size, heads, kv_heads, head_dim, slopes=None):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.slopes = slopes  # None: no position bias
        self.query = nn.Linear(size, heads * head_dim, bias=False)
        self.key = nn.Linear(size, kv_heads * head_dim, bias=False)
        self.value = nn.Linear(size, kv_heads * head_dim, bias=False)
        self.output = nn.Linear(heads * head_dim, size, bias=False)

    def split(self, x, heads):
        return x.unflatten(-1, (heads, self.head_dim)).transpose(-3, -2)  # [..., H, n, D]

    def queries(self, h):
        return self.split(self.query(h), self.heads)

    def keys_values(self, h):
        return self.split(self.key(h), self.kv_heads), self.split(self.value(h), self.kv_heads)

    def attend(self, q, k, v, q_positions=None, k_positions=None, radius=None, causal=False):
        """q [..., H, n, D], k and v [..., H or 1, m, D], positions [..., n] and [..., m].

        Returns [..., n, C].
        """
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.head_dim)
        if q_positions is not None:
            delta = (q_positions[..., :, None] - k_positions[..., None, :])[..., None, :, :]
            if self.slopes is not None:
                slopes = torch.tensor(self.slopes, dtype=scores.dtype, device=scores.device)
                scores = scores - slopes[:, None, None] * delta.abs()
            if radius is not None:
                scores = scores.masked_fill(delta.abs() > radius, -math.inf)
            if causal:
                scores = scores.masked_fill(delta < 0, -math.inf)
        mixed = torch.softmax(scores, dim=-1) @ v
        return self.output(mixed.transpose(-3, -2).flatten(-2))


def positions(n, like):
    return torch.arange(n, device=like.device)


class EncoderLayer(nn.Module):
    # Query rows of light attention taken at once: bounds the memory of the scores.
    BLOCK = 128

    def __init__(self, config):
        super().__init__()
        c, d = config.hidden_size, config.head_dim
        self.config = config
        self.attention_norm = RmsNorm(c, config.rms_norm_eps)
        self.attention_router = nn.ModuleDict({"query": Router(c), "kv": Router(c)})
        self.light_attention = Attention(c, config.light_heads, config.light_heads, d,
                                         config.light_slopes)
        self.heavy_attention = Attention(c, config.heavy_heads, config.heavy_heads, d,
                                         config.heavy_slopes)
        self.ff_norm = RmsNorm(c, config.rms_norm_eps)
        self.ff_router = Router(c)
        self.light_ff = GatedFeedForward(c, config.light_ff_size)
        self.heavy_ff = GatedFeedForward(c, config.heavy_ff_size)

    def light(self, h):
        n, w = h.shape[-2], self.config.light_radius
        position = positions(n, h)
        q = self.light_attention.queries(h)
        k, v = self.light_attention.keys_values(h)
        blocks = []
        for begin in range(0, n, self.BLOCK):
            end = min(begin + self.BLOCK, n)
            near = slice(max(0, begin - w), min(n, end + w))
            blocks.append(self.light_attention.attend(
                q[..., begin:end, :], k[..., near, :], v[..., near, :], position[begin:end],
                position[near], radius=w))
        return torch.cat(blocks, dim=-2)

    def heavy(self, h, query, kv):
        q = self.heavy_attention.queries(gather(h, query.indices))
        k, v = self.heavy_attention.keys_values(
            gather(h, kv.indices) * kv.weights[..., None].to(h.dtype))
        return self.heavy_attention.attend(q, k, v, query.indices, kv.indices)

    def forward(self, x):
        """The next x, and the routing of queries, keys/values and feed-forward."""
        config = self.config
        h = self.attention_norm(x)
        query = route(self.attention_router["query"](h), config.query_rate)
        kv = route(self.attention_router["kv"](h), config.kv_rate)
        x = x + self.light(h)
        if query.indices.shape[-1] > 0 and kv.indices.shape[-1] > 0:
            rows = query.weights[..., None].to(h.dtype) * self.heavy(h, query, kv)
            x = scatter(x, query.indices, rows)
        h = self.ff_norm(x)
        ff = route(self.ff_router(h), config.ff_rate)
        x = x + self.light_ff(h)
        if ff.indices.shape[-1] > 0:
            rows = ff.weights[..., None].to(h.dtype) * self.heavy_ff(gather(h, ff.indices))
            x = scatter(x, ff.indices, rows)
        return x, {"query": query, "kv": kv, "ff": ff}


class Encoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.num_layers))
        self.final_norm = RmsNorm(config.hidden_size, config.rms_norm_eps)
        if config.output_size > 0:
            self.output = nn.Linear(config.hidden_size, config.output_size, bias=False)

    def forward(self, x):
        """States [..., n, C], and the routing of every layer."""
        routing = []
        for layer in self.layers:
            x, routed = layer(x)
            routing.append(routed)
        return self.final_norm(x), routing

    def vector(self, states):
        """Of a span, from its states [..., tokens, C]; not yet normalised."""
        mean = states.mean(dim=-2)
        return self.output(mean) if hasattr(self, "output") else mean


class DecoderLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        c, d, heads = config.hidden_size, config.head_dim, config.decoder_heads
        self.self_attention_norm = RmsNorm(c, config.rms_norm_eps)
        self.self_attention = Attention(c, heads, 1, d, config.decoder_slopes)
        self.cross_attention_norm = RmsNorm(c, config.rms_norm_eps)
        self.cross_attention = Attention(c, heads, 1, d)
        self.ff_norm = RmsNorm(c, config.rms_norm_eps)
        self.ff = GatedFeedForward(c, config.decoder_ff_size)

    def forward(self, y, cross_kv):
        attention = self.self_attention
        h = self.self_attention_norm(y)
        position = positions(y.shape[-2], y)
        k, v = attention.keys_values(h)
        y = y + attention.attend(attention.queries(h), k, v, position, position, causal=True)
        h = self.cross_attention_norm(y)
        y = y + self.cross_attention.attend(self.cross_attention.queries(h), *cross_kv)
        return y + self.ff(self.ff_norm(y))


class Decoder(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.final_norm = RmsNorm(config.hidden_size, config.rms_norm_eps)

    def cross_keys_values(self, states):
        """Per layer, keys and values [..., 1, n, D]: all that a document's scores need of it."""
        return [layer.cross_attention.keys_values(states) for layer in self.layers]

    def forward(self, y, cross):
        for layer, cross_kv in zip(self.layers, cross):
            y = layer(y, cross_kv)
        return self.final_norm(y)


class LongdocColt5(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.encoder = Encoder(config)
        if config.decoder_layers > 0:
            self.decoder = Decoder(config)

    def encode(self, ids):
        """States [..., n, C] of token ids [..., n], and the routing of every layer."""
        return self.encoder(self.embeddings(ids))

    def logits(self, inputs, cross):
        """[..., t, V] for decoder inputs [..., t], which begin with [CLS]."""
        y = self.decoder(self.embeddings(inputs), cross)
        return y @ self.embeddings.weight.T / math.sqrt(self.config.hidden_size)

    def target_log_probs(self, candidate, cross, cls, sep):
        """log p of every token of the candidate [..., t] and of [SEP] after it: [..., t + 1]."""
        shape = candidate.shape[:-1] + (1,)
        inputs = torch.cat([candidate.new_full(shape, cls), candidate], dim=-1)
        targets = torch.cat([candidate, candidate.new_full(shape, sep)], dim=-1)
        log_probs = torch.log_softmax(self.logits(inputs, cross), dim=-1)
        return torch.gather(log_probs, -1, targets[..., None]).squeeze(-1)

    def greedy(self, prompt, cross, cls, count):
        """`count` tokens after [CLS] and the prompt [t], and the lead of each over the next best."""
        tokens, leads = prompt, []
        for _ in range(count):
            inputs = torch.cat([tokens.new_tensor([cls]), tokens])
            best = torch.topk(self.logits(inputs, cross)[-1], 2)
            leads.append(float(best.values[0] - best.values[1]))
            tokens = torch.cat([tokens, best.indices[:1]])
        return tokens[prompt.shape[0]:], leads
