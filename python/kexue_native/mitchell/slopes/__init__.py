"""Gradients through Mitchell's operations: exact slopes, Mitchell's own products, or true ones."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._arrays import Array, as_real, fold, one_of
from ..._backends import choose
from .._formats import Operands, operands, words
from .._options import Offset, in_units, offset_of
from ..logarithmic import mitchell_div, mitchell_exp2, mitchell_mul, mitchell_pow
from ..products import mitchell_matmul

__all__ = [
    "mitchell_div_vjp",
    "mitchell_exp2_vjp",
    "mitchell_log2_vjp",
    "mitchell_matmul_vjp",
    "mitchell_mul_vjp",
    "mitchell_pow_vjp",
]

_GRADS = ("piecewise", "mitchell", "true")


class _Vjp:
    """Operands of one shape, and the gradients on their way to the operands' own shapes."""

    def __init__(self, name: str, out: Any, g: Array, **arrays: Array) -> None:
        self.call: Operands = operands(name, "f", g=g, **arrays)
        x, *_ = self.call.inputs
        shape = np.broadcast_shapes(*(v.shape for v in self.call.inputs[1:]))
        if x.shape != shape:
            raise ValueError(f"{name}: g must have the shape of the result, {shape}, got {x.shape}")
        self.arrays = list(self.call.inputs)
        self.given = out is not None
        items = out if isinstance(out, tuple) else (out,)
        self.out = items if self.given else (None,) * len(arrays)
        if len(self.out) != len(arrays):
            wanted = "one array" if len(arrays) == 1 else f"a tuple of {len(arrays)} arrays"
            raise ValueError(f"{name}: out must be {wanted}, got {len(self.out)}")
        # Checked before anything is written.
        self.places = []
        for x, target in zip(self.arrays[1:], self.out, strict=True):
            place = Operands(name, self.call.xp, self.call.format, x.shape, self.arrays)
            place.into(target, self.call.format, shape=x.shape)
            self.places.append(place.public[0])

    def result(self, *gradients: Array) -> Any:
        for place, gradient in zip(self.places, gradients, strict=True):
            gradient = self.call.xp.asarray(gradient)
            with np.errstate(all="ignore"):
                place[...] = _folded(self.call.xp, gradient, place.shape)
        if self.given:
            return self.out if len(self.out) > 1 else self.out[0]
        found = [place[()] if not place.ndim else place for place in self.places]
        return found[0] if len(found) == 1 else tuple(found)


def _elementwise(
    v: _Vjp, kernel: str, order: tuple[int, ...], *numbers: float, backend: Any
) -> Array:
    """A kernel on some of the operands, as an array of the full shape."""
    call = v.call
    result = call.xp.empty(v.arrays[0].shape, call.format.dtype)
    inputs = [words(v.arrays[k]) for k in order]
    module = choose("mitchell.slopes", call, backend)
    getattr(module, kernel)(*inputs, call.format.number, *numbers, words(result))
    return result


def _folded(xp: Any, x: Array, shape: tuple[int, ...]) -> Array:
    return x if x.shape == shape else fold(xp, x.astype(np.float64), shape).astype(x.dtype)


def mitchell_mul_vjp(
    g: Array,
    a: Array,
    b: Array,
    *,
    grad: str = "piecewise",
    offset: Offset = "none",
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """Gradients of sum(g mitchell_mul(a, b)) with respect to a and b.

    Parameters
    ----------
    g : array
        Weights, of the shape of the product.
    a, b : arrays of one type: float64, float32, float16 or bfloat16
        Of shapes that broadcast; where one was enlarged its gradient is summed.
    grad : {"piecewise", "mitchell", "true"}
        The slopes of the piecewise affine product, g sgn(b) 2^(n_b + floor(x_a + x_b + c)) in a;
        `mitchell_mul` of g with b; or g b.
    offset
        As of `mitchell_mul`.
    out : tuple of two arrays, optional
        Where the results go.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    tuple of two arrays (da, db)

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `mitchell_mul`; a `g` of another shape or type.

    Notes
    -----
    Special values: at a = 0 the fraction x_a is 0, at b = 0 the slope in a is 0. Where the pieces
    meet it is that of the piece to the right. Infinite operands and nan give nan.

    Accuracy: "piecewise" is rounded once, half to even; sums over enlarged axes are in float64.

    Source: kexue.fm/archives/7991; arXiv 2305.17190.

    Examples
    --------
    >>> import kexue_native as kn
    >>> [float(d) for d in kn.mitchell_mul_vjp(1.0, 1.25, -3.0)]
    [-2.0, 1.0]
    """
    name = "mitchell_mul_vjp"
    one_of(name, "grad", grad, _GRADS)
    c = offset_of(name, "mul", offset)
    v = _Vjp(name, out, g, a=a, b=b)
    g, a, b = v.arrays
    if grad == "mitchell":
        options = {"offset": offset, "backend": backend}
        return v.result(mitchell_mul(g, b, **options), mitchell_mul(g, a, **options))
    if grad == "true":
        with np.errstate(all="ignore"):
            return v.result(g * b, g * a)
    units = in_units(c, v.call.format)
    slopes = [
        _elementwise(v, "mul_slope", order, units, backend=backend)
        for order in ((0, 1, 2), (0, 2, 1))
    ]
    return v.result(*slopes)


def mitchell_div_vjp(
    g: Array,
    a: Array,
    b: Array,
    *,
    grad: str = "piecewise",
    offset: Offset = "none",
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """Gradients of sum(g mitchell_div(a, b)) with respect to a and b.

    Parameters
    ----------
    g, a, b : see `mitchell_mul_vjp`
    grad : {"piecewise", "mitchell", "true"}
        Slopes sgn(b) 2^(n_q - n_a) and -sgn(a) 2^(n_q - n_b), n_q = floor(log2 |q|) of the quotient
        q; g / b and -g (a / b) / b by Mitchell's operations; or exactly.
    offset
        As of `mitchell_div`.
    out, backend : see `mitchell_mul_vjp`

    Returns
    -------
    tuple of two arrays (da, db)

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `mitchell_mul_vjp`.

    Notes
    -----
    Special values: at a = 0 the slope in a is that of the fraction 0, in b it is 0. At b = 0 slopes
    are infinite; 0 / 0, infinite operands and nan give nan.

    Accuracy: "piecewise" is rounded once, half to even.

    Source: kexue.fm/archives/7991; arXiv 2305.17190.

    Examples
    --------
    >>> import kexue_native as kn
    >>> [float(d) for d in kn.mitchell_div_vjp(1.0, 3.0, 1.25)]
    [1.0, -2.0]
    """
    name = "mitchell_div_vjp"
    one_of(name, "grad", grad, _GRADS)
    c = offset_of(name, "div", offset)
    v = _Vjp(name, out, g, a=a, b=b)
    g, a, b = v.arrays
    if grad == "mitchell":
        options = {"offset": offset, "backend": backend}
        q = mitchell_div(a, b, **options)
        slope = mitchell_div(mitchell_mul(g, q, backend=backend), b, **options)
        return v.result(mitchell_div(g, b, **options), -slope)
    if grad == "true":
        with np.errstate(all="ignore"):
            return v.result(g / b, -(g * (a / b) / b))
    units = in_units(c, v.call.format)
    return v.result(
        _elementwise(v, "div_slope_a", (0, 1, 2), units, backend=backend),
        _elementwise(v, "div_slope_b", (0, 1, 2), units, backend=backend),
    )


def mitchell_log2_vjp(
    g: Array,
    x: Array,
    *,
    grad: str = "piecewise",
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """Gradient of sum(g mitchell_log2(x)).

    Parameters
    ----------
    g : array of the shape of `x`
    x : array of float64, float32, float16 or bfloat16
    grad : {"piecewise", "mitchell", "true"}
        g 2^-n, n = floor(log2 x); the product and quotient of g / x and log2(e) by Mitchell's
        operations; or g / (x ln 2).
    out, backend : see `mitchell_mul_vjp`

    Returns
    -------
    array of the shape of `x`

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `mitchell_mul_vjp`.

    Notes
    -----
    Special values: the slope at 0 is inf, at inf 0; negative numbers and nan give nan.

    Accuracy: "piecewise" is rounded once, half to even.

    Source: kexue.fm/archives/7991; arXiv 2305.17190.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.mitchell_log2_vjp([1.0, 1.0], [3.0, 0.5]).tolist()
    [0.5, 2.0]
    """
    name = "mitchell_log2_vjp"
    one_of(name, "grad", grad, _GRADS)
    v = _Vjp(name, out, g, x=x)
    g, x = v.arrays
    if grad == "mitchell":
        return v.result(
            mitchell_mul(mitchell_div(g, x, backend=backend), float(np.log2(np.e)), backend=backend)
        )
    if grad == "true":
        with np.errstate(all="ignore"):
            return v.result(g / (x * x.dtype.type(np.log(2))))
    return v.result(_elementwise(v, "log2_slope", (0, 1), backend=backend))


def mitchell_exp2_vjp(
    g: Array,
    x: Array,
    *,
    grad: str = "piecewise",
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """Gradient of sum(g mitchell_exp2(x)).

    Parameters
    ----------
    g, x : see `mitchell_log2_vjp`
    grad : {"piecewise", "mitchell", "true"}
        g 2^floor(x); Mitchell's products of g, `mitchell_exp2` of x and ln 2; or g 2^x ln 2.
    out, backend : see `mitchell_mul_vjp`

    Returns
    -------
    array of the shape of `x`

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `mitchell_mul_vjp`.

    Notes
    -----
    Special values: the slope at inf is inf, at -inf 0; nan gives nan.

    Accuracy: "piecewise" is rounded once, half to even.

    Source: kexue.fm/archives/7991; arXiv 2305.17190.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.mitchell_exp2_vjp([1.0, 1.0], [1.5, -0.5]).tolist()
    [2.0, 0.5]
    """
    name = "mitchell_exp2_vjp"
    one_of(name, "grad", grad, _GRADS)
    v = _Vjp(name, out, g, x=x)
    g, x = v.arrays
    if grad == "mitchell":
        slope = mitchell_mul(mitchell_exp2(x, backend=backend), float(np.log(2)), backend=backend)
        return v.result(mitchell_mul(g, slope, backend=backend))
    if grad == "true":
        with np.errstate(all="ignore"):
            return v.result(g * v.call.xp.exp2(x) * x.dtype.type(np.log(2)))
    return v.result(_elementwise(v, "exp2_slope", (0, 1), backend=backend))


def mitchell_pow_vjp(
    g: Array,
    x: Array,
    p: float,
    *,
    grad: str = "piecewise",
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """Gradient of sum(g mitchell_pow(x, p)) with respect to x.

    Parameters
    ----------
    g, x : see `mitchell_log2_vjp`
    p : float, finite
        The exponent, as of `mitchell_pow`.
    grad : {"piecewise", "mitchell", "true"}
        g p 2^(n_r - n), n_r = floor(log2 |r|) of the result r; Mitchell's products of g, p and
        `mitchell_pow` of x to p - 1; or g p x^(p - 1).
    out, backend : see `mitchell_mul_vjp`

    Returns
    -------
    array of the shape of `x`

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `mitchell_mul_vjp`; a `p` that is not a finite real number.

    Notes
    -----
    Special values: the slope at 0 is 0, 1 or infinite for p > 1, p = 1, p < 1; for p = 0 it is 0.
    Negative numbers give nan where p is not an integer.

    Accuracy: "piecewise" is within 1 ULP: g p is rounded to float64 first.

    Source: kexue.fm/archives/7991; arXiv 2305.17190.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.mitchell_pow_vjp([1.0, 1.0], [3.0, -3.0], 2).tolist()
    [8.0, -8.0]
    """
    name = "mitchell_pow_vjp"
    one_of(name, "grad", grad, _GRADS)
    exponent = as_real(name, "p", p)
    v = _Vjp(name, out, g, x=x)
    g, x = v.arrays
    if grad == "mitchell":
        slope = mitchell_mul(mitchell_pow(x, exponent - 1, backend=backend), exponent)
        return v.result(mitchell_mul(g, slope, backend=backend))
    if grad == "true":
        with np.errstate(all="ignore"):
            factor = x.dtype.type(exponent)
            return v.result(g * factor * x ** x.dtype.type(exponent - 1))
    return v.result(_elementwise(v, "pow_slope", (0, 1), exponent, backend=backend))


def mitchell_matmul_vjp(
    g: Array,
    a: Array,
    b: Array,
    *,
    grad: str = "piecewise",
    offset: Offset = "none",
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """Gradients of sum(g mitchell_matmul(a, b)) with respect to a and b.

    Signature ``(n,m),(n,k),(k,m)->(n,k),(k,m)``.

    Parameters
    ----------
    g : array of the shape of the product
    a, b : arrays of one type, of at least 2 dimensions
        Axes in front broadcast.
    grad : {"piecewise", "mitchell", "true"}
        da_ik = sum_j g_ij D(a_ik, b_kj) with D of `mitchell_mul_vjp`; Mitchell's products
        g b^T and a^T g; or exact products of matrices.
    offset
        As of `mitchell_mul`.
    out, backend : see `mitchell_mul_vjp`

    Returns
    -------
    tuple of two arrays (da, db)

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `mitchell_mul_vjp`; also shapes that do not fit.

    Notes
    -----
    Special values as `mitchell_mul_vjp`.

    Accuracy: terms are exact in float32, or in float64 for float64, and added there: the error is
    at most 2 u (m + 8) sum |g_ij D|, and half a unit of the type.

    Source: kexue.fm/archives/7991; arXiv 2305.17190.

    Examples
    --------
    >>> import kexue_native as kn
    >>> da, db = kn.mitchell_matmul_vjp([[1.0]], [[1.25, 2.0]], [[-3.0], [1.0]])
    >>> da.tolist(), db.tolist()
    ([[-2.0, 1.0]], [[1.0], [2.0]])
    """
    name = "mitchell_matmul_vjp"
    one_of(name, "grad", grad, _GRADS)
    c = offset_of(name, "mul", offset)
    call = operands(name, "f", broadcast=False, g=g, a=a, b=b)
    g, a, b = call.inputs
    if a.ndim < 2 or b.ndim < 2 or a.shape[-1] != b.shape[-2]:
        raise ValueError(
            f"{name}: a and b must be matrices that can be multiplied, got {a.shape} and {b.shape}"
        )
    try:
        batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise ValueError(
            f"{name}: a and b must have shapes that broadcast together, got {a.shape} and {b.shape}"
        ) from None
    shape = (*batch, a.shape[-2], b.shape[-1])
    if g.shape != shape:
        raise ValueError(f"{name}: g must have the shape of the result, {shape}, got {g.shape}")
    items = (None, None) if out is None else out
    if not isinstance(items, tuple) or len(items) != 2:
        raise ValueError(f"{name}: out must be a tuple of 2 arrays, got {type(out).__name__}")
    places = []
    for x, target in zip((a, b), items, strict=True):
        place = Operands(name, call.xp, call.format, x.shape, [g, a, b])
        place.into(target, call.format, shape=x.shape)
        places.append(place.public[0])
    x, y = a.swapaxes(-1, -2), b.swapaxes(-1, -2)
    if grad == "mitchell":
        options = {"offset": offset, "backend": backend}
        found = mitchell_matmul(g, y, **options), mitchell_matmul(x, g, **options)
    elif grad == "true":
        with np.errstate(all="ignore"):
            found = call.xp.matmul(g, y), call.xp.matmul(x, g)
    else:
        acc = call.format.accumulator
        kernels = choose("mitchell.slopes", call, backend)
        formats = call.format.number, acc.number, in_units(c, acc)
        found = (
            call.xp.empty((*batch, *a.shape[-2:]), a.dtype),
            call.xp.empty((*batch, *b.shape[-2:]), b.dtype),
        )
        # (n, k) from a_ik and the rows over j of b and g; (k, m) from b_kj and those over i.
        views = [words(v) for v in (a, b, g, x, g.swapaxes(-1, -2))]
        kernels.slope_dot(
            views[0],
            views[1][..., None, :, :],
            views[2][..., :, None, :],
            *formats,
            words(found[0]),
        )
        kernels.slope_dot(
            views[1],
            views[3][..., :, None, :],
            views[4][..., None, :, :],
            *formats,
            words(found[1]),
        )
    for place, gradient in zip(places, found, strict=True):
        with np.errstate(all="ignore"):
            place[...] = _folded(call.xp, gradient, place.shape)
    return out if out is not None else tuple(places)
