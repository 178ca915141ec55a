"""HTMap's delivery methods `assume` and `shared`, run by htmap-exec.

HTMap adds each map's own files to the very list that a delivery method gave it. So descriptors are made anew for every
map: a list that outlives its map would send that map's `func` along with the next one.
"""

import os
import pathlib
import shutil
import sys
import sysconfig
from typing import Any, Dict, Iterator, List, Optional, Tuple, Union

from . import names
from .errors import BinaryNotFound, HtmapExecError
from .shipping import ship_cloudpickle, submit_python

_Path = Union[str, "os.PathLike[str]"]

BINARY = "htmap-exec"
BINARY_VARIABLE = "HTMAP_EXEC_BIN"


def enable(binary: Optional[_Path] = None) -> None:
    """Let HTMap's delivery methods `assume` and `shared` run components by htmap-exec.

    `assume` sends the binary with every component and finds a Python on the node; `shared` expects this Python and the
    binary at the same paths on the node. Nodes need no HTMap and no cloudpickle, but a Python of this minor version.

    The binary is the one given, else what the environment variable HTMAP_EXEC_BIN names, else the one installed beside
    this Python, else the first on PATH. Raises BinaryNotFound if there is none.
    """
    path = find_binary(binary)

    import htmap

    def assume(tag: str, map_dir: pathlib.Path) -> Dict[str, Any]:
        return _descriptors(map_dir, path, "True", ["run", "--submit-python", submit_python()])

    def shared(tag: str, map_dir: pathlib.Path) -> Dict[str, Any]:
        if not sys.executable:
            raise HtmapExecError("this Python does not know its own path, which delivery by `shared` needs")
        # Not resolved: a virtual environment's Python is a link, and the environment is where the link is.
        python = os.path.abspath(sys.executable)
        return _descriptors(map_dir, path, "False", ["run", "--submit-python", submit_python(), "--python", python])

    htmap.register_delivery_method("assume", assume, _set_up)
    htmap.register_delivery_method("shared", shared, _set_up)


def find_binary(binary: Optional[_Path] = None) -> str:
    """The absolute path of the htmap-exec binary, as `enable` looks for it."""
    if binary is not None:
        return _usable(os.fspath(binary), "given to htmap_exec.enable()")
    named = os.environ.get(BINARY_VARIABLE)
    if named:
        return _usable(named, f"named by {BINARY_VARIABLE}")
    for path in _beside_python():
        if os.path.exists(path):
            return _usable(path, "installed beside this Python")
    on_path = shutil.which(BINARY)
    if on_path is not None:
        return os.path.abspath(on_path)
    raise BinaryNotFound(
        f"no `{BINARY}` beside `{sys.executable}` nor on PATH: "
        f"name one by htmap_exec.enable(binary=...) or {BINARY_VARIABLE}"
    )


def _beside_python() -> Iterator[str]:
    if sys.executable:
        yield os.path.join(os.path.dirname(os.path.abspath(sys.executable)), BINARY)
    yield os.path.join(sysconfig.get_path("scripts"), BINARY)


def _usable(path: str, origin: str) -> str:
    path = os.path.abspath(path)
    if not os.path.isfile(path):
        why = "is no file" if os.path.exists(path) else "does not exist"
        raise BinaryNotFound(f"`{path}`, {origin}, {why}: it has to be the `{BINARY}` binary")
    if not os.access(path, os.X_OK):
        raise BinaryNotFound(f"`{path}`, {origin}, is not executable: chmod +x it")
    return path


def _set_up(tag: str, map_dir: pathlib.Path) -> None:
    """What a map directory needs before HTMap submits it."""
    (map_dir / names.RECORDS).mkdir(exist_ok=True)
    for name in names.OUTPUT_DIRECTORIES:
        (map_dir / names.SCRATCH / name).mkdir(parents=True, exist_ok=True)
    ship_cloudpickle(map_dir / names.CLOUDPICKLE)


def _descriptors(map_dir: pathlib.Path, binary: str, transfer: str, arguments: List[str]) -> Dict[str, Any]:
    map_dir = pathlib.Path(os.path.abspath(map_dir))
    component = "$(component)"
    return {
        "universe": "vanilla",
        "executable": _literal(binary),
        "transfer_executable": transfer,
        "arguments": _arguments([_literal(argument) for argument in arguments] + [component]),
        # Empty directories, too: HTCondor holds a job that is evicted while one of its outputs is missing, and can
        # evict it before the binary's first instruction.
        "transfer_input_files": [
            (map_dir / names.CLOUDPICKLE).as_posix(),
            *((map_dir / names.SCRATCH / name).as_posix() for name in names.OUTPUT_DIRECTORIES),
        ],
        "transfer_output_files": " , ".join(f"{name}/" for name in names.OUTPUT_DIRECTORIES),
        # This takes the place of HTMap's own text, and has to end as that does: HTMap opens the closing quote again to
        # append a map's `output_remaps`.
        "transfer_output_remaps": _remaps(
            [
                (f"{component}.out", map_dir / names.OUTPUTS / f"{component}.out"),
                (f"{component}.json", map_dir / names.RECORDS / f"{component}.json"),
            ]
        ),
    }


def _remaps(pairs: List[Tuple[str, pathlib.Path]]) -> str:
    return '" {} "'.format(" ; ".join(f"{name}={path.as_posix()}" for name, path in pairs))


def _arguments(words: List[str]) -> str:
    """In HTCondor's newer syntax, the one that knows quotes."""
    return '"{}"'.format(" ".join(_quoted(word) for word in words))


def _quoted(word: str) -> str:
    word = word.replace('"', '""')
    if not word or any(character.isspace() or character == "'" for character in word):
        return "'{}'".format(word.replace("'", "''"))
    return word


def _literal(text: str) -> str:
    """Without a meaning for HTCondor's macros."""
    return text.replace("$", "$(DOLLAR)")
