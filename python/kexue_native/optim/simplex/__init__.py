"""Optimising over the simplex: projection, Frank-Wolfe steps, the gap, and divergences."""

from __future__ import annotations

from typing import Any

from ..._arrays import Array, Axis, as_real, check_flags, normalise
from ..._backends import choose
from ..._limits import fill_in
from .._common import as_flag, as_mass

__all__ = [
    "bregman_kl",
    "frank_wolfe_step",
    "project_simplex",
    "project_simplex_vjp",
    "simplex_gap",
    "softmax_pullback",
]


def project_simplex(
    v: Array,
    *,
    axis: Axis = -1,
    mass: Array = 1.0,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """max(v_i - tau, 0) with sum = mass: the nearest point of the simplex, sparsemax for mass 1.

    Signature ``(n),()?->(n)``.

    Parameters
    ----------
    v : array of float64, float32, float16, bfloat16, integers or bool
        Any values. Integers and bool are computed in float64.
    axis : int, tuple of ints or None
        Axes of the simplex.
    mass : float or array
        The sum of the result, not negative and finite, one for all or one for each slice (the shape
        without `axis`).
    out : array, optional
        Where the result goes; it may be `v` itself.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array
        The shape of `v`.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays; NumPy mixed with CuPy.
    ValueError
        A `mass` outside its domain (on a GPU an array of masses is not looked at, such a slice is
        nan) or of another shape; a repeated axis. An axis out of range: ``AxisError``.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    tau is found by Newton's method on the piecewise linear sum max(v - tau, 0) - mass, from below:
    entries drop out and none is sorted. Differences to the maximum are what it works on, so that
    1e8 added to all entries changes no more than their own rounding.

    Special values: k entries of +inf share the mass, -inf gives 0; a slice of nothing but -inf is
    nan, and so is one with nan. mass = 0 gives 0.

    Accuracy: at most LIMITS["project_simplex"] ULP of
    MAGNITUDE["project_simplex"].

    Source: kexue.fm/archives/10289.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.project_simplex([0.5, 0.25, -3.0])
    array([0.625, 0.375, 0.   ])
    """
    mass = as_mass("project_simplex", mass)
    call = normalise("project_simplex", "(n),()?->(n)", axis, out, v=v, mass=mass)
    choose("optim.simplex", call, backend).project_simplex(*call.inputs, *call.outputs)
    return call.result()


def project_simplex_vjp(
    p: Array,
    g: Array,
    *,
    axis: Axis = -1,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """s_i (g_i - sum s g / sum s), s = 1 where p > 0: gradient of <g, project_simplex(v)>.

    Signature ``(n),(n)->(n)``; p = project_simplex(v).

    Parameters
    ----------
    p : array of float64, float32, float16, bfloat16, integers or bool
        The result of `project_simplex`.
    g : array of the shape of `p`
        The gradient with respect to it.
    axis, backend : see `project_simplex`
    out : array, optional
        Where the result goes.

    Returns
    -------
    array
        The shape of `p`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `project_simplex`.

    Notes
    -----
    Special values: where p = 0, g is not looked at. nan stays within its slice.

    Accuracy: at most LIMITS["project_simplex_vjp"] ULP of
    MAGNITUDE["project_simplex_vjp"].

    Source: kexue.fm/archives/10289.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.project_simplex_vjp([0.625, 0.375, 0.0], [1.0, 2.0, 5.0])
    array([-0.5,  0.5,  0. ])
    """
    call = normalise("project_simplex_vjp", "(n),(n)->(n)", axis, out, p=p, g=g)
    choose("optim.simplex", call, backend).project_simplex_vjp(*call.inputs, *call.outputs)
    return call.result()


def frank_wolfe_step(
    p: Array,
    g: Array,
    lr: float,
    *,
    axis: Axis = -1,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """(1 - lr) p + lr onehot(argmin g): a step to the vertex that the gradient points to.

    Signature ``(n),(n)->(n)``. Of several smallest entries of `g` the first counts.

    Parameters
    ----------
    p : array of float64, float32, float16, bfloat16, integers or bool
        A point of the simplex.
    g : array
        The gradient; `p` and `g` broadcast.
    lr : float
        In [0, 1], 2 / (t + 2) at step t = 0, 1, ... usually.
    axis, backend : see `project_simplex`
    out : array, optional
        Where the result goes; it may be `p` itself.

    Returns
    -------
    array
        The shape that `p` and `g` broadcast to.

    Raises
    ------
    TypeError, RuntimeError
        As `project_simplex`.
    ValueError
        Shapes that do not broadcast; an `lr` outside [0, 1]; a repeated axis.

    Notes
    -----
    Special values: a slice with nan in g is nan; otherwise g is only compared.

    Accuracy: at most LIMITS["frank_wolfe_step"] ULP of
    MAGNITUDE["frank_wolfe_step"].

    Source: kexue.fm/archives/10289.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.frank_wolfe_step([0.5, 0.5, 0.0], [0.0, 1.0, -1.0], 0.5)
    array([0.25, 0.25, 0.5 ])
    """
    name = "frank_wolfe_step"
    lr = as_real(name, "lr", lr)
    if not 0 <= lr <= 1:
        raise ValueError(f"{name}: lr must be in [0, 1], got {lr}")
    call = normalise(name, "(n),data(n)->data(n)", axis, out, p=p, g=g)
    choose("optim.simplex", call, backend).frank_wolfe_step(*call.inputs, lr, *call.outputs)
    return call.result()


def simplex_gap(
    p: Array,
    g: Array,
    *,
    axis: Axis = -1,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """sum p_i (g_i - min g), which is <p, g> - min g: 0 where p is optimal to first order.

    Signature ``(n),(n)->()``. How much a linear loss with gradient g can fall at most; the value
    to stop at, for `frank_wolfe_step` and `eg_step` alike.

    Parameters
    ----------
    p : array of float64, float32, float16, bfloat16, integers or bool
        A point of the simplex.
    g : array
        The gradient; `p` and `g` broadcast.
    axis, backend : see `project_simplex`
    out : array, optional
        Where the result goes.

    Returns
    -------
    array
        The shape without `axis`; never negative.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `project_simplex`.

    Notes
    -----
    Special values: p = 0 costs nothing even where g = inf. nan stays within its slice; a slice of
    length 0 gives 0.

    Accuracy: at most LIMITS["simplex_gap"] ULP of
    MAGNITUDE["simplex_gap"].

    Source: kexue.fm/archives/10289.

    Examples
    --------
    >>> import kexue_native as kn
    >>> float(kn.simplex_gap([0.5, 0.5, 0.0], [1.0, 2.0, 4.0]))
    0.5
    """
    call = normalise("simplex_gap", "(n),data(n)->()", axis, out, p=p, g=g)
    choose("optim.simplex", call, backend).simplex_gap(*call.inputs, *call.outputs)
    return call.result()


def softmax_pullback(
    p: Array,
    g: Array,
    *,
    axis: Axis = -1,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """p_i (g_i - <p, g>): the gradient of L(softmax(x)) from p = softmax(x) and g = dL/dp.

    Signature ``(n),(n)->(n)``. Descent along it is not exponentiated gradient, which is the step
    x - lr g.

    Parameters
    ----------
    p : array of float64, float32, float16, bfloat16, integers or bool
        Probabilities.
    g : array
        The gradient with respect to them; `p` and `g` broadcast.
    axis, backend : see `project_simplex`
    out : array, optional
        Where the result goes; it may be `p` or `g`.

    Returns
    -------
    array
        The shape that `p` and `g` broadcast to.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `project_simplex`.

    Notes
    -----
    Special values: p = 0 gives 0, whatever its g but nan; nan stays within its slice.

    Accuracy: at most LIMITS["softmax_pullback"] ULP of
    MAGNITUDE["softmax_pullback"].

    Source: kexue.fm/archives/10289.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.softmax_pullback([0.5, 0.5], [1.0, 3.0])
    array([-0.5,  0.5])
    """
    call = normalise("softmax_pullback", "(n),data(n)->data(n)", axis, out, p=p, g=g)
    choose("optim.simplex", call, backend).softmax_pullback(*call.inputs, *call.outputs)
    return call.result()


def bregman_kl(
    p: Array,
    q: Array,
    *,
    axis: Axis = -1,
    unnormalized: bool = False,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """sum p_i log(p_i / q_i), or with `unnormalized` sum p_i log(p_i / q_i) - p_i + q_i.

    Signature ``(n),(n)->()``: the divergence that exponentiated gradient descends by, on the
    simplex and without a constraint.

    Parameters
    ----------
    p, q : arrays of float64, float32, float16, bfloat16, integers or bool
        Weights, not negative; they broadcast.
    axis, backend : see `project_simplex`
    unnormalized : bool
        Weights that need not have the same sum.
    out : array, optional
        Where the result goes.

    Returns
    -------
    array
        The shape without `axis`; never negative with `unnormalized`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `project_simplex`.

    Notes
    -----
    log(p / q) is formed from p - q where they are close, and so is the term with `unnormalized`.

    Special values: p = 0 gives 0 log 0 = 0, q = 0 < p gives inf; negative weights and nan give nan.
    A slice of length 0 gives 0.

    Accuracy: at most LIMITS["bregman_kl"] ULP of MAGNITUDE["bregman_kl"].

    Source: kexue.fm/archives/8968.

    Examples
    --------
    >>> import kexue_native as kn
    >>> round(float(kn.bregman_kl([0.5, 0.5], [0.25, 0.75])), 6)
    0.143841
    >>> float(kn.bregman_kl([1.0 + 2**-40], [1.0], unnormalized=True)) * 2**81
    0.9999999999996968
    """
    check_flags("bregman_kl", unnormalized=unnormalized)
    call = normalise("bregman_kl", "(n),(n)->()", axis, out, p=p, q=q)
    kernels = choose("optim.simplex", call, backend)
    kernels.bregman_kl(
        *call.inputs, as_flag("bregman_kl", "unnormalized", unnormalized), *call.outputs
    )
    return call.result()


fill_in(globals()[name] for name in __all__)
