"""Archives of format 2 that claim much and hold little, and any byte damaged, through every command that reads them:
they end soon, in little memory, with a sentence; and no file is ever a wrong one.
"""

from __future__ import annotations

import functools
import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.environment import binary
from support.hostile_archives import CHUNK, Directory, Entry, File, Frame, Link, blake3, hostile, manifest_of, parts
from support.node_archives import Node
from support.outcome import Outcome
from support.scratch import Scratch
from support.trees import digest_of

Manifest = dict[str, Any]
Kind = tuple[bytes | Manifest, list[Entry], list[Frame], int]

NOTHING, ONE = blake3(b""), blake3(b"x")
SIMPLE = "def f():\n    return 1"
# Some files name the place, which is another one in each run.
TREE = """
    def f():
        import hashlib, os, sys
        found = {}
        for directory, _, names in os.walk(sys.prefix):
            for path in [os.path.join(directory, name) for name in names]:
                if not os.path.islink(path):
                    content = open(path, "rb").read().replace(os.fsencode(sys.prefix), b"PREFIX")
                    found[os.path.relpath(path, sys.prefix)] = hashlib.sha256(content).hexdigest()
        return found
"""


@functools.cache
def zeros() -> Frame:
    """64 MiB of content in two kilobytes."""
    return Frame.of(bytes(64 << 20))


def with_text(manifest: Manifest, place: str, name: str, text: str) -> bytes:
    """A manifest in which this text is the value of a name, one that no library need hold in memory to write."""
    target = manifest[place] if place else manifest
    target[name] = "PLACE"
    return json.dumps(manifest).replace('"PLACE"', text).encode()


def listed(text: str, count: int) -> str:
    return f"[{','.join([text] * count)}]"


PYTHON: list[Entry] = [Directory("bin"), File("bin/python3.11", 1, 0, 0, ONE)]


def tiny_frames(manifest: Manifest) -> Kind:
    count = 20_000
    files = [File(f"f{number:06}", 1, number, 0, ONE) for number in range(1, count)]
    return manifest, [*PYTHON, *files], [Frame.of(b"x")] * count, count


def huge_frames(manifest: Manifest) -> Kind:
    """Whoever reads nine bytes of each reads two gibibytes."""
    digest = blake3(bytes(9))
    files = [File(f"f{number:06}", 9, number, 0, digest) for number in range(32)]
    return manifest, [Directory("bin"), File("bin/python3.11", 9, 0, 9, digest), *files], [zeros()] * 32, 32


def many_files(manifest: Manifest) -> Kind:
    files = [File(f"f{number:06}", 0, 0, 1, NOTHING) for number in range(99_000)]
    return manifest, [*PYTHON, *files], [Frame.of(b"x")], 0


def too_many_files(manifest: Manifest) -> Kind:
    files = [File(f"f{number:06}", 0, 0, 1, NOTHING) for number in range(110_000)]
    return manifest, [*PYTHON, *files], [Frame.of(b"x")], 0


def same_files(manifest: Manifest) -> Kind:
    files = [File(f"f{number:06}", 1, 0, 0, ONE) for number in range(1_000)]
    return manifest, [*PYTHON, *files], [Frame.of(b"x")], 0


def deep_paths(manifest: Manifest) -> Kind:
    directories = [Directory("/".join(["x"] * depth)) for depth in range(1, 301)]
    files = [File("/".join(["x"] * 300) + f"/{number:04}", 0, 0, 1, NOTHING) for number in range(5_000)]
    return manifest, [*PYTHON, *directories, *files], [Frame.of(b"x")], 0


def many_links(manifest: Manifest) -> Kind:
    return (
        manifest,
        [*PYTHON, *(Link(f"l{number:06}", f"l{number + 1:06}") for number in range(10_000))],
        [Frame.of(b"x")],
        0,
    )


def long_links(manifest: Manifest) -> Kind:
    return manifest, [*PYTHON, *(Link(f"l{number:06}", "a/" * 2_000) for number in range(3_000))], [Frame.of(b"x")], 0


def large_file(manifest: Manifest) -> Kind:
    """A file of two gibibytes, no chunk of which is what its digest says."""
    chunk = bytes(32)
    count = 8_000
    file = File("large", count * CHUNK, 0, 0, blake3(chunk * count), [chunk] * count)
    python = File("bin/python3.11", 1, 31, 63 << 20, ONE)
    return manifest, [Directory("bin"), python, file], [zeros()] * 32, 0


def much_of_little(manifest: Manifest) -> Kind:
    frames = [Frame(64 << 20, zeros().packed)] * 200
    return manifest, [Directory("bin"), File("bin/python3.11", 9, 0, 0, blake3(bytes(9)))], frames, 0


def bundled(manifest: Manifest) -> Kind:
    """Each of three bytes, and of fifty times as many when it is read."""
    return with_text(manifest, "audit", "bundled", listed("{}", 20_000_000)), PYTHON, [Frame.of(b"x")], 0


def packages(manifest: Manifest) -> Kind:
    return with_text(manifest, "", "packages", listed('""', 15_000_000)), PYTHON, [Frame.of(b"x")], 0


def nested(manifest: Manifest) -> Kind:
    return with_text(manifest, "", "nested", "[" * 1_000_000 + "]" * 1_000_000), PYTHON, [Frame.of(b"x")], 0


# With what each is refused by, where it is.
KINDS: dict[str, tuple[Callable[[Manifest], Kind], str]] = {
    "tiny-frames": (tiny_frames, ""),
    "huge-frames": (huge_frames, ""),
    "many-files": (many_files, ""),
    "too-many-files": (too_many_files, "its index makes no sense"),
    "same-files": (same_files, "places outside of its frames"),
    "deep-paths": (deep_paths, ""),
    "many-links": (many_links, ""),
    "long-links": (long_links, "lead through too many others"),
    "large-file": (large_file, ""),
    "much-of-little": (much_of_little, "it claims to hold"),
    "bundled": (bundled, "its manifest has 60"),
    "packages": (packages, "its manifest has 45"),
    "nested": (nested, ""),
}

LIMITS = ["prlimit", "--cpu=20", f"--as={1 << 30}", "--"]


@pytest.fixture(scope="module")
def make(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    root = tmp_path_factory.mktemp("hostile")

    @functools.cache
    def make(kind: str) -> Path:
        made, _ = KINDS[kind]
        path = hostile(root / kind, *made(json.loads(manifest_of(archive))))
        assert path.stat().st_size <= 1 << 20
        return path

    return make


def done(*words: object) -> subprocess.CompletedProcess[str]:
    """A command that may fail, with a sentence."""
    done = subprocess.run(
        [*LIMITS, binary(), "transplant", *map(str, words)], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode in (0, 1), (done.returncode, done.stderr[-2000:])
    assert done.returncode == 0 or done.stderr.startswith("htmap-exec: error: "), done.stderr[-2000:]
    return done


@pytest.mark.parametrize("kind", KINDS)
def test_every_command_ends_soon(make: Callable[[str], Path], archive: Path, tmp_path: Path, kind: str) -> None:
    made, refusal = make(kind), KINDS[kind][1]
    store = tmp_path / "store"
    store.mkdir()
    shutil.copy(made, store / ("0" * 64))
    for words in (
        ("info", made),
        ("info", made, "--json"),
        ("diff", made, archive),
        ("unpack", made, tmp_path / "tree"),
    ):
        came = done(*words)
        said = came.stderr.partition("\n")[0]
        # Of the large one only what is read is found out.
        if refusal or (kind, words[0]) == ("large-file", "unpack"):
            assert came.returncode == 1, words
            assert str(made) in said and (refusal or "frame") in said, said
        elif (kind, words) != ("nested", ("info", made)):
            assert came.returncode == 0, (words, said)
    assert not refusal or not any((tmp_path / "tree").glob("*"))
    assert done("verify", made).returncode == 1, "no tar"
    listed = done("list", "--dir", store)
    assert listed.returncode == 0 and refusal in listed.stdout, listed.stdout[-2000:]


@pytest.mark.parametrize("options", [[], ["--no-mount"]], ids=["mounted", "unpacked"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_component_ends_soon(node: Node, make: Callable[[str], Path], kind: str, options: list[str]) -> None:
    made, refusal = make(kind), KINDS[kind][1]

    def limit(scratch: Scratch) -> None:
        scratch.wrapper = ["prlimit", "--cpu=20", f"--as={3 << 30}", "--"]

    outcome = node.run(made, SIMPLE, *options, prepare=limit)
    assert (outcome.exit, outcome.status) == (0, "ERR"), outcome.dump()
    # Those that are not refused hold a Python that is none, or cannot be read.
    assert (refusal or "_htmap_python") in outcome.report or kind == "large-file", outcome.report
    assert str(made) in outcome.report or (not refusal and kind != "large-file")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> random.Random:
    """Another one in each run, and said where it fails."""
    number = random.randrange(1 << 32)
    print(f"seed {number}")
    return random.Random(number)


def bent(archive: Path, at: Path, place: int, bits: int) -> Path:
    data = bytearray(archive.read_bytes())
    data[place] ^= bits
    at.write_bytes(data)
    return at


def test_damage_is_found_and_gives_no_other_file(archive: Path, tmp_path: Path, seed: random.Random) -> None:
    data, begin, _, _ = parts(archive)
    tree = tmp_path / "tree"
    assert done("unpack", archive, tree).returncode == 0
    # Some files name the place.
    whole = digest_of(tree, True)
    shutil.rmtree(tree)
    found = 0
    # Most of it is frames; of the rest every byte counts.
    places = [seed.randrange(begin) for _ in range(8)] + [seed.randrange(begin, len(data)) for _ in range(8)]
    for place in places:
        # Under its name, without which an index of another tree is as good.
        damaged = bent(archive, tmp_path / archive.name, place, 1 << seed.randrange(8))
        verified = done("verify", damaged)
        unpacked = done("unpack", damaged, tree)
        if unpacked.returncode == 0:
            # Some bits of zstd's headers say nothing, and a layout may call other frames the hot ones.
            assert digest_of(tree, True) == whole, place
        else:
            assert verified.returncode == 1, place
            assert str(damaged) in unpacked.stderr
            assert not any(tree.glob("*")), "half a tree is left"
        found += verified.returncode
        shutil.rmtree(tree, ignore_errors=True)
    assert found >= len(places) - 2, f"of {len(places)} damages {found} were found"


def test_damage_gives_no_other_file_where_it_is_mounted(
    node: Node, archive: Path, tmp_path: Path, seed: random.Random
) -> None:
    expected = node.run(archive, TREE)
    assert expected.status == "OK", expected.dump()
    _, begin, _, _ = parts(archive)
    for _ in range(4):
        damaged = bent(archive, tmp_path / archive.name, seed.randrange(begin), 1 << seed.randrange(8))
        outcome = node.run(damaged, TREE)
        if outcome.status == "OK":
            assert outcome.value == expected.value
        else:
            assert "is no whole transplant" in outcome.report, outcome.dump()


def unread(archive: Path) -> int:
    """A place in the last frame with files, of which no start of a Python reads anything."""
    _, begin, _, _ = parts(archive)
    return begin * 9 // 10


def test_a_cache_is_passed_over_for_what_is_damaged(node: Node, archive: Path, tmp_path: Path) -> None:
    """The damage is the archive's, and an error once something reads it; until then there is a warning."""
    cache = tmp_path / "cache"
    tmp_path.chmod(0o755)
    damaged = bent(archive, tmp_path / "damaged", unread(archive), 1)

    def warned(outcome: Outcome) -> str:
        [line] = [line for line in outcome.stderr.splitlines() if "the cache is passed over" in line]
        return line

    for source, status in ((SIMPLE, "OK"), (TREE, "ERR")):
        outcome = node.run(damaged, source, "--cache-dir", cache)
        assert outcome.status == status, outcome.dump()
        assert f"`{damaged}` is no whole transplant: frame" in warned(outcome)
        assert (f"`{damaged}` is no whole transplant: frame" in outcome.report) == (status == "ERR")
        assert not any(cache.glob("*/*/*/tree"))
    outcome = node.run(damaged, SIMPLE, "--cache-dir", cache, "--no-mount")
    assert outcome.status == "ERR" and "is no whole transplant: frame" in outcome.report, outcome.dump()
