# SPDX-License-Identifier: Apache-2.0
"""One connection of the embedded server: gevent's pywsgi, with what it leaves open closed.

Must not know events or actors. Read next: `pywsgi`.
"""

import io
import logging
import re
from collections.abc import Callable
from email.utils import formatdate
from types import TracebackType
from typing import Any, Final
from wsgiref.types import WSGIEnvironment

import gevent
from gevent import pywsgi, socket

from compysition.http.headers import MAX_LENGTH_DIGITS
from compysition.http.receiver import LINGER_BYTES, LINGER_S, Connections, Receiver, limit
from compysition.http.response import problem

#: Head of a request: fields, and bytes of one and of all.
MAX_FIELDS: Final = 100
MAX_FIELD_BYTES: Final = 8190
MAX_HEAD_BYTES: Final = 64 * 1024

_LOGGER: Final = logging.getLogger("compysition.http")
# Up to here copying a body to its head is cheaper than another system call.
_JOINED_BYTES: Final = 64 * 1024
# Characters of a path that a log line shows.
_LOGGED: Final = 2048
_is_request_line: Final = re.compile(r"[^ ]+ [^ ]+ HTTP/([0-9])\.[0-9]\r\n").fullmatch
# RFC 9112, section 5: no folding, no space before the colon, no bare CR or LF, no control character but a tab.
_is_head: Final = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t\x20-\x7e\x80-\xff]*+\r\n)*+\r\n").fullmatch
_find_framing: Final = re.compile(rb"(?mi)^(content-length|transfer-encoding):[ \t]*([^\r]*?)[ \t]*\r$").findall


class Body(pywsgi.Input):
    """``wsgi.input`` that knows whether the connection may go on after it."""

    __slots__ = ("is_broken",)

    def __init__(self, rfile: io.BufferedReader, length: int | None, *, client: socket.socket | None, chunked: bool):
        super().__init__(rfile, length, client, chunked)
        #: Whether reading it failed: where the next request begins is not known any more.
        self.is_broken = False

    def read(self, length: int | None = None) -> bytes:
        """Waits for the client until it has sent `length` bytes; None = the whole body."""
        try:
            return super().read(length)
        except BaseException:
            self.is_broken = True
            raise

    def readline(self, size: int | None = None) -> bytes:
        """Like `read`, up to the end of a line."""
        try:
            return super().readline(size)
        except BaseException:
            self.is_broken = True
            raise

    @property
    def is_read(self) -> bool:
        """Whether the next byte of the connection belongs to another request."""
        if self.chunked_input:
            return self.chunk_length == 0 and not self.is_broken
        return self.position >= (self.content_length or 0)

    @property
    def can_be_drained(self) -> bool:
        """Whether what is left is known to be little, and on its way without being asked for (``100 Continue``)."""
        if self.is_broken or self.chunked_input or self.socket is not None:
            return False
        return (self.content_length or 0) - self.position <= LINGER_BYTES

    def _discard(self) -> None:
        """Called by pywsgi behind the answer. Its own reads whatever comes, for as long as it comes."""
        if not self.is_read and self.can_be_drained:
            with limit(LINGER_S):
                self.read()


class Handler(pywsgi.WSGIHandler):
    """pywsgi's loop over the requests of one connection."""

    wsgi_input: Body
    # A method of pywsgi that its type stubs leave out.
    _sendall: Callable[[bytes], None]

    def __init__(
        self, sock: socket.socket, address: Any, server: pywsgi.WSGIServer, *, connections: Connections
    ) -> None:
        # Instead of pywsgi's own, which would make a file of the socket.
        self._receiver = Receiver(sock, connections)
        self._connections = connections
        self.socket = sock
        self.client_address = address
        self.server = server
        self.rfile = io.BufferedReader(self._receiver)

    def handle(self) -> None:
        """Serve until the client or the server has enough."""
        receiver = self._receiver
        try:
            # Else an answer waits until the client has acknowledged the one before it: 40 ms.
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            refusal: Any = True
            while refusal is True:
                seen = receiver.reads
                refusal = self.handle_one_request()
                if refusal is True and receiver.reads == seen:
                    self._connections.let_others_in()
            if refusal is not None:
                self.socket.sendall(_refusal(int(refusal[0])))
            if refusal is not None or not self._is_body_read() or receiver.has_unread():
                receiver.linger()
        except OSError as error:
            _LOGGER.debug("the connection from %s ended: %s", self.client_address, error)
        except Exception:  # boundary: whatever is wrong ends this connection only
            _LOGGER.exception("the connection from %s ended by an error of the server", self.client_address)
        finally:
            self.__dict__.pop("wsgi_input", None)
            self.environ = None

    def _is_body_read(self) -> bool:
        body = self.__dict__.get("wsgi_input")
        return body is None or body.is_read

    # ---- the head ---------------------------------------------------------------------------------------------------

    def read_requestline(self) -> str:
        """Wait for a request; empty when there is none any more."""
        self._receiver.is_between_requests = True
        line = super().read_requestline()
        # One empty line in front of a request is to be ignored: old clients send it behind a body (RFC 9112, 2.2).
        return super().read_requestline() if line == "\r\n" else line

    def read_request(self, raw_requestline: str) -> Any:
        """Take the request line apart and read the header fields. A `ValueError` refuses the request."""
        match = _is_request_line(raw_requestline)
        if match is None:
            raise ValueError("the request line is not METHOD TARGET HTTP/x.y")
        if match[1] != "1":
            raise _RefusedError("a version of HTTP other than 1.0 and 1.1 is not spoken", 505)
        super().read_request(raw_requestline)
        connection = self.headers.get("Connection")
        if connection is not None and "," in connection:
            # pywsgi compares the whole value.
            named = {token.strip() for token in connection.lower().split(",")}
            self.close_connection = "close" in named or (self.close_connection and "keep-alive" not in named)
        return True

    def MessageClass(self, rfile: Any, *_: object) -> Any:  # noqa: N802 - pywsgi's name
        """Read and check the header fields, then have pywsgi parse them."""
        lines: list[bytes] = []
        left = MAX_HEAD_BYTES
        while not lines or lines[-1] not in (b"\r\n", b"\n", b""):
            line = rfile.readline(MAX_FIELD_BYTES + 3)
            left -= len(line)
            if len(line) > MAX_FIELD_BYTES + 2 or len(lines) > MAX_FIELDS or left < 0:
                raise _RefusedError("the header fields are too many or too long", 431)
            lines.append(line)
        head = b"".join(lines)
        if not _is_head(head):
            raise ValueError("the header fields are cut off or malformed")
        _check_framing(head, self.request_version)
        return super().MessageClass(io.BytesIO(head))

    def get_environ(self) -> WSGIEnvironment:
        """The environ for the application: pywsgi's, with the undecoded target and our body."""
        environ = super().get_environ()
        environ["RAW_URI"] = self.path
        parsed = self.wsgi_input
        self.wsgi_input = Body(self.rfile, parsed.content_length, client=parsed.socket, chunked=parsed.chunked_input)
        environ["wsgi.input"] = self.wsgi_input
        environ["wsgi.input_terminated"] = True
        return environ

    # ---- the answer -------------------------------------------------------------------------------------------------

    def handle_one_response(self) -> None:
        """Call the application and send what it returns."""
        super().handle_one_response()
        if not self.wsgi_input.is_read:
            self.close_connection = True

    def _write_with_headers(self, data: bytes) -> None:
        """Send the head with the first part of the body, in one write."""
        # As `start_response` leaves them, which is not what the stubs say.
        status: Any = self.status
        fields: Any = self.response_headers
        body = self.wsgi_input
        if self._connections.is_draining or not (body.is_read or body.can_be_drained):
            self.close_connection = True
        self.headers_sent = True
        self.finalize_headers()
        if self.command == "HEAD":
            data, self.response_use_chunked = b"", False
        elif not (self.response_use_chunked or any(field[0].lower() == b"content-length" for field in fields)):
            # Nothing else tells an HTTP/1.0 client where the body ends.
            self.close_connection = self.close_connection or self.code not in (204, 304)
        if self.close_connection:
            fields[:] = [field for field in fields if field[0].lower() != b"connection"]
            fields.append((b"Connection", b"close"))
        head = b"HTTP/1.1 %b\r\n%b\r\n" % (status, b"".join([b"%b: %b\r\n" % field for field in fields]))
        if self.response_use_chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if len(data) <= _JOINED_BYTES:
            self._sendall(head + data)
        else:
            self._sendall(head)
            self._sendall(data)

    def _write(self, data: bytes) -> None:
        if self.command != "HEAD":
            super()._write(data)  # type: ignore[misc]

    def log_request(self) -> None:
        """No line per request: one costs a tenth of the request."""

    # ---- what goes wrong --------------------------------------------------------------------------------------------

    def handle_error(self, t: type[BaseException] | None, v: BaseException | None, tb: TracebackType | None) -> None:
        """The application raised: answer if nothing was sent, and close."""
        if t is not None and issubclass(t, gevent.GreenletExit):
            self._send_error_response_if_possible(503)  # cut by `close`
            return
        # Without the query, which may hold secrets.
        path = (self.path or "").partition("?")[0][:_LOGGED]
        _LOGGER.error("the application failed on %s %r", self.command, path, exc_info=v)
        self._send_error_response_if_possible(500)

    def _send_error_response_if_possible(self, error_code: int) -> None:
        self.close_connection = True
        if self.response_length:
            return
        status, fields, body = problem(error_code)
        try:
            self.start_response(status, fields)
            self.write(body)
        except OSError:
            pass  # nobody is there to read it

    def _handle_client_error(self, error: Exception) -> tuple[str, bytes]:
        """A request that cannot be read: `handle` sends the answer, pywsgi only carries the status."""
        status = error.status if isinstance(error, _RefusedError) else 400
        if not isinstance(error, ValueError | OSError):
            _LOGGER.error("reading a request from %s failed", self.client_address, exc_info=error)
        _LOGGER.info("refused a request from %s with %d: %.200r", self.client_address, status, str(error))
        return str(status), b""


class _RefusedError(ValueError):
    """The head of a request is readable, but not answered with 400."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def _check_framing(head: bytes, version: str | None) -> None:
    """Refuse a head that two readers could take for different lengths of body (RFC 9112, sections 6.1 and 6.3)."""
    found = _find_framing(head)
    if not found:
        return
    name, value = found[0]
    if len(found) > 1:
        raise ValueError("the request has more than one Content-Length or Transfer-Encoding")
    if name.lower() == b"content-length":
        if not value.isdigit():
            raise ValueError("the Content-Length is no number of bytes")
        if len(value) > MAX_LENGTH_DIGITS:
            raise _RefusedError("the Content-Length is larger than any limit", 413)
    elif version == "HTTP/1.0":
        raise ValueError("HTTP/1.0 has no Transfer-Encoding")
    elif value.lower() != b"chunked":
        raise _RefusedError("a Transfer-Encoding other than chunked is not taken", 501)


def _refusal(status: int) -> bytes:
    """A whole answer, for a request that never became one."""
    line, fields, body = problem(status)
    fields += [("Date", formatdate(usegmt=True)), ("Connection", "close")]
    head = "".join([f"{name}: {value}\r\n" for name, value in fields])
    return f"HTTP/1.1 {line}\r\n{head}\r\n".encode("latin-1") + body
