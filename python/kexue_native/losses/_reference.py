"""What the references of the losses share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .._arrays import Array, namespace
from ..special.reductions.reference import store

_nan = float("nan")


def product(a: Array, x: Array) -> Array:
    """a x, and 0 where a is 0 even if x is infinite"""
    return namespace(x).where((a == 0) & (x == x), 0.0, a * x)


def sigmoids(x: Array) -> tuple[Array, Array, Array]:
    """sigmoid(x), sigmoid(-x), and log1p(u), u = exp(-|x|): both are min(1, exp(+-x)) / (1 + u)"""
    xp = namespace(x)
    u = xp.exp(-xp.abs(x))
    return xp.where(x < 0, u, 1.0) / (1 + u), xp.where(x < 0, 1.0, u) / (1 + u), xp.log1p(u)


def finish(
    loss: Array,
    slopes: Sequence[Array],
    undefined: Array,
    kept: Array,
    outputs: Sequence[Array | None],
    invalid: Array | None = None,
    strict: bool = False,
) -> Any:
    """Store what is wanted of a loss (..., 1) and its gradients, else hand all of it back.

    Gradients are NaN in rows where they are undefined, and 0 where masked. `strict`: nothing is
    stored if a row is invalid.
    """
    xp = namespace(loss)
    if strict and xp.any(invalid):
        return int(xp.sum(invalid))
    loss = loss[..., 0]
    slopes = [xp.where(kept, xp.where(undefined, _nan, slope), 0.0) for slope in slopes]
    if outputs[0] is None:
        return (loss, *slopes)
    for output, slope in zip(outputs[1:], slopes, strict=True):
        if output is not None:
            store(output, slope)
    return store(outputs[0], loss, invalid)
