"""Cross-entropies of one class among many, and of independent classes."""

from __future__ import annotations

from typing import Any

from ..._arrays import Array, Axis, as_real, check_flags, normalise
from ..._backends import choose
from ..._limits import fill_in
from .._common import IN_UNIT_INTERVAL, as_classes, as_int, is_bound, places, results, waiting

__all__ = ["sigmoid_crossentropy", "softmax_crossentropy", "sparse_softmax_crossentropy"]


def softmax_crossentropy(
    scores: Array,
    targets: Array,
    *,
    axis: Axis = -1,
    mask: Array | None = None,
    label_smoothing: float = 0.0,
    return_grad: bool = False,
    return_hess: bool = False,
    hess: str = "exact",
    validate: bool = True,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """-sum t_i log p_i, p = softmax(scores).

    Signature ``(n),(n),(n)?->(),(n)?,(n)?``.

    Parameters
    ----------
    scores : array of float64, float32, float16, bfloat16, integers or bool
        Any values. Integers and bool are computed in float64.
    targets : array of any real type, of the shape of `scores`
        Not negative and finite; they need not sum to 1. They keep their type; none is converted
        beforehand.
    axis : int, tuple of ints or None
        Axes of the classes.
    mask : array of bool, optional
        Broadcastable to `scores`; True = takes part. Neither scores nor targets are looked at
        elsewhere.
    label_smoothing : float
        e in [0, 1]: targets become (1 - e) t_i + e (sum t) / n, n the number of unmasked classes.
    return_grad, return_hess : bool
        Return the gradient and the diagonal of the Hessian with respect to the row's scores, too.
    hess : {"exact", "bound"}
        T p_i (1 - p_i), T = sum t; or T p_i, a diagonal matrix that is nowhere below the full
        Hessian.
    validate : bool
        Raise for invalid targets. Without it, and always on a GPU, their rows are nan.
    out : array or tuple of arrays, optional
        Where the results go.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array, or tuple of arrays
        loss, (loss, grad), (loss, hess) or (loss, grad, hess), of the type of `scores`: the loss of
        the shape of `scores` without `axis`, grad and hess of the shape of `scores`.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays; NumPy mixed with CuPy; a `mask` that is not bool.
    ValueError
        Shapes that do not fit; a negative, infinite or nan target; `label_smoothing` outside
        [0, 1]; a repeated axis. An axis out of range: ``AxisError``.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    The gradient is T p_i - t_i; for the class w of the largest score, whose p may round to 1, it
    is (sum of the other t) - T (1 - p_w), with 1 - p_w summed from the other classes.

    Special values: an empty or fully masked row gives 0 throughout. t = 0 costs nothing even where
    p = 0, t > 0 gives inf there. Scores of +inf share the probability; a row that is -inf
    throughout gives nan. nan stays within its row.

    Accuracy: at most LIMITS["softmax_crossentropy"] ULP of
    MAGNITUDE["softmax_crossentropy"].

    Source: the baseline of kexue.fm/archives/7359.

    Examples
    --------
    >>> import kexue_native as kn
    >>> loss, grad = kn.softmax_crossentropy([18.0, 0.0], [1, 0], return_grad=True)
    >>> grad / loss
    array([-0.99999999,  0.99999999])
    """
    name = "softmax_crossentropy"
    check_flags(name, return_grad=return_grad, return_hess=return_hess, validate=validate)
    bound = is_bound(name, hess)
    whole, strict = waiting(validate, targets, out, return_grad, return_hess)
    call = normalise(
        name,
        f"(n),(n),(n)?->{results('()', return_grad, return_hess)}",
        axis,
        out,
        whole=whole,
        scores=scores,
        targets=targets,
        mask=mask,
    )
    smoothing = _as_share(name, label_smoothing)
    invalid = choose("losses.crossentropy", call, backend).softmax_crossentropy(
        *call.inputs, smoothing, bound, strict, *places(call, return_grad, return_hess)
    )
    if validate:
        call.require(invalid, "targets must be finite and not negative where the mask is true")
    return call.result()


def _as_share(name: str, label_smoothing: float) -> float:
    share = as_real(name, "label_smoothing", label_smoothing)
    if not 0 <= share <= 1:
        raise ValueError(f"{name}: label_smoothing must be in [0, 1], got {share}")
    return share


def sparse_softmax_crossentropy(
    scores: Array,
    labels: Array,
    *,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    return_grad: bool = False,
    return_hess: bool = False,
    hess: str = "exact",
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """-log p_label, p = softmax(scores): `softmax_crossentropy` for one class, by its number.

    Signature ``(n),()->(),(n)?,(n)?``.

    Parameters
    ----------
    scores : array of float64, float32, float16, bfloat16, integers or bool
        Any values; classes along the last axis.
    labels : array of integers, of shape ``scores.shape[:-1]``
        In [0, n).
    ignore_index : int, optional
        Rows of this label are left out: their scores are not looked at, and they give 0.
    label_smoothing, return_grad, return_hess, hess, backend :
        See `softmax_crossentropy`.
    out : array or tuple of arrays, optional
        Where the results go.

    Returns
    -------
    array, or tuple of arrays
        As `softmax_crossentropy`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `softmax_crossentropy`; TypeError also for labels that are not integers. A label out of
        range: IndexError; on a GPU its row is nan instead.

    Notes
    -----
    Special values, accuracy and source: those of `softmax_crossentropy` with a target of 1.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.sparse_softmax_crossentropy([[0.0, 0.0], [9.0, 9.0]], [1, -1], ignore_index=-1).round(4)
    array([0.6931, 0.    ])
    """
    name = "sparse_softmax_crossentropy"
    check_flags(name, return_grad=return_grad, return_hess=return_hess)
    bound = is_bound(name, hess)
    smoothing = _as_share(name, label_smoothing)
    if ignore_index is not None:
        ignore_index = as_int(name, "ignore_index", ignore_index)
    call = normalise(
        name, f"(n)->{results('()', return_grad, return_hess)}", -1, out, scores=scores
    )
    (x,) = call.inputs
    classes = as_classes(name, "labels", labels, x.shape[-1], ignore_index, call.xp)
    if classes.shape != x.shape[:-1]:
        raise ValueError(
            f"{name}: labels must have the shape of scores without the last axis, "
            f"{x.shape[:-1]}, got {classes.shape}"
        )
    # A list of one class to each row, from where to where it goes, and rows that take part.
    listed = classes.reshape(-1), call.xp.arange(classes.size + 1)
    mask = None if ignore_index is None else (classes >= 0)[..., None]
    choose("losses.crossentropy", call, backend).sparse_softmax_crossentropy(
        x, *listed, mask, smoothing, bound, *places(call, return_grad, return_hess)
    )
    return call.result()


def sigmoid_crossentropy(
    scores: Array,
    targets: Array,
    *,
    axis: Axis = -1,
    mask: Array | None = None,
    return_grad: bool = False,
    return_hess: bool = False,
    validate: bool = True,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """sum t_i softplus(-s_i) + (1 - t_i) softplus(s_i), softplus(x) = log(1 + exp(x)).

    Signature ``(n),(n),(n)?->(),(n)?,(n)?``. Each class is a decision of its own: the baseline
    that `multilabel_crossentropy` replaces.

    Parameters
    ----------
    scores : array of float64, float32, float16, bfloat16, integers or bool
        Any values. Integers and bool are computed in float64.
    targets : array of any real type, of the shape of `scores`
        In [0, 1]. They keep their type; none is converted beforehand.
    axis, mask, validate, out, backend : see `softmax_crossentropy`
    return_grad, return_hess : bool
        Return the gradient (1 - t) sigmoid(s) - t sigmoid(-s) and the Hessian
        sigmoid(s) sigmoid(-s), which is diagonal, too.

    Returns
    -------
    array, or tuple of arrays
        As `softmax_crossentropy`; the sum over `axis`, not the mean.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `softmax_crossentropy`; ValueError for targets outside [0, 1].

    Notes
    -----
    Special values: an empty or fully masked row gives 0 throughout. s = -inf costs nothing if
    t = 0, else it gives inf; s = +inf costs nothing if t = 1, else it gives inf. nan stays within
    its row.

    Accuracy: at most LIMITS["sigmoid_crossentropy"] ULP of
    MAGNITUDE["sigmoid_crossentropy"].

    Source: the baseline of kexue.fm/archives/7359.

    Examples
    --------
    >>> import kexue_native as kn
    >>> round(float(kn.sigmoid_crossentropy([0.0, 0.0], [1, 0])), 6)
    1.386294
    """
    name = "sigmoid_crossentropy"
    check_flags(name, return_grad=return_grad, return_hess=return_hess, validate=validate)
    whole, strict = waiting(validate, targets, out, return_grad, return_hess)
    call = normalise(
        name,
        f"(n),(n),(n)?->{results('()', return_grad, return_hess)}",
        axis,
        out,
        whole=whole,
        scores=scores,
        targets=targets,
        mask=mask,
    )
    invalid = choose("losses.crossentropy", call, backend).sigmoid_crossentropy(
        *call.inputs, strict, *places(call, return_grad, return_hess)
    )
    if validate:
        call.require(invalid, IN_UNIT_INTERVAL)
    return call.result()


fill_in(globals()[name] for name in __all__)
