# SPDX-License-Identifier: Apache-2.0
"""Rules of the registrar and of those who listen to it."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compysition.mdp.hello import dump
from compysition.mdp.registrar import (
    DOWN,
    MOST_BROKERS,
    TICK,
    UP,
    VALID_MS,
    Announcement,
    BrokerList,
    Registrar,
    message,
    union,
)

REGISTRAR = b"R" * 16
LOCAL = "127.0.0.1"


def announcement(number: int = 1, sequence: int = 1, *endpoints: str) -> Announcement:
    where = endpoints or (f"tcp://127.0.0.1:{5000 + number}",)
    return Announcement(bytes([number]) * 16, sequence, VALID_MS, where, where)


class Here:
    """A registrar and its time."""

    def __init__(self, registrar_id: bytes = REGISTRAR) -> None:
        self.now = 0.0
        self.registrar = Registrar(registrar_id, 0.0)

    def announce(self, one: Announcement, host: str = LOCAL) -> None:
        self.registrar.receive([b"b", *message(b"\x01", *one.frames())], host, self.now)

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while self.registrar.wakes_at <= until:
            self.now = self.registrar.wakes_at
            self.registrar.tick(self.now)
        self.now = until

    def published(self, *, ticks: bool = False) -> list[bytes]:
        out, self.registrar.published[:] = list(self.registrar.published), []
        return [one[2] for one in out if ticks or one[2] != TICK]

    def tell(self, known: BrokerList) -> None:
        """Answer what `known` asks, and let it hear what was published."""
        while known.out:
            self.registrar.receive([b"l", *known.out.pop(0)], LOCAL, self.now)
        for out in self.registrar.out:
            if out[3] == b"\x12":
                known.receive_list(out[1:])
        self.registrar.out.clear()
        for out in self.registrar.published:
            known.receive_event(out, self.now)
        self.registrar.published.clear()


# ---- the registrar ----------------------------------------------------------------------------------------------


def test_announcement_is_acknowledged_listed_and_published_once() -> None:
    here = Here()
    here.announce(announcement(1, 1))
    here.announce(announcement(1, 2))
    assert [out[3] for out in here.registrar.out] == [b"\x11", b"\x11"]
    assert here.published() == [UP]
    here.registrar.out.clear()
    here.registrar.receive([b"l", *message(b"\x03", b"nonce")], LOCAL, 0.0)
    [answer] = here.registrar.out
    assert answer[4] == b"nonce"
    assert Announcement.read(answer[6:]) == announcement(1, 2)


def test_broker_that_stops_announcing_runs_out_and_one_that_withdraws_is_gone() -> None:
    here = Here()
    here.announce(announcement(1))
    here.announce(announcement(2))
    here.registrar.receive([b"b", *message(b"\x02", bytes([2]) * 16)], LOCAL, 0.0)
    assert here.published() == [UP, UP, DOWN]
    here.wait(4.1)
    assert here.published() == [DOWN]
    assert here.registrar.brokers == {}


def test_it_ticks_every_second() -> None:
    here = Here()
    here.wait(3.5)
    assert here.published(ticks=True) == [TICK] * 3


@pytest.mark.parametrize(
    ("endpoint", "host", "known"),
    [
        ("tcp://0.0.0.0:5555", "10.0.0.9", "tcp://10.0.0.9:5555"),
        ("tcp://*:5555", "10.0.0.9", "tcp://10.0.0.9:5555"),
        ("tcp://[::]:5555", "fd00::9", "tcp://[fd00::9]:5555"),
        ("tcp://broker.example:5555", "10.0.0.9", "tcp://broker.example:5555"),
        ("tcp://127.0.0.1:5555", LOCAL, "tcp://127.0.0.1:5555"),
        ("ipc:///run/broker", LOCAL, "ipc:///run/broker"),
        ("tcp://127.0.0.1:5555", "10.0.0.9", None),
        ("tcp://localhost:5555", "10.0.0.9", None),
        ("ipc:///run/broker", "10.0.0.9", None),
        ("tcp://10.0.0.9:0", "10.0.0.9", None),
        ("tcp://10.0.0.9:99999", "10.0.0.9", None),
        ("udp://10.0.0.9:5555", "10.0.0.9", None),
        ("inproc://x", LOCAL, None),
        ("tcp://a b:1", LOCAL, None),
    ],
)
def test_endpoint_is_taken_as_it_can_be_reached_or_refused(endpoint: str, host: str, known: str | None) -> None:
    here = Here()
    here.announce(announcement(1, 1, endpoint), host)
    found = [one.client for one in here.registrar.brokers.values()]
    assert found == ([] if known is None else [(known,)])


def test_number_of_brokers_and_endpoints_is_bounded() -> None:
    here = Here()
    for number in range(MOST_BROKERS + 10):
        one = Announcement(number.to_bytes(16), 1, VALID_MS, ("tcp://127.0.0.1:1",), ())
        here.announce(one)
    assert len(here.registrar.brokers) == MOST_BROKERS
    here.announce(announcement(1, 1, *["tcp://127.0.0.1:1"] * 17))
    assert here.registrar.counts["announcement refused"] == 11


def test_older_announcement_does_not_replace_a_newer_one() -> None:
    here = Here()
    here.announce(announcement(1, 5, "tcp://127.0.0.1:1"))
    here.announce(announcement(1, 4, "tcp://127.0.0.1:2"))
    [one] = here.registrar.brokers.values()
    assert one.client == ("tcp://127.0.0.1:1",)


def test_other_version_is_told_so() -> None:
    here = Here()
    here.registrar.receive([b"x", b"CPSREG", b"\x02", b"\x01"], LOCAL, 0.0)
    assert here.registrar.out[0][1:4] == [b"CPSREG", b"\x01", b"\x1f"]


@given(
    st.lists(
        st.lists(
            st.sampled_from(
                [b"CPSREG", b"\x01", b"\x02", b"\x03", bytes(16), struct.pack(">QI", 1, 3000), b"{}", b"[" * 4000]
            )
            | st.binary(max_size=20),
            max_size=7,
        ),
        max_size=20,
    )
)
def test_any_frames_leave_registrar_and_listener_alive(messages: list[list[bytes]]) -> None:
    here, known = Here(), BrokerList()
    for one in messages:
        here.registrar.receive([b"x", *one], LOCAL, 0.0)
        known.receive_list(one)
        known.receive_event(one, 0.0)


def test_announcement_that_makes_no_sense_is_none() -> None:
    good = announcement().frames()
    for wrong in (
        good[:2],
        [b"short", *good[1:]],
        [good[0], b"", good[2]],
        [good[0], struct.pack(">QI", 1, 0), good[2]],
        [*good[:2], b"[]"],
        [*good[:2], dump({"client": "x", "worker": []})],
        [*good[:2], dump({"client": [1], "worker": []})],
        [*good[:2], b'{"client": [], "worker": [], "x": "' + b"y" * 5000 + b'"}'],
    ):
        assert Announcement.read(wrong) is None


# ---- the listener -----------------------------------------------------------------------------------------------


def test_listener_knows_the_list_and_what_changes() -> None:
    here, known = Here(), BrokerList()
    here.announce(announcement(1))
    known.ask(0.0)
    here.tell(known)
    here.announce(announcement(2))
    here.tell(known)
    here.registrar.receive([b"b", *message(b"\x02", bytes([1]) * 16)], LOCAL, 0.0)
    here.tell(known)
    assert set(known.brokers) == {bytes([2]) * 16}
    assert known.is_changed


def test_listener_asks_until_it_is_answered() -> None:
    known = BrokerList()
    known.ask(0.0)
    known.tick(known.wakes_at)
    assert len(known.out) == 2


@pytest.mark.parametrize("what", ["gap", "count", "another registrar"])
def test_listener_that_may_have_missed_something_asks_again(what: str) -> None:
    here, known = Here(), BrokerList()
    known.ask(0.0)
    here.tell(known)
    if what == "another registrar":
        here = Here(b"S" * 16)
    here.announce(announcement(1))
    here.published(ticks=True)  # lost on the way
    if what == "gap":
        here.announce(announcement(2))
    else:
        here.wait(1.0)
    here.tell(known)
    assert len(known.out) == 1
    here.tell(known)
    assert len(known.brokers) == len(here.registrar.brokers) > 0


def test_union_of_two_registrars_takes_the_higher_sequence() -> None:
    lists = []
    for sequence, endpoint in ((1, "tcp://127.0.0.1:1"), (2, "tcp://127.0.0.1:2")):
        here, known = Here(), BrokerList()
        here.announce(announcement(1, sequence, endpoint))
        known.ask(0.0)
        here.tell(known)
        lists.append(known)
    [one] = union(lists).values()
    assert one.client == ("tcp://127.0.0.1:2",)
