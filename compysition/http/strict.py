# SPDX-License-Identifier: Apache-2.0
"""The embedded server with gunicorn's parser behind our own loop.

Must not know events or actors; it takes any WSGI application. Read next: `embedded`.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final
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

#: Connections beyond the most that are served, for `spare_paths`.
SPARE_CONNECTIONS: Final = 16


@dataclass(frozen=True, slots=True)
class Spare:
    """Connections that are kept free.

    Attributes:
        behind: As many are served with anything.
        paths: What those beyond may ask for.
    """

    behind: int
    paths: frozenset[str] = frozenset()


class StrictServer(EmbeddedServer):
    """`EmbeddedServer` that refuses what may be read in two ways, and has a time for everything.

    Args:
        application: As in `EmbeddedServer`, like those that follow.
        address: An address of this machine.
        port: 0 = one that is free.
        max_connections: How many are served at once.
        backlog: How many may wait for that.
        limits: What its clients may take.
        tls: Paths of a certificate and its key, in PEM; None = no TLS.
        spare_paths: Paths for which `SPARE_CONNECTIONS` more than `max_connections` are kept: on those nothing else is
            served.
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
        tls: tuple[str, str] | None = None,
        spare_paths: Collection[str] = (),
    ) -> None:
        self._spare = Spare(max_connections, frozenset(spare_paths))
        size = max_connections + (SPARE_CONNECTIONS if spare_paths else 0)
        super().__init__(application, address, port, max_connections=size, backlog=backlog)
        self.limits = limits or WireLimits()
        self._tls = tls
        self.scheme = "http" if tls is None else "https"
        self._wheel: DeadlineWheel | None = None

    def _serve_on(self, listener: socket.socket, greenlets: Pool) -> Listener:
        self._wheel = DeadlineWheel(Clock())
        context = None
        if self._tls is not None:
            from compysition.http.tls import make_context  # here, as few need it

            context = make_context(*self._tls)
        port = listener.getsockname()[1]
        shared = Connections()
        service = Service(self.application, base_environ(self.address, port), shared, self._wheel, self.limits, context)
        return _Listener(listener, greenlets, port, service, self._spare)

    def _closed(self) -> None:
        if self._wheel is not None:
            self._wheel.close()


class _Listener(StreamServer):
    """Has each accepted connection served by a `Connection`."""

    def __init__(self, listener: socket.socket, greenlets: Pool, port: int, service: Service, spare: Spare) -> None:
        self.shared = service.connections
        self.greenlets = greenlets
        self.port = port
        self._service = service
        self._spare = spare
        super().__init__(listener, spawn=greenlets)

    def handle(self, sock: socket.socket, address: Any) -> None:
        """Serve one connection, in its greenlet."""
        is_spare = False
        if len(self.greenlets) >= self._spare.behind:
            self.shared.end_longest_idle()
            is_spare = self._is_over()
        Connection(sock, (address[0], address[1]), self._service, may_serve=self._may_serve if is_spare else None).run()

    def _is_over(self) -> bool:
        return len(self.greenlets) > self._spare.behind

    def _may_serve(self, path: str) -> bool:
        # Those that it was too many for may be gone by the time its request is there.
        return path in self._spare.paths or not self._is_over()
