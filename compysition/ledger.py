# SPDX-License-Identifier: Apache-2.0
"""Who owns an event, how it ends, and the balance: ``accepted + born = ended + held``.

Every event has one owner at a time: nobody (fresh), a hand, a queue, an actor's kept or delayed events, or an ending.
An owner is any object with an attribute `sender`: whoever may send the event on *without* anything being counted.
Only a hand has one; everything else goes through `Ledger.move` and `Ledger.end`.

For speed, some of it is written out elsewhere, with the words of this file: the dispatcher's loop takes an event from
its queue and ends one that a handler is finished with; the bound `send_event` puts one from a hand, or a fresh one with
its count, into a queue; `Queue.give_back` returns one. Must not know queues, actors or greenlets. Read next: `lineage`,
then `queue`.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from compysition.errors import EventNotOwnedError
from compysition.event import FRESH, Event, Failure


class Outcome(enum.Enum):
    """The ways in which an event can end; each event ends in exactly one."""

    #: A handler finished with it, or it was sent where no outbox is.
    DELIVERED = "delivered"
    #: It was the answer to a request, or to `Director.ask`.
    ANSWERED = "answered"
    #: It became a dead letter; `DeadLetter.reason` says why.
    DEAD = "dead"
    #: Its time was over, nobody waited any more, or it was an answer that came late.
    EXPIRED = "expired"
    #: By the overflow policy of a connection, or as the second answer to a request.
    DROPPED = "dropped"
    #: Another process has it.
    HANDED_OVER = "handed_over"


class Owner(Protocol):
    """What an event can belong to. `sender` is who may send it on without anything being counted, or None."""

    @property
    def sender(self) -> object | None:
        """Whose handler has the event in hand."""


class Ending:
    """Owner of events that have ended, one per outcome."""

    __slots__ = ("outcome",)
    sender = None

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome

    def __repr__(self) -> str:
        return f"ended ({self.outcome.value})"


ENDINGS: dict[Outcome, Ending] = {outcome: Ending(outcome) for outcome in Outcome}
DELIVERED = ENDINGS[Outcome.DELIVERED]


class Holding:
    """The events that an actor keeps, or that wait aside for a retry, in order."""

    __slots__ = ("events", "holder", "what")
    sender = None

    def __init__(self, holder: object, what: str) -> None:
        self.holder = holder
        self.what = what
        #: Keyed by identity: events need no hash and no equality.
        self.events: dict[int, Event] = {}

    def __repr__(self) -> str:
        return f"{self.what} by {getattr(self.holder, 'name', self.holder)!r}"


@dataclass(frozen=True, slots=True)
class Balance:
    """One look at the ledger. It is even whenever another greenlet can look.

    Attributes:
        accepted: Events that came in from outside any handler.
        born: Events that a handler made: copies, created ones, and ended ones that were sent again.
        held: Events in queues, waiting senders, hands, kept and delayed.
        ended: How many ended, by outcome.
    """

    accepted: int
    born: int
    held: int
    ended: dict[Outcome, int] = field(default_factory=dict)

    @property
    def is_even(self) -> bool:
        """Whether nothing was lost and nothing counted twice."""
        return self.accepted + self.born == sum(self.ended.values()) + self.held

    def __str__(self) -> str:
        ended = " + ".join(f"{number} {outcome.value}" for outcome, number in self.ended.items() if number) or "0"
        sign = "=" if self.is_even else "≠"
        return f"{self.accepted} accepted + {self.born} born {sign} {ended} + {self.held} held"


class Ledger:
    """Counts what enters and what ends. One per Director, and a second one for its log records.

    Args:
        on_resent: Called with an event that ended as `delivered` and is sent all the same, and with who sends it.
    """

    __slots__ = ("accepted", "born", "delivered", "ended", "on_resent")

    def __init__(self, on_resent: Callable[[Event, object | None], None] | None = None) -> None:
        self.accepted = 0
        self.born = 0
        #: `Outcome.DELIVERED` is counted apart, because the dispatcher's loop does it.
        self.delivered = 0
        self.ended: dict[Outcome, int] = dict.fromkeys(Outcome, 0)
        self.on_resent = on_resent

    def balance(self, held: int) -> Balance:
        """The balance, given how many events are held at this moment."""
        ended = dict(self.ended)
        ended[Outcome.DELIVERED] = self.delivered
        return Balance(self.accepted, self.born, held, ended)

    def move(self, event: Event, to: Owner, sender: object | None, *, in_handler: bool) -> Owner:
        """Give `event` to the owner `to` and return the former owner. The one place where ownership changes.

        Args:
            event: The event.
            to: The new owner.
            sender: The actor (its cell) that moves it; None when it is posted from outside.
            in_handler: Whether the sender is inside a handler; a fresh event is then born, else accepted.

        Raises:
            EventNotOwnedError: it is not the sender's to give.
        """
        owner = self.check(event, sender)
        if owner is FRESH:
            self.enter(event, to, in_handler)
        elif owner is DELIVERED:
            self.enter(event, to, True)
            if self.on_resent is not None:
                self.on_resent(event, sender)
        elif isinstance(owner, Holding):
            del owner.events[id(event)]
        event._owner = to
        if isinstance(to, Holding):
            to.events[id(event)] = event
        return owner

    def enter(self, event: Event, to: "Owner", in_handler: bool) -> None:
        """Count a fresh event in and give it to `to`; a part of `move`, for callers that know it is fresh."""
        event._ledger = self
        event._owner = to
        if in_handler:
            self.born += 1
        else:
            self.accepted += 1

    def check(self, event: Event, sender: object | None) -> "Owner":
        """The owner of `event`, if `sender` may give it away.

        Raises:
            EventNotOwnedError: it is not the sender's to give.
        """
        owner = event._owner
        if (
            owner is FRESH
            or owner is DELIVERED
            or (sender is not None and owner.sender is sender)
            or (isinstance(owner, Holding) and owner.holder is sender)
        ):
            return owner
        raise not_owned(event)

    def undo(self, event: Event, former: Owner, *, in_handler: bool) -> None:
        """Take back a `move` out of `former`: a waiting sender was woken by something else than room."""
        if getattr(former, "event", event) is not event:
            # It was in a hand, but its handler has returned while somebody else's put waited: finished with.
            event._owner = former
            self.end(event, Outcome.DELIVERED)
            return
        if former is FRESH or former is DELIVERED:
            if in_handler or former is DELIVERED:
                self.born -= 1
            else:
                self.accepted -= 1
        elif isinstance(former, Holding):
            former.events[id(event)] = event
        event._owner = former

    def end(self, event: Event, outcome: Outcome, failure: Failure | None = None) -> None:
        """End `event`, which is owned and not fresh. The one place where an event ends, but for the loop's own.

        An outcome is noted with whoever waits for the event, and the token is taken off it, except for `delivered`:
        a handler that returns may have put the event aside without a word and send it later.
        """
        owner = event._owner
        if isinstance(owner, Holding):
            del owner.events[id(event)]
        event._owner = ENDINGS[outcome]
        ledger = event._ledger or self
        if outcome is Outcome.DELIVERED:
            ledger.delivered += 1
        else:
            ledger.ended[outcome] += 1
        token = event._lineage
        if token is not None:
            token.ticket.note(event, outcome, failure)
            if outcome is not Outcome.DELIVERED:
                event._lineage = None


def not_owned(event: Event) -> EventNotOwnedError:
    """The error for an event that is somebody else's, in words that say what to do."""
    owner = event._owner
    if isinstance(owner, Ending):
        seen = f"has {owner!r}"
    elif owner.sender is not None:
        seen = f"is in the hand of {getattr(owner.sender, 'name', owner.sender)!r}"
    elif isinstance(owner, Holding):
        seen = f"is {owner!r}"
    else:
        seen = f"was already sent to {getattr(getattr(owner, 'cell', None), 'name', owner)!r}"
    return EventNotOwnedError(
        f"event {event.event_id} {seen}: send event.copy(), or self.create_event(data=…) for each part"
    )
