"""Gradient descent whose step sizes adapt by exponentiated gradient."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ..._arrays import FLOAT64, Array, as_array, as_real, check_flags, empty, normalise, one_of
from ..._backends import choose
from ..._limits import fill_in
from ...losses._common import as_int

__all__ = ["StepsizeState", "eg_gain_step", "eg_stepsize_init", "eg_stepsize_step"]


class StepsizeState(NamedTuple):
    """What `eg_stepsize_step` keeps of one array of parameters: arrays beside it, and a number.

    Attributes
    ----------
    gain : array
        p, the factor of each parameter's learning rate.
    scale : array of float64 of shape ()
        s, the factor of all steps.
    velocity : array
        v, the decaying sum of steps.
    average : array
        m, the decaying average of gradients.
    t : int
        Number of steps made.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.eg_stepsize_init([3.0]).gain
    array([1.])
    """

    gain: Array
    scale: Array
    velocity: Array
    average: Array
    t: int


def eg_stepsize_init(theta: Array) -> StepsizeState:
    """The state of `eg_stepsize_step` before the first step: gains and scale 1, the rest 0.

    Parameters
    ----------
    theta : array of float64, float32, float16, bfloat16, integers or bool
        Parameters; the state has their shape, type (float64 for integers and bool) and device.

    Returns
    -------
    StepsizeState
        A named tuple of arrays and an int, to pickle or to copy as any.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays.

    Notes
    -----
    Signature ``()->(),(),()`` and a number. Special values, accuracy and source: those of
    `eg_stepsize_step`; `theta` is not looked at.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.eg_stepsize_init([1.0, 2.0]).t
    0
    """
    call = normalise("eg_stepsize_init", "()->(),(),()", None, None, theta=theta)
    gain, velocity, average = call.public
    scale = empty(gain, (), FLOAT64)
    gain[...] = scale[...] = 1
    velocity[...] = average[...] = 0
    return StepsizeState(gain, scale, velocity, average, 0)


def eg_stepsize_step(
    theta: Array,
    g: Array,
    state: StepsizeState,
    *,
    lr: float,
    momentum: float = 0.9,
    beta: float = 0.9,
    lr_gain: float = 0.01,
    lr_scale: float = 0.001,
    gain_mode: str = "sign",
    scale_mode: str = "direction",
    gain_bounds: tuple[float, float] = (1e-2, 1e2),
    scale_bounds: tuple[float, float] = (0.1, 10.0),
    eps: float = 1e-10,
    nonfinite: str = "propagate",
    inplace: bool = False,
    out: Array | None = None,
    backend: str | None = None,
) -> tuple[Array, StepsizeState]:
    """theta - s v, v = momentum v + lr p g: descent with gains p and a scale s that adapt.

    Signature: elementwise, with one scale for the whole array. ``p = clip(p exp(lr_gain d))`` and
    ``s = clip(s exp(lr_scale a))`` are steps of `egu_step` on the learning rates: d tells whether
    the gradient goes on as the average m of those before, and a whether it goes along the step
    before. In this order, old values on the right: t + 1, p, s, v, m = beta m + (1 - beta) g,
    theta.

    Parameters
    ----------
    theta : array of float64, float32, float16, bfloat16, integers or bool
        Parameters, of any shape.
    g : array of the shape of `theta`
        The gradient.
    state : StepsizeState
        From `eg_stepsize_init` or the step before.
    lr : float
        Learning rate, finite.
    momentum, beta : float
        In [0, 1).
    lr_gain, lr_scale : float
        Learning rates of gains and scale, not negative; 0 keeps these.
    gain_mode : {"sign", "product"}
        d = sign(g) sign(m), or g m / (1 - beta^max(t-1, 1)).
    scale_mode : {"direction", "product"}
        a = <g, v> / ((|g| + eps) (|v| + eps)), or <g, v>.
    gain_bounds, scale_bounds : pair of floats
        Least and largest gain and scale, 0 < least <= largest.
    eps : float
        Not negative and finite.
    nonfinite : {"propagate", "skip"}
        What a gradient with nan or inf does: follow the arithmetic, or return theta and state as
        they are (for which a GPU is waited for).
    inplace : bool
        Put the new state into the arrays of the old.
    out : array, optional
        Where the new parameters go; it may be `theta` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    theta : array
    state : StepsizeState

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays; NumPy mixed with CuPy; a `state` that is none.
    ValueError
        Shapes that differ; parameters outside their domain.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    With momentum 0, and lr_gain and lr_scale 0, it is gradient descent. The scale is one for each
    array of parameters. s depends on the whole gradient, so that g and v are read before the one
    pass that updates everything; with lr_scale = 0 there is that pass alone.

    Special values: with ``nonfinite="propagate"`` nan and inf spread as the arithmetic has it, over
    the scale to all parameters. A gradient of 0 keeps gains and scale, and theta still moves by
    s v. Bounds hold whatever the gradient, but nan.

    Accuracy: at most LIMITS["eg_stepsize_step"] ULP of
    MAGNITUDE["eg_stepsize_step"].

    The recursion is that of a published summary of the paper and of its authors' earlier optimiser;
    so are the defaults, which the paper's own tables have not confirmed.

    Source: kexue.fm/archives/8968; arXiv 2202.00145.

    Examples
    --------
    >>> import kexue_native as kn, numpy as np
    >>> theta = np.array([1.0, -2.0])
    >>> state = kn.eg_stepsize_init(theta)
    >>> for _ in range(5):
    ...     theta, state = kn.eg_stepsize_step(theta, 2 * theta, state, lr=0.01, lr_gain=0.1)
    >>> theta.round(4), state.gain.round(4)
    (array([ 0.7114, -1.4227]), array([1.4918, 1.4918]))
    """
    name = "eg_stepsize_step"
    check_flags(name, inplace=inplace)
    if not isinstance(state, StepsizeState):
        raise TypeError(f"{name}: state must be a StepsizeState, got {type(state).__name__}")
    x, slope = as_array(name, "theta", theta), as_array(name, "g", g)
    arrays = {"g": slope, "gain": state.gain, "velocity": state.velocity, "average": state.average}
    for argument, value in arrays.items():
        if value.shape != x.shape:
            raise ValueError(
                f"{name}: {argument} must have the shape of theta, {x.shape}, got {value.shape}"
            )
    t = as_int(name, "t", state.t) + 1
    rates = as_real(name, "lr", lr), _below_one(name, "momentum", momentum)
    decay = _below_one(name, "beta", beta)
    adapt = [
        as_real(name, argument, value, at_least=0.0)
        for argument, value in (("lr_gain", lr_gain), ("lr_scale", lr_scale))
    ]
    by_sign = one_of(name, "gain_mode", gain_mode, ("sign", "product")) == "sign"
    direction = one_of(name, "scale_mode", scale_mode, ("direction", "product")) == "direction"
    skips = one_of(name, "nonfinite", nonfinite, ("propagate", "skip")) == "skip"
    bounds = _bounds(name, "gain_bounds", gain_bounds) + _bounds(name, "scale_bounds", scale_bounds)
    eps = as_real(name, "eps", eps, at_least=0.0)
    correction = -math.expm1(max(t - 1, 1) * math.log(decay)) if decay > 0 else 1.0

    call = normalise(
        name,
        "(n),data(n),(n),(n),(n)->(n),(n),(n),(n)",
        None,
        _places(name, x, slope, state, inplace, out),
        theta=x,
        **arrays,
    )
    if skips and not _is_finite(call, backend):
        return (theta if out is None else _copied(out, x)), state
    old = call.xp.asarray(state.scale, FLOAT64)
    scale = state.scale if inplace else empty(old, (), FLOAT64)
    choose("optim.stepsize", call, backend).eg_stepsize_step(
        *call.inputs,
        old,
        *rates,
        decay,
        *adapt,
        *bounds,
        eps,
        correction,
        by_sign,
        direction,
        *call.outputs,
        scale,
    )
    new, gain, velocity, average = call.result()
    return (new if out is None else out), StepsizeState(gain, scale, velocity, average, t)


def _below_one(name: str, argument: str, value: Any) -> float:
    number = as_real(name, argument, value, at_least=0.0)
    if number >= 1:
        raise ValueError(f"{name}: {argument} must be in [0, 1), got {number}")
    return number


def _bounds(name: str, argument: str, value: Any) -> tuple[float, float]:
    try:
        low, high = value
    except (TypeError, ValueError):
        raise TypeError(f"{name}: {argument} must be a pair of numbers, got {value!r}") from None
    low, high = as_real(name, argument, low, above=0.0), as_real(name, argument, high, above=0.0)
    if low > high:
        raise ValueError(f"{name}: {argument} must be in ascending order, got {(low, high)}")
    return low, high


def _places(
    name: str, theta: Array, g: Array, state: StepsizeState, inplace: bool, out: Array | None
) -> tuple[Array, ...] | None:
    """Where the results go, if anywhere in particular."""
    if out is None and not inplace:
        return None
    dtype = normalise(name, "(),data()->()", (), None, theta=theta, g=g).public[0].dtype
    return tuple(
        empty(theta, theta.shape, dtype) if place is None else place
        for place in (
            out,
            *((state.gain, state.velocity, state.average) if inplace else (None, None, None)),
        )
    )


def _is_finite(call: Any, backend: str | None) -> bool:
    unit, squares = (empty(call.inputs[1], (), FLOAT64) for _ in range(2))
    choose("optim.clipping", call, backend).scaled_squares(call.inputs[1], unit, squares)
    return bool(call.xp.isfinite(squares))


def _copied(out: Array, theta: Array) -> Array:
    if out is not theta:
        out[...] = theta
    return out


def eg_gain_step(
    theta: Array,
    g: Array,
    g_prev: Array,
    gain: Array,
    *,
    lr: float,
    gamma: float,
    out: tuple[Array, Array] | None = None,
    backend: str | None = None,
) -> Any:
    """gain exp(gamma g_prev g), then theta - lr gain g: gradient descent with adapting gains.

    Elementwise, signature ``(),(),(),()->(),()``. `eg_stepsize_step` with momentum, beta and
    lr_scale 0, the "product" mode of gains and no bounds.

    Parameters
    ----------
    theta, g, g_prev, gain : arrays of float64, float32, float16, bfloat16, integers or bool
        Parameters, the gradient, that of the step before (0 at first), and gains (1 at first); all
        broadcast.
    lr : float
        Learning rate, finite.
    gamma : float
        Learning rate of the gains, finite.
    out : tuple of two arrays, optional
        Where the results go; they may be `theta` and `gain` themselves.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    tuple of two arrays
        theta and gain.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays; NumPy mixed with CuPy.
    ValueError
        Shapes that do not broadcast; parameters that are not finite.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    From gains of 1 they are exp(gamma sum_k g_{k-1} g_k) later.

    Special values: nan stays in its element; a gain that overflows is inf.

    Accuracy: at most LIMITS["eg_gain_step"] ULP of
    MAGNITUDE["eg_gain_step"].

    Source: kexue.fm/archives/8968.

    Examples
    --------
    >>> import kexue_native as kn
    >>> theta, gain = kn.eg_gain_step([1.0, 2.0], [0.5, -1.0], [0.25, 2.0], 1.0, lr=0.1, gamma=1.0)
    >>> theta.round(4), gain.round(4)
    (array([0.9433, 2.0135]), array([1.1331, 0.1353]))
    """
    name = "eg_gain_step"
    lr, gamma = as_real(name, "lr", lr), as_real(name, "gamma", gamma)
    call = normalise(
        name, "(),data(),(),()->(),()", None, out, theta=theta, g=g, g_prev=g_prev, gain=gain
    )
    choose("optim.stepsize", call, backend).eg_gain_step(*call.inputs, lr, gamma, *call.outputs)
    return call.result()


fill_in(globals()[name] for name in __all__)
