"""The stated accuracy, in one place: docstrings show these figures and tests hold the code to them.

A figure is the largest error in units in the last place (ULP) of the result's type, against the
exact value for the given inputs. `MAGNITUDE` says of which number the ULP is taken,
and which further ULP are allowed for terms far below the largest, k.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ._arrays import Array


def _figures(float64: int, float32: int = 1, narrow: int = 1) -> dict[str, int]:
    return {"float64": float64, "float32": float32, "float16": narrow, "bfloat16": narrow}


# Measured over random rows of the kinds of tests/samples.py, every backend, and rounded up.
LIMITS: dict[str, dict[str, int]] = {
    "logsumexp": _figures(3),
    "logsumexp_vjp": _figures(6, 2),
    "logmeanexp": _figures(8),
    "logmeanexp_vjp": _figures(8),
    "softmax": _figures(4),
    "softmax_vjp": _figures(9),
    "log_softmax": _figures(4),
    "log_softmax_vjp": _figures(6, 2),
    "logsumexp_softmax": _figures(4),
    "softmax_entropy": _figures(4),
    "softmax_entropy_vjp": _figures(6),
    "entropy_invariant_scale": _figures(4),
    "entropy_invariant_softmax": _figures(8),
    "entropy_invariant_softmax_vjp": _figures(9),
    "logsumexp_bounds": _figures(8),
    "logsumexp_lipschitz": _figures(4),
    "logsumexp_jensen_gap": _figures(8),
    # Shares in a sum, of which each addition may lose half a unit: some 15 for n = 1000.
    # float32's largest is that of the Hessian: exponentials for both parts at once, few terms added
    # as they are.
    "multilabel_crossentropy": _figures(11, 7),
    "multilabel_probability": _figures(3),
    "squareplus": _figures(3, 3),
    "squareplus_grad": _figures(5, 5),
    "squareplus_grad_b": _figures(3, 2),
    "gelu": _figures(5, 6),
    "gelu_grad": _figures(6, 5),
    "softplus": _figures(5, 5),
    "softplus_grad": _figures(3, 3),
    "silu": _figures(4, 4),
    "silu_grad": _figures(5, 6),
    "sigmoid": _figures(3, 3),
    "sigmoid_grad": _figures(4, 4),
    "log_sigmoid": _figures(4, 4),
    "log_sigmoid_grad": _figures(3, 3),
    "relu_gaussian": _figures(8, 8),
    "relu_gaussian_grad": _figures(6, 5),
    "smooth_max2": _figures(4, 4),
    "smooth_max2_grad": _figures(5, 6),  # squareplus_grad at a rounded x - y, nearly squared
    "smooth_abs": _figures(4, 4),
    "smooth_abs_grad": _figures(4, 3),
    "smooth_floor": _figures(2),
    "smooth_ceil": _figures(2),
    "smooth_round": _figures(2),
    "smooth_floor_grad": _figures(4),
    "smooth_ceil_grad": _figures(4),
    "smooth_round_grad": _figures(4),
    "taylor_exp": _figures(6),
    "taylor_exp_grad": _figures(2),
    "smooth_max": _figures(9),
    "smooth_max_vjp": _figures(6),
    "soft_argmax": _figures(6),
    "soft_argmax_vjp": _figures(8),
    "soft_onehot": _figures(4),
    "soft_onehot_vjp": _figures(7),
    "soft_kmax": _figures(8),
    "soft_kmax_vjp": _figures(6),
    # Powers (c (x + t))^n: the roundings of x + t, of c and of their product count n times each, a
    # half to a whole ULP; beyond 2 n for them 17.8 are left at n = 20, at most 5.9 up to n = 6.
    "taylor_softmax": _figures(18),
    "taylor_softmax_vjp": _figures(2),
    "argmax_distribution": _figures(8),
    "argmax_distribution_vjp": _figures(10),
    "gumbel_noise": _figures(1),
    "gumbel_softmax": _figures(4),
    "gumbel_softmax_vjp": _figures(4),
    "kl_divergence": _figures(24),
    "symmetric_kl": _figures(16),
    "softmax_crossentropy": _figures(6),
    "sigmoid_crossentropy": _figures(6),
    # Of sums of products over features and keys, computed in the type itself.
    "softmax_attention": _figures(4, 4),
    "softmax_attention_vjp": _figures(12, 12),
    "linear_attention": _figures(4, 4),
    "linear_attention_vjp": _figures(6, 6),
    "favor_attention": _figures(6, 6),
    "favor_attention_vjp": _figures(14, 14),
    "pairwise_rank_loss": _figures(6),
    "subset_crossentropy": _figures(10),
    "multiclass_multilabel_loss": _figures(7),
    "smooth_accuracy": _figures(3),
    "smooth_fbeta": _figures(8),
    "smooth_precision": _figures(8),
    "smooth_recall": _figures(5),
    "flooding": _figures(1),
    "negative_cosine": _figures(8),
    "simsiam_loss": _figures(8),
    "egu_step": _figures(4, 2),
    "egu_pm_step": _figures(4, 2),
    "hypentropy_step": _figures(8),
    "eg_step": _figures(6),
    "eg_step_log": _figures(6),
    "eg_pm_step": _figures(7),
    "eg_pm_init": _figures(4),
    "eg_step_vjp": _figures(12),
    "hedge": _figures(6),
    "portfolio_eg": _figures(8),
    "eg_stepsize_step": _figures(8, 2),
    "eg_gain_step": _figures(6),
    "global_norm": _figures(8, 8, 8),
    "clip_by_global_norm": _figures(8),
    "project_simplex": _figures(8),
    "project_simplex_vjp": _figures(4),
    "frank_wolfe_step": _figures(2),
    "simplex_gap": _figures(6),
    "softmax_pullback": _figures(6),
    "bregman_kl": _figures(8),
}
# With weights of both signs the error bound of the specification holds instead:
# 8 u (|a_k + log|b_k|| + |result|) + 4 u sum|b exp(a)| / |S|.

# ULP by which an error of the entropy-invariant functions may grow per unit of
# |lambda (x_i - max)|. In float64 lambda itself is rounded: over 2e6 random base, dim and n it was
# off by at most 4.5 u, and u of a number is below one ULP; the difference and its product with
# lambda are exact. Narrower types compute it in float64 and need none.
SCALE_GROWTH = _figures(5)

_GROWTH = f"{SCALE_GROWTH['float64']} |lambda (x_i - max)| ULP (1 in narrower types)"

# What one ULP is one ULP of. A result that is a sum or difference is measured by its terms.
MAGNITUDE: dict[str, str] = {
    "logsumexp": "max(|result|, |the largest a_i + log b_i|)",
    "logsumexp_vjp": "the result and |a_i - max| ULP",
    "logmeanexp": "max(|result|, |max a|)",
    "logmeanexp_vjp": "the result and |a_i - max| ULP",
    "softmax": "the result, and for entries below e^-30 of the largest |x_i - max| ULP",
    "softmax_vjp": (
        "|scale| p_i (|h_i| + sum p |h|), h = g - g_k, and below e^-30 |scale (x_i - max)| ULP"
    ),
    "log_softmax": "the result, entry by entry, the winner's included",
    "log_softmax_vjp": "|g_i| + p_i sum |g|",
    "logsumexp_softmax": "what `logsumexp` and `softmax` state",
    "softmax_entropy": "the result",
    "softmax_entropy_vjp": (
        "|g scale| p_i (|d_i| + sum p |d|), d = scale (x - max), and below e^-30 |d_i| ULP"
    ),
    "entropy_invariant_scale": "the result",
    "entropy_invariant_softmax": f"the result and {_GROWTH}",
    "entropy_invariant_softmax_vjp": f"the terms of `softmax_vjp` and {_GROWTH}",
    "logsumexp_bounds": "max |x| + tau log n",
    "logsumexp_lipschitz": "|lse x| + |lse y|",
    "logsumexp_jensen_gap": "sum w |lse x| + |lse of the mean|",
    "multilabel_crossentropy": (
        "the loss; for gradient and Hessian max(n_i, p_i), the shares of a class in its parts, and "
        "|u_i| ULP for shares below e^-30"
    ),
    "multilabel_probability": "the result",
    "squareplus": "the result",
    "squareplus_grad": "the result",
    "squareplus_grad_b": "the result",
    "gelu": "the result",
    "gelu_grad": "max(P(x), |x| P'(x))",
    "softplus": "the result",
    "softplus_grad": "the result",
    "silu": "the result",
    "silu_grad": "max(s, |beta x| s (1 - s))",
    "sigmoid": "the result",
    "sigmoid_grad": "the result",
    "log_sigmoid": "the result",
    "log_sigmoid_grad": "the result",
    "relu_gaussian": "the result",
    "relu_gaussian_grad": "the result",
    "smooth_max2": "max(|x|, |y|, |result|)",
    "smooth_max2_grad": "the result",
    "smooth_abs": "the result",
    "smooth_abs_grad": "the result",
    "smooth_floor": "max(1, |x|)",
    "smooth_ceil": "max(1, |x|)",
    "smooth_round": "max(1, |x|)",
    "smooth_floor_grad": "max(1, t / 4)",
    "smooth_ceil_grad": "max(1, t / 4)",
    "smooth_round_grad": "max(1, t / 4)",
    "taylor_exp": "the result and 2 n ULP",
    "taylor_exp_grad": "the terms of the quadrature and 2 n ULP",
    "smooth_max": "max(|result|, |m|), m the largest x, the smallest for k < 0",
    "smooth_max_vjp": (
        "the result, for the mean |g| p_i (1 + |d_i| + sum p |d|), d = k (x - m), and below e^-30 "
        "|d_i| ULP"
    ),
    "soft_argmax": "max(|start|, sum i p_i)",
    "soft_argmax_vjp": "the terms of `soft_onehot_vjp` for g_i = i",
    "soft_onehot": "the result and below e^-30 |k (x_i - m)| ULP",
    "soft_onehot_vjp": (
        "|k| p_i (|h_i| + sum p |h|), h = g - g_m, and below e^-30 |k (x_i - m)| ULP"
    ),
    "soft_kmax": "the largest entry of the slice, for k = 3 and normal values",
    "soft_kmax_vjp": "the sum of |entries| of the slice, which the minimum's takes from all others",
    "gumbel_noise": "max(|result|, 1)",
    "taylor_softmax": "the result and in float64 2 n ULP",
    "taylor_softmax_vjp": (
        "(f_i + |f'_i|) / (sum f) (|h_i| + sum p |h|), h = g - g_m, and in float64 2 n ULP"
    ),
    "argmax_distribution": (
        "the result and in float64 2 |log p_i| ULP, for Gumbel noise 3 and for normal "
        "noise 4 times |log p_i|"
    ),
    "argmax_distribution_vjp": (
        "sum_i K_ij (|g_j| + |g_i|) / scale, for uniform noise the largest of the row, and in "
        "float64 the further ULP of `argmax_distribution`, for the largest entry those of the "
        "second, and for uniform noise n / 4"
    ),
    "gumbel_softmax": (
        "the result and in float64 r_i + sum p r ULP, r = 3 |d| + (|l - l_m| + |e - e_m|) / tau, "
        "d = (l + e - l_m - e_m) / tau"
    ),
    "gumbel_softmax_vjp": (
        "p_i (|h_i| + sum p |h|) / tau, h = g - g_m, and in float64 3 |d_i| + 2 max r ULP, "
        "d and r as for `gumbel_softmax`"
    ),
    "kl_divergence": (
        "the loss; for gradients |scale| p_i (|g_i| + sum p |g|), g_i = log p_i - log q_i up to a "
        "constant, and the difference of p and q"
    ),
    "symmetric_kl": "what `kl_divergence` states",
    "softmax_crossentropy": (
        "the loss and the Hessian; for the gradient the larger of its two terms"
    ),
    "sigmoid_crossentropy": (
        "the loss and the Hessian; for the gradient the larger of its two terms"
    ),
    "pairwise_rank_loss": "the loss and the gradient",
    "subset_crossentropy": "the loss and the gradient",
    "multiclass_multilabel_loss": (
        "the loss; for the gradient the larger of its two terms. Centered: and 2 |max s_i - s_ij| "
        "ULP"
    ),
    "smooth_accuracy": "the result",
    "smooth_fbeta": "the result; for the gradient the larger of its two terms",
    "smooth_precision": "the result; for the gradient the larger of its two terms",
    "smooth_recall": "the result and the gradient",
    "flooding": "the result",
    "negative_cosine": (
        "sum |p z| / (|p| |z|); for the gradient the larger of its two terms, the cosine in them "
        "replaced by that"
    ),
    "simsiam_loss": "what `negative_cosine` states",
    "egu_step": "the result",
    "egu_pm_step": "the result",
    "hypentropy_step": "the larger of the two terms",
    "eg_step": "the result",
    "eg_step_log": (
        "max(|result|, |logw_i - logw_k|, lr |g_i - g_k|), k the entry of the largest result"
    ),
    "eg_pm_step": "the result, and with kw_scale lr mass |g_i - g_k| ULP",
    "eg_pm_init": "mass / n and the result",
    "eg_step_vjp": (
        "for dw and dg the terms y_i / w_i (|v_i| + sum y |v|) and lr y_i (|v_i| + sum y |v|), "
        "v less that of the largest entry; for dlr sum y |g| (|v| + sum y |v|)"
    ),
    "hedge": "the result and lr (|s_i| + |s_k|) ULP, s the sums",
    "portfolio_eg": "1 and T ULP in float64",
    "eg_stepsize_step": (
        "the larger of the two terms of each sum, with gain_mode product 3 |lr_gain d| ULP more"
    ),
    "eg_gain_step": "max(|theta|, |lr gain g|) and the gain",
    "global_norm": "the result, in float64; 16-bit arrays on a GPU 1e-5 of it",
    "clip_by_global_norm": "the result",
    "project_simplex": "mass",
    "project_simplex_vjp": "max(|g_i|, mean |g|) over the support",
    "frank_wolfe_step": "the result",
    "simplex_gap": "the result",
    "softmax_pullback": "p_i (|g_i| + sum p |g|)",
    "bregman_kl": "sum |terms|",
    "softmax_attention": "max |v| for some hundred keys and scores up to 10",
    "softmax_attention_vjp": "max |g|, for dq and dk times max |v| and max |k| or max |q|, so too",
    "linear_attention": "max |v| for some hundred keys and positive features",
    "linear_attention_vjp": "what `softmax_attention_vjp` states",
    "favor_attention": "max |v| for some hundred keys and log features up to 30",
    "favor_attention_vjp": "what `softmax_attention_vjp` states",
}

_FORMATS = {  # bits of the significand, smallest normal exponent
    "float64": (53, -1022),
    "float32": (24, -126),
    "float16": (11, -14),
    "bfloat16": (8, -126),
}


def ulp(magnitude: Array, dtype: Any) -> Array:
    """Spacing of the numbers of `dtype` at `magnitude`, which may be of a wider type."""
    digits, smallest = _FORMATS[np.dtype(dtype).name]
    magnitude = np.asarray(magnitude)
    exponent = np.where(magnitude == 0, smallest, np.frexp(magnitude)[1] - 1)
    return np.ldexp(np.ones_like(magnitude), np.maximum(exponent, smallest) - digits + 1)


def ulp_error(
    actual: Array, expected: Array, magnitude: Array = 0.0, allowance: Array = 0.0
) -> float:
    """Largest error of `actual` in ULP of its type at max(|expected|, magnitude).

    `expected` is in a wider type. Equal infinities and NaN in the same place count as 0;
    `allowance` is subtracted from each error.
    """
    actual = np.asarray(actual)
    expected = np.asarray(expected)
    if actual.size == 0:
        return 0.0
    wide = actual.astype(expected.dtype)
    with np.errstate(all="ignore"):
        size = np.maximum(np.abs(expected), np.asarray(magnitude, expected.dtype))
        error = np.abs(wide - expected) / ulp(np.where(np.isfinite(size), size, 0), actual.dtype)
    error = np.where((wide == expected) | (np.isnan(wide) & np.isnan(expected)), 0, error)
    error = np.where(np.isnan(error), np.inf, error) - allowance
    return float(np.max(np.maximum(error, 0.0)))


def describe(name: str) -> str:
    """The figures of one function in words."""
    types: dict[int, list[str]] = {}
    for dtype, limit in LIMITS[name].items():
        types.setdefault(limit, []).append(dtype)
    return ", ".join(f"{limit} ({', '.join(names)})" for limit, names in types.items())


def fill_in(functions: Iterable[Any]) -> None:
    """Replace ``LIMITS["name"]`` in docstrings by the figures, so that they cannot drift."""
    for function in functions:
        name = function.__name__
        if function.__doc__ and name in LIMITS:
            figures, of_what = f'LIMITS["{name}"]', f'MAGNITUDE["{name}"]'
            function.__doc__ = "\n\n".join(
                _wrapped(part.replace(figures, describe(name)).replace(of_what, MAGNITUDE[name]))
                if figures in part or of_what in part
                else part
                for part in function.__doc__.split("\n\n")
            )


def _wrapped(paragraph: str) -> str:
    """In lines of at most 100 characters, indented as it was; textwrap would delay the import."""
    indent = paragraph[: len(paragraph) - len(paragraph.lstrip())]
    lines = [""]
    for word in paragraph.split():
        if len(indent) + len(lines[-1]) + len(word) >= 100:
            lines.append("")
        lines[-1] += f" {word}" if lines[-1] else word
    return "\n".join(indent + line for line in lines)
