"""Results, logs and files of maps."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import htmap
from on_pool import BINARY, TIMEOUT, finished, results


def test_map(delivery: str) -> None:
    m = htmap.map(lambda x: 2 * x, range(10))
    assert results(m) == [2 * x for x in range(10)]
    assert (m._map_dir / "records" / "3.json").exists()
    assert not list((m._map_dir / "output_files").glob("*.json"))


def test_starmap(delivery: str) -> None:
    m = htmap.starmap(lambda x, y=0: x + y, args=[(1,), (2,)], kwargs=[{"y": 10}, {"y": 20}])
    assert results(m) == [11, 22]


def test_build_map(delivery: str) -> None:
    with htmap.build_map(lambda x, p: x**p) as builder:
        for x in range(1, 4):
            builder(x, p=x)
    assert results(builder.map) == [1, 4, 27]


def test_python_is_the_nodes_or_the_submit_sides(delivery: str) -> None:
    def look(_: object) -> str:
        import sys

        return sys.executable

    expected = {"assume": "/usr/bin/python3", "shared": sys.executable}
    assert results(htmap.map(look, [None])) == [expected[delivery]]


def test_stdout_and_stderr(delivery: str) -> None:
    def talk(x: int) -> None:
        import sys

        print("to stdout", x)
        print("to stderr", x, file=sys.stderr)

    m = finished(htmap.map(talk, [7, 8]))
    for component, x in enumerate([7, 8]):
        stdout = m.stdout.get(component)
        order = [
            "Landed on execute node",
            "Scratch directory contents before run:",
            "Python executable is ",
            f"Running component {component}",
            "----- MAP COMPONENT OUTPUT START -----",
            f"to stdout {x}",
            "-----  MAP COMPONENT OUTPUT END  -----",
            "Finished executing component at",
            "Scratch directory contents after run:",
        ]
        places = [stdout.index(text) for text in order]
        assert places == sorted(places)
        assert m.stderr.get(component) == f"to stderr {x}\n"


def test_output_files(delivery: str) -> None:
    def write(x: int) -> int:
        import pathlib

        import htmap

        pathlib.Path("sub").mkdir()
        pathlib.Path("sub", "deep.txt").write_text(f"deep {x}")
        pathlib.Path("flat.txt").write_text(f"flat {x}")
        htmap.transfer_output_files("sub", "flat.txt")
        return x

    m = htmap.map(write, [5, 6])
    assert results(m) == [5, 6]
    for component, x in enumerate([5, 6]):
        files = m.output_files.get(component)
        assert (files / "sub" / "deep.txt").read_text() == f"deep {x}"
        assert (files / "flat.txt").read_text() == f"flat {x}"


def test_input_files_by_transfer_path(delivery: str, tmp_path: Path) -> None:
    inputs = []
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(name)
        inputs.append(htmap.TransferPath(tmp_path / f"{name}.txt"))
    assert results(htmap.map(lambda path: path.read_text(), inputs)) == ["one", "two"]


def test_fixed_input_files(assume: None, tmp_path: Path) -> None:
    """They are added to what the delivery method sends, and do not take its place."""
    (tmp_path / "shared.txt").write_text("for all")

    def read(x: int) -> tuple[int, str]:
        import pathlib

        return x, pathlib.Path("shared.txt").read_text()

    options = htmap.MapOptions(fixed_input_files=[str(tmp_path / "shared.txt")])
    assert results(htmap.map(read, range(2), map_options=options)) == [(0, "for all"), (1, "for all")]


def test_rerun_of_failed_components(delivery: str, tmp_path: Path) -> None:
    # Not in /tmp: a job has its own.
    switch = Path.home() / f"switch-{tmp_path.name}"

    def picky(x: int) -> int:
        if x and not switch.exists():
            raise ValueError("not yet")
        return x

    m = finished(htmap.map(picky, [0, 1, 2]))
    failed = m.components_by_status()[htmap.ComponentStatus.ERRORED]
    assert failed == (1, 2)
    assert "not yet" in m.get_err(1).report()
    switch.touch()
    try:
        m.rerun(failed)
        assert [m.get(component, timeout=TIMEOUT) for component in range(3)] == [0, 1, 2]
    finally:
        switch.unlink()


def test_a_second_map_does_not_bring_the_first_ones_inputs(assume: None) -> None:
    first = htmap.map(lambda x: x + 1, range(3))
    second = htmap.map(lambda x: x - 1, range(3))
    assert results(first) == [1, 2, 3]
    assert results(second) == [-1, 0, 1]


def test_stock_htmap_with_nothing_but_settings(stock: Callable[[str], None], map_options: Callable[..., None]) -> None:
    """The way that the README shows for HTMap without the htmap_exec package."""
    stock("assume")
    map_options(executable=BINARY, arguments="run $(component)")
    m = htmap.map(lambda x: 2 * x, range(3))
    assert results(m) == [0, 2, 4]
    # Its own script makes none.
    assert (m._map_dir / "output_files" / "0.json").exists()


def test_the_binary_in_the_place_of_htmaps_script(stock: Callable[[str], None]) -> None:
    """HTMap's own descriptors, unchanged: the file they name is the binary."""
    from htmap import names, options

    def replace(tag: str, map_dir: Path) -> None:
        shutil.copy2(BINARY, map_dir / names.RUN_SCRIPT)

    htmap.register_delivery_method("assume", options._get_base_descriptors_for_assume, replace)
    htmap.settings["DELIVERY_METHOD"] = "assume"
    m = htmap.map(lambda x: 2 * x, range(3))
    assert results(m) == [0, 2, 4]
    assert (m._map_dir / "output_files" / "0.json").exists()
