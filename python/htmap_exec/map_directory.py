"""Map directories with HTMap's layout, written without HTMap or HTCondor.

A map directory appears as a whole: it is written beside its place and renamed.
"""

import gzip
import os
import pathlib
import shutil
import tempfile
from typing import Any, Callable, Dict, Iterable, Mapping, Optional, Tuple, Union

from . import layout
from .failures import MapDirectoryError
from .shipping import ship_cloudpickle, submit_python
from .source_lines import SourceLines

Call = Tuple[Iterable[Any], Mapping[str, Any]]

# Half the time of the default, for a few percent more bytes.
_COMPRESSION = 6


def write_map(
    directory: Union[str, "os.PathLike[str]"],
    func: Callable[..., Any],
    inputs: Optional[Iterable[Any]] = None,
    *,
    args_and_kwargs: Optional[Iterable[Call]] = None,
) -> pathlib.Path:
    """Write a map of `func` to `directory`, for `htmap-exec local` to run, and return its real path.

    Each of `inputs` is the one positional argument of a component, as in `htmap.map`. Instead of them
    `args_and_kwargs` gives whole calls: pairs of a tuple of positional and a dict of keyword arguments.

    The directory must not exist, or be empty.
    """
    calls: Iterable[Call]
    if inputs is not None and args_and_kwargs is None:
        calls = (((each,), {}) for each in inputs)
    elif args_and_kwargs is not None and inputs is None:
        calls = args_and_kwargs
    else:
        raise TypeError("write_map takes either `inputs` or `args_and_kwargs`")
    if not callable(func):
        raise TypeError(f"{func!r} is not callable, and so no function to map")
    # Resolved: a directory cannot be renamed onto a link to one.
    target = pathlib.Path(os.path.realpath(directory))
    _refuse(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    making = pathlib.Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        making.chmod(0o755)
        _write(making, func, calls)
        try:
            os.rename(making, target)
        except OSError:
            # Somebody else may have filled it meanwhile.
            _refuse(target)
            raise
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return target


def _refuse(target: pathlib.Path) -> None:
    if target.is_dir():
        if any(target.iterdir()):
            raise MapDirectoryError(f"`{target}` is not empty: name a new directory for the map, or remove this one")
    elif os.path.lexists(target):
        raise MapDirectoryError(f"`{target}` exists and is no directory")


def _write(directory: pathlib.Path, func: Callable[..., Any], calls: Iterable[Any]) -> None:
    for name in (layout.INPUTS, layout.OUTPUTS, layout.LOGS, layout.OUTPUT_FILES, layout.RECORDS):
        (directory / name).mkdir()
    ship_cloudpickle(directory / layout.CLOUDPICKLE)
    _dump(func, directory / layout.FUNC, "the function")
    sources = SourceLines()
    sources.add(func)
    components = 0
    for call in calls:
        args, kwargs = _checked(call, components)
        sources.add((args, kwargs))
        _dump(
            (args, kwargs), directory / layout.INPUTS / f"{components}.in", f"the arguments of component {components}"
        )
        components += 1
    if components == 0:
        raise MapDirectoryError("a map needs at least one component, and there are no inputs")
    sources.write(directory / layout.SOURCE_LINES)
    (directory / layout.SUBMIT_PYTHON).write_text(submit_python() + "\n")
    (directory / layout.NUM_COMPONENTS).write_text(str(components))


def _checked(call: Any, component: int) -> Tuple[Tuple[Any, ...], Dict[str, Any]]:
    try:
        args, kwargs = call
        return tuple(args), dict(kwargs)
    except (TypeError, ValueError) as error:
        raise MapDirectoryError(
            f"component {component}: `args_and_kwargs` takes pairs of a tuple and a dict, not {type(call).__name__}"
        ) from error


def _dump(value: Any, path: pathlib.Path, what: str) -> None:
    import cloudpickle

    with gzip.open(path, "wb", _COMPRESSION) as file:
        try:
            cloudpickle.dump(value, file)
        except OSError:
            raise
        except Exception as error:
            raise MapDirectoryError(f"cannot pickle {what}: {type(error).__name__}: {error}") from error
