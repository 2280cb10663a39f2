"""The CUDA kernels, by the names and arguments of `reference`."""

from ..._device import kernels

__getattr__ = kernels("slopes")
