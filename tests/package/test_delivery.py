"""The descriptors that stock HTMap makes of htmap_exec's delivery methods."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import htmap_exec
import pytest
from htmap_exec import shipping
from htmap_exec.binary import find_binary

Submission = Callable[..., "tuple[dict[str, str], list[dict[str, str]]]"]
SUBMIT = f"{sys.version_info.major}.{sys.version_info.minor}"


def inputs(descriptors: dict[str, str]) -> list[str]:
    return [Path(path).name for path in descriptors["transfer_input_files"].split(",")]


def test_assume_sends_the_binary(submission: Submission, binary: Path, tmp_path: Path) -> None:
    descriptors, itemdata = submission("one", "assume")
    map_dir = tmp_path / "maps" / "one"
    assert descriptors["executable"] == str(binary)
    assert descriptors["transfer_executable"] == "True"
    assert descriptors["universe"] == "vanilla"
    assert descriptors["arguments"] == f'"run --submit-python {SUBMIT} $(component)"'
    assert descriptors["transfer_input_files"].split(",") == [
        f"{map_dir}/_htmap_cloudpickle.zip",
        f"{map_dir}/scratch/_htmap_transfer",
        f"{map_dir}/scratch/_htmap_user_transfer",
        f"{map_dir}/func",
        f"{map_dir}/inputs/$(component).in",
    ]
    assert itemdata == [{"component": "0"}, {"component": "1"}]


def test_shared_names_the_submit_sides_python_unresolved(
    submission: Submission, binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/it's here/an env/bin/python")
    descriptors, _ = submission("one", "shared")
    assert descriptors["executable"] == str(binary)
    assert descriptors["transfer_executable"] == "False"
    assert descriptors["arguments"] == (
        f"\"run --submit-python {SUBMIT} --python '/it''s here/an env/bin/python' $(component)\""
    )


def test_shared_without_a_known_python(submission: Submission, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(htmap_exec.HtmapExecError, match="does not know its own path"):
        submission("one", "shared")


def test_docker(submission: Submission, enabled: Any) -> None:
    enabled.settings["DOCKER.IMAGE"] = "python:3.11-slim"
    descriptors, _ = submission("one", "docker")
    assert descriptors["universe"] == "docker"
    assert descriptors["docker_image"] == "python:3.11-slim"
    assert descriptors["docker_override_entrypoint"] == "True"
    assert descriptors["transfer_executable"] == "True"


def test_singularity(submission: Submission, enabled: Any) -> None:
    enabled.settings["SINGULARITY.IMAGE"] = "docker://python:3.11-slim"
    descriptors, _ = submission("one", "singularity")
    assert descriptors["universe"] == "container"
    assert descriptors["container_image"] == "docker://python:3.11-slim"
    assert "HasSingularity" in descriptors["requirements"]


def test_container(submission: Submission, enabled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "python.sif").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    enabled.settings["EXEC.CONTAINER_IMAGE"] = "python.sif"
    descriptors, _ = submission("one", "container")
    assert descriptors["universe"] == "container"
    assert descriptors["container_image"] == str(tmp_path / "python.sif")
    assert "requirements" not in descriptors
    # HTCondor sends no tree with links to directories.
    (tmp_path / "tree").mkdir()
    enabled.settings["EXEC.CONTAINER_IMAGE"] = str(tmp_path / "tree")
    descriptors, _ = submission("tree", "container")
    assert (descriptors["container_image"], descriptors["transfer_container"]) == (str(tmp_path / "tree"), "False")
    enabled.settings["EXEC.CONTAINER_IMAGE"] = "/cvmfs/images/python"
    descriptors, _ = submission("two", "container")
    assert (descriptors["container_image"], descriptors["transfer_container"]) == ("/cvmfs/images/python", "False")
    enabled.settings["EXEC.CONTAINER_IMAGE"] = "python:3.11"
    with pytest.raises(htmap_exec.SettingsError, match=r"does not exist here.*docker://python:3\.11"):
        submission("three", "container")


def test_apptainer(submission: Submission, enabled: Any, tmp_path: Path) -> None:
    (tmp_path / "python.sif").write_bytes(b"")
    (tmp_path / "tree").mkdir()
    for tag, image, name, is_sent in (
        ("file", str(tmp_path / "python.sif"), "python.sif", True),
        ("osdf", "osdf:///ospool/me/python-1.sif", "python-1.sif", True),
        ("tree", str(tmp_path / "tree"), str(tmp_path / "tree"), False),
        ("cvmfs", "/cvmfs/images/python", "/cvmfs/images/python", False),
        ("docker", "docker://python:3.11-slim", "docker://python:3.11-slim", False),
    ):
        enabled.settings["SINGULARITY.IMAGE"] = image
        descriptors, _ = submission(tag, "apptainer")
        assert descriptors["universe"] == "vanilla"
        assert "container_image" not in descriptors
        assert descriptors["arguments"] == f'"run --submit-python {SUBMIT} --image {name} $(component)"'
        assert (image in descriptors["transfer_input_files"]) == is_sent


@pytest.mark.parametrize(
    ("method", "setting"),
    [("docker", "DOCKER.IMAGE"), ("singularity", "SINGULARITY.IMAGE"), ("apptainer", "SINGULARITY.IMAGE")],
)
def test_no_image(submission: Submission, enabled: Any, method: str, setting: str) -> None:
    enabled.settings[setting] = ""
    with pytest.raises(htmap_exec.SettingsError, match=f"set {setting}"):
        submission("one", method)


def test_transplant(submission: Submission, enabled: Any) -> None:
    enabled.settings["EXEC.PYTHON"] = "/not/this/one"
    enabled.settings["TRANSPLANT.ALTERNATE_INPUT_PATH"] = "osdf:///origin/env-1.tar.zst?pack=auto"
    descriptors, _ = submission("one", "transplant")
    assert descriptors["arguments"] == f'"run --submit-python {SUBMIT} --transplant env-1.tar.zst $(component)"'
    assert inputs(descriptors)[:3] == ["_htmap_cloudpickle.zip", "_htmap_transfer", "_htmap_user_transfer"]
    assert "osdf:///origin/env-1.tar.zst?pack=auto" in descriptors["transfer_input_files"]


def test_a_python_that_cannot_be_packed(submission: Submission, binary: Path) -> None:
    binary.write_text("#!/bin/sh\necho 'htmap-exec: error: no room' >&2\nexit 1\n")
    with pytest.raises(htmap_exec.TransplantError, match="cannot be transplanted: htmap-exec: error: no room"):
        submission("one", "transplant")


def test_what_a_build_says_is_shown(
    submission: Submission, binary: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    archive = tmp_path / "archive"
    told = "warning: `x.so` needs `libx.so.1`, which is not found here"
    for said, shown in [(told, told + "\n"), ("nothing to do: no file has changed", "")]:
        build = f"cat >&2 <<'END'\n{said}\nEND\necho '{archive}'\n"
        binary.write_text(f'#!/bin/sh\nif [ "$2" = build ]; then {build}else exit 1; fi\n')
        with contextlib.suppress(htmap_exec.TransplantError):
            submission("one", "transplant")
        assert capsys.readouterr().err == shown


def test_unknown(submission: Submission, enabled: Any) -> None:
    with pytest.raises(
        enabled.exceptions.UnknownPythonDeliveryMethod,
        match=r"'dokcer': did you mean `docker`\? .* apptainer, assume, container, docker, shared",
    ):
        submission("one", "dokcer")
    with pytest.raises(enabled.exceptions.UnknownPythonDeliveryMethod, match="'zzz': set DELIVERY_METHOD to one of"):
        submission("two", "zzz")


@pytest.mark.parametrize("method", ["assume", "shared"])
def test_what_stays_as_htmap_has_it(submission: Submission, method: str, tmp_path: Path) -> None:
    descriptors, _ = submission("one", method)
    map_dir = tmp_path / "maps" / "one"
    assert descriptors["transfer_output_files"] == "_htmap_transfer/ , _htmap_user_transfer/"
    assert descriptors["when_to_transfer_output"] == "ON_EXIT_OR_EVICT"
    assert descriptors["on_exit_hold"] == "ExitCode =!= 0"
    assert descriptors["stdout"] == f"{map_dir}/logs/$(component).stdout"
    assert descriptors["initialdir"] == f"{map_dir}/output_files"


@pytest.mark.parametrize("method", ["assume", "shared"])
def test_outputs_and_run_records_go_home(submission: Submission, method: str, tmp_path: Path) -> None:
    descriptors, _ = submission("one", method)
    map_dir = tmp_path / "maps" / "one"
    out = f"$(component).out={map_dir}/outputs/$(component).out"
    record = f"$(component).json={map_dir}/records/$(component).json"
    assert descriptors["transfer_output_remaps"] == f'" {out} ; {record} "'
    assert (map_dir / "records").is_dir()


def test_a_maps_own_output_remaps_come_after_ours(submission: Submission, enabled: Any) -> None:
    remaps = {"big.bin": enabled.TransferPath("/elsewhere/big.bin", protocol="file")}
    descriptors, itemdata = submission("one", "assume", output_remaps=remaps)
    text = descriptors["transfer_output_remaps"]
    assert text.count('"') == 2
    assert text.startswith('"')
    assert text.endswith('; $(extra_remaps) "')
    assert ".json=" in text
    assert itemdata[1]["extra_remaps"] == "_htmap_user_transfer/1/big.bin=file:///elsewhere/big.bin"


@pytest.mark.parametrize("method", ["assume", "shared"])
def test_two_maps_of_one_process_do_not_share_inputs(submission: Submission, method: str, tmp_path: Path) -> None:
    submission("one", method, fixed_input_files="/data/first.txt")
    descriptors, _ = submission("two", method, fixed_input_files="/data/second.txt")
    assert inputs(descriptors) == [
        "_htmap_cloudpickle.zip",
        "_htmap_transfer",
        "_htmap_user_transfer",
        "func",
        "$(component).in",
        "second.txt",
    ]
    assert str(tmp_path / "maps" / "one") not in str(descriptors)


def test_settings_and_options_still_add(submission: Submission, enabled: Any) -> None:
    before = enabled.settings["MAP_OPTIONS.request_memory"]
    enabled.settings["MAP_OPTIONS.request_memory"] = "7GB"
    try:
        descriptors, itemdata = submission("one", "assume", requirements="HasFish", request_disk=["1GB", "2GB"])
    finally:
        enabled.settings["MAP_OPTIONS.request_memory"] = before
    assert descriptors["request_memory"] == "7GB"
    assert descriptors["requirements"] == "HasFish"
    assert [item["itemdata_for_request_disk"] for item in itemdata] == ["1GB", "2GB"]


def test_descriptors_survive_the_way_through_htmaps_files(submission: Submission, enabled: Any, tmp_path: Path) -> None:
    """HTMap submits what it reads back from `submit`."""
    import htcondor
    from htmap import htio

    descriptors, _ = submission("one", "shared")
    htio.save_submit(tmp_path, htcondor.Submit(descriptors))
    assert dict(htio.load_submit(tmp_path)) == descriptors


class TestBinary:
    def test_given(self, binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTMAP_EXEC_BIN", "/no/such")
        monkeypatch.chdir(binary.parent)
        assert find_binary("htmap-exec") == str(binary)

    def test_by_the_environment(self, binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTMAP_EXEC_BIN", str(binary))
        assert find_binary() == str(binary)

    def test_beside_this_python(self, binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HTMAP_EXEC_BIN", raising=False)
        monkeypatch.setattr(sys, "executable", str(binary.parent / "python"))
        assert find_binary() == str(binary)

    def test_on_path(self, binary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("HTMAP_EXEC_BIN", raising=False)
        monkeypatch.setenv("PATH", str(binary.parent))
        assert find_binary() == str(binary)

    def test_nowhere(self, submission: Submission, enabled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        del enabled.settings.maps[0]["EXEC"]
        monkeypatch.delenv("HTMAP_EXEC_BIN", raising=False)
        monkeypatch.setenv("PATH", "/no/such")
        with pytest.raises(htmap_exec.BinaryNotFound, match=r"the setting EXEC\.BINARY or .* HTMAP_EXEC_BIN"):
            submission("one", "assume")

    def test_missing(self, submission: Submission, enabled: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        del enabled.settings.maps[0]["EXEC"]
        monkeypatch.setenv("HTMAP_EXEC_BIN", "/no/such")
        with pytest.raises(htmap_exec.BinaryNotFound, match=r"`/no/such`, named by .* HTMAP_EXEC_BIN, does not exist"):
            submission("one", "assume")

    def test_the_setting_goes_before_the_environment(
        self, submission: Submission, enabled: Any, binary: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HTMAP_EXEC_BIN", "/no/such")
        assert submission("one", "assume")[0]["executable"] == str(binary)

    def test_not_executable(self, htmap: Any, binary: Path) -> None:
        binary.chmod(0o644)
        with pytest.raises(htmap_exec.BinaryNotFound, match=r"chmod \+x"):
            htmap_exec.enable(binary)

    def test_a_directory(self, htmap: Any, tmp_path: Path) -> None:
        with pytest.raises(htmap_exec.BinaryNotFound, match="is no file"):
            htmap_exec.enable(tmp_path)

    def test_for_other_machines(self, submission: Submission, enabled: Any, binary: Path) -> None:
        """The first 20 bytes of an ELF file for 64-bit ARM."""
        binary.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00")
        with pytest.raises(htmap_exec.BinaryUnusable, match=r"is built for aarch64, and .* EXEC\.ARCH"):
            submission("one", "assume")
        enabled.settings["EXEC.ARCH"] = "aarch64"
        descriptors, _ = submission("two", "singularity")
        assert descriptors["requirements"] == '((TARGET.Arch == "aarch64" && HasSingularity))'

    def test_no_program(self, submission: Submission, enabled: Any, binary: Path) -> None:
        binary.write_text("")
        with pytest.raises(htmap_exec.BinaryUnusable, match="is no program"):
            submission("one", "assume")


class TestShippedCloudpickle:
    def test_is_this_sides_and_works(self, submission: Submission, tmp_path: Path) -> None:
        import cloudpickle

        submission("one", "assume")
        archive = tmp_path / "maps" / "one" / "_htmap_cloudpickle.zip"
        code = (
            "import sys; sys.path.append(sys.argv[1]); import cloudpickle; print(cloudpickle.__version__);"
            "print(cloudpickle.__file__); f = cloudpickle.loads(cloudpickle.dumps(lambda x: 2 * x)); print(f(21))"
        )
        # -S: a Python that has only its standard library.
        lines = subprocess.check_output([sys.executable, "-I", "-S", "-c", code, archive], text=True).splitlines()
        assert lines == [cloudpickle.__version__, str(archive / "cloudpickle" / "__init__.py"), "42"]
        assert archive.stat().st_mode & 0o777 == 0o644
        assert [path.name for path in archive.parent.glob(".*")] == []

    def test_has_the_same_bytes_every_time(self, tmp_path: Path) -> None:
        digests = set()
        for name in ("a.zip", "b.zip"):
            shipping.ship_cloudpickle(tmp_path / name)
            digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
        assert len(digests) == 1
        assert all(info.date_time[0] == 1980 for info in zipfile.ZipFile(tmp_path / "a.zip").infolist())


def test_importing_the_package_imports_nothing_else() -> None:
    code = (
        "import sys; import htmap_exec;"
        "print([name for name in ('htmap', 'htcondor', 'cloudpickle') if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(htmap_exec.__file__).parents[1])}
    assert subprocess.check_output([sys.executable, "-c", code], text=True, env=environment) == "[]\n"
