"""Words taken apart and put together, in NumPy or CuPy: what the references are made of.

A finite positive number 2^n (1 + x) has the code (n + x) 2^M, an integer: its Mitchell logarithm in
units of the last place. `encode` is the inverse, and the only place where anything is rounded.
Integers of 128 bits are pairs (high, low).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .._arrays import Array, namespace
from ._formats import Format

_LOW = 0xFFFFFFFF


class Parts(NamedTuple):
    """Words taken apart."""

    negative: Array
    code: Array  # of the magnitude; 0 where it is not finite or zero
    zero: Array
    infinite: Array
    nan: Array

    @property
    def regular(self) -> Array:
        return ~(self.zero | self.infinite | self.nan)


def unsigned(x: Array) -> Array:
    return x.astype(np.uint64)


def top_bit(x: Array) -> Array:
    """Position of the leading one of uint64, as int64; -1 for 0"""
    xp = namespace(x)
    high, low = (x >> np.uint64(32)).astype(np.float64), (x & np.uint64(_LOW)).astype(np.float64)
    found = xp.where(high > 0, xp.frexp(high)[1] + 32, xp.frexp(low)[1])
    return found.astype(np.int64) - 1


def shift_left(x: Array, by: Array) -> Array:
    """x << by for 0 <= by, 0 once all bits are out"""
    xp = namespace(x)
    by = unsigned(xp.asarray(by))
    return xp.where(by < 64, x << xp.minimum(by, np.uint64(63)), np.uint64(0))


def shift_right(x: Array, by: Array) -> Array:
    xp = namespace(x)
    by = unsigned(xp.asarray(by))
    return xp.where(by < 64, x >> xp.minimum(by, np.uint64(63)), np.uint64(0))


class Wide(NamedTuple):
    """Unsigned integers of 128 bits"""

    high: Array
    low: Array

    def plus(self, other: Wide) -> Wide:
        low = self.low + other.low
        return Wide(self.high + other.high + unsigned(low < self.low), low)

    def left(self, by: Array) -> Wide:
        """Bits that do not fit are lost."""
        xp = namespace(self.low)
        near = by < 64
        high = shift_left(self.high, by) | shift_right(self.low, xp.maximum(64 - by, 0))
        far = shift_left(self.low, xp.maximum(by - 64, 0))
        return Wide(xp.where(near, high, far), shift_left(self.low, by))

    def right(self, by: Array) -> Wide:
        xp = namespace(self.low)
        near = by < 64
        low = shift_right(self.low, by) | shift_left(self.high, xp.maximum(64 - by, 0))
        far = shift_right(self.high, xp.maximum(by - 64, 0))
        return Wide(shift_right(self.high, by), xp.where(near, low, far))

    def minus_top(self) -> tuple[Array, Wide]:
        """Position of the leading one, and what follows it, left-aligned; 1 for 0"""
        xp = namespace(self.low)
        k = xp.where(self.high > 0, top_bit(self.high) + 64, top_bit(self.low))
        k = xp.maximum(k, 0)
        return k, self.left(128 - k)

    def where(self, kept: Array) -> Wide:
        """0 elsewhere"""
        xp = namespace(self.low)
        none = np.uint64(0)
        return Wide(xp.where(kept, self.high, none), xp.where(kept, self.low, none))

    def some(self) -> Array:
        return (self.high | self.low) != 0


def product(x: Array, y: Array) -> Wide:
    """x y of uint64"""
    half, low = np.uint64(32), np.uint64(_LOW)
    x0, x1, y0, y1 = x & low, x >> half, y & low, y >> half
    cross = x1 * y0 + (x0 * y0 >> half)
    middle = x0 * y1 + (cross & low)
    return Wide(x1 * y1 + (cross >> half) + (middle >> half), x * y)


def split(x: Array, form: Format, flush: bool = False) -> Parts:
    """Words of floating-point numbers; with `flush` subnormal ones are zeros"""
    xp = namespace(x)
    m, sign = form.fraction, 1 << (form.width - 1)
    negative = (x & x.dtype.type(sign)) != 0
    u = (x & x.dtype.type(sign - 1)).astype(np.int64)
    subnormal = u < (1 << m)
    top = xp.maximum(top_bit(unsigned(u)), 0)
    # u 2^(1 - B - M), normalised
    tiny = ((top + (1 - form.bias - m)) << m) + (u << xp.where(subnormal, m - top, 0)) - (1 << m)
    code = xp.where(subnormal, tiny, u - (form.bias << m))
    zero = subnormal if flush else u == 0
    regular = ~zero & (u < form.infinity)
    return Parts(
        negative,
        xp.where(regular, code, 0),
        zero,
        u == form.infinity,
        u > form.infinity,
    )


def encode(
    form: Format, negative: Array, code: Array, half: Any = 0, more: Any = 0, flush: bool = False
) -> Array:
    """Words of X((code + half / 2 + something less if `more`) 2^-M), rounded once, half to even"""
    xp = namespace(code)
    m, least = form.fraction, 1 - form.bias
    n = code >> m
    significand = unsigned((((code & ((1 << m) - 1)) + (1 << m)) << 1) + half)
    drop = xp.minimum(1 + xp.maximum(least - n, 0), 63)
    kept = significand >> unsigned(drop)
    rest = significand - (kept << unsigned(drop))
    middle = np.uint64(1) << unsigned(drop - 1)
    odd = (kept & np.uint64(1)) != 0
    up = (rest > middle) | ((rest == middle) & (odd | (xp.asarray(more) != 0)))
    kept = (kept + unsigned(up)).astype(np.int64)
    biased = xp.clip(n, least, form.bias + 1) + (form.bias - 1)
    bits = xp.minimum((biased << m) + kept, form.infinity)
    bits = xp.where(n > form.bias, form.infinity, bits)
    if flush:
        bits = xp.where(n < least, 0, bits)
    return signed(form, negative, bits)


def signed(form: Format, negative: Array, bits: Array) -> Array:
    """Words of a sign and a magnitude"""
    sign = np.uint64(1 << (form.width - 1))
    xp = namespace(bits)
    return (unsigned(xp.asarray(bits)) | xp.where(negative, sign, np.uint64(0))).astype(form.word)


def negated(code: Array, half: Array, more: Array) -> tuple[Array, Array, Array]:
    """-(code + half / 2 + something if `more`) in the same shape"""
    xp = namespace(code)
    inexact = (half != 0) | more
    up = inexact & ((half == 0) | ~more)
    return xp.where(inexact, -code - 1, -code), up.astype(np.int64), more


def added(form: Format, i: Array, j: Array) -> Array:
    """i + j of codes; what is far out of range stays there"""
    xp = namespace(i)
    limit = 1500 << form.fraction
    halves = (i >> 1) + (j >> 1)
    far = xp.abs(halves) > limit // 2
    return xp.where(far, xp.where(halves > 0, limit, -limit), i + j)


def ratio_of_two(value: float) -> tuple[int, int]:
    """|value| = m 2^e, m an integer below 2^53"""
    fraction, exponent = np.frexp(abs(value))
    return int(float(fraction) * 2**53), int(exponent) - 53


def scaled(form: Format, code: Array, p: float) -> tuple[Array, Array, Array]:
    """p times a code: the floor, whether half a unit follows, and whether more does"""
    xp = namespace(code)
    m, e = ratio_of_two(p)
    wide = product(unsigned(xp.abs(code)), xp.asarray(np.uint64(m)))
    down, up = xp.asarray(min(max(-e, 0), 120)), xp.asarray(min(max(e, 0), 64))
    whole, rest = wide.right(down).left(up), wide.left(128 - down)
    limit = np.uint64(2000 << form.fraction)
    lost = (up > 0) & (wide.minus_top()[0] + up > 100)
    far = wide.some() & (lost | (whole.high != 0) | (whole.low > limit))
    floor = xp.where(far, limit, whole.low).astype(np.int64)
    half = (rest.high >> np.uint64(63)).astype(np.int64)
    more = ((rest.high << np.uint64(1)) | rest.low) != 0
    minus = (code < 0) != (p < 0)
    below = negated(floor, half, more)
    return (
        xp.where(minus, below[0], floor),
        xp.where(minus, below[1], half),
        xp.where(minus, below[2], more),
    )


class Integers(NamedTuple):
    """Integers taken apart: the position of the leading one, and what follows, left-aligned"""

    negative: Array
    magnitude: Array
    zero: Array
    top: Array
    fraction: Array

    @classmethod
    def of(cls, x: Array, form: Format) -> Integers:
        xp = namespace(x)
        wide = unsigned(x)
        sign = np.uint64(1 << (form.width - 1))
        negative = (wide & sign != 0) if form.signed else wide != wide
        ones = np.uint64((1 << form.width) - 1)
        magnitude = xp.where(negative, (~wide + np.uint64(1)) & ones, wide)
        return cls.of_magnitude(negative, magnitude)

    @classmethod
    def of_magnitude(cls, negative: Array, magnitude: Array) -> Integers:
        xp = namespace(magnitude)
        zero = magnitude == 0
        top = xp.maximum(top_bit(magnitude), 0)
        return cls(negative, magnitude, zero, top, shift_left(magnitude, 64 - top))

    def truncated(self, bits: int, half: bool) -> Integers:
        """The fraction cut to its first bits, half a unit of which replaces what was dropped"""
        xp = namespace(self.top)
        drop = unsigned(xp.maximum(self.top - bits, 0))
        cut = (self.magnitude >> drop) << drop
        if half:
            cut = cut | ((np.uint64(1) << drop) >> np.uint64(1))
        return Integers.of_magnitude(self.negative, xp.where(self.zero, self.magnitude, cut))


def antilogarithm(top: Array, fraction: Array, rounds: bool) -> Wide:
    """2^top (1 + fraction / 2^64), rounded half to even or down; 0 for negative top"""
    xp = namespace(fraction)
    at = xp.maximum(top, 0)
    none = fraction ^ fraction
    whole = Wide(none, none + np.uint64(1)).left(at).plus(_upper(fraction, at))
    rest = xp.where(at < 64, shift_left(fraction, at), np.uint64(0))
    middle = np.uint64(1 << 63)
    up = (rest > middle) | ((rest == middle) & (whole.low & np.uint64(1) != 0))
    if rounds:
        whole = whole.plus(Wide(none, unsigned(up)))
    return whole.where(top >= 0)


def _upper(fraction: Array, by: Array) -> Wide:
    """fraction 2^(by - 64), without what is below 1"""
    xp = namespace(fraction)
    none = fraction ^ fraction
    far = Wide(none, fraction).left(xp.maximum(by - 64, 0))
    near = shift_right(fraction, xp.maximum(64 - by, 0))
    return Wide(xp.where(by >= 64, far.high, none), xp.where(by >= 64, far.low, near))


def mitchell_product(a: Integers, b: Integers, offset: int = 0) -> Wide:
    """X(L(a) + L(b) + offset 2^-64) of magnitudes, rounded to an integer; 0 where one is 0"""
    xp = namespace(a.fraction)
    sum_ = a.fraction + b.fraction
    carry = (sum_ < a.fraction).astype(np.int64)
    shifted = sum_ + np.uint64(offset)
    carry = carry + (shifted < sum_)
    top = a.top + b.top + carry
    found = antilogarithm(top, shifted, rounds=True)
    beyond = top > 127  # with an offset only
    ones = np.uint64(2**64 - 1)
    found = Wide(xp.where(beyond, ones, found.high), xp.where(beyond, ones, found.low))
    return found.where(~(a.zero | b.zero))


def iterated_product(a: Integers, b: Integers, iterations: int, ilm: bool) -> Wide:
    """P_j(a, b) = P_0(a, b) + P_(j-1)(the factors of the residual)"""
    xp = namespace(a.fraction)
    none = a.magnitude * b.magnitude * np.uint64(0)
    total = Wide(none, none)
    one = np.uint64(1)
    for _ in range(iterations + 1):
        zero = a.zero | b.zero
        first, second = one << unsigned(a.top), one << unsigned(b.top)
        rest_a, rest_b = a.magnitude - first, b.magnitude - second
        if ilm:
            # 2^(k1 + k2) + r1 2^k2 + r2 2^k1
            part = Wide(none, first).left(b.top).plus(Wide(none, rest_a + none).left(b.top))
            part = part.plus(Wide(none, rest_b + none).left(a.top))
            part = part.where(~zero)
        else:
            part = mitchell_product(a, b)
            carry = a.fraction + b.fraction < a.fraction
            # the sum of the fractions is 1 or more
            rest_a = xp.where(carry, first - rest_a, rest_a)
            rest_b = xp.where(carry, second - rest_b, rest_b)
        total = total.plus(part)
        a = Integers.of_magnitude(a.negative, xp.where(zero, none, rest_a))
        b = Integers.of_magnitude(b.negative, xp.where(zero, none, rest_b))
    return total
