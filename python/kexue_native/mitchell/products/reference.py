"""Sums of Mitchell products in NumPy, by the names and arguments of the kernels.

A product is formed in the accumulator's format, in which the words of the operands are exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..._arrays import Array, namespace
from .._formats import FORMATS, Format
from ..logarithmic.reference import float_product, integer_product, rounded, store, with_sign

_quiet = np.errstate(all="ignore")
_CHUNK = 1 << 20  # products at a time


@_quiet
def dot(
    a: Array,
    b: Array,
    number: int = 1,
    accumulator: int = 1,
    result: int = 1,
    offset: float = 0,
    iterations: int = 0,
    ilm: bool = False,
    cut: float = -1,
    flush: bool = False,
    out: Array | None = None,
) -> Any:
    """sum_k a_k b_k with Mitchell's product, over the last axis"""
    form, acc, to = (FORMATS[int(k)] for k in (number, accumulator, result))
    options = int(offset), int(iterations), ilm, cut, flush
    xp = namespace(a)
    loop = np.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    n = np.broadcast_shapes(a.shape[-1:], b.shape[-1:])[0]
    a, b = (xp.broadcast_to(v, (*loop, n)) for v in (a, b))
    if not loop:
        return store(out, _sums(a, b, form, acc, to, options))
    found = xp.empty(loop, to.word)
    step = max(1, _CHUNK * loop[0] // max(a.size, 1))
    for i in range(0, loop[0], step):
        part = slice(i, i + step)
        found[part] = _sums(a[part], b[part], form, acc, to, options)
    return store(out, found)


def _sums(a: Array, b: Array, form: Format, acc: Format, to: Format, options: Any) -> Array:
    if not form.floating:
        negative, found = integer_product(a, b, form, *options[:-1])
        total = with_sign(found, negative).low.sum(axis=-1, dtype=np.uint64)
        return namespace(a).asarray(total).astype(to.word)
    x, y = (in_format(v, form, acc) for v in (a, b))
    products = float_product(x, y, acc, *options).view(acc.dtype)
    total = namespace(a).asarray(products.sum(axis=-1, dtype=acc.dtype))
    return total.view(to.word) if to is acc else rounded(total.astype(np.float64), to)


def in_format(x: Array, form: Format, to: Format) -> Array:
    """The same numbers as words of a format that has them all"""
    if form is to:
        return x
    if form.name == "bfloat16":
        value = (x.astype(np.uint32) << np.uint32(16)).view(np.float32)
    else:
        value = x.view(form.dtype)
    return value.astype(to.dtype).view(to.word)
