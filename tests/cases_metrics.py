"""Entries of cases.py for the smoothed metrics and the small losses."""

import numpy as np

from cases import Case
from kexue_native.losses.metrics import reference


def probabilities(rng, shape, _):
    return rng.random(shape)


def shares(rng, shape, _):
    """Multiples of 1/64 in [0, 1], many of them 0 or 1: exact in every type."""
    return np.clip(rng.integers(-32, 97, shape), 0, 64) / 64


def ratio(shares_of):
    """`lower` and `scale` where the denominator takes these shares of sum t and sum p."""

    def lower(k):
        parameters = *shares_of(k), k.get("zero_division", 0.0)
        return reference.smooth_ratio, (k["probs"], k["targets"]), parameters

    def scale(k, out):
        """Probabilities are not checked: sums over numbers of either sign, and their quotient."""
        (true_share, found_share), p, t = shares_of(k), k["probs"], k["targets"]
        total = true_share * t.sum(axis=-1) + found_share * p.sum(axis=-1)
        terms = true_share * t.sum(axis=-1) + found_share * np.abs(p).sum(axis=-1)
        spread = terms / np.abs(total)
        value = np.maximum((t * np.abs(p)).sum(axis=-1) / np.abs(total), np.abs(out[0]) * spread)
        slope = np.maximum(t, found_share * value[..., None]) / np.abs(total)[..., None]
        return ((value, 0.0), (slope * spread[..., None], 0.0))

    return lower, scale


def of_beta(k):
    square = k.get("beta", 1.0) ** 2
    return square / (1 + square), 1 / (1 + square)


def lower_flooding(k):
    return reference.flooding, (k["loss"], k["b"]), ()


def _terms(p, z):
    """Magnitudes of the terms of a cosine and of its gradient."""
    along, against = reference.unit(p), reference.unit(z)
    size = np.nan_to_num(np.abs(along.x * against.x).sum(axis=-1, keepdims=True))
    slope = np.maximum(np.abs(against.x), size * np.abs(along.x)) / along.norm / along.scale
    return size[..., 0], slope


def scale_cosine(k, out):
    if k["p"].shape[-1] == 0:
        return ((0.0, 0.0),) * 2
    return tuple((magnitude, 0.0) for magnitude in _terms(k["p"], k["z"]))


def lower_cosine(k):
    return reference.negative_cosine, (k["p"], k["z"]), ()


def scale_simsiam(k, out):
    """Gradients are those of `negative_cosine`, halved."""
    if k["p1"].shape[-1] == 0:
        return ((0.0, 0.0),)
    return ((np.maximum(_terms(k["p1"], k["z2"])[0], _terms(k["p2"], k["z1"])[0]), 0.0),)


def lower_simsiam(k):
    return reference.simsiam_loss, (k["p1"], k["z2"], k["p2"], k["z1"]), ()


def case(function, arrays, outputs, lower, scale=None, **options):
    cores = ("n",) * len(arrays)
    fixed = {"return_grad": True}
    return Case(function, function, arrays, cores, outputs, lower, scale, fixed, **options)


RATIO = {
    "default_axis": None,
    "mask": False,
    "empty": 0.0,
    "fill": {"probs": probabilities, "targets": shares},
}
BETAS = ({}, {"beta": 2.0}, {"beta": 0.25})

P_T = ("probs", "targets"), ("", "n")
CASES = (
    case("smooth_fbeta", *P_T, *ratio(of_beta), variants=BETAS, **RATIO),
    case("smooth_precision", *P_T, *ratio(lambda k: (0.0, 1.0)), **RATIO),
    case("smooth_recall", *P_T, *ratio(lambda k: (1.0, 0.0)), **RATIO),
    case("flooding", ("loss", "b"), ("n", "n"), lower_flooding, mask=False, elementwise=True),
    case(
        "negative_cosine", ("p", "z"), ("", "n"), lower_cosine, scale_cosine, mask=False, empty=0.0
    ),
    Case(
        "simsiam_loss",
        "simsiam_loss",
        ("p1", "z2", "p2", "z1"),
        ("n", "n", "n", "n"),
        ("",),
        lower_simsiam,
        scale_simsiam,
        mask=False,
        empty=0.0,
    ),
)

_RATIO = "axis=None zero_division=0.0 return_grad=False validate=True"
SIGNATURES = {
    "smooth_accuracy": "probs labels * return_grad=False",
    "smooth_fbeta": f"probs targets * beta=1.0 {_RATIO}",
    "smooth_precision": f"probs targets * {_RATIO}",
    "smooth_recall": f"probs targets * {_RATIO}",
    "flooding": "loss b * return_grad=False",
    "negative_cosine": "p z * axis=-1 return_grad=False",
    "simsiam_loss": "p1 z2 p2 z1 * axis=-1 return_grad=False",
}
OTHERS = ("smooth_accuracy",)  # takes class numbers along with probabilities
