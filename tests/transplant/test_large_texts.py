"""Texts that name their old place and are large: what is mended, and what is said of the rest."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.environment import binary
from support.node_archives import MAIN, copy_of_prefix, pack

MIB = 1 << 20


class Moved:
    """An environment with large files that name it, before and after it was moved."""

    def __init__(self, root: Path) -> None:
        self.old = root / "env"
        python = copy_of_prefix(MAIN, self.old)
        (self.old / "etc/tool").mkdir(parents=True)
        names = {str(number): f"{self.old}/x" for number in range(2)}
        self.write("large.json", json.dumps({**names, "padding": "x" * 5 * MIB, "end": f"{self.old}/end"}).encode())
        # A lock file of everything, say.
        self.write("larger.txt", b"line\n" * (4 * MIB) + os.fsencode(self.old) + b"/bin\n")
        # The name lies where one piece ends that is read of it, if pieces are of this size.
        for size in (4, 8, 64):
            self.write(f"across-{size}.txt", self.padded(66 * MIB, size * MIB - 5))
        self.write("binary.bin", (b"line\n" * MIB + os.fsencode(self.old) + b"\n\0").ljust(6 * MIB, b"\n"))
        # Another directory, which at the end of a piece is only told by what follows in the next one.
        old = os.fsencode(self.old)
        silent = b"/srv" + old + b"-other\n"
        silent += b"x" * (4 * MIB - len(silent) - len(old) - 1) + b"\n" + old
        assert len(silent) == 4 * MIB
        self.write("silent.txt", silent + b"-other\n" + b"line\n" * (14 * MIB))
        packed = pack(python, root / "store", "--level", "1", "--no-check")
        self.said = packed.stderr
        shutil.move(self.old, root / "away")
        self.new = root / "a new place"
        words = [binary(), "transplant", "unpack", packed.stdout.strip(), self.new]
        subprocess.run(words, check=True, capture_output=True)
        self.away = root / "away"

    def padded(self, size: int, at: int) -> bytes:
        named = b"\n" + os.fsencode(self.old) + b"/bin\n"
        return (b"x" * at + named).ljust(size, b"y")

    def write(self, name: str, content: bytes) -> None:
        (self.old / "etc/tool" / name).write_bytes(content)

    def both(self, name: str) -> tuple[bytes, bytes]:
        return (self.away / "etc/tool" / name).read_bytes(), (self.new / "etc/tool" / name).read_bytes()


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Moved:
    return Moved(tmp_path_factory.mktemp("large"))


def test_a_text_of_some_mebibytes_names_the_new_place(moved: Moved) -> None:
    before, after = moved.both("large.json")
    assert len(before) > 4 * MIB
    found = json.loads(after)
    assert (found["0"], found["end"]) == (f"{moved.new}/x", f"{moved.new}/end")
    before, after = moved.both("larger.txt")
    assert after == before.replace(os.fsencode(moved.old), os.fsencode(moved.new))


def test_what_is_too_large_to_be_mended_is_named(moved: Moved) -> None:
    for size in (4, 8, 64):
        before, after = moved.both(f"across-{size}.txt")
        assert before == after
        assert f"`etc/tool/across-{size}.txt` will still name `{moved.old}`: it is too long" in moved.said


def test_what_names_nothing_is_not_named(moved: Moved) -> None:
    for name in ("silent.txt", "binary.bin"):
        before, after = moved.both(name)
        assert before == after
        assert name not in moved.said
