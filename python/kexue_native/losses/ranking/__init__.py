"""Losses of a whole row's order: pairs, subsets of given size, and items by classes."""

from __future__ import annotations

from typing import Any

from ..._arrays import Array, Axis, as_array, as_real, check_flags, normalise, one_of
from ..._backends import choose
from ..._limits import fill_in
from .._common import IN_UNIT_INTERVAL, places, results, waiting

__all__ = ["multiclass_multilabel_loss", "pairwise_rank_loss", "subset_crossentropy"]

_HARD = "targets must be 0 or 1 where they take part"


def pairwise_rank_loss(
    scores: Array,
    targets: Array,
    *,
    axis: Axis = -1,
    gamma: float = 1.0,
    margin: float = 0.0,
    mask: Array | None = None,
    return_grad: bool = False,
    validate: bool = True,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """log(1 + sum of exp(gamma (s_i - s_j + margin)) over negatives i and positives j).

    Signature ``(n),(n),(n)?->(),(n)?``.

    Every positive class is to score higher than every negative one; there is no threshold class.
    For one positive, gamma = 1 and margin = 0 it is softmax cross-entropy.

    Parameters
    ----------
    scores : array of float64, float32, float16, bfloat16, integers or bool
        Any values. Integers and bool are computed in float64.
    targets : array of any real type, of the shape of `scores`
        0 or 1.
    axis : int, tuple of ints or None
        Axes of the classes.
    gamma : float, > 0
        Scale of the differences.
    margin : float
        By how much the positives are to be ahead; finite.
    mask : array of bool, optional
        Broadcastable to `scores`; True = takes part. Neither scores nor targets are looked at
        elsewhere.
    return_grad : bool
        Return the gradient with respect to the row's scores, too.
    validate : bool
        Raise for targets other than 0 and 1. Without it, and always on a GPU, their rows are nan.
    out : array, or tuple of two with `return_grad`, optional
        Where the results go.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array, or tuple of two arrays
        The loss, of the shape of `scores` without `axis`; its gradient, of the shape of `scores`.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays; NumPy mixed with CuPy; a `mask` that is not bool.
    ValueError
        Shapes that differ; targets other than 0 and 1; a parameter out of its domain; a repeated
        axis. An axis out of range: ``AxisError``.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    The sum over pairs is the product of a sum over negatives and one over positives.

    Special values: a row without positives or without negatives gives 0. Equal infinities differ
    by 0. nan stays within its row.

    Accuracy: at most LIMITS["pairwise_rank_loss"] ULP of
    MAGNITUDE["pairwise_rank_loss"].

    Source: kexue.fm/archives/7359; Circle loss, arXiv 2002.10857.

    Examples
    --------
    >>> import kexue_native as kn
    >>> round(float(kn.pairwise_rank_loss([2.0, 1.0, 0.0], [1, 0, 0])), 4)
    0.4076
    >>> loss, grad = kn.pairwise_rank_loss([1.0, 1.0], [1, 0], return_grad=True)
    >>> grad
    array([-0.5,  0.5])
    """
    name = "pairwise_rank_loss"
    check_flags(name, return_grad=return_grad, validate=validate)
    gamma = as_real(name, "gamma", gamma, above=0.0)
    margin = as_real(name, "margin", margin)
    whole, strict = waiting(validate, targets, out, return_grad)
    call = normalise(
        name,
        f"(n),(n),(n)?->{results('()', return_grad)}",
        axis,
        out,
        whole=whole,
        scores=scores,
        targets=targets,
        mask=mask,
    )
    invalid = choose("losses.ranking", call, backend).pairwise_rank_loss(
        *call.inputs, gamma, margin, strict, *places(call, return_grad)
    )
    if validate:
        call.require(invalid, _HARD)
    return call.result()


def subset_crossentropy(
    scores: Array,
    targets: Array,
    *,
    axis: Axis = -1,
    return_grad: bool = False,
    validate: bool = True,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """log Z_k - sum of the positive scores, Z_k = sum of exp(sum of scores) over all k-subsets.

    Signature ``(n),(n)->(),(n)?``.

    Softmax cross-entropy whose classes are the subsets of k classes, k the number of positives; for
    k = 1 it is the usual one. The gradient is the probability that a subset has the class, minus
    the target.

    Parameters
    ----------
    scores, targets, axis, return_grad, validate, out, backend : see `pairwise_rank_loss`

    Returns
    -------
    array, or tuple of two arrays
        As `pairwise_rank_loss`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `pairwise_rank_loss`.

    Notes
    -----
    A subset is the positives with some of them swapped for as many negatives, and its weight
    relative to theirs is the product of the odds of these swaps: nothing is subtracted, so small
    losses and gradients keep their digits. Swapping one pair at most would give
    `pairwise_rank_loss`. Time is O(n min(k, n - k)), with the gradient O(log n) times that.

    Special values: k = 0 and k = n give 0. Equal infinities differ by 0. nan stays within its row.

    Accuracy: at most LIMITS["subset_crossentropy"] ULP of
    MAGNITUDE["subset_crossentropy"].

    Source: kexue.fm/archives/7359, whose Newton identities alternate in sign.

    Examples
    --------
    >>> import kexue_native as kn
    >>> round(float(kn.subset_crossentropy([0.0, 0.0, 0.0, 0.0], [1, 1, 0, 0])), 4)  # log 6
    1.7918
    """
    name = "subset_crossentropy"
    check_flags(name, return_grad=return_grad, validate=validate)
    whole, strict = waiting(validate, targets, out, return_grad)
    call = normalise(
        name,
        f"(n),(n)->{results('()', return_grad)}",
        axis,
        out,
        whole=whole,
        scores=scores,
        targets=targets,
    )
    invalid = choose("losses.ranking", call, backend).subset_crossentropy(
        *call.inputs, strict, *places(call, return_grad)
    )
    if validate:
        call.require(invalid, _HARD)
    return call.result()


def multiclass_multilabel_loss(
    scores: Array,
    targets: Array,
    *,
    form: str = "pairwise",
    return_grad: bool = False,
    validate: bool = True,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """sum_j log(1 + sum_i t_ij exp(r_ij)) for n items that are each one of m classes.

    Signature ``(n,m),(n,m)->(),(n,m)?``.

    r_ij = log(sum of exp(s_ik) over k != j) - s_ij for the form "pairwise", and mean_k(s_ik) - s_ij
    for "centered".

    Parameters
    ----------
    scores : array of float64, float32, float16, bfloat16, integers or bool, shape (..., n, m)
        Any values. Integers and bool are computed in float64.
    targets : array of any real type, of the shape of `scores`
        In [0, 1]; a row need not sum to 1.
    form : {"pairwise", "centered"}
        "pairwise" is for hard targets: for n = 1 it is softmax cross-entropy, for m = 2
        `multilabel_crossentropy` of s_i1 - s_i0. "centered" has the optimum softmax(s_i) = t_i for
        soft targets, but of hard ones it only asks that s_ij be far above the mean.
    return_grad, out, backend :
        See `pairwise_rank_loss`.
    validate : bool
        Raise for targets outside [0, 1]. Without it, and always on a GPU, all items of that loss
        are nan.

    Returns
    -------
    array, or tuple of two arrays
        The loss, of the shape of `scores` without its last two axes; its gradient, of the shape of
        `scores`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `pairwise_rank_loss`; ValueError also for an unknown form.

    Notes
    -----
    The sum over items is inside the logarithm, so the loss depends on the items as a whole. The
    article calls this an unsuccessful attempt: the plain choice is the sum of the items' softmax
    cross-entropies.

    Special values: entries with t = 0 are skipped. m = 1 has r = -inf in the form "pairwise" and
    gives 0. No items or no classes give 0. Equal infinities differ by 0. A nan makes its loss, and
    the gradient of all its items, nan.

    Accuracy: at most LIMITS["multiclass_multilabel_loss"] ULP of
    MAGNITUDE["multiclass_multilabel_loss"].

    Source: kexue.fm/archives/9158.

    Examples
    --------
    >>> import kexue_native as kn
    >>> round(float(kn.multiclass_multilabel_loss([[1.0, 0.0, 0.0]], [[1, 0, 0]])), 4)
    0.5514
    """
    name = "multiclass_multilabel_loss"
    check_flags(name, return_grad=return_grad, validate=validate)
    centered = one_of(name, "form", form, ("pairwise", "centered")) == "centered"
    scores = as_array(name, "scores", scores)
    if scores.ndim < 2:
        raise ValueError(f"{name}: scores must have two axes or more, got {scores.ndim}")
    whole, strict = waiting(validate, targets, out, return_grad)
    call = normalise(
        name,
        f"(n),(n)->{results('()', return_grad)}",
        (-2, -1),
        out,
        whole=whole,
        scores=scores,
        targets=targets,
    )
    invalid = choose("losses.ranking", call, backend).multiclass_multilabel_loss(
        *call.inputs, scores.shape[-1], centered, strict, *places(call, return_grad)
    )
    if validate:
        call.require(invalid, IN_UNIT_INTERVAL)
    return call.result()


fill_in(globals()[name] for name in __all__)
