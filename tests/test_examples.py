"""The programs in examples/ run, say what they promise and save their pictures."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from libraries import library

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def run(name, *options, folder, needs):
    """The lines that an example prints, in a shortened run; skips without what it needs."""
    for module in needs:
        library(module)
    if not EXAMPLES.is_dir():
        pytest.skip("examples/ is not beside the tests")
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def is_picture(path):
    return path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5000


def figures(line, name):
    """The numbers of a row of a table that begins with `name`."""
    assert line.startswith(name)
    return [float(word) for word in line.removeprefix(name).split()]


def test_digits_example(tmp_path):
    lines = run(
        "digits_multilabel.py",
        "--rounds=20",
        "--folds=2",
        folder=tmp_path,
        needs=("lightgbm", "matplotlib", "sklearn", "xgboost"),
    )
    for line, name in zip(lines[1::2], ("LightGBM", "XGBoost"), strict=False):
        exact, micro, macro, _ = figures(line, f"{name}, multi-label loss")
        assert exact > 0.6 and micro > 0.85 and macro > 0.8
    assert is_picture(tmp_path / "digits.png")


def test_mitchell_example(tmp_path):
    """Products without multiplications cost little, and their gradients train a net."""
    _, *lines = run(
        "mitchell_digits.py",
        "--epochs=12",
        "--seeds=1",
        folder=tmp_path,
        needs=("matplotlib", "sklearn"),
    )
    names = ("exact", "Mitchell", "iterated once", "L-Mul", "minimax offset", "3 bits of fraction")
    found = [figures(line, name) for line, name in zip(lines, names, strict=False)]
    assert all(min(pair) > 0.9 for pair in found)
    assert np.allclose(found, found[0], rtol=0, atol=0.02)
    assert min(figures(lines[-2], "Mitchell, fine-tuned")) > 0.93
    assert is_picture(tmp_path / "mitchell_error.png")


def test_onnx_example(tmp_path):
    _, soft, hard, _ = run(
        "onnx_multilabel.py",
        "--steps=1000",
        folder=tmp_path,
        needs=("matplotlib", "onnx", "onnxruntime", "sklearn"),
    )
    f1, doubled, plain = figures(soft, "soft")
    assert f1 > 0.8 and doubled < 0.05 and doubled < plain
    f1, doubled, plain = figures(hard, "hard")
    assert f1 > 0.8 and plain < 0.05 and plain < doubled
    assert is_picture(tmp_path / "calibration.png")


def test_portfolio_example(tmp_path):
    lines = run("portfolio.py", "--days=300", folder=tmp_path, needs=("matplotlib",))
    (eg,), (held,), (best,) = (
        figures(lines[k], name)
        for k, name in ((1, "EG, lr 0.05"), (5, "uniform, held"), (6, "best stock"))
    )
    assert eg > held > 0 and best > 0
    assert is_picture(tmp_path / "portfolio.png")


def test_digits_rates_example(tmp_path):
    lines = run("digits_rates.py", "--steps=120", folder=tmp_path, needs=("matplotlib", "sklearn"))
    plain, _ = figures(lines[2], "gradient descent")
    adapted, accuracy = figures(lines[4], "EG step sizes")
    assert adapted < plain and accuracy > 0.7
    losses = [figures(line, line[:20].strip())[0] for line in lines[7:12]]
    (hedge,) = figures(lines[13], "hedge")
    assert hedge <= min(losses) + 2 / 898  # log 5 in all
    assert is_picture(tmp_path / "digits_rates.png")


def test_attention_pictures_example():
    """Its figures, of few draws; the timed part takes a minute."""
    if not EXAMPLES.is_dir():
        pytest.skip("examples/ is not beside the tests")
    spec = importlib.util.spec_from_file_location("pictures", EXAMPLES / "attention_pictures.py")
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    pictures.DRAWS = 6
    errors = pictures.attention_errors(0.5)
    assert len(errors) == 5
    for found in errors.values():
        assert found[-1] < 0.25 and found[-1] < found[0] / 2
    assert errors["SDERF"][-1] < errors["iid"][-1]
    if Path("/proc/self/clear_refs").exists():
        seconds, megabytes = pictures.costs("favor", 256)
        assert 0 < seconds < 1 and megabytes >= 0
