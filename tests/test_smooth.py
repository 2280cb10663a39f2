"""Smooth maxima, smooth positions and the Taylor softmax: values, pitfalls, gradients."""

import math

import numpy as np
import pytest
from mpmath import mp, mpf

import kexue_native as kn
import oracle
from closeness import near, same, slopes
from kexue_native.special.smooth import reference

inf, nan = np.inf, np.nan
DEGREES = (2, 4, 6, 10, 20, 40, 64)


# --- Taylor softmax ---


def exact_taylor(x, n):
    return mp.fsum(mpf(x) ** k / mp.factorial(k) for k in range(n + 1))


def horner(x, n):
    """1 + x (1 + x/2 (1 + ...)) in the type of x."""
    value = np.ones_like(x)
    for k in range(n, 0, -1):
        value = value * x / x.dtype.type(k) + x.dtype.type(1)
    return value


def plain_quadratic_softmax(x):
    with np.errstate(all="ignore"):
        f = 1 + x + x * x / 2
        return f / f.sum()


@pytest.mark.parametrize("n", DEGREES)
def test_taylor_softmax_exact(backend, dtype, n, rng):
    for spread in (0.1, 3, 30):
        x = (spread * rng.standard_normal((20, 5))).astype(dtype)
        got = backend(kn.taylor_softmax, x, n)
        with mp.workdps(60):
            f = [[exact_taylor(v, n) for v in oracle.to_mp(row)] for row in x]
            want = [[float(v / mp.fsum(row)) for v in row] for row in f]
        near(got, want, dtype, np.multiply(1.5, want))  # the specification allows 3e-13


def test_taylor_softmax_values(backend):
    near(backend(kn.taylor_softmax, np.array([0.0, 1.0, -1.0])), [0.25, 0.625, 0.125])
    near(backend(kn.taylor_softmax, np.array([0.0, 1e9])), [2 / (1e18 + 2e9), 1])


@pytest.mark.parametrize(
    ("n", "place", "least"),
    [
        (2, -1.0, 0.5),
        (4, -1.5960716379833215, 0.27039476520518461),
        (6, -2.1806071240351259, 0.14932484173105119),
        (8, -2.7590027099622719, 0.083271520164068879),
        (10, -3.3335514852690488, 0.046699113590276231),
    ],
)
def test_taylor_softmax_monotone(backend, n, place, least):
    """Left of its minimum f stays there: probabilities keep the order of x, slopes are 0."""
    near(reference.taylor_minimiser(n), place)
    near(place**n / math.factorial(n), least)
    x = np.array([-inf, -1e300, place - 1, place, place + 0.5, 0.0])
    p = backend(kn.taylor_softmax, x, n, monotone=True)
    near(p[:4] / p[5], [least] * 4)  # f(0) = 1
    assert np.all(np.diff(p) >= 0)
    g = np.arange(6.0)
    slope = backend(kn.taylor_softmax_vjp, x, g, n, monotone=True)
    same(slope[:3], [0, 0, 0])
    assert np.all(slope[4:] != 0)
    free = backend(kn.taylor_softmax, x[2:], n)
    assert free[0] > free[1]  # without it f rises again


def test_taylor_softmax_keeps_digits_at_negative_x(backend):
    """Horner in float32 loses them, and the sign with them."""
    x = np.linspace(-12, 0, 601, dtype=np.float32)
    for n, off in ((10, 1e-5), (20, 2.8e-3), (40, 10)):
        with mp.workdps(50):
            f = [exact_taylor(float(v), n) for v in x]
            true = np.array([float(v / (1 + v)) for v in f])
            f = np.array([float(v) for v in f])
        rows = np.stack([x, np.zeros_like(x)], axis=-1)
        near(backend(kn.taylor_softmax, rows, n)[:, 0], true, np.float32)
        assert np.max(np.abs(horner(x, n) / f - 1)) > off
    assert -5e-4 < horner(x, 40)[0] < -4e-4  # at -12, where f is 1.02e-5


def test_taylor_softmax_does_not_overflow(backend):
    row = np.array([1e20, 1, 2], np.float32)
    near(backend(kn.taylor_softmax, row), [1, 5e-40, 1e-39], np.float32)
    assert np.any(np.isnan(plain_quadratic_softmax(row)))
    row = np.array([300, 1, 2], np.float16)
    with mp.workdps(30):
        f = [exact_taylor(v, 2) for v in (300, 1, 2)]
    near(backend(kn.taylor_softmax, row), [float(v / mp.fsum(f)) for v in f], np.float16)
    assert np.any(np.isnan(plain_quadratic_softmax(row)))
    for n in DEGREES:
        row = np.array([1.7e308, -1.7e308, 1e308, 3])
        share = (1 / 1.7) ** n
        want = np.array([1, 1, share, 0]) / (2 + share)
        near(backend(kn.taylor_softmax, row, n), want, scale=np.maximum(10 * want, 1e-300))


def test_taylor_softmax_special_values(backend, dtype):
    x = np.array([[inf, 0, 1], [-inf, 0, 1], [inf, -inf, 1], [nan, 0, 1], [nan, inf, 0]], dtype)
    want = [[1, 0, 0], [1, 0, 0], [0.5, 0.5, 0], [nan] * 3, [nan] * 3]
    for n in (2, 20):
        same(backend(kn.taylor_softmax, x, n), want)  # -inf does not mask: f(-inf) = inf
    g = np.array([[1, 2, 3]] * 5, dtype)
    got = backend(kn.taylor_softmax_vjp, x, g)
    same(got, [[0] * 3, [0] * 3, [0] * 3, [nan] * 3, [nan] * 3])
    mask = np.array([[False, True, True]] * 5)
    half = backend(kn.taylor_softmax, x, mask=mask).astype(float)
    same(half[:2, 0], [0, 0])
    same(half[0, 1:], backend(kn.taylor_softmax, x[0, 1:]))
    same(backend(kn.taylor_softmax, x, mask=np.zeros(3, bool)), np.zeros((5, 3)))


@pytest.mark.parametrize("n", (2, 6, 20))
@pytest.mark.parametrize("monotone", [False, True])
def test_taylor_softmax_gradient(backend, n, monotone, rng):
    x, g = 3 * rng.standard_normal((6, 5)), rng.standard_normal((6, 5))
    floor = reference.taylor_minimiser(n) if monotone else -inf
    x = np.where(np.abs(x - floor) < 0.01, 0.5, x)  # a corner
    wide, wide_g = x.astype(np.longdouble), g.astype(np.longdouble)

    def weighted(v):
        return (wide_g * reference.taylor_softmax(v, None, n, floor)).sum(axis=-1)

    got = backend(kn.taylor_softmax_vjp, x, g, n, monotone=monotone)
    assert np.max(np.abs(got - slopes(weighted, wide, 1e-3))) < 1e-8


def test_taylor_softmax_saturated_winner(backend):
    """The winner's component is f'/S (0 - sum p h), which p (g - sum p g) cancels away."""
    x, g = np.array([1e6, 0.0]), np.array([1.0, 3.0])
    with mp.workdps(60):
        f = [exact_taylor(v, 2) for v in (10**6, 0)]
        slope = [exact_taylor(v, 1) for v in (10**6, 0)]
        p = [v / mp.fsum(f) for v in f]
        mean = p[0] + 3 * p[1]
        want = [float(s / mp.fsum(f) * (v - mean)) for s, v in zip(slope, (1, 3))]
    near(backend(kn.taylor_softmax_vjp, x, g), want)


def test_taylor_softmax_degree(backend):
    for n, error in ((3, ValueError), (0, ValueError), (-2, ValueError), (66, ValueError)):
        with pytest.raises(error, match=r"^taylor_softmax: n must be even and in \[2, 64\], got"):
            backend(kn.taylor_softmax, [1.0], n)
    for n in (2.0, "2", None):
        with pytest.raises(TypeError, match="^taylor_softmax_vjp: n must be an int, got"):
            backend(kn.taylor_softmax_vjp, [1.0], [1.0], n)
    near(backend(kn.taylor_softmax, [1.0, 0.0], np.int64(4)), np.array([65, 24]) / 89)


# --- Smooth maxima ---

METHODS = ("logsumexp", "softmax")


def exact_smooth_max(x, k, method):
    x = oracle.to_mp(x)
    e = [mp.exp(mpf(k) * v) for v in x]
    if method == "logsumexp":
        return mp.log(mp.fsum(e)) / mpf(k)
    return mp.fsum(v * w for v, w in zip(x, e)) / mp.fsum(e)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("k", [1.0, 7.0, 0.01, -2.0])
def test_smooth_max_exact(backend, dtype, method, k, rng):
    for n in (1, 2, 7, 40):
        x = (3 * rng.standard_normal((10, n))).astype(dtype)
        with mp.workdps(60):
            want = [float(exact_smooth_max(row, k, method)) for row in x]
        got = backend(kn.smooth_max, x, k, method=method)
        near(got, want, dtype, np.maximum(np.abs(want), np.abs(x.astype(float)).max(axis=-1)))


def test_smooth_max_bounds(backend, dtype, rng):
    """max <= logsumexp form <= max + log(n) / k, mean <= softmax form <= max."""
    x = rng.standard_normal((50, 9)).astype(dtype)
    top, slack = x.astype(float).max(axis=-1), 4 * oracle.unit_roundoff(dtype) * 5
    for k in (0.1, 1.0, 30.0):
        above = backend(kn.smooth_max, x, k).astype(float)
        assert np.all(above >= top - slack) and np.all(above <= top + math.log(9) / k + slack / k)
        below = backend(kn.smooth_max, x, k, method="softmax").astype(float)
        assert np.all(below <= top + slack)
        assert np.all(below >= x.astype(float).mean(axis=-1) - slack)


@pytest.mark.parametrize("method", METHODS)
def test_smooth_minimum(backend, dtype, method, rng):
    x = rng.standard_normal((20, 6)).astype(dtype)
    same(
        backend(kn.smooth_max, x, -3.0, method=method),
        -backend(kn.smooth_max, -x, 3.0, method=method),
    )


@pytest.mark.parametrize("method", METHODS)
def test_smooth_max_does_not_overflow(backend, method):
    """k is applied to differences, in both directions."""
    for k in (1e10, 1e308):
        near(backend(kn.smooth_max, [1e300, 1e299], k, method=method), 1e300)
    tiny = backend(kn.smooth_max, [0.0, 1.0], 1e-320, method=method)
    near(tiny, 0.5 if method == "softmax" else inf)
    near(backend(kn.smooth_max, [0.0, 1.0], 1e-300, method="softmax"), 0.5)
    with np.errstate(all="ignore"):
        assert not np.isfinite(np.log(np.sum(np.exp(1e10 * np.array([1e300, 1e299])))) / 1e10)


@pytest.mark.parametrize("method", METHODS)
def test_smooth_max_special_values(backend, dtype, method):
    x = np.array([[inf, 0, 1], [-inf, -inf, -inf], [inf, inf, -inf], [nan, 0, 1], [nan, inf, 0]])
    got = backend(kn.smooth_max, x.astype(dtype), 2.0, method=method)
    same(got, [inf, -inf, inf, nan, nan])
    same(backend(kn.smooth_max, -x.astype(dtype), -2.0, method=method), [-inf, inf, -inf, nan, nan])
    same(backend(kn.smooth_max, np.zeros((2, 0), dtype), method=method), [-inf, -inf])
    same(backend(kn.smooth_max, np.zeros((2, 0), dtype), -1.0, method=method), [inf, inf])
    g = np.full(5, 2, dtype)
    slope = backend(kn.smooth_max_vjp, x.astype(dtype), g, 2.0, method=method)
    same(slope, [[2, 0, 0], [0, 0, 0], [1, 1, 0], [nan] * 3, [nan] * 3])


def test_forms_that_are_not_offered(backend):
    """The odd root and log log sum exp exp are wrong for negative numbers (archive 3290)."""
    x = np.array([-1.0, -2.0])
    k = 20
    root = np.sum(x ** (2 * k + 1))
    assert abs(np.sign(root) * abs(root) ** (1 / (2 * k + 1)) - -2) < 1e-6
    assert abs(np.log(np.log(np.sum(np.exp(np.exp(k * x))))) / k) < 0.1
    assert abs(backend(kn.smooth_max, x, k) - -1) < 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("k", [1.0, 5.0, -2.0])
def test_smooth_max_gradient(backend, method, k, rng):
    x, g = rng.standard_normal((6, 5)), rng.standard_normal(6)
    value = getattr(reference, f"smooth_max_{method}")
    want = g[:, None] * slopes(lambda v: value(v, k), x.astype(np.longdouble), 1e-3)
    got = backend(kn.smooth_max_vjp, x, g, k, method=method)
    assert np.max(np.abs(got - want)) < 1e-8
    near(got.sum(axis=-1), g)


def test_smooth_max_softmax_gradient_may_be_negative(backend):
    assert backend(kn.smooth_max_vjp, [0.0, 3.0], 1.0, method="softmax")[0] < 0


@pytest.mark.parametrize("function", [kn.smooth_max, kn.smooth_max_vjp])
def test_smooth_max_parameters(backend, function):
    arrays = ([1.0, 2.0], 1.0)[: 1 + (function is kn.smooth_max_vjp)]
    for k in (0, -0.0, nan, inf, -inf):
        with pytest.raises(ValueError, match=f"^{function.__name__}: k must"):
            backend(function, *arrays, k)
    with pytest.raises(TypeError, match=f"^{function.__name__}: k must"):
        backend(function, *arrays, "1")
    with pytest.raises(ValueError, match=f"^{function.__name__}: method must be"):
        backend(function, *arrays, method="max")


# --- Smooth positions ---


def test_soft_argmax_exact(backend, dtype, rng):
    for k in (1.0, 4.0, -1.0, 0.0):
        x = (3 * rng.standard_normal((10, 7))).astype(dtype)
        p = backend(kn.softmax, k * x.astype(float), axis=-1)
        for start in (0, 1, -2.5):
            want = (p * (start + np.arange(7))).sum(axis=-1)
            got = backend(kn.soft_argmax, x, k, start=start)
            near(got, want, dtype, np.maximum(np.abs(want), 6 + abs(start)))


def test_soft_argmax_long_rows(backend, dtype):
    """Positions are not rounded to the type of x, in which they need not exist."""
    x = np.zeros(40_000, dtype)
    x[33_333] = 100
    for k, row in ((1.0, x), (-1.0, -x)):
        got = backend(kn.soft_argmax, row, k)
        assert got == np.asarray(33_333, dtype)
    near(backend(kn.soft_argmax, np.zeros(40_000, dtype)), 39_999 / 2, dtype)
    slope = backend(kn.soft_argmax_vjp, np.zeros(40_000, dtype), np.asarray(1, dtype))
    want = (np.arange(40_000) - 39_999 / 2) / 40_000
    near(slope, want, dtype, np.maximum(np.abs(want), 0.5))


def test_soft_argmax_special_values(backend, dtype):
    x = np.array([[0, inf, 0], [inf, 0, inf], [-inf] * 3, [nan, 0, 0], [0, -inf, 0]], dtype)
    same(backend(kn.soft_argmax, x), [1, 1, nan, nan, 1])
    same(backend(kn.soft_argmax, np.zeros((2, 0), dtype)), [nan, nan])
    same(backend(kn.soft_argmax, -x, -1.0), [1, 1, nan, nan, 1])
    slope = backend(kn.soft_argmax_vjp, x, np.full(5, 2, dtype))
    same(slope, [[0, 0, 0], [-1, 0, 1], [nan] * 3, [nan] * 3, [-1, 0, 1]])


def test_soft_argmax_several_axes(backend):
    x = np.zeros((2, 3))
    x[1, 2] = 60
    near(backend(kn.soft_argmax, x, axis=(0, 1)), 5)
    near(backend(kn.soft_argmax, x, axis=(1, 0)), 5)
    x[1, 2], x[1, 0] = 0, 60
    near(backend(kn.soft_argmax, x, axis=(0, 1)), 3)
    near(backend(kn.soft_argmax, x, axis=(1, 0)), 1)


@pytest.mark.parametrize("k", [1.0, 4.0, -2.0])
def test_soft_argmax_gradient(backend, k, rng):
    x, g = rng.standard_normal((6, 5)), rng.standard_normal(6)
    wide = x.astype(np.longdouble)
    want = g[:, None] * slopes(lambda v: reference.soft_argmax(v, k), wide, 1e-3)
    got = backend(kn.soft_argmax_vjp, x, g, k)
    assert np.max(np.abs(got - want)) < 1e-8
    same(backend(kn.soft_argmax_vjp, x, g, 0.0), np.zeros((6, 5)))


def test_soft_onehot(backend, dtype, rng):
    x = (3 * rng.standard_normal((10, 7))).astype(dtype)
    for k in (1.0, 6.0, -2.0, 0.0):
        want = backend(kn.softmax, k * x.astype(float), axis=-1)
        near(backend(kn.soft_onehot, x, k), want, dtype, 10 * want)
        g = rng.standard_normal((10, 7)).astype(dtype)
        same(backend(kn.soft_onehot_vjp, x, g, k), backend(kn.softmax_vjp, x, g, axis=-1, scale=k))
    same(backend(kn.soft_onehot, np.array([1e300, 1e299, 0]), 1e10), [1, 0, 0])
    same(backend(kn.soft_onehot, np.array([inf, 0, 3], dtype), -1.0).astype(float)[0], 0)


@pytest.mark.parametrize("function", ["soft_argmax", "soft_argmax_vjp", "soft_onehot"])
def test_sharpness_is_finite(backend, function):
    arrays = ([1.0, 2.0], 1.0)[: 1 + function.endswith("vjp")]
    for k in (nan, inf, -inf):
        with pytest.raises(ValueError, match=f"^{function}: k must be finite"):
            backend(getattr(kn, function), *arrays, k)


# --- The k largest ---


def test_soft_kmax_values(backend, dtype, rng):
    # The known limit: an entry equal to the minimum is as good as taken.
    near(backend(kn.soft_kmax, np.array([10, 0], dtype), 2, scale=9.0), [1.5, 0.5], dtype)
    x = rng.permutation(np.arange(12.0)).astype(dtype)
    for k in (1, 3, 5):
        got = backend(kn.soft_kmax, x, k, scale=60.0)
        near(got, x >= 12 - k, dtype, 1)
        soft = backend(kn.soft_kmax, x / 4, k).astype(float)
        assert abs(soft.sum() - k) < 12 * oracle.unit_roundoff(dtype) * k


def test_soft_kmax_first_step_is_softmax(backend, dtype, rng):
    x = rng.standard_normal((4, 9)).astype(dtype)
    want = backend(kn.softmax, x, axis=-1)
    near(backend(kn.soft_kmax, x, 1), want, dtype)
    g = rng.standard_normal((4, 9)).astype(dtype)
    near(
        backend(kn.soft_kmax_vjp, x, g, 1),
        backend(kn.softmax_vjp, x.astype(float), g.astype(float), axis=-1),
        dtype,
        1,
    )


def kmax(x, k, scale):
    """The loop of the article on the wide reference."""
    z = scale * (x - x.min(axis=-1, keepdims=True))
    p = np.zeros_like(x)
    for _ in range(k):
        p = p + reference.soft_onehot((1 - p) * z, 1.0)
    return p


@pytest.mark.parametrize("k", [1, 2, 4])
def test_soft_kmax_gradient(backend, k, rng):
    x, g = rng.standard_normal((6, 5)), rng.standard_normal((6, 5))
    wide, wide_g = x.astype(np.longdouble), g.astype(np.longdouble)
    near(backend(kn.soft_kmax, x, k, scale=2.0), kmax(wide, k, 2.0).astype(float))
    want = slopes(lambda v: (wide_g * kmax(v, k, 2.0)).sum(axis=-1), wide, 1e-3)
    got = backend(kn.soft_kmax_vjp, x, g, k, scale=2.0)
    assert np.max(np.abs(got - want)) < 1e-7
    assert np.max(np.abs(got.sum(axis=-1))) < 1e-12


def test_soft_kmax_special_values(backend, dtype):
    x = np.array([[inf, 1, 2], [inf, inf, 2], [nan, 1, 2], [-inf, 1, 2]], dtype)
    same(backend(kn.soft_kmax, x, 1), [[1, 0, 0], [0.5, 0.5, 0], [nan] * 3, [nan] * 3])
    same(backend(kn.soft_kmax, x, 2)[1:], [[1, 1, 0], [nan] * 3, [nan] * 3])
    slope = backend(kn.soft_kmax_vjp, x[:1], np.array([[1, 2, 3]], dtype), 1)
    same(slope, [[0, 0, 0]])
    for shape in ((0,), (3, 0), (0, 3)):
        empty = np.zeros(shape, dtype)
        assert backend(kn.soft_kmax, empty, 2).shape == shape
        assert backend(kn.soft_kmax_vjp, empty, empty, 2).shape == shape


def test_soft_kmax_contract(backend, dtype, rng):
    """Axes, layouts, out, types: as the other functions."""
    x, g = (
        rng.standard_normal((3, 4, 5)).astype(dtype),
        rng.standard_normal((3, 4, 5)).astype(dtype),
    )
    for function, arrays in ((kn.soft_kmax, (x,)), (kn.soft_kmax_vjp, (x, g))):
        want = backend(function, *arrays, 2)
        assert want.dtype == dtype and want.shape == x.shape
        moved = backend(function, *(np.moveaxis(a, -1, 0) for a in arrays), 2, axis=0)
        same(np.moveaxis(moved, 0, -1), want)
        if not backend.on_device:
            out = np.full_like(x, nan)
            assert function(*arrays, 2, out=out, backend=backend.name) is out
            same(out, want)
    near(
        backend(kn.soft_kmax, np.array([200, 0, 100], np.uint8), 2, scale=0.1),
        backend(kn.soft_kmax, np.array([200.0, 0, 100]), 2, scale=0.1),
    )


@pytest.mark.parametrize("function", ["soft_kmax", "soft_kmax_vjp"])
def test_soft_kmax_parameters(backend, function):
    call = getattr(kn, function)
    arrays = ([1.0, 2.0], [1.0, 2.0])[: 1 + function.endswith("vjp")]
    for k in (0, -1):
        with pytest.raises(ValueError, match=f"^{function}: k must be at least 1, got"):
            backend(call, *arrays, k)
    with pytest.raises(TypeError, match=f"^{function}: k must be an int, got"):
        backend(call, *arrays, 1.0)
    for scale in (0, -1.0, inf, nan):
        with pytest.raises(ValueError, match=f"^{function}: scale must be finite and greater"):
            backend(call, *arrays, 1, scale=scale)
