"""Every exception that this package raises on its own account."""

from typing import Any, Tuple


class HtmapExecError(Exception):
    """Base of the others."""


class BinaryNotFound(HtmapExecError):
    """There is no htmap-exec binary to run components by."""


class BinaryUnusable(HtmapExecError):
    """The htmap-exec binary cannot run on the execute nodes."""


class SettingsError(HtmapExecError):
    """HTMap's settings hold something that delivery by htmap-exec cannot follow."""


class OptionsError(HtmapExecError, ValueError):
    """A MapOptions holds something that no job can be made of."""


class TransplantError(HtmapExecError):
    """This Python cannot be packed, to be brought to the nodes."""


class HTMapMissing(HtmapExecError, ImportError):
    """HTMap is not installed beside this Python."""


class BindingsMissing(HtmapExecError, ImportError):
    """HTCondor's Python bindings are not installed beside this Python."""


class ShippingError(HtmapExecError):
    """The submit side's cloudpickle cannot be sent along with a map."""


class MapDirectoryError(HtmapExecError):
    """A map directory cannot be written or read."""


class OutputMissing(HtmapExecError):
    """A component has no output (yet)."""


class OutputDamaged(HtmapExecError):
    """The output file of a component is cut off or is none at all."""


class ComponentFailed(HtmapExecError):
    """A component has an error record instead of a result.

    As text this is the whole report. `record` is the error record as the component left it.
    """

    def __init__(self, report: str, record: Any) -> None:
        super().__init__(report)
        self.record = record

    def __reduce__(self) -> Tuple[Any, ...]:
        return type(self), (str(self), self.record)
