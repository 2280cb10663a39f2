"""The build: one version, a record of what was built, a package where no compiler works."""

import importlib.metadata
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import kexue_native as kn

ROOT = Path(__file__).resolve().parents[1]
BUILD_KEYS = {
    "version": str,
    "native": bool,
    "native_reason": str,
    "cuda": bool,
    "cuda_reason": str,
    "compiler": str,
    "cuda_compiler": str,
    "levels": list,
    "flags": dict,
    "cuda_architectures": list,
}


def text(name):
    if not (ROOT / name).is_file():
        pytest.skip(f"{name} is not beside the tests")
    return (ROOT / name).read_text(encoding="utf-8")


def check_build(build):
    assert {key: type(value) for key, value in build.items()} == BUILD_KEYS
    for part in ("native", "cuda"):
        assert build[part] == (build[f"{part}_reason"] == ""), build
    assert bool(build["levels"]) == build["native"]
    assert set(build["flags"]) == set(build["levels"])
    assert bool(build["cuda_architectures"]) == build["cuda"]


def test_build_version_is_the_same_everywhere():
    from kexue_native._build_info import BUILD

    assert kn.__version__ == importlib.metadata.version("kexue_native") == BUILD["version"]
    if BUILD["native"]:
        from kexue_native import _core

        assert _core.version == kn.__version__
    config = Path(kn.get_cmake_dir(), "kexueConfigVersion.cmake").read_text(encoding="utf-8")
    numbers = re.match(r"[0-9.]*[0-9]", kn.__version__)[0]
    assert f'set(PACKAGE_VERSION "{numbers}")' in config


def test_build_info_describes_this_build():
    from kexue_native._build_info import BUILD

    check_build(BUILD)
    if BUILD["native"]:
        from kexue_native import _core

        assert list(_core.levels()) == BUILD["levels"]


def configure(folder, *options, env=None):
    """Configure without building; gives the finished process and what _build_info.py would say."""
    if shutil.which("cmake") is None:
        pytest.skip("cmake is not installed")
    text("CMakeLists.txt")
    command = ["cmake", "-S", ROOT, "-B", folder, f"-DPython_EXECUTABLE={sys.executable}", *options]
    environment = {**os.environ, **(env or {})}
    environment.pop("CXXFLAGS", None)
    done = subprocess.run(map(str, command), capture_output=True, text=True, env=environment)
    info = folder / "_build_info.py"
    return done, runpy.run_path(str(info))["BUILD"] if info.is_file() else None


def broken_compiler(folder):
    compiler = folder / "broken-c++"
    compiler.write_text("#!/bin/sh\necho 'error: out of order' >&2\nexit 1\n", encoding="utf-8")
    compiler.chmod(0o755)
    return compiler


@pytest.mark.parametrize("how", ["missing", "broken", "option", "off"])
def test_build_without_a_compiler_leaves_the_reference(tmp_path, how):
    options, env = [], {}
    if how == "missing":
        env["CXX"] = str(tmp_path / "nowhere" / "c++")
    elif how == "broken":
        env["CXX"] = str(broken_compiler(tmp_path))
    elif how == "option":
        options.append(f"-DCMAKE_CXX_COMPILER={broken_compiler(tmp_path)}")
    else:
        options.append("-DKEXUE_NATIVE=OFF")
    done, build = configure(tmp_path / "build", *options, env=env)
    assert done.returncode == 0, done.stderr
    check_build(build)
    assert not build["native"]
    assert not build["cuda"]
    warnings = done.stderr.count("built without its native kernels")
    assert warnings == (how != "off"), done.stderr


def test_build_native_on_refuses_a_missing_compiler(tmp_path):
    env = {"CXX": str(tmp_path / "nowhere" / "c++")}
    done, _ = configure(tmp_path / "build", "-DKEXUE_NATIVE=ON", env=env)
    assert done.returncode != 0
    assert "KEXUE_NATIVE=ON, but no working C++ compiler was found" in done.stderr


def test_build_cuda_on_refuses_a_missing_compiler(tmp_path):
    env = {"CXX": str(tmp_path / "nowhere" / "c++")}
    done, _ = configure(tmp_path / "build", "-DKEXUE_CUDA=ON", env=env)
    assert done.returncode != 0
    assert "KEXUE_CUDA=ON, but" in done.stderr


def test_build_readme_has_the_two_commands():
    text(".ci/readme_command.py")
    command = runpy.run_path(str(ROOT / ".ci" / "readme_command.py"))["first_shell_block"]
    readme = text("README.md")
    assert command(readme, "Quick start") == "pip install . && python -m kexue_native"
    assert command(readme, "Tests") == "pip install '.[test]' && pytest"


def test_build_linters_are_pinned_alike():
    project, hooks = text("pyproject.toml"), text(".pre-commit-config.yaml")
    for tool in ("ruff", "clang-format", "mypy"):
        version = re.search(rf'"{tool}==([^"]+)"', project)[1]
        assert re.search(
            rf"/(mirrors-)?{tool}(-pre-commit)?\n\s+rev: v{re.escape(version)}\n", hooks
        ), tool


def test_build_spill_check_finds_spills():
    text(".ci/check_spills.py")
    spills = runpy.run_path(str(ROOT / ".ci" / "check_spills.py"))["spills"]
    log = (
        "ptxas info    : Compiling entry function 'good' for 'sm_80'\n"
        "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
        "ptxas info    : Compiling entry function 'bad' for 'sm_90'\n"
        "    8 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads\n"
    )
    assert spills(log) == (2, ["sm_90 bad: 4 bytes spill stores, 8 bytes spill loads"])
