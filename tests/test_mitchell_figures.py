"""Every error figure of the specification, recomputed; bounds attained, means by quadrature."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest

import kexue_native as kn
import mitchell_oracle as oracle

ln2 = math.log(2)
TOP = 1 / ln2 - 1  # where log2 and exp2 are farthest off


def errors(x, y, **options):
    """Relative errors of products of significands."""
    return kn.mitchell_mul(x, y, **options) / (x * y) - 1


@pytest.mark.parametrize("j, bound", [(0, 9), (1, 121), (2, 1849), (3, 29241), (4, 466489)])
def test_mitchell_bound_of_iterations(j, bound):
    """-9 / (2^(2j+3) + 1)^2, attained at a = b = (2^(2j+3) + 1) / 3."""
    low, high = kn.mitchell_error_bound("mul", iterations=j)
    assert high == 0 and math.isclose(low, -1 / bound if j else -1 / 9, rel_tol=1e-15)
    a = (2 ** (2 * j + 3) + 1) // 3
    exact = Fraction(oracle.iterated(a, a, j), a * a) - 1
    assert exact == -Fraction(9, (2 ** (2 * j + 3) + 1) ** 2) == -Fraction(1, bound)
    every = np.arange(128, 256, dtype=np.uint16)
    e = errors(every[:, None].astype(float), every.astype(float), iterations=j)
    assert low - 1e-15 <= e.min() and e.max() <= 0
    assert abs(float(errors(float(a), float(a), iterations=j)) - low) < 1e-15


@pytest.mark.parametrize("j, bound", [(0, 0.25), (1, 0.0625), (2, 0.015625)])
def test_mitchell_bound_of_ilm(j, bound):
    assert kn.mitchell_error_bound("mul", method="ilm", iterations=j) == (-bound, 0)
    every = np.arange(512, 1024, dtype=float)
    e = errors(every[:, None], every, method="ilm", iterations=j)
    assert -bound < e.min() < -0.95 * bound and e.max() <= 0


def mean_error(c):
    """Of a product of uniform fractions, by pieces in closed form in y."""

    def over_y(x):
        k = 1 - x - c  # where the sum of the fractions is 1
        k = min(max(k, mpmath.mpf(0)), mpmath.mpf(1))
        below = k + (x + c) * mpmath.log(1 + k)
        above = 2 * ((1 - k) + (x + c - 1) * (mpmath.log(2) - mpmath.log(1 + k)))
        k = min(2 - x - c, mpmath.mpf(1))  # and where it is 2, in the last corner
        corner = 2 * ((1 - k) + (x + c - 3) * (mpmath.log(2) - mpmath.log(1 + k)))
        return (below + above + corner) / (1 + x)

    return mpmath.quad(over_y, [0, 1 - c, 1]) - 1


@pytest.mark.parametrize("offset, c, low, high, mean", [
    ("none", 0, -1 / 9, 0, -0.03848799391735815), ("lmul", 1 / 16, -0.0729, 0.0625, 0.0041),
    ("unbiased", 0.056623270689, -0.0766, 0.0567, 0),
    ("minimax", 0.068857536246, -0.06886, 0.06886, 0.0085),
    (0.0552, 0.0552, -0.0775, 0.0552, -0.0010),
])  # fmt: skip
def test_mitchell_bound_of_offsets(offset, c, low, high, mean):
    found = kn.mitchell_error_bound("mul", offset=offset)
    assert np.allclose(found, (low, high), rtol=0, atol=1e-4)
    with mpmath.workdps(25):
        assert abs(mean_error(mpmath.mpf(c)) - mean) < (
            1e-12 if offset in ("none", "unbiased") else 6e-5
        )
    x = 1 + np.arange(1024) / 1024
    e = errors(x[:, None], x, offset=offset)
    assert (
        found[0] - 1e-15 <= e.min() <= found[0] + 1e-3
        and found[1] - 1e-3 <= e.max() <= found[1] + 1e-15
    )
    if offset == "none":  # 1/9 at 1.5 alone, and exact just where a factor is a power of two
        assert np.argwhere(e == e.min()).tolist() == [[512, 512]]
        assert np.array_equal(e == 0, (x[:, None] == 1) | (x == 1))


def test_mitchell_minimax_offset_is_the_root():
    c = float(mpmath.findroot(lambda v: v - 1 + 8 / (3 - v) ** 2, 0.07))
    assert abs(c - 310106774579136 / 2**52) < 1e-12
    low, high = kn.mitchell_error_bound("div", offset="minimax")
    assert abs(low + high) < 1e-12 and math.isclose(high, 0.06960, abs_tol=6e-6)


@pytest.mark.parametrize("offset, low, high", [
    ("none", 0, 1 / 8), ("unbiased", -0.0548, 0.0819), ("minimax", -0.0696, 0.0696),
])  # fmt: skip
def test_mitchell_bound_of_quotients(offset, low, high):
    found = kn.mitchell_error_bound("div", offset=offset)
    assert np.allclose(found, (low, high), rtol=0, atol=6e-5)
    x = 1 + np.arange(1024) / 1024
    e = kn.mitchell_div(x[:, None], x, offset=offset) / (x[:, None] / x) - 1
    assert found[0] - 1e-15 <= e.min() <= found[0] + 1e-3
    assert found[1] - 1e-3 <= e.max() <= found[1] + 1e-15
    if offset != "minimax":
        middle = 1 + (np.arange(2000) + 0.5) / 2000
        mean = (
            kn.mitchell_div(middle[:, None], middle, offset=offset) / (middle[:, None] / middle)
        ).mean()
        assert abs(mean - 1 - (0.04101803472 if offset == "none" else 0)) < 1e-6


@pytest.mark.parametrize("bits, fill, low, high", [
    (7, "zero", -0.1203, 0), (5, "zero", -0.1470, 0), (3, "zero", -0.2426, 0),
    (1, "zero", -0.5556, 0),
    (7, "half", -0.1157, 0.0078), (5, "half", -0.1293, 0.0313), (3, "half", -0.1795, 0.125),
])  # fmt: skip
def test_mitchell_bound_of_cut_fractions(bits, fill, low, high):
    found = kn.mitchell_error_bound("mul", mantissa_bits=bits, fill=fill)
    assert np.allclose(found, (low, high), rtol=0, atol=6e-5)
    x = 1 + (np.arange(2048) + 0.999) / 2048
    for v in (x, np.floor(x * 2048) / 2048):
        e = errors(v[:, None], v, mantissa_bits=bits, fill=fill)
        assert found[0] <= e.min() and e.max() <= found[1] + 1e-15
    assert errors(x[:, None], x, mantissa_bits=bits, fill=fill).min() < found[0] + 2e-3


@pytest.mark.parametrize("op, f, g, low, high, at", [
    ("square", kn.mitchell_square, lambda x: x * x, -1 / 9, 0, 1.5),
    ("cube", lambda x: kn.mitchell_pow(x, 3), lambda x: x**3, -5 / 32, 0, 4 / 3),
    ("sqrt", kn.mitchell_sqrt, np.sqrt, 0, 0.060660, 2.0),
    ("rsqrt", kn.mitchell_rsqrt, lambda x: x**-0.5, 0, 0.088662, 8 / 3),
    ("reciprocal", kn.mitchell_reciprocal, lambda x: 1 / x, 0, 1 / 8, 1.5),
    ("exp2", kn.mitchell_exp2, np.exp2, 0, 0.06147569084608606, TOP),
])  # fmt: skip
def test_mitchell_bound_of_functions_of_one_number(op, f, g, low, high, at):
    found = kn.mitchell_error_bound(op)
    assert np.allclose(found, (low, high), rtol=0, atol=1e-6)
    x = np.linspace(1, 4, 100_001)[:-1]
    e = f(x) / g(x) - 1
    assert found[0] - 1e-15 <= e.min() and e.max() <= found[1] + 1e-15
    extreme = float(f(at) / g(at) - 1)
    assert min(abs(extreme - found[0]), abs(extreme - found[1])) < 1e-14


def test_mitchell_bound_of_log2_and_pow():
    low, high = kn.mitchell_error_bound("log2")
    x = np.linspace(1, 2, 100_001)
    e = kn.mitchell_log2(x) - np.log2(x)
    assert low - 1e-15 <= e.min() <= low + 1e-9 and e.max() == high == 0
    assert math.isclose(float(kn.mitchell_log2(1 + TOP) - math.log2(1 + TOP)), low, rel_tol=1e-13)
    assert math.isclose(
        float(mpmath.quad(lambda v: v - mpmath.log(1 + v, 2), [0, 1])), -0.0573049591, rel_tol=1e-9
    )
    for p in (0.7, 2.5, 5, -1.5):
        low, high = kn.mitchell_error_bound("pow", p=p)
        y = np.linspace(1, 4, 10_001)
        ratio = kn.mitchell_pow(y, p) / y**p - 1
        assert low - 1e-12 <= ratio.min() and ratio.max() <= high + 1e-12


def test_mitchell_error_bound_errors():
    for text, arguments, options in (
        ("op must be", ("add",), {}),
        ("offset must be left out for sqrt", ("sqrt",), {"offset": "lmul"}),
        ("iterations must be left out for div", ("div",), {"iterations": 1}),
        ("p must be given", ("pow",), {}),
        ("p must be given", ("mul",), {"p": 2}),
        ("iterations must not be combined", ("mul",), {"iterations": 1, "mantissa_bits": 3}),
    ):
        with pytest.raises(ValueError, match=f"^mitchell_error_bound: {text}"):
            kn.mitchell_error_bound(*arguments, **options)


def test_approx_metrics_of_the_8_bit_multiplier():
    a, b = np.ogrid[:256, :256]
    m = kn.approx_metrics(kn.mitchell_mul(a.astype("u1"), b.astype("u1")), a * b, bits=8)
    want = 606.398, 4096, 93.092, 3.75829, 11.111, 974069.77, 0.92529, 6.25
    assert np.allclose(m, want, rtol=1e-5)
    large = np.array([2**64 - 1], np.uint64)
    assert kn.approx_metrics(large, large - np.uint64(2)).mae == 2
    assert math.isnan(kn.approx_metrics([], []).mae)
    with pytest.raises(ValueError, match="^approx_metrics: approx and exact must have"):
        kn.approx_metrics([1, 2], [1])
    with pytest.raises(TypeError, match="^approx_metrics: approx must be of a real type"):
        kn.approx_metrics(["a"], [1])


def test_mitchell_lut_layouts():
    plain = kn.mitchell_lut()
    assert plain.dtype == np.dtype("<u2") and plain.shape == (65536,)
    assert all(
        plain[a * 256 + b] == oracle.p0(a, b)[0] for a in range(0, 256, 7) for b in range(256)
    )
    exact = kn.mitchell_lut(iterations=4)
    assert np.array_equal(
        exact.reshape(256, 256), np.multiply.outer(np.arange(256), np.arange(256))
    )
    adapt = kn.mitchell_lut(layout="adapt")
    assert adapt.dtype == np.int16 and adapt.shape == (256, 256)
    assert adapt[3, 253] == -8 and adapt[128, 128] == 2**14 and adapt[255, 255] == 1
    signed = kn.mitchell_lut(signed=True)
    assert np.array_equal(signed.reshape(256, 256), adapt)
    assert (
        kn.mitchell_lut(4).shape == (256,) and kn.mitchell_lut(4, method="ilm")[15 * 16 + 15] == 176
    )
    for bits in (1, 4, 7):
        table = kn.mitchell_lut(bits, layout="approxtrain")
        n = 2**bits
        x = 1 + np.arange(n) / n
        product = kn.mitchell_mul(x[:, None], x)
        carry = product >= 2
        fraction = np.where(carry, product / 2, product) - 1
        found = (table & (n - 1)) / n
        assert table.dtype == np.uint8 and np.array_equal(table >> 7, carry)
        assert np.all(abs(found - fraction) <= 0.5 / n)
    for wrong in ({"bits": 9}, {"bits": 0}, {"layout": "other"}, {"layout": "approxtrain"}):
        with pytest.raises(ValueError, match="^mitchell_lut: "):
            kn.mitchell_lut(**wrong)
