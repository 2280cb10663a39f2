"""Linear attention on a GPU: the reference on CuPy arrays, matrix products by cuBLAS."""

from .reference import feature_map, linear_attention, linear_attention_vjp

__all__ = ["feature_map", "linear_attention", "linear_attention_vjp"]
