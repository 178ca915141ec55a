"""HTCondor's Python bindings as HTMap 0.6.1 knows them: version 1, whichever version is installed."""

from typing import Any


def present() -> None:
    """Make `import htcondor` and `import classad` work as in version 1. To be called before HTMap is imported."""


def adapt(htmap: Any) -> None:
    """Let an imported HTMap read the event logs of any HTCondor from 23.9 to 25.14."""
