"""Reductions of the logsumexp family: values, probabilities, bounds and their gradients."""

from __future__ import annotations

import math
from operator import index
from typing import Any, NamedTuple

import numpy as np

from ..._arrays import (
    Array,
    Axis,
    as_array,
    as_real,
    check_flags,
    core_axes,
    empty,
    narrow,
    normalise,
    widen,
)
from ..._backends import choose
from ..._limits import fill_in

__all__ = [
    "LogsumexpBounds",
    "LogsumexpLipschitz",
    "entropy_invariant_scale",
    "entropy_invariant_softmax",
    "entropy_invariant_softmax_vjp",
    "log_softmax",
    "log_softmax_vjp",
    "logmeanexp",
    "logmeanexp_vjp",
    "logsumexp",
    "logsumexp_bounds",
    "logsumexp_jensen_gap",
    "logsumexp_lipschitz",
    "logsumexp_softmax",
    "logsumexp_vjp",
    "softmax",
    "softmax_entropy",
    "softmax_entropy_vjp",
    "softmax_vjp",
]


class LogsumexpBounds(NamedTuple):
    """Three lower bounds and the upper bound of tau logsumexp(x / tau)."""

    lower_max: Array
    lower_mean: Array
    lower_weighted: Array
    upper: Array


class LogsumexpLipschitz(NamedTuple):
    """Difference of two logsumexp and its bound, the largest difference of the arguments."""

    difference: Array
    distance: Array


def logsumexp(
    a: Array,
    axis: Axis = None,
    b: Array | None = None,
    keepdims: bool = False,
    return_sign: bool = False,
    *,
    mask: Array | None = None,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """log S, S = sum b_i exp(a_i), without overflow and without loss near 0.

    Signature ``(n),(n)?,(n)?->(),()?``.

    Parameters
    ----------
    a : array of float64, float32, float16, bfloat16, integers or bool
        Any values. Integers and bool are computed in float64.
    axis : int, tuple of ints or None
        Axes that are summed over; None: all of them; ``()``: each element is its own slice.
    b : array, optional
        Weights of any sign, broadcast with `a` (which they may enlarge). Entries with b = 0 are
        left out, whatever their `a` is. Default: 1.
    keepdims : bool
        Keep the reduced axes with size 1.
    return_sign : bool
        Return (log|S|, sign of S).
    mask : array of bool, optional
        Broadcastable to the data; True = takes part.
    out : array, or tuple of two with `return_sign`, optional
        Where the result goes; shape and dtype have to be those of the result.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array, or tuple of two arrays
        The shape of the data without `axis`; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays; NumPy mixed with CuPy; a `mask` that is not bool.
    ValueError
        Shapes that do not fit; a repeated axis. An axis out of range: ``AxisError``.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: an empty, fully masked or all -inf slice gives -inf with sign 0. A +inf gives
    +inf with the sign of its weight; +inf with both signs gives (nan, nan). S < 0 without
    `return_sign` gives nan; S = 0 gives -inf with sign 0. An infinite weight acts as an infinite
    term, but 0 times infinity is nan. nan stays within its slice.

    Accuracy: at most LIMITS["logsumexp"] ULP of
    MAGNITUDE["logsumexp"]. With weights of
    both signs the error is at most 8 u (|a_k + log|b_k|| + |result|) + 4 u sum|b exp(a)| / |S|,
    k the largest term, u the unit roundoff.

    Source: kexue.fm/archives/9070; Blanchard, Higham and Higham, doi 10.1093/imanum/draa038.

    Examples
    --------
    >>> import kexue_native as kn
    >>> round(float(kn.logsumexp([1000.0, 1000.0])), 12)
    1000.69314718056
    >>> value, sign = kn.logsumexp([0.0, 0.0], b=[1.0, -3.0], return_sign=True)
    >>> round(float(value), 12), float(sign)
    (0.69314718056, -1.0)
    """
    if return_sign is not False:
        check_flags("logsumexp", return_sign=return_sign)
    if b is None and not return_sign:
        call = normalise("logsumexp", "(n),(n)?->()", axis, out, keepdims=keepdims, a=a, mask=mask)
        choose("special.reductions", call, backend).logsumexp(*call.inputs, *call.outputs)
        return call.result()
    call = normalise(
        "logsumexp",
        "(n),(n),(n)?->(),()" if return_sign else "(n),(n),(n)?->()",
        axis,
        out,
        keepdims=keepdims,
        a=a,
        b=1.0 if b is None else b,
        mask=mask,
    )
    no_sign = () if return_sign else (None,)
    choose("special.reductions", call, backend).logsumexp_weighted(
        *call.inputs, *call.outputs, *no_sign
    )
    return call.result()


def logsumexp_vjp(
    a: Array,
    g: Array,
    axis: Axis = None,
    b: Array | None = None,
    *,
    mask: Array | None = None,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """g b_i exp(a_i) / S, the gradient of `logsumexp` weighted by g.

    Signature ``(n),(),(n)?,(n)?->(n)``.

    Parameters
    ----------
    a, axis, b, mask : see `logsumexp`
    g : array
        Weights of the result, of exactly its shape (without kept axes).
    out : array, optional
        Where the result goes; it may be `a` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `a`; where `b` enlarges `a`, summed back to that shape.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `logsumexp`; ValueError also for a `g` of another shape.

    Notes
    -----
    Special values: an all -inf slice gives 0; several +inf share g in proportion to their
    weights. Where the value of `logsumexp` with its sign is nan, so is the slice, except that
    masked entries and entries with b = 0 always give 0.

    Accuracy: at most LIMITS["logsumexp_vjp"] ULP of
    MAGNITUDE["logsumexp_vjp"].

    Source: kexue.fm/archives/9070.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.logsumexp_vjp([0.0, 0.0], 1.0)
    array([0.5, 0.5])
    """
    if b is None:
        call = normalise("logsumexp_vjp", "(n),(),(n)?->(n)", axis, out, a=a, g=g, mask=mask)
        choose("special.reductions", call, backend).logsumexp_vjp(*call.inputs, *call.outputs)
    else:
        call = normalise(
            "logsumexp_vjp", "(n),(n),(),(n)?->(n)", axis, out, a=a, b=b, g=g, mask=mask
        )
        choose("special.reductions", call, backend).logsumexp_weighted_vjp(
            *call.inputs, *call.outputs
        )
    return call.result()


_NO_NEGATIVE_WEIGHT = "weights must not be negative"


def logmeanexp(
    a: Array,
    axis: Axis = None,
    weights: Array | None = None,
    keepdims: bool = False,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """log(sum w_i exp(a_i) / sum w_i), exact for equal entries.

    Signature ``(n),(n)?->()``.

    Parameters
    ----------
    a : array of float64, float32, float16, bfloat16, integers or bool
        Any values.
    axis : int, tuple of ints or None
        Axes that are averaged over; None: all of them.
    weights : array, optional
        Not negative, broadcastable to `a`. Entries of weight 0 are left out. Default: 1.
    keepdims : bool
        Keep the reduced axes with size 1.
    out : array, optional
        Where the result goes.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `a` without `axis`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `logsumexp`. A negative weight: ValueError on the CPU, nan on a GPU.

    Notes
    -----
    Special values: an empty slice, or weights that sum to 0, give nan; all -inf gives -inf; a
    +inf gives +inf.

    Accuracy: at most LIMITS["logmeanexp"] ULP of
    MAGNITUDE["logmeanexp"]. Close to equal
    entries the result keeps its relative accuracy, which logsumexp(a) - log(n) loses.

    Source: kexue.fm/archives/9070.

    Examples
    --------
    >>> import kexue_native as kn
    >>> float(kn.logmeanexp([0.1, 0.1, 0.1]))
    0.1
    >>> float(kn.logmeanexp([0.0, 1.0], weights=[1.0, 0.0]))
    0.0
    """
    call = normalise(
        "logmeanexp",
        "(n),(n)?->()",
        axis,
        out,
        keepdims=keepdims,
        whole=True,
        a=a,
        weights=weights,
    )
    invalid = choose("special.reductions", call, backend).logmeanexp(*call.inputs, *call.outputs)
    call.require(invalid, _NO_NEGATIVE_WEIGHT)
    return call.result()


def logmeanexp_vjp(
    a: Array,
    g: Array,
    axis: Axis = None,
    weights: Array | None = None,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """g w_i exp(a_i) / sum w exp(a), the gradient of `logmeanexp` weighted by g.

    Signature ``(n),(),(n)?->(n)``.

    Parameters
    ----------
    a, axis, weights : see `logmeanexp`
    g : array
        Weights of the result, of exactly its shape.
    out : array, optional
        Where the result goes; it may be `a` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `a`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `logmeanexp`.

    Notes
    -----
    Special values: all -inf gives 0, and so do entries of weight 0, even in a slice that is nan
    because of a nan in `a`. Weights that sum to 0, or one that is nan (on a GPU also a negative
    one), give nan throughout.

    Accuracy: at most LIMITS["logmeanexp_vjp"] ULP of
    MAGNITUDE["logmeanexp_vjp"].

    Source: kexue.fm/archives/9070.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.logmeanexp_vjp([0.0, 0.0], 1.0, weights=[1.0, 3.0])
    array([0.25, 0.75])
    """
    call = normalise(
        "logmeanexp_vjp",
        "(n),(),(n)?->(n)",
        axis,
        out,
        whole=True,
        a=a,
        g=g,
        weights=weights,
    )
    invalid = choose("special.reductions", call, backend).logmeanexp_vjp(
        *call.inputs, *call.outputs
    )
    call.require(invalid, _NO_NEGATIVE_WEIGHT)
    return call.result()


def softmax(
    x: Array,
    axis: Axis = None,
    *,
    mask: Array | None = None,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """p_i = exp(x_i) / sum exp(x).

    Signature ``(n),(n)?->(n)``.

    Parameters
    ----------
    x : array of float64, float32, float16, bfloat16, integers or bool
        Any values.
    axis : int, tuple of ints or None
        Axes of the sum; None: all of them.
    mask : array of bool, optional
        Broadcastable to `x`; True = takes part. Masked entries are 0.
    out : array, optional
        Where the result goes; it may be `x` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `x`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `logsumexp`.

    Notes
    -----
    Special values: k entries of +inf are 1/k each and all others 0; an all -inf slice gives nan;
    a fully masked slice gives 0.

    Accuracy: at most LIMITS["softmax"] ULP of
    MAGNITUDE["softmax"].

    Source: kexue.fm/archives/9070 and 3290.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.softmax([1000.0, 1000.0, float("-inf")])
    array([0.5, 0.5, 0. ])
    """
    call = normalise("softmax", "(n),(n)?->(n)", axis, out, x=x, mask=mask)
    choose("special.reductions", call, backend).softmax(*call.inputs, *call.outputs)
    return call.result()


def softmax_vjp(
    x: Array,
    g: Array,
    axis: Axis = None,
    *,
    mask: Array | None = None,
    scale: float = 1.0,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """scale p_i (g_i - sum p g), p = softmax(scale x).

    Signature ``(n),(n),(n)?->(n)``.

    Parameters
    ----------
    x, axis, mask : see `softmax`
    g : array
        Weights of the result, of exactly its shape. Masked entries are not read.
    scale : float
        Finite factor of `x`.
    out : array, optional
        Where the result goes; it may be `x` or `g` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `x`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `logsumexp`.

    Notes
    -----
    Special values: masked entries give 0; a slice whose softmax is nan gives nan.

    Accuracy: at most LIMITS["softmax_vjp"] ULP of
    MAGNITUDE["softmax_vjp"].

    Source: kexue.fm/archives/9070.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.softmax_vjp([0.0, 0.0], [1.0, 0.0])
    array([ 0.25, -0.25])
    """
    scale = as_real("softmax_vjp", "scale", scale)
    call = normalise("softmax_vjp", "(n),(n),(n)?->(n)", axis, out, x=x, g=g, mask=mask)
    choose("special.reductions", call, backend).softmax_vjp(*call.inputs, scale, *call.outputs)
    return call.result()


def log_softmax(
    x: Array,
    axis: Axis = None,
    *,
    mask: Array | None = None,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """log p_i = x_i - log(sum exp(x)), to full relative accuracy for confident winners too.

    Signature ``(n),(n)?->(n)``.

    Parameters
    ----------
    x, axis, out, backend : see `softmax`
    mask : array of bool, optional
        Broadcastable to `x`; True = takes part. Masked entries are -inf.

    Returns
    -------
    array
        The shape of `x`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `logsumexp`.

    Notes
    -----
    Special values: k entries of +inf are -log k each and all others -inf; an all -inf slice gives
    nan; a fully masked slice gives -inf.

    Accuracy: at most LIMITS["log_softmax"] ULP of
    MAGNITUDE["log_softmax"].

    Source: kexue.fm/archives/9070.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.log_softmax([0.0, -40.0])
    array([-4.24835426e-18, -4.00000000e+01])
    """
    call = normalise("log_softmax", "(n),(n)?->(n)", axis, out, x=x, mask=mask)
    choose("special.reductions", call, backend).log_softmax(*call.inputs, *call.outputs)
    return call.result()


def log_softmax_vjp(
    x: Array,
    g: Array,
    axis: Axis = None,
    *,
    mask: Array | None = None,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """g_i - p_i sum g, the gradient of `log_softmax` weighted by g.

    Signature ``(n),(n),(n)?->(n)``.

    Parameters
    ----------
    x, axis, mask : see `log_softmax`
    g : array
        Weights of the result, of exactly its shape. Masked entries are not read.
    out : array, optional
        Where the result goes; it may be `x` or `g` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `x`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `logsumexp`.

    Notes
    -----
    Special values: masked entries give 0; a slice whose log_softmax is nan gives nan. With
    infinite g each entry is the limit, and nan where that is not unique: g = (1, inf, 0) gives
    (-inf, inf, -inf).

    Accuracy: at most LIMITS["log_softmax_vjp"] ULP of
    MAGNITUDE["log_softmax_vjp"].

    Source: kexue.fm/archives/9070.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.log_softmax_vjp([0.0, 0.0], [1.0, 0.0])
    array([ 0.5, -0.5])
    """
    call = normalise("log_softmax_vjp", "(n),(n),(n)?->(n)", axis, out, x=x, g=g, mask=mask)
    choose("special.reductions", call, backend).log_softmax_vjp(*call.inputs, *call.outputs)
    return call.result()


def logsumexp_softmax(
    x: Array,
    axis: Axis = -1,
    keepdims: bool = False,
    *,
    mask: Array | None = None,
    out: tuple[Array, Array] | None = None,
    backend: str | None = None,
) -> Any:
    """(log(sum exp(x)), softmax(x)), sharing one pass of exponentials.

    Signature ``(n),(n)?->(),(n)``.

    Parameters
    ----------
    x, mask, backend : see `softmax`
    axis : int, tuple of ints or None
        Axes of the sum; None: all of them.
    keepdims : bool
        Keep the reduced axes of the first result with size 1.
    out : tuple of two arrays, optional
        Where the results go; the second may be `x` itself.

    Returns
    -------
    tuple of two arrays
        The shape of `x` without `axis`, and the shape of `x`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `logsumexp`.

    Notes
    -----
    Special values: those of `logsumexp` and `softmax`.

    Accuracy: at most LIMITS["logsumexp_softmax"] ULP of
    MAGNITUDE["logsumexp_softmax"].

    Source: kexue.fm/archives/9070.

    Examples
    --------
    >>> import kexue_native as kn
    >>> lse, p = kn.logsumexp_softmax([0.0, 0.0])
    >>> round(float(lse), 12), p
    (0.69314718056, array([0.5, 0.5]))
    """
    call = normalise(
        "logsumexp_softmax", "(n),(n)?->(),(n)", axis, out, keepdims=keepdims, x=x, mask=mask
    )
    choose("special.reductions", call, backend).logsumexp_softmax(*call.inputs, *call.outputs)
    return call.result()


def softmax_entropy(
    x: Array,
    axis: Axis = -1,
    *,
    scale: float = 1.0,
    mask: Array | None = None,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """H = -sum p log p, p = softmax(scale x).

    Signature ``(n),(n)?->()``.

    Parameters
    ----------
    x, mask, backend : see `softmax`
    axis : int, tuple of ints or None
        Axes of the sum.
    scale : float
        Finite factor of `x`.
    out : array, optional
        Where the result goes.

    Returns
    -------
    array
        The shape of `x` without `axis`; between 0 and log n.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `logsumexp`; ValueError also for a `scale` that is not finite.

    Notes
    -----
    Special values: a fully masked or empty slice gives 0; k entries of +inf give log k; an all
    -inf slice gives nan.

    Accuracy: at most LIMITS["softmax_entropy"] ULP of
    MAGNITUDE["softmax_entropy"].

    Source: kexue.fm/archives/8823 and 9034.

    Examples
    --------
    >>> import kexue_native as kn
    >>> round(float(kn.softmax_entropy([3.0, 3.0])), 12)
    0.69314718056
    """
    scale = as_real("softmax_entropy", "scale", scale)
    call = normalise("softmax_entropy", "(n),(n)?->()", axis, out, x=x, mask=mask)
    choose("special.reductions", call, backend).softmax_entropy(*call.inputs, scale, *call.outputs)
    return call.result()


def softmax_entropy_vjp(
    x: Array,
    g: Array,
    axis: Axis = -1,
    *,
    scale: float = 1.0,
    mask: Array | None = None,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """-g scale p_i (log p_i + H), the gradient of `softmax_entropy` weighted by g.

    Signature ``(n),(),(n)?->(n)``.

    Parameters
    ----------
    x, axis, scale, mask : see `softmax_entropy`
    g : array
        Weights of the result, of exactly its shape.
    out : array, optional
        Where the result goes; it may be `x` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `x`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `softmax_entropy`.

    Notes
    -----
    Special values: entries without weight and masked entries give 0.

    Accuracy: at most LIMITS["softmax_entropy_vjp"] ULP of
    MAGNITUDE["softmax_entropy_vjp"].

    Source: kexue.fm/archives/8823 and 9034.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.softmax_entropy_vjp([0.0, 0.0], 1.0) == 0
    array([ True,  True])
    """
    scale = as_real("softmax_entropy_vjp", "scale", scale)
    call = normalise("softmax_entropy_vjp", "(n),(),(n)?->(n)", axis, out, x=x, g=g, mask=mask)
    choose("special.reductions", call, backend).softmax_entropy_vjp(
        *call.inputs, scale, *call.outputs
    )
    return call.result()


def logsumexp_bounds(
    x: Array,
    axis: Axis = -1,
    *,
    p: Array | None = None,
    order: float = 1.0,
    tau: float = 1.0,
    out: tuple[Array, Array, Array, Array] | None = None,
    backend: str | None = None,
) -> LogsumexpBounds:
    """max x, mean x + tau log n, sum p x + tau R(p) <= tau lse(x / tau) <= max x + tau log n.

    Signature ``(n),(n)?->(),(),(),()``. R(p) = log(sum p^t) / (1 - t) is the Renyi entropy of
    order t; t = 1 is the limit -sum p log p, the tightest, with equality for p = softmax(x / tau).

    Parameters
    ----------
    x : array of float64, float32, float16, bfloat16, integers or bool
        Any values.
    axis : int, tuple of ints or None
        Axes of the sum.
    p : array, optional
        Probabilities, broadcastable to `x`: not negative, with sum 1 within 1e-6 or, for float16
        and bfloat16, within rounding, 1e-3 and 8e-3 (they are then divided by their sum).
        Default: equal ones.
    order : float
        t, finite and at least 1; below 1 it is no bound in general.
    tau : float
        Positive and finite.
    out : tuple of four arrays, optional
        Where the results go.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    LogsumexpBounds
        lower_max, lower_mean, lower_weighted, upper, each of the shape of `x` without `axis`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `logsumexp`; ValueError also for `order`, `tau` and, on the CPU, for `p`. On a GPU a
        slice with an invalid `p` gives nan in lower_weighted.

    Notes
    -----
    Special values: an empty slice gives -inf four times; entries with p = 0 are left out of
    sum p x.

    Accuracy: at most LIMITS["logsumexp_bounds"] ULP of
    MAGNITUDE["logsumexp_bounds"].

    Source: kexue.fm/archives/9070.

    Examples
    --------
    >>> import kexue_native as kn
    >>> bounds = kn.logsumexp_bounds([0.0, 0.0])
    >>> float(bounds.lower_max), round(float(bounds.upper), 12)
    (0.0, 0.69314718056)
    """
    order = as_real("logsumexp_bounds", "order", order, at_least=1.0)
    tau = as_real("logsumexp_bounds", "tau", tau, above=0.0)
    call = normalise("logsumexp_bounds", "(n),(n)?->(),(),(),()", axis, out, whole=True, x=x, p=p)
    kernels = choose("special.reductions", call, backend)
    invalid = kernels.logsumexp_bounds(*call.inputs, order, tau, *call.outputs)
    call.require(invalid, "p must not be negative and must sum to 1 (within 1e-6 and rounding)")
    return LogsumexpBounds(*call.result())


def logsumexp_lipschitz(
    x: Array,
    y: Array,
    axis: Axis = -1,
    *,
    out: tuple[Array, Array] | None = None,
    backend: str | None = None,
) -> LogsumexpLipschitz:
    """|lse x - lse y| <= max|x - y|.

    Signature ``(n),(n)->(),()``.

    Parameters
    ----------
    x, y : arrays of float64, float32, float16, bfloat16, integers or bool
        Any values; the two broadcast together.
    axis : int, tuple of ints or None
        Axes of the sum and of the maximum.
    out : tuple of two arrays, optional
        Where the results go.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    LogsumexpLipschitz
        difference and distance, each of the shape of the data without `axis`. The first is never
        larger than the second.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `logsumexp`.

    Notes
    -----
    Special values: equal infinities differ by 0; empty slices give (0, 0).

    Accuracy: at most LIMITS["logsumexp_lipschitz"] ULP of
    MAGNITUDE["logsumexp_lipschitz"].

    Source: kexue.fm/archives/9070.

    Examples
    --------
    >>> import kexue_native as kn
    >>> difference, distance = kn.logsumexp_lipschitz([0.0, 0.0], [1.0, 1.0])
    >>> round(float(difference), 12), float(distance)
    (1.0, 1.0)
    """
    call = normalise("logsumexp_lipschitz", "(n),(n)->(),()", axis, out, x=x, y=y)
    choose("special.reductions", call, backend).logsumexp_lipschitz(*call.inputs, *call.outputs)
    return LogsumexpLipschitz(*call.result())


def logsumexp_jensen_gap(
    x: Array,
    axis: Axis = -1,
    sample_axis: int = 0,
    *,
    weights: Array | None = None,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """sum_k w_k lse(x_k) - lse(sum_k w_k x_k) >= 0: logsumexp is convex.

    Signature ``(k,n),(k)?->()``.

    Parameters
    ----------
    x : array of float64, float32, float16, bfloat16, integers or bool
        Samples along `sample_axis`, at least one.
    axis : int, tuple of ints or None
        Axes of the sum; None: all but `sample_axis`.
    sample_axis : int
        The axis of the samples, not one of `axis`.
    weights : array of shape (k,), optional
        Not negative, with sum 1 within 1e-6. Default: 1/k each. For two samples the weights
        (t, 1 - t) give the two-point form.
    out : array, optional
        Where the result goes.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `x` without `axis` and `sample_axis`; never negative.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `logsumexp`; ValueError also for weights as above (on a GPU: nan).

    Notes
    -----
    Special values: equal infinities differ by 0; samples of weight 0 are left out.

    Accuracy: at most LIMITS["logsumexp_jensen_gap"] ULP of
    MAGNITUDE["logsumexp_jensen_gap"].

    Source: kexue.fm/archives/9070.

    Examples
    --------
    >>> import kexue_native as kn
    >>> round(float(kn.logsumexp_jensen_gap([[0.0, 2.0], [2.0, 0.0]])), 12)
    0.433780830483
    """
    name = "logsumexp_jensen_gap"
    x = as_array(name, "x", x)
    try:
        index(sample_axis)
    except TypeError:
        raise TypeError(f"{name}: sample_axis must be an int, got {sample_axis!r}") from None
    (samples,) = core_axes(name, sample_axis, x.ndim, "sample_axis") or (0,)
    axes = core_axes(name, axis, x.ndim)
    if axis is None:
        axes = tuple(i for i in axes if i != samples)
    if x.ndim == 0 or samples in axes:
        raise ValueError(
            f"{name}: sample_axis must be an axis of x besides axis, "
            f"got {sample_axis} and {axis} for a {x.ndim}-d array"
        )
    call = normalise(name, "(n)->()", (samples, *axes), out, x=x)
    xp, (rows,), (gap,) = call.xp, call.inputs, call.outputs
    count = x.shape[samples]
    w = _sample_weights(name, xp, weights, count)
    rows = widen(rows).reshape(*gap.shape, count, rows.shape[-1] // max(count, 1))
    kernels = choose("special.reductions", call, backend)
    each = empty(rows, rows.shape[:-1], rows.dtype)
    kernels.logsumexp(rows, None, each)
    with np.errstate(all="ignore"):
        mean = xp.sum(xp.where(w[:, None] == 0, 0.0, w[:, None] * rows), axis=-2)
        of_mean = empty(rows, gap.shape, rows.dtype)
        kernels.logsumexp(mean, None, of_mean)
        mean_of = xp.sum(xp.where(w == 0, 0.0, w * each), axis=-1)
        value = xp.where(mean_of == of_mean, 0.0, mean_of - of_mean)
        narrow(gap)[...] = xp.maximum(value, 0.0)
    return call.result()


def _sample_weights(name: str, xp: Any, weights: Array | None, count: int) -> Array:
    """Weights of the samples, divided by their sum; NaN on a GPU where they are invalid."""
    if count == 0:
        raise ValueError(f"{name}: x must have at least one sample, got none")
    if weights is None:
        return xp.full((count,), 1.0 / count)
    w = normalise(name, "()->()", (), None, weights=weights).inputs[0]
    w = widen(w)
    if w.shape != (count,):
        raise ValueError(f"{name}: weights must have shape ({count},), got {w.shape}")
    total = xp.sum(w)
    invalid = xp.any(w < 0) | (xp.abs(total - 1) > 1e-6)
    if xp is np and invalid:
        raise ValueError(
            f"{name}: weights must not be negative and must sum to 1 within 1e-6, "
            f"got {w.min()} as the smallest and {total} as the sum"
        )
    return xp.where(invalid, math.nan, w / total)


def entropy_invariant_scale(
    n: Array,
    *,
    dim: float | None = None,
    kappa: float | None = None,
    base: float = 512.0,
    min_length: float = 1,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """log n / log base; with dim: log n / (log base sqrt(dim)); with kappa too: kappa log n / dim.

    Elementwise, signature ``()->()``. The factor of attention scores that keeps the entropy of
    attention independent of the number n of keys.

    Parameters
    ----------
    n : array of integers or floats
        Number of keys, not negative; raised to max(n, min_length, 1).
    dim : float, optional
        Dimension of a head, positive. Without it the scale multiplies scores that already carry
        1 / sqrt(dim).
    kappa : float, optional
        Finite factor of the second form; needs `dim`. The forms agree for
        kappa = sqrt(dim) / log(base).
    base : float
        The length at which ordinary attention results, greater than 1.
    min_length : float
        Finite; 16 is known as "softmax_plus", since very short sequences get flatter otherwise.
    out : array, optional
        Where the result goes; it may be `n` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `n`; integers give float64.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `logsumexp`; ValueError also for parameters outside their domain and, on the CPU, for
        n < 0 (on a GPU: nan).

    Notes
    -----
    Special values: n <= 1 gives 0 (with min_length = 1), +inf gives +inf.

    Accuracy: at most LIMITS["entropy_invariant_scale"] ULP of
    MAGNITUDE["entropy_invariant_scale"].

    Source: kexue.fm/archives/8823 and 9034.

    Examples
    --------
    >>> import kexue_native as kn
    >>> round(float(kn.entropy_invariant_scale(512)), 12)
    1.0
    >>> kn.entropy_invariant_scale([1, 512**2]).round(12)
    array([0., 2.])
    """
    name = "entropy_invariant_scale"
    coefficient = _scale_coefficient(name, dim, kappa, base)
    min_length = as_real(name, "min_length", min_length)
    call = normalise(name, "()->()", (), out, whole=True, n=n)
    kernels = choose("special.reductions", call, backend)
    invalid = kernels.entropy_invariant_scale(*call.inputs, coefficient, min_length, *call.outputs)
    call.require(invalid, "n must not be negative")
    return call.result()


def _scale_coefficient(name: str, dim: float | None, kappa: float | None, base: float) -> float:
    """The factor of log n."""
    base = as_real(name, "base", base, above=1.0)
    if dim is None:
        if kappa is not None:
            raise ValueError(f"{name}: kappa must come with dim, got kappa alone")
        return 1.0 / math.log(base)
    dim = as_real(name, "dim", dim, above=0.0)
    if kappa is None:
        return 1.0 / (math.log(base) * math.sqrt(dim))
    return as_real(name, "kappa", kappa) / dim


def entropy_invariant_softmax(
    scores: Array,
    axis: Axis = -1,
    *,
    mask: Array | None = None,
    dim: float | None = None,
    kappa: float | None = None,
    base: float = 512.0,
    min_length: float = 1,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """softmax(lambda(n) scores), n = the number of unmasked entries of each slice.

    Signature ``(n),(n)?->(n)``; lambda(n) is `entropy_invariant_scale`.

    Parameters
    ----------
    scores : array of float64, float32, float16, bfloat16, integers or bool
        Any values. Masked entries are not read, and never scaled.
    axis : int, tuple of ints or None
        Axes of the sum.
    mask : array of bool, optional
        Broadcastable to `scores`; True = takes part. With a causal mask n differs per row.
    dim, kappa, base, min_length : see `entropy_invariant_scale`
    out : array, optional
        Where the result goes; it may be `scores` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `scores`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `entropy_invariant_scale`.

    Notes
    -----
    Special values: n = 1 gives exactly 1 on that entry if it is finite; others as `softmax`.

    Accuracy: at most LIMITS["entropy_invariant_softmax"] ULP of
    MAGNITUDE["entropy_invariant_softmax"].

    Source: kexue.fm/archives/8823, 9034 and 9019; arXiv 2202.12172.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.entropy_invariant_softmax([0.3, 0.7], mask=[True, False])
    array([1., 0.])
    """
    name = "entropy_invariant_softmax"
    coefficient = _scale_coefficient(name, dim, kappa, base)
    min_length = as_real(name, "min_length", min_length)
    call = normalise(name, "(n),(n)?->(n)", axis, out, scores=scores, mask=mask)
    kernels = choose("special.reductions", call, backend)
    kernels.entropy_invariant_softmax(*call.inputs, coefficient, min_length, *call.outputs)
    return call.result()


def entropy_invariant_softmax_vjp(
    scores: Array,
    g: Array,
    axis: Axis = -1,
    *,
    mask: Array | None = None,
    dim: float | None = None,
    kappa: float | None = None,
    base: float = 512.0,
    min_length: float = 1,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """lambda p_i (g_i - sum p g), p = entropy_invariant_softmax(scores).

    Signature ``(n),(n),(n)?->(n)``.

    Parameters
    ----------
    scores, axis, mask, dim, kappa, base, min_length : see `entropy_invariant_softmax`
    g : array
        Weights of the result, of exactly its shape. Masked entries are not read.
    out : array, optional
        Where the result goes; it may be `scores` or `g` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `scores`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `entropy_invariant_scale`.

    Notes
    -----
    Special values: masked entries give 0; n = 1 gives 0.

    Accuracy: at most LIMITS["entropy_invariant_softmax_vjp"] ULP of
    MAGNITUDE["entropy_invariant_softmax_vjp"].

    Source: kexue.fm/archives/8823, 9034 and 9019.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.entropy_invariant_softmax_vjp([0.0, 0.0], [1.0, 0.0], base=2.0).round(12)
    array([ 0.25, -0.25])
    """
    name = "entropy_invariant_softmax_vjp"
    coefficient = _scale_coefficient(name, dim, kappa, base)
    min_length = as_real(name, "min_length", min_length)
    call = normalise(name, "(n),(n),(n)?->(n)", axis, out, scores=scores, g=g, mask=mask)
    kernels = choose("special.reductions", call, backend)
    kernels.entropy_invariant_softmax_vjp(*call.inputs, coefficient, min_length, *call.outputs)
    return call.result()


fill_in(globals()[name] for name in __all__)
