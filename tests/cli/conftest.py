"""People who run HTMap's commands beside one version of click or another."""

from __future__ import annotations

from pathlib import Path

import pytest
from person import CLICKS, LAST_OF_HTMAP, NEWEST, CommandLine


def _person(click: str, tmp_path: Path) -> CommandLine:
    home = tmp_path / "home"
    home.mkdir()
    person = CommandLine(click, home)
    for name in ("maps", "tags", "logs", ".removed-tags"):
        (person.htmap_dir / name).mkdir(parents=True)
    return person


@pytest.fixture(params=list(CLICKS))
def htmap(request: pytest.FixtureRequest, tmp_path: Path) -> CommandLine:
    """Beside every click."""
    return _person(request.param, tmp_path)


@pytest.fixture
def newest(tmp_path: Path) -> CommandLine:
    """Beside the newest click."""
    return _person(NEWEST, tmp_path)


@pytest.fixture
def old(tmp_path: Path) -> CommandLine:
    """Beside the last click that HTMap's own command line runs beside."""
    return _person(LAST_OF_HTMAP, tmp_path)
