# SPDX-License-Identifier: Apache-2.0
"""Requests without sockets: an event as the door makes it, and a request to a door. Read next: `watch`."""

import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from compysition.http.headers import FrozenHeaders
from compysition.http.request import Request

if TYPE_CHECKING:
    from wsgiref.types import WSGIEnvironment

    from compysition.http.event import HttpEvent


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What came back.

    Attributes:
        status: Such as 200.
        headers: The header fields.
        body: The whole body.
    """

    status: int
    headers: FrozenHeaders
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode("utf-8")

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


def http_event(
    method: str = "GET", target: str = "/", data: object = None, *, headers: Mapping[str, str] | None = None
) -> "HttpEvent":
    """An event such as a `WSGI` actor makes of a request; nobody waits for its answer.

    Args:
        method: Upper case, such as ``POST``.
        target: Path and query, such as ``/orders/7?deep=1``; its first segment is the event's service.
        data: The decoded body.
        headers: Header fields of the request.

    Raises:
        RequestError: the door would refuse such a request.
    """
    from compysition.http.event import HttpEvent

    request = Request.from_environ(_environ(method, target, None, headers or {}))
    return HttpEvent(data, request, request.service, request.request_id)


def http_call(
    application: Callable[..., Iterable[bytes]],
    method: str = "GET",
    target: str = "/",
    body: object = None,
    *,
    headers: Mapping[str, str] | None = None,
) -> HttpAnswer:
    """Make a request to a `WSGI` actor, or to any WSGI application, in this greenlet; waits for the answer.

    Args:
        application: The running Director's `WSGI` actor.
        method: Upper case, such as ``POST``.
        target: Path and query.
        body: Bytes and text as they are; anything else is sent as JSON.
        headers: Header fields of the request.
    """
    environ = _environ(method, target, body, headers or {})
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, fields: list[tuple[str, str]], exc_info: object = None, /) -> Any:
        started.append((status, fields))
        return lambda chunk: None

    chunks: Iterable[bytes] = application(environ, start_response)
    try:
        content = b"".join(chunks)
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()
    status, fields = started[-1]
    return HttpAnswer(int(status.split(" ", 1)[0]), FrozenHeaders(fields), content)


def _environ(method: str, target: str, body: object, headers: Mapping[str, str]) -> "WSGIEnvironment":
    path, _, query = target.partition("?")
    if isinstance(body, bytes):
        content, content_type = body, "application/octet-stream"
    elif isinstance(body, str):
        content, content_type = body.encode("utf-8"), "text/plain; charset=utf-8"
    else:
        content, content_type = json.dumps(body).encode("utf-8"), "application/json"
    environ: WSGIEnvironment = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "RAW_URI": target,
        "QUERY_STRING": query,
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "localhost",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(content if body is not None else b""),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    if body is not None:
        environ["CONTENT_LENGTH"] = str(len(content))
        environ["CONTENT_TYPE"] = content_type
    for name, value in headers.items():
        key = name.upper().replace("-", "_")
        environ[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"] = value
    return environ
