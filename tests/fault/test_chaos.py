# SPDX-License-Identifier: Apache-2.0
"""Chaos: seeded random graphs under kills, and nothing is ever lost without a name.

The kernel alone, without Director: cells, queues and consumers. Every look from another greenlet finds the balance
even; every event that was ever counted in, each copy of each fan-out included, is found again: ended in one way, or
held at one place.
"""

import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import gevent
import pytest
from gevent import Greenlet

from compysition.cell import Cell
from compysition.clock import Clock
from compysition.deadletter import DeadLetters
from compysition.dispatch import Dispatcher
from compysition.errors import Fatal, Retry, StopFlow
from compysition.event import Event, Unowned
from compysition.graph import find_rings
from compysition.ledger import Balance, Ending, Ledger
from compysition.queue import Overflow, Queue
from compysition.readiness import NOT_STARTED, RESTARTING

SEEDS = range(12)
#: Sent to two connections each. With those born on the way about 460 000 events are counted in, over all seeds.
EVENTS_PER_SEED = {"rings": 250, "lines": 3_000}
#: An event that has gone through so many handlers goes no further.
HOPS_MOST = 12


class Tracked(Event):
    """An event that is remembered, with all its copies and children."""

    __slots__ = ()
    everywhere: ClassVar[list[Event]] = []

    def __init__(self, data: int) -> None:
        super().__init__(data)
        self.everywhere.append(self)

    def _derive(self, data: Any) -> Self:
        child = super()._derive(data)
        self.everywhere.append(child)
        return child


@dataclass
class World:
    """A host for cells, without a Director."""

    clock: Clock = field(default_factory=Clock)
    dead_letters: DeadLetters = field(default_factory=DeadLetters)
    ledger: Ledger = field(default_factory=Ledger)
    cells: list[Cell] = field(default_factory=list)
    restarts: int = 0
    stops: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.dispatcher = Dispatcher(self.clock)
        self.dispatcher.bind()

    def crashed(self, cell: Cell, reason: str) -> None:
        """Stand in for the supervisor: no new handler for a moment, then go on."""
        self.restarts += 1
        cell.close(RESTARTING)
        self.clock.call_later(0.0005, lambda: cell.open(RESTARTING))

    def request_stop(self, reason: str) -> None:
        self.stops.append(reason)

    def held(self) -> list[Event]:
        events = self.dispatcher.held_in_hands()
        for cell in self.cells:
            events += [*cell.kept.events.values(), *cell.retrying.events.values()]
            for queue in cell.inboxes:
                events += [*queue.items, *(waiter.event for waiter in queue.waiting if waiter.event is not None)]
        return events

    def balance(self) -> Balance:
        """Quick: it is looked at thousands of times."""
        held = sum(cell.depth + len(cell.kept.events) + len(cell.retrying.events) for cell in self.cells)
        return self.ledger.balance(held + len(self.dispatcher.held_in_hands()))

    def kept(self) -> int:
        return sum(len(cell.kept.events) for cell in self.cells)


class Node:
    """An actor that does everything a handler may do, and much that it should not."""

    def __init__(self, world: World, cell: Cell, rng: random.Random) -> None:
        self.cell = cell
        self.send = cell.bound_send()
        self.rng = rng
        self.kept: list[Event] = []
        self.put_aside: list[Event] = []

    def consume(self, event: Event) -> None:
        event.data += 1
        if event.data > HOPS_MOST:
            return
        wait, choice = self.rng.random(), self.rng.random()
        if wait < 0.03:
            gevent.sleep(self.rng.random() * 0.002)
        elif wait < 0.05:
            gevent.sleep(0)
        for bound, act in self.ACTS:
            if choice < bound:
                act(self, event)
                return
        self.pass_on(event)

    def pass_on(self, event: Event) -> None:
        outboxes = list(self.cell.outboxes)
        if outboxes and self.rng.random() < 0.2:
            self.send(event, self.rng.sample(outboxes, 1))
        else:
            self.send(event)

    def fail(self, event: Event) -> None:
        raise ValueError("chaos")

    def crash(self, event: Event) -> None:
        raise Fatal

    def time_out(self, event: Event) -> None:
        raise gevent.Timeout(1)

    def retry(self, event: Event) -> None:
        raise Retry(0.001)

    def stop_flow(self, event: Event) -> None:
        raise StopFlow

    def clean_up_slowly(self, event: Event) -> None:
        try:
            gevent.sleep(0.001)
        finally:
            gevent.sleep(0)
        self.pass_on(event)

    def keep(self, event: Event) -> None:
        self.cell.keep(event)
        self.kept.append(event)

    def put_it_aside(self, event: Event) -> None:
        self.put_aside.append(event)

    def send_a_kept_one(self, event: Event) -> None:
        if self.kept:
            self.pass_on(self.kept.pop())
        self.pass_on(event)

    def send_late(self, event: Event) -> None:
        if self.put_aside:
            self.pass_on(self.put_aside.pop())
        self.pass_on(event)

    def bear(self, event: Event) -> None:
        self.pass_on(event._derive(event.data))
        self.pass_on(event)

    def fail_after_send(self, event: Event) -> None:
        self.pass_on(event)
        raise ValueError("after the send")

    def send_by_error(self, event: Event) -> None:
        self.cell.send_error(event)

    def send_twice(self, event: Event) -> None:
        self.pass_on(event)
        self.pass_on(event)

    #: What to do below which random number.
    ACTS: tuple[tuple[float, Callable[["Node", Event], None]], ...] = (
        (0.05, fail),
        (0.08, crash),
        (0.10, time_out),
        (0.13, clean_up_slowly),
        (0.16, keep),
        (0.19, put_it_aside),
        (0.23, send_a_kept_one),
        (0.26, send_late),
        (0.28, bear),
        (0.30, retry),
        (0.31, stop_flow),
        (0.32, fail_after_send),
        (0.33, send_by_error),
        (0.34, send_twice),
    )


def connect(source: Cell, destination: Cell, capacity: int, overflow: str = "wait", *, is_error: bool = False) -> None:
    queue = Queue(
        source.name,
        destination.name,
        destination,
        source.name,
        capacity=capacity,
        overflow=Overflow(overflow),
        is_error=is_error,
    )
    boxes = source.error_outboxes if is_error else source.outboxes
    boxes.setdefault(queue.outbox, []).append(queue)
    destination.inboxes.append(queue)


def build(world: World, rng: random.Random, *, has_rings: bool) -> Cell:
    """Eight nodes, wired at random, and a source. Returns the source."""
    nodes = [Cell(f"n{i}", world, world.ledger, concurrency=rng.choice((1, 2, 5, 100))) for i in range(8)]
    source = Cell("source", world, world.ledger)
    for index, cell in enumerate(nodes):
        # Without rings everything leads forward, so that puts wait for room.
        others = nodes if has_rings else nodes[index + 1 :]
        for other in rng.sample(others, min(len(others), rng.choice((1, 1, 2, 3)))):
            policy = rng.choice(("wait", "wait", "wait", "drop_newest", "drop_oldest", "fail"))
            connect(cell, other, rng.choice((1, 2, 5, 20)), policy)
        if others and rng.random() < 0.4:
            connect(cell, rng.choice(others), rng.choice((1, 5)), is_error=True)
    connect(source, nodes[0], 10)
    connect(source, nodes[1], 10)
    world.cells = [*nodes, source]
    find_rings(world.cells, lambda cell: False)
    for cell in nodes:
        node = Node(world, cell, rng)
        for queue in cell.inboxes:
            queue.handler = node.consume
    for cell in world.cells:
        cell.open(NOT_STARTED)
    return source


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Thousands of provoked failures should not fill the log."""
    logging.disable(logging.CRITICAL)
    Tracked.everywhere.clear()
    yield
    Tracked.everywhere.clear()
    logging.disable(logging.NOTSET)


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> bool:
    with gevent.Timeout(timeout_s, False):  # type: ignore[arg-type]  # the stubs know no False
        while not condition():
            gevent.sleep(0.005)
        return True
    return False


@pytest.mark.parametrize("shape", EVENTS_PER_SEED)
@pytest.mark.parametrize("seed", SEEDS)
def test_chaos_is_even_at_every_look_and_accounts_for_every_branch(seed: int, shape: str) -> None:
    rng = random.Random(seed)
    world = World()
    source = build(world, rng, has_rings=shape == "rings")
    uneven: list[Balance] = []
    is_over = False

    def pump() -> None:
        for _ in range(EVENTS_PER_SEED[shape]):
            source.send(Tracked(0))

    def kill_handlers() -> None:
        while not is_over:
            gevent.sleep(0.002)
            victims = [consumer for consumer in world.dispatcher.consumers if consumer.hand.sender is not None]
            if victims:
                rng.choice(victims).kill(block=False)

    def look() -> None:
        while not is_over:
            gevent.sleep(0.0007)
            balance = world.balance()
            if not balance.is_even:
                uneven.append(balance)

    pumping = Greenlet.spawn(pump)
    others = [Greenlet.spawn(kill_handlers), Greenlet.spawn(look)]
    pumping.join(60)
    settled = pumping.ready() and wait_until(lambda: world.balance().held == world.kept())
    is_over = True
    gevent.joinall(others, 10)

    assert settled, f"stuck: {world.cells} hold {world.balance()}"
    assert not uneven
    assert world.balance().is_even
    assert not any(cell.running or cell.waiting_puts for cell in world.cells)
    assert_every_branch_is_found(world)
    world.dispatcher.close()
    assert wait_until(lambda: not world.dispatcher.consumers)


def assert_every_branch_is_found(world: World) -> None:
    """Each event that was ever made has ended, or is held at exactly one place, or was never sent."""
    held = Counter(id(event) for event in world.held())
    assert all(number == 1 for number in held.values())
    states = Counter(type(event._owner) for event in Tracked.everywhere)
    for event in Tracked.everywhere:
        assert isinstance(event._owner, Ending | Unowned) != (id(event) in held), event
    assert len(held) == world.balance().held == len(Tracked.everywhere) - states[Ending] - states[Unowned]
    # What was refused by a full queue was never counted in; whatever ended may have been sent, and counted, again.
    assert sum(world.balance().ended.values()) >= states[Ending]


def test_a_queue_that_loses_an_event_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chaos test can fail: break the kernel, and the balance is uneven."""
    world = World()
    source, sink = Cell("source", world, world.ledger), Cell("sink", world, world.ledger)
    connect(source, sink, 5)
    world.cells = [source, sink]

    def crash(event: Event) -> None:
        raise Fatal

    sink.inboxes[0].handler = crash
    sink.open(NOT_STARTED)
    give_back: Any = Queue.give_back
    monkeypatch.setattr(Queue, "give_back", lambda queue, event: give_back(queue, event) or queue.items.popleft())

    source.send(Event(0))

    assert wait_until(lambda: not world.balance().is_even)
    world.dispatcher.close()
    assert wait_until(lambda: not world.dispatcher.consumers)
