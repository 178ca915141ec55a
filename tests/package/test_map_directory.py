"""Map directories that htmap_exec writes: HTMap reads them, and so does every Python that the package is for."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import htmap_exec
import pytest
from support.environment import binary, pythons


def test_htmap_reads_it(htmap: Any, tmp_path: Path) -> None:
    from htmap import htio, mapping, names

    made = htmap_exec.write_map(tmp_path / "map", lambda x: 2 * x, (n for n in range(3)))
    assert made == tmp_path / "map"
    assert htio.load_num_components(made) == 3
    assert htio.load_object(made / names.FUNC)(21) == 42
    assert [htio.load_object(made / names.INPUTS_DIR / f"{n}.in") for n in range(3)] == [((n,), {}) for n in range(3)]
    assert all((made / name).is_dir() for name in mapping.MAP_SUBDIR_NAMES)


def test_whole_calls(htmap: Any, tmp_path: Path) -> None:
    from htmap import htio

    calls = [((1, 2), {"z": 3}), ([4], {})]
    made = htmap_exec.write_map(tmp_path / "map", max, args_and_kwargs=calls)
    assert [htio.load_object(made / "inputs" / f"{n}.in") for n in range(2)] == [((1, 2), {"z": 3}), ((4,), {})]


def test_it_is_readable_by_others_and_nothing_else_is_left(tmp_path: Path) -> None:
    made = htmap_exec.write_map(tmp_path / "deep" / "map", abs, [1])
    assert made.stat().st_mode & 0o777 == 0o755
    assert [path.name for path in made.parent.iterdir()] == ["map"]


def test_an_empty_directory_will_do(tmp_path: Path) -> None:
    (tmp_path / "map").mkdir()
    htmap_exec.write_map(tmp_path / "map", abs, [1])
    assert (tmp_path / "map" / "num_components").read_text() == "1"


def test_a_link_to_an_empty_directory_will_do(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "map").symlink_to("elsewhere")
    made = htmap_exec.write_map(tmp_path / "map", abs, [1])
    assert made == tmp_path / "elsewhere"


def test_a_full_directory_will_not(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(htmap_exec.MapDirectoryError, match="is not empty"):
        htmap_exec.write_map(tmp_path, abs, [1])
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_file_will_not(tmp_path: Path) -> None:
    (tmp_path / "map").touch()
    with pytest.raises(htmap_exec.MapDirectoryError, match="exists and is no directory"):
        htmap_exec.write_map(tmp_path / "map", abs, [1])


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"inputs": []}, htmap_exec.MapDirectoryError, "at least one component"),
        ({}, TypeError, "either `inputs` or `args_and_kwargs`"),
        ({"inputs": [1], "args_and_kwargs": []}, TypeError, "either `inputs` or `args_and_kwargs`"),
        ({"args_and_kwargs": [((), {}), 5]}, htmap_exec.MapDirectoryError, "component 1: .* not int"),
        ({"inputs": [1, threading.Lock()]}, htmap_exec.MapDirectoryError, "arguments of component 1: TypeError"),
    ],
)
def test_what_it_refuses(tmp_path: Path, arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        htmap_exec.write_map(tmp_path / "map", abs, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_function_that_cannot_be_pickled(tmp_path: Path) -> None:
    lock = threading.Lock()
    with pytest.raises(htmap_exec.MapDirectoryError, match="cannot pickle the function: TypeError"):
        htmap_exec.write_map(tmp_path / "map", lambda x: lock, [1])


def test_inputs_that_raise_leave_nothing(tmp_path: Path) -> None:
    def inputs() -> Iterator[int]:
        yield 1
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        htmap_exec.write_map(tmp_path / "map", abs, inputs())
    assert list(tmp_path.iterdir()) == []


PROGRAM = """
import sys
import htmap_exec

def thirds(x):
    share = 3 / x
    return share

directory = sys.argv[1] + "/map"
htmap_exec.write_map(directory, thirds, [1, 2, 0])
import subprocess
done = subprocess.run([sys.argv[2], "local", "--python", sys.executable, directory])
assert done.returncode == 1, done.returncode
assert [htmap_exec.load_output(directory, n) for n in (0, 1)] == [3.0, 1.5]
try:
    htmap_exec.load_output(directory, 2)
except htmap_exec.ComponentFailed as error:
    print(error)
"""


@pytest.mark.parametrize("minor", ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14"])
def test_written_run_and_read_by_each_python(minor: str, tmp_path: Path) -> None:
    if minor not in pythons():
        pytest.skip(f"this machine has no Python {minor}")
    environment = {**os.environ, "PYTHONPATH": str(Path(htmap_exec.__file__).parents[1])}
    command = [str(pythons()[minor].path), "-W", "error", "-c", PROGRAM, str(tmp_path), str(binary())]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"Python    {minor}." in done.stdout
    assert "            x = 0\n" in done.stdout
    assert done.stdout.endswith("ZeroDivisionError: division by zero\n\n")
    assert (tmp_path / "map" / "submit_python").read_text() == f"{minor}\n"
    assert (tmp_path / "map" / "records" / "2.json").is_file()
