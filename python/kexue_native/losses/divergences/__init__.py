"""Divergences of the distributions, or independent events, that two arrays of logits give."""

from __future__ import annotations

from typing import Any

from ..._arrays import Array, Axis, as_real, check_flags, normalise, one_of
from ..._backends import choose
from ..._limits import fill_in
from .._common import places, results

__all__ = ["kl_divergence", "symmetric_kl"]

KINDS = ("softmax", "sigmoid", "globalpointer")


def kl_divergence(
    s: Array,
    t: Array,
    *,
    kind: str = "softmax",
    axis: Axis = -1,
    scale: float = 1.0,
    mask: Array | None = None,
    return_grad: bool = False,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """sum p_i log(p_i / q_i), p = softmax(scale s), q = softmax(scale t).

    Signature ``(n),(n),(n)?->(),(n)?,(n)?``. With kind="sigmoid" the sum, over independent events,
    of p log(p / q) + (1 - p) log((1 - p) / (1 - q)), p = sigmoid(scale s), q = sigmoid(scale t).

    Parameters
    ----------
    s, t : arrays of float64, float32, float16, bfloat16, integers or bool
        Logits of p and of q, of one shape; any values.
    kind : {"softmax", "sigmoid", "globalpointer"}
        What the logits are of: one choice among n classes, or n events. "globalpointer" is another
        name of "sigmoid", the right one for the logits of `multilabel_crossentropy`.
    axis : int, tuple of ints or None
        Axes of the sum.
    scale : float, finite
        Factor of both logits. scale=2 gives the probabilities of `multilabel_probability`.
    mask : array of bool, optional
        Broadcastable to `s`; True = takes part. Logits are not looked at elsewhere.
    return_grad : bool
        Return the gradients with respect to s and t, too.
    out : array or tuple of arrays, optional
        Where the results go.
    backend : str, optional
        See `use_backend`.

    Returns
    -------
    array, or tuple of three arrays
        The divergence, of the shape of `s` without `axis` and never negative, or
        (divergence, grad_s, grad_t), gradients of the shape of `s`.

    Raises
    ------
    TypeError
        Complex, object, text or masked arrays; NumPy mixed with CuPy; a `mask` that is not bool.
    ValueError
        Shapes that do not fit; an unknown `kind`; a `scale` that is not finite; a repeated axis. An
        axis out of range: ``AxisError``.
    RuntimeError
        A named backend that is not there.

    Notes
    -----
    Close distributions lose nothing: the divergence is a sum of p (e^-d - 1 + d), and
    d = log p - log q is formed from s - t, not as a difference of logarithms. A number added to s
    or t has no effect with kind="softmax".

    Special values: an empty or fully masked row gives 0; a softmax row that is -inf throughout
    gives nan. Equal entries of s and t, infinite ones included, give no more than others. p = 0
    costs nothing, q = 0 < p gives inf; rows with an infinite divergence have nan for gradients. nan
    stays within its row.

    Accuracy: at most LIMITS["kl_divergence"] ULP of
    MAGNITUDE["kl_divergence"].

    Source: kexue.fm/archives/9039; arXiv 2106.14448.

    Examples
    --------
    >>> import kexue_native as kn
    >>> round(float(kn.kl_divergence([0.0, 0.0], [0.0, 1.0])), 6)
    0.120115
    >>> float(kn.kl_divergence([1.0, 2.0], [1001.0, 1002.0]))
    0.0
    """
    check_flags("kl_divergence", return_grad=return_grad)
    return _divergence(
        "kl_divergence", s, t, kind, axis, scale, mask, return_grad, False, out, backend
    )


def symmetric_kl(
    s: Array,
    t: Array,
    *,
    kind: str = "softmax",
    axis: Axis = -1,
    scale: float = 1.0,
    mask: Array | None = None,
    return_grad: bool = False,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """sum (p_i - q_i) scale (s_i - t_i): `kl_divergence` of p from q and of q from p together.

    Signature ``(n),(n),(n)?->(),(n)?,(n)?``. With kind="sigmoid" it is the divergence of the
    multi-label loss; R-Drop and virtual adversarial training take it as a regulariser.

    Parameters
    ----------
    s, t, kind, axis, scale, mask, return_grad, out, backend : see `kl_divergence`

    Returns
    -------
    array, or tuple of three arrays
        As `kl_divergence`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `kl_divergence`.

    Notes
    -----
    Special values: as `kl_divergence`, but p = 0 < q gives inf, too.

    Accuracy: at most LIMITS["symmetric_kl"] ULP of
    MAGNITUDE["symmetric_kl"].

    Source: kexue.fm/archives/9039; arXiv 2106.14448, 2208.02955.

    Examples
    --------
    >>> import kexue_native as kn
    >>> bool(kn.symmetric_kl([40.0], [41.0], kind="sigmoid") > 2.685e-18)
    True
    >>> a, b = [0.0, 1.0], [1.0, 0.0]
    >>> bool(kn.symmetric_kl(a, b) == kn.symmetric_kl(b, a))
    True
    """
    check_flags("symmetric_kl", return_grad=return_grad)
    return _divergence(
        "symmetric_kl", s, t, kind, axis, scale, mask, return_grad, True, out, backend
    )


def _divergence(
    name: str,
    s: Array,
    t: Array,
    kind: str,
    axis: Axis,
    scale: float,
    mask: Array | None,
    return_grad: bool,
    symmetric: bool,
    out: Any,
    backend: str | None,
) -> Any:
    kind = one_of(name, "kind", kind, KINDS)
    scale = as_real(name, "scale", scale)
    signature = f"(n),(n),(n)?->{results('()', return_grad, return_grad)}"
    call = normalise(name, signature, axis, out, s=s, t=t, mask=mask)
    arguments = *call.inputs, scale, symmetric, *places(call, return_grad, return_grad)
    kernels = choose("losses.divergences", call, backend)
    if kind == "softmax":
        kernels.softmax_divergence(*arguments)
    else:
        kernels.sigmoid_divergence(*arguments)
    return call.result()


fill_in(globals()[name] for name in __all__)
