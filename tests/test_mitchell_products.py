"""Mitchell's scalar and matrix products: within the bound of their sums, exact for integers."""

import itertools

import numpy as np
import pytest

import kexue_native as kn
from cases_mitchell import FLOATS, INTEGERS, dtype_of, equal_bits, numbers

SHAPES = (
    ((3, 5), (5, 4)),
    ((7, 33), (33, 70)),
    ((1, 9), (9, 40)),
    ((20, 1), (1, 20)),
    ((13, 300), (300, 9)),
    ((4,), (4,)),
    ((5,), (5, 66)),
    ((66, 5), (5,)),
    ((2, 1, 6, 8), (3, 8, 9)),
    ((2, 6, 8), (8,)),
    ((8,), (2, 8, 9)),
    ((3, 0), (0, 4)),
    ((0, 3), (3, 4)),
    ((2, 0, 3), (3, 4)),
)
OPTIONS = (
    {},
    {"offset": "lmul"},
    {"offset": "unbiased"},
    {"iterations": 1},
    {"method": "ilm", "iterations": 1},
    {"mantissa_bits": 3},
    {"mantissa_bits": 4, "fill": "half"},
)


def terms(a, b, accumulator, options):
    """Products in the accumulator's format, last axis first to be summed, in a wide type."""
    products = kn.mitchell_mul(
        a.astype(accumulator), b.astype(accumulator), **options, backend="reference"
    )
    return products.astype(np.longdouble)


def as_sums(a, b):
    """Operands of a matrix product as those of scalar products."""
    x = a[None] if a.ndim == 1 else a
    y = b[:, None] if b.ndim == 1 else b
    x, y = x[..., :, None, :], np.swapaxes(y, -1, -2)[..., None, :, :]
    shape = np.matmul(np.zeros(a.shape), np.zeros(b.shape)).shape
    return x, y, shape


def check_floats(got, a, b, shape, accumulator, options):
    """The bound of the specification: 2 u (K + 8) sum |p_k|, half a unit of the result's type."""
    p = terms(a, b, accumulator, options)
    p = np.broadcast_to(p, np.broadcast_shapes(a.shape, b.shape))
    k = p.shape[-1]
    want, size = p.sum(axis=-1).reshape(shape), np.abs(p).sum(axis=-1).reshape(shape)
    assert got.shape == shape
    u = 2.0**-53 if accumulator == np.float64 else 2.0**-24
    half = {"float64": 0, "float32": 0 if u > 2.0**-30 else 2.0**-24}.get(
        got.dtype.name, 2.0**-8 if got.dtype.name == "bfloat16" else 2.0**-11
    )
    tiny = {"float16": 2.0**-25, "bfloat16": 2.0**-134, "float32": 2.0**-150}
    bound = 2 * u * (k + 8) * size
    bound = bound + half * (np.abs(want) + bound) + tiny.get(got.dtype.name, 0) * (half > 0)
    error = np.abs(got.astype(np.longdouble) - want)
    assert np.all(error <= bound), float((error / np.maximum(bound, 1e-300)).max())


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_mitchell_matmul_is_a_sum_of_products(name, options, backend, rng):
    for shapes in SHAPES if not options else SHAPES[:5]:
        if backend.rows < 1 and np.prod(shapes[0] + shapes[1]) > 50_000:
            continue
        a, b = (rng.standard_normal(s).astype(dtype_of(name)) for s in shapes)
        a[rng.random(a.shape) < 0.2] = 0
        if shapes[0][0] % 2:
            b[rng.random(b.shape) < 0.2] = 0
        x, y, shape = as_sums(a, b)
        for acc in ({}, {"acc_dtype": "float64"}):
            got = backend(kn.mitchell_matmul, a, b, **options, **acc)
            wide = np.float64 if acc or name == "float64" else np.float32
            assert got.dtype == a.dtype
            check_floats(np.asarray(got), x, y, shape, wide, options)


def test_mitchell_matmul_of_powers_of_two_is_the_exact_one(backend, rng):
    a = 2.0 ** rng.integers(-3, 4, (9, 12)) * rng.choice([-1.0, 0, 1.0], (9, 12))
    b = rng.standard_normal((12, 10)).round(2)
    for x, y in ((a, b), (b.T.copy(), a.T.copy())):
        np.testing.assert_allclose(backend(kn.mitchell_matmul, x, y), x @ y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["float32", "float64", "float16"])
def test_mitchell_matmul_of_all_kinds_of_numbers(name, backend, rng):
    """Subnormal, huge, infinite numbers and nan: what one sum has the others do not get."""
    n = 20 if backend.rows == 1 else 9
    a, b = numbers(rng, name, n * 30).reshape(n, 30), numbers(rng, name, 30 * 40).reshape(30, 40)
    a[~np.isfinite(a) & (rng.random(a.shape) < 0.9)] = 1
    b[~np.isfinite(b) & (rng.random(b.shape) < 0.97)] = 2
    for options in ({}, {"subnormal": "flush"}, {"offset": "minimax"}):
        wide = np.float64 if name == "float64" else np.float32
        with np.errstate(all="ignore"):
            got = backend(kn.mitchell_matmul, a, b, **options).astype(np.float64)
            x, y = a[:, None, :].astype(wide), b.T[None].astype(wide)
            flush = options.get("subnormal", "gradual") == "flush"
            p = kn.mitchell_mul(x, y, **options, backend="reference").astype(np.longdouble)
            want, size = p.sum(axis=-1), np.abs(p).sum(axis=-1)
        assert np.array_equal(np.isnan(got), np.isnan(want)) or name != "float64" or flush
        ok = np.isfinite(want) & (size < 2.0 ** (1023 if name == "float64" else 14))
        u = 2.0**-53 if name == "float64" else 2.0**-24
        bound = 2 * u * 38 * size + (2.0**-11 * size + 2.0**-25 if name == "float16" else 0)
        assert np.all(np.abs(got[ok] - want[ok]) <= bound[ok])
        rest = np.where(np.isfinite(p), np.abs(p), 0).sum(axis=-1)
        infinite = np.isinf(want) & (rest < np.finfo(wide).max / 2)
        assert np.array_equal(got[infinite], want[infinite].astype(np.float64))


@pytest.mark.parametrize("size", [1e-30, 1e-42, 1e25])
def test_mitchell_matmul_of_small_and_large_numbers(size, backend, rng):
    """Products that are subnormal in the accumulator, or overflow there: as products alone are."""
    a = (size * rng.uniform(1, 2, (12, 20))).astype(np.float32)
    b = (rng.uniform(1, 2, (20, 16)) * (1e-10 if size < 1 else 1e14)).astype(np.float32)
    got = backend(kn.mitchell_matmul, a, b)
    with np.errstate(over="ignore"):
        p = kn.mitchell_mul(a[:, None], b.T[None], backend="reference").astype(np.float64)
        want = p.sum(axis=-1)
        finite = np.isfinite(want) & (want < 3e38)
        assert np.all(np.abs(got[finite] - want[finite]) <= 2 * 2.0**-24 * 28 * want[finite])
        assert np.all(got[np.isinf(want)] == np.inf)


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_mitchell_matmul_of_integers_is_exact(name, options, backend, rng):
    dtype = np.dtype(name)
    top = {1: 256, 2: 3000, 4: 2**26, 8: 2**26}[dtype.itemsize]
    for n, k, m in ((9, 300, 40), (3, 4, 5), (1, 7, 20), (5, 1, 8), (4, 0, 3)):
        if backend.rows < 1 and n * k * m > 2000:
            continue
        low = -(top // 2) if dtype.kind == "i" else 0
        top = min(top, 200) if name == "uint8" else top  # mitchell_mul saturates with an offset
        a, b = (rng.integers(low, low + top, s).astype(dtype) for s in ((n, k), (k, m)))
        got = backend(kn.mitchell_matmul, a, b, **options, acc_dtype="int64")
        assert got.dtype == np.int64
        products = kn.mitchell_mul(a[:, None], b.T[None], **options, backend="reference")
        want = products.astype(np.int64).sum(axis=-1)
        assert np.array_equal(got, want)
        if dtype.itemsize == 1:
            narrow = backend(kn.mitchell_matmul, a, b, **options)
            assert narrow.dtype == np.int32 and np.array_equal(narrow, want)


@pytest.mark.one_level
def test_mitchell_matmul_of_integers_that_may_overflow(backend):
    a = np.full((2, 40), 2**15 - 1, np.int16)
    with pytest.raises(OverflowError, match="^mitchell_matmul: acc_dtype must hold K max"):
        backend(kn.mitchell_matmul, a, a.T)
    wide = backend(kn.mitchell_matmul, a, a.T, acc_dtype=np.int64)
    assert np.all(wide == 40 * int(kn.mitchell_mul(a[0, 0], a[0, 0])))
    assert np.all(backend(kn.mitchell_matmul, a // 8, a.T // 8) > 0)
    with pytest.raises(OverflowError, match="^mitchell_dot: acc_dtype must hold"):
        backend(kn.mitchell_dot, np.full(3, 2**62), np.full(3, 2))
    least = np.full((1, 1), -128, np.int8)
    assert backend(kn.mitchell_matmul, least, least) == 2**14


@pytest.mark.parametrize("name", [*FLOATS, "int8", "uint16", "int32"])
def test_mitchell_dot(name, backend, rng):
    def make(*shape):
        if name in FLOATS:
            return rng.standard_normal(shape).astype(dtype_of(name))
        return rng.integers(0, 100, shape).astype(name)

    for a, b, axis in (
        (make(4, 6), make(4, 6), -1),
        (make(4, 6), make(6), 1),
        (make(4, 6), make(4, 1), 0),
        (make(2000), make(2000), 0),
        (make(2, 3, 4), make(3, 1), 1),
        (make(5, 1), make(5, 7), -1),
        (make(), make(), -1),
        (make(3, 0), make(3, 0), -1),
    ):
        got = np.asarray(backend(kn.mitchell_dot, a, b, axis=axis))
        full = np.broadcast_arrays(a, b)
        x, y = (np.moveaxis(v, axis, -1) if v.ndim else v.reshape(1) for v in full)
        if name in FLOATS:
            wide = np.float64 if name == "float64" else np.float32
            check_floats(got, x, y, x.shape[:-1], wide, {})
        else:
            p = kn.mitchell_mul(np.ascontiguousarray(x), np.ascontiguousarray(y))
            assert np.array_equal(got, p.astype(np.int64).sum(axis=-1))


@pytest.mark.parametrize("name", ["float32", "bfloat16", "int8"])
def test_mitchell_matmul_layouts_and_out(name, backend, rng):
    """The result does not depend on memory, and may be where an operand is."""
    a, b = (rng.integers(-9, 9, (12, 12)).astype(dtype_of(name)) for _ in range(2))
    want = backend(kn.mitchell_matmul, a, b)
    layouts = (
        lambda v: v,
        np.asfortranarray,
        lambda v: np.ascontiguousarray(v[::-1, ::-1])[::-1, ::-1],
        lambda v: np.repeat(np.repeat(v, 2, 0), 3, 1)[::2, ::3],
    )
    for f, g in itertools.product(layouts, repeat=2):
        assert np.all(equal_bits(backend(kn.mitchell_matmul, f(a), g(b)), want))
        out = g(np.zeros_like(want))
        assert backend(kn.mitchell_matmul, f(a), b, out=out) is out
        assert np.all(equal_bits(out, want))
    if want.dtype == a.dtype:
        same = a.copy()
        backend(kn.mitchell_matmul, same, b, out=same)
        assert np.all(equal_bits(same, want))


def test_mitchell_matmul_bits_do_not_depend_on_threads(threads, rng):
    a, b = rng.standard_normal((150, 90)).astype("f4"), rng.standard_normal((90, 130)).astype("f4")
    found = []
    for count in (1, 2, 3):
        kn.set_num_threads(count)
        found.append(kn.mitchell_matmul(a, b).tobytes())
    assert len(set(found)) == 1


@pytest.mark.one_level
def test_mitchell_matmul_result_types(backend):
    """A float16 sum may overflow where it is stored, not before."""
    a = np.full((8, 8), 300, np.float16)
    assert np.all(np.isinf(backend(kn.mitchell_matmul, a, a)))
    wide = backend(kn.mitchell_matmul, a, a, out_dtype=np.float32)
    assert wide.dtype == np.float32 and np.all(wide == 8 * np.float32(kn.mitchell_mul(300.0, 300)))
    double = backend(kn.mitchell_matmul, a, a, acc_dtype=np.float64, out_dtype=np.float64)
    assert double.dtype == np.float64 and np.array_equal(double, wide)


def test_mitchell_matmul_errors():
    a, i = np.ones((2, 3), np.float32), np.ones((2, 3), np.int32)
    cases = [
        (ValueError, "b must have as many rows as a has columns, 3, got 2", (a, a), {}),
        (ValueError, "a and b must have at least 1 dimension", (a, np.float32(1)), {}),
        (ValueError, "a and b must have the same dtype", (a, i.T), {}),
        (
            ValueError,
            "a and b must have shapes that broadcast",
            (np.ones((2, 2, 3)), np.ones((3, 3, 2))),
            {},
        ),
        (ValueError, "acc_dtype must be float32 or float64", (a, a.T), {"acc_dtype": "float16"}),
        (TypeError, "acc_dtype must be of type", (a, a.T), {"acc_dtype": "int32"}),
        (TypeError, "acc_dtype must be a dtype", (a, a.T), {"acc_dtype": "wide"}),
        (ValueError, "acc_dtype must be int64", (i, i.T), {"acc_dtype": "int32"}),
        (ValueError, "out_dtype must be left out", (i, i.T), {"out_dtype": "int32"}),
        (ValueError, "out must have shape", (a, a.T), {"out": np.ones((2, 3), np.float32)}),
        (ValueError, "offset must be none", (a, a.T), {"offset": 0.1, "iterations": 1}),
    ]
    for error, text, arrays, options in cases:
        with pytest.raises(error, match=f"^mitchell_matmul: {text}"):
            kn.mitchell_matmul(*arrays, **options)
    with pytest.raises(ValueError, match="^mitchell_dot: a and b must have shapes that broadcast"):
        kn.mitchell_dot(a, np.ones(2, np.float32))
    with pytest.raises(np.exceptions.AxisError, match="^mitchell_dot: axis must be in"):
        kn.mitchell_dot(a, a, axis=2)
