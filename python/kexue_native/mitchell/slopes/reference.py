"""Slopes of Mitchell's operations in NumPy, by the names and arguments of the kernels.

The operations are piecewise affine: a slope is a power of two, and its product with a number is
the number with another exponent, X(L(g) + k).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._arrays import Array, namespace
from .._bits import Parts, encode, scaled, signed, split
from .._formats import BY_NAME, FORMATS, Format
from ..logarithmic.reference import nan, rounded, store
from ..products.reference import in_format

_quiet = np.errstate(all="ignore")
_FAR = 4000


def _times(
    form: Format, g: Parts, k: Array, negative: Array, zero: Array, infinite: Array, none: Array
) -> Array:
    """Words of g times a slope: 2^k with a sign, or zero, infinite or none"""
    xp = namespace(k)
    negative = g.negative ^ negative
    k = xp.clip(k, -_FAR, _FAR)
    n = xp.clip((g.code >> form.fraction) + k, -1500, 1500)
    code = (n << form.fraction) + (g.code & ((1 << form.fraction) - 1))
    bits = encode(form, negative, code)
    none = none | g.nan | (g.zero & infinite) | (g.infinite & zero)
    bits = xp.where(g.zero | zero, signed(form, negative, zero ^ zero), bits)
    huge = xp.where(g.infinite | infinite, form.infinity, 0)
    bits = xp.where(g.infinite | infinite, signed(form, negative, huge), bits)
    return xp.where(none, form.word.type(nan(form)), bits)


def _fraction(p: Parts, form: Format) -> Array:
    return p.code & ((1 << form.fraction) - 1)


@_quiet
def mul_slope(
    g: Array, a: Array, b: Array, number: int = 0, offset: float = 0, out: Array | None = None
) -> Any:
    """g sgn(b) 2^(n_b + floor(x_a + x_b + c)): the slope in a"""
    form = FORMATS[int(number)]
    return store(out, _mul_slope(g, a, b, form, int(offset)))


def _mul_slope(g: Array, a: Array, b: Array, form: Format, offset: int) -> Array:
    m = form.fraction
    v, x, y = (split(w, form) for w in (g, a, b))
    k = (y.code >> m) + ((_fraction(x, form) + _fraction(y, form) + offset) >> m)
    none = x.nan | x.infinite | y.nan | y.infinite
    return _times(form, v, k, y.negative, y.zero, y.zero & False, none)


@_quiet
def div_slope_a(
    g: Array, a: Array, b: Array, number: int = 0, offset: float = 0, out: Array | None = None
) -> Any:
    """g sgn(b) 2^(floor(x_a - x_b + c) - n_b)"""
    form = FORMATS[int(number)]
    m = form.fraction
    v, x, y = (split(w, form) for w in (g, a, b))
    k = ((_fraction(x, form) - _fraction(y, form) + int(offset)) >> m) - (y.code >> m)
    none = x.nan | x.infinite | y.nan | y.infinite
    return store(out, _times(form, v, k, y.negative, y.zero & False, y.zero, none))


@_quiet
def div_slope_b(
    g: Array, a: Array, b: Array, number: int = 0, offset: float = 0, out: Array | None = None
) -> Any:
    """-g sgn(a) 2^(n_a - 2 n_b + floor(x_a - x_b + c))"""
    form = FORMATS[int(number)]
    m = form.fraction
    v, x, y = (split(w, form) for w in (g, a, b))
    k = (x.code >> m) - 2 * (y.code >> m)
    k = k + ((_fraction(x, form) - _fraction(y, form) + int(offset)) >> m)
    none = x.nan | x.infinite | y.nan | y.infinite | (x.zero & y.zero)
    return store(out, _times(form, v, k, ~x.negative, x.zero, y.zero & ~x.zero, none))


@_quiet
def log2_slope(g: Array, x: Array, number: int = 0, out: Array | None = None) -> Any:
    """g 2^-n"""
    form = FORMATS[int(number)]
    v, p = split(g, form), split(x, form)
    none = p.nan | (p.negative & ~p.zero)
    k = -(p.code >> form.fraction)
    return store(out, _times(form, v, k, p.nan & False, p.infinite, p.zero, none))


@_quiet
def exp2_slope(g: Array, x: Array, number: int = 0, out: Array | None = None) -> Any:
    """g 2^floor(x)"""
    form = FORMATS[int(number)]
    xp = namespace(x)
    v, p = split(g, form), split(x, form)
    value = in_format(x, form, BY_NAME["float64"]).view(np.float64)
    k = xp.floor(xp.clip(xp.where(p.regular, value, 0), -_FAR, _FAR)).astype(np.int64)
    below, above = p.infinite & p.negative, p.infinite & ~p.negative
    return store(out, _times(form, v, k, p.nan & False, below, above, p.nan))


@_quiet
def pow_slope(g: Array, x: Array, number: int = 0, p: float = 1.0, out: Array | None = None) -> Any:
    """g p 2^(floor(p L(x)) - n) with the signs of a power's slope; g p in float64"""
    form, wide = FORMATS[int(number)], BY_NAME["float64"]
    xp = namespace(x)
    v = split(x, form)
    value = in_format(g, form, wide).view(np.float64) * p
    factor = split(xp.asarray(value).view(np.uint64), wide)
    n = v.code >> form.fraction
    k = (scaled(form, v.code, p)[0] >> form.fraction) - n
    whole, odd = p % 1 == 0, p % 2 == 1
    flat = xp.asarray(p in (0.0, 1.0))
    small, large = (v.zero, v.infinite) if p > 1 else (v.infinite, v.zero)
    none = v.nan | (v.negative & ~v.zero & (not whole))
    none = none if p != 0 else v.nan & False
    negative = v.negative & (whole and not odd and p != 0)
    k = xp.where(v.regular, k, 0)
    bits = _times(wide, factor, k, negative, small & ~flat, large & ~flat, none)
    return store(out, rounded(bits.view(np.float64), form))


_CHUNK = 1 << 20


@_quiet
def slope_dot(
    a: Array,
    b: Array,
    g: Array,
    number: int = 1,
    accumulator: int = 1,
    offset: float = 0,
    out: Array | None = None,
) -> Any:
    """sum_j g_j sgn(b_j) 2^(n_bj + floor(x_a + x_bj + c)), in the accumulator's format"""
    form, acc = FORMATS[int(number)], FORMATS[int(accumulator)]
    xp = namespace(a)
    loop = np.broadcast_shapes(a.shape, b.shape[:-1], g.shape[:-1])
    n = b.shape[-1]
    a = xp.broadcast_to(a[..., None], (*loop, 1))
    b, g = (xp.broadcast_to(v, (*loop, n)) for v in (b, g))
    found = xp.empty(loop, form.word)
    rows = loop[0] if loop else 1
    step = max(1, _CHUNK * rows // max(b.size, 1))
    for i in range(0, rows, step):
        part = slice(i, i + step) if loop else ()
        x, y, z = (in_format(v[part], form, acc) for v in (a, b, g))
        terms = _mul_slope(z, x, y, acc, int(offset)).view(acc.dtype)
        total = xp.asarray(terms.sum(axis=-1, dtype=acc.dtype))
        found[part] = rounded(total.astype(np.float64), form)
    return store(out, found)
