"""Mitchell's operations on exact rational numbers: what the tests hold the package to.

Nothing here looks at bits but `value` and `Format.rounded`, which say what a word means.
"""

from fractions import Fraction
from math import floor
from typing import NamedTuple

import numpy as np

INF, NAN = "inf", "nan"


class Format(NamedTuple):
    name: str
    word: str
    width: int
    fraction: int
    bias: int

    @property
    def dtype(self):
        if self.name == "bfloat16":
            import ml_dtypes

            return np.dtype(ml_dtypes.bfloat16)
        return np.dtype(self.name)

    def value(self, word):
        """(sign, magnitude): a Fraction, "inf" or "nan"."""
        word = int(word)
        sign = -1 if word >> (self.width - 1) else 1
        exponent = (word >> self.fraction) & (2 * self.bias + 1)
        x = word & ((1 << self.fraction) - 1)
        if exponent == 2 * self.bias + 1:
            return sign, NAN if x else INF
        if exponent == 0:
            return sign, Fraction(x) * two(1 - self.bias - self.fraction)
        significand = Fraction(x + (1 << self.fraction))
        return sign, significand * two(exponent - self.bias - self.fraction)

    def word_of(self, sign, magnitude, flush=False):
        """The nearest number's word, ties to the even one."""
        top = 1 << (self.width - 1) if sign < 0 else 0
        infinity = (2 * self.bias + 1) << self.fraction
        if magnitude == NAN:
            return None
        if magnitude == INF:
            return top | infinity
        if magnitude == 0 or (flush and magnitude < two(1 - self.bias)):
            return top
        n = max(exponent_of(magnitude), 1 - self.bias)
        step = two(n - self.fraction)
        whole = nearest_even(magnitude / step)  # in [0, 2^(M + 1)]
        if whole * step >= two(self.bias + 1):
            return top | infinity
        if whole < 1 << self.fraction:
            return top | whole
        if whole == 1 << (self.fraction + 1):
            n, whole = n + 1, whole // 2
        return top | ((n + self.bias) << self.fraction) + whole - (1 << self.fraction)


FORMATS = {
    f.name: f
    for f in (
        Format("float64", "u8", 64, 52, 1023),
        Format("float32", "u4", 32, 23, 127),
        Format("float16", "u2", 16, 10, 15),
        Format("bfloat16", "u2", 16, 7, 127),
    )
}


def two(n):
    return Fraction(2**n) if n >= 0 else Fraction(1, 2**-n)


def nearest_even(x):
    return round(x)  # of a Fraction: half to even, exactly


def exponent_of(v):
    """floor(log2 v)"""
    n = v.numerator.bit_length() - v.denominator.bit_length()
    return n if v >= two(n) else n - 1


def log(v):
    n = exponent_of(v)
    return n + v / two(n) - 1


def exp(s, limit=3000):
    n = floor(s)
    if n > limit:
        return INF
    return two(max(n, -limit)) * (1 + s - n)


def cut(v, bits, half):
    """The fraction of v cut to some bits, plus half a unit."""
    if bits is None:
        return v
    n = exponent_of(v)
    x = Fraction(floor((v / two(n) - 1) * 2**bits), 2**bits)
    return two(n) * (1 + x + (Fraction(1, 2 ** (bits + 1)) if half else 0))


def p0(a, b):
    """Mitchell's product of two integers, and the factors of what it lacks."""
    if a == 0 or b == 0:
        return 0, 0, 0
    k, m = a.bit_length() - 1, b.bit_length() - 1
    r, s = a - 2**k, b - 2**m
    t = r * 2**m + s * 2**k
    if t < 2 ** (k + m):
        return 2 ** (k + m) + t, r, s
    return 2 * t, 2**k - r, 2**m - s


def iterated(a, b, iterations):
    p, r, s = p0(a, b)
    return p + (iterated(r, s, iterations - 1) if iterations > 0 else 0)


def ilm(a, b, iterations):
    if a == 0 or b == 0:
        return 0
    k, m = a.bit_length() - 1, b.bit_length() - 1
    r, s = a - 2**k, b - 2**m
    p = 2 ** (k + m) + r * 2**m + s * 2**k
    return p + (ilm(r, s, iterations - 1) if iterations > 0 else 0)


def mul(a, b, c=0, iterations=0, method="mitchell", bits=None, half=False):
    """Of positive rationals."""
    a, b = cut(a, bits, half), cut(b, bits, half)
    if iterations or method == "ilm":
        scale = [two(exponent_of(v) - 60) for v in (a, b)]
        whole = [int(v / s) for v, s in zip((a, b), scale, strict=True)]
        product = (ilm if method == "ilm" else iterated)(*whole, iterations)
        return product * scale[0] * scale[1]
    return exp(log(a) + log(b) + c)


def applied(c, fraction):
    """An offset in whole units of the last place."""
    return Fraction(round(Fraction(c) * 2**fraction), 2**fraction)
