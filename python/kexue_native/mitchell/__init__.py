"""Multiplication by addition: Mitchell's approximation of 1962, bit-exact."""

from .logarithmic import *
from .products import *
from .slopes import *

# Written out, since type checkers do not follow a sum of lists.
__all__ = [
    "approx_metrics",
    "mitchell_div",
    "mitchell_div_vjp",
    "mitchell_dot",
    "mitchell_error_bound",
    "mitchell_exp2",
    "mitchell_exp2_vjp",
    "mitchell_log2",
    "mitchell_log2_vjp",
    "mitchell_lut",
    "mitchell_matmul",
    "mitchell_matmul_vjp",
    "mitchell_mul",
    "mitchell_mul_vjp",
    "mitchell_pow",
    "mitchell_pow_vjp",
    "mitchell_reciprocal",
    "mitchell_rsqrt",
    "mitchell_sqrt",
    "mitchell_square",
]
