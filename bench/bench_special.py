"""logsumexp, softmax and log_softmax against their peers: ``pytest bench [--threads 2] [--quick]``.

A result that is wrong fails here and gets no time. pytest-benchmark measures one competitor after
the other; `report.py` measures the same ones in turn, which is fairer on a busy machine.
"""

import pytest

import harness
import special_peers

pytest.importorskip("pytest_benchmark")


def measure(benchmark, request, problem, competitor):
    threads = request.config.getoption("--threads")
    quick = request.config.getoption("--quick")
    benchmark.group = f"{problem.function} {problem.dtype} {problem.shape_name} threads={threads}"
    builder = special_peers.builders(problem, levels=True)[competitor]
    try:
        call = harness.prepare(problem, builder, threads)
    except harness.Unavailable as reason:
        pytest.skip(f"{competitor}: {reason}")
    budget = 0.02 if quick else 1.0
    rounds = int(min(max(budget / harness.once(call), 3), 100))
    benchmark.pedantic(call, rounds=rounds, warmup_rounds=1)
    if benchmark.stats is None:  # --benchmark-disable
        return
    seconds = benchmark.stats.stats.median
    benchmark.extra_info |= {
        "threads": threads,
        "ns per element": 1e9 * seconds / problem.elements,
        "GB/s": 1e-9 * problem.bytes_moved / seconds,
    }


def bench_logsumexp(benchmark, request, problem, competitor):
    measure(benchmark, request, problem, competitor)


def bench_softmax(benchmark, request, problem, competitor):
    measure(benchmark, request, problem, competitor)


def bench_log_softmax(benchmark, request, problem, competitor):
    measure(benchmark, request, problem, competitor)


@pytest.mark.parametrize("function", special_peers.FUNCTIONS)
@pytest.mark.parametrize("competitor", special_peers.SMALL)
def bench_small(benchmark, function, competitor):
    """8 float64: the cost of a call."""
    benchmark.group = f"{function} of 8 float64"
    calls = special_peers.small_calls(function)
    if competitor not in calls:
        pytest.skip(f"{competitor} is not installed")
    benchmark.pedantic(calls[competitor], rounds=50, iterations=200, warmup_rounds=1)
