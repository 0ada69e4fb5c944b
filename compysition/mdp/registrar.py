# SPDX-License-Identifier: Apache-2.0
"""Where brokers can be reached: the registrar, and what a listener makes of what it says, as machines (ours).

Brokers announce themselves every second; whoever looks for one subscribes first, then asks for the list, and asks again
whenever it may have missed something. A registrar that dies changes nothing for those who have found their broker.
Everything of MDP.md section 9. Read next: `discovery`.
"""

import ipaddress
import math
import re
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from compysition.mdp.hello import dump, read_object

HEADER: Final = b"CPSREG"
VERSION: Final = b"\x01"
ANNOUNCE: Final = b"\x01"
WITHDRAW: Final = b"\x02"
LIST: Final = b"\x03"
ACK: Final = b"\x11"
BROKERS: Final = b"\x12"
OTHER_VERSION: Final = b"\x1f"
UP: Final = b"\x21"
DOWN: Final = b"\x22"
TICK: Final = b"\x23"

#: Brokers announce, and the registrar ticks, so often, in seconds.
PERIOD_S: Final = 1.0
#: How long an announcement holds, in ms; three may be lost.
VALID_MS: Final = 3_000
MOST_VALID_MS: Final = 60_000
MOST_BROKERS: Final = 1_000
MOST_ENDPOINTS: Final = 16
ID_BYTES: Final = 16

_COUNT: Final = struct.Struct(">QI")
_SEQUENCE: Final = struct.Struct(">Q")
_NUMBER: Final = struct.Struct(">I")
_TCP: Final = re.compile(r"tcp://(\*|\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_ANY_HOST: Final = ("*", "0.0.0.0", "[::]")  # noqa: S104 - to recognise it, not to bind


def message(command: bytes, *frames: bytes) -> list[bytes]:
    """A message of this protocol."""
    return [HEADER, VERSION, command, *frames]


@dataclass(frozen=True, slots=True)
class Announcement:
    """What one broker says of itself.

    Attributes:
        broker_id: 16 bytes, new per start.
        sequence: Grows with each announcement.
        valid_ms: How long it holds.
        client: Endpoints for clients.
        worker: Endpoints for workers.
        is_draining: Whether it takes nothing new.
    """

    broker_id: bytes
    sequence: int
    valid_ms: int
    client: tuple[str, ...]
    worker: tuple[str, ...]
    is_draining: bool = False

    def frames(self) -> list[bytes]:
        """The three frames."""
        info = {
            "client": list(self.client),
            "worker": list(self.worker),
            "server_key": None,
            "draining": self.is_draining,
        }
        return [self.broker_id, _COUNT.pack(self.sequence, self.valid_ms), dump(info)]

    @classmethod
    def read(cls, frames: Sequence[bytes], peer_host: str = "") -> "Announcement | None":
        """What three frames say; None if they make no sense.

        `peer_host` is where they come from: it stands for "all addresses", and nobody announces loopback from
        elsewhere. Empty: a registrar has looked at it already.
        """
        if len(frames) != 3 or len(frames[0]) != ID_BYTES or len(frames[1]) != _COUNT.size:
            return None
        sequence, valid_ms = _COUNT.unpack(frames[1])
        info = read_object(frames[2])
        if info is None or not 0 < valid_ms <= MOST_VALID_MS:
            return None
        client = _endpoints(info.get("client"), peer_host)
        worker = _endpoints(info.get("worker"), peer_host)
        if client is None or worker is None:
            return None
        return cls(frames[0], sequence, valid_ms, client, worker, info.get("draining") is True)


def _endpoints(value: Any, peer_host: str) -> tuple[str, ...] | None:
    if not isinstance(value, list) or len(value) > MOST_ENDPOINTS:
        return None
    found = []
    for text in value:
        endpoint = _endpoint(text, peer_host) if isinstance(text, str) else None
        if endpoint is None:
            return None
        found.append(endpoint)
    return tuple(found)


def _endpoint(text: str, peer_host: str) -> str | None:
    if text.startswith("ipc://"):
        return text if not peer_host or is_loopback(peer_host) else None
    match = _TCP.fullmatch(text)
    if match is None or not 0 < int(match[2]) < 65536:
        return None
    host = match[1]
    if peer_host:
        if host in _ANY_HOST:
            host = f"[{peer_host}]" if ":" in peer_host else peer_host
        elif is_loopback(host) and not is_loopback(peer_host):
            return None
    return f"tcp://{host}:{match[2]}"


def is_endpoint(text: str) -> bool:
    """Whether `text` is an endpoint that can be connected to."""
    return text.startswith("ipc://") or (_endpoint(text, "") is not None and "://*" not in text)


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Registrar:
    """The list of brokers.

    Args:
        registrar_id: 16 random bytes, new per start.
        now: What time it is, in seconds.

    Attributes:
        out: Answers, each with the address that it goes to in front.
        published: What everybody hears.
        counts: How often anything odd happened, by fixed words.
    """

    def __init__(self, registrar_id: bytes, now: float) -> None:
        self.id = registrar_id
        self.out: list[list[bytes]] = []
        self.published: list[list[bytes]] = []
        self.counts: Counter[str] = Counter()
        self.brokers: dict[bytes, Announcement] = {}
        self._until: dict[bytes, float] = {}
        self._sequence = 0
        self._ticks_at = now + PERIOD_S

    @property
    def wakes_at(self) -> float:
        """When `tick` has something to do."""
        return self._ticks_at

    def receive(self, frames: Sequence[bytes], peer_host: str, now: float) -> None:
        """Take what came: an address, then whatever the peer sent."""
        address, rest = frames[0], frames[1:]
        if len(rest) < 3 or rest[0] != HEADER:
            self.counts["malformed: no header"] += 1
        elif rest[1] != VERSION:
            self.counts["malformed: other version"] += 1
            self.out.append([address, *message(OTHER_VERSION, b"version 1 is spoken here")])
        elif rest[2] == ANNOUNCE:
            self._announce(address, rest[3:], peer_host, now)
        elif rest[2] == WITHDRAW and len(rest) == 4:
            self._remove(rest[3])
        elif rest[2] == LIST and len(rest) == 4 and 1 <= len(rest[3]) <= 16:
            entries = [frame for one in self.brokers.values() for frame in one.frames()]
            self.out.append([address, *message(BROKERS, rest[3], self._stamp(), *entries)])
        else:
            self.counts["malformed: unknown command"] += 1

    def tick(self, now: float) -> None:
        """Forget who has not announced itself, and say how many there are."""
        for broker_id in [broker_id for broker_id, until in self._until.items() if until <= now]:
            self._remove(broker_id)
        if now >= self._ticks_at:
            self._publish(TICK, _NUMBER.pack(len(self.brokers)))
            self._ticks_at = now + PERIOD_S

    def _announce(self, address: bytes, frames: Sequence[bytes], peer_host: str, now: float) -> None:
        new = Announcement.read(frames, peer_host)
        old = self.brokers.get(new.broker_id) if new is not None else None
        if new is None or (old is None and len(self.brokers) >= MOST_BROKERS):
            self.counts["announcement refused"] += 1
            return
        if old is not None and new.sequence < old.sequence:
            self.counts["announcement out of order"] += 1
            return
        self.brokers[new.broker_id] = new
        self._until[new.broker_id] = now + new.valid_ms / 1000
        self.out.append([address, *message(ACK, new.broker_id, _COUNT.pack(new.sequence, new.valid_ms))])
        is_news = old is None or (old.client, old.worker, old.is_draining) != (new.client, new.worker, new.is_draining)
        if is_news:
            self._publish(UP, *new.frames())

    def _remove(self, broker_id: bytes) -> None:
        if self.brokers.pop(broker_id, None) is not None:
            del self._until[broker_id]
            self._publish(DOWN, broker_id)

    def _publish(self, command: bytes, *frames: bytes) -> None:
        if command != TICK:
            self._sequence += 1
        self.published.append(message(command, self._stamp(), *frames))

    def _stamp(self) -> bytes:
        return self.id + _SEQUENCE.pack(self._sequence)


class BrokerList:
    """What one registrar has said, as a listener knows it.

    Attributes:
        out: What to ask the registrar.
        brokers: By their ids.
        is_changed: Whether they have changed; the caller clears it.
    """

    def __init__(self) -> None:
        self.out: list[list[bytes]] = []
        self.brokers: dict[bytes, Announcement] = {}
        self.is_changed = False
        self.counts: Counter[str] = Counter()
        self._registrar: bytes | None = None
        self._sequence = 0
        self._nonce = 0
        self._asks_at = math.inf

    @property
    def wakes_at(self) -> float:
        """When `tick` has something to do."""
        return self._asks_at

    def ask(self, now: float) -> None:
        """Ask for the list, and again as long as there is no answer."""
        self._nonce += 1
        self.out.append(message(LIST, self._nonce.to_bytes(8)))
        self._asks_at = now + PERIOD_S

    def wakes_soon(self, now: float) -> None:
        """The question could not be sent: try again soon."""
        self._asks_at = now + PERIOD_S / 10

    def tick(self, now: float) -> None:
        """Ask again."""
        if now >= self._asks_at:
            self.ask(now)

    def receive_list(self, frames: Sequence[bytes]) -> None:
        """Take an answer of the registrar."""
        is_list = len(frames) >= 5 and list(frames[:3]) == [HEADER, VERSION, BROKERS]
        if not is_list or frames[3] != self._nonce.to_bytes(8) or len(frames[4]) != ID_BYTES + _SEQUENCE.size:
            self.counts["not the list that was asked for"] += 1
            return
        rest = frames[5:]
        found = {}
        for at in range(0, min(len(rest), 3 * MOST_BROKERS), 3):
            one = Announcement.read(rest[at : at + 3])
            if one is not None:
                found[one.broker_id] = one
        self._asks_at = math.inf
        self._registrar = frames[4][:ID_BYTES]
        [self._sequence] = _SEQUENCE.unpack(frames[4][ID_BYTES:])
        self.is_changed = self.is_changed or found.keys() != self.brokers.keys() or found != self.brokers
        self.brokers = found

    def receive_event(self, frames: Sequence[bytes], now: float) -> None:
        """Take what the registrar says to everybody."""
        if len(frames) < 5 or frames[0] != HEADER or frames[1] != VERSION:
            self.counts["malformed event"] += 1
            return
        command, stamp, rest = frames[2], frames[3], frames[4:]
        if len(stamp) != ID_BYTES + _SEQUENCE.size:
            self.counts["malformed event"] += 1
            return
        [sequence] = _SEQUENCE.unpack(stamp[ID_BYTES:])
        if self._asks_at < math.inf:
            return  # the list that was asked for will say it all
        if stamp[:ID_BYTES] != self._registrar:
            self.ask(now)
        elif command == TICK:
            if sequence != self._sequence or len(rest[0]) != 4 or rest[0] != _NUMBER.pack(len(self.brokers)):
                self.ask(now)
        elif sequence <= self._sequence:
            return
        elif sequence != self._sequence + 1:
            self.ask(now)
        else:
            self._sequence = sequence
            self._apply(command, rest)

    def _apply(self, command: bytes, rest: Sequence[bytes]) -> None:
        if command == DOWN:
            self.is_changed = self.brokers.pop(rest[0], None) is not None or self.is_changed
        elif command == UP and (one := Announcement.read(rest)) is not None:
            self.brokers[one.broker_id] = one
            self.is_changed = True


def union(lists: Sequence[BrokerList]) -> Mapping[bytes, Announcement]:
    """What several registrars say together: by broker id, the higher sequence wins."""
    found: dict[bytes, Announcement] = {}
    for one in lists:
        for broker_id, announcement in one.brokers.items():
            old = found.get(broker_id)
            if old is None or announcement.sequence > old.sequence:
                found[broker_id] = announcement
    return found
