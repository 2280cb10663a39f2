"""Linear attention on a GPU: feature maps, units, scans and normalisers are kernels of
kexue/cuda/linear.h, matrix products CuPy's.

As in the reference a scan takes sources into a state and lets readers read it. Here all chunks of a
long segment go at once: what each chunk adds is a product, a scan of these sums along the chunks
gives the state before each, and within a chunk readers and sources meet in pairs. Nothing waits for
the device: a chunk that needs other units is marked there and mended by the kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..._arrays import FLOAT32, FLOAT64, Array, empty, namespace
from ..._device import launch
from .._reference import EXCLUDE_SELF, put, quiet, transposed, visible_counts
from . import reference
from .reference import EXPONENTIAL, KINDS, Features, features, finite, pull, safe, suffix_sums

__all__ = ["feature_map", "linear_attention", "linear_attention_step", "linear_attention_vjp"]

SEGMENT = 1 << 25  # numbers of the features of a segment
PIECE = 64  # rows that a thread looks through for a maximum
run = partial(launch, "linear")
linear_attention_step = partial(run, "linear_attention_step")


def wide(x: Array) -> Array:
    """As the type of sums; bfloat16 comes as its bits"""
    if x.dtype == np.uint16:
        return (x.astype(np.uint32) << 16).view(np.float32)
    return x if x.dtype == FLOAT64 else x.astype(FLOAT32, copy=False)


def broadcast(x: Array, *loops: tuple[int, ...], core: int) -> Array:
    """x, its leading axes those of all, in memory of its own where that changes them"""
    split = x.ndim - core
    loop = np.broadcast_shapes(x.shape[:split], *loops)
    if loop == x.shape[:split]:
        return x
    return namespace(x).ascontiguousarray(namespace(x).broadcast_to(x, (*loop, *x.shape[split:])))


def chunked(x: Array, size: int) -> Array:
    """(..., rows, w) as (..., chunks, size, w)"""
    return x.reshape(*x.shape[:-2], x.shape[-2] // max(size, 1), size, x.shape[-1])


def padded(x: Array, first: int, last: int) -> Array:
    """Rows from `first` to `last`, 0 where there are none"""
    count = x.shape[-2]
    if 0 <= first and last <= count:
        return x[..., first:last, :]
    xp = namespace(x)
    to = xp.zeros((*x.shape[:-2], last - first, x.shape[-1]), x.dtype)
    low, high = max(first, 0), min(last, count)
    if low < high:
        to[..., low - first : high - first, :] = x[..., low:high, :]
    return to


class Rows:
    """Queries or keys, in the order of a scan."""

    def __init__(self, x: Array, weight: Array | None, sums: Array | None, query: bool) -> None:
        self.x, self.weight, self.sums, self.query = x, weight, sums, query
        self.minus: Array | None = None  # of logarithms, (..., rows, 1)
        self.extended: Array | None = None  # values and what they are followed by
        self.dead: Array | None = None  # whether there is nothing to see
        # Of "efficient": log z of each query and feature, and the gradients for it, as tails.
        self.masses: Array | None = None
        self.tails: Array | None = None
        self.bare = False  # of features have only 1 / z

    @property
    def count(self) -> int:
        return int(self.x.shape[-2])

    def changed(self, change: Callable[[Array], Array]) -> Rows:
        other = Rows(change(self.x), None, None, self.query)
        other.bare = self.bare
        for name in ("weight", "sums", "minus", "extended", "dead", "masses", "tails"):
            part = getattr(self, name)
            setattr(other, name, None if part is None else change(part))
        return other

    def before(self, stop: int) -> Rows:
        return self.changed(lambda part: part[..., :stop, :])

    def turned(self) -> Rows:
        return self.changed(lambda part: part[..., ::-1, :])


class State:
    """S and z side by side, in units of e^c that refer to the sum of decays `place`"""

    def __init__(self, c: Array, s: Array, place: Array | None) -> None:
        self.c, self.s, self.place = c, s, place

    def at(self, place: Array | None, direction: int) -> State:
        """The same with its unit at another place, (..., 1)"""
        if place is None:
            return self
        by = direction * (place - (0.0 if self.place is None else self.place))
        return State(self.c + by.astype(self.c.dtype), self.s, place)


class Reads:
    """What chunks of readers get of a state and of the sources after it that they see."""

    def __init__(self, p: Problem, state: State, own: Features) -> None:
        self.p, self.state, self.readers = p, state.s, own
        self.unit = self.end = state.c[..., None, :]
        self.keys: Features | None = None
        self.psi = self.values = self.mark = self.row = None
        self.tails = self.places = None

    def value(self) -> tuple[Array, Array]:
        """Numerators and denominators, and the logarithms of their unit"""
        p, own = self.p, self.readers
        sign, log = own
        loop = np.broadcast_shapes(log.shape[:-1], (*self.end.shape[:-2], 1))
        phi, top = p.empty(*loop, p.f), p.empty(*loop)
        keys = None if self.keys is None else self.keys.log[..., None, :, :]
        marks = None if self.mark is None else self.mark[..., None]
        run("readers", log, sign, self.unit, self.end, marks, self.row, keys, phi, top)
        total = phi @ self.state
        if self.values is not None and p.f:
            scores = phi @ transposed(self.psi)
            keys_sign = None if sign is None else self.keys.sign[..., None, :, :]
            run("scores", self.row, sign, log, top, keys_sign, keys, marks, scores)
            total += scores @ self.values
            states, values = self.state[..., None, :, :], self.values[..., None, :, :]
            run("mend", phi, states, scores, values, marks, self.row, total)
        return total, top[..., None]

    def gradient(self, shares: Array, dead: Array | None) -> Array:
        """e^log (S u + z t) of each reader"""
        slope = shares @ transposed(self.state)
        pairs = keys = keys_sign = states = marks = given = tails = None
        if self.values is not None:
            pairs = shares @ transposed(self.values)
            run("scores", self.row, None, None, None, None, None, None, pairs)
            slope += pairs @ self.psi
            if self.tails is not None:
                slope += self.p.xp.cumsum(self.psi * self.tails, axis=-2)
            keys, states = self.keys.log[..., None, :, :], self.state[..., None, :, :]
            keys_sign = None if self.keys.sign is None else self.keys.sign[..., None, :, :]
            marks, given = self.mark[..., None], shares
            tails = None if self.tails is None else self.tails[..., None, :, :]
        gone = None if dead is None else dead[..., 0]
        loop = np.broadcast_shapes(slope.shape[:-1], self.readers.log.shape[:-1])
        slope = broadcast(slope, loop, core=1)
        run(
            "slopes",
            self.readers.log,
            self.unit,
            given,
            states,
            pairs,
            keys_sign,
            keys,
            tails,
            marks,
            self.row,
            gone,
            slope,
        )
        return slope


At = Callable[[Array], Array]
Visit = Callable[[At, Reads, Rows, slice], None]


class Problem:
    """The arrays of one call and the scans over them."""

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
        q, k, v = (wide(x) for x in (q, k, v))
        self.like, self.type = q, q.dtype
        self.kind, self.number = KINDS[kind], kind
        self.exponential = self.kind in EXPONENTIAL
        self.per_feature = self.kind == "efficient"
        self.projection, self.bias = projection, bias
        self.scale, self.eps, self.mode = input_scale, kernel_eps, mode
        self.n, self.m, self.width = q.shape[-2], k.shape[-2], v.shape[-1]
        self.e = (self.width + 8) // 8 * 8
        self.d = q.shape[-1]
        self.f = features_of(self.kind, self.d, projection)
        self.chunk = chunk
        self.offset = self.m if mode == 0 else offset + (not mode & EXCLUDE_SELF)
        self.weight = None if weight is None else weight[..., None]
        self.alive: Array | None = None
        if weight is not None:
            self.alive = ~(weight[..., None] == 0)
            v = xp.where(self.alive, v, xp.zeros((), self.type))
        own = self.place = None
        if decay is not None:
            sums = xp.concatenate([xp.zeros((*decay.shape[:-1], 1)), decay], axis=-1)
            self.place = xp.clip(xp.arange(self.n) + offset + 1, 0, self.m)
            own = sums[..., self.place][..., None]
        self.total_decay = None if decay is None else sums[..., -1:]
        self.keys = Rows(k, self.weight, None if decay is None else decay[..., None], False)
        self.keys.extended = self.extend(v)
        self.queries = Rows(q, None, own, True)
        if (mode or self.m == 0 or weight is not None) and s is None:
            seen = None if weight is None else ~(weight == 0)
            count = visible_counts(xp, self.n, self.m, mode, offset, seen)
            self.queries.dead = (count == 0)[..., None].astype(self.type)
        self.start = self.nothing()
        if s is not None:
            self.start.c = self.start.c if c is None else c
            self.start.s = self.empty(*s.shape[:-1], self.e)
            self.start.s[...] = 0
            self.start.s[..., : self.width] = s
            self.start.s[..., self.width] = z

    def empty(self, *shape: int) -> Array:
        return empty(self.like, shape, self.type)

    def zeros(self, *shape: int) -> Array:
        return self.xp.zeros(shape, self.type)

    def extend(self, v: Array) -> Array:
        """Values, followed by 1"""
        to = self.zeros(*v.shape[:-1], self.e)
        to[..., : self.width] = v
        to[..., self.width] = 1
        return to

    def nothing(self) -> State:
        unknown = self.exponential or self.place is not None
        c = self.xp.full((self.f,), -math.inf if unknown else 0.0, self.type)
        return State(c, self.zeros(self.f, self.e), None)

    def features(
        self, rows: Rows, first: int, last: int, places: Array | None, size: int
    ) -> Features:
        """Features of rows as chunks; sums of decays are relative to `places`, (..., rows, 1)"""
        xp = self.xp
        low, high = min(max(first, 0), rows.count), max(min(last, rows.count), 0)
        high = max(low, high)
        at = slice(low - first, high - first)
        x = rows.x[..., low:high, :]
        u = None
        if self.projection is not None:
            u = x @ self.projection.T
            if self.kind == "trig":
                u = xp.concatenate([xp.cos(self.scale * u), xp.sin(self.scale * u)], axis=-1)
        shift = None
        if rows.sums is not None and places is not None:
            shift = rows.sums[..., low:high, :] - places[..., at, :]
            shift = (shift if rows.query else -shift).astype(self.type)
        if rows.minus is not None:
            less = -rows.minus[..., low:high, :]
            shift = less if shift is None else shift + less
        weight = None if rows.weight is None else rows.weight[..., low:high, :]
        parts = [part.shape[:-2] for part in (x, shift, weight, rows.masses) if part is not None]
        loop = np.broadcast_shapes(*parts)
        whole = at.start == 0 and at.stop == last - first
        new = self.empty if whole else self.zeros
        sign = log = unit = None
        if self.exponential:
            log = new(*loop, last - first, self.f)
        else:
            sign = new(*loop, last - first, self.f)
            if shift is not None or self.kind == "trig":
                unit = new(*loop, last - first, 1)
        if not whole:
            for part in (log, unit):
                if part is not None:
                    part[...] = -math.inf
        masses = None if rows.masses is None else rows.masses[..., low:high, :]
        if rows.bare and masses is not None and log is not None:
            log[..., at, :] = -masses if shift is None else shift - masses
        elif low < high:
            number = self.number
            if self.per_feature:
                number = KINDS.index("softmax_d" if rows.query else "exp")
            m = 1 if self.projection is None else self.projection.shape[0]
            run(
                "features",
                x,
                u,
                self.bias,
                None if weight is None else weight[..., 0],
                None if shift is None else shift[..., 0],
                number,
                self.scale,
                self.eps,
                1 / math.sqrt(max(m, 1)),
                self.f,
                None if sign is None else sign[..., at, :],
                None if log is None else log[..., at, :],
                None if unit is None else unit[..., at, 0],
            )
            if masses is not None and log is not None:
                log[..., at, :] -= masses
        if log is None and sign is not None:
            log = xp.broadcast_to(self.zeros(1, 1) if unit is None else unit, sign.shape)
        return Features(None if sign is None else chunked(sign, size), chunked(log, size))

    def settled(self, keys: Features, c: Array) -> Array:
        """sign e^(log - c)"""
        if self.flat:
            return keys.sign
        loop = np.broadcast_shapes(keys.log.shape[:-1], c.shape[:-1])
        psi = self.empty(*loop, self.f)
        run("settle", keys.log, keys.sign, c, psi)
        return psi

    @property
    def flat(self) -> bool:
        """All logarithms are 0"""
        return not self.exponential and self.kind != "trig" and self.place is None

    def peaks(self, keys: Features) -> Array:
        """(..., chunks, f)"""
        log = keys.log.swapaxes(-1, -2)
        top = self.empty(*log.shape[:-1])
        run("peaks", log, top)
        return top

    def absorb(self, state: State, rows: Rows, first: int, last: int, direction: int) -> State:
        """The state with sources from `first` to `last`"""
        xp = self.xp
        step = self.segment(PIECE)
        for low in range(first, last, step):
            high = min(low + step, last)
            places = None if rows.sums is None else rows.sums[..., high - 1 : high, :]
            state = state.at(None if places is None else places[..., 0], direction)
            pad = low + -(-(high - low) // PIECE) * PIECE
            if places is not None:
                places = xp.broadcast_to(places, (*places.shape[:-2], pad - low, 1))
            beyond = rows.before(high)
            keys = self.features(beyond, low, pad, places, PIECE)
            c = state.c if self.flat else xp.maximum(state.c, xp.max(self.peaks(keys), axis=-2))
            psi = self.settled(keys, c[..., None, None, :])
            psi = flattened(psi, pad - low)
            old = xp.exp(state.c - finite(c))[..., None] * state.s
            values = padded(beyond.extended, low, pad)
            new = transposed(psi) @ values
            if beyond.tails is not None:
                new[..., self.width] = xp.sum(psi * padded(beyond.tails, low, pad), axis=-2)
            state = State(c, old + new, state.place)
        return state

    def segment(self, size: int) -> int:
        """Rows of a segment, whole chunks"""
        heads = math.prod(np.broadcast_shapes(self.queries.x.shape[:-2], self.keys.x.shape[:-2]))
        rows: int = SEGMENT // (max(heads, 1) * (self.f + self.e))
        return max(rows // size, 1) * size

    def scan(
        self,
        sources: Rows,
        readers: Rows,
        state: State,
        offset: int,
        flipped: bool,
        visit: Visit,
        all_of_them: bool = True,
    ) -> State:
        """Reader i sees sources j < i + offset. Visits segments; returns the last state."""
        direction = -1 if flipped else 1
        if flipped:
            sources, readers = sources.turned(), readers.turned()
        count, n = sources.count, readers.count
        size = max(min(self.chunk, n), 1)
        step = self.segment(size)
        done = min(max(offset - 1, 0), count) if self.mode else count
        state = self.absorb(state, sources, 0, done, direction)
        for first in range(0, n, step):
            last = stop = min(first + step, n)
            if self.mode:
                stop = first + -(-(last - first) // size) * size
            places = None
            if readers.sums is not None:
                at = self.xp.minimum(self.xp.arange(first + size - 1, stop, size), n - 1)
                places = readers.sums[..., at, :]
            if self.mode == 0:
                own = self.features(readers, first, stop, None, stop - first)
                now = State(state.c[..., None, :], state.s[..., None, :, :], None)
                reads = Reads(self, now, own)
            else:
                lead = (places, size, first + offset - 1, stop + offset - 1)
                reads, state = self.chunks(sources, readers, state, first, stop, direction, lead)
                done = min(max(done, stop + offset - 1), count)

            def at_rows(x: Array, first: int = first, last: int = last) -> Array:
                return (x[..., ::-1, :] if flipped else x)[..., first:last, :]

            visit(at_rows, reads, readers, slice(first, stop))
        return self.absorb(state, sources, done, count, direction) if all_of_them else state

    def chunks(
        self,
        sources: Rows,
        readers: Rows,
        state: State,
        first: int,
        stop: int,
        direction: int,
        lead: tuple[Array | None, int, int, int],
    ) -> tuple[Reads, State]:
        xp = self.xp
        places, size, low, high = lead
        count = (stop - first) // size
        spread = moves = None
        if places is not None:
            before = xp.zeros(1) if state.place is None else state.place
            before = xp.broadcast_to(before, (*places.shape[:-2], 1))
            here = places[..., 0]
            moves = direction * (here - xp.concatenate([before, here[..., :-1]], axis=-1))
            moves = moves.astype(self.type)[..., None, :]
            spread = xp.repeat(places, size, axis=-2)
        keys = self.features(sources, low, high, spread, size)
        own = self.features(readers, first, stop, spread, size)
        values = chunked(padded(sources.extended, low, high), size)
        reads = Reads(self, state, own)
        reads.row = xp.arange(size, dtype=self.type)
        reads.keys, reads.values, reads.places = keys, values, spread
        if sources.tails is not None:
            reads.tails = chunked(padded(sources.tails, low, high), size)
        loop = np.broadcast_shapes(
            keys.log.shape[:-3], values.shape[:-3], state.c.shape[:-1], state.s.shape[:-2]
        )
        start, end, unit = (self.empty(*loop, count, self.f) for _ in range(3))
        peaks = self.peaks(keys).swapaxes(-1, -2)
        run("units", state.c, peaks, moves, start.swapaxes(-1, -2), end.swapaxes(-1, -2))
        reads.mark = self.empty(*loop, count)
        run("marks", start, end, keys.sign, keys.log, values, reads.mark, unit)
        reads.unit, reads.end = unit[..., None, :], end[..., None, :]
        reads.psi = self.settled(keys, reads.end)
        states = broadcast(transposed(reads.psi) @ values, loop + (count,), core=2)
        if reads.tails is not None:
            states[..., self.width] = xp.sum(reads.psi * reads.tails, axis=-2)
        last = self.empty(*loop, self.f, self.e)
        run(
            "states",
            state.s,
            *(part.swapaxes(-1, -2) for part in (start, end, unit)),
            states.swapaxes(-2, -3),
            last,
        )
        reads.state = states
        return reads, State(end[..., -1, :], last, None if places is None else places[..., -1, :])

    def over_keys(self, visit: Callable[..., None], all_of_them: bool = False) -> State:
        """Each query reads the keys that it sees; with `exclude_self` alone in two pieces."""
        pair, first = (self.keys, self.queries), partial(visit, False)
        state = self.scan(*pair, self.start, self.offset, False, first, all_of_them)
        if self.mode == EXCLUDE_SELF:
            other = self.m - self.n - self.offset
            self.scan(*pair, self.nothing(), other, True, partial(visit, True), False)
        return state

    def over_queries(self, visit: Callable[..., None], all_of_them: bool) -> State:
        """Each key reads the queries that see it."""
        pair, first = (self.queries, self.keys), partial(visit, False)
        offset = self.n if self.mode == 0 else self.n - self.m + self.offset
        state = self.scan(*pair, self.nothing(), offset, True, first, all_of_them)
        if self.mode == EXCLUDE_SELF:
            self.scan(*pair, self.nothing(), -self.offset, False, partial(visit, True), False)
        return state

    def take_masses(self, loop: tuple[int, ...]) -> None:
        """Gives each query log z of each feature, relative to its own sum of decays."""
        xp = self.xp
        log_z = xp.full((*loop, self.n, self.f), -math.inf, self.type)

        def visit(_: bool, at: At, reads: Reads, rows: Rows, span: slice) -> None:
            to = at(log_z)
            keys = None if reads.keys is None else reads.keys.log.swapaxes(-1, -2)
            z, unit = reads.state[..., self.width], reads.unit[..., 0, :]
            shape = np.broadcast_shapes(z.shape, unit.shape)
            size = span.stop - span.start if keys is None else keys.shape[-1]
            found = self.empty(*shape, size)
            run("masses", z, unit, keys, found)
            own = flattened(found.swapaxes(-1, -2), to.shape[-2])
            if rows.sums is not None and reads.places is not None:
                here = slice(span.start, span.start + to.shape[-2])
                own = own + rows.sums[..., here, :] - reads.places[..., : to.shape[-2], :]
            to[...] = xp.logaddexp(to, own)

        self.over_keys(visit)
        self.queries.masses = xp.where(log_z == -math.inf, math.inf, log_z)

    def values(self, loop: tuple[int, ...], all_of_them: bool) -> tuple[Array, Array, State]:
        """Numerators and denominators, the exponents of their unit, the last state"""
        xp = self.xp
        total, top = self.zeros(*loop, self.n, self.e), self.zeros(*loop, self.n, 1)

        def visit(again: bool, at: At, reads: Reads, *_: Any) -> None:
            to, own = at(total), at(top)
            number, unit = (flattened(x, to.shape[-2]) for x in reads.value())
            if again:  # another part of what these queries see
                empty = -math.inf if self.exponential else 0.0
                before = xp.where(to[..., self.width, None] == 0, empty, own)
                after = xp.where(number[..., self.width, None] == 0, empty, unit)
                now = finite(xp.where(xp.isnan(after), after, xp.maximum(before, after)))
                number = xp.exp(before - now) * to + xp.exp(after - now) * number
                unit = now
            to[...], own[...] = number, unit

        return total, top, self.over_keys(visit, all_of_them)

    def slopes(self, rows: Rows, reads: Reads, at: slice, count: int) -> Array:
        """What `count` readers have as the gradient for logarithms, or for features"""
        size = reads.readers.log.shape[-2]
        parts = (
            None if part is None else chunked(padded(part, at.start, at.stop), size)
            for part in (rows.extended, rows.dead)
        )
        return flattened(reads.gradient(*parts), count)

    def pulled(self, rows: Rows, at: slice, slope: Array, own: Features) -> Array:
        """The gradient for the inputs"""
        x = self.scale * rows.x[..., at, :]
        return self.scale * pull(self.kind, x, self.projection, slope, own, rows.query)


def features_of(kind: str, d: int, projection: Array | None) -> int:
    if projection is not None:
        return int(projection.shape[0]) * (2 if kind == "trig" else 1)
    return {"cosine": 1 + d, "taylor2": 1 + d + d * (d + 1) // 2}.get(kind, d)


def flattened(x: Array, rows: int) -> Array:
    """Chunks as rows again"""
    *loop, chunks, size, width = x.shape
    return x.reshape(*loop, chunks * size, width)[..., :rows, :]


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
    if KINDS[kind] == "efficient":
        kind = KINDS.index("softmax_d" if query else "exp")
    rows, blank = wide(x), wide(x)[..., :0, :]
    maps, scales = (projection, bias, None, None, None, None, None), (input_scale, kernel_eps)
    p = Problem(rows, blank, blank, *maps, kind, *scales, 0, 0, 1)
    count = max(rows.shape[-2], 1)
    own = p.features(p.queries, 0, count, None, count)
    phi = own.sign if p.flat else p.empty(*own.log.shape)
    if not p.flat:
        run("settle", own.log, own.sign, None, phi)
    put(out, flattened(phi, rows.shape[-2]))


@quiet
def linear_attention(*arguments: Any) -> None:
    """out_i = sum_j w_ij v_j / sum_j w_ij, w_ij = weight_j D_ij phi(q_i).psi(k_j)"""
    *inputs, normalize, eps, chunk, out, c_out, s_out, z_out = arguments
    p = Problem(*(*inputs, chunk))
    if p.per_feature:  # denominators are a feature's, not a row's
        p.take_masses(out.shape[:-2])
        normalize = False
    total, top, state = p.values(out.shape[:-2], s_out is not None)
    direct = out.dtype == p.type
    to = out if direct else p.empty(*out.shape)
    dead = None if p.queries.dead is None else p.queries.dead[..., 0]
    run(
        "results", total, top[..., 0], dead, None, p.number, normalize, eps, p.width, to, None, None
    )
    if not direct:
        put(out, to)
    if s_out is None:
        return
    state = state.at(p.total_decay, 1)
    sums, unit = state.s, state.c
    if not p.exponential and p.kind != "trig":
        sums, unit = p.xp.exp(unit)[..., None] * sums, p.xp.zeros(1)
    put(c_out, unit)
    put(s_out, sums[..., : p.width])
    put(z_out, sums[..., p.width])


@quiet
def linear_attention_vjp(g: Array, *arguments: Any) -> None:
    """dphi_i = S_i ghat_i + z_i delta_i, dpsi_j = G_j v_j + y_j, dv_j = G_j^T psi_j"""
    *inputs, normalize, eps, chunk, dq, dk, dv, dweight, ddecay, ds, dz = arguments
    p = Problem(*(*inputs, chunk))
    if p.n == 0:
        reference.linear_attention_vjp(g, *arguments)
        return
    xp, loop, width, queries = p.xp, dq.shape[:-2], p.width, p.queries
    if p.per_feature:
        p.take_masses(loop)
        normalize = False
    total, top, _ = p.values(loop, False)
    inverse, shares = p.empty(*loop, p.n, 1), p.empty(*loop, p.n, p.e)
    dead = None if queries.dead is None else queries.dead[..., 0]
    run(
        "results", total, top[..., 0], dead, wide(g), p.number, normalize, eps, width,
        None, inverse[..., 0], shares,
    )  # fmt: skip
    queries.minus = top if normalize else None
    queries.extended, queries.dead = shares, (inverse == 0).astype(p.type)
    one = p.zeros(1, 1) + 1
    to_q, from_q = p.zeros(*dq.shape), xp.zeros((*loop, p.n, 1))

    def read_keys(_: bool, at: At, reads: Reads, rows: Rows, span: slice) -> None:
        to = at(to_q)
        slope = p.slopes(rows, reads, span, to.shape[-2])
        if p.per_feature:
            to += slope  # for shares of z, not for inputs yet
            return
        sign = one if reads.readers.sign is None else flattened(reads.readers.sign, to.shape[-2])
        here = slice(span.start, span.start + to.shape[-2])
        to += p.pulled(rows, here, slope, Features(sign, reads.readers.log))
        if ddecay is not None:
            of_row = at(from_q)
            of_row += xp.sum(sign * slope, axis=-1, keepdims=True)

    queries.bare = p.per_feature
    p.over_keys(read_keys)
    queries.bare = False
    if p.per_feature:
        queries.tails = -to_q
        own = features("softmax_d", p.scale * queries.x, None, None, 0.0, True)
        to_q = p.scale * pull(p.kind, p.scale * queries.x, None, xp.exp(own.log) * to_q, own, True)
    put(dq, xp.where(inverse == 0, 0.0, to_q))

    queries.weight = 1 - queries.dead
    to_k, to_v = p.zeros(*dk.shape), p.zeros(*dv.shape)
    amount = xp.zeros((*loop, p.m, 1))

    def read_queries(_: bool, at: At, reads: Reads, rows: Rows, span: slice) -> None:
        to, values = at(to_k), at(to_v)
        count = to.shape[-2]
        number, unit = (flattened(x, count) for x in reads.value())
        values += number[..., :width] * xp.exp(unit)
        back = p.slopes(rows, reads, span, count)
        sign = one if reads.readers.sign is None else flattened(reads.readers.sign, count)
        of_row = at(amount)
        of_row += xp.sum(sign * back, axis=-1, keepdims=True)
        here = slice(span.start, span.start + count)
        if rows.weight is not None and not p.exponential:
            weights = rows.weight[..., here, :]
            sign, back = sign / safe(weights[..., 0]), weights * back
        to += p.pulled(rows, here, back, Features(sign, reads.readers.log))

    state = p.over_queries(read_queries, ds is not None)
    seen = reference.seen_keys(p)
    if seen is not None:
        to_k, to_v, amount = (xp.where(seen, x, 0.0) for x in (to_k, to_v, amount))
    put(dk, to_k)
    put(dv, to_v)
    if p.weight is not None and dweight is not None:
        put(dweight, xp.where(p.alive, amount / safe(p.weight[..., 0]), 0.0)[..., 0])
    if ddecay is not None:
        sums = xp.concatenate([suffix_sums(from_q[..., 0]), xp.zeros((*loop, 1))], axis=-1)
        first = xp.searchsorted(p.place, xp.arange(p.m), side="right")
        put(ddecay, sums[..., first] - suffix_sums(amount[..., 0]))
    if ds is not None:
        state = state.at(None if p.place is None else xp.zeros(1), -1)
        unit = xp.exp(p.start.c + state.c)[..., None]
        sums = xp.where(unit == 0, 0.0, unit * state.s)
        put(ds, sums[..., :width])
        put(dz, sums[..., width])
