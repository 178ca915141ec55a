"""A virtual environment of one's own, for tests that change it; a node, and an archive for it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.node_archives import MAIN, Node, build


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    venv = tmp_path / "venv"
    subprocess.run([MAIN.path, "-m", "venv", "--without-pip", venv], check=True)
    return venv


@pytest.fixture
def site(venv: Path) -> Path:
    return venv / f"lib/python{MAIN.minor}/site-packages"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(MAIN.path, tmp_path_factory.mktemp("store"))


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node()
    yield node
    node.clean()
