"""Arg max under noise: values, limits and pitfalls of the specification."""

import math

import numpy as np
import pytest
from mpmath import mp, mpf, quad, workdps
from scipy.special import ndtri
from scipy.stats import norm

import kexue_native as kn
from closeness import near, remembered, same, slopes
from kexue_native.special.argmax import reference

NOISES = ("gumbel", "exponential", "uniform", "normal")
inf, nan = math.inf, math.nan


@pytest.mark.parametrize("gap", [0.0, 0.3, 0.9, 2.0])
def test_two_entries_in_closed_form(backend, gap):
    mu = np.array([0.7, 0.7 - gap])
    first = {
        "gumbel": 1 / (1 + math.exp(-gap)),
        "exponential": 1 - math.exp(-gap) / 2,
        "uniform": 1 - max(1 - gap, 0) ** 2 / 2,
        "normal": (1 + math.erf(gap / 2)) / 2,
    }
    for noise, p in first.items():
        near(backend(kn.argmax_distribution, mu, noise), [p, 1 - p], scale=1)
        near(backend(kn.argmax_distribution, 3 * mu, noise, scale=3.0), [p, 1 - p], scale=1)


@remembered
def exponential_by_sums(mu):
    """a_i times the alternating sum over subsets of the others, in many digits."""
    with workdps(60):
        a = [mp.exp(mpf(float(m)) - mpf(float(max(mu)))) for m in mu]
        return [float(p * quad(lambda v, i=i: product(a, v, i), [0, 1])) for i, p in enumerate(a)]


def product(a, v, skipped):
    result = mpf(1)
    for j, x in enumerate(a):
        if j != skipped:
            result *= 1 - x * v
    return result


def test_exponential_exact(backend, rng):
    for n in (1, 3, 7):
        mu = 2 * rng.standard_normal(n)
        near(backend(kn.argmax_distribution, mu, "exponential"), exponential_by_sums(mu))


@pytest.mark.parametrize("gap", [4.5, 12.5, 20.5, 21.0])
def test_exponential_of_many_equal_factors(backend, gap):
    """p of the largest is (1 - (1 - a)^n) / (n a): a thousand roundings must not add up."""
    n = 1000
    mu = np.append(np.full(n - 1, -gap), 0.0)
    with workdps(40):
        a = mp.exp(-mpf(gap))
        p = float((1 - (1 - a) ** n) / (n * a))
    got = backend(kn.argmax_distribution, mu, "exponential")[-1]
    assert abs(got - p) <= (kn.LIMITS["argmax_distribution"]["float64"] + 2 * backend.plain) * (
        np.spacing(p)
    )


@remembered
def normal_exact(mu):
    """The integrals of the specification in many digits."""
    with workdps(25):

        def density(y, i):
            value = mp.npdf(y - mu[i])
            for j, m in enumerate(mu):
                value *= mp.ncdf(y - m) if j != i else 1
            return value

        return [float(quad(lambda y, i=i: density(y, i), range(-8, 11, 2))) for i in range(len(mu))]


MU = np.array([0.3, -1.2, 1.1, 0.9])


def test_normal_exact(backend):
    near(backend(kn.argmax_distribution, MU, "normal"), normal_exact(MU))


def test_normal_rule_of_the_article():
    """First order in 1 / K: 3.9 % off for the smallest at K = 1000."""
    nodes = ndtri(np.arange(1, 1001) / 1001)[:, None]
    cdf = norm.cdf(nodes[:, :, None] + MU[None, :, None] - MU)  # node, i, j
    rule = np.mean(np.prod(np.where(np.eye(4, dtype=bool), 1, cdf), axis=-1), axis=0)
    assert abs(rule[1] / normal_exact(MU)[1] - 1) > 0.03 and abs(sum(rule) - 0.9991) < 1e-4


@pytest.mark.parametrize("noise", NOISES)
def test_rows_sum_to_one_and_keep_their_order(backend, noise, rng):
    mu = rng.standard_normal((6, 40))
    p = backend(kn.argmax_distribution, mu, noise)
    near(p.sum(axis=-1), np.ones(6))
    order = np.argsort(mu, axis=-1)
    assert np.all(np.diff(np.take_along_axis(p, order, axis=-1), axis=-1) >= 0)


def test_uniform_is_sparse(backend):
    p = backend(kn.argmax_distribution, [0.0, -1.0, -0.5, -7.0], "uniform")
    assert p[1] == p[3] == 0 < p[2]


@pytest.mark.parametrize("noise", NOISES)
def test_special_values(backend, noise):
    def p(*mu):
        return backend(kn.argmax_distribution, list(mu), noise)

    same(p(3.0), [1])
    same(p(0.0, -inf), [1, 0])
    same(p(inf, 0.0, inf), [0.5, 0, 0.5])
    assert np.all(np.isnan(p(-inf, -inf))) and np.all(np.isnan(p(0.0, nan)))
    assert p().shape == (0,)


@pytest.mark.parametrize("noise", NOISES)
def test_gradient(backend, noise, rng):
    """Central differences of the reference; uniform noise away from its breakpoints."""
    mu = np.array([[0.3, -0.2, 0.55], [-0.1, 0.24, 0.01]])
    g = rng.standard_normal(mu.shape)
    got = backend(kn.argmax_distribution_vjp, mu, g, noise)
    kernel = {
        "exponential": reference.argmax_exponential,
        "uniform": reference.argmax_uniform,
        "normal": reference.argmax_normal,
    }.get(noise)
    if kernel is None:
        near(got, backend(kn.softmax_vjp, mu, g, axis=-1))
        return
    found = slopes(lambda x: np.sum(g * kernel(x), axis=-1), mu.astype(np.longdouble))
    near(got, found.astype(float), scale=1e4)  # 2e-9
    near(np.sum(got, axis=-1), np.zeros(2), scale=1)


def test_gumbel_noise(backend):
    draws = np.random.default_rng(7).standard_exponential((3, 4))
    got = backend(kn.gumbel_noise, (3, 4), 7)
    near(got, -np.log(draws), scale=1)
    assert got.dtype == np.float64
    same(got, backend(kn.gumbel_noise, (3, 4), np.random.default_rng(7)))
    assert np.ndim(kn.gumbel_noise(())) == 0 and kn.gumbel_noise(0).shape == (0,)
    sample = kn.gumbel_noise(200_000, 1)
    assert (
        abs(np.mean(sample) - 0.5772156649) < 0.02 and abs(np.var(sample) - math.pi**2 / 6) < 0.05
    )
    assert reference.gumbel_noise(np.zeros(1))[0] == pytest.approx(744.4400719213812)


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ((-1,), ValueError, "size must not be negative"),
        (("3",), TypeError, "size must be an int"),
        ((3, "seed"), TypeError, "rng must be None, an int"),
        ((3, -1), ValueError, "rng must not be negative"),
    ],
)
def test_gumbel_noise_refuses(arguments, kind, words):
    with pytest.raises(kind, match=words):
        kn.gumbel_noise(*arguments)


def test_float32_uniforms_give_infinite_noise():
    """The public -log(-log u): u = 1 gives inf, then nan; ours has no such draw."""
    u = np.array([1.0, 0.5], np.float32)
    with np.errstate(all="ignore"):
        noise = -np.log(-np.log(u))
        public = np.exp(noise - noise.max()) / np.sum(np.exp(noise - noise.max()))
    assert np.isnan(public).any()
    assert np.all(np.isfinite(kn.gumbel_noise(100_000, 3)))


def test_gumbel_max(backend, dtype):
    logits = np.array([[0, 1, 0.5], [2, 2, 0], [-inf, -3, -inf]], dtype)
    noise = np.array([[0, 0, 1], [0, 0, 0], [inf, 0, inf]], dtype)
    got = backend(kn.gumbel_max, logits, noise)
    assert got.dtype == np.intp
    same(got, [2, 0, 1])
    same(backend(kn.gumbel_max, logits.T, noise.T, axis=0), [2, 0, 1])
    same(backend(kn.gumbel_max, [[-inf, -inf], [0, nan]], np.zeros((2, 2))), [-1, -1])
    out = np.empty(3, np.intp)
    assert backend(kn.gumbel_max, logits, noise, out=out) is out
    same(out, [2, 0, 1])


def test_noise_of_uneven_rows_is_refused():
    for f in (kn.gumbel_max, kn.gumbel_softmax):
        with pytest.raises(ValueError, match=f"^{f.__name__}: gumbel must be array-like"):
            f(np.zeros((0, 3)), [[1, 2], [3]])


def test_gumbel_max_samples_softmax(backend):
    logits = np.log([0.5, 0.3, 0.2])
    winners = backend(kn.gumbel_max, np.broadcast_to(logits, (40_000, 3)), rng=11)
    share = np.bincount(winners, minlength=3) / winners.size
    assert np.all(np.abs(share - [0.5, 0.3, 0.2]) < 0.01)
    same(backend(kn.gumbel_max, logits, rng=5), backend(kn.gumbel_max, logits, rng=5))


def test_gumbel_softmax(backend):
    logits, noise = np.array([[0.0, 1.0, 0.5]]), np.array([[0.0, 0.0, 1.0]])
    for tau in (0.3, 1.0, 4.0):
        z = (logits + noise) / tau
        near(backend(kn.gumbel_softmax, logits, noise, tau=tau), kn.softmax(z, axis=-1))
    same(backend(kn.gumbel_softmax, logits, noise, hard=True), [[0, 0, 1]])
    same(backend(kn.gumbel_softmax, logits, noise, tau=5e-324), [[0, 0, 1]])
    assert np.all(np.isnan(backend(kn.gumbel_softmax, [[-inf, -inf]], [[0.0, 0.0]], hard=True)))
    g = np.array([[1.0, -2.0, 0.5]])
    near(
        backend(kn.gumbel_softmax_vjp, logits, noise, g, tau=2.0),
        kn.softmax_vjp((logits + noise) / 2, g, axis=-1) / 2,
    )


def test_gumbel_softmax_refuses():
    with pytest.raises(ValueError, match="tau must be finite and greater than 0"):
        kn.gumbel_softmax([0.0, 1.0], tau=0)
    with pytest.raises(ValueError, match="rng must be None where gumbel is given"):
        kn.gumbel_softmax([0.0, 1.0], [0.0, 0.0], rng=1)
    with pytest.raises(ValueError, match="noise must be"):
        kn.argmax_distribution([0.0, 1.0], "cauchy")
