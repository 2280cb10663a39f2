"""Steps of exponentiated gradient: free weights, weights on a simplex, pairs, and logarithms."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..._arrays import (
    ArrangedCall,
    Array,
    Axis,
    Call,
    allocate,
    as_array,
    as_real,
    check_flags,
    fold,
    normalise,
)
from ..._backends import choose
from ..._limits import fill_in
from ...losses._common import as_int
from .._common import as_flag, as_mass, check_weights, per_row

__all__ = [
    "eg_learning_rate",
    "eg_pm_init",
    "eg_pm_step",
    "eg_regret_bound",
    "eg_step",
    "eg_step_log",
    "eg_step_vjp",
    "egu_pm_step",
    "egu_step",
    "hypentropy_step",
]


def egu_step(
    w: Array,
    g: Array,
    lr: Array,
    *,
    signed: bool = False,
    check: bool = False,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """w_i exp(-lr g_i): exponentiated gradient without a constraint.

    Elementwise, signature ``(),(),()->()``. It minimises lr <g, v> plus the unnormalised
    Kullback-Leibler divergence of v from w.

    Parameters
    ----------
    w : array of float64, float32, float16, bfloat16, integers or bool
        Weights, not negative unless `signed`. Integers and bool are computed in float64.
    g : array
        The gradient; any values. `w`, `g` and `lr` broadcast.
    lr : float or array
        Learning rate, one for all or one for each weight; any values.
    signed : bool
        Weights of both signs: the exponent is -lr g sign(w), so that a weight keeps its sign and
        goes downhill, w - lr |w| g to first order.
    check : bool
        Raise for weights that are negative (unless `signed`), infinite or nan; on the host only.
    out : array, optional
        Where the result goes; it may be `w` itself, which is updated in place.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape that `w`, `g` and `lr` broadcast to; 0-d results are scalars.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays; NumPy mixed with CuPy.
    ValueError
        Shapes that do not broadcast; weights, with `check`.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    The multiplier is applied to the exponent of w: 1e-300 e^1000 and 5e-324 e^700 are right, only
    the result itself overflows to inf or underflows, gradually.

    Special values: w = 0 gives 0 for every g but nan. g = inf gives 0, -inf gives inf (lr > 0).
    lr = 0 gives w even if g is infinite. w < 0 gives nan unless `signed`; nan stays in its element.

    Accuracy: at most LIMITS["egu_step"] ULP of MAGNITUDE["egu_step"].

    Source: kexue.fm/archives/8968; Kivinen and Warmuth 1997.

    Examples
    --------
    >>> import kexue_native as kn
    >>> float(kn.egu_step(1e-300, -1000.0, 1.0))
    1.970071114017047e+134
    >>> kn.egu_step([1.0, -1.0], [1.0, 1.0], 0.5, signed=True).round(4)
    array([ 0.6065, -1.6487])
    """
    check_flags("egu_step", signed=signed, check=check)
    call = normalise("egu_step", "(),data(),()->()", None, out, w=w, g=g, lr=lr)
    if check:
        weights = abs(call.inputs[0]) if signed and call.inputs[0].dtype.kind == "f" else None
        check_weights(call, call.inputs[0] if weights is None else weights, rows=False)
    choose("optim.eg", call, backend).egu_step(
        *call.inputs, as_flag("egu_step", "signed", signed), *call.outputs
    )
    return call.result()


def egu_pm_step(
    wp: Array,
    wm: Array,
    g: Array,
    lr: Array,
    *,
    check: bool = False,
    out: tuple[Array, Array] | None = None,
    backend: str | None = None,
) -> Any:
    """wp exp(-lr g) and wm exp(+lr g): the halves of a weight wp - wm of either sign.

    Elementwise, signature ``(),(),(),()->(),()``. The product wp wm stays what it is, see
    `hypentropy_step`.

    Parameters
    ----------
    wp, wm : arrays of float64, float32, float16, bfloat16, integers or bool
        Positive and negative part, not negative.
    g, lr, check, backend : see `egu_step`
        All arrays broadcast.
    out : tuple of two arrays, optional
        Where the results go; they may be `wp` and `wm` themselves.

    Returns
    -------
    tuple of two arrays
        The new halves.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `egu_step`.

    Notes
    -----
    Special values: those of `egu_step`, for each half.

    Accuracy: at most LIMITS["egu_pm_step"] ULP of MAGNITUDE["egu_pm_step"].

    Source: kexue.fm/archives/8968; Kivinen and Warmuth 1997.

    Examples
    --------
    >>> import kexue_native as kn
    >>> up, down = kn.egu_pm_step(1.0, 1.0, 0.5, 1.0)
    >>> round(float(up), 4), round(float(down), 4)
    (0.6065, 1.6487)
    """
    check_flags("egu_pm_step", check=check)
    call = normalise("egu_pm_step", "(),(),data(),()->(),()", None, out, wp=wp, wm=wm, g=g, lr=lr)
    if check:
        check_weights(call, *call.inputs[:2], rows=False)
    choose("optim.eg", call, backend).egu_pm_step(*call.inputs, *call.outputs)
    return call.result()


def hypentropy_step(
    w: Array,
    g: Array,
    lr: Array,
    *,
    beta: float,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """beta sinh(asinh(w / beta) - lr g): mirror descent with the hyperbolic entropy.

    Elementwise, signature ``(),(),()->()``. `egu_pm_step` on w = wp - wm without its two halves:
    beta = 2 sqrt(wp wm). It multiplies, as `egu_step` with ``signed=True``, where |w| is far above
    beta, and is gradient descent with the rate lr beta where it is far below.

    Parameters
    ----------
    w : array of float64, float32, float16, bfloat16, integers or bool
        Weights of either sign.
    g, lr, backend : see `egu_step`
    beta : float
        Positive and finite.
    out : array, optional
        Where the result goes; it may be `w` itself.

    Returns
    -------
    array
        The shape that `w`, `g` and `lr` broadcast to; 0-d results are scalars.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `egu_step`; ValueError also for a `beta` that is not positive and finite.

    Notes
    -----
    Computed as s (|w| e^-b - delta sinh b) with s = sign(w), b = s lr g and
    delta = beta^2 / (|w| + hypot(w, beta)), which neither overflows for large w / beta nor cancels
    for small.

    Special values: odd in (w, g). g = +-inf gives -+inf (lr > 0); lr = 0 gives w even if g is
    infinite. nan stays in its element.

    Accuracy: at most LIMITS["hypentropy_step"] ULP of
    MAGNITUDE["hypentropy_step"].

    Source: kexue.fm/archives/8968; Ghai, Hazan and Singer 2020, arXiv 1902.01903.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.hypentropy_step([3.0, 0.0, -1e300], 0.1, 1.0, beta=0.01)
    array([ 2.71451058e+000, -1.00166750e-003, -1.10517092e+300])
    """
    beta = as_real("hypentropy_step", "beta", beta, above=0.0)
    call = normalise("hypentropy_step", "(),data(),()->()", None, out, w=w, g=g, lr=lr)
    choose("optim.eg", call, backend).hypentropy_step(*call.inputs, beta, *call.outputs)
    return call.result()


def eg_step(
    w: Array,
    g: Array,
    lr: Array,
    *,
    axis: Axis = -1,
    mass: Array | str = 1.0,
    mix: float = 0.0,
    check: bool = False,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """(1 - mix) m w_i e^(-lr g_i) / sum_j w_j e^(-lr g_j) + mix m / n: a step on the simplex.

    Signature ``(n),(n),(n),()?->(n)``. With mass 1 it minimises lr <g, v> plus the
    Kullback-Leibler divergence of v from w over the simplex, and equals softmax(log w - lr g).

    Parameters
    ----------
    w : array of float64, float32, float16, bfloat16, integers or bool
        Weights, not negative; they need not sum to 1. Integers and bool are computed in float64.
    g : array
        The gradient; any values. `w`, `g` and `lr` broadcast.
    lr : float or array
        Learning rate, of any sign: one for all or one for each slice (size 1 along `axis`).
    axis : int, tuple of ints or None
        Axes of the simplex.
    mass : float, array or "keep"
        m, the sum of the result, not negative and finite: one for all, one for each slice (the
        shape without `axis`), or the sum of the slice of `w`.
    mix : float
        In [0, 1]: the share of the uniform distribution, below which no weight falls.
    check : bool
        Raise for weights that are negative, infinite, nan or 0 throughout a slice, instead of nan;
        on the host only.
    out : array, optional
        Where the result goes; it may be `w` itself, which is updated in place.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape that `w`, `g` and `lr` broadcast to.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays; NumPy mixed with CuPy.
    ValueError
        Shapes that do not broadcast; a learning rate that varies along `axis`; a `mass` or `mix`
        outside its domain (on a GPU an array of masses is not looked at, such a slice is nan);
        weights, with `check`; a repeated axis. An axis out of range: ``AxisError``.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Only differences to the pivot, the entry of the largest log w - lr g, are multiplied and raised:
    gradients may be as large and as far apart as there are numbers. The sum is within (n + 4) u of
    `mass`.

    Special values: w = 0 gives 0 (without `mix`), whatever its g. g = inf gives 0, and g = -inf
    leaves the others none: such entries share the mass as their weights do. lr = 0 normalises w,
    whatever g. A slice is nan if one of its w is negative, infinite or nan, a g is nan, lr is not
    finite, all weights are 0 (0 with ``mass="keep"``) or all that are not have g = inf. One entry
    gives `mass`.

    Accuracy: at most LIMITS["eg_step"] ULP of MAGNITUDE["eg_step"].

    Source: kexue.fm/archives/8968; Kivinen and Warmuth 1997.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.eg_step([0.25, 0.25, 0.5], [1.0, 0.0, -1.0], 0.5).round(4)
    array([0.1237, 0.2039, 0.6724])
    >>> kn.eg_step([1.0, 1.0], [1e308, -1e308], 1e300, mix=0.1)
    array([0.05, 0.95])
    """
    name = "eg_step"
    check_flags(name, check=check)
    keep = isinstance(mass, str)
    if keep and mass != "keep":
        raise ValueError(f'{name}: mass must be a number, an array or "keep", got {mass!r}')
    mass = 1.0 if keep else as_mass(name, mass)
    share = as_real(name, "mix", mix)
    if not 0 <= share <= 1:
        raise ValueError(f"{name}: mix must be in [0, 1], got {share}")
    call = normalise(name, "(n),data(n),(n),()?->data(n)", axis, out, w=w, g=g, lr=lr, mass=mass)
    w, g, lr, mass = call.inputs
    if check:
        check_weights(call, w, rows=not keep)
    choose("optim.eg", call, backend).eg_step(
        w, g, per_row(call, "lr", lr), mass, share, keep, *call.outputs
    )
    return call.result()


def eg_step_log(
    logw: Array,
    g: Array,
    lr: Array,
    *,
    axis: Axis = -1,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """z - logsumexp(z), z = logw - lr g: `eg_step` of the logarithms of weights.

    Signature ``(n),(n),(n)->(n)``. Weights that become 0 stay 0; their logarithms do not end
    there, so states of long runs are better kept so.

    Parameters
    ----------
    logw : array of float64, float32, float16, bfloat16, integers or bool
        Logarithms of weights, -inf for 0; they need not be normalised.
    g, lr, axis, backend : see `eg_step`
    out : array, optional
        Where the result goes; it may be `logw` itself.

    Returns
    -------
    array
        The shape that `logw`, `g` and `lr` broadcast to.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `eg_step`.

    Notes
    -----
    Special values: logw = -inf stays; otherwise those of `eg_step`.

    Accuracy: at most LIMITS["eg_step_log"] ULP of
    MAGNITUDE["eg_step_log"].

    Source: kexue.fm/archives/8968.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.eg_step_log([0.0, 0.0], [0.0, 1500.0], 1.0)
    array([    0., -1500.])
    """
    call = normalise("eg_step_log", "(n),data(n),(n)->data(n)", axis, out, logw=logw, g=g, lr=lr)
    logw, g, lr = call.inputs
    kernels = choose("optim.eg", call, backend)
    kernels.eg_step_log(logw, g, per_row(call, "lr", lr), *call.outputs)
    return call.result()


def eg_pm_step(
    wp: Array,
    wm: Array,
    g: Array,
    lr: Array,
    *,
    mass: Array,
    axis: Axis = -1,
    kw_scale: bool = False,
    check: bool = False,
    out: tuple[Array, Array] | None = None,
    backend: str | None = None,
) -> Any:
    """`eg_step` of the 2n weights (wp, wm) with the gradients (g, -g), which sum to `mass`.

    Signature ``(n),(n),(n),(n),()?->(n),(n)``. The signed weight is wp - wm, in the ball
    sum |w| <= mass.

    Parameters
    ----------
    wp, wm : arrays of float64, float32, float16, bfloat16, integers or bool
        Positive and negative part, not negative; see `eg_pm_init`.
    g, lr, axis, check, backend : see `eg_step`
        All arrays broadcast.
    mass : float or array
        The sum of the result, see `eg_step`.
    kw_scale : bool
        Take lr times mass for the rate, as Kivinen and Warmuth do; without it the step is mirror
        descent in w itself.
    out : tuple of two arrays, optional
        Where the results go; they may be `wp` and `wm` themselves.

    Returns
    -------
    tuple of two arrays
        The new halves.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `eg_step`.

    Notes
    -----
    Special values: those of `eg_step`, for the slice of 2n. Exchanging wp and wm and the sign of g
    exchanges the results.

    Accuracy: at most LIMITS["eg_pm_step"] ULP of
    MAGNITUDE["eg_pm_step"].

    Source: kexue.fm/archives/8968; Kivinen and Warmuth 1997.

    Examples
    --------
    >>> import kexue_native as kn
    >>> up, down = kn.eg_pm_step([0.5, 0.5], [0.5, 0.5], [1.0, 0.0], 1.0, mass=2.0)
    >>> (up - down).round(4)
    array([-0.9242,  0.    ])
    """
    check_flags("eg_pm_step", kw_scale=kw_scale, check=check)
    mass = as_mass("eg_pm_step", mass)
    call = normalise(
        "eg_pm_step",
        "(n),(n),data(n),(n),()?->data(n),data(n)",
        axis,
        out,
        wp=wp,
        wm=wm,
        g=g,
        lr=lr,
        mass=mass,
    )
    wp, wm, g, lr, mass = call.inputs
    if check:
        check_weights(call, wp, wm)
    choose("optim.eg", call, backend).eg_pm_step(
        wp,
        wm,
        g,
        per_row(call, "lr", lr),
        mass,
        as_flag("eg_pm_step", "kw_scale", kw_scale),
        *call.outputs,
    )
    return call.result()


def eg_pm_init(
    w: Array,
    *,
    mass: Array,
    axis: Axis = -1,
    out: tuple[Array, Array] | None = None,
    backend: str | None = None,
) -> Any:
    """max(w, 0) + r and max(-w, 0) + r, r = (mass - sum |w|) / (2n): halves for `eg_pm_step`.

    Signature ``(n),()?->(n),(n)``.

    Parameters
    ----------
    w : array of float64, float32, float16, bfloat16, integers or bool
        Signed weights with sum |w| <= mass (1 + 8 u), u the unit roundoff.
    mass : float or array
        The sum of both halves, one for all or one for each slice.
    axis, backend : see `eg_step`
    out : tuple of two arrays, optional
        Where the results go.

    Returns
    -------
    tuple of two arrays
        The halves, not negative, of the shape of `w`.

    Raises
    ------
    TypeError, RuntimeError
        As `eg_step`.
    ValueError
        As `eg_step`; a slice with a larger sum |w|, or with nan: on a GPU it is nan instead.

    Notes
    -----
    Special values: an infinite or nan weight is a larger sum.

    Accuracy: at most LIMITS["eg_pm_init"] ULP of MAGNITUDE["eg_pm_init"].

    Source: kexue.fm/archives/8968; Kivinen and Warmuth 1997.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.eg_pm_init([0.5, -0.25], mass=1.0)
    (array([0.5625, 0.0625]), array([0.0625, 0.3125]))
    """
    mass = as_mass("eg_pm_init", mass)
    call = normalise("eg_pm_init", "(n),()?->(n),(n)", axis, out, whole=True, w=w, mass=mass)
    invalid = choose("optim.eg", call, backend).eg_pm_init(*call.inputs, *call.outputs)
    call.require(invalid, "sum |w| must be at most mass")
    return call.result()


def eg_step_vjp(
    v: Array,
    w: Array,
    g: Array,
    lr: Array,
    *,
    axis: Axis = -1,
    mass: Array = 1.0,
    out: tuple[Array, Array, Array] | None = None,
    backend: str | None = None,
) -> Any:
    """y_i / w_i c_i, -lr y_i c_i, -sum g y c with c = v - <v, y> / mass: gradients of `eg_step`.

    Signature ``(n),(n),(n),(n),()?->(n),(n),()``; y = eg_step(w, g, lr), and v is the gradient
    with respect to it.

    Parameters
    ----------
    v : array of float64, float32, float16, bfloat16, integers or bool
        Of the shape of the result of `eg_step`, or what broadcasts to it.
    w, g, lr, axis, mass, backend : see `eg_step`
        `mass` is a number or an array.
    out : tuple of three arrays, optional
        Where the results go.

    Returns
    -------
    tuple of three arrays
        The gradients (dw, dg, dlr) of <v, eg_step(w, g, lr)>, of the shapes of `w`, `g` and `lr`:
        where one of these was enlarged, its gradient is summed.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `eg_step`.

    Notes
    -----
    Special values: dw is 0 where w = 0; slices in which `eg_step` is nan are nan.

    Accuracy: at most LIMITS["eg_step_vjp"] ULP of
    MAGNITUDE["eg_step_vjp"].

    Source: kexue.fm/archives/8968.

    Examples
    --------
    >>> import kexue_native as kn
    >>> dw, dg, dlr = kn.eg_step_vjp([1.0, 0.0], [0.5, 0.5], [0.0, 0.0], 1.0)
    >>> dw, dg
    (array([ 0.5, -0.5]), array([-0.25,  0.25]))
    """
    name = "eg_step_vjp"
    given = [
        x if isinstance(x, (bool, int, float)) else as_array(name, k, x)
        for k, x in zip("v w g lr".split(), (v, w, g, lr), strict=True)
    ]
    mass = as_mass(name, mass)
    call = normalise(
        name,
        "(n),(n),data(n),(n),()?->data(n),data(n),()",
        axis,
        None,
        v=given[0],
        w=given[1],
        g=given[2],
        lr=given[3],
        mass=mass,
    )
    v, w, g, lr, mass = call.inputs
    choose("optim.eg", call, backend).eg_step_vjp(
        v, w, g, per_row(call, "lr", lr), mass, *call.outputs
    )
    assert isinstance(call, ArrangedCall)
    dw, dg, dlr = call.result()
    values = dw, dg, dlr.reshape(call.layout.reduced(keepdims=True))
    shapes: list[tuple[int, ...]] = [np.shape(x) for x in given[1:]]
    targets = allocate(name, call.xp, dw, [dw.dtype] * 3, shapes, out)
    for target, value in zip(targets, values, strict=True):
        target[...] = fold(call.xp, value, target.shape)
    return Call(name, (), (), out or targets, out is not None).result()


def eg_learning_rate(n: int, T: int, *, grad_range: float = 1.0) -> float:
    """sqrt(8 ln n / T) / grad_range: the rate with the smallest `eg_regret_bound`.

    Signature: numbers in, a number out.

    Parameters
    ----------
    n : int
        Number of weights, at least 1.
    T : int
        Number of rounds, at least 1.
    grad_range : float
        R, positive and finite: max g - min g of a round at most.

    Returns
    -------
    float
        The learning rate.

    Raises
    ------
    TypeError, ValueError
        Arguments outside their domain.

    Notes
    -----
    The bound is then R sqrt(T ln n / 2). Portfolios of relatives between r and 1 have R = 1 / r.

    Special values: n = 1 gives 0. Accuracy: a few roundings of float64.

    Source: kexue.fm/archives/8968; Helmbold, Schapire, Singer and Warmuth 1998.

    Examples
    --------
    >>> import kexue_native as kn
    >>> round(kn.eg_learning_rate(36, 5651), 6)
    0.071226
    """
    name = "eg_learning_rate"
    n, T = _at_least_one(name, "n", n), _at_least_one(name, "T", T)
    return math.sqrt(8 * math.log(n) / T) / as_real(name, "grad_range", grad_range, above=0.0)


def eg_regret_bound(n: int, T: int, lr: float, *, grad_range: float = 1.0) -> float:
    """ln n / lr + lr T grad_range^2 / 8: how much more than the best weight EG loses at most.

    Signature: numbers in, a number out.

    Parameters
    ----------
    n, T, grad_range : see `eg_learning_rate`
    lr : float
        Learning rate, positive and finite.

    Returns
    -------
    float
        The bound of sum <g_t, w_t - v> for every v on the simplex, from uniform weights.

    Raises
    ------
    TypeError, ValueError
        Arguments outside their domain.

    Notes
    -----
    From other weights w_1 the first term is KL(v, w_1) / lr.

    Special values: n = 1 leaves the second term. Accuracy: a few roundings of float64.

    Source: kexue.fm/archives/8968; Kivinen and Warmuth 1997.

    Examples
    --------
    >>> import kexue_native as kn
    >>> lr = kn.eg_learning_rate(10, 1000)
    >>> round(kn.eg_regret_bound(10, 1000, lr), 4)
    33.9307
    """
    name = "eg_regret_bound"
    n, T = _at_least_one(name, "n", n), _at_least_one(name, "T", T)
    lr = as_real(name, "lr", lr, above=0.0)
    grad_range = as_real(name, "grad_range", grad_range, above=0.0)
    return math.log(n) / lr + lr * T * grad_range**2 / 8


def _at_least_one(name: str, argument: str, value: Any) -> int:
    count = as_int(name, argument, value)
    if count < 1:
        raise ValueError(f"{name}: {argument} must be at least 1, got {count}")
    return count


fill_in(globals()[name] for name in __all__)
