"""Plugs htmap-exec into HTMap, in the order that HTMap's imports need."""

import os
import warnings
from typing import Any, Optional, Union

from . import bindings, delivery, map_options
from .binary import find_binary
from .failures import HTMapMissing

# Its last release. What is put right from outside depends on how it is inside.
HTMAP_VERSION = "0.6.1"


def enable(binary: Optional[Union[str, "os.PathLike[str]"]] = None) -> None:
    """Let HTMap run components by htmap-exec, on today's HTCondor.

    All of HTMap's delivery methods then are htmap-exec's, and there are two more, `container` and `apptainer`;
    `htmap_exec.explain` says what each asks of the nodes. What HTMap does wrong with a MapOptions is put right. HTMap's
    settings stay in force.

    `binary` is the same as the setting EXEC.BINARY. A second call changes nothing but that.
    Raises HTMapMissing or BindingsMissing if there is no HTMap, or no HTCondor bindings, and BinaryNotFound if `binary`
    is no program; whatever else is wrong shows when a map is made, before it is submitted.
    """
    htmap = load_htmap()
    if binary is not None:
        htmap.settings["EXEC.BINARY"] = find_binary(os.fspath(binary))


def load_htmap() -> Any:
    """HTMap, imported and enabled."""
    bindings.present()
    try:
        import htmap
    except ModuleNotFoundError as error:
        if error.name != "htmap":
            raise
        raise HTMapMissing("HTMap is not installed: pip install 'htmap-exec[htmap]'", name="htmap") from None
    if htmap.__version__ != HTMAP_VERSION:
        warnings.warn(
            f"htmap-exec is made for HTMap {HTMAP_VERSION}, and this is {htmap.__version__}: "
            f"pip install htmap=={HTMAP_VERSION}",
            stacklevel=3,
        )
    bindings.adapt(htmap)
    map_options.correct(htmap)
    delivery.register(htmap)
    return htmap
