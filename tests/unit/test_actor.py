# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.actor`: what a subclass writes, and the tools it has. On a kernel instead of a Director."""

import logging
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any, ClassVar

import gevent
import pytest
from gevent.event import Event as Signal

from compysition.actor import Actor, ActorOptions
from compysition.errors import (
    ConfigurationError,
    DirectorStateError,
    EventNotOwnedError,
    RegistrationError,
)
from compysition.event import Event
from compysition.ledger import DELIVERED, Outcome
from compysition.readiness import RESTARTING
from compysition.restartlet import GreenletState
from compysition.testing import VirtualClock
from tests.unit.kernel import Flow, turn, wait_until


class Noting(Actor):
    """Notes the data it is given."""

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.noted: list[Any] = []

    def consume(self, event: Event) -> None:
        self.noted.append(event.data)


class Acting(Actor):
    """Does with its event whatever the test wants."""

    def __init__(self, name: str, action: Callable[["Acting", Event], object], **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.action = action

    def consume(self, event: Event) -> None:
        self.action(self, event)


# ---- consume and its signature --------------------------------------------------------------------------------------

calls: list[tuple[Any, ...]] = []


class Plain(Actor):
    def consume(self, event: Event) -> None:
        calls.append((event.data,))


class WithOrigin(Actor):
    def consume(self, event: Event, origin: str) -> None:  # type: ignore[override]  # filled when wired
        calls.append((event.data, origin))


class WithQueue(Actor):
    def consume(self, event: Event, origin_queue: str = "none") -> None:
        calls.append((event.data, origin_queue))


class WithBoth(Actor):
    def consume(self, event: Event, *, origin_queue: str, origin: str) -> None:  # type: ignore[override]  # as above
        calls.append((event.data, origin, origin_queue))


class WithAny(Actor):
    """The old signature."""

    def consume(self, event: Event, *args: Any, **kwargs: Any) -> None:
        calls.append((event.data, args, kwargs))


class WithOwnDefault(Actor):
    def consume(self, event: Event, factor: int = 2) -> None:
        calls.append((event.data, factor))


@pytest.mark.parametrize(
    ("cls", "expected"),
    [
        (Plain, ("data",)),
        (WithOrigin, ("data", "source")),
        (WithQueue, ("data", "inbox")),
        (WithBoth, ("data", "source", "inbox")),
        (WithAny, ("data", (), {"origin": "source", "origin_queue": "inbox"})),
        (WithOwnDefault, ("data", 2)),
    ],
)
@pytest.mark.parametrize("fresh_context", [True, False])
def test_origin_is_passed_where_the_signature_takes_it(
    flow: Flow, cls: type[Actor], expected: tuple[Any, ...], fresh_context: bool
) -> None:
    calls.clear()
    flow.add(cls, options={"fresh_context": fresh_context})
    flow.add(Actor, "source")
    flow.connect("source", ("a", "inbox"))
    flow.start().run("source", "data")
    assert calls == [expected]


def test_event_posted_from_outside_has_no_origin_and_the_inbox_it_was_posted_to(flow: Flow) -> None:
    calls.clear()
    flow.add(WithBoth)
    flow.start().run("a", "data", inbox="admin")
    assert calls == [("data", "", "admin")]


def test_each_connection_tells_its_own_origin(flow: Flow) -> None:
    calls.clear()
    flow.add(WithBoth)
    for name in ("x", "y"):
        flow.add(Actor, name)
        flow.connect(name, "a")
    flow.start()
    for name in ("x", "y"):
        flow.run(name, name)
    assert calls == [("x", "x", "x"), ("y", "y", "y")]


def test_signature_is_looked_at_when_wired_and_not_per_event(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    flow.add(WithOrigin)
    flow.start()
    flow.run("a")
    monkeypatch.setattr("compysition.actor.inspect", None)
    flow.run("a")
    assert not flow.kernel.dead_letters


def test_consume_of_an_instance_is_called_too(flow: Flow) -> None:
    # A test's stand-in, or a decorator applied late.
    seen: list[tuple[Any, str]] = []
    actor = Actor("a")
    actor.consume = lambda event, origin: seen.append((event.data, origin))  # type: ignore[method-assign,misc,assignment]
    flow.add(actor)
    flow.start().run("a", 1)
    assert seen == [(1, "")]


def test_actor_without_a_consume_of_its_own_sends_events_on(flow: Flow) -> None:
    flow.add(Actor)
    sink = flow.add(Noting, "sink")
    flow.connect("a", "sink")
    flow.start().run("a", "data")
    assert sink.noted == ["data"]


def test_returned_value_means_nothing(flow: Flow) -> None:
    flow.add(Acting, "a", lambda actor, event: Event("returned"))
    event = flow.start().run("a")
    assert event._owner is DELIVERED


# ---- options --------------------------------------------------------------------------------------------------------


class One(Actor):
    options = ActorOptions(concurrency=1, grace_s=2.0)


class OneByMapping(Actor):
    options: ClassVar[Mapping[str, Any]] = {"concurrency": 1, "grace_s": 2.0}


@pytest.mark.parametrize("cls", [One, OneByMapping])
def test_options_of_the_class_are_taken(flow: Flow, cls: type[Actor]) -> None:
    flow.add(cls)
    assert flow.member().options == ActorOptions(concurrency=1, grace_s=2.0)
    assert flow.member().cell.concurrency == 1


@pytest.mark.parametrize("cls", [One, OneByMapping])
def test_mapping_at_registration_says_only_what_differs(flow: Flow, cls: type[Actor]) -> None:
    flow.add(cls, options={"concurrency": 7})
    assert flow.member().options == ActorOptions(concurrency=7, grace_s=2.0)


def test_options_at_registration_replace_those_of_the_class(flow: Flow) -> None:
    flow.add(One, options=ActorOptions(max_retries=9))
    assert flow.member().options == ActorOptions(max_retries=9)
    assert flow.member().cell.max_retries == 9


def test_defaults_are_those_of_the_design(flow: Flow) -> None:
    flow.add(Actor)
    options = flow.member().options
    assert (options.concurrency, options.grace_s, options.once, options.fresh_context) == (100, 5.0, False, False)


def test_blocking_consume_is_concurrency_of_one(flow: Flow) -> None:
    flow.add(Actor, "a", blocking_consume=True)
    assert flow.member().cell.concurrency == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"concurency": 1}, "there is no option 'concurency'; did you mean 'concurrency'?"),
        ({"concurrency": 0}, "'concurrency' is 0: it has to be a number from 1 on"),
        ({"concurrency": "many"}, "'concurrency' is 'many'"),
        (5, "options are 5: wanted is an ActorOptions or a mapping"),
        ("concurrency", "options are 'concurrency'"),
    ],
)
def test_wrong_options_are_refused_with_the_actors_name(flow: Flow, options: Any, words: str) -> None:
    with pytest.raises(RegistrationError) as raised:
        flow.add(Actor, options=options)
    assert "actor 'a' cannot be registered" in str(raised.value)
    assert words in str(raised.value)
    assert flow.wiring.members == {}


def test_wrong_options_of_a_class_are_refused_too(flow: Flow) -> None:
    class Wrong(Actor):
        options: ClassVar[Mapping[str, Any]] = {"concurency": 1}

    with pytest.raises(RegistrationError, match="did you mean 'concurrency'"):
        flow.add(Wrong)


def test_options_cannot_be_made_wrong_in_the_first_place() -> None:
    with pytest.raises(ConfigurationError):
        ActorOptions(concurrency=-1)


VARIABLE: ContextVar[str] = ContextVar("variable", default="unset")


@pytest.mark.parametrize(("fresh_context", "expected"), [(True, ["unset", "unset"]), (False, ["unset", "set"])])
def test_handlers_share_a_context_unless_each_asks_for_a_fresh_one(
    flow: Flow, fresh_context: bool, expected: list[str]
) -> None:
    seen: list[str] = []

    def action(actor: Acting, event: Event) -> None:
        seen.append(VARIABLE.get())
        VARIABLE.set("set")

    flow.add(Acting, "a", action, options={"fresh_context": fresh_context})
    flow.start()
    for _ in range(2):
        flow.run("a")
    assert seen == expected


# ---- the constructor ------------------------------------------------------------------------------------------------


def test_constructor_gets_its_extras_right_after_the_name(flow: Flow) -> None:
    class Multiply(Actor):
        def __init__(self, name: str, factor: int, offset: int = 0, **kwargs: Any) -> None:
            super().__init__(name, **kwargs)
            self.factor, self.offset = factor, offset

    actor = flow.add(Multiply, "a", 3, offset=4, blocking_consume=True)
    assert (actor.name, actor.factor, actor.offset) == ("a", 3, 4)


def early(actor: Actor) -> dict[str, Callable[[], object]]:
    event = Event()
    return {
        "send_event": lambda: actor.send_event(event),
        "send_error": lambda: actor.send_error(event),
        "keep": lambda: actor.keep(event),
        "sleep": lambda: actor.sleep(1.0),
        "loop": actor.loop,
        "offload": lambda: actor.offload(int),
        "pause": actor.pause,
        "resume": actor.resume,
        "inbox_depth": lambda: actor.inbox_depth,
    }


@pytest.mark.parametrize("tool", early(Actor("a")))
def test_tool_that_needs_a_director_says_so_before_registration(tool: str) -> None:
    with pytest.raises(DirectorStateError, match="'a' is not registered yet: this works from pre_hook on"):
        early(Actor("a"))[tool]()


def test_every_public_name_of_an_actor_is_part_of_the_api() -> None:
    # All else begins with an underscore, so that a user's attributes cannot collide.
    assert {name for name in {*dir(Actor("a"))} if not name.startswith("_")} == {
        *("name", "logger", "options", "answers"),
        *("consume", "pre_hook", "post_hook", "on_drain"),
        *("send_event", "send_error", "create_event", "keep", "background", "threads", "sleep", "loop", "offload"),
        *("pause", "resume", "inbox_depth"),
    }


def test_repr_is_class_and_name() -> None:
    assert repr(Noting("a")) == "<Noting 'a'>"


def test_logger_names_the_actor(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "compysition"):
        Actor("a").logger.info("hello", extra={"event_id": "7"})
    [record] = caplog.records
    assert record.name == "compysition.actor.a"
    assert (record.__dict__["actor"], record.__dict__["event_id"]) == ("a", "7")


# ---- background greenlets -------------------------------------------------------------------------------------------


class WithBackground(Actor):
    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.runs: list[str] = []
        self.early = self.background(self.runs.append, "early", restart=False)

    def consume(self, event: Event) -> None:
        self.background(self.runs.append, event.data)


def test_background_greenlet_asked_for_in_the_constructor_runs_once_the_actor_is_there(timeless_flow: Flow) -> None:
    actor = WithBackground("a")
    turn()
    assert (actor.early, actor.runs) == (None, [])
    timeless_flow.add(actor)
    turn()
    assert actor.runs == ["early"]


def test_background_greenlet_asked_for_later_runs_at_once_and_is_returned(timeless_flow: Flow) -> None:
    actor = timeless_flow.add(WithBackground)
    greenlet = actor.background(actor.runs.append, "later")
    turn()
    assert actor.runs == ["early", "later"]
    assert greenlet.state is GreenletState.ENDED
    assert greenlet.restart


def test_background_greenlet_can_be_made_in_a_handler(timeless_flow: Flow) -> None:
    actor = timeless_flow.add(WithBackground)
    timeless_flow.start().run("a", "handled")
    turn()
    assert actor.runs == ["early", "handled"]


def test_threads_spawn_is_the_old_spelling(timeless_flow: Flow) -> None:
    runs: list[str] = []
    actor = Actor("a")
    assert actor.threads.spawn(runs.append, "early") is None
    timeless_flow.add(actor)
    greenlet = actor.threads.spawn(runs.append, "later", restart=False)
    turn()
    assert runs == ["early", "later"]
    assert greenlet is not None
    assert not greenlet.restart


def test_event_sent_by_a_background_greenlet_is_accepted(timeless_flow: Flow) -> None:
    actor = timeless_flow.add(Actor)
    sink = timeless_flow.add(Noting, "sink")
    timeless_flow.connect("a", "sink")
    timeless_flow.start()
    actor.background(lambda: actor.send_event(Event("made")))
    turn()
    timeless_flow.kernel.run()
    assert sink.noted == ["made"]
    assert timeless_flow.kernel.ledger.accepted == 1


# ---- sending --------------------------------------------------------------------------------------------------------


class Stamping(Actor):
    """A user's own send_event, as scripts have them."""

    def send_event(self, event: Event, queues: str | Iterable[str] | None = None) -> None:
        event.set("stamp", self.name)
        super().send_event(event, queues)


class StampingChild(Stamping):
    pass


@pytest.mark.parametrize("cls", [Stamping, StampingChild])
def test_overridden_send_event_is_called(flow: Flow, cls: type[Actor]) -> None:
    stamps: list[object] = []
    flow.add(cls)
    flow.add(Acting, "sink", lambda actor, event: stamps.append(event.get("stamp")))
    flow.connect("a", "sink")
    flow.start().run("a")
    assert stamps == ["a"]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_actor_sends_to_what_is_connected_when_it_sends(flow: Flow, number: int) -> None:
    flow.add(Actor)
    sinks = [flow.add(Noting, f"sink{index}") for index in range(number)]
    for sink in sinks:
        flow.connect("a", sink)
    event = flow.start().run("a", "data")
    assert [sink.noted for sink in sinks] == [["data"]] * number
    assert flow.kernel.balance().ended[Outcome.DELIVERED] == max(1, number)
    assert event._owner is DELIVERED


def test_connection_made_after_the_first_event_counts_too(flow: Flow) -> None:
    flow.add(Actor)
    sinks = [flow.add(Noting, f"sink{index}") for index in range(2)]
    flow.connect("a", sinks[0])
    flow.start().run("a", 1)
    flow.connect("a", sinks[1])
    flow.run("a", 2)
    assert [sink.noted for sink in sinks] == [[1, 2], [2]]


# ---- making events --------------------------------------------------------------------------------------------------


def created(flow: Flow, action: Callable[[Acting, Event], Event]) -> tuple[Event, Event]:
    """The event in hand, and what `action` makes."""
    made: list[Event] = []
    flow.add(Acting, "a", lambda actor, event: made.append(action(actor, event)))
    event = flow.start().run("a", Event("parent", "orders", customer="ann"))
    return event, made[0]


def test_created_event_belongs_to_the_request_in_hand(flow: Flow) -> None:
    parent, child = created(flow, lambda actor, event: actor.create_event(data="part"))
    assert (child.data, child.service, child.meta_id) == ("part", "orders", parent.event_id)
    assert child.event_id != parent.event_id
    assert child.get("customer") is None


def test_created_event_belongs_to_the_parent_that_is_named(flow: Flow) -> None:
    other = Event(service="other")
    _, child = created(flow, lambda actor, event: actor.create_event("part", parent=other))
    assert (child.service, child.meta_id) == ("other", other.event_id)


def test_event_created_by_another_actors_tool_belongs_to_nothing(flow: Flow) -> None:
    bystander = flow.add(Actor, "bystander")
    parent, child = created(flow, lambda actor, event: bystander.create_event("part"))
    assert child.meta_id != parent.event_id


def test_event_created_outside_a_handler_belongs_to_nothing(flow: Flow) -> None:
    actor = flow.add(Actor)
    event = actor.create_event("data")
    assert (event.data, event.service, event.meta_id) == ("data", "default", event.event_id)


def test_event_created_before_registration_belongs_to_nothing() -> None:
    assert Actor("a").create_event("data").data == "data"


# ---- keeping --------------------------------------------------------------------------------------------------------


def test_event_kept_in_a_handler_can_be_sent_by_anything_of_the_actor(flow: Flow) -> None:
    kept: list[Event] = []

    def action(actor: Acting, event: Event) -> None:
        actor.keep(event)
        kept.append(event)

    actor = flow.add(Acting, "a", action)
    sink = flow.add(Noting, "sink")
    flow.connect("a", "sink")
    flow.start().run("a", "data")
    assert flow.kernel.balance().held == 1
    actor.send_event(kept[0])
    flow.kernel.run()
    assert sink.noted == ["data"]


def test_event_kept_by_one_actor_cannot_be_sent_by_another(flow: Flow) -> None:
    flow.add(Acting, "a", lambda actor, event: actor.keep(event))
    thief = flow.add(Actor, "thief")
    event = flow.start().run("a")
    with pytest.raises(EventNotOwnedError, match="kept by 'a'"):
        thief.send_event(event)


# ---- pausing --------------------------------------------------------------------------------------------------------


def test_nothing_is_taken_while_paused(flow: Flow) -> None:
    actor = flow.add(Noting)
    flow.start()
    actor.pause()
    for number in range(3):
        flow.post("a", number)
    turn()
    assert (actor.noted, actor.inbox_depth) == ([], 3)
    actor.resume()
    flow.kernel.run()
    assert (actor.noted, actor.inbox_depth) == ([0, 1, 2], 0)


def test_handler_that_pauses_its_actor_is_the_last_to_start(flow: Flow) -> None:
    seen: list[Any] = []

    def action(actor: Acting, event: Event) -> None:
        seen.append(event.data)
        actor.pause()

    actor = flow.add(Acting, "a", action)
    for number in range(5):
        flow.post("a", number)
    flow.start().kernel.run()
    turn()
    assert seen == [0]
    actor.resume()
    flow.kernel.run()
    assert seen == [0, 1]


def test_handlers_that_run_go_on_while_paused(flow: Flow) -> None:
    signal, done = Signal(), []

    def action(actor: Acting, event: Event) -> None:
        signal.wait()
        done.append(event.data)

    actor = flow.add(Acting, "a", action)
    flow.start()
    flow.post("a", 1)
    wait_until(lambda: flow.member().cell.running)
    actor.pause()
    flow.post("a", 2)
    signal.set()
    wait_until(lambda: done)
    turn()
    assert done == [1]
    actor.resume()
    flow.kernel.run()
    assert done == [1, 2]


def test_paused_actor_makes_back_pressure(flow: Flow) -> None:
    flow.add(Actor)
    sink = flow.add(Noting, "sink")
    flow.connect("a", "sink", capacity=2)
    flow.start()
    sink.pause()
    for number in range(10):
        flow.post("a", number)
    wait_until(lambda: flow.member().cell.waiting_puts)
    assert sink.inbox_depth == 3  # two inside, and the one whose sender waits
    assert flow.member().cell.depth == 7
    sink.resume()
    flow.kernel.run()
    assert sink.noted == list(range(10))


# ---- sleeping and looping -------------------------------------------------------------------------------------------


def sleeper(flow: Flow) -> tuple[Actor, list[bool]]:
    actor = flow.add(Actor)
    flow.start()
    went_on: list[bool] = []
    actor.background(lambda: went_on.append(actor.sleep(10.0)))
    turn()
    return actor, went_on


def test_sleep_lasts_as_long_as_asked(timeless_flow: Flow, clock: VirtualClock) -> None:
    _, went_on = sleeper(timeless_flow)
    clock.advance(9.9)
    turn()
    assert went_on == []
    clock.advance(0.2)
    turn()
    assert went_on == [True]
    assert clock.pending == 0


def test_sleep_returns_at_once_when_the_director_stops(timeless_flow: Flow, clock: VirtualClock) -> None:
    actor, went_on = sleeper(timeless_flow)
    timeless_flow.kernel.is_stopping = True
    actor._wake_sleepers()
    turn()
    assert went_on == [False]
    assert clock.pending == 0


def test_sleep_returns_at_once_when_the_actor_restarts(timeless_flow: Flow) -> None:
    actor, went_on = sleeper(timeless_flow)
    timeless_flow.member().cell.close(RESTARTING)
    actor._wake_sleepers()
    turn()
    assert went_on == [False]


def test_sleep_does_not_begin_when_the_director_stops(timeless_flow: Flow) -> None:
    actor = timeless_flow.add(Actor)
    timeless_flow.start()
    timeless_flow.kernel.is_stopping = True
    assert actor.sleep(1000.0) is False


def test_sleep_is_not_ended_by_others_waking_up(timeless_flow: Flow) -> None:
    actor, went_on = sleeper(timeless_flow)
    actor._wake_sleepers()
    turn()
    assert went_on == []


def test_killed_sleeper_leaves_no_timer(timeless_flow: Flow, clock: VirtualClock) -> None:
    sleeper(timeless_flow)
    assert clock.pending == 1
    timeless_flow.member().pool.kill()
    turn()
    assert clock.pending == 0


def test_loop_is_false_once_stopping_or_restarting(timeless_flow: Flow) -> None:
    actor = timeless_flow.add(Actor)
    timeless_flow.start()
    cell = timeless_flow.member().cell
    assert actor.loop()
    cell.close(RESTARTING)
    assert not actor.loop()
    cell.open(RESTARTING)
    assert actor.loop()
    timeless_flow.kernel.is_stopping = True
    assert not actor.loop()


def test_paused_actor_loops_on(flow: Flow) -> None:
    actor = flow.add(Actor)
    flow.start()
    actor.pause()
    assert actor.loop()


def test_two_actors_of_one_class_share_nothing(flow: Flow) -> None:
    first, second = flow.add(Noting, "first"), flow.add(Noting, "second")
    flow.start().run("first", 1)
    assert (first.noted, second.noted) == ([1], [])
    first.pause()
    flow.run("second", 2)
    assert second.noted == [2]


def test_handler_may_wait_in_any_way(flow: Flow) -> None:
    actor = flow.add(Acting, "a", lambda actor, event: gevent.spawn(int, "7").get())
    assert flow.start().run("a")._owner is DELIVERED
    assert actor.inbox_depth == 0
