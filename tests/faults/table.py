"""Prints the fault table: `python tests/faults/table.py [pytest options]`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest


def main() -> int:
    parallel = ["-n", "3"] if importlib.util.find_spec("xdist") is not None else []
    here = str(Path(__file__).resolve().parent)
    return int(pytest.main([here, "-q", "--tb=line", "-p", "no:cacheprovider", *parallel, *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main())
