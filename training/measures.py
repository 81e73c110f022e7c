"""Statistics that both watch.py and evaluate.py tell."""
import numpy as np
import torch


def ranks(values):
    """Places from the smallest up; equal values share the mean of their places."""
    order = np.argsort(values, kind="stable")
    places = np.empty(len(values))
    places[order] = np.arange(len(values))
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.bincount(inverse, weights=places) / counts)[inverse]


def spearman(a, b):
    return float(np.corrcoef(ranks(np.asarray(a)), ranks(np.asarray(b)))[0, 1])


def auc(right, wrong):
    """Chance that a right score is above a wrong one; ties count half."""
    right, wrong = np.asarray(right)[:, None], np.asarray(wrong)[None, :]
    return float((right > wrong).mean() + 0.5 * (right == wrong).mean())


def pair_cosines(short, long):
    """Of every short text with its own long one, then with another."""
    return torch.cat([(short * long).sum(-1), (short * long.roll(1, dims=0)).sum(-1)]).cpu().numpy()
