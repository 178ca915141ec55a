"""What `.pth` files of installs name: namespace packages, far too much, and what cannot be read."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support import node_archives
from support.environment import binary
from support.node_archives import MAIN

Pack = Callable[..., tuple[Path, str]]

# What `setup.py develop` writes for a namespace package: setuptools/namespaces.py.
NAMESPACE = ";".join(
    (
        "import sys, types, os",
        "has_mfs = sys.version_info > (3, 5)",
        "p = os.path.join(%(root)r, *('ns',))",
        "importlib = has_mfs and __import__('importlib.util')",
        "has_mfs and __import__('importlib.machinery')",
        "finder = has_mfs and importlib.machinery.PathFinder",
        "spec = has_mfs and finder.find_spec('ns', [os.path.dirname(p)])",
        "m = has_mfs and sys.modules.setdefault('ns', importlib.util.module_from_spec(spec))",
        "m = m or sys.modules.setdefault('ns', types.ModuleType('ns'))",
        "mp = (m or []) and m.__dict__.setdefault('__path__',[])",
        "(p not in mp) and mp.append(p)",
    )
)


@pytest.fixture
def pack(venv: Path, tmp_path: Path) -> Pack:
    """The tree that comes out, and what was said."""

    def run(**env: str) -> tuple[Path, str]:
        done = node_archives.pack(venv / "bin/python", tmp_path / "store", "--level", "1", "--no-check", "-v", **env)
        tree = tmp_path / "tree"
        words = [binary(), "transplant", "unpack", done.stdout.strip(), tree]
        subprocess.run(list(map(str, words)), check=True, capture_output=True)
        return tree, done.stderr

    return run


def imported(tree: Path, what: str) -> subprocess.CompletedProcess[str]:
    python = tree / "bin" / f"python{MAIN.minor}"
    return subprocess.run(
        [python, "-c", f"import {what} as found; print(found.__file__)"], capture_output=True, text=True
    )


@pytest.mark.parametrize("name", ["project", "it's a project"])
def test_a_namespace_package_of_a_development_install(site: Path, pack: Pack, tmp_path: Path, name: str) -> None:
    project = tmp_path / name
    (project / "ns/pkg").mkdir(parents=True)
    (project / "ns/pkg/__init__.py").write_text("")
    (site / "easy-install.pth").write_text(f"{project}\n")
    (site / "mine-nspkg.pth").write_text(NAMESPACE % {"root": str(project)} + "\n")
    tree, said = pack()
    project.rename(tmp_path / "gone")
    done = imported(tree, "ns.pkg")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tree.resolve()}/lib/htmap-exec-editable/0/ns/pkg/__init__.py\n"
    assert "makes a namespace package" not in said


def test_a_namespace_package_that_stays_behind_is_named(site: Path, pack: Pack, tmp_path: Path) -> None:
    (site / "mine-nspkg.pth").write_text(NAMESPACE % {"root": str(tmp_path / "nowhere")} + "\n")
    _, said = pack()
    named = f"mine-nspkg.pth` makes a namespace package of `{tmp_path}/nowhere`, which is not in the archive"
    assert named in said


@pytest.mark.parametrize("everything", ["home", "/"])
def test_a_home_directory_is_not_taken_along(site: Path, pack: Pack, tmp_path: Path, everything: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "secret").write_text("secret")
    named = home if everything == "home" else Path(everything)
    (site / "all.pth").write_text(f"{named}\n")
    (site / "__editable__.all.pth").write_text("import __editable___all_finder; x.install()\n")
    (site / "__editable___all_finder.py").write_text(f"MAPPING: dict[str, str] = {{'all': '{named}'}}\n")
    tree, said = pack(HOME=str(home))
    assert not list(tree.rglob("secret"))
    for name in ("all.pth", "__editable__.all.pth"):
        assert f"{name}` puts all of `{named}` on Python's path: left out" in said


def test_what_hangs_is_not_read(site: Path, pack: Pack) -> None:
    (site / "__editable__.x.pth").write_text("import __editable___x_finder; x.install()\n")
    os.mkfifo(site / "__editable___x_finder.py")
    tree, said = pack()
    assert "__editable___x_finder.py` is a device, pipe or socket: left out" in said
    assert (tree / f"lib/python{MAIN.minor}/site-packages/__editable__.x.pth").is_file()


def test_packages_have_any_names(site: Path, pack: Pack, tmp_path: Path) -> None:
    project = tmp_path / "project"
    for name in ("mine/venv", "mine/node_modules", "venv"):
        (project / name).mkdir(parents=True)
        (project / name / "__init__.py").write_text("")
    # No packages: npm's, and an environment.
    for name in ("node_modules/left", "env/lib"):
        (project / name).mkdir(parents=True)
        (project / name / "big.js").write_text("")
    (project / "env/pyvenv.cfg").touch()
    (site / "mine.pth").write_text(f"{project}\n")
    tree, _ = pack()
    packed = tree / "lib/htmap-exec-editable/0"
    for name in ("mine/venv", "mine/node_modules", "venv"):
        assert (packed / name / "__init__.py").is_file(), name
    assert sorted(path.name for path in packed.iterdir()) == ["mine", "venv"]
