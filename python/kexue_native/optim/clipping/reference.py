"""Clipping by the norm in NumPy, by the names and arguments of the kernels.

See `special.reductions.reference` for the conventions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._arrays import Array, namespace, widen
from ...special.reductions.reference import store, total

_quiet = np.errstate(all="ignore")
_inf = float("inf")
_SMALLEST = 2.2250738585072014e-308  # normal number


@_quiet
def scaled_squares(x: Array, unit: Array | None = None, squares: Array | None = None) -> Any:
    """u and sum (x / u)^2, u a power of two near max |x|: the norm is u sqrt(sum)"""
    xp = namespace(x)
    x = xp.abs(widen(x))
    if x.shape[-1] == 0:
        power, value = xp.ones(x.shape[:-1], x.dtype), xp.sum(x, axis=-1)
    else:
        top = xp.max(x, axis=-1)
        top = xp.where((top > 0) & (top < _inf), top, 0.5)
        power = xp.ldexp(xp.ones_like(top), xp.clip(xp.frexp(top)[1], -1000, 1000))
        part = x / power[..., None]
        value = xp.where(xp.isfinite(x).all(axis=-1), total(part * part)[..., 0], xp.sum(x, -1))
    return (power, value) if unit is None else store(unit, power) + store(squares, value)


@_quiet
def scaled(
    x: Array,
    factor: Array,
    divisor: Array,
    limit: float = 1.0,
    zero: bool = False,
    out: Array | None = None,
) -> Any:
    """factor x, factor = limit / divisor; (x / divisor) limit where the divisor is subnormal"""
    xp = namespace(x)
    x = widen(x)
    tiny = (divisor < _SMALLEST) & (factor != 1)
    value = xp.where(tiny, x / divisor * limit, x * factor)
    return store(out, xp.where(zero & ~xp.isfinite(divisor), 0.0, value))
