"""Maps whose nodes get the submit side's Python: htmap-exec's archives, by HTMap's delivery method `transplant`."""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import htmap
import htmap_exec
import pytest
from conftest import deliver
from on_pool import made, results, until


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
    htmap.settings.maps[0].get("EXEC", {}).pop("CACHE_DIR", None)
    htmap.settings.maps[0].get("EXEC", {}).pop("LOG", None)


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


def test_nodes_have_no_python_of_their_own() -> None:
    """The control: without the archive, the same component finds none."""
    htmap.settings["DELIVERY_METHOD"] = "assume"
    htmap.settings["EXEC.PYTHON"] = "python3"
    try:
        m = htmap.map(look, [1])
        m.wait(errors_ok=True, timeout=90)
        [report] = m.error_reports()
        assert "no Python 3.6 or later was found" in report
    finally:
        del htmap.settings.maps[0]["EXEC"]["PYTHON"]


def test_the_tree_stays_on_the_node() -> None:
    m = htmap.map(look, [1])
    results(m)
    size = sum(path.stat().st_size for path in m._map_dir.rglob("*") if path.is_file())
    assert size < 2_000_000
    assert not [path for path in m._map_dir.rglob("*") if path.name == "_htmap_python"]
    # Listed by its name alone.
    stdout = m.stdout.get(0)
    assert "_htmap_python" in stdout and "lib-dynload" not in stdout
    # The job had asked for room for it.
    text = htmap_exec.explain()
    asked = re.findall(r"^  request_disk = (\d+)MB$", text, re.MULTILINE)
    [archive] = htmap.transplants()
    assert int(asked[0]) * 2**20 > archive.size + 2**30
    assert re.search(r"request_disk = \d+MB\n.*\n +in this pool: 1 of 1 machines", text)
    assert "glibc 2." in text


def test_later_components_find_it_in_the_cache() -> None:
    cache = Path.home() / "node-cache"
    shutil.rmtree(cache, ignore_errors=True)
    htmap.settings["EXEC.CACHE_DIR"] = str(cache)
    htmap.settings["EXEC.LOG"] = "info"
    try:
        first = htmap.map(look, [1])
        [(_, prefix, _)] = results(first)  # type: ignore[misc]
        assert prefix.startswith(f"{cache}/")
        assert "unpacked `" in first.stderr.get(0)
        later = htmap.map(look, [2, 3, 4])
        assert {prefix for _, prefix, _ in results(later)} == {prefix}  # type: ignore[misc]
        assert all("found `" in later.stderr.get(component) for component in range(3))
    finally:
        os.system(f"chmod -R u+w '{cache}' && rm -rf '{cache}'")


def test_a_checkpoint_survives_a_vacate() -> None:
    def count(_: object) -> tuple[int, str]:
        import pathlib
        import sys
        import time

        import htmap

        state = pathlib.Path("count")
        start = int(state.read_text()) if state.exists() else 0
        for number in range(start + 1, 11):
            state.write_text(str(number))
            htmap.checkpoint("count")
            pathlib.Path(f"counted-{number - start}").touch()
            if number == 3:
                # Until it is evicted.
                time.sleep(600)
        return start, sys.prefix

    m = htmap.map(count, [None])
    until(made(m, 1, "counted-3"), "the first attempt counts")
    m.vacate()
    start, prefix = m.get(0, timeout=90)
    assert start == 3
    assert prefix.endswith("/_htmap_python")


def test_by_a_web_server(packed: Path, tmp_path: Path) -> None:
    results(htmap.map(look, [1]))
    [archive] = htmap.transplants()
    name = archive.hash
    shutil.copy(archive.path, tmp_path / name)
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, form: str, *args: object) -> None:
            asked.append(form % args)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        htmap.settings["TRANSPLANT.ALTERNATE_INPUT_PATH"] = f"http://127.0.0.1:{server.server_port}/{name}"
        [(x, prefix, _)] = results(htmap.map(look, [4]))  # type: ignore[misc]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert x == 8 and prefix.endswith("/_htmap_python")
    assert any(f"GET /{name} " in line for line in asked)


def test_a_file_of_the_nodes(packed: Path) -> None:
    results(htmap.map(look, [1]))
    [archive] = htmap.transplants()
    there = Path.home() / "python-of-the-node"
    shutil.copy(archive.path, there)
    there.chmod(0o644)
    htmap.settings["TRANSPLANT.ALTERNATE_INPUT_PATH"] = f"file://{there}"
    try:
        [(x, _, _)] = results(htmap.map(look, [4]))  # type: ignore[misc]
        assert x == 8
    finally:
        there.unlink()


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
    with pytest.raises(htmap_exec.SettingsError, match="has no archive of this Python"):
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
