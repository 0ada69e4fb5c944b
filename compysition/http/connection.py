# SPDX-License-Identifier: Apache-2.0
"""One connection, from its first byte to its last: idle, head, gate, application, answer, keep or close.

The same loop serves the embedded server and gunicorn's workers. Must not know events, actors or the Director.
Read next: `embedded`.
"""

import io
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final
from urllib.parse import unquote_to_bytes
from wsgiref.types import WSGIApplication, WSGIEnvironment

from gevent import GreenletExit, socket

from compysition.http.body import PEER
from compysition.http.gate import RefusedError, examine
from compysition.http.gunicorn import ParsedHead, read_head
from compysition.http.message import Answer, Body, Service
from compysition.http.response import problem
from compysition.http.wire import LongHeadError, SlowHeadError, SlowReaderError, Wire

#: When a client comes again that was one too many, in seconds.
RETRY_S: Final = 1

_LOGGER: Final = logging.getLogger("compysition.http")
# Characters of a path that a log line shows.
_LOGGED: Final = 2048


class Connection:
    """Serves one connection until the client or the server has enough.

    Args:
        sock: Just accepted.
        client: Its address as the application is to know it, and its port; empty for a Unix socket.
        service: What it shares with others.
        may_serve: Whether a path may be asked for although there are too many connections; None = there are not.
    """

    def __init__(
        self,
        sock: socket.socket,
        client: tuple[str, int] | None,
        service: Service,
        *,
        may_serve: Callable[[str], bool] | None = None,
    ) -> None:
        self._may_serve = may_serve
        self._wire = Wire(sock, service.connections, service.wheel, service.limits, tls=service.tls)
        self._service = service
        self._client = client

    def run(self) -> None:
        """Serve, and close the connection."""
        wire = self._wire
        try:
            if self._client is not None:
                wire.send_at_once()
            wire.shake_hands()
            self._serve_all()
        except SlowReaderError:
            self._service.slow_readers += 1
            _LOGGER.info("the client %s did not take its answer: the connection was reset", self._name)
            wire.reset()
        except OSError as error:
            _LOGGER.debug("the connection from %s ended: %s", self._name, error)
        except Exception:  # boundary: whatever is wrong ends this connection only
            _LOGGER.exception("the connection from %s ended by an error of the server", self._name)
        finally:
            wire.close()

    @property
    def _name(self) -> str:
        return "a Unix socket" if self._client is None else self._client[0]

    def _serve_all(self) -> None:
        wire = self._wire
        try:
            while True:
                wire.begin_request()
                head = read_head(wire, is_tls=wire.is_tls)
                if head is None:
                    return
                body = Body(head, wire)
                if not self._serve(head, body):
                    break
        except RefusedError as error:
            self._refuse(error.status, str(error))
        except SlowHeadError as error:
            self._refuse(408, str(error))
        except LongHeadError:
            self._refuse(431, "the header fields are too long")
        else:
            if not body.is_read or wire.has_unread:
                wire.linger()

    def _serve(self, head: ParsedHead, body: Body) -> bool:
        """Answer one request. Returns whether the connection goes on."""
        wire, service = self._wire, self._service
        verdict = examine(head)
        if self._may_serve is not None and not self._may_serve(head.path):
            raise RefusedError(503, "there are too many connections")
        answer = Answer(service, wire, head, body, keeps=verdict.keeps)
        wire.begin_body()
        wire.takes_interim = head.version >= (1, 1)
        try:
            self._call(service.application, self._environ(head, body, verdict.fields), answer)
        except GreenletExit:
            # The server closes, and its time is over.
            self._fail(answer, 503)
            raise
        except Exception as error:
            if answer.is_cut:
                raise
            if body.is_broken and isinstance(error, OSError):
                self._fail(answer, 408 if isinstance(error, TimeoutError) else 400)
            else:
                # Without the query, which may hold secrets.
                path = head.uri.partition("?")[0][:_LOGGED]
                _LOGGER.error("the application failed on %s %r", head.method, path, exc_info=error)
                self._fail(answer, 500)
            return False
        if answer.is_cut:
            wire.reset()
            return False
        return answer.keeps and body.drain()

    def _call(self, application: WSGIApplication, environ: WSGIEnvironment, answer: Answer) -> None:
        parts: Iterable[bytes] = application(environ, answer.start)
        try:
            if self._wire.is_gone:
                answer.is_cut = True
            elif isinstance(parts, list) and len(parts) < 2 and not answer.has_begun:
                answer.write_whole(parts[0] if parts else b"")
            else:
                for part in parts:
                    if part:
                        answer.write(part)
                answer.finish()
        finally:
            close = getattr(parts, "close", None)
            if close is not None:
                close()

    def _environ(self, head: ParsedHead, body: Body, fields: dict[str, str]) -> WSGIEnvironment:
        major, minor = head.version
        environ: WSGIEnvironment = {
            **self._service.environ,
            **fields,
            "REQUEST_METHOD": head.method,
            "RAW_URI": head.uri,
            "QUERY_STRING": head.query,
            "SERVER_PROTOCOL": "HTTP/1.1" if minor and major == 1 else f"HTTP/{major}.{minor}",
            "wsgi.url_scheme": head.scheme,
            "wsgi.input": body,
            PEER: self._wire,
        }
        environ["PATH_INFO"] = _decoded(head.path)
        if self._client is not None:
            environ["REMOTE_ADDR"], port = self._client
            environ["REMOTE_PORT"] = str(port)
        else:
            environ["REMOTE_ADDR"] = ""
        return environ

    def _fail(self, answer: Answer, status: int) -> None:
        """Say so if nothing was sent, else cut: the client must not take half an answer for a whole one."""
        answer.keeps = False
        if answer.has_begun:
            answer.is_cut = True
            self._wire.reset()
            return
        line, fields, content = problem(status)
        answer.start(line, fields, (None, None, None))
        try:
            answer.write_whole(content)
        except OSError:
            pass  # nobody is there to read it

    def _refuse(self, status: int, reason: str) -> None:
        """Answer a request that never became one, and close."""
        _LOGGER.info("refused a request from %s with %d: %s", self._name, status, reason)
        line, fields, content = problem(status, reason, retry_after_s=RETRY_S if status == 503 else None)
        head = "".join([f"{name}: {value}\r\n" for name, value in fields])
        date = self._service.date()
        self._wire.write(
            f"HTTP/1.1 {line}\r\nDate: {date}\r\n{head}Connection: close\r\n\r\n".encode("latin-1") + content
        )
        self._wire.linger()


def _decoded(path: str) -> str:
    """A path as PEP 3333 wants it: decoded, its bytes as Latin-1."""
    if "%" not in path:
        return path

    return unquote_to_bytes(path).decode("latin-1")


def base_environ(name: str, port: int, *, multiprocess: bool = False) -> dict[str, Any]:
    """What all environs of a server have in common (PEP 3333)."""
    return {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "SCRIPT_NAME": "",
        "SERVER_NAME": name,
        "SERVER_PORT": str(port),
        "SERVER_SOFTWARE": "compysition",
        "wsgi.errors": _Errors(),
        "wsgi.input_terminated": True,
        "wsgi.multiprocess": multiprocess,
        "wsgi.multithread": False,
        "wsgi.run_once": False,
        "wsgi.version": (1, 0),
    }


class _Errors(io.TextIOBase):
    """``wsgi.errors``: what an application says there goes to the log."""

    def write(self, text: str) -> int:
        if text.strip():
            _LOGGER.error("%s", text.rstrip())
        return len(text)
