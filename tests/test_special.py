"""Special values and pitfalls of the specification, and what is particular to each function."""

import math

import numpy as np
import pytest

import kexue_native as kn
import oracle

inf, nan = np.inf, np.nan


def same(got, want):
    """Equal numbers, nan with nan, -inf with -inf; the sign of zero does not matter."""
    np.testing.assert_array_equal(np.asarray(got, float), np.asarray(want, float))


def near(got, want, dtype=np.float64, times=1.0):
    """Within the tolerance of the specification, relative to `times` the value."""
    tolerance = {"float64": 2e-13, "float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    bound = tolerance[oracle.name_of(dtype)] * np.abs(want) * times
    assert np.all(np.abs(got - want) <= bound), f"got {got}, want {want}"


# --- logsumexp ---


def test_logsumexp_special_values(backend, dtype):
    rows = np.array(
        [
            [1, 2, inf],
            [-inf, -inf, -inf],
            [inf, -inf, 0],
            [nan, 1, 2],
            [nan, inf, 0],
            [inf, inf, 1],
        ],
        dtype,
    )
    same(backend(kn.logsumexp, rows, axis=1).astype(float), [inf, -inf, inf, nan, nan, inf])


def test_logsumexp_empty(backend, dtype):
    same(backend(kn.logsumexp, np.zeros(0, dtype)), -inf)
    same(backend(kn.logsumexp, np.zeros((3, 0), dtype)), -inf)  # SciPy 1.17: IndexError
    same(backend(kn.logsumexp, np.zeros((3, 0), dtype), axis=1), [-inf] * 3)
    assert backend(kn.logsumexp, np.zeros((3, 0), dtype), axis=0).shape == (0,)
    value, sign = backend(kn.logsumexp, np.zeros(0, dtype), b=np.ones(0, dtype), return_sign=True)
    same([value, sign], [-inf, 0])  # SciPy 1.17: sign -1
    value, sign = backend(kn.logsumexp, np.zeros(0, dtype), return_sign=True)
    same([value, sign], [-inf, 0])


@pytest.mark.parametrize(
    ("a", "b", "value", "sign"),
    [
        ([inf], [-1], inf, -1),
        ([inf, 0], [1, 1], inf, 1),
        ([inf, 0], [-2, 3], inf, -1),
        ([inf, inf], [1, -1], nan, nan),
        ([inf, inf, 0], [1, 2, -1], inf, 1),
        ([-inf, -inf], [1, -1], -inf, 0),
        ([0, 0], [1, -1], -inf, 0),
        ([0, 0], [1, -2], 0.0, -1),
        ([inf, 0], [0, 1], 0.0, 1),  # dropped before it is looked at
        ([nan, 0], [0, 1], 0.0, 1),
        ([inf, nan], [0, 0], -inf, 0),
        ([0, 1], [inf, 1], inf, 1),
        ([0, 1], [-inf, 1], inf, -1),
        ([-inf, 1], [inf, 1], nan, nan),  # 0 times infinity
        ([0, 1], [inf, -inf], nan, nan),
        ([0, 1], [nan, 1], nan, nan),
        ([0, nan], [1, 1], nan, nan),
        ([2], [0], -inf, 0),
    ],
)
def test_logsumexp_signed_special_values(backend, dtype, a, b, value, sign):
    a, b = np.array([a], dtype), np.array([b], dtype)
    got = backend(kn.logsumexp, a, b=b, axis=1, return_sign=True)
    assert type(got) is tuple and len(got) == 2
    same(np.array(got, float)[:, 0], [value, sign])
    unsigned = nan if sign == -1 else value
    same(backend(kn.logsumexp, a, b=b, axis=1).astype(float), [unsigned])


def test_logsumexp_return_sign_without_weights(backend, dtype):
    a = np.array([[1.0, 2.0], [-inf, -inf], [nan, 0], [inf, 0]], dtype)
    value, sign = backend(kn.logsumexp, a, axis=1, return_sign=True)
    same(value.astype(float), backend(kn.logsumexp, a, axis=1).astype(float))
    same(sign.astype(float), [1, 0, nan, 1])


def test_logsumexp_shift_uses_weights(backend):
    """The largest term, not the largest a, sets the shift."""
    b = np.array([1e-300, 1e300])
    for a, true in (([1000.0, 0.0], 690.7755278982137), ([0.0, -800.0], -109.22447210178632)):
        a = np.array(a)
        near(backend(kn.logsumexp, a, b=b), true, times=0.1)
        plain = oracle.plain_logsumexp(a, b)
        assert not abs(plain - true) < 1, "the plain formula is expected to fail here"


def test_logsumexp_weight_beyond_exponent_range(backend):
    # b_i / b_k and exp(a_i - a_k) leave the range, their product does not: 2 e^800 in both.
    a = np.array([1490.0, 800.0])
    b = np.array([2 * math.exp(-345.0) * math.exp(-345.0), 2.0])
    near(backend(kn.logsumexp, a, b=b), 800 + math.log(4), times=1)
    a, b = np.array([-700.0, 700.0]), np.array([1e308, 1e-308])
    with oracle.working_precision(oracle.to_mp(a)):
        true = float(oracle.exact_logsumexp_weighted(oracle.to_mp(a), oracle.to_mp(b))[0])
    near(true, 9.196208652452738, times=0.01)
    near(backend(kn.logsumexp, a, b=b), true)
    value, sign = backend(kn.logsumexp, a, b=-b, return_sign=True)
    near(value, true)
    assert sign == -1


@pytest.mark.parametrize("n", [2, 40, 5000])
@pytest.mark.parametrize("far", [1e17, 1e20, -1e20, -1e300])
def test_logsumexp_weights_that_large_terms_hide(backend, far, n):
    """a + log b is a for all b: the largest b has to lead nevertheless, wherever it stands."""
    b = np.full(n, 5e-324)
    a = np.full(n, far)
    for place in (0, n // 2, n - 1):
        b[place] = 1e300
        p = backend(kn.logsumexp_vjp, a, 1.0, b=b)
        np.testing.assert_array_equal(p > 0.5, np.arange(n) == place)
        for sign in (1, -1):
            value, side = backend(kn.logsumexp, a, b=sign * b, return_sign=True)
            near(value, far + 690.7755278982137, times=1)
            assert side == sign
        same(backend(kn.logsumexp, np.stack([a, a], 1), axis=0, b=b[:, None]), [value, value])
        b[place] = 5e-324


def test_logsumexp_weight_cancels_exponent(backend):
    """a + log b is tiny although both are large; error bound of the specification."""
    a = np.array([[690.0], [-690.0], [36.0], [-36.04365338911715]])
    b = np.exp(-a)
    value = backend(kn.logsumexp, a, b=b, axis=1)
    for x, w, got in zip(a[:, 0], b[:, 0], value, strict=True):
        with oracle.working_precision([x]):
            exact = float(oracle.exact_logsumexp_weighted([oracle.mpf(x)], [oracle.mpf(w)])[0])
        # 8u(|a_k + log|b_k|| + |result|) + 4u
        assert abs(got - exact) <= (16 * abs(exact) + 4) * 2.0**-53


def test_logsumexp_float16_sum_exceeds_range(backend):
    a = np.zeros(70000, np.float16)
    near(backend(kn.logsumexp, a), math.log(70000), np.float16)
    assert backend(kn.logsumexp, a) == np.float16(11.156)
    assert oracle.plain_logsumexp(a) == inf


def test_logsumexp_keeps_small_results(backend):
    """log1p of the rest, not log of 1 + rest."""
    a = np.array([0.0, -40.0])
    near(backend(kn.logsumexp, a), math.exp(-40))  # 4.2e-18
    assert oracle.plain_logsumexp(a) == 0.0  # scipy#18295
    near(backend(kn.logsumexp, np.array([0, -20], np.float32)), math.exp(-20), np.float32)


def test_logsumexp_b_may_enlarge_a(backend, rng):
    a, b = rng.standard_normal((3, 1)), rng.random((2, 1, 4)) + 0.1
    full = np.broadcast_to(a, (2, 3, 4))
    for axis in (None, -1, 0, (0, 2)):
        want = np.log(np.sum(b * np.exp(full), axis=axis))
        got = backend(kn.logsumexp, a, b=b, axis=axis)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-14 * 4)  # values below 4
    assert backend(kn.logsumexp, a, b=b, keepdims=True).shape == (1, 1, 1)


def test_logsumexp_scipy_positional(rng):
    """SciPy's order of arguments: a, axis, b, keepdims, return_sign."""
    special = pytest.importorskip("scipy.special")
    a, b = rng.standard_normal((4, 5)), rng.standard_normal((4, 5))
    for arguments in [
        (a,),
        (a, 1),
        (a, 0, np.abs(b)),
        (a, 1, np.abs(b), True),
        (a, 1, b, True, True),
    ]:
        want = special.logsumexp(*arguments)
        # Values are below 8, sums of 5 terms; where signs cancel the loss is the same for both.
        np.testing.assert_allclose(kn.logsumexp(*arguments), want, rtol=0, atol=1e-13)


def test_logsumexp_vjp_special_values(backend, dtype):
    a = np.array([[-inf, -inf], [inf, 0], [inf, inf], [nan, 0], [0, -inf]], dtype)
    g = np.full(5, 2.0, dtype)
    got = backend(kn.logsumexp_vjp, a, g, axis=1).astype(float)
    same(got, [[0, 0], [2, 0], [1, 1], [nan, nan], [2, 0]])


def test_logsumexp_vjp_weights(backend, rng):
    a, b = rng.standard_normal((3, 4)), rng.standard_normal((3, 4))
    g = rng.standard_normal(3)
    e = b * np.exp(a)
    want = g[:, None] * e / e.sum(axis=1, keepdims=True)
    scale = (
        np.abs(g)[:, None]
        * np.abs(e)
        * np.abs(e).sum(1, keepdims=True)
        / e.sum(1, keepdims=True) ** 2
    )
    got = backend(kn.logsumexp_vjp, a, g, axis=1, b=b)
    assert np.all(np.abs(got - want) <= 2e-13 * scale)
    zero = backend(kn.logsumexp_vjp, np.array([inf, 1.0]), 1.0, b=np.array([0.0, 3.0]))
    same(zero, [0, 1])


def test_infinite_terms_share_in_proportion(backend, dtype):
    """Several +inf share the mass in proportion to their coefficients."""
    a, w = np.array([inf, 5, inf], dtype), np.array([1, 2, 3], dtype)
    one = np.asarray(1, dtype)
    for function, key in ((kn.logsumexp_vjp, "b"), (kn.logmeanexp_vjp, "weights")):
        same(backend(function, a, one, **{key: w}).astype(float), [0.25, 0, 0.75])
        same(backend(function, a, one).astype(float), [0.5, 0, 0.5])
    # An infinite weight outweighs every finite one; infinite terms of both signs have no limit.
    b = np.array([inf, 1, -2], dtype)
    same(backend(kn.logsumexp_vjp, np.zeros(3, dtype), one, b=b).astype(float), [1, 0, 0])
    a = np.array([[inf, 5, inf, 0, nan]], dtype)
    b = np.array([[1, 1, -2, 0, 1]], dtype)
    mask = np.array([[True, True, True, True, False]])
    got = backend(kn.logsumexp_vjp, a, np.ones(1, dtype), axis=1, b=b, mask=mask).astype(float)
    same(got, [[nan, nan, nan, 0, 0]])


# --- logmeanexp ---


def test_logmeanexp_special_values(backend, dtype):
    rows = np.array([[-inf, -inf], [inf, 0], [nan, 0], [3, 3], [0, -inf]], dtype)
    got = backend(kn.logmeanexp, rows, axis=1).astype(float)
    same(got[:4], [-inf, inf, nan, 3])
    near(got[4], -math.log(2), dtype)
    same(float(backend(kn.logmeanexp, np.zeros(0, dtype))), nan)
    same(backend(kn.logmeanexp, np.zeros((2, 0), dtype), axis=1), [nan, nan])


def test_logmeanexp_equal_inputs_are_exact(backend, dtype, rng):
    value = (10 * rng.standard_normal(6)).astype(dtype)
    for n in (1, 2, 3, 7, 10, 100, 1000, 4099):
        rows = np.repeat(value[:, None], n, axis=1)
        same(backend(kn.logmeanexp, rows, axis=1).astype(float), value.astype(float))


def test_logmeanexp_small_values(backend):
    a = np.array([1e-12, -1e-12, 3e-13])
    near(backend(kn.logmeanexp, a), 1.0000000000034e-13, times=10)  # magnitude: the largest |a|
    assert abs(oracle.plain_logmeanexp(a) / 1.0000000000034e-13 - 1) > 1e-5  # noise of 1e-16


def test_logmeanexp_weights(backend, rng):
    a, w = rng.standard_normal((3, 5)), rng.random((3, 5))
    want = np.log(np.sum(w * np.exp(a), axis=1) / np.sum(w, axis=1))
    got = backend(kn.logmeanexp, a, axis=1, weights=w)
    assert np.all(np.abs(got - want) <= 2e-13 * np.abs(a).max(axis=1))
    same(backend(kn.logmeanexp, [1.0, 2.0], weights=[0.0, 0.0]), nan)
    same(backend(kn.logmeanexp, [inf, 2.0], weights=[0.0, 3.0]), 2.0)
    same(backend(kn.logmeanexp, [nan, 2.0], weights=[0.0, 3.0]), 2.0)
    # A weighted mean does not depend on the scale of the weights, far out either.
    for factor in (1e-300, 1e300):
        got = backend(kn.logmeanexp, a, axis=1, weights=w * factor)
        assert np.all(np.abs(got - want) <= 2e-13 * np.abs(a).max(axis=1))


def test_logmeanexp_vjp_weights_of_zero(backend, dtype):
    """0 where the slice is nan because of a, nan where the weights themselves have no mean."""
    a = np.array([[nan, 1, 2], [-inf, -inf, nan], [1, 1, 2], [1, 1, 2]], dtype)
    w = np.array([[1, 0, 3], [1, 2, 0], [0, 0, 0], [nan, 0, 1]], dtype)
    got = backend(kn.logmeanexp_vjp, a, np.ones(4, dtype), axis=1, weights=w).astype(float)
    same(got, [[nan, 0, nan], [0, 0, 0], [nan] * 3, [nan] * 3])


def test_logmeanexp_negative_weight(backend):
    a, w = np.zeros((2, 2)), np.array([[1.0, 1.0], [1.0, -1.0]])
    for function, arguments in ((kn.logmeanexp, (a,)), (kn.logmeanexp_vjp, (a, np.ones(2)))):
        if backend.name == "cuda":  # a device is not waited for: the row is nan
            got = backend(function, *arguments, axis=1, weights=w)
            assert np.all(np.isnan(got[1])) and not np.any(np.isnan(got[0]))
            got = backend(function, *arguments, axis=1, weights=np.array([[0.0, 1], [0, -1]]))
            assert np.all(np.isnan(got[1])) and not np.any(np.isnan(got[0]))
        else:
            with pytest.raises(ValueError, match=rf"^{function.__name__}: weights must"):
                backend(function, *arguments, axis=1, weights=w)


# --- softmax, log_softmax ---


def test_softmax_special_values(backend, dtype):
    rows = np.array(
        [[1, inf, 2], [inf, 0, inf], [-inf] * 3, [nan, 0, 1], [0, -inf, 0], [inf] * 3], dtype
    )
    third = float(np.asarray(1 / 3, dtype))
    want = [[0, 1, 0], [0.5, 0, 0.5], [nan] * 3, [nan] * 3, [0.5, 0, 0.5], [third] * 3]
    same(backend(kn.softmax, rows, axis=1).astype(float), want)
    assert np.any(np.isnan(oracle.plain_softmax(np.array([1, inf, 2]))))  # scipy#23225


def test_log_softmax_special_values(backend, dtype):
    rows = np.array([[1, inf, 2], [inf, 0, inf], [-inf] * 3, [nan, 0, 1], [0, -inf, 0]], dtype)
    half = float(np.asarray(-math.log(2), dtype))
    want = [[-inf, 0, -inf], [half, -inf, half], [nan] * 3, [nan] * 3, [half, -inf, half]]
    same(backend(kn.log_softmax, rows, axis=1).astype(float), want)


def test_softmax_masked_rows(backend, dtype):
    x = np.array([[nan, inf, -inf], [1, nan, 1], [inf, 5, 2], [-inf, 0, 0]], dtype)
    mask = np.array([[0, 0, 0], [1, 0, 1], [0, 1, 0], [1, 0, 0]], bool)
    half = float(np.asarray(-math.log(2), dtype))
    want = [[0, 0, 0], [0.5, 0, 0.5], [0, 1, 0], [nan, 0, 0]]
    same(backend(kn.softmax, x, axis=1, mask=mask).astype(float), want)
    want = [[-inf] * 3, [half, -inf, half], [-inf, 0, -inf], [nan, -inf, -inf]]
    same(backend(kn.log_softmax, x, axis=1, mask=mask).astype(float), want)


def test_log_softmax_winner_keeps_relative_accuracy(backend):
    x = np.array([20, 0], np.float32)
    near(backend(kn.log_softmax, x)[0], -2.0611536181902037e-09, np.float32)
    assert oracle.plain_log_softmax(x)[0] == 0  # scipy#19521, pytorch#113708
    x = np.array([0.0, -40.0])
    near(backend(kn.log_softmax, x)[0], -4.248354255291589e-18)
    assert oracle.plain_log_softmax(x)[0] == 0


def test_softmax_integers_do_not_wrap(backend):
    got = backend(kn.log_softmax, np.array([0, 100], np.uint8))
    assert got.dtype == np.float64
    near(got, [-100, -3.720075976020836e-44])
    near(backend(kn.softmax, np.array([-100, 100], np.int8)), [1.3838965267367376e-87, 1])
    # In the integer type the difference to the maximum wraps around.
    x = np.array([0, 100], np.uint8)
    assert (x - x.max())[0] == 156


def test_softmax_long_float16_rows(backend):
    x = np.zeros(70000, np.float16)
    got = backend(kn.softmax, x)
    assert np.all(got == np.float16(1 / 70000)) and got[0] > 0
    assert np.all(oracle.plain_softmax(x) == 0)


def test_softmax_sums_to_one(backend, dtype, rng):
    n = 1000
    p = backend(kn.softmax, (5 * rng.standard_normal((20, n))).astype(dtype), axis=1)
    total = p.astype(np.float64).sum(axis=1)
    assert np.all(np.abs(total - 1) <= n * oracle.unit_roundoff(dtype))


def test_softmax_vjp_saturated_winner(backend):
    """The winner's component is -p_w sum p_k h_k; plain p(g - p.g) cancels to nothing."""
    x, g = np.array([0.0, -50.0]), np.array([1.0, 3.0])
    got = backend(kn.softmax_vjp, x, g)
    tiny = math.exp(-50)
    near(got, [-2 * tiny, 2 * tiny])
    p = oracle.plain_softmax(x)
    assert (p * (g - p @ g))[0] == 0


def test_softmax_vjp_scale_does_not_overflow(backend):
    """scale * (x - max), never scale * x first."""
    x, g = np.array([1e300, 1e300, 0.0]), np.array([1.0, 2.0, 5.0])
    got = backend(kn.softmax_vjp, x, g, scale=1e10)
    near(got, [-2.5e9, 2.5e9, 0])
    same(backend(kn.softmax_vjp, np.array([0.0, -inf]), np.array([1.0, 2.0]), scale=0.0), [0, 0])


@pytest.mark.parametrize("scale", [1e308, -1e308, 1e300, 3e38])
def test_any_finite_scale_gives_the_limit(backend, dtype, scale):
    """scale may exceed the range of the type of x by far; ties share, all others are gone."""
    sign = math.copysign(1, scale)
    x = (sign * np.array([[1, 2, 2], [1e4, 2, 1], [-inf, 1, 0.5]])).astype(dtype)
    g = np.array([[1, 2, 5], [1, 2, 5], [1, 2, 5]], dtype)
    half = float(np.asarray(0.75, dtype)) * scale
    limit = np.array([[0, -half, half], [0, 0, 0], [0, 0, 0]])
    with np.errstate(over="ignore"):
        limit = limit.astype(dtype).astype(float)
    same(backend(kn.softmax_vjp, x, g, axis=1, scale=scale).astype(float), limit)
    two = float(np.asarray(math.log(2), dtype))
    same(backend(kn.softmax_entropy, x, scale=scale).astype(float), [two, 0, 0])
    if dtype == np.float64:  # the rounding error of x - max, times scale, leaves the range as well
        x, g = np.array([sign * 1e17, 1, 3]), np.array([1.0, 2, 5])
        same(backend(kn.softmax_vjp, x, g, scale=scale), [0, 0, 0])


@pytest.mark.parametrize("scale", [1e308, -1e308])
def test_softmax_entropy_vjp_any_finite_scale(backend, dtype, scale):
    """g scale may leave the range of the type; times 0 it is still 0."""
    x = (math.copysign(1, scale) * np.array([[1, 2, 2], [1e4, 2, 1], [-inf, 1, 0.5]])).astype(dtype)
    got = backend(kn.softmax_entropy_vjp, x, np.full(3, 10, dtype), scale=scale).astype(float)
    same(got, np.zeros((3, 3)))


def test_scale_of_minus_zero_is_zero(backend, dtype):
    """-0 times x does not turn the order round, which infinities would show."""
    g, one = np.array([1, 2, 5, 3], dtype), np.asarray(1, dtype)
    for values, count in (([inf, 2, -inf, inf], 2), ([1, 2, -inf, 4], 3)):
        x = np.array(values, dtype)
        for scale in (0.0, -0.0):
            near(backend(kn.softmax_entropy, x, scale=scale), math.log(count), dtype)
            same(backend(kn.softmax_vjp, x, g, scale=scale).astype(float), [0] * 4)
            same(backend(kn.softmax_entropy_vjp, x, one, scale=scale).astype(float), [0] * 4)
    # kappa log(1) / dim is -0 for a negative kappa
    x, mask = np.array([inf, 2, 3], dtype), np.array([True, False, False])
    got = backend(kn.entropy_invariant_softmax, x, mask=mask, dim=4, kappa=-1.0)
    same(got.astype(float), [1, 0, 0])


def test_softmax_vjp_special_values(backend, dtype):
    x = np.array([[inf, 0, 0], [inf, inf, 0], [nan, 0, 0]], dtype)
    g = np.array([[1, 2, 3], [1, 3, 7], [1, 2, 3]], dtype)
    got = backend(kn.softmax_vjp, x, g, axis=1).astype(float)
    same(got, [[0, 0, 0], [-0.5, 0.5, 0], [nan] * 3])


def test_log_softmax_vjp_winner(backend):
    x, g = np.array([0.0, -50.0]), np.array([1.0, 0.0])
    tiny = math.exp(-50)
    got = backend(kn.log_softmax_vjp, x, g)
    near(got, [tiny, -tiny])
    p = oracle.plain_softmax(x)
    assert (g - p * g.sum())[0] == 0


INFINITE_COTANGENTS = [
    ([1, inf, inf], [-inf, nan, nan]),  # the others: (1 - p) inf - p inf
    ([-inf, 1, -inf], [nan, inf, nan]),
    ([inf, inf, 0], [nan, nan, -inf]),
    ([inf, 1, 0], [inf, -inf, -inf]),
    ([1, inf, 0], [-inf, inf, -inf]),
    ([1, 0, -inf], [inf, inf, -inf]),
    ([inf, -inf, 0], [inf, -inf, nan]),
    ([nan, inf, 0], [nan, nan, nan]),
]


@pytest.mark.parametrize(("g", "want"), INFINITE_COTANGENTS, ids=str)
def test_log_softmax_vjp_infinite_cotangent(backend, dtype, g, want):
    """The limit of g_i - p_i sum g, nan only where it is not unique; the first entry wins."""
    mask = np.array([True, True, True, False])
    for x in ([2, 1, 0, 0], [0.5, 0, 0.25, 0]):  # its probability above and below one half
        x, all_g = np.array(x, dtype), np.array([*g, inf], dtype)
        same(backend(kn.log_softmax_vjp, x[:3], all_g[:3]).astype(float), want)
        same(backend(kn.log_softmax_vjp, x, all_g, mask=mask).astype(float), [*want, 0])


def test_log_softmax_vjp_infinite_cotangent_without_weight(backend, dtype):
    """An entry with x = -inf takes no part in the sum of the others, nor a sole one in its own."""
    x = np.array([[2, -inf], [2, -inf], [2, -inf]], dtype)
    g = np.array([[3, inf], [inf, 3], [1, 2]], dtype)
    got = backend(kn.log_softmax_vjp, x, g, axis=1).astype(float)
    same(got, [[-inf, inf], [-3, 3], [-2, 2]])
    same(backend(kn.log_softmax_vjp, np.array([2], dtype), np.array([inf], dtype)), [0])


def test_masked_gradients_are_zero(backend, dtype):
    x = np.array([[nan, 1, 2], [nan, inf, nan]], dtype)
    g = np.array([[nan, 1, 2], [inf, nan, nan]], dtype)
    mask = np.array([[0, 1, 1], [0, 0, 0]], bool)
    for function in (kn.softmax_vjp, kn.log_softmax_vjp, kn.entropy_invariant_softmax_vjp):
        got = backend(function, x, g, axis=1, mask=mask).astype(float)
        assert got[0, 0] == 0 and np.all(got[1] == 0) and np.all(np.isfinite(got))
    for function in (kn.logsumexp_vjp, kn.softmax_entropy_vjp):  # a nan of the row's g neither
        got = backend(function, x, np.array([nan, 1], dtype), axis=1, mask=mask).astype(float)
        same(got, [[0, nan, nan], [0, 0, 0]])


def test_logsumexp_softmax_returns_both(backend, dtype, rng):
    x = (3 * rng.standard_normal((4, 9))).astype(dtype)
    both = backend(kn.logsumexp_softmax, x)
    same(both[0].astype(float), backend(kn.logsumexp, x, axis=-1).astype(float))
    same(both[1].astype(float), backend(kn.softmax, x, axis=-1).astype(float))


# --- entropy ---


def test_softmax_entropy_special_values(backend, dtype):
    x = np.array([[inf, 0, 1], [inf, inf, 0], [nan, 0, 0], [0, -inf, -inf], [0, 0, -inf]], dtype)
    two = float(np.asarray(math.log(2), dtype))
    same(backend(kn.softmax_entropy, x).astype(float), [0, two, nan, 0, two])
    mask = np.zeros(3, bool)
    same(backend(kn.softmax_entropy, x, mask=mask).astype(float), [0] * 5)
    empty = np.zeros((1, 0), dtype)
    same(backend(kn.softmax_entropy, empty, mask=np.ones((1, 1), bool)).astype(float), [0])


def test_softmax_entropy_bounds(backend, dtype, rng):
    for n in (1, 2, 5, 50):
        x = (rng.choice([0, 0.1, 3, 100], (50, 1)) * rng.standard_normal((50, n))).astype(dtype)
        h = backend(kn.softmax_entropy, x).astype(float)
        assert np.all(h >= 0) and np.all(h <= float(np.asarray(np.log(n), dtype)))


def test_softmax_entropy_confident(backend):
    """Near one-hot: log1p(r) + p d keeps relative accuracy; -sum p log p would lose it."""
    true = 41 * math.exp(-40)  # to relative 1e-17: log1p(r) + r d
    near(backend(kn.softmax_entropy, np.array([0.0, -40.0])), true)
    p = oracle.plain_softmax(np.array([0.0, -40.0]))
    assert abs(-np.sum(p * np.log(p)) / true - 1) > 0.01


def test_softmax_entropy_scale(backend, rng):
    x = rng.standard_normal((3, 7))
    near(backend(kn.softmax_entropy, x, scale=2.0), backend(kn.softmax_entropy, 2 * x))
    near(backend(kn.softmax_entropy, x, scale=0.0), [math.log(7)] * 3)
    near(backend(kn.softmax_entropy, np.array([1e308, -1e308]), scale=10.0), 0)


# --- inequalities ---


def test_logsumexp_bounds_values(backend):
    x = np.array([1.0, 2.0, 4.0])
    got = backend(kn.logsumexp_bounds, x, tau=0.5)
    assert got._fields == ("lower_max", "lower_mean", "lower_weighted", "upper")
    log3 = math.log(3)
    near(got, [4.0, 7 / 3 + log3 / 2, 7 / 3 + log3 / 2, 4 + log3 / 2])
    p = np.array([0.5, 0.25, 0.25])
    near(
        backend(kn.logsumexp_bounds, x, p=p).lower_weighted,
        2.0 - (0.5 * math.log(0.5) + 0.5 * math.log(0.25)),
    )
    near(backend(kn.logsumexp_bounds, x, p=p, order=2.0).lower_weighted, 2.0 - math.log(0.375))
    # Of the largest orders -log max p is left.
    near(backend(kn.logsumexp_bounds, x, p=p, order=1e308).lower_weighted, 2.0 + math.log(2))


def test_logsumexp_bounds_equality_at_softmax(backend, rng):
    x = 3 * rng.standard_normal((5, 8))
    for tau in (0.5, 1.0, 3.0):
        p = backend(kn.softmax, x / tau, axis=-1)
        lower = backend(kn.logsumexp_bounds, x, p=p, tau=tau).lower_weighted
        lse = tau * backend(kn.logsumexp, x / tau, axis=-1)
        assert np.all(np.abs(lower - lse) <= 2e-13 * (np.abs(x).max(axis=1) + tau * math.log(8)))


def test_logsumexp_bounds_refuses(backend):
    x = np.zeros(3)
    for options in ({"order": 0.5}, {"tau": 0.0}, {"tau": -1.0}, {"tau": nan}, {"order": nan}):
        with pytest.raises(ValueError, match=f"^logsumexp_bounds: {next(iter(options))} must"):
            backend(kn.logsumexp_bounds, x, **options)
    for p in ([0.5, 0.5, 0.1], [1.5, -0.5, 0.0], [0.2, 0.2, 0.2], [nan, 0.5, 0.5]):
        if backend.name == "cuda":
            assert np.isnan(backend(kn.logsumexp_bounds, x, p=np.array(p)).lower_weighted)
        else:
            with pytest.raises(ValueError, match="^logsumexp_bounds: p must"):
                backend(kn.logsumexp_bounds, x, p=np.array(p))
    slightly_off = np.array([0.5, 0.25, 0.25 + 5e-7])  # within 1e-6: accepted
    near(backend(kn.logsumexp_bounds, x, p=slightly_off).upper, math.log(3))


def test_logsumexp_bounds_counts_rows(backend):
    """One p for all: the slices of x are what is refused, and without one there is none."""
    p = np.array([0.5, nan, 0.5])
    for empty in (np.zeros((0, 3)), np.zeros((2, 0, 3))):
        for got in backend(kn.logsumexp_bounds, empty, p=p):
            assert got.shape == empty.shape[:-1]
    if backend.name != "cuda":
        with pytest.raises(ValueError, match=r"got 5 slice\(s\)"):
            backend(kn.logsumexp_bounds, np.zeros((5, 3)), p=p)


def test_logsumexp_bounds_takes_rounded_probabilities(backend, dtype, rng):
    """Rounding p to its type moves its sum by up to u; far off is still refused."""
    p = rng.dirichlet(np.full(16, 3.0), 50)
    rounded = p.astype(dtype)
    x = np.ones((50, 16), dtype)
    u = oracle.unit_roundoff(dtype)
    got = backend(kn.logsumexp_bounds, x, p=rounded).lower_weighted.astype(float)
    entropy = -np.sum(p * np.log(p), axis=1)
    assert np.all(np.abs(got - 1 - entropy) <= 64 * u)  # u log p in each term, twice, and of 4
    if backend.name != "cuda":
        with pytest.raises(ValueError, match="^logsumexp_bounds: p must"):
            backend(kn.logsumexp_bounds, x, p=(0.97 * p).astype(dtype))


def test_logsumexp_lipschitz(backend, rng):
    x, y = 5 * rng.standard_normal((2, 40, 6))
    difference, distance = backend(kn.logsumexp_lipschitz, x, y)
    same(distance, np.abs(x - y).max(axis=1))
    assert np.all(difference <= distance)
    # A shift by a constant is the equality case; rounding must not break the inequality.
    difference, distance = backend(kn.logsumexp_lipschitz, x, x + 0.1)
    assert np.all(difference <= distance)
    got = backend(kn.logsumexp_lipschitz, np.array([inf, 0]), np.array([inf, 1]))
    same(got, [0, 1])


def test_logsumexp_jensen_gap(backend, rng):
    x = rng.standard_normal((2, 5))
    t = 0.3
    want = t * np.log(np.exp(x[0]).sum()) + (1 - t) * np.log(np.exp(x[1]).sum())
    want -= np.log(np.exp(t * x[0] + (1 - t) * x[1]).sum())
    got = backend(kn.logsumexp_jensen_gap, x, weights=np.array([t, 1 - t]))
    assert abs(got - want) <= 2e-13 * 4
    equal = np.repeat(rng.standard_normal((1, 6, 9)), 3, axis=0)
    assert np.all(backend(kn.logsumexp_jensen_gap, equal) >= 0)
    assert np.all(backend(kn.logsumexp_jensen_gap, equal) <= 2e-13 * 4)


# --- entropy-invariant attention ---


def test_entropy_invariant_scale_values(backend):
    near(backend(kn.entropy_invariant_scale, 512.0), 1.0, times=0.01)
    near(backend(kn.entropy_invariant_scale, np.array([2, 512, 4096])), [1 / 9, 1, 12 / 9])
    near(backend(kn.entropy_invariant_scale, 512, dim=64), 1 / 8)
    near(backend(kn.entropy_invariant_scale, 100, dim=64, kappa=1.5), 1.5 * math.log(100) / 64)
    near(backend(kn.entropy_invariant_scale, 100, base=10.0), 2.0)
    same(backend(kn.entropy_invariant_scale, np.array([0, 1])), [0, 0])
    near(backend(kn.entropy_invariant_scale, 3, min_length=16), math.log(16) / math.log(512))


def test_entropy_invariant_scale_forms_agree(backend):
    n, dim = np.arange(1, 3000), 64
    kappa = math.sqrt(dim) / math.log(512)
    one = backend(kn.entropy_invariant_scale, n, dim=dim)
    two = backend(kn.entropy_invariant_scale, n, dim=dim, kappa=kappa)
    near(one, two, times=0.01)


def test_entropy_invariant_scale_refuses(backend):
    for options in ({"kappa": 1.0}, {"dim": 0}, {"base": 1.0}, {"base": -2.0}, {"dim": -4}):
        with pytest.raises(ValueError, match="^entropy_invariant_scale: "):
            backend(kn.entropy_invariant_scale, 5, **options)
    if backend.name == "cuda":
        got = backend(kn.entropy_invariant_scale, np.array([4.0, -1.0]))
        assert np.isnan(got[1]) and not np.isnan(got[0])
    else:
        with pytest.raises(ValueError, match="^entropy_invariant_scale: n must"):
            backend(kn.entropy_invariant_scale, np.array([4, -1]))


def test_entropy_invariant_softmax_counts_per_slice(backend, rng):
    """Causal mask: row i sees i + 1 entries and is scaled by log(i + 1) / log 512."""
    scores = 3 * rng.standard_normal((6, 6))
    mask = np.tri(6, dtype=bool)
    got = backend(kn.entropy_invariant_softmax, scores, mask=mask)
    for i in range(6):
        row = math.log(i + 1) / math.log(512) * scores[i, : i + 1]
        near(got[i, : i + 1], oracle.plain_softmax(row))
        assert np.all(got[i, i + 1 :] == 0)


def test_entropy_invariant_softmax_single_entry(backend, dtype):
    """n = 1: lambda = 0, exactly 1 on the entry; scaling a masked -inf would give nan."""
    scores = np.array([3.0, -inf, nan, inf], dtype)
    mask = np.array([True, False, False, False])
    same(backend(kn.entropy_invariant_softmax, scores, mask=mask).astype(float), [1, 0, 0, 0])
    same(backend(kn.entropy_invariant_softmax, np.array([-7.5], dtype)).astype(float), [1])
    plain = oracle.plain_masked_scaled_softmax(np.array([3.0, 1.0]), np.array([True, False]))
    assert np.all(np.isnan(plain))


def test_entropy_invariant_softmax_fully_masked(backend, dtype):
    scores = np.array([[1, nan], [2, 3]], dtype)
    mask = np.array([[False], [True]])  # one value that stands for the whole row
    got = backend(kn.entropy_invariant_softmax, scores, mask=mask)
    assert np.all(got[0] == 0) and np.all(got[1] > 0)


def test_entropy_invariant_softmax_is_ordinary_at_512(backend, rng):
    scores = rng.standard_normal((2, 512))
    near(backend(kn.entropy_invariant_softmax, scores), backend(kn.softmax, scores, axis=-1))


def test_entropy_invariant_softmax_minimum_length(backend, rng):
    scores = rng.standard_normal((4, 3))
    want = backend(kn.softmax, math.log(16) / math.log(512) * scores, axis=-1)
    near(backend(kn.entropy_invariant_softmax, scores, min_length=16), want)
