# SPDX-License-Identifier: Apache-2.0
"""Requests without sockets, with `http_event` and `http_call`."""

from collections.abc import Iterator

import pytest

from compysition import Actor, Director, Event, HttpEvent
from compysition.actors import WSGI
from compysition.errors import ConflictError, MalformedError
from compysition.testing import drive, http_call, http_event, running

pytestmark = [pytest.mark.patched, pytest.mark.unpatched]


class Echo(Actor):
    """Answers with what it was asked."""

    def consume(self, event: Event) -> None:
        assert isinstance(event, HttpEvent)
        if event.query.get("fail"):
            raise ConflictError("no")
        event.data = {"method": event.method, "path": event.path, "query": event.query.get("q"), "data": event.data}
        event.response.headers["X-Service"] = event.service
        self.send_event(event)


def test_an_event_is_as_the_door_makes_it() -> None:
    event = http_event("POST", "/orders/a%2Fb?q=%C3%A4", {"a": 1}, headers={"X-Request-ID": "r1", "Cookie": "s=1"})
    assert (event.method, event.service, event.data, event.meta_id) == ("POST", "orders", {"a": 1}, "r1")
    assert event.request.segments == ("orders", "a/b")
    assert (event.query["q"], event.cookies["s"], event.headers["Host"]) == ("ä", "1", "localhost")


def test_a_request_that_the_door_would_refuse_is_refused() -> None:
    with pytest.raises(MalformedError):
        http_event("GET", "/a/../b")


def test_an_actor_of_an_http_flow_can_be_driven() -> None:
    with drive(Echo, "echo") as kit:
        event = kit.send(http_event("GET", "/svc?q=x"))
        assert kit.one() is event
        assert event.response.headers["X-Service"] == "svc"
        kit.send(http_event("GET", "/svc?fail=1"))
        assert [failed.error.status for failed in kit.errors if failed.error] == [409]


def test_a_call_goes_the_full_circle() -> None:
    director = Director()
    door = director.register_actor(WSGI, "door")
    echo = director.register_actor(Echo, "echo")
    director.connect_queue(door, echo)
    director.connect_queue(echo, door)
    with running(director):
        answer = http_call(door, "POST", "/svc/x?q=1", {"a": [1]})
        assert (answer.status, answer.headers["x-service"]) == (200, "svc")
        assert answer.json() == {"method": "POST", "path": "/svc/x", "query": "1", "data": {"a": [1]}}
        assert http_call(door, "GET", "/svc?fail=1").status == 409
        assert http_call(door, "GET", "/svc", headers={"Host": "a,b"}).status == 400


def test_any_wsgi_application_can_be_called_and_its_answer_is_closed() -> None:
    closed: list[bool] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"a", b"b"])

        def close(self) -> None:
            closed.append(True)

    def application(environ, start_response):  # type: ignore[no-untyped-def]
        start_response("202 Accepted", [("X-Length", environ["CONTENT_LENGTH"])])
        return Body()

    answer = http_call(application, "PUT", "/", b"12345")
    assert (answer.status, answer.text, answer.headers["X-Length"], closed) == (202, "ab", "5", [True])
