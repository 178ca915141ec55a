"""Makes `import htcondor` and `import classad` work with whatever bindings there are.

HTCondor up to 24 has the modules that HTMap imports; 25 has `htcondor2` and `classad2` alone. Where both are, HTMap
gets its own: they are what it was made for.
"""

import importlib
import sys
import warnings

from ..failures import BindingsMissing

_VERSION_1 = ("classad", "htcondor")


def present() -> None:
    """Make `import htcondor` and `import classad` work as in version 1. To be called before HTMap is imported."""
    try:
        _import_version_1()
        return
    except ImportError as error:
        without_1 = error
    try:
        from . import classad_by_2, htcondor_by_2
    except ImportError as error:
        # A missing module is the usual case, and no news; anything else is the cause.
        causes = [each for each in (without_1, error) if each.name not in (*_VERSION_1, "classad2", "htcondor2")]
        details = "".join(f" ({cause})" for cause in causes)
        version = "{}.{}".format(*sys.version_info[:2])
        raise BindingsMissing(
            f"Python {version} (`{sys.executable}`) has no bindings for HTCondor{details}: pip install htcondor",
            name="htcondor",
        ) from error
    sys.modules["classad"] = classad_by_2
    sys.modules["htcondor"] = htcondor_by_2


def _import_version_1() -> None:
    with warnings.catch_warnings():
        # They announce their end, which concerns us and not HTMap's users. Later ones may concern a script.
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        modules = [importlib.import_module(name) for name in _VERSION_1]
    for module in modules:
        # A directory of this name beside the script is importable, too, and empty.
        if not hasattr(module, "version"):
            raise ImportError(f"there is nothing in `{module.__name__}`", name=module.__name__)
