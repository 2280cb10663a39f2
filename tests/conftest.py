"""Shared fixtures: which backend, which type, reproducible numbers, outputs full of NaN."""

import zlib
from contextlib import ExitStack, contextmanager
from functools import cache

import numpy as np
import pytest

import cases  # noqa: F401 before any of the modules that it gathers
import kexue_native as kn
import oracle
from kexue_native import _backends

LEVELS = ("cpu:v2", "cpu:v3", "cpu:v4", "cpu:base")


def pytest_addoption(parser):
    parser.addoption(
        "--backend",
        action="append",
        metavar="NAME",
        help="test this backend only (reference, cpu, cpu:v3, ..., cuda); may be repeated",
    )


def pytest_configure(config):
    for marker in (
        "slow: more rows or more memory; run with -m slow",
        "exhaustive: all operands there are, in minutes; run with -m exhaustive",
        "one_level: about the wrapper or the engine, whose text is the same for all levels: the "
        "best one will do, unless --backend says otherwise",
        "dtypes(*names): types that show all there is to see",
    ):
        config.addinivalue_line("markers", marker)


def pytest_collection_modifyitems(config, items):
    """Slow tests run when the marker expression names them."""
    wanted = config.option.markexpr or ""
    left_out = [name for name in ("slow", "exhaustive") if name not in wanted]
    slow = [item for item in items if any(map(item.get_closest_marker, left_out))]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


def backend_names(config):
    """The reference, each level that is built (one placeholder without the core), and CUDA."""
    built = tuple(f"cpu:{level}" for level in _backends.core.levels()) if _backends.core else ()
    names = ("reference", *(built or ("cpu",)), "cuda")
    wanted = config.getoption("--backend")
    if not wanted:
        return names
    unknown = set(wanted) - {*names, *LEVELS, "cpu"}
    if unknown:
        raise pytest.UsageError(f"--backend: no backend is named {', '.join(sorted(unknown))}")
    return tuple(n for n in names if n in wanted or (n.startswith("cpu") and "cpu" in wanted)) or (
        *wanted,
    )


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc):
    """The backends of a test follow one another, so that what is expected is computed once."""

    def marked(name):
        return metafunc.definition.get_closest_marker(name)

    def parametrize(name, values, ids=None):
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, values, ids=ids, indirect=True, scope="function")

    names = backend_names(metafunc.config)
    if marked("one_level"):
        asked, others = metafunc.config.getoption("--backend") or (), _backends.levels()[:-1]
        names = [n for n in names if n in asked or n.partition(":")[2] not in others]
    parametrize("dtype", marked("dtypes").args if marked("dtypes") else oracle.DTYPES)
    parametrize("backend", names)
    kinds = [n for n in names if n != "cuda"], [n for n in names if n == "cuda"]
    parametrize("backends", [kind for kind in kinds if kind], lambda kind: "+".join(kind))


class Backend:
    """Calls public functions on one backend; NumPy in, NumPy out, wherever it runs."""

    def __init__(self, name, cupy=None):
        self.name = name
        self.cupy = cupy

    @property
    def on_device(self):
        return self.cupy is not None

    def put(self, a):
        return self.cupy.asarray(a) if self.on_device and isinstance(a, np.ndarray) else a

    def get(self, a):
        if isinstance(a, tuple):
            found = tuple(self.get(v) for v in a)
            return type(a)(*found) if hasattr(a, "_fields") else found
        return self.cupy.asnumpy(a) if self.on_device and isinstance(a, self.cupy.ndarray) else a

    def __call__(self, function, *args, **options):
        args = [self.put(a) for a in args]
        options = {k: self.put(v) for k, v in options.items()}
        return self.get(function(*args, backend=self.name, **options))

    def call(self, case, arrays, **options):
        return self(case.public, **arrays, **case.options(**options))

    def check(self, case, returned, arrays, **options):
        """Assert that a result is within the stated limit; see Case.check."""
        case.check(returned, arrays, plain=self.plain, **options)

    @property
    def plain(self):
        """Written on NumPy's functions, which have an error of their own."""
        return self.name == "reference"

    @property
    def rows(self):
        """Share of the rows to test: the host's stand-in for a GPU is slow."""
        return 1.0 if self.name != "cuda" or self.on_device else 0.01


@cache
def _device():
    """CuPy with a device and the compiled CUDA module, or the reason why not."""
    try:
        import cupy
    except ImportError:
        return None, "CuPy is not installed"
    reason = _backends.refusal("cuda", cupy)
    return (None, reason) if reason else (cupy, "")


@pytest.fixture(scope="session")
def cuda_host():
    """The CUDA kernels compiled for the host; None where a device runs them."""
    try:
        from cuda_host import load
    except ImportError as error:
        pytest.skip(f"the host build of the CUDA kernels is not here: {error}")
    return load()


@contextmanager
def opened(name, request):
    if name != "cuda":
        reason = _backends.refusal(name)
        if reason:
            pytest.skip(f"{name}: {reason}")
        yield Backend(name)
        return
    cupy, reason = _device()
    if cupy is not None:
        yield Backend(name, cupy)
        return
    host = request.getfixturevalue("cuda_host")
    assert host is not None, reason
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_backends, "cuda_on_host", host)
        yield Backend(name)


@pytest.fixture(scope="session")
def backend(request):
    with opened(request.param, request) as one:
        yield one


@pytest.fixture(scope="session")
def backends(request):
    """All on the host or CUDA, where finding arguments takes longer than calls with them."""
    usable = [n for n in request.param if n == "cuda" or not _backends.refusal(n)]
    with ExitStack() as stack:
        yield [stack.enter_context(opened(n, request)) for n in usable or request.param]


@pytest.fixture(scope="session")
def dtype(request):
    return oracle.dtype_of(request.param)


@pytest.fixture
def rng(request):
    """Numbers that depend on the test's name only, the same for all backends."""
    name = request.node.nodeid
    if "backend" in request.fixturenames:
        name = name.replace(request.node.callspec.params["backend"], "")
    return np.random.default_rng(zlib.crc32(name.encode()))


@pytest.fixture(autouse=True, scope="session")
def outputs_arrive_full_of_nan():
    """An element that no kernel writes must not pass by luck: new arrays start as NaN."""
    plain = np.empty

    def empty(*args, **options):
        a = plain(*args, **options)
        if a.dtype.kind == "f" or a.dtype.name == "bfloat16":
            a.fill(np.nan)
        return a

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "empty", empty)
        yield


@pytest.fixture
def threads():
    """Restores the number of threads."""
    before = kn.get_num_threads()
    yield
    kn.set_num_threads(before)
