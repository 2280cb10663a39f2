"""Attention against its definition (attention_oracle.py), and what it promises besides."""

import copy
import inspect
import itertools
import pickle
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

import attention_oracle as oracle
import kexue_native as kn
from oracle import dtype_of

inf, nan = np.inf, np.nan
KERNELS = (
    "identity",
    "elu1",
    "relu",
    "exp",
    "softmax_d",
    "efficient",
    "cosine",
    "taylor2",
    "favor_positive",
    "favor_hyperbolic",
    "favor_plus",
    "favor_sderf",
    "favor_trig",
    "favor_relu",
)
SIGNED = ("identity", "favor_trig")  # denominators may be near 0
EXPONENTIAL = ("elu1", "exp", "softmax_d", "efficient", *KERNELS[8:12])
SEEN = {
    "full": {},
    "causal": {"causal": True},
    "exclude_self": {"exclude_self": True},
    "both": {"causal": True, "exclude_self": True},
    "offset": {"causal": True, "offset": 2},
    "early": {"causal": True, "offset": -3},
}


def unit_of(dtype):
    """u of the type of sums"""
    return 2.0**-53 if dtype == np.float64 else 2.0**-24


def output_unit(dtype):
    return {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11}.get(dtype.name, 2.0**-8)


def options_of(kernel, rng, d, dtype):
    """Keyword arguments that a kernel needs"""
    options = {"kernel": kernel}
    if kernel.startswith("favor"):
        options["projection"] = kn.random_projection(6, d, rng=rng, dtype=dtype)
    if kernel == "favor_plus":
        options["params"] = kn.FavorParams(-0.1, None)
    if kernel == "favor_sderf":
        rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
        options["params"] = kn.FavorParams(-0.05 * np.arange(1, d + 1), rotation)
    return options


def make(rng, shape, d, width, dtype, m=None):
    *loop, n = shape
    m = n if m is None else m
    q, k = rng.normal(size=(*loop, n, d)), rng.normal(size=(*loop, m, d))
    v = rng.normal(size=(*loop, m, width))
    return tuple(x.astype(dtype) for x in (q, k, v))


def close(got, want, scale, dtype, factor=1.0, rounding=True):
    """|error| <= 64 u factor max(scale, max|expected|), and the rounding of the result"""
    got, want = np.asarray(got).astype(np.longdouble), np.asarray(want, np.longdouble)
    assert got.shape == want.shape
    assert np.array_equal(np.isnan(got), np.isnan(want)), "nan in other places"
    largest = np.nanmax(np.abs(want), initial=0.0)
    bound = 64 * unit_of(dtype) * factor * max(scale, largest)
    if rounding and dtype.itemsize == 2:
        bound = bound + output_unit(dtype) * np.nan_to_num(np.abs(want)) + 2.0**-24
    error = np.nan_to_num(np.abs(got - want))
    assert np.all(error <= bound), f"{np.max(error / bound):.3g} of what is allowed"


def log_size(kernel, q, k, options):
    """max(1, the largest |log feature|)"""
    if kernel not in EXPONENTIAL and kernel != "favor_trig":
        return 1.0
    scale = q.shape[-1] ** -0.25 if kernel.startswith("favor") else 1.0
    keys = {"w": options.get("projection"), "params": options.get("params"), "scale": scale}
    if kernel in oracle.LOGARITHMIC:
        logs = [oracle.log_features(kernel, wide(x), query=x is q, **keys) for x in (q, k)]
    else:
        with np.errstate(divide="ignore"):
            logs = [np.log(np.abs(oracle.features(kernel, wide(x), **keys))) for x in (q, k)]
    return max(1.0, *(float(np.max(np.abs(x[np.isfinite(x)]), initial=0)) for x in logs))


def wide(x):
    return x.astype(np.longdouble)


# --- Against the definition ---


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("kernel", KERNELS)
def test_linear_attention_is_its_definition(kernel, seen, backend, rng):
    dtypes = [np.dtype(np.float64), np.dtype(np.float32)]
    extras = ("", "mask", "weight", "decay", "state", "sums")
    for dtype, (n, m), extra in itertools.product(dtypes, ((5, 5), (3, 7), (6, 4)), extras):
        if extra == "decay" and not SEEN[seen].get("causal"):
            continue
        if extra == "sums" and kernel == "efficient":
            continue
        d, width = 3, 2
        q, k, v = make(rng, (n,), d, width, dtype, m)
        if kernel in SIGNED and extra != "sums":
            q, k = np.abs(q), np.abs(k) * dtype.type(0.3)
        options = options_of(kernel, rng, d, dtype)
        more, expected = {}, {}
        if extra == "mask":
            expected = more = {"key_mask": rng.random(m) < 0.6}
        elif extra == "weight":
            expected = more = {"key_weight": (rng.random(m) * (rng.random(m) < 0.8)).astype(dtype)}
        elif extra == "decay":
            expected = more = {"log_decay": -rng.random(m).astype(dtype)}
        elif extra == "sums":
            expected = more = {"normalize": False}
        elif extra == "state":
            before = make(rng, (4,), d, width, dtype)
            if kernel in SIGNED:
                before = tuple(np.abs(x) * dtype.type(0.3) for x in before)
            _, state = backend(kn.linear_attention, *before, return_state=True, **options)
            more = {"initial_state": state}
            c = wide(state.c)
            unit = np.where(np.isfinite(c), np.exp(c), 0)
            expected = {"state": (unit[:, None] * wide(state.s), unit * wide(state.z))}
        plain = {**options, **SEEN[seen]}
        want = oracle.linear(wide(q), wide(k), wide(v), **plain, **expected)
        for chunk in (1, 2, 7, 64)[:: 1 if extra == "" else 2]:
            got = backend(kn.linear_attention, q, k, v, chunk=chunk, **plain, **more)
            assert got.dtype == dtype
            factor = log_size(kernel, q, k, options)
            factor *= 8 if kernel in SIGNED else 1  # shares of either sign
            close(got, want, np.abs(v).max(), dtype, factor)


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("kernel", KERNELS)
def test_linear_attention_vjp_is_the_derivative(kernel, seen, backend, rng):
    extras = ("", "mask", "weight", "decay", "state", "sums")
    for dtype, extra in itertools.product((np.dtype(np.float64), np.dtype(np.float32)), extras):
        if extra == "decay" and not SEEN[seen].get("causal"):
            continue
        if extra == "sums" and kernel == "efficient":
            continue
        n, m, d, width = 4, 5, 3, 2
        q, k, v = make(rng, (n,), d, width, dtype, m)
        if kernel in SIGNED and extra != "sums":
            q, k = np.abs(q), np.abs(k) * dtype.type(0.3)
        g = rng.normal(size=(n, width)).astype(dtype)
        options = {**options_of(kernel, rng, d, dtype), **SEEN[seen]}
        more, fixed, arrays = {}, {}, {"q": wide(q), "k": wide(k), "v": wide(v)}
        if extra == "mask":
            fixed = more = {"key_mask": np.arange(m) != 2}
        elif extra == "weight":
            more = {"key_weight": (0.2 + rng.random(m)).astype(dtype)}
            arrays["key_weight"] = wide(more["key_weight"])
        elif extra == "decay":
            more = {"log_decay": -rng.random(m).astype(dtype)}
            arrays["log_decay"] = wide(more["log_decay"])
        elif extra == "sums":
            fixed = more = {"normalize": False}
        elif extra == "state":
            before = make(rng, (4,), d, width, dtype)
            before = tuple(np.abs(x) * dtype.type(0.3) for x in before)
            first = {
                key: x for key, x in options.items() if key in ("kernel", "projection", "params")
            }
            _, state = backend(kn.linear_attention, *before, return_state=True, **first)
            more = {"initial_state": state}
            unit = np.where(np.isfinite(state.c), np.exp(wide(state.c)), 0)
            s, z = unit[:, None] * wide(state.s), unit * wide(state.z)

        if extra == "state":
            arrays |= {"s": s, "z": z}
        want = oracle.gradients(of_state, wide(g), arrays, **options, **fixed)
        for chunk in (1, 64) if dtype == np.float64 else (2,):
            got = backend(kn.linear_attention_vjp, g, q, k, v, chunk=chunk, **options, **more)
            factor = log_size(kernel, q, k, options) * (8 if kernel in SIGNED else 1)
            norm = max(1.0, np.abs(options.get("projection", np.ones(1))).max() * d)
            scale = np.abs(g).max() * max(1, np.abs(v).max()) * norm * n * max(1, np.abs(q).max())
            names = ["q", "k", "v"] + [x for x in ("key_weight", "log_decay") if x in arrays]
            for name, slope in zip(names, got, strict=False):
                close(slope, want[name], scale, dtype, factor)
            if extra == "state":
                # Gradients of S and z in units of e^c.
                close(got[-2], want["s"] * unit[:, None], scale, dtype, factor)
                close(got[-1], want["z"] * unit, scale, dtype, factor)


def of_state(q, k, v, s=None, z=None, **rest):
    return oracle.linear(q, k, v, state=None if s is None else (s, z), **rest)


SOFTMAX = ("", "mask", "bias", "float", "array", "entropy")


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("extra", SOFTMAX)
def test_softmax_attention_is_its_definition(extra, seen, backend, rng):
    for dtype, (n, m) in itertools.product(
        (np.float64, np.float32), ((5, 5), (3, 7), (6, 4), (70, 150))
    ):
        dtype = np.dtype(dtype)
        d, width = 3, 2
        q, k, v = make(rng, (n,), d, width, dtype, m)
        options = dict(SEEN[seen])
        if extra == "mask":
            options["key_mask"] = rng.random(m) < 0.6
        elif extra == "bias":
            bias = rng.normal(size=(n, m)).astype(dtype)
            bias[0, 0] = -inf
            options["bias"] = bias
        elif extra:
            options["scale"] = {
                "float": 0.7,
                "array": rng.random(n).astype(dtype),
                "entropy": "entropy",
            }[extra]
        plain = {key: wide(x) if key == "bias" else x for key, x in options.items()}
        want, lse = oracle.softmax(wide(q), wide(k), wide(v), **plain)
        got, got_lse = backend(kn.softmax_attention, q, k, v, return_lse=True, **options)
        factor = max(1.0, np.abs(lse[np.isfinite(lse)]).max(initial=0), 3.0 * d)
        close(got, want, np.abs(v).max(), dtype, factor)
        assert np.array_equal(np.isneginf(got_lse), np.isneginf(lse.astype(float)))
        alive = np.isfinite(lse)
        close(got_lse[alive], lse[alive], 1.0, dtype, factor)
        if n > 10:
            continue
        g = rng.normal(size=(n, width)).astype(dtype)
        arrays = {"q": wide(q), "k": wide(k), "v": wide(v)}
        if extra == "bias":
            options["bias"][0, 0] = 0
            arrays["bias"] = wide(options["bias"])
        fixed = {key: x for key, x in options.items() if key != "bias"}
        want = oracle.gradients(oracle.softmax, wide(g), arrays, **fixed)
        saved = backend(kn.softmax_attention, q, k, v, return_lse=True, **options)
        scale = np.abs(g).max() * np.abs(v).max() * max(1, np.abs(k).max(), np.abs(q).max()) * n
        if extra == "bias":
            options["return_bias_grad"] = True
        for kept in ({}, {"out": saved[0], "lse": saved[1]}):
            got = backend(kn.softmax_attention_vjp, g, q, k, v, **kept, **options)
            for name, slope in zip(arrays, got, strict=True):
                close(slope, want[name], scale, dtype, factor)


@pytest.mark.parametrize("seen", SEEN)
def test_softmax_attention_of_several_tiles(seen, backend, rng):
    """More queries and keys than a tile of scores has, against the reference"""
    n, m = (9, 20) if backend.name == "cuda" and not backend.on_device else (135, 410)
    for dtype in (np.dtype(np.float64), np.dtype(np.float32)):
        q, k, v = make(rng, (2, n), 5, 17, dtype, m)
        g = rng.normal(size=v[:, :n].shape).astype(dtype)
        bias = rng.normal(size=(n, m)).astype(dtype)
        mask = rng.random(m) < 0.8
        v[:, ~mask] = nan
        for more in ({}, {"bias": bias}):
            options = {**SEEN[seen], "key_mask": mask, **more}
            wide_options = {**options, **{name: x.astype(np.float64) for name, x in more.items()}}
            arrays = [x.astype(np.float64) for x in (g, q, k, v)]
            if more:
                options["return_bias_grad"] = wide_options["return_bias_grad"] = True
            want = kn.softmax_attention_vjp(*arrays, backend="reference", **wide_options)
            got = backend(kn.softmax_attention_vjp, g, q, k, v, **options)
            for mine, plain in zip(got, want, strict=True):
                close(mine, plain, 20, dtype, 8)


# --- Types, layouts, errors ---

TYPES = ("float64", "float32", "float16", "bfloat16")


def both_functions(rng, d):
    projection = kn.random_projection(8, d, rng=rng)

    def soft(backend, q, k, v, **options):
        return backend(kn.softmax_attention, q, k, v, **options)

    def favor(backend, q, k, v, **options):
        return backend(kn.favor_attention, q, k, v, projection, **options)

    def elu(backend, q, k, v, **options):
        return backend(kn.linear_attention, q, k, v, **options)

    return soft, favor, elu


@pytest.mark.parametrize("causal", [False, True])
def test_narrow_types_are_computed_wide(causal, backend, dtype, rng):
    q, k, v = make(rng, (2, 9), 4, 3, dtype)
    for run in both_functions(rng, 4):
        got = run(backend, q, k, v, causal=causal)
        assert got.dtype == dtype
        if dtype.itemsize == 2:
            want = run(backend, *(x.astype(np.float32) for x in (q, k, v)), causal=causal)
            one = output_unit(dtype) * np.abs(want) + 2.0**-24
            assert np.all(np.abs(got.astype(np.float32) - want) <= one)


def test_heads_broadcast(backend, rng):
    """Multi-query: keys and values of one head; and gradients are summed back."""
    q = rng.normal(size=(2, 3, 6, 4))
    k, v = rng.normal(size=(2, 1, 7, 4)), rng.normal(size=(1, 7, 5))
    g = rng.normal(size=(2, 3, 6, 5))
    full = np.broadcast_to(k, (2, 3, 7, 4)), np.broadcast_to(v, (2, 3, 7, 5))
    for run in both_functions(rng, 4):
        np.testing.assert_allclose(
            run(backend, q, k, v, causal=True), run(backend, q, *full, causal=True), rtol=1e-12
        )
    for function in (kn.softmax_attention_vjp, kn.linear_attention_vjp):
        got, want = backend(function, g, q, k, v), backend(function, g, q, *full)
        np.testing.assert_allclose(got[0], want[0], atol=1e-12)
        np.testing.assert_allclose(got[1], want[1].sum(1, keepdims=True), atol=1e-12)
        np.testing.assert_allclose(got[2], want[2].sum((0, 1))[None], atol=1e-12)


def test_layouts_and_out(backend, dtype, rng):
    q, k, v = make(rng, (2, 5), 4, 3, dtype)
    for run in both_functions(rng, 4):
        want = run(backend, q, k, v)
        for change in (
            lambda x: np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2),
            lambda x: x[..., ::-1, ::-1].copy()[..., ::-1, ::-1],
            lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
            lambda x: x.astype(x.dtype.newbyteorder("S")) if x.dtype.name != "bfloat16" else x,
        ):
            arrays = [change(x) for x in (q, k, v)]
            before = [x.tobytes() for x in arrays]
            for x in arrays:
                x.flags.writeable = False
            np.testing.assert_array_equal(run(backend, *arrays), want)
            assert before == [x.tobytes() for x in arrays]
        out = np.full((2, 3, 5), nan, dtype).swapaxes(-1, -2)
        assert run(backend, q, k, v, out=out) is out
        np.testing.assert_array_equal(out, want)
        into = v.copy()
        run(backend, q, k, into, out=into)
        np.testing.assert_array_equal(into, want)


def test_empty(backend, rng):
    for n, m, d, width in itertools.product((0, 2), (0, 3), (0, 2), (0, 2)):
        q, k, v = np.ones((n, d)), np.ones((m, d)), np.ones((m, width))
        options = [(kn.softmax_attention, {}), (kn.linear_attention, {})]
        options += [
            (kn.linear_attention, {"causal": True}),
            (kn.softmax_attention, {"causal": True}),
        ]
        for function, more in options:
            got = backend(function, q, k, v, **more)
            assert got.shape == (n, width)
            assert np.all(np.isfinite(got))
            vjp = getattr(kn, f"{function.__name__}_vjp")
            slopes = backend(vjp, got, q, k, v, **more)
            assert [s.shape for s in slopes] == [q.shape, k.shape, v.shape]
            assert all(np.all(np.isfinite(s)) for s in slopes)
    assert (
        backend(kn.linear_attention, np.ones((0, 3, 2)), np.ones((3, 2)), np.ones((3, 2))).size == 0
    )


WRONG = [
    ({"q": np.ones(3)}, ValueError, "q must have at least 2 axes"),
    ({"k": np.ones((4, 2))}, ValueError, r"k must have shape \(..., 4, 3\)|k must have shape"),
    ({"v": np.ones((5, 2))}, ValueError, "v must have shape"),
    ({"k": np.ones((4, 3), np.float32)}, TypeError, "k must have the dtype of q"),
    ({"q": np.ones((4, 3), complex)}, TypeError, "q must be of a real type"),
    ({"q": None}, TypeError, "q must be array-like"),
    ({"key_mask": np.ones(4)}, TypeError, "key_mask must be boolean"),
    ({"key_mask": np.ones(3, bool)}, ValueError, "key_mask must have shape"),
    ({"offset": 1.5}, TypeError, "offset must be an int"),
    ({"out": np.ones((4, 3))}, ValueError, "out must have shape"),
    ({"out": np.ones((4, 2), np.float32)}, TypeError, "out must have dtype"),
    ({"backend": "gpu"}, ValueError, "backend must be"),
]
WRONG_SOFTMAX = [
    ({"scale": "length"}, ValueError, "scale must be"),
    ({"scale": inf}, ValueError, "scale must be finite"),
    ({"bias": np.ones((3, 4))}, ValueError, "bias must have shape"),
    ({"q": np.ones((2, 4, 3)), "k": np.ones((3, 4, 3))}, ValueError, "k must have leading axes"),
]
WRONG_LINEAR = [
    ({"kernel": "elu"}, ValueError, "kernel must be one of"),
    ({"kernel": "favor_positive"}, ValueError, "projection must be given"),
    ({"projection": np.ones((2, 3))}, ValueError, "projection must be None"),
    (
        {"kernel": "favor_positive", "projection": np.ones((2, 2))},
        ValueError,
        "projection must have",
    ),
    ({"kernel": "favor_plus", "projection": np.ones((2, 3))}, ValueError, "params must be"),
    ({"key_weight": -np.ones(4)}, ValueError, "key_weight must not be negative"),
    ({"log_decay": -np.ones(4)}, ValueError, "log_decay must come with causal"),
    ({"log_decay": np.ones(4), "causal": True}, ValueError, "log_decay must be finite"),
    ({"eps": 1e-6, "kernel": "exp"}, ValueError, "eps must be 0"),
    ({"kernel": "efficient", "normalize": False}, ValueError, "normalize must be True"),
    ({"chunk": 0}, ValueError, "chunk must be at least 1"),
    ({"initial_state": 3}, TypeError, "initial_state must be"),
    ({"cu_seqlens": [0, 4]}, ValueError, "q must have shape"),
]


@pytest.mark.parametrize("function", [kn.softmax_attention, kn.linear_attention])
def test_errors(function):
    arrays = {"q": np.ones((4, 3)), "k": np.ones((4, 3)), "v": np.ones((4, 2))}
    more = WRONG_SOFTMAX if function is kn.softmax_attention else WRONG_LINEAR
    for change, kind, text in WRONG + more:
        placed = np.full((4, 2), 7.0)
        given = {**arrays, "out": placed, **change}
        with pytest.raises(kind, match=text) as caught:
            function(**given)
        assert np.all(placed == 7), change
        if "backend" not in change:
            assert str(caught.value).startswith(f"{function.__name__}: "), change
        assert "\n" not in str(caught.value)


# --- Stability ---


def test_masked_nan_changes_nothing(backend, rng):
    q, k, v = make(rng, (2, 9), 4, 3, np.float64)
    g = rng.normal(size=v.shape)
    mask = np.arange(9) % 3 != 1
    for bad in (nan, inf, -inf):
        broken = [np.where(mask[:, None], x, bad) for x in (k, v)]
        for function, options in (
            (kn.softmax_attention, {}),
            *((kn.linear_attention, options_of(kernel, rng, 4, np.float64)) for kernel in KERNELS),
        ):
            for seen in SEEN.values():
                more = {**options, **seen, "key_mask": mask}
                want = backend(function, q, k, v, **more)
                np.testing.assert_array_equal(backend(function, q, *broken, **more), want)
                vjp = getattr(kn, f"{function.__name__}_vjp")
                for got, one in zip(
                    backend(vjp, g, q, *broken, **more),
                    backend(vjp, g, q, k, v, **more),
                    strict=True,
                ):
                    np.testing.assert_array_equal(got, one)
                    assert np.all(np.isfinite(got))


def test_without_a_query_no_value_is_read(backend, rng):
    q, k = np.zeros((2, 0, 3)), rng.normal(size=(2, 4, 3))
    for causal in (False, True):
        grads = backend(
            kn.linear_attention_vjp,
            q,
            q,
            k,
            np.full((2, 4, 3), np.nan),
            kernel="exp",
            causal=causal,
        )
        assert all(not np.any(grad) for grad in grads)


def test_a_key_that_no_query_sees_has_no_gradient(backend, rng):
    q, k, v = rng.normal(size=(3, 3, 3)), rng.normal(size=(3, 5, 3)), rng.normal(size=(3, 5, 3))
    v[:, 3:] = np.nan
    for kernel in ("exp", "relu"):
        for exclude_self, offset in ((True, 1), (False, 0)):
            options = {"causal": True, "exclude_self": exclude_self, "offset": offset}
            _, dk, dv = backend(kn.linear_attention_vjp, q, q, k, v, kernel=kernel, **options)
            assert np.all(np.isfinite(dk))
            assert not np.any(dk[:, 3:]) and not np.any(dv[:, 3:])
        # The only query does not see its own key.
        one = q[:, :1], q[:, :1], k[:, 3:4], v[:, 3:4]
        for slope in backend(kn.linear_attention_vjp, *one, kernel=kernel, exclude_self=True):
            assert not np.any(slope)


def test_nan_stays_in_the_rows_that_see_it(backend, rng):
    n = 70
    q, k, v = make(rng, (n,), 4, 3, np.float64)
    for run in both_functions(rng, 4):
        for place, options in itertools.product((0, 33, 69), SEEN.values()):
            seen = oracle.visible(n, n, options.get("causal"), options.get("exclude_self"),
                                  options.get("offset", 0), None)  # fmt: skip
            broken = q.copy()
            broken[place, 1] = nan
            got = np.isnan(run(backend, broken, k, v, **options)).all(-1)
            assert np.array_equal(got, (np.arange(n) == place) & seen[place].any())
            broken = k.copy()
            broken[place] = nan
            got = np.isnan(run(backend, q, broken, v, **options))
            assert np.array_equal(got.all(-1), seen[:, place]) and np.array_equal(
                got.any(-1), got.all(-1)
            )
            broken = v.copy()
            broken[place, 2] = nan
            got = np.isnan(run(backend, q, k, broken, **options))
            assert np.array_equal(got[:, 2], seen[:, place]) and not got[:, :2].any()


def test_dead_rows_are_zero(backend, rng):
    q, k, v = make(rng, (6,), 4, 3, np.float64)
    g = rng.normal(size=v.shape)
    for kernel in (None, *KERNELS):
        function = kn.softmax_attention if kernel is None else kn.linear_attention
        options = {} if kernel is None else options_of(kernel, rng, 4, np.float64)
        for seen in ({"causal": True, "offset": -2}, {"key_mask": np.zeros(6, bool)}):
            dead = slice(0, 2) if "offset" in seen else slice(None)
            got = backend(function, q, k, v, **options, **seen)
            assert np.all(got[dead] == 0) and np.all(np.isfinite(got))
            slopes = backend(getattr(kn, f"{function.__name__}_vjp"), g, q, k, v, **options, **seen)
            assert np.all(slopes[0][dead] == 0) and all(np.all(np.isfinite(s)) for s in slopes)
    _, lse = backend(kn.softmax_attention, q, k, v, causal=True, offset=-2, return_lse=True)
    assert np.all(lse[:2] == -inf)
    bias = np.zeros((6, 6))
    bias[1] = -inf
    v[3] = nan  # of a key that a bias hides from the second query
    got, lse = backend(kn.softmax_attention, q, k, v, bias=bias, return_lse=True)
    assert np.all(got[1] == 0) and lse[1] == -inf
    slopes = backend(kn.softmax_attention_vjp, g, q, k, v, bias=bias, return_bias_grad=True)
    assert np.all(slopes[0][1] == 0) and np.all(slopes[3][1] == 0)


@pytest.mark.parametrize("kernel", EXPONENTIAL)
@pytest.mark.parametrize("size", [1.0, 40.0, 160.0])
def test_large_norms(kernel, size, backend, rng):
    """Exponents far beyond float64's range: the result is that of exact arithmetic."""
    d, n = 4, 6
    for dtype in (np.dtype(np.float64), np.dtype(np.float32)):
        q, k, v = make(rng, (n,), d, 2, dtype)
        q, k = q * dtype.type(size), k * dtype.type(size)
        options = options_of(kernel, rng, d, dtype)
        for seen in SEEN.values():
            got = backend(kn.linear_attention, q, k, v, **options, **seen)
            want = oracle.far(wide(q), wide(k), wide(v), **options, **seen)
            close(got, want, np.abs(v).max(), dtype, log_size(kernel, q, k, options))
            slopes = backend(kn.linear_attention_vjp, v[:n], q, k, v, **options, **seen)
            assert all(np.all(np.isfinite(s)) for s in slopes)


def test_feature_that_one_query_needs(backend):
    """With one maximum for all features the second query would have nothing but zeros."""
    for dtype in (np.float32, np.float64):
        k = np.array([[700.0, -700], [-700, -600]], dtype)
        v = np.array([[1.0], [2.0]], dtype)
        q = np.array([[-2000.0, 0.0]], dtype)
        assert backend(kn.linear_attention, q, k, v, kernel="exp")[0, 0] == 2


def test_a_large_later_key(backend):
    """Within a chunk the running maximum may rise by more than exponents span."""
    for dtype in (np.float32, np.float64):
        k = np.array([[0.0], [1], [900], [3000], [2]], dtype)
        v = np.arange(5, dtype=dtype)[:, None]
        got = backend(kn.linear_attention, np.zeros((5, 1), dtype), k, v, kernel="exp", causal=True)
        e = np.e
        np.testing.assert_allclose(got[:, 0], [0, e / (1 + e), 2, 3, 3], rtol=1e-6)


@pytest.mark.parametrize("kernel", [None, *KERNELS])
def test_invariances(kernel, backend, rng):
    n, d = 40, 4
    q, k, v = make(rng, (n,), d, 3, np.float64)
    function = kn.softmax_attention if kernel is None else kn.linear_attention
    options = {} if kernel is None else options_of(kernel, rng, d, np.float64)
    if kernel in SIGNED:
        q, k = np.abs(q), np.abs(k) * 0.3
    u = 2.0**-53
    for seen in SEEN.values():
        got = backend(function, q, k, v, **options, **seen)
        alive = (got != 0).any(-1)
        # A constant comes back to 4 u, and moves with v.
        one = backend(function, q, k, np.full((n, 1), 3.0), **options, **seen)
        if kernel not in SIGNED:
            assert np.all(np.abs(one[alive] - 3) <= 4 * 3 * u * max(1, n / 8))
        moved = backend(function, q, k, v + 200, **options, **seen)
        np.testing.assert_allclose(moved[alive], got[alive] + 200, rtol=1e-12)
        if "causal" in seen:
            for chunk in (1, 64):
                one_chunk = {} if kernel is None else {"chunk": chunk}
                more = {**options, **seen, **one_chunk}
                first = backend(function, q, k, v, **more)
                later = k.copy(), v.copy()
                for x in later:
                    x[25:] = rng.normal(size=x[25:].shape)
                again = backend(function, q, *later, **more)
                last = 25 - seen.get("offset", 0) + seen.get("exclude_self", 0)
                if chunk == 1 and kernel is not None:
                    np.testing.assert_array_equal(first[:last], again[:last])
                else:
                    np.testing.assert_allclose(first[:last], again[:last], rtol=1e-10, atol=1e-12)
    order = rng.permutation(n)
    np.testing.assert_allclose(
        backend(function, q, k[order], v[order], **options),
        backend(function, q, k, v, **options),
        rtol=1e-10,
        atol=1e-11,
    )


# --- Streaming ---


@pytest.mark.parametrize("kernel", [k for k in KERNELS])
def test_steps_are_the_causal_call(kernel, backend, rng):
    n, d, width = 12, 4, 3
    q, k, v = make(rng, (2, n), d, width, np.float64)
    if kernel in SIGNED:
        q, k = np.abs(q), np.abs(k) * 0.3
    options = options_of(kernel, rng, d, np.float64)
    decay = -rng.random((2, n))
    want, last = backend(
        kn.linear_attention, q, k, v, causal=True, return_state=True, log_decay=decay, **options
    )
    half, state = backend(
        kn.linear_attention_prefill, q[:, :5], k[:, :5], v[:, :5], log_decay=decay[:, :5], **options
    )
    np.testing.assert_allclose(half, want[:, :5], atol=1e-12)
    middle = state.copy()
    for t in range(5, n):
        got = backend(
            kn.linear_attention_step,
            state,
            q[:, t],
            k[:, t],
            v[:, t],
            log_decay=decay[:, t],
            **options,
        )
        np.testing.assert_allclose(got, want[:, t], atol=1e-11)
    assert state.count == last.count == n
    same_state(state, last)
    start = kn.linear_attention_init((2,), last.z.shape[-1], width, np.float64, kernel=kernel)
    _, rest = backend(
        kn.linear_attention, q[:, 5:], k[:, 5:], v[:, 5:], causal=True, return_state=True,
        initial_state=start, log_decay=decay[:, 5:], **options,
    )  # fmt: skip
    merged = kn.linear_attention_merge(middle, rest, log_decay=decay[:, 5:].sum(-1))
    same_state(merged, last)


@pytest.mark.parametrize("name", ["float64", "float32"])
@pytest.mark.parametrize("kernel", ["identity", "elu1", "exp", "favor_positive"])
def test_steps_of_whole_and_part_registers(kernel, name, backend, rng):
    """Features and values of many sizes, weights of 0 among others; with and without `out=`."""
    dtype = np.dtype(name)
    for d, f, width in ((3, 37, 70), (19, 64, 64), (33, 33, 150), (16, 5, 1)):
        options = {"kernel": kernel}
        if kernel == "favor_positive":
            options["projection"] = rng.normal(size=(f, d)).astype(dtype)
        q, k, v = make(rng, (5,), d, width, dtype)
        if kernel in SIGNED:
            q, k = np.abs(q), np.abs(k)
        more = {
            "key_weight": (rng.random(5) * (np.arange(5) != 2)).astype(dtype),
            "log_decay": -rng.random(5).astype(dtype),
        }
        want = backend(kn.linear_attention, q, k, v, causal=True, **more, **options)
        features = f if kernel == "favor_positive" else d
        state = kn.linear_attention_init((), features, width, dtype, kernel=kernel)
        large = np.abs(v).max()
        v[2] = nan  # without weight, and not read
        for t in range(5):
            given = {key: x[t] for key, x in more.items()}
            if t % 2:
                given["out"] = np.zeros(width, dtype)
            got = backend(kn.linear_attention_step, state, q[t], k[t], v[t], **given, **options)
            assert t % 2 == 0 or got is given["out"]
            close(got, want[t], large, dtype, 2 * log_size(kernel, q, k, options))


def test_repeated_steps(backend, rng):
    """What a step remembers for the next ones is looked at again where it may have changed."""
    d, width = 4, 3
    q, k, v = rng.normal(size=(3, 2, 4))
    v = v[:, :width].copy()
    plain = kn.linear_attention_init((2,), d, width, np.float64)
    take = partial(backend, kn.linear_attention_step)
    for _ in range(2):
        take(plain, q, k, v)
    states = [plain.copy() for _ in range(9)]
    for state in states:
        take(state, q, k, v)
    want = take(states[0], q, k, v)
    out = np.empty((2, width))
    assert take(states[1], q, k, v, out=out) is out and np.array_equal(out, want)
    inside = v.copy()
    assert take(states[2], q, k, inside, out=inside) is inside and np.array_equal(inside, want)
    strided = np.zeros((2, 2 * width))[:, ::2]
    assert take(states[3], q, k, v, out=strided) is strided and np.array_equal(strided, want)
    assert np.array_equal(take(states[4], q, k, v, key_weight=1.0, log_decay=-0.0), want)
    wide = np.zeros((2, d, 2 * width))[:, :, ::2]
    wide[...] = states[5].s
    states[5].s = wide
    np.testing.assert_allclose(take(states[5], q, k, v), want, rtol=1e-12)
    np.testing.assert_allclose(wide, states[0].s, rtol=1e-12)
    keyed = {"key_weight": rng.random(2), "log_decay": -rng.random(2)}
    fresh = states[6].copy()
    assert np.array_equal(take(states[6], q, k, v, **keyed), take(fresh, q, k, v, **keyed))
    for travelled in (pickle.loads(pickle.dumps(states[8])), copy.deepcopy(states[8])):
        assert travelled.count == 3 and travelled.s is not states[8].s
        assert np.array_equal(take(travelled, q, k, v), want)
    before = states[7].s.copy()
    for wrong in (
        {"key_weight": -1.0},
        {"key_weight": np.array([1.0, nan])},
        {"log_decay": 0.5},
        {"log_decay": np.array([0.0, -inf])},
        {"out": np.empty((2, width), np.float32)},
        {"out": np.empty((3, width))},
        {"normalize": "yes"},
    ):
        with pytest.raises((TypeError, ValueError), match=f"step: {next(iter(wrong))} must"):
            take(states[7], q, k, v, **wrong)
    assert np.array_equal(states[7].s, before) and states[7].count == 3


def same_state(one, other):
    assert one.count == other.count
    for a, b in ((one.s, other.s), (one.z, other.z)):
        unit = np.exp(one.c - other.c)
        unit = unit[..., None] if a.ndim > unit.ndim else unit
        np.testing.assert_allclose(np.where(unit == unit, unit, 0) * a, b, atol=1e-10)


def test_merge_is_associative(rng):
    states = []
    for k in rng.normal(size=(3, 4, 5)) * 300:
        v = rng.normal(size=(4, 2))
        states.append(kn.linear_attention(k, k, v, kernel="exp", return_state=True)[1])
    a, b, c = states
    merge = kn.linear_attention_merge
    same_state(merge(merge(a, b), c), merge(a, merge(b, c)))
    empty = kn.linear_attention_init((), 5, 2, np.float64, kernel="exp")
    same_state(merge(empty, a), a)
    assert np.all(merge(empty, empty).c == -inf) and np.all(merge(empty, empty).s == 0)
    with pytest.raises(TypeError, match="left must be"):
        merge(1, a)


def test_packed_sequences(backend, rng):
    q, k, v = rng.normal(size=(3, 11, 2, 4))
    g = rng.normal(size=(11, 2, 4))
    ends = np.array([0, 3, 3, 8, 11])
    for function, options in (
        (kn.softmax_attention, {}),
        (kn.linear_attention, {}),
        (kn.linear_attention, {"log_decay": -rng.random(11), "key_mask": rng.random(11) < 0.7}),
        (kn.linear_attention, {"kernel": "efficient"}),
    ):
        got = backend(function, q, k, v, causal=True, cu_seqlens=ends, **options)
        vjp = getattr(kn, f"{function.__name__}_vjp")
        slopes = backend(vjp, g, q, k, v, causal=True, cu_seqlens=ends, **options)
        for a, b in zip(ends[:-1], ends[1:], strict=True):
            heads = [x[a:b].swapaxes(0, 1) for x in (q, k, v)]
            more = {name: x if name == "kernel" else x[a:b] for name, x in options.items()}
            one = backend(function, *heads, causal=True, **more)
            np.testing.assert_array_equal(got[a:b], one.swapaxes(0, 1))
            each = backend(vjp, g[a:b].swapaxes(0, 1), *heads, causal=True, **more)
            for whole, part in zip(slopes[:3], each, strict=False):
                np.testing.assert_array_equal(whole[a:b], part.swapaxes(0, 1))
    for ends in ([0, 5], [1, 11], [0, 7, 5, 11], [[0, 11]]):
        with pytest.raises(ValueError, match="cu_seqlens must"):
            backend(kn.linear_attention, q, k, v, cu_seqlens=np.array(ends))


def test_onnx_linear_attention(backend, rng):
    """ONNX opset 27 LinearAttention, update_rule="linear": S_t = S_(t-1) + k_t v_t^T,
    o_t = scale q_t S_t, states (B, H, d_k, d_v), query heads in groups that share keys."""
    batch, heads, groups, n, d, width = 2, 2, 3, 7, 4, 5
    q = rng.normal(size=(batch, heads * groups, n, d))
    k, v = rng.normal(size=(batch, heads, n, d)), rng.normal(size=(batch, heads, n, width))
    past, scale = rng.normal(size=(batch, heads, d, width)), 0.5
    state, want = past.copy(), np.empty((batch, heads * groups, n, width))
    for t in range(n):
        state += k[:, :, t, :, None] * v[:, :, t, None, :]
        repeated = np.repeat(state, groups, axis=1)
        want[:, :, t] = scale * (q[:, :, t, None, :] @ repeated)[..., 0, :]
    zero = np.zeros(past.shape[:-1])[:, :, None]
    out, last = backend(
        kn.linear_attention,
        scale * q.reshape(batch, heads, groups, n, d),
        k[:, :, None],
        v[:, :, None],
        kernel="identity",
        causal=True,
        normalize=False,
        initial_state=kn.LinearAttentionState(zero, past[:, :, None], zero),
        return_state=True,
    )
    np.testing.assert_allclose(out.reshape(want.shape), want, atol=1e-12)
    np.testing.assert_allclose(last.s[:, :, 0], state, atol=1e-12)


def test_entropy_scale(backend, rng):
    """The scale of special.entropy_invariant_scale, with the keys that each query sees."""
    q, k, v = make(rng, (9,), 4, 3, np.float64)
    mask = np.arange(9) % 4 != 0
    count = np.cumsum(mask)
    scale = kn.entropy_invariant_scale(np.maximum(count, 1.0), dim=4)
    options = {"causal": True, "key_mask": mask}
    np.testing.assert_allclose(
        backend(kn.softmax_attention, q, k, v, scale="entropy", **options),
        backend(kn.softmax_attention, q, k, v, scale=scale, **options),
        rtol=1e-13,
    )


# --- Random features ---


def test_projection_rows(rng):
    for m, d in ((7, 3), (2, 5), (6, 6), (0, 2), (1, 1)):
        for kind, norms in itertools.product(
            ("orthogonal", "iid"), ("chi", "sqrt_d", "stratified", "quantile")
        ):
            w = kn.random_projection(m, d, kind=kind, norms=norms, rng=1, dtype=np.float64)
            assert w.shape == (m, d) and np.all(np.isfinite(w))
            np.testing.assert_array_equal(
                w, kn.random_projection(m, d, kind=kind, norms=norms, rng=1)
            )
            if kind == "orthogonal":
                for start in range(0, m, d):
                    block = w[start : start + d]
                    product = block @ block.T
                    np.testing.assert_allclose(
                        product, np.diag(np.diagonal(product)), atol=1e-12 * d
                    )
            if norms == "sqrt_d":
                np.testing.assert_allclose(np.linalg.norm(w, axis=-1), np.sqrt(d))
    for wrong in ({"kind": "haar"}, {"norms": "one"}, {"dtype": np.int32}, {"rng": "a"}):
        with pytest.raises((TypeError, ValueError), match="random_projection: "):
            kn.random_projection(2, 2, **wrong)


def test_chi_quantiles():
    stats = pytest.importorskip("scipy.stats")
    from kexue_native.attention.favor.chi import chi_quantile

    p = np.array([1e-6, 0.01, 0.3, 0.5, 0.9, 0.999, 1 - 1e-9])
    for d in (1, 2, 3, 8, 64, 500):
        np.testing.assert_allclose(chi_quantile(p, d), stats.chi.ppf(p, d), rtol=1e-8)


def directions(d):
    """Along +-(1, .., 1) and the axes, of length 1/2 each: s = x + y has length 1"""
    ones = np.full(d, 0.5 / np.sqrt(d))
    axis = np.eye(d)[0] / 2
    return np.array([ones, -ones, axis, -axis])


def estimates(projections, features, x, y):
    """phi(x).phi(y) of each projection and row"""
    return np.array(
        [np.diagonal(kn.softmax_kernel_estimate(x, y, w, features)).copy() for w in projections]
    )


def z_scores(d, features, m, draws, rng, make_projection):
    x = directions(d)
    y = -x if features == "trig" else x  # which has no variance for x = y
    values = estimates([make_projection(m, d, rng) for _ in range(draws)], features, x, y)
    mean, var = kn.softmax_kernel_moments(x, y, m, features=features)
    return (values.mean(0) - mean) / np.sqrt(var / draws), values, var


def haar(m, d, rng):
    return kn.random_projection(m, d, rng=rng)


def raw_qr(m, d, rng):
    """As the public implementations have it: without the correction of signs."""
    q = np.concatenate([np.linalg.qr(rng.standard_normal((d, d)))[0] for _ in range(-(-m // d))])
    return q[:m] * np.sqrt(rng.chisquare(d, m))[:, None]


@pytest.mark.parametrize("d", [2, 8, 64])
@pytest.mark.parametrize("features", ["positive", "hyperbolic", "trig"])
def test_estimates_are_unbiased(d, features):
    rng = np.random.default_rng(20210305)
    draws = 4000 if d < 64 else 1000
    z, values, var = z_scores(d, features, d, draws, rng, haar)
    assert np.all(np.abs(z) < 5), z
    if np.all(var > 1e-12):
        spread = values.var(0, ddof=1)
        fourth = ((values - values.mean(0)) ** 4).mean(0)
        error = np.sqrt((fourth - spread**2) / draws)
        assert np.all(np.abs(spread - var) < 5 * error), (spread, var)


@pytest.mark.parametrize("d", [2, 8, 64])
def test_the_z_test_catches_raw_qr(d):
    rng = np.random.default_rng(20210305)
    draws = 4000 if d < 64 else 1000
    z, _, _ = z_scores(d, "positive", d, draws, rng, raw_qr)
    assert np.abs(z).max() > 5, z


def test_other_norms_and_maps():
    """Stratified norms, plus and sderf are unbiased, sqrt_d and quantile biased as stated."""
    rng = np.random.default_rng(7)
    d, m, draws = 4, 6, 1000
    x = directions(d) * 1.3
    for kind, norms in itertools.product(
        ("orthogonal", "iid"), ("stratified", "sqrt_d", "quantile")
    ):
        count = 500 if norms in ("stratified", "quantile") else draws
        make_projection = [
            kn.random_projection(m, d, kind=kind, norms=norms, rng=rng) for _ in range(count)
        ]
        values = estimates(make_projection, "positive", x, x)
        mean = np.exp((x * x).sum(-1))
        if norms != "stratified":
            mean, var = kn.softmax_kernel_moments(x, x, m, orthogonal=False, norms=norms)
            assert np.all(mean < np.exp((x * x).sum(-1)))
            if kind == "iid":
                assert np.all(np.abs(values.var(0) / var - 1) < 0.25)
        z = (values.mean(0) - mean) / (values.std(0) / np.sqrt(count))
        assert np.all(np.abs(z) < 5), (kind, norms, z)
    for features in ("plus", "sderf"):
        params = kn.favor_params(x, x, features)
        w = [kn.random_projection(m, d, kind="iid", rng=rng) for _ in range(draws)]
        values = np.array(
            [
                np.diagonal(kn.softmax_kernel_estimate(x, x, one, features, params=params))
                for one in w
            ]
        )
        mean, var = kn.softmax_kernel_moments(
            x, x, m, features=features, orthogonal=False, params=params
        )
        z = (values.mean(0) - mean) / np.sqrt(var / draws)
        assert np.all(np.abs(z) < 5), (features, z)
        assert np.all(np.abs(values.var(0) / var - 1) < 0.3)


def test_moments_of_the_article():
    """d = 64, |s|^2 = 64: the relative variance falls from 6e27 to 1e13 with plus."""
    s = np.full(64, 1.0)
    x = s / 2
    mean, var = kn.softmax_kernel_moments(x, x, 1, orthogonal=False)
    assert 5e27 < var / mean**2 < 7e27
    params = kn.favor_params(x[None] / 64**-0.25, x[None] / 64**-0.25, "plus")
    _, less = kn.softmax_kernel_moments(x, x, 1, features="plus", orthogonal=False, params=params)
    assert 5e12 < less / mean**2 < 5e13
    for wrong in ({"features": "plus"}, {"norms": "quantile"}, {"features": "relu"}):
        with pytest.raises(ValueError, match="softmax_kernel_moments: "):
            kn.softmax_kernel_moments(x, x, 4, **wrong)


def test_favor_params(rng):
    q, k = rng.normal(size=(2, 5, 3)), rng.normal(size=(2, 7, 3))
    x, y = (z.reshape(-1, 3) / 3**0.25 for z in (q, k))
    s = (x[:, None] + y).reshape(-1, 3)
    t, d = (s * s).sum(-1).mean(), 3
    rho = (np.sqrt((2 * t + d) ** 2 + 8 * d * t) - 2 * t - d) / (4 * t)
    got = kn.favor_params(q, k, "plus")
    np.testing.assert_allclose(got.a, (1 - 1 / rho) / 8, rtol=1e-12)
    got = kn.favor_params(q, k, "sderf")
    values, rotation = np.linalg.eigh(s.T @ s / len(s))
    np.testing.assert_allclose(
        got.a, (1 - 2 * values - np.sqrt((2 * values + 1) ** 2 + 8 * values)) / 16, rtol=1e-10
    )
    np.testing.assert_allclose(np.abs(np.diagonal(got.rotation.T @ rotation)), 1, rtol=1e-9)
    assert kn.favor_params(np.zeros((1, 3)), np.zeros((1, 3)), "plus").a == 0
    mask = np.arange(7) < 4
    masked = kn.favor_params(q, np.where(mask[:, None], k, nan), "plus", key_mask=mask)
    np.testing.assert_allclose(masked.a, kn.favor_params(q, k[:, :4], "plus").a, rtol=1e-12)


def test_favor_attention_object(rng):
    layer = kn.FavorAttention(4, 16, seed=3, dtype=np.float64)
    x = rng.normal(size=(5, 4))
    first = layer.projection
    np.testing.assert_array_equal(layer(x, x, x), kn.favor_attention(x, x, x, first))
    for a, b in zip(layer.vjp(x, x, x, x), kn.favor_attention_vjp(x, x, x, x, first), strict=True):
        np.testing.assert_array_equal(a, b)
    layer.redraw()
    assert not np.array_equal(layer.projection, first)
    again = kn.FavorAttention(4, 16, seed=3, dtype=np.float64)
    again.redraw()
    np.testing.assert_array_equal(again.projection, layer.projection)


def test_trig_features_of_large_angles(backend, rng):
    """Angles of any size, as exact as their rounding lets them be"""
    for dtype in (np.dtype(np.float64), np.dtype(np.float32)):
        w = np.concatenate([10.0 ** rng.uniform(-6, 9, 120), np.arange(136.0) * np.pi / 4])
        w = (w * rng.choice([-1, 1], w.size)).astype(dtype)
        x = np.ones((1, 1), dtype)
        got = backend(kn.feature_map, x, "favor_trig", projection=w[:, None], input_scale=1.0)
        got = got[0] * np.sqrt(w.size) / np.exp(0.5)
        exact = w.astype(np.longdouble)
        want = np.concatenate([np.cos(exact), np.sin(exact)])
        assert np.max(np.abs(got - want)) <= 16 * unit_of(dtype)
        w[3] = inf
        got = backend(kn.feature_map, x, "favor_trig", projection=w[:, None], input_scale=1.0)
        assert np.array_equal(np.isnan(got[0]), np.tile(~np.isfinite(w), 2))


def test_feature_map(backend, rng):
    for kernel in KERNELS:
        x = rng.normal(size=(5, 3))
        options = options_of(kernel, rng, 3, np.float64)
        scale = 3**-0.25 if kernel.startswith("favor") else 1.0
        for query in (True, False):
            got = backend(kn.feature_map, x, is_query=query, **options)
            want = oracle.features(
                kernel,
                wide(x),
                options.get("projection"),
                options.get("params"),
                scale=scale,
                query=query,
            ).astype(float)
            np.testing.assert_allclose(got, want, rtol=1e-12)
            if kernel == "taylor2":
                t = x @ x.T
                np.testing.assert_allclose(got @ got.T, 1 + t + t * t / 2, rtol=1e-12)


def test_pitfalls_of_public_implementations():
    """An epsilon inside features drowns small ones; ours needs none."""
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 64, 64)) * 2
    v = rng.normal(size=(64, 8))
    w = kn.random_projection(64, 64, rng=1)
    x, y = q / 64**0.25, k / 64**0.25
    with_eps = [
        np.exp(z @ w.T - (z * z).sum(-1, keepdims=True) / 2 - (z @ w.T).max()) + 1e-6
        for z in (x, y)
    ]
    phi, psi = with_eps
    biased = phi @ (psi.T @ v) / (phi @ psi.sum(0))[:, None]
    assert np.abs(biased - v.mean(0)).max() < 0.05  # the plain mean: all is lost
    exact = oracle.linear(wide(q), wide(k), wide(v), kernel="favor_positive", projection=w)
    np.testing.assert_allclose(kn.favor_attention(q, k, v, w), exact.astype(float), atol=1e-10)


# --- Recurrent cells, beams ---


def cell_arguments(rng, gates, d=3, h=4, loop=()):
    x, state = rng.normal(size=(*loop, d)), rng.normal(size=(*loop, h))
    weights = rng.normal(size=(gates * h, d)), rng.normal(size=(gates * h, h))
    return x, state, *weights, rng.normal(size=gates * h)


def numeric_jacobian(function, state):
    """Central differences of function(state) -> vector"""
    step, columns = 1e-6, []
    for i in range(len(state)):
        move = np.zeros(len(state))
        move[i] = step
        columns.append((function(state + move) - function(state - move)) / (2 * step))
    return np.stack(columns, axis=-1)


def test_lstm(rng):
    x, h, w, u, b = cell_arguments(rng, 4)
    c = rng.normal(size=4)
    torch_like = kn.lstm_cell(x, h, c, w, u, b, gate_order="ifgo")
    blocks = {
        name: (w[i * 4 : i * 4 + 4], u[i * 4 : i * 4 + 4], b[i * 4 : i * 4 + 4])
        for i, name in enumerate("ifgo")
    }
    for order in ("iofc", "fioc", "ogif"):
        parts = [blocks[name.replace("c", "g")] for name in order]
        moved = [np.concatenate(part) for part in zip(*parts, strict=True)]
        for got, want in zip(
            kn.lstm_cell(x, h, c, *moved, gate_order=order), torch_like, strict=True
        ):
            np.testing.assert_allclose(got, want, rtol=1e-14)
        np.testing.assert_allclose(
            kn.lstm_jacobian(x, h, c, *moved, gate_order=order),
            kn.lstm_jacobian(x, h, c, w, u, b),
            rtol=1e-13,
        )

    def both(state):
        return np.concatenate(kn.lstm_cell(x, state[:4], state[4:], w, u, b))

    want = numeric_jacobian(both, np.concatenate([h, c]))
    np.testing.assert_allclose(kn.lstm_jacobian(x, h, c, w, u, b), want, atol=1e-8)
    with pytest.raises(ValueError, match="gate_order must"):
        kn.lstm_cell(x, h, c, w, u, b, gate_order="ifg")


def test_lstm_is_torch(rng):
    torch = pytest.importorskip("torch")
    x, h, w, u, b = cell_arguments(rng, 4, loop=(2,))
    c = rng.normal(size=(2, 4))
    cell = torch.nn.LSTMCell(3, 4, dtype=torch.float64)
    with torch.no_grad():
        for name, value in (("weight_ih", w), ("weight_hh", u), ("bias_ih", b), ("bias_hh", 0 * b)):
            getattr(cell, name).copy_(torch.from_numpy(value))
        want = cell(torch.from_numpy(x), (torch.from_numpy(h), torch.from_numpy(c)))
    for got, one in zip(kn.lstm_cell(x, h, c, w, u, b), want, strict=True):
        np.testing.assert_allclose(got, one.numpy(), atol=1e-13)


def test_gru(rng):
    x, h, w, u, b = cell_arguments(rng, 3)
    c = rng.normal(size=12)
    for options in ({}, {"update": "old"}, {"reset_after": True, "c": c}, {"reset_after": True}):
        want = numeric_jacobian(partial(lambda o, s: kn.gru_cell(x, s, w, u, b, **o), options), h)
        np.testing.assert_allclose(kn.gru_jacobian(x, h, w, u, b, **options), want, atol=1e-8)
    with pytest.raises(ValueError, match="update must"):
        kn.gru_cell(x, h, w, u, b, update="both")
    with pytest.raises(ValueError, match="c must be None"):
        kn.gru_cell(x, h, w, u, b, c=c)


def test_gru_is_torch(rng):
    torch = pytest.importorskip("torch")
    x, h, w, u, b = cell_arguments(rng, 3)
    c = rng.normal(size=12)
    cell = torch.nn.GRUCell(3, 4, dtype=torch.float64)

    def swapped(a):  # PyTorch has r, z, n
        return torch.from_numpy(np.concatenate([a[4:8], a[:4], a[8:]]))

    with torch.no_grad():
        for name, value in (("weight_ih", w), ("weight_hh", u), ("bias_ih", b), ("bias_hh", c)):
            getattr(cell, name).copy_(swapped(value))
        want = cell(torch.from_numpy(x)[None], torch.from_numpy(h)[None])[0]
    got = kn.gru_cell(x, h, w, u, b, c=c, reset_after=True, update="old")
    np.testing.assert_allclose(got, want.numpy(), atol=1e-13)


def test_rnn(rng):
    x, h, w, u, b = cell_arguments(rng, 1)
    want = numeric_jacobian(lambda s: kn.rnn_cell(x, s, w, u, b), h)
    np.testing.assert_allclose(kn.rnn_jacobian(x, h, w, u, b), want, atol=1e-8)
    out = np.empty(4)
    assert kn.rnn_cell(x, h, w, u, b, out=out) is out
    # The article: |x (1 - tanh^2 x)| < 0.45
    t = np.linspace(0, 4, 400001)
    values = t * (1 - np.tanh(t) ** 2)
    assert abs(values.max() - 0.4477432) < 1e-7 and abs(t[values.argmax()] - 0.7717023) < 1e-5


def test_chain_of_jacobians(rng):
    steps = rng.normal(size=(2000, 3, 3)) * 0.2
    for norm in ("fro", "spectral"):
        logs = kn.jacobian_chain_lognorm(steps, norm=norm)
        product = np.linalg.multi_dot(steps[3::-1])
        want = np.log(np.linalg.norm(product, 2 if norm == "spectral" else None))
        np.testing.assert_allclose(logs[3], want, rtol=1e-12)
        assert np.all(np.isfinite(logs)) and logs[-1] < -1000
    gates = rng.random((5, 3))
    small = steps[:5] + np.stack([np.diag(g) for g in gates])
    whole, main, rest = kn.jacobian_chain_lognorm(small, main=gates)
    product = np.linalg.multi_dot(small[::-1])
    np.testing.assert_allclose(whole[-1], np.log(np.linalg.norm(product)), rtol=1e-12)
    np.testing.assert_allclose(main[-1], np.log(np.linalg.norm(gates.prod(0))), rtol=1e-12)
    other = product - np.diag(gates.prod(0))
    np.testing.assert_allclose(rest[-1], np.log(np.linalg.norm(other)), rtol=1e-10)
    assert np.all(np.isneginf(kn.jacobian_chain_lognorm(np.zeros((2, 1, 1)))))


def test_beam_step(rng):
    scores, logp = rng.normal(size=4), rng.normal(size=(4, 6))
    best, parent, token = kn.beam_step(scores, logp, 5)
    total = (scores[:, None] + logp).ravel()
    order = np.argsort(-total, kind="stable")[:5]
    np.testing.assert_array_equal(best, total[order])
    np.testing.assert_array_equal(parent * 6 + token, order)
    _, parent, token = kn.beam_step(np.zeros(2), np.zeros((2, 3)), 4)
    assert parent.tolist() == [0, 0, 0, 1] and token.tolist() == [0, 1, 2, 0]
    assert not np.isnan(kn.beam_step(np.array([0.0, nan]), np.zeros((2, 2)), 2)[0]).any()
    with pytest.raises(ValueError, match="beam must be at most"):
        kn.beam_step(scores, logp, 25)


@pytest.mark.parametrize("name", kn.attention.__all__)
def test_public_names(name):
    thing = getattr(kn.attention, name)
    assert getattr(kn, name) is thing
    if not inspect.isfunction(thing):
        return
    for parameter in inspect.signature(thing).parameters.values():
        assert parameter.annotation is not parameter.empty
    for section in ("Parameters", "Returns", "Raises", "Notes", "Source: ", "Examples"):
        assert section in thing.__doc__, section


def test_bfloat16_probabilities_stay_wide(rng):
    """Article 11371: rounded to bfloat16 before the sum, equal probabilities are biased."""
    bfloat16 = dtype_of("bfloat16")
    v = (1 + rng.random((64, 4))).astype(bfloat16)
    q = np.zeros((1, 4), bfloat16)
    k = np.zeros((64, 4), bfloat16)
    got = kn.softmax_attention(q, k, v).astype(np.float64)
    want = v.astype(np.float64).mean(0, keepdims=True)
    assert np.all(np.abs(got - want) <= 2.0**-8 * want)


# --- The engine ---


def test_threads_do_not_change_bits(threads, rng):
    """One head is cut into parts by its size alone."""
    q, k, v = (rng.standard_normal((1, 1500, 8), dtype=np.float32) for _ in range(3))
    w = kn.random_projection(16, 8, rng=0, dtype=np.float32)
    for causal in (False, True):
        calls = (
            lambda c: kn.softmax_attention(q, k, v, causal=c),
            lambda c: kn.favor_attention(q, k, v, w, causal=c),
            lambda c: kn.linear_attention(q, k, v, causal=c, return_state=True)[1].s,
            lambda c: np.stack(kn.softmax_attention_vjp(v, q, k, v, causal=c)),
            lambda c: np.stack(kn.favor_attention_vjp(v, q, k, v, w, causal=c)),
            lambda c: kn.linear_attention(q, k, v, kernel="efficient", causal=c),
            lambda c: np.stack(kn.linear_attention_vjp(v, q, k, v, kernel="efficient", causal=c)),
            lambda c: kn.favor_attention(q, k, v, w, causal=c, exclude_self=True),
            lambda c: np.stack(kn.favor_attention_vjp(v, q, k, v, w, causal=c, exclude_self=True)),
        )
        for call in calls:
            found = []
            for count in (1, 2, 3):
                kn.set_num_threads(count)
                found.append(call(causal))
            assert all(np.array_equal(found[0], one) for one in found[1:])


def test_parts_of_a_long_head(backend, rng):
    """Parts begin with the state before them: as the reference, which has no parts."""
    n, m = 2100, 2300
    q, k = rng.normal(size=(1, n, 4)), rng.normal(size=(1, m, 4)) * 3
    v, g = rng.normal(size=(1, m, 3)), rng.normal(size=(1, n, 3))
    for options in (
        {"kernel": "exp"},
        {"kernel": "relu", "log_decay": -rng.random(m)},
        {"kernel": "exp", "log_decay": -40 * rng.random(m) ** 8, "key_mask": rng.random(m) < 0.9},
        {"kernel": "elu1", "offset": -900, "exclude_self": True},
        {"kernel": "elu1", "offset": 1700},
        {"kernel": "efficient", "log_decay": -40 * rng.random(m) ** 8},
        {"kernel": "efficient", "causal": False, "key_weight": rng.random(m)},
        {"kernel": "exp", "causal": False, "exclude_self": True},
        {"kernel": "relu", "causal": False, "exclude_self": True, "offset": -700},
        {"kernel": "efficient", "causal": False, "exclude_self": True, "offset": 900},
    ):
        options = {"causal": True, **options}
        got = backend(kn.linear_attention, q, k, v, return_state=True, **options)
        want = kn.linear_attention(q, k, v, return_state=True, backend="reference", **options)
        np.testing.assert_allclose(got[0], want[0], atol=1e-10)
        np.testing.assert_allclose(got[1].z, want[1].z * np.exp(want[1].c - got[1].c), rtol=1e-9)
        slopes = backend(kn.linear_attention_vjp, g, q, k, v, **options)
        wanted = kn.linear_attention_vjp(g, q, k, v, backend="reference", **options)
        for one, other in zip(slopes, wanted, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-9)


@pytest.mark.parametrize("kernel", ["exp", "efficient", "softmax_d", "cosine", "favor_trig"])
def test_all_but_one_of_many_keys(kernel, backend, rng):
    """Several chunks, and chunks of chunks: none sees its own key, however large that is."""
    n, m, d = 1100, 1130, 4
    q, k, v = make(rng, (5, n), d, 3, np.dtype(np.float64), m)
    k[0, 40] += 500
    k[1, 100:110, 1] += 900 * np.arange(10)
    k[2, m - 1] *= 1000
    v[3, m // 2] = 1e6
    g = rng.normal(size=(5, n, 3))
    more = {"key_weight": rng.random(m) * (rng.random(m) < 0.9)}
    v[:, more["key_weight"] == 0] = nan
    if kernel == "favor_trig":  # exact only while its denominators are not near 0
        q, k = 0.1 * q, 0.1 * np.clip(k, -2, 2)
    options = {**options_of(kernel, rng, d, np.float64), "exclude_self": True, **more}
    size = log_size(kernel, q.reshape(-1, d), k.reshape(-1, d), options)
    for offset, chunk in ((None, 64), (-30, 64), (90, 7)):
        given = {**options, "offset": offset, "chunk": chunk}
        got = backend(kn.linear_attention, q, k, v, return_state=True, **given)
        want = kn.linear_attention(q, k, v, return_state=True, backend="reference", **given)
        large = np.nanmax(np.abs(v), axis=(1, 2))
        for head in range(5):
            close(got[0][head], want[0][head], large[head], np.dtype(np.float64), size)
        np.testing.assert_allclose(got[1].z, want[1].z * np.exp(want[1].c - got[1].c), rtol=1e-9)
        slopes = backend(kn.linear_attention_vjp, g, q, k, v, **given)
        wanted = kn.linear_attention_vjp(g, q, k, v, backend="reference", **given)
        for one, other in zip(slopes, wanted, strict=True):
            for head in range(5):
                if one.ndim == 1 and head:
                    break
                mine, plain = (one, other) if one.ndim == 1 else (one[head], other[head])
                scale = np.abs(g).max() * np.max(large if one.ndim == 1 else large[head])
                close(mine, plain, scale * max(1, np.abs(k).max()), np.dtype(np.float64), size)


@pytest.mark.parametrize(
    ("heads", "n", "m", "options"),
    [
        (5, 4500, 4500, {}),  # windows, and windows of windows
        (1, 1500, 1500, {"chunk": 50}),  # parts of a head
        (2, 1500, 700, {"log_decay": True, "state": True}),
        (1, 700, 1500, {"offset": 790, "exclude_self": True, "key_weight": True}),
        (4, 900, 300, {"offset": -500, "key_weight": True, "state": True}),
        (4, 300, 900, {"offset": 1700, "log_decay": True}),
    ],
)
def test_efficient_gradients_by_windows(heads, n, m, options, backend, rng):
    """Numbers of each query and feature are computed again, wherever windows begin and end."""
    q, k, v = make(rng, (heads, n), 3, 2, np.dtype(np.float64), m)
    k[-1, m // 2 :] += 300  # units rise on the way
    g = rng.normal(size=(heads, n, 2))
    options = {"kernel": "efficient", "causal": True, **options}
    if options.pop("state", False):
        before = make(rng, (heads, 6), 3, 2, np.dtype(np.float64))
        options["initial_state"] = kn.linear_attention(
            *before, kernel="efficient", return_state=True
        )[1]
    if "key_weight" in options:
        options["key_weight"] = rng.random((heads, m)) * (rng.random(m) < 0.9)
    if "log_decay" in options:
        options["log_decay"] = -(rng.random((heads, m)) ** 8)
    got = backend(kn.linear_attention_vjp, g, q, k, v, **options)
    want = kn.linear_attention_vjp(g, q, k, v, backend="reference", **options)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-10 * np.abs(other).max())


MEMORY = """
import resource
import sys
import numpy as np
import kexue_native as kn

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

kernel, backend, n, d = *sys.argv[1:], 200_000, 8
kn.set_num_threads(2)
rng = np.random.default_rng(0)
x = rng.standard_normal((3, 1, n, d), dtype=np.float32)
options = {"kernel": kernel, "causal": True, "backend": backend}
if kernel == "favor_positive":
    options["projection"] = kn.random_projection(64, d, rng=0, dtype=np.float32)
kn.linear_attention_vjp(x[0, 0, :9], *x[..., :9, :], grads=tuple(x[..., 9:18, :]), **options)
grads, g = tuple(np.ones_like(x)), x[2] + 1
before = peak()
kn.linear_attention(*x, out=grads[0], **options)
print(peak() - before)
kn.linear_attention_vjp(g, *x, grads=grads, **options)
print(peak() - before)
"""


@pytest.mark.parametrize("kernel", ["efficient", "elu1", "favor_positive"])
def test_memory_is_that_of_a_few_states(kernel, backend):
    """And three numbers a query for gradients: what each query and feature need is not kept."""
    if not backend.name.startswith("cpu"):
        pytest.skip("promised for CPU kernels: the reference and CUDA keep whole arrays on the way")
    pytest.importorskip("resource")
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, kernel, backend.name], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    forward, both = (float(x) for x in done.stdout.split())
    # Panels of two threads, 64 x 64 numbers each, and states of at most 64 x 9: less than 1 MiB. A
    # number for each query and feature would be 6 or 49 MiB.
    assert forward < 2, f"{forward} MiB more"
    assert both < 2 + 3 * 4 * 200_000 / 2**20, f"{both} MiB more"


@pytest.mark.slow
def test_a_million_positions(rng):
    """In memory for a few states and three numbers a query, causal and with gradients."""
    resource = pytest.importorskip("resource")
    n, d = 1_000_000, 16
    q, k, v = (rng.standard_normal((1, n, d), dtype=np.float32) for _ in range(3))
    w = kn.random_projection(256, d, rng=0, dtype=np.float32)
    out = np.zeros_like(v)
    grads = tuple(np.zeros_like(x) for x in (q, k, v))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    kn.favor_attention(q, k, v, w, causal=True, out=out)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 32 * 1024  # KiB
    kn.favor_attention_vjp(v, q, k, v, w, causal=True, grads=grads)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < (32 + 3 * 4 * n / 2**20 * 1.5) * 1024
    assert np.all(np.isfinite(out)) and all(np.all(np.isfinite(x)) for x in grads)
    head = kn.favor_attention(q[:, :500], k[:, :500], v[:, :500], w, causal=True)
    np.testing.assert_allclose(out[:, :500], head, atol=2e-5)


def test_hostile_arguments():
    """Whatever comes: a result of the right shape, or one sentence of the right kind of error."""
    rng = np.random.default_rng(0)
    types = [np.float64, np.float32, np.float16, np.int32, bool, complex, object]

    def array(shape):
        a = rng.normal(size=shape)
        kind = rng.integers(8)
        if kind == 0:
            a = a[..., ::-1]
        elif kind == 1 and a.size:
            a.flat[rng.integers(a.size)] = rng.choice([nan, inf, -inf, 1e300, 0.0])
        elif kind == 2:
            a = np.broadcast_to(a[..., :1], a.shape) if a.ndim else a
        chosen = types[rng.integers(len(types))] if rng.random() < 0.1 else np.float64
        with np.errstate(all="ignore"):
            return a.astype(chosen)

    def sizes(*core):
        loop = [(), (2,), (1,), (2, 1), (3,)][rng.integers(5) if rng.random() < 0.2 else 0]
        return (*loop, *core)

    accepted = 0
    for _ in range(400):
        n, m, d, width = rng.integers(0, 4, 4)
        q, k, v = array(sizes(n, d)), array(sizes(m, d)), array(sizes(m, width))
        options = {"causal": bool(rng.integers(2)), "exclude_self": bool(rng.integers(2))}
        if rng.random() < 0.3:
            options["offset"] = [0, -2, 5, 1.5, None, 10**6][rng.integers(6)]
        if rng.random() < 0.3:
            options["key_mask"] = rng.random(sizes(m)) < 0.5
        function = kn.softmax_attention
        if rng.random() < 0.6:
            function = kn.linear_attention
            options["kernel"] = [*KERNELS[:8], "no", 3][rng.integers(10)]
            if rng.random() < 0.2:
                options["key_weight"] = array(sizes(m))
            if rng.random() < 0.2:
                options["log_decay"] = -np.abs(rng.normal(size=sizes(m)))
            if rng.random() < 0.2:
                options["chunk"] = [1, 3, 1000, 0][rng.integers(4)]
        elif rng.random() < 0.3:
            options["scale"] = [2, "entropy", "other", nan, array(sizes(n))][rng.integers(5)]
        try:
            with np.errstate(all="ignore"):
                out = function(q, k, v, **options)
                slopes = getattr(kn, f"{function.__name__}_vjp")(out, q, k, v, **options)
        except (TypeError, ValueError) as error:
            text = str(error)
            assert text.startswith(function.__name__) and "\n" not in text, text
            assert " must " in text and len(text) < 300, text
            continue
        accepted += 1
        assert out.shape[-2:] == (n, width)
        assert [s.shape for s in slopes[:3]] == [np.shape(x) for x in (q, k, v)]
    assert accepted > 100
