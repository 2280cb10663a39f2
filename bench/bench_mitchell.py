"""Mitchell's functions against bit tricks: ``pytest bench/bench_mitchell.py [--threads 2]``.

A result that is wrong fails here and gets no time. ``python bench/bench_mitchell.py --threads 2``
measures the competitors in turn, which is fairer on a busy machine, and prints a table.
"""

import machine


def pytest_generate_tests(metafunc):
    import harness
    import mitchell_peers

    found, ids = harness.cases(mitchell_peers, metafunc.config.getoption("--quick"))
    metafunc.parametrize(("problem", "competitor"), found, ids=ids)


def bench_mitchell(benchmark, request, problem, competitor):
    import harness
    import mitchell_peers

    harness.run(benchmark, request, mitchell_peers, problem, competitor)


if __name__ == "__main__":
    machine.limit_threads(machine.wanted_threads())
    import harness

    harness.print_tables("mitchell_peers", __doc__)
