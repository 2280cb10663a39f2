"""The CUDA kernels, run on the CPU: block sizes, rows split between blocks, strides, and that no
result hangs on the order in which threads get their turn."""

import re
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import numpy as np
import pytest

import cuda_host
import kexue_native as kn
import oracle
from cases import BY_ID, CASES
from kexue_native import _backends, _device, losses, mitchell, optim, special
from kexue_native.losses.ranking import reference as ranking
from kexue_native.special.reductions import reference

ROOT = Path(__file__).resolve().parents[1]

# Other limits than a GPU's, under which small arrays meet what large ones meet there.
LIMITS = {
    "one warp": {"threads": 32},
    "two warps, split": {"threads": 64, "chunk": 60, "chunk_across": 9},
    "four warps, few blocks": {"threads": 128, "blocks": 2, "chunk": 150, "chunk_across": 50},
    "eight warps, small chunks": {"threads": 256, "blocks": 7, "chunk": 30, "chunk_across": 4},
}
SHAPES = ((2, 400), (2, 129), (7, 33), (90, 6), (4, 1), (2, 0))
MULTILABEL = BY_ID["multilabel_crossentropy"]  # another kernel where no Hessian is wanted
MULTILABEL_GRADIENT = replace(MULTILABEL, outputs=("", "n"), fixed={"return_grad": True})
KERNEL_CASES = [case for case in CASES if case.function != "logsumexp_jensen_gap"]
KERNEL_CASES.append(MULTILABEL_GRADIENT)

each_limit = pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
each_case = pytest.mark.parametrize("case", KERNEL_CASES, ids=lambda c: c.id)
# A type has kernels of its own; the limits concern how a kernel is launched.
each_type_and_limit = pytest.mark.parametrize(
    "limit, type_name",
    [
        ("one warp", "float64"),
        ("eight warps, small chunks", "float64"),
        ("two warps, split", "float32"),
        ("four warps, few blocks", "float16"),
        ("two warps, split", "bfloat16"),
    ],
)


@pytest.fixture(scope="module")
def host():
    kernels = cuda_host.load()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_backends, "cuda_on_host", kernels)
        yield kernels


def call(case, arrays, **options):
    return case.call(arrays, backend="cuda", axis=-1, **options)


def check(case, returned, arrays, note):
    """Twice the stated limit: rows are split far finer than on a GPU, and each merge rounds."""
    exact, scales = case.exact(arrays)
    for k, got in enumerate(case.results(returned)):
        if got.size == 0:
            continue
        error, where = oracle.worst(got, exact[k], got.dtype, *scales[k])
        allowed = 2 * case.limit(got.dtype, k)
        assert error <= allowed, (
            f"{case.id} {note}: {got[where]}, not {exact[k][where]}: {error} ULP"
        )


def bits(case, arrays, **options):
    return [a.tobytes() for a in case.results(call(case, arrays, **options))]


def across(arrays):
    """The same arguments, row by row across memory."""
    return {name: np.asfortranarray(a) for name, a in arrays.items()}


def backwards(arrays):
    """The same arguments, backwards with gaps."""
    spread = {}
    for name, a in arrays.items():
        room = np.zeros([3 * size for size in a.shape], a.dtype)
        spread[name] = room[tuple(slice(None, None, 3) for _ in a.shape)][..., ::-1]
        spread[name][...] = a
    return spread


LAYOUTS = (dict, across, backwards)


def same(found, expected):
    """Two results of a kernel by other ways through it, which a compiler may round differently."""
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-14, atol=1e-16)


def test_cuda_host_has_every_kernel(host):
    for family in (special, losses, optim, mitchell):
        for part in iter_modules(family.__path__, f"{family.__name__}."):
            if not part.ispkg:
                continue
            on_device, plain = (import_module(f"{part.name}.{m}") for m in ("cuda", "reference"))
            for name in dir(getattr(host, part.name.rpartition(".")[2])):
                assert callable(getattr(plain, name)), name
                assert callable(getattr(on_device, name)), name


@each_type_and_limit
@each_case
def test_cuda_host_within_limits(host, case, limit, type_name, rng):
    """Over all limits and types each shape comes in each layout."""
    turn = list(LIMITS).index(limit)
    for shape in SHAPES:
        for masked in (False, True) if case.mask else (False,):
            turn += 1
            arrays = case.make(rng, shape, oracle.dtype_of(type_name), mask=masked)
            layout = LAYOUTS[turn % len(LAYOUTS)]
            with host.limits(**LIMITS[limit], warp_by_warp=turn % 2 == 1):
                returned = call(case, layout(arrays))
            check(case, returned, arrays, f"{shape}, {layout.__name__}, mask {masked}")


@each_case
def test_cuda_host_bits_do_not_depend_on_the_order_of_threads_or_blocks(host, case, rng):
    for limit in ("two warps, split", "eight warps, small chunks"):
        for shape, layout in (((1, 333), backwards), ((70, 20), across)):
            arrays = layout(case.make(rng, shape, np.float64, mask=case.mask))
            with host.limits(**LIMITS[limit]):
                expected = bits(case, arrays)
            with host.limits(**{**LIMITS[limit], "blocks": 1}, warp_by_warp=True):
                assert bits(case, arrays) == expected, f"{limit}: {shape}"


@each_case
def test_cuda_host_more_loop_axes_than_one_launch_has(host, case, rng):
    loop = (2, 1, 2, 2, 2, 1, 2, 2, 2, 2, 2)
    arrays = case.make(rng, (*loop, 5), np.float64)
    mixed = {}
    for name, a in arrays.items():  # no two axes can be joined
        order = (10, 8, 6, 4, 2, 0, 9, 7, 5, 3, 1)
        order = (*order, 11) if a.ndim == 12 else order
        mixed[name] = np.ascontiguousarray(a.transpose(order)).transpose(np.argsort(order))
    with host.limits(threads=32):
        check(case, call(case, mixed), arrays, "mixed axes")


@each_limit
@pytest.mark.parametrize("shape", [(3, 200), (40, 9)])
def test_cuda_host_kinds_of_targets_agree(host, limits, shape, rng):
    """Of any type, listed, or of the cells of a matrix: one kernel reads them all."""
    s, t = 9 * rng.standard_normal(shape), rng.random(shape) < 0.1
    indices = np.where(t, np.arange(shape[-1]), -1)
    wants = {"return_grad": True, "backend": "cuda"}
    with host.limits(**limits):
        for more in (wants, {**wants, "return_hess": True}):
            expected = kn.multilabel_crossentropy(s, t, **more)
            for dtype in (np.int8, np.uint8, np.int32, np.uint64, np.float16, np.float32, float):
                given = np.asfortranarray(t.astype(dtype))
                same(kn.multilabel_crossentropy(s, given, **more), expected)
            same(kn.sparse_multilabel_crossentropy(s, indices, **more), expected)

        labels = rng.integers(-1, shape[-1], shape[0])
        taken = (labels[:, None] == np.arange(shape[-1])) & (labels[:, None] >= 0)
        mask = np.broadcast_to(labels[:, None] >= 0, shape)
        expected = kn.softmax_crossentropy(s, taken, mask=mask, **wants)
        same(kn.sparse_softmax_crossentropy(s, labels, ignore_index=-1, **wants), expected)


@each_limit
@pytest.mark.parametrize("tril", [False, True])
def test_cuda_host_cells_are_a_mask(host, limits, tril, rng):
    s = rng.standard_normal((5, 14, 14))
    t, tokens = rng.random(s.shape) < 0.1, rng.random((5, 14)) < 0.8
    mask = kn.globalpointer_mask(tokens, tril=tril).reshape(5, -1)
    wants = {"return_grad": True, "backend": "cuda"}
    with host.limits(**limits):
        loss, grad = kn.globalpointer_crossentropy(s, t, token_mask=tokens, tril=tril, **wants)
        expected = kn.multilabel_crossentropy(
            s.reshape(5, -1), t.reshape(5, -1), mask=mask, **wants
        )
    same((loss, grad.reshape(5, -1)), expected)


def test_cuda_host_classes_that_are_not_there(host, rng):
    """As they arrive on a device: too large ones have become n. Theirs are the rows of nan."""
    s, limit = rng.standard_normal((2, 1, 2, 3, 1, 2, 2, 1, 2, 1, 2, 5)), np.zeros(())
    rows = s.size // 5
    indices, ends = rng.integers(0, 5, rows), np.arange(rows + 1)
    indices[7], indices[11] = 5, -1
    loss, grad = np.empty(s.shape[:-1]), np.empty(s.shape)
    _device.launch(
        "multilabel", "sparse_multilabel_crossentropy", s, indices, ends, None, limit, False,
        loss, grad, None,
    )  # fmt: skip
    one_hot = indices[:, None] == np.arange(5)
    expected = kn.multilabel_crossentropy(s.reshape(-1, 5), one_hot, return_grad=True)
    for got, want in zip((loss.reshape(-1), grad.reshape(-1, 5)), expected, strict=True):
        assert np.all(np.isnan(got[7]))
        same([np.delete(got, 7, 0)], [np.delete(want, 7, 0)])


@each_limit
@pytest.mark.parametrize("form", ["pairwise", "centered"])
def test_cuda_host_multiclass_multilabel_loss(host, limits, form, rng):
    for items, classes in ((300, 4), (3, 130)):
        s, t = rng.standard_normal((2, items, classes)), rng.random((2, items, classes)) < 0.2
        wide = oracle.widen(s).reshape(2, -1), oracle.widen(t).reshape(2, -1)
        exact = ranking.multiclass_multilabel_loss(*wide, classes, form == "centered")
        options = {"form": form, "return_grad": True, "backend": "cuda"}
        with host.limits(**limits):
            loss, grad = kn.multiclass_multilabel_loss(s, t, **options)
        allowed = 2 * kn.LIMITS["multiclass_multilabel_loss"]["float64"]
        assert oracle.worst(loss, exact[0])[0] <= allowed
        slopes = grad.reshape(2, -1)
        assert oracle.worst(slopes, exact[1], magnitude=np.abs(exact[1]).max())[0] <= allowed


@pytest.mark.parametrize("name", ["logsumexp", "softmax"])
def test_cuda_host_long_row_is_split(host, name, rng):
    x = rng.standard_normal((4, 20_000))
    exact = getattr(reference, name)(oracle.widen(x))
    for a in (x, np.asfortranarray(x)):
        got = getattr(kn, name)(a, axis=-1, backend="cuda")
        assert oracle.worst(got, exact)[0] <= kn.LIMITS[name]["float64"]


def test_cuda_host_in_place(host, rng):
    for limits in LIMITS.values():
        x = rng.standard_normal((3, 500))
        with host.limits(**limits):
            expected = kn.log_softmax(x, axis=-1, backend="cuda")
            got = kn.log_softmax(x, axis=-1, backend="cuda", out=x)
        assert got is x
        assert np.array_equal(x, expected)


def test_cuda_host_errors(host):
    x, out = np.zeros((1, 1000)), np.zeros(1)
    given = [(a.ctypes.data, a.shape, a.strides, "d") for a in (x, out)]

    def no_memory(nbytes):
        raise MemoryError(f"{nbytes} bytes")

    with host.limits(chunk=10), pytest.raises(MemoryError, match="bytes"):
        host.reductions.logsumexp(no_memory, 0, "d", given[0], None, given[1])
    with pytest.raises(RuntimeError, match="logsumexp: wrong number of arguments"):
        host.reductions.logsumexp(no_memory, 0, "d", given[0])
    wrong = (*given[1][:3], "f")
    with pytest.raises(RuntimeError, match="logsumexp: dtypes differ"):
        host.reductions.logsumexp(no_memory, 0, "d", given[0], None, wrong)


def test_cuda_host_device_headers_include_nothing_of_the_library():
    headers = ROOT / "cpp" / "include" / "kexue"
    if not headers.is_dir():
        pytest.skip("the headers are not beside the tests")
    for path in headers.rglob("*.h"):
        found = set(re.findall(r"#include <(.*)>", path.read_text(encoding="utf-8")))
        assert found <= {"immintrin.h"}, path  # where there is no __CUDACC__
