# SPDX-License-Identifier: Apache-2.0
"""Where a connection waits for its client: whether it is idle, how it ends, and that it lets others in.

Must not know HTTP beyond "between two requests". Read next: `wire`.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, Protocol

import gevent
from gevent import socket

from compysition.clock import Clock

#: How long connections may go on without the hub looking for I/O, in seconds.
SLICE_S: Final = 0.001
#: What is read and thrown away of a body nobody asked for, in bytes, and how long it may take.
LINGER_BYTES: Final = 64 * 1024
LINGER_S: Final = 1.0


@contextmanager
def limit(seconds: float) -> Iterator[None]:
    """Leave the block silently when it has taken so long."""
    timeout = gevent.Timeout.start_new(seconds)
    try:
        yield
    except gevent.Timeout as reached:
        if reached is not timeout:
            raise
    finally:
        timeout.close()


class Idle(Protocol):
    """A connection that waits for a request."""

    def end(self) -> None:
        """Let it see its end."""


class Connections:
    """What the connections of one server have in common.

    Attributes:
        idle: Those that wait for a request; the one that waits longest is the first.
        is_draining: Whether each answer is to be the last of its connection.
    """

    def __init__(self) -> None:
        self.idle: dict[Idle, None] = {}
        self.is_draining = False
        self._hub = gevent.get_hub()
        self._turn = self._turn_seen_s = 0.0

    def end_longest_idle(self) -> None:
        """Make room: end the connection that has been idle longest, if one is."""
        for receiver in self.idle:
            receiver.end()
            return

    def drain(self) -> None:
        """End all that are idle, and have each other end with its next answer."""
        self.is_draining = True
        for receiver in list(self.idle):
            receiver.end()

    def let_others_in(self) -> None:
        """Yield if the hub has not looked for I/O for longer than a slice.

        Called where a connection would go on without waiting. Through a timer: `gevent.sleep(0)` lets no I/O in.
        """
        now, turn = Clock.monotonic(), self._hub.loop.now()
        if turn != self._turn:
            self._turn, self._turn_seen_s = turn, now
        elif now - self._turn_seen_s >= SLICE_S:
            timer = self._hub.loop.timer(0)
            try:
                self._hub.wait(timer)
            finally:
                timer.close()


class Receiver(io.RawIOBase):
    """The receiving side of a connection: knows whether it is idle, and is where it lets others in."""

    def __init__(self, sock: socket.socket, connections: Connections) -> None:
        super().__init__()
        self._socket = sock
        # gevent's own `recv` cannot be asked to not wait.
        self._plain: Any = sock._sock  # type: ignore[attr-defined]
        self._connections = connections
        #: Whether the next byte would be the first of a request.
        self.is_between_requests = True
        #: How often it was read from; unchanged over a request if all of it came together with one before it.
        self.reads = 0

    def readable(self) -> bool:
        """True, as `io.BufferedReader` wants to know."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Wait for bytes of the client; 0 when there will be none any more."""
        self.reads += 1
        try:
            received: int = self._plain.recv_into(buffer)
        except BlockingIOError:
            received = self._wait_and_read(buffer)
        else:
            self._connections.let_others_in()
        if received:
            self.is_between_requests = False
        return received

    def _wait_and_read(self, buffer: Any) -> int:
        if not self.is_between_requests:
            return self._socket.recv_into(buffer)
        if self._connections.is_draining:
            return 0
        self._connections.idle[self] = None
        try:
            return self._socket.recv_into(buffer)
        finally:
            self._connections.idle.pop(self, None)

    def end(self) -> None:
        """Let an idle connection see its end. A request that has come in the meantime is still read, and answered."""
        self._connections.idle.pop(self, None)
        try:
            self._plain.shutdown(socket.SHUT_RD)
        except OSError:
            pass  # the client was faster

    def linger(self) -> None:
        """Let the client read the answer before the connection closes on what it still sends (RFC 9112, section 9.6).

        Waits for its end, but reads at most 64 KiB for 1 s.
        """
        self._socket.shutdown(socket.SHUT_WR)
        left = LINGER_BYTES
        with limit(LINGER_S):
            while left > 0 and (piece := self._socket.recv(left)):
                left -= len(piece)

    def has_unread(self) -> bool:
        """Whether the client has sent what nobody read."""
        try:
            return bool(self._plain.recv(1))
        except BlockingIOError:
            return False
