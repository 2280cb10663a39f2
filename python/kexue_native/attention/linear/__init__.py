"""Attention by feature maps, linear in the sequence: phi(q) sum psi(k) v^T / phi(q).sum psi(k)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from inspect import signature
from operator import is_
from typing import Any, NamedTuple

import numpy as np

from ..._arrays import FLAG, FLOAT32, FLOAT64, Array, as_array, as_real, check_flags, namespace
from ..._backends import choose, current
from ..._limits import fill_in
from .._common import Batch, as_index, bits, finish, offset_of, over_sequences, results
from .._reference import CAUSAL, EXCLUDE_SELF
from .reference import EXPONENTIAL, KINDS

__all__ = [
    "FavorParams",
    "LinearAttentionState",
    "feature_map",
    "linear_attention",
    "linear_attention_init",
    "linear_attention_merge",
    "linear_attention_prefill",
    "linear_attention_step",
    "linear_attention_vjp",
]

FAVOR = {
    "positive": "affine",
    "hyperbolic": "affine",
    "plus": "affine",
    "sderf": "affine",
    "trig": "trig",
    "relu": "random_relu",
}

STEPS = ("identity", "elu1", "relu", "exp", "affine")  # that have a kernel for one key
KERNELS = (*KINDS[:8], *(f"favor_{name}" for name in FAVOR))
WEIGHTS = ("key_weight", "log_decay")  # of keys, with gradients


class FavorParams(NamedTuple):
    """Constants of random features: `a`, and for "sderf", which has (d,) of them, `rotation`."""

    a: Any
    rotation: Any


class Map(NamedTuple):
    """A feature map as kernels take it."""

    projection: Array | None
    bias: Array | None
    kind: int
    input_scale: float
    eps: float
    features: int

    @property
    def exponential(self) -> bool:
        return KINDS[self.kind] in EXPONENTIAL


def resolve(
    name: str,
    xp: Any,
    d: int,
    wide: Any,
    kernel: str,
    projection: Array | None,
    params: Any,
    input_scale: float | None,
    kernel_eps: float,
) -> Map:
    """Check the options of a feature map of inputs with d numbers."""
    if not isinstance(kernel, str) or kernel not in KERNELS:
        raise ValueError(f"{name}: kernel must be one of {', '.join(KERNELS)}, got {kernel!r}")
    favor = kernel.startswith("favor_")
    scale = 1.0 if not favor else 1.0 / max(d, 1) ** 0.25
    if input_scale is not None:
        scale = as_real(name, "input_scale", input_scale, above=0.0)
    eps = as_real(name, "kernel_eps", kernel_eps, at_least=0.0)
    if not favor:
        if projection is not None or params is not None:
            raise ValueError(f"{name}: projection must be None for kernel {kernel!r}, got one")
        count = {"cosine": 1 + d, "taylor2": 1 + d + d * (d + 1) // 2}.get(kernel, d)
        return Map(None, None, KINDS.index(kernel), scale, eps, count)
    if projection is None:
        raise ValueError(f"{name}: projection must be given for kernel {kernel!r}, got None")
    w = as_array(name, "projection", projection)
    if w.ndim != 2 or w.shape[1] != d:
        raise ValueError(f"{name}: projection must have shape (m, {d}), got {w.shape}")
    if w.dtype.kind not in "fiu" and w.dtype.name != "bfloat16":
        raise TypeError(f"{name}: projection must be real numbers, got {w.dtype}")
    w = xp.asarray(w)
    m, which = w.shape[0], kernel[len("favor_") :]
    kind = KINDS.index(FAVOR[which])
    if FAVOR[which] != "affine":
        count = 2 * m if which == "trig" else m
        return Map(w.astype(wide, copy=False), None, kind, scale, eps, count)
    constant = -math.log(max(m, 1)) / 2
    if which in ("plus", "sderf"):
        a, rotation = _checked(name, which, d, params)
        w, constant = _stretched(xp, w, a, rotation, constant)
    elif params is not None:
        raise ValueError(f"{name}: params must be None for features {which!r}, got {params!r}")
    elif which == "hyperbolic":
        w, constant = xp.concatenate([w, -w]), constant - math.log(2) / 2
    bias = xp.zeros(w.shape[0]) + constant
    w, bias = w.astype(wide, copy=False), bias.astype(wide, copy=False)
    return Map(w, bias, kind, scale, eps, w.shape[0])


def _checked(name: str, which: str, d: int, params: Any) -> tuple[Any, Any]:
    try:
        a, rotation = params
    except TypeError:
        raise ValueError(
            f'{name}: params must be the result of favor_params for features "{which}", '
            f"got {params!r}"
        ) from None
    a = np.asarray(a, FLOAT64)
    if a.shape != (() if which == "plus" else (d,)) or not np.all(a < 0.25):
        wanted = "a number" if which == "plus" else f"of shape ({d},)"
        raise ValueError(f"{name}: params.a must be {wanted} and less than 1/4, got {a}")
    if which == "plus":
        return a, None
    rotation = np.asarray(rotation, FLOAT64)
    if rotation.shape != (d, d):
        raise ValueError(
            f"{name}: params.rotation must have shape ({d}, {d}), got {rotation.shape}"
        )
    return a, rotation


def _stretched(xp: Any, w: Array, a: Any, rotation: Any, constant: float) -> tuple[Array, Array]:
    """W and bias of log features sum a_l w_l^2 + sqrt(1 - 4 a_l) w_l (R^T x)_l - |x|^2 / 2"""
    w = w.astype(FLOAT64)
    d = w.shape[1]
    root = xp.asarray(np.sqrt(1 - 4 * a))
    quarter = float(np.sum(np.log1p(-4 * np.broadcast_to(a, (d,))))) / 4
    bias = constant + quarter + xp.sum(xp.asarray(a) * w * w, axis=-1)
    w = w * root
    return (w if rotation is None else w @ xp.asarray(rotation).T), bias


def feature_map(
    x: Array,
    kernel: str = "elu1",
    *,
    projection: Array | None = None,
    params: Any = None,
    is_query: bool = True,
    input_scale: float | None = None,
    kernel_eps: float = 1e-3,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """The features phi(x) of `linear_attention`, as they are, for inspection.

    Signature ``(n,d)->(n,f)``.

    Parameters
    ----------
    x : array (..., n, d) of float16, bfloat16, float32 or float64
    kernel, projection, params, input_scale, kernel_eps
        As `linear_attention`.
    is_query : bool
        Features of queries or of keys; they differ for "efficient", whose keys have e^x.
    out : array, optional
        Where the result goes.
    backend : str, optional
        "reference", "cpu" or one of its levels, "cuda".

    Returns
    -------
    array, shape (..., n, f), dtype of `x`

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `linear_attention`.

    Notes
    -----
    Exponential features may overflow here; `linear_attention` works with their logarithms.

    Source: kexue.fm/archives/7546, 7921, 8338, 8601.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.feature_map([[1.0, -1.0]], "elu1").round(6)
    array([[2.      , 0.367879]])
    """
    name = "feature_map"
    check_flags(name, is_query=is_query)
    batch = Batch(name, x=(x, "ld"))
    way = resolve(
        name,
        batch.xp,
        batch.size["d"],
        batch.wide,
        kernel,
        projection,
        params,
        input_scale,
        kernel_eps,
    )
    batch.size["f"] = way.features
    found = results(batch, [("lf", None, batch.dtype)], out)
    kernels = choose("attention.linear", batch, backend)
    kernels.feature_map(*batch.kernel_arrays("x"), *way[:5], bool(is_query), bits(found[0].buffer))
    return finish(batch, found, out)


class LinearAttentionState:
    """What `linear_attention` remembers of the keys so far: S = sum psi v^T and z = sum psi.

    Both are in units of e^c, c (..., f) the largest log feature so far; 0 for maps without
    exponentials.

    Attributes
    ----------
    c, s, z : arrays (..., f), (..., f, v), (..., f), float64 for float64 and float32 else
    count : int
        Number of keys.
    """

    __slots__ = ("_step", "c", "count", "s", "z")

    def __init__(self, c: Array, s: Array, z: Array, count: int = 0) -> None:
        self.c, self.s, self.z, self.count = c, s, z, count
        self._step: Any = None

    def copy(self) -> LinearAttentionState:
        """A state of its own."""
        return LinearAttentionState(self.c.copy(), self.s.copy(), self.z.copy(), self.count)

    def __reduce__(self) -> tuple[Any, ...]:
        # Without what its steps have learned: kernels do not travel.
        return LinearAttentionState, (self.c, self.s, self.z, self.count)

    def __repr__(self) -> str:
        return (
            f"LinearAttentionState(shape={self.s.shape}, dtype={self.s.dtype}, count={self.count})"
        )


class _Step:
    """What a step learns about the next ones with the same options on plain arrays."""

    __slots__ = (
        "chosen",
        "dtype",
        "kernel",
        "key",
        "least",
        "maps",
        "numbers",
        "own",
        "parts",
        "shapes",
    )

    def __init__(
        self, kernel: Any, own: Any, key: Any, rows: Any, maps: Any, numbers: Any, parts: Any
    ) -> None:
        self.kernel, self.own, self.key = kernel, own, key
        self.maps, self.numbers, self.parts = maps, numbers, parts
        self.chosen = current()
        self.dtype = rows[0].dtype
        self.shapes = tuple(x.shape for x in rows)
        self.least = -float(np.finfo(parts[0].dtype).max)

    def fits(self, rows: tuple[Array, Array, Array], parts: Any, own: Any, key: Any) -> bool:
        """Options in `own` must be the same objects, those in `key` equal."""
        q, k, v = rows
        return (
            type(q) is type(k) is type(v) is np.ndarray
            and q.dtype is k.dtype is v.dtype is self.dtype
            and (q.shape, k.shape, v.shape) == self.shapes
            and all(map(is_, parts, self.parts))
            and all(map(is_, own, self.own))
            and self.key == key
            and self.chosen == current()
        )

    def run(self, rows: tuple[Array, Array, Array], weight: Any, decay: Any, out: Any) -> Any:
        """The result, or None where another argument is not plain."""
        if weight is not None:
            weight = self.of_key(weight, 0.0, math.inf)
            if weight is None:
                return None
        if decay is not None:
            decay = self.of_key(decay, self.least, 0.0)
            if decay is None:
                return None
        if out is None:
            out = np.empty(self.shapes[2], self.dtype)
        elif not (
            type(out) is np.ndarray
            and out.dtype is self.dtype
            and out.shape == self.shapes[2]
            and out.flags.behaved
        ):
            return None
        else:
            for x in (*rows, weight, decay, *self.parts):
                if x is not None and np.may_share_memory(out, x):
                    return None
        self.kernel(*rows, *self.maps, weight, decay, *self.numbers, out, *self.parts)
        return out

    def of_key(self, x: Any, low: float, high: float) -> Array | None:
        """A plain number or array, one for each head, within limits; else None."""
        loop, wide = self.parts[0].shape[:-1], self.parts[0].dtype
        if isinstance(x, (float, np.float32)):
            return np.full(loop, x, wide) if low <= x <= high else None
        plain = type(x) is np.ndarray and x.dtype is wide and x.shape == loop
        return x if plain and ((low <= x) & (x <= high)).all() else None


class _Options:
    """The options that all forms of linear attention share, resolved for a call."""

    def __init__(
        self,
        batch: Batch,
        *,
        kernel: str,
        causal: bool,
        exclude_self: bool,
        offset: int | None,
        key_mask: Array | None,
        key_weight: Array | None,
        log_decay: Array | None,
        normalize: bool,
        eps: float,
        initial_state: LinearAttentionState | None,
        chunk: int | None,
        projection: Array | None,
        params: Any,
        input_scale: float | None,
        kernel_eps: float,
    ) -> None:
        name, xp = batch.name, batch.xp
        check_flags(name, causal=causal, exclude_self=exclude_self, normalize=normalize)
        self.map = resolve(
            name,
            xp,
            batch.size["d"],
            batch.wide,
            kernel,
            projection,
            params,
            input_scale,
            kernel_eps,
        )
        if kernel == "efficient" and not normalize:
            raise ValueError(f'{name}: normalize must be True for kernel "efficient", got False')
        eps = as_real(name, "eps", eps, at_least=0.0)
        if eps and (self.map.exponential or kernel == "favor_trig") and kernel != "elu1":
            raise ValueError(f"{name}: eps must be 0 for kernel {kernel!r}, got {eps}")
        batch.size["f"] = self.map.features
        weight = batch.add("key_weight", key_weight, "s")
        if weight is not None and xp is np and not np.all(weight >= 0):
            raise ValueError(f"{name}: key_weight must not be negative, got {np.min(weight)}")
        mask = batch.add("key_mask", key_mask, "s", FLAG)
        if mask is not None:
            weight = xp.where(mask, 1.0 if weight is None else weight, 0.0).astype(batch.wide)
        decay = batch.add("log_decay", log_decay, "s", FLOAT64)
        if decay is not None:
            if not causal:
                raise ValueError(f"{name}: log_decay must come with causal=True, got False")
            if xp is np and not np.all((decay <= 0) & (decay > -math.inf)):
                raise ValueError(
                    f"{name}: log_decay must be finite and not positive, got {np.max(decay)} "
                    f"as the largest and {np.min(decay)} as the smallest"
                )
            decay = xp.cumsum(decay, axis=-1)
        self.state: tuple[Array | None, ...] = (None, None, None)
        if initial_state is not None:
            if not isinstance(initial_state, LinearAttentionState):
                kind = type(initial_state).__name__
                raise TypeError(f"{name}: initial_state must be a LinearAttentionState, got {kind}")
            self.state = (
                batch.add("initial_state", initial_state.c, "f"),
                batch.add("initial_state", initial_state.s, "fv"),
                batch.add("initial_state", initial_state.z, "f"),
            )
        mode = CAUSAL * bool(causal) + EXCLUDE_SELF * bool(exclude_self)
        place = offset_of(name, offset, causal, exclude_self, batch.size["l"], batch.size["s"])
        most = max(1, batch.size["l"], batch.size["s"])
        size = 64 if chunk is None else min(as_index(name, "chunk", chunk, 1), most)
        self.arguments = (
            self.map.projection,
            self.map.bias,
            weight,
            decay,
            *self.state,
            self.map.kind,
            self.map.input_scale,
            self.map.eps,
            mode,
            place,
            bool(normalize),
            eps,
            size,
        )


def linear_attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    kernel: str = "elu1",
    causal: bool = False,
    exclude_self: bool = False,
    offset: int | None = None,
    key_mask: Array | None = None,
    key_weight: Array | None = None,
    log_decay: Array | None = None,
    normalize: bool = True,
    eps: float = 0.0,
    initial_state: LinearAttentionState | None = None,
    return_state: bool = False,
    chunk: int | None = None,
    projection: Array | None = None,
    params: Any = None,
    input_scale: float | None = None,
    kernel_eps: float = 1e-3,
    cu_seqlens: Array | None = None,
    out: Any = None,
    backend: str | None = None,
) -> Any:
    """sum_j w_ij v_j / sum_j w_ij with w_ij = phi(q_i).psi(k_j), over the keys that query i sees.

    Signature ``(n,d),(m,d),(m,v)->(n,v)``. Time and memory are linear in n and m.

    Parameters
    ----------
    q, k, v : arrays of float16, bfloat16, float32 or float64, all of one type
        Shapes (..., n, d), (..., m, d) and (..., m, v); leading axes broadcast.
    kernel : str
        The feature maps, phi = psi but for "efficient":
        "identity" x; "elu1" x + 1 for x > 0, else e^x; "relu" max(x, 0) + kernel_eps; "exp" e^x;
        "softmax_d" softmax over d; "efficient" softmax_d(Q) (softmax over keys of K)^T V; "cosine"
        [1, x / |x|]; "taylor2" [1, x, x x^T / sqrt 2], similarity 1 + t + t^2 / 2; and with
        `projection` "favor_positive", "favor_hyperbolic", "favor_plus", "favor_sderf",
        "favor_trig" and "favor_relu", see `favor_attention`.
    causal : bool
        Query i sees key j if j <= i + offset.
    exclude_self : bool
        Query i does not see the key at i + offset.
    offset : int, optional
        Position of query 0; m - n if `causal` or `exclude_self`.
    key_mask : bool array (..., m), optional
        Keys to see. Others are not read: nan there changes nothing.
    key_weight : array (..., m), optional
        Not negative; w_ij is multiplied by it. 0 is a mask.
    log_decay : array (..., m), optional
        Finite, at most 0; w_ij is multiplied by e^(its sum over (j, i + offset]). Needs `causal`.
    normalize : bool
        False leaves out the denominator.
    eps : float
        Added to denominators, for maps without exponentials; 0 is right, others can be compared.
    initial_state : LinearAttentionState, optional
        Keys before the first.
    return_state : bool
        Also return the state after the last key.
    chunk : int, optional
        Queries at a time when causal. Results differ by rounding only.
    projection : array (m, d), optional
        Of "favor_..." kernels, see `random_projection`.
    params : FavorParams, optional
        Of "favor_plus" and "favor_sderf", see `favor_params`.
    input_scale : float, optional
        Multiplies q and k; 1, and d^(-1/4) for "favor_..." kernels.
    kernel_eps : float
        Of the two kernels with "relu".
    cu_seqlens : integer array (N + 1,), optional
        N sequences are packed: arrays have shape (total, heads, width), those with a number a key
        (..., total), and each sequence attends to itself.
    out : array, optional
        Where the result goes.
    backend : str, optional
        "reference", "cpu" or one of its levels, "cuda".

    Returns
    -------
    array, shape (..., n, v), dtype of `q`; with `return_state` a tuple with the state

    Raises
    ------
    TypeError, ValueError
        Types that are not real or differ, shapes or options that do not fit, an unsuitable `out`.
    RuntimeError
        The backend cannot be used.

    Notes
    -----
    Exponential maps are kept as logarithms: keys of each feature are taken relative to their
    largest (so far, when causal), queries relative to their largest product. No exponent is
    positive and no denominator of a full row is below 1, so there is no epsilon.

    Special values: a query that sees no key, or whose denominator is exactly 0, gives 0; nan in q_i
    or in what it sees makes row i nan, and no other.

    Sums are float32 for the three narrow types and float64 for float64. The error is at most
    64 u L max(max|v|, max|out|), u the rounding of sums, L = max(1, largest |log feature|).

    Accuracy: at most LIMITS["linear_attention"] ULP of
    MAGNITUDE["linear_attention"].

    Source: kexue.fm/archives/7546, 8338, 8601, 7919, 7661; papers 2006.16236, 1812.01243.

    Examples
    --------
    >>> import numpy as np, kexue_native as kn
    >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> kn.linear_attention(x, x, x, causal=True).round(6)
    array([[1.      , 0.      ],
           [0.444444, 0.555556],
           [0.7     , 0.7     ]])
    """
    return attend(
        "linear_attention",
        q,
        k,
        v,
        kernel=kernel,
        causal=causal,
        exclude_self=exclude_self,
        offset=offset,
        key_mask=key_mask,
        key_weight=key_weight,
        log_decay=log_decay,
        normalize=normalize,
        eps=eps,
        initial_state=initial_state,
        return_state=return_state,
        chunk=chunk,
        projection=projection,
        params=params,
        input_scale=input_scale,
        kernel_eps=kernel_eps,
        cu_seqlens=cu_seqlens,
        out=out,
        backend=backend,
    )


def attend(
    name: str,
    q: Array,
    k: Array,
    v: Array,
    *,
    return_state: bool = False,
    cu_seqlens: Array | None = None,
    out: Any,
    backend: str | None,
    **options: Any,
) -> Any:
    """`linear_attention` for a function called `name`; all of its other options are given."""
    check_flags(name, return_state=return_state)
    if cu_seqlens is not None:
        if options["initial_state"] is not None or return_state:
            raise ValueError(f"{name}: cu_seqlens must come without states, got one")
        keyed = {a: options.pop(a) for a in ("key_mask", "key_weight", "log_decay")}
        return over_sequences(
            name,
            cu_seqlens,
            {"q": q, "k": k, "v": v},
            keyed,
            [("q", "v")],
            out,
            lambda arrays, to: attend(name, **arrays, **options, out=to, backend=backend),
        )
    batch = Batch(name, q=(q, "ld"), k=(k, "sd"), v=(v, "sv"))
    resolved = _Options(batch, **options)
    found = results(batch, [("lv", None, batch.dtype)], out)
    parts: list[Array | None] = [None, None, None]
    if return_state:
        parts = [batch.empty(batch.shape(core)) for core in ("f", "fv", "f")]
    kernels = choose("attention.linear", batch, backend)
    arrays = batch.kernel_arrays("q", "k", "v")
    kernels.linear_attention(*arrays, *resolved.arguments, bits(found[0].buffer), *parts)
    value = finish(batch, found, out)
    if not return_state:
        return value
    before = options["initial_state"]
    count = batch.size["s"] + (0 if before is None else before.count)
    return value, LinearAttentionState(parts[0], parts[1], parts[2], count)


def linear_attention_vjp(
    g: Array,
    q: Array,
    k: Array,
    v: Array,
    *,
    kernel: str = "elu1",
    causal: bool = False,
    exclude_self: bool = False,
    offset: int | None = None,
    key_mask: Array | None = None,
    key_weight: Array | None = None,
    log_decay: Array | None = None,
    normalize: bool = True,
    eps: float = 0.0,
    initial_state: LinearAttentionState | None = None,
    chunk: int | None = None,
    projection: Array | None = None,
    params: Any = None,
    input_scale: float | None = None,
    kernel_eps: float = 1e-3,
    cu_seqlens: Array | None = None,
    grads: Any = None,
    backend: str | None = None,
) -> Any:
    """Gradients of sum(g linear_attention(q, k, v)).

    Parameters
    ----------
    g : array (..., n, v)
        Weights of the result, its shape.
    q, k, v, kernel, causal, exclude_self, offset, key_mask, key_weight, log_decay, normalize, eps
        As `linear_attention`.
    initial_state, chunk, projection, params, input_scale, kernel_eps, cu_seqlens
        As `linear_attention`.
    grads : tuple of arrays, optional
        Where results go.
    backend : str, optional
        As `linear_attention`.

    Returns
    -------
    tuple (dq, dk, dv), shapes of the arguments
        Followed by the gradients of `key_weight`, of `log_decay` and of S and z of `initial_state`
        where these are given. An argument that was broadcast gets the sum.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `linear_attention`.

    Notes
    -----
    One scan forward for dq, one backward for the rest; states are computed again and never run
    back by subtraction. Beyond inputs and results memory is that of a few states, and three numbers
    a query; "efficient", which has a denominator for each feature, keeps two for each of them with
    `exclude_self` but not `causal`. Projection, params and the units of states are constants.
    Excluded keys, weights of 0 among them, have gradient 0.

    The error is at most 64 u L max|g| for dv, and max|v| max(1, r) times that for dq and dk, n
    times for dk, with r the largest norm of a row of the projection, or |k| and |q| without one.

    Accuracy: at most LIMITS["linear_attention_vjp"] ULP of
    MAGNITUDE["linear_attention_vjp"].

    Source: kexue.fm/archives/7546, 8338; paper 2006.16236.

    Examples
    --------
    >>> import numpy as np, kexue_native as kn
    >>> x = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> dq, dk, dv = kn.linear_attention_vjp(np.ones((2, 2)), x, x, x)
    >>> dv.round(6)
    array([[1., 1.],
           [1., 1.]])
    """
    return attend_vjp(
        "linear_attention_vjp",
        g,
        q,
        k,
        v,
        kernel=kernel,
        causal=causal,
        exclude_self=exclude_self,
        offset=offset,
        key_mask=key_mask,
        key_weight=key_weight,
        log_decay=log_decay,
        normalize=normalize,
        eps=eps,
        initial_state=initial_state,
        chunk=chunk,
        projection=projection,
        params=params,
        input_scale=input_scale,
        kernel_eps=kernel_eps,
        cu_seqlens=cu_seqlens,
        grads=grads,
        backend=backend,
    )


def attend_vjp(
    name: str,
    g: Array,
    q: Array,
    k: Array,
    v: Array,
    *,
    cu_seqlens: Array | None = None,
    grads: Any,
    backend: str | None,
    **options: Any,
) -> Any:
    """`linear_attention_vjp` for a function called `name`; all of its other options are given."""
    if cu_seqlens is not None:
        if options["initial_state"] is not None:
            raise ValueError(f"{name}: cu_seqlens must come without states, got one")
        keyed = {a: options.pop(a) for a in ("key_mask", "key_weight", "log_decay")}
        slopes = ["q", "k", "v", *(a for a in WEIGHTS if keyed[a] is not None)]
        return over_sequences(
            name,
            cu_seqlens,
            {"g": g, "q": q, "k": k, "v": v},
            keyed,
            [(a, a) for a in slopes],
            grads,
            lambda arrays, to: attend_vjp(name, **arrays, **options, grads=to, backend=backend),
        )
    batch = Batch(name, q=(q, "ld"), k=(k, "sd"), v=(v, "sv"), g=(g, "lv"))
    resolved = _Options(batch, **options)
    wanted: list[tuple[str, Any, Any]] = [
        (core, batch.arrays[argument].shape, batch.dtype)
        for argument, core in (("q", "ld"), ("k", "sd"), ("v", "sv"))
    ]
    places: list[int | None] = [0, 1, 2]
    for argument in WEIGHTS:
        given = options[argument] is not None
        places.append(len(wanted) if given else None)
        if given:
            wanted.append(("s", batch.arrays[argument].shape, batch.wide))
    for core, state in zip(("fv", "f"), resolved.state[1:], strict=True):
        places.append(None if state is None else len(wanted))
        if state is not None:
            wanted.append((core, state.shape, batch.wide))
    found = results(batch, wanted, grads)
    kernels = choose("attention.linear", batch, backend)
    kernels.linear_attention_vjp(
        *batch.kernel_arrays("g", "q", "k", "v"),
        *resolved.arguments,
        *(None if place is None else bits(found[place].buffer) for place in places),
    )
    return finish(batch, found, grads)


# --- Streaming ---


def linear_attention_init(
    batch_shape: tuple[int, ...] | int,
    features: int,
    v: int,
    dtype: Any = np.float32,
    *,
    kernel: str = "elu1",
    xp: Any = np,
) -> LinearAttentionState:
    """The state before the first key.

    Parameters
    ----------
    batch_shape : tuple of int or int
        Leading axes, (batch, heads) for instance.
    features : int
        Number of features, the last axis of `feature_map`.
    v : int
        Size of a value.
    dtype : dtype
        Of the arrays to come; the state is float64 for float64 and float32 else.
    kernel : str
        As it will be used: c begins at -inf for maps with exponentials and stays 0 for others.
    xp : module
        numpy or cupy.

    Returns
    -------
    LinearAttentionState

    Raises
    ------
    TypeError, ValueError
        Sizes that are no integers or negative, an unknown kernel.

    Notes
    -----
    Source: kexue.fm/archives/7546; paper 2006.16236.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.linear_attention_init((2, 8), 64, 32)
    LinearAttentionState(shape=(2, 8, 64, 32), dtype=float32, count=0)
    """
    name = "linear_attention_init"
    shape = batch_shape if isinstance(batch_shape, tuple) else (batch_shape,)
    loop = tuple(as_index(name, "batch_shape", n, 0) for n in shape)
    f, width = as_index(name, "features", features, 0), as_index(name, "v", v, 0)
    if not isinstance(kernel, str) or kernel not in KERNELS:
        raise ValueError(f"{name}: kernel must be one of {', '.join(KERNELS)}, got {kernel!r}")
    wide = FLOAT64 if np.dtype(dtype) == FLOAT64 else FLOAT32
    kind = FAVOR.get(kernel.removeprefix("favor_"), kernel) if "_" in kernel else kernel
    start = -math.inf if kind in EXPONENTIAL or kernel == "softmax_d" else 0.0
    return LinearAttentionState(
        xp.full((*loop, f), start, wide),
        xp.zeros((*loop, f, width), wide),
        xp.zeros((*loop, f), wide),
    )


def linear_attention_prefill(q: Array, k: Array, v: Array, **options: Any) -> Any:
    """The causal `linear_attention` of a prompt and the state after it.

    Parameters
    ----------
    q, k, v : arrays
        As `linear_attention`.
    **options
        As `linear_attention`, but for `causal` and `return_state`.

    Returns
    -------
    tuple of the result and a LinearAttentionState

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `linear_attention`.

    Notes
    -----
    Source: kexue.fm/archives/7546; paper 2006.16236.

    Examples
    --------
    >>> import numpy as np, kexue_native as kn
    >>> x = np.ones((3, 2))
    >>> out, state = kn.linear_attention_prefill(x, x, x)
    >>> state.count
    3
    """
    name = "linear_attention_prefill"
    fixed = {"causal": True, "return_state": True}
    return attend(name, q, k, v, **options_of(name, linear_attention, options, fixed))


@cache
def defaults_of(like: Callable[..., Any]) -> dict[str, Any]:
    parameters = signature(like).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def options_of(
    name: str, like: Callable[..., Any], options: dict[str, Any], fixed: dict[str, Any]
) -> dict[str, Any]:
    """All options of the function `like`, those that `name` fixes itself not among the given."""
    defaults = defaults_of(like)
    for option in options:
        if option not in defaults or option in fixed:
            raise TypeError(f"{name}: options must be those of {like.__name__}, got {option!r}")
    return {**defaults, **options, **fixed}


def linear_attention_step(
    state: LinearAttentionState,
    q_t: Array,
    k_t: Array,
    v_t: Array,
    *,
    kernel: str = "elu1",
    key_weight: Array | None = None,
    log_decay: Array | None = None,
    normalize: bool = True,
    eps: float = 0.0,
    projection: Array | None = None,
    params: Any = None,
    input_scale: float | None = None,
    kernel_eps: float = 1e-3,
    out: Array | None = None,
    backend: str | None = None,
) -> Any:
    """One more position of a causal `linear_attention`: takes k_t and v_t in, then reads for q_t.

    Parameters
    ----------
    state : LinearAttentionState
        Changed in place.
    q_t, k_t, v_t : arrays (..., d), (..., d), (..., v)
        Leading axes broadcast to those of the state.
    key_weight, log_decay : arrays (...), optional
        Of this key.
    kernel, normalize, eps, projection, params, input_scale, kernel_eps
        As `linear_attention`; the same in all steps.
    out : array, optional
        Where the result goes.
    backend : str, optional
        As `linear_attention`.

    Returns
    -------
    array, shape (..., v), dtype of `q_t`

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `linear_attention`.

    Notes
    -----
    T steps equal the causal call on T positions up to rounding. A step reads and writes the state
    once.

    Source: kexue.fm/archives/7546; paper 2006.16236.

    Examples
    --------
    >>> import numpy as np, kexue_native as kn
    >>> x = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> state = kn.linear_attention_init((), 2, 2, np.float64)
    >>> kn.linear_attention_step(state, x[0], x[0], x[0])
    array([1., 0.])
    >>> kn.linear_attention_step(state, x[1], x[1], x[1]).round(6)
    array([0.444444, 0.555556])
    """
    name = "linear_attention_step"
    if not isinstance(state, LinearAttentionState):
        raise TypeError(f"{name}: state must be a LinearAttentionState, got {type(state).__name__}")
    given, parts = (q_t, k_t, v_t), (state.c, state.s, state.z)
    own, key = (projection, params, normalize), (kernel, eps, input_scale, kernel_eps, backend)
    plan = state._step
    if plan is not None and plan.fits(given, parts, own, key):
        value = plan.run(given, key_weight, log_decay, out)
        if value is not None:
            state.count += 1
            return value
    lead = [
        as_array(name, a, x)[..., None, :] for a, x in (("q_t", q_t), ("k_t", k_t), ("v_t", v_t))
    ]
    batch = Batch(name, q_t=(lead[0], "ld"), k_t=(lead[1], "sd"), v_t=(lead[2], "sv"))
    keyed = [
        x if x is None else as_array(name, a, x)[..., None]
        for a, x in (("key_weight", key_weight), ("log_decay", log_decay))
    ]
    options = _Options(
        batch,
        kernel=kernel,
        causal=True,
        exclude_self=False,
        offset=0,
        key_mask=None,
        key_weight=keyed[0],
        log_decay=keyed[1],
        normalize=normalize,
        eps=eps,
        initial_state=state,
        chunk=1,
        projection=projection,
        params=params,
        input_scale=input_scale,
        kernel_eps=kernel_eps,
    )
    if batch.loop != state.s.shape[:-2]:
        raise ValueError(
            f"{name}: q_t, k_t and v_t must have leading axes that broadcast to the state's, "
            f"{state.s.shape[:-2]}, got {batch.loop}"
        )
    place = None if out is None else out[..., None, :] if hasattr(out, "ndim") and out.ndim else out
    found = results(batch, [("lv", None, batch.dtype)], place)
    kernels = choose("attention.linear", batch, backend)
    arrays = batch.kernel_arrays("q_t", "k_t", "v_t")
    whole = all(x.flags.c_contiguous and x.dtype == batch.wide for x in parts)
    if whole and KINDS[options.map.kind] in STEPS and hasattr(kernels, "linear_attention_step"):
        rows = [x[..., 0, :] for x in arrays]
        weight, decay = (
            None if x is None else batch.arrays[a][..., 0].astype(batch.wide)
            for a, x in (("key_weight", key_weight), ("log_decay", log_decay))
        )
        way = options.map
        maps = way.projection, way.bias
        numbers = way.kind, way.input_scale, way.eps, bool(normalize), float(eps)
        to = bits(found[0].buffer[..., 0, :])
        kernels.linear_attention_step(*rows, *maps, weight, decay, *numbers, to, *parts)
        same = [x.shape[:-1] for x in rows] == [state.z.shape[:-1]] * 3
        if same and way.projection is projection:
            state._step = _Step(kernels.linear_attention_step, own, key, rows, maps, numbers, parts)
    else:
        to = bits(found[0].buffer)
        kernels.linear_attention(*arrays, *options.arguments, to, *parts)
    state.count += 1
    value = finish(batch, found, place)
    return value[..., 0, :] if out is None else out


def linear_attention_merge(
    left: LinearAttentionState, right: LinearAttentionState, *, log_decay: Array | float = 0.0
) -> LinearAttentionState:
    """The state of the keys of `left` followed by those of `right`.

    Parameters
    ----------
    left, right : LinearAttentionState
        Of the same kernel and projection; shapes broadcast.
    log_decay : float or array (...)
        The sum of `log_decay` over the keys of `right`, by which `left` fades.

    Returns
    -------
    LinearAttentionState

    Raises
    ------
    TypeError
        Arguments that are no states.
    ValueError
        Shapes that do not fit.

    Notes
    -----
    c = max(c1, c2), S = e^(c1 - c) S1 + e^(c2 - c) S2, z alike; merging is associative.

    Source: kexue.fm/archives/7546; paper 2006.16236.

    Examples
    --------
    >>> import numpy as np, kexue_native as kn
    >>> x = np.ones((3, 2))
    >>> _, one = kn.linear_attention_prefill(x, x, x)
    >>> kn.linear_attention_merge(one, one).count
    6
    """
    name = "linear_attention_merge"
    for argument, state in (("left", left), ("right", right)):
        if not isinstance(state, LinearAttentionState):
            kind = type(state).__name__
            raise TypeError(f"{name}: {argument} must be a LinearAttentionState, got {kind}")
    if left.s.shape[-2:] != right.s.shape[-2:]:
        raise ValueError(
            f"{name}: left and right must have the same features and values, "
            f"got {left.s.shape[-2:]} and {right.s.shape[-2:]}"
        )
    xp = namespace(left.s)
    wide = left.s.dtype
    fade = xp.asarray(log_decay, wide)[..., None]
    first = left.c + fade
    plain = xp.all(left.c == 0) & xp.all(right.c == 0)
    c = xp.where(plain, 0.0, xp.maximum(first, right.c)).astype(wide)
    unit = xp.where(c == -math.inf, 0.0, c)
    one, two = xp.exp(first - unit), xp.exp(right.c - unit)
    return LinearAttentionState(
        c,
        one[..., None] * left.s + two[..., None] * right.s,
        one * left.z + two * right.z,
        left.count + right.count,
    )


fill_in(globals()[name] for name in __all__)
