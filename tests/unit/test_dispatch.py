# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.dispatch`: who calls the handlers, and when."""

import gc
import itertools
import logging
import os
import weakref
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent import GreenletExit, Timeout, get_hub, getcurrent
from gevent.event import Event as Signal

from compysition.cell import Cell
from compysition.clock import Clock
from compysition.deadlines import DeadlineWheel
from compysition.dispatch import CHUNK, CHUNK_MOST_S, IDLE_KEPT, LOOK_S, SLICE_S
from compysition.event import Event
from compysition.ledger import ENDINGS, Outcome
from compysition.lineage import Ticket
from compysition.testing import VirtualClock
from tests.unit.kernel import Kernel, turn, wait_until


class Gate:
    """A handler that waits until it is let go, and knows how many wait."""

    def __init__(self) -> None:
        self.signal = Signal()
        self.waiting = 0
        self.most = 0
        self.done: list[Any] = []

    def __call__(self, event: Event) -> None:
        self.waiting += 1
        self.most = max(self.most, self.waiting)
        try:
            self.signal.wait()
        finally:
            self.waiting -= 1
        self.done.append(event.data)


# ---- order and turns ------------------------------------------------------------------------------------------------


def test_events_of_one_connection_are_started_in_order(kernel: Kernel) -> None:
    seen: list[int] = []
    queue = kernel.connect(None, kernel.cell("a", lambda event: seen.append(event.data)))
    for number in range(300):
        kernel.post(queue, number)
    kernel.run()
    assert seen == list(range(300))


def test_inboxes_are_served_in_turn_a_chunk_each(timeless: Kernel) -> None:
    seen: list[str] = []
    cell = timeless.cell("a", lambda event: seen.append(event.data), is_open=False)
    queues = [timeless.connect(None, cell, inbox=name) for name in "xyz"]
    for queue in queues:
        for _ in range(200):
            timeless.post(queue, queue.inbox)
    cell.open(1)
    timeless.run()
    runs = [(name, len(list(group))) for name, group in itertools.groupby(seen)]
    assert max(length for _, length in runs) == CHUNK
    # In turn, as long as each has some: the last chunks empty one inbox after the other.
    names = [name for name, _ in runs]
    assert names == (list("xyz") * len(names))[: len(names)]


def test_busy_inbox_does_not_starve_another(kernel: Kernel) -> None:
    seen: list[str] = []

    def handle(event: Event) -> None:
        seen.append(event.data)
        if "other" not in seen:
            kernel.post(busy, "busy")  # the busy inbox is never empty

    cell = kernel.cell("a", handle, is_open=False)
    busy, other = kernel.connect(None, cell, inbox="busy"), kernel.connect(None, cell, inbox="other")
    for _ in range(CHUNK):
        kernel.post(busy, "busy")
    kernel.post(other, "other")
    cell.open(1)
    kernel.run()
    assert seen.index("other") <= CHUNK


def test_ready_actors_are_served_in_turn(timeless: Kernel) -> None:
    seen: list[str] = []
    cells = [timeless.cell(name, lambda event: seen.append(event.data), is_open=False) for name in "ab"]
    for cell in cells:
        queue = timeless.connect(None, cell)
        for _ in range(150):
            timeless.post(queue, cell.name)
    for cell in cells:
        cell.open(1)
    timeless.run()
    names = [name for name, _ in itertools.groupby(seen)]
    assert names == (list("ab") * len(names))[: len(names)]
    assert len(names) >= 150 * 2 / CHUNK


# ---- how many handlers, how many greenlets --------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 3, 100])
def test_no_more_handlers_run_than_the_concurrency_allows(kernel: Kernel, concurrency: int) -> None:
    gate = Gate()
    cell = kernel.cell("a", gate, concurrency=concurrency)
    queue = kernel.connect(None, cell)
    for number in range(150):
        kernel.post(queue, number)
    wait_until(lambda: gate.waiting == concurrency)
    turn()
    assert gate.waiting == cell.running == concurrency
    gate.signal.set()
    kernel.run()
    assert gate.most == concurrency
    assert sorted(gate.done) == list(range(150))


def test_concurrency_of_one_keeps_the_order_of_handlers_that_wait(kernel: Kernel) -> None:
    ended: list[int] = []

    def handle(event: Event) -> None:
        gevent.sleep(0.001 if event.data % 2 else 0.0)
        ended.append(event.data)

    queue = kernel.connect(None, kernel.cell("a", handle, concurrency=1))
    for number in range(20):
        kernel.post(queue, number)
    kernel.run()
    assert ended == list(range(20))


def test_handlers_that_do_not_wait_need_one_consumer_for_a_whole_pipeline(kernel: Kernel) -> None:
    greenlets: set[object] = set()
    cells: list[Cell] = []

    def handle(event: Event) -> None:
        greenlets.add(getcurrent())
        event.data += 1
        cells[-event.data].send(event)

    for number in range(6):
        cells.append(kernel.cell(f"c{number}", handle))
        if number:
            kernel.connect(cells[-1], cells[-2])
    queue = kernel.connect(None, cells[-1])
    for number in range(500):
        kernel.post(queue, 0)
        if number % 100 == 0:
            turn()
    kernel.run()
    assert len(greenlets) == 1
    assert len(kernel.dispatcher.consumers) == 1


def test_handler_that_waits_does_not_stop_the_others(kernel: Kernel) -> None:
    gate, seen = Gate(), []
    blocked = kernel.connect(None, kernel.cell("blocked", gate))
    free = kernel.connect(None, kernel.cell("free", lambda event: seen.append(event.data)))
    kernel.post(blocked, 1)
    wait_until(lambda: gate.waiting)
    kernel.post(free, 2)
    wait_until(lambda: seen)
    assert gate.waiting == 1
    gate.signal.set()
    kernel.run()


def test_rest_of_a_chunk_is_taken_over_when_its_handler_waits(kernel: Kernel) -> None:
    gate, seen = Gate(), []

    def handle(event: Event) -> None:
        if event.data == 0:
            gate(event)
        seen.append(event.data)

    cell = kernel.cell("a", handle, is_open=False)
    queue = kernel.connect(None, cell)
    for number in range(20):
        kernel.post(queue, number)
    cell.open(1)
    wait_until(lambda: len(seen) == 19)
    assert gate.waiting == 1
    gate.signal.set()
    kernel.run()
    assert seen == [*range(1, 20), 0]


def test_idle_consumers_above_32_end(kernel: Kernel) -> None:
    gate = Gate()
    queue = kernel.connect(None, kernel.cell("a", gate))
    for number in range(80):
        kernel.post(queue, number)
    wait_until(lambda: gate.waiting == 80)
    assert len(kernel.dispatcher.consumers) >= 80
    gate.signal.set()
    kernel.run()
    wait_until(lambda: len(kernel.dispatcher.consumers) <= IDLE_KEPT)
    assert IDLE_KEPT == 32


def test_idle_consumers_are_used_again(kernel: Kernel) -> None:
    gate = Gate()
    queue = kernel.connect(None, kernel.cell("a", gate))
    for _ in range(3):
        gate.signal.clear()
        for number in range(10):
            kernel.post(queue, number)
        wait_until(lambda: gate.waiting == 10)
        gate.signal.set()
        kernel.run()
    # One beside those that wait: it found nothing more to do.
    assert len(kernel.dispatcher.consumers) <= 11


def test_all_idle_consumers_end_when_they_are_told_to(kernel: Kernel) -> None:
    queue = kernel.connect(None, kernel.cell("a"))
    kernel.post(queue)
    kernel.run()
    turn()
    kernel.dispatcher.close()
    wait_until(lambda: not kernel.dispatcher.consumers)


@pytest.mark.parametrize("error", [GreenletExit, Timeout, KeyError])
def test_stray_exception_at_an_idle_consumer_costs_nothing_else(
    kernel: Kernel, unobserved: list[BaseException], error: type[BaseException]
) -> None:
    # Handlers share greenlets: a timeout that one has started and not closed may strike after it.
    seen: list[int] = []
    queue = kernel.connect(None, kernel.cell("a", lambda event: seen.append(event.data)))
    kernel.post(queue, 1)
    kernel.run()
    turn()
    [consumer] = kernel.dispatcher.consumers
    consumer.kill(error())
    unobserved.clear()
    assert not kernel.dispatcher.consumers
    for number in (2, 3):
        kernel.post(queue, number)
        kernel.run()
    assert seen == [1, 2, 3]
    assert kernel.dispatcher.consumers
    assert not any(each.dead for each in kernel.dispatcher.consumers)


# ---- chunks ---------------------------------------------------------------------------------------------------------


def test_chunks_begin_small_and_grow_with_fast_handlers_and_shrink_with_slow_ones(
    timeless: Kernel, clock: VirtualClock
) -> None:
    takes_s = 0.0
    sizes: list[int] = []

    def handle(event: Event) -> None:
        clock.now += takes_s
        if cell.chunk not in sizes[-1:]:
            sizes.append(cell.chunk)

    cell = timeless.cell("a", handle)
    queue = timeless.connect(None, cell)
    for each_s in (0.0, CHUNK_MOST_S, 0.0):
        takes_s = each_s
        for _ in range(CHUNK * 4):
            timeless.post(queue)
        timeless.run()
    assert sizes == [1, 2, 4, 8, 16, 32, 64, 32, 16, 8, 4, 2, 1, 2, 4, 8, 16, 32, 64]


def test_busy_time_is_the_time_that_handlers_took(timeless: Kernel, clock: VirtualClock) -> None:
    def handle(event: Event) -> None:
        clock.now += 0.25

    cell = timeless.cell("a", handle)
    queue = timeless.connect(None, cell)
    for _ in range(4):
        timeless.post(queue)
    timeless.run()
    assert cell.busy_s == pytest.approx(1.0)


# ---- slices ---------------------------------------------------------------------------------------------------------


def endless(kernel: Kernel, is_over: Callable[[], object]) -> None:
    """A flow that always has something to do, until `is_over`."""
    cell = kernel.cell("endless", lambda event: again())
    queue = kernel.connect(None, cell)

    def again() -> None:
        if not is_over():
            kernel.post(queue)

    for _ in range(CHUNK * 2):
        kernel.post(queue)


def test_timers_get_their_turn_beside_a_flow_without_end(kernel: Kernel) -> None:
    fired: list[float] = []
    clock = Clock()
    began = clock.monotonic()
    clock.call_later(0.01, lambda: fired.append(clock.monotonic() - began))
    endless(kernel, lambda: fired)
    kernel.run()
    # Not how late: machines are shared. But it did fire, and the flow went on until then.
    assert fired


def test_sockets_get_their_turn_beside_a_flow_without_end(kernel: Kernel) -> None:
    reading, writing = os.pipe()
    read: list[bytes] = []
    watcher = get_hub().loop.io(reading, 1)
    watcher.start(lambda: read.append(os.read(reading, 1)))
    try:
        os.write(writing, b"x")
        endless(kernel, lambda: read)
        kernel.run()
    finally:
        watcher.stop()
        watcher.close()
        os.close(reading)
        os.close(writing)
    assert read == [b"x"]


def test_other_greenlets_get_their_turn_beside_a_flow_without_end(kernel: Kernel) -> None:
    turns = 0

    def other() -> None:
        nonlocal turns
        for _ in range(5):
            gevent.sleep(0.001)
            turns += 1

    greenlet = gevent.spawn(other)
    endless(kernel, lambda: turns == 5)
    kernel.run()
    greenlet.join()
    assert turns == 5


def test_slice_is_bounded_by_the_clock(timeless: Kernel, clock: VirtualClock) -> None:
    handled = 0
    at_each_turn: list[int] = []

    def handle(event: Event) -> None:
        nonlocal handled
        handled += 1
        clock.now += SLICE_S / 4

    cell = timeless.cell("a", handle, is_open=False)
    queue = timeless.connect(None, cell)
    for _ in range(CHUNK * 3):
        timeless.post(queue)
    watcher = get_hub().loop.prepare()
    watcher.start(lambda: at_each_turn.append(handled))
    try:
        cell.open(1)
        timeless.run()
    finally:
        watcher.stop()
        watcher.close()
    slices = [after - before for before, after in itertools.pairwise(at_each_turn) if after > before]
    # What fits into its time, and a chunk more. The hub's first turn has two slices, its callbacks' and its timers'.
    assert slices[0] <= 12
    assert max(slices[1:]) <= 6


# ---- what a consumer leaves -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_failing", [True, False])
def test_parked_consumer_keeps_nothing_alive(kernel: Kernel, is_failing: bool) -> None:
    seen: list[weakref.ref[Event]] = []

    def handle(event: Event) -> None:
        seen.append(weakref.ref(event))
        if is_failing:
            raise ValueError("no")

    queue = kernel.connect(None, kernel.cell("a", handle))
    logging.disable()  # pytest would keep what is logged
    try:
        for _ in range(3):
            kernel.post(queue)
        kernel.run()
        turn()
    finally:
        logging.disable(logging.NOTSET)
    kernel.dead_letters.clear()
    gc.collect()
    assert [ref() for ref in seen] == [None, None, None]


def test_event_in_hand_is_held(kernel: Kernel) -> None:
    gate = Gate()
    queue = kernel.connect(None, kernel.cell("a", gate))
    event = kernel.post(queue)
    wait_until(lambda: gate.waiting)
    assert kernel.dispatcher.held_in_hands() == [event]
    assert repr(event._owner) == "in the hand of 'a'"
    assert kernel.balance().held == 1
    gate.signal.set()
    kernel.run()
    assert kernel.dispatcher.held_in_hands() == []


def test_event_whose_time_is_over_is_ended_and_not_handled(kernel: Kernel) -> None:
    seen: list[str] = []
    clock = VirtualClock()
    ticket = Ticket(clock, DeadlineWheel(clock), 5.0, get_hub().loop)
    cell = kernel.cell("a", lambda event: seen.append(event.data), is_open=False)
    queue = kernel.connect(None, cell)
    overdue = Event("overdue")
    ticket.attach(overdue)
    queue.put(overdue, kernel.ledger, None, None)
    kernel.post(queue, "fresh")
    clock.advance(6.0)
    cell.open(1)
    kernel.run()
    assert seen == ["fresh"]
    assert overdue._owner is ENDINGS[Outcome.EXPIRED]


def test_handler_that_ends_its_cell_ends_its_chunk(timeless: Kernel) -> None:
    seen: list[int] = []

    def handle(event: Event) -> None:
        seen.append(event.data)
        cell.close(4)

    cell = timeless.cell("a", handle, is_open=False)
    queue = timeless.connect(None, cell)
    for number in range(3):
        timeless.post(queue, number)
    cell.open(1)
    timeless.run()
    turn()
    assert seen == [0]
    cell.open(4)
    timeless.run()
    assert seen == [0, 1]


def test_two_dispatchers_in_one_thread_do_not_meet() -> None:
    kernels = [Kernel(), Kernel()]
    seen: list[str] = []
    queues = [
        kernel.connect(None, kernel.cell(name, lambda event: seen.append(event.data)))
        for name, kernel in zip("ab", kernels, strict=True)
    ]
    for kernel, queue in zip(kernels, queues, strict=True):
        kernel.post(queue, queue.cell.name)
    for kernel in kernels:
        kernel.run()
        kernel.close()
    assert sorted(seen) == ["a", "b"]


# ---- waiting for a condition ----------------------------------------------------------------------------------------


def test_wait_returns_at_once_when_the_condition_holds(timeless: Kernel, clock: VirtualClock) -> None:
    assert timeless.dispatcher.wait_until(lambda: True, 0.0)
    assert clock.pending == 0


def test_wait_gives_up_after_its_timeout(timeless: Kernel, clock: VirtualClock) -> None:
    waiting = gevent.spawn(timeless.dispatcher.wait_until, lambda: False, 1.0)
    turn()
    clock.advance(0.9)
    turn()
    assert not waiting.dead
    for _ in range(5):
        clock.advance(LOOK_S)
        turn()
    assert waiting.get() is False
    assert clock.pending == 0


def test_wait_looks_again_after_each_chunk(timeless: Kernel) -> None:
    seen: list[int] = []
    queue = timeless.connect(None, timeless.cell("a", lambda event: seen.append(1)))
    waiting = gevent.spawn(timeless.dispatcher.wait_until, lambda: len(seen) == 2, 100.0)
    turn()
    timeless.post(queue)
    timeless.run()
    turn()
    assert not waiting.dead
    timeless.post(queue)
    turn()
    assert waiting.get() is True


def test_wait_looks_again_when_it_is_told_to(timeless: Kernel) -> None:
    facts: list[int] = []
    waiting = gevent.spawn(timeless.dispatcher.wait_until, lambda: bool(facts), 100.0)
    turn()
    facts.append(1)
    turn()
    assert not waiting.dead
    timeless.dispatcher.notice()
    turn()
    assert waiting.get() is True


def test_wait_looks_again_in_any_case_soon(timeless: Kernel, clock: VirtualClock) -> None:
    facts: list[int] = []
    waiting = gevent.spawn(timeless.dispatcher.wait_until, lambda: bool(facts), 100.0)
    turn()
    facts.append(1)
    clock.advance(LOOK_S)
    turn()
    assert waiting.get() is True


def test_killed_waiter_leaves_nothing_behind(timeless: Kernel, clock: VirtualClock) -> None:
    waiting = gevent.spawn(timeless.dispatcher.wait_until, lambda: False, 100.0)
    turn()
    waiting.kill()
    timeless.dispatcher.notice()
    assert clock.pending == 0
