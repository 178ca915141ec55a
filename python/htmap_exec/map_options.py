"""What HTMap 0.6.1 does wrong with a MapOptions, put right from outside.

- One that is used twice: HTMap adds the first map's input files to it, and the second map sends them as well.
- `input_files=["a", "b"]`, one file for each component, fails.
- `MapOptions.merge`, and so every mapped function, loses `output_remaps` and mostly `input_files`, too.
- Values that are no text (`request_cpus=4`) fail; `output_remaps` for too few components leave the others without.
- `requirements` take the place of the delivery method's, where HTMap promises that all have to be met.
- Its default of `request_disk` goes before what a delivery method knows a job to need.
- Reserved names with capital letters are let through, and `custom_options` loses `my.` in the middle of a name.

HTMap calls the functions that are replaced here through their modules, so its own callers get these.
"""

import copy
import difflib
import functools
import numbers
import os
from typing import Any, Callable, Dict, List, Optional, Tuple

from . import delivery, source_lines
from .failures import OptionsError

_MARK = "_htmap_exec_corrected"


def correct(htmap: Any) -> None:
    """Put an imported HTMap right. A second call does nothing."""
    from htmap import mapping, options

    _correct_class(options.MapOptions)
    options.get_base_descriptors = _once(options.get_base_descriptors, functools.partial(_with_what_is_needed, htmap))
    mapping.create_map = _once(mapping.create_map, _with_own_options)
    options.create_submit_object_and_itemdata = _once(
        options.create_submit_object_and_itemdata, functools.partial(_with_complete_options, htmap)
    )


def _once(function: Callable[..., Any], wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Any:
    if getattr(function, _MARK, False):
        return function
    wrapped = functools.wraps(function)(wrap(function))
    setattr(wrapped, _MARK, True)
    return wrapped


def _with_own_options(create_map: Callable[..., Any]) -> Callable[..., Any]:
    def create(tag: Any, func: Any, args_and_kwargs: Any, map_options: Any = None) -> Any:
        if not callable(func):
            raise TypeError(f"{func!r} is not callable, and so no function to map")
        with source_lines.of_map(func) as sources:
            return create_map(
                tag, func, sources.watch(args_and_kwargs), None if map_options is None else _own(map_options)
            )

    return create


def _own(map_options: Any) -> Any:
    """A copy for one map, in the one form that HTMap's code handles."""
    own = copy.copy(map_options)
    own.data = dict(map_options.data)
    own.fixed_input_files = _files("`fixed_input_files`", map_options.fixed_input_files)
    own.input_files = _input_files(map_options.input_files)
    own.output_remaps = _output_remaps(map_options.output_remaps)
    return own


def _with_complete_options(htmap: Any, create: Callable[..., Any]) -> Callable[..., Any]:
    from htmap import exceptions, options

    def create_submit(tag: str, map_dir: Any, num_components: int, map_options: Any) -> Any:
        known = options.BASE_OPTIONS_FUNCTION_BY_DELIVERY
        method = htmap.settings["DELIVERY_METHOD"]
        if method not in known:
            close = difflib.get_close_matches(str(method), known, n=1)
            meant = f"did you mean `{close[0]}`? Set" if close else "set"
            raise exceptions.UnknownPythonDeliveryMethod(
                f"there is no delivery method {method!r}: {meant} DELIVERY_METHOD to one of {', '.join(sorted(known))}"
            )
        for name in ("input_files", "output_remaps"):
            given = getattr(map_options, name)
            if isinstance(given, list):
                _check_length(name, given, num_components)
        own = _own(map_options)
        own.data = {}
        for name, value in map_options.data.items():
            # HTCondor does not mind the case, HTMap does.
            name = "requirements" if name.lower() == "requirements" else name
            own.data[name] = _value(name, value, num_components)
        if "requirements" in own.data:
            base = options.get_base_descriptors(tag, map_dir, method).get("requirements")
            own.data["requirements"] = _joined(base, own.data["requirements"])
        return create(tag, map_dir, num_components, own)

    return create_submit


def _with_what_is_needed(htmap: Any, get: Callable[..., Any]) -> Callable[..., Any]:
    def get_base_descriptors(tag: str, map_dir: Any, name: str) -> Any:
        found = get(tag, map_dir, name)
        needed = delivery.overriding(htmap, name, map_dir)
        return {**{each: value for each, value in found.items() if each.lower() not in needed}, **needed}

    return get_base_descriptors


def _joined(base: Optional[str], own: Any) -> Any:
    if base is None:
        return own
    if isinstance(own, str):
        return f"({base}) && ({own})"
    return [f"({base}) && ({each})" for each in own]


def _value(name: str, value: Any, num_components: int) -> Any:
    """Text for all components, or a list of texts, one for each."""
    text = _text(value)
    if text is not None:
        return text
    try:
        each = list(value)
    except TypeError:
        each = []
    if not each or isinstance(value, (dict, set, bytes)):
        raise OptionsError(
            f"the map option `{name}` is {value!r}: give what would stand in a submit file after `{name} =`, as text "
            "or a number, or a list of such values, one for each component"
        )
    _check_length(name, each, num_components)
    texts = [_text(one) for one in each]
    for component, one in enumerate(texts):
        if one is None:
            raise OptionsError(
                f"the map option `{name}` is {each[component]!r} for component {component}: give text or a number"
            )
    return texts


def _text(value: Any) -> Optional[str]:
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, numbers.Number)):
        return str(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value) if isinstance(os.fspath(value), str) else None
    return None


def _check_length(name: str, given: List[Any], num_components: int) -> None:
    from htmap import exceptions

    if len(given) != num_components:
        raise exceptions.MisalignedInputData(
            f"the map option `{name}` has {len(given)} values, and the map has {num_components} components"
        )


def _is_file(value: Any) -> bool:
    from htmap import transfer

    return isinstance(value, (str, os.PathLike, transfer.TransferPath))


def _files(where: str, given: Any) -> List[Any]:
    files: List[Any] = [given] if _is_file(given) else list(given or [])
    for file in files:
        if not _is_file(file):
            raise OptionsError(f"{where} holds {file!r}, which is no path")
    return files


def _input_files(given: Any) -> Optional[List[List[Any]]]:
    """A list of files for each component, or None."""
    if given is None:
        return None
    if _is_file(given):
        raise OptionsError(
            f"`input_files` is the one file {str(given)!r}, where it takes files for each component: "
            "a file for all of them is given by `fixed_input_files`"
        )
    return [_files(f"`input_files` of component {component}", files) for component, files in enumerate(given)]


def _output_remaps(given: Any) -> Any:
    """A dict for all components, a list of dicts, or None."""
    if given is None or isinstance(given, dict):
        return given
    found = [{} if remaps is None else remaps for remaps in given]
    for component, remaps in enumerate(found):
        if not isinstance(remaps, dict):
            raise OptionsError(f"`output_remaps` is {remaps!r} for component {component}, and no dict")
    return found


def _correct_class(cls: Any) -> None:
    if getattr(cls, _MARK, False):
        return
    setattr(cls, _MARK, True)
    # HTMap looks lowered names up in it.
    cls.RESERVED_KEYS = {key.lower() for key in cls.RESERVED_KEYS}
    htmap_init = cls.__init__
    htmap_merge = cls.merge.__func__

    @functools.wraps(htmap_init)
    def init(self: Any, *, custom_options: Optional[Dict[str, Any]] = None, **kwargs: Any) -> None:
        # An iterator would be used up by the first map.
        kwargs = {name: list(value) if hasattr(value, "__next__") else value for name, value in kwargs.items()}
        htmap_init(self, **kwargs)
        self.fixed_input_files = _files("`fixed_input_files`", kwargs.get("fixed_input_files"))
        custom = {_attribute(name): value for name, value in (custom_options or {}).items()}
        self._check_keyword_arguments(custom)
        self.data.update({f"MY.{name}": value for name, value in custom.items()})

    @functools.wraps(htmap_merge)
    def merge(cls: Any, *others: Any) -> Any:
        merged = htmap_merge(cls, *others)
        for name in ("input_files", "output_remaps"):
            given: Tuple[Any, ...] = tuple(getattr(other, name) for other in others)
            setattr(merged, name, next((value for value in given if value is not None), None))
        return merged

    cls.__init__ = init
    cls.merge = classmethod(merge)


def _attribute(name: str) -> str:
    """The name of a job attribute, without the `+` or `MY.` that marks one in a submit file."""
    name = name.lower()
    if name.startswith("+"):
        return name[1:]
    return name[3:] if name.startswith("my.") else name
