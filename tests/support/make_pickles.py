"""Writes `func` and `N.in` as HTMap's submit side does; run by the Python that plays the submit machine.

Usage: make_pickles.py SOURCE DIRECTORY COMPONENT. SOURCE defines `f`, and `args` and `kwargs` if it wants any; it is
executed as `__main__`, so that cloudpickle ships everything in it by value. Works on Python 3.6.
"""

import gzip
import os
import sys


def main() -> None:
    import cloudpickle

    source, directory, component = sys.argv[1:]
    with open(source, encoding="utf-8") as file:
        text = file.read()
    space = sys.modules["__main__"].__dict__
    exec(compile(text, source, "exec"), space)
    inputs = (tuple(space.get("args", ())), dict(space.get("kwargs", {})))
    for name, thing in (("func", space["f"]), (component + ".in", inputs)):
        with gzip.open(os.path.join(directory, name), mode="wb", compresslevel=1) as file:
            cloudpickle.dump(thing, file)


main()
