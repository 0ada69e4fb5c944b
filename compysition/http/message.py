# SPDX-License-Identifier: Apache-2.0
"""The two directions of one request on its connection: its body as it comes, its answer as it goes out.

Must not know events, actors or the Director. Read next: `connection`.
"""

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, Final
from wsgiref.types import WSGIApplication

from compysition.clock import Clock
from compysition.deadlines import DeadlineWheel
from compysition.http.gunicorn import BODY_ERRORS, ParsedHead
from compysition.http.headers import is_token
from compysition.http.receiver import LINGER_BYTES, LINGER_S, Connections, limit
from compysition.http.wire import Wire, WireLimits

if TYPE_CHECKING:
    from gevent.ssl import SSLContext

_LOGGER: Final = logging.getLogger("compysition.http")
# Up to here copying a body to its head is cheaper than another system call.
_JOINED_BYTES: Final = 64 * 1024
#: What only the server can say about a connection (PEP 3333).
_OURS: Final = frozenset({"connection", "date", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})
#: Answers that never have a body (RFC 9110, section 15).
_BODILESS: Final = ("204", "304")
_is_value: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*").fullmatch
_is_status: Final = re.compile(r"[2-5][0-9]{2} [\t\x20-\x7e\x80-\xff]*").fullmatch


@dataclass(slots=True)
class Service:
    """What the connections of one server have in common.

    Attributes:
        application: Called for each request, in the connection's greenlet; it may wait there.
        environ: What all environs begin with.
        connections: Which are idle, and whether each answer is to be the last of its connection.
        wheel: Where the deadlines of the connections lie.
        limits: What a client may take.
        tls: What TLS is spoken with; None = none is.
        slow_readers: Connections that were reset because the client did not take its answer.
    """

    application: WSGIApplication
    environ: dict[str, Any]
    connections: Connections
    wheel: DeadlineWheel
    limits: WireLimits
    tls: "SSLContext | None" = None
    slow_readers: int = 0
    _date: str = ""
    _date_s: int = 0

    def date(self) -> str:
        """The time as HTTP writes it."""
        now = int(Clock.wall())
        if now != self._date_s:
            self._date_s, self._date = now, formatdate(now, usegmt=True)
        return self._date


class Body:
    """``wsgi.input``: the body of one request, and of that only."""

    __slots__ = ("_continues", "_head", "_wire", "is_broken")

    def __init__(self, head: ParsedHead, wire: Wire) -> None:
        self._head = head
        self._wire = wire
        #: Whether the client still waits to be told to send it.
        self._continues = head.expects_continue
        #: Whether reading it failed: where the next request begins is not known any more.
        self.is_broken = False

    @property
    def is_read(self) -> bool:
        """Whether the next byte of the connection belongs to another request."""
        return self._head.body_left == 0 and not self.is_broken

    @property
    def can_be_drained(self) -> bool:
        """Whether what is left is known to be little, and on its way without being asked for."""
        left = self._head.body_left
        return left is not None and left <= LINGER_BYTES and not (self.is_broken or (self._continues and left))

    def drain(self) -> bool:
        """Read what nobody asked for, if it comes at once. Returns whether the connection may go on."""
        if not self.is_read and self.can_be_drained:
            with limit(LINGER_S):
                self._call(self._head.body.read)
        return self.is_read

    def read(self, size: int | None = None) -> bytes:
        """Wait for the client until it has sent `size` bytes; None = the whole body.

        Raises:
            TimeoutError: It takes too long.
            OSError: It cannot be read.
        """
        return self._call(self._head.body.read, size)

    def readline(self, size: int | None = None) -> bytes:
        """Like `read`, up to the end of a line."""
        return self._call(self._head.body.readline, size)

    def readlines(self, hint: int | None = None) -> list[bytes]:
        """All lines; `hint` is not looked at, as PEP 3333 allows."""
        return list(self)

    def __iter__(self) -> Iterator[bytes]:
        while line := self.readline():
            yield line

    def _call(self, method: Callable[..., bytes], *args: Any) -> bytes:
        if self._continues:
            self._continues = False
            # Whoever sent some of it already does not wait (RFC 9110, section 10.1.1).
            if self._head.body_left != 0 and not self._wire.has_unread:
                self._wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            return method(*args)
        except BODY_ERRORS as error:
            self.is_broken = True
            raise OSError("the body ended early, or its chunks cannot be read") from error
        except BaseException:
            self.is_broken = True
            raise


class Answer:
    """The answer to one request, as it goes out: `start` and `write` are those of PEP 3333."""

    __slots__ = (
        *("_body", "_fields", "_has_body", "_head", "_is_chunked", "_left", "_service", "_status", "_wire"),
        *("has_begun", "is_cut", "keeps"),
    )

    def __init__(self, service: Service, wire: Wire, head: ParsedHead, body: Body, *, keeps: bool) -> None:
        self._service = service
        self._wire = wire
        self._head = head
        self._body = body
        #: Whether the connection goes on after this answer.
        self.keeps = keeps
        self._status: str | None = None
        self._fields: list[tuple[str, str]] = []
        #: Bytes of the announced length that are still to come; None without one.
        self._left: int | None = None
        self._is_chunked = False
        self._has_body = True
        #: Whether any byte of it was written.
        self.has_begun = False
        #: Whether writing it failed: the client has gone, or does not read.
        self.is_cut = False

    def start(self, status: str, fields: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        """Set status and fields. With `exc_info` also a second time, as long as nothing was sent."""
        if exc_info is not None and self.has_begun:
            raise exc_info[1].with_traceback(exc_info[2])
        if exc_info is None and self._status is not None:
            raise AssertionError("start_response was called twice")
        if not _is_status(status):
            raise ValueError(f"{status!r} is no status of an answer")
        self._status, self._fields = status, fields
        return self.write

    def write(self, data: bytes) -> None:
        """Send a part of the body; with the first one the head. Waits for the client to take it."""
        if not self.has_begun:
            self._begin(data, is_whole=False)
        elif data and self._has_body:
            self._send(self._framed(data))

    def write_whole(self, data: bytes) -> None:
        """Send head and body in one write, if the body is not large."""
        self._begin(data, is_whole=True)

    def finish(self) -> None:
        """The body ends here."""
        if not self.has_begun:
            self._begin(b"", is_whole=True)
        elif self._is_chunked:
            self._send(b"0\r\n\r\n")
        elif self._left and self._has_body:
            # The client waits for what does not come: it has to see that something is missing.
            _LOGGER.error("an answer ended %d bytes before its Content-Length", self._left)
            self.is_cut, self.keeps = True, False

    def _begin(self, data: bytes, *, is_whole: bool) -> None:
        if self._status is None:
            raise AssertionError("the application did not call start_response")
        is_bodiless = self._status[:3] in _BODILESS
        self._has_body = self._head.method != "HEAD" and not is_bodiless
        length, extra = _announced(self._fields), ""
        if length is None and not is_bodiless:
            if is_whole and self._has_body:
                length = len(data)
                extra = f"Content-Length: {length}\r\n"
            elif self._head.version >= (1, 1):
                self._is_chunked = self._has_body
                extra = "Transfer-Encoding: chunked\r\n"
            else:
                # Nothing else tells an HTTP/1.0 client where the body ends.
                self.keeps = False
        self._left = length
        body = self._body
        is_last = self._service.connections.is_draining or self._wire.has_ended
        if is_last or not (body.is_read or body.can_be_drained):
            self.keeps = False
        if not self.keeps:
            extra += "Connection: close\r\n"
        elif self._head.version < (1, 1):
            extra += "Connection: keep-alive\r\n"
        self._send_head(extra, self._framed(data) if data and self._has_body else b"")

    def _send_head(self, extra: str, payload: bytes) -> None:
        fields = "".join([f"{name}: {value}\r\n" for name, value in self._fields])
        head = f"HTTP/1.1 {self._status}\r\nDate: {self._service.date()}\r\n{fields}{extra}\r\n".encode("latin-1")
        self.has_begun = True
        if len(payload) <= _JOINED_BYTES:
            self._send(head + payload)
        else:
            self._send(head)
            self._send(payload)

    def _framed(self, data: bytes) -> bytes:
        if self._is_chunked:
            return b"%x\r\n%b\r\n" % (len(data), data)
        if self._left is not None:
            if len(data) > self._left:
                _LOGGER.error("an answer has %d bytes more than its Content-Length", len(data) - self._left)
                data = data[: self._left]
            self._left -= len(data)
        return data

    def _send(self, data: bytes) -> None:
        try:
            self._wire.write(data)
        except OSError:
            self.is_cut, self.keeps = True, False
            raise


def _announced(fields: list[tuple[str, str]]) -> int | None:
    """The length that an application announces, in bytes; and a check of what it says, once more.

    Names and values are checked where they are set, too: but here a line break would do its harm.
    """
    length = None
    for name, value in fields:
        lower = name.lower()
        if lower == "content-length":
            length = int(value)
        elif lower in _OURS:
            raise ValueError(f"the header {name!r} is set by the server and cannot be set here")
        if not (is_token(name) and _is_value(value)):
            raise ValueError(f"the header {name!r} of the answer cannot be sent")
    return length
