"""Launching the CUDA kernels of the family: names and arguments as in `reference`."""

from __future__ import annotations

from typing import Any

from .._device import launch


def logsumexp(x: Any, mask: Any, out: Any) -> int:
    return launch("special", "logsumexp", x, mask, out)


def logsumexp_vjp(x: Any, g: Any, mask: Any, out: Any) -> int:
    return launch("special", "logsumexp_vjp", x, g, mask, out)


def logsumexp_weighted(x: Any, b: Any, mask: Any, out: Any, sign: Any) -> int:
    return launch("special", "logsumexp_weighted", x, b, mask, out, sign)


def logsumexp_weighted_vjp(x: Any, b: Any, g: Any, mask: Any, out: Any) -> int:
    return launch("special", "logsumexp_weighted_vjp", x, b, g, mask, out)


def logmeanexp(x: Any, weights: Any, out: Any) -> int:
    return launch("special", "logmeanexp", x, weights, out)


def logmeanexp_vjp(x: Any, g: Any, weights: Any, out: Any) -> int:
    return launch("special", "logmeanexp_vjp", x, g, weights, out)


def softmax(x: Any, mask: Any, out: Any) -> int:
    return launch("special", "softmax", x, mask, out)


def softmax_vjp(x: Any, g: Any, mask: Any, scale: Any, out: Any) -> int:
    return launch("special", "softmax_vjp", x, g, mask, scale, out)


def log_softmax(x: Any, mask: Any, out: Any) -> int:
    return launch("special", "log_softmax", x, mask, out)


def log_softmax_vjp(x: Any, g: Any, mask: Any, out: Any) -> int:
    return launch("special", "log_softmax_vjp", x, g, mask, out)


def logsumexp_softmax(x: Any, mask: Any, out: Any, weights: Any) -> int:
    return launch("special", "logsumexp_softmax", x, mask, out, weights)


def softmax_entropy(x: Any, mask: Any, scale: Any, out: Any) -> int:
    return launch("special", "softmax_entropy", x, mask, scale, out)


def softmax_entropy_vjp(x: Any, g: Any, mask: Any, scale: Any, out: Any) -> int:
    return launch("special", "softmax_entropy_vjp", x, g, mask, scale, out)


def entropy_invariant_softmax(
    x: Any, mask: Any, coefficient: Any, min_length: Any, out: Any
) -> int:
    return launch("special", "entropy_invariant_softmax", x, mask, coefficient, min_length, out)


def entropy_invariant_softmax_vjp(
    x: Any, g: Any, mask: Any, coefficient: Any, min_length: Any, out: Any
) -> int:
    return launch(
        "special", "entropy_invariant_softmax_vjp", x, g, mask, coefficient, min_length, out
    )


def entropy_invariant_scale(n: Any, coefficient: Any, min_length: Any, out: Any) -> int:
    return launch("special", "entropy_invariant_scale", n, coefficient, min_length, out)


def logsumexp_bounds(
    x: Any,
    p: Any,
    order: Any,
    tau: Any,
    lower_max: Any,
    lower_mean: Any,
    lower_weighted: Any,
    upper: Any,
) -> int:
    bounds = (lower_max, lower_mean, lower_weighted, upper)
    return launch("special", "logsumexp_bounds", x, p, order, tau, *bounds)


def logsumexp_lipschitz(x: Any, y: Any, difference: Any, distance: Any) -> int:
    return launch("special", "logsumexp_lipschitz", x, y, difference, distance)
