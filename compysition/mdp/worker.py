# SPDX-License-Identifier: Apache-2.0
"""One session of a worker with one broker, over one socket at a time, as a machine.

It asks what the broker can do, says READY, keeps the session alive, and after any loss comes back on a new socket, for
ever. What it is given to do are `Job`s; who works on them, and how many at once, is the pool's. Read next: `pool`.
"""

import enum
import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from compysition.errors import ConfigurationError, RequestError
from compysition.mdp import mmi
from compysition.mdp.envelope import ERROR, REPEATED, REPLY, REQUEST, Envelope, has_envelope
from compysition.mdp.frames import MDP_1, MDP_2, Command, Dialect, read_at_client, read_at_worker
from compysition.mdp.hello import Capabilities, WorkerHello
from compysition.mdp.window import Answer

#: Seconds for the last frame of a session to leave its socket, after a DISCONNECT.
LINGER_S: Final = 0.1
#: Requests beyond the credit that are kept for later; a broker that sends more is left.
MOST_LATER: Final = 100

PROTOCOLS: Final[dict[str, Dialect]] = {"0.1": MDP_1, "0.2": MDP_2}


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How a worker speaks.

    Attributes:
        heartbeat_s: The interval of heartbeats towards a foreign broker, in seconds; one of ours tells its own.
        liveness: After how many silent intervals the broker is gone.
        probe_s: How long to wait for an answer to the question for capabilities, in seconds.
        protocol: "0.1" or "0.2" towards a foreign broker; named, it is not probed. None: probed, then 0.1.
        envelope: "auto": only through a broker of ours. "always": all clients behind a foreign one are ours too.
        hello: What is said to a broker of ours; its credit is how many requests may be outstanding on one socket.
    """

    heartbeat_s: float = 2.5
    liveness: int = 3
    probe_s: float = 0.5
    protocol: str | None = None
    envelope: str = "auto"
    hello: WorkerHello = field(default_factory=lambda: WorkerHello(1))

    def __post_init__(self) -> None:
        if self.protocol is not None and self.protocol not in PROTOCOLS:
            raise ConfigurationError(f"protocol is {self.protocol!r}: wanted is '0.1' or '0.2', or None to find out")
        if self.envelope not in ("auto", "always"):
            raise ConfigurationError(f"envelope is {self.envelope!r}: wanted is 'auto' or 'always'")
        for name in ("heartbeat_s", "liveness", "probe_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigurationError(f"{name} is {getattr(self, name)!r}: wanted is a number above 0")


class State(enum.Enum):
    """Where a session is; see the state table of our worker in MDP.md section 7."""

    #: Finds out what the broker can do, on a socket of its own.
    PROBING = "probing"
    #: Waits until READY can be sent.
    JOINING = "joining"
    IDLE = "idle"
    WORKING = "working"
    #: Waits before it tries again.
    BACKOFF = "backoff"
    ENDED = "ended"


class Open(NamedTuple):
    """Close the socket of before, if there is one, and connect a new DEALER; say `connected` when it is."""


class Transmit(NamedTuple):
    """Send `frames` on the present socket."""

    frames: list[bytes]


class Close(NamedTuple):
    """Close the present socket, after at most `linger_s` seconds for what was sent."""

    linger_s: float


Action = Open | Transmit | Close


class Job:
    """One request that a worker was given.

    Attributes:
        session: By whom.
        client: The client's address, as the reply has to name it.
        body: The data, without envelope.
        envelope: The request's; None from a plain broker or client.
        deadline: When its time is over; None = never.
    """

    __slots__ = ("_epoch", "body", "client", "deadline", "envelope", "session")

    def __init__(
        self, session: "Session", client: bytes, body: Sequence[bytes], envelope: Envelope | None, now: float
    ) -> None:
        self.session = session
        self._epoch = session.epoch
        self.client = client
        self.body = body
        self.envelope = envelope
        left_ms = None if envelope is None else envelope.left_ms
        self.deadline = None if left_ms is None else now + left_ms / 1000

    def is_orphan(self) -> bool:
        """Whether the connection it came over is gone, and with it whoever waits for the reply."""
        return self._epoch != self.session.epoch

    def is_late(self, now: float) -> bool:
        """Whether its time is over."""
        return self.deadline is not None and now >= self.deadline


class Session:
    """One session: a new one after each loss.

    Args:
        service: What this worker serves.
        settings: How it speaks.
        delay_s: Seconds to wait before try number n, from 1.

    Attributes:
        out: What to do with the socket.
        jobs: What came in and has to be worked on.
        capabilities: Of the broker, if it is ours.
        epoch: Counts connections.
        counts: How often anything odd happened, by fixed words.
    """

    def __init__(self, service: bytes, settings: WorkerSettings, delay_s: Callable[[int], float]) -> None:
        self.service = service
        self.settings = settings
        self.state = State.ENDED
        self.out: list[Action] = []
        self.jobs: list[Job] = []
        self.capabilities: Capabilities | None = None
        self.epoch = 0
        self.is_draining = False
        self.idle_since = 0.0
        self.counts: Counter[str] = Counter()
        self._delay_s = delay_s
        self._dialect = MDP_1
        self._tries = 0
        self._heartbeat_s = settings.heartbeat_s
        self._patience_s = settings.heartbeat_s * settings.liveness
        self._heard_at = self._beats_at = 0.0
        #: When the probe or the backoff is over.
        self._until = math.inf
        self._held: dict[Job, None] = {}
        self._later: deque[Job] = deque()

    @property
    def wakes_at(self) -> float:
        """When `tick` has something to do."""
        if self.state in (State.IDLE, State.WORKING):
            return min(self._beats_at, self._heard_at + self._patience_s)
        return self._until

    def is_joined(self) -> bool:
        """Whether the broker knows it: READY was sent, and nothing was lost since."""
        return self.state in (State.IDLE, State.WORKING)

    def has_credit(self) -> bool:
        """Whether several requests may be outstanding on its socket."""
        return self.capabilities is not None and self.capabilities.has_credit

    # ---- what happens ---------------------------------------------------------------------------------------------

    def start(self, now: float, *, is_known_plain: bool = False) -> None:
        """Begin. `is_known_plain`: another session has just found out that the broker is none of ours."""
        self.capabilities = None
        self.idle_since = now
        if self.settings.protocol is not None or is_known_plain:
            self._join(None)
        else:
            self.state = State.PROBING
            self._until = math.inf
            self.out.append(Open())

    def connected(self, now: float) -> None:
        """The socket of the last `Open` can send."""
        if self.state is State.PROBING:
            # In 0.1, because a 0.2 frame kills some brokers (ours, MDP.md section 8).
            self._transmit([*MDP_1.request, mmi.CAPABILITIES, self.settings.hello.pack()])
            self._until = now + self.settings.probe_s
        elif self.state is State.JOINING:
            hello = [self.settings.hello.pack()] if self.capabilities is not None else []
            self._transmit([*self._dialect.ready, self.service, *hello])
            self.state = State.IDLE
            self.idle_since = self._heard_at = now
            self._beats_at = now + self._heartbeat_s

    def receive(self, frames: Sequence[bytes], now: float) -> None:
        """Something came on the present socket."""
        if self.state is State.PROBING:
            message = read_at_client(frames)
            body = message.body
            is_answer = message.name == mmi.CAPABILITIES and len(body) == 2 and body[0] == mmi.OK
            self._join(Capabilities.unpack(body[1]) if is_answer else None)
        elif self.is_joined():
            self._from_broker(frames, now)

    def lost(self, now: float) -> None:
        """The connection is gone, or a frame could not be sent."""
        if self.state not in (State.BACKOFF, State.ENDED):
            self._fall_back(now)

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self.is_joined():
            # If we were away ourselves, we have heard nothing meanwhile, and blame the broker for nothing.
            if now - self._beats_at >= self._heartbeat_s:
                self._heard_at = max(self._heard_at, now - self._heartbeat_s)
            if now >= self._heard_at + self._patience_s:
                self.counts["broker silent"] += 1
                self._fall_back(now)
            elif now >= self._beats_at:
                self._transmit(list(self._dialect.heartbeat))
                self._beats_at = now + self._heartbeat_s
        elif now >= self._until:
            if self.state is State.PROBING:
                self._join(None)
            elif self.state is State.BACKOFF:
                self.start(now)

    def drain(self, now: float) -> None:
        """Take nothing more; end as soon as nothing is in hand. Heartbeats go on until then."""
        self.is_draining = True
        if self.state is State.WORKING:
            if self.has_credit():
                self._transmit([*self._dialect.heartbeat, (0).to_bytes(2)])
        elif self.state is not State.ENDED:
            self._end()

    # ---- replies --------------------------------------------------------------------------------------------------

    def partial(self, job: Job, body: Sequence[bytes], metadata: bytes = b"") -> bool:
        """Send one of several replies. Returns False if there is nobody to send it to, or 0.1 is spoken."""
        head = self._dialect.work_partial
        if job.is_orphan() or job not in self._held or head is None:
            return False
        self._transmit([*head, job.client, b"", *body, *self._envelope(job, 200, 0, metadata)])
        return True

    def final(self, job: Job, answer: Answer, now: float, *, is_repeat: bool = False) -> bool:
        """Send the last reply. Returns False if there is nobody to send it to."""
        if job.is_orphan() or job not in self._held:
            return False
        del self._held[job]
        flags = (ERROR if answer.is_error else 0) | (REPEATED if is_repeat else 0)
        envelope = self._envelope(job, answer.status, flags, answer.metadata)
        self._transmit([*self._dialect.work_final, job.client, b"", *answer.body, *envelope])
        if self._later:
            later = self._later.popleft()
            self._held[later] = None
            self.jobs.append(later)
        elif not self._held:
            self.state = State.IDLE
            self.idle_since = now
            if self.is_draining:
                self._end()
        return True

    @staticmethod
    def _envelope(job: Job, status: int, flags: int, metadata: bytes) -> list[bytes]:
        if job.envelope is None:
            return []
        request = job.envelope
        return [Envelope(REPLY, request.id, flags, request.attempt, None, status, metadata).pack()]

    # ---- the session ----------------------------------------------------------------------------------------------

    def _from_broker(self, frames: Sequence[bytes], now: float) -> None:
        message = read_at_worker(frames)
        is_ours = message.dialect is not None and message.dialect.version == self._dialect.version
        if message.command is Command.MALFORMED or not is_ours:
            self.counts[f"malformed: {message.fault or 'other version'}"] += 1
            return
        self._heard_at = now
        self._tries = 0
        if message.command is Command.DISCONNECT:
            # Nothing more to this broker on this socket (7/MDP, Opening and Closing a Connection).
            self.counts["sent away"] += 1
            self._fall_back(now)
        elif message.command is Command.REQUEST:
            self._take(message.name, message.body, now)

    def _take(self, client: bytes, body: Sequence[bytes], now: float) -> None:
        envelope = None
        knows_envelopes = self.capabilities is not None or self.settings.envelope == "always"
        if knows_envelopes and has_envelope(body):
            try:
                envelope = Envelope.unpack(body[-1], REQUEST)
            except RequestError:
                envelope = None
            else:
                body = body[:-1]
        if envelope is None and self.capabilities is not None:
            # It could not be answered. The broker is out of its mind; it gives the request to somebody else.
            self.counts["malformed: request without envelope"] += 1
            self._fall_back(now)
            return
        job = Job(self, client, body, envelope, now)
        self.state = State.WORKING
        if len(self._held) < (self.settings.hello.credit if self.has_credit() else 1):
            self._held[job] = None
            self.jobs.append(job)
            return
        # A worker gets at most one request until its reply (7/MDP, Overall Topology): a broker's fault.
        self.counts["beyond credit"] += 1
        self._later.append(job)
        if len(self._later) > MOST_LATER:
            self._fall_back(now)

    def _join(self, capabilities: Capabilities | None) -> None:
        self.capabilities = capabilities
        settings = self.settings
        self._dialect = PROTOCOLS[settings.protocol or "0.1"]
        self._heartbeat_s, liveness = settings.heartbeat_s, settings.liveness
        if capabilities is not None:
            # Intervals that differ between peers cause false disconnections (7/MDP, Known Weaknesses).
            self._dialect = MDP_2
            self._heartbeat_s, liveness = capabilities.heartbeat_ms / 1000, capabilities.liveness
        self._patience_s = self._heartbeat_s * liveness
        self.state = State.JOINING
        self._until = math.inf
        self.out.append(Open())

    def _fall_back(self, now: float) -> None:
        """Leave this connection, wait, come back. Jobs in hand are finished all the same."""
        self._forget()
        self.out.append(Close(0.0))
        if self.is_draining:
            self.state = State.ENDED
            self._until = math.inf
            return
        self._tries += 1
        self.state = State.BACKOFF
        self._until = now + self._delay_s(self._tries)

    def _end(self) -> None:
        is_joined = self.is_joined()
        if is_joined:
            self._transmit(list(self._dialect.disconnect))
        self._forget()
        if self.state is not State.BACKOFF:
            self.out.append(Close(LINGER_S if is_joined else 0.0))
        self.state = State.ENDED
        self._until = math.inf

    def _forget(self) -> None:
        self.epoch += 1
        self._held.clear()
        self._later.clear()

    def _transmit(self, frames: list[bytes]) -> None:
        self.out.append(Transmit(frames))
