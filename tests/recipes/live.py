"""A virtual environment whose distributions are written as installers write them, and recipes of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from support.environment import binary


class Live:
    def __init__(self, python: Path) -> None:
        self.python = python
        self.prefix = python.parent.parent
        [self.site] = self.prefix.glob("lib/python3.*/site-packages")

    def clear(self) -> None:
        for path in self.site.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def install(
        self,
        name: str,
        version: str,
        *,
        url: Mapping[str, object] | None = None,
        installer: str = "pip",
        tag: str = "py3-none-any",
        requires: tuple[str, ...] = (),
    ) -> Path:
        """The metadata of a distribution; `url` is what direct_url.json says."""
        info = self.site / f"{name.replace('-', '_').replace('.', '_')}-{version}.dist-info"
        info.mkdir()
        lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {line}" for line in requires)]
        (info / "METADATA").write_text("Metadata-Version: 2.1\n" + "\n".join(lines) + "\n")
        (info / "INSTALLER").write_text(f"{installer}\n")
        pure = str(tag.endswith("any")).lower()
        (info / "WHEEL").write_text(f"Wheel-Version: 1.0\nRoot-Is-Purelib: {pure}\nTag: {tag}\n")
        if url is not None:
            (info / "direct_url.json").write_text(json.dumps(url))
        return info

    def install_editable(self, name: str, version: str, project: Path, *, tag: str = "py3-none-any") -> None:
        self.install(name, version, url={"url": project.as_uri(), "dir_info": {"editable": True}}, tag=tag)
        (self.site / f"__editable__.{name}.pth").write_text(f"{project}\n")

    def recipe(self, directory: Path, *options: object, **variables: str) -> Recipe:
        words = [binary(), "image", "recipe", "--from", self.python, "-o", directory, *options]
        done = subprocess.run(
            [str(word) for word in words],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env={**os.environ, **variables},
        )
        return Recipe(directory, done)


class Recipe:
    """What a command wrote and said."""

    def __init__(self, directory: Path, done: subprocess.CompletedProcess[str]) -> None:
        self.directory = directory
        self.exit = done.returncode
        self.stderr = done.stderr

    @property
    def text(self) -> str:
        [path] = [path for path in self.directory.iterdir() if path.name in ("Dockerfile", "Apptainer.def")]
        return path.read_text()

    @property
    def requirements(self) -> list[str]:
        return (self.directory / "requirements.txt").read_text().splitlines()

    def files(self, name: str) -> set[str]:
        """Of one source."""
        root = self.directory / "sources" / name
        return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def write_project(directory: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory
