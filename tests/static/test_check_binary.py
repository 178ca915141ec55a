"""scripts/check-binary fails on what it must not let pass, each time for the right reason."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.environment import CHECKOUT

HARMLESS = "int main(void) { return 0; }"
# Static and without glibc, which would bring its dlopen along.
BARE = """
int main(void) { return 0; }
void _start(void) {
#ifdef __x86_64__
    __asm__("syscall" :: "a"(60), "D"(main()));
#else
    __asm__("mov x8, #93; mov x0, #0; svc #0");
#endif
}
"""
BARE_OPTIONS = ("-static", "-nostdlib")
ASKS_FOR_A_USER = """
#include <pwd.h>
int main(void) { return getpwuid(0) == 0; }
"""
ASKS_FOR_A_HOST = """
#include <netdb.h>
int main(void) { struct addrinfo *found; return getaddrinfo("localhost", "80", 0, &found); }
"""
# fstat is a symbol of its own only since glibc 2.33.
NEEDS_A_NEW_GLIBC = """
#include <sys/stat.h>
int main(void) { struct stat found; return fstat(0, &found); }
"""

Compile = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path) -> Compile:
    """Compile a C program to `htmap-exec`, with a copy that has its symbols beside it."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")

    def build(source: str, *options: str, directory: str = "somewhere") -> Path:
        binary = tmp_path / directory / "htmap-exec"
        binary.parent.mkdir(exist_ok=True)
        # -w: glibc warns that these need its shared libraries when they run, which is the point.
        command = ["cc", "-w", "-x", "c", "-", *options, "-o"]
        for path, more in ((binary.with_suffix(".symbols"), []), (binary, ["-s"])):
            subprocess.run([*command, str(path), *more], input=source, text=True, check=True, stderr=subprocess.PIPE)
        return binary

    return build


def check(*arguments: str | Path) -> tuple[int, list[str]]:
    """The exit status, and what did not pass."""
    done = subprocess.run(
        [CHECKOUT / "scripts/check-binary", *arguments], text=True, capture_output=True, check=False, timeout=250
    )
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    return done.returncode, [line[1] for line in lines if line[0] == "FAILED"]


def test_a_harmless_static_program_looks_well(build: Compile) -> None:
    assert check("--look", build(BARE, *BARE_OPTIONS)) == (0, [])


def test_a_dynamic_program(build: Compile) -> None:
    status, failures = check("--look", build(HARMLESS))
    assert status == 1
    assert len(failures) == 2
    assert failures[0].startswith("asks for the interpreter /lib")
    assert failures[1] == "needs libc.so.6"


@pytest.mark.parametrize(("source", "name"), [(ASKS_FOR_A_USER, "getpwuid"), (ASKS_FOR_A_HOST, "getaddrinfo")])
def test_name_services(build: Compile, source: str, name: str) -> None:
    status, failures = check("--look", build(source, "-static"))
    assert status == 1
    reached = next(line for line in failures if line.startswith("reaches name services: "))
    assert name in reached.split()
    # And where there are no symbols to look at.
    assert any(line.startswith("names /") for line in failures)


def test_name_services_of_the_shared_library(build: Compile) -> None:
    status, failures = check("--look", build(ASKS_FOR_A_USER, directory="x86_64-unknown-linux-gnu.2.99"))
    assert (status, failures) == (1, ["reaches name services: getpwuid"])


def test_a_newer_glibc(build: Compile) -> None:
    binary = build(NEEDS_A_NEW_GLIBC, directory="x86_64-unknown-linux-gnu.2.17")
    versions = subprocess.run(["readelf", "-VW", binary], text=True, capture_output=True, check=True).stdout
    if "GLIBC_2.3" not in versions:
        pytest.skip("this machine's glibc is not newer than 2.29")
    status, failures = check("--look", binary)
    assert status == 1
    assert [line for line in failures if line.startswith("needs GLIBC_2.3") and line.endswith("no more than 2.17")]


def test_symbols_are_missing(build: Compile) -> None:
    binary = build(BARE, *BARE_OPTIONS)
    binary.with_suffix(".symbols").unlink()
    status, failures = check("--look", binary)
    assert status == 1
    assert failures == ["has no `htmap-exec.symbols` beside it that would tell which functions are linked"]


def test_symbols_are_stripped(build: Compile) -> None:
    binary = build(BARE, *BARE_OPTIONS)
    shutil.copy(binary, binary.with_suffix(".symbols"))
    assert check("--look", binary) == (1, ["`htmap-exec.symbols` has no symbols either"])


def test_symbols_are_of_another_program(build: Compile) -> None:
    other = build(ASKS_FOR_A_USER, "-static", directory="other")
    binary = build(BARE, *BARE_OPTIONS)
    shutil.copy(other.with_suffix(".symbols"), binary.with_suffix(".symbols"))
    assert check("--look", binary) == (1, ["is not the program of `htmap-exec.symbols`"])


def test_too_large(build: Compile) -> None:
    binary = build(BARE, *BARE_OPTIONS)
    os.truncate(binary, 7 << 20)
    assert check("--look", binary) == (1, ["has 7340032 bytes: not fewer than 6815744"])


def test_it_does_nothing_where_there_is_nothing(build: Compile) -> None:
    status, failures = check(build(BARE, *BARE_OPTIONS))
    assert status == 1
    # As root it runs in Debian 11, too.
    assert failures[0].startswith("a directory with nothing but the binary: the record is: ")


def test_no_program_at_all(tmp_path: Path) -> None:
    (tmp_path / "htmap-exec").write_text("#!/bin/sh\n")
    assert check("--look", tmp_path / "htmap-exec") == (1, ["is no ELF file"])
