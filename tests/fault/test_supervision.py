# SPDX-License-Identifier: Apache-2.0
"""Restart, intensity, backoff, escalation. The names are the specification; words as in Erlang/OTP."""

import itertools
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent import Greenlet, GreenletExit
from gevent.event import Event as Signal

from compysition import Actor, Director, Event, Fatal, Outcome, Retry
from compysition.actors import TestEvent
from compysition.dispatch import Consumer
from compysition.restartlet import RestartableGreenlet
from tests.fault.conservation import (
    Collector,
    Handler,
    SteeredClock,
    assert_conserved,
    ended,
    letters,
    running,
    wait_until,
)

pytestmark = pytest.mark.timeout(20)


@pytest.fixture(name="clock", autouse=True)
def clock_fixture(monkeypatch: pytest.MonkeyPatch) -> SteeredClock:
    """Backoff takes no time, and is written down in `slept`."""
    clock = SteeredClock()
    monkeypatch.setattr("compysition.runtime.Clock", lambda: clock)
    return clock


class CustomBaseError(BaseException):
    """Neither an `Exception` nor one of those that gevent knows."""


class Supervised(Collector):
    """Writes everything into a diary. An event whose data is callable is called with the actor."""

    def __init__(self, name: str, diary: list[str] | None = None, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.diary: list[str] = [] if diary is None else diary
        #: Called in the hook of that name; what they raise leaves it.
        self.hooks: dict[str, Callable[[], object]] = {}

    def pre_hook(self) -> None:
        self.diary.append("pre")
        self.hooks.get("pre", int)()

    def post_hook(self) -> None:
        self.diary.append("post")
        self.hooks.get("post", int)()

    def consume(self, event: Event, origin: str = "", origin_queue: str = "") -> None:
        if callable(event.data):
            event.data(self, event)
        super().consume(event, origin, origin_queue)


def supervised(director: Director, name: str = "actor", **options: Any) -> Supervised:
    return director.register_actor(Supervised, name, options=options)


def restarts(director: Director, name: str = "actor") -> int:
    return director.snapshot().actors[name].restarts


def state(director: Director, name: str = "actor") -> str:
    return director.snapshot().actors[name].state


def fatal_once(actor: Actor, event: Event) -> None:
    if event.attempts == 0:
        raise Fatal("once")


def break_it(director: Director, actor: Actor | str = "actor") -> None:
    """Restart `actor` once, and wait until it runs again."""
    name = actor if isinstance(actor, str) else actor.name
    before = restarts(director, name)
    director.post(actor, fatal_once)
    wait_until(lambda: restarts(director, name) == before + 1 and state(director, name) == "running")


def raiser(error: BaseException) -> Callable[..., object]:
    def throw(*args: object) -> object:
        raise error

    return throw


# ---- what restarts an actor -------------------------------------------------------------------------------------


def test_an_ordinary_exception_does_not_restart() -> None:
    director = Director()
    actor = supervised(director)
    with running(director):
        for _ in range(20):
            director.post(actor, raiser(ValueError("ordinary")))
        wait_until(lambda: len(letters(director, "failed")) == 20)
        assert restarts(director) == 0
    assert actor.diary == ["pre", "post"]


def test_fatal_restarts_and_gives_the_event_back() -> None:
    director = Director()
    actor = supervised(director)
    with running(director):
        break_it(director)
        wait_until(lambda: actor.data == [fatal_once])
        assert_conserved(director)
    assert actor.diary == ["pre", "post", "pre", "post"]
    assert actor.events[0].attempts == 1


def test_a_consumer_killed_from_outside_inside_a_handler_restarts() -> None:
    director = Director()
    actor = supervised(director)
    with running(director):
        director.post(actor, lambda actor, event: gevent.sleep(60) if event.attempts == 0 else None)
        wait_until(lambda: director.snapshot().actors["actor"].in_flight)
        for consumer in list(director.dispatcher.consumers):
            if consumer.hand.sender is not None:
                consumer.kill(block=False)
        wait_until(lambda: len(actor.data) == 1)
        assert restarts(director) == 1
        assert_conserved(director)


def test_idle_consumers_killed_from_outside_restart_nobody_and_events_go_on() -> None:
    director = Director()
    actor = supervised(director)
    with running(director):
        director.post(actor, 1)
        wait_until(lambda: actor.data == [1])
        for consumer in list(director.dispatcher.consumers):
            consumer.kill()
        assert not director.dispatcher.consumers
        director.post(actor, 2)
        wait_until(lambda: actor.data == [1, 2])
        assert restarts(director) == 0


def test_all_greenlets_of_the_handlers_killed_at_once_lose_nothing() -> None:
    director = Director(stop_timeout_s=3.0)
    first = supervised(director, "first")
    second = supervised(director, "second")
    director.connect_queue(first, second, capacity=2)

    def slow_at_first(actor: Actor, event: Event) -> None:
        gevent.sleep(0.01 if event.attempts else 60)

    with running(director):
        for _ in range(10):
            director.post(first, slow_at_first)
        wait_until(lambda: director.snapshot().actors["first"].in_flight == 10)
        gevent.killall(list(director.dispatcher.consumers))
        assert_conserved(director)
        wait_until(lambda: restarts(director, "first") == 1)
        wait_until(lambda: len(first.data) == 10)
        for consumer in list(director.dispatcher.consumers):
            consumer.kill(block=False)
        wait_until(lambda: len(second.data) == 10)
        assert_conserved(director)


# ---- background greenlets ---------------------------------------------------------------------------------------


def background_of(actor: Actor) -> list[RestartableGreenlet]:
    assert actor._pool is not None
    return list(actor._pool)


class WithBackground(Supervised):
    """Runs `work` in the background: from its constructor, or from its hook."""

    def __init__(
        self, name: str, work: Callable[[Any], object], *, restart: bool = True, in_hook: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(name, **kwargs)
        self.work = work
        self.restart = restart
        self.in_hook = in_hook
        if not in_hook:
            self.background(self.run_once, restart=restart)

    def pre_hook(self) -> None:
        super().pre_hook()
        if self.in_hook:
            self.background(self.run_once, restart=self.restart)

    def run_once(self) -> None:
        self.diary.append("begin")
        self.work(self)
        self.diary.append("return")


def test_permanent_child_that_died_restarts_its_actor_and_is_run_again() -> None:
    mishaps = iter([ValueError("mishap")])

    def work(actor: Actor) -> None:
        for error in mishaps:
            raise error
        while actor.loop():
            actor.sleep(60)

    director = Director()
    actor = director.register_actor(WithBackground, "actor", work)
    with running(director):
        wait_until(lambda: actor.diary.count("begin") == 2)
        wait_until(lambda: state(director) == "running")
        assert restarts(director) == 1
        assert director.snapshot().actors["actor"].background == 1
    assert actor.diary == ["pre", "begin", "post", "pre", "begin", "return", "post"]


@pytest.mark.parametrize("error", [CustomBaseError("own"), gevent.Timeout(), GreenletExit()], ids=repr)
def test_a_child_that_dies_of_anything_restarts_its_actor(error: BaseException) -> None:
    mishaps = iter([error])

    def work(actor: Actor) -> None:
        for mishap in mishaps:
            raise mishap
        while actor.loop():
            actor.sleep(60)

    director = Director()
    actor = director.register_actor(WithBackground, "actor", work)
    with running(director):
        wait_until(lambda: actor.diary.count("begin") == 2)
        wait_until(lambda: restarts(director) == 1)


def test_a_child_killed_from_outside_restarts_its_actor_and_is_run_again() -> None:
    director = Director()
    actor = director.register_actor(WithBackground, "actor", lambda actor: gevent.sleep(60))
    with running(director, stop_timeout_s=0.1):
        wait_until(lambda: actor.diary.count("begin") == 1)
        [child] = background_of(actor)
        assert child.greenlet is not None
        child.greenlet.kill()
        wait_until(lambda: actor.diary.count("begin") == 2)
        assert restarts(director) == 1


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_a_child_that_ends_the_process_begins_an_ordered_stop(error: BaseException) -> None:
    director = Director()
    actor = director.register_actor(WithBackground, "actor", raiser(error))
    with running(director):
        director.post(actor, 1)
        report = director.block()
    assert type(error).__name__ in report.reason
    assert actor.data == [1]
    assert report.ok
    assert restarts(director) == 0


def test_transient_child_is_not_restarted_after_normal_exit() -> None:
    director = Director()
    actor = director.register_actor(WithBackground, "actor", lambda actor: None)
    with running(director):
        wait_until(lambda: "return" in actor.diary)
        break_it(director)
        assert restarts(director) == 1
    assert actor.diary == ["pre", "begin", "return", "post", "pre", "post"]


@pytest.mark.parametrize("end", ["dies", "is killed"])
def test_temporary_child_is_never_restarted_and_does_not_restart_its_actor(
    end: str, caplog: pytest.LogCaptureFixture
) -> None:
    director = Director()
    work = raiser(ValueError("gone")) if end == "dies" else lambda actor: gevent.sleep(60)
    actor = director.register_actor(WithBackground, "actor", work, restart=False)
    with running(director):
        wait_until(lambda: "begin" in actor.diary)
        for child in background_of(actor):
            if child.greenlet is not None:
                child.greenlet.kill()
        wait_until(lambda: "restart=False" in caplog.text)
        assert restarts(director) == 0
        # A restart for another reason does not bring it back either.
        break_it(director)
        director.post(actor, "through")
        wait_until(lambda: "through" in actor.data)
    assert actor.diary.count("begin") == 1


@pytest.mark.parametrize("in_hook", [False, True])
def test_a_child_that_a_restart_ends_runs_once_again_after_it(in_hook: bool) -> None:
    """One that was killed, and one that returned because `loop` turned false: both are run again, and neither twice."""

    def obeys(actor: Actor) -> None:
        while actor.loop():
            actor.sleep(60)

    director = Director(stop_timeout_s=0.2)
    obedient = director.register_actor(WithBackground, "obedient", obeys, in_hook=in_hook)
    stubborn = director.register_actor(WithBackground, "stubborn", lambda actor: gevent.sleep(60), in_hook=in_hook)
    slow = Signal()

    def hold(actor: Actor, event: Event) -> None:
        slow.wait()

    with running(director, stop_timeout_s=0.1):
        for round_number in range(1, 3):
            for actor in (obedient, stubborn):
                slow.clear()
                # Something is running when the restart begins, so that the obedient one has time to return.
                director.post(actor, hold)
                wait_until(lambda actor=actor: director.snapshot().actors[actor.name].in_flight)  # type: ignore[misc]
                director.post(actor, fatal_once)
                wait_until(lambda actor=actor: state(director, actor.name) == "restarting")  # type: ignore[misc]
                gevent.sleep(0.01)
                slow.set()
                wait_until(lambda actor=actor: state(director, actor.name) == "running")  # type: ignore[misc]
                wait_until(
                    lambda actor=actor, runs=round_number + 1: actor.diary.count("begin") == runs,  # type: ignore[misc]
                    what=f"{actor.name} runs again",
                )
                gevent.sleep(0.01)  # whatever would end it now has had its turn
                assert director.snapshot().actors[actor.name].background == 1
        assert_conserved(director)


def test_a_source_goes_on_after_a_restart() -> None:
    class Source(TestEvent):
        def consume(self, event: Event) -> None:
            gevent.sleep(0.01)
            fatal_once(self, event)

    director = Director()
    source = director.register_actor(Source, "actor", interval=0.001)
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(source, sink)
    with running(director):
        wait_until(lambda: sink.data)
        director.post(source, "break")
        wait_until(lambda: restarts(director) == 1 and state(director) == "running")
        before = len(sink.data)
        wait_until(lambda: len(sink.data) > before + 3, what="the source makes events again")
        assert_conserved(director)


def test_a_child_made_by_a_handler_is_run_again_after_a_restart() -> None:
    begun: list[int] = []

    def work() -> None:
        begun.append(1)
        gevent.sleep(60)

    director = Director(stop_timeout_s=0.1)
    actor = supervised(director)
    with running(director, stop_timeout_s=0.1):
        director.post(actor, lambda actor, event: actor.threads.spawn(work))
        wait_until(lambda: len(begun) == 1)
        break_it(director)
        wait_until(lambda: len(begun) == 2)
        assert director.snapshot().actors["actor"].background == 1


# ---- what a restart does ----------------------------------------------------------------------------------------


def test_a_restart_keeps_the_instance_its_attributes_and_its_inboxes() -> None:
    director = Director(stop_timeout_s=3.0)
    actor = supervised(director)
    release = Signal()

    def set_attribute(actor: Any, event: Event) -> None:
        actor.own = "attribute"

    with running(director):
        director.post(actor, set_attribute)
        wait_until(lambda: actor.data == [set_attribute])
        actor.hooks["post"] = release.wait
        director.post(actor, fatal_once)
        wait_until(lambda: state(director) == "restarting")
        director.post(actor, "queued meanwhile")
        assert director.snapshot().actors["actor"].queued == 2
        assert_conserved(director)
        release.set()
        wait_until(lambda: actor.data == [set_attribute, fatal_once, "queued meanwhile"])
        assert director.get_actor("actor") is actor
        assert actor.own == "attribute"  # type: ignore[attr-defined]  # a user's own
        assert_conserved(director)


def test_kept_and_delayed_events_outlive_a_restart() -> None:
    shelf: list[Event] = []

    def consume(actor: Actor, event: Event) -> None:
        if event.data == "keep":
            actor.keep(event)
            shelf.append(event)
        elif event.data == "delay" and event.attempts == 0:
            raise Retry(after_s=0.1)
        elif event.data == "fatal":
            fatal_once(actor, event)
        elif event.data == "release":
            actor.send_event(shelf.pop())
        actor.send_event(event) if event.data == "delay" else None

    director = Director(stop_timeout_s=3.0)
    actor = director.register_actor(Handler, "actor", consume)
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(actor, sink)
    with running(director):
        director.post(actor, "keep")
        director.post(actor, "delay")
        wait_until(lambda: director.snapshot().actors["actor"].delayed == 1)
        director.post(actor, "fatal")
        wait_until(lambda: restarts(director) == 1)
        assert director.snapshot().actors["actor"].kept == 1
        assert_conserved(director)
        wait_until(lambda: sink.data == ["delay"])
        director.post(actor, "release")
        wait_until(lambda: sink.data == ["delay", "keep"])


def test_handlers_that_run_get_a_grace_to_end_and_no_further_one_starts() -> None:
    gate = Signal()
    diary: list[str] = []

    def consume(actor: Actor, event: Event) -> None:
        diary.append(f"enter {event.data}")
        if event.data == "running":
            gate.wait()
        elif event.data == "fatal":
            fatal_once(actor, event)
        diary.append(f"leave {event.data}")

    director = Director()
    actor = director.register_actor(Handler, "actor", consume, options={"concurrency": 3})
    with running(director):
        director.post(actor, "running")
        wait_until(lambda: diary == ["enter running"])
        director.post(actor, "fatal")
        wait_until(lambda: state(director) == "restarting")
        director.post(actor, "later")
        gevent.sleep(0.01)
        assert diary == ["enter running", "enter fatal"]
        gate.set()
        wait_until(lambda: "leave later" in diary)
        assert restarts(director) == 1
        assert_conserved(director)
    assert diary[2] == "leave running"
    assert ended(director, Outcome.DELIVERED) == 3


def test_handlers_that_do_not_end_in_their_grace_are_killed_and_their_events_given_back() -> None:
    director = Director()
    actor = supervised(director, concurrency=5, grace_s=0.05)
    attempts: list[int] = []

    def slow(actor: Actor, event: Event) -> None:
        attempts.append(event.attempts)
        if event.attempts == 0:
            gevent.sleep(60)

    with running(director):
        for _ in range(3):
            director.post(actor, slow)
        wait_until(lambda: director.snapshot().actors["actor"].in_flight == 3)
        director.post(actor, fatal_once)
        wait_until(lambda: len(actor.data) == 4)
        # Our own kills are part of that restart and no reason for another.
        assert restarts(director) == 1
        assert_conserved(director)
    assert sorted(attempts) == [0, 0, 0, 1, 1, 1]


def test_several_reasons_at_once_are_one_restart() -> None:
    director = Director()
    actor = supervised(director)
    gate = Signal()

    def fatal_together(actor: Actor, event: Event) -> None:
        if event.attempts == 0:
            gate.wait()
            raise Fatal

    with running(director):
        for _ in range(5):
            director.post(actor, fatal_together)
        wait_until(lambda: director.snapshot().actors["actor"].in_flight == 5)
        gate.set()
        wait_until(lambda: len(actor.data) == 5)
        assert_conserved(director)
        # One for the first, and at most one more for those that came while it was under way.
        assert 1 <= restarts(director) <= 2


def test_a_waiting_sender_goes_on_when_the_actor_in_front_of_it_restarts() -> None:
    director = Director(stop_timeout_s=3.0)
    source = director.register_actor(Collector, "source")
    actor = supervised(director, concurrency=1)
    director.connect_queue(source, actor, capacity=1)
    with running(director):
        director.post(source, fatal_once)
        for number in range(20):
            director.post(source, number)
        wait_until(lambda: len(actor.data) == 21)
        assert restarts(director) == 1
        assert_conserved(director)
    assert actor.data == [fatal_once, *range(20)]


# ---- hooks in a restart -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [ValueError("no"), GreenletExit(), SystemExit(), CustomBaseError("own"), gevent.Timeout()], ids=repr
)
def test_a_pre_hook_that_fails_in_a_restart_is_tried_again(error: BaseException, clock: SteeredClock) -> None:
    director = Director()
    actor = supervised(director)
    with running(director):
        failures = itertools.count()
        actor.hooks["pre"] = lambda: raiser(error)() if next(failures) < 2 else None
        director.post(actor, fatal_once)
        wait_until(lambda: actor.data == [fatal_once])
        assert restarts(director) == 3
        assert director.is_running()
        assert_conserved(director)
    assert len(clock.slept) == 3


def test_a_pre_hook_that_hangs_in_a_restart_is_killed_and_tried_again() -> None:
    director = Director()
    actor = supervised(director, start_timeout_s=0.05)
    with running(director):
        failures = itertools.count()
        actor.hooks["pre"] = lambda: gevent.sleep(60) if next(failures) == 0 else None
        director.post(actor, fatal_once)
        wait_until(lambda: actor.data == [fatal_once])
        assert restarts(director) == 2
        assert_conserved(director)


@pytest.mark.parametrize(
    "error", [ValueError("no"), GreenletExit(), SystemExit(), CustomBaseError("own"), gevent.Timeout()], ids=repr
)
def test_a_post_hook_that_raises_is_logged_and_the_restart_goes_on(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    director = Director()
    actor = supervised(director)
    actor.hooks["post"] = raiser(error)
    with running(director):
        director.post(actor, fatal_once)
        wait_until(lambda: actor.data == [fatal_once])
        assert restarts(director) == 1
        assert_conserved(director)
    assert "post_hook of 'actor' failed" in caplog.text


def test_a_post_hook_that_hangs_is_killed_after_the_grace_and_the_restart_goes_on() -> None:
    director = Director()
    actor = supervised(director, grace_s=0.05)
    actor.hooks["post"] = lambda: gevent.sleep(60)
    with running(director):
        director.post(actor, fatal_once)
        wait_until(lambda: actor.data == [fatal_once])
        assert restarts(director) == 1
        assert_conserved(director)


def test_a_background_greenlet_that_swallows_its_kill_does_not_hold_up_the_restart() -> None:
    release = Signal()

    def swallow(actor: Actor) -> None:
        while not release.is_set():
            try:
                release.wait()
            except GreenletExit:
                pass

    director = Director(stop_timeout_s=0.1)
    actor = director.register_actor(WithBackground, "actor", swallow, options={"grace_s": 0.05})
    with running(director, stop_timeout_s=0.2):
        wait_until(lambda: "begin" in actor.diary)
        break_it(director)
        assert_conserved(director)
        release.set()


# ---- backoff ----------------------------------------------------------------------------------------------------


def test_restarts_without_a_calm_between_them_are_backed_off_exponentially(clock: SteeredClock) -> None:
    director = Director(max_restarts=100)
    supervised(director)
    with running(director):
        for _ in range(12):
            break_it(director)
    assert len(clock.slept) == 12
    for number, slept_s in enumerate(clock.slept):
        expected_s = min(30.0, 0.1 * 2**number)
        assert 0.79 * expected_s <= slept_s <= 1.21 * expected_s


def test_a_calm_as_long_as_the_period_resets_the_backoff(clock: SteeredClock) -> None:
    director = Director(max_restarts=100, period_s=60.0)
    supervised(director)
    with running(director):
        for _ in range(4):
            break_it(director)
        clock.advance(59.0)
        break_it(director)
        assert clock.slept[-1] > 1.0
        clock.advance(61.0)
        break_it(director)
    assert clock.slept[-1] <= 0.12


def test_each_actor_has_its_own_backoff(clock: SteeredClock) -> None:
    director = Director(max_restarts=100)
    supervised(director, "first")
    supervised(director, "second")
    with running(director):
        for _ in range(4):
            break_it(director, "first")
        break_it(director, "second")
    assert clock.slept[-1] <= 0.12


# ---- intensity and escalation -----------------------------------------------------------------------------------


def test_more_restarts_than_the_intensity_allows_in_a_period_stop_the_director_with_exit_code_3() -> None:
    director = Director(max_restarts=2, stop_timeout_s=3.0)
    actor = supervised(director)
    other = director.register_actor(Collector, "other")
    with running(director):
        for _ in range(2):
            break_it(director)
        assert director.is_running()
        director.post(other, "still drained")
        director.post(actor, fatal_once)
        report = director.block()
        assert_conserved(director)
    assert restarts(director) == 2
    assert (report.exit_code, report.ok) == (3, False)
    assert "'actor'" in report.reason
    assert "2 restarts in 60 s" in report.reason
    assert "Fatal: once" in report.reason
    assert other.data == ["still drained"]


def test_a_director_that_bears_no_restart_stops_at_the_first() -> None:
    director = Director(max_restarts=0, stop_timeout_s=3.0)
    actor = supervised(director)
    with running(director):
        director.post(actor, fatal_once)
        assert director.block().exit_code == 3
    assert actor.diary[:1] == ["pre"]
    assert actor.diary.count("pre") == 1


def test_restarts_older_than_the_period_do_not_count(clock: SteeredClock) -> None:
    director = Director(max_restarts=2, period_s=10.0)
    supervised(director)
    with running(director):
        for _ in range(5):
            break_it(director)
            clock.advance(6.0)
        assert director.is_running()
        assert restarts(director) == 5


def test_the_budget_is_that_of_all_actors_together() -> None:
    director = Director(max_restarts=3, stop_timeout_s=3.0)
    for name in ("a", "b", "c", "d"):
        supervised(director, name)
    with running(director):
        for name in ("a", "b", "c"):
            break_it(director, name)
        director.post("d", fatal_once)
        assert director.block().exit_code == 3


def test_the_events_of_an_actor_that_is_given_up_are_dead_letters_at_once_and_nobody_waits_for_room() -> None:
    director = Director(max_restarts=0, stop_timeout_s=5.0)
    source = director.register_actor(Collector, "source")
    actor = supervised(director, concurrency=1)
    director.connect_queue(source, actor, capacity=1)
    with running(director):
        actor.pause()
        for number in range(10):
            director.post(source, number)
        director.post(actor, fatal_once)
        wait_until(lambda: director.snapshot().actors["source"].waiting_puts == 1)
        actor.resume()
        report = director.block()
        assert_conserved(director)
    assert report.took_s < 2
    assert report.exit_code == 3
    dead = [letter.event.data for letter in letters(director, "killed")]
    assert len(dead) + len(actor.data) == 11
    assert report.actors["actor"].left == len(dead)


def test_a_source_that_dies_at_once_every_time_escalates() -> None:
    director = Director(stop_timeout_s=3.0)
    director.register_actor(WithBackground, "actor", raiser(ValueError("no such host")))
    with running(director):
        report = director.block()
    assert report.exit_code == 3
    assert "no such host" in report.reason
    assert restarts(director) == 5


def test_a_pre_hook_that_fails_in_every_restart_escalates() -> None:
    director = Director(stop_timeout_s=3.0)
    actor = supervised(director)
    with running(director):
        actor.hooks["pre"] = raiser(ValueError("no such host"))
        director.post(actor, fatal_once)
        report = director.block()
        assert_conserved(director)
    assert report.exit_code == 3
    assert "no such host" in report.reason


def test_exit_code_3_wins_over_what_the_stop_leaves_behind() -> None:
    director = Director(max_restarts=0, stop_timeout_s=0.1)
    actor = supervised(director)
    stuck = supervised(director, "stuck")
    with running(director):
        director.post(stuck, lambda actor, event: gevent.sleep(60))
        wait_until(lambda: director.snapshot().actors["stuck"].in_flight)
        director.post(actor, fatal_once)
        report = director.block()
        assert_conserved(director)
    assert report.actors["stuck"].killed == 1
    assert report.exit_code == 3


def test_after_escalation_the_same_director_can_start_again() -> None:
    director = Director(max_restarts=0, stop_timeout_s=3.0)
    actor = supervised(director)
    with running(director):
        director.post(actor, fatal_once)
        assert director.block().exit_code == 3
    with running(director):
        director.post(actor, "again")
        wait_until(lambda: actor.data == ["again"])
        assert state(director) == "running"
        assert director.stop().exit_code == 0


# ---- restart and stop -------------------------------------------------------------------------------------------


def test_an_actor_that_breaks_while_the_director_drains_is_restarted_and_drained() -> None:
    director = Director(stop_timeout_s=3.0)
    actor = supervised(director)
    with running(director):
        actor.pause()
        director.post(actor, fatal_once)
        director.post(actor, "after")
        director.request_stop("test")
        wait_until(lambda: director.snapshot().state == "stopping")
        actor.resume()
        report = director.block()
        assert_conserved(director)
    assert report.ok
    assert actor.data == [fatal_once, "after"]
    assert restarts(director) == 1


def test_a_stop_at_its_deadline_does_not_wait_for_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    director = Director(stop_timeout_s=0.1)
    actor = supervised(director)
    with running(director):
        monkeypatch.setattr(director.clock, "sleep", lambda delay_s: gevent.sleep(60))
        director.post(actor, fatal_once)
        wait_until(lambda: state(director) == "restarting")
        report = director.stop(0.1)
        assert_conserved(director)
    assert report.took_s < 3
    assert report.exit_code == 1
    assert [letter.reason for letter in letters(director)] == ["stopped"]


def test_a_consumer_greenlet_is_known_to_gevent_as_a_greenlet() -> None:
    """So that `gevent.killall`, `gevent.joinall` and stack printers of others work on it."""
    assert issubclass(Consumer, Greenlet)
