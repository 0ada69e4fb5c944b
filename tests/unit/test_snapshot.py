# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.snapshot`: one look as plain values."""

import dataclasses
import inspect
from typing import Any

import gevent
import pytest
from gevent.event import Event as Signal

from compysition.actor import Actor
from compysition.errors import Retry
from compysition.event import Event
from compysition.ledger import Balance
from compysition.snapshot import ActorSnapshot, QueueSnapshot, Snapshot, key_of, look_at_actor, look_at_queue
from tests.unit.kernel import Flow, turn, wait_until


class Obeying(Actor):
    """Does what its event's data says, and sends the event on."""

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.signal = Signal()

    def consume(self, event: Event) -> None:
        if event.data == "wait":
            self.signal.wait()
        elif event.data == "fail":
            raise ValueError("no")
        elif event.data == "retry":
            raise Retry(100.0)
        elif event.data == "keep":
            self.keep(event)
            return
        self.send_event(event)
        if event.data == "fail after send":
            raise ValueError("too late")


def look(flow: Flow, name: str = "a") -> ActorSnapshot:
    cell = flow.member(name).cell
    outgoing = [
        queue for boxes in (cell.outboxes, cell.error_outboxes) for queues in boxes.values() for queue in queues
    ]
    return look_at_actor(flow.member(name), outgoing)


@pytest.fixture
def pair(timeless_flow: Flow) -> Flow:
    """Two actors, a → b, with room for three between them."""
    timeless_flow.add(Obeying, "a")
    timeless_flow.add(Actor, "b")
    timeless_flow.connect("a", "b", capacity=3)
    return timeless_flow.start()


# ---- an actor -------------------------------------------------------------------------------------------------------


def test_new_actor_has_done_nothing(pair: Flow) -> None:
    assert look(pair) == ActorSnapshot(
        state="registered",
        received=0,
        sent=0,
        failed=0,
        failed_after_send=0,
        in_flight=0,
        waiting_puts=0,
        queued=0,
        kept=0,
        delayed=0,
        restarts=0,
        abandoned=0,
        paused=False,
        busy_s=0.0,
        background=0,
    )


def test_events_that_went_through_are_counted_on_both_sides(pair: Flow) -> None:
    for _ in range(5):
        pair.run("a", "data")
    assert (look(pair).received, look(pair).sent) == (5, 5)
    assert (look(pair, "b").received, look(pair, "b").sent) == (5, 0)


def test_failures_are_counted_by_kind(pair: Flow) -> None:
    for data in ("fail", "fail", "fail after send"):
        pair.run("a", data)
    seen = look(pair)
    assert (seen.received, seen.sent, seen.failed, seen.failed_after_send) == (3, 1, 2, 1)


def test_failed_events_that_took_an_error_outbox_were_sent(pair: Flow) -> None:
    pair.add(Actor, "errors")
    pair.connect("a", "errors", is_error=True)
    pair.start().run("a", "fail")
    assert (look(pair).sent, look(pair).failed) == (1, 1)


def test_what_is_held_is_shown_by_where_it_is(pair: Flow) -> None:
    for data in ("wait", "keep", "retry", "retry"):
        pair.post("a", data)
    wait_until(lambda: look(pair).in_flight == 1 and look(pair).delayed == 2)
    actor = pair.member().actor
    assert isinstance(actor, Obeying)
    actor.pause()
    pair.post("a", "queued")
    seen = look(pair)
    assert (seen.in_flight, seen.kept, seen.delayed, seen.queued, seen.paused) == (1, 1, 2, 1, True)
    actor.signal.set()
    pair.kernel.run()
    pair.member().cell.collect("stopped")


def test_event_given_back_was_not_received(pair: Flow) -> None:
    pair.run("a", "retry")
    pair.kernel.run()
    assert look(pair).received == 1
    cell = pair.member().cell
    [event] = cell.retrying.events.values()
    cell.inboxes[0].re_enter(event, cell.ledger, cell)
    assert (look(pair).received, look(pair).queued) == (0, 1)
    cell.collect("stopped")


def test_sent_counts_what_waits_and_what_was_dropped(pair: Flow) -> None:
    pair.member("b").actor.pause()
    for _ in range(5):
        pair.post("a", "data")
    wait_until(lambda: look(pair).waiting_puts == 1)
    seen = look(pair)
    assert (seen.sent, seen.queued) == (4, 1)
    pair.member("b").actor.resume()
    pair.kernel.run()
    assert look(pair).sent == 5


def test_sent_does_not_go_back_when_a_stop_collects_what_was_not_taken(pair: Flow) -> None:
    pair.member("b").actor.pause()
    for _ in range(3):
        pair.run("a", "data")
    assert look(pair).sent == 3
    pair.member("b").cell.collect("stopped")
    assert look(pair).sent == 3


def test_background_greenlets_that_have_not_ended_are_counted(pair: Flow) -> None:
    signal = Signal()
    actor = pair.member().actor
    actor.background(signal.wait)
    actor.background(int)
    turn()
    assert look(pair).background == 1
    signal.set()
    turn()
    assert look(pair).background == 0


# ---- a connection ---------------------------------------------------------------------------------------------------


def test_connection_shows_its_depth_and_who_waits(pair: Flow) -> None:
    pair.member("b").actor.pause()
    for _ in range(5):
        pair.post("a", "data")
    wait_until(lambda: look(pair).waiting_puts)
    [queue] = pair.member("b").cell.inboxes
    assert look_at_queue(queue) == QueueSnapshot(depth=3, capacity=3, overflow="wait", dropped=0, taken=0, waiting=1)
    pair.member("b").actor.resume()
    pair.kernel.run()
    assert look_at_queue(queue) == QueueSnapshot(depth=0, capacity=3, overflow="wait", dropped=0, taken=5, waiting=0)


def test_connection_shows_what_its_policy_has_dropped(timeless_flow: Flow) -> None:
    timeless_flow.add(Obeying, "a")
    timeless_flow.add(Actor, "b")
    timeless_flow.connect("a", "b", capacity=1, overflow="drop_oldest")
    timeless_flow.start()
    timeless_flow.member("b").actor.pause()
    for _ in range(4):
        timeless_flow.run("a", "data")
    [queue] = timeless_flow.member("b").cell.inboxes
    assert look_at_queue(queue) == QueueSnapshot(
        depth=1, capacity=1, overflow="drop_oldest", dropped=3, taken=0, waiting=0
    )
    assert look(timeless_flow).sent == 4


def test_connections_of_every_kind_have_different_keys(pair: Flow) -> None:
    pair.connect("a", "b", is_error=True)
    pair.connect(("a", "out"), "b")
    pair.connect("a", ("b", "in"))
    pair.add(Actor, "c")
    pair.connect("b", "c")
    pair.post("b")
    pair.post("b", inbox="a")
    queues = [queue for member in pair.wiring.members.values() for queue in member.cell.inboxes]
    keys = [key_of(queue) for queue in queues]
    assert len(set(keys)) == len(keys) == 7
    assert ("a", "b", "b", "a") in keys
    assert ("a", "error:b", "b", "a") in keys
    assert ("", "", "b", "") in keys
    pair.kernel.run()


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [ActorSnapshot, QueueSnapshot, Snapshot])
def test_snapshots_are_frozen_values_whose_fields_are_all_described(cls: type) -> None:
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]  # dataclasses have no type for it
    described = inspect.getdoc(cls) or ""
    for field in dataclasses.fields(cls):
        assert f"\n    {field.name}: " in described, field.name


def test_snapshot_does_not_follow_what_happens_later(pair: Flow) -> None:
    before = look(pair)
    pair.run("a", "data")
    assert before.received == 0
    assert look(pair).received == 1


def test_snapshot_cannot_be_changed() -> None:
    snapshot = Snapshot("new", {}, {}, Balance(0, 0, 0), Balance(0, 0, 0))
    with pytest.raises(dataclasses.FrozenInstanceError):
        snapshot.state = "running"  # type: ignore[misc]  # that is the point


def test_looking_changes_nothing(pair: Flow) -> None:
    pair.post("a", "wait")
    wait_until(lambda: look(pair).in_flight)
    looks = [look(pair) for _ in range(3)]
    assert looks[0] == looks[1] == looks[2]
    actor = pair.member().actor
    assert isinstance(actor, Obeying)
    actor.signal.set()
    gevent.sleep(0)
    pair.kernel.run()
