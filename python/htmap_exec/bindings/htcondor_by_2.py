"""The module `htcondor` of version 1, by `htcondor2`: what HTMap uses, and what scripts beside HTMap may.

There are no transactions any more: jobs are in the queue, and may start, as soon as they are submitted. A `with` block
that fails removes what it has submitted.

What else differs: https://htcondor.readthedocs.io/en/latest/apis/python-bindings/api/version2/migration-guide.html
"""

import contextlib
import re
import warnings
from typing import Any, Dict, Iterable, Iterator, List, Optional

import htcondor2

_MIGRATION = "https://htcondor.readthedocs.io/en/latest/apis/python-bindings/api/version2/migration-guide.html"

__version__ = re.sub(r"^\D*(\d+\.\d+\.\d+).*", r"\1", htcondor2.version(), flags=re.DOTALL)

HTCondorException: Any = htcondor2.HTCondorException


class HTCondorIOError(HTCondorException, OSError, RuntimeError, ValueError):  # type: ignore[misc]
    """HTCondor cannot be reached, or refuses. The bases are version 1's: callers catch any of them."""


class HTCondorLocateError(HTCondorException, OSError, RuntimeError, ValueError):  # type: ignore[misc]
    """A daemon cannot be found."""


# Names of version 1 for failures that version 2 does not tell apart, or raises as Python's own.
HTCondorInternalError = HTCondorIOError
HTCondorReplyError = HTCondorIOError
HTCondorEnumError = ValueError
HTCondorTypeError = TypeError
HTCondorValueError = ValueError


class Collector(htcondor2.Collector):  # type: ignore[misc]
    def locate(self, *args: Any, **kwargs: Any) -> Any:
        with _failures():
            found = super().locate(*args, **kwargs)
        if found is None:
            # Version 2 returns None, and takes None for the local schedd: jobs would go there instead.
            raise HTCondorLocateError(f"Unable to find daemon: the collector knows none by {args or kwargs}")
        return found

    def locateAll(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802
        with _failures():
            return super().locateAll(*args, **kwargs)

    def query(self, *args: Any, **kwargs: Any) -> Any:
        with _failures():
            return super().query(*args, **kwargs)


class Schedd(htcondor2.Schedd):  # type: ignore[misc]
    def __init__(self, location: Any = None) -> None:
        with _failures():
            super().__init__(location)

    def transaction(self, flags: int = 0, continue_txn: bool = False) -> "Transaction":
        return Transaction(self)

    def submit(
        self,
        description: Any,
        count: int = 0,
        spool: bool = False,
        ad_results: Optional[List[Any]] = None,
        itemdata: Optional[Iterable[Any]] = None,
        queue: Optional[str] = None,
    ) -> Any:
        more: Dict[str, Any] = {}
        if itemdata is not None:
            more["itemdata"] = iter(_items(itemdata))
        if queue is not None:
            more["queue"] = queue
        with _failures(self):
            result = super().submit(description, count, spool, **more)
        if ad_results is not None:
            ad_results.extend(self.query(f"ClusterId == {result.cluster()}"))
        return result

    def query(self, *args: Any, **kwargs: Any) -> Any:
        with _failures(self):
            return super().query(*args, **kwargs)

    def xquery(
        self,
        requirements: Any = "true",
        projection: Optional[List[str]] = None,
        limit: int = -1,
        opts: Any = htcondor2.QueryOpts.Default,
        name: Optional[str] = None,
    ) -> Iterator[Any]:
        return iter(self.query(requirements, projection or [], None, limit, opts))

    def act(self, *args: Any, **kwargs: Any) -> Any:
        with _failures(self):
            return super().act(*args, **kwargs)

    def edit(self, *args: Any, **kwargs: Any) -> Any:
        with _failures(self):
            return super().edit(*args, **kwargs)

    def history(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        with _failures(self):
            return iter(super().history(*args, **kwargs))


class Transaction:
    """What has been submitted in a `with` block. If that fails, it is removed; it may have started by then."""

    def __init__(self, schedd: Schedd) -> None:
        self._schedd = schedd
        self._clusters: List[int] = []

    def __enter__(self) -> "Transaction":
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        clusters, self._clusters = self._clusters, []
        if error is not None and clusters:
            # The block's own failure is the one to tell.
            with contextlib.suppress(HTCondorException):
                ours = " || ".join(f"ClusterId == {cluster}" for cluster in clusters)
                self._schedd.act(htcondor2.JobAction.Remove, ours)

    def _submit(self, description: "Submit", count: int, *args: Any) -> Any:
        result = self._schedd.submit(description, count, *args)
        self._clusters.append(result.cluster())
        return result


class Submit(htcondor2.Submit):  # type: ignore[misc]
    def __init__(self, input: Any = None, **kwargs: Any) -> None:  # noqa: A002
        if isinstance(input, dict):
            input = {key: _text(value) for key, value in input.items()}  # noqa: A001
        super().__init__(input, **kwargs)

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, _text(value))

    def __delitem__(self, key: str) -> None:
        # Version 2 cannot tell a missing key from an empty value: so all the others are set anew.
        left = {each: value for each, value in self.items() if each.lower() != key.lower()}
        if len(left) == len(self):
            raise KeyError(key)
        queue, method = self.getQArgs(), self.getSubmitMethod()
        super().__init__(left)
        if queue:
            self.setQArgs(queue)
        self.setSubmitMethod(method, True)

    def getQArgs(self) -> str:  # noqa: N802
        return super().getQArgs() or ""

    def queue(self, txn: Transaction, count: int = 0, ad_results: Optional[List[Any]] = None) -> int:
        return int(txn._submit(self, count, False, ad_results).cluster())

    def queue_with_itemdata(
        self, txn: Transaction, count: int = 1, itemdata: Optional[Iterable[Any]] = None, spool: bool = False
    ) -> Any:
        return txn._submit(self, count, spool, None, itemdata)

    @staticmethod
    def from_dag(*args: Any, **kwargs: Any) -> "Submit":
        return Submit(str(htcondor2.Submit.from_dag(*args, **kwargs)))


class JobEvent(htcondor2.JobEvent):  # type: ignore[misc]
    @property
    def type(self) -> Any:
        """The type, or its number where a newer HTCondor has written an event that these bindings have no name for."""
        try:
            return super().type
        except ValueError:
            return self["EventTypeNumber"]


class JobEventLog(htcondor2.JobEventLog):  # type: ignore[misc]
    def __next__(self) -> JobEvent:
        event: JobEvent = super().__next__()
        # It is complete: only how it answers changes.
        event.__class__ = JobEvent
        return event


def __getattr__(name: str) -> Any:
    try:
        return getattr(htcondor2, name)
    except AttributeError:
        raise AttributeError(
            f"module 'htcondor' has no attribute {name!r}: this is HTCondor's `htcondor2` under the name that HTMap "
            f"knows; see {_MIGRATION}"
        ) from None


def __dir__() -> List[str]:
    return sorted({*globals(), *dir(htcondor2)})


def _text(value: Any) -> str:
    """A submit descriptor's value. Version 2 writes a submit file, in which a value ends with its line."""
    if value is None:
        return "undefined"
    text = repr(value) if isinstance(value, htcondor2.classad.ClassAd) else str(value)
    lines = text.splitlines()
    if len(lines) < 2:
        return text
    quotes = 0
    for line in lines[:-1]:
        quotes += line.count('"')
        if quotes % 2:
            raise ValueError(f"a submit descriptor's value must not contain a line break within quotes: {text!r}")
    # To an expression a line break is a blank.
    return " ".join(line.strip() for line in lines)


# Comes first in a line of items: a line that begins with `#` is dropped, and `)` ends all of them. It is a name for
# submit descriptors like those of the items themselves, so it should be nobody's.
_GUARD = "htmap_exec_item"


def _items(itemdata: Iterable[Any]) -> List[Any]:
    """Items, checked: version 2 writes them into a submit file, and what does not fit there is lost without a word."""
    items = list(itemdata)
    if not items:
        raise ValueError("there are no items to submit jobs for")
    if isinstance(items[0], dict):
        return _tables(items)
    for number, item in enumerate(items):
        if not isinstance(item, str):
            raise TypeError(f"item {number} is neither a dictionary nor a string: {item!r}")
        if item.strip()[:1] in ("", "#", ")") or len(item.splitlines()) > 1:
            raise ValueError(f"item {number} cannot be submitted, since it is empty, a comment or no line: {item!r}")
    return items


def _tables(items: List[Any]) -> List[Dict[str, str]]:
    trimmed = None
    keys = list(items[0])
    for number, item in enumerate(items):
        if not isinstance(item, dict) or set(item) != set(keys):
            raise ValueError(f"item {number} must have the keys of the first one, {', '.join(keys)}: {item!r}")
        for key, value in item.items():
            if not isinstance(value, str):
                raise TypeError(f"item {number}: the value of `{key}` must be a string: {value!r}")
            if "\n" in value or "\x1f" in value:
                raise ValueError(
                    f"item {number}: the value of `{key}` must have no line break and no character 0x1F: {value!r}"
                )
            if value != value.strip():
                trimmed = number, key
    if trimmed is not None:
        warnings.warn(
            "item {}: HTCondor drops the blanks around the value of `{}`".format(*trimmed), UserWarning, stacklevel=6
        )
    return [{_GUARD: str(number), **item} for number, item in enumerate(items)]


@contextlib.contextmanager
def _failures(schedd: Optional[Schedd] = None) -> Iterator[None]:
    """Raises what version 1 raises, and says what to do about it."""
    try:
        yield
    except (HTCondorIOError, HTCondorLocateError):
        raise
    except HTCondorException as error:
        text = str(error)
        if "locate" in text.lower():
            raise HTCondorLocateError(
                f"{text} Is this an access point of HTCondor, and does it run (condor_status -schedd)?"
            ) from error
        if schedd is not None and "errmsg=" not in text:
            # Acting and editing do not say why they fail. Whatever keeps them from the schedd keeps a query.
            text += _reason(schedd)
        if "server's network address" in text:
            text += _channel_binding(schedd)
        raise HTCondorIOError(text) from error


def _reason(schedd: Schedd) -> str:
    try:
        htcondor2.Schedd.query(schedd, "false", ["ClusterId"], limit=1)
    except HTCondorException as error:
        return f" {error}"
    return ""


def _channel_binding(schedd: Optional[Schedd]) -> str:
    version = re.search(r"\d+\.\d+\.\d+", str(getattr(schedd, "_version", "")))
    theirs = f" {version[0]}" if version else ""
    return (
        f" These bindings ({__version__}) want a channel binding that older access points do not have; this one is "
        f"HTCondor{theirs}. Set the environment variable _CONDOR_SEC_FS_ENFORCE_CHANNEL_BINDING=false, or "
        "SEC_FS_ENFORCE_CHANNEL_BINDING = false in HTCondor's configuration; or install bindings of the access point's "
        "version."
    )
