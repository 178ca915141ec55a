"""Submit descriptions and items, as far as nothing is submitted; the rest is in tests/pool/test_bindings.py."""

from __future__ import annotations

import pickle
from pathlib import Path
from types import ModuleType

import pytest


def test_a_description_takes_what_version_1_takes(condor: ModuleType) -> None:
    submit = condor.Submit({"executable": "/bin/true", "a": 1, "b": True, "c": None, "d": 2.5})
    submit["e"] = 3
    submit.update({"f": False})
    assert submit.setdefault("g", "4") == "4"
    assert submit.setdefault("g", "5") == "4"
    assert dict(submit) == {
        "executable": "/bin/true",
        "a": "1",
        "b": "True",
        "c": "undefined",
        "d": "2.5",
        "e": "3",
        "f": "False",
        "g": "4",
    }
    assert submit.getQArgs() == ""
    assert submit.expand("executable") == "/bin/true"
    assert condor.Submit("a = 1\nqueue 3").getQArgs() == "3"


def test_a_descriptor_can_be_deleted(by_2: ModuleType) -> None:
    """In version 1 this is a segmentation fault (24.12.24)."""
    submit = by_2.Submit("a = 1\nMY.b = 2\nc = $(a)\nqueue 3")
    del submit["my.B"]
    assert dict(submit) == {"a": "1", "c": "$(a)"}
    assert submit.pop("a") == "1"
    assert submit.getQArgs() == "3"
    with pytest.raises(KeyError, match="nothing"):
        del submit["nothing"]


def test_a_line_break_in_an_expression_is_a_blank(by_2: ModuleType) -> None:
    submit = by_2.Submit({"requirements": '(a == 1)\n    && (b == "x")', "z": "1"})
    assert dict(submit) == {"requirements": '(a == 1) && (b == "x")', "z": "1"}


def test_a_line_break_in_quotes_cannot_be_submitted(by_2: ModuleType) -> None:
    with pytest.raises(ValueError, match="line break within quotes"):
        by_2.Submit({"arguments": '"a\nb"'})
    submit = by_2.Submit()
    with pytest.raises(ValueError, match="line break within quotes"):
        submit["arguments"] = '"a\nb"'


@pytest.mark.parametrize(
    ("items", "kind", "text"),
    [
        ([], ValueError, "no items"),
        ([{"a": "1"}, {"b": "2"}], ValueError, "item 1 must have the keys of the first one, a"),
        ([{"a": "1"}, {"a": "2", "b": "3"}], ValueError, "item 1 must have the keys"),
        ([{"a": "1"}, "2"], ValueError, "item 1 must have the keys"),
        ([{"a": 1}], TypeError, "item 0: the value of `a` must be a string: 1"),
        ([{"a": "x\ny"}], ValueError, "item 0: the value of `a` must have no line break"),
        ([{"a": "x"}, {"a": "x\x1fy"}], ValueError, "item 1: the value of `a`"),
        (["x", "# y"], ValueError, "item 1 cannot be submitted"),
        (["x", ") y"], ValueError, "item 1 cannot be submitted"),
        (["x", " "], ValueError, "item 1 cannot be submitted"),
        (["x", "y\nz"], ValueError, "item 1 cannot be submitted"),
        (["x", 1], TypeError, "item 1 is neither a dictionary nor a string"),
    ],
)
def test_items_that_would_be_lost_are_refused(
    by_2: ModuleType, items: list[object], kind: type[Exception], text: str
) -> None:
    with pytest.raises(kind, match=text):
        by_2._items(iter(items))


def test_failures_are_caught_by_the_names_of_version_1(condor: ModuleType) -> None:
    for name in ("HTCondorIOError", "HTCondorLocateError"):
        failure = getattr(condor, name)
        assert issubclass(failure, (condor.HTCondorException,))
        assert issubclass(failure, OSError) and issubclass(failure, RuntimeError) and issubclass(failure, ValueError)
    assert issubclass(condor.HTCondorTypeError, TypeError)
    assert issubclass(condor.HTCondorValueError, ValueError)


def test_an_event_log_is_read_where_it_was_left(condor: ModuleType, tmp_path: Path) -> None:
    """Polled, half an event at a time, pickled in between, with an event of a newer HTCondor."""
    path = tmp_path / "events"
    lines = [
        "000 (001.000.000) 2026-11-23 12:09:37 Job submitted from host: <127.0.0.1:9618>\n    0\n...\n",
        "999 (001.000.000) 2026-11-23 12:09:38 Something that nobody knows\n    and more\n...\n",
        "001 (001.000.000) 2026-11-23 12:09:39 Job executing on host: <127.0.0.1:9618>\n...\n",
    ]
    path.write_text("")
    log = condor.JobEventLog(str(path)).events(0)
    seen = []
    for line in lines:
        for part in (line[:40], line[40:]):
            with path.open("a") as file:
                file.write(part)
            seen += [(event.type, event.get("LogNotes")) for event in log]
            log = pickle.loads(pickle.dumps(log))
    assert [(int(kind), notes) for kind, notes in seen] == [(0, "0"), (999, None), (1, None)]
    assert seen[0][0] is condor.JobEventType.SUBMIT or seen[0][0] == condor.JobEventType.SUBMIT
