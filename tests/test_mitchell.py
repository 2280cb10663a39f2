"""Mitchell's elementwise functions: the definition on exact rationals, all backends bit for bit."""

import itertools
import math
from fractions import Fraction
from functools import cache

import numpy as np
import pytest

import kexue_native as kn
import mitchell_oracle as oracle
from cases_mitchell import (
    ELEMENTWISE,
    FLOATS,
    INTEGERS,
    PRODUCTS,
    Call,
    arguments,
    dtype_of,
    equal_bits,
    numbers,
    words,
)
from mitchell_oracle import INF, NAN, two

each_call = pytest.mark.parametrize("call", ELEMENTWISE, ids=lambda c: c.name)
each_float = pytest.mark.parametrize("name", FLOATS)
each_integer = pytest.mark.parametrize("name", INTEGERS)
CONSTANTS = {"none": 0, "lmul": Fraction(1, 16)}


def constant(op, offset):
    """c of an option, to more digits than any format has."""
    if isinstance(offset, str) and offset not in CONSTANTS:
        return Fraction(OFFSETS[op, offset][-1], 2**52)
    return Fraction(CONSTANTS.get(offset, offset))


# Units in the last place of float16, bfloat16, float32, float64, from the specification.
OFFSETS = {
    ("mul", "unbiased"): (58, 7, 474990, 255008540775479),
    ("mul", "minimax"): (71, 9, 577619, 310106774579136),
    ("div", "unbiased"): (-59, -7, -486498, -261186771493866),
    ("div", "minimax"): (-77, -10, -627494, -336883456710221),
}


# --- The definition, for one element ---


def exact_mul(f, a, b, o, flush):
    (s, u), (t, w) = a, b
    sign = s * t
    if NAN in (u, w) or {u, w} == {0, INF}:
        return 1, NAN
    if INF in (u, w):
        return sign, INF
    if 0 in (u, w):
        return sign, 0
    c = oracle.applied(constant("mul", o.get("offset", "none")), f.fraction)
    return sign, oracle.mul(
        u,
        w,
        c,
        o.get("iterations", 0),
        o.get("method", "mitchell"),
        o.get("mantissa_bits"),
        o.get("fill") == "half",
    )


def exact_div(f, a, b, o, flush):
    (s, u), (t, w) = a, b
    sign = s * t
    if NAN in (u, w) or u == w == 0 or u == w == INF:
        return 1, NAN
    if u == INF or w == 0:
        return sign, INF
    if u == 0 or w == INF:
        return sign, 0
    c = oracle.applied(constant("div", o["offset"]), f.fraction)
    return sign, oracle.exp(oracle.log(u) - oracle.log(w) + c)


def exact_log2(f, a, o, flush):
    s, u = a
    if u == 0:
        return -1, INF
    if u == NAN or s < 0:
        return 1, NAN
    if u == INF:
        return 1, INF
    value = oracle.log(u)
    return (-1 if value < 0 else 1), abs(value)


def exact_exp2(f, a, o, flush):
    s, u = a
    if u == NAN:
        return 1, NAN
    if u == INF:
        return 1, INF if s > 0 else 0
    return 1, oracle.exp(max(min(s * u, 5000), -5000))


def exact_pow(f, a, o, flush):
    s, u = a
    p = Fraction(o["p"])
    if p == 0:
        return 1, Fraction(1)
    whole, odd = p.denominator == 1, p.denominator == 1 and p.numerator % 2 == 1
    if u == NAN or (s < 0 and u != 0 and not whole):
        return 1, NAN
    sign = s if odd else 1
    if u in (0, INF):
        return sign, (INF if (u == 0) == (p < 0) else 0)
    return sign, oracle.exp(max(min(p * oracle.log(u), 5000), -5000))


def of_power(p, zero_keeps_sign):
    def exact(f, a, o, flush):
        if a[1] == 0 and zero_keeps_sign:
            return a[0], (INF if p < 0 else 0)
        return exact_pow(f, a, {"p": p}, flush)

    return exact


EXACT = {
    "mitchell_mul": exact_mul,
    "mitchell_div": exact_div,
    "mitchell_log2": exact_log2,
    "mitchell_exp2": exact_exp2,
    "mitchell_pow": exact_pow,
    "mitchell_square": of_power(2, False),
    "mitchell_sqrt": of_power(Fraction(1, 2), True),
    "mitchell_rsqrt": of_power(Fraction(-1, 2), True),
    "mitchell_reciprocal": of_power(-1, True),
}


def exact_words(call, name, arrays, flush):
    f, found = oracle.FORMATS[name], []
    for each in zip(*map(words, arrays), strict=True):
        values = [f.value(word) for word in each]
        if flush:
            values = [
                (s, Fraction(0) if v not in (INF, NAN) and v < two(1 - f.bias) else v)
                for s, v in values
            ]
        sign, magnitude = EXACT[call.function](f, *values, call.options, flush)
        result_flushes = flush and call.function != "mitchell_log2"
        found.append(f.word_of(sign, magnitude, result_flushes))
    return found


def compare(got, want, arrays, note):
    """Words, None where nan is expected."""
    for i, (g, w) in enumerate(zip(words(got), want, strict=True)):
        if w is None:
            assert got[i] != got[i], f"{note}: {[a[i] for a in arrays]} gives {got[i]}, not nan"
        else:
            assert int(g) == w, (
                f"{note}: {[a[i] for a in arrays]} gives {got[i]}, {int(g):#x} and not {w:#x}"
            )


@each_float
@pytest.mark.parametrize("subnormal", ["gradual", "flush"])
@each_call
def test_mitchell_definition_of_floats(call, subnormal, name, rng):
    """The real-valued definition rounded once, half to even; special values as in IEEE 754."""
    if name not in call.types:
        return
    arrays = arguments(rng, call, name, 300)
    want = exact_words(call, name, arrays, subnormal == "flush")
    got = call(*arrays, subnormal=subnormal, backend="reference")
    compare(got, want, arrays, f"{call.name} {name} {subnormal}")


SPECIAL = {
    name: np.array(
        [
            sign | w
            for sign in (0, 1 << (f.width - 1))
            for i in [(2 * f.bias + 1) << f.fraction]
            for w in (
                *(0, 1, 2, 3, (1 << f.fraction) - 1, 1 << f.fraction, (1 << f.fraction) + 1),
                *(i - 1, i, i + 1, f.bias << f.fraction, (f.bias << f.fraction) + 1),
                *(3 << (f.fraction - 1), i >> 1, (i >> 1) + 5, (f.bias - 1) << f.fraction),
                *((2 * f.bias) << f.fraction, (f.bias << f.fraction) - 1),
            )
        ],
        dtype=f.word,
    ).view(f.dtype)
    for name, f in oracle.FORMATS.items()
}


@each_float
@pytest.mark.parametrize("function", ["mitchell_mul", "mitchell_div"])
def test_mitchell_all_classes_of_numbers(function, backend, name):
    """Every pair of zero, subnormal, least, greatest, infinite, nan and some between them."""
    call = Call(function, 2, {"offset": "none"})
    a, b = (np.ravel(v) for v in np.meshgrid(SPECIAL[name], SPECIAL[name]))
    for subnormal in ("gradual", "flush"):
        want = exact_words(call, name, (a, b), subnormal == "flush")
        got = backend(getattr(kn, function), a, b, subnormal=subnormal)
        compare(got, want, (a, b), f"{function} {name} {subnormal}")


def float16_product(a, b):
    """X(L(a) + L(b)) of float64 arrays: sums of few bits, all of them exact in float64."""
    with np.errstate(all="ignore"):

        def logarithm(v):
            m, e = np.frexp(np.abs(v))
            return e - 1 + (2 * m - 1)

        s = logarithm(a) + logarithm(b)
        n = np.floor(s)
        size = np.ldexp(1 + s - n, np.nan_to_num(n, nan=0, posinf=99, neginf=-99).astype(int))
        # IEEE's product says what becomes of zeros, infinities and nan, and the sign
        plain = a * b
        special = (a == 0) | (b == 0) | ~np.isfinite(a) | ~np.isfinite(b)
        return np.where(special, plain, np.copysign(size, plain)).astype(np.float16)


def test_mitchell_mul_of_all_float16_mantissas(backend):
    """2^20 pairs of fractions, at an ordinary exponent and where products are subnormal."""
    fractions = np.arange(1024, dtype=np.uint16)
    for exponent, other in ((15, 15), (8, 2), (1, 10), (0, 12), (30, 15)):
        a = ((exponent << 10) | fractions).view(np.float16)[:, None]
        b = ((other << 10) | fractions).view(np.float16)
        if backend.rows < 1:
            a = a[::41]
        got = backend(kn.mitchell_mul, a, b)
        assert np.all(equal_bits(got, float16_product(a.astype(float), b.astype(float))))


@pytest.mark.exhaustive
def test_mitchell_mul_of_all_float16_pairs():
    """2^32 pairs."""
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    wide = every.astype(np.float64)
    for first in range(0, 2**16, 16):
        part = slice(first, first + 16)
        want = float16_product(wide[part, None], wide)
        got = kn.mitchell_mul(every[part, None], every)
        assert np.all(equal_bits(got, want)), first
    assert want.size * 2**12 == 2**32


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("call", [c for c in ELEMENTWISE if c.arrays == 1], ids=lambda c: c.name)
def test_mitchell_every_number_of_16_bits(call, backend, name):
    """All 65536 words give the same on every backend; the reference is held to the rationals."""
    every = np.arange(2**16, dtype=np.uint16).view(dtype_of(name))
    if call.integers:
        call = call._replace(integers=False)
    if backend.rows < 1:
        every = every[::97]
    for subnormal in ("gradual", "flush"):
        want = call(every, subnormal=subnormal, backend="reference")
        got = backend(call, every, subnormal=subnormal)
        assert np.all(equal_bits(got, want))


# --- Integers ---


def exact_integer(call, name, a, b):
    """Of Python integers, before it is fitted into a type."""
    width, o = 8 * np.dtype(name).itemsize, call.options
    u, w = abs(a), abs(b)
    if u == 0 or w == 0:
        return 0
    sign = -1 if (a < 0) != (b < 0) else 1
    grid = 23 if width <= 16 else 52
    if call.function == "mitchell_div":
        c = oracle.applied(constant("div", o["offset"]), grid)
        return sign * math.floor(oracle.exp(oracle.log(Fraction(u)) - oracle.log(Fraction(w)) + c))
    bits, half = o.get("mantissa_bits"), o.get("fill") == "half"
    if bits is not None:
        u, w = (
            int(oracle.cut(Fraction(v), bits, half)) if v.bit_length() - 1 > bits else v
            for v in (u, w)
        )
    if o.get("method") == "ilm":
        return sign * oracle.ilm(u, w, o.get("iterations", 0))
    if o.get("offset", "none") == "none":
        return sign * oracle.iterated(u, w, o.get("iterations", 0))
    c = oracle.applied(constant("mul", o.get("offset", "none")), grid)
    return sign * oracle.nearest_even(
        oracle.exp(oracle.log(Fraction(u)) + oracle.log(Fraction(w)) + c)
    )


def fitted(exact, dtype, wrap=False):
    info = np.iinfo(dtype)
    if wrap:
        return (exact - info.min) % (info.max - info.min + 1) + info.min
    return min(max(exact, info.min), info.max)


TWO = [c for c in ELEMENTWISE if c.arrays == 2 and (c.integers or c.only)]


@each_integer
@pytest.mark.parametrize("call", TWO, ids=lambda c: c.name)
def test_mitchell_definition_of_integers(call, name, rng):
    if name not in call.types:
        return
    a, b = arguments(rng, call, name, 500)
    exact = [exact_integer(call, name, int(x), int(y)) for x, y in zip(a, b, strict=True)]
    got = call(a, b, backend="reference")
    if call.options.get("return_high"):
        high, low = got
        assert low.dtype == np.uint64 and high.dtype == a.dtype
        for i, e in enumerate(exact):
            assert (int(high[i]) << 64) + int(low[i]) == e, (a[i], b[i])
        return
    wider = np.dtype(f"{np.dtype(name).kind}{min(2 * a.itemsize, 8)}")
    assert got.dtype == (a.dtype if call.function == "mitchell_div" else wider)
    wrap = call.options.get("overflow") == "wrap"
    for i, e in enumerate(exact):
        assert int(got[i]) == fitted(e, got.dtype, wrap), (call.name, a[i], b[i])


@cache
def all_exact(number, name):
    """Of all pairs of 8 bits; offsets, for which rationals take long, of every fifth."""
    call, every = ALL_PAIRS[number], np.arange(256).astype(np.uint8).view(name)
    every = every[:: 5 if call.options.get("offset", "none") != "none" else 1]
    return every, np.array(
        [[exact_integer(call, name, int(x), int(y)) for y in every] for x in every]
    )


ALL_PAIRS = [c for c in TWO if not c.only and c.options.get("offset") in (None, "none", "lmul")]


@pytest.mark.parametrize("name", ["uint8", "int8"])
@pytest.mark.parametrize("number", range(len(ALL_PAIRS)), ids=lambda i: ALL_PAIRS[i].name)
def test_mitchell_all_pairs_of_8_bits(number, name, backend):
    every, want = all_exact(number, name)
    if backend.rows < 1:
        every, want = every[::7], want[::7, ::7]
    got = backend(ALL_PAIRS[number], every[:, None], every)
    info = np.iinfo(got.dtype)
    assert np.array_equal(got, np.clip(want, info.min, info.max))


def test_mitchell_product_of_integers_is_that_of_the_definition(rng):
    """P_0 by leading ones is X(L(a) + L(b))."""
    for a, b in rng.integers(1, 2**40, (500, 2)):
        exact = oracle.exp(oracle.log(Fraction(int(a))) + oracle.log(Fraction(int(b))))
        assert exact == oracle.iterated(int(a), int(b), 0)


def test_mitchell_products_of_integers_are_below_and_soon_exact(rng):
    a, b = np.arange(256, dtype=np.uint16)[:, None], np.arange(256, dtype=np.uint16)
    for j in range(5):
        got = kn.mitchell_mul(a, b, iterations=j).astype(np.int64)
        exact = a.astype(np.int64) * b
        assert np.all(got <= exact)
        few = 2 ** (2 * j + 1)
        assert np.array_equal(got[:few, :few], exact[:few, :few])
    assert np.array_equal(got, exact)


@each_integer
def test_mitchell_log2_of_integers(name, backend, rng):
    a = numbers(rng, name, 4000 if backend.rows == 1 else 200)
    got = backend(kn.mitchell_log2, a)
    assert got.dtype == np.float64
    f = oracle.FORMATS["float64"]
    for x, g in zip(a, words(got), strict=True):
        x = int(x)
        want = f.word_of(-1, INF) if x == 0 else None
        if x > 0:
            value = oracle.log(Fraction(x))
            want = f.word_of(1, value)
        assert (want is None and f.value(g)[1] == NAN) or int(g) == want, x


# --- Backends ---


@each_call
def test_mitchell_backends_agree_bit_for_bit(call, backend, rng):
    n = 20_000 if backend.rows == 1 else 600
    for name in call.types:
        arrays = arguments(rng, call, name, n)
        floats = name in FLOATS
        for subnormal in ("gradual", "flush") if floats else ("gradual",):
            if call.function == "mitchell_mul" and not floats:
                options = {}
            else:
                options = {"subnormal": subnormal}
            want = call(*arrays, **options, backend="reference")
            got = backend(call, *arrays, **options)
            pairs = zip(got, want, strict=True) if isinstance(got, tuple) else ((got, want),)
            for g, w in pairs:
                equal = equal_bits(g, w)
                i = int(np.argmin(equal))
                assert np.all(equal), (
                    f"{call.name} {name} {options}: {[a[i] for a in arrays]} "
                    f"gives {g[i]}, the reference {w[i]}"
                )


@pytest.mark.parametrize("name", ["float32", "float16", "uint8", "int64"])
def test_mitchell_bits_do_not_depend_on_threads(name, threads, rng):
    """And large arrays, whose results go past the caches, are whole."""
    a, b = numbers(rng, name, 2**22 + 77), numbers(rng, name, 2**22 + 77)
    results = []
    for count in (1, 2, 3):
        kn.set_num_threads(count)
        results.append(kn.mitchell_mul(a, b))
    assert np.all(equal_bits(results[0], results[1]) & equal_bits(results[0], results[2]))
    for first in (0, 2**21, 2**22 - 3):
        part = slice(first, first + 80)
        want = kn.mitchell_mul(a[part], b[part], backend="reference")
        assert np.all(equal_bits(results[0][part], want))


def layouts(a):
    """The same values in other memory."""
    yield "reversed", np.ascontiguousarray(a[::-1, ::-1])[::-1, ::-1]
    yield "columns", np.asfortranarray(a)
    wide = np.zeros((2 * a.shape[0], 3 * a.shape[1]), a.dtype)
    wide[::2, ::3] = a
    yield "apart", wide[::2, ::3]
    store = np.zeros(a.nbytes + 1, np.uint8)
    odd = np.ndarray(a.shape, a.dtype, store.data, offset=1)
    odd[...] = a
    yield "not aligned", odd
    if a.dtype.name != "bfloat16":
        yield "other byte order", a.astype(a.dtype.newbyteorder("S"))
    locked = a.copy()
    locked.flags.writeable = False
    yield "read only", locked


@pytest.mark.parametrize("name", [*FLOATS, "int8", "uint16", "int64"])
def test_mitchell_layouts(name, backend, rng):
    a, b = (numbers(rng, name, 7 * 45).reshape(7, 45) for _ in range(2))
    want = kn.mitchell_mul(a, b, backend="reference")
    for (note, x), (_, y) in itertools.product(layouts(a), layouts(b)):
        before = x.tobytes(), y.tobytes()
        assert np.all(equal_bits(backend(kn.mitchell_mul, x, y), want)), note
        assert before == (x.tobytes(), y.tobytes())
    for x, y in ((a[:1], b), (a[:, :1], b[:1]), (a, b[0, 0]), (a[None, :, None], b[:, None])):
        got = backend(kn.mitchell_mul, x, y)
        full = np.broadcast_arrays(x, y)
        plain = [np.ascontiguousarray(v) for v in full]
        assert np.all(equal_bits(got, kn.mitchell_mul(*plain, backend="reference")))


@pytest.mark.one_level
@pytest.mark.parametrize("name", ["float32", "bfloat16", "uint8", "int64"])
def test_mitchell_out(name, backend, rng):
    """Written and returned, whatever its memory, also where it is an input."""
    a, b = (numbers(rng, name, 60).reshape(5, 12) for _ in range(2))
    want = kn.mitchell_mul(a, b, backend="reference")
    for note, out in layouts(np.zeros(want.shape, want.dtype)):
        if note in ("read only", "other byte order"):
            error = ValueError if note == "read only" else TypeError
            with pytest.raises(error, match="^mitchell_mul: out must "):
                backend(kn.mitchell_mul, a, b, out=out)
            continue
        assert backend(kn.mitchell_mul, a, b, out=out) is out
        assert np.all(equal_bits(out, want)), note
    if want.dtype == a.dtype:
        same = a.copy()
        backend(kn.mitchell_mul, same, b, out=same)
        assert np.all(equal_bits(same, want))
        store = np.zeros(61, a.dtype)
        store[:60] = a.ravel()
        backend(kn.mitchell_mul, store[:60], b.ravel(), out=store[1:])
        assert np.all(equal_bits(store[1:], want.ravel()))
    for wrong in (np.zeros((5, 11), want.dtype), np.zeros((1, 5, 12), want.dtype)):
        with pytest.raises(ValueError, match="^mitchell_mul: out must have shape"):
            backend(kn.mitchell_mul, a, b, out=wrong)
    with pytest.raises(TypeError, match="^mitchell_mul: out must have dtype"):
        backend(kn.mitchell_mul, a, b, out=np.zeros((5, 12), np.complex64))


@pytest.mark.one_level
@each_call
def test_mitchell_empty_scalars_and_lists(call, backend):
    for name in call.types:
        empty = [np.zeros((0, 3), dtype_of(name))] * call.arrays
        got = backend(call, *empty)
        for g in got if isinstance(got, tuple) else (got,):
            assert g.shape == (0, 3)
        one = [np.asarray(3, dtype_of(name))] * call.arrays
        got = backend(call, *one)
        for g in got if isinstance(got, tuple) else (got,):
            assert isinstance(g, np.generic) and g.shape == ()
        numpy_scalar = [v[()] for v in one]
        assert np.all(equal_bits(backend(call, *numpy_scalar), got))
    if not call.only:
        got = backend(call, *[[1.5, 3.0]] * call.arrays)
        assert got.dtype == np.float64 and got.shape == (2,)


@pytest.mark.one_level
def test_mitchell_python_numbers_take_the_type_of_the_array(backend):
    for name in FLOATS:
        a = np.array([1.5, 3], dtype_of(name))
        got = backend(kn.mitchell_mul, a, 1.1)
        want = backend(kn.mitchell_mul, a, np.asarray(1.1).astype(a.dtype))
        assert np.all(equal_bits(got, want))
    for name in INTEGERS:
        a = np.array([3, 5], name)
        assert np.array_equal(backend(kn.mitchell_mul, a, 7), backend(kn.mitchell_mul, 7, a))
        for wrong in (2**64, -(2**63) - 1, 1.5):
            with pytest.raises(ValueError, match="^mitchell_mul: b must be an integer that fits"):
                backend(kn.mitchell_mul, a, wrong)
    assert type(backend(kn.mitchell_mul, 3, 3)) is np.int64
    assert type(backend(kn.mitchell_mul, 3, 3.0)) is np.float64


def test_mitchell_errors():
    f, i = np.ones(3, np.float32), np.ones(3, np.int16)
    cases = [
        (ValueError, "a and b must have the same dtype, got float32 and int16", (f, i), {}),
        (ValueError, "a and b must have the same dtype", (f, f.astype(np.float64)), {}),
        (ValueError, "a and b must have shapes that broadcast", (f, f[:2]), {}),
        (TypeError, "a must be of type", (np.ones(3, bool), f), {}),
        (TypeError, "a must be of type", (np.ones(3, complex), f), {}),
        (TypeError, "b must be of type", (f, np.array(["x"])), {}),
        (TypeError, "b must be array-like, got None", (f, None), {}),
        (TypeError, "b must not be a masked array", (f, np.ma.masked_array(f)), {}),
        (ValueError, "offset must be", (f, f), {"offset": "other"}),
        (ValueError, r"offset must be in \[0, 0.25\), got 0.25", (f, f), {"offset": 0.25}),
        (ValueError, r"offset must be in \[0, 0.25\)", (f, f), {"offset": -0.1}),
        (ValueError, "offset must be finite", (f, f), {"offset": math.nan}),
        (TypeError, "offset must be a real number", (f, f), {"offset": None}),
        (ValueError, "offset must be none", (f, f), {"offset": "lmul", "iterations": 1}),
        (ValueError, "offset must be none", (f, f), {"offset": 0.1, "method": "ilm"}),
        (ValueError, "iterations must be in", (f, f), {"iterations": -1}),
        (TypeError, "iterations must be an int", (f, f), {"iterations": 1.5}),
        (ValueError, r"mantissa_bits must be in \[0, 23\]", (f, f), {"mantissa_bits": 24}),
        (
            ValueError,
            r"mantissa_bits must be in \[0, 22\]",
            (f, f),
            {"mantissa_bits": 23, "fill": "half"},
        ),
        (ValueError, "fill must be", (f, f), {"fill": "one"}),
        (ValueError, "subnormal must be", (f, f), {"subnormal": "ftz"}),
        (TypeError, "subnormal must be", (f, f), {"subnormal": 1}),
        (ValueError, "method must be", (f, f), {"method": "mbm"}),
        (ValueError, "overflow must be", (i, i), {"overflow": "raise"}),
        (ValueError, "return_high must be false", (f, f), {"return_high": True}),
        (ValueError, "return_high must be false", (i, i), {"return_high": True}),
        (TypeError, "return_high must be True or False", (i, i), {"return_high": np.ones(2)}),
    ]
    for error, text, arrays, options in cases:
        with pytest.raises(error, match=f"^mitchell_mul: {text}") as caught:
            kn.mitchell_mul(*arrays, **options)
        assert "\n" not in str(caught.value) and ", got " in str(caught.value) or "masked" in text
    for function in (kn.mitchell_exp2, kn.mitchell_square, kn.mitchell_sqrt, kn.mitchell_rsqrt):
        with pytest.raises(TypeError, match=f"^{function.__name__}: x must be of type float64"):
            function(i)
    with pytest.raises(ValueError, match=r"^mitchell_div: offset must be in \(-0.25, 0\]"):
        kn.mitchell_div(f, f, offset=0.1)
    with pytest.raises(ValueError, match="^mitchell_div: offset must be"):
        kn.mitchell_div(f, f, offset="lmul")
    for p, error in ((math.inf, ValueError), (math.nan, ValueError), ("2", TypeError)):
        with pytest.raises(error, match="^mitchell_pow: p must be"):
            kn.mitchell_pow(f, p)
    with pytest.raises(RuntimeError, match="^mitchell_mul: backend 'cuda' cannot be used"):
        kn.mitchell_mul(f, f, backend="cuda")


# --- Known mistakes of other implementations ---


@pytest.mark.parametrize("a, b, want", [
    (0.0, 0.0, 0.0), (math.inf, 0.0, math.nan), (math.inf, 0.5, math.inf),
    (3e38, 3e38, math.inf), (1e-30, 1e-30, 0.0), (0.0, 1.5, 0.0), (-0.0, 1.5, -0.0),
    (-1e-30, 1e-30, -0.0), (0.0, -1.5, -0.0),
])  # fmt: skip
def test_mitchell_mul_where_the_bare_trick_fails(a, b, want, backend):
    got = backend(kn.mitchell_mul, np.float32([a] * 40), np.float32([b] * 40))
    assert np.all(equal_bits(got, np.float32([want] * 40)))


def test_mitchell_mul_overflow_is_of_the_approximation(backend):
    """3e38 * 1.2 overflows, Mitchell's value does not; nor are small products flushed."""
    got = backend(kn.mitchell_mul, np.float32([3e38, 1e-20]), np.float32([1.12, 1e-20]))
    assert np.isfinite(got[0]) and got[1] > 0
    assert np.float32(3e38) * np.float64(1.14) < np.inf


@pytest.mark.parametrize("a, b, want", [
    (1.5, 1.5, 2), (1.3, -1.3, -1.6), (4.5, 3, 13), (-6, 3, -16), (3.5, 3.5, 12), (8, -0.125, -1),
])  # fmt: skip
def test_mitchell_mul_table_of_pam(a, b, want, backend):
    assert math.isclose(backend(kn.mitchell_mul, float(a), float(b)), want, rel_tol=1e-15)
    lmul = backend(kn.mitchell_mul, np.float32(1), np.float32(a), offset="lmul")
    assert lmul == np.float32(kn.mitchell_mul(np.float32(a), np.float32(1.0625)))


# --- Invariances ---


@each_float
def test_mitchell_mul_invariances(name, backend, rng):
    n = 3000 if backend.rows == 1 else 100
    with np.errstate(invalid="ignore"):  # bfloat16 warns of nan that are signalling
        a, b = (v[~np.isnan(v)] for v in (numbers(rng, name, n), numbers(rng, name, n)))
    a, b = a[: len(b)], b[: len(a)]
    mul = kn.mitchell_mul
    p = backend(mul, a, b)
    assert np.all(equal_bits(p, backend(mul, b, a)))
    assert np.all(equal_bits(backend(mul, -a, b), -p))
    one = np.ones(1, a.dtype)
    assert np.all(equal_bits(backend(mul, a, one), a))
    with np.errstate(all="ignore"):
        for k in (3, -2):
            factor = np.asarray(2.0**k, a.dtype)
            exact = a * factor  # exact, or rounded once in the same way
            assert np.all(equal_bits(backend(mul, a, factor), exact))
        ordinary = (abs(a.astype(float)) > 2.0**-5) & (abs(a.astype(float)) < 2.0**5)
        x, y = a[ordinary], b[ordinary][(abs(b[ordinary].astype(float)) < 8)]
        x = x[: len(y)]
        y = y[: len(x)]
        ok = abs(y.astype(float)) > 2.0**-4
        x, y = x[ok], y[ok]
        scaled = backend(mul, (x * x.dtype.type(4)).astype(x.dtype), y)
        assert np.all(equal_bits(scaled, backend(mul, x, y) * x.dtype.type(4)))
    positive = np.sort(abs(a[np.isfinite(a.astype(float))]))
    rising = backend(mul, positive, np.asarray(1.7, a.dtype)).astype(float)
    assert np.all(np.diff(rising[np.isfinite(rising)]) >= 0)


@each_float
def test_mitchell_exp2_inverts_log2(name, backend, rng):
    """Where L(x) is a number of the format; in [1, 2) it always is."""
    x = (1 + rng.random(2000)).astype(dtype_of(name))
    x = x[x < 2]
    back = backend(kn.mitchell_exp2, backend(kn.mitchell_log2, x))
    assert np.all(equal_bits(back, x))
    k = np.arange(-5, 6).astype(x.dtype)
    powers = backend(kn.mitchell_exp2, k)
    assert np.array_equal(powers.astype(float), 2.0 ** np.arange(-5, 6))
    assert np.all(equal_bits(backend(kn.mitchell_log2, powers), k))
    assert np.all(equal_bits(backend(kn.mitchell_div, x, x), np.ones_like(x)))
    rooted = backend(kn.mitchell_sqrt, backend(kn.mitchell_square, powers))
    assert np.all(equal_bits(rooted, powers))
    assert np.all(equal_bits(backend(kn.mitchell_pow, x, 2), backend(kn.mitchell_square, x)))
    assert np.all(equal_bits(backend(kn.mitchell_mul, x, x), backend(kn.mitchell_square, x)))


def test_products_cover_all_options():
    """The list that the tests share leaves out no option of mitchell_mul."""
    options = set().union(*PRODUCTS, *(c.options for c in ELEMENTWISE))
    keywords = set(kn.mitchell_mul.__kwdefaults__) - {"out", "backend", "subnormal"}
    assert keywords <= options | {"overflow", "return_high"}
