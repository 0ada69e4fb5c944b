# SPDX-License-Identifier: Apache-2.0
"""The fallback of the embedded server, for loopback, where the extra ``http`` is not installed: gevent's pywsgi.

What it adds to pywsgi: an answer leaves in one write on a socket without Nagle's delay, a body that was not read never
reaches the parser as a request, cut or smuggled heads are refused, a busy connection lets the others in, and it can
stop: listener first, then idle connections, then those with a request.

It has no deadline for a slow head or a slow write, does not see a client that goes away, and leaves open more of HTTP
than a server on a network may. Must not know events or actors; it takes any WSGI application.
"""

import logging
from typing import Any, Final
from wsgiref.types import WSGIApplication

from gevent import pywsgi, socket
from gevent.pool import Pool

from compysition.http.pywsgi_handler import Handler
from compysition.http.receiver import Connections
from compysition.http.server import EmbeddedServer, Listener

_LOGGER: Final = logging.getLogger("compysition.http")


class PywsgiServer(EmbeddedServer):
    """`EmbeddedServer` by pywsgi."""

    def _serve_on(self, listener: socket.socket, greenlets: Pool) -> Listener:
        return _Server(listener, self.application, self.address, greenlets)


class _Server(pywsgi.WSGIServer):
    """pywsgi's listener; its connections are served by our `Handler`."""

    def __init__(self, listener: socket.socket, application: WSGIApplication, address: str, greenlets: Pool) -> None:
        self.shared = Connections()
        self.greenlets = greenlets
        self.port: int = listener.getsockname()[1]
        super().__init__(
            listener,
            application,
            spawn=greenlets,
            log=None,
            error_log=_LOGGER,
            # Without a name pywsgi asks the resolver for one, which may take seconds.
            environ={"SERVER_NAME": address},
        )

    def handle(self, sock: socket.socket, address: Any) -> None:
        """Serve one connection, in its greenlet."""
        if self.greenlets.full():
            self.shared.end_longest_idle()
        Handler(sock, address, self, connections=self.shared).handle()
