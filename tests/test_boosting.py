"""The objectives of kn.boosting, on their own and in LightGBM and XGBoost where they are there."""

import copy
import inspect
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

import kexue_native as kn
from kexue_native.boosting import LightGBMObjective, XGBoostObjective
from libraries import library

ROUNDS = 12
LIGHTGBM = {"num_class": 3, "learning_rate": 0.3, "num_threads": 1, "verbose": -1, "metric": "None"}
XGBOOST = {"max_depth": 3, "learning_rate": 0.3, "nthread": 1, "base_score": 0.0}


@pytest.fixture
def lgb():
    return library("lightgbm")


@pytest.fixture
def xgb():
    return library("xgboost")


@pytest.fixture
def sklearn():
    return library("sklearn")


@pytest.fixture
def data(rng):
    """Features, and three labels that are half-spaces of them."""
    x = rng.normal(size=(400, 5))
    return x, (x @ rng.normal(size=(5, 3)) > 0.3).astype(np.uint8)


def loss_and_slopes(scores, labels, hess="exact", **options):
    """What the objectives have to give, in float64."""
    return kn.multilabel_crossentropy(
        scores, labels, return_grad=True, return_hess=True, hess=hess, **options
    )


def accuracy(labels, scores):
    return np.mean(kn.multilabel_predict(scores) == labels)


class Data:
    """A Dataset or DMatrix as an objective sees it."""

    def __init__(self, label, weight):
        self.get_label = lambda: label
        self.get_weight = lambda: weight


@pytest.mark.parametrize("hess", ["exact", "bound"])
@pytest.mark.parametrize("weighted", [False, True])
def test_lightgbm_gradient(rng, hess, weighted):
    labels = rng.random((50, 4))
    scores = np.asfortranarray(3 * rng.normal(size=(50, 4)))
    weight = rng.random(50).astype(np.float32) if weighted else None
    objective = LightGBMObjective(labels, hess=hess)
    got = objective(scores, Data(np.arange(50, dtype=np.float32), weight))
    _, *want = loss_and_slopes(scores, labels, hess)
    for g, w in zip(got, want, strict=True):
        assert g.dtype == np.float32 and g.flags.f_contiguous
        assert np.shares_memory(g.ravel(order="F"), g)  # LightGBM's own step makes no copy
        factor = weight[:, None] if weighted else 1
        np.testing.assert_allclose(g, factor * w, rtol=1e-5, atol=1e-7)
    again = objective(np.arange(50), scores, weight)  # scikit-learn's order of arguments
    np.testing.assert_array_equal(again, got)


@pytest.mark.parametrize("hess", ["exact", "bound"])
@pytest.mark.parametrize("weighted", [False, True])
def test_xgboost_gradient(rng, hess, weighted):
    labels = rng.random((50, 4)).astype(np.float32)
    scores = (3 * rng.normal(size=(50, 4))).astype(np.float32)
    weight = rng.random(50).astype(np.float32) if weighted else np.empty(0, np.float32)
    objective = XGBoostObjective(hess=hess)
    got = objective(scores, Data(labels, weight))
    _, *want = loss_and_slopes(scores.astype(np.float64), labels, hess)
    for g, w in zip(got, want, strict=True):
        assert g.dtype == np.float32 and g.flags.c_contiguous
        factor = weight[:, None] if weighted else 1
        np.testing.assert_allclose(g, factor * w, rtol=1e-5, atol=1e-7)
    again = objective(labels, scores, sample_weight=weight if weighted else None)
    np.testing.assert_array_equal(again, got)


@pytest.mark.parametrize("rows", [1, 40_000])
def test_lightgbm_scores_keep_their_digits(rng, rows):
    """float64 scores are not rounded to float32, which would put exponentials 1e-6 off."""
    labels = rng.integers(0, 2, (rows, 4))
    scores = np.asfortranarray(rng.uniform(20, 30, (rows, 4)) * (2 * labels - 1))
    got = LightGBMObjective(labels)(np.arange(rows), scores)
    _, *want = loss_and_slopes(scores, labels)
    for g, w in zip(got, want, strict=True):
        np.testing.assert_array_equal(g, w.astype(np.float32))
    rounded = loss_and_slopes(scores.astype(np.float32), labels)[1]
    assert np.max(np.abs(rounded / want[0] - 1)) > 1e-7


def test_objective_leaves_scores_and_labels_alone(rng):
    labels = rng.random((9, 2))
    for objective, first in (
        (LightGBMObjective(labels), np.arange(9)),
        (XGBoostObjective(), labels),
    ):
        scores = rng.normal(size=(9, 2)).astype(np.float32)
        scores.flags.writeable = first.flags.writeable = False
        objective(first, scores, np.ones(9))
        objective.mean_loss(first, scores, np.ones(9))


def test_objective_with_threshold(rng):
    labels, scores = rng.integers(0, 2, (9, 2)), rng.normal(size=(9, 2)).astype(np.float32)
    _, *want = loss_and_slopes(scores, labels, threshold=0.5)
    np.testing.assert_array_equal(XGBoostObjective(threshold=0.5)(labels, scores), want)


def test_mean_loss(rng):
    labels, scores, weight = rng.integers(0, 2, (9, 2)), rng.normal(size=(9, 2)), rng.random(9)
    loss = kn.multilabel_crossentropy(scores, labels)
    plain, weighted = loss.mean(), (loss * weight).sum() / weight.sum()
    metric = LightGBMObjective(labels).mean_loss
    rows = np.arange(9)
    assert metric(scores, Data(rows, None)) == ("mean_loss", pytest.approx(plain), False)
    assert metric(rows, scores, weight) == ("mean_loss", pytest.approx(weighted), False)
    metric = XGBoostObjective().mean_loss
    assert metric(scores, Data(labels, weight)) == ("mean_loss", pytest.approx(weighted))
    assert metric(labels, scores) == pytest.approx(plain)


@pytest.mark.parametrize("rows", [[3, 1], [0, 1, 2, 3], [2, 1, 0, 3], []])
def test_lightgbm_rows_choose_labels(rng, rows):
    labels, scores = rng.random((4, 3)), rng.normal(size=(len(rows), 3))
    objective = LightGBMObjective(labels)
    got, _ = objective(np.asarray(rows, np.float32), scores)
    want, _ = LightGBMObjective(labels[rows])(np.arange(len(rows)), scores)
    np.testing.assert_array_equal(got, want)


def test_one_label(rng):
    """LightGBM and XGBoost have 1-D scores then, and take 1-D gradients."""
    labels, scores = rng.integers(0, 2, 9), rng.normal(size=9).astype(np.float32)
    _, *want = loss_and_slopes(scores[:, None], labels[:, None])
    want = np.squeeze(want, -1)
    np.testing.assert_array_equal(LightGBMObjective(labels[:, None])(np.arange(9), scores), want)
    np.testing.assert_array_equal(XGBoostObjective()(labels, scores), want)


@pytest.mark.parametrize("rows", [[0, 0, 1], [0, 1, 3], [0, -1, 2], [0, 0.5, 1], [0, np.nan, 1]])
def test_lightgbm_refuses_labels_that_are_not_rows(rows):
    objective = LightGBMObjective(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="LightGBMObjective: .* numbers of its rows"):
        objective(np.array(rows), np.zeros((3, 2)))


def test_objective_errors():
    with pytest.raises(ValueError, match='hess must be "exact" or "bound"'):
        XGBoostObjective(hess="diagonal")
    with pytest.raises(ValueError, match=r"labels must be a matrix .* got shape \(3,\)"):
        LightGBMObjective([0, 1, 0])
    with pytest.raises(ValueError, match="at most 2"):
        LightGBMObjective(np.broadcast_to(np.uint8(0), (2**24 + 1, 1)))
    with pytest.raises(TypeError, match="labels must be real numbers"):
        LightGBMObjective([["a", "b"]])
    with pytest.raises(ValueError, match=r"shape of the labels, \(3, 2\), got \(3,\)"):
        LightGBMObjective(np.zeros((3, 2)))(np.arange(3), np.zeros(3))
    with pytest.raises(ValueError, match="targets must be in"):
        XGBoostObjective()(np.full((3, 2), 2), np.zeros((3, 2)))


@pytest.mark.parametrize("objective", [LightGBMObjective(np.eye(3)), XGBoostObjective()])
def test_objective_is_a_picklable_callable_with_a_signature(objective):
    assert list(inspect.signature(objective).parameters) == ["first", "second", "sample_weight"]
    assert len(inspect.signature(objective.mean_loss).parameters) == 3
    first = np.arange(3) if isinstance(objective, LightGBMObjective) else np.eye(3)
    scores = np.ones((3, 3))
    for again in (pickle.loads(pickle.dumps(objective)), copy.deepcopy(objective)):
        np.testing.assert_array_equal(again(first, scores), objective(first, scores))
    metric = pickle.loads(pickle.dumps(objective.mean_loss))
    assert metric(first, scores) == objective.mean_loss(first, scores)


def test_importing_brings_neither_library():
    code = (
        "import sys, kexue_native.boosting; "
        "assert not {'lightgbm', 'xgboost', 'sklearn', 'scipy'} & set(sys.modules)"
    )
    path = os.pathsep.join(p for p in sys.path if p)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": path})


def test_lightgbm_train(lgb, data):
    """With a validation set of the same label matrix, early stopping, and the other metrics."""
    x, labels = data
    objective = LightGBMObjective(labels)
    train = lgb.Dataset(x[:300], label=np.arange(300))
    valid = lgb.Dataset(x[300:], label=np.arange(300, 400), reference=train)
    record = {}
    booster = lgb.train(
        {**LIGHTGBM, "objective": objective},
        train,
        ROUNDS,
        valid_sets=[train, valid],
        valid_names=["train", "valid"],
        feval=objective.mean_loss,
        callbacks=[lgb.record_evaluation(record), lgb.early_stopping(5, verbose=False)],
    )
    losses = record["train"]["mean_loss"]
    assert len(losses) == ROUNDS and losses == sorted(losses, reverse=True)
    scores = booster.predict(x)
    for name, part in (("train", slice(0, 300)), ("valid", slice(300, 400))):
        mean = kn.multilabel_crossentropy(scores[part], labels[part]).mean()
        assert record[name]["mean_loss"][-1] == pytest.approx(mean)
    assert accuracy(labels[:300], scores[:300]) > 0.9
    assert accuracy(labels[300:], scores[300:]) > 0.8


def test_lightgbm_cv(lgb, data):
    x, labels = data
    objective = LightGBMObjective(labels)
    result = lgb.cv(
        {**LIGHTGBM, "objective": objective},
        lgb.Dataset(x, label=np.arange(400)),
        ROUNDS,
        nfold=3,
        stratified=False,
        feval=objective.mean_loss,
    )
    assert result["valid mean_loss-mean"][-1] < 0.7 * result["valid mean_loss-mean"][0]


def test_lightgbm_weights(lgb, data):
    """Rows of weight 0 have no say, whatever their labels."""
    x, labels = data
    wrong = np.arange(400) % 2 == 1
    objective = LightGBMObjective(labels ^ wrong[:, None])
    train = lgb.Dataset(x, label=np.arange(400), weight=np.where(wrong, 0.0, 2.0))
    booster = lgb.train({**LIGHTGBM, "objective": objective}, train, ROUNDS)
    assert accuracy(labels, booster.predict(x)) > 0.9


def test_lightgbm_sklearn(lgb, sklearn, data):
    """The wrapper gives the same model as `train`; it can be cloned, searched and pickled."""
    from sklearn.base import clone
    from sklearn.model_selection import cross_val_predict

    x, labels = data
    objective, rows = LightGBMObjective(labels), np.arange(400)
    weight = 1.0 + rows % 3
    regressor = clone(
        lgb.LGBMRegressor(
            objective=objective, num_class=3, learning_rate=0.3, n_estimators=ROUNDS, n_jobs=1,
            verbose=-1, metric="None",
        )
    )  # fmt: skip
    model = clone(regressor).fit(
        x[:300],
        rows[:300],
        sample_weight=weight[:300],
        eval_X=(x[300:],),
        eval_y=(rows[300:],),
        eval_metric=objective.mean_loss,
    )
    train = lgb.Dataset(x[:300], label=rows[:300], weight=weight[:300])
    booster = lgb.train({**LIGHTGBM, "objective": objective}, train, ROUNDS)
    np.testing.assert_array_equal(model.predict(x), booster.predict(x))
    assert model.evals_result_["valid_0"]["mean_loss"][-1] == pytest.approx(
        kn.multilabel_crossentropy(model.predict(x[300:]), labels[300:]).mean()
    )
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    assert accuracy(labels, cross_val_predict(regressor, x, rows, cv=3)) > 0.8


def test_lightgbm_one_label(lgb, data):
    x, labels = data
    objective = LightGBMObjective(labels[:, :1])
    train = lgb.Dataset(x, label=np.arange(400))
    booster = lgb.train({**LIGHTGBM, "num_class": 1, "objective": objective}, train, ROUNDS)
    assert accuracy(labels[:, 0], booster.predict(x)) > 0.9


def test_lightgbm_soft_labels(lgb, data):
    """The scores estimate the soft labels through `multilabel_probability`."""
    x, _ = data
    labels = 0.1 + 0.8 * (x[:, :3] > 0)
    train = lgb.Dataset(x, label=np.arange(400))
    booster = lgb.train({**LIGHTGBM, "objective": LightGBMObjective(labels)}, train, 30)
    error = kn.multilabel_probability(booster.predict(x)) - labels
    assert np.sqrt(np.mean(error**2)) < 0.05


@pytest.mark.parametrize("strategy", ["one_output_per_tree", "multi_output_tree"])
def test_xgboost_train(xgb, data, strategy):
    x, labels = data
    objective = XGBoostObjective()
    train, valid = xgb.DMatrix(x[:300], label=labels[:300]), xgb.DMatrix(x[300:], labels[300:])
    record = {}
    booster = xgb.train(
        {**XGBOOST, "multi_strategy": strategy, "disable_default_eval_metric": True},
        train,
        ROUNDS,
        obj=objective,
        custom_metric=objective.mean_loss,
        evals=[(train, "train"), (valid, "valid")],
        evals_result=record,
        verbose_eval=False,
    )
    losses = record["train"]["mean_loss"]
    assert len(losses) == ROUNDS and losses == sorted(losses, reverse=True)
    scores = booster.predict(xgb.DMatrix(x))
    mean = kn.multilabel_crossentropy(scores[300:], labels[300:]).mean()
    assert record["valid"]["mean_loss"][-1] == pytest.approx(mean, rel=1e-5)
    assert accuracy(labels[:300], scores[:300]) > 0.9
    assert accuracy(labels[300:], scores[300:]) > 0.8


def test_xgboost_cv(xgb, data):
    x, labels = data
    objective = XGBoostObjective()
    result = xgb.cv(
        {**XGBOOST, "disable_default_eval_metric": True},
        xgb.DMatrix(x, label=labels),
        ROUNDS,
        nfold=3,
        obj=objective,
        custom_metric=objective.mean_loss,
        as_pandas=False,
    )
    assert result["test-mean_loss-mean"][-1] < 0.7 * result["test-mean_loss-mean"][0]


def test_xgboost_weights(xgb, data):
    x, labels = data
    wrong = np.arange(400) % 2 == 1
    train = xgb.DMatrix(x, label=labels ^ wrong[:, None], weight=np.where(wrong, 0.0, 2.0))
    booster = xgb.train(XGBOOST, train, ROUNDS, obj=XGBoostObjective())
    assert accuracy(labels, booster.predict(xgb.DMatrix(x))) > 0.9


def test_xgboost_sklearn(xgb, sklearn, data):
    """The wrapper gives the same model as `train`; it can be cloned and pickled."""
    from sklearn.base import clone
    from sklearn.model_selection import cross_val_predict

    x, labels = data
    objective = XGBoostObjective()
    weight = 1.0 + np.arange(300) % 3
    regressor = clone(
        xgb.XGBRegressor(
            objective=objective, max_depth=3, learning_rate=0.3, n_estimators=ROUNDS, n_jobs=1,
            base_score=0.0, eval_metric=objective.mean_loss,
        )
    )  # fmt: skip
    model = clone(regressor).fit(
        x[:300],
        labels[:300],
        sample_weight=weight,
        eval_set=[(x[300:], labels[300:])],
        verbose=False,
    )
    train = xgb.DMatrix(x[:300], label=labels[:300], weight=weight)
    booster = xgb.train(XGBOOST, train, ROUNDS, obj=objective)
    np.testing.assert_array_equal(model.predict(x), booster.predict(xgb.DMatrix(x)))
    assert model.evals_result()["validation_0"]["mean_loss"][-1] == pytest.approx(
        kn.multilabel_crossentropy(model.predict(x[300:]), labels[300:]).mean(), rel=1e-5
    )
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    assert accuracy(labels, cross_val_predict(regressor, x, labels, cv=3)) > 0.8


def test_xgboost_without_labels(xgb, data):
    with pytest.raises(ValueError, match="XGBoostObjective: scores must have the shape"):
        xgb.train(XGBOOST, xgb.DMatrix(data[0]), 1, obj=XGBoostObjective())
