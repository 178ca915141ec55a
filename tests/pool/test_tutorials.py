"""The examples, which follow HTMap's tutorials, each as a script of its own, as its reader runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"

PRINTS = {
    "maps": r"""
        \[0, 1, 8, 27, 64\]
        TagAlreadyExists
        Map words \(3 components\): HELD = 0 .*
        True
        \['cubes', 'words'\]
        .*cubes.*
        \['hahaha', 'he'\]
        False
    """,
    "files": r"""
        twinkle twinkle little star
        tick tick tick
        tock
        \[0, 3, 6, 9\]
    """,
    "options": r"""
        \[1\.0, 2\.0, 3\.0\]
        \[32, 9\]
        \[0, 1, 4, 9\]
        \[4, 6\.0\]
        \[0, 2, 4\]
    """,
    "errors": r"""
        held
        better late than never
        0\.25
        failed
        \(1,\)
        True
        True True
    """,
    "checkpoints": r"""
        30
        True
    """,
}


@pytest.mark.parametrize("name", PRINTS)
def test_example(name: str, tmp_path: Path) -> None:
    # A directory of its own: one example wants a hold.
    done = subprocess.run(
        [sys.executable, "-W", "ignore", EXAMPLES / f"{name}.py"],
        env={**os.environ, "HTMAP_DIR": str(tmp_path / "own")},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    lines = iter(done.stdout.splitlines())
    for pattern in PRINTS[name].split("\n"):
        if pattern.strip():
            assert any(re.fullmatch(pattern.strip(), line.strip()) for line in lines), (pattern, done.stdout)


def test_every_example_is_tried() -> None:
    assert sorted(path.stem for path in EXAMPLES.glob("*.py")) == sorted(PRINTS)
