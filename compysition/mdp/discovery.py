# SPDX-License-Identifier: Apache-2.0
"""The registrar and those who use it on their sockets: brokers announce themselves, clients and workers find them.

An `Announcer` and a `Finder` live on the reactor of whoever has them. Must not know actors or events.
Read next: `driving`.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

import zmq

from compysition.clock import Clock
from compysition.errors import ConfigurationError
from compysition.mdp.reactor import Channel, Reactor, bind
from compysition.mdp.registrar import (
    ANNOUNCE,
    PERIOD_S,
    VALID_MS,
    WITHDRAW,
    Announcement,
    BrokerList,
    Registrar,
    is_endpoint,
    message,
    union,
)

#: Where one registrar is asked, and where it publishes.
Place: TypeAlias = tuple[str, str]

LOOPBACK: Final[Place] = ("tcp://127.0.0.1:6000", "tcp://127.0.0.1:6001")


def places_of(value: Place | Sequence[Place] | None, *, who: str) -> tuple[Place, ...]:
    """The registrars that an argument names: one pair of endpoints, or several; None = none.

    Raises:
        ConfigurationError: it is something else.
    """
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise _no_registrar(value, who)
    pairs: Sequence[Any] = [value] if any(isinstance(item, str) for item in value) else value
    for pair in pairs:
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(_is_endpoint(text) for text in pair)):
            raise _no_registrar(value, who)
    return tuple((pair[0], pair[1]) for pair in pairs)


def brokers_of(value: Sequence[str] | None, *, who: str) -> tuple[str, ...] | None:
    """The brokers that an argument names; None = the registrar knows them.

    Raises:
        ConfigurationError: it names something else.
    """
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not all(_is_endpoint(text) for text in value):
        raise ConfigurationError(
            f"brokers of {who!r} is {value!r}: wanted is a list of endpoints, such as ['tcp://10.0.0.5:5555']"
        )
    return tuple(value)


def _is_endpoint(text: object) -> bool:
    return isinstance(text, str) and is_endpoint(text)


def _no_registrar(value: object, who: str) -> ConfigurationError:
    return ConfigurationError(
        f"registrar of {who!r} is {value!r}: wanted is a pair of endpoints, such as {LOOPBACK!r}, or several"
    )


class RegistrarDriver:
    """A registrar on its ROUTER and its PUB.

    Args:
        clock: Where time comes from.
        registrar: The machine.
    """

    def __init__(self, clock: Clock, registrar: Registrar) -> None:
        self.registrar = registrar
        self.reactor = Reactor(clock, self)
        self.endpoints: Place = ("", "")
        self._router: Channel | None = None
        self._publisher: Channel | None = None

    def listen(self, endpoint: str, publish_endpoint: str, *, who: str) -> None:
        """Begin to listen and to publish.

        Raises:
            ConfigurationError: an endpoint cannot be had.
        """
        router = self._router = self.reactor.channel(zmq.ROUTER, self._on_message, is_raw=True)
        publisher = self._publisher = self.reactor.channel(zmq.PUB, lambda frames, now: None)
        self.endpoints = (bind(router, endpoint, who=who), bind(publisher, publish_endpoint, who=who))
        router.watch()

    def _on_message(self, frames: Sequence[Any], now: float) -> None:
        # The address that the connection really comes from; no peer can make it up.
        try:
            host = str(frames[-1].get("Peer-Address"))
        except zmq.ZMQError:
            host = "127.0.0.1"  # ipc and inproc have none
        self.registrar.receive([frame.bytes for frame in frames], host, now)

    @property
    def wakes_at(self) -> float:
        """When the machine has something to do."""
        return self.registrar.wakes_at

    def tick(self, now: float) -> None:
        """Do what is due."""
        self.registrar.tick(now)

    def flush(self, now: float) -> None:
        """Send what is to be sent; who cannot be reached asks again."""
        registrar = self.registrar
        for frames in registrar.out:
            if self._router is not None:
                self._router.send(frames)
        registrar.out.clear()
        for frames in registrar.published:
            if self._publisher is not None:
                self._publisher.send(frames)
        registrar.published.clear()


def _dealer(reactor: Reactor, endpoint: str, on_message: Callable[[Sequence[bytes], float], None]) -> Channel:
    channel = reactor.channel(zmq.DEALER, on_message)
    channel.socket.setsockopt(zmq.IMMEDIATE, 1)
    channel.socket.connect(endpoint)
    channel.watch()
    return channel


class Announcer:
    """Tells registrars of one broker, every second, for ever.

    Args:
        reactor: On which its sockets are.
        places: The registrars.
        broker_id: 16 bytes.
        endpoints: Where the broker is reached.
    """

    def __init__(self, reactor: Reactor, places: Iterable[Place], broker_id: bytes, endpoints: Sequence[str]) -> None:
        self._channels = [_dealer(reactor, place[0], lambda frames, now: None) for place in places]
        self._broker_id = broker_id
        self._endpoints = tuple(endpoints)
        self._sequence = 0
        self.wakes_at = 0.0 if self._channels else math.inf

    def tick(self, now: float) -> None:
        """Announce, if it is time."""
        if now < self.wakes_at:
            return
        self._sequence += 1
        says = Announcement(self._broker_id, self._sequence, VALID_MS, self._endpoints, self._endpoints)
        failures = [channel.send(message(ANNOUNCE, *says.frames())) for channel in self._channels]
        # Until the connection stands, look more often: whoever starts waits for it.
        self.wakes_at = now + (PERIOD_S if not any(failures) else PERIOD_S / 10)

    def withdraw(self) -> None:
        """Say that the broker stops."""
        for channel in self._channels:
            channel.send(message(WITHDRAW, self._broker_id))


class Finder:
    """Finds brokers by registrars.

    Args:
        reactor: On which its sockets are.
        places: The registrars.
        side: Which endpoints are wanted: "client" or "worker".
        on_brokers: Called with all endpoints whenever they change.
    """

    def __init__(
        self,
        reactor: Reactor,
        places: Iterable[Place],
        side: str,
        on_brokers: Callable[[list[str], float], None],
    ) -> None:
        self._side = side
        self._on_brokers = on_brokers
        self._lists: list[tuple[BrokerList, Channel]] = []
        for place in places:
            known = BrokerList()
            # First subscribed, then asked: what happens between is in the one or the other.
            subscriber = reactor.channel(zmq.SUB, partial(self._on_event, known))
            subscriber.socket.setsockopt(zmq.SUBSCRIBE, b"")
            subscriber.socket.connect(place[1])
            subscriber.watch()
            dealer = _dealer(reactor, place[0], partial(self._on_list, known))
            known.ask(reactor.clock.monotonic())
            self._lists.append((known, dealer))

    @property
    def wakes_at(self) -> float:
        """When `tick` has something to do."""
        return min((known.wakes_at for known, _ in self._lists), default=math.inf)

    def tick(self, now: float) -> None:
        """Do what is due."""
        for known, _ in self._lists:
            known.tick(now)

    def flush(self, now: float) -> None:
        """Ask what is to be asked; tell of changes."""
        for known, dealer in self._lists:
            while known.out:
                if dealer.send(known.out.pop(0)):
                    # Nobody is there yet. As soon as there is, it is asked.
                    known.wakes_soon(now)
        if any(known.is_changed for known, _ in self._lists):
            for known, _ in self._lists:
                known.is_changed = False
            found = union([known for known, _ in self._lists])
            endpoints = {endpoint for one in found.values() for endpoint in getattr(one, self._side)[:1]}
            self._on_brokers(sorted(endpoints), now)

    @staticmethod
    def _on_event(known: BrokerList, frames: Sequence[bytes], now: float) -> None:
        known.receive_event(frames, now)

    @staticmethod
    def _on_list(known: BrokerList, frames: Sequence[bytes], now: float) -> None:
        known.receive_list(frames)
