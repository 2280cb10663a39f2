"""The formulas of the family in NumPy: documentation, fallback and oracle at once.

Names and arguments are those of the compiled kernels: rows along the last axis, loop axes
broadcast, results stored in `out`. Called without `out` a function returns its value, in float64
for narrower input and in the input's own type when that is wider; so tests get an oracle by
passing wider data. The return value with `out` is the number of rows whose contents are invalid.

All of it works on CuPy arrays too.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..._arrays import Array, namespace, narrow, widen

_quiet = np.errstate(all="ignore")  # infinities and NaN are values here, not accidents
_inf = float("inf")
_nan = float("nan")


def store(out: Array | None, value: Array, invalid: Array | None = None) -> Any:
    """Put `value` into `out` and count the invalid rows; without `out`, hand `value` back."""
    if out is None:
        return value
    narrow(out)[...] = value
    if invalid is None or namespace(out) is not np:  # counting on a device would wait for it
        return 0
    return int(np.count_nonzero(invalid))


class Rows(NamedTuple):
    """Rows by the leave-one-out rule: the winner k apart from the rest, d = scale (x - x_k)."""

    top: Array  # x_k, (..., 1)
    winner: Array  # True at k, (..., n)
    gap: Array  # d, never positive, (..., n)
    weight: Array  # exp(d), (..., n)
    rest: Array  # r = sum of exp(d) without the winner, (..., 1)

    @property
    def mass(self) -> Array:
        """1 + r, rounded once."""
        return total(self.weight)

    def shares(self, mask: Array | None) -> Array:
        """p_i = exp(d_i) / (1 + r)"""
        return self.settle(self.weight / self.mass, mask)

    def settle(self, value: Array, mask: Array | None, absent: float = 0.0) -> Array:
        """NaN for rows without a finite entry, `absent` for masked entries."""
        xp = namespace(value)
        value = xp.where(self.top == -_inf, _nan, value)
        return value if mask is None else xp.where(mask, value, absent)


def leave_one_out(x: Array, mask: Array | None = None, scale: Any = 1.0) -> Rows:
    """Split each row of `x` into its winner and the rest. An empty row acts as one of -inf."""
    xp = namespace(x)
    x = widen(x) * xp.copysign(1.0, scale + 0.0)  # -0 counts as 0
    if mask is not None:
        x = xp.where(mask, x, -_inf)
    if x.shape[-1] == 0:
        x = xp.full_like(x, -_inf, shape=(*x.shape[:-1], 1))
    k = xp.argmax(x, axis=-1)[..., None]
    top = xp.take_along_axis(x, k, axis=-1)
    gap, error = two_difference(x, top)
    gap = xp.where(x == top, 0.0, gap)  # ties are 0, infinite ones too
    scaled, lost = two_product(gap, xp.abs(scale + xp.zeros_like(top)))
    error = abs(scale) * error + lost
    gap = xp.where(gap == -_inf, gap, scaled)  # 0 times -inf stays -inf
    winner = xp.arange(x.shape[-1]) == k
    weight = xp.exp(gap)
    weight = xp.where(weight == 0, 0.0, weight * (1 + error))
    rest = total(xp.where(winner, 0.0, weight))
    return Rows(top, winner, gap, weight, rest)


def two_difference(x: Array, y: Array) -> tuple[Array, Array]:
    """x - y rounded, and the error of that rounding (0 where it is not finite)."""
    xp = namespace(x)
    difference = x - y
    back = difference - x
    error = (x - (difference - back)) - (y + back)
    return difference, xp.where(xp.isfinite(error), error, 0.0)


def two_product(x: Array, y: Array) -> tuple[Array, Array]:
    """x y rounded, and the error of that rounding (0 where its parts are not finite)."""
    xp = namespace(x)
    splitter = 2.0 ** ((xp.finfo(x.dtype).nmant + 2) // 2) + 1
    product = x * y
    halves = []
    for factor in (x, y):
        head = factor * splitter
        head = head - (head - factor)
        halves.append((head, factor - head))
    (x_head, x_tail), (y_head, y_tail) = halves
    error = ((x_head * y_head - product) + x_head * y_tail + x_tail * y_head) + x_tail * y_tail
    return product, xp.where(xp.isfinite(error), error, 0.0)


def total(terms: Array) -> Array:
    """Sum along the last axis (kept), by halves, as exact as if rounded once whatever its size."""
    xp = namespace(terms)
    error = xp.zeros_like(terms[..., :1])
    while terms.shape[-1] > 1:
        half = terms.shape[-1] // 2
        x, y, odd = terms[..., :half], terms[..., half : 2 * half], terms[..., 2 * half :]
        sums = x + y
        back = sums - x
        error = error + xp.sum((x - (sums - back)) + (y - back), axis=-1, keepdims=True)
        terms = xp.concatenate([sums, odd], axis=-1)
    return terms + error


def plus_log1p(x: Array, r: Array) -> Array:
    """x + log1p(r), on the host in long double since the two may cancel"""
    xp = namespace(r)
    wide = np.longdouble if xp is np else r.dtype
    return (x.astype(wide) + xp.log1p(r.astype(wide))).astype(r.dtype)


@_quiet
def logsumexp(x: Array, mask: Array | None = None, out: Array | None = None) -> Any:
    """lse = x_k + log1p(r)"""
    rows = leave_one_out(x, mask)
    return store(out, plus_log1p(rows.top, rows.rest)[..., 0])


@_quiet
def logsumexp_vjp(x: Array, g: Array, mask: Array | None = None, out: Array | None = None) -> Any:
    """g p_i; a slice of nothing but -inf gives 0"""
    rows = leave_one_out(x, mask)
    p = rows.shares(mask)
    absent = rows.top == -_inf if mask is None else (rows.top == -_inf) | ~mask
    return store(out, namespace(x).where(absent, 0.0, widen(g)[..., None] * p))


@_quiet
def softmax(x: Array, mask: Array | None = None, out: Array | None = None) -> Any:
    """p_i = exp(d_i) / (1 + r)"""
    return store(out, _softmax(x, mask))


def _softmax(x: Array, mask: Array | None, scale: Any = 1.0) -> Array:
    rows = leave_one_out(x, mask, scale)
    return rows.shares(mask)[..., : x.shape[-1]]


@_quiet
def softmax_vjp(
    x: Array, g: Array, mask: Array | None = None, scale: float = 1.0, out: Array | None = None
) -> Any:
    """scale p_i (h_i - sum p h), h = g - g_k"""
    return store(out, _softmax_vjp(x, g, mask, scale))


def _softmax_vjp(x: Array, g: Array, mask: Array | None, scale: Any) -> Array:
    xp = namespace(x)
    rows = leave_one_out(x, mask, scale)
    p = rows.shares(mask)
    g = widen(g) if mask is None else xp.where(mask, widen(g), 0.0)
    # Centred on the winner, whose own component is then right although p_k is close to 1.
    h = g - xp.sum(xp.where(rows.winner, g, 0.0), axis=-1, keepdims=True)
    return rows.settle(scale * p * (h - xp.sum(p * h, axis=-1, keepdims=True)), mask)


@_quiet
def log_softmax(x: Array, mask: Array | None = None, out: Array | None = None) -> Any:
    """log p_i = d_i - log1p(r)"""
    rows = leave_one_out(x, mask)
    log_p = rows.settle(rows.gap - namespace(x).log1p(rows.rest), mask, -_inf)
    return store(out, log_p[..., : x.shape[-1]])


@_quiet
def log_softmax_vjp(x: Array, g: Array, mask: Array | None = None, out: Array | None = None) -> Any:
    """g_i - p_i sum g; for the winner (1 - p_k) sum g - sum of the other g"""
    xp = namespace(x)
    rows = leave_one_out(x, mask)
    g = widen(g) if mask is None else xp.where(mask, widen(g), 0.0)
    finite = xp.where(xp.isinf(g), 0.0, g)
    others = xp.sum(xp.where(rows.winner, 0.0, finite), axis=-1, keepdims=True)
    mass, g_sum = rows.mass, xp.sum(finite, axis=-1, keepdims=True)
    p, p_rest = rows.weight / mass, rows.rest / mass
    value = xp.where(rows.winner, p_rest * g_sum - others, finite - p * g_sum)
    value = value + _infinite_part(g, p, xp.where(rows.winner, p_rest, 1 - p))
    return store(out, rows.settle(value, mask))


def _infinite_part(g: Array, p: Array, own: Array) -> Array:
    """Limit of own_i g_i - p_i sum of the other g over the infinite g; NaN if there is none."""
    xp = namespace(g)
    up, down = g == _inf, g == -_inf
    other_ups = xp.sum(up, axis=-1, keepdims=True) - up
    other_downs = xp.sum(down, axis=-1, keepdims=True) - down
    rises = (up & (own > 0)) | ((other_downs > 0) & (p > 0))
    falls = (down & (own > 0)) | ((other_ups > 0) & (p > 0))
    return xp.where(rises, xp.where(falls, _nan, _inf), xp.where(falls, -_inf, 0.0))


def logsumexp_softmax(
    x: Array, mask: Array | None = None, out: Array | None = None, weights: Array | None = None
) -> Any:
    """Both lse and p"""
    lse = logsumexp(x, mask, out)
    p = softmax(x, mask, weights)
    return (lse, p) if out is None else 0


@_quiet
def softmax_entropy(
    x: Array, mask: Array | None = None, scale: float = 1.0, out: Array | None = None
) -> Any:
    """H = log1p(r) - sum p d, two terms that are not negative"""
    xp = namespace(x)
    rows = leave_one_out(x, mask, scale)
    p = rows.weight / rows.mass
    entropy = xp.log1p(rows.rest) - xp.sum(_weighted_gap(p, rows.gap), axis=-1, keepdims=True)
    fully_masked = xp.full((1,), x.shape[-1] == 0)
    if mask is not None:
        fully_masked = fully_masked | ~xp.any(mask, axis=-1, keepdims=True)
    entropy = xp.where(fully_masked, 0.0, xp.where(rows.top == -_inf, _nan, entropy))
    return store(out, entropy[..., 0])


def _weighted_gap(p: Array, gap: Array) -> Array:
    """p d with 0 for entries without weight"""
    return namespace(p).where(p == 0, 0.0, p * gap)


@_quiet
def softmax_entropy_vjp(
    x: Array, g: Array, mask: Array | None = None, scale: float = 1.0, out: Array | None = None
) -> Any:
    """-g scale p_i (log p_i + H) = -g scale p_i (d_i - sum p d)"""
    xp = namespace(x)
    rows = leave_one_out(x, mask, scale)
    p = rows.shares(mask)
    moment = xp.sum(_weighted_gap(p, rows.gap), axis=-1, keepdims=True)
    slope = xp.where(p == 0, 0.0, p * (rows.gap - moment))
    value = -widen(g)[..., None] * (scale * slope)
    return store(out, value if mask is None else xp.where(mask, value, 0.0))


class Terms(NamedTuple):
    """The terms b_i exp(x_i) of a row relative to the largest, k; all but `ratio` are (..., 1)."""

    top: Array  # x_k + log|b_k|, infinite and NaN terms included
    shift: Array  # the same, accurately
    sign: Array  # of b_k
    # b_i exp(x_i) / (b_k exp(x_k)), of infinite terms their coefficients, NaN for both signs;
    # 0 for masked entries and b = 0 whatever the others are.
    ratio: Array
    rest: Array  # r = sum of the ratios without the largest
    mass: Array  # sum of all ratios


def relative_terms(x: Array, b: Array, mask: Array | None = None) -> Terms:
    xp = namespace(x)
    x, b = xp.broadcast_arrays(widen(x), widen(b))
    if x.shape[-1] == 0:
        x = xp.full_like(x, -_inf, shape=(*x.shape[:-1], 1))
        b = xp.ones_like(x)
        mask = None
    present = b != 0 if mask is None else (b != 0) & mask
    x = xp.where(present, x, -_inf)
    b = xp.where(present, b, 1.0)
    log_b = xp.log(xp.abs(b))
    term = x + log_b  # NaN where it is 0 times infinity
    # Keys so large do not tell weights of one x apart: the largest of these.
    k = xp.argmax(term, axis=-1)[..., None]
    first, key = (xp.take_along_axis(v, k, axis=-1) for v in (x, term))
    rivals = xp.where((x == first) & (term == key), log_b, -_inf)
    k = xp.where(xp.isfinite(key), xp.argmax(rivals, axis=-1)[..., None], k)
    top, x_k, b_k, log_b_k = (xp.take_along_axis(v, k, axis=-1) for v in (term, x, b, log_b))

    gap, error = two_difference(x, x_k)
    quotient = b / b_k
    size = xp.abs(quotient)
    exponent, tail = two_difference(gap, log_b_k - log_b)
    ratio = xp.where(
        (xp.abs(gap) < 700) & (size > 1e-290) & (size < 1e290),
        quotient * xp.exp(gap) * (1 + error),
        xp.sign(b) * xp.sign(b_k) * xp.exp(exponent) * (1 + error + tail),
    )
    infinite = term == _inf
    coefficient = xp.where(infinite, b, 0.0)
    unbounded = xp.isinf(coefficient)
    coefficient = xp.where(
        xp.any(unbounded, axis=-1, keepdims=True),
        xp.where(unbounded, xp.sign(b), 0.0),
        coefficient,
    )
    both_signs = xp.any(infinite & (b < 0), axis=-1, keepdims=True) & xp.any(
        infinite & (b > 0), axis=-1, keepdims=True
    )
    ratio = xp.where(top == _inf, coefficient, ratio)
    ratio = xp.where(xp.isnan(top) | both_signs, _nan, ratio)
    ratio = xp.where(present, ratio, 0.0)
    rest = total(xp.where(xp.arange(x.shape[-1]) == k, 0.0, ratio))
    mass = xp.where(top == _inf, xp.sum(ratio, axis=-1, keepdims=True), 1 + rest)
    return Terms(top, log_term(x_k, b_k, log_b_k), xp.sign(b_k), ratio, rest, mass)


def log_term(x: Array, b: Array, log_b: Array) -> Array:
    """log|b exp(x)|, accurate also where x and log|b| nearly cancel."""
    xp = namespace(x)
    value = x + log_b
    half = xp.exp(x / 2)
    cancels = (xp.abs(x) > 4) & (xp.abs(x) < 1400) & (xp.abs(value) < xp.abs(x) / 4)
    return xp.where(cancels, xp.log(xp.abs(b) * half * half), value)


@_quiet
def logsumexp_weighted(
    x: Array,
    b: Array,
    mask: Array | None = None,
    out: Array | None = None,
    sign: Array | None = None,
) -> Any:
    """log|S| and sign S of S = sum b exp(x); with `out` but no `sign`, S < 0 gives NaN"""
    xp = namespace(x)
    terms = relative_terms(x, b, mask)
    finite = xp.where(terms.rest < -1, xp.log(-1 - terms.rest), xp.log1p(terms.rest))
    value = terms.shift + finite
    signs = terms.sign * xp.sign(1 + terms.rest) + 0.0  # no -0
    value = xp.where(terms.top == -_inf, -_inf, value)
    signs = xp.where(terms.top == -_inf, 0.0, signs)
    value = xp.where(terms.top == _inf, xp.where(xp.isnan(terms.mass), _nan, _inf), value)
    signs = xp.where(terms.top == _inf, xp.sign(terms.mass), signs)
    undefined = xp.isnan(terms.top)
    value = xp.where(undefined, _nan, value)[..., 0]
    signs = xp.where(undefined, _nan, signs)[..., 0]
    if out is None:
        return value, signs
    if sign is None:
        return store(out, xp.where(signs < 0, _nan, value))
    store(sign, signs)
    return store(out, value)


@_quiet
def logsumexp_weighted_vjp(
    x: Array, b: Array, g: Array, mask: Array | None = None, out: Array | None = None
) -> Any:
    """g b_i exp(x_i) / S"""
    xp = namespace(x)
    terms = relative_terms(x, b, mask)
    value = widen(g)[..., None] * (terms.ratio / terms.mass)
    return store(out, xp.where((terms.top == -_inf) | (terms.ratio == 0), 0.0, value))


@_quiet
def logmeanexp(x: Array, weights: Array | None = None, out: Array | None = None) -> Any:
    """m + log1p(q), q = sum w expm1(x - m) / sum w, m the largest x with w > 0"""
    xp = namespace(x)
    x, w, invalid = _mean_inputs(x, weights)
    top = xp.max(x, axis=-1, keepdims=True)
    gap = xp.where(x == top, 0.0, x - top)
    mass = xp.sum(w, axis=-1, keepdims=True)
    q = xp.sum(w * xp.expm1(gap), axis=-1, keepdims=True) / mass
    far = xp.log(xp.sum(w * xp.exp(gap), axis=-1, keepdims=True) / mass)
    value = top + xp.where(q > -0.5, xp.log1p(q), far)
    return store(out, xp.where(invalid, _nan, value)[..., 0], invalid)


def _mean_inputs(x: Array, weights: Array | None) -> tuple[Array, Array, Array]:
    """x without entries of no weight; weights scaled so that their sum is finite; invalid rows"""
    xp = namespace(x)
    x, w = xp.broadcast_arrays(widen(x), xp.ones(1) if weights is None else widen(weights))
    if x.shape[-1] == 0:
        x = xp.full_like(x, -_inf, shape=(*x.shape[:-1], 1))
        w = xp.zeros_like(x)
    invalid = xp.any(w < 0, axis=-1, keepdims=True)
    x = xp.where(w > 0, x, -_inf)
    exponent = xp.frexp(xp.max(w, axis=-1, keepdims=True))[1]
    return x, xp.ldexp(w, -exponent), invalid


@_quiet
def logmeanexp_vjp(
    x: Array, g: Array, weights: Array | None = None, out: Array | None = None
) -> Any:
    """g w_i exp(x_i) / sum w exp(x)"""
    xp = namespace(x)
    _, w, invalid = _mean_inputs(x, weights)
    terms = relative_terms(x, xp.ones(1) if weights is None else weights)
    value = widen(g)[..., None] * (terms.ratio / terms.mass)
    value = xp.where((terms.top == -_inf) | (terms.ratio == 0), 0.0, value)
    undefined = invalid | ~(xp.sum(w, axis=-1, keepdims=True) > 0)
    return store(out, xp.where(undefined, _nan, value)[..., : x.shape[-1]], invalid)


@_quiet
def entropy_invariant_scale(
    n: Array, coefficient: float, min_length: float = 1.0, out: Array | None = None
) -> Any:
    """coefficient log(max(n, min_length, 1))"""
    xp = namespace(n)
    n = widen(n)
    value = coefficient * xp.log(xp.maximum(n, max(min_length, 1.0)))
    return store(out, xp.where(n < 0, _nan, value), n < 0)


def _row_scale(x: Array, mask: Array | None, coefficient: float, min_length: float) -> Array:
    """The scale for the number of unmasked entries of each row, (..., 1)"""
    xp = namespace(x)
    n = x.shape[-1]
    count = xp.full((1,), n) if mask is None else xp.sum(mask, axis=-1, keepdims=True)
    if mask is not None and mask.shape[-1] != n:  # one value that stands for the whole row
        count = count * n
    scale = entropy_invariant_scale(
        count.astype(np.result_type(widen(x[..., :0]).dtype)), coefficient, min_length
    )
    largest = np.finfo(scale.dtype).max  # an infinite scale would make 0 times infinity of a tie
    return xp.clip(scale, -largest, largest)


@_quiet
def entropy_invariant_softmax(
    x: Array,
    mask: Array | None,
    coefficient: float,
    min_length: float = 1.0,
    out: Array | None = None,
) -> Any:
    """softmax(lambda x), lambda = coefficient log(max(count, min_length, 1))"""
    return store(out, _softmax(x, mask, _row_scale(x, mask, coefficient, min_length)))


@_quiet
def entropy_invariant_softmax_vjp(
    x: Array,
    g: Array,
    mask: Array | None,
    coefficient: float,
    min_length: float = 1.0,
    out: Array | None = None,
) -> Any:
    """lambda p_i (g_i - sum p g)"""
    return store(out, _softmax_vjp(x, g, mask, _row_scale(x, mask, coefficient, min_length)))


@_quiet
def logsumexp_bounds(
    x: Array,
    p: Array | None,
    order: float = 1.0,
    tau: float = 1.0,
    lower_max: Array | None = None,
    lower_mean: Array | None = None,
    lower_weighted: Array | None = None,
    upper: Array | None = None,
) -> Any:
    """max x, mean x + tau log n, sum p x + tau R(p), max x + tau log n"""
    xp = namespace(x)
    x = widen(x)
    n = x.shape[-1]
    spread = tau * xp.log(xp.asarray(n, dtype=x.dtype))
    if n == 0:
        x = xp.full_like(x, -_inf, shape=(*x.shape[:-1], 1))
    largest = xp.max(x, axis=-1)
    mean = xp.sum(x / max(n, 1), axis=-1) + spread
    weighted, invalid = mean, None  # for equal p the same bound
    if p is not None:
        tolerance = _sum_tolerance(p.dtype)
        p = widen(p)
        mass = xp.sum(xp.broadcast_to(p, (*p.shape[:-1], n)), axis=-1, keepdims=True)
        sound = xp.all(p >= 0, axis=-1, keepdims=True) & (xp.abs(mass - 1) <= tolerance)
        invalid = xp.broadcast_to(~sound[..., 0], x.shape[:-1])
        p = xp.broadcast_to(p / mass, (*p.shape[:-1], n))
        product = xp.where(p == 0, 0.0, p * x)
        weighted = xp.sum(product, axis=-1) + tau * renyi_entropy(p, order)
        weighted = xp.where(invalid, _nan, weighted)
    values = (largest, mean, weighted, largest + spread)
    if lower_max is None:
        return values
    store(lower_max, values[0])
    store(lower_mean, values[1])
    store(upper, values[3])
    return store(lower_weighted, values[2], invalid)


def _sum_tolerance(dtype: Any) -> float:
    """How far from 1 probabilities may sum: 1e-6, and what rounding to their type does to it"""
    if dtype == np.uint16:  # the bits of bfloat16
        return 8e-3
    return {2: 1e-3, 4: 1.2e-6}.get(dtype.itemsize, 1e-6)


def renyi_entropy(p: Array, order: float) -> Array:
    """log(sum p^t) / (1 - t); t = 1: -sum p log p"""
    xp = namespace(p)
    log_p = xp.log(p)
    if order == 1 or p.shape[-1] == 0:
        return -xp.sum(xp.where(p == 0, 0.0, p * log_p), axis=-1)
    excess = xp.sum(xp.where(p == 0, 0.0, p * xp.expm1((order - 1) * log_p)), axis=-1)
    # (t log p_max + log(sum (p / p_max)^t)) / (1 - t); t log p_max may overflow.
    top = xp.max(log_p, axis=-1)
    rest = logsumexp(order * (log_p - top[..., None]))
    far = top / (1 - order) * order + rest / (1 - order)
    return xp.where(excess > -0.5, xp.log1p(excess) / (1 - order), far)


@_quiet
def logsumexp_lipschitz(
    x: Array, y: Array, difference: Array | None = None, distance: Array | None = None
) -> Any:
    """|lse x - lse y| and max|x - y|; equal infinities differ by 0"""
    xp = namespace(x)
    x, y = xp.broadcast_arrays(widen(x), widen(y))
    gap = xp.where(x == y, 0.0, xp.abs(x - y))
    if gap.shape[-1] == 0:
        gap = xp.zeros_like(gap, shape=(*gap.shape[:-1], 1))
    largest = xp.max(gap, axis=-1)
    lse_x, lse_y = logsumexp(x), logsumexp(y)
    change = xp.where(lse_x == lse_y, 0.0, xp.abs(lse_x - lse_y))
    change = xp.minimum(change, largest)  # rounding must not break the inequality
    if difference is None:
        return change, largest
    store(distance, largest)
    return store(difference, change)
