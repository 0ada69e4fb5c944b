# SPDX-License-Identifier: Apache-2.0
"""`Director`: what scripts talk to. It registers actors, connects them, starts, asks, watches and stops them.

What runs is in `runtime`, and how it takes events from outside in `asking`. Actors do not know it. Read next: any file
in `actors`.
"""

import os
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from gevent import monkey

from compysition.actor import Actor, ActorOptions
from compysition.asking import Asking
from compysition.drain import StopReport
from compysition.errors import ConfigurationError, DirectorStateError, suggestion
from compysition.flow.pictures import FORMATS
from compysition.flow.values import Flow
from compysition.hosting import find_host
from compysition.ledger import Balance
from compysition.logger import get_logger
from compysition.logs import LogBridge
from compysition.queue import Overflow, Queue
from compysition.runtime import NEW, RUNNING, STOPPED
from compysition.setting_sources import SOURCES, Sources
from compysition.settings import Configured, Settings
from compysition.signals import Signals
from compysition.snapshot import Snapshot, key_of, look_at_actor, look_at_queue
from compysition.supervisor import ActorState, Intensity
from compysition.wiring import Endpoint, check_seconds

logger = get_logger("director")

ActorT = TypeVar("ActorT", bound=Actor)

#: Options of actors whose output people read in order: those for log records and for failed events.
IN_ORDER: Mapping[str, Any] = {"concurrency": 1}


class Director(Configured, Asking):
    """Wires actors and runs them.

    Constructing one has no effect outside the object. It belongs to the thread and process that starts it.

    Args:
        size: Capacity of every queue that names none, in events.
        name: For logs.
        max_restarts: Restarts of actors, all together, that are borne in `period_s`; beyond, the Director stops and the
            exit code is 3.
        period_s: Length of that period in seconds; an actor that was calm for so long has its backoff reset.
        stop_timeout_s: Seconds a stop may take before it kills; 25, because supervisors of processes commonly wait 30.
    """

    def __init__(
        self,
        size: int = 500,
        name: str = "default",
        *,
        max_restarts: int = 5,
        period_s: float = 60.0,
        stop_timeout_s: float = 25.0,
    ) -> None:
        if not isinstance(max_restarts, int) or max_restarts < 0:
            raise ConfigurationError(f"max_restarts is {max_restarts!r}: wanted is a number from 0 on")
        if check_seconds(period_s, "period_s") == 0:
            raise ConfigurationError("period_s is 0: wanted is a number of seconds above 0")
        stop_timeout_s = check_seconds(stop_timeout_s, "stop_timeout_s")
        super().__init__(size, name, Intensity(max_restarts, period_s), stop_timeout_s)
        self._sources = SOURCES.get() or Sources()
        self._settings = Settings(self._sources)

    def __repr__(self) -> str:
        return f"<Director {self.name!r} {self._state}, {len(self._wiring.members)} actors>"

    # ---- registering and connecting -----------------------------------------------------------------------------

    def register_actor(
        self,
        actor: type[ActorT] | ActorT,
        name: str,
        *args: Any,
        options: ActorOptions | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> ActorT:
        """Add an actor: a class, which is built as ``cls(name, *args, **kwargs)``, or an instance of that name.

        Args:
            actor: The class or instance.
            name: Unique within this Director.
            args: For the constructor, right after `name`.
            options: Overrides the class attribute `options`; a mapping says only what differs.
            kwargs: For the constructor.

        Returns:
            The instance.

        Raises:
            RegistrationError: the name is taken, the constructor raised, or an option does not exist.
            DirectorStateError: the Director is running.
            CompysitionError: what the constructor raised itself, such as `StylesheetError`.
        """
        self._check_not_running("register an actor")
        member = self._wiring.register(actor, name, args, kwargs, options)
        return member.actor  # type: ignore[return-value]

    def register_log_actor(
        self,
        actor: type[ActorT] | ActorT,
        name: str,
        *args: Any,
        options: ActorOptions | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> ActorT:
        """Add an actor that gets every log record under ``compysition`` as an event.

        `event.data` is a dict of plain data, `LogEntry`, whose text is one readable line. The handler is installed here
        and removed when the Director has stopped. Records are handled one by one, in their order, unless the options
        say otherwise. Arguments and errors: as `register_actor`.
        """
        self._check_not_running("register an actor")
        member = self._wiring.register(actor, name, args, kwargs, options, defaults=IN_ORDER)
        self._wiring.log_actors.append(member)
        queue = self._wiring.outside_queue(member, "log")
        bridge = self._bridges[name] = LogBridge(member.cell, queue, self._log_ledger)
        bridge.install()
        self._services.spawn(bridge.feed, name=f"log feeder of {name!r}")
        return member.actor  # type: ignore[return-value]

    def register_error_actor(
        self,
        actor: type[ActorT] | ActorT,
        name: str,
        *args: Any,
        options: ActorOptions | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> ActorT:
        """Add the actor to which failed events go whose actor has no error outbox.

        Its own failures go to the dead letters only. Events are handled one by one, in their order, unless the options
        say otherwise. Arguments and errors: as `register_actor`.

        Raises:
            ConfigurationError: there is an error actor already.
        """
        if self._wiring.error_actor is not None:
            raise ConfigurationError(f"{self._wiring.error_actor.name!r} is the error actor already: there can be one")
        self._check_not_running("register an actor")
        member = self._wiring.error_actor = self._wiring.register(actor, name, args, kwargs, options, defaults=IN_ORDER)
        return member.actor  # type: ignore[return-value]

    def connect_queue(
        self,
        source: Endpoint,
        destinations: Endpoint | Iterable[Endpoint],
        *,
        capacity: int | None = None,
        overflow: str | Overflow = Overflow.WAIT,
    ) -> None:
        """Connect an outbox of `source` to an inbox of each destination; each connection gets its own queue.

        An outbox is called after its destination and an inbox after its source, unless a side is given as
        ``(actor, "queue_name")``.

        Args:
            source: An actor, its name, or ``(actor, "outbox")``.
            destinations: One or a list of: an actor, its name, or ``(actor, "inbox")``.
            capacity: In events; by default the Director's `size`.
            overflow: What a full queue does: ``wait``, ``drop_newest``, ``drop_oldest`` or ``fail``.

        Raises:
            ActorNotFoundError: a name is not registered.
            ConnectionTypeError: a side is none of the above.
            QueueConnectedError: this outbox and this inbox are connected already.
            ConfigurationError: `capacity` or `overflow` make no sense.
            DirectorStateError: the Director is running.
        """
        self._check_not_running("connect actors")
        self._wiring.connect(source, destinations, capacity=capacity, overflow=overflow, is_error=False)

    def connect_queue_error(
        self,
        source: Endpoint,
        destinations: Endpoint | Iterable[Endpoint],
        *,
        capacity: int | None = None,
        overflow: str | Overflow = Overflow.WAIT,
    ) -> None:
        """Connect an error outbox of `source`: where its failed events go. As `connect_queue` otherwise."""
        self._check_not_running("connect actors")
        self._wiring.connect(source, destinations, capacity=capacity, overflow=overflow, is_error=True)

    #: Released scripts used this name.
    connect_error_queue = connect_queue_error

    def get_actor(self, name: str) -> Actor:
        """The actor called `name`.

        Raises:
            ActorNotFoundError: there is none.
        """
        return self._wiring.find(name).actor

    # ---- running ------------------------------------------------------------------------------------------------

    def start(self, block: bool = True, until_idle: bool = False) -> StopReport | None:
        """Start all actors, sinks first and doors last, and go on when all are ready.

        Args:
            block: Install signal handlers and wait until the Director has stopped. Otherwise return None at once.
            until_idle: Stop when all finite sources have ended and nothing is queued, in hand, delayed or kept.

        Returns:
            The report of the stop, if `block`; also where a signal or `request_stop` came before all were ready.

        Raises:
            StartError: an actor did not become ready, or without `block` a stop was asked for before; those started are
                stopped again. Its `report` has exit code 2.
            DirectorStateError: it is running already.
            SettingError: the command line gave a setting that the script does not ask for.
        """
        self._check_process()
        if self._state not in (NEW, STOPPED):
            raise DirectorStateError(f"Director {self.name!r} is {self._state} already")
        self._sources.check_flags()
        for line in self._sources.unused():
            logger.warning("%s", line)
        host = find_host()
        if host is not None:
            hosted = host.start(self)
            if hosted is not None:
                return hosted
        if self._state == STOPPED:
            # Whoever asked for a stop after the last one had ended meant that one.
            self._stop_reason = None
        signals = self._signals()
        if block:
            signals.install()
        try:
            if not self._start_members(is_stop_an_end=block):
                return self._report
            if until_idle:
                self._services.spawn(self._stop_when_idle, restart=False, name="until idle")
            if host is not None:
                host.ready(self)
            return self.block() if block else None
        finally:
            if block:
                signals.remove()

    def stop(self, timeout_s: float | None = None) -> StopReport:
        """Stop: close intake, drain upstream first, run the hooks; wait until it is done.

        Args:
            timeout_s: Seconds until what is left is killed; by default `stop_timeout_s`.

        Raises:
            WrongContextError: called from an actor's greenlet, a hub callback or another thread; `request_stop` works
                there.
            DirectorStateError: it was never started.
        """
        self._check_may_wait("stop")
        if self._report is not None and self._state == STOPPED:
            return self._report
        if self._state == NEW:
            raise DirectorStateError(f"Director {self.name!r} was not started")
        self._stop_timeout_s = None if timeout_s is None else check_seconds(timeout_s, "timeout_s")
        self.request_stop("stop() was called")
        return self.block()

    def block_with_signals(self) -> StopReport:
        """As `block`, with the signal handlers of a blocking `start`: for hosts of scripts that have started it."""
        signals = self._signals()
        signals.install()
        try:
            return self.block()
        finally:
            signals.remove()

    def _signals(self) -> Signals:
        actors = [member.actor for member in self._wiring.members.values()]
        reopened = [actor for actor in actors if type(actor)._reopen is not Actor._reopen]

        def reopen() -> None:
            for actor in reopened:
                actor._reopen()

        return Signals(
            on_stop=self.request_stop,
            report=self._report_so_far,
            stacks=self.stacks,
            on_reopen=reopen if reopened else None,
        )

    @property
    def last_report(self) -> StopReport | None:
        """The report of the newest stop; None before the first, and while it runs again."""
        return self._report

    def __enter__(self) -> Self:
        self.start(block=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._state != STOPPED:
            self.stop()

    # ---- looking ------------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """One look at everything, as plain values. Safe from other threads, which wait for the hub's next turn."""
        if self._state in (NEW, STOPPED) or self._is_own_thread() or os.getpid() != self._pid:
            return self._look()
        done = monkey.get_original("threading", "Event")()
        found: list[Snapshot] = []

        def look() -> None:
            found.append(self._look())
            done.set()

        self._hub.loop.run_callback_threadsafe(look)
        while not done.wait(0.1):
            if self._state == STOPPED:
                return self._look()
        return found[0]

    def doors(self) -> list[str]:
        """One line for each way in from outside."""
        lines = [member.actor._door() for member in self._wiring.members.values()]
        return [line for line in lines if line is not None]

    def flow(self) -> Flow:
        """What is registered and connected, as values; the same before the start and later."""
        return self._wiring.flow(self.name)

    def graph(self, format: str = "mermaid") -> str:  # noqa: A002  # the word of the command line
        """A picture of the flow as text, what ``compysition graph`` prints: doors, connections, error wires, rings.

        Args:
            format: ``mermaid`` or ``dot``.

        Raises:
            ConfigurationError: there is no such format.
        """
        if format not in FORMATS:
            raise ConfigurationError(f"there is no picture format {format!r}{suggestion(str(format), FORMATS)}")
        return FORMATS[format](self.flow())

    # ---- small things ---------------------------------------------------------------------------------------------

    def _look(self) -> Snapshot:
        queues = [queue for member in self._wiring.members.values() for queue in member.cell.inboxes]
        by_source: dict[str, list[Queue]] = {}
        for queue in queues:
            by_source.setdefault(queue.source, []).append(queue)
        balance, logs = self._balances()
        return Snapshot(
            state=self._state,
            actors={
                name: look_at_actor(member, by_source.get(name, ())) for name, member in self._wiring.members.items()
            },
            queues={key_of(queue): look_at_queue(queue) for queue in queues},
            balance=balance,
            logs=logs,
        )

    def _balances(self) -> tuple[Balance, Balance]:
        cells = [member.cell for member in self._wiring.members.values()]
        held = self.dispatcher.held_in_hands()
        for cell in cells:
            held += [*cell.kept.events.values(), *cell.retrying.events.values()]
            for queue in cell.inboxes:
                held += [*queue.items, *(waiter.event for waiter in queue.waiting if waiter.event is not None)]
        logs = sum(1 for event in held if event._ledger is self._log_ledger)
        return self.ledger.balance(len(held) - logs), self._log_ledger.balance(logs)

    def _check_not_running(self, what: str) -> None:
        if self._state not in (NEW, STOPPED):
            raise DirectorStateError(f"Director {self.name!r} is {self._state}: {what} before start")

    def _stop_when_idle(self) -> None:
        members = [member for member in self._order if member not in self._wiring.log_actors]

        def is_idle() -> bool:
            return self._state != RUNNING or all(
                member.cell.is_quiet()
                and not member.pool.is_alive()
                and member.state is ActorState.RUNNING
                and member.actor._door() is None
                for member in members
            )

        while not self.dispatcher.wait_until(is_idle, 3600.0):
            pass
        self.request_stop("everything is done")
