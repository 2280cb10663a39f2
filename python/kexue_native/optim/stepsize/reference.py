"""Step sizes adapted by exponentiated gradient, by the names and arguments of the kernels.

See `special.reductions.reference` for the conventions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._arrays import Array, namespace, widen
from ...special.reductions.reference import store, total
from ..eg.reference import multiplied

_quiet = np.errstate(all="ignore")
_inf = float("inf")


def clip(x: Array, low: float, high: float) -> Array:
    """x within the bounds; NaN stays"""
    xp = namespace(x)
    return xp.where(x < low, low, xp.where(x > high, high, x))


def alignment(g: Array, v: Array, eps: float, direction: bool) -> Array:
    """<g, v>, over (|g| + eps) (|v| + eps) for the direction alone"""
    xp = namespace(g)
    if g.shape[-1] == 0:
        return xp.sum(g, axis=-1)
    if not direction:
        return total(g * v)[..., 0]
    scaled, norms = [], []
    for x in (g, v):  # by powers of two, so that no product overflows
        top = xp.max(xp.abs(x), axis=-1, keepdims=True)
        top = xp.where((top > 0) & (top < _inf), top, 0.5)
        unit = xp.ldexp(xp.ones_like(top), xp.clip(xp.frexp(top)[1], -1000, 1000))
        scaled.append(x / unit)
        norms.append((xp.sqrt(total(scaled[-1] ** 2)) + eps / unit)[..., 0])
    product = total(scaled[0] * scaled[1])[..., 0]
    return xp.where(product == 0, 0.0, product / norms[0] / norms[1])


@_quiet
def eg_stepsize_step(
    theta: Array,
    g: Array,
    gain: Array,
    velocity: Array,
    average: Array,
    scale: Array,
    lr: float,
    momentum: float,
    beta: float,
    lr_gain: float,
    lr_scale: float,
    least_gain: float,
    most_gain: float,
    least_scale: float,
    most_scale: float,
    eps: float,
    correction: float,
    by_sign: bool,
    by_direction: bool,
    new_theta: Array | None = None,
    new_gain: Array | None = None,
    new_velocity: Array | None = None,
    new_average: Array | None = None,
    new_scale: Array | None = None,
) -> Any:
    """p e^(lr_gain drive), s e^(lr_scale a), v and m, then theta - s v; old values on the right"""
    xp = namespace(theta)
    theta, g, p, v, m = (widen(x) for x in (theta, g, gain, velocity, average))
    drive = xp.sign(g) * xp.sign(m) if by_sign else g * m / correction
    s = widen(scale)
    if lr_scale:
        s = s * xp.exp(lr_scale * alignment(g, v, eps, by_direction))
    s = clip(s, least_scale, most_scale)
    p = clip(multiplied(p, lr_gain * drive), least_gain, most_gain)
    v = momentum * v + lr * (p * g)
    m = beta * m + (1 - beta) * g
    theta = theta - s * v
    if new_theta is None:
        return theta, p, v, m, s
    count = store(new_theta, theta) + store(new_gain, p) + store(new_velocity, v)
    return count + store(new_average, m) + store(new_scale, s)


@_quiet
def eg_gain_step(
    theta: Array,
    g: Array,
    g_prev: Array,
    gain: Array,
    lr: float,
    gamma: float,
    new_theta: Array | None = None,
    new_gain: Array | None = None,
) -> Any:
    """gain e^(gamma g_prev g), then theta - lr gain g"""
    theta, g, g_prev, gain = (widen(x) for x in (theta, g, g_prev, gain))
    gain = multiplied(gain, gamma * (g_prev * g))
    theta = theta - lr * (gain * g)
    if new_theta is None:
        return theta, gain
    return store(new_theta, theta) + store(new_gain, gain)
