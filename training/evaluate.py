#!/usr/bin/env python3
"""What a model is worth, beside its teacher: tables for the model card.

Usage: evaluate --model DIR --corpus FILE.npz --data DIR [--teacher DIR] [--out FILE.json]
                [--lengths 2048,8192,...] [--only PART,...] [--documents N] [--pairs N]
                [--threads N]

DIR of --data holds qmsum-val.jsonl.gz and squality-dev.jsonl.gz, which training never reads.
Parts:
    agreement   Spearman correlation of the model's cosines with the teacher's, over held-out
                descriptions: every short one against its own long one and another
    retrieval   QMSum val: question -> 256-token passages of its gold spans, recall@1/5/10, in
                every meeting as it is, and in documents of each length (meetings one after the
                other); at the longest also by depth, and among the passages of the question's
                own meeting alone
    stories     SQuALITY dev: question -> story among all stories, nDCG@10
    likelihood  the true question against a random one about another document, by mean
                log-likelihood given the document (AUC), and perplexity of the true ones; beside
                it the same by the cosine of the best passage
    routing     retrieval and agreement at other rates, and with tokens routed at random
Three ways to make vectors: teacher (chunk by chunk), passage (the model, each passage alone),
document (the model, each passage within its document). --out is written after every part.
"""
import argparse
import json
import math
import pathlib
import sys

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"))
import colt5_model  # noqa: E402
from batches import CLS, SEP, WATCHED_PAIRS  # noqa: E402
from documents import framed, long_documents, read_stories, single_documents  # noqa: E402
from encoders import (  # noqa: E402
    DocumentEncoder, PassageEncoder, TeacherEncoder, blocked_heavy, routed)
from measures import auc, pair_cosines, spearman  # noqa: E402
import teacher as minilm  # noqa: E402

RATES = (1 / 4, 1 / 8, 1 / 16, 1 / 32)
ROUTING_LENGTH = 8192
DEPTHS = 4


def agreement(encoder, teacher, pairs):
    """pairs: lists of short and long token ids."""
    def cosines(e):
        return pair_cosines(e.texts([s for s, _ in pairs]), e.texts([t for _, t in pairs]))
    return {"spearman": spearman(cosines(encoder), cosines(teacher)), "pairs": 2 * len(pairs)}


def retrieval(encoder, documents, depths=1):
    """recall@k: the share of questions with a gold passage among the best k of the document;
    with depths, also among the best of its own meeting, and by where the first gold passage is."""
    hits, own_hits, places = {1: [], 5: [], 10: []}, [], []
    for document in documents:
        passages = encoder.passages(document.ids)
        cosines = encoder.texts([q for q, _, _ in document.questions]) @ passages.T
        best = cosines.argsort(dim=-1, descending=True).tolist()
        for found, (_, gold, own) in zip(best, document.questions):
            places.append(min(depths - 1, int(depths * min(gold) / len(passages))))
            own_hits.append(bool(gold.intersection([p for p in found if p in own][:5])))
            for k, hit in hits.items():
                hit.append(bool(gold.intersection(found[:k])))
    result = {"documents": len(documents), "questions": len(places),
              **{f"recall@{k}": float(np.mean(h)) for k, h in hits.items() if h}}
    if depths > 1 and places:
        result["recall@5 within its meeting"] = float(np.mean(own_hits))
        for depth in range(depths):
            here = [i for i, p in enumerate(places) if p == depth]
            if here:
                part = f"part {depth + 1} of {depths}"
                result[f"recall@5, {part}"] = float(np.mean([hits[5][i] for i in here]))
                result[f"recall@5 within its meeting, {part}"] = float(
                    np.mean([own_hits[i] for i in here]))
    return result


def story_ranking(encoder, stories):
    """One story is right for a question: nDCG@10 is 1 / log2(1 + its place)."""
    vectors = torch.stack([encoder.document(s.ids) for s in stories])
    gains = []
    for i, story in enumerate(stories):
        similarity = encoder.texts([asked for asked, _ in story.questions]) @ vectors.T
        place = (similarity > similarity[:, i:i + 1]).sum(dim=-1) + 1
        gains += [1 / math.log2(1 + p) if p <= 10 else 0.0 for p in place.tolist()]
    return {"ndcg@10": float(np.mean(gains)), "questions": len(gains), "stories": len(stories)}


def with_rivals(documents, seed=1):
    """Every document with its questions, each beside a random question about another."""
    random = np.random.default_rng(seed)
    for document in documents:
        own = {q.cpu().numpy().tobytes() for q, *_ in document.questions}
        others = [q for d in documents for q, *_ in d.questions
                  if q.cpu().numpy().tobytes() not in own]
        if others:
            yield document, [(q, others[random.integers(len(others))])
                             for q, *_ in document.questions]


@torch.no_grad()
def likelihood(model, documents):
    """By mean log-probability per token."""
    right, wrong, nats, tokens = [], [], 0.0, 0
    for document, questions in with_rivals(documents):
        states, _ = model.encode(framed(document.ids))
        cross = model.decoder.cross_keys_values(states)
        for asked, rival in questions:
            true = model.target_log_probs(asked, cross, CLS, SEP)
            right.append(float(true.mean()))
            wrong.append(float(model.target_log_probs(rival, cross, CLS, SEP).mean()))
            nats, tokens = nats - float(true.sum()), tokens + len(true)
    if not tokens:
        return {"questions": 0}
    return {**preference(right, wrong), "perplexity": math.exp(nats / tokens)}


def cosine_preference(encoder, documents):
    """The same by the cosine of the best passage."""
    right, wrong = [], []
    for document, questions in with_rivals(documents):
        passages = encoder.passages(document.ids)
        for scores, texts in zip((right, wrong), zip(*questions)):
            scores += (encoder.texts(texts) @ passages.T).max(dim=-1).values.tolist()
    return preference(right, wrong)


def preference(right, wrong):
    return {"questions": len(right), "auc": auc(right, wrong),
            "true above random": float(np.mean(np.array(right) > np.array(wrong)))}


class Evaluation:
    def __init__(self, model, teacher, held_out, stories, meetings, limits):
        self.model, self.stories, self.meetings, self.limits = model, stories, meetings, limits
        self.pairs = held_out[:limits.pairs]
        self.teacher = TeacherEncoder(teacher)
        self.encoders = (self.teacher, PassageEncoder(model), DocumentEncoder(model))

    def documents(self, length):
        if length == "meeting":
            return single_documents(self.meetings, self.limits.documents)
        return long_documents(self.meetings, length, self.limits.documents)

    def agreement(self, _):
        return agreement(self.encoders[1], self.teacher, self.pairs)

    def retrieval(self, lengths):
        return {str(n): {e.name: retrieval(e, self.documents(n), DEPTHS if n == lengths[-1] else 1)
                         for e in self.encoders} for n in ["meeting", *lengths]}

    def stories_found(self, _):
        stories = self.stories[:self.limits.documents]
        return {e.name: story_ranking(e, stories) for e in self.encoders}

    def likelihood(self, lengths):
        if self.model.config.decoder_layers == 0:
            return {}
        found = {str(n): likelihood(self.model, self.documents(n)) for n in ["meeting", *lengths]}
        return found | {f"meeting, by {e.name}'s cosine": cosine_preference(
            e, self.documents("meeting")) for e in (self.teacher, self.encoders[2])}

    def routing(self, _):
        documents, pairs = self.documents(ROUTING_LENGTH), self.pairs[:300]

        def measure():  # an encoder of its own: vectors that others keep are of other routing
            encoder = DocumentEncoder(self.model)
            return {**retrieval(encoder, documents),
                    "spearman": agreement(encoder, self.teacher, pairs)["spearman"]}
        results = {}
        for rate in RATES:
            with routed(self.model, rate=rate):
                results[f"1/{round(1 / rate)}"] = measure()
        with routed(self.model, random=torch.Generator().manual_seed(1)):
            results["at random, the model's rates"] = measure()
        return results


PARTS = {"agreement": Evaluation.agreement, "retrieval": Evaluation.retrieval,
         "stories": Evaluation.stories_found, "likelihood": Evaluation.likelihood,
         "routing": Evaluation.routing}


def lines(results, names=()):
    """A line per innermost table."""
    if not any(isinstance(value, dict) for value in results.values()):
        values = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}"
                  for k, v in results.items())
        yield "  ".join(names).ljust(36) + "  ".join(values)
        return
    for name, value in results.items():
        yield from lines(value, (*names, name))


def load_model(folder):
    model = colt5_model.LongdocColt5(colt5_model.Colt5Config.read(folder / "config.json"))
    model.load_state_dict({name: tensor.float() for name, tensor in
                           load_file(folder / "model.safetensors").items()})
    return model.eval()


def read_held_out(path):
    """Token ids of descriptions that training neither saw nor watched."""
    corpus = np.load(path)
    ids = torch.from_numpy(corpus["ids"].astype(np.int64))
    return [(ids[a:b], ids[c:d]) for a, b, c, d in corpus["held_out"][:-WATCHED_PAIRS]
            if b - a >= 2 and d - c <= minilm.MAX_TOKENS - 6]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--teacher", help="folder of its weights; default: its Python package")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--lengths", default="2048,8192,32768,100000")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--documents", type=int, default=1000, help="of a length, at most")
    parser.add_argument("--pairs", type=int, default=1000, help="of descriptions, at most")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="of the CPU")
    return parser.parse_args()


def main():
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.set_default_device(args.device)
    colt5_model.EncoderLayer.heavy = blocked_heavy
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    evaluation = Evaluation(
        load_model(args.model).to(args.device),
        minilm.Teacher(args.teacher or minilm.find()).to(args.device),
        [(s.to(args.device), t.to(args.device)) for s, t in read_held_out(args.corpus)],
        read_stories(args.data / "squality-dev.jsonl.gz", tokenizer),
        read_stories(args.data / "qmsum-val.jsonl.gz", tokenizer), args)
    lengths, results = [int(n) for n in args.lengths.split(",")], {}
    for part in args.only.split(","):
        results[part] = PARTS[part](evaluation, lengths)
        print("\n".join(lines(results[part], (part,))), flush=True)
        if args.out:
            args.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
