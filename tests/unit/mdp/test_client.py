# SPDX-License-Identifier: Apache-2.0
"""Rules of the client's side: which broker, which socket, when again, and one end for each request."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compysition.errors import ConfigurationError
from compysition.mdp.client import Call, Client, ClientSettings, Connect, Hangup, NewsKind, Transmit, Wire
from compysition.mdp.envelope import BY_BROKER, ERROR, NO_REDISPATCH, REPLY, REQUEST, Envelope
from compysition.mdp.hello import Capabilities
from compysition.mdp.link import Purpose
from tests.unit.mdp.notation import frames, text_of

CAPABILITIES = Capabilities("00" * 16, 1000, 3)
A, B = "tcp://a", "tcp://b"


class Held:
    """A client whose sockets are held by the test."""

    def __init__(
        self, *, is_ours: bool, brokers: tuple[str, ...] = (A,), settings: ClientSettings | None = None
    ) -> None:
        self.now = 0.0
        self.is_ours = is_ours
        self.client = Client(settings or ClientSettings(), lambda number: 0.05)
        self.open: list[Wire] = []
        self.sent: list[tuple[Wire, list[bytes]]] = []
        self.refusing: set[str] = set()
        self.next = 0
        self.client.set_brokers(brokers, 0.0)
        self.act()

    def act(self) -> None:
        while self.client.out:
            action = self.client.out.pop(0)
            if isinstance(action, Connect):
                self.open.append(action.wire)
                if action.wire.link.endpoint not in self.refusing:
                    self.client.connected(action.wire, self.now)
            elif isinstance(action, Hangup):
                self.open.remove(action.wire)
            elif isinstance(action, Transmit) and b"mmi.capabilities" in action.frames:
                answer = [b"200", CAPABILITIES.pack()] if self.is_ours else [b"501"]
                self.client.receive(action.wire, [*frames("'', MDPC01, mmi.capabilities"), *answer], self.now)
            elif isinstance(action, Transmit):
                self.sent.append((action.wire, action.frames))

    def ask(self, *, left_s: float | None = None, flags: int = 0) -> Call:
        self.next += 1
        deadline = None if left_s is None else self.now + left_s
        call = Call(self.next.to_bytes(16), b"echo", b"hi", deadline=deadline, flags=flags)
        self.client.ask(call, self.now)
        self.act()
        return call

    def wire_of(self, call: Call) -> Wire:
        assert call.wire is not None
        return call.wire

    def hear(self, wire: Wire, text: str, *envelope: Envelope) -> None:
        self.client.receive(wire, [*frames(text), *(one.pack() for one in envelope)], self.now)
        self.act()

    def answer(self, call: Call, text: str = "yo", *, status: int = 200, flags: int = 0, attempt: int = 1) -> None:
        envelope = Envelope(REPLY, call.id, flags, attempt, None, status)
        self.hear(self.wire_of(call), f"MDPC02, 0x03, echo, {text}", envelope)

    def kill(self, endpoint: str) -> None:
        self.refusing.add(endpoint)
        for wire in [wire for wire in self.open if wire.link.endpoint == endpoint]:
            self.client.lost(wire, self.now)
        self.act()

    def wait(self, seconds: float, *, are_pings_answered: bool = True) -> None:
        until = self.now + seconds
        while self.client.wakes_at <= until:
            self.now = self.client.wakes_at
            self.client.tick(self.now)
            self.act()
            for wire, sent in self.sent:
                if are_pings_answered and b"mmi.ping" in sent and wire.link.endpoint not in self.refusing:
                    self.client.receive(wire, frames("'', MDPC01, mmi.ping, 200, ''"), self.now)
            self.sent = [(wire, sent) for wire, sent in self.sent if b"mmi.ping" not in sent]
        self.now = until

    def news(self) -> list[tuple[Call, str, str]]:
        news, self.client.news[:] = list(self.client.news), []
        return [(one.call, one.kind.value, text_of(one.body)) for one in news]


# ---- sockets ----------------------------------------------------------------------------------------------------


def test_towards_a_foreign_broker_each_socket_carries_one_request() -> None:
    held = Held(is_ours=False)
    first, second = held.ask(), held.ask()
    assert held.wire_of(first) is not held.wire_of(second)
    assert {text_of(sent) for _, sent in held.sent} == {"'', MDPC01, echo, hi"}
    held.hear(held.wire_of(second), "'', MDPC01, echo, for second")
    assert held.news() == [(second, "final", "for second")]


def test_socket_is_used_again_after_its_answer_and_the_number_of_sockets_is_bounded() -> None:
    held = Held(is_ours=False, settings=ClientSettings(max_in_flight=2))
    calls = [held.ask() for _ in range(3)]
    assert [call.wire is None for call in calls] == [False, False, True]
    wire = held.wire_of(calls[0])
    held.hear(wire, "'', MDPC01, echo, yo")
    assert held.wire_of(calls[2]) is wire


def test_idle_sockets_beyond_one_are_closed_after_a_while() -> None:
    held = Held(is_ours=False)
    for call in [held.ask() for _ in range(3)]:
        held.hear(held.wire_of(call), "'', MDPC01, echo, yo")
    held.wait(31.0)
    assert sum(wire.purpose is Purpose.SINGLE for wire in held.open) == 1


def test_towards_a_broker_of_ours_one_socket_carries_all_and_ids_tell_them_apart() -> None:
    held = Held(is_ours=True)
    first, second = held.ask(left_s=2.0), held.ask()
    assert held.wire_of(first) is held.wire_of(second)
    envelope = Envelope.unpack(held.sent[0][1][-1], REQUEST)
    assert (envelope.id, envelope.left_ms, envelope.attempt) == (first.id, 2000, 1)
    held.answer(second, "for second")
    assert held.news() == [(second, "final", "for second")]


def test_reply_that_nobody_asked_for_is_dropped_and_counted() -> None:
    held = Held(is_ours=True)
    call = held.ask()
    wire = held.wire_of(call)
    held.hear(wire, "MDPC02, 0x03, echo, yo", Envelope(REPLY, bytes(16)))
    held.hear(wire, "MDPC02, 0x03, other, yo", Envelope(REPLY, call.id))
    held.hear(wire, "MDPC02, 0x03, echo, bare")
    held.answer(call)
    held.hear(wire, "MDPC02, 0x03, echo, twice", Envelope(REPLY, call.id))
    assert held.news() == [(call, "final", "yo")]
    assert held.client.counts["late or unasked reply"] == 4


@given(st.lists(st.lists(st.binary(max_size=40) | st.sampled_from([b"", b"MDPC02", b"\x03", b"echo"]), max_size=6)))
def test_any_frames_leave_a_client_alive(messages: list[list[bytes]]) -> None:
    held = Held(is_ours=True)
    call = held.ask()
    for message in messages:
        for wire in list(held.open):
            held.client.receive(wire, message, held.now)
    assert call.id in held.client.calls


# ---- which broker -----------------------------------------------------------------------------------------------


def test_broker_with_the_fewest_outstanding_is_asked_in_turn_among_equals() -> None:
    held = Held(is_ours=True, brokers=(A, B))
    calls = [held.ask() for _ in range(4)]
    used = [held.wire_of(call).link.endpoint for call in calls]
    assert sorted(used[:2]) == sorted(used[2:]) == [A, B]
    for call in calls:
        if held.wire_of(call).link.endpoint == B:
            held.answer(call)
    assert held.wire_of(held.ask()).link.endpoint == B


def test_request_of_a_broker_that_dies_goes_to_another_at_once_with_the_same_id() -> None:
    held = Held(is_ours=True, brokers=(A, B))
    call = held.ask()
    died = held.wire_of(call).link.endpoint
    held.kill(died)
    assert held.wire_of(call).link.endpoint != died
    ids = [Envelope.unpack(sent[-1], REQUEST).id for _, sent in held.sent]
    assert ids == [call.id, call.id]
    assert held.now == 0.0


def test_request_that_may_not_be_sent_again_fails_with_its_broker() -> None:
    held = Held(is_ours=True, brokers=(A, B))
    call = held.ask(flags=NO_REDISPATCH)
    held.kill(held.wire_of(call).link.endpoint)
    [(failed, kind, _)] = held.news()
    assert (failed, kind) == (call, "failed")


def test_broker_that_refuses_because_it_stops_or_is_full_is_not_the_last_one_asked() -> None:
    held = Held(is_ours=True, brokers=(A, B))
    call = held.ask()
    first = held.wire_of(call).link.endpoint
    held.answer(call, "stopping", status=503, flags=ERROR | BY_BROKER)
    assert held.wire_of(call).link.endpoint != first
    held.answer(call, "full", status=503, flags=ERROR | BY_BROKER)
    assert held.news() == [(call, "final", "full")]


def test_error_of_a_worker_is_an_answer() -> None:
    held = Held(is_ours=True, brokers=(A, B))
    call = held.ask()
    held.answer(call, "no", status=503, flags=ERROR)
    assert held.news() == [(call, "final", "no")]


def test_broker_that_stops_answering_pings_is_down() -> None:
    held = Held(is_ours=True)
    call = held.ask()
    held.wait(2.9)
    assert call.tries == 1
    held.refusing.add(A)
    held.wait(4.1)
    assert not held.client.has_broker()


def test_broker_that_never_answered_is_not_judged_by_pings() -> None:
    held = Held(is_ours=False)
    held.client = Client(ClientSettings(), lambda number: 0.05)
    held.client.set_brokers([A], 0.0)
    for _ in range(3):
        for action in held.client.out:
            if isinstance(action, Connect):
                held.client.connected(action.wire, held.now)
        held.now += 0.5
        held.client.tick(held.now)
    held.client.out.clear()
    held.now += 100.0
    held.client.tick(held.now)
    assert held.client.has_broker()
    assert held.client.out == []


def test_broker_that_is_back_is_used_again() -> None:
    held = Held(is_ours=True)
    held.kill(A)
    call = held.ask()
    assert call.wire is None
    held.refusing.clear()
    for wire in held.open:
        held.client.connected(wire, held.now)
    held.wait(0.1)
    assert held.wire_of(call).link.endpoint == A


def test_broker_that_is_no_longer_named_is_used_until_its_connection_is_lost() -> None:
    held = Held(is_ours=True, brokers=(A,))
    held.client.set_brokers([], held.now)
    call = held.ask()
    assert held.wire_of(call).link.endpoint == A
    held.kill(A)
    assert held.client.links() == []
    assert held.open == []


# ---- the end ----------------------------------------------------------------------------------------------------


def test_deadline_ends_a_request_and_its_late_reply_is_dropped() -> None:
    held = Held(is_ours=True)
    call = held.ask(left_s=1.0)
    wire = held.wire_of(call)
    held.wait(1.1)
    [news] = held.client.news
    assert (news.kind, news.status) == (NewsKind.FAILED, 504)
    held.news()
    held.hear(wire, "MDPC02, 0x03, echo, late", Envelope(REPLY, call.id))
    assert held.news() == []


def test_socket_of_a_plain_request_that_was_given_up_is_closed() -> None:
    held = Held(is_ours=False)
    expired, cancelled = held.ask(left_s=1.0), held.ask()
    wires = {held.wire_of(expired), held.wire_of(cancelled)}
    held.client.cancel(cancelled, held.now)
    held.wait(1.1)
    assert not wires & set(held.open)


def test_foreign_broker_that_says_nothing_is_asked_again_on_a_new_socket_so_often() -> None:
    held = Held(is_ours=False, settings=ClientSettings(try_timeout_s=2.0, max_tries=3))
    call = held.ask()
    wires = []
    for _ in range(3):
        wires.append(held.wire_of(call))
        held.wait(2.1)
    assert len(set(wires)) == 3
    [(failed, kind, text)] = held.news()
    assert (failed, kind) == (call, "failed")
    assert "3 tries" in text


def test_request_is_refused_when_no_broker_is_there_for_a_while() -> None:
    held = Held(is_ours=True, brokers=())
    call = held.ask()
    held.wait(5.1)
    [news] = held.client.news
    assert (news.call, news.kind, news.status) == (call, NewsKind.FAILED, 503)


def test_partial_replies_are_news_in_order_and_a_higher_attempt_starts_over() -> None:
    held = Held(is_ours=True)
    call = held.ask()
    wire = held.wire_of(call)
    for text, attempt in (("a", 1), ("b", 1), ("a", 2), ("stale", 1), ("b", 2)):
        held.hear(wire, f"MDPC02, 0x02, echo, {text}", Envelope(REPLY, call.id, attempt=attempt))
    held.answer(call, "end", attempt=2)
    assert [(text_of(one.body), one.is_restart) for one in held.client.news] == [
        ("a", False),
        ("b", False),
        ("a", True),
        ("b", False),
        ("end", False),
    ]


def test_stream_that_goes_on_at_another_broker_starts_over() -> None:
    held = Held(is_ours=True, brokers=(A, B))
    call = held.ask()
    held.hear(held.wire_of(call), "MDPC02, 0x02, echo, a", Envelope(REPLY, call.id))
    held.kill(held.wire_of(call).link.endpoint)
    held.answer(call, "whole")
    assert [(text_of(one.body), one.is_restart) for one in held.client.news] == [("a", False), ("whole", True)]


@pytest.mark.parametrize("wrong", [{"protocol": "0.3"}, {"envelope": "never"}, {"max_in_flight": 0}])
def test_setting_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    make: Callable[..., object] = ClientSettings
    with pytest.raises(ConfigurationError, match=next(iter(wrong))):
        make(**wrong)
