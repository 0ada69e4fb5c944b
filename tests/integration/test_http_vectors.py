# SPDX-License-Identifier: Apache-2.0
"""What comes back over a socket for each of the requests in `http_vectors`; and that they are many.

A server in which one answer was too many or too few, or which took what was left of a refused request for the next one,
fails here: whatever comes is read to its end, and a kept connection has to serve one more.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from gevent import socket

from compysition import Actor, Director
from compysition.actors import WSGIServer
from tests.fault.conservation import assert_conserved, wait_until
from tests.integration.http_vectors import VECTORS, G, Vector

pytestmark = [pytest.mark.patched, pytest.mark.unpatched]

#: Nothing here takes longer, unless it hangs.
LIMIT_S = 10.0
#: The deadlines of door and server: long enough for a machine at work, and waited for in about twelve vectors.
SHORT_S = 0.3

_find_length = re.compile(rb"\r\nContent-Length: (\d+)\r\n").search


class Echo(Actor):
    def consume(self, event: Any) -> None:
        event.response.status = 204 if event.method == "OPTIONS" else 200
        event.data = None if event.method == "OPTIONS" else "echo"
        self.send_event(event)


@pytest.fixture(scope="module")
def doors() -> Iterator[dict[bool, WSGIServer]]:
    """Two doors: without routes, and with."""
    director = Director()
    made: dict[bool, WSGIServer] = {}
    for name, routes in (("plain", None), ("routed", {"GET /known": "routed_echo"})):
        limits: dict[str, Any] = {"header_timeout_s": SHORT_S, "body_idle_s": SHORT_S, "keepalive_s": LIMIT_S}
        door = director.register_actor(WSGIServer, name, port=0, routes=routes, **limits)
        echo = director.register_actor(Echo, f"{name}_echo")
        director.connect_queue(door, echo)
        director.connect_queue(echo, door)
        made[routes is not None] = door
    director.start(block=False)
    yield made
    assert director.stop().ok
    assert_conserved(director)


class Wire:
    """The client's end; what comes is taken apart by nothing but the rules of framing."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
        self.buffer = b""

    def more(self) -> bool:
        try:
            piece = self.socket.recv(65536)
        except ConnectionResetError:
            return False
        self.buffer += piece
        return bool(piece)

    def answer(self, *, is_head: bool = False) -> int | None:
        """The status of the next answer; None if the connection ends instead."""
        while b"\r\n\r\n" not in self.buffer:
            if not self.more():
                assert self.buffer == b""
                return None
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 ")
        found = _find_length(head + b"\r\n")
        length = int(found[1]) if found and not is_head else 0
        while len(self.buffer) < length:
            assert self.more(), "an answer was cut"
        self.buffer = self.buffer[length:]
        return int(head[9:12])


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_a_request_has_its_answers_and_its_connection_its_end(doors: dict[bool, WSGIServer], vector: Vector) -> None:
    door = doors[vector.has_routes]
    statuses, _, end = vector.wanted.partition(" ")
    client = Wire(door.port)
    try:
        client.socket.sendall(vector.sent)

        for number, status in enumerate(statuses.split("/")):
            is_head = number == 0 and vector.sent.startswith(b"HEAD")
            assert str(client.answer(is_head=is_head)) in status.split("|")
        if end == "K":
            client.socket.sendall(G.replace(b" / ", b" /known ") + b"\r\n")
            assert client.answer() == 200
        else:
            assert client.answer() is None
    finally:
        client.socket.close()
    wait_until(lambda: door.pending == 0)


def test_there_are_at_least_200_of_them_and_none_twice() -> None:
    assert len({vector.sent for vector in VECTORS}) == len(VECTORS) >= 200
