"""A home of the tests' own: they neither read nor write what a developer keeps in theirs.

What is found through a home and is no part of a test (compilers, Pythons, settings of pip and git) stays where it was.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

# Below the home, unless the variable says otherwise.
_STAYS = {
    "CARGO_HOME": ".cargo",
    "RUSTUP_HOME": ".rustup",
    "PYENV_ROOT": ".pyenv",
    "GIT_CONFIG_GLOBAL": ".gitconfig",
    "NETRC": ".netrc",
}
# Below the directories for caches, settings and data.
_XDG_STAYS = {
    "HTMAP_EXEC_DEV_CACHE": ("XDG_CACHE_HOME", ".cache", "htmap-exec-dev"),
    "PIP_CACHE_DIR": ("XDG_CACHE_HOME", ".cache", "pip"),
    "PIP_CONFIG_FILE": ("XDG_CONFIG_HOME", ".config", "pip/pip.conf"),
    "UV_PYTHON_INSTALL_DIR": ("XDG_DATA_HOME", ".local/share", "uv/python"),
}
# Of the variables that begin with HTMAP, these are the tests'; the others would be a developer's settings.
_TESTS = ("HTMAP_EXEC_BIN", "HTMAP_EXEC_COMMIT", "HTMAP_EXEC_WHEEL", "HTMAP_EXEC_DEV_", "HTMAP_EXEC_TEST_")


def move() -> tempfile.TemporaryDirectory[str]:
    """Make the home, and change this process's environment so that all that looks for one finds it."""
    before = Path.home()
    for variable, below in _STAYS.items():
        _stay(variable, before / below)
    for variable, (xdg, default, below) in _XDG_STAYS.items():
        _stay(variable, Path(os.environ.get(xdg) or before / default) / below)
    for variable in list(os.environ):
        # Without them HTMap's directory, caches and settings are below the home, also where a test chooses another.
        if variable.startswith("XDG_") or (
            variable.startswith(("HTMAP", "_HTMAP")) and not variable.startswith(_TESTS)
        ):
            del os.environ[variable]
    home = tempfile.TemporaryDirectory(prefix="htmap-exec-home-", ignore_cleanup_errors=True)
    os.environ["HOME"] = home.name
    return home


def _stay(variable: str, path: Path) -> None:
    if path.exists():
        os.environ.setdefault(variable, str(path))
