# SPDX-License-Identifier: Apache-2.0
"""Who may send an event, and what becomes of those who may not."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
from gevent.event import Event as Signal

from compysition import Actor, Director, Event, Outcome
from compysition.errors import EventNotOwnedError, KeptFullError, NotAnEventError
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


def flow(
    function: Callable[[Any, Event], object], sinks: int = 1, **options: Any
) -> tuple[Director, Handler, list[Collector]]:
    """Handler → as many sinks."""
    director = Director(stop_timeout_s=3.0)
    handler = director.register_actor(Handler, "handler", function, options=options)
    collectors = [director.register_actor(Collector, f"sink{number}") for number in range(sinks)]
    if collectors:
        director.connect_queue(handler, collectors)
    return director, handler, collectors


def catch(errors: list[BaseException], call: Callable[[], object]) -> None:
    try:
        call()
    except Exception as error:
        errors.append(error)


# ---- sent twice -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sinks", [1, 2])
def test_an_event_sent_twice_is_an_error_that_names_where_it_is_and_it_arrives_once(sinks: int) -> None:
    errors: list[BaseException] = []

    def consume(actor: Actor, event: Event) -> None:
        actor.send_event(event)
        catch(errors, lambda: actor.send_event(event))
        catch(errors, lambda: actor.send_error(event))
        catch(errors, lambda: actor.keep(event))

    director, handler, collectors = flow(consume, sinks)
    with running(director):
        director.post(handler, 1)
        wait_until(lambda: all(collector.data == [1] for collector in collectors))
        assert_conserved(director)
    assert [type(error) for error in errors] == [EventNotOwnedError] * 3
    for error in errors:
        assert f"already sent to 'sink{sinks - 1}': send event.copy()" in str(error)
    assert letters(director) == []


def test_the_error_of_a_second_send_does_not_fail_the_event_that_is_under_way() -> None:
    def consume(actor: Actor, event: Event) -> None:
        actor.send_event(event)
        actor.send_event(event)

    director, handler, [sink] = flow(consume)
    with running(director):
        director.post(handler, 1)
        wait_until(lambda: director.snapshot().actors["handler"].failed_after_send == 1)
        wait_until(lambda: sink.data == [1])
        assert_conserved(director)
    assert letters(director) == []


def test_an_event_in_another_actors_hand_cannot_be_sent() -> None:
    errors: list[BaseException] = []
    in_hand, tried = Signal(), Signal()

    def first(actor: Actor, event: Event) -> None:
        actor.send_event(event)
        in_hand.wait()
        catch(errors, lambda: actor.send_event(event))
        tried.set()

    def second(actor: Actor, event: Event) -> None:
        in_hand.set()
        tried.wait()
        actor.send_event(event)

    director = Director()
    sender = director.register_actor(Handler, "sender", first)
    holder = director.register_actor(Handler, "holder", second)
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(sender, holder)
    director.connect_queue(holder, sink)
    with running(director):
        director.post(sender, 1)
        wait_until(lambda: sink.data == [1])
        assert_conserved(director)
    [error] = errors
    assert isinstance(error, EventNotOwnedError)
    assert "in the hand of 'holder'" in str(error)


def test_an_event_that_ended_otherwise_than_delivered_cannot_be_sent() -> None:
    errors: list[BaseException] = []
    dropped = Event("dropped")

    def consume(actor: Actor, event: Event) -> None:
        if event.data == "dead":
            actor.send_error(event)
            catch(errors, lambda: actor.send_event(event))
        elif event.data == "try the dropped one":
            catch(errors, lambda: actor.send_event(dropped))

    director = Director()
    source = director.register_actor(Collector, "source")
    handler = director.register_actor(Handler, "handler", consume)
    director.connect_queue(source, handler, capacity=1, overflow="drop_newest")
    with running(director):
        handler.pause()
        director.post(source, "fills")
        wait_until(lambda: handler.inbox_depth == 1)
        director.post(source, dropped)
        wait_until(lambda: ended(director, Outcome.DROPPED) == 1)
        handler.resume()
        director.post(handler, "dead")
        director.post(handler, "try the dropped one")
        wait_until(lambda: len(errors) == 2)
        assert_conserved(director)
    assert all(isinstance(error, EventNotOwnedError) for error in errors)
    assert sorted(str(error).partition(" has ")[2][:15] for error in errors) == ["ended (dead): s", "ended (dropped)"]


# ---- no event ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", ["send_event", "send_error", "keep"])
@pytest.mark.parametrize("sinks", [0, 1, 2])
@pytest.mark.parametrize("value", [None, 3, "text", {"data": 1}, Event, [Event(1)]], ids=repr)
def test_a_value_that_is_no_event_is_an_error_that_says_how_to_make_one(value: Any, sinks: int, tool: str) -> None:
    def consume(actor: Actor, event: Event) -> None:
        if event.data == "bad":
            getattr(actor, tool)(value)
        actor.send_event(event)

    director, handler, collectors = flow(consume, sinks)
    with running(director):
        director.post(handler, "bad")
        wait_until(lambda: letters(director))
        director.post(handler, "fine")
        wait_until(lambda: director.snapshot().actors["handler"].received == 2)
        assert_conserved(director)
    [letter] = letters(director, "failed")
    assert letter.error is not None
    assert letter.error.error_class is NotAnEventError
    assert "Event(…)" in letter.error.text
    assert all(collector.data == ["fine"] for collector in collectors)


# ---- kept -------------------------------------------------------------------------------------------------------


def test_a_kept_event_is_held_and_is_its_keepers_alone_to_send() -> None:
    errors: list[BaseException] = []
    shelf: list[Event] = []

    def keeper(actor: Actor, event: Event) -> None:
        if event.data == "keep":
            actor.keep(event)
            shelf.append(event)
        else:
            actor.send_event(shelf.pop())
            actor.send_event(event)

    director, handler, [sink] = flow(keeper)
    thief = director.register_actor(
        Handler, "thief", lambda actor, event: catch(errors, lambda: actor.send_event(shelf[0]))
    )
    with running(director):
        director.post(handler, "keep")
        wait_until(lambda: director.snapshot().actors["handler"].kept == 1)
        assert director.snapshot().balance.held == 1
        director.post(thief, 1)
        wait_until(lambda: errors)
        with pytest.raises(EventNotOwnedError, match="kept by 'handler'"):
            director.post(sink, shelf[0])
        assert_conserved(director)
        director.post(handler, "release")
        wait_until(lambda: sink.data == ["keep", "release"])
        assert director.snapshot().actors["handler"].kept == 0
        assert_conserved(director)
    assert isinstance(errors[0], EventNotOwnedError)
    assert "kept by 'handler'" in str(errors[0])


def test_an_actor_keeps_only_so_many_events_and_the_next_one_fails_by_name() -> None:
    shelf: list[Event] = []

    def keeper(actor: Actor, event: Event) -> None:
        if event.data == "release":
            actor.send_event(shelf.pop())
            return
        actor.keep(event)
        actor.keep(event)  # again, which is no further one
        shelf.append(event)

    director, handler, [sink] = flow(keeper, concurrency=1, max_kept=2)
    with running(director):
        for data in (1, 2, 3):
            director.post(handler, data)
        wait_until(lambda: letters(director, "failed"))
        (letter,) = letters(director)
        assert letter.event.data == 3
        assert letter.error is not None
        assert (letter.error.error_class, letter.error.status) == (KeptFullError, 503)
        assert letter.error.text == (
            "actor 'handler' keeps 2 events already: send some on first, or raise its option max_kept"
        )
        assert director.snapshot().actors["handler"].kept == 2
        director.post(handler, "release")
        director.post(handler, 4)
        wait_until(lambda: director.snapshot().actors["handler"].kept == 2 and sink.data == [2])
        assert_conserved(director)
        director.post(handler, "release")
        director.post(handler, "release")
        wait_until(lambda: len(sink.data) == 3)
    assert len(letters(director)) == 1


def test_a_kept_event_can_be_sent_from_a_background_greenlet_of_its_keeper() -> None:
    shelf: list[Event] = []

    def consume(actor: Actor, event: Event) -> None:
        actor.keep(event)
        shelf.append(event)
        actor.background(lambda: actor.send_event(shelf.pop()))

    director, handler, [sink] = flow(consume)
    with running(director):
        director.post(handler, 1)
        wait_until(lambda: sink.data == [1])
        assert_conserved(director)
    assert ended(director, Outcome.DELIVERED) == 1


def test_an_event_kept_twice_is_held_once() -> None:
    def consume(actor: Actor, event: Event) -> None:
        if event.data == "keep":
            shelf.append(event)
            actor.keep(event)
            actor.keep(event)
        else:
            actor.send_event(shelf.pop())

    shelf: list[Event] = []
    director, handler, [sink] = flow(consume)
    with running(director):
        director.post(handler, "keep")
        wait_until(lambda: director.snapshot().actors["handler"].kept == 1)
        assert_conserved(director)
        director.post(handler, "release")
        wait_until(lambda: sink.data == ["keep"])


def test_a_kept_event_stays_kept_when_its_handler_then_raises() -> None:
    def consume(actor: Actor, event: Event) -> None:
        actor.keep(event)
        raise ValueError("after keeping")

    director, handler, _ = flow(consume)
    with running(director, stop_timeout_s=0.1):
        director.post(handler, 1)
        wait_until(lambda: director.snapshot().actors["handler"].kept == 1)
        assert_conserved(director)
    assert [letter.reason for letter in letters(director)] == ["stopped"]


# ---- delivered, then sent ---------------------------------------------------------------------------------------


def test_an_event_that_was_delivered_and_is_sent_later_is_born_again_with_one_warning_that_names_keep(
    caplog: pytest.LogCaptureFixture,
) -> None:
    shelf: list[Event] = []

    def consume(actor: Actor, event: Event) -> None:
        if isinstance(event.data, int):
            shelf.append(event)  # and forgets to keep it
        else:
            for late in shelf:
                actor.send_event(late)

    director, handler, [sink] = flow(consume)
    with running(director):
        for number in range(3):
            director.post(handler, number)
        wait_until(lambda: ended(director, Outcome.DELIVERED) == 3)
        director.post(handler, "send them")
        wait_until(lambda: sink.data == [0, 1, 2])
        assert_conserved(director)
    balance = director.snapshot().balance
    assert (balance.accepted, balance.born) == (4, 3)
    warnings = [record for record in caplog.records if "self.keep(event)" in record.getMessage()]
    assert len(warnings) == 1
    assert warnings[0].levelno == logging.WARNING
    assert warnings[0].actor == "handler"  # type: ignore[attr-defined]  # a field of our own


def test_the_warning_of_a_late_send_from_a_background_greenlet_names_its_actor(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def consume(actor: Actor, event: Event) -> None:
        def later() -> None:
            actor.sleep(0.01)
            actor.send_event(event)

        actor.background(later)

    director, handler, [sink] = flow(consume)
    with running(director):
        director.post(handler, 1)
        wait_until(lambda: sink.data == [1])
        assert_conserved(director)
    [warning] = [record for record in caplog.records if "self.keep(event)" in record.getMessage()]
    assert warning.actor == "handler"  # type: ignore[attr-defined]  # a field of our own


# ---- round about ------------------------------------------------------------------------------------------------


def test_an_event_that_comes_back_over_a_self_loop_while_its_handler_runs_is_in_one_hand() -> None:
    """The handler that sent it first must not end it when it returns: another one has it now."""
    second_runs, first_returned = Signal(), Signal()
    diary: list[str] = []

    def consume(actor: Actor, event: Event) -> None:
        event.data += 1
        if event.data == 1:
            actor.send_event(event, queues="handler")
            second_runs.wait()
            diary.append("first returns")
            first_returned.set()
        else:
            second_runs.set()
            first_returned.wait()
            diary.append(f"held {director.snapshot().balance.held}")
            actor.send_event(event, queues="sink0")

    director, handler, [sink] = flow(consume)
    director.connect_queue(handler, handler)
    with running(director):
        director.post(handler, 0)
        wait_until(lambda: sink.data == [2])
        assert_conserved(director)
    assert diary == ["first returns", "held 1"]
    assert ended(director, Outcome.DELIVERED) == 1


def test_an_event_that_comes_back_over_a_ring_while_its_handler_runs_and_raises_fails_once() -> None:
    second_runs, first_returned = Signal(), Signal()

    def consume(actor: Actor, event: Event) -> None:
        event.data += 1
        if event.data == 1:
            actor.send_event(event, queues="back")
            try:
                second_runs.wait()
                raise ValueError("the event is not mine any more")
            finally:
                first_returned.set()
        else:
            second_runs.set()
            first_returned.wait()
            actor.send_event(event, queues="sink0")

    director, handler, [sink] = flow(consume)
    back = director.register_actor(Handler, "back", lambda actor, event: actor.send_event(event))
    director.connect_queue(handler, back)
    director.connect_queue(back, handler)
    with running(director):
        director.post(handler, 0)
        wait_until(lambda: sink.data == [2])
        wait_until(lambda: director.snapshot().actors["handler"].failed_after_send == 1)
        assert_conserved(director)
    assert letters(director) == []


def test_an_event_that_comes_back_to_the_same_handler_is_not_taken_for_the_one_in_hand() -> None:
    """With concurrency 1 the very same consumer takes it again: each time it ends or goes on once."""
    director, handler, [sink] = flow(
        lambda actor, event: actor.send_event(event, queues="handler" if event.data == "round" else "sink0"),
        concurrency=1,
    )
    director.connect_queue(handler, handler)
    event = Event("round")
    with running(director):
        director.post(handler, event)
        wait_until(lambda: director.snapshot().actors["handler"].received > 100)
        assert_conserved(director)
        event.data = "out"
        wait_until(lambda: sink.data == ["out"])
        assert_conserved(director)


# ---- fan-out ----------------------------------------------------------------------------------------------------


def test_a_fan_out_killed_half_way_gives_the_event_back_and_those_served_see_it_again() -> None:
    director = Director(stop_timeout_s=3.0)
    handler = director.register_actor(Handler, "handler", lambda actor, event: actor.send_event(event))
    served, full, last = (director.register_actor(Collector, name) for name in ("served", "full", "last"))
    director.connect_queue(handler, served)
    director.connect_queue(handler, [full, last], capacity=1)
    with running(director):
        full.pause()
        director.post(handler, "fills")
        wait_until(lambda: full.inbox_depth == 1)
        director.post(handler, "half-way")
        wait_until(lambda: director.snapshot().actors["handler"].waiting_puts == 1)
        assert served.data == ["fills", "half-way"]
        assert_conserved(director)
        [victim] = [consumer for consumer in director.dispatcher.consumers if consumer.hand.sender is not None]
        victim.kill()
        assert_conserved(director)
        full.resume()
        wait_until(lambda: last.data == ["fills", "half-way"])
        assert_conserved(director)
    assert served.data == ["fills", "half-way", "half-way"]
    assert full.data == ["fills", "half-way"]
    assert letters(director) == []
    # What came last is the event itself, and its id never changed; copies have their own.
    assert last.events[-1].attempts == 1
    assert served.events[-1].meta_id == last.events[-1].event_id
    assert served.events[-1].event_id != served.events[-2].event_id


def test_destinations_of_a_fan_out_do_not_share_what_can_change() -> None:
    def change(actor: Actor, event: Event) -> None:
        event.data.append(actor.name)
        results[actor.name] = event.data

    results: dict[str, list[str]] = {}
    director = Director()
    source = director.register_actor(Handler, "source", lambda actor, event: actor.send_event(event))
    sinks = [director.register_actor(Handler, f"sink{number}", change) for number in range(3)]
    director.connect_queue(source, sinks)
    with running(director):
        director.post(source, ["data"])
        wait_until(lambda: len(results) == 3)
        assert_conserved(director)
    assert results == {sink.name: ["data", sink.name] for sink in sinks}
