# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.mdp.reactor` and `driving`, over real ZeroMQ sockets, in a patched process and in one not."""

import random
from pathlib import Path

import gevent
import pytest
from gevent import socket

from compysition.errors import ConfigurationError
from compysition.mdp.driving import BrokerDriver
from compysition.testing import wait_until
from tests.integration.mdp_peers import broker_running, peers

pytestmark = [pytest.mark.patched, pytest.mark.unpatched]

#: More than several turns of a reactor take.
MANY = 600


def port_of(driver: BrokerDriver) -> int:
    return int(driver.endpoint.rpartition(":")[2])


def is_alive(driver: BrokerDriver) -> bool:
    with peers(driver.endpoint) as make:
        client = make()
        client.say("'', MDPC01, mmi.ping, alive")
        return client.hear() == "'', MDPC01, mmi.ping, 200, alive"


def test_foreign_client_and_worker_of_both_versions_are_served_on_one_socket() -> None:
    with broker_running() as driver, peers(driver.endpoint) as make:
        old_worker, new_worker, old_client, new_client = make(), make(), make(), make()
        old_worker.say("'', MDPW01, 0x01, old")
        new_worker.say("MDPW02, 0x01, new")
        wait_until(lambda: len(driver.broker.workers) == 2)
        for client, ask, answer in (
            (old_client, "'', MDPC01, {}, hi", "'', MDPC01, {}, yo"),
            (new_client, "MDPC02, 0x01, {}, hi", "MDPC02, 0x03, {}, yo"),
        ):
            client.say(ask.format("old"))
            work = old_worker.take()
            assert work[:3] == [b"", b"MDPW01", b"\x02"]
            old_worker.send(b"", b"MDPW01", b"\x03", work[3], b"", b"yo")
            assert client.hear() == answer.format("old")
            client.say(ask.format("new"))
            work = new_worker.take()
            assert work[:2] == [b"MDPW02", b"\x02"]
            new_worker.send(b"MDPW02", b"\x04", work[2], b"", b"yo")
            assert client.hear() == answer.format("new")


def test_burst_of_requests_is_answered_to_the_last_although_the_descriptor_is_edge_triggered() -> None:
    with broker_running() as driver, peers(driver.endpoint) as make:
        worker, client = make(), make()
        worker.say("'', MDPW01, 0x01, echo")
        wait_until(lambda: driver.broker.workers)

        def echo() -> None:
            while True:
                message = worker.next()
                if message is None:
                    gevent.sleep(0.001)
                elif len(message) > 3:
                    worker.send(b"", b"MDPW01", b"\x03", message[3], b"", message[5])

        working = gevent.spawn(echo)
        for number in range(MANY):
            client.send(b"", b"MDPC01", b"echo", b"%d" % number)
        answers: list[bytes] = []

        def has_all() -> bool:
            while (message := client.next()) is not None:
                answers.append(message[3])
            return len(answers) == MANY

        wait_until(has_all, 30.0)
        working.kill()
        assert answers == [b"%d" % number for number in range(MANY)]
        assert driver.broker.accepted == MANY


def test_worker_that_closes_its_connection_is_noticed_when_something_is_sent_to_it() -> None:
    with broker_running() as driver, peers(driver.endpoint) as make:
        first, second, client = make(), make(), make()
        first.say("'', MDPW01, 0x01, echo")
        wait_until(lambda: driver.broker.workers)
        first.close()
        second.say("'', MDPW01, 0x01, echo")
        wait_until(lambda: len(driver.broker.workers) == 2)
        client.say("'', MDPC01, echo, hi")
        work = second.take()
        assert work[-1] == b"hi"
        second.send(b"", b"MDPW01", b"\x03", work[3], b"", b"yo")
        assert client.hear() == "'', MDPC01, echo, yo"


RUBBISH = [
    pytest.param(b"\x01\x00\x01\x00", id="a peer of ZMTP 1.0"),
    pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", id="HTTP"),
    pytest.param(bytes(4096), id="zeros"),
    pytest.param(random.Random(7).randbytes(4096), id="random"),
    pytest.param(b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93.", id="a pickle"),
    pytest.param(b"\x01\xff\xff\xff\xff\xff\xff\xff\xff\x00" * 100, id="huge lengths"),
]


@pytest.mark.parametrize("rubbish", RUBBISH)
def test_broker_survives_rubbish_on_its_port(rubbish: bytes) -> None:
    with broker_running() as driver:
        stranger = socket.create_connection(("127.0.0.1", port_of(driver)))
        stranger.sendall(rubbish)
        gevent.sleep(0)
        assert is_alive(driver)
        stranger.close()
        assert is_alive(driver)
        assert not driver.broker.requests


def test_broker_survives_any_frames() -> None:
    draw = random.Random(11)
    words = [b"", b"MDPC01", b"MDPC02", b"MDPW01", b"MDPW02", *(bytes([n]) for n in range(7)), b"echo", b"c"]
    with broker_running() as driver, peers(driver.endpoint) as make:
        strangers = [make() for _ in range(5)]
        for _ in range(2_000):
            message = [draw.choice([*words, draw.randbytes(6)]) for _ in range(draw.randint(1, 7))]
            draw.choice(strangers).send(*message)
        assert is_alive(driver)
        broker = driver.broker
        assert broker.accepted == sum(broker.ended.values()) + len(broker.requests)


def test_frame_beyond_the_limit_closes_the_connection_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compysition.mdp.reactor.MOST_FRAME_BYTES", 10_000)
    with broker_running() as driver, peers(driver.endpoint) as make:
        make().send(b"", b"MDPC01", b"echo", bytes(10_001))
        assert is_alive(driver)
        assert driver.broker.accepted == 0


def test_port_that_is_taken_is_one_clear_error() -> None:
    with broker_running() as driver, pytest.raises(ConfigurationError, match="second cannot listen on tcp://"):
        other = BrokerDriver(
            driver.reactor.clock,
            driver.broker,
            on_letter=lambda letter: None,
            on_notice=lambda notice: None,
            on_turn=lambda: None,
        )
        try:
            other.listen(driver.endpoint, who="second")
        finally:
            other.reactor.close()


def test_closing_leaves_no_descriptor_open() -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with broker_running() as driver:
        assert is_alive(driver)
    before = descriptors()
    for _ in range(3):
        with broker_running() as driver:
            assert is_alive(driver)
    assert descriptors() <= before
