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


def test_every_function_runs(name):
    rng = np.random.default_rng(2)
    x, g, row = rng.standard_normal((3, 6)), rng.standard_normal((3, 6)), rng.standard_normal(3)
    calls = {
        "logsumexp": (x,),
        "logsumexp_vjp": (x, row, -1),
        "logmeanexp": (x,),
        "logmeanexp_vjp": (x, row, -1),
        "softmax": (x,),
        "softmax_vjp": (x, g, -1),
        "log_softmax": (x,),
        "log_softmax_vjp": (x, g, -1),
        "logsumexp_softmax": (x, -1),
        "softmax_entropy": (x,),
        "softmax_entropy_vjp": (x, row),
        "logsumexp_bounds": (x,),
        "logsumexp_lipschitz": (x, g),
        "logsumexp_jensen_gap": (x,),
        "entropy_invariant_scale": (np.arange(5),),
        "entropy_invariant_softmax": (x,),
        "entropy_invariant_softmax_vjp": (x, g),
    }
    assert set(calls) == {n for n in kn.special.__all__ if n.islower()}
    for function, arguments in calls.items():
        got = getattr(kn, function)(*arguments, backend=name)
        plain = getattr(kn, function)(*arguments, backend="reference")
        if not isinstance(got, tuple):
            got, plain = (got,), (plain,)
        for a, b in zip(got, plain, strict=True):
            assert np.all(np.isfinite(a)) and np.all(np.abs(a - b) <= 2e-13 * (1 + np.abs(b))), (
                function
            )


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
