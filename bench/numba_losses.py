"""The multi-label loss as a Numba user would write it: a loop over rows in parallel.

`plain` takes the library's exp and a shift for each part. `tuned` has one pass without a shift, a
polynomial for exp that LLVM vectorises, and e^-s as its inverse: it overflows beyond |s| = 88.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from numba_kernels import exp


@njit(parallel=True, fastmath=True, cache=True)
def plain(scores, targets, loss, grad, wants_grad):
    for r in prange(scores.shape[0]):
        s, t = scores[r], targets[r]
        top, low = np.float32(0), np.float32(0)
        for i in range(s.size):
            if t[i] < 1:
                top = max(top, s[i])
            if t[i] > 0:
                low = max(low, -s[i])
        negative, positive = math.exp(-top), math.exp(-low)
        for i in range(s.size):
            negative += (1 - t[i]) * math.exp(s[i] - top)
            positive += t[i] * math.exp(-s[i] - low)
        loss[r] = top + math.log(negative) + low + math.log(positive)
        if wants_grad:
            for i in range(s.size):
                n = (1 - t[i]) * math.exp(s[i] - top) / negative
                grad[r, i] = n - t[i] * math.exp(-s[i] - low) / positive


@njit(parallel=True, fastmath=True, cache=True)
def tuned(scores, targets, loss, grad, wants_grad):
    one = np.float32(1)
    for r in prange(scores.shape[0]):
        s, t, g = scores[r], targets[r], grad[r]
        negative, positive = np.float32(0), np.float32(0)
        for i in range(s.size):
            e = exp(s[i])
            negative += (one - t[i]) * e
            positive += t[i] / e
        loss[r] = np.log1p(negative) + np.log1p(positive)
        if wants_grad:
            n, p = one / (one + negative), one / (one + positive)
            for i in range(s.size):
                e = exp(s[i])
                g[i] = (one - t[i]) * e * n - t[i] / e * p
