"""Exponentiated gradient in NumPy, by the names and arguments of the kernels.

See `special.reductions.reference` for the conventions. Multipliers e^a are applied to weights by
their exponents, so nothing overflows or underflows but the result. A row is normalised relative to
its pivot, the entry of the largest log w - lr g: only differences of gradients take part, and
their product with lr keeps its rounding error.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..._arrays import Array, namespace, widen
from ...special.reductions.reference import store, total, two_difference, two_product

_quiet = np.errstate(all="ignore")
_inf = float("inf")
_nan = float("nan")
# ln 2 in two parts, the first so short that its product with an exponent is exact.
_LN2 = {
    53: (0.6931471803691238, 1.9082149292705877e-10),
    64: (0.6931471805599453, 2.3190468138462996e-17),
}


def multiplied(w: Array, a: Array, error: Any = 0.0, unit: Any = 1.0) -> Array:
    """(w / unit) e^(a + error), rounded about once; 0 where w is 0"""
    xp = namespace(w)
    head, tail = _LN2[64 if xp.finfo(w.dtype).nmant > 60 else 53]
    bounded = xp.clip(a, -40000.0, 40000.0)
    k = xp.rint(bounded / head)
    r = (bounded - k * head) - k * tail
    r = r + xp.where(xp.abs(a) <= 40000.0, error, 0.0)
    (fraction, exponent), (of_unit, unit_exponent) = xp.frexp(w), xp.frexp(unit + xp.zeros_like(w))
    scale = xp.where(xp.isfinite(k), k, 0).astype(np.int32) + exponent - unit_exponent
    value = xp.ldexp(fraction / of_unit * xp.exp(r), scale)
    value = xp.where(a == -_inf, w * 0, value)  # an infinite w has no limit there
    return xp.where((w == 0) & (a == a), 0.0, value)


def exponent(g: Array, lr: Array) -> tuple[Array, Array]:
    """-lr g with its rounding error; 0 for lr = 0 even if g is infinite"""
    xp = namespace(g)
    a, error = two_product(-lr, g)
    none = (lr == 0) & (g == g)
    return xp.where(none, 0.0, a), xp.where(none, 0.0, error)


@_quiet
def egu_step(w: Array, g: Array, lr: Array, signed: bool = False, out: Array | None = None) -> Any:
    """w e^(-lr g), or w e^(-lr g sign(w))"""
    xp = namespace(w)
    w, g, lr = (widen(x) for x in (w, g, lr))
    a, error = exponent(g, lr)
    if signed:
        down = w < 0
        value = multiplied(xp.abs(w), xp.where(down, -a, a), xp.where(down, -error, error))
        return store(out, xp.where(down, -value, value))
    return store(out, xp.where(w < 0, _nan, multiplied(w, a, error)))


@_quiet
def egu_pm_step(
    wp: Array,
    wm: Array,
    g: Array,
    lr: Array,
    out_p: Array | None = None,
    out_m: Array | None = None,
) -> Any:
    """wp e^(-lr g), wm e^(+lr g)"""
    up, down = egu_step(wp, g, lr), egu_step(wm, -widen(g), lr)
    return (up, down) if out_p is None else store(out_p, up) + store(out_m, down)


@_quiet
def hypentropy_step(
    w: Array, g: Array, lr: Array, beta: float = 1.0, out: Array | None = None
) -> Any:
    """beta sinh(asinh(w / beta) - lr g) = s (|w| e^-b - delta sinh b), b = s lr g"""
    xp = namespace(w)
    w, g, lr = (widen(x) for x in (w, g, lr))
    a, error = exponent(g, lr)
    sign = xp.where(w < 0, -1.0, 1.0)
    a, error = sign * a, sign * error  # -b
    size, a, error = xp.broadcast_arrays(xp.abs(w), a, error)
    b = xp.full_like(size, beta)
    half = size / 2 + xp.hypot(size / 2, b / 2)  # T / 2
    delta = b / 2 * (b / half)
    near = xp.clip(a, -1.0, 1.0)
    small = delta * (xp.sinh(near) + error * xp.cosh(near))
    large = multiplied(delta / 2, a, error) - multiplied(delta / 2, -a, -error)
    value = multiplied(size, a, error) + xp.where(xp.abs(a) < 1, small, large)
    value = xp.where(xp.isinf(a), a, value)
    value = xp.where((lr == 0) & (a == a), size, value)
    return store(out, xp.where(xp.isnan(w) | xp.isnan(a), _nan, sign * value))


class Terms(NamedTuple):
    """Weights of rows after a step, relative to the pivot's, and what else is known of it."""

    term: Array  # (w_i / w_k) e^(-lr (g_i - g_k))
    pivot: Array  # True at k
    undefined: Array  # rows that are NaN, (..., 1)

    @property
    def mass(self) -> Array:
        return total(self.term)


def row_of(lr: Array) -> Array:
    return widen(lr)[..., None]


def downhill(g: Array, lr: Array) -> tuple[Array, Array]:
    """g and lr with lr >= 0, g = 0 where lr = 0"""
    xp = namespace(g)
    g = xp.where(lr < 0, -g, xp.where((lr == 0) & (g == g), 0.0, g))
    return g, xp.abs(lr)


def pivot_of(log_w: Array, g: Array, rate: Array) -> tuple[Array, Array, Array]:
    """Where log w - rate (g - min g) is largest, of weights above 0; and rows without such"""
    xp = namespace(g)
    active = log_w > -_inf
    least = xp.min(xp.where(active, g, _inf), axis=-1, keepdims=True)
    above = xp.where(g == least, 0.0, g - least)
    z = xp.where(active, log_w - xp.where(above == _inf, _inf, rate * above), -_inf)
    k = xp.argmax(xp.where(z == z, z, _inf), axis=-1)[..., None]
    none = (least == _inf) & xp.any(active, axis=-1, keepdims=True)
    return k, xp.arange(g.shape[-1]) == k, none


def fall(g: Array, least: Array, rate: Array) -> tuple[Array, Array]:
    """-rate (g - least) with its rounding error; in halves, whose difference cannot overflow"""
    xp = namespace(g)
    half, lost = two_difference(g / 2, least / 2)
    a, error = two_product(-rate, half)
    a = xp.where(g == least, 0.0, xp.where(xp.isinf(half) & (rate > 0), -half, 2 * a))
    return a, xp.where(xp.isfinite(a), 2 * (error - rate * lost), 0.0)


def terms(w: Array, g: Array, lr: Array) -> Terms:
    """The step of rows of wide numbers; lr (..., 1)"""
    xp = namespace(w)
    w, g = xp.broadcast_arrays(w, g)
    g, rate = downhill(g, lr)
    k, pivot, none = pivot_of(xp.where(w >= 0, xp.log(w), _nan), g, rate)
    best, least = (xp.take_along_axis(x, k, axis=-1) for x in (w, g))
    a, error = fall(g, least, rate)
    value = multiplied(w, a, error, xp.where(best > 0, best, 1.0))
    wrong = ~((w >= 0) & (w < _inf) & (g == g))
    undefined = none | xp.any(wrong, axis=-1, keepdims=True) | ~(rate < _inf)
    return Terms(value, pivot, undefined)


@_quiet
def eg_step(
    w: Array,
    g: Array,
    lr: Array,
    mass: Array,
    mix: float = 0.0,
    keep: bool = False,
    out: Array | None = None,
) -> Any:
    """(1 - mix) m p_i / sum p + mix m / n, p_i = w_i e^(-lr g_i); keep: m = sum w"""
    xp = namespace(w)
    if w.shape[-1] == 0:
        return store(out, widen(w) + widen(g))
    rows = terms(widen(w), widen(g), row_of(lr))
    n, m = rows.term.shape[-1], row_of(mass)
    mix = mix if n > 1 else 0.0
    if keep:
        m = total(widen(w) + 0 * rows.term)
    value = (1 - mix) * (m * (rows.term / rows.mass)) + mix * m / n
    if keep:
        nothing = xp.all(widen(w) == 0, axis=-1, keepdims=True) & (rows.mass == 0)
        value = xp.where(nothing, 0.0, value)
    undefined = rows.undefined | ~((m >= 0) & (m < _inf))
    return store(out, xp.where(undefined, _nan, value))


@_quiet
def eg_step_log(logw: Array, g: Array, lr: Array, out: Array | None = None) -> Any:
    """z - log sum e^z, z = logw - lr g"""
    xp = namespace(logw)
    if logw.shape[-1] == 0:
        return store(out, widen(logw) + widen(g))
    logw, g = xp.broadcast_arrays(widen(logw), widen(g))
    g, rate = downhill(g, row_of(lr))
    k, pivot, none = pivot_of(logw, g, rate)
    best, least = (xp.take_along_axis(x, k, axis=-1) for x in (logw, g))
    a, error = fall(g, least, rate)
    gap, lost = two_difference(logw, best)
    d, rest = two_difference(gap, -a)
    d, rest = xp.where(logw == -_inf, -_inf, d), rest + lost + error
    term = xp.exp(d)
    others = total(xp.where(pivot | (term == 0), 0.0, term * (1 + rest)))
    wrong = ~((logw < _inf) & (g == g))
    undefined = none | (best == -_inf) | xp.any(wrong, axis=-1, keepdims=True) | ~(rate < _inf)
    return store(out, xp.where(undefined, _nan, d + (rest - xp.log1p(others))))


@_quiet
def eg_pm_step(
    wp: Array,
    wm: Array,
    g: Array,
    lr: Array,
    mass: Array,
    kw_scale: bool = False,
    out_p: Array | None = None,
    out_m: Array | None = None,
) -> Any:
    """`eg_step` of the 2 n weights (wp, wm) with the gradients (g, -g)"""
    xp = namespace(wp)
    wp, wm, g = xp.broadcast_arrays(widen(wp), widen(wm), widen(g))
    n = g.shape[-1]
    rate = widen(lr) * widen(mass) if kw_scale else lr
    both = xp.concatenate([wp, wm], axis=-1), xp.concatenate([g, -g], axis=-1)
    both = eg_step(*both, rate, mass)
    if out_p is None:
        return both[..., :n], both[..., n:]
    return store(out_p, both[..., :n]) + store(out_m, both[..., n:])


@_quiet
def eg_pm_init(
    w: Array, mass: Array, out_p: Array | None = None, out_m: Array | None = None
) -> Any:
    """max(w, 0) and max(-w, 0), each plus (mass - sum |w|) / (2 n)"""
    xp = namespace(w)
    unit = np.finfo(np.float32 if w.dtype.itemsize < 8 else np.float64).eps / 2
    w, m = widen(w), row_of(mass)
    size = total(xp.abs(w)) if w.shape[-1] else m
    invalid = ~(size <= m * (1 + 8 * unit))
    more = xp.maximum(m - size, 0) / (2 * max(w.shape[-1], 1))
    more = xp.where(invalid, _nan, more)
    up, down = xp.maximum(w, 0) + more, xp.maximum(-w, 0) + more
    if out_p is None:
        return up, down
    store(out_p, up)
    return store(out_m, down, invalid)


@_quiet
def eg_step_vjp(
    v: Array,
    w: Array,
    g: Array,
    lr: Array,
    mass: Array,
    dw: Array | None = None,
    dg: Array | None = None,
    dlr: Array | None = None,
) -> Any:
    """y_i / w_i c_i, -lr y_i c_i and -sum g y c, c_i = v_i - <v, y> / mass, y = eg_step(w, g, lr)

    v and g enter as differences to their values at the pivot.
    """
    xp = namespace(w)
    v, w, g = xp.broadcast_arrays(widen(v), widen(w), widen(g))
    if w.shape[-1] == 0:
        results = v, v, v.sum(axis=-1)
    else:
        rows = terms(w, g, row_of(lr))
        given, rate = downhill(g, row_of(lr))
        m, s = row_of(mass), rows.mass
        h_v = v - total(xp.where(rows.pivot, v, 0.0))
        zero = rows.term == 0
        c = h_v - total(xp.where(zero, 0.0, rows.term * h_v)) / s
        y = m * (rows.term / s)
        least = total(xp.where(rows.pivot, g, 0.0))
        h_g = xp.where(zero, 0.0, g - least)
        c = xp.where(xp.isnan(v).any(axis=-1, keepdims=True), _nan, c)
        a, error = fall(given, total(xp.where(rows.pivot, given, 0.0)), rate)
        best = total(xp.where(rows.pivot, w, 0.0))
        per_weight = m / s * multiplied(xp.ones_like(w), a, error, xp.where(best > 0, best, 1.0))
        slope = total(y * c * h_g) - total(y * c) * (total(rows.term * h_g) / s)
        results = (
            xp.where(w == 0, 0.0, per_weight * c),
            -row_of(lr) * (y * c),
            -slope[..., 0],
        )
        bad = rows.undefined | ~((m >= 0) & (m < _inf)) | (s == 0)
        results = (
            *(xp.where(bad, _nan, r) for r in results[:2]),
            xp.where(bad[..., 0], _nan, results[2]),
        )
    if dw is None:
        return results
    return store(dw, results[0]) + store(dg, results[1]) + store(dlr, results[2])
