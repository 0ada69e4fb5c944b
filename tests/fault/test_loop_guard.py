# SPDX-License-Identifier: Apache-2.0
"""The loop guard says who holds the hub, and nothing when nobody does."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import gevent
import pytest
from gevent import get_hub

from compysition import Actor, Director, Event
from compysition.clock import Clock
from compysition.dispatch import SLICE_S
from compysition.loopguard import HELD_S, SILENCE_S, LoopGuard
from compysition.testing.waiting import PATIENCE_S
from tests.fault.conservation import Collector, Handler, SteeredClock, assert_conserved, running, wait_until

pytestmark = pytest.mark.timeout(20)

#: Long enough that the guard has to see it, if its thread gets a turn at all.
LONG_S = 4 * HELD_S


def hold_the_hub(is_enough: Callable[[], object] | None = None) -> None:
    """Uses the processor, as a user's own loop would; no C function that could be told apart.

    Until `is_enough`, so that it does not matter how late the guard's thread gets its turn; without it for `LONG_S`.
    """
    until = time.perf_counter() + (LONG_S if is_enough is None else PATIENCE_S)
    while time.perf_counter() < until and not (is_enough is not None and is_enough()):
        sum(range(1000))


def reports(caplog: pytest.LogCaptureFixture, *words: str) -> list[logging.LogRecord]:
    """What was reported with all these words in it. On a busy machine anything else may be slow enough as well."""
    found = [record for record in caplog.records if record.name == "compysition.loopguard"]
    return [record for record in found if all(word in record.getMessage() for word in words)]


def test_a_handler_that_holds_the_hub_is_named_with_its_event_and_stack(caplog: pytest.LogCaptureFixture) -> None:
    director = Director()
    is_reported = partial(reports, caplog, "hold_the_hub")
    actor = director.register_actor(Handler, "busy", lambda actor, event: hold_the_hub(is_reported))
    event = Event(1)
    event_id = event.event_id
    with running(director):
        director.post(actor, event)
        wait_until(is_reported)
        assert_conserved(director)
    [record] = is_reported()
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
        wait_until(lambda: reports(caplog, "actor blocking", "time.sleep"))


@pytest.mark.parametrize("where", ["background", "hook", "callback", "main"])
def test_whoever_else_holds_the_hub_is_shown_by_the_stack(where: str, caplog: pytest.LogCaptureFixture) -> None:
    is_reported = partial(reports, caplog, "hold_the_hub")

    class Busy(Collector):
        def pre_hook(self) -> None:
            if where == "background":
                self.background(self.work)

        def post_hook(self) -> None:
            if where == "hook":
                hold_the_hub(is_reported)

        def work(self) -> None:
            hold_the_hub(is_reported)

    director = Director()
    director.register_actor(Busy, "actor")
    with running(director):
        if where == "callback":
            get_hub().loop.run_callback(hold_the_hub, is_reported)
        elif where == "main":
            hold_the_hub(is_reported)
        if where != "hook":
            wait_until(is_reported)
    assert is_reported()


def test_an_idle_director_and_one_that_waits_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    director = Director()
    actor = director.register_actor(Handler, "actor", lambda actor, event: gevent.sleep(3 * HELD_S))
    with running(director):
        gevent.sleep(3 * HELD_S)
        director.post(actor, 1)
        wait_until(lambda: director.snapshot().actors["actor"].received == 1)
    assert not reports(caplog, "actor actor")
    # The last line of the stack: where the hub was seen.
    assert not [record for record in reports(caplog) if "loop.run()" in record.getMessage().splitlines()[-1]]


def spin(seconds: float) -> None:
    """Use the processor for so long."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


@pytest.mark.parametrize("handler_s", [SLICE_S / 4, 2.5 * SLICE_S], ids=["short", "slow"])
def test_a_burst_of_handlers_lets_the_hub_turn_after_every_slice(handler_s: float) -> None:
    turns: Counter[int] = Counter()

    def consume(actor: Actor, event: Event) -> None:
        turns[get_hub().loop.iteration] += 1
        spin(handler_s)

    director = Director(size=1000)
    actor = director.register_actor(Handler, "actor", consume)
    for number in range(200):
        director.post(actor, number)
    with running(director):
        wait_until(lambda: director.snapshot().actors["actor"].received == 200)
    # A slice is bounded by the clock, and whatever one handler takes beyond: a slow machine handles fewer, never more.
    assert max(turns.values()) <= 1 + SLICE_S / handler_s


def test_one_place_is_reported_once_a_minute_and_another_place_at_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere() -> None:
        until = time.perf_counter() + PATIENCE_S
        while time.perf_counter() < until and not reports(caplog, "in elsewhere"):
            sum(range(1000))

    def hold_until_reported(times: int) -> Callable[[], None]:
        return lambda: hold_the_hub(lambda: len(held()) == times)

    held = partial(reports, caplog, "in hold_the_hub")
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
        run(hold_until_reported(1))
        run(hold_the_hub)
        assert len(held()) == 1
        run(elsewhere)
        assert len(reports(caplog, "in elsewhere")) == 1
        clock.advance(SILENCE_S)
        run(hold_until_reported(2))
        assert len(held()) == 2


def test_the_report_reaches_the_log_actor(caplog: pytest.LogCaptureFixture) -> None:
    director = Director()
    log = director.register_log_actor(Collector, "log")
    is_reported = partial(reports, caplog, "hold_the_hub")
    actor = director.register_actor(Handler, "busy", lambda actor, event: hold_the_hub(is_reported))
    with running(director):
        director.post(actor, 1)
        wait_until(lambda: any("actor busy" in entry["message"] for entry in log.data))
        assert_conserved(director)


def test_a_guard_can_be_stopped_at_any_moment_and_more_than_once() -> None:
    guard = LoopGuard(Clock())
    guard.start()
    guard.stop()
    guard.stop()
    guard.start()
    gevent.sleep(0.05)
    guard.stop()
