# SPDX-License-Identifier: Apache-2.0
"""`EventJoin` in a full circle over sockets, under kills, and at a stop."""

import json
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event as Gate
from gevent.pool import Pool

from compysition import Director, Event
from compysition.actor import Actor, ActorOptions
from compysition.actors import Data, EventJoin, FlowController, Source, WSGIServer
from compysition.errors import ConflictError
from compysition.ledger import Outcome
from compysition.testing import VirtualClock
from tests.fault.conservation import Collector, Handler, assert_conserved, letters, running, wait_until

pytestmark = [pytest.mark.patched, pytest.mark.unpatched]


def get(port: int, path: str, *headers: str) -> tuple[int, Any]:
    """Status and parsed body of one request; fails if anything follows the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=10.0) as client:
        lines = [f"GET {path} HTTP/1.1", "Host: a", "Connection: close", *headers, "", ""]
        client.sendall("\r\n".join(lines).encode())
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    assert answer.count(b"HTTP/1.1 ") == 1, answer
    length = int(dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:]).get(b"content-length", b"0"))
    assert len(body) == length
    return int(head.split(b" ")[1]), json.loads(body) if body else None


class Branch(Actor):
    """Answers with the path, its own name and whatever `behave` does to the event."""

    options = ActorOptions(concurrency=100)

    def __init__(self, name: str, behave: Any = None) -> None:
        super().__init__(name)
        self.behave = behave

    def consume(self, event: Any) -> None:
        if self.behave is not None and self.behave(event) == "drop":
            return
        event.data = f"{self.name} {event.path}"
        self.send_event(event)


def circle(behave: Any = None, *, is_error_wired: bool = False, **options: Any) -> tuple[Director, WSGIServer]:
    """A door, a fork into two branches, a join, and the way back."""
    director = Director(stop_timeout_s=5.0)
    door = director.register_actor(WSGIServer, "door", port=0, timeout_s=5.0)
    fork = director.register_actor(FlowController, "fork")
    branches = [director.register_actor(Branch, "left"), director.register_actor(Branch, "right", behave)]
    join = director.register_actor(EventJoin, "join", **options)
    director.connect_queue(door, fork)
    director.connect_queue(fork, list(branches))
    for branch in branches:
        director.connect_queue(branch, join)
    director.connect_queue(join, door)
    if is_error_wired:
        director.connect_queue_error(join, door)
    return director, door


# ---- the full circle --------------------------------------------------------------------------------------------


def test_a_request_that_is_forked_and_joined_gets_exactly_one_answer() -> None:
    director, door = circle()
    with running(director):
        assert get(door.port, "/x") == (200, {"left": "left /x", "right": "right /x"})
    balance = director.snapshot().balance
    assert balance.ended[Outcome.ANSWERED] == 1
    assert balance.ended[Outcome.DROPPED] == balance.ended[Outcome.DEAD] == 0


def test_requests_at_once_do_not_mix_even_if_their_clients_choose_the_same_id() -> None:
    director, door = circle()
    with running(director):
        answers = Pool(20).map(lambda n: get(door.port, f"/{n}", "X-Request-ID: chosen"), range(100))
    assert answers == [(200, {"left": f"left /{n}", "right": f"right /{n}"}) for n in range(100)]
    assert director.snapshot().balance.ended[Outcome.ANSWERED] == 100


def test_a_branch_that_fails_answers_with_its_failure_and_the_other_ends_by_name() -> None:
    def fail(event: Event) -> None:
        raise ConflictError("not twice")

    director, door = circle(fail, timeout_s=0.5)
    with running(director):
        status, problem = get(door.port, "/x")
        assert (status, problem["detail"]) == (409, "not twice")
        wait_until(lambda: director.snapshot().balance.held == 0)
    assert sorted((letter.actor, letter.reason) for letter in letters(director)) == [
        *(("join", "failed"), ("right", "failed")),
    ]


def test_a_branch_that_fails_into_the_join_is_part_of_the_answer_that_somebody_shapes() -> None:
    def fail(event: Event) -> None:
        raise ConflictError("not twice")

    def shape(actor: Any, event: Event) -> None:
        assert event.error is not None
        event.data = {"left": event.data["left"], "problem": event.error.text}
        event.error = None
        actor.send_event(event)

    director = Director(stop_timeout_s=5.0)
    door = director.register_actor(WSGIServer, "door", port=0, timeout_s=5.0)
    director.register_actor(Branch, "left")
    director.register_actor(Branch, "right", fail)
    director.register_actor(EventJoin, "join", inboxes=["left", "right"])
    director.register_actor(Handler, "shape", shape)
    director.connect_queue("door", ["left", "right"])
    director.connect_queue("left", "join")
    director.connect_queue_error("right", "join")
    director.connect_queue("join", "shape")
    director.connect_queue("shape", "door")
    with running(director):
        assert get(door.port, "/x") == (200, {"left": "left /x", "problem": "not twice"})


@pytest.mark.parametrize("is_error_wired", [False, True])
def test_a_branch_that_never_comes_is_answered_504_once(is_error_wired: bool) -> None:
    director, door = circle(lambda event: "drop", is_error_wired=is_error_wired, timeout_s=0.05)
    with running(director):
        status, _ = get(door.port, "/x")
    assert status == 504


def test_a_branch_that_never_comes_can_be_answered_with_what_there_is() -> None:
    director, door = circle(lambda event: "drop", timeout_s=0.05, on_timeout="partial")
    with running(director):
        assert get(door.port, "/x") == (200, {"left": "left /x"})


def test_a_stop_answers_requests_whose_partner_is_still_on_its_way() -> None:
    gate = Gate()
    director, door = circle(lambda event: gate.wait() and None)
    with running(director):
        waiting = Pool(1).spawn(get, door.port, "/x")
        wait_until(lambda: director.get_actor("join").waiting == 1)  # type: ignore[attr-defined]
        director.request_stop("the test")
        gate.set()
        assert waiting.get(timeout=5) == (200, {"left": "left /x", "right": "right /x"})
        assert director.block().exit_code == 0


# ---- a stop -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_timeout", ["fail", "partial"])
def test_at_a_stop_groups_that_are_not_whole_end_by_name_at_once(on_timeout: str) -> None:
    director = Director()
    sink = director.register_actor(Collector, "sink")
    director.register_actor(EventJoin, "join", inboxes=["a", "b"], timeout_s=3600.0, on_timeout=on_timeout)
    director.connect_queue("join", sink)
    with running(director):
        for number in range(3):
            director.post("join", number, inbox="a")
        report = director.stop()
    assert (report.exit_code, report.took_s < 20) == (0, True)
    if on_timeout == "partial":
        assert sink.data == [{"a": number} for number in range(3)]
        assert [event.get("missing") for event in sink.events] == [["b"]] * 3
    else:
        assert [letter.error.text for letter in letters(director, "failed") if letter.error] == [
            "the Director stopped while 'join' waited for 'b'"
        ] * 3
        assert sink.data == []


def test_a_join_that_waits_for_room_does_not_keep_a_stop_waiting() -> None:
    director = Director()
    sink = director.register_actor(Collector, "sink")
    director.register_actor(
        EventJoin, "join", key="data", inboxes=["a", "b"], timeout_s=3600.0, max_groups=2, on_full="wait"
    )
    director.connect_queue("join", sink)
    with running(director):
        for inbox in ("a", "b"):
            for number in range(10):
                director.post("join", number, inbox=inbox)
        wait_until(lambda: director.snapshot().actors["join"].in_flight == 0)
        report = director.stop()
    assert report.exit_code == 0
    assert sorted(data["a"] for data in sink.data) == list(range(10))


def test_a_finite_flow_waits_for_its_groups() -> None:
    director = Director()
    source = director.register_actor(Source, "source", range(1000))
    twins = [director.register_actor(FlowController, name) for name in ("one", "two")]
    join = director.register_actor(EventJoin, "join")
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(source, list(twins))
    for twin in twins:
        director.connect_queue(twin, join)
    director.connect_queue(join, sink)
    report = director.start(until_idle=True)
    assert report is not None
    assert report.ok
    assert [data["one"] for data in sink.data] == list(range(1000))
    assert all(data["one"] == data["two"] for data in sink.data)


# ---- kills ------------------------------------------------------------------------------------------------------


def kill_handler(director: Director, name: str) -> None:
    for consumer in tuple(director.dispatcher.consumers):
        if consumer.hand.sender is not None and consumer.hand.sender.name == name:
            consumer.kill(block=False)


@pytest.mark.parametrize("has_gone_in", [False, True])
def test_a_join_killed_while_it_waits_for_room_sends_each_group_once(has_gone_in: bool) -> None:
    """One is in the hand of `slow`, one in its queue, and the last one waits: nothing further comes to push it."""
    gate, seen = Gate(), []

    def slow(actor: Any, event: Event) -> None:
        gate.wait()
        seen.append(event.data)
        if has_gone_in and event.data[0] == 1:
            # When this handler waits, what waits for room goes in; only then its sender is killed.
            kill_handler(director, "join")
            gevent.sleep(0)

    director = Director()
    director.register_actor(EventJoin, "join", key="data", count=2)
    director.register_actor(Handler, "slow", slow, blocking_consume=True)
    director.connect_queue("join", "slow", capacity=1)
    with running(director):
        for number in range(3):
            director.post("join", number)
            director.post("join", number)
        wait_until(lambda: director.snapshot().actors["join"].waiting_puts == 1)
        if not has_gone_in:
            kill_handler(director, "join")
            wait_until(lambda: director.snapshot().actors["join"].restarts == 1)
        gate.set()
        wait_until(lambda: len(seen) == 3)
        wait_until(lambda: director.snapshot().balance.held == 0)
        wait_until(lambda: director.snapshot().actors["join"].restarts == 1)
    assert seen == [[number, number] for number in range(3)]
    assert not letters(director)


def test_groups_wait_on_over_a_restart_and_their_time_goes_on() -> None:
    with VirtualClock() as clock:
        director = Director()
    join = director.register_actor(EventJoin, "join", inboxes=["a", "b"], timeout_s=10.0)
    sink = director.register_actor(Collector, "sink")
    director.connect_queue("join", sink)
    director.start(block=False)
    director.post("join", Event(1, meta_id="x"), inbox="a")
    director.post("join", Event(9, meta_id="y"), inbox="a")
    wait_until(lambda: join.waiting == 2)
    director._supervisor.crashed(director._wiring.members["join"], "the test")
    clock.advance(5.0)
    assert director.snapshot().actors["join"].restarts == 1
    director.post("join", Event(2, meta_id="x"), inbox="b")
    wait_until(lambda: sink.data == [{"a": 1, "b": 2}])
    assert not letters(director)
    clock.advance(5.0)
    assert [letter.event.data for letter in letters(director)] == [9]
    with clock.jumping():
        director.stop()
    assert_conserved(director)


def test_a_stop_at_the_deadline_accounts_for_every_part() -> None:
    gate = Gate()
    director = Director()
    director.register_actor(EventJoin, "join", key="data", count=2)
    director.register_actor(Handler, "stuck", lambda actor, event: gate.wait(), blocking_consume=True)
    director.connect_queue("join", "stuck", capacity=1)
    director.start(block=False)
    for number in range(6):
        director.post("join", number)
        director.post("join", number)
    wait_until(lambda: director.snapshot().actors["join"].waiting_puts == 1)
    report = director.stop(timeout_s=0.05)
    assert report.exit_code == 1
    assert_conserved(director)


def test_groups_whose_time_ends_while_others_wait_for_room_go_behind_them_once_each() -> None:
    gate, seen = Gate(), []

    def slow(actor: Any, event: Event) -> None:
        gate.wait()
        seen.append(event.data)

    director = Director()
    director.register_actor(EventJoin, "join", key="data", count=2, timeout_s=0.02, on_timeout="partial")
    director.register_actor(Handler, "slow", slow, blocking_consume=True)
    director.connect_queue("join", "slow", capacity=1)
    with running(director):
        for number in range(6):
            director.post("join", number)
            gevent.sleep(0.004)  # their time ends at different moments
        wait_until(lambda: director.get_actor("join").waiting == 0)  # type: ignore[attr-defined]
        gate.set()
    assert seen == [[number] for number in range(6)]


def test_failed_parts_that_wait_for_room_hold_further_events_back() -> None:
    gate = Gate()
    director = Director(size=2)
    director.register_actor(EventJoin, "join", inboxes=["a", "b"], max_groups=1)
    director.register_actor(Handler, "slow", lambda actor, event: gate.wait(), blocking_consume=True)
    director.connect_queue_error("join", "slow", capacity=1)
    with running(director):

        def post_all() -> None:
            for number in range(12):
                director.post("join", number, inbox="a")

        posting = Pool(1).spawn(post_all)
        wait_until(lambda: director.snapshot().actors["join"].waiting_puts == 1)
        assert not posting.ready()
        assert director.get_actor("join").waiting == 1  # type: ignore[attr-defined]
        gate.set()
        posting.get(timeout=5)


def test_a_data_actor_in_each_branch_does_not_disturb_the_other() -> None:
    director, door = circle()
    price = director.register_actor(Data, "price", {"n": []}, key=None)
    director.connect_queue("fork", price)
    director.connect_queue(price, "join")
    with running(director):
        status, answer = get(door.port, "/x")
    assert (status, answer["price"]) == (200, {"n": []})
