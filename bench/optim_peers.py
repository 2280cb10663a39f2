"""Competitors for exponentiated gradient. Names that begin with "kn" are ours, "limit" is a copy.

Steps work in place, as they are used: each call starts from what the one before left, so rates are
small, and results are checked on the first call. float32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import kexue_native as kn
from harness import Unavailable, load

Call = Callable[[], Any]

RATE = np.float32(1e-3)
SHAPES = ((20_000, 1000), (1_000_000, 8), (1, 20_000_000))
DATA = "shared/data/nyse_o_relatives.npz"


class Problem(NamedTuple):
    function: str
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.function} {'x'.join(map(str, self.shape))}"


def problems(quick: bool = False) -> list[Problem]:
    def small(shape: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(min(size, 300) for size in shape) if quick else shape

    return [
        Problem("egu_step", small((20_000_000,))),
        *(Problem("eg_step", small(shape)) for shape in SHAPES),
        Problem("eg_pm_step", small(SHAPES[0])),
        Problem("eg_stepsize_step", small((20_000_000,))),
        Problem("hedge", (8, 60, 36) if quick else (200, 5651, 36)),
        Problem("portfolio_eg", (8, 60, 36) if quick else (200, 5651, 36)),
        Problem("project_simplex", small((20_000, 1000))),
        Problem("project_simplex", small((1, 1_000_000))),
    ]


@cache
def random(shape: tuple[int, ...], seed: int, positive: bool) -> np.ndarray:
    rng = np.random.default_rng([8968, seed])
    if positive:
        return rng.random(shape, dtype=np.float32) + np.float32(0.5)
    return rng.standard_normal(shape, dtype=np.float32)


@cache
def relatives(days: int, n: int) -> np.ndarray:
    """Those of NYSE(O) where the file is beside the repository, else random ones."""
    root = Path(__file__).resolve().parents[1]
    for folder in (root, root.parent):
        if (folder / DATA).is_file():
            return (np.load(folder / DATA)["rel"][:days, :n] / 1e5).astype(np.float32)
    return np.random.default_rng(0).lognormal(4e-4, 0.02, (days, n)).astype(np.float32)


def rates(count: int) -> np.ndarray:
    return np.linspace(0.005, 1, count, dtype=np.float32)


class Arrays(NamedTuple):
    """What a problem is about: what is updated, and what is read."""

    state: tuple[np.ndarray, ...]
    given: tuple[np.ndarray, ...]


def arrays(p: Problem) -> Arrays:
    if p.function in ("hedge", "portfolio_eg"):
        x = relatives(*p.shape[1:])
        return Arrays((), (x if p.function == "portfolio_eg" else -np.log(x), rates(p.shape[0])))
    g = random(p.shape, 1, False)
    if p.function == "project_simplex":
        return Arrays((), (g,))
    w = random(p.shape, 0, True)
    if p.function == "eg_stepsize_step":
        return Arrays((w.copy(), w.copy(), np.float32(1e-3) * g, g.copy()), (g,))
    if p.function in ("eg_step", "eg_pm_step"):
        w = w / w.sum(axis=-1, keepdims=True) / (2 if p.function == "eg_pm_step" else 1)
    return Arrays((w.copy(), w.copy()) if p.function == "eg_pm_step" else (w.copy(),), (g,))


# A competitor takes a problem, its arrays and the number of threads, and returns a call, whose
# result is the updated state or the new arrays.


def ours(p: Problem, a: Arrays, threads: int, backend: str = "cpu") -> Call:
    kn.set_num_threads(threads)
    if p.function == "hedge":
        out = np.empty((p.shape[0], p.shape[1] + 1, p.shape[2]), np.float32)
        return partial(kn.hedge, *a.given, out=out, backend=backend)
    if p.function == "portfolio_eg":
        k, days, n = p.shape
        places = tuple(np.empty(shape, np.float32) for shape in (p.shape, (k, n), (k, days)))
        return partial(kn.portfolio_eg, a.given[0], lr=a.given[1], out=places, backend=backend)
    if p.function == "project_simplex":
        return partial(
            kn.project_simplex, *a.given, out=np.empty(p.shape, np.float32), backend=backend
        )
    (g,) = a.given
    if p.function == "eg_pm_step":
        return partial(
            kn.eg_pm_step, *a.state, g, float(RATE), mass=1.0, out=a.state, backend=backend
        )
    if p.function == "eg_stepsize_step":
        theta, gain, velocity, average = a.state
        state = [kn.StepsizeState(gain, np.ones(()), velocity, average, 3)]

        def step() -> Any:
            _, state[0] = kn.eg_stepsize_step(
                theta, g, state[0], lr=1e-3, inplace=True, out=theta, backend=backend
            )
            return a.state

        return step
    w = a.state[0]
    return partial(getattr(kn, p.function), w, g, float(RATE), out=w, backend=backend)


def plain(p: Problem, a: Arrays, threads: int) -> Call:
    """NumPy, in place where it can."""
    if p.function == "hedge":
        x, lr = a.given
        sums = np.vstack([np.zeros((1, x.shape[1])), np.cumsum(x, axis=0, dtype=np.float64)])

        def hedge() -> np.ndarray:
            z = (-lr[:, None, None] * sums).astype(np.float32)
            z -= z.max(axis=-1, keepdims=True)
            np.exp(z, out=z)
            z /= z.sum(axis=-1, keepdims=True)
            return z

        return hedge
    if p.function == "portfolio_eg":
        x, lr = a.given

        def portfolio() -> Any:
            weights = np.empty(p.shape, np.float32)
            wealth = np.empty(p.shape[:2], np.float32)
            w = np.full((p.shape[0], p.shape[2]), 1 / p.shape[2])
            total = np.zeros(p.shape[0])
            for t in range(p.shape[1]):
                weights[:, t] = w
                r = w @ x[t]
                total += np.log(r)
                wealth[:, t] = total
                w *= np.exp(lr[:, None] * x[t] / r[:, None])
                w /= w.sum(axis=1, keepdims=True)
            return weights, w, wealth

        return portfolio
    (g,) = a.given
    if p.function == "project_simplex":

        def project() -> np.ndarray:
            u = -np.sort(-g, axis=-1)
            css = np.cumsum(u, axis=-1, dtype=np.float64) - 1
            j = np.arange(1, g.shape[-1] + 1)
            rho = (u - css / j > 0).sum(axis=-1, keepdims=True)
            tau = np.take_along_axis(css, rho - 1, axis=-1) / rho
            return np.maximum(g - tau, 0).astype(np.float32)

        return project
    room = np.empty_like(g)

    def factor(sign: float) -> np.ndarray:
        np.multiply(g, np.float32(sign) * RATE, out=room)
        return np.exp(room, out=room)

    def egu() -> np.ndarray:
        return np.multiply(a.state[0], factor(-1), out=a.state[0])

    def eg() -> np.ndarray:
        w = egu()
        w /= w.sum(axis=-1, keepdims=True)
        return w

    def eg_pm() -> Any:
        up, down = a.state
        up *= factor(-1)
        down *= factor(1)
        total = up.sum(axis=-1, keepdims=True) + down.sum(axis=-1, keepdims=True)
        up /= total
        down /= total
        return a.state

    scale = [1.0]

    def stepsize() -> Any:
        theta, p_, v, m = a.state
        p_ *= np.exp(np.float32(0.01) * (np.sign(g) * np.sign(m)))
        np.clip(p_, 1e-2, 1e2, out=p_)
        cosine = float(g @ v) / (float(np.linalg.norm(g)) * float(np.linalg.norm(v)) + 1e-20)
        scale[0] = min(max(scale[0] * np.exp(0.001 * cosine), 0.1), 10.0)
        v *= np.float32(0.9)
        v += RATE * p_ * g
        m *= np.float32(0.9)
        m += np.float32(0.1) * g
        theta -= np.float32(scale[0]) * v
        return a.state

    return {"egu_step": egu, "eg_step": eg, "eg_pm_step": eg_pm, "eg_stepsize_step": stepsize}[
        p.function
    ]


def numexpr(p: Problem, a: Arrays, threads: int) -> Call:
    numexpr = load("numexpr")
    numexpr.set_num_threads(threads)
    if p.function not in ("egu_step", "eg_step"):
        raise Unavailable("no way to say it in one expression")
    w, g = a.state[0], a.given[0]
    names = {"w": w, "g": g, "rate": RATE}

    def step() -> np.ndarray:
        numexpr.evaluate("w * exp(-rate * g)", names, out=w, casting="same_kind")
        if p.function == "eg_step":
            inverse = 1 / w.sum(axis=-1, keepdims=True)
            numexpr.evaluate("w * inverse", {"w": w, "inverse": inverse}, out=w)
        return w

    return step


def numba(p: Problem, a: Arrays, threads: int) -> Call:
    load("numba").set_num_threads(threads)
    kernels = load("numba_optim")
    if p.function == "hedge":
        x, lr = a.given
        out = np.empty((p.shape[0], p.shape[1] + 1, p.shape[2]), np.float32)
        return lambda: kernels.hedge(x, lr, out)
    if p.function == "portfolio_eg":
        x, lr = a.given
        weights, wealth = np.empty(p.shape, np.float32), np.empty(p.shape[:2], np.float32)
        final = np.empty((p.shape[0], p.shape[2]), np.float32)
        return lambda: kernels.portfolio_eg(x, lr, weights, final, wealth)
    (g,) = a.given
    if p.function == "project_simplex":
        out = np.empty(p.shape, np.float32)
        return lambda: kernels.project_simplex(g, out)
    if p.function == "eg_stepsize_step":
        scale = np.ones(1)
        return lambda: kernels.eg_stepsize_step(*a.state, g, scale)
    kernel = getattr(kernels, p.function)
    if p.function == "eg_step" and p.shape[0] == 1:
        kernel = kernels.eg_step_one_row
    return lambda: kernel(*a.state, g, RATE)


def torch(p: Problem, a: Arrays, threads: int) -> Call:
    torch = load("torch")
    torch.set_num_threads(threads)
    state, given = ([torch.from_numpy(x) for x in xs] for xs in a)

    def egu() -> Any:
        return state[0].mul_(torch.exp(given[0] * -RATE.item()))

    def eg() -> Any:
        torch.softmax(torch.log(state[0]).sub_(given[0], alpha=RATE.item()), -1, out=state[0])
        return state[0]

    def eg_pm() -> Any:
        e = torch.exp(given[0] * -RATE.item())
        up, down = state[0].mul_(e), state[1].div_(e)
        total = up.sum(-1, keepdim=True) + down.sum(-1, keepdim=True)
        up.div_(total), down.div_(total)
        return a.state

    def hedge() -> Any:
        x, lr = given
        sums = torch.cat([torch.zeros(1, x.shape[1]), torch.cumsum(x, 0)])
        return torch.softmax(-lr[:, None, None] * sums, -1)

    def project() -> Any:
        u = torch.sort(given[0], -1, descending=True).values
        css = torch.cumsum(u, -1) - 1
        j = torch.arange(1, u.shape[-1] + 1)
        rho = (u * j > css).sum(-1, keepdim=True)
        return torch.clamp(given[0] - css.gather(-1, rho - 1) / rho, min=0)

    found = {
        "egu_step": egu,
        "eg_step": eg,
        "eg_pm_step": eg_pm,
        "hedge": hedge,
        "project_simplex": project,
    }
    if p.function not in found:
        raise Unavailable("a loop in Python, or many passes")
    return found[p.function]


def jax(p: Problem, a: Arrays, threads: int) -> Call:
    jax = load("jax")
    nn, jnp = load("jax.nn"), load("jax.numpy")
    rate = float(RATE)

    def stepsize(theta: Any, gain: Any, v: Any, m: Any, scale: Any, g: Any) -> Any:
        gain = jnp.clip(gain * jnp.exp(0.01 * jnp.sign(g) * jnp.sign(m)), 1e-2, 1e2)
        norms = (jnp.linalg.norm(g) + 1e-10) * (jnp.linalg.norm(v) + 1e-10)
        scale = jnp.clip(scale * jnp.exp(0.001 * (g @ v) / norms), 0.1, 10.0)
        v = 0.9 * v + 1e-3 * gain * g
        m = 0.9 * m + 0.1 * g
        return theta - scale * v, gain, v, m, scale

    def pair(up: Any, down: Any, g: Any) -> Any:
        e = jnp.exp(-rate * g)
        up, down = up * e, down / e
        total = up.sum(-1, keepdims=True) + down.sum(-1, keepdims=True)
        return up / total, down / total

    if p.function == "hedge":
        x, lr = (jax.device_put(v) for v in a.given)

        def hedge(x: Any, lr: Any) -> Any:
            sums = jnp.concatenate([jnp.zeros((1, x.shape[1])), jnp.cumsum(x, 0)])
            return nn.softmax(-lr[:, None, None] * sums, -1)

        compiled = jax.jit(hedge)
        return lambda: compiled(x, lr).block_until_ready()
    if p.function == "portfolio_eg":
        x, lr = (jax.device_put(v) for v in a.given)

        def portfolio(x: Any, lr: Any) -> Any:
            def day(state: Any, x: Any) -> Any:
                w, total = state
                r = w @ x
                total = total + jnp.log(r)
                z = w * jnp.exp(lr[:, None] * x / r[:, None])
                return (z / z.sum(-1, keepdims=True), total), (w, total)

            start = jnp.full((lr.size, x.shape[1]), 1 / x.shape[1]), jnp.zeros(lr.size)
            (final, _), (weights, wealth) = jax.lax.scan(day, start, x)
            return jnp.swapaxes(weights, 0, 1), final, wealth.T

        compiled = jax.jit(portfolio)
        return lambda: jax.block_until_ready(compiled(x, lr))
    g = jax.device_put(a.given[0])
    if p.function == "project_simplex":
        optax = load("optax.projections")
        compiled = jax.jit(jax.vmap(optax.projection_simplex))
        return lambda: compiled(g).block_until_ready()
    functions = {
        "egu_step": lambda w, g: (w * jnp.exp(-rate * g),),
        "eg_step": lambda w, g: (nn.softmax(jnp.log(w) - rate * g, -1),),
        "eg_pm_step": pair,
        "eg_stepsize_step": stepsize,
    }
    state = [jax.device_put(x) for x in a.state]
    if p.function == "eg_stepsize_step":
        state.append(jnp.ones(()))
    compiled = jax.jit(functions[p.function], donate_argnums=tuple(range(len(state))))

    def step() -> Any:
        state[:] = compiled(*state, g)
        jax.block_until_ready(state)
        return state[0] if len(state) == 1 else state[: len(a.state)]

    return step


def pot(p: Problem, a: Arrays, threads: int) -> Call:
    if p.function != "project_simplex":
        raise Unavailable("no such function")
    ot = load("ot")
    columns = np.ascontiguousarray(a.given[0].T)  # it projects columns
    return lambda: np.asarray(ot.utils.proj_simplex(columns, 1)).T


def copy(p: Problem, a: Arrays, threads: int) -> Call:
    """As many bytes as a step has to read and write, by copying."""
    from special_peers import in_parts

    reads = len(a.state) + len(a.given)
    writes = len(a.state) or 1
    if p.function in ("hedge", "portfolio_eg"):
        source = np.zeros(p.shape, np.float32)
        reads, writes = 0, 1
    else:
        source = a.given[0].reshape(-1)
    out = np.empty_like(source).reshape(-1)
    source = source.reshape(-1)
    share = (reads + writes) / 2 / (1 if reads else 1)
    whole, part = int(share), share - int(share)
    count = source.size

    def call() -> None:
        for _ in range(whole):
            in_parts(lambda i, j: np.copyto(out[i:j], source[i:j]), count, threads)
        if part:
            end = int(part * count)
            in_parts(lambda i, j: np.copyto(out[i:j], source[i:j]), end, threads)

    return call


def competitors(problem: Problem) -> dict[str, Callable[[Problem, Arrays, int], Call]]:
    found = {
        "kn": ours,
        "numpy": plain,
        "numexpr": numexpr,
        "numba": numba,
        "torch": torch,
        "jax": jax,
        "POT": pot,
        "limit copy": copy,
    }
    if problem.function == "project_simplex":
        found["optax"] = found.pop("jax")
    return found


@cache
def expected(problem: Problem) -> tuple[np.ndarray, ...]:
    """The first call's results by the kernel, which the tests hold to its stated accuracy."""
    return results(ours(problem, arrays(problem), 2)())


def results(found: Any) -> tuple[np.ndarray, ...]:
    many = isinstance(found, (tuple, list))
    return tuple(np.array(x, np.float32) for x in (found if many else (found,)))


def prepare(problem: Problem, competitor: str, threads: int) -> Call:
    """The call of a competitor whose first result is right."""
    call = competitors(problem)[competitor](problem, arrays(problem), threads)
    first = call()
    if competitor != "limit copy":
        for got, want in zip(results(first), expected(problem), strict=True):
            error = np.abs(got - want).max()
            largest = np.abs(want).max()
            assert error <= 2e-3 * largest, f"off by up to {error / largest:.3g} of the largest"
    return call
