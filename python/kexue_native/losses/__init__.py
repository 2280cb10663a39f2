"""Losses: multi-label and multi-class cross-entropies, divergences, smoothed metrics."""

from .crossentropy import *
from .divergences import *
from .metrics import *
from .multilabel import *
from .ranking import *

# Written out, since type checkers do not follow a sum of lists.
__all__ = [
    "flooding",
    "globalpointer_crossentropy",
    "globalpointer_mask",
    "kl_divergence",
    "multiclass_multilabel_loss",
    "multilabel_crossentropy",
    "multilabel_predict",
    "multilabel_probability",
    "negative_cosine",
    "pairwise_rank_loss",
    "sigmoid_crossentropy",
    "simsiam_loss",
    "smooth_accuracy",
    "smooth_fbeta",
    "smooth_precision",
    "smooth_recall",
    "softmax_crossentropy",
    "sparse_multilabel_crossentropy",
    "sparse_softmax_crossentropy",
    "subset_crossentropy",
    "symmetric_kl",
]
