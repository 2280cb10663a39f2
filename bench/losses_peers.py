"""Competitors for the multi-label loss: ours, the public masking form, and forms tuned by hand.

Names that begin with "kn" are ours. A form that overflows beyond |s| of 88 is marked "unsafe": the
data stay below, so that it can be measured.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

import kexue_native as kn
from harness import Unavailable, load
from kexue_native import _backends
from kexue_native.losses.multilabel import reference

Call = Callable[[], Any]

SHAPES = ((4096, 1000), (256, 50_000), (65_536, 20))
SPARSE_SHAPES = ((256, 50_000), (64, 200_000))
QUICK_SHAPES = ((64, 1000), (4, 5000), (1024, 20))
POSITIVES = 5  # of a row of the sparse form
PART = 1 << 20  # elements that are checked at a time
TOLERANCE = 1e-5  # of the specification, for float32


class Problem(NamedTuple):
    """One form of targets on one shape, float32, with the gradient or without."""

    targets: str  # "hard", "soft" or "sparse"
    shape: tuple[int, int]
    grad: bool

    @property
    def name(self) -> str:
        rows, n = self.shape
        return f"{self.targets} {rows}x{n}{' with gradient' if self.grad else ''}"


def problems(quick: bool = False) -> list[Problem]:
    """All problems, those with the same data next to each other."""
    shapes = {"hard": SHAPES, "soft": SHAPES, "sparse": SPARSE_SHAPES}
    if quick:
        shapes = dict.fromkeys(shapes, QUICK_SHAPES)
    return [
        Problem(targets, shape, grad)
        for targets, those in shapes.items()
        for shape in those
        for grad in (False, True)
    ]


class Data(NamedTuple):
    scores: np.ndarray  # float32, standard deviation 3
    targets: np.ndarray  # float32; sparse and hard: 0 or 1
    positives: np.ndarray  # indices, for the sparse form
    loss: np.ndarray  # exact to float64
    grad_sum: np.ndarray  # of the squares of each row's gradient


@cache
def last_data() -> dict[tuple[str, tuple[int, int]], Data]:
    return {}


def data(problem: Problem) -> Data:
    """The arrays of a problem; those of the one before are forgotten."""
    key = (problem.targets, problem.shape)
    if key not in last_data():
        last_data().clear()
        last_data()[key] = make_data(*key)
    return last_data()[key]


def make_data(kind: str, shape: tuple[int, int]) -> Data:
    rng = np.random.default_rng(7359)
    rows, n = shape
    s = 3 * rng.standard_normal(shape, dtype=np.float32)
    positives = rng.integers(0, n, (rows, POSITIVES))
    if kind == "sparse":
        t = np.zeros(shape, np.float32)
        np.put_along_axis(t, positives, 1, axis=1)
    else:
        t = rng.random(shape, dtype=np.float32)
        if kind == "hard":
            t = (t < 0.1).astype(np.float32)
    step = max(1, PART // n)
    zero = np.zeros(())
    parts = [
        reference.multilabel_crossentropy(s[i : i + step], t[i : i + step], None, zero)
        for i in range(0, rows, step)
    ]
    loss = np.concatenate([p[0] for p in parts])
    return Data(s, t, positives, loss, np.concatenate([np.sum(p[1] ** 2, axis=1) for p in parts]))


def check(problem: Problem, result: Any) -> None:
    """AssertionError unless the loss is right, and the gradient by its squares."""
    d = data(problem)
    values = [np.asarray(v) for v in (result if problem.grad else [result])]
    assert values[0].dtype == np.float32, values[0].dtype
    error = np.abs(values[0] - d.loss) / np.maximum(np.abs(d.loss), 1)
    assert np.max(error) <= TOLERANCE, f"loss off by {np.max(error):.3g}"
    if problem.grad:
        squares = np.einsum("ij,ij->i", *[values[1]] * 2, dtype=np.float64)
        error = np.abs(squares - d.grad_sum) / d.grad_sum
        assert np.max(error) <= 10 * TOLERANCE, f"gradient off by {np.max(error):.3g}"


# ---- ours


def ours(kind: str, backend: str, p: Problem, threads: int) -> Call:
    reason = _backends.refusal(backend)
    if reason:
        raise Unavailable(reason)
    kn.set_num_threads(threads)
    d = data(p)
    out: Any = np.empty(p.shape[0], np.float32)
    if p.grad:
        out = (out, np.zeros_like(d.scores))
    options = {"return_grad": p.grad, "backend": backend, "out": out}
    if kind == "sparse":
        return partial(kn.sparse_multilabel_crossentropy, d.scores, d.positives, **options)
    targets = d.targets.astype(bool) if kind == "bool" else d.targets
    return partial(kn.multilabel_crossentropy, d.scores, targets, **options)


# ---- peers


def torch_public(p: Problem, threads: int) -> Call:
    """y = (1 - 2 t) s, the other side pushed away by 1e12, logsumexp with a column of zeros."""
    torch = load("torch")
    torch.set_num_threads(threads)
    d = data(p)
    s, t = (torch.from_numpy(x) for x in (d.scores, d.targets))

    def loss() -> Any:
        y = (1 - 2 * t) * s
        zeros = torch.zeros_like(y[..., :1])
        negative = torch.cat([y - t * 1e12, zeros], dim=-1)
        positive = torch.cat([y - (1 - t) * 1e12, zeros], dim=-1)
        return torch.logsumexp(negative, dim=-1) + torch.logsumexp(positive, dim=-1)

    if not p.grad:
        return no_grad(torch, loss)
    return with_autograd(s, loss)


def no_grad(torch: Any, loss: Call) -> Call:
    def call() -> Any:
        with torch.no_grad():
            return loss()

    return call


def with_autograd(s: Any, loss: Call) -> Call:
    def call() -> Any:
        s.requires_grad_()
        s.grad = None
        value = loss()
        value.sum().backward()
        s.requires_grad_(False)
        return value.detach(), s.grad

    return call


def torch_sparse(p: Problem, threads: int) -> Call:
    """Public form for indices: log(1 - exp(b - a)) of all classes and the positives, cut off."""
    torch = load("torch")
    torch.set_num_threads(threads)
    d = data(p)
    s, listed = torch.from_numpy(d.scores), torch.from_numpy(d.positives)

    def loss() -> Any:
        zeros = torch.zeros_like(s[..., :1])
        everything = torch.logsumexp(torch.cat([s, zeros], dim=-1), dim=-1)
        picked = torch.gather(s, -1, listed)
        positive = torch.logsumexp(torch.cat([-picked, zeros], dim=-1), dim=-1)
        ratio = torch.exp(torch.logsumexp(picked, dim=-1) - everything)
        return everything + torch.log(torch.clip(1 - ratio, 1e-7, 1)) + positive

    return with_autograd(s, loss) if p.grad else no_grad(torch, loss)


def torch_unsafe(p: Problem, threads: int) -> Call:
    """One exponential and its inverse, in place, the gradient by its formula."""
    torch = load("torch")
    torch.set_num_threads(threads)
    d = data(p)
    s, t = (torch.from_numpy(x) for x in (d.scores, d.targets))
    u, up, down, grad = (torch.empty_like(s) for _ in range(4))
    torch.sub(1, t, out=u)

    def call() -> Any:
        torch.exp(s, out=up)
        torch.reciprocal(up, out=down)
        up.mul_(u)
        down.mul_(t)
        negative, positive = up.sum(dim=-1, keepdim=True), down.sum(dim=-1, keepdim=True)
        loss = (negative.log1p() + positive.log1p()).squeeze(-1)
        if not p.grad:
            return loss
        torch.div(up, 1 + negative, out=grad)
        return loss, grad.addcdiv_(down, 1 + positive, value=-1)

    return no_grad(torch, call)


def jax(safe: bool, p: Problem, threads: int) -> Call:
    jax = load("jax")
    jnp = jax.numpy
    d = data(p)
    s, t = jax.device_put(d.scores), jax.device_put(d.targets)

    def part(x: Any, c: Any) -> Any:
        if not safe:
            return jnp.log1p(jnp.sum(c * jnp.exp(x), axis=-1))
        m = jnp.maximum(jnp.max(jnp.where(c > 0, x, 0), axis=-1, keepdims=True), 0)
        total = jnp.sum(c * jnp.exp(x - m), axis=-1) + jnp.exp(-m[..., 0])
        return m[..., 0] + jnp.log(total)

    def loss(s: Any, t: Any) -> Any:
        return part(s, 1 - t) + part(-s, t)

    def summed(s: Any, t: Any) -> Any:
        value = loss(s, t)
        return value.sum(), value

    if not p.grad:
        compiled = jax.jit(loss)
        return lambda: compiled(s, t).block_until_ready()
    with_grad = jax.jit(jax.value_and_grad(summed, has_aux=True))

    def call() -> Any:
        (_, value), grad = with_grad(s, t)
        return value.block_until_ready(), grad.block_until_ready()

    return call


def jax_public(p: Problem, threads: int) -> Call:
    """The public masking form, compiled."""
    jax = load("jax")
    jnp, special = jax.numpy, load("jax.scipy.special")
    d = data(p)
    s, t = jax.device_put(d.scores), jax.device_put(d.targets)

    def loss(s: Any, t: Any) -> Any:
        y = (1 - 2 * t) * s
        zeros = jnp.zeros_like(y[..., :1])
        negative = jnp.concatenate([y - t * 1e12, zeros], axis=-1)
        positive = jnp.concatenate([y - (1 - t) * 1e12, zeros], axis=-1)
        return special.logsumexp(negative, axis=-1) + special.logsumexp(positive, axis=-1)

    if not p.grad:
        compiled = jax.jit(loss)
        return lambda: compiled(s, t).block_until_ready()

    def summed(s: Any, t: Any) -> Any:
        value = loss(s, t)
        return value.sum(), value

    with_grad = jax.jit(jax.value_and_grad(summed, has_aux=True))

    def call() -> Any:
        (_, value), grad = with_grad(s, t)
        return value.block_until_ready(), grad.block_until_ready()

    return call


def numexpr_unsafe(p: Problem, threads: int) -> Call:
    ne = load("numexpr")
    ne.set_num_threads(threads)
    d = data(p)
    up, down = np.empty_like(d.scores), np.empty_like(d.scores)
    names: dict[str, Any] = {"s": d.scores, "t": d.targets, "one": np.float32(1)}

    def call() -> Any:
        ne.evaluate("(one - t) * exp(s)", names, out=up)
        ne.evaluate("t * exp(-s)", names, out=down)
        n, q = (1 + x.sum(axis=1, keepdims=True) for x in (up, down))
        loss = (np.log(n) + np.log(q))[:, 0]
        if not p.grad:
            return loss
        both = {"a": up, "b": down, "n": n, "q": q}
        return loss, ne.evaluate("a / n - b / q", both, out=up)

    return call


def numba(tuned: bool, p: Problem, threads: int) -> Call:
    load("numba").set_num_threads(threads)
    kernels = load("numba_losses")
    d = data(p)
    loss, grad = np.empty(p.shape[0], np.float32), np.empty_like(d.scores)
    run = kernels.tuned if tuned else kernels.plain

    def call() -> Any:
        run(d.scores, d.targets, loss, grad, p.grad)
        return (loss, grad) if p.grad else loss

    return call


def competitors(problem: Problem) -> dict[str, Callable[[Problem, int], Call]]:
    """All of them by name, for one kind of targets."""
    targets = problem.targets
    dense: dict[str, Callable[[Problem, int], Call]] = {
        "kn": partial(ours, "float", "cpu"),
        **{f"kn {v}": partial(ours, "float", f"cpu:{v}") for v in _backends.levels()},
        "kn reference": partial(ours, "float", "reference"),
        "torch public": torch_public,
        "torch unsafe": torch_unsafe,
        "jax public": jax_public,
        "jax": partial(jax, True),
        "jax unsafe": partial(jax, False),
        "numexpr unsafe": numexpr_unsafe,
        "numba": partial(numba, False),
        "numba unsafe": partial(numba, True),
    }
    if targets != "soft":
        dense["kn bool"] = partial(ours, "bool", "cpu")
    if targets == "sparse":
        return {"kn sparse": partial(ours, "sparse", "cpu"), "torch sparse": torch_sparse, **dense}
    return dense


def prepare(problem: Problem, competitor: str, threads: int) -> Call:
    """The call of a competitor whose result is right."""
    call = competitors(problem)[competitor](problem, threads)
    check(problem, call())
    return call
