"""The wheel of scripts/build-wheel, as whoever installs it gets it: HTMAP_EXEC_WHEEL names it."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from support.environment import CHECKOUT, Python, main_python, pythons

# The oldest that the package is for, and the one of most tests.
INSTALLED_ON = {
    python.minor: python
    for python in (next(p for p in pythons().values() if p.version >= (3, 8)), main_python())
    if python.version >= (3, 8)
}

USE = """
import sys
import htmap_exec

def double(x):
    print("doubling", x)
    return 2 * x

if sys.argv[1] == "write":
    htmap_exec.write_map(sys.argv[2], double, range(3))
else:
    print([htmap_exec.load_output(sys.argv[2], n) for n in range(3)])
"""

TYPED = """
import pathlib
import htmap_exec

made: pathlib.Path = htmap_exec.write_map("map", abs, [1, 2])
try:
    htmap_exec.load_output(made, 0)
except htmap_exec.ComponentFailed as error:
    text: str = htmap_exec.report(made, 0)
"""
WRONGLY_TYPED = """
import htmap_exec

number: int = htmap_exec.write_map("map", abs, [1, 2])
"""


@pytest.fixture(scope="module")
def wheel() -> Path:
    named = os.environ.get("HTMAP_EXEC_WHEEL")
    if not named:
        pytest.skip("HTMAP_EXEC_WHEEL names no wheel: scripts/build-wheel prints one")
    return Path(named)


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


@pytest.fixture(scope="module", params=list(INSTALLED_ON))
def prefix(request: pytest.FixtureRequest, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A fresh virtual environment with the wheel and what it asks for."""
    python: Python = INSTALLED_ON[request.param]
    made = tmp_path_factory.mktemp(f"prefix-{python}")
    subprocess.run([python.path, "-m", "venv", "--without-pip", made], check=True)
    # This one's pip: it knows the machine's settings, and venv brings an older one.
    pip = [python.path, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--python", made / "bin/python", "install", wheel], check=True)
    yield made
    shutil.rmtree(made)


def clean_environment(prefix: Path) -> dict[str, str]:
    return {"PATH": f"{prefix}/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(prefix)}


def version() -> str:
    found = re.search(r'^version = "(.*)"$', (CHECKOUT / "Cargo.toml").read_text(), re.MULTILINE)
    assert found
    return found[1]


def test_the_name_is_for_every_linux(wheel: Path) -> None:
    machine = re.search(r"_(x86_64|aarch64)\.whl$", wheel.name)
    assert machine
    tags = ".".join(f"{tag}_{machine[1]}" for tag in ("manylinux2014", "manylinux_2_17", "musllinux_1_1"))
    assert wheel.name == f"htmap_exec-{version()}-py3-none-{tags}.whl"


def test_it_holds_the_package_and_the_binary(wheel: Path) -> None:
    package = {
        str(path.relative_to(CHECKOUT / "python"))
        for path in (CHECKOUT / "python/htmap_exec").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "htmap_exec/py.typed" in package
    stem = f"htmap_exec-{version()}"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        binary = archive.getinfo(f"{stem}.data/scripts/htmap-exec")
    assert {name for name in names if not name.startswith(f"{stem}.dist-info/")} == {*package, binary.filename}
    assert f"{stem}.dist-info/licenses/LICENSE" in names
    assert (binary.external_attr >> 16) & stat.S_IXOTH
    assert wheel.stat().st_size < 3 << 20


def test_metadata(metadata: Message) -> None:
    assert metadata["Name"] == "htmap-exec"
    assert metadata["Version"] == version()
    assert metadata["Requires-Python"] == ">=3.8"
    assert metadata["License-Expression"] == "Apache-2.0"
    needs = metadata.get_all("Requires-Dist") or []
    assert [need for need in needs if "extra ==" not in need] == ["cloudpickle>=1.4"]
    extra = [need.split(";")[0].strip() for need in needs if "extra == 'htmap'" in need]
    assert "htmap==0.6.1" in extra
    # Nothing keeps the present bindings and click out.
    assert not [need for need in extra if "<" in need]
    assert "enable" in str(metadata.get_payload())


def test_the_binary_is_on_path(prefix: Path) -> None:
    done = subprocess.run(
        ["htmap-exec", "--version"], env=clean_environment(prefix), check=True, stdout=subprocess.PIPE, text=True
    )
    assert re.fullmatch(rf"htmap-exec {version()} \(.+, \S+-unknown-linux-musl, rustc 1\.\d+\.\d+\)\n", done.stdout)
    short = subprocess.run([prefix / "bin/htmap-exec", "-V"], check=True, stdout=subprocess.PIPE, text=True)
    assert short.stdout == f"htmap-exec {version()}\n"


def test_a_map(prefix: Path, tmp_path: Path) -> None:
    (tmp_path / "use.py").write_text(USE)

    def use(*command: str) -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=clean_environment(prefix), text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    use("python", "use.py", "write", "map")
    use("htmap-exec", "local", "map")
    assert use("python", "use.py", "read", "map") == "[0, 2, 4]\n"
    assert "doubling 2" in (tmp_path / "map/logs/2.stdout").read_text()


@pytest.mark.parametrize(("source", "status"), [(TYPED, 0), (WRONGLY_TYPED, 1)], ids=["right", "wrong"])
def test_its_types_reach_who_uses_it(prefix: Path, tmp_path: Path, source: str, status: int) -> None:
    (tmp_path / "use.py").write_text(source)
    # Elsewhere than the checkout, whose settings and sources it must not see.
    mypy = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache"]
    done = subprocess.run(
        [*mypy, "--python-executable", prefix / "bin/python", "use.py"],
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key not in ("MYPYPATH", "PYTHONPATH")},
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == status, done.stdout + done.stderr
    if status:
        assert 'variable has type "int"' in done.stdout


@pytest.fixture(scope="module")
def source_package(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What scripts/build-wheel --sdist makes, unpacked."""
    done = subprocess.run([CHECKOUT / "scripts/build-wheel", "--sdist"], check=True, stdout=subprocess.PIPE, text=True)
    where = tmp_path_factory.mktemp("sdist")
    with tarfile.open(done.stdout.splitlines()[-1]) as archive:
        archive.extractall(where, filter="data")
    (made,) = where.iterdir()
    return made


def test_the_source_package_has_every_source(source_package: Path) -> None:
    wanted = ["Cargo.toml", "Cargo.lock", "LICENSE", "README.md", "pyproject.toml", "crates", "python"]
    tracked = subprocess.run(
        ["git", "ls-files", "--", *wanted], cwd=CHECKOUT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.splitlines()
    assert tracked
    assert [name for name in tracked if not (source_package / name).is_file()] == []


# It compiles every crate, beside whatever else the machine does.
@pytest.mark.timeout(1500)
def test_the_source_package_compiles_without_git(source_package: Path, tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith(("HTMAP_EXEC_", "CARGO_TARGET"))}
    # Not the checkout's directory: there cargo would take the one's files for the other's.
    subprocess.run(
        ["cargo", "check", "--quiet", "--locked", "--target-dir", tmp_path / "target"],
        cwd=source_package,
        env=env,
        check=True,
    )
    said = [path.read_text() for path in tmp_path.glob("target/debug/build/htmap-exec-*/output")]
    assert any("HTMAP_EXEC_BUILD=unknown commit, " in text for text in said)
