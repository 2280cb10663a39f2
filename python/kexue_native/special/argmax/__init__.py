"""The distribution of arg max under noise, and samples from it: Gumbel-max and Gumbel-softmax."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import suppress
from operator import index
from typing import Any, TypeAlias

import numpy as np

from ..._arrays import (
    Array,
    Axis,
    Call,
    allocate,
    as_array,
    as_real,
    check_flags,
    empty,
    fits,
    namespace,
    narrow,
    normalise,
    one_of,
    widen,
)
from ..._backends import choose
from ..._limits import fill_in
from . import reference

__all__ = [
    "argmax_distribution",
    "argmax_distribution_vjp",
    "gumbel_max",
    "gumbel_noise",
    "gumbel_softmax",
    "gumbel_softmax_vjp",
]

Rng: TypeAlias = "int | np.random.Generator | None"


def argmax_distribution(
    mu: Array,
    noise: str = "gumbel",
    scale: float = 1.0,
    axis: Axis = -1,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """P(argmax(mu + scale eps) = i) = int f(y - mu_i) prod_{j != i} F(y - mu_j) dy at scale 1.

    Signature ``(n)->(n)``; eps are independent, with density f and distribution function F.

    Parameters
    ----------
    mu : array of float64, float32, float16, bfloat16, integers or bool
        Any values.
    noise : {"gumbel", "exponential", "uniform", "normal"}
        Standard Gumbel, which gives softmax(mu / scale); exponential with mean 1; uniform on
        [0, 1]; standard normal.
    scale : float
        Positive and finite.
    axis : int, tuple of ints or None
        Axes of the arg max.
    out : array, optional
        Where the result goes; it may be `mu` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `mu`; rows sum to 1. For "uniform" entries that are `scale` or more below
        the maximum are exactly 0.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `logsumexp`; ValueError also for `noise` and `scale`.

    Notes
    -----
    Special values: -inf gives 0; k entries of +inf, or k equal entries alone, give 1 / k each; nan
    or nothing but -inf gives nan throughout the slice.

    Accuracy: at most LIMITS["argmax_distribution"] ULP of
    MAGNITUDE["argmax_distribution"].

    The integrals are sums: for exponential and uniform noise over the nodes of Gauss-Legendre
    quadrature, for normal noise over one grid that all entries share. A row of n entries takes
    about 50 n, at most 50 n^2 (the more entries are within `scale` of each other, the more) and
    160 n to 700 n evaluations.

    Source: kexue.fm/archives/9085; arXiv 2010.12603 and 2105.07260 for exponential noise.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.argmax_distribution([0.0, -0.5], "uniform").round(12)
    array([0.875, 0.125])
    >>> kn.argmax_distribution([0.0, -1.0], "normal").round(5)
    array([0.76025, 0.23975])
    """
    scale = _as_noise("argmax_distribution", noise, scale)
    call = normalise("argmax_distribution", "(n)->(n)", axis, out, mu=mu)
    if noise == "gumbel":
        kernels = choose("special.smooth", call, backend)
        kernels.soft_onehot(*call.inputs, _inverse(scale), *call.outputs)
        return call.result()
    kernels = choose("special.argmax", call, backend)
    if noise == "exponential":
        kernels.argmax_exponential(*call.inputs, scale, *call.outputs)
    elif noise == "uniform":
        kernels.argmax_uniform(*call.inputs, scale, *call.outputs)
    else:
        kernels.argmax_normal(*call.inputs, scale, *call.outputs)
    return call.result()


def argmax_distribution_vjp(
    mu: Array,
    g: Array,
    noise: str = "gumbel",
    scale: float = 1.0,
    axis: Axis = -1,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """sum_i K_ij (g_j - g_i) / scale, K_ij = int f(y - mu_i) f(y - mu_j) prod_{k!=i,j} F(y - mu_k).

    Signature ``(n),(n)->(n)``. The Jacobian is symmetric, its rows sum to 0.

    Parameters
    ----------
    mu, noise, scale, axis : see `argmax_distribution`
    g : array
        Weights of the result, of exactly its shape.
    out : array, optional
        Where the result goes; it may be `mu` or `g` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `mu`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `argmax_distribution`.

    Notes
    -----
    Special values: several +inf count as equal entries that are alone; -inf gives 0.

    Accuracy: at most LIMITS["argmax_distribution_vjp"] ULP of
    MAGNITUDE["argmax_distribution_vjp"].

    Source: kexue.fm/archives/9085.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.argmax_distribution_vjp([0.0, 0.0], [1.0, 0.0], "exponential").round(12)
    array([ 0.5, -0.5])
    """
    scale = _as_noise("argmax_distribution_vjp", noise, scale)
    call = normalise("argmax_distribution_vjp", "(n),(n)->(n)", axis, out, mu=mu, g=g)
    if noise == "gumbel":
        mu, g = call.inputs
        kernels = choose("special.reductions", call, backend)
        kernels.softmax_vjp(mu, g, None, _inverse(scale), *call.outputs)
        return call.result()
    kernels = choose("special.argmax", call, backend)
    if noise == "exponential":
        kernels.argmax_exponential_vjp(*call.inputs, scale, *call.outputs)
    elif noise == "uniform":
        kernels.argmax_uniform_vjp(*call.inputs, scale, *call.outputs)
    else:
        kernels.argmax_normal_vjp(*call.inputs, scale, *call.outputs)
    return call.result()


_NOISES = ("gumbel", "exponential", "uniform", "normal")


def _as_noise(name: str, noise: str, scale: float) -> float:
    one_of(name, "noise", noise, _NOISES)
    return as_real(name, "scale", scale, above=0.0)


def _inverse(scale: float) -> float:
    """1 / scale, finite"""
    return min(1 / scale, sys.float_info.max)


def gumbel_noise(
    size: int | Sequence[int],
    rng: Rng = None,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """-log(E), E of the exponential distribution: standard Gumbel noise in float64.

    Signature ``->()``, for each entry of the result.

    Parameters
    ----------
    size : int or tuple of ints
        Shape of the result, filled in C order.
    rng : None, int or numpy.random.Generator
        Where random numbers come from; an int is a seed.
    out : array of float64, optional
        Where the result goes.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        NumPy array of float64; ``()`` gives a scalar.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `logsumexp`; TypeError and ValueError also for `size` and `rng`.

    Notes
    -----
    The upper tail is that of float64. The usual -log(-log(u)) with u in float32 gives inf at u = 1
    and ends at 16.6 below.

    Special values: E = 0 gives the largest finite draw, 744.4.

    Accuracy: at most LIMITS["gumbel_noise"] ULP of
    MAGNITUDE["gumbel_noise"].

    Source: kexue.fm/archives/6705.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.gumbel_noise(3, rng=1).shape
    (3,)
    """
    draws = _generator("gumbel_noise", rng).standard_exponential(_as_shape("gumbel_noise", size))
    call = normalise("gumbel_noise", "()->()", (), out, draws=draws)
    choose("special.argmax", call, backend).gumbel_noise(*call.inputs, *call.outputs)
    return call.result()


def _as_shape(name: str, size: int | Sequence[int]) -> tuple[int, ...]:
    try:
        shape = tuple(map(index, size)) if isinstance(size, Sequence) else (index(size),)
    except TypeError:
        raise TypeError(f"{name}: size must be an int or a tuple of ints, got {size!r}") from None
    if any(length < 0 for length in shape):
        raise ValueError(f"{name}: size must not be negative, got {size}")
    return shape


def _generator(name: str, rng: Rng) -> np.random.Generator:
    if isinstance(rng, np.random.Generator):
        return rng
    if rng is None:
        return np.random.default_rng()
    try:
        seed = index(rng)
    except TypeError:
        raise TypeError(
            f"{name}: rng must be None, an int or a numpy.random.Generator, "
            f"got {type(rng).__name__}"
        ) from None
    if seed < 0:
        raise ValueError(f"{name}: rng must not be negative, got {seed}")
    return np.random.default_rng(seed)


def _perturbed(name: str, logits: Array, gumbel: Array | None, rng: Rng) -> tuple[Array, Array]:
    """Logits in the shape of the result, and their noise: the caller's, or new noise in float64."""
    if gumbel is None:
        logits = as_array(name, "logits", logits)
        draws = _generator(name, rng).standard_exponential(logits.shape)
        return logits, namespace(logits).asarray(reference.gumbel_noise(draws))
    if rng is not None:
        raise ValueError(f"{name}: rng must be None where gumbel is given, got {rng!r}")
    shapes = [
        x.shape if hasattr(x, "shape") else as_array(name, argument, x).shape
        for argument, x in (("logits", logits), ("gumbel", gumbel))
    ]
    if fits(shapes[1], shapes[0]):
        return logits, gumbel
    logits = as_array(name, "logits", logits)
    with suppress(ValueError):  # `normalise` says better what is wrong
        logits = namespace(logits).broadcast_to(logits, np.broadcast_shapes(*shapes))
    return logits, gumbel


def gumbel_max(
    logits: Array,
    gumbel: Array | None = None,
    *,
    rng: Rng = None,
    axis: Axis = -1,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """argmax(logits + gumbel), a sample from softmax(logits).

    Signature ``(n),(n)?->()``.

    Parameters
    ----------
    logits : array of float64, float32, float16, bfloat16, integers or bool
        Any values; an entry of -inf never wins, whatever its noise.
    gumbel : array, optional
        Noise, broadcast with `logits`. Default: new noise, see `gumbel_noise`.
    rng : None, int or numpy.random.Generator
        Where new noise comes from.
    axis : int, tuple of ints or None
        Axes of the arg max; several are counted through, the last given runs fastest.
    out : array of intp, optional
        Where the result goes.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array of intp
        The shape of `logits` without `axis`: the first maximum.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `gumbel_noise`; ValueError also for `gumbel` and `rng` together.

    Notes
    -----
    Sums are formed in float64.

    Special values: an empty slice, one of nothing but -inf and one with nan give -1.

    Accuracy: exact, the position of the largest sum.

    Source: kexue.fm/archives/6705.

    Examples
    --------
    >>> import kexue_native as kn
    >>> int(kn.gumbel_max([0.0, 1.0, 0.5], [0.0, 0.0, 1.0]))
    2
    """
    name = "gumbel_max"
    logits, gumbel = _perturbed(name, logits, gumbel, rng)
    call = normalise(name, "(n),(n)->()", axis, None, logits=logits, gumbel=gumbel)
    (like,) = call.outputs
    (winner,) = allocate(name, call.xp, like, [np.dtype(np.intp)], [like.shape], out)
    winner[...] = _winner(choose("special.argmax", call, backend), call)
    if out is not None:
        return out
    return winner[()] if call.xp is np else winner


def _winner(kernels: Any, call: Call) -> Array:
    """The position of the largest sum in each row, as a number of float64, in which it is exact."""
    logits, gumbel = map(widen, call.inputs)
    position = empty(logits, call.outputs[0].shape[: logits.ndim - 1], logits.dtype)
    kernels.gumbel_max(logits, gumbel, position)
    return position


def gumbel_softmax(
    logits: Array,
    gumbel: Array | None = None,
    *,
    tau: float = 1.0,
    rng: Rng = None,
    axis: Axis = -1,
    hard: bool = False,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """softmax((logits + gumbel) / tau): one-hot as tau falls, with arg max `gumbel_max`.

    Signature ``(n),(n)?->(n)``.

    Parameters
    ----------
    logits, gumbel, rng, axis : see `gumbel_max`
        New noise is rounded to the type of the result.
    tau : float
        Temperature, positive and finite.
    hard : bool
        The one-hot vector of the arg max instead. Its gradient is taken to be that of the soft
        one (straight-through): `gumbel_softmax_vjp` serves both.
    out : array, optional
        Where the result goes; it may be `logits` or `gumbel` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `logits` and `gumbel` together; rows sum to 1.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `gumbel_max`; ValueError also for `tau`.

    Notes
    -----
    Special values: as those of `softmax`; -inf gives 0 whatever its noise. Differences to the
    winner are divided by tau, which may be as small as there are numbers.

    Accuracy: at most LIMITS["gumbel_softmax"] ULP of
    MAGNITUDE["gumbel_softmax"].

    Source: kexue.fm/archives/6705; arXiv 1611.01144 and 1611.00712.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.gumbel_softmax([0.0, 1.0], [1.0, 0.0])
    array([0.5, 0.5])
    >>> kn.gumbel_softmax([0.0, 1.0, 0.5], [0.0, 0.0, 1.0], hard=True)
    array([0., 0., 1.])
    """
    name = "gumbel_softmax"
    check_flags(name, hard=hard)
    scale = _inverse(as_real(name, "tau", tau, above=0.0))
    drawn = gumbel is None
    logits, gumbel = _perturbed(name, logits, gumbel, rng)
    if drawn and (logits.dtype.kind == "f" or logits.dtype.name == "bfloat16"):
        gumbel = gumbel.astype(logits.dtype.newbyteorder("="))
    call = normalise(name, "(n),(n)->(n)", axis, out, logits=logits, gumbel=gumbel)
    kernels = choose("special.argmax", call, backend)
    if not hard:
        kernels.gumbel_softmax(*call.inputs, scale, *call.outputs)
        return call.result()
    (onehot,) = call.outputs
    winner = _winner(kernels, call)[..., None]
    narrow(onehot)[...] = call.xp.where(
        winner < 0, math.nan, call.xp.arange(onehot.shape[-1]) == winner
    )
    return call.result()


def gumbel_softmax_vjp(
    logits: Array,
    gumbel: Array,
    g: Array,
    *,
    tau: float = 1.0,
    axis: Axis = -1,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """p_i (g_i - sum p g) / tau, p = gumbel_softmax(logits, gumbel): the same for both arguments.

    Signature ``(n),(n),(n)->(n)``.

    Parameters
    ----------
    logits, gumbel, tau, axis : see `gumbel_softmax`
        The noise that gave p.
    g : array
        Weights of the result, of exactly its shape.
    out : array, optional
        Where the result goes; it may be `logits`, `gumbel` or `g` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `logits`, to which it is summed where `gumbel` has more axes.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `gumbel_softmax`.

    Notes
    -----
    Special values: as those of `softmax_vjp`.

    Accuracy: at most LIMITS["gumbel_softmax_vjp"] ULP of
    MAGNITUDE["gumbel_softmax_vjp"].

    Source: kexue.fm/archives/6705.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.gumbel_softmax_vjp([0.0, 1.0], [1.0, 0.0], [1.0, 0.0])
    array([ 0.25, -0.25])
    """
    name = "gumbel_softmax_vjp"
    scale = _inverse(as_real(name, "tau", tau, above=0.0))
    call = normalise(name, "(n),(n),(n)->(n)", axis, out, logits=logits, gumbel=gumbel, g=g)
    kernels = choose("special.argmax", call, backend)
    kernels.gumbel_softmax_vjp(*call.inputs, scale, *call.outputs)
    return call.result()


fill_in(globals()[name] for name in __all__)
