"""Metrics that can be trained for, flooding, and the cosine loss of siamese networks."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np

from ..._arrays import Array, Axis, as_array, as_real, check_flags, narrow, normalise
from ..._backends import choose
from ..._limits import fill_in
from .._common import IN_UNIT_INTERVAL, as_classes, places, results, waiting

__all__ = [
    "flooding",
    "negative_cosine",
    "simsiam_loss",
    "smooth_accuracy",
    "smooth_fbeta",
    "smooth_precision",
    "smooth_recall",
]


def smooth_accuracy(
    probs: Array,
    labels: Array,
    *,
    return_grad: bool = False,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """The mean of p_b[label_b] over all rows b: the expected accuracy of sampled predictions.

    Signature ``(b,n),(b)->(),(b,n)?``.

    Parameters
    ----------
    probs : array of float64, float32, float16, bfloat16, integers or bool, shape (..., n)
        Probabilities of n classes; not checked.
    labels : array of integers, shape (...)
        Classes from 0 on.
    return_grad : bool
        Return the gradient with respect to `probs`, too: 1 / rows at the label.
    out : array, or tuple of two with `return_grad`, optional
        Where the results go.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    scalar, or tuple of a scalar and an array
        The metric, of the type of `probs`; as a loss, take its negative. Its gradient, of the shape
        of `probs`.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays; NumPy mixed with CuPy; labels that are not integers.
    ValueError
        Labels of another shape. A label out of range: IndexError; on a GPU the result is nan.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: no rows give nan. nan counts at a label only.

    Accuracy: at most LIMITS["smooth_accuracy"] ULP of
    MAGNITUDE["smooth_accuracy"].

    Source: kexue.fm/archives/6620.

    Examples
    --------
    >>> import kexue_native as kn
    >>> float(kn.smooth_accuracy([[0.75, 0.25], [0.5, 0.5]], [0, 1]))
    0.625
    """
    name = "smooth_accuracy"
    check_flags(name, return_grad=return_grad)
    probs = as_array(name, "probs", probs)
    call = normalise(name, f"(n)->{results('()', return_grad)}", None, out, probs=probs)
    xp, n = call.xp, probs.shape[-1] if probs.ndim else 0
    labels = as_classes(name, "labels", labels, n, None, xp)
    if labels.shape != probs.shape[:-1] or not probs.ndim:
        raise ValueError(
            f"{name}: labels must have the shape of probs without its last axis, "
            f"got {labels.shape} and {probs.shape}"
        )
    labels = labels.reshape(-1)
    at = xp.arange(labels.size) * n + labels
    chosen = call.inputs[0][at]
    if xp is not np:
        chosen = xp.where(labels < n, chosen, math.nan)
    value, grad = places(call, return_grad)
    choose("losses.metrics", call, backend).smooth_accuracy(chosen, value)
    if grad is not None:
        grad = narrow(grad)
        grad[...] = 0
        grad[at] = 1 / max(labels.size, 1)
    return call.result()


def smooth_fbeta(
    probs: Array,
    targets: Array,
    *,
    beta: float = 1.0,
    axis: Axis = None,
    zero_division: float = 0.0,
    return_grad: bool = False,
    validate: bool = True,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """(1 + beta^2) sum t p / (beta^2 sum t + sum p): the F-measure with probabilities as counts.

    Signature ``(n),(n)->(),(n)?``.

    Parameters
    ----------
    probs : array of float64, float32, float16, bfloat16, integers or bool
        Probabilities that the target is 1; not checked.
    targets : array of any real type, of the shape of `probs`
        In [0, 1].
    beta : float, >= 0
        How many times as important recall is as precision; 1: the smoothed F1.
    axis : int, tuple of ints or None
        Axes that are counted over; None: all of them.
    zero_division : float
        The result where the denominator is 0; its gradient is 0.
    return_grad : bool
        Return the gradient with respect to `probs`, too.
    validate : bool
        Raise for targets outside [0, 1]. Without it, and always on a GPU, their rows are nan.
    out : array, or tuple of two with `return_grad`, optional
        Where the results go.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array, or tuple of two arrays
        The metric, of the shape of `probs` without `axis`; as a loss, take its negative. Its
        gradient, of the shape of `probs`.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays; NumPy mixed with CuPy.
    ValueError
        Shapes that differ; targets outside [0, 1]; a parameter out of its domain; a repeated axis.
        An axis out of range: ``AxisError``.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Over a batch it is a biased estimate of the F-measure of all data: the article advises to train
    with cross-entropy first and with this afterwards. For scores x with p = softmax(x), chain the
    gradient by `softmax_vjp`.

    Special values: nan and infinite probabilities give nan.

    Accuracy: at most LIMITS["smooth_fbeta"] ULP of
    MAGNITUDE["smooth_fbeta"].

    Source: kexue.fm/archives/6620.

    Examples
    --------
    >>> import kexue_native as kn
    >>> float(kn.smooth_fbeta([0.5, 0.25, 0.25], [1, 0, 0]))
    0.5
    >>> value, grad = kn.smooth_fbeta([0.5, 0.5], [1, 0], return_grad=True)
    >>> grad
    array([ 0.75, -0.25])
    """
    check_flags("smooth_fbeta", return_grad=return_grad, validate=validate)
    beta = as_real("smooth_fbeta", "beta", beta, at_least=0.0)
    square = min(beta * beta, 1e300)
    true, found = square / (1 + square), 1 / (1 + square)
    options = zero_division, return_grad, validate, out, backend
    return _smooth_ratio("smooth_fbeta", probs, targets, axis, true, found, *options)


def smooth_precision(
    probs: Array,
    targets: Array,
    *,
    axis: Axis = None,
    zero_division: float = 0.0,
    return_grad: bool = False,
    validate: bool = True,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """sum t p / sum p: precision with probabilities as counts.

    Signature ``(n),(n)->(),(n)?``.

    Parameters
    ----------
    probs, targets, axis, zero_division, return_grad, validate, out, backend :
        See `smooth_fbeta`.

    Returns
    -------
    array, or tuple of two arrays
        As `smooth_fbeta`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `smooth_fbeta`.

    Notes
    -----
    Special values: those of `smooth_fbeta`.

    Accuracy: at most LIMITS["smooth_precision"] ULP of
    MAGNITUDE["smooth_precision"].

    Source: kexue.fm/archives/6620.

    Examples
    --------
    >>> import kexue_native as kn
    >>> float(kn.smooth_precision([0.5, 0.25, 0.25], [1, 0, 0]))
    0.5
    """
    check_flags("smooth_precision", return_grad=return_grad, validate=validate)
    options = zero_division, return_grad, validate, out, backend
    return _smooth_ratio("smooth_precision", probs, targets, axis, 0.0, 1.0, *options)


def smooth_recall(
    probs: Array,
    targets: Array,
    *,
    axis: Axis = None,
    zero_division: float = 0.0,
    return_grad: bool = False,
    validate: bool = True,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """sum t p / sum t: recall with probabilities as counts.

    Signature ``(n),(n)->(),(n)?``.

    Parameters
    ----------
    probs, targets, axis, zero_division, return_grad, validate, out, backend :
        See `smooth_fbeta`.

    Returns
    -------
    array, or tuple of two arrays
        As `smooth_fbeta`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `smooth_fbeta`.

    Notes
    -----
    Special values: those of `smooth_fbeta`.

    Accuracy: at most LIMITS["smooth_recall"] ULP of
    MAGNITUDE["smooth_recall"].

    Source: kexue.fm/archives/6620.

    Examples
    --------
    >>> import kexue_native as kn
    >>> float(kn.smooth_recall([0.5, 0.25, 0.25], [1, 0, 0]))
    0.5
    """
    check_flags("smooth_recall", return_grad=return_grad, validate=validate)
    options = zero_division, return_grad, validate, out, backend
    return _smooth_ratio("smooth_recall", probs, targets, axis, 1.0, 0.0, *options)


def _smooth_ratio(
    name: str,
    probs: Array,
    targets: Array,
    axis: Axis,
    true_share: float,
    found_share: float,
    zero_division: float,
    return_grad: bool,
    validate: bool,
    out: Any,
    backend: str | None,
) -> Any:
    """sum t p over the given shares of sum t and sum p"""
    zero_division = as_real(name, "zero_division", zero_division)
    outputs = results("()", return_grad)
    whole, strict = waiting(validate, targets, out, return_grad)
    call = normalise(
        name,
        f"(n),(n)->{outputs}",
        axis,
        out,
        whole=whole,
        probs=probs,
        targets=targets,
    )
    invalid = choose("losses.metrics", call, backend).smooth_ratio(
        *call.inputs, true_share, found_share, zero_division, strict, *places(call, return_grad)
    )
    if validate:
        call.require(invalid, IN_UNIT_INTERVAL)
    return call.result()


def flooding(
    loss: Array,
    b: Array,
    *,
    return_grad: bool = False,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """|L - b| + b: L where L >= b, else 2 b - L.

    Signature ``(),()->(),()?``.

    Gradient descent on it climbs once the loss is below b.

    Parameters
    ----------
    loss : array of float64, float32, float16, bfloat16, integers or bool
        Any values; the mean over a batch, or one value a row.
    b : float or array
        The level that the loss is kept at: a finite number, or an array that is broadcast with
        `loss`.
    return_grad : bool
        Return the gradient with respect to the loss, too: the sign of L - b.
    out : array, or tuple of two with `return_grad`, optional
        Where the results go; it may be `loss` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array, or tuple of two arrays
        The shape of `loss` and `b` together.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays; NumPy mixed with CuPy.
    ValueError
        A `b` that is not finite; shapes that do not fit.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Above b the loss is returned as it is, without the rounding of |L - b| + b. Around b, steps of
    size e down and up move the parameters by -e^2 / 2 times the gradient of the squared gradient
    norm: a gradient penalty.

    Special values: L = b has gradient 0, +inf gives +inf with gradient 1, nan gives nan.

    Accuracy: at most LIMITS["flooding"] ULP of
    MAGNITUDE["flooding"].

    Source: kexue.fm/archives/7643; arXiv 2002.08709.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.flooding([1.0, 0.25], 0.5)
    array([1.  , 0.75])
    """
    name = "flooding"
    check_flags(name, return_grad=return_grad)
    if isinstance(b, Real):
        as_real(name, "b", b)
    outputs = "(),()" if return_grad else "()"
    call = normalise(name, f"(),()->{outputs}", None, out, loss=loss, b=b)
    choose("losses.metrics", call, backend).flooding(*call.inputs, *places(call, return_grad))
    return call.result()


def negative_cosine(
    p: Array,
    z: Array,
    *,
    axis: Axis = -1,
    return_grad: bool = False,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """-<p, z> / (||p|| ||z||), with z taken as a constant.

    Signature ``(n),(n)->(),(n)?``.

    Parameters
    ----------
    p, z : arrays of float64, float32, float16, bfloat16, integers or bool
        Any vectors, however long or short: nothing is squared before it is scaled. The arrays are
        broadcast together.
    axis : int, tuple of ints or None
        Axes of the vectors.
    return_grad : bool
        Return the gradient with respect to `p`, too. It is orthogonal to `p`.
    out : array, or tuple of two with `return_grad`, optional
        Where the results go.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array, or tuple of two arrays
        The loss in [-1, 1], of the shape of the data without `axis`; its gradient, of the shape of
        `p`, summed back to that where `z` enlarges it.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays; NumPy mixed with CuPy.
    ValueError
        Shapes that do not fit; a repeated axis. An axis out of range: ``AxisError``.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Special values: a zero vector gives 0 with gradient 0; nan and infinite components give nan.

    Accuracy: at most LIMITS["negative_cosine"] ULP of
    MAGNITUDE["negative_cosine"].

    Source: kexue.fm/archives/7980; arXiv 2011.10566.

    Examples
    --------
    >>> import kexue_native as kn
    >>> float(kn.negative_cosine([3e-200, 4e-200], [1.0, 0.0]))
    -0.6
    """
    name = "negative_cosine"
    check_flags(name, return_grad=return_grad)
    call = normalise(name, f"(n),(n)->{results('()', return_grad)}", axis, out, p=p, z=z)
    choose("losses.metrics", call, backend).negative_cosine(
        *call.inputs, *places(call, return_grad)
    )
    return call.result()


def simsiam_loss(
    p1: Array,
    z2: Array,
    p2: Array,
    z1: Array,
    *,
    axis: Axis = -1,
    return_grad: bool = False,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """Half the sum of `negative_cosine` of p1 with z2 and of p2 with z1.

    Signature ``(n),(n),(n),(n)->(),(n)?,(n)?``.

    Parameters
    ----------
    p1, z2, p2, z1 : arrays of float64, float32, float16, bfloat16, integers or bool
        Predictions p and projections z of two views of the same rows. The arrays are broadcast
        together.
    axis : int, tuple of ints or None
        Axes of the vectors.
    return_grad : bool
        Return the gradients with respect to `p1` and `p2`, too.
    out : array, or tuple of three with `return_grad`, optional
        Where the results go.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array, or tuple of three arrays
        loss, grad_p1, grad_p2.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `negative_cosine`; ValueError also for gradients where `p1` and `p2` differ in shape.

    Notes
    -----
    Special values: those of `negative_cosine`, for each of the two.

    Accuracy: at most LIMITS["simsiam_loss"] ULP of
    MAGNITUDE["simsiam_loss"].

    Source: kexue.fm/archives/7980; arXiv 2011.10566.

    Examples
    --------
    >>> import kexue_native as kn
    >>> float(kn.simsiam_loss([1.0, 0.0], [1.0, 0.0], [0.0, 2.0], [3.0, 0.0]))
    -0.5
    """
    name = "simsiam_loss"
    check_flags(name, return_grad=return_grad)
    outputs = results("()", return_grad, return_grad)
    call = normalise(name, f"(n),(n),(n),(n)->{outputs}", axis, out, p1=p1, z2=z2, p2=p2, z1=z1)
    if return_grad and np.shape(p1) != np.shape(p2):
        raise ValueError(
            f"{name}: p1 and p2 must have the same shape for gradients, "
            f"got {np.shape(p1)} and {np.shape(p2)}"
        )
    choose("losses.metrics", call, backend).simsiam_loss(
        *call.inputs, *places(call, return_grad, return_grad)
    )
    return call.result()


fill_in(globals()[name] for name in __all__)
