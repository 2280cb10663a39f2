"""Smooth forms of the ramp, the absolute value, the maximum of two, the step and the stairs."""

from __future__ import annotations

import math
import sys
from typing import Any

from ..._arrays import Array, as_real, normalise, one_of
from ..._backends import choose
from ..._limits import fill_in
from ..smooth import as_degree

__all__ = [
    "SQUAREPLUS_ABOVE_SOFTPLUS",
    "SQUAREPLUS_CURVATURE",
    "SQUAREPLUS_NEAREST_SOFTPLUS",
    "gelu",
    "gelu_grad",
    "log_sigmoid",
    "log_sigmoid_grad",
    "relu_gaussian",
    "relu_gaussian_grad",
    "sigmoid",
    "sigmoid_grad",
    "silu",
    "silu_grad",
    "smooth_abs",
    "smooth_abs_grad",
    "smooth_ceil",
    "smooth_ceil_grad",
    "smooth_floor",
    "smooth_floor_grad",
    "smooth_max2",
    "smooth_max2_grad",
    "smooth_round",
    "smooth_round_grad",
    "softplus",
    "softplus_grad",
    "squareplus",
    "squareplus_grad",
    "squareplus_grad_b",
    "taylor_exp",
    "taylor_exp_grad",
]

SQUAREPLUS_CURVATURE = 4.0
"""The b of `squareplus` that gives it the curvature of softplus at 0."""
SQUAREPLUS_ABOVE_SOFTPLUS = 4 * math.log(2) ** 2
"""The smallest b with which `squareplus` is nowhere below softplus: 1.9218120556728057."""
SQUAREPLUS_NEAREST_SOFTPLUS = 1.5238210325187507
"""The b with which `squareplus` is nearest to softplus: within 0.07593144993597."""

_LARGEST = sys.float_info.max


def _elementwise(
    name: str, kernel: str, x: Array, out: Array | None, backend: str | None, *parameters: float
) -> Any:
    """What a function of one array and some numbers does once the numbers are checked."""
    call = normalise(name, "()->()", None, out, x=x)
    kernels = choose("special.activations", call, backend)
    getattr(kernels, kernel)(*call.inputs, *parameters, *call.outputs)
    return call.result()


def squareplus(
    x: Array,
    b: float = 4.0,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """(x + sqrt(x^2 + b)) / 2, for x < 0 as b / (2 (sqrt(x^2 + b) - x)).

    Elementwise, signature ``()->()``.

    Parameters
    ----------
    x : array of float64, float32, float16, bfloat16, integers or bool
        Any values. Integers and bool are computed in float64.
    b : float
        Not negative and finite: 4 has the curvature of softplus at 0, and three constants
        ``SQUAREPLUS_...`` are remarkable. 0 gives max(x, 0).
    out : array, optional
        Where the result goes; it may be `x` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `x`; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays.
    ValueError
        `b` outside its domain.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: +inf gives +inf, -inf gives 0; b = 0 is exactly max(x, 0).

    Accuracy: at most LIMITS["squareplus"] ULP of
    MAGNITUDE["squareplus"].

    Source: kexue.fm/archives/8833; arXiv 2112.11687.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.squareplus([-1e8, 0.0, 1e308])
    array([1.e-008, 1.e+000, 1.e+308])
    """
    b = as_real("squareplus", "b", b, at_least=0.0)
    return _elementwise("squareplus", "squareplus", x, out, backend, b)


def squareplus_grad(
    x: Array,
    b: float = 4.0,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """(1 + x / sqrt(x^2 + b)) / 2, the derivative of `squareplus`.

    Elementwise, signature ``()->()``.

    Parameters
    ----------
    x, b, out, backend : see `squareplus`

    Returns
    -------
    array
        The shape of `x`; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays.
    ValueError
        `b` outside its domain.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: +inf gives 1, -inf gives 0; with b = 0 a step, 1/2 at 0.

    Accuracy: at most LIMITS["squareplus_grad"] ULP of
    MAGNITUDE["squareplus_grad"].

    Source: kexue.fm/archives/8833; arXiv 2112.11687.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.squareplus_grad([-float("inf"), 0.0, 3.0], b=16.0)
    array([0. , 0.5, 0.8])
    """
    b = as_real("squareplus_grad", "b", b, at_least=0.0)
    return _elementwise("squareplus_grad", "squareplus_grad", x, out, backend, b)


def squareplus_grad_b(
    x: Array,
    b: float = 4.0,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """1 / (4 sqrt(x^2 + b)), the derivative of `squareplus` with respect to b.

    Elementwise, signature ``()->()``.

    Parameters
    ----------
    x, b, out, backend : see `squareplus`

    Returns
    -------
    array
        The shape of `x`; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays.
    ValueError
        `b` outside its domain.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: +inf and -inf give 0; with b = 0 the value at 0 is +inf.

    Accuracy: at most LIMITS["squareplus_grad_b"] ULP of
    MAGNITUDE["squareplus_grad_b"].

    Source: kexue.fm/archives/8833; arXiv 2112.11687.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.squareplus_grad_b([0.0, 3.0], b=16.0)
    array([0.0625, 0.05  ])
    """
    b = as_real("squareplus_grad_b", "b", b, at_least=0.0)
    return _elementwise("squareplus_grad_b", "squareplus_grad_b", x, out, backend, b)


def gelu(
    x: Array,
    *,
    approximate: str = "none",
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """x P(x), P the normal distribution, as x erfc(-x / sqrt(2)) / 2.

    Elementwise, signature ``()->()``.

    Parameters
    ----------
    x : array of float64, float32, float16, bfloat16, integers or bool
        Any values. Integers and bool are computed in float64.
    approximate : {"none", "tanh", "sigmoid"}
        "none": P is the normal distribution. "tanh": x (1 + tanh u) / 2 with
        u = sqrt(2 / pi) (x + 0.044715 x^3), off by at most 4.7323e-4. "sigmoid": x sigma(1.702 x),
        off by at most 0.020335.
    out : array, optional
        Where the result goes; it may be `x` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `x`; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays.
    ValueError
        `approximate` is none of the three.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: +inf gives +inf, -inf gives 0.

    Accuracy: at most LIMITS["gelu"] ULP of
    MAGNITUDE["gelu"].

    Source: kexue.fm/archives/7309; arXiv 1606.08415. 0.044715: Page 1977. 1.702: Bowling et al.
    2009.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.gelu([-8.5, 0.0, 1.0])
    array([-8.05760460e-17,  0.00000000e+00,  8.41344746e-01])
    """
    form = one_of("gelu", "approximate", approximate, ("none", "tanh", "sigmoid"))
    if form == "sigmoid":
        return _elementwise("gelu", "silu", x, out, backend, 1.702)
    kernel = "gelu_tanh" if form == "tanh" else "gelu"
    return _elementwise("gelu", kernel, x, out, backend)


def gelu_grad(
    x: Array,
    *,
    approximate: str = "none",
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """P(x) + x P'(x), the derivative of `gelu`.

    Elementwise, signature ``()->()``.

    Parameters
    ----------
    x, approximate, out, backend : see `gelu`

    Returns
    -------
    array
        The shape of `x`; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays.
    ValueError
        `approximate` is none of the three.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: +inf gives 1, -inf gives 0.

    Accuracy: at most LIMITS["gelu_grad"] ULP of
    MAGNITUDE["gelu_grad"].

    Source: kexue.fm/archives/7309; arXiv 1606.08415. 0.044715: Page 1977. 1.702: Bowling et al.
    2009.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.gelu_grad([-1.0, 0.0, 1.0])
    array([-0.08331547,  0.5       ,  1.08331547])
    """
    form = one_of("gelu_grad", "approximate", approximate, ("none", "tanh", "sigmoid"))
    if form == "sigmoid":
        return _elementwise("gelu_grad", "silu_grad", x, out, backend, 1.702)
    kernel = "gelu_tanh_grad" if form == "tanh" else "gelu_grad"
    return _elementwise("gelu_grad", kernel, x, out, backend)


def softplus(
    x: Array,
    beta: float = 1.0,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """log(1 + exp(beta x)) / beta, as max(x, 0) + log1p(exp(-beta |x|)) / beta.

    Elementwise, signature ``()->()``.

    Parameters
    ----------
    x : array of float64, float32, float16, bfloat16, integers or bool
        Any values. Integers and bool are computed in float64.
    beta : float
        Positive and finite.
    out : array, optional
        Where the result goes; it may be `x` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `x`; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays.
    ValueError
        `beta` outside its domain.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: +inf gives +inf, -inf gives 0. There is no threshold beyond which x itself is
    returned.

    Accuracy: at most LIMITS["softplus"] ULP of
    MAGNITUDE["softplus"].

    Source: kexue.fm/archives/8718 and 8833.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.softplus([-40.0, 0.0, 40.0])
    array([4.24835426e-18, 6.93147181e-01, 4.00000000e+01])
    """
    beta = as_real("softplus", "beta", beta, above=0.0)
    return _elementwise("softplus", "softplus", x, out, backend, beta)


def softplus_grad(
    x: Array,
    beta: float = 1.0,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """1 / (1 + exp(-beta x)), the derivative of `softplus`.

    Elementwise, signature ``()->()``.

    Parameters
    ----------
    x, beta, out, backend : see `softplus`

    Returns
    -------
    array
        The shape of `x`; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays.
    ValueError
        `beta` outside its domain.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: +inf gives 1, -inf gives 0.

    Accuracy: at most LIMITS["softplus_grad"] ULP of
    MAGNITUDE["softplus_grad"].

    Source: kexue.fm/archives/8718 and 8833.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.softplus_grad([-40.0, 0.0, 40.0])
    array([4.24835426e-18, 5.00000000e-01, 1.00000000e+00])
    """
    beta = as_real("softplus_grad", "beta", beta, above=0.0)
    return _elementwise("softplus_grad", "sigmoid", x, out, backend, beta)


def silu(
    x: Array,
    beta: float = 1.0,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """x / (1 + exp(-beta x)).

    Elementwise, signature ``()->()``.

    Parameters
    ----------
    x : array of float64, float32, float16, bfloat16, integers or bool
        Any values. Integers and bool are computed in float64.
    beta : float
        Positive and finite.
    out : array, optional
        Where the result goes; it may be `x` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `x`; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays.
    ValueError
        `beta` outside its domain.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: +inf gives +inf, -inf gives 0.

    Accuracy: at most LIMITS["silu"] ULP of
    MAGNITUDE["silu"].

    Source: kexue.fm/archives/8718 and 8833.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.silu([-float("inf"), 0.0, 1.0])
    array([-0.        ,  0.        ,  0.73105858])
    """
    beta = as_real("silu", "beta", beta, above=0.0)
    return _elementwise("silu", "silu", x, out, backend, beta)


def silu_grad(
    x: Array,
    beta: float = 1.0,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """s + beta x s (1 - s), s = 1 / (1 + exp(-beta x)): the derivative of `silu`.

    Elementwise, signature ``()->()``.

    Parameters
    ----------
    x, beta, out, backend : see `silu`

    Returns
    -------
    array
        The shape of `x`; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays.
    ValueError
        `beta` outside its domain.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: +inf gives 1, -inf gives 0.

    Accuracy: at most LIMITS["silu_grad"] ULP of
    MAGNITUDE["silu_grad"].

    Source: kexue.fm/archives/8718 and 8833.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.silu_grad([-float("inf"), 0.0, 1.0])
    array([-0.        ,  0.5       ,  0.92767051])
    """
    beta = as_real("silu_grad", "beta", beta, above=0.0)
    return _elementwise("silu_grad", "silu_grad", x, out, backend, beta)


def sigmoid(
    x: Array,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """1 / (1 + exp(-x)).

    Elementwise, signature ``()->()``.

    Parameters
    ----------
    x : array of float64, float32, float16, bfloat16, integers or bool
        Any values. Integers and bool are computed in float64.
    out : array, optional
        Where the result goes; it may be `x` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `x`; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: +inf gives 1, -inf gives 0.

    Accuracy: at most LIMITS["sigmoid"] ULP of
    MAGNITUDE["sigmoid"].

    Source: kexue.fm/archives/8718 and 8833.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.sigmoid([-700.0, 0.0, 700.0])
    array([9.85967654e-305, 5.00000000e-001, 1.00000000e+000])
    """
    return _elementwise("sigmoid", "sigmoid", x, out, backend, 1.0)


def sigmoid_grad(
    x: Array,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """sigma(x) sigma(-x), the derivative of `sigmoid`.

    Elementwise, signature ``()->()``.

    Parameters
    ----------
    x, out, backend : see `sigmoid`

    Returns
    -------
    array
        The shape of `x`; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: +inf and -inf give 0.

    Accuracy: at most LIMITS["sigmoid_grad"] ULP of
    MAGNITUDE["sigmoid_grad"].

    Source: kexue.fm/archives/8718 and 8833.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.sigmoid_grad([-40.0, 0.0, 40.0])
    array([4.24835426e-18, 2.50000000e-01, 4.24835426e-18])
    """
    return _elementwise("sigmoid_grad", "sigmoid_grad", x, out, backend)


def log_sigmoid(
    x: Array,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """-log(1 + exp(-x)), as min(x, 0) - log1p(exp(-|x|)).

    Elementwise, signature ``()->()``.

    Parameters
    ----------
    x, out, backend : see `sigmoid`

    Returns
    -------
    array
        The shape of `x`; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: +inf gives 0, -inf gives -inf.

    Accuracy: at most LIMITS["log_sigmoid"] ULP of
    MAGNITUDE["log_sigmoid"].

    Source: kexue.fm/archives/8718 and 8833.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.log_sigmoid([-1000.0, 0.0, 40.0])
    array([-1.00000000e+03, -6.93147181e-01, -4.24835426e-18])
    """
    return _elementwise("log_sigmoid", "log_sigmoid", x, out, backend)


def log_sigmoid_grad(
    x: Array,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """1 / (1 + exp(x)), the derivative of `log_sigmoid`.

    Elementwise, signature ``()->()``.

    Parameters
    ----------
    x, out, backend : see `sigmoid`

    Returns
    -------
    array
        The shape of `x`; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: +inf gives 0, -inf gives 1.

    Accuracy: at most LIMITS["log_sigmoid_grad"] ULP of
    MAGNITUDE["log_sigmoid_grad"].

    Source: kexue.fm/archives/8718 and 8833.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.log_sigmoid_grad([-40.0, 0.0, 40.0])
    array([1.00000000e+00, 5.00000000e-01, 4.24835426e-18])
    """
    return _elementwise("log_sigmoid_grad", "sigmoid", x, out, backend, -1.0)


def relu_gaussian(
    x: Array,
    sigma: float = 1.0,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """x P(x / sigma) + sigma P'(x / sigma): max(x, 0) smoothed by a normal distribution P.

    Elementwise, signature ``()->()``.

    Parameters
    ----------
    x : array of float64, float32, float16, bfloat16, integers or bool
        Any values. Integers and bool are computed in float64.
    sigma : float
        Width of the normal distribution; positive and finite.
    out : array, optional
        Where the result goes; it may be `x` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `x`; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays.
    ValueError
        `sigma` outside its domain.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: +inf gives +inf, -inf gives 0.

    Accuracy: at most LIMITS["relu_gaussian"] ULP of
    MAGNITUDE["relu_gaussian"].

    Source: kexue.fm/archives/8718.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.relu_gaussian([-10.0, 0.0, 10.0])
    array([7.47456025e-25, 3.98942280e-01, 1.00000000e+01])
    """
    sigma = as_real("relu_gaussian", "sigma", sigma, above=0.0)
    return _elementwise("relu_gaussian", "relu_gaussian", x, out, backend, sigma)


def relu_gaussian_grad(
    x: Array,
    sigma: float = 1.0,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """P(x / sigma), the derivative of `relu_gaussian`.

    Elementwise, signature ``()->()``.

    Parameters
    ----------
    x, sigma, out, backend : see `relu_gaussian`

    Returns
    -------
    array
        The shape of `x`; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays.
    ValueError
        `sigma` outside its domain.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: +inf gives 1, -inf gives 0.

    Accuracy: at most LIMITS["relu_gaussian_grad"] ULP of
    MAGNITUDE["relu_gaussian_grad"].

    Source: kexue.fm/archives/8718.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.relu_gaussian_grad([-10.0, 0.0, 10.0])
    array([7.61985302e-24, 5.00000000e-01, 1.00000000e+00])
    """
    sigma = as_real("relu_gaussian_grad", "sigma", sigma, above=0.0)
    return _elementwise("relu_gaussian_grad", "relu_gaussian_grad", x, out, backend, sigma)


def smooth_max2(
    x: Array,
    y: Array,
    b: float = 4.0,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """(x + y + sqrt((x - y)^2 + b)) / 2, as max(x, y) + squareplus(-|x - y|, b).

    Elementwise, signature ``(),()->()``.

    Parameters
    ----------
    x, y : arrays of float64, float32, float16, bfloat16, integers or bool
        Any values; the two broadcast together.
    b : float
        Not negative and finite; 0 gives max(x, y).
    out : array, optional
        Where the result goes; it may be `x` or `y` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of the two together; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays; NumPy mixed with CuPy.
    ValueError
        Shapes that do not fit; `b` outside its domain.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: a +inf gives +inf, a -inf the other argument.

    Accuracy: at most LIMITS["smooth_max2"] ULP of
    MAGNITUDE["smooth_max2"].

    Source: kexue.fm/archives/8833.

    Examples
    --------
    >>> import kexue_native as kn
    >>> float(kn.smooth_max2(1.0, 1.0))
    2.0
    >>> kn.smooth_max2([1e308, -1e308], [1e308, 1e308])
    array([1.e+308, 1.e+308])
    """
    b = as_real("smooth_max2", "b", b, at_least=0.0)
    call = normalise("smooth_max2", "(),()->()", None, out, x=x, y=y)
    kernels = choose("special.activations", call, backend)
    kernels.smooth_max2(*call.inputs, b, *call.outputs)
    return call.result()


def smooth_max2_grad(
    x: Array,
    y: Array,
    b: float = 4.0,
    *,
    out: tuple[Array, Array] | None = None,
    backend: str | None = None,
) -> Any:
    """(1 + d / h) / 2 and (1 - d / h) / 2, d = x - y, h = sqrt(d^2 + b): the two derivatives.

    Elementwise, signature ``(),()->(),()``.

    Parameters
    ----------
    x, y, b, backend : see `smooth_max2`
    out : tuple of two arrays, optional
        Where the results go.

    Returns
    -------
    tuple of two arrays
        The derivatives with respect to x and to y, each of the shape of the two together.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays; NumPy mixed with CuPy.
    ValueError
        Shapes that do not fit; `b` outside its domain.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: equal arguments, infinite ones too, give 1/2 each.

    Accuracy: at most LIMITS["smooth_max2_grad"] ULP of
    MAGNITUDE["smooth_max2_grad"].

    Source: kexue.fm/archives/8833.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.smooth_max2_grad(3.0, 0.0, b=16.0)
    (np.float64(0.8), np.float64(0.2))
    """
    b = as_real("smooth_max2_grad", "b", b, at_least=0.0)
    call = normalise("smooth_max2_grad", "(),()->(),()", None, out, x=x, y=y)
    kernels = choose("special.activations", call, backend)
    kernels.smooth_max2_grad(*call.inputs, b, *call.outputs)
    return call.result()


_METHODS = ("log2cosh", "softplus", "sqrt")


def _slope(name: str, k: float, method: str, b: float | None) -> float:
    """Of the logistic function that the method is made of."""
    form = one_of(name, "method", method, _METHODS)
    k = as_real(name, "k", k, above=0.0)
    if b is not None:
        raise ValueError(f'{name}: b must come with method "sqrt" alone, got {b!r}')
    return min(2 * k, _LARGEST) if form == "log2cosh" else k


def _radicand(name: str, k: float, b: float | None) -> float:
    """The b of "sqrt"."""
    k = as_real(name, "k", k, above=0.0)
    if b is None:
        return min((1 / k) * (1 / k), _LARGEST)
    return as_real(name, "b", b, at_least=0.0)


def smooth_abs(
    x: Array,
    k: float = 1.0,
    *,
    method: str = "log2cosh",
    b: float | None = None,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """|x| + 2 log(1 + exp(-s |x|)) / s with s = 2 k or k, or sqrt(x^2 + b).

    Elementwise, signature ``()->()``.

    Parameters
    ----------
    x : array of float64, float32, float16, bfloat16, integers or bool
        Any values. Integers and bool are computed in float64.
    k : float
        Sharpness, positive and finite.
    method : {"log2cosh", "softplus", "sqrt"}
        "log2cosh": log(exp(k x) + exp(-k x)) / k. "softplus": log(2 + exp(k x) + exp(-k x)) / k.
        "sqrt": sqrt(x^2 + b).
    b : float, optional
        For "sqrt" only; not negative and finite. Default: 1 / k^2, with the curvature of "log2cosh"
        at 0.
    out : array, optional
        Where the result goes; it may be `x` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `x`; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays.
    ValueError
        `method` is none of the three, `k` or `b` outside its domain, or `b` without "sqrt".
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: +inf and -inf give +inf.

    Accuracy: at most LIMITS["smooth_abs"] ULP of
    MAGNITUDE["smooth_abs"].

    Source: kexue.fm/archives/3290 and 8833.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.smooth_abs([-1000.0, 0.0, 3.0])
    array([1.00000000e+03, 6.93147181e-01, 3.00247569e+00])
    >>> float(kn.smooth_abs(3.0, method="sqrt", b=16.0))
    5.0
    """
    if one_of("smooth_abs", "method", method, _METHODS) == "sqrt":
        kernel, parameter = "smooth_abs_sqrt", _radicand("smooth_abs", k, b)
    else:
        kernel, parameter = "smooth_abs", _slope("smooth_abs", k, method, b)
    return _elementwise("smooth_abs", kernel, x, out, backend, parameter)


def smooth_abs_grad(
    x: Array,
    k: float = 1.0,
    *,
    method: str = "log2cosh",
    b: float | None = None,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """tanh(k x), tanh(k x / 2) or x / sqrt(x^2 + b), the derivative of `smooth_abs`.

    Elementwise, signature ``()->()``.

    Parameters
    ----------
    x, k, method, b, out, backend : see `smooth_abs`

    Returns
    -------
    array
        The shape of `x`; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays.
    ValueError
        `method` is none of the three, `k` or `b` outside its domain, or `b` without "sqrt".
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: +inf gives 1, -inf gives -1; "sqrt" with b = 0 gives 0 at 0.

    Accuracy: at most LIMITS["smooth_abs_grad"] ULP of
    MAGNITUDE["smooth_abs_grad"].

    Source: kexue.fm/archives/3290 and 8833.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.smooth_abs_grad([-1.0, 1e-300])
    array([-7.61594156e-001,  1.00000000e-300])
    """
    if one_of("smooth_abs_grad", "method", method, _METHODS) == "sqrt":
        kernel, parameter = "smooth_abs_sqrt_grad", _radicand("smooth_abs_grad", k, b)
    else:
        kernel, parameter = "smooth_abs_grad", _slope("smooth_abs_grad", k, method, b)
    return _elementwise("smooth_abs_grad", kernel, x, out, backend, parameter)


def smooth_floor(
    x: Array,
    t: float = 10.0,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """sum over n <= 0 of (sigma(t (x - n)) - 1) + sum over n >= 1 of sigma(t (x - n)).

    Elementwise, signature ``()->()``. For x + 1 it is 1 more.

    Parameters
    ----------
    x : array of float64, float32, float16, bfloat16, integers or bool
        Any values. Integers and bool are computed in float64.
    t : float
        Slope of the logistic steps, positive and finite; the stairs proper are the limit.
    out : array, optional
        Where the result goes; it may be `x` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `x`; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays.
    ValueError
        `t` outside its domain.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: an integer m gives m - 1/2; +inf and -inf stay.

    Accuracy: at most LIMITS["smooth_floor"] ULP of
    MAGNITUDE["smooth_floor"].

    Source: kexue.fm/archives/3290. The article truncates the series; this is all of it.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.smooth_floor([0.0, 0.5, 7.0])
    array([-0.5,  0. ,  6.5])
    """
    t = as_real("smooth_floor", "t", t, above=0.0)
    return _elementwise("smooth_floor", "smooth_stairs", x, out, backend, t, 0.0, -0.5)


def smooth_ceil(
    x: Array,
    t: float = 10.0,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """smooth_floor(x, t) + 1.

    Elementwise, signature ``()->()``.

    Parameters
    ----------
    x, t, out, backend : see `smooth_floor`

    Returns
    -------
    array
        The shape of `x`; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays.
    ValueError
        `t` outside its domain.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: an integer m gives m + 1/2; +inf and -inf stay.

    Accuracy: at most LIMITS["smooth_ceil"] ULP of
    MAGNITUDE["smooth_ceil"].

    Source: kexue.fm/archives/3290. The article truncates the series; this is all of it.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.smooth_ceil([0.0, 0.5, 7.0])
    array([0.5, 1. , 7.5])
    """
    t = as_real("smooth_ceil", "t", t, above=0.0)
    return _elementwise("smooth_ceil", "smooth_stairs", x, out, backend, t, 0.0, 0.5)


def smooth_round(
    x: Array,
    t: float = 10.0,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """smooth_floor(x + 1/2, t).

    Elementwise, signature ``()->()``.

    Parameters
    ----------
    x, t, out, backend : see `smooth_floor`

    Returns
    -------
    array
        The shape of `x`; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays.
    ValueError
        `t` outside its domain.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: an integer stays; +inf and -inf stay.

    Accuracy: at most LIMITS["smooth_round"] ULP of
    MAGNITUDE["smooth_round"].

    Source: kexue.fm/archives/3290. The article truncates the series; this is all of it.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.smooth_round([0.5, 0.75, 7.0])
    array([0.5      , 0.9246909, 7.       ])
    """
    t = as_real("smooth_round", "t", t, above=0.0)
    return _elementwise("smooth_round", "smooth_stairs", x, out, backend, t, 0.5, 0.5)


def smooth_floor_grad(
    x: Array,
    t: float = 10.0,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """sum over n of t sigma(t (x - n)) sigma(-t (x - n)), the derivative of `smooth_floor`.

    Elementwise, signature ``()->()``.

    Parameters
    ----------
    x, t, out, backend : see `smooth_floor`

    Returns
    -------
    array
        The shape of `x`; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays.
    ValueError
        `t` outside its domain.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: +inf and -inf give nan: there is no limit.

    Accuracy: at most LIMITS["smooth_floor_grad"] ULP of
    MAGNITUDE["smooth_floor_grad"].

    Source: kexue.fm/archives/3290. The article truncates the series; this is all of it.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.smooth_floor_grad([0.0, 0.5])
    array([2.50090796, 0.13296725])
    """
    t = as_real("smooth_floor_grad", "t", t, above=0.0)
    return _elementwise("smooth_floor_grad", "smooth_stairs_grad", x, out, backend, t, 0.0)


def smooth_ceil_grad(
    x: Array,
    t: float = 10.0,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """The derivative of `smooth_ceil`, which is that of `smooth_floor`.

    Elementwise, signature ``()->()``.

    Parameters
    ----------
    x, t, out, backend : see `smooth_floor`

    Returns
    -------
    array
        The shape of `x`; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays.
    ValueError
        `t` outside its domain.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: +inf and -inf give nan: there is no limit.

    Accuracy: at most LIMITS["smooth_ceil_grad"] ULP of
    MAGNITUDE["smooth_ceil_grad"].

    Source: kexue.fm/archives/3290. The article truncates the series; this is all of it.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.smooth_ceil_grad([0.0, 0.5])
    array([2.50090796, 0.13296725])
    """
    t = as_real("smooth_ceil_grad", "t", t, above=0.0)
    return _elementwise("smooth_ceil_grad", "smooth_stairs_grad", x, out, backend, t, 0.0)


def smooth_round_grad(
    x: Array,
    t: float = 10.0,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """The derivative of `smooth_round`: smooth_floor_grad(x + 1/2, t).

    Elementwise, signature ``()->()``.

    Parameters
    ----------
    x, t, out, backend : see `smooth_floor`

    Returns
    -------
    array
        The shape of `x`; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays.
    ValueError
        `t` outside its domain.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: +inf and -inf give nan: there is no limit.

    Accuracy: at most LIMITS["smooth_round_grad"] ULP of
    MAGNITUDE["smooth_round_grad"].

    Source: kexue.fm/archives/3290. The article truncates the series; this is all of it.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.smooth_round_grad([0.0, 0.5])
    array([0.13296725, 2.50090796])
    """
    t = as_real("smooth_round_grad", "t", t, above=0.0)
    return _elementwise("smooth_round_grad", "smooth_stairs_grad", x, out, backend, t, 0.5)


def taylor_exp(
    x: Array,
    n: int = 2,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """1 + x + ... + x^n / n!, positive for every x: n is even.

    Elementwise, signature ``()->()``.

    Parameters
    ----------
    x : array of float64, float32, float16, bfloat16, integers or bool
        Any values. Integers and bool are computed in float64.
    n : int
        Degree, even, from 2 to 64.
    out : array, optional
        Where the result goes; it may be `x` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `x`; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays.
    ValueError
        `n` outside its domain.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: +inf and -inf give +inf.

    Accuracy: at most LIMITS["taylor_exp"] ULP of
    MAGNITUDE["taylor_exp"].

    Source: kexue.fm/archives/7919; arXiv 1511.05042. Evaluated by a Gauss-Laguerre rule that is
    exact for it: no term is negative.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.taylor_exp([-2.0, 0.0, 2.0])
    array([1., 1., 5.])
    >>> bool(kn.taylor_exp(-12.0, 40) > 0)
    True
    """
    degree = as_degree("taylor_exp", n)
    return _elementwise("taylor_exp", "taylor_exp", x, out, backend, degree)


def taylor_exp_grad(
    x: Array,
    n: int = 2,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """1 + x + ... + x^(n - 1) / (n - 1)!, the derivative of `taylor_exp`.

    Elementwise, signature ``()->()``.

    Parameters
    ----------
    x, n, out, backend : see `taylor_exp`

    Returns
    -------
    array
        The shape of `x`; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays.
    ValueError
        `n` outside its domain.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: +inf gives +inf, -inf gives -inf.

    Accuracy: at most LIMITS["taylor_exp_grad"] ULP of
    MAGNITUDE["taylor_exp_grad"].

    Source: kexue.fm/archives/7919; arXiv 1511.05042.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.taylor_exp_grad([-2.0, 0.0, 2.0]).round(12)
    array([-1.,  1.,  3.])
    """
    degree = as_degree("taylor_exp_grad", n)
    return _elementwise("taylor_exp_grad", "taylor_exp_grad", x, out, backend, degree)


fill_in(value for name in __all__ if callable(value := globals()[name]))
