"""Environments that uv made, packed and run in a tree that holds a C library, a shell and nothing else.

The Pythons that uv installs itself can be had from GitHub alone. The one here is a stand-in: another Python in the
layout of python-build-standalone, which uv finds and uses as one of its own.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.bare import Bare
from support.environment import binary, can_unshare, is_root, pythons
from support.node_archives import excluding

MAIN = pythons().get("3.11") or list(pythons().values())[-1]
# What no test here imports.
LEAN = excluding(("lib/python*/test", "lib/python*/config-*", "lib/python*/idlelib", "lib/*.a", "include", "share"))
LINKS = ("copy", "hardlink", "symlink")

pytestmark = pytest.mark.skipif(
    not is_root() or not can_unshare("--mount", "--pid", "--fork"),
    reason="entering another root needs root and mount namespaces",
)

CHECK = """
import json, sqlite3, ssl, sys, sysconfig
import cloudpickle, mine, numpy
print(json.dumps({
    "version": sys.version,
    "prefix": sys.prefix,
    "values": [
        sqlite3.connect(":memory:").execute("select 2").fetchone()[0],
        bool(ssl.OPENSSL_VERSION),
        float(numpy.linalg.det(numpy.eye(3))),
        mine.who,
        cloudpickle.loads(cloudpickle.dumps(lambda: 7))(),
    ],
    "stdlib": sysconfig.get_path("stdlib"),
    "foreign": sorted(
        name for name, module in list(sys.modules.items())
        if not (getattr(module, "__file__", None) or sys.prefix).startswith((sys.prefix, "/tmp/"))
    ),
}))
"""


def run(*words: object, **env: str) -> str:
    done = subprocess.run(list(map(str, words)), env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def base() -> Path:
    return Path(run(MAIN.path, "-c", "import sys; print(sys.base_prefix)", **os.environ))


class Uv:
    """uv with directories of its own, and wheels instead of an index."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.wheels = root / "wheels"
        self.env = {
            "PATH": os.defpath,
            "HOME": str(root),
            "UV_CACHE_DIR": str(root / "cache"),
            "UV_PYTHON_INSTALL_DIR": str(root / "python"),
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_OFFLINE": "1",
            "UV_NO_CONFIG": "1",
        }
        pip = (base() / "bin" / f"python{MAIN.minor}", "-m", "pip", "--disable-pip-version-check")
        wanted = ("numpy", "cloudpickle", "flit_core")
        run(*pip, "download", "-q", "--only-binary=:all:", "-d", self.wheels, *wanted, **os.environ)

    def __call__(self, *words: object) -> str:
        return run(sys.executable, "-m", "uv", *words, **self.env)

    def venv(self, place: Path, *options: object, link: str = "copy") -> Path:
        self("venv", *options, place)
        python = place / "bin" / "python"
        project = place.parent / "project"
        (project / "src" / "mine").mkdir(parents=True)
        (project / "src" / "mine" / "__init__.py").write_text("who = 'me'\n")
        (project / "pyproject.toml").write_text(
            '[build-system]\nrequires = []\nbuild-backend = "flit_core.buildapi"\n'
            '[project]\nname = "mine"\nversion = "1"\ndescription = "x"\n'
        )
        install = ("pip", "install", "--python", python, "--link-mode", link, "--no-index", "--find-links", self.wheels)
        self(*install, "numpy", "cloudpickle", "flit_core")
        self(*install, "--no-build-isolation", "--no-deps", "-e", project)
        return python


@pytest.fixture(scope="module")
def uv() -> Iterator[Uv]:
    # In memory where that is possible. Hard links need one file system.
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as root:
        yield Uv(Path(root))


@pytest.fixture
def place(uv: Uv) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=uv.root) as place:
        yield Path(place)


@pytest.fixture
def moved(place: Path) -> Callable[[Path], dict[str, Any]]:
    """Packs a Python, unpacks it where nothing of it is, and says what it says there."""

    def move(python: Path) -> dict[str, Any]:
        env = {"PATH": os.defpath, "XDG_CACHE_HOME": str(place / "cache"), "HTMAP_DIR": str(place)}
        words = ("build", "--python", python, "--dir", place / "store", "--level", "1", *LEAN)
        built = subprocess.run(
            [binary(), "transplant", *map(str, words)], env=env, capture_output=True, text=True, check=False
        )
        assert built.returncode == 0, built.stderr
        assert "is not checked" not in built.stderr
        bare = Bare(place / "bare")
        root = "/opt/some where"
        program = run(binary(), "transplant", "unpack", built.stdout.strip(), f"{bare.root}{root}", **env)
        (bare.root / "tmp" / "check.py").write_text(CHECK)
        done = bare.run(
            f"/{Path(program).relative_to(bare.root)}",
            "/tmp/check.py",
            LD_LIBRARY_PATH=f"{root}/lib/htmap-exec:{root}/lib/htmap-exec-common",
        )
        assert done.returncode == 0, done.stderr + built.stderr
        said: dict[str, Any] = json.loads(done.stdout)
        assert said["prefix"] == root
        assert said["stdlib"].startswith(root)
        assert said["foreign"] == []
        assert said["values"] == [2, True, 1.0, "me", 7]
        assert said["version"] == run(python, "-c", "import sys; print(sys.version)")
        said["tree"] = bare.root / root[1:]
        return said

    return move


@pytest.mark.parametrize("link", LINKS)
def test_however_uv_links_its_cache(uv: Uv, place: Path, moved: Callable[[Path], dict[str, Any]], link: str) -> None:
    python = uv.venv(place / "venv", "--python", base() / "bin" / f"python{MAIN.minor}", link=link)
    [taken] = (place / "venv").glob("lib/python3*/site-packages/numpy/__init__.py")
    assert taken.is_symlink() == (link == "symlink")
    assert (taken.stat().st_nlink > 1) == (link == "hardlink") or link == "symlink"
    tree = moved(python)["tree"]
    for path in (tree / "lib").rglob("*"):
        assert not path.is_symlink() or path.resolve().is_relative_to(tree), path


def test_a_relocatable_one(uv: Uv, place: Path, moved: Callable[[Path], dict[str, Any]]) -> None:
    python = uv.venv(place / "venv", "--relocatable", "--python", base() / "bin" / f"python{MAIN.minor}")
    assert "relocatable = true" in (place / "venv" / "pyvenv.cfg").read_text()
    script = moved(python)["tree"] / "bin" / "f2py"
    assert script.read_text().startswith("#!/bin/sh\n")
    # By the Python beside it.
    shutil.rmtree(place / "venv")
    assert run(script, "-v", PATH=os.defpath)[0].isdigit()


def stand_in(uv: Uv) -> Path:
    """A Python in the layout of python-build-standalone, where uv looks for those that it installed."""
    version = ".".join(map(str, MAIN.version))
    key = f"linux-{platform.machine()}-gnu"
    root = uv.root / "python" / f"cpython-{version}-{key}"
    if root.exists():
        return root
    skipped = shutil.ignore_patterns("test", "site-packages", "config-*", "idlelib", "share", "*.a", "__pycache__")
    shutil.copytree(base(), root, symlinks=True, ignore=skipped)
    library = root / "lib" / f"python{MAIN.minor}"
    (library / "site-packages").mkdir()
    (library / "EXTERNALLY-MANAGED").write_text("[externally-managed]\nError=This Python is managed by uv.\n")
    # It was built for this place, and finds its libpython beside itself.
    for path in library.glob("_sysconfigdata*.py"):
        path.write_text(path.read_text().replace(str(base()), "/install"))
    old, new = f"{base()}/lib".encode(), b"$ORIGIN/../lib"
    for path in (root / "bin" / f"python{MAIN.minor}", *root.glob("lib/libpython*.so*")):
        if not path.is_symlink():
            path.write_bytes(path.read_bytes().replace(old + b"\0", new.ljust(len(old) + 1, b"\0")))
    terminal = root / "share" / "terminfo" / "x"
    terminal.mkdir(parents=True)
    (terminal / "xterm").write_bytes(b"\x1a\x01")
    (uv.root / "python" / f"cpython-{MAIN.minor}-{key}").symlink_to(root.name)
    return root


@pytest.mark.parametrize("how", ["minor", "patch", "relocatable"])
def test_a_python_that_uv_manages(uv: Uv, place: Path, moved: Callable[[Path], dict[str, Any]], how: str) -> None:
    root = stand_in(uv)
    options = ("--relocatable",) if how == "relocatable" else ()
    python = uv.venv(place / "venv", "--managed-python", "--python", MAIN.minor, *options)
    config = place / "venv" / "pyvenv.cfg"
    assert f"home = {root}/bin\n" in config.read_text()
    if how == "minor":
        # Through the link to the newest patch version, as uv does for those that it has installed itself.
        link = root.with_name(f"cpython-{MAIN.minor}-linux-{platform.machine()}-gnu")
        config.write_text(config.read_text().replace(f"home = {root}/", f"home = {link}/"))
        python.unlink()
        python.symlink_to(link / "bin" / f"python{MAIN.minor}")
    said = moved(python)
    assert not (said["tree"] / "bin" / "python").resolve().is_relative_to(uv.root / "python")
    assert str(uv.root) not in run("sh", "-c", 'grep -rIl "$0" "$1"/bin || true', uv.root, said["tree"], **os.environ)


def test_one_that_uv_manages_by_itself(uv: Uv, place: Path, moved: Callable[[Path], dict[str, Any]]) -> None:
    """Without a virtual environment: packages lie in the Python itself."""
    root = stand_in(uv)
    other = place / "python" / root.name
    shutil.copytree(root, other, symlinks=True)
    (other / "lib" / f"python{MAIN.minor}" / "EXTERNALLY-MANAGED").unlink()
    python = other / "bin" / f"python{MAIN.minor}"
    site = other / "lib" / f"python{MAIN.minor}" / "site-packages"
    uv("pip", "install", "--python", python, "--no-index", "--find-links", uv.wheels, "numpy", "cloudpickle")
    (site / "mine.py").write_text("who = 'me'\n")
    moved(python)
