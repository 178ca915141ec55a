"""Builds that are killed, that find no room or no permission, and Pythons that are none: never half an archive."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.environment import binary, is_root, pythons
from support.moments import comes_to
from support.node_archives import PRUNED, excluding

MAIN = pythons().get("3.11") or list(pythons().values())[-1]
SMALL = [*excluding((*PRUNED, "lib/lib*")), "--no-check"]

needs_root = pytest.mark.skipif(not is_root(), reason="only root may mount file systems and become another user")


class Command:
    def __init__(self, root: Path) -> None:
        self.store = root / "store"
        self.env = {"PATH": os.defpath, "XDG_CACHE_HOME": str(root / "cache"), "HTMAP_DIR": str(root)}
        self.wrapper: list[str] = []

    def words(self, python: Path) -> list[str]:
        words = [*self.wrapper, binary(), "transplant", "build", "--python", python, "--dir", self.store, *SMALL]
        return list(map(str, words))

    def build(self, python: Path = MAIN.path, **env: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            self.words(python), env={**self.env, **env}, capture_output=True, text=True, timeout=100, check=False
        )
        assert "panicked" not in done.stderr
        return done

    def refused(self, python: Path = MAIN.path, **env: str) -> str:
        done = self.build(python, **env)
        assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
        assert done.stdout == ""
        [line] = [line for line in done.stderr.splitlines() if line.startswith("htmap-exec: error: ")]
        return line

    def succeeds(self) -> Path:
        done = self.build()
        assert done.returncode == 0, done.stderr
        archive = Path(done.stdout.strip())
        self.verify(archive)
        return archive

    def verify(self, archive: Path) -> None:
        subprocess.run([binary(), "transplant", "verify", archive], env=self.env, check=True, capture_output=True)

    def archives(self) -> list[Path]:
        if not self.store.exists():
            return []
        return [path for path in self.store.iterdir() if not path.name.endswith(".pip")]


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    mounted: list[Path] = []

    def make(options: str) -> Path:
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", place], check=True)
        mounted.append(place)
        return place

    yield make
    for place in mounted:
        subprocess.run(["umount", "--lazy", place], check=True)


def written(store: Path, size: float) -> bool:
    """Whether so much of an archive stands there, still without a name."""
    try:
        return any(path.stat().st_size >= size for path in store.glob(".making-*"))
    except FileNotFoundError:  # it has its name now
        return True


def test_a_kill_at_any_moment(command: Command) -> None:
    whole = command.succeeds()
    size = whole.stat().st_size
    shutil.rmtree(command.store)
    killed = 0
    # As parts of what is written: before the first byte, too, and between the last one and the name.
    for part in (None, *(tenth / 10 for tenth in range(11))):
        # Nothing is remembered of it, or there would be nothing to do.
        shutil.rmtree(Path(command.env["XDG_CACHE_HOME"]), ignore_errors=True)
        with subprocess.Popen(
            command.words(MAIN.path), env=command.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as running:
            if part is not None:
                comes_to(running, functools.partial(written, command.store, part * size))
            running.send_signal(signal.SIGKILL)
        killed += running.returncode == -signal.SIGKILL
        for archive in command.archives():
            command.verify(archive)
        words = [binary(), "transplant", "list", "--dir", command.store]
        listed = subprocess.run(words, env=command.env, capture_output=True, text=True, check=True).stdout
        assert len(listed.splitlines()) == len(command.archives())
        assert "no whole transplant" not in listed
    assert killed > 8
    assert command.succeeds().name == whole.name


@needs_root
def test_no_room_for_the_archive(command: Command, small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("size=2m")
    command.store = disk / "store"
    said = command.refused()
    assert "No space left on device" in said
    assert str(disk) in said, said
    assert list(command.store.iterdir()) == []
    subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
    command.succeeds()


@needs_root
def test_no_room_for_temporary_files(command: Command, small_disk: Callable[[str], Path]) -> None:
    """Nothing of an archive lies there, and the check needs little."""
    full = small_disk("size=4k")
    (full / "filler").write_bytes(bytes(4096))
    done = command.build(TMPDIR=str(full))
    assert done.returncode == 0, done.stderr
    command.verify(Path(done.stdout.strip()))


@needs_root
def test_a_read_only_place(command: Command, small_disk: Callable[[str], Path]) -> None:
    disk = small_disk("size=2m")
    (disk / "store").mkdir()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    command.store = disk / "store"
    assert "Read-only file system" in command.refused()
    command.store = disk / "other"
    assert "Read-only file system" in command.refused()


@needs_root
def test_a_place_of_somebody_else(command: Command, tmp_path: Path) -> None:
    """Root may write everywhere: it is somebody else who builds."""
    if any(not parent.stat().st_mode & 0o001 for parent in (binary().resolve().parents)):
        pytest.skip("another user cannot reach the binary")
    if shutil.which("setpriv") is None:
        pytest.skip("needs setpriv")
    python = Path("/usr/bin/python3")
    if not python.exists():
        pytest.skip("needs a Python that every user can read")
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == os.geteuid() and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o011)
    command.store.mkdir()
    command.wrapper = ["setpriv", "--reuid=65534", "--clear-groups"]
    said = command.refused(python)
    assert "Permission denied" in said
    assert f"`{command.store}" in said
    assert list(command.store.iterdir()) == []


def test_a_file_in_the_place_of_the_directory(command: Command) -> None:
    command.store.write_text("mine")
    assert f"`{command.store}`" in command.refused()
    assert command.store.read_text() == "mine"


def script(place: Path, text: str) -> Path:
    place.write_text(f"#!/bin/sh\n{text}\n")
    place.chmod(0o755)
    return place


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("exit 1", "it ended with exit status: 1"),
        ("echo broken >&2; exit 3", "it ended with exit status: 3: broken"),
        ("kill -9 $$", "it ended with signal: 9"),
        ("echo hello", "does not answer as a Python does"),
        ("cat /dev/urandom", "it ended with"),
        ("head -c 3000000 /dev/urandom", "it "),
        ("printf 'htmap-exec probe\\0'", "does not answer as a Python does"),
        ("printf 'htmap-exec probe\\0003.11\\0x\\0'", "does not answer as a Python does"),
    ],
    ids=["exits", "says-why", "killed", "no-answer", "endless", "garbage", "empty-answer", "half-an-answer"],
)
def test_no_python(command: Command, tmp_path: Path, text: str, reason: str) -> None:
    python = script(tmp_path / "python3", text)
    said = command.refused(python)
    assert said.startswith(f"htmap-exec: error: cannot use `{python}`: ")
    assert reason in said
    assert not command.store.exists()


def test_no_program(command: Command, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("hello\n")
    for path in (text, tmp_path, tmp_path / "gone", Path("/dev/null"), Path("")):
        assert "cannot be started" in command.refused(path), path
    text.chmod(0o755)
    assert "cannot be started: Exec format error" in command.refused(text)
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    assert "cannot be started" in command.refused(loop)
    assert not command.store.exists()


def test_one_that_leaves_somebody_behind(command: Command, tmp_path: Path) -> None:
    """It has ended, and what it started holds its output open."""
    begun = time.monotonic()
    for ending in ("exit 1", "exit 0"):
        command.refused(script(tmp_path / "python3", f"sleep 20 & {ending}"))
    assert time.monotonic() - begun < 15


def test_one_that_hangs(command: Command, tmp_path: Path) -> None:
    assert "it did not answer within 30 s" in command.refused(script(tmp_path / "python3", "exec sleep 1000"))


def test_a_virtual_environment_whose_base_is_gone(command: Command, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([MAIN.path, "-m", "venv", "--without-pip", venv], check=True)
    program = venv / "bin" / "python"
    for name in ("python", "python3", f"python{MAIN.minor}"):
        (venv / "bin" / name).unlink()
    program.symlink_to(tmp_path / "gone" / "python3")
    assert "cannot be started: No such file or directory" in command.refused(program)
    # Its program is there, and what `home` names is not.
    program.unlink()
    shutil.copy(Path(MAIN.path).resolve(), program)
    config = venv / "pyvenv.cfg"
    lines = [line for line in config.read_text().splitlines() if not line.startswith(("home", "executable"))]
    config.write_text("\n".join([f"home = {tmp_path}/gone/bin", *lines, ""]))
    done = command.build(program)
    if done.returncode == 0:
        # Python finds its library by where it was built: the archive has to hold that one.
        command.verify(Path(done.stdout.strip()))
    else:
        assert "htmap-exec: error: " in done.stderr
        assert command.archives() == []
