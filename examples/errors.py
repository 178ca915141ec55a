"""Holds, errors, stdout and stderr: HTMap's tutorial "Error Handling"."""

import os
import sys
import tempfile
import time

import htmap_exec as htmap

htmap.settings["DELIVERY_METHOD"] = "assume"
os.chdir(tempfile.mkdtemp())

# An input file that is not there holds the component; once it is there, release the map.
late = htmap.TransferPath.cwd() / "late.txt"
waiting = htmap.map(lambda path: path.read_text(), [late])
try:
    waiting.get(0)
except htmap.exceptions.MapComponentHeld as error:
    assert "late.txt" in str(error)
    print("held")
late.write_text("better late than never")
waiting.release()
while waiting.holds:
    time.sleep(0.2)
print(waiting.get(0))


# An exception comes back as a report.
def reciprocal(x):
    return 1 / x


broken = htmap.map(reciprocal, [4, 0])
print(broken.get(0))
try:
    broken.get(1)
except htmap.exceptions.MapComponentError as error:
    assert "ZeroDivisionError: division by zero" in str(error)
    assert "x = 0" in str(error)
    print("failed")
print(broken.components_by_status()[htmap.ComponentStatus.ERRORED])


# And so does a Python that dies, which left HTMap without a word.
def vanish(_):
    os._exit(3)


dead = htmap.map(vanish, [None])
dead.wait(errors_ok=True)
[report] = dead.error_reports()
print("exit" in report)


def talk(_):
    print("to stdout")
    print("to stderr", file=sys.stderr)


said = htmap.map(talk, [None])
print("to stdout" in said.stdout.get(0), "to stderr" in said.stderr.get(0))
