"""Gradient clipping by the norm of all arrays together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..._arrays import (
    FLOAT64,
    Array,
    Call,
    allocate,
    as_array,
    as_real,
    empty,
    is_instance,
    namespace,
    normalise,
    one_of,
)
from ..._backends import choose
from ..._limits import fill_in

__all__ = ["clip_by_global_norm", "global_norm", "lr_clip"]


def global_norm(
    arrays: Array | Sequence[Array], *, out: Array | None = None, backend: str | None = None
) -> Any:
    """sqrt(sum of all x^2): the Euclidean norm of one array, or of several together.

    Signature: all axes of all arrays ``->()``.

    Parameters
    ----------
    arrays : array, or list or tuple of arrays
        Of float64, float32, float16, bfloat16, integers or bool, in any mix, and of any shapes.
    out : array of float64 of shape (), optional
        Where the result goes.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    float64 scalar
        The norm; 0 without any numbers.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays; NumPy mixed with CuPy.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    The squares are summed in float64 (16-bit rows on a GPU in float32); those of float64 after a
    division by a power of two, so none overflows or underflows.

    Special values: an infinite entry gives inf, nan gives nan.

    Accuracy: at most LIMITS["global_norm"] ULP of
    MAGNITUDE["global_norm"].

    Source: kexue.fm/archives/7469; arXiv 1905.11881.

    Examples
    --------
    >>> import kexue_native as kn
    >>> float(kn.global_norm([[3e200], [4e200, 0.0]]))
    4.9999999999999995e+200
    """
    given, xp = _listed("global_norm", arrays)
    norm = _norm("global_norm", given, xp, backend)
    if out is None:
        return norm
    allocate("global_norm", xp, given[0] if given else np.empty(0), [FLOAT64], [()], out)
    out[...] = norm
    return out


def clip_by_global_norm(
    arrays: Array | Sequence[Array],
    max_norm: float,
    *,
    form: str = "hard",
    nonfinite: str = "propagate",
    out: Array | Sequence[Array] | None = None,
    backend: str | None = None,
) -> Any:
    """c x with c = min(1, max_norm / norm), or max_norm / (norm + max_norm) with form="soft".

    Signature: elementwise with one norm for all arrays together.

    Parameters
    ----------
    arrays : array, or list or tuple of arrays
        See `global_norm`.
    max_norm : float
        Positive and finite.
    form : {"hard", "soft"}
        "soft" is the step of (L0, L1)-smooth functions, see `lr_clip`; it is between half of and
        the whole "hard" one.
    nonfinite : {"propagate", "zero", "raise"}
        What to do where the norm is inf or nan: follow the arithmetic, return zeros, or raise (for
        which a GPU is waited for).
    out : array, or sequence of as many arrays as `arrays`, optional
        Where the results go; they may be `arrays` themselves.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    arrays : array, or list or tuple of arrays
        As given, each of its own type (integers and bool give float64).
    norm : float64 scalar
        The norm before.

    Raises
    ------
    TypeError
        As `global_norm`.
    ValueError
        A `max_norm` that is not positive and finite; an unknown `form` or `nonfinite`; a norm that
        is not finite, with "raise"; an `out` of another length, shape or type.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Nothing is added to the norm: the result has the norm max_norm, and hard clipping is idempotent.
    What needs no clipping comes back bit by bit.

    Special values: with a norm of inf finite entries are 0 and infinite ones nan; with nan all are
    nan.

    Accuracy: at most LIMITS["clip_by_global_norm"] ULP of
    MAGNITUDE["clip_by_global_norm"].

    Source: kexue.fm/archives/7469; arXiv 1905.11881.

    Examples
    --------
    >>> import kexue_native as kn
    >>> (a, b), norm = kn.clip_by_global_norm(([3.0], [4.0]), 1.0)
    >>> a, b, float(norm)
    (array([0.6]), array([0.8]), 5.0)
    """
    name = "clip_by_global_norm"
    max_norm = as_real(name, "max_norm", max_norm, above=0.0)
    soft = one_of(name, "form", form, ("hard", "soft")) == "soft"
    one_of(name, "nonfinite", nonfinite, ("propagate", "zero", "raise"))
    single = not isinstance(arrays, (list, tuple))
    given, xp = _listed(name, arrays)
    places = [None] * len(given) if out is None else [out] if single else list(out)
    if len(places) != len(given):
        raise ValueError(f"{name}: out must be {len(given)} arrays, got {len(places)}")
    norm = _norm(name, given, xp, backend)
    if nonfinite == "raise" and not bool(xp.isfinite(norm)):
        raise ValueError(f"{name}: the norm must be finite, got {norm}")
    with np.errstate(all="ignore"):
        ratio = max_norm / norm
        if soft:
            factor = xp.where(norm > max_norm, ratio / (1 + ratio), 1 / (1 + norm / max_norm))
            divisor = norm + max_norm
        else:
            factor, divisor = xp.where(norm <= max_norm, 1.0, ratio), xp.maximum(norm, max_norm)
    zero = nonfinite == "zero"
    calls = []
    for x, place in zip(given, places, strict=True):
        call = normalise(name, "()->()", None, place, arrays=x)
        calls.append(call)
    for call in calls:
        choose("optim.clipping", call, backend).scaled(
            *call.inputs, xp.asarray(factor), xp.asarray(divisor), max_norm, zero, *call.outputs
        )
    clipped = [call.result() for call in calls]
    if single:
        return clipped[0], norm
    return (tuple(clipped) if isinstance(arrays, tuple) else clipped), norm


def lr_clip(norm: float, L0: float, L1: float) -> float:
    """1 / (L0 + L1 norm): the step size for (L0, L1)-smooth functions.

    Signature: numbers in, a number out.

    Parameters
    ----------
    norm : float
        Norm of the gradient, not negative.
    L0, L1 : float
        Smoothness |H| <= L0 + L1 |g|; not negative.

    Returns
    -------
    float
        The learning rate; a step with it is soft clipping with max_norm = L0 / L1, times 1 / L0.

    Raises
    ------
    TypeError, ValueError
        Arguments outside their domain; L0 + L1 norm = 0.

    Notes
    -----
    Special values: none, all arguments are finite. Accuracy: two roundings of float64.

    Source: kexue.fm/archives/7469; arXiv 1905.11881.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.lr_clip(3.0, 1.0, 1.0)
    0.25
    """
    norm, L0, L1 = (
        as_real("lr_clip", argument, value, at_least=0.0)
        for argument, value in (("norm", norm), ("L0", L0), ("L1", L1))
    )
    smoothness = L0 + L1 * norm
    if smoothness == 0:
        raise ValueError("lr_clip: L0 + L1 norm must be greater than 0, got 0.0")
    return 1 / smoothness


def _listed(name: str, arrays: Any) -> tuple[list[Array], Any]:
    """The arrays, and their namespace."""
    items = list(arrays) if isinstance(arrays, (list, tuple)) else [arrays]
    given = [as_array(name, "arrays", x) for x in items]
    xp = namespace(*given)
    if xp is not np and not all(is_instance(x, "cupy", "ndarray") for x in given):
        raise TypeError(f"{name}: arrays must be all NumPy or all CuPy, got both")
    return given, xp


def _norm(name: str, given: list[Array], xp: Any, backend: str | None) -> Any:
    units, squares = [], []
    for x in given:
        call: Call = normalise(name, "(n)->()", None, None, arrays=x)
        unit, square = (empty(call.inputs[0], (), FLOAT64) for _ in range(2))
        choose("optim.clipping", call, backend).scaled_squares(*call.inputs, unit, square)
        units.append(unit)
        squares.append(square)
    if not given:
        return np.float64(0.0)
    with np.errstate(all="ignore"):
        if len(given) == 1:
            return (units[0] * xp.sqrt(squares[0]))[()]
        unit, square = xp.stack(units), xp.stack(squares)
        top = xp.max(xp.where(square == 0, 0.0, unit))
        top = xp.where(top > 0, top, 1.0)
        part = xp.where(square == 0, 0.0, unit / top)
        return (top * xp.sqrt(xp.sum(square * part**2)))[()]


fill_in(globals()[name] for name in __all__)
