"""Stock HTMap in the tests' own home, and no scheduler.

HTMap makes its directory when it is imported and keeps its settings in the process: what a test changes is put back.
"""

from __future__ import annotations

import copy
import stat
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Submission = Callable[..., "tuple[dict[str, str], list[dict[str, str]]]"]


@pytest.fixture(scope="session")
def htmap() -> Any:
    pytest.importorskip("htcondor", reason="HTMap needs HTCondor's Python bindings, version 1", exc_type=ImportError)
    with warnings.catch_warnings():
        # The bindings warn that no HTCondor is configured here.
        warnings.simplefilter("ignore")
        import htmap
    # Another suite may have imported it first, with a home of its own.
    htmap.settings["HTMAP_DIR"] = str(Path.home() / ".htmap")
    for name in ("maps", "tags", "removed"):
        (Path.home() / ".htmap" / name).mkdir(parents=True, exist_ok=True)
    return htmap


@pytest.fixture
def binary(tmp_path: Path) -> Path:
    """Something executable: these tests submit, or run nothing."""
    path = tmp_path / "some where" / "htmap-exec"
    path.parent.mkdir()
    path.write_text("#!/bin/sh\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def enabled(htmap: Any, binary: Path) -> Iterator[Any]:
    """HTMap with htmap_exec enabled."""
    import htmap_exec

    # Private, but there is no other way to undo it.
    from htmap import options

    tables = (options.BASE_OPTIONS_FUNCTION_BY_DELIVERY, options.SETUP_FUNCTION_BY_DELIVERY)
    before = [dict(table) for table in tables]
    settings = copy.deepcopy(htmap.settings.maps[0])
    htmap_exec.enable(binary)
    yield htmap
    htmap.settings.maps[0] = settings
    for table, saved in zip(tables, before):
        table.clear()
        table.update(saved)


@pytest.fixture
def submission(enabled: Any, tmp_path: Path) -> Submission:
    """What HTMap would submit for a map: descriptors and itemdata."""

    def make(name: str, delivery: str, *, components: int = 2, **map_options: Any) -> Any:
        from htmap import mapping, options

        map_dir = tmp_path / "maps" / name
        mapping.make_map_dir_and_subdirs(map_dir)
        enabled.settings["DELIVERY_METHOD"] = delivery
        submit, itemdata = options.create_submit_object_and_itemdata(
            name, map_dir, components, enabled.MapOptions(**map_options)
        )
        return dict(submit), itemdata

    return make
