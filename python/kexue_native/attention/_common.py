"""What attention functions share: matrices with leading axes that broadcast, and results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from operator import index
from typing import Any, NamedTuple

import numpy as np

from .._arrays import (
    FLAG,
    FLOAT32,
    FLOAT64,
    Array,
    Call,
    _float_type,
    allocate,
    as_array,
    empty,
    fold,
    namespace,
)

_BITS = np.dtype(np.uint16)


class Batch(Call):
    """The arrays of one call: their leading axes, `loop`, broadcast; core sizes have letters."""

    def __init__(self, name: str, **arrays: tuple[Array, str]) -> None:
        """`arrays` are floats of one type, each with the letters of its last axes."""
        super().__init__(name, (), (), (), False)
        self.size: dict[str, int] = {}
        self.loop: tuple[int, ...] = ()
        self.arrays: dict[str, Array] = {}
        self.read = [value for value, _ in arrays.values()]
        self.xp = np
        first = ""
        for argument, (value, core) in arrays.items():
            x = as_array(name, argument, value)
            kind = _float_type(name, argument, x.dtype)
            if not first:
                first, self.dtype, self.like = argument, kind, x
                self.xp = namespace(x)
            elif kind != self.dtype:
                raise TypeError(
                    f"{name}: {argument} must have the dtype of {first}, {self.dtype}, got {kind}"
                )
            self._add(argument, x, core, self.dtype)
        self.wide = self.dtype if self.dtype.itemsize >= 8 else FLOAT32

    def add(self, argument: str, value: Array | None, core: str, dtype: Any = None) -> Array | None:
        """One more array, or None; in the type of sums, or as `dtype`."""
        if value is None:
            return None
        x = as_array(self.name, argument, value)
        if dtype == FLAG:
            if x.dtype != FLAG:
                raise TypeError(f"{self.name}: {argument} must be boolean, got {x.dtype}")
        else:
            _float_type(self.name, argument, x.dtype)
        self.read.append(value)
        return self._add(argument, x, core, dtype or self.wide)

    def _add(self, argument: str, x: Array, core: str, dtype: Any) -> Array:
        if self.xp is not np or type(x) is not np.ndarray:
            if self.xp is not np and isinstance(x, np.ndarray) and x.ndim == 0:
                x = self.xp.asarray(x)
            if self.xp is not namespace(x):
                raise TypeError(
                    f"{self.name}: arrays must be all NumPy or all CuPy, "
                    f"got {namespace(x).__name__} for {argument}"
                )
        if x.ndim < len(core):
            raise ValueError(
                f"{self.name}: {argument} must have at least {len(core)} axes, got {x.ndim}"
            )
        split = x.ndim - len(core)
        for letter, count in zip(core, x.shape[split:], strict=True):
            wanted = self.size.setdefault(letter, count)
            if count != wanted:
                shape = "(..., " + ", ".join(str(self.size.get(c, "n")) for c in core) + ")"
                raise ValueError(
                    f"{self.name}: {argument} must have shape {shape}, got {tuple(x.shape)}"
                )
        lead = x.shape[:split]
        if not self.loop:
            self.loop = lead
        elif lead and lead != self.loop:
            try:
                self.loop = np.broadcast_shapes(self.loop, lead)
            except ValueError:
                raise ValueError(
                    f"{self.name}: {argument} must have leading axes that broadcast with "
                    f"{self.loop}, got {tuple(x.shape)}"
                ) from None
        if x.dtype != dtype:
            x = x.astype(dtype)
        self.arrays[argument] = x
        return x

    def kernel_arrays(self, *names: str) -> list[Array]:
        """These arrays as kernels take them"""
        return [bits(self.arrays[name]) for name in names]

    def shape(self, core: str) -> tuple[int, ...]:
        """Of a result with these core axes."""
        return (*self.loop, *(self.size[c] for c in core))

    def empty(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        return empty(self.like, shape, dtype or self.wide)


class Result(NamedTuple):
    """An output: the caller's `target`, the full-sized `buffer` that a kernel fills."""

    target: Array
    buffer: Array


def results(
    batch: Batch, wanted: Sequence[tuple[str, tuple[int, ...] | None, Any]], out: Any
) -> list[Result]:
    """Outputs: core letters, the shape that the caller gets (None: full), the type."""
    full = [batch.shape(core) for core, _, _ in wanted]
    shapes = [shape or whole for (_, shape, _), whole in zip(wanted, full, strict=True)]
    dtypes = [dtype for _, _, dtype in wanted]
    targets = allocate(batch.name, batch.xp, batch.like, dtypes, shapes, out)
    inputs = [x for x in batch.read if isinstance(x, batch.xp.ndarray)]
    found: list[Result] = []
    for target, whole in zip(targets, full, strict=True):
        buffer = target
        if target.shape != whole:
            buffer = batch.empty(whole)
        elif out is not None and (
            (batch.xp is np and not target.flags.behaved)
            or any(batch.xp.may_share_memory(target, x) for x in inputs)
        ):
            buffer = batch.empty(whole, target.dtype)
        found.append(Result(target, buffer))
        inputs.append(target)
    return found


def finish(batch: Batch, found: Sequence[Result], out: Any) -> Any:
    """Hand results over: what was broadcast is summed, 0-d arrays become scalars."""
    for target, buffer in found:
        if buffer is not target:
            target[...] = fold(batch.xp, buffer, target.shape)
    if out is not None:
        return out
    values = [target for target, _ in found]
    if batch.xp is np:
        values = [value if value.ndim else value[()] for value in values]
    return values[0] if len(values) == 1 else tuple(values)


def bits(x: Array | None) -> Array | None:
    """bfloat16 travels to kernels as its bits, which every consumer knows."""
    if x is None or x.dtype.isbuiltin == 1 or x.dtype.name != "bfloat16":
        return x
    return x.view(_BITS)


def as_index(name: str, argument: str, value: Any, least: int | None = None) -> int:
    try:
        number = index(value)
    except TypeError:
        kind = type(value).__name__
        raise TypeError(f"{name}: {argument} must be an int, got {kind}") from None
    if least is not None and number < least:
        raise ValueError(f"{name}: {argument} must be at least {least}, got {number}")
    return number


def offset_of(
    name: str, offset: int | None, causal: bool, exclude_self: bool, rows: int, keys: int
) -> int:
    """Position of query 0; by default the last query stands at the last key."""
    if offset is not None:
        beyond = rows + keys + 1  # from there on all or no keys are seen
        return min(max(as_index(name, "offset", offset), -beyond), beyond)
    return keys - rows if causal or exclude_self else 0


def sequences(name: str, cu_seqlens: Any, total: int, argument: str) -> list[slice]:
    """The stretches that `cu_seqlens` (N + 1,) cuts `total` rows into."""
    ends = as_array(name, argument, cu_seqlens)
    if ends.dtype.kind not in "iu":
        raise TypeError(f"{name}: {argument} must be integers, got {ends.dtype}")
    if ends.ndim != 1 or ends.size < 1:
        raise ValueError(f"{name}: {argument} must have shape (N + 1,), got {ends.shape}")
    places = [int(end) for end in ends]
    if places[0] != 0 or places[-1] != total or any(b < a for a, b in pairs(places)):
        raise ValueError(
            f"{name}: {argument} must rise from 0 to {total}, the number of rows, got {places}"
        )
    return [slice(a, b) for a, b in pairs(places)]


def pairs(places: Sequence[int]) -> Iterator[tuple[int, int]]:
    return zip(places[:-1], places[1:], strict=True)


def over_sequences(
    name: str,
    cu_seqlens: Any,
    rows: dict[str, Array],
    keyed: dict[str, Array | None],
    wanted: Sequence[tuple[str, str]],
    out: Any,
    run: Callable[..., Any],
) -> Any:
    """`run` for each of the sequences packed in `rows`, arrays of shape (total, heads, width).

    `keyed` have one number a key in their last axis. `wanted` names for each result the array whose
    heads and the one whose width it has; a result with a number a key is named alike twice.
    """
    arrays = {k: as_array(name, k, x) for k, x in rows.items()}
    total = None
    for argument, x in arrays.items():
        if x.ndim != 3 or x.shape[0] != (total if total is not None else x.shape[0]):
            shape = "total" if total is None else total
            raise ValueError(
                f"{name}: {argument} must have shape ({shape}, heads, width) with cu_seqlens, "
                f"got {x.shape}"
            )
        total = x.shape[0]
    first = next(iter(arrays.values()))
    stretches = sequences(name, cu_seqlens, first.shape[0], "cu_seqlens")
    others = {k: x if x is None else as_array(name, k, x) for k, x in keyed.items()}
    for argument, x in others.items():
        if x is not None and (x.ndim < 1 or x.shape[-1] != total):
            raise ValueError(
                f"{name}: {argument} must have shape (..., {total}) with cu_seqlens, got {x.shape}"
            )
    xp = namespace(first)
    heads = max(x.shape[1] for x in arrays.values())
    shapes: list[tuple[int, ...]] = []
    dtypes = []
    for like, width in wanted:
        kind = _float_type(name, like, arrays[like].dtype) if like in arrays else None
        if like in arrays:
            count = heads if like != width else arrays[like].shape[1]
            shapes.append((first.shape[0], count, arrays[width].shape[2]))
        else:
            kind = FLOAT64 if _float_type(name, "q", first.dtype) == FLOAT64 else FLOAT32
            shapes.append(tuple(others[like].shape))  # type: ignore[union-attr]
        dtypes.append(kind)
    targets = allocate(name, xp, first, dtypes, shapes, out)
    for stretch in stretches:
        cut = {k: x[stretch].swapaxes(0, 1) for k, x in arrays.items()}
        cut |= {k: x if x is None else x[..., stretch] for k, x in others.items()}
        places = [
            t[stretch].swapaxes(0, 1) if like in arrays else t[..., stretch]
            for t, (like, _) in zip(targets, wanted, strict=True)
        ]
        run(cut, places[0] if len(places) == 1 else tuple(places))
    if out is not None:
        return out
    return targets[0] if len(targets) == 1 else tuple(targets)
