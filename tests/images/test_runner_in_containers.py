"""The runner in containers that have little: no init, no user, no network, no place to write, no shell, no glibc."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from containers import Job, imported, report, run, value


def double(x: int) -> int:
    return 2 * x


def who(x: int) -> tuple[int, int, int]:
    import os

    return 2 * x, os.getppid(), os.getuid()


@pytest.mark.parametrize(("options", "runner"), [((), 1), (("--init",), None)], ids=["first", "init"])
def test_as_the_first_process_and_under_an_init(
    local_python: str, options: tuple[str, ...], runner: int | None
) -> None:
    answer, parent, uid = value(Job(who, 21, ship_cloudpickle=True).docker(local_python, *options))
    assert (answer, uid) == (42, os.getuid())
    assert (parent == 1) == (runner == 1)


def test_a_user_that_nobody_knows(local_python: str) -> None:
    job = Job(who, 21, ship_cloudpickle=True)
    outcome = job.docker(local_python, user="54321:54321")
    assert value(outcome)[2] == 54321
    assert "as uid 54321" in outcome.stdout


def test_an_image_that_is_read_only(local_python: str) -> None:
    assert value(Job(double, 21, ship_cloudpickle=True).docker(local_python, "--read-only")) == 42


def test_no_environment_at_all(local_python: str) -> None:
    job = Job(double, 21, ship_cloudpickle=True)
    assert value(job.docker(local_python, "--env", "PATH=/no/such", "--env", "HOME=/no/such")) == 42


def linger(_: object) -> None:
    import pathlib
    import subprocess
    import time

    # A process of its own group: it would outlive Python.
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    pathlib.Path("begun").touch()
    time.sleep(600)


@pytest.mark.parametrize("options", [(), ("--init",)], ids=["first", "init"])
def test_a_vacate(local_python: str, options: tuple[str, ...]) -> None:
    """HTCondor signals the container; the contract's directories stand, and nothing runs on."""
    job = Job(linger, None, ship_cloudpickle=True)

    def vacate(name: str) -> None:
        job.wait_for("begun")
        run("docker", "kill", "--signal", "TERM", name)

    outcome = job.docker(local_python, *options, during=vacate)
    assert outcome.exit == 79, outcome.dump()
    assert outcome.wall < 15
    assert (job.dir / "_htmap_transfer").is_dir()
    assert not outcome.out_path.exists()


def test_a_vacate_in_apptainer(python_tree: Path) -> None:
    job = Job(linger, None, ship_cloudpickle=True)

    def vacate(process: subprocess.Popen[str]) -> None:
        job.wait_for("begun")
        process.terminate()

    outcome = job.apptainer(python_tree, during=vacate)
    assert outcome.exit == 79, outcome.dump()
    assert outcome.wall < 15


def die(signal: int) -> None:
    import os

    os.kill(os.getpid(), signal)


@pytest.mark.parametrize("signal", [9, 11, 15])
def test_a_death_is_a_report_and_no_signal(local_python: str, python_tree: Path, signal: int) -> None:
    """Statuses above 128 mean signals to Docker and Apptainer; ours is 0 whenever a report stands."""
    name = {9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}[signal]
    assert name in report(Job(die, signal, ship_cloudpickle=True).docker(local_python))
    assert name in report(Job(die, signal, ship_cloudpickle=True).apptainer(python_tree))


def test_too_much_memory(local_python: str) -> None:
    """The kernel ends Python alone, as Docker sets no group to be killed: the runner can say so."""

    def fill(_: object) -> int:
        return len(b"1" * (400 << 20))

    outcome = Job(fill, None, ship_cloudpickle=True).docker(local_python, "--memory", "100m", "--memory-swap", "100m")
    assert "memory" in report(outcome)


def test_a_scratch_directory_that_is_read_only(local_python: str) -> None:
    job = Job(double, 21)
    outcome = job.docker(local_python, mode="ro")
    assert outcome.exit == 74, outcome.dump()
    assert "Read-only file system" in outcome.stderr


def test_an_image_without_a_python(local_debian: str) -> None:
    said = report(Job(double, 21).docker(local_debian))
    assert "no Python 3.6 or later" in said


def test_an_image_with_another_python(local_python: str) -> None:
    job = Job(double, 21, ship_cloudpickle=True)
    outcome = job.docker(local_python, command=["./condor_exec.exe", "run", "--submit-python", "3.11", "0"])
    said = report(outcome)
    assert "3.11" in said
    assert f"{sys.version_info[0]}.{sys.version_info[1]}" in said


@pytest.fixture(scope="module")
def musl(docker: str) -> str:
    """An image as Alpine's: musl, busybox, a Python compiled against musl, and no glibc."""
    return imported("musl")


def test_a_musl_image_has_no_glibc(musl: str) -> None:
    listed = run("docker", "run", "--rm", musl, "/bin/sh", "-c", "ls /lib /usr/lib").stdout
    assert "ld-musl" in listed
    assert "libc.so.6" not in listed


@pytest.mark.parametrize("options", [(), ("--init",), ("--read-only",)], ids=["first", "init", "read-only"])
def test_musl(musl: str, options: tuple[str, ...]) -> None:
    answer, _, _ = value(Job(who, 21, ship_cloudpickle=True).docker(musl, *options, user="54321:54321"))
    assert answer == 42
    assert "SIGSEGV" in report(Job(die, 11, ship_cloudpickle=True).docker(musl, *options))


@pytest.fixture(scope="module")
def distroless(docker: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Python, its standard library and what the loader needs for them; no shell, no user, no other program."""
    root = tmp_path_factory.mktemp("distroless")
    python = Path("/usr/bin/python3").resolve()
    library = Path("/usr/lib") / python.name
    skip = shutil.ignore_patterns("test", "idlelib", "ensurepip", "__pycache__", "config-*", "pydoc_data")
    shutil.copytree(library, root / "usr/lib" / python.name, ignore=skip, symlinks=True)
    needed = set()
    for file in (python, *(library / "lib-dynload").glob("*.so")):
        needed |= set(re.findall(r"(/\S+) \(0x", run("ldd", file).stdout))
    for name in (str(python), *needed):
        target = root / name.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, target)
    (root / "usr/bin/python3").symlink_to(python.name)
    (root / "tmp").mkdir()
    run("sh", "-c", f"tar -C {root} -c . | docker import - local/distroless")
    return "local/distroless"


def test_distroless(distroless: str, tmp_path: Path) -> None:
    assert run("docker", "run", "--rm", distroless, "/bin/sh", check=False).returncode == 127
    outcome = Job(who, 21, ship_cloudpickle=True).docker(distroless, user="54321:54321")
    answer, parent, uid = value(outcome)
    assert (answer, parent, uid) == (42, 1, 54321)
    assert "SIGKILL" in report(Job(die, 9, ship_cloudpickle=True).docker(distroless))


def test_distroless_in_apptainer(distroless: str, tmp_path: Path) -> None:
    container = run("docker", "create", distroless, "none").stdout.strip()
    run("sh", "-c", f"docker export {container} | tar -C {tmp_path} -x --exclude=dev/*")
    run("docker", "rm", container)
    assert value(Job(double, 21, ship_cloudpickle=True).apptainer(tmp_path)) == 42
