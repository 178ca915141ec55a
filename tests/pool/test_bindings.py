"""HTMap beside bindings of either version, with an access point of either: the same in all four combinations.

What HTMap cannot do by itself is shown in processes of their own, which do not import htmap_exec.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import htcondor
import htmap
import pytest
from on_pool import BINDINGS, SUITE, TIMEOUT, ended, events, finished, results, until

STATUS = htmap.ComponentStatus

# In front of what a process of its own does.
STOCK = "import htmap"
ENABLED = "import htmap_exec; htmap_exec.enable(); import htmap"
ALIASED = """
import sys, classad2, htcondor2
sys.modules.update(classad=classad2, htcondor=htcondor2)
import htmap
"""
ONLY_PRESENTED = "from htmap_exec import bindings; bindings.present(); import htmap"

old = pytest.mark.skipif(BINDINGS != "old", reason="for old bindings")
new = pytest.mark.skipif(BINDINGS != "new", reason="for new bindings")
trixie = pytest.mark.skipif(SUITE != "trixie", reason="for an access point of 23.9")
forky = pytest.mark.skipif(SUITE != "forky", reason="for an access point of 25.14")


def elsewhere(
    start: str, program: str, python: str = sys.executable, **environment: str | None
) -> subprocess.CompletedProcess[str]:
    """Runs a program in a new process, with this one's map directory."""
    text = f"{start}\nhtmap.settings['HTMAP_DIR'] = {htmap.settings['HTMAP_DIR']!r}\n{program}"
    variables = {name: value for name, value in {**os.environ, **environment}.items() if value is not None}
    return subprocess.run(
        [python, "-c", text], env=variables, capture_output=True, text=True, check=False, timeout=TIMEOUT
    )


def said(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def statuses(m: htmap.Map) -> str:
    """A program that prints them."""
    return f"print(*map(str, htmap.load({m.tag!r}).component_statuses))"


@pytest.fixture
def switch(tmp_path: Path) -> Iterator[Path]:
    """For functions to wait for. Not in /tmp: a job has its own."""
    path = Path.home() / f"switch-{tmp_path.name}"
    yield path
    path.unlink(missing_ok=True)


def waiting(switch: Path) -> Callable[[int], int]:
    def wait(x: int) -> int:
        import time

        while not switch.exists():
            time.sleep(0.1)
        if x == 2:
            raise ValueError("two")
        return 10 * x

    return wait


def test_statuses_while_a_map_runs(assume: None, switch: Path) -> None:
    """Read again and again by one reader, as whoever waits for a map does."""
    m = htmap.map(waiting(switch), range(3))
    until(lambda: m.component_statuses == [STATUS.RUNNING] * 3, "all run")
    m.hold()
    until(lambda: m.component_statuses == [STATUS.HELD] * 3, "all are held")
    assert "by user" in m.hold_report()
    m.release()
    until(lambda: m.component_statuses == [STATUS.RUNNING] * 3, "all run again")
    m.vacate()
    until(lambda: len(events(m, htcondor.JobEventType.EXECUTE)) == 9, "all run for the third time")
    assert m.component_statuses == [STATUS.RUNNING] * 3
    switch.touch()
    assert finished(m).component_statuses == [STATUS.COMPLETED, STATUS.COMPLETED, STATUS.ERRORED]
    assert [m[0], m[1]] == [0, 10]
    assert "ValueError: two" in m.get_err(2).report()


def test_other_processes_follow_a_map(assume: None, switch: Path) -> None:
    m = htmap.map(waiting(switch), range(2), tag="followed")
    until(lambda: said(elsewhere(ENABLED, statuses(m))) == "RUNNING RUNNING", "another process sees both run")
    assert m.component_statuses == [STATUS.RUNNING] * 2
    switch.touch()
    until(lambda: said(elsewhere(ENABLED, statuses(m))) == "COMPLETED COMPLETED", "another process sees both end")
    assert said(elsewhere(ENABLED, "print(list(htmap.load('followed')))")) == "[0, 10]"
    assert results(m) == [0, 10]


def test_bindings_may_change_while_a_map_runs(assume: None, switch: Path) -> None:
    """What one kind of bindings has saved, the other one cannot load."""
    other = sys.executable.replace(f"-{BINDINGS}", {"old": "-new", "new": "-old"}[BINDINGS])
    m = htmap.map(waiting(switch), range(2))
    until(lambda: m.component_statuses == [STATUS.RUNNING] * 2, "both run")
    assert said(elsewhere(ENABLED, statuses(m), other)) == "RUNNING RUNNING"
    assert said(elsewhere(ENABLED, statuses(m))) == "RUNNING RUNNING"
    switch.touch()
    until(lambda: said(elsewhere(ENABLED, statuses(m), other)) == "COMPLETED COMPLETED", "both end")
    assert said(elsewhere(ENABLED, f"print(list(htmap.load({m.tag!r})))")) == "[0, 10]"


@old
@trixie
def test_stock_htmap_and_this_one_share_a_maps_state(assume: None, switch: Path) -> None:
    m = htmap.map(waiting(switch), range(2))
    until(lambda: said(elsewhere(STOCK, statuses(m))) == "RUNNING RUNNING", "stock HTMap sees both run")
    assert said(elsewhere(ENABLED, statuses(m))) == "RUNNING RUNNING"
    switch.touch()
    ended(m)
    assert said(elsewhere(ENABLED, statuses(m))) == "COMPLETED COMPLETED"
    assert said(elsewhere(STOCK, statuses(m))) == "COMPLETED COMPLETED"


def test_rerun_retag_edit_and_remove(assume: None, switch: Path) -> None:
    m = htmap.map(waiting(switch), [1, 2], tag="before")
    m.hold()
    until(lambda: m.component_statuses == [STATUS.HELD] * 2, "both are held")
    m.set_memory(321)
    m.set_disk(654321)
    ads = list(m._query(projection=["RequestMemory", "RequestDisk", "component"]))
    assert [(ad["RequestMemory"], ad["RequestDisk"]) for ad in ads] == [(321, 654321)] * 2
    m.release()
    # HTMap knows from the event log only, and waits for no map that is held.
    until(lambda: STATUS.HELD not in m.component_statuses, "both are released")
    switch.touch()
    assert finished(m).component_statuses == [STATUS.COMPLETED, STATUS.ERRORED]
    m.retag("after")
    assert htmap.load("after") is m
    switch.unlink()
    # Only the second one: its job's number is not the component's.
    m.rerun([1])
    until(lambda: m.component_statuses == [STATUS.COMPLETED, STATUS.RUNNING], "it runs again")
    assert said(elsewhere(ENABLED, statuses(m))) == "COMPLETED RUNNING"
    assert [ad["JobBatchName"] for ad in m._query(projection=["JobBatchName"])] == ["after"]
    directory = m._map_dir
    m.remove()
    assert not directory.exists()
    assert htmap.get_tags() == ()


@pytest.mark.parametrize(("kept", "text"), [(0, "output file is empty"), (15, "cut off or damaged")])
def test_a_damaged_output_is_an_error_of_its_component(assume: None, kept: int, text: str) -> None:
    m = htmap.map(lambda x: x, range(2))
    ended(m)
    path = m._output_file_path(1)
    path.write_bytes(path.read_bytes()[:kept])
    assert m.component_statuses == [STATUS.COMPLETED, STATUS.ERRORED]
    (report,) = m.error_reports()
    assert text in report and path.name in report
    with pytest.raises(htmap.exceptions.MapComponentError, match=text):
        m[1]
    m.rerun([1])
    assert results(m) == [0, 1]


def test_an_interrupt_while_statuses_are_read_loses_none(assume: None, monkeypatch: pytest.MonkeyPatch) -> None:
    m = htmap.map(lambda x: x, range(3))
    ended(m)

    def interrupt(map_: htmap.Map, component: int) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(htmap.Map, "_peek_status", interrupt)
        with pytest.raises(KeyboardInterrupt):
            m.component_statuses  # noqa: B018
    assert m.component_statuses == [STATUS.COMPLETED] * 3


def test_a_map_by_a_delivery_method_that_is_not_ours(stock: Callable[[str], None]) -> None:
    stock("shared")
    m = htmap.map(lambda x: 2 * x, range(3))
    assert results(m) == [0, 2, 4]
    m.rerun([2])
    assert results(m) == [0, 2, 4]


# Of stock HTMap, or as much of it as works, on a map that this process has made.


@new
def test_stock_htmap_cannot_be_imported_beside_new_bindings() -> None:
    done = elsewhere(STOCK, "")
    assert "ModuleNotFoundError: No module named 'htcondor'" in done.stderr


@new
def test_stock_htmap_cannot_submit_by_new_bindings() -> None:
    done = elsewhere(ALIASED, "htmap.settings['DELIVERY_METHOD'] = 'shared'; htmap.map(str, range(2))")
    assert "AttributeError: 'Schedd' object has no attribute 'transaction'" in done.stderr


@forky
def test_stock_htmap_cannot_tell_components_of_this_access_point(assume: None) -> None:
    m = htmap.map(lambda x: x, range(2))
    ended(m)
    done = elsewhere(STOCK if BINDINGS == "old" else ONLY_PRESENTED, statuses(m))
    assert "ValueError: invalid literal for int()" in done.stderr
    assert said(elsewhere(ENABLED, statuses(m))) == "COMPLETED COMPLETED"


@trixie
def test_stock_htmap_loses_a_component_whose_output_is_cut_off(assume: None) -> None:
    m = htmap.map(lambda x: x, range(2))
    ended(m)
    m._output_file_path(1).write_bytes(b"")
    program = f"""
m = htmap.load({m.tag!r})
try:
    m.component_statuses
except EOFError:
    print(m.component_statuses[1])
"""
    assert said(elsewhere(STOCK if BINDINGS == "old" else ONLY_PRESENTED, program)) == "RUNNING"


# What goes wrong before a map is in the queue leaves nothing behind.

SUBMIT = """
import htcondor
htmap.settings['DELIVERY_METHOD'] = 'assume'
try:
    htmap.map(str, range(3))
except htcondor.HTCondorException as error:
    assert isinstance(error, (OSError, RuntimeError)), type(error).__mro__
    print(type(error).__name__, error)
"""


def left() -> list[str]:
    directory = Path(htmap.settings["HTMAP_DIR"])
    return [str(path) for name in ("maps", "tags") for path in (directory / name).iterdir()]


def jobs() -> int:
    removed = int(htcondor.JobStatus.REMOVED)
    return len(htcondor.Schedd().query(f"JobStatus =!= {removed}"))


@pytest.mark.parametrize(
    "environment",
    [
        {"_CONDOR_SCHEDD_HOST": "nobody", "_CONDOR_COLLECTOR_HOST": "127.0.0.1:1"},
        {"_CONDOR_SCHEDD_HOST": "nobody"},
    ],
    ids=["no collector", "no schedd"],
)
def test_without_a_schedd_nothing_is_left(environment: dict[str, str]) -> None:
    told = said(elsewhere(ENABLED, SUBMIT, **environment))
    assert told
    assert left() == []
    assert jobs() == 0


def test_a_schedd_that_does_not_answer_leaves_nothing(tmp_path: Path) -> None:
    ad = Path(htcondor.param["SCHEDD_DAEMON_AD_FILE"]).read_text()
    ad = re.sub(r"^(Address|MyAddress|ScheddIpAddr)\w* = .*\n", "", ad, flags=re.MULTILINE)
    (tmp_path / "ad").write_text(ad + 'MyAddress = "<127.0.0.1:1>"\n')
    told = said(elsewhere(ENABLED, SUBMIT, _CONDOR_SCHEDD_DAEMON_AD_FILE=str(tmp_path / "ad")))
    assert told.startswith("HTCondorIOError Failed to connect to schedd")
    assert left() == []
    assert jobs() == 0


def test_a_schedd_that_the_collector_does_not_know_is_not_replaced_by_another() -> None:
    told = said(elsewhere(ENABLED, "htmap.settings['HTCONDOR.SCHEDULER'] = 'nobody'" + SUBMIT))
    assert told.startswith("HTCondorLocateError Unable to find daemon")
    assert left() == []
    assert jobs() == 0


@new
@trixie
def test_a_refusal_for_want_of_a_channel_binding_says_what_to_do(assume: None, switch: Path) -> None:
    knob = "_CONDOR_SEC_FS_ENFORCE_CHANNEL_BINDING"
    assert os.environ[knob] == "false"
    told = said(elsewhere(ENABLED, SUBMIT, **{knob: None}))
    assert told.startswith("HTCondorIOError Failed to connect to schedd")
    for text in (f"{knob}=false", "SEC_FS_ENFORCE_CHANNEL_BINDING = false", "HTCondor 23.9."):
        assert text in told
    assert left() == []
    assert jobs() == 0
    # These do not tell by themselves why they fail.
    m = htmap.map(waiting(switch), [0])
    for act in ("hold()", "vacate()", "set_memory(100)", "remove()"):
        assert f"{knob}=false" in elsewhere(ENABLED, f"htmap.load({m.tag!r}).{act}", **{knob: None}).stderr
    switch.touch()
    assert results(m) == [0]


# For scripts: version 1's way to submit and to ask, whichever version it is.


@pytest.fixture
def schedd() -> htcondor.Schedd:
    """Held on to: in version 1 a transaction ends with the object that began it."""
    return htcondor.Schedd()


def held() -> htcondor.Submit:
    return htcondor.Submit({"executable": "/bin/true", "MY.a": '"$(a)"', "MY.b": '"$(b)"', "hold": True})


def pairs(cluster: int) -> list[tuple[str, str]]:
    ads = htcondor.Schedd().xquery(requirements=f"ClusterId == {cluster}", projection=["ProcId", "a", "b"])
    return [(ad["a"], ad["b"]) for ad in sorted(ads, key=lambda ad: ad["ProcId"])]


def test_items_arrive_as_they_are(schedd: htcondor.Schedd) -> None:
    wanted = [("#", "x"), (")", ""), ("", ""), ("a, b;c", "d e"), ("(", "'"), ("\\", "end")]
    with schedd.transaction() as txn:
        result = held().queue_with_itemdata(txn, 1, iter([{"a": a, "b": b} for a, b in wanted]))
    assert result.num_procs() == len(wanted)
    assert pairs(result.cluster()) == wanted


def test_a_count_for_each_item(schedd: htcondor.Schedd) -> None:
    with schedd.transaction() as txn:
        result = held().queue_with_itemdata(txn, 2, iter([{"a": "1", "b": ""}, {"a": "2", "b": ""}]))
    assert pairs(result.cluster()) == [("1", ""), ("1", ""), ("2", ""), ("2", "")]


def test_queue_with_a_count_and_with_ads(schedd: htcondor.Schedd) -> None:
    ads: list[object] = []
    with schedd.transaction() as txn:
        first = held().queue(txn, 3)
        second = held().queue(txn, 1, ads)
    assert len(pairs(first)) == 3
    assert [ad["ClusterId"] for ad in ads] == [second]


def test_a_transaction_that_fails_leaves_no_jobs(schedd: htcondor.Schedd) -> None:
    def fail() -> None:
        with schedd.transaction() as txn:
            held().queue(txn, 2)
            raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        fail()
    # Version 2 has submitted them by then, and takes them back.
    left = [ad["JobStatus"] for ad in schedd.query(projection=["JobStatus"])]
    assert set(left) <= {htcondor.JobStatus.REMOVED}


@new
def test_blanks_that_would_be_lost_are_told(schedd: htcondor.Schedd) -> None:
    with warnings.catch_warnings(record=True) as caught, schedd.transaction() as txn:
        warnings.simplefilter("always")
        held().queue_with_itemdata(txn, 1, iter([{"a": " x", "b": ""}]))
    assert [str(each.message) for each in caught if "drops the blanks" in str(each.message)]
    assert caught[0].filename == __file__
