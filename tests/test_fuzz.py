"""Hostile arguments, in a process of their own: a crash is a failure, not the end of the run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def run(*command, timeout=280):
    path = os.pathsep.join([str(HERE), *(p for p in sys.path if p)])
    return subprocess.run(
        [sys.executable, *command],
        env={**os.environ, "PYTHONPATH": path, "PYTHONFAULTHANDLER": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def fuzz(backend, calls, seed):
    if backend.on_device:
        pytest.skip("these are NumPy arrays; a GPU takes CuPy arrays")
    done = run(
        str(HERE / "fuzz.py"), "--backend", backend.name, "--calls", str(calls), "--seed", str(seed)
    )
    report = f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    assert done.returncode == 0, report
    assert f"{calls} calls" in done.stdout and "0 failures" in done.stdout, report
    assert "nanobind: leaked" not in done.stderr and done.stderr == "", report


def test_fuzz(backend):
    fuzz(backend, 3000 if backend.rows == 1 else 150, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 9))
def test_fuzz_long(backend, seed):
    fuzz(backend, 20_000 if backend.rows == 1 else 2000, seed)


LEAK = """
import resource, sys
import numpy as np
import kexue_native as kn

backend = sys.argv[1]
x = np.zeros((100, 500))
wrong = [
    lambda: kn.softmax(x, axis=5, backend=backend),
    lambda: kn.softmax(x.astype(complex), backend=backend),
    lambda: kn.softmax(x, mask=np.ones(3, bool), backend=backend),
    lambda: kn.softmax(x, out=np.zeros(3), backend=backend),
    lambda: kn.logmeanexp(x, axis=1, weights=x - 1, backend=backend),
    lambda: kn.softmax_vjp(x, x[0], axis=1, backend=backend),
]

def work(times):
    for _ in range(times):
        kn.softmax(x[::-1, ::2], axis=0, backend=backend)
        kn.logsumexp(x.astype(">f4"), axis=1, b=x + 1, return_sign=True, backend=backend)
        for call in wrong:
            try:
                call()
            except (TypeError, ValueError, IndexError):
                pass

def memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

counts = lambda: (sys.getrefcount(x), sys.getrefcount(None) // 1000)
work(20)
before, references = memory(), sys.getrefcount(x)
work(150)
assert sys.getrefcount(x) == references, (sys.getrefcount(x), references)
print(memory() - before)
"""


def test_no_memory_is_lost(backend):
    """Calls that succeed and calls that fail: 150 rounds handle 500 MB and keep none of it."""
    if backend.on_device or backend.rows < 1 or os.name == "nt":
        pytest.skip("measures the process's own memory")
    done = run("-c", LEAK, backend.name)
    assert done.returncode == 0, done.stderr
    assert "nanobind" not in done.stderr
    assert int(done.stdout) < 30, f"{done.stdout.strip()} MB more"
