"""Competitors for attention: ours, NumPy with buffers made before, JAX, PyTorch and its own kernel.

float32, 8 heads of 64 numbers, 256 positive random features. Names that begin with "kn" are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

import kexue_native as kn
from harness import Unavailable, load

Call = Callable[[], Any]

HEADS, WIDTH, FEATURES, CHUNK = 8, 64, 256, 64
LENGTHS = (1024, 4096, 16384)
QUICK_LENGTHS = (256,)
TOLERANCE = 2e-4  # of the largest result: peers take one maximum for all features


class Problem(NamedTuple):
    """A form of attention at one length."""

    kind: str  # "favor" or "softmax"
    n: int
    causal: bool
    grad: bool

    @property
    def name(self) -> str:
        words = self.kind + " causal" * self.causal + " gradient" * self.grad
        return f"{words} n={self.n}"


def problems(quick: bool = False) -> list[Problem]:
    found = []
    for n in QUICK_LENGTHS if quick else LENGTHS:
        for kind in ("favor", "softmax"):
            if kind == "softmax" and n > 4096:
                continue
            for grad in (False, True):
                found += [Problem(kind, n, causal, grad) for causal in (False, True)]
    return found


@cache
def data(n: int) -> list[np.ndarray]:
    """q, k, v and g"""
    rng = np.random.default_rng(7921)
    arrays = [rng.standard_normal((HEADS, n, WIDTH), dtype=np.float32) for _ in range(4)]
    return arrays


@cache
def projection() -> np.ndarray:
    return kn.random_projection(FEATURES, WIDTH, rng=0, dtype=np.float32)


@cache
def expected(problem: Problem) -> tuple[np.ndarray, ...]:
    """Of the first head, by the reference in float64."""
    q, k, v, g = (x[:1].astype(np.float64) for x in data(problem.n))
    options = {"causal": problem.causal, "backend": "reference"}
    weights = (projection().astype(np.float64),) * (problem.kind == "favor")
    name = "favor_attention" if problem.kind == "favor" else "softmax_attention"
    if problem.grad:
        return getattr(kn, f"{name}_vjp")(g, q, k, v, *weights, **options)
    return (getattr(kn, name)(q, k, v, *weights, **options),)


def ours(problem: Problem, threads: int) -> Call:
    kn.set_num_threads(threads)
    q, k, v, g = data(problem.n)
    weights = (projection(),) * (problem.kind == "favor")
    name = "favor_attention" if problem.kind == "favor" else "softmax_attention"
    if problem.grad:
        grads = tuple(np.empty_like(x) for x in (q, k, v))
        saved = {}
        if problem.kind == "softmax":  # as peers keep them
            out, lse = kn.softmax_attention(q, k, v, causal=problem.causal, return_lse=True)
            saved = {"out": out, "lse": lse}
        vjp = getattr(kn, f"{name}_vjp")
        return lambda: vjp(g, q, k, v, *weights, causal=problem.causal, grads=grads, **saved)
    out = np.empty_like(v)
    function = getattr(kn, name)
    return lambda: function(q, k, v, *weights, causal=problem.causal, out=out)


def numpy_favor(problem: Problem, threads: int) -> Call:
    if problem.kind != "favor" or problem.grad or problem.causal:
        raise Unavailable("no plain NumPy form that is worth a time")
    q, k, v, _ = data(problem.n)
    w = (projection() * np.float32(WIDTH**-0.25)).T.copy()
    phi, psi = (np.empty((HEADS, problem.n, FEATURES), np.float32) for _ in range(2))
    half = np.empty((HEADS, problem.n, 1), np.float32)
    square = np.empty_like(q)
    out, state = np.empty_like(v), np.empty((HEADS, FEATURES, WIDTH), np.float32)

    def call() -> np.ndarray:
        np.matmul(k, w, out=psi)
        np.multiply(k, k, out=square)
        np.sum(square, axis=-1, keepdims=True, out=half)
        half[...] *= np.float32(0.5 / WIDTH**0.5)
        np.subtract(psi, half, out=psi)
        c = psi.max(axis=1, keepdims=True)
        np.subtract(psi, c, out=psi)
        np.exp(psi, out=psi)
        np.matmul(psi.swapaxes(1, 2), v, out=state)
        np.matmul(q, w, out=phi)
        np.add(phi, c, out=phi)
        np.subtract(phi, phi.max(axis=-1, keepdims=True), out=phi)
        np.exp(phi, out=phi)
        np.matmul(phi, state, out=out)
        np.divide(out, np.matmul(phi, psi.sum(axis=1)[..., None]), out=out)
        return out

    return call


def _features(xp: Any, x: Any, w: Any, top: Any) -> Any:
    x = x * WIDTH**-0.25
    u = x @ w.T - (x * x).sum(-1)[..., None] / 2
    return xp.exp(u - top(u))


def torch_call(problem: Problem, threads: int, own: bool) -> Call:
    torch = load("torch")
    torch.set_num_threads(threads)
    q, k, v, g = (torch.from_numpy(x) for x in data(problem.n))
    w = torch.from_numpy(projection())

    def favor(q: Any, k: Any, v: Any) -> Any:
        phi = _features(torch, q, w, lambda u: u.amax(-1, keepdim=True).detach())
        psi = _features(torch, k, w, lambda u: u.amax((-1, -2), keepdim=True).detach())
        if not problem.causal:
            return phi @ (psi.mT @ v) / (phi @ psi.sum(1)[..., None])
        parts = problem.n // CHUNK
        phi, psi, values = (x.reshape(HEADS, parts, CHUNK, x.shape[-1]) for x in (phi, psi, v))
        values = torch.cat([values, torch.ones_like(values[..., :1])], -1)
        sums = psi.mT @ values
        before = sums.cumsum(1) - sums
        inside = (phi @ psi.mT).tril() @ values + phi @ before
        return (inside[..., :-1] / inside[..., -1:]).reshape(v.shape)

    def softmax(q: Any, k: Any, v: Any) -> Any:
        return torch.nn.functional.scaled_dot_product_attention(
            q[None], k[None], v[None], is_causal=problem.causal
        )[0]

    if own != (problem.kind == "softmax"):
        raise Unavailable("of the other form")
    function = softmax if problem.kind == "softmax" else favor
    if not problem.grad:

        def forward() -> Any:
            with torch.inference_mode():
                return function(q, k, v).numpy()

        return forward
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    if problem.kind == "softmax":  # the backward pass alone, as of ours
        out = function(*leaves)
        return lambda: [x.numpy() for x in torch.autograd.grad(out, leaves, g, retain_graph=True)]
    return lambda: [x.numpy() for x in torch.autograd.grad(function(*leaves), leaves, g)]


def jax_call(problem: Problem, threads: int) -> Call:
    jax = load("jax")
    jnp = load("jax.numpy")
    q, k, v, g = map(jnp.asarray, data(problem.n))
    w = jnp.asarray(projection())

    def favor(q: Any, k: Any, v: Any) -> Any:
        stop = jax.lax.stop_gradient
        phi = _features(jnp, q, w, lambda u: stop(u.max(-1, keepdims=True)))
        psi = _features(jnp, k, w, lambda u: stop(u.max((-1, -2), keepdims=True)))
        if not problem.causal:
            return phi @ (psi.swapaxes(1, 2) @ v) / (phi @ psi.sum(1)[..., None])
        parts = problem.n // CHUNK
        values = jnp.concatenate([v, jnp.ones_like(v[..., :1])], -1)
        blocks = [
            x.reshape(HEADS, parts, CHUNK, x.shape[-1]).swapaxes(0, 1) for x in (phi, psi, values)
        ]

        def step(state: Any, block: Any) -> Any:
            phi, psi, values = block
            inside = jnp.tril(phi @ psi.swapaxes(1, 2)) @ values + phi @ state
            return state + psi.swapaxes(1, 2) @ values, inside

        start = jnp.zeros((HEADS, FEATURES, WIDTH + 1), jnp.float32)
        _, out = jax.lax.scan(step, start, tuple(blocks))
        out = out.swapaxes(0, 1).reshape(HEADS, problem.n, WIDTH + 1)
        return out[..., :-1] / out[..., -1:]

    if problem.kind != "favor":
        raise Unavailable("PyTorch's kernel is the peer of exact attention")

    def gradient(q: Any, k: Any, v: Any) -> Any:
        return jax.vjp(favor, q, k, v)[1](g)

    compiled = jax.jit(gradient if problem.grad else favor)
    if problem.grad:
        return lambda: [np.asarray(x.block_until_ready()) for x in compiled(q, k, v)]
    return lambda: np.asarray(compiled(q, k, v).block_until_ready())


COMPETITORS: dict[str, Callable[[Problem, int], Call]] = {
    "kn": ours,
    "numpy, buffers": numpy_favor,
    "torch": lambda problem, threads: torch_call(problem, threads, False),
    "torch sdpa": lambda problem, threads: torch_call(problem, threads, True),
    "jax.jit": jax_call,
}


def competitors(problem: Problem) -> list[str]:
    if problem.kind == "softmax":
        return ["kn", "torch sdpa"]
    plain = problem.causal or problem.grad
    return ["kn", *([] if plain else ["numpy, buffers"]), "torch", "jax.jit"]


def prepare(problem: Problem, competitor: str, threads: int) -> Call:
    """The call of a competitor whose result is right."""
    call = COMPETITORS[competitor](problem, threads)
    found = call()
    found = found if isinstance(found, (tuple, list)) else (found,)
    for got, want in zip(found, expected(problem), strict=True):
        error = np.abs(got[:1] - want).max()
        assert error <= TOLERANCE * np.abs(want).max(), f"off by {error:.2g}"
    return call
