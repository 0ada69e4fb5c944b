# SPDX-License-Identifier: Apache-2.0
"""The broker as a machine: frames and times in, frames to send out. No I/O, no clock.

At least once: a request is kept until its FINAL, and goes to another worker, a bounded number of times, if the one that
has it is lost. Whoever drives the machine calls `receive`, `undelivered` and `tick`, and after each empties `out`,
`letters` and `notices`; `wakes_at` says when to call `tick`. No input makes it raise. Who a worker is, and when it is
lost, is in the base class (`registry`). Read next: `window`.
"""

import enum
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from compysition.errors import MalformedError, RequestError, TooLargeError
from compysition.mdp import mmi
from compysition.mdp.envelope import (
    NO_REDISPATCH,
    NO_WAIT,
    REQUEST,
    Envelope,
    has_envelope,
    identity_of,
    is_sound_reply,
    readdressed,
)
from compysition.mdp.frames import Command, Message, read_at_broker
from compysition.mdp.registry import BrokerSettings, Registry
from compysition.mdp.service import REQUEST_BYTES, Key, Request, Service, Worker, size_of

__all__ = ["Broker", "BrokerSettings", "Ending", "Letter"]

#: Of a request's time, so much may pass at a service without workers (ours): the rest is for the answer's way back.
UNSERVED_SHARE: Final = 0.8


class Ending(enum.Enum):
    """How a request that was accepted has ended."""

    #: Its FINAL went to the client.
    ANSWERED = "answered"
    #: Its deadline passed, or nobody served it for too long.
    EXPIRED = "expired"
    #: The broker gave up on it, or never took it on; a `Letter` says why.
    REFUSED = "refused"


class Letter(NamedTuple):
    """A request that was refused. `reason` is one of few fixed words; `body` is without the envelope."""

    reason: str
    status: int
    service: bytes
    client: Key
    id: bytes
    attempt: int
    body: Sequence[bytes]


class Broker(Registry):
    """One broker.

    Args:
        settings: Intervals and limits.
        broker_id: 16 random bytes, new per start.
        now: What time it is, on any clock that only goes forward, in seconds.

    Attributes:
        out: What to send.
        letters: Requests that were refused.
        notices: What should be logged, once per peer and period.
        accepted: How many requests were seen; each ends once, or is in `requests`.
        ended: How many have ended, by how.
        requests: All open ones.
        size: What they take, in bytes, about.
        counts: How often anything odd happened, by fixed words.
    """

    def __init__(self, settings: BrokerSettings, *, broker_id: bytes, now: float) -> None:
        super().__init__(settings, broker_id.hex(), now)
        self.letters: list[Letter] = []
        self.accepted = 0
        self.ended: Counter[Ending] = Counter()
        self.requests: dict[Request, None] = {}
        self.size = 0
        self.is_stopping = False
        self._by_id: dict[bytes, Request] = {}
        self._id_prefix = broker_id[:8]
        self._next_id = 0

    # ---- what the driver calls ------------------------------------------------------------------------------------

    def receive(self, socket: object, frames: Sequence[bytes], now: float) -> None:
        """Take what came on `socket`, a ROUTER: an address, then whatever the peer sent."""
        key = (socket, frames[0])
        message = read_at_broker(frames[1:])
        if message.is_worker:
            self._from_worker(key, message, now)
        elif message.command is Command.REQUEST:
            self._from_client(key, message, now)
        else:
            self._odd(key, f"malformed: {message.fault}", now)

    def tick(self, now: float) -> None:
        """Do what is due; the time is over that `wakes_at` named."""
        for request in self.times.due(now):
            request.bucket = None
            self._look_at(request, now)
        if now >= self.beats_at:
            self._beat(now)

    def begin_stop(self) -> None:
        """Refuse what comes from now on; what is held goes on."""
        self.is_stopping = True

    def finish_stop(self, now: float) -> None:
        """Refuse what is left, and let the workers go."""
        self.is_stopping = True
        for request in list(self.requests):
            if request.worker is None:
                self.services[request.service].remove(request)
            self._refuse(request, 503, "stopping", "the broker is stopping", now)
        for worker in list(self.workers.values()):
            self._expel(worker, "", now)
        self.services.clear()

    # ---- requests -------------------------------------------------------------------------------------------------

    def _from_client(self, key: Key, message: Message, now: float) -> None:
        dialect, name, body = message.dialect, message.name, message.body
        assert dialect is not None
        if name.startswith(mmi.PREFIX):
            # REPLY in 0.1, FINAL in 0.2 (ours: 8/MMI knows only 0.1).
            self._send(key, [key[1], *dialect.final, name, *mmi.answer(self, name, body, now)], is_to_worker=False)
            return
        frame = None
        if has_envelope(body):
            frame, body = body[-1], body[:-1]
            if key[1] + identity_of(frame) in self._by_id:
                # Its answer is on the way; a client that did not want to wait for it would have closed this socket.
                self.counts["repeated request"] += 1
                return
        request = Request(key, dialect, name, body, frame)
        request.queued_at = now
        self.accepted += 1
        try:
            self._read_envelope(request, now)
        except RequestError as error:
            self._refuse(request, error.status, "malformed", str(error), now)
            return
        if not self._is_refused(request, now):
            self._take(request, now)

    def _read_envelope(self, request: Request, now: float) -> None:
        settings = self.settings
        request.unserved_s = settings.unserved_expiry_s
        if request.envelope is None:
            self._next_id += 1
            request.id = self._id_prefix + self._next_id.to_bytes(8)
        else:
            request.id = identity_of(request.envelope)
        size = request.size - REQUEST_BYTES
        if size > settings.max_body_bytes:
            raise TooLargeError(f"a body of {size} bytes, at most {settings.max_body_bytes} are taken")
        if request.envelope is None:
            return
        envelope = Envelope.unpack(request.envelope, REQUEST)
        if envelope.flags & ~(NO_REDISPATCH | NO_WAIT):
            raise MalformedError(f"an envelope with unknown flags {envelope.flags:#x}")
        request.flags = envelope.flags
        if envelope.left_ms is not None:
            left_s = envelope.left_ms / 1000
            request.deadline = now + left_s
            request.unserved_s = min(request.unserved_s, UNSERVED_SHARE * left_s)

    def _is_refused(self, request: Request, now: float) -> bool:
        settings = self.settings
        service = self.services.get(request.service)
        name = request.service.decode()
        if self.is_stopping:
            self._refuse(request, 503, "stopping", "the broker is stopping", now)
        elif request.deadline is not None and now >= request.deadline:
            self._expire(request, 504, "the deadline has passed", now)
        elif request.flags & NO_WAIT and (service is None or not service.workers):
            self._refuse(request, 404, "no_service", f"nobody serves {name!r}", now)
        elif service is not None and service.depth >= settings.max_requests:
            # Full: the newest is refused (ours).
            text = f"{name!r} has {service.depth} requests waiting, which is the limit"
            self._refuse(request, 503, "queue_full", text, now)
        elif self.size + request.size > settings.max_held_bytes:
            self._refuse(request, 503, "queue_full", f"the broker holds {self.size} bytes, which is its limit", now)
        else:
            return False
        return True

    def _take(self, request: Request, now: float) -> None:
        self.requests[request] = None
        self.size += request.size
        if request.envelope is not None:
            self._by_id[request.client[1] + request.id] = request
        service = self.services.get(request.service)
        if service is None:
            service = self.services[request.service] = Service(request.service, now)
        service.append(request)
        self._settle(service, now)
        if request.is_open and (request.worker is None or request.deadline is not None):
            self._schedule(request, self._next_look(request))

    def _give(self, worker: Worker, request: Request, now: float) -> None:
        if request.deadline is not None and now >= request.deadline:
            self._expire(request, 504, "the deadline has passed", now)
            return
        service = worker.service
        worker.held[worker.handle_of(request)] = request
        request.worker = worker
        if worker.has_room():
            service.free.move_to_end(worker)
        else:
            del service.free[worker]
        frames = [worker.key[1], *worker.dialect.work, request.client[1], b"", *request.body]
        if worker.is_ours:
            frames.append(self._envelope_for_worker(request, now))
        self._send(worker.key, frames, is_to_worker=True)

    @staticmethod
    def _envelope_for_worker(request: Request, now: float) -> bytes:
        left_ms = request.left_ms(now)
        if request.envelope is not None:
            return readdressed(request.envelope, request.attempt, left_ms)
        return Envelope(REQUEST, request.id, request.flags, request.attempt, left_ms).pack()

    def _settle(self, service: Service, now: float) -> None:
        """Give out what can be given, then forget the service if nothing is left of it."""
        free = service.free
        while free:
            if service.suspects and not service.returned:
                # Another worker is free: it gets what the suspect holds, before everything that waits.
                self.counts["suspect lost"] += 1
                self._lose(next(iter(service.suspects)), now)
                continue
            request = service.pop()
            if request is None:
                break
            self._give(next(iter(free)), request, now)
        if service.is_unused():
            self.services.pop(service.name, None)

    # ---- replies --------------------------------------------------------------------------------------------------

    def _reply(self, worker: Worker, message: Message, now: float) -> None:
        body = message.body
        handle = message.name
        envelope = None
        if worker.is_ours:
            if not has_envelope(body) or not is_sound_reply(body[-1]):
                self._expel(worker, "malformed: reply without envelope", now)
                return
            envelope, body = body[-1], body[:-1]
            handle += identity_of(envelope)
        request = worker.held.get(handle)
        if request is None:
            # Rule 3 of MDP.md section 3. Not forwarded: after a restart an old address may be another client's.
            self._expel(worker, "reply to a request that it does not hold", now)
            return
        is_final = message.command is Command.FINAL
        if not request.is_open:
            self.counts["late reply"] += 1
        elif is_final or request.dialect.partial is not None:
            self._forward(request, body, envelope, is_final=is_final)
        else:
            self._hold(request, body, now)
        if is_final:
            del worker.held[handle]
            service = worker.service
            if worker.has_room() and worker not in service.free:
                service.free[worker] = None
            self._settle(service, now)

    def _forward(self, request: Request, body: Sequence[bytes], envelope: bytes | None, *, is_final: bool) -> None:
        dialect = request.dialect
        head = dialect.final if is_final else dialect.partial
        assert head is not None
        frames = [request.client[1], *head, request.service]
        if request.parts is not None:
            frames += request.parts
        frames += body
        if request.envelope is not None:
            frames.append(request.plain_reply() if envelope is None else envelope)
        self._send(request.client, frames, is_to_worker=False)
        if is_final:
            self.services[request.service].answered += 1
            self._end(request, Ending.ANSWERED)
        else:
            request.has_partial = True

    def _hold(self, request: Request, body: Sequence[bytes], now: float) -> None:
        """Keep a PARTIAL for a 0.1 client, which gets one REPLY (ours)."""
        size = size_of(body)
        if request.parts is None:
            request.parts = []
        request.parts += body
        request.parts_size += size
        request.size += size
        self.size += size
        if request.parts_size > self.settings.max_body_bytes or self.size > self.settings.max_held_bytes:
            text = f"partial replies of {request.parts_size} bytes are too many to hold"
            self._refuse(request, 413, "too_large", text, now)

    # ---- the end of a request -------------------------------------------------------------------------------------

    def _end(self, request: Request, ending: Ending) -> None:
        self.ended[ending] += 1
        request.is_open = False
        if request in self.requests:
            del self.requests[request]
            self.size -= request.size
            if request.envelope is not None:
                del self._by_id[request.client[1] + request.id]
        if request.bucket is not None:
            self.times.discard(request, request.bucket)
            request.bucket = None
        # A worker may hold the request until its late FINAL.
        request.body = ()
        request.parts = None

    def _refuse(self, request: Request, status: int, reason: str, text: str, now: float) -> None:
        """End a request that stands in no queue."""
        letter = Letter(
            reason, status, request.service, request.client, request.id, request.attempt, tuple(request.body)
        )
        self.letters.append(letter)
        self._odd(request.client, f"refused: {reason}", now)
        self._tell(request, status, text)
        self._end(request, Ending.REFUSED)

    def _expire(self, request: Request, status: int, text: str, now: float) -> None:
        self.counts[f"expired: {status}"] += 1
        self._tell(request, status, text)
        self._end(request, Ending.EXPIRED)

    def _tell(self, request: Request, status: int, text: str) -> None:
        """Tell our client; a plain one cannot be told, MDP has no error reply."""
        if request.envelope is not None:
            frames = [
                request.client[1],
                *request.dialect.final,
                request.service,
                text.encode(),
                request.refusal(status),
            ]
            self._send(request.client, frames, is_to_worker=False)

    def _lost(self, request: Request, now: float) -> None:
        """The worker that has `request` is gone: once more, or never again."""
        request.worker = None
        if not request.may_go_again():
            what = "partial_sent" if request.has_partial else "worker_lost"
            self._refuse(request, 503, what, "the worker was lost and the request may not be given out again", now)
        elif request.attempt >= self.settings.max_attempts:
            text = f"{request.attempt} workers were lost over this request"
            self._refuse(request, 500, "poison", text, now)
        else:
            request.attempt += 1
            self.size -= request.parts_size
            request.size -= request.parts_size
            request.parts, request.parts_size = None, 0
            request.queued_at = now
            self.services[request.service].give_back(request)
            if request.bucket is None:
                self._schedule(request, self._next_look(request))

    # ---- times ----------------------------------------------------------------------------------------------------

    def _next_look(self, request: Request) -> float:
        """When `request`, which is queued or has a deadline, has to be looked at."""
        if request.worker is not None:
            assert request.deadline is not None
            return request.deadline
        service = self.services[request.service]
        since = request.queued_at if service.workers else max(request.queued_at, service.unserved_since)
        at = since + request.unserved_s
        return at if request.deadline is None else min(at, request.deadline)

    def _schedule(self, request: Request, at: float) -> None:
        request.bucket = self.times.add(request, at)

    def _look_at(self, request: Request, now: float) -> None:
        is_late = request.deadline is not None and now >= request.deadline
        if request.worker is not None:
            if is_late:
                # The worker is free again with its late FINAL, which is dropped.
                self._expire(request, 504, "the deadline has passed", now)
            elif request.deadline is not None:
                self._schedule(request, request.deadline)
            return
        service = self.services[request.service]
        status = 504 if is_late else 503
        if is_late or (not service.workers and now >= self._next_look(request)):
            text = "the deadline has passed" if is_late else f"nobody serves {request.service.decode()!r}"
            service.remove(request)
            self._expire(request, status, text, now)
            self._settle(service, now)
        elif service.workers:
            # Looked at so often that a service that loses its last worker is noticed in time.
            at = now + request.unserved_s
            self._schedule(request, at if request.deadline is None else min(at, request.deadline))
        else:
            self._schedule(request, self._next_look(request))
