"""What the references of attention share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .._arrays import Array, namespace, narrow

CAUSAL, EXCLUDE_SELF = 1, 2


def put(out: Array | None, value: Array) -> None:
    """Round a result once into its place, if there is one."""
    if out is not None:
        narrow(out)[...] = value


def visible_keys(xp: Any, rows: slice, keys: int, mode: int, offset: int) -> Array:
    """Which keys the queries `rows` see, (l, s): query i stands at i + offset."""
    position = xp.arange(rows.start, rows.stop)[:, None] + offset
    key = xp.arange(keys)
    seen = key <= position if mode & CAUSAL else xp.ones((len(position), keys), bool)
    return seen & (key != position) if mode & EXCLUDE_SELF else seen


def visible_counts(
    xp: Any, rows: int, keys: int, mode: int, offset: int, mask: Array | None
) -> Array:
    """How many keys each query sees, (..., rows), float64."""
    seen = xp.ones(keys, bool) if mask is None else mask
    before = xp.concatenate(
        [xp.zeros((*seen.shape[:-1], 1)), xp.cumsum(seen, axis=-1, dtype=np.float64)], axis=-1
    )
    position = xp.arange(rows) + offset
    count = before[..., xp.clip(position + 1, 0, keys)]
    if not mode & CAUSAL:
        count = xp.broadcast_to(before[..., -1:], (*seen.shape[:-1], rows))
    if mode & EXCLUDE_SELF and keys:
        inside = (position >= 0) & (position < keys)
        count = count - (inside & seen[..., xp.clip(position, 0, keys - 1)])
    return count


def weigh(weight: Array, visible: Array, values: Array) -> Array:
    """weight @ values over visible pairs: what is not seen does not count, and 0 nan is nan."""
    xp = namespace(values)
    broken = ~xp.all(xp.isfinite(values), axis=-1)
    total = weight @ xp.where(broken[..., None], 0.0, values)
    if broken.size == 0:
        return total
    for j in xp.nonzero(broken.reshape(-1, broken.shape[-1]).any(axis=0))[0]:
        seen = xp.broadcast_to(visible, weight.shape)[..., j] & broken[..., j, None]
        term = weight[..., j, None] * values[..., j, None, :]
        total = total + xp.where(seen[..., None], term, 0.0)
    return total


def blocks(count: int, size: int) -> Iterator[slice]:
    """0 .. count in stretches of `size`"""
    for start in range(0, count, max(size, 1)):
        yield slice(start, min(start + max(size, 1), count))


def highest(x: Array) -> Array:
    """Maximum along the last axis, which is kept; -inf of nothing"""
    xp = namespace(x)
    if x.shape[-1] == 0:
        return xp.full((*x.shape[:-1], 1), -np.inf)
    return xp.max(x, axis=-1, keepdims=True)


def largest(x: Array) -> Array:
    """The same, 0 where there is nothing but -inf"""
    top = highest(x)
    return namespace(x).where(top == -np.inf, 0.0, top)


def transposed(x: Array) -> Array:
    return x.swapaxes(-1, -2)


quiet = np.errstate(all="ignore")
