"""Entries of cases.py for the elementwise functions: parameters, kernels, magnitudes of an ULP."""

import numpy as np

import oracle
from cases import Case
from kexue_native.special.activations import reference

B = ({}, {"b": 0.0}, {"b": 1e-40}, {"b": 30.0})
BETA = ({}, {"beta": 0.3}, {"beta": 40.0})
SIGMA = ({}, {"sigma": 0.3}, {"sigma": 40.0})
FORMS = ({}, {"approximate": "tanh"}, {"approximate": "sigmoid"})
SLOPES = ({}, {"t": 1.5}, {"t": 30.0}, {"t": 1e-3}, {"t": 500.0})
DEGREES = ({}, {"n": 4}, {"n": 10}, {"n": 20})
ABSOLUTES = (
    *({}, {"k": 3.0}, {"method": "softplus", "k": 0.3}),
    *({"method": "sqrt"}, {"method": "sqrt", "b": 30.0}),
)


def kernel(name, *parameters):
    """The kernel `name` on x; parameters are numbers, or names with their defaults."""

    def lower(k):
        values = (k.get(*p) if isinstance(p, tuple) else p for p in parameters)
        return getattr(reference, name), (k["x"],), tuple(values)

    return lower


def lower_max2(name):
    return lambda k: (getattr(reference, name), (k["x"], k["y"]), (k.get("b", 4.0),))


def lower_gelu(suffix):
    def lower(k):
        form = k.get("approximate", "none")
        if form == "sigmoid":
            return getattr(reference, f"silu{suffix}"), (k["x"],), (1.702,)
        name = "gelu" if form == "none" else "gelu_tanh"
        return getattr(reference, name + suffix), (k["x"],), ()

    return lower


def lower_abs(suffix):
    def lower(k):
        sharpness, method = k.get("k", 1.0), k.get("method", "log2cosh")
        if method == "sqrt":
            b = k.get("b", 1 / sharpness**2)
            return getattr(reference, f"smooth_abs_sqrt{suffix}"), (k["x"],), (b,)
        slope = sharpness * (2 if method == "log2cosh" else 1)
        return getattr(reference, f"smooth_abs{suffix}"), (k["x"],), (slope,)

    return lower


# --- Magnitudes ---


def faint(k, exponent, factor=1.0):
    """How far the reference's e^-|exponent| is off where it is subnormal, times a factor."""
    if not k["plain"] or oracle.name_of(k["dtype"]) != "float64":
        return 0.0
    return np.where(np.exp(-np.abs(exponent)) < k["least"], np.abs(factor), 0)


def rounded(k, exponent, factor=1.0):
    """The same where the exponent itself is a rounded number."""
    far = np.abs(exponent) if k["plain"] and oracle.name_of(k["dtype"]) == "float64" else 0.0
    return faint(k, exponent, factor) + far


def decaying(rate, factor=lambda k: 1.0):
    """Magnitude: the result itself, of order e^-|rate x|."""
    return lambda k, out: ((0.0, rounded(k, rate(k) * k["x"], factor(k))),)


def beta(k):
    return k.get("beta", 1.0)


ROUNDINGS = 4  # of the reference's 2 u


def two_u(x):
    return 2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)


def scale_silu_grad(k, out):
    """The larger of the two terms that are added."""
    z = beta(k) * k["x"]
    s, left = reference.sigmoid(z, 1.0), reference.sigmoid(-z, 1.0)
    terms = np.maximum(s, np.where(s == 0, 0, np.abs(z) * s * left))
    return ((terms, rounded(k, z, z)),)


def scale_gelu(k, out):
    form, x = k.get("approximate", "none"), k["x"]
    if form == "none":
        return ((0.0, 0.0),)
    if form == "sigmoid":
        return ((0.0, rounded(k, 1.702 * x, x)),)
    return ((0.0, ROUNDINGS * rounded(k, two_u(x), x)),)


def scale_gelu_grad(k, out):
    form, x = k.get("approximate", "none"), k["x"]
    if form == "none":
        share = reference.relu_gaussian_grad(x, 1.0)
        return ((np.maximum(share, np.abs(out[0] - share)), faint(k, x * x / 2, x)),)
    z = two_u(x) if form == "tanh" else 1.702 * x
    slope = 2 * np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * x**2) if form == "tanh" else 1.702
    s, left = reference.sigmoid(z, 1.0), reference.sigmoid(-z, 1.0)
    growth = ROUNDINGS * rounded(k, z, x * slope * left)
    return ((np.maximum(s, np.abs(out[0] - s)), growth),)


def scale_relu_gaussian(k, out):
    """The reference rounds x / sigma, which is then squared."""
    z = k["x"] / k.get("sigma", 1.0)
    return ((0.0, 2 * rounded(k, z * z / 2)),)


def scale_max2(k, out):
    return ((np.maximum(np.abs(k["x"]), np.abs(k["y"])), 0.0),)


def scale_stairs(k, out):
    return ((np.maximum(1, np.abs(k["x"])), 0.0),)


def scale_stairs_grad(k, out):
    t = k.get("t", 10.0)
    return ((max(1, t / 4), t if k["plain"] else 0.0),)


def degree(k):
    """Powers of a rounded number."""
    return 2 * k.get("n", 2) if oracle.name_of(k["dtype"]) == "float64" else 0


def scale_taylor(k, out):
    return ((0.0, degree(k)),)


def scale_taylor_grad(k, out):
    """The terms of the quadrature: f_n and x^n / n!, whose difference the slope is."""
    terms = reference.taylor_exp(np.abs(k["x"]), k.get("n", 2))
    return ((terms, degree(k)),)


# --- The functions ---


def entry(function, lower, scale=None, variants=({},), arrays=("x",), outputs=1):
    return Case(
        function,
        function,
        arrays,
        ("n",) * len(arrays),
        ("n",) * outputs,
        lower,
        scale,
        variants=variants,
        mask=False,
        elementwise=True,
    )


b, rate, sigma = ("b", 4.0), ("beta", 1.0), ("sigma", 1.0)
slope, power = ("t", 10.0), ("n", 2)

CASES = (
    entry("squareplus", kernel("squareplus", b), None, B),
    entry("squareplus_grad", kernel("squareplus_grad", b), None, B),
    entry("squareplus_grad_b", kernel("squareplus_grad_b", b), None, B),
    entry("smooth_max2", lower_max2("smooth_max2"), scale_max2, B, ("x", "y")),
    entry("smooth_max2_grad", lower_max2("smooth_max2_grad"), None, B, ("x", "y"), 2),
    entry("smooth_abs", lower_abs(""), None, ABSOLUTES),
    entry("smooth_abs_grad", lower_abs("_grad"), None, ABSOLUTES),
    entry("gelu", lower_gelu(""), scale_gelu, FORMS),
    entry("gelu_grad", lower_gelu("_grad"), scale_gelu_grad, FORMS),
    entry("softplus", kernel("softplus", rate), decaying(beta, lambda k: 1 / beta(k)), BETA),
    entry("softplus_grad", kernel("sigmoid", rate), decaying(beta), BETA),
    entry("silu", kernel("silu", rate), decaying(beta, lambda k: k["x"]), BETA),
    entry("silu_grad", kernel("silu_grad", rate), scale_silu_grad, BETA),
    entry("sigmoid", kernel("sigmoid", 1.0)),
    entry("sigmoid_grad", kernel("sigmoid_grad")),
    entry("log_sigmoid", kernel("log_sigmoid")),
    entry("log_sigmoid_grad", kernel("sigmoid", -1.0)),
    entry("relu_gaussian", kernel("relu_gaussian", sigma), scale_relu_gaussian, SIGMA),
    entry("relu_gaussian_grad", kernel("relu_gaussian_grad", sigma), scale_relu_gaussian, SIGMA),
    entry("smooth_floor", kernel("smooth_stairs", slope, 0.0, -0.5), scale_stairs, SLOPES),
    entry("smooth_ceil", kernel("smooth_stairs", slope, 0.0, 0.5), scale_stairs, SLOPES),
    entry("smooth_round", kernel("smooth_stairs", slope, 0.5, 0.5), scale_stairs, SLOPES),
    entry("smooth_floor_grad", kernel("smooth_stairs_grad", slope, 0.0), scale_stairs_grad, SLOPES),
    entry("smooth_ceil_grad", kernel("smooth_stairs_grad", slope, 0.0), scale_stairs_grad, SLOPES),
    entry("smooth_round_grad", kernel("smooth_stairs_grad", slope, 0.5), scale_stairs_grad, SLOPES),
    entry("taylor_exp", kernel("taylor_exp", power), scale_taylor, DEGREES),
    entry("taylor_exp_grad", kernel("taylor_exp_grad", power), scale_taylor_grad, DEGREES),
)

SIGNATURES = {
    "squareplus": "x b=4.0 *",
    "squareplus_grad": "x b=4.0 *",
    "squareplus_grad_b": "x b=4.0 *",
    "smooth_max2": "x y b=4.0 *",
    "smooth_max2_grad": "x y b=4.0 *",
    "smooth_abs": "x k=1.0 * method=log2cosh b=None",
    "smooth_abs_grad": "x k=1.0 * method=log2cosh b=None",
    "gelu": "x * approximate=none",
    "gelu_grad": "x * approximate=none",
    "softplus": "x beta=1.0 *",
    "softplus_grad": "x beta=1.0 *",
    "silu": "x beta=1.0 *",
    "silu_grad": "x beta=1.0 *",
    "sigmoid": "x *",
    "sigmoid_grad": "x *",
    "log_sigmoid": "x *",
    "log_sigmoid_grad": "x *",
    "relu_gaussian": "x sigma=1.0 *",
    "relu_gaussian_grad": "x sigma=1.0 *",
    "smooth_floor": "x t=10.0 *",
    "smooth_ceil": "x t=10.0 *",
    "smooth_round": "x t=10.0 *",
    "smooth_floor_grad": "x t=10.0 *",
    "smooth_ceil_grad": "x t=10.0 *",
    "smooth_round_grad": "x t=10.0 *",
    "taylor_exp": "x n=2 *",
    "taylor_exp_grad": "x n=2 *",
}
