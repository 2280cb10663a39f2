"""From what a caller passes to what a kernel takes, and back.

`normalise` does what is the same for all functions: arrays of one kind, one floating-point type,
core axes last, outputs allocated or checked. Kernels take any strides and broadcast loop axes
themselves, so almost everything here is a view.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from numbers import Real
from operator import index, itemgetter
from typing import Any, NamedTuple, TypeAlias

import numpy as np

try:
    from numpy.exceptions import AxisError
except ImportError:  # NumPy < 1.25
    from numpy import AxisError  # type: ignore[attr-defined,no-redef]

Array: TypeAlias = Any
"""A NumPy or CuPy array, a NumPy scalar, or on input anything array-like."""
Axis: TypeAlias = "int | tuple[int, ...] | None"

FLOAT64 = np.dtype(np.float64)
FLOAT32 = np.dtype(np.float32)
_NUMPY_FLOATS = (FLOAT64, FLOAT32, np.dtype(np.float16))
FLAG = np.dtype(np.bool_)
_BITS = np.dtype(np.uint16)
_empty, _ndarray = np.empty, np.ndarray  # looked up once: small calls count their nanoseconds
_WEAK = (bool, int, float)
_EXACT = ("g", "t", "targets")  # arguments that are not broadcast
_OTHER_TYPE = ("targets", "threshold")  # whose type has no part in that of the result


class Form(NamedTuple):
    """A parsed signature: which inputs and outputs have the core axis, which inputs may be None."""

    inputs: tuple[bool, ...]
    optional: tuple[bool, ...]
    outputs: tuple[bool, ...]
    flags: tuple[bool, ...]  # which outputs are bool
    data: tuple[bool, ...]  # inputs that are part of the data whatever their name
    full: tuple[bool, ...]  # outputs of the shape of the data, not of the first input
    single: bool  # all inputs but the first are optional, all outputs numbers


@cache
def parse(signature: str) -> Form:
    """Parse a signature such as ``(n),(n)?->()``; a bool result is written ``mask(n)``.

    ``data(n)`` is an input that broadcasts although it is called g, say, and an output that has
    the shape that the inputs broadcast to.
    """
    inputs, outputs = (side.split(",") for side in signature.split("->"))
    optional = tuple(term.endswith("?") for term in inputs)
    flags = tuple(term.startswith("mask") for term in outputs)
    return Form(
        inputs=tuple("n" in term for term in inputs),
        optional=optional,
        outputs=tuple("(n)" in term for term in outputs),
        flags=flags,
        data=tuple(term.startswith("data") for term in inputs),
        full=tuple(term.startswith("data") for term in outputs),
        single=all(optional[1:]) and not any(flags),
    )


class Pending(NamedTuple):
    """An output that is computed into `buffer` and goes to `target` when the kernel is done."""

    target: Array
    buffer: Array
    has_core: bool


class Call:
    """Arguments of one kernel call on NumPy arrays, and what the caller gets."""

    __slots__ = ("given", "inputs", "name", "outputs", "public")
    xp: Any = np

    def __init__(
        self,
        name: str,
        inputs: Sequence[Array],
        outputs: Sequence[Array],
        public: Sequence[Array],
        given: bool,
    ) -> None:
        self.name = name
        self.inputs = inputs  # an optional input that is absent is None
        self.outputs = outputs
        self.public = public
        self.given = given  # `public` is the caller's `out`

    def require(self, invalid: int, requirement: str) -> None:
        """Raise if the kernel met rows whose contents are invalid."""
        if invalid:
            raise ValueError(f"{self.name}: {requirement}, got {invalid} slice(s) that break this")

    def result(self) -> Any:
        """The array, or the tuple of arrays; new 0-d NumPy arrays become scalars."""
        values = self.public
        if self.xp is np and not self.given:
            values = [value if value.ndim else value[()] for value in values]
        return values[0] if len(values) == 1 else tuple(values)


class ArrangedCall(Call):
    """A call whose arrays were converted or moved, and the way back to the caller's."""

    __slots__ = ("layout", "pending", "xp")

    def __init__(
        self,
        name: str,
        xp: Any,
        inputs: Sequence[Array],
        outputs: Sequence[Array],
        public: Sequence[Array],
        given: bool,
        layout: Layout,
        pending: Sequence[Pending],
    ) -> None:
        super().__init__(name, inputs, outputs, public, given)
        self.xp = xp
        self.layout = layout
        self.pending = pending

    def result(self) -> Any:
        for target, buffer, has_core in self.pending:
            value = self.layout.restore(buffer) if has_core else buffer
            target[...] = fold(self.xp, value, target.shape)
        return super().result()


class Layout:
    """Where the core axes stand in the caller's arrays of shape `shape`."""

    def __init__(self, shape: tuple[int, ...], core: tuple[int, ...]) -> None:
        self.shape = shape
        self.core = core
        loop = tuple([i for i in range(len(shape)) if i not in core])
        self.loops = len(loop)
        self.loop_shape = tuple([shape[i] for i in loop])
        self.core_shape = tuple([shape[i] for i in core])
        self.size = math.prod(self.core_shape)
        self.order = loop + core
        self.moves = self.order != tuple(range(len(shape)))
        # View of a `keepdims` array without the core axes.
        self.drop = itemgetter((*[0 if i in core else slice(None) for i in range(len(shape))], ...))

    def reduced(self, keepdims: bool) -> tuple[int, ...]:
        """Shape of a result without the core axes."""
        if not keepdims:
            return self.loop_shape
        return tuple(1 if i in self.core else size for i, size in enumerate(self.shape))

    def arrange(self, x: Array, xp: Any = np) -> Array:
        """`x`, which broadcasts to `shape`, as loop axes and one core axis; a view if possible."""
        if x.ndim < len(self.shape):
            x = x.reshape((1,) * (len(self.shape) - x.ndim) + x.shape)
        if self.moves:
            x = x.transpose(self.order)
        if len(self.core) == 1:
            return x
        loop, core = x.shape[: self.loops], x.shape[self.loops :]
        if any(size != 1 for size in core) and core != self.core_shape:
            x = xp.broadcast_to(x, loop + self.core_shape)
        return x.reshape((*loop, math.prod(x.shape[self.loops :])))

    def in_place(self, x: Array, xp: Any) -> Array | None:
        """`arrange` for an output: a view, or None if no view has that layout."""
        if x.shape != self.shape:
            return None
        view = self.arrange(x, xp)
        return view if len(self.core) < 2 or pointer(view) == pointer(x) or not x.size else None

    def restore(self, x: Array) -> Array:
        """The inverse of `arrange` for an array of full size."""
        x = x.reshape(self.loop_shape + self.core_shape)
        return x.transpose(tuple(self.order.index(i) for i in range(len(self.order))))


_layout = lru_cache(maxsize=256)(Layout)


def _itself(x: Array) -> Array:
    return x


def normalise(
    name: str,
    signature: str,
    axis: Axis,
    out: Any,
    /,
    *,
    keepdims: bool = False,
    whole: bool = False,
    **arrays: Array,
) -> Call:
    """Prepare the kernel call for `arrays`, given by name in the order of `signature`.

    ``(n)`` marks an array with the core axis, ``()`` one without. Arrays with a core axis make up
    the shape of the data, by broadcasting; optional ones (``?``) have to fit it. Some names have a
    meaning: `mask` is boolean, `g` has exactly the shape of the result that it weights, `t` and
    `targets` exactly that of the data; `targets` keep their own type, any real one, and `threshold`
    gets that of the rest.
    `whole`: `out` is written only after the kernel has succeeded.
    """
    if keepdims is not False:
        check_flags(name, keepdims=keepdims)
    x, *others = arrays.values()
    # One plain array and at most one axis: the common small call, which has to cost little.
    if type(x) is _ndarray and x.dtype in _NUMPY_FLOATS and (axis is None or type(axis) is int):
        for other in others:
            if other is not None:
                break
        else:
            plan = _plan(name, signature, x.shape, axis, keepdims)
            call = plan and _planned(name, plan, out, keepdims, whole, x, others)
            if call:
                return call
    return _general(name, parse(signature), axis, out, keepdims, whole, arrays)


class Plan(NamedTuple):
    """What the shape alone says of a call on one array."""

    shapes: tuple[tuple[int, ...], ...]  # of the outputs
    views: tuple[Callable[[Array], Array], ...]  # input and outputs for the kernel; (): as they are


@lru_cache(maxsize=256)
def _plan(
    name: str, signature: str, shape: tuple[int, ...], axis: Axis, keepdims: bool
) -> Plan | None:
    form = parse(signature)
    if not form.single:
        return None
    core = core_axes(name, axis, len(shape)) if any(form.inputs) else ()
    layout = _layout(shape, core)
    shapes = tuple([shape if has_core else layout.reduced(keepdims) for has_core in form.outputs])
    if len(core) != any(form.inputs):
        return None
    if not keepdims and not layout.moves:
        return Plan(shapes, ())
    reduced = layout.drop if keepdims else _itself
    views = [layout.arrange if has_core else reduced for has_core in (True, *form.outputs)]
    return Plan(shapes, tuple(views))


def _planned(
    name: str,
    plan: Plan,
    out: Any,
    keepdims: bool,
    whole: bool,
    x: Array,
    others: Sequence[None],
) -> Call | None:
    """The call, or None where `out` is unusual or not in order: `_general` knows what to say."""
    shapes, views = plan
    if out is None:
        targets = []
        for shape in shapes:
            targets.append(_empty(shape, x.dtype))
    elif (
        type(out) is _ndarray
        and (out.shape,) == shapes
        and out.dtype is x.dtype
        and out.flags.behaved  # aligned and writeable
        and not whole
        and (not keepdims if out is x else not np.may_share_memory(out, x))
    ):
        targets = [out]
    else:
        return None
    outputs = targets
    if views:
        x, *outputs = [view(a) for view, a in zip(views, (x, *targets))]
    return Call(name, (x, *others), outputs, targets, out is not None)


def _general(
    name: str,
    form: Form,
    axis: Axis,
    out: Any,
    keepdims: bool,
    whole: bool,
    arrays: dict[str, Array],
) -> Call:
    xp, dtype, values = _convert(name, form, arrays)
    roles = list(zip(arrays, values, form.inputs, form.optional, strict=True))
    elementwise = not any(form.inputs)  # all arrays are the data
    data = [
        k
        for (k, _, core, optional), free in zip(roles, form.data, strict=True)
        if (core or elementwise) and not optional and (free or k not in _EXACT)
    ]
    shapes = [x.shape for k, x, _, _ in roles if k in data] or [values[0].shape]
    shape = shapes[0] if len(shapes) == 1 else _broadcast(name, data, shapes)
    layout = _layout(shape, () if elementwise else core_axes(name, axis, len(shape)))

    inputs: list[Array] = []
    for argument, value, has_core, optional in roles:
        if value is not None:
            wanted = shape if has_core else layout.loop_shape
            if argument in _EXACT and argument not in data:
                if value.shape != wanted:
                    like = "the result" if argument == "g" else " and ".join(data)
                    raise ValueError(
                        f"{name}: {argument} must have the shape of {like}, {wanted}, "
                        f"got {value.shape}"
                    )
            elif argument not in data and not fits(value.shape, wanted):
                like = " and ".join(data) if has_core else "the result"
                raise ValueError(
                    f"{name}: {argument} must be broadcastable to the shape of {like}, {wanted}, "
                    f"got {value.shape}"
                )
            if has_core:
                value = layout.arrange(value, xp)
                if not optional and value.shape[-1] != layout.size:
                    value = xp.broadcast_to(value, (*value.shape[:-1], layout.size))
        inputs.append(value)

    # Where an array was enlarged, its gradient is summed back to its shape.
    wanted_shapes = [
        (shape if full else shapes[0]) if core else layout.reduced(keepdims)
        for core, full in zip(form.outputs, form.full, strict=True)
    ]
    dtypes = [FLAG if flag else dtype for flag in form.flags]
    targets = allocate(name, xp, values[0], dtypes, wanted_shapes, out)
    outputs: list[Array] = []
    pending: list[Pending] = []
    for target, has_core in zip(targets, form.outputs, strict=True):
        reduced = layout.drop(target) if keepdims and not has_core else target
        view = layout.in_place(target, xp) if has_core else reduced
        if view is None or (
            out is not None
            and (whole or _clashes(xp, view, inputs + outputs, has_core or elementwise))
        ):
            core = (layout.size,) if has_core else ()
            view = empty(target, layout.loop_shape + core, target.dtype)
            pending.append(Pending(reduced, view, has_core))
        outputs.append(view)

    if dtype not in _NUMPY_FLOATS:  # bfloat16 travels as its bits, which every consumer knows
        inputs = [x.view(_BITS) if x is not None and x.dtype == dtype else x for x in inputs]
        outputs = [x.view(_BITS) if x.dtype == dtype else x for x in outputs]
    public: Sequence[Array] = targets
    if out is not None:
        public = out if isinstance(out, tuple) else (out,)
    return ArrangedCall(name, xp, inputs, outputs, public, out is not None, layout, pending)


def _convert(name: str, form: Form, arrays: dict[str, Array]) -> tuple[Any, Any, list[Array]]:
    """The namespace, the common type, and the arrays in it; the mask is bool, targets are free."""
    values: list[Array] = []
    dtypes: list[Any] = []
    for (argument, value), optional in zip(arrays.items(), form.optional, strict=True):
        if (value is None and optional) or type(value) in _WEAK:
            values.append(value)
            continue
        x = as_array(name, argument, value)
        values.append(x)
        if argument != "mask":
            float_type = _float_type(name, argument, x.dtype)
            if argument not in _OTHER_TYPE:
                dtypes.append(float_type)
    xp = namespace(*values)
    if xp is not np:
        for (argument, value), x in zip(arrays.items(), values, strict=True):
            if isinstance(x, np.ndarray) and not isinstance(value, np.generic):
                raise TypeError(
                    f"{name}: arrays must be all NumPy or all CuPy, got NumPy for {argument}"
                )
    dtype = _common_type(dtypes)
    for i, (argument, x) in enumerate(zip(arrays, values, strict=True)):
        if x is None:
            continue
        if argument == "mask":
            x = xp.asarray(x)
            if x.dtype.kind != "b":
                raise TypeError(f"{name}: mask must be boolean, got {x.dtype}")
        elif type(x) in _WEAK:
            x = _weak_value(name, argument, x)
            if abs(x) > _LEAST_MAX:
                with np.errstate(over="ignore"):
                    x = xp.asarray(x, dtype)
            else:
                x = xp.asarray(x, dtype)
        elif argument == "targets":
            x = _as_targets(name, x)
        elif x.dtype != dtype:
            x = x.astype(dtype)
        values[i] = x if xp is np else xp.asarray(x)
    return xp, dtype, values


def _as_targets(name: str, x: Array) -> Array:
    """Native byte order; bfloat16 as its bits, and uint16, which stands for those, as int32."""
    float_type = _float_type(name, "targets", x.dtype)
    if x.dtype.kind not in "biu":
        x = x if x.dtype == float_type else x.astype(float_type)
        return x if float_type in _NUMPY_FLOATS else x.view(_BITS)
    native = x.dtype.newbyteorder("=")
    native = np.dtype(np.int32) if native == _BITS else native
    return x if x.dtype == native else x.astype(native)


_LEAST_MAX = 65504.0  # of float16: larger numbers may be infinite in the arrays' type


def _weak_value(name: str, argument: str, value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name}: {argument} must fit float64, got a larger integer") from None


def is_instance(value: Any, module: str, type_name: str) -> bool:
    """isinstance for a type of a module that may not be imported; does not import it."""
    loaded = sys.modules.get(module)
    return loaded is not None and isinstance(value, getattr(loaded, type_name, ()))


def namespace(*arrays: Array) -> Any:
    """CuPy if one of the arrays is a CuPy array, else NumPy."""
    cupy = sys.modules.get("cupy")
    if cupy is not None and any(is_instance(x, "cupy", "ndarray") for x in arrays):
        return cupy
    return np


def as_array(name: str, argument: str, value: Any) -> Array:
    """`value` as a NumPy array, or as it is when it is a CuPy array."""
    if type(value) is np.ndarray or is_instance(value, "cupy", "ndarray"):
        return value
    if value is None:
        raise TypeError(f"{name}: {argument} must be array-like, got None")
    if is_instance(value, "numpy.ma", "MaskedArray"):
        raise TypeError(f"{name}: {argument} must not be a masked array; pass its mask separately")
    try:
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            return np.from_dlpack(value)
        return np.asarray(value)
    except Exception as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(
            f"{name}: {argument} must be array-like, got {type(value).__name__} ({error})"
        ) from error


def _float_type(name: str, argument: str, dtype: Any) -> Any:
    """The type in which values of `dtype` are computed: floats their own, integers float64."""
    if dtype is FLOAT32 or dtype is FLOAT64:
        return dtype
    if dtype.kind in "biu":
        return FLOAT64
    native = dtype.newbyteorder("=")
    if native in _NUMPY_FLOATS or native.name == "bfloat16":
        return native
    raise TypeError(
        f"{name}: {argument} must be of a real type (float64, float32, float16, bfloat16, integers "
        f"or bool), got {dtype}"
    )


def _common_type(dtypes: list[Any]) -> Any:
    """np.result_type for these types; it knows none for float16 with bfloat16."""
    widest = max(dtypes, key=lambda dtype: dtype.itemsize, default=FLOAT64)
    rivals = {dtype for dtype in dtypes if dtype.itemsize == widest.itemsize}
    return FLOAT32 if len(rivals) > 1 else widest


def core_axes(name: str, axis: Axis, ndim: int, argument: str = "axis") -> tuple[int, ...]:
    """The axes as a tuple of non-negative numbers, in the order given."""
    if axis is None:
        return tuple(range(ndim))
    axes = axis if isinstance(axis, tuple) else (axis,)
    bound = max(ndim, 1)  # a 0-d array acts as one slice of one element
    result = []
    for item in axes:
        try:
            i = index(item)
        except TypeError:
            raise TypeError(
                f"{name}: {argument} must be an int, a tuple of ints or None, got {axis!r}"
            ) from None
        if not -bound <= i < bound:
            raise AxisError(
                f"{name}: {argument} must be in [{-bound}, {bound}) for a {ndim}-d array, got {i}"
            )
        result.append(i % bound)
    if len(set(result)) != len(result):
        raise ValueError(f"{name}: {argument} must not repeat an axis, got {axis!r}")
    return tuple(result) if ndim else ()


def _broadcast(name: str, names: list[str], shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        raise ValueError(
            f"{name}: {' and '.join(names)} must have shapes that broadcast together, "
            f"got {' and '.join(map(str, shapes))}"
        ) from None


def fits(shape: tuple[int, ...], into: tuple[int, ...]) -> bool:
    return len(shape) <= len(into) and all(
        a in (1, b) for a, b in zip(reversed(shape), reversed(into), strict=False)
    )


def empty(like: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """A new C-ordered array next to `like`, on its device."""
    if isinstance(like, np.ndarray):
        return np.empty(shape, dtype)
    with like.device:
        return namespace(like).empty(shape, dtype)


def allocate(
    name: str, xp: Any, like: Array, dtypes: list[Any], shapes: list[tuple[int, ...]], out: Any
) -> list[Array]:
    """New arrays, or the ones of `out` after checking them."""
    if out is None:
        return [empty(like, shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    items = out if isinstance(out, tuple) else (out,)
    if len(items) != len(shapes):
        wanted = "one array" if len(shapes) == 1 else f"a tuple of {len(shapes)} arrays"
        raise ValueError(f"{name}: out must be {wanted}, got {len(items)}")
    for item, shape, dtype in zip(items, shapes, dtypes, strict=True):
        if not isinstance(item, xp.ndarray) or is_instance(item, "numpy.ma", "MaskedArray"):
            raise TypeError(
                f"{name}: out must be a {xp.__name__} array like the input, "
                f"got {type(item).__name__}"
            )
        if item.dtype != dtype:
            raise TypeError(f"{name}: out must have dtype {dtype}, got {item.dtype}")
        if item.shape != shape:
            raise ValueError(f"{name}: out must have shape {shape}, got {item.shape}")
        if xp is np and not item.flags.writeable:
            raise ValueError(f"{name}: out must be writeable, got a read-only array")
    return [xp.asarray(item) for item in items]


def _clashes(xp: Any, view: Array, others: list[Array], in_step: bool) -> bool:
    """Whether writing `view` in place could go wrong: overlap other than exact aliasing.

    `in_step`: an element is written after it was read, in the order of the array.
    """
    if xp is np and not view.flags.aligned:
        return True
    return any(
        xp.may_share_memory(view, x)
        and not (
            in_step
            and pointer(view) == pointer(x)
            and (view.shape, view.strides, view.dtype) == (x.shape, x.strides, x.dtype)
        )
        for x in others
        if x is not None
    )


def pointer(x: Array) -> int:
    """Address of the first element."""
    if isinstance(x, np.ndarray):
        return int(x.__array_interface__["data"][0])
    return int(x.data.ptr)


def widen(x: Array) -> Array:
    """`x` in float64, or in its own type where that is wider, in C order.

    Kernels get bfloat16 as its bits, as uint16.
    """
    if x.dtype == _BITS:
        x = (x.astype(np.uint32) << 16).view(np.float32)
    return namespace(x).asarray(x, dtype=np.result_type(x.dtype, FLOAT64), order="C")


def narrow(x: Array) -> Array:
    """An output as its own type: the bits of bfloat16 as bfloat16."""
    return x.view(sys.modules["ml_dtypes"].bfloat16) if x.dtype == _BITS else x


def as_real(
    name: str,
    argument: str,
    value: Any,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
) -> float:
    """A parameter as a finite float within its bounds."""
    if type(value) is not float:
        if not isinstance(value, Real):
            raise TypeError(f"{name}: {argument} must be a real number, got {value!r}")
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    if not (math.isfinite(value) and value > above and value >= at_least):
        bound = ""
        if above > -math.inf:
            bound = f" and greater than {above:g}"
        elif at_least > -math.inf:
            bound = f" and at least {at_least:g}"
        raise ValueError(f"{name}: {argument} must be finite{bound}, got {value}")
    return float(value)


def one_of(name: str, argument: str, value: Any, options: Sequence[str]) -> str:
    """A choice among words."""
    if isinstance(value, str) and value in options:
        return value
    words = " or ".join(f'"{option}"' for option in options)
    kind = ValueError if isinstance(value, str) else TypeError
    raise kind(f"{name}: {argument} must be {words}, got {value!r}")


def check_flags(name: str, **flags: Any) -> None:
    """Arguments that are yes or no are True or False, or numbers that say so."""
    for argument, value in flags.items():
        if value is not True and value is not False and not isinstance(value, (int, np.bool_)):
            got = repr(value) if isinstance(value, (str, float)) else type(value).__name__
            raise TypeError(f"{name}: {argument} must be True or False, got {got}")


def fold(xp: Any, x: Array, shape: tuple[int, ...]) -> Array:
    """`x` summed over the axes by which `shape` was enlarged to the shape of `x`."""
    if x.shape == shape:
        return x
    extra = x.ndim - len(shape)
    axes = tuple(
        i for i in range(x.ndim) if i < extra or (shape[i - extra] == 1 and x.shape[i] != 1)
    )
    return xp.sum(x, axis=axes, dtype=FLOAT64, keepdims=True).reshape(shape)
