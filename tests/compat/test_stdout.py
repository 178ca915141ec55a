"""The component's stdout: the sections that HTMap's documentation shows, in their order, pinned by a golden file.

`HTMAP_EXEC_TEST_BLESS=1` writes the golden file anew.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from support.cases import Case, Ok, dispose
from support.environment import main_python
from support.scratch import Scratch

GOLDEN = Path(__file__).with_name("golden") / "stdout.txt"

SOURCE = """
    import os
    def count(first, second, *, prefix):
        print(prefix, "one")
        os.makedirs("made")
        with open("made/by-the-function.txt", "w") as file:
            file.write("x")
        print(prefix, "two")
        return first + second
    f = count
    args = (40, 2)
    kwargs = {"prefix": "says"}
"""

HEADINGS = [
    "Landed on execute node",
    "Scratch directory contents before run:",
    "Python executable is",
    "with installed packages",
    "Running component",
    "with args",
    "and kwargs",
    "----- MAP COMPONENT OUTPUT START -----",
    "-----  MAP COMPONENT OUTPUT END  -----",
    "Finished executing component at",
    "Scratch directory contents after run:",
]


def inputs(scratch: Scratch) -> None:
    scratch.write("data/first.csv", "1,2\n")
    scratch.write("data/second.csv", "3,4\n")
    (scratch.dir / "link").symlink_to("data")


CASE = Case("golden", SOURCE, Ok(42), prepare=inputs, component=3)


def normalised(text: str) -> str:
    """Without what differs from machine to machine and from run to run."""
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?"
    text = re.sub(rf"execute node \S+ \([^)]*\) at {time} as \S+", "execute node HOST (IP) at TIME as USER", text)
    text = re.sub(rf"component at {time}", "component at TIME", text)
    text = re.sub(r"Python executable is \S+ \(version [\d.]+\)", "Python executable is PYTHON (version VERSION)", text)
    text = re.sub(r"(with installed packages\n)(  .*\n)+", r"\1  PACKAGES\n", text)
    return re.sub(r" at 0x[0-9a-f]+", " at ADDRESS", text)


def stdout(*, control: bool) -> str:
    scratch = CASE.scratch(is_control=control)
    try:
        outcome, unmet = CASE.run_control(scratch) if control else CASE.run_ours(scratch)
    finally:
        dispose(scratch)
    assert not unmet, f"{unmet}\n{outcome.dump()}"
    return outcome.stdout


def headings(text: str) -> list[str]:
    return [heading for line in text.splitlines() for heading in HEADINGS if line.startswith(heading)]


def test_stdout_is_as_in_the_golden_file() -> None:
    seen = normalised(stdout(control=False))
    if os.environ.get("HTMAP_EXEC_TEST_BLESS"):
        GOLDEN.write_text(seen)
    assert seen == GOLDEN.read_text()


def test_the_golden_file_has_all_sections_in_order() -> None:
    assert headings(GOLDEN.read_text()) == HEADINGS


def test_htmap_prints_the_same_sections() -> None:
    assert headings(stdout(control=True)) == HEADINGS


def test_the_packages_are_those_of_pip_freeze() -> None:
    """Editable and local ones included: the same lines, without running pip."""
    text = stdout(control=False)
    match = re.search(r"with installed packages\n((?:  .*\n)*)", text)
    assert match is not None
    listed = [line.strip() for line in match[1].splitlines()]
    command: list[str | Path] = [main_python().path, "-m", "pip", "freeze", "--disable-pip-version-check"]
    frozen = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split("\n")
    assert listed == [line for line in frozen if line]
