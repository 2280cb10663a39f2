"""Ranking losses: values, pitfalls and identities of the specification."""

import itertools
import math

import numpy as np
import pytest
from mpmath import mp, mpf, workdps

import kexue_native as kn
import oracle
from closeness import near, same, slopes
from kexue_native.losses.ranking import reference

inf, nan = np.inf, np.nan


def rows(rng, n, kind, count=12):
    """Scores of different spreads and hard targets, one row of each number of positives first."""
    spread = {"normal": 1, "wide": 30, "right": 3, "wrong": 3}[kind]
    s = spread * rng.standard_normal((count, n))
    k = np.arange(count) % (n + 1)
    t = np.argsort(rng.random((count, n)), axis=1) < k[:, None]
    if kind in ("right", "wrong"):
        s += np.where(t == (kind == "right"), 20, -20)
    return s, t


# --- pairwise_rank_loss ---


def exact_pairwise(s, t, gamma=1, margin=0):
    """Loss and gradient from the sum over pairs."""
    negatives, positives = ([i for i, x in enumerate(t) if x == side] for side in (0, 1))
    pairs = {(i, j): mp.exp(gamma * (s[i] - s[j] + margin)) for i in negatives for j in positives}
    total = mp.fsum(pairs.values())
    shares = [
        mp.fsum(v if i == a else -v if j == a else 0 for (i, j), v in pairs.items())
        for a in range(len(s))
    ]
    return mp.log1p(total), [gamma * v / (1 + total) for v in shares]


@pytest.mark.parametrize("kind", ["normal", "wide", "right", "wrong"])
@pytest.mark.parametrize("options", [{}, {"gamma": 0.25}, {"gamma": 8.0, "margin": 0.25}])
def test_pairwise_exact(backend, dtype, rng, kind, options):
    s, t = rows(rng, 7, kind)
    s = s.astype(dtype)
    loss, grad = backend(kn.pairwise_rank_loss, s, t, return_grad=True, **options)
    assert loss.dtype == grad.dtype == dtype
    for r in range(len(s)):
        with workdps(60):
            value, slope = exact_pairwise(oracle.to_mp(s[r]), t[r], **options)
            near(loss[r], float(value), dtype)
            near(grad[r], [float(v) for v in slope], dtype)


def test_pairwise_of_one_positive_is_softmax_crossentropy(backend, rng):
    s = 5 * rng.standard_normal((6, 9))
    label = rng.integers(0, 9, 6)
    t = np.eye(9)[label]
    loss, grad = backend(kn.pairwise_rank_loss, s, t, return_grad=True)
    log_p = kn.log_softmax(s, axis=1)
    near(loss, -np.sum(t * log_p, axis=1))
    near(grad, kn.softmax(s, axis=1) - t, scale=1)


def test_pairwise_moves_with_the_scores(backend, rng):
    """Separate logsumexp of either side cancel; the difference of two scores does not."""
    s = np.round(16 * rng.standard_normal((8, 12))).astype(np.float32) / 16
    t = rng.random((8, 12)) < 0.4
    t[:, :2] = [True, False]
    want = backend(kn.pairwise_rank_loss, s, t, return_grad=True)
    moved = s + np.float32(2**19)  # exact
    for got, w in zip(backend(kn.pairwise_rank_loss, moved, t, return_grad=True), want):
        same(got, w)
    sides = [
        np.logaddexp.reduce(np.where(side, x, -inf), axis=1, dtype=np.float32)
        for side, x in ((~t, moved), (t, -moved))
    ]
    assert np.max(np.abs(np.logaddexp(0, sides[0] + sides[1]) / want[0] - 1)) > 1e-3


def test_pairwise_confident_rows(backend):
    s, t = np.array([-100.0, 100, 90, -120]), np.array([0, 1, 1, 0])
    tiny = math.exp(-190) * (1 + math.exp(-10)) * (1 + math.exp(-20))
    loss, grad = backend(kn.pairwise_rank_loss, s, t, return_grad=True)
    near(loss, tiny)
    with workdps(60):
        near(grad, [float(v) for v in exact_pairwise(oracle.to_mp(s), t)[1]])
    for scale in (1e3, 1e300):
        loss, grad = backend(kn.pairwise_rank_loss, -scale * s, t, return_grad=True)
        near(loss, 220 * scale)
        near(grad, [0, -1, 0, 1])


def test_pairwise_special_values(backend, dtype):
    s = np.array(
        [
            [1, 2, 3],
            [1, 2, 3],
            [inf, 1, 2],
            [inf, inf, 1],
            [-inf, 0, inf],
            [-inf, -inf, -inf],
            [nan, 1, 2],
            [nan, 1, 2],
            [inf, inf, inf],
        ],
        dtype,
    )
    t = [
        [0, 0, 0],
        [1, 1, 1],
        [0, 0, 1],
        [0, 1, 1],
        [0, 1, 1],
        [0, 1, 1],
        [0, 0, 1],
        [0, 0, 0],
        [1, 0, 0],
    ]
    loss, grad = backend(kn.pairwise_rank_loss, s, t, return_grad=True)
    near(loss, [0, 0, inf, inf, 0, math.log(3), nan, nan, math.log(3)], dtype)
    third = 1 / 3
    want = [
        [0, 0, 0],
        [0, 0, 0],
        [1, 0, -1],
        [1, 0, -1],
        [0, 0, 0],
        [2 * third, -third, -third],
        [nan] * 3,
        [nan] * 3,
        [-2 * third, third, third],
    ]
    near(grad, want, dtype)


def test_pairwise_mask(backend, dtype, rng):
    s = rng.standard_normal((5, 8)).astype(dtype)
    t = (rng.random((5, 8)) < 0.5).astype(float)
    mask = rng.random((5, 8)) < 0.6
    mask[0] = False
    loss, grad = backend(
        kn.pairwise_rank_loss,
        np.where(mask, s, np.asarray(nan, dtype)),
        np.where(mask, t, 0.5),
        mask=mask,
        return_grad=True,
    )
    for r in range(5):
        kept = mask[r]
        want = backend(kn.pairwise_rank_loss, s[r, kept], t[r, kept], return_grad=True)
        near(loss[r], want[0], dtype)
        near(grad[r, kept], want[1], dtype)
        same(grad[r, ~kept], np.zeros(np.sum(~kept)))


@pytest.mark.parametrize("parameters", [(1.0, 0.0), (2.0, 0.5)])
def test_pairwise_gradient_by_differences(rng, parameters):
    s, t = rows(rng, 6, "normal")
    s = s.astype(np.longdouble)
    found = slopes(lambda x: reference.pairwise_rank_loss(x, t, None, *parameters)[0], s)
    got = reference.pairwise_rank_loss(s, t, None, *parameters)[1]
    np.testing.assert_allclose(np.asarray(got, float), found, rtol=0, atol=1e-11)


@pytest.mark.parametrize("function", [kn.pairwise_rank_loss, kn.subset_crossentropy])
@pytest.mark.parametrize("wrong", [0.5, -1, 2, nan])
def test_targets_are_hard(backend, function, wrong):
    s, t = np.zeros((2, 3)), np.array([[1, 0, 0], [1, 0, wrong]])
    if backend.name == "cuda":
        loss, grad = backend(function, s, t, return_grad=True)
        assert np.isnan(loss[1]) and np.all(np.isnan(grad[1]))
        assert np.isfinite(loss[0]) and np.all(np.isfinite(grad[0]))
        return
    with pytest.raises(ValueError, match=rf"^{function.__name__}: targets must be 0 or 1"):
        backend(function, s, t)


def test_parameters_out_of_their_domain(backend):
    for options in ({"gamma": 0.0}, {"gamma": -1.0}, {"gamma": inf}, {"margin": nan}):
        with pytest.raises(ValueError, match="^pairwise_rank_loss: (gamma|margin) must be finite"):
            backend(kn.pairwise_rank_loss, np.zeros(3), np.array([1, 0, 0]), **options)
    for function in (kn.pairwise_rank_loss, kn.subset_crossentropy, kn.multiclass_multilabel_loss):
        with pytest.raises(ValueError, match="targets must have the shape of scores"):
            backend(function, np.zeros((2, 3)), np.zeros(3))


# --- subset_crossentropy ---


def exact_subsets(s, t):
    """Loss and gradient from all subsets of the size."""
    n, k = len(s), int(np.sum(t))
    weights = {c: mp.exp(mp.fsum(s[i] for i in c)) for c in itertools.combinations(range(n), k)}
    positives = tuple(int(i) for i in np.flatnonzero(t))
    own = weights.pop(positives)
    others = mp.fsum(weights.values())
    swapped = [
        mp.fsum(w for c, w in weights.items() if (i in c) != (i in positives)) for i in range(n)
    ]
    signs = [-1 if i in positives else 1 for i in range(n)]
    return mp.log1p(others / own), [a * v / (own + others) for a, v in zip(signs, swapped)]


@pytest.mark.parametrize("kind", ["normal", "wide", "right", "wrong"])
def test_subset_exact(backend, dtype, rng, kind):
    for n in (1, 2, 5, 9):
        s, t = rows(rng, n, kind)
        s = s.astype(dtype)
        loss, grad = backend(kn.subset_crossentropy, s, t, return_grad=True)
        assert loss.dtype == grad.dtype == dtype
        for r in range(len(s)):
            with workdps(60):
                value, slope = exact_subsets(oracle.to_mp(s[r]), t[r])
                near(loss[r], float(value), dtype)
                near(grad[r], [float(v) for v in slope], dtype)


def newton_identities(s, k):
    """Z_k from power sums, with alternating signs, as the article has it."""
    w = np.exp(s)
    e = [1.0]
    for j in range(1, k + 1):
        e.append(sum((-1) ** (i - 1) * e[j - i] * np.sum(w**i) for i in range(1, j + 1)) / j)
    return e[k]


def test_subset_without_alternating_signs(backend):
    s = np.array([12, 3, 2, 1, 0.5, 0, -1, -2])
    t = np.arange(8) < 5
    assert abs(newton_identities(s, 5) - 3.4e9) < 0.1e9
    loss = backend(kn.subset_crossentropy, s, t)
    assert abs(np.exp(loss + 18.5) / 3.2177e8 - 1) < 1e-4
    near(np.exp(loss), float(mpf("321765619.4104129") / mp.exp(18.5)))


def test_subset_of_one_is_softmax_crossentropy(backend, rng):
    s = 5 * rng.standard_normal((6, 9))
    t = np.eye(9)[rng.integers(0, 9, 6)]
    loss, grad = backend(kn.subset_crossentropy, s, t, return_grad=True)
    near(loss, -np.sum(t * kn.log_softmax(s, axis=1), axis=1))
    near(grad, kn.softmax(s, axis=1) - t, scale=1)
    for got, want in zip((loss, grad), backend(kn.pairwise_rank_loss, s, t, return_grad=True)):
        near(got, want)


def test_subset_symmetry(backend, rng):
    """The complement of a subset is one, too: L(s, t) = L(-s, 1 - t)."""
    s, t = 3 * rng.standard_normal((5, 20)), rng.random((5, 20)) < 0.3
    loss, grad = backend(kn.subset_crossentropy, s, t, return_grad=True)
    flipped = backend(kn.subset_crossentropy, -s, ~t, return_grad=True)
    near(loss, flipped[0])
    near(grad, -flipped[1])
    assert np.max(np.abs(grad.sum(axis=1))) < 1e-14  # k classes in any subset


def test_subset_confident_rows(backend):
    s, t = np.array([100.0, -100, 90, -90]), np.array([1, 0, 1, 0])
    loss, grad = backend(kn.subset_crossentropy, s, t, return_grad=True)
    with workdps(80):
        value, slope = exact_subsets(oracle.to_mp(s), t)
        near(loss, float(value))
        near(grad, [float(v) for v in slope])
    for scale in (1e3, 1e300):
        loss, grad = backend(kn.subset_crossentropy, -scale * s, t, return_grad=True)
        near(loss, 380 * scale)
        same(grad, [-1, 1, -1, 1])


def test_subset_many_classes(backend):
    """Z_k / exp(the largest sum) is beyond the range: equal scores have C(n, k) subsets."""
    n = 2000 if backend.rows == 1 else 400
    for k in (1, 10, n // 2, n - 3):
        t = np.arange(n) < k
        log_count = float(mp.log(mp.binomial(n, k)))
        for score in (0.0, -1e5, 1e5):
            near(backend(kn.subset_crossentropy, np.full(n, score), t), log_count)
        for score in (40, -40):
            with workdps(30):
                swapped = [
                    mp.binomial(k, a) * mp.binomial(n - k, a) * mp.exp(-score * a)
                    for a in range(1, min(k, n - k) + 1)
                ]
                want = float(mp.log1p(mp.fsum(swapped)))
            near(backend(kn.subset_crossentropy, np.where(t, score, 0.0), t), want)


def test_subset_gradient_of_many_classes(backend):
    n = 300 if backend.rows == 1 and backend.name != "reference" else 60
    for k in (3, n // 2):
        t = np.arange(n) < k
        grad = backend(kn.subset_crossentropy, np.zeros(n), t, return_grad=True)[1]
        near(grad, np.where(t, k / n - 1, k / n))


def test_subset_special_values(backend, dtype):
    s = np.array(
        [
            [1, 2, 3],
            [1, 2, 3],
            [inf, 1, 2],
            [inf, inf, 1],
            [inf, inf, 1],
            [-inf, 0, 1],
            [-inf, 0, 0],
            [-inf, -inf, -inf],
            [nan, 1, 2],
            [nan, 1, 2],
            [inf, -inf, 0],
        ],
        dtype,
    )
    t = [
        [0, 0, 0],
        [1, 1, 1],
        [1, 0, 1],
        [1, 0, 0],
        [0, 0, 1],
        [1, 0, 0],
        [0, 1, 0],
        [1, 1, 0],
        [1, 0, 0],
        [0, 0, 0],
        [1, 0, 1],
    ]
    e = 1 / (1 + math.e)
    near(
        backend(kn.subset_crossentropy, s, t),
        [
            0,
            0,
            math.log1p(math.exp(-1)),
            math.log(2),
            inf,
            inf,
            math.log(2),
            math.log(3),
            nan,
            nan,
            0,
        ],
        dtype,
    )
    want = [
        [0, 0, 0],
        [0, 0, 0],
        [0, e, -e],
        [-0.5, 0.5, 0],
        [0.5, 0.5, -1],
        [-1, e, 1 - e],
        [0, -0.5, 0.5],
        [-1 / 3, -1 / 3, 2 / 3],
        [nan] * 3,
        [nan] * 3,
        [0, 0, 0],
    ]
    near(backend(kn.subset_crossentropy, s, t, return_grad=True)[1], want, dtype)


def test_subset_gradient_by_differences(rng):
    s, t = rows(rng, 7, "normal")
    s = s.astype(np.longdouble)
    found = slopes(lambda x: reference.subset_crossentropy(x, t)[0], s)
    got = reference.subset_crossentropy(s, t)[1]
    np.testing.assert_allclose(np.asarray(got, float), found, rtol=0, atol=1e-11)


# --- multiclass_multilabel_loss ---


def exact_multiclass(s, t, form):
    """Loss and gradient of one table, by the formulas of the specification."""
    n, m = len(s), len(s[0])
    others = [
        [mp.fsum(mp.exp(x) for k, x in enumerate(row) if k != j) for j in range(m)] for row in s
    ]
    if form == "pairwise":
        terms = [[t[i][j] * others[i][j] / mp.exp(s[i][j]) for j in range(m)] for i in range(n)]
    else:
        terms = [
            [t[i][j] * mp.exp(mp.fsum(s[i]) / m - s[i][j]) for j in range(m)] for i in range(n)
        ]
    d = [1 + mp.fsum(terms[i][j] for i in range(n)) for j in range(m)]
    w = [[terms[i][j] / d[j] for j in range(m)] for i in range(n)]

    def pull(i, j):
        if form == "centered":
            return mp.fsum(w[i]) / m
        return mp.fsum(w[i][h] * mp.exp(s[i][j]) / others[i][h] for h in range(m) if h != j)

    loss = mp.fsum(mp.log1p(d[j] - 1) for j in range(m))
    return loss, [[pull(i, j) - w[i][j] for j in range(m)] for i in range(n)], w


def to_table(x):
    return [oracle.to_mp(row) for row in x]


@pytest.mark.parametrize("form", ["pairwise", "centered"])
@pytest.mark.parametrize("spread", [1, 30])
def test_multiclass_exact(backend, dtype, rng, form, spread):
    for n, m in ((1, 2), (3, 4), (6, 3)):
        s = (spread * rng.standard_normal((4, n, m))).astype(dtype)
        soft = rng.random((4, n, m)).astype(dtype) * (rng.random((4, n, m)) < 0.8)
        for t in (np.eye(m)[rng.integers(0, m, (4, n))], soft):
            loss, grad = backend(kn.multiclass_multilabel_loss, s, t, form=form, return_grad=True)
            assert loss.shape == (4,) and grad.shape == s.shape and grad.dtype == dtype
            for r in range(4):
                with workdps(120):
                    value, slope, w = exact_multiclass(to_table(s[r]), to_table(t[r]), form)
                    near(loss[r], float(value), dtype)
                    slope, w = (
                        np.array([[float(v) for v in row] for row in x]) for x in (slope, w)
                    )
                near(grad[r], slope, dtype, scale=np.maximum(w, w.max(axis=1, keepdims=True)))


def test_multiclass_of_one_item_is_softmax_crossentropy(backend, rng):
    s = 5 * rng.standard_normal((6, 1, 9))
    t = np.eye(9)[rng.integers(0, 9, (6, 1))]
    loss, grad = backend(kn.multiclass_multilabel_loss, s, t, return_grad=True)
    near(loss, -np.sum(t * kn.log_softmax(s, axis=-1), axis=(1, 2)))
    near(grad, kn.softmax(s, axis=-1) - t, scale=1)


def test_multiclass_of_two_classes_is_multilabel(backend, rng):
    s = 5 * rng.standard_normal((6, 8, 2))
    label = rng.random((6, 8)) < 0.4
    u = s[..., 1] - s[..., 0]
    for t in (np.stack([~label, label], axis=-1).astype(float), None):
        if t is None:
            soft = rng.random((6, 8))
            t, label = np.stack([1 - soft, soft], axis=-1), soft
        for form, scale in (("pairwise", 1.0), ("centered", 0.5)):
            loss, grad = backend(kn.multiclass_multilabel_loss, s, t, form=form, return_grad=True)
            want, slope = kn.multilabel_crossentropy(scale * u, label, return_grad=True)
            near(loss, want)
            near(grad, scale * np.stack([-slope, slope], axis=-1), scale=1)


def test_multiclass_centered_optimum(backend, rng):
    """For soft targets the gradient is 0 where softmax(s_i) = t_i; "pairwise" is elsewhere."""
    s = rng.standard_normal((5, 4, 3))
    t = kn.softmax(s, axis=-1)
    grads = {
        form: backend(kn.multiclass_multilabel_loss, s, t, form=form, return_grad=True)[1]
        for form in ("centered", "pairwise")
    }
    assert np.max(np.abs(grads["centered"])) < 1e-15
    assert np.max(np.abs(grads["pairwise"])) > 0.01


def test_multiclass_centered_forgets_the_largest_class(backend):
    """Hard labels: a wrong arg max far above the mean of many classes costs next to nothing."""
    s = np.zeros((1, 200))
    s[0, :2] = [20, 21]
    t = np.eye(200)[:1]
    assert backend(kn.multiclass_multilabel_loss, s, t, form="centered") < 1e-8
    assert backend(kn.multiclass_multilabel_loss, s, t) > 1


def test_multiclass_special_values(backend, dtype):
    form = kn.multiclass_multilabel_loss
    for shape in ((3, 0, 4), (3, 4, 0)):
        loss, grad = backend(form, np.zeros(shape, dtype), np.zeros(shape), return_grad=True)
        same(loss, [0, 0, 0])
        assert grad.shape == shape
    one = np.array([[[1], [2], [-3]]], dtype)
    t = np.array([[[1], [0.5], [1]]])
    same(backend(form, one, t), [0])
    near(backend(form, one, t, form="centered"), [math.log(3.5)], dtype)
    s = np.array(
        [
            [[0, 0], [nan, 0]],
            [[inf, 0], [0, 0]],
            [[inf, 0], [0, 0]],
            [[-inf, 0], [0, 0]],
            [[-inf, 0], [0, 0]],
            [[inf, inf], [0, 0]],
        ],
        dtype,
    )
    t = np.array(
        [[[1, 0]] * 2, [[1, 0]] * 2, [[0, 1], [0, 1]], [[1, 0]] * 2, [[0, 1]] * 2, [[1, 0]] * 2]
    )
    near(
        backend(form, s, t, return_grad=True)[0],
        [nan, math.log(2), inf, inf, math.log(2), math.log(3)],
        dtype,
    )
    grad = backend(form, s, t, return_grad=True)[1]
    want = [
        [[nan] * 2] * 2,
        [[0, 0], [-0.5, 0.5]],
        [[1, -1], [0, 0]],
        [[-1, 1], [0, 0]],
        [[0, 0], [0.5, -0.5]],
        [[-1 / 3, 1 / 3], [-1 / 3, 1 / 3]],
    ]
    near(grad, want, dtype)
    near(
        backend(form, s, t, form="centered"),
        [nan, math.log(2), inf, inf, math.log(2), math.log(3)],
        dtype,
    )


def test_multiclass_confident_rows(backend):
    """Winners' gradients come from the rest of their row."""
    s, t = np.array([[100.0, 0, -3], [-100, 2, 50]]), np.array([[1, 0, 0], [0, 0, 1]])
    loss, grad = backend(kn.multiclass_multilabel_loss, s, t, return_grad=True)
    with workdps(120):
        value, slope, _ = exact_multiclass(to_table(s), to_table(t), "pairwise")
        near(loss, float(value))
        near(grad, [[float(v) for v in row] for row in slope])


@pytest.mark.parametrize("centered", [False, True])
def test_multiclass_gradient_by_differences(rng, centered):
    s, t = rng.standard_normal((5, 12)).astype(np.longdouble), rng.random((5, 12))
    found = slopes(lambda x: reference.multiclass_multilabel_loss(x, t, 3, centered)[0], s)
    got = reference.multiclass_multilabel_loss(s, t, 3, centered)[1]
    np.testing.assert_allclose(np.asarray(got, float), found, rtol=0, atol=1e-11)


def test_multiclass_layouts(backend, rng):
    """The two axes may lie in any order."""
    s, t = rng.standard_normal((3, 4, 5)), rng.random((3, 4, 5))
    want = backend(kn.multiclass_multilabel_loss, s, t, return_grad=True)
    s2 = np.ascontiguousarray(np.swapaxes(s, 1, 2))
    got = backend(kn.multiclass_multilabel_loss, np.swapaxes(s2, 1, 2), t, return_grad=True)
    out = np.empty(3), np.empty((3, 5, 4)).swapaxes(1, 2)
    if not backend.on_device:
        backend(kn.multiclass_multilabel_loss, s[:, ::-1], t[:, ::-1], return_grad=True, out=out)
        near(out[0], want[0])
        near(out[1][:, ::-1], want[1], scale=1)
    for g, w in zip(got, want):
        same(g, w)


def test_multiclass_errors(backend):
    form = kn.multiclass_multilabel_loss
    with pytest.raises(ValueError, match='^multiclass_multilabel_loss: form must be "pairwise" or'):
        backend(form, np.zeros((2, 3)), np.zeros((2, 3)), form="mean")
    with pytest.raises(ValueError, match="^multiclass_multilabel_loss: scores must have two axes"):
        backend(form, np.zeros(3), np.zeros(3))
    for wrong in (-0.5, 1.5, nan):
        t = np.array([[[0.5, 0.5]], [[wrong, 0]]])
        if backend.name == "cuda":
            loss, grad = backend(form, np.zeros((2, 1, 2)), t, return_grad=True)
            assert np.isnan(loss[1]) and np.all(np.isnan(grad[1])) and np.isfinite(loss[0])
        else:
            with pytest.raises(ValueError, match=r"targets must be in \[0, 1\]"):
                backend(form, np.zeros((2, 1, 2)), t)
