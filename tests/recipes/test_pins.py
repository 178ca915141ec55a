"""What a recipe asks pip for: what is installed, and where its versions come from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from live import Live
from support.environment import pythons


@pytest.mark.parametrize("minor", ["3.11", "3.12", "3.13"])
def test_setuptools_where_images_have_none(minor: str, tmp_path: Path) -> None:
    """`python:3.12-slim` and later ones have neither setuptools nor wheel."""
    if minor not in pythons():
        pytest.skip(f"there is no Python {minor}")
    venv = tmp_path / "venv"
    subprocess.run([pythons()[minor].path, "-m", "venv", "--without-pip", venv], check=True)
    live = Live(venv / "bin" / "python")
    for name, version in (("pip", "25.0"), ("setuptools", "80.9.0"), ("six", "1.17.0"), ("wheel", "0.45.1")):
        live.install(name, version)
    recipe = live.recipe(tmp_path / "context")
    expected = ["six==1.17.0"] if minor == "3.11" else ["setuptools==80.9.0", "six==1.17.0", "wheel==0.45.1"]
    assert recipe.requirements == expected
