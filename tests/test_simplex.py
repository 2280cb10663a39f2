"""Optimising over the simplex: the projection against a sort, its limits, Frank-Wolfe and gaps."""

import math

import numpy as np
import pytest

import kexue_native as kn
from kexue_native.optim.simplex import reference

inf, nan = np.inf, np.nan
U = 2.0**-53


def same(got, want):
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("n", [1, 2, 8, 33, 70, 1000, 5000, 200_000])
@pytest.mark.parametrize("kind", ["normal", "uniform", "ties", "geometric", "shifted", "equal"])
def test_projection_against_the_sort(backend, n, kind, rng):
    if backend.name == "cuda" and n > 1000:
        pytest.skip("the stand-in is slow")
    rows = 3 if n < 5000 else 1
    v = {
        "normal": rng.standard_normal((rows, n)),
        "uniform": rng.random((rows, n)) / n,
        "ties": np.round(rng.standard_normal((rows, n))),
        "geometric": -(1.1 ** np.minimum(np.arange(n), 6000)) * np.ones((rows, 1)),
        "shifted": 1e8 + rng.standard_normal((rows, n)),
        "equal": np.full((rows, n), 0.3),
    }[kind]
    for mass in (1.0, 50.0):
        got = backend(kn.project_simplex, v, mass=mass)
        wide = reference.project_simplex(v.astype(np.longdouble), np.asarray(mass))
        error = np.abs(got - wide)
        assert np.all(error <= 4 * U * mass + 1e-14 * wide), float(error.max())
        assert np.all(got >= 0)
        assert abs(math.fsum(got[0]) - mass) <= (n + 4) * U * mass


@pytest.mark.parametrize(
    "v, mass, expected",
    [
        ([0.5, 0.25, -3.0], 1.0, [0.625, 0.375, 0]),
        ([inf, 1.0, inf], 1.0, [0.5, 0, 0.5]),
        ([-inf, 0.25, 0.25], 1.0, [0, 0.5, 0.5]),
        ([-inf, -inf], 1.0, [nan, nan]),
        ([nan, 1.0], 1.0, [nan, nan]),
        ([nan, inf], 1.0, [nan, nan]),
        ([1.0, 2.0], 0.0, [0, 0]),
        ([1e308, -1e308], 1.0, [1, 0]),
        ([7.0], 0.3, [0.3]),
        ([0.0, -0.0], 1.0, [0.5, 0.5]),
    ],
)
def test_projection_limits(backend, v, mass, expected):
    for extra in (0, 60, 5000) if backend.name != "cuda" else (0,):
        row = np.concatenate([np.array(v), np.full(extra, -inf)])
        got = backend(kn.project_simplex, row, mass=mass)
        want = np.array(expected + [nan if np.isnan(expected[0]) else 0.0] * extra)
        np.testing.assert_allclose(got, want, rtol=1e-15)
        with_others = backend(
            kn.project_simplex, np.stack([row, np.ones_like(row), row]), mass=mass
        )
        same(with_others[0], got)


def test_projection_properties(backend, rng):
    v, w = rng.standard_normal((2, 30, 9))
    p = backend(kn.project_simplex, v)
    np.testing.assert_allclose(backend(kn.project_simplex, p), p, atol=4 * U)
    np.testing.assert_allclose(backend(kn.project_simplex, v + 3.0), p, atol=16 * U)
    order = rng.permutation(9)
    np.testing.assert_allclose(backend(kn.project_simplex, v[:, order]), p[:, order], atol=4 * U)
    q = backend(kn.project_simplex, w)
    assert np.all(np.linalg.norm(p - q, axis=1) <= np.linalg.norm(v - w, axis=1) + 1e-15)
    assert np.all(np.diff(np.take_along_axis(p, np.argsort(v), 1)) >= 0)
    for other in rng.dirichlet(np.ones(9), 20):  # nearest of all points
        assert np.all(np.linalg.norm(p - v, axis=1) <= np.linalg.norm(other - v, axis=1) + 1e-15)


def test_projection_masses_of_rows(backend, rng):
    v, mass = rng.standard_normal((4, 7)), np.array([0.0, 1.0, 2.5, 100.0])
    got = backend(kn.project_simplex, v, mass=mass)
    np.testing.assert_allclose(got.sum(axis=1), mass, rtol=8 * U)
    across = backend(kn.project_simplex, np.ascontiguousarray(v.T), mass=mass, axis=0)
    np.testing.assert_allclose(across.T, got, atol=1e-14)
    for wrong in (-1.0, nan, inf, [1.0, -1.0, 1.0, 1.0], "one"):
        with pytest.raises((ValueError, TypeError), match="^project_simplex: mass must"):
            kn.project_simplex(v, mass=wrong)


def test_projection_across_memory(backend, rng):
    v = rng.standard_normal((900 if backend.name != "cuda" else 90, 6))
    want = backend(kn.project_simplex, np.ascontiguousarray(v.T))
    np.testing.assert_allclose(backend(kn.project_simplex, v, axis=0), want.T, atol=8 * U)


def test_projection_vjp_against_differences(backend, rng):
    v, g = rng.standard_normal((10, 8)), rng.standard_normal((10, 8))
    p = backend(kn.project_simplex, v)
    got = backend(kn.project_simplex_vjp, p, g)
    h = 1e-7
    for i in range(8):
        bump = h * (np.arange(8) == i)
        up, down = (np.asarray(kn.project_simplex(v + s * bump)) for s in (1, -1))
        np.testing.assert_allclose(got[:, i], ((up - down) * g).sum(axis=1) / (2 * h), atol=1e-7)
    np.testing.assert_allclose((got * (p > 0)).sum(axis=1), 0, atol=1e-14)
    g[p == 0] = nan
    same(backend(kn.project_simplex_vjp, p, g), got)


def test_frank_wolfe_takes_the_first(backend):
    step = lambda p, g, lr: backend(kn.frank_wolfe_step, np.array(p), np.array(g), lr)  # noqa: E731
    same(step([0.5, 0.5, 0.0], [1.0, 0.0, 0.0], 0.5), [0.25, 0.75, 0])
    same(step([0.5, 0.5], [inf, -inf], 1.0), [0, 1])
    same(step([0.5, 0.5], [1.0, 0.0], 0.0), [0.5, 0.5])
    assert np.all(np.isnan(step([0.5, 0.5], [nan, 0.0], 0.5)))
    n = 150_000 if backend.name != "cuda" else 9_000
    g = np.ones(n)
    g[[n - 3, n // 2, n - 1]] = 0
    same(step(np.full(n, 1 / n), g, 1.0), np.arange(n) == n // 2)
    for lr in (-0.1, 1.5, nan):
        with pytest.raises(ValueError, match="^frank_wolfe_step: lr must"):
            step([1.0], [1.0], lr)


def test_frank_wolfe_and_gap_find_the_projection(backend, rng):
    """min |p - v|^2 / 2: the gap bounds the error and falls like 1 / t."""
    v = rng.standard_normal(6)
    best, p = kn.project_simplex(v), np.full(6, 1 / 6)
    for t in range(300 if backend.name != "cuda" else 20):
        gap = float(backend(kn.simplex_gap, p, p - v))
        assert gap >= 0 and ((p - v) ** 2).sum() / 2 - ((best - v) ** 2).sum() / 2 <= gap + 1e-15
        p = backend(kn.frank_wolfe_step, p, p - v, 2 / (t + 2))
    assert gap < 0.05 or backend.name == "cuda"
    assert float(backend(kn.simplex_gap, best, best - v)) < 1e-15
    assert float(backend(kn.simplex_gap, np.array([0.0, 1.0]), np.array([5.0, 3.0]))) == 0
    assert float(backend(kn.simplex_gap, np.array([0.0, 1.0]), np.array([inf, 3.0]))) == 0


def test_pullback_is_the_gradient_through_softmax(backend, rng):
    x, g = rng.standard_normal((5, 9)), rng.standard_normal((5, 9))
    p = kn.softmax(x, axis=-1)
    want = kn.softmax_vjp(x, g, axis=-1)
    np.testing.assert_allclose(backend(kn.softmax_pullback, p, g), want, atol=1e-15)
    same(backend(kn.softmax_pullback, np.array([0.0, 1.0]), np.array([inf, 2.0])), [0, 0])


def test_kl(backend, rng):
    kl = lambda p, q, **k: float(backend(kn.bregman_kl, np.array(p), np.array(q), **k))  # noqa: E731
    assert kl([0.0, 1.0], [0.5, 0.5]) == pytest.approx(math.log(2), rel=1e-15)
    assert kl([0.5, 0.5], [0.0, 1.0]) == inf and kl([0.0], [0.0]) == 0
    assert kl([0.0], [2.0], unnormalized=True) == 2 and kl([2.0], [0.0], unnormalized=True) == inf
    assert math.isnan(kl([-1.0], [1.0])) and math.isnan(kl([1.0], [nan]))
    assert kl([1e308], [1e-308], unnormalized=True) == inf
    assert kl([1e-300], [3e-300]) == pytest.approx(-1e-300 * math.log(3), rel=1e-14)
    d = 2.0**-40
    assert kl([1 + d], [1.0], unnormalized=True) == pytest.approx(
        d * d / 2 * (1 - d / 3), rel=1e-14
    )
    p, q = rng.dirichlet(np.ones(7), 2)
    assert kl(p, q) == pytest.approx((p * np.log(p / q)).sum(), rel=1e-13)
    assert kl(p, q, unnormalized=True) == pytest.approx(kl(p, q), rel=1e-13)
