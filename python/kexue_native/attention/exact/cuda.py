"""The CUDA kernels of exact attention, under the names of the reference."""

from ..._device import kernels

__getattr__ = kernels("exact")
