"""Divergences: values, pitfalls and identities of the specification."""

import itertools

import mpmath
import numpy as np
import pytest
from mpmath import mp, mpf

import kexue_native as kn
import oracle
from closeness import near, remembered, same, slopes
from kexue_native.losses.divergences import reference

inf, nan = np.inf, np.nan
KINDS = ("softmax", "sigmoid")
FUNCTIONS = (kn.kl_divergence, kn.symmetric_kl)
KERNELS = {"softmax": reference.softmax_divergence, "sigmoid": reference.sigmoid_divergence}

every_form = pytest.mark.parametrize(
    ("function", "kind"),
    [*itertools.product(FUNCTIONS, KINDS)],
    ids=lambda v: getattr(v, "__name__", v),
)


# --- Exact values of one row ---


def exact_softmax(s, t):
    """KL and its gradients from probabilities, in as many digits as the context has."""
    p, q = ([mp.exp(v - max(x)) for v in x] for x in (s, t))
    p, q = [v / mp.fsum(p) for v in p], [v / mp.fsum(q) for v in q]
    delta = [mp.log(a) - mp.log(b) for a, b in zip(p, q, strict=True)]
    loss = mp.fsum(a * d for a, d in zip(p, delta, strict=True))
    grad_s = [a * (d - loss) for a, d in zip(p, delta, strict=True)]
    return loss, grad_s, [b - a for a, b in zip(p, q, strict=True)]


def exact_sigmoid(s, t):
    """The sum over pairs of an event and its absence: a softmax over (x, 0)."""
    rows = [exact_softmax([x, mpf(0)], [y, mpf(0)]) for x, y in zip(s, t, strict=True)]
    return mp.fsum(r[0] for r in rows), [r[1][0] for r in rows], [r[2][0] for r in rows]


@remembered
def exact(function, kind, s, t, scale=1):
    """(loss, grad_s, grad_t) as high-precision numbers."""
    s, t = oracle.to_mp(s), oracle.to_mp(t)
    spread = max(max(x) - min(x) for x in (s, t)) + max(map(abs, s + t)) * (kind == "sigmoid")
    row = {"softmax": exact_softmax, "sigmoid": exact_sigmoid}[kind]
    with mpmath.workdps(80 + int(float(abs(scale) * spread))):
        s, t = ([scale * v for v in x] for x in (s, t))
        loss, grad_s, grad_t = row(s, t)
        if function is kn.symmetric_kl:
            back, back_t, back_s = row(t, s)
            loss = loss + back
            grad_s = [a + b for a, b in zip(grad_s, back_s, strict=True)]
            grad_t = [a + b for a, b in zip(grad_t, back_t, strict=True)]
        return loss, [scale * v for v in grad_s], [scale * v for v in grad_t]


# --- As they stand in libraries ---


def plain_sigmoid(s, t):
    """(sigma(s) - sigma(t)) (s - t)"""
    one = s.dtype.type(1)
    return np.sum((one / (one + np.exp(-s)) - one / (one + np.exp(-t))) * (s - t))


def plain_softmax(s, t):
    """sum (p - q) (s - t), from the logits as they are"""
    return np.sum((oracle.plain_softmax(s) - oracle.plain_softmax(t)) * (s - t))


def plain_kl(s, t):
    """sum p (log p - log q)"""
    p = oracle.plain_softmax(s)
    return np.sum(p * (oracle.plain_log_softmax(s) - oracle.plain_log_softmax(t)))


# --- Values and pitfalls ---


def test_saturated_logits_keep_their_divergence(backend):
    """sigma(40) and sigma(41) are both 1; their difference is not lost all the same."""
    s, t = np.array([40.0]), np.array([41.0])
    got = backend(kn.symmetric_kl, s, t, kind="sigmoid")
    near(got, float(exact(kn.symmetric_kl, "sigmoid", s, t)[0]))
    assert abs(got - 2.685e-18) < 1e-21
    assert plain_sigmoid(s, t) == 0
    s, t = np.array([20], np.float32), np.array([21], np.float32)
    got = backend(kn.symmetric_kl, s, t, kind="globalpointer")
    assert got.dtype == np.float32 and abs(got - 1.303e-9) < 1e-12
    assert plain_sigmoid(s, t) == 0


@every_form
@pytest.mark.parametrize("n", [1, 2, 5, 40, 100])
def test_close_distributions(backend, function, kind, n, rng):
    """Relative 1e-12 down to losses of 1e-18, also beside a class whose probability is nothing."""
    for power, far in itertools.product(range(-9, 1), (False, True)):
        s = 2 * rng.standard_normal(n)
        t = s + 10.0**power * rng.standard_normal(n)
        if far and n > 2:
            s[1], t[1] = -60.0, -58.0
        want = float(exact(function, kind, s, t)[0])
        got = backend(function, s, t, kind=kind)
        assert got >= 0
        assert abs(got - want) <= 1e-12 * want, f"{power}: {got}, {want}"


def test_plain_formula_is_noise_near_equality(backend, rng):
    """sum p (log p - log q) ends in rounding errors of 1e-17, of either sign."""
    worst, negative = 0.0, 0
    for _ in range(50):
        s = rng.standard_normal(6)
        t = s + 1e-9 * rng.standard_normal(6)
        want = float(exact(kn.kl_divergence, "softmax", s, t)[0])
        near(backend(kn.kl_divergence, s, t), want)
        plain = plain_kl(s, t)
        worst, negative = max(worst, abs(plain / want - 1)), negative + (plain < 0)
    assert worst > 10 and negative > 0


def test_softmax_shift(backend):
    """(1000.5, 999, 1002) is (0.5, -1, 2) and a number that both have in common."""
    t = np.array([0.0, 1.0, 1.5])
    for function in FUNCTIONS:
        here = backend(function, np.array([0.5, -1.0, 2.0]), t, return_grad=True)
        there = backend(function, np.array([1000.5, 999.0, 1002.0]), t, return_grad=True)
        for a, b in zip(here, there, strict=True):
            assert np.all(np.abs(a - b) <= 1e-12 * np.abs(a))


def test_softmax_shift_of_close_logits(backend, rng):
    s = np.round(rng.standard_normal(8), 3)
    t = s + np.round(1e-6 * rng.standard_normal(8), 9)
    for shift in (1000.0, 2.0**20, -(2.0**30)):
        t = np.round(t * 2**20) / 2**20  # so that the shift is exact
        got = backend(kn.symmetric_kl, s, t + shift)
        want = float(exact(kn.symmetric_kl, "softmax", s, t + shift)[0])
        near(got, want)
        assert abs(plain_softmax(s, t + shift) / want - 1) > 1e-6


def test_large_sigmoid_logits_do_not_overflow(backend, dtype):
    s, t = np.array([1e4, -1e4, 300], dtype), np.array([1e4, -1e4, -300], dtype)
    near(backend(kn.symmetric_kl, s, t, kind="sigmoid"), 600, dtype)
    near(backend(kn.kl_divergence, s, t, kind="sigmoid"), 300, dtype)
    near(backend(kn.symmetric_kl, s, t), 0, dtype)


@every_form
@pytest.mark.parametrize("scale", [1.0, 2.0, -0.5, 1.7])
def test_exact(backend, dtype, function, kind, scale, rng):
    """Values and gradients within the tolerance; gradients relative to the terms they are of."""
    for n, spread, apart in itertools.product((1, 2, 7), (0.1, 3.0, 60.0), (0.01, 1.0, 30.0)):
        s = (spread * rng.standard_normal(n)).astype(dtype)
        t = (s.astype(float) + apart * rng.standard_normal(n)).astype(dtype)
        got = backend(function, s, t, kind=kind, scale=scale, return_grad=True)
        want = exact(function, kind, s, t, mpf(scale))
        near(got[0], float(want[0]), dtype)
        s, t = (np.abs(scale) * x.astype(np.longdouble) for x in (s, t))
        for k in (1, 2):
            assert got[k].dtype == dtype
            size = np.array([float(v) for v in want[k]])
            if kind == "softmax":
                size = np.maximum(np.abs(size), abs(scale) * terms(s, t, k == 2))
            near(got[k], [float(v) for v in want[k]], dtype, scale=size)


def terms(s, t, of_t):
    """p (|log p/q| + KL) and what p and q differ by: the terms of which gradients consist."""
    p, q = (np.exp(reference.leave_one_out(x).gap) for x in (s, t))
    p, q = (x / x.sum(axis=-1, keepdims=True) for x in (p, q))
    delta = np.abs(np.log(p) - np.log(q))
    share = q if of_t else p
    return np.abs(p - q) + share * (delta + (share * delta).sum(axis=-1, keepdims=True))


# --- Gradients ---


@every_form
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_gradient_of_the_wide_reference(backend, function, kind, scale, rng):
    s, t = rng.standard_normal((2, 4, 6))
    symmetric = function is kn.symmetric_kl
    wide_s, wide_t = s.astype(np.longdouble), t.astype(np.longdouble)
    _, grad_s, grad_t = backend(function, s, t, kind=kind, scale=scale, return_grad=True)
    along_s = slopes(lambda x: KERNELS[kind](x, wide_t, None, scale, symmetric)[0], wide_s)
    along_t = slopes(lambda x: KERNELS[kind](wide_s, x, None, scale, symmetric)[0], wide_t)
    assert np.max(np.abs(grad_s - along_s)) < 1e-12 * 100
    assert np.max(np.abs(grad_t - along_t)) < 1e-12 * 100


def test_softmax_gradients_sum_to_zero(backend, dtype, rng):
    s, t = (3 * rng.standard_normal((2, 20, 50))).astype(dtype)
    for function in FUNCTIONS:
        for k, grad in enumerate(backend(function, s, t, return_grad=True)[1:]):
            size = terms(s.astype(np.longdouble), t.astype(np.longdouble), k == 1).sum(axis=-1)
            total = np.abs(grad.astype(float).sum(axis=-1))
            assert np.all(total <= 4 * oracle.unit_roundoff(dtype) * size)


def test_gradient_of_a_saturated_winner(backend):
    """p of the winner is 1; its component is minus the sum of the others'."""
    s, t = np.array([50.0, 0.0, 1.0]), np.array([45.0, 1.0, 1.0])
    for function in FUNCTIONS:
        got = backend(function, s, t, return_grad=True)
        want = exact(function, "softmax", s, t)
        for k in (1, 2):
            near(got[k], [float(v) for v in want[k]])
            assert got[k][0] != 0


# --- Identities ---


@every_form
def test_equal_logits(backend, dtype, function, kind, rng):
    s = (5 * rng.standard_normal((6, 30))).astype(dtype)
    s[0, 3], s[1, 4], s[2, 5:7], s[3] = inf, -inf, inf, -inf
    for result in backend(function, s, s, kind=kind, return_grad=True):
        if kind == "softmax":  # a row of -inf is no distribution
            assert np.all(np.isnan(result[3]))
            result = np.delete(result, 3, 0)
        same(result, np.zeros(result.shape))


def test_symmetric_kl_is_both(backend, dtype, rng):
    s, t = (2 * rng.standard_normal((2, 30, 9))).astype(dtype)
    for kind in KINDS:
        there, back = (backend(kn.kl_divergence, *p, kind=kind) for p in ((s, t), (t, s)))
        total = there.astype(float) + back.astype(float)
        near(backend(kn.symmetric_kl, s, t, kind=kind), total, dtype)
        near(backend(kn.symmetric_kl, t, s, kind=kind), total, dtype)


@every_form
def test_never_negative(backend, dtype, function, kind, rng):
    for apart in (0, 1e-8, 1e-3, 1, 40):
        s = (4 * rng.standard_normal((200, 11))).astype(dtype)
        t = (s.astype(float) + apart * rng.standard_normal((200, 11))).astype(dtype)
        assert np.all(backend(function, s, t, kind=kind) >= 0)


@every_form
def test_globalpointer_is_sigmoid(backend, function, kind, rng):
    s, t = rng.standard_normal((2, 3, 5, 5))
    axes = {"axis": (-2, -1)}
    plain = backend(function, s, t, kind="sigmoid", return_grad=True, **axes)
    for a, b in zip(
        plain, backend(function, s, t, kind="globalpointer", return_grad=True, **axes), strict=True
    ):
        same(a, b)
    assert not np.allclose(plain[0], backend(function, s, t, kind="softmax", **axes), rtol=0.1)


def test_sigmoid_is_softmax_over_pairs(backend, rng):
    s, t = 3 * rng.standard_normal((2, 7))
    pairs = [np.stack([x, np.zeros(7)], axis=1) for x in (s, t)]
    for function in FUNCTIONS:
        value = backend(function, s, t, kind="sigmoid")
        near(value, backend(function, *pairs).sum(), scale=2 * value)


def test_scale_two_is_the_divergence_of_multilabel_probabilities(backend, rng):
    s, t = rng.standard_normal((2, 6))
    p, q = (kn.multilabel_probability(x, backend="reference") for x in (s, t))
    want = np.sum(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
    near(backend(kn.kl_divergence, s, t, kind="sigmoid", scale=2.0), want, scale=10 * want)


@every_form
def test_scale_multiplies_the_logits(backend, dtype, function, kind, rng):
    s, t = rng.standard_normal((2, 5, 8)).astype(dtype)
    plain = backend(function, -4 * s, -4 * t, kind=kind, return_grad=True)
    scaled = backend(function, s, t, kind=kind, scale=-4.0, return_grad=True)
    same(plain[0], scaled[0])
    for a, b in zip(plain[1:], scaled[1:], strict=True):
        want = -4 * a.astype(float)
        near(b, want, dtype, scale=np.maximum(np.abs(want), 1e-3))
    for result in backend(function, s, t, kind=kind, scale=0.0, return_grad=True):
        same(result, np.zeros(result.shape))


@pytest.mark.parametrize("scale", [1e308, -1e308])
def test_any_finite_scale_gives_the_limit(backend, scale):
    s = np.sign(scale) * np.array([1.0, 2.0, 2.0, 0.0])
    t = np.sign(scale) * np.array([1.0, 2.0, 2.0, 1.0])
    same(backend(kn.kl_divergence, s, t, scale=scale), 0)
    near(backend(kn.kl_divergence, s, s[[0, 1, 3, 2]], scale=scale), inf)


# --- Special values ---

SOFTMAX = [  # s, t, KL, symmetric KL
    ([inf, 0, 0], [0, 0, 0], np.log(3), inf),  # p = 0 < q
    ([0, 0, 0], [inf, 0, 0], inf, inf),
    ([inf, 0, 1], [inf, 3, 2], 0, 0),
    ([inf, inf, 0], [5, 5, -inf], 0, 0),
    ([inf, inf, -inf], [0, 0, 0], np.log(1.5), inf),
    ([0, 0, -inf], [0, 0, -inf], 0, 0),
    ([0, 0, -inf], [0, 0, 0], np.log(1.5), inf),
    ([0, 0, 0], [0, 0, -inf], inf, inf),
    ([0, 0, -800], [0, 0, -inf], inf, inf),
    ([inf, 0, 0], [0, inf, 0], inf, inf),
    ([-inf, -inf, -inf], [0, 0, 0], nan, nan),
    ([0, 0, 0], [-inf, -inf, -inf], nan, nan),
    ([nan, 0, 0], [0, 0, 0], nan, nan),
    ([0, 0, 0], [nan, inf, 0], nan, nan),
]
SIGMOID = [
    ([inf], [inf], 0, 0),
    ([-inf], [-inf], 0, 0),
    ([inf], [0], np.log(2), inf),
    ([-inf], [0], np.log(2), inf),
    ([0], [inf], inf, inf),
    ([0], [-inf], inf, inf),
    ([inf], [-inf], inf, inf),
    ([inf], [1e4], 0, inf),
    ([1e4], [inf], inf, inf),
    ([nan], [0], nan, nan),
    ([0], [nan], nan, nan),
]


@pytest.mark.parametrize(("kind", "table"), [("softmax", SOFTMAX), ("sigmoid", SIGMOID)])
@pytest.mark.parametrize("copies", [1, 11])
def test_special_values(backend, dtype, kind, table, copies):
    s, t = (np.array([row[k] for row in table] * copies, dtype) for k in (0, 1))
    for k, function in ((2, kn.kl_divergence), (3, kn.symmetric_kl)):
        want = np.array([row[k] for row in table] * copies, float)
        loss, grad_s, grad_t = backend(function, s, t, kind=kind, return_grad=True)
        near(loss, want, dtype)
        same(loss, backend(function, s, t, kind=kind))
        for grad in (grad_s, grad_t):
            same(np.isnan(grad), np.broadcast_to(~np.isfinite(want)[:, None], grad.shape))


def test_special_values_in_long_rows(backend, dtype):
    """Wherever they stand, alone in their block or not."""
    n = 20_000 if backend.rows == 1 else 300
    for place, kind in itertools.product((0, 17, n // 2, n - 1), KINDS):
        s, t = np.zeros((2, 3, n), dtype)
        s[0, place] = t[1, place] = -inf
        s[2, place] = nan
        got = backend(kn.kl_divergence, s, t, kind=kind)
        value = -np.log1p(-1 / n) if kind == "softmax" else np.log(2)
        near(got, [value, inf, nan], dtype)
        got = backend(kn.symmetric_kl, s, t, kind=kind)
        same(got, [inf, inf, nan])


@every_form
def test_masked_entries_have_no_effect(backend, dtype, function, kind, rng):
    s, t = rng.standard_normal((2, 6, 40)).astype(dtype)
    mask = rng.random((6, 40)) < 0.5
    mask[5] = False
    hidden_s, hidden_t = np.where(mask, s, nan).astype(dtype), np.where(mask, t, inf).astype(dtype)
    got = backend(function, hidden_s, hidden_t, kind=kind, mask=mask, return_grad=True)
    for r in range(6):
        want = backend(function, s[r, mask[r]], t[r, mask[r]], kind=kind, return_grad=True)
        near(got[0][r], want[0], dtype)
        for a, b in zip(got[1:], want[1:], strict=True):
            near(a[r, mask[r]], b, dtype, scale=np.max(np.abs(b), initial=0.0))
            same(a[r, ~mask[r]], np.zeros(40 - mask[r].sum()))
    assert got[0][5] == 0


@every_form
def test_empty_rows(backend, dtype, function, kind):
    loss, grad_s, grad_t = backend(
        function, np.zeros((3, 0), dtype), np.zeros((3, 0), dtype), kind=kind, return_grad=True
    )
    same(loss, np.zeros(3))
    assert grad_s.shape == grad_t.shape == (3, 0)


@every_form
def test_long_rows(backend, dtype, function, kind, rng):
    """Blocks of a row are put together without loss, in whatever order their masses come."""
    for n, apart, drift in (
        (10_000, 1e-2, 0.0),
        (10_000, 1.0, 0.0),
        (10_000, 1.0, 40.0),
        (150_000, 1e-3, 40.0),
    ):
        n = n if backend.rows == 1 else n // 50
        s = rng.standard_normal(n) + drift * np.sin(np.arange(n) / 3000)
        t = (s + apart * rng.standard_normal(n)).astype(dtype)
        s = s.astype(dtype)
        wide = [x.astype(oracle.wide_type(dtype)) for x in (s, t)]
        want = KERNELS[kind](*wide, None, 1.0, function is kn.symmetric_kl)
        got = backend(function, s, t, kind=kind, return_grad=True)
        near(got[0], want[0], dtype)
        for a, b in zip(got[1:], want[1:], strict=True):
            size = np.abs(b) if kind == "sigmoid" else terms(*wide, a is got[2]) + np.abs(b)
            near(a, b, dtype, scale=size)


# --- Arguments ---


@pytest.mark.parametrize("function", FUNCTIONS)
def test_refused_arguments(backend, function):
    s = np.zeros((2, 3))
    for error, words, arguments, options in (
        (ValueError, "kind must be", (s, s), {"kind": "tanh"}),
        (TypeError, "kind must be", (s, s), {"kind": None}),
        (ValueError, "scale must be finite", (s, s), {"scale": inf}),
        (TypeError, "scale must be a real number", (s, s), {"scale": "2"}),
        (ValueError, "t must have the shape of s", (s, s[0]), {}),
        (ValueError, "t must have the shape of s", (s[0], s), {}),
        (TypeError, "mask must be boolean", (s, s), {"mask": s}),
    ):
        with pytest.raises(error, match=f"^{function.__name__}: {words}"):
            backend(function, *arguments, **options)


@every_form
def test_gradients_do_not_change_the_loss(backend, dtype, function, kind, rng):
    for shape in ((4,), (70, 3), (5, 100), (2, 5000)):
        s, t = rng.standard_normal((2, *shape)).astype(dtype)
        alone = backend(function, s, t, kind=kind)
        same(alone, backend(function, s, t, kind=kind, return_grad=True)[0])
        assert alone.dtype == dtype and np.shape(alone) == shape[:-1]
