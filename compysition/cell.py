# SPDX-License-Identifier: Apache-2.0
"""One actor's runtime half: what becomes of an event that a handler sends or leaves.

An `Actor` holds user code and tools; its `Cell` holds everything the dispatcher needs, so that a user's attributes
cannot collide with it. Here are the ways on for an event: send, keep, give back, fail; `readiness` says when handlers
start. Must not know the Director, only a `Host`. Read next: `actor`.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from gevent import GreenletExit, Timeout, getcurrent

from compysition import deadletter, lineage
from compysition.backoff import Backoff
from compysition.clock import Timer
from compysition.deadletter import DeadLetter
from compysition.dispatch import Consumer, Hand, present_hand
from compysition.errors import (
    ActorError,
    ControlFlow,
    DeadlineError,
    DirectorStoppedError,
    Fatal,
    HandlerTimeoutError,
    KeptFullError,
    NotAnEventError,
    OutboxNotFoundError,
    QueueFullError,
    Retry,
    RingFullError,
    StopFlow,
    suggestion,
)
from compysition.event import FRESH, Event, Failure, Tally
from compysition.ledger import Ledger, Outcome
from compysition.logger import RuntimeLogger, get_logger
from compysition.queue import Queue, check_is_event
from compysition.readiness import HELD_BY_RETRY, NOT_STARTED, PAUSED, TOO_MANY_RETRIES, Host, Readiness

#: An event over which so many handlers were killed, or raised `Fatal`, is poison.
KILLS_MOST = 3
#: An event that fails again while it carries an error takes error outboxes so many times.
ERROR_HOPS_MOST = 3

#: So many events may wait aside for a retry; beyond, the actor takes no further ones until some have come back.
RETRYING_MOST = 500


class Cell(Readiness):
    """The runtime half of the actor `name`.

    Args:
        name: The actor's name.
        host: Who runs it.
        ledger: Where its events are counted.
        concurrency: How many handlers may run at once.
        max_retries: How often an event may be given back by `Retry`.
        max_kept: How many events it may keep at once.
        answers: Whether its inbox never feeds its outboxes; it is also given events whose time is over, to count them.
        backoff: Delays between retries that name none.
    """

    __slots__ = (
        *("abandoned", "answers", "backoff", "failed_after_send", "failures", "ledger", "logger", "max_kept"),
        *("max_retries", "on_wired", "restarts", "_has_warned_of_keep", "_retry_deadline", "_timers"),
    )

    def __init__(
        self,
        name: str,
        host: Host,
        ledger: Ledger,
        *,
        concurrency: int = 100,
        max_retries: int = 3,
        max_kept: int = 10_000,
        answers: bool = False,
        backoff: Backoff | None = None,
        logger: RuntimeLogger | None = None,
    ) -> None:
        super().__init__(name, host, concurrency)
        self.ledger = ledger
        self.max_retries = max_retries
        self.max_kept = max_kept
        self.answers = answers
        self.backoff = backoff or Backoff()
        self.logger = logger or get_logger(f"actor.{name}", actor=name)
        #: When retries are due, by their event's identity, or 0 for the one that holds the inbox.
        self._timers: dict[int, tuple[float, Timer, Queue]] = {}
        #: Set by a stop: retries that are due later are not waited for.
        self._retry_deadline: float | None = None
        self.failures = 0
        self.failed_after_send = 0
        self.restarts = 0
        self.abandoned = 0
        self._has_warned_of_keep = False
        #: Called when the outboxes have changed, so that the actor binds its `send_event` anew.
        self.on_wired: Callable[[], None] = _nothing

    def __repr__(self) -> str:
        return f"<Cell {self.name}>"

    def begin(self) -> None:
        """Be as before the first start; `open` lets handlers start. An actor that was paused meanwhile stays so."""
        self.shut = NOT_STARTED | self.shut & PAUSED
        self._retry_deadline = None

    # ---- ways on for an event -----------------------------------------------------------------------------------

    def bound_send(self) -> Callable[..., None]:
        """`send` in fewer steps, for what is connected at this moment."""
        queues = [queue for queues in self.outboxes.values() for queue in queues]
        if len(queues) == 1:
            return self._bound_to_one(queues[0])
        return self._bound_to_many(queues) if queues else self.send

    def _bound_to_one(self, queue: Queue) -> Callable[..., None]:
        slow, ledger, items, destination = self.send, self.ledger, queue.items, queue.cell
        append = items.append

        def send_event(event: Event, queues: str | Iterable[str] | None = None) -> None:
            try:
                owner = event._owner
                if queues is not None or len(items) >= queue.limit:
                    return slow(event, queues)
                # From here on the words of Queue.put and Ledger.move, for what is fresh, or in a handler's hand.
                if owner is FRESH:
                    event._ledger = ledger
                    # While no handler of this actor runs, the sender cannot be inside one; that is quicker to know.
                    if self.running and getcurrent().__class__ is Consumer:
                        ledger.born += 1
                    else:
                        ledger.accepted += 1
                elif owner.sender is not self:
                    return slow(event)
            except AttributeError:
                check_is_event(event)
                raise
            event._owner = queue
            append(event)
            if destination.wants_wake:
                destination.wake()
            return None

        return send_event

    def _bound_to_many(self, queues: Sequence[Queue]) -> Callable[..., None]:
        slow, ledger, last = self.send, self.ledger, queues[-1]
        put_last, copies_to = self._bound_to_one(last), tuple(queues[:-1])

        def send_event(event: Event, queues: str | Iterable[str] | None = None) -> None:
            try:
                owner = event._owner
                holder = owner.sender
            except AttributeError:
                check_is_event(event)
                raise
            if queues is not None or (holder is not self and owner is not FRESH):
                return slow(event, queues)
            for queue in copies_to:
                if len(queue.items) >= queue.limit:
                    return slow(event)
            if len(last.items) >= last.limit:
                return slow(event)
            # All copies first, so that one that cannot be made leaves nothing sent; then the words of Queue.put.
            for queue, copy in [(queue, event.copy()) for queue in copies_to]:
                copy._owner = queue
                copy._ledger = ledger
                ledger.born += 1
                queue.items.append(copy)
                destination = queue.cell
                if destination.wants_wake:
                    destination.wake()
            return put_last(event)

        return send_event

    def send(self, event: Event, queues: str | Iterable[str] | None = None) -> None:
        """Send `event` to the outboxes named, by default to all. See `Actor.send_event`."""
        check_is_event(event)
        outboxes = self.outboxes
        if queues is None:
            targets = [queue for named in outboxes.values() for queue in named]
        else:
            targets = []
            for name in (queues,) if isinstance(queues, str) else queues:
                if name not in outboxes:
                    raise OutboxNotFoundError(f"actor {self.name!r} has no outbox {name!r}{suggestion(name, outboxes)}")
                targets += outboxes[name]
        self._put_to_all(event, targets)

    def send_error(self, event: Event) -> None:
        """Send `event` to the error outboxes, or make it a dead letter. See `Actor.send_error`."""
        check_is_event(event)
        self.ledger.check(event, self)
        is_again = event.error is not None and _tally(event).error_hops > 0
        if isinstance(event.error, BaseException):
            event.error = Failure.of(event.error, actor=self.name)
        elif event.error is None:
            event.error = Failure(ActorError, f"{self.name!r} sent it to its error outbox", actor=self.name)
        self._route_failure(event, is_again=is_again)

    def keep(self, event: Event) -> None:
        """Hold `event` beyond the handler's return."""
        check_is_event(event)
        if len(self.kept.events) >= self.max_kept and event._owner is not self.kept:
            self.ledger.check(event, self)
            raise KeptFullError(
                f"actor {self.name!r} keeps {self.max_kept} events already: send some on first, or raise its option "
                "max_kept",
                actor=self.name,
                max_kept=self.max_kept,
            )
        self.ledger.move(event, self.kept, self, in_handler=_handler_cell() is not None)

    def _put_to_all(self, event: Event, targets: Sequence[Queue]) -> None:
        handler_of = _handler_cell()
        ledger = self.ledger
        if not targets:
            ledger.move(event, self.kept, self, in_handler=handler_of is not None)
            token = event._lineage
            ledger.end(event, Outcome.DELIVERED if token is None else token.ticket.on_end_of_flow(event))
            return
        if len(targets) == 1:
            targets[0].put(event, ledger, self, handler_of)
            return
        ledger.check(event, self)
        copies = [event.copy() for _ in range(len(targets) - 1)]
        # The event itself goes last: whoever is killed half-way still has it in hand, so that it is given back.
        for queue, each in zip(targets, [*copies, event], strict=True):
            is_born = each is not event or handler_of is not None
            try:
                queue.put(each, ledger, self, handler_of, is_born=is_born)
            except RingFullError:
                raise
            except DeadlineError as error:
                error.has_begun = each is not copies[0]
                raise
            except QueueFullError as error:
                ledger.move(each, queue, self, in_handler=is_born)
                self.bury(each, deadletter.OVERFLOW, Failure.of(error, actor=self.name))

    def bury(
        self, event: Event, reason: str, failure: Failure | None, inbox: str = "", raised: BaseException | None = None
    ) -> None:
        """End an owned event as a dead letter; `raised` is what its handler raised, if that is still to be logged."""
        letter = DeadLetter(event, self.name, inbox, reason, failure, event.attempts, self.host.clock.wall())
        self.ledger.end(event, Outcome.DEAD, failure)
        self.host.dead_letters.add(letter)
        if raised is not None:
            self._log_raised(event, raised, f", which became a dead letter ({reason})")
            return
        self.logger.log(
            logging.WARNING if failure is None or failure.status >= 500 else logging.INFO,
            "event %s became a dead letter (%s)%s",
            event.event_id,
            reason,
            f": {failure}" if failure is not None else "",
            extra={"event_id": event.event_id},
        )

    # ---- the handler boundary -----------------------------------------------------------------------------------

    def failed(self, hand: Hand, event: Event, error: BaseException) -> None:
        """`error` left the handler of `event`: route it, give it back, or end it. May wait for room."""
        if hand.is_abandoned:
            return
        is_in_hand = event._owner is hand
        if isinstance(error, ControlFlow):
            self._control(hand, event, error, is_in_hand)
            return
        if isinstance(error, Timeout):
            timeout, error = error, HandlerTimeoutError(f"a timeout ended the handler of {self.name!r}: {error}")
            # Taken over, not shared: a handler that holds its Timeout in a variable would be kept alive by it.
            error.__traceback__, timeout.__traceback__ = timeout.__traceback__, None
        is_end_of_wait = isinstance(error, DeadlineError | DirectorStoppedError) and error.event_id == event.event_id
        if is_end_of_wait and not is_in_hand:
            # It waited for room when its time ended or the Director stopped; the event has its end, with a name.
            return
        if not is_in_hand:
            self.failed_after_send += 1
            self.logger.error(
                "handler raised %s after it had sent event %s on; the event is not failed",
                type(error).__name__,
                event.event_id,
                exc_info=error,
                extra={"event_id": event.event_id},
            )
            return
        self.failures += 1
        is_again = event.error is not None
        event.error = Failure.of(error, actor=self.name)
        # A caller's mistake, such as a wrong password, is nothing to wake anybody for.
        is_ours = isinstance(error, NotAnEventError | RingFullError) or event.error.status >= 500
        inbox = hand.queue.inbox if hand.queue is not None else ""
        try:
            self._route_failure(event, is_again=is_again, inbox=inbox, raised=error if is_ours else None)
        except (Exception, Timeout) as second:
            # Boundary: data that cannot be copied for several error outboxes, or a stop while this waited for room.
            self.logger.error("event %s cannot take its error outboxes: %s", event.event_id, second, exc_info=second)
            if event._owner is hand:
                self.bury(event, deadletter.FAILED, event.error, inbox)

    def interrupted(self, hand: Hand, error: BaseException) -> None:
        """A kill, or an exception that is no `Exception`, left the handler: give the event back. Never waits."""
        event, queue = hand.event, hand.queue
        if event is not None and queue is not None and event._owner is hand:
            self._give_back_killed(event, queue, Failure.of(error, actor=self.name))
        if isinstance(error, SystemExit | KeyboardInterrupt):
            self.host.request_stop(f"{type(error).__name__} was raised in actor {self.name!r}")
        elif not hand.is_kill_ours:
            what = "a consumer was killed" if isinstance(error, GreenletExit) else f"{type(error).__name__} left it"
            self.host.crashed(self, what)

    def _control(self, hand: Hand, event: Event, flow: ControlFlow, is_in_hand: bool) -> None:
        queue = hand.queue
        assert queue is not None
        if isinstance(flow, StopFlow):
            if is_in_hand:
                lineage.answer(event, self.ledger)
        elif isinstance(flow, Fatal):
            if is_in_hand:
                self._give_back_killed(event, queue, Failure.of(flow, actor=self.name))
            self.host.crashed(self, f"Fatal: {flow}" if str(flow) else "Fatal")
        elif isinstance(flow, Retry) and is_in_hand:
            self._retry(event, queue, flow)
        elif not isinstance(flow, Retry):
            raise flow

    def _give_back_killed(self, event: Event, queue: Queue, failure: Failure) -> None:
        tally = _tally(event).at(self)
        tally.attempts += 1
        tally.kills += 1
        if tally.kills >= KILLS_MOST:
            failure = replace(failure, text=f"its handler was ended {tally.kills} times; {failure.text}".rstrip("; "))
            event.error = failure
            self.bury(event, deadletter.POISON, failure, queue.inbox)
        else:
            queue.give_back(event)

    def _retry(self, event: Event, queue: Queue, flow: Retry) -> None:
        tally = _tally(event).at(self)
        tally.attempts += 1
        tally.retries += 1
        if tally.retries > self.max_retries:
            event.error = Failure(Retry, f"given back {self.max_retries} times", 503, actor=self.name)
            self.bury(event, deadletter.RETRIES, event.error, queue.inbox)
            return
        clock = self.host.clock
        delay_s = self.backoff.delay_s(tally.retries, clock.rng) if flow.after_s is None else flow.after_s
        due = clock.monotonic() + delay_s
        if self._retry_deadline is not None and due > self._retry_deadline:
            self.bury(event, deadletter.STOPPED, event.error or deadletter.stopped_failure(), queue.inbox)
            return
        if self.concurrency == 1:
            # Order rules here: the event goes back to the front and nothing is taken until it is due.
            queue.give_back(event)
            self.close(HELD_BY_RETRY)
            self._timers[0] = (due, clock.call_later(delay_s, self._retry_held), queue)
            return
        self.ledger.move(event, self.retrying, self, in_handler=True)
        timer = clock.call_later(delay_s, lambda: self._re_enter(event, queue))
        self._timers[id(event)] = (due, timer, queue)
        if len(self.retrying.events) >= RETRYING_MOST:
            self.close(TOO_MANY_RETRIES)

    def _retry_held(self) -> None:
        self._timers.pop(0, None)
        self.open(HELD_BY_RETRY)

    def _re_enter(self, event: Event, queue: Queue) -> None:
        self._timers.pop(id(event), None)
        if event._owner is self.retrying:
            # Else the actor has sent it on meanwhile, as it may with what it holds.
            queue.re_enter(event, self.ledger, self)
        self.open(TOO_MANY_RETRIES)

    def _route_failure(
        self, event: Event, *, is_again: bool = False, inbox: str = "", raised: BaseException | None = None
    ) -> None:
        tally = _tally(event)
        tally.error_hops = tally.error_hops + 1 if is_again else 1
        targets = [queue for named in self.error_outboxes.values() for queue in named]
        if not targets or tally.error_hops > ERROR_HOPS_MOST:
            self.ledger.move(event, self.kept, self, in_handler=_handler_cell() is not None)
            self.bury(event, deadletter.FAILED, event.error, inbox, raised)
            return
        if raised is not None:
            self._log_raised(event, raised)
        try:
            self._put_to_all(event, targets)
        except QueueFullError as error:
            self.ledger.move(event, self.kept, self, in_handler=_handler_cell() is not None)
            self.bury(event, deadletter.OVERFLOW, Failure.of(error, actor=self.name), inbox)

    def _log_raised(self, event: Event, raised: BaseException, end: str = "") -> None:
        self.logger.error(
            "handler raised %s for event %s%s",
            event.error,
            event.event_id,
            end,
            exc_info=raised,
            extra={"event_id": event.event_id},
        )

    def warn_of_keep(self, event: Event) -> None:
        """Say once that an event which had ended was sent: the handler should have kept it."""
        if not self._has_warned_of_keep:
            self._has_warned_of_keep = True
            self.logger.warning(
                "event %s was sent after its handler had returned, when it counted as delivered: call self.keep(event) "
                "before the handler returns (said once for this actor)",
                event.event_id,
                extra={"event_id": event.event_id},
            )

    # ---- the end ------------------------------------------------------------------------------------------------

    def cancel_timers(self) -> None:
        """Forget when retries are due; their events stay held."""
        for _, timer, _ in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def collect(self, reason: str) -> int:
        """End everything that is queued, kept or waiting for a retry as dead letters. Returns how many."""
        self.cancel_timers()
        number = 0
        for queue in self.inboxes:
            for event in queue.clear():
                self.bury(event, reason, event.error or deadletter.stopped_failure(), queue.inbox)
                number += 1
        for holding in (self.kept, self.retrying):
            while holding.events:
                # One by one: a log record may let others run, and send what is kept.
                event = next(iter(holding.events.values()))
                self.bury(event, reason, event.error or deadletter.stopped_failure())
                number += 1
        return number

    def refuse_retries(self, deadline: float) -> int:
        """Wait for no retry that is due after `deadline`: those become dead letters now. Returns how many."""
        self._retry_deadline = deadline
        number = 0
        for identity, (due, timer, queue) in list(self._timers.items()):
            if due > deadline:
                timer.cancel()
                del self._timers[identity]
                number += 1
                event = self.retrying.events.get(identity)
                if event is None:
                    # It holds the inbox, at whose front it lies, unless an overflow policy has dropped it.
                    if not queue.items or queue.items[0].attempts == 0:
                        continue
                    event = queue.items.popleft()
                    queue.cleared += 1
                self.bury(event, deadletter.STOPPED, event.error or deadletter.stopped_failure(), queue.inbox)
        self.open(HELD_BY_RETRY | TOO_MANY_RETRIES)
        return number


def _tally(event: Event) -> Tally:
    if event._tally is None:
        event._tally = Tally()
    return event._tally


def _handler_cell() -> Cell | None:
    """The cell inside whose handler the present greenlet is; None outside any handler."""
    hand = present_hand()
    return None if hand is None else hand.sender


def _nothing() -> None:
    pass
