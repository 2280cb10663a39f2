"""Threads: the same bits for any number, forks, many callers at once, no GIL while computing."""

import os
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

import kexue_native as kn
from cases import CASES
from kexue_native import _backends

needs_core = pytest.mark.skipif(_backends.core is None, reason=_backends.core_reason or "no core")


def run_python(code, **environment):
    """A fresh interpreter: standard output; fails with what went wrong."""
    path = os.pathsep.join(p for p in sys.path if p)
    env = {**os.environ, "PYTHONPATH": path, **environment}
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", textwrap.dedent(code)],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "nanobind: leaked" not in done.stderr, done.stderr
    return done.stdout.strip()


SHAPES = ((3000, 10), (700, 129), (40, 3001), (2, 70_000), (1, 300_000))
COSTLY_SHAPES = ((300, 10), (20, 129), (2, 1001))  # a row is a job there, however short


@needs_core
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_same_bits_for_any_thread_count(case, backend, rng, threads):
    if not backend.name.startswith("cpu"):
        pytest.skip("threads are those of the CPU core")
    for shape in SHAPES if case.cost == 1 else COSTLY_SHAPES:
        for dtype in (np.float64, np.float32, np.float16):
            arrays = case.make(rng, shape, dtype, mask=case.mask)
            kn.set_num_threads(1)
            want = case.results(backend.call(case, arrays, axis=-1))
            for count in (2, 3, 5, 16):
                kn.set_num_threads(count)
                assert kn.get_num_threads() == count
                got = case.results(backend.call(case, arrays, axis=-1))
                for w, g in zip(want, got, strict=True):
                    assert w.tobytes() == g.tobytes(), f"{shape} {dtype.__name__} {count} threads"


@needs_core
def test_same_bits_on_the_first_axis(backend, rng, threads):
    if not backend.name.startswith("cpu"):
        pytest.skip("threads are those of the CPU core")
    x = rng.standard_normal((1000, 600))
    for function in (kn.logsumexp, kn.softmax, kn.log_softmax):
        kn.set_num_threads(1)
        want = backend(function, x, axis=0).tobytes()
        for count in (2, 7):
            kn.set_num_threads(count)
            assert backend(function, x, axis=0).tobytes() == want


def test_same_bits_wherever_results_lie(backend, rng, dtype):
    """Tiles of the first axis begin where a line of the results does."""
    count, size = 5 * 192, np.dtype(dtype).itemsize
    x = rng.standard_normal((5, 192)).astype(dtype)
    want = backend(kn.softmax, x, axis=0)
    for first in range(0, 64 + size, size):
        memory = np.full(count + 64 // size * 2, 7, dtype)
        out = memory[first // size :][:count].reshape(x.shape)
        backend(kn.softmax, x, axis=0, out=out)
        assert out.tobytes() == want.tobytes()
        out[...] = 7
        assert np.all(memory == 7)


def test_repeated_calls_give_the_same_bits(backend, rng):
    x = rng.standard_normal((200, 333))
    for function in (kn.logsumexp, kn.softmax, kn.log_softmax):
        want = backend(function, x, axis=1).tobytes()
        for _ in range(5):
            assert backend(function, x.copy(), axis=1).tobytes() == want


@needs_core
def test_many_python_threads_at_once(rng, threads):
    """Callers that find the pool busy do the work themselves; nobody waits, nothing is mixed up."""
    kn.set_num_threads(2)
    inputs = [rng.standard_normal((500, 100 + i)) for i in range(8)]
    want = [kn.softmax(x, axis=1) for x in inputs]
    wrong, start = [], threading.Barrier(len(inputs))

    def work(i):
        start.wait()
        for _ in range(30):
            if kn.softmax(inputs[i], axis=1).tobytes() != want[i].tobytes():
                wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for w in workers:
        w.start()
    for w in workers:
        w.join(60)
    assert not any(w.is_alive() for w in workers), "a call never came back"
    assert not wrong


@needs_core
def test_thread_count_changes_while_others_compute(rng, threads):
    x = rng.standard_normal((2000, 100))
    want = kn.logsumexp(x, axis=1).tobytes()
    stop, wrong = threading.Event(), []

    def work():
        while not stop.is_set():
            if kn.logsumexp(x, axis=1).tobytes() != want:
                wrong.append(1)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for w in workers:
        w.start()
    for count in [1, 4, 2, 8, 3] * 10:
        kn.set_num_threads(count)
        time.sleep(0.002)
    stop.set()
    for w in workers:
        w.join(60)
    assert not any(w.is_alive() for w in workers) and not wrong


@needs_core
def test_gil_is_released(threads):
    """While one thread computes, another runs Python: it notes the time well inside the call."""
    kn.set_num_threads(1)
    x = np.zeros(8_000_000)
    out = np.empty_like(x)
    span = []

    def work():
        start = time.perf_counter()
        for _ in range(3):
            kn.softmax(x, out=out)
            span.append((start, time.perf_counter()))
            start = span[-1][1]

    worker = threading.Thread(target=work)
    ticks = []
    interval = sys.getswitchinterval()
    worker.start()
    while worker.is_alive():
        ticks.append(time.perf_counter())
        time.sleep(0.0005)
    worker.join()
    assert sys.getswitchinterval() == interval
    inside = [
        sum(start + 0.1 * (end - start) < t < end - 0.1 * (end - start) for t in ticks)
        for start, end in span
    ]
    # With the lock held during a call no tick could fall into its middle.
    assert max(inside) >= 2, f"{inside} ticks inside calls of {[e - s for s, e in span]} s"


FORK = """
import multiprocessing, threading
import numpy as np
import kexue_native as kn

x = np.random.default_rng(0).standard_normal((4000, 300))
kn.set_num_threads(4)
want = kn.logsumexp(x, axis=1)  # the pool exists from here on

def child(queue):
    got = kn.logsumexp(x, axis=1)
    queue.put((bool(np.array_equal(got, want)), kn.get_num_threads()))

def grandchild(queue):
    kn.softmax(x, axis=1)
    inner = multiprocessing.get_context("fork").Process(target=child, args=(queue,))
    inner.start()
    inner.join(30)

context = multiprocessing.get_context("fork")
for target in (child, child, grandchild):
    queue = context.SimpleQueue()
    process = context.Process(target=target, args=(queue,))
    process.start()
    process.join(60)
    assert process.exitcode == 0, f"child ended with {process.exitcode}"
    assert queue.get() == (True, 4)
    assert np.array_equal(kn.logsumexp(x, axis=1), want)  # the parent goes on
print("ok")
"""

FORK_BUSY = """
import multiprocessing, os, threading
import numpy as np
import kexue_native as kn

x = np.random.default_rng(0).standard_normal((2000, 300))
kn.set_num_threads(4)
want = kn.logsumexp(x, axis=1)
stop = threading.Event()

def busy():
    while not stop.is_set():
        kn.logsumexp(x, axis=1)

threads = [threading.Thread(target=busy, daemon=True) for _ in range(2)]
for t in threads:
    t.start()
for _ in range(20):  # forks at any moment, the pool's locks held or not
    pid = os.fork()
    if pid == 0:
        os._exit(0 if np.array_equal(kn.logsumexp(x, axis=1), want) else 1)
    done, status = os.waitpid(pid, 0)
    assert status == 0, status
stop.set()
for t in threads:
    t.join(30)
print("ok")
"""


@needs_core
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.parametrize(
    "code", [FORK, FORK_BUSY], ids=["after a parallel call", "while computing"]
)
def test_fork(code):
    # Python 3.12 warns that a process with threads forks: that is what is tested here.
    quiet = "import warnings; warnings.simplefilter('ignore', DeprecationWarning)\n"
    assert run_python(quiet + code) == "ok"


@needs_core
def test_environment_sets_the_number_of_threads():
    code = "import kexue_native as kn; print(kn.get_num_threads())"
    assert run_python(code, KEXUE_NUM_THREADS="3") == "3"
    cpus = (
        run_python("import os; print(len(os.sched_getaffinity(0)))")
        if hasattr(os, "sched_getaffinity")
        else str(os.cpu_count())
    )
    for nonsense in ("0", "-2", "many", ""):
        assert 1 <= int(run_python(code, KEXUE_NUM_THREADS=nonsense)) <= int(cpus)
    assert 1 <= int(run_python(code)) <= int(cpus)


@needs_core
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this platform")
def test_affinity_limits_the_number_of_threads():
    code = """
        import os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        os.environ.pop("KEXUE_NUM_THREADS", None)
        import kexue_native as kn
        print(kn.get_num_threads())
    """
    assert run_python(code) == "1"


def test_set_num_threads_refuses(threads):
    for wrong, error in (
        (0, ValueError),
        (-1, ValueError),
        (2**40, ValueError),
        (1.5, TypeError),
        ("2", TypeError),
    ):
        with pytest.raises(error, match="^set_num_threads: n must .*got"):
            kn.set_num_threads(wrong)
    kn.set_num_threads(np.int64(1))
    assert kn.get_num_threads() == 1


@needs_core
def test_threadpoolctl_sees_the_pool(threads):
    pool = pytest.importorskip("threadpoolctl")
    kn.set_num_threads(2)
    (ours,) = [i for i in pool.threadpool_info() if i["user_api"] == "kexue_native"]
    assert ours["num_threads"] == 2 and ours["version"] == kn.__version__
    with pool.threadpool_limits(1):
        assert kn.get_num_threads() == 1
    assert kn.get_num_threads() == 2
    with pool.threadpool_limits({"kexue_native": 1}):
        assert kn.get_num_threads() == 1


@needs_core
def test_small_calls_start_no_threads():
    """Below the grain everything runs on the caller's thread: no pool is ever made."""
    code = """
        import os, sys
        import numpy as np
        import kexue_native as kn
        kn.set_num_threads(4)
        count = lambda: len(os.listdir("/proc/self/task"))
        before = count()
        for _ in range(100):
            kn.logsumexp(np.zeros(8)); kn.softmax(np.zeros((4, 8)), axis=1)
        small = count() - before
        kn.softmax(np.zeros((4000, 1000)), axis=1)
        print(small, count() - before)
    """
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("counting threads needs /proc")
    small, large = map(int, run_python(code).split())
    assert small == 0
    assert 1 <= large <= 3


def test_free_threaded_interpreter_keeps_the_gil_off():
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        pytest.skip("this interpreter has a GIL")
    assert run_python("import sys, kexue_native; print(sys._is_gil_enabled())") == "False"
