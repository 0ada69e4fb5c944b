# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.actors.wsgi` that need no socket: its arguments, and that it is a WSGI callable itself."""

import io
import json
import threading
from collections.abc import Callable
from typing import Any
from wsgiref.types import WSGIApplication
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from gevent import monkey
from gevent.event import Event as Gate
from gevent.pool import Pool

from compysition import Actor, Director
from compysition.actors import WSGI, WSGIServer
from compysition.errors import ConfigurationError, ConflictError, DirectorStateError
from compysition.http.event import HttpEvent
from tests.fault.conservation import assert_conserved, wait_until

NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize("actor", [WSGI, WSGIServer])
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("base_path", "api"),
        ("base_path", ""),
        ("base_path", None),
        ("base_path", 7),
        ("port", -1),
        ("port", 65536),
        ("port", "80"),
        ("port", None),
        ("no_answer_status", 199),
        ("no_answer_status", 600),
        ("no_answer_status", "204"),
        ("no_answer_status", None),
        ("timeout_s", 0),
        ("timeout_s", -1),
        ("timeout_s", "30"),
        ("timeout_s", None),
        ("timeout_s", NAN),
        ("timeout_s", INFINITE),
        ("max_pending", 0),
        ("max_pending", "10"),
        ("max_pending", None),
        ("max_pending", True),
        ("address", ""),
        ("address", None),
        ("max_body_bytes", -1),
        ("max_body_bytes", None),
    ],
)
def test_an_argument_that_makes_no_sense_is_refused_by_name(actor: type[WSGI], option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Director().register_actor(actor, "door", **{option: value})
    assert f"{option} of 'door' is {value!r}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_defaults_are_those_that_are_promised() -> None:
    door = Director().register_actor(WSGI, "door")
    assert (door.base_path, door.address, door.port, door.run_server) == ("/", "127.0.0.1", 8080, False)
    assert (door.timeout_s, door.max_pending, door.max_body_bytes) == (30.0, 1000, 16 * 1024 * 1024)
    assert door.no_answer_status == 204


@pytest.mark.parametrize(
    ("actor", "run_server", "serves"),
    [
        (WSGI, None, False),
        (WSGI, True, True),
        (WSGI, False, False),
        (WSGIServer, None, True),
        (WSGIServer, False, False),
        (WSGIServer, True, True),
    ],
)
def test_wsgi_serves_when_told_and_wsgiserver_unless_told_not_to(
    actor: type[WSGI], run_server: bool | None, serves: bool
) -> None:
    assert Director().register_actor(actor, "door", run_server=run_server).run_server is serves


def test_nothing_listens_before_the_start() -> None:
    door = Director().register_actor(WSGIServer, "door", port=0)
    assert door._door() is None
    assert door.pending == 0


# ---- as a WSGI callable -----------------------------------------------------------------------------------------


class Service(Actor):
    """Answers as the path says."""

    def consume(self, event: Any) -> None:
        assert isinstance(event, HttpEvent)
        answers: dict[str, Callable[[], Any]] = {
            "text": lambda: "hello",
            "json": lambda: {"a": 1},
            "none": lambda: None,
            "echo": lambda: event.data,
            "query": lambda: dict(event.query.items()),
        }
        if event.service == "raise":
            raise ConflictError("no")
        if event.service == "drop":
            return
        event.data = answers[event.service]()
        self.send_event(event)


def called(application: WSGIApplication, path: str, **environ: Any) -> tuple[str, dict[str, str], bytes]:
    """One request through `wsgiref.validate`."""
    seen: list[tuple[str, dict[str, str]]] = []
    query = path.partition("?")[2]
    given: dict[str, Any] = {"PATH_INFO": path.partition("?")[0], "QUERY_STRING": query, "SCRIPT_NAME": "", **environ}
    setup_testing_defaults(given)
    given["wsgi.errors"] = io.StringIO()

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        seen.append((status, dict(headers)))
        return lambda data: None

    answer = validator(application)(given, start_response)
    try:
        body = b"".join(answer)
    finally:
        answer.close()  # type: ignore[attr-defined]  # of the validator's iterator
    ((status, headers),) = seen
    return status, headers, body


@pytest.fixture
def director() -> Director:
    director = Director()
    door = director.register_actor(WSGI, "door")
    service = director.register_actor(Service, "service")
    director.connect_queue(door, service)
    director.connect_queue(service, door)
    return director


@pytest.fixture
def door(director: Director) -> WSGI:
    door = director.get_actor("door")
    assert isinstance(door, WSGI)
    return door


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/text", ("200 OK", "text/plain; charset=utf-8", b"hello")),
        ("/text/further", ("200 OK", "text/plain; charset=utf-8", b"hello")),
        ("/json", ("200 OK", "application/json", b'{"a":1}')),
        ("/none", ("204 No Content", None, b"")),
        ("/drop", ("204 No Content", None, b"")),
        ("/query?a=1&b=2", ("200 OK", "application/json", b'{"a":"1","b":"2"}')),
    ],
)
@pytest.mark.parametrize("name", ["__call__", "application"])
def test_it_is_a_wsgi_callable(director: Director, door: WSGI, name: str, path: str, wanted: tuple[Any, ...]) -> None:
    with director:
        answer = called(door if name == "__call__" else door.application, path)
    assert (answer[0], answer[1].get("Content-Type"), answer[2]) == wanted
    assert_conserved(director)


def test_a_body_reaches_the_flow(director: Director, door: WSGI) -> None:
    sent = {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "7", "wsgi.input": io.BytesIO(b'{"a":1}')}
    with director:
        as_bytes = called(door, "/echo", CONTENT_TYPE="text/plain", **sent)
        sent["wsgi.input"] = io.BytesIO(b'{"a":1}')
        as_json = called(door, "/echo", CONTENT_TYPE="application/json", **sent)
    assert (as_bytes[1]["Content-Type"], as_bytes[2]) == ("application/octet-stream", b'{"a":1}')
    assert (as_json[1]["Content-Type"], as_json[2]) == ("application/json", b'{"a":1}')


def test_a_failure_is_answered_as_problem_details(director: Director, door: WSGI) -> None:
    with director:
        status, headers, body = called(door, "/raise")
    assert (status, headers["Content-Type"]) == ("409 Conflict", "application/problem+json")
    assert json.loads(body)["detail"] == "no"


def test_head_has_no_body(director: Director, door: WSGI) -> None:
    with director:
        status, headers, body = called(door, "/text", REQUEST_METHOD="HEAD")
    assert (status, headers["Content-Length"], body) == ("200 OK", "5", b"")


def test_before_the_start_and_after_the_stop_it_is_answered_503(director: Director, door: WSGI) -> None:
    before = called(door, "/text")
    with director:
        assert called(door, "/text")[0] == "200 OK"
    after = called(door, "/text")
    for status, headers, _ in (before, after):
        assert status == "503 Service Unavailable"
        assert headers["Retry-After"] == "5"
    assert_conserved(director)


def test_a_call_from_another_thread_is_answered_500_and_says_so_once(
    director: Director, door: WSGI, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[Any] = []
    with director:
        for _ in range(2):
            thread = threading.Thread(target=lambda: answers.append(called(door, "/text")))
            thread.start()
            thread.join()
        assert called(door, "/text")[0] == "200 OK"
    assert [answer[0] for answer in answers] == ["500 Internal Server Error"] * 2
    assert len([record for record in caplog.records if "thread" in record.getMessage()]) == 1
    assert not monkey.is_module_patched("threading")


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_request_has_its_deadline_also_when_the_door_restarts(is_restarted: bool) -> None:
    class Hanging(Actor):
        def consume(self, event: Any) -> None:
            gate.wait()

    gate = Gate()
    director = Director(stop_timeout_s=1.0)
    door = director.register_actor(WSGI, "door", timeout_s=0.4)
    director.connect_queue(door, director.register_actor(Hanging, "hanging"))
    with director:
        calling = Pool().spawn(called, door, "/")
        wait_until(lambda: director.snapshot().actors["hanging"].in_flight == 1)
        if is_restarted:
            director.crashed(door._wired, "for the test")
            wait_until(lambda: director.snapshot().actors["door"].restarts == 1)
        status = calling.get(timeout=5)[0]
        gate.set()
    assert status in ({"503 Service Unavailable", "504 Gateway Timeout"} if is_restarted else {"504 Gateway Timeout"})
    assert door.pending == 0
    assert_conserved(director)


def test_it_cannot_be_called_before_it_is_registered() -> None:
    door = WSGI("door")
    assert called(door, "/")[0] == "503 Service Unavailable"
    with pytest.raises(DirectorStateError):
        door.pause()
