"""Elementwise functions: ``pytest bench/bench_activations.py [--threads 2] [--quick]``.

``python bench/bench_activations.py --threads 2`` measures the competitors in turn and prints tables
that have the time of a copy beside theirs.
"""

import machine


def pytest_generate_tests(metafunc):
    import activations_peers
    import harness

    found, ids = harness.cases(activations_peers, metafunc.config.getoption("--quick"))
    metafunc.parametrize(("activation", "competitor"), found, ids=ids)


def bench_activation(benchmark, request, activation, competitor):
    import activations_peers
    import harness

    harness.run(benchmark, request, activations_peers, activation, competitor)


if __name__ == "__main__":
    machine.limit_threads(machine.wanted_threads())
    import harness

    harness.print_tables("activations_peers", __doc__)
