"""Map directories as HTMap leaves them, made without a scheduler: HTMap reads everything from the event log."""

from __future__ import annotations

import datetime
import gzip
import json
import pickle
import types
import uuid
from collections.abc import Sequence
from pathlib import Path

import htmap_exec

_SUBMITTED = "000 ({job}) 2024-03-01 10:00:00 Job submitted from host: <127.0.0.1:9618>\n    {component}\n...\n"
_RUNS = "001 ({job}) 2024-03-01 10:00:01 Job executing on host: <127.0.0.1:9619>\n...\n"
_SIZE = (
    "006 ({job}) 2024-03-01 10:00:02 Image size of job updated: 12345\n"
    "\t12  -  MemoryUsage of job (MB)\n\t12000  -  ResidentSetSize of job (KB)\n...\n"
)
_TERMINATED = (
    "005 ({job}) 2024-03-01 10:00:09 Job terminated.\n"
    "\t(1) Normal termination (return value 0)\n"
    "\t\tUsr 0 00:00:05, Sys 0 00:00:01  -  Run Remote Usage\n"
    "\t\tUsr 0 00:00:00, Sys 0 00:00:00  -  Run Local Usage\n"
    "\t\tUsr 0 00:00:05, Sys 0 00:00:01  -  Total Remote Usage\n"
    "\t\tUsr 0 00:00:00, Sys 0 00:00:00  -  Total Local Usage\n"
    "\t0  -  Run Bytes Sent By Job\n\t0  -  Run Bytes Received By Job\n"
    "\t0  -  Total Bytes Sent By Job\n\t0  -  Total Bytes Received By Job\n...\n"
)
_HELD = "012 ({job}) 2024-03-01 10:00:03 Job was held.\n\tThe node had no fish\n\tCode 26 Subcode 7\n...\n"
_ABORTED = "009 ({job}) 2024-03-01 10:00:04 Job was aborted.\n\tvia condor_rm (by user submitter)\n...\n"

_EVENTS = {
    "IDLE": "",
    "RUNNING": _RUNS + _SIZE,
    "HELD": _RUNS + _HELD,
    "REMOVED": _ABORTED,
    "COMPLETED": _RUNS + _SIZE + _TERMINATED,
    "ERRORED": _RUNS + _SIZE + _TERMINATED,
}


def double(x: int) -> int:
    return 2 * x


def write(htmap_dir: Path, tag: str, statuses: Sequence[str], *, transient: bool = False) -> Path:
    """A map whose components have come to these statuses, with what each of them leaves behind."""
    uid = str(uuid.uuid4())
    directory = htmap_exec.write_map(htmap_dir / "maps" / uid, double, range(len(statuses)))
    (htmap_dir / "tags").mkdir(exist_ok=True)
    (htmap_dir / "tags" / tag).write_text(uid)
    (directory / "submit").write_text(json.dumps({"executable": "/bin/false", "JobBatchName": tag}))
    (directory / "itemdata").write_text(json.dumps([{"component": str(each)} for each in range(len(statuses))]))
    (directory / "cluster_ids").write_text("17\n")
    if transient:
        (directory / "transient").touch()
    for component in range(len(statuses)):
        _log(directory, component, _SUBMITTED)
    for component, status in enumerate(statuses):
        comes_to(directory, component, status)
    return directory


def comes_to(directory: Path, component: int, status: str) -> None:
    if status == "COMPLETED":
        output(directory, component, "OK", 2 * component)
    elif status == "ERRORED":
        output(directory, component, "ERR", _error(component))
    if status in ("COMPLETED", "ERRORED"):
        for stream in ("stdout", "stderr"):
            (directory / "logs" / f"{component}.{stream}").write_text(f"the {stream} of {component}\n")
        (directory / "output_files" / str(component)).mkdir()
    _log(directory, component, _EVENTS[status])


def _log(directory: Path, component: int, events: str) -> None:
    with (directory / "events").open("a") as log:
        log.write(events.format(job=f"017.{component:03d}.000", component=component))


def output(directory: Path, component: int, status: str, value: object) -> None:
    with gzip.open(directory / "outputs" / f"{component}.out", "wb") as file:
        pickle.dump(status, file)
        pickle.dump(value, file)


def _error(component: int) -> object:
    return types.SimpleNamespace(
        component=component,
        exception_msg=f"ValueError: {component} is too odd",
        node_info=("node", "192.0.2.1", datetime.datetime(2024, 3, 1, 10), "submitter"),
        python_info=("/usr/bin/python3", "3.11.2", "cloudpickle==3.1.2"),
        scratch_dir_contents=["/scratch/func"],
        stack_summary=[],
    )
