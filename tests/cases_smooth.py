"""Entries of cases.py for the smooth maxima and the Taylor softmax."""

import math

import numpy as np

from cases import Case, _centred, _faint, per_unit, scale_share
from kexue_native.special.reductions import reference as reductions
from kexue_native.special.smooth import reference

SHARP = ({}, {"k": 5.0}, {"k": -0.5})
DEGREES = ({}, {"n": 6}, {"n": 20}, {"n": 4, "monotone": True})


def kernel(name, *parameters):
    """The kernel `name` on the arrays there are; parameters are names with their defaults."""

    def lower(k):
        arrays = tuple(k[a] for a in ("x", "g") if a in k)
        return getattr(reference, name), arrays, tuple(k.get(p, d) for p, d in parameters)

    return lower


def lower_max(k):
    name = f"smooth_max_{k['method']}" + ("_vjp" if "g" in k else "")
    return kernel(name, ("k", 1.0))(k)


def lower_taylor(k):
    degree = k.get("n", 2)
    floor = reference.taylor_minimiser(degree) if k.get("monotone") else -math.inf
    arrays = (*(k[a] for a in ("x", "g") if a in k), k.get("mask"))
    name = "taylor_softmax" + ("_vjp" if "g" in k else "")
    return getattr(reference, name), arrays, (degree, floor)


def lower_onehot_vjp(k):
    return reductions.softmax_vjp, (k["x"], k["g"], None), (k.get("k", 1.0),)


# --- Magnitudes ---


def sharpness(k):
    return k.get("k", 1.0)


def peak(k):
    """|m|, m the largest x or for k < 0 the smallest."""
    x = k["x"]
    if x.shape[-1] == 0:
        return np.zeros(x.shape[:-1], x.dtype)
    return np.abs(x.max(axis=-1) if sharpness(k) > 0 else x.min(axis=-1))


def scale_max(k, out):
    return ((peak(k), 0.0),)


def shares(k):
    """Distances from the winner, scaled, and probabilities with their growth."""
    return scale_share(np.sign(sharpness(k)) * k["x"], None, abs(sharpness(k)))


def scale_max_vjp(k, out):
    d, p, growth = shares(k)
    g = np.abs(k["g"])[..., None]
    if k["method"] == "logsumexp":
        return ((0.0, growth + _faint(p, g, k["least"])),)
    d = np.where(p == 0, 0, np.abs(d))
    terms = g * (1 + d + (p * d).sum(axis=-1, keepdims=True))
    return ((p * terms, growth + _faint(p, terms, k["least"])),)


def scale_argmax(k, out):
    d, p, growth = shares(k)
    start = abs(k.get("start", 0))
    if d.shape[-1] == 0:
        return ((0.0, 0.0),)
    # The positions' terms, each as exact as its probability.
    terms = np.arange(d.shape[-1]) * p
    lost = (terms * growth).sum(axis=-1) + _faint(p, np.arange(d.shape[-1]), k["least"]).sum(-1)
    value = terms.sum(axis=-1)
    return ((np.maximum(start, value), lost / np.where(value == 0, 1, value)),)


def scale_argmax_vjp(k, out):
    known = {**k, "g": np.arange(k["x"].shape[-1], dtype=k["x"].dtype)}
    ((size, growth),) = centred(known)
    return ((np.abs(k["g"])[..., None] * size, growth),)


def centred(k):
    sharp = sharpness(k)
    return _centred({**k, "mask": None}, np.sign(sharp) * k["x"], abs(sharp))


def scale_onehot(k, out):
    return ((0.0, shares(k)[2]),)


def scale_onehot_vjp(k, out):
    return centred(k)


def scale_taylor(k, out):
    """Each power adds a rounding to a term and to the sum."""
    return ((0.0, per_unit(k, 2 * k.get("n", 2))),)


def scale_taylor_vjp(k, out):
    """The terms of f', which cancel where it changes its sign, and of h - sum p h."""
    _, (x, g, mask), (n, floor) = lower_taylor(k)
    with np.errstate(all="ignore"):
        f, winner, mass = reference._taylor_rows(x, mask, n, floor)
        p = f.value / mass
        kept = np.ones(x.shape, bool) if mask is None else np.broadcast_to(mask, x.shape)
        g = np.where(kept, g, 0)
        h = np.abs(g - np.where(winner, g, 0).sum(axis=-1, keepdims=True))
        bend = h + (p * h).sum(axis=-1, keepdims=True)
        # f' = f - x^n / n!, two terms that are close to each other where f' is small
        size = (f.value + np.abs(f.slope)) / mass * bend
    return ((size, per_unit(k, 2 * n)),)


CASES = (
    Case(
        "taylor_softmax",
        "taylor_softmax",
        ("x",),
        ("n",),
        ("n",),
        lower_taylor,
        scale_taylor,
        variants=DEGREES,
        permutes="follows",
    ),
    Case(
        "taylor_softmax_vjp",
        "taylor_softmax_vjp",
        ("x", "g"),
        ("n", "n"),
        ("n",),
        lower_taylor,
        scale_taylor_vjp,
        variants=DEGREES,
        permutes="follows",
    ),
    *(
        Case(
            f"smooth_max-{method}",
            "smooth_max",
            ("x",),
            ("n",),
            ("",),
            lower_max,
            scale_max,
            fixed={"method": method},
            variants=SHARP,
            mask=False,
            shift="moves",
            permutes="still",
            empty=-np.inf,
        )
        for method in ("logsumexp", "softmax")
    ),
    *(
        Case(
            f"smooth_max_vjp-{method}",
            "smooth_max_vjp",
            ("x", "g"),
            ("n", ""),
            ("n",),
            lower_max,
            scale_max_vjp,
            fixed={"method": method},
            variants=SHARP,
            mask=False,
            shift="still",
            permutes="follows",
        )
        for method in ("logsumexp", "softmax")
    ),
    Case(
        "soft_argmax",
        "soft_argmax",
        ("x",),
        ("n",),
        ("",),
        kernel("soft_argmax", ("k", 1.0), ("start", 0.0)),
        scale_argmax,
        variants=(*SHARP, {"start": 1}),
        mask=False,
        shift="still",
        empty=np.nan,
    ),
    Case(
        "soft_argmax_vjp",
        "soft_argmax_vjp",
        ("x", "g"),
        ("n", ""),
        ("n",),
        kernel("soft_argmax_vjp", ("k", 1.0)),
        scale_argmax_vjp,
        variants=SHARP,
        mask=False,
        shift="still",
    ),
    Case(
        "soft_onehot",
        "soft_onehot",
        ("x",),
        ("n",),
        ("n",),
        kernel("soft_onehot", ("k", 1.0)),
        scale_onehot,
        variants=SHARP,
        mask=False,
        shift="still",
        permutes="follows",
    ),
    Case(
        "soft_onehot_vjp",
        "soft_onehot_vjp",
        ("x", "g"),
        ("n", "n"),
        ("n",),
        lower_onehot_vjp,
        scale_onehot_vjp,
        variants=SHARP,
        mask=False,
        shift="still",
        permutes="follows",
    ),
)

# Tested in test_smooth.py: k softmaxes, each of which magnifies the errors of the one before.
OTHERS = ("soft_kmax", "soft_kmax_vjp")

SIGNATURES = {
    "taylor_softmax": "x n=2 axis=-1 * mask=None monotone=False",
    "taylor_softmax_vjp": "x g n=2 axis=-1 * mask=None monotone=False",
    "smooth_max": "x k=1.0 axis=-1 * method=logsumexp",
    "smooth_max_vjp": "x g k=1.0 axis=-1 * method=logsumexp",
    "soft_argmax": "x k=1.0 axis=-1 * start=0",
    "soft_argmax_vjp": "x g k=1.0 axis=-1 *",
    "soft_onehot": "x k=1.0 axis=-1 *",
    "soft_onehot_vjp": "x g k=1.0 axis=-1 *",
    "soft_kmax": "x k axis=-1 * scale=1.0",
    "soft_kmax_vjp": "x g k axis=-1 * scale=1.0",
}
