"""The multi-label loss against its peers: ``pytest bench/bench_losses.py [--threads 2] [--quick]``.

A result that is wrong fails here and gets no time. ``python bench/bench_losses.py --threads 2``
measures the competitors in turn, which is fairer on a busy machine, and prints a table.
"""

import machine


def pytest_generate_tests(metafunc):
    import harness
    import losses_peers

    found, ids = harness.cases(losses_peers, metafunc.config.getoption("--quick"))
    metafunc.parametrize(("loss", "competitor"), found, ids=ids)


def bench_multilabel_crossentropy(benchmark, request, loss, competitor):
    import harness
    import losses_peers

    harness.run(benchmark, request, losses_peers, loss, competitor)


if __name__ == "__main__":
    machine.limit_threads(machine.wanted_threads())
    import harness

    harness.print_tables("losses_peers", __doc__)
