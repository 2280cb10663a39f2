"""The CUDA module: loading it, and handing arrays over as pointers.

A CuPy array is passed as (pointer, shape, strides, type) with the current stream, so that a call
neither waits for the device nor copies anything.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from . import _backends
from ._arrays import Array, empty, namespace, pointer


@cache
def load() -> tuple[ModuleType | None, str]:
    """The compiled module, or None and the reason in words."""
    try:
        return import_module("kexue_native._cuda"), ""
    except ModuleNotFoundError as error:
        if error.name == "kexue_native._cuda":
            return None, f"the CUDA module was not built: {_backends.build_reason('cuda')}"
        return None, str(error)
    except ImportError as error:
        return None, f"the CUDA module does not load: {error}"


def launch(part: str, name: str, *arguments: Any) -> int:
    """Run a kernel on the device of its first array, on the current stream."""
    like = arguments[0]
    kept: list[Array] = []

    def allocate(nbytes: int) -> int:
        kept.append(empty(like, (nbytes,), np.dtype(np.uint8)))
        return pointer(kept[-1])

    def hand_over(value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if any(step % value.itemsize for step in (pointer(value), *value.strides)):
            value = value.copy()  # only an input can be unaligned here
            kept.append(value)
        return pointer(value), value.shape, value.strides, value.dtype.char

    if isinstance(like, np.ndarray):
        kernels, stream = getattr(_backends.cuda_on_host, part), 0
        getattr(kernels, name)(allocate, stream, like.dtype.char, *map(hand_over, arguments))
        return 0
    module, _ = load()
    with like.device:
        stream = namespace(like).cuda.get_current_stream().ptr
        kernel = getattr(getattr(module, part), name)
        kernel(allocate, stream, like.dtype.char, *map(hand_over, arguments))
    return 0


def kernels(part: str) -> Callable[[str], Callable[..., int]]:
    """``__getattr__`` of a module whose functions are the part's kernels."""

    def find(name: str) -> Callable[..., int]:
        if name.startswith("_"):
            raise AttributeError(name)
        return partial(launch, part, name)

    return find
