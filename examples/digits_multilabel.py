"""Fourteen labels of handwritten digits: one multi-label loss, or a binary objective for each.

    pip install '.[examples]' && python examples/digits_multilabel.py

Each image of scikit-learn's digits is predicted by a model that has not seen it. Prints how well
LightGBM and XGBoost do with either objective, and saves a picture of some predictions.
"""

import argparse
import time

import lightgbm
import numpy as np
import xgboost
from matplotlib.figure import Figure
from sklearn.metrics import f1_score
from sklearn.model_selection import StratifiedKFold

import kexue_native as kn
from digits import LABELS, load

LIGHTGBM = {"learning_rate": 0.1, "num_leaves": 15, "min_data_in_leaf": 5, "verbose": -1}
XGBOOST = {"learning_rate": 0.1, "max_depth": 4}


def lightgbm_multilabel(x, labels, train, test, rounds):
    """The objective holds the labels; those of the data are their row numbers."""
    objective = kn.boosting.LightGBMObjective(labels)
    settings = {**LIGHTGBM, "objective": objective, "num_class": labels.shape[1]}
    booster = lightgbm.train(settings, lightgbm.Dataset(x[train], label=train), rounds)
    return kn.multilabel_predict(booster.predict(x[test]))


def lightgbm_binary(x, labels, train, test, rounds):
    predicted = []
    for label in labels.T:
        data = lightgbm.Dataset(x[train], label=label[train])
        booster = lightgbm.train({**LIGHTGBM, "objective": "binary"}, data, rounds)
        predicted.append(booster.predict(x[test]) > 0.5)
    return np.stack(predicted, axis=1)


def xgboost_multilabel(x, labels, train, test, rounds):
    data = xgboost.DMatrix(x[train], label=labels[train])
    objective = kn.boosting.XGBoostObjective()
    booster = xgboost.train({**XGBOOST, "base_score": 0.0}, data, rounds, obj=objective)
    return kn.multilabel_predict(booster.predict(xgboost.DMatrix(x[test])))


def xgboost_binary(x, labels, train, test, rounds):
    data = xgboost.DMatrix(x[train], label=labels[train])
    booster = xgboost.train({**XGBOOST, "objective": "binary:logistic"}, data, rounds)
    return booster.predict(xgboost.DMatrix(x[test])) > 0.5


MODELS = {
    "LightGBM, multi-label loss": lightgbm_multilabel,
    "LightGBM, binary objectives": lightgbm_binary,
    "XGBoost, multi-label loss": xgboost_multilabel,
    "XGBoost, binary objectives": xgboost_binary,
}


def save_picture(path, images, labels, predicted):
    """Eight images with all labels right, and eight with a label too many (+) or too few (-)."""
    wrong = np.any(predicted != labels, axis=1)
    shown = [*np.flatnonzero(~wrong)[:8], *np.flatnonzero(wrong)[:8]]
    names = np.array(list(LABELS))
    figure = Figure(figsize=(14, 5.2), layout="constrained")
    for axes, i in zip(figure.subplots(2, 8).flat, shown):
        axes.imshow(images[i].reshape(8, 8), cmap="gray_r")
        axes.set_axis_off()
        lines = [
            ", ".join(names[predicted[i] & labels[i]]),
            *("+ " + name for name in names[predicted[i] & ~labels[i]]),
            *("- " + name for name in names[~predicted[i] & labels[i]]),
        ]
        axes.set_title("\n".join(lines), fontsize=8, color="firebrick" if wrong[i] else "black")
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--picture", default="digits.png")
    options = parser.parse_args()

    images, digits, labels = load()
    folds = StratifiedKFold(options.folds, shuffle=True, random_state=0)
    print(f"{'':28} subset accuracy  micro F1  macro F1  seconds")
    for name, model in MODELS.items():
        start = time.perf_counter()
        predicted = np.empty_like(labels)
        for train, test in folds.split(images, digits):
            predicted[test] = model(images, labels, train, test, options.rounds)
        seconds = time.perf_counter() - start
        exact = np.mean(np.all(predicted == labels, axis=1))
        micro, macro = (f1_score(labels, predicted, average=how) for how in ("micro", "macro"))
        print(f"{name:28} {exact:15.4f} {micro:9.4f} {macro:9.4f} {seconds:8.1f}", flush=True)
        if model is lightgbm_multilabel:
            save_picture(options.picture, images, labels, predicted)
    print(f"{options.picture}: predictions of the first model")


if __name__ == "__main__":
    main()
