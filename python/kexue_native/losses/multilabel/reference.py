"""The multi-label loss in NumPy: documentation, fallback and oracle at once.

Names and arguments are those of the compiled kernels: rows along the last axis, loop axes
broadcast, results stored in `loss`, `grad` and `hess`, of which the gradients may be None. Called
without any of them a function returns all three, in float64 for narrower input and in the input's
own type when that is wider. The return value with outputs is the number of invalid rows, which are
NaN. All of it works on CuPy arrays too.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..._arrays import Array, namespace, widen
from ...special.reductions.reference import relative_terms, store, two_difference

_quiet = np.errstate(all="ignore")  # infinities and NaN are values here, not accidents
_nan = float("nan")


class Part(NamedTuple):
    """log(1 + sum c_i exp(u_i)) of each row, the share w_i of each term in it, and 1 - w_i."""

    value: Array
    share: Array
    left: Array


def part(u: Array, c: Array) -> Part:
    """One of the two parts by the leave-one-out rule, the term 1 among the others."""
    xp = namespace(u)
    one = (*u.shape[:-1], 1)
    terms = relative_terms(
        xp.concatenate([u, xp.zeros(one, u.dtype)], axis=-1),
        xp.concatenate([c, xp.ones(one, c.dtype)], axis=-1),
    )
    ratio, mass = terms.ratio[..., :-1], terms.mass
    value = (terms.shift + xp.log1p(terms.rest))[..., 0]
    largest = (ratio == 1) & (terms.top < float("inf"))
    left = xp.where(largest, terms.rest, mass - ratio) / mass
    return Part(value, ratio / mass, left)


@_quiet
def multilabel_crossentropy(
    scores: Array,
    targets: Array,
    mask: Array | None,
    threshold: Array,
    bound: bool = False,
    strict: bool = False,
    loss: Array | None = None,
    grad: Array | None = None,
    hess: Array | None = None,
) -> Any:
    """log(1 + sum (1 - t) exp(u)) + log(1 + sum t exp(-u)), u = s - threshold"""
    xp = namespace(scores)
    t = widen(targets)
    kept = xp.asarray(True) if mask is None else mask
    invalid = xp.any(kept & ~((t >= 0) & (t <= 1)), axis=-1)
    s, threshold = widen(scores), widen(threshold)[..., None]
    if strict and xp.any(invalid):
        return int(xp.sum(invalid))  # before anything is written
    kept = xp.broadcast_to(kept, s.shape)
    # The rounding error of u goes into the coefficients; an infinite threshold has no limit.
    u, error = two_difference(s, xp.where(xp.isinf(threshold), _nan, threshold))
    error = xp.where(xp.abs(error) < 1, error, 0.0)
    negative = part(xp.where(kept, u, 0.0), xp.where(kept, (1 - t) * xp.exp(error), 0.0))
    positive = part(xp.where(kept, -u, 0.0), xp.where(kept, t * xp.exp(-error), 0.0))
    value = xp.where(invalid, _nan, negative.value + positive.value)
    undefined = xp.isnan(value)[..., None]

    def of_scores(x: Array) -> Array:
        return xp.where(kept, xp.where(undefined, _nan, x), 0.0)

    n, p = negative.share, positive.share
    slope = of_scores(n - p)
    curvature = of_scores(n + p if bound else n * negative.left + p * positive.left)
    if loss is None:
        return value, slope, curvature
    if grad is not None:
        store(grad, slope)
    if hess is not None:
        store(hess, curvature)
    return store(loss, value, invalid)


def sparse_multilabel_crossentropy(
    scores: Array,
    indices: Array,
    indptr: Array,
    mask: Array | None,
    threshold: Array,
    bound: bool = False,
    loss: Array | None = None,
    grad: Array | None = None,
    hess: Array | None = None,
) -> Any:
    """The same for the positive classes indices[indptr[r] : indptr[r + 1]] of row r

    -1 is skipped, and n makes the row NaN.
    """
    xp = namespace(scores)
    n = scores.shape[-1]
    row = xp.searchsorted(indptr[1:], xp.arange(indices.shape[0]), side="right")
    # A column before the first class and one behind the last take what is no class.
    targets = xp.zeros((*scores.shape[:-1], n + 2), bool)
    targets.reshape(-1)[row * (n + 2) + indices + 1] = True
    threshold = xp.where(targets[..., -1], _nan, widen(threshold))
    targets = targets[..., 1:-1]
    return multilabel_crossentropy(scores, targets, mask, threshold, bound, False, loss, grad, hess)


def globalpointer_crossentropy(
    scores: Array,
    targets: Array,
    tokens: Array | None,
    threshold: Array,
    tril: bool = True,
    bound: bool = False,
    strict: bool = False,
    loss: Array | None = None,
    grad: Array | None = None,
    hess: Array | None = None,
) -> Any:
    """The same for cell (i, j) of a matrix, a row of n n scores, if m_i and m_j and i <= j"""
    xp = namespace(scores)
    n = math.isqrt(scores.shape[-1])
    i, j = xp.divmod(xp.arange(n * n), max(n, 1))
    mask = i <= j if tril else xp.ones(n * n, bool)
    if tokens is not None:
        mask = mask & tokens[..., i] & tokens[..., j]
    return multilabel_crossentropy(
        scores, targets, mask, threshold, bound, strict, loss, grad, hess
    )


@_quiet
def multilabel_probability(scores: Array, threshold: Array, out: Array | None = None) -> Any:
    """p = 1 / (1 + exp(-2 u)), u = s - threshold"""
    u, error = two_difference(widen(scores), widen(threshold))
    xp = namespace(u)
    small = xp.exp(-2 * xp.abs(u))
    p, q = xp.where(u < 0, small, 1.0) / (1 + small), xp.where(u < 0, 1.0, small) / (1 + small)
    return store(out, p * (1 + 2 * q * error))  # with the rounding error of u
