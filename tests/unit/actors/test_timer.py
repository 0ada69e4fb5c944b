# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.actors.timer`."""

import datetime
import logging
import sys
from typing import Any
from zoneinfo import ZoneInfo

import gevent
import pytest
from gevent.event import Event as Gate

from compysition import Director, Event
from compysition.actors import Timer
from compysition.actors.timer import Cron, Interval
from compysition.errors import ConfigurationError, MissingExtraError
from compysition.testing import VirtualClock
from tests.fault.conservation import Collector, Handler, assert_conserved, letters, wait_until
from tests.unit.kernel import Flow, turn

VIENNA = ZoneInfo("Europe/Vienna")


class Timed:
    """A timer and its sink, in a time that is moved by hand."""

    def __init__(self, flow: Flow, clock: VirtualClock, *args: Any, sink: Any = None, **kwargs: Any) -> None:
        self.flow, self.clock = flow, clock
        self.timer: Timer = flow.add(Timer, "timer", *args, **kwargs)
        self.sink: Collector = flow.add(Collector, "sink") if sink is None else flow.add(sink, "sink")
        flow.connect("timer", "sink", capacity=1000)
        flow.start()
        turn()
        self.began = clock.now

    def pass_by(self, *steps: float) -> None:
        """Let time pass; after each step everything that can happen happens."""
        for step in steps:
            self.clock.advance(step)
            turn()
            self.flow.kernel.run()

    def jump(self, *steps: float) -> None:
        """Let time pass at once, as if the process had stood still."""
        for step in steps:
            self.clock.now += step
            self.pass_by(0, 0)

    @property
    def due(self) -> list[float]:
        """When the events were due, in seconds after the beginning."""
        return [round(event.get("due") - 1_000_000_000.0 - self.began, 6) for event in self.sink.events]


@pytest.fixture
def make(timeless_flow: Flow, clock: VirtualClock) -> Any:
    return lambda *args, **kwargs: Timed(timeless_flow, clock, *args, **kwargs)


# ---- an interval ------------------------------------------------------------------------------------------------


def test_the_first_tick_comes_after_one_interval_and_then_one_after_each(make: Any) -> None:
    timed = make(2)
    timed.pass_by(1.9)
    assert timed.due == []
    timed.pass_by(0.2, 2, 2)
    assert timed.due == [2, 4, 6]


def test_at_start_a_tick_comes_at_once_besides_the_others(make: Any) -> None:
    timed = make(2, at_start=True)
    timed.pass_by(0)
    assert timed.due == [0]
    timed.pass_by(2)
    assert timed.due == [0, 2]


def test_ticks_do_not_drift_however_late_the_timer_wakes_up(make: Any) -> None:
    timed = make(0.1)
    timed.jump(*[0.13] * 100)
    assert timed.due[-1] == pytest.approx(timed.clock.now - timed.began, abs=0.1)
    assert all(round(due / 0.1, 6) == round(due / 0.1) for due in timed.due)
    assert timed.timer.missed_ticks == round(timed.due[-1] / 0.1) - len(timed.due)


def test_skip_makes_up_for_the_newest_missed_tick_and_counts_the_others(
    make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    timed = make(1)
    with caplog.at_level(logging.WARNING):
        timed.jump(5.5)
        assert (timed.due, timed.timer.missed_ticks) == ([5], 4)
        timed.jump(0.6, 3)
    assert (timed.due, timed.timer.missed_ticks) == ([5, 6, 9], 6)
    assert caplog.text.count("timer misses ticks (4 at once)") == 1
    assert caplog.text.count("misses ticks") == 1


def test_catch_up_makes_up_for_all(make: Any) -> None:
    timed = make(1, missed="catch_up")
    timed.jump(5.5, 0, 0, 0)
    assert (timed.due, timed.timer.missed_ticks) == ([1, 2, 3, 4, 5], 0)


def test_the_times_of_ticks_are_as_far_apart_as_the_ticks_whenever_they_are_made(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = make(2)
    timed.pass_by(2)
    # The wall clock is corrected by half a second.
    monkeypatch.setattr(timed.clock, "wall", lambda: 1_000_000_000.5 + timed.clock.now)
    timed.pass_by(2)
    assert timed.due == [2, 4]


def test_a_full_queue_delays_ticks_and_moves_none(make: Any) -> None:
    gate = Gate()

    class Slow(Collector):
        options = {"concurrency": 1}  # noqa: RUF012

        def consume(self, event: Event, origin: str = "", origin_queue: str = "") -> None:
            gate.wait()
            super().consume(event, origin, origin_queue)

    director = Director(size=1)
    timer = director.register_actor(Timer, "timer", 0.01)
    sink = director.register_actor(Slow, "sink")
    director.connect_queue(timer, sink)
    with director:
        wait_until(lambda: director.snapshot().actors["timer"].waiting_puts == 1 or timer._event is not None)
        began = timer._schedule._began  # type: ignore[attr-defined]
        wait_until(lambda: director.clock.monotonic() > began + 0.1)
        gate.set()
        wait_until(lambda: timer.missed_ticks > 0 and len(sink.data) > 4)
    numbers = [round((event.get("due") - sink.events[0].get("due")) / 0.01, 1) for event in sink.events]
    assert numbers == sorted({round(number) for number in numbers})
    assert_conserved(director)


def test_max_events_makes_it_a_finite_source() -> None:
    director = Director()
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(director.register_actor(Timer, "timer", 0.001, data="x", max_events=5), sink)
    report = director.start(until_idle=True)
    assert report is not None
    assert report.ok
    assert sink.data == ["x"] * 5


def test_it_returns_at_once_at_a_stop_and_begins_anew_at_the_next_start() -> None:
    director = Director()
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(director.register_actor(Timer, "timer", 3600, at_start=True), sink)
    for number in (1, 2):
        director.start(block=False)
        wait_until(lambda number=number: len(sink.data) == number)  # type: ignore[misc]
        report = director.stop()
        assert report.ok
        assert report.took_s < 20
    assert_conserved(director)


# ---- what it makes ----------------------------------------------------------------------------------------------


def test_each_event_has_its_own_copy_of_the_data(make: Any) -> None:
    data = {"lines": [1]}
    timed = make(1, data=data)
    timed.pass_by(1, 1)
    timed.sink.data[0]["lines"].append(2)
    assert timed.sink.data[1] == data == {"lines": [1]}
    assert len({event.event_id for event in timed.sink.events}) == 2


def test_a_factory_makes_the_data_of_each_event(make: Any) -> None:
    timed = make(1, factory=iter("abc").__next__)
    timed.pass_by(1, 1, 1)
    assert timed.sink.data == ["a", "b", "c"]


def test_a_factory_that_raises_fails_its_event_and_the_timer_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    numbers = iter(range(100))

    def factory() -> float:
        return 1 / (next(numbers) - 2)

    director = Director(max_restarts=0)
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(director.register_actor(Timer, "timer", 0.001, factory=factory, max_events=4), sink)
    with caplog.at_level(logging.ERROR):
        report = director.start(until_idle=True)
    assert report is not None
    assert report.exit_code == 0
    assert sink.data == [-0.5, -1, 1]
    assert [(one.actor, one.error.error_class) for one in letters(director) if one.error] == [
        ("timer", ZeroDivisionError)
    ]
    assert "the factory of timer raised ZeroDivisionError" in caplog.text
    assert_conserved(director)


def test_a_queue_that_refuses_makes_a_dead_letter_and_the_timer_goes_on() -> None:
    gate = Gate()
    director = Director(max_restarts=0)
    director.register_actor(Handler, "sink", lambda actor, event: gate.wait(), blocking_consume=True)
    timer = director.register_actor(Timer, "timer", 0.001)
    director.connect_queue(timer, "sink", capacity=1, overflow="fail")
    with director:
        wait_until(lambda: len(letters(director)) > 2)
        gate.set()
    assert {letter.actor for letter in letters(director)} == {"timer"}
    assert_conserved(director)


@pytest.mark.parametrize("has_gone_in", [False, True])
def test_an_event_that_waits_for_room_at_a_restart_is_sent_once(has_gone_in: bool) -> None:
    gate, seen = Gate(), []

    def slow(actor: Any, event: Event) -> None:
        gate.wait()
        seen.append(event.data)
        if has_gone_in and event.data == 1:
            # When this handler waits, what waits for room goes in; only then its sender is killed.
            for greenlet in director._wiring.members["timer"].pool:
                assert greenlet.greenlet is not None
                greenlet.greenlet.kill(block=False)
            gevent.sleep(0)

    director = Director()
    numbers = iter(range(100))
    director.register_actor(Timer, "timer", 0.001, factory=numbers.__next__, max_events=3)
    director.register_actor(Handler, "slow", slow, blocking_consume=True)
    director.connect_queue("timer", "slow", capacity=1)
    with director:
        wait_until(lambda: director.snapshot().queues["timer", "slow", "slow", "timer"].waiting == 1)
        if not has_gone_in:
            director._supervisor.crashed(director._wiring.members["timer"], "the test")
            wait_until(lambda: director.snapshot().actors["timer"].restarts == 1)
        gate.set()
        wait_until(lambda: len(seen) == 3)
        wait_until(lambda: director.snapshot().actors["timer"].restarts == 1)
        wait_until(lambda: director.snapshot().actors["timer"].background == 0)
    assert seen == [0, 1, 2]
    assert_conserved(director)


# ---- a cron text ------------------------------------------------------------------------------------------------


def utc(text: str) -> float:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC).timestamp()


def in_vienna(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, VIENNA).isoformat()


def ticks(cron: Cron, after: float, number: int) -> list[float]:
    found = [after]
    for _ in range(number):
        found.append(cron.following(found[-1]))
    return found[1:]


def test_a_cron_text_says_when_ticks_come(make: Any) -> None:
    # The wall clock of the test begins at 2001-09-09 02:03:20 UTC.
    timed = make(cron="*/5 * * * *")
    timed.pass_by(60, 39)
    assert timed.due == []
    timed.pass_by(1, 300)
    assert timed.due == [100, 400]


def test_a_wait_that_is_long_looks_at_the_wall_clock_again(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = make(cron="0 3 * * *")
    timed.pass_by(30)
    # Somebody sets the clock forward: no timer knows.
    monkeypatch.setattr(timed.clock, "wall", lambda: 1_000_000_000.0 + timed.clock.now + 3600)
    timed.pass_by(60)
    assert timed.due == [3400]


def test_six_fields_begin_with_the_seconds(make: Any) -> None:
    timed = make(cron="*/10 * * * * *")
    timed.pass_by(10, 10)
    assert timed.due == [10, 20]


def test_missed_ticks_of_a_cron_text_are_skipped_and_counted(make: Any) -> None:
    timed = make(cron="* * * * *")
    timed.jump(40 + 180)
    assert (timed.due, timed.timer.missed_ticks) == ([220], 3)


def test_a_clock_that_was_set_by_years_does_not_hold_the_hub(make: Any) -> None:
    timed = make(cron="* * * * * *")
    timed.jump(10 * 365 * 86400 + 0.5)
    assert timed.timer.missed_ticks == 1000
    assert timed.due == [10 * 365 * 86400]


def test_a_clock_that_was_set_back_repeats_no_tick(make: Any) -> None:
    timed = make(cron="*/5 * * * *")
    timed.pass_by(100)
    timed.clock.now -= 60
    timed.pass_by(61)
    assert timed.due == [100]


def test_a_job_at_a_fixed_time_runs_once_on_the_days_when_clocks_change() -> None:
    cron = Cron("timer", "30 2 * * *", VIENNA)
    spring, autumn = utc("2026-03-28T12:00"), utc("2026-10-24T12:00")
    assert [in_vienna(tick) for tick in ticks(cron, spring, 2)] == [
        "2026-03-29T03:00:00+02:00",
        "2026-03-30T02:30:00+02:00",
    ]
    assert [in_vienna(tick)[:16] for tick in ticks(cron, autumn, 2)] == ["2026-10-25T02:30", "2026-10-26T02:30"]


def test_a_zone_changes_what_a_time_means() -> None:
    after = utc("2026-07-01T00:00")
    assert ticks(Cron("timer", "0 12 * * *", datetime.UTC), after, 1) == [utc("2026-07-01T12:00")]
    assert ticks(Cron("timer", "0 12 * * *", VIENNA), after, 1) == [utc("2026-07-01T10:00")]


def test_an_interval_counts_from_its_beginning(clock: VirtualClock) -> None:
    interval = Interval(0.1)
    due = interval.begin(clock)
    for _ in range(1_000_000):
        due = interval.following(due)
    assert due == clock.now + 1_000_000 * 0.1


# ---- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["0 0 30 2 *", "0 0 31 2,4,6 *", "0 0 0 30 2 *"])
def test_a_cron_text_that_never_comes_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Director().register_actor(Timer, "timer", cron=text)
    assert str(caught.value) == f"cron of 'timer' is {text!r}, which never comes: no such month has such a day"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "wrong number of fields"),
        ("soon", "wrong number of fields"),
        ("* * * *", "wrong number of fields"),
        ("* * * * * * *", "wrong number of fields"),
        ("61 * * * *", "bad minute"),
        ("0 25 * * *", "bad hour"),
        ("0 0 32 * *", "bad day-of-month"),
        ("0 0 * 13 *", "bad month"),
        ("0 0 * * FRY", "bad day-of-week"),
        ("*/0 * * * *", "bad minute"),
        ("@daily", "wrong number of fields"),
    ],
)
def test_a_cron_text_that_is_none_is_refused_with_what_is_wanted(text: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Director().register_actor(Timer, "timer", cron=text)
    assert str(caught.value) == (
        f"cron of 'timer' is {text!r}: {reason}; wanted is 'minute hour day month weekday', as in '30 4 * * MON-FRI', "
        "or six fields with the seconds in front"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "'timer' is given nothing: wanted is one of interval= and cron="),
        ({"interval": 1, "cron": "* * * * *"}, "'timer' is given interval= and cron=: wanted is one of"),
        ({"interval": 0}, "interval of 'timer' is 0: wanted is a number of seconds above 0"),
        ({"interval": "1"}, "interval of 'timer' is '1'"),
        ({"interval": float("nan")}, "interval of 'timer' is nan"),
        ({"cron": 7}, "cron of 'timer' is 7: wanted is text"),
        ({"interval": 1, "data": 1, "factory": list}, "'timer' is given data= and factory=: leave one out"),
        ({"interval": 1, "factory": 7}, "factory of 'timer' is 7: wanted is a plain function"),
        ({"interval": 1, "missed": "drop"}, "missed of 'timer' is 'drop': wanted is one of 'skip', 'catch_up'"),
        ({"interval": 1, "max_events": -1}, "max_events of 'timer' is -1"),
        ({"interval": 1, "timezone": "Europe/Wien"}, "timezone of 'timer' is 'Europe/Wien', which is not known here"),
        ({"interval": 1, "timezone": "Europe/Viena"}, "which is not known here; did you mean 'Europe/Vienna'"),
        ({"interval": 1, "timezone": "../etc/passwd"}, "which is not known here; wanted is a name such as"),
        ({"interval": 1, "timezone": ""}, "timezone of 'timer' is '', which is not known here"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message.replace("?", r"\?")):
        Director().register_actor(Timer, "timer", **arguments)


def test_without_cronsim_a_cron_text_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cronsim", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'compysition\[cron\]'"):
        Director().register_actor(Timer, "timer", cron="* * * * *")
    assert Director().register_actor(Timer, "timer", 1).missed_ticks == 0


def test_it_runs_in_one_worker_process_only() -> None:
    director = Director()
    director.register_actor(Timer, "timer", 1)
    assert director._wiring.members["timer"].options.once
