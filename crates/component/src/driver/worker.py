# Goes before htmap.py where a spawned worker imports it; the runner has put `scratch` (bytes) and
# `component` before this.
import importlib.util
import os
import sys

scratch = os.fsdecode(scratch)


class outside_scratch:
    """Imports of our own must not find the user's `json.py`."""

    def __enter__(self):
        self.path = sys.path
        sys.path = [entry for entry in self.path if entry not in ("", scratch)]

    def __exit__(self, *_):
        sys.path = self.path


class Finder:
    """First on sys.meta_path, as in the driver."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "htmap" or name.startswith("htmap.") or name == "htmap_exec":
            return find_spec(name)
        return None


def take_place(name):
    """Puts the real module in the place of the stub that is being imported."""
    spec = find_spec(name)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


sys.meta_path.insert(0, Finder)
