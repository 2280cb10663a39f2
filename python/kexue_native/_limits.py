"""The stated accuracy, in one place: docstrings show these figures and tests hold the code to them.

A figure is the largest error in units in the last place (ULP) of the result's type, against the
exact value for the given inputs. `MAGNITUDE` says of which number the ULP is taken,
and which further ULP are allowed for terms far below the largest, k.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ._arrays import Array


def _figures(float64: int, float32: int = 1, narrow: int = 1) -> dict[str, int]:
    return {"float64": float64, "float32": float32, "float16": narrow, "bfloat16": narrow}


# Measured over random rows of the kinds of tests/samples.py, every backend, and rounded up.
LIMITS: dict[str, dict[str, int]] = {
    "logsumexp": _figures(3),
    "logsumexp_vjp": _figures(6, 2),
    "logmeanexp": _figures(8),
    "logmeanexp_vjp": _figures(8),
    "softmax": _figures(4),
    "softmax_vjp": _figures(20),
    "log_softmax": _figures(4),
    "log_softmax_vjp": _figures(16, 2),
    "logsumexp_softmax": _figures(4),
    "softmax_entropy": _figures(17),
    "softmax_entropy_vjp": _figures(20),
    "entropy_invariant_scale": _figures(4),
    "entropy_invariant_softmax": _figures(8),
    "entropy_invariant_softmax_vjp": _figures(24),
    "logsumexp_bounds": _figures(8),
    "logsumexp_lipschitz": _figures(4),
    "logsumexp_jensen_gap": _figures(8),
}
# With weights of both signs the error bound of the specification holds instead:
# 8 u (|a_k + log|b_k|| + |result|) + 4 u sum|b exp(a)| / |S|.

# ULP by which an error of the entropy-invariant functions may grow per unit of
# |lambda (x_i - max)|. In float64 lambda itself is rounded: over 2e6 random base, dim and n it was
# off by at most 4.5 u, the difference and its product with lambda add one u each, and u of a number
# is below one ULP. Narrower types compute it in float64 and need none.
SCALE_GROWTH = _figures(7)

_GROWTH = f"{SCALE_GROWTH['float64']} |lambda (x_i - max)| ULP (1 in narrower types)"

# What one ULP is one ULP of. A result that is a sum or difference is measured by its terms.
MAGNITUDE: dict[str, str] = {
    "logsumexp": "max(|result|, |the largest a_i + log b_i|)",
    "logsumexp_vjp": "the result and |a_i - max| ULP",
    "logmeanexp": "max(|result|, |max a|)",
    "logmeanexp_vjp": "the result and |a_i - max| ULP",
    "softmax": "the result, and for entries below e^-30 of the largest |x_i - max| ULP",
    "softmax_vjp": "|scale| p_i (|h_i| + sum p |h|) and |scale (x_i - max)| ULP, h = g - g_k",
    "log_softmax": "the result, entry by entry, the winner's included",
    "log_softmax_vjp": "|g_i| + p_i sum |g|",
    "logsumexp_softmax": "what `logsumexp` and `softmax` state",
    "softmax_entropy": "the result",
    "softmax_entropy_vjp": "|g scale| p_i (|d_i| + sum p |d|) and |d_i| ULP, d = scale (x - max)",
    "entropy_invariant_scale": "the result",
    "entropy_invariant_softmax": f"the result and {_GROWTH}",
    "entropy_invariant_softmax_vjp": f"the terms of `softmax_vjp` and {_GROWTH}",
    "logsumexp_bounds": "max |x| + tau log n",
    "logsumexp_lipschitz": "|lse x| + |lse y|",
    "logsumexp_jensen_gap": "sum w |lse x| + |lse of the mean|",
}

_FORMATS = {  # bits of the significand, smallest normal exponent
    "float64": (53, -1022),
    "float32": (24, -126),
    "float16": (11, -14),
    "bfloat16": (8, -126),
}


def ulp(magnitude: Array, dtype: Any) -> Array:
    """Spacing of the numbers of `dtype` at `magnitude`, which may be of a wider type."""
    digits, smallest = _FORMATS[np.dtype(dtype).name]
    magnitude = np.asarray(magnitude)
    exponent = np.where(magnitude == 0, smallest, np.frexp(magnitude)[1] - 1)
    return np.ldexp(np.ones_like(magnitude), np.maximum(exponent, smallest) - digits + 1)


def ulp_error(
    actual: Array, expected: Array, magnitude: Array = 0.0, allowance: Array = 0.0
) -> float:
    """Largest error of `actual` in ULP of its type at max(|expected|, magnitude).

    `expected` is in a wider type. Equal infinities and NaN in the same place count as 0;
    `allowance` is subtracted from each error.
    """
    actual = np.asarray(actual)
    expected = np.asarray(expected)
    if actual.size == 0:
        return 0.0
    wide = actual.astype(expected.dtype)
    with np.errstate(all="ignore"):
        size = np.maximum(np.abs(expected), np.asarray(magnitude, expected.dtype))
        error = np.abs(wide - expected) / ulp(np.where(np.isfinite(size), size, 0), actual.dtype)
    error = np.where((wide == expected) | (np.isnan(wide) & np.isnan(expected)), 0, error)
    error = np.where(np.isnan(error), np.inf, error) - allowance
    return float(np.max(np.maximum(error, 0.0)))


def describe(name: str) -> str:
    """The figures of one function in words."""
    types: dict[int, list[str]] = {}
    for dtype, limit in LIMITS[name].items():
        types.setdefault(limit, []).append(dtype)
    return ", ".join(f"{limit} ({', '.join(names)})" for limit, names in types.items())


def fill_in(functions: Iterable[Any]) -> None:
    """Replace ``LIMITS["name"]`` in docstrings by the figures, so that they cannot drift."""
    for function in functions:
        name = function.__name__
        if function.__doc__ and name in LIMITS:
            function.__doc__ = function.__doc__.replace(
                f'LIMITS["{name}"]', describe(name)
            ).replace(f'MAGNITUDE["{name}"]', MAGNITUDE[name])
