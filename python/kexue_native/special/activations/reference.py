"""The formulas of the part in NumPy; see the reference of the reductions for how it is built.

Elementwise: all arguments broadcast. What decays keeps its relative accuracy; the exponent of a
product beta x is a rounded number, as those of the compiled kernels are not.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..._arrays import Array, namespace, widen
from ..reductions.reference import store
from ..smooth.reference import laguerre

_quiet = np.errstate(all="ignore")
_inf = float("inf")
_nan = float("nan")


def _constant(x: Array, value: float) -> Any:
    """`value` in the type of x"""
    return x.dtype.type(value)


def _pi(x: Array) -> Any:
    return 4 * np.arctan(_constant(x, 1.0))


def _ramp(x: Array) -> Array:
    """max(x, 0)"""
    return namespace(x).where(x < 0, 0.0, x)


def _at_least_finite(x: Array) -> Array:
    """x with the largest numbers for infinities"""
    largest = np.finfo(x.dtype).max
    return namespace(x).clip(x, -largest, largest)


# --- With a square root ---


def _radius(x: Array, b: float) -> Array:
    xp = namespace(x)
    return xp.hypot(x, xp.sqrt(_constant(x, b)))


def _squareplus(x: Array, b: float) -> Array:
    mean = abs(x) / 2 + _radius(x, b) / 2
    return namespace(x).where(x < 0, b / mean / 4, mean)


def _share(x: Array, b: float) -> Array:
    x = _at_least_finite(x)
    h = _radius(x, b)
    return namespace(x).where(h == 0, 0.5, _squareplus(x, b) / h)


@_quiet
def squareplus(x: Array, b: float, out: Array | None = None) -> Any:
    """(x + h) / 2 with h = sqrt(x^2 + b); for x < 0 b / (2 (h - x))"""
    return store(out, _squareplus(widen(x), b))


@_quiet
def squareplus_grad(x: Array, b: float, out: Array | None = None) -> Any:
    """(1 + x / h) / 2 = squareplus(x) / h"""
    return store(out, _share(widen(x), b))


@_quiet
def squareplus_grad_b(x: Array, b: float, out: Array | None = None) -> Any:
    """1 / (4 h)"""
    return store(out, 0.25 / _radius(widen(x), b))


def _difference(x: Array, y: Array) -> Array:
    return namespace(x).where(x == y, 0.0, x - y)


@_quiet
def smooth_max2(x: Array, y: Array, b: float, out: Array | None = None) -> Any:
    """max(x, y) + squareplus(-|x - y|)"""
    x, y = widen(x), widen(y)
    return store(out, namespace(x).maximum(x, y) + _squareplus(-abs(_difference(x, y)), b))


@_quiet
def smooth_max2_grad(
    x: Array, y: Array, b: float, dx: Array | None = None, dy: Array | None = None
) -> Any:
    """squareplus_grad(x - y) and squareplus_grad(y - x)"""
    d = _difference(widen(x), widen(y))
    grads = _share(d, b), _share(-d, b)
    if dx is None:
        return grads
    store(dy, grads[1])
    return store(dx, grads[0])


@_quiet
def smooth_abs_sqrt(x: Array, b: float, out: Array | None = None) -> Any:
    """sqrt(x^2 + b)"""
    return store(out, _radius(widen(x), b))


@_quiet
def smooth_abs_sqrt_grad(x: Array, b: float, out: Array | None = None) -> Any:
    """x / sqrt(x^2 + b)"""
    x = _at_least_finite(widen(x))
    return store(out, namespace(x).where(x == 0, 0.0, x / _radius(x, b)))


# --- With the logistic function ---


def _sigmoid(z: Array) -> Array:
    xp = namespace(z)
    e = xp.exp(-abs(z))
    return xp.where(z < 0, e, 1.0) / (1 + e)


@_quiet
def sigmoid(x: Array, beta: float, out: Array | None = None) -> Any:
    """1 / (1 + exp(-z)), z = beta x; for z < 0 exp(z) / (1 + exp(z))"""
    return store(out, _sigmoid(beta * widen(x)))


@_quiet
def sigmoid_grad(x: Array, out: Array | None = None) -> Any:
    """sigma(x) sigma(-x)"""
    x = widen(x)
    return store(out, _sigmoid(x) * _sigmoid(-x))


def _log1p_exp(z: Array) -> Array:
    """log(1 + exp(-|z|))"""
    xp = namespace(z)
    return xp.log1p(xp.exp(-abs(z)))


@_quiet
def softplus(x: Array, beta: float, out: Array | None = None) -> Any:
    """max(x, 0) + log(1 + exp(-beta |x|)) / beta"""
    x = widen(x)
    return store(out, _ramp(x) + _log1p_exp(beta * x) / beta)


@_quiet
def log_sigmoid(x: Array, out: Array | None = None) -> Any:
    """min(x, 0) - log(1 + exp(-|x|))"""
    x = widen(x)
    return store(out, -(_ramp(-x) + _log1p_exp(x)))


@_quiet
def smooth_abs(x: Array, slope: float, out: Array | None = None) -> Any:
    """|x| + 2 log(1 + exp(-slope |x|)) / slope"""
    x = widen(x)
    return store(out, abs(x) + 2 * (_log1p_exp(slope * x) / slope))


@_quiet
def smooth_abs_grad(x: Array, slope: float, out: Array | None = None) -> Any:
    """tanh(slope x / 2)"""
    x = widen(x)
    return store(out, namespace(x).tanh(slope / 2 * x))


def _gated(x: Array, z: Array) -> Array:
    """x sigma(z), 0 with the sign of x where sigma is 0"""
    s, xp = _sigmoid(z), namespace(x)
    return xp.where(s == 0, xp.copysign(0.0, x), x * s)


def _gated_slope(x: Array, z: Array, slope: Array) -> Array:
    """s (1 - slope (1 - s)) with s = sigma(-|z|), slope = |x z'|; 1 minus that for x > 0"""
    xp = namespace(x)
    s = _sigmoid(-abs(z))
    lower = xp.where(s == 0, -0.0, s * (1 - slope * _sigmoid(abs(z))))
    return xp.where(x < 0, lower, 1 - lower)


@_quiet
def silu(x: Array, beta: float, out: Array | None = None) -> Any:
    """x sigma(beta x)"""
    x = widen(x)
    return store(out, _gated(x, beta * x))


@_quiet
def silu_grad(x: Array, beta: float, out: Array | None = None) -> Any:
    """s + beta x s (1 - s), s = sigma(beta x)"""
    x = widen(x)
    return store(out, _gated_slope(x, beta * x, abs(beta * x)))


def _two_u(x: Array) -> tuple[Array, Array]:
    """2 u = 2 sqrt(2 / pi) (x + 0.044715 x^3) and |x| times its derivative"""
    factor = 2 * np.sqrt(2 / _pi(x))
    bend = _constant(x, 0.044715) * (x * x)
    return factor * (x + x * bend), factor * (abs(x) + 3 * (abs(x) * bend))


@_quiet
def gelu_tanh(x: Array, out: Array | None = None) -> Any:
    """x (1 + tanh u) / 2 = x sigma(2 u)"""
    x = widen(x)
    return store(out, _gated(x, _two_u(x)[0]))


@_quiet
def gelu_tanh_grad(x: Array, out: Array | None = None) -> Any:
    """s + 2 x u' s (1 - s), s = sigma(2 u)"""
    x = widen(x)
    return store(out, _gated_slope(x, *_two_u(x)))


# --- With the normal distribution ---

_STEP = 0.375  # of the midpoint rule; its error is exp(-(pi / step)^2) = 3e-31
_END = 64.0  # beyond, the distribution's tail is 0


def _normal_tail(t: Array) -> tuple[Array, Array]:
    """P(-t) and p(t) - t P(-t) over exp(-t^2 / 2), for t >= 0: distribution and density.

    erfcx(z) = (2 z / pi) int_0^inf exp(-u^2) / (z^2 + u^2) du by the midpoint rule, whose error,
    for small z, is the residue of the pole at u = i z. All terms are positive.
    """
    xp = namespace(t)
    pi, root = _pi(t), np.sqrt(_constant(t, 2.0))
    z = t / root
    first, second = xp.zeros_like(z), xp.zeros_like(z)
    for k in range(20):
        square = _constant(t, (k + 0.5) * _STEP) ** 2
        term = 2 * _STEP * np.exp(-square) / (z * z + square)
        first = first + term
        second = second + square * term
    pole = 2 * xp.exp(z * (z - 2 * pi / _STEP)) / (1 + xp.exp(-2 * pi * z / _STEP))
    pole = xp.where(z * _STEP < pi, pole, 0.0)
    share = (z / pi * first + pole) / 2
    excess = second / (pi * root) - t * pole / 2
    return share, excess


def _bell(t: Array) -> Array:
    """exp(-t^2 / 2), the square split so that its rounding does not matter"""
    xp = namespace(t)
    head = xp.floor(16 * t) / 16
    return xp.exp(-head * head / 2) * xp.exp(-(t - head) * (t + head) / 2)


def _distance(x: Array, sigma: float = 1.0) -> Array:
    return namespace(x).minimum(abs(x) / sigma, _END)


@_quiet
def gelu(x: Array, out: Array | None = None) -> Any:
    """x P(x) = max(x, 0) - t P(-t), t = |x|"""
    x = widen(x)
    t = _distance(x)
    return store(out, _ramp(x) - t * _normal_tail(t)[0] * _bell(t))


@_quiet
def gelu_grad(x: Array, out: Array | None = None) -> Any:
    """P(x) + x p(x); the values at x and -x sum to 1"""
    xp = namespace(x)
    x = widen(x)
    t = _distance(x)
    peak = 1 / np.sqrt(2 * _pi(x))  # p(0)
    lower = (_normal_tail(t)[0] - t * peak) * _bell(t)
    return store(out, xp.where(x < 0, lower, 1 - lower))


@_quiet
def relu_gaussian(x: Array, sigma: float, out: Array | None = None) -> Any:
    """x P(x / sigma) + sigma p(x / sigma) = max(x, 0) + sigma (p(z) - z P(-z)), z = |x| / sigma"""
    x = widen(x)
    z = _distance(x, sigma)
    return store(out, _ramp(x) + sigma * (_normal_tail(z)[1] * _bell(z)))


@_quiet
def relu_gaussian_grad(x: Array, sigma: float, out: Array | None = None) -> Any:
    """P(x / sigma)"""
    x = widen(x)
    z = _distance(x, sigma)
    lower = _normal_tail(z)[0] * _bell(z)
    return store(out, namespace(x).where(x < 0, lower, 1 - lower))


# --- Stairs and Taylor ---


def _stairs(x: Array, t: float, shift: float) -> tuple[Array, Array, Array]:
    """The nearest integer m to x - shift, the stairs above m less 1/2, and their slope."""
    xp = namespace(x)
    m = xp.rint(x - shift)
    f = xp.where(x == m, -shift, x - (m + shift))  # exact close to 0
    pi = _pi(x)
    if t >= 4:
        value, slope = xp.full_like(f, 0.5), xp.zeros_like(f)
        for n in range(-math.ceil(48 / t) - 1, math.ceil(48 / t) + 2):
            z = t * (f - n)
            value = value + (_sigmoid(z) if n > 0 else -_sigmoid(-z))
            slope = slope + t * (_sigmoid(z) * _sigmoid(-z))
    else:
        t = max(t, 0.03)  # from here down the weights are 0, and with a subnormal t inf / inf
        value, slope = f, xp.ones_like(f)
        for k in range(1, math.ceil(48 * t / 19.7) + 2):
            weight = 2 * pi / t / np.sinh(2 * pi * pi * k / t)
            value = value + weight * xp.sin(2 * pi * k * f)
            slope = slope + 2 * pi * k * weight * xp.cos(2 * pi * k * f)
    return m, value, slope


@_quiet
def smooth_stairs(x: Array, t: float, shift: float, level: float, out: Array | None = None) -> Any:
    """sum_{n <= 0} (sigma(t (x - n)) - 1) + sum_{n >= 1} sigma(t (x - n)), moved"""
    x = widen(x)
    m, value, _ = _stairs(x, t, shift)
    return store(out, namespace(x).where(abs(x) == _inf, x, m + (level + value)))


@_quiet
def smooth_stairs_grad(x: Array, t: float, shift: float, out: Array | None = None) -> Any:
    """sum t sigma(t (x - n)) sigma(-t (x - n))"""
    x = widen(x)
    xp = namespace(x)
    return store(out, xp.where(xp.isfinite(x), _stairs(x, t, shift)[2], _nan))


def _taylor(x: Array, n: int, power: int) -> Array:
    """sum_j (c_j (x + t_j))^power = sum of x^k / k! for k <= power, by quadrature"""
    xp = namespace(x)
    value = xp.zeros_like(x)
    for t, w in zip(*laguerre(n // 2 + 1), strict=True):
        c = (w / math.factorial(power)) ** (1 / np.longdouble(power))
        value = value + (_constant(x, c) * (x + _constant(x, t))) ** power
    return value


@_quiet
def taylor_exp(x: Array, n: float, out: Array | None = None) -> Any:
    """f_n(x) = sum of x^k / k! for k <= n"""
    return store(out, _taylor(widen(x), int(n), int(n)))


@_quiet
def taylor_exp_grad(x: Array, n: float, out: Array | None = None) -> Any:
    """f_(n-1)(x)"""
    return store(out, _taylor(widen(x), int(n), int(n) - 1))
