# SPDX-License-Identifier: Apache-2.0
"""What the broker keeps: requests, workers, and per service the queue between them.

A service exists as long as it has a worker or a request. Its queue is fair between clients; its workers take turns by
least recent use. Only the broker changes anything here. Read next: `mmi`.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Final, TypeAlias

from compysition.mdp.envelope import BY_BROKER, ERROR, NO_REDISPATCH, PLAIN_WORKER, REPLY, Envelope
from compysition.mdp.frames import Dialect

#: A peer: the socket it is connected to, and its address there (ours: one socket is the default, not a rule).
Key: TypeAlias = tuple[Hashable, bytes]

#: What a request takes beside its body, in bytes, about: tiny bodies must not outgrow the bound on memory.
REQUEST_BYTES: Final = 1_000
FRAME_BYTES: Final = 50


def size_of(body: Sequence[bytes]) -> int:
    """What `body` takes in memory, in bytes, about."""
    return sum(map(len, body)) + FRAME_BYTES * len(body)


class Request:
    """A request from the moment the broker takes it until it has ended.

    Attributes:
        client: Who asked.
        dialect: How they asked, and are answered.
        service: What for.
        body: The data, without envelope; empty once it has ended.
        envelope: The client's envelope as it came; None for a plain client.
        id: The idempotency id; one is made for a plain client.
        flags: Of the envelope.
        deadline: When its time is over; None = never.
        queued_at: When it came, or came back.
        unserved_s: How long it may wait at a service without workers.
        attempt: Which dispatch this is or will be, from 1.
        worker: Who has it; None while it is queued.
        parts: Bodies of PARTIALs held for a 0.1 client.
        parts_size: What they take.
        has_partial: Whether a PARTIAL has gone to the client.
        size: What it takes, in bytes, about.
        bucket: Where it stands in the broker's times; None if nowhere.
        is_open: False once it has ended.
    """

    __slots__ = (
        *("attempt", "body", "bucket", "client", "deadline", "dialect", "envelope", "flags", "has_partial", "id"),
        *("is_open", "parts", "parts_size", "queued_at", "service", "size", "unserved_s", "worker"),
    )

    def __init__(
        self, client: Key, dialect: Dialect, service: bytes, body: Sequence[bytes], envelope: bytes | None
    ) -> None:
        self.client = client
        self.dialect = dialect
        self.service = service
        self.body = body
        self.envelope = envelope
        self.id = b""
        self.flags = 0
        self.deadline: float | None = None
        self.queued_at = 0.0
        self.unserved_s = 0.0
        self.attempt = 1
        self.worker: Worker | None = None
        self.parts: list[bytes] | None = None
        self.parts_size = 0
        self.has_partial = False
        self.size = size_of(body) + REQUEST_BYTES
        self.bucket: int | None = None
        self.is_open = True

    def left_ms(self, now: float) -> int | None:
        """Milliseconds until the deadline; None = there is none."""
        return None if self.deadline is None else max(0, int((self.deadline - now) * 1000))

    def may_go_again(self) -> bool:
        """Whether it may be given to a second worker (MDP.md section 5, at least once).

        Not after a PARTIAL has gone to a plain client, which would see the beginning twice.
        """
        return not self.flags & NO_REDISPATCH and not (self.has_partial and self.envelope is None)

    def reply(self, status: int, *, is_error: bool = False, flags: int = 0) -> bytes:
        """An envelope of ours for its answer."""
        flags |= ERROR if is_error else 0
        return Envelope(REPLY, self.id, flags, self.attempt, None, status).pack()

    def refusal(self, status: int) -> bytes:
        """The envelope of a status that the broker made."""
        return self.reply(status, is_error=True, flags=BY_BROKER)

    def plain_reply(self) -> bytes:
        """The envelope around the answer of a worker that knows none."""
        return self.reply(200, flags=PLAIN_WORKER)


class Worker:
    """A registered worker: one socket of a worker process.

    Attributes:
        key: Its address.
        dialect: How it speaks.
        service: Its service.
        is_ours: Whether it has said hello, so it knows envelopes and credit.
        credit: How many requests it may hold; 0 = draining.
        held: What it has, by what its replies will name. Ended requests stay until it replies.
        heard_at: When it last said anything.
        is_suspect: Busy and silent for too long.
        name: For status, what its hello said.
    """

    __slots__ = ("credit", "dialect", "heard_at", "held", "is_ours", "is_suspect", "key", "name", "service")

    def __init__(self, key: Key, dialect: Dialect, service: "Service", now: float) -> None:
        self.key = key
        self.dialect = dialect
        self.service = service
        self.is_ours = False
        self.credit = 1
        self.held: dict[bytes, Request] = {}
        self.heard_at = now
        self.is_suspect = False
        self.name = ""

    def has_room(self) -> bool:
        """Whether it may be given a request."""
        return len(self.held) < self.credit and not self.is_suspect

    def handle_of(self, request: Request) -> bytes:
        """By what this worker's replies will name `request`: the client's address, with ours the id too."""
        return request.client[1] + request.id if self.is_ours else request.client[1]


class Service:
    """The queue of one service, and its workers.

    First what came back from lost workers, in its old order; then the clients in turn, first in first out for each
    (7/MDP, Overall Topology: the broker should be fair).
    """

    __slots__ = (
        *("answered", "depth", "free", "name", "rate", "rate_base", "returned", "suspects", "turn", "unserved_since"),
        "workers",
    )

    def __init__(self, name: bytes, now: float) -> None:
        self.name = name
        self.workers: dict[Key, Worker] = {}
        #: Workers that may be given a request, least recently used first.
        self.free: OrderedDict[Worker, None] = OrderedDict()
        self.suspects: OrderedDict[Worker, None] = OrderedDict()
        self.returned: OrderedDict[Request, None] = OrderedDict()
        #: Queued requests by client, the client whose turn it is first.
        self.turn: OrderedDict[Key, OrderedDict[Request, None]] = OrderedDict()
        self.depth = 0
        #: Since when no worker is registered.
        self.unserved_since = now
        self.answered = 0
        self.rate_base = 0
        #: Answers per second, over the last interval.
        self.rate = 0.0

    def append(self, request: Request) -> None:
        """Queue `request` behind those of its client."""
        waiting = self.turn.get(request.client)
        if waiting is None:
            waiting = self.turn[request.client] = OrderedDict()
        waiting[request] = None
        self.depth += 1

    def give_back(self, request: Request) -> None:
        """Queue `request` in front of everything."""
        self.returned[request] = None
        self.returned.move_to_end(request, last=False)
        self.depth += 1

    def pop(self) -> Request | None:
        """Take the next request; None if there is none."""
        if self.returned:
            self.depth -= 1
            return self.returned.popitem(last=False)[0]
        if not self.turn:
            return None
        client, waiting = next(iter(self.turn.items()))
        request = waiting.popitem(last=False)[0]
        if waiting:
            self.turn.move_to_end(client)
        else:
            del self.turn[client]
        self.depth -= 1
        return request

    def remove(self, request: Request) -> None:
        """Take `request` out, wherever it stands."""
        if request in self.returned:
            del self.returned[request]
        else:
            waiting = self.turn[request.client]
            del waiting[request]
            if not waiting:
                del self.turn[request.client]
        self.depth -= 1

    def is_unused(self) -> bool:
        """Whether nothing is left of it."""
        return not self.workers and not self.depth
