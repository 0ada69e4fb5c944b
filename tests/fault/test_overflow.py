# SPDX-License-Identifier: Apache-2.0
"""Full queues: each policy, and senders that wait."""

from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent import Greenlet, get_hub

from compysition import Actor, Director, Event, Outcome
from compysition.actors import Source
from compysition.dispatch import IDLE_KEPT, Consumer
from compysition.errors import DirectorStateError, DirectorStoppedError, EventNotOwnedError, QueueFullError
from tests.fault.conservation import (
    Collector,
    Handler,
    assert_conserved,
    ended,
    letters,
    running,
    wait_until,
)

pytestmark = pytest.mark.timeout(20)

KEY = ("handler", "sink", "sink", "handler")


def forward(actor: Actor, event: Event) -> None:
    actor.send_event(event)


def flow(
    overflow: str = "wait",
    capacity: int = 1,
    function: Callable[[Any, Event], object] = forward,
    **options: Any,
) -> tuple[Director, Handler, Collector]:
    """Handler → sink by one small queue."""
    director = Director(stop_timeout_s=3.0)
    handler = director.register_actor(Handler, "handler", function, options=options)
    sink = director.register_actor(Collector, "sink", options={"concurrency": 1})
    director.connect_queue(handler, sink, capacity=capacity, overflow=overflow)
    return director, handler, sink


def waiting(director: Director) -> int:
    return director.snapshot().queues[KEY].waiting


def in_handlers(director: Director) -> list[Consumer]:
    """The consumers inside a handler."""
    return [consumer for consumer in director.dispatcher.consumers if consumer.hand.sender is not None]


# ---- wait -------------------------------------------------------------------------------------------------------


def test_a_sender_waits_for_room_and_nothing_is_lost() -> None:
    director, handler, sink = flow()
    with running(director):
        sink.pause()
        for number in range(50):
            director.post(handler, number)
        wait_until(lambda: waiting(director) == 1)
        # Back pressure: while one handler waits its actor starts no further one.
        snapshot = director.snapshot()
        assert snapshot.actors["handler"].in_flight == 1
        assert snapshot.actors["handler"].queued == 48
        assert snapshot.queues[KEY].depth == 1
        assert_conserved(director)
        sink.resume()
        wait_until(lambda: sink.data == list(range(50)))
        assert_conserved(director)


def test_waiting_senders_are_served_first_come_first_served() -> None:
    director = Director(stop_timeout_s=3.0)
    sink = director.register_actor(Collector, "sink", options={"concurrency": 1})
    inlet = director.register_actor(Collector, "inlet")
    director.connect_queue(inlet, sink, capacity=1)
    with running(director):
        sink.pause()
        senders = []
        for number in range(10):
            senders.append(gevent.spawn(inlet.send_event, Event(number)))
            gevent.sleep(0)
        wait_until(lambda: director.snapshot().queues["inlet", "sink", "sink", "inlet"].waiting == 9)
        assert_conserved(director)
        sink.resume()
        gevent.joinall(senders, timeout=5, raise_error=True)
        # One that comes while others wait does not overtake them.
        wait_until(lambda: sink.data == list(range(10)))
        assert_conserved(director)


def test_nobody_overtakes_those_who_wait() -> None:
    director = Director(stop_timeout_s=3.0)
    sink = director.register_actor(Collector, "sink", options={"concurrency": 1})
    inlet = director.register_actor(Collector, "inlet")
    director.connect_queue(inlet, sink, capacity=2)
    with running(director):
        sink.pause()
        inlet.send_event(Event(0))
        inlet.send_event(Event(1))
        waiter = gevent.spawn(inlet.send_event, Event(2))
        wait_until(lambda: director.snapshot().queues["inlet", "sink", "sink", "inlet"].waiting == 1)
        late = gevent.spawn(inlet.send_event, Event(3))
        sink.resume()
        gevent.joinall([waiter, late], timeout=5, raise_error=True)
        inlet.send_event(Event(4))
        wait_until(lambda: sink.data == [0, 1, 2, 3, 4])
        assert_conserved(director)


def test_a_handler_killed_while_it_waits_for_room_has_its_event_given_back() -> None:
    director, handler, sink = flow(concurrency=1)
    with running(director):
        sink.pause()
        for number in range(4):
            director.post(handler, number)
        wait_until(lambda: waiting(director) == 1)
        [victim] = in_handlers(director)
        victim.kill()
        assert_conserved(director)
        wait_until(lambda: director.snapshot().actors["handler"].restarts == 1)
        wait_until(lambda: waiting(director) == 1)
        assert_conserved(director)
        sink.resume()
        wait_until(lambda: sink.data == [0, 1, 2, 3])
        assert_conserved(director)
    assert [event.attempts for event in sink.events] == [0, 1, 0, 0]


def test_a_greenlet_killed_while_it_waits_takes_its_fresh_event_out_of_the_balance() -> None:
    director = Director(stop_timeout_s=3.0)
    sink = director.register_actor(Collector, "sink")
    inlet = director.register_actor(Collector, "inlet")
    director.connect_queue(inlet, sink, capacity=1)
    with running(director):
        sink.pause()
        inlet.send_event(Event("fills"))
        event = Event("never in")
        waiter = gevent.spawn(inlet.send_event, event)
        others = [gevent.spawn(inlet.send_event, Event(number)) for number in range(2)]
        wait_until(lambda: director.snapshot().queues["inlet", "sink", "sink", "inlet"].waiting == 3)
        assert director.snapshot().balance.accepted == 4
        waiter.kill()
        assert director.snapshot().balance.accepted == 3
        assert_conserved(director)
        sink.resume()
        gevent.joinall(others, timeout=5, raise_error=True)
        wait_until(lambda: sink.data == ["fills", 0, 1])
        # It is as fresh as before: it may be sent.
        inlet.send_event(event)
        wait_until(lambda: sink.data[-1] == "never in")


def test_the_only_waiting_sender_killed_leaves_the_queue_usable() -> None:
    director = Director(stop_timeout_s=3.0)
    sink = director.register_actor(Collector, "sink")
    inlet = director.register_actor(Collector, "inlet")
    director.connect_queue(inlet, sink, capacity=1)
    with running(director):
        sink.pause()
        inlet.send_event(Event(0))
        waiter = gevent.spawn(inlet.send_event, Event("killed"))
        wait_until(lambda: director.snapshot().queues["inlet", "sink", "sink", "inlet"].waiting == 1)
        waiter.kill()
        sink.resume()
        wait_until(lambda: sink.data == [0])
        # Nobody waits: this must not switch.
        before = get_hub().loop.iteration
        inlet.send_event(Event(1))
        assert get_hub().loop.iteration == before
        wait_until(lambda: sink.data == [0, 1])


def test_a_handler_that_times_out_while_it_waits_for_room_fails_its_event() -> None:
    def consume(actor: Actor, event: Event) -> None:
        with gevent.Timeout(0.02):
            actor.send_event(event)

    director, handler, sink = flow(function=consume)
    with running(director):
        sink.pause()
        director.post(handler, "fills")
        wait_until(lambda: sink.inbox_depth == 1)
        director.post(handler, "times out")
        wait_until(lambda: letters(director, "failed"))
        assert waiting(director) == 0
        assert_conserved(director)
        sink.resume()
        director.post(handler, "goes on")
        wait_until(lambda: sink.data == ["fills", "goes on"])


def test_behind_a_stuck_sink_live_greenlets_stay_few() -> None:
    director = Director(stop_timeout_s=0.1)
    sink = director.register_actor(Collector, "sink", options={"concurrency": 1})
    middle = director.register_actor(Collector, "middle")
    sources = [director.register_actor(Source, f"source{number}", range(20_000)) for number in range(3)]
    for source in sources:
        director.connect_queue(source, middle, capacity=10)
    director.connect_queue(middle, sink, capacity=10)
    with running(director, stop_timeout_s=0.1):
        sink.pause()
        wait_until(lambda: all(director.snapshot().queues[s.name, "middle", "middle", s.name].waiting for s in sources))
        assert len(director.dispatcher.consumers) < IDLE_KEPT
        assert len(in_handlers(director)) <= 2
        assert director.snapshot().balance.held <= 3 * 11 + 11 + 1
        assert_conserved(director)


def test_consumers_grown_by_a_burst_go_away_again() -> None:
    is_open = gevent.event.Event()
    director = Director(stop_timeout_s=3.0)
    handlers = [
        director.register_actor(
            Handler, f"handler{number}", lambda actor, event: is_open.wait(), options={"concurrency": 20}
        )
        for number in range(5)
    ]
    with running(director):
        for handler in handlers:
            for number in range(30):
                director.post(handler, number)
        wait_until(lambda: len(in_handlers(director)) == 100)
        assert all(actor.in_flight == 20 for actor in director.snapshot().actors.values())
        is_open.set()
        wait_until(lambda: ended(director, Outcome.DELIVERED) == 150)
        wait_until(lambda: len(director.dispatcher.consumers) <= IDLE_KEPT + 1)
        assert_conserved(director)


# ---- dropping ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("overflow", "left"), [("drop_newest", [0, 1]), ("drop_oldest", [8, 9])])
def test_dropping_keeps_the_promised_ones_counts_the_others_and_never_waits(overflow: str, left: list[int]) -> None:
    director, handler, sink = flow(overflow, capacity=2, concurrency=1)
    with running(director):
        sink.pause()
        for number in range(10):
            director.post(handler, number)
        wait_until(lambda: director.snapshot().actors["handler"].received == 10)
        queue = director.snapshot().queues[KEY]
        assert (queue.depth, queue.dropped, queue.waiting) == (2, 8, 0)
        assert ended(director, Outcome.DROPPED) == 8
        assert_conserved(director)
        sink.resume()
        wait_until(lambda: sink.data == left)
    assert letters(director) == []


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest"])
def test_an_event_that_is_not_the_senders_drops_nobody(overflow: str) -> None:
    errors: list[BaseException] = []

    def consume(actor: Actor, event: Event) -> None:
        actor.send_event(event)
        try:
            actor.send_event(event)
        except EventNotOwnedError as error:
            errors.append(error)

    director, handler, sink = flow(overflow, function=consume)
    with running(director):
        sink.pause()
        director.post(handler, 1)
        wait_until(lambda: errors)
        assert director.snapshot().queues[KEY].dropped == 0
        assert_conserved(director)
        sink.resume()
        wait_until(lambda: sink.data == [1])


# ---- fail -------------------------------------------------------------------------------------------------------


def test_fail_raises_in_the_sender_names_the_queue_and_fails_the_event() -> None:
    director, handler, sink = flow("fail")
    errors = director.register_actor(Collector, "errors")
    director.connect_queue_error(handler, errors)
    with running(director):
        sink.pause()
        director.post(handler, "fits")
        wait_until(lambda: sink.inbox_depth == 1)
        director.post(handler, "does not")
        wait_until(lambda: errors.data == ["does not"])
        assert_conserved(director)
        sink.resume()
        wait_until(lambda: sink.data == ["fits"])
    failure = errors.events[0].error
    assert failure is not None
    assert failure.error_class is QueueFullError
    assert failure.status == 503
    assert "'handler → sink' is full (capacity 1): raise the capacity" in failure.text


def test_a_handler_may_catch_the_refusal_and_still_has_its_event() -> None:
    def consume(actor: Actor, event: Event) -> None:
        try:
            actor.send_event(event, queues="sink")
        except QueueFullError as error:
            caught.append((error.queue, error.capacity))
            actor.send_event(event, queues="other")

    caught: list[tuple[str, int]] = []

    director, handler, sink = flow("fail", function=consume)
    other = director.register_actor(Collector, "other")
    director.connect_queue(handler, other)
    with running(director):
        sink.pause()
        director.post(handler, "first")
        wait_until(lambda: sink.inbox_depth == 1)
        director.post(handler, "second")
        wait_until(lambda: other.data == ["second"])
        assert_conserved(director)
        sink.resume()
    assert sink.data == ["first"]
    assert caught == [("handler → sink", 1)]
    assert letters(director) == []


@pytest.mark.parametrize("full", ["first", "middle", "last"])
def test_in_a_fan_out_the_refused_one_is_a_dead_letter_and_the_others_are_served(full: str) -> None:
    director = Director(stop_timeout_s=3.0)
    handler = director.register_actor(Handler, "handler", forward)
    sinks = {name: director.register_actor(Collector, name) for name in ("first", "middle", "last")}
    director.connect_queue(handler, list(sinks.values()), capacity=1, overflow="fail")
    with running(director):
        sinks[full].pause()
        director.post(handler, 1)
        wait_until(lambda: all(sink.data or sink.inbox_depth for sink in sinks.values()))
        director.post(handler, 2)
        wait_until(lambda: letters(director))
        wait_until(lambda: all(sink.data == [1, 2] for name, sink in sinks.items() if name != full))
        assert_conserved(director)
        sinks[full].resume()
        wait_until(lambda: sinks[full].data == [1])
    [letter] = letters(director)
    assert (letter.reason, letter.actor, letter.event.data) == ("overflow", "handler", 2)
    assert letter.error is not None
    assert letter.error.error_class is QueueFullError
    assert director.snapshot().actors["handler"].failed == 0


def test_several_connections_on_one_named_outbox_are_a_fan_out() -> None:
    director = Director(stop_timeout_s=3.0)
    handler = director.register_actor(Handler, "handler", lambda actor, event: actor.send_event(event, queues="out"))
    sinks = [director.register_actor(Collector, f"sink{number}") for number in range(2)]
    director.connect_queue((handler, "out"), sinks, capacity=1, overflow="fail")
    with running(director):
        sinks[0].pause()
        director.post(handler, 1)
        wait_until(lambda: sinks[1].data == [1])
        director.post(handler, 2)
        wait_until(lambda: sinks[1].data == [1, 2] and len(letters(director, "overflow")) == 1)
        assert_conserved(director)
        sinks[0].resume()
    assert sinks[0].data == [1]


# ---- from elsewhere ---------------------------------------------------------------------------------------------


def test_a_callback_of_the_event_loop_is_refused_where_it_would_have_to_wait() -> None:
    director, handler, _ = flow()
    director_small = Director(size=1, stop_timeout_s=3.0)
    sink = director_small.register_actor(Collector, "sink")
    outcome: list[Any] = []
    event = Event("refused")

    def post(what: Any) -> None:
        try:
            director_small.post(sink, what)
            outcome.append("in")
        except Exception as error:
            outcome.append(error)

    with running(director), running(director_small):
        sink.pause()
        get_hub().loop.run_callback(post, "fits")
        get_hub().loop.run_callback(post, event)
        wait_until(lambda: len(outcome) == 2)
        assert outcome[0] == "in"
        assert isinstance(outcome[1], QueueFullError)
        assert "callback of the event loop cannot wait" in str(outcome[1])
        assert_conserved(director_small)
        sink.resume()
        director_small.post(sink, event)
        wait_until(lambda: sink.data == ["fits", "refused"])
    assert handler.inbox_depth == 0


def test_posting_waits_for_room_as_any_sender_does() -> None:
    director = Director(size=1, stop_timeout_s=3.0)
    sink = director.register_actor(Collector, "sink")
    with running(director):
        sink.pause()
        director.post(sink, 0)
        posters = [gevent.spawn(director.post, sink, number) for number in (1, 2)]
        wait_until(lambda: sink.inbox_depth == 3)
        assert not any(poster.ready() for poster in posters)
        assert_conserved(director)
        sink.resume()
        gevent.joinall(posters, timeout=5, raise_error=True)
        wait_until(lambda: sink.data == [0, 1, 2])


def test_who_waits_for_room_while_the_director_stops_is_told_and_the_event_is_accounted_for() -> None:
    director = Director(size=1, stop_timeout_s=0.1)
    sink = director.register_actor(Collector, "sink")
    outcome: list[BaseException] = []

    def post(number: int) -> None:
        try:
            director.post(sink, number)
        except Exception as error:
            outcome.append(error)

    with running(director, stop_timeout_s=0.1):
        sink.pause()
        director.post(sink, 0)
        posters: list[Greenlet[..., None]] = [gevent.spawn(post, number) for number in (1, 2)]
        wait_until(lambda: sink.inbox_depth == 3)
        report = director.stop(0.1)
        gevent.joinall(posters, timeout=5)
    assert [type(error) for error in outcome] == [DirectorStoppedError, DirectorStoppedError]
    assert report.actors["sink"].left == 3
    assert [letter.event.data for letter in letters(director, "stopped")] == [0, 1, 2]
    with pytest.raises(DirectorStateError):
        director.post(sink, 3)
