"""What all benchmarks share: problems, the check that comes before a time, and the timing.

A competitor is a function that takes (problem, x, threads) and returns a call without arguments;
whatever it needs besides the work itself (conversion, output arrays, compilation) is done before.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from kexue_native.special.reductions import reference

Call = Callable[[], Any]
Builder = Callable[["Problem", np.ndarray, int], Call]

# Those of the specification. Below 1 a logarithm is checked absolutely: nearly all peers use
# x - max - log(sum), which loses the relative accuracy of a confident winner.
TOLERANCE = {"float64": 2e-13, "float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
SMALLEST = {"float64": 5e-324, "float32": 3e-45, "float16": 6.1e-8, "bfloat16": 1e-40}
PART = 1 << 20  # elements that are checked at a time
SLOW = 0.15  # seconds of a call that is not worth many rounds


class Unavailable(Exception):
    """A competitor is not here, or does not take this problem; the message says why."""


def load(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        missing = isinstance(error, ModuleNotFoundError) and error.name == package
        raise Unavailable(
            f"{package} is not installed" if missing else f"{package} does not load: {error}"
        ) from None


class Problem(NamedTuple):
    """One function on one type and shape."""

    function: str
    dtype: str
    shape: tuple[int, int]
    axis: int = -1

    @property
    def elements(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def reduces(self) -> bool:
        return self.function == "logsumexp"

    @property
    def out_shape(self) -> tuple[int, ...]:
        if not self.reduces:
            return self.shape
        return (self.shape[1],) if self.axis == 0 else (self.shape[0],)

    @property
    def bytes_moved(self) -> int:
        """The input read once and the output written once."""
        size = {"float64": 8, "float32": 4}.get(self.dtype, 2)
        return size * (self.elements + int(np.prod(self.out_shape)))

    @property
    def shape_name(self) -> str:
        name = "x".join(
            f"{n:.0e}".replace("e+0", "e") if n >= 10**5 else str(n) for n in self.shape
        )
        return name + (" axis 0" if self.axis == 0 else "")


def numpy_dtype(name: str) -> np.dtype[Any]:
    if name != "bfloat16":
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError:
        raise Unavailable("ml_dtypes is not installed") from None
    return np.dtype(ml_dtypes.bfloat16)


@lru_cache(maxsize=1)
def data(shape: tuple[int, int], dtype: str) -> np.ndarray:
    """Logits with standard deviation 3, the same for all functions."""
    rng = np.random.default_rng(9070)
    x = rng.standard_normal(shape, dtype=np.float64 if dtype == "float64" else np.float32)
    x *= 3
    return x.astype(numpy_dtype(dtype), copy=False)


@lru_cache(maxsize=1)
def log_sums(shape: tuple[int, int], dtype: str, axis: int) -> np.ndarray:
    """logsumexp by the NumPy reference in a wider type, part by part, rounded to float64."""
    wide = np.longdouble if dtype == "float64" else np.float64
    rows = np.moveaxis(data(shape, dtype), axis, -1)
    step = max(1, PART // rows.shape[1])
    width = range(0, rows.shape[1], PART)
    found = []
    for i in range(0, rows.shape[0], step):
        of_parts = [
            reference.logsumexp(rows[i : i + step, j : j + PART].astype(wide)) for j in width
        ]
        found.append(reference.logsumexp(np.stack(of_parts, axis=-1)))
    return np.concatenate(found).astype(np.float64)


def check(problem: Problem, result: Any) -> None:
    """AssertionError unless `result` is right within the tolerance of its type."""
    actual = np.asarray(result)
    assert actual.shape == problem.out_shape, (actual.shape, problem.out_shape)
    assert actual.dtype.name == problem.dtype, (actual.dtype.name, problem.dtype)
    expected = log_sums(problem.shape, problem.dtype, problem.axis)
    if problem.reduces:
        compare(problem, actual, expected)
        return
    x, actual = (
        np.moveaxis(a, problem.axis, -1) for a in (data(problem.shape, problem.dtype), actual)
    )
    step = max(1, PART // x.shape[1])
    for i in range(0, x.shape[0], step):
        for j in range(0, x.shape[1], PART):
            part = (slice(i, i + step), slice(j, j + PART))
            log_p = x[part].astype(np.float64) - expected[i : i + step, None]
            compare(
                problem, actual[part], log_p if problem.function != "softmax" else np.exp(log_p)
            )


def compare(problem: Problem, actual: np.ndarray, expected: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        error = np.abs(actual.astype(np.float64) - expected)
    scale = np.abs(expected)
    if problem.function != "softmax":
        scale = np.maximum(scale, 1.0)
    bound = TOLERANCE[problem.dtype] * scale + SMALLEST[problem.dtype]
    wrong = ~(error <= bound)
    assert not wrong.any(), f"off by up to {np.max(error / bound):.3g} times the tolerance"


def prepare(problem: Problem, builder: Builder, threads: int) -> Call:
    """The call of a competitor whose result is right."""
    call = builder(problem, data(problem.shape, problem.dtype), threads)
    check(problem, call())
    return call


def once(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleave(
    calls: dict[str, Call],
    seconds: float,
    clock: Callable[[Call], float] = once,
    least: int = 3,
    most: int = 60,
) -> dict[str, float]:
    """Median seconds of each call, measured in turn, so that a slow minute meets all alike.

    Each turn is one untimed and one timed call: what came before does not decide whose data are
    in the cache. A slower call gets fewer turns, spread over the whole; a very slow one just one
    more after the first.
    """
    samples = {name: [clock(call)] for name, call in calls.items()}
    slow = {name for name, (first,) in samples.items() if first > SLOW}
    share = seconds / max(1, len(calls) - len(slow)) / 2
    turns = dict.fromkeys(slow, 1)
    for name in calls.keys() - slow:
        first = clock(calls[name])
        samples[name].clear()  # the first calls find cold caches
        turns[name] = int(min(max(share / first, least), most))
    rounds = max(turns.values(), default=0)
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for i in range(rounds):
            for name, call in calls.items():
                if (i + 1) * turns[name] // rounds > i * turns[name] // rounds:
                    if name not in slow:
                        call()
                    samples[name].append(clock(call))
    finally:
        if was_enabled:
            gc.enable()
    return {name: median(times) for name, times in samples.items()}


# ---- tables of other problems than those of report.py, for which a module `peers` has
# problems(quick), competitors(problem) and prepare(problem, competitor, threads), and where it is
# not the host that is timed a clock(call) and a DEVICE


def cases(peers: Any, quick: bool) -> tuple[list[tuple[Any, str]], list[str]]:
    """Every problem with every competitor, and names for them, for pytest."""
    found = [(p, c) for p in peers.problems(quick) for c in peers.competitors(p)]
    return found, [f"{c}-{p.name}".replace(" ", "_") for p, c in found]


def run(benchmark: Any, request: Any, peers: Any, problem: Any, competitor: str) -> None:
    """One of these cases under pytest-benchmark."""
    import pytest

    threads, quick = map(request.config.getoption, ("--threads", "--quick"))
    benchmark.group = f"{problem.name} threads={threads}"
    try:
        call = peers.prepare(problem, competitor, threads)
    except Unavailable as reason:
        pytest.skip(f"{competitor}: {reason}")
    rounds = int(min(max((0.02 if quick else 1.0) / once(call), 3), 100))
    benchmark.pedantic(call, rounds=rounds, warmup_rounds=1)


def print_tables(peers_name: str, description: str) -> None:
    """The competitors measured in turn, a Markdown table for each problem."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each problem")
    parser.add_argument("--only", default="", help="problems whose name contains this")
    options = parser.parse_args()
    peers = importlib.import_module(peers_name)
    for problem in peers.problems(options.quick):
        if options.only not in problem.name:
            continue
        calls, wrong = {}, {}
        for name in peers.competitors(problem):
            try:
                calls[name] = peers.prepare(problem, name, options.threads)
            except Unavailable as reason:
                wrong[name] = str(reason)
            except AssertionError as error:
                wrong[name] = f"wrong: {error}"
        times = interleave(calls, options.seconds, getattr(peers, "clock", once))
        rivals = [t for name, t in times.items() if not name.startswith(("kn", "limit"))]
        where = getattr(peers, "DEVICE", f"{options.threads} threads")
        print(f"\n### {problem.name}, {where}\n")
        print("| | ms | best peer / this |\n|---|---:|---:|")
        for name, seconds in sorted(times.items(), key=lambda item: item[1]):
            best = f"{min(rivals) / seconds:.2f}" if rivals else ""
            print(f"| {name} | {1e3 * seconds:.3f} | {best} |")
        for name, reason in wrong.items():
            print(f"| {name} | {reason} | |")
        if hasattr(peers, "note"):
            print(f"\n{peers.note(problem, times)}")
        sys.stdout.flush()
