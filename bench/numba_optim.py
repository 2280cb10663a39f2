"""Exponentiated gradient as a Numba user would write it: parallel loops over rows or elements.

exp is the polynomial of numba_kernels, which LLVM vectorises; weights stay linear and no row is
shifted, so none of these has the limits of ours.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from numba_kernels import exp

CHUNK = 65536


@njit(parallel=True, fastmath=True, cache=True)
def egu_step(w, g, rate):
    for i in prange(w.size):
        w[i] *= exp(-rate * g[i])
    return w


@njit(parallel=True, fastmath=True, cache=True)
def eg_step(w, g, rate):
    for r in prange(w.shape[0]):
        total = np.float32(0)
        for i in range(w.shape[1]):
            w[r, i] *= exp(-rate * g[r, i])
            total += w[r, i]
        inverse = np.float32(1) / total
        for i in range(w.shape[1]):
            w[r, i] *= inverse
    return w


@njit(parallel=True, fastmath=True, cache=True)
def eg_step_one_row(w, g, rate):
    own, slope = w[0], g[0]
    chunks = (own.size + CHUNK - 1) // CHUNK
    parts = np.zeros(chunks)
    for c in prange(chunks):
        total = np.float32(0)
        for i in range(c * CHUNK, min((c + 1) * CHUNK, own.size)):
            own[i] *= exp(-rate * slope[i])
            total += own[i]
        parts[c] = total
    inverse = np.float32(1 / parts.sum())
    for i in prange(own.size):
        own[i] *= inverse
    return w


@njit(parallel=True, fastmath=True, cache=True)
def eg_pm_step(up, down, g, rate):
    for r in prange(g.shape[0]):
        total = np.float32(0)
        for i in range(g.shape[1]):
            e = exp(-rate * g[r, i])
            up[r, i] *= e
            down[r, i] /= e
            total += up[r, i] + down[r, i]
        inverse = np.float32(1) / total
        for i in range(g.shape[1]):
            up[r, i] *= inverse
            down[r, i] *= inverse
    return up, down


@njit(parallel=True, fastmath=True, cache=True)
def eg_stepsize_step(theta, gain, v, m, g, scale):
    chunks = (g.size + CHUNK - 1) // CHUNK
    parts = np.zeros((chunks, 3))
    for c in prange(chunks):
        gg, vv, gv = np.float32(0), np.float32(0), np.float32(0)
        for i in range(c * CHUNK, min((c + 1) * CHUNK, g.size)):
            gg += g[i] * g[i]
            vv += v[i] * v[i]
            gv += g[i] * v[i]
        parts[c, 0], parts[c, 1], parts[c, 2] = gg, vv, gv
    gg, vv, gv = parts[:, 0].sum(), parts[:, 1].sum(), parts[:, 2].sum()
    cosine = gv / ((math.sqrt(gg) + 1e-10) * (math.sqrt(vv) + 1e-10))
    scale[0] = min(max(scale[0] * math.exp(0.001 * cosine), 0.1), 10.0)
    s = np.float32(scale[0])
    up, down = np.float32(math.exp(0.01)), np.float32(math.exp(-0.01))
    for i in prange(g.size):
        product = g[i] * m[i]
        p = gain[i] * (up if product > 0 else down if product < 0 else np.float32(1))
        p = min(max(p, np.float32(1e-2)), np.float32(1e2))
        gain[i] = p
        v[i] = np.float32(0.9) * v[i] + np.float32(1e-3) * p * g[i]
        m[i] = np.float32(0.9) * m[i] + np.float32(0.1) * g[i]
        theta[i] -= s * v[i]
    return theta, gain, v, m


@njit(parallel=True, fastmath=True, cache=True)
def hedge(x, lr, out):
    days, n = x.shape
    for b in prange(lr.size):
        total = np.zeros(n)
        for t in range(days + 1):
            least = total.min()
            mass = np.float32(0)
            for i in range(n):
                e = exp(np.float32(-lr[b] * (total[i] - least)))
                out[b, t, i] = e
                mass += e
            inverse = np.float32(1) / mass
            for i in range(n):
                out[b, t, i] *= inverse
            if t < days:
                for i in range(n):
                    total[i] += x[t, i]
    return out


@njit(parallel=True, fastmath=True, cache=True)
def portfolio_eg(x, lr, weights, final, wealth):
    days, n = x.shape
    for b in prange(lr.size):
        w = np.full(n, 1.0 / n)
        total = 0.0
        for t in range(days):
            r = 0.0
            for i in range(n):
                weights[b, t, i] = w[i]
                r += w[i] * x[t, i]
            total += math.log(r)
            wealth[b, t] = total
            rate, mass = lr[b] / r, 0.0
            for i in range(n):
                w[i] *= exp(np.float32(rate * x[t, i]))
                mass += w[i]
            for i in range(n):
                w[i] /= mass
        final[b] = w
    return weights, final, wealth


@njit(parallel=True, fastmath=True, cache=True)
def project_simplex(v, out):
    """Michelot's algorithm: the same as ours, without a sort."""
    for r in prange(v.shape[0]):
        tau = v[r].max() - np.float32(1)
        while True:
            total, count = np.float32(0), 0
            for i in range(v.shape[1]):
                if v[r, i] > tau:
                    total += v[r, i]
                    count += 1
            new = (total - np.float32(1)) / np.float32(count)
            if not new > tau:
                break
            tau = new
        for i in range(v.shape[1]):
            out[r, i] = max(v[r, i] - tau, np.float32(0))
    return out
