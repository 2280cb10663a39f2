"""Properties that hold for all inputs: found by search (Hypothesis) and held far from zero.

Shifts and scales are chosen so that the shifted scores are exact in their type; what remains is the
function's own error, so both sides are checked against one exact value and its stated limit.
"""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import kexue_native as kn
import oracle
from cases import BY_ID, CASES
from kexue_native.special.reductions import reference

# One example is one call of some microseconds; a fixture per test, not per example, is intended.
fast = settings(
    max_examples=20,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

FINITE = {
    "float64": st.floats(-1e4, 1e4),
    "float32": st.floats(-1e4, 1e4, width=32),
    "float16": st.floats(-1e4, 1e4, width=16),
    "bfloat16": st.floats(-1e4, 1e4, width=16),  # rounded to bfloat16 afterwards
}


@st.composite
def arguments(draw, case, dtype, wild=False, far=True):
    """Arguments of one call: up to 3 rows of up to 12; `wild` with infinities and nan."""
    name = oracle.name_of(dtype)
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 12)))
    near = st.floats(-30, 30, width=16)
    values = st.one_of(near, FINITE[name] if far else st.floats(-400, 400))
    if wild:
        values = st.one_of(values, st.sampled_from([np.inf, -np.inf, np.nan]))
    arrays = {}
    for key, core in zip(case.arrays, case.cores, strict=True):
        full = shape if core else shape[:-1]
        elements = values if key in (case.main, "y") else st.floats(-2, 2, width=16)
        if key == "weights" or (key == "b" and case.function == "logsumexp" and not case.fixed):
            elements = st.floats(0, 2, width=16)
        if key in (case.simplex, "targets"):
            rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
            arrays[key] = case.make(rng, shape)[key]
        else:
            arrays[key] = draw(hnp.arrays(np.float64, full, elements=elements))
        arrays[key] = arrays[key].astype(dtype)
    if case.mask and draw(st.booleans()):
        arrays["mask"] = draw(hnp.arrays(bool, shape))
    return arrays, draw(st.sampled_from(case.variants))


every_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)


def search(case, examples):
    """Fewer examples where the reference is slow."""
    return settings(fast, max_examples=max(3, examples // case.cost))


@every_case
def test_agrees_with_wide_reference(case, backends, dtype):
    """Any finite arguments: within the stated limit."""

    @search(case, 15 if dtype in (np.float32, np.float64) else 6)
    @given(arguments(case, dtype))
    def check(drawn):
        arrays, options = drawn
        for backend in backends:
            returned = backend.call(case, arrays, axis=-1, **options)
            note = f"{backend.name} {arrays} {options}"
            backend.check(case, returned, arrays, dtype=dtype, note=note, **options)

    check()


@every_case
def test_agrees_on_special_values(case, backends):
    """Infinities and nan anywhere, masks anywhere: the same special values as the reference."""

    @search(case, 20)
    @given(arguments(case, np.dtype(np.float32), wild=True))
    def check(drawn):
        arrays, options = drawn
        for backend in backends:
            returned = backend.call(case, arrays, axis=-1, **options)
            note = f"{backend.name} {arrays} {options}"
            backend.check(case, returned, arrays, note=note, **options)

    check()


EXACT = {
    "logsumexp": lambda a, mask=None: oracle.exact_logsumexp(a, mask),
    "softmax": lambda x, mask=None: oracle.exact_softmax(x, mask),
    "log_softmax": lambda x, mask=None: oracle.exact_log_softmax(x, mask),
    "logmeanexp": lambda a: oracle.exact_logmeanexp(a),
    "logmeanexp-weights": lambda a, weights: oracle.exact_logmeanexp(a, weights),
    "softmax_entropy": lambda x, mask=None: oracle.exact_softmax_entropy(x, mask),
    "softmax_vjp": lambda x, g, mask=None: oracle.exact_softmax_vjp(x, g, mask),
    "log_softmax_vjp": lambda x, g, mask=None: oracle.exact_log_softmax_vjp(x, g, mask),
}


@pytest.mark.parametrize("case_id", EXACT)
def test_oracle_agrees_with_high_precision(case_id):
    """The wide reference, which the other tests rely on, against the articles' formulas in mpmath.

    Allowed: 1/16 ULP of float64, or 1/8 of the digits that long double has beyond it.
    """
    case, dtype = BY_ID[case_id], np.dtype(np.float64)
    wide = oracle.wide_type(dtype)

    @settings(fast, max_examples=20)
    @given(arguments(case, dtype, far=False))  # mpmath needs as many digits as the spread
    def check(drawn):
        arrays, _ = drawn
        (found,), ((magnitude, growth),) = case.exact(arrays)
        magnitude, growth = (np.broadcast_to(v, found.shape) for v in (magnitude, growth))
        for i in range(len(arrays[case.main])):
            row = [oracle.to_mp(arrays[k][i]) for k in case.arrays]
            mask = list(arrays["mask"][i]) if "mask" in arrays else None
            if (mask is not None and not any(mask)) or ("weights" in arrays and not any(row[1])):
                continue
            with oracle.working_precision(row[0]):
                exact = EXACT[case_id](*row, **({} if mask is None else {"mask": mask}))
                pairs = [oracle.split(v) for v in (exact if isinstance(exact, list) else [exact])]
            value = np.array([wide(high) + wide(low) for high, low in pairs])
            value = value if case.outputs[0] else value[0]
            error = oracle.ulp_error(found[i], value, dtype, magnitude[i]) - growth[i] / 128
            assert np.max(error) <= 1 / 16, f"{arrays}: {np.max(error):.3g} ULP"

    check()


# --- Shift ---


def exact_grid(rng, shape, dtype, shift):
    """Scores that stay exact when shifted: multiples of the ULP of the largest value."""
    largest = abs(shift) + 16
    step = float(oracle.ulp(largest, dtype))
    return (np.round(rng.uniform(-8, 8, shape) / step) * step).astype(dtype)


@pytest.mark.one_level
@pytest.mark.parametrize("shift", [200, -10_000])
@pytest.mark.parametrize("case", [c for c in CASES if c.shift], ids=lambda c: c.id)
def test_shift(case, shift, backend, dtype, rng):
    """f(x + c) is f(x), or f(x) + c, to the same limit as f(x) itself, far from zero too."""
    shift = float(np.asarray(shift, dtype))
    shapes = [(-(-30 // case.cost), n) for n in (2, 7, 40)]
    for shape in shapes:
        arrays = case.make(rng, shape, dtype)
        arrays[case.main] = exact_grid(rng, shape, dtype, shift)
        moved = arrays[case.main].astype(np.float64) + shift
        assert np.array_equal(moved, moved.astype(dtype).astype(np.float64)), "shift is not exact"
        far = {**arrays, case.main: moved.astype(dtype)}
        exact, _ = case.exact(arrays)
        _, scales = case.exact(far, backend.plain)
        got = case.results(backend.call(case, far, axis=-1))
        for k, (g, want) in enumerate(zip(got, exact, strict=True)):
            want = want + shift if case.shift == "moves" else want
            error, where = oracle.worst(g, want, dtype, *scales[k])
            assert error <= case.limit(dtype, k, backend.plain), (
                f"{shape}, output {k} at {where}: {g[where]}, exact {want[where]}: {error:.3g} ULP"
            )


# --- Order, parts ---


@pytest.mark.one_level
@pytest.mark.parametrize("case", [c for c in CASES if c.permutes], ids=lambda c: c.id)
def test_permutation(case, backend, dtype, rng):
    for n in (3, 20, 100, 1000)[: 4 if case.cost == 1 else 2]:
        arrays = case.make(rng, (5, n), dtype, mask=case.mask)
        order = rng.permutation(n)
        cores = dict(zip(case.arrays, case.cores, strict=True)) | {"mask": "n"}
        mixed = {k: v[..., order] if cores[k] else v for k, v in arrays.items()}

        def back(result, core, order=order):
            return result[..., np.argsort(order)] if core else result

        got = backend.call(case, mixed, axis=-1)
        backend.check(case, got, arrays, note=f"n = {n}", move=back)


def test_logsumexp_concatenation(backend, dtype, rng):
    """lse of a row is lse of the lse of its parts: one more rounding per part."""
    case = BY_ID["logsumexp"]
    for sizes in ((1, 1), (3, 5), (100, 1), (17, 400, 3)):
        parts = [(4 * rng.standard_normal((20, n))).astype(dtype) for n in sizes]
        whole = np.concatenate(parts, axis=1)
        each = np.stack([backend(kn.logsumexp, p, axis=1) for p in parts], axis=1)
        (exact,), ((magnitude, _),) = case.exact({"a": whole})
        error = oracle.ulp_error(backend(kn.logsumexp, each, axis=1), exact, dtype, magnitude)
        # The parts are within the limit of their own magnitude, at most that of the largest.
        largest = np.maximum(np.abs(each.astype(exact.dtype)).max(axis=1), np.abs(magnitude))
        carried = oracle.ulp(largest, dtype) / oracle.ulp(
            np.maximum(np.abs(exact), magnitude), dtype
        )
        allowed = case.limit(dtype, plain=backend.plain) * (1 + carried)
        assert np.all(error <= allowed.astype(np.float64))


def test_logsumexp_softmax_log_softmax_are_consistent(backend, rng):
    x = 5 * rng.standard_normal((50, 12))
    lse = backend(kn.logsumexp, x, axis=1)[:, None]
    p, log_p = backend(kn.softmax, x, axis=1), backend(kn.log_softmax, x, axis=1)
    u = 2.0**-53
    both = np.abs(x).max(axis=1, keepdims=True) + np.abs(lse)
    # log_softmax: at most 4 (+4) ULP; logsumexp: 2 (+4) ULP of its magnitude; the subtraction: u.
    assert np.all(np.abs(log_p - (x - lse)) <= 2 * u * (8 * np.abs(log_p) + 6 * both + np.abs(x)))
    # |log p| <= 40: exp turns the 8 ULP of log p into 16 u |log p|, and p itself has 8 ULP.
    assert np.all(np.abs(p - np.exp(log_p)) <= p * u * (16 + 16 * np.abs(log_p) + 8))


# --- Order, bounds, convexity ---


def test_logsumexp_is_monotone(backend, dtype, rng):
    """Raising one entry never lowers the result by more than its error."""
    case = BY_ID["logsumexp"]
    x = (3 * rng.standard_normal((200, 9))).astype(dtype)
    raised = x.copy()
    raised[:, 4] = (raised[:, 4].astype(np.float64) + rng.random(200)).astype(dtype)
    low, high = (backend(kn.logsumexp, v, axis=1).astype(np.float64) for v in (x, raised))
    slack = (
        2 * case.limit(dtype, plain=backend.plain) * oracle.ulp(np.maximum(np.abs(high), 8), dtype)
    )
    assert np.all(high >= low - slack.astype(np.float64))
    far = raised[:, 4].astype(np.float64) > x[:, 4].astype(np.float64) + 0.5
    assert np.any(high[far] > low[far])


def test_softmax_keeps_the_order(backend, dtype, rng):
    x = np.sort((3 * rng.standard_normal((50, 30))).astype(dtype), axis=1)
    for function in (kn.softmax, kn.log_softmax):
        p = backend(function, x, axis=1).astype(np.float64)
        same = np.diff(x.astype(np.float64), axis=1) == 0
        assert np.all(np.diff(p, axis=1)[same] == 0), "equal scores, different results"
        # Monotone up to rounding: neighbours may swap within the limit of each.
        slack = 2 * BY_ID[function.__name__].limit(dtype, plain=backend.plain)
        step = oracle.ulp(p[:, 1:], dtype).astype(np.float64)
        assert np.all(np.diff(p, axis=1) >= -slack * step)


def test_logsumexp_stays_in_its_bounds(backend, dtype, rng):
    """max x <= lse <= max x + log n, and the other bounds of the article, up to rounding."""
    for n, spread in ((1, 1), (2, 0.01), (30, 1), (1000, 100)):
        x = (spread * rng.standard_normal((20, n))).astype(dtype)
        lse = backend(kn.logsumexp, x, axis=1).astype(np.float64)
        assert np.all(lse >= x.max(axis=1).astype(np.float64))
        bounds = backend(kn.logsumexp_bounds, x)
        limit = sum(
            BY_ID[k].limit(dtype, plain=backend.plain) for k in ("logsumexp", "logsumexp_bounds")
        )
        size = np.abs(x.astype(np.float64)).max(axis=1) + math.log(n)
        slack = limit * oracle.ulp(size, dtype).astype(np.float64)
        for lower in bounds[:3]:
            assert np.all(lower.astype(np.float64) <= lse + slack)
        assert np.all(lse <= bounds.upper.astype(np.float64) + slack)


def test_jensen(backend, dtype, rng):
    """lse of a mean is at most the mean of lse."""
    for spread in (0.01, 1, 100):
        x = (spread * rng.standard_normal((3, 40, 6))).astype(dtype)
        gap = backend(kn.logsumexp_jensen_gap, x).astype(np.float64)
        assert np.all(gap >= 0)
        if spread == 100:  # the maxima of three such rows are rarely at the same place
            assert np.mean(gap) > 10


def test_lipschitz(backend, dtype):
    @fast
    @given(hnp.arrays(np.float64, (2, 3, 5), elements=st.floats(-1e3, 1e3, width=16)))
    def check(values):
        x, y = values.astype(dtype)
        difference, distance = backend(kn.logsumexp_lipschitz, x, y)
        assert np.all(difference.astype(float) <= distance.astype(float))

    check()


def test_entropy_invariance(backend, rng):
    """What the scale is for: the entropy of attention to random keys hardly depends on n."""
    dim = 64

    def mean_entropy(n, scale):
        q, k = rng.standard_normal((2, n, dim))
        scores = q[:200] @ k.T * scale
        return float(np.mean(backend(kn.softmax_entropy, scores)))

    def change(scale):
        return mean_entropy(2048, scale(2048)) - mean_entropy(256, scale(256))

    plain = change(lambda n: 1 / math.sqrt(dim))
    invariant = change(lambda n: float(kn.entropy_invariant_scale(n, dim=dim)))
    assert abs(plain - math.log(8)) < 0.1, "ordinary attention spreads by log 8"
    assert invariant < plain - 0.3


# --- Gradients against finite differences of the wide reference ---

GRADIENTS = {
    "logsumexp_vjp": lambda x, g: g * reference.logsumexp(x, None),
    "logmeanexp_vjp": lambda x, g: g * reference.logmeanexp(x, None),
    "softmax_vjp": lambda x, g: (g * reference.softmax(x, None)).sum(axis=-1),
    "log_softmax_vjp": lambda x, g: (g * reference.log_softmax(x, None)).sum(axis=-1),
    "softmax_entropy_vjp": lambda x, g: g * reference.softmax_entropy(x, None, 1.0),
    "entropy_invariant_softmax_vjp": lambda x, g: (
        g * reference.entropy_invariant_softmax(x, None, 1 / np.log(np.longdouble(512)), 1)
    ).sum(axis=-1),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient(name, backend, dtype, rng):
    """Central differences in the wide type: their error is stated below, far under ours."""
    case = BY_ID[name]
    arrays = case.make(rng, (4, 6), dtype, spread=1.5)
    x, g = oracle.widen(arrays[case.main]), oracle.widen(arrays["g"])
    wide = x.dtype.type
    f = GRADIENTS[name]
    h = wide(2) ** -18 if wide is np.longdouble and oracle.HAS_WIDE else wide(2) ** -15
    numeric = np.empty_like(x)
    for i in range(x.shape[1]):
        step = np.zeros_like(x)
        step[:, i] = h
        # Richardson: two step sizes remove the h^2 term.
        coarse = (f(x + 2 * step, g) - f(x - 2 * step, g)) / (4 * h)
        fine = (f(x + step, g) - f(x - step, g)) / (2 * h)
        numeric[:, i] = (4 * fine - coarse) / 3
    got = case.results(backend.call(case, arrays, axis=-1))[0]
    size = np.abs(g).max() + 1
    # Rounding of f (below 30 here) over h, plus h^4 times a fifth derivative below 30; plus ours.
    noise = 30 * size * (np.finfo(wide).eps / h + h**4)
    ours = (case.limit(dtype, plain=backend.plain) + 8) * oracle.ulp(size, dtype)
    assert np.all(np.abs(got.astype(wide) - numeric) <= noise + ours)


def test_gradient_of_weights_and_broadcast(rng):
    """Where b enlarges a, the gradient is summed back to the shape of a."""
    a, b = rng.standard_normal((3, 1)), rng.random((2, 1, 4))
    full = np.broadcast_to(a, (2, 3, 4)).copy()
    for axis, shape in ((None, ()), (-1, (2, 3)), (0, (3, 4))):
        g = rng.standard_normal(shape)
        got = kn.logsumexp_vjp(a, g, axis=axis, b=b)
        assert got.shape == a.shape
        large = kn.logsumexp_vjp(full, g, axis=axis, b=np.broadcast_to(b, full.shape))
        want = large.sum(axis=(0, 2)).reshape(3, 1)
        np.testing.assert_allclose(got, want, rtol=0, atol=8 * 2e-13)  # sums of 8 terms below 1
