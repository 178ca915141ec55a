"""The archive that delivery by `transplant` sends: this Python, packed by `htmap-exec transplant`.

HTMap's settings say where it is: TRANSPLANT.DIR for archives that are built here, ALTERNATE_INPUT_PATH for one that
lies elsewhere, ASSUME_EXISTS if none is to be built.
"""

import os
import pathlib
import posixpath
import subprocess
import sys
from typing import Any
from urllib.parse import urlsplit

from . import layout
from .failures import SettingsError, TransplantError


def prepare(map_dir: pathlib.Path, binary: str, settings: Any) -> None:
    """Build the archive if need be, and note in the map directory where it is. Raises TransplantError."""
    (map_dir / layout.TRANSPLANT).write_text(_archive(binary, settings) + "\n")


def of_map(map_dir: pathlib.Path, settings: Any) -> str:
    """The path or address of a map's archive; before it is built, what that will look like."""
    try:
        return (map_dir / layout.TRANSPLANT).read_text().strip()
    except FileNotFoundError:
        return _elsewhere(settings) or os.path.join(_directory(settings), "DIGEST")


def name(archive: str) -> str:
    """What HTCondor calls the file in the scratch directory."""
    return posixpath.basename(urlsplit(archive).path if "://" in archive else archive)


def _archive(binary: str, settings: Any) -> str:
    elsewhere = _elsewhere(settings)
    if elsewhere:
        return elsewhere
    directory = _directory(settings)
    if settings.get("TRANSPLANT.ASSUME_EXISTS", default=False):
        return _newest(directory)
    if not sys.executable:
        raise TransplantError("this Python does not know its own path, so it cannot be packed")
    done = subprocess.run(
        [binary, "transplant", "build", "--python", sys.executable, "--dir", directory],
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        said = done.stderr.strip() or f"exit status {done.returncode}"
        raise TransplantError(f"`{sys.executable}` cannot be transplanted: {said}")
    return done.stdout.strip()


def _elsewhere(settings: Any) -> str:
    path = settings.get("TRANSPLANT.ALTERNATE_INPUT_PATH")
    if not path:
        return ""
    path = str(path)
    if "://" in path:
        if not name(path):
            raise SettingsError(f"the setting `TRANSPLANT.ALTERNATE_INPUT_PATH` is `{path}`, which names no file")
        return path
    if not os.path.isfile(path):
        raise SettingsError(f"the setting `TRANSPLANT.ALTERNATE_INPUT_PATH` names `{path}`, which is no file here")
    return os.path.abspath(path)


def _directory(settings: Any) -> str:
    return os.path.abspath(os.path.expanduser(str(settings["TRANSPLANT.DIR"])))


def _newest(directory: str) -> str:
    found = sorted(
        (path for path in pathlib.Path(directory).glob("*") if path.suffix != ".pip" and path.is_file()),
        key=lambda path: path.stat().st_mtime,
    )
    if not found:
        raise SettingsError(
            f"the setting `TRANSPLANT.ASSUME_EXISTS` is on, and there is no archive in `{directory}`: "
            "htmap-exec transplant build"
        )
    return str(found[-1])
