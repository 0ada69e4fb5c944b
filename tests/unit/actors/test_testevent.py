# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.actors.testevent`."""

from typing import Any

import pytest

from compysition import Director
from compysition.actors import TestEvent
from compysition.errors import ConfigurationError
from tests.fault.conservation import Collector, assert_conserved, wait_until


class Hasty(TestEvent):
    """Does not wait, but notes for how long it would have."""

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> bool:
        self.slept.append(seconds)
        return super().sleep(0)


def made(**kwargs: Any) -> tuple[Director, Hasty, Collector]:
    director = Director()
    source = director.register_actor(Hasty, "source", **kwargs)
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(source, sink)
    return director, source, sink


def test_it_makes_the_same_event_again_and_again_until_the_director_stops() -> None:
    director, _, sink = made()
    with director:
        wait_until(lambda: len(sink.data) >= 20)
    assert set(sink.data) == {"test"}
    assert len({event.event_id for event in sink.events}) == len(sink.events)
    assert_conserved(director)


def test_by_default_a_second_lies_between_two_events() -> None:
    director, source, sink = made()
    with director:
        wait_until(lambda: len(sink.data) >= 3)
    assert source.slept[0] == 0
    assert set(source.slept[1:]) == {1}


def test_interval_and_delay_are_waited_for() -> None:
    director, source, sink = made(interval=0.25, delay=3, max_events=3)
    director.start(until_idle=True)
    assert len(sink.data) == 3
    assert source.slept[:3] == [3, 0.25, 0.25]


def test_an_interval_passes_between_two_events_in_real_time() -> None:
    director = Director()
    source = director.register_actor(TestEvent, "source", interval=0.02, delay=0.02, max_events=3)
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(source, sink)
    director.start(until_idle=True)
    created = [event.created for event in sink.events]
    # The clock of `created` may be set back a little while we look.
    assert len(created) == 3
    assert created[2] - created[0] >= 0.03


def test_an_interval_of_zero_lets_others_have_their_turn() -> None:
    director, _, sink = made(interval=0)
    with director:
        wait_until(lambda: len(sink.data) >= 1000)
    assert_conserved(director)


@pytest.mark.parametrize("producers", [1, 3, 10])
def test_max_events_is_for_all_producers_together(producers: int) -> None:
    director, _, sink = made(max_events=7, producers=producers)
    report = director.start(until_idle=True)
    assert report is not None
    assert report.ok
    assert len(sink.data) == 7


def test_several_producers_make_events_side_by_side() -> None:
    director, source, sink = made(producers=4, delay=0.5)
    with director:
        wait_until(lambda: len(sink.data) >= 8)
    assert source.slept.count(0.5) == 4


def test_each_event_has_its_own_copy_of_the_data() -> None:
    value = {"lines": [1]}
    director, _, sink = made(data_value=value, max_events=2)
    director.start(until_idle=True)
    sink.data[0]["lines"].append(2)
    assert sink.data[1] == value == {"lines": [1]}


def test_it_can_be_stopped_while_it_waits() -> None:
    director = Director()
    director.register_actor(TestEvent, "source", interval=3600, delay=3600)
    director.start(block=False)
    report = director.stop()
    assert report.ok
    assert report.took_s < 5


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("producers", 0),
        ("producers", -1),
        ("producers", "2"),
        ("interval", -0.1),
        ("interval", None),
        ("delay", -1),
        ("delay", "soon"),
        ("max_events", -1),
        ("max_events", [3]),
    ],
)
def test_a_number_that_makes_no_sense_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"{option} of 'source' is .*{value!r}".replace("[", r"\[")):
        Director().register_actor(TestEvent, "source", **{option: value})


def test_pytest_does_not_take_it_for_a_test() -> None:
    assert TestEvent.__test__ is False
