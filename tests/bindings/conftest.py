"""Both kinds of bindings side by side: 24.12, the last with version 1, brings version 2 as well."""

from __future__ import annotations

import importlib
import warnings
from types import ModuleType

import pytest


@pytest.fixture(params=["htcondor", "htmap_exec.bindings.htcondor_by_2"])
def condor(request: pytest.FixtureRequest) -> ModuleType:
    """Version 1, and what htmap_exec presents as version 1."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(request.param)


@pytest.fixture
def by_2() -> ModuleType:
    return importlib.import_module("htmap_exec.bindings.htcondor_by_2")
