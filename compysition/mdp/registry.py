# SPDX-License-Identifier: Apache-2.0
"""Who is registered with the broker, since when, and when a worker counts as lost: the session rules of 7/MDP.

The half of `Broker` that knows workers; what becomes of their requests is the other half's. Read next: `broker`.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from compysition.errors import ConfigurationError
from compysition.mdp import mmi
from compysition.mdp.buckets import Buckets
from compysition.mdp.frames import Command, Dialect, Message, is_service_name
from compysition.mdp.hello import MOST_CREDIT, Capabilities, WorkerHello
from compysition.mdp.recently import Recently
from compysition.mdp.service import Key, Request, Service, Worker

#: Notices that nobody has fetched yet.
MOST_NOTICES: Final = 1_000


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """Intervals and limits of a broker.

    Attributes:
        heartbeat_s: How often it sends heartbeats, in seconds; foreign workers have 2.5.
        liveness: After how many silent intervals a peer is gone.
        unserved_expiry_s: How long a request may wait for a service that has no worker, in seconds.
        max_requests: Requests that may wait at one service: an asynchronous client may send 100 000 before it reads.
        max_held_bytes: All open requests together, in bytes.
        max_body_bytes: One body, and the partial replies held for one 0.1 client.
        max_attempts: How often one request may be given out.
        max_workers: Workers that may be registered.
    """

    heartbeat_s: float = 2.5
    liveness: int = 3
    unserved_expiry_s: float = 60.0
    max_requests: int = 100_000
    max_held_bytes: int = 256 * 1024 * 1024
    max_body_bytes: int = 64 * 1024 * 1024
    max_attempts: int = 3
    max_workers: int = 10_000

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not 0 < value < math.inf:
                raise ConfigurationError(f"{name} of a broker is {value!r}: wanted is a number above 0")

    @property
    def patience_s(self) -> float:
        """After so many seconds of silence a peer is gone."""
        return self.heartbeat_s * self.liveness


class Send(NamedTuple):
    """A message to send: `frames` begin with the address. `is_to_worker` matters if it cannot be delivered."""

    socket: object
    frames: list[bytes]
    is_to_worker: bool


class Notice(NamedTuple):
    """Something that should be logged about a peer."""

    key: Key
    text: str


class Registry:
    """The workers of a broker, and what is to be sent and said."""

    def __init__(self, settings: BrokerSettings, broker_id: str, now: float) -> None:
        self.settings = settings
        self.capabilities = Capabilities(broker_id, round(settings.heartbeat_s * 1000), settings.liveness)
        self.started_at = now
        self.out: list[Send] = []
        self.notices: list[Notice] = []
        self.counts: Counter[str] = Counter()
        self.services: dict[bytes, Service] = {}
        self.workers: dict[Key, Worker] = {}
        self.times: Buckets[Request] = Buckets()
        self.beats_at = now + settings.heartbeat_s
        #: Strangers that were told to go (MDP.md section 3, rule 4), and peers that were logged.
        self._told = Recently(settings.patience_s)
        self._noticed = Recently(settings.patience_s)

    @property
    def wakes_at(self) -> float:
        """When `tick` has something to do."""
        return min(self.beats_at, self.times.wakes_at)

    def undelivered(self, send: Send, now: float) -> None:
        """`send` could not be sent: no such peer (EHOSTUNREACH), or its pipe is full (EAGAIN)."""
        if not send.is_to_worker:
            # The client has left, or does not read.
            self.counts["reply undelivered"] += 1
            return
        worker = self.workers.get((send.socket, send.frames[0]))
        if worker is not None:
            self.counts["worker unreachable"] += 1
            self._lose(worker, now)
            self._settle(worker.service, now)

    # ---- what workers say -----------------------------------------------------------------------------------------

    def _from_worker(self, key: Key, message: Message, now: float) -> None:
        worker = self.workers.get(key)
        if worker is None:
            self._from_stranger(key, message, now)
            return
        command, dialect = message.command, message.dialect
        assert dialect is not None
        if message.fault:
            self._expel(worker, f"malformed: {message.fault}", now)
        elif dialect.version != worker.dialect.version:
            self._expel(worker, "command of the other version", now)
        elif command is Command.READY:
            self._expel(worker, "READY twice", now)
        elif command is Command.DISCONNECT:
            # No further command, no answer, no heartbeat (7/MDP, Opening and Closing a Connection).
            self.counts["worker left"] += 1
            self._told.note(key, now)
            self._lose(worker, now)
            self._settle(worker.service, now)
        else:
            # Any command but DISCONNECT counts as a heartbeat (7/MDP, Heartbeating).
            worker.heard_at = now
            if worker.is_suspect:
                self._end_suspicion(worker, now)
            if command is Command.HEARTBEAT:
                self._heartbeat(worker, message.body, now)
            else:
                self._reply(worker, message, now)

    def _from_stranger(self, key: Key, message: Message, now: float) -> None:
        """A command from an address that is not registered (MDP.md section 3, rules 3 to 7)."""
        command, dialect, body = message.command, message.dialect, message.body
        assert dialect is not None
        if command is Command.READY:
            if not self._register(key, dialect, message.name, body, now):
                self._tell_to_go(key, dialect, "READY refused", now)
        elif command is Command.DISCONNECT:
            self._told.note(key, now)
        elif command is Command.MALFORMED:
            self._odd(key, f"malformed: {message.fault}", now)
        elif command is Command.HEARTBEAT and body and not _is_credit(body):
            self._odd(key, "malformed: unknown command", now)
        else:
            self._tell_to_go(key, dialect, "command of a stranger", now)

    def _register(self, key: Key, dialect: Dialect, name: bytes, body: Sequence[bytes], now: float) -> bool:
        """Take a worker on, also straight after a DISCONNECT (ours). Returns whether it was."""
        is_taken = is_service_name(name) and not name.startswith(mmi.PREFIX)  # 8/MMI, Namespace
        hello = WorkerHello.unpack(body[0]) if len(body) == 1 else None
        if not is_taken or (body and hello is None) or len(self.workers) >= self.settings.max_workers:
            return False
        service = self.services.get(name)
        if service is None:
            service = self.services[name] = Service(name, now)
        worker = Worker(key, dialect, service, now)
        if hello is not None:
            worker.is_ours = True
            worker.credit = hello.credit
            worker.name = f"{hello.worker_id} (pid {hello.pid} on {hello.host})"
        self.workers[key] = service.workers[key] = worker
        self._told.forget(key)
        if worker.has_room():
            service.free[worker] = None
        self._settle(service, now)
        return True

    def _heartbeat(self, worker: Worker, body: Sequence[bytes], now: float) -> None:
        if not body:
            return
        if not worker.is_ours or not _is_credit(body):
            self._expel(worker, "malformed: unknown command", now)
            return
        worker.credit = min(int.from_bytes(body[0]), MOST_CREDIT)
        if not worker.has_room():
            worker.service.free.pop(worker, None)
        elif worker not in worker.service.free:
            worker.service.free[worker] = None
        self._settle(worker.service, now)

    # ---- who is lost ----------------------------------------------------------------------------------------------

    def _expel(self, worker: Worker, why: str, now: float) -> None:
        """Valid but unexpected, or malformed: DISCONNECT, then nothing more; its requests go on (7/MDP, Opening)."""
        self._send(worker.key, [worker.key[1], *worker.dialect.disconnect], is_to_worker=True)
        self._told.note(worker.key, now)
        if why:
            self._odd(worker.key, why, now)
        self._lose(worker, now)
        self._settle(worker.service, now)

    def _tell_to_go(self, key: Key, dialect: Dialect, why: str, now: float) -> None:
        """DISCONNECT, once per address and liveness period (ours, MDP.md section 3, rule 4)."""
        self._odd(key, why, now)
        if self._told.is_first(key, now):
            self._send(key, [key[1], *dialect.disconnect], is_to_worker=True)

    def _lose(self, worker: Worker, now: float) -> None:
        """Forget `worker`; what it holds goes back to the front, in its old order. `_settle` has to follow."""
        service = worker.service
        del self.workers[worker.key]
        del service.workers[worker.key]
        service.free.pop(worker, None)
        service.suspects.pop(worker, None)
        if not service.workers:
            service.unserved_since = now
        held, worker.held = worker.held, {}
        for request in reversed(held.values()):
            if request.is_open:
                self._lost(request, now)

    def _end_suspicion(self, worker: Worker, now: float) -> None:
        worker.is_suspect = False
        worker.service.suspects.pop(worker, None)
        if worker.has_room():
            worker.service.free[worker] = None
            self._settle(worker.service, now)

    def _beat(self, now: float) -> None:
        """One interval has passed: look at all workers, then send each a heartbeat, also the busy ones.

        A broker that was itself away for longer than an interval has heard nobody meanwhile, and judges nobody by it.
        """
        heartbeat_s = self.settings.heartbeat_s
        away_s = now - self.beats_at
        is_late = away_s >= heartbeat_s
        self.beats_at = now + heartbeat_s if is_late else self.beats_at + heartbeat_s
        if is_late:
            for worker in self.workers.values():
                worker.heard_at = max(worker.heard_at, now - heartbeat_s)
        else:
            self._judge_silent(now - self.settings.patience_s, now)
        for worker in self.workers.values():
            self._send(worker.key, [worker.key[1], *worker.dialect.heartbeat], is_to_worker=True)
        for service in self.services.values():
            service.rate = (service.answered - service.rate_base) / (heartbeat_s + away_s)
            service.rate_base = service.answered

    def _judge_silent(self, silent_since: float, now: float) -> None:
        """Look at all workers, because an order of arrival is none of expiry.

        An idle silent one is gone (7/MDP, Heartbeating). A busy one is only suspect, because many workers say nothing
        while they work; nor is it waited for beyond the deadline of what it holds (ours, MDP.md section 4).
        """
        touched: dict[Service, None] = {}
        for worker in list(self.workers.values()):
            if worker.heard_at > silent_since:
                continue
            touched[worker.service] = None
            if not any(request.is_open for request in worker.held.values()):
                self.counts["worker silent"] += 1
                self._lose(worker, now)
            elif not worker.is_suspect:
                worker.is_suspect = True
                worker.service.free.pop(worker, None)
                worker.service.suspects[worker] = None
        for service in touched:
            self._settle(service, now)

    # ---- what is sent and said ------------------------------------------------------------------------------------

    def _send(self, key: Key, frames: list[bytes], *, is_to_worker: bool) -> None:
        self.out.append(Send(key[0], frames, is_to_worker))

    def _odd(self, key: Key, what: str, now: float) -> None:
        """Count, and log once per peer and period (ours, MDP.md section 7)."""
        self.counts[what] += 1
        if self._noticed.is_first(key, now) and len(self.notices) < MOST_NOTICES:
            self.notices.append(Notice(key, what))

    # ---- the other half -------------------------------------------------------------------------------------------

    def _reply(self, worker: Worker, message: Message, now: float) -> None:
        raise NotImplementedError

    def _lost(self, request: Request, now: float) -> None:
        raise NotImplementedError

    def _settle(self, service: Service, now: float) -> None:
        raise NotImplementedError


def _is_credit(body: Sequence[bytes]) -> bool:
    """Whether `body` of a HEARTBEAT is a new credit: one frame of two bytes (ours)."""
    return len(body) == 1 and len(body[0]) == 2
