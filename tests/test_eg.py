"""Exponentiated gradient: the tables of limits, the properties of the articles, and gradients."""

import math

import mpmath
import numpy as np
import pytest
from mpmath import mp

import kexue_native as kn
import oracle
from kexue_native.optim.eg import reference

inf, nan = np.inf, np.nan
U = 2.0**-53


def rows(backend, w, g, lr, **options):
    return backend(kn.eg_step, np.asarray(w, float), np.asarray(g, float), lr, **options)


def same(got, want):
    np.testing.assert_array_equal(got, want)


# --- egu_step ---


@pytest.mark.parametrize(
    "w, g, lr, expected",
    [
        (1e-300, -1000.0, 1.0, 1.970071114017047e134),
        (5e-324, -700.0, 1.0, 5.010972151555445e-20),
        (0.0, inf, 1.0, 0.0),
        (0.0, -inf, 1.0, 0.0),
        (-0.0, 1.0, 1.0, 0.0),
        (2.0, inf, 1.0, 0.0),
        (2.0, -inf, 1.0, inf),
        (2.0, inf, 0.0, 2.0),
        (2.0, -inf, 0.0, 2.0),
        (1.0, -1000.0, 1.0, inf),
        (1.0, 1000.0, 1.0, 0.0),
        (-1.0, 1.0, 1.0, nan),
        (nan, 1.0, 1.0, nan),
        (1.0, nan, 0.0, nan),
        (0.0, nan, 1.0, nan),
        (1.0, 1.0, nan, nan),
        (inf, 1.0, 1.0, inf),
        (1e308, 1e308, 1e-308, 1e308 * math.exp(-1)),
        (2.0, 0.1, 1e300, 0.0),
        (2.0, -0.1, 1e300, inf),
        (2.0, 0.1, -1e100, inf),
    ],
)
def test_egu_step_limits(backend, w, g, lr, expected):
    got = backend(kn.egu_step, w, g, lr)
    if expected == 0 or not np.isfinite(expected):
        same(got, expected)
        assert expected != 0 or not np.signbit(got)
    else:
        assert abs(got / expected - 1) <= 4 * U * (1 + abs(lr * g)) if np.isfinite(g) else got == w


def test_egu_step_accuracy_over_300_decades(backend, rng):
    """The stated figure against high precision, subnormal results in units of their grid."""
    w = 10.0 ** rng.uniform(-320, 300, 400)
    g = rng.uniform(-700, 700, 400)
    lr = rng.choice([1.0, 0.37, -1.3], 400)
    got = backend(kn.egu_step, w, g, lr)
    limit = kn.LIMITS["egu_step"]["float64"] + 4 * backend.plain
    with mp.workdps(60):
        for x, a, b, c in zip(got, w, g, lr, strict=True):
            exact = mpmath.mpf(a) * mpmath.exp(-mpmath.mpf(b) * mpmath.mpf(c))
            if exact > 1.7e308:
                assert x == inf or exact < 1.8e308
                continue
            spacing = max(np.spacing(float(exact)), 5e-324)
            allowed = limit if exact > 2.3e-308 else 3
            assert abs(mpmath.mpf(float(x)) - exact) <= allowed * mpmath.mpf(float(spacing))


def test_egu_step_signed_goes_downhill(backend, rng):
    w, g = rng.standard_normal(50), rng.standard_normal(50)
    got = backend(kn.egu_step, w, g, 0.3, signed=True)
    assert np.all(np.sign(got) == np.sign(w))
    np.testing.assert_allclose(got, w * np.exp(-0.3 * g * np.sign(w)), rtol=1e-15)
    tiny = backend(kn.egu_step, w, g, 1e-8, signed=True)
    np.testing.assert_allclose(tiny, w - 1e-8 * np.abs(w) * g, rtol=1e-14)


def test_egu_step_semigroup(backend, rng):
    w, a, b = np.abs(rng.standard_normal((3, 60)))
    twice = backend(kn.egu_step, backend(kn.egu_step, w, a, 0.5), b, 0.5)
    np.testing.assert_allclose(twice, backend(kn.egu_step, w, a + b, 0.5), rtol=1e-14)


def test_egu_pm_step_keeps_the_product(backend, rng):
    p, m, g = np.abs(rng.standard_normal((3, 40)))
    up, down = backend(kn.egu_pm_step, p, m, g, 0.7)
    np.testing.assert_allclose(up * down, p * m, rtol=1e-14)
    beta = 2 * np.sqrt(p * m)
    for k in range(40):
        moved = backend(kn.hypentropy_step, p[k] - m[k], g[k], 0.7, beta=float(beta[k]))
        assert abs(moved - (up[k] - down[k])) <= 1e-13 * (up[k] + down[k])


# --- hypentropy_step ---


def test_hypentropy_step_against_high_precision(backend, rng):
    """1e-13 wherever the two terms do not cancel below 1e-3."""
    for beta in (1e-300, 1e-8, 1.0, 1e8, 1e200):
        w = rng.choice([-1, 1], 60) * 10.0 ** rng.uniform(-12, 12, 60) * min(max(beta, 1e-9), 1e9)
        g = rng.standard_normal(60) * 10.0 ** rng.uniform(-3, 2, 60)
        got = backend(kn.hypentropy_step, w, g, 1.0, beta=beta)
        with mp.workdps(700):
            for x, a, b in zip(got, w, g, strict=True):
                exact = beta * mpmath.sinh(mpmath.asinh(mpmath.mpf(a) / beta) - mpmath.mpf(b))
                first = abs(mpmath.mpf(a)) * mpmath.exp(-mpmath.sign(a) * b)
                if abs(exact) >= 1e-3 * first and abs(exact) < 1e300:
                    assert abs(x - exact) <= 1e-13 * abs(exact), (beta, a, b)


def test_hypentropy_step_limits(backend):
    step = lambda w, g, lr=1.0, beta=1.0: float(backend(kn.hypentropy_step, w, g, lr, beta=beta))  # noqa: E731
    assert step(3.0, inf) == -inf and step(3.0, -inf) == inf and step(0.0, inf) == -inf
    assert step(3.0, inf, 0.0) == 3.0 and math.isnan(step(3.0, nan, 0.0))
    assert step(-2.0, 0.5) == -step(2.0, -0.5)
    assert math.isnan(step(nan, 0.0)) and step(1e300, 0.1, beta=1e-300) == pytest.approx(
        9.0483741803596e299
    )
    # gradient descent with rate lr beta, and multiplication
    assert step(1.0, 3.0, 1e-200, 1e200) == pytest.approx(1.0 - 3.0, rel=1e-13)
    assert step(2.0, 1.0, 0.5, 1e-30) == pytest.approx(2 * math.exp(-0.5), rel=1e-15)
    for beta in (0.0, -1.0, nan, inf):
        with pytest.raises(ValueError, match="^hypentropy_step: beta must"):
            backend(kn.hypentropy_step, 1.0, 1.0, 1.0, beta=beta)


# --- eg_step: the table of limits ---

TABLE = [
    # w, g, lr, options, result
    ([1, 0, 1], [0, inf, 0], 1.0, {}, [0.5, 0, 0.5]),
    ([1, 0, 1], [0, -inf, 0], 1.0, {}, [0.5, 0, 0.5]),
    ([1, nan, 1], [0, 0, 0], 1.0, {}, [nan] * 3),
    ([1, 1, 1], [0, nan, 0], 1.0, {}, [nan] * 3),
    ([1, 0, 1], [0, nan, 0], 0.0, {}, [nan] * 3),
    ([1, 1, 1], [0, 0, 0], nan, {}, [nan] * 3),
    ([1, -1, 1], [0, 0, 0], 1.0, {}, [nan] * 3),
    ([1, inf, 1], [0, 0, 0], 1.0, {}, [nan] * 3),
    ([1, 1, 1], [0, 1, 2], inf, {}, [nan] * 3),
    ([1, 1, 1], [0, 1, 2], -inf, {}, [nan] * 3),
    ([1, 3, 4], [inf, 0, 0], 1.0, {}, [0, 3 / 7, 4 / 7]),
    ([1, 3, 0], [inf, inf, 0], 1.0, {}, [nan] * 3),
    ([1, 3, 4], [-inf, -inf, 0], 1.0, {}, [0.25, 0.75, 0]),
    ([1, 3, 4], [-inf, inf, 0], 1.0, {}, [1, 0, 0]),
    ([1, 3, 4], [-inf, inf, 0], -1.0, {}, [0, 1, 0]),
    ([1, 3, 4], [inf, -inf, 7], 0.0, {}, [0.125, 0.375, 0.5]),
    ([0, 0, 0], [1, 2, 3], 1.0, {}, [nan] * 3),
    ([0, 0, 0], [1, 2, 3], 1.0, {"mass": "keep"}, [0, 0, 0]),
    ([0, 0, 0], [1, nan, 3], 1.0, {"mass": "keep"}, [nan] * 3),
    ([5e-324], [1e308], 1e308, {"mass": 0.3}, [0.3]),
    ([7.0], [3.0], 2.0, {"mass": 0.3, "mix": 0.7}, [0.3]),
    ([1, 3, 4], [1, 2, 3], 1.0, {"mass": 0.0}, [0, 0, 0]),
    # differences and rates beyond the range
    ([1, 1], [1.7e308, -1.7e308], 1.0, {}, [0, 1]),
    ([1, 1], [1.7e308, -1.7e308], 1e308, {"mix": 0.5}, [0.25, 0.75]),
    ([1, 1], [1.5e308, -1.5e308], 1e-308, {}, [1 / (1 + math.exp(3)), 1 / (1 + math.exp(-3))]),
    ([1e-300, 1], [-1000, 0], 1.0, {}, [1, 5.075958897549457e-135]),
    ([1e308, 5e-324], [1500.0, 0.0], 1.0, {}, [7.3196866261552663e-21, 1]),
]


@pytest.mark.parametrize("w, g, lr, options, expected", TABLE)
def test_eg_step_limits(backend, w, g, lr, options, expected):
    got = rows(backend, w, g, lr, **options)
    np.testing.assert_allclose(got, expected, rtol=1e-14)
    same(np.isnan(got), np.isnan(expected))
    same(got == 0, np.equal(expected, 0))
    assert not np.any(np.signbit(got[got == 0]))
    together = rows(backend, [[1] * len(w), w], [[0] * len(w), g], lr, **options)
    same(together[1], got)  # the neighbour is not touched
    assert np.all(np.isfinite(together[0])) or not np.isfinite(lr)


def test_eg_step_long_rows_have_the_same_limits(backend):
    """Rows in more than one piece, with what matters at the far end."""
    n = 200_003 if backend.name != "cuda" else 20_003
    w, g = np.ones(n), np.zeros(n)
    g[-1] = -inf
    same(rows(backend, w, g, 1.0), np.arange(n) == n - 1)
    g[:] = inf
    assert np.all(np.isnan(rows(backend, w, g, 1.0)))
    g[n // 2] = 3e307
    same(rows(backend, w, g, 1e300), np.arange(n) == n // 2)
    w[:-1] = 0
    g[:] = 1.0
    same(rows(backend, w, g, 1.0), np.arange(n) == n - 1)
    w[5] = -1
    assert np.all(np.isnan(rows(backend, w, g, 1.0)))
    w[:] = 1
    same(rows(backend, w, -g * 1e308, 1e308)[:3], np.full(3, 1 / n))


@pytest.mark.parametrize("mass", [-1.0, nan, inf, "half", None, 1j])
def test_eg_step_refuses_masses(mass):
    with pytest.raises((ValueError, TypeError), match="^eg_step: mass must"):
        kn.eg_step([1.0, 2.0], [0.0, 1.0], 1.0, mass=mass)


def test_eg_step_refuses_the_rest():
    w, g = np.ones((2, 3)), np.zeros((2, 3))
    with pytest.raises(ValueError, match="^eg_step: lr must not vary along axis"):
        kn.eg_step(w, g, np.ones(3))
    with pytest.raises(ValueError, match="^eg_step: mass must be finite"):
        kn.eg_step(w, g, 1.0, mass=[1.0, -2.0])
    with pytest.raises(ValueError, match="^eg_step: mass must be broadcastable"):
        kn.eg_step(w, g, 1.0, mass=[1.0, 2.0, 3.0])
    for mix in (-0.1, 1.1, nan):
        with pytest.raises(ValueError, match="^eg_step: mix must"):
            kn.eg_step(w, g, 1.0, mix=mix)


def test_rates_and_masses_of_rows(backend, rng):
    w, g = np.abs(rng.standard_normal((2, 3, 5))), rng.standard_normal((3, 5))
    lr, mass = np.array([[0.5], [0.0], [-2.0]]), np.array([1.0, 3.0, 0.5])
    got = backend(kn.eg_step, w, g, lr, mass=mass)
    for i in range(3):
        one = backend(kn.eg_step, w[:, i], g[i], float(lr[i, 0]), mass=float(mass[i]))
        np.testing.assert_allclose(got[:, i], one, rtol=1e-15)
    across = backend(kn.eg_step, w.swapaxes(1, 2), g.T, lr.T, mass=mass, axis=1)
    np.testing.assert_allclose(across, got.swapaxes(1, 2), rtol=1e-15)
    assert backend(kn.eg_step, np.ones(4), np.zeros(4), lr).shape == (3, 4)


def test_check_makes_the_rules_errors():
    ok, g = np.array([[1.0, 0.0], [2.0, 1.0]]), np.zeros((2, 2))
    same(kn.eg_step(ok, g, 1.0, check=True), kn.eg_step(ok, g, 1.0))
    for wrong in (-1.0, inf, nan):
        bad = np.where(ok == 1.0, wrong, ok)
        for call in (
            lambda w: kn.eg_step(w, g, 1.0, check=True),
            lambda w: kn.eg_step(w, g, 1.0, check=True, mass="keep"),
            lambda w: kn.egu_step(w, g, 1.0, check=True),
            lambda w: kn.egu_pm_step(ok, w, g, 1.0, check=True),
            lambda w: kn.eg_pm_step(w, ok, g, 1.0, mass=1.0, check=True),
        ):
            with pytest.raises(ValueError, match=r"^eg\w+: weights must be finite"):
                call(bad)
    with pytest.raises(ValueError, match="not all 0 in a slice"):
        kn.eg_step(np.array([[0.0, 0.0], [1.0, 1.0]]), g, 1.0, check=True)
    kn.eg_step(np.array([[0.0, 0.0], [1.0, 1.0]]), g, 1.0, check=True, mass="keep")
    kn.egu_step(-ok, g, 1.0, signed=True, check=True)


# --- eg_step: accuracy and properties ---


def test_eg_step_against_high_precision(backend, rng):
    """4 u (1 + b_i + b_*), which the specification asks for, and the stated figure."""
    limit = kn.LIMITS["eg_step"]["float64"] + 4 * backend.plain
    for _ in range(30 if backend.name != "cuda" else 5):
        n = int(rng.integers(2, 12))
        w = 10.0 ** rng.uniform(-300, 300, n)
        g = rng.standard_normal(n) * 10.0 ** rng.uniform(-3, 3) + rng.choice([0, 1e6])
        lr = float(rng.choice([0.01, 1.0, 7.0]))
        got = rows(backend, w, g, lr)
        with mp.workdps(60):
            z = [
                mpmath.log(mpmath.mpf(a)) - mpmath.mpf(lr) * mpmath.mpf(b)
                for a, b in zip(w, g, strict=True)
            ]
            top = max(z)
            terms = [mpmath.exp(v - top) for v in z]
            for x, t in zip(got, terms, strict=True):
                exact = t / sum(terms)
                spacing = max(np.spacing(float(exact)), 5e-324)
                assert abs(mpmath.mpf(float(x)) - exact) <= max(limit, 3) * mpmath.mpf(
                    float(spacing)
                )


@pytest.mark.parametrize("n", [1, 2, 7, 33, 1000, 100_000])
def test_mass_is_conserved(backend, n, rng):
    if backend.name == "cuda" and n > 1000:
        pytest.skip("the stand-in is slow")
    for mass in (1.0, 0.3, 1e200):
        w = np.abs(rng.standard_normal((3, n)))
        got = rows(backend, w, rng.standard_normal((3, n)), 2.0, mass=mass)
        for row in got:
            assert abs(math.fsum(row) - mass) <= (n + 4) * U * mass
    kept = rows(backend, w, rng.standard_normal((3, n)), 2.0, mass="keep")
    for row, before in zip(kept, w, strict=True):
        assert abs(math.fsum(row) - math.fsum(before)) <= (n + 4) * U * math.fsum(before)


def test_eg_step_is_positive(backend, rng):
    w, g = np.array([1.0, 1.0, 1e-5]), np.array([0.0, 699.0, 680.0])
    assert np.all(rows(backend, w, g, 1.0) > 0)


def test_eg_step_invariances(backend, rng):
    w, g = np.abs(rng.standard_normal((20, 9))), rng.standard_normal((20, 9))
    got = rows(backend, w, g, 1.5)
    exact = np.round(g * 2**20) / 2**20  # sums with 1024 are exact
    np.testing.assert_allclose(
        rows(backend, w, exact + 1024, 1.5), rows(backend, w, exact, 1.5), rtol=4e-15
    )
    np.testing.assert_allclose(rows(backend, 2.0**-900 * w, g, 1.5), got, rtol=4e-15)
    order = rng.permutation(9)
    np.testing.assert_allclose(
        rows(backend, w[:, order], g[:, order], 1.5), got[:, order], rtol=4e-15
    )
    twice = rows(backend, rows(backend, w, g, 0.5), exact, 0.5)
    np.testing.assert_allclose(twice, rows(backend, w, g + exact, 0.5), rtol=2e-14)
    softmax = backend(kn.softmax, np.log(w) - 1.5 * g, axis=-1)
    np.testing.assert_allclose(got, softmax, rtol=2e-14)


def kl(p, q):
    return float(kn.bregman_kl(p, q, backend="reference"))


def test_eg_step_monotone_and_three_points(backend, rng):
    for _ in range(40):
        n = int(rng.integers(2, 9))
        w, v = rng.dirichlet(np.ones(n), 2)
        g, lr = rng.standard_normal(n) * 5, float(rng.uniform(0, 3))
        new = rows(backend, w, g, lr)
        assert g @ new <= g @ w + 1e-13
        left = lr * g @ (new - v)
        assert left <= kl(v, w) - kl(v, new) - kl(new, w) + 1e-12
    # L(w) = |A w - b|^2 / 2 is max |A_i . A_j| smooth relative to the entropy (1-norm Lipschitz)
    for _ in range(10):
        a, b = rng.standard_normal((6, 4)), rng.standard_normal(6)
        lr = 1 / np.abs(a.T @ a).max()
        w = rng.dirichlet(np.ones(4))
        for _ in range(20):
            new = rows(backend, w, a.T @ (a @ w - b), lr)
            assert ((a @ new - b) ** 2).sum() <= ((a @ w - b) ** 2).sum() + 1e-13
            w = new


def test_mix_is_a_floor(backend, rng):
    got = rows(backend, rng.random(8), rng.standard_normal(8) * 1e4, 1.0, mix=0.25)
    assert np.all(got >= 0.25 / 8) and abs(got.sum() - 1) < 1e-15


def test_mixture_weights(backend):
    """The worked problem of the specification, 200 steps to the limit of EM."""
    p = np.array(
        [[0.40, 0.10, 0.05], [0.30, 0.20, 0.10], [0.05, 0.45, 0.30]]
        + [[0.02, 0.10, 0.60], [0.10, 0.10, 0.25], [0.33, 0.31, 0.01]]
    )
    for lr in (0.05, 0.3, 1.0, 2.0, 5.0):
        w, likelihood = np.full(3, 1 / 3), []
        for _ in range(200):
            likelihood.append(np.log(p @ w).mean())
            w = backend(kn.eg_step, w, -(p / (p @ w)[:, None]).mean(axis=0), lr)
        falls = np.any(np.diff(likelihood) < -1e-15)
        assert falls == (lr == 5.0)
        if lr == 1.0:
            np.testing.assert_allclose(
                w, [0.4107824184540578, 0.20423092264836956, 0.38498665889757266], rtol=1e-9
            )
            assert abs(np.log(p @ w).mean() + 1.5760315214313054) < 1e-12


# --- logarithms ---


def test_eg_step_log_comes_back(backend):
    """1500 rounds each way: linear weights end at (1, 0), their logarithms where they began."""
    w = np.full(2, 0.5)
    logw = np.log(w)
    for g in ([0.0, 1.0], [1.0, 0.0]):
        for _ in range(1500 if backend.name != "cuda" else 20):
            logw = backend(kn.eg_step_log, logw, np.array(g), 1.0)
            w = backend(kn.eg_step, w, np.array(g), 1.0)
    # to the spacing of the numbers on the way, up to 1500
    np.testing.assert_allclose(logw, [-0.69314718055994529] * 2, atol=np.spacing(1500.0))
    if backend.name != "cuda":
        same(w, [1, 0])


def test_eg_step_log_limits(backend):
    step = lambda logw, g, lr=1.0: backend(kn.eg_step_log, np.array(logw), np.array(g), lr)  # noqa: E731
    same(step([-inf, 0.0], [-inf, 3.0]), [-inf, 0])
    same(step([0.0, 0.0], [0.0, 1500.0]), [0, -1500])
    same(step([0.0, 0.0], [inf, 1.0]), [-inf, 0])
    np.testing.assert_allclose(
        step([0.0, math.log(3), 5.0], [-inf, -inf, 0.0]), [math.log(0.25), math.log(0.75), -inf]
    )
    for logw, g, lr in (
        ([nan, 0.0], [0.0, 0.0], 1.0),
        ([inf, 0.0], [0.0, 0.0], 1.0),
        ([-inf, -inf], [0.0, 0.0], 1.0),
        ([0.0, 0.0], [inf, inf], 1.0),
        ([0.0, 0.0], [0.0, nan], 0.0),
        ([0.0, 0.0], [0.0, 1.0], inf),
    ):
        assert np.all(np.isnan(step(logw, g, lr)))
    # a likely entry keeps what the others leave it
    assert step([0.0, -40.0], [0.0, 0.0])[0] == pytest.approx(-math.exp(-40), rel=1e-14)
    n = 150_001 if backend.name != "cuda" else 9_001
    same(
        step(np.zeros(n), np.where(np.arange(n) == n - 1, -1e308, 1e308), 1e300),
        np.where(np.arange(n) == n - 1, 0, -inf),
    )


# --- pairs ---


def test_eg_pm_step_is_eg_step_of_both(backend, rng):
    p, m = np.abs(rng.standard_normal((2, 6, 40)))
    g = rng.standard_normal((6, 40))
    for kw in (False, True):
        up, down = backend(kn.eg_pm_step, p, m, g, 0.5, mass=4.0, kw_scale=kw)
        both = rows(backend, np.hstack([p, m]), np.hstack([g, -g]), 2.0 if kw else 0.5, mass=4.0)
        np.testing.assert_allclose(np.hstack([up, down]), both, rtol=1e-14)
        np.testing.assert_allclose((up + down).sum(axis=-1), 4.0, rtol=84 * U)
        swapped = backend(kn.eg_pm_step, m, p, -g, 0.5, mass=4.0, kw_scale=kw)
        np.testing.assert_allclose(swapped, (down, up), rtol=1e-15)


@pytest.mark.parametrize(
    "p, m, g, up, down",
    [
        ([0, 1], [1, 0], [inf, 0], [0, 0], [2, 0]),
        ([1, 1], [0, 0], [inf, inf], [nan, nan], [nan, nan]),
        ([1, 1], [0, 0], [inf, 1], [0, 2], [0, 0]),
        ([0, 0], [0, 0], [1, 1], [nan, nan], [nan, nan]),
        ([1, -1], [0, 0], [1, 1], [nan, nan], [nan, nan]),
        ([1, 1], [0, nan], [1, 1], [nan, nan], [nan, nan]),
        ([1, 0], [1, 0], [0, nan], [nan, nan], [nan, nan]),
        ([1, 0], [1, 0], [1e308, 0], [0, 0], [2, 0]),
    ],
)
def test_eg_pm_step_limits(backend, p, m, g, up, down):
    arrays = (np.array(x, float) for x in (p, m, g))
    got = backend(kn.eg_pm_step, *arrays, 1e300 if 1e308 in g else 1.0, mass=2.0)
    same(got, (up, down))


def test_eg_pm_step_in_pieces(backend, rng):
    n = 140_001 if backend.name != "cuda" else 9_001
    p, m, g = np.abs(rng.standard_normal((3, n)))
    up, down = backend(kn.eg_pm_step, p, m, g, 3.0, mass=1.0)
    wide = reference.eg_pm_step(
        *(x.astype(np.longdouble) for x in (p, m, g)), np.asarray(3.0), np.asarray(1.0)
    )
    for got, want in zip((up, down), wide, strict=True):
        assert np.max(np.abs(got / want - 1)) <= 32 * U


def test_eg_pm_init(backend, rng):
    w = rng.standard_normal((5, 7))
    up, down = backend(kn.eg_pm_init, w, mass=20.0)
    np.testing.assert_allclose(up - down, w, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose((up + down).sum(axis=-1), 20.0, rtol=18 * U)
    assert np.all(up >= 0) and np.all(down >= 0)
    size = np.abs(w).sum(axis=-1)
    exact = backend(kn.eg_pm_init, w, mass=size)
    np.testing.assert_allclose(exact[0], np.maximum(w, 0), atol=1e-15)
    for wrong in (w[0] / size[0] * 1.001, [nan, 0.0]):
        if backend.name != "cuda":
            out = tuple(np.full(len(wrong), 7.0) for _ in range(2))
            with pytest.raises(ValueError, match=r"^eg_pm_init: sum \|w\| must be at most mass"):
                backend(kn.eg_pm_init, np.array(wrong), mass=1.0, out=out)
            assert np.all(np.equal(out, 7))
        else:
            assert np.all(np.isnan(backend(kn.eg_pm_init, np.array(wrong), mass=1.0)))


# --- gradients ---


@pytest.mark.parametrize("shape", [(1,), (7,), (3, 40), (2, 3, 5)])
def test_eg_step_vjp_against_differences(backend, shape, rng):
    w, v = 0.1 + rng.random(shape), rng.standard_normal(shape)
    g, lr, mass = rng.standard_normal(shape), 0.7, 2.5
    dw, dg, dlr = backend(kn.eg_step_vjp, v, w, g, lr, mass=mass)
    assert dw.shape == dg.shape == shape and dlr.shape == ()
    wide = [x.astype(np.longdouble) for x in (v, w, g)]

    def value(w, g, lr):
        return (wide[0] * reference.eg_step(w, g, np.asarray(lr), np.asarray(mass))).sum()

    h = np.longdouble(1e-6)
    for index in np.ndindex(shape):
        bump = np.zeros(shape, np.longdouble)
        bump[index] = h
        for got, up, down in (
            (dw, (wide[1] + bump, wide[2], lr), (wide[1] - bump, wide[2], lr)),
            (dg, (wide[1], wide[2] + bump, lr), (wide[1], wide[2] - bump, lr)),
        ):
            assert got[index] == pytest.approx(
                float((value(*up) - value(*down)) / (2 * h)), abs=1e-9
            )
    slope = (value(*wide[1:], np.longdouble(lr) + h) - value(*wide[1:], np.longdouble(lr) - h)) / (
        2 * h
    )
    assert dlr == pytest.approx(float(slope), abs=1e-9)


def test_eg_step_vjp_within_limits(backend, dtype, rng):
    limit = kn.LIMITS["eg_step_vjp"][oracle.name_of(dtype)] + 4 * backend.plain
    for n in (3, 33, 400):
        v, w, g = rng.standard_normal((4, n)), rng.random((4, n)), 3 * rng.standard_normal((4, n))
        v, w, g = (x.astype(dtype) for x in (v, w, g))
        got = backend(kn.eg_step_vjp, v, w, g, np.full((4, 1), 0.5, dtype))
        wide = [oracle.widen(x) for x in (v, w, g)]
        exact = reference.eg_step_vjp(*wide, np.full(4, 0.5), np.asarray(1.0))
        y = reference.eg_step(*wide[1:], np.full(4, 0.5), np.asarray(1.0))
        top = np.argmax(y, axis=-1)[..., None]
        dv, dg = (np.abs(x - np.take_along_axis(x, top, -1)) for x in (wide[0], wide[2]))
        spread = dv + (y * dv).sum(axis=-1, keepdims=True)
        per_weight = np.where(wide[1] == 0, 0, y / np.where(wide[1] == 0, 1, wide[1]))
        sizes = per_weight * spread, 0.5 * y * spread, (y * dg * spread).sum(axis=-1)
        for r, e, s in zip(got, exact, sizes, strict=True):
            e = e.reshape(r.shape)
            error, where = oracle.worst(r, e, dtype, s.reshape(r.shape))
            assert error <= limit, f"n = {n}: {error} ULP at {where}"


def test_eg_step_vjp_sums_over_what_was_enlarged(backend, rng):
    v, w, g = rng.standard_normal((3, 4)), rng.random(4), rng.standard_normal((3, 1))
    lr = np.array([[0.5], [1.0], [2.0]])
    dw, dg, dlr = backend(kn.eg_step_vjp, v, w, g, lr)
    full = backend(kn.eg_step_vjp, v, np.tile(w, (3, 1)), np.tile(g, (1, 4)), lr)
    assert dw.shape == (4,) and dg.shape == (3, 1) and dlr.shape == (3, 1)
    np.testing.assert_allclose(dw, full[0].sum(axis=0), rtol=1e-13)
    np.testing.assert_allclose(dg, full[1].sum(axis=1, keepdims=True), atol=1e-15)
    np.testing.assert_allclose(dlr, full[2], atol=1e-15)


def test_eg_step_vjp_special_values(backend):
    dw, dg, dlr = backend(kn.eg_step_vjp, [1.0, 2.0, 3.0], [0.0, 1.0, 1.0], [0.0, 1.0, inf], 1.0)
    assert dw[0] == 0 and dg[0] == 0 and dg[2] == 0 and np.all(np.isfinite(dw)) and np.isfinite(dlr)
    for r in backend(kn.eg_step_vjp, [1.0, 2.0], [-1.0, 1.0], [0.0, 1.0], 1.0):
        assert np.all(np.isnan(r))
    for r in backend(kn.eg_step_vjp, np.ones((2, 0)), np.ones((2, 0)), np.ones((2, 0)), 1.0):
        assert r.size == 0 or not r.any()


def test_eg_step_vjp_long_rows(backend, rng):
    n = 150_001 if backend.name != "cuda" else 9_001
    v, w, g = rng.standard_normal(n), rng.random(n), 3 * rng.standard_normal(n)
    got = backend(kn.eg_step_vjp, v, w, g, 0.5)
    wide = [x.astype(np.longdouble) for x in (v, w, g)]
    exact = reference.eg_step_vjp(*wide, np.asarray(0.5), np.asarray(1.0))
    for r, e in zip(got, exact, strict=True):
        np.testing.assert_allclose(r, e.astype(float).reshape(r.shape), rtol=1e-11, atol=1e-17)


# --- in place ---


def test_steps_in_place(backend, dtype, rng):
    if backend.on_device:
        pytest.skip("NumPy memory")
    for shape in ((5, 7), (3, 1000), (1, 70_000) if backend.name != "cuda" else (1, 3000)):
        w, g = rng.random(shape).astype(dtype), rng.standard_normal(shape).astype(dtype)
        for call in (
            lambda w, **k: backend(kn.egu_step, w, g, 0.5, **k),  # noqa: B023
            lambda w, **k: backend(kn.eg_step, w, g, 0.5, **k),  # noqa: B023
            lambda w, **k: backend(kn.eg_step_log, w, g, 0.5, **k),  # noqa: B023
        ):
            want, own = call(w), w.copy()
            assert call(own, out=own) is own
            same(own.view(np.uint8), want.view(np.uint8))
        m = rng.random(shape).astype(dtype)
        want, own = backend(kn.eg_pm_step, w, m, g, 0.5, mass=1.0), (w.copy(), m.copy())
        backend(kn.eg_pm_step, *own, g, 0.5, mass=1.0, out=own)
        same(own, want)


# --- numbers ---


def test_learning_rate_and_bound():
    n, T, R = 17, 400, 2.5
    lr = kn.eg_learning_rate(n, T, grad_range=R)
    assert lr == pytest.approx(math.sqrt(8 * math.log(n) / T) / R, rel=1e-15)
    assert kn.eg_regret_bound(n, T, lr, grad_range=R) == pytest.approx(
        R * math.sqrt(T * math.log(n) / 2)
    )
    assert kn.eg_learning_rate(1, 5) == 0.0
    for call in (
        lambda: kn.eg_learning_rate(0, 5),
        lambda: kn.eg_learning_rate(2, 0),
        lambda: kn.eg_learning_rate(2, 5, grad_range=0.0),
        lambda: kn.eg_regret_bound(2, 5, 0.0),
        lambda: kn.eg_regret_bound(2, 5, nan),
    ):
        with pytest.raises(ValueError, match=r"^eg_\w+: \w+ must"):
            call()
    with pytest.raises(TypeError, match="^eg_learning_rate: n must be an int"):
        kn.eg_learning_rate(2.5, 5)
