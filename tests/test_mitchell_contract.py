"""The general promises, applied to every form of call of Mitchell's functions of arrays."""

import numpy as np
import pytest

from cases_mitchell import FORMS, NUMBERS, SIGNATURES, as_tuple, equal_bits
from fuzz import WRONG
from test_contract import (
    LAYOUTS,
    OUT_LAYOUTS,
    OnlyArray,
    OnlyDlpack,
    assert_untouched,
    frozen,
    one_sentence,
    read_only,
)

every_form = pytest.mark.parametrize("form", FORMS, ids=lambda f: f.id)
# One form of each function: what the wrapper does is the same for all options.
FIRST = list({f.function: f for f in reversed(FORMS)}.values())[::-1]
first_form = pytest.mark.parametrize("form", FIRST, ids=lambda f: f.function)


def run(backend, form, arrays, **options):
    """Results as a tuple; arguments stay as they are."""
    before = frozen(arrays)
    got = as_tuple(backend(form.public, **arrays, **form.fixed, **options))
    assert_untouched(arrays, before, form.id)
    return got


def same_bits(got, want, note=""):
    for g, w in zip(as_tuple(got), as_tuple(want), strict=True):
        assert np.all(equal_bits(g, w)), note


@every_form
def test_mitchell_form_agrees_with_the_reference(form, backend, rng):
    """Every level and CUDA, every type: equal bits, and sums within their bound."""
    for name in form.types:
        for shape in ((3, 37), (0, 3), (3, 0)) if backend.rows == 1 else ((2, 9),):
            arrays = form.numbers(rng, shape, name)
            if form.sums and arrays["a"].dtype.kind in "iu":
                arrays = form.exact(rng, shape, name)
            got = run(backend, form, arrays)
            want = form.public(**arrays, **form.fixed, backend="reference")
            for agree in form.agree(got, want, {**arrays, **form.fixed}):
                assert np.all(agree), f"{name} {shape}"
            for g, s in zip(got, form.shapes(arrays), strict=True):
                assert g.shape == s and g.flags.c_contiguous
                assert g.flags.writeable or not s


@pytest.mark.one_level
@first_form
def test_mitchell_form_layouts(form, backend, rng):
    """In any memory, of either byte order, read-only or repeated: the same bits."""
    for name in ("float32", "bfloat16", *(("int16",) if "int16" in form.types else ())):
        arrays = form.exact(rng, (4, 7), name)
        want = run(backend, form, arrays)
        for layout in LAYOUTS if backend.rows == 1 else LAYOUTS[2:5]:
            moved = {k: layout(a) for k, a in arrays.items()}
            same_bits(run(backend, form, moved), want, f"{name} {layout.__name__}")
        still = {k: np.broadcast_to(a[:1], a.shape) for k, a in arrays.items()}
        plain = {k: a.copy() for k, a in still.items()}
        same_bits(run(backend, form, still), run(backend, form, plain), f"{name} repeated")


@pytest.mark.one_level
@first_form
def test_mitchell_form_out(form, backend, rng):
    """Outputs in any memory, also in an operand's, are written whole and handed back."""
    for name in ("float64", "float16", *(("uint8",) if "uint8" in form.types else ())):
        arrays = form.exact(rng, (4, 4), name)
        want = run(backend, form, arrays)

        def into(made, given=arrays):
            placed = [backend.put(a) for a in made]
            got = form.public(
                **{k: backend.put(v) for k, v in given.items()},
                **form.fixed,
                out=placed[0] if len(placed) == 1 else tuple(placed),
                backend=backend.name,
            )
            assert all(a is b for a, b in zip(as_tuple(got), placed, strict=True))
            return tuple(backend.get(p) for p in placed)

        for note, layout in OUT_LAYOUTS.items():
            if backend.on_device and note == "unaligned":
                continue
            make = layout or (lambda s, t: np.full(s, 7, t))
            with np.errstate(invalid="ignore"):
                made = [make(w.shape, np.float64).astype(w.dtype) for w in want]
                made = [m if layout is None else laid_out(layout, m) for m in made]
            same_bits(into(made), want, f"{name} {note}")
        for operand in arrays:
            given = {k: a.copy() for k, a in arrays.items()}
            made = [np.zeros_like(w) for w in want]
            fits = [
                w.shape == given[operand].shape and w.dtype == given[operand].dtype for w in want
            ]
            if backend.on_device or True not in fits:
                continue
            made[fits.index(True)] = given[operand]
            same_bits(into(made, given), want, f"{name} in {operand}")


def laid_out(layout, a):
    """Memory of the same layout for any type; what it holds does not matter."""
    view = layout(a.shape, np.float64)
    if not view.flags.aligned:
        return np.ndarray(a.shape, a.dtype, np.zeros(a.nbytes + 1, np.uint8).data, offset=1)
    steps = tuple(s * a.itemsize // 8 for s in view.strides)
    extent = sum(abs(s) * (n - 1) for s, n in zip(steps, a.shape, strict=True)) + a.itemsize
    first = sum(-s * (n - 1) for s, n in zip(steps, a.shape, strict=True) if s < 0)
    store = np.zeros(extent, np.uint8)
    return np.ndarray(a.shape, a.dtype, store.data, offset=first, strides=steps)


@first_form
def test_mitchell_form_out_errors_leave_it_untouched(form, rng):
    arrays = form.exact(rng, (4, 4), "float32")
    made = [np.full_like(w, 7) for w in as_tuple(form.public(**arrays, **form.fixed))]
    wrong = {
        "dtype": lambda a: a.astype(np.complex64),
        "shape": lambda a: np.full((3, *a.shape), 7, a.dtype),
        "list": lambda a: a.tolist(),
        "read-only": read_only,
        "byte order": lambda a: a.astype(a.dtype.newbyteorder("S")),
        "text": lambda a: "out",
    }
    for place in range(len(made)):
        for kind, change in wrong.items():
            given = [a.copy() for a in made]
            given[place] = change(given[place])
            with pytest.raises((TypeError, ValueError)) as caught:
                out = given[0] if len(given) == 1 else tuple(given)
                form.public(**arrays, **form.fixed, out=out)
            one_sentence(caught.value, form.function, kind)
            for a in given:
                assert not isinstance(a, np.ndarray) or np.all(a == 7), kind
    for items in (tuple(made[:1]) * (len(made) + 1), tuple(made[:-1])):
        with pytest.raises((TypeError, ValueError)) as caught:
            form.public(**arrays, **form.fixed, out=items)
        one_sentence(caught.value, form.function, f"{len(items)} arrays")


@first_form
def test_mitchell_form_wrong_types(form, rng):
    arrays = form.exact(rng, (4, 4), "float32")
    wrong = [np.zeros((4, 4), t) for t in (*WRONG, bool)]
    wrong += [None, "text", object(), np.ma.masked_array(np.ones((4, 4), np.float32))]
    for name in arrays:
        for bad in wrong:
            with pytest.raises(TypeError) as caught:
                form.public(**{**arrays, name: bad}, **form.fixed)
            one_sentence(caught.value, form.function, f"{name} {bad!r}")
        if len(arrays) > 1:
            with np.errstate(invalid="ignore"):
                other = {**arrays, name: arrays[name].astype(np.float64)}
            with pytest.raises(ValueError, match="must have the same dtype") as caught:
                form.public(**other, **form.fixed)
            one_sentence(caught.value, form.function, name)
    with pytest.raises(ValueError, match="backend must be one of") as caught:
        form.public(**arrays, **form.fixed, backend="gpu")
    one_sentence(caught.value, form.function)


@first_form
def test_mitchell_form_lists_and_other_libraries(form, rng):
    arrays = form.exact(rng, (4, 4), "float64")
    want = form.public(**arrays, **form.fixed)
    for convert in (np.ndarray.tolist, OnlyDlpack, OnlyArray):
        got = form.public(**{k: convert(a) for k, a in arrays.items()}, **form.fixed)
        assert all(isinstance(g, np.ndarray) for g in as_tuple(got))
        same_bits(got, want, convert.__name__)


def test_mitchell_form_of_every_function():
    """A function of arrays without a form would escape every test here."""
    assert {f.function for f in FORMS} == set(SIGNATURES) - set(NUMBERS)
    assert {f.function for f in FIRST} == {f.function for f in FORMS}
    assert len({f.id for f in FORMS}) == len(FORMS)
