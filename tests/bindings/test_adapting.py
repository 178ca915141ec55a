"""HTMap's own Map over an event log that HTCondor wrote: here as text, in tests/pool as it is written."""

from __future__ import annotations

import gzip
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import htmap_exec
import pytest
from htmap_exec.bindings.adapting import EventReader

Write = Callable[..., None]


@pytest.fixture
def htmap(tmp_path: Path) -> Iterator[Any]:
    """HTMap with a directory of its own."""
    loaded = htmap_exec.enabling.load_htmap()
    before = loaded.settings["HTMAP_DIR"]
    loaded.settings["HTMAP_DIR"] = str(tmp_path / "htmap")
    yield loaded
    loaded.settings["HTMAP_DIR"] = before


@pytest.fixture
def made(htmap: Any, tmp_path: Path) -> Any:
    """A map of two components, submitted as cluster 7; its event log is empty."""
    directory = tmp_path / "map"
    for name in ("outputs", "inputs"):
        (directory / name).mkdir(parents=True)
    (directory / "num_components").write_text("2")
    (directory / "cluster_ids").write_text("7\n")
    (directory / "events").write_text("")
    return htmap.Map(tag="made", map_dir=directory)


def submitted(m: Any, cluster: int, proc: int, notes: str) -> None:
    with (m._map_dir / "events").open("a") as file:
        file.write(f"000 ({cluster:03}.{proc:03}.000) 2026-11-23 12:09:37 Job submitted from host: <127.0.0.1:9618>\n")
        file.write(f"    {notes}\n...\n")


def executing(m: Any, cluster: int, proc: int) -> None:
    with (m._map_dir / "events").open("a") as file:
        file.write(f"001 ({cluster:03}.{proc:03}.000) 2026-11-23 12:09:39 Job executing on host: <127.0.0.1:9618>\n")
        file.write("...\n")


def terminated(m: Any, cluster: int, proc: int) -> None:
    usage = "Usr 0 00:00:01, Sys 0 00:00:02  -  "
    with (m._map_dir / "events").open("a") as file:
        file.write(f"005 ({cluster:03}.{proc:03}.000) 2026-11-23 12:09:49 Job terminated.\n")
        file.write("\t(1) Normal termination (return value 0)\n")
        for what in ("Run Remote", "Run Local", "Total Remote", "Total Local"):
            file.write(f"\t\t{usage}{what} Usage\n")
        file.write("...\n")


def statuses(m: Any) -> list[str]:
    return [str(each) for each in m.component_statuses]


@pytest.mark.parametrize(
    "notes",
    [
        "{}",
        '[ component = {}; JobBatchName = "made" ]',
        '[ component = "{}"; JobBatchName = "made" ]',
        '[ JobBatchName = "component = 5"; component = {}; other = "x" ]',
    ],
    ids=["23.9", "25.14", "25.14, a string", "25.14, others as well"],
)
def test_components_are_told_apart(made: Any, notes: str) -> None:
    submitted(made, 7, 0, notes.format(1))
    submitted(made, 7, 1, notes.format(0))
    executing(made, 7, 0)
    assert statuses(made) == ["IDLE", "RUNNING"]
    executing(made, 7, 1)
    assert statuses(made) == ["RUNNING", "RUNNING"]


def test_a_map_that_htmap_alone_submitted_is_in_the_order_of_its_jobs(made: Any) -> None:
    for proc in range(2):
        submitted(made, 7, proc, '[ JobBatchName = "made" ]')
    executing(made, 7, 1)
    assert statuses(made) == ["IDLE", "RUNNING"]


def test_a_rerun_by_htmap_alone_cannot_be_told(made: Any) -> None:
    submitted(made, 8, 0, '[ JobBatchName = "made" ]')
    for _ in range(2):
        with pytest.raises(ValueError, match=r"job 8.0 of map made does not say .*MY.SubmitEventNotesAttrs"):
            statuses(made)


def state_path(m: Any) -> Path:
    return Path(m._map_dir / "map_state")


def running(m: Any) -> None:
    for proc in range(2):
        submitted(m, 7, proc, f'[ component = {proc}; JobBatchName = "made" ]')
        executing(m, 7, proc)
    assert statuses(m) == ["RUNNING", "RUNNING"]


def test_a_state_file_has_nothing_of_ours(made: Any) -> None:
    running(made)
    assert isinstance(made._state._event_reader, EventReader)
    assert b"htmap_exec" not in state_path(made).read_bytes()


@pytest.mark.parametrize("content", [b"", b"\x80\x04nonsense", b"cno_such_module\nClass\n."])
def test_a_state_file_that_cannot_be_loaded_is_made_anew(htmap: Any, made: Any, content: bytes) -> None:
    running(made)
    state_path(made).write_bytes(content)
    again = htmap.Map(tag="made", map_dir=made._map_dir)
    assert statuses(again) == ["RUNNING", "RUNNING"]
    assert pickle.loads(state_path(made).read_bytes())._component_statuses == again.component_statuses


def test_a_state_file_of_other_bindings_is_made_anew(htmap: Any, made: Any) -> None:
    from htmap_exec.bindings import htcondor_by_2

    running(made)
    state = pickle.loads(state_path(made).read_bytes())
    state.map = made
    state._event_reader = htcondor_by_2.JobEventLog(str(made._map_dir / "events"))
    state._component_statuses = []
    state.save()
    assert statuses(htmap.Map(tag="made", map_dir=made._map_dir)) == ["RUNNING", "RUNNING"]


def output(m: Any, component: int, *values: object) -> Path:
    path = Path(m._map_dir / "outputs" / f"{component}.out")
    with gzip.open(path, "wb") as file:
        for value in values:
            pickle.dump(value, file)
    return path


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(path.read_bytes()[:12]), "cut off or damaged"),
        (lambda path: path.write_bytes(b"no gzip at all"), "cut off or damaged"),
        (lambda path: path.write_bytes(gzip.compress(b"no pickle at all")), "cut off or damaged"),
        (os.unlink, "there is no output file"),
    ],
)
def test_a_component_without_a_usable_output_has_an_error(
    htmap: Any, made: Any, damage: Callable[[Path], object], text: str
) -> None:
    running(made)
    output(made, 0, "OK", 1)
    damage(output(made, 1, "OK", 2))
    for proc in range(2):
        terminated(made, 7, proc)
    assert statuses(made) == ["COMPLETED", "ERRORED"]
    assert made[0] == 1
    (report,) = made.error_reports()
    assert text in report and "1.out" in report
    with pytest.raises(htmap.exceptions.MapComponentError, match=text):
        made[1]


def test_a_result_that_is_cut_off_has_an_error(htmap: Any, made: Any) -> None:
    """Its status can be read, so that HTMap takes it for completed."""
    running(made)
    output(made, 0, "OK")
    terminated(made, 7, 0)
    with pytest.raises(htmap.exceptions.MapComponentError, match="cut off or damaged"):
        made[0]


def test_a_second_adapt_changes_nothing(htmap: Any) -> None:
    handle = htmap.state.MapState._handle_events
    htmap_exec.bindings.adapt(htmap)
    assert htmap.state.MapState._handle_events is handle


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, '"component"'),
        ({"my.submiteventnotesattrs": '"component"'}, '"component"'),
        ({"MY.SubmitEventNotesAttrs": '"Owner, Component"'}, '"Owner, Component"'),
        ({"MY.SubmitEventNotesAttrs": '"Owner"'}, '"Owner component"'),
    ],
)
def test_every_submit_asks_for_the_component(htmap: Any, before: dict[str, str], after: str) -> None:
    from htmap_exec.bindings import adapting

    seen = []
    submit = htmap.state.htcondor.Submit({"executable": "/bin/true", **before})
    adapting._note_component(lambda submit, itemdata: seen.append(dict(submit)), submit, [])
    (descriptors,) = seen
    found = {key.lower(): value for key, value in descriptors.items()}
    assert found["my.submiteventnotesattrs"] == after
    assert len(found) == len(descriptors)
