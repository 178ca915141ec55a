"""Environments that are packed again: what has changed, what has not, and what changes meanwhile."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.environment import binary, pythons, system_python
from support.moments import comes_to

MAIN = pythons().get("3.11") or list(pythons().values())[-1]

Done = subprocess.CompletedProcess[str]
Command = Callable[..., Done]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """With some megabytes of modules, so that there are several frames of them."""
    venv = tmp_path / "venv"
    subprocess.run([MAIN.path, "-m", "venv", "--without-pip", venv], check=True)
    for number in range(40):
        package = packages(venv) / f"package_{number}"
        package.mkdir()
        for module in range(8):
            (package / f"module_{module}.py").write_bytes(os.urandom(12_000).hex().encode())
    return venv


def packages(venv: Path) -> Path:
    return next((venv / "lib").glob("python3*")) / "site-packages"


def words(venv: Path, store: Path) -> list[object]:
    return [binary(), "--log", "debug", "transplant", "build", "--python", venv / "bin/python", "--dir", store]


@pytest.fixture
def build(venv: Path, store: Path, tmp_path: Path) -> Command:
    def run(*options: object, cache: str = "cache", directory: Path = store, fails: bool = False) -> Done:
        done = subprocess.run(
            [*map(str, words(venv, directory)), *map(str, options)],
            env={"PATH": os.defpath, "XDG_CACHE_HOME": str(tmp_path / cache)},
            capture_output=True,
            text=True,
        )
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        assert "panicked" not in done.stderr
        return done

    return run


def archive(done: Done) -> Path:
    return Path(done.stdout.strip())


def reused(done: Done) -> tuple[int, int]:
    found = re.search(r"(\d+) of (\d+) frames are those of the last archive", done.stderr)
    assert found, done.stderr
    return int(found[1]), int(found[2])


def from_nothing(build: Command, tmp_path: Path) -> bytes:
    return archive(build(cache="other cache", directory=tmp_path / "other store")).read_bytes()


def test_only_what_has_changed_is_compressed_again(venv: Path, build: Command, tmp_path: Path) -> None:
    first = build()
    assert reused(first)[0] == 0
    (packages(venv) / "package_new").mkdir()
    (packages(venv) / "package_new/__init__.py").write_text("new = True\n")
    second = build()
    again, frames = reused(second)
    assert frames > 40
    assert again >= frames - 4
    assert archive(second).read_bytes() == from_nothing(build, tmp_path)


def test_a_file_of_the_same_size_and_time_is_another_one(venv: Path, build: Command, tmp_path: Path) -> None:
    module = packages(venv) / "package_7/module_1.py"
    before = module.stat()
    first = archive(build())
    module.write_bytes(os.urandom(12_000).hex().encode())
    os.utime(module, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = build()
    assert archive(second) != first
    assert reused(second)[0] > 0
    assert archive(second).read_bytes() == from_nothing(build, tmp_path)


@pytest.mark.parametrize("harm", ["damaged", "cut off", "gone"])
def test_the_last_archive_is_not_trusted(harm: str, venv: Path, build: Command, tmp_path: Path) -> None:
    last = archive(build())
    content = bytearray(last.read_bytes())
    if harm == "damaged":
        for at in range(0, len(content) // 2, 100_000):
            content[at] ^= 1
    last.unlink()
    if harm != "gone":
        last.write_bytes(content[: len(content) // 2] if harm == "cut off" else content)
    (packages(venv) / "new.py").touch()
    new = build()
    assert reused(new)[0] < reused(new)[1] - 4
    assert archive(new).read_bytes() == from_nothing(build, tmp_path)


def test_what_is_remembered_may_be_damaged(venv: Path, build: Command, tmp_path: Path) -> None:
    build()
    [memory] = (tmp_path / "cache").rglob("*.build")
    content = memory.read_bytes()
    for harm in (b"", content[: len(content) // 2], content[::-1], content + b"x"):
        memory.write_bytes(harm)
        (packages(venv) / "new.py").write_text(str(len(harm)))
        done = build()
        assert reused(done)[0] == 0
        memory.write_bytes(harm)
    assert archive(done).read_bytes() == from_nothing(build, tmp_path)


def test_files_that_are_the_same_are_stored_once(venv: Path, build: Command, tmp_path: Path) -> None:
    content = os.urandom(3_000_000)
    names = ["a.so", "b.so", "package_3/c.so"]
    without = archive(build()).stat().st_size
    for name in names:
        (packages(venv) / name).write_bytes(content)
    done = build()
    assert archive(done).stat().st_size - without < 3_100_000
    site = packages(venv).relative_to(venv)
    subprocess.run([binary(), "transplant", "unpack", archive(done), tmp_path / "ours"], check=True)
    (tmp_path / "tars").mkdir()
    subprocess.run(["tar", "--zstd", "-xf", archive(done), "-C", tmp_path / "tars"], check=True)
    for name in names:
        for root in ("ours", "tars"):
            assert (tmp_path / root / site / name).read_bytes() == content
    # Nothing that a program does to the one changes the other.
    assert {(tmp_path / "ours" / site / name).stat().st_nlink for name in names} == {1}
    # The same bytes, but another mode.
    (packages(venv) / "b.so").chmod(0o755)
    assert archive(build()).stat().st_size - without > 6_000_000


WRITER = """
import sys, time
while True:
    with open(sys.argv[1], "a") as file:
        file.write("x = 1\\n")
    time.sleep(0.001)
"""


@pytest.fixture
def writer(venv: Path) -> Iterator[subprocess.Popen[bytes]]:
    """It writes on and on, until somebody kills it."""
    changing(venv).touch()
    with subprocess.Popen([sys.executable, "-c", WRITER, changing(venv)]) as running:
        assert comes_to(running, lambda: changing(venv).stat().st_size)
        yield running
        running.kill()


def changing(venv: Path) -> Path:
    return packages(venv) / "changing.py"


def test_a_file_that_changes_is_read_again(
    venv: Path, store: Path, writer: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    file = changing(venv)
    env = {"PATH": os.defpath, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [*map(str, words(venv, store))]
    said = []
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None and running.stderr is not None
        for line in running.stderr:
            said.append(line)
            if f"`{file}` changed while it was packed: it is packed again" in line:
                writer.kill()
                writer.wait()
        made = Path(running.stdout.read().strip())
    assert running.returncode == 0 and writer.poll() is not None, said
    subprocess.run([binary(), "transplant", "unpack", made, tmp_path / "unpacked"], check=True)
    assert (tmp_path / "unpacked" / file.relative_to(venv)).read_bytes() == file.read_bytes()


def test_a_file_that_goes_on_changing_is_named(
    venv: Path, build: Command, writer: subprocess.Popen[bytes], store: Path
) -> None:
    file = changing(venv)
    done = build(fails=True)
    assert done.returncode == 1
    assert done.stderr.count("it is packed again") == 2
    assert f"error: `{file}` changed while it was packed\nhint: wait until nothing installs" in done.stderr
    assert list(store.iterdir()) == []


@pytest.fixture
def log(venv: Path) -> Path:
    """So large that it is not yet read when what is to be packed is known."""
    log = packages(venv) / "data.log"
    log.write_bytes(os.urandom(12_000_000))
    time.sleep(0.1)
    return log


def built_while(command: list[object], tmp_path: Path, what: Callable[[], object]) -> Done:
    """Something happens when the tree was looked at, once in each attempt."""
    env = {"PATH": os.defpath, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    words = list(map(str, command))
    said = []
    with subprocess.Popen(words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None and running.stderr is not None
        for line in running.stderr:
            said.append(line)
            if "collected after" in line:
                what()
        out = running.stdout.read()
    return subprocess.CompletedProcess(words, running.returncode, out, "".join(said))


def append(file: Path, content: bytes = b"one more line\n") -> None:
    with file.open("ab") as opened:
        opened.write(content)


def unpacked(done: Done, tree: Path) -> Path:
    subprocess.run([binary(), "transplant", "unpack", archive(done), tree], check=True, stdout=subprocess.DEVNULL)
    return tree


def test_a_log_that_grows_is_taken_as_it_was(
    venv: Path, build: Command, log: Path, store: Path, tmp_path: Path
) -> None:
    before = log.read_bytes()
    words_ = [*words(venv, store), "--no-compile"]
    done = built_while(words_, tmp_path, lambda: append(log))
    assert done.returncode == 0, done.stderr
    assert f"warning: `{log}` grew while it was packed: what was written to it meanwhile is left out" in done.stderr
    place = log.relative_to(venv)
    assert (unpacked(done, tmp_path / "first") / place).read_bytes() == before
    # What came after it shows.
    again = build("--no-compile")
    assert "nothing to do" not in again.stderr and "grew" not in again.stderr
    assert (unpacked(again, tmp_path / "second") / place).read_bytes() == log.read_bytes() != before
    assert "nothing to do" in build("--no-compile").stderr


def test_a_log_that_somebody_goes_on_writing_to(venv: Path, build: Command, log: Path, tmp_path: Path) -> None:
    size = log.stat().st_size
    with subprocess.Popen([sys.executable, "-c", WRITER, log]) as running:
        assert comes_to(running, lambda: log.stat().st_size > size)
        done = build()
        running.kill()
    assert f"`{log}` grew while it was packed" in done.stderr and "packed again" not in done.stderr
    taken = (unpacked(done, tmp_path / "tree") / log.relative_to(venv)).read_bytes()
    assert len(taken) > size
    assert log.read_bytes().startswith(taken)


def test_equal_files_of_which_one_grows(venv: Path, log: Path, store: Path, tmp_path: Path) -> None:
    other = log.with_name("also.dat")
    shutil.copy(log, other)
    time.sleep(0.1)
    done = built_while(words(venv, store), tmp_path, lambda: append(log))
    assert done.returncode == 0, done.stderr
    tree = unpacked(done, tmp_path / "tree")
    content = other.read_bytes()
    assert all((tree / each.relative_to(venv)).read_bytes() == content for each in (log, other))


REWRITER = """
import os, sys, time
while True:
    with open(sys.argv[1], "r+b") as file:
        file.write(os.urandom(1000))
        if sys.argv[2] == "longer":
            file.seek(0, os.SEEK_END)
            file.write(b"more")
    if sys.argv[2] == "shorter":
        os.truncate(sys.argv[1], os.path.getsize(sys.argv[1]) - 1000)
    time.sleep(0.001)
"""


@pytest.mark.parametrize("how", ["longer", "shorter", "in its place"])
def test_a_file_that_is_written_anew_is_no_log(how: str, build: Command, log: Path, store: Path) -> None:
    """Also where it becomes longer by and by."""
    with subprocess.Popen([sys.executable, "-c", REWRITER, log, how]) as running:
        before = log.stat().st_mtime_ns
        assert comes_to(running, lambda: log.stat().st_mtime_ns != before)
        done = build(fails=True)
        running.kill()
    assert done.stderr.count("it is packed again") == 2
    assert f"error: `{log}` changed while it was packed\nhint: wait until nothing installs" in done.stderr
    assert "leave it out with --exclude" in done.stderr
    assert list(store.iterdir()) == []


@pytest.mark.parametrize("name", ["changing.py", "changing.so.1", "a-1.0.dist-info/RECORD", "changing.pth"])
def test_what_python_reads_is_no_log(name: str, venv: Path, store: Path, tmp_path: Path) -> None:
    file = packages(venv) / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("x = 1\n" * 10_000)
    (packages(venv) / "a.dat").write_bytes(os.urandom(6_000_000))
    time.sleep(0.1)
    done = built_while(words(venv, store), tmp_path, lambda: append(file, b"x = 2\n"))
    assert f"`{file}` changed while it was packed: it is packed again" in done.stderr
    assert done.returncode == 1


def test_the_second_of_two_builds_waits(venv: Path, store: Path, tmp_path: Path) -> None:
    env = {"PATH": os.defpath, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [*map(str, words(venv, store))]
    running = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    outputs = [each.communicate() for each in running]
    assert [each.returncode for each in running] == [0, 0, 0]
    assert len({out for out, _ in outputs}) == 1
    assert sum("nothing to do" in said for _, said in outputs) == 2
    assert sum("frames are those of the last archive" in said for _, said in outputs) == 1
    assert any(f"waiting for another build of `{venv}`" in said for _, said in outputs)


def test_what_a_killed_build_left_goes(build: Command, store: Path) -> None:
    store.mkdir()
    left = store / ".making-abc.pip"
    left.write_bytes(b"half")
    long_ago = time.time() - 5
    os.utime(left, (long_ago, long_ago))
    build()
    assert not left.exists()


@pytest.fixture
def for_everybody() -> Iterator[Path]:
    """pytest's own directories are for one user."""
    directory = Path(tempfile.mkdtemp())
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)


def test_everything_that_is_unreadable_is_named(for_everybody: Path) -> None:
    system = system_python()
    if system is None:
        pytest.skip("no Python that every user can read")
    venv, store, program = for_everybody / "venv", for_everybody / "store", for_everybody / "htmap-exec"
    subprocess.run([system.path, "-m", "venv", "--without-pip", venv], check=True)
    shutil.copy(binary(), program)
    secrets = [packages(venv) / "secret.py", packages(venv) / "closed", venv / "bin/secret"]
    secrets[1].mkdir()
    (secrets[1] / "x.py").touch()
    for secret in (secrets[0], secrets[2]):
        secret.touch()
    for secret in secrets:
        secret.chmod(0)
    command = [program, "transplant", "build", "--python", venv / "bin/python", "--dir", store]
    if os.geteuid() == 0:
        command = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *command]
    env = {"PATH": os.defpath, "XDG_CACHE_HOME": str(for_everybody / "cache")}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 1
    for secret in secrets:
        assert f"`{secret}`" in done.stderr
    assert "hint: make them readable, or leave them out with --exclude" in done.stderr
    assert not store.exists()
    left_out = ["--exclude", "*secret*", "--exclude", "*closed"]
    done = subprocess.run([*command, *left_out], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
