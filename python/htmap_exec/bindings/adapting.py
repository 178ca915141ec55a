"""Lets HTMap read event logs and outputs that it cannot make sense of by itself.

HTMap's own methods stay in charge; these stand around them. A map's state file stays as HTMap writes it, with nothing
of ours in it beside version 1 of the bindings, so that HTMap without htmap-exec can go on with the map.
"""

import functools
import gzip
import logging
import os
import pickle
import zlib
from typing import Any, Callable, Iterator, Tuple

_logger = logging.getLogger(__name__)

_NOTES = "MY.SubmitEventNotesAttrs"
_COMPONENT = "component"

# What reading a file that is cut off, or no output at all, raises.
_DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile, pickle.UnpicklingError)


def adapt(htmap: Any) -> None:
    """Let an imported HTMap follow maps on any HTCondor from 23.9 to 25.14. A second call changes nothing."""
    if getattr(htmap.state, "_htmap_exec_adapted", False):
        return
    htmap.state._htmap_exec_adapted = True
    _wrap(htmap.mapping, "execute_submit", _note_component)
    _wrap(htmap.state.MapState, "_handle_events", functools.partial(_handle_events, htmap))
    _wrap(htmap.state.MapState, "__getstate__", _without_reader)
    # A static method: looked up on the class, it is a plain function, and has to be put back as what it was.
    load = functools.partial(_load_state, htmap, htmap.state.MapState.load)
    htmap.state.MapState.load = staticmethod(functools.wraps(htmap.state.MapState.load)(load))
    _wrap(htmap.maps.Map, "_peek_status", _peek_status)
    _wrap(htmap.maps.Map, "_load_error", functools.partial(_load_error, htmap))
    _wrap(htmap.maps.Map, "_load_output", functools.partial(_load_output, htmap))


def _wrap(owner: Any, name: str, wrapper: Callable[..., Any]) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *args, **kwargs)

    setattr(owner, name, wrapped)


def _note_component(original: Any, submit_object: Any, itemdata: Any) -> Any:
    """Since 25.14 a schedd leaves `submit_event_notes` out of the event log, where HTMap looks for the component, if
    jobs have a batch name, as HTMap's have. Instead it writes the attributes that this one names. Older schedds do not
    know it. It is set here and not by a delivery method alone, for maps by other methods and reruns of older maps.
    """
    named = next((value for key, value in submit_object.items() if key.lower() == _NOTES.lower()), "").strip('"')
    if _COMPONENT not in named.replace(",", " ").lower().split():
        submit_object[_NOTES] = '"{}"'.format(" ".join(filter(None, [named, _COMPONENT])))
    return original(submit_object, itemdata)


class EventReader:
    """HTMap's reader of an event log, whose submit events have their component where HTMap looks for it.

    HTMap keeps its reader, and asks it again for what has been written since. So this must not be a generator: the
    first StopIteration, which says no more than that there are no events yet, would end a generator for good.
    """

    def __init__(self, log: Any, submit: Any, map_: Any) -> None:
        self.log = log
        self._submit = submit
        self._map = map_

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        event = next(self.log)
        if event.type is not self._submit or event.proc < 0:
            return event
        notes = str(event.get("LogNotes", ""))
        return event if notes.strip().isdigit() else _SubmitEvent(event, self._component(event, notes))

    def _component(self, event: Any, notes: str) -> str:
        # Whichever version it is: not all of them know StructuredNotes, but all have the text.
        import classad

        try:
            return str(int(classad.parseOne(notes)[_COMPONENT]))
        except (ValueError, LookupError, TypeError, classad.ClassAdException):
            # Submitted to HTCondor 25.14 by HTMap alone: then it was for the first time, since HTMap cannot run a map
            # again without knowing how its components are. So these are all of them, in their order.
            if event.cluster == self._map._cluster_ids[0]:
                return str(event.proc)
            raise ValueError(
                f"job {event.cluster}.{event.proc} of map {self._map.tag} does not say which component it is: its "
                f"submit event has {notes!r}, and the submit descriptor {_NOTES} was not set"
            ) from None


class _SubmitEvent:
    """A submit event as HTCondor wrote it before 25.14."""

    def __init__(self, event: Any, component: str) -> None:
        self._event = event
        self._component = component

    def __getitem__(self, key: str) -> Any:
        return self._component if key == "LogNotes" else self._event[key]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._event, name)


def _handle_events(htmap: Any, original: Any, state: Any) -> Any:
    if not isinstance(state._event_reader, EventReader):
        submit = htmap.state.htcondor.JobEventType.SUBMIT
        state._event_reader = EventReader(state._event_reader, submit, state.map)
    try:
        return original(state)
    except BaseException:
        # An interrupt, say. An event that was read and not taken in would be missing from now on: begin anew instead.
        lock = state._event_reader_lock
        state.__init__(state.map)
        state._event_reader_lock = lock
        raise


def _without_reader(original: Any, state: Any) -> Any:
    pickled = original(state)
    if isinstance(pickled.get("_event_reader"), EventReader):
        pickled["_event_reader"] = pickled["_event_reader"].log
    return pickled


def _load_state(htmap: Any, original: Any, map_: Any) -> Any:
    """A state that was saved beside other bindings, or is damaged, is made anew from the event log."""
    try:
        state = original(map_)
        reader = state._event_reader
        if reader is not None and not isinstance(reader, htmap.state.htcondor.JobEventLog):
            raise TypeError(f"its reader of the event log is of other bindings, {type(reader)}")
    except (OSError, htmap.exceptions.InsufficientHTCondorVersion):
        raise
    except Exception as error:
        # HTMap goes on without the state if this is what loading it raises.
        raise OSError(f"the state of map {map_.tag} cannot be loaded: {type(error).__name__}: {error}") from error
    return state


def _peek_status(original: Any, map_: Any, component: int) -> Any:
    """HTMap knows of outputs that are missing, but for one that is cut off it loses the event and waits for ever."""
    try:
        return original(map_, component)
    except _DAMAGE as error:
        _logger.warning(
            "The output of component %s of map %s is damaged (%s), marking as errored", component, map_.tag, error
        )
        return "ERR"


def _load_error(htmap: Any, original: Any, map_: Any, component: int, *args: Any, **kwargs: Any) -> Any:
    try:
        return original(map_, component, *args, **kwargs)
    except (FileNotFoundError, *_DAMAGE) as error:
        return _stand_in(htmap, map_, component, error)


def _load_output(htmap: Any, original: Any, map_: Any, component: int, *args: Any, **kwargs: Any) -> Any:
    try:
        return original(map_, component, *args, **kwargs)
    except (FileNotFoundError, *_DAMAGE) as error:
        report = _stand_in(htmap, map_, component, error).report()
        raise htmap.exceptions.MapComponentError(
            f"Component {component} of map {map_.tag} has no usable output. Error report:\n{report}"
        ) from error


def _stand_in(htmap: Any, map_: Any, component: int, error: BaseException) -> Any:
    """The error of a component that has left neither a result nor an error."""
    path, what = _trouble(map_, component, error)
    return htmap.errors.ComponentError(
        map=map_,
        component=component,
        exception_msg=f"{what}: {path}\n{type(error).__name__}: {error}\nThe component's stdout and stderr may tell "
        "more; to run it again: rerun.",
        node_info=("an unknown machine", "no address", "an unknown time"),
        python_info=None,
        scratch_dir_contents=[],
        stack_summary=[],
    )


def _trouble(map_: Any, component: int, error: BaseException) -> Tuple[Any, str]:
    path = map_._output_file_path(component)
    if isinstance(error, FileNotFoundError):
        if error.filename is None or os.fspath(error.filename) != os.fspath(path):
            raise error
        return path, "The component has ended, but there is no output file"
    if path.stat().st_size == 0:
        return path, "The output file is empty: nothing came back from the execute node"
    return path, "The output file is cut off or damaged"
