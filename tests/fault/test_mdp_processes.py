# SPDX-License-Identifier: Apache-2.0
"""Workers and brokers of MajorDomo in processes of their own, which are killed, stopped and woken."""

import os
import select
import signal
import textwrap
from collections.abc import Callable, Iterator

import gevent
import pytest
from gevent import socket

from compysition import Director, Event
from compysition.actors import MDPBroker, MDPClient
from compysition.testing import running, wait_until
from tests.fault.test_processes import Process, launch_fixture

pytestmark = pytest.mark.timeout(60)

Launch = Callable[[str], Process]
launch = launch_fixture

#: Nothing here takes longer, unless it hangs.
LIMIT_S = 20.0
HEARTBEAT_S = 0.2

WORKER = """
    from compysition.actors import MDPWorker

    class Work(Actor):
        def pre_hook(self):
            say("started")

        def consume(self, event):
            # A machine so busy that the worker hears nothing in time makes it a plain one, which is given bytes.
            text = event.data if isinstance(event.data, str) else event.data.decode()
            say(f"begin {{text}}")
            gevent.sleep({sleep_s})
            event.data = f"{{text}} {{os.getpid()}}"
            self.send_event(event)

    director = Director()
    director.register_actor(MDPWorker, "worker", "echo", brokers=["{broker}"])
    director.register_actor(Work, "work")
    director.connect_queue("worker", "work")
    director.connect_queue("work", "worker")
    director.start()
    check(director)
"""
BROKER = """
    from compysition.actors import MDPBroker

    director = Director()
    director.register_actor(MDPBroker, "broker", port={port}, heartbeat_s=0.2)
    director.start(block=False)
    say("started")
    director.block()
"""


class Here:
    """Client and broker of this process."""

    def __init__(self) -> None:
        self.director = Director()
        self.broker = self.director.register_actor(MDPBroker, "broker", port=free_port(), heartbeat_s=HEARTBEAT_S)
        self.client = self.director.register_actor(MDPClient, "client", brokers=[self.broker.endpoint])

    def ask(self, text: str) -> tuple[str, int]:
        return ask(self.director, text)

    def workers(self) -> int:
        driver = self.broker._driver
        return 0 if driver is None else len(driver.broker.workers)


def ask(director: Director, text: str) -> tuple[str, int]:
    """What was asked, and the process that has answered."""
    data = director.ask("client", Event(text, "echo"), timeout_s=LIMIT_S).data
    said, pid = (data if isinstance(data, str) else data.decode()).split(" ")
    return said, int(pid)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.fixture(name="here")
def here_fixture() -> Iterator[Here]:
    here = Here()
    with running(here.director):
        yield here


def hear(process: Process, text: str) -> None:
    """Wait until `process` has said `text`. Unlike `Process.wait_for` it lets everybody here go on meanwhile."""
    stdout = process.popen.stdout
    assert stdout is not None

    def has_said() -> bool:
        while select.select([stdout], [], [], 0)[0] and (block := os.read(stdout.fileno(), 65536)):
            process.output += block
        return text.encode() in process.output

    wait_until(has_said, LIMIT_S)


def start_worker(launch: Launch, broker: str, *, sleep_s: float = 0.0) -> Process:
    process = launch(textwrap.dedent(WORKER).format(broker=broker, sleep_s=sleep_s))
    hear(process, "started")
    return process


def test_request_of_a_worker_that_is_killed_is_answered_by_another(here: Here, launch: Launch) -> None:
    doomed = start_worker(launch, here.broker.endpoint, sleep_s=60)
    asked = gevent.spawn(here.ask, "x")
    wait_until(lambda: here.workers() == 1, LIMIT_S)
    hear(doomed, "begin x")
    doomed.signal(signal.SIGKILL)
    other = start_worker(launch, here.broker.endpoint)
    assert asked.get(timeout=LIMIT_S) == ("x", other.popen.pid)


def test_answer_of_a_worker_that_was_stopped_past_its_liveness_comes_too_late(here: Here, launch: Launch) -> None:
    zombie = start_worker(launch, here.broker.endpoint, sleep_s=1.0)
    asked = gevent.spawn(here.ask, "x")
    wait_until(lambda: here.workers() == 1, LIMIT_S)
    hear(zombie, "begin x")
    zombie.signal(signal.SIGSTOP)
    other = start_worker(launch, here.broker.endpoint)
    assert asked.get(timeout=LIMIT_S) == ("x", other.popen.pid)
    zombie.signal(signal.SIGCONT)
    # It is told to go, comes back as a new worker, and works again.
    wait_until(lambda: here.workers() == 2, LIMIT_S)
    assert len({here.ask(f"{number}")[1] for number in range(4)}) == 2


def test_worker_that_is_told_to_stop_finishes_what_it_holds(here: Here, launch: Launch) -> None:
    worker = start_worker(launch, here.broker.endpoint, sleep_s=0.5)
    asked = gevent.spawn(here.ask, "x")
    hear(worker, "begin x")
    worker.signal(signal.SIGTERM)
    assert asked.get(timeout=LIMIT_S) == ("x", worker.popen.pid)
    wait_until(lambda: here.workers() == 0, LIMIT_S)
    _, out, err = worker.finish()
    assert "conserved True held 0" in out, err


def test_broker_that_is_killed_and_started_again_on_its_port_is_found_by_all(launch: Launch) -> None:
    port = free_port()
    endpoint = f"tcp://127.0.0.1:{port}"
    broker = launch(textwrap.dedent(BROKER).format(port=port))
    hear(broker, "started")
    worker = start_worker(launch, endpoint)
    director = Director()
    director.register_actor(MDPClient, "client", brokers=[endpoint])
    with running(director):
        assert ask(director, "before") == ("before", worker.popen.pid)
        broker.signal(signal.SIGKILL)
        asked = gevent.spawn(ask, director, "meanwhile")
        broker.finish()
        again = launch(textwrap.dedent(BROKER).format(port=port))
        hear(again, "started")
        assert asked.get(timeout=LIMIT_S) == ("meanwhile", worker.popen.pid)


def test_every_request_is_answered_once_while_workers_are_killed_and_leave(here: Here, launch: Launch) -> None:
    number = 300
    workers = [start_worker(launch, here.broker.endpoint, sleep_s=0.01) for _ in range(3)]
    asked = [gevent.spawn(here.ask, f"{one}") for one in range(number)]
    wait_until(lambda: sum(greenlet.ready() for greenlet in asked) > number // 10, LIMIT_S)
    workers[0].signal(signal.SIGKILL)
    wait_until(lambda: sum(greenlet.ready() for greenlet in asked) > number // 4, LIMIT_S)
    workers[1].signal(signal.SIGTERM)
    gevent.joinall(asked, timeout=LIMIT_S)
    assert [greenlet.get(block=False)[0] for greenlet in asked] == [f"{one}" for one in range(number)]
    driver = here.broker._driver
    assert driver is not None
    broker = driver.broker
    assert broker.accepted == sum(broker.ended.values()) + len(broker.requests)
