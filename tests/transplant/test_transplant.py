"""Pythons packed, moved to where nothing of them is, and run there; and archives that are not what they should be."""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.cases import dispose
from support.environment import Python, binary, can_unshare, cloudpickle_package, probe, pythons, system_python
from support.moments import comes_to
from support.outcome import Outcome
from support.running import run_ours
from support.scratch import Scratch, make_pickles, new_base

PYTHONS = list(pythons().values())
MAIN = pythons().get("3.11") or PYTHONS[-1]

Build = Callable[..., Path]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def command(store: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*words: object, fails: bool = False) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [binary(), "transplant", *map(str, words)],
            env={"PATH": os.defpath, "XDG_CACHE_HOME": str(tmp_path / "cache"), "HTMAP_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        assert "panicked" not in done.stderr
        return done

    return run


@pytest.fixture
def build(store: Path, command: Callable[..., subprocess.CompletedProcess[str]]) -> Build:
    def make(python: Path, *options: object, directory: Path = store) -> Path:
        done = command("build", "--python", python, "--dir", directory, *options)
        return Path(done.stdout.strip())

    return make


@pytest.fixture
def component() -> Iterator[Callable[..., Outcome]]:
    """Runs a function by an archive, in a mount namespace where these directories are empty."""
    made: list[Scratch] = []

    def run(archive: Path, python: Python, source: str, *, hidden: list[Path], **env: str) -> Outcome:
        scratch = Scratch(base=new_base(), python=python, name_python=False)
        made.append(scratch)
        scratch.fill(make_pickles(source, python, 0))
        shutil.copy(archive, scratch.dir / archive.name)
        scratch.options = ["--transplant", archive.name]
        scratch.env.update(env)
        # The binary may lie below what is hidden.
        program = scratch.base / "program"
        shutil.copy(binary(), program)
        scratch.program = program
        mounts = "".join(f"mount -t tmpfs none '{path}' && " for path in hidden)
        scratch.wrapper = ["unshare", "--mount", "--", "sh", "-c", f'{mounts}exec "$@"', "sh"]
        return run_ours(scratch, 60, None)

    yield run
    for scratch in made:
        dispose(scratch)


def base_of(python: Python) -> Path:
    code = "import sys; print(sys.base_prefix)"
    return Path(subprocess.check_output([python.path, "-c", code], text=True).strip())


def hidden(python: Python) -> list[Path]:
    """The Python that was packed, and the environment."""
    base = base_of(python)
    own = python.path.parent.parent
    return [own] if base == Path("/usr") else [base, own]


SOURCE = """
    def f(x):
        import ctypes, json, sqlite3, ssl, sys
        return 2 * x, sys.version_info[:2], sys.prefix.endswith("/_htmap_python"), sys.flags.optimize
    args = (21,)
"""

needs_namespaces = pytest.mark.skipif(not can_unshare("--mount"), reason="mount namespaces are not permitted here")


@needs_namespaces
@pytest.mark.parametrize("python", PYTHONS, ids=str)
def test_a_virtual_environment_runs_where_nothing_of_it_is(
    build: Build, component: Callable[..., Outcome], python: Python
) -> None:
    archive = build(python.path)
    outcome = component(archive, python, SOURCE, hidden=hidden(python), PYTHONHOME="/no/such", PYTHONPATH="/no/such")
    assert outcome.value == (42, python.version[:2], True, 0), outcome.dump()
    # The tree itself is not listed.
    assert "|- * _htmap_python\n|- * _htmap_transfer" in outcome.stdout
    assert "site-packages" not in outcome.stdout.split("Python executable")[0]


@needs_namespaces
def test_the_operating_systems_python(build: Build, component: Callable[..., Outcome], tmp_path: Path) -> None:
    found = system_python()
    if found is None:
        pytest.skip("this machine has no /usr/bin/python3")
    venv = tmp_path / "venv"
    if subprocess.run([found.path, "-m", "venv", "--without-pip", venv], capture_output=True).returncode != 0:
        pytest.skip("the system's Python makes no virtual environments: it lacks python3-venv")
    python = probe(venv / "bin" / "python3")
    site = next((venv / "lib").glob("python3*")) / "site-packages"
    shutil.copytree(cloudpickle_package(), site / "cloudpickle")
    archive = build(python.path)
    library = Path(f"/usr/lib/python{python.minor}")
    outcome = component(archive, python, SOURCE, hidden=[library, venv])
    assert outcome.value == (42, python.version[:2], True, 0), outcome.dump()


@needs_namespaces
def test_editable_installs_come_along(build: Build, component: Callable[..., Outcome], tmp_path: Path) -> None:
    venv = copy_of_environment(tmp_path)
    python = Python(venv / "bin" / "python", MAIN.version)
    site = next((venv / "lib").glob("python3*")) / "site-packages"
    flat, mapped = tmp_path / "flat project", tmp_path / "mapped"
    for root, name in ((flat, "flat_one"), (mapped, "mapped_one")):
        (root / name).mkdir(parents=True)
        (root / name / "__init__.py").write_text(f"who = {name!r}\n")
        (root / ".git").mkdir()
        (root / ".git" / "config").write_text("secret\n")
    (site / "__editable__.flat.pth").write_text(f"{flat}\n")
    (site / "__editable__.mapped.pth").write_text(
        "import __editable___mapped_finder; __editable___mapped_finder.install()"
    )
    (site / "__editable___mapped_finder.py").write_text(
        f"MAPPING: dict[str, str] = {{'mapped_one': '{mapped / 'mapped_one'}'}}\ndef install():\n    pass\n"
    )
    archive = build(python.path)
    source = """
        def f():
            import flat_one, mapped_one
            return flat_one.who, mapped_one.who, flat_one.__file__.count("_htmap_python")
    """
    outcome = component(archive, python, source, hidden=[*hidden(python), flat, mapped])
    assert outcome.value == ("flat_one", "mapped_one", 1), outcome.dump()
    names = subprocess.check_output(["tar", "--zstd", "-tf", archive], text=True)
    assert ".git/" not in names
    # A change of the source is a change of the environment.
    (flat / "flat_one" / "more.py").write_text("x = 1\n")
    assert build(python.path) != archive


def copy_of_environment(tmp_path: Path) -> Path:
    """A virtual environment of the main Python's base, to be changed."""
    base = base_of(MAIN) / "bin" / f"python{MAIN.minor}"
    subprocess.run([base, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    site = next((tmp_path / "venv" / "lib").glob("python3*")) / "site-packages"
    shutil.copytree(cloudpickle_package(), site / "cloudpickle")
    return tmp_path / "venv"


def test_scripts_find_their_python(build: Build, command: Callable[..., object], tmp_path: Path) -> None:
    venv = copy_of_environment(tmp_path)
    script = venv / "bin" / "hello"
    script.write_text(f"#!{venv}/bin/python\nimport sys\nprint('hello', sys.prefix)\n")
    script.chmod(0o755)
    archive = build(venv / "bin" / "python")
    target = tmp_path / "some where" / "else"
    command("unpack", archive, target)
    shutil.rmtree(venv)
    said = subprocess.check_output([target / "bin" / "hello"], text=True)
    assert said == f"hello {target}\n"


def test_bytecode_stays_valid(build: Build, command: Callable[..., object], tmp_path: Path) -> None:
    archive = build(MAIN.path)
    command("unpack", archive, tmp_path / "tree")
    python = tmp_path / "tree" / "bin" / f"python{MAIN.minor}"
    subprocess.run([python, "-c", "import json"], check=True)
    said = subprocess.run([python, "-v", "-c", "import json"], capture_output=True, text=True, check=True).stderr
    assert f"json/__pycache__/__init__.cpython-{MAIN.minor.replace('.', '')}.pyc matches" in said
    assert "wrote" not in said


def test_the_same_environment_gives_the_same_bytes(build: Build, tmp_path: Path) -> None:
    one = build(MAIN.path, directory=tmp_path / "one")
    two = build(MAIN.path, "--level", "3", "--exclude", "no/such", directory=tmp_path / "two")
    assert one.name == two.name
    assert one.read_bytes() == two.read_bytes()
    stronger = build(MAIN.path, "--level", "9", directory=tmp_path / "three")
    assert stronger.name == one.name
    assert stronger.stat().st_size < one.stat().st_size


def test_plain_tar_reads_it(build: Build, command: Callable[..., object], tmp_path: Path) -> None:
    archive = build(MAIN.path)
    (tmp_path / "tar").mkdir()
    subprocess.run(["tar", "--zstd", "-xf", archive, "-C", tmp_path / "tar"], check=True)
    command("unpack", archive, tmp_path / "ours")
    # What names its place is edited by whoever knows how.
    edits = json.loads((tmp_path / "tar" / "lib" / "htmap-exec-edits.json").read_text())
    for text in edits["text"]:
        for tree in ("tar", "ours"):
            (tmp_path / tree / text["path"]).unlink()
    done = subprocess.run(["diff", "-r", "--no-dereference", tmp_path / "tar", tmp_path / "ours"], capture_output=True)
    assert done.returncode == 0, done.stdout


def test_nothing_to_do(command: Callable[..., subprocess.CompletedProcess[str]], store: Path, tmp_path: Path) -> None:
    venv = copy_of_environment(tmp_path)
    words = ("build", "--python", venv / "bin" / "python", "--dir", store)
    first = command(*words)
    again = command(*words)
    assert again.stdout == first.stdout
    assert f"nothing to do: no file of `{venv}` has changed" in again.stderr
    Path(first.stdout.strip()).unlink()
    assert "nothing to do" not in command(*words).stderr
    (next((venv / "lib").glob("python3*")) / "site-packages" / "new.py").write_text("")
    other = command(*words)
    assert other.stdout != first.stdout
    assert "nothing to do" not in other.stderr


def test_the_store(
    command: Callable[..., subprocess.CompletedProcess[str]], build: Build, store: Path, tmp_path: Path
) -> None:
    archive = build(MAIN.path)
    assert (store / f"{archive.name}.pip").read_text().splitlines()[0].startswith("cloudpickle==")
    assert sorted(path.name for path in store.iterdir()) == [archive.name, f"{archive.name}.pip"]
    assert f"{archive.name[:12]}  Python {'.'.join(map(str, MAIN.version))}" in command("list", "--dir", store).stdout
    [told] = json.loads(command("list", "--dir", store, "--json").stdout)
    assert told["digest"] == archive.name
    assert told["manifest"]["python"] == f"bin/python{MAIN.minor}"
    assert f"Digest    {archive.name}" in command("info", "--dir", store, archive.name[:8]).stdout
    assert command("verify", "--dir", store, archive.name[:8]).stdout == f"{archive.name}: whole\n"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    assert "is not empty" in command("unpack", archive, tmp_path / "full", fails=True).stderr
    assert "neither such a file" in command("info", "--dir", store, "0123", fails=True).stderr
    command("remove", "--dir", store, archive.name[:8])
    assert list(store.iterdir()) == []


def test_a_kill_leaves_no_archive(store: Path, tmp_path: Path) -> None:

    def written(size: int) -> bool:
        return any(path.stat().st_size >= size for path in store.glob(".making-*"))

    for size in (None, 0, 1 << 10, 1 << 20):
        running = subprocess.Popen(
            [binary(), "transplant", "build", "--python", MAIN.path, "--dir", store],
            env={"PATH": os.defpath, "XDG_CACHE_HOME": str(tmp_path / "cache")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert size is None or comes_to(running, functools.partial(written, size))
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        left = [path for path in store.iterdir() if path.suffix != ".pip"] if store.exists() else []
        assert left == []


def test_two_builds_at_once(store: Path, tmp_path: Path) -> None:
    running = [
        subprocess.Popen(
            [binary(), "transplant", "build", "--python", MAIN.path, "--dir", store],
            env={"PATH": os.defpath, "XDG_CACHE_HOME": str(tmp_path / "cache")},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    paths = {each.communicate()[0] for each in running}
    assert [each.returncode for each in running] == [0, 0]
    assert len(paths) == 1
    assert len(list(store.iterdir())) == 2


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with little in it, to be damaged."""
    root = tmp_path_factory.mktemp("small")
    done = subprocess.run(
        [
            binary(),
            "transplant",
            "build",
            "--python",
            MAIN.path,
            "--dir",
            root,
            "--exclude",
            "lib/python*/*/*",
            "--exclude",
            "lib/lib*",
            "--exclude",
            "share/*",
            "--exclude",
            "include/*",
            # Without its libpython it does not start.
            "--no-check",
        ],
        env={"PATH": os.defpath, "XDG_CACHE_HOME": str(root / "cache")},
        capture_output=True,
        text=True,
        check=True,
    )
    return Path(done.stdout.strip())


def unpacked(archive: Path, into: Path) -> dict[Path, bytes | str]:
    """All of its files and links."""
    shutil.rmtree(into, ignore_errors=True)
    subprocess.run([binary(), "transplant", "unpack", archive, into], check=True, stdout=subprocess.DEVNULL)
    return {
        path.relative_to(into): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in into.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_damage_is_found(small: Path, command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path) -> None:
    whole = small.read_bytes()
    chance = random.Random(1)
    damaged = tmp_path / "damaged"
    cases = [whole[: chance.randrange(len(whole))] for _ in range(20)] + [b"", b"x", whole + b"x", whole[1:]]
    for _ in range(60):
        at = chance.randrange(len(whole))
        cases.append(whole[:at] + bytes([whole[at] ^ (1 << chance.randrange(8))]) + whole[at + 1 :])
    for _ in range(60):
        # The index and the end, where a reader believes what it reads.
        at = len(whole) - 1 - chance.randrange(3000)
        cases.append(whole[:at] + bytes([whole[at] ^ (1 << chance.randrange(8))]) + whole[at + 1 :])
    for case in cases:
        damaged.write_bytes(case)
        done = subprocess.run([binary(), "transplant", "verify", damaged], capture_output=True, text=True)
        named = tmp_path / small.name
        shutil.copy(damaged, named)
        by_name = subprocess.run([binary(), "transplant", "verify", named], capture_output=True, text=True)
        if by_name.returncode == 0:
            # Such as a bit that zstd does not use.
            assert unpacked(named, tmp_path / "damaged tree") == unpacked(small, tmp_path / "tree"), len(case)
            continue
        assert by_name.returncode == 1, (by_name, len(case))
        assert "htmap-exec: error: " in by_name.stderr
        # Under another name an index may be another one that is as good, if its digest is consistent: never a crash.
        assert done.returncode in (0, 1), done.stderr


@needs_namespaces
def test_a_damaged_archive_is_an_error_record(small: Path, component: Callable[..., Outcome], tmp_path: Path) -> None:
    whole = bytearray(small.read_bytes())
    whole[len(whole) // 2] ^= 1
    archive = tmp_path / small.name
    archive.write_bytes(whole)
    outcome = component(archive, MAIN, "def f():\n    return 1", hidden=[])
    assert outcome.status == "ERR", outcome.dump()
    assert "frame" in outcome.report
    assert small.name in outcome.report


@needs_namespaces
def test_no_archive_is_an_error_record(component: Callable[..., Outcome], tmp_path: Path) -> None:
    archive = tmp_path / "nothing"
    archive.write_bytes(b"")
    outcome = component(archive, MAIN, "def f():\n    return 1", hidden=[])
    assert outcome.status == "ERR", outcome.dump()
    assert "it is too short" in outcome.report


def test_not_a_python(command: Callable[..., subprocess.CompletedProcess[str]], store: Path, tmp_path: Path) -> None:
    fake = tmp_path / "python3"
    fake.write_text("#!/bin/sh\necho no\n")
    fake.chmod(0o755)
    assert "does not answer as a Python does" in command("build", "--python", fake, "--dir", store, fails=True).stderr
    assert "cannot use `/no/such`" in command("build", "--python", "/no/such", "--dir", store, fails=True).stderr
    assert not store.exists()


def test_unreadable_files_are_named(
    command: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, store: Path
) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads every file")
    venv = copy_of_environment(tmp_path)
    (venv / "secret.py").touch(0o000)
    assert "secret.py" in command("build", "--python", venv / "bin" / "python", "--dir", store, fails=True).stderr
