"""Components that cannot succeed: each comes back with a report that names the cause."""

from __future__ import annotations

import sys
from collections.abc import Callable

import htmap
import pytest
from on_pool import finished, results

HERE = f"{sys.version_info[0]}.{sys.version_info[1]}"


def only_report(m: htmap.Map) -> str:
    finished(m)
    assert m.component_statuses == [htmap.ComponentStatus.ERRORED]
    (report,) = m.error_reports()
    return str(report)


def test_error_reports_name_the_cause_and_the_locals(delivery: str) -> None:
    def inverse(x: int) -> float:
        numerator = x + 41
        return numerator / (x - 1)

    m = finished(htmap.map(inverse, [0, 1]))
    assert m.component_statuses == [htmap.ComponentStatus.COMPLETED, htmap.ComponentStatus.ERRORED]
    (report,) = m.error_reports()
    for text in ("ZeroDivisionError: division by zero", "numerator = 42", "in inverse", "component 1"):
        assert text in report
    assert m.get_err(1).component == 1
    with pytest.raises(htmap.exceptions.MapComponentError):
        m[1]


@pytest.mark.parametrize(
    ("death", "text"),
    [
        ("os.kill(os.getpid(), 9)", "SIGKILL"),
        ("os.kill(os.getpid(), 15)", "SIGTERM"),
        ("os._exit(3)", "exit status 3"),
        ("os._exit(0)", "exit status 0"),
        ("ctypes.string_at(0)", "SIGSEGV"),
        ("os.abort()", "SIGABRT"),
        ("sys.exit('enough')", "SystemExit: enough"),
        ("sys.exit(0)", "SystemExit: 0"),
    ],
)
def test_a_component_that_dies_has_a_report(assume: None, death: str, text: str) -> None:
    def die(_: object) -> None:
        import ctypes
        import os
        import sys

        eval(death, {"ctypes": ctypes, "os": os, "sys": sys})

    assert text in only_report(htmap.map(die, [None]))


def test_a_result_that_cannot_be_pickled_has_a_report(assume: None) -> None:
    def lock(_: object) -> object:
        import threading

        return threading.Lock()

    assert "cannot pickle '_thread.lock' object" in only_report(htmap.map(lock, [None]))


def test_a_module_that_the_node_lacks_is_named(assume: None) -> None:
    def need(_: object) -> None:
        import halo

        halo.Halo()

    report = only_report(htmap.map(need, [None]))
    assert "No module named 'halo'" in report
    assert "/usr/bin/python3" in report


def test_a_node_without_cloudpickle_gets_the_submit_sides(assume: None, settings: Callable[..., None]) -> None:
    import cloudpickle

    settings(PYTHON="/opt/bare/bin/python")

    def look(x: int) -> tuple[int, str, str]:
        import cloudpickle

        return x, cloudpickle.__version__, cloudpickle.__file__

    ((x, version, path),) = results(htmap.map(look, [1]))
    assert (x, version) == (1, cloudpickle.__version__)
    assert "_htmap_cloudpickle.zip" in path


def test_a_node_without_cloudpickle_and_none_sent_has_a_report(
    stock: Callable[[str], None], map_options: Callable[..., None]
) -> None:
    from on_pool import BINARY

    stock("assume")
    map_options(executable=BINARY, arguments="run --python /opt/bare/bin/python $(component)")
    report = only_report(htmap.map(lambda x: x, [1]))
    assert "No module named 'cloudpickle'" in report
    assert "/opt/bare/bin/python" in report


def test_a_node_without_python_has_a_report(assume: None, settings: Callable[..., None]) -> None:
    settings(PYTHON="/opt/missing/bin/python")
    assert "/opt/missing/bin/python" in only_report(htmap.map(lambda x: x, [1]))


def test_bytecode_of_another_python_is_refused_by_name(assume: None, settings: Callable[..., None]) -> None:
    settings(SUBMIT_PYTHON="3.11")
    report = only_report(htmap.map(lambda x: 2 * x, [21]))
    assert "Python 3.11" in report
    assert f"Python {HERE}" in report
