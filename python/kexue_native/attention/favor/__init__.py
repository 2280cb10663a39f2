"""Random features of the softmax kernel: projections, their constants, moments, and attention."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..._arrays import FLAG, FLOAT64, Array, as_array, as_real, check_flags, one_of
from ..._limits import fill_in
from .._common import Batch, as_index
from .._reference import transposed
from ..linear import (
    FAVOR,
    FavorParams,
    attend,
    attend_vjp,
    linear_attention,
    linear_attention_vjp,
    options_of,
    resolve,
)
from ..linear.reference import KINDS
from ..linear.reference import features as features_of
from .chi import chi_quantile

__all__ = [
    "FavorAttention",
    "favor_attention",
    "favor_attention_vjp",
    "favor_params",
    "random_projection",
    "softmax_kernel_estimate",
    "softmax_kernel_moments",
]


def _generator(name: str, rng: Any) -> np.random.Generator:
    if isinstance(rng, np.random.RandomState):
        raise TypeError(f"{name}: rng must be a Generator, a seed or None, got RandomState")
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        kind = type(error)
        raise kind(f"{name}: rng must be a Generator, a seed or None, got {rng!r}") from None


def random_projection(
    m: int,
    d: int,
    *,
    kind: str = "orthogonal",
    norms: str = "chi",
    rng: Any = None,
    dtype: Any = np.float64,
) -> Any:
    """Omega (m, d) of random features: directions times norms.

    Parameters
    ----------
    m, d : int
        Number of rows, at least 0, and their length, at least 1.
    kind : str
        "orthogonal": blocks of d rows are rotations, uniform over all (Haar); the last one is cut.
        "iid": independent rows.
    norms : str
        "chi": of normal vectors. "stratified": chi quantiles at (i - 1 + U_i) / m in random order,
        unbiased and of lower variance. "sqrt_d" and "quantile" (chi quantiles at i / (m + 1)) are
        biased low; `softmax_kernel_moments` says by how much.
    rng : numpy.random.Generator, seed or None
        Source of random numbers.
    dtype : dtype
        Of the result.

    Returns
    -------
    array (m, d)

    Raises
    ------
    TypeError, ValueError
        Arguments that are not as above.

    Notes
    -----
    A raw QR factorisation is not uniform: its first column has one sign. The signs of the diagonal
    of R, moved into Q, correct this; without it "positive" features are biased by 18 % at d = 8.

    Source: kexue.fm/archives/7921; paper 2009.14794.

    Examples
    --------
    >>> import kexue_native as kn
    >>> w = kn.random_projection(4, 4, norms="sqrt_d", rng=0)
    >>> (w @ w.T).round(6) + 0.0
    array([[4., 0., 0., 0.],
           [0., 4., 0., 0.],
           [0., 0., 4., 0.],
           [0., 0., 0., 4.]])
    """
    name = "random_projection"
    m, d = as_index(name, "m", m, 0), as_index(name, "d", d, 1)
    one_of(name, "kind", kind, ("orthogonal", "iid"))
    one_of(name, "norms", norms, ("chi", "stratified", "sqrt_d", "quantile"))
    dtype = np.dtype(dtype)
    if dtype.kind != "f" and dtype.name != "bfloat16":
        raise TypeError(f"{name}: dtype must be a floating-point type, got {dtype}")
    source = _generator(name, rng)
    if kind == "iid":
        rows = source.standard_normal((m, d))
        if norms == "chi":
            return rows.astype(dtype)
        rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    else:
        rows = np.concatenate(
            [_rotation(source, d) for _ in range(-(-m // d))] or [np.zeros((0, d))]
        )
        rows = rows[:m]
    if norms == "chi":
        size = np.sqrt(source.chisquare(d, m))
    elif norms == "sqrt_d":
        size = np.full(m, math.sqrt(d))
    elif norms == "quantile":
        size = chi_quantile(np.arange(1, m + 1) / (m + 1), d)
    else:
        size = chi_quantile(source.permutation((np.arange(m) + source.random(m)) / max(m, 1)), d)
    return (rows * size[:, None]).astype(dtype)


def _rotation(source: np.random.Generator, d: int) -> Array:
    q, r = np.linalg.qr(source.standard_normal((d, d)))
    return q * np.where(np.diagonal(r) < 0, -1.0, 1.0)


def favor_params(
    q: Array,
    k: Array,
    features: str,
    *,
    input_scale: float | None = None,
    key_mask: Array | None = None,
) -> FavorParams:
    """Constants of "plus" or "sderf" features that fit queries and keys like these.

    Parameters
    ----------
    q, k : arrays (..., n, d), (..., m, d)
        As they go into `favor_attention`.
    features : str
        "plus" or "sderf".
    input_scale : float, optional
        As `favor_attention`; d^(-1/4).
    key_mask : bool array (..., m), optional
        Keys to count.

    Returns
    -------
    FavorParams (a, rotation)
        A number and None for "plus"; (d,) and (d, d) for "sderf". NumPy: on a GPU this waits.

    Raises
    ------
    TypeError, ValueError
        As `favor_attention`.

    Notes
    -----
    With s = x + y over all pairs of a scaled query x and key y, T = mean |s|^2: plus has a =
    (1 - 1 / rho) / 8, rho = (sqrt((2 T + d)^2 + 8 d T) - 2 T - d) / (4 T). sderf takes the
    eigenvectors of mean s s^T, and for each eigenvalue l
    a = (1 - 2 l - sqrt((2 l + 1)^2 + 8 l)) / 16.

    Constants for gradients. In causal use take them from earlier data: of the keys at hand, later
    ones would show through.

    Source: papers 2205.15317, 2302.00787.

    Examples
    --------
    >>> import numpy as np, kexue_native as kn
    >>> round(float(kn.favor_params(np.ones((1, 4)), np.ones((1, 4)), "plus").a), 6)
    -0.587695
    """
    name = "favor_params"
    one_of(name, "features", features, ("plus", "sderf"))
    batch = Batch(name, q=(q, "ld"), k=(k, "sd"))
    d = batch.size["d"]
    scale = (
        d**-0.25
        if input_scale is None and d
        else as_real(name, "input_scale", 1.0 if input_scale is None else input_scale, above=0.0)
    )
    mask = batch.add("key_mask", key_mask, "s", FLAG)

    def flat(x: Array) -> Array:
        x = x.get() if hasattr(x, "get") else x
        return np.asarray(x, FLOAT64)

    x, y = flat(batch.arrays["q"]) * scale, flat(batch.arrays["k"]) * scale
    if mask is None:
        y = y.reshape(-1, d)
    else:
        kept = np.broadcast_to(flat(mask) > 0, np.broadcast_shapes(y.shape[:-1], mask.shape))
        y = np.broadcast_to(y, (*kept.shape, d))[kept]
    x = x.reshape(-1, d)
    if not len(x) or not len(y):
        return FavorParams(0.0, None) if features == "plus" else FavorParams(np.zeros(d), np.eye(d))
    mx, my = x.mean(axis=0), y.mean(axis=0)
    if features == "plus":
        t = float((x * x).sum() / len(x) + (y * y).sum() / len(y) + 2 * mx @ my)
        # rho = 2 d / (sqrt((2 t + d)^2 + 8 d t) + 2 t + d), without the difference
        rho = 2 * d / (math.sqrt((2 * t + d) ** 2 + 8 * d * t) + 2 * t + d)
        return FavorParams((1 - 1 / rho) / 8 if t else 0.0, None)
    cross = np.outer(mx, my)
    values, rotation = np.linalg.eigh(x.T @ x / len(x) + y.T @ y / len(y) + cross + cross.T)
    values = np.maximum(values, 0.0)
    # (1 - 2 l - root) / 16, root^2 - (1 - 2 l)^2 = 16 l, without the difference
    root = np.sqrt((2 * values + 1) ** 2 + 8 * values)
    near = 1 - 2 * values > 0
    a = np.where(
        near, -values / np.where(near, root + 1 - 2 * values, 1.0), (1 - 2 * values - root) / 16
    )
    return FavorParams(a, rotation)


def favor_attention(
    q: Array,
    k: Array,
    v: Array,
    projection: Array,
    *,
    features: str = "positive",
    params: FavorParams | None = None,
    **options: Any,
) -> Any:
    """Attention by random features: `linear_attention` with the kernel "favor_" + `features`.

    With x = d^(-1/4) q and rows w of the projection, phi(x) . phi(y) estimates
    e^(x.y) = exp(q.k / sqrt(d)).

    Parameters
    ----------
    q, k, v : arrays
        As `linear_attention`.
    projection : array (m, d)
        See `random_projection`; the same for queries, keys, and all steps of a state.
    features : str
        "positive": m^-1/2 exp(w.x - |x|^2 / 2). "hyperbolic": exp(w.x) and exp(-w.x), of 2 m.
        "plus": D exp(a |w|^2 + sqrt(1 - 4 a) w.x - |x|^2 / 2), D = (1 - 4 a)^(d / 4). "sderf": the
        same with an `a` for each axis of a rotation. "trig": m^-1/2 e^(|x|^2 / 2)
        [cos w.x, sin w.x], of either sign, for comparison. "relu":
        m^-1/2 (max(w.x, 0) + kernel_eps), another kernel.
    params : FavorParams, optional
        For "plus" and "sderf", see `favor_params`.
    **options
        As `linear_attention`; `input_scale` is d^(-1/4).

    Returns
    -------
    array, shape (..., n, v), dtype of `q`; with `return_state` a tuple with the state

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `linear_attention`.

    Notes
    -----
    The relative variance of positive features is (e^(|x + y|^2) - 1) / m: for unit normal q and k
    at d = 128 |x + y|^2 is about 22.6, and no m that is practical helps. `softmax_kernel_moments`
    has the figures.

    Accuracy: at most LIMITS["favor_attention"] ULP of
    MAGNITUDE["favor_attention"].

    Source: kexue.fm/archives/7921, 8338, 8601; papers 2009.14794, 2205.15317, 2302.00787.

    Examples
    --------
    >>> import numpy as np, kexue_native as kn
    >>> x = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    >>> w = kn.random_projection(4096, 2, rng=0)
    >>> error = kn.favor_attention(x, x, x, w) - kn.softmax_attention(x, x, x)
    >>> bool(np.abs(error).max() < 0.05)
    True
    """
    name = "favor_attention"
    kernel = f"favor_{one_of(name, 'features', features, tuple(FAVOR))}"
    fixed = {"kernel": kernel, "projection": projection, "params": params}
    return attend(name, q, k, v, **options_of(name, linear_attention, options, fixed))


def favor_attention_vjp(
    g: Array,
    q: Array,
    k: Array,
    v: Array,
    projection: Array,
    *,
    features: str = "positive",
    params: FavorParams | None = None,
    **options: Any,
) -> Any:
    """Gradients of sum(g favor_attention(q, k, v, projection)).

    Parameters
    ----------
    g : array (..., n, v)
        Weights of the result.
    q, k, v, projection, features, params
        As `favor_attention`.
    **options
        As `linear_attention_vjp`.

    Returns
    -------
    tuple
        As `linear_attention_vjp`.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `linear_attention_vjp`.

    Notes
    -----
    The projection is a constant and gets no gradient.

    Accuracy: at most LIMITS["favor_attention_vjp"] ULP of
    MAGNITUDE["favor_attention_vjp"].

    Source: kexue.fm/archives/7921; paper 2009.14794.

    Examples
    --------
    >>> import numpy as np, kexue_native as kn
    >>> x = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> dq, dk, dv = kn.favor_attention_vjp(x, x, x, x, kn.random_projection(8, 2, rng=0))
    >>> dv.shape
    (2, 2)
    """
    name = "favor_attention_vjp"
    kernel = f"favor_{one_of(name, 'features', features, tuple(FAVOR))}"
    fixed = {"kernel": kernel, "projection": projection, "params": params}
    return attend_vjp(name, g, q, k, v, **options_of(name, linear_attention_vjp, options, fixed))


class FavorAttention:
    """`favor_attention` with a projection of its own.

    Parameters
    ----------
    d : int
        Length of queries and keys.
    m : int
        Rows of the projection.
    features : str
        As `favor_attention`.
    kind, norms, dtype
        As `random_projection`.
    seed : int, optional
        Of the projections; they depend on nothing else.
    params : FavorParams, optional
        As `favor_attention`.

    Examples
    --------
    >>> import numpy as np, kexue_native as kn
    >>> layer = kn.FavorAttention(2, 64, seed=0)
    >>> x = np.eye(2)
    >>> layer(x, x, x).shape
    (2, 2)
    >>> layer.redraw()
    """

    def __init__(
        self,
        d: int,
        m: int,
        *,
        features: str = "positive",
        kind: str = "orthogonal",
        norms: str = "chi",
        seed: Any = None,
        dtype: Any = np.float32,
        params: FavorParams | None = None,
    ) -> None:
        self.d, self.m, self.kind, self.norms, self.dtype = d, m, kind, norms, dtype
        self.features = one_of("FavorAttention", "features", features, tuple(FAVOR))
        self.params = params
        self._rng = _generator("FavorAttention", seed)
        self.redraw()

    def redraw(self) -> None:
        """Take a new projection. States of the old one are of no use with it."""
        self.projection = random_projection(
            self.m, self.d, kind=self.kind, norms=self.norms, rng=self._rng, dtype=self.dtype
        )

    def _options(self) -> dict[str, Any]:
        return {"features": self.features, "params": self.params}

    def __call__(self, q: Array, k: Array, v: Array, **options: Any) -> Any:
        """`favor_attention` with this projection."""
        return favor_attention(q, k, v, self.projection, **self._options(), **options)

    def vjp(self, g: Array, q: Array, k: Array, v: Array, **options: Any) -> Any:
        """`favor_attention_vjp` with this projection."""
        return favor_attention_vjp(g, q, k, v, self.projection, **self._options(), **options)


def softmax_kernel_estimate(
    x: Array,
    y: Array,
    projection: Array,
    features: str = "positive",
    *,
    params: FavorParams | None = None,
    kernel_eps: float = 1e-3,
) -> Any:
    """phi(x_i).phi(y_j), which estimates e^(x_i.y_j), as a matrix.

    Parameters
    ----------
    x, y : arrays (..., n, d), (..., m, d)
        Scaled already.
    projection, features, params, kernel_eps
        As `favor_attention`.

    Returns
    -------
    array (..., n, m), float64

    Raises
    ------
    TypeError, ValueError
        As `favor_attention`.

    Notes
    -----
    Source: kexue.fm/archives/7921; paper 2009.14794.

    Examples
    --------
    >>> import numpy as np, kexue_native as kn
    >>> w = kn.random_projection(4096, 2, rng=0)
    >>> bool(abs(kn.softmax_kernel_estimate([[1.0, 0.0]], [[1.0, 0.0]], w)[0, 0] / np.e - 1) < 0.1)
    True
    """
    name = "softmax_kernel_estimate"
    one_of(name, "features", features, tuple(FAVOR))
    batch = Batch(name, x=(x, "ld"), y=(y, "sd"))
    xp = batch.xp
    way = resolve(
        name, xp, batch.size["d"], FLOAT64, f"favor_{features}", projection, params, 1.0, kernel_eps
    )
    left, right = (
        features_of(
            KINDS[way.kind],
            batch.arrays[a].astype(FLOAT64),
            way.projection,
            way.bias,
            way.eps,
            True,
        )
        for a in ("x", "y")
    )
    # As in attention: keys relative to each feature's largest, then queries.
    c = xp.max(right.log, axis=-2, keepdims=True) if right.log.shape[-2] else xp.zeros(())
    top = xp.max(left.log + c, axis=-1, keepdims=True) if left.log.shape[-1] else xp.zeros(())
    with np.errstate(all="ignore"):
        phi = left.sign * xp.exp(left.log + c - top)
        psi = right.sign * xp.exp(right.log - c)
        return xp.exp(top) * (phi @ transposed(psi))


def softmax_kernel_moments(
    x: Array,
    y: Array,
    m: int,
    *,
    features: str = "positive",
    orthogonal: bool = True,
    norms: str = "chi",
    params: FavorParams | None = None,
) -> tuple[Any, Any]:
    """Mean and variance of `softmax_kernel_estimate` over projections with m rows.

    Parameters
    ----------
    x, y : arrays (..., d)
        Pairs, scaled already; they broadcast.
    m : int
        Rows, at least 1.
    features : str
        "positive", "hyperbolic", "trig", "plus" or "sderf".
    orthogonal : bool
        Of the projection's kind; only the first three features with norms "chi" have a formula.
    norms : str
        "chi"; for "positive" with independent rows also "sqrt_d" and "quantile".
    params : FavorParams, optional
        Of "plus" (a < 1/8) and "sderf".

    Returns
    -------
    tuple of arrays (...), float64
        The mean is e^(x.y) for norms "chi".

    Raises
    ------
    TypeError, ValueError
        Arguments that are not as above, and what has no formula.

    Notes
    -----
    With s = x + y, e = x - y, n = |x|^2 + |y|^2, one row has variance: positive
    (e^(2 |s|^2) - e^(|s|^2)) e^-n, hyperbolic (e^(|s|^2) - 1)^2 e^-n / 2, trig
    (1 - e^(-|e|^2))^2 e^n / 2. Orthogonal pairs of rows have the covariance
    C = e^-n (1F1(d; d/2; |s|^2 / 2) - e^(|s|^2)), or for trig
    e^n (1F1(d; d/2; -|e|^2 / 2) - e^(-|e|^2)).

    Source: kexue.fm/archives/7921; papers 2009.14794, 2205.15317, 2302.00787.

    Examples
    --------
    >>> import kexue_native as kn
    >>> mean, var = kn.softmax_kernel_moments([0.5, 0.0], [0.5, 0.0], 16)
    >>> round(float(mean), 6), round(float(var), 6)
    (1.284025, 0.167765)
    """
    name = "softmax_kernel_moments"
    check_flags(name, orthogonal=orthogonal)
    x, y = (np.asarray(as_array(name, a, z), FLOAT64) for a, z in (("x", x), ("y", y)))
    m = as_index(name, "m", m, 1)
    if x.ndim < 1 or y.ndim < 1 or x.shape[-1] != y.shape[-1]:
        raise ValueError(
            f"{name}: x and y must have the same last axis, got {x.shape} and {y.shape}"
        )
    d = x.shape[-1]
    one_of(name, "features", features, ("positive", "hyperbolic", "trig", "plus", "sderf"))
    one_of(name, "norms", norms, ("chi", "sqrt_d", "quantile"))
    if orthogonal and (features in ("plus", "sderf") or norms != "chi"):
        raise ValueError(
            f"{name}: orthogonal must be False for features {features!r} with norms {norms!r}, "
            "got True"
        )
    if norms != "chi" and features != "positive":
        raise ValueError(f"{name}: norms must be 'chi' for features {features!r}, got {norms!r}")
    n = (x * x).sum(-1) + (y * y).sum(-1)
    s, e = ((z * z).sum(-1) for z in (x + y, x - y))
    mean = np.exp((x * y).sum(-1))
    with np.errstate(over="ignore"):
        if norms != "chi":
            size = (
                np.full(m, math.sqrt(d))
                if norms == "sqrt_d"
                else chi_quantile(np.arange(1, m + 1) / (m + 1), d)
            )
            first = np.exp(-n / 2)[..., None] * _hyper(size**2 * s[..., None] / 4, d / 2)
            second = np.exp(-n)[..., None] * _hyper(size**2 * s[..., None], d / 2)
            return first.mean(-1)[()], (second - first**2).mean(-1)[()] / m
        if features in ("plus", "sderf"):
            one = _stretched_variance(name, features, x + y, s, n, d, params)
        elif features == "trig":
            one = np.expm1(-e) ** 2 * np.exp(n) / 2
        elif features == "hyperbolic":
            one = np.expm1(s) ** 2 * np.exp(-n) / 2
        else:
            one = np.expm1(s) * np.exp(s - n)
        if not orthogonal:
            return mean[()], (one / m)[()]
        if features == "trig":
            c = np.exp(n) * (_hyper(-e / 2, d / 2, d) - np.exp(-e))
        else:
            c = np.exp(-n) * (_hyper(s / 2, d / 2, d) - np.exp(s))
        blocks, rest = divmod(m, d)
        pairs = blocks * d * (d - 1) + rest * (rest - 1)
        return mean[()], ((m * one + pairs * np.minimum(c, 0.0)) / m**2)[()]


def _stretched_variance(
    name: str, features: str, s: Array, size: Array, n: Array, d: int, params: Any
) -> Array:
    """prod (1 - 4 a)(1 - 8 a)^(-1/2) e^(2 (1 - 4 a) t^2 / (1 - 8 a)) - e^(|s|^2), times e^-n"""
    try:
        a, rotation = params
    except TypeError:
        raise ValueError(
            f"{name}: params must be given for features {features!r}, got {params!r}"
        ) from None
    a = np.broadcast_to(np.asarray(a, FLOAT64), (d,))
    if not np.all(a < 0.125):
        raise ValueError(f"{name}: params.a must be less than 1/8, got {a.max()}")
    t = s if rotation is None else s @ np.asarray(rotation, FLOAT64)
    power = (2 * (1 - 4 * a) / (1 - 8 * a) * t * t).sum(-1)
    log = (np.log1p(-4 * a) - np.log1p(-8 * a) / 2).sum() + power
    return np.exp(log - n) - np.exp(size - n)


def _hyper(z: Array, b: float, a: float | None = None) -> Array:
    """1F1(a; b; z), or without a 0F1(; b; z), by its series"""
    if a is not None and np.any(z < 0):  # Kummer's transformation: the terms of e^z cancel
        return np.where(
            z < 0,
            np.exp(z) * _series(np.where(z < 0, -z, 0.0), b, b - a),
            _series(np.where(z < 0, 0.0, z), b, a),
        )
    return _series(z, b, a)


def _series(z: Array, b: float, a: float | None) -> Array:
    total, term = np.ones(np.shape(z)), np.ones(np.shape(z))
    for k in range(100000):
        term = term * z / ((b + k) * (k + 1)) * (1.0 if a is None else a + k)
        total = total + term
        if not np.any(np.abs(term) > 1e-17 * np.abs(total)):
            break
    return total


fill_in(globals()[name] for name in __all__)
