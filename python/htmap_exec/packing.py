"""The archive that delivery by `transplant` sends: this Python, packed by `htmap-exec transplant`.

HTMap's settings say where it is: TRANSPLANT.DIR for archives that are built here, ALTERNATE_INPUT_PATH for one that
lies elsewhere, ASSUME_EXISTS if none is to be built. What an archive needs of a node it says itself.
"""

import functools
import json
import os
import pathlib
import platform
import posixpath
import subprocess
import sys
from typing import Any, Dict, List, NamedTuple, Optional
from urllib.parse import urlsplit

from . import layout
from .binary import for_this_machine
from .exec_settings import ExecSettings
from .failures import SettingsError, TransplantError

_MIB = 2**20
# For each file and directory, what no file system takes less for.
_BLOCK = 4096


class Facts(NamedTuple):
    """What an archive says of itself, as far as jobs depend on it."""

    machine: str
    # Bytes: of the archive, and of all that is unpacked from it.
    packed: int
    unpacked: int
    glibc: Optional[Dict[str, Any]]
    x86_64_level: Optional[Dict[str, Any]]


def prepare(map_dir: pathlib.Path, binary: str, settings: Any, ours: ExecSettings) -> None:
    """Build the archive if need be, and note in the map directory where it is. Raises TransplantError."""
    archive = _elsewhere(settings) or _built(binary, settings, ours)
    (map_dir / layout.TRANSPLANT).write_text(archive + "\n")
    found = facts(binary, archive)
    arch = ours.ARCH
    if found is not None and found.machine != arch:
        raise TransplantError(
            f"the archive `{archive}` is for {found.machine}, and the map is for nodes of the kind {arch} (EXEC.ARCH)"
        )


def of_map(map_dir: pathlib.Path, binary: str, settings: Any) -> str:
    """The path or address of a map's archive; before it is built, what that will look like."""
    try:
        return (map_dir / layout.TRANSPLANT).read_text().strip()
    except FileNotFoundError:
        found = _elsewhere(settings)
        if not found and not map_dir.exists():
            # Somebody wants to know what it would be: the last one of these packages will do.
            found = next(iter(_of_this_python(binary, _directory(settings))), "")
        return found or os.path.join(_directory(settings), "DIGEST")


def facts(binary: str, archive: str) -> Optional[Facts]:
    """What an archive says of itself; None if it is not a file on this machine."""
    try:
        found = os.stat(archive)
    except OSError:
        return None
    return _facts(binary, archive, found.st_mtime_ns, found.st_size)


@functools.lru_cache(maxsize=8)
def _facts(binary: str, archive: str, changed: int, size: int) -> Facts:
    done = _run([for_this_machine(binary), "transplant", "info", "--json", archive])
    if done.returncode != 0:
        raise TransplantError(f"the archive `{archive}` is of no use: {_said(done)}")
    told = json.loads(done.stdout)
    manifest = told["manifest"]
    audit = manifest.get("audit", {})
    return Facts(
        manifest["machine"],
        size,
        told["content"] + _BLOCK * told["entries"],
        audit.get("glibc"),
        audit.get("x86_64_level"),
    )


def disk(found: Facts, scratch: int) -> str:
    """What a job needs for an archive, its tree, and so many bytes more, as a submit file says it."""
    return f"{-(-(found.packed + found.unpacked + scratch) // _MIB)}MB"


def name(archive: str) -> str:
    """What HTCondor calls the file in the scratch directory."""
    return posixpath.basename(urlsplit(archive).path if "://" in archive else archive)


def _built(binary: str, settings: Any, ours: ExecSettings) -> str:
    directory = _directory(settings)
    if _truth(settings.get("TRANSPLANT.ASSUME_EXISTS", default=False)):
        return _existing(binary, directory)
    arch = ours.ARCH
    if arch != platform.machine():
        raise TransplantError(
            f"this Python is for {platform.machine()}, and the map is for nodes of the kind {arch} (EXEC.ARCH): build "
            "an archive on such a machine, and name it by TRANSPLANT.ALTERNATE_INPUT_PATH"
        )
    if not sys.executable:
        raise TransplantError("this Python does not know its own path, so it cannot be packed")
    words = [for_this_machine(binary), "transplant", "build", "--python", sys.executable, "--dir", directory]
    # With other options it is another archive: the build itself knows which of them can be used again.
    words += [f"--exclude={pattern}" for pattern in ours.EXCLUDE]
    words += [f"--include={os.path.expanduser(path)}" for path in ours.INCLUDE]
    if ours.LEVEL is not None:
        words.append(f"--level={ours.LEVEL}")
    return _build(words)


def _build(words: List[str]) -> str:
    """The archive's path. What the build says is shown as it comes, since it may take a while: also in a notebook,
    whose stderr is no file."""
    said = []
    with _started(words) as build:
        assert build.stdout is not None and build.stderr is not None
        for line in build.stderr:
            # How far it is, which is no reason why it failed.
            if not line.startswith("packing `"):
                said.append(line)
            # With every map of an environment that is packed already; and what is as one may expect it.
            if not line.startswith(("nothing to do", "taken along: ", "left: ")):
                print(line, end="", file=sys.stderr, flush=True)
        path = build.stdout.read().strip()
    if build.returncode != 0:
        why = "".join(said).strip() or f"exit status {build.returncode}"
        raise TransplantError(f"`{sys.executable}` cannot be transplanted: {why}")
    return path


def _run(words: List[str]) -> "subprocess.CompletedProcess[str]":
    with _started(words) as command:
        out, err = command.communicate()
    return subprocess.CompletedProcess(words, command.returncode, out, err)


def _started(words: List[str]) -> "subprocess.Popen[str]":
    try:
        return subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # As paths are read everywhere, whatever bytes they have.
            encoding=sys.getfilesystemencoding(),
            errors=sys.getfilesystemencodeerrors(),
        )
    except OSError as error:
        raise TransplantError(
            f"`{words[0]}` cannot be started on this machine: {error.strerror or error}: name an htmap-exec binary "
            "that can by the setting EXEC.BINARY"
        ) from None


def _said(done: "subprocess.CompletedProcess[str]") -> str:
    return done.stderr.strip() or f"exit status {done.returncode}"


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
    return _as_text(os.path.abspath(path), "TRANSPLANT.ALTERNATE_INPUT_PATH")


def _directory(settings: Any) -> str:
    return _as_text(os.path.abspath(os.path.expanduser(str(settings["TRANSPLANT.DIR"]))), "TRANSPLANT.DIR")


def _as_text(path: str, setting: str) -> str:
    """HTCondor's bindings take nothing else, and a list of input files is cut at commas and line ends."""
    if any(end in path for end in ",\n\r"):
        raise SettingsError(
            f"the setting `{setting}` names {path!r}: HTCondor sends no file with a comma or the end of a line in its "
            "path"
        )
    try:
        path.encode()
    except UnicodeEncodeError:
        raise SettingsError(
            f"the setting `{setting}` names {path!r}, which is no text, and HTCondor sends no file of such a name: "
            "name another one"
        ) from None
    return path


def _existing(binary: str, directory: str) -> str:
    """What HTMap means by an existing archive: one of the packages that `pip freeze` lists now."""
    found = _of_this_python(binary, directory)
    if not found:
        raise SettingsError(
            f"the setting `TRANSPLANT.ASSUME_EXISTS` is on, and `{directory}` has no archive of this Python with the "
            "packages that it has now: htmap-exec transplant build, or name one by TRANSPLANT.ALTERNATE_INPUT_PATH"
        )
    return found[0]


def _of_this_python(binary: str, directory: str) -> List[str]:
    """Archives of this very version and these packages, the newest first."""
    if not sys.executable or not os.path.isdir(directory):
        return []
    binary = for_this_machine(binary)
    listed = _run([binary, "transplant", "list", "--dir", directory, "--json"])
    packages = _run([binary, "packages", "--python", sys.executable])
    if listed.returncode != 0 or packages.returncode != 0:
        return []
    found = []
    for each in json.loads(listed.stdout):
        manifest = each.get("manifest") or {}
        same_version = manifest.get("python_version") == platform.python_version()
        if same_version and manifest.get("packages") == packages.stdout.splitlines():
            found.append(each["path"])
    return sorted(found, key=os.path.getmtime, reverse=True)


def _truth(value: Any) -> bool:
    # HTMap's command line stores text.
    return value is True or str(value).lower() in ("true", "yes", "on", "1")
