# SPDX-License-Identifier: Apache-2.0
"""Machines on sockets: the broker on its ROUTER, a worker's pool and a client on their DEALERs.

Nothing is decided here: what a machine wants done is done, and what happens is told. Must not know actors or events.
Read next: `compysition.actors.mdpbroker`.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import zmq

from compysition.clock import Clock
from compysition.mdp.broker import Broker, Letter
from compysition.mdp.client import Client, Connect, News, Wire
from compysition.mdp.client import Transmit as ClientTransmit
from compysition.mdp.discovery import Announcer, Finder
from compysition.mdp.pool import WorkerPool
from compysition.mdp.reactor import Channel, Reactor, bind
from compysition.mdp.registry import Notice
from compysition.mdp.worker import Close, Job, Open, Session


class BrokerDriver:
    """A broker on one ROUTER, for clients and workers alike.

    Args:
        clock: Where time comes from.
        broker: The machine.
        on_letter: Called with each request that was refused.
        on_notice: Called with what should be logged about a peer.
        on_turn: Called at the end of each turn.
    """

    def __init__(
        self,
        clock: Clock,
        broker: Broker,
        *,
        on_letter: Callable[[Letter], None],
        on_notice: Callable[[Notice], None],
        on_turn: Callable[[], None],
    ) -> None:
        self.broker = broker
        self.reactor = Reactor(clock, self)
        #: Who tells registrars of it; set by whoever wants that.
        self.announcer: Announcer | None = None
        self.endpoint = ""
        self._on_letter = on_letter
        self._on_notice = on_notice
        self._on_turn = on_turn
        self._router: Channel | None = None

    def listen(self, endpoint: str, *, who: str) -> None:
        """Begin to listen.

        Raises:
            ConfigurationError: the endpoint cannot be had.
        """
        router = self._router = self.reactor.channel(zmq.ROUTER, partial(self.broker.receive, ""))
        # Else sends to a peer that is gone or full vanish in silence, and a second connection of an id is never heard.
        router.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        router.socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self.endpoint = bind(router, endpoint, who=who)
        router.watch()

    @property
    def wakes_at(self) -> float:
        """When the machine has something to do."""
        at = self.broker.wakes_at
        return at if self.announcer is None else min(at, self.announcer.wakes_at)

    def tick(self, now: float) -> None:
        """Do what is due."""
        self.broker.tick(now)
        if self.announcer is not None:
            self.announcer.tick(now)

    def flush(self, now: float) -> None:
        """Send what is to be sent."""
        broker, router = self.broker, self._router
        if router is None:
            return
        while broker.out:
            sends, broker.out = broker.out, []
            for send in sends:
                if router.send(send.frames):
                    broker.undelivered(send, now)
        if broker.letters:
            letters, broker.letters = broker.letters, []
            for letter in letters:
                self._on_letter(letter)
        if broker.notices:
            notices, broker.notices = broker.notices, []
            for notice in notices:
                self._on_notice(notice)
        self._on_turn()


class _Dealers:
    """DEALERs by whom they belong to: a session or a wire."""

    def __init__(self, reactor: Reactor) -> None:
        self.reactor = reactor
        self.channels: dict[Any, Channel] = {}

    def open(
        self,
        peer: Any,
        endpoint: str,
        on_message: Callable[[Sequence[bytes], float], None],
        on_connected: Callable[[float], None],
        on_lost: Callable[[str, float], None],
    ) -> None:
        self.close(peer)
        channel = self.reactor.channel(zmq.DEALER, on_message, on_connected=on_connected, on_lost=on_lost)
        # Else frames queue for a broker that is dead, and reach the one after it as stale ones.
        channel.socket.setsockopt(zmq.IMMEDIATE, 1)
        channel.socket.setsockopt(zmq.RECONNECT_IVL, 100)
        channel.socket.setsockopt(zmq.RECONNECT_IVL_MAX, 2_000)
        self.channels[peer] = channel
        channel.socket.connect(endpoint)
        channel.watch()

    def close(self, peer: Any, linger_s: float = 0.0) -> None:
        channel = self.channels.pop(peer, None)
        if channel is not None:
            channel.close(linger_s)


class WorkerDriver:
    """A worker's pool on its DEALERs.

    Args:
        clock: Where time comes from.
        pool: The machine.
        on_job: Called with each job that begins. Must not wait.
        on_answers: Called at the beginning of each flush, to finish jobs.
        on_turn: Called at the end of each turn.
    """

    def __init__(
        self,
        clock: Clock,
        pool: WorkerPool,
        *,
        on_job: Callable[[Job], None],
        on_answers: Callable[[float], None],
        on_turn: Callable[[], None],
    ) -> None:
        self.pool = pool
        self.reactor = Reactor(clock, self)
        #: Who finds brokers; set by whoever has no list of them.
        self.finder: Finder | None = None
        self._on_job = on_job
        self._on_answers = on_answers
        self._on_turn = on_turn
        self._dealers = _Dealers(self.reactor)

    @property
    def wakes_at(self) -> float:
        """When the machine has something to do."""
        at = self.pool.wakes_at
        return at if self.finder is None else min(at, self.finder.wakes_at)

    def tick(self, now: float) -> None:
        """Do what is due."""
        self.pool.tick(now)
        if self.finder is not None:
            self.finder.tick(now)

    def flush(self, now: float) -> None:
        """Send and open what is to be sent and opened; begin jobs."""
        self._on_answers(now)
        if self.finder is not None:
            self.finder.flush(now)
        pool, dealers = self.pool, self._dealers
        while pool.out:
            actions, pool.out = pool.out, []
            for session, action in actions:
                if isinstance(action, Open):
                    self._open(session)
                elif isinstance(action, Close):
                    dealers.close(session, action.linger_s)
                else:
                    channel = dealers.channels.get(session)
                    if channel is not None and channel.send(action.frames):
                        pool.lost(session, now)
        if pool.starts:
            starts, pool.starts = pool.starts, []
            for job in starts:
                self._on_job(job)
        self._on_turn()

    def _open(self, session: Session) -> None:
        pool = self.pool
        if session not in pool.sessions():
            return
        self._dealers.open(
            session,
            pool.endpoint_of(session),
            partial(pool.receive, session),
            partial(pool.connected, session),
            lambda _, now: pool.lost(session, now),
        )


class ClientDriver:
    """A client on its DEALERs.

    Args:
        clock: Where time comes from.
        client: The machine.
        on_news: Called with whatever has come for a request. Must not wait.
        on_turn: Called at the end of each turn.
    """

    def __init__(
        self, clock: Clock, client: Client, *, on_news: Callable[[News], None], on_turn: Callable[[], None]
    ) -> None:
        self.client = client
        self.reactor = Reactor(clock, self)
        #: Who finds brokers; set by whoever has no list of them.
        self.finder: Finder | None = None
        self._on_news = on_news
        self._on_turn = on_turn
        self._dealers = _Dealers(self.reactor)

    @property
    def wakes_at(self) -> float:
        """When the machine has something to do."""
        at = self.client.wakes_at
        return at if self.finder is None else min(at, self.finder.wakes_at)

    def tick(self, now: float) -> None:
        """Do what is due."""
        self.client.tick(now)
        if self.finder is not None:
            self.finder.tick(now)

    def flush(self, now: float) -> None:
        """Send and open what is to be sent and opened; hand out what has come."""
        client, dealers = self.client, self._dealers
        if self.finder is not None:
            self.finder.flush(now)
        while client.out:
            actions, client.out = client.out, []
            for action in actions:
                if isinstance(action, Connect):
                    self._open(action.wire)
                elif isinstance(action, ClientTransmit):
                    channel = dealers.channels.get(action.wire)
                    if channel is not None and channel.send(action.frames):
                        client.lost(action.wire, now)
                else:
                    dealers.close(action.wire)
        if client.news:
            news, client.news = client.news, []
            for one in news:
                self._on_news(one)
        self._on_turn()

    def _open(self, wire: Wire) -> None:
        client = self.client
        self._dealers.open(
            wire,
            wire.link.endpoint,
            partial(client.receive, wire),
            partial(client.connected, wire),
            lambda _, now: client.lost(wire, now),
        )
