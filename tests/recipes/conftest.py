"""Recipes need no containers: their text and what lies beside it say what an image will have."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from live import Live
from support.environment import main_python


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a virtual environment with nothing in it."""
    directory = tmp_path_factory.mktemp("live") / "venv"
    subprocess.run([main_python().path, "-m", "venv", "--without-pip", directory], check=True)
    return directory / "bin" / "python"


@pytest.fixture
def live(empty: Path) -> Live:
    """The same, to install into; empty again afterwards."""
    made = Live(empty)
    yield made
    made.clear()
