"""Maps in containers, by each delivery method that has them: Docker's universe, the container universe with an image
file and with an unpacked tree, and Apptainer alone.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import htcondor
import htmap
import pytest
from conftest import deliver
from on_pool import BINARY, SUITE, TIMEOUT, any_error, events, finished, made, results, until
from test_evictions import counting

if SUITE != "containers":
    pytest.skip("this pool has no containers: scripts/pool --suite containers test", allow_module_level=True)

SOURCES = Path("/opt/images")
HTCONDOR_HAS_CGROUPS = any(Path("/sys/fs/cgroup", name).exists() for name in ("cgroup.controllers", "cpu,cpuacct"))
# Jobs have a /tmp of their own; and the images stay for the next run.
IMAGES = Path.home() / "images"
# Of the packages that images need, this machine has the wheels.
WITHOUT_NETWORK = ("env", "PIP_NO_INDEX=1", f"PIP_FIND_LINKS={SOURCES / 'wheels'}")


def run(*command: object) -> None:
    words = [str(word) for word in command]
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: exit {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


@pytest.fixture(scope="session")
def docker_image() -> str:
    run("docker", "import", SOURCES / "python.tar", "local/python")
    return "local/python"


@pytest.fixture(scope="session")
def image_tree() -> Path:
    tree = IMAGES / "python"
    if not tree.exists():
        part = IMAGES / "python.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        run("tar", "-C", part, "--exclude=./usr/share", "--exclude=./var", "-xf", SOURCES / "python.tar")
        for name in ("dev", "proc"):
            (part / name).mkdir()
        # HTCondor runs the image's test before a job, and where a tree has none the job starts again for ever.
        shutil.copytree("/work/singularity.d", part / ".singularity.d")
        shutil.copy(BINARY, part / "usr" / "local" / "bin" / "htmap-exec")
        part.rename(tree)
    return tree


@pytest.fixture(scope="session")
def image_file(image_tree: Path) -> Path:
    file = IMAGES / "python.sif"
    if not file.exists():
        run("apptainer", "build", "--mksquashfs-args", "-comp zstd -Xcompression-level 1", file, image_tree)
    return file


@pytest.fixture(
    params=["docker", "container by file", "container by tree", "container by Docker", "singularity", "apptainer"]
)
def in_container(request: pytest.FixtureRequest) -> Iterator[str]:
    method, _, kind = request.param.partition(" by ")
    deliver(method)
    if method == "docker":
        htmap.settings["DOCKER.IMAGE"] = request.getfixturevalue("docker_image")
    elif kind == "tree":
        htmap.settings["EXEC.CONTAINER_IMAGE"] = str(request.getfixturevalue("image_tree"))
    elif kind == "Docker":
        htmap.settings["EXEC.CONTAINER_IMAGE"] = "docker://" + request.getfixturevalue("docker_image")
    elif kind == "file":
        htmap.settings["EXEC.CONTAINER_IMAGE"] = str(request.getfixturevalue("image_file"))
    else:
        htmap.settings["SINGULARITY.IMAGE"] = str(request.getfixturevalue("image_file"))
    yield str(request.param)
    for section in ("DOCKER", "SINGULARITY", "EXEC"):
        htmap.settings.maps[0].pop(section, None)


@pytest.fixture(scope="session")
def live_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with a package of an index, and an editable one that exists nowhere else."""
    directory = tmp_path_factory.mktemp("live")
    project = directory / "my project"
    (project / "mine").mkdir(parents=True)
    (project / "mine" / "__init__.py").write_text("import six\n\ndef triple(x):\n    return 3 * x\n")
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "mine"\nversion = "0.1"\ndependencies = ["six"]\n'
        '[tool.setuptools]\npackages = ["mine"]\n'
    )
    python = directory / "venv" / "bin" / "python"
    run(sys.executable, "-m", "venv", directory / "venv")
    run(*WITHOUT_NETWORK, python, "-m", "pip", "install", "cloudpickle", "--editable", project)
    return python


@pytest.fixture(params=["docker", "singularity"])
def in_recipe(
    request: pytest.FixtureRequest, docker_image: str, live_environment: Path, tmp_path: Path
) -> Iterator[str]:
    """Delivery by an image that is built from the recipe of the live environment."""
    recipe = [
        BINARY,
        "image",
        "recipe",
        "--from",
        live_environment,
        "-o",
        tmp_path / "context",
        "--wheels",
        "--allow-missing",
    ]
    build = [BINARY, "image", "build", tmp_path / "context", "--tag"]
    deliver(request.param)
    if request.param == "docker":
        run(*WITHOUT_NETWORK, *recipe, "--base", docker_image)
        run(*build, "local/recipe", "--", "--network=none")
        htmap.settings["DOCKER.IMAGE"] = "local/recipe"
    else:
        run("docker", "save", docker_image, "-o", tmp_path / "base.tar")
        run(*WITHOUT_NETWORK, *recipe, "--format", "apptainer")
        image = tmp_path / "recipe.sif"
        base = ["--build-arg", "BOOTSTRAP=docker-archive", "--build-arg", f"FROM={tmp_path / 'base.tar'}"]
        run(*build, image, "--", *base, "--mksquashfs-args", "-comp zstd -Xcompression-level 1")
        htmap.settings["SINGULARITY.IMAGE"] = str(image)
    yield str(request.param)
    for section in ("DOCKER", "SINGULARITY"):
        htmap.settings.maps[0].pop(section, None)


def look(x: int) -> dict[str, object]:
    import os
    import pathlib

    import cloudpickle
    import htmap

    pathlib.Path("deep").mkdir()
    pathlib.Path("deep", "file.txt").write_text(str(x))
    htmap.transfer_output_files("deep/file.txt")
    print("printed inside")
    return {
        "answer": 2 * x,
        "python": sys.executable,
        "condor": pathlib.Path("/etc/condor").exists(),
        "slot": os.environ.get("_CONDOR_SLOT", ""),
        "uid": os.getuid(),
        "cloudpickle": cloudpickle.__file__,
    }


look.__module__ = "__main__"


def test_results_files_and_stdout(in_container: str) -> None:
    import os

    m = htmap.map(look, [1, 2])
    for x, seen in zip((1, 2), results(m)):
        assert isinstance(seen, dict)
        assert seen["answer"] == 2 * x
        assert seen["python"] == "/usr/bin/python3"
        # It is the image's file system, and HTCondor's user and variables.
        assert not seen["condor"]
        assert str(seen["slot"]).startswith("slot1")
        assert seen["uid"] == os.getuid()
        assert "_htmap_cloudpickle.zip" in str(seen["cloudpickle"])
    assert (m.output_files.get(1) / "deep" / "file.txt").read_text() == "2"
    assert "printed inside" in m.stdout.get(0)


def test_an_error(in_container: str) -> None:
    def inverse(x: int) -> float:
        numerator = x + 41
        return numerator / (x - 1)

    m = finished(htmap.map(inverse, [1]))
    (report,) = m.error_reports()
    for text in ("ZeroDivisionError: division by zero", "numerator = 42", "/usr/bin/python3"):
        assert text in report


def use(x: int) -> tuple[int, str, str]:
    import mine
    import six

    return mine.triple(x), six.__version__, mine.__file__


use.__module__ = "__main__"


def test_an_image_of_a_live_environment(in_recipe: str) -> None:
    """Its editable package, too, which this machine's nodes would not find anywhere."""
    m = htmap.map(use, range(3))
    for x, seen in enumerate(results(m)):
        assert isinstance(seen, tuple)
        assert seen[:2] == (3 * x, "1.17.0")
        assert seen[2].endswith("-packages/mine/__init__.py")


def test_a_checkpoint_across_a_vacate(in_container: str) -> None:
    m = htmap.map(counting(evictions=1), [None])
    until(made(m, 1, "counted-4"), "the first attempt counts")
    m.vacate()
    start, end = m.get(0, timeout=TIMEOUT)
    assert end == start + 4
    assert start >= 4
    assert events(m, htcondor.JobEventType.JOB_EVICTED)


def fill(_: object) -> int:
    # Written to: untouched memory is none.
    return sum(block[0] for block in [bytearray(b"1" * (32 << 20)) for _ in range(64)])


fill.__module__ = "__main__"


def test_too_much_memory(in_container: str) -> None:
    docker = in_container in ("docker", "container by Docker")
    if not docker and not HTCONDOR_HAS_CGROUPS:
        pytest.skip(
            "HTCondor bounds memory by cgroups v2, or v1 with `cpu,cpuacct` together: this kernel mounts neither"
        )
    m = htmap.map(fill, [None], map_options=htmap.MapOptions(request_memory="120MB"))
    until(lambda: m.is_done or m.holds or any_error(m), "it ends")
    (hold,) = m.holds.values()
    assert hold.code == 34
    assert "memory limit" in hold.reason
    # Asked for, in a way: what is removed is not counted.
    m.remove()


def test_the_settings_for_osg_as_they_are_documented() -> None:
    """Submitted as it stands in images/README.md: the jobs ask for what OSG's nodes offer, so here they stay idle."""
    text = Path("/work/images/README.md").read_text()
    [block] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, object] = {}
    exec(block, names)
    m = names["m"]
    assert isinstance(m, htmap.Map)
    ads = htcondor.Schedd().query(f'JobBatchName == "{m.tag}"')
    assert len(ads) == 10
    ad = ads[0]
    # The node fetches it, and finds it in the scratch directory.
    assert "osdf:///ospool/ap20/data/me/python-v1.sif" in ad["TransferInput"]
    assert ad["ContainerImage"] == "python-v1.sif"
    assert ad["ProjectName"] == "MyProject"
    assert ad["JobDurationCategory"] == "Medium"
    assert "HAS_SINGULARITY" in str(ad["Requirements"])
    assert ad["WantContainer"]
    assert m.component_statuses == [htmap.ComponentStatus.IDLE] * 10
    for section in ("DELIVERY_METHOD", "EXEC"):
        htmap.settings.maps[0].pop(section, None)
