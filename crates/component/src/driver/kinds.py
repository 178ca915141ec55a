# The second half of `display.py`, in the same name space: how the reprs of rarer kinds look.
import sys


def _attributes(value):
    """An instance's own, in its dictionary and in slots."""
    found = {}
    try:
        own = object.__getattribute__(value, "__dict__")
        if type(own) is dict:
            found.update(own)
    except AttributeError:
        pass
    for base in _mro(type(value)):
        for name, slot in _space(base).items():
            if type(slot) is type(_Slot.one) and "__slots__" in _space(base):
                try:
                    found[name] = slot.__get__(value)
                except AttributeError:
                    pass
    return found


class _Slot:
    __slots__ = ("one",)


def _braces(pairs):
    return _Parts(("{", pairs, "}"))


def _named(pairs):
    return [_Named((str(name), each)) for name, each in pairs]


def _got(base, value, *names):
    return [_space(base)[name].__get__(value) for name in names]


def _deque(kind, value, base):
    (end,) = _got(base, value, "maxlen")
    return kind + "([", base.__iter__(value), "])" if end is None else "], maxlen=%d)" % end


def _ordered(kind, value, base):
    pairs = ((key, dict.__getitem__(value, key)) for key in base.__iter__(value))
    if not dict.__len__(value):
        return kind + "(", (), ")"
    return (kind + "({", map(_Pair, pairs), "})") if sys.version_info >= (3, 12) else (kind + "([", pairs, "])")


def _counter(kind, value, base):
    pairs = _pairs(value)
    if dict.__len__(value) <= 1000:
        try:
            pairs = sorted(pairs, key=lambda pair: pair[1], reverse=True)
        except TypeError:
            pairs = _pairs(value)
    return kind + "(", [_braces(pairs)] if dict.__len__(value) else [], ")"


def _array(kind, value, base):
    length = base.__len__(value)
    (code,) = _got(base, value, "typecode")
    if not length:
        return "%s(%r)" % (kind, code), (), ""
    if code in "uw":
        return "%s(%r, " % (kind, code), [base.tounicode(base.__getitem__(value, slice(LARGE)))], ")"
    return "%s(%r, [" % (kind, code), (base.__getitem__(value, index) for index in range(length)), "])"


def _exception(kind, value, base):
    (args,) = _got(base, value, "args")
    return kind + "(", args, ",)" if len(args) == 1 and sys.version_info < (3, 7) else ")"


def _partial(kind, value, base):
    function, args, keywords = _got(base, value, "func", "args", "keywords")
    if sys.version_info < (3, 13) or type(value) is base:
        kind = "functools.partial" if type(value) is base else kind
    else:
        kind = "%s.%s" % (_module(type(value)), _qualname(type(value)))
    return kind + "(", [function, *args, *_named(keywords.items())], ")"


def _range(kind, value, base):
    start, stop, step = _got(base, value, "start", "stop", "step")
    return kind + "(", [start, stop] if base is range and step == 1 else [start, stop, step], ")"


def _bound(kind, value, base):
    function = value.__func__
    name = getattr(function, "__qualname__", None) or getattr(function, "__name__", "?")
    return "<bound method %s of " % name, [value.__self__], ">"


def _view(kind, value, base):
    return kind + "([", iter(value), "])"


def _data(kind, value, base):
    return "", [_attributes(value)["data"]], ""


# By module and name, so that nothing has to be imported: how the reprs of these look.
_KINDS = {
    ("builtins", "dict_keys"): _view,
    ("builtins", "dict_values"): _view,
    ("builtins", "dict_items"): _view,
    ("builtins", "mappingproxy"): lambda kind, value, base: (kind + "({", map(_Pair, value.items()), "})"),
    ("builtins", "method"): _bound,
    ("builtins", "range"): _range,
    ("builtins", "slice"): _range,
    ("builtins", "BaseException"): _exception,
    ("types", "SimpleNamespace"): lambda kind, value, base: (
        ("namespace" if type(value) is base else kind) + "(",
        _named(_attributes(value).items()),
        ")",
    ),
    ("array", "array"): _array,
    ("functools", "partial"): _partial,
    ("collections", "deque"): _deque,
    ("collections", "defaultdict"): lambda kind, value, base: (
        kind + "(",
        [*_got(base, value, "default_factory"), _braces(_pairs(value))],
        ")",
    ),
    ("collections", "OrderedDict"): _ordered,
    ("collections", "Counter"): _counter,
    ("collections", "ChainMap"): lambda kind, value, base: (kind + "(", _attributes(value)["maps"], ")"),
    ("collections", "UserDict"): _data,
    ("collections", "UserList"): _data,
    ("collections", "UserString"): _data,
    ("collections.abc", "MappingView"): lambda kind, value, base: (kind + "(", _got(base, value, "_mapping"), ")"),
}


def _generated(value, owner, function):
    """How a repr that was generated for a class looks. It may be pickled by value: no file name tells it."""
    space = _space(owner)
    code = getattr(function, "__code__", None)
    if code is None:
        return None
    name = _qualname(type(value))
    if "_fields" in space and tuple in _mro(owner) and code.co_names == ("__class__", "__name__"):
        name, fields = _name(type(value)), space["_fields"]
    elif "__dataclass_fields__" in space:
        fields = tuple(name for name, field in space["__dataclass_fields__"].items() if field.repr)
        inner = getattr(getattr(function, "__wrapped__", None), "__code__", None)
        if inner is None or inner.co_names != ("__class__", "__qualname__") + fields:
            return None
    elif "__attrs_attrs__" in space and "already_repring" in code.co_names:
        if any(field.repr not in (True, False) for field in space["__attrs_attrs__"]):
            return None
        name = name.rpartition(">.")[2]
        fields = [field.name for field in space["__attrs_attrs__"] if field.repr]
    else:
        return None
    return name + "(", [_Named((field, object.__getattribute__(value, field))) for field in fields], ")"


def _holds_much(value):
    """Whether the text of an instance might show something large."""
    waiting = [(value, 0)]
    for _ in range(200):
        if not waiting:
            break
        value, depth = waiting.pop()
        length = _length(value)
        if length is None:
            inside = list(_attributes(value).values()) if depth < 3 else ()
        elif length > LARGE:
            return True
        elif length <= 200 and type(value) in (list, tuple, dict):
            inside = value.values() if type(value) is dict else value
        else:
            inside = ()
        waiting += [(each, depth + 1) for each in inside]
    return False


def _rare(value, owner, length):
    """As `_parts` does."""
    kind = type(value)
    make = _KINDS.get((_module(owner), _name(owner)))
    if make is not None:
        return make(_name(kind), value, owner)
    function = _space(owner)["__repr__"]
    parts = _generated(value, owner, function)
    if parts is not None:
        return parts
    if length is None and any("__len__" in _space(base) for base in _mro(kind)):
        try:
            length = len(value)
        except Exception:
            # It has none, or says so.
            pass
    if length is not None and length > LARGE:
        return _many(value, length)
    # What is written in C shows no attributes.
    if hasattr(function, "__code__") and _holds_much(value):
        return "<%s.%s with " % (_module(kind), _name(kind)), _named(_attributes(value).items()), ">"
    return None
