"""What losses with targets share."""

import numpy as np
import pytest

import kexue_native as kn

VALIDATED = {
    "multilabel_crossentropy": 0.5,
    "globalpointer_crossentropy": 0.5,
    "pairwise_rank_loss": 1.0,
    "subset_crossentropy": 1.0,
    "multiclass_multilabel_loss": 0.5,
    "softmax_crossentropy": 0.5,
    "sigmoid_crossentropy": 0.5,
    "smooth_fbeta": 0.5,
    "smooth_precision": 0.5,
    "smooth_recall": 0.5,
}


@pytest.mark.parametrize("name", VALIDATED)
def test_out_is_written_whole_or_not_at_all(name, backend, rng):
    if backend.name == "cuda":
        pytest.skip("on a GPU nothing is waited for: wrong targets give nan")
    function = getattr(kn, name)
    scores = rng.uniform(0.1, 0.9, (3, 4, 4))
    targets = np.full(scores.shape, VALIDATED[name])
    results = backend(function, scores, targets, return_grad=True)
    out = tuple(np.full(r.shape, 7.0) for r in map(np.asarray, results))
    wrong = targets.copy()
    wrong[-1, -1, -1] = -0.25
    with pytest.raises(ValueError, match=f"^{name}: targets must be "):
        backend(function, scores, wrong, return_grad=True, out=out)
    assert all(np.all(o == 7) for o in out)
    backend(function, scores, targets, return_grad=True, out=out)
    for o, r in zip(out, results, strict=True):
        np.testing.assert_array_equal(o, r)
