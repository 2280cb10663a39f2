"""The specification's numbers for the elementwise functions, and what is particular to each."""

import math

import mpmath as mp
import numpy as np
import pytest

import kexue_native as kn
import oracle
from cases import BY_ID
from closeness import near, same, slopes
from kexue_native.special.activations import reference

inf, nan = np.inf, np.nan
NAMES = [name for name in kn.special.activations.__all__ if not name.isupper()]
GRADIENTS = [name for name in NAMES if name.endswith("_grad")]


# --- Against high precision, element by element ---


def normal(x):
    return mp.erfc(-x / mp.sqrt(2)) / 2


def density(x):
    return mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi)


def logistic(z):
    return 1 / (1 + mp.exp(-z))


def ramp(z):
    """log(1 + e^z), exact far below 0."""
    return mp.log1p(mp.exp(z)) if z < 0 else z + mp.log1p(mp.exp(-z))


def squareplus(x, b=4):
    h = mp.sqrt(x * x + b)
    return (x + h) / 2 if x > 0 else b / (h - x) / 2


def two_u(x):
    return 2 * mp.sqrt(2 / mp.pi) * (x + mp.mpf(0.044715) * x**3)


def taylor(x, n=2):
    return mp.fsum(x**k / mp.factorial(k) for k in range(n + 1))


EXACT = {
    "squareplus": (squareplus, {"b": (4.0, 0.3, 1e-40, 1e38)}),
    "squareplus_grad": (
        lambda x, b=4: squareplus(x, b) / mp.sqrt(x * x + b),
        {"b": (4.0, 0.3, 1e-40)},
    ),
    "squareplus_grad_b": (lambda x, b=4: 1 / mp.sqrt(x * x + b) / 4, {"b": (4.0, 0.3)}),
    "gelu": (lambda x: x * normal(x), {}),
    "softplus": (lambda x, beta=1: ramp(beta * x) / beta, {"beta": (1.0, 0.7, 1e-30)}),
    "softplus_grad": (lambda x, beta=1: logistic(beta * x), {"beta": (1.0, 0.7)}),
    "silu": (lambda x, beta=1: x * logistic(beta * x), {"beta": (1.0, 0.7, 1e-25, 1e30)}),
    "sigmoid": (logistic, {}),
    "sigmoid_grad": (lambda x: logistic(x) * logistic(-x), {}),
    "log_sigmoid": (lambda x: -ramp(-x), {}),
    "log_sigmoid_grad": (lambda x: logistic(-x), {}),
    "relu_gaussian": (
        lambda x, sigma=1: x * normal(x / sigma) + sigma * density(x / sigma),
        {"sigma": (1.0, 0.7, 1e-30)},
    ),
    "relu_gaussian_grad": (lambda x, sigma=1: normal(x / sigma), {"sigma": (1.0, 0.7)}),
    "smooth_abs": (
        lambda x, k=1: abs(x) + mp.log1p(mp.exp(-2 * k * abs(x))) / k,
        {"k": (1.0, 0.3)},
    ),
    "smooth_abs_grad": (lambda x, k=1: mp.tanh(k * x), {"k": (1.0, 0.3)}),
    "taylor_exp": (taylor, {"n": (2, 10, 20)}),
}


def points(rng, dtype, name):
    """Ordinary numbers, the whole decay, every binade."""
    decay = {"float64": 760.0, "float32": 106.0}.get(oracle.name_of(dtype), 30.0)
    if "gelu" in name or "gauss" in name:
        decay = math.sqrt(2 * decay)
    binades = 30 if dtype != np.float16 else 3
    x = [
        3 * rng.standard_normal(60),
        rng.uniform(-decay, decay, 60),
        10 ** rng.uniform(-binades, binades, 40) * rng.choice([-1, 1], 40),
    ]
    x = np.concatenate(x).astype(dtype)
    return x if not name.startswith("taylor") else x[:60]


@pytest.mark.parametrize("name", EXACT)
def test_high_precision(name, backend, dtype, rng):
    """The stated ULP of the result itself, the far tails included."""
    function, options = EXACT[name]
    case = BY_ID[name]
    for key, value in [(k, v) for k, values in options.items() for v in values] or [(None, None)]:
        given = {} if key is None else {key: value}
        x = points(rng, dtype, name)
        if key == "beta" and value < 1e-10:
            with np.errstate(over="ignore"):
                x = np.concatenate([x, (rng.uniform(-750, 9, 60) / value).astype(dtype)])
            x = x[np.isfinite(x)]
        got = backend(getattr(kn, name), x, **given)
        with mp.workdps(60):
            arguments = {k: v if k == "n" else mp.mpf(v) for k, v in given.items()}
            wanted = [function(mp.mpf(float(v)), **arguments) for v in x]
            pairs = np.array([oracle.split(w) for w in wanted])
        wide = oracle.wide_type(dtype)
        wanted = pairs[:, 0].astype(wide) + pairs[:, 1].astype(wide)
        growth = case.exact({"x": x}, backend.plain, **given)[1][0][1]
        error, where = oracle.worst(got, wanted, dtype, 0, growth)
        assert error <= case.limit(dtype, plain=backend.plain), f"{given}: {x[where]}: {error} ULP"


# --- Special values ---


LIMITS_AT_INFINITY = {  # at -inf and +inf
    "squareplus": (0, inf),
    "squareplus_grad": (0, 1),
    "squareplus_grad_b": (0, 0),
    "gelu": (0, inf),
    "gelu_grad": (0, 1),
    "softplus": (0, inf),
    "softplus_grad": (0, 1),
    "silu": (0, inf),
    "silu_grad": (0, 1),
    "sigmoid": (0, 1),
    "sigmoid_grad": (0, 0),
    "log_sigmoid": (-inf, 0),
    "log_sigmoid_grad": (1, 0),
    "relu_gaussian": (0, inf),
    "relu_gaussian_grad": (0, 1),
    "smooth_abs": (inf, inf),
    "smooth_abs_grad": (-1, 1),
    "smooth_floor": (-inf, inf),
    "smooth_ceil": (-inf, inf),
    "smooth_round": (-inf, inf),
    "smooth_floor_grad": (nan, nan),
    "smooth_ceil_grad": (nan, nan),
    "smooth_round_grad": (nan, nan),
    "taylor_exp": (inf, inf),
    "taylor_exp_grad": (-inf, inf),
}


@pytest.mark.parametrize("name", LIMITS_AT_INFINITY)
def test_limits_at_infinity(name, backend, dtype):
    x = np.array([-inf, inf, nan], dtype)
    for options in BY_ID[name].variants:
        got = backend(getattr(kn, name), x, **options)
        same(got, [*LIMITS_AT_INFINITY[name], nan])
    assert {*LIMITS_AT_INFINITY, "smooth_max2", "smooth_max2_grad"} == set(NAMES)


def test_smooth_max2_special_values(backend, dtype):
    x = np.array([inf, inf, -inf, -inf, inf, nan, 1], dtype)
    y = np.array([inf, -inf, -inf, 2, 0, 0, nan], dtype)
    same(backend(kn.smooth_max2, x, y), [inf, inf, -inf, 2, inf, nan, nan])
    dx, dy = backend(kn.smooth_max2_grad, x, y)
    same(dx, [0.5, 1, 0.5, 0, 1, nan, nan])
    same(dy, [0.5, 0, 0.5, 1, 0, nan, nan])
    near(backend(kn.smooth_max2, np.ones(1, dtype), 1), [2.0], dtype)


def test_square_roots_without_b_are_exact(backend, dtype, rng):
    """b = 0: max(x, 0), its step with 1/2 at 0, |x|, max(x, y)."""
    x = np.array([-1e30, -300, -1, -1e-30, 0, 1e-30, 1, 300, 1e30])
    x = np.concatenate([np.clip(x, -6e4, 6e4), [-1e-7, 2e-7]]).astype(dtype)
    same(backend(kn.squareplus, x, b=0), np.maximum(x, 0))
    same(backend(kn.squareplus_grad, x, b=0), np.where(x == 0, 0.5, x > 0))
    same(backend(kn.smooth_abs, x, method="sqrt", b=0), np.abs(x))
    same(backend(kn.smooth_abs_grad, x, method="sqrt", b=0), np.sign(x))
    same(backend(kn.smooth_max2, x, x[::-1], b=0), np.maximum(x, x[::-1]))


# --- The numbers of the specification, and the plain formulas that fail there ---


def test_squareplus_pitfalls(backend):
    def plain(x):
        with np.errstate(all="ignore"):
            return (x + np.sqrt(x * x + x.dtype.type(4))) / x.dtype.type(2)

    for dtype, x, true in (
        (np.float16, -300.0, 0.00333),
        (np.float32, -1e20, 1e-20),
        (np.float32, -1e4, 1e-4),
        (np.float64, -1e8, 1e-8),
    ):
        x = np.array([x], dtype)
        got = backend(kn.squareplus, x)
        near(got, 1 / np.abs(x.astype(float)) if dtype != np.float16 else [1 / 300.0], dtype)
        assert got == pytest.approx(true, rel=2e-3, abs=0)
        assert not plain(x) == pytest.approx(true, rel=0.1, abs=0), (
            "the plain formula is expected to fail"
        )


def test_squareplus_constants(backend):
    """Curvature of softplus at 0; never below it; nearest to it."""
    assert kn.SQUAREPLUS_CURVATURE == 4
    assert kn.SQUAREPLUS_ABOVE_SOFTPLUS == pytest.approx(1.9218120556728057, rel=1e-15)
    x = np.linspace(-20, 20, 20_001)

    def gap(b):
        return backend(kn.squareplus, x, b=b) - backend(kn.softplus, x)

    assert np.min(gap(kn.SQUAREPLUS_ABOVE_SOFTPLUS)) > -1e-15
    assert np.min(gap(kn.SQUAREPLUS_ABOVE_SOFTPLUS - 1e-6)) < 0
    best = np.max(np.abs(gap(kn.SQUAREPLUS_NEAREST_SOFTPLUS)))
    assert best == pytest.approx(0.07593144993597, rel=1e-6)
    for b in (1.0, 1.51, 1.54, kn.SQUAREPLUS_ABOVE_SOFTPLUS, 4.0):
        assert np.max(np.abs(gap(b))) > best
    assert np.max(np.abs(gap(1.0))) == pytest.approx(0.1931, abs=1e-4)
    second = kn.squareplus_grad([1e-5, -1e-5]) @ [1, -1] / 2e-5
    assert second == pytest.approx(0.25, rel=1e-8)


def test_gelu_pitfalls(backend):
    erf = np.vectorize(math.erf)
    for dtype, x, true in (
        (np.float64, -8.5, -8.06e-17),
        (np.float32, -5.5, -1.04e-7),
        (np.float16, -4.0, -1.27e-4),
    ):
        x = np.array([x], dtype)
        assert backend(kn.gelu, x) == pytest.approx(true, rel=5e-3, abs=0)
        plain = (dtype(0.5) * x * (dtype(1) + erf(x / np.sqrt(dtype(2))).astype(dtype))).astype(
            dtype
        )
        assert not plain == pytest.approx(true, rel=0.1, abs=0), (
            "the plain formula is expected to fail"
        )
    x = np.array([-6.0], np.float32)
    assert backend(kn.gelu, x, approximate="tanh") == pytest.approx(-8.4e-11, rel=5e-3, abs=0)
    u = np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)
    assert np.float32(0.5) * x * (1 + np.tanh(u)) == 0
    with np.errstate(all="ignore"):
        assert np.isnan(0.5 * -inf * (1 + math.erf(-inf)))


def test_gelu_forms_are_close(backend):
    x = np.linspace(-8, 8, 100_001)
    exact = backend(kn.gelu, x)
    for form, bound, place in (("tanh", 4.7323e-4, 2.70), ("sigmoid", 0.020335, 2.27)):
        error = np.abs(backend(kn.gelu, x, approximate=form) - exact)
        assert error.max() == pytest.approx(bound, rel=1e-4)
        assert abs(x[error.argmax()]) == pytest.approx(place, abs=0.01)
    same(backend(kn.gelu, x, approximate="sigmoid"), backend(kn.silu, x, beta=1.702))


def test_softplus_has_no_threshold(backend):
    x = np.array([20.5])
    near(backend(kn.softplus, x), [20.5 + math.log1p(math.exp(-20.5))])
    assert abs(20.5 - backend(kn.softplus, x)[0]) > 1e-9
    near(backend(kn.softplus, [-745.0]), [5e-324])


def test_silu_at_minus_infinity(backend):
    with np.errstate(all="ignore"):
        assert np.isnan(np.float64(-inf) / (1 + np.exp(inf)))
    same(backend(kn.silu, np.array([-inf, -1e300])), [0, 0])


def test_extreme_rates(backend, dtype):
    """Products of x and a far parameter leave the type on the way, not in the result."""
    if oracle.name_of(dtype) not in ("float64", "float32"):
        pytest.skip("16-bit types hold no such x")
    big = float(np.finfo(dtype).max) / 4
    x = np.array([-big, -1, 0, 1, big], dtype)
    z = -float(x[0])
    at = 2.0 ** round(math.log2(1 / z))  # beta x is about 1
    share = 1 / (1 + math.exp(-at * z))
    near(backend(kn.silu, x, beta=at), [-z * (1 - share), -0.5, 0, 0.5, z * share], dtype)
    soft = math.log1p(math.exp(-at * z)) / at
    near(backend(kn.softplus, x, beta=at)[[0, 4]], [soft, z + soft], dtype)
    tiny = 1e-40 if dtype == np.float32 else 1e-300
    same(backend(kn.silu, x, beta=1e200)[[0, 2, 4]], [0, 0, z])
    near(backend(kn.relu_gaussian, x, sigma=tiny), [0, 0, tiny * 0.3989422804014327, 1, z], dtype)


@pytest.mark.parametrize("beta", [1e-305, 4e-306, 2e-308, 5e-324])
def test_rates_at_the_ends_of_the_range(backend, beta):
    x = np.array([-inf, inf])
    for name, limits in (
        ("softplus", [0, inf]),
        ("softplus_grad", [0, 1]),
        ("silu", [0, inf]),
        ("silu_grad", [0, 1]),
    ):
        same(backend(getattr(kn, name), np.array([*x, nan]), beta=beta), [*limits, nan])
    same(backend(kn.smooth_abs, x, beta, method="softplus"), [inf, inf])
    x = np.array([-1.7e308, 1.7e308, 1.5e-323])
    share = math.log1p(math.exp(-beta * 1.7e308))
    near(backend(kn.softplus, x[:1], beta=beta), [share / beta])
    near(
        backend(kn.silu, x, beta=beta),
        x * np.exp(np.minimum(beta * x, 0)) / (1 + np.exp(-beta * abs(x))),
    )


def test_smooth_abs_methods(backend):
    x = np.array([-3.0, -0.1, 0.0, 2.0])
    k = 1.5
    near(backend(kn.smooth_abs, x, k), np.log(np.exp(k * x) + np.exp(-k * x)) / k)
    two = np.log(2 + np.exp(k * x) + np.exp(-k * x)) / k
    near(backend(kn.smooth_abs, x, k, method="softplus"), two)
    near(backend(kn.smooth_abs, x, k, method="sqrt"), np.sqrt(x**2 + 1 / k**2))
    near(backend(kn.smooth_abs, x, method="sqrt", b=3.0), np.sqrt(x**2 + 3))
    near(backend(kn.smooth_abs_grad, x, k), np.tanh(k * x))
    near(backend(kn.smooth_abs_grad, x, k, method="softplus"), np.tanh(k * x / 2))
    near(backend(kn.smooth_abs_grad, x, method="sqrt", b=3.0), x / np.sqrt(x**2 + 3))


def test_wrong_parameters(backend):
    for call, kind, words in (
        (
            lambda: kn.squareplus(1.0, -1.0),
            ValueError,
            "squareplus: b must be finite and at least 0",
        ),
        (lambda: kn.smooth_max2(1.0, 2.0, nan), ValueError, "smooth_max2: b must be finite"),
        (lambda: kn.softplus(1.0, 0.0), ValueError, "softplus: beta must be finite and greater"),
        (lambda: kn.silu(1.0, "1"), TypeError, "silu: beta must be a real number"),
        (lambda: kn.relu_gaussian(1.0, -1.0), ValueError, "relu_gaussian: sigma must be finite"),
        (
            lambda: kn.smooth_floor(1.0, 0.0),
            ValueError,
            "smooth_floor: t must be finite and greater",
        ),
        (
            lambda: kn.gelu(1.0, approximate="erf"),
            ValueError,
            'gelu: approximate must be "none" or',
        ),
        (lambda: kn.gelu_grad(1.0, approximate=None), TypeError, "gelu_grad: approximate must be"),
        (
            lambda: kn.smooth_abs(1.0, method="abs"),
            ValueError,
            'smooth_abs: method must be "log2cosh" or',
        ),
        (lambda: kn.smooth_abs(1.0, b=1.0), ValueError, "smooth_abs: b must come with method"),
        (lambda: kn.smooth_abs(1.0, 0.0), ValueError, "smooth_abs: k must be finite and greater"),
        (lambda: kn.taylor_exp(1.0, 3), ValueError, r"taylor_exp: n must be even"),
        (lambda: kn.taylor_exp(1.0, 0), ValueError, r"taylor_exp: n must be even"),
        (lambda: kn.taylor_exp(1.0, 2.0), TypeError, "taylor_exp: n must be an int"),
    ):
        with pytest.raises(kind, match=f"^{words}"):
            call()


# --- Stairs ---


@pytest.mark.parametrize("t", [0.5, 3.9, 4.0, 10.0, 11.9, 12.0, 40.0, 89.0, 91.0, 2000.0])
def test_stairs(backend, t, rng):
    """S(x + 1) = S(x) + 1, S(-x) = -1 - S(x), S(m) = m - 1/2; ceil and round are moved floors."""
    x = np.round(rng.uniform(-3, 3, 200) * 2**20) / 2**20
    s = backend(kn.smooth_floor, x, t)
    tolerance = {"rtol": 0, "atol": 1e-15 * 4}
    np.testing.assert_allclose(backend(kn.smooth_floor, x + 1, t), s + 1, **tolerance)
    np.testing.assert_allclose(backend(kn.smooth_floor, -x, t), -1 - s, **tolerance)
    np.testing.assert_allclose(backend(kn.smooth_ceil, x, t), s + 1, **tolerance)
    moved = backend(kn.smooth_floor, x + 0.5, t)
    np.testing.assert_allclose(backend(kn.smooth_round, x, t), moved, **tolerance)
    m = np.array([-7.0, 0.0, 1.0, 1e6, 2.0**51 + 1, 2.0**53, -1e300])
    same(backend(kn.smooth_floor, m, t), m - 0.5)
    np.testing.assert_allclose(backend(kn.smooth_round, m, t), m, rtol=0, atol=1e-15)
    with mp.workdps(40):
        wanted = [float(stairs(mp.mpf(float(v)), mp.mpf(t))) for v in x[:40]]
    np.testing.assert_allclose(s[:40], wanted, rtol=0, atol=3e-15)


def stairs(x, t):
    """The series, far beyond where its terms vanish."""
    reach = int(100 / t) + 5
    down = mp.fsum(-logistic(-t * (x - n)) for n in range(-reach, 1))
    return down + mp.fsum(logistic(t * (x - n)) for n in range(1, reach))


def test_stairs_saturate_where_the_article_truncates(backend):
    """A series cut at 5 steps stays at 5; the whole one goes on."""
    x = 20.5
    cut = sum(1 / (1 + math.exp(-10 * (x - n))) for n in range(1, 6))
    assert cut == pytest.approx(5)
    near(backend(kn.smooth_floor, [x]), [20.0])


# --- Taylor ---


def test_taylor_pitfalls(backend):
    x = np.float32(-12)

    def horner(n):
        f = np.float32(1)
        for k in range(n, 0, -1):
            f = 1 + x * f / np.float32(k)
        return f

    exact = {
        n: float(sum((-12.0) ** k / math.factorial(k) for k in range(n + 1))) for n in (10, 20)
    }
    exact[40] = 1.0240118505939952e-05
    for n, true in exact.items():
        near(backend(kn.taylor_exp, np.array([x]), n), [true], np.float32)
        near(backend(kn.taylor_exp, np.array([float(x)]), n), [true], scale=2 * true)
    assert horner(40) < 0, "the plain formula is expected to fail"


def test_taylor_exp_is_positive_with_the_minimum_of_the_article(backend):
    for n, place, least in (
        (2, -1.0, 0.5),
        (4, -1.5960716379833215, 0.27039476520518461),
        (6, -2.1806071240351259, 0.14932484173105119),
        (8, -2.7590027099622719, 0.083271520164068879),
        (10, -3.3335514852690488, 0.046699113590276231),
    ):
        near(backend(kn.taylor_exp, np.array([place]), n), [least], scale=least)
        terms = backend(kn.taylor_exp, np.array([-place]), n)
        assert abs(backend(kn.taylor_exp_grad, np.array([place]), n)) <= 3e-15 * terms
        x = np.linspace(-60, 60, 999)
        assert np.all(backend(kn.taylor_exp, x, n) >= least)


@pytest.mark.parametrize("n", [2, 4, 20, 32, 64])
def test_taylor_exp_is_the_sum(backend, n, rng):
    """Relative to the terms' sum, which is the value itself for x > 0."""
    x = np.concatenate([rng.uniform(-1.5 * n, 1.5 * n, 40), [0.0, -1.0, 1.0]])
    with mp.workdps(120):
        value = [float(taylor(mp.mpf(float(v)), n)) for v in x]
        slope = [float(taylor(mp.mpf(float(v)), n - 1)) for v in x]
        terms = [float(taylor(abs(mp.mpf(float(v))), n)) for v in x]
    got = backend(kn.taylor_exp, x, n)
    np.testing.assert_allclose(got, value, rtol=3e-13)
    error = np.abs(backend(kn.taylor_exp_grad, x, n) - slope)
    assert np.all(error <= 3e-13 * np.asarray(terms))


def test_taylor_exp_overflows_last(backend):
    """(1e16)^20 is beyond float64, a twentieth of its power is not."""
    x = np.array([1e16, -1e16])
    near(backend(kn.taylor_exp, x, 20), np.exp(20 * np.log(1e16) - math.lgamma(21)), scale=1e304)


# --- Gradients, symmetries, smooth limits ---


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient(name, backend, rng):
    """Against finite differences of the reference in long double."""
    if not oracle.HAS_WIDE:
        pytest.skip("long double is no wider than float64 here")
    case, base = BY_ID[name], BY_ID[name.removesuffix("_grad")]
    for options in case.variants:
        if options.get("b") in (0.0, 1e-40) or options.get("t", 1) > 100:
            continue  # a kink, or nearly one
        arrays = case.make(rng, (20,))
        got = backend.call(case, arrays, **options)
        got = got if isinstance(got, tuple) else (got,)
        for g, argument in zip(got, case.arrays, strict=True):
            x = arrays[argument].astype(np.longdouble)[:, None]

            def value(v, argument=argument, options=options, arrays=arrays):
                inputs = {k: a.astype(np.longdouble) for k, a in arrays.items()}
                inputs[argument] = v[..., 0]
                kernel, given, parameters = base.lower({**inputs, **options})
                return kernel(*given, *parameters)

            wanted = slopes(value, x, 1e-4)[:, 0]
            np.testing.assert_allclose(g, wanted, rtol=1e-9, atol=1e-9, err_msg=f"{options}")


def test_gradient_by_b(backend, rng):
    x = rng.standard_normal(50)
    step = 1e-5
    up, down = (backend(kn.squareplus, x, b=2.0 + s) for s in (step, -step))
    np.testing.assert_allclose(
        backend(kn.squareplus_grad_b, x, b=2.0), (up - down) / 2 / step, 1e-8
    )


@pytest.mark.parametrize("name", ["squareplus", "gelu", "softplus", "silu", "relu_gaussian"])
def test_ramps_are_odd_up_to_x(name, backend, rng):
    """f(x) - f(-x) = x, and f'(x) + f'(-x) = 1."""
    x = 4 * rng.standard_normal(300)
    f, slope = getattr(kn, name), getattr(kn, f"{name}_grad")
    np.testing.assert_allclose(backend(f, x) - backend(f, -x), x, rtol=0, atol=1e-14)
    np.testing.assert_allclose(backend(slope, x) + backend(slope, -x), 1, rtol=0, atol=1e-14)


def test_reference_of_the_normal_tail():
    """erfcx by quadrature against mpmath, in float64 and the wide type."""
    t = np.concatenate([np.linspace(0, 12, 200), [20, 38.0]])
    with mp.workdps(40):
        wanted = [
            mp.erfc(mp.mpf(float(v)) / mp.sqrt(2)) * mp.exp(mp.mpf(float(v)) ** 2 / 2) / 2
            for v in t
        ]
    for dtype, bound in (
        (np.float64, 1e-15),
        (np.longdouble, 2.0**-60 if oracle.HAS_WIDE else 1e-15),
    ):
        share, _ = reference._normal_tail(t.astype(dtype))
        for v, w in zip(share, wanted, strict=True):
            high, low = oracle.split(w)
            assert abs((v - dtype(high)) - dtype(low)) <= bound * high


# --- Loops: sizes, strides, streams ---


@pytest.mark.parametrize("size", [1, 7, 8, 16, 17, 1023, 1024, 1025, 40_000, 100_003])
def test_sizes(size, backend, dtype, rng):
    if backend.rows < 1:
        size = min(size, 1025)
    x = rng.standard_normal(size).astype(dtype)
    got = backend(kn.silu, x)
    for cut in (slice(None, None, 2), slice(None, None, -1), slice(3, None)):
        same(backend(kn.silu, x[cut]), got[cut])
    same(backend(kn.silu, np.broadcast_to(x[:1], (3, size))), np.broadcast_to(got[:1], (3, size)))


def test_large_results_go_past_the_caches(backend, rng):
    """Beyond the size from which stores stream: every element is written, at any alignment."""
    if backend.rows < 1 or backend.on_device:
        pytest.skip("the CPU's loops")
    n = 6_600_000
    x = rng.standard_normal(n + 3).astype(np.float32)
    want = np.concatenate([backend(kn.silu, part) for part in np.array_split(x, 8)])
    for offset in (0, 1, 3):
        out = np.full(n + 3, nan, np.float32)[offset : n + offset]
        backend(kn.silu, x[:n], out=out)
        same(out, want[:n])
    dx, dy = backend(kn.smooth_max2_grad, x[:n], x[1 : n + 1])
    same(dx[:1000], backend(kn.smooth_max2_grad, x[:1000], x[1:1001])[0])
    same(dy[-1000:], backend(kn.smooth_max2_grad, x[n - 1000 : n], x[n - 999 : n + 1])[1])


def test_broadcasting_of_two_arrays(backend, rng):
    x, y = rng.standard_normal((5, 1, 7)), rng.standard_normal((3, 1))
    got = backend(kn.smooth_max2, x, y)
    assert got.shape == (5, 3, 7)
    same(
        got, backend(kn.smooth_max2, *(np.ascontiguousarray(a) for a in np.broadcast_arrays(x, y)))
    )
    same(backend(kn.smooth_max2, 1.5, y), backend(kn.smooth_max2, np.full((3, 1), 1.5), y))
    out = x.copy()
    same(backend(kn.smooth_max2, out, 0.5, out=out), backend(kn.smooth_max2, x, 0.5))
