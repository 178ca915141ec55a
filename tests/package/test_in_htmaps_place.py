"""`import htmap_exec as htmap`, and what goes wrong when HTMap is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import htmap_exec
import pytest

ROOT = Path(__file__).parents[2]


def test_everything_that_htmap_exports(htmap: Any) -> None:
    # Names with an underscore are none of its users' business.
    exported = {name for name in vars(htmap) if not name.startswith("_") or name == "__version__"}
    differing = [name for name in exported if getattr(htmap_exec, name, None) is not getattr(htmap, name)]
    # HTMap's command line is there once somebody has imported it.
    assert [name for name in differing if name != "cli"] == []
    assert exported - {"cli"} <= set(dir(htmap_exec))


def test_no_other_names() -> None:
    with pytest.raises(AttributeError, match="module 'htmap_exec' has no attribute 'mpa'"):
        htmap_exec.mpa  # noqa: B018
    assert not hasattr(htmap_exec, "__path_hooks__")


def test_it_is_enabled(tmp_path: Path) -> None:
    code = (
        "import sys, htmap_exec as htmap; assert 'htmap' not in sys.modules;"
        "htmap.settings; from htmap_exec import map, options, ComponentStatus;"
        "print(options.BASE_OPTIONS_FUNCTION_BY_DELIVERY['assume'].func.__module__, 'container' in "
        "options.BASE_OPTIONS_FUNCTION_BY_DELIVERY, map.__module__)"
    )
    assert run(code, tmp_path).stdout == "htmap_exec.delivery True htmap.mapping\n"


def test_without_htmap(tmp_path: Path) -> None:
    blocked = (
        "import sys, importlib.abc\n"
        "class No(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'htmap': raise ModuleNotFoundError('No module named htmap', name='htmap')\n"
        "sys.meta_path.insert(0, No())\n"
        "import htmap_exec as htmap\n"
        "htmap.map"
    )
    said = run(blocked, tmp_path, fails=True).stderr.splitlines()[-1]
    assert said == "htmap_exec.failures.HTMapMissing: HTMap is not installed: pip install 'htmap-exec[htmap]'"


def test_another_htmap(tmp_path: Path) -> None:
    code = (
        "import warnings, htmap, htmap_exec; htmap.__version__ = '0.7.0'\n"
        "with warnings.catch_warnings(record=True) as seen:\n"
        "    warnings.simplefilter('always')\n"
        "    htmap_exec.enable()\n"
        "print([str(each.message) for each in seen if 'htmap-exec' in str(each.message)])"
    )
    assert "made for HTMap 0.6.1, and this is 0.7.0" in run(code, tmp_path).stdout


def run(code: str, tmp_path: Path, *, fails: bool = False) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "HTMAP_DIR": str(tmp_path / "home"), "PYTHONPATH": str(ROOT / "python")},
        capture_output=True,
        text=True,
    )
    assert (done.returncode != 0) == fails, done.stderr
    return done
