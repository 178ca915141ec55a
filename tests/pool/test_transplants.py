"""Maps whose nodes get the submit side's Python: htmap-exec's archives, by HTMap's delivery method `transplant`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import htmap
import htmap_exec
import pytest
from conftest import deliver
from on_pool import results


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where archives are built: once for all tests of this module."""
    return tmp_path_factory.mktemp("transplants")


@pytest.fixture(autouse=True)
def transplant(packed: Path) -> Iterator[None]:
    deliver("transplant")
    htmap.settings["TRANSPLANT.DIR"] = str(packed)
    # No Python where the job looks for one.
    htmap.settings["MAP_OPTIONS.environment"] = '"PATH=/no/such"'
    yield
    del htmap.settings.maps[0]["TRANSPLANT"]
    del htmap.settings.maps[0]["MAP_OPTIONS"]


def look(x: int) -> tuple[int, str, str]:
    import sys

    import cloudpickle

    return 2 * x, sys.prefix, cloudpickle.__file__


# Of this module by value: nodes do not have it.
look.__module__ = "__main__"


def test_a_map_runs_by_this_python() -> None:
    for x, prefix, cloudpickle in results(htmap.map(look, [1, 2, 3])):  # type: ignore[misc]
        assert x in (2, 4, 6)
        assert prefix.endswith("/_htmap_python")
        assert cloudpickle.startswith(prefix)


def test_htmap_shows_what_was_packed(packed: Path) -> None:
    results(htmap.map(look, [1]))
    [archive] = htmap.transplants()
    made = archive.path.stat().st_mtime_ns
    assert any(line.startswith("htmap") for line in archive.packages)
    assert archive.hash in htmap.transplant_info()
    # A second map packs nothing.
    results(htmap.map(look, [1]))
    assert archive.path.stat().st_mtime_ns == made
    archive.remove()
    assert list(packed.iterdir()) == []


def test_an_archive_of_another_name(packed: Path, tmp_path: Path) -> None:
    results(htmap.map(look, [1]))
    [archive] = htmap.transplants()
    shutil.copy(archive.path, tmp_path / "my-python.tar.zst")
    htmap.settings["TRANSPLANT.ALTERNATE_INPUT_PATH"] = str(tmp_path / "my-python.tar.zst")
    m = htmap.map(look, [4])
    [(x, _, _)] = results(m)  # type: ignore[misc]
    assert x == 8
    assert "--transplant my-python.tar.zst" in htmap_exec.explain()


def test_none_is_there(tmp_path: Path) -> None:
    htmap.settings["TRANSPLANT.DIR"] = str(tmp_path)
    htmap.settings["TRANSPLANT.ASSUME_EXISTS"] = True
    with pytest.raises(htmap_exec.SettingsError, match="there is no archive"):
        htmap.map(look, [1])
    htmap.settings["TRANSPLANT.ALTERNATE_INPUT_PATH"] = "/no/such"
    with pytest.raises(htmap_exec.SettingsError, match="`/no/such`, which is no file here"):
        htmap.map(look, [1])


def test_a_damaged_archive_has_a_report(packed: Path, tmp_path: Path) -> None:
    results(htmap.map(look, [1]))
    [archive] = htmap.transplants()
    damaged = tmp_path / archive.path.name
    shutil.copy(archive.path, damaged)
    with damaged.open("r+b") as file:
        file.seek(os.stat(damaged).st_size // 2)
        file.write(bytes(8))
    htmap.settings["TRANSPLANT.ALTERNATE_INPUT_PATH"] = str(damaged)
    m = htmap.map(look, [1])
    m.wait(errors_ok=True, timeout=90)
    [report] = m.error_reports()
    assert "is no whole transplant" in report


def test_the_interpreter_is_named_in_the_report() -> None:
    def fail(_: object) -> None:
        raise ValueError("on purpose")

    m = htmap.map(fail, [1])
    m.wait(errors_ok=True, timeout=90)
    [report] = m.error_reports()
    assert f"/_htmap_python/bin/python{sys.version_info[0]}.{sys.version_info[1]}" in report
