# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.deadlines`, in virtual time."""

import gc
import weakref
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compysition.deadlines import TICK_S, DeadlineWheel
from compysition.testing import VirtualClock

#: What arithmetic with floats may cost.
ROUNDING_S = 1e-9


class Entry:
    """Notes when it was expired."""

    def __init__(self, clock: VirtualClock, also: Callable[[], object] = lambda: None) -> None:
        self.clock = clock
        self.also = also
        self.times: list[float] = []

    def expire(self) -> None:
        self.times.append(self.clock.now)
        self.also()


@pytest.fixture
def wheel(clock: VirtualClock) -> DeadlineWheel:
    return DeadlineWheel(clock)


# ---- when -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=20), st.floats(0.0, 10_000.0))
def test_entry_expires_once_never_early_and_at_most_a_tick_late(delays: list[float], now: float) -> None:
    clock = VirtualClock(now)
    wheel = DeadlineWheel(clock)
    entries = [(now + delay, Entry(clock)) for delay in delays]
    for deadline, entry in entries:
        wheel.add(entry, deadline)
    clock.advance(101.0)
    for deadline, entry in entries:
        [at] = entry.times
        assert deadline - ROUNDING_S <= at <= deadline + TICK_S + ROUNDING_S
    assert len(wheel) == 0


@pytest.mark.parametrize("number", range(1, 200))
def test_deadline_on_a_tick_expires_without_turning_on_the_spot(number: int) -> None:
    clock = VirtualClock(0.0)
    wheel = DeadlineWheel(clock)
    entry = Entry(clock)
    wheel.add(entry, number * TICK_S)
    clock.advance(number * TICK_S + TICK_S + ROUNDING_S)
    assert len(entry.times) == 1


def test_deadline_in_the_past_expires_at_once(clock: VirtualClock, wheel: DeadlineWheel) -> None:
    entry = Entry(clock)
    wheel.add(entry, clock.now - 5.0)
    clock.advance(0.0)
    assert entry.times == [clock.now]


def test_earlier_deadline_added_later_is_not_late(clock: VirtualClock, wheel: DeadlineWheel) -> None:
    late, early = Entry(clock), Entry(clock)
    began = clock.now
    wheel.add(late, began + 10.0)
    wheel.add(early, began + 1.0)
    clock.advance(2.0)
    assert early.times[0] == pytest.approx(began + 1.0, abs=TICK_S + ROUNDING_S)
    assert late.times == []
    clock.advance(9.0)
    assert late.times[0] == pytest.approx(began + 10.0, abs=TICK_S + ROUNDING_S)


def test_entry_added_by_an_expiring_one_does_not_delay_those_before_it(
    clock: VirtualClock, wheel: DeadlineWheel
) -> None:
    began = clock.now
    last, middle = Entry(clock), Entry(clock)
    first = Entry(clock, also=lambda: wheel.add(last, began + 10.0))
    wheel.add(first, began + 1.0)
    wheel.add(middle, began + 2.0)
    clock.advance(20.0)
    assert middle.times[0] <= began + 2.0 + TICK_S + ROUNDING_S
    assert last.times[0] <= began + 10.0 + TICK_S + ROUNDING_S


def test_entries_of_one_tick_share_a_timer(clock: VirtualClock, wheel: DeadlineWheel) -> None:
    for _ in range(1000):
        wheel.add(Entry(clock), clock.now + 1.0)
    assert clock.pending == 1


# ---- what does not matter any more ----------------------------------------------------------------------------------


def test_discarded_entry_does_not_expire(clock: VirtualClock, wheel: DeadlineWheel) -> None:
    kept, discarded = Entry(clock), Entry(clock)
    wheel.add(kept, clock.now + 1.0)
    index = wheel.add(discarded, clock.now + 1.0)
    wheel.discard(discarded, index)
    clock.advance(2.0)
    assert len(kept.times) == 1
    assert discarded.times == []


def test_discarded_entry_leaves_nothing_behind(clock: VirtualClock, wheel: DeadlineWheel) -> None:
    entry = Entry(clock)
    seen = weakref.ref(entry)
    wheel.discard(entry, wheel.add(entry, clock.now + 30.0))
    del entry
    gc.collect()
    assert seen() is None
    assert len(wheel) == 0


def test_discard_is_harmless_after_the_end_and_twice(clock: VirtualClock, wheel: DeadlineWheel) -> None:
    entry = Entry(clock)
    index = wheel.add(entry, clock.now + 1.0)
    clock.advance(2.0)
    wheel.discard(entry, index)
    wheel.discard(entry, index)
    assert len(entry.times) == 1


def test_entry_added_after_all_others_were_discarded_expires(clock: VirtualClock, wheel: DeadlineWheel) -> None:
    first, second = Entry(clock), Entry(clock)
    wheel.discard(first, wheel.add(first, clock.now + 1.0))
    wheel.add(second, clock.now + 3.0)
    clock.advance(4.0)
    assert first.times == []
    assert len(second.times) == 1


def test_entry_may_discard_another_while_it_expires(clock: VirtualClock, wheel: DeadlineWheel) -> None:
    later = Entry(clock)
    index = wheel.add(later, clock.now + 2.0)
    wheel.add(Entry(clock, also=lambda: wheel.discard(later, index)), clock.now + 1.0)
    clock.advance(5.0)
    assert later.times == []


def test_number_of_entries_is_known(clock: VirtualClock, wheel: DeadlineWheel) -> None:
    for number in range(5):
        wheel.add(Entry(clock), clock.now + number)
    assert len(wheel) == 5


def test_closed_wheel_expires_everything_at_once(clock: VirtualClock, wheel: DeadlineWheel) -> None:
    # Nobody will look at the time any more, and whoever waits must not wait for ever.
    entries = [Entry(clock), Entry(clock)]
    for number, entry in enumerate(entries):
        wheel.add(entry, clock.now + number)
    closed_at = clock.now
    wheel.close()
    clock.advance(5.0)
    assert [entry.times for entry in entries] == [[closed_at], [closed_at]]
    assert (len(wheel), clock.pending) == (0, 0)


def test_closed_wheel_can_be_used_again(clock: VirtualClock, wheel: DeadlineWheel) -> None:
    wheel.add(Entry(clock), clock.now + 1.0)
    wheel.close()
    entry = Entry(clock)
    wheel.add(entry, clock.now + 2.0)
    clock.advance(3.0)
    assert len(entry.times) == 1


# ---- any history whatever -------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(["add", "discard", "advance"]), st.floats(0.0, 5.0)), max_size=60))
def test_entries_expire_in_time_whatever_was_added_and_discarded(steps: list[tuple[str, float]]) -> None:
    clock = VirtualClock()
    wheel = DeadlineWheel(clock)
    waiting: list[tuple[float, int, Entry]] = []
    for what, number in steps:
        if what == "add":
            entry = Entry(clock)
            waiting.append((clock.now + number, wheel.add(entry, clock.now + number), entry))
        elif what == "discard" and waiting:
            _, index, entry = waiting.pop(int(number * 10) % len(waiting))
            was = len(entry.times)
            wheel.discard(entry, index)
            clock.advance(0.0)
            assert len(entry.times) == was
        else:
            clock.advance(number)
        for deadline, _, entry in waiting:
            if deadline + TICK_S + ROUNDING_S < clock.now:
                assert len(entry.times) == 1
            if deadline > clock.now + ROUNDING_S:
                assert entry.times == []
        assert len(wheel) == sum(1 for _, _, entry in waiting if not entry.times)
