"""Optimising over the simplex in NumPy, by the names and arguments of the kernels.

See `special.reductions.reference` for the conventions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._arrays import Array, namespace, widen
from ...special.reductions.reference import store, total
from ..eg.reference import row_of

_quiet = np.errstate(all="ignore")
_inf = float("inf")
_nan = float("nan")


def summed(terms: Array) -> Array:
    """`total`, also where it is not finite, and of nothing"""
    xp = namespace(terms)
    plain = xp.sum(terms, axis=-1, keepdims=True)
    return xp.where(xp.isfinite(plain), total(terms), plain) if terms.shape[-1] else plain


@_quiet
def project_simplex(v: Array, mass: Array, out: Array | None = None) -> Any:
    """max(x - tau, 0), x = v - max v, with the tau for which the row sums to the mass"""
    xp = namespace(v)
    v, m = widen(v), row_of(mass)
    if v.shape[-1] == 0:
        return store(out, v)
    top = xp.max(v, axis=-1, keepdims=True)
    x = xp.where(v == top, 0.0, v - top)
    # The support: the j largest, as long as the mass above the j-th is not all there is.
    ranked = -xp.sort(-x, axis=-1)
    j = xp.arange(1, v.shape[-1] + 1)
    above = xp.cumsum(ranked, axis=-1) - j * ranked
    count = xp.maximum(xp.sum((above < m) & (above == above), axis=-1, keepdims=True), 1)
    least = xp.take_along_axis(ranked, count - 1, axis=-1)
    support = x >= least
    size = xp.sum(support, axis=-1, keepdims=True)
    tau = (total(xp.where(support, x, 0.0)) - m) / size
    value = xp.where(support, xp.maximum(x - tau, 0.0), 0.0)
    value = xp.where(m == 0, 0.0, value)
    undefined = xp.isnan(v).any(axis=-1, keepdims=True) | (top == -_inf) | ~((m >= 0) & (m < _inf))
    return store(out, xp.where(undefined, _nan, value))


@_quiet
def project_simplex_vjp(p: Array, g: Array, out: Array | None = None) -> Any:
    """s (g - sum s g / sum s), s = 1 where p > 0"""
    xp = namespace(p)
    p, g = widen(p), widen(g)
    support = p > 0
    mean = summed(xp.where(support, g, 0.0))
    mean = mean / xp.maximum(xp.sum(support, axis=-1, keepdims=True), 1)
    value = xp.where(support, g - mean, 0.0)
    return store(out, xp.where(xp.isnan(p).any(axis=-1, keepdims=True), _nan, value))


@_quiet
def frank_wolfe_step(p: Array, g: Array, lr: float, out: Array | None = None) -> Any:
    """(1 - lr) p_i, plus lr for the first i of the smallest g"""
    xp = namespace(p)
    if p.shape[-1] == 0:
        return store(out, widen(p) + widen(g))
    p, g = xp.broadcast_arrays(widen(p), widen(g))
    vertex = xp.arange(p.shape[-1]) == xp.argmin(g, axis=-1)[..., None]
    value = xp.where(vertex, (1 - lr) * p + lr, (1 - lr) * p)
    return store(out, xp.where(xp.isnan(g).any(axis=-1, keepdims=True), _nan, value))


@_quiet
def simplex_gap(p: Array, g: Array, out: Array | None = None) -> Any:
    """sum p (g - min g)"""
    xp = namespace(p)
    if p.shape[-1] == 0:
        return store(out, xp.sum(widen(p) + widen(g), axis=-1))
    p, g = xp.broadcast_arrays(widen(p), widen(g))
    above = g - xp.min(g, axis=-1, keepdims=True)
    above = xp.where(g == xp.min(g, axis=-1, keepdims=True), 0.0, above)
    value = summed(xp.where((p == 0) & (g == g), 0.0, p * above))[..., 0]
    return store(out, xp.where(xp.isnan(g).any(axis=-1), _nan, value))


@_quiet
def softmax_pullback(p: Array, g: Array, out: Array | None = None) -> Any:
    """p (g - <p, g>)"""
    xp = namespace(p)
    p, g = xp.broadcast_arrays(widen(p), widen(g))
    nothing = (p == 0) & (g == g)
    mean = summed(xp.where(nothing, 0.0, p * g))
    return store(out, xp.where(nothing & (mean == mean), 0.0, p * (g - mean)))


@_quiet
def bregman_kl(p: Array, q: Array, unnormalized: bool = False, out: Array | None = None) -> Any:
    """sum p log(p / q), or sum p log(p / q) - p + q, of which no term is negative"""
    xp = namespace(p)
    p, q = xp.broadcast_arrays(widen(p), widen(q))
    ratio = p / q
    change = (p - q) / q
    near = xp.abs(change) <= 0.5
    usual = (ratio > 1e-300) & (ratio < 1e300)
    log_ratio = xp.where(
        near,
        xp.log1p(xp.where(near, change, 0.0)),
        xp.where(usual, xp.log(ratio), xp.log(p) - xp.log(q)),
    )
    if unnormalized:
        # p log(p / q) - p + q = q ((1 + d) log(1 + d) - d), d = p / q - 1
        term = xp.where(near, q * _excess(change), p * log_ratio - p + q)
        term = xp.where(p == 0, q, xp.where((q == 0) | (p == _inf), _inf, term))
    else:
        term = xp.where(p == 0, 0.0 * q, xp.where(q == 0, _inf, p * log_ratio))
        term = xp.where((p == 0) & (q == _inf), 0.0, term)
    term = xp.where((p >= 0) & (q >= 0), term, _nan)
    return store(out, summed(term)[..., 0])


def _excess(d: Array) -> Array:
    """(1 + d) log(1 + d) - d for |d| <= 1/2"""
    xp = namespace(d)
    series = xp.zeros_like(d)  # d^2 (1/2 - d/6 + d^2/12 - ...), the k-th term over (k + 1)(k + 2)
    for k in range(80, -1, -1):
        series = 1.0 / ((k + 1) * (k + 2)) - d * series
    return d * d * series
