"""Says what a delivery method adds to a job, why, and what could keep the job idle.

What the pool offers is asked of the pool itself, where one answers; without one the rest is said all the same.
"""

import pathlib
import re
import textwrap
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from . import delivery
from .delivery import Descriptor, Method, Requirement
from .failures import HtmapExecError

WIDTH = 100
_TAG = "TAG"
_MAP_DIR = "/MAP_DIR"

_BY_HTMAP = {
    "jobbatchname": "condor_q shows the map's tag",
    "log": "HTMap reads the statuses of all components from this event log",
    "submit_event_notes": "the component's number in the event log, where HTMap looks for it",
    "stdout": "what the component prints; `map.stdout` reads it",
    "stderr": "`map.stderr` reads it",
    "should_transfer_files": "no shared file system is taken for granted",
    "when_to_transfer_output": "after an eviction, too: that is how checkpoints come back",
    "on_exit_hold": "an exit status other than 0 means that there is no output: the hold reason tells why",
    "initialdir": "output files arrive below it",
    "my.component": "the component's number, for condor_q",
    "my.ishtmapjob": "marks jobs of HTMap",
}

# What HTCondor puts into the requirements of every job that transfers files, if the job does not say otherwise:
# https://htcondor.readthedocs.io/en/latest/man-pages/condor_submit.html
_FILE_TRANSFER = Requirement("HasFileTransfer", "the node can transfer files")


def explain(delivery_method: Optional[str] = None) -> str:
    """What a delivery method (the setting DELIVERY_METHOD if none is named) adds to a job, and why, as text.

    Raises HtmapExecError for an unknown one, and for what would keep a map from being submitted.
    """
    from .enabling import load_htmap

    htmap = load_htmap()
    name = htmap.settings["DELIVERY_METHOD"] if delivery_method is None else delivery_method
    method = delivery.find(name)
    if method is None:
        raise HtmapExecError(f"there is no delivery method {name!r} of htmap-exec's: {delivery.meant(name)}")
    return "\n".join(_lines(htmap, method)) + "\n"


def _lines(htmap: Any, method: Method) -> Iterator[str]:
    yield f"Delivery by `{method.name}`: {method.summary}."
    context = delivery.context(htmap, pathlib.Path(_MAP_DIR))
    ours = {each.name.lower(): each for each in delivery.descriptors(method, context)}
    chosen = {name.lower() for name in htmap.settings.get("MAP_OPTIONS", default={})}
    all_of_it = _as_submitted(htmap, method.name)
    sections: List[Tuple[str, List[Descriptor]]] = [
        ("By htmap-exec", []),
        ("By HTMap", []),
        ("By MAP_OPTIONS (HTMap's defaults and your settings)", []),
    ]
    order = {name: index for index, name in enumerate(ours)}
    for name, value in sorted(all_of_it.items(), key=lambda each: order.get(each[0].lower(), -1)):
        key = name.lower()
        mine = key in ours and (key == "requirements" or value == ours[key].value)
        if key in chosen and not mine:
            sections[2][1].append(Descriptor(name, value, ""))
        elif key in ours:
            sections[0][1].append(Descriptor(name, value, ours[key].reason))
        else:
            sections[1][1].append(Descriptor(name, value, _BY_HTMAP.get(key, "")))
    for title, found in sections:
        if found:
            yield ""
            yield f"{title}:"
            for each in found:
                yield from _described(each)
    yield ""
    yield from _idle(htmap, method, context, all_of_it)


def _as_submitted(htmap: Any, name: str) -> Dict[str, Any]:
    from htmap import options

    # The last of several names that differ in case only is the one that counts.
    found: Dict[str, Tuple[str, Any]] = {}
    for each, value in options.get_base_descriptors(_TAG, pathlib.Path(_MAP_DIR), name).items():
        found[each.lower()] = (each, value)
    return dict(found.values())


def _described(each: Descriptor) -> Iterator[str]:
    value = ", ".join(each.value) if isinstance(each.value, list) else str(each.value)
    yield f"  {each.name} = {value}"
    if each.reason:
        yield from _wrapped(each.reason, 6)


class _Need(NamedTuple):
    requirement: Requirement
    # What a machine has to be for it, in the terms of its own ad; None if that cannot be said.
    constraint: Optional[str]


def _idle(htmap: Any, method: Method, context: delivery.Context, submitted: Dict[str, Any]) -> Iterator[str]:
    yield "A component stays idle until a node meets all of these:"
    needs = list(_needs(method, submitted))
    of_node_alone = delivery.of_node_alone(context) if method.name == "transplant" else None
    if of_node_alone is not None:
        needs.append(_Need(of_node_alone, None))
    counts = _count(htmap, [need.constraint for need in needs])
    for need, count in zip(needs, counts):
        yield f"  {need.requirement.expression}"
        yield from _wrapped(need.requirement.meaning, 6)
        if count is not None:
            yield f"      in this pool: {count}"
    if not any(counts):
        yield "  (No pool answers here, so nothing can be said of its nodes.)"
    yield from _wrapped(
        "MapOptions(requirements=...) and MAP_OPTIONS.requirements come on top. For a job that is idle: "
        "condor_q -better-analyze JOB_ID",
        0,
    )


def _needs(method: Method, submitted: Dict[str, Any]) -> Iterator[_Need]:
    for requirement in method.implies:
        yield _Need(requirement, requirement.expression)
    requirements = submitted.get("requirements")
    if requirements is not None:
        own = Requirement(str(requirements), "the requirements of the delivery method and of your settings")
        yield _Need(own, str(requirements).replace("TARGET.", ""))
    if requirements is None or "arch" not in str(requirements).lower():
        arch = Requirement("Arch and OpSys of this access point", "HTCondor adds them where requirements name none")
        yield _Need(arch, None)
    yield _Need(_FILE_TRANSFER, _FILE_TRANSFER.expression)
    values = {name.lower(): value for name, value in submitted.items()}
    for name, attribute, unit in (
        ("request_cpus", "TotalSlotCpus", 1),
        ("request_memory", "TotalSlotMemory", 2**20),
        ("request_disk", "TotalSlotDisk", 2**10),
    ):
        if name in values:
            amount = _amount(str(values[name]), unit)
            requirement = Requirement(f"{name} = {values[name]}", "a slot of this size, now or after others have ended")
            yield _Need(requirement, None if amount is None else f"{attribute} >= {amount}")


def _amount(text: str, unit: int) -> Optional[int]:
    """In HTCondor's unit for that resource: memory in MiB, disk in KiB, processors one by one."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)B?\s*", text, re.IGNORECASE)
    if match is None:
        return None
    number, suffix = float(match[1]), match[2].upper()
    if not suffix:
        return int(number)
    return int(number * 2 ** (10 * ("KMGT".index(suffix) + 1)) / unit)


def _count(htmap: Any, constraints: List[Optional[str]]) -> List[Optional[str]]:
    """For each constraint how many machines of the pool meet it."""
    import htcondor

    try:
        collector = htcondor.Collector(htmap.settings["HTCONDOR.COLLECTOR"])
        # Slots that were carved out of another one are that machine's, too.
        every = _machines(collector, None)
        return [
            None if constraint is None else f"{_machines(collector, constraint)} of {every} machines"
            for constraint in constraints
        ]
    except Exception:
        # The bindings have an exception for each kind of trouble, and none of them matters here.
        return [None for _ in constraints]


def _machines(collector: Any, constraint: Optional[str]) -> int:
    import htcondor

    ads = collector.query(htcondor.AdTypes.Startd, constraint or "true", ["Machine"])
    return len({ad.get("Machine") for ad in ads})


def _wrapped(text: str, indent: int) -> List[str]:
    margin = " " * indent
    return textwrap.wrap(
        text, WIDTH, initial_indent=margin, subsequent_indent=margin, break_long_words=False, break_on_hyphens=False
    )
