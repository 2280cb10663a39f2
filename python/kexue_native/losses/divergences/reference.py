"""The divergences in NumPy, by the names and arguments of the kernels.

See `special.reductions.reference` for the conventions. log p - log q is formed from what differs
between s and t, so equal distributions give 0 and close ones keep their digits; a divergence is a
sum of terms p phi(log p - log q), phi(x) = e^-x - 1 + x, none of which is negative.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..._arrays import Array, namespace, widen
from ...special.reductions.reference import (
    leave_one_out,
    softmax_vjp,
    total,
    two_difference,
)
from .._reference import finish, product, sigmoids

_quiet = np.errstate(all="ignore")
_inf = float("inf")


class Pair(NamedTuple):
    """Two probabilities of the same event."""

    p: Array
    q: Array
    delta: Array  # log p - log q
    change: Array  # p - q

    @property
    def swapped(self) -> Pair:
        return Pair(self.q, self.p, -self.delta, -self.change)

    @property
    def information(self) -> Array:
        """p phi(delta), the event's share of sum p log(p / q)"""
        xp = namespace(self.p)
        series = xp.ones_like(self.delta)  # phi(x) = x^2/2 (1 - x/3 (1 - x/4 (1 - ...)))
        for k in range(18, 2, -1):
            series = 1 - self.delta / k * series
        near = self.p * (self.delta * self.delta / 2 * series)
        far = product(self.p, self.delta) - self.change
        far = xp.where(self.delta == _inf, _inf, far)  # q = 0, and p only if it is rounded
        return xp.where(xp.abs(self.delta) < 0.5, near, far)


def difference(x: Array, y: Array, log_ratio: Array) -> Array:
    """x - y for x = y exp(log_ratio)"""
    xp = namespace(x)
    return xp.copysign(xp.maximum(x, y) * -xp.expm1(-xp.abs(log_ratio)), log_ratio)


@_quiet
def softmax_divergence(
    s: Array,
    t: Array,
    mask: Array | None = None,
    scale: float = 1.0,
    symmetric: bool = False,
    loss: Array | None = None,
    grad_s: Array | None = None,
    grad_t: Array | None = None,
) -> Any:
    """sum p_i (log p_i - log q_i), p = softmax(scale s), q = softmax(scale t)"""
    pair, gap = _softmax_pair(s, t, mask, scale)
    change = scale * pair.change
    terms, slope_s, slope_t = pair.information, _slope(s, pair.p, gap, mask, scale), -change
    if symmetric:
        terms = terms + pair.swapped.information
        slope_s, slope_t = slope_s + change, slope_t + _slope(t, pair.q, -gap, mask, scale)
    return _finish(terms, slope_s, slope_t, mask, (loss, grad_s, grad_t))


def _softmax_pair(s: Array, t: Array, mask: Array | None, scale: float) -> tuple[Pair, Array]:
    """The probabilities, and log p_i - log q_i up to a number that is the same for all i"""
    xp = namespace(s)
    a, b = leave_one_out(s, mask, scale), leave_one_out(t, mask, scale)
    sign = xp.copysign(1.0, scale + 0.0)
    (ds, ds_error), (dt, dt_error) = (
        two_difference(sign * widen(x), rows.top) for x, rows in ((s, a), (t, b))
    )
    # log of the ratio of the weights; what is infinite is in the rounded gaps
    gap, error = two_difference(ds, dt)
    gap = abs(scale) * (gap + (error + (ds_error - dt_error)))
    gap = xp.where(xp.isfinite(gap), gap, a.gap - b.gap)
    gap = xp.where((a.gap == -_inf) & (b.gap == -_inf), 0.0, gap)
    # log of the ratio of the masses
    excess = total(difference(a.weight, b.weight, gap)) / b.mass
    near = xp.abs(excess) < 0.5
    log_ratio = xp.where(near, xp.log1p(excess), xp.log1p(a.rest) - xp.log1p(b.rest))
    nowhere = (a.top == -_inf) | (b.top == -_inf)  # a row without a distribution
    delta = xp.where(nowhere, xp.nan, gap - log_ratio)
    p, q = a.shares(mask), b.shares(mask)
    return Pair(p, q, delta, difference(p, q, delta)), gap


def _slope(x: Array, p: Array, gap: Array, mask: Array | None, scale: float) -> Array:
    """Gradient of sum p gap, p = softmax(scale x), for a constant gap"""
    gap = namespace(x).where(p == 0, 0.0, gap)
    return softmax_vjp(x, gap, mask, scale)


@_quiet
def sigmoid_divergence(
    s: Array,
    t: Array,
    mask: Array | None = None,
    scale: float = 1.0,
    symmetric: bool = False,
    loss: Array | None = None,
    grad_s: Array | None = None,
    grad_t: Array | None = None,
) -> Any:
    """The same summed over independent events of probability sigmoid(scale s), sigmoid(scale t)"""
    on, off, gap = _sigmoid_pairs(s, t, scale)
    change = scale * on.change
    terms = on.information + off.information
    slope_s, slope_t = scale * product(on.p * off.p, gap), -change
    if symmetric:
        xp = namespace(gap)
        terms = xp.where(xp.abs(gap) == _inf, _inf, on.change * gap)
        slope_s, slope_t = slope_s + change, slope_t - scale * product(on.q * off.q, gap)
    return _finish(terms, slope_s, slope_t, mask, (loss, grad_s, grad_t))


def _sigmoid_pairs(s: Array, t: Array, scale: float) -> tuple[Pair, Pair, Array]:
    """The probabilities of the event and of its absence, and scale (s - t)"""
    xp = namespace(s)
    factor = xp.asarray(scale)
    s, t = widen(s), widen(t)
    x, y = product(factor, s), product(factor, t)
    gap = xp.where(x == y, 0.0, product(factor, s - t))
    p_on, p_off, log_p = sigmoids(x)
    q_on, q_off, log_q = sigmoids(y)
    near, log_ratio = xp.abs(gap) < 1, log_p - log_q
    on = xp.minimum(x, 0.0) - xp.minimum(y, 0.0) - log_ratio
    on = xp.where(near, -xp.log1p(q_off * xp.expm1(-gap)), on)
    off = xp.minimum(-x, 0.0) - xp.minimum(-y, 0.0) - log_ratio
    off = xp.where(near, -xp.log1p(q_on * xp.expm1(gap)), off)
    change = xp.where(gap > 0, p_on * q_off, q_on * p_off) * -xp.expm1(-xp.abs(gap))
    change = xp.copysign(change, gap)
    return Pair(p_on, q_on, on, change), Pair(p_off, q_off, off, -change), gap


def _finish(
    terms: Array,
    slope_s: Array,
    slope_t: Array,
    mask: Array | None,
    outputs: tuple[Array | None, ...],
) -> Any:
    """Sum the terms; an infinite divergence has no gradient."""
    xp = namespace(terms)
    kept = xp.asarray(True if mask is None else mask)
    loss = xp.sum(xp.where(kept, terms, 0.0), axis=-1, keepdims=True)
    return finish(loss, (slope_s, slope_t), ~xp.isfinite(loss), kept, outputs)
