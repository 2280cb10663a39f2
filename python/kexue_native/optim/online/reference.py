"""Online learning by exponentiated gradient in NumPy, by the names and arguments of the kernels.

See `special.reductions.reference` for the conventions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._arrays import Array, namespace, widen
from ...special.reductions.reference import store, total
from ..eg.reference import eg_step, row_of, terms

_quiet = np.errstate(all="ignore")
_inf = float("inf")
_nan = float("nan")


@_quiet
def hedge(w0: Array, losses: Array, lr: Array, out: Array | None = None) -> Any:
    """softmax(log w0 - lr losses), losses summed up to before each round"""
    return store(out, eg_step(w0, losses, lr, namespace(w0).asarray(1.0)))


@_quiet
def portfolio_eg(
    relatives: Array,
    w0: Array,
    lr: Array,
    assets: int = 1,
    weights: Array | None = None,
    final: Array | None = None,
    log_wealth: Array | None = None,
) -> Any:
    """Each day r = <w, x>, log wealth + log r, w = eg_step(w, -x / r, lr)"""
    xp = namespace(relatives)
    x, w = widen(relatives), widen(w0)[..., :assets]
    days = x.shape[-1] // assets
    x = x.reshape(*x.shape[:-1], days, assets)
    lr, one = row_of(lr), xp.ones((1,), x.dtype)
    batch = np.broadcast_shapes(x.shape[:-2], w.shape[:-1], lr.shape[:-1])
    w = xp.broadcast_to(w, (*batch, assets))
    w = eg_step(w, xp.zeros_like(w), xp.zeros(batch, x.dtype), one[0])
    history = xp.empty((*batch, days, assets), x.dtype)
    wealth = xp.empty((*batch, days), x.dtype)
    lost = ~(xp.abs(lr) < _inf)
    so_far = xp.where(lost[..., 0], _nan, xp.zeros(batch, x.dtype))
    for t in range(days):
        history[..., t, :] = w
        day = x[..., t, :]
        r = total(w * day)
        wrong = xp.any(~((day >= 0) & (day < _inf)), axis=-1, keepdims=True)
        r = xp.where(wrong | (w != w).any(axis=-1, keepdims=True), _nan, r)
        so_far = so_far + xp.log(r[..., 0])
        wealth[..., t] = so_far
        rows = terms(w, -day / r, lr)
        w = xp.where(rows.undefined | ~(r > 0), _nan, rows.term / rows.mass)
    if weights is None:
        return history, w, wealth
    flat = history.reshape(*batch, -1), wealth
    return store(weights, flat[0]) + store(final, w) + store(log_wealth, flat[1])
