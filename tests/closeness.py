"""Comparisons by the tolerance of the specification, where no ULP figure is at stake."""

from functools import wraps

import numpy as np

import oracle

TOLERANCE = {"float64": 2e-13, "float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}
SMALLEST = {"float64": 5e-324, "float32": 3e-45, "float16": 6.1e-8, "bfloat16": 1e-40}


def same(got, want):
    """Equal numbers, nan with nan; the sign of zero does not matter."""
    np.testing.assert_array_equal(np.asarray(got, float), np.asarray(want, float))


def near(got, want, dtype=np.float64, scale=None):
    """Within the tolerance, relative to `scale`, the larger term of a difference, or the value."""
    name = oracle.name_of(dtype)
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    bound = TOLERANCE[name] * np.abs(want if scale is None else scale) + SMALLEST[name]
    with np.errstate(invalid="ignore"):
        right = (np.abs(got - want) <= bound) | (got == want) | (np.isnan(got) & np.isnan(want))
    assert np.all(right), f"got {got}, want {want}"


def slopes(function, x, step=1e-4):
    """Central differences of a reference with one value a row, in long double, along each entry."""
    found = np.empty(x.shape)
    for i in range(x.shape[-1]):
        d = np.where(np.arange(x.shape[-1]) == i, np.longdouble(step), 0)
        ahead, behind = ([function(x + k * d) for k in (size, -size)] for size in (1, 2))
        near_slope = (ahead[0] - ahead[1]) / (2 * step)
        far_slope = (behind[0] - behind[1]) / (4 * step)
        found[..., i] = near_slope + (near_slope - far_slope) / 3
    return found


def remembered(function):
    """Costly exact results, kept for the other backends that are tested on the same numbers."""

    def key(value):
        if isinstance(value, np.ndarray):
            return value.dtype.str, value.shape, value.tobytes()
        return value

    found = {}

    @wraps(function)
    def call(*arguments, **options):
        at = (*map(key, arguments), *((name, key(v)) for name, v in options.items()))
        if at not in found:
            if len(found) > 500:
                found.clear()
            found[at] = function(*arguments, **options)
        return found[at]

    return call
