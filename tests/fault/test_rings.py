# SPDX-License-Identifier: Apache-2.0
"""Rings: a put in them never waits; they neither deadlock nor lose, and are bounded."""

import logging
import random
from typing import Any

import gevent
import pytest

from compysition import Actor, Director, Event, Fatal, Outcome
from compysition.errors import RingFullError
from tests.fault.conservation import (
    Collector,
    Handler,
    SteeredClock,
    assert_conserved,
    ended,
    letters,
    running,
    wait_until,
)

pytestmark = pytest.mark.timeout(20)


class Round(Actor):
    """Sends an event on round the ring until it has gone through `hops` handlers, then out."""

    def __init__(self, name: str, onward: str, hops: int = 12, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.onward = onward
        self.hops = hops

    def consume(self, event: Event) -> None:
        event.data += 1
        self.step(event)
        self.send_event(event, queues=self.onward if event.data < self.hops else "out")

    def step(self, event: Event) -> None:
        """For subclasses: what happens before it goes on."""


def ring(
    actors: int, capacity: int = 1, cls: type[Round] = Round, hops: int = 12, **options: Any
) -> tuple[Director, list[Round], Collector]:
    """`actors` in a circle, each with an outbox "out" to a collector."""
    director = Director(stop_timeout_s=3.0, max_restarts=1000)
    members = [
        director.register_actor(cls, f"r{number}", f"r{(number + 1) % actors}", hops, options=options)
        for number in range(actors)
    ]
    out = director.register_actor(Collector, "out_sink")
    for number, member in enumerate(members):
        director.connect_queue(member, members[(number + 1) % actors], capacity=capacity)
        director.connect_queue((member, "out"), out)
    return director, members, out


def inside(director: Director) -> int:
    """What the ring holds: events in its queues and in the hands of its actors."""
    snapshot = director.snapshot()
    queued = sum(queue.depth for key, queue in snapshot.queues.items() if key[0].startswith("r") and key[1] != "out")
    return queued + sum(actor.in_flight for name, actor in snapshot.actors.items() if name.startswith("r"))


class Sleepy(Round):
    """Lets others run now and then."""

    def step(self, event: Event) -> None:
        if event.data % 3 == 0:
            gevent.sleep(0)


@pytest.mark.parametrize("cls", [Round, Sleepy])
@pytest.mark.parametrize("concurrency", [1, 100])
@pytest.mark.parametrize("actors", [1, 2, 3, 7])
def test_a_ring_whose_handlers_send_one_event_per_event_neither_deadlocks_nor_loses(
    actors: int, concurrency: int, cls: type[Round]
) -> None:
    director, members, out = ring(actors, cls=cls, concurrency=concurrency)
    with running(director):
        for number in range(200):
            director.post(members[number % actors], 0)
        wait_until(lambda: len(out.data) == 200)
        assert_conserved(director)
    assert out.data == [12] * 200
    assert letters(director) == []


def test_what_comes_from_outside_is_served_only_while_the_ring_holds_less_than_its_capacities() -> None:
    most = 0

    class Watching(Sleepy):
        def step(self, event: Event) -> None:
            nonlocal most
            super().step(event)
            most = max(most, inside(director))

    director, members, out = ring(3, capacity=2, cls=Watching)
    with running(director):
        posters = [gevent.spawn(director.post, members[number % 3], 0) for number in range(300)]
        wait_until(lambda: len(out.data) == 300)
        gevent.joinall(posters, raise_error=True)
        assert_conserved(director)
    assert 1 <= most <= 6 + 3


def test_a_ring_that_multiplies_is_cut_at_four_times_its_capacities() -> None:
    most = 0

    def double(actor: Actor, event: Event) -> None:
        nonlocal most
        most = max(most, inside(director))
        actor.send_event(actor.create_event(event.data))
        actor.send_event(event)

    director = Director(stop_timeout_s=3.0)
    ping = director.register_actor(Handler, "r0", double)
    pong = director.register_actor(Handler, "r1", double)
    director.connect_queue(ping, pong, capacity=5)
    director.connect_queue(pong, ping, capacity=5)
    with running(director, stop_timeout_s=0.1):
        director.post(ping, "spark")
        wait_until(lambda: len(letters(director, "failed")) >= 20)
        assert_conserved(director)
        report = director.stop(timeout_s=0.1)
    assert 30 < most <= 4 * 10 + 2
    for letter in letters(director, "failed"):
        assert letter.error is not None
        assert letter.error.error_class is RingFullError
        assert "r0 → r1 → r0" in letter.error.text or "r1 → r0 → r1" in letter.error.text
    assert report.exit_code == 1


def test_each_ring_is_named_once_at_start_and_a_plain_flow_is_none(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "compysition")
    director, members, out = ring(3)
    source = director.register_actor(Collector, "source")
    alone = director.register_actor(Collector, "alone")
    director.connect_queue(source, members[0])
    director.connect_queue(out, alone)
    director.connect_queue(alone, alone)
    with running(director, stop_timeout_s=0.1):
        pass
    named = [record.getMessage() for record in caplog.records if record.getMessage().startswith("ring")]
    assert len(named) == 2
    assert any("r0 → r1 → r2 → r0" in text for text in named)
    assert any("alone → alone" in text for text in named)


class Answering(Collector):
    """Takes answers, as WSGI does: its inbox does not feed its outboxes."""

    answers = True

    def consume(self, event: Event, origin: str = "", origin_queue: str = "") -> None:
        self.data.append(event.data)


def test_an_actor_that_answers_cuts_a_circle_and_its_puts_wait(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "compysition")
    director = Director(stop_timeout_s=3.0)
    door = director.register_actor(Answering, "door")
    worker = director.register_actor(Handler, "worker", lambda actor, event: actor.send_event(event))
    director.connect_queue(door, worker, capacity=1)
    director.connect_queue(worker, door, capacity=1)
    with running(director):
        door.pause()
        senders = [gevent.spawn(door.send_event, Event(number)) for number in range(10)]
        wait_until(lambda: director.snapshot().actors["worker"].waiting_puts == 1)
        assert director.snapshot().queues["worker", "door", "door", "worker"].depth == 1
        assert_conserved(director)
        door.resume()
        gevent.joinall(senders, raise_error=True)
        wait_until(lambda: len(door.data) == 10)
    assert not [record for record in caplog.records if record.getMessage().startswith("ring")]


def test_error_outboxes_close_a_ring_too() -> None:
    director = Director(stop_timeout_s=3.0)
    rounds: list[int] = []

    def mend(actor: Actor, event: Event) -> None:
        event.error = None
        rounds.append(event.data)
        actor.send_event(event)

    def fail(actor: Actor, event: Event) -> None:
        event.data += 1
        if event.data < 10:
            raise ValueError("again")

    breaker = director.register_actor(Handler, "breaker", fail, options={"concurrency": 1})
    mender = director.register_actor(Handler, "mender", mend, options={"concurrency": 1})
    director.connect_queue_error(breaker, mender, capacity=1)
    director.connect_queue(mender, breaker, capacity=1)
    with running(director):
        for _ in range(50):
            director.post(breaker, 0)
        wait_until(lambda: ended(director, Outcome.DELIVERED) == 50)
        assert_conserved(director)
    assert letters(director) == []


def test_a_slow_way_out_holds_the_ring_and_does_not_deadlock_it() -> None:
    director = Director(stop_timeout_s=3.0)
    member = director.register_actor(Round, "r0", "r0", 5)
    out = director.register_actor(Collector, "out_sink")
    director.connect_queue(member, member, capacity=2)
    director.connect_queue((member, "out"), out, capacity=1)
    with running(director):
        out.pause()
        for _ in range(20):
            director.post(member, 0)
        wait_until(lambda: director.snapshot().actors["r0"].waiting_puts == 1)
        assert_conserved(director)
        out.resume()
        wait_until(lambda: len(out.data) == 20)


def test_kills_in_a_ring_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seeded = random.Random(3)
    # Backoff takes no time.
    monkeypatch.setattr("compysition.runtime.Clock", SteeredClock)

    class Dying(Sleepy):
        def step(self, event: Event) -> None:
            super().step(event)
            if event.attempts == 0 and seeded.random() < 0.05:
                # It is handled again from here on: its hops are counted anew.
                event.data -= 1
                raise Fatal

    director, members, out = ring(3, capacity=3, cls=Dying)
    with running(director, stop_timeout_s=10):
        for number in range(20):
            director.post(members[number % 3], 0)
        wait_until(lambda: len(out.data) == 20, timeout_s=15)
        assert_conserved(director)
    assert letters(director) == []


def test_a_stop_drains_a_ring() -> None:
    director, members, out = ring(3, capacity=2, cls=Sleepy, hops=300)
    with running(director):
        for number in range(30):
            director.post(members[number % 3], 0)
        report = director.stop()
    assert report.ok
    assert out.data == [300] * 30
