# SPDX-License-Identifier: Apache-2.0
"""What other threads may do with a Director, and what `offload` does with them."""

import contextlib
import threading
import time
from typing import Any

import gevent
import pytest
from gevent.event import Event as Signal

from compysition import Actor, Director, Event, StopReport
from compysition.errors import (
    ActorNotFoundError,
    CompysitionError,
    DirectorStateError,
    EventNotOwnedError,
    HandlerTimeoutError,
    StartError,
    WrongContextError,
)
from compysition.runtime import OFFLOAD_THREADS
from tests.fault.conservation import Collector, Handler, assert_conserved, letters, running, wait_until

pytestmark = pytest.mark.timeout(20)


def in_thread(function: Any, *args: Any) -> tuple[threading.Thread, list[Any]]:
    """Run it in a thread; what it returns or raises comes into the list."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(function(*args))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, outcome


# ---- post -------------------------------------------------------------------------------------------------------


def test_posts_of_other_threads_arrive_in_the_order_of_each_thread() -> None:
    director = Director()
    sink = director.register_actor(Collector, "sink", options={"concurrency": 1})

    def post(thread: int) -> None:
        for number in range(100):
            director.post(sink, (thread, number))

    with running(director):
        threads = [in_thread(post, number)[0] for number in range(4)]
        wait_until(lambda: len(sink.data) == 400)
        wait_until(lambda: not any(thread.is_alive() for thread in threads))
        assert_conserved(director)
    for thread in range(4):
        assert [number for origin, number in sink.data if origin == thread] == list(range(100))


def test_a_post_of_another_thread_waits_for_room() -> None:
    director = Director(size=1, stop_timeout_s=3.0)
    sink = director.register_actor(Collector, "sink")
    with running(director):
        sink.pause()
        director.post(sink, 0)
        _, outcome = in_thread(director.post, sink, 1)
        wait_until(lambda: sink.inbox_depth == 2)
        assert outcome == []
        sink.resume()
        wait_until(lambda: outcome == [None])
        wait_until(lambda: sink.data == [0, 1])


def test_errors_of_a_post_are_raised_in_the_thread_that_posts() -> None:
    director = Director()
    sink = director.register_actor(Collector, "sink")
    event = Event(1)
    with running(director):
        sink.pause()
        director.post(sink, event)
        _, unknown = in_thread(director.post, "nobody", 1)
        _, twice = in_thread(director.post, sink, event)
        wait_until(lambda: unknown and twice)
        sink.resume()
    assert isinstance(unknown[0], ActorNotFoundError)
    assert isinstance(twice[0], EventNotOwnedError)


def test_threads_that_post_while_the_director_stops_all_end_and_nothing_is_lost() -> None:
    director = Director(size=2, stop_timeout_s=3.0)
    sink = director.register_actor(Collector, "sink")
    posted: list[int] = []

    def post() -> None:
        while True:
            director.post(sink, 1)
            posted.append(1)

    with running(director):
        runs = [in_thread(post) for _ in range(8)]
        wait_until(lambda: len(sink.data) > 20)
        report = director.stop()
        wait_until(lambda: not any(thread.is_alive() for thread, _ in runs), what="all threads end")
        assert_conserved(director)
    assert report.ok
    for _, outcome in runs:
        assert isinstance(outcome[0], CompysitionError)
    assert len(sink.data) == len(posted)


def test_threads_that_wait_for_room_when_the_deadline_comes_all_end() -> None:
    director = Director(size=1, stop_timeout_s=0.1)
    sink = director.register_actor(Collector, "sink")
    with running(director, stop_timeout_s=0.1):
        sink.pause()
        runs = [in_thread(director.post, sink, number) for number in range(5)]
        wait_until(lambda: sink.inbox_depth == 5)
        director.stop(0.1)
        wait_until(lambda: not any(thread.is_alive() for thread, _ in runs), what="all threads end")
        assert_conserved(director)
    errors = [outcome[0] for _, outcome in runs if outcome[0] is not None]
    assert len(errors) == 4
    assert all(isinstance(error, CompysitionError) for error in errors)
    assert len(letters(director, "stopped")) == 5


def test_snapshot_is_safe_in_other_threads() -> None:
    director = Director()
    sink = director.register_actor(Collector, "sink")
    first = director.register_actor(Handler, "first", lambda actor, event: actor.send_event(event))
    director.connect_queue(first, sink, capacity=5)
    is_over = threading.Event()

    def look() -> int:
        looks = 0
        while not is_over.is_set():
            director.snapshot()
            looks += 1
        return looks

    with running(director):
        _, outcome = in_thread(look)
        for number in range(2000):
            director.post(first, number)
        wait_until(lambda: len(sink.data) == 2000)
        is_over.set()
        wait_until(lambda: outcome)
    assert isinstance(outcome[0], int), outcome[0]


@pytest.mark.parametrize("call", ["stop", "block", "ask"])
def test_what_waits_for_the_director_is_refused_in_other_threads(call: str) -> None:
    director = Director()
    sink = director.register_actor(Collector, "sink")
    with running(director):
        _, outcome = in_thread(getattr(director, call), *((sink, 1) if call == "ask" else ()))
        wait_until(lambda: outcome)
        assert isinstance(outcome[0], WrongContextError)
        assert director.is_running()


def test_a_director_may_live_in_another_thread_and_be_used_from_here() -> None:
    director = Director(stop_timeout_s=3.0)
    sink = director.register_actor(Collector, "sink")
    thread, outcome = in_thread(director.start)
    wait_until(director.is_running)
    for number in range(100):
        director.post(sink, number)
    with pytest.raises(WrongContextError, match="thread that started the Director"):
        director.stop()
    director.request_stop("from the main thread")
    thread.join(5)
    assert isinstance(outcome[0], StopReport)
    assert outcome[0].ok
    assert sink.data == list(range(100))
    assert_conserved(director)


# ---- offload ----------------------------------------------------------------------------------------------------


def offloader(function: Any, *args: Any, timeout_s: float | None = None) -> tuple[Director, Handler, Collector]:
    def consume(actor: Actor, event: Event) -> None:
        event.data = actor.offload(function, *args, timeout_s=timeout_s)
        actor.send_event(event)

    director = Director(stop_timeout_s=3.0)
    actor = director.register_actor(Handler, "actor", consume)
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(actor, sink)
    return director, actor, sink


def test_offload_runs_beside_the_hub_and_returns_the_result() -> None:
    def work() -> int:
        time.sleep(0.2)
        return threading.get_ident()

    director, actor, sink = offloader(work)
    turns: list[int] = []

    def tick() -> None:
        while True:
            turns.append(1)
            gevent.sleep(0.005)

    with running(director):
        ticker = gevent.spawn(tick)
        director.post(actor, 1)
        wait_until(lambda: sink.data)
        ticker.kill()
        assert_conserved(director)
    assert sink.data[0] != threading.get_ident()
    assert len(turns) >= 10


@pytest.mark.parametrize("error", [ValueError("on the thread"), CompysitionError("ours")], ids=repr)
def test_an_error_on_the_thread_fails_the_event(error: Exception) -> None:
    def fail() -> None:
        raise error

    director, actor, _ = offloader(fail)
    with running(director):
        director.post(actor, 1)
        wait_until(lambda: letters(director))
        assert_conserved(director)
    failure = letters(director, "failed")[0].error
    assert failure is not None
    assert failure.error_class is type(error)


def test_offload_that_takes_longer_than_its_time_fails_the_event_with_504() -> None:
    release = threading.Event()
    director, actor, _ = offloader(release.wait, 5, timeout_s=0.05)
    with running(director):
        director.post(actor, 1)
        wait_until(lambda: letters(director))
        assert_conserved(director)
        release.set()
    failure = letters(director, "failed")[0].error
    assert failure is not None
    assert (failure.error_class, failure.status) == (HandlerTimeoutError, 504)


def test_a_timeout_of_the_handlers_own_around_offload_stays_its_own() -> None:
    caught: list[str] = []
    release = threading.Event()

    def consume(actor: Actor, event: Event) -> None:
        with contextlib.suppress(HandlerTimeoutError):
            try:
                with gevent.Timeout(0.05):
                    actor.offload(release.wait, 5, timeout_s=3)
            except gevent.Timeout:
                caught.append("own")
        actor.send_event(event)

    director = Director(stop_timeout_s=3.0)
    actor = director.register_actor(Handler, "actor", consume)
    with running(director):
        director.post(actor, 1)
        wait_until(lambda: caught == ["own"])
        release.set()
        assert_conserved(director)


def test_offload_uses_a_bounded_number_of_threads_and_the_others_wait() -> None:
    release = threading.Event()
    running_now: set[int] = set()

    def work() -> None:
        running_now.add(threading.get_ident())
        release.wait(10)

    director, actor, sink = offloader(work)
    with running(director):
        for number in range(OFFLOAD_THREADS + 10):
            director.post(actor, number)
        wait_until(lambda: len(running_now) == OFFLOAD_THREADS)
        wait_until(lambda: director.snapshot().actors["actor"].in_flight == OFFLOAD_THREADS + 10)
        assert_conserved(director)
        release.set()
        wait_until(lambda: len(sink.data) == OFFLOAD_THREADS + 10)
    assert len(running_now) == OFFLOAD_THREADS


def test_a_handler_that_waits_for_a_free_thread_is_bound_by_its_timeout_too() -> None:
    release = threading.Event()

    def consume(actor: Actor, event: Event) -> None:
        actor.offload(release.wait, 10, timeout_s=None if event.data == "holds" else 0.05)

    director = Director(stop_timeout_s=3.0)
    actor = director.register_actor(Handler, "actor", consume)
    with running(director):
        for _ in range(OFFLOAD_THREADS):
            director.post(actor, "holds")
        wait_until(lambda: director.snapshot().actors["actor"].in_flight == OFFLOAD_THREADS)
        director.post(actor, "finds none free")
        wait_until(lambda: letters(director, "failed"))
        assert_conserved(director)
        release.set()


def test_a_handler_killed_in_offload_gives_its_event_back() -> None:
    release = threading.Event()
    calls: list[int] = []

    def work() -> int:
        calls.append(1)
        if len(calls) == 1:
            release.wait(10)
        return len(calls)

    director, actor, sink = offloader(work)
    with running(director):
        director.post(actor, 1)
        wait_until(lambda: calls)
        for consumer in list(director.dispatcher.consumers):
            consumer.kill(block=False)
        wait_until(lambda: sink.data == [2])
        assert_conserved(director)
        release.set()


def test_a_function_that_does_not_return_does_not_hold_the_stop() -> None:
    release = threading.Event()
    director, actor, _ = offloader(release.wait, 15)
    with running(director):
        director.post(actor, 1)
        wait_until(lambda: director.snapshot().actors["actor"].in_flight == 1)
        began = time.perf_counter()
        report = director.stop(0.1)
        assert time.perf_counter() - began < 5
        assert_conserved(director)
        release.set()
    assert report.exit_code == 1


def test_a_function_in_a_thread_may_post_and_ask_for_a_stop() -> None:
    def work() -> None:
        director.post("other", "from a thread")

    director, actor, sink = offloader(work)
    other = director.register_actor(Collector, "other")
    with running(director):
        director.post(actor, 1)
        wait_until(lambda: other.data == ["from a thread"] and sink.data == [None])
        assert_conserved(director)


def test_offload_works_in_hooks_and_background_greenlets_and_nowhere_before_the_start() -> None:
    results: list[str] = []

    class Everywhere(Actor):
        def pre_hook(self) -> None:
            results.append(self.offload(str.upper, "pre_hook"))
            self.background(self.work)

        def work(self) -> None:
            results.append(self.offload(str.upper, "background"))

        def post_hook(self) -> None:
            results.append(self.offload(str.upper, "post_hook"))

    director = Director(stop_timeout_s=3.0)
    actor = director.register_actor(Everywhere, "actor")
    with pytest.raises(DirectorStateError, match="needs it running"):
        actor.offload(str.upper, "too early")
    with running(director):
        wait_until(lambda: len(results) == 2)
    assert results == ["PRE_HOOK", "BACKGROUND", "POST_HOOK"]


def test_a_start_that_fails_gives_its_threads_back() -> None:
    class Broken(Actor):
        def pre_hook(self) -> None:
            self.offload(time.sleep, 0)
            raise ValueError("no")

    director = Director(stop_timeout_s=3.0)
    director.register_actor(Broken, "broken")
    before = threading.active_count()
    with pytest.raises(StartError):
        director.start(block=False)
    wait_until(lambda: threading.active_count() <= before)
    assert_conserved(director)


def test_signals_of_gevent_may_be_set_from_a_hook_of_a_thread() -> None:
    """The loop's own thread-safe door is what `post` uses: it wakes a hub that sleeps."""
    director = Director()
    arrived = Signal()
    sink = director.register_actor(Handler, "sink", lambda actor, event: arrived.set())
    with running(director):
        gevent.idle()
        _, outcome = in_thread(director.post, sink, 1)
        # One wait, without looking in between.
        assert arrived.wait(5)
        wait_until(lambda: outcome == [None])
