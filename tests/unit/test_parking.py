# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.parking`."""

import gevent
import pytest

from compysition.errors import WrongContextError
from compysition.parking import Parking, wait_until
from compysition.testing.clock import VirtualClock, call_in_hub
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


# ---- waiting for a condition --------------------------------------------------------------------------------------


def test_waiting_for_what_holds_already_does_not_switch(clock: VirtualClock) -> None:
    ran: list[int] = []
    gevent.spawn(ran.append, 1)
    assert wait_until(lambda: True, clock=clock, timeout_s=0.0, places=set())
    assert ran == []
    turn()


def test_who_waits_looks_when_woken_and_leaves_no_place_and_no_timer(clock: VirtualClock) -> None:
    places: set[Parking] = set()
    holds: list[int] = []
    waiting = gevent.spawn(wait_until, lambda: bool(holds), clock=clock, timeout_s=1.0, places=places)
    turn()
    for place in places:
        place.wake()
    turn()
    assert not waiting.dead
    holds.append(1)
    for place in places:
        place.wake()
    assert waiting.get(timeout=5) is True
    assert places == set()
    assert clock.pending == 0


def test_at_the_deadline_the_answer_is_what_the_condition_says_then(clock: VirtualClock) -> None:
    holds: list[int] = []
    waiting = [
        gevent.spawn(wait_until, lambda: bool(holds), clock=clock, timeout_s=1.0, places=set()),
        gevent.spawn(wait_until, lambda: False, clock=clock, timeout_s=1.0, places=set()),
    ]
    turn()
    clock.advance(0.9)
    turn()
    assert not any(one.dead for one in waiting)
    holds.append(1)
    clock.advance(0.1)
    assert [one.get(timeout=5) for one in waiting] == [True, False]


def test_without_any_time_others_run_once(clock: VirtualClock) -> None:
    ran: list[int] = []
    waiting = gevent.spawn(wait_until, lambda: bool(ran), clock=clock, timeout_s=0.0, places=set())
    turn()
    ran.append(1)
    clock.advance(0.0)
    assert waiting.get(timeout=5) is True


def test_what_nobody_announces_is_looked_for(clock: VirtualClock) -> None:
    holds: list[int] = []
    waiting = gevent.spawn(wait_until, lambda: bool(holds), clock=clock, timeout_s=10.0, places=set(), look_s=0.5)
    turn()
    holds.append(1)
    clock.advance(0.5)
    assert waiting.get(timeout=5) is True
