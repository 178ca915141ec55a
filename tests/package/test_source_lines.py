"""Reports with the user's files, line numbers and source lines, on nodes that have no source."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import textwrap
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import htmap_exec
import pytest
from htmap_exec.source_lines import LARGEST, SourceLines, key_of
from support.environment import Python, binary, pythons

NAME = "_htmap_source.json"
VERSIONS = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14"]

SCRIPT = """\
import sys
import htmap_exec

class Job:
    def run(self, x):
        return self.step(
            x
        )

    @staticmethod
    def step(x):
        def inner(y):
            return 1 / y  # inmost

        return inner(x)

table = {"job": Job}
through = lambda x: table["job"]().run(x)

def f(x):
    try:
        {}["first"]
    except KeyError:
        return through(x)

if __name__ == "__main__":
    htmap_exec.write_map(sys.argv[1], f, [0, 2])
"""


def python(minor: str) -> Python:
    if minor not in pythons():
        pytest.skip(f"this machine has no Python {minor}")
    return pythons()[minor]


@pytest.fixture
def submit(tmp_path: Path) -> Callable[..., Path]:
    """Run a script that writes a map to its first argument, and take the script away."""

    def make(script: str, with_python: Path, *, path: Path | None = None) -> Path:
        home = tmp_path / "home"
        home.mkdir()
        (home / "script.py").write_text(script)
        places = [str(Path(htmap_exec.__file__).parents[1]), *([str(path)] if path else [])]
        environment = {**os.environ, "PYTHONPATH": ":".join(places)}
        command = [str(with_python), "-W", "error", str(home / "script.py"), str(tmp_path / "map")]
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        for file in home.glob("*.py"):
            file.unlink()
        return tmp_path / "map"

    return make


def run(made: Path, with_python: Path, component: int = 0) -> Any:
    """The error record of a component, run where the source is not."""
    command = [str(binary()), "local", "--python", str(with_python), str(made)]
    subprocess.run(command, capture_output=True, check=False)
    with pytest.raises(htmap_exec.ComponentFailed) as caught:
        htmap_exec.load_output(made, component)
    return caught.value.record


def frames(record: Any) -> list[tuple[str, int, str]]:
    return [(Path(frame.filename).name, frame.lineno, frame.line) for frame in record.stack_summary]


@pytest.mark.parametrize("names", ["hidden", "kept"])
@pytest.mark.parametrize("minor", VERSIONS)
def test_each_python_by_each_cloudpickle(submit: Callable[..., Path], minor: str, names: str, tmp_path: Path) -> None:
    path = None
    if names == "kept":
        path = tmp_path / "older"
        path.mkdir()
        (path / "cloudpickle").symlink_to(Path(cloudpickle.__file__).parent)
    made = submit(SCRIPT, python(minor).path, path=path)
    pickled = subprocess.check_output(["gzip", "-dc"], stdin=(made / "func").open("rb"))
    assert (b"<dynamic-code>" in pickled) == (names == "hidden"), "the cloudpickle that this test needs is not there"
    record = run(made, python(minor).path)
    assert frames(record) == [
        ("script.py", 24, "return through(x)"),
        ("script.py", 18, 'through = lambda x: table["job"]().run(x)'),
        ("script.py", 6, "return self.step("),
        ("script.py", 15, "return inner(x)"),
        ("script.py", 13, "return 1 / y  # inmost"),
    ]
    script = tmp_path / "home" / "script.py"
    assert f'    at "{script}", line 22, in f' in record.exception_msg
    for line in (
        f'  File "{script}", line 22, in f\n    {{}}["first"]\n',
        f'  File "{script}", line 13, in inner\n    return 1 / y  # inmost\n',
    ):
        assert line in record.traceback
        assert line in (made / "logs" / "0.stdout").read_text() + (made / "logs" / "0.stderr").read_text()
    assert "dynamic-code" not in record.traceback
    assert record.stack_summary[-1].locals["y"] == "0"
    assert htmap_exec.load_output(made, 1) == 0.5


CRASHES = """
import ctypes, sys
import htmap_exec

def f(x):
    return ctypes.string_at(x)  # here

htmap_exec.write_map(sys.argv[1], f, [0])
"""


@pytest.mark.parametrize("minor", VERSIONS)
def test_a_segmentation_fault(submit: Callable[..., Path], minor: str, tmp_path: Path) -> None:
    """faulthandler prints names and numbers, and knows no file."""
    record = run(submit(CRASHES, python(minor).path), python(minor).path)
    assert ("script.py", 6, "return ctypes.string_at(x)  # here") in frames(record)
    assert f'  File "{tmp_path}/home/script.py", line 6 in f' in record.traceback


def test_stock_htmap(enabled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTMap makes the whole map; only the scheduler is missing."""
    from htmap import mapping, maps

    submitted: list[Path] = []
    monkeypatch.setattr(maps.Map, "_submit", lambda self: submitted.append(self._map_dir))
    enabled.settings["DELIVERY_METHOD"] = "assume"
    enabled.settings["HTMAP_DIR"] = str(tmp_path / "htmap")
    for name in ("maps", "tags"):
        (tmp_path / "htmap" / name).mkdir(parents=True)

    class Argument:
        def fail(self) -> None:
            raise ValueError("from an argument's class")

    enabled.map(lambda argument: argument.fail(), [Argument(), Argument()], tag="lines")
    (made,) = submitted
    files = dict(mapping.htio.load_submit(made))["transfer_input_files"].split(",")
    assert files[:2] == [f"{made}/_htmap_cloudpickle.zip", f"{made}/{NAME}"]
    record = run(made, Path(sys.executable))
    assert [line for _, _, line in frames(record)] == [
        'enabled.map(lambda argument: argument.fail(), [Argument(), Argument()], tag="lines")',
        'raise ValueError("from an argument\'s class")',
    ]
    assert {name for name, _, _ in frames(record)} == {Path(__file__).name}


MODULES = """\
import os, sys, time
import cloudpickle
import htmap_exec

def write(name, text):
    with open(name, "w") as file:
        file.write(text)
    # As of somebody who has worked on it since.
    os.utime(name, (time.time() + 5, time.time() + 5))

write("kept.py", "def kept(x):\\n    return 1 / x  # as it was\\n")
write("edited.py", "def edited(x):\\n    import kept\\n    return kept.kept(x)  # as it was\\n")
import kept, edited
write("edited.py", "# a new first line\\n\\ndef edited(x):\\n    import kept\\n    return kept.kept(x)\\n")
for module in (kept, edited):
    cloudpickle.register_pickle_by_value(module)
helper = kept.kept
htmap_exec.write_map(sys.argv[1], {function}, [0])
"""


def test_lines_that_were_edited_since_are_not_shown(submit: Callable[..., Path]) -> None:
    script = MODULES.format(function="lambda x: edited.edited(x)")
    # The inner module is not imported on the node: its functions are not there either.
    record = run(submit(script, python("3.8").path), python("3.8").path)
    assert frames(record)[1] == ("edited.py", 2, "")
    assert "new first line" not in record.traceback


def test_a_younger_file_that_says_the_same_is_shown(submit: Callable[..., Path]) -> None:
    record = run(submit(MODULES.format(function="lambda x: helper(x)"), python("3.8").path), python("3.8").path)
    assert frames(record) == [
        ("script.py", 18, "htmap_exec.write_map(sys.argv[1], lambda x: helper(x), [0])"),
        ("kept.py", 2, "return 1 / x  # as it was"),
    ]


CELL = """\
import linecache, sys
import htmap_exec

cell = "def f(x):\\n    return 1 / x  # in a cell\\n"
linecache.cache["<ipython-input-3-abc>"] = (len(cell), None, cell.splitlines(True), "<ipython-input-3-abc>")
exec(compile(cell, "<ipython-input-3-abc>", "exec"))
exec("\\n\\ndef g(x):\\n    return f(x)")
htmap_exec.write_map(sys.argv[1], g, [0])
"""


@pytest.mark.parametrize("minor", ["3.8", "3.13"])
def test_a_notebooks_cell(submit: Callable[..., Path], minor: str) -> None:
    record = run(submit(CELL, python(minor).path), python(minor).path)
    assert frames(record) == [("<string>", 4, ""), ("<ipython-input-3-abc>", 2, "return 1 / x  # in a cell")]


def told(*values: Any) -> Any:
    """What a report is told of these."""
    sources = SourceLines()
    for value in values:
        sources.add(value)
    return json.loads(sources._document())


def lines(document: Any) -> list[str]:
    return [line for _, runs in document["files"] for _, texts in runs for line in texts]


def test_what_is_imported_by_name_is_not_told() -> None:
    assert told(json.dumps, textwrap.TextWrapper, len, [1, "two", {3: None}]) == {
        "version": 1,
        "files": [],
        "codes": {},
    }


def test_whatever_holds_functions() -> None:
    import functools

    class Meta(type):
        def of_meta(cls) -> None: ...

    class Mixin:
        def of_base(self) -> None: ...

    class Holder(Mixin, metaclass=Meta):
        @property
        def of_property(self) -> None: ...

        @classmethod
        def of_class(cls) -> None: ...

        def of_instance(self) -> None: ...

    def default(hidden: Any = lambda: "of a default") -> None: ...

    def wrapped() -> None: ...

    @functools.wraps(wrapped)
    def closure() -> Any:
        return holder

    holder = functools.partial(Holder().of_instance, {"key": [default]})
    found = "\n".join(lines(told(closure)))
    names = ["of_meta", "of_base", "of_property", "of_class", "of_instance", "default", "wrapped", "closure"]
    assert [name for name in names if f"def {name}(" not in found] == []
    assert "of a default" in found


class Hostile:
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError("no attributes here")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not to be compared")

    __hash__ = None  # type: ignore[assignment]


def test_what_fails_when_it_is_looked_at() -> None:
    def after() -> None: ...

    class Meta(type):
        def __getattribute__(cls, name: str) -> Any:
            raise RuntimeError("no attributes here")

    class Closed(metaclass=Meta):
        pass

    assert "    def after() -> None: ..." in lines(told([Hostile(), Closed, after]))


def test_it_ends_soon_and_stays_small(tmp_path: Path) -> None:
    space: dict[str, Any] = {}
    for number in range(20_000):
        exec(f"def f{number}():\n    return f{number + 1}()", space)
    argument = [space["f0"], list(range(1_000_000))]
    sources = SourceLines()
    start = time.monotonic()
    for _ in range(1000):
        sources.add(argument)
        sources.add(space)
    sources.write(tmp_path / NAME)
    # Far from what it would take to see all of it, also on a loaded machine.
    assert time.monotonic() - start < 5
    assert sources._left <= 0
    assert not (tmp_path / NAME).exists() or (tmp_path / NAME).stat().st_size <= LARGEST


def test_long_sources_are_cut(tmp_path: Path) -> None:
    script = tmp_path / "long.py"
    script.write_text("def f():\n" + "    x = '" + "ü" * 1900 + "'\n" * 1 + "    y = 'a'\n" * 60_000)
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(script.read_text(), str(script), "exec"), space)
    os.utime(script, (0, 0))
    sources = SourceLines(seconds=60)
    sources.add(space["f"])
    sources.write(tmp_path / NAME)
    assert 100_000 < (tmp_path / NAME).stat().st_size <= LARGEST
    assert lines(json.loads((tmp_path / NAME).read_text()))[0] == "def f():"


def test_a_place_that_cannot_be_written_costs_the_lines_only(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    sources = SourceLines()
    sources.add(told)
    sources.write(tmp_path / NAME)
    sources.write(tmp_path / "nowhere" / NAME)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_arguments_are_not_kept_and_pickles_stay_the_same(tmp_path: Path) -> None:
    import gzip

    seen: list[weakref.ref[Any]] = []

    def inputs() -> Iterator[Any]:
        for _ in range(3):
            made = Argument()
            seen.append(weakref.ref(made))
            yield made
            del made
            gc.collect()
            # The last one may still be in its loop's variable.
            assert [reference() for reference in seen[:-1]] == [None] * (len(seen) - 1)

    made = htmap_exec.write_map(tmp_path / "map", abs, inputs())
    assert gzip.decompress((made / "inputs" / "0.in").read_bytes()) == cloudpickle.dumps(((Argument(),), {}))
    assert (made / NAME).is_file()


class Argument:
    pass


def test_code_of_two_files_that_cannot_be_told_apart(tmp_path: Path) -> None:
    functions = []
    for name, text in (("a.py", "one"), ("b.py", "two"), ("c.py", "one")):
        (tmp_path / name).write_text(f"def f():\n    return {text!r}\n")
        os.utime(tmp_path / name, (0, 0))
        space: dict[str, Any] = {"__name__": "__main__"}
        exec(compile((tmp_path / name).read_text(), str(tmp_path / name), "exec"), space)
        functions.append(space["f"])
    key = key_of(functions[0].__code__)
    assert [key_of(each.__code__) for each in functions] == [key] * 3
    assert told(*functions)["codes"] == {}
    assert told(functions[0], functions[2])["codes"] == {key: 0}
