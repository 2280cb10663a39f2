"""Entries of cases.py for the cross-entropies."""

import numpy as np

from cases import Case, _faint
from kexue_native.losses.crossentropy import reference

SMOOTHING = ({}, {"label_smoothing": 0.125})


def lower_softmax(k):
    parameters = k.get("label_smoothing", 0.0), k.get("hess") == "bound"
    arrays = k["scores"], k["targets"], k.get("mask")
    return reference.softmax_crossentropy, arrays, parameters


def lower_sigmoid(k):
    return reference.sigmoid_crossentropy, (k["scores"], k["targets"], k.get("mask")), ()


def scale_softmax(k, out):
    """Of the gradient T p - t the larger term; for the winner the other t or T (1 - p)."""
    scores, mask = k["scores"], k.get("mask")
    if scores.shape[-1] == 0:
        return ((0.0, 0.0),) * 3
    kept = np.broadcast_to(True if mask is None else mask, scores.shape)
    t = np.where(kept, k["targets"], 0)
    smoothing, amount = k.get("label_smoothing", 0.0), t.sum(axis=-1, keepdims=True)
    t = (1 - smoothing) * t + np.where(
        kept, smoothing * amount / np.maximum(kept.sum(axis=-1, keepdims=True), 1), 0
    )
    rows = reference.leave_one_out(scores, kept)
    others = np.where(rows.winner, 0, t).sum(axis=-1, keepdims=True)
    of_winner = np.maximum(others, amount * rows.rest / rows.mass)
    p = rows.weight / rows.mass
    terms = np.where(rows.winner, of_winner, np.maximum(t, amount * p))
    faint = _faint(p, amount, k["least"])
    faint = faint + _faint(rows.rest, amount, k["least"])
    return ((0.0, 0.0), (terms, faint), (0.0, faint))


def scale_sigmoid(k, out):
    """Of the gradient (1 - t) sigmoid(s) - t sigmoid(-s) the larger term"""
    on, off, _ = reference.sigmoids(k["scores"])
    t = k["targets"]
    return ((0.0, 0.0), (np.maximum((1 - t) * on, t * off), 0.0), (0.0, 0.0))


def shares(rng, shape, _):
    """Multiples of 1/64 in [0, 1], many of them 0 or 1: exact in every type."""
    return np.clip(rng.integers(-32, 97, shape), 0, 64) / 64


def case(suffix, function, lower, scale, variants=({},), **fixed):
    return Case(
        function + suffix,
        function,
        ("scores", "targets"),
        ("n", "n"),
        ("", "n", "n"),
        lower,
        scale,
        fixed={"return_grad": True, "return_hess": True, **fixed},
        variants=variants,
        empty=0.0,
        fill={"targets": shares},
    )


CASES = (
    case("", "softmax_crossentropy", lower_softmax, scale_softmax, SMOOTHING),
    case("-bound", "softmax_crossentropy", lower_softmax, scale_softmax, hess="bound"),
    case("", "sigmoid_crossentropy", lower_sigmoid, scale_sigmoid),
)

HESS = "return_grad=False return_hess=False"
SIGNATURES = {
    "softmax_crossentropy": (
        f"scores targets * axis=-1 mask=None label_smoothing=0.0 {HESS} hess=exact validate=True"
    ),
    "sparse_softmax_crossentropy": (
        f"scores labels * ignore_index=None label_smoothing=0.0 {HESS} hess=exact"
    ),
    "sigmoid_crossentropy": f"scores targets * axis=-1 mask=None {HESS} validate=True",
}
OTHERS = ("sparse_softmax_crossentropy",)  # takes class numbers along with scores
