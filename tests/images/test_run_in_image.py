"""`htmap-exec run --image`: the runner outside starts itself in an image, for pools whose HTCondor does not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from containers import Job, report, run, value


def where(x: int) -> tuple[int, str, str, bool, str]:
    import os
    import sys

    return 2 * x, sys.executable, os.getcwd(), os.path.exists("/opt/submit-old"), os.environ.get("_CONDOR_SLOT", "")


@pytest.fixture(scope="module")
def image_file(python_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("image") / "python.sif"
    run("apptainer", "build", "--mksquashfs-args", "-comp zstd -Xcompression-level 1", file, python_tree)
    return file


def start(job: Job, image: object, *options: str, **variables: str) -> list[str]:
    """As HTCondor starts a job of the vanilla universe, with the node's Python and another one's variables around."""
    node = {**job.variables, "PATH": "/usr/bin:/bin", "PYTHONPATH": "/no/such", **variables}
    words = [f"{name}={value}" for name, value in node.items()]
    return ["env", "-i", "-C", str(job.dir), *words, "./condor_exec.exe", "run", "--image", str(image), *options, "0"]


def outcome(job: Job, *command: str, during=None):
    return job._run(list(command), during, lambda: None, {})


def test_the_function_runs_in_the_image(image_file: Path, python_tree: Path) -> None:
    for image in (image_file, python_tree):
        job = Job(where, 21, ship_cloudpickle=True)
        answer, python, directory, outside, slot = value(outcome(job, *start(job, image)))
        assert (answer, python, directory) == (42, "/usr/bin/python3", str(job.dir))
        # This machine's files are not seen, HTCondor's variables are.
        assert not outside
        assert slot == "slot1_1"


def test_an_image_that_was_sent_along(image_file: Path) -> None:
    job = Job(where, 21, ship_cloudpickle=True)
    os.link(image_file, job.dir / "python.sif")
    assert value(outcome(job, *start(job, "python.sif")))[0] == 42


def test_a_vacate(image_file: Path) -> None:
    def linger(_: object) -> None:
        import pathlib
        import time

        pathlib.Path("begun").touch()
        time.sleep(600)

    job = Job(linger, None, ship_cloudpickle=True)

    def vacate(process: subprocess.Popen[str]) -> None:
        job.wait_for("begun")
        process.terminate()

    ended = outcome(job, *start(job, image_file), during=vacate)
    assert ended.exit == 79, ended.dump()
    assert ended.wall < 15


def test_a_death_inside(image_file: Path) -> None:
    def die(_: object) -> None:
        import os

        os.kill(os.getpid(), 9)

    job = Job(die, None, ship_cloudpickle=True)
    assert "SIGKILL" in report(outcome(job, *start(job, image_file)))


def test_no_such_image() -> None:
    job = Job(where, 21)
    assert "there is no such image on this node" in report(outcome(job, *start(job, "/no/such.sif")))


def test_a_file_that_is_no_image(tmp_path: Path) -> None:
    (tmp_path / "broken.sif").write_bytes(b"no image" * 100)
    job = Job(where, 21)
    said = report(outcome(job, *start(job, tmp_path / "broken.sif")))
    assert "does not start it" in said


def test_a_node_without_apptainer(image_file: Path) -> None:
    job = Job(where, 21)
    said = report(outcome(job, *start(job, image_file, PATH="/no/such")))
    assert "neither apptainer nor singularity" in said


def test_marks_of_a_container_alone_refuse_nothing(image_file: Path) -> None:
    # What the container around was given is not on this side of it.
    around = {"APPTAINER_CONTAINER": "/some.sif", "APPTAINER_NAME": "some.sif", "APPTAINER_BIND": "/no/such:/data"}
    job = Job(where, 21, ship_cloudpickle=True)
    assert value(outcome(job, *start(job, image_file, **around)))[0] == 42


@pytest.fixture
def inside(python_tree: Path, tmp_path: Path) -> list[str]:
    """The start of a command in a container that has Apptainer, with Docker's mark and Podman's."""
    tree = tmp_path / "tree"
    run("cp", "-a", python_tree, tree)
    # Copied, not mounted: it looks for its files beside where it is.
    (libraries,) = Path("/usr/lib").glob("*/apptainer")
    needed = [*libraries.parent.glob("libseccomp.so*"), *libraries.parent.glob("libsqlite3.so*")]
    for path in (Path("/usr/bin/apptainer"), Path("/etc/apptainer"), Path("/var/lib/apptainer"), libraries, *needed):
        place = tree / path.relative_to("/").parent
        place.mkdir(parents=True, exist_ok=True)
        run("cp", "-a", path, place)
    for mark in (".dockerenv", "run/.containerenv"):
        (tree / mark).touch()
    return ["apptainer", "-s", "exec", "--bind", "/tmp", str(tree)]


def test_a_container_in_a_container(python_tree: Path, inside: list[str]) -> None:
    assert run(*inside, "ls", "/.dockerenv", "/run/.containerenv").returncode == 0
    job = Job(where, 21, ship_cloudpickle=True)
    answer, python, directory, outside, _ = value(outcome(job, *inside, *start(job, python_tree)))
    assert (answer, python, directory, outside) == (42, "/usr/bin/python3", str(job.dir), False)


def test_a_container_in_which_none_starts(python_tree: Path) -> None:
    # As where a container's seccomp profile forbids it: neither user namespaces inside, nor the right to mount.
    forbid = 'echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all --inh-caps=-all "$@"'
    job = Job(where, 21)
    begun = start(job, python_tree, APPTAINER_CONTAINER="/some.sif")
    said = report(outcome(job, "unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh", *begun))
    assert "does not start it" in said
    assert "in a container already (APPTAINER_CONTAINER is set)" in said
    assert "delivery by `container`" in said


def test_no_container_where_jobs_must_not_start_one(image_file: Path) -> None:
    job = Job(where, 21)
    with (job.dir / ".machine.ad").open("a") as file:
        file.write('GLIDEIN_Site = "Somewhere"\n')
    said = report(outcome(job, *start(job, image_file)))
    assert "jobs must not start containers" in said
    assert "delivery by `container`" in said
