# SPDX-License-Identifier: Apache-2.0
"""`drive`: one actor alone, with a real Director around it, collectors at its outboxes and a virtual clock.

Nothing of the runtime is imitated: queues, handlers, errors, retries and restarts are those of production.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar, overload

import gevent

from compysition.actor import Actor, ActorOptions
from compysition.clock import CLOCK, Clock
from compysition.deadletter import STOPPED, DeadLetter
from compysition.director import Director
from compysition.drain import StopReport
from compysition.errors import UsageError, suggestion
from compysition.event import Event
from compysition.snapshot import ActorSnapshot
from compysition.testing.actors import Collector, Feeder
from compysition.testing.clock import LOOK_S, VirtualClock
from compysition.testing.running import describe, running, stop
from compysition.testing.waiting import PATIENCE_S, patience, settle

ActorT = TypeVar("ActorT", bound=Actor)
EventT = TypeVar("EventT", bound=Event)


class Kit(Generic[ActorT]):
    """An actor under test, and what a test can do to it; made by `drive`.

    Attributes:
        actor: The actor.
        director: The Director that runs it.
        clock: Its clock.
        collectors: By outbox, the actor that stands behind it: `pause` one and its queue fills.
    """

    def __init__(
        self,
        director: Director,
        actor: ActorT,
        feeders: Mapping[str, Actor],
        collectors: Mapping[str, Collector],
        error_collector: Collector | None,
    ) -> None:
        self.actor = actor
        self.director = director
        self.clock = director.clock
        self.collectors = collectors
        self._feeders = feeders
        self._error_collector = error_collector
        self._n_errors_seen = 0
        self._n_letters_seen = 0
        self._n_letters_cleared = 0

    # ---- what goes in ---------------------------------------------------------------------------------------------

    @overload
    def send(self, event_or_data: EventT, inbox: str | None = None, *, settles: bool = True) -> EventT: ...

    @overload
    def send(self, event_or_data: object = None, inbox: str | None = None, *, settles: bool = True) -> Event: ...

    def send(self, event_or_data: object = None, inbox: str | None = None, *, settles: bool = True) -> Event:
        """Put an event into the actor's inbox, and let everything happen that needs no time.

        Args:
            event_or_data: An event, or data for a new one.
            inbox: One of the `inboxes` given to `drive`: it arrives there as if sent by an actor of that name. Any
                other name, or None: it is posted from outside.
            settles: Whether to wait for what comes of it, see `settle`.

        Returns:
            The event that was put.

        Raises:
            AssertionError: there was no room for 5 real seconds, or the actor does not come to rest.
            EventNotOwnedError: the event was sent already.
        """
        __tracebackhide__ = True
        event = event_or_data if isinstance(event_or_data, Event) else Event(event_or_data)
        with patience(f"room in the inbox of {self.actor.name!r}"):
            if inbox is not None and inbox in self._feeders:
                self._feeders[inbox].send_event(event)
            else:
                self.director.post(self.actor, event, inbox)
        if settles:
            self.settle()
        return event

    # ---- time -----------------------------------------------------------------------------------------------------

    def settle(self, timeout_s: float = PATIENCE_S) -> None:
        """Let others run until nothing can go on without time or a socket; waits for `offload` too.

        Raises:
            AssertionError: that took longer than `timeout_s` real seconds. The text shows all stacks.
        """
        __tracebackhide__ = True
        settle(timeout_s)
        with patience("what was offloaded to a thread", timeout_s):
            while self.clock.outside:
                gevent.sleep(LOOK_S)
                settle(timeout_s)

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass on the virtual clock, see `VirtualClock.advance`; then `settle`.

        Raises:
            UsageError: the clock is a real one.
        """
        __tracebackhide__ = True
        if not isinstance(self.clock, VirtualClock):
            raise UsageError("advance() moves a virtual clock, and this kit was given a real one: use wait_until()")
        self.clock.advance(seconds)
        self.settle()

    def stop(self, timeout_s: float = PATIENCE_S) -> StopReport:
        """Stop the Director now, and return its report; time jumps meanwhile."""
        return stop(self.director, timeout_s)

    # ---- what comes out -------------------------------------------------------------------------------------------

    def sent(self, outbox: str | None = None) -> list[Event]:
        """The events that came out of `outbox`, in order; None = of the only one.

        Raises:
            UsageError: there is no such outbox, or there are several and none is named.
        """
        return list(self._collector(outbox).events)

    def one(self, outbox: str | None = None) -> Event:
        """The event that came out of `outbox`.

        Raises:
            AssertionError: there is none, or more than one; `drive` adds what the actor did instead.
            UsageError: as `sent`.
        """
        __tracebackhide__ = True
        events = self.sent(outbox)
        if len(events) != 1:
            found = "".join(f"\n  {event!r}" for event in events) or " none"
            raise AssertionError(f"wanted is one event, and {self.actor!r} sent{found}")
        return events[0]

    @property
    def errors(self) -> list[Event]:
        """The events that failed and took the error outbox; each carries its `error`.

        A failure that the test never looks at, here or in `dead_letters`, fails it at the end.
        """
        events = self._failed
        self._n_errors_seen = len(events)
        return events

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """The actor's dead letters, oldest first."""
        found = list(self.director.dead_letters)
        self._n_letters_seen = len(found)
        return found[self._n_letters_cleared :]

    @property
    def kept(self) -> list[Event]:
        """The events that the actor keeps."""
        return list(self.actor._wired.kept.events.values())

    @property
    def delayed(self) -> list[Event]:
        """The events that wait aside for a retry."""
        return list(self.actor._wired.retrying.events.values())

    @property
    def state(self) -> ActorSnapshot:
        """What `Director.snapshot` says of the actor."""
        return self.director.snapshot().actors[self.actor.name]

    def clear(self) -> None:
        """Forget what has come out so far; failures count as looked at."""
        for collector in [*self.collectors.values(), *filter(None, [self._error_collector])]:
            collector.events.clear()
            collector.data.clear()
            collector.origins.clear()
        self._n_errors_seen = 0
        self._n_letters_seen = self._n_letters_cleared = len(self.director.dead_letters)

    def __str__(self) -> str:
        lines = [describe(self.director)]
        for event in self._failed:
            lines.append(f"  failed: {event!r}")
            if event.error is not None:
                lines += [f"    {line}" for line in event.error.traceback.splitlines()]
        return "\n".join(lines)

    @property
    def _failed(self) -> list[Event]:
        return list(self._error_collector.events) if self._error_collector is not None else []

    def _collector(self, outbox: str | None) -> Collector:
        if outbox is None and len(self.collectors) == 1:
            return next(iter(self.collectors.values()))
        if outbox is None:
            raise UsageError(f"say which outbox{suggestion('', self.collectors)}")
        if outbox not in self.collectors:
            raise UsageError(f"drive() was given no outbox {outbox!r}{suggestion(outbox, self.collectors)}")
        return self.collectors[outbox]

    def _has_failed(self, *, allow_left: bool = False) -> bool:
        """Whether there are failures that the test has not looked at."""
        n_letters = sum(1 for letter in self.director.dead_letters if letter.reason != STOPPED or not allow_left)
        return len(self._failed) > self._n_errors_seen or n_letters > self._n_letters_seen


@contextmanager
def drive(
    actor: type[ActorT] | ActorT,
    name: str | None = None,
    /,
    *args: Any,
    options: ActorOptions | Mapping[str, Any] | None = None,
    inboxes: Sequence[str] = (),
    outboxes: Sequence[str] = ("out",),
    error_outbox: bool = True,
    size: int = 500,
    allow_left: bool = False,
    clock: Clock | None = None,
    **kwargs: Any,
) -> Iterator[Kit[ActorT]]:
    """Run one actor alone: send to it, look at what comes out, move time.

    ::

        with drive(Shout, "shout", mark="!") as kit:
            kit.send("to be")
            assert kit.one().data == "TO BE!"

    At the end of the block it is stopped, time jumping, and checked as by `running`: the balance is even and nothing is
    left. A failure that the test never looked at fails it too.

    Args:
        actor: The class, built as ``actor(name, *args, **kwargs)``, or an instance. Give an instance if its constructor
            has arguments that are called as those below.
        name: Its name; by default the instance's, or the class's in lower case.
        args: For the constructor.
        options: As in `Director.register_actor`.
        inboxes: Actors in front of it, by name, which are also the names of its inboxes.
        outboxes: The outboxes behind each of which a `Collector` stands.
        error_outbox: Whether it has one, so that failed events are in `Kit.errors`; else they become dead letters.
        size: Capacity of every queue, in events.
        allow_left: Whether events may be left at the stop, such as those that it keeps.
        clock: By default a `VirtualClock`; give a real one to an actor whose life is sockets.
        kwargs: For the constructor.

    Raises:
        CompysitionError: the actor cannot be registered, or does not start.
        AssertionError: see above.
    """
    __tracebackhide__ = True
    if name is None:
        name = actor.name if isinstance(actor, Actor) else actor.__name__.lower()
    token = CLOCK.set(clock if clock is not None else VirtualClock())
    try:
        director = Director(size, f"drive {name}")
    finally:
        CLOCK.reset(token)
    instance = director.register_actor(actor, name, *args, options=options, **kwargs)
    feeders = {inbox: director.register_actor(Feeder, inbox) for inbox in inboxes}
    for feeder in feeders.values():
        director.connect_queue(feeder, instance)
    one_by_one = ActorOptions(concurrency=1)
    collectors = {
        outbox: director.register_actor(Collector, f"outbox {outbox}", options=one_by_one) for outbox in outboxes
    }
    for outbox, collector in collectors.items():
        director.connect_queue((instance, outbox), collector)
    errors = director.register_actor(Collector, "error outbox", options=one_by_one) if error_outbox else None
    if errors is not None:
        director.connect_queue_error(instance, errors)
    kit = Kit(director, instance, feeders, collectors, errors)
    with running(director, allow_left=allow_left):
        try:
            kit.settle()
            yield kit
        except Exception as error:
            error.add_note(str(kit))
            raise
    if kit._has_failed(allow_left=allow_left):
        raise AssertionError(
            f"{instance!r} failed, and the test looked at neither kit.errors nor kit.dead_letters\n{kit}"
        )
