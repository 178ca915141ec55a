"""HTMap's settings as far as htmap-exec reads them, `EXEC.*` included, checked before anything is submitted.

HTMap's command line stores every value as a string, so numbers and truth values are taken as text, too.
"""

import difflib
import os
import platform
import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from .failures import SettingsError

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")
_LEVELS = ("off", "error", "warn", "info", "debug", "trace")

# What a delivery method sets and HTMap's MAP_OPTIONS would silently replace.
_OURS = (
    "arguments",
    "executable",
    "transfer_executable",
    "transfer_input_files",
    "transfer_output_files",
    "transfer_output_remaps",
    "universe",
)


class ExecSettings(NamedTuple):
    """The settings below `EXEC.`; docs/settings.md says what each means."""

    BINARY: Optional[str] = None
    ARCH: str = platform.machine()
    PYTHON: Optional[str] = None
    SUBMIT_PYTHON: Optional[str] = None
    ALLOW_PYTHON_MISMATCH: bool = False
    CONTAINER_IMAGE: Optional[str] = None
    TIMEOUT: Optional[float] = None
    START_LIMIT: Optional[float] = None
    EXIT_GRACE: Optional[float] = None
    LOG: Optional[str] = None
    CACHE_DIR: Optional[str] = None
    CACHE_SIZE: Optional[str] = None
    KEEP_VARIABLES: Tuple[str, ...] = ()
    NO_MOUNT: bool = False
    EXCLUDE: Tuple[str, ...] = ()
    INCLUDE: Tuple[str, ...] = ()
    LEVEL: Optional[int] = None


def read(settings: Any) -> ExecSettings:
    """What HTMap's `settings` hold below `EXEC.`. Raises SettingsError for what makes no sense."""
    given = settings.get("EXEC", default={})
    if not isinstance(given, dict):
        raise SettingsError(f"the setting `EXEC` is a section, such as EXEC.BINARY, and not {given!r}")
    return check(given)


def check(given: Dict[str, Any]) -> ExecSettings:
    """The settings of these names, without `EXEC.`. Raises SettingsError for what makes no sense."""
    # None is how HTMap's own settings say "not set".
    values = {name.upper(): value for name, value in given.items() if value is not None and value != ""}
    for name in values:
        if name not in ExecSettings._fields:
            raise SettingsError(f"there is no setting `EXEC.{name}`: {_meant(name, list(ExecSettings._fields))}")
    for name in ("BINARY", "ARCH", "PYTHON", "CONTAINER_IMAGE", "CACHE_DIR"):
        if name in values:
            values[name] = _text(name, values[name])
    for name in ("TIMEOUT", "START_LIMIT", "EXIT_GRACE"):
        if name in values:
            values[name] = _seconds(name, values[name])
    if "SUBMIT_PYTHON" in values:
        values["SUBMIT_PYTHON"] = _version(values["SUBMIT_PYTHON"])
    for name in ("ALLOW_PYTHON_MISMATCH", "NO_MOUNT"):
        if name in values:
            values[name] = _truth(name, values[name])
    if not values.get("CACHE_DIR", "/").startswith("/"):
        raise SettingsError(f"the setting `EXEC.CACHE_DIR` takes an absolute path, not {values['CACHE_DIR']!r}")
    if "CACHE_SIZE" in values:
        values["CACHE_SIZE"] = _size("CACHE_SIZE", values["CACHE_SIZE"])
    if "KEEP_VARIABLES" in values:
        values["KEEP_VARIABLES"] = _names("KEEP_VARIABLES", values["KEEP_VARIABLES"])
    if "EXCLUDE" in values:
        values["EXCLUDE"] = _list("EXCLUDE", values["EXCLUDE"], "patterns, such as **/tests")
    if "INCLUDE" in values:
        values["INCLUDE"] = _list("INCLUDE", values["INCLUDE"], "paths, such as ~/data or ~/data=share/data")
    if "LEVEL" in values:
        values["LEVEL"] = _whole("LEVEL", values["LEVEL"], range(1, 20))
    if "LOG" in values:
        values["LOG"] = _one_of("LOG", values["LOG"], _LEVELS)
    return ExecSettings(**values)


def refuse_overridden(settings: Any) -> None:
    """Raise SettingsError if MAP_OPTIONS would replace what delivery by htmap-exec depends on.

    HTMap lets them go before the descriptors of a delivery method, and does not say so.
    """
    for name in settings.get("MAP_OPTIONS", default={}):
        if name.lower() in _OURS:
            advice = {
                "executable": "remove it, or name the binary by EXEC.BINARY",
                "transfer_input_files": "remove it, and give the files to MapOptions(fixed_input_files=...)",
            }.get(name.lower(), "remove it")
            raise SettingsError(
                f"the setting `MAP_OPTIONS.{name}` contradicts delivery by htmap-exec, which sets it itself: {advice}"
            )


def _meant(name: str, known: List[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean EXEC.{close[0]}?" if close else "known are " + ", ".join(known)


def _text(name: str, value: Any) -> str:
    if hasattr(value, "__fspath__"):
        value = value.__fspath__()
    if not isinstance(value, str):
        raise SettingsError(f"the setting `EXEC.{name}` takes text, not {value!r}")
    return value


def _seconds(name: str, value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1
    if isinstance(value, bool) or not 0 <= seconds < float("inf"):
        raise SettingsError(f"the setting `EXEC.{name}` takes a number of seconds, not {value!r}")
    return seconds


def _size(name: str, value: Any) -> str:
    text = str(value)
    if isinstance(value, bool) or not re.fullmatch(r"\s*\d+\s*[KMGT]?B?\s*", text, re.IGNORECASE):
        raise SettingsError(f"the setting `EXEC.{name}` takes a size, such as 20GB, not {value!r}")
    return "".join(text.split())


def _names(name: str, value: Any) -> Tuple[str, ...]:
    words = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(words, (list, tuple)) or not all(isinstance(word, str) and word.isidentifier() for word in words):
        raise SettingsError(f"the setting `EXEC.{name}` takes names of variables, such as PYTHONPATH, not {value!r}")
    return tuple(words)


def _list(name: str, value: Any, what: str) -> Tuple[str, ...]:
    given = value.split(",") if isinstance(value, str) else value
    # A Path is as good as its text.
    words = [os.fspath(each) for each in given if isinstance(each, (str, os.PathLike))] if _is_list(given) else []
    if not words or len(words) != len(given) or not all(isinstance(word, str) and word.strip() for word in words):
        raise SettingsError(f"the setting `EXEC.{name}` takes a list of {what}, or text with commas, not {value!r}")
    return tuple(word.strip() for word in words)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _whole(name: str, value: Any, choices: range) -> int:
    text = str(value).strip()
    if isinstance(value, bool) or not text.isdecimal() or int(text) not in choices:
        least, most = choices[0], choices[-1]
        raise SettingsError(f"the setting `EXEC.{name}` takes a whole number from {least} to {most}, not {value!r}")
    return int(text)


def _version(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"3\.\d+", value):
        # TOML and Python read 3.10 without quotes as 3.1.
        raise SettingsError(
            f'the setting `EXEC.SUBMIT_PYTHON` takes a version in quotes, such as "3.11", not {value!r}'
        )
    return value


def _truth(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    if text not in _TRUE + _FALSE:
        raise SettingsError(f"the setting `EXEC.{name}` is true or false, not {value!r}")
    return text in _TRUE


def _one_of(name: str, value: Any, choices: Any) -> str:
    text = str(value).lower()
    if text not in choices:
        raise SettingsError(f"the setting `EXEC.{name}` is one of {', '.join(choices)}, not {value!r}")
    return text
