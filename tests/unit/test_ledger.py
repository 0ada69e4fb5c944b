# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.ledger`: who may give an event to whom, and that the balance is even at every look."""

from collections.abc import Callable

import pytest
from gevent import get_hub
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from compysition.clock import Clock
from compysition.deadlines import DeadlineWheel
from compysition.errors import EventNotOwnedError
from compysition.event import FRESH, Event, Failure
from compysition.ledger import DELIVERED, ENDINGS, Balance, Holding, Ledger, Outcome, Owner
from compysition.lineage import Ticket, TicketState


class Sender:
    """Stands for an actor's cell."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name


class InHand:
    """Stands for a consumer's hand."""

    def __init__(self, sender: Sender) -> None:
        self.sender: object | None = sender


class InQueue:
    """Stands for a queue: nobody sends on what lies in it."""

    sender = None

    def __init__(self, cell: Sender) -> None:
        self.cell = cell


A, B = Sender("a"), Sender("b")
TO_A, TO_B = InQueue(A), InQueue(B)
HAND_OF_A, HAND_OF_B = InHand(A), InHand(B)


def owned(ledger: Ledger, owner: Owner) -> Event:
    """An event that came in from outside and belongs to `owner`."""
    event = Event()
    ledger.move(event, owner, None, in_handler=False)
    return event


def counts(ledger: Ledger) -> tuple[int, int, dict[Outcome, int]]:
    balance = ledger.balance(0)
    return balance.accepted, balance.born, {outcome: number for outcome, number in balance.ended.items() if number}


# ---- entering -------------------------------------------------------------------------------------------------------


def test_fresh_event_put_outside_any_handler_is_accepted() -> None:
    ledger, event = Ledger(), Event()
    former = ledger.move(event, TO_A, None, in_handler=False)
    assert former is FRESH
    assert event._owner is TO_A
    assert counts(ledger) == (1, 0, {})


def test_fresh_event_put_inside_a_handler_is_born() -> None:
    ledger, event = Ledger(), Event()
    ledger.move(event, TO_A, A, in_handler=True)
    assert counts(ledger) == (0, 1, {})


def test_event_that_nobody_has_put_anywhere_is_not_counted() -> None:
    ledger = Ledger()
    Event().copy()
    assert ledger.balance(0) == Balance(0, 0, 0, dict.fromkeys(Outcome, 0))


# ---- moving ---------------------------------------------------------------------------------------------------------


def test_event_out_of_the_senders_hand_is_moved_and_not_counted_again() -> None:
    ledger = Ledger()
    event = owned(ledger, HAND_OF_A)
    assert ledger.move(event, TO_B, A, in_handler=True) is HAND_OF_A
    assert event._owner is TO_B
    assert counts(ledger) == (1, 0, {})


def test_kept_event_is_held_until_its_holder_sends_it() -> None:
    ledger, kept = Ledger(), Holding(A, "kept")
    event = owned(ledger, HAND_OF_A)
    ledger.move(event, kept, A, in_handler=True)
    assert list(kept.events.values()) == [event]
    ledger.move(event, TO_B, A, in_handler=False)
    assert not kept.events
    assert counts(ledger) == (1, 0, {})


def test_kept_events_keep_their_order() -> None:
    ledger, kept = Ledger(), Holding(A, "kept")
    events = [owned(ledger, HAND_OF_A) for _ in range(5)]
    for event in events:
        ledger.move(event, kept, A, in_handler=True)
    assert list(kept.events.values()) == events


def test_keeping_twice_changes_nothing() -> None:
    ledger, kept = Ledger(), Holding(A, "kept")
    event = owned(ledger, HAND_OF_A)
    ledger.move(event, kept, A, in_handler=True)
    ledger.move(event, kept, A, in_handler=True)
    assert list(kept.events.values()) == [event]
    assert counts(ledger) == (1, 0, {})


def test_delivered_event_that_is_sent_is_born_again_and_said() -> None:
    resent: list[tuple[Event, object]] = []
    ledger = Ledger(lambda event, sender: resent.append((event, sender)))
    event = owned(ledger, HAND_OF_A)
    ledger.end(event, Outcome.DELIVERED)
    assert ledger.move(event, TO_B, A, in_handler=False) is DELIVERED
    assert resent == [(event, A)]
    assert event._owner is TO_B
    assert counts(ledger) == (1, 1, {Outcome.DELIVERED: 1})


# ---- not the sender's to give ---------------------------------------------------------------------------------------


def ended(outcome: Outcome) -> Callable[[Ledger], Event]:
    def make(ledger: Ledger) -> Event:
        event = owned(ledger, HAND_OF_A)
        ledger.end(event, outcome)
        return event

    return make


NOT_MINE: dict[str, tuple[Callable[[Ledger], Event], str]] = {
    "in a queue": (lambda ledger: owned(ledger, TO_B), r"was already sent to 'b'"),
    "in another's hand": (lambda ledger: owned(ledger, HAND_OF_B), r"is in the hand of 'b'"),
    "kept by another": (lambda ledger: owned(ledger, Holding(B, "kept")), r"is kept by 'b'"),
    **{
        outcome.value: (ended(outcome), rf"has ended \({outcome.value}\)")
        for outcome in Outcome
        if outcome is not Outcome.DELIVERED
    },
}


@pytest.mark.parametrize("where", NOT_MINE)
def test_event_that_is_not_the_senders_is_refused_in_words_and_stays_where_it_is(where: str) -> None:
    make, words = NOT_MINE[where]
    ledger = Ledger()
    event = make(ledger)
    owner, before = event._owner, counts(ledger)
    with pytest.raises(EventNotOwnedError, match=words) as raised:
        ledger.move(event, TO_A, A, in_handler=True)
    assert event.event_id in str(raised.value)
    assert "send event.copy(), or self.create_event(data=…) for each part" in str(raised.value)
    assert event._owner is owner
    assert counts(ledger) == before


@pytest.mark.parametrize("owner", [HAND_OF_A, Holding(A, "kept"), TO_A], ids=["hand", "kept", "queue"])
def test_who_posts_from_outside_may_give_fresh_and_delivered_events_only(owner: Owner) -> None:
    ledger = Ledger()
    event = owned(ledger, owner)
    with pytest.raises(EventNotOwnedError):
        ledger.move(event, TO_A, None, in_handler=False)


# ---- taking back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_handler", [True, False])
def test_undone_entry_was_never_counted(in_handler: bool) -> None:
    ledger, event = Ledger(), Event()
    former = ledger.move(event, TO_A, None, in_handler=in_handler)
    ledger.undo(event, former, in_handler=in_handler)
    assert event._owner is FRESH
    assert counts(ledger) == (0, 0, {})


@pytest.mark.parametrize("in_handler", [True, False])
def test_undone_rebirth_leaves_the_event_delivered(in_handler: bool) -> None:
    ledger = Ledger()
    event = owned(ledger, HAND_OF_A)
    ledger.end(event, Outcome.DELIVERED)
    former = ledger.move(event, TO_B, A, in_handler=in_handler)
    ledger.undo(event, former, in_handler=in_handler)
    assert event._owner is DELIVERED
    assert counts(ledger) == (1, 0, {Outcome.DELIVERED: 1})


def test_undone_send_out_of_a_hand_is_in_that_hand_again() -> None:
    ledger = Ledger()
    event = owned(ledger, HAND_OF_A)
    former = ledger.move(event, TO_B, A, in_handler=True)
    ledger.undo(event, former, in_handler=True)
    assert event._owner is HAND_OF_A
    assert counts(ledger) == (1, 0, {})


def test_undone_send_of_a_kept_event_is_kept_again() -> None:
    ledger, kept = Ledger(), Holding(A, "kept")
    event = owned(ledger, kept)
    former = ledger.move(event, TO_B, A, in_handler=False)
    ledger.undo(event, former, in_handler=False)
    assert event._owner is kept
    assert list(kept.events.values()) == [event]


# ---- ending ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", Outcome)
def test_event_ends_in_exactly_one_named_way(outcome: Outcome) -> None:
    ledger = Ledger()
    event = owned(ledger, HAND_OF_A)
    ledger.end(event, outcome)
    assert event._owner is ENDINGS[outcome]
    assert counts(ledger) == (1, 0, {outcome: 1})


@pytest.mark.parametrize("outcome", Outcome)
def test_ended_event_is_kept_no_longer(outcome: Outcome) -> None:
    ledger, kept = Ledger(), Holding(A, "kept")
    event = owned(ledger, kept)
    ledger.end(event, outcome)
    assert not kept.events


def test_outcomes_are_those_of_the_design() -> None:
    assert {outcome.value for outcome in Outcome} == {
        *("delivered", "answered", "dead", "expired", "dropped", "handed_over"),
    }


def test_event_is_ended_in_the_ledger_that_counted_it_in() -> None:
    # Log records are counted apart, whoever ends them.
    flow, logs = Ledger(), Ledger()
    event = owned(logs, HAND_OF_A)
    flow.end(event, Outcome.DEAD)
    assert counts(logs) == (1, 0, {Outcome.DEAD: 1})
    assert counts(flow) == (0, 0, {})


@pytest.mark.parametrize("outcome", Outcome)
def test_end_is_noted_with_whoever_waits_and_the_token_goes_unless_delivered(outcome: Outcome) -> None:
    clock = Clock()
    ticket = Ticket(clock, DeadlineWheel(clock), None, get_hub().loop)
    ledger, event = Ledger(), Event()
    ticket.attach(event)
    ledger.move(event, HAND_OF_A, None, in_handler=False)
    ledger.end(event, outcome, Failure(ValueError, "no") if outcome is Outcome.DEAD else None)
    state = ticket.state
    assert (event._lineage is not None) == (outcome is Outcome.DELIVERED)
    assert state is (TicketState.FAILED if outcome is Outcome.DEAD else TicketState.OPEN)
    ticket.cancel()


# ---- the balance ----------------------------------------------------------------------------------------------------


def test_balance_is_even_when_all_that_came_in_has_ended_or_is_held() -> None:
    assert Balance(3, 2, 1, {Outcome.DELIVERED: 3, Outcome.DEAD: 1}).is_even
    assert not Balance(3, 2, 0, {Outcome.DELIVERED: 3, Outcome.DEAD: 1}).is_even
    assert not Balance(3, 2, 2, {Outcome.DELIVERED: 3, Outcome.DEAD: 1}).is_even


def test_balance_reads_as_an_equation() -> None:
    even = Balance(3, 1, 1, {Outcome.DELIVERED: 2, Outcome.DEAD: 1, Outcome.EXPIRED: 0})
    assert str(even) == "3 accepted + 1 born = 2 delivered + 1 dead + 1 held"
    assert str(Balance(1, 0, 0)) == "1 accepted + 0 born ≠ 0 + 0 held"


def test_balance_is_a_picture_of_its_moment() -> None:
    ledger = Ledger()
    event = owned(ledger, HAND_OF_A)
    before = ledger.balance(1)
    ledger.end(event, Outcome.DEAD)
    assert before.is_even
    assert before.ended[Outcome.DEAD] == 0


# ---- any history whatever -------------------------------------------------------------------------------------------

OWNERS = {"to a": TO_A, "to b": TO_B}
SENDERS = st.sampled_from([A, B, None])


class Histories(RuleBasedStateMachine):
    """Events go their ways in any order, allowed or not; a model says what has to be."""

    events = Bundle("events")

    def __init__(self) -> None:
        super().__init__()
        self.resent: list[Event] = []
        self.ledger = Ledger(lambda event, sender: self.resent.append(event))
        self.kept = {A: Holding(A, "kept"), B: Holding(B, "kept")}
        self.all: list[Event] = []
        self.accepted = self.born = self.rebirths = 0
        self.ended = dict.fromkeys(Outcome, 0)

    def may_give(self, event: Event, sender: Sender | None) -> bool:
        owner = event._owner
        if owner is FRESH or owner is DELIVERED:
            return True
        return sender is not None and (owner is self.hands()[sender] or owner is self.kept[sender])

    @staticmethod
    def hands() -> dict[Sender, InHand]:
        return {A: HAND_OF_A, B: HAND_OF_B}

    @rule(target=events)
    def make(self) -> Event:
        event = Event()
        self.all.append(event)
        return event

    def attempt(self, event: Event, to: Owner, sender: Sender | None, in_handler: bool) -> Owner | None:
        former = event._owner
        if not self.may_give(event, sender):
            with pytest.raises(EventNotOwnedError):
                self.ledger.move(event, to, sender, in_handler=in_handler)
            assert event._owner is former
            return None
        assert self.ledger.move(event, to, sender, in_handler=in_handler) is former
        assert event._owner is to
        return former

    def count_in(self, former: Owner | None, in_handler: bool) -> None:
        if former is DELIVERED:
            self.born += 1
            self.rebirths += 1
        elif former is FRESH:
            self.born += in_handler
            self.accepted += not in_handler

    @rule(event=events, to=st.sampled_from(list(OWNERS)), sender=SENDERS, in_handler=st.booleans())
    def send(self, event: Event, to: str, sender: Sender | None, in_handler: bool) -> None:
        self.count_in(self.attempt(event, OWNERS[to], sender, in_handler), in_handler)

    @rule(event=events, sender=st.sampled_from([A, B]), in_handler=st.booleans())
    def keep(self, event: Event, sender: Sender, in_handler: bool) -> None:
        self.count_in(self.attempt(event, self.kept[sender], sender, in_handler), in_handler)

    @rule(event=events, sender=SENDERS, in_handler=st.booleans())
    def send_and_take_back(self, event: Event, sender: Sender | None, in_handler: bool) -> None:
        former = self.attempt(event, TO_A, sender, in_handler)
        if former is not None:
            self.rebirths += former is DELIVERED
            self.ledger.undo(event, former, in_handler=in_handler)
            assert event._owner is former

    @rule(event=events)
    def take(self, event: Event) -> None:
        """What the main loop does."""
        if event._owner is TO_A or event._owner is TO_B:
            event._owner = HAND_OF_A if event._owner is TO_A else HAND_OF_B

    @rule(event=events, outcome=st.sampled_from(Outcome))
    def end(self, event: Event, outcome: Outcome) -> None:
        if event._owner is not FRESH and event._owner not in ENDINGS.values():
            self.ledger.end(event, outcome)
            self.ended[outcome] += 1

    @invariant()
    def balance_is_even(self) -> None:
        held = sum(1 for event in self.all if event._owner is not FRESH and event._owner not in ENDINGS.values())
        balance = self.ledger.balance(held)
        assert balance.is_even, str(balance)
        assert (balance.accepted, balance.born, balance.ended) == (self.accepted, self.born, self.ended)

    @invariant()
    def kept_events_are_those_that_are_kept(self) -> None:
        for kept in self.kept.values():
            assert set(kept.events) == {id(event) for event in self.all if event._owner is kept}

    @invariant()
    def each_rebirth_is_said(self) -> None:
        assert len(self.resent) == self.rebirths


def test_balance_is_even_whatever_happens_to_events() -> None:
    run_state_machine_as_test(Histories, settings=settings(max_examples=60, stateful_step_count=40))
