"""The settings below `EXEC.`, on their way into the command line of a component."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import htmap_exec
import pytest

Submission = Callable[..., "tuple[dict[str, str], list[dict[str, str]]]"]
SUBMIT = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, f"--submit-python {SUBMIT}"),
        ({"SUBMIT_PYTHON": "3.9"}, "--submit-python 3.9"),
        ({"PYTHON": "/opt/a python"}, f"--submit-python {SUBMIT} --python '/opt/a python'"),
        ({"ALLOW_PYTHON_MISMATCH": "yes"}, f"--submit-python {SUBMIT} --allow-python-mismatch"),
        ({"ALLOW_PYTHON_MISMATCH": False}, f"--submit-python {SUBMIT}"),
        ({"TIMEOUT": 90, "EXIT_GRACE": "0.5"}, f"--submit-python {SUBMIT} --timeout 90 --exit-grace 0.5"),
        ({"START_LIMIT": 300, "LOG": "DEBUG"}, f"--submit-python {SUBMIT} --start-limit 300 --log debug"),
        ({"timeout": 90, "PYTHON": None, "LOG": ""}, f"--submit-python {SUBMIT} --timeout 90"),
    ],
)
def test_arguments(submission: Submission, enabled: Any, settings: dict[str, Any], words: str) -> None:
    for name, value in settings.items():
        enabled.settings[f"EXEC.{name}"] = value
    descriptors, _ = submission("one", "assume")
    assert descriptors["arguments"] == f'"run {words} $(component)"'


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TIMEOUT", "soon", r"`EXEC\.TIMEOUT` takes a number of seconds, not 'soon'"),
        ("TIMEOUT", -1, "number of seconds"),
        ("TIMEOUT", "inf", "number of seconds"),
        ("TIMEOUT", "nan", "number of seconds"),
        ("TIMEOUT", True, "number of seconds"),
        ("SUBMIT_PYTHON", 3.1, r'in quotes, such as "3\.11", not 3\.1'),
        ("SUBMIT_PYTHON", "3.11.2", "in quotes"),
        ("ALLOW_PYTHON_MISMATCH", "perhaps", "true or false"),
        ("LOG", "loud", "one of off, error"),
        ("BINARY", 7, "takes text"),
        ("BINRAY", "/x", r"no setting `EXEC\.BINRAY`: did you mean EXEC\.BINARY\?"),
        ("COLOUR", "red", "known are BINARY"),
    ],
)
def test_nonsense(submission: Submission, enabled: Any, name: str, value: object, message: str) -> None:
    enabled.settings[f"EXEC.{name}"] = value
    with pytest.raises(htmap_exec.SettingsError, match=message):
        submission("one", "assume")


def test_no_section(submission: Submission, enabled: Any) -> None:
    enabled.settings["EXEC"] = "fast"
    with pytest.raises(htmap_exec.SettingsError, match="is a section"):
        submission("one", "assume")


@pytest.mark.parametrize("name", ["executable", "ARGUMENTS", "transfer_input_files", "universe"])
def test_map_options_that_would_replace_ours(submission: Submission, enabled: Any, name: str) -> None:
    enabled.settings[f"MAP_OPTIONS.{name}"] = "x"
    with pytest.raises(htmap_exec.SettingsError, match=f"`MAP_OPTIONS.{name}` contradicts .*: remove it"):
        submission("one", "assume")
