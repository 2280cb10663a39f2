"""The formulas of the part in NumPy; see the reference of the reductions for how it is built."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from ..._arrays import Array, namespace, widen
from ..reductions.reference import leave_one_out, softmax_vjp, store, two_difference

_quiet = np.errstate(all="ignore")
_inf = float("inf")
_nan = float("nan")

# A node y of the quadrature over y = max - mu_i + noise: its weight times prod F(y - mu_j), a value
# a row, and h_i = f(y - mu_i) / F(y - mu_i). f is the density of the noise, F its integral.
Node: TypeAlias = "tuple[Array, Array]"


def _gaps(mu: Array, scale: float) -> Array:
    """(mu_i - max mu) / scale, 0 for ties, infinite ones too; all NaN where there is no maximum"""
    xp = namespace(mu)
    mu = widen(mu)
    top = xp.max(mu, axis=-1, keepdims=True, initial=-_inf)
    gap = xp.where(mu == top, 0.0, (mu - top) / scale)
    return xp.where(xp.isnan(top) | (top == -_inf), _nan, gap)


def _distribution(
    nodes: Callable[[Array], Iterator[Node]], reach: float, mu: Array, scale: float
) -> Array:
    """p_i = integral of f(y - mu_i) prod_{j != i} F(y - mu_j) dy

    Where all entries but the largest are out of reach, these share the mass.
    """
    xp = namespace(mu)
    gap = _gaps(mu, scale)
    p = xp.zeros_like(gap)
    for mass, h in nodes(gap):
        p = p + mass * h
    ties = (gap == 0).astype(gap.dtype)
    alone = xp.all((gap == 0) | (gap <= -reach), axis=-1, keepdims=True)
    return xp.where(alone, ties / xp.sum(ties, axis=-1, keepdims=True), p)


def _distribution_vjp(
    nodes: Callable[[Array], Iterator[Node]], mu: Array, g: Array, scale: float
) -> Array:
    """sum_i K_ij (g_j - g_i) / scale = integral of prod F h_j (g_j sum h - sum g h) dy / scale"""
    xp = namespace(mu)
    gap = _gaps(mu, scale)
    g = xp.broadcast_to(widen(g), gap.shape)
    if gap.shape[-1]:  # centred on the winner
        g = g - xp.take_along_axis(g, xp.argmax(gap, axis=-1)[..., None], axis=-1)
    dmu = xp.zeros_like(gap)
    for mass, h in nodes(gap):
        both = xp.sum(h, axis=-1, keepdims=True), xp.sum(g * h, axis=-1, keepdims=True)
        dmu = dmu + mass * h * (g * both[0] - both[1])
    return dmu / scale


@cache
def legendre(count: int) -> tuple[Array, Array]:
    """Nodes and weights of Gauss-Legendre quadrature on [0, 1], in the widest type there is."""
    x: Array = np.polynomial.legendre.leggauss(count)[0].astype(np.longdouble)
    for _ in range(2):  # Newton's method
        low, high = np.ones_like(x), x
        for k in range(1, count):
            low, high = high, ((2 * k + 1) * x * high - k * low) / (k + 1)
        slope = count * (x * high - low) / (x**2 - 1)
        x = x - high / slope
    return (1 + x) / 2, 1 / ((1 - x**2) * slope**2)


def _panels(rate: Array, length: Array, n: int) -> Iterator[tuple[Array, Array]]:
    """Nodes and weights for a product of n - 1 factors 1 - c_j t on [0, length], sum c_j = rate

    A polynomial that falls like exp(-rate t) or faster: 16 nodes are exact for n <= 32, on three
    panels they leave 1e-18.
    """
    xp = namespace(rate)
    stops = (_inf,) if n <= 32 else (8, 20, 44)
    start = xp.zeros_like(length)
    for stop in stops:
        width = xp.minimum(stop / rate, length) - start
        for x, w in zip(*(v.astype(rate.dtype) for v in legendre(16))):
            yield xp.where(width > 0, start + x * width, length / 2), w * width
        start = start + width


def _exponential(gap: Array) -> Iterator[Node]:
    """F(y - mu_i) = 1 - a_i v, a = exp(gap): p_i = a_i int prod_{j != i} (1 - a_j v) dv, v to 1"""
    xp = namespace(gap)
    a = xp.exp(gap)
    rate = xp.sum(a, axis=-1, keepdims=True)
    for v, weight in _panels(rate, xp.ones_like(rate), gap.shape[-1]):
        product = xp.exp(xp.sum(xp.log1p(-a * v), axis=-1, keepdims=True))
        yield weight / v * product, a * v / (1 - a * v)


def _uniform(gap: Array) -> Iterator[Node]:
    """p_i = integral over s in [0, 1 + gap_i] of prod_{j != i} min(s - gap_j, 1)

    Between its breakpoints 1 + gap_j, taken from the largest down, the product is a polynomial.
    """
    xp = namespace(gap)
    n = gap.shape[-1]
    end = xp.maximum(1 + gap, 0.0)
    breakpoints = -xp.sort(-end, axis=-1)
    missing = xp.where(xp.any(xp.isnan(gap), axis=-1, keepdims=True), _nan, 0.0)
    for m in range(n):
        high = breakpoints[..., m, None]
        low = breakpoints[..., m + 1, None] if m + 1 < n else xp.zeros_like(high)
        if xp is np and np.all(low >= high):
            continue
        rising = (end >= high) & (high > low)
        rate = xp.sum(xp.where(rising, 1 / (high - gap), 0.0), axis=-1, keepdims=True)
        for t, weight in _panels(rate, high - low, n):
            factor, error = two_difference(high - t, gap)
            product = xp.prod(xp.where(rising, factor, 1.0), axis=-1, keepdims=True)
            error = xp.sum(xp.where(rising, error / factor, 0.0), axis=-1, keepdims=True)
            yield weight * product * (1 + error) + missing, xp.where(rising, 1 / factor, 0.0)


NORMAL_REACH = 55.0  # where p is below 1e-323 next to a single larger entry
_FAR = 1e4  # from where exp(-t^2 / 2) is 0 in every type


def _normal(gap: Array) -> Iterator[Node]:
    """The trapezoid rule on one grid for all entries.

    prod F rises the more steeply the more factors it has: a step of 1/8 will do up to n = 256.
    """
    xp = namespace(gap)
    n = gap.shape[-1]
    step = 1 / 8 if n <= 256 else 1 / 16 if n <= 2**20 else 1 / 32
    lowest = -NORMAL_REACH
    if xp is np and gap.size:
        lowest = np.fmax(np.fmin.reduce(gap, axis=None), lowest)
    half = gap.dtype.type(0.5)
    root_tau = np.sqrt(8 * np.arctan(gap.dtype.type(1)))
    for k in range(math.floor((lowest / 2 - 9.5) / step), math.ceil(9.5 / step) + 1):
        t = k * step - gap
        scaled = erfcx(xp.minimum(xp.abs(t), _FAR) * half**0.5) / 2
        falling = xp.exp(-half * t * t)
        upper = falling * scaled  # 1 - F for t > 0
        log_cdf = xp.where(t > 0, xp.log1p(-upper), xp.log(scaled) - half * t * t)
        product = xp.exp(xp.sum(log_cdf, axis=-1, keepdims=True))
        h = xp.where(t > 0, falling / (1 - upper), 1 / scaled) / root_tau
        yield step * product, h


def erfcx(x: Array) -> Array:
    """exp(x^2) erfc(x), x >= 0: the trapezoid rule for its integral between the nodes' poles

    Hunter and Regan, Math. Comp. 26 (1972). The error is exp(-(pi / step)^2).
    """
    xp = namespace(x)
    step, pi = x.dtype.type(0.4), 4 * np.arctan(x.dtype.type(1))
    value = xp.zeros_like(x)
    for k in range(18, -1, -1):
        node = ((k + x.dtype.type(0.5)) * step) ** 2
        value = value + np.exp(-node) / (node + x * x)
    pole = xp.where(x < pi / step, 2 * xp.exp(x * x) / (1 + xp.exp(2 * pi / step * x)), 0.0)
    return 2 * step / pi * x * value + pole


def _kernels(nodes: Callable[[Array], Iterator[Node]], reach: float) -> tuple[Any, Any]:
    """The distribution and its gradient for one noise"""

    @_quiet
    def distribution(mu: Array, scale: float = 1.0, out: Array | None = None) -> Any:
        return store(out, _distribution(nodes, reach, mu, scale))

    @_quiet
    def distribution_vjp(mu: Array, g: Array, scale: float = 1.0, out: Array | None = None) -> Any:
        return store(out, _distribution_vjp(nodes, mu, g, scale))

    return distribution, distribution_vjp


argmax_exponential, argmax_exponential_vjp = _kernels(_exponential, _inf)
argmax_uniform, argmax_uniform_vjp = _kernels(_uniform, 1.0)
argmax_normal, argmax_normal_vjp = _kernels(_normal, NORMAL_REACH)


@_quiet
def gumbel_noise(draws: Array, out: Array | None = None) -> Any:
    """-log(draws), draws of the exponential distribution; 0 counts as the smallest number"""
    xp = namespace(draws)
    return store(out, -xp.log(xp.maximum(widen(draws), 5e-324)))


def _perturbed(logits: Array, gumbel: Array) -> tuple[Array, Array, Array]:
    """The winner of logits + gumbel, its sum, and differences to it, without the rounding of sums

    A logit of -inf never wins, whatever the noise is.
    """
    xp = namespace(logits)
    logits, gumbel = xp.broadcast_arrays(widen(logits), widen(gumbel))
    total = xp.where(logits == -_inf, -_inf, logits + gumbel)
    if total.shape[-1] == 0:
        return xp.zeros(total.shape[:-1]), xp.full(total.shape[:-1], -_inf), total
    winner = xp.argmax(total, axis=-1)
    k = winner[..., None]
    top, logit, noise = (xp.take_along_axis(v, k, axis=-1) for v in (total, logits, gumbel))
    gap = (logits - logit) + (gumbel - noise)
    gap = xp.where(xp.isinf(total) | xp.isinf(top), xp.where(total == top, 0.0, -_inf), gap)
    gap = xp.where(logits == -_inf, -_inf, gap)
    return winner, top[..., 0], xp.where(xp.isnan(total), _nan, gap)


@_quiet
def gumbel_max(logits: Array, gumbel: Array, out: Array | None = None) -> Any:
    """The first maximum of logits + gumbel; -1 for slices that are all -inf or have nan"""
    xp = namespace(logits)
    winner, top, gap = _perturbed(logits, gumbel)
    nothing = (top == -_inf) | xp.any(xp.isnan(gap), axis=-1)
    return store(out, xp.where(nothing, -1, winner))


@_quiet
def gumbel_softmax(logits: Array, gumbel: Array, scale: float, out: Array | None = None) -> Any:
    """softmax(scale (logits + gumbel))"""
    _, _, gap = _perturbed(logits, gumbel)
    return store(out, leave_one_out(gap, None, scale).shares(None)[..., : gap.shape[-1]])


@_quiet
def gumbel_softmax_vjp(
    logits: Array, gumbel: Array, g: Array, scale: float, out: Array | None = None
) -> Any:
    """scale p_i (g_i - sum p g)"""
    _, _, gap = _perturbed(logits, gumbel)
    return store(out, softmax_vjp(gap, g, None, scale))
