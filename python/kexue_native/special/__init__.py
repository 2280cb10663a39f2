"""Reductions and smooth functions: softmax and its family."""

from . import reductions
from .reductions import *  # noqa: F403

__all__: list[str] = []
__all__ += reductions.__all__
