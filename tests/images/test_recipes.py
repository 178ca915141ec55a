"""`htmap-exec image`: a recipe of a live environment with an editable package, built, checked, and running a map's
component; by Docker and by Apptainer, without a network but an index on this machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from containers import FAST, PYTHON, Job, binary, imported, run, value


@pytest.fixture(scope="module")
def environment(index: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with a package of an index, and an editable one that exists nowhere else."""
    directory = tmp_path_factory.mktemp("live")
    project = directory / "my project"
    (project / "mine").mkdir(parents=True)
    (project / "mine" / "__init__.py").write_text("import six\n\ndef triple(x):\n    return 3 * x\n")
    (project / ".git").mkdir()
    (project / ".git" / "huge").write_text("history")
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "mine"\nversion = "0.1"\ndependencies = ["six"]\n'
        '[tool.setuptools]\npackages = ["mine"]\n'
    )
    venv = directory / "venv"
    run(sys.executable, "-m", "venv", venv)
    os.environ["PIP_INDEX_URL"] = index
    run(venv / "bin" / "pip", "install", "--quiet", "cloudpickle", "--editable", project)
    return venv / "bin" / "python"


def use(x: int) -> tuple[int, str, str]:
    import mine
    import six

    return mine.triple(x), six.__version__, mine.__file__


def recipe(environment: Path, directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return run(binary(), "image", "recipe", "--from", environment, "-o", directory, "--allow-missing", *options)


def test_what_is_in_a_recipe(environment: Path, tmp_path: Path) -> None:
    done = recipe(environment, tmp_path / "context")
    assert done.stdout.strip() == str(tmp_path / "context" / "Dockerfile")
    text = (tmp_path / "context" / "Dockerfile").read_text()
    assert f"ARG FROM=python:{PYTHON}-slim" in text
    assert "USER htmap" in text
    requirements = (tmp_path / "context" / "requirements.txt").read_text().splitlines()
    assert requirements == ["cloudpickle==3.1.2", "six==1.17.0"]
    sources = {str(path.relative_to(tmp_path / "context")) for path in (tmp_path / "context" / "sources").rglob("*.*")}
    assert "sources/mine/mine/__init__.py" in sources
    assert not any(".git" in name for name in sources)
    # A second one takes its place; what is somebody's stays.
    recipe(environment, tmp_path / "context", "--format", "apptainer")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").touch()
    failed = run(binary(), "image", "recipe", "--from", environment, "-o", tmp_path / "mine", check=False)
    assert failed.returncode == 1
    assert "is not empty, and no recipe" in failed.stderr


def test_what_is_left_out_is_said(environment: Path, tmp_path: Path) -> None:
    project = Path(tmp_path / "gone")
    done = run(
        binary(),
        "image",
        "recipe",
        "--from",
        environment,
        "-o",
        tmp_path / "a",
        "--allow-missing",
        env={**os.environ, "PYTHONPATH": "/work/tests"},
    )
    assert "left out: modules in `/work/tests`, which is on sys.path and belongs to no package" in done.stderr
    assert "# - modules in `/work/tests`" in (tmp_path / "a" / "Dockerfile").read_text()
    assert not project.exists()


def test_shared_libraries_that_packages_do_not_bring(environment: Path, tmp_path: Path) -> None:
    """Extension modules of a package: one needs what Debian has, one what is known to nobody, one what lies beside."""
    [site] = environment.parent.parent.glob("lib/python3.*/site-packages")
    compile_ = ["gcc", "-shared", "-x", "c", "/dev/null", "-x", "none", "-Wl,--no-as-needed"]
    made = []
    for library, brought in (("libGL.so.1", False), ("libsecret.so.7", False), ("libbeside.so.2", True)):
        path = (site if brought else tmp_path) / library
        run(*compile_, f"-Wl,-soname,{library}", "-o", path)
        made.append(site / f"needs_{library}")
        run(*compile_, path, "-o", made[-1])
        made.append(path)
    try:
        done = recipe(environment, tmp_path / "context")
    finally:
        for file in made:
            file.unlink()
    text = (tmp_path / "context" / "Dockerfile").read_text()
    assert "apt-get install -y --no-install-recommends libgl1 &&" in text
    assert "left out: the library `libsecret.so.7`" in done.stderr
    assert "libbeside" not in text


def test_a_requirements_file_goes_before_what_is_installed(environment: Path, tmp_path: Path) -> None:
    (tmp_path / "wanted.txt").write_text("six>=1\n")
    recipe(environment, tmp_path / "context", "--requirements", str(tmp_path / "wanted.txt"))
    assert (tmp_path / "context" / "requirements.txt").read_text() == "six>=1\n"
    assert "--no-deps" not in (tmp_path / "context" / "Dockerfile").read_text()


def test_conda_wants_a_conda_environment(environment: Path, tmp_path: Path) -> None:
    failed = run(binary(), "image", "recipe", "--from", environment, "--conda", "-o", tmp_path / "a", check=False)
    assert failed.returncode == 1
    assert "is no conda environment" in failed.stderr


def test_a_conda_environment(environment: Path, tmp_path: Path) -> None:
    """As conda lists it; conda itself is not had here, so that nothing is built."""
    meta = environment.parent.parent / "conda-meta"
    meta.mkdir()
    try:
        package = {
            "name": "zlib",
            "version": "1.3",
            "url": "https://conda.example/linux-64/zlib-1.3-0.conda",
            "md5": "12",
        }
        (meta / "zlib-1.3-0.json").write_text(json.dumps(package))
        recipe(environment, tmp_path / "context", "--conda")
    finally:
        for file in meta.iterdir():
            file.unlink()
        meta.rmdir()
    lock = (tmp_path / "context" / "conda.lock").read_text().splitlines()
    assert lock == ["@EXPLICIT", "https://conda.example/linux-64/zlib-1.3-0.conda#12"]
    text = (tmp_path / "context" / "Dockerfile").read_text()
    assert "condaforge/miniforge3" in text
    assert "conda create" in text


def check(image: object, *options: str) -> subprocess.CompletedProcess[str]:
    return run(binary(), "image", "check", image, *options, check=False)


@pytest.mark.parametrize("wheels", [False, True], ids=["index", "wheels"])
def test_docker_builds_and_runs_it(
    environment: Path, local_python: str, index: str, tmp_path: Path, wheels: bool
) -> None:
    recipe(environment, tmp_path / "context", "--base", local_python, *(["--wheels"] if wheels else []))
    network = ["--network=none"] if wheels else ["--network=host", "--build-arg", f"PIP_INDEX_URL={index}"]
    run(binary(), "image", "build", tmp_path / "context", "--tag", "local/recipe", "--", *network)
    answer, version, place = value(Job(use, 14).docker("local/recipe"))
    assert (answer, version) == (42, "1.17.0")
    assert place.endswith("-packages/mine/__init__.py")
    checked = check("local/recipe")
    assert checked.returncode == 0, checked.stdout
    for text in (
        "docker starts it",
        f"Python       {PYTHON}",
        "cloudpickle  3.1.2",
        "reach Python",
        "a map will run in it",
    ):
        assert text in checked.stdout


def test_apptainer_builds_and_runs_it(environment: Path, local_python: str, tmp_path: Path) -> None:
    run("docker", "save", local_python, "-o", tmp_path / "base.tar")
    recipe(environment, tmp_path / "context", "--format", "apptainer", "--wheels")
    image = tmp_path / "recipe.sif"
    base = ["--build-arg", "BOOTSTRAP=docker-archive", "--build-arg", f"FROM={tmp_path / 'base.tar'}"]
    run(binary(), "image", "build", tmp_path / "context", "--tag", image, "--", *base, *FAST)
    answer, version, _ = value(Job(use, 14).apptainer(image))
    assert (answer, version) == (42, "1.17.0")
    checked = check(image)
    assert checked.returncode == 0, checked.stdout
    assert "apptainer starts it" in checked.stdout
    assert "reach Python" in checked.stdout


def test_an_image_that_is_not_there() -> None:
    for image in ("local/missing", "/no/such.sif"):
        checked = check(image)
        assert checked.returncode == 1
        assert "hint: there is no such image here" in checked.stdout
        assert "a map will not run in it" in checked.stdout


def test_an_image_without_a_python(local_debian: str) -> None:
    checked = check(local_debian)
    assert checked.returncode == 1
    assert "Python       none" in checked.stdout
    assert "hint: add one" in checked.stdout


def test_an_image_with_another_python(local_python: str) -> None:
    checked = check(local_python, "--submit-python", "3.9")
    assert checked.returncode == 1
    assert "yours is 3.9" in checked.stdout


def test_an_image_without_cloudpickle_is_good_enough(local_python: str) -> None:
    checked = check(local_python)
    assert checked.returncode == 0, checked.stdout
    assert "htmap-exec's bring their own" in checked.stdout


def test_an_image_for_other_processors(local_python: str, tmp_path: Path) -> None:
    """Its programs are not this machine's: here, nothing but zeros where the processor is named."""
    (tmp_path / "usr" / "bin").mkdir(parents=True)
    python = bytearray(Path("/usr/bin/python3").read_bytes())
    python[18:20] = (183).to_bytes(2, "little")  # EM_AARCH64
    (tmp_path / "usr" / "bin" / "python3").write_bytes(python)
    (tmp_path / "usr" / "bin" / "python3").chmod(0o755)
    run("sh", "-c", f"tar -C {tmp_path} -c . | docker import - local/arm")
    checked = check("local/arm")
    assert checked.returncode == 1
    assert "Exec format error" in checked.stdout


def test_a_musl_image(docker: str) -> None:
    assert "a map will run in it" in check(imported("musl")).stdout


def test_a_tree_that_loses_htcondors_variables(python_tree: Path) -> None:
    environment = python_tree / ".singularity.d" / "env"
    environment.mkdir(parents=True)
    (environment / "90-environment.sh").write_text("export PATH=/usr/local/bin:/usr/bin:/bin\n")
    site = python_tree / "usr" / "lib" / "python3" / "dist-packages"
    run(
        sys.executable,
        "-c",
        f"import shutil, cloudpickle; shutil.copytree(cloudpickle.__path__[0], {str(site / 'cloudpickle')!r})",
    )
    checked = check(python_tree)
    assert checked.returncode == 1, checked.stdout
    assert "hint: the image has `/.singularity.d/env` without `99-base.sh`" in checked.stdout
