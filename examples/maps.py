"""Maps, tags and statuses: HTMap's tutorials "First Steps" and "Basic Mapping", by htmap-exec."""

import htmap_exec as htmap

htmap.settings["DELIVERY_METHOD"] = "assume"


def cube(x):
    return x**3


# A map without a tag is transient; a tag keeps it.
quick = htmap.map(cube, range(5))
assert quick.is_transient
print(list(quick))

quick.retag("cubes")
assert not quick.is_transient

# The same tag twice is an error.
try:
    htmap.map(cube, range(5), tag="cubes")
except htmap.exceptions.TagAlreadyExists as error:
    print(type(error).__name__)

words = htmap.map(len, ["one", "three", "seventeen"], tag="words")
print(words.status())
words.wait(show_progress_bar=False)
print(words.component_statuses == [htmap.ComponentStatus.COMPLETED] * 3)

# Any process finds a map by its tag; in one process it is the same object.
assert htmap.load("words") is words
print(sorted(htmap.get_tags()))
print(htmap.status())

# Keyword arguments and more than one argument, call by call.
with htmap.build_map(lambda text, times=1: text * times) as builder:
    builder("ha", times=3)
    builder("he")
print(list(builder.map))

words.remove()
print("words" in htmap.get_tags())
htmap.remove("cubes")
builder.map.remove()
