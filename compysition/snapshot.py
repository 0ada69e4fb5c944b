# SPDX-License-Identifier: Apache-2.0
"""One look at a Director as plain values: what `Director.snapshot` returns. Read next: `director`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from compysition.ledger import Balance
from compysition.queue import Queue
from compysition.readiness import PAUSED
from compysition.supervisor import Member


@dataclass(frozen=True, slots=True)
class ActorSnapshot:
    """One actor.

    Counts are of events since it was registered and may lag by a chunk while handlers run.

    Attributes:
        state: ``registered, starting, running, restarting, failed`` or ``stopped``.
        received: Taken out of its inboxes.
        sent: Put into the queues of its outboxes, error outboxes included.
        failed: Handlers that raised with the event in hand.
        failed_after_send: Handlers that raised after they had sent the event on.
        in_flight: Handlers that run at this moment.
        waiting_puts: How many of them wait for room in a queue.
        queued: Events in its inboxes, with those of waiting senders.
        kept: Events it keeps.
        delayed: Events that wait aside for a retry.
        restarts: How often it was restarted.
        abandoned: Handlers that survived their kill.
        paused: Whether it has called `pause`.
        busy_s: Seconds its handlers took in all, waits included.
        background: Background greenlets that have not come to their end.
    """

    state: str
    received: int
    sent: int
    failed: int
    failed_after_send: int
    in_flight: int
    waiting_puts: int
    queued: int
    kept: int
    delayed: int
    restarts: int
    abandoned: int
    paused: bool
    busy_s: float
    background: int


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """One connection.

    Attributes:
        depth: Events in the queue.
        capacity: Events it takes before its overflow policy rules.
        overflow: That policy.
        dropped: Events the policy has dropped.
        taken: Events taken out.
        waiting: Senders that wait for room.
    """

    depth: int
    capacity: int
    overflow: str
    dropped: int
    taken: int
    waiting: int


#: ``(source, outbox, destination, inbox)``; source and outbox are "" for what is posted from outside, and an error
#: outbox is written ``error:outbox``: the same pair may be joined by both kinds.
QueueKey = tuple[str, str, str, str]


def key_of(queue: Queue) -> QueueKey:
    """The queue's key in `Snapshot.queues`."""
    outbox = f"error:{queue.outbox}" if queue.is_error else queue.outbox
    return queue.source, outbox, queue.cell.name, queue.inbox


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One look at a Director.

    Attributes:
        state: ``new, starting, running, stopping`` or ``stopped``.
        actors: By name.
        queues: By ``(source, outbox, destination, inbox)``.
        balance: Of all events but log records.
        logs: Of log records.
    """

    state: str
    actors: Mapping[str, ActorSnapshot]
    queues: Mapping[QueueKey, QueueSnapshot]
    balance: Balance
    logs: Balance


def look_at_actor(member: Member, outgoing: Iterable[Queue]) -> ActorSnapshot:
    """The snapshot of one actor."""
    cell = member.cell
    return ActorSnapshot(
        state=member.state.value,
        received=sum(queue.taken for queue in cell.inboxes),
        # What went in has come out or is still inside: no counter is needed on the way of every event.
        sent=sum(q.taken + len(q.items) + len(q.waiting) + q.dropped + q.cleared for q in outgoing),
        failed=cell.failures,
        failed_after_send=cell.failed_after_send,
        in_flight=cell.running,
        waiting_puts=cell.waiting_puts,
        queued=cell.depth,
        kept=len(cell.kept.events),
        delayed=len(cell.retrying.events),
        restarts=cell.restarts,
        abandoned=cell.abandoned,
        paused=bool(cell.shut & PAUSED),
        busy_s=cell.busy_s,
        background=sum(1 for greenlet in member.pool if greenlet.is_alive()),
    )


def look_at_queue(queue: Queue) -> QueueSnapshot:
    """The snapshot of one connection."""
    return QueueSnapshot(
        depth=len(queue.items),
        capacity=queue.capacity,
        overflow=queue.overflow.value,
        dropped=queue.dropped,
        taken=queue.taken,
        waiting=len(queue.waiting),
    )
