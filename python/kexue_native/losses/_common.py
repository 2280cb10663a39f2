"""What losses share: a value per row, and beside it gradients of the row's own scores.

A kernel of a loss takes all its results, (loss, grad, hess) for most, and None for those that are
not wanted. Targets reach it in their own type: `normalise` knows the name `targets`.
"""

from __future__ import annotations

from operator import index
from typing import Any

import numpy as np

from .._arrays import Array, Call, as_array, namespace, one_of

IN_UNIT_INTERVAL = "targets must be in [0, 1] where the mask is true"


def results(loss: str, *wanted: bool) -> str:
    """The right side of a signature: `loss`, and a row for each gradient that is wanted."""
    return ",".join([loss, *["(n)"] * sum(map(bool, wanted))])


def places(call: Call, *wanted: bool) -> list[Array | None]:
    """Outputs of the call where the kernel expects them: the loss, then gradients or None."""
    outputs = iter(call.outputs)
    return [next(outputs), *(next(outputs) if want else None for want in wanted)]


def waiting(validate: bool, targets: Array, out: Any, *wanted: bool) -> tuple[bool, bool]:
    """How `out` is kept from the results of targets that are refused: (whole, strict).

    A loss alone waits in a buffer; with gradients, the kernel looks at all targets first.
    """
    refused = validate and namespace(targets) is np
    fails = refused and out is not None and getattr(targets, "dtype", None) != np.bool_
    return fails and not any(wanted), fails and any(wanted)


def is_bound(name: str, hess: str) -> bool:
    """Whether the bound of the Hessian is asked for, not its exact diagonal."""
    return one_of(name, "hess", hess, ("exact", "bound")) == "bound"


def as_classes(
    name: str, argument: str, value: Array, n: int, ignored: int | None, xp: Any
) -> Array:
    """Numbers of classes as int64, -1 for those equal to `ignored`.

    Others outside [0, n) raise; on a device, where nothing is waited for, they become n.
    """
    numbers = as_integers(name, argument, value, xp)
    skipped = xp.asarray(False) if ignored is None else numbers == ignored
    outside = ~skipped & ((numbers < 0) | (numbers >= n))
    if xp is np and np.any(outside):
        others = "" if ignored is None else f" or {ignored}"
        raise IndexError(
            f"{name}: {argument} must be in [0, {n}){others}, got {numbers[outside].flat[0]}"
        )
    return xp.where(skipped, -1, xp.where(outside, n, numbers).astype(np.int64))


def as_int(name: str, argument: str, value: Any) -> int:
    """A parameter as an int."""
    try:
        return index(value)
    except TypeError:
        kind = type(value).__name__
        raise TypeError(f"{name}: {argument} must be an int, got {kind}") from None


def as_integers(name: str, argument: str, value: Array, xp: Any) -> Array:
    """An array of integers next to the scores."""
    x = as_array(name, argument, value)
    if not x.size and not isinstance(value, xp.ndarray):
        x = x.astype(np.int64)  # an empty list is one of integers, too
    if x.dtype.kind not in "iu":
        raise TypeError(f"{name}: {argument} must be integers, got {x.dtype}")
    if xp is not namespace(x):
        raise TypeError(f"{name}: {argument} must be a {xp.__name__} array like scores")
    return x
