"""Mitchell's functions for the general tests: what they are called with.

They are unlike the rest, whose contract is about accuracy in a wider type: here results are equal
bit for bit, types are kept and not promoted. So their cases are their own (test_mitchell.py).
"""

from typing import Any, NamedTuple

import numpy as np

import kexue_native as kn

CASES = ()
SIGNATURES = {
    "mitchell_log2": "x * subnormal=gradual",
    "mitchell_exp2": "x * subnormal=gradual",
    "mitchell_mul": (
        "a b * offset=none iterations=0 mantissa_bits=None fill=zero subnormal=gradual "
        "method=mitchell overflow=saturate return_high=False"
    ),
    "mitchell_div": "a b * offset=none subnormal=gradual",
    "mitchell_square": "x * subnormal=gradual",
    "mitchell_sqrt": "x * subnormal=gradual",
    "mitchell_rsqrt": "x * subnormal=gradual",
    "mitchell_reciprocal": "x * subnormal=gradual",
    "mitchell_pow": "x p * subnormal=gradual",
    "mitchell_dot": (
        "a b * axis=-1 offset=none iterations=0 mantissa_bits=None fill=zero subnormal=gradual "
        "method=mitchell acc_dtype=None out_dtype=None"
    ),
    "mitchell_matmul": (
        "a b * offset=none iterations=0 mantissa_bits=None fill=zero subnormal=gradual "
        "method=mitchell acc_dtype=None out_dtype=None"
    ),
    "mitchell_mul_vjp": "g a b * grad=piecewise offset=none",
    "mitchell_div_vjp": "g a b * grad=piecewise offset=none",
    "mitchell_log2_vjp": "g x * grad=piecewise",
    "mitchell_exp2_vjp": "g x * grad=piecewise",
    "mitchell_pow_vjp": "g x p * grad=piecewise",
    "mitchell_matmul_vjp": "g a b * grad=piecewise offset=none",
    "mitchell_error_bound": (
        "op * offset=none iterations=0 mantissa_bits=None fill=zero method=mitchell p=None"
    ),
    "mitchell_lut": "bits=8 * signed=False iterations=0 method=mitchell layout=tfapprox",
    "approx_metrics": "approx exact * bits=None",
}
# Of numbers and tables: they have neither `out` nor `backend`.
NUMBERS = ("mitchell_error_bound", "mitchell_lut", "approx_metrics")
OTHERS = tuple(SIGNATURES)

FLOATS = ("float64", "float32", "float16", "bfloat16")
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


class Call(NamedTuple):
    """A form of call."""

    function: str
    arrays: int
    options: dict[str, Any] = {}
    integers: bool = False
    only: tuple[str, ...] = ()  # types

    @property
    def name(self):
        return " ".join([self.function, *(f"{k}={v}" for k, v in self.options.items())])

    @property
    def types(self):
        return self.only or (FLOATS + INTEGERS if self.integers else FLOATS)

    def __call__(self, *arrays, **more):
        names = ("a", "b") if self.arrays == 2 else ("x",)
        given = dict(zip(names, arrays, strict=True))
        return getattr(kn, self.function)(**given, **{**self.options, **more})


PRODUCTS = (
    {},
    {"offset": "lmul"},
    {"offset": "unbiased"},
    {"offset": "minimax"},
    {"offset": 0.249},
    {"iterations": 1},
    {"iterations": 3},
    {"method": "ilm"},
    {"method": "ilm", "iterations": 2},
    {"mantissa_bits": 3},
    {"mantissa_bits": 4, "fill": "half"},
    {"mantissa_bits": 5, "fill": "half", "iterations": 1},
    {"mantissa_bits": 0, "offset": "lmul"},
)
ELEMENTWISE = (
    *(Call("mitchell_mul", 2, o, True) for o in PRODUCTS),
    Call("mitchell_mul", 2, {"overflow": "wrap"}, only=("int64", "uint64")),
    Call("mitchell_mul", 2, {"return_high": True}, only=("int64", "uint64")),
    *(
        Call("mitchell_div", 2, {"offset": o}, True)
        for o in ("none", "unbiased", "minimax", -0.249)
    ),
    Call("mitchell_log2", 1, integers=True),
    *(Call(f"mitchell_{f}", 1) for f in ("exp2", "square", "sqrt", "rsqrt", "reciprocal")),
    *(
        Call("mitchell_pow", 1, {"p": p})
        for p in (0, 1, 2, 3, -1, -2, 8, -8, 0.5, -0.5, 1.5, 1 / 3, -0.7, 63, 100, 1e-300, -1e20)
    ),
)


def dtype_of(name):
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def _shape_of(name):
    """Bits of exponent and fraction."""
    return {"float64": (11, 52), "float32": (8, 23), "float16": (5, 10), "bfloat16": (8, 7)}[name]


def numbers(rng, name, n):
    """Ordinary numbers, all kinds of special ones, and patterns at the edges."""
    dtype = dtype_of(name)
    width, word = 8 * dtype.itemsize, np.dtype(f"u{dtype.itemsize}")
    bits = rng.integers(0, 2**width, n, dtype=word, endpoint=False)
    if dtype.kind in "iu":
        bits >>= rng.integers(0, width, n).astype(word)
        edges = [0, 1, 2, 3, 2 ** (width - 1) - 1, 2 ** (width - 1), 2 ** (width - 1) + 1]
        some = rng.random(n) < 0.15
        bits[some] = rng.choice(np.array([*edges, 2**width - 1], word), some.sum())
        if dtype.kind == "i":
            bits = np.where(rng.random(n) < 0.5, ~bits + word.type(1), bits)
        return bits.view(dtype)
    exponent, fraction = _shape_of(name)
    sign, low = word.type(1 << (width - 1)), word.type((1 << fraction) - 1)
    ordinary = rng.random(n) < 0.6
    middle = (1 << (exponent - 1)) + rng.integers(-10, 10, n)
    placed = (bits & (sign | low)) | (middle.astype(word) << word.type(fraction))
    bits = np.where(ordinary, placed, bits)
    bits[rng.random(n) < 0.08] &= sign | low  # subnormal
    few = rng.random(n) < 0.2
    bits[few] &= ~word.type((1 << (fraction - 3)) - 1)
    infinity = ((1 << exponent) - 1) << fraction
    edges = [0, 1, 2, 3, int(low), 1 << fraction, (1 << fraction) + 1]
    edges += [infinity - 1, infinity, infinity + 1, infinity >> 1 & ~int(low)]
    some = rng.random(n) < 0.15
    bits[some] = rng.choice(np.array(edges, word), some.sum()) | (
        sign * (rng.random(some.sum()) < 0.5).astype(word)
    )
    return bits.view(dtype)


def exponents(rng, name, n):
    """For exp2: up to and beyond where it overflows and underflows, and special numbers."""
    far = {"float64": 1100, "float32": 160, "float16": 30, "bfloat16": 150}[name]
    x = rng.uniform(-far, far, n).astype(dtype_of(name))
    some = rng.random(n) < 0.4
    x[some] = numbers(rng, name, n)[some]
    return x


def arguments(rng, call, name, n):
    make = exponents if call.function == "mitchell_exp2" else numbers
    return [make(rng, name, n) for _ in range(call.arrays)]


def words(x):
    return np.asarray(x).view(np.dtype(f"u{np.asarray(x).dtype.itemsize}"))


def equal_bits(got, want):
    """Equal words, or nan in both."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.dtype == want.dtype and got.shape == want.shape
    equal = words(got) == words(want)
    if got.dtype.kind not in "iu":
        with np.errstate(invalid="ignore"):
            equal |= (got != got) & (want != want)
    return equal


class Hostile:
    """A form of call as fuzz.py draws it. Results have equal bits; types are those of the call."""

    mask = keepdims = False
    outputs = ("n",)
    in_bits = True
    errors = (OverflowError,)  # of sums of integers

    def __init__(self, call, axis=False):
        self.id = self.function = call.function
        self.call, self.fixed, self.elementwise = call, call.options, not axis
        known = SIGNATURES[call.function].partition("*")[2].split()
        self.variants = tuple({o.partition("=")[0]: None} for o in known if o != "axis=-1")
        self.outputs = ("",) if axis else ("n",)
        self.public = getattr(kn, call.function)

    def make(self, rng, shape, dtype, mask=False):
        kinds = [d for d in self.call.types if d in FLOATS] or list(self.call.types)
        name = dtype.name if dtype.name in kinds else kinds[int(rng.integers(len(kinds)))]
        size = int(np.prod(shape))
        made = [x.reshape(shape) for x in arguments(rng, self.call, name, size)]
        return dict(zip(("a", "b") if len(made) == 2 else ("x",), made, strict=True))


HOSTILE = (
    *map(Hostile, ELEMENTWISE),
    *(Hostile(Call("mitchell_dot", 2, o), axis=True) for o in PRODUCTS[:6]),
)
