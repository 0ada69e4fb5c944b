# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.actors.wsgi` about routes and about requests that need no flow."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from compysition import Actor, Director
from compysition.actors import WSGI
from compysition.errors import ConfigurationError, DirectorStateError, StartError
from compysition.http.event import HttpEvent
from tests.fault.conservation import assert_conserved
from tests.unit.actors.test_wsgi import called


class Echo(Actor):
    """Answers with where the event went and what it carries."""

    def consume(self, event: Any) -> None:
        assert isinstance(event, HttpEvent)
        params = {name: str(value) for name, value in event.params.items()}
        event.data = {
            "actor": self.name,
            "service": event.service,
            "params": params,
            "client": event.client,
            "scheme": event.request.scheme,
        }
        self.send_event(event)


# Not of the methods: wsgiref has a list of those that it knows.
pytestmark = pytest.mark.filterwarnings("ignore:Unknown REQUEST_METHOD")

Start = Callable[[WSGI], None]


@pytest.fixture
def started() -> Iterator[Callable[..., WSGI]]:
    """A running door with the outboxes `orders` and `files`; `prepare` is called before the start."""
    director = Director()

    def start(prepare: Start = lambda door: None, **options: Any) -> WSGI:
        door = director.register_actor(WSGI, "door", **options)
        for name in ("orders", "files"):
            echo = director.register_actor(Echo, name)
            director.connect_queue(door, echo)
            director.connect_queue(echo, door)
        prepare(door)
        director.start(block=False)
        return door

    yield start
    if director.is_running():
        assert director.stop().ok
    assert_conserved(director)


def test_a_request_goes_to_the_outbox_of_its_route_with_its_parameters(started: Callable[..., WSGI]) -> None:
    door = started(routes={"/orders/{id:int}": "orders", "/{name:path}": "files"})
    answer = json.loads(called(door, "/orders/17")[2])
    assert (answer["actor"], answer["service"], answer["params"]) == ("orders", "orders", {"id": "17"})
    assert json.loads(called(door, "/orders/x")[2])["params"] == {"name": "orders/x"}


def test_a_route_may_be_made_by_a_call_before_the_start_only(started: Callable[..., WSGI]) -> None:
    door = started(lambda door: door.route("/a", "files", methods=["GET"]))
    assert json.loads(called(door, "/a")[2])["actor"] == "files"
    with pytest.raises(DirectorStateError, match="before the start"):
        door.route("/b", "files")


def test_routes_are_counted_from_behind_the_base_path(started: Callable[..., WSGI]) -> None:
    door = started(base_path="/api", routes={"/a": "files"})
    assert called(door, "/api/a")[0] == "200 OK"
    assert called(door, "/a")[0] == "404 Not Found"
    assert called(door, "/apix/a")[0] == "404 Not Found"


def test_a_refused_request_is_a_problem_with_its_id_and_never_an_event(started: Callable[..., WSGI]) -> None:
    door = started(routes={"GET /a": "files"})
    for path, method, status in [("/b", "GET", 404), ("/a", "POST", 405), ("/a", "BREW", 501)]:
        line, headers, body = called(door, path, REQUEST_METHOD=method, HTTP_X_REQUEST_ID="abc")
        assert line.startswith(str(status))
        assert headers["X-Request-ID"] == "abc"
        assert json.loads(body)["instance"] == "urn:compysition:request:abc"
        assert ("Allow" in headers) is (status == 405)
    assert called(door, "/a", REQUEST_METHOD="TRACE")[0] == "405 Method Not Allowed"
    assert door.pending == 0
    assert door._wired.ledger.accepted == 0


def test_options_is_answered_with_what_the_path_takes(started: Callable[..., WSGI]) -> None:
    door = started(routes={"GET /a": "files", "POST /a": "orders"})
    status, headers, body = called(door, "/a", REQUEST_METHOD="OPTIONS")
    assert (status, headers["Allow"], body) == ("204 No Content", "GET, HEAD, OPTIONS, POST", b"")
    status, headers, _ = called(door, "/a", REQUEST_METHOD="OPTIONS", RAW_URI="*")
    assert (status, headers["Allow"]) == ("204 No Content", "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT")


def test_without_routes_options_goes_through_the_flow(started: Callable[..., WSGI]) -> None:
    assert called(started(), "/orders", REQUEST_METHOD="OPTIONS")[0] == "200 OK"


def test_a_method_of_a_route_is_served_even_if_nobody_else_knows_it(started: Callable[..., WSGI]) -> None:
    assert called(started(routes={"PURGE /a": "files"}), "/a", REQUEST_METHOD="PURGE")[0] == "200 OK"


def test_types_are_refused_before_the_body_is_read(started: Callable[..., WSGI]) -> None:
    door = started(lambda door: door.route("/a", "files", consumes=["text/csv"], produces=["text/csv"]))
    # The announced body does not exist: reading it would be answered 400.
    body = {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "9"}
    status, headers, _ = called(door, "/a", CONTENT_TYPE="text/html", **body)
    assert (status, headers["Accept"]) == ("415 Unsupported Media Type", "text/csv")
    assert called(door, "/a", CONTENT_TYPE="text/csv", HTTP_ACCEPT="image/png", **body)[0] == "406 Not Acceptable"
    assert called(door, "/a", CONTENT_TYPE="text/csv", **body)[0] == "400 Bad Request"


def test_a_route_has_its_own_limits(started: Callable[..., WSGI]) -> None:
    def prepare(door: WSGI) -> None:
        door.route("/small", "files", max_body_bytes=3)
        door.route("/large", "files", max_body_bytes=10**9)
        door.route("/short", "files", timeout_s=7.0)

    door = started(prepare, max_body_bytes=100)
    assert called(door, "/small", REQUEST_METHOD="POST", CONTENT_LENGTH="4")[0] == "413 Content Too Large"
    # The body is cut off, so it has passed the limit.
    assert called(door, "/large", REQUEST_METHOD="POST", CONTENT_LENGTH="101")[0] == "400 Bad Request"
    assert [route.timeout_s for route in door._routes] == [None, None, 7.0]


def test_what_the_client_accepts_decides_about_data_and_problems(started: Callable[..., WSGI]) -> None:
    door = started(routes={"/a": "files"})
    assert called(door, "/a", HTTP_ACCEPT="application/xml")[1]["Content-Type"] == "application/xml"
    assert called(door, "/b", HTTP_ACCEPT="application/xml")[1]["Content-Type"] == "application/problem+xml"
    assert called(door, "/%ff", HTTP_ACCEPT="text/plain", RAW_URI="/%ff")[1]["Content-Type"].startswith("text/plain")


def test_the_word_of_a_trusted_proxy_counts(started: Callable[..., WSGI]) -> None:
    door = started(trusted_proxies=["127.0.0.0/8"])
    said = {"HTTP_X_FORWARDED_FOR": "1.2.3.4", "HTTP_X_FORWARDED_PROTO": "https"}
    for peer, client, scheme in [("127.0.0.1", "1.2.3.4", "https"), ("9.9.9.9", "9.9.9.9", "http")]:
        answer = json.loads(called(door, "/orders", REMOTE_ADDR=peer, **said)[2])
        assert (answer["client"], answer["scheme"]) == (client, scheme)


def test_an_outbox_that_is_not_there_is_named_at_the_start(started: Callable[..., WSGI]) -> None:
    with pytest.raises(StartError, match=r"route '/a' leads to 'order'.*did you mean 'orders'"):
        started(routes={"/a": "order"})


@pytest.mark.parametrize("options", [{"routes": {"a": "files"}}, {"forwarded": "x"}, {"trusted_proxies": ["x"]}])
def test_an_argument_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Director().register_actor(WSGI, "door", **options)
