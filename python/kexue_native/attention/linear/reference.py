"""The formulas of `linear`, for NumPy and CuPy.

A feature is sign e^log: maps without exponentials have log = 0, those with have sign = 1. Keys and
values are summed into states S (f, v), z (f), whose unit is e^c, c the running maximum of the keys'
log features, each for itself: then no exponent is positive and a denominator is at least 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..._arrays import Array, namespace, widen
from .._reference import (
    CAUSAL,
    EXCLUDE_SELF,
    blocks,
    highest,
    largest,
    put,
    quiet,
    transposed,
    visible_counts,
    weigh,
)

KINDS = (
    "identity",
    "elu1",
    "relu",
    "exp",
    "softmax_d",
    "efficient",
    "cosine",
    "taylor2",
    "affine",  # log features W x + bias - |x|^2 / 2: positive, hyperbolic, plus and sderf
    "trig",
    "random_relu",
)
EXPONENTIAL = ("elu1", "exp", "softmax_d", "efficient", "affine")
SPREAD = 600.0  # of a feature's running maximum within a chunk, before it is split
ABSORBED = 4096  # keys at a time


class Features(NamedTuple):
    """sign e^log, (..., rows, f)"""

    sign: Array
    log: Array

    def rows(self, where: slice) -> Features:
        return Features(*(part if part.ndim == 0 else part[..., where, :] for part in self))

    def shifted(self, by: Array | None) -> Features:
        """times e^by, a number a row"""
        return self if by is None else Features(self.sign, self.log + by[..., None])


class State(NamedTuple):
    """S = sum e^(a - c) v^T, z = sum e^(a - c) tail"""

    c: Array
    s: Array
    z: Array

    def plus(self, keys: Features, values: Array, tails: Array) -> State:
        xp = namespace(self.c)
        if keys.log.shape[-2] == 0:
            return self
        c = xp.maximum(self.c, peak(keys))
        old = self.moved(c)
        psi = scaled(keys, c)
        return State(c, old.s + transposed(psi) @ values, old.z + xp.sum(psi * tails, axis=-2))

    def moved(self, c: Array) -> State:
        """In units of e^c, c not below its own"""
        xp = namespace(c)
        factor = xp.exp(self.c - finite(c))
        return State(c, factor[..., None] * self.s, factor * self.z)


def finite(c: Array) -> Array:
    return namespace(c).where(c == -math.inf, 0.0, c)


def peak(keys: Features) -> Array:
    """The largest log of each feature; a nan stays with its key"""
    xp = namespace(keys.log)
    return xp.max(xp.where(keys.log == keys.log, keys.log, -math.inf), axis=-2)


def scaled(keys: Features, c: Array) -> Array:
    return keys.sign * namespace(c).exp(keys.log - finite(c)[..., None, :])


class Reads(NamedTuple):
    """What a chunk of readers gets of a state and of the sources after it that they see."""

    state: State
    keys: Features
    values: Array
    tails: Array
    seen: Array  # (rows, keys)
    reader: Features

    def value(self) -> tuple[Array, Array, Array]:
        """Numerators (..., rows, v) and denominators (..., rows, 1) in units of e^H, and H

        H is -inf where there is nothing to read.
        """
        xp = namespace(self.values)
        c = self.state.c[..., None, :]
        top = highest(self.reader.log + c)
        phi = self.reader.sign * xp.exp(self.reader.log + c - finite(top))
        psi = scaled(self.keys, self.state.c)
        seen = self.seen & (phi.shape[-1] > 0)  # without features there is nothing
        weight = xp.where(seen, phi @ transposed(psi), 0.0)
        total = phi @ self.state.s + weigh(weight, seen, self.values)
        tails = weigh(weight, seen, self.tails)
        return total, phi @ self.state.z[..., None] + tails, top

    def gradient(self, u: Array, t: Array) -> Array:
        """e^log (S u + z t) for each reader: the gradient for log where sign is 1"""
        xp = namespace(u)
        psi = scaled(self.keys, self.state.c)
        pair = xp.where(self.seen, u @ transposed(self.values), 0.0)
        slope = u @ transposed(self.state.s) + weigh(pair, self.seen, psi)
        slope = slope + t * (self.state.z[..., None, :] + self.mass(psi * self.tails))
        return xp.exp(self.reader.log + self.state.c[..., None, :]) * slope

    def mass(self, parts: Array) -> Array:
        """Sums over what each reader sees after the state"""
        return weigh(self.seen * namespace(parts).ones(self.seen.shape), self.seen, parts)


Visit = Callable[[slice, Reads], None]


def scan(
    keys: Features,
    values: Array,
    tails: Array,
    readers: Features,
    state: State,
    offset: int,
    chunk: int,
    visit: Visit,
) -> State:
    """Reader i sees keys j < i + offset. Visits chunks of readers; returns the last state."""
    xp = namespace(values)
    rows, count = readers.log.shape[-2], keys.log.shape[-2]
    done = 0

    def absorb(stop: int) -> None:
        nonlocal state, done
        for part in blocks(max(stop - done, 0), ABSORBED):
            here = slice(done + part.start, done + part.stop)
            state = state.plus(keys.rows(here), values[..., here, :], tails[..., here, :])
        done = max(stop, done)

    def go(first: int, last: int) -> None:
        start = min(max(first + offset, 0), count)  # that the first reader sees
        stop = min(max(last - 1 + offset, 0), count)
        absorb(start)
        here = slice(start, stop)
        block = keys.rows(here)
        c = state.c if start == stop else xp.maximum(state.c, peak(block))
        gap = xp.where(c == state.c, 0.0, c - state.c)
        if last - first > 1 and start < stop and bool(xp.any(gap > SPREAD)):
            middle = (first + last) // 2
            go(first, middle)
            go(middle, last)
            return
        seen = xp.arange(start, stop) < xp.arange(first, last)[:, None] + offset
        reads = Reads(
            state.moved(c),
            block,
            values[..., here, :],
            tails[..., here, :],
            seen,
            readers.rows(slice(first, last)),
        )
        visit(slice(first, last), reads)

    for part in blocks(rows, chunk):
        go(part.start, part.stop)
    absorb(count)
    return state


# --- Feature maps ---


def features(
    kind: str, x: Array, projection: Array | None, bias: Array | None, eps: float, query: bool
) -> Features:
    """The features of rows x, (..., rows, d), which are scaled already"""
    xp = namespace(x)
    zero, one = xp.zeros(()), xp.ones(())
    if kind in ("affine", "trig", "random_relu"):
        w: Array = projection
        u = x @ transposed(w)
        half = xp.sum(x * x, axis=-1, keepdims=True) / 2
        root = math.sqrt(w.shape[-2] or 1)
        if kind == "affine":
            return Features(one, u - half if bias is None else u + widen(bias) - half)
        if kind == "trig":
            sign = xp.concatenate([xp.cos(u), xp.sin(u)], axis=-1) / root
            return Features(sign, half + xp.zeros(sign.shape))
        return plain((xp.maximum(u, 0.0) + eps) / root)
    if kind == "identity":
        return plain(x)
    if kind == "relu":
        return plain(xp.maximum(x, 0.0) + eps)
    if kind == "elu1":
        return Features(one, xp.where(x > 0, xp.log1p(xp.maximum(x, 0.0)), x))
    if kind == "exp" or (kind == "efficient" and not query):
        return Features(one, x + zero)
    if kind in ("softmax_d", "efficient"):
        shift = largest(x)
        return Features(one, x - shift - xp.log(xp.sum(xp.exp(x - shift), axis=-1, keepdims=True)))
    if kind == "cosine":
        return plain(xp.concatenate([xp.ones((*x.shape[:-1], 1)), unit(x)[0]], axis=-1))
    i, j, factor = triangle(xp, x.shape[-1])
    pairs = x[..., i] * x[..., j] * factor
    return plain(xp.concatenate([xp.ones((*x.shape[:-1], 1)), x, pairs], axis=-1))


def plain(sign: Array) -> Features:
    return Features(sign, namespace(sign).zeros(sign.shape))


def unit(x: Array) -> tuple[Array, Array]:
    """x / |x| and 1 / |x|, 0 for x = 0; |x| without overflow"""
    xp = namespace(x)
    top = largest(xp.abs(x))
    top = xp.where(top == 0, 1.0, top)
    norm = top * xp.sqrt(xp.sum((x / top) ** 2, axis=-1, keepdims=True))
    return xp.where(norm == 0, 0.0, x / norm), xp.where(norm == 0, 0.0, 1 / norm)


def triangle(xp: Any, d: int) -> tuple[Array, Array, Array]:
    """Pairs i <= j, and the root of how often x_i x_j stands in x x^T, over sqrt 2"""
    i, j = xp.triu_indices(d)
    return i, j, xp.where(i == j, math.sqrt(0.5), 1.0)


def pull(
    kind: str, x: Array, projection: Array | None, slope: Array, own: Features, query: bool
) -> Array:
    """The gradient for x, from that for log (exponential maps) or for sign"""
    xp = namespace(x)
    total = xp.sum(own.sign * slope, axis=-1, keepdims=True)
    if kind in ("affine", "trig", "random_relu"):
        w: Array = projection
        root = math.sqrt(w.shape[-2] or 1)
        if kind == "affine":
            return slope @ w - x * total
        if kind == "random_relu":
            return xp.where(x @ transposed(w) > 0, slope, 0.0) @ w / root
        m = w.shape[-2]
        turn = own.sign[..., :m] * slope[..., m:] - own.sign[..., m:] * slope[..., :m]
        return turn @ w + x * total
    if kind == "relu":
        return xp.where(x > 0, slope, 0.0)
    if kind == "elu1":
        return xp.where(x > 0, slope / (1 + xp.maximum(x, 0.0)), slope)
    if kind == "softmax_d" or (kind == "efficient" and query):
        return slope - xp.exp(features("softmax_d", x, None, None, 0.0, True).log) * total
    if kind == "cosine":
        along, inverse = unit(x)
        slope = slope[..., 1:]
        return (slope - along * xp.sum(along * slope, axis=-1, keepdims=True)) * inverse
    if kind == "taylor2":
        d = x.shape[-1]
        i, j, factor = triangle(xp, d)
        square = xp.zeros((*slope.shape[:-1], d, d))
        square[..., i, j] = slope[..., 1 + d :] * factor
        return slope[..., 1 : 1 + d] + ((square + transposed(square)) @ x[..., None])[..., 0]
    return slope


@quiet
def feature_map(
    x: Array,
    projection: Array | None,
    bias: Array | None,
    kind: int,
    input_scale: float,
    kernel_eps: float,
    query: int,
    out: Array,
) -> None:
    """sign e^log"""
    wide = None if projection is None else widen(projection)
    own = features(KINDS[int(kind)], input_scale * widen(x), wide, bias, kernel_eps, bool(query))
    put(out, own.sign * namespace(own.log).exp(own.log))


# --- Attention ---


class Problem:
    """The features of one call, broadcast, and the scans over them."""

    def __init__(
        self,
        q: Array,
        k: Array,
        v: Array,
        projection: Array | None,
        bias: Array | None,
        weight: Array | None,
        decay: Array | None,
        c: Array | None,
        s: Array | None,
        z: Array | None,
        kind: int,
        input_scale: float,
        kernel_eps: float,
        mode: int,
        offset: int,
        chunk: int,
    ) -> None:
        self.xp = xp = namespace(q)
        arrays = [x.shape[:-2] for x in (q, k, v)]
        arrays += [x.shape[:-1] for x in (weight, decay, c, z) if x is not None]
        self.loop = np.broadcast_shapes(*arrays, () if s is None else s.shape[:-2])
        projection = None if projection is None else widen(projection)
        self.kind, self.projection = KINDS[int(kind)], projection
        self.exponential = self.kind in EXPONENTIAL
        self.n, self.m, self.width = q.shape[-2], k.shape[-2], v.shape[-1]
        self.mode, self.chunk, self.input_scale = int(mode), int(chunk), input_scale
        self.offset = self.m if self.mode == 0 else int(offset) + (not self.mode & EXCLUDE_SELF)
        q, k, v = (widen(x) for x in (q, k, v))
        self.weight = xp.ones(self.m) if weight is None else widen(weight)
        self.alive = self.weight[..., None] > 0
        k, v = xp.where(self.alive, k, 0.0), xp.where(self.alive, v, 0.0)
        # A query that sees nothing takes no part: also not with a nan.
        count = visible_counts(xp, self.n, self.m, self.mode, int(offset), self.alive[..., 0])
        self.dead = (count == 0) & (s is None)
        q = xp.where(self.dead[..., None], 0.0, q)
        self.q, self.k = input_scale * q, input_scale * k
        readers = features(self.kind, self.q, projection, bias, kernel_eps, True)
        keys = features(self.kind, self.k, projection, bias, kernel_eps, False)
        if self.exponential:
            keys = keys.shifted(xp.log(self.weight))
        elif weight is not None:
            keys = Features(keys.sign * self.weight[..., None], keys.log)
        self.decay, self.total_decay = None, xp.zeros(1)
        if decay is not None:
            self.decay = widen(decay)
            sums = xp.concatenate([xp.zeros((*decay.shape[:-1], 1)), self.decay], axis=-1)
            self.place = xp.clip(xp.arange(self.n) + int(offset) + 1, 0, self.m)
            self.total_decay = sums[..., -1:]
            if self.kind != "efficient":  # whose sums all fade alike
                readers = readers.shifted(sums[..., self.place])
            keys = keys.shifted(-self.decay)
        self.readers, self.keys = self.spread(readers), self.spread(keys)
        self.v = xp.broadcast_to(v, (*self.loop, self.m, self.width))
        self.f = self.keys.log.shape[-1]
        self.start = self.empty() if s is None else self.widened(c, s, z)
        if self.kind == "efficient":
            self.shares, self.masses = self.readers, self.log_masses()
            self.readers = self.readers._replace(log=self.readers.log - self.masses)

    def spread(self, own: Features) -> Features:
        xp, shape = self.xp, (*self.loop, *own.log.shape[-2:])
        sign = own.sign if own.sign.ndim == 0 else xp.broadcast_to(own.sign, shape)
        return Features(sign, xp.broadcast_to(own.log, shape))

    def empty(self) -> State:
        xp, shape = self.xp, (*self.loop, self.f)
        unknown = self.exponential or self.decay is not None  # until a key sets the unit
        c = xp.full(shape, -math.inf if unknown else 0.0)
        return State(c, xp.zeros((*shape, self.width)), xp.zeros(shape))

    def widened(self, c: Array | None, s: Array, z: Array | None) -> State:
        parts = [
            own if given is None else widen(given)
            for own, given in zip(self.empty(), (c, s, z), strict=True)
        ]
        return State(
            *(
                self.xp.broadcast_to(x, own.shape)
                for x, own in zip(parts, self.empty(), strict=True)
            )
        )

    def over_keys(self, visit: Visit) -> State:
        """Each query reads the keys that it sees; with `exclude_self` alone in two pieces."""
        ones = self.xp.ones((*self.loop, self.m, 1))
        keys = self.keys, self.v, ones
        state = scan(*keys, self.readers, self.start, self.offset, self.chunk, visit)
        if self.mode == EXCLUDE_SELF:
            self.turned_scan(*keys, self.readers, self.m - self.n - self.offset, visit)
        return state

    def over_queries(self, values: Array, tails: Array, visit: Visit) -> State:
        """Each key reads the queries that see it."""
        queries = self.readers, values, tails
        offset = self.n if self.mode == 0 else self.n - self.m + self.offset
        state = self.turned_scan(*queries, self.keys, offset, visit)
        if self.mode == EXCLUDE_SELF:
            start = self.empty()
            scan(*queries, self.keys, start, -self.offset, self.chunk, visit)
        return state

    def turned_scan(
        self,
        keys: Features,
        values: Array,
        tails: Array,
        readers: Features,
        offset: int,
        visit: Visit,
    ) -> State:
        """`scan` from the end"""
        count = readers.log.shape[-2]

        def turn(rows: slice, reads: Reads) -> None:
            back = reads._replace(seen=reads.seen[::-1], reader=turned_rows(reads.reader))
            visit(slice(count - rows.stop, count - rows.start), back)

        sources = turned_rows(keys), values[..., ::-1, :], tails[..., ::-1, :]
        start = self.empty()
        return scan(*sources, turned_rows(readers), start, offset, self.chunk, turn)

    def log_masses(self) -> Array:
        """log z for each query and feature"""
        xp = self.xp
        log_z = xp.full((*self.loop, self.n, self.f), -math.inf)

        def visit(rows: slice, reads: Reads) -> None:
            z = reads.state.z[..., None, :] + reads.mass(scaled(reads.keys, reads.state.c))
            unit = finite(reads.state.c)[..., None, :]
            log_z[..., rows, :] = xp.logaddexp(log_z[..., rows, :], xp.log(z) + unit)

        self.over_keys(visit)
        return xp.where(log_z == -math.inf, math.inf, log_z)

    def values(self) -> tuple[Array, Array, Array, State]:
        """Numerators, denominators, the exponents of their unit, and the last state"""
        xp, shape = self.xp, (*self.loop, self.n)
        total, mass = xp.zeros((*shape, self.width)), xp.zeros((*shape, 1))
        top = xp.full((*shape, 1), -math.inf)

        def visit(rows: slice, reads: Reads) -> None:
            number, amount, unit = reads.value()
            before = top[..., rows, :]
            now = xp.where(xp.isnan(unit), unit, xp.maximum(before, unit))
            old, new = xp.exp(before - finite(now)), xp.exp(unit - finite(now))
            total[..., rows, :] = old * total[..., rows, :] + new * number
            mass[..., rows, :] = old * mass[..., rows, :] + new * amount
            top[..., rows, :] = now

        state = self.over_keys(visit)
        return total, mass, xp.where(top == -math.inf, 0.0, top), state


def turned_rows(own: Features) -> Features:
    return Features(*(x if x.ndim == 0 else x[..., ::-1, :] for x in own))


def normalised(problem: Problem, normalize: float, eps: float) -> tuple[Array, Array, Array, State]:
    """Results, 1 / denominators (0 for dead rows), exponents of their unit, the last state"""
    xp = problem.xp
    total, mass, top, state = problem.values()
    if not normalize or problem.kind == "efficient":
        return total * xp.exp(top), xp.ones(mass.shape), xp.zeros(top.shape), state
    mass = mass + eps * xp.exp(-top) if eps else mass
    dead = mass <= 0 if problem.kind == "cosine" else mass == 0
    inverse = xp.where(dead, 0.0, 1 / mass)
    return xp.where(dead, 0.0, total / mass), inverse, top, state


@quiet
def linear_attention(
    q: Array,
    k: Array,
    v: Array,
    projection: Array | None,
    bias: Array | None,
    weight: Array | None,
    decay: Array | None,
    c: Array | None,
    s: Array | None,
    z: Array | None,
    kind: int,
    input_scale: float,
    kernel_eps: float,
    mode: int,
    offset: int,
    normalize: float,
    eps: float,
    chunk: int,
    out: Array,
    c_out: Array | None,
    s_out: Array | None,
    z_out: Array | None,
) -> None:
    """out_i = sum_j w_ij v_j / sum_j w_ij, w_ij = weight_j D_ij phi(q_i).psi(k_j)"""
    start, scales = (weight, decay, c, s, z), (kind, input_scale, kernel_eps)
    problem = Problem(q, k, v, projection, bias, *start, *scales, mode, offset, chunk)
    value, _, _, state = normalised(problem, normalize, eps)
    put(out, value)
    if s_out is None:
        return
    unit = state.c + problem.total_decay
    if not problem.exponential and problem.kind != "trig":
        factor = problem.xp.exp(unit)
        state = State(unit, factor[..., None] * state.s, factor * state.z)
        unit = problem.xp.zeros(unit.shape)
    put(c_out, unit)
    put(s_out, state.s)
    put(z_out, state.z)


@quiet
def linear_attention_vjp(
    g: Array,
    q: Array,
    k: Array,
    v: Array,
    projection: Array | None,
    bias: Array | None,
    weight: Array | None,
    decay: Array | None,
    c: Array | None,
    s: Array | None,
    z: Array | None,
    kind: int,
    input_scale: float,
    kernel_eps: float,
    mode: int,
    offset: int,
    normalize: float,
    eps: float,
    chunk: int,
    dq: Array,
    dk: Array,
    dv: Array,
    dweight: Array | None,
    ddecay: Array | None,
    ds: Array | None,
    dz: Array | None,
) -> None:
    """dphi_i = S_i ghat_i + z_i delta_i, dpsi_j = G_j v_j + y_j, dv_j = G_j^T psi_j"""
    if q.shape[-2] == 0:
        without_query(dq, dk, dv, dweight, ddecay, ds, dz)
        return
    start, scales = (weight, decay, c, s, z), (kind, input_scale, kernel_eps)
    p = Problem(q, k, v, projection, bias, *start, *scales, mode, offset, chunk)
    xp, g = p.xp, widen(g)
    value, inverse, top, _ = normalised(p, normalize, eps)
    ghat = xp.where((inverse == 0) | p.dead[..., None], 0.0, g * inverse)
    per_row = normalize and p.kind != "efficient"
    delta = -xp.sum(ghat * value, axis=-1, keepdims=True) if per_row else xp.zeros(inverse.shape)
    p.readers = p.readers._replace(log=p.readers.log - top)
    slope = xp.zeros((*p.loop, p.n, p.f))

    def read_keys(rows: slice, reads: Reads) -> None:
        slope[..., rows, :] += reads.gradient(ghat[..., rows, :], delta[..., rows, :])

    tails = delta
    if p.kind == "efficient":
        whole, p.readers = p.readers, p.readers._replace(log=-p.masses)
        p.over_keys(read_keys)
        p.readers, tails = whole, -slope
        slope = xp.exp(p.shares.log) * slope
    else:
        p.over_keys(read_keys)
    put(dq, input_scale * pull(p.kind, p.q, p.projection, slope, p.readers, True))

    back, to_v = xp.zeros((*p.loop, p.m, p.f)), xp.zeros((*p.loop, p.m, p.width))

    def read_queries(rows: slice, reads: Reads) -> None:
        number, _, unit = reads.value()
        to_v[..., rows, :] += xp.where(unit == -math.inf, 0.0, number * xp.exp(unit))
        back[..., rows, :] += reads.gradient(
            p.v[..., rows, :], xp.ones((*p.loop, rows.stop - rows.start, 1))
        )

    state = p.over_queries(ghat, tails, read_queries)
    own = p.keys if p.exponential else p.keys._replace(sign=p.keys.sign / safe(p.weight))
    factor = 1.0 if p.exponential else p.weight[..., None]
    from_k = pull(p.kind, p.k, p.projection, factor * back, own, False)
    seen = seen_keys(p)
    put(dk, xp.where(seen, input_scale * from_k, 0.0))
    put(dv, xp.where(seen, to_v, 0.0))
    amount = xp.sum(xp.where(seen, p.keys.sign * back, 0.0), axis=-1)
    if dweight is not None:
        put(dweight, xp.where(p.weight > 0, amount / safe(p.weight)[..., 0], 0.0))
    if ddecay is not None:
        got = xp.sum(p.readers.sign * slope, axis=-1) * (p.kind != "efficient")
        got = xp.concatenate([suffix_sums(got), xp.zeros((*p.loop, 1))], axis=-1)
        first = xp.searchsorted(p.place, xp.arange(p.m), side="right")
        put(ddecay, got[..., first] - suffix_sums(amount))
    if ds is not None:
        unit = xp.exp(p.start.c + state.c)
        put(ds, xp.where(unit[..., None] == 0, 0.0, unit[..., None] * state.s))
        put(dz, xp.where(unit == 0, 0.0, unit * state.z))


def seen_keys(p: Any) -> Any:
    """Whether there is a query that sees a key: nothing comes of others, whatever their values."""
    if p.mode == EXCLUDE_SELF and p.n == 1:
        seen = (p.xp.arange(p.m) != p.offset)[:, None]
    elif p.mode & CAUSAL:
        seen = (p.xp.arange(p.m) < p.n - 1 + p.offset)[:, None]
    else:
        return p.alive
    return seen if p.alive is None else p.alive & seen


def without_query(*gradients: Array | None) -> None:
    """All gradients 0: nothing is read, not even a nan."""
    for gradient in gradients:
        if gradient is not None:
            gradient[...] = 0


def suffix_sums(x: Array) -> Array:
    return namespace(x).cumsum(x[..., ::-1], axis=-1)[..., ::-1]


def safe(weight: Array) -> Array:
    """Weights of keys as a column, 1 where a key takes no part"""
    return namespace(weight).where(weight > 0, weight, 1.0)[..., None]
