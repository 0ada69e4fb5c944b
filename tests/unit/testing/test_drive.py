# SPDX-License-Identifier: Apache-2.0
"""One actor alone, with `drive`."""

import time
from collections.abc import Iterator

import gevent
import pytest

from compysition import Actor, ActorOptions, Event, Fatal, Retry
from compysition.clock import Clock
from compysition.errors import RegistrationError, StartError, UsageError
from compysition.testing import Handler, Kit, drive

pytestmark = [pytest.mark.patched, pytest.mark.unpatched]


class Shout(Actor):
    """Upper case; what it cannot shout fails."""

    def __init__(self, name: str, mark: str = "!", **kwargs: bool) -> None:
        super().__init__(name, **kwargs)
        self.mark = mark

    def consume(self, event: Event) -> None:
        event.data = event.data.upper() + self.mark
        self.send_event(event)


class Sort(Actor):
    """Even and odd numbers, each to its outbox; keeps the zeros."""

    def consume(self, event: Event, origin: str = "", origin_queue: str = "") -> None:
        event.set("came", (origin, origin_queue))
        if event.data == 0:
            self.keep(event)
        else:
            self.send_event(event, "odd" if event.data % 2 else "even")


@pytest.fixture
def shout() -> Iterator[Kit[Shout]]:
    with drive(Shout, "shout", "?") as kit:
        yield kit


# ---- in and out -----------------------------------------------------------------------------------------------------


def test_what_is_sent_has_come_out_when_send_returns(shout: Kit[Shout]) -> None:
    event = shout.send("to be")
    assert shout.one() is event
    assert event.data == "TO BE?"
    assert shout.actor.mark == "?"


def test_an_event_goes_in_as_it_is(shout: Kit[Shout]) -> None:
    assert shout.send(Event("a", "svc", number=7)).get("number") == 7
    assert [event.service for event in shout.sent()] == ["svc"]


def test_outboxes_are_those_that_were_named() -> None:
    with drive(Sort, outboxes=("odd", "even")) as kit:
        for number in (1, 2, 3):
            kit.send(number)
        assert [event.data for event in kit.sent("odd")] == [1, 3]
        assert kit.one("even").data == 2


def test_inboxes_are_actors_of_that_name_and_any_other_name_is_outside() -> None:
    with drive(Sort, inboxes=("left",), outboxes=("odd", "even")) as kit:
        came = [kit.send(2, inbox).get("came") for inbox in ("left", "right", None)]
    assert came == [("left", "left"), ("", "right"), ("", "")]


def test_an_actor_without_outboxes_can_be_driven() -> None:
    seen: list[int] = []
    with drive(Handler, "sink", lambda actor, event: seen.append(event.data), outboxes=()) as kit:
        kit.send(1)
    assert seen == [1]


def test_an_instance_is_driven_under_its_own_name() -> None:
    with drive(Shout("loud", mark="!!")) as kit:
        kit.send("a")
        assert (kit.one().data, kit.actor.name) == ("A!!", "loud")


def test_options_are_those_of_register_actor() -> None:
    with drive(Handler, "slow", lambda actor, event: actor.sleep(1.0), options={"concurrency": 1}) as kit:
        kit.send(1)
        kit.send(2)
        assert (kit.state.in_flight, kit.state.queued) == (1, 1)
        kit.advance(2.0)


def test_clear_forgets_what_came_out(shout: Kit[Shout]) -> None:
    shout.send("a")
    shout.send(1)
    shout.clear()
    assert (shout.sent(), shout.errors, shout.dead_letters) == ([], [], [])
    shout.send("b")
    assert shout.one().data == "B?"


def test_a_wrong_outbox_is_named_and_a_right_one_suggested() -> None:
    with drive(Sort, outboxes=("odd", "even")) as kit:
        with pytest.raises(UsageError, match="no outbox 'eve'; did you mean 'even'"):
            kit.sent("eve")
        with pytest.raises(UsageError, match="say which outbox; there are: 'even', 'odd'"):
            kit.sent()


def test_one_says_what_there_is_instead(shout: Kit[Shout]) -> None:
    with pytest.raises(AssertionError, match="<Shout 'shout'> sent none"):
        shout.one()
    shout.send("a")
    shout.send("b")
    with pytest.raises(AssertionError, match=r"(?s)data='A[?]'.*data='B[?]'"):
        shout.one()


# ---- what is held ---------------------------------------------------------------------------------------------------


def test_kept_and_delayed_events_can_be_looked_at() -> None:
    def handle(actor: Actor, event: Event) -> None:
        if event.data == "keep":
            actor.keep(event)
        elif not event.attempts:
            raise Retry
        else:
            actor.send_event(event)

    with drive(Handler, "patient", handle, allow_left=True) as kit:
        kept = kit.send("keep")
        delayed = kit.send("again")
        assert (kit.kept, kit.delayed, kit.sent()) == ([kept], [delayed], [])
        kit.advance(0.1)
        assert (kit.delayed, kit.sent()) == ([], [delayed])


def test_what_is_left_at_the_end_fails_the_test_unless_it_is_allowed() -> None:
    with (
        pytest.raises(AssertionError, match=r"(?s)not everything drained.*dead letter \(stopped\) of 'sort'"),
        drive(Sort, outboxes=("odd", "even")) as kit,
    ):
        kit.send(0)
    with drive(Sort, outboxes=("odd", "even"), allow_left=True) as kit:
        kit.send(0)


# ---- failures -------------------------------------------------------------------------------------------------------


def test_a_failed_event_is_among_the_errors(shout: Kit[Shout]) -> None:
    event = shout.send(7)
    assert shout.errors == [event]
    assert event.error is not None
    assert event.error.error_class is AttributeError


def test_without_an_error_outbox_it_is_a_dead_letter() -> None:
    with drive(Shout, error_outbox=False) as kit:
        kit.send(7)
        assert [letter.reason for letter in kit.dead_letters] == ["failed"]
        assert kit.errors == []


@pytest.mark.parametrize("error_outbox", [True, False])
def test_a_failure_that_nobody_looked_at_fails_the_test_with_its_traceback(error_outbox: bool) -> None:
    with (
        pytest.raises(AssertionError, match=r"(?s)looked at neither.*in consume.*AttributeError: 'int' object"),
        drive(Shout, error_outbox=error_outbox) as kit,
    ):
        kit.send(7)


def test_a_failing_test_says_what_failed_in_the_actor() -> None:
    with pytest.raises(AssertionError) as caught, drive(Shout) as kit:
        kit.send(7)
        kit.one()
    assert "AttributeError: 'int' object" in "\n".join(caught.value.__notes__)


def test_a_restart_can_be_driven() -> None:
    def handle(actor: Actor, event: Event) -> None:
        if not event.attempts:
            raise Fatal
        actor.send_event(event)

    with drive(Handler, "fragile", handle) as kit:
        kit.send(1)
        assert (kit.state.state, kit.sent()) == ("restarting", [])
        kit.advance(0.1)
        assert (kit.state.restarts, kit.one().data) == (1, 1)


def test_what_cannot_be_registered_or_started_says_so() -> None:
    class Broken(Actor):
        def pre_hook(self) -> None:
            raise OSError("no such device")

    with pytest.raises(RegistrationError, match="cannot be registered"), drive(Shout, "shout", 1, 2, 3):
        pass
    with pytest.raises(StartError, match="no such device"), drive(Broken):
        pass


# ---- time -----------------------------------------------------------------------------------------------------------


def test_a_background_greenlet_moves_with_the_clock() -> None:
    class Tick(Actor):
        def pre_hook(self) -> None:
            self.background(self.tick)

        def tick(self) -> None:
            number = 0
            while self.loop():
                self.send_event(self.create_event(number))
                number += 1
                self.sleep(60.0)

    began = time.perf_counter()
    with drive(Tick) as kit:
        kit.advance(3600.0)
        assert [event.data for event in kit.sent()] == list(range(61))
    assert time.perf_counter() - began < 60.0


def test_send_waits_for_what_is_offloaded() -> None:
    def handle(actor: Actor, event: Event) -> None:
        event.data = actor.offload(time.sleep, 0.01)
        actor.send_event(event)

    with drive(Handler, "busy", handle) as kit:
        kit.send(1)
        assert kit.one().data is None


def test_without_settling_send_only_puts() -> None:
    with drive(Shout) as kit:
        kit.send("a", settles=False)
        assert kit.sent() == []
        kit.settle()
        assert kit.one().data == "A!"


def test_an_actor_that_never_rests_is_shown_with_its_stack() -> None:
    def handle(actor: Actor, event: Event) -> None:
        while actor.loop():
            gevent.sleep(0)

    with (
        pytest.raises(AssertionError, match=r"(?s)waited 0.05 s for everything to settle.*in handle"),
        drive(Handler, "restless", handle, allow_left=True) as kit,
    ):
        kit.send(1, settles=False)
        kit.settle(0.05)


def test_a_real_clock_cannot_be_advanced() -> None:
    with drive(Shout, clock=Clock()) as kit:
        kit.send("a")
        with pytest.raises(UsageError, match="use wait_until"):
            kit.advance(1.0)


def test_a_full_outbox_makes_the_actor_wait() -> None:
    with drive(Shout, options=ActorOptions(concurrency=1), size=2) as kit:
        kit.collectors["out"].pause()
        for text in "abcd":
            kit.send(text)
        assert (kit.state.waiting_puts, kit.state.queued) == (1, 1)
        kit.collectors["out"].resume()
        kit.settle()
        assert [event.data for event in kit.sent()] == ["A!", "B!", "C!", "D!"]


def test_stop_runs_on_drain_and_reports() -> None:
    class Hold(Actor):
        def consume(self, event: Event) -> None:
            self.held = event
            self.keep(event)

        def on_drain(self) -> None:
            self.send_event(self.held)

    with drive(Hold) as kit:
        event = kit.send(1)
        assert kit.stop().ok
        assert kit.one() is event
