# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.actors.wsgi` about ``/-/live`` and ``/-/ready``."""

from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event as Gate

from compysition import Actor, Director
from compysition.actors import WSGI
from compysition.http import health
from tests.fault.conservation import assert_conserved, wait_until
from tests.unit.actors.test_wsgi import called

LIMIT_S = 10.0


class Hold(Actor):
    """Answers when `gate` opens."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.gate = Gate()

    def consume(self, event: Any) -> None:
        self.gate.wait()
        event.data = "done"
        self.send_event(event)


class Held:
    def __init__(self, **options: Any) -> None:
        self.director = Director()
        self.door = self.director.register_actor(WSGI, "door", **({"health": True} | options))
        self.hold = self.director.register_actor(Hold, "hold")
        self.director.connect_queue(self.door, self.hold)
        self.director.connect_queue(self.hold, self.door)
        self.requests: list[gevent.Greenlet[..., Any]] = []

    def begin(self, number: int) -> None:
        self.requests += [gevent.spawn(called, self.door, "/x") for _ in range(number)]
        wait_until(lambda: self.door.pending == number)

    def ready(self) -> tuple[str, bytes]:
        status, _, body = called(self.door, "/-/ready")
        return status, body

    def finish(self) -> None:
        self.hold.gate.set()
        for request in self.requests:
            assert request.get(timeout=LIMIT_S)[0] == "200 OK"
        self.requests.clear()


@pytest.fixture
def held() -> Iterator[Held]:
    held = Held(max_pending=10)
    yield held
    held.finish()
    if held.director.is_running():
        assert held.director.stop().ok
    assert_conserved(held.director)


def test_a_door_that_serves_is_alive_and_ready(held: Held) -> None:
    held.director.start(block=False)
    for path, word in (("/-/live", b"live\n"), ("/-/ready", b"ready\n")):
        status, headers, body = called(held.door, path)
        assert (status, body) == ("200 OK", word)
        assert headers["Cache-Control"] == "no-store"
    assert held.door._wired.ledger.accepted == 0


def test_head_has_no_body_and_other_methods_are_not_taken(held: Held) -> None:
    held.director.start(block=False)
    status, headers, body = called(held.door, "/-/ready", REQUEST_METHOD="HEAD")
    assert (status, headers["Content-Length"], body) == ("200 OK", "6", b"")
    status, headers, _ = called(held.door, "/-/ready", REQUEST_METHOD="POST")
    assert (status, headers["Allow"]) == ("405 Method Not Allowed", "GET, HEAD")


def test_before_the_start_and_while_it_drains_it_is_alive_but_not_ready(held: Held) -> None:
    held.director.start(block=False)
    held.begin(1)
    stopping = gevent.spawn(held.director.stop)
    wait_until(lambda: held.director.is_stopping)

    assert held.ready() == ("503 Service Unavailable", b"draining\n")
    assert called(held.door, "/-/live")[0] == "200 OK"

    held.finish()
    assert stopping.get(timeout=LIMIT_S).ok


def test_it_is_not_ready_when_it_has_been_crowded_for_a_while(held: Held, monkeypatch: pytest.MonkeyPatch) -> None:
    held.director.start(block=False)
    held.begin(8)
    monkeypatch.setattr(health, "CROWDED_S", 0.0)
    assert held.ready() == ("200 OK", b"ready\n")  # fewer than nine tenths

    monkeypatch.setattr(health, "CROWDED_S", LIMIT_S)
    held.requests.append(gevent.spawn(called, held.door, "/x"))
    wait_until(lambda: held.door.pending == 9)
    assert held.ready() == ("200 OK", b"ready\n")  # not for long enough

    monkeypatch.setattr(health, "CROWDED_S", 0.0)
    assert held.ready() == ("503 Service Unavailable", b"crowded\n")

    held.finish()
    wait_until(lambda: held.door.pending == 0)
    assert held.ready() == ("200 OK", b"ready\n")


def test_it_answers_when_no_further_request_is_taken(held: Held) -> None:
    held.director.start(block=False)
    held.begin(10)
    assert called(held.door, "/x")[0] == "503 Service Unavailable"
    assert called(held.door, "/-/live")[0] == "200 OK"


def test_unless_it_is_asked_for_the_paths_are_like_all_others() -> None:
    held = Held(health=False, routes={"/a": "hold"})
    held.director.start(block=False)
    assert called(held.door, "/-/ready")[0] == "404 Not Found"
    assert held.director.stop().ok
