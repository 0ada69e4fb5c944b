# SPDX-License-Identifier: Apache-2.0
"""The socket of one connection, with a time for everything that its client may take time for.

Bytes in, bytes out. No timer of its own: the deadlines of all connections lie in one wheel.
Must not know HTTP beyond "between two requests". Read next: `gunicorn`.
"""

import enum
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import gevent
from gevent import socket

from compysition.clock import Clock
from compysition.deadlines import DeadlineWheel
from compysition.http.receiver import LINGER_BYTES, LINGER_S, Connections, limit

if TYPE_CHECKING:
    from gevent.ssl import SSLContext

#: Largest read of a head, and of a body whose size is known, in bytes.
_HEAD_PIECE_BYTES: Final = 8 * 1024
_BODY_PIECE_BYTES: Final = 256 * 1024
#: How long a body may be slow at first, in seconds, and how fast it has to be on average afterwards, in bytes a second.
SLOW_START_S: Final = 5.0
MIN_BODY_RATE: Final = 1024


@dataclass(frozen=True, slots=True)
class WireLimits:
    """What a client may take, in seconds; and bytes of a head.

    Attributes:
        header_timeout_s: From the first byte of a head to its end; on a new connection also for the first byte.
        keepalive_s: For the first byte of a further request.
        body_idle_s: Between two pieces of a body.
        write_timeout_s: Until it takes some more of an answer.
        max_head_bytes: Request line and fields together.
    """

    header_timeout_s: float = 10.0
    keepalive_s: float = 5.0
    body_idle_s: float = 10.0
    write_timeout_s: float = 30.0
    max_head_bytes: int = 73 * 1024


class Phase(enum.Enum):
    """What is waited for."""

    #: The first byte of a request.
    IDLE = "idle"
    #: The rest of its head.
    HEAD = "head"
    #: Its body.
    BODY = "body"


class SlowHeadError(TimeoutError):
    """The head of a request took too long."""


class LongHeadError(Exception):
    """The head of a request has more bytes than any may have."""


class _WokenError(Exception):
    """There is nothing to wait for any more."""


class SlowReaderError(TimeoutError):
    """The client did not take its answer."""


class Wire:
    """One connection's socket. It is also the source that the parser reads from, and puts back to what it read ahead.

    Used by the one greenlet that serves the connection; `is_hung_up` and `probe` may be called from the hub.
    """

    __slots__ = (
        *(
            "body_deadline",
            "has_ended",
            "is_gone",
            "is_late",
            "phase",
            "takes_interim",
            "_body_bytes",
            "_body_start",
            "_buffer",
            "_connections",
        ),
        *("_head_bytes", "_head_start", "_hub", "_is_new", "_limits", "_plain", "_socket", "_tls", "_wheel"),
    )

    def __init__(
        self,
        sock: socket.socket,
        connections: Connections,
        wheel: DeadlineWheel,
        limits: WireLimits,
        *,
        tls: "SSLContext | None" = None,
    ) -> None:
        self._tls = None if tls is None else _tls_socket(sock, tls)
        self._socket: Any = sock if self._tls is None else self._tls.socket
        # gevent's own `recv` and `send` cannot be asked to not wait.
        self._plain: Any = sock._sock if self._tls is None else self._tls  # type: ignore[attr-defined]
        self._connections = connections
        self._wheel = wheel
        self._limits = limits
        self._hub = gevent.get_hub()
        self._buffer = b""
        self._is_new = True
        self.phase = Phase.IDLE
        #: Whether the time for what was waited for is over.
        self.is_late = False
        #: Whether the client has gone away: nothing that is written reaches anybody.
        self.is_gone = False
        #: Whether the client has ended its sending side.
        self.has_ended = False
        #: Whether the client may be sent a ``1xx`` now.
        self.takes_interim = False
        #: When the body has to be there, whatever its pace.
        self.body_deadline: float | None = None
        self._head_start = self._body_start = 0.0
        self._head_bytes = self._body_bytes = 0

    def send_at_once(self) -> None:
        """Else an answer waits until the client has acknowledged the one before it: 40 ms."""
        self._plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def is_tls(self) -> bool:
        """Whether what goes over it is encrypted."""
        return self._tls is not None

    def shake_hands(self) -> None:
        """Begin TLS, if it is spoken here. Waits for the client, as long as for a head.

        Raises:
            OSError: It does not speak it, or took too long.
        """
        if self._tls is None:
            return
        bucket = self._wheel.add(self, Clock.monotonic() + self._limits.header_timeout_s)
        try:
            while (watcher := self._tls.shake_hands()) is not None:
                self._hub.wait(watcher)
        except _WokenError as error:
            raise TimeoutError("it took too long to begin TLS") from error
        finally:
            self._wheel.discard(self, bucket)

    # ---- phases -----------------------------------------------------------------------------------------------------

    def begin_request(self) -> None:
        """What comes next is the first byte of a request."""
        self.phase = Phase.IDLE
        if self._buffer:
            # It came together with the request before it, so nothing else makes this one wait.
            self._connections.let_others_in()
            self._begin_head(len(self._buffer))

    def begin_body(self) -> None:
        """What comes next is a body."""
        self.phase = Phase.BODY
        self.body_deadline = None
        self._body_start = Clock.monotonic()
        self._body_bytes = 0

    def _begin_head(self, n_bytes: int) -> None:
        self.phase = Phase.HEAD
        self._head_start = Clock.monotonic()
        self._head_bytes = n_bytes
        self._is_new = False

    def _deadline(self) -> float:
        """When what is waited for now has to have come."""
        limits, now = self._limits, Clock.monotonic()
        if self.phase is Phase.IDLE:
            return now + (limits.header_timeout_s if self._is_new else limits.keepalive_s)
        if self.phase is Phase.HEAD:
            return self._head_start + limits.header_timeout_s
        too_slow = self._body_start + max(SLOW_START_S, self._body_bytes / MIN_BODY_RATE)
        deadline = min(now + limits.body_idle_s, max(now, too_slow))
        return deadline if self.body_deadline is None else min(deadline, self.body_deadline)

    # ---- receiving --------------------------------------------------------------------------------------------------

    def read(self, size: int | None = None, read_ahead: int | None = None) -> bytes:
        """Wait for `size` bytes, or for some if it is None; fewer when there will be none any more.

        `read_ahead` is how many belong to the same body, and may be taken from the socket at once.

        Raises:
            TimeoutError: The head or the body takes too long.
            LongHeadError: The head is too long.
        """
        buffer = self._buffer
        if size is None or size < 0:
            if buffer:
                self._buffer = b""
                return buffer
            return self._receive(read_ahead)
        if len(buffer) < size:
            pieces, have = [buffer], len(buffer)
            while have < size and (piece := self._receive(max(size, read_ahead or 0) - have)):
                pieces.append(piece)
                have += len(piece)
            buffer = b"".join(pieces)
        self._buffer = buffer[size:]
        return buffer[:size]

    def unread(self, data: bytes) -> None:
        """Put back what belongs to whatever comes next."""
        self._buffer = bytes(data) + self._buffer

    @property
    def has_unread(self) -> bool:
        """Whether the client has sent what nobody read. Does not wait."""
        if self._buffer:
            return True
        try:
            self._buffer = self._plain.recv(1)
        except OSError:
            return False
        return bool(self._buffer)

    def _receive(self, size: int | None) -> bytes:
        if self.phase is Phase.BODY:
            size = min(max(size or 0, _HEAD_PIECE_BYTES), _BODY_PIECE_BYTES)
        else:
            size = _HEAD_PIECE_BYTES
        try:
            piece: bytes = self._plain.recv(size)
        except BlockingIOError:
            piece = self._wait_and_receive(size)
        else:
            self._connections.let_others_in()
        n_bytes = len(piece)
        if not piece:
            self.has_ended = True
        if self.phase is Phase.BODY:
            self._body_bytes += n_bytes
            if not piece and self.is_late:
                raise TimeoutError("the body came too slowly")
        elif self.phase is Phase.HEAD:
            self._head_bytes += n_bytes
            if not piece and self.is_late:
                raise SlowHeadError("the head came too slowly")
            if self._head_bytes > self._limits.max_head_bytes:
                raise LongHeadError
        elif piece:
            self._begin_head(n_bytes)
        return piece

    def _wait_and_receive(self, size: int) -> bytes:
        idle = self._connections.idle if self.phase is Phase.IDLE else None
        if idle is not None:
            if self._connections.is_draining:
                return b""
            idle[self] = None
        bucket = self._wheel.add(self, self._deadline())
        try:
            is_over = False
            while True:
                try:
                    self._hub.wait(self._socket._read_event)
                except _WokenError:
                    is_over = True
                try:
                    # What has come in the meantime still counts.
                    return self._plain.recv(size)  # type: ignore[no-any-return]
                except BlockingIOError:
                    if is_over:
                        return b""
        finally:
            self._wheel.discard(self, bucket)
            if idle is not None:
                idle.pop(self, None)

    def expire(self) -> None:
        """The time of what this connection waits for is over. Runs in the hub."""
        self.is_late = True
        # From here on a plain socket looks as if the client had ended its sending side.
        self.takes_interim = False
        self._wake()

    def end(self) -> None:
        """Let an idle connection see its end. A request that has come in the meantime is still read, and answered."""
        self._connections.idle.pop(self, None)
        self._wake()

    def _wake(self) -> None:
        """Let the wait for bytes end: what has come is still read, and nothing after it."""
        if self._tls is not None:
            # Ending a side of the connection below would break TLS on the other.
            self._hub.cancel_wait(self._socket._read_event, _WokenError())
            return
        try:
            self._plain.shutdown(socket.SHUT_RD)
        except OSError:
            pass  # the client was faster

    def shut(self) -> None:
        """End both sides at once, in the middle of whatever is sent."""
        try:
            self._plain.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the client was faster

    # ---- sending ----------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send all of `data`. Waits for the client to take it.

        Raises:
            SlowReaderError: It took nothing for `write_timeout_s`.
            OSError: It has gone.
        """
        try:
            sent: int = self._plain.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._write_rest(memoryview(data)[sent:])

    def _write_rest(self, rest: memoryview) -> None:
        reader = _Reader(self)
        while rest:
            bucket = self._wheel.add(reader, Clock.monotonic() + self._limits.write_timeout_s)
            try:
                self._hub.wait(self._socket._write_event)
            finally:
                self._wheel.discard(reader, bucket)
            if self.is_late:
                raise SlowReaderError("the client did not take its answer")
            try:
                rest = rest[self._plain.send(rest) :]
            except BlockingIOError:
                continue

    def linger(self) -> None:
        """Let the client read the answer before the connection closes on what it still sends (RFC 9112, section 9.6).

        Waits for its end, but reads at most 64 KiB for 1 s.
        """
        if self._tls is not None:
            self._tls.end()
        self._socket.shutdown(socket.SHUT_WR)
        self._socket.settimeout(None)
        left = LINGER_BYTES
        with limit(LINGER_S):
            while left > 0 and (piece := self._socket.recv(left)):
                left -= len(piece)

    def close(self) -> None:
        """Close it; harmless if it is closed."""
        if self._tls is not None:
            self._tls.end()
        self._socket.close()

    def reset(self) -> None:
        """Close it so that the client sees that something was cut off, and what it did not take is thrown away."""
        try:
            self._plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass
        self._socket.close()

    def fileno(self) -> int:
        """The descriptor; -1 when it is closed."""
        number: int = self._plain.fileno()
        return number

    def probe(self) -> None:
        """Send what a client of HTTP/1.1 takes at any time, and what one that has gone answers with a reset."""
        try:
            self._plain.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        except OSError:
            self.is_gone = True


def _tls_socket(sock: socket.socket, context: "SSLContext") -> Any:
    from compysition.http.tls import TlsSocket  # here, as few need it, and not every Python has it

    return TlsSocket(sock, context)


class _Reader:
    """Ends both sides of a connection whose client does not read. In the wheel beside the wire itself."""

    __slots__ = ("_wire",)

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def expire(self) -> None:
        self._wire.is_late = True
        self._wire.shut()
