"""Calls every public function with hostile arguments; run by test_fuzz.py in a process of its own.

    python tests/fuzz.py --backend cpu:v3 --calls 5000 [--seed 0]

Each call either gives what the reference gives on clean copies, or one clear sentence in a
TypeError, ValueError, IndexError or AxisError, as the reference does. Inputs are never modified; a
failed call leaves `out` as it was. The process must not crash, leak or print anything else.
"""

import argparse
import faulthandler
import inspect
import sys

import numpy as np

import attention_cases
import kexue_native as kn
import oracle
from cases import ALL
from cases_mitchell import FORMS, Form
from kexue_native import _backends

ERRORS = (TypeError, ValueError, IndexError)
DTYPES = [np.float64, np.float32, np.float16, np.int8, np.uint64, np.bool_]
WRONG = ["c16", "O", "U3", "S2", "M8[s]", "m8[s]", "f8,i4", np.longdouble]
AXES = (
    *(-1, -1, -1, 0, 1, 2, -2, -3, 5, -9, 2**31, 2**63, -(2**63) - 1, None, None, ()),
    *((0,), (0, 1), (1, 0), (-1, 0), (0, 0), (0, -1), (0, 1, 2), (9,), (0, None), (0.0,)),
    *(
        True,
        False,
        1.0,
        "0",
        "axis",
        [0],
        [[0]],
        b"1",
        1j,
        object,
        np.int8(0),
        np.array(0),
        np.array([0]),
    ),
)
NUMBERS = (
    *(1.0, 0.0, -1.0, 2, True, 1e308, 1e-320, np.nan, np.inf, -np.inf, 2**200, None, "1", [1.0]),
    *(1j, np.float32(2), np.array(2.0), np.array([1.0, 2.0]), object()),
)
# Arrays whose infinities and nan the specification gives a meaning to.
HAVE_SPECIAL_VALUES = ("a", "x", "scores", "y", "b", "n", "w", "wp", "logw", "v", "p", "lr")
SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1e300, -1e300, 5e-324)


def any_of(rng, options):
    return options[int(rng.integers(len(options)))]


# --- Hostile arrays ---


def layout(rng, a):
    """The same values in some other memory."""
    a = np.asarray(a)
    kind = int(rng.integers(11))
    if kind == 0:
        return np.asfortranarray(a)
    if kind == 1:
        cut = (..., *[slice(None, None, -1)] * a.ndim)
        return np.ascontiguousarray(a[cut])[cut]
    if kind == 2:
        wide = np.zeros([3 * s for s in a.shape], a.dtype)
        view = wide[(..., *[slice(1, None, 3)] * a.ndim)]
        view[...] = a
        return view
    if kind == 3 and a.dtype.kind != "O":
        store = np.zeros(a.nbytes + 8, np.uint8)
        view = np.ndarray(a.shape, a.dtype, store.data, offset=int(rng.integers(1, 8)))
        view[...] = a
        return view
    if kind == 4 and a.dtype.names is None and a.dtype.kind in "iuf":
        return a.astype(a.dtype.newbyteorder(">"))
    if kind == 5:
        a = a.copy()
        a.flags.writeable = False
        return a
    if kind == 6 and a.ndim > 1:
        order = rng.permutation(a.ndim)
        return np.ascontiguousarray(a.transpose(order)).transpose(np.argsort(order))
    if kind == 7 and a.ndim:
        return np.broadcast_to(a[:1], a.shape) if a.shape[0] else a
    if kind == 8 and a.ndim and a.dtype.kind != "O":  # rows that overlap each other
        n = a.shape[-1]
        store = np.resize(a.ravel(), a.shape[0] + n + 1) if a.size else np.zeros(n + 2, a.dtype)
        steps = (store.itemsize,) * a.ndim
        if a.ndim == 2:
            return np.lib.stride_tricks.as_strided(store, a.shape, steps, writeable=False)
        return a
    if kind == 9:
        return np.array(a, ndmin=a.ndim + 1)[0]
    return a


def values(rng, a):
    """Special values here and there; seldom everywhere."""
    if a.dtype.kind != "f" or not a.size or rng.random() < 0.5:
        return a
    with np.errstate(all="ignore"):
        a = a.copy()
        where = rng.random(a.shape) < any_of(rng, (0.05, 0.3, 1.0))
        a[where] = any_of(rng, SPECIAL)
    return a


def hostile_array(rng, name, a):
    """Mostly a legal array, sometimes of a type, shape or kind that must be refused."""
    dice = rng.random()
    a = np.asarray(a)
    if dice < 0.03:
        return any_of(
            rng, (None, "text", object(), 1j, {}, [[1, 2], [3]], b"x", np.nan, 7, [], [[]], True)
        )
    if dice < 0.07:
        with np.errstate(all="ignore"):
            wrong = any_of(rng, WRONG)
            return np.zeros(a.shape, wrong) if wrong != "O" else a.astype(object)
    if dice < 0.09:
        return np.ma.masked_array(a)
    if dice < 0.13:
        return np.ones(
            any_of(rng, ((), (1,), (7,), (3, 7), (2, 2, 2, 2), (0,), a.shape[1:], a.shape + (1,)))
        )
    if dice < 0.16:
        return a.tolist()
    if a.dtype.kind != "b":
        with np.errstate(all="ignore"):
            kind = any_of(rng, DTYPES) if rng.random() < 0.3 else a.dtype
            a = np.abs(a).astype(kind) if np.dtype(kind).kind in "ub" else a.astype(kind)
        if name in HAVE_SPECIAL_VALUES:
            a = values(rng, a)
    return layout(rng, a)


def hostile_out(rng, shapes, dtype, arrays):
    """None, a proper output in some memory, one that overlaps an input, or a wrong one."""
    dice = rng.random()
    if dice < 0.5:
        return None
    made = []
    for full in shapes:
        out = np.full(full, 7, dtype)
        kind = int(rng.integers(9))
        if kind == 0:
            out = np.asfortranarray(out)
        elif kind == 1:
            out = np.full([2 * s for s in full], 7, dtype)[
                (..., *[slice(None, None, 2)] * len(full))
            ]
        elif kind == 2:
            out = out[(..., *[slice(None, None, -1)] * len(full))]
        elif kind == 3:
            out = np.ndarray(full, dtype, np.full(out.nbytes + 1, 7, np.uint8).data, offset=1)
            out[...] = 7
        elif kind == 4 and dice < 0.6:
            out = any_of(rng, (out.astype("f4"), out.astype("i8"), out[None], out.tolist(), "x", 3))
        elif kind == 5 and dice < 0.6:
            out.flags.writeable = False
        elif kind == 6:
            same = [
                a
                for a in arrays
                if isinstance(a, np.ndarray) and a.shape == full and a.dtype == dtype
            ]
            same = [a for a in same if a.flags.writeable and 0 not in a.strides]
            if same:
                out = any_of(rng, same)
        elif kind == 7:
            same = [
                a
                for a in arrays
                if isinstance(a, np.ndarray) and a.dtype == dtype and a.ndim == len(full)
            ]
            same = [a for a in same if a.flags.writeable and a.flags.c_contiguous and a.size > 1]
            if same:  # shifted by one element: a partial overlap
                flat = any_of(rng, same).reshape(-1)[1:]
                count = int(np.prod(full))
                if flat.size >= count:
                    out = flat[:count].reshape(full)
        made.append(out)
    return made[0] if len(made) == 1 else tuple(made)


# --- One call ---


def clean(value):
    """A plain copy: native byte order, C order, own memory."""
    if isinstance(value, np.ma.MaskedArray) or not isinstance(value, np.ndarray):
        return value
    dtype = value.dtype if value.dtype.names else value.dtype.newbyteorder("=")
    return np.array(value, dtype, order="C", copy=True)


def snapshot(value):
    if isinstance(value, tuple):
        return tuple(map(snapshot, value))
    return value.tobytes() if isinstance(value, np.ndarray) and value.dtype != object else None


def outcome(function, arguments):
    """Result or error; a floating-point warning that escapes from the call is an error."""
    try:
        with np.errstate(over="raise", divide="raise", invalid="raise", under="ignore"):
            return function(**arguments), None
    except Exception as error:
        return None, error


# Finite ones within the range of float32, in which kernels of narrow types compute.
FACTORS = ("eps", "input_scale", "kernel_eps")
WORDS = ("elu1", "favor_positive", "entropy", "relu", "trig", "", "no such word")
ATTENTION = {
    **{name: (True, False, 1, None, "yes") for name in ("causal", "exclude_self", "normalize")},
    **{name: (0, -2, 5, 10**6, 1.5, None, 2**70, "1") for name in ("offset", "chunk")},
    **{name: (1.0, 0.5, 0.0, -1.0, *NUMBERS[7:10], None, "1", 1j) for name in FACTORS},
    **{name: (*WORDS, None, b"elu1", ["elu1"]) for name in ("kernel", "features", "scale")},
    "cu_seqlens": ([0, 5], [0, 2, 2, 5], [5, 0], [0.0, 5.0], [[0, 5]], [], "x"),
    "initial_state": (None, 3, np.zeros((3, 2))),
    "params": (None, (0.0, None), (1.0, None), "x", 3),
}


def draw_attention(rng):
    """A function of attention and its arguments."""
    case = any_of(rng, attention_cases.CASES)
    sizes = {letter: any_of(rng, (0, 1, 2, 3, 5, 17)) for letter in "lsv"}
    sizes["d"] = attention_cases.SIZES["d"] if case.m else any_of(rng, (0, 1, 3, 8))
    loop = tuple(int(v) for v in rng.integers(0, 3, rng.integers(0, 3)))
    dtype = np.dtype(any_of(rng, DTYPES[:3]))
    arrays = case.make(rng, loop, dtype, sizes)
    chosen = set(rng.permutation(list(arrays))[: rng.integers(0, 3)])
    arguments = {k: hostile_array(rng, k, v) if k in chosen else v for k, v in arrays.items()}
    arguments.update(any_of(rng, case.variants))
    if rng.random() < 0.4:
        name = any_of(rng, sorted(set(ATTENTION) & attention_options(case)))
        arguments[name] = any_of(rng, ATTENTION[name])
    out = hostile_out(rng, case.shapes(arrays, loop, sizes), dtype, list(arguments.values()))
    if out is not None:
        arguments[case.target] = out
    return case, {**case.fixed, **arguments}


def attention_options(case):
    name = case.function.replace("favor", "linear")
    own = inspect.signature(getattr(kn, name)).parameters
    given = {*inspect.signature(case.public).parameters, *own}
    return given - ({"kernel"} if case.m else set())


def draw(rng):
    """A function, its arguments, and whether they are plain enough to compare closely."""
    if rng.random() < 0.15:
        return draw_attention(rng)
    case = any_of(rng, FORMS if rng.random() < 0.2 else ALL)
    dims = int(rng.integers(0, 4))
    shape = (
        *(int(v) for v in rng.integers(0, 4, max(dims - 1, 0))),
        any_of(rng, (0, 1, 2, 3, 5, 17, 40)),
    )
    if case.function == "logsumexp_jensen_gap":
        shape = (2, 3, shape[-1])
    dtype = np.dtype(any_of(rng, DTYPES[:3]))
    try:
        import ml_dtypes

        if rng.random() < 0.15:
            dtype = np.dtype(ml_dtypes.bfloat16)
    except ImportError:
        pass
    arrays = case.make(rng, shape, dtype, mask=case.mask and rng.random() < 0.4)
    arguments = {k: hostile_array(rng, k, v) for k, v in arrays.items()}
    if not case.elementwise and rng.random() < 0.9:
        arguments["axis"] = -1 if rng.random() < 0.5 else any_of(rng, AXES)
    if case.function == "logsumexp_jensen_gap" and rng.random() < 0.3:
        arguments["sample_axis"] = any_of(rng, AXES)
    if case.keepdims and rng.random() < 0.2:
        arguments["keepdims"] = any_of(rng, (True, False, 1, None, "yes"))
    if rng.random() < 0.3:
        for key in any_of(rng, case.variants):
            arguments[key] = any_of(rng, NUMBERS)
    if "keepdims" not in arguments:
        of_form = getattr(case, "shapes", None)
        shapes = of_form(arrays) if of_form else [shape if c else shape[:-1] for c in case.outputs]
        out = hostile_out(rng, shapes, dtype, list(arguments.values()))
        if out is not None:
            arguments["out"] = out
    return case, {**case.fixed, **arguments}


def describe(case, arguments):
    parts = []
    for k, v in arguments.items():
        if isinstance(v, np.ndarray):
            parts.append(
                f"{k}=<{v.dtype} {v.shape} strides {v.strides}> {np.array2string(v, threshold=20)}"
            )
        else:
            parts.append(f"{k}={v!r}")
    return f"{case.function}({', '.join(parts)})"


def shares_memory(a, b):
    items = b if isinstance(b, tuple) else (b,)
    return any(
        isinstance(a, np.ndarray) and isinstance(i, np.ndarray) and np.may_share_memory(a, i)
        for i in items
    )


def check_sentence(case, error):
    text = str(error)
    errors = (*ERRORS, *getattr(case, "errors", ()))
    assert isinstance(error, errors), f"{type(error).__name__}: {text}"
    assert text.startswith(f"{case.function}: "), f"does not begin with the function: {text!r}"
    assert "\n" not in text.strip() and len(text) < 400, f"not one sentence: {text!r}"
    for internal in ("nanobind", "std::", "kernel call", "Traceback", "incompatible"):
        assert internal not in text, f"speaks of the inside: {text!r}"


def check_values(case, got, want, arguments):
    """Specification's tolerance, times the largest magnitude among inputs and result."""
    got = got if isinstance(got, tuple) else (got,)
    want = want if isinstance(want, tuple) else (want,)
    assert len(got) == len(want)
    size = 1.0
    for value in arguments.values():
        if (
            isinstance(value, np.ndarray)
            and value.dtype.kind in "fiu"
            or isinstance(value, list | float | int)
        ):
            with np.errstate(all="ignore"):
                numbers = (
                    np.asarray(value, np.float64).ravel()
                    if not isinstance(value, list)
                    else np.zeros(1)
                )
                numbers = numbers[np.isfinite(numbers)]
            size = max(size, float(np.abs(numbers).max(initial=0)))
    for g, w in zip(got, want, strict=True):
        g, w = np.asarray(g), np.asarray(w)
        assert g.dtype == w.dtype and g.shape == w.shape, (
            f"{g.dtype} {g.shape}, not {w.dtype} {w.shape}"
        )
        tolerance = {"float64": 2e-13, "float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}[
            g.dtype.name
        ]
        g, w = g.astype(np.longdouble), w.astype(np.longdouble)
        np.testing.assert_array_equal(np.isnan(g), np.isnan(w), "nan")
        bound = tolerance * (np.abs(np.where(np.isfinite(w), w, 0)) + size)
        largest = oracle.MAX_EXPONENT[np.asarray(got[0]).dtype.name]
        with np.errstate(all="ignore"):
            near = np.abs(g - w) <= bound
        edge = (np.isinf(g) | np.isinf(w)) & (
            np.abs(np.where(np.isinf(g), w, g)) >= 2.0 ** (largest - 1) * 1.98
        )
        agree = (g == w) | near | edge | np.isnan(w)
        assert np.all(agree), f"{g[~agree][:4]}, the reference has {w[~agree][:4]}"


def is_free(case, arguments):
    """Noise that is drawn anew, and sums of terms of both signs: these may cancel, which the
    accuracy tests cover with its bound, and infinities meet in one order and not in another."""
    if "gumbel" in case.arrays and arguments.get("gumbel") is None:
        return True
    if {**getattr(case, "fixed", {}), **arguments}.get("kernel") in ("cosine", "taylor2"):
        values = np.asarray(arguments.get("v", 0.0))  # of features, not of weights
        return values.dtype.kind in "fV" and not np.all(np.isfinite(values))
    if arguments.get("exclude_self") and not arguments.get("causal"):  # in one piece or in two
        parts = [np.asarray(arguments.get(name, 0.0)) for name in "gv"]
        return any(x.dtype.kind in "fV" and np.any(np.isinf(x)) for x in parts)
    signed = (
        "logsumexp-sign",
        "logsumexp_vjp-b",
        "favor_attention-trig",
        "favor_attention_vjp-trig",
    )
    return case.id in signed


def one_call(rng, backend):
    case, arguments = draw(rng)
    target = getattr(case, "target", "out")
    plain = {k: clean(v) for k, v in arguments.items() if k != target}
    want, refusal = outcome(case.public, {**plain, "backend": "reference"})
    out = arguments.get(target)
    before = {k: snapshot(v) for k, v in arguments.items()}
    got, error = outcome(case.public, {**arguments, "backend": backend})
    try:
        if error is not None:
            check_sentence(case, error)
            assert snapshot(out) == before.get(target), "out was touched by a call that failed"
        if refusal is not None:
            check_sentence(case, refusal)
            if backend == "cuda" and "slice(s)" in str(refusal):
                return  # contents are not looked at there: such a row is nan
            assert error is not None, f"accepted, the reference says {refusal!r}"
        for k, v in arguments.items():
            if k != target and not shares_memory(v, out):
                assert snapshot(v) == before[k], f"{k} was modified"
        if error is not None and refusal is None:
            assert out is not None, f"refused ({error}), the reference takes it"
        if error is None and out is not None:
            items = zip(got, out, strict=True) if isinstance(out, tuple) else ((got, out),)
            assert all(g is o for g, o in items), "out was not returned"
        overlapping = isinstance(out, tuple) and any(
            shares_memory(o, out[:i]) for i, o in enumerate(out)
        )
        if overlapping:
            return None
        if error is None and isinstance(case, Form):
            agree = case.agree(got, want, plain)
            assert all(map(np.all, agree)), f"{got}, the reference has {want}"
        elif error is None and not is_free(case, arguments):
            check_values(case, got, want, plain)
    except Exception as failure:
        return f"{describe(case, arguments)}\n  {type(failure).__name__}: {failure}"
    return None


def main():
    faulthandler.enable()
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", default="cpu")
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep-going", action="store_true")
    options = parser.parse_args()
    if options.backend == "cuda":
        from cuda_host import load

        _backends.cuda_on_host = load()
    np.seterr(all="ignore")
    failures = 0
    for i in range(options.calls):
        failure = one_call(np.random.default_rng([options.seed, i]), options.backend)
        if failure:
            failures += 1
            print(f"--seed {options.seed}, call {i}: {failure}", flush=True)
            if failures >= (50 if options.keep_going else 5):
                break
    names = {case.function for case in (*ALL, *FORMS, *attention_cases.CASES)}
    print(f"{options.calls} calls of {len(names)} functions, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
