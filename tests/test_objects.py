"""The object files of a build: one level's code must not reach another level, nor the baseline.

Needs a build folder that was kept: an editable install has one under build/, any other is named
by KEXUE_BUILD_DIR.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
X86_LEVELS = ["v2", "v3", "v4"]


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def objects():
    """Object files by the name of their CMake target."""
    if "KEXUE_BUILD_DIR" in os.environ:
        builds = [Path(os.environ["KEXUE_BUILD_DIR"])]
    else:
        builds = sorted(ROOT.glob("build/*"), key=lambda path: path.stat().st_mtime)[-1:]
    if not builds or not (builds[0] / "CMakeFiles" / "_core.dir").is_dir():
        pytest.skip("no build folder with object files; set KEXUE_BUILD_DIR")
    for tool in ("nm", "objdump"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    found = {}
    for target in (builds[0] / "CMakeFiles").glob("*.dir"):
        files = sorted(target.rglob("*.o"))
        if files:
            found[target.stem] = files
    if "ELF" not in run("objdump", "-f", str(found["_core"][0])).upper():
        pytest.skip("the objects are not ELF files")
    return found


def level_objects(objects, level):
    if f"kexue_{level}" not in objects:
        pytest.skip(f"level {level} is not built")
    return objects[f"kexue_{level}"]


@pytest.mark.parametrize("level", [*X86_LEVELS, "base"])
def test_objects_share_no_symbol_with_other_levels(objects, level):
    # Of a weak symbol that two levels define the linker keeps one: AVX-512 code for everyone.
    for path in level_objects(objects, level):
        lines = run("nm", "--demangle", "--defined-only", str(path)).splitlines()
        weak = [line.split(maxsplit=2)[2] for line in lines if re.search(r" [WwVvu] ", line)]
        shared = [name for name in weak if f"kexue::{level}::" not in name]
        shared = [name for name in shared if not name.startswith("DW.ref.")]  # data, no code
        assert not shared, f"{path.name} at level {level} defines {shared}"


@pytest.mark.parametrize("level", [*X86_LEVELS, "base"])
def test_objects_export_only_their_own_namespace(objects, level):
    for path in level_objects(objects, level):
        lines = run("nm", "--demangle", "--defined-only", "--extern-only", str(path)).splitlines()
        names = [line.split(maxsplit=2)[2] for line in lines]
        foreign = [name for name in names if f"kexue::{level}::" not in name]
        foreign = [name for name in foreign if not name.startswith("DW.ref.")]
        assert names
        assert not foreign, f"{path.name} at level {level} exports {foreign}"


def instructions(path):
    """(mnemonic, operands) of an object's code."""
    code = run("objdump", "--disassemble", "--no-show-raw-insn", str(path))
    return re.findall(r"^\s+[0-9a-f]+:\t(\S+)[ \t]*(.*)$", code, re.M)


def uses(path, pattern):
    return [" ".join(line) for line in instructions(path) if re.search(pattern, "\t".join(line))]


AVX = r"%[yz]mm|^v\w+\t.*%xmm|%k[1-7]"
AVX512 = r"%zmm|%k[1-7]|%[xyz]mm(1[6-9]|2\d|3[01])"


def x86(objects):
    if "kexue_v2" not in objects:
        pytest.skip("no x86-64 levels in this build")


def test_objects_baseline_has_no_avx(objects):
    x86(objects)
    for path in objects["_core"] + objects["kexue_v2"]:
        assert not uses(path, AVX)[:5], f"{path} must run on any x86-64 processor"
    for path in objects["_core"]:
        assert not uses(path, r"^(popcnt|pshufb|pmulld|roundp|blendv|ptest|lzcnt|tzcnt)")[:5], path


def test_objects_v3_has_avx2_but_no_avx512(objects):
    x86(objects)
    for path in objects["kexue_v3"]:
        assert uses(path, AVX), f"{path} was compiled without its flags"
        assert not uses(path, AVX512)[:5], path


def test_objects_v4_has_avx512(objects):
    x86(objects)
    for path in objects["kexue_v4"]:
        assert uses(path, AVX512), f"{path} was compiled without its flags"
