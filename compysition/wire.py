# SPDX-License-Identifier: Apache-2.0
"""Events on the MajorDomo wire: what of an event travels to another process, and what comes back into it.

The data is a frame of its own (`codec`). Beside it travels metadata: ids, service, the form of the data, and of an
event that began as an HTTP request its head, so that a worker's actors see the request and may set status and headers
of the answer. Attributes of the event stay at home. Read next: `compysition.actors.mdpclient`.
"""

import inspect
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, Final

from compysition import errors
from compysition.codec import Form, decode, decode_map, encode, encode_map, encode_plain
from compysition.errors import (
    ActorError,
    CompysitionError,
    HeaderError,
    MalformedError,
    RequestError,
    TooLargeError,
    UnprocessableError,
)
from compysition.event import Event, Failure
from compysition.http.event import HttpEvent
from compysition.http.request import Request
from compysition.mdp.envelope import ERROR, MOST_METADATA_BYTES, PLAIN_WORKER, Envelope
from compysition.mdp.window import Answer

#: By name, what a worker's error may be at the client: nothing that is not of our own tree.
_ERRORS: Final = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, CompysitionError)
}
#: By status, what stands for an error of which only that is known.
_BY_STATUS: Final = {
    **{cls.status: cls for cls in RequestError.__subclasses__()},
    504: errors.DeadlineError,
}
_REQUEST_TEXTS: Final = ("method", "target", "query_string", "scheme", "host", "client")
_REQUEST_OPTIONAL: Final = ("content_type", "request_id", "accept", "_family")


# ---- to the worker ----------------------------------------------------------------------------------------------


def request_of(event: Event) -> tuple[bytes, bytes | None, bytes]:
    """What is sent for `event`: its data, the same for a plain peer (None: it cannot be said to one), its metadata.

    Raises:
        UnprocessableError: the data holds something that cannot be sent.
        TooLargeError: data or metadata are too large.
    """
    data, form = encode(event.data)
    plain: bytes | None = data
    if form is Form.MSGPACK:
        try:
            plain = encode_plain(event.data)
        except UnprocessableError:
            plain = None
    values: dict[str, Any] = {
        "id": event.event_id,
        "meta": event.meta_id,
        "service": event.service,
        "form": form.value,
    }
    if isinstance(event, HttpEvent):
        request = event.request
        http: dict[str, Any] = {name: getattr(request, name) for name in (*_REQUEST_TEXTS, *_REQUEST_OPTIONAL)}
        http |= {"segments": request.segments, "fields": request._fields, "params": request.params}
        values["http"] = http
    return data, plain, _checked_metadata(values)


def event_of(body: Sequence[bytes], envelope: Envelope | None, service: str) -> Event:
    """The event that a worker's actors get. A foreign peer's is bytes, or a list of them if it sent several frames.

    Raises:
        MalformedError, TooLargeError: the other side wrote what cannot be read.
    """
    if envelope is None:
        return Event(_plain_data(body), service)
    values = decode_map(envelope.metadata)
    data = decode(body[0], _form_of(values)) if len(body) == 1 and values else _plain_data(body)
    name = _text(values, "service", service)
    identity, meta = _text(values, "id", ""), _text(values, "meta", "")
    http = values.get("http")
    event = Event(data, name) if http is None else HttpEvent(data, _request_from(http), name)
    if identity:
        event._id = identity
        event._meta = meta if meta and meta != identity else None
    return event


# ---- and back ---------------------------------------------------------------------------------------------------


def answer_of(event: Event, *, is_plain: bool) -> Answer:
    """What a worker answers with `event`.

    Raises:
        UnprocessableError: the data holds something that cannot be sent.
        TooLargeError: data or metadata are too large.
    """
    if event.error is not None:
        return answer_of_failure(event.error, event.event_id)
    if is_plain:
        return Answer((encode_plain(event.data),))
    data, form = encode(event.data)
    values: dict[str, Any] = {"form": form.value}
    status = 200
    if isinstance(event, HttpEvent):
        head = event.response
        values["http"] = {"status": head.status, "fields": [list(pair) for pair in head.headers.pairs()]}
        status = head.status or 200
    return Answer((data,), status, metadata=_checked_metadata(values))


def answer_of_failure(failure: Failure, event_id: str) -> Answer:
    """What a worker answers for an event that failed. Only errors made for the caller say more than where to look."""
    is_for_caller = issubclass(failure.error_class, RequestError)
    name = failure.error_class.__name__
    text = failure.text if is_for_caller else f"{name} in the worker; its log has it under event {event_id}"
    values = {
        "form": Form.TEXT.value,
        "error": name if _ERRORS.get(name) is failure.error_class else "",
        "headers": dict(failure.headers or {}),
        "retry_after_s": failure.retry_after_s,
    }
    status = failure.status if 400 <= failure.status <= 599 else 500
    metadata = encode_map(values)
    if len(metadata) > MOST_METADATA_BYTES:
        metadata = encode_map({"form": Form.TEXT.value, "error": values["error"]})
    return Answer((text.encode(errors="replace"),), status, is_error=True, metadata=metadata)


def take_answer(event: Event, body: Sequence[bytes], envelope: Envelope | None) -> None:
    """Put what a worker, or the broker, has answered into `event`: data and head, or the error.

    Raises:
        MalformedError, TooLargeError: the other side wrote what cannot be read.
    """
    if envelope is None or envelope.flags & PLAIN_WORKER:
        event.data = _plain_data(body)
        return
    values = decode_map(envelope.metadata)
    if envelope.flags & ERROR:
        event.error = failure_of(body[0], envelope.status, values)
        return
    data = decode(body[-1], _form_of(values))
    event.data = data if len(body) == 1 else [*body[:-1], data]
    http = values.get("http")
    if isinstance(event, HttpEvent) and isinstance(http, dict):
        _take_head(event, http)


def failure_of(text: bytes, status: int, values: dict[str, Any]) -> Failure:
    """The record of an error that another process has named."""
    cls = _ERRORS.get(str(values.get("error", ""))) or _BY_STATUS.get(status, ActorError)
    headers, retry_after_s = values.get("headers"), values.get("retry_after_s")
    words = text.decode(errors="replace")
    return Failure(
        cls,
        words,
        status if 400 <= status <= 599 else 500,
        headers={str(k): str(v) for k, v in headers.items()} if isinstance(headers, dict) and headers else None,
        retry_after_s=retry_after_s if isinstance(retry_after_s, int | float) else None,
        args=(words,),
    )


def _take_head(event: HttpEvent, http: dict[str, Any]) -> None:
    status, fields = http.get("status"), http.get("fields")
    if isinstance(status, int) and 200 <= status <= 599:
        event.response.status = status
    try:
        for name, value in _pairs(fields):
            event.response.headers.add(name, value)
    except HeaderError as error:
        raise MalformedError(f"an answer with a header that cannot be sent on: {error}") from error


# ---- reading what others wrote ----------------------------------------------------------------------------------


def _checked_metadata(values: dict[str, Any]) -> bytes:
    metadata = encode_map(values)
    if len(metadata) > MOST_METADATA_BYTES:
        raise TooLargeError(
            f"ids and headers of an event take {len(metadata)} bytes, at most {MOST_METADATA_BYTES} travel to another "
            "process"
        )
    return metadata


def _plain_data(body: Sequence[bytes]) -> bytes | list[bytes]:
    return body[0] if len(body) == 1 else list(body)


def _form_of(values: dict[str, Any]) -> Form:
    try:
        return Form(values.get("form", Form.BYTES.value))
    except ValueError:
        raise MalformedError(f"data of the form {values.get('form')!r}, which is not known here") from None


def _text(values: dict[str, Any], name: str, default: str) -> str:
    value = values.get(name, default)
    if not isinstance(value, str):
        raise MalformedError(f"metadata in which {name!r} is a {type(value).__name__} and no text")
    return value


def _pairs(value: Any) -> list[tuple[str, str]]:
    found = []
    for pair in value if isinstance(value, list) else ():
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise MalformedError("metadata with a header that is no pair of texts")
        found.append((pair[0], pair[1]))
    return found


def _request_from(values: Any) -> Request:
    if not isinstance(values, dict):
        raise MalformedError("metadata in which 'http' is no map")
    texts: dict[str, Any] = {name: _text(values, name, "") for name in _REQUEST_TEXTS}
    optional: dict[str, Any] = {name: values[name] for name in _REQUEST_OPTIONAL if isinstance(values.get(name), str)}
    segments = values.get("segments")
    if not (isinstance(segments, list) and all(isinstance(segment, str) for segment in segments)):
        raise MalformedError("metadata in which 'segments' is no list of texts")
    params = values.get("params")
    if not isinstance(params, dict):
        raise MalformedError("metadata in which 'params' is no map")
    fields = tuple(_pairs(values.get("fields")))
    return Request(**texts, **optional, segments=tuple(segments), _fields=fields, params=MappingProxyType(params))
