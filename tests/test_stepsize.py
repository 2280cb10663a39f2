"""Adapting step sizes: the recursion in plain NumPy, published numbers, states, and edges."""

import math
import pickle

import numpy as np
import pytest

import kexue_native as kn
import oracle

inf, nan = np.inf, np.nan
MODES = [(g, s) for g in ("sign", "product") for s in ("direction", "product")]


def plain_step(
    theta,
    g,
    state,
    *,
    lr,
    momentum=0.9,
    beta=0.9,
    lr_gain=0.01,
    lr_scale=0.001,
    gain_mode="sign",
    scale_mode="direction",
    gain_bounds=(1e-2, 1e2),
    scale_bounds=(0.1, 10.0),
    eps=1e-10,
):
    """The six lines of the specification, old values on the right."""
    p, s, v, m, t = state
    t = t + 1
    drive = np.sign(g) * np.sign(m) if gain_mode == "sign" else g * m / (1 - beta ** max(t - 1, 1))
    p = np.clip(p * np.exp(lr_gain * drive), *gain_bounds)
    a = (g * v).sum()
    if scale_mode == "direction":
        a /= (np.sqrt((g * g).sum()) + eps) * (np.sqrt((v * v).sum()) + eps)
    s = np.clip(s * np.exp(lr_scale * a), *scale_bounds)
    v = momentum * v + lr * p * g
    m = beta * m + (1 - beta) * g
    return theta - s * v, (p, s, v, m, t)


def start(theta):
    wide = theta.astype(np.longdouble)
    return wide, (np.ones_like(wide), np.longdouble(1), 0 * wide, 0 * wide, 0)


@pytest.mark.parametrize("gain_mode, scale_mode", MODES)
def test_recursion(backend, gain_mode, scale_mode, rng):
    options = dict(
        lr=0.05,
        lr_gain=0.3,
        lr_scale=0.2,
        momentum=0.7,
        beta=0.8,
        gain_mode=gain_mode,
        scale_mode=scale_mode,
        gain_bounds=(0.5, 1.5),
        scale_bounds=(0.9, 1.05),
    )
    theta = rng.standard_normal((4, 9))
    state, (wide, wide_state) = kn.eg_stepsize_init(theta), start(theta)
    for _ in range(15):
        g = rng.standard_normal(theta.shape)
        g[0, :3] = 0
        theta, state = backend(kn.eg_stepsize_step, theta, g, state, **options)
        wide, wide_state = plain_step(wide, g, wide_state, **options)
        for got, want in zip((theta, *state), (wide, *wide_state), strict=True):
            np.testing.assert_allclose(
                np.asarray(got, float),
                want.astype(float) if hasattr(want, "astype") else want,
                rtol=1e-13,
                atol=1e-15,
            )
        assert 0.9 <= state.scale <= 1.05 and np.all((state.gain >= 0.5) & (state.gain <= 1.5))
    assert state.t == 15


@pytest.mark.parametrize("size", [1, 7, 1000, 70_001, 300_000])
def test_types_and_sizes(backend, dtype, size, rng):
    if backend.name == "cuda" and size > 1000:
        pytest.skip("the stand-in is slow")
    theta = rng.standard_normal(size).astype(dtype)
    state, (wide, wide_state) = kn.eg_stepsize_init(theta), start(oracle.widen(theta))
    digits = float(oracle.unit_roundoff(dtype))
    for _ in range(3):
        g = rng.standard_normal(size).astype(dtype)
        theta, state = backend(kn.eg_stepsize_step, theta, g, state, lr=0.1, lr_scale=0.1)
        wide, wide_state = plain_step(wide, oracle.widen(g), wide_state, lr=0.1, lr_scale=0.1)
        assert theta.dtype == state.gain.dtype == dtype and state.scale.dtype == np.float64
    np.testing.assert_allclose(
        oracle.widen(theta).astype(float), wide.astype(float), atol=40 * digits
    )
    np.testing.assert_allclose(float(state.scale), float(wide_state[1]), rtol=4 * digits)


def test_first_steps_by_hand(backend):
    """Two steps of one parameter: at t = 1 gains and scale rest."""
    theta, state = backend(
        kn.eg_stepsize_step, np.array([1.0]), np.array([2.0]), kn.eg_stepsize_init([1.0]), lr=0.1
    )
    assert state.gain[0] == 1 and state.scale == 1 and state.velocity[0] == 0.2
    np.testing.assert_allclose(state.average, [0.2], rtol=1e-15)
    theta, state = backend(kn.eg_stepsize_step, theta, np.array([1.0]), state, lr=0.1)
    gain, scale = math.exp(0.01), math.exp(0.001 * 0.2 / ((1 + 1e-10) * (0.2 + 1e-10)))
    velocity = 0.9 * 0.2 + 0.1 * gain
    assert state.gain[0] == pytest.approx(gain, rel=1e-15)
    assert state.scale == pytest.approx(scale, rel=1e-15)
    assert theta[0] == pytest.approx(0.8 - scale * velocity, rel=1e-15)
    assert state.average[0] == pytest.approx(0.9 * 0.2 + 0.1, rel=1e-15)


def test_su_form_is_a_special_case(backend, rng):
    """Momentum, beta and lr_scale 0, the product mode and no bounds."""
    theta = rng.standard_normal(20)
    state, own, gain, before = kn.eg_stepsize_init(theta), theta, np.ones(20), np.zeros(20)
    total = np.zeros(20)
    for _ in range(10):
        g = rng.standard_normal(20)
        theta, state = backend(
            kn.eg_stepsize_step,
            theta,
            g,
            state,
            lr=0.1,
            momentum=0.0,
            beta=0.0,
            lr_gain=0.3,
            lr_scale=0.0,
            gain_mode="product",
            gain_bounds=(1e-300, 1e300),
            scale_bounds=(1.0, 1.0),
        )
        own, gain = backend(kn.eg_gain_step, own, g, before, gain, lr=0.1, gamma=0.3)
        total += before * g
        before = g
        np.testing.assert_allclose(theta, own, rtol=1e-15, atol=1e-16)
        np.testing.assert_allclose(state.gain, gain, rtol=1e-15)
    np.testing.assert_allclose(gain, np.exp(0.3 * total), rtol=1e-13)


def test_plain_gradient_descent(backend, rng):
    theta = rng.standard_normal(30)
    state = kn.eg_stepsize_init(theta)
    g = rng.standard_normal(30)
    options = dict(lr=0.1, momentum=0.0, lr_gain=0.0, lr_scale=0.0)
    for _ in range(3):
        want = theta - 0.1 * g
        theta, state = backend(kn.eg_stepsize_step, theta, g, state, **options)
        np.testing.assert_allclose(theta, want, rtol=1e-15, atol=1e-17)
    assert np.all(state.gain == 1) and state.scale == 1


def test_scale_of_the_loss_changes_no_drive(backend, rng):
    theta = rng.standard_normal(12)
    runs = []
    for c in (1.0, 2.0**40):
        state, x = kn.eg_stepsize_init(theta), theta
        local = np.random.default_rng(5)
        for _ in range(6):
            x, state = backend(
                kn.eg_stepsize_step,
                x,
                c * local.standard_normal(12),
                state,
                lr=0.1,
                eps=0.0,
                lr_scale=0.1,
            )
        runs.append(state)
    np.testing.assert_array_equal(runs[0].gain, runs[1].gain)
    np.testing.assert_allclose(runs[0].scale, runs[1].scale, rtol=1e-15)


@pytest.mark.parametrize("size", [1e200, 1e-200, 1e308])
def test_direction_beyond_the_range_of_squares(backend, size):
    theta = np.zeros(4)
    state = kn.StepsizeState(
        np.ones(4), np.ones(()), size * np.array([1.0, 0.5, 0, 0]), np.zeros(4), 3
    )
    g = size * np.array([0.5, 1.0, 0, 0])
    _, new = backend(kn.eg_stepsize_step, theta, g, state, lr=0.1, lr_scale=0.5, eps=0.0)
    assert new.scale == pytest.approx(math.exp(0.5 * 0.8), rel=1e-14)


def test_permutation(backend, rng):
    theta, g, order = rng.standard_normal(50), rng.standard_normal(50), rng.permutation(50)
    a, s = backend(kn.eg_stepsize_step, theta, g, kn.eg_stepsize_init(theta), lr=0.1)
    a, s = backend(kn.eg_stepsize_step, a, g[::-1].copy(), s, lr=0.1)
    b, r = backend(kn.eg_stepsize_step, theta[order], g[order], kn.eg_stepsize_init(theta), lr=0.1)
    b, r = backend(kn.eg_stepsize_step, b, g[::-1].copy()[order], r, lr=0.1)
    np.testing.assert_allclose(b, a[order], rtol=1e-14)
    np.testing.assert_array_equal(r.gain, s.gain[order])


def test_no_gradient(backend):
    """v decays and theta still moves; gains and scale stay."""
    theta, state = backend(
        kn.eg_stepsize_step, np.ones(3), np.ones(3), kn.eg_stepsize_init(np.ones(3)), lr=0.5
    )
    new, after = backend(kn.eg_stepsize_step, theta, np.zeros(3), state, lr=0.5)
    np.testing.assert_array_equal(after.gain, state.gain)
    assert after.scale == state.scale
    np.testing.assert_allclose(after.velocity, 0.9 * state.velocity, rtol=1e-15)
    np.testing.assert_allclose(new, theta - state.scale * after.velocity, rtol=1e-15)


@pytest.mark.parametrize("wrong", [nan, inf, -inf])
def test_nonfinite_gradients(backend, wrong, rng):
    theta, g = rng.standard_normal(40), rng.standard_normal(40)
    _, state = backend(kn.eg_stepsize_step, theta, g, kn.eg_stepsize_init(theta), lr=0.1)
    bad = g.copy()
    bad[17] = wrong
    same, kept = kn.eg_stepsize_step(
        theta, bad, state, lr=0.1, nonfinite="skip", backend=backend.name
    )
    assert kept is state and same is theta
    on, _ = kn.eg_stepsize_step(theta, g, state, lr=0.1, nonfinite="skip", backend=backend.name)
    np.testing.assert_array_equal(on, backend(kn.eg_stepsize_step, theta, g, state, lr=0.1)[0])
    moved, _ = backend(kn.eg_stepsize_step, theta, bad, state, lr=0.1, lr_scale=0.0)
    assert not np.isfinite(moved[17]) and np.all(np.isfinite(np.delete(moved, 17)))
    out = np.full(40, 7.0)
    kn.eg_stepsize_step(theta, bad, state, lr=0.1, nonfinite="skip", out=out, backend=backend.name)
    np.testing.assert_array_equal(out, theta)


def test_in_place_and_inputs(backend, dtype, rng):
    if backend.on_device:
        pytest.skip("NumPy memory")
    theta, g = (rng.standard_normal((6, 50)).astype(dtype) for _ in range(2))
    state = kn.eg_stepsize_init(theta)
    _, state = backend(kn.eg_stepsize_step, theta, g, state, lr=0.25)
    before = [np.array(x) for x in (theta, g, *state)]
    want, after = backend(kn.eg_stepsize_step, theta, g, state, lr=0.25)
    for x, y in zip((theta, g, *state), before, strict=True):
        np.testing.assert_array_equal(x, y)
    own = theta.copy()
    buffers = state
    got, state = backend(kn.eg_stepsize_step, own, g, state, lr=0.25, inplace=True, out=own)
    assert got is own and state.gain is buffers.gain and state.scale is buffers.scale
    for x, y in zip((own, *state), (want, *after), strict=True):
        np.testing.assert_array_equal(x, y)


def test_layouts(backend, rng):
    theta, g = rng.standard_normal((6, 8)), rng.standard_normal((6, 8))
    want, state = backend(kn.eg_stepsize_step, theta, g, kn.eg_stepsize_init(theta), lr=0.1)
    for change in (
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        lambda a: a[::-1].copy()[::-1],
    ):
        got, other = backend(
            kn.eg_stepsize_step,
            change(theta),
            change(g),
            kn.eg_stepsize_init(change(theta)),
            lr=0.1,
        )
        np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(other.velocity, state.velocity)


def test_states_resume_to_the_bit(backend, rng):
    """Pickled in the middle, as a checkpoint does."""
    theta = rng.standard_normal(25)
    gradients = rng.standard_normal((8, 25))
    x, state = theta, kn.eg_stepsize_init(theta)
    for g in gradients:
        x, state = backend(kn.eg_stepsize_step, x, g, state, lr=0.1)
    y, other = theta, kn.eg_stepsize_init(theta)
    for k, g in enumerate(gradients):
        if k == 4:
            y, other = pickle.loads(pickle.dumps((y, other)))
            assert isinstance(other, kn.StepsizeState)
        y, other = backend(kn.eg_stepsize_step, y, g, other, lr=0.1)
    for a, b in zip((x, *state), (y, *other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_empty_and_zero_dimensional(backend):
    theta, state = backend(
        kn.eg_stepsize_step,
        np.zeros((0, 3)),
        np.zeros((0, 3)),
        kn.eg_stepsize_init(np.zeros((0, 3))),
        lr=0.1,
    )
    assert theta.shape == (0, 3) and state.t == 1 and state.scale == 1
    theta, state = backend(
        kn.eg_stepsize_step, np.array(2.0), np.array(1.0), kn.eg_stepsize_init(2.0), lr=0.5
    )
    assert float(theta) == 1.5 and state.gain.shape == ()


def test_errors():
    theta, state = np.ones(3), kn.eg_stepsize_init(np.ones(3))
    for options in (
        {"momentum": 1.0},
        {"momentum": -0.1},
        {"beta": 1.0},
        {"lr": nan},
        {"lr_gain": -1.0},
        {"lr_scale": inf},
        {"gain_mode": "none"},
        {"scale_mode": 3},
        {"gain_bounds": (2.0, 1.0)},
        {"scale_bounds": (0.0, 1.0)},
        {"gain_bounds": 1.0},
        {"eps": -1.0},
        {"nonfinite": "zero"},
    ):
        with pytest.raises(
            (ValueError, TypeError), match=f"^eg_stepsize_step: {next(iter(options))} must"
        ):
            kn.eg_stepsize_step(theta, theta, state, **{"lr": 0.1, **options})
    with pytest.raises(ValueError, match="^eg_stepsize_step: g must have the shape of theta"):
        kn.eg_stepsize_step(theta, np.ones(4), state, lr=0.1)
    with pytest.raises(ValueError, match="^eg_stepsize_step: gain must have the shape of theta"):
        kn.eg_stepsize_step(np.ones(4), np.ones(4), state, lr=0.1)
    with pytest.raises(TypeError, match="^eg_stepsize_step: state must"):
        kn.eg_stepsize_step(theta, theta, None, lr=0.1)
    with pytest.raises(TypeError, match="^eg_stepsize_step: out must have dtype"):
        kn.eg_stepsize_step(theta, theta, state, lr=0.1, out=np.ones(3, np.float32))


def test_threads(threads, rng):
    theta, g = rng.standard_normal(200_000, np.float32), rng.standard_normal(200_000, np.float32)
    results = []
    for n in (1, 3):
        kn.set_num_threads(n)
        x, state = kn.eg_stepsize_step(theta, g, kn.eg_stepsize_init(theta), lr=0.1)
        x, state = kn.eg_stepsize_step(x, g, state, lr=0.1, lr_scale=1.0)
        results.append((x, *state))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
