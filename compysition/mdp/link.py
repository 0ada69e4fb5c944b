# SPDX-License-Identifier: Apache-2.0
"""A client's connections with one broker, as a machine: is it there, is it ours, and over which sockets to ask.

Three kinds of sockets, each a `Wire`: the *control* one asks for capabilities and then pings; to a broker of ours one
*shared* wire carries all requests, matched by the ids in their envelopes; to a foreign one each wire carries *one*
request at a time, because MDP has no request number. Read next: `client`.
"""

import enum
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from compysition.errors import ConfigurationError
from compysition.mdp import mmi
from compysition.mdp.frames import MDP_1, MDP_2, Command, Dialect, Message, read_at_client
from compysition.mdp.hello import Capabilities, dump
from compysition.mdp.worker import PROTOCOLS

if TYPE_CHECKING:
    from compysition.mdp.client import Call

#: What a client says when it asks for capabilities.
HELLO: Final = dump({"compysition": 1, "envelope": 1})
#: Wires to a foreign broker beyond the ones in use are closed after so many idle seconds.
IDLE_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class ClientSettings:
    """How a client speaks and how long it waits.

    Attributes:
        max_in_flight: Requests sent and not answered, at most; towards a foreign broker each takes a socket.
        ping_s: How often a broker is pinged, in seconds; one of ours tells its own interval.
        liveness: After how many silent intervals a broker that has answered pings is down.
        probe_s: How long to wait for an answer to the question for capabilities, in seconds.
        no_broker_s: How long a request waits while no broker is there at all, in seconds.
        try_timeout_s: A foreign broker forgets what a dead worker held: after so many seconds a request is sent again.
            One of ours does not forget.
        max_tries: How often one request is sent, at most.
        protocol: "0.1" or "0.2" towards a foreign broker; named, it is not probed. None: probed, then 0.1.
        envelope: "auto": only through a broker of ours. "always": all workers behind a foreign one are ours too.
    """

    max_in_flight: int = 1000
    ping_s: float = 2.5
    liveness: int = 3
    probe_s: float = 0.5
    no_broker_s: float = 5.0
    try_timeout_s: float = 10.0
    max_tries: int = 5
    protocol: str | None = None
    envelope: str = "auto"

    def __post_init__(self) -> None:
        if self.protocol is not None and self.protocol not in PROTOCOLS:
            raise ConfigurationError(f"protocol is {self.protocol!r}: wanted is '0.1' or '0.2', or None to find out")
        if self.envelope not in ("auto", "always"):
            raise ConfigurationError(f"envelope is {self.envelope!r}: wanted is 'auto' or 'always'")
        for name in ("max_in_flight", "ping_s", "liveness", "probe_s", "no_broker_s", "try_timeout_s", "max_tries"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 < value < math.inf):
                raise ConfigurationError(f"{name} is {value!r}: wanted is a number above 0")


class Purpose(enum.Enum):
    """What a wire is for."""

    CONTROL = "control"
    SHARED = "shared"
    SINGLE = "single"


class Wire:
    """One socket of a client, a DEALER, from its `Connect` to its `Hangup`."""

    __slots__ = ("call", "idle_since", "is_connected", "link", "purpose")

    def __init__(self, link: "Link", purpose: Purpose) -> None:
        self.link = link
        self.purpose = purpose
        self.is_connected = False
        #: What a single wire carries.
        self.call: Call | None = None
        self.idle_since = 0.0

    def __repr__(self) -> str:
        return f"<Wire {self.purpose.value} {self.link.endpoint}>"


class Connect(NamedTuple):
    """Make the socket of `wire` and connect it; say `connected` when it can send."""

    wire: Wire


class Transmit(NamedTuple):
    """Send `frames` on the socket of `wire`."""

    wire: Wire
    frames: list[bytes]


class Hangup(NamedTuple):
    """Close the socket of `wire` at once: a late reply dies with it."""

    wire: Wire


Action = Connect | Transmit | Hangup


class Standing(enum.Enum):
    """What is known of a broker."""

    CONNECTING = "connecting"
    PROBING = "probing"
    UP = "up"
    #: Gone; tried again after a while.
    DOWN = "down"


class Link:
    """Everything that leads to the broker at `endpoint`.

    Attributes:
        out: What to do with which socket.
        calls: What is sent over it and not answered.
        standing: What is known of the broker.
        capabilities: Of the broker, if it is ours.
        is_listed: Whether it is still named as a broker; one that is not is left when it goes down.
        used: When it was last chosen, as a number that grows.
    """

    def __init__(self, endpoint: str, settings: ClientSettings, delay_s: Callable[[int], float], now: float) -> None:
        self.endpoint = endpoint
        self.settings = settings
        self.out: list[Action] = []
        self.calls: dict[Call, None] = {}
        self.standing = Standing.DOWN
        self.capabilities: Capabilities | None = None
        self.is_listed = True
        self.used = 0
        self.counts: Counter[str] = Counter()
        self.dialect: Dialect = MDP_1
        #: Wires of requests, the shared one or single ones, and of the latter those that carry none.
        self.wires: dict[Wire, None] = {}
        self.idle: dict[Wire, None] = {}
        self._control: Wire | None = None
        self._delay_s = delay_s
        self._tries = 0
        self._until = math.inf
        self._ping_s = settings.ping_s
        self._patience_s = math.inf
        self._heard_at = 0.0
        self._has_answered = False
        self.start(now)

    @property
    def wakes_at(self) -> float:
        """When `tick` has something to do."""
        at = self._until
        if self.standing is Standing.UP and self._has_answered:
            at = min(at, self._heard_at + self._patience_s)
        if len(self.idle) > 1:
            at = min(at, next(iter(self.idle)).idle_since + IDLE_S)
        return at

    @property
    def is_shared(self) -> bool:
        """Whether one wire carries many requests."""
        return self.capabilities is not None

    def knows_envelopes(self) -> bool:
        """Whether requests over it carry one."""
        return self.capabilities is not None or self.settings.envelope == "always"

    def is_up(self) -> bool:
        """Whether the broker is there."""
        return self.standing is Standing.UP

    def has(self, wire: Wire) -> bool:
        """Whether `wire` is one of its sockets, not one that was closed."""
        return wire is self._control or wire in self.wires

    def free_wire(self) -> Wire | None:
        """A wire over which a request can be sent now."""
        if self.standing is not Standing.UP:
            return None
        if self.is_shared:
            return next((wire for wire in self.wires if wire.is_connected), None)
        # The one used last: the others become surplus.
        return next(reversed(self.idle), None)

    def want_wire(self) -> None:
        """A request waits: open one more single wire, unless one is on its way or there are enough."""
        is_coming = any(not wire.is_connected for wire in self.wires)
        if self.is_up() and not self.is_shared and not is_coming and len(self.wires) < self.settings.max_in_flight:
            self._open(Purpose.SINGLE)

    # ---- what happens ---------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Connect and find out who is there."""
        self.capabilities = None
        self._has_answered = False
        self._heard_at = now
        self._patience_s = math.inf
        self._until = math.inf
        self.dialect = PROTOCOLS[self.settings.protocol or "0.1"]
        self.standing = Standing.CONNECTING
        self._control = self._open(Purpose.CONTROL)

    def connected(self, wire: Wire, now: float) -> None:
        """The socket of `wire` can send."""
        wire.is_connected = True
        if wire.purpose is Purpose.SINGLE:
            self.idle[wire] = None
            wire.idle_since = now
        elif wire is self._control and self.standing is Standing.CONNECTING:
            if self.settings.protocol is not None:
                self._go_up(None, now)
            else:
                # In 0.1, because a 0.2 frame kills some brokers (ours, MDP.md section 8).
                self.standing = Standing.PROBING
                self.out.append(Transmit(wire, [*MDP_1.request, mmi.CAPABILITIES, HELLO]))
                self._until = now + self.settings.probe_s

    def receive(self, wire: Wire, frames: Sequence[bytes], now: float) -> Message | None:
        """Something came on `wire`; returns it if it is a reply to a request."""
        self._heard_at = now
        message = read_at_client(frames)
        if message.command is Command.MALFORMED:
            self.counts[f"malformed: {message.fault}"] += 1
            return None
        if wire is not self._control:
            return message
        self._has_answered = True
        self._tries = 0
        if self.standing is Standing.PROBING:
            body = message.body
            is_answer = message.name == mmi.CAPABILITIES and len(body) == 2 and body[0] == mmi.OK
            self._go_up(Capabilities.unpack(body[1]) if is_answer else None, now)
        return None

    def tick(self, now: float) -> None:
        """Do what is due. What was sent over a link that goes down is in `calls` still: the client takes it away."""
        if self.standing is Standing.UP and self._has_answered and now >= self._heard_at + self._patience_s:
            self.counts["broker silent"] += 1
            self.go_down(now)
        elif now >= self._until:
            if self.standing is Standing.PROBING:
                self._go_up(None, now)
            elif self.standing is Standing.DOWN:
                self.start(now)
            elif self.standing is Standing.UP and self._control is not None:
                # Who never answered is not judged by pings, and would only collect them (ours, MDP.md section 5).
                self.out.append(Transmit(self._control, [*MDP_1.request, mmi.PING, b""]))
                if now - self._until >= self._ping_s:
                    # We were away ourselves, and have heard nothing meanwhile.
                    self._heard_at = max(self._heard_at, now - self._ping_s)
                self._until = now + self._ping_s
        while len(self.idle) > 1:
            wire = next(iter(self.idle))
            if now < wire.idle_since + IDLE_S:
                break
            self.close(wire)

    def go_down(self, now: float) -> None:
        """The broker is gone: close everything, try again after a while."""
        for wire in [*self.wires, *([self._control] if self._control is not None else [])]:
            self.close(wire)
        self._control = None
        self.standing = Standing.DOWN
        self._tries += 1
        self._until = now + self._delay_s(self._tries)

    def close(self, wire: Wire) -> None:
        """Close `wire`; what it carried is the client's business."""
        self.wires.pop(wire, None)
        self.idle.pop(wire, None)
        self.out.append(Hangup(wire))

    def release(self, wire: Wire, now: float) -> None:
        """The request of a single wire is answered: it can carry the next one."""
        wire.call = None
        wire.idle_since = now
        self.idle[wire] = None

    def end(self) -> None:
        """Close everything for good."""
        self.go_down(math.inf)

    def _go_up(self, capabilities: Capabilities | None, now: float) -> None:
        self.standing = Standing.UP
        self.capabilities = capabilities
        if capabilities is not None:
            self.dialect = MDP_2
            self._ping_s = capabilities.heartbeat_ms / 1000
            self._patience_s = self._ping_s * capabilities.liveness
            self._open(Purpose.SHARED)
        else:
            self._ping_s = self.settings.ping_s
            self._patience_s = self._ping_s * self.settings.liveness
            self._open(Purpose.SINGLE)
        self._until = now + self._ping_s if self._has_answered else math.inf

    def _open(self, purpose: Purpose) -> Wire:
        wire = Wire(self, purpose)
        if purpose is not Purpose.CONTROL:
            self.wires[wire] = None
        self.out.append(Connect(wire))
        return wire
