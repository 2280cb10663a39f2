"""The CUDA kernels of attention on the CPU: blocks and segments of any size, chunks that need other
units, numbers that are not finite, and the streaming step."""

import numpy as np
import pytest

import attention_oracle as oracle
import kexue_native as kn
from kexue_native import _backends
from kexue_native.attention.exact import cuda as exact
from kexue_native.attention.linear import cuda
from oracle import dtype_of
from test_attention import close, log_size, make, options_of, wide

LIMITS = {
    "one warp": {"threads": 32},
    "two warps, one block": {"threads": 64, "blocks": 1},
    "eight warps, few blocks": {"threads": 256, "blocks": 3},
}
KERNELS = (
    "elu1", "identity", "efficient", "softmax_d", "cosine", "taylor2", "favor_positive",
    "favor_trig",
)  # fmt: skip
ALL_KERNELS = (*KERNELS, "relu", "exp", "favor_hyperbolic", "favor_plus", "favor_relu")


@pytest.fixture(scope="module")
def host(cuda_host):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_backends, "cuda_on_host", cuda_host)
        yield cuda_host


def both(function, *args, **options):
    """Results of the kernels and of the reference, one after the other"""
    for name in ("cuda", "reference"):
        found = function(*args, backend=name, **options)
        yield found if isinstance(found, tuple) else (found,)


def agree(found, expected, scale, dtype=np.float64):
    for pair in zip(found, expected, strict=True):
        got, want = (np.where(np.isneginf(x), -99.0, x) for x in pair)  # lse of what sees nothing
        close(got, want, scale, np.dtype(dtype))


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_linear_attention_cuda_blocks_and_segments(host, kernel, limit, rng, monkeypatch):
    """Several segments to a sequence and several chunks to a segment"""
    q, k, v = make(rng, (2, 23), 5, 3, np.dtype(np.float64), 29)
    q, k = np.abs(q), np.abs(k[:1])
    g = rng.normal(size=v.shape[:1] + (23, 3))
    options = options_of(kernel, rng, 5, np.float64)
    monkeypatch.setattr(cuda, "SEGMENT", 700)
    monkeypatch.setattr(cuda, "PIECE", 4)
    more = {"key_weight": rng.random(29) * (rng.random(29) < 0.9)}
    for seen in ({"causal": True, "log_decay": -rng.random(29)}, {"exclude_self": True}, {}):
        given = {**options, **seen, **more, "chunk": 4}
        with host.limits(**LIMITS[limit], warp_by_warp=True):
            agree(*both(kn.linear_attention, q, k, v, **given), 8)
            agree(*both(kn.linear_attention_vjp, g, q, k, v, **given), 300)


@pytest.mark.parametrize("kernel", ["exp", "elu1", "softmax_d", "efficient", "favor_positive"])
def test_linear_attention_cuda_units_rise_within_a_chunk(host, kernel, rng):
    """A key far above those before it must not take from them what earlier queries read."""
    for dtype in (np.float64, np.float32):
        q, k, v = make(rng, (70,), 4, 3, np.dtype(dtype))
        k[20] *= 400
        k[40, 1] += 1000
        g = rng.normal(size=v.shape).astype(dtype)
        options = {**options_of(kernel, rng, 4, dtype), "causal": True}
        want = oracle.linear(wide(q), wide(k), wide(v), **options)
        got = kn.linear_attention(q, k, v, backend="cuda", **options)
        size = log_size(kernel, q, k, options)
        close(got, want, np.abs(v).max(), np.dtype(dtype), size)
        found, expected = both(kn.linear_attention_vjp, g, q, k, v, **options)
        for mine, plain in zip(found, expected, strict=True):
            scale = max(np.abs(plain).max(), 1) * 1000
            close(mine, plain, scale, np.dtype(dtype), size)


@pytest.mark.parametrize("kernel", ["elu1", "identity", "efficient", "favor_positive"])
def test_linear_attention_cuda_not_finite(host, kernel, rng):
    """A nan or infinity reaches the rows that see it, and no others of its chunk."""
    options = {**options_of(kernel, rng, 4, np.float64), "causal": True}
    for which, value in ((0, np.nan), (1, np.nan), (2, np.nan), (2, np.inf)):
        arrays = make(rng, (50,), 4, 3, np.dtype(np.float64))
        arrays = (np.abs(arrays[0]), np.abs(arrays[1]), arrays[2])
        arrays[which][17, 1] = value
        g = rng.normal(size=(50, 3))
        for function, given in (
            (kn.linear_attention, arrays),
            (kn.linear_attention_vjp, (g, *arrays)),
        ):
            found, expected = both(function, *given, chunk=16, **options)
            for got, want in zip(found, expected, strict=True):
                finite = np.isfinite(want)
                assert np.array_equal(np.isfinite(got), finite), (function.__name__, which)
                close(got[finite], want[finite], 300, np.dtype(np.float64))


@pytest.mark.parametrize("name", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("kernel", ["elu1", "identity", "relu", "exp", "favor_positive"])
def test_linear_attention_step_cuda(host, kernel, name, rng):
    """Steps of a block of any size equal the causal call, states of any shape."""
    dtype = dtype_of(name)
    for limits, loop, width in ((LIMITS["one warp"], (2, 3), 40), ({"threads": 128}, (), 5)):
        q, k, v = (np.abs(x) for x in make(rng, (*loop, 6), 7, width, dtype))
        options = options_of(kernel, rng, 7, np.float64 if name == "float64" else np.float32)
        weight, decay = rng.random((*loop, 6)), -rng.random((*loop, 6))
        weight[..., 2] = 0
        v[..., 2, :] = np.nan
        want = kn.linear_attention(
            *(x.astype(np.float64) for x in (q, k, v)), causal=True, key_weight=weight,
            log_decay=decay, backend="reference", **options,
        )  # fmt: skip
        f = kn.feature_map(q[..., :1, :], **options).shape[-1]
        state = kn.linear_attention_init(loop, f, width, dtype, kernel=kernel)
        with host.limits(**limits):
            for t in range(6):
                got = kn.linear_attention_step(
                    state, q[..., t, :], k[..., t, :], v[..., t, :], key_weight=weight[..., t],
                    log_decay=decay[..., t], backend="cuda", **options,
                )  # fmt: skip
                close(got, want[..., t, :], 4, dtype, 8)
        assert state.count == 6


@pytest.mark.parametrize("kernel", ALL_KERNELS)
def test_feature_map_cuda(host, kernel, rng):
    for name in ("float64", "float32", "float16", "bfloat16"):
        dtype = dtype_of(name)
        x = rng.normal(size=(2, 9, 4)).astype(dtype)
        wide_type = np.float64 if name == "float64" else np.float32
        options = options_of(kernel, rng, 4, wide_type)
        for is_query in (True, False):
            got = kn.feature_map(x, is_query=is_query, backend="cuda", **options)
            assert got.dtype == dtype
            plain = x.astype(np.float64)
            want = kn.feature_map(plain, is_query=is_query, backend="reference", **options)
            close(got, want, 1, dtype)


def test_linear_attention_cuda_bits_do_not_depend_on_the_order_of_threads(host, rng):
    q, k, v = make(rng, (2, 40), 6, 5, np.dtype(np.float32))
    expected = None
    for blocks, warp_by_warp in ((2**31 - 1, False), (1, True)):
        with host.limits(threads=64, blocks=blocks, warp_by_warp=warp_by_warp):
            got = kn.linear_attention(q, k, v, causal=True, chunk=8, backend="cuda")
            slopes = kn.linear_attention_vjp(v, q, k, v, causal=True, chunk=8, backend="cuda")
        found = [x.tobytes() for x in (got, *slopes)]
        assert expected in (None, found)
        expected = found


SEEN = (
    {}, {"causal": True}, {"exclude_self": True}, {"causal": True, "exclude_self": True},
    {"causal": True, "offset": -4}, {"causal": True, "offset": 40},
    {"exclude_self": True, "offset": 3},
)  # fmt: skip


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("seen", SEEN, ids=str)
def test_softmax_attention_cuda_blocks(host, limit, seen, rng, monkeypatch):
    """Blocks of one query and of several, keys of one head, all options at once"""
    q, k, v = make(rng, (2, 3, 11), 5, 4, np.dtype(np.float64), 19)
    k, v = k[:, :1], v[:1]
    g = rng.normal(size=(2, 3, 11, 4))
    mask = rng.random((2, 1, 19)) < 0.7
    k, v = (np.where(mask[: len(x), :, :, None], x, np.nan) for x in (k, v))
    mask = mask & mask[:1]
    bias = rng.normal(size=(3, 11, 19))
    bias[rng.random(bias.shape) < 0.2] = -np.inf
    more = {"key_mask": mask, "bias": bias, "scale": rng.random(11)}
    for block in (1, 500):
        monkeypatch.setattr(exact, "BLOCK", block)
        for options in ({**seen, **more}, {**seen, "key_mask": mask, "scale": "entropy"}):
            with host.limits(**LIMITS[limit], warp_by_warp=True):
                agree(*both(kn.softmax_attention, q, k, v, return_lse=True, **options), 8)
                if "bias" in options:
                    options["return_bias_grad"] = True
                agree(*both(kn.softmax_attention_vjp, g, q, k, v, **options), 300)


@pytest.mark.parametrize("seen", SEEN[:4], ids=str)
@pytest.mark.parametrize(
    ("which", "value"), [*((x, np.nan) for x in "gqkv"), *((x, np.inf) for x in "gv")]
)
def test_softmax_attention_cuda_not_finite(host, which, value, seen, rng, monkeypatch):
    """Of a query, key or value reaches who sees it, and no others."""
    monkeypatch.setattr(exact, "BLOCK", 60)
    q, k, v = make(rng, (12,), 4, 3, np.dtype(np.float64))
    arrays = {"g": rng.normal(size=(12, 3)), "q": q, "k": k, "v": v}
    arrays[which][5, 1] = value
    mask = np.arange(12) != 8
    k[8], v[8] = np.nan, -np.inf
    for function in (kn.softmax_attention, kn.softmax_attention_vjp):
        given = [x for name, x in arrays.items() if name != "g" or "vjp" in function.__name__]
        found, expected = both(function, *given, key_mask=mask, **seen)
        for got, want in zip(found, expected, strict=True):
            finite = np.isfinite(want)
            assert np.array_equal(np.isfinite(got), finite)
            close(got[finite], want[finite], 100, np.dtype(np.float64))


def test_softmax_attention_cuda_bits_do_not_depend_on_the_order_of_threads(host, rng):
    q, k, v = make(rng, (2, 40), 6, 5, np.dtype(np.float32))
    expected = None
    for blocks, warp_by_warp in ((2**31 - 1, False), (1, True)):
        with host.limits(threads=64, blocks=blocks, warp_by_warp=warp_by_warp):
            got = kn.softmax_attention(q, k, v, causal=True, backend="cuda")
            slopes = kn.softmax_attention_vjp(v, q, k, v, causal=True, backend="cuda")
        found = [x.tobytes() for x in (got, *slopes)]
        assert expected in (None, found)
        expected = found
