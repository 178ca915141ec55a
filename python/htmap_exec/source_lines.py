"""What reports need to show source lines: the text of the functions and classes that are pickled by value.

cloudpickle 3.1.3 takes the names of files out of the code that it pickles, and nodes have no source in any case. So
where each code object comes from is written to a small file of its own that goes to the node as well; the pickle stays
as it is. The runner looks at the file when a component has failed, and not before.

All of it is for reports only. Whatever goes wrong here costs a report its source lines, and never a map: exceptions end
here, and looking ends after a twentieth of a second.
"""

import binascii
import collections
import contextlib
import contextvars
import functools
import json
import linecache
import os
import sys
import time
import types
import warnings
from typing import Any, Dict, Iterable, Iterator, List, Optional, Set, Tuple, Union

# The runner reads no more, and believes nothing of a larger file.
LARGEST = 2**20
SECONDS = 0.05

# What the code objects themselves take.
_LARGEST_TEXT = LARGEST // 2
_LONGEST_LINE = 2000
_MOST_ITEMS = 100
_LARGEST_COMPILED = 100_000

# A file that is younger may not be what was imported.
_LOADED = time.time()

_ATOMS = frozenset((int, float, complex, bool, str, bytes, bytearray, type(None), type(...)))


class SourceLines:
    """Where the code of all that is added to it comes from."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self._left = seconds
        self._until = 0.0
        # Functions and classes, which stay alive and so keep their ids to themselves.
        self._known: Dict[int, Any] = {}
        self._files: Dict[str, _File] = {}
        self._codes: Dict[str, str] = {}
        self._ambiguous: Set[str] = set()
        self._registered: Optional[Set[str]] = None

    def add(self, value: Any) -> None:
        """Look into a function, or an argument of one."""
        if self._left <= 0 or type(value) in _ATOMS:
            return
        start = time.monotonic()
        self._until = start + self._left
        try:
            self._walk(value)
        except Exception:
            pass
        self._left -= time.monotonic() - start

    def watch(self, calls: Iterable[Any]) -> Iterator[Any]:
        """The same calls, looked into as they pass."""
        for call in calls:
            self.add(call)
            yield call

    def write(self, path: Union[str, "os.PathLike[str]"]) -> None:
        """The file for the runner, whole or not at all."""
        making = f"{os.fspath(path)}.part"
        try:
            text = self._document()
            if len(text) > LARGEST:
                return
            with open(making, "w", encoding="ascii") as file:
                file.write(text)
            os.chmod(making, 0o644)
            os.replace(making, path)
        except Exception:
            try:
                os.unlink(making)
            except OSError:
                pass

    def _document(self) -> str:
        numbers = {name: index for index, name in enumerate(self._files)}
        files = []
        room = _LARGEST_TEXT
        for name, file in self._files.items():
            runs: List[Tuple[int, List[str]]] = []
            for number in sorted(file.wanted):
                line = file.lines[number - 1].rstrip()[:_LONGEST_LINE]
                # As JSON writes it: what is not ASCII takes up to twelve bytes.
                room -= 4 + (len(line) if line.isascii() else len(json.dumps(line)))
                if room < 0:
                    break
                if runs and runs[-1][0] + len(runs[-1][1]) == number:
                    runs[-1][1].append(line)
                else:
                    runs.append((number, [line]))
            files.append([name, runs])
        codes = {key: numbers[name] for key, name in self._codes.items() if key not in self._ambiguous}
        return json.dumps({"version": 1, "files": files, "codes": codes})

    def _walk(self, first: Any) -> None:
        # Arguments may be large: they are not kept for longer than this.
        seen: Dict[int, Any] = {}
        # The nearest first: time may run out.
        waiting = collections.deque([first])
        while waiting and time.monotonic() < self._until:
            value = waiting.popleft()
            kind = type(value)
            if kind in _ATOMS or id(value) in seen or id(value) in self._known:
                continue
            (self._known if kind is types.FunctionType or issubclass(kind, type) else seen)[id(value)] = value
            try:
                waiting.extend(self._inside(value))
            except Exception:
                # It may be anything, and do anything when it is looked at.
                continue

    def _inside(self, value: Any) -> List[Any]:
        """What is pickled with it."""
        if type(value) is types.FunctionType:
            return self._of_function(value)
        # Not `isinstance`, which asks the value itself.
        if issubclass(type(value), type):
            return self._of_class(value)
        if type(value) is types.MethodType:
            return [value.__func__, value.__self__]
        if type(value) is types.ModuleType:
            return list(vars(value).values()) if self._is_registered(value.__name__) else []
        if type(value) in (list, tuple, set, frozenset):
            return [item for item, _ in zip(value, range(_MOST_ITEMS))]
        if type(value) is dict:
            return [part for item, _ in zip(value.items(), range(_MOST_ITEMS)) for part in item]
        if type(value) is functools.partial:
            return [value.func, value.args, value.keywords]
        if type(value) in (staticmethod, classmethod):
            return [value.__func__]
        if type(value) is property:
            return [value.fget, value.fset, value.fdel]
        try:
            attributes = object.__getattribute__(value, "__dict__")
        except AttributeError:
            attributes = None
        inside = [type(value)]
        if type(attributes) is dict:
            inside += [item for item, _ in zip(attributes.values(), range(_MOST_ITEMS))]
        return inside

    def _of_function(self, function: types.FunctionType) -> List[Any]:
        if not self._by_value(function):
            return []
        self._take(function.__code__, function.__globals__)
        names = {name for code in _nested(function.__code__) for name in code.co_names}
        inside = [function.__globals__[name] for name in sorted(names) if name in function.__globals__]
        for cell in function.__closure__ or ():
            try:
                inside.append(cell.cell_contents)
            except ValueError:
                # It has no content yet.
                pass
        return [*inside, function.__defaults__, function.__kwdefaults__, function.__dict__]

    def _of_class(self, kind: type) -> List[Any]:
        if not self._by_value(kind):
            return []
        return [*vars(kind).values(), *kind.__bases__, type(kind)]

    def _by_value(self, value: Any) -> bool:
        """Whether cloudpickle sends the thing itself, and not only its name."""
        module_name = value.__module__
        if type(module_name) is not str or module_name == "__main__" or self._is_registered(module_name):
            return True
        if module_name == "builtins":
            return False
        found: Any = sys.modules.get(module_name)
        for name in value.__qualname__.split("."):
            found = getattr(found, "__dict__", {}).get(name)
        # Where the name is not the thing's own, a class's method for one.
        if isinstance(found, (staticmethod, classmethod)):
            found = found.__func__
        return found is not value

    def _is_registered(self, module: str) -> bool:
        """By `cloudpickle.register_pickle_by_value`."""
        if self._registered is None:
            registry = getattr(sys.modules.get("cloudpickle"), "list_registry_pickle_by_value", set)
            self._registered = set(registry())
        parts = module.split(".")
        return any(".".join(parts[:length]) in self._registered for length in range(1, len(parts) + 1))

    def _take(self, code: types.CodeType, space: Dict[str, Any]) -> None:
        name = code.co_filename
        file = self._files.get(name)
        if file is None:
            file = self._files[name] = _File(name, code, space)
        for each in _nested(code):
            if each.co_filename != name:
                continue
            key = key_of(each)
            lines = file.lines_of(each)
            other = self._codes.setdefault(key, name)
            if other != name and file.text(lines) != self._files[other].text(lines):
                # Nobody could tell which of the two it is.
                self._ambiguous.add(key)
            file.wanted.update(lines)


# HTMap asks its delivery method for a map's files before it has saved the function, and does not name it.
_of_map: "contextvars.ContextVar[Optional[SourceLines]]" = contextvars.ContextVar("_of_map", default=None)


@contextlib.contextmanager
def of_map(func: Any) -> Iterator[SourceLines]:
    """While HTMap makes a map of this function, `ship` knows of it."""
    sources = SourceLines()
    sources.add(func)
    token = _of_map.set(sources)
    try:
        yield sources
    finally:
        _of_map.reset(token)


def ship(path: Union[str, "os.PathLike[str]"]) -> None:
    """Write the file of the map that is being made, if there is one."""
    sources = _of_map.get()
    if sources is not None:
        sources.write(path)


class _File:
    """A source file as it was imported, as far as anybody knows."""

    def __init__(self, name: str, code: types.CodeType, space: Dict[str, Any]) -> None:
        self.wanted: Set[int] = set()
        self.lines: List[str] = []
        # Only what is in here is what the lines say; None where there is no doubt about them.
        self._compiled: Optional[Set[str]] = None
        linecache.checkcache(name)
        self.lines = linecache.getlines(name, space)
        by_code = getattr(linecache, "_getlines_from_code", None)
        if not self.lines and by_code is not None:
            # Typed in, in Python 3.14.
            self.lines = by_code(code)
        # Many sources share the first two names.
        if name in ("<string>", "<stdin>") or _is_younger(name):
            self._compiled = _compiled("".join(self.lines), name)

    def lines_of(self, code: types.CodeType) -> range:
        """The lines of a code object that are known."""
        if self._compiled is not None and key_of(code) not in self._compiled:
            return range(0)
        return range(max(code.co_firstlineno, 1), min(_last_line(code), len(self.lines)) + 1)

    def text(self, lines: range) -> List[str]:
        return self.lines[lines.start - 1 : lines.stop - 1] if lines else []


def key_of(code: types.CodeType) -> str:
    """What a code object keeps whatever it is pickled by. The runner's `failure.py` has the same."""
    table = code.co_linetable if hasattr(code, "co_linetable") else code.co_lnotab
    told = repr((code.co_code, code.co_names, code.co_varnames, table)).encode("utf-8", "backslashreplace")
    return f"{code.co_firstlineno}:{binascii.crc32(told):08x}:{code.co_name}"


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    waiting = [code]
    while waiting:
        each = waiting.pop()
        yield each
        waiting += [constant for constant in each.co_consts if isinstance(constant, types.CodeType)]


def _last_line(code: types.CodeType) -> int:
    if sys.version_info >= (3, 11):
        # To the end of its last statement.
        return max((end or 0 for _, end, _, _ in code.co_positions()), default=0)
    line = last = code.co_firstlineno
    if sys.version_info >= (3, 10):
        return max((number or 0 for _, _, number in code.co_lines()), default=0)
    for step in code.co_lnotab[1::2]:
        line += step - 256 if step >= 128 else step
        last = max(last, line)
    return last


def _is_younger(name: str) -> bool:
    try:
        return os.stat(name).st_mtime > _LOADED
    except (OSError, ValueError):
        return False


def _compiled(text: str, name: str) -> Set[str]:
    """The code objects of a source, to tell whether it was edited since."""
    if len(text) > _LARGEST_COMPILED:
        return set()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {key_of(code) for code in _nested(compile(text, name, "exec", dont_inherit=True))}
    except (SyntaxError, ValueError, RecursionError):
        return set()
