"""Self-check and tour: ``python -m kexue_native [--quick] [--json FILE] [--backend NAME]``.

Runs every kernel on realistic inputs, compares it with the NumPy reference in a wider type, and
prints what it finds line by line. The exit status is 0 only if all agree within LIMITS.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

import kexue_native as kn

from . import _backends, _device
from ._arrays import Array
from ._limits import LIMITS, SCALE_GROWTH, ulp_error
from .special.reductions import reference

Wide = np.longdouble if np.finfo(np.longdouble).eps < np.finfo(np.float64).eps else np.float64
SCALE = 0.7
COEFFICIENT = 1 / math.log(512)


class Scores(NamedTuple):
    """What the accuracy of a softmax-like result is measured by, in the wide type."""

    gap: Array
    p: Array

    @classmethod
    def of(cls, x: Array, mask: Array | None = None, scale: Any = 1.0) -> Scores:
        rows = reference.leave_one_out(x, mask, scale)
        p = rows.shares(mask)
        return cls(np.where(p == 0, 0, rows.gap), p)

    def spread(self, values: Array) -> Array:
        """p_i (|v_i| + sum p |v|)"""
        total = np.sum(self.p * np.abs(values), axis=-1, keepdims=True)
        return self.p * (np.abs(values) + total)

    def centred(self, g: Array) -> Array:
        """g - g of the winner"""
        winner = np.argmax(self.p, axis=-1)[..., None]
        return g - np.take_along_axis(g, winner, axis=-1)


class Case(NamedTuple):
    """One kernel: the public call, the oracle, and the terms and allowance of its error."""

    name: str
    arguments: str  # names of the inputs that `make_inputs` provides
    run: Callable[..., Any]
    oracle: Callable[..., Any]
    magnitude: Callable[..., Any] = lambda *inputs: 0.0
    allowance: Callable[..., Any] = lambda *inputs: 0.0
    growth: dict[str, int] | None = None  # factor of the allowance by type; None: 1

    @property
    def public(self) -> str:
        return self.name.replace("_weighted", "")


def _top(x: Array, *_: Array) -> Array:
    return np.abs(np.max(x, axis=-1))


def _gap(x: Array, *_: Array) -> Array:
    return np.abs(Scores.of(x).gap)


def _far(x: Array, mask: Array | None = None) -> Array:
    gap = np.abs(Scores.of(x, mask).gap)
    return np.where(gap > 30, gap, 0)


def _lambda(x: Array, mask: Array) -> Array:
    return COEFFICIENT * np.log(np.sum(mask, axis=-1, keepdims=True).astype(x.dtype))


def _invariant_terms(x: Array, g: Array, mask: Array) -> Array:
    scores = Scores.of(x, mask, _lambda(x, mask))
    return _lambda(x, mask) * scores.spread(scores.centred(np.where(mask, g, 0)))


def _invariant_gap(x: Array, mask: Array) -> Array:
    return np.abs(Scores.of(x, mask, _lambda(x, mask)).gap)


def _softmax_terms(x: Array, g: Array) -> Array:
    scores = Scores.of(x, None, SCALE)
    return SCALE * scores.spread(scores.centred(g))


def _entropy_terms(x: Array, g: Array) -> Array:
    scores = Scores.of(x, None, SCALE)
    return np.abs(g)[..., None] * SCALE * scores.spread(scores.gap)


def _log_softmax_terms(x: Array, g: Array) -> Array:
    return np.abs(g) + Scores.of(x).p * np.sum(np.abs(g), axis=-1, keepdims=True)


def _lipschitz_terms(x: Array, y: Array) -> Array:
    return np.abs(reference.logsumexp(x)) + np.abs(reference.logsumexp(y))


def _bounds_terms(x: Array, p: Array) -> Array:
    return np.max(np.abs(x), axis=-1) + 1.5 * np.log(x.shape[-1])


def _jensen_gap(x: Array) -> Array:
    each = reference.logsumexp(x)
    return np.mean(each, axis=0) - reference.logsumexp(np.mean(x, axis=0))


def _jensen_terms(x: Array) -> Array:
    return np.mean(np.abs(reference.logsumexp(x)), axis=0) * 2


CASES = (
    Case("logsumexp", "x", lambda x, **k: kn.logsumexp(x, -1, **k), reference.logsumexp, _top),
    Case(
        "logsumexp_vjp",
        "x s",
        lambda x, s, **k: kn.logsumexp_vjp(x, s, -1, **k),
        reference.logsumexp_vjp,
        allowance=_gap,
    ),
    Case(
        "logsumexp_weighted",
        "x w",
        lambda x, w, **k: kn.logsumexp(x, -1, w, return_sign=True, **k),
        reference.logsumexp_weighted,
        lambda x, w: _top(x + np.log(w)),
    ),
    Case(
        "logsumexp_weighted_vjp",
        "x w s",
        lambda x, w, s, **k: kn.logsumexp_vjp(x, s, -1, w, **k),
        reference.logsumexp_weighted_vjp,
        allowance=_gap,
    ),
    Case(
        "logmeanexp",
        "x w",
        lambda x, w, **k: kn.logmeanexp(x, -1, w, **k),
        reference.logmeanexp,
        _top,
    ),
    Case(
        "logmeanexp_vjp",
        "x s w",
        lambda x, s, w, **k: kn.logmeanexp_vjp(x, s, -1, w, **k),
        reference.logmeanexp_vjp,
        allowance=_gap,
    ),
    Case(
        "softmax",
        "x",
        lambda x, **k: kn.softmax(x, -1, **k),
        reference.softmax,
        allowance=_far,
    ),
    Case(
        "softmax_vjp",
        "x g",
        lambda x, g, **k: kn.softmax_vjp(x, g, -1, scale=SCALE, **k),
        lambda x, g: reference.softmax_vjp(x, g, None, SCALE),
        _softmax_terms,
        _gap,
    ),
    Case("log_softmax", "x", lambda x, **k: kn.log_softmax(x, -1, **k), reference.log_softmax),
    Case(
        "log_softmax_vjp",
        "x g",
        lambda x, g, **k: kn.log_softmax_vjp(x, g, -1, **k),
        reference.log_softmax_vjp,
        _log_softmax_terms,
    ),
    Case(
        "logsumexp_softmax",
        "x",
        lambda x, **k: kn.logsumexp_softmax(x, -1, **k),
        reference.logsumexp_softmax,
        lambda x: (_top(x), 0.0),
        lambda x: (0.0, _far(x)),
    ),
    Case(
        "softmax_entropy",
        "x",
        lambda x, **k: kn.softmax_entropy(x, scale=SCALE, **k),
        lambda x: reference.softmax_entropy(x, None, SCALE),
    ),
    Case(
        "softmax_entropy_vjp",
        "x s",
        lambda x, s, **k: kn.softmax_entropy_vjp(x, s, scale=SCALE, **k),
        lambda x, s: reference.softmax_entropy_vjp(x, s, None, SCALE),
        _entropy_terms,
        _gap,
    ),
    Case(
        "logsumexp_bounds",
        "x p",
        lambda x, p, **k: kn.logsumexp_bounds(x, p=p, order=2.0, tau=1.5, **k),
        lambda x, p: reference.logsumexp_bounds(x, p, 2.0, 1.5),
        lambda x, p: (_bounds_terms(x, p),) * 4,
    ),
    Case(
        "logsumexp_lipschitz",
        "x g",
        lambda x, g, **k: kn.logsumexp_lipschitz(x, g, **k),
        reference.logsumexp_lipschitz,
        lambda x, y: (_lipschitz_terms(x, y), 0.0),
    ),
    Case(
        "logsumexp_jensen_gap",
        "x",
        lambda x, **k: kn.logsumexp_jensen_gap(x, **k),
        _jensen_gap,
        _jensen_terms,
    ),
    Case(
        "entropy_invariant_scale",
        "n",
        lambda n, **k: kn.entropy_invariant_scale(n, **k),
        lambda n: reference.entropy_invariant_scale(n, COEFFICIENT),
    ),
    Case(
        "entropy_invariant_softmax",
        "x mask",
        lambda x, mask, **k: kn.entropy_invariant_softmax(x, mask=mask, **k),
        lambda x, mask: reference.entropy_invariant_softmax(x, mask, COEFFICIENT),
        allowance=_invariant_gap,
        growth=SCALE_GROWTH,
    ),
    Case(
        "entropy_invariant_softmax_vjp",
        "x g mask",
        lambda x, g, mask, **k: kn.entropy_invariant_softmax_vjp(x, g, mask=mask, **k),
        lambda x, g, mask: reference.entropy_invariant_softmax_vjp(x, g, mask, COEFFICIENT),
        _invariant_terms,
        lambda x, g, mask: _invariant_gap(x, mask),
        SCALE_GROWTH,
    ),
)


def make_inputs(rows: int, n: int, dtype: Any) -> dict[str, Array]:
    """Logits, gradients, weights, probabilities and a causal mask of `rows` rows of `n`."""
    rng = np.random.default_rng(20240229)
    # Two weights that are exact in every type, so that the sum is 1 in every type (n is even).
    p = np.where(rng.permuted(np.arange(n) % 2 == 0), 1.5, 0.5) / n
    inputs = {
        "x": 6 * rng.standard_normal((rows, n)),
        "g": rng.standard_normal((rows, n)),
        "s": rng.standard_normal(rows),
        "w": rng.uniform(0.1, 2.0, (rows, n)),
        "p": p,
        "n": rng.integers(1, 2000, (rows, n)),
    }
    mask = np.arange(n) < rng.integers(1, n + 1, (rows, 1))
    return {"mask": mask, **{name: x.astype(dtype) for name, x in inputs.items()}}


def dtypes() -> Iterator[Any]:
    yield from (np.dtype(np.float64), np.dtype(np.float32), np.dtype(np.float16))
    if find_spec("ml_dtypes"):
        yield np.dtype(import_module("ml_dtypes").bfloat16)


def seconds(call: Callable[[], Any], wait: Callable[[], Any], repeats: int) -> float:
    """The shortest of some runs after a first one."""
    best = math.inf
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        wait()
        best = min(best, time.perf_counter() - start)
    return best


def largest_error(case: Case, inputs: list[Array], actual: Any) -> float:
    """Error in ULP against the reference in the wide type, over all results of the kernel."""
    wide = [x if x.dtype == bool else x.astype(Wide) for x in inputs]
    with np.errstate(all="ignore"):
        parts = [case.oracle(*wide), case.magnitude(*wide), case.allowance(*wide)]
    if case.growth:
        parts[2] = case.growth[actual.dtype.name] * parts[2]
    if not isinstance(actual, tuple):
        return ulp_error(actual, *parts)
    expected, magnitude, allowance = (
        part if isinstance(part, tuple) else (part,) * len(actual) for part in parts
    )
    return max(map(ulp_error, actual, expected, magnitude, allowance))


def check(case: Case, backend: str, dtype: Any, shape: tuple[int, int], repeats: int) -> Any:
    """One line of the table as a dict."""
    inputs = make_inputs(*shape, dtype)
    chosen = [inputs[name] for name in case.arguments.split()]
    given, fetch, wait = chosen, np.asarray, bool
    if backend == "cuda" and _backends.cuda_on_host is None:
        cupy = import_module("cupy")
        given = [cupy.asarray(x) for x in chosen]
        fetch, wait = cupy.asnumpy, cupy.cuda.get_current_stream().synchronize
    actual = case.run(*given, backend=backend)
    actual = tuple(map(fetch, actual)) if isinstance(actual, tuple) else fetch(actual)
    error = largest_error(case, chosen, actual)
    # Where there is no wider type the oracle is as far from the truth as the kernel may be.
    limit = LIMITS[case.public][dtype.name] * (2 if dtype == np.dtype(Wide) else 1)
    reference_time = seconds(lambda: case.run(*chosen, backend="reference"), bool, repeats)
    native_time = None
    if backend != "reference":
        native_time = seconds(lambda: case.run(*given, backend=backend), wait, repeats)
    return {
        "function": case.name,
        "backend": backend,
        "dtype": dtype.name,
        "shape": list(shape),
        "native_seconds": native_time,
        "reference_seconds": reference_time,
        "error_ulp": error,
        "limit_ulp": limit,
        "agrees": error <= limit,
    }


def available() -> list[str]:
    """The backends to check: the best CPU level and CUDA; the reference if there is neither."""
    names = ["cpu"] if not _backends.refusal("cpu") else []
    if not _device.load()[1] and _backends.cupy_state()[0]:
        names.append("cuda")
    return names or ["reference"]


def line(row: dict[str, Any]) -> str:
    native, reference_time = row["native_seconds"], row["reference_seconds"]
    shape = "x".join(map(str, row["shape"]))
    times = f"{'-':>10} {1e6 * reference_time:>10.0f} {'-':>8}"
    if native is not None:
        speed = f"{reference_time / native:.1f}x"
        times = f"{1e6 * native:>10.0f} {1e6 * reference_time:>10.0f} {speed:>8}"
    verdict = "" if row["agrees"] else f"  above the limit of {row['limit_ulp']}"
    return (
        f"{row['function']:<30} {row['backend']:<9} {row['dtype']:<8} {shape:>10} "
        f"{times} {row['error_ulp']:>7.2f}{verdict}"
    )


HEADER = (
    f"{'function':<30} {'backend':<9} {'dtype':<8} {'shape':>10} "
    f"{'native us':>10} {'numpy us':>10} {'speed-up':>8} {'ULP':>7}"
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m kexue_native", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller inputs, one repetition")
    parser.add_argument("--json", metavar="FILE", help="write configuration and results to FILE")
    parser.add_argument("--backend", metavar="NAME", help="check this backend only")
    options = parser.parse_args(arguments)

    config = kn.show_config()
    print(config, end="\n\n")
    backends = available()
    if options.backend:
        try:
            with kn.use_backend(options.backend):
                backends = [options.backend]
        except (RuntimeError, ValueError) as error:
            print(error, file=sys.stderr)
            return 2
    if backends == ["reference"]:
        print("No native core is used: the NumPy reference is checked against a wider type.\n")

    shape, repeats = ((32, 256), 1) if options.quick else ((256, 1024), 3)
    results = []
    print(HEADER)
    for backend in backends:
        for case in CASES:
            for dtype in dtypes():
                results.append(check(case, backend, dtype, shape, repeats))
                print(line(results[-1]), flush=True)
    wrong = sum(not row["agrees"] for row in results)
    verdict = "all agree within the stated limits" if not wrong else f"{wrong} above their limits"
    print(f"\n{len(results)} checks: {verdict}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"config": config, "results": results}, file, indent=2)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
