"""What `explain` says of each delivery method, without a pool; tests/pool/test_options.py asks one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import htmap_exec
import pytest
from htmap_exec import delivery


@pytest.mark.parametrize("method", [method.name for method in delivery.METHODS])
def test_every_descriptor_has_a_reason(enabled: Any, method: str) -> None:
    text = htmap_exec.explain(method)
    assert text.startswith(f"Delivery by `{method}`: ")
    ours, by_htmap, options, idle = text.split("\n\n")[-4:]
    for section in (ours, by_htmap):
        lines = section.splitlines()[1:]
        for line, following in zip(lines, [*lines[1:], ""]):
            if line.startswith("  ") and not line.startswith("   "):
                assert following.startswith("      "), f"no reason for `{line}`"
    assert "request_memory = 128MB" in options
    assert idle.startswith("A component stays idle until")
    assert "No pool answers here" in idle


@pytest.mark.parametrize(
    ("method", "needs"),
    [
        ("assume", []),
        ("docker", ["  HasDocker\n"]),
        ("singularity", ["  HasContainer\n", "HasSingularity"]),
        ("container", ["  HasContainer\n"]),
        ("apptainer", []),
    ],
)
def test_what_keeps_a_job_idle(enabled: Any, method: str, needs: list[str]) -> None:
    idle = htmap_exec.explain(method).split("A component stays idle")[1]
    for need in needs:
        assert need in idle
    assert ("HasDocker" in idle) == (method == "docker")
    assert "HasFileTransfer" in idle


def test_the_setting_is_the_default(enabled: Any) -> None:
    enabled.settings["DELIVERY_METHOD"] = "shared"
    assert htmap_exec.explain().startswith("Delivery by `shared`")


def test_settings_show(enabled: Any) -> None:
    enabled.settings["MAP_OPTIONS.REQUEST_MEMORY"] = "7GB"
    enabled.settings["MAP_OPTIONS.requirements"] = "HasFish"
    enabled.settings["EXEC.TIMEOUT"] = 60
    text = htmap_exec.explain("assume")
    assert "REQUEST_MEMORY = 7GB" in text
    assert "128MB" not in text
    assert "(HasFish)" in text.split("A component stays idle")[1]
    assert "--timeout 60" in text


def test_htmaps_frozen_image_is_named_as_such(enabled: Any) -> None:
    assert "Python 3.7" in htmap_exec.explain("docker")
    enabled.settings["DOCKER.IMAGE"] = "python:3.11"
    assert "Python 3.7" not in htmap_exec.explain("docker")


def test_an_image_that_fails_htcondors_test(enabled: Any, tmp_path: Path) -> None:
    enabled.settings["EXEC.CONTAINER_IMAGE"] = str(tmp_path)
    assert "its jobs start again for ever" in " ".join(htmap_exec.explain("container").split())
    (tmp_path / ".singularity.d" / "actions").mkdir(parents=True)
    (tmp_path / ".singularity.d" / "actions" / "test").touch()
    text = " ".join(htmap_exec.explain("container").split())
    assert "for ever" not in text
    assert "runs the image's own test" in text


def test_a_transplant_that_is_not_built_yet(enabled: Any) -> None:
    assert "/DIGEST" in htmap_exec.explain("transplant")


def test_unknown(enabled: Any) -> None:
    with pytest.raises(htmap_exec.HtmapExecError, match=r"'dokcer' .*: did you mean `docker`\?"):
        htmap_exec.explain("dokcer")
    with pytest.raises(htmap_exec.HtmapExecError, match=r"'quite other' .*: they are assume, shared, docker"):
        htmap_exec.explain("quite other")
