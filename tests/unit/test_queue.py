# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.queue`: first in first out, overflow policies, waiting senders."""

from collections import deque
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent import GreenletExit, get_hub
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from compysition.deadlines import DeadlineWheel
from compysition.errors import (
    DeadlineError,
    DirectorStoppedError,
    EventNotOwnedError,
    NotAnEventError,
    QueueFullError,
    RingFullError,
)
from compysition.event import FRESH, Event
from compysition.ledger import DELIVERED, ENDINGS, Holding, Ledger, Outcome
from compysition.lineage import Ticket
from compysition.queue import Overflow, Queue, check_is_event
from compysition.ring import Ring
from compysition.testing import VirtualClock
from compysition.testing.clock import call_in_hub
from tests.unit.kernel import turn


class Taker:
    """Stands for the cell at the queue's end."""

    def __init__(self) -> None:
        self.name = "taker"
        self.wants_wake = False
        self.wakes = 0
        self.running = 0

    def wake(self) -> None:
        self.wakes += 1
        self.wants_wake = False

    def settle(self) -> None:
        pass


class Giver:
    """Stands for the cell whose handler puts."""

    def __init__(self, name: str = "giver") -> None:
        self.name = name
        self.waiting = 0
        self.waits = 0

    def begin_waiting_put(self) -> None:
        self.waiting += 1
        self.waits += 1

    def end_waiting_put(self) -> None:
        self.waiting -= 1


class InHand:
    def __init__(self, sender: object) -> None:
        self.sender: object | None = sender


class Bench:
    """A queue, its ledger, and the greenlets that put into it."""

    def __init__(self, capacity: int = 2, overflow: Overflow = Overflow.WAIT) -> None:
        self.taker, self.giver = Taker(), Giver()
        self.hand = InHand(self.giver)
        self.ledger = Ledger()
        self.queue = Queue("giver", "taker", self.taker, "giver", capacity=capacity, overflow=overflow)
        self.greenlets: list[gevent.Greenlet[..., Any]] = []
        #: What each put raised, by the event's data.
        self.raised: dict[object, BaseException] = {}
        self.done: list[object] = []

    def put(self, data: Any, *, is_in_handler: bool = False) -> Event:
        event = data if isinstance(data, Event) else Event(data)
        giver = self.giver if is_in_handler else None
        self.queue.put(event, self.ledger, self.giver, giver)
        return event

    def put_later(self, data: Any, *, is_in_handler: bool = False) -> Event:
        """Put in a greenlet of its own, which may wait."""
        event = data if isinstance(data, Event) else Event(data)

        def run() -> None:
            try:
                self.put(event, is_in_handler=is_in_handler)
            except BaseException as error:
                self.raised[event.data] = error
            else:
                self.done.append(event.data)

        self.greenlets.append(gevent.spawn(run))
        gevent.sleep(0)
        return event

    def in_hand(self, data: Any = None) -> Event:
        event = Event(data)
        self.ledger.move(event, self.hand, None, in_handler=False)
        return event

    def take(self) -> Event:
        """What a consumer does."""
        event = self.queue.items.popleft()
        event._owner = self.hand
        self.queue.taken += 1
        self.queue.refill()
        return event

    @property
    def inside(self) -> list[object]:
        return [event.data for event in self.queue.items]

    @property
    def aside(self) -> list[object]:
        return [waiter.event.data for waiter in self.queue.waiting if waiter.event is not None]

    def is_even(self, in_hands: int = 0) -> bool:
        return self.ledger.balance(len(self.queue.items) + len(self.queue.waiting) + in_hands).is_even

    def close(self) -> None:
        for event in self.queue.clear():
            self.ledger.end(event, Outcome.DEAD)
        gevent.killall(self.greenlets)
        assert self.giver.waiting == 0


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


# ---- room -----------------------------------------------------------------------------------------------------------


def test_events_come_out_in_the_order_in_which_they_went_in() -> None:
    bench = Bench(capacity=100)
    for number in range(50):
        bench.put(number)
    assert [bench.take().data for _ in range(50)] == list(range(50))


def test_put_counts_a_fresh_event_in_and_owns_it(bench: Bench) -> None:
    event = bench.put(1)
    assert event._owner is bench.queue
    assert (bench.ledger.accepted, bench.ledger.born) == (1, 0)
    bench.put(2, is_in_handler=True)
    assert (bench.ledger.accepted, bench.ledger.born) == (1, 1)


def test_put_wakes_a_cell_that_wants_it_and_no_other(bench: Bench) -> None:
    bench.put(1)
    assert bench.taker.wakes == 0
    bench.taker.wants_wake = True
    bench.put(2)
    assert bench.taker.wakes == 1


def test_event_that_is_not_the_senders_is_refused(bench: Bench) -> None:
    event = bench.put(1)
    with pytest.raises(EventNotOwnedError):
        bench.put(event)
    assert bench.inside == [1]


@pytest.mark.parametrize("overflow", Overflow)
def test_full_queue_looks_at_the_owner_before_anything_is_dropped(overflow: Overflow) -> None:
    bench = Bench(capacity=1, overflow=overflow)
    event = bench.put(1)
    with pytest.raises(EventNotOwnedError):
        bench.put(event)
    assert bench.inside == [1]
    assert bench.queue.dropped == 0


@pytest.mark.parametrize("value", [None, "text", {"data": 1}, 5, Event])
def test_what_is_no_event_is_refused_in_words_that_say_how_to_make_one(value: object) -> None:
    with pytest.raises(NotAnEventError, match=r"self\.create_event\(data=…\), or Event\(…\)"):
        check_is_event(value)


def test_event_of_a_subclass_is_an_event() -> None:
    class OrderEvent(Event):
        pass

    check_is_event(OrderEvent())


# ---- policies -------------------------------------------------------------------------------------------------------


def test_drop_newest_ends_the_event_itself() -> None:
    bench = Bench(overflow=Overflow.DROP_NEWEST)
    for number in range(4):
        bench.put(number)
    assert bench.inside == [0, 1]
    assert bench.queue.dropped == 2
    assert bench.ledger.ended[Outcome.DROPPED] == 2
    assert bench.is_even()


def test_drop_newest_of_an_event_in_hand_ends_it_once() -> None:
    bench = Bench(capacity=1, overflow=Overflow.DROP_NEWEST)
    bench.put(0)
    event = bench.put(bench.in_hand(1), is_in_handler=True)
    assert event._owner is ENDINGS[Outcome.DROPPED]
    assert bench.is_even()


def test_drop_oldest_ends_the_oldest() -> None:
    bench = Bench(overflow=Overflow.DROP_OLDEST)
    first = bench.put(0)
    for number in range(1, 4):
        bench.put(number)
    assert bench.inside == [2, 3]
    assert first._owner is ENDINGS[Outcome.DROPPED]
    assert bench.queue.dropped == 2
    assert bench.is_even()


def test_fail_raises_and_leaves_the_event_with_its_sender() -> None:
    bench = Bench(overflow=Overflow.FAIL)
    bench.put(0)
    bench.put(1)
    event = bench.in_hand(2)
    with pytest.raises(QueueFullError) as raised:
        bench.put(event, is_in_handler=True)
    assert event._owner is bench.hand
    assert (raised.value.queue, raised.value.capacity) == ("giver → taker", 2)
    assert str(raised.value) == (
        "queue 'giver → taker' is full (capacity 2): raise the capacity or choose another overflow policy"
    )
    assert bench.is_even(in_hands=1)


def test_fail_leaves_a_fresh_event_uncounted() -> None:
    bench = Bench(capacity=1, overflow=Overflow.FAIL)
    bench.put(0)
    event = Event(1)
    with pytest.raises(QueueFullError):
        bench.put(event)
    assert event._owner is FRESH
    assert bench.ledger.accepted == 1


def test_policies_are_those_of_the_design() -> None:
    assert [policy.value for policy in Overflow] == ["wait", "drop_newest", "drop_oldest", "fail"]


@pytest.mark.parametrize("overflow", [Overflow.DROP_NEWEST, Overflow.DROP_OLDEST, Overflow.FAIL])
def test_only_wait_makes_senders_wait(overflow: Overflow) -> None:
    bench = Bench(capacity=1, overflow=overflow)
    bench.put(0)
    bench.put_later(1)
    assert not bench.queue.waiting
    assert bench.greenlets[0].dead


# ---- waiting senders ------------------------------------------------------------------------------------------------


def test_sender_waits_until_somebody_makes_room(bench: Bench) -> None:
    bench.put(0)
    bench.put(1)
    event = bench.put_later(2)
    turn()
    assert (bench.inside, bench.aside, bench.done) == ([0, 1], [2], [])
    assert event._owner is bench.queue
    assert bench.take().data == 0
    # Whoever made the room has moved the event in; the sender need not have run.
    assert (bench.inside, bench.aside) == ([1, 2], [])
    turn()
    assert bench.done == [2]


def test_nobody_overtakes_a_waiting_sender(bench: Bench) -> None:
    bench.put(0)
    bench.put(1)
    for number in range(2, 6):
        bench.put_later(number)
    taken = [bench.take().data]
    bench.put_later(6)
    while bench.queue.items:
        taken.append(bench.take().data)
        turn()
    assert taken == list(range(7))
    assert bench.done == list(range(2, 7))


def test_plain_puts_are_possible_again_when_nobody_waits(bench: Bench) -> None:
    bench.put(0)
    bench.put(1)
    bench.put_later(2)
    assert bench.queue.limit == 0
    bench.take()
    assert bench.queue.limit == 2
    bench.take()
    bench.put(3)
    assert bench.inside == [2, 3]


def test_waiting_event_is_held_and_counted_in(bench: Bench) -> None:
    bench.put(0)
    bench.put(1)
    bench.put_later(2)
    assert bench.ledger.accepted == 3
    assert bench.is_even()


def test_handler_that_waits_for_room_says_so(bench: Bench) -> None:
    bench.put(0)
    bench.put(1)
    bench.put_later(bench.in_hand(2), is_in_handler=True)
    assert bench.giver.waiting == 1
    bench.take()
    turn()
    assert (bench.giver.waiting, bench.giver.waits) == (0, 1)


def test_killed_sender_takes_its_event_back(bench: Bench) -> None:
    bench.put(0)
    bench.put(1)
    event = bench.put_later(bench.in_hand(2), is_in_handler=True)
    bench.greenlets[0].kill()
    assert isinstance(bench.raised[2], GreenletExit)
    assert event._owner is bench.hand
    assert bench.aside == []
    assert bench.queue.limit == 2
    assert bench.giver.waiting == 0
    assert bench.is_even(in_hands=1)


def test_killed_sender_of_a_fresh_event_leaves_it_uncounted(bench: Bench) -> None:
    bench.put(0)
    bench.put(1)
    event = bench.put_later(2)
    bench.greenlets[0].kill()
    assert event._owner is FRESH
    assert bench.ledger.accepted == 2
    assert bench.is_even()


@pytest.mark.parametrize("outcome", ["kept", "delivered"])
def test_killed_sender_leaves_a_kept_or_delivered_event_as_it_was(bench: Bench, outcome: str) -> None:
    bench.put(0)
    bench.put(1)
    event, kept = bench.in_hand(2), Holding(bench.giver, "kept")
    if outcome == "kept":
        bench.ledger.move(event, kept, bench.giver, in_handler=True)
    else:
        bench.ledger.end(event, Outcome.DELIVERED)
    owner = event._owner
    bench.put_later(event)
    bench.greenlets[0].kill()
    assert event._owner is owner
    assert bench.is_even(in_hands=len(kept.events))


def test_timeout_while_waiting_takes_the_event_back(bench: Bench) -> None:
    bench.put(0)
    bench.put(1)
    event = bench.in_hand(2)
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.001):
        bench.put(event, is_in_handler=True)
    assert event._owner is bench.hand
    assert bench.aside == []


def test_sender_killed_after_its_event_went_in_leaves_it_there(bench: Bench) -> None:
    bench.put(0)
    bench.put(1)
    event = bench.put_later(bench.in_hand(2), is_in_handler=True)
    # The kill comes before the wake-up, although the event is in the queue already.
    bench.greenlets[0].kill(block=False)
    bench.take()
    turn()
    assert isinstance(bench.raised[2], GreenletExit)
    assert event._owner is bench.queue
    assert bench.inside == [1, 2]
    assert bench.giver.waiting == 0
    assert bench.is_even(in_hands=1)


def test_others_keep_their_place_when_one_sender_is_killed(bench: Bench) -> None:
    bench.put(0)
    bench.put(1)
    for number in (2, 3, 4):
        bench.put_later(number)
    bench.greenlets[1].kill()
    assert bench.aside == [2, 4]
    assert bench.queue.limit == 0


def test_expired_event_of_a_waiting_sender_stays_with_the_queue(bench: Bench) -> None:
    clock = VirtualClock()
    ticket = Ticket(clock, DeadlineWheel(clock), 5.0, get_hub().loop)
    bench.put(0)
    bench.put(1)
    event = Event(2)
    ticket.attach(event)
    bench.put_later(event, is_in_handler=True)
    clock.advance(6.0)
    for waiter in bench.queue.waiting:
        waiter.wake()
    turn()
    assert isinstance(bench.raised[2], DeadlineError)
    assert bench.aside == [2]
    assert bench.giver.waiting == 0
    bench.take()
    assert bench.inside == [1, 2]
    assert bench.is_even(in_hands=1)


def test_callback_of_the_hub_cannot_wait_for_room(bench: Bench) -> None:
    bench.put(0)
    bench.put(1)
    event = Event(2)
    with pytest.raises(QueueFullError, match="send from a greenlet"):
        call_in_hub(lambda: bench.put(event))
    assert event._owner is FRESH
    assert bench.is_even()


# ---- over capacity --------------------------------------------------------------------------------------------------


def test_event_given_back_is_the_first_again_and_does_not_count_as_taken(bench: Bench) -> None:
    bench.put(0)
    bench.put(1)
    event = bench.take()
    bench.queue.give_back(event)
    assert bench.inside == [0, 1]
    assert event._owner is bench.queue
    assert bench.queue.taken == 0
    assert bench.is_even()


def test_event_given_back_needs_no_room(bench: Bench) -> None:
    bench.put(0)
    bench.put(1)
    event = bench.take()
    bench.put(2)
    bench.queue.give_back(event)
    assert bench.inside == [0, 1, 2]


def test_waiting_sender_waits_on_while_the_queue_is_over_capacity(bench: Bench) -> None:
    bench.put(0)
    bench.put(1)
    event = bench.take()
    bench.put(2)
    bench.queue.give_back(event)
    bench.put_later(3)
    taken = [bench.take().data]
    assert (bench.inside, bench.aside) == ([1, 2], [3])
    taken.append(bench.take().data)
    assert (bench.inside, bench.aside) == ([2, 3], [])
    assert taken == [0, 1]


def test_event_that_waited_aside_re_enters_at_the_end_over_capacity() -> None:
    bench = Bench(capacity=1)
    bench.put(0)
    event, aside = bench.take(), Holding(bench.giver, "waiting aside for a retry")
    bench.ledger.move(event, aside, bench.giver, in_handler=True)
    bench.put(1)
    bench.queue.re_enter(event, bench.ledger, bench.giver)
    assert bench.inside == [1, 0]
    assert not aside.events
    assert bench.queue.taken == 0
    assert bench.is_even()


@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.DROP_NEWEST, Overflow.FAIL])
def test_policy_rules_over_capacity_too(overflow: Overflow) -> None:
    bench = Bench(capacity=1, overflow=overflow)
    bench.put(0)
    event = bench.take()
    bench.put(1)
    bench.queue.give_back(event)
    try:
        bench.put(2)
    except QueueFullError:
        assert overflow is Overflow.FAIL
    assert len(bench.queue.items) == 2
    assert bench.is_even()


# ---- closing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overflow", Overflow)
def test_closed_queue_refuses_every_put(overflow: Overflow) -> None:
    bench = Bench(overflow=overflow)
    bench.put(0)
    bench.queue.close()
    event = Event(1)
    with pytest.raises(DirectorStoppedError, match="'giver → taker' is closed"):
        bench.put(event)
    assert event._owner is FRESH
    assert bench.inside == [0]


def test_opened_queue_takes_events_again(bench: Bench) -> None:
    bench.queue.close()
    bench.queue.open()
    bench.put(0)
    assert bench.inside == [0]


def test_clear_gives_everything_out_in_order_and_tells_the_senders(bench: Bench) -> None:
    bench.put(0)
    bench.put(1)
    waiting = [bench.put_later(number) for number in (2, 3)]
    out = []
    for event in bench.queue.clear():
        out.append(event.data)
        bench.ledger.end(event, Outcome.DEAD)
    turn()
    assert out == [0, 1, 2, 3]
    assert all(isinstance(bench.raised[event.data], DirectorStoppedError) for event in waiting)
    assert all(event._owner is ENDINGS[Outcome.DEAD] for event in waiting)
    assert bench.is_even()


def test_cleared_queue_takes_events_as_before(bench: Bench) -> None:
    bench.put(0)
    bench.put(1)
    bench.put_later(2)
    for event in bench.queue.clear():
        bench.ledger.end(event, Outcome.DEAD)
    bench.put(3)
    bench.put(4)
    assert bench.inside == [3, 4]


def test_closed_queue_stays_closed_when_it_is_cleared(bench: Bench) -> None:
    bench.put(0)
    bench.put(1)
    bench.put_later(2)
    bench.queue.close()
    for event in bench.queue.clear():
        bench.ledger.end(event, Outcome.DEAD)
    with pytest.raises(DirectorStoppedError):
        bench.put(3)


def test_closed_queue_stays_closed_when_room_is_made(bench: Bench) -> None:
    bench.put(0)
    bench.put(1)
    bench.put_later(2)
    bench.queue.close()
    bench.take()
    bench.take()
    with pytest.raises(DirectorStoppedError):
        bench.put(3)


# ---- rings ----------------------------------------------------------------------------------------------------------


def test_put_in_a_ring_never_waits_and_is_refused_at_four_times_its_capacity() -> None:
    bench = Bench(capacity=2)
    bench.queue.ring = Ring([bench.taker], [bench.queue])
    for number in range(8):
        bench.put(number)
    with pytest.raises(RingFullError, match="taker → taker") as raised:
        bench.put(8)
    assert raised.value.capacity == 2
    assert bench.inside == list(range(8))
    assert bench.is_even()


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "outbox", "inbox", "name"),
    [
        ("a", "b", "a", "a → b"),
        ("a", "out", "a", "a.out → b"),
        ("a", "b", "in", "a → b.in"),
        ("a", "out", "in", "a.out → b.in"),
        ("", "", "", "outside → b"),
        ("", "", "log", "outside → b.log"),
    ],
)
def test_name_says_what_is_connected_and_nothing_twice(source: str, outbox: str, inbox: str, name: str) -> None:
    taker = Taker()
    taker.name = "b"
    queue = Queue(source, outbox, taker, inbox, capacity=5)
    assert queue.name == name
    assert repr(queue) == f"<Queue {name}: 0 of 5, 0 waiting>"


# ---- any history whatever -------------------------------------------------------------------------------------------


class Histories(RuleBasedStateMachine):
    """Puts, takes, kills and returns in any order, beside a model of two lists."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0
        self.hands: list[Event] = []
        self.bench = Bench()
        #: The model: what is inside, what waits, and which put belongs to which waiting greenlet.
        self.inside: deque[int] = deque()
        self.waiting: list[tuple[int, Any]] = []
        self.dropped = 0

    @initialize(capacity=st.integers(1, 4), overflow=st.sampled_from(Overflow))
    def begin(self, capacity: int, overflow: Overflow) -> None:
        self.bench = Bench(capacity, overflow)

    def teardown(self) -> None:
        for event in self.hands:
            self.bench.ledger.end(event, Outcome.DELIVERED)
        self.bench.close()
        assert self.bench.is_even()

    def move_in(self) -> None:
        while self.waiting and len(self.inside) < self.bench.queue.capacity:
            self.inside.append(self.waiting.pop(0)[0])

    @rule()
    def put(self) -> None:
        number = self.numbers = self.numbers + 1
        is_full = len(self.inside) >= self.bench.queue.capacity or bool(self.waiting)
        self.bench.put_later(number)
        overflow = self.bench.queue.overflow
        if not is_full:
            self.inside.append(number)
        elif overflow is Overflow.WAIT:
            self.waiting.append((number, self.bench.greenlets[-1]))
        elif overflow is Overflow.DROP_NEWEST:
            self.dropped += 1
        elif overflow is Overflow.DROP_OLDEST:
            self.dropped += 1
            self.inside.popleft()
            self.inside.append(number)
        else:
            assert isinstance(self.bench.raised[number], QueueFullError)

    @precondition(lambda self: self.inside)
    @rule()
    def take(self) -> None:
        event = self.bench.take()
        self.hands.append(event)
        assert event.data == self.inside.popleft()
        self.move_in()

    @precondition(lambda self: self.hands)
    @rule(number=st.integers(0, 9))
    def finish(self, number: int) -> None:
        self.bench.ledger.end(self.hands.pop(number % len(self.hands)), Outcome.DELIVERED)

    @precondition(lambda self: self.hands)
    @rule(number=st.integers(0, 9))
    def give_back(self, number: int) -> None:
        event = self.hands.pop(number % len(self.hands))
        self.bench.queue.give_back(event)
        self.inside.appendleft(event.data)

    @precondition(lambda self: self.waiting)
    @rule(number=st.integers(0, 9))
    def kill(self, number: int) -> None:
        data, greenlet = self.waiting.pop(number % len(self.waiting))
        greenlet.kill()
        assert isinstance(self.bench.raised[data], GreenletExit)

    @rule()
    def let_others_run(self) -> None:
        gevent.sleep(0)
        gevent.sleep(0)
        waiting = {number for number, _ in self.waiting}
        assert all(greenlet.dead for greenlet in self.bench.greenlets if greenlet not in dict(self.waiting).values())
        assert not waiting & set(self.bench.done)

    @invariant()
    def queue_is_as_the_model(self) -> None:
        assert self.bench.inside == list(self.inside)
        assert self.bench.aside == [number for number, _ in self.waiting]
        assert self.bench.queue.dropped == self.dropped
        assert self.bench.is_even(in_hands=len(self.hands))

    @invariant()
    def limit_says_whether_a_put_is_plain(self) -> None:
        assert self.bench.queue.limit == (0 if self.waiting else self.bench.queue.capacity)


def test_queue_is_first_in_first_out_whatever_happens() -> None:
    run_state_machine_as_test(Histories, settings=settings(max_examples=80, stateful_step_count=40))


def test_delivered_event_can_be_put_again(bench: Bench) -> None:
    event = bench.in_hand(0)
    bench.ledger.end(event, Outcome.DELIVERED)
    assert event._owner is DELIVERED
    bench.put(event)
    assert bench.inside == [0]
    assert bench.ledger.born == 1
    assert bench.is_even()
