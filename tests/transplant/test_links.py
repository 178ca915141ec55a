"""Links that lead out of what is packed, in circles, or to what nobody can pack."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import node_archives
from support.environment import binary
from support.node_archives import MAIN

Pack = Callable[..., tuple[Path, str]]
LIBRARY = Path(f"lib/python{MAIN.minor}/site-packages")


@pytest.fixture
def pack(venv: Path, tmp_path: Path) -> Pack:
    """The tree that comes out, and what was said."""

    def run(*options: object) -> tuple[Path, str]:
        done = node_archives.pack(venv / "bin/python", tmp_path / "store", "--level", "1", "--no-check", "-v", *options)
        tree = tmp_path / "tree"
        words = [binary(), "transplant", "unpack", done.stdout.strip(), tree]
        subprocess.run(list(map(str, words)), check=True, capture_output=True)
        for path in tree.rglob("*"):
            assert not path.is_symlink() or not os.path.isabs(os.readlink(path)), path
        return tree, done.stderr

    return run


def test_out_of_an_editable(site: Path, pack: Pack, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "src/pkg").mkdir(parents=True)
    (project / "conf").mkdir()
    (project / "shared/deep").mkdir(parents=True)
    (project / "conf/c.json").write_text("{}")
    (project / "shared/deep/x.py").write_text("x = 1\n")
    (project / "src/pkg/c.json").symlink_to("../../conf/c.json")
    (project / "src/pkg/shared").symlink_to("../../shared")
    (project / "src/pkg/gone.json").symlink_to("../../conf/gone.json")
    (project / "src/pkg/own.json").symlink_to("c.json")
    (site / "mine.pth").write_text(f"{project}/src\n")
    tree, said = pack()
    pkg = tree / "lib/htmap-exec-editable/0/pkg"
    assert (pkg / "c.json").read_text() == "{}"
    assert (pkg / "own.json").read_text() == "{}"
    assert (pkg / "shared/deep/x.py").read_text() == "x = 1\n"
    assert not os.path.lexists(pkg / "gone.json")
    assert "gone.json` is a link to nowhere (`../../conf/gone.json`): left out" in said


def test_out_of_what_is_included(pack: Pack, tmp_path: Path) -> None:
    (tmp_path / "data/in").mkdir(parents=True)
    (tmp_path / "data/out.txt").write_text("out")
    (tmp_path / "data/in/out.txt").symlink_to("../out.txt")
    tree, _ = pack("--include", f"{tmp_path}/data/in=share/data")
    assert (tree / "share/data/out.txt").read_text() == "out"


def test_from_one_source_into_another(site: Path, pack: Pack, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.py").write_text(f"x = {name!r}\n")
        (site / f"{name}.pth").write_text(f"{tmp_path / name}\n")
    (tmp_path / "one/other").symlink_to("../two")
    (tmp_path / "two/other.py").symlink_to(tmp_path / "one/one.py")
    (tmp_path / "two/site").symlink_to(site)
    tree, _ = pack()
    sources = tree / "lib/htmap-exec-editable"
    assert (sources / "0/other/two.py").read_text() == "x = 'two'\n"
    assert (sources / "1/other.py").read_text() == "x = 'one'\n"
    # Once, and by links.
    for link in ("0/other", "1/other.py", "1/site"):
        assert (sources / link).is_symlink(), link
    assert (sources / "1/site").resolve() == tree / LIBRARY


def test_behind_a_directory_that_is_a_link(site: Path, pack: Pack, tmp_path: Path) -> None:
    """Where `..` leads is a matter of where the link leads."""
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/x.py").write_text("x = 'there'\n")
    (site / "x.py").write_text("x = 'here'\n")
    (site / "b").symlink_to(tmp_path / "a/b")
    (site / "link.py").symlink_to("b/../x.py")
    tree, _ = pack()
    assert (tree / LIBRARY / "link.py").read_text() == "x = 'there'\n"


def test_circles(site: Path, pack: Pack, tmp_path: Path) -> None:
    for one, other in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / one).mkdir()
        (tmp_path / one / f"{one}.py").write_text("x = 1\n")
        (tmp_path / one / "next").symlink_to(tmp_path / other)
    (site / "pkg").symlink_to(tmp_path / "a")
    (site / "self").symlink_to(tmp_path / "self")
    (tmp_path / "self").symlink_to("self")
    tree, said = pack()
    pkg = tree / LIBRARY / "pkg"
    assert (pkg / "next/next/c.py").is_file()
    assert (pkg / "next/next/next/a.py").is_file()
    assert "/self` is a link to nowhere" in said
    assert sum(path.is_file() and not path.is_symlink() for path in tree.rglob("[abc].py")) == 3


def test_to_a_directory_above(venv: Path, site: Path, pack: Pack, tmp_path: Path) -> None:
    (tmp_path / "beside.txt").write_text("mine")
    (site / "above").symlink_to(tmp_path)
    (site / "relative").symlink_to("../" * 5)
    (site / "root").symlink_to("/")
    (site / "self").symlink_to(venv)
    tree, said = pack()
    for name in ("above", "relative", "root"):
        assert f"/{name}` is a link to a directory that holds what is packed" in said
        assert not os.path.lexists(tree / LIBRARY / name)
    assert (tree / LIBRARY / "self").resolve() == tree
    assert not list(tree.rglob("beside.txt"))


def test_above_a_directory_that_was_taken(site: Path, pack: Pack, tmp_path: Path) -> None:
    """Each would hold the one before, on and on."""
    deep = tmp_path / "outer/middle/inner"
    deep.mkdir(parents=True)
    (deep / "up").symlink_to(tmp_path / "outer/middle")
    (tmp_path / "outer/middle/up").symlink_to(tmp_path / "outer")
    (site / "pkg").symlink_to(deep)
    tree, said = pack()
    assert (tree / LIBRARY / "pkg").is_dir()
    assert "pkg/up` is a link to a directory that holds what is packed" in said


def test_to_what_nobody_can_pack(site: Path, pack: Pack, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "tube")
    os.mkfifo(site / "own_tube")
    with socket.socket(socket.AF_UNIX) as bound:
        here = os.open(site, os.O_RDONLY)
        bound.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    (site / "tube").symlink_to(tmp_path / "tube")
    (site / "null").symlink_to("/dev/null")
    (site / "proc").symlink_to("/proc")
    (site / "status.txt").symlink_to("/proc/self/status")
    tree, said = pack()
    assert "/tube` is a link to a device, pipe or socket" in said
    for name in ("null", "proc"):
        assert f"/{name}` is a link to what is every machine's own" in said
    for name in ("own_tube", "socket"):
        assert f"`{site / name}` is a device, pipe or socket: left out" in said
    for name in ("tube", "null", "proc", "own_tube", "socket"):
        assert not os.path.lexists(tree / LIBRARY / name)


def test_to_another_environment(site: Path, pack: Pack, tmp_path: Path) -> None:
    other = tmp_path / "other"
    subprocess.run([MAIN.path, "-m", "venv", "--without-pip", other], check=True)
    (site / "other").symlink_to(other)
    tree, said = pack()
    assert "/other` is a link to another environment" in said
    assert not os.path.lexists(tree / LIBRARY / "other")
