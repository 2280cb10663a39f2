"""Attention: exact, linear and by random features, with gradients and streaming states."""

from .exact import *
from .favor import *
from .linear import *
from .recurrent import *

# Written out, since type checkers do not follow a sum of lists.
__all__ = [
    "FavorAttention",
    "FavorParams",
    "LinearAttentionState",
    "beam_step",
    "favor_attention",
    "favor_attention_vjp",
    "favor_params",
    "feature_map",
    "gru_cell",
    "gru_jacobian",
    "jacobian_chain_lognorm",
    "linear_attention",
    "linear_attention_init",
    "linear_attention_merge",
    "linear_attention_prefill",
    "linear_attention_step",
    "linear_attention_vjp",
    "lstm_cell",
    "lstm_jacobian",
    "random_projection",
    "rnn_cell",
    "rnn_jacobian",
    "softmax_attention",
    "softmax_attention_vjp",
    "softmax_kernel_estimate",
    "softmax_kernel_moments",
]
