"""The options of Mitchell's products and quotients, checked and turned into numbers."""

from __future__ import annotations

from operator import index
from typing import Any, NamedTuple

from .._arrays import as_real, one_of
from ._formats import Format

# Offsets c in units of 2^-52. "unbiased" makes the mean error of uniform mantissas 0, "minimax"
# the largest as small as one constant can; tests compute both again.
_UNITS = {
    "mul": {
        "none": 0,
        "lmul": 1 << 48,
        "unbiased": 255008540775479,
        "minimax": 310106774579136,
    },
    "div": {
        "none": 0,
        "unbiased": -261186771493866,
        "minimax": -336883456710221,
    },
}
SUBNORMAL = ("gradual", "flush")
Offset = Any  # str or float; mypy has nothing to check here


def offset_of(name: str, op: str, offset: Offset) -> float:
    """c as a number: in [0, 1/4) for products, in (-1/4, 0] for quotients"""
    units = _UNITS[op]
    if isinstance(offset, str):
        return units[one_of(name, "offset", offset, tuple(units))] / 2**52
    c = as_real(name, "offset", offset)
    low, high = (0.0, 0.25) if op == "mul" else (-0.25, 0.0)
    if not (low <= c <= high and abs(c) < 0.25):
        interval = "[0, 0.25)" if op == "mul" else "(-0.25, 0]"
        raise ValueError(f"{name}: offset must be in {interval}, got {c}")
    return c


def in_units(c: float, form: Format) -> int:
    """The offset that is applied, in units in the last place of a code"""
    return round(c * 2.0**form.fraction)


class Product(NamedTuple):
    """What a Mitchell product is besides its operands, as the kernels take it"""

    offset: int
    iterations: int
    ilm: bool
    cut: float


def product_options(
    name: str,
    form: Format,
    accumulator: Format,
    offset: Offset,
    iterations: Any,
    mantissa_bits: Any,
    fill: str,
    method: str,
) -> Product:
    c = offset_of(name, "mul", offset)
    count = iterations_of(name, iterations)
    ilm = one_of(name, "method", method, ("mitchell", "ilm")) == "ilm"
    if c and (count or ilm):
        other = "iterations" if count else 'method "ilm"'
        raise ValueError(f"{name}: offset must be none where {other} is given, got {offset!r}")
    most = form.fraction if form.floating else form.width - 1
    cut = cut_of(name, mantissa_bits, fill, most)
    return Product(in_units(c, accumulator), count, ilm, cut)


def iterations_of(name: str, iterations: Any) -> int:
    count = integer(name, "iterations", iterations)
    if not 0 <= count <= 64:
        raise ValueError(f"{name}: iterations must be in [0, 64], got {count}")
    return count


def cut_of(name: str, mantissa_bits: Any, fill: str, most: int) -> float:
    """Bits of a fraction that are kept, plus 1/2 with half a unit; -1 for all"""
    half = one_of(name, "fill", fill, ("zero", "half")) == "half"
    if mantissa_bits is None:
        return -1.0
    bits = integer(name, "mantissa_bits", mantissa_bits)
    most -= half
    if not 0 <= bits <= most:
        raise ValueError(f"{name}: mantissa_bits must be in [0, {most}], got {bits}")
    return bits + half / 2


def integer(name: str, argument: str, value: Any) -> int:
    try:
        return index(value)
    except TypeError:
        raise TypeError(f"{name}: {argument} must be an int, got {type(value).__name__}") from None


def flushes(name: str, subnormal: str) -> bool:
    return one_of(name, "subnormal", subnormal, SUBNORMAL) == "flush"
