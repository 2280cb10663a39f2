"""Sums of Mitchell products: the scalar product and the product of matrices."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._arrays import Array, core_axes
from ..._backends import choose
from .._formats import BY_NAME, Format, Operands, format_of, operands
from .._options import Offset, Product, flushes, product_options

__all__ = ["mitchell_dot", "mitchell_matmul"]


def mitchell_dot(
    a: Array,
    b: Array,
    *,
    axis: int = -1,
    offset: Offset = "none",
    iterations: int = 0,
    mantissa_bits: int | None = None,
    fill: str = "zero",
    subnormal: str = "gradual",
    method: str = "mitchell",
    acc_dtype: Any = None,
    out_dtype: Any = None,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """sum_k a_k b_k with the products of `mitchell_mul`, along an axis.

    Parameters
    ----------
    a, b : arrays of one type: float64, float32, float16, bfloat16, or integers of 8 to 64 bits
        Of shapes that broadcast.
    axis : int
        Of the sum, counted in the broadcast shape.
    offset, iterations, mantissa_bits, fill, subnormal, method
        As of `mitchell_mul`.
    acc_dtype : dtype, optional
        In which products are formed and added: float32 (for float32 and narrower) or float64,
        which float64 has always; int32 (for 8 and 16 bits) or int64.
    out_dtype : dtype, optional
        Of the result, for floating-point numbers; by default that of the operands.
    out, backend : see `mitchell_mul`

    Returns
    -------
    array
        Without `axis`; of integers of type `acc_dtype`.

    Raises
    ------
    TypeError, ValueError
        As `mitchell_mul`; an `acc_dtype` that is too narrow.
    OverflowError
        K max|a| max|b| exceeds the accumulator of integers. Arrays whose type alone does not rule
        that out are looked at; on a device that waits for it.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Sums of integers are exact. Of others the order is free: the error is at most
    2 u (K + 8) sum |p_k|, p_k the products and u = 2^-24 or 2^-53, and half a unit of the result's
    type. nan and inf spread as in sums of floating-point numbers. No terms give 0.

    The offset is in units of the accumulator's format.

    Source: kexue.fm/archives/7991; arXiv 2012.03458, 2305.17190.

    Examples
    --------
    >>> import kexue_native as kn
    >>> float(kn.mitchell_dot([1.5, 2.0], [1.5, 3.0]))
    8.0
    """
    if axis is None or isinstance(axis, tuple):
        raise TypeError(f"mitchell_dot: axis must be an int, got {axis!r}")
    call = operands("mitchell_dot", a=a, b=b)
    ndim = max(len(call.shape), 1)
    (k,) = core_axes("mitchell_dot", axis, len(call.shape)) or (0,)
    xp, full = call.xp, call.shape or (1,)
    moved = []
    for x in call.inputs:
        x = x.reshape((1,) * (ndim - x.ndim) + x.shape)
        moved.append(xp.moveaxis(x, k, -1))
    n, loop = full[k], (*full[:k], *full[k + 1 :])
    moved = [x if x.shape[-1] == n else xp.broadcast_to(x, (*x.shape[:-1], n)) for x in moved]
    call.inputs = moved
    options = offset, iterations, mantissa_bits, fill, method
    return _run(call, n, loop, options, subnormal, acc_dtype, out_dtype, out, backend)


def mitchell_matmul(
    a: Array,
    b: Array,
    *,
    offset: Offset = "none",
    iterations: int = 0,
    mantissa_bits: int | None = None,
    fill: str = "zero",
    subnormal: str = "gradual",
    method: str = "mitchell",
    acc_dtype: Any = None,
    out_dtype: Any = None,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """The matrix product with the products of `mitchell_mul`: c_ij = sum_k a_ik b_kj.

    Signature ``(n,k),(k,m)->(n,m)``, by the shape rules of `numpy.matmul`.

    Parameters
    ----------
    a, b : arrays of one type, see `mitchell_dot`
        Of 1 dimension or more; a vector is a row in front and a column behind.
    offset, iterations, mantissa_bits, fill, subnormal, method, acc_dtype, out_dtype
        As of `mitchell_dot`.
    out, backend : see `mitchell_mul`

    Returns
    -------
    array

    Raises
    ------
    TypeError, ValueError, OverflowError, RuntimeError
        As `mitchell_dot`; also shapes that do not fit.

    Notes
    -----
    Accuracy and special values as `mitchell_dot`. Against the exact product the error is at most
    1/9 sum_k |a_ik b_kj| more, or what `mitchell_error_bound` says.

    Source: kexue.fm/archives/7991; arXiv 2012.03458, 2305.17190.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.mitchell_matmul([[1.5, 0.0], [1.0, 2.0]], [[1.5], [4.0]]).tolist()
    [[2.0], [9.5]]
    """
    name = "mitchell_matmul"
    call = operands(name, broadcast=False, a=a, b=b)
    x, y = call.inputs
    if not x.ndim or not y.ndim:
        raise ValueError(
            f"{name}: a and b must have at least 1 dimension, got {x.ndim} and {y.ndim}"
        )
    row, column = x.ndim == 1, y.ndim == 1
    shapes = x.shape, y.shape
    x = x[None] if row else x
    y = y[:, None] if column else y
    if x.shape[-1] != y.shape[-2]:
        raise ValueError(
            f"{name}: b must have as many rows as a has columns, {x.shape[-1]}, got {y.shape[-2]}"
        )
    try:
        batch = np.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    except ValueError:
        raise ValueError(
            f"{name}: a and b must have shapes that broadcast together, "
            f"got {shapes[0]} and {shapes[1]}"
        ) from None
    loop = (*batch, *(() if row else x.shape[-2:-1]), *(() if column else y.shape[-1:]))
    y = y.swapaxes(-1, -2)
    # Rows of a with columns of b: what a kernel sees is a dot product of broadcast operands.
    x, y = x[..., :, None, :], y[..., None, :, :]
    x = x[..., 0, :, :] if row else x
    y = y[..., 0, :, :] if row else y
    x = x[..., 0, :] if column else x
    y = y[..., 0, :] if column else y
    call.inputs = [x, y]
    options = offset, iterations, mantissa_bits, fill, method
    return _run(call, x.shape[-1], loop, options, subnormal, acc_dtype, out_dtype, out, backend)


def _run(
    call: Operands,
    n: int,
    loop: tuple[int, ...],
    options: tuple[Any, ...],
    subnormal: str,
    acc_dtype: Any,
    out_dtype: Any,
    out: Any,
    backend: str | None,
) -> Any:
    form = call.format
    flush = flushes(call.name, subnormal)
    acc = accumulator(call.name, form, acc_dtype)
    product = _options(call.name, form, acc, options)
    result = acc
    if form.floating:
        result = form if out_dtype is None else as_format(call.name, "out_dtype", out_dtype, "f")
    elif out_dtype is not None:
        raise ValueError(f"{call.name}: out_dtype must be left out for integers, got {out_dtype!r}")
    if not form.floating:
        _fits(call, n, acc, product.offset > 0)
    call.into(out, result, shape=loop)
    kernels = choose("mitchell.products", call, backend)
    numbers = form.number, acc.number, result.number
    kernels.dot(*call.inputs, *numbers, *product, flush, *call.outputs)
    return call.result()


def _options(name: str, form: Format, acc: Format, options: tuple[Any, ...]) -> Product:
    return product_options(name, form, acc if form.floating else form, *options)


def as_format(name: str, argument: str, dtype: Any, kinds: str) -> Format:
    try:
        found = np.dtype(dtype)
    except TypeError:
        raise TypeError(f"{name}: {argument} must be a dtype, got {dtype!r}") from None
    return format_of(name, argument, found, kinds)


def accumulator(name: str, form: Format, acc_dtype: Any) -> Format:
    """The format of sums: the least for the operands, or a wider one."""
    least = form.accumulator
    if acc_dtype is None:
        return least
    acc = as_format(name, "acc_dtype", acc_dtype, "f" if form.floating else "i")
    widest = BY_NAME["float64" if form.floating else "int64"]
    if acc not in (least, widest):
        options = least.name if least is widest else f"{least.name} or {widest.name}"
        raise ValueError(f"{name}: acc_dtype must be {options} for {form.name}, got {acc.name}")
    return acc


def _fits(call: Operands, n: int, acc: Format, offset: bool) -> None:
    """Raise where K max|a| max|b| exceeds the accumulator of integers."""
    form, most = call.format, (1 << (acc.width - 1)) - 1
    most = most * 4 // 5 if offset else most  # products exceed a b by less than a quarter
    largest = 1 << (form.width - form.signed)
    if n * largest * largest <= most or n == 0 or any(x.size == 0 for x in call.inputs):
        return
    bound = n
    for x in call.inputs:
        bound *= max(abs(int(x.min())), abs(int(x.max())))
    if bound > most:
        raise OverflowError(
            f"{call.name}: acc_dtype must hold K max|a| max|b| = {bound}, got {acc.name}"
        )
