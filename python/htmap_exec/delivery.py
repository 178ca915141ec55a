"""HTMap's delivery methods, run by htmap-exec.

HTMap adds each map's own files to the very list that a delivery method gave it. So descriptors are made anew for every
map: a list that outlives its map would send that map's `func` along with the next one.
"""

import os
import pathlib
import sys
from typing import Any, Dict, List, Tuple

from . import names
from .errors import HtmapExecError
from .shipping import ship_cloudpickle, submit_python


def register(htmap: Any, binary: str) -> None:
    """Register the delivery methods with HTMap, in place of its own ones of the same names."""

    def assume(tag: str, map_dir: pathlib.Path) -> Dict[str, Any]:
        return _descriptors(map_dir, binary, "True", ["run", "--submit-python", submit_python()])

    def shared(tag: str, map_dir: pathlib.Path) -> Dict[str, Any]:
        if not sys.executable:
            raise HtmapExecError("this Python does not know its own path, which delivery by `shared` needs")
        # Not resolved: a virtual environment's Python is a link, and the environment is where the link is.
        python = os.path.abspath(sys.executable)
        return _descriptors(map_dir, binary, "False", ["run", "--submit-python", submit_python(), "--python", python])

    htmap.register_delivery_method("assume", assume, _set_up)
    htmap.register_delivery_method("shared", shared, _set_up)


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
