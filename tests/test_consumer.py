"""A separate C++ project finds the package with CMake and uses the headers without Python."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import kexue_native as kn

PROJECT = Path(__file__).resolve().parent / "consumer"


def run(*command):
    result = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def need(*tools):
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


def need_cxx():
    compilers = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    if not any(shutil.which(name) for name in compilers if name):
        pytest.skip("no C++ compiler is installed")


def build_and_run(tmp_path, *options):
    run("cmake", "-S", PROJECT, "-B", tmp_path / "build", "-DCMAKE_BUILD_TYPE=Release", *options)
    run("cmake", "--build", tmp_path / "build", "--config", "Release")
    programs = [path for path in (tmp_path / "build").rglob("consumer*") if path.stem == "consumer"]
    (program,) = (path for path in programs if path.suffix in ("", ".exe") and path.is_file())
    return run(program)


def test_consumer_finds_the_installed_package(tmp_path):
    need("cmake")
    need_cxx()
    output = build_and_run(tmp_path, f"-Dkexue_DIR={kn.get_cmake_dir()}")
    assert "consumer: all right" in output


def test_consumer_finds_a_plain_prefix(tmp_path):
    need("cmake")
    need_cxx()
    source = PROJECT.parents[1]
    if not (source / "CMakeLists.txt").is_file():
        pytest.skip("the sources are not there")
    off = ["-DKEXUE_NATIVE=OFF", "-DKEXUE_CUDA=OFF"]
    run("cmake", "-S", source, "-B", tmp_path / "kexue", *off)
    run("cmake", "--install", tmp_path / "kexue", "--prefix", tmp_path / "prefix")
    output = build_and_run(tmp_path, f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}")
    assert "consumer: all right" in output


def test_consumer_headers_are_in_the_include_folder():
    include = Path(kn.get_include())
    assert (include / "kexue" / "special.h").is_file()
    assert (Path(kn.get_cmake_dir()) / "kexueConfig.cmake").is_file()
