"""Modules without `.pyc`, as uv leaves them: a build compiles them, so that no component has to."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from support.environment import Python, binary, pythons
from support.node_archives import excluding

PYTHONS = list(pythons().values())
MAIN = pythons().get("3.11") or PYTHONS[-1]
GOOD = """
def shown():
    raise ValueError(1 in {"a", "b", "c", "d"})
class Point:
    "A point."
    x, y = 1.5, {"one": (1, 2, 3)}
""" + "\n".join(f"def f{number}(x): return x in {{'k{number}', 'l', 'm', {number}}}" for number in range(20))
BROKEN = "def f(:\n"

# What no test here imports, so that builds are short.
LEAN = excluding([
    "lib/python*/test", "lib/python*/config-*", "lib/python*/idlelib", "lib/python*/lib2to3",
    "lib/python*/ensurepip", "lib/python*/pydoc_data", "lib/python*/tkinter", "lib/*.a", "include", "share",
])  # fmt: skip


def environment(root: Path, python: Python) -> Path:
    venv = root / "venv"
    subprocess.run([python.path, "-m", "venv", "--without-pip", venv], check=True)
    package = packages(venv) / "mine"
    package.mkdir()
    (package / "__init__.py").write_text(GOOD)
    for number in range(30):
        (package / f"part_{number}.py").write_text(GOOD.replace("Point", f"Point{number}"))
    (package / "template.py").write_text(BROKEN)
    (package / "not-a-module.py").write_text(GOOD)
    (package / "deep.py").write_text("x = " + "(" * 300 + ")" * 300 + "\n")
    return venv


def packages(venv: Path) -> Path:
    return next((venv / "lib").glob("python3*")) / "site-packages"


def said(*words: object, **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(list(map(str, words)), env={"PATH": os.defpath, **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


class Builder:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = ""

    def build(self, venv: Path, *options: object, cache: str = "cache", store: str = "store", **env: str) -> Path:
        done = said(
            binary(), "--log", "debug", "transplant", "build", "--no-check", "--python", venv / "bin/python",
            "--dir", self.root / store, "--level", "1", *LEAN, *options, XDG_CACHE_HOME=str(self.root / cache), **env,
        )  # fmt: skip
        self.log = done.stderr
        return Path(done.stdout.strip())

    def counts(self) -> tuple[int, int, int]:
        found = re.search(r"compiled (\d+) modules, (\d+) were compiled before, (\d+) do not compile", self.log)
        assert found, self.log
        return int(found[1]), int(found[2]), int(found[3])

    def unpacked(self, archive: Path, name: str = "tree") -> Path:
        tree = self.root / name
        said(binary(), "transplant", "unpack", archive, tree)
        return tree


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(tmp_path)


def compiled(tree: Path) -> dict[str, bytes]:
    mine = packages(tree) / "mine"
    return {path.name: path.read_bytes() for path in (mine / "__pycache__").iterdir()}


@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_what_has_none_gets_one(builder: Builder, tmp_path: Path, python: Python) -> None:
    tree = builder.unpacked(builder.build(environment(tmp_path, python)))
    names = {name.partition(".")[0] for name in compiled(tree)}
    assert names >= {"__init__", *(f"part_{number}" for number in range(30))}
    assert names.isdisjoint({"template", "not-a-module"})
    # A fresh Python of the tree takes them, and names the sources where they lie now.
    code = (
        "import mine.part_3, sys\n"
        "try: mine.shown()\n"
        "except ValueError as error: print(error.__traceback__.tb_next.tb_frame.f_code.co_filename)\n"
        "print(mine.part_3.f3('k3'), mine.Point.x)\n"
    )
    done = said(tree / "bin/python3", "-v", "-B", "-c", code)
    assert done.stdout.splitlines() == [str(packages(tree) / "mine/__init__.py"), "True 1.5"]
    for module in ("__init__", "part_3"):
        assert re.search(rf"# code object from '?\S*mine/__pycache__/{module}\.cpython", done.stderr), done.stderr
    # What does not compile says so when it is imported, and not before.
    failed = subprocess.run([tree / "bin/python3", "-c", "import mine.template"], capture_output=True, text=True)
    assert "SyntaxError" in failed.stderr
    # No place of this machine is in it.
    assert not any(os.fsencode(tmp_path) in content for content in compiled(tree).values())


@pytest.mark.parametrize("python", [*PYTHONS[:1], MAIN, *PYTHONS[-1:]], ids=str)
def test_the_same_bytes_at_any_time_and_place(builder: Builder, tmp_path: Path, python: Python) -> None:
    venv = environment(tmp_path, python)
    first = builder.build(venv)
    # With another seed, and settings that are not the build's.
    again = builder.build(venv, cache="other cache", store="other store", PYTHONHASHSEED="7", PYTHONOPTIMIZE="2")
    assert builder.counts()[1] == 0
    assert again.name == first.name
    moved = tmp_path / "elsewhere" / "deeper"
    moved.mkdir(parents=True)
    there = environment(moved, python)
    builder.build(there, cache="third cache", store="third store")
    assert builder.counts()[1] == 0
    [archive] = [path for path in (tmp_path / "third store").iterdir() if path.suffix != ".pip"]
    one, other = builder.unpacked(first), builder.unpacked(archive, "other tree")
    assert compiled(one) == compiled(other)


def test_the_next_build_compiles_what_has_changed(builder: Builder, tmp_path: Path) -> None:
    venv = environment(tmp_path, MAIN)
    builder.build(venv)
    made, known, failed = builder.counts()
    assert (made >= 31, known) == (True, 0)
    assert failed >= 1
    (packages(venv) / "mine/part_7.py").write_text("changed = True\n")
    archive = builder.build(venv)
    assert builder.counts() == (1, made + failed - 1, 0)
    assert archive.read_bytes() == builder.build(venv, cache="other cache", store="other store").read_bytes()
    # What is remembered may be damaged.
    [kept] = (tmp_path / "cache").rglob("*.compiled")
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    (packages(venv) / "mine/part_7.py").write_text("changed = 'again'\n")
    archive = builder.build(venv)
    assert builder.counts()[1] == 0
    assert archive.read_bytes() == builder.build(venv, cache="last cache", store="last store").read_bytes()


def test_those_that_are_there_stay(builder: Builder, tmp_path: Path) -> None:
    venv = environment(tmp_path, MAIN)
    for name in ("template.py", "deep.py"):
        (packages(venv) / "mine" / name).unlink()
    said(venv / "bin/python", "-m", "compileall", "-q", packages(venv))
    with_them = {name: content for name, content in compiled(venv).items() if not name.startswith("not-")}
    tree = builder.unpacked(builder.build(venv))
    assert {name: content[16:] for name, content in compiled(tree).items()}.items() >= {
        name: content[16:] for name, content in with_them.items()
    }.items()
    # Timed ones stay timed: PEP 552's flags are zero.
    assert all(content[4:8] == bytes(4) for content in compiled(tree).values())


def test_it_may_be_left(builder: Builder, tmp_path: Path) -> None:
    venv = environment(tmp_path, MAIN)
    tree = builder.unpacked(builder.build(venv, "--no-compile"))
    assert not (packages(tree) / "mine/__pycache__").exists()
    # Who leaves them out wants none.
    tree = builder.unpacked(builder.build(venv, "--exclude", "**/*.pyc"), "other")
    assert not list(tree.rglob("*.pyc"))


def test_a_python_that_cannot_compile_is_no_error(builder: Builder, tmp_path: Path) -> None:
    """Such as one that ends whenever it is asked to."""
    venv = environment(tmp_path, MAIN)
    python = venv / "bin/python"
    real = python.resolve()
    python.unlink()
    python.write_text(f'#!/bin/bash\ncase "$*" in *marshal*) exit 1;; esac\nexec -a "$0" {real} "$@"\n')
    python.chmod(0o755)
    tree = builder.unpacked(builder.build(venv))
    assert not (packages(tree) / "mine/__pycache__").exists()
