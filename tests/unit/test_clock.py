# SPDX-License-Identifier: Apache-2.0
"""The contract of a clock, which the real and the virtual one keep; and what only the real one promises."""

import gc
import time
import weakref
from collections.abc import Callable

import gevent
import pytest
from gevent import get_hub, getcurrent

from compysition.clock import Clock
from compysition.testing import VirtualClock
from tests.unit.kernel import wait_until

#: The loop's own clock is a little coarser.
COARSE_S = 0.001
#: Passes time on a clock until a condition holds.
Passing = Callable[[Callable[[], object]], None]


@pytest.fixture(params=["real", "virtual"])
def either(request: pytest.FixtureRequest) -> tuple[Clock, Passing]:
    if request.param == "real":
        return Clock(), wait_until
    clock = VirtualClock()

    def pass_time(condition: Callable[[], object]) -> None:
        for _ in range(1000):
            if condition():
                return
            clock.advance(0.01)
            gevent.sleep(0)
        raise AssertionError("it did not happen within ten virtual seconds")

    return clock, pass_time


# ---- the contract ---------------------------------------------------------------------------------------------------


def test_call_is_made_in_the_hub_not_before_its_time(either: tuple[Clock, Passing]) -> None:
    clock, until = either
    calls: list[tuple[bool, float]] = []
    began = clock.monotonic()
    clock.call_later(0.02, lambda: calls.append((getcurrent() is get_hub(), clock.monotonic() - began)))
    until(lambda: calls)
    [(is_in_hub, after_s)] = calls
    assert is_in_hub
    assert after_s >= 0.02 - COARSE_S


def test_call_is_made_once(either: tuple[Clock, Passing]) -> None:
    clock, until = either
    calls: list[str] = []
    clock.call_later(0.0, lambda: calls.append("once"))
    clock.call_later(0.01, lambda: calls.append("later"))
    until(lambda: "later" in calls)
    assert calls == ["once", "later"]


def test_calls_are_made_in_the_order_of_their_times(either: tuple[Clock, Passing]) -> None:
    clock, until = either
    calls: list[int] = []
    for number in (3, 1, 2):
        clock.call_later(number * 0.02, lambda number=number: calls.append(number))  # type: ignore[misc]
    until(lambda: len(calls) == 3)
    assert calls == [1, 2, 3]


def test_cancelled_call_is_not_made(either: tuple[Clock, Passing]) -> None:
    clock, until = either
    calls: list[str] = []
    timer = clock.call_later(0.01, lambda: calls.append("cancelled"))
    clock.call_later(0.02, lambda: calls.append("other"))
    timer.cancel()
    until(lambda: calls)
    assert calls == ["other"]


def test_cancel_is_harmless_afterwards_and_twice(either: tuple[Clock, Passing]) -> None:
    clock, until = either
    calls: list[str] = []
    timer = clock.call_later(0.0, lambda: calls.append("made"))
    until(lambda: calls)
    timer.cancel()
    timer.cancel()
    assert calls == ["made"]


def test_call_may_cancel_itself_and_ask_for_another(either: tuple[Clock, Passing]) -> None:
    clock, until = either
    calls: list[str] = []

    def first() -> None:
        timer.cancel()
        calls.append("first")
        clock.call_later(0.0, lambda: calls.append("second"))

    timer = clock.call_later(0.0, first)
    until(lambda: len(calls) == 2)
    assert calls == ["first", "second"]


def test_delay_in_the_past_is_at_once(either: tuple[Clock, Passing]) -> None:
    clock, until = either
    calls: list[str] = []
    clock.call_later(-5.0, lambda: calls.append("made"))
    until(lambda: calls)
    assert calls == ["made"]


def test_cancelled_call_keeps_nothing_alive(either: tuple[Clock, Passing]) -> None:
    clock, _ = either

    class Payload:
        def call(self) -> None:
            raise AssertionError

    payload = Payload()
    seen = weakref.ref(payload)
    timer = clock.call_later(60.0, payload.call)
    timer.cancel()
    del payload
    gc.collect()
    assert seen() is None


def test_sleep_lets_others_run(either: tuple[Clock, Passing]) -> None:
    clock, until = either
    order: list[str] = []

    def sleeper() -> None:
        clock.sleep(0.02)
        order.append("sleeper")

    sleeping = gevent.spawn(sleeper)
    clock.call_later(0.01, lambda: order.append("other"))
    until(lambda: sleeping.dead)
    assert order == ["other", "sleeper"]


def test_monotonic_never_goes_back(either: tuple[Clock, Passing]) -> None:
    clock, _ = either
    readings = [clock.monotonic() for _ in range(1000)]
    assert readings == sorted(readings)


# ---- the real one ---------------------------------------------------------------------------------------------------


def test_wall_is_seconds_since_1970() -> None:
    assert abs(Clock().wall() - time.time()) < 5.0


def test_call_is_not_made_early_after_the_hub_was_held() -> None:
    clock = Clock()
    calls: list[float] = []
    time.sleep(0.05)  # what a handler does that computes
    began = clock.monotonic()
    clock.call_later(0.03, lambda: calls.append(clock.monotonic() - began))
    wait_until(lambda: calls)
    assert calls[0] >= 0.03 - COARSE_S
