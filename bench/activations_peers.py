"""Competitors for elementwise functions. Names that begin with "kn" are ours, "limit" is a copy.

Four million values of standard deviation 3 do not fit the second-level cache of most machines, and
stay within the third.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

import kexue_native as kn
from harness import Unavailable, load

Call = Callable[[], Any]

SIZE, QUICK_SIZE = 1 << 22, 1 << 14
TOLERANCE = {"float64": 2e-13, "float32": 1e-5}
# What a formula may lose where the result is small beside its terms, which the peers lose all.
SLACK = 1e-7
FUNCTIONS = (
    "sigmoid",
    "log_sigmoid",
    "softplus",
    "silu",
    "gelu",
    "gelu tanh",
    "squareplus",
    "smooth_max2",
)
NUMEXPR = {
    "sigmoid": "1 / (1 + exp(-x))",
    "log_sigmoid": "where(x < 0, x, 0) - log1p(exp(-abs(x)))",
    "softplus": "where(x > 0, x, 0) + log1p(exp(-abs(x)))",
    "silu": "x / (1 + exp(-x))",
    "gelu tanh": "0.5 * x * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))",
    "squareplus": "(x + sqrt(x * x + 4)) / 2",
    "smooth_max2": "(x + y + sqrt((x - y) * (x - y) + 4)) / 2",
}


class Problem(NamedTuple):
    function: str
    dtype: str
    size: int

    @property
    def name(self) -> str:
        return f"{self.function} {self.dtype} {self.size}"


def problems(quick: bool = False) -> list[Problem]:
    size = QUICK_SIZE if quick else SIZE
    return [Problem(f, dtype, size) for dtype in TOLERANCE for f in FUNCTIONS]


@cache
def data(dtype: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(8718)
    x, y = 3 * rng.standard_normal((2, size))
    return x.astype(dtype), y.astype(dtype)


def arguments(p: Problem) -> tuple[np.ndarray, ...]:
    x, y = data(p.dtype, p.size)
    return (x, y) if p.function == "smooth_max2" else (x,)


def options(p: Problem) -> dict[str, Any]:
    if p.function in ("squareplus", "smooth_max2"):
        return {"b": 4.0}
    return {"approximate": "tanh"} if p.function == "gelu tanh" else {}


def ours(p: Problem, threads: int, out: bool = True, backend: str = "cpu") -> Call:
    kn.set_num_threads(threads)
    given = arguments(p)
    call = partial(getattr(kn, p.function.partition(" ")[0]), *given, **options(p), backend=backend)
    return partial(call, out=np.empty_like(given[0])) if out else call


def torch(p: Problem, threads: int) -> Call:
    torch = load("torch")
    torch.set_num_threads(threads)
    functional = torch.nn.functional
    x = torch.from_numpy(arguments(p)[0])
    out = torch.empty_like(x)
    if p.function == "sigmoid":
        return lambda: torch.sigmoid(x, out=out).numpy()
    found = {
        "log_sigmoid": functional.logsigmoid,
        "softplus": functional.softplus,
        "silu": functional.silu,
        "gelu": functional.gelu,
        "gelu tanh": partial(functional.gelu, approximate="tanh"),
    }.get(p.function)
    if found is None:
        raise Unavailable("no such function")
    function = found  # none of these has out=
    return lambda: function(x).numpy()


def jax(p: Problem, threads: int) -> Call:
    jax = load("jax")
    jax.config.update("jax_enable_x64", True)
    nn, jnp = load("jax.nn"), load("jax.numpy")
    function = {
        "gelu": partial(nn.gelu, approximate=False),
        "gelu tanh": partial(nn.gelu, approximate=True),
        "smooth_max2": lambda x, y: (x + y + jnp.sqrt((x - y) ** 2 + 4)) / 2,
    }.get(p.function) or getattr(nn, p.function)
    compiled = jax.jit(function)
    given = [jax.device_put(a) for a in arguments(p)]
    return lambda: compiled(*given).block_until_ready()


def numexpr(p: Problem, threads: int) -> Call:
    numexpr = load("numexpr")
    numexpr.set_num_threads(threads)
    if p.function not in NUMEXPR:
        raise Unavailable("no such function")
    names = dict(zip("xy", arguments(p)))
    out = np.empty_like(names["x"])
    one = partial(numexpr.evaluate, NUMEXPR[p.function], names, out=out, casting="same_kind")
    return one


def scipy(p: Problem, threads: int) -> Call:
    special = load("scipy.special")
    x = arguments(p)[0]
    out = np.empty_like(x)
    if p.function == "sigmoid":
        return lambda: special.expit(x, out=out)
    if p.function == "log_sigmoid":
        return lambda: special.log_expit(x, out=out)
    if p.function == "gelu":
        return lambda: np.multiply(x, special.ndtr(x, out=out), out=out)
    raise Unavailable("no such function")


def copy(p: Problem, threads: int) -> Call:
    from special_peers import in_parts

    given = arguments(p)
    out = np.empty_like(given[0])

    def call() -> None:
        for x in given:
            in_parts(lambda i, j: np.copyto(out[i:j], x[i:j]), x.size, threads)  # noqa: B023

    return call


def competitors(problem: Problem) -> dict[str, Callable[[Problem, int], Call]]:
    return {
        "kn out=": ours,
        "kn": partial(ours, out=False),
        "kn reference": partial(ours, backend="reference"),
        "torch": torch,
        "jax": jax,
        "numexpr": numexpr,
        "scipy": scipy,
        "limit copy": copy,
    }


@cache
def expected(problem: Problem) -> np.ndarray:
    wide = [x.astype(np.float64) for x in arguments(problem)]
    function = getattr(kn, problem.function.partition(" ")[0])
    return np.asarray(function(*wide, **options(problem), backend="reference"))


def prepare(problem: Problem, competitor: str, threads: int) -> Call:
    """The call of a competitor whose result is right."""
    call = competitors(problem)[competitor](problem, threads)
    result = call()
    if competitor != "limit copy":
        want = expected(problem)
        error = np.abs(np.asarray(result) - want)
        size = np.abs(want)
        if problem.function == "smooth_max2":  # a sum of these
            size = np.maximum.reduce([size, *map(np.abs, arguments(problem))])
        bound = TOLERANCE[problem.dtype] * size + np.finfo(problem.dtype).smallest_subnormal
        if not competitor.startswith("kn"):
            bound += SLACK if problem.dtype == "float32" else TOLERANCE[problem.dtype]
        assert np.all(error <= bound), f"off by up to {np.max(error / bound):.3g} times the bound"
    return call
