"""The file with source lines is missing, damaged, hostile or no file: the report is made without it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from support.cases import Case, Err
from support.scratch import Scratch

NAME = "_htmap_source.json"
SOURCE = "def g(x):\n    return 1 / x\ndef f():\n    return g(0)"


def case(name: str, prepare: Callable[[Scratch], object], source: str = SOURCE) -> Case:
    expect = Err("ZeroDivisionError: division by zero", "in g", "x = 0")
    return Case(f"source lines: {name}", source, expect, prepare=prepare, control=False, timeout=30)


def holding(content: str | bytes) -> Callable[[Scratch], object]:
    return lambda scratch: scratch.write(NAME, content)


def fifo(scratch: Scratch) -> None:
    os.mkfifo(scratch.dir / NAME)


def unreadable(scratch: Scratch) -> None:
    # Root may read it all the same, and finds nothing in it.
    scratch.write(NAME).chmod(0)


# A key that no code has, so that what is wrong is looked at.
CODES = '"codes": {"1:00000000:f": 0}'

CASES = [
    case("empty", holding("")),
    case("cut off", holding('{"version": 1, "files": [["a.py", [[1, ["def')),
    case("not JSON", holding(os.urandom(10_000))),
    case("a list", holding("[1, 2]")),
    case("nothing in it", holding("{}")),
    case("wrong types", holding('{"files": [[7, [["a", {"b": null}]]]], ' + CODES + "}")),
    case("no such file", holding('{"files": [], ' + CODES + "}")),
    case("lines that are no texts", holding('{"files": [["a.py", [[1, [null, [], {}]]]]], ' + CODES + "}")),
    case("a line number of a million digits", holding('{"files": [["a.py", [[' + "9" * 1_000_000 + ", []]]]], " + CODES + "}")),
    case("nested 200,000 deep", holding("[" * 200_000)),
    case("half a surrogate pair", holding('{"files": [["\\ud800", [[1, ["\\udc80"]]]]], ' + CODES + "}")),
    case("2 GB", lambda scratch: os.truncate(scratch.write(NAME), 2**31)),
    case("a million lines", holding(json.dumps({"files": [["a.py", [[1, [""] * 250_000]]]], "codes": {"1:00000000:f": 0}}))),
    case("a FIFO", fifo),
    case("a directory", lambda scratch: (scratch.dir / NAME).mkdir()),
    case("a device", lambda scratch: (scratch.dir / NAME).symlink_to("/dev/zero")),
    case("a link to itself", lambda scratch: (scratch.dir / NAME).symlink_to(NAME)),
    case("not to be read", unreadable),
    case("taken away by the function", holding("{}"), "import os\ndef g(x):\n    os.unlink('_htmap_source.json')\n    return 1 / x\ndef f():\n    return g(0)"),
    case("modules of the user's that have our names", lambda scratch: [
        scratch.write(f"{name}.py", "raise SystemExit(3)") for name in ("json", "binascii", "stat", "linecache", "traceback")
    ]),
]  # fmt: skip
