"""Map directories, and runs of `htmap-exec local` on them with a place of their own for scratch directories."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from local_map import LocalMap


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalMap]:
    made = LocalMap(tmp_path)
    yield made
    made.end_all()
