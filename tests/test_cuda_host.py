"""The CUDA kernels, run on the CPU: block sizes, rows split between blocks, strides, and that no
result hangs on the order in which threads get their turn."""

import re
from pathlib import Path

import numpy as np
import pytest

import cuda_host
import kexue_native as kn
import oracle
from cases import CASES
from kexue_native import _backends
from kexue_native.special.reductions import cuda, reference

ROOT = Path(__file__).resolve().parents[1]

# Other limits than a GPU's, under which small arrays meet what large ones meet there.
LIMITS = {
    "one warp": {"threads": 32},
    "two warps, split": {"threads": 64, "chunk": 60, "chunk_across": 9},
    "four warps, few blocks": {"threads": 128, "blocks": 2, "chunk": 150, "chunk_across": 50},
    "eight warps, small chunks": {"threads": 256, "blocks": 7, "chunk": 30, "chunk_across": 4},
}
SHAPES = ((2, 400), (2, 129), (7, 33), (90, 6), (4, 1), (2, 0))
KERNEL_CASES = [case for case in CASES if case.function != "logsumexp_jensen_gap"]

each_limit = pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
each_case = pytest.mark.parametrize("case", KERNEL_CASES, ids=lambda c: c.id)


@pytest.fixture(scope="module")
def host():
    kernels = cuda_host.load()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_backends, "cuda_on_host", kernels)
        yield kernels


def call(case, arrays, **options):
    axis = {} if case.function == "entropy_invariant_scale" else {"axis": -1}
    return case.call(arrays, backend="cuda", **axis, **options)


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


def layouts(arrays):
    """The same arguments in memory as they come, row by row across memory, backwards with gaps."""
    yield arrays
    yield {name: np.asfortranarray(a) for name, a in arrays.items()}
    spread = {}
    for name, a in arrays.items():
        room = np.zeros([3 * size for size in a.shape], a.dtype)
        spread[name] = room[tuple(slice(None, None, 3) for _ in a.shape)][..., ::-1]
        spread[name][...] = a
    yield spread


def test_cuda_host_has_every_kernel(host):
    for name in dir(host.reductions):
        assert callable(getattr(reference, name)), name
        assert callable(getattr(cuda, name)), name


@each_limit
@each_case
def test_cuda_host_within_limits(host, case, limits, dtype, rng):
    for shape in SHAPES:
        masks = (False, True) if case.mask else (False,)
        for masked in masks:
            arrays = case.make(rng, shape, dtype, mask=masked)
            for note, given in enumerate(layouts(arrays)):
                with host.limits(**limits, warp_by_warp=note == 1):
                    returned = call(case, given)
                check(case, returned, arrays, f"{shape}, layout {note}, mask {masked}")


@each_limit
@each_case
def test_cuda_host_bits_do_not_depend_on_the_order_of_threads_or_blocks(host, case, limits, rng):
    for shape in ((1, 333), (70, 20)):
        for arrays in layouts(case.make(rng, shape, np.float64, mask=case.mask)):
            with host.limits(**limits):
                expected = bits(case, arrays)
            with host.limits(**{**limits, "blocks": 1}, warp_by_warp=True):
                assert bits(case, arrays) == expected, shape


@each_case
def test_cuda_host_more_loop_axes_than_one_launch_has(host, case, rng):
    loop = (2, 1, 2, 3, 2, 1, 2, 2, 2, 2, 2)
    arrays = case.make(rng, (*loop, 5), np.float64)
    mixed = {}
    for name, a in arrays.items():  # no two axes can be joined
        order = (10, 8, 6, 4, 2, 0, 9, 7, 5, 3, 1)
        order = (*order, 11) if a.ndim == 12 else order
        mixed[name] = np.ascontiguousarray(a.transpose(order)).transpose(np.argsort(order))
    with host.limits(threads=32):
        check(case, call(case, mixed), arrays, "mixed axes")


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
