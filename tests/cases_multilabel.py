"""Entries of cases.py for the multi-label loss of a threshold class."""

import numpy as np

from cases import Case, _far
from cases_crossentropy import shares
from kexue_native.losses.multilabel import reference


def threshold(k):
    return np.asarray(k.get("threshold", 0.0), k["scores"].dtype)


def lower(k):
    arrays = k["scores"], k["targets"], k.get("mask"), threshold(k)
    return reference.multilabel_crossentropy, arrays, (k.get("hess") == "bound",)


def scale(k, out):
    """Of the gradient the larger share; shares grow with the distance from the threshold."""
    kept, t = k.get("mask", True), k["targets"]
    u = np.where(kept, k["scores"] - threshold(k), 0)
    n = reference.part(u, np.where(kept, 1 - t, 0)).share
    p = reference.part(-u, np.where(kept, t, 0)).share
    return ((0.0, 0.0), (np.maximum(n, p), _far(u)), (0.0, _far(u)))


def lower_probability(k):
    return reference.multilabel_probability, (k["scores"], threshold(k)[..., None]), ()


CASES = (
    Case(
        "multilabel_crossentropy",
        "multilabel_crossentropy",
        ("scores", "targets"),
        ("n", "n"),
        ("", "n", "n"),
        lower,
        scale,
        fixed={"return_grad": True, "return_hess": True},
        variants=({}, {"hess": "bound"}, {"threshold": 0.75}),
        empty=0.0,
        fill={"targets": shares},
    ),
    Case(
        "multilabel_probability",
        "multilabel_probability",
        ("scores",),
        ("n",),
        ("n",),
        lower_probability,
        variants=({}, {"threshold": 0.75}),
        mask=False,
        elementwise=True,  # takes no axis
    ),
)

# Class numbers, pairs of tokens, and bool results: in test_multilabel.py.
OTHERS = (
    "globalpointer_crossentropy",
    "globalpointer_mask",
    "multilabel_predict",
    "sparse_multilabel_crossentropy",
)

HESS = "return_grad=False return_hess=False hess=exact"
SIGNATURES = {
    "multilabel_crossentropy": (
        f"scores targets * axis=-1 threshold=0.0 mask=None {HESS} validate=True"
    ),
    "sparse_multilabel_crossentropy": (
        f"scores indices * indptr=None pad=-1 threshold=0.0 mask=None {HESS}"
    ),
    "globalpointer_crossentropy": (
        f"scores targets * token_mask=None tril=True threshold=0.0 {HESS}"
    ),
    "globalpointer_mask": "token_mask * tril=True",
    "multilabel_predict": "scores threshold=0.0 *",
    "multilabel_probability": "scores threshold=0.0 *",
}
