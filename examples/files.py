"""Input files and output files: HTMap's tutorial "Working with Files" and its recipe "Output Files"."""

import os
import pathlib
import subprocess
import tempfile

import htmap_exec as htmap

htmap.settings["DELIVERY_METHOD"] = "assume"
os.chdir(tempfile.mkdtemp())

# A TransferPath among the arguments, or in a list or dict there, brings the file along.
here = htmap.TransferPath.cwd()
lines = {"first.txt": "twinkle ", "second.txt": "twinkle ", "third.txt": "little star"}
for name, text in lines.items():
    (here / name).write_text(text)


def join(paths):
    return "".join(path.read_text() for path in paths)


print(htmap.map(join, [[here / name for name in lines]]).get(0))


# A file that the function makes comes back if the function says so.
@htmap.mapped
def echo(word, times):
    path = pathlib.Path("echo.txt")
    path.write_text(" ".join([word] * times))
    htmap.transfer_output_files(path)


with echo.build_map() as builder:
    builder("tick", 3)
    builder("tock", 1)
builder.map.wait()
for directory in builder.map.output_files:
    print((directory / "echo.txt").read_text())

# A program of one's own: it arrives in the directory in which the function starts.
pathlib.Path("triple").write_text("#!/bin/sh\necho $((3 * $1))\n")
pathlib.Path("triple").chmod(0o755)


@htmap.mapped(map_options=htmap.MapOptions(fixed_input_files="triple"))
def triple(x):
    return int(subprocess.run(["./triple", str(x)], stdout=subprocess.PIPE, check=True).stdout)


print(list(triple.map(range(4))))
