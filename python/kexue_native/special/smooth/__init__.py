"""Smooth forms of the maximum, its position and one-hot vectors, and the Taylor softmax."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from operator import index
from typing import Any

import numpy as np

from ..._arrays import Array, Axis, as_real, check_flags, empty, narrow, normalise, one_of, widen
from ..._backends import choose
from ..._limits import fill_in
from .reference import taylor_minimiser

__all__ = [
    "smooth_max",
    "smooth_max_vjp",
    "soft_argmax",
    "soft_argmax_vjp",
    "soft_kmax",
    "soft_kmax_vjp",
    "soft_onehot",
    "soft_onehot_vjp",
    "taylor_softmax",
    "taylor_softmax_vjp",
]


def taylor_softmax(
    x: Array,
    n: int = 2,
    axis: Axis = -1,
    *,
    mask: Array | None = None,
    monotone: bool = False,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """f(x_i) / sum f(x_k), f(x) = 1 + x + ... + x^n / n!, which is positive for even n.

    Signature ``(n),(n)?->(n)``.

    Parameters
    ----------
    x : array of float64, float32, float16, bfloat16, integers or bool
        Any values. Where n is small negative values are far from those of softmax: f has its
        minimum at -1 (n = 2) or below and rises again to the left of it.
    n : int
        Degree, even, from 2 to 64.
    axis : int, tuple of ints or None
        Axes of the sum.
    mask : array of bool, optional
        Broadcastable to `x`; True = takes part. An `x` of -inf does not mask.
    monotone : bool
        Left of its minimum f keeps the minimal value, so that probabilities keep the order of x.
    out : array, optional
        Where the result goes; it may be `x` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `x`; rows sum to 1, masked entries are 0.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `logsumexp`; ValueError also for `n`.

    Notes
    -----
    Special values: infinite entries, -inf too unless `monotone`, share the mass equally and leave
    nothing to the others. nan fills its slice.

    Accuracy: at most LIMITS["taylor_softmax"] ULP of
    MAGNITUDE["taylor_softmax"].

    Source: kexue.fm/archives/7919; arXiv 1511.05042 and 2011.11538. Evaluated as
    sum_j w_j (x + t_j)^n / n! with the nodes of Gauss-Laguerre quadrature, a sum of even powers.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.taylor_softmax([0.0, 1.0, -1.0])
    array([0.25 , 0.625, 0.125])
    """
    check_flags("taylor_softmax", monotone=monotone)
    degree = as_degree("taylor_softmax", n)
    call = normalise("taylor_softmax", "(n),(n)?->(n)", axis, out, x=x, mask=mask)
    kernels = choose("special.smooth", call, backend)
    kernels.taylor_softmax(*call.inputs, degree, _floor(degree, monotone), *call.outputs)
    return call.result()


def taylor_softmax_vjp(
    x: Array,
    g: Array,
    n: int = 2,
    axis: Axis = -1,
    *,
    mask: Array | None = None,
    monotone: bool = False,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """f'(x_i) / sum f(x_k) (g_i - sum p g), p = taylor_softmax(x).

    Signature ``(n),(n),(n)?->(n)``; f' is the polynomial of degree n - 1.

    Parameters
    ----------
    x, n, axis, mask, monotone : see `taylor_softmax`
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
        As `taylor_softmax`.

    Notes
    -----
    Special values: masked entries, slices with an infinite entry and, with `monotone`, entries up
    to the minimum give 0.

    Accuracy: at most LIMITS["taylor_softmax_vjp"] ULP of
    MAGNITUDE["taylor_softmax_vjp"].

    Source: kexue.fm/archives/7919.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.taylor_softmax_vjp([0.0, 0.0], [1.0, 0.0])
    array([ 0.25, -0.25])
    """
    check_flags("taylor_softmax_vjp", monotone=monotone)
    degree = as_degree("taylor_softmax_vjp", n)
    call = normalise("taylor_softmax_vjp", "(n),(n),(n)?->(n)", axis, out, x=x, g=g, mask=mask)
    kernels = choose("special.smooth", call, backend)
    kernels.taylor_softmax_vjp(*call.inputs, degree, _floor(degree, monotone), *call.outputs)
    return call.result()


def as_degree(name: str, n: int) -> int:
    """The degree of a Taylor polynomial that is positive."""
    try:
        degree = index(n)
    except TypeError:
        raise TypeError(f"{name}: n must be an int, got {n!r}") from None
    if degree % 2 or not 2 <= degree <= 64:
        raise ValueError(f"{name}: n must be even and in [2, 64], got {degree}")
    return degree


def _floor(degree: int, monotone: bool) -> float:
    """Entries below this count as this."""
    return taylor_minimiser(degree) if monotone else -math.inf


def smooth_max(
    x: Array,
    k: float = 1.0,
    axis: Axis = -1,
    *,
    method: str = "logsumexp",
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """log(sum exp(k x)) / k, or sum p x with p = softmax(k x): the maximum as k grows.

    Signature ``(n)->()``. The first is at least max x and at most max x + log(n) / k, the second
    lies between the mean and the maximum. For k < 0 both are smooth minima.

    Parameters
    ----------
    x : array of float64, float32, float16, bfloat16, integers or bool
        Any values.
    k : float
        Sharpness, finite and not 0.
    axis : int, tuple of ints or None
        Axes of the maximum.
    method : {"logsumexp", "softmax"}
        Which of the two.
    out : array, optional
        Where the result goes.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `x` without `axis`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `logsumexp`; ValueError also for `k` and `method`.

    Notes
    -----
    Special values, for k > 0 (for k < 0 with the signs changed): +inf gives +inf; an empty or all
    -inf slice gives -inf. nan stays within its slice.

    Accuracy: at most LIMITS["smooth_max"] ULP of
    MAGNITUDE["smooth_max"].

    Source: kexue.fm/archives/3290. Of its other forms the odd root and log log sum exp exp fail
    for negative numbers and are not offered.

    Examples
    --------
    >>> import kexue_native as kn
    >>> round(float(kn.smooth_max([1.0, 2.0], 10.0)), 12)
    2.00000453989
    >>> round(float(kn.smooth_max([1.0, 2.0], 10.0, method="softmax")), 12)
    1.999954602131
    """
    k = _as_sharpness("smooth_max", k, method)
    call = normalise("smooth_max", "(n)->()", axis, out, x=x)
    kernels = choose("special.smooth", call, backend)
    if method == "logsumexp":
        kernels.smooth_max_logsumexp(*call.inputs, k, *call.outputs)
    else:
        kernels.smooth_max_softmax(*call.inputs, k, *call.outputs)
    return call.result()


def smooth_max_vjp(
    x: Array,
    g: Array,
    k: float = 1.0,
    axis: Axis = -1,
    *,
    method: str = "logsumexp",
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """g p_i, or g p_i (1 + k (x_i - y)), y = smooth_max(x, method="softmax"); p = softmax(k x).

    Signature ``(n),()->(n)``. The second may be negative.

    Parameters
    ----------
    x, k, axis, method : see `smooth_max`
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
        As `smooth_max`.

    Notes
    -----
    Special values, for k > 0: several +inf share g; an all -inf slice gives 0.

    Accuracy: at most LIMITS["smooth_max_vjp"] ULP of
    MAGNITUDE["smooth_max_vjp"].

    Source: kexue.fm/archives/3290.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.smooth_max_vjp([0.0, 0.0], 1.0)
    array([0.5, 0.5])
    """
    k = _as_sharpness("smooth_max_vjp", k, method)
    call = normalise("smooth_max_vjp", "(n),()->(n)", axis, out, x=x, g=g)
    kernels = choose("special.smooth", call, backend)
    if method == "logsumexp":
        kernels.smooth_max_logsumexp_vjp(*call.inputs, k, *call.outputs)
    else:
        kernels.smooth_max_softmax_vjp(*call.inputs, k, *call.outputs)
    return call.result()


def _as_sharpness(name: str, k: float, method: str) -> float:
    one_of(name, "method", method, ("logsumexp", "softmax"))
    k = as_real(name, "k", k)
    if k == 0:
        raise ValueError(f"{name}: k must not be 0, got {k}")
    return k


def soft_argmax(
    x: Array,
    k: float = 1.0,
    axis: Axis = -1,
    *,
    start: float = 0,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """sum (start + i) p_i, p = softmax(k x): the position of the maximum as k grows.

    Signature ``(n)->()``.

    Parameters
    ----------
    x : array of float64, float32, float16, bfloat16, integers or bool
        Any values.
    k : float
        Sharpness, finite. For k < 0 the position of the minimum.
    axis : int, tuple of ints or None
        Axes of the maximum; several are counted through, the last given runs fastest.
    start : float
        Position of the first entry, finite; the article counts from 1.
    out : array, optional
        Where the result goes.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `x` without `axis`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `logsumexp`; ValueError also for `k` and `start`.

    Notes
    -----
    Special values: as those of `softmax`, so that an all -inf slice gives nan; an empty one too.

    Accuracy: at most LIMITS["soft_argmax"] ULP of
    MAGNITUDE["soft_argmax"].

    Source: kexue.fm/archives/6620.

    Examples
    --------
    >>> import kexue_native as kn
    >>> round(float(kn.soft_argmax([1.0, 3.0, 2.0], 20.0)), 9)
    1.000000002
    """
    k = as_real("soft_argmax", "k", k)
    start = as_real("soft_argmax", "start", start)
    call = normalise("soft_argmax", "(n)->()", axis, out, x=x)
    choose("special.smooth", call, backend).soft_argmax(*call.inputs, k, start, *call.outputs)
    return call.result()


def soft_argmax_vjp(
    x: Array,
    g: Array,
    k: float = 1.0,
    axis: Axis = -1,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """g k p_i (i - sum j p_j), p = softmax(k x).

    Signature ``(n),()->(n)``.

    Parameters
    ----------
    x, k, axis : see `soft_argmax`
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
        As `soft_argmax`.

    Notes
    -----
    Special values: as those of `softmax_vjp`.

    Accuracy: at most LIMITS["soft_argmax_vjp"] ULP of
    MAGNITUDE["soft_argmax_vjp"].

    Source: kexue.fm/archives/6620.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.soft_argmax_vjp([0.0, 0.0], 1.0)
    array([-0.25,  0.25])
    """
    k = as_real("soft_argmax_vjp", "k", k)
    call = normalise("soft_argmax_vjp", "(n),()->(n)", axis, out, x=x, g=g)
    choose("special.smooth", call, backend).soft_argmax_vjp(*call.inputs, k, *call.outputs)
    return call.result()


def soft_onehot(
    x: Array,
    k: float = 1.0,
    axis: Axis = -1,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """softmax(k x): the one-hot vector of the maximum as k grows.

    Signature ``(n)->(n)``.

    Parameters
    ----------
    x : array of float64, float32, float16, bfloat16, integers or bool
        Any values.
    k : float
        Sharpness, finite. For k < 0 the one-hot vector of the minimum.
    axis : int, tuple of ints or None
        Axes of the sum.
    out : array, optional
        Where the result goes; it may be `x` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `x`; rows sum to 1.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `logsumexp`; ValueError also for `k`.

    Notes
    -----
    Special values: as those of `softmax`, with the signs changed for k < 0. k (x - max) is formed,
    never k x, which may overflow.

    Accuracy: at most LIMITS["soft_onehot"] ULP of
    MAGNITUDE["soft_onehot"].

    Source: kexue.fm/archives/6620.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.soft_onehot([1.0, 3.0, 2.0], 50.0).round(12)
    array([0., 1., 0.])
    """
    k = as_real("soft_onehot", "k", k)
    call = normalise("soft_onehot", "(n)->(n)", axis, out, x=x)
    choose("special.smooth", call, backend).soft_onehot(*call.inputs, k, *call.outputs)
    return call.result()


def soft_onehot_vjp(
    x: Array,
    g: Array,
    k: float = 1.0,
    axis: Axis = -1,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """k p_i (g_i - sum p g), p = softmax(k x): `softmax_vjp` with scale k.

    Signature ``(n),(n)->(n)``.

    Parameters
    ----------
    x, k, axis : see `soft_onehot`
    g : array
        Weights of the result, of exactly its shape.
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
        As `soft_onehot`.

    Notes
    -----
    Special values: as those of `softmax_vjp`.

    Accuracy: at most LIMITS["soft_onehot_vjp"] ULP of
    MAGNITUDE["soft_onehot_vjp"].

    Source: kexue.fm/archives/6620.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.soft_onehot_vjp([0.0, 0.0], [1.0, 0.0], 2.0)
    array([ 0.5, -0.5])
    """
    k = as_real("soft_onehot_vjp", "k", k)
    call = normalise("soft_onehot_vjp", "(n),(n)->(n)", axis, out, x=x, g=g)
    x, g = call.inputs
    choose("special.reductions", call, backend).softmax_vjp(x, g, None, k, *call.outputs)
    return call.result()


def soft_kmax(
    x: Array,
    k: int,
    axis: Axis = -1,
    *,
    scale: float = 1.0,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """k times p += softmax((1 - p) z), z = scale (x - min x): the k largest as scale grows.

    Signature ``(n)->(n)``.

    Parameters
    ----------
    x : array of float64, float32, float16, bfloat16, integers or bool
        Any values.
    k : int
        How many, at least 1.
    axis : int, tuple of ints or None
        Axes of the sum.
    scale : float
        Sharpness, positive and finite.
    out : array, optional
        Where the result goes; it may be `x` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `x`; rows sum to k.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `logsumexp`; TypeError and ValueError also for `k`, ValueError for `scale`.

    Notes
    -----
    An entry equal to the minimum looks like one that was already taken, so k = n does not tend to
    all ones: [10, 0] with k = 2 gives [1.5, 0.5]. Without "- min x" it would be worse.

    Special values: +inf is taken first, several share; -inf and nan fill their slice with nan.

    Accuracy: at most LIMITS["soft_kmax"] ULP of
    MAGNITUDE["soft_kmax"]. Each of the
    k softmaxes may enlarge an error of the one before by as much as scale (max x - min x).

    Source: kexue.fm/archives/6620, with the author's reply there.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.soft_kmax([10.0, 0.0, 20.0], 2, scale=10.0).round(9)
    array([1., 0., 1.])
    """
    k, scale = _as_count("soft_kmax", k), as_real("soft_kmax", "scale", scale, above=0.0)
    call = normalise("soft_kmax", "(n)->(n)", axis, out, x=x)
    kernels = choose("special.reductions", call, backend)
    (x,), (p,) = call.inputs, call.outputs
    with np.errstate(all="ignore"):
        steps = _soft_kmax_steps(kernels, call.xp, _above_minimum(call.xp, x, scale), k)
        (narrow(p)[...],) = deque(steps, maxlen=1)
    return call.result()


def soft_kmax_vjp(
    x: Array,
    g: Array,
    k: int,
    axis: Axis = -1,
    *,
    scale: float = 1.0,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """The gradient of `soft_kmax` weighted by g, backwards through its k steps.

    Signature ``(n),(n)->(n)``. With a = J g of softmax at (1 - p) z, each step adds (1 - p) a to
    the gradient of z and takes z a from that of p.

    Parameters
    ----------
    x, k, axis, scale : see `soft_kmax`
    g : array
        Weights of the result, of exactly its shape.
    out : array, optional
        Where the result goes; it may be `x` or `g` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `x`; rows sum to 0. Of several minima the first counts as the minimum.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `soft_kmax`.

    Notes
    -----
    Special values: as those of `soft_kmax`; a slice whose first entries taken are +inf gives 0.

    Accuracy: at most LIMITS["soft_kmax_vjp"] ULP of
    MAGNITUDE["soft_kmax_vjp"].

    Source: kexue.fm/archives/6620.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.soft_kmax_vjp([0.0, 0.0], [1.0, 0.0], 1)
    array([ 0.25, -0.25])
    """
    k, scale = _as_count("soft_kmax_vjp", k), as_real("soft_kmax_vjp", "scale", scale, above=0.0)
    call = normalise("soft_kmax_vjp", "(n),(n)->(n)", axis, out, x=x, g=g)
    kernels = choose("special.reductions", call, backend)
    xp, (x, g), (dx,) = call.xp, call.inputs, call.outputs
    with np.errstate(all="ignore"):
        z, dp = _above_minimum(xp, x, scale), xp.array(xp.broadcast_to(widen(g), x.shape))
        dz, a = xp.zeros_like(z), empty(z, z.shape, z.dtype)
        *before, _ = _soft_kmax_steps(kernels, xp, z, k)
        for p in reversed(before):
            kernels.softmax_vjp(_product(xp, 1 - p, z), dp, None, 1.0, a)
            dz += (1 - p) * a
            dp -= _product(xp, a, z)
        if x.shape[-1]:
            at_minimum = xp.arange(x.shape[-1]) == xp.argmin(z, axis=-1)[..., None]
            dz -= at_minimum * xp.sum(dz, axis=-1, keepdims=True)
        narrow(dx)[...] = scale * dz
    return call.result()


def _above_minimum(xp: Any, x: Array, scale: float) -> Array:
    """z = scale (x - min x)"""
    x = widen(x)
    return scale * (x - xp.min(x, axis=-1, keepdims=True, initial=math.inf))


def _soft_kmax_steps(kernels: Any, xp: Any, z: Array, k: int) -> Iterator[Array]:
    """p before each of the k steps and after the last."""
    p, share = xp.zeros_like(z), empty(z, z.shape, z.dtype)
    yield p
    for _ in range(k):
        kernels.softmax(_product(xp, 1 - p, z), None, share)
        p = p + share
        yield p


def _product(xp: Any, a: Array, z: Array) -> Array:
    """a z, 0 where a is 0 even if z is infinite: what is left of z vanishes faster than z grows."""
    return xp.where(a == 0, 0.0, a * z)


def _as_count(name: str, k: int) -> int:
    try:
        count = index(k)
    except TypeError:
        raise TypeError(f"{name}: k must be an int, got {k!r}") from None
    if count < 1:
        raise ValueError(f"{name}: k must be at least 1, got {count}")
    return count


fill_in(globals()[name] for name in __all__)
