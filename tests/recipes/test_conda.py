"""What conda has installed, as its packages have it: with addresses of the machine that built them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from live import Live, write_project


@pytest.fixture
def conda(live: Live) -> Iterator[Live]:
    meta = live.prefix / "conda-meta"
    meta.mkdir()
    (meta / "history").touch()
    yield live
    for path in meta.iterdir():
        path.unlink()
    meta.rmdir()


def record(live: Live, name: str, version: str, *files: Path) -> None:
    listed = [str(file.relative_to(live.prefix)) for file in files]
    text = json.dumps({"name": name, "version": version, "url": f"https://c.example/{name}.conda", "files": listed})
    (live.prefix / "conda-meta" / f"{name}-{version}-0.json").write_text(text)


PLACES = [
    "file:///home/conda/feedstock_root/build_artifacts/numpy_1707225380409/work/dist/numpy-1.26.4-cp311-linux_x86_64.whl",
    "file:///croot/numpy_1708623136547/work",
    "file:///tmp/abs_f0e8a3bnqj/croots/recipe/numpy_1659432701727/work",
]


@pytest.mark.parametrize("place", PLACES)
def test_addresses_of_condas_builds_are_not_believed(conda: Live, tmp_path: Path, place: str) -> None:
    info = conda.install("numpy", "1.26.4", url={"url": place, "dir_info": {}}, installer="conda")
    record(conda, "numpy", "1.26.4", info / "METADATA")
    recipe = conda.recipe(tmp_path / "pip")
    assert (recipe.exit, recipe.requirements) == (0, ["numpy==1.26.4"])
    assert "numpy" not in recipe.stderr
    assert conda.recipe(tmp_path / "conda", "--conda").requirements == []


def test_packages_of_an_older_conda_have_pips_mark(conda: Live, tmp_path: Path) -> None:
    """And what pip has installed over one of conda's is pip's: it comes from this machine, where that can be seen."""
    info = conda.install("six", "1.16.0", url={"url": "file:///opt/work/six", "dir_info": {}})
    record(conda, "six", "1.16.0", info / "METADATA")
    project = write_project(tmp_path / "mine", {"setup.py": ""})
    info = conda.install("mine", "2.0", url={"url": project.as_uri(), "dir_info": {}})
    record(conda, "mine", "2.0", info / "METADATA")
    recipe = conda.recipe(tmp_path / "pip")
    assert (recipe.requirements, recipe.files("mine")) == (["six==1.16.0"], {"setup.py"})
    recipe = conda.recipe(tmp_path / "conda", "--conda")
    assert (recipe.requirements, recipe.files("mine")) == ([], {"setup.py"})


@pytest.mark.parametrize(
    "place",
    ["/tmp/me/spack-stage/spack-stage-py-numpy-1.26.4-abc/spack-src", "/builddir/build/BUILD/numpy-1.26.4"],
)
def test_nor_are_those_of_others(live: Live, tmp_path: Path, place: str) -> None:
    live.install("numpy", "1.26.4", url={"url": f"file://{place}", "dir_info": {}})
    assert live.recipe(tmp_path / "context").requirements == ["numpy==1.26.4"]


def test_what_came_from_here_and_has_gone_is_left_out(live: Live, tmp_path: Path) -> None:
    live.install("mine", "1.0", url={"url": "file:///home/me/mine", "dir_info": {}})
    recipe = live.recipe(tmp_path / "context")
    assert recipe.requirements == []
    assert "left out: mine 1.0: `/home/me/mine`, from which it was installed, is not there any more" in recipe.stderr
