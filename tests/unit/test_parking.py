# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.parking`."""

import gevent
import pytest

from compysition.errors import WrongContextError
from compysition.parking import Parking
from compysition.testing.clock import call_in_hub
from tests.unit.kernel import turn


def test_parked_greenlet_goes_on_when_it_is_woken() -> None:
    steps: list[str] = []
    places: list[Parking] = []

    def waiter() -> None:
        places.append(Parking())
        places[0].park()
        steps.append("woken")

    greenlet = gevent.spawn(waiter)
    turn()
    assert steps == []
    places[0].wake()
    assert steps == []  # soon, not at once
    greenlet.join()
    assert steps == ["woken"]


def test_several_wakes_are_one() -> None:
    count = 0
    places: list[Parking] = []

    def waiter() -> None:
        nonlocal count
        places.append(Parking())
        while count < 2:
            places[0].park()
            count += 1

    greenlet = gevent.spawn(waiter)
    turn()
    for _ in range(5):
        places[0].wake()
    turn()
    assert count == 1
    places[0].wake()
    greenlet.join()
    assert count == 2


def test_hub_callback_may_wake() -> None:
    place = Parking()
    is_done = False

    def callback() -> None:
        nonlocal is_done
        is_done = True
        place.wake()

    gevent.get_hub().loop.run_callback(callback)
    while not is_done:
        place.park()
    assert is_done


def test_exception_takes_the_wake_on_its_way_along() -> None:
    # A stray switch would break whatever the greenlet waits for next.
    steps: list[str] = []
    places: list[Parking] = []

    def waiter() -> None:
        places.append(Parking())
        try:
            places[0].park()
        except KeyError:
            steps.append("left")
        places.append(Parking())
        places[1].park()
        steps.append("woken")

    greenlet = gevent.spawn(waiter)
    turn()
    greenlet.kill(KeyError(), block=False)
    places[0].wake()
    turn()
    assert steps == ["left"]
    places[1].wake()
    greenlet.join()
    assert steps == ["left", "woken"]


def test_place_can_be_used_again_after_an_exception() -> None:
    steps: list[str] = []
    places: list[Parking] = []

    def waiter() -> None:
        place = Parking()
        places.append(place)
        try:
            place.park()
        except KeyError:
            steps.append("left")
        place.park()
        steps.append("woken")

    greenlet = gevent.spawn(waiter)
    turn()
    greenlet.kill(KeyError(), block=False)
    turn()
    places[0].wake()
    greenlet.join()
    assert steps == ["left", "woken"]


def test_greenlet_that_died_can_be_woken() -> None:
    places: list[Parking] = []

    def waiter() -> None:
        places.append(Parking())
        places[0].park()

    greenlet = gevent.spawn(waiter)
    turn()
    greenlet.kill()
    places[0].wake()
    turn()
    assert greenlet.dead


def test_callback_of_the_hub_cannot_wait() -> None:
    with pytest.raises(WrongContextError, match="do this in a greenlet"):
        call_in_hub(Parking)
