# Loads libraries before anything imports a module that needs them: the loader then takes these, by
# their names, and looks for no others. No variable of the loader could do that, since every program
# that Python starts would get it as well.
import os
import _imp
from _frozen_importlib import ModuleSpec

# ctypes needs a library itself, which may be one of these. Asked for a module that is none, Python
# loads the file all the same, and keeps it.
for path in os.environ["HTMAP_EXEC_PRELOAD"].split(os.pathsep):
    try:
        _imp.create_dynamic(ModuleSpec("_htmap_exec_library", None, origin=path))
    except (ImportError, SystemError):
        pass
