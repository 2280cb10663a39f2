"""What the functions of the family share: rates and masses of rows, weights that are refused."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from .._arrays import Array, Call, as_array, as_real, namespace, widen


def per_row(call: Call, argument: str, value: Array) -> Array:
    """An arranged input that is one value for each row, without its core axis."""
    n = value.shape[-1]
    if n > 1 and value.strides[-1] != 0:
        raise ValueError(
            f"{call.name}: {argument} must not vary along axis, got {n} values for a slice"
        )
    return value[..., 0] if n else namespace(value).zeros(value.shape[:-1], value.dtype)


def as_flag(name: str, argument: str, value: Any) -> bool:
    try:
        return bool(value)
    except (TypeError, ValueError):
        kind = type(value).__name__
        raise TypeError(f"{name}: {argument} must be True or False, got {kind}") from None


def as_mass(name: str, value: Any) -> Any:
    """Total weights of rows: a number as a float, or an array of one for each row.

    Where it would take waiting for a device to see that one is negative, its row is NaN.
    """
    if isinstance(value, Real) and not isinstance(value, np.generic):
        return as_real(name, "mass", value, at_least=0.0)
    mass = as_array(name, "mass", value)
    if mass.dtype.kind in "biuf" and namespace(mass) is np:
        with np.errstate(invalid="ignore"):
            wrong = ~((mass >= 0) & (mass < np.inf))
        if wrong.any():
            raise ValueError(
                f"{name}: mass must be finite and not negative, got {mass[wrong].flat[0]}"
            )
    return mass


def check_weights(call: Call, *weights: Array, rows: bool = True) -> None:
    """Raise for weights that the rules make NaN, on the host; `rows`: and for rows of nothing."""
    if call.xp is not np or not weights[0].size:
        return
    wide = [widen(w) for w in weights]
    valid = all(bool(np.all((w >= 0) & (w < np.inf))) for w in wide)
    if valid and rows:
        valid = bool(np.all(sum(np.any(w > 0, axis=-1) for w in wide)))
    if not valid:
        more = ", and not all 0 in a slice" if rows else ""
        raise ValueError(f"{call.name}: weights must be finite and not negative{more}, got others")
