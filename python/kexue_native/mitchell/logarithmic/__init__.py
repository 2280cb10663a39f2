"""Mitchell's logarithm, antilogarithm, product, quotient and powers, element by element."""

from __future__ import annotations

from typing import Any

from ..._arrays import Array, as_real, check_flags, one_of
from ..._backends import choose
from .._formats import BY_NAME, Operands, operands
from .._options import Offset, flushes, in_units, offset_of, product_options
from .figures import approx_metrics, mitchell_error_bound, mitchell_lut

__all__ = [
    "approx_metrics",
    "mitchell_div",
    "mitchell_error_bound",
    "mitchell_exp2",
    "mitchell_log2",
    "mitchell_lut",
    "mitchell_mul",
    "mitchell_pow",
    "mitchell_reciprocal",
    "mitchell_rsqrt",
    "mitchell_sqrt",
    "mitchell_square",
]

_FLOAT64 = BY_NAME["float64"]


def mitchell_log2(
    x: Array, *, subnormal: str = "gradual", out: Any = None, backend: str | None = None
) -> Any:
    """L(x) = n + f for x = 2^n (1 + f), 0 <= f < 1: Mitchell's logarithm.

    Parameters
    ----------
    x : array of float64, float32, float16, bfloat16, or integers of 8 to 64 bits
    subnormal : {"gradual", "flush"}
        "flush" reads subnormal numbers as zeros of their sign.
    out : array, optional
        Where the result goes.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array of the type of `x`; for integers float64

    Raises
    ------
    TypeError
        Other types; NumPy mixed with CuPy.
    ValueError
        An unknown option; an `out` that does not fit.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: 0 gives -inf, inf gives inf, negative numbers and nan give nan.

    Accuracy: the real number n + f is rounded once, half to even. It lies below log2(x) by at most
    0.08607, at f = 1 / ln 2 - 1.

    Source: kexue.fm/archives/7991; Mitchell, IRE Trans. EC-11 (1962) 512.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.mitchell_log2([1.0, 1.5, 2.0, 0.75]).tolist()
    [0.0, 0.5, 1.0, -0.5]
    """
    flush = flushes("mitchell_log2", subnormal)
    call = operands("mitchell_log2", x=x)
    call.into(out, call.format if call.format.floating else _FLOAT64)
    kernels = choose("mitchell.logarithmic", call, backend)
    kernels.log2(*call.inputs, call.format.number, flush, *call.outputs)
    return call.result()


def mitchell_exp2(
    x: Array, *, subnormal: str = "gradual", out: Any = None, backend: str | None = None
) -> Any:
    """X(x) = 2^floor(x) (1 + x - floor(x)): the inverse of `mitchell_log2`.

    Parameters
    ----------
    x : array of float64, float32, float16 or bfloat16
    subnormal : {"gradual", "flush"}
        "flush" reads subnormal numbers as zeros and gives 0 below the least normal number.
    out, backend : see `mitchell_log2`

    Returns
    -------
    array of the type of `x`

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `mitchell_log2`.

    Notes
    -----
    Special values: 0 gives 1, inf gives inf, -inf gives 0, nan gives nan. From emax + 1 of the
    format on, 128 for float32, the result is inf.

    Accuracy: the real number is rounded once, half to even, also onto the subnormal grid. It lies
    above 2^x by at most 6.148 %.

    Source: kexue.fm/archives/7991.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.mitchell_exp2([0.0, 0.5, 3.0, -0.5]).tolist()
    [1.0, 1.5, 8.0, 0.75]
    """
    call, flush = _unary("mitchell_exp2", x, subnormal, out)
    kernels = choose("mitchell.logarithmic", call, backend)
    kernels.exp2(*call.inputs, call.format.number, flush, *call.outputs)
    return call.result()


def _unary(name: str, x: Array, subnormal: str, out: Any) -> tuple[Operands, bool]:
    flush = flushes(name, subnormal)
    call = operands(name, "f", x=x)
    call.into(out, call.format)
    return call, flush


def mitchell_mul(
    a: Array,
    b: Array,
    *,
    offset: Offset = "none",
    iterations: int = 0,
    mantissa_bits: int | None = None,
    fill: str = "zero",
    subnormal: str = "gradual",
    method: str = "mitchell",
    overflow: str = "saturate",
    return_high: bool = False,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """X(L(a) + L(b) + c): a product by one addition, with the sign of a b.

    Parameters
    ----------
    a, b : arrays of one type: float64, float32, float16, bfloat16, or integers of 8 to 64 bits
        Of shapes that broadcast. A Python number gets the type of the other operand.
    offset : {"none", "lmul", "unbiased", "minimax"} or float in [0, 1/4)
        c: 0; 1/16, as in L-Mul; 0.05662, for which the mean error of uniform mantissas is 0; or
        0.06886, for which the largest error is as small as one constant can make it. It is rounded
        to units in the last place, for integers of 2^-23 (8 and 16 bits) or 2^-52. With an offset
        1 * x is not x.
    iterations : int, at least 0
        So many times the product of the two factors of the residual is approximated and added, too.
        Each time the error becomes about 16 times smaller. Not together with `offset`.
    mantissa_bits : int, optional
        Fractions are cut to so many bits first.
    fill : {"zero", "half"}
        "half" adds half a unit of the last bit that is kept; to integers only where bits were cut.
    subnormal : {"gradual", "flush"}
        "flush" reads subnormal operands as zeros and gives 0 below the least normal number.
    method : {"mitchell", "ilm"}
        "ilm": 2^(n_a + n_b) (1 + f_a + f_b) also where f_a + f_b >= 1, the basic block of the
        iterative logarithmic multiplier; for comparison.
    overflow : {"saturate", "wrap"}
        Of 64-bit integers.
    return_high : bool
        Of 64-bit integers: return the product of 128 bits in two parts.
    out : array or tuple of arrays, optional
        Where the result goes.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        Of the operands' type; for integers of 8, 16 and 32 bits of the next wider one. With
        `return_high` a tuple (high, low), low always uint64.

    Raises
    ------
    TypeError
        Other types; NumPy mixed with CuPy.
    ValueError
        Operands of different types, shapes that do not fit, unknown options, `offset` with
        `iterations` or with method="ilm", `return_high` for other than 64 bits.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values are those of IEEE 754's multiplication: 0 times a finite number is 0 of the
    right sign, 0 times inf is nan. Overflow is decided by Mitchell's value, which may be finite
    where a b is not.

    Accuracy: the real number X(L(a) + L(b) + c) is rounded once, half to even, also onto the
    subnormal grid; without an offset no normal result needs it, and products of integers are exact.
    Relative errors against a b: `mitchell_error_bound`; -1/9 to 0 without options.

    Source: kexue.fm/archives/7991; Mitchell 1962; arXiv 2012.03458, 2305.17190, 2410.00907 (L-Mul).

    Examples
    --------
    >>> import kexue_native as kn
    >>> float(kn.mitchell_mul(1.5, 1.5)), float(kn.mitchell_mul(1.5, 1.5, iterations=1))
    (2.0, 2.25)
    >>> import numpy as np
    >>> kn.mitchell_mul(np.uint8([3, 15, 255]), np.uint8([3, 15, 255])).tolist()
    [8, 224, 65024]
    """
    name = "mitchell_mul"
    flush = flushes(name, subnormal)
    wrap = one_of(name, "overflow", overflow, ("saturate", "wrap")) == "wrap"
    call = operands(name, a=a, b=b)
    form = call.format
    options = product_options(name, form, form, offset, iterations, mantissa_bits, fill, method)
    check_flags(name, return_high=return_high)
    if return_high:
        if form.floating or form.width < 64:
            raise ValueError(f"{name}: return_high must be false but for 64 bits, got {form.name}")
        call.into(out, form, BY_NAME["uint64"])
    else:
        call.into(out, form if form.floating else form.wider)
    kernels = choose("mitchell.logarithmic", call, backend)
    high, low = (*call.outputs, None)[:2]
    kernels.mul(*call.inputs, form.number, *options, flush, wrap, high, low)
    return call.result()


def mitchell_div(
    a: Array,
    b: Array,
    *,
    offset: Offset = "none",
    subnormal: str = "gradual",
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """X(L(a) - L(b) + c): a quotient by one subtraction, with the sign of a b.

    Parameters
    ----------
    a, b : arrays of one type, see `mitchell_mul`
    offset : {"none", "unbiased", "minimax"} or float in (-1/4, 0]
        c: 0, -0.05800 (mean error 0) or -0.07480 (smallest largest error).
    subnormal : {"gradual", "flush"}
        As of `mitchell_mul`.
    out, backend : see `mitchell_log2`

    Returns
    -------
    array of the operands' type
        Of integers the magnitude is rounded down.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `mitchell_mul`.

    Notes
    -----
    Special values are those of IEEE 754's division: 0 / 0 and inf / inf give nan, x / 0 gives inf
    of the right sign. Of integers a / 0 is 0, and the least one by -1 the largest.

    Accuracy: the real number is rounded once, half to even. Relative errors against a / b lie in
    [0, 1/8] without an offset.

    Source: kexue.fm/archives/7991; Mitchell 1962.

    Examples
    --------
    >>> import kexue_native as kn
    >>> float(kn.mitchell_div(1.0, 1.5)), int(kn.mitchell_div(100, 7))
    (0.75, 14)
    """
    name = "mitchell_div"
    flush = flushes(name, subnormal)
    c = offset_of(name, "div", offset)
    call = operands(name, a=a, b=b)
    call.into(out, call.format)
    kernels = choose("mitchell.logarithmic", call, backend)
    form = call.format
    kernels.div(*call.inputs, form.number, in_units(c, form), flush, *call.outputs)
    return call.result()


def mitchell_square(
    x: Array, *, subnormal: str = "gradual", out: Any = None, backend: str | None = None
) -> Any:
    """X(2 L(x)), which is `mitchell_mul` of x with itself.

    Parameters
    ----------
    x : array of float64, float32, float16 or bfloat16
    subnormal : {"gradual", "flush"}
        As of `mitchell_mul`.
    out, backend : see `mitchell_log2`

    Returns
    -------
    array of the type of `x`

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `mitchell_log2`.

    Notes
    -----
    Special values: infinities give inf, nan gives nan.

    Accuracy: rounded once, half to even. The relative error against x x lies in [-1/9, 0].

    Source: kexue.fm/archives/7991.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.mitchell_square([1.5, -3.0, 4.0]).tolist()
    [2.0, 8.0, 16.0]
    """
    call, flush = _unary("mitchell_square", x, subnormal, out)
    kernels = choose("mitchell.logarithmic", call, backend)
    kernels.square(*call.inputs, call.format.number, flush, *call.outputs)
    return call.result()


def mitchell_sqrt(
    x: Array, *, subnormal: str = "gradual", out: Any = None, backend: str | None = None
) -> Any:
    """X(L(x) / 2): a square root by one shift.

    Parameters
    ----------
    x, subnormal, out, backend : see `mitchell_square`

    Returns
    -------
    array of the type of `x`

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `mitchell_log2`.

    Notes
    -----
    Special values: zeros keep their sign, inf gives inf, other negative numbers and nan give nan.

    Accuracy: rounded once, half to even. The relative error lies in [0, 3 / (2 sqrt 2) - 1], that
    is 6.07 %.

    Source: kexue.fm/archives/7991.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.mitchell_sqrt([4.0, 2.0, 9.0]).tolist()
    [2.0, 1.5, 3.125]
    """
    call, flush = _unary("mitchell_sqrt", x, subnormal, out)
    kernels = choose("mitchell.logarithmic", call, backend)
    kernels.sqrt(*call.inputs, call.format.number, flush, *call.outputs)
    return call.result()


def mitchell_rsqrt(
    x: Array, *, subnormal: str = "gradual", out: Any = None, backend: str | None = None
) -> Any:
    """X(-L(x) / 2): the inverse square root, of which the well-known trick is one with an offset.

    Parameters
    ----------
    x, subnormal, out, backend : see `mitchell_square`

    Returns
    -------
    array of the type of `x`

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `mitchell_log2`.

    Notes
    -----
    Special values: zeros give inf of their sign, inf gives 0, other negative numbers and nan give
    nan.

    Accuracy: rounded once, half to even. The relative error lies in [0, sqrt(32/27) - 1], 8.87 %.

    Source: kexue.fm/archives/7991.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.mitchell_rsqrt([4.0, 2.0]).tolist()
    [0.5, 0.75]
    """
    call, flush = _unary("mitchell_rsqrt", x, subnormal, out)
    kernels = choose("mitchell.logarithmic", call, backend)
    kernels.rsqrt(*call.inputs, call.format.number, flush, *call.outputs)
    return call.result()


def mitchell_reciprocal(
    x: Array, *, subnormal: str = "gradual", out: Any = None, backend: str | None = None
) -> Any:
    """X(-L(x)): a reciprocal by one subtraction.

    Parameters
    ----------
    x, subnormal, out, backend : see `mitchell_square`

    Returns
    -------
    array of the type of `x`

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `mitchell_log2`.

    Notes
    -----
    Special values: zeros give inf and infinities 0 of their sign, nan gives nan.

    Accuracy: rounded once, half to even. The relative error lies in [0, 1/8].

    Source: kexue.fm/archives/7991.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.mitchell_reciprocal([1.5, -4.0]).tolist()
    [0.75, -0.25]
    """
    call, flush = _unary("mitchell_reciprocal", x, subnormal, out)
    kernels = choose("mitchell.logarithmic", call, backend)
    kernels.reciprocal(*call.inputs, call.format.number, flush, *call.outputs)
    return call.result()


def mitchell_pow(
    x: Array,
    p: float,
    *,
    subnormal: str = "gradual",
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """X(p L(x)): a power by one product of the logarithm.

    Parameters
    ----------
    x : array of float64, float32, float16 or bfloat16
    p : float, finite
        The exponent, taken as float64.
    subnormal, out, backend : see `mitchell_square`

    Returns
    -------
    array of the type of `x`

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `mitchell_log2`; a `p` that is not a finite real number.

    Notes
    -----
    Special values: p = 0 gives 1, also for nan. An odd p keeps the sign, a negative number with a p
    that is not an integer gives nan. A zero gives 0 for p > 0 and inf for p < 0; where p is not an
    odd integer both are positive.

    Accuracy: rounded once, half to even, for every p. For p > 0 approx / true lies between
    2^(-0.08607 p) and 2^0.08607.

    Source: kexue.fm/archives/7991.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.mitchell_pow([1.5, -2.0], 3).tolist()
    [3.0, -8.0]
    """
    exponent = as_real("mitchell_pow", "p", p)
    call, flush = _unary("mitchell_pow", x, subnormal, out)
    kernels = choose("mitchell.logarithmic", call, backend)
    kernels.pow(*call.inputs, call.format.number, exponent, flush, *call.outputs)
    return call.result()
