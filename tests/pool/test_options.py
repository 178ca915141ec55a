"""MapOptions and deliveries as HTCondor takes them: what HTMap alone gets wrong, and what keeps a job idle."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import htcondor
import htmap
import htmap_exec
import pytest
from on_pool import finished, results

pytestmark = pytest.mark.usefixtures("assume")


def what_came() -> Callable[[object], list[str]]:
    """A function that tells which of the user's files its component got. (One of this module would not be there.)"""

    def files(_: object) -> list[str]:
        return sorted(name for name in os.listdir() if name.endswith(".txt"))

    return files


def written(directory: Path, *names: str) -> list[str]:
    for name in names:
        (directory / name).write_text(name)
    return [str(directory / name) for name in names]


def ads(m: htmap.Map, *attributes: str) -> list[dict[str, object]]:
    """Of all components in the queue, in their order."""
    found = htcondor.Schedd().query(f'JobBatchName == "{m.tag}"', [*attributes, "component"])
    return [dict(ad) for ad in sorted(found, key=lambda ad: int(str(ad["component"])))]


def test_one_options_object_for_two_maps(tmp_path: Path) -> None:
    a, b, both = written(tmp_path, "a.txt", "b.txt", "both.txt")
    options = htmap.MapOptions(fixed_input_files=both, input_files=[[], []])
    first = htmap.map(what_came(), [htmap.TransferPath(a), 0], map_options=options)
    second = htmap.map(what_came(), [htmap.TransferPath(b), 0], map_options=options)
    assert results(first) == [["a.txt", "both.txt"], ["both.txt"]]
    assert results(second) == [["b.txt", "both.txt"], ["both.txt"]]


def test_one_file_for_each_component(tmp_path: Path) -> None:
    options = htmap.MapOptions(input_files=written(tmp_path, "a.txt", "b.txt"))
    assert results(htmap.map(what_came(), range(2), map_options=options)) == [["a.txt"], ["b.txt"]]


def test_a_mapped_function_keeps_its_output_remaps(tmp_path: Path) -> None:
    """A file of two goes elsewhere, by HTCondor's own plugin for `file://` (nodes share this machine's disk)."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o777)

    @htmap.mapped(
        map_options=htmap.MapOptions(output_remaps={"big.txt": htmap.TransferPath(elsewhere / "big.txt", "file")})
    )
    def writes(x: int) -> None:
        for name in ("big.txt", "small.txt"):
            with open(name, "w") as file:
                file.write(f"{name} {x}")
        htmap.transfer_output_files("big.txt", "small.txt")

    m = finished(writes.map([7]))
    assert not m.holds, m.hold_report()
    assert (elsewhere / "big.txt").read_text() == "big.txt 7"
    assert [path.name for path in m.output_files[0].iterdir()] == ["small.txt"]


def test_numbers(map_options: Callable[..., None]) -> None:
    map_options(requirements="HasFileTransfer")
    options = htmap.MapOptions(request_cpus=[1, 2], request_memory=64, requirements="HasFish =!= true", hold=True)
    m = htmap.map(str, [1, 2], map_options=options)
    found = ads(m, "RequestCpus", "RequestMemory", "Requirements")
    assert [ad["RequestCpus"] for ad in found] == [1, 2]
    assert [ad["RequestMemory"] for ad in found] == [64, 64]
    # The settings' and the map's, where HTMap alone drops the former.
    assert all("HasFileTransfer" in str(ad["Requirements"]) and "HasFish" in str(ad["Requirements"]) for ad in found)


def test_settings_reach_the_component(settings: Callable[..., None]) -> None:
    settings(TIMEOUT=2)
    [report] = finished(htmap.map(__import__("time").sleep, [100])).error_reports()
    assert "--timeout" in report


@pytest.mark.parametrize(
    ("method", "attributes"),
    [
        ("docker", {"WantDocker": True, "DockerImage": "python:3", "DockerOverrideEntrypoint": True}),
        ("singularity", {"WantContainer": True, "ContainerImage": "docker://python:3"}),
        ("container", {"WantContainer": True, "ContainerImage": "docker://python:3"}),
    ],
)
def test_containers_wait_for_a_node_that_has_them(method: str, attributes: dict[str, object]) -> None:
    """No node of this pool runs containers."""
    htmap.settings["DELIVERY_METHOD"] = method
    htmap.settings["DOCKER.IMAGE"] = "python:3"
    htmap.settings["SINGULARITY.IMAGE"] = "docker://python:3"
    m = htmap.map(str, [1])
    [ad] = ads(m, *attributes, "Requirements", "Cmd", "Arguments", "TransferExecutable")
    assert {name: ad.get(name) for name in attributes} == attributes
    need = {"docker": "HasDocker", "singularity": "HasSingularity", "container": "HasContainer"}[method]
    assert need in str(ad["Requirements"])
    assert ad["Cmd"] == os.environ["HTMAP_EXEC_BIN"]
    assert ad.get("TransferExecutable", True)
    assert m.component_statuses == [htmap.ComponentStatus.IDLE]
    text = htmap_exec.explain(method)
    assert f"{need}" in text
    assert "in this pool: 0 of 1 machines" in text


def test_what_could_keep_a_job_idle() -> None:
    text = htmap_exec.explain("assume")
    idle = text.split("A component stays idle")[1]
    assert "in this pool: 1 of 1 machines" in idle
    assert "0 of" not in idle
    htmap.settings["MAP_OPTIONS.request_memory"] = "100GB"
    try:
        assert "in this pool: 0 of 1 machines" in htmap_exec.explain("assume")
    finally:
        del htmap.settings.maps[0]["MAP_OPTIONS"]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"EXEC.BINARY": "/no/such"}, htmap_exec.BinaryNotFound),
        ({"EXEC.TIMEOUT": "soon"}, htmap_exec.SettingsError),
        ({"EXEC.ARCH": "riscv64"}, htmap_exec.BinaryUnusable),
        ({"DELIVERY_METHOD": "transplant"}, htmap_exec.DeliveryUnavailable),
        ({"DELIVERY_METHOD": "dokcer"}, htmap.exceptions.UnknownPythonDeliveryMethod),
    ],
)
def test_nothing_is_half_submitted(settings: dict[str, object], error: type[Exception], tmp_path: Path) -> None:
    before = dict(htmap.settings.maps[0])
    before["EXEC"] = dict(before.get("EXEC", {}))
    try:
        for name, value in settings.items():
            htmap.settings[name] = value
        with pytest.raises(error):
            htmap.map(str, [1], tag="never")
    finally:
        htmap.settings.maps[0] = before
    home = Path(htmap.settings["HTMAP_DIR"])
    assert list((home / "maps").iterdir()) == list((home / "tags").iterdir()) == []
    assert htcondor.Schedd().query('JobBatchName == "never"') == []
