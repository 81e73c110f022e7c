#!/usr/bin/env python3
"""Trains longdoc-small-en.

Usage: train.py --config configs/NAME.json --corpus FILE.npz --teacher DIR --out DIR [--resume]
                [--threads N] [--seconds N]

A config holds the model's shape, a seed, and stages; a stage holds steps, the learning rate (at
its beginning and `final_rate` at its end), tokens of a batch of short texts, the length of
documents (one of several), how many batches of each kind a step sees (a fraction:
that often), and weights of losses other than the config's.

Writes checkpoint.pt (weights, their running mean, optimiser, step) every `save_every` steps and,
with --seconds, when that time is over; log.jsonl has a line of losses every `log_every` steps and
one of held-out measures (watch.py) every `watch_every`. export.py makes a model directory of a
checkpoint: of the running mean, which is what a falling learning rate would give.
Every step draws from a random stream of its own, so a resumed run is the same run.
"""
import argparse
import json
import pathlib
import signal
import sys
import time

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests" / "golden"))
import colt5_model  # noqa: E402  the definition of the model; the engine's goldens use it too
from batches import CLS, SEP, Candidates, Corpus, Document, Pairs, Texts  # noqa: E402
import initialise  # noqa: E402
import kept  # noqa: E402
import losses  # noqa: E402
import teacher as minilm  # noqa: E402
import watch  # noqa: E402

PASSAGE = 256      # tokens
QUEUE = 1024       # passages of earlier documents that questions are told apart from
MEAN_DECAY = 0.998  # of the running mean of the weights, per step


def parameter_groups(model, config):
    """Embeddings have their own rate; neither they nor the norms are pulled towards zero."""
    words, norms, others = [], [], []
    for name, parameter in model.named_parameters():
        (words if name == "embeddings.weight" else
         norms if name.endswith("norm.weight") else others).append(parameter)
    return [{"params": others, "scale": 1.0, "weight_decay": config["weight_decay"]},
            {"params": norms, "scale": 1.0, "weight_decay": 0.0},
            {"params": words, "scale": config["word_rate"], "weight_decay": 0.0}]


class Trainer:
    def __init__(self, config, corpus, teacher, device):
        self.config, self.corpus, self.teacher, self.device = config, corpus, teacher, device
        torch.manual_seed(config["seed"])
        shape = colt5_model.Colt5Config(**config["model"])
        self.model = colt5_model.LongdocColt5(shape).to(device)
        self.mean = colt5_model.LongdocColt5(shape).to(device).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(parameter_groups(self.model, config), lr=0.0,
                                           betas=(0.9, 0.98), fused=True)
        self.counts = corpus.counts(shape.vocab_size).to(device)
        self.queue = self.kept = None
        self.step = self.tokens = 0

    def begin(self):
        """The first weights."""
        initialise.initialise(
            self.model, self.teacher, self.counts.cpu(),
            {"pad": 0, "cls": CLS, "sep": SEP}, self.config["content_size"],
            torch.Generator().manual_seed(self.config["seed"]))
        self.mean.load_state_dict(self.model.state_dict())

    # ---- one batch of each kind: a dict of losses ------------------------------------------------

    def texts_losses(self, batch: Texts):
        student, _ = losses.vectors(self.model, batch.ids)
        return {"distil": losses.distillation(student, self.teacher(batch.ids))}

    def pairs_losses(self, batch: Pairs):
        long, states = losses.vectors(self.model, batch.long)
        short = losses.vectors_of_texts(self.model, batch.short)
        own = [{i} for i in range(len(short))]
        found = {"pair": 0.5 * (losses.contrast(short, long, own) +
                                losses.contrast(long, short, own)),
                 "distil": losses.distillation(long, self.teacher(batch.long))}
        if self.model.config.decoder_layers > 0:
            targets = [s[1:-1] for s in batch.short]
            found["likelihood"] = losses.likelihood(self.model, states, targets, CLS, SEP)
        return found

    def document_losses(self, batch: Document):
        states, _ = self.model.encode(batch.ids)
        passages = losses.passage_vectors(self.model, states, batch.passages)
        found = {}
        whole = [i for i, (begin, end) in enumerate(batch.passages) if end - begin == PASSAGE]
        if whole:
            framed = torch.stack([torch.nn.functional.pad(
                torch.nn.functional.pad(batch.ids[slice(*batch.passages[i])][:PASSAGE - 2],
                                        (1, 0), value=CLS), (0, 1), value=SEP) for i in whole])
            found["passage"] = losses.distillation(passages[whole], self.teacher(framed))
        if batch.questions:
            asked = losses.vectors_of_texts(self.model, batch.questions)
            found["question"] = losses.contrast(asked, passages, batch.gold, self.queue)
        if batch.targets and self.model.config.decoder_layers > 0:
            found["likelihood"] = losses.likelihood(self.model, states, batch.targets, CLS, SEP)
        kept = passages.detach()
        self.queue = (kept if self.queue is None else torch.cat([kept, self.queue]))[:QUEUE]
        return found

    def candidates_losses(self, batch: Candidates):
        """Trains the decoder alone: the encoder and the embeddings stay as they are."""
        preference, likelihood = losses.candidates(
            self.model, batch.states, batch.targets, CLS, SEP, self.counts, self.corpus.random)
        return {"candidates": preference, "likelihood": likelihood}

    # ---- steps -----------------------------------------------------------------------------------

    def batches(self, stage):
        """The batches of this step: a kind's whole part for sure, its fraction by chance."""
        corpus, random = self.corpus, self.corpus.random
        tokens = stage.get("tokens", 0)
        makers = {
            "texts": lambda: corpus.texts(tokens, int(random.choice([32, 64, 128, 256],
                                                                    p=[.2, .3, .3, .2]))),
            "short": lambda: corpus.short_texts(tokens // 16),
            "pairs": lambda: corpus.described(max(4, tokens // 96), 96),
            "document": lambda: corpus.document(int(random.choice(stage["length"])), PASSAGE,
                                                stage["questions"]),
            "candidates": lambda: self.kept.candidates(int(random.choice(stage["length"]))),
        }
        for kind, often in stage["mix"].items():
            for _ in range(int(often) + (random.random() < often % 1)):
                yield makers[kind]()

    def losses_of(self, batch):
        if isinstance(batch, Texts):
            return self.texts_losses(batch)
        if isinstance(batch, Candidates):
            return self.candidates_losses(batch)
        return self.pairs_losses(batch) if isinstance(batch, Pairs) else self.document_losses(batch)

    def rate(self, stage, done):
        """Linear warm-up over the run's first steps; within a stage in a line to its final rate."""
        warm = min(1.0, (self.step + 1) / self.config["warm_up"])
        first = stage["learning_rate"]
        last = stage.get("final_rate", first)
        return warm * (first + (last - first) * done / stage["steps"])

    def begin_stage(self, stage, done, out):
        """A stage for the decoder alone freezes the rest and encodes its documents first;
        `from_mean`: it goes on from the running mean."""
        if stage.get("from_mean") and done == 0:
            self.model.load_state_dict(self.mean.state_dict())
        for part in (self.model.embeddings, self.model.encoder):
            part.requires_grad_(not stage.get("decoder_only", False))
        if stage.get("decoder_only") and self.kept is None:
            self.kept = kept.KeptDocuments(self.corpus, self.model, out / "kept.pt", done == 0)

    def run_step(self, stage, done):
        """`done`: steps of the stage before this one. Returns losses by name."""
        self.corpus.reseed(self.config["seed"], self.step)
        weights = self.config["loss_weights"] | stage.get("loss_weights", {})
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(stage, done) * group["scale"]
        seen = {}
        for batch in self.batches(stage):
            with torch.autocast(self.device.type, torch.bfloat16, self.device.type == "cuda"):
                found = self.losses_of(batch)
            total = sum(weights[name] * value for name, value in found.items())
            if torch.is_tensor(total):
                total.backward()
            for name, value in found.items():
                seen.setdefault(name, []).append(value.detach())
            self.tokens += batch.size()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        if torch.isfinite(norm):
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        seen["gradient"] = [norm]
        decay = min(MEAN_DECAY, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_([p.data for p in self.mean.parameters()],
                             [p.data for p in self.model.parameters()], 1 - decay)
        self.step += 1
        return {name: torch.stack(values).mean() for name, values in seen.items()}

    # ---- checkpoints -----------------------------------------------------------------------------

    def save(self, out):
        """Whole or not at all: a new file takes the old one's place."""
        torch.save({"model": self.model.state_dict(), "mean": self.mean.state_dict(),
                    "optimiser": self.optimiser.state_dict(), "step": self.step,
                    "tokens": self.tokens, "queue": self.queue, "config": self.config},
                   out / "checkpoint.new")
        (out / "checkpoint.new").replace(out / "checkpoint.pt")

    def load(self, path):
        state = torch.load(path, map_location=self.device)
        self.model.load_state_dict(state["model"])
        self.mean.load_state_dict(state["mean"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.tokens, self.queue = state["step"], state["tokens"], state["queue"]


class Log:
    """Means of what steps report, a line each `every` steps."""

    def __init__(self, path, every):
        self.file, self.every = open(path, "a"), every
        self.clear(0)

    def clear(self, tokens):
        self.sums, self.count, self.tokens, self.since = {}, {}, tokens, time.monotonic()

    def write(self, line):
        line = {k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        print(line, flush=True)

    def add(self, trainer, found):
        for name, value in found.items():
            self.sums[name] = self.sums.get(name, 0) + float(value)
            self.count[name] = self.count.get(name, 0) + 1
        if trainer.step % self.every == 0:
            seconds = time.monotonic() - self.since
            self.write({"step": trainer.step, "tokens": trainer.tokens,
                        "tokens_per_second": round((trainer.tokens - self.tokens) / seconds),
                        **{name: total / self.count[name] for name, total in self.sums.items()}})
            self.clear(trainer.tokens)


def run(trainer, out, seconds):
    """All stages from where the trainer stands; ends early, with a checkpoint, when told to."""
    config, first, ends = trainer.config, 0, []
    deadline = time.monotonic() + seconds
    signal.signal(signal.SIGTERM, lambda *_: ends.append(True))
    log = Log(out / "log.jsonl", config["log_every"])
    log.clear(trainer.tokens)
    seen = watch.Watch(trainer.corpus, trainer.teacher, PASSAGE, out / "watched.pt")
    for stage in config["stages"]:
        trainer.begin_stage(stage, trainer.step - first, out)
        while trainer.step < first + stage["steps"]:
            if trainer.step % stage.get("watch_every", config["watch_every"]) == 0:
                log.write({"step": trainer.step, "tokens": trainer.tokens,
                           **seen.measure(trainer.mean)})
            log.add(trainer, trainer.run_step(stage, trainer.step - first))
            if trainer.step % config["save_every"] == 0:
                trainer.save(out)
            if ends or time.monotonic() > deadline:
                trainer.save(out)
                return
        first += stage["steps"]
    log.write({"step": trainer.step, "tokens": trainer.tokens, **seen.measure(trainer.mean)})
    trainer.save(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--config", type=pathlib.Path, required=True)
    parser.add_argument("--corpus", required=True)
    parser.add_argument("--teacher", help="folder of its weights; default: its Python package")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="of the CPU")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after these")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    config = json.loads(args.config.read_text())
    device = torch.device(args.device)
    corpus = Corpus(args.corpus, config["seed"], device)
    teacher = minilm.Teacher(args.teacher or minilm.find()).to(device)
    trainer = Trainer(config, corpus, teacher, device)
    if args.resume and (args.out / "checkpoint.pt").exists():
        trainer.load(args.out / "checkpoint.pt")
    else:
        trainer.begin()
        trainer.save(args.out)
    run(trainer, args.out, args.seconds)


if __name__ == "__main__":
    main()
