"""The general promises, applied to every entry of attention_cases.py."""

import inspect
from importlib import import_module
from importlib.util import find_spec

import numpy as np
import pytest

import attention_cases
import kexue_native as kn
from attention_cases import CASES, SIZES
from oracle import dtype_of
from test_attention import unit_of
from test_contract import (
    LAYOUTS,
    OnlyArray,
    OnlyDlpack,
    assert_untouched,
    every_other,
    frozen,
    one_sentence,
    read_only,
)

nan = np.nan
every_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
RIGHT = ("float64", "float32", "float16", "bfloat16")


def tuple_of(returned):
    return returned if isinstance(returned, tuple) else (returned,)


def run(backend, case, arrays, **options):
    """Results as a tuple; arguments stay as they are."""
    before = frozen(arrays)
    got = tuple_of(backend(case.public, **arrays, **case.fixed, **options))
    assert_untouched(arrays, before, case.id)
    return got


def agree(got, want, dtype, note=""):
    """64 u times what is summed, and the rounding of a result"""
    for mine, plain in zip(got, want, strict=True):
        mine, plain = np.asarray(mine).astype(np.longdouble), np.asarray(plain, np.longdouble)
        bound = 64 * unit_of(dtype) * 40 * max(1.0, np.max(np.abs(plain), initial=0))
        if np.dtype(dtype).itemsize == 2:
            bound = bound + np.abs(plain) * (2.0**-8 if dtype.name == "bfloat16" else 2.0**-11)
        assert mine.shape == plain.shape, note
        assert np.all(np.abs(mine - plain) <= bound), f"{note}: {np.max(np.abs(mine - plain))}"


def exact(case, arrays, **options):
    """By the reference in float64"""
    wide = {k: v if v.dtype == bool else v.astype(np.float64) for k, v in arrays.items()}
    return tuple_of(case.call(wide, backend="reference", **options))


@pytest.mark.one_level
@every_case
def test_attention_dtype_shape_and_backends(case, backend, dtype, rng):
    for variant in case.variants:
        if set(variant) & set(case.options) or (
            variant.get("normalize") is False and case.options.get("kernel") == "efficient"
        ):
            continue
        for loop, sizes in (((), SIZES), ((2, 1), {"l": 7, "s": 4, "d": 3, "v": 5})):
            arrays = case.make(rng, loop, dtype, sizes)
            got = run(backend, case, arrays, **variant)
            agree(got, exact(case, arrays, **variant), dtype, f"{variant}")
            for result, like in zip(got, case.outputs, strict=True):
                wide = arrays[like].dtype if like in case.more else dtype
                assert result.dtype == wide
                assert result.flags.c_contiguous and result.flags.writeable


@every_case
def test_attention_wrong_types(case, rng):
    arrays = case.make(rng)
    wrong = {
        "complex": lambda a: a.astype(complex),
        "object": lambda a: a.astype(object),
        "text": lambda a: np.full(a.shape, "a"),
        "date": lambda a: np.zeros(a.shape, "datetime64[s]"),
        "record": lambda a: np.zeros(a.shape, "f8,f8"),
        "masked array": np.ma.masked_array,
        "none of these": lambda a: object(),
        "string": lambda a: "text",
        "long double": lambda a: a.astype(np.longdouble),
        "None": lambda a: None,
    }
    for name in arrays:
        for kind, change in wrong.items():
            if kind == "None" and name in case.more:
                continue
            with pytest.raises(TypeError) as caught:
                case.call({**arrays, name: change(arrays[name])})
            one_sentence(caught.value, case.function, f"{name} {kind}")


@every_case
def test_attention_types_are_not_mixed(case, rng):
    arrays = case.make(rng)
    for name in list(case.arrays)[1:]:
        with pytest.raises(TypeError, match="must have the dtype of") as caught:
            case.call({**arrays, name: arrays[name].astype(np.float32)})
        one_sentence(caught.value, case.function, name)


@every_case
def test_attention_wrong_shapes(case, rng):
    arrays = case.make(rng)
    for name, letters in {**case.arrays, **case.more}.items():
        if len(arrays) > 1 and (name, "g" in arrays) != ("v", False):
            cut = arrays[name][..., :-1]
            with pytest.raises(ValueError, match=r"must have shape|must have the shape") as caught:
                case.call({**arrays, name: cut})
            one_sentence(caught.value, case.function, name)
        few = arrays[name].reshape(-1)[0]
        with pytest.raises(ValueError, match=f"must have at least {len(letters)} ax") as caught:
            case.call({**arrays, name: few})
        one_sentence(caught.value, case.function, name)


@pytest.mark.dtypes("float64", "float16")
@pytest.mark.one_level
@every_case
def test_attention_layouts(case, backend, dtype, rng):
    """In any memory, read-only and of either byte order: the same numbers."""
    arrays = case.make(rng, (2,), dtype)
    want = run(backend, case, arrays)
    for layout in LAYOUTS if backend.rows == 1 else LAYOUTS[2:5]:
        moved = {k: layout(a) for k, a in arrays.items()}
        for mine, plain in zip(run(backend, case, moved), want, strict=True):
            np.testing.assert_array_equal(mine, plain, layout.__name__)
    still = {k: np.broadcast_to(a[:1], a.shape) for k, a in arrays.items()}
    plain = {k: a.copy() for k, a in still.items()}
    for mine, whole in zip(run(backend, case, still), run(backend, case, plain), strict=True):
        np.testing.assert_array_equal(mine, whole)


@every_case
def test_attention_lists_and_other_libraries(case, rng):
    arrays = case.make(rng)
    want = tuple_of(case.call(arrays))
    others = []
    if find_spec("torch"):  # no dependency of the tests
        others.append(import_module("torch").from_numpy)
    for convert in (np.ndarray.tolist, OnlyDlpack, OnlyArray, *others):
        got = tuple_of(case.call({k: convert(a) for k, a in arrays.items()}))
        for mine, plain in zip(got, want, strict=True):
            assert isinstance(mine, np.ndarray)
            np.testing.assert_array_equal(mine, plain)


@pytest.mark.dtypes("float64", "bfloat16")
@pytest.mark.one_level
@every_case
def test_attention_out(case, backend, dtype, rng):
    """Outputs in any memory, also in an input's, are written whole and handed back."""
    arrays = case.make(rng, (2,), dtype)
    want = run(backend, case, arrays)

    def into(given, made):
        target = made[0] if len(made) == 1 else tuple(made)
        got = backend(case.public, **given, **case.fixed, **{case.target: target})
        found = tuple_of(got)
        assert backend.on_device or all(a is b for a, b in zip(found, made, strict=True))
        return found

    for layout in (np.asfortranarray, every_other, lambda a: a[::-1].copy()[::-1]):
        made = [layout(np.full_like(w, nan)) for w in want]
        for mine, plain in zip(into(arrays, made), want, strict=True):
            np.testing.assert_array_equal(mine, plain)
    for name in case.arrays:
        given = {k: a.copy() for k, a in arrays.items()}
        made = [np.full_like(w, nan) for w in want]
        for place, w in enumerate(want):
            if w.shape == given[name].shape and w.dtype == given[name].dtype:
                made[place] = given[name]
                break
        for mine, plain in zip(into(given, made), want, strict=True):
            np.testing.assert_array_equal(mine, plain, name)


@every_case
def test_attention_out_errors_leave_it_untouched(case, rng):
    arrays = case.make(rng)
    made = [np.full_like(w, 7.0) for w in tuple_of(case.call(arrays))]
    wrong = {
        "dtype": lambda a: a.astype(np.float32),
        "shape": lambda a: np.full((3, *a.shape), 7.0),
        "list": lambda a: a.tolist(),
        "read-only": read_only,
        "text": lambda a: "out",
    }
    for place in range(len(made)):
        for kind, change in wrong.items():
            given = [a.copy() for a in made]
            given[place] = change(given[place])
            target = given[0] if len(given) == 1 else tuple(given)
            with pytest.raises((TypeError, ValueError)) as caught:
                case.call(arrays, **{case.target: target})
            one_sentence(caught.value, case.function, kind)
            for a in given:
                assert not isinstance(a, np.ndarray) or np.all(a == 7)
    if len(made) > 1:
        with pytest.raises((TypeError, ValueError)) as caught:
            case.call(arrays, **{case.target: made[0]})
        one_sentence(caught.value, case.function, "one of several")


@every_case
def test_attention_backend_argument(case, rng):
    arrays = case.make(rng)
    with pytest.raises(ValueError, match="backend must be one of") as caught:
        case.call(arrays, backend="gpu")
    one_sentence(caught.value, case.function)
    with pytest.raises(RuntimeError, match="backend 'cuda' cannot be used"):
        case.call(arrays, backend="cuda")


@pytest.mark.one_level
@every_case
def test_attention_nan_is_not_lost(case, backend, dtype, rng):
    """A nan in what all rows see reaches every result of that row of the batch, and no other."""
    name = next(iter(case.arrays))
    arrays = case.make(rng, (3,), dtype)
    want = run(backend, case, arrays)
    broken = {k: a.copy() for k, a in arrays.items()}
    broken[name][1] = nan
    got = run(backend, case, broken)
    every = np.any if case.options.get("kernel") == "relu" else np.all  # whose slope may be 0
    assert every(np.isnan(got[0][1].astype(float)))
    for mine, plain in zip(got, want, strict=True):
        for row in (0, 2):
            np.testing.assert_array_equal(mine[row], plain[row])


@pytest.mark.parametrize(
    "name", ["favor_attention", "favor_attention_vjp", "linear_attention_prefill"]
)
def test_attention_options_of_another_function(name, rng):
    arrays = next(c for c in CASES if c.function.endswith("_vjp") is name.endswith("_vjp")).make(
        rng
    )
    if name.startswith("favor"):
        arrays["projection"] = np.ones((2, SIZES["d"]))
    for option in ("kernl", "kernel" if name.startswith("favor") else "causal"):
        with pytest.raises(TypeError, match="options must be those of linear_attention") as caught:
            getattr(kn, name)(**arrays, **{option: 1})
        one_sentence(caught.value, name, option)


def test_attention_every_function_with_kernels_is_covered():
    functions = {n for n in kn.attention.__all__ if inspect.isfunction(getattr(kn.attention, n))}
    chosen = {n for n in functions if "backend : str" in (inspect.getdoc(getattr(kn, n)) or "")}
    # Steps are compared with calls in test_attention.py.
    assert chosen - {"linear_attention_step"} <= {c.function for c in CASES}


@pytest.mark.parametrize("name", kn.attention.__all__)
def test_attention_public_signature(name):
    f = getattr(kn.attention, name)
    assert getattr(kn, name) is f
    if not inspect.isfunction(f):
        return
    signature = inspect.signature(f)
    for parameter in signature.parameters.values():
        assert parameter.annotation is not parameter.empty, parameter
        if parameter.name in ("out", "grads", "backend") and name != "softmax_attention_vjp":
            assert parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.default is None
    assert signature.return_annotation is not signature.empty


SIGNATURES = {
    "softmax_attention": "q k v * scale=None causal=False exclude_self=False offset=None "
    "key_mask=None bias=None return_lse=False",
    "softmax_attention_vjp": "g q k v * out=None lse=None scale=None causal=False "
    "exclude_self=False offset=None key_mask=None bias=None",
    "linear_attention": "q k v * kernel='elu1' causal=False exclude_self=False offset=None "
    "key_mask=None key_weight=None log_decay=None normalize=True eps=0.0 initial_state=None "
    "return_state=False chunk=None projection=None",
    "linear_attention_vjp": "g q k v * kernel='elu1' causal=False exclude_self=False offset=None "
    "key_mask=None key_weight=None log_decay=None normalize=True eps=0.0 initial_state=None "
    "chunk=None projection=None",
    "feature_map": "x kernel='elu1' * projection=None",
    "random_projection": "m d * kind='orthogonal' norms='chi' rng=None dtype=",
    "favor_attention": "q k v projection * features='positive' params=None",
    "favor_params": "q k features * input_scale=None key_mask=None",
    "softmax_kernel_estimate": "x y projection features='positive'",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_attention_signature_of_the_specification(name):
    words = []
    for p in inspect.signature(getattr(kn, name)).parameters.values():
        if p.kind is p.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        words.append(p.name if p.default is p.empty else f"{p.name}={p.default!r}")
    assert " ".join(words).startswith(SIGNATURES[name])


def test_attention_cases_make_what_they_say(rng):
    for case in CASES:
        for name in RIGHT:
            arrays = case.make(rng, (2,), dtype_of(name))
            shapes = case.shapes(arrays, (2,))
            assert [np.shape(r) for r in tuple_of(case.call(arrays))] == shapes
    assert len({c.id for c in CASES}) == len(CASES)
    assert set(attention_cases.SIZES) == set("lsdv")
