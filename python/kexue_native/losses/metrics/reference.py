"""Smoothed metrics and small losses in NumPy, by the names and arguments of the kernels.

See `losses.multilabel.reference` for the conventions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..._arrays import Array, namespace, widen
from ...special.reductions.reference import store
from .._reference import finish

_quiet = np.errstate(all="ignore")
_nan = float("nan")


@_quiet
def smooth_accuracy(chosen: Array, loss: Array | None = None) -> Any:
    """The mean of the probabilities of the labels"""
    xp = namespace(chosen)
    return store(loss, xp.sum(widen(chosen), axis=-1) / xp.asarray(float(chosen.shape[-1])))


@_quiet
def smooth_ratio(
    probs: Array,
    targets: Array,
    true_share: float,
    found_share: float,
    zero_division: float = 0.0,
    strict: bool = False,
    loss: Array | None = None,
    grad: Array | None = None,
) -> Any:
    """sum(t p) / (true_share sum(t) + found_share sum(p)); gradient (t_i - found_share F) / sum"""
    xp = namespace(probs)
    p, t = widen(probs), widen(targets)
    invalid = xp.any(~((t >= 0) & (t <= 1)), axis=-1)
    total = true_share * xp.sum(t, axis=-1) + found_share * xp.sum(p, axis=-1)
    value, total = xp.sum(t * p, axis=-1)[..., None], total[..., None]
    value = xp.where(total == 0, zero_division, value / total)
    slope = xp.where(total == 0, 0.0, (t - found_share * value) / total)
    undefined = invalid[..., None]
    value = xp.where(undefined, _nan, value)
    return finish(value, [slope], undefined, xp.asarray(True), (loss, grad), invalid, strict)


@_quiet
def flooding(loss: Array, b: Array, out: Array | None = None, grad: Array | None = None) -> Any:
    """L where L >= b, else 2 b - L; gradient sign(L - b)"""
    xp = namespace(loss)
    x, b = widen(loss), widen(b)
    value = xp.where(x < b, 2 * b - x, xp.where(b == b, x, b))
    slope = 1.0 * (x > b) - (x < b)
    return finish(value[..., None], [slope], xp.isnan(value), xp.asarray(True), (out, grad))


class Unit(NamedTuple):
    """x / ||x||, and ||x|| as a product, whatever the size of x"""

    x: Array
    norm: Array
    scale: Array


def unit(x: Array) -> Unit:
    xp = namespace(x)
    scale = xp.max(xp.abs(x), axis=-1, keepdims=True)
    x = x / xp.where(scale == 0, 1.0, scale)
    norm = xp.sqrt(xp.sum(x * x, axis=-1, keepdims=True))
    return Unit(x / norm, norm, scale)


class Cosine(NamedTuple):
    """Minus the cosine of p and z, and its gradient for constant z"""

    value: Array
    slope: Array
    undefined: Array


def cosine(p: Array, z: Array) -> Cosine:
    xp = namespace(p)
    p, z = widen(p), widen(z)
    if p.shape[-1] == 0:
        zero = xp.zeros((*p.shape[:-1], 1))
        return Cosine(zero, p, zero != 0)
    along, against = unit(p), unit(z)
    value = -xp.clip(xp.sum(along.x * against.x, axis=-1, keepdims=True), -1.0, 1.0)
    slope = -(against.x + value * along.x) / along.norm / along.scale
    none = (along.scale == 0) | (against.scale == 0)
    undefined = ~xp.isfinite(along.scale + against.scale)
    value = xp.where(undefined, _nan, xp.where(none, 0.0, value))
    return Cosine(value, xp.where(none, 0.0, slope), undefined)


@_quiet
def negative_cosine(
    p: Array, z: Array, loss: Array | None = None, grad: Array | None = None
) -> Any:
    """-<p, z> / (|p| |z|); gradient -(z / |z| - <p, z> / (|p| |z|) p / |p|) / |p|"""
    value, slope, undefined = cosine(p, z)
    return finish(value, [slope], undefined, namespace(p).asarray(True), (loss, grad))


@_quiet
def simsiam_loss(
    p1: Array,
    z2: Array,
    p2: Array,
    z1: Array,
    loss: Array | None = None,
    grad_p1: Array | None = None,
    grad_p2: Array | None = None,
) -> Any:
    """The mean of two negative cosines"""
    first, second = cosine(p1, z2), cosine(p2, z1)
    slopes = [first.slope / 2, second.slope / 2]
    undefined = first.undefined | second.undefined
    kept = namespace(p1).asarray(True)
    value = (first.value + second.value) / 2
    return finish(value, slopes, undefined, kept, (loss, grad_p1, grad_p2))
