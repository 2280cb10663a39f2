"""Gradients of Mitchell's operations: slopes of the definition on exact rationals."""

import math
from fractions import Fraction

import numpy as np
import pytest

import kexue_native as kn
import mitchell_oracle as oracle
from cases_mitchell import FLOATS, dtype_of, equal_bits, exponents, numbers, words
from mitchell_oracle import INF, NAN, exponent_of, two

each_float = pytest.mark.parametrize("name", FLOATS)
OFFSET = Fraction(1, 16)


def part(v):
    return v / two(exponent_of(v)) - 1 if v else Fraction(0)


def slope_mul(f, a, b, c):
    (_, u), (t, w) = a, b
    if {u, w} & {INF, NAN}:
        return 1, NAN
    if w == 0:
        return t, Fraction(0)
    return t, two(exponent_of(w) + math.floor(part(u) + part(w) + c))


def slope_div(f, a, b, in_b):
    (s, u), (t, w) = a, b
    if {u, w} & {INF, NAN} or (in_b and u == w == 0):
        return 1, NAN
    if in_b:
        if u == 0:
            return -s, Fraction(0)
        if w == 0:
            return -s, INF
        n_q = math.floor(oracle.log(u) - oracle.log(w))
        return -s, two(n_q - exponent_of(w))
    if w == 0:
        return t, INF
    return t, two(math.floor(part(u) - part(w)) - exponent_of(w))


def slope_log2(f, x):
    s, u = x
    if u == NAN or (s < 0 and u != 0):
        return 1, NAN
    return 1, INF if u == 0 else Fraction(0) if u == INF else two(-exponent_of(u))


def slope_exp2(f, x):
    s, u = x
    if u == NAN:
        return 1, NAN
    if u == INF:
        return 1, INF if s > 0 else Fraction(0)
    return 1, two(math.floor(max(min(s * u, 3000), -3000)))


def slope_pow(p):
    def slope(f, x):
        s, u = x
        if p == 0:
            return 1, Fraction(0)
        if u == NAN or (s < 0 and u != 0 and p % 1 != 0):
            return 1, NAN
        sign = (s if p % 1 == 0 and p % 2 == 0 else 1) * (1 if p > 0 else -1)
        size = abs(Fraction(p))
        if u in (0, INF):
            if p == 1:
                return sign, size
            return sign, INF if (u == 0) == (p < 1) else Fraction(0)
        k = math.floor(Fraction(p) * oracle.log(u)) - exponent_of(u)
        return sign, size * two(max(min(k, 3000), -3000))

    return slope


def times(f, g, slope):
    (s, v), (t, d) = g, slope
    if NAN in (v, d) or (v == 0 and d == INF) or (v == INF and d == 0):
        return None
    return f.word_of(s * t, INF if INF in (v, d) else v * d)


def check(name, got, g, slopes, note):
    f = oracle.FORMATS[name]
    for i, word in enumerate(words(got)):
        want = times(f, f.value(words(g)[i]), slopes[i])
        if want is None:
            assert np.isnan(got[i]), (note, i, g[i], got[i])
        else:
            assert int(word) == want, (note, i, g[i], slopes[i], got[i])


def values(name, x):
    return [oracle.FORMATS[name].value(w) for w in words(x)]


@each_float
def test_mitchell_slopes_of_the_definition(name, backend, rng):
    n, f = (250 if backend.rows == 1 else 60), oracle.FORMATS[name]
    g, a, b = (numbers(rng, name, n) for _ in range(3))
    u, w = values(name, a), values(name, b)
    for c, options in ((0, {}), (OFFSET, {"offset": "lmul"})):
        da, db = backend(kn.mitchell_mul_vjp, g, a, b, **options)
        check(name, da, g, [slope_mul(f, x, y, c) for x, y in zip(u, w, strict=True)], "mul a")
        check(name, db, g, [slope_mul(f, y, x, c) for x, y in zip(u, w, strict=True)], "mul b")
    found = backend(kn.mitchell_div_vjp, g, a, b)
    for in_b, d in enumerate(found):
        pairs = zip(u, w, strict=True)
        check(name, d, g, [slope_div(f, x, y, in_b) for x, y in pairs], f"div {in_b}")
    check(name, backend(kn.mitchell_log2_vjp, g, a), g, [slope_log2(f, x) for x in u], "log2")
    x = exponents(rng, name, n)
    slopes = [slope_exp2(f, v) for v in values(name, x)]
    check(name, backend(kn.mitchell_exp2_vjp, g, x), g, slopes, "exp2")
    for p in (0, 1, 2, 3, -1, -2, 0.5, -0.5, 1.5):
        slopes = [slope_pow(p)(f, v) for v in u]
        got = backend(kn.mitchell_pow_vjp, g, a, p)
        if name != "float64":  # there g p may be rounded before it is scaled
            check(name, got, g, slopes, f"pow {p}")
        want = kn.mitchell_pow_vjp(g, a, p, backend="reference")
        assert np.all(equal_bits(got, want))


@each_float
def test_mitchell_slopes_agree_bit_for_bit(name, backend, rng):
    n = 20_000 if backend.rows == 1 else 300
    g, a, b = (numbers(rng, name, n) for _ in range(3))
    x = exponents(rng, name, n)
    for function, arguments, options in (
        (kn.mitchell_mul_vjp, (g, a, b), {}),
        (kn.mitchell_mul_vjp, (g, a, b), {"offset": "minimax"}),
        (kn.mitchell_div_vjp, (g, a, b), {"offset": "unbiased"}),
        (kn.mitchell_log2_vjp, (g, a), {}),
        (kn.mitchell_exp2_vjp, (g, x), {}),
        (kn.mitchell_pow_vjp, (g, a, 1 / 3), {}),
    ):
        got = backend(function, *arguments, **options)
        want = function(*arguments, **options, backend="reference")
        pairs = zip(got, want, strict=True) if isinstance(got, tuple) else ((got, want),)
        for one, other in pairs:
            assert np.all(equal_bits(one, other)), function.__name__


def test_mitchell_slopes_are_differences_of_the_function(rng):
    """Between two points of one piece the function is affine: exact in float64."""
    a, b = rng.uniform(0.5, 8, 500).astype("f4").astype(float), rng.uniform(-8, 8, 500)
    b = b.astype("f4").astype(float)
    h = 2.0**-26 * np.exp2(np.floor(np.log2(a)))
    one = np.ones(500)
    da, _ = kn.mitchell_mul_vjp(one, a, b)
    assert np.array_equal((kn.mitchell_mul(a + h, b) - kn.mitchell_mul(a, b)) / h, da)
    qa, _ = kn.mitchell_div_vjp(one, a, b)
    assert np.array_equal((kn.mitchell_div(a + h, b) - kn.mitchell_div(a, b)) / h, qa)
    dx = kn.mitchell_log2_vjp(one, a)
    assert np.array_equal((kn.mitchell_log2(a + h) - kn.mitchell_log2(a)) / h, dx)


@pytest.mark.one_level
@pytest.mark.parametrize("grad", ["piecewise", "mitchell", "true"])
def test_mitchell_vjp_modes(grad, backend, rng):
    """All modes point the same way, within the errors of the approximation."""
    g, a, b = (rng.uniform(0.5, 3, 400) for _ in range(3))
    true = {
        kn.mitchell_mul_vjp: ((g, a, b), (g * b, g * a)),
        kn.mitchell_div_vjp: ((g, a, b), (g / b, -g * a / b**2)),
        kn.mitchell_log2_vjp: ((g, a), (g / a / np.log(2),)),
        kn.mitchell_exp2_vjp: ((g, a), (g * 2**a * np.log(2),)),
        kn.mitchell_pow_vjp: ((g, a, 3), (3 * g * a**2,)),
    }
    for function, (arguments, want) in true.items():
        got = backend(function, *arguments, grad=grad)
        got = got if isinstance(got, tuple) else (got,)
        for d, w in zip(got, want, strict=True):
            ratio = d / w
            # sides of a piece differ by a factor up to 2 from the tangent, Mitchell's own by 1/8
            low, high = {"true": (1 - 1e-12, 1 + 1e-12), "mitchell": (0.7, 1.4)}.get(
                grad, (0.33, 2.7)
            )
            assert np.all((ratio > low) & (ratio < high)), (function.__name__, ratio.min())


@each_float
def test_mitchell_vjp_sums_where_an_operand_was_enlarged(name, backend, rng):
    g = rng.integers(-4, 5, (2, 3, 4)).astype(dtype_of(name))
    a, b = (rng.integers(-4, 5, s).astype(dtype_of(name)) for s in ((3, 1), (2, 1, 4)))
    da, db = backend(kn.mitchell_mul_vjp, g, a, b)
    full = [np.broadcast_to(v, g.shape).copy() for v in (a, b)]
    fa, fb = backend(kn.mitchell_mul_vjp, g, *full)
    assert da.shape == (3, 1) and db.shape == (2, 1, 4)
    assert np.array_equal(da.astype(float), fa.astype(float).sum((0, 2))[:, None])
    assert np.array_equal(db.astype(float), fb.astype(float).sum(1, keepdims=True))
    out = np.empty_like(da), np.empty_like(db)
    got = backend(kn.mitchell_mul_vjp, g, a, b, out=out)
    assert got[0] is out[0] and got[1] is out[1]
    assert np.all(equal_bits(out[0], da)) and np.all(equal_bits(out[1], db))
    with pytest.raises(ValueError, match="^mitchell_mul_vjp: g must have the shape of the result"):
        backend(kn.mitchell_mul_vjp, g[0], full[0], b)
    with pytest.raises(ValueError, match="^mitchell_mul_vjp: out must be a tuple of 2 arrays"):
        backend(kn.mitchell_mul_vjp, g, a, b, out=out[0])
    with pytest.raises(ValueError, match='^mitchell_mul_vjp: grad must be "piecewise"'):
        backend(kn.mitchell_mul_vjp, g, a, b, grad="exact")


@each_float
@pytest.mark.parametrize("grad", ["piecewise", "mitchell", "true"])
def test_mitchell_matmul_vjp(name, grad, backend, rng):
    for shapes in (
        ((3, 4), (4, 5)),
        ((2, 1, 3, 4), (6, 4, 20)),
        ((1, 1), (1, 1)),
        ((3, 0), (0, 2)),
    ):
        a, b = (rng.standard_normal(s).astype(dtype_of(name)) for s in shapes)
        a[..., :1, :1] = 0
        product = np.matmul(np.zeros(a.shape), np.zeros(b.shape))
        g = rng.standard_normal(product.shape).astype(dtype_of(name))
        da, db = backend(kn.mitchell_matmul_vjp, g, a, b, grad=grad)
        assert da.shape == a.shape and db.shape == b.shape and da.dtype == a.dtype
        wide = np.float64 if name == "float64" else np.float32
        each = kn.mitchell_mul_vjp(
            *np.broadcast_arrays(
                g.astype(wide)[..., :, None, :],
                a.astype(wide)[..., :, :, None],
                b.astype(wide)[..., None, :, :],
            ),
            grad=grad,
        )
        sums = each[0].astype(float).sum(-1), each[1].astype(float).sum(-3)
        sizes = abs(each[0].astype(float)).sum(-1), abs(each[1].astype(float)).sum(-3)
        unit = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11}.get(name, 2.0**-8)
        for got, total, size in zip((da, db), sums, sizes, strict=True):
            extra = tuple(range(total.ndim - got.ndim))
            total, size = total.sum(extra), size.sum(extra)
            for i, n in enumerate(got.shape):
                if n == 1 and total.shape[i] != 1:
                    total, size = total.sum(i, keepdims=True), size.sum(i, keepdims=True)
            # roundings of up to 20 terms, of the result, and of partial sums where axes were added
            assert np.all(abs(got.astype(float) - total) <= 2 * unit * 40 * size)


def test_mitchell_matmul_vjp_errors():
    a, b, g = np.ones((2, 3)), np.ones((3, 4)), np.ones((2, 4))
    for text, arrays in (
        ("g must have the shape of the result", (g.T, a, b)),
        ("a and b must be matrices that can be multiplied", (g, a, a)),
        ("a and b must be matrices", (g, a, b[0])),
        ("a and b must have shapes that broadcast", (g, np.ones((2, 2, 3)), np.ones((3, 3, 4)))),
        ("g and b must have the same dtype", (g, a, b.astype("f4"))),
    ):
        with pytest.raises(ValueError, match=f"^mitchell_matmul_vjp: {text}"):
            kn.mitchell_matmul_vjp(*arrays)
    with pytest.raises(ValueError, match="^mitchell_matmul_vjp: out must be a tuple of 2"):
        kn.mitchell_matmul_vjp(g, a, b, out=g)
