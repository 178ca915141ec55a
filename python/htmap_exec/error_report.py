"""An error record as text for people: where and what first, the exception last, where terminals stop scrolling.

The record is read attribute by attribute, and none of them has to be there: HTMap's own script leaves fewer than
htmap-exec does.
"""

import pathlib
import textwrap
from typing import Any, Iterator, List

WIDTH = 100
# One local variable, on one line.
_VALUE = 200
# Of one frame that repeats itself, as in runaway recursion.
_REPEATS = 3
_STDERR_LINES = 20


def error_report(component: int, record: Any) -> str:
    """The report of a component that failed."""
    sections = [_head(component, record), _python(record), _scratch(record)]
    if getattr(record, "exit_status", None):
        sections.append(_stderr(record))
    sections += [_stack(record), _exception(record)]
    return "\n\n".join("\n".join(lines) for lines in map(list, sections) if lines) + "\n"


def _head(component: int, record: Any) -> Iterator[str]:
    title = f"Component {component} failed"
    stage = getattr(record, "stage", "")
    yield f"{title} while {stage}" if stage else title
    yield "=" * WIDTH
    node = getattr(record, "node_info", None)
    if node:
        host, address, landed, user = node
        yield f"Node      {host} ({address}), as {user}"
        yield f"Landed    {landed:%Y-%m-%d %H:%M:%S} UTC"
    ended = getattr(record, "exit_status", None)
    if ended:
        yield f"Ended by  {ended}"
    memory = getattr(record, "peak_memory", None)
    if memory:
        yield f"Memory    {memory / 2**20:.0f} MiB at its peak"


def _python(record: Any) -> Iterator[str]:
    python = getattr(record, "python_info", None)
    if not python:
        yield "Python    none ran"
        return
    executable, version, packages = python
    yield f"Python    {str(version).split()[0]}, {executable}"
    names = str(packages).split("\n") if packages else []
    if names:
        yield from _filled(", ".join(names), 10)


def _scratch(record: Any) -> Iterator[str]:
    paths = [pathlib.PurePosixPath(str(path)) for path in getattr(record, "scratch_dir_contents", None) or ()]
    if paths:
        # They lie side by side; a directory that tells otherwise is named with them.
        where = paths[0].parent
        yield f"Scratch directory {where}"
        names = ", ".join(path.name if path.parent == where else str(path) for path in paths)
        yield from _filled(names, 4)


def _stderr(record: Any) -> Iterator[str]:
    lines = str(getattr(record, "stderr_tail", "")).splitlines()
    if lines:
        yield "End of stderr"
        if len(lines) > _STDERR_LINES:
            yield f"    ({len(lines) - _STDERR_LINES} lines before)"
        yield from (f"    {line}" for line in lines[-_STDERR_LINES:])


def _stack(record: Any) -> Iterator[str]:
    frames = list(getattr(record, "stack_summary", None) or ())
    if frames:
        yield "Stack, innermost last"
    previous = None
    repeated = 0
    for frame in frames:
        place = (frame.filename, frame.lineno, frame.name)
        repeated = repeated + 1 if place == previous else 0
        previous = place
        if repeated < _REPEATS:
            yield from _frame(frame)
        elif repeated == _REPEATS:
            yield "    ... and again"


def _frame(frame: Any) -> Iterator[str]:
    yield f'    File "{frame.filename}", line {frame.lineno}, in {frame.name}'
    if frame.line:
        yield f"        {frame.line.strip()}"
    for name, value in sorted((frame.locals or {}).items()):
        text = " ".join(str(value).split("\n"))
        if len(text) > _VALUE:
            text = f"{text[:_VALUE]} ... ({len(text)} characters)"
        yield f"            {name} = {text}"


def _exception(record: Any) -> Iterator[str]:
    yield from (str(getattr(record, "exception_msg", "")) or "(no message)").splitlines()


def _filled(text: str, indent: int) -> List[str]:
    margin = " " * indent
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=margin,
        subsequent_indent=margin,
        break_long_words=False,
        break_on_hyphens=False,
    )
