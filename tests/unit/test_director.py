# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.director`: registering, asking, posting, looking. Stops and restarts are in `tests/fault`."""

import itertools
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, assert_type

import gevent
import pytest
from gevent import get_hub
from gevent._hub_local import get_hub_if_exists
from gevent.event import Event as Signal

from compysition import Actor, Director, Event, Outcome, StopFlow, StopReport
from compysition.errors import (
    ActorError,
    ActorNotFoundError,
    ConfigurationError,
    DeadlineError,
    DirectorStateError,
    DirectorStoppedError,
    EventNotOwnedError,
    ForbiddenError,
    HandlerTimeoutError,
    QueueFullError,
    UnavailableError,
    WrongContextError,
)
from compysition.hosting import HOST
from compysition.testing.clock import call_in_hub
from tests.unit.kernel import turn, wait_until

#: For waits that must not come to an end by themselves, in seconds.
LONG_S = 15.0


class Noting(Actor):
    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.noted: list[Any] = []

    def consume(self, event: Event) -> None:
        self.noted.append(event.data)


class Acting(Actor):
    """Does with its event whatever the test wants."""

    def __init__(self, name: str, action: Callable[[Actor, Event], object], **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.action = action

    def consume(self, event: Event) -> None:
        self.action(self, event)


class Running:
    """Directors that are stopped and even at the end."""

    def __init__(self) -> None:
        self.all: list[Director] = []

    def __call__(self, *actions: Callable[[Actor, Event], object], **options: Any) -> Director:
        """A Director, not yet started, with a line of actors a → b → … that do `actions`."""
        director = Director(stop_timeout_s=2.0, **options)
        self.all.append(director)
        names = "abcdef"[: len(actions)]
        for name, action in zip(names, actions, strict=True):
            director.register_actor(Acting, name, action)
        for source, destination in itertools.pairwise(names):
            director.connect_queue(source, destination)
        return director

    def close(self) -> None:
        for director in self.all:
            if director.is_running():
                director.stop()
            balance = director.snapshot().balance
            assert balance.is_even, str(balance)
            if director.last_report is not None:
                assert balance.held == 0, str(balance)


@pytest.fixture
def make() -> Iterator[Running]:
    running = Running()
    yield running
    running.close()


def forward(actor: Actor, event: Event) -> None:
    actor.send_event(event)


def finish(actor: Actor, event: Event) -> None:
    pass


def after(signal: Signal) -> Callable[[Actor, Event], None]:
    """Send the event on as soon as `signal` is set."""

    def wait_and_forward(actor: Actor, event: Event) -> None:
        signal.wait()
        actor.send_event(event)

    return wait_and_forward


def post_all(director: Director, actor: Actor, number: int) -> None:
    for data in range(number):
        director.post(actor, data)


class Asking:
    """An `ask` in a greenlet of its own."""

    def __init__(self, director: Director, actor: str, data: Any, timeout_s: float = LONG_S) -> None:
        self.error: BaseException | None = None
        self.answer: Event | None = None
        self._greenlet = gevent.spawn(self._run, director, actor, data, timeout_s)
        turn()

    def _run(self, director: Director, actor: str, data: Any, timeout_s: float) -> None:
        try:
            self.answer = director.ask(actor, data, timeout_s)
        except BaseException as error:
            self.error = error

    @property
    def is_over(self) -> bool:
        return self._greenlet.dead

    def join(self) -> "Asking":
        wait_until(lambda: self.is_over)
        return self


# ---- constructing ---------------------------------------------------------------------------------------------------


def test_constructing_registering_and_connecting_has_no_effect_outside_the_object() -> None:
    seen: list[object] = []
    before = (threading.active_count(), list(logging.getLogger("compysition").handlers))

    def run() -> None:
        director = Director()
        director.register_actor(Actor, "a")
        director.register_actor(Noting, "b")
        director.connect_queue("a", "b")
        director.post("a", 1)
        director.snapshot()
        seen.append(get_hub_if_exists())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [None]
    assert (threading.active_count(), logging.getLogger("compysition").handlers) == before


def test_size_is_the_capacity_of_every_queue_that_names_none(make: Running) -> None:
    director = make(forward, finish, size=7)
    director.post("a", 1)
    director.connect_queue("a", ("b", "other"), capacity=3)
    assert {key: queue.capacity for key, queue in director.snapshot().queues.items()} == {
        ("a", "b", "b", "a"): 7,
        ("a", "b", "b", "other"): 3,
        ("", "", "a", ""): 7,
    }
    with director:
        pass


@pytest.mark.parametrize("size", [0, -1, 1.5, "5"])
def test_size_has_to_be_a_number_of_events(size: Any) -> None:
    with pytest.raises(ConfigurationError, match="size is"):
        Director(size=size)


def test_default_capacity_is_500() -> None:
    director = Director()
    director.register_actor(Actor, "a")
    for number in range(500):
        director.post("a", number)
    with pytest.raises(QueueFullError, match=r"capacity 500.*was not started"):
        director.post("a", 500)


def test_repr_says_name_state_and_size() -> None:
    director = Director(name="orders")
    director.register_actor(Actor, "a")
    assert repr(director) == "<Director 'orders' new, 1 actors>"


# ---- registering and connecting -------------------------------------------------------------------------------------


def test_register_returns_the_instance_typed_as_its_class() -> None:
    director = Director()
    built = assert_type(director.register_actor(Noting, "a"), Noting)
    taken = assert_type(director.register_actor(Noting("b"), "b"), Noting)
    assert built.noted == taken.noted == []
    assert director.get_actor("a") is built
    assert director.get_actor("b") is taken


def test_unknown_actor_is_answered_with_a_suggestion() -> None:
    director = Director()
    director.register_actor(Actor, "stdout")
    with pytest.raises(ActorNotFoundError, match="did you mean 'stdout'"):
        director.get_actor("sdtout")


def test_old_name_of_connect_queue_error_works(make: Running) -> None:
    def fail(actor: Actor, event: Event) -> None:
        raise ValueError("no")

    director = make(fail)
    errors = director.register_actor(Noting, "errors")
    director.connect_error_queue("a", errors)
    with director:
        director.post("a", "bad")
    assert errors.noted == ["bad"]


def test_overflow_of_a_connection_is_honoured(make: Running) -> None:
    director = make(forward)
    sink = director.register_actor(Noting, "sink")
    director.connect_queue("a", sink, capacity=1, overflow="drop_newest")
    with director:
        sink.pause()
        for number in range(3):
            director.post("a", number)
        wait_until(lambda: director.snapshot().queues["a", "sink", "sink", "a"].dropped == 2)
        sink.resume()
    assert sink.noted == [0]
    assert director.snapshot().balance.ended[Outcome.DROPPED] == 2


def test_there_is_one_error_actor(make: Running) -> None:
    director = make(finish)
    director.register_error_actor(Noting, "errors")
    with pytest.raises(ConfigurationError, match="'errors' is the error actor already"):
        director.register_error_actor(Noting, "more")
    with pytest.raises(ActorNotFoundError):
        director.get_actor("more")


def test_error_actor_gets_failed_events_with_their_error(make: Running) -> None:
    def fail(actor: Actor, event: Event) -> None:
        raise ForbiddenError("not you")

    statuses: list[int] = []
    director = make(fail)
    director.register_error_actor(
        Acting, "errors", lambda actor, event: statuses.append(event.error.status if event.error else 0)
    )
    with director:
        director.post("a", "bad")
    assert statuses == [403]


# ---- running --------------------------------------------------------------------------------------------------------


def test_director_runs_from_start_to_stop(make: Running) -> None:
    director = make(finish)
    states = [(director.is_running(), director.snapshot().state)]
    assert director.start(block=False) is None
    states.append((director.is_running(), director.snapshot().state))
    report = director.stop()
    states.append((director.is_running(), director.snapshot().state))
    assert states == [(False, "new"), (True, "running"), (False, "stopped")]
    assert (report.ok, report.exit_code) == (True, 0)
    assert director.stop() is report
    assert director.last_report is report


def test_start_of_a_running_director_is_refused(make: Running) -> None:
    director = make(finish)
    with director, pytest.raises(DirectorStateError, match="'default' is running already"):
        director.start(block=False)


@pytest.mark.parametrize(
    "change",
    [
        lambda director: director.register_actor(Actor, "new"),
        lambda director: director.register_error_actor(Actor, "new"),
        lambda director: director.connect_queue("a", "b"),
        lambda director: director.connect_queue_error("a", "b"),
    ],
    ids=["register", "register error actor", "connect", "connect error"],
)
def test_running_director_is_not_changed(make: Running, change: Callable[[Director], object]) -> None:
    director = make(forward, finish)
    with director, pytest.raises(DirectorStateError, match=r"is running: .* before start"):
        change(director)


def test_several_directors_live_in_one_process(make: Running) -> None:
    directors = [make(forward), make(forward)]
    for director in directors:
        director.start(block=False)
    assert [director.ask("a", number).data for number, director in enumerate(directors)] == [0, 1]
    directors[0].stop()
    assert directors[1].ask("a", 2).data == 2


def test_start_under_a_host_returns_at_once_what_the_host_says(make: Running) -> None:
    started: list[Director] = []

    class Host:
        def start(self, director: Director) -> StopReport | None:
            started.append(director)
            return StopReport("hosted")

        def ready(self, director: Director) -> None:
            raise AssertionError

    director = make(finish)
    token = HOST.set(Host())
    try:
        report = director.start()
    finally:
        HOST.reset(token)
    assert report == StopReport("hosted")
    assert started == [director]
    assert not director.is_running()


def test_host_that_lets_a_start_go_on_is_told_when_all_are_ready(make: Running) -> None:
    states: list[str] = []

    class Host:
        def start(self, director: Director) -> StopReport | None:
            states.append(director.snapshot().state)
            return None

        def ready(self, director: Director) -> None:
            states.append(director.snapshot().state)

    director = make(finish)
    token = HOST.set(Host())
    try:
        director.start(block=False)
    finally:
        HOST.reset(token)
    assert states == ["new", "running"]


def test_doors_are_the_lines_of_actors_that_have_one(make: Running) -> None:
    class Door(Actor):
        def _door(self) -> str | None:
            return f"{self.name}: knock"

    director = make(finish)
    director.register_actor(Door, "front")
    assert director.doors() == ["front: knock"]


# ---- posting --------------------------------------------------------------------------------------------------------


def test_data_or_an_event_can_be_posted_to_an_actor_or_its_name(make: Running) -> None:
    director = make()
    sink = director.register_actor(Noting, "sink")
    with director:
        director.post("sink", 1)
        director.post(sink, Event(2))
        director.post(sink, None)
    assert sink.noted == [1, 2, None]


def test_inbox_of_a_posted_event_is_its_origin_queue(make: Running) -> None:
    class WithQueue(Actor):
        def consume(self, event: Event, origin: str = "?", origin_queue: str = "?") -> None:
            inboxes.append((origin, origin_queue))

    inboxes: list[tuple[str, str]] = []
    director = make()
    director.register_actor(WithQueue, "sink")
    with director:
        director.post("sink", 1, inbox="admin")
        director.post("sink", 2)
    assert sorted(inboxes) == [("", ""), ("", "admin")]


def test_events_posted_before_start_are_handled_when_it_comes(make: Running) -> None:
    director = make()
    sink = director.register_actor(Noting, "sink")
    for number in range(3):
        director.post(sink, number)
    assert director.snapshot().balance.held == 3
    with director:
        pass
    assert sink.noted == [0, 1, 2]


def test_event_cannot_be_posted_twice(make: Running) -> None:
    director = make(finish)
    event = Event()
    director.post("a", event)
    with pytest.raises(EventNotOwnedError, match="was already sent to 'a'"):
        director.post("a", event)
    with director:
        pass


def test_posting_to_nobody_is_refused(make: Running) -> None:
    director = make(finish)
    with director, pytest.raises(ActorNotFoundError, match="there is no actor 'b'"):
        director.post("b", 1)


def test_posting_to_a_stopped_director_is_refused(make: Running) -> None:
    director = make(finish)
    with director:
        pass
    with pytest.raises(DirectorStateError, match="is stopped: it takes no events"):
        director.post("a", 1)


def test_post_waits_for_room_like_any_sender(make: Running) -> None:
    director = make(size=2)
    sink = director.register_actor(Noting, "sink")
    with director:
        sink.pause()
        posting = gevent.spawn(post_all, director, sink, 5)
        wait_until(lambda: sink.inbox_depth == 3)
        turn()
        assert not posting.dead
        sink.resume()
        posting.join()
    assert sink.noted == [0, 1, 2, 3, 4]


def test_callback_of_the_hub_may_post_where_there_is_room(make: Running) -> None:
    director = make(size=1)
    sink = director.register_actor(Noting, "sink")
    with director:
        sink.pause()
        call_in_hub(lambda: director.post(sink, 1))
        with pytest.raises(QueueFullError, match="send from a greenlet"):
            call_in_hub(lambda: director.post(sink, 2))
        sink.resume()
    assert sink.noted == [1]


def test_event_posted_by_a_handler_is_born(make: Running) -> None:
    director = make(lambda actor, event: director.post("b", "made"), finish)
    with director:
        director.post("a", 1)
    balance = director.snapshot().balance
    assert (balance.accepted, balance.born) == (1, 1)


def test_event_in_a_hand_cannot_be_posted_to_another_director(make: Running) -> None:
    # It is counted here: there nobody would know of it.
    refused: list[BaseException] = []

    def post(actor: Actor, event: Event) -> None:
        try:
            other.post("a", event)
        except EventNotOwnedError as error:
            refused.append(error)

    director, other = make(post), make(finish)
    with director, other:
        other.get_actor("a").pause()
        director.post("a", 1)
        wait_until(lambda: director.snapshot().actors["a"].in_flight == 0 and not director.get_actor("a").inbox_depth)
        balances = [each.snapshot().balance for each in (director, other)]
        other.get_actor("a").resume()
    assert all(balance.is_even for balance in balances), str(balances)
    assert len(refused) == 1


# ---- asking ---------------------------------------------------------------------------------------------------------


def test_ask_returns_the_event_that_comes_to_the_end_of_the_flow(make: Running) -> None:
    def add(actor: Actor, event: Event) -> None:
        event.data += 1
        actor.send_event(event)

    director = make(add, add, add)
    with director:
        answer = director.ask("a", 1)
        assert answer.data == 4
        assert director.ask(director.get_actor("b"), Event(1)).data == 3
    assert director.snapshot().balance.ended[Outcome.ANSWERED] == 2


def test_ask_is_answered_by_stop_flow_with_what_the_event_holds(make: Running) -> None:
    def stop(actor: Actor, event: Event) -> None:
        event.data = "held"
        raise StopFlow

    director = make(stop, finish)
    with director:
        assert director.ask("a", 1).data == "held"


def test_ask_gets_the_last_event_a_handler_finished_with_where_none_was_sent(make: Running) -> None:
    def finish_with(actor: Actor, event: Event) -> None:
        event.data = "finished"

    director = make(forward, finish_with)
    with director:
        assert director.ask("a", 1).data == "finished"


def test_ask_is_answered_by_a_created_event(make: Running) -> None:
    director = make(lambda actor, event: actor.send_event(actor.create_event(data="made")), forward)
    with director:
        answer = director.ask("a", Event(1, meta_id="order-7"))
    assert (answer.data, answer.meta_id) == ("made", "order-7")


def test_ask_of_several_branches_takes_the_first_answer(make: Running) -> None:
    def sign(actor: Actor, event: Event) -> None:
        event.set("by", actor.name)
        actor.send_event(event)

    director = make(forward)
    for name in "xy":
        director.register_actor(Acting, name, sign)
        director.connect_queue("a", name)
    with director:
        assert director.ask("a", 1).get("by") == "x"
    balance = director.snapshot().balance
    assert (balance.ended[Outcome.ANSWERED], balance.ended[Outcome.DROPPED]) == (1, 1)


def test_ask_raises_the_error_of_its_event(make: Running) -> None:
    def fail(actor: Actor, event: Event) -> None:
        raise ForbiddenError("not you", headers={"X-Why": "7"})

    director = make(forward, fail)
    with director, pytest.raises(ForbiddenError, match="not you") as raised:
        director.ask("a", 1)
    assert dict(raised.value.headers) == {"X-Why": "7"}
    [note] = raised.value.__notes__
    assert "'b'" in note
    assert "in fail" in note


def test_ask_raises_the_error_of_an_event_that_took_an_error_connection(make: Running) -> None:
    def fail(actor: Actor, event: Event) -> None:
        raise ForbiddenError("not you")

    director = make(fail)
    for name, action in (("sending", forward), ("finishing", finish)):
        director.register_actor(Acting, name, action)
    director.connect_queue_error("a", "finishing")
    with director, pytest.raises(ForbiddenError, match="not you"):
        director.ask("a", 1)


def test_error_handler_that_mends_the_event_answers(make: Running) -> None:
    def fail(actor: Actor, event: Event) -> None:
        raise ForbiddenError("not you")

    def mend(actor: Actor, event: Event) -> None:
        event.error, event.data = None, "mended"
        actor.send_event(event)

    director = make(fail)
    director.register_actor(Acting, "errors", mend)
    director.connect_queue_error("a", "errors")
    with director:
        assert director.ask("a", 1).data == "mended"


def test_ask_raises_a_stand_in_for_an_error_that_cannot_be_built_again(make: Running) -> None:
    class TwoWordsError(Exception):
        def __init__(self, first: str, second: str) -> None:
            super().__init__(f"{first} {second}")

    def fail(actor: Actor, event: Event) -> None:
        raise TwoWordsError("no", "good")

    director = make(fail)
    with director, pytest.raises(ActorError, match="TwoWordsError: no good"):
        director.ask("a", 1)


def test_ask_without_an_answer_in_time_raises_and_the_late_answer_expires(make: Running) -> None:
    signal = Signal()
    director = make(after(signal))
    with director:
        with pytest.raises(DeadlineError, match=r"'a' was asked and there was no answer within 0\.01 s"):
            director.ask("a", 1, timeout_s=0.01)
        signal.set()
    assert director.snapshot().balance.ended[Outcome.EXPIRED] == 1


def test_event_of_an_ask_whose_time_is_over_is_not_handled(make: Running) -> None:
    director = make()
    sink = director.register_actor(Noting, "sink")
    with director:
        sink.pause()
        with pytest.raises(DeadlineError):
            director.ask(sink, "overdue", timeout_s=0.01)
        sink.resume()
    assert sink.noted == []
    assert director.snapshot().balance.ended[Outcome.EXPIRED] == 1


def test_ask_whose_event_was_dropped_says_so(make: Running) -> None:
    director = make(forward)
    sink = director.register_actor(Noting, "sink")
    director.connect_queue("a", sink, capacity=1, overflow="drop_newest")
    with director:
        sink.pause()
        director.post("a", "in the way")
        wait_until(lambda: sink.inbox_depth == 1)
        with pytest.raises(UnavailableError, match="dropped by overflow policies"):
            director.ask("a", 1)
        sink.resume()


def test_ask_that_is_left_before_its_answer_has_nobody_waiting(make: Running) -> None:
    signal = Signal()
    director = make(after(signal))
    with director:
        with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
            director.ask("a", 1)
        assert len(director.deadlines) == 0
        signal.set()
    balance = director.snapshot().balance
    assert (balance.ended[Outcome.ANSWERED], balance.ended[Outcome.EXPIRED]) == (0, 1)


def test_refused_ask_harms_nobody_who_waits_for_that_event(make: Running) -> None:
    signal = Signal()
    director = make(after(signal))
    with director:
        event = Event(1)
        first = Asking(director, "a", event)
        with pytest.raises(EventNotOwnedError):
            director.ask("a", event)
        assert len(director.deadlines) == 1
        turn()
        assert not first.is_over
        signal.set()
        assert first.join().answer is event


def test_handler_may_ask(make: Running) -> None:
    def ask(actor: Actor, event: Event) -> None:
        event.data = director.ask("b", "question").data
        actor.send_event(event)

    def reply(actor: Actor, event: Event) -> None:
        event.data = f"answer to {event.data}"
        actor.send_event(event)

    director = make(ask)
    director.register_actor(Acting, "b", reply)
    with director:
        assert director.ask("a", 1).data == "answer to question"


def test_handler_that_asks_with_the_event_in_its_hand_does_not_end_the_wait_for_it(make: Running) -> None:
    def ask(actor: Actor, event: Event) -> None:
        actor.send_event(director.ask("b", event).copy())

    def reply(actor: Actor, event: Event) -> None:
        event.data = "answered"
        actor.send_event(event)

    director = make(ask)
    director.register_actor(Acting, "b", reply)
    with director:
        assert director.ask("a", 1).data == "answered"


def test_ask_ends_when_the_director_stops(make: Running) -> None:
    def keep_open(actor: Actor, event: Event) -> None:
        vars(actor)["later"] = actor.create_event("never sent")

    director = make(keep_open)
    director.start(block=False)
    asking = Asking(director, "a", 1)
    assert not asking.is_over
    director.stop()
    assert isinstance(asking.join().error, DirectorStoppedError | DeadlineError)


@pytest.mark.parametrize("is_stopped", [True, False])
def test_ask_needs_a_running_director(make: Running, is_stopped: bool) -> None:
    director = make(finish)
    if is_stopped:
        with director:
            pass
    with pytest.raises(DirectorStateError, match="ask needs it running"):
        director.ask("a", 1)


def test_callback_of_the_hub_cannot_ask(make: Running) -> None:
    director = make(finish)
    with director, pytest.raises(WrongContextError, match="callback of the event loop"):
        call_in_hub(lambda: director.ask("a", 1))


# ---- other threads and processes ------------------------------------------------------------------------------------


def in_thread(function: Callable[[], object]) -> BaseException | None:
    """What `function` raises in another thread, while the hub of this one turns."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: not thread.is_alive())
    thread.join()
    return errors[0] if errors else None


def test_other_thread_may_post_look_and_ask_for_a_stop(make: Running) -> None:
    director = make()
    sink = director.register_actor(Noting, "sink")
    director.start(block=False)
    assert in_thread(lambda: post_all(director, sink, 3)) is None
    assert in_thread(lambda: director.snapshot().balance.is_even) is None
    assert in_thread(lambda: director.request_stop("because")) is None
    assert director.block().reason == "because"
    assert sink.noted == [0, 1, 2]


def test_other_thread_that_posts_waits_for_room(make: Running) -> None:
    director = make(size=1)
    sink = director.register_actor(Noting, "sink")
    with director:
        sink.pause()
        thread = threading.Thread(target=post_all, args=(director, sink, 4))
        thread.start()
        wait_until(lambda: sink.inbox_depth == 2)
        assert thread.is_alive()
        sink.resume()
        wait_until(lambda: not thread.is_alive())
        thread.join()
    assert sink.noted == [0, 1, 2, 3]


def test_error_of_a_post_is_raised_in_the_thread_that_posts(make: Running) -> None:
    director = make(finish)
    event = Event()
    with director:
        assert isinstance(in_thread(lambda: director.post("b", 1)), ActorNotFoundError)
        director.get_actor("a").pause()
        director.post("a", event)
        assert isinstance(in_thread(lambda: director.post("a", event)), EventNotOwnedError)
        director.get_actor("a").resume()


@pytest.mark.parametrize("call", ["stop", "block", "ask"])
def test_other_thread_cannot_wait_for_the_director(make: Running, call: str) -> None:
    director = make(finish)
    calls: dict[str, Callable[[], object]] = {
        "stop": director.stop,
        "block": director.block,
        "ask": lambda: director.ask("a", 1),
    }
    with director:
        error = in_thread(calls[call])
    assert isinstance(error, WrongContextError)
    assert "in the thread that started the Director" in str(error)


@pytest.mark.parametrize("call", ["post", "ask", "stop", "start"])
def test_director_refuses_to_run_in_a_forked_child(make: Running, call: str) -> None:
    director = make(finish)
    calls: dict[str, Callable[[], object]] = {
        "post": lambda: director.post("a", 1),
        "ask": lambda: director.ask("a", 1),
        "stop": director.stop,
        "start": lambda: director.start(block=False),
    }
    with director:
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            # Newer interpreters warn of the loop guard's thread; the child takes no lock.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:  # pragma: no cover - coverage does not follow
            text = "nothing was raised"
            try:
                calls[call]()
            except (WrongContextError, DirectorStateError) as error:
                text = str(error)
            finally:
                os.write(writing, text.encode())
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as answer:
            text = answer.read().decode()
        os.waitpid(pid, 0)
    assert text in (
        "Director 'default' was started in another process: make one after the fork",
        "Director 'default' is running already",
    )


# ---- offload --------------------------------------------------------------------------------------------------------


def test_offloaded_function_runs_on_another_thread_and_the_hub_goes_on(make: Running) -> None:
    may_end = threading.Event()
    seen: list[object] = []

    def work(number: int) -> int:
        seen.append(threading.get_ident())
        may_end.wait(LONG_S)
        return number * 2

    def offload(actor: Actor, event: Event) -> None:
        event.data = actor.offload(work, event.data)
        actor.send_event(event)

    director = make(offload)
    with director:
        asking = Asking(director, "a", 21)
        wait_until(lambda: seen)
        assert seen != [threading.get_ident()]
        may_end.set()
        answer = asking.join().answer
    assert answer is not None
    assert answer.data == 42


def test_error_of_an_offloaded_function_is_raised_where_it_was_called(make: Running) -> None:
    def fail() -> None:
        raise ForbiddenError("not you")

    director = make(lambda actor, event: actor.offload(fail))
    with director, pytest.raises(ForbiddenError, match="not you"):
        director.ask("a", 1)


def test_offloaded_function_that_takes_too_long_is_left_alone(make: Running) -> None:
    may_end = threading.Event()
    director = make(lambda actor, event: actor.offload(may_end.wait, LONG_S, timeout_s=0.01))
    with director:
        with pytest.raises(HandlerTimeoutError, match=r"took longer than 0\.01 s on its thread"):
            director.ask("a", 1)
        may_end.set()


def test_timeout_of_the_caller_is_not_mistaken_for_that_of_offload(make: Running) -> None:
    may_end = threading.Event()

    def offload(actor: Actor, event: Event) -> None:
        try:
            with gevent.Timeout(0.01):
                actor.offload(may_end.wait, LONG_S, timeout_s=LONG_S)
        except gevent.Timeout:
            event.data = "my own"
        actor.send_event(event)

    director = make(offload)
    with director:
        answer = director.ask("a", 1)
        may_end.set()
    assert answer.data == "my own"


def test_offload_needs_a_running_director(make: Running) -> None:
    director = make(finish)
    with pytest.raises(DirectorStateError, match="offload needs it running"):
        director.get_actor("a").offload(int)


# ---- looking --------------------------------------------------------------------------------------------------------


def test_snapshot_shows_every_actor_and_every_connection(make: Running) -> None:
    def fail_on_none(actor: Actor, event: Event) -> None:
        if event.data is None:
            raise ValueError("no")
        actor.send_event(event)

    director = make(forward, fail_on_none, finish)
    director.connect_queue_error("b", "c")
    with director:
        for data in (1, 2, None):
            director.post("a", data)
        wait_until(lambda: director.snapshot().actors["c"].received == 3)
        snapshot = director.snapshot()
    assert snapshot.state == "running"
    assert {name: (each.received, each.sent, each.failed) for name, each in snapshot.actors.items()} == {
        "a": (3, 3, 0),
        "b": (3, 3, 1),
        "c": (3, 0, 0),
    }
    assert set(snapshot.queues) == {
        ("", "", "a", ""),
        ("a", "b", "b", "a"),
        ("b", "c", "c", "b"),
        ("b", "error:c", "c", "b"),
    }
    assert {each.state for each in snapshot.actors.values()} == {"running"}
    assert (snapshot.balance.accepted, snapshot.balance.held) == (3, 0)
    assert snapshot.balance.is_even


def test_balance_counts_what_handlers_have_in_hand(make: Running) -> None:
    signal = Signal()
    director = make(lambda actor, event: signal.wait())
    with director:
        for number in range(3):
            director.post("a", number)
        wait_until(lambda: director.snapshot().actors["a"].in_flight == 3)
        balance = director.snapshot().balance
        assert (balance.accepted, balance.held, balance.is_even) == (3, 3, True)
        signal.set()


def test_dead_letters_tell_where_why_and_after_how_many_attempts(make: Running) -> None:
    def fail(actor: Actor, event: Event) -> None:
        raise ForbiddenError("not you")

    director = make(forward, fail)
    with director:
        director.post("a", "bad")
    [letter] = director.dead_letters
    assert (letter.event.data, letter.actor, letter.inbox, letter.reason, letter.attempts) == (
        "bad",
        "b",
        "a",
        "failed",
        0,
    )
    assert letter.error is not None
    assert letter.error.text == "not you"


def test_log_actor_gets_records_as_plain_data_counted_apart(make: Running) -> None:
    director = make(lambda actor, event: actor.logger.warning("seen %s", event.data))
    logs = director.register_log_actor(Noting, "logs")
    with director:
        director.post("a", 7)
    records = [record for record in logs.noted if record["actor"] == "a"]
    assert [(record["level"], record["message"]) for record in records] == [("WARNING", "seen 7")]
    snapshot = director.snapshot()
    assert snapshot.logs.is_even
    assert snapshot.logs.accepted == len(logs.noted)
    assert snapshot.balance.accepted == 1
    assert not [each for each in logging.getLogger("compysition").handlers if type(each).__name__ == "LogBridge"]


def test_stacks_show_handlers_and_background_greenlets_by_actor(make: Running) -> None:
    signal = Signal()

    def wait_here(actor: Actor, event: Event) -> None:
        signal.wait()

    director = make(wait_here)

    def watch_the_door() -> None:
        signal.wait()

    director.get_actor("a").background(watch_the_door)
    with director:
        director.post("a", 1)
        wait_until(lambda: director.snapshot().actors["a"].in_flight)
        text = director.stacks()
        signal.set()
    assert "'a', event " in text
    assert "in wait_here" in text
    assert "in watch_the_door" in text


def test_nothing_of_a_stopped_director_keeps_the_hub_busy(make: Running) -> None:
    turn()
    before = get_hub().loop.activecnt
    director = make(forward, finish)
    with director:
        director.ask("a", 1)
    turn()
    assert get_hub().loop.activecnt == before
