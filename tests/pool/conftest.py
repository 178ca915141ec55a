"""Maps of stock HTMap on a real pool. Runs inside the pool, as the user who submits: `scripts/pool test`."""

import os
import pathlib
import time

import htcondor
import pytest

pytest.importorskip("htmap", reason="these tests run inside the pool: scripts/pool test")

import htmap
import htmap_exec

BINARY = os.environ["HTMAP_EXEC_BIN"]
TIMEOUT = 90


def pytest_configure(config):
    config.addinivalue_line("filterwarnings", "ignore::FutureWarning")
    config.addinivalue_line("filterwarnings", "ignore::DeprecationWarning")


@pytest.fixture(autouse=True)
def home(tmp_path_factory):
    directory = tmp_path_factory.mktemp("htmap")
    htmap.settings["HTMAP_DIR"] = str(directory)
    for name in ("maps", "tags", "logs", ".removed-tags"):
        (directory / name).mkdir()
    return directory


@pytest.fixture(params=["assume", "shared"])
def delivery(request):
    htmap_exec.enable(BINARY)
    htmap.settings["DELIVERY_METHOD"] = request.param
    return request.param


@pytest.fixture
def assume():
    htmap_exec.enable(BINARY)
    htmap.settings["DELIVERY_METHOD"] = "assume"


@pytest.fixture
def stock():
    """HTMap as it is on PyPI, without htmap_exec."""
    from htmap import options

    htmap.register_delivery_method("assume", options._get_base_descriptors_for_assume)
    htmap.settings["DELIVERY_METHOD"] = "assume"


@pytest.fixture(autouse=True)
def no_holds(request):
    """No component may end up on hold, whatever a test does to it."""
    yield
    held = [
        (ad.get("JobBatchName"), ad.get("HoldReason"))
        for ad in htcondor.Schedd().query("JobStatus == 5", ["JobBatchName", "HoldReason"])
    ]
    htcondor.Schedd().act(htcondor.JobAction.Remove, "true")
    if "holds_expected" not in request.keywords:
        assert held == []


def until(condition, what, timeout=TIMEOUT):
    """Waits for a condition that HTCondor brings about."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.2)
    raise AssertionError(f"not within {timeout} s: {what}")


def running(m, component=0):
    return lambda: m.component_statuses[component] is htmap.ComponentStatus.RUNNING


def attempts(m, number):
    """Whether the component's job has been started this many times and runs now."""

    def look():
        wanted = f'JobBatchName == "{m.tag}"'
        ads = htcondor.Schedd().query(wanted, ["NumShadowStarts", "JobStatus"])
        return [(ad.get("NumShadowStarts"), ad["JobStatus"]) for ad in ads] == [(number, 2)]

    return look


def printed(m, text, component=0):
    """Whether a running component has printed this: its stdout is on this machine, live."""

    def look():
        for path in pathlib.Path("/var/lib/condor/execute").glob("dir_*/_condor_stdout"):
            try:
                if text in path.read_text():
                    return True
            except OSError:
                pass
        return False

    return look


def finished(m):
    """Waits for all components, failed ones included."""
    m.wait(timeout=TIMEOUT, errors_ok=True)
    return m
