"""What a recipe asks pip for: what is installed, and where its versions come from."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from live import Live, write_project
from support.environment import main_python, pythons


@pytest.mark.parametrize("minor", ["3.11", "3.12", "3.13"])
def test_setuptools_where_images_have_none(minor: str, tmp_path: Path) -> None:
    """`python:3.12-slim` and later ones have neither setuptools nor wheel."""
    if minor not in pythons():
        pytest.skip(f"there is no Python {minor}")
    venv = tmp_path / "venv"
    subprocess.run([pythons()[minor].path, "-m", "venv", "--without-pip", venv], check=True)
    live = Live(venv / "bin" / "python")
    for name, version in (("pip", "25.0"), ("setuptools", "80.9.0"), ("six", "1.17.0"), ("wheel", "0.45.1")):
        live.install(name, version)
    recipe = live.recipe(tmp_path / "context")
    expected = ["six==1.17.0"] if minor == "3.11" else ["setuptools==80.9.0", "six==1.17.0", "wheel==0.45.1"]
    assert recipe.requirements == expected


# A backend in the project, which needs nothing of an index, and asks for its version as setuptools-scm does.
BACKEND = """
import os, zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    version = os.environ.get("SETUPTOOLS_SCM_PRETEND_VERSION_FOR_MY_DIST", "0.0")
    info = f"my_dist-{version}.dist-info"
    name = f"my_dist-{version}-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        wheel.writestr("my_dist.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\\nName: my.dist\\nVersion: {version}\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""
VERSION = "1.2.3.dev4+gabcdef0"


@pytest.fixture
def versioned(live: Live, tmp_path: Path) -> Live:
    """A project whose version is a matter of its history, and one whose version stands in it."""
    project = write_project(
        tmp_path / "versioned",
        {
            ".git/config": "",
            "backend.py": BACKEND,
            "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
            '[tool.setuptools_scm]\nversion_file = "src/version.py"\n',
        },
    )
    live.install_editable("my.dist", VERSION, project)
    plain = write_project(tmp_path / "plain", {"setup.py": "from setuptools import setup\nsetup(name='plain')\n"})
    live.install_editable("plain", "1.0", plain)
    return live


@pytest.mark.parametrize("form", ["dockerfile", "apptainer"])
def test_a_version_that_is_in_no_file_stays(versioned: Live, tmp_path: Path, form: str) -> None:
    text = versioned.recipe(tmp_path / "context", "--format", form).text
    together, alone = [line.strip() for line in text.splitlines() if " pip install " in line]
    assert together.endswith("/requirements.txt /opt/htmap-exec/sources/plain")
    assert alone.removeprefix("RUN ") == (
        f"SETUPTOOLS_SCM_PRETEND_VERSION_FOR_MY_DIST={VERSION} "
        "python3 -m pip install --no-cache-dir --no-deps /opt/htmap-exec/sources/my-dist"
    )


def test_wheels_have_the_version_that_is_installed(tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    subprocess.run([main_python().path, "-m", "venv", venv], check=True)
    live = Live(venv / "bin" / "python")
    project = write_project(tmp_path / "versioned", {"backend.py": BACKEND})
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n[tool.setuptools_scm]\n'
    )
    live.install_editable("my.dist", VERSION, project)
    recipe = live.recipe(tmp_path / "context", "--wheels")
    assert recipe.exit == 0, recipe.stderr
    assert [path.name for path in (tmp_path / "context" / "wheels").iterdir()] == [
        f"my_dist-{VERSION}-py3-none-any.whl"
    ]


def test_a_version_as_in_a_source_archive(live: Live, tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", {"pyproject.toml": "[tool.versioningit]\n"})
    live.install_editable("mine", VERSION, project)
    recipe = live.recipe(tmp_path / "context")
    assert recipe.exit == 0, recipe.stderr
    [info] = (tmp_path / "context" / "sources").rglob("PKG-INFO")
    assert f"\nVersion: {VERSION}\n" in info.read_text()
    assert not (project / "PKG-INFO").exists()


def test_a_version_that_nobody_can_be_told(live: Live, tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", {"setup.py": "import versioneer\n"})
    live.install_editable("mine", VERSION, project)
    assert "from which versioneer takes its version" in live.recipe(tmp_path / "context").stderr


def test_versions_of_torch_come_from_torchs_index(live: Live, tmp_path: Path) -> None:
    for name, version in (("six", "1.17.0"), ("torch", "2.1.0+cu118"), ("torchvision", "0.16.0+cu118")):
        live.install(name, version, tag="cp311-cp311-linux_x86_64" if name != "six" else "py3-none-any")
    recipe = live.recipe(tmp_path / "context")
    assert recipe.requirements == [
        "--extra-index-url https://download.pytorch.org/whl/cu118",
        "six==1.17.0",
        "torch==2.1.0+cu118",
        "torchvision==0.16.0+cu118",
    ]
    assert "is a version that PyPI cannot have" not in recipe.stderr


def test_other_local_versions_are_named(live: Live, tmp_path: Path) -> None:
    live.install("jaxlib", "0.4.20+cuda12.cudnn89")
    recipe = live.recipe(tmp_path / "context")
    assert recipe.requirements == ["jaxlib==0.4.20+cuda12.cudnn89"]
    assert "note: jaxlib 0.4.20+cuda12.cudnn89 is a version that PyPI cannot have (+): add `--extra-index-url`" in (
        recipe.stderr
    )
    assert "# - jaxlib 0.4.20+cuda12.cudnn89" in recipe.text
