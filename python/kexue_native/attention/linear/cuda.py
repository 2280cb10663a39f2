"""The CUDA kernels of linear attention, under the names of the reference."""

from ..._device import kernels

__getattr__ = kernels("linear")
