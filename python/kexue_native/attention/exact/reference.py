"""The formulas of `exact`, for NumPy and CuPy. Queries (..., l, d), keys (..., s, d), values
(..., s, v); scores are formed for a block of queries at a time."""

from __future__ import annotations

import math
from typing import Any

from ..._arrays import Array, namespace, widen
from .._reference import blocks, largest, put, quiet, transposed, visible_keys, weigh

BLOCK = 1 << 22  # scores at a time


class Scores:
    """S_ij = scale_i q_i.k_j + bias_ij, -inf where query i does not see key j."""

    def __init__(
        self,
        q: Array,
        k: Array,
        scales: Array | None,
        mask: Array | None,
        bias: Array | None,
        scale: float,
        mode: int,
        offset: int,
    ) -> None:
        self.xp = xp = namespace(q)
        self.q, k = widen(q), widen(k)
        self.k = k if mask is None else xp.where(mask[..., None], k, 0.0)
        self.mask, self.bias = mask, bias
        self.scale = scale if scales is None else scale * widen(scales)
        self.mode, self.offset = mode, int(offset)
        pairs = math.prod(q.shape[:-2]) * k.shape[-2]
        self.blocks = list(blocks(q.shape[-2], BLOCK // max(pairs, 1)))

    def scale_of(self, rows: slice) -> Any:
        return self.scale if isinstance(self.scale, float) else self.scale[..., rows, None]

    def of(self, rows: slice) -> tuple[Array, Array]:
        """Scores of a block, and which of its keys each query sees."""
        xp = self.xp
        seen = visible_keys(xp, rows, self.k.shape[-2], int(self.mode), self.offset)
        if self.mask is not None:
            seen = seen & self.mask[..., None, :]
        scores = self.scale_of(rows) * (self.q[..., rows, :] @ transposed(self.k))
        if self.bias is not None:
            scores = scores + widen(self.bias[..., rows, :])
        return xp.where(seen, scores, -math.inf), seen


@quiet
def softmax_attention(
    q: Array,
    k: Array,
    v: Array,
    scales: Array | None,
    mask: Array | None,
    bias: Array | None,
    scale: float,
    mode: int,
    offset: int,
    out: Array,
    lse: Array | None,
) -> None:
    """out_i = sum_j P_ij v_j, P = softmax(S) over the keys that i sees, lse_i = logsumexp(S_i)"""
    scores = Scores(q, k, scales, mask, bias, scale, mode, offset)
    xp, v = scores.xp, widen(v)
    for rows in scores.blocks:
        s, seen = scores.of(rows)
        shift = largest(s)
        weight = xp.exp(s - shift)
        mass = xp.sum(weight, axis=-1, keepdims=True)
        share = weight / xp.where(mass == 0, 1.0, mass)
        put(out[..., rows, :], xp.where(mass == 0, 0.0, weigh(share, seen, v)))
        if lse is not None:
            put(lse[..., rows], (shift + xp.log(mass))[..., 0])


@quiet
def softmax_attention_vjp(
    g: Array,
    q: Array,
    k: Array,
    v: Array,
    out: Array,
    lse: Array,
    scales: Array | None,
    mask: Array | None,
    bias: Array | None,
    scale: float,
    mode: int,
    offset: int,
    dq: Array,
    dk: Array,
    dv: Array,
    dbias: Array | None,
) -> None:
    """dS = P (dP - delta), dP = g v^T, delta_i = g_i.out_i; dq = scale dS k, dk = dS^T scale q"""
    scores = Scores(q, k, scales, mask, bias, scale, mode, offset)
    xp, g, v, out, lse = scores.xp, widen(g), widen(v), widen(out), widen(lse)
    if mask is not None:
        v = xp.where(mask[..., None], v, 0.0)
    to_k, to_v = xp.zeros(dk.shape), xp.zeros(dv.shape)
    for rows in scores.blocks:
        s, seen = scores.of(rows)
        alive = seen & (lse[..., rows, None] != -math.inf)
        p = xp.where(alive, xp.exp(s - lse[..., rows, None]), 0.0)
        delta = xp.sum(g[..., rows, :] * out[..., rows, :], axis=-1, keepdims=True)
        ds = xp.where(alive, p * (g[..., rows, :] @ transposed(v) - delta), 0.0)
        factor = scores.scale_of(rows)
        put(dq[..., rows, :], factor * weigh(ds, alive, scores.k))
        back = transposed(alive)
        to_k = to_k + weigh(transposed(ds), back, factor * scores.q[..., rows, :])
        to_v = to_v + weigh(transposed(p), back, g[..., rows, :])
        if dbias is not None:
            put(dbias[..., rows, :], ds)
    put(dk, to_k)
    put(dv, to_v)
