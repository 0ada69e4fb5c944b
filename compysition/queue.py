# SPDX-License-Identifier: Apache-2.0
"""A connection's queue: bounded, first in first out, with an overflow policy and waiting senders.

A producer that meets a full queue leaves its event with the queue and parks; whoever makes room moves the event in.
While anybody waits, `Queue.limit` is 0, so that nobody can overtake. Must not know actors; of the cell at its end it
uses two names (`Destination`). Read next: `dispatch`, the main loop.
"""

import enum
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from gevent import get_hub, getcurrent

from compysition.errors import DeadlineError, DirectorStoppedError, NotAnEventError, QueueFullError, RingFullError
from compysition.event import Event
from compysition.ledger import Ledger, Outcome, Owner
from compysition.parking import Parking

if TYPE_CHECKING:
    from compysition.ring import Ring


class Overflow(enum.Enum):
    """What a full queue does with an event."""

    #: The sender waits for room.
    WAIT = "wait"
    #: The event itself is dropped.
    DROP_NEWEST = "drop_newest"
    #: The oldest event in the queue is dropped.
    DROP_OLDEST = "drop_oldest"
    #: The sender gets a `QueueFullError`.
    FAIL = "fail"


class Destination(Protocol):
    """What a queue knows of the actor that takes from it."""

    name: str
    #: Whether a put has to call `wake`.
    wants_wake: bool

    def wake(self) -> None:
        """There is something to take; runs in the sender's greenlet and never waits."""


class Sender(Protocol):
    """What a queue knows of the actor whose handler puts: while one waits, no further handler of it starts."""

    def begin_waiting_put(self) -> None:
        """A handler waits for room."""

    def end_waiting_put(self) -> None:
        """It does not wait any more."""


class WaitingSender:
    """An event left with a full queue by a greenlet that waits for room."""

    __slots__ = ("event", "is_refused", "place")

    def __init__(self, event: Event, place: Parking) -> None:
        #: None as soon as the event is in the queue, or was taken away by a stop.
        self.event: Event | None = event
        #: None when the sender went on without its event.
        self.place: Parking | None = place
        #: Whether the Director stopped meanwhile; the event has been ended.
        self.is_refused = False

    def wake(self) -> None:
        """Let the sender go on, if it still waits."""
        if self.place is not None:
            self.place.wake()


class Queue:
    """The queue of one connection: from one outbox to one inbox.

    Args:
        source: Name of the sending actor; "" for events posted from outside.
        outbox: Name of its outbox.
        cell: The receiving actor's cell.
        inbox: Name of its inbox.
        capacity: Events it takes before the overflow policy rules.
        overflow: That policy.
        is_error: Whether it hangs on an error outbox.
    """

    __slots__ = (
        *("capacity", "cell", "dropped", "handler", "inbox", "is_closed", "is_error", "items", "limit", "outbox"),
        *("cleared", "overflow", "ring", "source", "take", "taken", "waiting"),
    )
    #: Owner protocol: nobody may send on what lies in a queue.
    sender = None

    def __init__(
        self,
        source: str,
        outbox: str,
        cell: Destination,
        inbox: str,
        *,
        capacity: int,
        overflow: Overflow = Overflow.WAIT,
        is_error: bool = False,
    ) -> None:
        self.source = source
        self.outbox = outbox
        self.cell = cell
        self.inbox = inbox
        self.capacity = capacity
        self.overflow = overflow
        self.is_error = is_error
        self.items: deque[Event] = deque()
        #: `items.popleft`, made once: the loop needs it for every chunk.
        self.take = self.items.popleft
        self.waiting: deque[WaitingSender] = deque()
        #: A put below this depth is plain; 0 while somebody waits and when closed: then the long way decides.
        self.limit = capacity
        self.is_closed = False
        #: The ring this queue is part of; set when the graph is started.
        self.ring: Ring | None = None
        #: What the consumer calls with an event; bound when the actor is wired.
        self.handler: Callable[[Event], Any] = _no_handler
        #: Since the beginning: events taken out, dropped by the overflow policy, and cleared away by a stop.
        self.taken = 0
        self.dropped = 0
        self.cleared = 0

    @property
    def name(self) -> str:
        """How messages call it: ``source.outbox → actor.inbox``, without what says nothing new."""
        left = self.source if self.outbox in ("", self.cell.name) else f"{self.source}.{self.outbox}"
        right = self.cell.name if self.inbox in ("", self.source) else f"{self.cell.name}.{self.inbox}"
        return f"{left or 'outside'} → {right}"

    def __repr__(self) -> str:
        return f"<Queue {self.name}: {len(self.items)} of {self.capacity}, {len(self.waiting)} waiting>"

    def put(
        self,
        event: Event,
        ledger: Ledger,
        sender: object | None,
        handler_of: Sender | None,
        *,
        is_born: bool | None = None,
    ) -> None:
        """Put `event` in, by the overflow policy if there is no room.

        Waits for room when the policy is `wait`; woken by whoever takes from the queue. Never waits in a ring.

        Args:
            event: The event.
            ledger: Where a fresh event is counted in.
            sender: The actor's cell that sends; None when it is posted from outside.
            handler_of: The cell inside whose handler the present greenlet is; None outside any handler.
            is_born: Whether a fresh event counts as born, as copies do; by default what is put inside a handler.

        Raises:
            EventNotOwnedError: the event is not the sender's to give.
            QueueFullError: the policy is `fail`, or a hub callback would have to wait.
            RingFullError: the ring holds four times its capacity.
            DeadlineError: the event's time ended while it waited; it is left with the queue and expires there.
            DirectorStoppedError: the Director has stopped; while it waited, the event was ended by the stop.
        """
        items = self.items
        if is_born is None:
            is_born = handler_of is not None
        if len(items) >= self.limit:
            # First of all: an error about the owner must come before an event is dropped for the sake of this one.
            ledger.check(event, sender)
            if not self._make_room(event, ledger, sender, handler_of, is_born):
                return
        ledger.move(event, self, sender, in_handler=is_born)
        items.append(event)
        if self.cell.wants_wake:
            self.cell.wake()

    def give_back(self, event: Event) -> None:
        """Put `event`, taken from here, at the front again. Never waits; goes over capacity if need be.

        The caller has it in hand and wakes the cell.
        """
        event._owner = self
        self.items.appendleft(event)
        self.taken -= 1

    def re_enter(self, event: Event, ledger: Ledger, holder: object) -> None:
        """Put `event`, which had been set aside after it was taken from here, at the end. Never waits."""
        ledger.move(event, self, holder, in_handler=True)
        self.items.append(event)
        self.taken -= 1

    def refill(self) -> None:
        """Move waiting senders' events in while there is room, and wake their senders."""
        waiting, items = self.waiting, self.items
        while waiting and len(items) < self.capacity:
            waiter = waiting.popleft()
            assert waiter.event is not None
            items.append(waiter.event)
            waiter.event = None
            waiter.wake()
        if not waiting:
            self._set_limit()

    def close(self) -> None:
        """From now on every put raises `DirectorStoppedError`."""
        self.is_closed = True
        self.limit = 0

    def open(self) -> None:
        """Take events, after `close` too."""
        self.is_closed = False
        self._set_limit()

    def clear(self) -> Iterable[Event]:
        """Take everything out, waiting senders' events too. The caller ends each one it gets.

        Waiting senders are woken with `DirectorStoppedError`.
        """
        while self.items:
            self.cleared += 1
            yield self.items.popleft()
        while self.waiting:
            waiter = self.waiting.popleft()
            event, waiter.event = waiter.event, None
            waiter.is_refused = True
            waiter.wake()
            assert event is not None
            self.cleared += 1
            yield event
        if not self.is_closed:
            self._set_limit()

    def _set_limit(self) -> None:
        self.limit = 0 if self.is_closed or self.waiting else self.capacity

    def _make_room(
        self, event: Event, ledger: Ledger, sender: object | None, handler_of: Sender | None, is_born: bool
    ) -> bool:
        """Do what the overflow policy says. Returns whether the event has still to be put in."""
        if self.is_closed:
            raise DirectorStoppedError(f"queue '{self.name}' is closed: the Director has stopped")
        if self.overflow is Overflow.DROP_NEWEST:
            ledger.move(event, self, sender, in_handler=is_born)
            self.dropped += 1
            ledger.end(event, Outcome.DROPPED)
            return False
        if self.overflow is Overflow.DROP_OLDEST:
            self.dropped += 1
            ledger.end(self.items.popleft(), Outcome.DROPPED)
            return True
        if self.overflow is Overflow.FAIL:
            raise self._full("raise the capacity or choose another overflow policy")
        if self.ring is not None:
            if self.ring.is_overfull():
                raise RingFullError(
                    f"the ring {self.ring} holds {self.ring.load()} events, four times the sum of its capacities: "
                    "its handlers send more events than they receive",
                    queue=self.name,
                    capacity=self.capacity,
                )
            return True
        if getcurrent() is get_hub():
            raise self._full("a callback of the event loop cannot wait for room; send from a greenlet")
        self._wait(event, ledger, sender, handler_of, is_born)
        return False

    def _full(self, advice: str) -> QueueFullError:
        return QueueFullError(
            f"queue '{self.name}' is full (capacity {self.capacity}): {advice}",
            queue=self.name,
            capacity=self.capacity,
        )

    def _wait(
        self, event: Event, ledger: Ledger, sender: object | None, handler_of: Sender | None, is_born: bool
    ) -> None:
        place = Parking()
        former: Owner = ledger.move(event, self, sender, in_handler=is_born)
        waiter = WaitingSender(event, place)
        self.waiting.append(waiter)
        self.limit = 0
        ticket = event._lineage.ticket if event._lineage is not None else None
        if ticket is not None:
            ticket.watch(place)
        if handler_of is not None:
            handler_of.begin_waiting_put()
        try:
            while waiter.event is not None:
                place.park()
                if ticket is not None and waiter.event is not None and ticket.is_expired():
                    # The event stays with the waiting senders and ends as `expired` when it is taken.
                    waiter.place = None
                    late = DeadlineError(f"the event's time ended while it waited for room in queue '{self.name}'")
                    late.event_id = event.event_id
                    raise late
        except DeadlineError:
            raise
        except BaseException:
            if waiter.event is not None:
                self.waiting.remove(waiter)
                ledger.undo(event, former, in_handler=is_born)
                if not self.waiting:
                    self._set_limit()
            raise
        finally:
            if ticket is not None:
                ticket.unwatch(place)
            if handler_of is not None:
                handler_of.end_waiting_put()
        if waiter.is_refused:
            stopped = DirectorStoppedError(
                f"the Director stopped while an event waited for room in queue '{self.name}'"
            )
            stopped.event_id = event.event_id
            raise stopped


def check_is_event(value: object) -> None:
    """Refuse what is no event, in words that say how to make one.

    Raises:
        NotAnEventError: `value` is no event.
    """
    if not isinstance(value, Event):
        raise NotAnEventError(
            f"{type(value).__name__} was sent where an event is wanted: send self.create_event(data=…), or Event(…)"
        )


def _no_handler(event: Event) -> None:
    raise AssertionError("a queue was served before its actor was wired")
