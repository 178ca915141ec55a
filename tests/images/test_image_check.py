"""`htmap-exec image check` on a machine that other people use, too: what it lays out, and who gets at it.

A program called `docker` takes the place of the real one. It starts nothing: it looks at what it would share.
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
