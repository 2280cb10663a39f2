"""Exact softmax attention in tiles, and its vector-Jacobian product."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from ..._arrays import FLAG, Array, as_real, check_flags
from ..._backends import choose
from ..._limits import fill_in
from .._common import Batch, bits, finish, offset_of, over_sequences, results
from .._reference import CAUSAL, EXCLUDE_SELF, visible_counts

__all__ = ["softmax_attention", "softmax_attention_vjp"]


def softmax_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: Array | float | str | None = None,
    causal: bool = False,
    exclude_self: bool = False,
    offset: int | None = None,
    key_mask: Array | None = None,
    bias: Array | None = None,
    return_lse: bool = False,
    cu_seqlens: Array | None = None,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """softmax(scale q k^T + bias) v over the keys that each query sees.

    Signature ``(n,d),(m,d),(m,v)->(n,v)``. Scores are formed in tiles, never as a whole.

    Parameters
    ----------
    q, k, v : arrays of float16, bfloat16, float32 or float64, all of one type
        Shapes (..., n, d), (..., m, d) and (..., m, v); leading axes broadcast, so keys with one
        head serve all heads of queries.
    scale : float, array (..., n), "entropy" or None
        None is 1 / sqrt(d). "entropy" is log(c) / (log(512) sqrt(d)) for a query that sees c keys;
        other bases are passed as an array, see `entropy_invariant_scale`.
    causal : bool
        Query i sees key j if j <= i + offset.
    exclude_self : bool
        Query i does not see the key at i + offset.
    offset : int, optional
        Position of query 0; m - n if `causal` or `exclude_self`, so that the last query stands at
        the last key. PyTorch's ``is_causal`` is 0.
    key_mask : bool array (..., m), optional
        Keys to see. Others are not read: nan there changes nothing.
    bias : array (..., n, m), optional
        Added to the scores; -inf hides a key.
    return_lse : bool
        Also return lse_i = log of the sum of exp(scores), (..., n), float64 for float64 and float32
        else.
    cu_seqlens : integer array (N + 1,), optional
        N sequences are packed: arrays have shape (total, heads, width), sequence b is
        ``cu_seqlens[b]:cu_seqlens[b + 1]``, and each attends to itself; `offset` counts in each.
    out : array or tuple of arrays, optional
        Where results go.
    backend : str, optional
        "reference", "cpu" or one of its levels, "cuda".

    Returns
    -------
    array, shape (..., n, v), dtype of `q`; with `return_lse` a tuple with lse

    Raises
    ------
    TypeError, ValueError
        Types that are not real or differ, shapes that do not fit, an unsuitable `out`.
    RuntimeError
        The backend cannot be used.

    Notes
    -----
    Special values: a query that sees no key gives 0 and lse = -inf; nan in q_i or in a key or value
    that it sees makes row i nan, and no other.

    Sums are float32 for the three narrow types and float64 for float64. The error of a row is at
    most 64 u L max|v|, u the rounding of sums, L = max(1, largest |score|).

    Accuracy: at most LIMITS["softmax_attention"] ULP of
    MAGNITUDE["softmax_attention"].

    Source: kexue.fm/archives/8823 and 9034 (the entropy scale), 7661 (exclude_self), 11371
    (probabilities are not rounded to bfloat16 before they are summed).

    Examples
    --------
    >>> import numpy as np, kexue_native as kn
    >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> kn.softmax_attention(x, x, x, causal=True).round(6)
    array([[1.      , 0.      ],
           [0.330238, 0.669762],
           [0.751745, 0.751745]])
    """
    name = "softmax_attention"
    check_flags(name, causal=causal, exclude_self=exclude_self, return_lse=return_lse)
    if cu_seqlens is not None:
        if bias is not None or return_lse or (scale is not None and not _is_number(scale)):
            raise ValueError(
                f"{name}: cu_seqlens must come without bias, return_lse and an array of scales, "
                "got one of them"
            )
        return over_sequences(
            name,
            cu_seqlens,
            {"q": q, "k": k, "v": v},
            {"key_mask": key_mask},
            [("q", "v")],
            out,
            lambda arrays, to: softmax_attention(
                **arrays,
                scale=scale,
                causal=causal,
                exclude_self=exclude_self,
                offset=offset,
                out=to,
                backend=backend,
            ),
        )
    batch = Batch(name, q=(q, "ld"), k=(k, "sd"), v=(v, "sv"))
    options = _options(batch, scale, causal, exclude_self, offset, key_mask, bias)
    wanted = [("lv", None, batch.dtype)] + [("l", None, batch.wide)] * bool(return_lse)
    found = results(batch, wanted, out)
    places = [bits(buffer) for _, buffer in found] + [None]
    kernels = choose("attention.exact", batch, backend)
    kernels.softmax_attention(*batch.kernel_arrays("q", "k", "v"), *options, *places[:2])
    return finish(batch, found, out)


def softmax_attention_vjp(
    g: Array,
    q: Array,
    k: Array,
    v: Array,
    *,
    out: Array | None = None,
    lse: Array | None = None,
    scale: Array | float | str | None = None,
    causal: bool = False,
    exclude_self: bool = False,
    offset: int | None = None,
    key_mask: Array | None = None,
    bias: Array | None = None,
    return_bias_grad: bool = False,
    cu_seqlens: Array | None = None,
    grads: Any = None,
    backend: str | None = None,
) -> Any:
    """Gradients of sum(g softmax_attention(q, k, v)) for q, k and v.

    Scores are formed again from `lse`; nothing of size n m is stored but the gradient of `bias`.

    Parameters
    ----------
    g : array (..., n, v)
        Weights of the result, its shape.
    q, k, v, scale, causal, exclude_self, offset, key_mask, bias, cu_seqlens
        As `softmax_attention`.
    out, lse : arrays, optional
        Results of `softmax_attention` with ``return_lse=True``; computed where not given.
    return_bias_grad : bool
        Also return the gradient of `bias`.
    grads : tuple of arrays, optional
        Where results go.
    backend : str, optional
        As `softmax_attention`.

    Returns
    -------
    (dq, dk, dv) or (dq, dk, dv, dbias), shapes of the arguments
        An argument that was broadcast gets the sum.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `softmax_attention`.

    Notes
    -----
    With P = softmax: dv = P^T g, dS = P (g v^T - g.out), dq = scale dS k, dk = scale dS^T q,
    dbias = dS. Scales are constants. Queries that see no key have and give no gradient.

    The error is at most 64 u L max|g| for dv, and max|v| max(1, largest |k| or |q| times scale)
    times that for dq and dk, n times for dk.

    Accuracy: at most LIMITS["softmax_attention_vjp"] ULP of
    MAGNITUDE["softmax_attention_vjp"].

    Source: kexue.fm/archives/8823.

    Examples
    --------
    >>> import numpy as np, kexue_native as kn
    >>> x = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> dq, dk, dv = kn.softmax_attention_vjp(np.ones((2, 2)), x, x, x)
    >>> dv.round(6)
    array([[1., 1.],
           [1., 1.]])
    """
    name = "softmax_attention_vjp"
    check_flags(name, causal=causal, exclude_self=exclude_self, return_bias_grad=return_bias_grad)
    if cu_seqlens is not None:
        if bias is not None or out is not None or lse is not None:
            raise ValueError(f"{name}: cu_seqlens must come without bias, out and lse, got one")
        if scale is not None and not _is_number(scale):
            raise ValueError(f"{name}: cu_seqlens must come without an array of scales, got one")
        return over_sequences(
            name,
            cu_seqlens,
            {"g": g, "q": q, "k": k, "v": v},
            {"key_mask": key_mask},
            [("q", "q"), ("k", "k"), ("v", "v")],
            grads,
            lambda arrays, to: softmax_attention_vjp(
                **arrays,
                scale=scale,
                causal=causal,
                exclude_self=exclude_self,
                offset=offset,
                grads=to,
                backend=backend,
            ),
        )
    batch = Batch(name, q=(q, "ld"), k=(k, "sd"), v=(v, "sv"), g=(g, "lv"))
    options = _options(batch, scale, causal, exclude_self, offset, key_mask, bias)
    kernels = choose("attention.exact", batch, backend)
    arrays = batch.kernel_arrays("q", "k", "v")
    out, lse = batch.add("out", out, "lv"), batch.add("lse", lse, "l")
    if out is None or lse is None:
        out, lse = batch.empty(batch.shape("lv")), batch.empty(batch.shape("l"))
        kernels.softmax_attention(*arrays, *options, out, lse)
    shape = {k: x.shape for k, x in batch.arrays.items()}
    wanted = [
        ("ld", shape["q"], batch.dtype),
        ("sd", shape["k"], batch.dtype),
        ("sv", shape["v"], batch.dtype),
    ]
    if return_bias_grad:
        if bias is None:
            raise ValueError(f"{name}: bias must be given for its gradient, got None")
        wanted.append(("ls", shape["bias"], batch.wide))
    found = results(batch, wanted, grads)
    places = [bits(buffer) for _, buffer in found] + [None]
    (weights,) = batch.kernel_arrays("g")
    kernels.softmax_attention_vjp(weights, *arrays, out, lse, *options, *places[:4])
    return finish(batch, found, grads)


def _is_number(scale: Any) -> bool:
    return isinstance(scale, (str, Real))


def _options(
    batch: Batch,
    scale: Any,
    causal: bool,
    exclude_self: bool,
    offset: int | None,
    key_mask: Array | None,
    bias: Array | None,
) -> tuple[Any, ...]:
    """Arguments of the kernels from the scales on."""
    name, rows, keys = batch.name, batch.size["l"], batch.size["s"]
    mask = batch.add("key_mask", key_mask, "s", FLAG)
    added = batch.add("bias", bias, "ls")
    place = offset_of(name, offset, causal, exclude_self, rows, keys)
    mode = CAUSAL * bool(causal) + EXCLUDE_SELF * bool(exclude_self)
    width = max(batch.size["d"], 1)
    scales, factor = None, 1 / math.sqrt(width)
    if isinstance(scale, str):
        if scale != "entropy":
            raise ValueError(
                f'{name}: scale must be a number, an array or "entropy", got {scale!r}'
            )
        count = visible_counts(batch.xp, rows, keys, mode, place, mask)
        factor /= math.log(512)
        scales = batch.add("scale", batch.xp.log(batch.xp.maximum(count, 1.0)), "l")
    elif isinstance(scale, Real):
        factor = as_real(name, "scale", scale)
    elif scale is not None:
        scales, factor = batch.add("scale", scale, "l"), 1.0
    return scales, mask, added, factor, mode, place


fill_in(globals()[name] for name in __all__)
