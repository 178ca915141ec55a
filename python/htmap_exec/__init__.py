"""Runs HTMap's components by htmap-exec, and reads and writes map directories without HTCondor.

`htmap_exec.enable()` plugs htmap-exec into HTMap. Or `import htmap_exec as htmap`: whatever HTMap has is here as well,
enabled when it is first asked for.

Importing this needs neither HTMap nor HTCondor nor cloudpickle: each is imported by the function that needs it.

A map directory is to be trusted as a program is: functions, inputs and outputs are pickles, and loading a pickle can
run any code.
"""

from typing import Any, List

from .enabling import enable
from .explaining import explain
from .failures import (
    BinaryNotFound,
    BinaryUnusable,
    BindingsMissing,
    ComponentFailed,
    HtmapExecError,
    HTMapMissing,
    MapDirectoryError,
    OptionsError,
    OutputDamaged,
    OutputMissing,
    SettingsError,
    ShippingError,
    TransplantError,
)
from .map_directory import write_map
from .outputs import load_output, report

__all__ = [
    "BinaryNotFound",
    "BinaryUnusable",
    "BindingsMissing",
    "ComponentFailed",
    "HTMapMissing",
    "HtmapExecError",
    "MapDirectoryError",
    "OptionsError",
    "OutputDamaged",
    "OutputMissing",
    "SettingsError",
    "ShippingError",
    "TransplantError",
    "enable",
    "explain",
    "load_output",
    "report",
    "write_map",
]

# What `import htmap` of HTMap 0.6.1 offers. A list, because whoever pickles looks into every module for the most
# different names, and that must not import HTMap. No module of this package may have one of these names.
_HTMAP = frozenset(
    [
        "BASE_SETTINGS",
        "ComponentError",
        "ComponentHold",
        "ComponentStatus",
        "Map",
        "MapBuilder",
        "MapOptions",
        "MapOutputFiles",
        "MapStdErr",
        "MapStdOut",
        "MappedFunction",
        "TransferPath",
        "Transplant",
        "USER_SETTINGS",
        "__version__",
        "build_map",
        "checkpoint",
        "checkpointing",
        "clean",
        "condor",
        "errors",
        "exceptions",
        "get_tags",
        "holds",
        "htio",
        "load",
        "load_maps",
        "management",
        "map",
        "mapped",
        "mapping",
        "maps",
        "names",
        "options",
        "register_delivery_method",
        "remove",
        "settings",
        "starmap",
        "state",
        "status",
        "status_csv",
        "status_json",
        "tags",
        "transfer",
        "transfer_output_files",
        "transplant_info",
        "transplants",
        "types",
        "utils",
        "version",
        "version_info",
    ]
)


def __getattr__(name: str) -> Any:
    if name not in _HTMAP:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .enabling import load_htmap

    return getattr(load_htmap(), name)


def __dir__() -> List[str]:
    return sorted({*globals(), *_HTMAP})
