# SPDX-License-Identifier: Apache-2.0
"""The broker's test vectors, by their numbers in section 12 of the protocol brief; 31 and 32 are Titanic's."""

import pytest

from compysition.mdp.envelope import Envelope
from tests.unit.mdp.notation import SpokenTo

READY_1 = "w, '', MDPW01, 0x01, echo"
READY_2 = "v, MDPW02, 0x01, echo"
ASK_1 = "c, '', MDPC01, echo, hi"
ASK_2 = "c, MDPC02, 0x01, echo, hi"
OUT_1 = "w, '', MDPW01, 0x05"
BEAT_1 = "w, '', MDPW01, 0x04"

#: State before, then what is said and what comes of it, in turn.
Dialogue = list[tuple[str, list[str]]]


def broker(state: str) -> SpokenTo:
    spoken = SpokenTo()
    if state.startswith("B1"):
        spoken.say(READY_1)
    if state.startswith("B2"):
        spoken.say(READY_2)
    if state.endswith("busy"):
        [_] = spoken.say(ASK_1 if state.startswith("B1") else ASK_2)
    return spoken


def vector(number: int, state: str, *dialogue: tuple[str, list[str]]) -> object:
    return pytest.param(state, list(dialogue), id=f"{number}-{state}-{dialogue[0][0]}")


QUEUED_AGAIN = ("x, '', MDPW01, 0x01, echo", ["x, '', MDPW01, 0x02, c, '', hi"])
ENVELOPE_33 = "<00 43 50 53 58 01 01 00 00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f 00 01 00 00 07 d0 00 00>"

VECTORS = [
    vector(1, "B", (READY_1, []), ("c, '', MDPC01, mmi.service, echo", ["c, '', MDPC01, mmi.service, 200"])),
    vector(1, "B", (READY_2, []), ("c, '', MDPC01, mmi.service, echo", ["c, '', MDPC01, mmi.service, 200"])),
    vector(2, "B1", (ASK_1, ["w, '', MDPW01, 0x02, c, '', hi"])),
    vector(
        3,
        "B1 busy",
        ("w, '', MDPW01, 0x03, c, '', hi", ["c, '', MDPC01, echo, hi"]),
        ("d, '', MDPC01, echo, ho", ["w, '', MDPW01, 0x02, d, '', ho"]),
    ),
    vector(4, "B2", (ASK_2, ["v, MDPW02, 0x02, c, '', hi"])),
    vector(
        5,
        "B2 busy",
        ("v, MDPW02, 0x03, c, '', p1", ["c, MDPC02, 0x02, echo, p1"]),
        ("d, '', MDPC01, echo, ho", []),
    ),
    vector(6, "B2 busy", ("v, MDPW02, 0x04, c, '', end", ["c, MDPC02, 0x03, echo, end"])),
    vector(
        7,
        "B1",
        (ASK_2, ["w, '', MDPW01, 0x02, c, '', hi"]),
        ("w, '', MDPW01, 0x03, c, '', x", ["c, MDPC02, 0x03, echo, x"]),
    ),
    vector(
        8,
        "B2",
        (ASK_1, ["v, MDPW02, 0x02, c, '', hi"]),
        ("v, MDPW02, 0x03, c, '', a", []),
        ("v, MDPW02, 0x04, c, '', b", ["c, '', MDPC01, echo, a, b"]),
    ),
    vector(
        9,
        "B1",
        ("c, '', MDPC01, echo, '', MDPW01, 0x02, ''", ["w, '', MDPW01, 0x02, c, '', '', MDPW01, 0x02, ''"]),
    ),
    vector(10, "B", ("c, '', MDPC01, echo, 1", []), (READY_1, ["w, '', MDPW01, 0x02, c, '', 1"])),
    vector(11, "B", (BEAT_1, [OUT_1]), (BEAT_1, [])),
    vector(11, "B", ("v, MDPW02, 0x05", ["v, MDPW02, 0x06"]), ("v, MDPW02, 0x05", [])),
    vector(12, "B", ("w, '', MDPW01, 0x03, c, '', forged", [OUT_1])),
    vector(13, "B1", (READY_1, [OUT_1]), ("c, '', MDPC01, mmi.service, echo", ["c, '', MDPC01, mmi.service, 404"])),
    vector(14, "B1", ("w, '', MDPW01, 0x03, d, '', unasked", [OUT_1])),
    vector(15, "B1 busy", ("w, '', MDPW01, 0x03, d, '', wrong", [OUT_1]), QUEUED_AGAIN),
    vector(16, "B1 busy", ("w, '', MDPW01, 0x05", []), QUEUED_AGAIN),
    vector(17, "B", ("w, '', MDPW01, 0x05", [])),
    vector(17, "B1", ("w, '', MDPW01, 0x05", [])),
    vector(18, "B1", ("c, '', MDPC01, mmi.service, echo", ["c, '', MDPC01, mmi.service, 200"])),
    vector(19, "B", ("c, MDPC02, 0x01, mmi.service, echo", ["c, MDPC02, 0x03, mmi.service, 404"])),
    vector(20, "B", ("c, '', MDPC01, mmi.nosuch, x", ["c, '', MDPC01, mmi.nosuch, 501"])),
    vector(21, "B", ("c, '', MDPC01, mmi.ping, abc", ["c, '', MDPC01, mmi.ping, 200, abc"])),
    *(
        vector(22, state, (said, []))
        for state in ("B", "B1")
        for said in (
            *("u, ''", "u, '', ''", "u, MDPC01, echo, hi", "u, '', MDPX99, a", "c, '', MDPC01", "c, '', MDPC01, echo"),
            *("c, MDPC02, 0x09, echo, hi", "c, MDPC02, '', echo, hi", "c, MDPC02, 0x01"),
        )
    ),
    *(
        vector(23, "B1", (said, [OUT_1]), ("c, '', MDPC01, mmi.service, echo", ["c, '', MDPC01, mmi.service, 404"]))
        for said in ("w, '', MDPW01, 0x7f", "w, '', MDPW01, 0x02, a, '', x", "w, '', MDPW01, 0x04, x")
    ),
    *(
        vector(24, "B1 busy", (said, [OUT_1]), QUEUED_AGAIN)
        for said in (
            *("w, '', MDPW01, 0x03", "w, '', MDPW01, 0x03, c", "w, '', MDPW01, 0x03, c, ''"),
            "w, '', MDPW01, 0x03, c, x, y",
        )
    ),
    *(
        vector(25, "B", (said, [OUT_1]))
        for said in (
            *("w, '', MDPW01, 0x01", "w, '', MDPW01, 0x01, ''", "w, '', MDPW01, 0x01, mmi.service"),
            "w, '', MDPW01, 0x01, echo, extra",
        )
    ),
    vector(
        30,
        "B2",
        ("d, '', MDPC02, 0x01, echo, hi", ["v, MDPW02, 0x02, d, '', hi"]),
        ("v, MDPW02, 0x04, d, '', x", ["d, '', MDPC02, 0x03, echo, x"]),
    ),
    vector(
        34,
        "B1",
        (f"c, MDPC02, 0x01, echo, hi, {ENVELOPE_33}", ["w, '', MDPW01, 0x02, c, '', hi"]),
        (
            "w, '', MDPW01, 0x03, c, '', yo",
            ["c, MDPC02, 0x03, echo, yo, <0043505358010208000102030405060708090a0b0c0d0e0f0001ffffffff00c8>"],
        ),
    ),
]


@pytest.mark.parametrize(("state", "dialogue"), VECTORS)
def test_vector(state: str, dialogue: Dialogue) -> None:
    spoken = broker(state)
    for said, answers in dialogue:
        assert spoken.say(said) == answers


@pytest.mark.parametrize("said", ["w, '', MDPW01, 0x03, d, '', wrong", "w, '', MDPW01, 0x03"])
def test_vectors_15_and_24_leave_the_request_with_its_second_attempt(said: str) -> None:
    spoken = broker("B1 busy")
    spoken.say(said)
    [request] = spoken.broker.requests
    assert request.worker is None
    assert request.attempt == 2


def test_vector_26_silent_idle_worker_is_removed_without_a_word_and_then_a_stranger() -> None:
    spoken = broker("B1")
    assert spoken.wait(7.4) == [BEAT_1, BEAT_1]
    assert spoken.wait(0.1) == []
    assert not spoken.broker.workers
    assert spoken.say(BEAT_1) == [OUT_1]


def test_vector_27_suspects_request_goes_to_the_next_free_worker_and_its_late_reply_to_nobody() -> None:
    spoken = broker("B1 busy")
    spoken.wait(7.5)
    assert spoken.say("x, '', MDPW01, 0x01, echo") == ["x, '', MDPW01, 0x02, c, '', hi"]
    assert spoken.say("w, '', MDPW01, 0x03, c, '', late") == [OUT_1]


def test_vector_28_suspect_that_is_alone_may_still_answer() -> None:
    spoken = broker("B1 busy")
    spoken.wait(7.5)
    assert spoken.say("w, '', MDPW01, 0x03, c, '', slow") == ["c, '', MDPC01, echo, slow"]


@pytest.mark.parametrize("state", ["B1", "B1 busy"])
def test_vector_29_every_registered_worker_gets_a_heartbeat_per_interval(state: str) -> None:
    assert broker(state).wait(2.5) == [BEAT_1]


def test_vector_33_envelope() -> None:
    envelope = Envelope(kind=1, id=bytes(range(16)), attempt=1, left_ms=2000)
    assert envelope.pack().hex(" ") == ENVELOPE_33.strip("<>")
    assert Envelope.unpack(envelope.pack(), 1) == envelope
