"""Clipping by the norm: its properties, and the ends of the range."""

import numpy as np
import pytest

import kexue_native as kn
import oracle

inf, nan = np.inf, np.nan
U = 2.0**-53


@pytest.mark.parametrize("size", [1.0, 1e200, 1e-200, 1e307, 1e-310])
def test_norm_at_any_size(backend, size, rng):
    x = rng.standard_normal(1000) / 4
    x = x * size
    wide = x.astype(np.longdouble)
    exact = np.sqrt((wide / size * (wide / size)).sum()) * size
    got = backend(kn.global_norm, x)
    assert abs(got - exact) <= max(1e-14 * exact, 2 * 5e-324)


@pytest.mark.parametrize("n", [1, 40, 70_001, 300_000])
def test_norm_of_long_arrays(backend, n, rng):
    if backend.name == "cuda" and n > 1000:
        n = 9_000
    for dtype in (np.float64, np.float32):
        x = rng.standard_normal(n).astype(dtype) * 10.0 ** rng.uniform(-30, 30, n).astype(dtype)
        exact = np.sqrt((x.astype(np.longdouble) ** 2).sum())
        assert abs(backend(kn.global_norm, x) / exact - 1) <= 1e-14


def test_norm_of_what_is_not_finite(backend):
    for x, expected in (
        ([inf, 1.0], inf),
        ([-inf, 1.0], inf),
        ([nan, 1.0], nan),
        ([nan, inf], nan),
    ):
        for more in ([], [0.0] * 70_000 if backend.name != "cuda" else []):
            same = backend(kn.global_norm, np.array(x + more))
            assert same == expected or np.isnan(same) and np.isnan(expected)


def test_hard_and_soft(backend, dtype, rng):
    unit = float(oracle.unit_roundoff(dtype))
    for size in (0.01, 1.0, 30.0):
        x = (size * rng.standard_normal(60)).astype(dtype)
        hard, norm = backend(kn.clip_by_global_norm, x, 2.0)
        soft, _ = backend(kn.clip_by_global_norm, x, 2.0, form="soft")
        h, s, w = (oracle.widen(a).astype(float) for a in (hard, soft, x))
        if norm <= 2.0:
            assert hard.tobytes() == x.tobytes()
        else:
            np.testing.assert_allclose(np.linalg.norm(h), 2.0, rtol=4 * unit)
            np.testing.assert_allclose(h, w * (2.0 / norm), rtol=2 * unit, atol=1e-7)
        np.testing.assert_allclose(s, w * (2.0 / (norm + 2.0)), rtol=2 * unit, atol=1e-7)
        assert np.all(np.abs(h) / 2 <= np.abs(s) * (1 + 4 * unit) + 1e-7)
        assert np.all(np.abs(s) <= np.abs(h) * (1 + 4 * unit) + 1e-7)
        again, _ = backend(kn.clip_by_global_norm, hard, 2.0 * (1 + 4 * unit))
        assert again.tobytes() == hard.tobytes()


def test_structure_and_in_place(backend, rng):
    if backend.on_device:
        pytest.skip("NumPy memory")
    a, b = rng.standard_normal((3, 4)), rng.standard_normal(5).astype(np.float32)
    (c, d), norm = backend(kn.clip_by_global_norm, (a, b), 0.5)
    assert c.dtype == np.float64 and d.dtype == np.float32 and c.shape == (3, 4)
    assert kn.global_norm([c, d]) == pytest.approx(0.5, rel=1e-7)
    listed, _ = backend(kn.clip_by_global_norm, [a, b], 0.5)
    assert isinstance(listed, list)
    own = [a.copy(), b.copy()]
    got, _ = backend(kn.clip_by_global_norm, own, 0.5, out=own)
    assert got[0] is own[0] and got[1] is own[1]
    np.testing.assert_array_equal(own[0], c)
    np.testing.assert_array_equal(own[1], d)
    one, _ = backend(kn.clip_by_global_norm, own[0], 0.1, out=own[0])
    assert one is own[0]
    out = np.empty(())
    assert kn.global_norm(a, out=out, backend=backend.name) is out and out == kn.global_norm(a)


def test_edges(backend):
    clip = lambda x, m=1.0, **k: backend(kn.clip_by_global_norm, np.array(x), m, **k)[0]  # noqa: E731
    np.testing.assert_array_equal(clip([inf, 1.0, -2.0]), [nan, 0, 0])
    assert np.all(np.isnan(clip([nan, 1.0])))
    np.testing.assert_array_equal(clip([inf, nan, 1.0], nonfinite="zero"), [0, 0, 0])
    with pytest.raises(ValueError, match="^clip_by_global_norm: the norm must be finite"):
        clip([inf, 1.0], nonfinite="raise")
    np.testing.assert_array_equal(clip([0.0, -0.0]), [0, 0])
    np.testing.assert_allclose(clip([3e-310, 4e-310], 1e-310), [0.6e-310, 0.8e-310], atol=5e-324)
    np.testing.assert_allclose(clip([3e300, 4e300], 1e308, form="soft"), [3e300, 4e300], rtol=1e-7)
    np.testing.assert_allclose(
        clip([1.2e308, 1.2e308], 1.5e308, form="soft"),
        1.2e308 * (1.5 / (1.2 * 2**0.5 + 1.5)),
        rtol=1e-14,
    )
    assert clip(np.zeros((0, 3))).shape == (0, 3)
    for wrong in (0.0, -1.0, nan, inf):
        with pytest.raises(ValueError, match="^clip_by_global_norm: max_norm must"):
            clip([1.0], wrong)
    for options in ({"form": "firm"}, {"nonfinite": "skip"}):
        with pytest.raises(ValueError, match=r"^clip_by_global_norm: \w+ must be"):
            clip([1.0], **options)
    with pytest.raises(ValueError, match="^clip_by_global_norm: out must be 1 arrays"):
        kn.clip_by_global_norm([np.ones(2)], 1.0, out=[])


def test_lr_clip_is_the_soft_form(rng):
    g = rng.standard_normal(5)
    L0, L1 = 2.0, 0.5
    soft, norm = kn.clip_by_global_norm(g, L0 / L1, form="soft")
    np.testing.assert_allclose(kn.lr_clip(float(norm), L0, L1) * g, soft / L0, rtol=1e-14)
    for arguments in ((-1.0, 1.0, 1.0), (1.0, -1.0, 1.0), (0.0, 0.0, 1.0), (nan, 1.0, 1.0)):
        with pytest.raises(ValueError, match="^lr_clip: "):
            kn.lr_clip(*arguments)
