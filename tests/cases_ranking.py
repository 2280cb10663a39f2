"""Entries of cases.py for the ranking losses."""

import numpy as np

from cases import Case
from kexue_native.losses.ranking import reference


def hard(rng, shape, _):
    """0 and 1, some rows with one kind only."""
    share = rng.choice([0, 0.1, 0.3, 0.5, 1], (*shape[:-1], 1))
    return rng.random(shape) < share


def scale_pairwise(k, out):
    """The reference rounds gamma times a difference x, and e^x magnifies that error by x."""
    if k["scores"].shape[-1] == 0 or not k["plain"] or k.get("gamma", 1.0) == 1.0:
        return ((0.0, 0.0),) * len(out)
    kept, gamma = np.broadcast_to(k.get("mask", True), k["scores"].shape), k["gamma"]
    positive = k["targets"] == 1
    high = np.where(kept & ~positive, k["scores"], -np.inf).max(axis=-1, keepdims=True)
    low = np.where(kept & positive, k["scores"], np.inf).min(axis=-1, keepdims=True)
    away = gamma * np.maximum(low - high - k["margin"], 0)
    gap = gamma * np.where(positive, k["scores"] - low, high - k["scores"])
    return ((0.0, 2 * away[..., 0]), (0.0, 2 * np.where(kept, gap + away, 0)))[: len(out)]


def lower_pairwise(k):
    parameters = k.get("gamma", 1.0), k.get("margin", 0.0)
    arrays = k["scores"], k["targets"], k.get("mask")
    return reference.pairwise_rank_loss, arrays, parameters


def lower_subset(k):
    return reference.subset_crossentropy, (k["scores"], k["targets"]), ()


def both(function, lower, scale=None, **options):
    """The loss with its gradient, and alone."""
    shared = {"fill": {"targets": hard}, "shift": "still", "empty": 0.0, **options}
    row = function, ("scores", "targets"), ("n", "n")
    return (
        Case(f"{function}-grad", *row, ("", "n"), lower, scale, {"return_grad": True}, **shared),
        Case(function, *row, ("",), lower, scale, permutes="still", **shared),
    )


GAMMAS = ({}, {"gamma": 0.3, "margin": 0.1}, {"gamma": 8.0, "margin": 0.25})

CASES = (
    *both("pairwise_rank_loss", lower_pairwise, scale_pairwise, variants=GAMMAS),
    *both("subset_crossentropy", lower_subset, mask=False, cost=20),
)

SIGNATURES = {
    "pairwise_rank_loss": (
        "scores targets * axis=-1 gamma=1.0 margin=0.0 mask=None return_grad=False validate=True"
    ),
    "subset_crossentropy": "scores targets * axis=-1 return_grad=False validate=True",
    "multiclass_multilabel_loss": (
        "scores targets * form=pairwise return_grad=False validate=True"
    ),
}
OTHERS = ("multiclass_multilabel_loss",)  # has two core axes
