"""What losses with targets share."""

import numpy as np
import pytest

import kexue_native as kn
from kexue_native import _backends
from memory import peak_of

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


@pytest.mark.skipif(_backends.core is None, reason=_backends.core_reason or "no core")
@pytest.mark.parametrize("name", [n for n in VALIDATED if not n.startswith("globalpointer")])
@pytest.mark.parametrize("kind", ["float32", "uint8", "bool"])
def test_memory_is_that_of_the_rows(name, kind, rng):
    """Results into `out` pass through no buffer of their size: what is taken besides is per row."""
    rows, n = 16, 5000
    table = name == "multiclass_multilabel_loss"
    shape = (rows, n // 5, 5) if table else (rows, n)
    scores = rng.uniform(0.1, 0.9, shape).astype(np.float32)
    targets = (rng.random(shape) < 0.1).astype(kind)
    function, options = getattr(kn, name), {"return_grad": True}
    if name in ("smooth_fbeta", "smooth_precision", "smooth_recall"):
        options["axis"] = -1  # not all axes
    out = (np.empty(rows, np.float32), np.empty_like(scores))
    function(scores[:, :40], targets[:, :40], **options)
    peak = peak_of(lambda: function(scores, targets, out=out, **options))
    assert peak < 10_000 + 200 * rows  # results alone are 320 kB
