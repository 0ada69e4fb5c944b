# SPDX-License-Identifier: Apache-2.0
"""Everything that can leave a handler, and what becomes of its event."""

import gc
import logging
import time
import weakref
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent import GreenletExit, getcurrent
from gevent.event import Event as Signal

from compysition import Actor, Director, Event, Fatal, Outcome, Retry, StopFlow
from compysition.deadletter import DEAD_LETTERS_KEPT
from compysition.dispatch import Consumer
from compysition.errors import (
    ActorError,
    DeadlineError,
    DirectorStoppedError,
    EventNotOwnedError,
    HandlerTimeoutError,
    MalformedError,
)
from tests.fault.conservation import (
    Collector,
    Handler,
    Observed,
    SteeredClock,
    assert_conserved,
    ended,
    letters,
    running,
    wait_until,
)

pytestmark = pytest.mark.timeout(20)


class CustomBaseError(BaseException):
    """Neither an `Exception` nor one of those that gevent knows."""


class Unprintable(Exception):  # noqa: N818  # the name says what is wrong with it
    """Its text cannot be had."""

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> SteeredClock:
    """Backoff between restarts takes no time here."""
    clock = SteeredClock()
    monkeypatch.setattr("compysition.runtime.Clock", lambda: clock)
    return clock


def flow(function: Callable[[Any, Event], object], **options: Any) -> tuple[Director, Handler, Collector, Collector]:
    """Handler → sink, and its error outbox → errors. Order is kept unless `options` say otherwise."""
    director = Director(stop_timeout_s=3.0)
    handler = director.register_actor(Handler, "handler", function, options={"concurrency": 1, **options})
    sink = director.register_actor(Collector, "sink")
    errors = director.register_actor(Collector, "errors")
    director.connect_queue(handler, sink)
    director.connect_queue_error(handler, errors)
    return director, handler, sink, errors


def post_all(director: Director, actor: Actor, *data: Any) -> None:
    """Before the start, so that they lie in one inbox together and are taken in one chunk."""
    for each in data:
        director.post(actor, each)


def restarts(director: Director, name: str = "handler") -> int:
    return director.snapshot().actors[name].restarts


# ---- what fails the event ---------------------------------------------------------------------------------------


def recurse(depth: int = 0) -> int:
    return recurse(depth + 1) + 1


def time_out() -> None:
    with gevent.Timeout(0.01):
        gevent.sleep(60)


def raiser(error: BaseException) -> Callable[[], object]:
    def throw() -> object:
        raise error

    return throw


ORDINARY: dict[str, tuple[Callable[[], object], type[BaseException], int]] = {
    "ValueError": (raiser(ValueError("bad")), ValueError, 500),
    "MalformedError": (raiser(MalformedError("bad")), MalformedError, 400),
    "MemoryError raised": (raiser(MemoryError()), MemoryError, 500),
    "MemoryError met": (lambda: bytearray(1 << 62), MemoryError, 500),
    "RecursionError": (recurse, RecursionError, 500),
    "StopIteration": (lambda: next(iter(())), StopIteration, 500),
    "ExceptionGroup": (raiser(ExceptionGroup("two", [ValueError(), OSError()])), ExceptionGroup, 500),
    "unprintable": (raiser(Unprintable()), Unprintable, 500),
    "gevent.Timeout": (time_out, HandlerTimeoutError, 504),
    "TimeoutError": (raiser(TimeoutError()), TimeoutError, 500),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_an_error_fails_its_event_alone_and_the_actor_goes_on(name: str) -> None:
    fail, error_class, status = ORDINARY[name]

    def consume(actor: Actor, event: Event) -> None:
        if event.data == "bad":
            fail()
        actor.send_event(event)

    director, handler, sink, errors = flow(consume)
    post_all(director, handler, "before", "bad", "after")
    with running(director):
        wait_until(lambda: len(sink.data) == 2 and errors.data)
        assert_conserved(director)
        assert restarts(director) == 0
        assert director.snapshot().actors["handler"].failed == 1
    assert sink.data == ["before", "after"]
    assert errors.data == ["bad"]
    failure = errors.events[0].error
    assert failure is not None
    assert (failure.error_class, failure.status, failure.actor) == (error_class, status, "handler")


def test_a_timeout_that_another_handler_left_running_fails_the_event_it_hits() -> None:
    def consume(actor: Actor, event: Event) -> None:
        if event.data == "leaves one":
            gevent.Timeout.start_new(0.01)
        else:
            gevent.sleep(60)

    director, handler, _, errors = flow(consume)
    post_all(director, handler, "leaves one", "is hit")
    with running(director):
        wait_until(lambda: errors.data == ["is hit"])
        assert_conserved(director)
    failure = errors.events[0].error
    assert failure is not None
    assert failure.status == 504


def test_a_timeout_that_hits_a_parked_consumer_harms_nobody(observed: Observed) -> None:
    def consume(actor: Actor, event: Event) -> None:
        if event.data == "leaves one":
            timeouts.append(gevent.Timeout.start_new(0.01))
        actor.send_event(event)

    timeouts: list[gevent.Timeout] = []
    director, handler, sink, _ = flow(consume)
    with running(director):
        director.post(handler, "leaves one")
        wait_until(lambda: timeouts and not timeouts[0].pending)
        for number in range(3):
            director.post(handler, number)
        wait_until(lambda: sink.data == ["leaves one", 0, 1, 2])
        assert_conserved(director)
    assert restarts(director) == 0
    # It is a mistake of the handler, and gevent may say so.
    observed.errors.clear()


def test_the_record_of_an_error_keeps_no_frame_alive() -> None:
    class Local:
        """Something in the frame of a handler."""

    seen: list[weakref.ref[Local]] = []

    def consume(actor: Actor, event: Event) -> None:
        local = Local()
        seen.append(weakref.ref(local))
        # Below 500: it is not logged, so that pytest's own handler does not keep the frames.
        raise MalformedError("bad")

    director, handler, _, errors = flow(consume)
    gc.disable()
    try:
        with running(director):
            director.post(handler, 1)
            wait_until(lambda: errors.events)
            assert errors.events[0].error is not None
            assert "consume" in errors.events[0].error.traceback
            wait_until(lambda: seen[0]() is None)
    finally:
        gc.enable()


def test_without_any_error_outbox_a_failed_event_is_a_dead_letter_and_never_on_the_success_path() -> None:
    director = Director()
    handler = director.register_actor(Handler, "handler", lambda actor, event: 1 / 0)
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(handler, sink)
    with running(director):
        director.post(handler, "bad", inbox="door")
        wait_until(lambda: letters(director))
        assert_conserved(director)
    [letter] = letters(director)
    assert (letter.actor, letter.inbox, letter.reason, letter.attempts) == ("handler", "door", "failed", 0)
    assert letter.error is not None
    assert letter.error.error_class is ZeroDivisionError
    assert letter.event.data == "bad"
    assert sink.data == []


def test_the_error_actor_gets_failed_events_of_actors_without_error_outbox_only() -> None:
    director = Director()
    own = director.register_actor(Handler, "own", lambda actor, event: 1 / 0)
    without = director.register_actor(Handler, "without", lambda actor, event: 1 / 0)
    wired = director.register_actor(Collector, "wired")
    default = director.register_error_actor(Collector, "default")
    director.connect_queue_error(own, wired)
    with running(director):
        director.post(own, "by wire")
        director.post(without, "by default")
        wait_until(lambda: wired.data and default.data)
        assert_conserved(director)
    assert wired.data == ["by wire"]
    assert default.data == ["by default"]
    assert default.origins == [("without", "without")]


def test_the_error_actors_own_failures_go_to_the_dead_letters_only() -> None:
    def consume(actor: Actor, event: Event) -> None:
        if event.data == "sends":
            actor.send_error(event)
        else:
            raise KeyError("again")

    director = Director()
    handler = director.register_actor(Handler, "handler", lambda actor, event: 1 / 0)
    director.register_error_actor(Handler, "errors", consume)
    with running(director):
        director.post(handler, "raises")
        director.post(handler, "sends")
        wait_until(lambda: len(letters(director)) == 2)
        assert_conserved(director)
    assert {(letter.actor, letter.reason) for letter in letters(director)} == {("errors", "failed")}
    assert director.snapshot().actors["errors"].received == 2


@pytest.mark.parametrize("has_error_actor", [False, True])
def test_send_error_without_error_outbox_never_takes_a_normal_one(has_error_actor: bool) -> None:
    director = Director()
    handler = director.register_actor(Handler, "handler", lambda actor, event: actor.send_error(event))
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(handler, sink)
    errors = director.register_error_actor(Collector, "errors") if has_error_actor else None
    with running(director):
        director.post(handler, "bad")
        wait_until(lambda: letters(director) or (errors is not None and errors.data))
        assert_conserved(director)
    assert sink.data == []
    assert len(letters(director, "failed")) == (0 if has_error_actor else 1)


@pytest.mark.parametrize(
    ("error", "has_wire", "wanted"),
    [
        (ValueError("no"), False, (logging.ERROR, "handler raised ValueError: no", "became a dead letter (failed)")),
        (ValueError("no"), True, (logging.ERROR, "handler raised ValueError: no", "")),
        (MalformedError("no"), False, (logging.INFO, "became a dead letter (failed): MalformedError: no", "")),
        (MalformedError("no"), True, None),
    ],
    ids=["dead", "wired", "dead by the sender's fault", "wired by the sender's fault"],
)
def test_a_failure_is_logged_in_one_record_that_says_what_became_of_the_event(
    error: Exception, has_wire: bool, wanted: tuple[int, str, str] | None, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(actor: Actor, event: Event) -> None:
        raise error

    director = Director()
    actor = director.register_actor(Handler, "actor", fail)
    if has_wire:
        director.connect_queue_error(actor, director.register_actor(Collector, "wired"))
    caplog.set_level(logging.INFO, logger="compysition.actor.actor")
    event = Event(1)
    with running(director):
        director.post(actor, event)
        wait_until(lambda: director.snapshot().balance.held == 0)
        assert_conserved(director)
    records = [record for record in caplog.records if record.name == "compysition.actor.actor"]
    if wanted is None:
        assert not records
        return
    level, *texts = wanted
    [record] = records
    assert record.levelno == level
    assert all(text in record.getMessage() for text in (*texts, event.event_id))
    assert bool(record.exc_info) == (level == logging.ERROR)
    assert ("dead letter" in record.getMessage()) == bool(letters(director))


def test_raising_after_the_event_was_sent_is_counted_and_does_not_fail_it(caplog: pytest.LogCaptureFixture) -> None:
    def consume(actor: Actor, event: Event) -> None:
        actor.send_event(event)
        raise ValueError("too late")

    director, handler, sink, errors = flow(consume)
    with running(director):
        director.post(handler, 1)
        wait_until(lambda: sink.data == [1])
        wait_until(lambda: director.snapshot().actors["handler"].failed_after_send == 1)
        assert director.snapshot().actors["handler"].failed == 0
        assert_conserved(director)
    assert errors.data == []
    assert letters(director) == []
    assert "after it had sent event" in caplog.text


@pytest.mark.parametrize("error_class", [DeadlineError, DirectorStoppedError])
def test_the_users_own_deadline_error_after_the_event_was_sent_is_counted_too(
    error_class: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    def consume(actor: Actor, event: Event) -> None:
        actor.send_event(event)
        raise error_class("of a database")

    director, handler, sink, errors = flow(consume)
    with running(director):
        director.post(handler, 1)
        wait_until(lambda: director.snapshot().actors["handler"].failed_after_send == 1)
    assert (sink.data, errors.data, letters(director)) == ([1], [], [])
    assert "of a database" in caplog.text


@pytest.mark.parametrize("is_own", [True, False], ids=["its own put", "the put of a part"])
def test_a_wait_for_room_that_the_deadline_ends_is_no_failure_after_sending_unless_it_was_for_another_event(
    is_own: bool,
) -> None:
    def consume(actor: Actor, event: Event) -> None:
        if not is_own:
            part = actor.create_event("part")
            actor.send_event(event)
            event = part
        actor.send_event(event)

    director = Director(stop_timeout_s=3.0)
    handler = director.register_actor(Handler, "handler", consume)
    narrow = director.register_actor(Collector, "narrow")
    director.connect_queue(handler, narrow, capacity=1)
    with running(director):
        narrow.pause()
        if is_own:
            director.post(handler, "first")
            wait_until(lambda: narrow.inbox_depth == 1)
        with pytest.raises(DeadlineError):
            director.ask(handler, "second", timeout_s=0.05)
        wait_until(lambda: director.snapshot().actors["handler"].in_flight == 0)
        seen = director.snapshot().actors["handler"]
        assert (seen.failed, seen.failed_after_send) == (0, 0 if is_own else 1)
        narrow.resume()
        wait_until(lambda: narrow.inbox_depth == 0)
        assert_conserved(director)
    assert ended(director, Outcome.EXPIRED) == (1 if is_own else 2)


def test_an_event_that_fails_again_and_again_takes_error_outboxes_three_times_at_most() -> None:
    seen: list[str] = []

    def consume(actor: Actor, event: Event) -> None:
        seen.append(actor.name)
        raise ValueError(actor.name)

    director = Director()
    ping = director.register_actor(Handler, "ping", consume)
    pong = director.register_actor(Handler, "pong", consume)
    director.connect_queue_error(ping, pong)
    director.connect_queue_error(pong, ping)
    with running(director):
        director.post(ping, 1)
        wait_until(lambda: letters(director))
        assert_conserved(director)
    assert seen == ["ping", "pong", "ping", "pong"]
    [letter] = letters(director, "failed")
    assert letter.actor == "pong"


def test_copies_of_a_failed_event_do_not_begin_to_count_anew() -> None:
    def consume(actor: Actor, event: Event) -> None:
        raise ValueError(actor.name)

    director = Director()
    ping = director.register_actor(Handler, "ping", consume)
    pongs = [director.register_actor(Handler, f"pong{number}", consume) for number in range(2)]
    director.connect_queue_error(ping, pongs)
    for pong in pongs:
        director.connect_queue_error(pong, ping)
    with running(director):
        director.post(ping, 1)
        # ping, both pongs, ping twice, four pongs, which have no hop left.
        wait_until(lambda: len(letters(director, "failed")) == 4)
        assert_conserved(director)
    assert director.snapshot().actors["ping"].failed == 3


def test_an_error_set_to_none_is_forgotten() -> None:
    rounds: list[int] = []

    def mend(actor: Actor, event: Event) -> None:
        rounds.append(1)
        if len(rounds) < 10:
            event.error = None
            actor.send_event(event)

    director = Director()
    breaker = director.register_actor(Handler, "breaker", lambda actor, event: 1 / 0)
    mender = director.register_actor(Handler, "mender", mend)
    director.connect_queue_error(breaker, mender)
    director.connect_queue(mender, breaker)
    with running(director):
        director.post(breaker, 1)
        wait_until(lambda: len(rounds) == 10)
        assert_conserved(director)
    assert letters(director) == []


def test_an_error_outbox_that_refuses_makes_a_dead_letter() -> None:
    director = Director(stop_timeout_s=3.0)
    handler = director.register_actor(Handler, "handler", lambda actor, event: 1 / 0)
    errors = director.register_actor(Collector, "errors")
    director.connect_queue_error(handler, errors, capacity=1, overflow="fail")
    with running(director):
        errors.pause()
        post_all(director, handler, 1, 2)
        wait_until(lambda: len(letters(director, "overflow")) == 1)
        assert_conserved(director)
        errors.resume()
        wait_until(lambda: errors.data)
    assert restarts(director) == 0


def test_data_that_cannot_be_copied_to_several_error_outboxes_does_not_restart_the_actor() -> None:
    class Uncopyable:
        def __deepcopy__(self, memo: object) -> "Uncopyable":
            raise TypeError("there can be one")

    director = Director(stop_timeout_s=3.0)
    handler = director.register_actor(Handler, "handler", lambda actor, event: 1 / 0)
    errors = [director.register_actor(Collector, f"errors{number}") for number in range(2)]
    director.connect_queue_error(handler, errors)
    with running(director):
        director.post(handler, Uncopyable())
        wait_until(lambda: letters(director))
        assert_conserved(director)
    assert restarts(director) == 0
    [letter] = letters(director)
    assert letter.reason == "failed"


def test_data_that_cannot_be_copied_fails_a_fan_out_and_nothing_else() -> None:
    class Uncopyable:
        def __deepcopy__(self, memo: object) -> "Uncopyable":
            raise TypeError("there can be one")

    director, handler, sink, errors = flow(lambda actor, event: actor.send_event(event))
    other = director.register_actor(Collector, "other")
    director.connect_queue(handler, other)
    with running(director):
        director.post(handler, Uncopyable())
        director.post(handler, "fine")
        wait_until(lambda: errors.data and sink.data and other.data)
        assert_conserved(director)
    assert sink.data == other.data == ["fine"]


def test_dead_letters_are_a_bounded_ring_and_what_falls_out_is_counted() -> None:
    director = Director(size=2 * DEAD_LETTERS_KEPT)
    handler = director.register_actor(Handler, "handler", lambda actor, event: actor.send_error(event))
    logging.getLogger("compysition.actor.handler").setLevel(logging.CRITICAL)
    try:
        with running(director):
            for number in range(DEAD_LETTERS_KEPT + 7):
                director.post(handler, number)
            wait_until(lambda: director.dead_letters.lost == 7)
            assert_conserved(director)
    finally:
        logging.getLogger("compysition.actor.handler").setLevel(logging.NOTSET)
    assert len(director.dead_letters) == DEAD_LETTERS_KEPT
    assert [letter.event.data for letter in director.dead_letters] == list(range(7, DEAD_LETTERS_KEPT + 7))


# ---- what gives the event back ----------------------------------------------------------------------------------


def once(fail: Callable[[Actor], object], seen: list[Any]) -> Callable[[Actor, Event], None]:
    """A handler that calls `fail` for the event 'bad' the first time, and sends on whatever comes."""

    def consume(actor: Actor, event: Event) -> None:
        seen.append((event.data, event.attempts))
        if event.data == "bad" and event.attempts == 0:
            fail(actor)
        actor.send_event(event)

    return consume


def raise_greenlet_exit(actor: Actor) -> None:
    raise GreenletExit


def kill_own_greenlet(actor: Actor) -> None:
    greenlet: Any = getcurrent()
    greenlet.kill()


def raise_fatal(actor: Actor) -> None:
    raise Fatal("state is broken")


@pytest.mark.parametrize(
    ("fail", "concurrency"),
    [
        *((raise_greenlet_exit, 1), (raise_greenlet_exit, 100), (raise_fatal, 1), (raise_fatal, 100)),
        # Killing oneself goes through the hub: with more concurrency others overtake.
        (kill_own_greenlet, 1),
    ],
)
def test_a_killed_handlers_event_comes_back_to_the_front_and_the_actor_is_restarted_once(
    fail: Callable[[Actor], object], concurrency: int
) -> None:
    seen: list[Any] = []
    director, handler, sink, errors = flow(once(fail, seen), concurrency=concurrency)
    post_all(director, handler, "before", "bad", "after", "last")
    with running(director):
        wait_until(lambda: len(sink.data) == 4)
        assert_conserved(director)
        assert restarts(director) == 1
    assert sink.data == ["before", "bad", "after", "last"]
    assert seen == [("before", 0), ("bad", 0), ("bad", 1), ("after", 0), ("last", 0)]
    assert errors.data == []
    assert letters(director) == []


def test_an_unknown_base_exception_gives_the_event_back_restarts_and_leaves_the_greenlet(observed: Observed) -> None:
    def fail(actor: Actor) -> None:
        raise CustomBaseError("own")

    seen: list[Any] = []
    director, handler, sink, _ = flow(once(fail, seen))
    post_all(director, handler, "before", "bad", "after")
    with running(director):
        wait_until(lambda: len(sink.data) == 3)
        assert_conserved(director)
        assert restarts(director) == 1
    assert sink.data == ["before", "bad", "after"]
    assert len(observed.take(CustomBaseError)) == 1


@pytest.mark.parametrize("error", [SystemExit(7), KeyboardInterrupt()], ids=repr)
def test_system_exit_and_keyboard_interrupt_give_the_event_back_and_begin_an_ordered_stop(error: BaseException) -> None:
    def fail(actor: Actor) -> None:
        raise error

    seen: list[Any] = []
    director, handler, sink, _ = flow(once(fail, seen))
    post_all(director, handler, "before", "bad", "after")
    with running(director):
        report = director.block()
        assert_conserved(director)
    assert sink.data == ["before", "bad", "after"]
    assert type(error).__name__ in report.reason
    assert "'handler'" in report.reason
    assert report.exit_code == 0
    assert restarts(director) == 0


def test_an_event_whose_handler_ends_the_process_every_time_does_not_keep_the_stop_waiting() -> None:
    def consume(actor: Actor, event: Event) -> None:
        raise SystemExit(7)

    director, handler, _, _ = flow(consume)
    with running(director):
        director.post(handler, "bad")
        report = director.block()
        assert_conserved(director)
    assert report.took_s < 2
    [letter] = letters(director)
    assert (letter.reason, letter.attempts) == ("poison", 3)


@pytest.mark.parametrize("fail", [raise_greenlet_exit, raise_fatal])
def test_an_event_over_which_three_handlers_were_ended_is_poison(fail: Callable[[Actor], object]) -> None:
    calls: list[int] = []

    def consume(actor: Actor, event: Event) -> None:
        if event.data == "bad":
            calls.append(event.attempts)
            fail(actor)
        actor.send_event(event)

    director, handler, sink, _ = flow(consume)
    post_all(director, handler, "bad", "after")
    with running(director):
        wait_until(lambda: sink.data == ["after"])
        assert_conserved(director)
    assert calls == [0, 1, 2]
    [letter] = letters(director)
    assert (letter.actor, letter.reason, letter.attempts) == ("handler", "poison", 3)
    assert restarts(director) == 3


def test_the_kills_at_one_actor_do_not_poison_an_event_at_the_next() -> None:
    def twice(actor: Actor, event: Event) -> None:
        if counts.setdefault(actor.name, 0) < 2:
            counts[actor.name] += 1
            raise Fatal
        actor.send_event(event)

    counts: dict[str, int] = {}
    director = Director(max_restarts=10)
    first = director.register_actor(Handler, "first", twice)
    second = director.register_actor(Handler, "second", twice)
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(first, second)
    director.connect_queue(second, sink)
    with running(director):
        director.post(first, 1)
        wait_until(lambda: sink.data == [1])
        assert_conserved(director)
    assert sink.events[0].attempts == 4


def test_a_finally_that_switches_is_waited_for_before_the_event_is_given_back() -> None:
    diary: list[str] = []
    leave = Signal()

    def consume(actor: Actor, event: Event) -> None:
        diary.append(f"enter {event.attempts}")
        if event.attempts == 0:
            try:
                gevent.sleep(60)
            finally:
                leave.wait()
                diary.append("leave 0")
        actor.send_event(event)

    director, handler, sink, _ = flow(consume)
    with running(director):
        director.post(handler, 1)
        wait_until(lambda: diary == ["enter 0"])
        victim = busy_consumer(director, "handler")
        victim.kill(block=False)
        # The kill has reached it as soon as it waits for something else than the sleep.
        wait_until(leave.linkcount)
        snapshot = director.snapshot()
        assert (snapshot.actors["handler"].queued, snapshot.balance.held) == (0, 1)
        assert_conserved(director)
        leave.set()
        wait_until(lambda: sink.data == [1])
        assert_conserved(director)
    assert diary == ["enter 0", "leave 0", "enter 1"]


def busy_consumer(director: Director, name: str) -> Consumer:
    """The consumer inside a handler of the actor `name`."""
    [consumer] = [
        consumer
        for consumer in director.dispatcher.consumers
        if consumer.hand.sender is not None and consumer.hand.sender.name == name
    ]
    return consumer


def test_a_handler_that_swallows_its_kill_and_goes_on_keeps_its_event() -> None:
    def consume(actor: Actor, event: Event) -> None:
        try:
            gevent.sleep(60)
        except GreenletExit:
            actor.send_event(event)

    director, handler, sink, _ = flow(consume)
    with running(director):
        director.post(handler, 1)
        wait_until(lambda: director.snapshot().actors["handler"].in_flight)
        busy_consumer(director, "handler").kill(block=False)
        wait_until(lambda: sink.data == [1])
        assert_conserved(director)
    assert sink.events[0].attempts == 0


def swallow_until(release: Signal) -> None:
    while not release.is_set():
        try:
            release.wait()
        except GreenletExit:
            pass


def test_a_handler_that_survives_its_kill_is_abandoned_and_owns_nothing_any_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    release = Signal()
    late: list[BaseException] = []

    def consume(actor: Actor, event: Event) -> None:
        if event.data == "stuck":
            swallow_until(release)
            try:
                actor.send_event(event)
            except EventNotOwnedError as error:
                late.append(error)
            raise ValueError("nobody is to see this")
        if event.data == "fatal" and event.attempts == 0:
            raise Fatal
        actor.send_event(event)

    director, handler, sink, errors = flow(consume, concurrency=3, grace_s=0.05)
    with running(director):
        director.post(handler, "stuck")
        wait_until(lambda: director.snapshot().actors["handler"].in_flight)
        director.post(handler, "fatal")
        wait_until(lambda: letters(director, "abandoned"))
        assert_conserved(director)
        wait_until(lambda: sink.data == ["fatal"])
        director.post(handler, "next")
        wait_until(lambda: sink.data == ["fatal", "next"])
        assert director.snapshot().actors["handler"].in_flight == 0
        assert director.snapshot().actors["handler"].abandoned == 1
        release.set()
        wait_until(lambda: late)
        director.post(handler, "last")
        wait_until(lambda: sink.data == ["fatal", "next", "last"])
        assert_conserved(director)
        assert director.snapshot().actors["handler"].in_flight == 0
    [letter] = letters(director)
    assert (letter.event.data, letter.actor, letter.reason) == ("stuck", "handler", "abandoned")
    assert letter.error is not None
    assert "survived" in letter.error.text
    assert "swallow_until" in caplog.text
    assert errors.data == []
    assert restarts(director) == 1


def test_an_abandoned_handler_can_do_no_harm_with_fresh_events() -> None:
    release = Signal()

    def consume(actor: Actor, event: Event) -> None:
        if event.data == "stuck":
            swallow_until(release)
            actor.send_event(actor.create_event("from beyond"))
            return
        if event.attempts == 0:
            raise Fatal
        actor.send_event(event)

    director, handler, sink, _ = flow(consume, concurrency=3, grace_s=0.05)
    with running(director):
        director.post(handler, "stuck")
        wait_until(lambda: director.snapshot().actors["handler"].in_flight)
        director.post(handler, "fatal")
        wait_until(lambda: letters(director, "abandoned") and sink.data == ["fatal"])
        release.set()
        wait_until(lambda: sink.data == ["fatal", "from beyond"])
        assert_conserved(director)


def test_a_consumer_that_swallowed_our_kill_in_time_still_counts_when_it_is_killed_from_outside() -> None:
    hold = Signal()

    def consume(actor: Actor, event: Event) -> None:
        if event.data == "slow":
            try:
                gevent.sleep(60)
            except GreenletExit:
                actor.send_event(event)
        elif event.data == "fatal" and event.attempts == 0:
            raise Fatal
        elif event.data == "hold" and event.attempts == 0:
            hold.wait()
        else:
            actor.send_event(event)

    director, handler, sink, _ = flow(consume, concurrency=3, grace_s=0.05)
    with running(director):
        director.post(handler, "slow")
        wait_until(lambda: director.snapshot().actors["handler"].in_flight)
        survivor = busy_consumer(director, "handler")
        director.post(handler, "fatal")
        wait_until(lambda: sorted(sink.data) == ["fatal", "slow"])
        assert restarts(director) == 1
        # As many as there are idle consumers: one of these handlers is run by the survivor.
        for _ in range(3):
            director.post(handler, "hold")
        wait_until(lambda: director.snapshot().actors["handler"].in_flight == 3)
        if survivor.hand.sender is not None:
            survivor.kill(block=False)
            wait_until(lambda: restarts(director) == 2)
        hold.set()
        assert_conserved(director)


# ---- control flow -----------------------------------------------------------------------------------------------


def test_stop_flow_ends_the_event_as_delivered() -> None:
    def consume(actor: Actor, event: Event) -> None:
        if event.data == "stop":
            raise StopFlow
        actor.send_event(event)

    director, handler, sink, errors = flow(consume)
    post_all(director, handler, "stop", "go")
    with running(director):
        wait_until(lambda: sink.data == ["go"])
        assert ended(director, Outcome.DELIVERED) == 2
        assert_conserved(director)
    assert errors.data == []
    assert letters(director) == []


@pytest.mark.parametrize("raised", [StopFlow, Retry])
def test_stop_flow_and_retry_after_the_event_was_sent_change_nothing(raised: type[Exception]) -> None:
    def consume(actor: Actor, event: Event) -> None:
        actor.send_event(event)
        raise raised

    director, handler, sink, _ = flow(consume)
    with running(director):
        director.post(handler, 1)
        wait_until(lambda: sink.data == [1])
        assert_conserved(director)
    assert ended(director, Outcome.DELIVERED) == 1
    assert director.snapshot().actors["handler"].received == 1


def test_with_concurrency_1_a_retry_holds_the_inbox_and_order_is_kept() -> None:
    seen: list[tuple[int, int, float]] = []

    def consume(actor: Actor, event: Event) -> None:
        seen.append((event.data, event.attempts, time.perf_counter()))
        if event.data == 1 and event.attempts < 2:
            raise Retry(after_s=0.05)
        actor.send_event(event)

    director, handler, sink, _ = flow(consume)
    post_all(director, handler, 0, 1, 2, 3)
    with running(director):
        wait_until(lambda: len(sink.data) == 4)
        assert_conserved(director)
    assert sink.data == [0, 1, 2, 3]
    assert [call[:2] for call in seen] == [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0), (3, 0)]
    assert seen[2][2] - seen[1][2] >= 0.04
    assert seen[3][2] - seen[2][2] >= 0.04


def test_with_more_concurrency_a_retry_waits_aside_and_others_go_on() -> None:
    is_open = False

    def consume(actor: Actor, event: Event) -> None:
        if event.data == "again" and not is_open:
            raise Retry(after_s=0.02)
        actor.send_event(event)

    director, handler, sink, _ = flow(consume, concurrency=2, max_retries=1000)
    post_all(director, handler, "again", 1, 2, 3)
    with running(director):
        wait_until(lambda: sink.data == [1, 2, 3])
        wait_until(lambda: director.snapshot().actors["handler"].delayed == 1)
        assert director.snapshot().balance.held == 1
        assert_conserved(director)
        is_open = True
        wait_until(lambda: sink.data == [1, 2, 3, "again"])


def test_a_retry_re_enters_a_full_inbox_over_its_capacity() -> None:
    def consume(actor: Actor, event: Event) -> None:
        if event.data == "again" and event.attempts == 0:
            raise Retry(after_s=0.05)
        actor.send_event(event)

    director = Director(stop_timeout_s=3.0)
    source = director.register_actor(Collector, "source")
    handler = director.register_actor(Handler, "handler", consume, options={"concurrency": 2})
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(source, handler, capacity=1)
    director.connect_queue(handler, sink)
    key = ("source", "handler", "handler", "source")
    with running(director):
        director.post(source, "again")
        wait_until(lambda: director.snapshot().actors["handler"].delayed == 1)
        handler.pause()
        director.post(source, 1)
        wait_until(lambda: director.snapshot().queues[key].depth == 2)
        assert_conserved(director)
        handler.resume()
        wait_until(lambda: sorted(map(str, sink.data)) == ["1", "again"])


@pytest.mark.parametrize("concurrency", [1, 100])
@pytest.mark.parametrize("limit", [0, 3])
def test_more_retries_than_the_actor_allows_make_a_dead_letter(concurrency: int, limit: int) -> None:
    calls: list[int] = []

    def consume(actor: Actor, event: Event) -> None:
        calls.append(event.attempts)
        raise Retry(after_s=0.001)

    director, handler, _, errors = flow(consume, concurrency=concurrency, max_retries=limit)
    with running(director):
        director.post(handler, 1)
        wait_until(lambda: letters(director))
        assert_conserved(director)
    assert calls == list(range(limit + 1))
    [letter] = letters(director)
    assert (letter.reason, letter.attempts) == ("retries", limit + 1)
    assert errors.data == []
    assert restarts(director) == 0


def test_retries_without_a_time_use_the_backoff() -> None:
    times: list[float] = []

    def consume(actor: Actor, event: Event) -> None:
        times.append(time.perf_counter())
        if event.attempts < 2:
            raise Retry

    director, handler, _, _ = flow(consume)
    with running(director):
        director.post(handler, 1)
        wait_until(lambda: len(times) == 3)
        assert_conserved(director)
    assert times[1] - times[0] > 0.07
    assert times[2] - times[1] > 0.15


@pytest.mark.parametrize("concurrency", [1, 100])
@pytest.mark.parametrize("wrong", ["soon", float("nan")], ids=repr)
def test_a_retry_with_a_time_that_is_none_fails_its_event_alone(concurrency: int, wrong: Any) -> None:
    def consume(actor: Actor, event: Event) -> None:
        if event.data == "bad":
            raise Retry(after_s=wrong)
        actor.send_event(event)

    director, handler, sink, errors = flow(consume, concurrency=concurrency)
    post_all(director, handler, "bad", "fine")
    with running(director):
        wait_until(lambda: sink.data == ["fine"] and (errors.data == ["bad"] or letters(director)))
        assert_conserved(director)
    assert restarts(director) == 0


def test_a_retry_in_the_past_is_due_at_once() -> None:
    def fail(actor: Actor) -> None:
        raise Retry(after_s=-5)

    director, handler, sink, _ = flow(once(fail, []))
    with running(director):
        director.post(handler, "bad")
        wait_until(lambda: sink.data == ["bad"])
        assert_conserved(director)


def test_fatal_starts_no_further_handler_before_the_restart() -> None:
    diary: list[str] = []

    class Breaking(Collector):
        def pre_hook(self) -> None:
            diary.append("pre")

        def post_hook(self) -> None:
            diary.append("post")

        def consume(self, event: Event, origin: str = "", origin_queue: str = "") -> None:
            diary.append(str(event.data))
            if event.data == 1 and event.attempts == 0:
                raise Fatal("broken")
            super().consume(event, origin, origin_queue)

    director = Director()
    breaking = director.register_actor(Breaking, "handler")
    post_all(director, breaking, 0, 1, 2, 3)
    with running(director):
        wait_until(lambda: len(breaking.data) == 4)
        assert diary == ["pre", "0", "1", "post", "pre", "1", "2", "3"]
        assert_conserved(director)


def test_fatal_after_the_event_was_sent_restarts_and_does_not_give_it_back() -> None:
    def consume(actor: Actor, event: Event) -> None:
        actor.send_event(event)
        raise Fatal

    director, handler, sink, _ = flow(consume)
    with running(director):
        director.post(handler, 1)
        wait_until(lambda: restarts(director) == 1 and director.snapshot().actors["handler"].state == "running")
        assert_conserved(director)
    assert sink.data == [1]


def test_an_actor_paused_before_the_start_takes_nothing_until_resume_and_a_stop_ends_the_pause() -> None:
    director = Director()
    handler = director.register_actor(Collector, "handler")
    director.post(handler, 1)
    handler.pause()
    with running(director):
        gevent.idle()
        assert director.snapshot().actors["handler"].paused
        assert handler.data == []
        handler.resume()
        wait_until(lambda: handler.data == [1])
        handler.pause()
        assert_conserved(director)
    with running(director):
        director.post(handler, 2)
        wait_until(lambda: handler.data == [1, 2])


@pytest.mark.parametrize("timeout_s", [-1, "1", float("nan"), True])
def test_offload_with_a_timeout_that_is_no_time_fails_the_event_and_says_so(timeout_s: Any) -> None:
    director = Director()
    called: list[bool] = []

    def consume(actor: Actor, event: Event) -> None:
        actor.offload(called.append, True, timeout_s=timeout_s)

    actor = director.register_actor(Handler, "actor", consume)
    with running(director):
        director.post(actor, 1)
        wait_until(lambda: letters(director))
        assert_conserved(director)
    [letter] = director.dead_letters
    assert (
        str(letter.error) == f"ConfigurationError: timeout_s is {timeout_s!r}: wanted is a number of seconds from 0 on"
    )
    assert not called


def test_pause_in_a_handler_takes_effect_before_the_next_event() -> None:
    def consume(actor: Actor, event: Event) -> None:
        if event.data == 1:
            actor.pause()
        actor.send_event(event)

    director, handler, sink, _ = flow(consume)
    post_all(director, handler, 0, 1, 2, 3)
    with running(director):
        wait_until(lambda: sink.data[:2] == [0, 1])
        # Something posted later has gone all the way: what was to be taken has been taken.
        director.post(sink, "marker")
        wait_until(lambda: "marker" in sink.data)
        assert sink.data == [0, 1, "marker"]
        assert director.snapshot().actors["handler"].paused
        assert_conserved(director)
        handler.resume()
        wait_until(lambda: sink.data == [0, 1, "marker", 2, 3])


# ---- send_error -------------------------------------------------------------------------------------------------


def test_send_error_records_an_exception_and_says_who_sent_it_without_one() -> None:
    def consume(actor: Actor, event: Event) -> None:
        if event.data == "with":
            event.error = ValueError("own")  # type: ignore[assignment]  # an exception may be given in its place
        actor.send_error(event)

    director, handler, _, errors = flow(consume)
    post_all(director, handler, "with", "without")
    with running(director):
        wait_until(lambda: len(errors.data) == 2)
        assert_conserved(director)
    failures = [event.error for event in errors.events]
    assert [failure and (failure.error_class, failure.actor) for failure in failures] == [
        (ValueError, "handler"),
        (ActorError, "handler"),
    ]


@pytest.mark.parametrize("level", [logging.CRITICAL, logging.DEBUG])
def test_a_handler_of_logging_that_raises_changes_nothing(level: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("disk full")

    broken = Broken(level=level)
    logger = logging.getLogger("compysition")
    logger.addHandler(broken)
    try:
        director, handler, _, errors = flow(lambda actor, event: 1 / 0)
        with running(director):
            director.post(handler, 1)
            wait_until(lambda: errors.data == [1])
            assert_conserved(director)
        assert restarts(director) == 0
    finally:
        logger.removeHandler(broken)
