# SPDX-License-Identifier: Apache-2.0
"""`Actor`: what users subclass. Its runtime half is a `Cell`; the greenlets that call it are the dispatcher's.

Every name in `Actor` that is not part of the API begins with ``_``, so that a user's attributes cannot collide.
Must not know the Director, only what `ActorHost` says. Read next: `supervisor`, which restarts actors.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from contextvars import Context
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Protocol, TypeVar, cast

from compysition.cell import Cell
from compysition.deadlines import DeadlineWheel
from compysition.dispatch import present_hand
from compysition.errors import ConfigurationError, DirectorStateError, RegistrationError, UsageError, suggestion
from compysition.event import Event
from compysition.logger import RuntimeLogger, get_logger
from compysition.parking import Parking, wait_until
from compysition.queue import Queue
from compysition.readiness import PAUSED, RESTARTING, Host
from compysition.restartlet import RestartableGreenlet, RestartPool

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class ActorOptions:
    """How an actor is run.

    Attributes:
        concurrency: How many of its handlers may run at once. 1 keeps the order of events; the default lets handlers
            that wait for something not stop the others.
        max_retries: How often one event may be given back by `Retry`.
        grace_s: How long running handlers get to end before a restart kills them, in seconds.
        start_timeout_s: How long `pre_hook` may take, in seconds; 30, because it may have to reach other services.
        fresh_context: Give each handler call an empty `contextvars` context. Handlers share greenlets: without this
            one event sees what the one before has left there.
        max_kept: How many events it may keep at once (`Actor.keep`); beyond, `keep` raises `KeptFullError`. Far more
            than an actor has use for that sends on what it keeps, and soon reached by one that forgets to.
        once: In one worker process only, where a server runs several; for sources and brokers.
        ends_flow: Requests may end here without an answer, on purpose: ``compysition check`` asks for no way back.
    """

    concurrency: int = 100
    max_retries: int = 3
    grace_s: float = 5.0
    start_timeout_s: float = 30.0
    fresh_context: bool = False
    max_kept: int = 10_000
    once: bool = False
    ends_flow: bool = False

    def __post_init__(self) -> None:
        for name, least in (("concurrency", 1), ("max_retries", 0), ("max_kept", 1)):
            number = getattr(self, name)
            if not isinstance(number, int) or isinstance(number, bool) or number < least:
                raise ConfigurationError(f"option {name!r} is {number!r}: it has to be a number from {least} on")
        for name in ("grace_s", "start_timeout_s"):
            seconds = getattr(self, name)
            if not isinstance(seconds, int | float) or isinstance(seconds, bool) or not 0 <= seconds < math.inf:
                raise ConfigurationError(f"option {name!r} is {seconds!r}: it has to be a number of seconds from 0 on")
        for name in ("fresh_context", "once", "ends_flow"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigurationError(f"option {name!r} is {getattr(self, name)!r}: it has to be True or False")

    @classmethod
    def of(cls, *layers: "ActorOptions | Mapping[str, Any] | None") -> "ActorOptions":
        """Options from several layers, the later one winning. A mapping says only what differs.

        Raises:
            ConfigurationError: a mapping names an option that does not exist.
        """
        options = cls()
        known = [field.name for field in fields(cls)]
        for layer in layers:
            if isinstance(layer, ActorOptions):
                options = layer
            elif layer is not None:
                if not isinstance(layer, Mapping):
                    raise ConfigurationError(f"options are {layer!r}: wanted is an ActorOptions or a mapping")
                for name in layer:
                    if name not in known:
                        raise ConfigurationError(f"there is no option {name!r}{suggestion(name, known)}")
                options = replace(options, **layer)
        return options


class ActorHost(Host, Protocol):
    """What an actor's tools need from whoever runs it."""

    deadlines: DeadlineWheel

    @property
    def is_stopping(self) -> bool:
        """Whether intake is closed."""

    def offload(self, function: Callable[..., Any], args: tuple[Any, ...], timeout_s: float | None) -> Any:
        """Run a blocking function on a thread and wait for it."""


class Actor:
    """A part of a flow: it is given events, one call of `consume` each, and sends events on.

    Args:
        name: Its name; unique within a Director.
        blocking_consume: The old spelling of ``concurrency=1``.

    A subclass with arguments takes them right after `name` and hands the rest on::

        class Multiply(Actor):
            def __init__(self, name, factor, **kwargs):
                super().__init__(name, **kwargs)
                self.factor = factor

            def consume(self, event):
                event.data *= self.factor
                self.send_event(event)
    """

    #: Options of the class; `Director.register_actor(…, options=…)` overrides them.
    options: ClassVar[ActorOptions | Mapping[str, Any]] = ActorOptions()
    #: Whether its inbox never feeds its own outboxes and its `consume` never waits: it takes answers, such as `WSGI`.
    #: A circle that closes here is none, and it is stopped last.
    answers: ClassVar[bool] = False
    #: Whether what leaves its outboxes are requests, each of which wants an answer in its inbox, as with `WSGI`.
    _is_door: ClassVar[bool] = False
    #: Whether flows end here by its nature, as in `Null`; nobody misses a way on.
    _is_end: ClassVar[bool] = False

    def __init__(self, name: str, *, blocking_consume: bool = False) -> None:
        self.name = name
        #: A logger under ``compysition.actor``; its records carry the actor's name.
        self.logger = get_logger(f"actor.{name}", actor=name)
        self._blocking_consume = blocking_consume
        self._cell: Cell | None = None
        self._host: ActorHost | None = None
        self._sleeping: set[Parking] = set()
        self._early: list[tuple[Callable[..., Any], tuple[Any, ...], bool]] = []
        self._pool: RestartPool | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {getattr(self, 'name', '?')!r}>"

    # ---- what a subclass writes ---------------------------------------------------------------------------------

    def consume(self, event: Event) -> None:
        """Handle one event.

        Runs in a consumer greenlet, `options.concurrency` of them at once. It may wait cooperatively; what blocks the
        thread belongs into `offload`. An exception fails the event, which takes the error outboxes or becomes a dead
        letter; the actor goes on. Returning without sending or keeping the event ends it as `delivered`.

        Parameters named ``origin`` (the sender's name) and ``origin_queue`` (the inbox's name) are filled if the
        signature has them.
        """
        self.send_event(event)

    def pre_hook(self) -> None:
        """Make ready: connect, read, start background greenlets.

        Runs in a greenlet of its own, before the first event and again after each restart. It may wait, up to
        `options.start_timeout_s`. If it raises, `Director.start` fails, or a restart is tried again.
        """

    def post_hook(self) -> None:
        """Clean up what `pre_hook` made.

        Runs in a greenlet of its own, after the last event and before each restart. It may wait, up to
        `options.grace_s`. If it raises, that is logged, and the stop goes on.
        """

    def on_drain(self) -> None:
        """Send what was kept: nothing else is left, and nothing more will come.

        Runs in a greenlet of its own while the Director stops, once whenever only kept events are left. It may wait
        for room. If it raises, that is logged; what is kept at the deadline becomes dead letters.
        """

    def _close_intake(self) -> None:
        """Refuse what comes from outside; called as the first step of a stop. Must not wait."""

    def _on_flow_drained(self) -> None:
        """During a stop: everything has drained but the actors that answer. Must not wait."""

    def _reopen(self) -> None:
        """Open files anew, soon: they were moved away. Called in a signal handler; must not wait."""

    def _is_answering(self) -> bool:
        """For actors that answer: whether a request is still open."""
        return False

    def _abort(self) -> int:
        """The stop's deadline has come: end whatever is still open, and return how many. Must not wait."""
        return 0

    def _door(self) -> str | None:
        """One line that says how to reach this actor from outside; None for actors without a door."""
        return None

    def _listens_on(self) -> tuple[str, ...]:
        """The URLs on which this actor listens once it is started, known before; () for those that do not."""
        return ()

    # ---- tools ----------------------------------------------------------------------------------------------------

    def send_event(self, event: Event, queues: str | Iterable[str] | None = None) -> None:
        """Send `event` on, to all outboxes or to those named in `queues`.

        To several it goes as copies, the event itself last. Without any outbox it ends as `delivered`. Waits for room
        where a connection's policy is `wait`; woken by whoever takes from that queue, or by the Director's stop.

        Raises:
            EventNotOwnedError: it was sent already, ended, or is somebody else's; send a copy.
            NotAnEventError: it is no event.
            OutboxNotFoundError: `queues` names an outbox that this actor does not have.
            QueueFullError: the only connection is full and its policy is `fail`, or a ring multiplies its events.
            DirectorStoppedError: the Director stopped while this waited for room.
        """
        self._wired.send(event, queues)

    def send_error(self, event: Event) -> None:
        """Send `event` to the error outboxes, else to the error actor, else to the dead letters.

        `event.error` may be an exception, which is then recorded; without one the record says who sent it.

        Raises:
            EventNotOwnedError, NotAnEventError: as `send_event`.
        """
        self._wired.send_error(event)

    def create_event(self, data: Any = None, parent: Event | None = None) -> Event:
        """A fresh event that belongs to the request of `parent`, by default of the event in this handler's hand.

        It inherits `meta_id`, service and whoever waits for an answer; outside a handler and without `parent` it
        inherits nothing.
        """
        if parent is None:
            hand = present_hand()
            if hand is not None and hand.sender is self._cell:
                parent = hand.event
        return Event(data) if parent is None else parent._derive(data)

    def keep(self, event: Event) -> None:
        """Hold `event` after the handler has returned, to send it later.

        Kept events count as held; a stop waits for them, offers `on_drain`, and reports what is left.

        Raises:
            EventNotOwnedError: the event is not in this actor's hand.
            KeptFullError: the actor keeps `options.max_kept` events already; this one stays in hand.
        """
        self._wired.keep(event)

    def background(self, function: Callable[..., Any], *args: Any, restart: bool = True) -> RestartableGreenlet | None:
        """Run ``function(*args)`` in a supervised greenlet.

        If an exception leaves it, or it is killed, the actor is restarted and it is run again, unless `restart` is
        False. A function that returns is finished: an actor whose background greenlets have all returned is a finite
        source. In the constructor it is only remembered, and None is returned.
        """
        if not callable(function):
            raise UsageError(f"background() of {self.name!r} was given {function!r}: wanted is a function")
        if self._pool is None:
            self._early.append((function, args, restart))
            return None
        return self._pool.spawn(function, *args, restart=restart)

    @property
    def threads(self) -> "Threads":
        """The old way to `background`: ``self.threads.spawn(function, *args)``."""
        return Threads(self)

    def sleep(self, seconds: float) -> bool:
        """Wait, at most until the Director stops or this actor restarts. Returns whether to go on, as `loop`."""
        wait_until(lambda: not self.loop(), clock=self._hosted.clock, timeout_s=seconds, places=self._sleeping)
        return self.loop()

    def loop(self) -> bool:
        """True until the Director stops or this actor restarts: ``while self.loop(): …`` in a background greenlet."""
        return not (self._hosted.is_stopping or self._wired.shut & RESTARTING)

    def offload(self, function: Callable[..., ResultT], *args: Any, timeout_s: float | None = None) -> ResultT:
        """Run ``function(*args)``, which blocks its thread, on a bounded pool of threads, and wait for it.

        Waits cooperatively, also for a free thread; woken by the function's end, or after `timeout_s` seconds; a
        function that takes longer goes on in its thread, and its result is lost.

        Raises:
            HandlerTimeoutError: `timeout_s` is over.
            ConfigurationError: `timeout_s` is no number of seconds.
            Exception: whatever `function` raises.
        """
        result: ResultT = self._hosted.offload(function, args, timeout_s)
        return result

    def pause(self) -> None:
        """Take nothing from the inboxes until `resume`; handlers that run go on.

        It may be called before the start. It ends when the Director has stopped.
        """
        self._wired.close(PAUSED)

    def resume(self) -> None:
        """Take events again."""
        self._wired.open(PAUSED)

    @property
    def inbox_depth(self) -> int:
        """Events in the inboxes, with those of waiting senders."""
        return self._wired.depth

    # ---- for the Director -------------------------------------------------------------------------------------------

    def _attach(self, host: ActorHost, cell: Cell, pool: RestartPool) -> None:
        """Become part of `host`: from now on the tools work."""
        self._host = host
        self._cell = cell
        self._pool = pool
        if isinstance(self.logger, RuntimeLogger):
            self.logger = cell.logger = self.logger.of(host)
        cell.on_wired = self._bind
        for function, args, restart in self._early:
            pool.spawn(function, *args, restart=restart)
        self._early.clear()
        self._bind()

    def _check_consume(self) -> None:
        """Refuse a `consume` that could never handle an event.

        Raises:
            RegistrationError: it is a generator, a coroutine, or cannot be called with one event.
        """
        consume = self.consume
        what = f"{type(self).__name__}.consume"
        if inspect.isgeneratorfunction(consume) or inspect.iscoroutinefunction(consume):
            kind = "a generator" if inspect.isgeneratorfunction(consume) else "a coroutine"
            raise RegistrationError(
                f"{what} of actor {self.name!r} is {kind}: make it a plain method; it may just wait"
            )
        try:
            inspect.signature(consume).bind(None)
        except TypeError as error:
            # Its further arguments may be filled in by name, see `_handler`.
            names = {"origin", "origin_queue"}
            required = [
                parameter.name
                for parameter in inspect.signature(consume).parameters.values()
                if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
            ]
            if len(required) == 0 or set(required[1:]) - names:
                raise RegistrationError(
                    f"{what} of actor {self.name!r} cannot be called with an event: {error}"
                ) from None
        except ValueError:
            return  # an extension type that tells no signature

    def _bind(self) -> None:
        """Bind `send_event` to what is connected, unless a subclass has its own."""
        if type(self).send_event is Actor.send_event:
            # Not through `__dict__`: an instance whose dict was touched has slower attributes.
            setattr(self, "send_event", self._wired.bound_send())  # noqa: B010 - mypy knows a method there

    def _wake_sleepers(self) -> None:
        for place in tuple(self._sleeping):
            place.wake()

    def _handler(self, queue: Queue, options: ActorOptions) -> Callable[[Event], Any]:
        """What the consumer calls for an event of `queue`: `consume`, with its origin filled in if it takes that."""
        consume = cast("Callable[..., Any]", self.consume)
        try:
            parameters = inspect.signature(consume).parameters.values()
        except (TypeError, ValueError):  # a builtin or an extension type that tells no signature
            parameters = ()  # type: ignore[assignment]
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        names = {parameter.name for parameter in parameters}
        constants = {"origin": queue.source, "origin_queue": queue.inbox}
        origin = {name: value for name, value in constants.items() if takes_any or name in names}
        if options.fresh_context:
            return lambda event: Context().run(consume, event, **origin)
        if origin:
            return lambda event: consume(event, **origin)
        return consume

    @property
    def _wired(self) -> Cell:
        if self._cell is None:
            raise DirectorStateError(
                f"actor {getattr(self, 'name', '?')!r} is not registered yet: this works from pre_hook on"
            )
        return self._cell

    @property
    def _hosted(self) -> ActorHost:
        if self._host is None:
            raise DirectorStateError(f"actor {self.name!r} is not registered yet: this works from pre_hook on")
        return self._host


class Threads:
    """What `Actor.threads` gives: the old spelling of `Actor.background`."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor

    def spawn(self, function: Callable[..., Any], *args: Any, restart: bool = True) -> RestartableGreenlet | None:
        """As `Actor.background`."""
        return self._actor.background(function, *args, restart=restart)
