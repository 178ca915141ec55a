"""What a packed Python makes of a job: descriptors from its audit, settings, and what HTMap itself sees of it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import htmap_exec
import pytest
from htmap_exec import delivery
from support.environment import binary as real_binary
from support.node_archives import build, with_manifest

Submission = Callable[..., "tuple[dict[str, str], list[dict[str, str]]]"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This very Python: ASSUME_EXISTS looks for its packages."""
    return build(Path(sys.executable), tmp_path_factory.mktemp("store"))


@pytest.fixture
def store(packed: Path, tmp_path: Path) -> Path:
    directory = tmp_path / "store"
    directory.mkdir()
    for path in (packed, packed.with_suffix(".pip")):
        shutil.copy(path, directory)
    return directory


@pytest.fixture
def ours(enabled: Any, store: Path) -> Any:
    enabled.settings["EXEC.BINARY"] = str(real_binary())
    enabled.settings["TRANSPLANT.DIR"] = str(store)
    return enabled


def demanding(manifest: dict[str, Any]) -> None:
    manifest["audit"]["x86_64_level"] = {"needs": 3, "file": "lib/fast.so"}
    manifest["audit"]["glibc"] = {"needs": "2.77", "file": "lib/new.so"}


def megabytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)MB", text)
    assert match, text
    return int(match[1])


def test_any_base_name(submission: Submission, ours: Any, packed: Path, tmp_path: Path) -> None:
    shutil.copy(packed, tmp_path / "my python.tar.zst")
    ours.settings["TRANSPLANT.ALTERNATE_INPUT_PATH"] = str(tmp_path / "my python.tar.zst")
    ours.settings["EXEC.PYTHON"] = "/not/this/one"
    ours.settings["EXEC.CACHE_DIR"] = "/var/cache/some where"
    ours.settings["EXEC.CACHE_SIZE"] = "50 GB"
    ours.settings["EXEC.KEEP_VARIABLES"] = "PYTHONPATH, TERM"
    descriptors, _ = submission("one", "transplant")
    assert descriptors["arguments"].endswith(
        "--cache-dir '/var/cache/some where' --cache-size 50GB --keep-variable PYTHONPATH --keep-variable TERM "
        "--transplant 'my python.tar.zst' $(component)\""
    )
    assert "/not/this/one" not in descriptors["arguments"]
    assert f"{tmp_path}/my python.tar.zst" in descriptors["transfer_input_files"]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("CACHE_DIR", "here", "absolute path"),
        ("CACHE_SIZE", "lots", "takes a size, such as 20GB"),
        ("KEEP_VARIABLES", "A-B", "takes names of variables"),
        ("NO_MOUNT", "perhaps", "true or false"),
        ("LEVEL", 20, "whole number from 1 to 19, not 20"),
        ("LEVEL", "fast", "whole number from 1 to 19, not 'fast'"),
        ("EXCLUDE", "a,,b", "a list of patterns"),
        ("INCLUDE", [1], "a list of paths"),
        ("NO_MOUT", True, r"no setting `EXEC\.NO_MOUT`: did you mean EXEC\.NO_MOUNT\?"),
    ],
)
def test_settings_that_make_no_sense(submission: Submission, ours: Any, name: str, value: str, said: str) -> None:
    ours.settings[f"EXEC.{name}"] = value
    with pytest.raises(htmap_exec.SettingsError, match=said):
        submission("one", "transplant")


def test_disk_for_the_tree(submission: Submission, ours: Any, packed: Path) -> None:
    ours.settings["TRANSPLANT.ALTERNATE_INPUT_PATH"] = str(packed)
    descriptors, _ = submission("one", "transplant")
    least = packed.stat().st_size / 2**20 + 1024
    assert least + 20 < megabytes(descriptors["request_disk"]) < least + 1500
    # Who chooses knows best, in settings or for a map.
    descriptors, _ = submission("two", "transplant", request_disk="3GB")
    assert descriptors["request_disk"] == "3GB"
    ours.settings["MAP_OPTIONS.REQUEST_DISK"] = "2GB"
    descriptors, _ = submission("three", "transplant")
    assert {value for name, value in descriptors.items() if name.lower() == "request_disk"} == {"2GB"}


def test_other_methods_keep_htmaps_disk(submission: Submission, ours: Any) -> None:
    descriptors, _ = submission("one", "assume")
    assert descriptors["request_disk"] == "1GB"


def test_processors_become_a_requirement(submission: Submission, ours: Any, packed: Path) -> None:
    level = '(TARGET.Microarch =?= undefined || TARGET.Microarch >= "x86_64-v3")'
    ours.settings["TRANSPLANT.ALTERNATE_INPUT_PATH"] = str(packed)
    descriptors, _ = submission("one", "transplant")
    assert "Microarch" not in descriptors.get("requirements", "")
    ours.settings["TRANSPLANT.ALTERNATE_INPUT_PATH"] = str(with_manifest(packed, demanding))
    descriptors, _ = submission("two", "transplant", requirements="HasFish")
    assert level in descriptors["requirements"]
    assert "HasFish" in descriptors["requirements"]
    text = htmap_exec.explain("transplant")
    assert level in text
    assert "`lib/fast.so` was compiled for processors of this level" in text
    idle = text.split("A component stays idle")[1]
    assert "glibc 2.77 or later" in idle
    assert "this keeps no job idle" in " ".join(idle.split())


def test_disk_is_explained(ours: Any) -> None:
    # It is not built for this map yet: what was built before says what it will be like.
    text = htmap_exec.explain("transplant")
    ours = text.split("By htmap-exec:")[1].split("By HTMap:")[0]
    assert re.search(r"request_disk = \d+MB\n +the archive, what is unpacked from it", ours)
    assert "request_disk" not in text.split("By MAP_OPTIONS")[1].split("A component stays idle")[0]


def set_up(ours: Any, map_dir: Path) -> str:
    """What HTMap does first for a map; where its archive is."""
    from htmap import mapping, options

    mapping.make_map_dir_and_subdirs(map_dir)
    options.run_delivery_setup("tag", map_dir, "transplant")
    return (map_dir / "transplant").read_text().strip()


def test_one_that_exists(ours: Any, packed: Path, store: Path, tmp_path: Path) -> None:
    ours.settings["TRANSPLANT.ASSUME_EXISTS"] = "true"
    # Newer, and of other packages.
    other = with_manifest(store / packed.name, lambda manifest: manifest.update(packages=["other==1"]), "f" * 64)
    assert set_up(ours, tmp_path / "one") == str(store / packed.name)
    other.rename(store / packed.name)
    with pytest.raises(htmap_exec.SettingsError, match="no archive of this Python with the packages that it has now"):
        set_up(ours, tmp_path / "two")


@pytest.mark.parametrize("address", ["http://example.org/a/python.tar.zst", "osdf:///a/python.tar.zst", "file:///a/p"])
def test_addresses_are_htcondors_business(ours: Any, tmp_path: Path, submission: Submission, address: str) -> None:
    ours.settings["TRANSPLANT.ALTERNATE_INPUT_PATH"] = address
    assert set_up(ours, tmp_path / "map") == address
    descriptors, _ = submission("one", "transplant")
    assert address in descriptors["transfer_input_files"].split(",")
    assert f"--transplant {address.rpartition('/')[2]} " in descriptors["arguments"]
    assert descriptors["request_disk"] == "1GB"


def test_archives_of_no_use(ours: Any, packed: Path, tmp_path: Path) -> None:
    foreign = with_manifest(packed, lambda manifest: manifest.update(machine="vax"), "foreign")
    ours.settings["TRANSPLANT.ALTERNATE_INPUT_PATH"] = str(foreign)
    with pytest.raises(htmap_exec.TransplantError, match="is for vax, and the map is for nodes of the kind"):
        set_up(ours, tmp_path / "one")
    (tmp_path / "text").write_text("not an archive")
    ours.settings["TRANSPLANT.ALTERNATE_INPUT_PATH"] = str(tmp_path / "text")
    with pytest.raises(htmap_exec.TransplantError, match=r"is of no use: .* is no whole transplant"):
        set_up(ours, tmp_path / "two")


def test_this_python_is_not_for_other_machines(ours: Any, tmp_path: Path) -> None:
    from htmap_exec import exec_settings, packing

    (tmp_path / "map").mkdir()
    vax = exec_settings.ExecSettings(ARCH="vax")
    with pytest.raises(htmap_exec.TransplantError, match=r"this Python is for .* nodes of the kind vax \(EXEC\.ARCH\)"):
        packing.prepare(tmp_path / "map", str(real_binary()), ours.settings, vax)


def test_a_binary_for_other_machines_is_sent_and_not_started(
    submission: Submission, ours: Any, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, number = ("aarch64", 183) if platform.machine() != "aarch64" else ("x86_64", 62)
    foreign = tmp_path / "foreign"
    header = bytearray(real_binary().read_bytes()[:4096])
    header[18:20] = number.to_bytes(2, "little")
    foreign.write_bytes(header)
    foreign.chmod(0o755)
    archive = with_manifest(packed, lambda manifest: manifest.update(machine=other), "other-machine")
    ours.settings["EXEC.BINARY"] = str(foreign)
    ours.settings["EXEC.ARCH"] = other
    ours.settings["TRANSPLANT.ALTERNATE_INPUT_PATH"] = str(archive)
    monkeypatch.setenv("HTMAP_EXEC_BIN", str(real_binary()))
    descriptors, _ = submission("one", "transplant")
    assert descriptors["executable"] == str(foreign)
    assert megabytes(descriptors["request_disk"]) > 1024
    # Known by name, time and size.
    archive.touch()
    monkeypatch.setenv("HTMAP_EXEC_BIN", str(foreign))
    with pytest.raises(htmap_exec.BinaryUnusable, match=rf"\(EXEC.BINARY\) is built for {other}, .* HTMAP_EXEC_BIN"):
        submission("two", "transplant")


def test_a_binary_that_cannot_be_started(submission: Submission, ours: Any, packed: Path, tmp_path: Path) -> None:
    wrapper = tmp_path / "wrapper"
    wrapper.write_text("#!/no/such/shell\n")
    wrapper.chmod(0o755)
    ours.settings["EXEC.BINARY"] = str(wrapper)
    for settings in ({"TRANSPLANT.ALTERNATE_INPUT_PATH": str(packed)}, {"TRANSPLANT.ALTERNATE_INPUT_PATH": None}):
        for name, value in settings.items():
            ours.settings[name] = value
        with pytest.raises(htmap_exec.TransplantError, match=r"cannot be started on this machine: .* EXEC\.BINARY"):
            submission("one" if settings else "two", "transplant")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (b"\xff\xfe", "which is no text"),
        (b"one, two", "no file with a comma or the end of a line in its path"),
        (b"new\nline", "no file with a comma or the end of a line in its path"),
    ],
    ids=["no-utf-8", "comma", "newline"],
)
def test_directories_that_htcondor_sends_nothing_from(
    ours: Any, packed: Path, store: Path, tmp_path: Path, name: bytes, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """HTCondor's bindings take text alone, and its lists of files have commas."""
    # HTMap logs settings, and what is no text cannot be handed on by a worker of pytest.
    caplog.set_level("WARNING", logger="htmap")
    directory = tmp_path / os.fsdecode(name)
    store.rename(directory)
    ours.settings["TRANSPLANT.DIR"] = str(directory)
    ours.settings["TRANSPLANT.ASSUME_EXISTS"] = "true"
    with pytest.raises(htmap_exec.SettingsError) as raised:
        set_up(ours, tmp_path / "map")
    # As Python shows it: pytest cannot show all of it.
    text = ascii(str(raised.value))
    assert "`TRANSPLANT.DIR` names" in text and said in text, text
    ours.settings["TRANSPLANT.ALTERNATE_INPUT_PATH"] = str(directory / packed.name)
    with pytest.raises(htmap_exec.SettingsError) as raised:
        set_up(ours, tmp_path / "other")
    assert "`TRANSPLANT.ALTERNATE_INPUT_PATH` names" in ascii(str(raised.value))


def test_mounting_can_be_turned_off(submission: Submission, ours: Any, packed: Path) -> None:
    ours.settings["TRANSPLANT.ALTERNATE_INPUT_PATH"] = str(packed)
    descriptors, _ = submission("one", "transplant")
    assert "--no-mount" not in descriptors["arguments"]
    ours.settings["EXEC.NO_MOUNT"] = "true"
    descriptors, _ = submission("two", "transplant")
    assert " --no-mount --transplant " in descriptors["arguments"]


def test_what_is_packed_and_how(
    ours: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each choice has an archive of its own, which later maps with this choice use again."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv/bin/python"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    [site] = (tmp_path / "venv/lib").glob("python3*/site-packages")
    (site / "unwanted").mkdir()
    (site / "unwanted/data, large").write_text("much")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/table").write_text("1 2 3")

    def packed_now(name: str, **settings: Any) -> tuple[str, set[str]]:
        for setting in ("EXCLUDE", "INCLUDE", "LEVEL"):
            ours.settings[f"EXEC.{setting}"] = settings.get(setting)
        archive = set_up(ours, tmp_path / name)
        listed = subprocess.check_output(["tar", "--zstd", "-tf", archive], text=True)
        return archive, set(listed.splitlines())

    whole, names = packed_now("whole")
    assert any(name.endswith("unwanted/data, large") for name in names)
    part, names = packed_now(
        "part", EXCLUDE=["**/unwanted", "**/no, such"], INCLUDE="~/data/table=share/table", LEVEL="1"
    )
    assert part != whole
    assert "share/table" in names and not any("unwanted" in name for name in names)
    capfd.readouterr()
    # As of old archives, of which each says nothing of how it was built.
    assert packed_now("whole again")[0] == whole
    same = {"EXCLUDE": ("**/unwanted", "**/no, such"), "INCLUDE": [tmp_path / "data/table=share/table"], "LEVEL": 1}
    assert packed_now("part again", **same)[0] == part
    said = capfd.readouterr().err
    assert "files and directories" not in said and "packing" not in said


class Notebook:
    """A stderr that is no file: what is written to it, and how many archives there were by then."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.lines: list[tuple[str, int]] = []

    def write(self, text: str) -> int:
        if text.strip():
            self.lines.append((text, len(list(self.store.glob("*")))))
        return len(text)

    def flush(self) -> None:
        pass


def test_who_builds_through_python_sees_that_something_is_done(
    ours: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, since a first build takes minutes; and nothing where there is nothing to do."""
    venv, store = tmp_path / "venv", tmp_path / "new"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    monkeypatch.setattr(sys, "executable", str(venv / "bin/python"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ours.settings["TRANSPLANT.DIR"] = str(store)
    ours.settings["EXEC.LEVEL"] = 1
    [site] = (venv / "lib").glob("python3*/site-packages")
    os.mkfifo(site / "pipe")
    (site / "nowhere").symlink_to("/not/there")
    stderr = Notebook(store)
    monkeypatch.setattr(sys, "stderr", stderr)
    set_up(ours, tmp_path / "one")
    first, archives = stderr.lines[0]
    assert re.fullmatch(rf"packing `{re.escape(str(venv))}`: [\d.]+ [KMG]iB\n", first)
    assert archives == 0
    # What to do something about, and not what is as one may expect it.
    said = "".join(line for line, _ in stderr.lines)
    assert "warning: `" in said and "nowhere` is a link to nowhere" in said
    assert "pipe" not in said and "left: " not in said and "taken along: " not in said
    stderr.lines.clear()
    set_up(ours, tmp_path / "two")
    assert stderr.lines == []
    # Of what was said before a build fails, only the reason belongs into the error.
    (site / "new.py").touch()
    (tmp_path / "file").touch()
    ours.settings["TRANSPLANT.DIR"] = str(tmp_path / "file/store")
    with pytest.raises(htmap_exec.TransplantError, match="Not a directory") as raised:
        set_up(ours, tmp_path / "three")
    assert "packing `" not in str(raised.value)
    assert stderr.lines[0][0].startswith("packing `")


def test_stock_htmap_sees_the_archives(ours: Any, packed: Path, store: Path) -> None:
    from htmap import management

    [archive] = management.transplants()
    assert archive.hash == packed.name
    assert archive.size == packed.stat().st_size
    assert any(line.startswith("htmap==") for line in archive.packages)
    assert packed.name in management.transplant_info()
    archive.remove()
    assert list(store.iterdir()) == []


def test_every_descriptor_has_a_reason(ours: Any, tmp_path: Path) -> None:
    method = delivery.find("transplant")
    assert method is not None
    found = delivery.descriptors(method, delivery.context(ours, tmp_path / "nowhere"))
    assert all(each.reason for each in found)
