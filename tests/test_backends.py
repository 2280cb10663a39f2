"""Choice of the backend: per call, per context, per process; obeyed or refused with the reason."""

import asyncio
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import kexue_native as kn
from kexue_native import _backends
from kexue_native.special.reductions import reference

X = np.array([[0.5, 1.0, -2.0]])


@pytest.fixture
def called(monkeypatch):
    """Counts calls of the reference's logsumexp."""
    calls = []
    plain = reference.logsumexp

    def counted(*args):
        calls.append(args)
        return plain(*args)

    monkeypatch.setattr(reference, "logsumexp", counted)
    return calls


def test_per_call(called):
    kn.logsumexp(X, backend="reference")
    assert len(called) == 1


def test_per_context(called):
    with kn.use_backend("reference"):
        kn.logsumexp(X)
        assert len(called) == 1
        if _backends.core is not None:
            kn.logsumexp(X, backend="cpu")  # the call's own word counts more
            assert len(called) == 1
            with kn.use_backend("cpu"):
                kn.logsumexp(X)
                assert len(called) == 1
            kn.logsumexp(X)
            assert len(called) == 2
    if _backends.core is not None:
        kn.logsumexp(X)
        assert len(called) == 2


def test_as_decorator(called):
    @kn.use_backend("reference")
    def work():
        return kn.logsumexp(X)

    work(), work()
    assert len(called) == 2


def test_context_ends_with_an_error(called):
    if _backends.core is None:
        pytest.skip(_backends.core_reason)
    with pytest.raises(ZeroDivisionError), kn.use_backend("reference"):
        1 / 0  # noqa: B018
    kn.logsumexp(X)
    assert not called


def test_context_is_local_to_threads_and_tasks(called):
    if _backends.core is None:
        pytest.skip(_backends.core_reason)
    with kn.use_backend("reference"):
        thread = threading.Thread(target=kn.logsumexp, args=(X,))
        thread.start()
        thread.join()
        assert not called, "the context leaked into another thread"

    async def one():
        with kn.use_backend("reference"):
            await asyncio.sleep(0.01)
            kn.logsumexp(X)

    async def other():
        await asyncio.sleep(0.005)
        kn.logsumexp(X)

    async def both():
        await asyncio.gather(one(), other())

    asyncio.run(both())
    assert len(called) == 1


def run_python(code, **environment):
    path = os.pathsep.join(p for p in sys.path if p)
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_per_process():
    code = """
import numpy as np
import kexue_native as kn
from kexue_native.special.reductions import reference
calls = []
plain = reference.softmax
reference.softmax = lambda *a: (calls.append(1), plain(*a))[1]
kn.softmax(np.zeros(3))
print(len(calls), kn.show_config()["backend chosen"])
"""
    done = run_python(code, KEXUE_BACKEND="reference")
    assert done.stdout.split()[:2] == ["1", "reference"], done.stderr
    done = run_python(code, KEXUE_BACKEND="")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == ("0" if _backends.core else "1")


@pytest.mark.parametrize("name", ["gpu", "CPU", "cpu:", "cpu:v9"])
def test_unknown_name_in_the_environment(name):
    done = run_python("import kexue_native as kn; kn.softmax([1.0])", KEXUE_BACKEND=name)
    assert done.returncode != 0
    assert "backend must be one of" in done.stderr and repr(name) in done.stderr


def test_unknown_names_are_refused():
    for name in ("gpu", "cpu:v9", "", "Reference"):
        with pytest.raises(ValueError, match="backend must be one of reference, cpu, .* got"):
            kn.use_backend(name).__enter__()
    for name in (3, b"cpu", ["cpu"]):
        with pytest.raises(TypeError, match="backend must be"):
            kn.logsumexp(X, backend=name)


def test_missing_backends_are_refused_with_the_reason():
    """A named backend is used or refused; never another one in its place."""
    for name in _backends.NAMES:
        reason = _backends.refusal(name, np)
        if reason is None:
            np.testing.assert_allclose(
                kn.logsumexp(X, axis=1, backend=name), [1.5045969], rtol=0, atol=1e-7
            )
            continue
        assert len(reason) > 10
        with pytest.raises(RuntimeError) as caught:
            kn.logsumexp(X, backend=name)
        assert str(caught.value) == f"logsumexp: backend {name!r} cannot be used: {reason}"


def test_cuda_does_not_take_numpy_arrays():
    if _backends.cuda_on_host is not None:
        pytest.skip("the host build of the CUDA kernels takes NumPy arrays")
    with pytest.raises(RuntimeError, match="cannot be used: .*NumPy"):
        kn.softmax(X, backend="cuda")


def test_every_built_level_is_offered():
    if _backends.core is None:
        pytest.skip(_backends.core_reason)
    built, supported = set(_backends.core.levels()), set(_backends.core.supported())
    assert built and supported <= set(_backends.LEVELS)
    assert set(_backends.levels()) == built & supported
    config = kn.show_config()
    assert config["cpu level in use"] == _backends.levels()[-1]
    for level in built - supported:
        with pytest.raises(RuntimeError, match=f"this CPU has no level {level}"):
            kn.softmax(X, backend=f"cpu:{level}")
    for level in set(_backends.LEVELS) - built:
        with pytest.raises(RuntimeError, match=f"level {level} was not built"):
            kn.softmax(X, backend=f"cpu:{level}")


def test_cpu_is_the_best_level():
    if _backends.core is None:
        pytest.skip(_backends.core_reason)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 300))
    best = f"cpu:{_backends.levels()[-1]}"
    for function in (kn.logsumexp, kn.softmax):
        chosen = function(x, axis=1)
        assert chosen.tobytes() == function(x, axis=1, backend="cpu").tobytes()
        assert chosen.tobytes() == function(x, axis=1, backend=best).tobytes()


def test_show_config_names_everything():
    config = kn.show_config()
    text = str(config)
    for key, value in config.items():
        assert key in text and str(value) in text
    assert config["kexue_native"] == kn.__version__
    assert config["numpy"] == np.__version__
    assert config["threads"] == kn.get_num_threads()
    if _backends.core is None:
        assert len(config["cpu core"]) > 20, "the reason is missing"
    assert config["cuda module"] and config["cupy"]


def test_core_that_does_not_load_warns(tmp_path):
    """A core that is broken: a warning with the loader's words, and the reference works."""
    package = os.path.dirname(kn.__file__)
    broken = tmp_path / "_core.abi3.so"
    broken.write_bytes(b"not a library")
    code = f"""
import sys, warnings
import importlib.machinery as m, importlib.util as u
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "kexue_native._core":
            return u.spec_from_file_location(name, {str(broken)!r},
                                             loader=m.ExtensionFileLoader(name, {str(broken)!r}))
sys.meta_path.insert(0, Finder)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import kexue_native as kn
print([str(w.message) for w in caught])
print(float(kn.logsumexp([0.0, 0.0])), kn.show_config()["cpu core"])
"""
    done = run_python(code, PYTHONPATH=os.path.dirname(package))
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.count("does not load") == 1 and "NumPy reference" in first
    assert second.startswith("0.6931471805599453 ") and "does not load" in second
