"""Attention against its peers: ``pytest bench/bench_attention.py [--threads 2] [--quick]``.

A result that is wrong fails here and gets no time. ``python bench/bench_attention.py --threads 2``
measures the competitors in turn, which is fairer on a busy machine, and prints a table.
"""

import machine


def pytest_generate_tests(metafunc):
    import attention_peers
    import harness

    found, ids = harness.cases(attention_peers, metafunc.config.getoption("--quick"))
    metafunc.parametrize(("problem", "competitor"), found, ids=ids)


def bench_attention(benchmark, request, problem, competitor):
    import attention_peers
    import harness

    harness.run(benchmark, request, attention_peers, problem, competitor)


if __name__ == "__main__":
    machine.limit_threads(machine.wanted_threads())
    import harness

    harness.print_tables("attention_peers", __doc__)
