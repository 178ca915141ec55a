"""What a component asks of a node, and calls of every shape: HTMap's tutorials "Map Options" and "Advanced Mapping"."""

import htmap_exec as htmap

htmap.settings["DELIVERY_METHOD"] = "assume"


# One value for all components, or one for each. Numbers are as good as text.
def half(x):
    return x / 2


sized = htmap.map(
    half,
    [2, 4, 6],
    map_options=htmap.MapOptions(request_memory=["32MB", "48MB", "64MB"], request_disk="100MB", request_cpus=1),
)
print(list(sized))


def power(x, p=1):
    return x**p


print(list(htmap.starmap(power, args=[(2,), (3,)], kwargs=[{"p": 5}, {"p": 2}])))


# A mapped function carries its options along.
@htmap.mapped(map_options=htmap.MapOptions(request_memory="64MB"))
def squared(x):
    return power(x, 2)


assert squared(3) == 9
print(list(squared.map(range(4))))


# Arguments are whatever can be pickled; classes of a script go along by themselves.
class Kettle:
    def __init__(self, litres):
        self.litres = litres

    def minutes(self):
        return 4 * self.litres


print(list(htmap.map(lambda kettle: kettle.minutes(), [Kettle(1), Kettle(1.5)])))

# Inputs with their outputs.
even = htmap.map(lambda x: x % 2 == 0, range(6))
print([args[0] for (args, _), is_even in even.iter_with_inputs() if is_even])
