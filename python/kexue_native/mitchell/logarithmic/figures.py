"""How far off Mitchell's operations are, measured errors, and tables for other software."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..._arrays import Array, as_array, check_flags, one_of
from .._formats import BY_NAME
from .._options import Offset, cut_of, integer, iterations_of, offset_of
from . import reference

# (min, max) of (approx - true) / true without options; for log2 of approx - true.
_PLAIN = {
    "mul": (-1 / 9, 0.0),
    "div": (0.0, 1 / 8),
    "square": (-1 / 9, 0.0),
    "cube": (-5 / 32, 0.0),
    "sqrt": (0.0, 3 / (2 * math.sqrt(2)) - 1),
    "rsqrt": (0.0, math.sqrt(32 / 27) - 1),
    "reciprocal": (0.0, 1 / 8),
    "log2": (-0.0860713320559342, 0.0),
    "exp2": (0.0, 0.06147569084608606),
}


def mitchell_error_bound(
    op: str,
    *,
    offset: Offset = "none",
    iterations: int = 0,
    mantissa_bits: int | None = None,
    fill: str = "zero",
    method: str = "mitchell",
    p: float | None = None,
) -> tuple[float, float]:
    """Least and largest relative error (approx - true) / true of an operation, for any operands.

    Parameters
    ----------
    op : {"mul", "div", "square", "cube", "sqrt", "rsqrt", "reciprocal", "pow", "log2", "exp2"}
        For "log2" it is the absolute error.
    offset, iterations, mantissa_bits, fill, method
        As of `mitchell_mul`; `offset` also of `mitchell_div`. Of these only `offset` and
        `mantissa_bits` go together.
    p : float
        The exponent of "pow".

    Returns
    -------
    tuple of two floats
        They are attained, or approached as closely as one likes. Rounding to a format comes on top.

    Raises
    ------
    TypeError, ValueError
        Unknown names, or options that the operation does not have.

    Notes
    -----
    mul: -9 / (2^(2j+3) + 1)^2 after j iterations, at a = b = (2^(2j+3) + 1) / 3; with an offset
    [8 / (3 - c)^2 - 1, c]; with cut fractions the extremes over cells that are cut to one number.

    Source: kexue.fm/archives/7991; Babic et al., 2010, for "ilm".

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.mitchell_error_bound("mul")
    (-0.1111111111111111, 0.0)
    >>> low, high = kn.mitchell_error_bound("mul", offset="minimax")
    >>> round(low, 5), round(high, 5)
    (-0.06886, 0.06886)
    """
    name = "mitchell_error_bound"
    one_of(name, "op", op, (*_PLAIN, "pow"))
    count = iterations_of(name, iterations)
    ilm = one_of(name, "method", method, ("mitchell", "ilm")) == "ilm"
    cut = cut_of(name, mantissa_bits, fill, 52)
    given = {"offset": offset != "none", "iterations": count > 0, "mantissa_bits": cut >= 0}
    for option, used in {**given, "method": ilm}.items():
        if used and op != "mul" and (option, op) != ("offset", "div"):
            raise ValueError(f"{name}: {option} must be left out for {op}, got {offset!r}")
    if (p is None) != (op != "pow"):
        raise ValueError(f'{name}: p must be given for "pow" alone, got {p!r}')
    if op == "pow":
        off, power = -_PLAIN["log2"][0], float(p or 0)
        if power < 0:  # the logarithm is too small, which makes the power too large
            return 0.0, 2.0 ** (off * (1 - power)) - 1
        return 2.0 ** (-off * power) - 1, 2.0**off - 1
    if (count or ilm) and (given["offset"] or cut >= 0):
        raise ValueError(f"{name}: iterations must not be combined, got {count}")
    if ilm:
        return -(4.0 ** -(count + 1)), 0.0
    if count:
        return -9 / (2 ** (2 * count + 3) + 1) ** 2, 0.0
    if op == "div" and given["offset"]:
        c = -offset_of(name, "div", offset)
        return -c / (1 + c), (3 - c) ** 2 / 8 - 1
    if op != "mul":
        return _PLAIN[op]
    c = offset_of(name, "mul", offset)
    if cut >= 0:
        return _of_cells(c, cut)
    return (8 / (3 - c) ** 2 - 1, c) if c else _PLAIN["mul"]


def _of_cells(c: float, cut: float) -> tuple[float, float]:
    """Extremes over cells of cut fractions, on which the product is constant.

    Of the cells i, j with one i + j the lowest error is at the far corner of the middle one, the
    highest at the near corner of an outermost one; i + j matters at its ends and at the kink.
    """
    n = 2.0 ** int(cut)
    c += 1 / n if cut % 1 else 0
    kink = math.floor((1 - c) * n)
    sums = {t + d for t in (0, kink, int(n), 2 * int(n) - 2) for d in range(-3, 4)}
    ratios = []
    for s in sorted(t for t in sums if 0 <= t <= 2 * n - 2):
        whole = math.floor(s / n + c)
        value = 2.0**whole * (1 + s / n + c - whole)
        outer = max(0, s - int(n) + 1)
        far = (1 + (s // 2 + 1) / n) * (1 + (s - s // 2 + 1) / n)
        near = (1 + outer / n) * (1 + (s - outer) / n)
        ratios += [value / far - 1, value / near - 1]
    return min(ratios), max(ratios)


class ApproxMetrics(NamedTuple):
    """Errors of an approximate circuit as EvoApproxLib defines them; ep, mre, wcre in percent."""

    mae: float  # mean absolute error
    wce: float  # worst-case absolute error
    ep: float  # share of results that are not exact
    mre: float  # mean relative error, 0 where the exact result is
    wcre: float  # worst-case relative error
    mse: float  # mean squared error
    mae_percent: float  # of 2^(2 bits); nan without `bits`
    wce_percent: float


def approx_metrics(approx: Array, exact: Array, *, bits: int | None = None) -> ApproxMetrics:
    """MAE, WCE, EP, MRE, WCRE and MSE of approximate results.

    Parameters
    ----------
    approx, exact : arrays of numbers, of one shape
    bits : int, optional
        Width of the operands, for MAE and WCE in percent of 2^(2 bits).

    Returns
    -------
    ApproxMetrics
        A named tuple; ep, mre and wcre in percent. All are nan for empty arrays.

    Raises
    ------
    TypeError
        Arrays that are not numeric.
    ValueError
        Different shapes.

    Notes
    -----
    Source: Mrazek et al., EvoApproxLib, 2017. Errors of integers are taken before they become
    float64.

    Examples
    --------
    >>> import kexue_native as kn, numpy as np
    >>> a, b = np.ogrid[:256, :256]
    >>> found = kn.mitchell_mul(a.astype("u1"), b.astype("u1"))
    >>> m = kn.approx_metrics(found, a * b, bits=8)
    >>> round(m.mae, 3), m.wce, round(m.mae_percent, 5)
    (606.398, 4096.0, 0.92529)
    """
    name = "approx_metrics"
    x, y = (as_array(name, k, v) for k, v in (("approx", approx), ("exact", exact)))
    for argument, v in (("approx", x), ("exact", y)):
        if v.dtype.kind not in "iuf" and v.dtype.name != "bfloat16":
            raise TypeError(f"{name}: {argument} must be of a real type, got {v.dtype}")
    if x.shape != y.shape:
        raise ValueError(
            f"{name}: approx and exact must have the same shape, got {x.shape} and {y.shape}"
        )
    width = 2.0 ** (2 * integer(name, "bits", bits)) if bits is not None else math.nan
    if x.size == 0:
        return ApproxMetrics(*[math.nan] * 8)
    with np.errstate(all="ignore"):
        error = _distance(x, y)
        size = abs(y.astype(np.float64))
        relative = error / np.where(size == 0, np.inf, size)
    mae, wce = float(error.mean()), float(error.max())
    return ApproxMetrics(
        mae,
        wce,
        100 * float((error > 0).mean()),
        100 * float(relative.mean()),
        100 * float(relative.max()),
        float((error * error).mean()),
        100 * mae / width,
        100 * wce / width,
    )


def _distance(x: Array, y: Array) -> Array:
    if x.dtype.kind in "iu" and y.dtype.kind in "iu":
        above = x > y  # NumPy compares int64 with uint64 exactly
        bits = x.astype(np.uint64) - y.astype(np.uint64)
        return np.where(above, bits, -bits).astype(np.float64)
    return abs(x.astype(np.float64) - y.astype(np.float64))


def mitchell_lut(
    bits: int = 8,
    *,
    signed: bool = False,
    iterations: int = 0,
    method: str = "mitchell",
    layout: str = "tfapprox",
) -> np.ndarray[Any, Any]:
    """A table of all products of two small numbers, as emulators of approximate hardware read it.

    Parameters
    ----------
    bits : int
        Width of the operands: 1 to 8; of fractions, for "approxtrain", 1 to 7.
    signed : bool
        Two's complement; "adapt" always is.
    iterations, method
        As of `mitchell_mul`.
    layout : {"tfapprox", "adapt", "approxtrain"}
        "tfapprox": little-endian uint16 (int16 if signed), entry a 2^bits + b. "adapt": a matrix of
        int16; a row and a column are the bit pattern of a number. "approxtrain": a matrix of uint8
        for the fractions of two floating-point numbers; the low bits are the fraction of their
        product, the top bit its carry into the exponent.

    Returns
    -------
    array

    Raises
    ------
    TypeError, ValueError
        Unknown names, widths out of range.

    Notes
    -----
    Source: the formats of tf-approximate, AdaPT and ApproxTrain.

    Examples
    --------
    >>> import kexue_native as kn
    >>> table = kn.mitchell_lut()
    >>> table.shape, int(table[3 * 256 + 3])
    ((65536,), 8)
    """
    name = "mitchell_lut"
    check_flags(name, signed=signed)
    one_of(name, "layout", layout, ("tfapprox", "adapt", "approxtrain"))
    count = iterations_of(name, iterations)
    ilm = one_of(name, "method", method, ("mitchell", "ilm")) == "ilm"
    width, most = integer(name, "bits", bits), 7 if layout == "approxtrain" else 8
    if not 1 <= width <= most:
        raise ValueError(f"{name}: bits must be in [1, {most}] for {layout}, got {width}")
    n = 1 << width
    if layout == "approxtrain":
        numbers = np.arange(n, 2 * n)
    else:
        numbers = np.arange(n)
        if signed or layout == "adapt":
            numbers = np.where(numbers >= n // 2, numbers - n, numbers)
    form = BY_NAME["int16"]
    words = numbers.astype(np.int16).view(np.uint16)
    found = reference.mul(words[:, None], words, form.number, 0, count, ilm).view(np.int32)
    if layout == "approxtrain":
        return _fractions(found, width)
    if layout == "adapt":
        return np.asarray(found.astype(np.int16))
    return np.asarray(found.astype("<i2" if signed else "<u2")).reshape(-1)


def _fractions(products: Array, width: int) -> np.ndarray[Any, Any]:
    """Significands of products, rounded half to even, as carry and fraction"""
    carry = (products >= 1 << (2 * width + 1)).astype(np.int32)
    drop = width + carry
    kept = products >> drop
    rest, middle = products - (kept << drop), 1 << (drop - 1)
    kept = kept + ((rest > middle) | ((rest == middle) & (kept % 2 == 1)))
    carry, kept = np.where(kept >> (width + 1), (carry + 1, kept >> 1), (carry, kept))
    return np.asarray((carry << 7) | (kept & ((1 << width) - 1))).astype(np.uint8)
