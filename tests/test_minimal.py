"""What every wheel runs: needs pytest and NumPy, nothing else of this directory."""

import math

import numpy as np
import pytest

import kexue_native as kn

BACKENDS = [None, "reference", "cpu", "cpu:v2", "cpu:v3", "cpu:v4", "cpu:base"]


@pytest.fixture(params=BACKENDS, ids=str)
def name(request):
    if request.param is not None:
        try:
            with kn.use_backend(request.param):
                pass
        except RuntimeError as error:
            pytest.skip(str(error))
    return request.param


def test_logsumexp(name):
    x = np.array([[1000.0, 1000.0], [0.0, -40.0], [-np.inf, -np.inf]])
    got = kn.logsumexp(x, axis=1, backend=name)
    # Two ULP of 1000.69 and, in the second row, of 4.2e-18 times the factor that is allowed there.
    assert abs(got[0] - (1000 + math.log(2))) <= 2 * np.spacing(1000.0)
    assert abs(got[1] / math.exp(-40) - 1) <= 2e-13
    assert got[2] == -np.inf


def test_softmax_and_log_softmax(name):
    rng = np.random.default_rng(0)
    x = 3 * rng.standard_normal((50, 37))
    p, log_p = kn.softmax(x, axis=1, backend=name), kn.log_softmax(x, axis=1, backend=name)
    assert np.all(np.abs(p.sum(axis=1) - 1) <= 37 * 2.0**-53)
    assert np.all(np.abs(np.log(p) - log_p) <= 2e-13 * 20)  # |log p| is below 20
    half = kn.softmax([np.inf, 0.0, np.inf], backend=name)
    assert half.tolist() == [0.5, 0.0, 0.5]


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16])
def test_types_axes_masks_and_out(name, kind):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((4, 5, 6)).astype(kind)
    mask = rng.random((4, 5, 6)) < 0.7
    mask[:, 0] = True
    poisoned = np.where(mask, x, np.nan).astype(kind)
    out = np.full((4, 5, 6), np.nan, kind)
    got = kn.softmax(poisoned, axis=1, mask=mask, out=out, backend=name)
    assert got is out and np.all(out[~mask] == 0)
    e = np.where(mask, np.exp(x.astype(np.float64)), 0)
    tolerance = {np.float64: 2e-13, np.float32: 1e-5, np.float16: 2e-3}[kind]
    assert np.all(np.abs(out - e / e.sum(axis=1, keepdims=True)) <= tolerance)


def calls():
    """Arguments and options of one small call of every function."""
    rng = np.random.default_rng(2)
    x, g, row = rng.standard_normal((3, 6)), rng.standard_normal((3, 6)), rng.standard_normal(3)
    hard, soft = (np.arange(18).reshape(3, 6) % 4 == 0).astype(float), rng.random((3, 6))
    labels, square = np.array([0, 5, 2]), np.outer(row, row)
    vectors = ("softmax", "log_softmax", "soft_onehot", "taylor_softmax", "argmax_distribution")
    rows = ("logsumexp", "logmeanexp", "softmax_entropy", "smooth_max", "soft_argmax")
    elementwise = (
        *("squareplus", "gelu", "softplus", "silu", "sigmoid", "log_sigmoid", "relu_gaussian"),
        *("smooth_abs", "smooth_floor", "smooth_ceil", "smooth_round", "taylor_exp"),
    )
    dense = (
        *("multilabel_crossentropy", "pairwise_rank_loss", "subset_crossentropy"),
        *("softmax_crossentropy", "sigmoid_crossentropy", "multiclass_multilabel_loss"),
    )
    return {
        **{name: (x,) for name in (*vectors, *rows, *elementwise)},
        **{f"{name}_vjp": (x, g) for name in vectors},
        **{f"{name}_vjp": (x, row) for name in rows},
        **{f"{name}_grad": (x,) for name in elementwise},
        "logsumexp_softmax": (x, -1),
        "logsumexp_vjp": (x, row, -1),
        "logmeanexp_vjp": (x, row, -1),
        "softmax_vjp": (x, g, -1),
        "log_softmax_vjp": (x, g, -1),
        "logsumexp_bounds": (x,),
        "logsumexp_lipschitz": (x, g),
        "logsumexp_jensen_gap": (x,),
        "entropy_invariant_scale": (np.arange(5),),
        "entropy_invariant_softmax": (x,),
        "entropy_invariant_softmax_vjp": (x, g),
        "squareplus_grad_b": (x,),
        "smooth_max2": (x, g),
        "smooth_max2_grad": (x, g),
        "soft_kmax": (x, 2),
        "soft_kmax_vjp": (x, g, 2),
        "gumbel_noise": ((3, 6), 1),
        "gumbel_max": (x, g),
        "gumbel_softmax": (x, g),
        "gumbel_softmax_vjp": (x, g, soft),
        **{name: (x, hard) for name in dense},
        "sparse_multilabel_crossentropy": (x, labels[:, None]),
        "multilabel_predict": (x,),
        "multilabel_probability": (x,),
        "globalpointer_mask": (np.array([True, True, False]),),
        "globalpointer_crossentropy": (square, np.eye(3)),
        "sparse_softmax_crossentropy": (x, labels),
        "kl_divergence": (x, g),
        "symmetric_kl": (x, g),
        "smooth_accuracy": (soft, labels),
        **{f"smooth_{metric}": (soft, hard) for metric in ("fbeta", "precision", "recall")},
        "flooding": (row, 0.5),
        "negative_cosine": (x, g),
        "simsiam_loss": (x, g, soft, g),
        "egu_step": (soft, g, 0.5),
        "egu_pm_step": (soft, soft, g, 0.5),
        "hypentropy_step": (x, g, 0.5, {"beta": 0.1}),
        "eg_step": (soft, g, 0.5),
        "eg_step_log": (x, g, 0.5),
        "eg_pm_step": (soft, soft, g, 0.5, {"mass": 1.0}),
        "eg_pm_init": (x, {"mass": 1e3}),
        "eg_step_vjp": (g, soft, g, 0.5),
        "hedge": (soft, 0.5),
        "portfolio_eg": (soft,),
        "eg_gain_step": (x, g, g, soft, {"lr": 0.5, "gamma": 0.1}),
        "global_norm": (x,),
        "clip_by_global_norm": (x, 1.0),
        "project_simplex": (x,),
        "project_simplex_vjp": (soft, g),
        "frank_wolfe_step": (soft, g, 0.5),
        "simplex_gap": (soft, g),
        "softmax_pullback": (soft, g),
        "bregman_kl": (soft, soft[::-1]),
    }


UNLIKE = {  # states and numbers
    *("eg_learning_rate", "eg_regret_bound", "eg_stepsize_init", "eg_stepsize_step", "lr_clip"),
}


def test_every_function_is_called():
    names = (*kn.special.__all__, *kn.losses.__all__, *kn.optim.__all__)
    assert set(calls()) == {name for name in names if name.islower()} - UNLIKE


@pytest.mark.parametrize("function", calls())
def test_every_function_runs(function, name):
    *arguments, last = calls()[function]
    options = last if isinstance(last, dict) else {}
    arguments = arguments if options else (*arguments, last)
    got = getattr(kn, function)(*arguments, **options, backend=name)
    plain = getattr(kn, function)(*arguments, **options, backend="reference")
    if not isinstance(got, tuple):
        got, plain = (got,), (plain,)
    for a, b in zip(got, plain, strict=True):
        assert np.all(np.isfinite(a))
        assert np.all(np.abs(a * 1.0 - b) <= 2e-13 * (1 + np.abs(b)))


def test_errors_are_python_errors(name):
    with pytest.raises(TypeError, match="^softmax: x must"):
        kn.softmax(np.zeros(3, complex), backend=name)
    with pytest.raises(ValueError, match="^softmax: axis must"):
        kn.softmax(np.zeros(3), axis=(0, 0), backend=name)
    with pytest.raises(IndexError, match="^softmax: axis must"):
        kn.softmax(np.zeros(3), axis=1, backend=name)


def test_configuration():
    assert kn.show_config()["kexue_native"] == kn.__version__
    assert kn.get_num_threads() >= 1


def test_step_sizes_run(name):
    theta, g = np.ones(5), np.arange(5.0)
    assert kn.eg_learning_rate(2, 8) > 0 and kn.eg_regret_bound(2, 8, 0.5) > 0
    assert kn.lr_clip(1.0, 1.0, 1.0) == 0.5
    got, state = kn.eg_stepsize_step(theta, g, kn.eg_stepsize_init(theta), lr=0.5, backend=name)
    assert np.all(got == theta - 0.5 * g) and state.t == 1
