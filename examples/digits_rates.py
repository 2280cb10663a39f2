"""A learning rate that is far too small, and experts to be weighed: exponentiated gradient twice.

    pip install '.[examples]' && python examples/digits_rates.py

Multinomial logistic regression on scikit-learn's digits, from the same bad learning rate by plain
gradient descent, by Adam, and by gradient descent whose step sizes adapt. Then the test images come
one by one, and `hedge` weighs the predictions of some classifiers by how they have done so far.
Prints the results and saves a picture.
"""

import argparse

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

import kexue_native as kn

DECAY = 1e-4


def loss_and_gradient(theta, x, labels):
    """Mean cross-entropy of softmax(x theta), and a little weight decay."""
    scores = x @ theta
    loss, slope = kn.sparse_softmax_crossentropy(scores, labels, return_grad=True)
    gradient = x.T @ slope / len(x) + DECAY * theta
    return loss.mean() + DECAY / 2 * (theta**2).sum(), gradient


def descent(theta, gradient, state, lr):
    return theta - lr * gradient, state


def adam(theta, gradient, state, lr):
    m, v, t = state or (0.0, 0.0, 0)
    m, v, t = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2, t + 1
    step = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
    return theta - lr * step, (m, v, t)


def adapting(theta, gradient, state, lr):
    state = state or kn.eg_stepsize_init(theta)
    return kn.eg_stepsize_step(theta, gradient, state, lr=lr, lr_gain=0.05, lr_scale=0.02)


METHODS = {"gradient descent": descent, "Adam": adam, "EG step sizes": adapting}


def train(step, x, labels, lr, steps):
    theta, state, losses = np.zeros((x.shape[1], 10)), None, []
    for _ in range(steps):
        loss, gradient = loss_and_gradient(theta, x, labels)
        losses.append(loss)
        theta, state = step(theta, gradient, state, lr)
    return theta, np.array(losses)


def experts(x, labels, test, thetas):
    """Probabilities of the ten digits, by name of the classifier."""
    models = {
        "5 neighbours": KNeighborsClassifier(5),
        "naive Bayes": GaussianNB(var_smoothing=1e-2),
        "a tree": DecisionTreeClassifier(max_depth=8, random_state=0),
        "extra trees": ExtraTreesClassifier(100, random_state=0),
    }
    found = {name: m.fit(x, labels).predict_proba(test) for name, m in models.items()}
    found["regression"] = kn.softmax(test @ thetas, axis=-1)
    return {name: 0.99 * p + 0.001 for name, p in found.items()}  # nobody is ever sure


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--lr", type=float, default=1e-3)
    options = parser.parse_args()
    data = load_digits()
    x = np.hstack([data.data / 16, np.ones((len(data.data), 1))])
    x, test, labels, expected = train_test_split(x, data.target, test_size=0.5, random_state=0)

    print(f"learning rate {options.lr:g}, {options.steps} steps")
    print(f"{'':20}{'loss':>8}{'accuracy':>10}")
    curves, thetas = {}, {}
    for name, step in METHODS.items():
        thetas[name], curves[name] = train(step, x, labels, options.lr, options.steps)
        accuracy = ((test @ thetas[name]).argmax(axis=1) == expected).mean()
        print(f"{name:20}{curves[name][-1]:8.4f}{accuracy:10.4f}")

    found = experts(x, labels, test, thetas["EG step sizes"])
    p = np.stack([q[np.arange(len(test)), expected] for q in found.values()], axis=1)
    # -log p is exp-concave: with a rate of 1 the mixture loses at most log n more than the best.
    weights = kn.hedge(-np.log(p), 1.0)
    mixture = -np.log((weights[:-1] * p).sum(axis=1))
    print(f"\n{'log loss per image':20}")
    for name, losses in zip(found, -np.log(p).T, strict=True):
        print(f"{name:20}{losses.mean():8.4f}")
    print(f"{'uniform mixture':20}{-np.log(p.mean(axis=1)).mean():8.4f}")
    print(f"{'hedge':20}{mixture.mean():8.4f}")

    figure = Figure((10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name, losses in curves.items():
        left.plot(losses, label=name)
    left.set(xlabel="step", ylabel="loss", title=f"From a learning rate of {options.lr:g}")
    left.legend(frameon=False, loc="upper right", bbox_to_anchor=(1, 0.93))
    right.plot(weights, label=list(found))
    right.set(xlabel="image", ylabel="weight", title="Experts, weighed by hedge", xlim=(0, 150))
    right.legend(frameon=False, loc="center right")
    figure.savefig("digits_rates.png", dpi=150)


if __name__ == "__main__":
    main()
