"""Mitchell's functions and who else computes them: bit tricks as found in public code, by library.

The tricks are right for ordinary numbers only, and so are the data here; that they overwrite zeros
and infinities is not held against them. Of integers they are as fast as their libraries allow.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np

import kexue_native as kn
from harness import Call, Unavailable, load, numpy_dtype

ELEMENTS = 20_000_000
FLOATS = ("float32", "float64", "float16", "bfloat16")
INTEGERS = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
FRACTION = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}
BIAS = {"float64": 1023, "float32": 127, "float16": 15, "bfloat16": 127}
PEERS = ("numpy", "numba", "jax", "torch")


MATRICES = ((512, 512, 512), (1024, 256, 1024))  # rows, products of a sum, columns


class Problem(NamedTuple):
    function: str
    dtype: str
    elements: int
    sizes: tuple[int, ...] = ()  # of matrices

    @property
    def name(self) -> str:
        if self.sizes:
            return f"mitchell_{self.function} {self.dtype} {'x'.join(map(str, self.sizes))}"
        return f"mitchell_{self.function} {self.dtype} {self.elements:.0e}".replace("+0", "")

    @property
    def binary(self) -> bool:
        return self.function in ("mul", "div")

    @property
    def out_dtype(self) -> np.dtype[Any]:
        dtype = numpy_dtype(self.dtype)
        if self.function == "mul" and dtype.kind in "iu":
            return np.dtype(f"{dtype.kind}{min(2 * dtype.itemsize, 8)}")
        return dtype


def problems(quick: bool) -> list[Problem]:
    n = 20_000 if quick else ELEMENTS
    found = [Problem("mul", d, n) for d in (*FLOATS, *INTEGERS)]
    found += [Problem("div", d, n) for d in ("float32", "float16", "uint8", "int32")]
    found += [Problem(f, d, n) for f in ("log2", "exp2") for d in FLOATS]
    found += [Problem(f, "float32", n) for f in ("square", "sqrt", "rsqrt", "reciprocal")]
    sizes = ((24, 20, 28),) if quick else MATRICES
    found += [Problem("matmul", "float32", s[0] * s[2], s) for s in sizes]
    return found


@cache
def data(problem: Problem) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(7991)
    dtype = numpy_dtype(problem.dtype)
    made = []
    if problem.sizes:
        rows, depth, columns = problem.sizes
        shapes = (rows, depth), (depth, columns)
        return tuple(rng.standard_normal(shape).astype(dtype) for shape in shapes)
    for _ in range(1 + problem.binary):
        if dtype.kind in "iu":
            top = min(2 ** (8 * dtype.itemsize - (dtype.kind == "i")), 2**62)
            made.append(rng.integers(1, top, problem.elements).astype(dtype))
        else:
            x = (
                rng.uniform(0.25, 4, problem.elements)
                if problem.function != "exp2"
                else (rng.uniform(-8, 8, problem.elements))
            )
            made.append(x.astype(np.float32).astype(dtype))
    return tuple(made)


def competitors(problem: Problem) -> list[str]:
    names = ["kn out=", "kn"]
    if problem.function == "matmul":
        return [*names, "exact numpy out=", "numba bit trick"]
    if problem.function == "mul":
        names.append("exact numpy out=")
    return [*names, *(f"{peer} bit trick" for peer in PEERS)]


def prepare(problem: Problem, competitor: str, threads: int) -> Call:
    data.cache_clear() if data.cache_info().currsize > 1 else None
    arrays = data(problem)
    if competitor.startswith("kn"):
        kn.set_num_threads(threads)
        function = getattr(kn, f"mitchell_{problem.function}")
        if competitor == "kn":
            return lambda: function(*arrays)
        out = np.empty(problem.sizes[::2] or problem.elements, problem.out_dtype)
        return lambda: function(*arrays, out=out)
    if competitor.startswith("exact") and problem.sizes:
        out = np.empty(problem.sizes[::2], problem.out_dtype)
        return lambda: np.matmul(*arrays, out=out)
    if competitor.startswith("exact"):
        out = np.empty(problem.elements, problem.out_dtype)
        return lambda: np.multiply(*arrays, out=out, dtype=out.dtype)
    call = BUILDERS[competitor.partition(" ")[0]](problem, arrays, threads)
    check(problem, call())
    return call


def check(problem: Problem, result: Any) -> None:
    if problem.sizes:
        want = kn.mitchell_matmul(*data(problem), acc_dtype="float64")
        error = np.abs(np.asarray(result) - want).max() / np.abs(want).max()
        assert error <= 1e-5, f"off by {error:.1e} of the largest"
        return
    some = slice(0, 10_000)
    got = np.asarray(result)[some]
    parts = [a[some] for a in data(problem)]
    want = getattr(kn, f"mitchell_{problem.function}")(*parts, backend="reference")
    if got.dtype != want.dtype:  # the words, or a library's own float16
        got = got.view(want.dtype) if got.itemsize == want.itemsize else got.astype(want.dtype)
    unit = 1 if problem.function in ("log2", "exp2") else 0  # tricks may round twice
    words = [v.view(f"i{v.itemsize}").astype(np.int64) for v in (got, want)]
    worst = int(np.abs(words[0] - words[1]).max())
    assert worst <= unit, f"off by {worst} units"


def formula(problem: Problem, xp: Any, x: Any, y: Any, one: Any) -> Any:
    """The trick on words as integers."""
    return {
        "mul": lambda: x + y - one,
        "div": lambda: x - y + one,
        "square": lambda: x + x - one,
        "sqrt": lambda: (x >> 1) + (one >> 1) + ((x & 1) & (x >> 1)),
        "reciprocal": lambda: one + one - x,
    }[problem.function]()


def _word(problem: Problem) -> np.dtype[Any]:
    return np.dtype(f"i{numpy_dtype(problem.dtype).itemsize}")


def jax_integers(problem: Problem, arrays: Any) -> Call:
    """2^(k + l) (1 + x + y) or, from x + y = 1 on, 2^(k + l + 1) (x + y), by leading zeros."""
    jax = load("jax")
    jax.config.update("jax_enable_x64", True)
    jnp, dtype = jax.numpy, numpy_dtype(problem.dtype)
    if problem.function != "mul" or dtype.itemsize > 4:
        raise Unavailable("no bit trick of JAX for these integers")
    wide = problem.out_dtype
    top = wide.type(8 * wide.itemsize - 1)

    def f(a: Any, b: Any) -> Any:
        u, w = (jnp.abs(v.astype(wide)) for v in (a, b))
        k, m = (top - jax.lax.clz(v) for v in (u, w))
        s, one = (u << m) + (w << k), wide.type(1) << (k + m)
        p = jnp.where(s >= 3 * one, 2 * s - 4 * one, s - one)
        p = jnp.where((u == 0) | (w == 0), wide.type(0), p)
        return jnp.where((a < 0) ^ (b < 0), -p, p) if dtype.kind == "i" else p

    compiled = jax.jit(f)
    device = [jnp.asarray(a) for a in arrays]
    return lambda: compiled(*device).block_until_ready()


def _only_floats(problem: Problem, library: str) -> None:
    if problem.dtype not in FRACTION:
        raise Unavailable(f"no bit trick of {library} for integers")
    if problem.function in ("sqrt", "rsqrt"):
        raise Unavailable("the trick does not round half to even")


def numpy_trick(problem: Problem, arrays: Any, threads: int) -> Call:
    _only_floats(problem, "NumPy")
    word, m = _word(problem), FRACTION[problem.dtype]
    one = word.type(BIAS[problem.dtype] << m)
    x = arrays[0].view(word)
    y = arrays[-1].view(word)
    dtype = numpy_dtype(problem.dtype)
    real = np.dtype(np.float64 if word.itemsize == 8 else np.float32)
    if problem.function == "log2":
        return lambda: ((x - one) * real.type(2.0**-m)).astype(dtype)
    if problem.function == "exp2":
        value = arrays[0]

        def exp2() -> Any:
            wide = value.astype(real)
            return ((wide * real.type(2**m)).round().astype(word) + one).view(dtype)

        raise Unavailable("the trick by one product rounds in other places")
    return lambda: formula(problem, np, x, y, one).view(dtype)


def numba_trick(problem: Problem, arrays: Any, threads: int) -> Call:
    import mitchell_numba

    numba = load("numba")
    numba.set_num_threads(threads)
    word, dtype = _word(problem), numpy_dtype(problem.dtype)
    out = np.empty(problem.sizes[::2] or problem.elements, problem.out_dtype)
    kernel, real = mitchell_numba.kernel(problem.function, problem.dtype)
    if kernel is None:
        raise Unavailable("not written for this type")
    if dtype.kind in "iu":
        to = out
        ins = arrays
    else:
        to = out if problem.sizes else out.view(real or word)
        ins = [a.view(real or word) for a in arrays]
    kernel(*ins, to)

    def call() -> Any:
        kernel(*ins, to)
        return out

    return call


def jax_trick(problem: Problem, arrays: Any, threads: int) -> Call:
    if problem.dtype in INTEGERS:
        return jax_integers(problem, arrays)
    _only_floats(problem, "JAX")
    jax = load("jax")
    jax.config.update("jax_enable_x64", True)
    jnp, word, m = jax.numpy, _word(problem), FRACTION[problem.dtype]
    one = word.type(BIAS[problem.dtype] << m)
    if problem.function == "log2":
        real = np.float64 if word.itemsize == 8 else np.float32

        def f(x: Any, y: Any) -> Any:
            code = jax.lax.bitcast_convert_type(x, word) - one
            return (code.astype(real) * real(2.0**-m)).astype(x.dtype)
    elif problem.function == "exp2":

        def f(x: Any, y: Any) -> Any:
            real = np.float64 if word.itemsize == 8 else np.float32
            wide = x.astype(real)
            whole = jnp.floor(wide)
            return jnp.ldexp(1 + (wide - whole), whole.astype(np.int32)).astype(x.dtype)
    else:

        def f(x: Any, y: Any) -> Any:
            u, w = (jax.lax.bitcast_convert_type(v, word) for v in (x, y))
            return jax.lax.bitcast_convert_type(formula(problem, jnp, u, w, one), x.dtype)

    compiled = jax.jit(f)
    device = [jnp.asarray(a) for a in arrays]
    return lambda: compiled(device[0], device[-1]).block_until_ready()


def torch_trick(problem: Problem, arrays: Any, threads: int) -> Call:
    _only_floats(problem, "PyTorch")
    torch = load("torch")
    torch.set_num_threads(threads)
    word, m = _word(problem), FRACTION[problem.dtype]
    kind = getattr(torch, word.name)
    one = int(BIAS[problem.dtype] << m)
    x, y = (torch.from_numpy(a.view(word)) for a in (arrays[0], arrays[-1]))
    real = getattr(torch, problem.dtype)
    out = torch.empty_like(x)
    if problem.function == "mul":

        def mul() -> Any:
            torch.add(x, y, out=out)
            return out.sub_(one).numpy()

        return mul
    if problem.function == "log2":
        wide = torch.float64 if word.itemsize == 8 else torch.float32

        def log2() -> Any:
            return ((x - one).to(wide) * 2.0**-m).to(real).view(kind).numpy()

        return log2
    if problem.function == "exp2":
        value = x.view(real)
        wide = torch.float64 if word.itemsize == 8 else torch.float32

        def exp2() -> Any:
            v = value.to(wide)
            whole = v.floor()
            return torch.ldexp(1 + (v - whole), whole).to(real).view(kind).numpy()

        return exp2
    return lambda: formula(problem, torch, x, y, one).numpy()


BUILDERS = {
    "numpy": numpy_trick,
    "numba": numba_trick,
    "jax": jax_trick,
    "torch": torch_trick,
}
