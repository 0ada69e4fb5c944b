# SPDX-License-Identifier: Apache-2.0
"""All three machines together, under deaths and any order of arrival: every request ends exactly once, and in time.

The profile of the suite keeps this quick; ``scripts/fuzz`` runs the same for as long as wanted, with other seeds.
"""

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compysition.mdp.client import Call, NewsKind
from compysition.mdp.envelope import NO_REDISPATCH
from tests.unit.mdp.network import Network

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "0"))
QUICK = settings(max_examples=EXAMPLES or 100, derandomize=not EXAMPLES)
ENDPOINTS = ("tcp://a", "tcp://b")

OPERATIONS = st.lists(
    st.sampled_from(
        [
            *("ask", "ask", "ask", "ask_once", "step", "step", "finish", "finish", "settle", "wait", "wait_long"),
            *("kill_worker", "start_worker", "drain_worker", "kill_broker", "start_broker", "cancel"),
        ]
    ),
    max_size=60,
)


def operate(  # noqa: C901 - one branch per operation
    network: Network, operation: str, calls: list[Call], cancelled: set[Call]
) -> None:
    pick = network.random.choice
    down = [endpoint for endpoint in ENDPOINTS if endpoint not in network.brokers]
    busy = [worker for worker in network.workers if worker.jobs]
    if operation in ("ask", "ask_once"):
        flags = NO_REDISPATCH if operation == "ask_once" else 0
        left_s = pick([0.5, 20.0, 60.0])
        calls.append(network.ask(len(calls) + 1, left_s=left_s, flags=flags))
    elif operation == "step":
        network.step()
    elif operation == "settle":
        network.settle()
    elif operation == "finish" and busy:
        worker = pick(busy)
        network.finish(worker, pick(worker.jobs))
    elif operation == "kill_worker" and network.workers:
        network.kill_worker(pick(network.workers))
    elif operation == "drain_worker" and network.workers:
        pick(network.workers).pool.drain(network.now)
        network.apply()
    elif operation == "start_worker" and len(network.workers) < 4:
        network.start_worker(concurrency=pick([1, 3]))
    elif operation == "kill_broker" and network.brokers:
        network.kill_broker(pick(sorted(network.brokers)))
    elif operation == "start_broker" and down:
        network.start_broker(pick(down))
    elif operation == "cancel" and calls:
        call = pick(calls)
        if not network.ends_of(call):
            network.client.cancel(call, network.now)
            cancelled.add(call)
            network.apply()
    elif operation in ("wait", "wait_long"):
        network.wait(0.3 if operation == "wait" else 9.0)


@pytest.mark.parametrize("is_plain", [False, True], ids=["ours", "foreign broker"])
@QUICK
@given(operations=OPERATIONS, seed=st.integers(0, 1000))
def test_every_request_ends_exactly_once(is_plain: bool, operations: list[str], seed: int) -> None:
    network = Network(is_plain=is_plain, seed=seed)
    for endpoint in ENDPOINTS:
        network.start_broker(endpoint)
    network.client.set_brokers(ENDPOINTS, 0.0)
    network.apply()
    network.start_worker()
    calls: list[Call] = []
    cancelled: set[Call] = set()
    for operation in operations:
        operate(network, operation, calls, cancelled)
    for _ in range(14):
        network.wait(5.0)
        for worker in network.workers:
            for job in list(worker.jobs):
                network.finish(worker, job)
    for call in calls:
        ends = network.ends_of(call)
        assert len(ends) == (0 if call in cancelled else 1)
        for end in ends:
            if end.kind is NewsKind.FINAL and end.body[0].startswith(b"did"):
                assert end.body[0] == b"did " + call.data
                assert call.data in network.executed
        if call.flags & NO_REDISPATCH:
            assert network.begun.count(call.data) <= 1
    assert not network.client.calls
    for broker in network.brokers.values():
        assert not broker.requests or is_plain
        assert broker.accepted == sum(broker.ended.values()) + len(broker.requests)
    for worker in network.workers:
        assert worker.pool.running == 0
        assert worker.pool.waiting == 0
