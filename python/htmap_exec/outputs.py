"""Outputs of components: a status, then a result or an error record.

Loading an output runs whatever code its pickles name, so read only maps that ran where you trust the machines.
"""

import contextlib
import gzip
import os
import pathlib
import pickle
import zlib
from typing import Any, BinaryIO, Iterator, Union, cast

from . import layout
from .error_report import error_report
from .failures import ComponentFailed, MapDirectoryError, OutputDamaged, OutputMissing

_Path = Union[str, "os.PathLike[str]"]


def load_output(directory: _Path, component: int) -> Any:
    """The result of a component of the map in `directory`.

    Raises ComponentFailed if it failed, OutputMissing if it has not run, OutputDamaged if its file is cut off. The
    output is a pickle: loading it can run any code.
    """
    with _opened(directory, component) as file:
        status = _status(file)
        value = pickle.load(file)
        # Only at its end does a gzip file show that it is whole.
        while file.read(1 << 16):
            pass
    if status == "ERR":
        raise ComponentFailed(error_report(component, value), value)
    return value


def report(directory: _Path, component: int) -> str:
    """What went wrong in a component, for people; a line if nothing did.

    The output is a pickle: loading it can run any code.
    """
    with _opened(directory, component) as file:
        if _status(file) == "OK":
            return f"component {component} has a result: there is nothing to report"
        return error_report(component, pickle.load(file))


def _status(file: BinaryIO) -> str:
    status = pickle.load(file)
    if status not in ("OK", "ERR"):
        raise pickle.UnpicklingError(f"its status is {status!r}, neither 'OK' nor 'ERR'")
    return cast(str, status)


@contextlib.contextmanager
def _opened(directory: _Path, component: int) -> Iterator[BinaryIO]:
    path = _output_path(directory, component)
    try:
        with gzip.open(path, "rb") as file:
            yield cast(BinaryIO, file)
    except FileNotFoundError as error:
        if error.filename != os.fspath(path):
            raise
        raise OutputMissing(f"component {component} has no output: `{path}` does not exist") from None
    except (EOFError, zlib.error, gzip.BadGzipFile, pickle.UnpicklingError) as error:
        # HTCondor creates the file before it has anything to put there.
        if path.stat().st_size == 0:
            raise OutputMissing(f"component {component} has no output yet: `{path}` is empty") from None
        raise OutputDamaged(f"the output of component {component} in `{path}` is damaged: {error}") from error


def _output_path(directory: _Path, component: int) -> pathlib.Path:
    directory = pathlib.Path(directory)
    try:
        components = int((directory / layout.NUM_COMPONENTS).read_text())
    except FileNotFoundError:
        raise MapDirectoryError(f"`{directory}` is no map directory: it has no `{layout.NUM_COMPONENTS}`") from None
    except ValueError as error:
        raise MapDirectoryError(f"`{directory / layout.NUM_COMPONENTS}` holds no number") from error
    if not 0 <= component < components:
        raise MapDirectoryError(f"there is no component {component} in `{directory}`, which has {components}")
    return directory / layout.OUTPUTS / f"{component}.out"
