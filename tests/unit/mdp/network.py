# SPDX-License-Identifier: Apache-2.0
"""Brokers, workers and clients as machines on one network that delivers, loses connections and keeps time, all by hand.

As ZeroMQ does it: messages of one connection come in order, each whole or not at all; a new connection has a new
address; who is not connected cannot be sent to.
"""

import random
from collections import deque
from itertools import count
from typing import Any

from compysition.mdp.broker import Broker, BrokerSettings
from compysition.mdp.client import Call, Client, ClientSettings, Connect, News, NewsKind, Wire
from compysition.mdp.client import Transmit as ClientTransmit
from compysition.mdp.hello import WorkerHello
from compysition.mdp.pool import WorkerPool
from compysition.mdp.registry import Send
from compysition.mdp.window import Answer
from compysition.mdp.worker import Job, Open, Session, Transmit, WorkerSettings

Peer = Session | Wire


class Connection:
    """One connection of a DEALER with a broker's ROUTER."""

    def __init__(self, owner: "Worker | Client", peer: Peer, endpoint: str, address: bytes) -> None:
        self.owner = owner
        self.peer = peer
        self.endpoint = endpoint
        self.address = address
        self.is_connected = False
        self.to_broker: deque[list[bytes]] = deque()
        self.to_peer: deque[list[bytes]] = deque()


class Worker:
    """A worker process: its pool, and the jobs in its handlers."""

    def __init__(self, name: str, service: bytes, concurrency: int, now: float, endpoints: list[str]) -> None:
        hello = WorkerHello(concurrency, name)
        self.pool = WorkerPool(
            service, WorkerSettings(hello=hello), concurrency=concurrency, delay_s=lambda n: min(5.0, 0.05 * 2**n)
        )
        self.jobs: list[Job] = []
        self.pool.set_brokers(endpoints, now)


class Network:
    """All of them, and what is on its way between them."""

    def __init__(self, *, is_plain: bool = False, seed: int = 0, settings: ClientSettings | None = None) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self.is_plain = is_plain
        self.brokers: dict[str, Broker] = {}
        self.workers: list[Worker] = []
        self.connections: dict[Peer, Connection] = {}
        self.news: list[News] = []
        #: Data of jobs that handlers have begun with, and of those that they have finished.
        self.begun: list[bytes] = []
        self.executed: list[bytes] = []
        self.client = Client(settings or ClientSettings(), lambda n: min(5.0, 0.05 * 2**n))
        self._numbers = count(1)

    # ---- who is there -------------------------------------------------------------------------------------------

    def start_broker(self, endpoint: str, settings: BrokerSettings | None = None) -> Broker:
        number = next(self._numbers)
        broker = Broker(settings or BrokerSettings(), broker_id=number.to_bytes(16), now=self.now)
        self.brokers[endpoint] = broker
        return broker

    def kill_broker(self, endpoint: str) -> None:
        """It is gone with all it held; its peers see their connections close."""
        self.brokers.pop(endpoint, None)
        for connection in [c for c in self.connections.values() if c.endpoint == endpoint and c.is_connected]:
            if self.connections.get(connection.peer) is connection:
                del self.connections[connection.peer]
                self.lose(connection)
        self.apply()

    def start_worker(self, service: bytes = b"echo", concurrency: int = 2) -> Worker:
        worker = Worker(f"worker-{len(self.workers)}", service, concurrency, self.now, sorted(self.known))
        self.workers.append(worker)
        self.apply()
        return worker

    def kill_worker(self, worker: Worker) -> None:
        """It is gone with all it held; brokers notice when they send."""
        self.workers.remove(worker)
        for peer in [peer for peer, c in self.connections.items() if c.owner is worker]:
            del self.connections[peer]

    @property
    def known(self) -> list[str]:
        return ["tcp://a", "tcp://b"] if self.client.links() == [] else [link.endpoint for link in self.client.links()]

    def ask(self, number: int, *, service: bytes = b"echo", left_s: float | None = 30.0, flags: int = 0) -> Call:
        deadline = None if left_s is None else self.now + left_s
        call = Call(number.to_bytes(16), service, b"data-%d" % number, deadline=deadline, flags=flags)
        self.client.ask(call, self.now)
        self.apply()
        return call

    def finish(self, worker: Worker, job: Job) -> None:
        worker.jobs.remove(job)
        self.executed.append(bytes(job.body[0]))
        worker.pool.finish(job, Answer([b"did " + job.body[0]]), self.now)
        self.apply()

    # ---- what happens -------------------------------------------------------------------------------------------

    def apply(self) -> None:
        """Do what the machines want done."""
        while True:
            steps = [*self._steps_of_workers(), *self._steps_of_client()]
            sends = [(endpoint, send) for endpoint, broker in self.brokers.items() for send in broker.out]
            if not steps and not sends:
                return
            for owner, peer, action in steps:
                if isinstance(action, Transmit | ClientTransmit):
                    self.transmit(peer, action.frames)
                elif isinstance(action, Open | Connect):
                    is_worker = isinstance(owner, Worker) and isinstance(peer, Session)
                    at = owner.pool.endpoint_of(peer) if is_worker else peer.link.endpoint
                    self.connect(owner, peer, at)
                else:
                    self.hang_up(peer)
            for broker in self.brokers.values():
                broker.out.clear()
                broker.letters.clear()
                broker.notices.clear()
            for endpoint, send in sends:
                self.deliver(endpoint, send)

    def _steps_of_workers(self) -> list[tuple[Any, Any, Any]]:
        steps: list[tuple[Any, Any, Any]] = []
        for worker in self.workers:
            pool = worker.pool
            steps += [(worker, session, action) for session, action in pool.out]
            pool.out.clear()
            worker.jobs += pool.starts
            self.begun += [bytes(job.body[0]) for job in pool.starts]
            pool.starts.clear()
        return steps

    def _steps_of_client(self) -> list[tuple[Any, Any, Any]]:
        steps: list[tuple[Any, Any, Any]] = [(self.client, action.wire, action) for action in self.client.out]
        self.client.out.clear()
        self.news += self.client.news
        self.client.news.clear()
        return steps

    def deliver(self, endpoint: str, send: Send) -> None:
        for connection in self.connections.values():
            if connection.endpoint == endpoint and connection.address == send.frames[0]:
                connection.to_peer.append(send.frames[1:])
                return
        broker = self.brokers.get(endpoint)
        if broker is not None:
            broker.undelivered(send, self.now)

    def connect(self, owner: "Worker | Client", peer: Peer, endpoint: str) -> None:
        self.hang_up(peer)
        self.connections[peer] = Connection(owner, peer, endpoint, b"\x00" + next(self._numbers).to_bytes(4))

    def hang_up(self, peer: Peer) -> None:
        # What was sent before still arrives, as with a little linger.
        connection = self.connections.pop(peer, None)
        if connection is not None:
            while connection.to_broker:
                self.to_broker(connection)

    def transmit(self, peer: Peer, frames: list[bytes]) -> None:
        connection = self.connections.get(peer)
        if connection is not None and connection.is_connected:
            connection.to_broker.append(frames)
        elif connection is not None:
            raise AssertionError(f"sent before it was connected: {frames}")

    def lose(self, connection: Connection) -> None:
        if isinstance(connection.owner, Worker):
            assert isinstance(connection.peer, Session)
            connection.owner.pool.lost(connection.peer, self.now)
        else:
            assert isinstance(connection.peer, Wire)
            connection.owner.lost(connection.peer, self.now)

    def to_broker(self, connection: Connection) -> None:
        frames = connection.to_broker.popleft()
        broker = self.brokers.get(connection.endpoint)
        if broker is None:
            return
        if self.is_plain and b"mmi.capabilities" in frames:
            return  # a foreign broker that knows no MMI
        broker.receive("router", [connection.address, *frames], self.now)

    def to_peer(self, connection: Connection) -> None:
        frames = connection.to_peer.popleft()
        if isinstance(connection.owner, Worker):
            assert isinstance(connection.peer, Session)
            connection.owner.pool.receive(connection.peer, frames, self.now)
        else:
            assert isinstance(connection.peer, Wire)
            connection.owner.receive(connection.peer, frames, self.now)

    def step(self) -> bool:
        """Let one thing happen, any of those that could. Returns False if there was none."""
        could: list[tuple[str, Connection]] = []
        for connection in self.connections.values():
            if not connection.is_connected:
                if connection.endpoint in self.brokers:
                    could.append(("connect", connection))
                continue
            if connection.to_broker:
                could.append(("to_broker", connection))
            if connection.to_peer:
                could.append(("to_peer", connection))
        if not could:
            return False
        what, connection = self.random.choice(could)
        if what == "connect":
            connection.is_connected = True
            if isinstance(connection.owner, Worker):
                assert isinstance(connection.peer, Session)
                connection.owner.pool.connected(connection.peer, self.now)
            else:
                assert isinstance(connection.peer, Wire)
                connection.owner.connected(connection.peer, self.now)
        elif what == "to_broker":
            self.to_broker(connection)
        else:
            self.to_peer(connection)
        self.apply()
        return True

    def settle(self) -> None:
        """Let everything happen that is on its way."""
        for _ in range(20_000):
            if not self.step():
                return
        raise AssertionError("it does not come to rest")

    def wait(self, seconds: float) -> None:
        """Let time pass, and everything arrive."""
        until = self.now + seconds
        self.settle()
        turns_at_once = 0
        while True:
            pools = [worker.pool for worker in self.workers]
            machines: list[Broker | WorkerPool | Client] = [*self.brokers.values(), *pools, self.client]
            at = min(machine.wakes_at for machine in machines)
            if at > until:
                break
            turns_at_once = 0 if at > self.now else turns_at_once + 1
            assert turns_at_once < 100, [machine for machine in machines if machine.wakes_at <= self.now]
            self.now = max(self.now, at)
            for machine in machines:
                if machine.wakes_at <= self.now:
                    machine.tick(self.now)
            self.apply()
            self.settle()
        self.now = until

    def ends_of(self, call: Call) -> list[News]:
        return [news for news in self.news if news.call is call and news.kind is not NewsKind.PARTIAL]
