"""One step of recurrent cells with its Jacobian, chains of Jacobians, and a step of beam search."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from .._arrays import FLOAT64, Array, as_array, check_flags, empty, namespace, one_of
from ._common import Batch, as_index
from ._reference import transposed

__all__ = [
    "beam_step",
    "gru_cell",
    "gru_jacobian",
    "jacobian_chain_lognorm",
    "lstm_cell",
    "lstm_jacobian",
    "rnn_cell",
    "rnn_jacobian",
]


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x), both tails exact"""
    xp = namespace(x)
    u = xp.exp(-xp.abs(x))
    return xp.where(x < 0, u, 1.0) / (1 + u)


def _wide(batch: Batch) -> list[Array]:
    return [x.astype(batch.wide, copy=False) for x in batch.arrays.values()]


def _apply(weight: Array, x: Array) -> Array:
    """weight x for rows x (..., d)"""
    return x @ transposed(weight)


def _store(batch: Batch, values: tuple[Array, ...], out: Any) -> Any:
    targets = (
        [empty(batch.like, v.shape, batch.dtype) for v in values]
        if out is None
        else list(out if isinstance(out, tuple) else (out,))
    )
    if len(targets) != len(values):
        raise ValueError(f"{batch.name}: out must be {len(values)} arrays, got {len(targets)}")
    for target, value in zip(targets, values, strict=True):
        if not isinstance(target, batch.xp.ndarray) or target.dtype != batch.dtype:
            got = getattr(target, "dtype", type(target).__name__)
            raise TypeError(f"{batch.name}: out must be arrays of {batch.dtype}, got {got}")
        if target.shape != value.shape:
            raise ValueError(f"{batch.name}: out must have shape {value.shape}, got {target.shape}")
    for target, value in zip(targets, values, strict=True):
        target[...] = value
    if out is not None:
        return out
    return targets[0] if len(targets) == 1 else tuple(targets)


class _Lstm(NamedTuple):
    i: Array
    f: Array
    g: Array
    o: Array
    c: Array  # the new one
    old: Array
    u: dict[str, Array]  # rows of U by gate


def _lstm(batch: Batch, gate_order: str) -> _Lstm:
    name = batch.name
    order = gate_order.replace("c", "g") if isinstance(gate_order, str) else ""
    if sorted(order) != ["f", "g", "i", "o"]:
        raise ValueError(f'{name}: gate_order must have each of "ifgo" once, got {gate_order!r}')
    size = batch.size["h"]
    if batch.size["r"] != 4 * size:
        raise ValueError(f"{name}: W must have {4 * size} rows, got {batch.size['r']}")
    x, h, c, w, u, b = _wide(batch)
    sums = _apply(w, x) + _apply(u, h) + b
    part = {gate: slice(k * size, (k + 1) * size) for k, gate in enumerate(order)}
    i, f, o = (sigmoid(sums[..., part[gate]]) for gate in "ifo")
    g = namespace(x).tanh(sums[..., part["g"]])
    return _Lstm(i, f, g, o, f * c + i * g, c, {gate: u[part[gate]] for gate in "ifgo"})


def _lstm_batch(name: str, x: Array, h: Array, c: Array, W: Array, U: Array, b: Array) -> Batch:
    return Batch(name, x=(x, "d"), h=(h, "h"), c=(c, "h"), W=(W, "rd"), U=(U, "rh"), b=(b, "r"))


def lstm_cell(
    x: Array,
    h: Array,
    c: Array,
    W: Array,
    U: Array,
    b: Array,
    *,
    gate_order: str = "ifgo",
    out: Any = None,
) -> Any:
    """c' = f c + i g, h' = o tanh c'; i, f, o = sigmoid and g = tanh of W x + U h + b.

    Parameters
    ----------
    x, h, c : arrays (..., D), (..., H), (..., H) of float16, bfloat16, float32 or float64
    W, U, b : arrays (4 H, D), (4 H, H), (4 H,) of the same type
        Rows of the four gates one after the other.
    gate_order : str
        Order of the gates; "iofc" is ONNX's, "fioc" the article's, c and g are the same gate.
    out : tuple of arrays, optional
        Where results go.

    Returns
    -------
    tuple (h', c'), shapes (..., H)

    Raises
    ------
    TypeError, ValueError
        Types that differ, shapes that do not fit, another `gate_order`.

    Notes
    -----
    Source: kexue.fm/archives/7888.

    Examples
    --------
    >>> import numpy as np, kexue_native as kn
    >>> one = np.ones(1)
    >>> h, c = kn.lstm_cell(one, one, one, np.ones((4, 1)), np.ones((4, 1)), np.zeros(4))
    >>> h.round(6), c.round(6)
    (array([0.827108]), array([1.72991]))
    """
    batch = _lstm_batch("lstm_cell", x, h, c, W, U, b)
    cell = _lstm(batch, gate_order)
    return _store(batch, (cell.o * batch.xp.tanh(cell.c), cell.c), out)


def lstm_jacobian(
    x: Array,
    h: Array,
    c: Array,
    W: Array,
    U: Array,
    b: Array,
    *,
    gate_order: str = "ifgo",
    out: Any = None,
) -> Any:
    """d(h', c') / d(h, c) of `lstm_cell`, (..., 2 H, 2 H).

    Parameters
    ----------
    x, h, c, W, U, b, gate_order
        As `lstm_cell`.
    out : array, optional
        Where the result goes.

    Returns
    -------
    array (..., 2 H, 2 H)
        Rows are h' and c', columns h and c.

    Raises
    ------
    TypeError, ValueError
        As `lstm_cell`.

    Notes
    -----
    dc'/dh = diag(c f (1 - f)) U_f + diag(g i (1 - i)) U_i + diag(i (1 - g^2)) U_g, dc'/dc = diag f,
    dh'/dh = diag(tanh(c') o (1 - o)) U_o + diag(o (1 - tanh^2 c')) dc'/dh, and
    dh'/dc = diag(o (1 - tanh^2 c') f).

    Source: kexue.fm/archives/7888.

    Examples
    --------
    >>> import numpy as np, kexue_native as kn
    >>> one = np.ones(1)
    >>> kn.lstm_jacobian(one, one, one, np.ones((4, 1)), np.ones((4, 1)), np.zeros(4)).round(3)
    array([[0.127, 0.092],
           [0.268, 0.881]])
    """
    batch = _lstm_batch("lstm_jacobian", x, h, c, W, U, b)
    n, xp = _lstm(batch, gate_order), batch.xp
    c_h = (
        (n.old * n.f * (1 - n.f))[..., None] * n.u["f"]
        + (n.g * n.i * (1 - n.i))[..., None] * n.u["i"]
        + (n.i * (1 - n.g * n.g))[..., None] * n.u["g"]
    )
    t = xp.tanh(n.c)
    reach = n.o * (1 - t * t)
    h_h = (t * n.o * (1 - n.o))[..., None] * n.u["o"] + reach[..., None] * c_h
    one = xp.eye(batch.size["h"], dtype=batch.wide)
    rows = [
        xp.concatenate([h_h, (reach * n.f)[..., None] * one], axis=-1),
        xp.concatenate([c_h, n.f[..., None] * one], axis=-1),
    ]
    return _store(batch, (xp.concatenate(rows, axis=-2),), out)


class _Gru(NamedTuple):
    z: Array
    r: Array
    n: Array
    inner: Array  # U_n h + its bias, where r is applied after the product
    u: tuple[Array, ...]


def _gru(batch: Batch, reset_after: bool, update: str) -> _Gru:
    name, size = batch.name, batch.size["h"]
    if batch.size["r"] != 3 * size:
        raise ValueError(f"{name}: W must have {3 * size} rows, got {batch.size['r']}")
    one_of(name, "update", update, ("new", "old"))
    if "c" in batch.arrays and not reset_after:
        raise ValueError(f"{name}: c must be None unless reset_after, got an array")
    x, h, w, u, b, *rest = _wide(batch)
    inside = rest[0] if rest else batch.xp.zeros(3 * size, batch.wide)
    parts = [slice(k * size, (k + 1) * size) for k in range(3)]
    from_x = _apply(w, x) + b
    z, r = (sigmoid(from_x[..., p] + _apply(u[p], h) + inside[p]) for p in parts[:2])
    last = parts[2]
    inner = _apply(u[last], h) + inside[last]
    recurrent = r * inner if reset_after else _apply(u[last], r * h)
    n = batch.xp.tanh(from_x[..., last] + recurrent)
    return _Gru(z, r, n, inner, tuple(u[p] for p in parts))


def _gru_batch(name: str, x: Array, h: Array, W: Array, U: Array, b: Array, c: Any) -> Batch:
    more = {} if c is None else {"c": (c, "r")}
    return Batch(name, x=(x, "d"), h=(h, "h"), W=(W, "rd"), U=(U, "rh"), b=(b, "r"), **more)


def gru_cell(
    x: Array,
    h: Array,
    W: Array,
    U: Array,
    b: Array,
    *,
    c: Array | None = None,
    reset_after: bool = False,
    update: str = "new",
    out: Any = None,
) -> Any:
    """h' = (1 - z) h + z n; z, r = sigmoid of W x + U h + b, n = tanh(W_n x + U_n (r h) + b_n).

    Parameters
    ----------
    x, h : arrays (..., D), (..., H) of float16, bfloat16, float32 or float64
    W, U, b : arrays (3 H, D), (3 H, H), (3 H,) of the same type
        Rows of z, r and n one after the other.
    c : array (3 H,), optional
        A second bias, next to U h; with `reset_after`.
    reset_after : bool
        r multiplies U_n h + c_n instead of h.
    update : str
        What z weights, "new" (the article) or "old": h' = z h + (1 - z) n. PyTorch has "old" with
        `reset_after`, and the order r, z, n.
    out : array, optional
        Where the result goes.

    Returns
    -------
    array (..., H)

    Raises
    ------
    TypeError, ValueError
        Types that differ, shapes that do not fit, another `update`.

    Notes
    -----
    Source: kexue.fm/archives/7888.

    Examples
    --------
    >>> import numpy as np, kexue_native as kn
    >>> kn.gru_cell(np.ones(1), np.ones(1), np.ones((3, 1)), np.ones((3, 1)), np.zeros(3)).round(6)
    array([0.959979])
    """
    check_flags("gru_cell", reset_after=reset_after)
    batch = _gru_batch("gru_cell", x, h, W, U, b, c)
    cell = _gru(batch, reset_after, update)
    old = batch.arrays["h"].astype(batch.wide, copy=False)
    z = cell.z if update == "new" else 1 - cell.z
    keep = 1 - cell.z if update == "new" else cell.z
    return _store(batch, (keep * old + z * cell.n,), out)


def gru_jacobian(
    x: Array,
    h: Array,
    W: Array,
    U: Array,
    b: Array,
    *,
    c: Array | None = None,
    reset_after: bool = False,
    update: str = "new",
    out: Any = None,
) -> Any:
    """dh' / dh of `gru_cell`, (..., H, H).

    Parameters
    ----------
    x, h, W, U, b, c, reset_after, update
        As `gru_cell`.
    out : array, optional
        Where the result goes.

    Returns
    -------
    array (..., H, H)

    Raises
    ------
    TypeError, ValueError
        As `gru_cell`.

    Notes
    -----
    diag(1 - z) + diag((n - h) z (1 - z)) U_z
    + diag(z (1 - n^2)) U_n [diag r + diag(h r (1 - r)) U_r], in the article's form.

    Source: kexue.fm/archives/7888.

    Examples
    --------
    >>> import numpy as np, kexue_native as kn
    >>> weights = np.ones((3, 1)), np.ones((3, 1)), np.zeros(3)
    >>> kn.gru_jacobian(np.ones(1), np.ones(1), *weights).round(6)
    array([[0.191544]])
    """
    check_flags("gru_jacobian", reset_after=reset_after)
    batch = _gru_batch("gru_jacobian", x, h, W, U, b, c)
    cell = _gru(batch, reset_after, update)
    z, r, n, inner, (u_z, u_r, u_n) = cell
    old = batch.arrays["h"].astype(batch.wide, copy=False)
    one = batch.xp.eye(batch.size["h"], dtype=batch.wide)
    turn = (r * (1 - r))[..., None] * u_r
    if reset_after:
        inside = r[..., None] * u_n + inner[..., None] * turn
    else:
        inside = u_n @ (r[..., None] * one + old[..., None] * turn)
    share, keep = (z, 1 - z) if update == "new" else (1 - z, z)
    slope = (n - old) if update == "new" else (old - n)
    result = (
        keep[..., None] * one
        + (slope * z * (1 - z))[..., None] * u_z
        + (share * (1 - n * n))[..., None] * inside
    )
    return _store(batch, (result,), out)


def _rnn_batch(name: str, x: Array, h: Array, W: Array, U: Array, b: Array) -> Batch:
    return Batch(name, x=(x, "d"), h=(h, "h"), W=(W, "hd"), U=(U, "hk"), b=(b, "h"))


def _rnn(batch: Batch) -> tuple[Array, Array]:
    if batch.size["k"] != batch.size["h"]:
        raise ValueError(f"{batch.name}: U must be square, got {batch.arrays['U'].shape}")
    x, h, w, u, b = _wide(batch)
    return batch.xp.tanh(_apply(w, x) + _apply(u, h) + b), u


def rnn_cell(x: Array, h: Array, W: Array, U: Array, b: Array, *, out: Any = None) -> Any:
    """h' = tanh(W x + U h + b)

    Parameters
    ----------
    x, h : arrays (..., D), (..., H) of float16, bfloat16, float32 or float64
    W, U, b : arrays (H, D), (H, H), (H,) of the same type
    out : array, optional
        Where the result goes.

    Returns
    -------
    array (..., H)

    Raises
    ------
    TypeError, ValueError
        Types that differ, shapes that do not fit.

    Notes
    -----
    Source: kexue.fm/archives/7888.

    Examples
    --------
    >>> import numpy as np, kexue_native as kn
    >>> kn.rnn_cell(np.ones(1), np.ones(1), np.ones((1, 1)), np.ones((1, 1)), np.zeros(1)).round(6)
    array([0.964028])
    """
    batch = _rnn_batch("rnn_cell", x, h, W, U, b)
    return _store(batch, (_rnn(batch)[0],), out)


def rnn_jacobian(x: Array, h: Array, W: Array, U: Array, b: Array, *, out: Any = None) -> Any:
    """dh' / dh = diag(1 - h'^2) U of `rnn_cell`.

    Parameters
    ----------
    x, h, W, U, b
        As `rnn_cell`.
    out : array, optional
        Where the result goes.

    Returns
    -------
    array (..., H, H)

    Raises
    ------
    TypeError, ValueError
        As `rnn_cell`.

    Notes
    -----
    Source: kexue.fm/archives/7888: |x (1 - tanh^2 x)| is at most 0.4477432, at 0.7717023.

    Examples
    --------
    >>> import numpy as np, kexue_native as kn
    >>> kn.rnn_jacobian(np.zeros(1), np.zeros(1), np.ones((1, 1)), np.ones((1, 1)), np.zeros(1))
    array([[1.]])
    """
    batch = _rnn_batch("rnn_jacobian", x, h, W, U, b)
    new, u = _rnn(batch)
    return _store(batch, ((1 - new * new)[..., None] * u,), out)


def jacobian_chain_lognorm(J: Array, *, norm: str = "fro", main: Array | None = None) -> Any:
    """log of the norm of J_t ... J_1 for every t.

    Parameters
    ----------
    J : array (T, H, H)
        Jacobians of the steps.
    norm : str
        "fro" or "spectral".
    main : array (T, H), optional
        Diagonals of a main part of each Jacobian, the forget gates f of an LSTM.

    Returns
    -------
    array (T,), float64
        A falling line says that gradients vanish, a rising one that they explode. With `main` a
        tuple of it, the log norm of the product of the main parts, and that of the difference of
        the two products.

    Raises
    ------
    TypeError, ValueError
        Arguments that are not as above.

    Notes
    -----
    The product is scaled to norm 1 at every step: thousands of steps neither overflow nor vanish.

    Source: kexue.fm/archives/7888.

    Examples
    --------
    >>> import numpy as np, kexue_native as kn
    >>> kn.jacobian_chain_lognorm(np.full((3, 1, 1), 0.5)).round(6)
    array([-0.693147, -1.386294, -2.079442])
    """
    name = "jacobian_chain_lognorm"
    J = as_array(name, "J", J)
    if J.ndim != 3 or J.shape[1] != J.shape[2]:
        raise ValueError(f"{name}: J must have shape (T, H, H), got {J.shape}")
    one_of(name, "norm", norm, ("fro", "spectral"))
    xp, steps = namespace(J), J.astype(FLOAT64)
    count, size = J.shape[:2]
    diagonal = None
    if main is not None:
        diagonal = as_array(name, "main", main).astype(FLOAT64)
        if diagonal.shape != (count, size):
            raise ValueError(f"{name}: main must have shape {(count, size)}, got {diagonal.shape}")

    def size_of(matrix: Array) -> Array:
        return xp.linalg.norm(matrix, 2 if norm == "spectral" else None)

    logs = xp.zeros((3, count))
    # The whole product, that of the main parts, and the rest, in units e^unit of their own.
    whole, part, rest = xp.eye(size), xp.eye(size), xp.zeros((size, size))
    units = [xp.zeros(()), xp.zeros(()), xp.full((), -np.inf)]

    def scaled(matrix: Array, unit: Array) -> tuple[Array, Array]:
        length = size_of(matrix)
        safe = xp.where(length > 0, length, 1.0)
        return matrix / safe, xp.where(length > 0, unit + xp.log(safe), -np.inf)

    with np.errstate(all="ignore"):
        for t in range(count):
            if diagonal is not None:  # rest' = J rest + (J - D) part
                other = steps[t] - xp.diag(diagonal[t])
                unit = xp.maximum(units[1], units[2])
                unit = xp.where(unit == -np.inf, 0.0, unit)
                rest = steps[t] @ rest * xp.exp(units[2] - unit) + other @ part * xp.exp(
                    units[1] - unit
                )
                rest, units[2] = scaled(rest, unit)
                part, units[1] = scaled(diagonal[t][:, None] * part, units[1])
            whole, units[0] = scaled(steps[t] @ whole, units[0])
            for row in range(3):
                logs[row, t] = units[row]
    return logs[0] if diagonal is None else (logs[0], logs[1], logs[2])


def beam_step(scores: Array, logp: Array, beam: int) -> tuple[Any, Any, Any]:
    """The `beam` best of scores_b + logp_bv over all b and v, best first.

    Parameters
    ----------
    scores : array (B,)
        Log-probabilities of the beams so far.
    logp : array (B, V)
        Of the next tokens.
    beam : int
        How many to keep, at most B V.

    Returns
    -------
    tuple (scores, parent, token), each (beam,)
        In the type of the sum, int64, int64. Ties go to the lower b V + v; nan comes last.

    Raises
    ------
    TypeError, ValueError
        Arguments that are not as above.

    Notes
    -----
    Source: kexue.fm/archives/7912.

    Examples
    --------
    >>> import kexue_native as kn
    >>> kn.beam_step([0.0, -1.0], [[-1.0, -2.0], [-0.5, -3.0]], 2)
    (array([-1. , -1.5]), array([0, 1]), array([0, 0]))
    """
    name = "beam_step"
    batch = Batch(name, scores=(scores, "b"), logp=(logp, "bv"))
    total = (
        batch.arrays["scores"].astype(batch.wide)[:, None] + batch.arrays["logp"].astype(batch.wide)
        if batch.arrays["logp"].ndim == 2
        else None
    )
    if total is None or batch.arrays["scores"].ndim != 1:
        raise ValueError(f"{name}: logp must have shape (B, V), got {batch.arrays['logp'].shape}")
    beam = as_index(name, "beam", beam, 0)
    if beam > total.size:
        raise ValueError(f"{name}: beam must be at most {total.size}, got {beam}")
    xp, flat = batch.xp, total.reshape(-1)
    order = xp.argsort(-flat, kind="stable")[:beam].astype(np.int64)
    width = total.shape[1]
    return flat[order].astype(batch.dtype), order // max(width, 1), order % max(width, 1)
