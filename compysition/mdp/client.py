# SPDX-License-Identifier: Apache-2.0
"""The client as a machine: requests in, one end for each, over as many brokers as there are.

A request keeps its id over all tries, so that a worker recognises a repeat. It is sent again when its broker goes down
or a foreign one says nothing; never after its deadline, and only so often. Whoever drives it empties `out` and `news`
after each call. Read next: `compysition.actors.mdpclient`.
"""

import enum
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from compysition.errors import RequestError
from compysition.mdp.buckets import Buckets
from compysition.mdp.envelope import BY_BROKER, ERROR, NO_REDISPATCH, REPLY, REQUEST, Envelope, has_envelope
from compysition.mdp.frames import Command, Message
from compysition.mdp.link import Action, ClientSettings, Connect, Hangup, Link, Purpose, Transmit, Wire

__all__ = ["Call", "Client", "ClientSettings", "Connect", "Hangup", "News", "NewsKind", "Transmit", "Wire"]


class CallState(enum.Enum):
    """Where a request is; see the state table of our client in MDP.md section 7."""

    WAITING = "waiting"
    SENT = "sent"
    STREAMING = "streaming"
    ENDED = "ended"


class Call:
    """One request.

    Attributes:
        id: 16 bytes, the same over all tries.
        service: For which service.
        data: The data, one frame.
        plain: The same for peers that know no envelopes; None if it cannot be said to them.
        metadata: The event's, for peers that know envelopes.
        deadline: When its time is over; None = never.
        flags: As in the envelope.
        state: Where it is.
        tries: How often it was sent.
    """

    __slots__ = (
        *("attempt", "bucket", "data", "deadline", "flags", "id", "metadata", "must_restart", "plain", "seen"),
        *("service", "state", "tries", "try_until", "waiting_since", "wire"),
    )

    def __init__(
        self,
        identity: bytes,
        service: bytes,
        data: bytes,
        *,
        metadata: bytes = b"",
        deadline: float | None = None,
        flags: int = 0,
    ) -> None:
        self.id = identity
        self.service = service
        self.data = data
        self.plain: bytes | None = data
        self.metadata = metadata
        self.deadline = deadline
        self.flags = flags
        self.state = CallState.WAITING
        self.tries = 0
        self.wire: Wire | None = None
        #: Highest attempt number seen in this try, and whether what comes next begins the stream anew.
        self.attempt = 0
        self.must_restart = False
        #: Links that have refused it.
        self.seen: set[Link] = set()
        self.waiting_since = 0.0
        self.try_until = math.inf
        self.bucket: int | None = None


class NewsKind(enum.Enum):
    """What there is to say about a request."""

    PARTIAL = "partial"
    #: It is answered; with an envelope, its flags say whether that is an error.
    FINAL = "final"
    #: This client has given up on it: `status` and the text in `body` say why.
    FAILED = "failed"


class News(NamedTuple):
    """Something has come for `call`. `is_restart`: what came of the stream before is to be forgotten."""

    call: Call
    kind: NewsKind
    body: Sequence[bytes]
    envelope: Envelope | None = None
    status: int = 200
    is_restart: bool = False


class Client:
    """All requests of one client.

    Args:
        settings: How it speaks.
        delay_s: Seconds to wait before try number n of a connection.

    Attributes:
        out: What to do with which socket.
        news: What has come, for whom.
        calls: All requests that have not ended.
        counts: How often anything odd happened, by fixed words.
    """

    def __init__(self, settings: ClientSettings, delay_s: Callable[[int], float]) -> None:
        self.settings = settings
        self.out: list[Action] = []
        self.news: list[News] = []
        self.calls: dict[bytes, Call] = {}
        self.counts: Counter[str] = Counter()
        self._links: dict[str, Link] = {}
        self._delay_s = delay_s
        self._waiting: OrderedDict[Call, None] = OrderedDict()
        self._times: Buckets[Call] = Buckets()
        self._uses = 0

    @property
    def wakes_at(self) -> float:
        """When `tick` has something to do."""
        return min(self._times.wakes_at, min((link.wakes_at for link in self._links.values()), default=math.inf))

    def links(self) -> list[Link]:
        """What leads to the brokers."""
        return list(self._links.values())

    def has_broker(self) -> bool:
        """Whether any broker is there."""
        return any(link.is_up() for link in self._links.values())

    # ---- what happens ---------------------------------------------------------------------------------------------

    def set_brokers(self, endpoints: Iterable[str], now: float) -> None:
        """These are the brokers now. One that is missing is left only when its connection is lost."""
        named = set(endpoints)
        for link in self._links.values():
            link.is_listed = link.endpoint in named
        for endpoint in sorted(named - self._links.keys()):
            self._links[endpoint] = Link(endpoint, self.settings, self._delay_s, now)
        for link in list(self._links.values()):
            self._collect(link, now)
            if not link.is_listed and not link.is_up():
                self._drop(link)

    def ask(self, call: Call, now: float) -> None:
        """Send a request as soon as a broker can take it."""
        self.calls[call.id] = call
        call.waiting_since = now
        self._waiting[call] = None
        self._schedule(call)
        self._pump(now)

    def cancel(self, call: Call, now: float) -> None:
        """Nobody waits for `call` any more; whatever still comes is counted."""
        if call.state is not CallState.ENDED:
            self._end(call, now, is_answered=False)
            self._pump(now)

    def connected(self, wire: Wire, now: float) -> None:
        """The socket of `wire` can send."""
        if not wire.link.has(wire):
            return
        wire.link.connected(wire, now)
        self._collect(wire.link, now)
        self._pump(now)

    def receive(self, wire: Wire, frames: Sequence[bytes], now: float) -> None:
        """Something came on the socket of `wire`."""
        if not wire.link.has(wire):
            return
        message = wire.link.receive(wire, frames, now)
        if message is not None:
            self._reply(wire, message, now)
        self._collect(wire.link, now)
        self._pump(now)

    def lost(self, wire: Wire, now: float) -> None:
        """The connection of `wire` is gone, or a frame could not be sent: its broker is down."""
        if wire.is_connected and wire.link.has(wire):
            self._down(wire.link, now)
            self._pump(now)

    def tick(self, now: float) -> None:
        """Do what is due."""
        for link in list(self._links.values()):
            if link.wakes_at <= now:
                was_up = link.is_up()
                link.tick(now)
                if was_up and not link.is_up():
                    self._abandon(link, now)
            self._collect(link, now)
        for call in self._times.due(now):
            call.bucket = None
            self._look_at(call, now)
        self._pump(now)

    def stop(self, now: float) -> None:
        """Close all connections. What is open stays so: the caller ends it."""
        for link in list(self._links.values()):
            link.end()
            self._collect(link, now)
        self._links.clear()

    # ---- requests -------------------------------------------------------------------------------------------------

    def _pump(self, now: float) -> None:
        """Send what waits, each to the broker with the fewest outstanding, in turn among equals (ours)."""
        waiting = self._waiting
        while waiting:
            call = next(iter(waiting))
            wire = self._choose(call)
            if wire is None:
                break
            del waiting[call]
            self._send(call, wire, now)

    def _choose(self, call: Call) -> Wire | None:
        best: Wire | None = None
        for link in self._links.values():
            wire = link.free_wire()
            if wire is None:
                link.want_wire()
                self._collect_out(link)
            elif best is None or self._rank(wire.link, call) < self._rank(best.link, call):
                best = wire
        return best

    @staticmethod
    def _rank(link: Link, call: Call) -> tuple[bool, int, int]:
        return link in call.seen, len(link.calls), link.used

    def _send(self, call: Call, wire: Wire, now: float) -> None:
        link = wire.link
        data = call.data if link.knows_envelopes() else call.plain
        if data is None:
            self._fail(call, 422, "its data cannot be said to a foreign broker: JSON has no word for it", now)
            return
        self._uses += 1
        link.used = self._uses
        link.calls[call] = None
        call.tries += 1
        call.state = CallState.SENT
        call.wire = wire
        call.attempt = 0
        frames = [*link.dialect.request, call.service, data]
        if link.knows_envelopes():
            left_ms = None if call.deadline is None else max(0, int((call.deadline - now) * 1000))
            frames.append(Envelope(REQUEST, call.id, call.flags, 1, left_ms, 0, call.metadata).pack())
        call.try_until = math.inf
        if not link.is_shared:
            wire.call = call
            link.idle.pop(wire, None)
            call.try_until = now + self.settings.try_timeout_s
        self.out.append(Transmit(wire, frames))
        self._schedule(call)

    def _reply(self, wire: Wire, message: Message, now: float) -> None:
        body = message.body
        envelope = None
        if wire.link.knows_envelopes() and has_envelope(body):
            try:
                envelope = Envelope.unpack(body[-1], REPLY)
            except RequestError:
                self.counts["malformed: envelope"] += 1
                return
            body = body[:-1]
        if wire.purpose is Purpose.SINGLE:
            call = wire.call
        else:
            call = None if envelope is None else self.calls.get(envelope.id)
        if call is None or call.wire is not wire or message.name != call.service:
            self.counts["late or unasked reply"] += 1
            return
        attempt = 0 if envelope is None else envelope.attempt
        is_restart = call.must_restart or (call.state is CallState.STREAMING and attempt > call.attempt)
        if message.command is Command.FINAL:
            if envelope is None or not self._goes_elsewhere(call, envelope, now):
                self.news.append(News(call, NewsKind.FINAL, body, envelope, is_restart=is_restart))
                self._end(call, now, is_answered=True)
            return
        if attempt < call.attempt:
            self.counts["late or unasked reply"] += 1
            return
        call.attempt = attempt
        call.must_restart = False
        call.state = CallState.STREAMING
        self.news.append(News(call, NewsKind.PARTIAL, body, envelope, is_restart=is_restart))

    def _goes_elsewhere(self, call: Call, envelope: Envelope, now: float) -> bool:
        """Whether another broker may take what this one refused: it is full or stops, nothing has happened yet."""
        link = call.wire.link if call.wire is not None else None
        is_refusal = envelope.flags & (ERROR | BY_BROKER) == ERROR | BY_BROKER and envelope.status == 503
        if link is None or not is_refusal or call.flags & NO_REDISPATCH:
            return False
        call.seen.add(link)
        if not any(other.is_up() and other not in call.seen for other in self._links.values()):
            return False
        return self._again(call, now)

    def _again(self, call: Call, now: float) -> bool:
        """Let `call` wait for another broker, with the same id. Returns False if it has been sent often enough."""
        if call.tries >= self.settings.max_tries:
            return False
        wire = call.wire
        if wire is not None:
            wire.link.calls.pop(call, None)
            if wire.purpose is Purpose.SINGLE and wire.link.has(wire):
                wire.link.release(wire, now)
        call.must_restart = call.must_restart or call.state is CallState.STREAMING
        call.wire = None
        call.state = CallState.WAITING
        call.waiting_since = now
        call.try_until = math.inf
        self._waiting[call] = None
        self._schedule(call)
        return True

    def _retry(self, call: Call, now: float) -> None:
        """Its broker is down, or a foreign one says nothing."""
        self.counts["sent again"] += 1
        if call.flags & NO_REDISPATCH:
            self._fail(call, 503, "its broker was lost, and it may not be sent again", now)
        elif call.deadline is not None and now >= call.deadline:
            self._fail(call, 504, "the deadline has passed", now)
        elif not self._again(call, now):
            self._fail(call, 503, f"no broker has answered it after {call.tries} tries", now)

    def _fail(self, call: Call, status: int, text: str, now: float) -> None:
        self.news.append(News(call, NewsKind.FAILED, (text.encode(),), status=status))
        self._end(call, now, is_answered=False)

    def _end(self, call: Call, now: float, *, is_answered: bool) -> None:
        call.state = CallState.ENDED
        self.calls.pop(call.id, None)
        self._waiting.pop(call, None)
        if call.bucket is not None:
            self._times.discard(call, call.bucket)
            call.bucket = None
        wire, call.wire = call.wire, None
        if wire is None:
            return
        link = wire.link
        link.calls.pop(call, None)
        if wire.purpose is Purpose.SINGLE and link.has(wire):
            wire.call = None
            if is_answered:
                link.release(wire, now)
            else:
                # The close is what kills a late reply (7/MDP, MDP/Client).
                link.close(wire)
            self._collect_out(link)

    # ---- times ----------------------------------------------------------------------------------------------------

    def _schedule(self, call: Call) -> None:
        at = call.try_until if call.deadline is None else min(call.try_until, call.deadline)
        if call.state is CallState.WAITING:
            at = min(at, call.waiting_since + self.settings.no_broker_s)
        if call.bucket is not None:
            self._times.discard(call, call.bucket)
            call.bucket = None
        if at < math.inf:
            call.bucket = self._times.add(call, at)

    def _look_at(self, call: Call, now: float) -> None:
        if call.deadline is not None and now >= call.deadline:
            self._fail(call, 504, "the deadline has passed", now)
        elif call.state is CallState.WAITING:
            if self.has_broker():
                # All sockets are busy: it waits on, until its deadline.
                call.waiting_since = now
                self._schedule(call)
            elif now >= call.waiting_since + self.settings.no_broker_s:
                self._fail(call, 503, f"no broker was there for {self.settings.no_broker_s:g} s", now)
            else:
                self._schedule(call)
        elif now >= call.try_until:
            wire = call.wire
            if wire is not None:
                wire.call = None
                wire.link.close(wire)
                self._collect_out(wire.link)
            self._retry(call, now)
        else:
            self._schedule(call)

    # ---- links ----------------------------------------------------------------------------------------------------

    def _down(self, link: Link, now: float) -> None:
        if link.endpoint in self._links and self._links[link.endpoint] is link:
            link.go_down(now)
            self._abandon(link, now)
            self._collect(link, now)

    def _abandon(self, link: Link, now: float) -> None:
        """`link` is down: what was sent over it goes elsewhere, in its old order, before what waits."""
        calls = list(link.calls)
        link.calls.clear()
        for call in calls:
            self._retry(call, now)
        for call in reversed(calls):
            if call in self._waiting:
                self._waiting.move_to_end(call, last=False)

    def _collect(self, link: Link, now: float) -> None:
        self._collect_out(link)
        if not link.is_listed and not link.is_up() and not link.calls:
            self._drop(link)

    def _collect_out(self, link: Link) -> None:
        if link.out:
            self.out += link.out
            link.out.clear()

    def _drop(self, link: Link) -> None:
        if self._links.get(link.endpoint) is link:
            del self._links[link.endpoint]
            link.end()
            self._collect_out(link)
            self.counts.update(link.counts)
