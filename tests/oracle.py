"""How far from exact a result is, and what is exact.

Distances are in ULP: units in the last place of the tested type, of a magnitude that the function's
case names (the result itself, or the larger term where two are subtracted). Exact values come from
the reference called in a wider type, which the golden tables and the formulas below, in high
precision and straight from the articles, keep honest.
"""

import mpmath
import numpy as np
import pytest
from mpmath import mp, mpf

MANTISSA = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}
MIN_EXPONENT = {"float64": -1022, "float32": -126, "float16": -14, "bfloat16": -126}
MAX_EXPONENT = {"float64": 1024, "float32": 128, "float16": 16, "bfloat16": 128}
DTYPES = tuple(MANTISSA)

# Extended (x86) and quad (most arm64) long double have at least 11 bits more than float64, which
# makes an error of the oracle itself less than 2**-10 ULP. Elsewhere long double is float64 again.
HAS_WIDE = np.finfo(np.longdouble).nmant >= 63


def dtype_of(name):
    """NumPy dtype for one of the four names; skips where ml_dtypes is not installed."""
    if name == "bfloat16":
        return np.dtype(
            pytest.importorskip("ml_dtypes", reason="bfloat16 needs ml_dtypes").bfloat16
        )
    return np.dtype(name)


def name_of(dtype):
    return np.dtype(dtype).name


def unit_roundoff(dtype):
    return 2.0 ** -MANTISSA[name_of(dtype)]


def wide_type(dtype):
    """A type with at least 11 more bits than `dtype`: the oracle's working type."""
    if name_of(dtype) != "float64":
        return np.float64
    if not HAS_WIDE:
        pytest.skip("long double is no wider than float64 on this platform")
    return np.longdouble


def widen(a):
    """`a` in the oracle's type, exactly. Integers and bool count as float64."""
    a = np.asarray(a)
    if a.dtype.kind in "biu":
        a = a.astype(np.float64)
    return a.astype(wide_type(a.dtype.newbyteorder("=")))


def ulp(magnitude, dtype):
    """The spacing of `dtype` in the binade of `magnitude`, at least the smallest subnormal."""
    name = name_of(dtype)
    magnitude = np.abs(np.asarray(magnitude, wide_type(dtype)))
    exponent = np.frexp(np.where(np.isfinite(magnitude), magnitude, 0))[1] - 1
    exponent = np.where(magnitude > 0, exponent, MIN_EXPONENT[name])
    exponent = np.clip(exponent, MIN_EXPONENT[name], MAX_EXPONENT[name] - 1)
    return np.ldexp(wide_type(dtype)(1), exponent - (MANTISSA[name] - 1))


def ulp_error(got, exact, dtype=None, magnitude=0):
    """Distance of `got` from the wide value `exact`, in ULP of max(|exact|, magnitude).

    nan agrees with nan and an infinity with itself; all else that is not finite is infinitely
    far, except that a finite exact value beyond the type's range may round to it.
    """
    got = np.asarray(got)
    dtype = got.dtype if dtype is None else np.dtype(dtype)
    wide = wide_type(dtype)
    got, exact = got.astype(wide), np.asarray(exact, wide)
    got, exact, magnitude = np.broadcast_arrays(got, exact, np.asarray(magnitude, wide))
    same = (got == exact) | (np.isnan(got) & np.isnan(exact))
    edge = np.ldexp(wide(1), MAX_EXPONENT[name_of(dtype)])
    finite = np.isfinite(exact)
    near = np.where(finite & np.isinf(got), np.copysign(edge, got), got)
    beyond = np.where(finite, np.clip(exact, -edge, edge), 0)
    with np.errstate(all="ignore"):
        error = np.abs(near - beyond) / ulp(np.maximum(np.abs(beyond), np.abs(magnitude)), dtype)
    error = np.minimum(error, 1e300)  # a number, however far, in float64
    error = np.where(finite & ~np.isnan(got), error, np.inf)
    return np.where(same, 0.0, error).astype(np.float64)


ANYTHING = 1e300  # as a growth: nothing is promised


def worst(got, exact, dtype=None, magnitude=0, growth=0):
    """Largest ULP error in excess of `growth`, and where it is; asserts nothing."""
    error = np.where(growth == ANYTHING, 0, ulp_error(got, exact, dtype, magnitude) - growth)
    if error.size == 0:
        return 0.0, ()
    k = np.unravel_index(np.argmax(error), error.shape)
    return float(error[k]), tuple(int(i) for i in k)


# --- Formulas of the specification for one row, in high precision. Finite inputs. ---


def _digits(row, scale):
    """Enough to keep 40 good ones of 1 - p when the second weight is e^-(spread)."""
    spread = float(max(row) - min(row)) if row else 0.0
    return 60 + int(0.9 * scale * spread)


def _kept(x, mask):
    return [i for i in range(len(x)) if mask is None or mask[i]]


def _normalised(x, mask, scale=1):
    kept = _kept(x, mask)
    if not kept:
        return {}, None
    top = max(scale * x[i] for i in kept)
    weights = {i: mp.exp(scale * x[i] - top) for i in kept}
    total = mp.fsum(weights.values())
    return {i: w / total for i, w in weights.items()}, top + mp.log(total)


def exact_logsumexp(x, mask=None):
    return _normalised(x, mask)[1]


def exact_logsumexp_weighted(x, b, mask=None):
    s = mp.fsum(b[i] * mp.exp(x[i]) for i in _kept(x, mask))
    return (mp.log(abs(s)) if s else -mp.inf), mp.sign(s)


def exact_logsumexp_vjp(x, g, mask=None):
    p, _ = _normalised(x, mask)
    return [g * p[i] if i in p else mpf(0) for i in range(len(x))]


def exact_logsumexp_weighted_vjp(x, b, g, mask=None):
    kept = _kept(x, mask)
    s = mp.fsum(b[i] * mp.exp(x[i]) for i in kept)
    return [g * b[i] * mp.exp(x[i]) / s if i in kept else mpf(0) for i in range(len(x))]


def exact_logmeanexp(x, weights=None):
    """By expm1 and log1p, which mpmath keeps exact where x is as small as 1e-300."""
    w = weights or [mpf(1)] * len(x)
    q = mp.fsum(w[i] * mp.expm1(v - x[0]) for i, v in enumerate(x)) / mp.fsum(w)
    return x[0] + mp.log1p(q)


def exact_logmeanexp_vjp(x, g, weights=None):
    w = weights or [mpf(1)] * len(x)
    s = mp.fsum(w[i] * mp.exp(v) for i, v in enumerate(x))
    return [g * w[i] * mp.exp(v) / s for i, v in enumerate(x)]


def exact_softmax(x, mask=None, scale=1):
    p, _ = _normalised(x, mask, scale)
    return [p.get(i, mpf(0)) for i in range(len(x))]


def exact_softmax_vjp(x, g, mask=None, scale=1):
    p, _ = _normalised(x, mask, scale)
    first = g[next(iter(p))] if p else mpf(0)  # equal gradients give exactly 0
    mean = mp.fsum(p[i] * (g[i] - first) for i in p)
    return [scale * p[i] * (g[i] - first - mean) if i in p else mpf(0) for i in range(len(x))]


def exact_log_softmax(x, mask=None):
    p, lse = _normalised(x, mask)
    return [x[i] - lse if i in p else -mp.inf for i in range(len(x))]


def exact_log_softmax_vjp(x, g, mask=None):
    p, _ = _normalised(x, mask)
    total = mp.fsum(g[i] for i in p)
    return [g[i] - p[i] * total if i in p else mpf(0) for i in range(len(x))]


def exact_softmax_entropy(x, mask=None, scale=1):
    p, _ = _normalised(x, mask, scale)
    return -mp.fsum(v * mp.log(v) for v in p.values())


def exact_softmax_entropy_vjp(x, g, mask=None, scale=1):
    p, _ = _normalised(x, mask, scale)
    h = exact_softmax_entropy(x, mask, scale)
    return [-g * scale * p[i] * (mp.log(p[i]) + h) if i in p else mpf(0) for i in range(len(x))]


def exact_invariant_scale(n, dim=None, kappa=None, base=512, min_length=1):
    log_n = mp.log(max(n, min_length, 1))
    if dim is None:
        return log_n / mp.log(base)
    return log_n / (mp.log(base) * mp.sqrt(dim)) if kappa is None else kappa * log_n / dim


def exact_invariant_softmax(x, mask=None, **form):
    return exact_softmax(x, mask, exact_invariant_scale(len(_kept(x, mask)), **form))


def exact_invariant_softmax_vjp(x, g, mask=None, **form):
    return exact_softmax_vjp(x, g, mask, exact_invariant_scale(len(_kept(x, mask)), **form))


def exact_bounds(x, p=None, order=1, tau=1):
    n = len(x)
    p = p or [mpf(1) / n] * n
    total = mp.fsum(p)
    p = [v / total for v in p]
    if order == 1:
        entropy = -mp.fsum(v * mp.log(v) for v in p if v)
    else:
        entropy = mp.log(mp.fsum(v**order for v in p)) / (1 - order)
    mean = mp.fsum(x) / n
    weighted = mp.fsum(v * t for v, t in zip(p, x)) + tau * entropy
    return max(x), mean + tau * mp.log(n), weighted, max(x) + tau * mp.log(n)


def exact_lipschitz(x, y):
    return abs(exact_logsumexp(x) - exact_logsumexp(y)), max(abs(s - t) for s, t in zip(x, y))


def exact_jensen_gap(rows, weights=None):
    k = len(rows)
    w = weights or [mpf(1) / k] * k
    blend = [mp.fsum(w[j] * rows[j][i] for j in range(k)) for i in range(len(rows[0]))]
    return mp.fsum(w[j] * exact_logsumexp(rows[j]) for j in range(k)) - exact_logsumexp(blend)


def to_mp(values):
    """Floats of any of the four types as exact high-precision numbers."""
    return [mpf(float(v)) for v in np.asarray(values).ravel()]


def working_precision(*rows, scale=1.0):
    """Context with enough digits for the spread of the given rows."""
    return mpmath.workdps(max(_digits(row, scale) for row in rows))


def split(value):
    """An exact number as float64 plus a float64 remainder, 106 bits in all."""
    high = float(value)
    if high in (float("inf"), float("-inf")) or high != high:
        return high, 0.0
    return high, float(value - mpf(high))


# --- Plain formulas as they stand in libraries, to show what the contract avoids. ---


def plain_logsumexp(x, b=None):
    """The usual max-shifted one-liner in the input's own type; the shift ignores b."""
    x = np.asarray(x)
    top = np.max(x)
    with np.errstate(all="ignore"):
        e = np.exp(x - top) if b is None else np.asarray(b) * np.exp(x - top)
        return np.log(np.sum(e, dtype=x.dtype)) + top


def plain_softmax(x):
    x = np.asarray(x)
    with np.errstate(all="ignore"):
        e = np.exp(x - np.max(x))
        return e / np.sum(e, dtype=e.dtype)


def plain_log_softmax(x):
    """SciPy's and most libraries': shift, then subtract log of the sum."""
    x = np.asarray(x)
    with np.errstate(all="ignore"):
        d = x - np.max(x)
        return d - np.log(np.sum(np.exp(d)))


def plain_logmeanexp(x):
    return plain_logsumexp(x) - np.log(np.asarray(x).dtype.type(np.size(x)))


def plain_masked_scaled_softmax(scores, mask):
    """Mask with -inf, then multiply by log n / log 512: 0 * -inf at n = 1."""
    n = np.sum(mask)
    with np.errstate(all="ignore"):
        return plain_softmax(np.where(mask, scores, -np.inf) * (np.log(n) / np.log(512)))
