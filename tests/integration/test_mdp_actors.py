# SPDX-License-Identifier: Apache-2.0
"""Rules of `MDPClient`, `MDPWorker` and `MDPBroker`, over real sockets, in a patched process and in one not."""

import datetime
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event as Gate

from compysition import Actor, Director, Event
from compysition.actors import WSGI, MDPBroker, MDPBrokerRegistrationService, MDPClient, MDPWorker, Null
from compysition.errors import (
    ConfigurationError,
    DeadlineError,
    MalformedError,
    NotFoundError,
    RegistrationError,
    StartError,
    UnavailableError,
    UnprocessableError,
)
from compysition.http.event import HttpEvent
from compysition.testing import running, stop, wait_until
from tests.integration.mdp_peers import broker_running, peers

pytestmark = [pytest.mark.patched, pytest.mark.unpatched]

#: Nothing here takes longer, unless it hangs.
LIMIT_S = 10.0


class Work(Actor):
    """Calls a function on each event and sends it on."""

    def __init__(self, name: str, function: Callable[[Event], object], **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.function = function
        self.seen: list[Event] = []

    def consume(self, event: Event) -> None:
        self.seen.append(event)
        self.function(event)
        self.send_event(event)


class Parts:
    """Client, broker and worker of one Director, and the actor that does the work."""

    def __init__(
        self,
        function: Callable[[Event], object] = lambda event: None,
        *,
        brokers: list[str] | None = None,
        client: dict[str, Any] | None = None,
        worker: dict[str, Any] | None = None,
    ) -> None:
        self.director = Director()
        if brokers is None:
            port = free_port()
            self.broker = self.director.register_actor(MDPBroker, "broker", port=port)
            brokers = [f"tcp://127.0.0.1:{port}"]
        self.client = self.director.register_actor(MDPClient, "client", brokers=brokers, **(client or {}))
        self.worker = self.director.register_actor(MDPWorker, "worker", "echo", brokers=brokers, **(worker or {}))
        self.work = self.director.register_actor(Work, "work", function)
        self.director.connect_queue("worker", "work")
        self.director.connect_queue("work", "worker")

    def ask(self, data: Any, **options: Any) -> Event:
        return self.director.ask("client", Event(data, "echo"), timeout_s=LIMIT_S, **options)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@pytest.fixture(params=["ours", "foreign"])
def brokers(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """A broker of ours, and one that knows nothing of us."""
    with broker_running(is_foreign=request.param == "foreign") as driver:
        yield [driver.endpoint]


# ---- the event that comes back ----------------------------------------------------------------------------------


def test_event_that_comes_back_is_the_one_that_went_in_with_the_workers_data() -> None:
    def work(event: Event) -> None:
        event.data = {"was": event.data, "at": datetime.date(2026, 1, 2), "price": Decimal("1.50")}

    parts = Parts(work)
    with running(parts.director):
        event = Event({"n": 1}, "echo", colour="red")
        answer = parts.director.ask("client", event, timeout_s=LIMIT_S)
        assert answer is event
        assert answer.data == {"was": {"n": 1}, "at": datetime.date(2026, 1, 2), "price": Decimal("1.50")}
        assert answer.get("colour") == "red"
        [worked] = parts.work.seen
        assert (worked.event_id, worked.meta_id, worked.service) == (event.event_id, event.meta_id, "echo")
        assert worked is not event


def test_http_request_travels_and_the_workers_status_and_headers_come_back() -> None:
    def work(event: Event) -> None:
        assert isinstance(event, HttpEvent)
        event.response.status = 201
        event.response.headers["X-Colour"] = event.headers["X-Colour"]
        event.response.set_cookie("a", "b")
        event.data = [event.method, event.path, event.query["q"]]

    parts = Parts(work)
    wsgi = parts.director.register_actor(WSGI, "wsgi", run_server=True, port=0)
    parts.director.connect_queue("wsgi", "client")
    parts.director.connect_queue("client", "wsgi")
    with running(parts.director), socket.create_connection(("127.0.0.1", wsgi.port)) as sock:
        sock.settimeout(LIMIT_S)
        sock.sendall(b"GET /echo/x?q=1 HTTP/1.1\r\nHost: a\r\nX-Colour: red\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 201 ")
    assert b"X-Colour: red" in head
    assert b"Set-Cookie: a=b" in head
    assert json.loads(body) == ["GET", "/echo/x", "1"]


@pytest.mark.parametrize(
    ("error", "status"),
    [(NotFoundError("no such thing"), 404), (MalformedError("what is this"), 400), (UnavailableError("later"), 503)],
)
def test_error_in_a_worker_fails_the_event_with_its_class_status_and_text(error: Exception, status: int) -> None:
    def work(event: Event) -> None:
        raise error

    parts = Parts(work)
    with running(parts.director, allow_left=True), pytest.raises(type(error), match=str(error)) as caught:
        parts.ask(1)
    assert getattr(caught.value, "status", None) == status


def test_error_that_is_not_for_the_caller_tells_him_nothing_but_where_to_look() -> None:
    def work(event: Event) -> None:
        raise ValueError("the password is 1234")

    parts = Parts(work)
    with running(parts.director, allow_left=True), pytest.raises(Exception, match="ValueError in the worker") as caught:
        parts.ask(1)
    assert "1234" not in str(caught.value)
    assert getattr(caught.value, "status", None) == 500


def test_data_that_cannot_be_sent_fails_the_event_at_the_sender() -> None:
    parts = Parts()
    with running(parts.director, allow_left=True):
        with pytest.raises(UnprocessableError, match="cannot be sent to another process"):
            parts.ask({"a": object()})
        assert parts.ask("next").data == "next"


def test_answer_that_cannot_be_sent_is_an_error_at_the_client() -> None:
    def work(event: Event) -> None:
        event.data = {1, 2}

    parts = Parts(work)
    with running(parts.director, allow_left=True), pytest.raises(UnprocessableError, match="builtins"):
        parts.ask(1)


def test_request_whose_events_all_end_without_an_answer_is_answered_with_nothing() -> None:
    port = free_port()
    director = Director()
    director.register_actor(MDPBroker, "broker", port=port)
    director.register_actor(MDPClient, "client", brokers=[f"tcp://127.0.0.1:{port}"])
    director.register_actor(MDPWorker, "worker", "echo", brokers=[f"tcp://127.0.0.1:{port}"])
    director.register_actor(Null, "null")
    director.connect_queue("worker", "null")
    with running(director):
        assert director.ask("client", Event("x", "echo"), timeout_s=LIMIT_S).data is None


def test_deadline_of_the_event_travels_and_ends_the_request() -> None:
    gate = Gate()
    left: list[float] = []

    def work(event: Event) -> None:
        assert event._lineage is not None
        ticket = event._lineage.ticket
        assert ticket.deadline is not None
        left.append(ticket.deadline - ticket._clock.monotonic())
        gate.wait(LIMIT_S)

    parts = Parts(work)
    with running(parts.director, allow_left=True):
        with pytest.raises(DeadlineError):
            parts.director.ask("client", Event(1, "echo"), timeout_s=0.5)
        gate.set()
        wait_until(lambda: parts.client.in_flight == 0)
    assert 0.0 < left[0] <= 0.5


def test_service_that_nobody_serves_is_refused_within_the_time_or_at_once_if_told() -> None:
    parts = Parts(client={"service": "nowhere", "timeout_s": 0.5})
    with running(parts.director, allow_left=True), pytest.raises(UnavailableError, match="nobody serves 'nowhere'"):
        parts.ask(1)
    parts = Parts(client={"service": "nowhere", "wait": False})
    with running(parts.director, allow_left=True), pytest.raises(NotFoundError):
        parts.ask(1)


def test_client_without_a_broker_refuses() -> None:
    director = Director()
    director.register_actor(MDPClient, "client", brokers=[f"tcp://127.0.0.1:{free_port()}"], timeout_s=0.3)
    with running(director, allow_left=True), pytest.raises(DeadlineError):
        director.ask("client", Event(1, "echo"), timeout_s=LIMIT_S)


# ---- concurrency and back pressure ------------------------------------------------------------------------------


def test_worker_works_on_several_requests_at_once_behind_any_broker(brokers: list[str]) -> None:
    inside: list[Event] = []
    gate = Gate()

    def work(event: Event) -> None:
        inside.append(event)
        gate.wait(LIMIT_S)

    parts = Parts(work, brokers=brokers, worker={"concurrency": 4})
    with running(parts.director):
        asked = [gevent.spawn(parts.ask, f"{number}") for number in range(8)]
        wait_until(lambda: len(inside) == 4)
        gate.set()
        answers = [greenlet.get(timeout=LIMIT_S).data for greenlet in asked]
    assert [answer if isinstance(answer, str) else answer.decode() for answer in answers] == list("01234567")


def test_client_takes_no_more_events_than_it_may_have_in_flight() -> None:
    gate = Gate()
    parts = Parts(lambda event: gate.wait(LIMIT_S), client={"max_in_flight": 3})
    with running(parts.director):
        asked = [gevent.spawn(parts.ask, number) for number in range(10)]
        wait_until(lambda: len(parts.work.seen) == 3)
        assert parts.client.in_flight == 3
        assert parts.client.inbox_depth > 0
        gate.set()
        assert [greenlet.get(timeout=LIMIT_S).data for greenlet in asked] == list(range(10))


def test_many_events_come_back_each_with_its_own_answer() -> None:
    def work(event: Event) -> None:
        event.data = event.data * 2

    parts = Parts(work)
    with running(parts.director):
        asked = [gevent.spawn(parts.ask, number) for number in range(500)]
        assert [greenlet.get(timeout=LIMIT_S).data for greenlet in asked] == [2 * number for number in range(500)]


# ---- foreign peers ----------------------------------------------------------------------------------------------


def test_foreign_worker_gets_the_data_alone_and_answers_with_bytes() -> None:
    with broker_running() as driver, peers(driver.endpoint) as make:
        director = Director()
        director.register_actor(MDPClient, "client", brokers=[driver.endpoint])
        worker = make()
        worker.say("'', MDPW01, 0x01, echo")
        with running(director):
            asked = gevent.spawn(director.ask, "client", Event({"a": 1}, "echo"), timeout_s=LIMIT_S)
            work = worker.take()
            assert work[4:] == [b"", b'{"a":1}']
            worker.send(b"", b"MDPW01", b"\x03", work[3], b"", b"plain")
            assert asked.get(timeout=LIMIT_S).data == b"plain"


def test_foreign_client_gets_the_data_alone_and_asks_with_bytes(brokers: list[str]) -> None:
    def work(event: Event) -> None:
        event.data = {"got": event.data.decode()}

    parts = Parts(work, brokers=brokers)
    with running(parts.director), peers(brokers[0]) as make:
        client = make()
        client.say("'', MDPC01, echo, hi")
        assert client.hear() == '\'\', MDPC01, echo, {"got":"hi"}'


def test_partial_replies_of_a_foreign_worker_come_together() -> None:
    with broker_running() as driver, peers(driver.endpoint) as make:
        director = Director()
        director.register_actor(MDPClient, "client", brokers=[driver.endpoint])
        worker = make()
        worker.say("MDPW02, 0x01, echo")
        with running(director):
            asked = gevent.spawn(director.ask, "client", Event("x", "echo"), timeout_s=LIMIT_S)
            work = worker.take()
            worker.send(b"MDPW02", b"\x03", work[2], b"", b"one")
            worker.send(b"MDPW02", b"\x04", work[2], b"", b"two")
            assert asked.get(timeout=LIMIT_S).data == [b"one", b"two"]


# ---- death and stop ---------------------------------------------------------------------------------------------


def test_broker_that_comes_back_on_its_port_is_found_again_by_all() -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    parts = Parts(brokers=[endpoint])
    with running(parts.director, allow_left=True):
        with broker_running(endpoint):
            assert parts.ask("one").data == "one"
        with broker_running(endpoint):
            assert parts.ask("two").data == "two"


def test_request_of_a_broker_that_dies_is_answered_by_another() -> None:
    gate = Gate()
    with broker_running() as staying:
        with broker_running() as dying:
            parts = Parts(lambda event: gate.wait(LIMIT_S), brokers=[staying.endpoint, dying.endpoint])
            parts.director.start(block=False)
            wait_until(lambda: staying.broker.workers and dying.broker.workers)
            asked = [gevent.spawn(parts.ask, number) for number in range(4)]
            wait_until(lambda: staying.broker.accepted and dying.broker.accepted)
            wait_until(lambda: staying.broker.accepted + dying.broker.accepted == 4)
        gate.set()
        assert [greenlet.get(timeout=LIMIT_S).data for greenlet in asked] == [0, 1, 2, 3]
        assert stop(parts.director).ok


@pytest.mark.parametrize("name", ["client", "worker", "broker"])
def test_request_that_is_open_is_answered_although_one_of_the_three_restarts(name: str) -> None:
    gate = Gate()
    deaths = [RuntimeError("on purpose")]

    def die_once() -> None:
        if deaths:
            raise deaths.pop()

    parts = Parts(lambda event: gate.wait(LIMIT_S))
    with running(parts.director, allow_left=True):
        asked = gevent.spawn(parts.ask, "x")
        wait_until(lambda: parts.work.seen)
        parts.director.get_actor(name).background(die_once)
        wait_until(lambda: parts.director.snapshot().actors[name].restarts == 1)
        gate.set()
        assert asked.get(timeout=LIMIT_S).data == "x"


def test_stop_lets_requests_that_are_open_be_answered_in_one_process() -> None:
    gate = Gate()
    parts = Parts(lambda event: gate.wait(LIMIT_S))
    parts.director.start(block=False)
    asked = gevent.spawn(parts.ask, "x")
    wait_until(lambda: parts.work.seen)
    stopping = gevent.spawn(stop, parts.director, LIMIT_S)
    gevent.sleep(0.05)
    gate.set()
    assert asked.get(timeout=LIMIT_S).data == "x"
    report = stopping.get(timeout=LIMIT_S)
    assert report.ok, str(report)


def test_worker_that_stops_finishes_what_it_holds_and_says_goodbye(brokers: list[str]) -> None:
    gate = Gate()
    director = Director()
    director.register_actor(MDPWorker, "worker", "echo", brokers=brokers)
    work = director.register_actor(Work, "work", lambda event: gate.wait(LIMIT_S))
    director.connect_queue("worker", "work")
    director.connect_queue("work", "worker")
    director.start(block=False)
    with peers(brokers[0]) as make:
        client = make()
        client.say("'', MDPC01, echo, hi")
        wait_until(lambda: work.seen)
        stopping = gevent.spawn(stop, director, LIMIT_S)
        gevent.sleep(0.05)
        gate.set()
        assert client.hear() == "'', MDPC01, echo, hi"
        report = stopping.get(timeout=LIMIT_S)
        assert report.ok, str(report)
        client.say("'', MDPC01, echo, nobody is there")
        client.say("'', MDPC01, mmi.service, echo")


def test_everything_starts_and_stops_again_when_nothing_happens() -> None:
    parts = Parts()
    parts.director.start(block=False)
    assert stop(parts.director).ok


# ---- the configuration ------------------------------------------------------------------------------------------


def test_broker_listens_on_other_addresses_only_if_the_script_says_so() -> None:
    with pytest.raises(ConfigurationError, match="insecure=True"):
        MDPBroker("broker", address="0.0.0.0")
    assert MDPBroker("broker", address="0.0.0.0", insecure=True).endpoint == "tcp://0.0.0.0:5555"


def test_port_that_is_taken_ends_the_start_with_one_clear_error() -> None:
    with broker_running() as driver:
        director = Director()
        director.register_actor(MDPBroker, "broker", port=int(driver.endpoint.rpartition(":")[2]))
        with pytest.raises(StartError, match="cannot listen on"):
            director.start(block=False)


@pytest.mark.parametrize("service", ["", "mmi.service", "a\nb", "x" * 256])
def test_name_that_is_none_for_a_service_is_refused(service: str) -> None:
    with pytest.raises((ConfigurationError, RegistrationError), match="service of 'worker'"):
        MDPWorker("worker", service)


# ---- the registrar ----------------------------------------------------------------------------------------------


def found_by_registrar(registrar: tuple[str, str]) -> Parts:
    """Client and worker that know only the registrar, and a broker that tells it where it is."""
    parts = Parts(brokers=[])
    director = parts.director = Director()
    parts.broker = director.register_actor(MDPBroker, "broker", port=0, registrar=registrar)
    parts.client = director.register_actor(MDPClient, "client", registrar=registrar)
    parts.worker = director.register_actor(MDPWorker, "worker", "echo", registrar=registrar)
    parts.work = director.register_actor(Work, "work", lambda event: None)
    director.connect_queue("worker", "work")
    director.connect_queue("work", "worker")
    return parts


@contextmanager
def registrar_running(ports: tuple[int, int]) -> Iterator[tuple[str, str]]:
    director = Director()
    service = director.register_actor(
        MDPBrokerRegistrationService, "registrar", listen_port=ports[0], publish_port=ports[1]
    )
    with running(director):
        yield service.endpoints


def test_broker_is_found_by_the_registrar_which_may_start_last_and_is_not_needed_afterwards() -> None:
    ports = free_port(), free_port()
    endpoints = (f"tcp://127.0.0.1:{ports[0]}", f"tcp://127.0.0.1:{ports[1]}")
    parts = found_by_registrar(endpoints)
    with running(parts.director):
        asked = gevent.spawn(parts.ask, "x")
        with registrar_running(ports) as known:
            assert known == endpoints
            assert asked.get(timeout=LIMIT_S).data == "x"
        assert parts.ask("without").data == "without"


def test_registrar_that_is_back_learns_of_all_brokers_again() -> None:
    ports = free_port(), free_port()
    with registrar_running(ports) as endpoints:
        parts = found_by_registrar(endpoints)
        parts.director.start(block=False)
        assert parts.ask("x").data == "x"
    with registrar_running(ports):
        late = Director()
        late.register_actor(MDPClient, "client", registrar=endpoints)
        with running(late):
            assert late.ask("client", Event("late", "echo"), timeout_s=LIMIT_S).data == "late"
    assert stop(parts.director).ok


@pytest.mark.parametrize(
    "brokers", ["tcp://127.0.0.1:5555", ["127.0.0.1:5555"], ["tcp://127.0.0.1"], ["tcp://*:5555"], [5555], 7]
)
@pytest.mark.parametrize("make", [MDPClient, lambda name, **rest: MDPWorker(name, "echo", **rest)])
def test_brokers_that_are_no_list_of_endpoints_are_refused(make: Callable[..., Actor], brokers: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"brokers of 'one' is .*: wanted is a list of endpoints"):
        make("one", brokers=brokers)


@pytest.mark.parametrize("registrar", ["tcp://127.0.0.1:6000", ("tcp://a:1",), [("a", "b", "c")], 7])
def test_registrar_that_is_no_pair_of_endpoints_is_refused(registrar: Any) -> None:
    with pytest.raises((ConfigurationError, TypeError), match="registrar of 'client'"):
        MDPClient("client", registrar=registrar)
