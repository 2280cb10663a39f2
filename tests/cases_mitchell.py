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


def near_bits(got, want):
    """Equal words, or numbers at most 4 units in the last place apart."""
    equal, unit = equal_bits(got, want), UNIT[np.asarray(got).dtype.name]
    g, w = (np.asarray(v).astype(np.longdouble) for v in (got, want))
    with np.errstate(invalid="ignore"):
        return equal | (
            np.abs(g - w) <= 8 * unit * np.abs(w) + 4 * LEAST[np.asarray(got).dtype.name]
        )


LARGEST = {"float64": 1.7e308, "float32": 3.4e38, "float16": 65504.0, "bfloat16": 3.38e38}
LEAST = {"float64": 5e-324, "float32": 2.0**-149, "float16": 2.0**-24, "bfloat16": 2.0**-133}
UNIT = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}


def as_tuple(returned):
    return returned if isinstance(returned, tuple) else (returned,)


def sums_agree(got, want, sizes, count, accumulator):
    """Sums in any order: both within the bound of the specification, 2 u (K + 8) sum |p_k| and half
    a unit of the result's type. Where a sum may overflow on its way, the order decides about it."""
    got, want, sizes = (np.asarray(v) for v in (got, want, sizes))
    assert got.dtype == want.dtype and got.shape == want.shape
    if got.dtype.kind in "iu":
        return got == want
    name = got.dtype.name
    g, w, size = (v.astype(np.longdouble) for v in (got, want, sizes))
    with np.errstate(all="ignore"):
        bound = 4 * UNIT[accumulator] * (count + 8) * size + 4 * LEAST[accumulator]
        bound = bound + 2 * UNIT[name] * (np.abs(w) + bound) + LEAST[name]
        edge = (np.isinf(g) | np.isinf(w)) & (
            np.abs(np.where(np.isinf(g), w, g)) + bound >= (LARGEST[name] * (1 - UNIT[name]))
        )
        equal = (g == w) | (np.abs(g - w) <= bound) | (np.isnan(g) & np.isnan(w)) | edge
        return (
            equal
            | (np.isfinite(size) & (size > LARGEST[accumulator] / 4))
            | ((accumulator == "float64") & np.isinf(size))
        )


class Form:
    """A function of arrays and a form of call, as the general promises and fuzz.py see it. Results
    have equal bits, except of sums, whose order is free, and of powers that are NumPy's, which
    rounds them by an array's strides; types are those of the call."""

    mask = keepdims = False
    errors = (OverflowError,)  # of sums of integers

    def __init__(self, function, names, fixed=None, types=FLOATS, sums=False):
        self.function, self.names, self.types, self.sums = function, names.split(), types, sums
        self.fixed = dict(fixed or {})
        self.id = " ".join([function, *(f"{k}={v}" for k, v in self.fixed.items())])
        self.elementwise = function != "mitchell_dot"
        powers = function in ("mitchell_exp2_vjp", "mitchell_pow_vjp")
        self.equal = near_bits if powers and self.fixed.get("grad") == "true" else equal_bits
        known = SIGNATURES[function].partition("*")[2].split()
        self.variants = tuple({o.partition("=")[0]: None} for o in known if o != "axis=-1")
        self.public = getattr(kn, function)

    @property
    def matrices(self):
        return "matmul" in self.function

    def sizes(self, rng, shape):
        """Shapes of the arrays of a call; the last axis is that of the sum in products."""
        if not self.matrices:
            return dict.fromkeys(self.names, tuple(shape))
        *loop, n, k = (2, *shape) if len(shape) < 2 else shape
        m = int(rng.integers(0, 6))
        return {"g": (*loop, n, m), "a": (*loop, n, k), "b": (*loop, k, m)}

    def shapes(self, arrays):
        """Of the results."""
        if self.function.endswith("_vjp"):
            return [arrays[k].shape for k in self.names[1:]]
        if self.matrices:
            return [(*arrays["a"].shape[:-1], arrays["b"].shape[-1])]
        if not self.elementwise:
            return [arrays["a"].shape[:-1]]
        return [arrays[self.names[0]].shape] * (2 if self.fixed.get("return_high") else 1)

    def make(self, rng, shape, dtype, mask=False):
        """For fuzz.py: mostly of this type."""
        name = dtype.name
        if name not in self.types or rng.random() < 0.3:
            name = self.types[int(rng.integers(len(self.types)))]
        return self.numbers(rng, shape, name)

    def numbers(self, rng, shape, name):
        draw = exponents if "exp2" in self.function and name in FLOATS else numbers
        sizes = self.sizes(rng, shape)
        return {
            k: draw(rng, name, int(np.prod(sizes[k], dtype=int))).reshape(sizes[k])
            for k in self.names
        }

    def exact(self, rng, shape, name):
        """All kinds of numbers, or small ones where only their sums are the same in any order."""
        if not self.sums:
            return self.numbers(rng, shape, name)
        low = 0 if name.startswith("u") else -4
        sizes = self.sizes(rng, shape)
        return {k: rng.integers(low, 5, sizes[k]).astype(dtype_of(name)) for k in self.names}

    def agree(self, got, want, arguments):
        """Elements that are what they have to be, of each result."""
        pairs = list(zip(as_tuple(got), as_tuple(want), strict=True))
        if not self.sums:
            return [self.equal(g, w) for g, w in pairs]
        given = {k: v for k, v in arguments.items() if k not in ("out", "acc_dtype", "out_dtype")}
        arrays = [np.asarray(given[k]) for k in self.names]
        typed = [
            a.dtype
            for k, a in zip(self.names, arrays, strict=True)
            if not isinstance(given[k], float | int)
        ]
        if any(t.kind in "iu" for t in typed):
            return [g == w for g, w in pairs]
        name = next((t.name for t in typed), "float64")
        wide = "float64" if name == "float64" else "float32"
        accumulator = np.dtype(arguments.get("acc_dtype") or wide).name
        with np.errstate(all="ignore"):
            given |= {
                k: np.abs(a.astype(np.float64)) for k, a in zip(self.names, arrays, strict=True)
            }
        sizes = as_tuple(self.public(**given, backend="reference"))
        count = max((max(a.shape, default=1) for a in arrays), default=1)
        return [
            sums_agree(g, w, s, count, accumulator) for (g, w), s in zip(pairs, sizes, strict=True)
        ]


GRADS = ({}, {"grad": "mitchell"}, {"grad": "true"})
SUMS = (*PRODUCTS[:2], *PRODUCTS[5:7], *PRODUCTS[8:11])
FORMS = (
    *(Form(c.function, "a b" if c.arrays == 2 else "x", c.options, c.types) for c in ELEMENTWISE),
    *(
        Form(f"mitchell_{f}", "a b", o, FLOATS + INTEGERS, sums=True)
        for f in ("dot", "matmul")
        for o in SUMS
    ),
    *(
        Form(f"mitchell_{f}_vjp", names, {**fixed, **grad})
        for f, names, fixed in (
            ("mul", "g a b", {}),
            ("mul", "g a b", {"offset": "minimax"}),
            ("div", "g a b", {}),
            ("log2", "g x", {}),
            ("exp2", "g x", {}),
            ("pow", "g x", {"p": 3}),
            ("pow", "g x", {"p": -0.5}),
        )
        for grad in (GRADS if "offset" not in fixed else GRADS[:1])
    ),
    *(Form("mitchell_matmul_vjp", "g a b", grad, sums=True) for grad in GRADS),
)
