"""Networks without multiplications: digits recognised by additions of bit patterns.

A perceptron and a small convolution net are trained in NumPy on scikit-learn's digits, then run
with Mitchell's products instead of exact ones; fine-tuning with their gradients wins back what was
lost.
Saves the map of the error over all fractions as mitchell_error.png.
"""

import argparse

import matplotlib
import numpy as np
from sklearn.model_selection import train_test_split

import digits
import kexue_native as kn

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PRODUCTS = {
    "exact": None,
    "Mitchell": {},
    "iterated once": {"iterations": 1},
    "L-Mul": {"offset": "lmul"},
    "minimax offset": {"offset": "minimax"},
    "3 bits of fraction": {"mantissa_bits": 3},
    "1 bit of fraction": {"mantissa_bits": 1},
}


def product(options):
    return np.matmul if options is None else lambda a, b: kn.mitchell_matmul(a, b, **options)


def patches(images):
    """The 36 patches of 3 x 3 pixels of each image, as rows."""
    windows = np.lib.stride_tricks.sliding_window_view(images.reshape(-1, 8, 8), (3, 3), (1, 2))
    return np.ascontiguousarray(windows).reshape(-1, 9)


class Net:
    """A layer with ReLU, fully connected or of 8 filters of 3 x 3, and one of ten scores."""

    def __init__(self, convolution, rng):
        self.convolution = convolution
        inputs, hidden, features = (9, 8, 8 * 36) if convolution else (64, 32, 32)
        shapes = (inputs, hidden), (hidden,), (features, 10), (10,)
        self.weights = [
            (rng.standard_normal(s) * np.sqrt(2 / s[0]) if s[1:] else np.zeros(s)).astype("f4")
            for s in shapes
        ]

    def forward(self, images, matmul):
        w, b, v, c = self.weights
        x = patches(images) if self.convolution else images
        h = np.maximum(matmul(x, w) + b, 0)
        features = h.reshape(len(images), -1)
        return x, h, features, matmul(features, v) + c

    def gradients(self, images, labels, matmul, vjp):
        w, _, v, _ = self.weights
        x, h, features, scores = self.forward(images, matmul)
        _, g = kn.sparse_softmax_crossentropy(scores, labels, return_grad=True)
        g /= len(images)
        df, dv = vjp(g, features, v)
        dh = df.reshape(h.shape) * (h > 0)
        _, dw = vjp(dh, x, w)
        return dw, dh.sum(0), dv, g.sum(0)

    def train(self, images, labels, epochs, rate, rng, matmul=np.matmul, vjp=None):
        vjp = vjp or (lambda g, a, b: (g @ b.T, a.T @ g))
        speed = [np.zeros_like(w) for w in self.weights]
        for _ in range(epochs):
            for part in np.array_split(rng.permutation(len(images)), len(images) // 32):
                found = self.gradients(images[part], labels[part], matmul, vjp)
                for w, s, g in zip(self.weights, speed, found, strict=True):
                    s *= 0.9
                    s -= rate * g
                    w += s

    def accuracy(self, images, labels, matmul):
        return float(np.mean(self.forward(images, matmul)[-1].argmax(1) == labels))


def error_map(path):
    x = 1 + np.arange(512, dtype=np.float32) / 512
    figure, places = plt.subplots(1, 2, figsize=(9, 4), constrained_layout=True)
    for place, (title, options) in zip(
        places, (("Mitchell", {}), ("minimax offset", {"offset": "minimax"})), strict=True
    ):
        error = kn.mitchell_mul(x[:, None], x, **options) / (x[:, None].astype(float) * x) - 1
        shown = place.imshow(
            100 * error, origin="lower", extent=(1, 2, 1, 2), cmap="RdBu", vmin=-12, vmax=12
        )
        low, high = 100 * error.min(), 100 * error.max()
        place.set(title=f"{title}: {low:.2f} % to {high:.2f} %", xlabel="a", ylabel="b")
    figure.colorbar(shown, ax=places, label="error of a b in percent")
    figure.savefig(path, dpi=100)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    images, labels, _ = digits.load()
    results = {}
    for seed in range(options.seeds):
        rng = np.random.default_rng(seed)
        x, x_test, y, y_test = train_test_split(images, labels, test_size=0.3, random_state=seed)
        for kind in ("perceptron", "convolution"):
            net = Net(kind == "convolution", rng)
            net.train(x, y, options.epochs, 0.05, rng)
            for name, choice in PRODUCTS.items():
                found = net.accuracy(x_test, y_test, product(choice))
                results.setdefault((kind, name), []).append(found)
            cut = PRODUCTS["1 bit of fraction"]
            for name, choice, vjp in (
                ("exact, trained on", None, None),
                ("Mitchell, fine-tuned", {}, kn.mitchell_matmul_vjp),
                (
                    "1 bit, fine-tuned",
                    cut,
                    lambda g, a, b: kn.mitchell_matmul_vjp(g, a, b, grad="mitchell"),
                ),
            ):
                before = [w.copy() for w in net.weights]
                net.train(x, y, max(1, options.epochs // 6), 0.01, rng, product(choice), vjp)
                found = net.accuracy(x_test, y_test, product(choice))
                results.setdefault((kind, name), []).append(found)
                net.weights = before
    print(f"{'accuracy':<22} perceptron  convolution")
    for name in dict.fromkeys(name for _, name in results):
        means = [np.mean(results[kind, name]) for kind in ("perceptron", "convolution")]
        print(f"{name:<22} {means[0]:10.4f} {means[1]:12.4f}")
    error_map("mitchell_error.png")


if __name__ == "__main__":
    main()
