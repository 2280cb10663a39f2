"""Two pictures of random-feature attention: its error against the number of features, and its time
and memory against the length of the sequence.

    python examples/attention_pictures.py [FOLDER]
"""

from __future__ import annotations

import sys
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

import kexue_native as kn

WIDTH, DRAWS, ROWS = 16, 60, 64
FEATURES = (16, 32, 64, 128, 256, 512)
LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384)


def attention_errors(spread: float) -> dict[str, list[float]]:
    """Root mean square error of the attention matrix, relative to its own, for each kind.

    Queries and keys are normal numbers with the standard deviation `spread`.
    """
    rng = np.random.default_rng(0)
    q, k = spread * rng.standard_normal((2, ROWS, WIDTH))
    x, y = (z / WIDTH**0.25 for z in (q, k))
    exact = np.exp(x @ y.T)
    exact /= exact.sum(axis=-1, keepdims=True)
    kinds: dict[str, dict[str, Any]] = {
        "iid": {"kind": "iid"},
        "orthogonal": {},
        "orthogonal, stratified": {"norms": "stratified"},
        "FAVOR++": {"features": "plus"},
        "SDERF": {"features": "sderf"},
    }
    found: dict[str, list[float]] = {}
    for name, options in kinds.items():
        features = options.pop("features", "positive")
        params = None if features == "positive" else kn.favor_params(q, k, features)
        found[name] = []
        for m in FEATURES:
            total = 0.0
            for seed in range(DRAWS):
                w = kn.random_projection(m, WIDTH, rng=seed, **options)
                estimate = kn.softmax_kernel_estimate(x, y, w, features, params=params)
                estimate /= estimate.sum(axis=-1, keepdims=True)
                total += np.mean((estimate - exact) ** 2)
            found[name].append(float(np.sqrt(total / DRAWS / np.mean(exact**2))))
    return found


def costs(kind: str, n: int) -> tuple[float, float]:
    """Seconds of a call, and megabytes that the process grew by beyond inputs and results."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, n, 64), dtype=np.float32) for _ in range(3))
    w = kn.random_projection(256, 64, rng=0, dtype=np.float32)
    out = np.empty_like(v)

    def call() -> None:
        if kind == "plain":  # as written in NumPy, with the matrix
            scores = q @ k.swapaxes(1, 2) / np.float32(8)
            scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
            np.matmul(scores / scores.sum(axis=-1, keepdims=True), v, out=out)
        elif kind == "exact":
            kn.softmax_attention(q, k, v, out=out)
        else:
            kn.favor_attention(q, k, v, w, out=out, causal=kind == "causal")

    out.fill(0)
    before = peak_memory()
    call()
    grown = peak_memory(reset=False) - before
    best, begin = float("inf"), time.perf_counter()
    while time.perf_counter() - begin < 0.4:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best, grown


def peak_memory(reset: bool = True) -> float:
    """Megabytes at the highest point since the last reset, on Linux."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def main(folder: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, both = pyplot.subplots(1, 2, figsize=(10, 4.2))
    for axes, spread in zip(both, (0.5, 1.0), strict=True):
        for name, errors in attention_errors(spread).items():
            axes.loglog(FEATURES, errors, marker="o", label=name)
            print(spread, name, [round(error, 3) for error in errors])
        axes.set_xlabel("random features")
        axes.set_title(f"Normal queries and keys of spread {spread}, d = {WIDTH}")
        axes.set_xticks(FEATURES, [str(m) for m in FEATURES])
        axes.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axes.yaxis.set_minor_formatter(ticker.FormatStrFormatter("%g"))
        axes.tick_params(axis="y", which="minor", labelsize=7)
        axes.xaxis.set_minor_locator(ticker.NullLocator())
        axes.grid(alpha=0.3, which="both")
    both[0].set_ylabel("relative error of the attention matrix (rms)")
    both[0].legend()
    figure.tight_layout()
    figure.savefig(folder / "attention_error.png", dpi=90)

    names = {
        "plain": "exact, NumPy",
        "exact": "exact, kexue_native",
        "favor": "256 random features",
        "causal": "256 random features, causal",
    }
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.2))
    for kind, label in names.items():
        lengths = [n for n in LENGTHS if kind != "plain" or n <= 8192]
        points = []
        for n in lengths:
            with get_context("spawn").Pool(1) as pool:  # memory of a process of its own
                points.append(pool.apply(costs, (kind, n)))
        seconds, megabytes = zip(*points, strict=True)
        print(label, [f"{1e3 * s:.2f} ms" for s in seconds], [f"{m:.1f} MB" for m in megabytes])
        left.loglog(lengths, [1e3 * s for s in seconds], marker="o", label=label)
        right.loglog(lengths, [max(m, 0.01) for m in megabytes], marker="o", label=label)
    left.set_ylabel("ms")
    right.set_ylabel("MB beyond inputs and results")
    for axes in (left, right):
        axes.set_xlabel("length of the sequence")
        axes.grid(alpha=0.3)
    left.legend()
    left.set_title("One head of 64 numbers, float32, 2 threads")
    right.set_title("Memory")
    figure.tight_layout()
    figure.savefig(folder / "attention_cost.png", dpi=90)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
