"""From the scores of an ONNX model to labels and to probabilities, and whether these are right.

    pip install '.[examples]' && python examples/onnx_multilabel.py

An image shows two digits on top of each other, the first with weight a, and whoever looks at it
reports the labels of the first with probability a. A small network is trained with
`multilabel_crossentropy` on these probabilities (soft targets), another one on single reports
(hard targets). Both are exported, run by ONNX Runtime on new images, and their probabilities are
held against the reports there. Saves the plot.
"""

import argparse

import numpy as np
import onnx
import onnxruntime
from matplotlib.figure import Figure
from onnx import TensorProto, helper, numpy_helper
from sklearn.metrics import f1_score

import kexue_native as kn
from digits import LABELS, load

PIXELS, HIDDEN, BATCH = 64, 128, 128


def observe(rng, images, labels, n):
    """n images of two digits, the probabilities of their labels, and a report of each."""
    first, second = rng.integers(len(images), size=(2, n))
    share = rng.random((n, 1), np.float32)
    mixed = share * images[first] + (1 - share) * images[second]
    soft = share * labels[first] + (1 - share) * labels[second]
    report = np.where(rng.random((n, 1)) < share, labels[first], labels[second])
    return mixed, soft, report


def train(rng, images, labels, soft_targets, steps):
    """Weights A, a, B, b of scores = relu(x A + a) B + b, by Adam."""
    sizes = [(PIXELS, HIDDEN), (1, HIDDEN), (HIDDEN, len(LABELS)), (1, len(LABELS))]
    weights = [rng.normal(0, 0.1, size).astype(np.float32) for size in sizes]
    mean = [np.zeros_like(w) for w in weights]
    square = [np.zeros_like(w) for w in weights]
    for step in range(1, steps + 1):
        x, soft, report = observe(rng, images, labels, BATCH)
        hidden_weights, hidden_bias, score_weights, score_bias = weights
        hidden = np.maximum(x @ hidden_weights + hidden_bias, 0)
        scores = hidden @ score_weights + score_bias
        targets = soft if soft_targets else report
        _, grad = kn.multilabel_crossentropy(scores, targets, return_grad=True)
        grad /= BATCH
        grad_hidden = (grad @ score_weights.T) * (hidden > 0)
        slopes = [x.T @ grad_hidden, grad_hidden.sum(0), hidden.T @ grad, grad.sum(0)]
        rate = 3e-3 * (1 - step / steps) * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        for w, m, s, slope in zip(weights, mean, square, slopes):
            m += 0.1 * (slope - m)
            s += 0.001 * (slope**2 - s)
            w -= rate * m / (np.sqrt(s) + 1e-8)
    return weights


def export(weights):
    """The network as the bytes of an ONNX file."""
    names = ["hidden_weights", "hidden_bias", "score_weights", "score_bias"]
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["images", *names[:2]], ["sums"]),
            helper.make_node("Relu", ["sums"], ["hidden"]),
            helper.make_node("Gemm", ["hidden", *names[2:]], ["scores"]),
        ],
        "multilabel",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", PIXELS])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", len(LABELS)])],
        [numpy_helper.from_array(w, name) for w, name in zip(weights, names)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def calibration(probability, happened, bins=15):
    """Mean probability, frequency and number in each bin of probability."""
    place = np.minimum((probability * bins).astype(int), bins - 1).ravel()
    count = np.bincount(place, minlength=bins)
    totals = (np.bincount(place, values.ravel(), bins) for values in (probability, happened))
    return (*(total / np.maximum(count, 1) for total in totals), count)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--picture", default="calibration.png")
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    images, _, labels = load()
    order = rng.permutation(len(images))
    known, new = order[: len(order) // 2], order[len(order) // 2 :]
    x, soft, report = observe(rng, images[new], labels[new], 20000)

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    print("targets  micro F1   calibration error of  sigma(2 s)   sigma(s)")
    for axes, kind in zip(figure.subplots(1, 2), ("soft", "hard")):
        weights = train(rng, images[known], labels[known], kind == "soft", options.steps)
        session = onnxruntime.InferenceSession(export(weights))
        (scores,) = session.run(None, {"images": x})
        f1 = f1_score(soft > 0.5, kn.multilabel_predict(scores), average="micro")
        errors = []
        axes.plot([0, 1], [0, 1], color="silver")
        for name, factor in (("sigma(2 s)", 1.0), ("sigma(s)", 0.5)):
            probability = kn.multilabel_probability(factor * scores)
            expected, frequency, count = calibration(probability, report)
            errors.append(np.sum(count * np.abs(expected - frequency)) / np.sum(count))
            axes.plot(expected, frequency, "o-", label=f"{name}, error {errors[-1]:.3f}")
        axes.set(title=f"{kind} targets", xlabel="probability", ylabel="frequency")
        axes.legend()
        print(f"{kind}     {f1:8.4f} {errors[0]:33.4f} {errors[1]:10.4f}")
    figure.savefig(options.picture, dpi=120)
    print(f"{options.picture}: frequency against probability")


if __name__ == "__main__":
    main()
