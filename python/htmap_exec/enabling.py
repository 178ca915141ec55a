"""Plugs htmap-exec into HTMap, in the order that HTMap's imports need."""

import os
from typing import Any, Optional, Union

from . import bindings, delivery
from .binary import find_binary

_Path = Union[str, "os.PathLike[str]"]


def enable(binary: Optional[_Path] = None) -> None:
    """Let HTMap run components by htmap-exec, on today's HTCondor.

    `assume` sends the binary with every component and finds a Python on the node; `shared` expects this Python and the
    binary at the same paths on the node. Nodes need no HTMap and no cloudpickle, but a Python of this minor version.

    The binary is the one given, else what the environment variable HTMAP_EXEC_BIN names, else the one installed beside
    this Python, else the first on PATH. Raises BinaryNotFound if there is none.
    """
    path = find_binary(binary)
    delivery.register(load_htmap(), path)


def load_htmap() -> Any:
    """HTMap, working with the bindings that there are; its delivery methods are still its own."""
    bindings.present()
    import htmap

    bindings.adapt(htmap)
    return htmap
