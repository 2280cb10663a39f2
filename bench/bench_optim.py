"""Exponentiated gradient: ``pytest bench/bench_optim.py [--threads 2] [--quick]``.

``python bench/bench_optim.py --threads 2`` measures the competitors in turn and prints tables that
have the time of a copy of as many bytes beside theirs.
"""

import machine


def pytest_generate_tests(metafunc):
    import harness
    import optim_peers

    found, ids = harness.cases(optim_peers, metafunc.config.getoption("--quick"))
    metafunc.parametrize(("problem", "competitor"), found, ids=ids)


def bench_optim(benchmark, request, problem, competitor):
    import harness
    import optim_peers

    harness.run(benchmark, request, optim_peers, problem, competitor)


if __name__ == "__main__":
    machine.limit_threads(machine.wanted_threads())
    import harness

    harness.print_tables("optim_peers", __doc__)
