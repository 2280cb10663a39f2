"""Sequences of exponentiated gradient steps: experts, and portfolios."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..._arrays import Array, allocate, as_array, empty, namespace, normalise, widen
from ..._backends import choose
from ..._limits import fill_in
from .._common import per_row
from ..eg import eg_step

__all__ = ["Portfolio", "hedge", "portfolio_eg"]


def hedge(
    losses: Array,
    lr: Array,
    *,
    w0: Array | None = None,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """w_t = softmax(log w0 - lr sum of losses before t): weights of experts for each round.

    Signature ``(t,n),(),(n)?->(t+1,n)``.

    Parameters
    ----------
    losses : array of float64, float32, float16, bfloat16, integers or bool, shape (..., T, n)
        Loss of each expert in each round; any values.
    lr : float or array
        Learning rate, one for all or one for each sequence: it broadcasts with the leading axes of
        `losses`, so that one sequence may be given many rates at once.
    w0 : array of shape (..., n), optional
        Weights before the first round, not negative; uniform without it.
    out : array of shape (..., T + 1, n), optional
        Where the result goes.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array of shape (..., T + 1, n)
        Weights before each round, and after the last; each sums to 1.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays; NumPy mixed with CuPy.
    ValueError
        `losses` with fewer than two axes; shapes that do not broadcast.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Losses are added up in float64, whatever their type. The regret is at most `eg_regret_bound`.

    Special values: those of `eg_step`, with the sums for gradients.

    Accuracy: at most LIMITS["hedge"] ULP of MAGNITUDE["hedge"].

    Source: kexue.fm/archives/8968; Kivinen and Warmuth 1997.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.hedge([[0.0, 1.0], [0.0, 1.0]], 1.0).round(4)
    array([[0.5   , 0.5   ],
           [0.7311, 0.2689],
           [0.8808, 0.1192]])
    """
    name = "hedge"
    x = as_array(name, "losses", losses)
    if x.ndim < 2:
        raise ValueError(f"{name}: losses must have at least 2 axes, got shape {x.shape}")
    xp = namespace(x)
    first = xp.zeros((*x.shape[:-2], 1, x.shape[-1]), x.dtype)
    rate = lr if isinstance(lr, (bool, int, float)) else as_array(name, "lr", lr)[..., None, None]
    start = xp.ones(x.shape[-1], x.dtype) if w0 is None else as_array(name, "w0", w0)[..., None, :]
    call = normalise(
        name,
        "(n),(n),(n)->data(n)",
        -1,
        out,
        losses=xp.concatenate([first, x], axis=-2),
        w0=start,
        lr=rate,
    )
    x, start, rate = call.inputs
    x = widen(x)
    # Sums of doubles are rounded once, not once a round, where there is a wider type.
    wider = np.longdouble if xp is np and call.outputs[0].dtype == np.float64 else x.dtype
    sums = xp.cumsum(x, axis=-2, dtype=wider).astype(x.dtype, copy=False)
    choose("optim.online", call, backend).hedge(
        start, sums, per_row(call, "lr", rate), *call.outputs
    )
    return call.result()


class Portfolio(NamedTuple):
    """What `portfolio_eg` gives.

    Attributes
    ----------
    weights : array, shape (..., T, n)
        The portfolio at the beginning of each day.
    final : array, shape (..., n)
        That after the last.
    log_wealth : array, shape (..., T)
        Logarithm of the wealth at the end of each day, from 1.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.portfolio_eg([[1.0, 2.0]]).weights
    array([[0.5, 0.5]])
    """

    weights: Array
    final: Array
    log_wealth: Array


def portfolio_eg(
    relatives: Array,
    *,
    lr: Array = 0.05,
    w0: Array | None = None,
    out: tuple[Array, Array, Array] | None = None,
    backend: str | None = None,
) -> Portfolio:
    """w_{t+1} = eg_step(w_t, -x_t / r_t, lr), r_t = <w_t, x_t>: online portfolio selection.

    Signature ``(t,n),(),(n)?->(t,n),(n),(t)``. x_t are the price relatives of day t, the price at
    its end over that at its beginning, and log wealth_t = sum of log r_s for s <= t.

    Parameters
    ----------
    relatives : array of float64, float32, float16, bfloat16, integers or bool, shape (..., T, n)
        Price relatives x, not negative; gross ones, 1.01 and not 0.01.
    lr : float or array
        Learning rate, 0.01 to 0.1 usually: one for all or one for each sequence. It broadcasts with
        the leading axes of `relatives`, so that one sequence may be given many rates at once.
    w0 : array of shape (..., n), optional
        The first portfolio, not negative, which is normalised; uniform without it.
    out : tuple of three arrays, optional
        Where the results go.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    Portfolio
        The named tuple (weights, final, log_wealth).

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays; NumPy mixed with CuPy.
    ValueError
        `relatives` with fewer than two axes; shapes that do not broadcast.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Computed in float64 from day to day, whatever the type; wealth exists as its logarithm only, and
    overflows nowhere.

    Special values: x = 0 is allowed as long as r > 0; r = 0 gives a log wealth of -inf, and weights
    are nan from then on. A negative, infinite or nan relative makes the rest of its sequence nan.

    Accuracy: at most LIMITS["portfolio_eg"] ULP of
    MAGNITUDE["portfolio_eg"].

    Source: kexue.fm/archives/8968; Helmbold, Schapire, Singer and Warmuth 1998.

    Examples
    --------
    >>> import kexue_native as kn, numpy as np
    >>> x = np.tile([[1.0, 0.5], [1.0, 2.0]], (20, 1))
    >>> p = kn.portfolio_eg(x, lr=[0.05, 0.5])  # neither asset gains anything by itself
    >>> p.log_wealth[:, -1].round(6)
    array([2.244247, 1.209766])
    """
    name = "portfolio_eg"
    x = as_array(name, "relatives", relatives)
    if x.ndim < 2:
        raise ValueError(f"{name}: relatives must have at least 2 axes, got shape {x.shape}")
    rate = lr if isinstance(lr, (bool, int, float)) else as_array(name, "lr", lr)[..., None, None]
    start = 1.0 if w0 is None else as_array(name, "w0", w0)[..., None, :]
    n = x.shape[-1]
    place = out[0] if isinstance(out, tuple) and len(out) == 3 else None
    xp = namespace(x)
    # A day's weights are written before its relatives are read.
    whole = isinstance(place, xp.ndarray) and xp.may_share_memory(place, x)
    call = normalise(
        name, "(n),(n),(n)->data(n)", (-2, -1), place, whole=whole, relatives=x, w0=start, lr=rate
    )
    x, start, rate = call.inputs
    weights = call.public[0]
    batch, days = weights.shape[:-2], weights.shape[-2]
    if weights.shape[-1] != n:
        raise ValueError(f"{name}: w0 must have shape (..., {n}), got one of {weights.shape[-1]}")
    final, log_wealth = (empty(weights, (*batch, size), weights.dtype) for size in (n, days))
    shapes = [weights.shape, final.shape, log_wealth.shape]
    if out is not None:
        allocate(name, call.xp, weights, [weights.dtype] * 3, shapes, out)
    if days == 0:
        first = 1.0 if w0 is None else w0
        final[...] = eg_step(first, namespace(weights).zeros(final.shape, final.dtype), 1.0)
    elif n > 0:
        bits = call.outputs[0].dtype
        choose("optim.online", call, backend).portfolio_eg(
            x,
            start,
            per_row(call, "lr", rate),
            n,
            call.outputs[0],
            final.view(bits),
            log_wealth.view(bits),
        )
    else:
        log_wealth[...] = -math.inf
    results = [call.result(), final, log_wealth]
    if out is not None:
        for place, result in zip(out[1:], results[1:], strict=True):
            place[...] = result
        results[1:] = out[1:]
    return Portfolio(*results)


fill_in(globals()[name] for name in __all__ if name != "Portfolio")
