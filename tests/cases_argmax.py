"""Entries of cases.py for arg max under noise."""

import sys

import numpy as np

import oracle
from cases import Case, _centred, _parts, finite, per_unit
from kexue_native.special.argmax import reference
from kexue_native.special.reductions import reference as reductions
from kexue_native.special.smooth import reference as smooth

NOISES = ("gumbel", "exponential", "uniform", "normal")
COST = {"gumbel": 1, "exponential": 10, "uniform": 40, "normal": 100}
SCALES = ({}, {"scale": 0.25}, {"scale": 3.0})
TEMPERATURES = ({}, {"tau": 0.25}, {"tau": 3.0})
NODES = {
    "exponential": reference._exponential,
    "uniform": reference._uniform,
    "normal": reference._normal,
}


def inverse(k, name):
    """1 / scale or 1 / tau, in the oracle's type."""
    wide = np.longdouble if oracle.HAS_WIDE else np.float64
    return min(1 / wide(k.get(name, 1.0)), wide(sys.float_info.max))


def lower(k):
    noise, scale = k["noise"], k.get("scale", 1.0)
    if noise == "gumbel" and "g" in k:
        return reductions.softmax_vjp, (k["mu"], k["g"], None), (inverse(k, "scale"),)
    if noise == "gumbel":
        return smooth.soft_onehot, (k["mu"],), (inverse(k, "scale"),)
    name = f"argmax_{noise}" + ("_vjp" if "g" in k else "")
    return getattr(reference, name), tuple(k[a] for a in ("mu", "g") if a in k), (scale,)


def lower_softmax(k):
    arrays = tuple(k[a] for a in ("logits", "gumbel", "g") if a in k)
    name = "gumbel_softmax" + ("_vjp" if "g" in k else "")
    return getattr(reference, name), arrays, (inverse(k, "tau"),)


# --- Magnitudes ---

# Of an exponent: the difference, its division by scale (two for a product with 1 / scale), and for
# normal noise, whose exponent is the square of that, each of them counts twice.
ROUNDINGS = {"gumbel": 3, "exponential": 2, "uniform": 2, "normal": 4}


def logarithm(p):
    """|log p|, by which an error may grow: the integrands are exponentials of as much."""
    return np.where(p > 0, np.abs(np.log(np.where(p > 0, p, 1))), 0)


def breakpoint_products(gap):
    """prod_{j != i} F where the integral for entry i ends, whose place is a rounded number."""
    found = np.zeros_like(gap)
    for i in range(gap.shape[-1]):
        end = np.maximum(1 + gap[..., i, None], 0)
        factors = np.clip(end - gap, 0, 1)
        factors[..., i] = 1
        found[..., i] = factors.prod(axis=-1)
    return found


def scale_distribution(k, out):
    scale = inverse(k, "scale")
    if k["noise"] == "gumbel":
        d = _parts(k["mu"], None, scale)[0]
        return ((0.0, per_unit(k, ROUNDINGS["gumbel"]) * finite(d)),)
    size = 0.0
    if k["noise"] == "uniform" and oracle.name_of(k["dtype"]) == "float64":
        size = breakpoint_products(reference._gaps(k["mu"], k.get("scale", 1.0)))
    return ((size, per_unit(k, ROUNDINGS[k["noise"]]) * logarithm(out[0])),)


def scale_distribution_vjp(k, out):
    scale = k.get("scale", 1.0)
    if k["noise"] == "gumbel":
        return centred(k, k["mu"], inverse(k, "scale"))
    gap = reference._gaps(k["mu"], scale)
    if gap.shape[-1] == 0:
        return ((0.0, 0.0),)
    g = np.abs(k["g"])
    size, share = np.zeros_like(gap), np.zeros_like(gap)
    for mass, h in NODES[k["noise"]](gap):
        total, weighted = h.sum(axis=-1, keepdims=True), (g * h).sum(axis=-1, keepdims=True)
        size = size + mass * h * (g * total + weighted)
        share = share + mass * h * total
    if k["noise"] == "uniform":  # the places where integrals end are rounded numbers
        size = np.broadcast_to(size.max(axis=-1, keepdims=True), size.shape)
    # The winner's slope is what the others amount to.
    far = logarithm(share)
    far = np.maximum(far, np.sort(far, axis=-1)[..., 1:2]) if far.shape[-1] > 1 else far
    factors = far.shape[-1] / (4 if k["noise"] == "uniform" else 128)
    return ((size / scale, per_unit(k, 1) * (ROUNDINGS[k["noise"]] * far + factors)),)


def centred(k, x, scale):
    return _centred({**k, "mask": None}, x, scale, per_unit(k, ROUNDINGS["gumbel"]))


def scale_softmax(k, out):
    """Differences of logits and of noise are rounded each, then their sum and its product.

    An entry has the errors of its own exponent and, weighted, of those that it is divided by.
    """
    scale, x = inverse(k, "tau"), k["logits"] + k["gumbel"]
    if x.shape[-1] == 0:
        return ((0.0, 0.0),)
    d, p, _, _ = _parts(x, None, scale)
    growth = per_unit(k, ROUNDINGS["gumbel"]) * finite(d) + per_unit(k, 1) * scale * apart(k)
    return ((0.0, growth + (p * growth).sum(axis=-1, keepdims=True)),)


def apart(k):
    """|l_i - l_k| + |e_i - e_k|, k the winner"""
    winner = np.argmax(k["logits"] + k["gumbel"], axis=-1)[..., None]
    far = (np.abs(v - np.take_along_axis(v, winner, axis=-1)) for v in (k["logits"], k["gumbel"]))
    return finite(sum(far))


def scale_softmax_vjp(k, out):
    scale, x = inverse(k, "tau"), k["logits"] + k["gumbel"]
    ((size, growth),) = centred(k, x, scale)
    if x.shape[-1] == 0:
        return ((0.0, 0.0),)
    return ((size, growth + per_unit(k, 2) * scale * apart(k).max(axis=-1, keepdims=True)),)


CASES = (
    *(
        Case(
            f"argmax_distribution-{noise}",
            "argmax_distribution",
            ("mu",),
            ("n",),
            ("n",),
            lower,
            scale_distribution,
            fixed={"noise": noise},
            variants=SCALES,
            mask=False,
            shift="still",
            permutes="follows",
            cost=COST[noise],
        )
        for noise in NOISES
    ),
    *(
        Case(
            f"argmax_distribution_vjp-{noise}",
            "argmax_distribution_vjp",
            ("mu", "g"),
            ("n", "n"),
            ("n",),
            lower,
            scale_distribution_vjp,
            fixed={"noise": noise},
            variants=SCALES,
            mask=False,
            shift="still",
            permutes="follows",
            cost=COST[noise],
        )
        for noise in NOISES
    ),
    Case(
        "gumbel_softmax",
        "gumbel_softmax",
        ("logits", "gumbel"),
        ("n", "n"),
        ("n",),
        lower_softmax,
        scale_softmax,
        variants=TEMPERATURES,
        mask=False,
        shift="still",
        permutes="follows",
    ),
    Case(
        "gumbel_softmax_vjp",
        "gumbel_softmax_vjp",
        ("logits", "gumbel", "g"),
        ("n", "n", "n"),
        ("n",),
        lower_softmax,
        scale_softmax_vjp,
        variants=TEMPERATURES,
        mask=False,
        shift="still",
        permutes="follows",
    ),
)

# Random numbers, and positions: in test_argmax.py.
OTHERS = ("gumbel_noise", "gumbel_max")

SIGNATURES = {
    "argmax_distribution": "mu noise=gumbel scale=1.0 axis=-1 *",
    "argmax_distribution_vjp": "mu g noise=gumbel scale=1.0 axis=-1 *",
    "gumbel_noise": "size rng=None *",
    "gumbel_max": "logits gumbel=None * rng=None axis=-1",
    "gumbel_softmax": "logits gumbel=None * tau=1.0 rng=None axis=-1 hard=False",
    "gumbel_softmax_vjp": "logits gumbel g * tau=1.0 axis=-1",
}
