"""Quantiles of the chi distribution, the norm of a normal vector."""

from __future__ import annotations

import math

import numpy as np

from ..._arrays import Array


def chi_quantile(p: Array, d: int) -> Array:
    """r with P(|w| <= r) = p for w normal in d dimensions, by bisection and Newton's method"""
    p = np.asarray(p, np.float64)
    low, high = np.zeros(p.shape), np.full(p.shape, math.sqrt(d) + 9.0)
    for _ in range(12):
        middle = (low + high) / 2
        below = lower_gamma(d / 2, middle**2 / 2) < p
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    r = (low + high) / 2
    with np.errstate(all="ignore"):
        for _ in range(5):
            log_slope = (d - 1) * np.log(r) - r * r / 2 - (d / 2 - 1) * math.log(2)
            step = (lower_gamma(d / 2, r * r / 2) - p) / np.exp(log_slope - math.lgamma(d / 2))
            moved = r - step
            r = np.where((moved > low) & (moved < high), moved, r)
    return r


def lower_gamma(a: float, x: Array) -> Array:
    """The regularised P(a, x): a series up to a + 1, a continued fraction for the rest beyond"""
    x = np.asarray(x, np.float64)
    with np.errstate(divide="ignore"):
        scale = np.exp(a * np.log(x) - x - math.lgamma(a))
    near = x < a + 1
    inside = np.where(near, x, 0.0)
    term, total = np.full(x.shape, 1 / a), np.full(x.shape, 1 / a)
    for k in range(1, 10000):
        term = term * inside / (a + k)
        total = total + term
        if not np.any(term > 1e-16 * total):
            break
    beyond = np.where(near, a + 1, x)
    # Lentz's method for the fraction of the upper gamma function
    b = beyond + 1 - a
    c, d = np.full(x.shape, 1e300), 1 / b
    fraction = d
    for k in range(1, 10000):
        factor = -k * (k - a)
        b = b + 2
        d, c = 1 / (factor * d + b), b + factor / c
        fraction = fraction * d * c
        if not np.any(np.abs(d * c - 1) > 1e-15):
            break
    return np.where(near, scale * total, 1 - scale * fraction)
