# SPDX-License-Identifier: Apache-2.0
"""The client of `bench_http`: many connections, one request at a time on each, the next as soon as the answer is there.

Plain sockets and a selector, so that it needs no more than a core of its own and nothing has to be installed. It
knows just enough HTTP: a status line and ``Content-Length``.
"""

import re
import selectors
import socket
import time
from dataclasses import dataclass, field

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"
#: No answer takes longer than this in a benchmark.
TIMEOUT_S = 20.0

Address = tuple[str, int]


@dataclass(slots=True)
class Load:
    """What the client saw: seconds from request to answer, one entry per request, and how long it all took."""

    latencies_s: list[float] = field(default_factory=list)
    wall_s: float = 0.0

    def percentile(self, share: float) -> float:
        """The latency that this share of the requests did not exceed."""
        ordered = sorted(self.latencies_s)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def connect(address: Address) -> socket.socket:
    """A connection that sends at once."""
    connection = socket.create_connection(address, timeout=TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def answer_length(received: bytes) -> int | None:
    """Length of head and body together; None as long as the head is not complete.

    Raises:
        RuntimeError: the answer is not 200, or does not tell its length.
    """
    end = received.find(_HEAD_END)
    if end < 0:
        return None
    length = _LENGTH.search(received, 0, end + 2)
    if not received.startswith(b"HTTP/1.1 200 ") or length is None:
        raise RuntimeError(f"the server answered {received[:200]!r}")
    return end + len(_HEAD_END) + int(length[1])


def receive(connection: socket.socket) -> bytes:
    """One whole answer.

    Raises:
        RuntimeError: it is not a complete 200.
    """
    received = b""
    while (length := answer_length(received)) is None or len(received) < length:
        part = connection.recv(65_536)
        if not part:
            raise RuntimeError(f"the server closed after {received[:200]!r}")
        received += part
    return received


def ask(address: Address, request: bytes) -> bytes:
    """The body of the answer to one request on a connection of its own."""
    with connect(address) as connection:
        connection.sendall(request)
        return receive(connection).partition(_HEAD_END)[2]


def new_connections(address: Address, request: bytes, duration_s: float) -> Load:
    """One request after the other, each on a new connection."""
    load = Load()
    began = time.perf_counter()
    while (asked := time.perf_counter()) - began < duration_s:
        with connect(address) as connection:
            connection.sendall(request)
            receive(connection)
        load.latencies_s.append(time.perf_counter() - asked)
    load.wall_s = time.perf_counter() - began
    return load


class Exchange:
    """A connection with a request under way."""

    def __init__(self, address: Address, request: bytes) -> None:
        self.connection = connect(address)
        self.request = request
        self.received = b""
        self.asked = 0.0

    def ask(self) -> None:
        self.received = b""
        self.asked = time.perf_counter()
        self.connection.sendall(self.request)

    def read(self) -> bool:
        """Take what has come; whether that completes the answer."""
        part = self.connection.recv(65_536)
        if not part:
            raise RuntimeError("the server closed a connection that was to be kept")
        self.received = self.received + part if self.received else part
        length = answer_length(self.received)
        return length is not None and len(self.received) >= length


def kept_connections(address: Address, request: bytes, duration_s: float, connections: int) -> Load:
    """Requests on so many connections at once, each with one under way."""
    load = Load()
    latencies_s = load.latencies_s
    with selectors.DefaultSelector() as selector:
        exchanges = [Exchange(address, request) for _ in range(connections)]
        for exchange in exchanges:
            selector.register(exchange.connection, selectors.EVENT_READ, exchange)
        began = time.perf_counter()
        for exchange in exchanges:
            exchange.ask()
        open_exchanges = connections
        while open_exchanges:
            ready = selector.select(TIMEOUT_S)
            if not ready:
                raise RuntimeError(f"no answer within {TIMEOUT_S:.0f} s on {open_exchanges} connections")
            for key, _ in ready:
                exchange = key.data
                if not exchange.read():
                    continue
                now = time.perf_counter()
                latencies_s.append(now - exchange.asked)
                if now - began < duration_s:
                    exchange.ask()
                else:
                    open_exchanges -= 1
        load.wall_s = time.perf_counter() - began
        for exchange in exchanges:
            exchange.connection.close()
    return load
