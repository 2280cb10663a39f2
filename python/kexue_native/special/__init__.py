"""Reductions and smooth functions: softmax and its family."""

from .reductions import *

# Written out, since type checkers do not follow a sum of lists.
__all__ = [
    "LogsumexpBounds",
    "LogsumexpLipschitz",
    "entropy_invariant_scale",
    "entropy_invariant_softmax",
    "entropy_invariant_softmax_vjp",
    "log_softmax",
    "log_softmax_vjp",
    "logmeanexp",
    "logmeanexp_vjp",
    "logsumexp",
    "logsumexp_bounds",
    "logsumexp_jensen_gap",
    "logsumexp_lipschitz",
    "logsumexp_softmax",
    "logsumexp_vjp",
    "softmax",
    "softmax_entropy",
    "softmax_entropy_vjp",
    "softmax_vjp",
]
