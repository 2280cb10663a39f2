"""The functions as a Numba user would write them for speed: fused rows, own exp, prange.

Numba leaves `exp` in a loop as calls of the scalar library, so the exponentials are polynomials
here, which LLVM vectorises. NaN and infinities are not cared for.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange, types
from numba.extending import overload

LOGSUMEXP, SOFTMAX, LOG_SOFTMAX = range(3)
KIND = {"logsumexp": LOGSUMEXP, "softmax": SOFTMAX, "log_softmax": LOG_SOFTMAX}
LANES = 64
BLOCK = 16384


def exp(x):
    """e^x for x <= 0: 2^k times a polynomial. Only compiled functions call it."""


def polynomial(digits, dtype, integer, bias, lowest, degree):
    log2e, half, ln2 = dtype(np.log2(np.e)), dtype(0.5), dtype(np.log(2.0))
    zero, lowest, bias, digits = dtype(0), dtype(lowest), integer(bias), integer(digits)
    factorials = np.cumprod(np.arange(1.0, degree + 1))
    c = tuple(dtype(1 / f) for f in factorials[::-1]) + (dtype(1),)

    def implementation(x):
        k = np.floor(x * log2e + half)
        r = x - k * ln2
        p = c[0]
        for i in range(1, degree + 1):
            p = p * r + c[i]
        power = integer((integer(k) + bias) << digits).view(dtype)
        return p * power if x > lowest else zero

    return implementation


EXP = {
    types.float32: polynomial(23, np.float32, np.int32, 127, -87.0, 7),
    types.float64: polynomial(52, np.float64, np.int64, 1023, -708.0, 12),
}


@overload(exp, inline="always", jit_options={"fastmath": True})
def _exp(x):
    return EXP.get(x)


@njit(fastmath=True, cache=True)
def row_max(x):
    m = x[0]
    for i in range(x.size):
        m = max(m, x[i])
    return m


@njit(fastmath=True, cache=True)
def row_sum(x, m):
    s = x.dtype.type(0)
    for i in range(x.size):
        s += exp(x[i] - m)
    return s


@njit(parallel=True, fastmath=True, cache=True)
def rows(kind, x, out, reduced):
    for r in prange(x.shape[0]):
        row = x[r]
        m = row_max(row)
        if kind == SOFTMAX:
            s = x.dtype.type(0)
            for i in range(row.size):
                e = exp(row[i] - m)
                out[r, i] = e
                s += e
            s = x.dtype.type(1) / s
            for i in range(row.size):
                out[r, i] *= s
        else:
            total = m + np.log(row_sum(row, m))
            if kind == LOGSUMEXP:
                reduced[r] = total
            else:
                for i in range(row.size):
                    out[r, i] = row[i] - total


@njit(parallel=True, fastmath=True, cache=True)
def long_row(kind, x, out, reduced):
    n = x.shape[1]
    blocks = (n + BLOCK - 1) // BLOCK
    for r in range(x.shape[0]):
        maxima, sums = np.empty(blocks), np.empty(blocks)
        for b in prange(blocks):
            part = x[r, b * BLOCK : (b + 1) * BLOCK]
            m = row_max(part)
            maxima[b] = m
            sums[b] = row_sum(part, m)
        top = maxima.max()
        total = x.dtype.type(top + np.log(np.sum(sums * np.exp(maxima - top))))
        if kind == LOGSUMEXP:
            reduced[r] = total
        else:
            for b in prange(blocks):
                part = x[r, b * BLOCK : (b + 1) * BLOCK]
                target = out[r, b * BLOCK : (b + 1) * BLOCK]
                if kind == SOFTMAX:
                    for i in range(part.size):
                        target[i] = exp(part[i] - total)
                else:
                    for i in range(part.size):
                        target[i] = part[i] - total


@njit(parallel=True, fastmath=True, cache=True)
def columns(kind, x, out, reduced):
    """Along axis 0 of (n, columns), one column a lane; a transposed view gives short rows."""
    n, width = x.shape
    for t in prange((width + LANES - 1) // LANES):
        start = t * LANES
        w = min(LANES, width - start)
        tile = np.empty((n, LANES), x.dtype)
        m = np.full(LANES, -np.inf, x.dtype)
        s = np.zeros(LANES, x.dtype)
        if x.strides[0] < x.strides[1]:
            for j in range(w):
                for i in range(n):
                    tile[i, j] = x[i, start + j]
        else:
            for i in range(n):
                for j in range(w):
                    tile[i, j] = x[i, start + j]
        for i in range(n):
            for j in range(LANES):
                m[j] = max(m[j], tile[i, j])
        for i in range(n):
            for j in range(LANES):
                d = tile[i, j] - m[j]
                e = exp(d)
                s[j] += e
                tile[i, j] = e if kind == SOFTMAX else d
        for j in range(LANES):
            if kind == SOFTMAX:
                s[j] = x.dtype.type(1) / s[j]
            else:
                s[j] = np.log(s[j])
        if kind == LOGSUMEXP:
            for j in range(w):
                reduced[start + j] = m[j] + s[j]
        else:
            for i in range(n):
                for j in range(LANES):
                    tile[i, j] = tile[i, j] * s[j] if kind == SOFTMAX else tile[i, j] - s[j]
            if x.strides[0] < x.strides[1]:
                for j in range(w):
                    for i in range(n):
                        out[i, start + j] = tile[i, j]
            else:
                for i in range(n):
                    for j in range(w):
                        out[i, start + j] = tile[i, j]


def build(function, x, axis, out, reduced):
    """A call without arguments that writes `reduced` (logsumexp) or `out`."""
    kind = KIND[function]
    if axis == 0:
        return lambda: columns(kind, x, out, reduced)
    if x.shape[1] <= 32:
        a, b = x.T, out.T
        return lambda: columns(kind, a, b, reduced)
    kernel = long_row if x.shape[1] > 16 * BLOCK else rows
    return lambda: kernel(kind, x, out, reduced)
