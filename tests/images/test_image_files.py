"""What `images/` and `singularity.d/` make: by Docker, by Apptainer, as an image file and as an unpacked tree."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from containers import CHECKOUT, FAST, PYTHON, Job, binary, build, run, value


def look(x: int) -> dict[str, object]:
    import importlib.util
    import os
    import sys

    return {
        "answer": 2 * x,
        "python": "{}.{}".format(*sys.version_info[:2]),
        "executable": sys.executable,
        "scratch": os.environ.get("_CONDOR_SCRATCH_DIR"),
        "slot": os.environ.get("_CONDOR_SLOT"),
        "here": os.getcwd(),
        "uid": os.getuid(),
        "htmap": importlib.util.find_spec("htmap") is not None and "shim or real",
        "cloudpickle": sys.modules["cloudpickle"].__file__,
    }


def config(image: str) -> dict[str, object]:
    [inspected] = json.loads(run("docker", "image", "inspect", image).stdout)
    return dict(inspected["Config"])


def check(seen: dict[str, object], job: Job) -> None:
    assert seen["answer"] == 42
    assert seen["python"] == PYTHON
    assert seen["scratch"] == seen["here"] == str(job.dir)
    assert seen["slot"] == "slot1_1"


def test_the_base_layer_holds_two_things(base_image: str, tmp_path: Path) -> None:
    container = run("docker", "create", base_image, "none").stdout.strip()
    run("docker", "export", container, "-o", tmp_path / "base.tar")
    run("docker", "rm", container)
    listed = run("tar", "-tf", tmp_path / "base.tar").stdout.splitlines()
    # Docker adds what it mounts over.
    mounted = ("dev/", "etc/", "proc/", "sys/", ".dockerenv")
    files = {name for name in listed if not name.endswith("/") and not name.startswith(mounted)}
    expected = {f".singularity.d/{path.relative_to(CHECKOUT / 'singularity.d')}" for path in every_file()}
    assert files == expected | {"usr/local/bin/htmap-exec"}
    assert run("docker", "run", "--rm", base_image, "/usr/local/bin/htmap-exec", "--version").returncode == 0


def every_file() -> list[Path]:
    return [path for path in (CHECKOUT / "singularity.d").rglob("*") if path.is_file()]


def test_images_say_what_they_are_and_leave_the_command_to_htcondor(base_image: str, python_image: str) -> None:
    for image in (base_image, python_image):
        inspected = config(image)
        assert not inspected["Entrypoint"]
        labels = inspected["Labels"]
        assert isinstance(labels, dict)
        for name in ("title", "description", "version", "revision", "licenses"):
            assert labels[f"org.opencontainers.image.{name}"] not in ("", "unknown")
    assert config(python_image)["User"] == "htmap"
    assert "PIP_INDEX_URL" not in str(config(python_image)["Env"])


def test_a_component_in_docker(python_image: str) -> None:
    job = Job(look, 21)
    seen = value(job.docker(python_image))
    check(seen, job)
    assert "packages/cloudpickle/" in seen["cloudpickle"]


@pytest.fixture(scope="module")
def image_file(python_image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Docker image as Apptainer converts it."""
    directory = tmp_path_factory.mktemp("converted")
    run("docker", "save", python_image, "-o", directory / "python.tar")
    run("apptainer", "build", *FAST, directory / "python.sif", f"docker-archive:{directory / 'python.tar'}")
    return directory / "python.sif"


@pytest.fixture(scope="module")
def defined_file(local_python: str, index: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image from our definition."""
    archive = tmp_path_factory.mktemp("defined") / "local.tar"
    run("docker", "save", local_python, "-o", archive)
    build("python.sif", "BOOTSTRAP=docker-archive", f"FROM={archive}", f"PIP_INDEX_URL={index}", options=FAST)
    return CHECKOUT / "dist" / "htmap-exec-python.sif"


@pytest.fixture(scope="module")
def unpacked(python_image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Docker image as /cvmfs has it: its files, and nothing that Docker knows beside them."""
    directory = tmp_path_factory.mktemp("unpacked")
    container = run("docker", "create", python_image, "none").stdout.strip()
    run("sh", "-c", f"docker export {container} | tar -C {directory} -x --exclude=dev/*")
    run("docker", "rm", container)
    return directory


@pytest.fixture(params=["image_file", "defined_file", "unpacked"])
def for_apptainer(request: pytest.FixtureRequest) -> Path:
    return Path(request.getfixturevalue(request.param))


def test_a_component_in_apptainer(for_apptainer: Path) -> None:
    job = Job(look, 21)
    seen = value(job.apptainer(for_apptainer))
    check(seen, job)
    assert "packages/cloudpickle/" in seen["cloudpickle"]


def test_run_starts_what_is_given(for_apptainer: Path) -> None:
    job = Job(look, 21)
    check(value(job.apptainer(for_apptainer, action="run", command=["htmap-exec", "run", "0"])), job)


def test_test_says_which_python_there_is(for_apptainer: Path) -> None:
    said = run("apptainer", "-s", "test", "-C", for_apptainer).stdout
    assert f"CPython {PYTHON}" in said


def test_a_tree_without_99_base_loses_what_htcondor_says(unpacked: Path) -> None:
    """The control for our 99-base.sh: HTMap's image has 90-environment.sh alone."""
    lost = unpacked / ".singularity.d" / "env" / "99-base.sh"
    text = lost.read_text()
    lost.unlink()
    try:
        seen = value(Job(look, 21).apptainer(unpacked))
        assert (seen["answer"], seen["slot"]) == (42, None)
    finally:
        lost.write_text(text)


def test_libraries_of_the_node_have_their_place(unpacked: Path) -> None:
    said = run(
        "apptainer", "-s", "exec", "-C", unpacked, "sh", "-c", "echo $LD_LIBRARY_PATH; ls -d /.singularity.d/libs"
    )
    assert "/.singularity.d/libs" in said.stdout.splitlines()[0]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with pip, as an archive."""
    directory = tmp_path_factory.mktemp("packed")
    run("python3", "-m", "venv", directory / "venv")
    done = run(binary(), "transplant", "build", "--json", "--python", directory / "venv/bin/python", "--dir", directory)
    return Path(json.loads(done.stdout)["path"])


def test_a_python_brought_along(base_image: str, local_debian: str, packed: Path) -> None:
    """An image without a Python gets this one."""
    shutil.copy(packed, CHECKOUT / "images" / "bring-your-own")
    build("bring-your-own", f"FROM={local_debian}", f"ARCHIVE={packed.name}")
    (CHECKOUT / "images" / "bring-your-own" / packed.name).unlink()
    job = Job(look, 21, ship_cloudpickle=True)
    seen = value(job.docker("htmap-exec/bring-your-own"))
    check(seen, job)
    assert str(seen["executable"]).startswith("/opt/python/bin/")


def test_a_conda_environment(base_image: str, local_python: str, index: str, packed: Path, tmp_path: Path) -> None:
    """Miniforge itself is not had here: another Python in its place, so that all but `conda install` runs."""
    stand_in(local_python, packed, tmp_path)
    build("conda", "FROM=local/conda", f"PIP_INDEX_URL={index}")
    job = Job(look, 21)
    seen = value(job.docker("htmap-exec/conda"))
    check(seen, job)
    assert str(seen["executable"]).startswith("/opt/conda/bin/")
    assert config("htmap-exec/conda")["User"] == "htmap"


def stand_in(base: str, packed: Path, directory: Path) -> None:
    """`local/conda`: a Python with pip in /opt/conda."""
    conda = directory / "context" / "conda"
    unpacked = run(binary(), "transplant", "unpack", packed, conda).stdout.strip()
    for name in ("python", "python3"):
        if not (conda / "bin" / name).exists():
            (conda / "bin" / name).symlink_to(Path(unpacked).name)
    # Debian's mark, which keeps pip from installing into it.
    for mark in conda.rglob("EXTERNALLY-MANAGED"):
        mark.unlink()
    (directory / "context" / "Dockerfile").write_text(
        f"FROM {base}\nCOPY conda /opt/conda\nENV LD_LIBRARY_PATH=/opt/conda/lib/htmap-exec\n"
    )
    run("docker", "build", "--tag", "local/conda", directory / "context")
