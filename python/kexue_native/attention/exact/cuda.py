"""Exact attention on a GPU: the reference on CuPy arrays, matrix products by cuBLAS."""

from .reference import softmax_attention, softmax_attention_vjp

__all__ = ["softmax_attention", "softmax_attention_vjp"]
