# SPDX-License-Identifier: Apache-2.0
"""The broker under whatever may come: it never raises, never grows, and every request ends exactly once.

The profile of the suite keeps this quick; ``scripts/fuzz`` runs the same for as long as wanted, with other seeds.
"""

import os
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from compysition.mdp import frames
from compysition.mdp.broker import BrokerSettings, Ending
from compysition.mdp.envelope import NO_REDISPATCH, NO_WAIT, REPLY, REQUEST, Envelope, has_envelope
from compysition.mdp.frames import MDP_1, MDP_2, MDP_2_DELIMITED, Dialect, read_at_client
from compysition.mdp.hello import WorkerHello
from compysition.mdp.registry import Send
from tests.unit.mdp.notation import SpokenTo

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
QUICK = settings(max_examples=EXAMPLES or 60, derandomize=not EXAMPLES)
STEPS = settings(max_examples=EXAMPLES or 25, stateful_step_count=40, derandomize=not EXAMPLES)

DIALECTS = st.sampled_from([MDP_1, MDP_2, MDP_2_DELIMITED])
CLIENTS = st.sampled_from([b"c", b"d", b"\x00k\x8bEg"])
WORKERS = st.sampled_from([b"w", b"v", b"x", b"c"])
SERVICES = st.sampled_from([b"echo", b"slow", b"\xc3\xa9t\xc3\xa9"])
#: Frames that mean something somewhere, and any others.
FRAMES = st.one_of(
    st.sampled_from([b"", b"MDPC01", b"MDPC02", b"MDPW01", b"MDPW02", b"echo", b"mmi.service", b"mmi.status", b"c"]),
    st.sampled_from([bytes([n]) for n in range(8)]),
    st.sampled_from(
        [
            Envelope(REQUEST, bytes(16)).pack(),
            Envelope(REPLY, bytes(16)).pack()[:-2],
            WorkerHello(3).pack(),
            b'{"compysition":1,"envelope":1,"credit":-1}',
            b"[" * 4000,
            b"\x00\x01",
        ]
    ),
    st.binary(max_size=40),
)
LIMITS = BrokerSettings(max_requests=4, max_held_bytes=20_000, max_body_bytes=2_000, max_workers=3)


@QUICK
@given(st.lists(st.tuples(WORKERS, st.lists(FRAMES, max_size=8)), max_size=30))
def test_any_frames_leave_the_broker_alive_and_consistent(messages: list[tuple[bytes, list[bytes]]]) -> None:
    spoken = SpokenTo(LIMITS)
    for address, message in messages:
        spoken.broker.receive("router", [address, *message], spoken.now)
        spoken.check()


@QUICK
@given(st.lists(FRAMES, max_size=8))
def test_reading_never_raises(message: list[bytes]) -> None:
    for read in (frames.read_at_broker, frames.read_at_worker, frames.read_at_client):
        read(message)


class BrokerMachine(RuleBasedStateMachine):
    """Clients and workers that mostly keep to the rules, and time."""

    @initialize()
    def begin(self) -> None:
        self.spoken = SpokenTo(LIMITS)
        self.broker = self.spoken.broker
        self.next_id = 0
        #: FINALs by the id of their request.
        self.finals: Counter[bytes] = Counter()
        self.asked: set[bytes] = set()

    def read(self) -> None:
        """Look at what is to be sent, as its receivers would."""
        for send in self.broker.out:
            if not send.is_to_worker:
                message = read_at_client(send.frames[1:])
                assert not message.fault
                if message.command is frames.Command.FINAL and has_envelope(message.body):
                    identity = message.body[-1][8:24]
                    # The id of an envelope that `anything_comes` sends may come again and again.
                    self.finals[identity] += identity != bytes(16)
        self.broker.out.clear()
        self.broker.letters.clear()
        self.broker.notices.clear()
        del self.finals[bytes(16)]
        assert all(number == 1 for number in self.finals.values())
        assert set(self.finals) <= self.asked

    def hear(self, address: bytes, *message: bytes) -> None:
        self.broker.receive("router", [address, *message], self.spoken.now)
        self.read()

    @rule(
        client=CLIENTS,
        dialect=DIALECTS,
        service=SERVICES,
        body=st.lists(st.binary(max_size=900), min_size=1, max_size=3),
    )
    def plain_client_asks(self, client: bytes, dialect: Dialect, service: bytes, body: list[bytes]) -> None:
        self.hear(client, *dialect.request, service, *body)

    @rule(
        client=CLIENTS,
        service=SERVICES,
        left_ms=st.sampled_from([None, None, 0, 100, 5_000]),
        flags=st.sampled_from([0, 0, 0, NO_REDISPATCH, NO_WAIT]),
    )
    def our_client_asks(self, client: bytes, service: bytes, left_ms: int | None, flags: int) -> None:
        self.next_id += 1
        identity = self.next_id.to_bytes(16)
        self.asked.add(identity)
        envelope = Envelope(REQUEST, identity, flags, left_ms=left_ms).pack()
        self.hear(client, *MDP_2.request, service, b"data", envelope)

    @rule(worker=WORKERS, dialect=DIALECTS, service=SERVICES, credit=st.sampled_from([None, None, 0, 1, 3]))
    def worker_is_ready(self, worker: bytes, dialect: Dialect, service: bytes, credit: int | None) -> None:
        hello = [] if credit is None else [WorkerHello(credit).pack()]
        self.hear(worker, *dialect.ready, service, *hello)

    @precondition(lambda self: any(worker.held for worker in self.broker.workers.values()))
    @rule(data=st.data(), is_final=st.sampled_from([True, True, False]))
    def worker_replies(self, data: st.DataObject, is_final: bool) -> None:
        busy = [worker for worker in self.broker.workers.values() if worker.held]
        worker = data.draw(st.sampled_from(busy))
        request = data.draw(st.sampled_from(list(worker.held.values())))
        dialect = worker.dialect
        head = dialect.work_final if is_final or dialect.work_partial is None else dialect.work_partial
        envelope = [Envelope(REPLY, request.id, attempt=request.attempt, status=200).pack()] if worker.is_ours else []
        self.hear(worker.key[1], *head, request.client[1], b"", b"reply" * 20, *envelope)
        assert worker.key in self.broker.workers
        is_final = is_final or dialect.work_partial is None
        assert not (is_final and request in worker.held.values())
        assert not (is_final and request.is_open)

    @rule(worker=WORKERS, what=st.sampled_from(["heartbeat", "disconnect", "work_final"]), dialect=DIALECTS)
    def worker_says(self, worker: bytes, what: str, dialect: Dialect) -> None:
        self.hear(worker, *getattr(dialect, what))

    @rule(worker=WORKERS, credit=st.integers(0, 3))
    def worker_gives_credit(self, worker: bytes, credit: int) -> None:
        self.hear(worker, *MDP_2.heartbeat, credit.to_bytes(2))

    @precondition(lambda self: self.broker.workers)
    @rule(data=st.data())
    def worker_cannot_be_reached(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(list(self.broker.workers)))
        self.broker.undelivered(Send("router", [key[1]], is_to_worker=True), self.spoken.now)
        assert key not in self.broker.workers
        self.read()

    @rule(address=WORKERS, message=st.lists(FRAMES, max_size=6))
    def anything_comes(self, address: bytes, message: list[bytes]) -> None:
        self.hear(address, *message)

    @rule(seconds=st.sampled_from([0.01, 0.3, 2.5, 8.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        until = self.spoken.now + seconds
        while self.broker.wakes_at <= until:
            self.spoken.now = max(self.spoken.now, self.broker.wakes_at)
            self.broker.tick(self.spoken.now)
            self.read()
        self.spoken.now = until

    @invariant()
    def everything_adds_up(self) -> None:
        self.spoken.check()
        assert self.broker.size <= LIMITS.max_held_bytes + LIMITS.max_body_bytes + 2_000
        assert len(self.broker.workers) <= LIMITS.max_workers

    def teardown(self) -> None:
        broker = self.broker
        broker.begin_stop()
        broker.finish_stop(self.spoken.now)
        self.read()
        self.spoken.check()
        assert (broker.requests, broker.workers, broker.services, broker.size) == ({}, {}, {}, 0)
        assert len(broker.times) == 0
        assert broker.accepted == sum(broker.ended[ending] for ending in Ending)
        # Whoever knows envelopes was told, once, how it ended.
        assert set(self.finals) == self.asked


TestBrokerMachine = BrokerMachine.TestCase
TestBrokerMachine.settings = STEPS
