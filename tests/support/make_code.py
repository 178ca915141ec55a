"""Compiles source files and pickles their code objects by value; run by the Python that plays the submit machine.

Usage: make_code.py DIRECTORY COMPONENT, and the files' paths on stdin, one a line; what is a directory stands for all
`.py` files below. Writes `func` (`builtins.len`, by reference) and `N.in` with the modules' code objects to DIRECTORY,
and `code.jsonl`: this Python's instruction set, then each code object in the order in which the pickle makes them.
Works on Python 3.6.
"""

import gzip
import json
import opcode
import os
import sys
import types
import warnings


def instruction_set():
    caches = getattr(opcode, "_inline_cache_entries", {})
    if not isinstance(caches, dict):
        caches = {name: count for name, count in zip(opcode.opname, caches) if count}
    names = {number: name for name, number in opcode.opmap.items() if number < 256}
    return {
        "version": "{}.{}".format(*sys.version_info[:2]),
        "names": names,
        "caches": {number: caches[name] for number, name in names.items() if caches.get(name)},
        "absolute": [number for number in opcode.hasjabs if number < 256],
        "relative": [number for number in opcode.hasjrel if number < 256],
        "argument": opcode.HAVE_ARGUMENT,
        "extended": opcode.EXTENDED_ARG,
    }


def sources(paths):
    for path in paths:
        if os.path.isfile(path):
            yield path
            continue
        for root, directories, files in os.walk(path):
            directories.sort()
            for name in sorted(files):
                if name.endswith(".py"):
                    yield os.path.join(root, name)


def modules(paths):
    for path in sources(paths):
        with open(path, "rb") as file:
            text = file.read()
        try:
            yield compile(text, path, "exec", dont_inherit=True)
        # What is no source of this version, on purpose or not.
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue


def walk(code, seen):
    """In the order in which they are made, each once."""
    if id(code) in seen:
        return
    seen.add(id(code))
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from walk(const, seen)
    yield code


def main():
    import cloudpickle

    warnings.simplefilter("ignore")
    sys.setrecursionlimit(5000)
    directory, component = sys.argv[1:]
    made = list(modules([line.rstrip("\n") for line in sys.stdin]))
    for name, thing in (("func", len), (component + ".in", ((made,), {}))):
        with gzip.open(os.path.join(directory, name), mode="wb", compresslevel=1) as file:
            cloudpickle.dump(thing, file)
    with open(os.path.join(directory, "code.jsonl"), "w") as file:
        file.write(json.dumps(instruction_set()) + "\n")
        seen = set()
        for module in made:
            for code in walk(module, seen):
                facts = [code.co_name, code.co_filename, code.co_firstlineno, code.co_flags, code.co_code.hex()]
                file.write(json.dumps(facts) + "\n")


main()
