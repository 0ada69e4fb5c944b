# SPDX-License-Identifier: Apache-2.0
"""`EventJoin`: one event of several that belong together.

What arrives is kept until its group is whole; then one event goes on and the parts end as `delivered`. A group is first
decided and then settled step by step, so that whoever is killed on the way finds where to go on.
"""

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Annotated, Final, Literal

from gevent.lock import BoundedSemaphore

from compysition import deadletter
from compysition.actor import Actor, ActorOptions
from compysition.arguments import FLAG, Check, above, checked, one_of, whole
from compysition.clock import Timer
from compysition.errors import (
    CompysitionError,
    ConfigurationError,
    ConflictError,
    DeadlineError,
    UnavailableError,
    UnprocessableError,
    suggestion,
)
from compysition.event import FRESH, Event, Failure
from compysition.ledger import Outcome
from compysition.lineage import Ticket, TicketState

_KEY: Final = Check(
    "a path, as in 'data.order.id', or a plain function of the event",
    lambda value: (isinstance(value, str) and bool(value)) or (callable(value) and not isinstance(value, type)),
)
_INBOXES: Final = Check(
    "a list of names of inboxes, at least two",
    lambda value: (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and all(isinstance(name, str) and name for name in value)
        and len(set(value)) == len(value) >= 2
    ),
)
_COUNT: Final = Check(
    "a whole number, 2 or more, or the path of one, as in 'parts'",
    lambda value: (type(value) is int and value >= 2) or (isinstance(value, str) and bool(value)),
)
#: When to come again, for whoever asked for a group that had to give way, in seconds.
RETRY_AFTER_S: Final = 2.0


class Group:
    """Events that belong together.

    Attributes:
        parts: The events, by inbox, or by their number when they are counted.
        wanted: How many are wanted.
        due: When it is over, by the monotonic clock.
        joined: The event that goes on, once the group is decided; None if its parts fail.
        error: Why its parts fail; None if they do not.
    """

    __slots__ = ("due", "error", "joined", "parts", "wanted")

    def __init__(self, wanted: int, due: float) -> None:
        self.parts: dict[str | int, Event] = {}
        self.wanted = wanted
        self.due = due
        self.joined: Event | None = None
        self.error: Exception | None = None

    def missing(self, inboxes: Sequence[str]) -> list[str] | int:
        """The inboxes, or the number of events, that it still waits for."""
        return [inbox for inbox in inboxes if inbox not in self.parts] or self.wanted - len(self.parts)

    def join(self, inboxes: Sequence[str]) -> Event:
        """One event of all parts, in the order of `inboxes`; of their arrival if there are none."""
        order: list[str | int] = [inbox for inbox in inboxes if inbox in self.parts] or list(self.parts)
        parts = [self.parts[inbox] for inbox in order]
        parent = next((part for part in parts if _is_awaited(part)), parts[0])
        by_inbox = {inbox: part.data for inbox, part in zip(order, parts, strict=True)}
        joined = parent._derive(by_inbox if inboxes else list(by_inbox.values()))
        for part in parts:
            joined.__dict__.update(part.__dict__)
            joined.error = joined.error or part.error
        return joined


class EventJoin(Actor):
    """Joins events that belong together into one.

    A group is whole when each inbox has brought an event, or when `count` events have come. One event then goes on; its
    data is a dict of the parts' data by inbox, or, with `count`, their list in the order of arrival. It belongs to the
    request of its first part, has the attributes of all of them (a later inbox's win) and the first error, if any part
    carries one. The order of parts is that in which the inboxes were connected, or in which counted events arrived.

    By default those belong together that come from one event: the branches of a fork. Events of two requests never
    join, even if their keys are equal: clients choose ids, and must not read each other's data.

    An inbox that brings a second event of a group which still waits for others fails that second one with
    `ConflictError` (409). What comes after its group is over begins a new one.

    Args:
        name: Its name.
        key: What events of a group have in common: a path, as `Event.lookup` takes it, or a function of the event. An
            event that has nothing there (or None), or something that cannot be hashed, fails with `UnprocessableError`.
        inboxes: The inboxes to wait for; by default all that are connected. An inbox is called after its source.
        count: Instead of inboxes, how many events make a group: a number, or the path at which the first event of a
            group tells it, such as an attribute that a splitter sets.
        timeout_s: Seconds from the first event of a group until it is over.
        on_timeout: What a group that is over does. ``fail``: its events fail with `DeadlineError` (504). ``partial``:
            what has come goes on, with the attribute ``missing``, a list of inboxes (or, with `count`, a number).
        max_groups: Groups that may wait at once.
        on_full: What happens when one more begins. ``fail_oldest``: the events of the oldest group fail with
            `UnavailableError` (503). ``wait``: nothing more is taken from any inbox until a group is over. What
            would make a group whole then waits as well, so `max_groups` should be more than the number of events by
            which one inbox may be ahead of another.
        across_requests: Join by the key alone, also events of different requests. Only one of the requests is answered
            by what was joined; the other ones end without an answer.

    Raises:
        ConfigurationError: An argument makes no sense.

    A group that is not whole when the Director stops, and for which nothing more can come, is treated as in
    `on_timeout`; its events then fail with `UnavailableError`.

    >>> from compysition import Director
    >>> from compysition.actors import Data, EventJoin, FlowController
    >>> director = Director()
    >>> fork = director.register_actor(FlowController, "fork")
    >>> price = director.register_actor(Data, "price", data=12)
    >>> stock = director.register_actor(Data, "stock", data=3)
    >>> join = director.register_actor(EventJoin, "join")
    >>> director.connect_queue(fork, [price, stock])
    >>> director.connect_queue(price, join)
    >>> director.connect_queue(stock, join)
    >>> with director:
    ...     director.ask(fork, "pen").data
    {'price': 12, 'stock': 3}
    """

    # Parts join in the order of their arrival.
    options = ActorOptions(concurrency=1)

    @checked
    def __init__(
        self,
        name: str,
        *,
        key: Annotated[str | Callable[[Event], Hashable], _KEY] = "meta_id",
        inboxes: Annotated[Sequence[str] | None, _INBOXES] = None,
        count: Annotated[int | str | None, _COUNT] = None,
        timeout_s: Annotated[float, above(0, "seconds")] = 30.0,
        on_timeout: Annotated[Literal["fail", "partial"], one_of("fail", "partial")] = "fail",
        max_groups: Annotated[int, whole(1)] = 1000,
        on_full: Annotated[Literal["fail_oldest", "wait"], one_of("fail_oldest", "wait")] = "fail_oldest",
        across_requests: Annotated[bool, FLAG] = False,
        blocking_consume: bool = False,
    ) -> None:
        super().__init__(name, blocking_consume=blocking_consume)
        if inboxes is not None and count is not None:
            raise ConfigurationError(f"{name!r} is given inboxes= and count=: leave one out")
        self.key = key
        self.count = count
        self.timeout_s = timeout_s
        self.on_timeout = on_timeout
        self.max_groups = max_groups
        self.on_full = on_full
        self.across_requests = across_requests
        self._given_inboxes = inboxes
        #: The inboxes to wait for; empty when events are counted.
        self._inboxes: tuple[str, ...] = tuple(inboxes or ())
        #: Groups that wait, by key, the oldest first: all have the same time, so that is also the order of their end.
        self._waiting: dict[Hashable, Group] = {}
        #: Groups that are decided, until nothing of them is left here.
        self._decided: deque[Group] = deque()
        self._settling = BoundedSemaphore()
        self._timer: Timer | None = None

    @property
    def waiting(self) -> int:
        """How many groups wait for further events."""
        return len(self._waiting)

    # ---- life -----------------------------------------------------------------------------------------------------

    def pre_hook(self) -> None:
        """Find the inboxes, and go on with what was kept over a restart."""
        if self.count is None:
            self._inboxes = self._find_inboxes()
        if self._decided:
            self.background(self._settle, restart=False)
        self._watch()

    def post_hook(self) -> None:
        """Forget the timer, and what has ended without us."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for group in (*self._waiting.values(), *self._decided):
            group.parts = {inbox: part for inbox, part in group.parts.items() if self._is_kept(part)}
        self._waiting = {key: group for key, group in self._waiting.items() if group.parts}
        self._decided = deque(group for group in self._decided if group.parts)

    def on_drain(self) -> None:
        """Decide all groups that wait: nothing more will come."""
        while self._waiting:
            self._end_oldest(self._stopped)
        self._settle()

    def _close_intake(self) -> None:
        # A group that waits for room would keep the stop waiting: what is on its way is taken, and makes groups whole.
        self.resume()

    # ---- events ---------------------------------------------------------------------------------------------------

    def consume(self, event: Event, origin_queue: str = "") -> None:
        """Keep `event`, or send what is whole with it. Waits for room where what was joined goes."""
        if self.count is None and origin_queue not in self._inboxes:
            raise ConfigurationError(
                f"{self.name!r} joins {_listed(self._inboxes)}; this event came by {origin_queue!r}"
            )
        key = self._key_of(event)
        group = self._waiting.get(key)
        if group is not None and origin_queue in group.parts:
            raise ConflictError(f"{self.name!r} has an event of this group from {origin_queue!r} already")
        if group is None:
            group = Group(self._wanted(event), self._hosted.clock.monotonic() + self.timeout_s)
        # From here to the decision nothing switches, and nothing raises: what is kept has its place in a group.
        self.keep(event)
        self._waiting[key] = group
        group.parts[len(group.parts) if self.count is not None else origin_queue] = event
        if len(group.parts) >= group.wanted:
            del self._waiting[key]
            self._decide(group)
        elif len(self._waiting) > self.max_groups and self.on_full == "fail_oldest":
            self._end_oldest(self._full)
        elif len(self._waiting) >= self.max_groups and self.on_full == "wait" and self.loop():
            self.pause()
        self._watch()
        self._settle()

    def _key_of(self, event: Event) -> Hashable:
        """What tells the group of `event`."""
        key = event.lookup(self.key, None) if isinstance(self.key, str) else self.key(event)
        if key is None:
            where = repr(self.key) if isinstance(self.key, str) else "its key function"
            raise UnprocessableError(f"{self.name!r} joins by {where}, and this event has nothing there")
        try:
            hash(key)
        except TypeError:
            raise UnprocessableError(
                f"{self.name!r} cannot join by a {type(key).__name__}: wanted is a key that can be hashed, such as text"
            ) from None
        # Clients may choose ids, `meta_id` among them; whose request it is they cannot choose.
        return key if self.across_requests else (key, _ticket_of(event))

    def _wanted(self, event: Event) -> int:
        if self.count is None:
            return len(self._inboxes)
        if isinstance(self.count, int):
            return self.count
        wanted = event.lookup(self.count)
        if type(wanted) is not int or wanted < 1:
            raise UnprocessableError(
                f"{self.name!r} counts to what {self.count!r} says, which is {wanted!r}: wanted is a number from 1 on"
            )
        return wanted

    def _find_inboxes(self) -> tuple[str, ...]:
        connected = list(dict.fromkeys(queue.inbox for queue in self._wired.inboxes if queue.source))
        if self._given_inboxes is not None:
            unknown = [name for name in self._given_inboxes if connected and name not in connected]
            if unknown:
                raise ConfigurationError(
                    f"{self.name!r} joins an inbox {unknown[0]!r}, which it does not have"
                    f"{suggestion(unknown[0], connected)}"
                )
            return tuple(self._given_inboxes)
        if len(connected) < 2:
            seen = f"only {connected[0]!r} is" if connected else "none is"
            raise ConfigurationError(
                f"{self.name!r} joins what its inboxes bring, and {seen} connected: connect two or more, or give count="
            )
        return tuple(connected)

    # ---- a group is decided; nothing here switches or raises ---------------------------------------------------------

    def _decide(self, group: Group, *, missing: list[str] | int | None = None) -> None:
        """Make the event that goes on."""
        joined = group.join(self._inboxes)
        if missing is not None:
            joined.set("missing", missing)
        group.joined = joined
        self._decided.append(group)
        self._make_room()

    def _end_oldest(self, why: "Callable[[str], CompysitionError]") -> None:
        """Decide the oldest group, which is not whole."""
        group = self._waiting.pop(next(iter(self._waiting)))
        missing = group.missing(self._inboxes)
        if self.on_timeout == "partial" and why != self._full:
            self._decide(group, missing=missing)
            return
        group.error = why(f"{missing} more" if isinstance(missing, int) else _listed(missing))
        self._decided.append(group)
        self._make_room()

    def _make_room(self) -> None:
        if self.on_full == "wait" and len(self._waiting) < self.max_groups:
            self.resume()

    def _late(self, missing: str) -> CompysitionError:
        return DeadlineError(f"{self.name!r} has waited {self.timeout_s:g} s for {missing}")

    def _full(self, missing: str) -> CompysitionError:
        return UnavailableError(
            f"{self.name!r} keeps {self.max_groups} groups and this was the oldest; it waited for {missing}",
            retry_after_s=RETRY_AFTER_S,
        )

    def _stopped(self, missing: str) -> CompysitionError:
        return UnavailableError(
            f"the Director stopped while {self.name!r} waited for {missing}", retry_after_s=RETRY_AFTER_S
        )

    # ---- time -------------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Have the oldest group looked at when its time is over."""
        if self._timer is None and self._waiting:
            clock = self._hosted.clock
            oldest = next(iter(self._waiting.values()))
            self._timer = clock.call_later(oldest.due - clock.monotonic(), self._look)

    def _look(self) -> None:
        """Runs in the hub. The group for which the timer was set may have become whole long ago."""
        self._timer = None
        if self._is_oldest_late():
            self.background(self._expire, restart=False)
        else:
            self._watch()

    def _expire(self) -> None:
        while self._is_oldest_late():
            self._end_oldest(self._late)
        self._watch()
        self._settle()

    def _is_oldest_late(self) -> bool:
        return bool(self._waiting) and next(iter(self._waiting.values())).due <= self._hosted.clock.monotonic()

    # ---- a decided group is settled ---------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Let all decided groups go. Waits for room, and for whoever is at it already: that makes back pressure."""
        with self._settling:
            while self._decided:
                # Decided until nothing of it is left: whoever is killed on the way must find it again.
                self._send_joined(self._decided[0])
                self._end_parts(self._decided[0])
                self._decided.popleft()

    def _send_joined(self, group: Group) -> None:
        joined = group.joined
        # If it is not fresh any more, it was sent by somebody who was killed before he could say so.
        if joined is None or joined._owner is not FRESH:
            return
        try:
            self.send_event(joined)
        except Exception as error:  # noqa: BLE001 - boundary, a full queue, a stop, data that cannot be copied: parts fail by name
            if joined._owner is FRESH:
                group.joined, group.error = None, error

    def _end_parts(self, group: Group) -> None:
        for inbox, part in tuple(group.parts.items()):
            if self._is_kept(part):
                if group.error is None:
                    # It lives on in what was joined, and so does its error.
                    part.error = None
                    self._wired.ledger.end(part, Outcome.DELIVERED)
                else:
                    self._fail(part, group.error)
            del group.parts[inbox]

    def _fail(self, part: Event, error: Exception) -> None:
        if part._lineage is not None and part._lineage.ticket.is_expired():
            self._wired.ledger.end(part, Outcome.EXPIRED)
            return
        part.error = Failure.of(error, actor=self.name)
        try:
            self.send_error(part)
        except Exception as second:  # noqa: BLE001 - boundary, as at the end of a handler that failed
            self.logger.error("event %s cannot take its error outboxes: %s", part.event_id, second)
            if self._is_kept(part):
                self._wired.bury(part, deadletter.FAILED, part.error)

    def _is_kept(self, part: Event) -> bool:
        return part._owner is self._wired.kept


def _ticket_of(event: Event) -> Ticket | None:
    return None if event._lineage is None else event._lineage.ticket


def _is_awaited(event: Event) -> bool:
    ticket = _ticket_of(event)
    return ticket is not None and ticket.state is TicketState.OPEN


def _listed(names: Sequence[str]) -> str:
    return " and ".join(map(repr, names))
