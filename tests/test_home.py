"""No test reads or writes what a developer keeps at home: `support.home`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.environment import CHECKOUT, clicks

INNER = "tests/package/test_settings.py::test_no_section"
STOCK = "import htmap; print(*map(htmap.settings.get, ['HTMAP_DIR', 'MARK']))"


@pytest.mark.parametrize("named", ["", "HTMAP_DIR", "XDG_CONFIG_HOME", "HTMAP_EXEC_CACHE_DIR"])
def test_a_developers_home_is_left_alone(tmp_path: Path, named: str) -> None:
    """Another session of pytest, by a developer whose settings HTMap could not even read."""
    (tmp_path / ".htmaprc").write_text("no = = TOML")
    env = {**os.environ, "HOME": str(tmp_path)}
    if named:
        env[named] = str(tmp_path / "named")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", INNER],
        # Nothing of this session's pytest-xdist.
        env={name: value for name, value in env.items() if not name.startswith("PYTEST_")},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == [".htmaprc"]


def test_stock_htmap_takes_both_from_the_tests_home() -> None:
    (Path.home() / ".htmaprc").write_text('MARK = "of the tests"\n')
    try:
        done = subprocess.run(
            [next(iter(clicks().values())), "-W", "ignore", "-c", STOCK], check=True, stdout=subprocess.PIPE, text=True
        )
    finally:
        (Path.home() / ".htmaprc").unlink()
    assert done.stdout == f"{Path.home()}/.htmap of the tests\n"
