# SPDX-License-Identifier: Apache-2.0
"""The embedded server with gunicorn's parser behind our own loop.

Must not know events or actors; it takes any WSGI application. Read next: `embedded`.
"""

from typing import Any
from wsgiref.types import WSGIApplication

from gevent import socket
from gevent.pool import Pool
from gevent.server import StreamServer

from compysition.clock import Clock
from compysition.deadlines import DeadlineWheel
from compysition.http.connection import Connection, base_environ
from compysition.http.message import Service
from compysition.http.receiver import Connections
from compysition.http.server import BACKLOG, MAX_CONNECTIONS, EmbeddedServer, Listener
from compysition.http.wire import WireLimits


class StrictServer(EmbeddedServer):
    """`EmbeddedServer` that refuses what may be read in two ways, and has a time for everything.

    Args:
        application: As in `EmbeddedServer`, like those that follow.
        address: An address of this machine.
        port: 0 = one that is free.
        max_connections: How many are served at once.
        backlog: How many may wait for that.
        limits: What its clients may take.
    """

    def __init__(
        self,
        application: WSGIApplication,
        address: str = "127.0.0.1",
        port: int = 8080,
        *,
        max_connections: int = MAX_CONNECTIONS,
        backlog: int = BACKLOG,
        limits: WireLimits | None = None,
    ) -> None:
        super().__init__(application, address, port, max_connections=max_connections, backlog=backlog)
        self.limits = limits or WireLimits()
        self._wheel: DeadlineWheel | None = None

    def _serve_on(self, listener: socket.socket, greenlets: Pool) -> Listener:
        self._wheel = DeadlineWheel(Clock())
        port = listener.getsockname()[1]
        shared = Connections()
        service = Service(self.application, base_environ(self.address, port), shared, self._wheel, self.limits)
        return _Listener(listener, greenlets, port, service)

    def _closed(self) -> None:
        if self._wheel is not None:
            self._wheel.close()


class _Listener(StreamServer):
    """Has each accepted connection served by a `Connection`."""

    def __init__(self, listener: socket.socket, greenlets: Pool, port: int, service: Service) -> None:
        self.shared = service.connections
        self.greenlets = greenlets
        self.port = port
        self._service = service
        super().__init__(listener, spawn=greenlets)

    def handle(self, sock: socket.socket, address: Any) -> None:
        """Serve one connection, in its greenlet."""
        if self.greenlets.full():
            self.shared.end_longest_idle()
        Connection(sock, (address[0], address[1]), self._service).run()
