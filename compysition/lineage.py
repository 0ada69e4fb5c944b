# SPDX-License-Identifier: Apache-2.0
"""Who waits for the end of an event and of all that come from it.

The waiter holds a `Ticket`. The event carries a `Token` that refers to the ticket; copies and created events share the
token. An outcome is noted on the ticket when it happens; when the last event lets go of the token, the token's
finalizer tells the ticket that all branches have ended. Nothing refers from the ticket to the token: the token's life
is the lineage's.

Events that nobody waits for carry None and pay nothing. Must not know queues or actors. Read next: `queue`.
"""

import enum
from typing import TYPE_CHECKING, Any

from compysition.clock import Clock
from compysition.deadlines import DeadlineWheel
from compysition.errors import ActorError
from compysition.event import Event, Failure
from compysition.ledger import Outcome
from compysition.parking import Parking

if TYPE_CHECKING:
    from compysition.ledger import Ledger


class TicketState(enum.Enum):
    """What became of a ticket; only `OPEN` changes, and once."""

    OPEN = "open"
    #: An event answered it: `Ticket.answer`.
    ANSWERED = "answered"
    #: An event failed: `Ticket.failure`.
    FAILED = "failed"
    #: All branches ended and none was an answer.
    ENDED = "ended"
    #: Its deadline passed.
    EXPIRED = "expired"
    #: Whoever waited has gone away.
    CANCELLED = "cancelled"


class Ticket:
    """Waits for one answer to one event.

    Args:
        clock: Where time comes from.
        wheel: Where the deadline is put; the entry is taken out as soon as the ticket closes.
        timeout_s: Seconds until the ticket expires; None = never.
        loop: gevent's loop of the thread that waits; the token's finalizer may run in any thread.
    """

    __slots__ = (
        *("answer", "deadline", "failure", "finished", "has_drop", "late", "second", "state"),
        *("_bucket", "_clock", "_loop", "_places", "_wheel", "__weakref__"),
    )

    def __init__(self, clock: Clock, wheel: DeadlineWheel, timeout_s: float | None, loop: Any) -> None:
        self.state = TicketState.OPEN
        self.answer: Event | None = None
        self.failure: Failure | None = None
        #: The newest event of the lineage that a handler finished with.
        self.finished: Event | None = None
        #: Whether an overflow policy dropped a branch.
        self.has_drop = False
        #: Answers that came after the ticket had expired or was cancelled, and those after the first one.
        self.late = 0
        self.second = 0
        self.deadline = None if timeout_s is None else clock.monotonic() + timeout_s
        self._clock = clock
        self._wheel = wheel
        self._loop = loop
        #: Where greenlets wait that have to look again when the ticket closes.
        self._places: set[Parking] = set()
        self._bucket = None if self.deadline is None else wheel.add(self, self.deadline)

    def attach(self, event: Event) -> None:
        """Wait for the end of `event` and of whatever comes from it."""
        event._lineage = Token(self)

    def wait(self) -> TicketState:
        """Wait until the ticket is closed; woken by an answer, a failure, the end of all branches, or the deadline."""
        if self.state is TicketState.OPEN:
            place = Parking()
            self._places.add(place)
            try:
                while self.state is TicketState.OPEN:
                    place.park()
            finally:
                self._places.discard(place)
        return self.state

    def watch(self, place: Parking) -> None:
        """Wake `place` when the ticket closes."""
        self._places.add(place)

    def unwatch(self, place: Parking) -> None:
        """Do not wake it any more."""
        self._places.discard(place)

    def is_expired(self) -> bool:
        """Whether work on the lineage's events is for nobody: the deadline has passed or the waiter has gone."""
        state = self.state
        if state is TicketState.OPEN:
            return self.deadline is not None and self._clock.monotonic() >= self.deadline
        return state is TicketState.EXPIRED or state is TicketState.CANCELLED

    def offer(self, event: Event) -> Outcome:
        """Take `event` as the answer, if there is none yet. Returns the outcome with which the event has to end."""
        if self.state is TicketState.OPEN:
            self.answer = event
            self._close(TicketState.ANSWERED)
            return Outcome.ANSWERED
        if self.state is TicketState.EXPIRED or self.state is TicketState.CANCELLED:
            self.late += 1
            return Outcome.EXPIRED
        self.second += 1
        return Outcome.DROPPED

    def fail(self, failure: Failure) -> None:
        """Close the ticket with `failure`, if it is open."""
        if self.state is TicketState.OPEN:
            self.failure = failure
            self._close(TicketState.FAILED)

    def expire(self) -> None:
        """Close the ticket because its time is over, if it is open."""
        self._close(TicketState.EXPIRED)

    def cancel(self) -> None:
        """Close the ticket because nobody waits any more, if it is open."""
        self._close(TicketState.CANCELLED)

    def note(self, event: Event, outcome: Outcome, failure: Failure | None) -> None:
        """An event of the lineage has ended. Called by the ledger; must not wait."""
        if outcome is Outcome.DEAD:
            self.fail(failure or event.error or Failure(ActorError, "the event became a dead letter"))
        elif outcome is Outcome.DELIVERED:
            if event.error is not None:
                self.fail(event.error)
            else:
                self.on_finished(event)
        elif outcome is Outcome.DROPPED:
            self.has_drop = True

    def on_finished(self, event: Event) -> None:
        """A handler returned with `event` in hand. It may still have put it aside and send it later."""

    def on_end_of_flow(self, event: Event) -> Outcome:
        """`event` was sent by an actor that has no outbox. Returns the outcome with which it has to end."""
        return Outcome.DELIVERED

    def on_branches_ended(self) -> None:
        """No event of the lineage is left."""
        self._close(TicketState.ENDED)

    def _close(self, state: TicketState) -> None:
        if self.state is not TicketState.OPEN:
            return
        self.state = state
        if self._bucket is not None:
            self._wheel.discard(self, self._bucket)
            self._bucket = None
        for place in self._places:
            place.wake()


class AskTicket(Ticket):
    """The ticket of `Director.ask`: the end of the flow answers it.

    That is the first event that an actor without outbox sends, that `StopFlow` ends, or that reaches an actor which
    answers; if there is none, the last event that a handler finished with, once all branches have ended.
    """

    __slots__ = ()

    def on_finished(self, event: Event) -> None:
        """Remember `event`: it is the answer if no better one comes."""
        # Here `delivered` has to let go of the token: `finished` would keep the lineage alive for ever.
        event._lineage = None
        self.finished = event

    def on_end_of_flow(self, event: Event) -> Outcome:
        """Take `event` as the answer."""
        return self.offer(event)

    def on_branches_ended(self) -> None:
        """Make do with what handlers have finished with."""
        if self.state is TicketState.OPEN and self.finished is not None:
            self.offer(self.finished)
        super().on_branches_ended()


class Token:
    """Carried by every event of a lineage; its end is the lineage's."""

    __slots__ = ("__weakref__", "ticket")

    def __init__(self, ticket: Ticket) -> None:
        self.ticket = ticket

    def __del__(self) -> None:
        ticket = self.ticket
        # Only queue a call: a finalizer may run anywhere, in any thread, in the middle of anything.
        if ticket.state is TicketState.OPEN:
            ticket._loop.run_callback_threadsafe(ticket.on_branches_ended)


def answer(event: Event, ledger: "Ledger") -> Outcome:
    """End `event` as the answer its ticket waits for, or as `delivered` if nobody waits. It must be in hand."""
    token = event._lineage
    if token is None:
        outcome = Outcome.DELIVERED
    else:
        event._lineage = None
        outcome = token.ticket.offer(event)
    ledger.end(event, outcome)
    return outcome
