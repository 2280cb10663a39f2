"""The elementwise functions in NumPy, by the names and arguments of the kernels.

Arrays are words (see `_formats.operands`), `number` names their format, `cut` is k for fractions
cut to k bits, k + 1/2 for half a unit on top, -1 for whole ones. All is integer arithmetic: the
definition of each operation, X of something that is linear in L, is evaluated exactly.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._arrays import Array, namespace
from .._bits import (
    Integers,
    Parts,
    Wide,
    added,
    antilogarithm,
    encode,
    iterated_product,
    mitchell_product,
    negated,
    scaled,
    shift_left,
    shift_right,
    signed,
    split,
    unsigned,
)
from .._formats import FORMATS, Format

_quiet = np.errstate(all="ignore")


def nan(form: Format) -> int:
    return form.infinity | 1 << (form.fraction - 1)


@_quiet
def mul(
    a: Array,
    b: Array,
    number: int = 0,
    offset: float = 0,
    iterations: int = 0,
    ilm: bool = False,
    cut: float = -1,
    flush: bool = False,
    wrap: bool = False,
    out: Array | None = None,
    low: Array | None = None,
) -> Any:
    """X(L(a) + L(b) + c), or the iterated product; `out` with `low` has the high words"""
    form = FORMATS[int(number)]
    if form.floating:
        return store(out, float_product(a, b, form, int(offset), iterations, ilm, cut, flush))
    negative, found = integer_product(a, b, form, int(offset), int(iterations), ilm, cut)
    if low is None and not wrap:
        found = _saturated(found, negative, form.wider)
    found = with_sign(found, negative)
    if low is None:
        return store(out, found.low.astype(form.wider.word))
    low[...] = found.low
    return store(out, found.high)


def integer_product(
    a: Array, b: Array, form: Format, offset: int, iterations: int, ilm: bool, cut: float
) -> tuple[Array, Wide]:
    """Sign and magnitude, whatever its size"""
    x, y = Integers.of(a, form), Integers.of(b, form)
    if cut >= 0:
        x, y = (v.truncated(int(cut), cut % 1 > 0) for v in (x, y))
    if iterations or ilm:
        found = iterated_product(x, y, iterations, ilm)
    else:
        found = mitchell_product(x, y, offset << (64 - form.fraction))
    return x.negative ^ y.negative, found


def with_sign(x: Wide, negative: Array) -> Wide:
    """Two's complement"""
    xp = namespace(x.low)
    minus = Wide(~x.high, ~x.low).plus(Wide(x.high ^ x.high, np.uint64(1) + (x.low ^ x.low)))
    return Wide(xp.where(negative, minus.high, x.high), xp.where(negative, minus.low, x.low))


def _saturated(x: Wide, negative: Array, form: Format) -> Wide:
    xp = namespace(x.low)
    most = (1 << form.width) - 1
    limit = np.uint64(most >> 1) + unsigned(negative) if form.signed else np.uint64(most)
    return Wide(x.high, xp.where((x.high != 0) | (x.low > limit), limit, x.low))


def float_product(
    a: Array,
    b: Array,
    form: Format,
    offset: int = 0,
    iterations: int = 0,
    ilm: bool = False,
    cut: float = -1,
    flush: bool = False,
) -> Array:
    x, y = split(a, form, flush), split(b, form, flush)
    i, j = (_truncated(v.code, form, cut) for v in (x, y))
    negative = x.negative ^ y.negative
    if iterations or ilm:
        bits = _iterated(form, negative, i, j, int(iterations), ilm, flush)
    else:
        bits = encode(form, negative, added(form, i, j) + offset, flush=flush)
    none = (x.zero & y.infinite) | (x.infinite & y.zero) | x.nan | y.nan
    return _special(form, bits, negative, x.zero | y.zero, x.infinite | y.infinite, none)


def _truncated(code: Array, form: Format, cut: float) -> Array:
    if cut < 0:
        return code
    dropped = form.fraction - int(cut)
    code = (code >> dropped) << dropped
    return code + (1 << (dropped - 1)) if cut % 1 else code


def _iterated(
    form: Format, negative: Array, i: Array, j: Array, iterations: int, ilm: bool, flush: bool
) -> Array:
    """The product of the significands 2^M (1 + x), as of integers, and one rounding"""
    m, xp = form.fraction, namespace(i)
    a, b = (
        Integers.of_magnitude(negative, unsigned((v & ((1 << m) - 1)) + (1 << m))) for v in (i, j)
    )
    top, rest = iterated_product(a, b, iterations, ilm).minus_top()
    n = xp.clip(top + (i >> m) + (j >> m) - 2 * m, -1500, 1500)  # beyond every exponent
    kept = rest.right(xp.asarray(128 - m))
    below = rest.left(xp.asarray(m))
    half = (below.high >> np.uint64(63)).astype(np.int64)
    more = ((below.high << np.uint64(1)) | below.low) != 0
    return encode(form, negative, (n << m) + kept.low.astype(np.int64), half, more, flush)


def _special(
    form: Format, bits: Array, negative: Array, zero: Array, infinite: Array, none: Array
) -> Array:
    """Words where the result is zero, infinite or none instead"""
    xp = namespace(bits)
    bits = xp.where(zero, signed(form, negative, zero ^ zero), bits)
    bits = xp.where(infinite, signed(form, negative, xp.where(infinite, form.infinity, 0)), bits)
    return xp.where(none, form.word.type(nan(form)), bits)


@_quiet
def div(
    a: Array,
    b: Array,
    number: int = 0,
    offset: float = 0,
    flush: bool = False,
    out: Array | None = None,
) -> Any:
    """X(L(a) - L(b) + c); of integers the floor of the magnitude, with the sign"""
    form = FORMATS[int(number)]
    if not form.floating:
        return store(out, _integer_quotient(a, b, form, int(offset)))
    x, y = split(a, form, flush), split(b, form, flush)
    negative = x.negative ^ y.negative
    bits = encode(form, negative, added(form, x.code, -y.code) + int(offset), flush=flush)
    none = (x.zero & y.zero) | (x.infinite & y.infinite) | x.nan | y.nan
    return store(
        out, _special(form, bits, negative, x.zero | y.infinite, x.infinite | y.zero, none)
    )


def _integer_quotient(a: Array, b: Array, form: Format, offset: int) -> Array:
    xp = namespace(a)
    x, y = Integers.of(a, form), Integers.of(b, form)
    difference = x.fraction - y.fraction
    borrow = (difference > x.fraction).astype(np.int64)
    shifted = difference - np.uint64(-offset << (64 - form.fraction))
    borrow = borrow + (shifted > difference)
    found = antilogarithm(x.top - y.top - borrow, shifted, rounds=False)
    found = found.where(~(x.zero | y.zero))
    negative = x.negative ^ y.negative
    if form.signed:  # the least number by -1
        most = np.uint64((1 << (form.width - 1)) - 1) + unsigned(negative)
        found = Wide(found.high, xp.minimum(found.low, most))
    return with_sign(found, negative).low.astype(form.word)


@_quiet
def log2(x: Array, number: int = 0, flush: bool = False, out: Array | None = None) -> Any:
    """L(x), rounded once; of integers to float64"""
    form = FORMATS[int(number)]
    xp = namespace(x)
    if not form.floating:
        v = Integers.of(x, form)
        # k + fraction as an integer of 64 bits; the last says whether there are more
        fixed = (unsigned(v.top) << np.uint64(58)) | (v.fraction >> np.uint64(6))
        fixed = fixed | unsigned(v.fraction & np.uint64(63) != 0)
        value = fixed.astype(np.float64) * 2.0**-58
        value = xp.where(v.zero, -np.inf, xp.where(v.negative, np.nan, value))
        return store(out, value.view(np.uint64))
    p = split(x, form, flush)
    value = p.code.astype(np.float64) * 2.0**-form.fraction
    value = xp.where(p.infinite, np.inf, value)
    value = xp.where(p.zero, -np.inf, value)
    value = xp.where(p.nan | (p.negative & ~p.zero), np.nan, value)
    return store(out, rounded(value, form))


def rounded(value: Array, form: Format) -> Array:
    """Words of float64 numbers, rounded to the format"""
    if form.name != "bfloat16":
        return value.astype(form.dtype).view(form.word)
    bits = value.astype(np.float32).view(np.uint32)  # exact, for logarithms of bfloat16
    up = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    words = ((bits + up) >> np.uint32(16)).astype(np.uint16)
    return namespace(value).where(value != value, np.uint16(nan(form)), words)


@_quiet
def exp2(x: Array, number: int = 0, flush: bool = False, out: Array | None = None) -> Any:
    """X(x), rounded once"""
    form = FORMATS[int(number)]
    xp, m = namespace(x), form.fraction
    p = split(x, form, flush)
    n = p.code >> m
    significand = unsigned((p.code & ((1 << m) - 1)) + (1 << m))
    up, down = xp.clip(n, 0, 10), xp.clip(-n, 0, 63)
    whole = shift_right(shift_left(significand, up), down).astype(np.int64)
    rest = shift_left(significand, 64 - down)
    half = (rest >> np.uint64(63)).astype(np.int64)
    more = (rest << np.uint64(1)) != 0
    code = xp.where(n > 10, 2000 << m, whole)  # beyond every exponent
    below = negated(code, half, more)
    code, half, more = (
        xp.where(p.negative, b, v) for b, v in zip(below, (code, half, more), strict=True)
    )
    code = xp.where(p.zero, 0, code)
    bits = encode(form, p.nan & False, code, xp.where(p.zero, 0, half), more & ~p.zero, flush)
    over = p.infinite & ~p.negative
    return store(out, _special(form, bits, p.nan & False, p.infinite & p.negative, over, p.nan))


def _power(x: Array, form: Format, p: float, flush: bool, negative: Any) -> tuple[Parts, Array]:
    """X(p L(|x|)) with a sign for finite numbers that are not 0"""
    parts = split(x, form, flush)
    return parts, encode(form, negative(parts), *scaled(form, parts.code, p), flush)


@_quiet
def square(x: Array, number: int = 0, flush: bool = False, out: Array | None = None) -> Any:
    """X(2 L(x))"""
    form = FORMATS[int(number)]
    p, bits = _power(x, form, 2.0, flush, _plus)
    return store(out, _special(form, bits, _plus(p), p.zero, p.infinite, p.nan))


@_quiet
def sqrt(x: Array, number: int = 0, flush: bool = False, out: Array | None = None) -> Any:
    """X(L(x) / 2)"""
    form = FORMATS[int(number)]
    p, bits = _power(x, form, 0.5, flush, _plus)
    none = p.nan | (p.negative & ~p.zero)
    return store(out, _special(form, bits, p.negative, p.zero, p.infinite, none))


@_quiet
def rsqrt(x: Array, number: int = 0, flush: bool = False, out: Array | None = None) -> Any:
    """X(-L(x) / 2)"""
    form = FORMATS[int(number)]
    p, bits = _power(x, form, -0.5, flush, _plus)
    none = p.nan | (p.negative & ~p.zero)
    return store(out, _special(form, bits, p.negative, p.infinite, p.zero, none))


@_quiet
def reciprocal(x: Array, number: int = 0, flush: bool = False, out: Array | None = None) -> Any:
    """X(-L(x))"""
    form = FORMATS[int(number)]
    p, bits = _power(x, form, -1.0, flush, lambda parts: parts.negative)
    return store(out, _special(form, bits, p.negative, p.infinite, p.zero, p.nan))


@_quiet
def pow(
    x: Array, number: int = 0, p: float = 1.0, flush: bool = False, out: Array | None = None
) -> Any:
    """X(p L(x)) with the signs of IEEE 754's power"""
    form = FORMATS[int(number)]
    whole, odd = p % 1 == 0, p % 2 == 1
    parts, bits = _power(x, form, p, flush, lambda v: v.negative & odd)
    zero, infinite = (parts.zero, parts.infinite) if p > 0 else (parts.infinite, parts.zero)
    none = parts.nan | (parts.negative & ~parts.zero & (not whole))
    if p == 0:
        zero = infinite = none = parts.nan & False
    return store(out, _special(form, bits, parts.negative & odd, zero, infinite, none))


def _plus(parts: Parts) -> Array:
    return parts.nan & False


def store(out: Array | None, value: Array) -> Any:
    if out is None:
        return value
    out[...] = value
    return 0
