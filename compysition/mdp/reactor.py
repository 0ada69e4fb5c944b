# SPDX-License-Identifier: Apache-2.0
"""ZeroMQ sockets on gevent's loop: one greenlet drives any number of plain pyzmq sockets, and never waits in one.

A socket's descriptor is edge-triggered, and every send, receive and look at its events may swallow the edge. So a
`Channel` is drained until there is nothing more, at most `DRAIN` messages before others get their turn, and whatever
was sent on is looked at again before the greenlet parks. One persistent watcher per descriptor wakes it. Must not know
what the messages mean. Read next: `compysition.actors.mdpbroker`.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from gevent import get_hub

from compysition.clock import Clock, Timer
from compysition.errors import ConfigurationError, MissingExtraError
from compysition.parking import Parking

try:
    import zmq
    from zmq.utils.monitor import parse_monitor_message
except ImportError as err:  # pragma: no cover - needs an installation without the extra
    raise MissingExtraError("MajorDomo", "zmq") from err

#: Messages taken from one socket before others get their turn.
DRAIN: Final = 200
#: After so many seconds others get their turn, I/O too.
SLICE_S: Final = 0.002
#: libzmq closes a connection over which a larger frame comes.
MOST_FRAME_BYTES: Final = 64 * 1024 * 1024
#: High-water marks per peer, in messages: a burst of requests sent before the first reply is read is normal.
RECEIVE_HIGH_WATER: Final = 1_000
SEND_HIGH_WATER: Final = 100_000
#: So often libzmq asks each peer for a sign of life, and so long it waits, in ms: it finds hosts that vanished.
ZMTP_PING_MS: Final = 5_000
ZMTP_PATIENCE_MS: Final = 15_000

_READ: Final = 1
#: What of a connection's life has to be known.
_WATCHED: Final = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


class Machine(Protocol):
    """What a reactor drives."""

    @property
    def wakes_at(self) -> float:
        """When `tick` has something to do."""

    def tick(self, now: float) -> None:
        """Do what is due."""

    def flush(self, now: float) -> None:
        """Send and open what is to be sent and opened. Must not wait."""


class Channel:
    """One socket.

    Args:
        reactor: Who drives it.
        socket: A plain pyzmq socket, neither bound nor connected.
        on_message: Called with the frames of each message and the time.
        on_connected: Called once, when the socket can send for the first time.
        on_lost: Called when its connection is gone, with what is known of the reason.
        is_raw: Whether `on_message` wants pyzmq's frames, which know where they come from, instead of bytes.
    """

    def __init__(
        self,
        reactor: "Reactor",
        socket: "zmq.Socket[bytes]",
        on_message: Callable[[Sequence[Any], float], None],
        *,
        on_connected: Callable[[float], None] | None = None,
        on_lost: Callable[[str, float], None] | None = None,
        is_raw: bool = False,
    ) -> None:
        self.socket = socket
        self._receive: Callable[[int], Any] = (
            partial(socket.recv_multipart, copy=False) if is_raw else socket.recv_multipart
        )
        self._reactor = reactor
        self._on_message = on_message
        self._on_connected = on_connected
        self._on_lost = on_lost
        self._monitor: zmq.Socket[bytes] | None = None
        self._watchers: list[Any] = []
        socket.linger = 0
        socket.setsockopt(zmq.MAXMSGSIZE, MOST_FRAME_BYTES)
        socket.setsockopt(zmq.RCVHWM, RECEIVE_HIGH_WATER)
        socket.setsockopt(zmq.SNDHWM, SEND_HIGH_WATER)
        socket.setsockopt(zmq.HEARTBEAT_IVL, ZMTP_PING_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, ZMTP_PATIENCE_MS)

    @property
    def is_open(self) -> bool:
        """Whether it was not closed."""
        return not self.socket.closed

    def watch(self) -> None:
        """From now on, messages and events of the socket come to the callbacks. After bind or connect."""
        self._watch(self.socket)
        if self._on_lost is not None:
            self._monitor = self.socket.get_monitor_socket(_WATCHED)
            self._watch(self._monitor)
        self._reactor.touch(self)

    def _watch(self, socket: "zmq.Socket[bytes]") -> None:
        watcher = get_hub().loop.io(int(socket.getsockopt(zmq.FD)), _READ)
        watcher.start(self._reactor.touch_and_wake, self)
        self._watchers.append(watcher)

    def send(self, frames: Sequence[bytes]) -> int:
        """Send a message, whole or not at all, without waiting. Returns 0, or the errno why it could not be sent.

        EAGAIN: the peer's pipe is full, or nobody is connected. EHOSTUNREACH: a ROUTER knows no such peer.
        """
        try:
            self.socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            return int(error.errno)
        finally:
            self._reactor.touch(self)
        return 0

    def serve(self, now: float) -> bool:
        """Take what has come, at most `DRAIN` messages. Returns whether there may be more."""
        if self.socket.closed or self.socket.type == zmq.PUB:
            return False
        number = 0
        receive, on_message = self._receive, self._on_message
        try:
            while number < DRAIN:
                frames = receive(zmq.NOBLOCK)
                number += 1
                on_message(frames, now)
                if self.socket.closed:
                    return False
        except zmq.Again:
            pass
        # Each receive may have swallowed the edge, also that of the connection.
        events = int(self.socket.getsockopt(zmq.EVENTS))
        if self._on_connected is not None and events & zmq.POLLOUT:
            on_connected, self._on_connected = self._on_connected, None
            on_connected(now)
        return self._serve_monitor(now) or bool(events & zmq.POLLIN)

    def _serve_monitor(self, now: float) -> bool:
        if self._monitor is None or self.socket.closed:
            return False
        try:
            frames = self._monitor.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return False
        event = parse_monitor_message(frames)["event"]
        if self._on_lost is not None:
            is_over = event == zmq.EVENT_DISCONNECTED
            self._on_lost("the connection was closed" if is_over else "the handshake failed", now)
        return not self.socket.closed

    def close(self, linger_s: float = 0.0) -> None:
        """Close the socket; what was sent gets `linger_s` seconds to leave, without anybody waiting for it."""
        for watcher in self._watchers:
            watcher.stop()
            watcher.close()
        self._watchers.clear()
        if self._monitor is not None:
            self.socket.disable_monitor()
            self._monitor.close(0)
            self._monitor = None
        self.socket.close(round(linger_s * 1000))
        self._reactor.forget(self)


class Reactor:
    """Drives `machine` and its channels in whatever greenlet calls `run`.

    Args:
        clock: Where time comes from.
        machine: What is driven.
        context: Where sockets are made; closed by `close`.
    """

    def __init__(self, clock: Clock, machine: Machine) -> None:
        self.clock = clock
        self.machine = machine
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._channels: dict[Channel, None] = {}
        self._touched: dict[Channel, None] = {}
        self._place: Parking | None = None
        self._timer: Timer | None = None
        self._timer_at = math.inf
        #: False once it was stopped.
        self.is_running = True

    def channel(
        self,
        kind: int,
        on_message: Callable[[Sequence[Any], float], None],
        *,
        on_connected: Callable[[float], None] | None = None,
        on_lost: Callable[[str, float], None] | None = None,
        is_raw: bool = False,
    ) -> Channel:
        """A new socket; bind or connect it, then `Channel.watch`."""
        channel = Channel(
            self, self.context.socket(kind), on_message, on_connected=on_connected, on_lost=on_lost, is_raw=is_raw
        )
        self._channels[channel] = None
        return channel

    def touch(self, channel: Channel) -> None:
        """Look at `channel` before parking."""
        self._touched[channel] = None

    def touch_and_wake(self, channel: Channel) -> None:
        """Runs in the hub when the descriptor of `channel` says that something has happened."""
        self._touched[channel] = None
        self.wake()

    def forget(self, channel: Channel) -> None:
        """`channel` is closed."""
        self._channels.pop(channel, None)
        self._touched.pop(channel, None)

    def wake(self) -> None:
        """Have the machine looked at soon: somebody else has changed it."""
        if self._place is not None:
            self._place.wake()

    def stop(self) -> None:
        """Let `run` return soon."""
        self.is_running = False
        self.wake()

    def run(self) -> None:
        """Drive everything until `stop`. Waits on descriptors and timers; woken by either, by `wake` and `stop`."""
        place = self._place = Parking()
        machine, clock = self.machine, self.clock
        woken_at = clock.monotonic()
        try:
            while self.is_running:
                now = clock.monotonic()
                has_more = self._serve(now)
                # Only now: what has come while we were away counts as heard.
                if machine.wakes_at <= now:
                    machine.tick(now)
                machine.flush(now)
                if not self.is_running:
                    return
                if has_more or self._touched:
                    # What was only sent on is looked at again at once, unless others have waited for long enough.
                    if has_more or clock.monotonic() - woken_at > SLICE_S:
                        self._yield(place)
                        woken_at = clock.monotonic()
                    continue
                self._arm(machine.wakes_at, now)
                place.park()
                woken_at = clock.monotonic()
        finally:
            self._place = None
            self._arm(math.inf, 0.0)
            place.calm()

    def _serve(self, now: float) -> bool:
        """One turn of all channels that something has happened to. Returns whether any may have more."""
        has_more = False
        touched, self._touched = self._touched, {}
        for channel in touched:
            if channel.serve(now):
                self._touched[channel] = None
                has_more = True
        return has_more

    def _yield(self, place: Parking) -> None:
        """Let everybody else in, I/O too: only a timer does that, `sleep(0)` does not."""
        is_over = False

        def over() -> None:
            nonlocal is_over
            is_over = True
            place.wake()

        timer = self.clock.call_later(0.0, over)
        try:
            while not is_over:
                place.park()
        finally:
            timer.cancel()

    def _arm(self, at: float, now: float) -> None:
        if self._timer is not None and self._timer_at <= at < math.inf:
            return  # early is never wrong, and most times only move away
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = at
        if at < math.inf:
            self._timer = self.clock.call_later(at - now, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self.wake()

    def close(self, linger_s: float = 0.0) -> None:
        """Close all sockets and the context. Waits, beside the hub, until what lingers has left."""
        self.is_running = False
        for channel in list(self._channels):
            channel.close(linger_s)
        get_hub().threadpool.apply(self.context.term)


def bind(channel: Channel, endpoint: str, *, who: str) -> str:
    """Bind `channel` and return the endpoint with the port that it has got.

    Raises:
        ConfigurationError: it cannot be bound.
    """
    try:
        channel.socket.bind(endpoint)
    except zmq.ZMQError as error:
        raise ConfigurationError(
            f"{who} cannot listen on {endpoint}: {error.strerror}; choose another port or address"
        ) from error
    endpoint_got = channel.socket.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint_got, bytes)
    return endpoint_got.decode().rstrip("\0")
