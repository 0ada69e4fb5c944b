# SPDX-License-Identifier: Apache-2.0
"""A whole Director in a test, with `running`."""

import re

import gevent
import pytest

from compysition import Actor, Director, Event, Outcome
from compysition.actors import FlowController
from compysition.testing import Collector, Handler, assert_conserved, ended, letters, running, settle, stop

pytestmark = [pytest.mark.patched, pytest.mark.unpatched]


def keep(actor: Actor, event: Event) -> None:
    actor.keep(event)


def build() -> tuple[Director, FlowController, Collector]:
    director = Director(name="flow")
    first = director.register_actor(FlowController, "first")
    last = director.register_actor(Collector, "last")
    director.connect_queue(first, last)
    return director, first, last


def test_it_runs_in_the_block_and_has_stopped_behind_it() -> None:
    director, first, last = build()
    with running(director) as same:
        assert same is director
        assert director.ask(first, "a").data == "a"
    assert not director.is_running()
    assert last.data == ["a"]
    assert ended(director, Outcome.ANSWERED) == 1


def test_what_is_left_fails_with_report_balance_letters_and_stacks() -> None:
    director = Director()
    keeper = director.register_actor(Handler, "keeper", keep)
    with pytest.raises(AssertionError) as caught, running(director, stop_timeout_s=0.05):
        director.post(keeper, "precious")
        settle()
    text = str(caught.value)
    assert "1 left" in text
    assert "balance: 1 accepted + 0 born = 1 dead + 0 held" in text
    assert re.search(r"dead letter \(stopped\) of 'keeper': Event\(.*'precious'\)", text)
    assert "parked consumers" in text


def test_what_is_left_may_be_allowed() -> None:
    director = Director()
    keeper = director.register_actor(Handler, "keeper", keep)
    with running(director, stop_timeout_s=0.05, allow_left=True):
        director.post(keeper, 1)
    assert [letter.event.data for letter in letters(director, "stopped")] == [1]


def test_the_failure_of_the_block_is_what_is_raised_and_nobody_waits_for_the_stop() -> None:
    director = Director()
    keeper = director.register_actor(Handler, "keeper", keep)
    with pytest.raises(ZeroDivisionError), running(director, stop_timeout_s=3600.0):
        director.post(keeper, 1)
        raise ZeroDivisionError
    assert not director.is_running()


def test_a_director_that_the_block_has_stopped_is_checked_all_the_same() -> None:
    director = Director()
    keeper = director.register_actor(Handler, "keeper", keep)
    with pytest.raises(AssertionError, match="not everything drained"), running(director):
        director.post(keeper, 1)
        stop(director, 0.05)


def test_a_lost_event_is_seen_and_described() -> None:
    director, first, last = build()
    with (
        pytest.raises(AssertionError, match=r"(?s)balance of events is not even: 1 accepted.*<Director 'flow' running"),
        running(director),
    ):
        director.post(first, 1)
        settle()
        director.ledger.delivered -= 1
        try:
            assert_conserved(director)
        finally:
            director.ledger.delivered += 1
    assert last.data == [1]


def test_a_dead_event_without_a_dead_letter_is_seen() -> None:
    director = Director()
    director.register_actor(Handler, "broken", lambda actor, event: 1 / 0)
    with running(director):
        director.post("broken", 1)
        settle()
        director.dead_letters.clear()
        with pytest.raises(AssertionError, match="1 events are dead, but there were 0 dead letters"):
            assert_conserved(director)
        assert_conserved(director, cleared=1)
        # `running` looks once more, and has to find it.
        director.dead_letters.lost += 1


def test_a_collector_sends_on_and_tells_where_events_came_from() -> None:
    director = Director()
    first = director.register_actor(Collector, "first")
    last = director.register_actor(Collector, "last")
    director.connect_queue(first, (last, "inbox"))
    with running(director):
        director.post(first, 1, "door")
        gevent.sleep(0)
        settle()
    assert first.origins == [("", "door")]
    assert last.origins == [("first", "inbox")]
    assert last.data == [1]
