"""Vacate, hold, release and remove, with checkpoints and output files."""

import time

import conftest
import htmap


def counting(steps, pause):
    """Counts to `steps`, checkpointing each; returns where it started and where it ended."""

    def count(_):
        import pathlib
        import time

        import htmap

        state = pathlib.Path("state", "count")
        state.parent.mkdir(exist_ok=True)
        start = int(state.read_text()) if state.exists() else 0
        pathlib.Path(f"part-{start}").write_text("part")
        htmap.transfer_output_files(f"part-{start}")
        for number in range(start + 1, steps + 1):
            state.write_text(str(number))
            htmap.checkpoint("state")
            print("done", start, number)
            time.sleep(pause)
        return start, steps

    return count


def test_a_checkpoint_survives_one_vacate_and_then_another(assume):
    m = htmap.map(counting(40, 0.25), [None])
    conftest.until(conftest.printed(m, "done 0 4"), "the first attempt counts")
    m.vacate()
    conftest.until(conftest.attempts(m, 2), "it runs again")
    conftest.until(conftest.printed(m, "\ndone "), "the second attempt counts")
    m.vacate()
    start, end = m.get(0, timeout=conftest.TIMEOUT)
    assert end == 40
    assert start >= 4
    parts = sorted(path.name for path in m.output_files.get(0).iterdir())
    assert "part-0" in parts and f"part-{start}" in parts and len(parts) == 3
    assert not list((m._map_dir / "output_files").rglob("*checkpoint*"))


def test_a_vacate_right_after_the_start_loses_nothing(assume):
    m = htmap.map(counting(12, 0.25), [None])
    conftest.until(conftest.running(m), "it runs")
    m.vacate()
    assert m.get(0, timeout=conftest.TIMEOUT)[1] == 12


def test_a_second_eviction_before_the_next_checkpoint_keeps_the_first_one(assume):
    def precious(_):
        import pathlib
        import time

        import htmap

        state = pathlib.Path("state")
        if not state.exists():
            state.write_text("precious")
            htmap.checkpoint(state)
            print("checkpointed")
            time.sleep(600)
        time.sleep(4)
        return state.read_text()

    m = htmap.map(precious, [None])
    conftest.until(conftest.printed(m, "checkpointed"), "the first attempt checkpoints")
    m.vacate()
    conftest.until(conftest.attempts(m, 2), "the second attempt runs")
    m.vacate()
    conftest.until(conftest.attempts(m, 3), "the third attempt runs")
    assert m.get(0, timeout=conftest.TIMEOUT) == "precious"


def test_stock_htmap_loses_it(stock):
    """The control for the test above: the same evictions of HTMap's own script."""

    def precious(_):
        import os
        import pathlib
        import time

        state = pathlib.Path("state")
        if not state.exists():
            # What HTMap's checkpoint() leaves behind: the nodes of this pool have no htmap.
            scratch = pathlib.Path(os.environ["_CONDOR_SCRATCH_DIR"])
            current = scratch / "_htmap_transfer" / "_htmap_current_checkpoint"
            current.mkdir(exist_ok=True)
            (current / "state").write_text("precious")
            time.sleep(6)
            return "started from nothing"
        time.sleep(6)
        return state.read_text()

    m = htmap.map(precious, [None])
    for number in (1, 2):
        conftest.until(conftest.attempts(m, number), f"attempt {number} runs")
        # Its stdout is buffered: nothing tells how far it is.
        time.sleep(2)
        m.vacate()
    assert m.get(0, timeout=conftest.TIMEOUT) == "started from nothing"


def test_hold_and_release(assume):
    m = htmap.map(counting(16, 0.25), [None])
    conftest.until(conftest.printed(m, "done 0 3"), "it counts")
    m.hold()
    conftest.until(lambda: m.component_statuses[0] is htmap.ComponentStatus.HELD, "it is held")
    assert "via htmap" in str(m.holds[0].reason).lower() or m.holds[0].code == 1
    m.release()
    start, end = m.get(0, timeout=conftest.TIMEOUT)
    assert end == 16
    assert start >= 3


def test_a_removed_map_leaves_nothing_running(assume):
    m = htmap.map(counting(4000, 0.25), [None])
    conftest.until(conftest.printed(m, "done 0 1"), "it counts")
    m.remove()
    conftest.until(lambda: not conftest.printed(m, "done 0 1")(), "it is gone")


def test_a_vacate_during_the_last_moments_keeps_the_result(assume):
    """HTCondor runs a component again that was evicted after its end: its output stands already."""

    def linger(_):
        import threading
        import time

        threading.Thread(target=time.sleep, args=(6,)).start()
        print("returning")
        return "finished"

    m = htmap.map(linger, [None])
    conftest.until(conftest.printed(m, "MAP COMPONENT OUTPUT END"), "the result stands")
    m.vacate()
    assert m.get(0, timeout=conftest.TIMEOUT) == "finished"
