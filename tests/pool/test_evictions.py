"""Vacate, hold, release and remove, with checkpoints and output files."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Callable

import htcondor
import htmap
import pytest
from on_pool import TIMEOUT, events, made, printed, results, scratch, until, vacate_fast


def counting(evictions: int) -> Callable[[object], tuple[int, int]]:
    """Counts, checkpointing each number, without an end until it has been evicted so often, and then four more;
    returns where that attempt started and where it ended.
    """

    def count(_: object) -> tuple[int, int]:
        import itertools
        import pathlib
        import re
        import time

        import htmap

        attempt = re.search(r"^NumShadowStarts = (\d+)$", pathlib.Path(".job.ad").read_text(), re.MULTILINE)[1]
        state = pathlib.Path("state", "count")
        state.parent.mkdir(exist_ok=True)
        start = int(state.read_text()) if state.exists() else 0
        pathlib.Path(f"part-{start}").write_text("part")
        htmap.transfer_output_files(f"part-{start}")
        for number in itertools.count(start + 1):
            state.write_text(str(number))
            htmap.checkpoint("state")
            # For the test to see; it stays behind when the attempt ends.
            pathlib.Path(f"counted-{number - start}").touch()
            if int(attempt) > evictions and number == start + 4:
                return start, number
            time.sleep(0.05)
        raise AssertionError("there is no end of numbers")

    return count


def test_a_checkpoint_survives_one_vacate_and_then_another(delivery: str) -> None:
    m = htmap.map(counting(evictions=2), [None])
    until(made(m, 1, "counted-4"), "the first attempt counts")
    m.vacate()
    until(made(m, 2, "counted-4"), "the second attempt counts")
    m.vacate()
    start, end = m.get(0, timeout=TIMEOUT)
    assert end == start + 4
    # Output files of every attempt arrive, each from where the last one had come to.
    parts = sorted(int(path.name.split("-")[1]) for path in m.output_files.get(0).iterdir())
    assert len(parts) == 3
    assert parts[0] == 0 and parts[1] >= 4 and parts[2] == start >= parts[1] + 4
    assert not list((m._map_dir / "output_files").rglob("*checkpoint*"))


def checkpointing_once() -> Callable[[object], str]:
    """Checkpoints in the first attempt, is there to be evicted in the second, and says in the third what is left."""

    def precious(_: object) -> str:
        import pathlib
        import re
        import time

        import htmap

        state = pathlib.Path("state")
        attempt = re.search(r"^NumShadowStarts = (\d+)$", pathlib.Path(".job.ad").read_text(), re.MULTILINE)[1]
        if attempt == "1":
            state.write_text("precious")
            htmap.checkpoint(state)
        pathlib.Path(f"begun-{attempt}").touch()
        if attempt != "3":
            time.sleep(600)
        return state.read_text() if state.exists() else "started from nothing"

    return precious


def evict_twice(m: htmap.Map) -> htmap.Map:
    """The second time before another checkpoint."""
    for attempt in (1, 2):
        until(made(m, attempt, f"begun-{attempt}"), f"attempt {attempt} runs")
        m.vacate()
    return m


def test_a_second_eviction_before_the_next_checkpoint_keeps_the_first_one(delivery: str) -> None:
    m = evict_twice(htmap.map(checkpointing_once(), [None]))
    assert m.get(0, timeout=TIMEOUT) == "precious"


def test_stock_htmap_loses_it(stock: Callable[[str], None], map_options: Callable[..., None]) -> None:
    """The control for the test above: the same function and the same evictions, of HTMap's own script."""
    stock("shared")
    # The function imports HTMap, which cannot be imported beside new bindings.
    map_options(executable=sys.executable.replace("-new", "-old"))
    m = evict_twice(htmap.map(checkpointing_once(), [None]))
    assert m.get(0, timeout=TIMEOUT) == "started from nothing"


def test_a_fast_vacate_after_a_slow_one_keeps_the_checkpoint(assume: None) -> None:
    m = htmap.map(checkpointing_once(), [None])
    until(made(m, 1, "begun-1"), "attempt 1 runs")
    m.vacate()
    until(made(m, 2, "begun-2"), "attempt 2 runs")
    vacate_fast(m)
    assert m.get(0, timeout=TIMEOUT) == "precious"


@pytest.mark.parametrize("fast", [False, True], ids=["slow", "fast"])
def test_a_vacate_right_after_the_start_costs_nothing_but_time(assume: None, fast: bool) -> None:
    m = htmap.map(counting(evictions=1), [None])
    # Before Python is up, most likely before the runner is.
    until(lambda: scratch(m, 1), "there is a scratch directory")
    (vacate_fast if fast else htmap.Map.vacate)(m)
    start, end = m.get(0, timeout=TIMEOUT)
    assert end == start + 4
    assert events(m, htcondor.JobEventType.JOB_EVICTED)


def test_vacates_at_all_moments_hold_nothing(assume: None) -> None:
    def slow(x: int) -> int:
        import time

        time.sleep(1)
        return x

    m = htmap.map(slow, range(8))
    for pause in itertools.islice(itertools.cycle([0.1, 0.3, 0.7, 1.1]), 12):
        until(lambda: htmap.ComponentStatus.RUNNING in m.component_statuses or m.is_done, "some component runs")
        time.sleep(pause)
        m.vacate()
    assert results(m) == list(range(8))
    assert events(m, htcondor.JobEventType.JOB_EVICTED)


def test_hold_and_release(assume: None) -> None:
    m = htmap.map(counting(evictions=1), [None])
    until(made(m, 1, "counted-4"), "it counts")
    m.hold()
    until(lambda: m.component_statuses == [htmap.ComponentStatus.HELD], "it is held")
    m.release()
    # HTMap knows from the event log only.
    until(lambda: m.component_statuses != [htmap.ComponentStatus.HELD], "it is released")
    start, end = m.get(0, timeout=TIMEOUT)
    assert end == start + 4
    assert start >= 4


def test_a_removed_map_leaves_nothing_running(assume: None) -> None:
    m = htmap.map(counting(evictions=1), [None])
    until(made(m, 1, "counted-1"), "it counts")
    m.remove()
    until(lambda: not scratch(m, 1), "its scratch directory is gone")


def test_a_vacate_during_the_last_moments_keeps_the_result(assume: None) -> None:
    """HTCondor runs a component again that was evicted after its end: its output stands already."""

    def linger(_: object) -> str:
        import pathlib
        import re
        import threading
        import time

        attempt = re.search(r"^NumShadowStarts = (\d+)$", pathlib.Path(".job.ad").read_text(), re.MULTILINE)[1]
        threading.Thread(target=time.sleep, args=(6,)).start()
        return f"finished by attempt {attempt}"

    m = htmap.map(linger, [None])
    until(printed(m, "MAP COMPONENT OUTPUT END"), "the result stands")
    m.vacate()
    assert m.get(0, timeout=TIMEOUT) == "finished by attempt 1"
    assert events(m, htcondor.JobEventType.JOB_EVICTED)
