"""Competitors for attention: ours, NumPy with buffers made before, JAX, PyTorch and its own kernel,
performer-pytorch.

float32, 8 heads of 64 numbers, 256 positive random features. Names that begin with "kn" are ours,
"limit" is sgemm of 2048 cubed, and for streaming steps a copy of the states.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

import kexue_native as kn
from harness import Unavailable, load

Call = Callable[[], Any]

HEADS, WIDTH, FEATURES, CHUNK = 8, 64, 256, 64
LENGTHS = (1024, 4096, 16384)
QUICK_LENGTHS = (256,)
SGEMM = 2048
TOLERANCE = 2e-4  # of the largest result: peers take one maximum for all features


class Problem(NamedTuple):
    """A form of attention at one length."""

    kind: str  # "favor", "softmax" or "step", one key and query of n heads
    n: int
    causal: bool
    grad: bool

    @property
    def name(self) -> str:
        words = self.kind + " causal" * self.causal + " gradient" * self.grad
        return f"{words} n={self.n}"

    @property
    def flops(self) -> float:
        """Of its matrix products; half of the pairs count where it is causal"""
        if self.kind == "softmax":
            return HEADS * self.n**2 * WIDTH * (10 if self.grad else 4) / (1 + self.causal)
        products = 10 if self.grad else 4
        chunks = CHUNK * (FEATURES + WIDTH) * (2 if self.grad else 1) * self.causal
        return HEADS * self.n * (2 * products * FEATURES * WIDTH + chunks)


def problems(quick: bool = False) -> list[Problem]:
    found = []
    for n in QUICK_LENGTHS if quick else LENGTHS:
        for kind in ("favor", "softmax"):
            if kind == "softmax" and n > 4096:
                continue
            for grad in (False, True):
                found += [Problem(kind, n, causal, grad) for causal in (False, True)]
    return found + [Problem("step", n, True, False) for n in ((8,) if quick else (1, 8, 1024))]


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


@cache
def states(n: int) -> tuple[kn.LinearAttentionState, list[np.ndarray]]:
    """Of n heads after some keys, and the rows of another step"""
    rng = np.random.default_rng(8338)
    rows = [rng.standard_normal((n, 3, WIDTH), dtype=np.float32) for _ in range(3)]
    options = {"kernel": "favor_positive", "projection": projection()}
    _, state = kn.linear_attention_prefill(*rows, **options)
    return state, [x[:, 0].copy() for x in rows]


def ours_step(problem: Problem) -> Call:
    state, rows = states(problem.n)
    out = np.empty_like(rows[2])
    options = {"kernel": "favor_positive", "projection": projection(), "out": out}
    return lambda: kn.linear_attention_step(state, *rows, **options)


def limit(problem: Problem, threads: int) -> Call:
    if problem.kind == "step":
        s = states(problem.n)[0].s
        to = np.empty_like(s)
        return lambda: np.copyto(to, s)
    torch = load("torch")
    torch.set_num_threads(threads)
    a, b, c = torch.rand(3, SGEMM, SGEMM)
    return lambda: torch.mm(a, b, out=c)


def note(problem: Problem, times: dict[str, float]) -> str:
    """How near ours comes to the machine's limit"""
    if not {"kn", "limit"} <= times.keys():
        return ""
    share = times["limit"] / times["kn"]
    if problem.kind == "step":
        moved = 2 * problem.n * FEATURES * WIDTH * 4
        return f"{moved / times['kn'] / 1e9:.1f} GB/s of the states, {share:.2f} of a copy's rate."
    share *= problem.flops / (2 * SGEMM**3)
    return f"{problem.flops / times['kn'] / 1e9:.0f} GFLOP/s, {share:.2f} of sgemm's rate."


def ours(problem: Problem, threads: int) -> Call:
    kn.set_num_threads(threads)
    if problem.kind == "step":
        return ours_step(problem)
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


def torch_call(problem: Problem, own: bool, device: str = "cpu") -> Callable[[], tuple[Any, ...]]:
    """Tensors of a composition, or of PyTorch's `own` kernel for exact attention"""
    torch = load("torch")
    q, k, v, g = (torch.from_numpy(x).to(device) for x in data(problem.n))
    w = torch.from_numpy(projection()).to(device)

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
                return (function(q, k, v),)

        return forward
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    if problem.kind == "softmax":  # the backward pass alone, as of ours
        out = function(*leaves)
        return lambda: torch.autograd.grad(out, leaves, g, retain_graph=True)
    return lambda: torch.autograd.grad(function(*leaves), leaves, g)


def torch_on_cpu(problem: Problem, threads: int, own: bool) -> Call:
    load("torch").set_num_threads(threads)
    call = torch_call(problem, own)
    return lambda: [x.numpy() for x in call()]


def performer(problem: Problem, threads: int) -> Call:
    """With our projection and without what it adds to features, which makes another result"""
    torch = load("torch")
    module = load("performer_pytorch.performer_pytorch")
    if problem.kind != "favor" or problem.causal:
        raise Unavailable("its causal form takes a kernel for GPUs, or minutes")
    torch.set_num_threads(threads)
    q, k, v, g = (torch.from_numpy(x)[None] for x in data(problem.n))
    kernel = partial(
        module.softmax_kernel, projection_matrix=torch.from_numpy(projection()), eps=0.0
    )

    def function(q: Any, k: Any, v: Any) -> Any:
        return module.linear_attention(kernel(q, is_query=True), kernel(k, is_query=False), v)

    if not problem.grad:

        def forward() -> Any:
            with torch.inference_mode():
                return function(q, k, v)[0].numpy()

        return forward
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    return lambda: [x[0].numpy() for x in torch.autograd.grad(function(*leaves), leaves, g)]


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
    "torch": lambda problem, threads: torch_on_cpu(problem, threads, False),
    "torch sdpa": lambda problem, threads: torch_on_cpu(problem, threads, True),
    "jax.jit": jax_call,
    "performer-pytorch": performer,
    "limit": limit,
}


def competitors(problem: Problem) -> list[str]:
    if problem.kind == "step":
        return ["kn", "limit"]
    if problem.kind == "softmax":
        return ["kn", "torch sdpa", "limit"]
    found = ["kn", "torch", "jax.jit", "limit"]
    if not problem.causal:
        found += ["performer-pytorch"] + ["numpy, buffers"] * (not problem.grad)
    return found


def prepare(problem: Problem, competitor: str, threads: int) -> Call:
    """The call of a competitor whose result is right."""
    call = COMPETITORS[competitor](problem, threads)
    found = call()
    if competitor == "limit" or problem.kind == "step":  # steps have tests of their own
        return call
    found = found if isinstance(found, (tuple, list)) else (found,)
    for got, want in zip(found, expected(problem), strict=True):
        error = np.abs(got[:1] - want).max()
        assert error <= TOLERANCE * np.abs(want).max(), f"off by {error:.2g}"
    return call
