# SPDX-License-Identifier: Apache-2.0
"""What `VirtualClock` promises beside the contract of clocks (`tests/unit/test_clock.py`): who moves time, and how."""

import time

import gevent
import pytest
from gevent.event import Event as Gate

from compysition import Actor, Director, Event, Fatal, Retry
from compysition.backoff import Backoff
from compysition.clock import CLOCK, Clock
from compysition.errors import DeadlineError, HandlerTimeoutError, UsageError
from compysition.testing import Collector, Handler, VirtualClock, running, settle, wait_until

pytestmark = [pytest.mark.patched, pytest.mark.unpatched]

HOUR_S = 3600.0


def give_back(actor: Actor, event: Event) -> None:
    raise Retry(after_s=HOUR_S)


# ---- who has it ---------------------------------------------------------------------------------------------------


def test_a_director_that_is_made_in_the_block_has_this_clock_and_others_have_real_ones() -> None:
    with VirtualClock() as clock:
        inside = Director()
    outside = Director()
    assert inside.clock is clock
    assert type(outside.clock) is Clock


def test_blocks_may_be_nested_and_the_inner_one_rules() -> None:
    outer, inner = VirtualClock(), VirtualClock()
    with outer:
        with inner:
            assert Director().clock is inner
        assert Director().clock is outer
    assert CLOCK.get() is None


# ---- advance ------------------------------------------------------------------------------------------------------


def test_calls_are_made_at_their_times_and_what_comes_of_one_is_done_before_the_next() -> None:
    clock = VirtualClock()
    began = clock.now
    seen: list[tuple[str, float]] = []

    def note(what: str) -> None:
        seen.append((what, round(clock.now - began, 6)))

    def through_greenlets() -> None:
        gevent.spawn(lambda: gevent.spawn(lambda: gevent.spawn(note, "all that comes of it")))

    clock.call_later(2.0, lambda: note("second"))
    clock.call_later(1.0, through_greenlets)
    clock.advance(5.0)
    assert seen == [("all that comes of it", 1.0), ("second", 2.0)]
    assert clock.now == began + 5.0


def test_a_call_may_ask_for_another_within_the_same_advance() -> None:
    clock = VirtualClock()
    calls: list[float] = []

    def again() -> None:
        calls.append(clock.now)
        clock.call_later(1.0, again)

    clock.call_later(1.0, again)
    clock.advance(3.5)
    assert [call - 1000.0 for call in calls] == [1.0, 2.0, 3.0]


def test_sums_of_decimal_fractions_do_not_miss() -> None:
    clock = VirtualClock()
    calls: list[str] = []
    clock.call_later(0.3, lambda: calls.append("made"))
    for _ in range(3):
        clock.advance(0.1)
    assert calls == ["made"]


def test_nothing_is_due_before_its_time() -> None:
    clock = VirtualClock()
    calls: list[str] = []
    clock.call_later(1.0, lambda: calls.append("made"))
    clock.advance(0.999)
    assert calls == []


@pytest.mark.parametrize("seconds", [-0.001, float("nan"), float("inf")])
def test_time_does_not_go_back_and_comes_to_an_end(seconds: float) -> None:
    with pytest.raises(ValueError, match="wanted is a number from 0 on"):
        VirtualClock().advance(seconds)


def test_timers_that_fire_for_ever_at_one_time_are_an_error() -> None:
    clock = VirtualClock()

    def again() -> None:
        clock.call_later(0.0, again)

    again()
    with pytest.raises(AssertionError, match=r"time does not go on.*again"):
        clock.advance(1.0)


def test_what_a_call_raises_is_raised_where_time_was_moved() -> None:
    clock = VirtualClock()

    def fail() -> None:
        raise ZeroDivisionError

    clock.call_later(1.0, fail)
    with pytest.raises(ZeroDivisionError):
        clock.advance(2.0)
    clock.advance(1.0)  # and the clock works on


def test_only_one_moves_time() -> None:
    clock = VirtualClock()
    with clock.jumping(), pytest.raises(UsageError, match=r"advance\(\) was called while jumping\(\)"):
        clock.advance(1.0)
    clock.advance(1.0)


# ---- jumping ------------------------------------------------------------------------------------------------------


def test_time_jumps_until_the_condition_holds_and_no_further() -> None:
    clock = VirtualClock()
    calls: list[int] = []
    for number in range(1, 4):
        clock.call_later(number * HOUR_S, lambda number=number: calls.append(number))  # type: ignore[misc]
    assert clock.jump_until(lambda: 2 in calls) == 2 * HOUR_S
    assert calls == [1, 2]


def test_a_condition_that_never_holds_is_named_with_its_source() -> None:
    light: list[str] = []
    with pytest.raises(AssertionError, match=r"lambda: \"green\" in light"):
        VirtualClock().jump_until(lambda: "green" in light, timeout_s=0.05)


def test_a_wait_for_time_returns_at_once_while_time_jumps() -> None:
    clock = VirtualClock()
    began = time.perf_counter()
    with clock.jumping():
        clock.sleep(HOUR_S)
        clock.sleep(HOUR_S)
    assert clock.now == 1_000.0 + 2 * HOUR_S
    assert time.perf_counter() - began < 60.0


def test_an_error_of_the_jumps_reaches_who_waits() -> None:
    clock = VirtualClock()

    def again() -> None:
        clock.call_later(0.0, again)

    again()
    with pytest.raises(AssertionError, match="time does not go on"), clock.jumping():
        clock.sleep(1.0)


def test_time_holds_while_something_waits_for_a_thread() -> None:
    with VirtualClock() as clock:
        director = Director()
    working = director.register_actor(
        Handler, "working", lambda actor, event: actor.offload(time.sleep, 0.02, timeout_s=HOUR_S)
    )
    with running(director), clock.jumping():
        director.ask(working, 1, timeout_s=HOUR_S)
    assert clock.now < 1_000.0 + HOUR_S


# ---- what moves with it ---------------------------------------------------------------------------------------------


def test_retries_sleeps_and_deadlines_move_with_the_clock() -> None:
    with VirtualClock() as clock:
        director = Director()
    patient = director.register_actor(Handler, "patient", give_back)
    sleeper = director.register_actor(Handler, "sleeper", lambda actor, event: actor.sleep(HOUR_S))
    outcome: list[str] = []

    def ask() -> None:
        try:
            director.ask(patient, "too long", timeout_s=60.0)
        except DeadlineError:
            outcome.append("too late")

    with running(director, allow_left=True):
        asking = gevent.spawn(ask)
        director.post(sleeper, 1)
        settle()
        clock.advance(59.0)
        assert (director.snapshot().actors["sleeper"].in_flight, outcome) == (1, [])
        clock.advance(1.1)  # a deadline may be noticed 0.05 s late
        assert outcome == ["too late"]
        asking.join()
        clock.advance(HOUR_S)
        assert director.snapshot().actors["sleeper"].in_flight == 0


def test_a_restart_comes_after_its_backoff() -> None:
    def die_once(actor: Actor, event: Event) -> None:
        if not event.attempts:
            raise Fatal

    with VirtualClock() as clock:
        director = Director()
    fragile = director.register_actor(Handler, "fragile", die_once)
    with running(director):
        director.post(fragile, 1)
        settle()
        assert director.snapshot().actors["fragile"].state == "restarting"
        clock.advance(Backoff().first_s - 0.01)
        assert director.snapshot().actors["fragile"].restarts == 0
        clock.advance(0.02)
        assert director.snapshot().actors["fragile"].restarts == 1


def test_offload_ends_by_the_clock_though_its_thread_goes_on() -> None:
    gate = Gate()
    lock = gevent.monkey.get_original("_thread", "allocate_lock")()
    lock.acquire()
    errors: list[BaseException] = []

    def consume(actor: Actor, event: Event) -> None:
        try:
            actor.offload(lock.acquire, timeout_s=HOUR_S)
        except HandlerTimeoutError as error:
            errors.append(error)
        gate.set()

    with VirtualClock() as clock:
        director = Director()
    director.register_actor(Handler, "blocked", consume)
    with running(director):
        director.post("blocked", 1)
        clock.advance(HOUR_S - 1)
        assert errors == []
        clock.advance(2)
        assert gate.is_set()
        lock.release()
    assert len(errors) == 1


def test_a_stop_takes_its_time_on_the_clock_and_none_in_reality() -> None:
    with VirtualClock() as clock:
        director = Director()
    keeper = director.register_actor(Handler, "keeper", lambda actor, event: actor.keep(event))
    with running(director, stop_timeout_s=HOUR_S, allow_left=True):
        director.post(keeper, 1)
        settle()
    assert director.last_report is not None
    assert director.last_report.took_s >= HOUR_S
    assert clock.now >= 1_000.0 + HOUR_S


def test_a_start_whose_hooks_sleep_takes_no_real_time() -> None:
    class Slow(Collector):
        def pre_hook(self) -> None:
            self.sleep(20.0)

    with VirtualClock() as clock:
        director = Director()
    director.register_actor(Slow, "slow")
    with running(director):
        assert clock.now == 1_020.0


def test_backoffs_have_no_jitter_or_one_that_comes_back() -> None:
    assert Backoff().delay_s(1, VirtualClock().rng) == 0.1
    drawn = [Backoff().delay_s(1, VirtualClock(seed=7).rng) for _ in range(2)]
    assert drawn[0] == drawn[1] != 0.1


def test_the_loop_guard_keeps_to_real_time(caplog: pytest.LogCaptureFixture) -> None:
    with VirtualClock() as clock:
        director = Director()
    director.register_actor(Collector, "any")
    with running(director):
        for _ in range(20):
            clock.advance(HOUR_S)
        gevent.sleep(0.06)
    assert not [record for record in caplog.records if "has not turned" in record.message]


def test_a_stopped_clock_does_not_stop_real_waits() -> None:
    with VirtualClock() as clock:
        director = Director()
    got = director.register_actor(Collector, "got")
    with running(director):
        gevent.spawn_later(0.005, director.post, got, 1)
        wait_until(lambda: got.data == [1])
    assert clock.now == 1_000.0
