"""Entries of cases.py for exponentiated gradient and the simplex."""

import numpy as np

from cases import Case, finite, per_unit
from kexue_native.optim.eg import reference as eg
from kexue_native.optim.simplex import reference as simplex
from kexue_native.optim.stepsize import reference as stepsize

# Rates, masses and shares that every type has.
RATES = ({"lr": 0.75}, {"lr": 4.0}, {"lr": 0.0}, {"lr": -0.5})
STEPS = (
    *({"mass": 2.5}, {"mix": 0.125}, {"mass": "keep"}, {"lr": 4.0}, {"lr": -0.5}, {"lr": 0.0}),
    {"lr": 0.75, "mass": 0.0},
)


def weights(rng, shape, _):
    """Positive over some decades, and zeros."""
    return np.where(rng.random(shape) < 0.1, 0.0, 10.0 ** rng.uniform(-3, 2, shape))


def slopes(rng, shape, _):
    """Gradients of one magnitude a row."""
    size = 10.0 ** rng.uniform(-2, 1.5, (*shape[:-1], 1)) if shape else 1.0
    return size * rng.standard_normal(shape)


def points(rng, shape, _):
    """About a point of the simplex, and zeros."""
    p = np.where(rng.random(shape) < 0.2, 0.0, rng.random(shape))
    return p / np.maximum(p.sum(axis=-1, keepdims=True), 1e-3) if shape else p


FILLS = {"w": weights, "wp": weights, "wm": weights, "g": slopes, "p": points}


def rate(k):
    return np.asarray(k.get("lr", 0.75))


# --- From public arguments to kernel arguments ---


def lower_egu(k):
    return eg.egu_step, (k["w"], k["g"], k["lr"]), (k.get("signed", False),)


def lower_egu_pm(k):
    return eg.egu_pm_step, (k["wp"], k["wm"], k["g"], k["lr"]), ()


def lower_hypentropy(k):
    return eg.hypentropy_step, (k["w"], k["g"], k["lr"]), (k["beta"],)


def lower_step(k):
    mass = k.get("mass", 1.0)
    keep = isinstance(mass, str)
    parameters = np.asarray(1.0 if keep else mass), k.get("mix", 0.0), keep
    return eg.eg_step, (k["w"], k["g"], rate(k)), parameters


def lower_log(k):
    return eg.eg_step_log, (k["logw"], k["g"], rate(k)), ()


def lower_pm(k):
    parameters = np.asarray(k.get("mass", 2.0)), k.get("kw_scale", False)
    return eg.eg_pm_step, (k["wp"], k["wm"], k["g"], rate(k)), parameters


def lower_gain(k):
    arrays = k["theta"], k["g"], k["g_prev"], k["gain"]
    return stepsize.eg_gain_step, arrays, (k["lr"], k["gamma"])


def lower_project(k):
    return simplex.project_simplex, (k["v"], np.asarray(k.get("mass", 1.0))), ()


def lower_pair(name, *parameters):
    def lower(k):
        arrays = k["p"], k["q"] if "q" in k else k["g"]
        return getattr(simplex, name), arrays, tuple(k.get(p) for p in parameters)

    return lower


def lower_kl(k):
    return simplex.bregman_kl, (k["p"], k["q"]), (k.get("unnormalized", False),)


# --- Magnitudes ---


def scale_hypentropy(k, out):
    """The larger of the two terms."""
    b = np.where(k["w"] < 0, -1, 1) * k["lr"] * k["g"]
    size, beta = np.abs(k["w"]), k["beta"]
    delta = beta**2 / (size + np.hypot(size, beta))
    return ((np.maximum(size * np.exp(-b), np.abs(delta * np.sinh(b))), 0.0),)


def gaps(value, k, lr):
    """lr |g_i - g_k| with k the largest entry of `value`."""
    if value.shape[-1] == 0:
        return value
    best = np.argmax(np.where(value == value, value, -np.inf), axis=-1)[..., None]
    return finite(lr * (k["g"] - np.take_along_axis(k["g"], best, axis=-1)))


def scale_log(k, out):
    if k["g"].shape[-1] == 0:
        return ((0.0, 0.0),)
    best = np.argmax(np.where(out[0] == out[0], out[0], -np.inf), axis=-1)[..., None]
    apart = k["logw"] - np.take_along_axis(k["logw"], best, axis=-1)
    return ((np.maximum(finite(apart), gaps(out[0], k, rate(k))), 0.0),)


def scale_pm(k, out):
    if not k.get("kw_scale"):
        return ((0.0, 0.0),) * 2
    size = 2 * np.abs(rate(k) * k.get("mass", 2.0)) * np.abs(k["g"]).max(axis=-1, initial=0)
    growth = per_unit(k, finite(size)[..., None])
    return ((0.0, growth),) * 2


def scale_gain(k, out):
    a = per_unit(k, 2 * finite(k["gamma"] * k["g_prev"] * k["g"]))
    step = np.abs(k["lr"] * out[1] * k["g"])
    return ((np.maximum(np.abs(k["theta"]), step), a), (0.0, a))


def scale_project(k, out):
    """4 u of the mass, and 1e-14 of the result."""
    mass = k.get("mass", 1.0)
    growth = per_unit(k, 1e-14 * 2.0**53 * np.abs(np.nan_to_num(out[0])) / max(mass, 1e-300))
    return ((mass, growth),)


def scale_project_vjp(k, out):
    support = k["p"] > 0
    total = np.where(support, np.abs(k["g"]), 0).sum(axis=-1, keepdims=True)
    mean = total / np.maximum(support.sum(axis=-1, keepdims=True), 1)
    return ((np.maximum(np.abs(k["g"]), mean) * support, 0.0),)


def scale_pullback(k, out):
    terms = np.where(k["p"] == 0, 0, np.abs(k["p"] * k["g"]))
    size = np.abs(k["p"]) * (np.abs(k["g"]) + terms.sum(axis=-1, keepdims=True))
    return ((size, 0.0),)


def scale_kl(k, out):
    with np.errstate(all="ignore"):
        terms = np.abs(k["p"] * np.log(k["p"] / k["q"]))
    return ((np.nan_to_num(terms, posinf=0).sum(axis=-1) * (not k.get("unnormalized")), 0.0),)


def row(function, lower, arrays, outputs, scale=None, id=None, **options):
    options = {"mask": False, "fill": FILLS, "permutes": "follows", **options}
    cores = ("n",) * len(arrays.split())
    return Case(
        id or function, function, tuple(arrays.split()), cores, outputs, lower, scale, **options
    )


def element(function, lower, arrays, outputs=("n",), scale=None, id=None, **options):
    return row(function, lower, arrays, outputs, scale, id, elementwise=True, **options)


CASES = (
    element("egu_step", lower_egu, "w g lr", loose=("g",)),
    element(
        "egu_step",
        lower_egu,
        "w g lr",
        id="egu_step-signed",
        fixed={"signed": True},
        fill={"g": slopes},
        loose=("g",),
    ),
    element("egu_pm_step", lower_egu_pm, "wp wm g lr", ("n", "n"), loose=("g",)),
    element(
        "hypentropy_step",
        lower_hypentropy,
        "w g lr",
        ("n",),
        scale_hypentropy,
        fixed={"beta": 0.5},
        variants=({}, {"beta": 2.0**-30}, {"beta": 1e6}),
        fill={"g": slopes},
        loose=("g",),
    ),
    row("eg_step", lower_step, "w g", ("n",), fixed={"lr": 0.75}, variants=STEPS, loose=("g",)),
    row(
        "eg_step_log",
        lower_log,
        "logw g",
        ("n",),
        scale_log,
        fixed={"lr": 0.75},
        variants=RATES,
        loose=("g",),
        shift="still",
    ),
    row(
        "eg_pm_step",
        lower_pm,
        "wp wm g",
        ("n", "n"),
        scale_pm,
        fixed={"lr": 0.75, "mass": 2.0},
        variants=(*RATES, {"kw_scale": True}, {"mass": 0.75, "kw_scale": True}),
        loose=("g",),
    ),
    element(
        "eg_gain_step",
        lower_gain,
        "theta g g_prev gain",
        ("n", "n"),
        scale_gain,
        fixed={"lr": 0.1, "gamma": 0.3},
        fill={"gain": weights},
        loose=("g",),
    ),
    row(
        "project_simplex",
        lower_project,
        "v",
        ("n",),
        scale_project,
        variants=({}, {"mass": 20.0}, {"mass": 2.0**-10}),
        shift="still",
    ),
    row("project_simplex_vjp", lower_pair("project_simplex_vjp"), "p g", ("n",), scale_project_vjp),
    row(
        "frank_wolfe_step",
        lower_pair("frank_wolfe_step", "lr"),
        "p g",
        ("n",),
        fixed={"lr": 0.25},
        variants=({}, {"lr": 0.0}, {"lr": 1.0}, {"lr": 0.3}),
        loose=("g",),
    ),
    row(
        "simplex_gap",
        lower_pair("simplex_gap"),
        "p g",
        ("",),
        permutes="still",
        empty=0.0,
        loose=("g",),
    ),
    row(
        "softmax_pullback",
        lower_pair("softmax_pullback"),
        "p g",
        ("n",),
        scale_pullback,
        loose=("g",),
    ),
    row(
        "bregman_kl",
        lower_kl,
        "p q",
        ("",),
        scale_kl,
        variants=({}, {"unnormalized": True}),
        fill={"p": points, "q": lambda *a: points(*a) + 1e-3},
        permutes="still",
        empty=0.0,
    ),
)

SIGNATURES = {
    "egu_step": "w g lr * signed=False check=False",
    "egu_pm_step": "wp wm g lr * check=False",
    "hypentropy_step": "w g lr * beta",
    "eg_step": "w g lr * axis=-1 mass=1.0 mix=0.0 check=False",
    "eg_step_log": "logw g lr * axis=-1",
    "eg_pm_step": "wp wm g lr * mass axis=-1 kw_scale=False check=False",
    "eg_pm_init": "w * mass axis=-1",
    "eg_step_vjp": "v w g lr * axis=-1 mass=1.0",
    "eg_learning_rate": "n T * grad_range=1.0",
    "eg_regret_bound": "n T lr * grad_range=1.0",
    "hedge": "losses lr * w0=None",
    "portfolio_eg": "relatives * lr=0.05 w0=None",
    "eg_stepsize_init": "theta *",
    "eg_stepsize_step": (
        "theta g state * lr momentum=0.9 beta=0.9 lr_gain=0.01 lr_scale=0.001 gain_mode=sign "
        "scale_mode=direction gain_bounds=(0.01,100.0) scale_bounds=(0.1,10.0) eps=1e-10 "
        "nonfinite=propagate inplace=False"
    ),
    "eg_gain_step": "theta g g_prev gain * lr gamma",
    "global_norm": "arrays *",
    "clip_by_global_norm": "arrays max_norm * form=hard nonfinite=propagate",
    "lr_clip": "norm L0 L1 *",
    "project_simplex": "v * axis=-1 mass=1.0",
    "project_simplex_vjp": "p g * axis=-1",
    "frank_wolfe_step": "p g lr * axis=-1",
    "simplex_gap": "p g * axis=-1",
    "softmax_pullback": "p g * axis=-1",
    "bregman_kl": "p q * axis=-1 unnormalized=False",
}
# Numbers in, a number or a state out.
NUMBERS = ("eg_learning_rate", "eg_regret_bound", "lr_clip", "eg_stepsize_init")
OTHERS = (
    *NUMBERS,
    *("eg_pm_init", "eg_step_vjp", "eg_stepsize_step", "hedge", "portfolio_eg"),
    *("global_norm", "clip_by_global_norm"),
)
