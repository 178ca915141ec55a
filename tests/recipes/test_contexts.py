"""What of a project's directory lies in the context: whatever its packages are called, and not what is no part of it."""

from __future__ import annotations

from pathlib import Path

from live import Live, write_project

BASIC = {"pyproject.toml": '[project]\nname = "mine"\nversion = "1.0"\n'}


def test_packages_may_be_called_as_tools_call_their_directories(live: Live, tmp_path: Path) -> None:
    project = write_project(
        tmp_path / "project",
        {
            **BASIC,
            "build/__init__.py": "",
            "mine/__init__.py": "",
            "mine/build/__init__.py": "",
            "mine/build/template.json": "{}",
            "mine/venv/create.py": "",
            "src/dist/part/__init__.py": "",
            "venv/__init__.py": "",
        },
    )
    expected = {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()}
    write_project(
        project,
        {
            ".git/config": "",
            ".venv/pyvenv.cfg": "",
            "dist/mine-1.0.tar.gz": "",
            "environments/mine/conda-meta/history": "",
            "environments/other/pyvenv.cfg": "",
            "environments/other/lib/huge.py": "",
            "mine/__pycache__/x.pyc": "",
        },
    )
    live.install_editable("mine", "1.0", project)
    assert live.recipe(tmp_path / "context").files("mine") == expected


def test_what_setuptools_has_built_stays(live: Live, tmp_path: Path) -> None:
    project = write_project(
        tmp_path / "project", {**BASIC, "mine.py": "", "build/lib/mine.py": "", "build/lib/old/__init__.py": ""}
    )
    live.install_editable("mine", "1.0", project)
    assert live.recipe(tmp_path / "context").files("mine") == {"pyproject.toml", "mine.py"}


def test_a_recipe_inside_of_the_project(live: Live, tmp_path: Path) -> None:
    """`htmap-exec image recipe -o image` in the project's own directory, twice, and beside it an earlier one."""
    project = write_project(tmp_path / "project", {**BASIC, "mine.py": ""})
    live.install_editable("mine", "1.0", project)
    for name in ("earlier", "image", "image"):
        recipe = live.recipe(project / name)
        assert recipe.exit == 0, recipe.stderr
        assert recipe.files("mine") == {"pyproject.toml", "mine.py"}


def test_links_to_directories(live: Live, tmp_path: Path) -> None:
    project = write_project(tmp_path / "project", {**BASIC, "mine/real/__init__.py": ""})
    write_project(tmp_path / "shared", {"common/__init__.py": "", "data/huge": ""})
    (project / "mine" / "alias").symlink_to("real")
    (project / "mine" / "common").symlink_to("../../shared/common")
    (project / "data").symlink_to(tmp_path / "shared" / "data")
    live.install_editable("mine", "1.0", project)
    recipe = live.recipe(tmp_path / "context")
    assert recipe.files("mine") == {"pyproject.toml", "mine/real/__init__.py", "mine/common/__init__.py"}
    assert (tmp_path / "context" / "sources" / "mine" / "mine" / "alias" / "__init__.py").is_file()
    assert f"what the link `{project / 'data'}` leads to" in recipe.stderr
