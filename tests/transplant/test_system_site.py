"""What Python looks through for packages: in the archive as in the original, or it is said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import node_archives
from support.environment import binary, system_python
from support.node_archives import MAIN, copy_of_prefix

Pack = Callable[..., tuple[Path, str]]
MINOR = f"python{MAIN.minor}"


@pytest.fixture
def pack(tmp_path: Path) -> Pack:
    """The packed Python, unpacked, and what was said."""

    def run(python: Path, *options: object, **env: str) -> tuple[Path, str]:
        words = ["--level", "1", "--no-check", *options]
        done = node_archives.pack(python, tmp_path / "store", *words, **{"HOME": str(tmp_path), **env})
        words = [binary(), "transplant", "unpack", done.stdout.strip(), tmp_path / "tree"]
        unpacked = subprocess.run(list(map(str, words)), check=True, capture_output=True, text=True)
        return Path(unpacked.stdout.strip()), done.stderr

    return run


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return copy_of_prefix(MAIN, tmp_path / "base")


def site_of(python: Path) -> Path:
    return python.parents[1] / "lib" / MINOR / "site-packages"


def install(site: Path, name: str, version: str, files: dict[str, str]) -> None:
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
    record = site / f"{name.replace('-', '_')}-{version}.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def shared_venv(base: Path, tmp_path: Path) -> Path:
    words = [base, "-m", "venv", "--without-pip", "--system-site-packages", tmp_path / "venv"]
    subprocess.run(words, check=True)
    return tmp_path / "venv/bin/python"


def says(python: Path, *options: str) -> Any:
    code = (
        "import json, sys, importlib.metadata as m, pkg.sub, only_base, hooked; print(json.dumps("
        "[sys.path, m.version('pkg'), m.version('only-base'), pkg.sub.where, only_base.where, hooked.where,"
        " [e.value for e in m.entry_points(group='mine')]]))"
    )
    env = {"PATH": os.defpath, "LD_LIBRARY_PATH": f"{python.parents[1]}/lib/htmap-exec:{python.parents[1]}/lib"}
    done = subprocess.run([python, "-B", *options, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def shared(base: Path, tmp_path: Path) -> Path:
    """Of `pkg` the base has an older version, whose package `sub` is a module now."""
    install(site_of(base), "pkg", "1.0", {"pkg/__init__.py": "", "pkg/sub/__init__.py": "where = 'base'\n"})
    install(site_of(base), "only-base", "1.0", {"only_base.py": "where = 'base'\n"})
    # Read as a site directory's, and not only looked through.
    (site_of(base) / "more").mkdir()
    (site_of(base) / "more/hooked.py").write_text("where = 'more'\n")
    (site_of(base) / "more.pth").write_text("more\n")
    python = shared_venv(base, tmp_path)
    install(site_of(python), "pkg", "2.0", {"pkg/__init__.py": "", "pkg/sub.py": "where = 'venv'\n"})
    (site_of(python) / "own").mkdir()
    (site_of(python) / "~~z.pth").write_text("own\n")
    return python


@pytest.mark.parametrize("options", [(), ("-I",)])
def test_the_bases_packages_stay_behind(shared: Path, pack: Pack, options: tuple[str, ...]) -> None:
    moved, said = pack(shared)
    here, there = says(shared, *options), says(moved, *options)
    assert here[1:] == ["2.0", "1.0", "venv", "base", "more", []]
    assert there[1:] == here[1:]
    names = ["own", "only", "more"]

    def order(paths: list[str]) -> list[str]:
        """By what lies in them."""
        known = {"own": "own", "more": "more"}
        found = []
        for path in map(Path, paths):
            if path.name in known:
                found.append(path.name)
            elif (path / "only_base.py").exists():
                found.append("only")
        return found

    assert order(there[0]) == order(here[0]) == names
    assert "the other way round" not in said


def test_the_manifest_has_what_is_imported(shared: Path, pack: Pack, tmp_path: Path) -> None:
    pack(shared)
    [packages] = (tmp_path / "store").glob("*.pip")
    assert packages.read_text().split() == ["only-base==1.0", "pkg==2.0"]


def test_debians_packages_stay_behind(pack: Pack, tmp_path: Path) -> None:
    found = system_python()
    if found is None or not Path("/usr/lib/python3/dist-packages").is_dir():
        pytest.skip("this machine has no Python of Debian's")
    try:
        python = shared_venv(Path(found.path), tmp_path)
    except subprocess.CalledProcessError:
        pytest.skip("the system's Python makes no virtual environments: it lacks python3-venv")
    version = python.resolve().name
    site = python.parents[1] / "lib" / version / "site-packages"
    (site / "mine.py").write_text("x = 1\n")
    moved, said = pack(python)
    code = "import sys, mine; print('\\n'.join(sys.path))"
    paths = subprocess.check_output([moved, "-I", "-c", code], text=True).split("\n")
    own = [at for at, path in enumerate(paths) if (Path(path) / "mine.py").is_file()]
    others = [at for at, path in enumerate(paths) if path.endswith("lib/python3/dist-packages")]
    assert own and others and own < others
    assert "the other way round" not in said


def test_another_order_is_named(base: Path, pack: Pack) -> None:
    """Code in a `.pth` file puts a directory first that another one names last: which no archive can know."""
    site = site_of(base)
    (site / "vendored").mkdir()
    install(site, "mine", "1.0", {"mine.py": "who = 'site'\n"})
    install(site / "vendored", "mine", "2.0", {"mine.py": "who = 'vendored'\n"})
    (site / "z.pth").write_text("vendored\nimport sys; sys.path.insert(0, sys.path.pop())\n")
    _, said = pack(base)
    place = f"lib/{MINOR}/site-packages"
    assert f"Python looks through `{place}/vendored` before `{place}` here, and the other way round" in said
    exchanged = f"Python takes mine 2.0 from `{site}/vendored` here, and 1.0 from `{site}` in the archive"
    assert exchanged in said


def test_archives_that_a_pth_names(base: Path, pack: Pack, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "zipped.egg", "w") as file:
        file.writestr("zipped.py", "where = 'zip'\n")
    (site_of(base) / "zipped.pth").write_text(f"{tmp_path}/zipped.egg\n")
    moved, said = pack(base)
    (tmp_path / "zipped.egg").unlink()
    code = "import zipped; print(zipped.where)"
    env = {"PATH": os.defpath, "LD_LIBRARY_PATH": f"{moved.parents[1]}/lib"}
    assert subprocess.check_output([moved, "-c", code], env=env, text=True) == "zip\n"
    assert "not packed" not in said


def test_packages_that_are_nobodys_part_are_named(base: Path, pack: Pack, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    user = tmp_path / f".local/lib/{MINOR}/site-packages"
    user.mkdir(parents=True)
    mine.mkdir()
    install(user, "of-user", "3.0", {"of_user.py": ""})
    install(mine, "pkg", "9.0", {"pkg.py": ""})
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/module.py").touch()
    install(site_of(base), "pkg", "1.0", {"pkg.py": ""})
    _, said = pack(base, PYTHONPATH=f"{mine}:{tmp_path / 'bare'}:{tmp_path / 'gone'}")
    assert f"Python finds pkg 9.0 (the archive has 1.0) in `{mine}`" in said
    assert f"Python finds of-user 3.0 in `{user}`" in said
    assert f"Python finds modules in `{tmp_path / 'bare'}`" in said
    assert "/gone`" not in said
    [packages] = (tmp_path / "store").glob("*.pip")
    assert "pkg==1.0" in packages.read_text()
    assert "of-user" not in packages.read_text()


@pytest.mark.parametrize("half", ["json", "lib-dynload"])
def test_half_a_standard_library_is_refused(half: str, base: Path, tmp_path: Path) -> None:
    """As in the environments of virtualenv 16, whose `site` finds the other half where it was."""
    python = copy_of_prefix(MAIN, tmp_path / "half")
    library, other = (each.parents[1] / "lib" / MINOR for each in (python, base))
    shutil.rmtree(library / half)
    found = other / half if half == "lib-dynload" else other
    (library / "sitecustomize.py").write_text(f"import sys\nsys.path.append({str(found)!r})\n")
    env = {"PATH": os.defpath, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    words = [binary(), "transplant", "build", "--python", python, "--dir", tmp_path / "store", "--no-check"]
    done = subprocess.run(list(map(str, words)), env=env, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    # Without one of its own, Python looks for lib-dynload where it was built to be as well.
    found = "" if half == "lib-dynload" else f"{found}`, outside"
    assert f"cannot pack `{python.parents[1]}`: parts of its standard library are in `{found}" in done.stderr
    assert "python -m venv" in done.stderr


def test_what_is_left_out_is_not_listed(base: Path, pack: Pack, tmp_path: Path) -> None:
    """Also where its metadata alone is left out: nobody would find the version that is named."""
    install(site_of(base), "pkg", "1.0", {"pkg.py": ""})
    install(site_of(base), "other", "1.0", {"other.py": ""})
    (site_of(base) / "old-1.0.egg-info").write_text("Name: old\nVersion: 1.0\n")
    (site_of(base) / "kept-1.0.egg-info").write_text("Name: kept\nVersion: 1.0\n")
    pack(base, "--exclude", "**/pkg*", "--exclude", "**/old-*")
    [packages] = (tmp_path / "store").glob("*.pip")
    listed = packages.read_text()
    assert "other==1.0" in listed and "kept==1.0" in listed
    assert "pkg" not in listed and "old" not in listed
