"""The multi-label loss: values and pitfalls of the specification, and what is particular to it."""

import math

import mpmath
import numpy as np
import pytest
from mpmath import mp, mpf

import kexue_native as kn
import oracle
from closeness import remembered
from kexue_native._limits import LIMITS
from kexue_native.losses.multilabel import reference
from memory import peak_of

inf, nan = np.inf, np.nan
TOLERANCE = {"float64": 2e-13, "float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}
SMALLEST = {"float64": 5e-324, "float32": 3e-45, "float16": 6.1e-8, "bfloat16": 1e-40}
INTEGERS = "?bBhHiIlLqQ"


def same(got, want):
    np.testing.assert_array_equal(np.asarray(got, float), np.asarray(want, float))


def near(got, want, dtype=np.float64, scale=None):
    """Within the tolerance of the specification, relative to `scale` or the value."""
    name = oracle.name_of(dtype)
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    bound = TOLERANCE[name] * np.abs(want if scale is None else scale) + SMALLEST[name]
    with np.errstate(invalid="ignore"):
        right = (np.abs(got - want) <= bound) | (got == want) | (np.isnan(got) & np.isnan(want))
    assert np.all(right), f"got {got}, want {want}"


def all_of(backend, scores, targets, function=kn.multilabel_crossentropy, **options):
    """(loss, grad, hess)"""
    return backend(function, scores, targets, return_grad=True, return_hess=True, **options)


# --- Public formulations, in the type of the scores, as they stand in libraries ---


def logsumexp_with_zero(y):
    y = np.append(y, y.dtype.type(0))
    top = y.max()
    return top + np.log(np.sum(np.exp(y - top), dtype=y.dtype))


def public_dense(s, t, large=1e12):
    """y = (1 - 2 t) s; the other side is pushed away by a large number."""
    s = np.asarray(s)
    t = np.asarray(t)
    with np.errstate(all="ignore"):
        large = s.dtype.type(large)
        y = (1 - 2 * t) * s
        parts = [
            logsumexp_with_zero(np.asarray(v, s.dtype))
            for v in (y - t * large, y - (1 - t) * large)
        ]
    return float(parts[0] + parts[1])


def public_log_t(s, t):
    """Soft labels as scores shifted by log(t) and log(1 - t)."""
    s, t = np.asarray(s, np.float64), np.asarray(t, np.float64)
    with np.errstate(all="ignore"):
        parts = [logsumexp_with_zero(v) for v in (s + np.log(1 - t), np.log(t) - s)]
        return float(parts[0] + parts[1])


def public_sparse(s, positive, least=1e-7):
    """a + log(1 - exp(b - a)), a of all classes, b of the positives; the difference cut off."""
    s = np.asarray(s)
    p = s[np.asarray(positive)]
    with np.errstate(all="ignore"):
        a = logsumexp_with_zero(s)
        b = p.max() + np.log(np.sum(np.exp(p - p.max()), dtype=s.dtype))
        rest = np.maximum(1 - np.exp(b - a), s.dtype.type(least))
        return float(a + np.log(rest) + logsumexp_with_zero(-p))


def public_sparse_unshifted(s, positive):
    """The negative part alone: exp without a shift, the difference cut off at 0.1."""
    s = np.asarray(s)
    with np.errstate(all="ignore"):
        everything = 1 + np.sum(np.exp(s), dtype=s.dtype)
        listed = np.sum(np.exp(s[np.asarray(positive)]), dtype=s.dtype)
        rest = np.maximum(1 - listed / everything, s.dtype.type(0.1))
        return float(np.log(everything) + np.log(rest))


# --- Pitfalls: the public formulation fails, ours does not ---


def test_float16_mask_constant(backend):
    """1e12 is inf in float16, and 0 times inf nan."""
    s, t = np.array([1, -1], np.float16), np.array([1, 0], np.float16)
    assert math.isnan(public_dense(s, t))
    got = backend(kn.multilabel_crossentropy, s, t)
    assert got.dtype == np.float16
    near(got, 0.6265, np.float16)


def test_soft_targets_do_not_collapse(backend, dtype, rng):
    """Every class is pushed away by 1e12 times its t or 1 - t: nothing is left of the row."""
    t = np.array([0.9, 0.1, 0.1])
    for s in ([2.0, -1.0, 3.0], *rng.standard_normal((5, 3))):
        assert public_dense(np.array(s), t) == 0
    s = np.array([2, -1, 3], dtype)
    loss, grad, hess = all_of(backend, s, t.astype(dtype))
    near(loss, 3.3385, dtype if dtype.itemsize == 2 else np.float16)
    assert np.all(grad != 0) and np.all(hess > 0)


@pytest.mark.parametrize("integer", INTEGERS)
def test_unsigned_targets_do_not_wrap(backend, integer):
    s, t = np.array([3, -2], np.float32), np.array([1, 0])
    if np.dtype(integer) == np.uint8:
        assert abs(public_dense(s, t.astype(integer)) - 765.1) < 0.1  # 1 - 2 is 255
    got = backend(kn.multilabel_crossentropy, s, t.astype(integer))
    assert got.dtype == np.float32
    assert abs(got - 0.1755) < 1e-4


def test_scores_beyond_the_mask_constant(backend):
    s, t = np.array([-3e12, -1.0]), np.array([1, 0])
    assert public_dense(s, t) == 5e12
    near(backend(kn.multilabel_crossentropy, s, t), 3e12 + math.log1p(math.exp(-1)))
    s = np.array([-60000, -1], np.float16)
    assert public_dense(s.astype(np.float32), t, 1e4) == 1.1e5  # 1e4 is float16's mask constant
    near(backend(kn.multilabel_crossentropy, s, t), 60000, np.float16)


def test_confidently_right_rows_keep_their_digits(backend):
    t = np.array([0, 1])
    s = np.array([-20, 20], np.float32)
    assert public_dense(s, t.astype(np.float32)) == 0
    near(backend(kn.multilabel_crossentropy, s, t), 2 * math.log1p(math.exp(-20)), np.float32)
    assert abs(backend(kn.multilabel_crossentropy, s, t) - 4.1223e-9) < 1e-13
    for kind in (np.float64, np.float32):
        s = np.array([-100, 100], kind)
        loss, grad, hess = all_of(backend, s, t)
        tiny = math.exp(-100)
        near(loss, 2 * tiny, kind)
        near(grad, [tiny, -tiny], kind)
        near(hess, [tiny, tiny], kind)


def test_infinite_score_stays_in_its_part(backend, dtype):
    """The public form adds the positive's inf to the negatives, too."""
    s, t = np.array([-inf, 1]), np.array([1.0, 0.0])
    assert ((1 - 2 * t) * s - t * 1e12)[0] == inf
    loss, grad, hess = all_of(backend, s.astype(dtype), t)
    n = 1 / (1 + math.exp(-1))
    same(loss, inf)
    near(grad, [-1, n], dtype)
    near(hess, [0, n * (1 - n)], dtype)


def test_small_mask_constant_masks_nothing(backend):
    """Copies exist with 1e-12 for 1e12."""
    s, t = np.array([3.0, -2.0]), np.array([1.0, 0.0])
    true = math.log1p(math.exp(-2)) + math.log1p(math.exp(-3))
    assert abs(public_dense(s, t, 1e-12) - true) > 0.1
    near(backend(kn.multilabel_crossentropy, s, t), true)


def test_infinite_score_of_a_sure_positive(backend, dtype):
    """log(1 - t) = -inf, and inf - inf is nan."""
    s, t = np.array([inf, 1]), np.array([1.0, 0.0])
    assert math.isnan(public_log_t(s, t))
    loss, grad, hess = all_of(backend, s.astype(dtype), t.astype(dtype))
    n = 1 / (1 + math.exp(-1))
    near(loss, math.log1p(math.e), dtype)
    near(grad, [0, n], dtype)
    near(hess, [0, n * (1 - n)], dtype)


SPARSE_PITFALLS = [
    # scores, type, positives, public value, true value
    ([20, 0], np.float32, [0], 3.88, 0.6931472),
    ([20, -20], np.float32, [0], 3.88, 4.1223072e-9),
    ([14, 0], np.float32, [0], 0.798, 0.6931480),
    ([40, 0], np.float64, [0], 23.88, 0.6931472),
    ([1, 0.5, -1], np.float64, [0, 0], -0.658, 1.4173923),
]


@pytest.mark.parametrize(("s", "dtype_of_s", "positive", "public", "true"), SPARSE_PITFALLS)
def test_sparse_form_by_exclusion(backend, s, dtype_of_s, positive, public, true):
    s = np.array(s, dtype_of_s)
    assert abs(public_sparse(s, positive) - public) < 0.005
    got = backend(kn.sparse_multilabel_crossentropy, s, np.array(positive))
    assert abs(got - true) <= 1e-6 * true


def test_sparse_gradient_of_a_right_positive(backend):
    """With the difference cut off the gradient of the article's form is +1: scores are pushed down.

    Without the cut the loss is -inf.
    """
    s, positive = np.array([40.0, 0.0]), [0]
    step = np.array([0.5, 0.0])
    slope = public_sparse(s + step, positive) - public_sparse(s - step, positive)
    assert abs(slope - 1) < 1e-9
    assert public_sparse(s, positive, 0.0) == -inf
    loss, grad, hess = all_of(backend, s, np.array([0]), kn.sparse_multilabel_crossentropy)
    near(loss, math.log(2) + math.exp(-40))
    near(grad, [-math.exp(-40), 0.5])
    near(hess, [math.exp(-40), 0.25])


def test_sparse_form_without_a_shift(backend):
    s, positive = np.array([3.0, -3.0]), [0]
    assert abs(public_sparse_unshifted(s, positive) - 0.748) < 0.001
    true = math.log1p(math.exp(-3))  # of the negative part, and of the positive one
    assert abs(true - 0.0486) < 1e-4
    near(backend(kn.sparse_multilabel_crossentropy, s, np.array(positive)), 2 * true)
    s = np.array([89, -3], np.float32)
    assert not math.isfinite(public_sparse_unshifted(s, positive))
    near(backend(kn.sparse_multilabel_crossentropy, s, np.array(positive)), true, np.float32)


def test_log1mexp_does_not_repair_the_sparse_form(backend):
    """b - a has lost the information already."""
    s = np.array([40.0, 0.0])
    a, b = logsumexp_with_zero(s), s[0]
    assert b - a == 0
    near(backend(kn.sparse_multilabel_crossentropy, s, np.array([0])), math.log(2) + math.exp(-40))


def test_masked_cells_meet_label_smoothing(backend):
    """Cells pushed to -1e12 come back as a loss of 1e12 when their target is smoothed."""
    s, t = np.array([[1.0, 2.0], [3.0, -1.0]]), np.full((2, 2), 0.1)
    t[0, 0] = 0.9
    pushed = np.where(np.tri(2, k=-1, dtype=bool), s - 1e12, s).ravel()
    assert backend(kn.multilabel_crossentropy, pushed, t.ravel()) > 9e11
    with np.errstate(all="ignore"):
        half = np.float16(1) * (1 - np.ones(1, np.float16)) * np.float16(1e12)
    assert np.isnan(half[0])  # the same constant in float16, where the mask is 1
    upper = np.array([0, 1, 3])
    near(
        backend(kn.globalpointer_crossentropy, s, t),
        backend(kn.multilabel_crossentropy, s.ravel()[upper], t.ravel()[upper]),
    )


# --- Special values ---


def test_special_values(backend, dtype):
    s = np.array(
        [
            [inf, 1, inf],  # two negatives at +inf share their part
            [-inf, -inf, 1],  # two positives at -inf
            [-inf, 0, 0],  # a negative at -inf counts for nothing
            [nan, 1, 2],
            [inf, nan, 0],
        ],
        dtype,
    )
    t = np.array([[0, 0, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 1, 1]])
    e = math.e / (1 + math.e)
    losses = [inf, inf, 2 * math.log(2), nan, nan]
    grads = [[0.5, 0, 0.5], [-0.5, -0.5, e], [0, -0.5, 0.5], [nan] * 3, [nan] * 3]
    hesses = [[0.25, 0, 0.25], [0.25, 0.25, e * (1 - e)], [0, 0.25, 0.25], [nan] * 3, [nan] * 3]
    for targets in (t, t.astype(dtype), t.astype(bool)):
        loss, grad, hess = all_of(backend, s, targets, axis=1)
        near(loss, losses, dtype)
        near(grad, grads, dtype)
        near(hess, hesses, dtype)
    bound = backend(kn.multilabel_crossentropy, s, t, return_hess=True, hess="bound")[1]
    near(bound, np.abs(grads), dtype)


def test_infinite_scores_share_in_proportion(backend, dtype):
    """c = 1 - t for +inf, c = t for -inf, also where it is small beside a finite score's."""
    t = np.array([0.25, 0.5, 0.75, 0.0], dtype)
    loss, grad, hess = all_of(backend, np.array([inf, inf, 3, inf], dtype), t)
    n = np.array([0.75, 0.5, 0, 1]) / 2.25
    p = np.array([0, 0, 0.75 * math.exp(-3) / (1 + 0.75 * math.exp(-3)), 0])
    same(loss, inf)
    near(grad, n - p, dtype)
    near(hess, n * (1 - n) + p * (1 - p), dtype)
    grad = backend(
        kn.multilabel_crossentropy, np.array([-inf, -inf, -inf, 3], dtype), t, return_grad=True
    )[1]
    near(grad, [*(-t[:3].astype(float) / 1.5), 1 / (1 + math.exp(-3))], dtype)


def test_empty_and_masked_rows(backend, dtype):
    for shape in ((0,), (3, 0)):
        loss, grad, hess = all_of(backend, np.zeros(shape, dtype), np.zeros(shape, bool))
        same(loss, np.zeros(shape[:-1]))
        assert grad.shape == hess.shape == shape
    s = np.array([[nan, inf, -inf], [1, nan, -1], [inf, -2, 2]], dtype)
    t = np.array([[7, nan, -1], [1, nan, 0], [9, 0, 1]])
    mask = np.array([[0, 0, 0], [1, 0, 1], [0, 1, 1]], bool)
    for options in ({}, {"hess": "bound"}):
        loss, grad, hess = all_of(backend, s, t, mask=mask, **options)
        part, w = math.log1p(math.exp(-1)), 1 / (1 + math.e)
        other, v = math.log1p(math.exp(-2)), 1 / (1 + math.exp(2))
        near(loss, [0, 2 * part, 2 * other], dtype)
        near(grad, [[0, 0, 0], [-w, 0, w], [0, v, -v]], dtype)
        curvature = np.array([[0, 0, 0], [w, 0, w], [0, v, v]])
        if not options:
            curvature *= 1 - curvature
        near(hess, curvature, dtype)


def test_rows_without_positives_or_negatives(backend, dtype):
    s = np.array([1, 2], dtype)
    near(
        backend(kn.multilabel_crossentropy, s, np.zeros(2)), math.log1p(math.e + math.exp(2)), dtype
    )
    near(
        backend(kn.multilabel_crossentropy, s, np.ones(2)),
        math.log1p(math.exp(-1) + math.exp(-2)),
        dtype,
    )


def test_huge_scores(backend):
    """No path overflows; thresholds as large as the scores leave their difference."""
    for kind, size in ((np.float64, 1e308), (np.float32, 3e38), (np.float16, 6e4)):
        size = float(kind(size))
        s = np.array([[size, -size, 1], [-size, size, 1], [size, size, size]], kind)
        t = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 0]])
        loss, grad, hess = all_of(backend, s, t)
        near(loss, [math.log1p(math.e), inf, size], kind)  # 2 size is beyond the type
        near(grad, [[0, 0, math.e / (1 + math.e)], [-1, 1, 0], [1 / 3] * 3], kind)
        near(hess[1:], [[0, 0, 0], [2 / 9] * 3], kind)
        got = backend(kn.multilabel_crossentropy, s[2], t[2], threshold=size)
        near(got, math.log(4), kind)


@pytest.mark.parametrize("size", [29.0, 44.5, 59.5, 61.0, 90.0, 300.0])
def test_scores_around_the_range_of_one_sweep(backend, dtype, size):
    """Where exponentials stop to share a sweep, and sums of them to be held without a shift."""
    s, t = np.array([[size, -1, 2], [-size, 1, 3]], dtype), np.array([[0, 1, 0], [1, 0, 0]])
    size, e = float(s[0, 0]), math.exp
    one = 1 + (1 + e(2)) * e(-size)  # (1 + e^2 + e^size) e^-size
    other = 1 + e(-size)
    losses = [size + math.log(one) + math.log1p(e(1))]
    losses.append(size + math.log(other) + math.log(1 + e(1) + e(3)))
    p, q = e(1) / (1 + e(1)), np.array([e(1), e(3)]) / (1 + e(1) + e(3))
    grads = [[1 / one, -p, e(2 - size) / one], [-1 / other, *q]]
    for got in (
        backend(kn.multilabel_crossentropy, s, t, return_grad=True),
        all_of(backend, s, t),
    ):
        near(got[0], losses, dtype)
        near(got[1], grads, dtype)
    w = np.abs(grads)
    hess = w * (1 - w)
    hess[:, 0] = w[:, 0] * [(1 + e(2)) * e(-size) / one, e(-size) / other]
    near(got[2], hess, dtype)


@pytest.mark.parametrize("n", [1, 2, 7, 16, 20, 33, 64, 65])
@pytest.mark.parametrize("kind", ["bool", "u1", "e", "f", "d"])
def test_short_rows(backend, dtype, kind, n, rng):
    """Rows side by side in a tile, some of which need a shift, with thresholds of their own."""
    s, s0 = 4 * rng.standard_normal((150, n)), 3 * rng.standard_normal(150)
    s[70] *= 100  # in the second tile
    s[133, 0] = inf
    t = rng.random((150, n))
    if kind in ("bool", "u1"):
        t = t < 0.3
    t = t.astype(kind)
    t[133, 0] = 0
    s, s0 = s.astype(dtype), s0.astype(dtype)
    want = kn.multilabel_crossentropy(
        s, t, threshold=s0, return_grad=True, return_hess=True, backend="reference"
    )
    for got in (
        (*backend(kn.multilabel_crossentropy, s, t, threshold=s0, return_grad=True), want[2]),
        all_of(backend, s, t, threshold=s0),
    ):
        for g, w, scale in zip(got, want, (want[0], 1, 1), strict=True):
            near(g, w, dtype, scale=np.where(np.isfinite(scale), scale, 1))
    alone = backend(kn.multilabel_crossentropy, s, t, threshold=s0)
    near(alone, want[0], dtype)


def test_memory_is_that_of_the_rows(rng):
    """No copy of the gradient, no label matrix: what is taken besides the results is per row."""
    rows, n = 64, 5000
    s, t = rng.standard_normal((rows, n)).astype(np.float32), rng.random((rows, n))
    listed = rng.integers(0, n, (rows, 3))
    for targets, function in (
        (t.astype(np.float32), kn.multilabel_crossentropy),
        (t < 0.1, kn.multilabel_crossentropy),
        ((t < 0.1).astype(np.uint8), kn.multilabel_crossentropy),
        (listed, kn.sparse_multilabel_crossentropy),
    ):
        out = (np.empty(rows, np.float32), np.empty_like(s), np.empty_like(s))
        for results in (1, 2, 3):
            options = {"return_grad": results > 1, "return_hess": results > 2}
            if results == 1:
                options["out"] = out[0]
            else:
                options["out"] = out[:results]
            function(s, targets, **options)
            peak = peak_of(lambda f=function, t=targets, o=options: f(s, t, **o))
            assert peak < 200 * rows, (function.__name__, targets.dtype, results, peak)


# --- Thresholds ---


@pytest.mark.parametrize("shape", [(3,), (3, 3), (2, 3)])
def test_a_threshold_belongs_to_its_row(backend, rng, dtype, shape):
    """Also where rows are as many as classes, and where it is the same for some of them."""
    s = rng.normal(size=(*shape, 3)).astype(dtype)
    thresholds = rng.normal(size=shape).astype(dtype)
    for s0 in (thresholds, thresholds[..., :1]):
        rows = np.broadcast_to(s0, shape)
        for f in (kn.multilabel_probability, kn.multilabel_predict):
            got = backend(f, s, s0)
            for i in np.ndindex(shape):
                assert np.array_equal(got[i], backend(f, s[i], rows[i]))


def test_a_threshold_is_no_option_to_leave_out(backend):
    for name in ("multilabel_probability", "multilabel_predict", "multilabel_crossentropy"):
        arrays = [np.zeros((3, 4))] * (1 + name.endswith("entropy"))
        with pytest.raises(TypeError, match=f"^{name}: threshold must be .*, got None$"):
            backend(getattr(kn, name), *arrays, threshold=None)


# --- Properties of the specification ---


def test_soft_optimum(backend, rng):
    """At t = sigma(2 (s - s0)) the gradient is 0, the value 2 log(1 + sum sqrt(t (1 - t)))."""
    s = rng.uniform(-3, 3, (20, 7))
    for s0 in (0.0, 1.3):
        t = kn.multilabel_probability(s, s0)
        loss, grad = backend(kn.multilabel_crossentropy, s, t, threshold=s0, return_grad=True)
        near(loss, 2 * np.log1p(np.sum(np.sqrt(t * (1 - t)), axis=1)))
        share = np.sqrt(t * (1 - t)) / np.exp(loss / 2)[:, None]
        # An error of t by an ULP moves the shares by so much, and errs itself by some.
        per_ulp = 2.0**-52 * np.max(1 / t + 1 / (1 - t), axis=1, keepdims=True)
        ulps = LIMITS["multilabel_probability"]["float64"]
        assert np.all(np.abs(grad) <= share * (ulps * per_ulp + 16 * 2.0**-53))
        # sigma(s) is not the optimum.
        wrong = backend(
            kn.multilabel_crossentropy, s, 1 / (1 + np.exp(s0 - s)), threshold=s0, return_grad=True
        )[1]
        assert np.max(np.abs(wrong)) > 0.01


def test_threshold_moves_with_the_scores(backend, rng):
    s = np.round(rng.standard_normal((5, 8)) * 64) / 16
    t = rng.integers(0, 2, (5, 8))
    s0 = np.array([0, 1, -2, 0.5, 8.0])
    want = all_of(backend, s, t, threshold=s0)
    for shift in (-200.0, 200.0):
        for w, got in zip(want, all_of(backend, s + shift, t, threshold=s0 + shift), strict=True):
            near(got, w)  # the differences are exact
    for row in range(5):
        near(backend(kn.multilabel_crossentropy, s[row], t[row], threshold=s0[row]), want[0][row])


def test_flipped_signs(backend, dtype, rng):
    """Hard targets: L(s, t) = L(-s, 1 - t)."""
    s, t = rng.standard_normal((9, 33)).astype(dtype), rng.random((9, 33)) < 0.3
    for a, b, sign in zip(all_of(backend, s, t), all_of(backend, -s, ~t), (1, -1, 1), strict=True):
        near(a, sign * b.astype(float), dtype)


def test_hard_targets_of_every_kind_agree(backend, dtype, rng):
    """bool, integers and floats of 0 and 1, of any type and layout."""
    s = (5 * rng.standard_normal((40, 50))).astype(dtype)
    t = rng.random((40, 50)) < 0.2
    want = all_of(backend, s, t)
    kinds = [*INTEGERS, "e", "f", "d", oracle.dtype_of("bfloat16"), ">i4", ">f8", ">u2"]
    for kind in kinds:
        made = t.astype(kind)
        for targets in (made, np.asfortranarray(made), np.repeat(made, 2, axis=1)[:, ::2]):
            for got, w in zip(all_of(backend, s, targets), want, strict=True):
                assert got.dtype == dtype
                near(got, w, dtype)


def test_soft_targets_are_not_rounded(backend):
    """1 - t of a float64 target is kept beside float32 scores."""
    s, t = np.array([20.0, -1.0], np.float32), np.array([1 - 1e-9, 1e-30])
    got = backend(kn.multilabel_crossentropy, s, t)
    assert got.dtype == np.float32
    near(got, float(backend(kn.multilabel_crossentropy, s.astype(np.float64), t)), np.float32)
    assert abs(got - np.log1p(1e-9 * math.exp(20) + math.exp(-1))) < 1e-6


def test_small_targets_far_out(backend):
    """Terms are products: neither factor has to stay within the range, and no term is dropped."""
    for t, s in (
        (1e-300, -680.0),
        (1e-300, -700.0),
        (1e-300, -740.0),
        (5e-324, -800.0),
        (1e-310, -1e3),
        (1e-200, -400.0),
        (2.0**-53, -36.0),
    ):
        with mpmath.workdps(60):
            u, c = mpf(s), mpf(t)
            p = c * mp.exp(-u)
            n = (1 - c) * mp.exp(u)
            loss = float(mp.log1p(p) + mp.log1p(n))
            grad = float(n / (1 + n) - p / (1 + p))
            hess = float(n / (1 + n) ** 2 + p / (1 + p) ** 2)
        for got, want in zip(
            all_of(backend, np.array([s]), np.array([t])), (loss, grad, hess), strict=True
        ):
            assert abs(float(np.ravel(got)[0]) - want) <= 1e-12 * abs(want), (t, s, got, want)


def test_threshold_gradient(rng):
    """d loss / d threshold = - sum grad."""
    s, t, s0, h = rng.standard_normal((4, 6)), rng.random((4, 6)), rng.standard_normal(4), 1e-6
    grad = kn.multilabel_crossentropy(s, t, threshold=s0, return_grad=True)[1]
    ends = [kn.multilabel_crossentropy(s, t, threshold=s0 + d) for d in (h, -h)]
    np.testing.assert_allclose((ends[0] - ends[1]) / (2 * h), -grad.sum(axis=1), rtol=0, atol=1e-9)


def test_hessian_bounds_and_convexity(backend, rng):
    """0 <= exact <= bound; the bound is above the full Hessian diag(w) - w w^T of both parts."""
    s, t = 3 * rng.standard_normal((50, 6)), rng.random((50, 6))
    t[::2] = t[::2] < 0.5
    exact = backend(kn.multilabel_crossentropy, s, t, return_hess=True)[1]
    bound = backend(kn.multilabel_crossentropy, s, t, return_hess=True, hess="bound")[1]
    assert np.all(exact >= 0) and np.all(bound >= exact)
    n = (1 - t) * np.exp(s)
    p = t * np.exp(-s)
    n, p = n / (1 + n.sum(1, keepdims=True)), p / (1 + p.sum(1, keepdims=True))
    near(bound, n + p)
    for row in range(50):
        full = np.diag(n[row] + p[row]) - np.outer(n[row], n[row]) - np.outer(p[row], p[row])
        near(exact[row], np.diag(full), scale=bound[row])
        assert np.linalg.eigvalsh(full).min() > -1e-12
        assert np.linalg.eigvalsh(np.diag(bound[row]) - full).min() > -1e-12


def test_gradient_and_hessian_by_differences(rng):
    """Against central differences of the wide reference."""
    s = 2 * rng.standard_normal((30, 5))
    t = np.where(rng.random((30, 5)) < 0.5, rng.integers(0, 2, (30, 5)), rng.random((30, 5)))
    mask = rng.random((30, 5)) < 0.8
    s0 = rng.standard_normal(30)
    wide = np.longdouble

    def all_wide(x):
        return reference.multilabel_crossentropy(x, t.astype(wide), mask, s0.astype(wide))

    _, grad, hess = kn.multilabel_crossentropy(
        s, t, mask=mask, threshold=s0, return_grad=True, return_hess=True
    )
    h = wide(1e-5)
    for i in range(5):
        step = h * (np.arange(5) == i)
        up, down = all_wide(s + step), all_wide(s - step)
        # The error of a central difference is h^2 / 6 times a third derivative below 1.
        assert np.max(np.abs((up[0] - down[0]) / (2 * h) - grad[:, i])) < 1e-10
        assert np.max(np.abs((up[1] - down[1])[:, i] / (2 * h) - hess[:, i])) < 1e-10


# --- Accuracy against high precision ---


@remembered
def exact_row(s, t, mask, s0):
    """Loss, gradient and Hessian, and the scale of an error of each: see LIMITS."""
    kept = [i for i in range(len(s)) if mask is None or mask[i]]
    u = {i: mpf(float(s[i])) - mpf(float(s0)) for i in kept}
    c = {i: mpf(float(t[i])) for i in kept}
    n = {i: (1 - c[i]) * mp.exp(u[i]) for i in kept}
    p = {i: c[i] * mp.exp(-u[i]) for i in kept}
    sums = [mp.fsum(x.values()) for x in (n, p)]
    loss = mp.log1p(sums[0]) + mp.log1p(sums[1])
    shares = [{i: v / (1 + total) for i, v in x.items()} for x, total in zip((n, p), sums)]
    grad, hess, scale = (
        np.zeros(len(s), oracle.wide_type("float64")),
        [0.0] * len(s),
        [0.0] * len(s),
    )
    grad = [0.0] * len(s)
    for i in kept:
        a, b = (x[i] for x in shares)
        rest = [(1 + total - x[i]) / (1 + total) for x, total in zip((n, p), sums)]
        grad[i], hess[i] = a - b, a * rest[0] + b * rest[1]
        scale[i] = max(a, b)
    return loss, grad, hess, scale


def to_wide(value, dtype):
    high, low = oracle.split(value if isinstance(value, mpf) else mpf(value))
    wide = oracle.wide_type(dtype)
    return wide(high) + wide(low)


ROWS = ("normal", "confident", "wrong", "large", "shifted", "near threshold")


def random_rows(rng, kind, rows, n, dtype):
    s = rng.standard_normal((rows, n))
    if kind == "confident":
        s = 20 * s
    elif kind == "large":
        s = 200 * s
    elif kind == "wrong":
        s = s + 15
    elif kind == "near threshold":
        s = 1e-3 * s
    s0 = 0.0 if kind != "shifted" else 3 + rng.standard_normal(rows)
    return s.astype(dtype), np.asarray(s0, dtype)


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("targets", ["hard", "soft", "mixed"])
def test_accuracy(backend, dtype, kind, targets, rng):
    limit = LIMITS["multilabel_crossentropy"][oracle.name_of(dtype)]
    worst = 0.0
    for n, rows in ((1, 6), (2, 12), (5, 12), (40, 3)):
        s, s0 = random_rows(rng, kind, rows, n, dtype)
        t = rng.random((rows, n))
        if targets == "hard":
            t = t < 0.4
        elif targets == "mixed":
            t = np.round(t * 4) / 4
        if kind == "confident":
            s = np.where(t > 0.5, np.abs(s), -np.abs(s)).astype(dtype)
        if t.dtype != bool:
            t = t.astype(dtype)
        mask = rng.random((rows, n)) < 0.8 if n == 5 else None
        got = all_of(backend, s, t, threshold=s0, mask=mask)
        for r in range(rows):
            with mpmath.workdps(60 + int(2 * float(np.abs(s[r].astype(float)).max()))):
                loss, grad, hess, scale = exact_row(
                    s[r], t[r], None if mask is None else mask[r], np.broadcast_to(s0, rows)[r]
                )
                loss, *rest = [to_wide(loss, dtype)] + [
                    np.array([to_wide(v, dtype) for v in x]) for x in (grad, hess, scale)
                ]
            grad, hess, scale = rest
            far = np.abs(s[r].astype(float) - float(np.broadcast_to(s0, rows)[r]))
            growth = np.where(far > 30, far, 0)
            worst = max(worst, oracle.worst(got[0][r], loss)[0])
            worst = max(worst, oracle.worst(got[1][r], grad, None, scale, growth)[0])
            worst = max(worst, oracle.worst(got[2][r], hess, None, 0, growth)[0])
    print(f"ULP {backend.name} {oracle.name_of(dtype)} {kind} {targets}: {worst:.2f}")
    assert worst <= limit + (4 if backend.plain and dtype == np.float64 else 0)


@pytest.mark.parametrize("shape", [(2,), (2, 1), (3, 1), (2, 3)])
def test_a_threshold_fits_the_rows(backend, shape):
    for name in ("multilabel_probability", "multilabel_crossentropy"):
        arrays = [np.zeros((3, 4))] * (1 + name.endswith("entropy"))
        with pytest.raises(ValueError, match=f"^{name}: threshold must be broadcastable to the"):
            backend(getattr(kn, name), *arrays, threshold=np.zeros(shape))
