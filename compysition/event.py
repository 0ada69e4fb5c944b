# SPDX-License-Identifier: Apache-2.0
"""What travels: `Event`, and `Failure`, the record of why one failed.

An event knows nothing of queues, actors or the ledger; the slots that begin with ``_`` belong to those above.
Read next: `ledger`, which says who owns an event and how it ends.
"""

import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, Self

from compysition.copying import IMMUTABLE, copy_data
from compysition.errors import ActorError, AttributeNameError, CompysitionError, RequestError

if TYPE_CHECKING:
    from compysition.ledger import Ledger, Owner
    from compysition.lineage import Token


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an event failed: plain text and a class, no frames, so that it keeps nothing else alive.

    Attributes:
        error_class: The exception's class.
        text: The exception's text.
        status: HTTP status that stands for it; 500 for classes outside the tree of `compysition.errors`.
        trace: Its traceback as data of the standard library, without frames; None if it was never raised.
        actor: Name of the actor whose handler failed; None if none did.
        headers: Headers that belong to an answer with this failure.
        retry_after_s: When the caller may come again, in seconds, if the error said so.
        args: The exception's arguments, if they are plain values; it can then be built again.
    """

    error_class: type[BaseException]
    text: str
    status: int = 500
    trace: traceback.TracebackException | None = field(default=None, compare=False, repr=False)
    actor: str | None = None
    headers: Mapping[str, str] | None = None
    retry_after_s: float | None = None
    args: tuple[object, ...] | None = None

    @classmethod
    def of(cls, error: BaseException, *, actor: str | None = None) -> "Failure":
        """The record of `error`, which is not kept."""
        ours = error if isinstance(error, CompysitionError) else None
        try:
            text = str(error)
        except Exception as unprintable:  # noqa: BLE001 - boundary, a user's __str__ must not take the accounting down with it
            text = f"<{type(error).__name__} whose text raised {type(unprintable).__name__}>"
        return cls(
            error_class=type(error),
            text=text,
            status=ours.status if ours is not None else 500,
            trace=_extract(error),
            actor=actor,
            headers=dict(ours.headers) if ours is not None and ours.headers else None,
            retry_after_s=getattr(ours, "retry_after_s", None),
            args=error.args if all(arg.__class__ in IMMUTABLE for arg in error.args) else None,
        )

    def exception(self) -> Exception:
        """An exception to raise in this failure's place.

        It is of the same class where that can be built from one text, else an `ActorError` that names the class.
        """
        try:
            if not issubclass(self.error_class, Exception):
                # What ends greenlets and processes must not be raised again in whoever only asked.
                raise TypeError
            error: Exception = self.error_class(*(self.args if self.args is not None else (self.text,)))
            if str(error) != self.text:
                raise TypeError
        except Exception:  # noqa: BLE001 - boundary, user classes may want any arguments: an honest stand-in is what is left
            error = stand_in = ActorError(str(self))
            stand_in.status = self.status
        if isinstance(error, CompysitionError) and self.headers:
            error.headers = dict(self.headers)
        if isinstance(error, RequestError):
            error.retry_after_s = self.retry_after_s
        if self.trace is not None and self.actor is not None:
            error.add_note(f"In actor {self.actor!r}:\n{self.traceback}")
        return error

    @property
    def traceback(self) -> str:
        """The formatted traceback, for logs, never for a caller; "" if there is none.

        Formatted when asked for: that takes a quarter of a millisecond, and most failures are a caller's mistake.
        """
        return "" if self.trace is None else "".join(self.trace.format())

    def __str__(self) -> str:
        return f"{self.error_class.__name__}: {self.text}" if self.text else self.error_class.__name__


def _extract(error: BaseException) -> traceback.TracebackException | None:
    try:
        return traceback.TracebackException.from_exception(error, lookup_lines=False, compact=True)
    except Exception:  # noqa: BLE001 - boundary, as above: users' `__str__` and `__notes__` are read in here
        return None


#: Bits of an id that count; those above are random, drawn once per process.
_COUNTER_BITS = 40


def _first_number() -> int:
    """Draw the process's prefix, begin to count, and return the first number.

    Ids are unique over processes because of 64 random bits. A forked child must not go on counting where its parent
    does, so it draws anew.
    """
    global _next_number  # noqa: PLW0603 - ids count per process
    start = int.from_bytes(os.urandom(8)) << _COUNTER_BITS
    if _next_number is _first_number:
        os.register_at_fork(after_in_child=_forget_prefix)
    _next_number = count(start + 1).__next__
    return start


def _forget_prefix() -> None:
    global _next_number  # noqa: PLW0603 - ids count per process
    _next_number = _renew_number


def _renew_number() -> int:
    return _first_number()


_next_number: Callable[[], int] = _first_number


def _id_text(number: int) -> str:
    return f"{number >> _COUNTER_BITS:016x}-{number & (1 << _COUNTER_BITS) - 1:x}"


class Unowned:
    """Owner of an event that nobody has put anywhere yet."""

    __slots__ = ()
    sender = None

    def __repr__(self) -> str:
        return "nobody"


FRESH = Unowned()


class Tally:
    """What went wrong with one event so far. Retries and kills are counted for the actor `where` they happen."""

    __slots__ = ("attempts", "error_hops", "kills", "retries", "where")

    def __init__(self) -> None:
        self.attempts = 0
        self.error_hops = 0
        self.kills = 0
        self.retries = 0
        self.where: object | None = None

    def at(self, where: object) -> "Tally":
        """This tally, its retries and kills begun anew if they were counted for another actor."""
        if self.where is not where:
            self.where = where
            self.kills = self.retries = 0
        return self


class Event:
    """A piece of data on its way through actors.

    Attributes are added by keyword or with `set`, which refuse names of the event's own; they are copied with it.

    Args:
        data: Anything. It is copied by the rule in `compysition.copying` when the event goes to several places.
        service: What is asked for; WSGI takes it from the path, MajorDomo from the address.
        meta_id: Correlation id, shared by all events that come from one; by default this event's own id.
        attributes: Attributes of the event.

    Raises:
        AttributeNameError: an attribute would hide a name of this class.

    Attributes:
        error: None, or the `Failure` that sent this event to an error outbox.
        created: Seconds since 1970, UTC.
    """

    __slots__ = (
        *("data", "service", "error", "created"),
        *("_id", "_ledger", "_lineage", "_meta", "_owner", "_tally"),
        *("__dict__", "__weakref__"),
    )

    def __init__(
        self, data: Any = None, service: str = "default", meta_id: str | None = None, **attributes: Any
    ) -> None:
        self.data = data
        self.service = service
        self.error: Failure | None = None
        self.created = time.time()
        #: The number behind `event_id`, or the id's text if it came from elsewhere; None until somebody asks.
        self._id: int | str | None = None
        self._meta: int | str | None = meta_id
        self._owner: Owner = FRESH
        #: Where this event was counted in; set by its first put.
        self._ledger: Ledger | None = None
        #: The token of whoever waits for the end of this event and all that come from it.
        self._lineage: Token | None = None
        #: Made when something goes wrong with this event for the first time.
        self._tally: Tally | None = None
        if attributes:
            for name, value in attributes.items():
                self.set(name, value)

    @property
    def event_id(self) -> str:
        """Unique, and the same for ever: over retries, restarts, a wire, a store."""
        number = self._number()
        return number if isinstance(number, str) else _id_text(number)

    @property
    def meta_id(self) -> str:
        """Correlation id: that of the event this one came from, else its own `event_id`."""
        meta = self._meta
        if meta is None:
            return self.event_id
        return meta if isinstance(meta, str) else _id_text(meta)

    @property
    def attempts(self) -> int:
        """How often this event was given back: by a kill, a `Fatal` or a `Retry`."""
        return 0 if self._tally is None else self._tally.attempts

    def _number(self) -> int | str:
        if self._id is None:
            self._id = _next_number()
        return self._id

    def copy(self) -> Self:
        """A fresh event with a copy of the data and attributes, an id of its own and this one's `meta_id`."""
        twin = self._derive(copy_data(self.data))
        twin.error = self.error
        twin.created = self.created
        if self._tally is not None:
            twin._tally = Tally()
            twin._tally.error_hops = self._tally.error_hops
        if self.__dict__:
            twin.__dict__.update(copy_data(self.__dict__))
        return twin

    def __copy__(self) -> Self:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.copy()

    def _derive(self, data: Any) -> Self:
        """A fresh event that belongs to the same request: `meta_id`, service and lineage are this one's."""
        cls = self.__class__
        child = cls.__new__(cls)
        child.data = data
        child.service = self.service
        child.error = None
        child.created = time.time()
        child._id = None
        # Its own id becomes this event's meta id here: a copy looked at later must show the same one.
        child._meta = self._number() if self._meta is None else self._meta
        child._owner = FRESH
        child._ledger = None
        child._lineage = self._lineage
        child._tally = None
        return child

    def get(self, name: str, default: Any = None) -> Any:
        """The attribute `name`, or `default`."""
        return self.__dict__.get(name, default)

    def set(self, name: str, value: Any) -> None:
        """Set the attribute `name`.

        Raises:
            AttributeNameError: it would hide a name of this class, or begins with an underscore.
        """
        if name.startswith("_") or hasattr(type(self), name):
            raise AttributeNameError(
                f"an event's attribute cannot be called {name!r}: "
                + ("names with a leading underscore are reserved" if name[:1] == "_" else "Event has that name itself")
                + "; choose another name"
            )
        self.__dict__[name] = value

    def lookup(self, path: str, default: Any = None) -> Any:
        """What lies at a dotted path into mappings, sequences and attributes, such as ``data.order.lines.0.id``.

        `default` comes back as soon as a step leads nowhere; parts that begin with an underscore lead nowhere.
        """
        here: Any = self
        for step in path.split("."):
            if isinstance(here, Mapping):
                if step not in here:
                    return default
                here = here[step]
            elif isinstance(here, Sequence) and not isinstance(here, str | bytes):
                try:
                    here = here[int(step)]
                except (ValueError, IndexError):
                    return default
            elif step.startswith("_") or not hasattr(here, step):
                return default
            else:
                here = getattr(here, step)
        return here

    def __repr__(self) -> str:
        data = repr(self.data)
        shown = data if len(data) <= 80 else f"{data[:77]}..."
        parts = [self.event_id, f"data={shown}"]
        if self.service != "default":
            parts.append(f"service={self.service!r}")
        if self._meta is not None:
            parts.append(f"meta_id={self.meta_id!r}")
        if self.error is not None:
            parts.append(f"error={str(self.error)!r}")
        return f"{type(self).__name__}({', '.join(parts)})"
