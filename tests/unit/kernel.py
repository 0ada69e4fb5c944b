# SPDX-License-Identifier: Apache-2.0
"""The kernel without a Director: cells, queues, consumers and actors."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import gevent

from compysition import testing
from compysition.actor import Actor, ActorOptions
from compysition.cell import Cell
from compysition.clock import Clock
from compysition.deadletter import DeadLetters
from compysition.deadlines import DeadlineWheel
from compysition.dispatch import Dispatcher
from compysition.event import Event
from compysition.ledger import Balance, Ledger
from compysition.queue import Overflow, Queue
from compysition.readiness import NOT_STARTED
from compysition.restartlet import RestartPool
from compysition.supervisor import Member
from compysition.wiring import Endpoint, Wiring

#: How long anything that has to happen may take, in seconds; machines are shared.
LIMIT_S = 20.0
#: A bit of `Cell.shut` that nobody else uses.
CLOSED = 1 << 10

wait_until = partial(testing.wait_until, timeout_s=LIMIT_S)


def turn() -> None:
    """Let the hub turn a few times, timers and sockets included: whatever can happen without further help happens."""
    for _ in range(5):
        gevent.sleep(0.0005)


class Kernel:
    """Runs cells, as far as a cell asks for it (`compysition.cell.Host`, `compysition.actor.ActorHost`)."""

    def __init__(self, clock: Clock | None = None) -> None:
        self.clock = clock if clock is not None else Clock()
        self.dispatcher = Dispatcher(self.clock)
        self.dispatcher.bind()
        self.dead_letters = DeadLetters()
        self.deadlines = DeadlineWheel(self.clock)
        self.resent: list[Event] = []
        self.ledger = Ledger(lambda event, sender: self.resent.append(event))
        self.cells: list[Cell] = []
        self.crashes: list[tuple[str, str]] = []
        self.stops: list[str] = []
        self.is_stopping = False
        self._handlers: dict[Cell, Callable[[Event], Any]] = {}

    def crashed(self, cell: Cell, reason: str) -> None:
        self.crashes.append((cell.name, reason))

    def request_stop(self, reason: str) -> None:
        self.stops.append(reason)

    def offload(self, function: Callable[..., Any], args: tuple[Any, ...], timeout_s: float | None) -> Any:
        return function(*args)

    def cell(
        self,
        name: str,
        handler: Callable[[Event], Any] = lambda event: None,
        *,
        is_open: bool = True,
        **options: Any,
    ) -> Cell:
        """A cell whose queues call `handler`."""
        cell = Cell(name, self, self.ledger, **options)
        self._handlers[cell] = handler
        self.cells.append(cell)
        if is_open:
            cell.open(NOT_STARTED)
        return cell

    def connect(
        self,
        source: Cell | None,
        cell: Cell,
        *,
        outbox: str = "",
        inbox: str = "",
        capacity: int = 500,
        overflow: Overflow = Overflow.WAIT,
        is_error: bool = False,
    ) -> Queue:
        """The queue of a connection; `source` None is outside."""
        name = source.name if source is not None else ""
        queue = Queue(
            name,
            outbox or (cell.name if source is not None else ""),
            cell,
            inbox or name,
            capacity=capacity,
            overflow=overflow,
            is_error=is_error,
        )
        queue.handler = self._handlers[cell]
        cell.inboxes.append(queue)
        if source is not None:
            boxes = source.error_outboxes if is_error else source.outboxes
            boxes.setdefault(queue.outbox, []).append(queue)
        return queue

    def post(self, queue: Queue, data: Any = None) -> Event:
        """Put a new event in from outside."""
        event = Event(data)
        queue.put(event, self.ledger, None, None)
        return event

    def balance(self) -> Balance:
        """The balance, what is held counted anew."""
        held = len(self.dispatcher.held_in_hands())
        for cell in self.cells:
            held += cell.depth + len(cell.kept.events) + len(cell.retrying.events)
        return self.ledger.balance(held)

    def is_idle(self) -> bool:
        """Whether nothing is ready and no handler runs."""
        return not self.dispatcher.ready and not any(cell.running for cell in self.cells)

    def run(self) -> None:
        """Let it run until nothing is ready and no handler runs."""
        wait_until(self.is_idle)

    def close(self) -> None:
        """End everything; the last look has to be even."""
        balance = self.balance()
        for cell in self.cells:
            cell.close(CLOSED)  # or what is given back would be handled again
        for consumer in tuple(self.dispatcher.consumers):
            consumer.hand.is_kill_ours = True
            consumer.kill(block=False)
        wait_until(lambda: not self.dispatcher.consumers)
        for cell in self.cells:
            cell.cancel_timers()
        assert balance.is_even, str(balance)
        assert self.balance().is_even, str(self.balance())


class Flow:
    """Registers, connects and runs actors on a kernel."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.wiring = Wiring(kernel, kernel.ledger, Ledger(), 500, lambda cell: RestartPool(kernel.clock))

    def add(
        self,
        actor: type[Actor] | Actor,
        name: str = "a",
        *args: Any,
        options: ActorOptions | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        member = self.wiring.register(actor, name, args, kwargs, options)
        self.kernel.cells.append(member.cell)
        return member.actor

    def connect(self, source: Endpoint, destinations: Endpoint | Iterable[Endpoint], **options: Any) -> None:
        settings: dict[str, Any] = {"capacity": None, "overflow": Overflow.WAIT, "is_error": False, **options}
        self.wiring.connect(source, destinations, **settings)

    def start(self) -> "Flow":
        self.wiring.complete()
        for member in self.wiring.members.values():
            member.cell.open(NOT_STARTED)
        return self

    def member(self, name: str = "a") -> Member:
        return self.wiring.members[name]

    def post(self, name: str, data: Any = None, inbox: str = "") -> Event:
        event = data if isinstance(data, Event) else Event(data)
        self.wiring.outside_queue(self.member(name), inbox).put(event, self.kernel.ledger, None, None)
        return event

    def run(self, name: str, data: Any = None, inbox: str = "") -> Event:
        event = self.post(name, data, inbox)
        self.kernel.run()
        return event

    def close(self) -> None:
        """End the background greenlets."""
        for member in self.wiring.members.values():
            member.pool.kill()
            member.pool.join()
