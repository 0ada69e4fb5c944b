# SPDX-License-Identifier: Apache-2.0
"""Registering and connecting: who is there, and which queue leads where.

The first half of a Director's work, before anything runs. Must not know the Director. Read next: `director`.
"""

import inspect
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from compysition.actor import Actor, ActorHost, ActorOptions
from compysition.cell import Cell
from compysition.errors import (
    ActorNotFoundError,
    CompysitionError,
    ConfigurationError,
    ConnectionTypeError,
    QueueConnectedError,
    RegistrationError,
    suggestion,
)
from compysition.flow.values import Flow, FlowActor, FlowConnection, Place, caller
from compysition.graph import find_rings, out_queues, reachable
from compysition.ledger import Ledger
from compysition.queue import Overflow, Queue
from compysition.restartlet import RestartPool
from compysition.ring import Ring
from compysition.supervisor import Member

#: One side of a connection: an actor, its name, or either with the name of a queue.
Endpoint = Actor | str | tuple[Actor | str, str]


class Wiring:
    """The actors and connections of one Director.

    Args:
        host: What actors are attached to.
        ledger: For events.
        log_ledger: For log records.
        size: Capacity of queues that name none.
        make_pool: Makes the pool of an actor's background greenlets.
    """

    def __init__(
        self,
        host: ActorHost,
        ledger: Ledger,
        log_ledger: Ledger,
        size: int,
        make_pool: Callable[[Cell], RestartPool],
    ) -> None:
        self._host = host
        self._ledger = ledger
        self._log_ledger = log_ledger
        self._size = check_capacity(size, "size")
        self._make_pool = make_pool
        self.members: dict[str, Member] = {}
        self.log_actors: list[Member] = []
        self.error_actor: Member | None = None
        self.rings: list[Ring] = []
        #: Where the script registered an actor, by its name, and made a connection.
        self._places: dict[str | Queue, Place | None] = {}
        #: Connections to the error actor that nobody asked for; made anew at each start.
        self._implicit: list[tuple[Member, Queue]] = []

    # ---- actors -------------------------------------------------------------------------------------------------

    def register(
        self,
        actor: type[Actor] | Actor,
        name: str,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        options: ActorOptions | Mapping[str, Any] | None,
        *,
        defaults: Mapping[str, Any] | None = None,
    ) -> Member:
        """Build the actor if a class is given, and add it. `defaults` are options that its class may override.

        Raises:
            RegistrationError: see `Director.register_actor`.
        """
        if not isinstance(name, str) or not name:
            raise RegistrationError(f"an actor's name has to be text that is not empty, not {name!r}")
        if name in self.members:
            other = type(self.members[name].actor).__name__
            raise RegistrationError(f"the name {name!r} is taken by a {other} already: give each actor its own name")
        if isinstance(actor, Actor):
            if args or kwargs:
                raise RegistrationError(f"{name!r} is registered as an instance: arguments belong to its constructor")
            if getattr(actor, "name", None) != name:
                raise RegistrationError(
                    f"the instance is called {getattr(actor, 'name', None)!r} and cannot be registered as {name!r}"
                )
            if actor._cell is not None:
                raise RegistrationError(f"the instance {name!r} is registered with a Director already")
        else:
            actor = _build(actor, name, args, kwargs)
        actor._check_consume()
        try:
            # A mapping says only what differs, from the class above it too.
            declared = [cls.__dict__["options"] for cls in reversed(type(actor).__mro__) if "options" in cls.__dict__]
            # The first are those of `Actor` itself.
            chosen = ActorOptions.of(declared[0], defaults, *declared[1:], options)
            if actor._blocking_consume:
                chosen = ActorOptions.of(chosen, {"concurrency": 1})
        except ConfigurationError as error:
            raise RegistrationError(f"actor {name!r} cannot be registered: {error}") from error
        cell = Cell(
            name,
            self._host,
            self._ledger,
            concurrency=chosen.concurrency,
            max_retries=chosen.max_retries,
            max_kept=chosen.max_kept,
            answers=actor.answers,
            logger=actor.logger,
        )
        member = Member(actor, cell, self._make_pool(cell), chosen)
        self.members[name] = member
        self._places[name] = caller()
        actor._attach(self._host, cell, member.pool)
        return member

    def find(self, actor: object) -> Member:
        """The member for an actor or its name.

        Raises:
            ActorNotFoundError: there is none here.
            ConnectionTypeError: it is neither an actor nor a name.
        """
        name = actor if isinstance(actor, str) else getattr(actor, "name", None)
        if not isinstance(actor, str | Actor):
            raise ConnectionTypeError(
                f"{actor!r} is a {type(actor).__name__}: wanted is an actor, its name, or (actor, 'queue name')"
            )
        member = self.members.get(name) if isinstance(name, str) else None
        if member is None or (isinstance(actor, Actor) and member.actor is not actor):
            if isinstance(actor, Actor) and member is not None:
                raise ActorNotFoundError(f"{actor!r} belongs to another Director; this one has its own {name!r}")
            raise ActorNotFoundError(f"there is no actor {name!r}{suggestion(str(name), self.members)}")
        return member

    # ---- connections --------------------------------------------------------------------------------------------

    def connect(
        self,
        source: Endpoint,
        destinations: Endpoint | Iterable[Endpoint],
        *,
        capacity: int | None,
        overflow: str | Overflow,
        is_error: bool,
    ) -> None:
        """Connect `source` to each of `destinations`; all of them or, if one is wrong, none."""
        policy = _policy(overflow)
        size = self._size if capacity is None else check_capacity(capacity, "capacity")
        sender, outbox = self._endpoint(source)
        if is_error and sender is self.error_actor:
            raise ConfigurationError(
                f"{sender.name!r} is the error actor: its own failures go to the dead letters, never on"
            )
        # They are made anew at the next start, and must not stand in the way of a connection that somebody asks for.
        self._disconnect_implicit()
        made: list[Queue] = []
        for destination in self._several(destinations):
            receiver, inbox = self._endpoint(destination)
            queue = Queue(
                sender.name,
                outbox or receiver.name,
                receiver.cell,
                inbox or sender.name,
                capacity=size,
                overflow=policy,
                is_error=is_error,
            )
            boxes = sender.cell.error_outboxes if is_error else sender.cell.outboxes
            for other in [*boxes.get(queue.outbox, ()), *(q for q in made if q.outbox == queue.outbox)]:
                if other.cell is queue.cell and other.inbox == queue.inbox:
                    kind = "error outbox" if is_error else "outbox"
                    raise QueueConnectedError(
                        f"{kind} {queue.outbox!r} of {sender.name!r} is connected to inbox {queue.inbox!r} of "
                        f"{receiver.name!r} already: name another outbox or inbox, as in ({receiver.name!r}, 'name')"
                    )
            made.append(queue)
        place = caller()
        for queue in made:
            self._places[queue] = place
            self._add(sender, queue)

    def outside_queue(self, member: Member, inbox: str) -> Queue:
        """The queue through which events come that are posted to `inbox` from outside; made when first asked for."""
        for queue in member.cell.inboxes:
            if queue.source == "" and queue.inbox == inbox:
                return queue
        queue = Queue("", "", member.cell, inbox, capacity=self._size)
        self._bind(member, queue)
        member.cell.inboxes.append(queue)
        member.cell.find_only_inbox()
        return queue

    def complete(self) -> None:
        """What can only be said when everything is registered and connected: called at every start."""
        self._connect_to_error_actor()
        log_cells = self.log_plane()
        for member in self.members.values():
            member.cell.ledger = self._log_ledger if member.cell in log_cells else self._ledger
        self.rings = find_rings([member.cell for member in self.members.values()], self.is_cut)
        for member in self.members.values():
            for queue in member.cell.inboxes:
                self._bind(member, queue)
            member.cell.find_only_inbox()
            member.cell.on_wired()
            _warn_of_missing_consume(member)

    def _disconnect_implicit(self) -> None:
        for member, queue in self._implicit:
            del member.cell.error_outboxes[queue.outbox], self._places[queue]
            self.members[queue.cell.name].cell.inboxes.remove(queue)
        self._implicit.clear()

    def _connect_to_error_actor(self) -> None:
        self._disconnect_implicit()
        if self.error_actor is None:
            return
        made = []
        for member in self.flow_members():
            if member is not self.error_actor and not member.cell.error_outboxes:
                self.connect(member.actor, self.error_actor.actor, capacity=None, overflow=Overflow.WAIT, is_error=True)
                made.append((member, self.error_actor.cell.inboxes[-1]))
        self._implicit = made

    def flow(self, name: str) -> Flow:
        """What is registered and connected, as values; the same before the start and later."""
        implicit = {queue for _, queue in self._implicit}
        members = self.members.values()
        return Flow(
            name,
            self._size,
            tuple(self._flow_actor(member) for member in members),
            tuple(
                FlowConnection(
                    queue.source,
                    queue.outbox,
                    queue.cell.name,
                    queue.inbox,
                    queue.capacity,
                    queue.overflow.value,
                    queue.is_error,
                    self._places[queue],
                )
                for member in members
                for queue in out_queues(member.cell)
                if queue not in implicit
            ),
        )

    def _flow_actor(self, member: Member) -> FlowActor:
        actor, is_log_actor = member.actor, member in self.log_actors
        return FlowActor(
            member.name,
            type(actor).__name__,
            is_door=actor._is_door,
            is_cut=actor.answers,
            is_log_actor=is_log_actor,
            is_error_actor=member is self.error_actor,
            is_end=actor._is_end,
            ends_flow=member.options.ends_flow,
            is_posted_to=not is_log_actor and any(queue.source == "" for queue in member.cell.inboxes),
            listens=actor._listens_on(),
            place=self._places[member.name],
        )

    def log_plane(self) -> set[Cell]:
        """The cells of log actors, and of actors that only they feed."""
        if not self.log_actors:
            return set()
        roots = {member.cell for member in self.log_actors}
        fed_by_flow = reachable(
            member.cell
            for member in self.members.values()
            if member.cell not in roots and not self._is_fed_by(member.cell, roots)
        )
        return {cell for cell in reachable(roots) if cell in roots or cell not in fed_by_flow}

    def flow_members(self) -> list[Member]:
        """All members but the log actors."""
        return [member for member in self.members.values() if member not in self.log_actors]

    def is_cut(self, cell: Cell) -> bool:
        """Whether circles do not go through this actor: its inbox does not feed its outboxes."""
        return self.members[cell.name].actor.answers

    def _is_fed_by(self, cell: Cell, roots: set[Cell]) -> bool:
        return cell in reachable(roots) and any(queue.source for queue in cell.inboxes)

    def _add(self, sender: Member, queue: Queue) -> None:
        boxes = sender.cell.error_outboxes if queue.is_error else sender.cell.outboxes
        boxes.setdefault(queue.outbox, []).append(queue)
        receiver = self.members[queue.cell.name]
        self._bind(receiver, queue)
        receiver.cell.inboxes.append(queue)
        receiver.cell.find_only_inbox()
        sender.cell.on_wired()

    def _bind(self, member: Member, queue: Queue) -> None:
        queue.handler = member.actor._handler(queue, member.options)

    def _endpoint(self, endpoint: object) -> tuple[Member, str | None]:
        if isinstance(endpoint, tuple):
            if len(endpoint) != 2 or not isinstance(endpoint[1], str) or not endpoint[1]:
                raise ConnectionTypeError(f"{endpoint!r} is no (actor, 'queue name'): wanted are exactly these two")
            return self.find(endpoint[0]), endpoint[1]
        return self.find(endpoint), None

    def _several(self, destinations: object) -> Sequence[object]:
        if isinstance(destinations, tuple) and len(destinations) == 2 and isinstance(destinations[1], str):
            # (actor, "queue name"), always: two destinations by name are given as a list.
            found: list[object] = [destinations]
        elif isinstance(destinations, Iterable) and not isinstance(destinations, str | bytes | Mapping | Actor):
            found = list(destinations)
        else:
            found = [destinations]
        if not found:
            raise ConnectionTypeError("there is no destination to connect to: the list is empty")
        return found


def check_capacity(value: object, what: str) -> int:
    """`value`, if it can be the capacity of a queue.

    Raises:
        ConfigurationError: it is no number from 1 on.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(f"{what} is {value!r}: wanted is a number of events, from 1 on")
    return value


def check_seconds(value: object, what: str) -> float:
    """`value`, if it is a number of seconds.

    Raises:
        ConfigurationError: it is no finite number from 0 on.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise ConfigurationError(f"{what} is {value!r}: wanted is a number of seconds from 0 on")
    return value


def _policy(overflow: str | Overflow) -> Overflow:
    try:
        return Overflow(overflow)
    except ValueError:
        known = [policy.value for policy in Overflow]
        raise ConfigurationError(
            f"there is no overflow policy {overflow!r}{suggestion(str(overflow), known)}"
        ) from None


def _warn_of_missing_consume(member: Member) -> None:
    cls = type(member.actor)
    if cls is not Actor and cls.consume is Actor.consume and any(queue.source for queue in member.cell.inboxes):
        own = [name for name in vars(cls) if not name.startswith("_")]
        close = get_close_matches("consume", own, n=1)
        member.actor.logger.warning(
            "%s has no consume(): its events pass through unchanged%s",
            cls.__name__,
            f"; did you mean to call {close[0]!r} so?" if close else "",
        )


def _build(cls: Any, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Actor:
    if not (isinstance(cls, type) and issubclass(cls, Actor)):
        raise RegistrationError(f"{cls!r} cannot be registered as {name!r}: wanted is a subclass of Actor")
    try:
        actor: Actor = cls(name, *args, **kwargs)
    except CompysitionError as error:
        # Errors made for this moment, such as StylesheetError, keep their class; the note says whose they are.
        error.add_note(f"while registering actor {name!r} ({cls.__name__})")
        raise
    except Exception as error:
        if isinstance(error, TypeError) and (why := _misfit(cls, (name, *args), kwargs)):
            raise RegistrationError(f"actor {name!r} cannot be registered: {cls.__name__} {why}") from None
        # Boundary: a user's constructor. Its error is chained, not hidden.
        raise RegistrationError(
            f"actor {name!r} cannot be registered: {cls.__name__}() raised {type(error).__name__}: {error}"
        ) from error
    if not hasattr(actor, "_early"):
        raise RegistrationError(
            f"the constructor of {cls.__name__} has not called super().__init__(name): actor {name!r} cannot be used"
        )
    if actor.name != name:
        logging.getLogger("compysition").debug("actor %r was built as %r", name, actor.name)
        actor.name = name
    return actor


def _misfit(cls: type[Actor], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """What the constructor has against these arguments; None if it takes them, and something inside raised."""
    signature = inspect.signature(cls)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        parameters = list(signature.parameters.values())
        named = [one.name for one in parameters[1:] if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
        placed = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
        unknown = [key for key in kwargs if key not in named]
        if unknown:
            return f"takes no argument {unknown[0]!r}{suggestion(unknown[0], named)}"
        if len(args) > len(placed):
            behind = f"{len(placed) - 1} behind its name" if len(placed) > 1 else "none behind its name"
            only = inspect.Parameter.KEYWORD_ONLY
            # The old spelling of an option is taken, and not advertised.
            more = [one for one in named if signature.parameters[one].kind is only and one != "blocking_consume"]
            by_name = f"; by name it takes {', '.join(map(repr, more))}" if more else ""
            given = "1 argument" if len(args) == 2 else f"{len(args) - 1} arguments"
            return f"was given {given} by position, and takes {behind}{by_name}"
        missing = [
            one.name
            for one in parameters[len(args) :]
            if one.default is one.empty and one.name in named and one.name not in kwargs
        ]
        if missing:
            return f"needs the argument {', '.join(map(repr, missing))}"
        return f"does not take these arguments: {error}"
    return None
