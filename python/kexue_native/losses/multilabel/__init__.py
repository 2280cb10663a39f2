"""The multi-label cross-entropy of a threshold class, dense, sparse and over pairs of tokens."""

from __future__ import annotations

import math
from operator import index
from typing import Any

import numpy as np

from ..._arrays import (
    FLAG,
    Array,
    Axis,
    Call,
    allocate,
    as_array,
    check_flags,
    fits,
    namespace,
    narrow,
    normalise,
    widen,
)
from ..._backends import choose, usable
from ..._limits import fill_in
from .._common import IN_UNIT_INTERVAL, is_bound, places, results, waiting

__all__ = [
    "globalpointer_crossentropy",
    "globalpointer_mask",
    "multilabel_crossentropy",
    "multilabel_predict",
    "multilabel_probability",
    "sparse_multilabel_crossentropy",
]


def multilabel_crossentropy(
    scores: Array,
    targets: Array,
    *,
    axis: Axis = -1,
    threshold: Any = 0.0,
    mask: Array | None = None,
    return_grad: bool = False,
    return_hess: bool = False,
    hess: str = "exact",
    validate: bool = True,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """log(1 + sum (1 - t_i) exp(u_i)) + log(1 + sum t_i exp(-u_i)), u = s - threshold.

    Signature ``(n),(n),()?,(n)?->(),(n)?,(n)?``.

    For hard targets the first sum is over the negative classes and the second over the positive
    ones: softmax cross-entropy for any number of positive classes, where a class is predicted when
    its score is above the threshold.

    Parameters
    ----------
    scores : array of float64, float32, float16, bfloat16, integers or bool
        Any values. Integers and bool are computed in float64.
    targets : array of any real type, of the shape of `scores`
        In [0, 1]: 0 or 1, or probabilities. They keep their type; none is converted beforehand.
    axis : int, tuple of ints or None
        Axes of the classes.
    threshold : float or array, finite
        Score of the threshold class: one for all, or broadcastable to the shape of the loss. It is
        rounded to the type of `scores`.
    mask : array of bool, optional
        Broadcastable to `scores`; True = takes part. Neither scores nor targets are looked at
        elsewhere.
    return_grad, return_hess : bool
        Return the gradient and the diagonal of the Hessian with respect to the row's scores, too.
    hess : {"exact", "bound"}
        The diagonal itself, sum w_i (1 - w_i) over the two parts, w_i the share of a term in its
        part; or sum w_i, a diagonal matrix that is nowhere below the full Hessian.
    validate : bool
        Raise for targets outside [0, 1]. Without it, and always on a GPU, their rows are nan.
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
        Shapes that do not fit; a threshold that is not finite; targets outside [0, 1]; a repeated
        axis. An axis out of range: ``AxisError``.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    d loss / d threshold is minus the sum of grad. For soft targets the loss is smallest where
    t = 1 / (1 + exp(-2 u)): see `multilabel_probability`.

    Special values: an empty or fully masked row gives 0 throughout, and a row without positives,
    or without negatives, lacks that part. s = -inf counts for nothing if t = 0, else it gives inf;
    s = +inf counts for nothing if t = 1, else it gives inf; several such entries share the gradient
    of their part in proportion to t or 1 - t. nan stays within its row.

    Accuracy: at most LIMITS["multilabel_crossentropy"] ULP of
    MAGNITUDE["multilabel_crossentropy"].

    Source: kexue.fm/archives/7359, 9064; arXiv 2208.02955.

    Examples
    --------
    >>> import kexue_native as kn
    >>> round(float(kn.multilabel_crossentropy([3.0, -2.0], [1, 0])), 4)
    0.1755
    >>> loss, grad = kn.multilabel_crossentropy([0.0, 0.0], [1, 0], return_grad=True)
    >>> grad
    array([-0.5,  0.5])
    """
    name = "multilabel_crossentropy"
    check_flags(name, return_grad=return_grad, return_hess=return_hess, validate=validate)
    bound = is_bound(name, hess)
    whole, strict = waiting(validate, targets, out, return_grad, return_hess)
    call = normalise(
        name,
        f"(n),(n),(n)?,()?->{results('()', return_grad, return_hess)}",
        axis,
        out,
        whole=whole,
        scores=scores,
        targets=targets,
        mask=mask,
        threshold=threshold,
    )
    _check_threshold(name, call.inputs[3])
    invalid = choose("losses.multilabel", call, backend).multilabel_crossentropy(
        *call.inputs, bound, strict, *places(call, return_grad, return_hess)
    )
    if validate:
        call.require(invalid, IN_UNIT_INTERVAL)
    return call.result()


def _check_threshold(name: str, threshold: Array | None) -> None:
    """One has to be there, and to be finite; on a GPU the row of another is nan instead."""
    if threshold is None:
        raise TypeError(f"{name}: threshold must be a number or an array, got None")
    if isinstance(threshold, np.ndarray) and not np.all(np.isfinite(widen(threshold))):
        raise ValueError(f"{name}: threshold must be finite in the type of scores, got {threshold}")


def sparse_multilabel_crossentropy(
    scores: Array,
    indices: Array,
    *,
    indptr: Array | None = None,
    pad: int = -1,
    threshold: Any = 0.0,
    mask: Array | None = None,
    return_grad: bool = False,
    return_hess: bool = False,
    hess: str = "exact",
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """`multilabel_crossentropy` for positive classes given by their indices in the last axis.

    Signature ``(n),(k),()?,(n)?->(),(n)?,(n)?``.

    No label matrix is built, and nothing is subtracted: the sum over the negative classes is that
    over the classes that are not listed.

    Parameters
    ----------
    scores, threshold, mask, return_grad, return_hess, hess, out, backend :
        See `multilabel_crossentropy`.
    indices : array of integers
        Positive classes from 0 on, in any order; duplicates count once. Of shape
        ``scores.shape[:-1] + (k,)``, or 1-D with `indptr`.
    indptr : array of integers, optional
        The positive classes of row r are ``indices[indptr[r]:indptr[r + 1]]`` (CSR); `scores` is
        2-D.
    pad : int
        Entries of `indices` to ignore. The class of that number, if there is one, is a negative.

    Returns
    -------
    array, or tuple of arrays
        As `multilabel_crossentropy`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `multilabel_crossentropy`; ValueError also for an `indptr` that does not go from 0 to
        ``len(indices)`` without decreasing. An index out of range: IndexError. On a GPU the rows
        concerned are nan instead.

    Notes
    -----
    Special values and accuracy: those of `multilabel_crossentropy` with targets of 0 and 1.

    Source: kexue.fm/archives/8888, whose log(exp(a) - exp(b)) is avoided: when the positives
    dominate it is a difference of equal numbers.

    Examples
    --------
    >>> import kexue_native as kn
    >>> round(float(kn.sparse_multilabel_crossentropy([3.0, -2.0, -4.0], [0, -1])), 4)
    0.1915
    """
    name = "sparse_multilabel_crossentropy"
    check_flags(name, return_grad=return_grad, return_hess=return_hess)
    bound = is_bound(name, hess)
    call = normalise(
        name,
        f"(n),(n)?,()?->{results('()', return_grad, return_hess)}",
        -1,
        out,
        scores=scores,
        mask=mask,
        threshold=threshold,
    )
    x, mask, limit = call.inputs
    _check_threshold(name, limit)
    listed = _sorted_by_row(name, x, indices, indptr, pad)
    choose("losses.multilabel", call, backend).sparse_multilabel_crossentropy(
        x, *listed, mask, limit, bound, *places(call, return_grad, return_hess)
    )
    return call.result()


def _sorted_by_row(
    name: str, x: Array, indices: Array, indptr: Array | None, pad: int
) -> tuple[Array, Array]:
    """CSR of int64 with the indices of a row in order; -1 is to be ignored.

    An index out of range raises; on a device it becomes n, at the end of its row.
    """
    xp = namespace(x)
    rows, n = x.shape[:-1], x.shape[-1]
    indices = _as_integers(name, "indices", indices, xp)
    try:
        pad = index(pad)
    except TypeError:
        raise TypeError(f"{name}: pad must be an int, got {type(pad).__name__}") from None
    ignored = indices == pad
    outside = ~ignored & ((indices < 0) | (indices >= n))
    if xp is np and np.any(outside):
        raise IndexError(
            f"{name}: indices must be in [0, {n}) or {pad}, got {indices[outside].flat[0]}"
        )
    ordered = xp.where(ignored, -1, xp.where(outside, n, indices).astype(np.int64))
    if indptr is None:
        if indices.shape[:-1] != rows or indices.ndim != x.ndim:
            raise ValueError(
                f"{name}: indices must have shape {rows} and one axis more, got {indices.shape}"
            )
        ordered = xp.sort(ordered, axis=-1).reshape(-1)
        indptr = xp.arange(math.prod(rows) + 1, dtype=np.int64) * indices.shape[-1]
    else:
        indptr = _row_ends(name, x, indices, _as_integers(name, "indptr", indptr, xp))
        # Keys that begin with the row leave every row where it is.
        key = xp.searchsorted(indptr[1:], xp.arange(indices.size), side="right") * (n + 2)
        ordered = xp.sort(key + ordered) - key
    return ordered, indptr


def _as_integers(name: str, argument: str, value: Array, xp: Any) -> Array:
    x = as_array(name, argument, value)
    if not x.size and not isinstance(value, xp.ndarray):
        x = x.astype(np.int64)  # an empty list is one of integers, too
    if x.dtype.kind not in "iu":
        raise TypeError(f"{name}: {argument} must be integers, got {x.dtype}")
    if xp is not namespace(x):
        raise TypeError(f"{name}: {argument} must be a {xp.__name__} array like scores")
    return x


def _row_ends(name: str, x: Array, indices: Array, indptr: Array) -> Array:
    """`indptr` as int64; ValueError unless it divides `indices` among the rows of `x`."""
    xp = namespace(x)
    if x.ndim != 2 or indices.ndim != 1:
        raise ValueError(
            f"{name}: with indptr, scores must be 2-D and indices 1-D, "
            f"got {x.ndim}-D and {indices.ndim}-D"
        )
    if indptr.shape != (len(x) + 1,):
        raise ValueError(f"{name}: indptr must have shape {(len(x) + 1,)}, got {indptr.shape}")
    ends = indptr.astype(np.int64)
    if xp is np:
        if ends[0] != 0 or ends[-1] != indices.size or np.any(np.diff(ends) < 0):
            raise ValueError(
                f"{name}: indptr must rise from 0 to the number of indices, {indices.size}, "
                f"got {indptr}"
            )
    return xp.clip(ends, 0, indices.size)  # on a device nothing beyond the array is read


def multilabel_predict(
    scores: Array,
    threshold: Any = 0.0,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """s > threshold: the classes that `multilabel_crossentropy` predicts.

    Signature ``(n),()?->(n)``.

    Parameters
    ----------
    scores : array of float64, float32, float16, bfloat16, integers or bool
        Any values; classes along the last axis.
    threshold : float or array
        One for all, or broadcastable to ``scores.shape[:-1]``; rounded to the type of `scores`.
    out : array of bool, optional
        Where the result goes.
    backend : str, optional
        See `use_backend`; the array library's own function does the work on all of them.

    Returns
    -------
    array of bool
        The shape of `scores`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `multilabel_crossentropy`.

    Notes
    -----
    Special values: nan gives False, and so does a score equal to the threshold.

    Accuracy: exact.

    Source: kexue.fm/archives/7359.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.multilabel_predict([0.5, -1.0, 0.0])
    array([ True, False, False])
    """
    name = "multilabel_predict"
    call = normalise(name, "(n),()->mask(n)", -1, out, scores=scores, threshold=threshold)
    _check_threshold(name, call.inputs[1])
    usable(name, call.xp, backend)
    (scores, threshold), (predicted,) = map(narrow, call.inputs), call.outputs
    call.xp.greater(scores, threshold[..., None], out=predicted)
    return call.result()


def multilabel_probability(
    scores: Array,
    threshold: Any = 0.0,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """1 / (1 + exp(-2 u)), u = s - threshold: the soft targets for which scores are optimal.

    Signature ``(n),()?->(n)``.

    Parameters
    ----------
    scores : array of float64, float32, float16, bfloat16, integers or bool
        Any values; classes along the last axis.
    threshold : float or array, finite
        One for all, or broadcastable to ``scores.shape[:-1]``; rounded to the type of `scores`.
    out : array, optional
        Where the result goes; it may be `scores` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `scores`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `multilabel_crossentropy`.

    Notes
    -----
    The gradient of `multilabel_crossentropy` is zero where its targets are this, so that minimising
    it estimates this probability, not 1 / (1 + exp(-u)).

    Special values: -inf gives 0, inf 1, nan nan.

    Accuracy: at most LIMITS["multilabel_probability"] ULP of
    MAGNITUDE["multilabel_probability"].

    Source: kexue.fm/archives/9064.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.multilabel_probability([0.0, 1.0]).round(4)
    array([0.5   , 0.8808])
    """
    name = "multilabel_probability"
    call = normalise(name, "(n),()->(n)", -1, out, scores=scores, threshold=threshold)
    scores, threshold = call.inputs
    _check_threshold(name, threshold)
    kernels = choose("losses.multilabel", call, backend)
    kernels.multilabel_probability(scores, threshold[..., None], *call.outputs)
    return call.result()


def globalpointer_mask(
    token_mask: Array,
    *,
    tril: bool = True,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """m_i and m_j and i <= j: the pairs of tokens that can be an entity's first and last.

    Signature ``(n)->(n,n)``.

    Parameters
    ----------
    token_mask : array of bool
        True for tokens, False for padding.
    tril : bool
        Leave out the lower triangle, i > j. False for relations between any two tokens.
    out : array of bool, optional
        Where the result goes.
    backend : str, optional
        See `use_backend`; the array library's own functions do the work on all of them.

    Returns
    -------
    array of bool
        ``token_mask.shape + (n,)``.

    Raises
    ------
    TypeError
        A `token_mask` that is not an array of bool.
    ValueError
        A 0-d `token_mask`; an `out` of another shape.

    Notes
    -----
    Special values: no tokens give no pairs. Accuracy: exact.

    Source: kexue.fm/archives/8373, 8888.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.globalpointer_mask([True, True, False]).astype(int)
    array([[1, 1, 0],
           [0, 1, 0],
           [0, 0, 0]])
    """
    name = "globalpointer_mask"
    check_flags(name, tril=tril)
    tokens = _as_tokens(name, token_mask)
    xp = namespace(tokens)
    usable(name, xp, backend)
    n = tokens.shape[-1]
    (cells,) = allocate(name, xp, tokens, [FLAG], [(*tokens.shape, n)], out)
    xp.logical_and(tokens[..., :, None], tokens[..., None, :], out=cells)
    if tril:
        xp.logical_and(cells, xp.tri(n, dtype=FLAG).T, out=cells)
    return cells if out is None else out


def _as_tokens(name: str, token_mask: Array) -> Array:
    tokens = as_array(name, "token_mask", token_mask)
    if tokens.dtype != FLAG:
        raise TypeError(f"{name}: token_mask must be boolean, got {tokens.dtype}")
    if tokens.ndim == 0:
        raise ValueError(f"{name}: token_mask must have an axis of tokens, got a 0-d array")
    return tokens


def globalpointer_crossentropy(
    scores: Array,
    targets: Array,
    *,
    token_mask: Array | None = None,
    tril: bool = True,
    threshold: Any = 0.0,
    return_grad: bool = False,
    return_hess: bool = False,
    hess: str = "exact",
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """`multilabel_crossentropy` over the pairs of tokens that `globalpointer_mask` allows.

    Signature ``(n,n),(n,n),(n)?,()?->(),(n,n)?,(n,n)?``.

    Parameters
    ----------
    scores : array of float64, float32, float16, bfloat16, integers or bool
        Scores of (first token, last token), of shape (..., n, n) or (..., heads, n, n).
    targets : array of any real type, of the shape of `scores`
        In [0, 1].
    token_mask : array of bool, optional
        (..., n), without the axis of the heads. Default: all True.
    tril : bool
        Leave out the lower triangle, where the first token would come after the last.
    threshold : float or array, finite
        One for all, or broadcastable to ``scores.shape[:-2]``.
    return_grad, return_hess, hess, out, backend :
        See `multilabel_crossentropy`.

    Returns
    -------
    array, or tuple of arrays
        As `multilabel_crossentropy`; one loss for each n by n matrix.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `multilabel_crossentropy`.

    Notes
    -----
    Special values and accuracy: those of `multilabel_crossentropy` with a mask. Cells that are
    left out are never read: what they hold has no effect, whatever the targets are there.

    Source: kexue.fm/archives/8373, 8888; arXiv 2208.03054.

    Examples
    --------
    >>> import kexue_native as kn
    >>> scores = [[2.0, -1.0], [9.0, -3.0]]
    >>> round(float(kn.globalpointer_crossentropy(scores, [[1, 0], [0, 0]])), 4)
    0.4759
    """
    name = "globalpointer_crossentropy"
    check_flags(name, tril=tril, return_grad=return_grad, return_hess=return_hess)
    bound = is_bound(name, hess)
    whole, strict = waiting(True, targets, out, return_grad, return_hess)
    call = normalise(
        name,
        f"(n),(n),()?->{results('()', return_grad, return_hess)}",
        (-2, -1),
        out,
        whole=whole,
        scores=scores,
        targets=targets,
        threshold=threshold,
    )
    x, t, limit = call.inputs
    _check_threshold(name, limit)
    tokens = _tokens_of(name, call, scores, token_mask)
    invalid = choose("losses.multilabel", call, backend).globalpointer_crossentropy(
        x, t, tokens, limit, bool(tril), bound, strict, *places(call, return_grad, return_hess)
    )
    call.require(invalid, IN_UNIT_INTERVAL)
    return call.result()


def _tokens_of(name: str, call: Call, scores: Array, token_mask: Array | None) -> Array | None:
    """`token_mask` for every matrix of scores, a view."""
    shape = np.shape(scores)
    if shape[-1] != shape[-2]:
        raise ValueError(f"{name}: scores must have shape (..., n, n), got {shape}")
    if token_mask is None:
        return None
    tokens = _as_tokens(name, token_mask)
    if namespace(tokens) is not call.xp:
        raise TypeError(f"{name}: token_mask must be a {call.xp.__name__} array like scores")
    if tokens.ndim == len(shape) - 2:
        tokens = tokens[..., None, :]  # one for all heads
    if tokens.shape[-1] != shape[-1] or not fits(tokens.shape, shape[:-1]):
        raise ValueError(
            f"{name}: token_mask must have the shape of scores without heads and last axis, "
            f"got {np.shape(token_mask)} for {shape}"
        )
    return call.xp.broadcast_to(tokens, shape[:-1])


fill_in(globals()[name] for name in __all__)
