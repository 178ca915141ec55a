"""What goes to the execute node beside the function and its input: the submit side's cloudpickle.

The archive has the same bytes whenever it is made of the same files, so that whatever caches by content can.
"""

import os
import pathlib
import sys
import tempfile
import zipfile
from typing import Union

from .failures import ShippingError

# The earliest time that a zip archive can hold.
_EPOCH = (1980, 1, 1, 0, 0, 0)
_READABLE_FILE = 0o100644 << 16


def submit_python() -> str:
    """The version that decides where this interpreter's bytecode runs, such as "3.11"."""
    return "{}.{}".format(*sys.version_info[:2])


def ship_cloudpickle(path: Union[str, "os.PathLike[str]"]) -> None:
    """Write the imported cloudpickle's modules to a zip archive, for nodes that have none."""
    try:
        import cloudpickle
    except ImportError as error:
        raise ShippingError(f"there is no cloudpickle beside `{sys.executable}`: pip install cloudpickle") from error
    package = pathlib.Path(str(cloudpickle.__file__)).parent
    modules = sorted(package.rglob("*.py"))
    if not modules:
        raise ShippingError(
            f"no Python files in `{package}`: cloudpickle has to be installed as a directory of modules"
        )
    with tempfile.NamedTemporaryFile(dir=pathlib.Path(path).parent, prefix=".cloudpickle-", delete=False) as file:
        try:
            with zipfile.ZipFile(file, "w") as archive:
                for module in modules:
                    entry = zipfile.ZipInfo(module.relative_to(package.parent).as_posix(), _EPOCH)
                    entry.compress_type = zipfile.ZIP_DEFLATED
                    entry.external_attr = _READABLE_FILE
                    entry.create_system = 3
                    archive.writestr(entry, module.read_bytes())
            file.flush()
            # The job may run as another user, and this file was made for its owner alone.
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
