# SPDX-License-Identifier: Apache-2.0
"""The loop guard says who holds the hub, and nothing when nobody does."""

import logging
import time
from collections.abc import Callable

import gevent
import pytest
from gevent import get_hub

from compysition import Actor, Director, Event
from compysition.clock import Clock
from compysition.loopguard import HELD_S, SILENCE_S, LoopGuard
from tests.fault.conservation import Collector, Handler, SteeredClock, assert_conserved, running, wait_until

pytestmark = pytest.mark.timeout(20)

#: Long enough that the guard has to see it, on a busy machine too.
LONG_S = 4 * HELD_S


def hold_the_hub() -> None:
    """Uses the processor, as a user's own loop would; no C function that could be told apart."""
    until = time.perf_counter() + LONG_S
    while time.perf_counter() < until:
        sum(range(1000))


def reports(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "compysition.loopguard"]


def test_a_handler_that_holds_the_hub_is_named_with_its_event_and_stack(caplog: pytest.LogCaptureFixture) -> None:
    director = Director()
    actor = director.register_actor(Handler, "busy", lambda actor, event: hold_the_hub())
    event = Event(1)
    event_id = event.event_id
    with running(director):
        director.post(actor, event)
        wait_until(lambda: reports(caplog))
        assert_conserved(director)
    [record] = reports(caplog)
    text = record.getMessage()
    assert record.levelno == logging.WARNING
    assert "actor busy" in text
    assert event_id in text
    assert "hold_the_hub" in text
    assert "offload" in text
    assert (record.actor, record.event_id) == ("busy", event_id)  # type: ignore[attr-defined]  # fields of our own


def test_a_blocking_call_in_a_handler_is_named(caplog: pytest.LogCaptureFixture) -> None:
    director = Director()
    actor = director.register_actor(Handler, "blocking", lambda actor, event: time.sleep(LONG_S))
    with running(director):
        director.post(actor, 1)
        wait_until(lambda: reports(caplog))
    [record] = reports(caplog)
    assert "actor blocking" in record.getMessage()


@pytest.mark.parametrize("where", ["background", "hook", "callback", "main"])
def test_whoever_else_holds_the_hub_is_shown_by_the_stack(where: str, caplog: pytest.LogCaptureFixture) -> None:
    class Busy(Collector):
        def pre_hook(self) -> None:
            if where == "background":
                self.background(self.work)

        def post_hook(self) -> None:
            if where == "hook":
                hold_the_hub()

        def work(self) -> None:
            hold_the_hub()

    director = Director()
    director.register_actor(Busy, "actor")
    with running(director):
        if where == "callback":
            get_hub().loop.run_callback(hold_the_hub)
        elif where == "main":
            hold_the_hub()
        elif where == "background":
            wait_until(lambda: reports(caplog))
        gevent.sleep(0.01)
    assert any("hold_the_hub" in record.getMessage() for record in reports(caplog))


def test_an_idle_director_and_one_that_waits_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    director = Director()
    actor = director.register_actor(Handler, "actor", lambda actor, event: gevent.sleep(3 * HELD_S))
    with running(director):
        gevent.sleep(3 * HELD_S)
        director.post(actor, 1)
        wait_until(lambda: director.snapshot().actors["actor"].received == 1)
    assert reports(caplog) == []


def spin(seconds: float) -> None:
    """Use the processor for so long."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def test_many_short_handlers_without_a_pause_are_not_reported(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Less strict than usual: that the machine is busy with something else is not what this is about.
    monkeypatch.setattr("compysition.runtime.LoopGuard", lambda clock: LoopGuard(clock, held_s=0.4))
    director = Director(size=1000)
    actor = director.register_actor(Handler, "actor", lambda actor, event: spin(0.002))
    with running(director):
        for number in range(400):
            director.post(actor, number)
        wait_until(lambda: director.snapshot().actors["actor"].received == 400)
    assert reports(caplog) == []


def test_a_burst_of_slow_handlers_lets_others_in_between() -> None:
    gaps: list[float] = []

    def tick() -> None:
        last = time.perf_counter()
        while True:
            gevent.sleep(0.001)
            now = time.perf_counter()
            gaps.append(now - last)
            last = now

    director = Director(size=1000)
    actor = director.register_actor(Handler, "actor", lambda actor, event: spin(0.005))
    for number in range(100):
        director.post(actor, number)
    ticker = gevent.spawn(tick)
    gevent.sleep(0)
    with running(director):
        wait_until(lambda: director.snapshot().actors["actor"].received == 100)
        ticker.kill()
    # A slice is bounded by the clock: 2 ms, and whatever one handler takes.
    assert max(gaps) < 0.15


def test_one_place_is_reported_once_a_minute_and_another_place_at_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere() -> None:
        until = time.perf_counter() + LONG_S
        while time.perf_counter() < until:
            sum(range(1000))

    clock = SteeredClock()
    monkeypatch.setattr("compysition.runtime.Clock", lambda: clock)
    director = Director()

    def consume(actor: Actor, event: Event) -> None:
        function: Callable[[], None] = event.data
        function()

    actor = director.register_actor(Handler, "actor", consume)
    received = 0

    def run(function: Callable[[], None]) -> None:
        nonlocal received
        received += 1
        director.post(actor, function)
        wait_until(lambda: director.snapshot().actors["actor"].received == received)

    with running(director):
        run(hold_the_hub)
        assert len(reports(caplog)) == 1
        run(hold_the_hub)
        assert len(reports(caplog)) == 1
        run(elsewhere)
        assert len(reports(caplog)) == 2
        clock.advance(SILENCE_S)
        run(hold_the_hub)
        assert len(reports(caplog)) == 3


def test_the_report_reaches_the_log_actor() -> None:
    director = Director()
    log = director.register_log_actor(Collector, "log")
    actor = director.register_actor(Handler, "busy", lambda actor, event: hold_the_hub())
    with running(director):
        director.post(actor, 1)
        wait_until(lambda: any("has not turned" in entry["message"] for entry in log.data))
        assert_conserved(director)


def test_a_guard_can_be_stopped_at_any_moment_and_more_than_once() -> None:
    guard = LoopGuard(Clock())
    guard.start()
    guard.stop()
    guard.stop()
    guard.start()
    gevent.sleep(0.05)
    guard.stop()
