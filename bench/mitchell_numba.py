"""Mitchell's bit tricks as Numba loops, in parallel."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numba
import numpy as np
from numba import njit, prange, types
from numba.cpython.unsafe.numbers import leading_zeros
from numba.extending import intrinsic

FRACTION = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}
BIAS = {"float64": 1023, "float32": 127, "float16": 15, "bfloat16": 127}


@cache
def kernel(function: str, dtype: str) -> tuple[Any, Any]:
    """A loop (inputs..., out), and the type its arrays are viewed as: None for words."""
    if dtype not in FRACTION:
        return (integer_loop(dtype) if function == "mul" else None), None
    if function == "matmul":
        return matrix_loop(), np.int32
    m = FRACTION[dtype]
    word = np.dtype({8: np.int64, 4: np.int32, 2: np.int16}[8 if m == 52 else 4 if m == 23 else 2])
    one, magnitude = word.type(BIAS[dtype] << m), word.type(np.iinfo(word).max)
    sign = word.type(np.iinfo(word).min)
    unit = 2.0**-m

    @njit(parallel=True)
    def mul(a, b, out):
        for i in prange(a.size):
            x, y = a[i], b[i]
            out[i] = word_type((x & magnitude) + (y & magnitude) - one) | ((x ^ y) & sign)

    @njit(parallel=True)
    def div(a, b, out):
        for i in prange(a.size):
            x, y = a[i], b[i]
            out[i] = word_type((x & magnitude) - (y & magnitude) + one) | ((x ^ y) & sign)

    @njit(parallel=True)
    def square(a, out):
        for i in prange(a.size):
            x = a[i] & magnitude
            out[i] = word_type(x + x - one)

    @njit(parallel=True)
    def reciprocal(a, out):
        for i in prange(a.size):
            out[i] = word_type(one - (a[i] - one))

    @njit(parallel=True)
    def sqrt(a, out):
        for i in prange(a.size):
            r = (a[i] >> 1) + (one >> 1)
            out[i] = word_type(r + (a[i] & r & 1))

    @njit(parallel=True)
    def rsqrt(a, out):
        for i in prange(a.size):
            r = one + ((one - a[i]) >> 1)
            out[i] = word_type(r + (a[i] & r & 1))

    word_type = {2: numba.int16, 4: numba.int32, 8: numba.int64}[word.itemsize]
    loops = {
        "mul": mul, "div": div, "square": square, "sqrt": sqrt, "rsqrt": rsqrt,
        "reciprocal": reciprocal,
    }  # fmt: skip
    if function in loops:
        return loops[function], None
    if dtype in ("float16", "bfloat16"):
        return table_loop(function, dtype), np.uint16
    real = np.float64 if m == 52 else np.float32
    return {"log2": log_loop(real, word, one, unit), "exp2": exp_loop(real)}[function], real


def integer_loop(dtype: str) -> Any:
    """2^(k + l) (1 + x + y) or, from x + y = 1 on, 2^(k + l + 1) (x + y), by leading zeros."""
    if np.dtype(dtype).itemsize > 4:
        return None
    signed = np.dtype(dtype).kind == "i"

    @njit(parallel=True)
    def mul(a, b, out):
        for i in prange(a.size):
            u, w = np.int64(a[i]), np.int64(b[i])
            negative = (u ^ w) < 0
            if signed:
                u, w = abs(u), abs(w)
            k, m = 63 - leading_zeros(u), 63 - leading_zeros(w)
            s, one = (u << m) + (w << k), 1 << (k + m)
            p = 2 * s - 4 * one if s >= 3 * one else s - one
            p = 0 if u == 0 or w == 0 else p
            out[i] = -p if negative else p

    return mul


@intrinsic
def as_float(context: Any, word: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.int32), generate


def matrix_loop() -> Any:
    """Rows of products as words, added as the numbers they are; of float32."""

    @njit(parallel=True, fastmath=True)
    def matmul(a, b, out):
        rows, depth, columns = a.shape[0], a.shape[1], b.shape[1]
        for i in prange(rows):
            total = np.zeros(columns, np.float32)
            for k in range(depth):
                left = a[i, k] - np.int32(127 << 23)
                for j in range(columns):
                    total[j] += as_float(np.int32(left + b[k, j]))
            for j in range(columns):
                out[i, j] = total[j]

    return matmul


def log_loop(real: Any, word: Any, one: Any, unit: float) -> Any:
    scale = real(unit)

    @njit(parallel=True)
    def log2(a, out):
        words = a.view(word)
        for i in prange(a.size):
            out[i] = real(words[i] - one) * scale

    return log2


def exp_loop(real: Any) -> Any:
    @njit(parallel=True)
    def exp2(a, out):
        for i in prange(a.size):
            whole = math.floor(a[i])
            out[i] = math.ldexp(real(1) + (a[i] - real(whole)), int(whole))

    return exp2


def table_loop(function: str, dtype: str) -> Any:
    """16 bits: all results in a table."""
    import kexue_native as kn
    from harness import numpy_dtype

    every = np.arange(2**16, dtype=np.uint16)
    table = getattr(kn, f"mitchell_{function}")(every.view(numpy_dtype(dtype))).view(np.uint16)

    @njit(parallel=True)
    def lookup(a, out):
        for i in prange(a.size):
            out[i] = table[a[i]]

    return lookup
