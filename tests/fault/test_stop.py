# SPDX-License-Identifier: Apache-2.0
"""The ordered stop: what it waits for, in which order, what it does at the deadline, and what it reports."""

import atexit
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent import GreenletExit, get_hub
from gevent.event import Event as Signal

from compysition import Actor, Director, Event, Fatal, Outcome, Retry, StopReport
from compysition.actors import Source, TestEvent
from compysition.drain import KILL_S
from compysition.errors import DirectorStateError, StartError, WrongContextError
from tests.fault.conservation import (
    Collector,
    Handler,
    SteeredClock,
    assert_conserved,
    collect_garbage,
    ended,
    letters,
    running,
    wait_until,
)

pytestmark = pytest.mark.timeout(20)

#: A deadline that a stop must not come to.
FAR_S = 5.0
#: One that it is to come to.
NEAR_S = 0.1
#: What a stop that waits for nothing may take.
AT_ONCE_S = 2.0
#: Without the fixture's wrapper.
PLAIN_START = Director.start


def forward(actor: Actor, event: Event) -> None:
    actor.send_event(event)


def chain(*functions: Callable[[Any, Event], object], **options: Any) -> tuple[Director, list[Actor], Collector]:
    """a0 → a1 → … → sink."""
    director = Director(stop_timeout_s=FAR_S)
    actors: list[Actor] = [
        director.register_actor(Handler, f"a{number}", function, options=options)
        for number, function in enumerate(functions)
    ]
    sink = director.register_actor(Collector, "sink")
    for left, right in zip(actors, [*actors[1:], sink], strict=True):
        director.connect_queue(left, right)
    return director, actors, sink


# ---- draining ---------------------------------------------------------------------------------------------------


def test_a_stop_drains_everything_that_was_accepted_and_says_so() -> None:
    def slow(actor: Actor, event: Event) -> None:
        gevent.sleep(0.001)
        actor.send_event(event)

    director, actors, sink = chain(slow, slow, concurrency=1)
    with running(director):
        for number in range(50):
            director.post(actors[0], number)
        report = director.stop()
        assert_conserved(director)
    assert sink.data == list(range(50))
    assert (report.ok, report.exit_code) == (True, 0)
    assert {name: actor.left for name, actor in report.actors.items()} == {"a0": 0, "a1": 0, "sink": 0}
    assert report.actors["sink"].done == 50
    lines = str(report).splitlines()
    assert len(lines) == 4
    assert "everything drained (exit code 0)" in lines[0]
    assert [line.split()[:3] for line in lines[1:]] == [
        [name, str(report.actors[name].done), "done"] for name in report.actors
    ]
    assert len({line.index(" left") for line in lines[1:]}) == 1


def test_upstream_is_done_before_downstream_is_told_to_send_what_it_kept() -> None:
    diary: list[str] = []

    class Keeper(Collector):
        def consume(self, event: Event, origin: str = "", origin_queue: str = "") -> None:
            self.keep(event)
            self.events.append(event)

        def on_drain(self) -> None:
            diary.append(f"{self.name} drains {len(self.events)}")
            while self.events:
                self.send_event(self.events.pop(0))

    director = Director(stop_timeout_s=FAR_S)
    keepers = [director.register_actor(Keeper, f"keeper{number}") for number in range(3)]
    sink = director.register_actor(Collector, "sink")
    for left, right in zip(keepers, [*keepers[1:], sink], strict=True):
        director.connect_queue(left, right)
    with running(director):
        for number in range(5):
            director.post(keepers[0], number)
        wait_until(lambda: director.snapshot().actors["keeper0"].kept == 5)
        report = director.stop()
    assert diary == ["keeper0 drains 5", "keeper1 drains 5", "keeper2 drains 5"]
    assert sink.data == list(range(5))
    assert report.ok


def test_on_drain_is_called_again_as_long_as_it_sends_something() -> None:
    class Hesitant(Collector):
        def consume(self, event: Event, origin: str = "", origin_queue: str = "") -> None:
            self.keep(event)
            self.events.append(event)

        def on_drain(self) -> None:
            self.send_event(self.events.pop(0))

    director = Director(stop_timeout_s=FAR_S)
    actor = director.register_actor(Hesitant, "actor")
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(actor, sink)
    with running(director):
        for number in range(3):
            director.post(actor, number)
        wait_until(lambda: director.snapshot().actors["actor"].kept == 3)
        assert director.stop().ok
    assert sink.data == [0, 1, 2]


def test_on_drain_waits_until_nothing_else_is_left() -> None:
    gate = Signal()
    seen: list[tuple[int, int]] = []

    class Keeper(Collector):
        def consume(self, event: Event, origin: str = "", origin_queue: str = "") -> None:
            if event.data == "keep":
                self.keep(event)
                self.events.append(event)
            else:
                gate.wait()

        def on_drain(self) -> None:
            actor = director.snapshot().actors["actor"]
            seen.append((actor.in_flight, actor.queued))
            self.send_event(self.events.pop())

    director = Director(stop_timeout_s=FAR_S)
    actor = director.register_actor(Keeper, "actor", options={"concurrency": 1})
    with running(director):
        for data in ("keep", "wait", "wait"):
            director.post(actor, data)
        wait_until(lambda: director.snapshot().actors["actor"].in_flight == 1)
        director.request_stop("test")
        wait_until(lambda: director.snapshot().state == "stopping")
        gevent.sleep(0.02)
        assert seen == []
        gate.set()
        assert director.block().ok
    assert seen == [(0, 0)]


@pytest.mark.parametrize("error", [ValueError("no"), GreenletExit(), SystemExit(), gevent.Timeout()], ids=repr)
def test_an_on_drain_that_raises_leaves_its_events_for_the_report(error: BaseException) -> None:
    class Keeper(Collector):
        def consume(self, event: Event, origin: str = "", origin_queue: str = "") -> None:
            self.keep(event)

        def on_drain(self) -> None:
            raise error

    director = Director()
    actor = director.register_actor(Keeper, "actor")
    with running(director, stop_timeout_s=NEAR_S):
        director.post(actor, 1)
        wait_until(lambda: director.snapshot().actors["actor"].kept == 1)
        report = director.stop(NEAR_S)
    assert (report.exit_code, report.actors["actor"].left) == (1, 1)
    assert [letter.reason for letter in letters(director)] == ["stopped"]


def test_an_on_drain_that_hangs_is_killed_at_the_deadline() -> None:
    class Keeper(Collector):
        def consume(self, event: Event, origin: str = "", origin_queue: str = "") -> None:
            self.keep(event)

        def on_drain(self) -> None:
            gevent.sleep(60)

    director = Director()
    actor = director.register_actor(Keeper, "actor")
    with running(director):
        director.post(actor, 1)
        wait_until(lambda: director.snapshot().actors["actor"].kept == 1)
        report = director.stop(NEAR_S)
    assert report.took_s < NEAR_S + KILL_S + AT_ONCE_S
    assert (report.exit_code, report.actors["actor"].left, report.actors["actor"].killed) == (1, 1, 1)


def test_a_stop_waits_for_retries_that_are_due_before_its_deadline() -> None:
    def consume(actor: Actor, event: Event) -> None:
        if event.attempts == 0:
            raise Retry(after_s=0.2)
        actor.send_event(event)

    director, [actor], sink = chain(consume)
    with running(director):
        director.post(actor, 1)
        wait_until(lambda: director.snapshot().actors["a0"].delayed == 1)
        assert director.stop().ok
    assert sink.data == [1]


@pytest.mark.parametrize("concurrency", [1, 100])
def test_a_retry_due_after_the_deadline_becomes_a_dead_letter_at_once(concurrency: int) -> None:
    def consume(actor: Actor, event: Event) -> None:
        raise Retry(after_s=3600)

    director, [actor], _ = chain(consume, concurrency=concurrency)
    with running(director):
        director.post(actor, 1)
        wait_until(lambda: director.snapshot().actors["a0"].received == 1 or concurrency == 1)
        gevent.sleep(0.01)
        report = director.stop(FAR_S)
        assert_conserved(director)
    assert report.took_s < AT_ONCE_S
    assert (report.exit_code, report.actors["a0"].left) == (1, 1)
    assert [letter.reason for letter in letters(director)] == ["stopped"]


def test_a_retry_that_is_raised_while_the_director_drains_and_is_due_too_late_is_a_dead_letter_at_once() -> None:
    gate = Signal()

    def consume(actor: Actor, event: Event) -> None:
        gate.wait()
        raise Retry(after_s=3600)

    director, [actor], _ = chain(consume)
    with running(director):
        director.post(actor, 1)
        wait_until(lambda: director.snapshot().actors["a0"].in_flight == 1)
        director.request_stop("test")
        wait_until(lambda: director.snapshot().state == "stopping")
        gate.set()
        report = director.block()
        assert_conserved(director)
    assert report.took_s < AT_ONCE_S
    assert [letter.reason for letter in letters(director)] == ["stopped"]


def test_a_stop_drains_through_back_pressure() -> None:
    director = Director(stop_timeout_s=FAR_S)
    first = director.register_actor(Collector, "first")
    sink = director.register_actor(Collector, "sink", options={"concurrency": 1})
    director.connect_queue(first, sink, capacity=1)
    with running(director):
        sink.pause()
        for number in range(30):
            director.post(first, number)
        wait_until(lambda: director.snapshot().actors["first"].waiting_puts == 1)
        director.request_stop("test")
        wait_until(lambda: director.snapshot().state == "stopping")
        sink.resume()
        assert director.block().ok
    assert sink.data == list(range(30))


class Answering(Collector):
    """Takes answers, as WSGI does; open requests are counted in `open_requests`."""

    answers = True

    def __init__(self, name: str, diary: list[str]) -> None:
        super().__init__(name)
        self.diary = diary
        self.open_requests = 0
        self.has_closed = False
        self.has_aborted = False

    def consume(self, event: Event, origin: str = "", origin_queue: str = "") -> None:
        self.data.append(event.data)
        self.open_requests -= 1

    def post_hook(self) -> None:
        self.diary.append(f"post {self.name}")

    def _close_intake(self) -> None:
        self.has_closed = True

    def _is_answering(self) -> bool:
        return self.open_requests > 0

    def _abort(self) -> int:
        self.has_aborted = True
        ended_requests, self.open_requests = self.open_requests, 0
        return ended_requests


class Worker(Handler):
    """Writes down when it was stopped."""

    def __init__(self, name: str, function: Callable[[Any, Event], object], diary: list[str]) -> None:
        super().__init__(name, function)
        self.diary = diary

    def post_hook(self) -> None:
        self.diary.append(f"post {self.name}")


def full_circle(function: Callable[[Any, Event], object]) -> tuple[Director, Answering, list[str]]:
    """A door, a worker, and back to the door."""
    diary: list[str] = []
    director = Director(stop_timeout_s=FAR_S)
    door = director.register_actor(Answering, "door", diary)
    worker = director.register_actor(Worker, "worker", function, diary)
    director.connect_queue(door, worker)
    director.connect_queue(worker, door)
    return director, door, diary


def test_actors_that_answer_stop_when_no_request_is_open_and_their_intake_closes_first() -> None:
    gate = Signal()

    def work(actor: Actor, event: Event) -> None:
        gate.wait()
        actor.send_event(event)

    director, door, _ = full_circle(work)
    with running(director):
        for number in range(3):
            door.open_requests += 1
            door.send_event(Event(number))
        wait_until(lambda: director.snapshot().actors["worker"].in_flight == 3)
        director.request_stop("test")
        wait_until(lambda: door.has_closed)
        assert director.snapshot().state == "stopping"
        gate.set()
        report = director.block()
    assert report.ok
    assert door.data == [0, 1, 2]
    assert not door.has_aborted


def test_at_the_deadline_open_requests_are_ended() -> None:
    director, door, _ = full_circle(lambda actor, event: gevent.sleep(60))
    with running(director):
        door.open_requests += 1
        door.send_event(Event(1))
        wait_until(lambda: director.snapshot().actors["worker"].in_flight == 1)
        report = director.stop(NEAR_S)
    assert door.has_aborted
    assert report.exit_code == 1
    assert [letter.reason for letter in letters(director)] == ["stopped"]


def test_hooks_run_in_reverse_order_of_start() -> None:
    director, _, diary = full_circle(forward)
    with running(director):
        pass
    assert diary == ["post door", "post worker"]


# ---- intake -----------------------------------------------------------------------------------------------------


def test_while_it_drains_posting_is_refused_loop_is_false_and_sleep_returns() -> None:
    gate = Signal()
    seen: dict[str, object] = {}

    class Sleeper(Handler):
        def pre_hook(self) -> None:
            self.background(self.rest)

        def rest(self) -> None:
            seen["loop before"] = self.loop()
            seen["sleep"] = self.sleep(60)
            seen["loop after"] = self.loop()
            gate.wait()
            seen["sleep again"] = self.sleep(60)

    director = Director(stop_timeout_s=FAR_S)
    actor = director.register_actor(Sleeper, "actor", forward)
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(actor, sink)
    with running(director):
        wait_until(lambda: "loop before" in seen)
        director.request_stop("test")
        wait_until(lambda: "loop after" in seen)
        assert director.is_running()
        with pytest.raises(DirectorStateError, match="stopping"):
            director.post(actor, 1)
        with pytest.raises(DirectorStateError, match="stopping"):
            director.ask(actor, 1)
        gate.set()
        assert director.block().ok
    assert seen == {"loop before": True, "sleep": False, "loop after": False, "sleep again": False}


def test_what_a_source_had_in_hand_when_the_stop_began_is_still_sent() -> None:
    class Careful(Actor):
        def pre_hook(self) -> None:
            self.background(self.produce)

        def produce(self) -> None:
            self.sleep(60)
            self.send_event(Event("last"))

    director = Director(stop_timeout_s=FAR_S)
    source = director.register_actor(Careful, "source")
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(source, sink)
    with running(director):
        assert director.stop().ok
    assert sink.data == ["last"]


# ---- the deadline -----------------------------------------------------------------------------------------------


def test_at_the_deadline_hands_queues_kept_and_delayed_become_dead_letters_and_the_exit_code_is_1() -> None:
    shelf: list[Event] = []

    def consume(actor: Actor, event: Event) -> None:
        if event.data == "hand":
            gevent.sleep(60)
        elif event.data == "kept":
            actor.keep(event)
            shelf.append(event)
        elif event.data == "delayed":
            raise Retry(after_s=3600)

    director, [actor], _ = chain(consume, concurrency=10)
    with running(director):
        for data in ("kept", "delayed", "hand"):
            director.post(actor, data)
        wait_until(lambda: director.snapshot().actors["a0"].in_flight == 1)
        actor.pause()
        director.post(actor, "queued")
        report = director.stop(NEAR_S)
        assert_conserved(director)
    assert sorted(letter.event.data for letter in letters(director, "stopped")) == ["delayed", "hand", "kept", "queued"]
    assert (report.exit_code, report.ok) == (1, False)
    assert (report.actors["a0"].left, report.actors["a0"].killed) == (4, 1)
    assert NEAR_S <= report.took_s < NEAR_S + AT_ONCE_S
    assert "not everything drained (exit code 1)" in str(report)
    assert "4 left" in str(report)


def test_waiting_senders_events_become_dead_letters_at_the_deadline() -> None:
    director = Director()
    first = director.register_actor(Collector, "first")
    sink = director.register_actor(Collector, "sink", options={"concurrency": 1})
    director.connect_queue(first, sink, capacity=1)
    with running(director):
        sink.pause()
        for number in range(5):
            director.post(first, number)
        wait_until(lambda: director.snapshot().actors["first"].waiting_puts == 1)
        report = director.stop(NEAR_S)
        assert_conserved(director)
    assert sorted(letter.event.data for letter in letters(director, "stopped")) == list(range(5))
    assert sum(actor.left for actor in report.actors.values()) == 5
    assert report.exit_code == 1


def test_a_failing_handler_that_waits_for_room_on_its_error_outbox_does_not_break_the_stop() -> None:
    director = Director()
    handler = director.register_actor(Handler, "handler", lambda actor, event: 1 / 0)
    errors = director.register_actor(Collector, "errors")
    director.connect_queue_error(handler, errors, capacity=1)
    with running(director):
        errors.pause()
        for number in range(3):
            director.post(handler, number)
        wait_until(lambda: director.snapshot().actors["handler"].waiting_puts == 1)
        report = director.stop(NEAR_S)
        assert_conserved(director)
    assert len(letters(director, "stopped")) == 3
    assert report.exit_code == 1


def test_a_handler_that_swallows_its_kill_does_not_hold_the_stop_and_its_event_is_abandoned() -> None:
    release = Signal()

    def swallow(actor: Actor, event: Event) -> None:
        while not release.is_set():
            try:
                release.wait()
            except GreenletExit:
                pass

    director, [actor], _ = chain(swallow)
    with running(director):
        director.post(actor, 1)
        wait_until(lambda: director.snapshot().actors["a0"].in_flight == 1)
        report = director.stop(NEAR_S)
        assert_conserved(director)
        release.set()
    assert report.took_s < NEAR_S + KILL_S + AT_ONCE_S
    assert report.exit_code == 1
    assert [letter.reason for letter in letters(director)] == ["abandoned"]


def test_after_the_deadline_nothing_is_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    hooks: list[str] = []

    class Hooked(Handler):
        def pre_hook(self) -> None:
            hooks.append("pre")

        def post_hook(self) -> None:
            hooks.append("post")

    def consume(actor: Actor, event: Event) -> None:
        try:
            gevent.sleep(60)
        except GreenletExit:
            raise Fatal("killed, and broken by it") from None

    # Backoff takes no time: a restart would be through before the stop is.
    monkeypatch.setattr("compysition.runtime.Clock", SteeredClock)
    director = Director()
    actor = director.register_actor(Hooked, "actor", consume)
    with running(director):
        director.post(actor, 1)
        wait_until(lambda: director.snapshot().actors["actor"].in_flight == 1)
        report = director.stop(NEAR_S)
        assert_conserved(director)
    assert hooks == ["pre", "post"]
    assert report.exit_code == 1
    assert director.snapshot().actors["actor"].restarts == 0


def test_a_background_greenlet_that_does_not_obey_is_killed_at_the_deadline() -> None:
    class Stubborn(Actor):
        def pre_hook(self) -> None:
            self.background(gevent.sleep, 60)

    director = Director()
    director.register_actor(Stubborn, "actor")
    with running(director):
        report = director.stop(NEAR_S)
    assert (report.exit_code, report.actors["actor"].killed) == (1, 1)


def test_a_background_greenlet_that_swallows_its_kill_does_not_hold_the_stop() -> None:
    release = Signal()

    class Stubborn(Actor):
        def pre_hook(self) -> None:
            self.background(self.swallow)

        def swallow(self) -> None:
            while not release.is_set():
                try:
                    release.wait()
                except GreenletExit:
                    pass

    director = Director()
    director.register_actor(Stubborn, "actor")
    director.start(block=False)
    report = director.stop(NEAR_S)
    assert report.took_s < NEAR_S + KILL_S + AT_ONCE_S
    assert report.exit_code == 1
    release.set()
    wait_until(lambda: director.snapshot().actors["actor"].background == 0)
    assert_conserved(director)


def test_a_stop_without_any_time_still_accounts_for_everything() -> None:
    director, [actor], _ = chain(lambda actor, event: gevent.sleep(60), concurrency=2)
    with running(director):
        for number in range(10):
            director.post(actor, number)
        wait_until(lambda: director.snapshot().actors["a0"].in_flight == 2)
        report = director.stop(timeout_s=0)
        assert_conserved(director)
    assert len(letters(director, "stopped")) == 10
    assert report.actors["a0"].left == 10


def test_what_overflow_policies_drop_during_the_stop_is_in_the_report() -> None:
    director = Director(stop_timeout_s=FAR_S)
    first = director.register_actor(Collector, "first")
    sink = director.register_actor(Collector, "sink", options={"concurrency": 1})
    director.connect_queue(first, sink, capacity=1, overflow="drop_newest")
    with running(director):
        first.pause()
        sink.pause()
        for number in range(5):
            director.post(first, number)
        director.request_stop("test")
        wait_until(lambda: director.snapshot().state == "stopping")
        first.resume()
        wait_until(lambda: ended(director, Outcome.DROPPED) == 4)
        sink.resume()
        report = director.block()
    assert report.actors["sink"].dropped == 4
    assert report.exit_code == 0


# ---- hooks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hook",
    [
        lambda actor: 1 / 0,
        lambda actor: (_ for _ in ()).throw(GreenletExit()),
        lambda actor: (_ for _ in ()).throw(SystemExit(5)),
        lambda actor: (_ for _ in ()).throw(KeyboardInterrupt()),
        lambda actor: gevent.sleep(60),
    ],
    ids=["raises", "GreenletExit", "SystemExit", "KeyboardInterrupt", "hangs"],
)
def test_a_post_hook_that_fails_is_logged_and_the_others_run_all_the_same(
    hook: Callable[[Actor], object], caplog: pytest.LogCaptureFixture
) -> None:
    diary: list[str] = []

    class Hooked(Collector):
        def post_hook(self) -> None:
            diary.append(self.name)
            if self.name == "second":
                hook(self)

    director = Director(stop_timeout_s=FAR_S)
    actors = [director.register_actor(Hooked, name, options={"grace_s": 0.05}) for name in ("first", "second", "third")]
    director.connect_queue(actors[0], actors[1])
    director.connect_queue(actors[1], actors[2])
    with running(director):
        report = director.stop()
    assert diary == ["first", "second", "third"]
    assert report.took_s < AT_ONCE_S
    assert "post_hook of 'second'" in caplog.text


def test_what_a_post_hook_sends_ends_with_a_name() -> None:
    class Talkative(Collector):
        def post_hook(self) -> None:
            self.send_event(Event("too late"))

    director = Director(stop_timeout_s=FAR_S)
    actor = director.register_actor(Talkative, "actor")
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(actor, sink)
    with running(director):
        report = director.stop()
        assert_conserved(director)
    assert sink.data == ["too late"] or [letter.reason for letter in letters(director)] == ["stopped"]
    assert report.exit_code == (0 if sink.data else 1)


# ---- where a stop may be called ---------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["stop", "block"])
def test_stop_and_block_raise_inside_an_actor_and_name_it(call: str) -> None:
    errors: dict[str, BaseException] = {}

    def attempt(where: str) -> None:
        try:
            getattr(director, call)()
        except WrongContextError as error:
            errors[where] = error

    class Everywhere(Collector):
        def pre_hook(self) -> None:
            attempt("pre_hook")
            self.background(attempt, "background")

        def consume(self, event: Event, origin: str = "", origin_queue: str = "") -> None:
            attempt("handler")
            self.keep(event)
            self.events.append(event)

        def on_drain(self) -> None:
            attempt("on_drain")
            self.send_event(self.events.pop())

        def post_hook(self) -> None:
            attempt("post_hook")

    director = Director(stop_timeout_s=FAR_S)
    actor = director.register_actor(Everywhere, "everywhere")
    with running(director):
        director.post(actor, 1)
        get_hub().loop.run_callback(attempt, "hub")
        thread = threading.Thread(target=attempt, args=("thread",), name="a thread of mine")
        thread.start()
        wait_until(lambda: not thread.is_alive())
        wait_until(lambda: {"pre_hook", "background", "handler", "hub", "thread"} <= errors.keys())
        assert director.stop().ok
    assert sorted(errors) == ["background", "handler", "hub", "on_drain", "post_hook", "pre_hook", "thread"]
    for where in ("pre_hook", "background", "handler", "on_drain", "post_hook"):
        assert "'everywhere'" in str(errors[where]), where
    assert "callback of the event loop" in str(errors["hub"])
    assert "a thread of mine" in str(errors["thread"])
    assert all("request_stop()" in str(error) for error in errors.values())


@pytest.mark.parametrize("where", ["handler", "background", "hub", "thread", "here"])
def test_request_stop_works_from_anywhere(where: str) -> None:
    director = Director(stop_timeout_s=FAR_S)

    def ask() -> None:
        director.request_stop(f"from {where}")

    def consume(actor: Actor, event: Event) -> None:
        if where == "handler":
            ask()
        elif where == "background":
            actor.background(ask)

    actor = director.register_actor(Handler, "actor", consume)
    with running(director):
        director.post(actor, 1)
        if where == "hub":
            get_hub().loop.run_callback(ask)
        elif where == "thread":
            thread = threading.Thread(target=ask)
            thread.start()
            thread.join()
        elif where == "here":
            ask()
        report = director.block()
    assert report.reason == f"from {where}"
    assert report.ok


def test_the_first_reason_is_the_one_reported() -> None:
    director = Director(stop_timeout_s=FAR_S)
    with running(director):
        director.request_stop("first")
        director.request_stop("second")
        assert director.stop().reason == "first"


def test_a_stop_is_asked_for_by_many_and_happens_once() -> None:
    hooks: list[int] = []

    class Hooked(Collector):
        def post_hook(self) -> None:
            hooks.append(1)
            gevent.sleep(0.01)

    director = Director(stop_timeout_s=FAR_S)
    director.register_actor(Hooked, "actor")
    with running(director):
        stoppers = [gevent.spawn(director.stop) for _ in range(3)] + [gevent.spawn(director.block)]
        report = director.stop()
        gevent.joinall(stoppers, timeout=5, raise_error=True)
        assert all(stopper.value is report for stopper in stoppers)
        assert director.stop() is report
        assert director.block() is report
    assert hooks == [1]


@pytest.mark.parametrize("call", ["stop", "block"])
def test_stop_before_start_is_an_error(call: str) -> None:
    director = Director()
    with pytest.raises(DirectorStateError, match="not started"):
        getattr(director, call)()


# ---- start again ------------------------------------------------------------------------------------------------


def test_the_same_process_can_start_again() -> None:
    for _ in range(3):
        director, [actor], sink = chain(forward)
        with running(director):
            director.post(actor, 1)
            assert director.stop().ok
        assert sink.data == [1]


def test_the_same_director_can_start_again_and_its_actors_work() -> None:
    director, [actor], sink = chain(forward)
    for number in range(3):
        with running(director):
            director.post(actor, number)
            assert director.stop().ok
    assert sink.data == [0, 1, 2]


@pytest.mark.parametrize("in_hook", [False, True])
def test_when_the_same_director_starts_again_its_background_greenlets_run_again_and_once_each(in_hook: bool) -> None:
    begun: list[int] = []

    class Ticking(Actor):
        def __init__(self, name: str) -> None:
            super().__init__(name)
            if not in_hook:
                self.background(self.tick)

        def pre_hook(self) -> None:
            if in_hook:
                self.background(self.tick)

        def tick(self) -> None:
            begun.append(1)
            while self.loop():
                self.sleep(60)

    director = Director(stop_timeout_s=FAR_S)
    director.register_actor(Ticking, "ticking")
    for rounds in range(1, 4):
        with running(director):
            wait_until(lambda rounds=rounds: len(begun) == rounds)  # type: ignore[misc]
            assert director.snapshot().actors["ticking"].background == 1
            assert director.stop().ok
        assert len(begun) == rounds


def test_a_director_that_is_started_again_after_a_deadline_runs_as_before() -> None:
    def sleep_and_forward(actor: Actor, event: Event) -> None:
        gevent.sleep(event.data)
        actor.send_event(event)

    director, [actor], sink = chain(sleep_and_forward)
    with running(director):
        director.post(actor, 60)
        wait_until(lambda: director.snapshot().actors["a0"].in_flight == 1)
        assert director.stop(NEAR_S).exit_code == 1
    with running(director):
        director.post(actor, 0)
        wait_until(lambda: sink.data == [0])
        assert director.snapshot().actors["a0"].state == "running"
        assert director.stop().exit_code == 0


def test_a_stopped_director_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    at_exit: list[object] = []
    monkeypatch.setattr(atexit, "register", at_exit.append)
    monkeypatch.setattr(atexit, "unregister", at_exit.remove)
    before = threading.active_count()
    director, [actor], _ = chain(forward)
    director.start(block=False)
    director.post(actor, 1)
    assert len(at_exit) == 1
    assert director.stop().ok
    assert at_exit == []
    wait_until(lambda: not director.dispatcher.consumers)
    wait_until(lambda: threading.active_count() <= before)
    assert_conserved(director)


def test_a_stopped_director_can_be_collected(monkeypatch: pytest.MonkeyPatch) -> None:
    # `observed` keeps the Directors that it has seen start.
    monkeypatch.setattr(Director, "start", PLAIN_START)
    director = Director(stop_timeout_s=FAR_S)
    source = director.register_actor(TestEvent, "source", interval=0.001)
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(source, sink)
    director.start(block=False)
    seen = sink.data
    wait_until(lambda: seen)
    director.stop()
    gevent.sleep(0.01)
    traces: list[weakref.ref[object]] = [weakref.ref(director), weakref.ref(source), weakref.ref(sink)]
    del director, source, sink
    collect_garbage()
    assert [trace() for trace in traces] == [None, None, None]


# ---- until idle -------------------------------------------------------------------------------------------------


def test_until_idle_stops_by_itself_when_everything_is_done() -> None:
    director = Director(stop_timeout_s=FAR_S)
    source = director.register_actor(Source, "source", range(1000))
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(source, sink, capacity=10)
    report = director.start(until_idle=True)
    assert isinstance(report, StopReport)
    assert report.ok
    assert sink.data == list(range(1000))
    assert_conserved(director)


def test_until_idle_waits_for_delayed_and_kept_events_and_running_handlers() -> None:
    shelf: list[Event] = []

    def consume(actor: Actor, event: Event) -> None:
        if event.data == "retry" and event.attempts == 0:
            raise Retry(after_s=0.15)
        if event.data == "slow":
            gevent.sleep(0.15)
        if event.data == "keep":
            actor.keep(event)
            shelf.append(event)
            actor.background(release, actor)
        else:
            actor.send_event(event)

    def release(actor: Actor) -> None:
        actor.sleep(0.15)
        actor.send_event(shelf.pop())

    for kind in ("retry", "slow", "keep"):
        director = Director(stop_timeout_s=FAR_S)
        source = director.register_actor(Source, "source", [kind])
        actor = director.register_actor(Handler, "actor", consume)
        sink = director.register_actor(Collector, "sink")
        director.connect_queue(source, actor)
        director.connect_queue(actor, sink)
        report = director.start(until_idle=True)
        assert report is not None
        assert report.ok
        assert sink.data == [kind]
        assert_conserved(director)


def test_until_idle_waits_for_a_restart() -> None:
    def consume(actor: Actor, event: Event) -> None:
        if event.attempts == 0:
            raise Fatal
        actor.send_event(event)

    director = Director(stop_timeout_s=FAR_S)
    source = director.register_actor(Source, "source", [1])
    actor = director.register_actor(Handler, "actor", consume)
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(source, actor)
    director.connect_queue(actor, sink)
    report = director.start(until_idle=True)
    assert report is not None
    assert report.ok
    assert sink.data == [1]
    assert_conserved(director)


def test_until_idle_that_escalates_says_so() -> None:
    def produce() -> Any:
        yield 1
        raise ValueError("broken source")

    director = Director(max_restarts=0, stop_timeout_s=FAR_S)
    source = director.register_actor(Source, "source", produce())
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(source, sink)
    report = director.start(until_idle=True)
    assert report is not None
    assert report.exit_code == 3
    assert sink.data == [1]
    assert_conserved(director)


# ---- context manager --------------------------------------------------------------------------------------------


def test_as_a_context_manager_it_drains_on_exit() -> None:
    director, [actor], sink = chain(forward)
    with director as entered:
        assert entered is director
        assert director.is_running()
        for number in range(100):
            director.post(actor, number)
    assert not director.is_running()
    assert sink.data == list(range(100))
    assert_conserved(director)


def test_as_a_context_manager_it_drains_when_the_body_raises_and_the_error_goes_on() -> None:
    director, [actor], sink = chain(forward)
    with pytest.raises(ValueError, match="of the body"), director:
        director.post(actor, 1)
        raise ValueError("of the body")
    assert sink.data == [1]
    assert_conserved(director)


def test_as_a_context_manager_it_may_be_stopped_in_the_body() -> None:
    director, [actor], sink = chain(forward)
    with director:
        director.post(actor, 1)
        director.stop()
    assert sink.data == [1]


def test_as_a_context_manager_it_does_not_enter_when_it_cannot_start() -> None:
    class Broken(Actor):
        def pre_hook(self) -> None:
            raise ValueError("no")

    director = Director()
    director.register_actor(Broken, "broken")
    with pytest.raises(StartError), director:
        pytest.fail("it was entered")
    assert not director.is_running()


def test_a_stop_takes_next_to_no_time_when_there_is_nothing_to_wait_for() -> None:
    director, _, _ = chain(forward, forward)
    began = time.perf_counter()
    with running(director):
        pass
    assert time.perf_counter() - began < 0.5
