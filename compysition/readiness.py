# SPDX-License-Identifier: Apache-2.0
"""When an actor's handlers may start: `Readiness`, the half of a cell that the dispatcher asks.

`settle` and what calls it keep two flags true: whether the cell is among the dispatcher's ready ones, and whether a put
has to wake it. Must not know what becomes of events. Read next: `cell`, the other half.
"""

from typing import TYPE_CHECKING, Protocol, cast

from compysition.clock import Clock
from compysition.deadletter import DeadLetters
from compysition.dispatch import CHUNK, CHUNK_LEAST_S, CHUNK_MOST_S, Dispatcher, present_hand
from compysition.ledger import Holding
from compysition.queue import Queue

if TYPE_CHECKING:
    from compysition.cell import Cell
    from compysition.ring import Ring

#: Bits of `Readiness.shut`, the reasons for which no handler starts.
NOT_STARTED = 1
RESTARTING = 2
PAUSED = 4
HELD_BY_RETRY = 8
KILLED_AT_DEADLINE = 16
TOO_MANY_RETRIES = 32


class Host(Protocol):
    """What a cell needs from whoever runs it: the Director, or a test."""

    clock: Clock
    dispatcher: Dispatcher
    dead_letters: DeadLetters

    def crashed(self, cell: "Cell", reason: str) -> None:
        """The actor has to be restarted. Must not wait."""

    def request_stop(self, reason: str) -> None:
        """The whole Director has to stop. Must not wait."""


class Readiness:
    """The inboxes of an actor, and how many of its handlers run.

    Args:
        name: The actor's name.
        host: Who runs it.
        concurrency: How many handlers may run at once.
    """

    __slots__ = (
        *("busy_s", "chunk", "concurrency", "dispatcher", "error_outboxes", "host", "inboxes", "is_queued", "kept"),
        *("name", "only_inbox", "outboxes", "retrying", "ring", "running", "shut", "wants_wake", "waiting_puts"),
        "_next_inbox",
    )

    def __init__(self, name: str, host: Host, concurrency: int) -> None:
        self.name = name
        self.host = host
        self.dispatcher = host.dispatcher
        self.concurrency = concurrency
        #: Queues that end here, and by name those that begin here.
        self.inboxes: list[Queue] = []
        self.outboxes: dict[str, list[Queue]] = {}
        self.error_outboxes: dict[str, list[Queue]] = {}
        self.ring: Ring | None = None
        #: A short cut for the loop; None is always right.
        self.only_inbox: Queue | None = None
        self.kept = Holding(self, "kept")
        self.retrying = Holding(self, "waiting aside for a retry")
        #: Handlers that run, and those of them that wait for room in a queue.
        self.running = 0
        self.waiting_puts = 0
        self.shut = NOT_STARTED
        #: Whether it is among the dispatcher's ready cells, and whether a put has to wake it.
        self.is_queued = False
        self.wants_wake = False
        #: Events between two looks at the clock: begins small, because nobody knows yet what a handler costs.
        self.chunk = 1
        self.busy_s = 0.0
        self._next_inbox = 0

    def find_only_inbox(self) -> None:
        """Remember the only inbox, if there is one alone and no ring: it needs no turn-taking."""
        self.only_inbox = self.inboxes[0] if len(self.inboxes) == 1 and self.ring is None else None

    def settle(self) -> None:
        """Make `is_queued` and `wants_wake` say what is so. Everyone who changes a condition calls this."""
        if self.is_queued:
            return
        if self.shut or self.waiting_puts or self.running >= self.concurrency:
            self.wants_wake = False
        elif self._has_eligible():
            self.wake()
        else:
            self.wants_wake = True

    def wake(self) -> None:
        """Be served: something was put in while nothing was here (`wants_wake`)."""
        # Whoever is queued already does not want to be woken, so this need not be asked.
        self.wants_wake = False
        self.is_queued = True
        dispatcher = self.dispatcher
        dispatcher.ready.append(cast("Cell", self))
        if not dispatcher.is_armed:
            dispatcher.arm()

    def close(self, reason: int) -> None:
        """Start no further handler, for one more `reason`."""
        self.shut |= reason
        self.wants_wake = False
        hand = present_hand()
        if hand is not None and hand.sender is self:
            # The handler that runs at this moment is the last of its chunk; all others have been interrupted already.
            hand.must_yield = True

    def open(self, reason: int) -> None:
        """Take `reason` back."""
        self.shut &= ~reason
        self.settle()

    def next_queue(self) -> Queue | None:
        """The next non-empty queue in turn; None, and settled, when no handler may start."""
        if not (self.shut or self.waiting_puts or self.running >= self.concurrency):
            inboxes = self.inboxes
            ring = self.ring
            room = 0 if ring is None else ring.room()
            number = len(inboxes)
            for step in range(number):
                index = (self._next_inbox + step) % number
                queue = inboxes[index]
                if queue.items and (ring is None or queue.ring is not None or room > 0):
                    self._next_inbox = (index + 1) % number
                    return queue
        self.settle()
        return None

    def ring_chunk(self, queue: Queue, number: int) -> int:
        """How many of the next `number` events of `queue` may be handled at once, on a ring."""
        if self.ring is None or queue.ring is not None:
            return number
        # What is let in at once must fit: each event from outside may put one into the ring.
        return max(1, min(number, self.ring.room()))

    def adapt_chunk(self, took_s: float) -> None:
        """Adapt the size of a chunk to how long one has taken."""
        if took_s > CHUNK_MOST_S:
            self.chunk = max(1, self.chunk >> 1)
        elif took_s < CHUNK_LEAST_S and self.chunk < CHUNK:
            self.chunk <<= 1

    def begin_waiting_put(self) -> None:
        """A handler waits for room: start no further one, so that back pressure travels upstream."""
        self.waiting_puts += 1

    def end_waiting_put(self) -> None:
        """A handler does not wait for room any more."""
        self.waiting_puts -= 1
        self.settle()

    def _has_eligible(self) -> bool:
        ring = self.ring
        if ring is None:
            for queue in self.inboxes:
                if queue.items:
                    return True
            return False
        from_outside = False
        for queue in self.inboxes:
            if queue.items:
                if queue.ring is not None:
                    return True
                from_outside = True
        if from_outside:
            if ring.room() > 0:
                return True
            ring.gate(self)
        return False

    # ---- what is held -------------------------------------------------------------------------------------------

    @property
    def depth(self) -> int:
        """Events in the inboxes, waiting senders' ones included."""
        return sum(len(queue.items) + len(queue.waiting) for queue in self.inboxes)

    def is_quiet(self) -> bool:
        """Whether nothing is queued, in hand, kept, or waiting for a retry."""
        return not (self.running or self.kept.events or self.retrying.events or self.depth)

    def has_only_kept(self) -> bool:
        """Whether kept events are all it holds."""
        return bool(self.kept.events) and not (self.running or self.retrying.events or self.depth)
