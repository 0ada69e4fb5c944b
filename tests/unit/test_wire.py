# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.wire`: what of an event travels, what comes back, and what is refused on the way."""

import datetime
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from compysition.codec import encode_map
from compysition.errors import (
    ActorError,
    CompysitionError,
    DeadlineError,
    MalformedError,
    NotFoundError,
    TooLargeError,
    TooManyError,
    UnavailableError,
)
from compysition.event import Event, Failure
from compysition.http.event import HttpEvent
from compysition.http.request import Request
from compysition.mdp.envelope import BY_BROKER, ERROR, PLAIN_WORKER, REPLY, REQUEST, Envelope
from compysition.mdp.window import Answer
from compysition.wire import answer_of, answer_of_failure, event_of, request_of, take_answer

ENVIRON = {
    "REQUEST_METHOD": "POST",
    "RAW_URI": "/orders/a%2Fb?q=1&q=2",
    "PATH_INFO": "/orders/a/b",
    "QUERY_STRING": "q=1&q=2",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "HTTP_HOST": "example.org",
    "HTTP_COOKIE": "a=b",
    "HTTP_X_COLOUR": "red",
    "HTTP_X_FORWARDED_FOR": "10.0.0.1",
    "HTTP_ACCEPT": "text/html",
    "CONTENT_TYPE": "application/json",
    "REMOTE_ADDR": "127.0.0.1",
    "wsgi.url_scheme": "https",
}


def there(event: Event) -> Event:
    """The event that a worker of ours gets."""
    data, _, metadata = request_of(event)
    return event_of([data], Envelope(REQUEST, bytes(16), metadata=metadata), "echo")


def and_back(event: Event, answer: Answer, flags: int = 0) -> Event:
    """`event`, with the answer of a worker of ours in it."""
    flags |= ERROR if answer.is_error else 0
    take_answer(event, answer.body, Envelope(REPLY, bytes(16), flags, status=answer.status, metadata=answer.metadata))
    return event


def test_ids_service_and_data_travel_and_attributes_stay_at_home() -> None:
    event = Event({"at": datetime.date(2026, 1, 2)}, "orders", colour="red").copy()
    worked = there(event)
    assert (worked.event_id, worked.meta_id, worked.service) == (event.event_id, event.meta_id, "orders")
    assert worked.meta_id != worked.event_id
    assert worked.data == event.data
    assert worked.get("colour") is None
    assert there(Event(1)).meta_id != event.meta_id


def test_http_request_travels_whole() -> None:
    request = Request.from_environ(ENVIRON)
    worked = there(HttpEvent([1], replace(request, params={"id": 7})))
    assert isinstance(worked, HttpEvent)
    for name in ("method", "target", "segments", "path", "scheme", "host", "client", "content_type", "accept"):
        assert getattr(worked.request, name) == getattr(request, name)
    assert worked.query.get_all("q") == ["1", "2"]
    assert worked.cookies == {"a": "b"}
    assert worked.headers.pairs() == request.headers.pairs()
    assert "X-Forwarded-For" not in worked.headers
    assert worked.request.params == {"id": 7}


def test_head_of_the_answer_comes_back() -> None:
    worked = there(HttpEvent())
    assert isinstance(worked, HttpEvent)
    worked.response.status = 201
    worked.response.set_cookie("a", "b")
    worked.data = "made"
    event = HttpEvent("x")
    and_back(event, answer_of(worked, is_plain=False))
    assert (event.data, event.response.status) == ("made", 201)
    assert [name for name, _ in event.response.headers.pairs()] == ["Set-Cookie"]


def test_error_for_the_caller_comes_back_as_it_was() -> None:
    error = TooManyError("not so fast", retry_after_s=2.0, headers={"X-Limit": "5"})
    failure = and_back(Event(1), answer_of_failure(Failure.of(error), "id")).error
    assert failure is not None
    again = failure.exception()
    assert isinstance(again, TooManyError)
    assert (str(again), again.retry_after_s, dict(again.headers)) == ("not so fast", 2.0, {"X-Limit": "5"})


def test_any_other_error_says_only_its_class_and_where_to_look() -> None:
    answer = answer_of_failure(Failure.of(ValueError("a secret")), "the-id")
    failure = and_back(Event(1), answer).error
    assert failure is not None
    assert (failure.error_class, failure.status) == (ActorError, 500)
    assert failure.text == "ValueError in the worker; its log has it under event the-id"


@pytest.mark.parametrize(
    ("status", "cls"), [(404, NotFoundError), (503, UnavailableError), (504, DeadlineError), (500, ActorError)]
)
def test_refusal_of_the_broker_has_the_class_of_its_status(status: int, cls: type[CompysitionError]) -> None:
    event = Event(1)
    take_answer(event, [b"no"], Envelope(REPLY, bytes(16), ERROR | BY_BROKER, status=status))
    assert event.error is not None
    assert (event.error.error_class, event.error.status, event.error.text) == (cls, status, "no")


def test_no_class_but_ours_can_be_named_by_the_other_side() -> None:
    for name in ("SystemExit", "Retry", "os.system", "StopFlow"):
        event = Event(1)
        metadata = encode_map({"form": "text", "error": name})
        take_answer(event, [b"no"], Envelope(REPLY, bytes(16), ERROR, status=500, metadata=metadata))
        assert event.error is not None
        assert event.error.error_class is ActorError


@pytest.mark.parametrize("flags", [PLAIN_WORKER, None])
def test_plain_answers_are_bytes_or_a_list_of_them(flags: int | None) -> None:
    envelope = None if flags is None else Envelope(REPLY, bytes(16), flags, status=200)
    event = Event(1)
    take_answer(event, [b"one"], envelope)
    assert event.data == b"one"
    take_answer(event, [b"one", b"two"], envelope)
    assert event.data == [b"one", b"two"]


def test_plain_request_is_bytes_or_a_list_of_them() -> None:
    assert event_of([b"one"], None, "echo").data == b"one"
    assert event_of([b"one", b"two"], None, "echo").data == [b"one", b"two"]
    assert event_of([b"one"], Envelope(REQUEST, bytes(16)), "echo").service == "echo"


def test_headers_beyond_the_limit_are_refused_at_the_sender() -> None:
    environ = {**ENVIRON, "HTTP_X_LONG": "x" * 70_000}
    with pytest.raises(TooLargeError, match="ids and headers"):
        request_of(HttpEvent(1, Request.from_environ(environ)))


GOOD = {"id": "i", "meta": "m", "service": "s", "form": "json"}
HTTP: dict[str, Any] = {"method": "GET", "target": "/", "segments": [], "fields": [], "params": {}}


@pytest.mark.parametrize(
    "values",
    [
        {**GOOD, "form": "pickle"},
        {**GOOD, "form": 7},
        {**GOOD, "id": 7},
        {**GOOD, "service": None},
        {**GOOD, "http": []},
        {**GOOD, "http": {**HTTP, "segments": "x"}},
        {**GOOD, "http": {**HTTP, "fields": [["a"]]}},
        {**GOOD, "http": {**HTTP, "fields": [["a", 1]]}},
        {**GOOD, "http": {**HTTP, "method": 1}},
        {**GOOD, "http": {**HTTP, "params": 1}},
    ],
)
def test_metadata_that_makes_no_sense_is_malformed(values: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        event_of([b"1"], Envelope(REQUEST, bytes(16), metadata=encode_map(values)), "echo")


def test_header_that_cannot_be_sent_on_is_malformed() -> None:
    metadata = encode_map({"form": "json", "http": {"status": 200, "fields": [["A", "b\r\nC: d"]]}})
    take: Callable[..., None] = take_answer
    with pytest.raises(MalformedError, match="header"):
        take(HttpEvent(), [b"1"], Envelope(REPLY, bytes(16), status=200, metadata=metadata))
