"""Competitors for logsumexp, softmax and log_softmax: ours, the peers, and the machine's limits.

`bench_special.py` and `report.py` both measure what is defined here. Names that begin with
"kn" are ours, those that begin with "limit" move the same bytes and compute nothing.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import numpy as np

import kexue_native as kn
from harness import Builder, Call, Problem, Unavailable, load
from kexue_native import _backends

FUNCTIONS = ("logsumexp", "softmax", "log_softmax")
DTYPES = ("float32", "float64", "float16", "bfloat16")
NARROW = ("float16", "bfloat16")  # most peers have no such type
SHAPES = (
    ((1, 20_000_000), -1),
    ((4096, 1000), -1),
    ((512, 50257), -1),
    ((1_000_000, 10), -1),
    ((100_000, 100), -1),
    ((1000, 4096), 0),
)
SMALL = ("np.add", "kn", "kn out=", "numpy", "scipy", "torch", "jax")
QUICK_SHAPES = (
    ((1, 100_000), -1),
    ((64, 1000), -1),
    ((4, 5025), -1),
    ((1000, 10), -1),
    ((500, 100), -1),
    ((100, 256), 0),
)
CACHED = 1 << 18  # bytes of a block that NumPy works on: well within the second-level cache


def problems(dtypes: tuple[str, ...] = DTYPES, quick: bool = False) -> list[Problem]:
    """All problems, those with the same data next to each other."""
    return [
        Problem(function, dtype, shape, axis)
        for dtype in dtypes
        for shape, axis in (QUICK_SHAPES if quick else SHAPES)
        for function in FUNCTIONS
    ]


@cache
def pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def in_parts(work: Any, count: int, threads: int) -> list[Any]:
    """work(start, stop) on `threads` equal parts of range(count); NumPy releases the GIL."""
    edges = np.linspace(0, count, threads + 1).astype(int)
    if threads == 1:
        return [work(0, count)]
    return list(pool(threads).map(work, edges[:-1], edges[1:]))


def new_out(p: Problem, x: np.ndarray) -> np.ndarray:
    out = np.empty(p.out_shape, x.dtype)
    out[...] = 0  # its pages are there before the clock starts
    return out


def ours(backend: str, with_out: bool, p: Problem, x: np.ndarray, threads: int) -> Call:
    reason = _backends.refusal(backend)
    if reason:
        raise Unavailable(reason)
    kn.set_num_threads(threads)
    options: dict[str, Any] = {"axis": p.axis, "backend": backend}
    if with_out:
        options["out"] = new_out(p, x)
    return partial(getattr(kn, p.function), x, **options)


def scipy(p: Problem, x: np.ndarray, threads: int) -> Call:
    return partial(getattr(load("scipy.special"), p.function), x, axis=p.axis)


def numpy_plain(p: Problem, x: np.ndarray, threads: int) -> Call:
    axis = p.axis

    def logsumexp() -> np.ndarray:
        m = x.max(axis, keepdims=True)
        return (m + np.log(np.exp(x - m).sum(axis, keepdims=True))).squeeze(axis)

    def softmax() -> np.ndarray:
        e = np.exp(x - x.max(axis, keepdims=True))
        return e / e.sum(axis, keepdims=True)

    def log_softmax() -> np.ndarray:
        d = x - x.max(axis, keepdims=True)
        return d - np.log(np.exp(d).sum(axis, keepdims=True))

    return {"logsumexp": logsumexp, "softmax": softmax, "log_softmax": log_softmax}[p.function]


def numpy_blocks(p: Problem, x: np.ndarray, threads: int) -> Call:
    """Blocks that stay in the cache, buffers made before, parts in Python threads."""
    out = new_out(p, x)
    if x.shape[0] < threads or (x.shape[0] == 1 and x.nbytes > CACHED):
        return one_row_in_blocks(p, x[0], out, threads)
    axis = p.axis % 2
    length = x.shape[axis]
    step = max(1, CACHED // (length * x.itemsize))
    step = -(-step // 16) * 16 if axis == 0 else step  # whole cache lines of columns
    lines = x.shape[1 - axis]
    shape = (length, step) if axis == 0 else (step, length)
    buffers = {start: np.empty(shape, x.dtype) for start in part_starts(lines, threads)}

    def block(i: int, j: int, buffer: np.ndarray) -> None:
        at = (slice(None), slice(i, j)) if axis == 0 else (slice(i, j),)
        part = x[at]
        d = buffer[:, : j - i] if axis == 0 else buffer[: j - i]
        m = part.max(axis, keepdims=True)
        np.subtract(part, m, out=d)
        if p.function == "softmax":
            np.exp(d, out=d)
            np.divide(d, d.sum(axis, keepdims=True), out=out[at])
        elif p.function == "log_softmax":
            np.add(m, np.log(np.exp(d, out=d).sum(axis, keepdims=True)), out=m)
            np.subtract(part, m, out=out[at])
        else:
            np.add(m, np.log(np.exp(d, out=d).sum(axis, keepdims=True)), out=m)
            out[i:j] = m.squeeze(axis)

    def work(start: int, stop: int) -> None:
        for i in range(start, stop, step):
            block(i, min(i + step, stop), buffers[start])

    def call() -> np.ndarray:
        in_parts(work, lines, threads)
        return out

    return call


def part_starts(count: int, threads: int) -> list[int]:
    return in_parts(lambda start, stop: int(start), count, threads)


def one_row_in_blocks(p: Problem, x: np.ndarray, out: np.ndarray, threads: int) -> Call:
    """One long row: memory is read once for the sum, and once more where there is an output."""
    step = CACHED // x.itemsize
    buffers = {start: np.empty(step, x.dtype) for start in part_starts(x.size, threads)}

    def sums(start: int, stop: int) -> tuple[list[float], list[float]]:
        maxima, totals = [], []
        for i in range(start, stop, step):
            part = x[i : min(i + step, stop)]
            d = buffers[start][: part.size]
            maxima.append(part.max())
            np.subtract(part, maxima[-1], out=d)
            totals.append(np.exp(d, out=d).sum())
        return maxima, totals

    def call() -> np.ndarray:
        found = in_parts(sums, x.size, threads)
        maxima = np.concatenate([m for m, _ in found]).astype(np.float64)
        totals = np.concatenate([s for _, s in found]).astype(np.float64)
        top = maxima.max()
        total = x.dtype.type(top + np.log(np.sum(totals * np.exp(maxima - top))))
        if p.reduces:
            out[0] = total
            return out

        def finish(start: int, stop: int) -> None:
            for i in range(start, stop, step):
                j = min(i + step, stop)
                target = out[0, i:j]
                np.subtract(x[i:j], total, out=target)
                if p.function == "softmax":
                    np.exp(target, out=target)

        in_parts(finish, x.size, threads)
        return out

    return call


def numexpr(p: Problem, x: np.ndarray, threads: int) -> Call:
    ne = load("numexpr")
    ne.set_num_threads(threads)
    axis, buffer = p.axis, np.empty_like(x)
    out = buffer if p.reduces else new_out(p, x)

    def call() -> np.ndarray:
        m = x.max(axis, keepdims=True)
        ne.evaluate("exp(x - m)", {"x": x, "m": m}, out=buffer)
        s = buffer.sum(axis, keepdims=True)
        if p.function == "softmax":
            return ne.evaluate("e / s", {"e": buffer, "s": s}, out=out)
        m += np.log(s)
        if p.reduces:
            return m.squeeze(axis)
        return ne.evaluate("x - m", {"x": x, "m": m}, out=out)

    return call


def numba(p: Problem, x: np.ndarray, threads: int) -> Call:
    load("numba").set_num_threads(threads)
    kernels = load("numba_kernels")
    out = new_out(p, x)
    unused = np.empty((1, 1), x.dtype)
    if p.reduces:
        return with_result(kernels.build(p.function, x, p.axis, unused, out), out)
    return with_result(kernels.build(p.function, x, p.axis, out, unused[0]), out)


def with_result(work: Call, result: Any) -> Call:
    def call() -> Any:
        work()
        return result

    return call


def jax(p: Problem, x: np.ndarray, threads: int) -> Call:
    jax = load("jax")
    jax.config.update("jax_enable_x64", True)
    name = {"logsumexp": "jax.scipy.special"}.get(p.function, "jax.nn")
    function = getattr(load(name), p.function)
    compiled = jax.jit(partial(function, axis=p.axis))
    a = jax.device_put(x)
    return lambda: compiled(a).block_until_ready()


def torch(with_out: bool, p: Problem, x: np.ndarray, threads: int) -> Call:
    torch = load("torch")
    torch.set_num_threads(threads)
    function = getattr(torch, p.function)
    a = torch.from_numpy(x)
    if not with_out:
        return lambda: function(a, p.axis)
    out = new_out(p, x)
    return partial(function, a, p.axis, out=torch.from_numpy(out))


def limit_read(p: Problem, x: np.ndarray, threads: int) -> Call:
    """The bytes of the input, read by a reduction of integers."""
    words = x.reshape(-1).view(np.int32)
    return lambda: in_parts(lambda i, j: np.maximum.reduce(words[i:j]), words.size, threads)


def limit_copy(p: Problem, x: np.ndarray, threads: int) -> Call:
    """The bytes of the input, copied to an array that is there already."""
    source = x.reshape(-1).view(np.int8)
    out = np.zeros_like(source)
    return lambda: in_parts(lambda i, j: np.copyto(out[i:j], source[i:j]), source.size, threads)


def limit_copy_torch(p: Problem, x: np.ndarray, threads: int) -> Call:
    torch = load("torch")
    torch.set_num_threads(threads)
    source = torch.from_numpy(x.reshape(-1).view(np.int16))
    return partial(torch.zeros_like(source).copy_, source)


def limit_dot(p: Problem, x: np.ndarray, threads: int) -> Call:
    """The bytes of the input, read by BLAS."""
    if p.dtype not in ("float32", "float64"):
        raise Unavailable("BLAS has no such type")
    a = x.reshape(-1)
    return lambda: in_parts(lambda i, j: np.dot(a[i:j], a[i:j]), a.size, threads)


@cache
def competitors() -> dict[str, Builder]:
    """All of them by name."""
    levels = [f"cpu:{level}" for level in _backends.levels()]
    return {
        "kn": partial(ours, "cpu", False),
        "kn out=": partial(ours, "cpu", True),
        **{f"kn {level} out=": partial(ours, level, True) for level in levels},
        "kn reference": partial(ours, "reference", False),
        "scipy": scipy,
        "numpy": numpy_plain,
        "numpy blocks out=": numpy_blocks,
        "numexpr out=": numexpr,
        "numba out=": numba,
        "jax": jax,
        "torch": partial(torch, False),
        "torch out=": partial(torch, True),
    }


def limits(p: Problem) -> dict[str, Builder]:
    """What bounds a problem: the best of these is the machine's limit for the same bytes."""
    if p.reduces:
        return {"limit read numpy": limit_read, "limit read blas": limit_dot}
    return {"limit copy numpy": limit_copy, "limit copy torch": limit_copy_torch}


def builders(p: Problem, levels: bool = False) -> dict[str, Builder]:
    """The competitors that take this type; single CPU levels on request."""
    found = competitors()
    if p.dtype in NARROW:
        mine = [name for name in found if name.startswith("kn") and name != "kn reference"]
        found = {name: found[name] for name in mine}
    return {
        name: builder for name, builder in found.items() if levels or not name.startswith("kn cpu:")
    }


def small_calls(function: str) -> dict[str, Call]:
    """Calls on 8 float64, where nothing but the way into the kernel counts."""
    x = np.linspace(-3.0, 4.0, 8)
    p = Problem(function, "float64", (1, 8))
    found: dict[str, Call] = {
        "np.add": partial(np.add, x, x),
        "kn": partial(getattr(kn, function), x),
        "kn out=": partial(getattr(kn, function), x, out=np.empty(() if p.reduces else 8)),
        "numpy": numpy_small(function, x),
    }
    for name, build in (("scipy", small_scipy), ("torch", small_torch), ("jax", small_jax)):
        try:
            found[name] = build(function, x)
        except Unavailable:
            continue
    expected = {"logsumexp": np.log(np.exp(x).sum())}
    expected["softmax"] = np.exp(x - expected["logsumexp"])
    expected["log_softmax"] = x - expected["logsumexp"]
    for name, call in found.items():
        if name != "np.add":
            np.testing.assert_allclose(np.asarray(call()), expected[function], 1e-14, 1e-14)
    return found


def numpy_small(function: str, x: np.ndarray) -> Call:
    def logsumexp() -> Any:
        m = x.max()
        return m + np.log(np.exp(x - m).sum())

    def softmax() -> Any:
        e = np.exp(x - x.max())
        return e / e.sum()

    def log_softmax() -> Any:
        d = x - x.max()
        return d - np.log(np.exp(d).sum())

    return {"logsumexp": logsumexp, "softmax": softmax, "log_softmax": log_softmax}[function]


def small_scipy(function: str, x: np.ndarray) -> Call:
    return partial(getattr(load("scipy.special"), function), x)


def small_torch(function: str, x: np.ndarray) -> Call:
    torch = load("torch")
    return partial(getattr(torch, function), torch.from_numpy(x), 0)


def small_jax(function: str, x: np.ndarray) -> Call:
    return jax(Problem(function, "float64", (1, 8)), x, 1)
