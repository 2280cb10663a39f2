"""Examples in docstrings and in the README run and give what they say."""

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import kexue_native

ROOT = Path(__file__).resolve().parents[1]
# Modules that only exist in some builds or on some machines have no examples of their own.
MODULES = ["kexue_native"] + sorted(
    m.name
    for m in pkgutil.walk_packages(kexue_native.__path__, "kexue_native.")
    if not m.name.endswith(("._core", "._cuda", ".__main__"))
)
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name):
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=FLAGS)
    assert failed == 0


def test_every_public_function_has_an_example():
    finder = doctest.DocTestFinder()
    for name in kexue_native.__all__:
        value = getattr(kexue_native, name)
        if callable(value) and not isinstance(value, type):
            tests = finder.find(value, name)
            assert any(t.examples for t in tests), f"{name} has no example"


def blocks(kind):
    path = ROOT / "README.md"
    if not path.is_file():
        pytest.skip("README.md is not beside the tests")
    return re.findall(rf"^```{kind}\n(.*?)^```", path.read_text(encoding="utf-8"), re.S | re.M)


def test_readme_python(capsys):
    """Blocks are sessions (`>>>`) or programs; both run in one namespace, in order."""
    namespace = {}
    found = blocks("python") + blocks("pycon")
    for i, block in enumerate(found):
        if ">>>" in block:
            test = doctest.DocTestParser().get_doctest(
                block, namespace, f"block {i}", "README.md", 0
            )
            runner = doctest.DocTestRunner(optionflags=FLAGS)
            runner.run(test, clear_globs=False)
            namespace.update(test.globs)
            assert runner.failures == 0, capsys.readouterr().out
        elif "cupy" not in block:
            exec(compile(block, f"README.md block {i}", "exec"), namespace)
    if not found:
        pytest.skip("README.md has no Python block")


def test_readme_commands():
    """The two one-line commands that the project promises."""
    path = ROOT / "README.md"
    if not path.is_file():
        pytest.skip("README.md is not beside the tests")
    text = path.read_text(encoding="utf-8")
    for heading, command in (
        ("Quick start", "pip install . && python -m kexue_native"),
        ("Tests", "pip install '.[test]' && pytest"),
    ):
        section = re.search(rf"^#+ {heading}$(.*?)(?=^#+ |\Z)", text, re.S | re.M)
        assert section, f"no heading {heading}"
        first = re.search(r"^```(?:sh|bash|shell|console)?\n(.*?)^```", section[1], re.S | re.M)
        assert first and first[1].strip() == command
