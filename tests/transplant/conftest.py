"""A virtual environment of one's own, for tests that change it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.node_archives import MAIN


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    venv = tmp_path / "venv"
    subprocess.run([MAIN.path, "-m", "venv", "--without-pip", venv], check=True)
    return venv


@pytest.fixture
def site(venv: Path) -> Path:
    return venv / f"lib/python{MAIN.minor}/site-packages"
