"""Entries of cases.py for the divergences."""

import numpy as np

from cases import Case, _faint
from kexue_native.losses.divergences import reference

KERNELS = {
    "softmax": reference.softmax_divergence,
    "sigmoid": reference.sigmoid_divergence,
}
SCALES = ({}, {"scale": 0.25}, {"scale": 2.0})  # powers of two: s and t are multiplied exactly


def lower(symmetric):
    def arguments(k):
        parameters = k.get("scale", 1.0), symmetric
        return KERNELS[k["kind"]], (k["s"], k["t"], k.get("mask")), parameters

    return arguments


def _subnormal(p, factor, k):
    """Growth of scale p factor where p, or scale p, is subnormal"""
    scale = k.get("scale", 1.0)
    return _faint(p * min(scale, 1), factor, k["least"]) * max(scale, 1)


def softmax_terms(x, gap, k):
    """p_i (|gap_i| + sum p |gap|); for the winner, whose p may be 1, what the others amount to.

    And the growth where the probabilities that these are made of are subnormal.
    """
    rows = reference.leave_one_out(x, k.get("mask"), k.get("scale", 1.0))
    p = rows.shares(k.get("mask"))
    gap = np.where(p == 0, 0, np.abs(gap))
    mean = (p * gap).sum(axis=-1, keepdims=True)
    terms, faint = p * (gap + mean), _subnormal(p, gap + mean, k)
    others = np.where(rows.winner, 0, terms).sum(axis=-1, keepdims=True)
    others = others + rows.rest / rows.mass * mean
    faint_others = _subnormal(rows.rest, gap.max(axis=-1, keepdims=True) + mean, k)
    return np.where(rows.winner, others, terms), np.where(rows.winner, faint_others, faint)


def softmax_magnitudes(k):
    """Of p - q, and of the two slopes with their growth."""
    pair, gap = reference._softmax_pair(k["s"], k["t"], k.get("mask"), k.get("scale", 1.0))
    # gap - log p/q is the same for all classes, made of what p and q differ by
    apart = np.abs(gap) + np.abs(pair.change).sum(axis=-1, keepdims=True)
    change = np.maximum(pair.p, pair.q) * np.minimum(1, np.nan_to_num(apart, nan=1))
    return change, softmax_terms(k["s"], gap, k), softmax_terms(k["t"], gap, k)


def sigmoid_magnitudes(k):
    on, off, gap = reference._sigmoid_pairs(k["s"], k["t"], k.get("scale", 1.0))
    slopes = (
        (v * w * np.abs(gap), _subnormal(np.minimum(v, w), gap, k))
        for v, w in ((on.p, off.p), (on.q, off.q))
    )
    return np.abs(on.change), *slopes


def scale_divergence(symmetric):
    """The loss itself; for gradients what p and q differ by and the terms of the mean."""

    def magnitudes(k, out):
        if k["s"].shape[-1] == 0:
            return ((0.0, 0.0),) * 3
        of_kind = softmax_magnitudes if k["kind"] == "softmax" else sigmoid_magnitudes
        change, (size_s, faint_s), (size_t, faint_t) = of_kind(k)
        scale = k.get("scale", 1.0)
        of_s, of_t = (scale * (change * symmetric + size_s), faint_s), (scale * change, 0.0)
        if symmetric:
            of_t = scale * (change + size_t), faint_t
        return (0.0, 0.0), of_s, of_t

    return magnitudes


CASES = tuple(
    Case(
        f"{function}-{kind}",
        function,
        ("s", "t"),
        ("n", "n"),
        ("", "n", "n"),
        lower(symmetric),
        scale_divergence(symmetric),
        fixed={"kind": kind, "return_grad": True},
        variants=SCALES,
        empty=0.0,
    )
    for function, symmetric in (("kl_divergence", False), ("symmetric_kl", True))
    for kind in KERNELS
)

SIGNATURES = {
    name: "s t * kind=softmax axis=-1 scale=1.0 mask=None return_grad=False"
    for name in ("kl_divergence", "symmetric_kl")
}
