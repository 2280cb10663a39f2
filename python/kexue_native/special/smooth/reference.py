"""The formulas of the part in NumPy; see the reference of the reductions for how it is built."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from ..._arrays import Array, namespace, widen
from ..reductions.reference import leave_one_out, softmax_vjp, store, total

_quiet = np.errstate(all="ignore")
_inf = float("inf")
_nan = float("nan")


@cache
def laguerre(count: int) -> tuple[Array, Array]:
    """Nodes and weights of Gauss-Laguerre quadrature, in the widest type there is."""
    nodes: Array = np.polynomial.laguerre.laggauss(count)[0].astype(np.longdouble)
    for _ in range(3):  # Newton's method; t L' = count (L_count - L_(count-1))
        low, high = np.ones_like(nodes), 1 - nodes
        for k in range(1, count):
            low, high = high, ((2 * k + 1 - nodes) * high - k * low) / (k + 1)
        slope = count * (high - low) / nodes
        nodes = nodes - high / slope
    return nodes, 1 / (nodes * slope**2)


class Taylor(NamedTuple):
    """f_n(x) and f_(n-1)(x), its derivative, over the n-th power of a size per row."""

    value: Array
    slope: Array


def taylor(x: Array, n: int) -> Taylor:
    """f_n(x) = sum_j w_j (x + t_j)^n / n!: a sum of even powers, divided by the largest of a row"""
    xp = namespace(x)
    nodes, weights = (v.astype(x.dtype) for v in laguerre(n // 2 + 1))
    weights = weights / x.dtype.type(math.factorial(n))
    largest = xp.max(xp.abs(x), axis=-1, keepdims=True, initial=0.0)
    size = xp.zeros_like(largest)
    for t, w in zip(nodes.tolist(), weights.tolist()):
        size = xp.maximum(size, w ** (1 / n) * (largest + t))
    value, slope = xp.zeros_like(x), xp.zeros_like(x)
    for t, w in zip(nodes, weights):
        base = (x + t) / size
        power = w * base ** (n - 1)
        value = value + power * base
        slope = slope + power
    return Taylor(value, n * slope / size)


@cache
def taylor_minimiser(n: int) -> float:
    """Where f_n is smallest: the one zero of f_(n-1), by Newton's method."""
    from fractions import Fraction  # with decimal, a third of what importing the package takes

    x, step = Fraction(-1 - 0.3 * (n - 2)), Fraction(1)
    while abs(step) > Fraction(1, 2**60):
        terms = [Fraction(1)]
        for k in range(1, n):
            terms.append(terms[-1] * x / k)
        step = sum(terms, Fraction(0)) / sum(terms[:-1], Fraction(0))
        x = Fraction(round((x - step) * 2**80), 2**80)
    return float(x)


def _taylor_rows(x: Array, mask: Array | None, n: int, floor: float) -> tuple[Taylor, Array, Array]:
    """f_n and f_(n-1) of each entry, 0 where masked; where they lead; and their sum

    Below `floor` f_n is constant. Infinite entries, of either sign, leave nothing to the others.
    """
    xp = namespace(x)
    x = xp.where(widen(x) < floor, floor, widen(x))
    present = xp.ones_like(x, dtype=bool) if mask is None else xp.broadcast_to(mask, x.shape)
    x = xp.where(present, x, 0.0)
    infinite = xp.isinf(x)
    some = xp.any(infinite, axis=-1, keepdims=True)
    f = taylor(xp.where(some & ~xp.isnan(x), 0.0, x), n)
    value = xp.where(some & ~xp.isnan(x), infinite, f.value)
    slope = xp.where(some | (x <= floor), 0.0, f.slope)
    value, slope = xp.where(present, value, 0.0), xp.where(present, slope, 0.0)
    if x.shape[-1] == 0:
        return Taylor(value, slope), present, value[..., :1]
    winner = xp.arange(x.shape[-1]) == xp.argmax(value, axis=-1)[..., None]
    return Taylor(value, slope), winner, total(value)


@_quiet
def taylor_softmax(
    x: Array, mask: Array | None, n: int, floor: float = -_inf, out: Array | None = None
) -> Any:
    """p_i = f_n(x_i) / sum f_n(x_k)"""
    f, _, mass = _taylor_rows(x, mask, int(n), floor)
    return store(out, _settle(f.value / mass, mask))


@_quiet
def taylor_softmax_vjp(
    x: Array,
    g: Array,
    mask: Array | None,
    n: int,
    floor: float = -_inf,
    out: Array | None = None,
) -> Any:
    """f_(n-1)(x_i) / sum f_n(x_k) (h_i - sum p h), h = g - g at the largest f_n"""
    xp = namespace(x)
    f, winner, mass = _taylor_rows(x, mask, int(n), floor)
    g = widen(g) if mask is None else xp.where(mask, widen(g), 0.0)
    h = g - xp.sum(xp.where(winner, g, 0.0), axis=-1, keepdims=True)
    mean = xp.sum(f.value / mass * h, axis=-1, keepdims=True)
    return store(out, _settle(f.slope / mass * (h - mean), mask))


def _settle(value: Array, mask: Array | None) -> Array:
    """0 for masked entries"""
    return value if mask is None else namespace(value).where(mask, value, 0.0)


@_quiet
def smooth_max_logsumexp(x: Array, k: float, out: Array | None = None) -> Any:
    """log(sum exp(k x)) / k = m + log1p(r) / k"""
    rows = leave_one_out(x, None, k)
    value = math.copysign(1.0, k) * rows.top + namespace(x).log1p(rows.rest) / k
    return store(out, value[..., 0])


@_quiet
def smooth_max_logsumexp_vjp(x: Array, g: Array, k: float, out: Array | None = None) -> Any:
    """g p_i, p = softmax(k x); a slice of nothing but -inf (inf for k < 0) gives 0"""
    xp = namespace(x)
    rows = leave_one_out(x, None, k)
    p = rows.shares(None)[..., : x.shape[-1]]
    return store(out, xp.where(rows.top == -_inf, 0.0, widen(g)[..., None] * p))


@_quiet
def smooth_max_softmax(x: Array, k: float, out: Array | None = None) -> Any:
    """sum p x = m + sum p (x - m), p = softmax(k x)"""
    xp = namespace(x)
    rows = leave_one_out(x, None, k)
    m = math.copysign(1.0, k) * rows.top
    if x.shape[-1] == 0:
        return store(out, m[..., 0])
    gap = xp.where(rows.gap == 0, 0.0, widen(x) - m)
    moment = xp.sum(xp.where(rows.weight == 0, 0.0, rows.weight * gap), axis=-1, keepdims=True)
    return store(out, (m + moment / rows.mass)[..., 0])


@_quiet
def smooth_max_softmax_vjp(x: Array, g: Array, k: float, out: Array | None = None) -> Any:
    """g p_i (1 + k (x_i - y)) = g p_i (1 + d_i - sum p d), d = k (x - m)"""
    xp = namespace(x)
    rows = leave_one_out(x, None, k)
    p = rows.weight / rows.mass
    gap = xp.where(p == 0, 0.0, rows.gap)
    slope = p * (1 + gap - xp.sum(p * gap, axis=-1, keepdims=True))
    value = xp.where(rows.top == -_inf, 0.0, widen(g)[..., None] * slope)
    return store(out, value[..., : x.shape[-1]])


@_quiet
def soft_argmax(x: Array, k: float, start: float = 0.0, out: Array | None = None) -> Any:
    """start + sum i p_i, p = softmax(k x)"""
    xp = namespace(x)
    p = leave_one_out(x, None, k).shares(None)
    return store(out, start + xp.sum(xp.arange(p.shape[-1]) * p, axis=-1))


@_quiet
def soft_argmax_vjp(x: Array, g: Array, k: float, out: Array | None = None) -> Any:
    """g k p_i (i - sum j p_j)"""
    xp = namespace(x)
    positions = xp.arange(x.shape[-1], dtype=widen(x[..., :0]).dtype)
    return store(out, widen(g)[..., None] * softmax_vjp(x, positions, None, k))


@_quiet
def soft_onehot(x: Array, k: float, out: Array | None = None) -> Any:
    """softmax(k x)"""
    return store(out, leave_one_out(x, None, k).shares(None)[..., : x.shape[-1]])
