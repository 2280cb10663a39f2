"""Libraries that some tests need and not every machine has."""

import importlib

import pytest


def library(name):
    """The imported module; without it the test is skipped, with the reason."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:  # OSError: LightGBM without an OpenMP library
        pytest.skip(f"{name} cannot be imported: {error}")
