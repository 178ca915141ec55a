"""A component that goes on where it was evicted: HTMap's recipe "Checkpointing Maps"."""

import pathlib
import time

import htmap_exec as htmap

htmap.settings["DELIVERY_METHOD"] = "assume"


@htmap.mapped
def count(steps):
    checkpoint = pathlib.Path("checkpoint")
    done = int(checkpoint.read_text()) if checkpoint.exists() else 0
    print(f"starting at step {done}")
    while done < steps:
        time.sleep(0.2)
        done += 1
        checkpoint.write_text(str(done))
        htmap.checkpoint(checkpoint)
    return done


m = count.map([30])
while m.component_statuses[0] is not htmap.ComponentStatus.RUNNING:
    time.sleep(0.2)
time.sleep(3)
m.vacate()
print(m.get(0))
start = next(line for line in m.stdout.get(0).splitlines() if line.startswith("starting at step"))
print(int(start.split()[-1]) > 0)
