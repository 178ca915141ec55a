"""What an archive says it needs, against what readelf says; and what is large in it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.environment import binary
from support.node_archives import MAIN, build, copy_of_prefix


def info(archive: Path) -> Any:
    done = subprocess.run([binary(), "transplant", "info", "--json", archive], capture_output=True, check=True)
    return json.loads(done.stdout)["manifest"]


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python with a few things in it that ask for something."""
    root = tmp_path_factory.mktemp("audit") / "prefix"
    python = copy_of_prefix(MAIN, root)
    site = next((root / "lib").glob("python3*")) / "site-packages"
    package = site / "heavy"
    package.mkdir()
    (package / "data").write_bytes(bytes(3_000_000))
    (package / "not-elf.so").write_bytes(b"\x7fELF" + bytes(100))
    dist_info = site / "heavy-1.2.dist-info"
    dist_info.mkdir()
    (dist_info / "METADATA").write_text("Metadata-Version: 2.1\nName: heavy\nVersion: 1.2\n")
    (dist_info / "RECORD").write_text('heavy/data,,\n"heavy/not-elf.so",,\n../../../bin/heavy,,\n../../../../x,,\n')
    (root / "bin" / "heavy").write_bytes(bytes(2_000_000))
    (site / "loose").mkdir()
    (site / "loose" / "data").write_bytes(bytes(4_000_000))
    return python


@pytest.fixture(scope="module")
def compiled(prefix: Path) -> Path:
    """A library for a processor that not every node has, with a library that nobody has."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no gcc to make a library with")
    site = next((prefix.parents[1] / "lib").glob("python3*")) / "site-packages"
    source = site / "fast.c"
    source.write_text("int fast(void) { return 1; }\n")
    odd = site / "libodd.so.7"
    subprocess.run([compiler, "-shared", "-o", odd, source, "-Wl,-soname,libodd.so.7"], check=True)
    fast = site / "fast.so"
    level = ["-Wl,-z,x86-64-v3"] if subprocess.run(["uname", "-m"], capture_output=True).stdout == b"x86_64\n" else []
    linked = ["-Wl,--no-as-needed", odd]
    subprocess.run([compiler, "-shared", "-fcf-protection=full", "-o", fast, source, *level, *linked], check=True)
    odd.unlink()
    return fast


@pytest.fixture(scope="module")
def archive(prefix: Path, compiled: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(prefix, tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def manifest(archive: Path) -> dict[str, Any]:
    return info(archive)


def test_glibc_is_the_highest_that_any_file_needs(archive: Path, manifest: dict[str, Any], tmp_path: Path) -> None:
    audit = manifest["audit"]
    root = tmp_path / "tree"
    subprocess.run([binary(), "transplant", "unpack", archive, root], check=True, stdout=subprocess.DEVNULL)

    def numbers(version: str) -> tuple[int, ...]:
        return tuple(int(part) for part in version.split("."))

    def needed_by(path: Path) -> set[tuple[int, ...]]:
        said = subprocess.run(["readelf", "-V", path], capture_output=True, text=True).stdout
        section = said.partition("Version needs section")[2]
        return {numbers(version) for version in re.findall(r"Name: GLIBC_([\d.]+)", section)}

    # What came along from outside of the environment says for itself what it needs.
    bundled = {root / each["file"]: each for each in audit["bundled"]}
    assert bundled
    for path, each in bundled.items():
        assert numbers(each["glibc"] or "0") == max(needed_by(path), default=(0,)), each
    needed: set[tuple[int, ...]] = set()
    for path in [*root.rglob("*.so*"), root / str(manifest["python"])]:
        if path.is_file() and (path not in bundled or bundled[path]["starts"]):
            needed |= needed_by(path)
    assert numbers(audit["glibc"]["needs"]) == max(needed)
    assert (root / audit["glibc"]["file"]).is_file()
    assert audit["loader"].startswith("/lib") and "/ld-" in audit["loader"]
    assert str(manifest["extension_suffix"]).endswith(".so")


def test_what_a_node_has_to_bring(manifest: dict[str, Any]) -> None:
    audit = manifest["audit"]
    by_name = {each["needs"]: each["file"] for each in audit["libraries"]}
    assert by_name["libodd.so.7"].endswith("site-packages/fast.so")
    assert not any(name.startswith(("libc.so", "libm.so", "ld-linux", "libpython")) for name in by_name)


def test_the_level_of_the_processor(compiled: Path, manifest: dict[str, Any]) -> None:
    said = subprocess.run(["readelf", "-n", compiled], capture_output=True, text=True).stdout
    if "x86-64-v3" not in said:
        pytest.skip("this linker notes no level of the processor")
    audit = manifest["audit"]
    assert audit["x86_64_level"]["needs"] == 3
    assert audit["x86_64_level"]["file"].endswith("site-packages/fast.so")


def test_the_largest_packages(prefix: Path, manifest: dict[str, Any], tmp_path: Path) -> None:
    archive = build(prefix, tmp_path)
    # Part of the digest: the same again.
    assert info(archive) == manifest
    audit = manifest["audit"]
    shares = {each["name"]: each["bytes"] for each in audit["largest"]}
    # bin/heavy is excluded: only what is in the archive counts.
    assert shares["heavy 1.2"] == 3_000_104
    minor = prefix.name.removeprefix("python")
    assert shares[f"lib/python{minor}/site-packages/loose/"] == 4_000_000
    text = subprocess.run([binary(), "transplant", "info", archive], capture_output=True, text=True, check=True).stdout
    assert re.search(r"^glibc +2\.\d+ or later, for `", text, re.MULTILINE)
    assert "Largest   3 MiB  heavy 1.2" in text or "Largest   4 MiB  heavy 1.2" in text
