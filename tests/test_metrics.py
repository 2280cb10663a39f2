"""Smoothed metrics, flooding and cosine losses: values and pitfalls of the specification."""

import math

import numpy as np
import pytest
from mpmath import mp, mpf, workdps

import kexue_native as kn
import oracle
from cases import limit
from closeness import near, same, slopes
from kexue_native.losses.metrics import reference

inf, nan = np.inf, np.nan


# --- smooth_accuracy ---


def test_accuracy_is_the_mean_probability_of_the_label(backend, dtype, rng):
    p = rng.random((3, 5, 7)).astype(dtype)
    for kind in "bBhHiIlLqQ":
        labels = rng.integers(0, 7, (3, 5)).astype(kind)
        value, grad = backend(kn.smooth_accuracy, p, labels, return_grad=True)
        chosen = np.take_along_axis(p.astype(float), labels[..., None].astype(int), axis=-1)
        near(value, chosen.mean(), dtype)
        assert value.dtype == grad.dtype == dtype and value.shape == () and grad.shape == p.shape
        want = (np.arange(7) == labels[..., None]) / 15
        same(grad.astype(float), want.astype(dtype).astype(float))
        same(backend(kn.smooth_accuracy, p, labels), value)


def test_accuracy_of_layouts(backend, rng):
    p, labels = rng.random((6, 4)), rng.integers(0, 4, 6)
    want = backend(kn.smooth_accuracy, p, labels, return_grad=True)
    views = (np.asfortranarray(p), labels), (np.repeat(p, 2, 1)[:, ::2], np.repeat(labels, 2)[::2])
    for made, numbers in views:
        for got, w in zip(backend(kn.smooth_accuracy, made, numbers, return_grad=True), want):
            same(got, w)
    same(backend(kn.smooth_accuracy, p[0], labels[0]), p[0, labels[0]])
    if not backend.on_device:
        out = np.empty(()), np.empty((4, 6)).T
        got = backend(kn.smooth_accuracy, p, labels, return_grad=True, out=out)
        assert got[0] is out[0] and got[1] is out[1]
        for g, w in zip(got, want):
            same(g, w)


def test_accuracy_special_values(backend, dtype):
    value, grad = backend(
        kn.smooth_accuracy, np.zeros((0, 3), dtype), np.zeros(0, int), return_grad=True
    )
    assert np.isnan(value) and grad.shape == (0, 3)
    p = np.array([[nan, 0.5], [0.25, 0.75]], dtype)
    same(float(backend(kn.smooth_accuracy, p, np.array([1, 0]))), 0.375)
    assert np.isnan(backend(kn.smooth_accuracy, p, np.array([0, 0])))


def test_accuracy_errors(backend):
    p = np.full((2, 3), 1 / 3)
    for labels in ([0, 3], [-1, 0]):
        if backend.on_device:
            assert np.isnan(backend(kn.smooth_accuracy, p, np.array(labels)))
            continue
        with pytest.raises(IndexError, match=r"^smooth_accuracy: labels must be in \[0, 3\), got"):
            backend(kn.smooth_accuracy, p, np.array(labels))
    with pytest.raises(TypeError, match="^smooth_accuracy: labels must be integers, got float64"):
        backend(kn.smooth_accuracy, p, np.zeros(2))
    for labels in (np.zeros(3, int), np.zeros((2, 3), int), np.zeros((), int)):
        with pytest.raises(ValueError, match="^smooth_accuracy: labels must have the shape of"):
            backend(kn.smooth_accuracy, p, labels)


# --- smooth_fbeta, smooth_precision, smooth_recall ---

MEASURES = [
    (kn.smooth_fbeta, {}, 1, 1),
    (kn.smooth_fbeta, {"beta": 2.0}, 4, 1),
    (kn.smooth_fbeta, {"beta": 0.5}, 1, 4),
    (kn.smooth_fbeta, {"beta": 0.0}, 0, 1),
    (kn.smooth_precision, {}, 0, 1),
    (kn.smooth_recall, {}, 1, 0),
]


@pytest.mark.parametrize(("function", "options", "true", "found"), MEASURES)
@pytest.mark.parametrize("soft", [False, True])
def test_measures_exact(backend, dtype, rng, function, options, true, found, soft):
    p = rng.random((4, 9)).astype(dtype)
    t = (rng.random((4, 9)) if soft else rng.integers(0, 2, (4, 9))).astype(dtype)
    value, grad = backend(function, p, t, axis=1, return_grad=True, **options)
    assert value.dtype == grad.dtype == dtype
    for r in range(4):
        with workdps(40):
            pr, tr = oracle.to_mp(p[r]), oracle.to_mp(t[r])
            total = true * mp.fsum(tr) + found * mp.fsum(pr)
            want = (true + found) * mp.fdot(tr, pr) / total
            slope = [((true + found) * x - found * want) / total for x in tr]
            size = [((true + found) * x + found * want) / total for x in tr]
        near(value[r], float(want), dtype)
        near(grad[r], [float(v) for v in slope], dtype, scale=[float(v) for v in size])
    near(backend(function, p[:1], t[:1], **options), value[0], dtype)  # axis=None


def test_f1_of_decisions_is_the_f1(backend, rng):
    """With p of 0 and 1 it is the metric itself."""
    p, t = rng.integers(0, 2, 50), rng.integers(0, 2, 50)
    hits = np.sum(p & t)
    near(backend(kn.smooth_fbeta, p, t), 2 * hits / (p.sum() + t.sum()))
    near(backend(kn.smooth_precision, p, t), hits / p.sum())
    near(backend(kn.smooth_recall, p, t), hits / t.sum())


@pytest.mark.parametrize(("function", "options", "true", "found"), MEASURES)
def test_zero_division(backend, dtype, function, options, true, found):
    for shape in ((3, 0), (3, 4)):
        p, t = np.zeros(shape, dtype), np.zeros(shape, bool)
        for fallback in (0.0, 1.0):
            value, grad = backend(
                function, p, t, axis=1, zero_division=fallback, return_grad=True, **options
            )
            same(value, [fallback] * 3)
            same(grad, p)
    one = np.ones(2, dtype), np.zeros(2, dtype)
    same(backend(function, *one, zero_division=7.0, **options), 0.0 if found else 7.0)
    same(backend(function, *one[::-1], zero_division=7.0, **options), 0.0 if true else 7.0)


@pytest.mark.parametrize("beta", [1e-9, 1e-200, 1e200, 1e308])
def test_extreme_beta_is_precision_or_recall(backend, beta, rng):
    p, t = rng.random(20), rng.random(20)
    want = (kn.smooth_precision if beta < 1 else kn.smooth_recall)(p, t, return_grad=True)
    for got, w in zip(backend(kn.smooth_fbeta, p, t, beta=beta, return_grad=True), want):
        near(got, w)


def test_measures_of_many_float16(backend):
    """Sums leave the range, and adding 1 to 2048 the digits, of float16; the quotient does not."""
    p, t = np.full(300_000, 0.75, np.float16), np.ones(300_000, bool)
    assert np.cumsum(p, dtype=np.float16)[-1] < 3000
    near(backend(kn.smooth_fbeta, p, t), 2 * 0.75 / 1.75, np.float16)
    same(backend(kn.smooth_recall, p, t), 0.75)


def test_measures_special_values(backend, dtype):
    p = np.array([[nan, 0.5], [inf, 0.5], [0.5, 0.5]], dtype)
    value, grad = backend(kn.smooth_fbeta, p, np.ones((3, 2)), axis=1, return_grad=True)
    assert np.all(np.isnan(value[:2])) and np.all(np.isnan(grad[0]))
    near(value[2], 2 / 3, dtype)


def test_measures_errors(backend):
    for wrong in (-0.5, 1.5, nan):
        t = np.array([[1, 0], [wrong, 0]])
        for function in (kn.smooth_fbeta, kn.smooth_precision, kn.smooth_recall):
            if backend.name == "cuda":
                got = backend(function, np.ones((2, 2)), t, axis=1)
                assert np.isnan(got[1]) and not np.isnan(got[0])
            else:
                with pytest.raises(ValueError, match=rf"^{function.__name__}: targets must be in"):
                    backend(function, np.ones((2, 2)), t, axis=1)
    with pytest.raises(ValueError, match="^smooth_fbeta: beta must be finite and at least 0"):
        backend(kn.smooth_fbeta, np.ones(2), np.ones(2), beta=-1.0)
    with pytest.raises(ValueError, match="^smooth_fbeta: targets must have the shape of probs"):
        backend(kn.smooth_fbeta, np.ones(2), np.ones(1))


def test_fbeta_chain_to_scores(rng):
    """Through softmax, as its docstring says."""
    x, t = rng.standard_normal((4, 3)), rng.integers(0, 2, (4, 3))
    grad = kn.smooth_fbeta(kn.softmax(x, axis=1), t, return_grad=True)[1]
    got = kn.softmax_vjp(x, grad, axis=1)
    for at in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[at] = 1e-5
        ends = [kn.smooth_fbeta(kn.softmax(x + d, axis=1), t) for d in (step, -step)]
        assert abs((ends[0] - ends[1]) / 2e-5 - got[at]) < 1e-9


# --- flooding ---


def test_flooding(backend, dtype):
    b = 0.5
    x = np.array([0.5, 0.75, 0.25, 0, -1, inf, -inf, nan], dtype)
    value, grad = backend(kn.flooding, x, b, return_grad=True)
    same(value, [0.5, 0.75, 0.75, 1, 2, inf, inf, nan])
    same(grad, [0, 1, -1, -1, -1, 1, -1, nan])
    assert value.dtype == grad.dtype == dtype
    same(backend(kn.flooding, x, b), value)


def test_flooding_does_not_round_above_b(backend, dtype, rng):
    """|L - b| + b changes the loss that it means to leave alone."""
    x = (10 ** rng.uniform(-2, 2, 1000)).astype(dtype)
    b = dtype.type(0.3)
    public = np.abs(x - b) + b
    above = x > b
    assert np.any(public[above] != x[above])
    got = backend(kn.flooding, x, float(b))
    same(got[above], x[above])
    wide = x.astype(oracle.wide_type(dtype))
    below = (2 * b.astype(wide.dtype) - wide).astype(dtype)
    same(got[~above], below[~above])


def test_flooding_level_per_row(backend, dtype, rng):
    x, b = rng.random((3, 4)).astype(dtype), np.array([[0.25], [0.5], [nan]], dtype)
    value, grad = backend(kn.flooding, x, b, return_grad=True)
    for r in range(2):
        want = backend(kn.flooding, x[r], float(b[r, 0]), return_grad=True)
        same(value[r], want[0])
        same(grad[r], want[1])
    assert np.all(np.isnan(value[2])) and np.all(np.isnan(grad[2]))
    if not backend.on_device:
        out = np.array(x)
        assert backend(kn.flooding, out, b, out=out) is out
        same(out, value)


def test_flooding_errors(backend):
    for b in (nan, inf, -inf, np.float32(inf)):
        with pytest.raises(ValueError, match="^flooding: b must be finite"):
            backend(kn.flooding, np.zeros(3), b)
    with pytest.raises(ValueError, match="^flooding: loss and b must have shapes that broadcast"):
        backend(kn.flooding, np.zeros(3), np.zeros((2, 4)))
    same(backend(kn.flooding, np.zeros(3), np.array([[1.0], [-1.0]])), [[2.0] * 3, [0.0] * 3])


def test_flooding_turns_the_gradient(rng):
    x = rng.random(50).astype(np.longdouble)
    grad = reference.flooding(x, np.longdouble(0.4))[1]
    step = np.longdouble(1e-6)
    ends = [reference.flooding(x + d, np.longdouble(0.4))[0] for d in (step, -step)]
    np.testing.assert_allclose(np.asarray((ends[0] - ends[1]) / (2 * step), float), grad, atol=1e-9)


# --- negative_cosine, simsiam_loss ---


def exact_cosine(p, z):
    """Minus the cosine, its gradient for constant z, and the larger of the gradient's terms."""
    norms = [mp.sqrt(mp.fdot(v, v)) for v in (p, z)]
    if not all(norms):
        return mpf(0), [mpf(0)] * len(p), [mpf(0)] * len(p)
    a, b = ([x / norm for x in v] for v, norm in zip((p, z), norms))
    cosine = mp.fdot(a, b)
    slope = [-(y - cosine * x) / norms[0] for x, y in zip(a, b)]
    size = [max(abs(y), abs(cosine * x)) / norms[0] for x, y in zip(a, b)]
    return -cosine, slope, size


def check_cosine(got, p, z, dtype):
    loss, grad = got
    with workdps(40):
        p, z = oracle.to_mp(p), oracle.to_mp(z)
        value, slope, size = exact_cosine(p, z)
        terms = mp.fsum(abs(x * y) for x, y in zip(p, z))
        terms /= mp.sqrt(mp.fdot(p, p) * mp.fdot(z, z)) or 1
    near(loss, float(value), dtype, scale=float(terms))
    largest = float(np.finfo(dtype).max) if dtype.itemsize > 2 else 65504.0
    for g, s, most in zip(grad, slope, size):
        if abs(s) < largest:
            near(g, float(s), dtype, scale=float(most))


def test_cosine_exact(backend, dtype, rng):
    for n in (1, 2, 7, 300):
        p, z = rng.standard_normal((2, 5, n)).astype(dtype)
        loss, grad = backend(kn.negative_cosine, p, z, return_grad=True)
        assert loss.dtype == grad.dtype == dtype
        for r in range(5):
            check_cosine((loss[r], grad[r]), p[r], z[r], dtype)
        along = p.astype(float)
        size = 1 / np.linalg.norm(along, axis=1, keepdims=True)  # that of either term, or more
        bound = 2 * limit("negative_cosine", dtype) * oracle.unit_roundoff(dtype)
        bound = bound * np.sum(np.abs(along) * size, axis=1)
        assert np.all(np.abs(np.sum(grad.astype(float) * along, axis=1)) <= bound)  # orthogonal


@pytest.mark.parametrize(
    "sizes", [(1e200, 1e-200), (1e-200, 1e200), (1e-310, 1), (1.7e308, 5e-324)]
)
def test_cosine_of_any_length(backend, sizes):
    """Scale-invariant, where the squares leave the range."""
    p, z = np.array([3.0, -4.0, 1.0]), np.array([1.0, 2.0, 0.5])
    p, z = p / 4 * sizes[0], z / 2 * sizes[1]
    with np.errstate(all="ignore"):
        public = np.sum(p * z) / (np.sqrt(np.sum(p * p)) * np.sqrt(np.sum(z * z)))
    assert not abs(public) < 1, "the plain formula is expected to fail here"
    check_cosine(backend(kn.negative_cosine, p, z, return_grad=True), p, z, p.dtype)


def test_cosine_in_float16(backend):
    """Squares overflow from 256 on."""
    p, z = np.array([300, 400], np.float16), np.array([1, 0], np.float16)
    with np.errstate(all="ignore"):
        assert np.sum(p * p, dtype=np.float16) == inf
    loss, grad = backend(kn.negative_cosine, p, z, return_grad=True)
    same(loss, np.float16(-0.6))
    near(grad, [-0.64 / 500, 0.48 / 500], np.float16)
    p = np.array([6e-8, 0], np.float16)
    same(backend(kn.negative_cosine, p, z), -1)


def test_cosine_of_small_vectors(backend):
    """x / max(norm, eps) is no unit vector where the norm is below eps."""
    p, z = np.array([3e-9, 4e-9], np.float32), np.array([1, 0], np.float32)
    public = -np.sum(p / max(np.sqrt(np.sum(p * p)), 1e-8) * z)
    assert abs(public + 0.3) < 1e-6
    near(backend(kn.negative_cosine, p, z), -0.6, np.float32)


def test_cosine_special_values(backend, dtype):
    p = np.array([[0, 0], [1, 2], [nan, 1], [inf, 1], [1, 0], [0, 0], [3, 4]], dtype)
    z = np.array([[1, 2], [0, 0], [1, 1], [1, 1], [-inf, 1], [nan, 1], [3, 4]], dtype)
    loss, grad = backend(kn.negative_cosine, p, z, return_grad=True)
    same(loss, [0, 0, nan, nan, nan, nan, -1])
    same(grad[:6], [[0, 0], [0, 0], *[[nan, nan]] * 4])
    assert np.all(np.abs(grad[6].astype(float)) < 2 ** -oracle.MANTISSA[oracle.name_of(dtype)])
    for shape in ((0,), (3, 0)):
        loss, grad = backend(
            kn.negative_cosine, np.zeros(shape, dtype), np.zeros(shape, dtype), return_grad=True
        )
        same(loss, np.zeros(shape[:-1]))
        assert grad.shape == shape


def test_cosine_stays_within_bounds(backend, dtype, rng):
    for n in (2, 3, 10, 1000):
        x = (10 ** rng.uniform(-1, 1, (40, 1)) * rng.standard_normal((40, n))).astype(dtype)
        loss = backend(kn.negative_cosine, x, x).astype(float)
        near(loss, -np.ones(40), dtype)
        assert np.all(loss >= -1)


def test_cosine_with_one_constant(backend, rng):
    p, z = rng.standard_normal((4, 5)), rng.standard_normal(5)
    for got, want in zip(
        backend(kn.negative_cosine, p, z, return_grad=True),
        backend(kn.negative_cosine, p, np.tile(z, (4, 1)), return_grad=True),
    ):
        same(got, want)


def test_cosine_gradient_by_differences(rng):
    p, z = rng.standard_normal((2, 4, 6)).astype(np.longdouble)
    found = slopes(lambda x: reference.negative_cosine(x, z)[0], p)
    got = reference.negative_cosine(p, z)[1]
    np.testing.assert_allclose(np.asarray(got, float), found, rtol=0, atol=1e-11)


def test_simsiam(backend, dtype, rng):
    p1, z2, p2, z1 = rng.standard_normal((4, 6, 9)).astype(dtype)
    p1[0], z1[1], p2[2, 3] = 0, 0, nan
    loss, grad1, grad2 = backend(kn.simsiam_loss, p1, z2, p2, z1, return_grad=True)
    first = [x.astype(float) for x in backend(kn.negative_cosine, p1, z2, return_grad=True)]
    second = [x.astype(float) for x in backend(kn.negative_cosine, p2, z1, return_grad=True)]
    near(loss, (first[0] + second[0]) / 2, dtype, scale=np.maximum(*np.abs([first[0], second[0]])))
    undefined = np.isnan(loss.astype(float))
    same(undefined, np.arange(6) == 2)
    same(np.isnan(grad1.astype(float)), np.tile(undefined[:, None], 9))
    near(grad1[~undefined], first[1][~undefined] / 2, dtype)
    near(grad2[~undefined], second[1][~undefined] / 2, dtype)
    same(backend(kn.simsiam_loss, p1, z2, p2, z1), loss)


def test_simsiam_half_is_rounded_once(backend):
    """The mean of two float16 losses would be rounded twice."""
    p, z = np.array([[1, 2], [3, 1]], np.float16), np.array([[2, 1], [1, 0]], np.float16)
    want = -(4 / 5 + 3 / math.sqrt(10)) / 2
    got = backend(kn.simsiam_loss, p[0], z[0], p[1], z[1])
    same(got, np.float16(want))


def test_simsiam_errors(backend):
    x = np.ones((2, 3))
    with pytest.raises(ValueError, match="^simsiam_loss: p1 and p2 must have the same shape"):
        backend(kn.simsiam_loss, x, x, x[0], x, return_grad=True)
    same(backend(kn.simsiam_loss, x, x[0], x[:1], x), [-1, -1])
