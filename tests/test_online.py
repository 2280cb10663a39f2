"""Online learning: published results, the regret bound, and sequences at many rates."""

import math
from pathlib import Path

import numpy as np
import pytest

import kexue_native as kn
import oracle
from kexue_native.optim.online import reference

inf, nan = np.inf, np.nan
U = 2.0**-53
SHARED = (
    Path(__file__).resolve().parents[1] / "shared",
    Path(__file__).resolve().parents[2] / "shared",
)


@pytest.fixture(scope="module")
def nyse():
    """Price relatives of 36 stocks on 5651 days."""
    for folder in SHARED:
        if (folder / "data" / "nyse_o_relatives.npz").is_file():
            return np.load(folder / "data" / "nyse_o_relatives.npz")["rel"] / 100000.0
    pytest.skip("the NYSE(O) price relatives are not beside the repository")


# --- hedge ---


def test_hedge_is_softmax_of_sums(backend, rng):
    losses, w0 = rng.standard_normal((30, 7)), rng.random(7)
    got = backend(kn.hedge, losses, 0.8, w0=w0)
    sums = np.vstack([np.zeros(7), np.cumsum(losses, axis=0)])
    want = np.asarray(kn.softmax(np.log(w0) - 0.8 * sums, axis=-1))
    np.testing.assert_allclose(got, want, rtol=3e-14)
    np.testing.assert_allclose(got[0], w0 / w0.sum(), rtol=1e-15)
    np.testing.assert_allclose(backend(kn.hedge, losses, 0.8)[0], np.full(7, 1 / 7), rtol=1e-15)


def adversarial(kind, rng, T, n):
    if kind == "random":
        return rng.random((T, n))
    if kind == "binary":
        return (rng.random((T, n)) < 0.5).astype(float)
    if kind == "alternating":
        return np.tile(np.array([[0.5], [0.0]]), (T // 2 + 1, n))[:T] + np.arange(n) % 2 / 2
    losses = np.ones((T, n))  # the leader of each round loses
    total = np.zeros(n)
    for t in range(T):
        losses[t] = np.arange(n) == np.argmin(total)
        total += losses[t]
    return losses


@pytest.mark.parametrize("kind", ["random", "binary", "alternating", "leader"])
@pytest.mark.parametrize("n, T", [(2, 50), (9, 200), (40, 120)])
def test_hedge_regret_is_bounded(backend, kind, n, T, rng):
    if backend.name == "cuda":
        T = 20
    losses = adversarial(kind, rng, T, n) * 3 - 1
    for lr in (kn.eg_learning_rate(n, T, grad_range=3.0), 0.01, 1.0):
        w = backend(kn.hedge, losses, lr)
        regret = np.sum(w[:-1] * losses) - losses.sum(axis=0).min()
        assert regret <= kn.eg_regret_bound(n, T, lr, grad_range=3.0) + 1e-9


def test_hedge_at_many_rates(backend, dtype, rng):
    losses = rng.random((12, 5)).astype(dtype)
    lr = np.array([0.25, 1.0, 4.0]).astype(dtype)
    got = backend(kn.hedge, losses, lr)
    assert got.shape == (3, 13, 5) and got.dtype == dtype
    for k in range(3):
        np.testing.assert_array_equal(got[k], backend(kn.hedge, losses, float(lr[k])))
    out = np.empty_like(got)
    if not backend.on_device:
        assert backend(kn.hedge, losses, lr, out=out) is out
        np.testing.assert_array_equal(out, got)
    limit = kn.LIMITS["hedge"][oracle.name_of(dtype)] + 4 * backend.plain
    sums = np.cumsum(np.vstack([np.zeros((1, 5)), oracle.widen(losses)]), axis=0)
    for k in range(3):
        exact = reference.hedge(np.ones(1), sums, oracle.widen(lr)[k])
        assert oracle.worst(got[k], exact, dtype, 0.0, 2 * float(lr[k]) * sums)[0] <= limit


@pytest.mark.parametrize("n", [1, 5, 36, 64, 65])
@pytest.mark.parametrize("days", [3, 63, 64, 200])
def test_hedge_of_short_rows(backend, dtype, n, days, rng):
    """Rates that need a pivot beside rates that do not, first weights of 0, the end of a tile."""
    losses = rng.standard_normal((2, 1, days, n)).astype(dtype)
    w0 = (rng.random(n) * (rng.random(n) < 0.8) + (np.arange(n) == 0)).astype(dtype)
    lr = np.array([0.3, 500.0, -2.0]).astype(dtype)
    got = backend(kn.hedge, losses, lr, w0=w0)
    assert got.shape == (2, 3, days + 1, n) and got.dtype == dtype
    zero = np.zeros((2, 1, 1, n))
    sums = np.cumsum(np.concatenate([zero, oracle.widen(losses)], axis=-2), axis=-2)
    rates = oracle.widen(lr)[:, None]
    exact = reference.hedge(oracle.widen(w0), sums, rates)
    limit = kn.LIMITS["hedge"][oracle.name_of(dtype)] + 4 * backend.plain
    size = np.abs(rates[..., None]) * np.abs(sums).max(axis=-1, keepdims=True)
    assert oracle.worst(got, exact, dtype, 0.0, 2 * size)[0] <= limit


def test_hedge_adds_in_double(backend):
    """In float32 a sum of 2^25 swallows ones."""
    losses = np.zeros((4000, 2), np.float32)
    losses[0] = 2.0**25
    losses[1:, 0] = 1 / 4096
    if backend.name == "cuda":
        losses = losses[:50]
    got = backend(kn.hedge, losses, 1.0)
    assert got[-1, 0] == pytest.approx(1 / (1 + math.exp((len(losses) - 1) / 4096)), rel=1e-6)


def test_hedge_shapes_and_errors():
    assert kn.hedge(np.zeros((0, 3)), 1.0).shape == (1, 3)
    assert kn.hedge(np.zeros((2, 4, 3)), np.ones(2)).shape == (2, 5, 3)
    assert kn.hedge(np.zeros((4, 3)), np.ones((2, 1)), w0=np.ones((5, 3))).shape == (2, 5, 5, 3)
    assert kn.hedge(np.zeros((4, 0)), 1.0).shape == (5, 0)
    for call in (
        lambda: kn.hedge(np.zeros(3), 1.0),
        lambda: kn.hedge(np.zeros((4, 3)), 1.0, w0=np.ones(2)),
        lambda: kn.hedge(np.zeros((2, 4, 3)), np.ones(3)),
        lambda: kn.hedge(np.zeros((4, 3)), 1.0, out=np.zeros((4, 3))),
    ):
        with pytest.raises(ValueError, match="^hedge: "):
            call()
    with pytest.raises(TypeError, match="^hedge: "):
        kn.hedge(np.zeros((4, 3), complex), 1.0)


# --- portfolio_eg ---


@pytest.mark.parametrize(
    "lr, log_wealth, final",
    [
        (0.05, 2.244246662606827, (0.49916123826714653, 0.50083876173285351)),
        (0.5, 1.2097661444869188, None),
        (5.0, -10.008314329681948, None),
    ],
)
def test_flat_asset_against_one_that_halves_and_doubles(backend, lr, log_wealth, final):
    x = np.tile([[1.0, 0.5], [1.0, 2.0]], (20, 1))
    got = backend(kn.portfolio_eg, x, lr=lr)
    assert got.log_wealth[-1] == pytest.approx(log_wealth, rel=40 * 4 * U)
    if final:
        np.testing.assert_allclose(got.final, final, rtol=1e-14)


def test_nyse(backend, nyse):
    """Wealth 27.0949 of the benchmark tables."""
    if backend.name == "cuda":
        nyse = nyse[:40]
    got = backend(kn.portfolio_eg, nyse, lr=0.05)
    if backend.name != "cuda":
        assert got.log_wealth[-1] == pytest.approx(3.2993451344695612, rel=1e-13)
        assert math.exp(got.log_wealth[-1]) == pytest.approx(27.094889600332863, rel=1e-13)
    np.testing.assert_allclose(got.weights.sum(axis=-1), 1, rtol=1e-15 * 36)
    simple = np.cumsum(np.log((got.weights * nyse).sum(axis=-1)))
    np.testing.assert_allclose(got.log_wealth, simple, atol=1e-12)


@pytest.mark.parametrize(
    "pair, wealth",
    [((19, 22), (70.858, 64.429)), ((5, 22), (117.159, 110.957)), ((5, 25), (97.938, 94.284))],
)
def test_nyse_pairs(nyse, pair, wealth):
    got = kn.portfolio_eg(nyse[:, pair], lr=[0.01, 0.05])
    np.testing.assert_allclose(np.exp(got.log_wealth[:, -1]), wealth, atol=6e-4)


def test_portfolio_is_eg_step_by_step(backend, rng):
    """Rates of both signs, batches, and relatives that ask for another shift."""
    x = rng.lognormal(0, 0.3, (9, 5))
    x[3] = [1e-3, 1e3, 0.0, 1.0, 1e-200]
    lr = np.array([0.05, 3.0, -1.0, 600.0])
    got = backend(kn.portfolio_eg, x, lr=lr, w0=[1.0, 2.0, 3.0, 1e-250, 0.0])
    for k, rate in enumerate(lr):
        w = np.array([1.0, 2.0, 3.0, 1e-250, 0.0])
        w, wealth = w / w.sum(), 0.0
        for t in range(9):
            np.testing.assert_allclose(got.weights[k, t], w, rtol=1e-11, atol=1e-300)
            r = w @ x[t]
            wealth += math.log(r)
            assert got.log_wealth[k, t] == pytest.approx(wealth, abs=1e-12)
            w = np.asarray(kn.eg_step(w, -x[t] / r, rate, backend="reference"))
        np.testing.assert_allclose(got.final[k], w, rtol=1e-11, atol=1e-300)


def test_portfolio_types_and_layouts(backend, dtype, rng):
    x = rng.lognormal(0, 0.1, (3, 20, 6)).astype(dtype)
    lr = np.full((2, 1), 0.5).astype(dtype)
    got = backend(kn.portfolio_eg, x, lr=lr)
    assert got.weights.shape == (2, 3, 20, 6) and got.final.shape == (2, 3, 6)
    assert got.log_wealth.shape == (2, 3, 20) and all(r.dtype == dtype for r in got)
    wide = backend(kn.portfolio_eg, x.astype(np.float64), lr=0.5)
    for r, w in zip(got, wide, strict=True):
        assert (
            oracle.worst(
                r[0], w, dtype, np.maximum(np.abs(w), 2.0**-10), 20 * (dtype == np.float64)
            )[0]
            <= 1
        )
    turned = np.ascontiguousarray(x.transpose(2, 0, 1)).transpose(1, 2, 0)
    for r, w in zip(backend(kn.portfolio_eg, turned, lr=lr), got, strict=True):
        np.testing.assert_array_equal(r, w)
    if not backend.on_device:
        out = tuple(np.empty_like(r) for r in got)
        placed = backend(kn.portfolio_eg, x, lr=lr, out=out)
        for p, o, w in zip(placed, out, got, strict=True):
            assert p is o
            np.testing.assert_array_equal(o, w)


def test_portfolio_limits(backend):
    x = np.ones((4, 5, 3))
    x[0, 2] = 0  # everything is lost
    x[1, 2, 1] = -1
    x[2, 2, 1] = nan
    x[3, 2] = [0, 2, 0]
    got = backend(kn.portfolio_eg, x, lr=0.1)
    assert got.log_wealth[0, 2] == -inf and np.all(np.isnan(got.weights[0, 3:]))
    for k in (1, 2):
        assert np.all(np.isnan(got.log_wealth[k, 2:])) and np.all(np.isnan(got.weights[k, 3:]))
        assert np.all(np.isfinite(got.weights[k, :3])) and np.all(
            np.isfinite(got.log_wealth[k, :2])
        )
        assert np.all(np.isnan(got.final[k]))
    assert np.all(np.isfinite(got.weights[3])) and got.log_wealth[3, -1] == pytest.approx(
        math.log(2 / 3)
    )
    assert np.all(np.isnan(backend(kn.portfolio_eg, x[3], lr=inf).log_wealth))
    huge = backend(kn.portfolio_eg, np.full((400, 2), 1e300), lr=0.1)
    assert huge.log_wealth[-1] == pytest.approx(400 * math.log(1e300))


def test_portfolio_into_its_relatives(backend, rng):
    """Results may go where the relatives lie, as they are, in part or turned around."""
    x = rng.lognormal(0, 0.1, (40, 4))
    want = backend(kn.portfolio_eg, x, lr=0.5)
    for place in (lambda a: a[:40], lambda a: a[1:], lambda a: a[39::-1]):
        memory = np.empty((41, 4))
        memory[:40] = x
        out = place(memory), np.empty(4), np.empty(40)
        got = backend(kn.portfolio_eg, memory[:40], lr=0.5, out=out)
        for mine, right in zip(got, want, strict=True):
            np.testing.assert_array_equal(mine, right)


def test_portfolio_shapes_and_errors():
    got = kn.portfolio_eg(np.ones((0, 3)), w0=[1.0, 1.0, 2.0])
    assert got.weights.shape == (0, 3) and got.log_wealth.shape == (0,)
    np.testing.assert_array_equal(got.final, [0.25, 0.25, 0.5])
    assert kn.portfolio_eg(np.ones((4, 0))).weights.shape == (4, 0)
    assert kn.portfolio_eg(np.ones((0, 4, 2))).final.shape == (0, 2)
    for call in (
        lambda: kn.portfolio_eg(np.ones(3)),
        lambda: kn.portfolio_eg(np.ones((4, 3)), w0=np.ones(2)),
        lambda: kn.portfolio_eg(np.ones((4, 1)), w0=np.ones(2)),
        lambda: kn.portfolio_eg(np.ones((2, 4, 3)), lr=np.ones(3)),
    ):
        with pytest.raises(ValueError, match="^portfolio_eg: "):
            call()


def test_sequences_on_any_number_of_threads(threads, rng):
    x, lr = rng.lognormal(0, 0.1, (30, 9)), np.linspace(0, 1, 50)
    kn.set_num_threads(1)
    one = kn.portfolio_eg(x, lr=lr), kn.hedge(x, lr)
    kn.set_num_threads(3)
    for a, b in zip((*one[0], one[1]), (*kn.portfolio_eg(x, lr=lr), kn.hedge(x, lr)), strict=True):
        np.testing.assert_array_equal(a, b)
