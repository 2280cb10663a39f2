"""The cross-entropies in NumPy, by the names and arguments of the kernels.

See `special.reductions.reference` for the conventions. Called without `loss` a function returns
(loss, grad, hess); the return value with it is the number of invalid rows, which are NaN.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._arrays import Array, namespace, widen
from ...special.reductions.reference import leave_one_out
from .._reference import finish, product, sigmoids

_quiet = np.errstate(all="ignore")
_inf = float("inf")
_nan = float("nan")


@_quiet
def softmax_crossentropy(
    scores: Array,
    targets: Array,
    mask: Array | None = None,
    label_smoothing: float = 0.0,
    bound: bool = False,
    strict: bool = False,
    loss: Array | None = None,
    grad: Array | None = None,
    hess: Array | None = None,
) -> Any:
    """-sum t log p = (sum t) log1p(r) - sum t d, p and its d and r by the leave-one-out rule"""
    xp = namespace(scores)
    kept, t, invalid = _targets(scores, targets, mask, _inf)
    amount = xp.sum(t, axis=-1, keepdims=True)
    classes = xp.maximum(xp.sum(kept, axis=-1, keepdims=True), 1)
    t = (1 - label_smoothing) * t + xp.where(kept, label_smoothing * amount / classes, 0.0)
    rows = leave_one_out(scores, kept)
    value = amount * xp.log1p(rows.rest) - xp.sum(product(t, rows.gap), axis=-1, keepdims=True)
    nothing = (rows.top == -_inf) & xp.any(kept, axis=-1, keepdims=True)
    value = xp.where(invalid | nothing, _nan, value)
    p = rows.weight / rows.mass
    left = xp.where(rows.winner, rows.rest, rows.mass - rows.weight) / rows.mass
    others = xp.sum(xp.where(rows.winner, 0.0, t), axis=-1, keepdims=True)
    slope = xp.where(rows.winner, others - amount * left, amount * p - t)
    curvature = amount * p if bound else amount * p * left
    return finish(
        value, (slope, curvature), xp.isnan(value), kept, (loss, grad, hess), invalid, strict
    )


@_quiet
def sparse_softmax_crossentropy(
    scores: Array,
    indices: Array,
    indptr: Array,
    mask: Array | None = None,
    label_smoothing: float = 0.0,
    bound: bool = False,
    loss: Array | None = None,
    grad: Array | None = None,
    hess: Array | None = None,
) -> Any:
    """The same for all of t on one class, indices[indptr[r]] for row r; n makes the row NaN"""
    xp = namespace(scores)
    n = scores.shape[-1]
    labels = indices[indptr[:-1]].reshape(*scores.shape[:-1], 1)
    targets = xp.where(labels < n, labels == xp.arange(n), _nan)
    return softmax_crossentropy(
        scores, targets, mask, label_smoothing, bound, False, loss, grad, hess
    )


@_quiet
def sigmoid_crossentropy(
    scores: Array,
    targets: Array,
    mask: Array | None = None,
    strict: bool = False,
    loss: Array | None = None,
    grad: Array | None = None,
    hess: Array | None = None,
) -> Any:
    """sum t softplus(-s) + (1 - t) softplus(s), softplus(s) = max(s, 0) + log(1 + exp(-|s|))"""
    xp = namespace(scores)
    kept, t, invalid = _targets(scores, targets, mask, 1.0)
    s = xp.where(kept, widen(scores), 0.0)
    on, off, log_rest = sigmoids(s)
    terms = product(xp.where(s < 0, t, 1 - t), xp.abs(s)) + log_rest
    value = xp.sum(xp.where(kept, terms, 0.0), axis=-1, keepdims=True)
    value = xp.where(invalid, _nan, value)
    slopes = (1 - t) * on - t * off, on * off
    return finish(value, slopes, xp.isnan(value), kept, (loss, grad, hess), invalid, strict)


def _targets(
    scores: Array, targets: Array, mask: Array | None, most: float
) -> tuple[Array, Array, Array]:
    """What takes part, its targets and 0 elsewhere, and rows with targets outside [0, most]"""
    xp = namespace(scores)
    kept = xp.broadcast_to(xp.asarray(True if mask is None else mask), scores.shape)
    t = widen(targets)
    invalid = xp.any(kept & ~((t >= 0) & (t <= most) & (t < _inf)), axis=-1, keepdims=True)
    return kept, xp.where(kept, t, 0.0), invalid
