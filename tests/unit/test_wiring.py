# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.wiring`: who is there, which queue leads where, and words that help."""

from collections.abc import Callable
from typing import Any

import pytest

from compysition.actor import Actor
from compysition.errors import (
    ActorNotFoundError,
    CompysitionError,
    ConfigurationError,
    ConnectionTypeError,
    ForbiddenError,
    OutboxNotFoundError,
    QueueConnectedError,
    RegistrationError,
    StylesheetError,
)
from compysition.event import Event
from compysition.ledger import Ledger
from compysition.queue import Overflow, Queue
from compysition.restartlet import RestartPool
from compysition.wiring import Wiring, check_capacity
from tests.unit.kernel import Flow, Kernel


class Noting(Actor):
    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.noted: list[Any] = []

    def consume(self, event: Event) -> None:
        self.noted.append(event.data)


class Failing(Actor):
    def consume(self, event: Event) -> None:
        raise ForbiddenError("no")


def connections(flow: Flow, name: str = "a") -> list[tuple[str, str, str]]:
    """(outbox, destination, inbox) of each connection that begins at an actor."""
    return [key(queue) for queues in flow.member(name).cell.outboxes.values() for queue in queues]


def error_connections(flow: Flow, name: str = "a") -> list[tuple[str, str, str]]:
    return [key(queue) for queues in flow.member(name).cell.error_outboxes.values() for queue in queues]


def key(queue: Queue) -> tuple[str, str, str]:
    return queue.outbox, queue.cell.name, queue.inbox


@pytest.fixture
def three(flow: Flow) -> Flow:
    """Actors a, b and c, not connected."""
    for name in "abc":
        flow.add(Noting, name)
    return flow


# ---- registering ----------------------------------------------------------------------------------------------------


def test_class_is_built_and_an_instance_is_taken(flow: Flow) -> None:
    instance = Noting("b")
    assert type(flow.add(Noting, "a")) is Noting
    assert flow.add(instance, "b") is instance
    assert list(flow.wiring.members) == ["a", "b"]


@pytest.mark.parametrize("name", ["", None, 5, ["a"], b"a"], ids=repr)
def test_name_has_to_be_text(flow: Flow, name: Any) -> None:
    with pytest.raises(RegistrationError, match="name has to be text that is not empty"):
        flow.add(Noting, name)


def test_name_cannot_be_used_twice(flow: Flow) -> None:
    first = flow.add(Noting)
    with pytest.raises(RegistrationError, match="'a' is taken by a Noting already: give each actor its own name"):
        flow.add(Actor)
    assert flow.member().actor is first


def test_instance_carries_the_name_it_is_registered_under(flow: Flow) -> None:
    with pytest.raises(RegistrationError, match="is called 'x' and cannot be registered as 'a'"):
        flow.add(Noting("x"))


def test_instance_takes_no_further_arguments(flow: Flow) -> None:
    with pytest.raises(RegistrationError, match="arguments belong to its constructor"):
        flow.add(Noting("a"), "a", 5)
    with pytest.raises(RegistrationError, match="arguments belong to its constructor"):
        flow.add(Noting("a"), "a", blocking_consume=True)


def test_instance_cannot_be_registered_twice(flow: Flow, kernel: Kernel) -> None:
    instance = flow.add(Noting("a"))
    other = Flow(kernel)
    with pytest.raises(RegistrationError, match="registered with a Director already"):
        other.add(instance)


@pytest.mark.parametrize("wrong", [None, "Noting", 5, int, len], ids=str)
def test_only_actors_can_be_registered(flow: Flow, wrong: Any) -> None:
    with pytest.raises(RegistrationError, match="cannot be registered as 'a': wanted is a subclass of Actor"):
        flow.add(wrong)


class Raising(Actor):
    def __init__(self, name: str, error: Exception) -> None:
        super().__init__(name)
        raise error


def test_constructor_that_raises_is_named_and_its_error_is_the_cause(flow: Flow) -> None:
    error = OSError("no such file")
    with pytest.raises(RegistrationError) as raised:
        flow.add(Raising, "a", error)
    assert str(raised.value) == "actor 'a' cannot be registered: Raising() raised OSError: no such file"
    assert raised.value.__cause__ is error
    assert flow.wiring.members == {}


def test_constructor_with_the_wrong_arguments_is_named(flow: Flow) -> None:
    with pytest.raises(RegistrationError, match=r"'a' cannot be registered: Noting\(\) raised TypeError: .*colour"):
        flow.add(Noting, "a", colour="red")


def test_error_of_our_own_keeps_its_class_and_tells_the_actor_in_a_note(flow: Flow) -> None:
    with pytest.raises(StylesheetError) as raised:
        flow.add(Raising, "a", StylesheetError("no", 7))
    assert raised.value.line == 7
    assert raised.value.__notes__ == ["while registering actor 'a' (Raising)"]


def test_constructor_that_forgets_the_base_class_is_named(flow: Flow) -> None:
    class Forgetful(Actor):
        def __init__(self, name: str) -> None:
            self.name = name

    with pytest.raises(RegistrationError, match=r"Forgetful has not called super\(\).__init__\(name\): actor 'a'"):
        flow.add(Forgetful)


def test_name_that_failed_to_register_is_free(flow: Flow) -> None:
    with pytest.raises(RegistrationError):
        flow.add(Raising, "a", ValueError("no"))
    assert flow.add(Noting).name == "a"


# ---- finding --------------------------------------------------------------------------------------------------------


def test_actor_is_found_by_itself_and_by_its_name(three: Flow) -> None:
    member = three.member("a")
    assert three.wiring.find("a") is member
    assert three.wiring.find(member.actor) is member


def test_unknown_name_is_answered_with_the_nearest_one(flow: Flow) -> None:
    flow.add(Noting, "acknowledge")
    with pytest.raises(ActorNotFoundError, match="there is no actor 'aknowledge'; did you mean 'acknowledge'"):
        flow.wiring.find("aknowledge")


def test_actor_that_is_not_registered_here_is_not_found(three: Flow) -> None:
    with pytest.raises(ActorNotFoundError, match="there is no actor 'stranger'; there are: 'a', 'b', 'c'"):
        three.wiring.find(Noting("stranger"))


def test_actor_of_another_director_is_said_to_be_that(three: Flow, kernel: Kernel) -> None:
    with pytest.raises(ActorNotFoundError, match="belongs to another Director; this one has its own 'a'"):
        three.wiring.find(Flow(kernel).add(Noting, "a"))


# ---- endpoints ------------------------------------------------------------------------------------------------------

Form = Callable[[Actor], Any]
SOURCES: dict[str, tuple[Form, str]] = {
    "actor": (lambda actor: actor, "b"),
    "name": (lambda actor: actor.name, "b"),
    "actor and outbox": (lambda actor: (actor, "out"), "out"),
    "name and outbox": (lambda actor: (actor.name, "out"), "out"),
}
DESTINATIONS: dict[str, tuple[Form, str]] = {
    "actor": (lambda actor: actor, "a"),
    "name": (lambda actor: actor.name, "a"),
    "actor and inbox": (lambda actor: (actor, "in"), "in"),
    "name and inbox": (lambda actor: (actor.name, "in"), "in"),
}


@pytest.mark.parametrize("is_listed", [True, False])
@pytest.mark.parametrize("destination", DESTINATIONS)
@pytest.mark.parametrize("source", SOURCES)
def test_outbox_is_called_after_the_destination_and_inbox_after_the_source_unless_named(
    three: Flow, source: str, destination: str, is_listed: bool
) -> None:
    make_source, outbox = SOURCES[source]
    make_destination, inbox = DESTINATIONS[destination]
    target = make_destination(three.member("b").actor)
    three.connect(make_source(three.member("a").actor), [target] if is_listed else target)
    assert connections(three) == [(outbox, "b", inbox)]


SEVERAL: dict[str, Callable[[Actor, Actor], Any]] = {
    "list": lambda b, c: [b, c],
    "tuple": lambda b, c: (b, c),
    "names": lambda b, c: [b.name, c.name],
    "generator": lambda b, c: (actor for actor in [b, c]),
    "values of a dict": lambda b, c: {"x": b, "y": c}.values(),
    "mixed": lambda b, c: [b, (c, "a")],
}


@pytest.mark.parametrize("form", SEVERAL)
def test_several_destinations_are_connected_one_by_one(three: Flow, form: str) -> None:
    three.connect("a", SEVERAL[form](three.member("b").actor, three.member("c").actor))
    assert connections(three) == [("b", "b", "a"), ("c", "c", "a")]


def test_set_of_destinations_is_taken_in_any_order(three: Flow) -> None:
    three.connect("a", {"b", "c"})
    assert sorted(connections(three)) == [("b", "b", "a"), ("c", "c", "a")]


@pytest.mark.parametrize("is_named", [True, False])
def test_pair_of_actor_and_text_is_an_inbox_even_if_an_actor_has_that_name(three: Flow, is_named: bool) -> None:
    # `(actor, "queue_name")` is one destination; several are a list.
    destination = "b" if is_named else three.member("b").actor
    three.connect("a", (destination, "c"))
    assert connections(three) == [("b", "b", "c")]


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        5,
        Noting,
        b"b",
        ("b", "in", "more"),
        ("b", ""),
        ("b", 5),
        ("b", None),
        (None, "in"),
        [["b"]],
        [None],
        [],
        (),
    ],
    ids=repr,
)
def test_what_is_no_actor_cannot_be_connected(three: Flow, wrong: Any) -> None:
    with pytest.raises((ConnectionTypeError, ActorNotFoundError)) as raised:
        three.connect("a", wrong)
    assert any(word in str(raised.value) for word in ("wanted", "there is no actor", "the list is empty"))
    assert connections(three) == []


@pytest.mark.parametrize("wrong", [None, 5, Noting, ("a", ""), ("a", "out", "more"), ["a"], ["a", "b"]], ids=repr)
def test_source_is_one_actor(three: Flow, wrong: Any) -> None:
    with pytest.raises((ConnectionTypeError, ActorNotFoundError)):
        three.connect(wrong, "b")


def test_of_several_destinations_all_are_connected_or_none(three: Flow) -> None:
    with pytest.raises(ActorNotFoundError):
        three.connect("a", ["b", "c", "stranger"])
    assert connections(three) == []
    assert three.member("b").cell.inboxes == []


# ---- connections ----------------------------------------------------------------------------------------------------


def test_each_connection_has_its_own_queue_and_capacity(three: Flow) -> None:
    three.connect("a", "c", capacity=5)
    three.connect("b", "c")
    queues = three.member("c").cell.inboxes
    assert [(queue.source, queue.capacity) for queue in queues] == [("a", 5), ("b", 500)]


def test_very_same_outbox_and_inbox_cannot_be_connected_twice(three: Flow) -> None:
    three.connect("a", "b")
    with pytest.raises(QueueConnectedError, match=r"outbox 'b' of 'a' is connected to inbox 'a' of 'b' already: name"):
        three.connect("a", "b")
    with pytest.raises(QueueConnectedError):
        three.connect(("a", "b"), ("b", "a"))
    assert len(connections(three)) == 1


def test_very_same_connection_twice_in_one_list_is_refused_as_a_whole(three: Flow) -> None:
    with pytest.raises(QueueConnectedError):
        three.connect("a", ["c", "b", "b"])
    assert connections(three) == []


def test_another_outbox_or_inbox_makes_another_connection_of_the_same_pair(three: Flow) -> None:
    three.connect("a", "b")
    three.connect(("a", "out"), "b")
    three.connect("a", ("b", "in"))
    assert connections(three) == [("b", "b", "a"), ("b", "b", "in"), ("out", "b", "a")]


def test_named_outbox_may_fan_out(three: Flow) -> None:
    three.connect(("a", "out"), ["b", "c"])
    assert list(three.member("a").cell.outboxes) == ["out"]
    assert connections(three) == [("out", "b", "a"), ("out", "c", "a")]


def test_error_outboxes_have_their_own_names(three: Flow) -> None:
    three.connect("a", "b")
    three.connect("a", "b", is_error=True)
    assert connections(three) == error_connections(three) == [("b", "b", "a")]
    assert [queue.is_error for queue in three.member("b").cell.inboxes] == [False, True]
    with pytest.raises(QueueConnectedError, match="error outbox 'b'"):
        three.connect("a", "b", is_error=True)


@pytest.mark.parametrize("overflow", [*Overflow, *(policy.value for policy in Overflow)])
def test_overflow_is_a_policy_or_its_name(three: Flow, overflow: Any) -> None:
    three.connect("a", "b", overflow=overflow)
    [queue] = three.member("b").cell.inboxes
    assert queue.overflow is Overflow(overflow)


@pytest.mark.parametrize("overflow", ["drop_oldst", "", "WAIT", None, 5, []], ids=repr)
def test_unknown_overflow_policy_is_refused_with_a_suggestion(three: Flow, overflow: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no overflow policy .*; (did you mean|there are)"):
        three.connect("a", "b", overflow=overflow)


@pytest.mark.parametrize("capacity", [0, -1, 1.5, "5", True, float("inf")], ids=repr)
def test_capacity_is_a_number_of_events(three: Flow, capacity: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"capacity is .*: wanted is a number of events, from 1 on"):
        three.connect("a", "b", capacity=capacity)


def test_size_is_a_number_of_events() -> None:
    assert check_capacity(1, "size") == 1
    with pytest.raises(ConfigurationError, match="size is 0"):
        check_capacity(0, "size")


def test_actor_may_be_connected_to_itself(three: Flow) -> None:
    three.connect("a", "a")
    three.wiring.complete()
    assert [str(ring) for ring in three.wiring.rings] == ["a → a"]


# ---- queues from outside --------------------------------------------------------------------------------------------


def test_each_inbox_posted_to_from_outside_has_one_queue(three: Flow) -> None:
    member = three.member("a")
    first, second = three.wiring.outside_queue(member, ""), three.wiring.outside_queue(member, "admin")
    assert first is not second
    assert three.wiring.outside_queue(member, "") is first
    assert [queue.inbox for queue in member.cell.inboxes] == ["", "admin"]


def test_queue_from_outside_does_not_mix_with_a_connection_of_that_inbox(three: Flow) -> None:
    three.connect("a", ("b", "in"))
    queue = three.wiring.outside_queue(three.member("b"), "in")
    assert [each.source for each in three.member("b").cell.inboxes] == ["a", ""]
    assert queue.capacity == 500


# ---- the error actor ------------------------------------------------------------------------------------------------


def with_error_actor(flow: Flow) -> Noting:
    errors: Noting = flow.add(Noting, "errors")
    flow.wiring.error_actor = flow.member("errors")
    return errors


def test_actor_without_an_error_outbox_gets_one_to_the_error_actor(flow: Flow) -> None:
    flow.add(Failing)
    errors = with_error_actor(flow)
    flow.start().run("a", "bad")
    assert errors.noted == ["bad"]
    assert error_connections(flow) == [("errors", "errors", "a")]


def test_actor_with_an_error_outbox_keeps_it_alone(flow: Flow) -> None:
    flow.add(Failing)
    own = flow.add(Noting, "own")
    errors = with_error_actor(flow)
    flow.connect("a", "own", is_error=True)
    flow.start().run("a", "bad")
    assert (own.noted, errors.noted) == (["bad"], [])


@pytest.mark.parametrize("inbox", [None, "failed"])
def test_the_wire_to_the_error_actor_that_nobody_asked_for_does_not_stand_in_the_way_of_one_that_somebody_does(
    flow: Flow, inbox: str | None
) -> None:
    flow.add(Failing)
    with_error_actor(flow)
    flow.wiring.complete()
    flow.connect("a", "errors" if inbox is None else ("errors", inbox), is_error=True, capacity=7)
    flow.start().run("a", "bad")
    assert error_connections(flow) == [("errors", "errors", inbox or "a")]
    ((queue,),) = flow.member("a").cell.error_outboxes.values()
    assert queue.capacity == 7
    with pytest.raises(QueueConnectedError):
        flow.connect("a", "errors" if inbox is None else ("errors", inbox), is_error=True)


def test_failures_of_the_error_actor_itself_are_dead_letters(flow: Flow) -> None:
    flow.add(Failing)
    flow.add(Failing, "errors")
    flow.wiring.error_actor = flow.member("errors")
    flow.start().run("a", "bad")
    assert [(letter.actor, letter.reason) for letter in flow.kernel.dead_letters] == [("errors", "failed")]


def test_error_actor_cannot_be_given_an_error_outbox(flow: Flow) -> None:
    flow.add(Noting)
    with_error_actor(flow)
    with pytest.raises(ConfigurationError, match="'errors' is the error actor: its own failures go to the dead letter"):
        flow.connect("errors", "a", is_error=True)


def test_log_actors_do_not_feed_the_error_actor(flow: Flow) -> None:
    flow.add(Failing, "logs")
    flow.wiring.log_actors.append(flow.member("logs"))
    with_error_actor(flow)
    flow.start()
    assert error_connections(flow, "logs") == []


def test_second_start_connects_nothing_twice(flow: Flow) -> None:
    flow.add(Failing)
    errors = with_error_actor(flow)
    flow.start()
    flow.wiring.complete()
    flow.run("a", "bad")
    assert errors.noted == ["bad"]


def test_error_connection_made_between_two_starts_takes_the_place_of_the_default(flow: Flow) -> None:
    flow.add(Failing)
    errors, own = with_error_actor(flow), flow.add(Noting, "own")
    flow.start()
    flow.connect("a", "own", is_error=True)
    flow.start().run("a", "bad")
    assert (own.noted, errors.noted) == (["bad"], [])


# ---- the log plane --------------------------------------------------------------------------------------------------


def log_plane(flow: Flow, logs: str, *edges: str) -> set[str]:
    """The names of the cells in the log plane; every letter is an actor, and "ab" an edge."""
    for name in sorted({*logs, *"".join(edges)}):
        flow.add(Noting, name)
        if name in logs:
            flow.wiring.log_actors.append(flow.member(name))
    for edge in edges:
        flow.connect(edge[0], edge[1])
    flow.wiring.complete()
    return {cell.name for cell in flow.wiring.log_plane()}


@pytest.mark.parametrize(
    ("logs", "edges", "plane"),
    [
        ("", ["ab"], ""),
        ("l", [], "l"),
        ("l", ["ab"], "l"),
        ("l", ["lx", "xy", "ab"], "lxy"),
        ("l", ["lx", "ax"], "l"),
        ("l", ["lx", "xy", "ay"], "lx"),
        ("lm", ["lx", "mx"], "lmx"),
        ("l", ["lx", "xl"], "lx"),
        ("l", ["lx", "xy", "yx"], "lxy"),
        ("l", ["la", "ab", "cb"], "la"),
    ],
)
def test_log_plane_is_the_log_actors_and_what_only_they_feed(
    flow: Flow, logs: str, edges: list[str], plane: str
) -> None:
    assert log_plane(flow, logs, *edges) == set(plane)


def test_log_actor_that_the_flow_feeds_too_stays_in_the_log_plane(flow: Flow) -> None:
    assert log_plane(flow, "l", "al") == {"l"}


def test_events_of_the_log_plane_are_counted_apart(kernel: Kernel) -> None:
    logs_ledger = Ledger()
    flow = Flow(kernel)
    flow.wiring = Wiring(kernel, kernel.ledger, logs_ledger, 500, lambda cell: RestartPool(kernel.clock))
    log_plane(flow, "l", "lx", "ab")
    flow.start()
    cell = {name: flow.member(name).cell for name in "labx"}
    assert {name for name in cell if cell[name].ledger is logs_ledger} == {"l", "x"}
    queue = flow.wiring.outside_queue(flow.member("l"), "log")
    queue.put(Event("record"), logs_ledger, None, None)
    kernel.run()
    assert (logs_ledger.accepted, logs_ledger.delivered) == (1, 1)
    assert (kernel.ledger.accepted, kernel.ledger.delivered) == (0, 0)


# ---- words ----------------------------------------------------------------------------------------------------------

WRONG: dict[str, Callable[[Flow], object]] = {
    "unknown source": lambda flow: flow.connect("aa", "b"),
    "unknown destination": lambda flow: flow.connect("a", "bb"),
    "unknown actor with an inbox": lambda flow: flow.connect("a", ("bb", "in")),
    "unknown overflow": lambda flow: flow.connect("a", "b", overflow="waits"),
    "unknown option": lambda flow: flow.add(Noting, "d", options={"concurency": 1}),
    "unknown outbox": lambda flow: flow.member("c").cell.send(Event(), "bb"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_every_name_that_does_not_exist_is_answered_with_a_suggestion(three: Flow, wrong: str) -> None:
    three.connect("c", "b")
    with pytest.raises(CompysitionError, match=r"; (did you mean '\w+'\?|there are: ')"):
        WRONG[wrong](three)


def test_unknown_outbox_is_a_lookup_error(three: Flow) -> None:
    with pytest.raises(OutboxNotFoundError, match="actor 'c' has no outbox 'x'; there are none"):
        three.member("c").cell.send(Event(), ["x"])
