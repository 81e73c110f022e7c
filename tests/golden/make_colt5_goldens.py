#!/usr/bin/env python3
"""Goldens of longdoc-CoLT5 from its definition in PyTorch (colt5_model.py), in float64.

Needs: torch, numpy, safetensors. Run: make_colt5_goldens.py [--check-only] [--soft-topk-only]
Writes next to itself:

colt5/soft_topk.json: {"cases": [{"name", "k", "scores": [n] exact in float32,
    "weights": [n], min(1, exp(score + t)), "offset": t (null when k is 0 or n),
    "iterative": [n] the published algorithm after 50 iterations,
    "iterative_error": largest difference of the two}]}

colt5/manifest.json: {"vocab_size", "cls", "sep", "models": [model]}. A model:
    "name", "config": config.json of it,
    "stream": begins the names of its random streams,
    "tensors": {name: {"shape", "base", "amplitude", "last": its last value, to check by}}. Weights
        are not stored: they are uniform("<stream>/<name>", shape, base, amplitude) of
        make_encoder_goldens.py, an integer hash that tests/support/golden_random.h computes again,
        bit for bit alike.
    "cases": [case]. A case is one document:
        "tokens": n. Its ids are token_ids(stream, n), [CLS] and [SEP] included; "ids_sum" checks.
        "ranges": [[begin, end]], spans whose vectors are stored; the first is the whole document
        "rows": token indices whose states and cross-attention keys and values are stored
        "min_gap": by how much the last chosen score leads the first not chosen, smallest of all
            routers (1e9 when nothing competes). Equal tokens tie exactly in the first layer's
            attention routers, where the lower index goes first; such pairs are not counted.
        with a decoder: "candidates": [[ids]], "prompt": [ids], "continuation": [ids]: greedy, after
        [CLS] and the prompt; "lead": of the best logit over the next, smallest of all its steps

colt5/<name>/model.safetensors, all F32 (indices too: they are exact in it), <case> = n<tokens>:
    <case>.states [rows, C]; <case>.vectors [ranges, vector size], not normalised
    <case>.layer<i>.<query|kv|ff>.indices [k], .weights [k]: whole routing; absent when k is 0
    <case>.cross<i>.keys [rows, D], .values [rows, D]: of decoder layer i
    <case>.candidate<j>.log_probs [candidate's tokens + 1], the last is that of [SEP]
"""
import argparse
import json
import math
import os
import re

import numpy as np
import torch
from safetensors.numpy import save_file

import colt5_model
from make_encoder_goldens import CLS, SEP, VOCAB, hashes, token_ids, uniform

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "colt5")
MIN_GAP = 2e-4   # of routing scores: float32 engines must choose the same tokens
MIN_LEAD = 1e-3  # of greedy logits

TINY = dict(vocab_size=VOCAB, hidden_size=64, num_layers=2, head_dim=16, light_heads=1,
            heavy_heads=3, heavy_slopes=[0.0625, 0.00390625, 0.0], light_radius=8,
            light_ff_size=64, heavy_ff_size=256)
DECODER = dict(decoder_layers=2, decoder_heads=4, decoder_ff_size=128, max_target_tokens=64)
# name, configuration, lengths of its documents
MODELS = [
    # The usual rates; documents of fewer tokens than 1 / rate; n * rate exactly between two numbers.
    ("routed", dict(TINY, output_size=48, **DECODER), [1, 2, 5, 17, 24, 300]),
    # Everything is routed; head counts that are no powers of two.
    ("all", dict(TINY, hidden_size=96, head_dim=32, light_heads=2, heavy_heads=3, light_radius=16,
                 query_rate=1.0, kv_rate=1.0, ff_rate=1.0, decoder_layers=1, decoder_heads=3,
                 decoder_ff_size=80, max_target_tokens=64), [1, 40, 300]),
    # Nothing is.
    ("none", dict(TINY, query_rate=0.0, kv_rate=0.0, ff_rate=0.0, **DECODER), [1, 33, 300]),
    # Queries but no keys: the heavy attention adds nothing.
    ("no_keys", dict(TINY, query_rate=0.25, kv_rate=0.0, ff_rate=1.0), [33]),
    # A long document.
    ("long", dict(vocab_size=VOCAB, hidden_size=128, num_layers=3, head_dim=32, light_heads=2,
                  heavy_heads=4, heavy_slopes=[0.25, 0.0625, 0.015625, 0.0], light_ff_size=128,
                  heavy_ff_size=512, decoder_layers=2, decoder_heads=4, decoder_ff_size=256),
     [5000]),
]
CANDIDATE_LENGTHS = [1, 7, 31]
PROMPT_TOKENS, CONTINUATION_TOKENS = 3, 12


# ---- soft top-k ---------------------------------------------------------------------------------

def gaussian(name, n, spread):
    """Nearly normal numbers on a grid of 2^-10."""
    bits = hashes(f"soft_topk/{name}", 4 * n).reshape(n, 4) >> np.uint64(40)
    unit = bits.astype(np.float64).sum(axis=1) / 2.0**24 - 2  # four uniform numbers
    return np.round(unit * math.sqrt(3) * spread * 1024) / 1024


def soft_topk_cases():
    scores = {"gaussian": gaussian("gaussian", 64, 1), "wide": gaussian("wide", 100, 5),
              "narrow": gaussian("narrow", 48, 0.05), "larger": gaussian("larger", 256, 1)}
    tied = np.repeat(gaussian("tied", 6, 1), 4)
    yield "one_of_one", [0.25], 1
    yield "none", scores["gaussian"][:9], 0
    yield "all", scores["gaussian"][:9], 9
    yield "one", scores["gaussian"][:16], 1
    yield "all_but_one", scores["gaussian"][:16], 15
    yield "equal", [0.5] * 10, 3
    yield "ties_across_the_threshold", tied, 6
    yield "gaussian_8_of_64", scores["gaussian"], 8
    yield "gaussian_32_of_64", scores["gaussian"], 32
    yield "gaussian_16_of_256", scores["larger"], 16
    yield "wide_25_of_100", scores["wide"], 25
    yield "narrow_6_of_48", scores["narrow"], 6
    # Beyond the range of exp in float32, both ways; a gap in between.
    yield "huge", [3e4, 2e4, 100.5, 100.0, 99.5, -200.0, -3e4], 3
    yield "far_apart", [1e4, 0.5, 0.25, -0.5, -1e4, -2e4], 2
    yield "shifted", scores["gaussian"][:32] + 1000, 4


def make_soft_topk():
    cases = []
    for name, values, k in soft_topk_cases():
        scores = torch.tensor(np.asarray(values), dtype=torch.float64)
        weights = colt5_model.soft_topk(scores, k)
        iterative = colt5_model.soft_topk_iterative(scores, k) if k > 0 else weights
        offset = float(colt5_model.soft_topk_offset(scores, k)) if 0 < k < len(values) else None
        error = float((weights - iterative).abs().max())
        assert abs(float(weights.sum()) - k) < 1e-9 * max(1, k), name
        assert float(scores.to(torch.float32).double().sub(scores).abs().max()) == 0, name
        print(f"soft top-k {name}: {k} of {len(values)}, iterative differs by {error:.1e}")
        compact = lambda x: [float(f"{v:.12g}") for v in x.tolist()]
        cases.append({"name": name, "k": k, "scores": scores.tolist(), "weights": compact(weights),
                      "offset": offset, "iterative": compact(iterative), "iterative_error": error})
    return {"cases": cases}


# ---- weights ------------------------------------------------------------------------------------

def amplitudes(config, model):
    """[base, amplitude] in 1/1024 by name: sublayers answer with values of order one, logits of
    attention reach 10 and more, scores of routers have a standard deviation of one."""
    table = {}
    for name, weight in model.state_dict().items():
        spread = 1.0
        if name.endswith("norm.weight"):
            table[name] = [1024, 128]
            continue
        if name == "embeddings.weight":
            fan_in = 1
        else:
            fan_in = weight.shape[-1]
            if ".query.weight" in name or ".key.weight" in name:
                spread = 1.0 if "router" in name else math.sqrt(3)
            if "heavy" in name and ("output" in name or "down" in name):
                spread = 2.0
            # Without this the decoder only repeats its input, whose embedding is the output's.
            if name.startswith("decoder") and ("output" in name or "down" in name):
                spread = 4.0
        table[name] = [0, round(1024 * spread * math.sqrt(3 / fan_in))]
    return table


def make_model(config, stream):
    model = colt5_model.LongdocColt5(config).double().requires_grad_(False)
    table = amplitudes(config, model)
    for name, parameter in model.state_dict().items():
        values = uniform(f"{stream}/{name}", tuple(parameter.shape), *table[name])
        parameter.copy_(torch.from_numpy(values))
    return model, table


class Rounded:
    """Within it, operands of matrix products with weights pass through bfloat16."""

    def __init__(self, model):
        self.linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]

    def __enter__(self):
        half = lambda x: x.to(torch.bfloat16).to(x.dtype)
        self.kept = [m.weight.clone() for m in self.linears]
        self.hooks = [m.register_forward_pre_hook(lambda _, x: half(x[0])) for m in self.linears]
        for m in self.linears:
            m.weight.copy_(half(m.weight))

    def __exit__(self, *_):
        for m, weight, hook in zip(self.linears, self.kept, self.hooks):
            m.weight.copy_(weight)
            hook.remove()


# ---- cases --------------------------------------------------------------------------------------

def routing_gap(routing, ids):
    """See "min_gap" above. `ids`: of the tokens where equal ones tie, else None."""
    scores, chosen = routing.scores, routing.indices
    n, k = scores.shape[0], chosen.shape[0]
    if k in (0, n):
        return 1e9
    last = chosen[scores[chosen].argmin()]
    rest = torch.ones(n, dtype=torch.bool)
    rest[chosen] = False
    if ids is not None:
        rest &= ids != ids[last]
    return float(scores[last] - scores[rest].max()) if bool(rest.any()) else 1e9


def case_ranges(n):
    ranges = [(0, n), (0, max(1, n // 2)), (n // 3, n // 3 + max(1, n // 7)), (n - 1, n)]
    return sorted(set(ranges), key=ranges.index)


def pool(model, states, ranges):
    return torch.stack([model.encoder.vector(states[a:b]) for a, b in ranges])


def make_decoder_case(model, stream, n, states, rows, case, tensors):
    key = f"n{n}"
    cross = model.decoder.cross_keys_values(states)
    for i, (k, v) in enumerate(cross):
        tensors[f"{key}.cross{i}.keys"] = k[0, rows]
        tensors[f"{key}.cross{i}.values"] = v[0, rows]
    draw = lambda name, count: torch.from_numpy(
        (hashes(f"{stream}/{name}/{n}", count) % np.uint64(VOCAB)).astype(np.int64))
    case["candidates"] = []
    for j, length in enumerate(CANDIDATE_LENGTHS):
        candidate = draw(f"candidate{j}", length)
        case["candidates"].append(candidate.tolist())
        tensors[f"{key}.candidate{j}.log_probs"] = model.target_log_probs(candidate, cross, CLS, SEP)
    prompt = draw("prompt", PROMPT_TOKENS)
    continuation, leads = model.greedy(prompt, cross, CLS, CONTINUATION_TOKENS)
    case.update(prompt=prompt.tolist(), continuation=continuation.tolist(), lead=min(leads))


def make_case(model, stream, n):
    ids = torch.from_numpy(token_ids(stream, n))
    states, routing = model.encode(ids)
    rows = sorted({round(i * (n - 1) / 11) for i in range(12)})
    ranges = case_ranges(n)
    case = {"tokens": n, "ids_sum": int(ids.sum()), "ranges": ranges, "rows": rows}
    tensors = {f"n{n}.states": states[rows], f"n{n}.vectors": pool(model, states, ranges)}
    gaps = []
    for i, layer in enumerate(routing):
        for kind, routed in layer.items():
            gaps.append(routing_gap(routed, ids if i == 0 and kind != "ff" else None))
            if routed.indices.shape[0] > 0:
                tensors[f"n{n}.layer{i}.{kind}.indices"] = routed.indices
                tensors[f"n{n}.layer{i}.{kind}.weights"] = routed.weights
    case["min_gap"] = min(gaps)
    if case["min_gap"] < MIN_GAP:
        return None, None
    if hasattr(model, "decoder"):
        make_decoder_case(model, stream, n, states, rows, case, tensors)
        if case["lead"] < MIN_LEAD:
            return None, None
    return case, tensors


def report(model, stream, cases, tensors):
    """How far other arithmetic moves the same numbers, and that the cases tell things apart."""
    n = cases[-1]["tokens"]
    ids = torch.from_numpy(token_ids(stream, n))
    want = tensors[f"n{n}.vectors"]
    single = model.float().encode(ids)[0]
    error = float((pool(model, single, cases[-1]["ranges"]).double() - want).abs().max())
    with Rounded(model):
        half = pool(model, model.encode(ids)[0], cases[-1]["ranges"]).double()
    model.double()
    cosine = torch.nn.functional.cosine_similarity
    spread = float(cosine(want[1:2], want[2:3])) if len(want) > 2 else 1
    print(f"{stream}: gap {min(c['min_gap'] for c in cases):.1e}, float32 differs by {error:.1e}, "
          f"bf16 cosine {float(cosine(half, want).min()):.6f}, of two spans {spread:.3f}")
    for case in cases:
        if "continuation" in case:
            sums = [round(float(tensors[f"n{case['tokens']}.candidate{j}.log_probs"].sum()), 2)
                    for j in range(len(CANDIDATE_LENGTHS))]
            print(f"  {case['tokens']} tokens: likelihoods {sums}, continues {case['continuation']}, "
                  f"lead {case['lead']:.1e}")


def make_golden(name, fields, lengths):
    config = colt5_model.Colt5Config(**fields)
    for attempt in range(100):  # the first stream whose choices are clear in every case
        stream = f"colt5/{name}/{attempt}"
        model, table = make_model(config, stream)
        cases, tensors = [], {}
        for n in sorted(lengths, reverse=True):
            case, more = make_case(model, stream, n)
            if case is None:
                break
            cases.insert(0, case)
            tensors.update(more)
        else:
            break
        print(f"{stream}: too close at {n} tokens")
    assert len(cases) == len(lengths), name
    report(model, stream, cases, tensors)
    weights = {t: {"shape": list(w.shape), "base": table[t][0], "amplitude": table[t][1],
                   "last": float(w.reshape(-1)[-1])} for t, w in model.state_dict().items()}
    entry = {"name": name, "config": config.fields(), "stream": stream, "tensors": weights,
             "cases": cases}
    return entry, {k: v.to(torch.float32).contiguous().numpy() for k, v in tensors.items()}


def write_json(path, value):
    text = json.dumps(value, indent=1)
    # Lists of numbers on one line.
    text = re.sub(r"\[[^][{}\"]*\]", lambda m: " ".join(m.group(0).split()), text)
    with open(path, "w") as out:
        out.write(text + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check-only", action="store_true", help="write nothing")
    parser.add_argument("--soft-topk-only", action="store_true")
    args = parser.parse_args()
    os.makedirs(HERE, exist_ok=True)
    soft_topk = make_soft_topk()
    if not args.check_only:
        write_json(os.path.join(HERE, "soft_topk.json"), soft_topk)
    if args.soft_topk_only:
        return
    manifest = {"vocab_size": VOCAB, "cls": CLS, "sep": SEP, "models": []}
    for name, fields, lengths in MODELS:
        entry, tensors = make_golden(name, fields, lengths)
        manifest["models"].append(entry)
        if not args.check_only:
            os.makedirs(os.path.join(HERE, name), exist_ok=True)
            save_file(tensors, os.path.join(HERE, name, "model.safetensors"))
    if not args.check_only:
        write_json(os.path.join(HERE, "manifest.json"), manifest)


if __name__ == "__main__":
    main()
