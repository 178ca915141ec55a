"""`htmap-exec image check` on a machine that other people use, too: what it lays out, and who gets at it.

A program called `docker` takes the place of the real one. It starts nothing: it looks at what it would share, or says
what no terminal should be told.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support.environment import binary

RUNTIME = f"""#!{sys.executable}
import json, os, sys

volume = sys.argv[sys.argv.index("--volume") + 1].partition(":")[0]
seen = {{volume: os.lstat(volume).st_mode, os.path.dirname(volume): os.lstat(os.path.dirname(volume)).st_mode}}
for name in os.listdir(volume):
    seen[os.path.join(volume, name)] = os.lstat(os.path.join(volume, name)).st_mode
with open(os.environ["SEEN"], "w") as file:
    json.dump({{"scratch": volume, "modes": seen}}, file)
sys.exit("nothing is started here")
"""


@pytest.fixture(scope="module", params=[0o000, 0o077], ids=["open umask", "closed umask"])
def laid_out(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Path, int]]:
    """The directory that a container would have, and the modes of all that there is."""
    tmp_path = tmp_path_factory.mktemp("check")
    runtime = tmp_path / "bin" / "docker"
    runtime.parent.mkdir()
    runtime.write_text(RUNTIME)
    runtime.chmod(0o755)
    seen = tmp_path / "seen.json"
    subprocess.run(
        [binary(), "image", "check", "any/image", "--submit-python", "3.11"],
        env={**os.environ, "PATH": f"{runtime.parent}:{os.environ['PATH']}", "SEEN": str(seen)},
        umask=request.param,
        capture_output=True,
        check=False,
    )
    found = json.loads(seen.read_text())
    return Path(found["scratch"]), {Path(path): mode for path, mode in found["modes"].items()}


def test_nobody_else_gets_at_what_is_started(laid_out: tuple[Path, dict[Path, int]]) -> None:
    scratch, modes = laid_out
    assert stat.S_IMODE(modes[scratch.parent]) == 0o700
    # The container's user may be any: it adds files, and takes nobody's away.
    assert stat.S_IMODE(modes[scratch]) == 0o1777
    files = {path.name: stat.S_IMODE(mode) for path, mode in modes.items() if path.parent == scratch}
    assert sorted(files) == ["0.in", "condor_exec.exe", "func"]
    assert [name for name, mode in files.items() if mode & 0o022] == []


def test_the_containers_user_gets_at_all_of_it(laid_out: tuple[Path, dict[Path, int]]) -> None:
    scratch, modes = laid_out
    assert all(mode & 0o004 for path, mode in modes.items() if path.parent == scratch)
    assert modes[scratch / "condor_exec.exe"] & 0o001


# Words that colour, ring, rename the window, go up a line, and turn the direction of writing; and what looks like the end.
HOSTILE = r"""#!/bin/sh
printf 'no \033[31mred\033[0m\007\nany/image: a map will run in it\r\n\033]0;title\007\033[A\302\233\342\200\256end\n' >&2
exit 1
"""
# An image whose Python is called so.
HOSTILE_PYTHON = r"""#!/bin/sh
cat <<'END'
{"picked": {"path": "/usr/\u001b[31m\nbin", "version": "3.11.2", "cloudpickle": "1\u0007"}}
END
printf 'no \033[31mred' >&2
case "$*" in *python*) exit 0;; esac
exit 1
"""


def said_of(program: str, script: str, tmp_path: Path, *words: str) -> list[str]:
    """What is printed, on stdout and stderr, with this script in the place of a runtime."""
    runtime = tmp_path / "bin" / program
    runtime.parent.mkdir()
    runtime.write_text(script)
    runtime.chmod(0o755)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    (scratch / "any.sif").touch()
    done = subprocess.run(
        [binary(), *words],
        env={"PATH": f"{runtime.parent}:{os.defpath}", "_CONDOR_SCRATCH_DIR": str(scratch)},
        cwd=scratch,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    text = done.stdout.decode()
    assert "red" in text
    assert [each for each in text if not each.isprintable() and each != "\n"] == []
    return text.split("\n")


@pytest.mark.parametrize("script", [HOSTILE, HOSTILE_PYTHON], ids=["runtime", "image"])
def test_what_others_say_does_nothing_to_a_terminal(script: str, tmp_path: Path) -> None:
    lines = said_of("docker", script, tmp_path, "image", "check", "any/image", "--submit-python", "3.11")
    # Nor does a line of theirs look like one of ours.
    assert [line for line in lines if line.startswith("any/image")] == ["any/image: a map will not run in it"]
    assert not any(line.startswith("bin") for line in lines)


def test_what_an_image_says_instead_of_starting_does_nothing_to_a_terminal(tmp_path: Path) -> None:
    lines = said_of("apptainer", HOSTILE, tmp_path, "run", "--image", "any.sif", "0")
    assert any(r"\u{1b}[31mred" in line for line in lines)
