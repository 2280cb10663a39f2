"""Ranking losses in NumPy, by the names and arguments of the kernels.

See `losses.multilabel.reference` for the conventions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..._arrays import Array, namespace, widen
from ...special.reductions.reference import leave_one_out, total, two_difference
from .._reference import finish
from ..multilabel.reference import part

_quiet = np.errstate(all="ignore")
_inf = float("inf")
_nan = float("nan")


class Side(NamedTuple):
    """Terms exp(scale (x - x_k)) of the entries on one side, k the largest of them."""

    top: Array  # x_k
    weight: Array  # the terms, 0 for entries of the other side
    rest: Array  # their sum without the largest


def one_side(x: Array, kept: Array, scale: float) -> Side:
    xp = namespace(x)
    x = xp.where(kept, x, -_inf)
    top = xp.max(x, axis=-1, keepdims=True)
    tie = kept & (x == top)
    gap, error = two_difference(x, top)
    weight = xp.exp(scale * gap)
    weight = xp.where(weight == 0, 0.0, weight * (1 + scale * error))
    weight = xp.where(tie, 1.0, xp.where(kept, weight, 0.0))
    winner = xp.arange(x.shape[-1]) == xp.argmax(tie, axis=-1)[..., None]
    return Side(top, weight, total(xp.where(winner, 0.0, weight)))


@_quiet
def pairwise_rank_loss(
    scores: Array,
    targets: Array,
    mask: Array | None,
    gamma: float = 1.0,
    margin: float = 0.0,
    strict: bool = False,
    loss: Array | None = None,
    grad: Array | None = None,
) -> Any:
    """log1p(exp(z)), exp(z) = exp(lead) (1 + r of the negatives) (1 + r of the positives)

    lead = gamma (largest negative score - smallest positive score + margin)
    """
    xp = namespace(scores)
    s, t = widen(scores), widen(targets)
    kept = xp.broadcast_to(xp.asarray(True) if mask is None else mask, s.shape)
    negative, positive = kept & (t == 0), kept & (t == 1)
    invalid = xp.any(kept & ~(negative | positive), axis=-1)
    undefined = (invalid | xp.any(kept & xp.isnan(s), axis=-1))[..., None]
    outputs = loss, grad
    if s.shape[-1] == 0:
        return finish(xp.zeros((*s.shape[:-1], 1)), [s], undefined, kept, outputs, invalid, strict)

    high, low = one_side(s, negative, gamma), one_side(-s, positive, gamma)
    gap, error = two_difference(high.top, -low.top)
    gap = xp.where(high.top == -low.top, 0.0, gap)  # of equal infinities, too
    lead = gamma * (gap + margin)
    small = xp.exp(-xp.abs(lead)) * (1 - xp.sign(lead) * gamma * error)
    pairs = high.rest + low.rest + high.rest * low.rest  # 1 + pairs is the product
    value = xp.where(lead > 0, lead + xp.log1p(pairs + small), xp.log1p((1 + pairs) * small))
    share = xp.where(lead > 0, 1 / (1 + pairs + small), small / (1 + (1 + pairs) * small))
    slope = high.weight * (1 + low.rest) - low.weight * (1 + high.rest)

    some = xp.any(negative, axis=-1, keepdims=True) & xp.any(positive, axis=-1, keepdims=True)
    value = xp.where(undefined, _nan, xp.where(some, value, 0.0))
    slope = xp.where(some, gamma * share * slope, 0.0)
    return finish(value, [slope], undefined, kept, outputs, invalid, strict)


class Swaps(NamedTuple):
    """How the subset of the positives turns into others: some leave it, as many enter.

    A set of swaps weighs the product of the odds of its classes. The odds of a class go by its
    distance from a level that all share; at the level taken here about as many positives are
    expected to leave as negatives to enter.
    """

    step: Array  # 1 for positives, -1 for negatives, (..., n)
    keep: Array  # keep : go are 1 : odds, the larger of them 1
    go: Array
    lift: Array  # log(odds) where odds > 1, else 0


def swaps(s: Array, positive: Array, k: Array) -> Swaps:
    xp = namespace(s)
    n = s.shape[-1]
    pivot = xp.take_along_axis(xp.sort(s, axis=-1), xp.clip(n - k, 0, n - 1), axis=-1)
    d, error = two_difference(s, pivot)
    distance = xp.where(s == pivot, 0.0, xp.abs(d))
    above = s > pivot
    small = xp.exp(-distance)
    small = xp.where(small == 0, 0.0, small * (1 + xp.where(above, -error, error)))
    high, low = xp.where(above, 1.0, small), xp.where(above, small, 1.0)  # exp(d) = high / low

    # The k-th largest score is the level but for a factor below 2 n.
    bottom, top = xp.full_like(pivot, 1 / (2 * n)), xp.full_like(pivot, 2.0 * n)
    level = xp.ones_like(pivot)
    for _ in range(64):
        excess = xp.sum(high / (high + level * low), axis=-1, keepdims=True) - k
        bottom = xp.where(excess > 0.5, level, bottom)
        top = xp.where(excess < -0.5, level, top)
        level = xp.where(xp.abs(excess) > 0.5, xp.sqrt(bottom * top), level)

    rate = xp.where(positive, level, 1 / level)
    right = positive == above
    go, keep = xp.where(right, rate * small, rate), xp.where(right, 1.0, small)
    larger = xp.maximum(keep, go)
    lift = xp.log(rate) + xp.where(right, -distance, distance)
    lift = xp.where(go > keep, lift, 0.0)
    return Swaps(xp.where(positive, 1, -1), keep / larger, go / larger, lift)


class Walk(NamedTuple):
    """Weights of how many more have left than entered, after some classes had their chance."""

    still: Array  # of no swap at all, (..., 1)
    moved: Array  # of some, for -reach ... reach, (..., 2 reach + 1)
    mass: Array  # all of the weight, (..., 1)
    halvings: Array  # it is kept below 2 by as many factors of 1/2

    def on(self, swaps: Swaps, first: int, last: int) -> Walk:
        """After the classes from `first` to `last`, too."""
        xp = namespace(self.moved)
        still, moved, mass, halvings = self
        centre = moved.shape[-1] // 2
        none = xp.zeros_like(moved[..., :1])
        for i in range(first, last):
            step, keep, go = (x[..., i, None] for x in swaps[:3])
            mass = mass * (keep + go)
            scale = xp.where(mass >= 2, 0.5, 1.0)
            mass, halvings = mass * scale, halvings + (scale < 1)
            up = xp.concatenate([none, moved[..., :-1]], axis=-1)
            down = xp.concatenate([moved[..., 1:], none], axis=-1)
            at = xp.arange(moved.shape[-1]) - centre == step
            arrived = xp.where(step > 0, up, down) + xp.where(at, still, 0.0)
            moved = scale * keep * moved + scale * go * arrived
            still = scale * keep * still
        return Walk(still, moved, mass, halvings)

    def at(self, position: int) -> Array:
        """The weight of having moved there."""
        i = self.moved.shape[-1] // 2 + position
        return self.moved[..., i : i + 1]


@_quiet
def subset_crossentropy(
    scores: Array,
    targets: Array,
    strict: bool = False,
    loss: Array | None = None,
    grad: Array | None = None,
) -> Any:
    """log1p(weight of even walks that moved / weight of the one that stood still)

    The gradient of class i is its chance to swap in an even walk: the others end one step away.
    """
    xp = namespace(scores)
    s, t = widen(scores), widen(targets)
    n = s.shape[-1]
    positive = t == 1
    invalid = xp.any(~(positive | (t == 0)), axis=-1)
    undefined = (invalid | xp.any(xp.isnan(s), axis=-1))[..., None]
    kept, outputs = xp.asarray(True), (loss, grad)
    if n == 0:
        return finish(xp.zeros((*s.shape[:-1], 1)), [s], undefined, kept, outputs, invalid, strict)

    k = xp.sum(positive, axis=-1, keepdims=True)
    odds = swaps(s, positive, k)
    reach = int(xp.max(xp.minimum(k, n - k))) + 1 if k.size else 1
    one, none = xp.ones_like(s[..., :1]), xp.zeros_like(s, shape=(*s.shape[:-1], 2 * reach + 1))
    start = Walk(one, none, one, 0 * one)
    end = start.on(odds, 0, n)
    near = xp.log1p(end.at(0) / end.still)
    far = xp.log(end.still + end.at(0)) + end.halvings * xp.log(2 * one)
    far = far + xp.sum(odds.lift, axis=-1, keepdims=True)
    value = xp.where(end.at(0) < end.still, near, far)
    slope = xp.zeros_like(s)

    def visit(others: Walk, first: int, last: int) -> None:
        """Fill `slope` for classes of which `others` has had all but these."""
        if last - first > 1:
            middle = (first + last) // 2
            visit(others.on(odds, middle, last), first, middle)
            visit(others.on(odds, first, middle), middle, last)
        else:
            step, keep, go = (x[..., first:last] for x in odds[:3])
            swapped = go * xp.where(step > 0, others.at(-1), others.at(1))
            stayed = keep * (others.still + others.at(0))
            slope[..., first:last] = -step * swapped / (swapped + stayed)

    if loss is None or grad is not None:
        visit(start, 0, n)
    some = (k > 0) & (k < n)
    value = xp.where(undefined, _nan, xp.where(some, value, 0.0))
    slope = xp.where(some, slope, 0.0)
    return finish(value, [slope], undefined, kept, outputs, invalid, strict)


class Margins(NamedTuple):
    """How far each class of an item is behind the others, and how a change of that comes back."""

    behind: Array  # exp(r) = scale exp(behind), (..., n, m)
    scale: Array
    pull: Array  # d r_j / d s_i = pull_i / among_j for i != j
    among: Array


def pairwise_margins(s: Array) -> Margins:
    """r_j = log(sum of exp(s_k) without class j) - s_j"""
    xp = namespace(s)
    rows = leave_one_out(s)
    others = xp.where(rows.winner, rows.rest, rows.mass - rows.weight)
    error = two_difference(s, rows.top)[1]
    scale = others * xp.exp(xp.where(xp.abs(error) < 1, -error, 0.0))
    return Margins(-rows.gap, xp.where(rows.gap > -_inf, scale, 1.0), rows.weight, others)


def centered_margins(s: Array) -> Margins:
    """r_j = mean(s) - s_j; infinite scores: +inf below the largest"""
    xp = namespace(s)
    rows = leave_one_out(s)
    behind = xp.mean(rows.gap, axis=-1, keepdims=True) - rows.gap
    behind = xp.where(rows.gap == -_inf, _inf, behind)
    one = xp.ones_like(s)
    return Margins(behind, one, one, s.shape[-1] * one)


@_quiet
def multiclass_multilabel_loss(
    scores: Array,
    targets: Array,
    classes: int,
    centered: bool,
    strict: bool = False,
    loss: Array | None = None,
    grad: Array | None = None,
) -> Any:
    """sum_j log(1 + sum_i t_ij exp(r_ij)), items i by classes j in one axis

    With w_ij the terms over the sum they are in, the gradient is
    -w_ij + pull_ij * sum over h != j of w_ih / among_ih.
    """
    xp = namespace(scores)
    s, t = widen(scores), widen(targets)
    invalid = xp.any(~((t >= 0) & (t <= 1)), axis=-1)
    undefined = (invalid | xp.any(xp.isnan(s), axis=-1))[..., None]
    kept, outputs = xp.asarray(True), (loss, grad)
    if s.shape[-1] == 0:
        return finish(xp.zeros((*s.shape[:-1], 1)), [s], undefined, kept, outputs, invalid, strict)
    table = (*s.shape[:-1], -1, int(classes))
    s, t = s.reshape(table), t.reshape(table)

    behind, scale, pull, among = centered_margins(s) if centered else pairwise_margins(s)
    column = part(xp.swapaxes(behind, -2, -1), xp.swapaxes(t * scale, -2, -1))
    w = xp.swapaxes(column.share, -2, -1)
    value = xp.where(undefined, _nan, xp.sum(column.value, axis=-1, keepdims=True))

    back = xp.where(w == 0, 0.0, w / among)
    if centered:
        slope = xp.sum(back, axis=-1, keepdims=True) - w
    else:
        winner = xp.arange(s.shape[-1]) == xp.argmax(s, axis=-1)[..., None]
        rest = xp.sum(xp.where(winner, 0.0, back), axis=-1, keepdims=True)
        own = xp.sum(xp.where(winner, back, 0.0), axis=-1, keepdims=True)
        slope = pull * xp.where(winner, rest, (rest - back) + own) - w
    slope = slope.reshape(scores.shape)
    return finish(value, [slope], undefined, kept, outputs, invalid, strict)
