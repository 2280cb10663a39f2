"""Cross-entropies: values, pitfalls and identities of the specification."""

import itertools

import mpmath
import numpy as np
import pytest
from mpmath import mp, mpf

import kexue_native as kn
import oracle
from closeness import near, remembered, same, slopes
from kexue_native.losses.crossentropy import reference

inf, nan = np.inf, np.nan
DENSE = (kn.softmax_crossentropy, kn.sigmoid_crossentropy)
KERNELS = {
    kn.softmax_crossentropy: reference.softmax_crossentropy,
    kn.sigmoid_crossentropy: reference.sigmoid_crossentropy,
}
every_dense = pytest.mark.parametrize("function", DENSE, ids=lambda f: f.__name__)


def all_of(backend, function, scores, targets, **options):
    """(loss, grad, hess)"""
    return backend(function, scores, targets, return_grad=True, return_hess=True, **options)


def on_device(backend):
    """Where a row is nan instead of an error."""
    return backend.name == "cuda"


# --- Exact values of one row: loss, gradient, Hessian, and the terms of the gradient ---


@remembered
def exact_softmax(s, t, smoothing=0):
    s, t = oracle.to_mp(s), oracle.to_mp(t)
    with mpmath.workdps(60 + int(float(max(s) - min(s)))):
        p = [mp.exp(v - max(s)) for v in s]
        p = [v / mp.fsum(p) for v in p]
        amount = mp.fsum(t)
        t = [(1 - mpf(smoothing)) * v + mpf(smoothing) * amount / len(t) for v in t]
        loss = -mp.fsum(b * mp.log(a) for a, b in zip(p, t, strict=True))
        grad = [amount * a - b for a, b in zip(p, t, strict=True)]
        hess = [amount * a * (1 - a) for a in p]
        terms = [  # either way of writing it
            min(max(amount * a, b), max(amount * (1 - a), amount - b))
            for a, b in zip(p, t, strict=True)
        ]
        return tuple(np.array(x, float) for x in (loss, grad, hess, terms))


@remembered
def exact_sigmoid(s, t):
    s, t = oracle.to_mp(s), oracle.to_mp(t)
    with mpmath.workdps(60 + int(float(max(map(abs, s))))):
        p = [(1 / (1 + mp.exp(-v)), 1 / (1 + mp.exp(v))) for v in s]
        loss = -mp.fsum(b * mp.log(a) + (1 - b) * mp.log(c) for (a, c), b in zip(p, t, strict=True))
        pairs = [((1 - b) * a, b * c) for (a, c), b in zip(p, t, strict=True)]
        hess = [a * c for a, c in p]
        results = loss, [a - b for a, b in pairs], hess, [max(pair) for pair in pairs]
        return tuple(np.array(x, float) for x in results)


def targets_for(rng, function, shape, kind):
    if kind == "hard":
        return np.eye(shape[-1])[rng.integers(0, shape[-1], shape[:-1])]
    if kind == "soft":
        return rng.integers(0, 65, shape) / 64
    return rng.integers(0, 4, shape) * (1.0 if function is kn.softmax_crossentropy else 1 / 4)


# --- As they stand in libraries ---


def plain_loss(s, t, least=0.0):
    """-sum t log(p + eps)"""
    with np.errstate(all="ignore"):
        return -np.sum(t * np.log(oracle.plain_softmax(s) + s.dtype.type(least)))


# --- Values and pitfalls ---


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_confident_row(backend, form):
    """p rounds to 1: neither the loss nor p - 1 may."""
    s, t = np.array([18, 0], np.float32), np.array([1, 0], np.float32)
    if form == "dense":
        loss, grad, hess = all_of(backend, kn.softmax_crossentropy, s, t)
    else:
        loss, grad, hess = all_of(backend, kn.sparse_softmax_crossentropy, s, np.array(0))
    near(loss, np.log1p(np.exp(-18.0)), np.float32)
    assert abs(loss - 1.5230e-8) < 1e-12
    near(grad, loss.astype(float) * np.array([-1, 1]), np.float32)
    near(hess, [loss, loss], np.float32)
    assert plain_loss(s, t) == 0 and (oracle.plain_softmax(s) - t)[0] == 0
    for least in (1e-8, 1e-12):  # 1 + eps is 1, too
        assert plain_loss(s, t, least) == 0
    assert abs(plain_loss(np.array([0, -40.0]), np.array([0.0, 1]), 1e-8) - 40) > 20


@pytest.mark.parametrize(
    ("scalar", "offset", "kind"),
    [
        (np.float32, 1e6, "spread"),
        (np.float32, -1e6, "spread"),
        (np.float64, 2.0**40, "spread"),
        (np.float16, 4096, "uniform"),
        (np.float16, -4096, "uniform"),
    ],
)
def test_offset_of_all_scores(backend, scalar, offset, kind, rng):
    s = (rng.integers(-64, 64, (5, 9)) / 16 if kind == "spread" else np.zeros((5, 9))).astype(
        scalar
    )
    t = np.eye(9)[:5].astype(scalar)
    moved = (s + scalar(offset)).astype(scalar)
    same(moved.astype(float) - offset, s)
    for here, there in zip(
        all_of(backend, kn.softmax_crossentropy, s, t),
        all_of(backend, kn.softmax_crossentropy, moved, t),
        strict=True,
    ):
        same(here, there)
    label = np.arange(5)
    same(
        backend(kn.sparse_softmax_crossentropy, s, label),
        backend(kn.sparse_softmax_crossentropy, moved, label),
    )
    if kind == "uniform":
        near(backend(kn.softmax_crossentropy, moved, t), np.full(5, np.log(9)), scalar)


def test_masked_score_does_not_set_the_shift(backend, dtype):
    s = np.array([1e4, 3, 2, 1, inf, nan], dtype)
    t = np.array([0, 1, 0, 0, 0, nan], dtype)
    mask = np.array([False, True, True, True, False, False])
    got = all_of(backend, kn.softmax_crossentropy, s, t, mask=mask)
    want = all_of(backend, kn.softmax_crossentropy, s[1:4], t[1:4])
    near(got[0], want[0], dtype)
    for a, b in zip(got[1:], want[1:], strict=True):
        near(a[1:4], b, dtype)
        same(a[~mask], [0, 0, 0])
    assert np.all(oracle.plain_softmax(s[:4])[1:] == 0)  # shifted by it, nothing else is left


@pytest.mark.parametrize("kind", ["hard", "soft", "more"])
@pytest.mark.parametrize("spread", [0.1, 3.0, 60.0])
@every_dense
def test_exact(backend, dtype, function, kind, spread, rng):
    for n, smoothing in itertools.product((1, 2, 7), (0.0, 0.125)):
        s = (spread * rng.standard_normal((5, n))).astype(dtype)
        t = targets_for(rng, function, s.shape, kind)
        options = {}
        if function is kn.softmax_crossentropy:
            options["label_smoothing"] = smoothing
        elif smoothing:
            continue
        got = all_of(backend, function, s, t.astype(dtype), **options)
        for r in range(5):
            if function is kn.softmax_crossentropy:
                loss, grad, hess, terms = exact_softmax(s[r], t[r], smoothing)
            else:
                loss, grad, hess, terms = exact_sigmoid(s[r], t[r])
            near(got[0][r], loss, dtype)
            near(got[1][r], grad, dtype, scale=np.maximum(terms, np.abs(grad)))
            near(got[2][r], hess, dtype)
        for result in got:
            assert result.dtype == dtype


@every_dense
def test_confident_rows_stay_small(backend, function):
    """Right by 100: every score costs e^-100."""
    s, t = np.array([-100.0, 100.0]), np.array([0, 1])
    loss, grad, hess = all_of(backend, function, s, t)
    cost = np.exp(-200.0) if function is kn.softmax_crossentropy else 2 * np.exp(-100.0)
    each = cost if function is kn.softmax_crossentropy else cost / 2
    near(loss, cost)
    near(grad, [each, -each])
    near(hess, [each, each])


# --- Gradients ---


@every_dense
@pytest.mark.parametrize("smoothing", [0.0, 0.25])
def test_slopes_of_the_wide_reference(backend, function, smoothing, rng):
    """Gradient of the loss, and Hessian of the gradient, by differences."""
    options = {"label_smoothing": smoothing} if function is kn.softmax_crossentropy else {}
    kernel = KERNELS[function]
    s = rng.standard_normal((4, 6))
    t = targets_for(rng, function, s.shape, "soft")
    _, grad, hess = all_of(backend, function, s, t, **options)
    wide_t = t.astype(np.longdouble)

    def results(x):
        return kernel(x, wide_t, None, *options.values())

    along = slopes(lambda x: results(x)[0], s.astype(np.longdouble))
    assert np.max(np.abs(grad - along)) < 1e-10
    for i in range(6):
        step = np.where(np.arange(6) == i, np.longdouble(1e-5), 0)
        change = results(s + step)[1][:, i] - results(s - step)[1][:, i]
        assert np.max(np.abs(hess[:, i] - change / 2e-5)) < 1e-8


@pytest.mark.parametrize("smoothing", [0.0, 0.25])
def test_hessian_bound(backend, dtype, smoothing, rng):
    """T diag(p) is nowhere below T (diag(p) - p p^T)."""
    s = (3 * rng.standard_normal((8, 6))).astype(dtype)
    t = targets_for(rng, kn.softmax_crossentropy, s.shape, "more").astype(dtype)
    options = {"return_hess": True, "label_smoothing": smoothing}
    loss, exact = backend(kn.softmax_crossentropy, s, t, **options)
    same(loss, backend(kn.softmax_crossentropy, s, t, hess="bound", **options)[0])
    bound = backend(kn.softmax_crossentropy, s, t, hess="bound", **options)[1]
    assert np.all(bound >= exact) and np.all(exact >= 0)
    amount = t.astype(float).sum(axis=1, keepdims=True)
    p = softmax(s)
    near(bound, amount * p, dtype)
    for r in range(8):
        full = amount[r] * (np.diag(p[r]) - np.outer(p[r], p[r]))
        least = np.linalg.eigvalsh(np.diag(amount[r] * p[r]) - full).min()
        assert least >= -1e-14 * amount[r]


def softmax(s):
    e = np.exp(s.astype(float) - s.astype(float).max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


@every_dense
def test_each_result_alone(backend, dtype, function, rng):
    """A result does not depend on which others are asked for."""
    for shape in ((4,), (70, 3), (5, 100), (2, 5000)):
        s = rng.standard_normal(shape).astype(dtype)
        t = targets_for(rng, function, shape, "soft")
        loss, grad, hess = all_of(backend, function, s, t)
        assert loss.shape == shape[:-1] and grad.shape == hess.shape == shape
        same(backend(function, s, t), loss)
        for option, result in (("return_grad", grad), ("return_hess", hess)):
            alone = backend(function, s, t, **{option: True})
            same(alone[0], loss)
            same(alone[1], result)


# --- Identities ---


def test_softmax_gradients_sum_to_zero(backend, dtype, rng):
    s = (5 * rng.standard_normal((20, 50))).astype(dtype)
    t = targets_for(rng, kn.softmax_crossentropy, s.shape, "more").astype(dtype)
    for smoothing in (0.0, 0.1):
        _, grad = backend(
            kn.softmax_crossentropy, s, t, label_smoothing=smoothing, return_grad=True
        )
        total = np.abs(grad.astype(float).sum(axis=1))
        assert np.all(total <= 4 * oracle.unit_roundoff(dtype) * t.astype(float).sum(axis=1))


def test_softmax_is_linear_in_targets(backend, rng):
    s = rng.standard_normal((4, 7))
    t = targets_for(rng, kn.softmax_crossentropy, (2, 4, 7), "more")
    parts = [all_of(backend, kn.softmax_crossentropy, s, x) for x in (*t, t[0] + 4 * t[1])]
    for a, b, both in zip(*parts, strict=True):
        near(both, a + 4 * b, scale=np.abs(a) + 4 * np.abs(b))


def test_two_classes_are_one_event(backend, dtype, rng):
    s = (3 * rng.standard_normal((30, 1))).astype(dtype)
    t = rng.integers(0, 65, (30, 1)) / 64
    pair = np.concatenate([s, 0 * s], axis=1), np.concatenate([t, 1 - t], axis=1)
    near(
        backend(kn.softmax_crossentropy, *pair),
        backend(kn.sigmoid_crossentropy, s, t).astype(float),
        dtype,
    )


def test_best_targets_are_the_probabilities(backend, rng):
    s = rng.standard_normal((3, 8))
    _, grad = backend(kn.softmax_crossentropy, s, softmax(s), return_grad=True)
    assert np.max(np.abs(grad)) < 1e-15
    p = 1 / (1 + np.exp(-s))
    _, grad = backend(kn.sigmoid_crossentropy, s, p, return_grad=True)
    assert np.max(np.abs(grad)) < 1e-15


def test_label_smoothing_is_a_change_of_targets(backend, dtype, rng):
    s = rng.standard_normal((6, 8)).astype(dtype)
    t = targets_for(rng, kn.softmax_crossentropy, s.shape, "more")
    mask = rng.random((6, 8)) < 0.8
    mask[0] = False
    amount = np.sum(t, axis=1, where=mask, keepdims=True)
    for e in (0.25, 1.0):
        smooth = (1 - e) * t + e * amount / np.maximum(mask.sum(axis=1, keepdims=True), 1)
        got = all_of(backend, kn.softmax_crossentropy, s, t, mask=mask, label_smoothing=e)
        want = all_of(backend, kn.softmax_crossentropy, s, smooth, mask=mask)
        near(got[0], want[0].astype(float), dtype)
        near(got[1], want[1].astype(float), dtype, scale=amount + 0 * smooth)
        near(got[2], want[2].astype(float), dtype)
    half = kn.softmax_crossentropy(np.array([18.0, 0]), np.array([1, 0]), label_smoothing=0.5)
    near(half, np.log1p(np.exp(-18.0)) + 0.25 * 18, scale=10)


# --- Class numbers ---


@pytest.mark.parametrize("shape", [(5,), (70, 3), (9, 40), (3, 2, 33), (2, 9000)])
def test_sparse_is_dense(backend, dtype, shape, rng):
    s = (4 * rng.standard_normal(shape)).astype(dtype)
    label = rng.integers(0, shape[-1], shape[:-1])
    t = np.arange(shape[-1]) == label[..., None]
    for options in ({}, {"label_smoothing": 0.1}, {"hess": "bound"}):
        got = all_of(backend, kn.sparse_softmax_crossentropy, s, label, **options)
        want = all_of(backend, kn.softmax_crossentropy, s, t, **options)
        for a, b in zip(got, want, strict=True):
            assert a.dtype == dtype and a.shape == b.shape
            same(a, b)


@pytest.mark.parametrize("integer", "bBhHiIlLqQ")
def test_integer_types_of_labels(backend, integer, rng):
    s = rng.standard_normal((6, 5)).astype(np.float32)
    label = rng.integers(0, 5, 6)
    want = backend(kn.sparse_softmax_crossentropy, s, label)
    for given in (label.astype(integer), label.astype(integer)[::-1][::-1]):
        same(backend(kn.sparse_softmax_crossentropy, s, given), want)
    ignored = np.where(label == 3, 100, label).astype(integer)
    got = backend(kn.sparse_softmax_crossentropy, s, ignored, ignore_index=100)
    same(got, np.where(label == 3, 0, want))


def test_ignored_rows_are_not_read(backend, dtype, rng):
    s = rng.standard_normal((40, 9)).astype(dtype)
    label = rng.integers(0, 9, 40)
    plain = all_of(backend, kn.sparse_softmax_crossentropy, s, label)
    out = rng.random(40) < 0.4
    s[out], label[out] = nan, -100
    got = all_of(backend, kn.sparse_softmax_crossentropy, s, label, ignore_index=-100)
    for a, b in zip(got, plain, strict=True):
        same(a[~out], b[~out])
        same(a[out], np.zeros(a[out].shape))
    everything = backend(kn.sparse_softmax_crossentropy, s, np.full(40, 2), ignore_index=2)
    same(everything, np.zeros(40))


@pytest.mark.parametrize("label", [9, -1, -9, 2**40, -(2**63)])
def test_label_out_of_range(backend, label, rng):
    s = rng.standard_normal((4, 9))
    labels = np.array([0, 8, label, 3])
    if backend.on_device:
        got = all_of(backend, kn.sparse_softmax_crossentropy, s, labels)
        for result in got:
            assert np.all(np.isnan(result[2])) and not np.any(np.isnan(np.delete(result, 2, 0)))
        return
    with pytest.raises(IndexError, match=r"labels must be in \[0, 9\), got") as caught:
        backend(kn.sparse_softmax_crossentropy, s, labels)
    assert str(caught.value).startswith("sparse_softmax_crossentropy: ")
    with pytest.raises(IndexError, match=r"in \[0, 9\) or 7, got"):
        backend(kn.sparse_softmax_crossentropy, s, labels, ignore_index=7)


def test_labels_of_more_classes_than_float32_counts(backend):
    """2^24 + 1 is not a float32; neither it nor its neighbour may be taken for the other."""
    if backend.name == "reference" or backend.rows < 1:
        pytest.skip("the reference's temporaries, and the host's CUDA stand-in, need too much here")
    n = 2**24 + 3
    s = np.zeros(n, np.float32)
    s[-2] = 20
    for label, want in ((n - 1, 0), (n - 2, 20), (n - 3, 0)):
        loss = backend(kn.sparse_softmax_crossentropy, s, np.array(label))
        near(loss, np.log(n - 1 + np.exp(20.0)) - want, np.float32)


def test_wrong_labels(backend):
    s = np.zeros((3, 4))
    for error, labels, words in (
        (TypeError, np.zeros(3), "labels must be integers"),
        (TypeError, np.zeros(3, bool), "labels must be integers"),
        (TypeError, None, "labels must be array-like"),
        (ValueError, np.zeros((3, 1), int), "labels must have the shape"),
        (ValueError, np.zeros(4, int), "labels must have the shape"),
        (ValueError, np.array(0), "labels must have the shape"),
    ):
        with pytest.raises(error, match=f"^sparse_softmax_crossentropy: {words}"):
            backend(kn.sparse_softmax_crossentropy, s, labels)
    with pytest.raises(
        TypeError, match="^sparse_softmax_crossentropy: ignore_index must be an int"
    ):
        backend(kn.sparse_softmax_crossentropy, s, np.zeros(3, int), ignore_index=0.5)


# --- Targets ---


@every_dense
@pytest.mark.parametrize("kind", [*"?bBhHiIlLqQ", "e", "f", "d", "bfloat16", ">i4", ">f8", ">u2"])
def test_types_of_targets(backend, function, kind, rng):
    """Targets keep their type; that of the scores is that of the results."""
    kind = oracle.dtype_of(kind) if kind == "bfloat16" else np.dtype(kind)
    if backend.on_device and not kind.isnative:
        pytest.skip("CuPy has no such arrays")
    t = targets_for(rng, function, (6, 9), "hard").astype(kind)
    for dtype in (np.float16, np.float32, np.float64):
        s = rng.standard_normal((6, 9)).astype(dtype)
        got = all_of(backend, function, s, t)
        want = all_of(backend, function, s, t.astype(np.float64))
        for a, b in zip(got, want, strict=True):
            assert a.dtype == dtype
            same(a, b)


def test_counts_as_targets(backend):
    """More than one, and more than a type of the scores can hold."""
    s = np.array([1, 2, 3], np.float16)
    t = np.array([0, 0, 200], np.uint8)
    cost = np.log1p(np.exp(-1.0) + np.exp(-2.0))
    near(backend(kn.softmax_crossentropy, s, t), 200 * cost, np.float16)
    assert np.int64((1 - 2 * t)[2]) != -399  # what formulas of bytes make of it


@every_dense
def test_invalid_targets(backend, dtype, function, rng):
    s = rng.standard_normal((5, 6)).astype(dtype)
    wrong = [-0.5, nan, inf, -inf] + [1.5] * (function is kn.sigmoid_crossentropy)
    for value, hidden in itertools.product(wrong, (False, True)):
        t = targets_for(rng, function, s.shape, "hard").astype(dtype)
        t[2, 4] = value
        mask = np.ones((5, 6), bool)
        mask[2, 4] = not hidden
        if hidden:
            assert np.all(np.isfinite(backend(function, s, t, mask=mask)))
            continue
        if not on_device(backend):
            with pytest.raises(ValueError, match=f"^{function.__name__}: targets must"):
                backend(function, s, t, mask=mask)
        for result in all_of(backend, function, s, t, mask=mask, validate=False):
            assert np.all(np.isnan(result[2])) and not np.any(np.isnan(np.delete(result, 2, 0)))


@every_dense
def test_refused_arguments(backend, function):
    s = np.zeros((2, 3))
    cases = [
        (ValueError, "targets must have the shape of scores", (s, s[0]), {}),
        (ValueError, "targets must have the shape of scores", (s[0], s), {}),
        (TypeError, "mask must be boolean", (s, s), {"mask": s}),
        (TypeError, "targets must be of a real type", (s, s.astype(complex)), {}),
    ]
    if function is kn.softmax_crossentropy:
        cases += [
            (ValueError, r"label_smoothing must be in \[0, 1\]", (s, s), {"label_smoothing": 1.5}),
            (ValueError, r"label_smoothing must be in \[0, 1\]", (s, s), {"label_smoothing": -1}),
            (ValueError, "label_smoothing must be finite", (s, s), {"label_smoothing": nan}),
            (ValueError, "hess must be", (s, s), {"hess": "full"}),
        ]
    for error, words, arguments, options in cases:
        with pytest.raises(error, match=f"^{function.__name__}: {words}"):
            backend(function, *arguments, **options)


# --- Special values ---

SOFTMAX = [  # scores, targets, loss, gradient
    ([0, 0, -inf], [1, 0, 0], np.log(2), [-0.5, 0.5, 0]),
    ([0, 0, -inf], [0, 0, 1], inf, [0.5, 0.5, -1]),
    ([inf, 0, 0], [1, 0, 0], 0, [0, 0, 0]),
    ([inf, 0, 0], [0, 1, 0], inf, [1, -1, 0]),
    ([inf, inf, 0], [1, 0, 0], np.log(2), [-0.5, 0.5, 0]),
    ([inf, 0, -inf], [0, 0, 0], 0, [0, 0, 0]),
    ([5, 3, 1], [0, 0, 0], 0, [0, 0, 0]),
    ([-inf, -inf, -inf], [1, 0, 0], nan, [nan] * 3),
    ([nan, 0, 0], [0, 1, 0], nan, [nan] * 3),
    ([nan, inf, 0], [0, 0, 0], nan, [nan] * 3),
]
SIGMOID = [
    ([-inf, 0, inf], [0, 0.5, 1], np.log(2), [0, 0, 0]),
    ([-inf, 0, 0], [1, 0, 0], inf, [-1, 0.5, 0.5]),
    ([inf, 0, 0], [0, 0, 0], inf, [1, 0.5, 0.5]),
    ([inf, 0, 0], [0.5, 0, 0], inf, [0.5, 0.5, 0.5]),
    ([nan, 0, 0], [0, 0, 0], nan, [nan] * 3),
    ([nan, -inf, 0], [0, 1, 0], nan, [nan] * 3),
]


@pytest.mark.parametrize(("function", "table"), [*zip(DENSE, (SOFTMAX, SIGMOID), strict=True)])
@pytest.mark.parametrize("copies", [1, 11])
def test_special_values(backend, dtype, function, table, copies):
    s, t, loss, grad = (np.array([row[k] for row in table] * copies, float) for k in range(4))
    got = all_of(backend, function, s.astype(dtype), t.astype(dtype))
    near(got[0], loss, dtype)
    near(got[1], grad, dtype)
    same(np.isnan(got[2]), np.isnan(grad))
    sparse = (t.sum(axis=1) == 1) & (t.max(axis=1) == 1)
    if function is kn.softmax_crossentropy:
        label = np.argmax(t[sparse], axis=1)
        alike = all_of(backend, kn.sparse_softmax_crossentropy, s[sparse].astype(dtype), label)
        for a, b in zip(alike, got, strict=True):
            same(a, b[sparse])


def test_special_values_with_smoothing(backend, dtype):
    """Every class has a target, so none may be impossible."""
    s = np.array([[0, 0, -inf], [inf, 0, 0], [0, 0, 0]], dtype)
    t = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 0]], dtype)
    got = backend(kn.softmax_crossentropy, s, t, label_smoothing=0.1)
    same(got, [inf, inf, 0])


def test_special_values_in_long_rows(backend, dtype):
    n = 20_000 if backend.rows == 1 else 300
    for place in (0, 17, n // 2, n - 1):
        s, t = np.zeros((4, n), dtype), np.zeros((4, n), bool)
        s[0, place] = s[1, place] = -inf
        s[2, place], s[3, place] = nan, inf
        t[:, (place + 1) % n] = True
        t[1, place] = True
        loss, grad = backend(kn.softmax_crossentropy, s, t, return_grad=True)
        near(loss, [np.log(n - 1), inf, nan, inf], dtype)
        same(np.isnan(grad).any(axis=1), [False, False, True, False])
        loss = backend(kn.sigmoid_crossentropy, s, t)
        same(loss[1:], [inf, nan, inf])


@every_dense
def test_empty_and_masked_rows(backend, dtype, function):
    for shape, options in (
        ((3, 0), {}),
        ((3, 4), {"mask": np.zeros((3, 4), bool)}),
        ((3, 4), {"mask": np.zeros((3, 1), bool)}),
        ((3, 5000), {"mask": False}),
    ):
        got = all_of(backend, function, np.full(shape, nan, dtype), np.full(shape, nan), **options)
        for result, wanted in zip(got, ((3,), shape, shape), strict=True):
            same(result, np.zeros(wanted))
    empty = all_of(backend, kn.sparse_softmax_crossentropy, np.zeros((0, 4)), np.zeros(0, int))
    assert [r.shape for r in empty] == [(0,), (0, 4), (0, 4)]


@every_dense
def test_masked_entries_have_no_effect(backend, dtype, function, rng):
    s = rng.standard_normal((6, 40)).astype(dtype)
    t = targets_for(rng, function, s.shape, "soft")
    mask = rng.random((6, 40)) < 0.5
    hidden = np.where(mask, s, nan).astype(dtype)
    got = all_of(backend, function, hidden, np.where(mask, t, -1), mask=mask)
    for r in range(6):
        want = all_of(backend, function, s[r, mask[r]], t[r, mask[r]])
        near(got[0][r], want[0], dtype)
        for a, b in zip(got[1:], want[1:], strict=True):
            near(a[r, mask[r]], b, dtype, scale=np.abs(b).max())
            same(a[r, ~mask[r]], np.zeros(40 - mask[r].sum()))


@every_dense
def test_long_rows(backend, dtype, function, rng):
    """Blocks of a row are put together, whichever holds the largest score."""
    for n, drift in ((10_000, 0.0), (10_000, 8.0), (150_000, 40.0)):
        if n == 150_000 and dtype == np.float16:
            continue  # beyond what the loss can be
        n = n if backend.rows == 1 else n // 50
        s = (rng.standard_normal(n) + drift * np.sin(np.arange(n) / 3000)).astype(dtype)
        t = targets_for(rng, function, s.shape, "soft").astype(dtype)
        wide = oracle.wide_type(dtype)
        want = KERNELS[function](s.astype(wide), t.astype(wide))
        for a, b in zip(all_of(backend, function, s, t), want, strict=True):
            near(a, b, dtype, scale=np.maximum(np.abs(b), np.shape(b) == t.shape and np.abs(t)))


@every_dense
def test_permutation(backend, dtype, function, rng):
    s = rng.standard_normal((5, 60)).astype(dtype)
    t = targets_for(rng, function, s.shape, "soft")
    order = rng.permutation(60)
    here, there = (
        all_of(backend, function, s, t),
        all_of(backend, function, s[:, order], t[:, order]),
    )
    near(there[0], here[0].astype(float), dtype)
    for a, b in zip(there[1:], here[1:], strict=True):
        near(a, b[:, order].astype(float), dtype, scale=np.max(np.abs(b)))


@every_dense
def test_several_axes(backend, dtype, function, rng):
    s = rng.standard_normal((3, 4, 5)).astype(dtype)
    t = targets_for(rng, function, s.shape, "soft")
    for axis in ((0, 2), (1,), None, (2, 1)):
        axes = tuple(range(3)) if axis is None else axis
        loss, grad, hess = all_of(backend, function, s, t, axis=axis)
        rest = tuple(i for i in range(3) if i not in axes)
        flat = [x.transpose(rest + axes).reshape(*loss.shape, -1) for x in (s, t, grad, hess)]
        want = all_of(backend, function, *flat[:2])
        near(loss, want[0].astype(float), dtype)
        for a, b in zip(flat[2:], want[1:], strict=True):
            near(a, b.astype(float), dtype, scale=np.max(np.abs(b)))
