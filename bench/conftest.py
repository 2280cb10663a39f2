"""Options of ``pytest bench``; the thread counts have to be set before any library is imported."""

import machine


def pytest_addoption(parser):
    group = parser.getgroup("kexue_native benchmarks")
    group.addoption("--threads", type=int, default=1, help="threads of every competitor")
    group.addoption("--quick", action="store_true", help="small shapes, few rounds")
    group.addoption("--dtype", action="append", help="measure this type only; may be repeated")


def pytest_configure(config):
    machine.limit_threads(config.getoption("--threads"))
    config.addinivalue_line("filterwarnings", "default")  # those of the peers are not ours


def pytest_generate_tests(metafunc):
    """One group a problem (function, dtype, shape), one row of the group a competitor."""
    if "problem" not in metafunc.fixturenames:
        return
    import special_peers

    option = metafunc.config.getoption
    dtypes = tuple(option("--dtype") or special_peers.DTYPES)
    name = metafunc.function.__name__.removeprefix("bench_")
    cases = [
        (problem, competitor)
        for problem in special_peers.problems(dtypes, option("--quick"))
        if problem.function == name
        for competitor in special_peers.builders(problem, levels=True)
    ]
    ids = [f"{c}-{p.dtype}-{p.shape_name}".replace(" ", "_") for p, c in cases]
    metafunc.parametrize(("problem", "competitor"), cases, ids=ids)
