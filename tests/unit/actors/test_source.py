# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.actors.source`."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import gevent
import pytest
from gevent.event import Event as Gate

from compysition import Actor, Director, Event
from compysition.actors import Source
from compysition.errors import RegistrationError
from compysition.ledger import Outcome
from tests.fault.conservation import Collector, assert_conserved, wait_until


def sourced(iterable: Any, **options: Any) -> tuple[Director, Collector]:
    director = Director(**options)
    source = director.register_actor(Source, "source", iterable)
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(source, sink)
    return director, sink


@pytest.mark.parametrize("items", [[], ["a"], list(range(2500)), [None, 0, {"a": 1}, b"x"]], ids=len)
def test_each_item_becomes_an_event_in_order_and_then_it_is_finished(items: list[Any]) -> None:
    director, sink = sourced(items)
    report = director.start(until_idle=True)
    assert report is not None
    assert report.ok
    assert sink.data == items
    assert_conserved(director)


@pytest.mark.parametrize("iterable", [(i for i in range(3)), range(3), {0: "a", 1: "b", 2: "c"}, iter([0, 1, 2])])
def test_anything_that_iterates_is_a_source(iterable: Any) -> None:
    director, sink = sourced(iterable)
    director.start(until_idle=True)
    assert sink.data == [0, 1, 2]


def test_an_item_that_is_an_event_is_sent_as_it_is() -> None:
    events = [Event("a", service="s"), Event("b", meta_id="m")]
    director, sink = sourced(events)
    director.start(until_idle=True)
    assert [id(event) for event in sink.events] == [id(event) for event in events]


def test_nothing_is_asked_of_the_iterable_before_the_start() -> None:
    asked: list[int] = []

    def items() -> Iterator[int]:
        asked.append(1)
        yield 1

    director, sink = sourced(items())
    assert asked == []
    director.start(until_idle=True)
    assert sink.data == [1]


def test_what_does_not_iterate_is_refused_when_registered() -> None:
    with pytest.raises(RegistrationError, match=r"'source'.*int"):
        sourced(7)


def test_a_source_without_end_ends_with_the_director_and_loses_nothing() -> None:
    director, sink = sourced(count())
    with director:
        wait_until(lambda: len(sink.data) > 2000)
    assert sink.data == list(range(len(sink.data)))
    assert_conserved(director)


def test_a_source_without_end_lets_others_have_their_turn() -> None:
    ticks: list[int] = []
    director = Director()
    director.register_actor(Source, "source", count())
    with director:
        for _ in range(5):
            gevent.sleep(0.001)
            ticks.append(1)
    assert len(ticks) == 5
    assert_conserved(director)


def test_a_source_waits_for_room() -> None:
    class Slow(Actor):
        def consume(self, event: Event) -> None:
            gate.wait()

    gate = Gate()
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(200):
            made.append(number)
            yield number

    director = Director(size=5)
    source = director.register_actor(Source, "source", items())
    director.connect_queue(source, director.register_actor(Slow, "slow", options={"concurrency": 1}))
    with director:
        wait_until(lambda: director.snapshot().actors["slow"].queued == 6)
        # One in hand, five in the queue, one that waits.
        assert len(made) == 7
        gate.set()
        wait_until(lambda: director.snapshot().balance.ended[Outcome.DELIVERED] == 200)
    assert_conserved(director)


def test_what_an_iterator_raises_restarts_the_actor_and_it_goes_on_with_what_comes_next() -> None:
    class Stumbling:
        def __init__(self) -> None:
            self.number = 0

        def __iter__(self) -> "Stumbling":
            return self

        def __next__(self) -> int:
            self.number += 1
            if self.number == 3:
                raise ValueError("3")
            if self.number > 5:
                raise StopIteration
            return self.number

    director, sink = sourced(Stumbling())
    report = director.start(until_idle=True)
    assert report is not None
    assert report.ok
    assert sink.data == [1, 2, 4, 5]
    assert director.snapshot().actors["source"].restarts == 1


def test_a_generator_that_raised_is_at_its_end() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("no more")

    director, sink = sourced(items())
    report = director.start(until_idle=True)
    assert report is not None
    assert sink.data == [1]
    assert director.snapshot().actors["source"].restarts == 1


def test_an_item_in_hand_when_the_greenlet_is_killed_is_sent_after_the_restart() -> None:
    """A crash loses nothing: also not what has been taken from the iterable and waits for room."""

    class Slow(Actor):
        def consume(self, event: Event) -> None:
            gate.wait()
            seen.append(event.data)

    gate = Gate()
    seen: list[int] = []
    director = Director(size=2)
    source = director.register_actor(Source, "source", range(20))
    director.connect_queue(source, director.register_actor(Slow, "slow", options={"concurrency": 1}))
    with director:
        wait_until(lambda: director.snapshot().actors["slow"].queued == 3)
        assert source._pool is not None
        (background,) = source._pool
        assert background.greenlet is not None
        background.greenlet.kill(block=False)
        wait_until(lambda: director.snapshot().actors["source"].restarts == 1)
        gate.set()
        wait_until(lambda: director.snapshot().actors["source"].background == 0)
        wait_until(lambda: director.snapshot().balance.held == 0)
    assert seen == list(range(20))
    assert_conserved(director)


def test_the_same_event_twice_is_sent_once_and_the_rest_still_comes() -> None:
    class Holding(Collector):
        def consume(self, event: Event, origin: str = "", origin_queue: str = "") -> None:
            self.data.append(event.data)
            self.keep(event)

    event = Event("same")
    director = Director(stop_timeout_s=0.5)
    source = director.register_actor(Source, "source", [event, event, Event("other")])
    sink = director.register_actor(Holding, "sink")
    director.connect_queue(source, sink)
    with director:
        wait_until(lambda: director.snapshot().actors["source"].background == 0)
        wait_until(lambda: sink.data == ["same", "other"])
    assert_conserved(director)
