# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.actors.eventjoin`; what happens under kills and stops is in `tests/fault/test_eventjoin.py`."""

from typing import Any

import pytest
from gevent.pool import Pool

from compysition import Director, Event
from compysition.actors import Data, EventJoin, FlowController
from compysition.errors import (
    ConfigurationError,
    DeadlineError,
    StartError,
)
from compysition.ledger import Outcome
from compysition.testing import VirtualClock
from tests.fault.conservation import Collector, assert_conserved, letters, wait_until
from tests.unit.kernel import Flow, turn


class Joined:
    """A join with a sink and an error sink behind it, in a time that is moved by hand."""

    def __init__(self, flow: Flow, clock: VirtualClock, **kwargs: Any) -> None:
        self.flow, self.clock = flow, clock
        kwargs = {"timeout_s": 5.0, **({} if "count" in kwargs else {"inboxes": ["a", "b"]}), **kwargs}
        self.join: EventJoin = flow.add(EventJoin, "join", **kwargs)
        self.sink: Collector = flow.add(Collector, "sink")
        self.errors: Collector = flow.add(Collector, "errors")
        flow.connect("join", "sink")
        flow.connect("join", "errors", is_error=True)
        flow.start()
        self.join.pre_hook()

    def give(self, inbox: str, data: Any, **attributes: Any) -> Event:
        event = data if isinstance(data, Event) else Event(data, **attributes)
        return self.flow.run("join", event, inbox)

    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)
        turn()
        self.flow.kernel.run()

    @property
    def failures(self) -> list[tuple[Any, str]]:
        return [(event.data, str(event.error)) for event in self.errors.events]

    @property
    def kept(self) -> int:
        return len(self.join._wired.kept.events)

    @property
    def is_paused(self) -> bool:
        return bool(self.join._wired.shut)


@pytest.fixture
def make(timeless_flow: Flow, clock: VirtualClock) -> Any:
    return lambda **kwargs: Joined(timeless_flow, clock, **kwargs)


# ---- what is joined ---------------------------------------------------------------------------------------------


def test_a_group_is_whole_when_each_inbox_has_brought_an_event(make: Any) -> None:
    joined = make()
    joined.give("b", 2, meta_id="m")
    assert (joined.sink.data, joined.kept, joined.join.waiting) == ([], 1, 1)
    joined.give("a", 1, meta_id="m")
    assert joined.sink.data == [{"a": 1, "b": 2}]
    assert list(joined.sink.data[0]) == ["a", "b"], "in the order of the inboxes"
    assert (joined.kept, joined.join.waiting) == (0, 0)
    assert joined.sink.events[0].meta_id == "m"


def test_a_count_joins_what_comes_in_the_order_of_arrival(make: Any) -> None:
    joined = make(count=3)
    for number in range(7):
        joined.give("a", number, meta_id="m")
    assert joined.sink.data == [[0, 1, 2], [3, 4, 5]]
    assert joined.kept == 1


def test_a_count_may_be_told_by_the_first_event_of_a_group(make: Any) -> None:
    joined = make(count="parts")
    for number, (meta_id, parts) in enumerate([("x", 2), ("y", 1), ("z", 3), ("x", 2), ("z", 3), ("z", 3)]):
        joined.give("", number, meta_id=meta_id, parts=parts)
    assert joined.sink.data == [[1], [0, 3], [2, 4, 5]]


@pytest.mark.parametrize("parts", [None, 0, "2", 1.5, True])
def test_a_count_that_is_no_number_fails_the_event(make: Any, parts: Any) -> None:
    joined = make(count="data.parts")
    joined.give("", {"parts": parts})
    ((_, failure),) = joined.failures
    assert failure == (
        f"UnprocessableError: 'join' counts to what 'data.parts' says, which is {parts!r}: wanted is a number from 1 on"
    )


def test_events_with_different_keys_do_not_meet(make: Any) -> None:
    joined = make()
    for inbox, data, meta_id in [("a", 1, "x"), ("b", 20, "y"), ("a", 10, "y"), ("b", 2, "x")]:
        joined.give(inbox, data, meta_id=meta_id)
    assert joined.sink.data == [{"a": 10, "b": 20}, {"a": 1, "b": 2}]


@pytest.mark.parametrize("key", ["data.id", lambda event: event.data["id"]])
def test_a_key_is_a_path_or_a_function(make: Any, key: Any) -> None:
    joined = make(key=key)
    joined.give("a", {"id": (7, 8)})
    joined.give("b", {"id": (7, 8), "more": 1})
    assert joined.sink.data == [{"a": {"id": (7, 8)}, "b": {"id": (7, 8), "more": 1}}]


def test_the_joined_event_has_all_attributes_and_a_later_inboxs_win(make: Any) -> None:
    joined = make()
    joined.give("b", 2, meta_id="m", only_b=1, both="b")
    joined.give("a", 1, meta_id="m", only_a=1, both="a")
    assert joined.sink.events[0].__dict__ == {"only_a": 1, "only_b": 1, "both": "b"}


def test_an_error_that_a_part_carries_is_carried_on(make: Any) -> None:
    joined = make()
    failed = Event(1, meta_id="m")
    failed.error = "anything"  # type: ignore[assignment]
    joined.give("a", failed)
    joined.give("b", 2, meta_id="m")
    assert joined.sink.events[0].error == "anything"


def test_what_comes_after_a_group_is_over_begins_a_new_one(make: Any) -> None:
    joined = make()
    for inbox, data in [("a", 1), ("b", 2), ("a", 3)]:
        joined.give(inbox, data, meta_id="m")
    assert len(joined.sink.data) == 1
    joined.give("b", 4, meta_id="m")
    assert joined.sink.data[1] == {"a": 3, "b": 4}


def test_parts_end_as_delivered(make: Any) -> None:
    joined = make()
    joined.give("a", 1, meta_id="m")
    joined.give("b", 2, meta_id="m")
    balance = joined.flow.kernel.balance()
    assert balance.is_even
    assert (balance.accepted, balance.born, balance.held) == (2, 1, 0)
    assert balance.ended[Outcome.DELIVERED] == 3


# ---- what does not fit ------------------------------------------------------------------------------------------


def test_a_second_event_from_the_same_inbox_fails_and_the_group_waits_on(make: Any) -> None:
    joined = make()
    joined.give("a", 1, meta_id="m")
    joined.give("a", "again", meta_id="m")
    assert joined.failures == [("again", "ConflictError: 'join' has an event of this group from 'a' already")]
    joined.give("b", 2, meta_id="m")
    assert joined.sink.data == [{"a": 1, "b": 2}]


@pytest.mark.parametrize("data", [{}, {"id": None}, "text", None])
def test_an_event_without_a_key_fails_by_name(make: Any, data: Any) -> None:
    joined = make(key="data.id")
    joined.give("a", data)
    assert joined.failures == [
        (data, "UnprocessableError: 'join' joins by 'data.id', and this event has nothing there")
    ]
    assert joined.kept == 0


def test_a_key_that_cannot_be_hashed_fails_the_event_by_name(make: Any) -> None:
    joined = make(key="data.id")
    joined.give("a", {"id": [7]})
    ((_, failure),) = joined.failures
    assert failure.startswith("UnprocessableError: 'join' cannot join by a list: wanted is a key that can be hashed")


def test_a_key_function_that_raises_fails_the_event(make: Any) -> None:
    joined = make(key=lambda event: event.data["id"])
    joined.give("a", {})
    assert joined.failures == [({}, "KeyError: 'id'")]


def test_an_event_by_another_inbox_fails_by_name(make: Any) -> None:
    joined = make()
    joined.give("c", 1)
    assert joined.failures == [(1, "ConfigurationError: 'join' joins 'a' and 'b'; this event came by 'c'")]


# ---- a partner that never comes ---------------------------------------------------------------------------------


def test_a_group_whose_time_is_over_fails_by_name_and_says_what_it_waited_for(make: Any) -> None:
    joined = make()
    joined.give("a", 1)
    joined.wait(4.9)
    assert joined.failures == []
    joined.wait(0.2)
    assert joined.failures == [(1, "DeadlineError: 'join' has waited 5 s for 'b'")]
    assert joined.errors.events[0].error is not None
    assert (joined.errors.events[0].error.status, joined.kept, joined.sink.data) == (504, 0, [])


def test_each_group_has_its_own_time(make: Any) -> None:
    joined = make(inboxes=["a", "b", "c"])
    joined.give("a", 1, meta_id="x")
    joined.wait(3)
    joined.give("a", 2, meta_id="y")
    joined.give("b", 3, meta_id="y")
    joined.wait(2)
    assert [data for data, _ in joined.failures] == [1]
    joined.give("a", 4, meta_id="z")
    joined.wait(3)
    assert [data for data, _ in joined.failures] == [1, 2, 3]
    assert joined.failures[1][1] == "DeadlineError: 'join' has waited 5 s for 'c'"
    joined.wait(2)
    assert joined.failures[3] == (4, "DeadlineError: 'join' has waited 5 s for 'b' and 'c'")


def test_a_timer_set_for_a_group_that_became_whole_looks_after_the_next_one(make: Any) -> None:
    joined = make()
    joined.give("a", 1, meta_id="x")
    joined.wait(1)
    joined.give("a", 2, meta_id="y")
    joined.give("b", 2, meta_id="x")
    joined.wait(4.5)
    assert joined.failures == []
    joined.wait(0.5)
    assert [data for data, _ in joined.failures] == [2]


@pytest.mark.parametrize(("count", "data", "missing"), [(None, {"a": 1}, ["b"]), (3, [1], 2)])
def test_a_partial_group_goes_on_and_says_what_is_missing(make: Any, count: Any, data: Any, missing: Any) -> None:
    joined = make(on_timeout="partial", **({"count": count} if count else {}))
    joined.give("a", 1)
    joined.wait(5)
    assert joined.sink.data == [data]
    assert joined.sink.events[0].get("missing") == missing
    assert (joined.failures, joined.kept) == ([], 0)


def test_a_whole_group_has_nothing_missing(make: Any) -> None:
    joined = make(on_timeout="partial")
    joined.give("a", 1, meta_id="m")
    joined.give("b", 1, meta_id="m")
    assert joined.sink.events[0].get("missing") is None


# ---- the bound --------------------------------------------------------------------------------------------------


def test_over_the_bound_the_oldest_group_fails_by_name(make: Any) -> None:
    joined = make(max_groups=2, on_timeout="partial")
    for number in range(4):
        joined.give("a", number)
    assert [data for data, _ in joined.failures] == [0, 1]
    assert joined.failures[0][1] == (
        "UnavailableError: 'join' keeps 2 groups and this was the oldest; it waited for 'b'"
    )
    assert joined.errors.events[0].error is not None
    assert (joined.errors.events[0].error.status, joined.join.waiting, joined.sink.data) == (503, 2, [])


def test_at_the_bound_wait_takes_nothing_more_until_a_group_is_over(make: Any) -> None:
    joined = make(max_groups=2, on_full="wait")
    joined.give("a", 1)
    assert not joined.is_paused
    joined.give("a", 2)
    assert joined.is_paused
    joined.give("a", 3)
    assert (joined.join.waiting, joined.join.inbox_depth) == (2, 1)
    joined.wait(5)
    assert [data for data, _ in joined.failures] == [1, 2]
    assert (joined.join.waiting, joined.join.inbox_depth, joined.is_paused) == (1, 0, False)


def test_what_makes_a_group_whole_makes_room(make: Any) -> None:
    joined = make(max_groups=1, on_full="fail_oldest")
    for number in range(10):
        joined.give("a", number, meta_id=str(number))
        joined.give("b", number, meta_id=str(number))
    assert len(joined.sink.data) == 10
    assert joined.failures == []


# ---- requests ---------------------------------------------------------------------------------------------------


def forked(**kwargs: Any) -> Director:
    """Two branches that a join makes one of."""
    director = Director()
    fork = director.register_actor(FlowController, "fork")
    price = director.register_actor(Data, "price", 12, key="price")
    stock = director.register_actor(Data, "stock", 3, key="stock")
    join = director.register_actor(EventJoin, "join", **kwargs)
    director.connect_queue(fork, [price, stock])
    director.connect_queue(price, join)
    director.connect_queue(stock, join)
    return director


def test_the_branches_of_a_fork_become_one_answer() -> None:
    director = forked()
    with director:
        answers = [director.ask("fork", {"id": number}).data for number in range(20)]
    assert answers == [
        {"price": {"id": number, "price": 12}, "stock": {"id": number, "stock": 3}} for number in range(20)
    ]
    assert not letters(director)
    assert_conserved(director)


def test_two_requests_with_the_same_key_do_not_mix() -> None:
    """A client may choose the id of its request, and with it the `meta_id`."""
    director = forked()
    with director:
        pool = Pool(10)
        answers = pool.map(lambda n: director.ask("fork", Event({"id": n}, meta_id="chosen")).data, range(50))
    for number, answer in enumerate(answers):
        assert {part["id"] for part in answer.values()} == {number}
    assert_conserved(director)


def test_across_requests_joins_by_the_key_alone() -> None:
    director = Director()
    director.register_actor(EventJoin, "join", key="data", count=2, across_requests=True)
    with director:
        director.post("join", "x")
        assert director.ask("join", "x").data == ["x", "x"]
    assert_conserved(director)


def test_a_request_whose_partner_never_comes_gets_its_failure() -> None:
    director = Director()
    director.register_actor(EventJoin, "join", count=2, timeout_s=0.01)
    with director, pytest.raises(DeadlineError, match=r"'join' has waited 0\.01 s for 1 more"):
        director.ask("join", 1)
    assert_conserved(director)


def test_events_that_nobody_waits_for_any_more_end_as_expired() -> None:
    director = Director()
    director.register_actor(EventJoin, "join", count=2, timeout_s=0.05)
    with director:
        with pytest.raises(DeadlineError):
            director.ask("join", 1, timeout_s=0.01)
        wait_until(lambda: director.snapshot().balance.held == 0)
    assert director.snapshot().balance.ended[Outcome.EXPIRED] == 1
    assert not letters(director)
    assert_conserved(director)


def test_a_joined_event_that_cannot_be_copied_fails_its_parts_by_name() -> None:
    class Uncopyable:
        def __deepcopy__(self, memo: Any) -> Any:
            raise ValueError("one of a kind")

    director = Director()
    director.register_actor(EventJoin, "join", count=2, key="service")
    sinks = [director.register_actor(Collector, name) for name in ("one", "two")]
    director.connect_queue("join", sinks)
    with director:
        for data in (Uncopyable(), 1, 2, 3):
            director.post("join", data)
    assert [letter.error.text for letter in letters(director) if letter.error] == ["one of a kind"] * 2
    assert [sink.data for sink in sinks] == [[[2, 3]], [[2, 3]]]
    assert_conserved(director)


def test_parts_that_cannot_take_their_error_outboxes_become_dead_letters() -> None:
    class Uncopyable:
        def __deepcopy__(self, memo: Any) -> Any:
            raise ValueError("one of a kind")

    director = Director()
    director.register_actor(EventJoin, "join", count=2)
    for name in ("one", "two"):
        director.connect_queue_error("join", director.register_actor(Collector, name))
    with director:
        director.post("join", Uncopyable())
    (letter,) = letters(director)
    assert letter.error is not None
    assert (letter.actor, letter.reason, letter.error.status) == ("join", "failed", 503)
    assert_conserved(director)


# ---- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"key": ""}, "key of 'join' is '': wanted is a path"),
        ({"key": 7}, "key of 'join' is 7: wanted is a path"),
        ({"inboxes": ["a"]}, r"inboxes of 'join' is \['a'\]: wanted is a list of names of inboxes, at least two"),
        ({"inboxes": ["a", "a"]}, "inboxes of 'join' is"),
        ({"inboxes": "ab"}, "inboxes of 'join' is 'ab'"),
        ({"count": 1}, "count of 'join' is 1: wanted is a whole number, 2 or more, or the path of one"),
        ({"count": True}, "count of 'join' is True"),
        ({"count": 2, "inboxes": ["a", "b"]}, "'join' is given inboxes= and count=: leave one out"),
        ({"timeout_s": 0}, "timeout_s of 'join' is 0: wanted is a number of seconds above 0"),
        ({"timeout_s": None}, "timeout_s of 'join' is None"),
        ({"on_timeout": "drop"}, "on_timeout of 'join' is 'drop': wanted is one of 'fail', 'partial'"),
        ({"max_groups": 0}, "max_groups of 'join' is 0"),
        ({"on_full": "purge"}, "on_full of 'join' is 'purge': wanted is one of 'fail_oldest', 'wait'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Director().register_actor(EventJoin, "join", **arguments)


@pytest.mark.parametrize(
    ("sources", "inboxes", "message"),
    [
        ([], None, "'join' joins what its inboxes bring, and none is connected: connect two or more, or give count="),
        (["one"], None, "and only 'one' is connected: connect two or more, or give count="),
        (["one", "two"], ["one", "too"], "'join' joins an inbox 'too', which it does not have; did you mean 'two'?"),
    ],
)
def test_inboxes_that_are_not_there_stop_the_start(sources: list[str], inboxes: Any, message: str) -> None:
    director = Director()
    director.register_actor(EventJoin, "join", inboxes=inboxes)
    for name in sources:
        director.connect_queue(director.register_actor(FlowController, name), "join")
    with pytest.raises(StartError) as caught:
        director.start(block=False)
    assert message in str(caught.value)
    assert_conserved(director)


def test_it_handles_one_event_at_a_time() -> None:
    assert Director().register_actor(EventJoin, "join")._wired.concurrency == 1
