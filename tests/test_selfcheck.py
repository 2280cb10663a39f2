"""`python -m kexue_native`: the self-check agrees, and fails where it has to."""

import json
import os
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest

import kexue_native as kn
from kexue_native import _backends

# Of numbers, not arrays.
TABLES = ("mitchell_error_bound", "mitchell_lut")
NUMBERS = ("eg_learning_rate", "eg_regret_bound", "eg_stepsize_init", "lr_clip")


def run(*arguments, code=None, **environment):
    path = os.pathsep.join(p for p in sys.path if p)
    command = ["-c", code] if code else ["-m", "kexue_native"]
    return subprocess.run(
        [sys.executable, *command, *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_selfcheck_quick(tmp_path):
    file = tmp_path / "report.json"
    done = run("--quick", "--json", str(file))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "nanobind" not in done.stderr
    for key, value in kn.show_config().items():
        if key not in ("threads", "backend chosen"):
            assert key in done.stdout and str(value) in done.stdout, key
    report = json.loads(file.read_text())
    rows = report["results"]
    names = {n for n in (*kn.special.__all__, *kn.losses.__all__, *kn.optim.__all__) if n.islower()}
    names |= {n for n in kn.mitchell.__all__ if n not in ("approx_metrics", *TABLES)}
    names -= {*NUMBERS}
    names |= {
        f"{form}_attention{end}" for form in ("softmax", "linear", "favor") for end in ("", "_vjp")
    }
    assert {r["function"].partition(" ")[0] for r in rows} == names >= set(kn.LIMITS)
    assert {r["dtype"] for r in rows} >= {"float64", "float32", "float16"}
    for row in rows:
        assert row["agrees"] and row["error_ulp"] <= row["limit_ulp"], row
        assert row["function"] in done.stdout
        assert row["reference_seconds"] > 0
        if _backends.core is not None:
            assert row["backend"] != "reference" and row["native_seconds"] > 0, row


def test_selfcheck_measures_an_error(tmp_path):
    """Not every error is 0: something is compared."""
    file = tmp_path / "report.json"
    run("--quick", "--json", str(file), "--backend", "reference")
    rows = json.loads(file.read_text())["results"]
    assert {r["backend"] for r in rows} == {"reference"}
    assert sum(r["error_ulp"] > 0.1 for r in rows) > len(rows) / 4


def test_selfcheck_states_a_limit():
    """All but what is exact, true or false or a position, has a limit above 0."""
    cases = import_module("kexue_native.__main__").CASES
    exact = {c.public for c in cases if not c.limit(np.dtype(np.float32), "cpu") and not c.bitwise}
    assert exact == {"globalpointer_mask", "gumbel_max", "multilabel_predict"}


@pytest.mark.parametrize("name", ["softmax", "gelu", "multilabel_crossentropy"])
def test_selfcheck_fails_when_a_kernel_is_wrong(name):
    """A function that is off by one part in a thousand ends with a failure that names it."""
    code = f"""
import sys
import numpy as np, kexue_native as kn, kexue_native.__main__ as check
right = kn.{name}

def wrong(x, *rest, **options):
    found = right(x, *rest, **options)
    if x.dtype == check.Wide:
        return found
    off = lambda value: (value * 1.001).astype(x.dtype)
    return tuple(map(off, found)) if isinstance(found, tuple) else off(found)

kn.{name} = wrong
check.CASES = [case for case in check.CASES if case.public == "{name}"]
sys.exit(check.main(["--quick", "--backend", "reference"]))
"""
    done = run(code=code)
    assert done.returncode == 1, done.stderr
    bad = [line for line in done.stdout.splitlines() if "above the limit" in line]
    assert bad and all(line.startswith(f"{name} ") for line in bad)


def test_selfcheck_refuses_a_missing_backend():
    for name in ("nonsense", *(n for n in _backends.NAMES if _backends.refusal(n, np))):
        done = run("--quick", "--backend", name)
        assert done.returncode not in (0, 1)
        assert name in done.stderr and "Traceback" not in done.stderr


def test_selfcheck_help():
    done = run("--help")
    assert done.returncode == 0
    for option in ("--quick", "--json", "--backend"):
        assert option in done.stdout


@pytest.mark.skipif(_backends.core is None, reason=_backends.core_reason or "no core")
def test_selfcheck_each_level(tmp_path):
    for level in _backends.levels():
        file = tmp_path / f"{level}.json"
        done = run("--quick", "--backend", f"cpu:{level}", "--json", str(file))
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr
        backends = {r["backend"] for r in json.loads(file.read_text())["results"]}
        assert backends == {f"cpu:{level}"}
