# SPDX-License-Identifier: Apache-2.0
"""Rules of the broker beyond the vectors: fairness, at least once, deadlines, bounds, our envelope and credit."""

import json

import pytest

from compysition.errors import ConfigurationError
from compysition.mdp.broker import BrokerSettings, Ending
from compysition.mdp.envelope import ERROR, NO_REDISPATCH, NO_WAIT, REPLY, REQUEST, Envelope
from compysition.mdp.hello import Capabilities, WorkerHello
from tests.unit.mdp.notation import BROKER_ID, SpokenTo, text_of

READY = "w, '', MDPW01, 0x01, echo"
OTHER_READY = "x, '', MDPW01, 0x01, echo"
OUT = "w, '', MDPW01, 0x05"


def hexed(frame: bytes) -> str:
    return f"<{frame.hex()}>"


def hello(credit: int) -> str:
    return f"o, MDPW02, 0x01, echo, {hexed(WorkerHello(credit, 'id', 7, 'host').pack())}"


def envelope(number: int = 1, *, flags: int = 0, left_ms: int | None = None, metadata: bytes = b"") -> Envelope:
    return Envelope(REQUEST, number.to_bytes(16), flags, left_ms=left_ms, metadata=metadata)


def ask(number: int = 1, *, client: str = "c", flags: int = 0, left_ms: int | None = None) -> str:
    return f"{client}, MDPC02, 0x01, echo, hi, {hexed(envelope(number, flags=flags, left_ms=left_ms).pack())}"


def answer_of(out: list[str]) -> Envelope:
    """The envelope of the one answer in `out`."""
    [text] = out
    return Envelope.unpack(bytes.fromhex(text.rpartition("<")[2].strip(">")), REPLY)


# ---- who is served ----------------------------------------------------------------------------------------------


def test_clients_take_turns_and_each_keeps_its_order() -> None:
    spoken = SpokenTo()
    for said in ("c1", "c2", "c3", "d1", "d2", "e1"):
        spoken.say(f"{said[0]}, '', MDPC01, echo, {said}")
    served = [spoken.say(READY)[0].rpartition(", ")[2]]
    while len(served) < 6:
        _, given = spoken.say(f"w, '', MDPW01, 0x03, {served[-1][0]}, '', done")
        served.append(given.rpartition(", ")[2])
    assert served == ["c1", "d1", "e1", "c2", "d2", "c3"]


def test_least_recently_used_worker_is_next() -> None:
    spoken = SpokenTo()
    for worker in "wxy":
        spoken.say(f"{worker}, '', MDPW01, 0x01, echo")
    used = []
    for _ in range(6):
        [text] = spoken.say("c, '', MDPC01, echo, hi")
        used.append(text[0])
        spoken.say(f"{text[0]}, '', MDPW01, 0x03, c, '', done")
    assert used == ["w", "x", "y", "w", "x", "y"]


def test_service_without_a_worker_holds_up_no_other() -> None:
    spoken = SpokenTo()
    spoken.say("c, '', MDPC01, nowhere, 1")
    spoken.say(READY)
    assert spoken.say("c, '', MDPC01, echo, 2") == ["w, '', MDPW01, 0x02, c, '', 2"]


def test_two_sockets_may_have_peers_of_the_same_address() -> None:
    spoken = SpokenTo()
    spoken.broker.receive("workers", [b"a", b"", b"MDPW01", b"\x01", b"echo"], 0.0)
    spoken.broker.receive("clients", [b"a", b"", b"MDPC01", b"echo", b"hi"], 0.0)
    [work] = spoken.broker.out
    assert (work.socket, text_of(work.frames)) == ("workers", "a, '', MDPW01, 0x02, a, '', hi")
    spoken.broker.out.clear()
    spoken.broker.receive("workers", [b"a", b"", b"MDPW01", b"\x03", b"a", b"", b"yo"], 0.0)
    [reply] = spoken.broker.out
    assert (reply.socket, text_of(reply.frames)) == ("clients", "a, '', MDPC01, echo, yo")


# ---- sessions ---------------------------------------------------------------------------------------------------


def test_stranger_is_told_to_go_once_per_liveness_period_and_its_ready_is_taken_at_any_time() -> None:
    spoken = SpokenTo()
    assert spoken.say("w, '', MDPW01, 0x04") == [OUT]
    assert spoken.say("w, '', MDPW01, 0x03, c, '', x") == []
    spoken.wait(7.5)
    assert spoken.say("w, '', MDPW01, 0x04") == [OUT]
    assert spoken.say(READY) == []
    assert len(spoken.broker.workers) == 1


def test_command_of_the_other_version_is_unexpected() -> None:
    spoken = SpokenTo()
    spoken.say(READY)
    assert spoken.say("w, MDPW02, 0x05") == [OUT]


def test_sign_of_life_ends_a_suspicion() -> None:
    spoken = SpokenTo()
    spoken.say(READY)
    spoken.say("c, '', MDPC01, echo, hi")
    spoken.wait(7.5)
    spoken.say("w, '', MDPW01, 0x04")
    assert spoken.say(OTHER_READY) == []
    assert spoken.say("w, '', MDPW01, 0x03, c, '', hi") == ["c, '', MDPC01, echo, hi"]


def test_suspect_is_not_waited_for_beyond_the_deadline_of_what_it_holds() -> None:
    spoken = SpokenTo()
    spoken.say(READY)
    spoken.say(ask(left_ms=9_000))
    spoken.wait(20.0)
    assert not spoken.broker.workers
    assert spoken.ended == {Ending.EXPIRED: 1}


def test_worker_that_cannot_be_reached_is_lost_at_once() -> None:
    spoken = SpokenTo()
    spoken.say(READY)
    spoken.broker.receive("router", [b"c", b"", b"MDPC01", b"echo", b"hi"], 0.0)
    [send] = spoken.broker.out
    spoken.taken()
    spoken.broker.undelivered(send, 0.0)
    assert spoken.say(OTHER_READY) == ["x, '', MDPW01, 0x02, c, '', hi"]


def test_reply_that_cannot_be_delivered_is_counted() -> None:
    spoken = SpokenTo()
    spoken.broker.receive("router", [b"c", b"", b"MDPC01", b"mmi.ping", b"x"], 0.0)
    [send] = spoken.broker.out
    spoken.broker.undelivered(send, 0.0)
    assert spoken.broker.counts["reply undelivered"] == 1


def test_broker_that_was_away_itself_does_not_blame_its_workers() -> None:
    spoken = SpokenTo()
    spoken.say(READY)
    spoken.now = 60.0
    spoken.broker.tick(60.0)
    assert len(spoken.broker.workers) == 1
    spoken.taken()
    spoken.wait(7.5)
    assert not spoken.broker.workers


def test_each_kind_of_malformed_input_is_counted_and_each_peer_is_noticed_once_a_period() -> None:
    spoken = SpokenTo()
    for _ in range(3):
        spoken.say("u, rubbish")
    spoken.say("t, MDPC02, 0x09, a, b")
    assert spoken.broker.counts == {"malformed: no header": 3, "malformed: unknown command": 1}
    assert [notice.key[1] for notice in spoken.broker.notices] == [b"u", b"t"]


def test_workers_beyond_the_limit_are_sent_away() -> None:
    spoken = SpokenTo(BrokerSettings(max_workers=1))
    spoken.say(READY)
    assert spoken.say(OTHER_READY) == ["x, '', MDPW01, 0x05"]


# ---- at least once ----------------------------------------------------------------------------------------------


def test_request_that_three_workers_were_lost_over_is_poison() -> None:
    spoken = SpokenTo()
    spoken.say(ask())
    for attempt in range(3):
        assert len(spoken.say(READY)) == 1
        out = spoken.say("w, '', MDPW01, 0x05")
        assert bool(out) == (attempt == 2)
    assert (answer_of(out).status, answer_of(out).flags) == (500, 0b101)
    [letter] = spoken.broker.letters
    assert (letter.reason, letter.attempt, letter.body) == ("poison", 3, (b"hi",))


def test_lost_requests_go_to_the_front_in_their_old_order() -> None:
    spoken = SpokenTo()
    spoken.say(hello(2))
    for number in (1, 2, 3):
        spoken.say(ask(number))
    spoken.say("o, MDPW02, 0x06")
    given = [bytes.fromhex(text.rpartition("<")[2].strip(">"))[23] for text in spoken.say(hello(3))]
    assert given == [1, 2, 3]


def test_request_that_may_not_go_again_is_refused_when_its_worker_is_lost() -> None:
    spoken = SpokenTo()
    spoken.say(READY)
    spoken.say(ask(flags=NO_REDISPATCH))
    assert answer_of(spoken.say("w, '', MDPW01, 0x05")).status == 503


def test_plain_client_that_saw_a_partial_reply_does_not_see_the_beginning_twice() -> None:
    spoken = SpokenTo()
    spoken.say("v, MDPW02, 0x01, echo")
    spoken.say("c, MDPC02, 0x01, echo, hi")
    spoken.say("v, MDPW02, 0x03, c, '', p1")
    assert spoken.say("v, MDPW02, 0x06") == []
    assert [letter.reason for letter in spoken.broker.letters] == ["partial_sent"]


def test_partial_replies_held_for_a_client_of_0_1_are_thrown_away_with_their_worker() -> None:
    spoken = SpokenTo()
    spoken.say("v, MDPW02, 0x01, echo")
    spoken.say("c, '', MDPC01, echo, hi")
    spoken.say("v, MDPW02, 0x03, c, '', p1")
    spoken.say("v, MDPW02, 0x06")
    spoken.say(READY)
    assert spoken.say("w, '', MDPW01, 0x03, c, '', whole") == ["c, '', MDPC01, echo, whole"]


def test_partial_replies_held_for_a_client_of_0_1_are_limited() -> None:
    spoken = SpokenTo(BrokerSettings(max_body_bytes=500))
    spoken.say("v, MDPW02, 0x01, echo")
    spoken.say("c, '', MDPC01, echo, hi")
    for _ in range(5):
        assert spoken.say(f"v, MDPW02, 0x03, c, '', {'p' * 100}") == []
    assert [letter.reason for letter in spoken.broker.letters] == ["too_large"]
    assert spoken.say("v, MDPW02, 0x04, c, '', end") == []
    assert spoken.say("d, MDPC02, 0x01, echo, hi") == ["v, MDPW02, 0x02, d, '', hi"]


# ---- deadlines --------------------------------------------------------------------------------------------------


def test_queued_request_expires_at_its_deadline() -> None:
    spoken = SpokenTo()
    spoken.say(READY)
    spoken.say(ask(1))
    spoken.say(ask(2, left_ms=1000))
    assert spoken.wait(0.99) == []
    assert answer_of(spoken.wait(0.1)).status == 504


def test_late_final_of_an_expired_request_frees_the_worker_and_goes_to_nobody() -> None:
    spoken = SpokenTo()
    spoken.say(READY)
    spoken.say(ask(1, left_ms=1000))
    assert answer_of(spoken.wait(1.1)).status == 504
    spoken.say(ask(2, client="d"))
    assert spoken.say("w, '', MDPW01, 0x03, c, '', late") == ["w, '', MDPW01, 0x02, d, '', hi"]
    assert spoken.broker.counts["late reply"] == 1


def test_time_in_the_queue_is_taken_off_what_the_worker_is_told() -> None:
    spoken = SpokenTo()
    spoken.say(ask(left_ms=10_000))
    spoken.wait(2.0)
    [work] = spoken.say(hello(1))
    assert Envelope.unpack(bytes.fromhex(work.rpartition("<")[2].strip(">")), REQUEST).left_ms == 8_000


def test_request_without_time_left_is_not_given_out() -> None:
    spoken = SpokenTo()
    spoken.say(READY)
    assert answer_of(spoken.say(ask(left_ms=0))).status == 504


def test_request_that_nobody_serves_is_refused_within_its_time() -> None:
    spoken = SpokenTo()
    spoken.say(ask(left_ms=10_000))
    assert answer_of(spoken.wait(8.1)).status == 503


def test_request_that_nobody_serves_expires_after_a_minute_and_a_plain_client_hears_nothing() -> None:
    spoken = SpokenTo()
    spoken.say("c, '', MDPC01, echo, hi")
    spoken.wait(59.9)
    assert len(spoken.broker.requests) == 1
    assert spoken.wait(0.2) == []
    assert spoken.ended == {Ending.EXPIRED: 1}
    assert spoken.broker.services == {}


def test_minute_without_a_worker_begins_when_the_last_one_leaves() -> None:
    spoken = SpokenTo()
    spoken.say(READY)
    for client in "cd":
        spoken.say(f"{client}, '', MDPC01, echo, hi")
    for _ in range(40):
        spoken.wait(2.5)
        spoken.say("w, '', MDPW01, 0x04")
    spoken.say("w, '', MDPW01, 0x05")
    spoken.wait(59.9)
    assert len(spoken.broker.requests) == 2
    spoken.wait(0.2)
    assert spoken.ended == {Ending.EXPIRED: 2}


def test_client_that_does_not_want_to_wait_is_told_that_nobody_serves() -> None:
    spoken = SpokenTo()
    assert answer_of(spoken.say(ask(1, flags=NO_WAIT))).status == 404
    spoken.say(READY)
    assert spoken.say(ask(2, flags=NO_WAIT)) == ["w, '', MDPW01, 0x02, c, '', hi"]


# ---- bounds -----------------------------------------------------------------------------------------------------


def test_full_queue_refuses_the_newest() -> None:
    spoken = SpokenTo(BrokerSettings(max_requests=1))
    spoken.say(ask(1))
    assert answer_of(spoken.say(ask(2))).status == 503
    assert spoken.say("c, '', MDPC01, echo, plain") == []
    assert [letter.reason for letter in spoken.broker.letters] == ["queue_full"] * 2


def test_bytes_of_all_requests_are_bounded_also_those_of_empty_ones() -> None:
    spoken = SpokenTo(BrokerSettings(max_held_bytes=100_000))
    for number in range(1000):
        spoken.say(f"c, '', MDPC01, service-{number}, ''")
    assert spoken.broker.size <= 100_000
    assert spoken.broker.ended[Ending.REFUSED] > 800


def test_body_beyond_the_limit_is_refused() -> None:
    spoken = SpokenTo(BrokerSettings(max_body_bytes=100))
    envelope_text = hexed(envelope().pack())
    assert answer_of(spoken.say(f"c, MDPC02, 0x01, echo, {'x' * 101}, {envelope_text}")).status == 413


def test_expired_requests_leave_nothing_behind() -> None:
    spoken = SpokenTo()
    for number in range(200):
        spoken.say(ask(number, left_ms=10 * number))
    spoken.wait(5.0)
    assert not spoken.broker.requests
    assert not spoken.broker.services
    assert len(spoken.broker.times) == 0


@pytest.mark.parametrize("name", ["heartbeat_s", "liveness", "max_requests"])
def test_setting_that_makes_no_sense_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        BrokerSettings(**{name: 0})


# ---- envelope and credit ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "byte", "status"),
    [pytest.param(5, 2, 400, id="version"), pytest.param(6, 2, 400, id="kind"), pytest.param(7, 0x80, 400, id="flags")],
)
def test_envelope_that_is_not_understood_is_refused_not_guessed(at: int, byte: int, status: int) -> None:
    frame = bytearray(envelope().pack())
    frame[at] = byte
    answer = answer_of(SpokenTo().say(f"c, MDPC02, 0x01, echo, hi, {hexed(bytes(frame))}"))
    assert (answer.status, answer.flags & ERROR, answer.id) == (status, ERROR, (1).to_bytes(16))


def test_envelope_alone_is_data() -> None:
    spoken = SpokenTo()
    spoken.say(READY)
    frame = hexed(envelope().pack())
    assert spoken.say(f"c, MDPC02, 0x01, echo, {frame}") == [f"w, '', MDPW01, 0x02, c, '', {frame}"]


def test_plain_client_never_sees_an_envelope() -> None:
    spoken = SpokenTo()
    spoken.say(hello(1))
    [work] = spoken.say("c, '', MDPC01, echo, hi")
    request = Envelope.unpack(bytes.fromhex(work.rpartition("<")[2].strip(">")), REQUEST)
    assert (request.id[:8], request.attempt, request.left_ms) == (BROKER_ID[:8], 1, None)
    reply = Envelope(REPLY, request.id, status=200).pack()
    assert spoken.say(f"o, MDPW02, 0x04, c, '', yo, {hexed(reply)}") == ["c, '', MDPC01, echo, yo"]


def test_worker_with_credit_holds_as_many_and_its_replies_are_matched_by_id() -> None:
    spoken = SpokenTo()
    spoken.say(hello(2))
    given = [spoken.say(ask(number)) for number in (1, 2, 3)]
    assert [len(out) for out in given] == [1, 1, 0]
    reply = Envelope(REPLY, (2).to_bytes(16), status=200).pack()
    out = spoken.say(f"o, MDPW02, 0x04, c, '', second, {hexed(reply)}")
    assert out[0] == f"c, MDPC02, 0x03, echo, second, {hexed(reply)}"
    assert "MDPW02, 0x02" in out[1]


def test_worker_may_change_its_credit_and_0_is_draining() -> None:
    spoken = SpokenTo()
    spoken.say(hello(1))
    spoken.say("o, MDPW02, 0x05, <0000>")
    assert spoken.say(ask(1)) == []
    assert len(spoken.say("o, MDPW02, 0x05, <0002>")) == 1


def test_plain_worker_that_speaks_of_credit_is_sent_away() -> None:
    spoken = SpokenTo()
    spoken.say(READY)
    assert spoken.say("w, '', MDPW01, 0x04, <0002>") == [OUT]


def test_worker_of_ours_that_replies_without_an_envelope_is_sent_away() -> None:
    spoken = SpokenTo()
    spoken.say(hello(1))
    spoken.say(ask(1))
    assert spoken.say("o, MDPW02, 0x04, c, '', bare") == ["o, MDPW02, 0x06"]


def test_repeat_of_an_open_request_by_the_same_client_is_not_given_out_twice() -> None:
    spoken = SpokenTo()
    spoken.say(hello(2))
    spoken.say(ask(1))
    assert spoken.say(ask(1)) == []
    assert spoken.broker.accepted == 1


# ---- MMI and the stop -------------------------------------------------------------------------------------------


def test_capabilities_are_told_to_whoever_asks() -> None:
    [text] = SpokenTo().say("c, '', MDPC01, mmi.capabilities, {}")
    assert Capabilities.unpack(text.partition("200, ")[2].encode()) == Capabilities(BROKER_ID.hex(), 2500, 3)


def test_status_counts_what_there_is() -> None:
    spoken = SpokenTo()
    spoken.say(READY)
    for client in "cd":
        spoken.say(f"{client}, '', MDPC01, echo, hi")
    [text] = spoken.say("s, '', MDPC01, mmi.status, ''")
    status = json.loads(text.partition("200, ")[2])
    assert status["services"] == [
        {"name": "echo", "workers": 1, "busy": 1, "suspect": 0, "queued": 1, "answered": 0, "per_s": 0.0}
    ]
    assert (status["accepted"], status["open"], status["workers"]) == (2, 2, 1)


def test_mmi_without_the_dot_is_an_ordinary_name() -> None:
    spoken = SpokenTo()
    assert spoken.say("w, '', MDPW01, 0x01, mmi") == []
    assert spoken.say("c, '', MDPC01, mmi, x") == ["w, '', MDPW01, 0x02, c, '', x"]


@pytest.mark.parametrize("state", ["asked for", "left", "expired"])
def test_service_is_known_only_while_a_worker_is_registered(state: str) -> None:
    spoken = SpokenTo()
    if state == "asked for":
        spoken.say("d, '', MDPC01, echo, hi")
    else:
        spoken.say(READY)
        spoken.say("w, '', MDPW01, 0x05") if state == "left" else spoken.wait(10.0)
    assert spoken.say("c, '', MDPC01, mmi.service, echo") == ["c, '', MDPC01, mmi.service, 404"]


def test_stopping_broker_refuses_what_is_new_and_ends_what_is_left() -> None:
    spoken = SpokenTo()
    spoken.say(READY)
    spoken.say(ask(1))
    spoken.say(ask(2))
    spoken.broker.begin_stop()
    assert answer_of(spoken.say(ask(3))).status == 503
    assert len(spoken.say("w, '', MDPW01, 0x03, c, '', done")) == 2
    spoken.broker.finish_stop(spoken.now)
    told, out = spoken.taken()
    assert answer_of([told]).status == 503
    assert out == OUT
    spoken.check()
    assert spoken.ended == {Ending.ANSWERED: 1, Ending.REFUSED: 2}
