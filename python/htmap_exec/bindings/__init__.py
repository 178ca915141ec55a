"""HTCondor's Python bindings as HTMap 0.6.1 knows them: version 1, whichever version is installed.

`present` must come before HTMap's import, which takes what there is by name; `adapt` after it. Nothing in HTMap's and
HTCondor's files is changed, nor in the modules `htcondor2` and `classad2`, which others may use as they are.
"""

from .adapting import adapt
from .presenting import present

__all__ = ["adapt", "present"]
