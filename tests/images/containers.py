"""Starts a component in a container as HTCondor does, by Docker and by Apptainer, and reads what came of it."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

if "HTMAP_EXEC_TEST_IMAGES" not in os.environ:
    pytest.skip("these tests run in a pool: scripts/pool --suite containers images", allow_module_level=True)

import cloudpickle
from support.environment import CHECKOUT, binary
from support.outcome import Outcome, decode_ours
from support.scratch import JOB_AD, MACHINE_AD

# Where `scripts/pool --suite containers` has what images are made from.
SOURCES = Path(os.environ["HTMAP_EXEC_TEST_IMAGES"])
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"

# Apptainer's own choice takes ten seconds for an image, this half a second.
FAST = ("--mksquashfs-args", "-comp zstd -Xcompression-level 1")


def run(*command: object, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command, whose whole output is in the error if it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True, check=False, **options)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(words)}: exit {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done


class Job:
    """A scratch directory with a pickled function, and the ways to run it."""

    def __init__(self, function: Callable[..., object], *arguments: object, ship_cloudpickle: bool = False) -> None:
        # Not below pytest's: another user of a container has to get there.
        self.base = Path(tempfile.mkdtemp(prefix="htmap-exec-image-"))
        self.base.chmod(0o755)
        self.dir = self.base / "scratch"
        self.dir.mkdir()
        self.dir.chmod(0o777)
        function.__module__ = "__main__"
        for name, value in (("func", function), ("0.in", (arguments, {}))):
            with gzip.open(self.dir / name, "wb") as file:
                cloudpickle.dump(value, file)
        (self.dir / ".job.ad").write_text(JOB_AD.format(component=0, attempt=1, earlier=0))
        (self.dir / ".machine.ad").write_text(MACHINE_AD)
        shutil.copy(binary(), self.dir / "condor_exec.exe")
        if ship_cloudpickle:
            from htmap_exec.shipping import ship_cloudpickle as ship

            ship(self.dir / "_htmap_cloudpickle.zip")

    @property
    def variables(self) -> dict[str, str]:
        return {
            "BATCH_SYSTEM": "HTCondor",
            "_CONDOR_JOB_AD": f"{self.dir}/.job.ad",
            "_CONDOR_MACHINE_AD": f"{self.dir}/.machine.ad",
            "_CONDOR_SCRATCH_DIR": str(self.dir),
            "_CONDOR_SLOT": "slot1_1",
        }

    def docker(
        self,
        image: str,
        *options: str,
        user: str | None = None,
        mode: str = "rw",
        command: Sequence[str] = ("./condor_exec.exe", "run", "0"),
        during: Callable[[str], object] | None = None,
    ) -> Outcome:
        """As HTCondor's docker universe does, without a network and with as few privileges."""
        name = self.base.name
        variables = [word for name, value in self.variables.items() for word in ("--env", f"{name}={value}")]
        return self._run(
            [
                *("docker", "run", "--name", name, "--network=none", "--cap-drop=all"),
                *("--security-opt", "no-new-privileges", "--user", user or f"{os.getuid()}:{os.getgid()}"),
                *("--volume", f"{self.dir}:{self.dir}:{mode}", "--workdir", str(self.dir)),
                *variables,
                *options,
                *(image, *command),
            ],
            during and (lambda: during(name)),
            lambda: run("docker", "rm", "--force", name),
        )

    def apptainer(
        self,
        image: Path,
        *options: str,
        action: str = "exec",
        command: Sequence[str] = ("./condor_exec.exe", "run", "0"),
        during: Callable[[subprocess.Popen[str]], object] | None = None,
    ) -> Outcome:
        """As HTCondor's container universe does: nothing of the environment but what has Apptainer's prefix."""
        return self._run(
            [
                *("apptainer", "-s", action, "-W", str(self.dir), "--pwd", str(self.dir), "-B", str(self.dir)),
                *("--home", str(self.dir), "-C", *options, str(image), *command),
            ],
            during,
            lambda: None,
            {f"APPTAINERENV_{name}": value for name, value in self.variables.items()},
        )

    def _run(
        self,
        command: list[str],
        during: Callable[..., object] | None,
        clean: Callable[[], object],
        variables: dict[str, str] | None = None,
    ) -> Outcome:
        begun = time.monotonic()
        with open(self.base / "stdout", "w+") as stdout, open(self.base / "stderr", "w+") as stderr:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                cwd=self.base,
                text=True,
                env={**os.environ, **(variables or {})},
            )
            try:
                if during is not None:
                    during(process) if variables is not None else during()
                process.wait(150)
            finally:
                process.kill()
                clean()
        out = self.dir / "_htmap_transfer" / "0.out"
        outcome = Outcome(
            command=command,
            exit=process.returncode,
            wall=time.monotonic() - begun,
            timed_out=False,
            stdout=(self.base / "stdout").read_text(),
            stderr=(self.base / "stderr").read_text(),
            stdout_size=(self.base / "stdout").stat().st_size,
            out_path=out,
            python="",
        )
        decode_ours(outcome)
        return outcome

    def wait_for(self, name: str, seconds: float = 90) -> None:
        deadline = time.monotonic() + seconds
        while not (self.dir / name).exists():
            assert time.monotonic() < deadline, f"`{name}` was not made: {(self.base / 'stderr').read_text()}"
            time.sleep(0.02)


def value(outcome: Outcome) -> Any:
    """The result; everything that is known where there is none."""
    assert (outcome.exit, outcome.status) == (0, "OK"), outcome.dump()
    return outcome.value


def report(outcome: Outcome) -> str:
    assert (outcome.exit, outcome.status) == (0, "ERR"), outcome.dump()
    return outcome.report


def build(name: str, *arguments: str, options: Sequence[str] = ("--network=host",)) -> subprocess.CompletedProcess[str]:
    words = [word for argument in arguments for word in ("--build-arg", argument)]
    return run(CHECKOUT / "scripts" / "build-images", name, *options, *words)


def imported(name: str) -> str:
    """The image that Docker makes of a tree."""
    tag = f"local/{name}"
    if run("docker", "image", "inspect", tag, check=False).returncode != 0:
        run("docker", "import", SOURCES / f"{name}.tar", tag)
    return tag
