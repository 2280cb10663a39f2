"""Importing: quick, light, harmless; the package's public face."""

import importlib
import inspect
import json
import os
import pickle
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import kexue_native as kn

PACKAGE = Path(kn.__file__).parent


def run_python(code, *flags):
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, *flags, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_import_time():
    """At most 40 ms on top of NumPy; the best of several, since the machine may be busy."""
    code = """
import time, numpy
start = time.perf_counter()
import kexue_native
print(time.perf_counter() - start)
"""
    run_python("import kexue_native")  # compiles to bytecode where that is still to be done
    times = []
    for _ in range(12):
        times.append(float(run_python(code).stdout))
        if min(times) < 0.040:
            break
    assert min(times) < 0.040, times


def test_import_brings_nothing_heavy():
    code = """
import sys, json
import numpy
before = set(sys.modules)
import kexue_native
print(json.dumps(sorted({m.partition(".")[0] for m in set(sys.modules) - before})))
"""
    new = set(json.loads(run_python(code).stdout))
    heavy = {
        "cupy",
        "scipy",
        "torch",
        "jax",
        "numba",
        "pandas",
        "ml_dtypes",
        "matplotlib",
        "mpmath",
    }
    assert "kexue_native" in new and not new & heavy


def test_import_leaves_subnormals_alive():
    """No flag of the processor is changed: a library built with fast-math would set one."""
    code = """
import numpy as np
tiny = np.array([2.0**-1074, 2.0**-1060])
import kexue_native as kn
assert float(tiny[0]) * 1.0 > 0 and (tiny / 2 * 2)[1] == tiny[1]
small = np.float32(1e-45)
assert small * np.float32(1) > 0
kn.softmax(np.zeros((300, 1000)), axis=1)
assert (tiny * 1.0)[0] > 0 and small * np.float32(1) > 0
assert kn.softmax(np.array([0.0, -740.0]))[1] > 0
"""
    run_python(code)


def test_import_changes_no_environment_and_no_warnings():
    code = """
import os, sys, warnings, numpy
before, filters, errors = dict(os.environ), list(warnings.filters), numpy.geterr()
import kexue_native
assert dict(os.environ) == before and warnings.filters == filters and numpy.geterr() == errors
"""
    run_python(code, "-W", "error")


def test_no_leaks_are_reported_at_exit():
    code = """
import numpy as np, kexue_native as kn
for _ in range(3):
    kn.softmax(np.zeros((4, 5)))
    try:
        kn.softmax(np.zeros((4, 5)), axis=7)
    except Exception:
        pass
"""
    assert "nanobind" not in run_python(code).stderr


def test_typed_marker():
    assert (PACKAGE / "py.typed").is_file()


def test_single_version():
    try:
        installed = metadata.version("kexue_native")
    except metadata.PackageNotFoundError:
        pytest.skip("the package runs from its sources, not installed")
    assert kn.__version__ == installed


def test_core_has_the_package_version():
    try:
        core = importlib.import_module("kexue_native._core")
    except ImportError as error:
        pytest.skip(f"no compiled core: {error}")
    assert core.version == kn.__version__


def test_public_names_exist():
    assert sorted(kn.__all__) == sorted(set(kn.__all__))
    for name in kn.__all__:
        assert hasattr(kn, name), name
    for name in ("show_config", "use_backend", "set_num_threads", "get_num_threads", "LIMITS"):
        assert name in kn.__all__
    for family in (kn.special, kn.losses, kn.optim):
        assert set(family.__all__) <= set(kn.__all__)


NAMES = [*kn.special.__all__, *kn.losses.__all__, *kn.optim.__all__]
FUNCTIONS = [n for n in NAMES if inspect.isfunction(getattr(kn, n))]
CLASSES = [n for n in NAMES if inspect.isclass(getattr(kn, n))]


def test_all_else_are_numbers():
    constants = {*NAMES} - {*FUNCTIONS, *CLASSES}
    assert constants == {n for n in NAMES if n.isupper()}
    assert all(type(getattr(kn, n)) is float for n in constants)


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES])
def test_public_functions_pickle(name):
    value = getattr(kn, name)
    assert pickle.loads(pickle.dumps(value)) is value


def test_named_tuples_pickle():
    bounds = kn.logsumexp_bounds(np.zeros((2, 3)))
    again = pickle.loads(pickle.dumps(bounds))
    assert type(again) is type(bounds) and again._fields == bounds._fields
    for a, b in zip(again, bounds, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", [*CLASSES, *kn.boosting.__all__])
def test_classes_have_docstrings(name):
    assert inspect.getdoc(getattr(kn, name, getattr(kn.boosting, name, None)))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_docstrings_are_complete(name):
    value = getattr(kn, name)
    doc = inspect.getdoc(value)
    assert "\n" not in doc.splitlines()[0] and len(doc.splitlines()[0]) < 100
    for section in ("Parameters", "Returns", "Raises", "Notes", "Examples"):
        assert f"\n{section}\n---" in doc, f"{name}: {section}"
    for part in ("Special values", "Accuracy", "Source", "Signature"):
        assert part.lower() in doc.lower(), f"{name}: {part}"
    assert "LIMITS[" not in doc and "MAGNITUDE[" not in doc, "the figures were not filled in"
    for parameter in inspect.signature(value).parameters:
        assert parameter in doc, f"{name}: {parameter} is not described"
    assert all(len(line) <= 110 for line in doc.splitlines())


def test_docstrings_state_the_limits():
    """The figure in the docstring is the constant that the tests use."""
    for name, stated in kn.LIMITS.items():
        doc = getattr(kn, name).__doc__
        for value in set(stated.values()):
            assert f"{value} (" in doc, f"{name}: {value} ULP is not in the docstring"


def test_include_and_cmake_directories():
    include, cmake = Path(kn.get_include()), Path(kn.get_cmake_dir())
    if not include.is_dir():
        pytest.skip("the package runs from its sources, not installed")
    assert (include / "kexue" / "special.h").is_file()
    assert list(cmake.glob("kexueConfig.cmake"))
