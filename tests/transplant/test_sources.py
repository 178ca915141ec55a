"""Pythons of every kind, packed and run in a tree that holds a C library, a shell and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.bare import Bare
from support.environment import Python, binary, can_unshare, is_root, pythons, system_python
from support.node_archives import excluding

PYTHONS = list(pythons().values())
MAIN = pythons().get("3.11") or PYTHONS[-1]
# What no test here imports.
LEAN = excluding(("lib/python*/test", "lib/python*/config-*", "lib/python*/idlelib", "lib/*.a", "include", "share"))

pytestmark = pytest.mark.skipif(
    not is_root() or not can_unshare("--mount", "--pid", "--fork"),
    reason="entering another root needs root and mount namespaces",
)

CHECK = """
import ctypes, json, multiprocessing, sqlite3, ssl, sys
import %(modules)s

def main():
    with multiprocessing.Pool(1) as pool:
        [one] = pool.map(abs, [-1])
    print(json.dumps({
        "version": sys.version,
        "prefix": sys.prefix,
        "one": one,
        "two": sqlite3.connect(":memory:").execute("select 2").fetchone()[0],
        "values": [%(values)s],
        "foreign": sorted(
            name for name, module in list(sys.modules.items())
            if not (getattr(module, "__file__", None) or sys.prefix).startswith((sys.prefix, "/tmp/"))
        ),
    }))

if __name__ == "__main__":
    main()
"""


def transplant(*words: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [binary(), "transplant", *map(str, words)],
        env={"PATH": os.defpath, "HTMAP_DIR": str(cwd), "XDG_CACHE_HOME": str(cwd / "cache"), **env},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Bare]:
    # In memory where that is possible: there are many files, for a moment.
    memory = Path("/dev/shm")
    base = memory if os.access(memory, os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(dir=base) as root:
        yield Bare(Path(root) / "bare")


Moved = Callable[..., dict[str, Any]]


@pytest.fixture
def moved(tmp_path: Path, bare: Bare) -> Moved:
    """Packs a Python, unpacks it in the bare tree, and says what it says there."""

    def move(python: Path, modules: str = "json", values: str = "") -> dict[str, Any]:
        built = transplant("build", "--python", python, "--dir", tmp_path / "store", *LEAN, cwd=tmp_path)
        assert built.returncode == 0, built.stderr
        assert "is not checked" not in built.stderr
        root = "/opt/some where"
        unpacked = transplant("unpack", built.stdout.strip(), f"{bare.root}{root}", cwd=tmp_path)
        assert unpacked.returncode == 0, unpacked.stderr
        program = f"{root}/{Path(unpacked.stdout.strip()).relative_to(f'{bare.root}{root}')}"
        (bare.root / "tmp" / "check.py").write_text(CHECK % {"modules": modules, "values": values})
        libraries = f"{root}/lib/htmap-exec:{root}/lib/htmap-exec-common"
        done = bare.run(program, "/tmp/check.py", LD_LIBRARY_PATH=libraries)
        assert done.returncode == 0, done.stderr + built.stderr
        said: dict[str, Any] = json.loads(done.stdout)
        assert said.pop("prefix") == root
        assert (said.pop("one"), said.pop("two"), said.pop("foreign")) == (1, 2, []), done.stdout
        here = subprocess.check_output([python, "-c", "import sys; print(sys.version)"], text=True)
        assert said.pop("version") == here.strip()
        said["built"] = built.stderr
        return said

    return move


def base_of(python: Python) -> Path:
    code = "import sys; print(sys.base_prefix)"
    prefix = subprocess.check_output([python.path, "-c", code], text=True).strip()
    return Path(prefix) / "bin" / f"python{python.minor}"


def make_venv(python: Path, place: Path, *options: str) -> Path:
    subprocess.run([python, "-m", "venv", *options, place], check=True, capture_output=True)
    return place / "bin" / "python"


def install(python: Path, *what: object) -> None:
    words = [python, "-m", "pip", "--disable-pip-version-check", "install", "-q", *map(str, what)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("python", [PYTHONS[0], PYTHONS[-1]], ids=str)
def test_the_oldest_and_the_newest(moved: Moved, tmp_path: Path, python: Python) -> None:
    moved(make_venv(base_of(python), tmp_path / "venv", "--without-pip"))


def test_a_venv_of_a_venv_that_reads_its_base(moved: Moved, tmp_path: Path) -> None:
    first = make_venv(base_of(MAIN), tmp_path / "first", "--without-pip")
    second = make_venv(first, tmp_path / "second", "--without-pip")
    site = next((tmp_path / "second" / "lib").glob("python3*")) / "site-packages"
    (site / "mine.py").write_text("x = 5\n")
    assert moved(second, "mine", "mine.x")["values"] == [5]


@pytest.mark.parametrize("shared", [False, True])
def test_the_operating_systems(moved: Moved, tmp_path: Path, shared: bool) -> None:
    found = system_python()
    if found is None:
        pytest.skip("this machine has no /usr/bin/python3")
    try:
        python = make_venv(found.path, tmp_path / "venv", "--without-pip", *["--system-site-packages"] * shared)
    except subprocess.CalledProcessError:
        pytest.skip("the system's Python makes no virtual environments: it lacks python3-venv")
    site = next((tmp_path / "venv" / "lib").glob("python3*")) / "site-packages"
    (site / "mine.py").write_text("x = 5\n")
    assert moved(python, "mine", "mine.x")["values"] == [5]


def test_a_script_finds_the_operating_systems_python(tmp_path: Path, bare: Bare) -> None:
    found = system_python()
    if found is None:
        pytest.skip("this machine has no /usr/bin/python3")
    try:
        python = make_venv(found.path, tmp_path / "venv", "--without-pip")
    except subprocess.CalledProcessError:
        pytest.skip("the system's Python makes no virtual environments: it lacks python3-venv")
    script = python.with_name("hello")
    script.write_text(f"#!{python}\nprint('hello')\n")
    script.chmod(0o755)
    built = transplant("build", "--python", python, "--dir", tmp_path / "store", *LEAN, cwd=tmp_path)
    transplant("unpack", built.stdout.strip(), bare.root / "opt" / "x", cwd=tmp_path)
    done = bare.run("/opt/x/bin/hello", LD_LIBRARY_PATH="/opt/x/lib/htmap-exec")
    assert done.stdout == "hello\n", done.stderr


def test_a_place_that_is_reached_through_a_link(moved: Moved, tmp_path: Path, bare: Bare) -> None:
    """As a home directory often is: scripts and search paths name it by another path than the real one."""
    (tmp_path / "real").mkdir()
    (tmp_path / "home").symlink_to("real")
    python = make_venv(base_of(MAIN), tmp_path / "home" / "venv", "--without-pip")
    script = python.with_name("hello")
    script.write_text(f"#!{python}\nprint('hello')\n")
    script.chmod(0o755)
    moved(tmp_path / "real" / "venv" / "bin" / "python")
    done = bare.run("/opt/some where/bin/hello")
    assert done.stdout == "hello\n", done.stderr


EXTENSION = r"""
#include <Python.h>
static PyObject *answer(PyObject *self, PyObject *args) { return PyLong_FromLong(42); }
static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, ""}, {0}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "NAME", "", -1, methods};
PyMODINIT_FUNC PyInit_NAME(void) { return PyModule_Create(&module); }
"""


def write_project(root: Path, name: str, backend: str, directory: str, more: str = "") -> None:
    package = root / directory / name.replace(".", "/")
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(f"who = {name!r}\n")
    (package / "data.txt").write_text(name)
    (root / "pyproject.toml").write_text(
        f'[build-system]\nrequires = []\nbuild-backend = "{backend}"\n'
        f'[project]\nname = "{name}"\nversion = "1"\n{textwrap.dedent(more)}'
    )


def test_numpy_and_editable_installs(moved: Moved, tmp_path: Path) -> None:
    python = make_venv(base_of(MAIN), tmp_path / "venv")
    install(python, "numpy", "setuptools>=77,<80", "wheel", "hatchling", "editables", "flit_core", "pdm-backend")
    projects = tmp_path / "projects"
    finds = '[tool.setuptools.packages.find]\nwhere = ["{}"]\n'
    native = '[[tool.setuptools.ext-modules]]\nname = "in_src._native"\nsources = ["native.c"]\n'
    write_project(projects / "1", "in_src", "setuptools.build_meta", "src", finds.format("src") + native)
    (projects / "1" / "native.c").write_text(EXTENSION.replace("NAME", "_native"))
    write_project(projects / "2", "mapped", "setuptools.build_meta", "lib", '[tool.setuptools.package-dir]\n"" = "lib"')
    write_project(projects / "3", "flat_one", "setuptools.build_meta", ".")
    write_project(projects / "4", "strictly", "setuptools.build_meta", "src", finds.format("src"))
    write_project(projects / "5", "legacy", "setuptools.build_meta", ".")
    exact = '[tool.hatch.build]\ndev-mode-exact = true\n[tool.hatch.build.targets.wheel]\npackages = ["src/hatched"]\n'
    write_project(projects / "6", "hatched", "hatchling.build", "src", exact)
    flit = 'description = "x"\n'
    write_project(projects / "7", "flitted", "flit_core.buildapi", "src", flit)
    write_project(projects / "8", "pdmed", "pdm.backend", "src")
    write_project(
        projects / "9",
        "shared_name.part",
        "setuptools.build_meta",
        ".",
        '[tool.setuptools]\npackages = ["shared_name.part"]\n',
    )
    editable = ("--no-build-isolation", "--no-deps")
    install(python, *editable, *(word for n in "1236789" for word in ("-e", projects / n)))
    install(python, *editable, "--config-settings", "editable_mode=strict", "-e", projects / "4")
    (projects / "5" / "setup.py").write_text("import setuptools; setuptools.setup()\n")
    develop = subprocess.run([python, "setup.py", "develop", "--no-deps"], cwd=projects / "5", capture_output=True)
    assert develop.returncode == 0, develop.stderr
    # As pip puts what it checks out itself: inside of the environment, named absolutely.
    write_project(tmp_path / "venv" / "src" / "own", "own_one", "setuptools.build_meta", "src", finds.format("src"))
    install(python, *editable, "-e", tmp_path / "venv" / "src" / "own")
    names = [
        "in_src",
        "mapped",
        "flat_one",
        "strictly",
        "legacy",
        "hatched",
        "flitted",
        "pdmed",
        "shared_name.part",
        "own_one",
    ]
    said = moved(
        python,
        ", ".join(["numpy", "numpy.linalg", "in_src._native", *names]),
        ", ".join(
            ["float(numpy.linalg.det(numpy.eye(3)))", "in_src._native.answer()", *(f"{name}.who" for name in names)]
        ),
    )
    assert said["values"] == [1.0, 42, *names]


def test_sysconfig_says_where_it_is(moved: Moved, tmp_path: Path) -> None:
    said = moved(
        make_venv(base_of(MAIN), tmp_path / "venv", "--without-pip"),
        "sysconfig",
        "sysconfig.get_config_var('LIBDIR'), sysconfig.get_config_var('BINDIR'), sysconfig.get_path('stdlib')",
    )
    root = "/opt/some where"
    assert said["values"] == [f"{root}/lib", f"{root}/bin", f"{root}/lib/python{MAIN.minor}"]


def copied(base: Path, place: Path) -> Path:
    """Without what no test imports. Its search paths still name the place that it was copied from."""
    skipped = shutil.ignore_patterns("test", "site-packages", "config-*", "idlelib", "share", "*.a", "__pycache__")
    shutil.copytree(base, place, symlinks=True, ignore=skipped)
    (place / "lib" / f"python{MAIN.minor}" / "site-packages").mkdir()
    return place / "bin" / f"python{MAIN.minor}"


def own_libpython() -> Path:
    base = base_of(MAIN).parents[1]
    found = next(iter((base / "lib").glob("libpython3.*.so.1.0")), None)
    if found is None:
        pytest.skip(f"`{base}` has no libpython of its own")
    return found


def test_a_copied_python_takes_its_own_libpython(moved: Moved, tmp_path: Path) -> None:
    own_libpython()
    moved(copied(base_of(MAIN).parents[1], tmp_path / "copy"))


def test_an_environment_below_its_base(tmp_path: Path) -> None:
    """As pyenv-virtualenv makes them: the others stay behind, and it does not."""
    base = copied(base_of(MAIN).parents[1], tmp_path / "base")
    for name in ("mine", "other"):
        venv = tmp_path / "base" / "envs" / name
        subprocess.run([base, "-m", "venv", "--without-pip", venv], check=True)
        (venv / "lib" / f"python{MAIN.minor}" / "site-packages" / f"of_{name}.py").write_text("")
    python = tmp_path / "base/envs/mine/bin/python"
    done = transplant("build", "--python", python, "--dir", tmp_path / "store", *LEAN, "--no-check", "-v", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "left: 1 environment inside\n" in done.stderr
    assert f"`{tmp_path}/base/envs/other`" in done.stderr
    names = subprocess.check_output(["tar", "--zstd", "-tf", done.stdout.strip()], text=True)
    assert "/of_mine.py\n" in names
    assert "/of_other.py\n" not in names


def test_an_environment_that_would_start_as_another_python_is_refused(tmp_path: Path) -> None:
    """The loader is told to take another libpython here, as module systems do, and a node will not be told."""
    real = own_libpython()
    version = ".".join(map(str, MAIN.version))
    other = f"{version[:-1]}{(int(version[-1]) + 1) % 10}"
    bytes_ = real.read_bytes()
    assert f"{version}\0".encode() in bytes_
    (tmp_path / "told").mkdir()
    (tmp_path / "told" / real.name).write_bytes(bytes_.replace(f"{version}\0".encode(), f"{other}\0".encode()))
    words = (
        "build",
        "--python",
        base_of(MAIN),
        "--dir",
        tmp_path / "store",
        *LEAN,
        "--exclude",
        "lib/python*/site-packages",
    )
    done = transplant(*words, cwd=tmp_path, LD_LIBRARY_PATH=str(tmp_path / "told"))
    assert done.returncode == 1, done.stdout
    assert f"it starts as another Python: as `{version} (" in done.stderr
    assert f"and not as `{other} (" in done.stderr
    assert list((tmp_path / "store").iterdir()) == []
    assert transplant(*words, "--no-check", cwd=tmp_path).returncode == 0


def test_a_conda_prefix(tmp_path: Path, bare: Bare, moved: Moved) -> None:
    """A Python with records as conda writes them, and a library that names its place as conda installs it."""
    own_libpython()
    prefix = tmp_path / "conda"
    python = copied(base_of(MAIN).parents[1], prefix)
    placeholder = "/opt/placehold" + "_placehold" * 20
    field = f"{prefix}/ssl:{prefix}/certs".encode()
    binary_file = b"\x7fELF?" + field + bytes(2 * (len(placeholder) - len(str(prefix))) + 1) + b"end"
    (prefix / "lib" / "libdata.so.1").write_bytes(binary_file)
    (prefix / "etc").mkdir()
    (prefix / "etc" / "text.conf").write_text(f"home = {prefix}/share\n")
    (prefix / "etc" / "bypip.conf").write_text("home = nowhere\n")
    (prefix / "conda-meta").mkdir()
    (prefix / "conda-meta" / "history").touch()

    def path(name: str, mode: str) -> dict[str, object]:
        return {"_path": name, "path_type": "hardlink", "prefix_placeholder": placeholder, "file_mode": mode}

    paths = [
        {"_path": "bin/python3", "path_type": "softlink"},
        path("lib/libdata.so.1", "binary"),
        path("etc/text.conf", "text"),
        path("etc/bypip.conf", "text"),
        path("etc/gone.conf", "text"),
    ]
    record = {"name": "data", "version": "1", "paths_data": {"paths_version": 1, "paths": paths}}
    (prefix / "conda-meta" / "data-1-0.json").write_text(json.dumps(record))
    moved(python)
    root = bare.root / "opt" / "some where"
    now = (root / "lib" / "libdata.so.1").read_bytes()
    assert len(now) == len(binary_file)
    assert now.endswith(b"end")
    assert now[5:].split(b"\0")[0].decode() == f"{root}/ssl:{root}/certs"
    assert (root / "etc" / "text.conf").read_text() == f"home = {root}/share\n"
    assert (root / "etc" / "bypip.conf").read_text() == "home = nowhere\n"
