"""Exponentiated gradient, step sizes, clipping, and optimising over the simplex."""

from .clipping import *
from .eg import *
from .online import *
from .simplex import *
from .stepsize import *

# Written out, since type checkers do not follow a sum of lists.
__all__ = [
    "Portfolio",
    "StepsizeState",
    "bregman_kl",
    "clip_by_global_norm",
    "eg_gain_step",
    "eg_learning_rate",
    "eg_pm_init",
    "eg_pm_step",
    "eg_regret_bound",
    "eg_step",
    "eg_step_log",
    "eg_step_vjp",
    "eg_stepsize_init",
    "eg_stepsize_step",
    "egu_pm_step",
    "egu_step",
    "frank_wolfe_step",
    "global_norm",
    "hedge",
    "hypentropy_step",
    "lr_clip",
    "portfolio_eg",
    "project_simplex",
    "project_simplex_vjp",
    "simplex_gap",
    "softmax_pullback",
]
