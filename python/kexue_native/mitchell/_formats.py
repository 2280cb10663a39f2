"""Number formats, and what a caller passes turned into the words that the kernels work on.

Unlike elsewhere nothing is promoted: the bits of the operands are what these functions are about.
Kernels get every array as unsigned integers of its width, and the format as a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .._arrays import (
    Array,
    Call,
    _broadcast,
    _clashes,
    allocate,
    as_array,
    empty,
    is_instance,
    namespace,
)


class Format(NamedTuple):
    """A floating-point or integer format."""

    name: str
    number: int  # in kexue/mitchell.h
    width: int  # bits of a word
    fraction: int  # bits of a fraction; for integers the grid of an offset
    bias: int = 0
    signed: bool = True

    @property
    def floating(self) -> bool:
        return self.bias > 0

    @property
    def word(self) -> Any:
        return WORDS[self.width]

    @property
    def dtype(self) -> Any:
        if self.name == "bfloat16":
            import ml_dtypes

            return np.dtype(ml_dtypes.bfloat16)
        return np.dtype(self.name)

    @property
    def infinity(self) -> int:
        """Word of +inf"""
        return (2 * self.bias + 1) << self.fraction

    @property
    def wider(self) -> Format:
        """The format of products of integers"""
        width = min(2 * self.width, 64)
        return BY_NAME[f"{'' if self.signed else 'u'}int{width}"]

    @property
    def accumulator(self) -> Format:
        """The format of sums of products"""
        if self.floating:
            return BY_NAME["float64" if self.width == 64 else "float32"]
        return BY_NAME["int32" if self.width < 32 else "int64"]


WORDS = {8: np.dtype("u1"), 16: np.dtype("u2"), 32: np.dtype("u4"), 64: np.dtype("u8")}
FORMATS = (
    Format("float64", 0, 64, 52, 1023),
    Format("float32", 1, 32, 23, 127),
    Format("float16", 2, 16, 10, 15),
    Format("bfloat16", 3, 16, 7, 127),
    Format("int8", 4, 8, 23),
    Format("uint8", 5, 8, 23, signed=False),
    Format("int16", 6, 16, 23),
    Format("uint16", 7, 16, 23, signed=False),
    Format("int32", 8, 32, 52),
    Format("uint32", 9, 32, 52, signed=False),
    Format("int64", 10, 64, 52),
    Format("uint64", 11, 64, 52, signed=False),
)
BY_NAME = {form.name: form for form in FORMATS}
_BY_DTYPE = {np.dtype(form.name): form for form in FORMATS if form.name != "bfloat16"}
_WEAK = (int, float)


class Operands(Call):
    """Words of one format, and what the caller gets."""

    __slots__ = ("format", "pending", "shape", "shapes", "xp")

    def __init__(
        self, name: str, xp: Any, form: Format, shape: tuple[int, ...], arrays: Sequence[Array]
    ) -> None:
        self.name = name
        self.xp = xp
        self.format = form
        self.shape = shape
        self.shapes = [x.shape for x in arrays]
        self.inputs = arrays
        self.pending: list[tuple[Array, Array]] = []

    def into(self, out: Any, *formats: Format, shape: tuple[int, ...] | None = None) -> None:
        """Allocate or check the outputs, of one shape; an elementwise one may be an input."""
        elementwise = shape is None
        shape = self.shape if shape is None else shape
        dtypes = [form.dtype for form in formats]
        arrays = self.inputs
        targets = allocate(self.name, self.xp, arrays[0], dtypes, [shape] * len(dtypes), out)
        self.given = out is not None
        self.public = (out if isinstance(out, tuple) else (out,)) if self.given else targets
        outputs: list[Array] = []
        for target in targets:
            view = target
            if self.given and _clashes(self.xp, target, [*arrays, *outputs], elementwise):
                view = empty(target, target.shape, target.dtype)
                self.pending.append((target, view))
            outputs.append(view)
        self.inputs = [words(x) for x in arrays]
        self.outputs = [words(x) for x in outputs]

    def result(self) -> Any:
        for target, buffer in self.pending:
            target[...] = buffer
        return super().result()


def words(x: Array) -> Array:
    """The bits of an array."""
    return x.view(WORDS[8 * x.itemsize])


def format_of(name: str, argument: str, dtype: Any, kinds: str = "fi") -> Format:
    """The format of an array's elements; `kinds` holds f, i or both."""
    form = _BY_DTYPE.get(dtype)
    if form is None:
        native = dtype.newbyteorder("=") if dtype.kind in "fiu" else dtype
        form = BY_NAME["bfloat16"] if native.name == "bfloat16" else _BY_DTYPE.get(native)
    if form is None or ("f" if form.floating else "i") not in kinds:
        floats, integers = "float64, float32, float16, bfloat16", "int8 to int64, uint8 to uint64"
        wanted = {"f": floats, "i": integers}.get(kinds, f"{floats}, {integers}")
        raise TypeError(f"{name}: {argument} must be of type {wanted}, got {dtype}")
    return form


def operands(name: str, kinds: str = "fi", /, broadcast: bool = True, **arrays: Array) -> Operands:
    """Arrays of one format, and what they broadcast to; Python numbers get the arrays' format."""
    values: list[Any] = []
    form: Format | None = None
    first = ""
    for argument, value in arrays.items():
        if type(value) in _WEAK:
            values.append(value)
            continue
        x = as_array(name, argument, value)
        found = format_of(name, argument, x.dtype, kinds)
        if form is None:
            form, first = found, argument
        elif found is not form:
            raise ValueError(
                f"{name}: {first} and {argument} must have the same dtype, "
                f"got {form.name} and {found.name}"
            )
        values.append(x)
    xp = namespace(*values)
    if xp is not np:
        for (argument, value), x in zip(arrays.items(), values, strict=True):
            if isinstance(x, np.ndarray) and not isinstance(value, np.generic):
                raise TypeError(
                    f"{name}: arrays must be all NumPy or all CuPy, got NumPy for {argument}"
                )
    if form is None:
        whole = all(type(value) is int for value in values)
        form = BY_NAME["int64" if whole and "i" in kinds else "float64"]
    dtype = form.dtype
    for i, (argument, x) in enumerate(zip(arrays, values, strict=True)):
        if type(x) in _WEAK:
            values[i] = xp.asarray(_weak(name, argument, x, form), dtype)
        elif x.dtype != dtype:
            values[i] = x.astype(dtype)
        elif xp is not np and isinstance(x, np.ndarray):
            values[i] = xp.asarray(x)
    shape = values[0].shape
    if broadcast and any(x.shape != shape for x in values):
        shape = _broadcast(name, list(arrays), [x.shape for x in values])
    return Operands(name, xp, form, shape, values)


def _weak(name: str, argument: str, value: Any, form: Format) -> Any:
    if form.floating:
        try:
            with np.errstate(all="ignore"):
                return np.asarray(float(value)).astype(form.dtype)
        except OverflowError:
            raise ValueError(f"{name}: {argument} must fit float64, got a larger integer") from None
    least = -(1 << (form.width - 1)) if form.signed else 0
    if type(value) is not int or not least <= value < least + (1 << form.width):
        raise ValueError(
            f"{name}: {argument} must be an integer that fits {form.name}, got {value!r}"
        )
    return value


def is_bfloat16(x: Array) -> bool:
    return is_instance(x.dtype.type(0), "ml_dtypes", "bfloat16")
