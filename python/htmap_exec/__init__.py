"""Runs HTMap's components by htmap-exec, and reads and writes map directories without HTCondor.

Importing this needs neither HTMap nor HTCondor nor cloudpickle: each is imported by the function that needs it.

A map directory is to be trusted as a program is: functions, inputs and outputs are pickles, and loading a pickle can
run any code.
"""

from .enabling import enable
from .errors import (
    BinaryNotFound,
    ComponentFailed,
    HtmapExecError,
    MapDirectoryError,
    OutputDamaged,
    OutputMissing,
    ShippingError,
)
from .map_directory import write_map
from .outputs import load_output, report

__all__ = [
    "BinaryNotFound",
    "ComponentFailed",
    "HtmapExecError",
    "MapDirectoryError",
    "OutputDamaged",
    "OutputMissing",
    "ShippingError",
    "enable",
    "load_output",
    "report",
    "write_map",
]
