"""The general promises, applied to every entry of cases.py."""

import ast
import importlib
import inspect
import itertools
import pkgutil

import numpy as np
import pytest

import cases
import kexue_native as kn
import oracle
from cases import ALL, CASES, JENSEN
from kexue_native import _backends

inf, nan = np.inf, np.nan

every_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
axis_case = pytest.mark.parametrize(
    "case", [c for c in CASES if not c.elementwise], ids=lambda c: c.id
)
masked_case = pytest.mark.parametrize("case", [c for c in CASES if c.mask], ids=lambda c: c.id)


def frozen(arrays):
    """Copies for a later comparison, byte by byte."""
    return {k: np.array(v, copy=True) for k, v in arrays.items()}


def same(got, want, note=""):
    """Equal as numbers, nan with nan, whatever the type."""
    got, want = np.asarray(got, np.longdouble), np.asarray(want, np.longdouble)
    np.testing.assert_array_equal(got, want, err_msg=note)


def assert_untouched(arrays, before, note=""):
    for k, v in arrays.items():
        assert np.asarray(v).tobytes() == before[k].tobytes(), f"{note}: {k} was modified"


def run(backend, case, arrays, note="", options=None, **call):
    """Call with read-only arguments on the last axis and check the accuracy of the result."""
    options = options or {}
    call.setdefault("axis", -1)
    before = frozen(arrays)
    got = backend.call(case, arrays, **call, **options)
    assert_untouched(arrays, before, note)
    backend.check(case, got, arrays, note=note, **options)
    return got


SHAPED = ("g", "t", "targets")  # arrays that are not broadcast

# --- Types and shapes ---


@pytest.mark.one_level
@every_case
def test_dtype_and_shape(case, backend, dtype, rng):
    variants = itertools.cycle(case.variants)
    for shape in ((5,), (3, 1), (2, 3, 7), (4, 33), (2, 260)):
        if shape[-1] * case.cost > 3000:
            continue  # the reference takes too long for such rows
        for mask, options in zip(sorted({False, case.mask}), variants):
            arrays = case.make(rng, shape, dtype, mask=mask)
            got = run(backend, case, arrays, f"{shape} {options} mask {mask}", options)
            for r in case.results(got):
                assert r.dtype == dtype and r.flags.c_contiguous
                assert r.flags.writeable or not r.shape


@pytest.mark.one_level
@every_case
def test_scalar_results_are_numpy_scalars(case, backend, dtype, rng):
    got = backend.call(case, case.make(rng, (4,), dtype), axis=-1)
    for r, core in zip(got if isinstance(got, tuple) else (got,), case.outputs, strict=True):
        if not core and not backend.on_device:
            assert type(r) is dtype.type


@pytest.mark.one_level
@every_case
def test_integers_and_bool_become_float64_first(case, backend, rng):
    for integer in "bBhHiIlLqQ?":
        info = (0, 2) if integer == "?" else (0, 100) if integer.isupper() else (-100, 100)
        arrays = {
            k: rng.integers(*info, np.shape(v)).astype(integer)
            for k, v in case.make(rng, (3, 6)).items()
        }
        if case.simplex:
            arrays["p"] = np.eye(3, 6).astype(integer)
        if "targets" in arrays:
            arrays["targets"] = rng.integers(0, 2, (3, 6)).astype(integer)
        for k in ("b", "weights"):
            if k in arrays:
                arrays[k] = np.abs(arrays[k].astype("h")).astype(integer)
        got = run(backend, case, arrays, integer)
        want = backend.call(case, {k: v.astype(np.float64) for k, v in arrays.items()}, axis=-1)
        for r, s in zip(case.results(got), case.results(want), strict=True):
            assert r.dtype == np.float64
            same(r, s)


@pytest.mark.one_level
@every_case
def test_mixed_types_promote_as_numpy(case, backend, rng):
    if len(case.arrays) == 1:
        pytest.skip("a single array")
    for first, second in itertools.permutations((np.float16, np.float32, np.float64, np.int8), 2):
        arrays = case.make(rng, (3, 5))
        arrays = {k: np.asarray(v).astype(np.float16) for k, v in arrays.items()}
        if case.simplex:
            arrays["p"] = np.tile([0.5, 0.25, 0.25, 0, 0], (3, 1))
        arrays = {k: v.astype(first if k == case.main else second) for k, v in arrays.items()}
        if case.simplex and second is np.int8:
            arrays["p"] = np.eye(3, 5).astype(np.int8)
        wanted = cases.result_type(arrays)  # targets have no part in it
        promoted = {k: v if k == "targets" else v.astype(wanted) for k, v in arrays.items()}
        got = backend.call(case, arrays, axis=-1)
        backend.check(case, got, promoted, dtype=wanted, note=f"{first.__name__} {second.__name__}")


@pytest.mark.dtypes("float64", "float16")
@pytest.mark.one_level
@every_case
def test_python_numbers_are_weak(case, backend, dtype, rng):
    """A Python number does not widen the result; what must have a shape it cannot be."""
    for name, core in zip(case.arrays[1:], case.cores[1:], strict=True):
        if name == case.simplex:  # one number is no distribution
            continue
        arrays = case.make(rng, (4,), dtype)
        if core and name in SHAPED and name not in case.loose:
            with pytest.raises(ValueError, match=f": {name} must have the shape of ") as caught:
                backend.call(case, {**arrays, name: 1.0}, axis=-1)
            one_sentence(caught.value, case.function, name)
            continue
        got = backend.call(case, {**arrays, name: 1.5}, axis=-1)
        full = {**arrays, name: np.full(np.shape(arrays[name]), 1.5, dtype)}
        backend.check(case, got, full, dtype=dtype, note=name)


@every_case
def test_lists_and_numbers(case, rng):
    arrays = case.make(rng, (2, 5))
    listed = {k: np.asarray(v).tolist() for k, v in arrays.items()}
    want, got = case.call(arrays, axis=-1), case.call(listed, axis=-1)
    for w, g in zip(case.results(want), case.results(got), strict=True):
        same(w, g)
        assert g.dtype == np.float64
    one = {k: 1.0 if k in (case.simplex, "targets") else 2 for k in case.arrays}
    for result in case.results(case.call(one, axis=-1)):
        assert result.shape == () and result.dtype == np.float64
    tuples = {k: tuple(map(tuple, v)) if np.ndim(v) == 2 else tuple(v) for k, v in listed.items()}
    for w, g in zip(case.results(want), case.results(case.call(tuples, axis=-1)), strict=True):
        same(w, g)


@every_case
@pytest.mark.parametrize("library", ["torch", "jax.numpy", "dlpack only", "__array__ only"])
def test_arrays_of_other_libraries(case, library, rng):
    arrays = case.make(rng, (3, 6), np.float32, mask=case.mask)
    if library == "torch":
        torch = pytest.importorskip("torch")
        convert = torch.from_numpy
    elif library == "jax.numpy":
        convert = pytest.importorskip("jax.numpy").asarray
    elif library == "dlpack only":
        convert = OnlyDlpack
    else:
        convert = OnlyArray
    want = case.call(arrays, axis=-1)
    got = case.call({k: convert(v) for k, v in arrays.items()}, axis=-1)
    for w, g, raw in zip(
        case.results(want),
        case.results(got),
        got if isinstance(got, tuple) else (got,),
        strict=True,
    ):
        assert isinstance(raw, np.ndarray | np.generic)
        same(w, g)
        assert g.dtype == np.float32


class OnlyDlpack:
    def __init__(self, a):
        self.a = a

    def __dlpack__(self, **options):
        return self.a.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.a.__dlpack_device__()


class OnlyArray:
    def __init__(self, a):
        self.a = a

    def __array__(self, dtype=None, copy=None):
        return self.a if dtype is None else self.a.astype(dtype)


@pytest.mark.one_level
@every_case
def test_wrong_types(case, backend, rng):
    arrays = case.make(rng, (3, 5))
    wrong = {
        "complex": lambda a: np.asarray(a).astype(np.complex64),
        "complex128": lambda a: np.asarray(a).astype(np.complex128),
        "object": lambda a: np.asarray(a).astype(object),
        "text": lambda a: np.full(np.shape(a), "a"),
        "bytes": lambda a: np.full(np.shape(a), b"a"),
        "date": lambda a: np.zeros(np.shape(a), "datetime64[s]"),
        "duration": lambda a: np.zeros(np.shape(a), "timedelta64[s]"),
        "record": lambda a: np.zeros(np.shape(a), "f8,f8"),
        "masked array": np.ma.masked_array,
        "none of these": lambda a: object(),
        "Python complex": lambda a: 1j,
        "string": lambda a: "text",
    }
    if np.dtype(np.longdouble) != np.float64:
        wrong["long double"] = lambda a: np.asarray(a).astype(np.longdouble)
    for name, (kind, make) in itertools.product(case.arrays, wrong.items()):
        if backend.on_device:
            continue
        with pytest.raises(TypeError) as caught:
            backend.call(case, {**arrays, name: make(arrays[name])}, axis=-1)
        one_sentence(caught.value, case.function, f"{name} {kind}")


@pytest.mark.one_level
@pytest.mark.parametrize("case", ALL, ids=lambda c: c.id)
def test_required_arrays_are_not_none(case, backend, rng):
    """None leaves out an optional array only, also where one plain array takes the short way."""
    parameters = inspect.signature(case.public).parameters
    for shape in ((5,), (2, 3, 5)):
        arrays = case.make(rng, shape)
        for name in case.arrays:
            axes = {} if case is JENSEN else {"axis": -1}
            given = {**arrays, name: None}
            if parameters[name].default is None:
                backend.call(case, given, **axes)
                continue
            for layout in (lambda a: a, lambda a: None if a is None else a.tolist()):
                with pytest.raises(TypeError, match=f": {name} must be array-like, got None$") as e:
                    backend.call(case, {k: layout(v) for k, v in given.items()}, **axes)
                one_sentence(e.value, case.function, f"{name} None")


def one_sentence(error, function, note=""):
    """`function: argument must ..., got ...`, on one line, without a C++ type."""
    text = str(error)
    assert text.startswith(f"{function}: "), f"{note}: {text!r}"
    assert "\n" not in text and len(text) < 300, f"{note}: {text!r}"
    assert ", got " in text or " must not " in text or "cannot be used" in text, f"{note}: {text!r}"
    for internal in ("std::", "nanobind", "nb::", "ndarray[", "incompatible function arguments"):
        assert internal not in text, f"{note}: {text!r}"


# --- Layouts ---


def unaligned(a):
    """The same values one byte off."""
    store = np.zeros(a.nbytes + 1, np.uint8)
    view = store[1:].view(a.dtype) if a.ndim == 1 else None
    view = np.ndarray(a.shape, a.dtype, store.data, offset=1) if view is None else view
    view[...] = a
    return view


def every_other(a):
    wide = np.zeros(tuple(2 * s for s in a.shape), a.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def reversed_axes(a):
    flip = tuple(slice(None, None, -1) for _ in a.shape)
    return a[flip].copy()[flip]


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def transposed(a):
    return np.ascontiguousarray(a.T).T


def padded_rows(a):
    wide = np.zeros((*a.shape[:-1], a.shape[-1] + 3), a.dtype) if a.ndim else a
    view = wide[..., 1:-2] if a.ndim else wide
    view[...] = a
    return view


def other_order(a):
    return a.astype(a.dtype.newbyteorder("S")) if a.dtype.name != "bfloat16" else a


def one_core_reversed(a):
    return a[..., ::-1].copy()[..., ::-1] if a.ndim else a


LAYOUTS = (
    np.asfortranarray,
    transposed,
    reversed_axes,
    one_core_reversed,
    every_other,
    padded_rows,
    read_only,
    unaligned,
    other_order,
)


@pytest.mark.dtypes("float64", "float16")
@pytest.mark.one_level
@every_case
def test_layouts(case, backend, dtype, rng):
    """Every array in every layout gives the result of the plain one, to the stated accuracy."""
    for shape in ((3, 4, 7), (2, 37)):
        arrays = case.make(rng, shape, dtype, mask=case.mask)
        for layout in LAYOUTS:
            if backend.on_device and layout in (unaligned, other_order, read_only):
                continue  # CuPy has no such arrays
            changed = {k: layout(np.asarray(v)) for k, v in arrays.items()}
            for k, v in changed.items():
                assert np.array_equal(np.asarray(v), arrays[k]), layout.__name__
            run(backend, case, changed, f"{layout.__name__} {shape}")


@every_case
def test_device_layouts(case, backend, dtype, rng):
    """On a device: views of device arrays, which conversion from NumPy would make plain."""
    if not backend.on_device:
        pytest.skip("needs a GPU")
    arrays = case.make(rng, (6, 8), dtype, mask=case.mask)
    for cut in (np.s_[::2, ::2], np.s_[::-1, ::-1], np.s_[1:, 2:-1]):
        views = {k: backend.put(v)[cut[: np.ndim(v)]] for k, v in arrays.items()}
        plain = {k: v[cut[: np.ndim(v)]] for k, v in arrays.items()}
        if case.simplex:
            continue  # no longer sums to one
        backend.check(case, backend.call(case, views, axis=-1), plain, note=str(cut))


@pytest.mark.dtypes("float64", "float16")
@pytest.mark.one_level
@every_case
def test_stride_zero(case, backend, dtype, rng):
    """Broadcast arrays are read as they are: one row for all, one value for a whole row."""
    arrays = case.make(rng, (4, 6), dtype, mask=case.mask)
    rows = {k: np.broadcast_to(np.asarray(v)[:1], np.shape(v)) for k, v in arrays.items()}
    run(backend, case, rows, "one row for all")
    if not case.simplex:
        flat = {
            k: np.broadcast_to(np.asarray(v)[..., :1], np.shape(v)) if np.ndim(v) == 2 else v
            for k, v in arrays.items()
        }
        run(backend, case, flat, "one value for a row")
    for k in arrays:
        run(backend, case, {**arrays, k: rows[k]}, f"one row for all in {k}")


@pytest.mark.dtypes("float64", "float16")
@pytest.mark.one_level
@every_case
def test_small_arguments_broadcast(case, backend, dtype, rng):
    """Weights, masks and the like that fit the data need not have its shape."""
    small = [k for k in ("b", "weights", "p", "y") if k in case.arrays[1:]] + ["mask"] * case.mask
    for k, keep in itertools.product(small, ("row", "column", "one")):
        if k == "p" and keep != "row":
            continue
        arrays = case.make(rng, (3, 5), dtype, mask=case.mask)
        cut = {"row": np.s_[0], "column": np.s_[:, :1], "one": np.s_[:1, :1]}[keep]
        less = np.asarray(arrays[k])[cut]
        if k == "mask" and keep == "one":
            less = np.ones((1, 1), bool)
        full = {**arrays, k: np.broadcast_to(less, (3, 5))}
        got = backend.call(case, {**arrays, k: less}, axis=-1)
        backend.check(case, got, full, note=f"{k} {keep}")


# --- Axes ---


def moved(case, arrays, axis):
    """Arrays whose core axis, now last, stands at `axis`; results of such a call back to last."""
    cores = dict(zip(case.arrays, case.cores, strict=True)) | {"mask": "n"}
    there = {k: np.moveaxis(v, -1, axis) if cores[k] else v for k, v in arrays.items()}

    def back(result, core):
        return np.moveaxis(result, axis, -1) if core else result

    return there, back


@pytest.mark.dtypes("float64", "float16")
@pytest.mark.one_level
@axis_case
def test_axis(case, backend, dtype, rng):
    arrays = case.make(rng, (3, 4, 5), dtype, mask=case.mask)
    for axis in (0, 1, 2, -1, -2, -3, np.int64(1)):
        there, back = moved(case, arrays, axis)
        got = backend.call(case, there, axis=axis)
        backend.check(case, got, arrays, note=f"axis {axis}", move=back)


@pytest.mark.dtypes("float64", "float16")
@pytest.mark.one_level
@axis_case
def test_several_axes(case, backend, dtype, rng):
    cores = dict(zip(case.arrays, case.cores, strict=True)) | {"mask": "n"}
    for axis in ((0, 2), (2, 0), (-1, 0), (1, 2), (0, 1, 2), (1,), None):
        plain = tuple(range(3)) if axis is None else tuple(a % 3 for a in axis)
        rest = tuple(i for i in range(3) if i not in plain)
        shape = (2, 3, 4)
        loop = tuple(shape[i] for i in rest)
        core = tuple(shape[i] for i in plain)
        arrays = case.make(rng, (*loop, int(np.prod(core))), dtype, mask=case.mask)
        order = np.argsort(rest + plain)
        there = {
            k: v.reshape(loop + core).transpose(order) if cores[k] else v for k, v in arrays.items()
        }

        def back(result, has_core, rest=rest, plain=plain, loop=loop):
            if not has_core:
                return result
            return result.transpose(rest + plain).reshape(*loop, -1)

        got = backend.call(case, there, axis=axis)
        backend.check(case, got, arrays, note=f"axis {axis}", move=back)


@pytest.mark.dtypes("float64", "float16")
@pytest.mark.one_level
@axis_case
def test_no_axes(case, backend, dtype, rng):
    """axis=() reduces nothing: each element is its own slice."""
    cores = dict(zip(case.arrays, case.cores, strict=True)) | {"mask": "n"}
    arrays = case.make(rng, (3, 4, 1), dtype, mask=case.mask)
    if case.simplex:
        arrays["p"] = np.ones_like(arrays["p"])
    there = {k: v[..., 0] if cores[k] else v for k, v in arrays.items()}
    got = backend.call(case, there, axis=())
    backend.check(case, got, arrays, note="()", move=lambda r, core: r[..., None] if core else r)


@pytest.mark.dtypes("float64", "float16")
@pytest.mark.one_level
@axis_case
def test_zero_dimensional_input_is_one_slice(case, backend, dtype, rng):
    arrays = case.make(rng, (1,), dtype)
    if case.simplex:
        arrays["p"] = np.ones_like(arrays["p"])
    cores = dict(zip(case.arrays, case.cores, strict=True))
    there = {k: v[0] if cores[k] else v for k, v in arrays.items()}
    for axis in (None, -1, 0, ()):
        got = backend.call(case, {k: np.asarray(v) for k, v in there.items()}, axis=axis)
        backend.check(
            case, got, arrays, note=f"{axis}", move=lambda r, core: r[None] if core else r
        )


@axis_case
def test_default_axis(case, rng):
    arrays = case.make(rng, (3, 4))
    if case.default_axis is None and "g" in arrays and np.ndim(arrays["g"]) == 1:
        arrays["g"] = arrays["g"][0]
    got = case.call(arrays)
    want = case.call(arrays, axis=case.default_axis)
    for g, w in zip(case.results(got), case.results(want), strict=True):
        same(g, w)
    parameter = inspect.signature(case.public).parameters["axis"]
    assert parameter.default == case.default_axis


@pytest.mark.dtypes("float64", "float16")
@pytest.mark.one_level
@pytest.mark.parametrize("case", [c for c in CASES if c.keepdims], ids=lambda c: c.id)
def test_keepdims(case, backend, dtype, rng):
    arrays = case.make(rng, (2, 3, 4), dtype, mask=case.mask)
    for axis, shape in ((None, (1, 1, 1)), (1, (2, 1, 4)), ((0, -1), (1, 3, 1)), ((), (2, 3, 4))):
        plain = case.results(backend.call(case, arrays, axis=axis))
        kept = case.results(backend.call(case, arrays, axis=axis, keepdims=True))
        for p, k, core in zip(plain, kept, case.outputs, strict=True):
            assert k.shape == ((2, 3, 4) if core else shape)
            same(k.ravel(), p.ravel())


@pytest.mark.one_level
@axis_case
def test_axis_errors(case, backend, rng):
    arrays = case.make(rng, (3, 4))
    axis_error = getattr(np, "exceptions", np).AxisError
    for axis, error in (
        (2, axis_error),
        (-3, axis_error),
        ((0, 5), axis_error),
        ((0, 0), ValueError),
        ((0, -2), ValueError),
        (1.0, TypeError),
        ("0", TypeError),
        ((0, None), TypeError),
        ([0], TypeError),
    ):
        with pytest.raises(error) as caught:
            backend.call(case, arrays, axis=axis)
        one_sentence(caught.value, case.function, f"axis {axis}")


# --- Empty, special values, masks ---


@pytest.mark.one_level
@every_case
def test_empty(case, backend, dtype, rng):
    for shape in ((0,), (3, 0), (0, 3), (0, 0), (2, 0, 3)):
        arrays = case.make(rng, shape, dtype, mask=case.mask)
        if case.simplex and shape[-1] == 0 and np.prod(shape[:-1]) > 0:
            continue  # an empty p does not sum to one: see test_empty_distribution
        got = case.results(backend.call(case, arrays, axis=-1))
        for r, core in zip(got, case.outputs, strict=True):
            assert r.shape == (shape if core else shape[:-1]) and r.dtype == dtype
        if shape[-1] == 0 and case.empty is not None:
            for r in got[:1]:
                same(r, np.full(shape[:-1], case.empty))


@pytest.mark.one_level
def test_empty_distribution(backend):
    with pytest.raises(ValueError, match="^logsumexp_bounds: p must"):
        if backend.name == "cuda":
            pytest.skip("a device is not waited for")
        backend(kn.logsumexp_bounds, np.zeros(0), p=np.zeros(0))


SPECIAL = (
    [nan, 1, 2, 3],
    [inf, 1, 2, 3],
    [inf, inf, -inf, 3],
    [-inf, 1, 2, -inf],
    [-inf] * 4,
    [nan, inf, -inf, 0],
    [0, 0, 0, 0],
    [-0.0, 0.0, -0.0, 0.0],
)


@every_case
def test_special_values_stay_in_their_row(case, backend, dtype, rng):
    """Rows of special values agree with the wide reference and leave their neighbours alone."""
    rows = 40
    arrays = case.make(rng, (rows, 4), dtype)
    plain = case.results(backend.call(case, arrays, axis=-1))
    spoilt = frozen(arrays)
    for i, special in enumerate(SPECIAL):
        spoilt[case.main][3 * i + 1] = special
    got = case.results(run(backend, case, spoilt, "special"))
    touched = np.arange(rows) % 3 == 1
    touched[3 * len(SPECIAL) :] = False
    for p, g in zip(plain, got, strict=True):
        same(p[~touched], g[~touched])
    for other in ("g", "b", "y"):
        if other in arrays:
            spoilt = frozen(arrays)
            spoilt[other][1] = nan
            got = case.results(backend.call(case, spoilt, axis=-1))
            for p, g in zip(plain, got, strict=True):
                same(np.delete(p, 1, 0), np.delete(g, 1, 0))
                assert np.any(np.isnan(g[1])), f"nan in {other} is lost"


@every_case
@pytest.mark.parametrize("n", [1, 2, 5, 16, 31, 64, 65, 1000])
def test_special_values_at_any_place(case, backend, n, rng):
    """A special value is found wherever it stands in a row, vector loops and their tails alike."""
    if n * case.cost > 10_000:
        pytest.skip("the reference takes too long for such rows")
    places = sorted({0, n // 2, max(n - 2, 0), n - 1})
    for special in (nan, inf, -inf):
        arrays = case.make(rng, (len(places), n), np.float32)
        for row, place in enumerate(places):
            arrays[case.main][row, place] = special
        run(backend, case, arrays, f"{special} at {places}")


@pytest.mark.dtypes("float64", "float16")
@masked_case
def test_masked_values_never_matter(case, backend, dtype, rng):
    arrays = case.make(rng, (4, 9), dtype, mask=True)
    arrays["mask"][2] = False
    arrays["mask"][3] = True
    want = case.results(backend.call(case, arrays, axis=-1))
    hidden = ~arrays["mask"]
    for poison in (nan, inf, -inf, 1e4):
        changed = frozen(arrays)
        for k in arrays:
            if k != "mask" and np.shape(arrays[k]) == hidden.shape:
                changed[k][hidden] = poison
        got = case.results(run(backend, case, changed, f"masked {poison}"))
        for w, g in zip(want, got, strict=True):
            same(w.view(np.uint8), g.view(np.uint8))


@pytest.mark.dtypes("float64", "float16")
@pytest.mark.one_level
@masked_case
def test_masked_outputs(case, backend, dtype, rng):
    """0, or -inf for log-probabilities; a fully masked slice gives the same throughout."""
    absent = -inf if case.function == "log_softmax" else 0.0
    arrays = case.make(rng, (4, 9), dtype, mask=True)
    arrays["mask"][1] = False
    for got, core in zip(
        case.results(backend.call(case, arrays, axis=-1)), case.outputs, strict=True
    ):
        if core:
            assert np.all(got[~arrays["mask"]] == absent)
        elif case.function != "softmax_entropy":
            assert got[1] == case.empty or got[1] == 0  # the second: sign of an empty sum
        else:
            assert got[1] == 0


@pytest.mark.one_level
@masked_case
def test_masked_equals_absent(case, backend, rng):
    """The unmasked entries give what they give alone."""
    arrays = case.make(rng, (9,), np.float64, mask=True)
    arrays["mask"][0] = True
    kept = arrays["mask"]
    alone = {k: v[kept] if np.ndim(v) else v for k, v in arrays.items() if k != "mask"}
    got = case.results(backend.call(case, arrays, axis=-1))
    exact, scales = case.exact(alone, backend.plain)
    for k, (g, want) in enumerate(zip(got, exact, strict=True)):
        g = g[kept] if case.outputs[k] else g
        error, where = oracle.worst(g, want, np.float64, *scales[k])
        assert error <= case.limit(np.float64, k, backend.plain), (g, want, where)


@pytest.mark.one_level
@masked_case
def test_mask_must_be_boolean(case, backend, rng):
    arrays = case.make(rng, (3, 4))
    for mask in (np.ones((3, 4)), np.ones((3, 4), np.uint8), [[1] * 4] * 3, 1, "yes", object()):
        if backend.on_device and not isinstance(mask, np.ndarray):
            continue
        with pytest.raises(TypeError) as caught:
            backend.call(case, {**arrays, "mask": mask}, axis=-1)
        one_sentence(caught.value, case.function, f"mask {mask!r}")
    with pytest.raises(ValueError) as caught:
        backend.call(case, {**arrays, "mask": np.ones((2, 3, 4), bool)}, axis=-1)
    one_sentence(caught.value, case.function, "mask too large")
    for mask in (True, np.True_, [True] * 4, [[True]] * 3):
        got = backend.call(case, {**arrays, "mask": mask}, axis=-1)
        backend.check(case, got, arrays, note=f"mask {mask!r}")


# --- out ---


def fresh_outputs(case, backend, shape, dtype, make=None):
    """Arrays full of NaN for out=, and the value to pass."""
    made = []
    for core in case.outputs:
        full = shape if core else shape[:-1]
        made.append((make or (lambda s, t: np.full(s, nan, t)))(full, dtype))
    placed = [backend.put(a) for a in made]
    return placed, (placed[0] if len(placed) == 1 else tuple(placed))


OUT_LAYOUTS = {
    "plain": None,
    "Fortran": lambda s, t: np.full(s, nan, t, order="F"),
    "reversed": lambda s, t: np.full(s, nan, t)[(..., *[slice(None, None, -1)] * len(s))],
    "every other": lambda s, t: np.full([2 * k for k in s], nan, t)[
        (..., *[slice(None, None, 2)] * len(s))
    ],
    "unaligned": lambda s, t: unaligned(np.full(s, nan, t)),
}


@pytest.mark.one_level
@every_case
def test_out(case, backend, dtype, rng):
    for shape, (name, layout) in itertools.product(((2, 3, 5), (6,)), OUT_LAYOUTS.items()):
        if backend.on_device and name == "unaligned":
            continue
        arrays = case.make(rng, shape, dtype, mask=case.mask)
        want = case.results(backend.call(case, arrays, axis=-1))
        placed, out = fresh_outputs(case, backend, shape, dtype, layout)
        options = {k: backend.put(v) for k, v in arrays.items()}
        got = case.call(options, axis=-1, out=out, backend=backend.name)
        got = got if isinstance(got, tuple) else (got,)
        for g, p, w in zip(got, placed, want, strict=True):
            assert g is p, f"{name}: the given array is returned"
            same(backend.get(p), w, f"{name} {shape}")


@pytest.mark.dtypes("float64", "float16")
@pytest.mark.one_level
@axis_case
def test_out_on_another_axis(case, backend, dtype, rng):
    arrays = case.make(rng, (3, 4, 5), dtype)
    there, back = moved(case, arrays, 0)
    shape = (5, 3, 4)
    made = [np.full(shape if core else (3, 4), nan, dtype) for core in case.outputs]
    placed = [backend.put(m) for m in made]
    out = placed[0] if len(placed) == 1 else tuple(placed)
    case.public(
        **{k: backend.put(v) for k, v in there.items()},
        **case.fixed,
        axis=0,
        out=out,
        backend=backend.name,
    )
    found = tuple(backend.get(p) for p in placed)
    backend.check(
        case, found if len(found) > 1 else found[0], arrays, note="out, axis 0", move=back
    )


@pytest.mark.one_level
@pytest.mark.parametrize("case", [c for c in CASES if c.keepdims], ids=lambda c: c.id)
def test_out_keepdims(case, backend, rng):
    arrays = case.make(rng, (3, 4))
    made = [np.full((3, 4) if core else (3, 1), nan) for core in case.outputs]
    placed = [backend.put(m) for m in made]
    out = placed[0] if len(placed) == 1 else tuple(placed)
    options = {k: backend.put(v) for k, v in arrays.items()} | case.fixed
    case.public(**options, axis=-1, keepdims=True, out=out, backend=backend.name)
    found = tuple(
        backend.get(p) if core else backend.get(p)[:, 0]
        for p, core in zip(placed, case.outputs, strict=True)
    )
    backend.check(case, found if len(found) > 1 else found[0], arrays, note="keepdims")


@pytest.mark.one_level
@every_case
def test_out_errors_leave_it_untouched(case, backend, rng):
    arrays = case.make(rng, (3, 4), np.float32)
    made = [np.full((3, 4) if core else (3,), 7.0, np.float32) for core in case.outputs]

    def replaced(change):
        items = [backend.put(change(m)) for m in made]
        return items[0] if len(items) == 1 else tuple(items)

    def locked(m):
        m = m.copy()
        m.flags.writeable = False
        return m

    wrong = [
        (TypeError, lambda m: m.astype(np.float64)),
        (TypeError, lambda m: m.astype(np.float16)),
        (TypeError, lambda m: m.astype(np.int32)),
        (TypeError, lambda m: m.astype(np.complex64)),
        (ValueError, lambda m: np.concatenate([m, m])),
        (ValueError, lambda m: m[:1]),
        (ValueError, lambda m: m[None]),
    ]
    if not backend.on_device:
        wrong += [
            (TypeError, lambda m: m.astype(m.dtype.newbyteorder("S"))),
            (TypeError, lambda m: m.tolist()),
            (TypeError, np.ma.masked_array),
            (TypeError, lambda m: "out"),
            (ValueError, locked),
        ]
    for error, change in wrong:
        out = replaced(change)
        items = out if isinstance(out, tuple) else (out,)
        before = [backend.get(i).tobytes() for i in items if hasattr(i, "tobytes")]
        with pytest.raises(error) as caught:
            backend.call(case, arrays, axis=-1, out=out)
        one_sentence(caught.value, case.function, "out")
        assert before == [backend.get(i).tobytes() for i in items if hasattr(i, "tobytes")]
    count = len(case.outputs)
    for items in ([made[0]] * (count + 1), [made[0]] * (count - 1) if count > 1 else ()):
        with pytest.raises((ValueError, TypeError)) as caught:
            backend.call(case, arrays, axis=-1, out=tuple(backend.put(i) for i in items))
        one_sentence(caught.value, case.function, f"{len(items)} arrays for out")
    if case.elementwise:
        return
    # A later argument that is refused must not leave a half-written result either.
    out = replaced(lambda m: m.copy())
    with pytest.raises(ValueError):
        backend.call(case, arrays, axis=(0, 0), out=out)
    for item in out if isinstance(out, tuple) else (out,):
        assert np.all(backend.get(item) == 7)


@pytest.mark.one_level
def test_out_untouched_when_contents_are_refused(backend):
    """The kernel meets the invalid row halfway through; what was in `out` stays."""
    if backend.name == "cuda":
        pytest.skip("a device is not waited for: the row is nan")
    a, bad = np.zeros((50, 3)), np.full((50, 3), 0.5)
    bad[30, 1] = -1
    for function, arguments, options, shapes in (
        (kn.logmeanexp, (a,), {"weights": bad}, [(50,)]),
        (kn.logmeanexp_vjp, (a, np.ones(50)), {"weights": bad}, [(50, 3)]),
        (kn.logsumexp_bounds, (a,), {"p": bad}, [(50,)] * 4),
        (kn.entropy_invariant_scale, (np.array([3.0, -1, 2]),), {}, [(3,)]),
    ):
        placed = [np.full(s, 7.0) for s in shapes]
        if function is not kn.entropy_invariant_scale:
            options = {**options, "axis": 1}
        with pytest.raises(ValueError) as caught:
            backend(function, *arguments, **options, out=tuple(placed) if placed[1:] else placed[0])
        one_sentence(caught.value, function.__name__)
        assert all(np.all(p == 7) for p in placed)


ROW_SHAPED = [c for c in CASES if "n" in c.outputs]


@pytest.mark.dtypes("float64", "float16")
@pytest.mark.one_level
@pytest.mark.parametrize("case", ROW_SHAPED, ids=lambda c: c.id)
def test_out_aliases_an_input(case, backend, dtype, rng):
    """The result may replace any input of its shape, whole or overlapping in part."""
    shape = (5, 40)
    which = [i for i, core in enumerate(case.outputs) if core][0]
    for name, core in zip(case.arrays, case.cores, strict=True):
        if not core:
            continue
        for overlap in ("exact", "one on", "one back", "reversed", "same row"):
            arrays = case.make(rng, shape, dtype)
            store = np.full((shape[0] * shape[1] + 2), nan, dtype)
            inside = store[1:-1].reshape(shape)
            target = {
                "exact": inside,
                "one on": store[2:].reshape(shape),
                "one back": store[:-2].reshape(shape),
                "reversed": inside[::-1, ::-1],
                "same row": inside,
            }[overlap]
            if overlap == "same row":
                arrays[name] = np.repeat(arrays[name][:1], shape[0], axis=0)
            plain = frozen(arrays)
            inside[...] = arrays[name]
            if backend.on_device:
                continue
            arrays[name] = np.broadcast_to(inside[0], shape) if overlap == "same row" else inside
            want = case.results(backend.call(case, plain, axis=-1))
            out = [np.full(shape if c else shape[:1], nan, dtype) for c in case.outputs]
            out[which] = target
            backend.call(case, arrays, axis=-1, out=out[0] if len(out) == 1 else tuple(out))
            for o, w in zip(out, want, strict=True):
                same(o, w, f"{name} {overlap}")


@pytest.mark.one_level
@pytest.mark.parametrize("case", [c for c in CASES if "" in c.outputs], ids=lambda c: c.id)
def test_out_inside_an_input(case, backend, rng):
    """A reduced result may land on the input it was computed from."""
    if backend.on_device:
        pytest.skip("NumPy memory")
    arrays = case.make(rng, (6, 8))
    plain = frozen(arrays)
    want = case.results(backend.call(case, plain, axis=-1))
    x = arrays[case.main]
    out = [np.full((6, 8) if core else (6,), nan) for core in case.outputs]
    first = case.outputs.index("")
    out[first] = x[:, 3]
    backend.call(case, arrays, axis=-1, out=out[0] if len(out) == 1 else tuple(out))
    for o, w in zip(out, want, strict=True):
        same(o, w)


@pytest.mark.one_level
@pytest.mark.parametrize("case", [c for c in CASES if len(c.outputs) > 1], ids=lambda c: c.id)
def test_out_overlapping_outputs(case, backend, rng):
    """Two results cannot be in one place; which one wins is nobody's guess."""
    arrays = case.make(rng, (6, 8))
    one = np.full((6, 8), nan)
    out = tuple(one if core else one[:, 0] for core in case.outputs)
    try:
        backend.call(case, arrays, axis=-1, out=out)
    except ValueError as error:
        one_sentence(error, case.function)


# --- g, names, signatures ---


@pytest.mark.one_level
@pytest.mark.parametrize(
    "case", [c for c in CASES if "g" in c.arrays and "g" not in c.loose], ids=lambda c: c.id
)
def test_cotangent_has_the_shape_of_the_result(case, backend, rng):
    arrays = case.make(rng, (3, 4))
    for shape in ((4,), (3, 1), (1, 3), (2, 3), (3, 4, 1), (1,)):
        if shape == np.shape(arrays["g"]):
            continue
        with pytest.raises(ValueError) as caught:
            backend.call(case, {**arrays, "g": np.ones(shape)}, axis=-1)
        one_sentence(caught.value, case.function, f"g {shape}")


@pytest.mark.one_level
@every_case
def test_shapes_that_do_not_fit(case, backend, rng):
    arrays = case.make(rng, (3, 4))
    for k in (*case.arrays[1:], *["mask"] * case.mask):
        wrong = np.ones((3, 5), bool if k == "mask" else float)
        with pytest.raises(ValueError) as caught:
            backend.call(case, {**arrays, k: wrong}, axis=-1)
        one_sentence(caught.value, case.function, k)


@pytest.mark.parametrize("function", cases.FUNCTIONS)
def test_backend_argument(function):
    case = next(c for c in ALL if c.function == function)
    arrays = case.make(np.random.default_rng(0), (2, 3))
    for name, error in (
        ("gpu", ValueError),
        ("cpu:v9", ValueError),
        (3, TypeError),
        ("", ValueError),
    ):
        with pytest.raises(error) as caught:
            case.call(arrays, axis=-1, backend=name)
        assert "backend must be" in str(caught.value) and "\n" not in str(caught.value)


PUBLIC = sorted(
    n
    for f in (kn.special, kn.losses, kn.optim, kn.mitchell)
    for n in f.__all__
    if inspect.isfunction(getattr(f, n))
)


@pytest.mark.parametrize("function", PUBLIC)
def test_public_signature(function):
    """Plain functions with typed parameters; `out` and `backend` for arrays, keyword only."""
    f = getattr(kn, function)
    assert inspect.isfunction(f) and f.__name__ == function
    assert sum(f is getattr(family, function, None) for family in FAMILIES) == 1
    signature = inspect.signature(f)
    for name in ("out", "backend") if function not in NUMBERS else ():
        assert signature.parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert signature.parameters[name].default is None
    for parameter in signature.parameters.values():
        assert parameter.annotation is not parameter.empty, parameter
    assert signature.return_annotation is not signature.empty


ATTENTION = sorted(n for n in kn.attention.__all__ if inspect.isfunction(getattr(kn, n)))


@pytest.mark.parametrize("function", [*PUBLIC, *ATTENTION])
def test_flags_are_true_or_false(function):
    f = getattr(kn, function)
    parameters = inspect.signature(f).parameters.values()
    given = {p.name: np.ones((2, 2)) for p in parameters if p.default is p.empty}
    if function == "linear_attention_step":
        given["state"] = kn.linear_attention_init((2,), 2, 2)
    for flag in (p.name for p in parameters if type(p.default) is bool):
        for wrong in (np.ones(2), "no", None, 0.5):
            with pytest.raises(TypeError, match=f"^{function}: {flag} must be True or False, got "):
                f(**given, **{flag: wrong})


FAMILIES = (kn.special, kn.losses, kn.optim, kn.mitchell)
NUMBERS = {n for module in cases.MODULES for n in getattr(module, "NUMBERS", ())}
SIGNATURES = {
    "logsumexp": "a axis=None b=None keepdims=False return_sign=False * mask=None",
    "logsumexp_vjp": "a g axis=None b=None * mask=None",
    "logmeanexp": "a axis=None weights=None keepdims=False *",
    "logmeanexp_vjp": "a g axis=None weights=None *",
    "softmax": "x axis=None * mask=None",
    "softmax_vjp": "x g axis=None * mask=None scale=1.0",
    "log_softmax": "x axis=None * mask=None",
    "log_softmax_vjp": "x g axis=None * mask=None",
    "logsumexp_softmax": "x axis=-1 keepdims=False * mask=None",
    "softmax_entropy": "x axis=-1 * scale=1.0 mask=None",
    "softmax_entropy_vjp": "x g axis=-1 * scale=1.0 mask=None",
    "logsumexp_bounds": "x axis=-1 * p=None order=1.0 tau=1.0",
    "logsumexp_lipschitz": "x y axis=-1 *",
    "logsumexp_jensen_gap": "x axis=-1 sample_axis=0 * weights=None",
    "entropy_invariant_scale": "n * dim=None kappa=None base=512.0 min_length=1",
    "entropy_invariant_softmax": (
        "scores axis=-1 * mask=None dim=None kappa=None base=512.0 min_length=1"
    ),
    "entropy_invariant_softmax_vjp": (
        "scores g axis=-1 * mask=None dim=None kappa=None base=512.0 min_length=1"
    ),
}


for module in cases.MODULES:
    SIGNATURES |= getattr(module, "SIGNATURES", {})


@pytest.mark.parametrize("function", PUBLIC)
def test_signature_of_the_specification(function):
    """Names, order and defaults; what is positional there is positional here."""
    positional, keyword = SIGNATURES[function].split("*")
    parameters = inspect.signature(getattr(kn, function)).parameters

    def spelled(kinds):
        return [
            p.name + ("" if p.default is p.empty else f"={p.default}".replace(" ", ""))
            for p in parameters.values()
            if p.kind in kinds and p.name not in ("out", "backend")
        ]

    both = inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert spelled({both}) == positional.split()
    assert sorted(spelled({inspect.Parameter.KEYWORD_ONLY})) == sorted(keyword.split())


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_all_names_are_covered(family):
    """A public function without an entry in cases.py would escape every test here."""
    public = {n for n in family.__all__ if inspect.isfunction(getattr(family, n))}
    assert public <= {*cases.FUNCTIONS, *UNLIKE_THE_REST}
    assert public <= set(kn.__all__) & set(SIGNATURES)
    names = [n for part in PARTS[family] for n in part.__all__]
    assert sorted(names) == sorted(family.__all__)


# No arrays in, arrays out: tested with the other functions of their parts.
UNLIKE_THE_REST = frozenset(n for module in cases.MODULES for n in getattr(module, "OTHERS", ()))


def parts_of(family):
    """The packages of a family, which have a reference and a table of kernels each."""
    found = pkgutil.iter_modules(family.__path__, f"{family.__name__}.")
    return [importlib.import_module(m.name) for m in found if m.ispkg]


PARTS = {family: parts_of(family) for family in FAMILIES}
every_part = pytest.mark.parametrize(
    "part", [part for parts in PARTS.values() for part in parts], ids=lambda part: part.__name__
)


def references(part):
    """The functions of a part's reference that public functions reach, with their arguments."""
    module = importlib.import_module(f"{part.__name__}.reference")
    own = {n: f for n, f in vars(module).items() if getattr(f, "__module__", "") == module.__name__}
    return {n: [*inspect.signature(own[n]).parameters] for n in REACHED & set(own)}


def reached(part):
    """Names in `choose(...).name` and `kernels.name`, and those given to `_elementwise`."""
    called = set()
    for node in ast.walk(ast.parse(inspect.getsource(part))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            owner = owner.func if isinstance(owner, ast.Call) else owner
            if getattr(owner, "id", "") in ("choose", "kernels"):
                called.add(node.func.attr)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "_elementwise":
            called |= texts(node.args[1])
        elif isinstance(node, ast.Assign):
            target = node.targets[0]
            target = target.elts[0] if isinstance(target, ast.Tuple) else target
            if getattr(target, "id", "") == "kernel":
                called |= texts(node.value)
    return called


def texts(node):
    """What an expression for a kernel's name may be; of several values the first is the name."""
    if isinstance(node, ast.IfExp):
        return texts(node.body) | texts(node.orelse)
    if isinstance(node, ast.Tuple):
        return texts(node.elts[0])
    return {node.value} if isinstance(node, ast.Constant) else set()


REACHED = {name for parts in PARTS.values() for part in parts for name in reached(part)}


@every_part
def test_core_has_the_kernels_that_public_functions_reach(part):
    """No more and no fewer, with arguments like the reference's."""
    if _backends.core is None:
        pytest.skip(_backends.core_reason)
    wanted = references(part)
    assert wanted, "the wrappers no longer read choose(...).kernel(...)"
    for level in _backends.levels():
        module = getattr(getattr(_backends.core, level), part.__name__.rpartition(".")[2])
        found = {n: getattr(module, n).__doc__ for n in dir(module) if not n.startswith("_")}
        assert set(found) == set(wanted), level
        for name, signature in found.items():
            arrays = signature.replace("->", ",").count("(")
            assert arrays <= len(wanted[name]) + 1, f"{name}: {signature}, {wanted[name]}"
