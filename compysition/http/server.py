# SPDX-License-Identifier: Apache-2.0
"""A server in this process: listening, and stopping in order, whoever parses the requests.

Must not know events or actors; it takes any WSGI application. Read next: `embedded`.
"""

import os
from abc import ABC, abstractmethod
from typing import Any, Final, Protocol
from wsgiref.types import WSGIApplication

from gevent import socket
from gevent.pool import Pool

from compysition.errors import ConfigurationError, UsageError
from compysition.http.receiver import Connections

#: Most connections at once; more wait in the kernel. The one idle longest makes room for the last.
MAX_CONNECTIONS: Final = 1000
#: Connections that the kernel holds until they are accepted (it may know a lower limit).
BACKLOG: Final = 2048
#: How long connections that are cut get for their last answer, in seconds.
CUT_S: Final = 1.0


class Listener(Protocol):
    """What accepts connections and has each served by a greenlet of its own: a `gevent.server.StreamServer`."""

    shared: Connections
    greenlets: Pool
    port: int

    def start(self) -> None:
        """Accept from now on."""

    def close(self) -> None:
        """Give the port back."""

    def full(self) -> bool:
        """Whether no further connection can be served."""

    def do_read(self) -> Any:
        """The next connection that the kernel has, or None."""

    def do_handle(self, *accepted: Any) -> None:
        """Have it served."""


class EmbeddedServer(ABC):
    """Serves a WSGI application on one address of this machine.

    Nothing happens before `start`. Each connection is served by a greenlet of the server's own pool, in which the
    application is called; it may wait there. Call all methods from the thread that started the server.

    Args:
        application: Called for each request. What it raises is logged and answered 500.
        address: An address of this machine, IPv4 or IPv6, or ``localhost``.
        port: 0 = one that is free.
        max_connections: How many are served at once.
        backlog: How many may wait for that.
    """

    #: Of its URL.
    scheme: str = "http"

    def __init__(
        self,
        application: WSGIApplication,
        address: str = "127.0.0.1",
        port: int = 8080,
        *,
        max_connections: int = MAX_CONNECTIONS,
        backlog: int = BACKLOG,
    ) -> None:
        self.application = application
        self.address = address.removeprefix("[").removesuffix("]")
        self._port = port
        self._max_connections = max_connections
        self._backlog = backlog
        self._server: Listener | None = None

    @property
    def port(self) -> int:
        """The port that is listened on, also afterwards; before `start` the one asked for."""
        return self._port if self._server is None else self._server.port

    @property
    def url(self) -> str:
        """Where a client on this machine reaches it, without a slash at the end."""
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.address, self.address)  # noqa: S104
        return f"{self.scheme}://[{host}]:{self.port}" if ":" in host else f"{self.scheme}://{host}:{self.port}"

    @property
    def is_accepting(self) -> bool:
        """Whether new connections are taken."""
        return self._server is not None and not self._server.shared.is_draining

    @property
    def open_connections(self) -> int:
        """How many connections there are, idle ones included."""
        return 0 if self._server is None else len(self._server.greenlets)

    @property
    def idle_connections(self) -> int:
        """How many of them wait for the first byte of a request."""
        return 0 if self._server is None else len(self._server.shared.idle)

    def start(self) -> None:
        """Listen, and serve from now on. Returns when the port is bound; does not wait.

        Raises:
            ConfigurationError: The address cannot be listened on, mostly because the port is taken.
            UsageError: It serves already, or still has connections: `close` it first.
        """
        if self._server is not None and (self.is_accepting or self.open_connections):
            raise UsageError(f"the server on {self.url} runs already: close it first")
        listener = _listen(self.address, self._port, self._backlog)
        try:
            self._server = self._serve_on(listener, Pool(self._max_connections))
        except BaseException:
            listener.close()
            raise
        self._server.start()

    def stop_accepting(self) -> None:
        """Give the port back and end idle connections. Does not wait.

        Connections on which a request is on its way go on; each answer from now on is the last of its connection and
        says so. Those that the kernel had accepted already are served too.
        """
        if self._server is not None and not self._server.shared.is_draining:
            _drain(self._server)

    def close(self, timeout_s: float = 5.0) -> int:
        """Stop accepting, wait until no connection is left, then cut those that are.

        A request that is cut is answered 503 if nothing of its answer was sent; its application sees `GreenletExit`.

        Args:
            timeout_s: How long to wait for requests on their way.

        Returns:
            How many connections were cut.
        """
        self.stop_accepting()
        server = self._server
        if server is None:
            return 0
        server.greenlets.join(timeout=timeout_s)
        cut = len(server.greenlets)
        if cut:
            server.greenlets.kill(timeout=CUT_S)
        self._closed()
        return cut

    @abstractmethod
    def _serve_on(self, listener: socket.socket, greenlets: Pool) -> Listener:
        """Make what accepts connections from `listener`; it is not started yet."""

    def _closed(self) -> None:  # noqa: B027 - not all have something to do then
        """All connections are gone."""


def _drain(server: Listener) -> None:
    """Accept no more, and let each connection end with its next answer."""
    try:
        # What the kernel has accepted would be reset with the listener.
        while not server.full() and (accepted := server.do_read()):
            server.do_handle(*accepted)
    except OSError:
        pass  # then there is nothing to be had from it
    finally:
        server.close()
        server.shared.drain()


def _listen(address: str, port: int, backlog: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Without it the port is taken for a minute by connections that are gone already.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(backlog)
        listener.setblocking(False)
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigurationError(
            f"cannot listen on address {address!r}, port {port}: {_reason(error)}; "
            "end what uses it, or choose another address or port"
        ) from error
    return listener


def _reason(error: OSError | OverflowError) -> str:
    """What is wrong, without what gevent and the resolver add to it."""
    if isinstance(error, OverflowError):
        return "a port is a number from 0 to 65535"
    if isinstance(error, socket.gaierror) or error.errno is None:
        return error.strerror or str(error)
    return os.strerror(error.errno)
