"""Exact attention on a GPU: scores of a block of queries are matrix products, CuPy's; what becomes
of them is the work of kernels, kexue/cuda/exact.h.

Nothing waits for the device. Products read neither what is masked nor what is not finite: rows
of the second kind are set aside, and kernels add them where they are seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

from ..._arrays import Array, empty, namespace
from ..._device import launch
from .._reference import CAUSAL, blocks, put, quiet, transposed
from ..linear.cuda import broadcast, wide

__all__ = ["softmax_attention", "softmax_attention_vjp"]

BLOCK = 1 << 25  # scores at a time
run = partial(launch, "exact")


class Clean:
    """Rows (..., rows, e) and what products may read of them, none of those not `kept`."""

    def __init__(self, x: Array, kept: Array | None) -> None:
        xp = namespace(x)
        loop = x.shape[:-1] if kept is None else broadcast(kept, x.shape[:-1], core=0).shape
        self.all, self.rows = x, empty(x, (*loop, x.shape[-1]), x.dtype)
        self.broken = empty(x, loop, x.dtype)
        run("clean", x, kept, self.rows, self.broken)
        self.some = xp.any(self.broken, axis=-1)


class Pairs:
    """Queries and keys of a call, in blocks of queries."""

    def __init__(self, loop: tuple[int, ...], q: Array, k: Array, *options: Any) -> None:
        self.xp, self.loop = namespace(q), loop
        self.q, self.k = wide(q), wide(k)
        self.like, self.type = self.q, self.q.dtype
        self.scales, self.mask, self.bias, *self.numbers = options
        self.scale, self.mode, self.offset = self.numbers
        self.n, self.m = q.shape[-2], k.shape[-2]

    def empty(self, *shape: int) -> Array:
        return empty(self.like, (*self.loop, *shape), self.type)

    def blocks(self) -> Iterator[tuple[slice, slice]]:
        """Queries and the keys that some of them see"""
        for rows in blocks(self.n, BLOCK // max(math.prod(self.loop) * self.m, 1)):
            stop = rows.stop + self.offset if self.mode & CAUSAL else self.m
            yield rows, slice(0, min(max(stop, 0), self.m))

    def factors(self) -> Array:
        """The scale of each query, (..., n) or ()"""
        factor = self.xp.full((), self.scale, self.type)
        return factor if self.scales is None else factor * self.scales

    def products(self, x: Array, y: Array, rows: slice, keys: slice) -> Array:
        """x_i.y_j of a block"""
        return broadcast(x[..., rows, :] @ transposed(y[..., keys, :]), self.loop, core=2)

    def operands(self, rows: slice, keys: slice) -> tuple[Array | None, ...]:
        """Of the kernels: places of queries, scales, masks and biases of a block"""
        return (
            self.xp.arange(rows.start, rows.stop),
            None if self.scales is None else self.scales[..., rows],
            None if self.mask is None else self.mask[..., None, keys],
            None if self.bias is None else self.bias[..., rows, keys],
        )

    def weigh(
        self,
        weights: Array,
        values: Clean,
        readers: slice,
        sources: slice,
        back: bool = False,
        factor: Array | None = None,
        lse: Array | None = None,
    ) -> Array:
        """weights @ values"""
        total = broadcast(weights @ values.rows[..., sources, :], self.loop, core=2)
        run(
            "mend",
            weights,
            values.all[..., None, sources, :],
            values.broken[..., None, sources],
            values.some[..., None],
            self.xp.arange(readers.start, readers.stop),
            factor,
            lse,
            self.mode,
            self.offset,
            sources.start,
            back,
            total,
        )
        return total


@quiet
def softmax_attention(*arguments: Any) -> None:
    """out_i = sum_j P_ij v_j, P = softmax(S) over the keys that i sees, lse_i = logsumexp(S_i)"""
    q, k, v, *options, out, lse = arguments
    p = Pairs(out.shape[:-2], q, k, *options)
    values = Clean(wide(v), p.mask)
    for rows, keys in p.blocks():
        weights = p.products(p.q, p.k, rows, keys)
        inverse, level = p.empty(weights.shape[-2]), p.empty(weights.shape[-2])
        run("weights", weights, *p.operands(rows, keys), *p.numbers, weights, inverse, level)
        put(out[..., rows, :], p.weigh(weights, values, rows, keys, False, inverse, level))
        if lse is not None:
            lse[..., rows] = level


@quiet
def softmax_attention_vjp(*arguments: Any) -> None:
    """dS = P (dP - delta), dP = g v^T, delta_i = g_i.out_i; dq = scale dS k, dk = dS^T scale q"""
    g, q, k, v, out, lse, *options, dq, dk, dv, dbias = arguments
    p = Pairs(dq.shape[:-2], q, k, *options)
    xp, g, v, factors = p.xp, wide(g), wide(v), p.factors()
    alive = lse != -math.inf
    own, weight, keys_of = (
        Clean(factors[..., None] * p.q, alive),
        Clean(g, alive),
        Clean(p.k, p.mask),
    )
    to_k, to_v = (xp.zeros(x.shape, p.type) for x in (dk, dv))
    if dbias is not None:
        dbias[...] = 0
    for rows, keys in p.blocks():
        weights, slopes = p.products(p.q, p.k, rows, keys), p.products(g, v, rows, keys)
        level, factor = lse[..., rows], factors[..., rows] if factors.ndim else factors
        given = (level, g[..., rows, :], out[..., rows, :])
        to_bias = None if dbias is None else dbias[..., rows, keys]
        run(
            "slopes", weights, slopes, *p.operands(rows, keys), *given, *p.numbers,
            weights, slopes, to_bias,
        )  # fmt: skip
        put(dq[..., rows, :], p.weigh(slopes, keys_of, rows, keys, False, factor, level))
        to_k[..., keys, :] += p.weigh(transposed(slopes), own, keys, rows, True)
        to_v[..., keys, :] += p.weigh(transposed(weights), weight, keys, rows, True)
    if p.mask is not None:
        to_k, to_v = (xp.where(p.mask[..., None], x, 0.0) for x in (to_k, to_v))
    put(dk, to_k)
    put(dv, to_v)
