# SPDX-License-Identifier: Apache-2.0
"""Peers written by others, as tests need them: plain sockets that know the RFCs and nothing of ours."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import gevent
import zmq

from compysition.clock import Clock
from compysition.mdp.broker import Broker, BrokerSettings
from compysition.mdp.driving import BrokerDriver
from compysition.testing import wait_until
from tests.unit.mdp.notation import frames, text_of


class Peer:
    """A DEALER that is spoken in the notation of the protocol brief. It never blocks the hub."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", endpoint: str) -> None:
        self.socket = context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(endpoint)

    def say(self, text: str) -> None:
        self.socket.send_multipart(frames(text), zmq.NOBLOCK)

    def send(self, *message: bytes) -> None:
        self.socket.send_multipart(list(message), zmq.NOBLOCK)

    def next(self) -> list[bytes] | None:
        try:
            return self.socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return None

    def take(self) -> list[bytes]:
        """The next message that is no heartbeat. Waits for it."""
        found: list[list[bytes]] = []

        def has_one() -> bool:
            while (message := self.next()) is not None:
                if message[-2:] not in ([b"MDPW01", b"\x04"], [b"MDPW02", b"\x05"]):
                    found.append(message)
                    return True
            return False

        wait_until(has_one, what="a message")
        return found[0]

    def hear(self) -> str:
        return text_of(self.take())

    def close(self) -> None:
        self.socket.close(0)


@contextmanager
def peers(endpoint: str) -> Iterator[Callable[[], Peer]]:
    """A function that makes `Peer`s of the broker at `endpoint`; all are closed at the end."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made: list[Peer] = []

    def make() -> Peer:
        made.append(Peer(context, endpoint))
        return made[-1]

    try:
        yield make
    finally:
        for peer in made:
            peer.close()
        context.term()


class ForeignBroker(Broker):
    """A broker that knows nothing of ours: no MMI, so nobody finds out."""

    def receive(self, socket: object, frames: Sequence[bytes], now: float) -> None:
        if not any(frame.startswith(b"mmi.") for frame in frames):
            super().receive(socket, frames, now)


@contextmanager
def broker_running(endpoint: str = "tcp://127.0.0.1:*", *, is_foreign: bool = False) -> Iterator[BrokerDriver]:
    """A broker without a Director."""
    clock = Clock()
    cls = ForeignBroker if is_foreign else Broker
    broker = cls(BrokerSettings(), broker_id=bytes(16), now=clock.monotonic())
    driver = BrokerDriver(
        clock, broker, on_letter=lambda letter: None, on_notice=lambda notice: None, on_turn=lambda: None
    )
    driver.listen(endpoint, who="the test's broker")
    greenlet = gevent.spawn(driver.reactor.run)
    try:
        yield driver
    finally:
        driver.reactor.stop()
        greenlet.get(timeout=10)
        driver.reactor.close()
