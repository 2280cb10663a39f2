"""Multi-label objectives for LightGBM and XGBoost, neither of which is imported."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._arrays import FLOAT32, Array
from ..losses import multilabel_crossentropy
from ..losses._common import is_bound

__all__ = ["LightGBMObjective", "XGBoostObjective"]

_ELEMENTS = 1 << 17  # of float64 results at a time


class _Objective:
    """`multilabel_crossentropy` for arguments as `train` or the scikit-learn wrapper gives them."""

    def __init__(
        self, *, hess: str = "exact", threshold: float = 0.0, backend: str | None = None
    ) -> None:
        is_bound(type(self).__name__, hess)
        self.hess = hess
        self.threshold = threshold
        self.backend = backend

    def __deepcopy__(self, memo: Any) -> Any:
        return self  # nothing changes it, and both libraries and scikit-learn copy their parameters

    def __call__(
        self, first: Any, second: Any, sample_weight: Array | None = None
    ) -> tuple[Array, Array]:
        """Gradient and Hessian of (scores, data); of (labels, scores, weights) for scikit-learn."""
        scores, targets, weight = self._arguments(first, second, sample_weight)
        matrix = scores.reshape(targets.shape)
        grad, hess = (np.empty_like(matrix, FLOAT32) for _ in range(2))
        # Wider scores keep their digits: some rows at a time are computed in their type.
        narrow = matrix.dtype == FLOAT32
        some = max(1, len(matrix) if narrow else _ELEMENTS // max(1, matrix.shape[1]))
        for i in range(0, len(matrix), some):
            rows = slice(i, i + some)
            out = np.empty(len(matrix[rows]), FLOAT32), grad[rows], hess[rows]
            results = multilabel_crossentropy(
                matrix[rows],
                targets[rows],
                threshold=self.threshold,
                return_grad=True,
                return_hess=True,
                hess=self.hess,
                out=out if narrow else None,
                backend=self.backend,
            )
            if not narrow:
                _, grad[rows], hess[rows] = results
        if weight is not None:
            column = np.asarray(weight, FLOAT32)[:, None]
            grad *= column
            hess *= column
        return grad.reshape(scores.shape), hess.reshape(scores.shape)

    def _mean_loss(self, first: Any, second: Any, sample_weight: Array | None) -> float:
        scores, targets, weight = self._arguments(first, second, sample_weight)
        loss = multilabel_crossentropy(
            scores.reshape(targets.shape), targets, threshold=self.threshold, backend=self.backend
        )
        return float(np.average(loss, weights=weight))

    def _arguments(
        self, first: Any, second: Any, weight: Array | None
    ) -> tuple[Array, Array, Array | None]:
        """Scores, the label matrix, and weights."""
        labels, scores = first, second
        if hasattr(second, "get_label"):  # the libraries' own kinds of data
            labels, scores, weight = second.get_label(), first, second.get_weight()
        targets = self._matrix(np.asarray(labels))
        if len(scores) != len(targets) or scores.size != targets.size:
            raise ValueError(
                f"{type(self).__name__}: scores must have the shape of the labels, "
                f"{targets.shape}, got {scores.shape}"
            )
        return scores, targets, None if weight is None or not len(weight) else weight

    def _matrix(self, labels: Array) -> Array:
        """The label matrix for what the library has as labels."""
        return labels if labels.ndim == 2 else labels[:, None]


class LightGBMObjective(_Objective):
    """`multilabel_crossentropy` as an objective of LightGBM 4, whose labels are row numbers.

    A LightGBM Dataset has one label per row. So the objective holds the label matrix of all data,
    and the label of a Dataset says which of its rows the data are: ``np.arange(n)`` for all of
    them, other numbers for a validation set. The folds of `lightgbm.cv` and of scikit-learn follow.

    Parameters
    ----------
    labels : array of shape (rows, K), of any real type
        In [0, 1]; hard or soft. At most 2**24 rows: LightGBM keeps labels in float32.
    hess : {"exact", "bound"}
        See `multilabel_crossentropy`. A round fits one tree to each label, independently; with the
        bound, their quadratic models add up to no less than that of all labels together.
    threshold : float
        Score above which a label is predicted.
    backend : str, optional
        See `use_backend`.

    Raises
    ------
    TypeError, ValueError
        Labels that are not such a matrix; another `hess`. When called, ValueError for labels of a
        Dataset that are not row numbers, each at most once, and for scores of another shape:
        ``num_class`` has to be K.

    Notes
    -----
    `lightgbm.train` and `cv` take it as ``params["objective"]`` and `mean_loss` as ``feval``, with
    ``num_class`` = K (and ``stratified=False``); LGBMRegressor takes it as `objective` and
    `mean_loss` as ``eval_metric``, with ``num_class=K, metric="None"``, and y is the row numbers.
    Predictions are raw scores, for `multilabel_predict` and `multilabel_probability`.

    Gradients are float32 in Fortran order, as LightGBM takes them: computed in float64, as its
    scores are, and rounded once. Weights of the data multiply them and weigh the mean.

    An instance is pickled with its labels; a deep copy is the instance itself.

    Examples
    --------
    >>> import kexue_native as kn
    >>> import numpy as np
    >>> objective = kn.boosting.LightGBMObjective([[1, 0], [0, 1], [1, 1]])
    >>> rows = np.arange(2)  # for LightGBM: Dataset(data, label=rows)
    >>> grad, hess = objective(rows, np.zeros((2, 2)))
    >>> grad
    array([[-0.5,  0.5],
           [ 0.5, -0.5]], dtype=float32)
    """

    def __init__(
        self,
        labels: Array,
        *,
        hess: str = "exact",
        threshold: float = 0.0,
        backend: str | None = None,
    ) -> None:
        super().__init__(hess=hess, threshold=threshold, backend=backend)
        matrix = np.array(labels, order="F")  # the order of LightGBM's scores
        if matrix.dtype.kind not in "biuf":
            raise TypeError(f"LightGBMObjective: labels must be real numbers, got {matrix.dtype}")
        if matrix.ndim != 2 or len(matrix) > 2**24:
            raise ValueError(
                "LightGBMObjective: labels must be a matrix of at most 2**24 rows, "
                f"got shape {matrix.shape}"
            )
        self._labels = matrix

    def mean_loss(
        self, first: Any, second: Any, sample_weight: Array | None = None
    ) -> tuple[str, float, bool]:
        """Metric for the same arguments as the objective: name, value, and that less is better."""
        return "mean_loss", self._mean_loss(first, second, sample_weight), False

    def _matrix(self, labels: Array) -> Array:
        n = len(self._labels)
        if np.all((labels >= 0) & (labels < n)):
            rows = labels.astype(np.intp)
            taken = np.zeros(n, bool)
            taken[rows] = True
            if np.array_equal(rows, labels) and np.count_nonzero(taken) == len(rows):
                if len(rows) == n and np.all(rows[1:] > rows[:-1]):
                    return self._labels
                return self._labels.T.take(rows, axis=1).T
        raise ValueError(
            "LightGBMObjective: labels of a Dataset must be the numbers of its rows in the label "
            f"matrix, integers in [0, {n}), each at most once"
        )


class XGBoostObjective(_Objective):
    """`multilabel_crossentropy` as an objective of XGBoost 3, whose labels are a matrix.

    Parameters
    ----------
    hess, threshold, backend : see `LightGBMObjective`

    Raises
    ------
    TypeError, ValueError
        Another `hess`. When called, as `multilabel_crossentropy`.

    Notes
    -----
    `xgboost.train` and `cv` take it as ``obj`` and `mean_loss` as ``custom_metric``, XGBRegressor
    as `objective` and ``eval_metric``; labels have the shape (rows, K). With ``base_score=0``
    scores start at 0, without it at 0.5. Predictions are raw scores, for `multilabel_predict` and
    `multilabel_probability`.

    Gradients are float32 in C order, as XGBoost takes them. Weights of the data multiply them and
    weigh the mean. Instances can be pickled.

    Examples
    --------
    >>> import kexue_native as kn
    >>> import numpy as np
    >>> objective = kn.boosting.XGBoostObjective()
    >>> grad, hess = objective(np.array([[1, 0]]), np.zeros((1, 2), np.float32))
    >>> grad, hess
    (array([[-0.5,  0.5]], dtype=float32), array([[0.25, 0.25]], dtype=float32))
    """

    def mean_loss(self, first: Any, second: Any, sample_weight: Array | None = None) -> Any:
        """Metric for the same arguments as the objective: (name, value); scikit-learn's: value."""
        value = self._mean_loss(first, second, sample_weight)
        return ("mean_loss", value) if hasattr(second, "get_label") else value
