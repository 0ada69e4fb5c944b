# SPDX-License-Identifier: Apache-2.0
"""Consumers and the dispatcher: who calls the handlers, and when. Here is **the main loop**.

What is ready is an actor (its cell), never an inbox. The dispatcher runs in the hub: it switches to a consumer, and
the consumer serves one ready cell after the other, a whole pipeline without a greenlet switch, until nothing is ready.
A handler has blocked when control comes back to the dispatcher before the consumer has parked; another consumer then
takes over. So there is no greenlet per event, and none is grown without need.

A slice is bounded by the clock and yields through a zero timer: `gevent.sleep(0)` would let neither timers nor sockets
in. Must not know the Director; of cells it uses what the loop needs. Read next: `cell`, one actor's runtime half.
"""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gevent import Greenlet, GreenletExit, Timeout, get_hub, getcurrent

from compysition.clock import Clock
from compysition.event import Event
from compysition.ledger import DELIVERED, Outcome
from compysition.logger import get_logger
from compysition.parking import Parking, wait_until

if TYPE_CHECKING:
    from compysition.cell import Cell
    from compysition.queue import Queue

logger = get_logger("dispatch")

#: A dispatch slice ends after this many seconds, so that I/O and timers get their turn.
SLICE_S = 0.002
#: Events that are handled between two looks at the clock, at most.
CHUNK = 64
#: A chunk that took longer than this, in seconds, is halved next time; one far below it may double.
CHUNK_MOST_S = 0.001
CHUNK_LEAST_S = 0.0001
#: How often a condition is looked at that nothing announced, in seconds.
LOOK_S = 0.05
#: Parked consumers that are kept for the next burst.
IDLE_KEPT = 32


class Hand:
    """What a consumer has in hand; the owner of that event.

    A consumer's own, not its actor's: an event that comes back to the same actor over a ring is in the hand of whoever
    took it then, and of nobody else.
    """

    __slots__ = ("event", "is_abandoned", "is_kill_ours", "is_parked", "must_yield", "queue", "sender")

    def __init__(self) -> None:
        #: The cell whose handler runs, None between chunks. Also the owner protocol: its handler may send the event on.
        self.sender: Cell | None = None
        self.event: Event | None = None
        self.queue: Queue | None = None
        #: End the chunk after this event: control went back to the dispatcher, or the cell was closed meanwhile.
        self.must_yield = False
        self.is_parked = False
        #: Killed by the supervisor: no reason for a further restart.
        self.is_kill_ours = False
        #: It survived its kill; everything it had was accounted for.
        self.is_abandoned = False

    def __repr__(self) -> str:
        return f"in the hand of {self.sender.name!r}" if self.sender is not None else "an empty hand"


class Consumer(Greenlet):  # type: ignore[type-arg]  # generic in the stubs only
    """A greenlet that calls handlers; shared by all actors of a Director."""

    def __init__(self, dispatcher: "Dispatcher") -> None:
        Greenlet.__init__(self)
        self.hand = Hand()
        self._dispatcher = dispatcher

    def _run(self) -> None:
        dispatcher = self._dispatcher
        try:
            while self._serve_what_is_ready() and dispatcher.park(self):
                pass
        finally:
            dispatcher.consumers.discard(self)

    def _serve_what_is_ready(self) -> bool:
        """Serve ready cells until there are none, the slice is over, or a handler has blocked.

        Returns False when this consumer has to end.
        """
        dispatcher, hand = self._dispatcher, self.hand
        ready = dispatcher.ready
        while ready:
            cell = ready.popleft()
            cell.is_queued = False
            queue = cell.only_inbox
            if queue is None or cell.shut or cell.waiting_puts or not queue.items or cell.running >= cell.concurrency:
                queue = cell.next_queue()
                if queue is None:
                    continue
            if not _serve(dispatcher, hand, cell, queue):
                return False
            if hand.must_yield:
                break
            if dispatcher.now > dispatcher.slice_end:
                dispatcher.is_slice_over = True
                break
        return True


def present_hand() -> Hand | None:
    """The hand of the handler in which this is called; None outside of any handler."""
    current: Any = getcurrent()
    return current.hand if current.__class__ is Consumer and current.hand.sender is not None else None


def _serve(dispatcher: "Dispatcher", hand: Hand, cell: "Cell", queue: "Queue") -> bool:  # noqa: C901, PLR0912, PLR0915
    """Handle one chunk of `queue`. Returns False when this consumer has to end.

    The hot path stands in one place. It is a function with everything it needs as arguments, because attributes of a
    greenlet are slow.
    """
    handler, take = queue.handler, queue.take
    started = dispatcher.now
    limit = len(queue.items)
    if limit > cell.chunk:  # noqa: PLR1730 - min() costs a call per chunk
        limit = cell.chunk
    if cell.ring is not None:
        limit = cell.ring_chunk(queue, limit)
    cell.running += 1
    hand.sender = cell
    hand.queue = queue
    number = 0
    goes_on = True
    event: Event | None = None
    try:
        # MAIN LOOP
        while number < limit:
            number += 1
            hand.event = event = take()
            event._owner = hand
            if event._lineage is not None and event._lineage.ticket.is_expired() and not cell.answers:
                event._ledger.end(event, Outcome.EXPIRED)  # type: ignore[union-attr]
                continue
            try:
                handler(event)
            except (Exception, Timeout) as error:  # noqa: BLE001 - boundary
                # Every error of a handler is routed, given back or made a dead letter, and counted.
                cell.failed(hand, event, error)
            if event._owner is hand:
                # Written out for speed; these are the words of Ledger.end for `delivered`.
                event._owner = DELIVERED
                event._ledger.delivered += 1  # type: ignore[union-attr]
                if event._lineage is not None:
                    event._lineage.ticket.note(event, Outcome.DELIVERED, None)
            if hand.must_yield:
                break
    except BaseException as error:
        goes_on = False
        if hand.is_abandoned:
            return False
        cell.interrupted(hand, error)
        if not isinstance(error, GreenletExit | SystemExit | KeyboardInterrupt):
            raise
    finally:
        # A parked consumer must keep nothing alive: the end of a lineage is seen by its last reference.
        event = hand.event = None
        if hand.is_abandoned:
            goes_on = False
        else:
            hand.sender = hand.queue = None
            hand.is_kill_ours = False
            now = dispatcher.now = dispatcher.monotonic()
            queue.taken += number
            cell.running -= 1
            took_s = now - started
            cell.busy_s += took_s
            if took_s > CHUNK_MOST_S or cell.chunk < CHUNK:
                cell.adapt_chunk(took_s)
            if not cell.is_queued:
                if queue is cell.only_inbox and not queue.items and not cell.shut and not cell.waiting_puts:
                    cell.wants_wake = True  # the words of Cell.settle, for the usual case
                else:
                    cell.settle()
            if queue.waiting or cell.ring is not None or dispatcher.watchers:
                dispatcher.make_room(cell, queue)
    return goes_on


class Dispatcher:
    """The consumers of one Director, and what is ready for them. Belongs to the thread in which it is made.

    Args:
        clock: Where time comes from.

    Attributes:
        ready: Cells that have something to do, each at most once.
        consumers: All consumers that live.
        now: The clock's reading at the end of the newest chunk.
        is_armed: Whether the dispatcher runs or is on its way; `arm` sends it on its way.
        watchers: Who waits in `wait_until`.
    """

    __slots__ = (
        *("clock", "consumers", "is_armed", "is_slice_over", "monotonic", "now", "ready", "slice_end", "watchers"),
        *("_hub", "_idle", "_is_closed", "_timer"),
    )

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.monotonic = clock.monotonic
        self.ready: deque[Cell] = deque()
        self.consumers: set[Consumer] = set()
        self.now = 0.0
        self.slice_end = 0.0
        self.is_slice_over = False
        self._idle: list[Consumer] = []
        self.is_armed = False
        self.watchers: set[Parking] = set()
        self._hub: Any = None
        self._timer: Any = None
        self._is_closed = False

    def bind(self) -> None:
        """Belong to the present thread's hub from now on. Before that nothing can be made ready."""
        self._hub = get_hub()
        self._timer = self._hub.loop.timer(0.0)
        self._is_closed = False

    def arm(self) -> None:
        """Have what is ready served soon."""
        self.is_armed = True
        self._hub.loop.run_callback(self._dispatch)

    def _dispatch(self) -> None:
        """Switch to consumers until nothing is ready or the slice is over. Runs in the hub."""
        monotonic = self.monotonic
        self.now = monotonic()
        self.slice_end = self.now + SLICE_S
        self.is_slice_over = False
        ready = self.ready
        try:
            while ready and not self.is_slice_over:
                if self._idle:
                    consumer = self._idle.pop()
                else:
                    consumer = Consumer(self)
                    self.consumers.add(consumer)
                hand = consumer.hand
                hand.must_yield = hand.is_parked = False
                consumer.switch()
                if not hand.is_parked and not consumer.dead:
                    hand.must_yield = True
                    cell, queue = hand.sender, hand.queue
                    if cell is not None and queue is not None:
                        if queue.waiting:
                            queue.refill()
                        cell.settle()
                        if cell.ring is not None:
                            cell.ring.open()
                    self.is_slice_over = self.is_slice_over or monotonic() > self.slice_end
        finally:
            if ready:
                self._timer.start(self._dispatch)
            else:
                self.is_armed = False

    def make_room(self, cell: "Cell", queue: "Queue") -> None:
        """After a chunk: let in who waited for room, in the queue or in the ring, and tell who watches."""
        if queue.waiting:
            queue.refill()
            cell.settle()
        if cell.ring is not None:
            cell.ring.open()
        if self.watchers:
            self.notice()

    def notice(self) -> None:
        """Something that `wait_until` may wait for has changed."""
        for place in self.watchers:
            place.wake()

    def wait_until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until `condition` holds, at most `timeout_s` seconds. Returns whether it does.

        It is looked at again after chunks and after `notice`, and every `LOOK_S` seconds in any case: a condition may
        depend on what does not pass here, such as an open request.
        """
        return wait_until(condition, clock=self.clock, timeout_s=timeout_s, places=self.watchers, look_s=LOOK_S)

    def park(self, consumer: Consumer) -> bool:
        """Wait for the next thing to do. Returns False when the consumer is not needed any more."""
        hand = consumer.hand
        hand.is_parked = True
        if self._is_closed or len(self._idle) >= IDLE_KEPT:
            return False
        if self.ready and not self.is_armed:
            self.arm()
        self._idle.append(consumer)
        try:
            while hand.is_parked:
                self._hub.switch()
        except BaseException as error:  # noqa: BLE001 - boundary
            # Killed while it has nothing to do, or a timeout that a handler has left running: it just ends.
            if consumer in self._idle:
                self._idle.remove(consumer)
            if not isinstance(error, GreenletExit):
                logger.warning("%s reached a consumer without an event: a handler has left it running", error)
            return False
        return True

    def close(self) -> None:
        """Let every consumer end as soon as it parks, and serve nothing until `bind`; the Director has stopped."""
        self._is_closed = True
        for cell in self.ready:
            cell.is_queued = False
        self.ready.clear()
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        self.is_armed = False
        while self._idle:
            self._idle.pop().kill(block=False)

    def held_in_hands(self) -> list[Event]:
        """The events that handlers have in hand at this moment."""
        found = []
        for consumer in tuple(self.consumers):
            event = consumer.hand.event
            if event is not None and event._owner is consumer.hand:
                found.append(event)
        return found
