# SPDX-License-Identifier: Apache-2.0
"""`Director.ask` and the promises of lineage: never early, at once when the last branch ends, else at the deadline."""

import gc
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import Greenlet
from gevent.event import Event as Signal

from compysition import Actor, Director, Event, Fatal, Outcome, Retry, StopFlow
from compysition.errors import (
    ActorError,
    CompysitionError,
    DeadlineError,
    DirectorStateError,
    ForbiddenError,
    UnavailableError,
    WrongContextError,
)
from tests.fault.conservation import (
    Handler,
    Observed,
    SteeredClock,
    assert_conserved,
    collect_garbage,
    ended,
    letters,
    running,
    wait_until,
)

pytestmark = pytest.mark.timeout(20)

#: A deadline that is not to be met, and one that is.
FAR_S = 10.0
NEAR_S = 0.15
#: What "at once" means on a busy machine, in seconds.
AT_ONCE_S = 2.0


@pytest.fixture(autouse=True)
def no_collector(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """References alone decide; and backoff takes no time."""
    monkeypatch.setattr("compysition.runtime.Clock", SteeredClock)
    # pytest's own handler keeps records, and with them exceptions and frames.
    monkeypatch.setattr(type(caplog.handler), "emit", lambda handler, record: None)
    gc.disable()
    yield
    gc.enable()


def forward(actor: Actor, event: Event) -> None:
    actor.send_event(event)


def nothing(actor: Actor, event: Event) -> None:
    """Returns with the event in hand: delivered."""


def one(function: Callable[[Any, Event], object], **options: Any) -> tuple[Director, Handler]:
    director = Director(stop_timeout_s=3.0)
    return director, director.register_actor(Handler, "actor", function, options=options)


def asking(director: Director, actor: Actor, data: Any = 1, timeout_s: float = FAR_S) -> "Greenlet[..., Event]":
    """Ask in a greenlet of its own."""
    return gevent.spawn(director.ask, actor, data, timeout_s)


# ---- answers ----------------------------------------------------------------------------------------------------


def test_the_end_of_the_flow_is_the_answer() -> None:
    def double(actor: Actor, event: Event) -> None:
        event.data *= 2
        actor.send_event(event)

    director, actor = one(double)
    with running(director):
        assert director.ask(actor, 21).data == 42
        assert_conserved(director)
        assert ended(director, Outcome.ANSWERED) == 1
        # Nothing is left on the wheel of deadlines.
        assert len(director.deadlines) == 0


def test_stop_flow_answers_with_what_the_event_holds() -> None:
    def stop(actor: Actor, event: Event) -> None:
        event.data = "held"
        raise StopFlow

    director, actor = one(stop)
    with running(director):
        assert director.ask(actor, 1).data == "held"
        assert ended(director, Outcome.ANSWERED) == 1


@pytest.mark.parametrize("raised", [Retry(after_s=0.01), Fatal("once")], ids=repr)
def test_an_event_that_is_given_back_answers_in_the_end(raised: Exception) -> None:
    def consume(actor: Actor, event: Event) -> None:
        if event.attempts == 0:
            raise raised
        actor.send_event(event)

    director, actor = one(consume)
    with running(director):
        assert director.ask(actor, 1).data == 1
        assert_conserved(director)


def test_when_nobody_sends_an_answer_the_last_one_finished_with_is_it() -> None:
    director, actor = one(nothing)
    with running(director):
        began = time.perf_counter()
        assert director.ask(actor, "finished", FAR_S).data == "finished"
        assert time.perf_counter() - began < AT_ONCE_S
        assert_conserved(director)


def test_a_second_answer_is_dropped_and_a_late_one_expires() -> None:
    release = Signal()

    def split(actor: Actor, event: Event) -> None:
        for number in range(2):
            actor.send_event(actor.create_event(number))

    def late(actor: Actor, event: Event) -> None:
        release.wait()
        actor.send_event(event)

    director = Director(stop_timeout_s=3.0)
    splitter = director.register_actor(Handler, "splitter", split)
    end = director.register_actor(Handler, "end", forward)
    slow = director.register_actor(Handler, "slow", late)
    director.connect_queue(splitter, end)
    with running(director):
        assert director.ask(splitter, None).data == 0
        wait_until(lambda: ended(director, Outcome.DROPPED) == 1)
        with pytest.raises(DeadlineError):
            director.ask(slow, None, NEAR_S)
        release.set()
        wait_until(lambda: ended(director, Outcome.EXPIRED) == 1)
        assert_conserved(director)


# ---- never early, at once when the last branch ends ---------------------------------------------------------------


def test_it_waits_for_the_last_of_all_branches_and_then_no_longer() -> None:
    releases = [Signal() for _ in range(3)]

    def wait(number: int) -> Callable[[Any, Event], None]:
        def consume(actor: Actor, event: Event) -> None:
            releases[number].wait()
            event.data = number

        return consume

    director = Director(stop_timeout_s=3.0)
    source = director.register_actor(Handler, "source", forward)
    director.connect_queue(
        source, [director.register_actor(Handler, f"branch{number}", wait(number)) for number in range(3)]
    )
    with running(director):
        asker = asking(director, source)
        for number in (1, 0, 2):
            gevent.sleep(0.02)
            assert not asker.ready(), f"early: branch {number} still runs"
            released = time.perf_counter()
            releases[number].set()
        answer = asker.get(timeout=AT_ONCE_S)
        assert time.perf_counter() - released < AT_ONCE_S
        assert answer.data == 2
        assert_conserved(director)


@pytest.mark.parametrize("kind", ["copy", "create_event"])
def test_it_waits_for_a_derived_event_that_somebody_still_holds(kind: str) -> None:
    held: list[Event] = []

    def consume(actor: Actor, event: Event) -> None:
        held.append(event.copy() if kind == "copy" else actor.create_event("derived"))

    director, actor = one(consume)
    with running(director):
        asker = asking(director, actor)
        wait_until(lambda: held)
        gevent.sleep(0.02)
        assert not asker.ready()
        held.clear()
        assert asker.get(timeout=AT_ONCE_S).data == 1
        assert_conserved(director)


def test_it_waits_for_a_derived_event_that_a_background_greenlet_sends_later() -> None:
    def consume(actor: Actor, event: Event) -> None:
        actor.background(later, actor, actor.create_event("later"))

    def later(actor: Actor, child: Event) -> None:
        actor.sleep(0.05)
        actor.send_event(child)

    director, actor = one(consume)
    with running(director):
        assert director.ask(actor, "first").data == "later"
        assert_conserved(director)


def test_an_ended_background_greenlet_does_not_keep_what_it_was_given() -> None:
    """Its arguments were an event of the lineage, which it let end: nobody is to wait for the deadline."""

    def consume(actor: Actor, event: Event) -> None:
        actor.background(lambda child: None, actor.create_event("dropped"))

    director, actor = one(consume)
    with running(director):
        began = time.perf_counter()
        assert director.ask(actor, "first", 3.0).data == "first"
        assert time.perf_counter() - began < AT_ONCE_S
        assert_conserved(director)


def test_branches_that_wait_for_room_are_delayed_or_kept_are_waited_for() -> None:
    shelf: list[Event] = []

    def consume(actor: Actor, event: Event) -> None:
        if event.data == "keep":
            actor.keep(event)
            shelf.append(event)
        elif event.data == "delay" and event.attempts == 0:
            raise Retry(after_s=0.1)
        else:
            event.data = f"{event.data}ed"

    director = Director(stop_timeout_s=3.0)
    source = director.register_actor(Handler, "source", forward)
    actor = director.register_actor(Handler, "actor", consume, options={"concurrency": 2})
    director.connect_queue(source, actor, capacity=1)
    with running(director):
        keeper = asking(director, source, "keep")
        delayer = asking(director, source, "delay")
        wait_until(lambda: shelf and director.snapshot().actors["actor"].delayed == 1)
        assert not keeper.ready()
        assert not delayer.ready()
        assert delayer.get(timeout=AT_ONCE_S).data == "delayed"
        actor.pause()
        waiters = [asking(director, source, number) for number in range(3)]
        wait_until(lambda: director.snapshot().actors["source"].waiting_puts == 1)
        assert not any(waiter.ready() for waiter in waiters)
        actor.resume()
        gevent.joinall(waiters, timeout=AT_ONCE_S, raise_error=True)
        assert not keeper.ready()
        # The last reference of all: the keeper's own list.
        actor.send_event(shelf.pop())
        assert keeper.get(timeout=AT_ONCE_S).data == "keep"
        assert_conserved(director)


def test_many_askers_each_get_their_own_answer() -> None:
    def consume(actor: Actor, event: Event) -> None:
        gevent.sleep(0.001 * (event.data % 7))
        event.data = -event.data
        actor.send_event(event)

    director, actor = one(consume)
    with running(director):
        askers = [asking(director, actor, number) for number in range(200)]
        gevent.joinall(askers, timeout=10, raise_error=True)
        assert [asker.value.data for asker in askers if asker.value is not None] == [-number for number in range(200)]
        assert len(director.deadlines) == 0
        assert_conserved(director)


# ---- the deadline -----------------------------------------------------------------------------------------------


def meets_the_deadline(director: Director, actor: Actor) -> None:
    began = time.perf_counter()
    with pytest.raises(DeadlineError, match="'actor' was asked and there was no answer within"):
        director.ask(actor, 1, NEAR_S)
    assert NEAR_S * 0.9 < time.perf_counter() - began < NEAR_S + AT_ONCE_S


def test_a_handler_that_does_not_return_is_answered_by_the_deadline() -> None:
    release = Signal()
    director, actor = one(lambda actor, event: release.wait())
    with running(director):
        meets_the_deadline(director, actor)
        assert_conserved(director)
        release.set()


def test_a_derived_event_that_user_code_keeps_is_answered_by_the_deadline() -> None:
    shelf: list[Event] = []
    director, actor = one(lambda actor, event: shelf.append(actor.create_event("kept for ever")))
    with running(director):
        meets_the_deadline(director, actor)
        assert_conserved(director)


def test_a_derived_event_in_a_cycle_is_answered_by_the_deadline() -> None:
    def consume(actor: Actor, event: Event) -> None:
        child = actor.create_event()
        child.data = {"myself": child}

    director, actor = one(consume)
    with running(director):
        meets_the_deadline(director, actor)
        assert_conserved(director)


def test_a_kept_event_is_answered_by_the_deadline_and_expires_when_it_is_sent() -> None:
    shelf: list[Event] = []

    def consume(actor: Actor, event: Event) -> None:
        actor.keep(event)
        shelf.append(event)

    director, actor = one(consume)
    with running(director):
        meets_the_deadline(director, actor)
        actor.send_event(shelf.pop())
        assert ended(director, Outcome.EXPIRED) == 1
        assert_conserved(director)


def test_an_event_whose_time_is_over_is_not_handled_any_more() -> None:
    seen: list[Any] = []
    director, actor = one(lambda actor, event: seen.append(event.data))
    with running(director):
        actor.pause()
        meets_the_deadline(director, actor)
        director.post(actor, "still good")
        actor.resume()
        wait_until(lambda: seen)
        assert ended(director, Outcome.EXPIRED) == 1
        assert_conserved(director)
    assert seen == ["still good"]


def test_a_question_that_waits_for_room_is_given_up_at_its_deadline() -> None:
    director = Director(size=1, stop_timeout_s=0.1)
    actor = director.register_actor(Handler, "actor", nothing)
    with running(director, stop_timeout_s=0.1):
        actor.pause()
        director.post(actor, "fills")
        began = time.perf_counter()
        with gevent.Timeout(5), pytest.raises(DeadlineError):
            director.ask(actor, "waits", NEAR_S)
        assert time.perf_counter() - began < NEAR_S + AT_ONCE_S
        assert_conserved(director)
        actor.resume()
        wait_until(lambda: director.snapshot().balance.held == 0)
        assert ended(director, Outcome.EXPIRED) == 1


def test_a_handler_that_waits_for_room_with_an_event_whose_time_is_over_goes_on() -> None:
    director = Director(stop_timeout_s=3.0)
    source = director.register_actor(Handler, "actor", forward, options={"concurrency": 1})
    sink = director.register_actor(Handler, "sink", nothing)
    director.connect_queue(source, sink, capacity=1)
    with running(director):
        sink.pause()
        director.post(source, "fills")
        wait_until(lambda: sink.inbox_depth == 1)
        meets_the_deadline(director, source)
        wait_until(lambda: director.snapshot().actors["actor"].waiting_puts == 0)
        assert_conserved(director)
        sink.resume()
        wait_until(lambda: director.snapshot().balance.held == 0)
        assert ended(director, Outcome.EXPIRED) == 1
    assert letters(director) == []
    assert director.snapshot().actors["actor"].restarts == 0


# ---- errors -----------------------------------------------------------------------------------------------------


def test_the_error_of_the_event_is_raised_with_actor_and_traceback_in_its_notes() -> None:
    def consume(actor: Actor, event: Event) -> None:
        raise ForbiddenError("not yours")

    director, actor = one(consume)
    with running(director):
        with pytest.raises(ForbiddenError, match="not yours") as caught:
            director.ask(actor, 1)
        assert_conserved(director)
    assert "'actor'" in caught.value.__notes__[0]
    assert "in consume" in caught.value.__notes__[0]


class Picky(Exception):  # noqa: N818  # what it needs is the point
    """Cannot be built from its text."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{reason} ({code})")
        self.code = code


@pytest.mark.parametrize(
    "error", [Picky(3, "odd"), ExceptionGroup("two", [ValueError()])], ids=["own arguments", "group"]
)
def test_an_error_that_cannot_be_built_again_is_named_by_one_that_can(error: Exception) -> None:
    def consume(actor: Actor, event: Event) -> None:
        raise error

    director, actor = one(consume)
    with running(director), pytest.raises(ActorError, match=type(error).__name__):
        director.ask(actor, 1)


def test_a_failure_that_takes_an_error_wire_is_raised_when_its_handler_has_finished_with_it() -> None:
    director, actor = one(lambda actor, event: 1 / 0)
    errors = director.register_actor(Handler, "errors", nothing)
    director.connect_queue_error(actor, errors)
    with running(director), pytest.raises(ZeroDivisionError):
        director.ask(actor, 1)


def test_an_error_wire_may_shape_the_answer() -> None:
    def shape(actor: Actor, event: Event) -> None:
        event.data, event.error = "shaped", None
        actor.send_event(event)

    director, actor = one(lambda actor, event: 1 / 0)
    errors = director.register_actor(Handler, "errors", shape)
    director.connect_queue_error(actor, errors)
    with running(director):
        assert director.ask(actor, 1).data == "shaped"


@pytest.mark.parametrize("way", ["poison", "retries"])
def test_an_event_that_becomes_a_dead_letter_is_an_error(way: str) -> None:
    def consume(actor: Actor, event: Event) -> None:
        raise Fatal("every time") if way == "poison" else Retry(after_s=0.001)

    director, actor = one(consume)
    with running(director):
        began = time.perf_counter()
        with pytest.raises(CompysitionError):
            director.ask(actor, 1)
        assert time.perf_counter() - began < AT_ONCE_S
        assert_conserved(director)
    assert [letter.reason for letter in letters(director)] == [way]


def test_when_all_branches_were_dropped_that_is_an_error_at_once() -> None:
    director = Director(stop_timeout_s=3.0)
    source = director.register_actor(Handler, "actor", forward)
    sink = director.register_actor(Handler, "sink", nothing)
    director.connect_queue(source, sink, capacity=1, overflow="drop_newest")
    with running(director):
        sink.pause()
        director.post(source, "fills")
        wait_until(lambda: sink.inbox_depth == 1)
        began = time.perf_counter()
        with pytest.raises(UnavailableError):
            director.ask(source, 1, FAR_S)
        assert time.perf_counter() - began < AT_ONCE_S
        assert_conserved(director)
        sink.resume()


def test_when_the_director_stops_at_its_deadline_the_asker_is_told_at_once(observed: Observed) -> None:
    director, actor = one(lambda actor, event: gevent.sleep(60))
    with running(director):
        asker = asking(director, actor, timeout_s=FAR_S)
        wait_until(lambda: director.snapshot().actors["actor"].in_flight == 1)
        director.stop(0.05)
        with pytest.raises(CompysitionError):
            asker.get(timeout=AT_ONCE_S)
        observed.take(CompysitionError)  # the greenlet's own
        assert_conserved(director)


def test_a_stop_drains_what_was_asked_and_the_asker_gets_its_answer() -> None:
    release = Signal()

    def consume(actor: Actor, event: Event) -> None:
        release.wait()
        actor.send_event(event)

    director, actor = one(consume)
    with running(director):
        asker = asking(director, actor)
        wait_until(lambda: director.snapshot().actors["actor"].in_flight == 1)
        director.request_stop("test")
        wait_until(lambda: director.snapshot().state == "stopping")
        release.set()
        assert director.block().ok
        assert asker.get(timeout=AT_ONCE_S).data == 1


def test_an_actor_may_ask_another_one() -> None:
    director, actor = one(forward)

    def consume(asker: Actor, event: Event) -> None:
        event.data = director.ask(actor, event.data + 1).data
        asker.send_event(event)

    asker = director.register_actor(Handler, "asker", consume)
    with running(director):
        assert director.ask(asker, 1).data == 2
        assert_conserved(director)


def test_where_it_cannot_work_asking_is_an_error() -> None:
    director, actor = one(forward)
    with pytest.raises(DirectorStateError, match="needs it running"):
        director.ask(actor, 1)
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            director.ask(actor, 1)
        except WrongContextError as error:
            errors.append(error)

    with running(director):
        gevent.get_hub().loop.run_callback(ask)
        wait_until(lambda: len(errors) == 1)
        gevent.get_hub().threadpool.spawn(ask).get()
    assert len(errors) == 2
    with pytest.raises(DirectorStateError):
        director.ask(actor, 1)
    assert_conserved(director)


# ---- nothing is kept alive --------------------------------------------------------------------------------------


class Payload:
    """Data that can be watched; shared by all copies."""

    def __deepcopy__(self, memo: object) -> "Payload":
        return self


def fail(actor: Actor, event: Event) -> None:
    raise ValueError("no")


def stop(actor: Actor, event: Event) -> None:
    raise StopFlow


def retry_once(actor: Actor, event: Event) -> None:
    if event.attempts == 0:
        raise Retry(after_s=0.001)


def fatal_once(actor: Actor, event: Event) -> None:
    if event.attempts == 0:
        raise Fatal


def block(actor: Actor, event: Event) -> None:
    gevent.sleep(0.001)
    actor.send_event(event)


def keep_and_send(actor: Actor, event: Event) -> None:
    actor.keep(event)
    actor.send_event(event)


def send_a_part(actor: Actor, event: Event) -> None:
    actor.send_event(actor.create_event(event.data))


def catch_and_forward(actor: Actor, event: Event) -> None:
    try:
        raise ValueError(event)
    except ValueError:
        actor.send_event(event)


def time_out(actor: Actor, event: Event) -> None:
    with gevent.Timeout(0.001):
        gevent.sleep(60)


def in_the_background(actor: Actor, event: Event) -> None:
    actor.keep(event)
    actor.background(actor.send_event, event)


WAYS = [
    *(nothing, forward, fail, stop, retry_once, fatal_once, block, keep_and_send, send_a_part, catch_and_forward),
    *(time_out, in_the_background),
]


@pytest.mark.parametrize("concurrency", [1, 100])
@pytest.mark.parametrize("is_asked", [False, True])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_an_idle_actor_keeps_its_last_event_alive_in_no_way(
    way: Callable[[Any, Event], object], is_asked: bool, concurrency: int
) -> None:
    director, actor = one(way, concurrency=concurrency)
    sinks = [director.register_actor(Handler, f"sink{number}", nothing) for number in range(2)]
    errors = director.register_actor(Handler, "errors", nothing)
    director.connect_queue(actor, sinks)
    director.connect_queue_error(actor, errors)

    def go() -> weakref.ref[Payload]:
        payload = Payload()
        if is_asked:
            try:
                director.ask(actor, payload, FAR_S)
            except (ValueError, CompysitionError):
                pass
        else:
            director.post(actor, payload)
        return weakref.ref(payload)

    with running(director):
        trace = go()
        wait_until(lambda: trace() is None, what="the payload is let go")
        wait_until(lambda: director.snapshot().balance.held == 0)
        assert_conserved(director)
    assert letters(director) == []


def test_an_event_that_waited_for_room_is_kept_alive_in_no_way() -> None:
    director = Director(stop_timeout_s=3.0)
    actor = director.register_actor(Handler, "actor", forward)
    sink = director.register_actor(Handler, "sink", nothing)
    director.connect_queue(actor, sink, capacity=1)

    def go() -> list[weakref.ref[Payload]]:
        payloads = [Payload() for _ in range(5)]
        for payload in payloads:
            director.post(actor, payload)
        return [weakref.ref(payload) for payload in payloads]

    with running(director):
        sink.pause()
        traces = go()
        wait_until(lambda: director.snapshot().actors["actor"].waiting_puts == 1)
        sink.resume()
        wait_until(lambda: all(trace() is None for trace in traces))
        assert_conserved(director)


def test_an_event_killed_out_of_a_hand_or_a_waiting_put_is_kept_alive_in_no_way() -> None:
    def consume(actor: Actor, event: Event) -> None:
        if event.attempts == 0:
            gevent.sleep(60)

    director, actor = one(consume)

    def go() -> weakref.ref[Payload]:
        payload = Payload()
        director.post(actor, payload)
        return weakref.ref(payload)

    with running(director):
        trace = go()
        wait_until(lambda: director.snapshot().actors["actor"].in_flight == 1)
        for consumer in list(director.dispatcher.consumers):
            consumer.kill()
        wait_until(lambda: trace() is None)
        assert_conserved(director)


def test_two_thousand_events_leave_no_object_behind() -> None:
    director = Director(size=1000, stop_timeout_s=3.0)
    actor = director.register_actor(Handler, "actor", forward)
    sinks = [director.register_actor(Handler, f"sink{number}", nothing) for number in range(2)]
    director.connect_queue(actor, sinks)

    def burst() -> int:
        for number in range(2_000):
            director.post(actor, [number])
        wait_until(lambda: director.snapshot().balance.held == 0)
        collect_garbage()
        return len(gc.get_objects())

    with running(director):
        burst()
        before = burst()
        assert burst() - before < 100
        assert_conserved(director)
