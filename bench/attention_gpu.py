"""Attention of CuPy arrays on a GPU: ``python bench/attention_gpu.py [--quick] [--only "n=1024"]``.

Peers are PyTorch's compositions, causal ones by chunks, and its kernel for exact attention. float32
without TF32, 8 heads of 64 numbers, 256 positive random features. Times are those between events on
the stream; a result is compared with ours on the CPU in float64 before it gets one.
"""

from __future__ import annotations

from functools import cache

import numpy as np

import attention_peers
import kexue_native as kn
from attention_peers import FEATURES, SGEMM, WIDTH, Call, Problem, note
from gpu import clock
from harness import load, print_tables

__all__ = ["DEVICE", "clock", "competitors", "note", "prepare", "problems"]

DEVICE = "GPU"
LENGTHS = (1 << 10, 1 << 12, 1 << 14, 1 << 16, 1 << 18, 1 << 20)
LONGEST_EXACT = 1 << 16
CHECKED = 256  # queries of the first head
TOLERANCE = 2e-4


def problems(quick: bool = False) -> list[Problem]:
    found = []
    for n in LENGTHS[:1] if quick else LENGTHS:
        for kind in ("favor", "softmax")[: 1 + (n <= LONGEST_EXACT)]:
            for grad in (False, True):
                found += [Problem(kind, n, causal, grad) for causal in (False, True)]
    return found + [Problem("step", heads, True, False) for heads in (1, 8, 1024)]


def competitors(problem: Problem) -> list[str]:
    if problem.kind == "step":
        return ["kn", "limit"]
    return ["kn", "torch sdpa" if problem.kind == "softmax" else "torch", "limit"]


@cache
def expected(problem: Problem) -> np.ndarray:
    """Results or dq of the first queries"""
    q, k, v, g = (x[:1].astype(np.float64) for x in attention_peers.data(problem.n))
    q, g = q[:, :CHECKED], g[:, :CHECKED]
    if problem.causal:
        k, v = k[:, :CHECKED], v[:, :CHECKED]
    name = "favor_attention" if problem.kind == "favor" else "softmax_attention"
    weights = (attention_peers.projection().astype(np.float64),) * (problem.kind == "favor")
    if problem.grad:
        return getattr(kn, f"{name}_vjp")(g, q, k, v, *weights, causal=problem.causal)[0][0]
    return getattr(kn, name)(q, k, v, *weights, causal=problem.causal)[0]


def ours(problem: Problem) -> Call:
    import cupy

    projection = cupy.asarray(attention_peers.projection())
    if problem.kind == "step":
        state, rows = attention_peers.states(problem.n)
        own = kn.LinearAttentionState(*(cupy.asarray(x) for x in (state.c, state.s, state.z)))
        rows = [cupy.asarray(x) for x in rows]
        options = {"kernel": "favor_positive", "projection": projection}
        return lambda: kn.linear_attention_step(own, *rows, **options)
    q, k, v, g = (cupy.asarray(x) for x in attention_peers.data(problem.n))
    weights = (projection,) * (problem.kind == "favor")
    name = "favor_attention" if problem.kind == "favor" else "softmax_attention"
    options = {"causal": problem.causal}
    if not problem.grad:
        function = getattr(kn, name)
        return lambda: (function(q, k, v, *weights, **options),)
    saved = {}
    if problem.kind == "softmax":
        saved["out"], saved["lse"] = kn.softmax_attention(q, k, v, return_lse=True, **options)
    vjp = getattr(kn, f"{name}_vjp")
    return lambda: vjp(g, q, k, v, *weights, **options, **saved)


def limit(problem: Problem) -> Call:
    """sgemm of 2048 cubed, and for streaming steps a copy of the states"""
    import cupy

    if problem.kind == "step":
        s = cupy.zeros((problem.n, FEATURES, WIDTH), cupy.float32)
        to = cupy.empty_like(s)
        return lambda: cupy.copyto(to, s)
    a, b, c = cupy.random.random((3, SGEMM, SGEMM), dtype=cupy.float32)
    return lambda: cupy.matmul(a, b, out=c)


def prepare(problem: Problem, competitor: str, threads: int) -> Call:
    """The call of a competitor whose result is right."""
    import cupy

    if competitor == "limit":
        return limit(problem)
    if competitor == "kn":
        call = ours(problem)
    else:
        load("torch").backends.cuda.matmul.allow_tf32 = False
        call = attention_peers.torch_call(problem, competitor == "torch sdpa", "cuda")
    found = call()
    if problem.kind == "step":  # which has tests of its own
        return call
    first = found[0][0, :CHECKED]
    got = cupy.asnumpy(first) if isinstance(first, cupy.ndarray) else first.cpu().numpy()
    error = np.abs(got - expected(problem)).max()
    assert error <= TOLERANCE * np.abs(expected(problem)).max(), f"off by {error:.2g}"
    return call


if __name__ == "__main__":
    print_tables("attention_gpu", __doc__)
