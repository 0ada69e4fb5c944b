# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.lineage`: who waits is told, once, never early, and in the thread of the loop."""

import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent import get_hub
from hypothesis import given, settings
from hypothesis import strategies as st

from compysition.deadlines import TICK_S, DeadlineWheel
from compysition.event import Event, Failure
from compysition.ledger import DELIVERED, ENDINGS, Ledger, Outcome
from compysition.lineage import AskTicket, Ticket, TicketState, answer
from compysition.testing import VirtualClock
from tests.unit.kernel import turn, wait_until


class InHand:
    """Stands for a consumer's hand."""

    sender: object | None = "a"


HAND = InHand()


class Waiter:
    """Makes tickets, and events they wait for."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.wheel = DeadlineWheel(self.clock)
        self.ledger = Ledger()

    def ticket(self, cls: type[Ticket] = Ticket, timeout_s: float | None = 30.0) -> Ticket:
        return cls(self.clock, self.wheel, timeout_s, get_hub().loop)

    def event_of(self, ticket: Ticket, data: Any = None) -> Event:
        event = Event(data)
        ticket.attach(event)
        return event

    def in_hand(self, event: Event) -> Event:
        self.ledger.move(event, HAND, HAND.sender, in_handler=False)
        return event

    def close(self) -> None:
        self.wheel.close()


def state_of(ticket: Ticket) -> TicketState:
    """The state as it is now; to mypy an attribute stays what it was compared with."""
    return ticket.state


@pytest.fixture
def waiter() -> Iterator[Waiter]:
    waiter = Waiter()
    yield waiter
    waiter.close()


# ---- the end of all branches ----------------------------------------------------------------------------------------


def test_ticket_ends_when_its_only_event_is_gone(waiter: Waiter) -> None:
    ticket = waiter.ticket()
    event = waiter.event_of(ticket)
    turn()
    assert state_of(ticket) is TicketState.OPEN
    del event
    turn()
    assert state_of(ticket) is TicketState.ENDED


def test_finalizer_only_queues_a_call(waiter: Waiter) -> None:
    # It may run anywhere, in the middle of anything.
    ticket = waiter.ticket()
    event = waiter.event_of(ticket)
    del event
    assert state_of(ticket) is TicketState.OPEN
    turn()
    assert state_of(ticket) is TicketState.ENDED


def test_ticket_does_not_end_while_a_copy_or_a_created_event_lives(waiter: Waiter) -> None:
    ticket = waiter.ticket()
    event = waiter.event_of(ticket)
    twin = event.copy()
    child = twin._derive("part")
    for name in ("event", "twin"):
        if name == "event":
            del event
        else:
            del twin
        turn()
        assert state_of(ticket) is TicketState.OPEN
    del child
    turn()
    assert state_of(ticket) is TicketState.ENDED


@given(st.lists(st.tuples(st.sampled_from(["copy", "derive", "drop"]), st.integers(0, 9)), max_size=25))
@settings(max_examples=40)
def test_ticket_ends_with_the_last_event_of_its_lineage_and_never_before(steps: list[tuple[str, int]]) -> None:
    waiter = Waiter()
    ticket = waiter.ticket()
    living = [waiter.event_of(ticket)]
    for what, number in steps:
        if not living:
            break
        if what == "drop":
            living.pop(number % len(living))
        elif what == "copy":
            living.append(living[number % len(living)].copy())
        else:
            living.append(living[number % len(living)]._derive(None))
        gevent.sleep(0.0002)
        assert (state_of(ticket) is TicketState.OPEN) == bool(living)
    living.clear()
    wait_until(lambda: state_of(ticket) is TicketState.ENDED)
    waiter.close()


def test_ticket_does_not_keep_its_lineage_alive(waiter: Waiter) -> None:
    ticket = waiter.ticket()
    event = waiter.event_of(ticket)
    seen = weakref.ref(event)
    del event
    assert seen() is None
    turn()
    assert state_of(ticket) is TicketState.ENDED


def test_event_in_a_cycle_ends_its_lineage_when_it_is_collected(waiter: Waiter) -> None:
    ticket = waiter.ticket()
    gc.disable()
    try:
        event = waiter.event_of(ticket)
        event.set("myself", event)
        del event
        turn()
        assert state_of(ticket) is TicketState.OPEN
        gc.collect()
    finally:
        gc.enable()
    turn()
    assert state_of(ticket) is TicketState.ENDED


def test_event_in_a_cycle_ends_its_lineage_at_the_deadline_at_the_latest(waiter: Waiter) -> None:
    ticket = waiter.ticket(timeout_s=5.0)
    event = waiter.event_of(ticket)
    event.set("myself", event)
    waiter.clock.advance(5.0 + 2 * TICK_S)
    assert state_of(ticket) is TicketState.EXPIRED
    event.set("myself", None)


def test_last_event_may_go_in_another_thread(waiter: Waiter) -> None:
    threads: list[int] = []

    class NotingTicket(Ticket):
        __slots__ = ()

        def on_branches_ended(self) -> None:
            threads.append(threading.get_ident())
            super().on_branches_ended()

    ticket = waiter.ticket(NotingTicket)
    holder = [waiter.event_of(ticket)]
    thread = threading.Thread(target=holder.clear)
    thread.start()
    # The waiting greenlet is woken out of an idle loop.
    state = ticket.wait()
    thread.join()
    assert state is TicketState.ENDED
    assert threads == [threading.get_ident()]


def test_closed_ticket_is_not_told_of_the_end(waiter: Waiter) -> None:
    told: list[str] = []

    class NotingTicket(Ticket):
        __slots__ = ()

        def on_branches_ended(self) -> None:
            told.append("ended")

    ticket = waiter.ticket(NotingTicket)
    event = waiter.event_of(ticket)
    ticket.cancel()
    del event
    turn()
    assert told == []


def test_event_that_nobody_waits_for_carries_nothing() -> None:
    assert Event()._lineage is None
    assert Event().copy()._lineage is None


# ---- answers --------------------------------------------------------------------------------------------------------


def test_first_answer_is_taken_and_second_ones_are_dropped_and_counted(waiter: Waiter) -> None:
    ticket = waiter.ticket()
    first = waiter.in_hand(waiter.event_of(ticket, "first"))
    second, third = waiter.in_hand(first.copy()), waiter.in_hand(first.copy())
    outcomes = [answer(event, waiter.ledger) for event in (first, second, third)]
    assert outcomes == [Outcome.ANSWERED, Outcome.DROPPED, Outcome.DROPPED]
    assert state_of(ticket) is TicketState.ANSWERED
    assert ticket.answer is first
    assert (ticket.second, ticket.late) == (2, 0)
    assert [event._owner for event in (first, second)] == [ENDINGS[Outcome.ANSWERED], ENDINGS[Outcome.DROPPED]]


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_late_answer_expires_and_is_counted(waiter: Waiter, is_cancelled: bool) -> None:
    ticket = waiter.ticket(timeout_s=1.0)
    event = waiter.in_hand(waiter.event_of(ticket))
    if is_cancelled:
        ticket.cancel()
    else:
        waiter.clock.advance(2.0)
    assert answer(event, waiter.ledger) is Outcome.EXPIRED
    assert (ticket.late, ticket.second, ticket.answer) == (1, 0, None)


def test_answer_where_nobody_waits_is_delivered(waiter: Waiter) -> None:
    event = waiter.in_hand(Event())
    assert answer(event, waiter.ledger) is Outcome.DELIVERED
    assert event._owner is DELIVERED


def test_answer_takes_the_token_off_the_event(waiter: Waiter) -> None:
    ticket = waiter.ticket()
    event = waiter.in_hand(waiter.event_of(ticket))
    answer(event, waiter.ledger)
    assert event._lineage is None


def test_balance_is_even_over_answers(waiter: Waiter) -> None:
    ticket = waiter.ticket()
    event = waiter.in_hand(waiter.event_of(ticket))
    twin = waiter.in_hand(event.copy())
    answer(event, waiter.ledger)
    answer(twin, waiter.ledger)
    assert waiter.ledger.balance(0).is_even


# ---- what else can end an event -------------------------------------------------------------------------------------


def test_dead_event_fails_the_ticket_with_its_failure(waiter: Waiter) -> None:
    ticket = waiter.ticket()
    event = waiter.in_hand(waiter.event_of(ticket))
    failure = Failure(ValueError, "no")
    waiter.ledger.end(event, Outcome.DEAD, failure)
    assert state_of(ticket) is TicketState.FAILED
    assert ticket.failure is failure


@pytest.mark.parametrize("has_error", [True, False])
def test_dead_event_without_a_failure_fails_the_ticket_all_the_same(waiter: Waiter, has_error: bool) -> None:
    ticket = waiter.ticket()
    event = waiter.in_hand(waiter.event_of(ticket))
    if has_error:
        event.error = Failure(ValueError, "no")
    waiter.ledger.end(event, Outcome.DEAD)
    assert state_of(ticket) is TicketState.FAILED
    assert ticket.failure is not None
    assert ticket.failure is event.error or not has_error


def test_event_that_is_delivered_with_an_error_fails_the_ticket(waiter: Waiter) -> None:
    # It went over an error wire, and whoever took it was finished with it.
    ticket = waiter.ticket()
    event = waiter.in_hand(waiter.event_of(ticket))
    event.error = Failure(ValueError, "no")
    waiter.ledger.end(event, Outcome.DELIVERED)
    assert state_of(ticket) is TicketState.FAILED
    assert ticket.failure is event.error


@pytest.mark.parametrize("outcome", [Outcome.DELIVERED, Outcome.DROPPED, Outcome.EXPIRED, Outcome.HANDED_OVER])
def test_other_outcomes_leave_the_ticket_open_while_there_are_branches(waiter: Waiter, outcome: Outcome) -> None:
    ticket = waiter.ticket()
    event = waiter.in_hand(waiter.event_of(ticket))
    twin = event.copy()
    waiter.ledger.end(event, outcome)
    turn()
    assert state_of(ticket) is TicketState.OPEN
    assert ticket.has_drop == (outcome is Outcome.DROPPED)
    del twin, event
    turn()
    assert state_of(ticket) is TicketState.ENDED


def test_outcome_is_noted_before_the_end_of_the_branches(waiter: Waiter) -> None:
    ticket = waiter.ticket()
    event = waiter.in_hand(waiter.event_of(ticket))
    waiter.ledger.end(event, Outcome.DEAD, Failure(ValueError, "no"))
    del event
    turn()
    assert state_of(ticket) is TicketState.FAILED


def test_delivered_event_that_is_kept_by_a_user_may_still_answer(waiter: Waiter) -> None:
    ticket = waiter.ticket()
    event = waiter.in_hand(waiter.event_of(ticket))
    waiter.ledger.end(event, Outcome.DELIVERED)
    turn()
    assert state_of(ticket) is TicketState.OPEN
    assert answer(waiter.in_hand(event), waiter.ledger) is Outcome.ANSWERED


# ---- once -----------------------------------------------------------------------------------------------------------

CLOSING = {
    TicketState.ANSWERED: lambda ticket: ticket.offer(Event()),
    TicketState.FAILED: lambda ticket: ticket.fail(Failure(ValueError, "no")),
    TicketState.ENDED: lambda ticket: ticket.on_branches_ended(),
    TicketState.EXPIRED: lambda ticket: ticket.expire(),
    TicketState.CANCELLED: lambda ticket: ticket.cancel(),
}


@pytest.mark.parametrize("second", CLOSING)
@pytest.mark.parametrize("first", CLOSING)
def test_ticket_closes_once(waiter: Waiter, first: TicketState, second: TicketState) -> None:
    ticket = waiter.ticket()
    CLOSING[first](ticket)
    before = (ticket.answer, ticket.failure)
    CLOSING[second](ticket)
    assert state_of(ticket) is first
    assert (ticket.answer, ticket.failure) == before


@pytest.mark.parametrize("how", CLOSING)
def test_closed_ticket_leaves_nothing_in_the_wheel(waiter: Waiter, how: TicketState) -> None:
    ticket = waiter.ticket()
    assert len(waiter.wheel) == 1
    CLOSING[how](ticket)
    assert len(waiter.wheel) == 0


# ---- time -----------------------------------------------------------------------------------------------------------


def test_ticket_expires_at_its_deadline(waiter: Waiter) -> None:
    ticket = waiter.ticket(timeout_s=5.0)
    waiter.clock.advance(5.0 - TICK_S)
    assert (state_of(ticket), ticket.is_expired()) == (TicketState.OPEN, False)
    waiter.clock.advance(2 * TICK_S)
    assert state_of(ticket) is TicketState.EXPIRED
    assert ticket.is_expired()


def test_work_on_an_overdue_event_is_for_nobody_before_the_sweep_has_come(waiter: Waiter) -> None:
    ticket = waiter.ticket(timeout_s=5.0)
    waiter.clock.now += 5.0
    assert state_of(ticket) is TicketState.OPEN
    assert ticket.is_expired()


def test_ticket_without_a_timeout_waits_for_ever(waiter: Waiter) -> None:
    ticket = waiter.ticket(timeout_s=None)
    waiter.clock.advance(1e6)
    assert state_of(ticket) is TicketState.OPEN
    assert ticket.deadline is None
    assert not ticket.is_expired()
    assert len(waiter.wheel) == 0


@pytest.mark.parametrize(("how", "is_expired"), [(state, state.value in ("expired", "cancelled")) for state in CLOSING])
def test_work_is_for_nobody_when_nobody_waits_any_more(waiter: Waiter, how: TicketState, is_expired: bool) -> None:
    ticket = waiter.ticket()
    CLOSING[how](ticket)
    assert ticket.is_expired() == is_expired


# ---- waiting --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", CLOSING)
def test_whoever_waits_is_woken_when_the_ticket_closes(waiter: Waiter, how: TicketState) -> None:
    ticket = waiter.ticket()
    waiting = gevent.spawn(ticket.wait)
    turn()
    assert not waiting.dead
    CLOSING[how](ticket)
    assert waiting.get() is how


def test_wait_for_a_closed_ticket_returns_at_once(waiter: Waiter) -> None:
    ticket = waiter.ticket()
    ticket.cancel()
    assert ticket.wait() is TicketState.CANCELLED


def test_waiter_that_is_killed_is_not_woken_later(waiter: Waiter) -> None:
    ticket = waiter.ticket()
    steps: list[str] = []

    def wait() -> None:
        try:
            ticket.wait()
        except gevent.GreenletExit:
            steps.append("killed")
        gevent.sleep(0.003)
        steps.append("slept")

    waiting = gevent.spawn(wait)
    turn()
    waiting.kill(block=False)
    turn()
    ticket.cancel()
    waiting.join()
    assert steps == ["killed", "slept"]


# ---- ask ------------------------------------------------------------------------------------------------------------


def test_ask_is_answered_by_the_first_event_at_the_end_of_the_flow(waiter: Waiter) -> None:
    ticket = waiter.ticket(AskTicket)
    event = waiter.event_of(ticket)
    assert ticket.on_end_of_flow(event) is Outcome.ANSWERED
    assert ticket.on_end_of_flow(event.copy()) is Outcome.DROPPED
    assert ticket.answer is event


def test_end_of_a_flow_answers_no_other_ticket(waiter: Waiter) -> None:
    ticket = waiter.ticket()
    assert ticket.on_end_of_flow(waiter.event_of(ticket)) is Outcome.DELIVERED
    assert state_of(ticket) is TicketState.OPEN


def test_ask_without_an_answer_gets_the_last_event_that_a_handler_finished_with(waiter: Waiter) -> None:
    ticket = waiter.ticket(AskTicket)
    first = waiter.in_hand(waiter.event_of(ticket, "first"))
    last = waiter.in_hand(first.copy())
    last.data = "last"
    for event in (first, last):
        waiter.ledger.end(event, Outcome.DELIVERED)
    del first, event
    turn()
    assert state_of(ticket) is TicketState.ANSWERED
    assert ticket.answer is last


def test_ask_waits_for_branches_before_it_takes_what_was_finished(waiter: Waiter) -> None:
    ticket = waiter.ticket(AskTicket)
    event = waiter.in_hand(waiter.event_of(ticket))
    branch = waiter.in_hand(event.copy())
    waiter.ledger.end(event, Outcome.DELIVERED)
    turn()
    assert state_of(ticket) is TicketState.OPEN
    assert answer(branch, waiter.ledger) is Outcome.ANSWERED
    assert ticket.answer is branch


def test_ask_fails_when_a_branch_dies(waiter: Waiter) -> None:
    ticket = waiter.ticket(AskTicket)
    event = waiter.in_hand(waiter.event_of(ticket))
    twin = waiter.in_hand(event.copy())
    waiter.ledger.end(twin, Outcome.DEAD, Failure(ValueError, "no"))
    assert ticket.wait() is TicketState.FAILED
    assert event._lineage is not None
