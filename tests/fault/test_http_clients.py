# SPDX-License-Identifier: Apache-2.0
"""Clients that go away, are slow, or do not read: what becomes of them and of their requests.

After each: nothing is open, the balance is even, and the next request is served.
"""

import logging
import struct
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event as Gate

from compysition import Actor, Director
from compysition.actors import WSGIServer
from compysition.http import wire
from compysition.http.event import HttpEvent
from compysition.ledger import Outcome
from tests.fault.conservation import assert_conserved, wait_until

pytestmark = [pytest.mark.patched, pytest.mark.unpatched]

#: Nothing here takes longer, unless it hangs.
LIMIT_S = 10.0
SHORT_S = 0.3

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HELD = b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n"


class Held(Actor):
    """Answers at once; ``/held`` when `gate` opens, ``/large`` with more than any buffer takes."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.gate = Gate()
        self.seen: list[HttpEvent] = []

    def consume(self, event: Any) -> None:
        self.seen.append(event)
        if event.service == "held":
            self.gate.wait()
        event.data = b"x" * 32_000_000 if event.service == "large" else "hello"
        self.send_event(event)


class Circle:
    def __init__(self, **options: Any) -> None:
        self.director = Director()
        self.door = self.director.register_actor(WSGIServer, "door", port=0, **options)
        self.held = self.director.register_actor(Held, "held_back")
        self.director.connect_queue(self.door, self.held)
        self.director.connect_queue(self.held, self.door)
        self.director.start(block=False)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.door.port), timeout=LIMIT_S)

    def begin(self, sent: bytes) -> socket.socket:
        """A connection whose request is with the actor."""
        client = self.connect()
        client.sendall(sent)
        wait_until(lambda: self.held.seen)
        return client

    def ended(self, outcome: Outcome) -> int:
        return self.director.snapshot().balance.ended[outcome]


@pytest.fixture
def circle() -> Iterator[Callable[..., Circle]]:
    made: list[Circle] = []

    def make(**options: Any) -> Circle:
        made.append(Circle(**options))
        return made[-1]

    yield make
    for circle in made:
        circle.held.gate.set()
        with circle.connect() as client:
            client.sendall(GET)
            assert received(client, b"hello").startswith(b"HTTP/1.1 200 ")
        wait_until(lambda circle=circle: circle.door.pending == 0)  # type: ignore[misc]  # a lambda of a loop
        assert circle.director.stop().ok
        assert_conserved(circle.director)


def received(client: socket.socket, end: bytes | None = None) -> bytes:
    """What comes until `end`, or until the server closes."""
    data = b""
    while end is None or not data.endswith(end):
        piece = client.recv(65536)
        if not piece:
            break
        data += piece
    return data


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


# ---- going away -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("go_away", [reset, lambda client: client.close()], ids=["reset", "close"])
def test_a_client_that_has_gone_cancels_its_request_and_its_answer_expires(
    circle: Callable[..., Circle], go_away: Callable[[socket.socket], None]
) -> None:
    served = circle()
    client = served.begin(HELD)
    (event,) = served.held.seen
    assert not event.is_cancelled()

    go_away(client)

    wait_until(event.is_cancelled)
    wait_until(lambda: served.door.pending == 0)
    served.held.gate.set()
    wait_until(lambda: served.ended(Outcome.EXPIRED) == 1)


def test_a_client_that_goes_away_behind_bytes_that_nobody_read_is_seen_too(circle: Callable[..., Circle]) -> None:
    served = circle()
    client = served.begin(HELD)
    client.sendall(GET)
    client.close()
    wait_until(served.held.seen[0].is_cancelled)


def test_a_client_that_ended_only_its_sending_side_is_probed_once_and_gets_its_answer(
    circle: Callable[..., Circle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compysition.http.hangups.LOOK_S", 0.01)
    served = circle()
    client = served.begin(HELD)
    client.shutdown(socket.SHUT_WR)
    hangups = served.door._hangups
    wait_until(lambda: len(hangups) == 0)  # it counts as half-closed

    served.held.gate.set()

    answer = received(client)
    assert answer.count(b"HTTP/1.1 100 Continue\r\n\r\n") == 1
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert not served.held.seen[0].is_cancelled()
    client.close()


@pytest.mark.parametrize(
    ("sent", "options"),
    [(b"GET /held HTTP/1.0\r\n\r\n", {}), (HELD, {"probe_half_close": False})],
    ids=["HTTP/1.0", "told not to"],
)
def test_who_may_not_be_probed_counts_as_half_closed(
    circle: Callable[..., Circle], monkeypatch: pytest.MonkeyPatch, sent: bytes, options: dict[str, Any]
) -> None:
    monkeypatch.setattr("compysition.http.hangups.LOOK_S", 0.01)
    served = circle(**options)
    client = served.begin(sent)
    client.shutdown(socket.SHUT_WR)
    wait_until(lambda: len(served.door._hangups) == 0)

    served.held.gate.set()

    assert received(client).startswith(b"HTTP/1.1 200 OK\r\n")
    client.close()


# ---- being slow -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [b"", GET], ids=["new", "kept"])
def test_an_idle_connection_is_closed_without_a_word(circle: Callable[..., Circle], begun: bytes) -> None:
    served = circle(header_timeout_s=SHORT_S, keepalive_s=SHORT_S)
    with served.connect() as client:
        client.sendall(begun)
        answer = received(client)
    assert answer.count(b"HTTP/1.1 ") == (1 if begun else 0)


def test_a_head_that_trickles_is_answered_408_at_its_deadline(circle: Callable[..., Circle]) -> None:
    served = circle(header_timeout_s=SHORT_S)
    with served.connect() as client:
        sender = gevent.spawn(trickle, client, b"GET / HTTP/1.1\r\nX: " + b"a" * 10_000)
        assert received(client).startswith(b"HTTP/1.1 408 ")
        sender.kill()
    assert served.held.seen == []


def test_a_body_that_trickles_is_answered_408(circle: Callable[..., Circle], monkeypatch: pytest.MonkeyPatch) -> None:
    # One byte a hundredth of a second is never idle, but slower than any body may be.
    monkeypatch.setattr(wire, "SLOW_START_S", SHORT_S)
    served = circle()
    with served.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
        sender = gevent.spawn(trickle, client, b"a" * 100_000)
        assert received(client).startswith(b"HTTP/1.1 408 ")
        sender.kill()
    assert served.held.seen == []


def test_a_body_has_no_more_time_than_its_request(circle: Callable[..., Circle]) -> None:
    served = circle(timeout_s=SHORT_S)
    with served.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
        assert received(client).startswith(b"HTTP/1.1 408 ")


def test_a_client_whose_time_is_over_is_not_taken_for_one_that_has_gone(
    circle: Callable[..., Circle], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("compysition.http.hangups.LOOK_S", 0.0)
    served = circle()
    with served.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
        wait_until(lambda: served.door.pending == 1)
        ((peer, _),) = served.door._hangups._watched.values()

        peer.expire()  # type: ignore[attr-defined]  # what the wheel calls
        served.door._hangups._look()

        assert received(client).startswith(b"HTTP/1.1 408 ")


def trickle(client: socket.socket, data: bytes) -> None:
    try:
        for number in range(len(data)):
            client.sendall(data[number : number + 1])
            gevent.sleep(0.01)
    except OSError:
        pass  # the server had enough


def test_a_client_that_does_not_read_is_reset_and_holds_nobody(
    circle: Callable[..., Circle], caplog: pytest.LogCaptureFixture
) -> None:
    served = circle(write_timeout_s=SHORT_S)
    caplog.set_level(logging.INFO, "compysition.http")
    with served.connect() as client:
        client.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        with served.connect() as other:
            other.sendall(GET)
            assert received(other, b"hello").startswith(b"HTTP/1.1 200 ")
        wait_until(lambda: "did not take its answer" in caplog.text)
        with pytest.raises(ConnectionResetError):
            received(client)


def test_a_client_that_reads_slowly_but_steadily_gets_all(circle: Callable[..., Circle]) -> None:
    served = circle(write_timeout_s=SHORT_S)
    with served.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        length = 0
        while piece := client.recv(1_000_000):
            length += len(piece)
            gevent.sleep(0.001)
        assert length > 32_000_000
