# SPDX-License-Identifier: Apache-2.0
"""The full circle of DESIGN section 2 over real sockets, and everything that can go wrong in it.

After each fault: exactly one final status line was on the wire, no ticket is open, the balance is even, a request that
was in flight meanwhile got its answer, and the next one on a new connection is served.
"""

import base64
import errno
import gc
import io
import json
import logging
import re
import resource
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from wsgiref.util import setup_testing_defaults

import gevent
import pytest
from gevent import socket
from gevent.event import Event as Gate
from gevent.pool import Pool

from compysition import Director, Event
from compysition.actor import Actor, ActorOptions
from compysition.actors import BasicAuth, Transformer, WSGIServer
from compysition.clock import Clock
from compysition.errors import (
    ConflictError,
    Fatal,
    GoneError,
    QueueConnectedError,
    Retry,
    StartError,
    StopFlow,
    TooManyError,
    UnavailableError,
)
from compysition.http.event import HttpEvent
from compysition.http.tickets import HttpTicket
from compysition.ledger import Outcome
from tests.fault.conservation import Observed, assert_conserved, wait_until

pytestmark = [pytest.mark.patched, pytest.mark.unpatched]

#: Nothing here takes longer, unless it hangs.
LIMIT_S = 10.0
#: The door's deadline where a test waits for it.
SHORT_S = 0.3

HEAD = '<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform"><xsl:output indent="no"/>'
SUBMIT = HEAD + '<xsl:template match="/order"><submit id="{@id}"/></xsl:template></xsl:stylesheet>'
ACKNOWLEDGE = HEAD + '<xsl:template match="/result"><ack id="{@id}"/></xsl:template></xsl:stylesheet>'


# ---- the client -------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        assert self.headers["content-type"] == "application/problem+json"
        document: dict[str, Any] = json.loads(self.body)
        assert document["status"] == self.status
        return document


class Client:
    """One connection. Reads exactly one answer at a time; what follows is the next one's."""

    #: All that a test has made.
    made: ClassVar[list["Client"]] = []

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.made.append(self)
        self.socket.settimeout(LIMIT_S)
        self.buffer = b""

    def send(self, *pieces: bytes) -> "Client":
        self.socket.sendall(b"".join(pieces))
        return self

    def _receive(self) -> None:
        piece = self.socket.recv(65536)
        if not piece:
            raise EOFError(f"the server closed the connection after {self.buffer!r}")
        self.buffer += piece

    def answer(self, *, has_body: bool = True) -> Answer:
        while b"\r\n\r\n" not in self.buffer:
            self._receive()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        assert line.startswith("HTTP/1.1 ")
        headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in fields)}
        assert len(headers) == len(fields)
        length = int(headers.get("content-length", 0)) if has_body else 0
        while len(self.buffer) < length:
            self._receive()
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return Answer(int(line.split(" ")[1]), headers, body)

    def is_closed(self) -> bool:
        """Whether nothing but the end comes any more. Waits for it."""
        assert self.buffer == b""
        return self.socket.recv(1) == b""

    def reset(self) -> None:
        """Go away with a reset instead of a FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


def request(
    body: bytes | str = b"",
    *,
    path: str = "/",
    method: str = "POST",
    authorization: str | None = basic("ann:secret"),
    content_type: str | None = "application/xml",
    headers: Iterable[str] = (),
    keeps: bool = False,
) -> bytes:
    """The bytes of a request."""
    content = body.encode() if isinstance(body, str) else body
    lines = [f"{method} {path} HTTP/1.1", "Host: a", *headers]
    if authorization is not None:
        lines.append(f"Authorization: {authorization}")
    if content_type is not None:
        lines.append(f"Content-Type: {content_type}")
    if not keeps:
        lines.append("Connection: close")
    if not any(line.lower().startswith("transfer-encoding") for line in lines):
        lines.append(f"Content-Length: {len(content)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + content


def order(number: str, **options: Any) -> bytes:
    return request(f'<order id="{number}"/>', **options)


def exchange(port: int, sent: bytes) -> Answer:
    """Send a request on a connection of its own, and read until its end: there was exactly one answer."""
    client = Client(port)
    try:
        answer = client.send(sent).answer(has_body=not sent.startswith(b"HEAD"))
        assert client.is_closed()
    finally:
        client.socket.close()
    return answer


# ---- the service ------------------------------------------------------------------------------------------------

Behaviour = Callable[["Executor", Any], None]


class Executor(Actor):
    """The user's own actor: answers orders; the one called "bystander" when its gate opens, "bad" as the test says."""

    def __init__(self, name: str, behave: Behaviour) -> None:
        super().__init__(name)
        self.behave = behave
        self.gate = Gate()
        self.seen: list[str] = []

    def consume(self, event: Event) -> None:
        number = event.data.getroot().get("id")
        self.seen.append(number)
        if number == "bystander":
            self.gate.wait()
        if number == "bad":
            self.behave(self, event)
        else:
            self.answer(event)

    def answer(self, event: Event) -> None:
        event.data = f'<result id="{event.data.getroot().get("id")}"/>'
        self.send_event(event)


class Step(Actor):
    """An actor whose handler is a function."""

    def __init__(self, name: str, behave: Callable[["Step", Any], None]) -> None:
        super().__init__(name)
        self.behave = behave
        self.seen: list[Any] = []

    def consume(self, event: Event) -> None:
        self.seen.append(event.data)
        self.behave(self, event)


class Service:
    """A Director with a door, and who is in flight. `check` says what has to hold after each fault."""

    def __init__(self, **options: Any) -> None:
        self.director = Director(**options)
        self.greenlets = Pool()
        self.bystander: gevent.Greenlet[..., Answer] | None = None
        self._executor: Executor | None = None
        self.good: Callable[[], bytes] = lambda: order("good")

    @property
    def executor(self) -> Executor:
        assert self._executor is not None
        return self._executor

    def door(self, **options: Any) -> WSGIServer:
        self.wsgi = self.director.register_actor(WSGIServer, "wsgi", **({"port": 0} | options))
        return self.wsgi

    def circle(
        self, behave: Behaviour = Executor.answer, *, has_error_wires: bool = True, options: Any = None, **door: Any
    ) -> "Service":
        """DESIGN's second script. The executor has an error wire too if `has_error_wires`."""
        director = self.director
        wsgi = self.door(**door)
        auth = director.register_actor(BasicAuth, "auth", {"ann": "secret", "bob": "a:b"})
        submit = director.register_actor(Transformer, "submit_transform", SUBMIT)
        acknowledge = director.register_actor(Transformer, "acknowledge_transform", ACKNOWLEDGE)
        self._executor = director.register_actor(Executor, "request_executor", behave, options=options)
        director.connect_queue(wsgi, auth)
        director.connect_queue(auth, submit)
        director.connect_queue(submit, self.executor)
        director.connect_queue(self.executor, acknowledge)
        director.connect_queue(acknowledge, wsgi)
        if has_error_wires:
            for actor in (auth, submit, self.executor):
                director.connect_queue_error(actor, wsgi)
        return self.start()

    def start(self) -> "Service":
        self.director.start(block=False)
        return self

    def begin(self, sent: bytes) -> "gevent.Greenlet[..., Answer]":
        return self.greenlets.spawn(exchange, self.wsgi.port, sent)

    def begin_bystander(self) -> None:
        """A request that is in flight while something else goes wrong."""
        self.bystander = self.begin(order("bystander"))
        wait_until(lambda: "bystander" in self.executor.seen)

    def fault(self, sent: bytes) -> Answer:
        """The answer to `sent`, while a bystander is in flight, and another one has come and gone."""
        self.begin_bystander()
        answer = exchange(self.wsgi.port, sent)
        self.check()
        return answer

    def check(self) -> None:
        """What has to hold after each fault."""
        if self._executor is not None:
            self._executor.gate.set()
        if self.bystander is not None:
            answer = self.bystander.get(timeout=LIMIT_S)
            assert (answer.status, answer.body.strip()[-20:]) == (200, b'<ack id="bystander"/>'[-20:])
            self.bystander = None
        if self.wsgi.port and not self.director.is_stopping:
            assert exchange(self.wsgi.port, self.good()).status == 200
        self.check_conserved()

    def check_conserved(self) -> None:
        """No request is open, nothing is held, the balance is even."""
        wait_until(lambda: self.wsgi.pending == 0)
        assert_conserved(self.director)
        wait_until(lambda: self.director.snapshot().balance.held == 0)
        assert_conserved(self.director)

    def ended(self, outcome: Outcome) -> int:
        return self.director.snapshot().balance.ended[outcome]

    def restarts(self, name: str = "request_executor") -> int:
        return self.director.snapshot().actors[name].restarts


@pytest.fixture
def services(observed: Observed) -> Iterator[Callable[..., Service]]:
    """Makes services; afterwards each stops and has lost nothing without a name."""
    made: list[Service] = []

    def make(**options: Any) -> Service:
        made.append(Service(**({"stop_timeout_s": 2.0} | options)))
        return made[-1]

    yield make
    for service in made:
        if service.director.is_running():
            service.director.stop()
        service.greenlets.kill(timeout=LIMIT_S)
        assert_conserved(service.director)
    while Client.made:
        Client.made.pop().socket.close()


@pytest.fixture
def service(services: Callable[..., Service]) -> Service:
    return services()


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG, "compysition")
    return caplog


# ---- what is good -----------------------------------------------------------------------------------------------


def test_a_good_request_goes_through_the_circle_and_back(service: Service) -> None:
    service.circle()

    answer = service.fault(order("7"))

    assert answer.status == 200
    assert answer.headers["content-type"] == "application/xml; charset=utf-8"
    assert answer.body.strip().endswith(b'<ack id="7"/>')
    assert re.fullmatch(r"[\w.-]+", answer.headers["x-request-id"])
    assert service.ended(Outcome.ANSWERED) == 3


def test_a_password_may_hold_a_colon(service: Service) -> None:
    service.circle()
    assert service.fault(order("7", authorization=basic("bob:a:b"))).status == 200


def test_the_request_id_of_the_caller_comes_back(service: Service) -> None:
    service.circle()
    assert service.fault(order("7", headers=["X-Request-ID: abc-1"])).headers["x-request-id"] == "abc-1"


def test_hundred_requests_at_once_get_each_its_own_answer(service: Service) -> None:
    service.circle()
    numbers = [str(number) for number in range(100)]

    answers = Pool(25).map(lambda number: exchange(service.wsgi.port, order(number)), numbers)

    assert [re.findall(rb'<ack id="(\d+)"/>', answer.body) for answer in answers] == [[n.encode()] for n in numbers]
    service.check()


# ---- who asks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_error_wires", [True, False])
@pytest.mark.parametrize(
    "authorization",
    [
        None,
        basic("ann:wrong"),
        basic("eve:secret"),
        basic("ann:"),
        basic("ann"),
        "Basic",
        "Basic ",
        "Basic !!!",
        "Basic YW5uOnNlY3JldA== x",
        "Basic YW5uOnNlY3JldA",
        "Bearer YW5uOnNlY3JldA==",
        "Basic " + base64.b64encode(b"ann:\xff").decode(),
        "Basic " + "A" * 8000,
    ],
)
def test_who_is_not_known_is_answered_401_with_a_challenge(
    service: Service, authorization: str | None, has_error_wires: bool
) -> None:
    service.circle(has_error_wires=has_error_wires)

    answer = service.fault(order("7", authorization=authorization))

    assert answer.status == 401
    assert answer.headers["www-authenticate"] == 'Basic realm="compysition", charset="UTF-8"'
    assert answer.problem["title"] == "Unauthorized"
    assert "7" not in service.executor.seen


# ---- what they send ---------------------------------------------------------------------------------------------

MALFORMED = [
    b"<order",
    b"<order>",
    b"<order></orders>",
    b"hello",
    b"",
    b"<order id='1' id='2'/>",
    b"<order/><order/>",
    b"\xff\xfe\x00",
    b"<order>\xff</order>",
    b"<order>&nbsp;</order>",
    b"<order>\x00</order>",
    b"<?xml version='1.0' encoding='nonsense'?><order/>",
    b"<!DOCTYPE order><order/>",
    b"<" * 5000,
    b"<a>" * 5000,
]
#: What only the parser's own words hold.
INTERNALS = re.compile(
    r"lxml|libxml|XMLSyntax|Traceback|File \"|xmlParse|<string>|\bnull\b|object at 0x", re.IGNORECASE
)


@pytest.mark.parametrize("body", MALFORMED, ids=range(len(MALFORMED)))
@pytest.mark.parametrize("has_error_wires", [True, False])
def test_malformed_xml_is_answered_400_in_one_line_without_the_parsers_internals(
    service: Service, body: bytes, has_error_wires: bool
) -> None:
    service.circle(has_error_wires=has_error_wires)

    answer = service.fault(request(body))

    assert answer.status == 400
    detail = answer.problem["detail"]
    assert detail
    assert "\n" not in detail
    assert len(detail) < 300
    assert not INTERNALS.search(answer.body.decode())
    assert set(service.executor.seen) == {"bystander", "good"}


ENTITIES = {
    "external entity": "<!DOCTYPE order [<!ENTITY x SYSTEM '{target}'>]><order id='7'>&x;</order>",
    "in an attribute": "<!DOCTYPE order [<!ENTITY x SYSTEM '{target}'>]><order id='&x;'/>",
    "external DTD": "<!DOCTYPE order SYSTEM '{target}'><order id='7'/>",
    "public DTD": "<!DOCTYPE order PUBLIC 'x' '{target}'><order id='7'/>",
    "parameter entity": "<!DOCTYPE order [<!ENTITY % x SYSTEM '{target}'> %x;]><order id='7'/>",
    "behind a comment": "<!-- a --><?pi ?>\n<!DOCTYPE order [<!ENTITY x SYSTEM '{target}'>]><order id='7'>&x;</order>",
    "UTF-16": "<!DOCTYPE order [<!ENTITY x SYSTEM '{target}'>]><order id='7'>&x;</order>",
}
SECRET = "the secret of the house"


@pytest.fixture
def trap() -> Iterator[socket.socket]:
    """A local socket that nobody has to contact."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    yield listener
    listener.close()


def is_untouched(trap: socket.socket) -> bool:
    try:
        trap.accept()
    except BlockingIOError:
        return True
    return False


@pytest.mark.parametrize("kind", ENTITIES)
@pytest.mark.parametrize("place", ["file", "path", "http", "ftp"])
def test_an_external_entity_is_refused_and_nothing_is_fetched(
    service: Service, trap: socket.socket, tmp_path: Path, kind: str, place: str
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    file = tmp_path / "secret"
    port = trap.getsockname()[1]
    target = {"file": file.as_uri(), "path": str(file)}.get(place) or f"{place}://127.0.0.1:{port}/x"
    text = ENTITIES[kind].replace("{target}", target)
    service.circle()

    answer = service.fault(request(text.encode("utf-16") if kind == "UTF-16" else text))

    assert answer.status == 400
    assert "\n" not in answer.problem["detail"]
    assert SECRET.encode() not in answer.body
    assert file.name.encode() not in answer.body
    assert is_untouched(trap)


def test_an_xinclude_is_not_followed(service: Service, trap: socket.socket, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(SECRET)
    copying = SUBMIT.replace('<submit id="{@id}"/>', '<xsl:copy-of select="/"/>')
    answering = HEAD + '<xsl:template match="/"><xsl:copy-of select="/"/></xsl:template></xsl:stylesheet>'
    wsgi = service.door()
    transforms = [service.director.register_actor(Transformer, n, s) for n, s in (("a", copying), ("b", answering))]
    service.director.connect_queue(wsgi, transforms[0])
    service.director.connect_queue(transforms[0], transforms[1])
    service.director.connect_queue(transforms[1], wsgi)
    service.start()
    port = trap.getsockname()[1]

    answer = exchange(
        wsgi.port,
        request(
            "<order id='7' xmlns:xi='http://www.w3.org/2001/XInclude'>"
            f"<xi:include href='{(tmp_path / 'secret').as_uri()}' parse='text'/>"
            f"<xi:include href='http://127.0.0.1:{port}/x'/></order>"
        ),
    )

    assert SECRET.encode() not in answer.body
    assert is_untouched(trap)
    service.check()


def nested(levels: int = 9, width: int = 10) -> str:
    entities = "<!ENTITY x0 'lol'>" + "".join(
        f"<!ENTITY x{level} '{f'&x{level - 1};' * width}'>" for level in range(1, levels + 1)
    )
    return f"<!DOCTYPE order [{entities}]><order id='7'>&x{levels};</order>"


QUADRATIC = f"<!DOCTYPE order [<!ENTITY x '{'a' * 100_000}'>]><order id='7'>{'&x;' * 100_000}</order>"


@pytest.mark.parametrize("text", [nested(), QUADRATIC, nested().replace("<order", "<!-- x --><order")])
def test_nested_entities_are_refused_and_memory_stays_flat(service: Service, text: str) -> None:
    service.circle()
    exchange(service.wsgi.port, request(nested(2)))
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    answer = service.fault(request(text))

    assert answer.status == 400
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 32 * 1024


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-www-form-urlencoded", b"<order id='7'/>"),
        ("application/x-www-form-urlencoded", b"a=%zz"),
        ("application/x-www-form-urlencoded", b"a=%ff"),
        ("application/x-www-form-urlencoded", b"a=\xff"),
        ("application/x-www-form-urlencoded", b"a=1"),
        ("application/json", b""),
        ("application/json", b"{"),
        ("application/json", b"NaN"),
        ("application/json", b'"\\ud800"'),
        ("application/json", b"\xff"),
        ("application/json", b"[" * 100_000),
        ("application/json", b"9" * 5_000),
        ("application/json", b'{"order": 7}'),
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n"),
    ],
)
def test_a_body_that_is_not_what_it_says_or_no_xml_is_answered_400(
    service: Service, content_type: str, body: bytes
) -> None:
    service.circle()

    answer = service.fault(request(body, content_type=content_type))

    assert answer.status == 400
    assert "\n" not in answer.problem["detail"]
    assert not INTERNALS.search(answer.body.decode())


@pytest.mark.parametrize("kind", ["announced", "chunked", "form"])
def test_a_body_that_is_too_large_is_answered_413(service: Service, kind: str) -> None:
    service.circle(max_body_bytes=1000)
    big = b"<order>" + b"x" * 5000
    sent = {
        "announced": request(big),
        "chunked": request(
            b"1000\r\n" + b"x" * 0x1000 + b"\r\n0\r\n\r\n", headers=["Transfer-Encoding: chunked"], keeps=True
        ),
        "form": request(b"&".join([b"a=1"] * 1200), content_type="application/x-www-form-urlencoded"),
    }[kind]

    answer = service.fault(sent)

    assert answer.status == 413
    assert answer.problem["title"] == "Content Too Large" or "Too Large" in answer.problem["title"]
    assert answer.headers["connection"] == "close"
    assert set(service.executor.seen) == {"bystander", "good"}


def test_a_body_that_is_announced_and_too_large_is_not_waited_for(service: Service) -> None:
    service.circle(max_body_bytes=1000)
    client = Client(service.wsgi.port).send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n\r\n")

    assert client.answer().status == 413

    client.socket.close()
    service.check()


# ---- what the actor does ----------------------------------------------------------------------------------------


def raising(error: BaseException | type[BaseException]) -> Behaviour:
    def behave(actor: Executor, event: Event) -> None:
        raise error

    return behave


@pytest.mark.parametrize("has_error_wires", [True, False])
@pytest.mark.parametrize(
    "error",
    [
        ValueError("hunter2"),
        KeyError("hunter2"),
        MemoryError("hunter2"),
        RecursionError("hunter2"),
        Exception(),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "hunter2"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_the_actor_is_answered_500_with_an_id_and_no_detail(
    service: Service, records: pytest.LogCaptureFixture, error: Exception, has_error_wires: bool
) -> None:
    service.circle(raising(error), has_error_wires=has_error_wires)

    answer = service.fault(order("bad"))

    assert answer.status == 500
    problem = answer.problem
    assert set(problem) == {"type", "title", "status", "instance"}
    meta_id = problem["instance"].removeprefix("urn:compysition:request:")
    assert meta_id == answer.headers["x-request-id"]
    assert b"hunter2" not in answer.body
    # The same id stands in the log, with what happened and where.
    found = [r for r in records.records if meta_id in r.getMessage() and type(error).__name__ in r.getMessage()]
    assert found
    assert any(record.exc_info and record.__dict__.get("actor") == "request_executor" for record in found)
    assert len(service.director.dead_letters) == (0 if has_error_wires else 1)


@pytest.mark.parametrize("has_error_wires", [True, False])
@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (ConflictError("order 7 is there already"), 409, {}),
        (GoneError("sold"), 410, {}),
        (TooManyError("slowly", retry_after_s=2.2), 429, {"retry-after": "3"}),
        (UnavailableError("later", retry_after_s=5), 503, {"retry-after": "5"}),
        (ConflictError("no", headers={"X-Reason": "because"}), 409, {"x-reason": "because"}),
        (gevent.Timeout(1), 504, {}),
    ],
)
def test_an_error_made_for_the_caller_is_answered_with_its_status(
    service: Service, error: BaseException, status: int, headers: dict[str, str], has_error_wires: bool
) -> None:
    service.circle(raising(error), has_error_wires=has_error_wires)

    answer = service.fault(order("bad"))

    assert answer.status == status
    assert headers.items() <= answer.headers.items()
    assert answer.problem.get("detail") == (str(error) if status < 500 else None)


def test_an_exception_whose_text_raises_is_answered_500_all_the_same(service: Service) -> None:
    class UnprintableError(Exception):
        def __str__(self) -> str:
            raise ValueError

    service.circle(raising(UnprintableError()))
    assert service.fault(order("bad")).status == 500


def test_a_handler_that_hangs_is_answered_504_at_the_deadline_and_its_late_event_is_counted(service: Service) -> None:
    gate = Gate()

    def behave(actor: Executor, event: Event) -> None:
        gate.wait()
        actor.answer(event)

    service.circle(behave, timeout_s=SHORT_S)
    started = Clock.monotonic()

    answer = exchange(service.wsgi.port, order("bad"))

    assert SHORT_S <= Clock.monotonic() - started < SHORT_S + 5
    assert answer.status == 504
    assert set(answer.problem) == {"type", "title", "status", "instance"}
    assert service.wsgi.pending == 0
    assert service.director.snapshot().balance.held == 1
    assert exchange(service.wsgi.port, order("good")).status == 200
    gate.set()
    service.check()
    assert service.ended(Outcome.EXPIRED) == 1


def test_a_late_answer_that_reaches_the_door_is_counted_and_logged_with_the_request(
    service: Service, records: pytest.LogCaptureFixture
) -> None:
    gate = Gate()

    def behave(actor: Step, event: Event) -> None:
        if event.data == b"bad":
            gate.wait()
        actor.send_event(event)

    wsgi = service.door(timeout_s=SHORT_S)
    step = service.director.register_actor(Step, "step", behave)
    service.director.connect_queue(wsgi, step)
    service.director.connect_queue(step, wsgi)
    service.start()

    answer = exchange(wsgi.port, request(b"bad"))
    gate.set()
    service.check()

    assert answer.status == 504
    assert service.ended(Outcome.EXPIRED) == 1
    assert list(service.director.dead_letters) == []
    meta_id = answer.headers["x-request-id"]
    assert [r for r in records.records if r.levelno == logging.INFO and f"request {meta_id} " in r.getMessage()]


def test_an_event_that_the_actor_drops_is_answered_204(service: Service) -> None:
    service.circle(lambda actor, event: None)

    answer = service.fault(order("bad"))

    assert (answer.status, answer.body) == (204, b"")
    assert "content-length" not in answer.headers
    assert service.ended(Outcome.DELIVERED) == 1


@pytest.mark.parametrize("status", [202, 404, 500])
def test_an_event_that_the_actor_drops_is_answered_as_the_door_says(service: Service, status: int) -> None:
    service.circle(lambda actor, event: None, no_answer_status=status)
    assert service.fault(order("bad")).status == status


def test_a_flow_that_ends_at_an_actor_without_outbox_is_answered_204(service: Service) -> None:
    wsgi = service.door()
    step = service.director.register_actor(Step, "step", lambda actor, event: actor.send_event(event))
    service.director.connect_queue(wsgi, step)
    service.start()

    assert exchange(wsgi.port, order("7")).status == 204
    assert step.seen
    service.check_conserved()


def test_stop_flow_answers_with_what_the_event_holds(service: Service) -> None:
    def behave(actor: Executor, event: HttpEvent) -> None:
        event.data = {"held": [1, 2]}
        event.response.status = 202
        event.response.headers["X-Held"] = "yes"
        raise StopFlow

    service.circle(behave)

    answer = service.fault(order("bad"))

    assert (answer.status, answer.headers["x-held"], json.loads(answer.body)) == (202, "yes", {"held": [1, 2]})
    assert service.ended(Outcome.ANSWERED) == 3


def test_the_first_of_two_answers_counts_and_the_second_is_dropped_and_logged(
    service: Service, records: pytest.LogCaptureFixture
) -> None:
    def behave(actor: Executor, event: Event) -> None:
        twin = event.copy()
        twin.data = '<result id="first"/>'
        actor.send_event(twin)
        event.data = '<result id="second"/>'
        actor.send_event(event)

    service.circle(behave)

    answer = service.fault(order("bad"))

    assert b'"first"' in answer.body
    assert service.ended(Outcome.DROPPED) == 1
    assert service.ended(Outcome.ANSWERED) == 3
    meta_id = answer.headers["x-request-id"]
    (record,) = [r for r in records.records if f"request {meta_id} " in r.getMessage()]
    assert (record.levelno, record.__dict__["actor"]) == (logging.INFO, "wsgi")


def test_an_actor_that_answers_and_then_raises_has_answered(
    service: Service, records: pytest.LogCaptureFixture
) -> None:
    def behave(actor: Executor, event: Event) -> None:
        actor.answer(event)
        raise ValueError("too late")

    service.circle(behave)

    answer = service.fault(order("bad"))

    assert answer.status == 200
    assert service.director.snapshot().actors["request_executor"].failed_after_send == 1
    assert len(service.director.dead_letters) == 0
    assert [r for r in records.records if r.exc_info and "after it had sent" in r.getMessage()]


def test_an_event_sent_twice_is_an_error_that_is_logged_and_the_first_counts(
    service: Service, records: pytest.LogCaptureFixture
) -> None:
    def behave(actor: Executor, event: Event) -> None:
        actor.answer(event)
        actor.send_event(event)

    service.circle(behave)

    assert service.fault(order("bad")).status == 200
    assert service.ended(Outcome.ANSWERED) == 3
    (record,) = [record for record in records.records if record.exc_info]
    assert isinstance(record.exc_info, tuple)
    assert "already sent to 'acknowledge_transform'" in str(record.exc_info[1])


@pytest.mark.parametrize("value", [None, "text", object(), {"id": 7}, HttpEvent], ids=repr)
def test_a_value_that_is_no_event_is_answered_500(service: Service, value: Any) -> None:
    service.circle(lambda actor, event: actor.send_event(value))
    assert service.fault(order("bad")).status == 500


def test_retry_gives_the_event_back_and_it_is_answered(service: Service) -> None:
    def behave(actor: Executor, event: Event) -> None:
        if event.attempts < 2:
            raise Retry(after_s=0.001)
        actor.answer(event)

    service.circle(behave)

    assert service.fault(order("bad")).status == 200
    assert service.executor.seen.count("bad") == 3


def test_a_request_given_back_too_often_is_answered_503(service: Service) -> None:
    service.circle(raising(Retry(after_s=0.001)))

    assert service.fault(order("bad")).status == 503
    assert [letter.reason for letter in service.director.dead_letters] == ["retries"]


def test_a_retry_that_comes_after_the_deadline_is_answered_504_at_the_deadline(service: Service) -> None:
    service.circle(raising(Retry(after_s=30)), timeout_s=SHORT_S)

    answer = exchange(service.wsgi.port, order("bad"))

    assert answer.status == 504
    assert exchange(service.wsgi.port, order("good")).status == 200
    assert service.wsgi.pending == 0
    # A retry that is due after the stop's deadline is not waited for.
    report = service.director.stop(timeout_s=5.0)
    assert report.took_s < 2.0
    assert report.exit_code == 1
    assert [letter.reason for letter in service.director.dead_letters] == ["stopped"]


def test_an_event_made_by_hand_is_no_answer_and_the_log_names_create_event(
    service: Service, records: pytest.LogCaptureFixture
) -> None:
    def behave(actor: Executor, event: Event) -> None:
        actor.send_event(Event('<result id="7"/>'))

    service.circle(behave)

    answer = service.fault(order("bad"))

    assert answer.status == 204
    assert [(letter.actor, letter.reason) for letter in service.director.dead_letters] == [("wsgi", "failed")]
    assert [r for r in records.records if r.levelno >= logging.WARNING and "create_event" in r.getMessage()]


def test_a_created_event_is_an_answer(service: Service) -> None:
    def behave(actor: Executor, event: Event) -> None:
        actor.send_event(actor.create_event('<result id="made"/>'))

    service.circle(behave)

    answer = service.fault(order("bad"))

    assert (answer.status, b'"made"' in answer.body) == (200, True)


# ---- what the actor answers with --------------------------------------------------------------------------------


@pytest.fixture
def echo(service: Service) -> Callable[..., Service]:
    """Door and one actor; a request whose body is not "bad" is answered with it."""

    def build(behave: Callable[[Step, Any], None], **door: Any) -> Service:
        def decide(actor: Step, event: Event) -> None:
            if event.data == b"bad":
                behave(actor, event)
            else:
                actor.send_event(event)

        wsgi = service.door(**door)
        step = service.director.register_actor(Step, "step", decide)
        service.director.connect_queue(wsgi, step)
        service.director.connect_queue(step, wsgi)
        service.good = lambda: request(b"good")
        return service.start()

    return build


@pytest.mark.parametrize(
    "data",
    [object(), {1, 2}, {"a": object()}, float("nan"), {"a": float("inf")}, "\ud800", [b"x"], iter("ab")],
    ids=repr,
)
def test_data_that_cannot_be_sent_is_answered_500_and_the_log_names_the_class(
    echo: Callable[..., Service], records: pytest.LogCaptureFixture, data: Any
) -> None:
    def behave(actor: Step, event: Event) -> None:
        event.data = data
        actor.send_event(event)

    service = echo(behave)

    answer = exchange(service.wsgi.port, request(b"bad"))

    assert answer.status == 500
    assert set(answer.problem) == {"type", "title", "status", "instance"}
    assert [record for record in records.records if "cannot be sent" in record.getMessage()]
    service.check()


@pytest.mark.parametrize("status", [99, 100, 600, "200", None, 200.5, True])
def test_a_status_that_cannot_be_sent_is_never_sent(echo: Callable[..., Service], status: Any) -> None:
    def behave(actor: Step, event: HttpEvent) -> None:
        event.response.status = status
        actor.send_event(event)

    service = echo(behave)

    assert exchange(service.wsgi.port, request(b"bad")).status == (200 if status is None else 500)
    service.check()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-A", "a\r\nX-B: c"),
        ("X-A", "a\nb"),
        ("X A", "a"),
        ("X-A\r\nX-B", "a"),
        ("Content-Length", "3"),
        ("X-A", "\0"),
    ],
)
def test_a_header_that_cannot_be_sent_is_an_error_in_the_actor(
    echo: Callable[..., Service], name: str, value: str
) -> None:
    def behave(actor: Step, event: HttpEvent) -> None:
        event.response.headers[name] = value
        actor.send_event(event)

    service = echo(behave)

    answer = exchange(service.wsgi.port, request(b"bad"))

    assert answer.status == 500
    assert "x-b" not in answer.headers
    assert service.director.snapshot().actors["step"].failed == 1
    service.check()


# ---- restarts and kills -----------------------------------------------------------------------------------------


def once(first: Callable[[Executor, Event], None]) -> Behaviour:
    """`first` the first time; then the answer."""
    calls: list[int] = []

    def behave(actor: Executor, event: Event) -> None:
        calls.append(1)
        if len(calls) == 1:
            first(actor, event)
        else:
            actor.answer(event)

    return behave


FAST = ActorOptions(grace_s=0.05)


def kill_handlers(director: Director, name: str, *, but: int = 0) -> int:
    """Kill all consumers that are in a handler of the actor, from outside."""
    victims = [
        consumer
        for consumer in director.dispatcher.consumers
        if consumer.hand.sender is not None and consumer.hand.sender.name == name
    ]
    for consumer in victims:
        consumer.kill(block=False)
    return len(victims)


def test_a_request_in_hand_at_a_fatal_is_answered_after_the_restart(service: Service) -> None:
    service.circle(once(raising(Fatal("lost the thread"))), options=FAST)

    assert service.fault(order("bad")).status == 200
    assert service.restarts() == 1
    assert service.executor.seen.count("bad") == 2


def test_requests_that_come_during_a_restart_wait_for_it(service: Service) -> None:
    service.circle(once(raising(Fatal())), options=FAST)
    first = service.begin(order("bad"))
    wait_until(lambda: service.director.snapshot().actors["request_executor"].state == "restarting")

    assert exchange(service.wsgi.port, order("7")).status == 200
    assert first.get(timeout=LIMIT_S).status == 200
    service.check()


def test_a_request_whose_handler_is_killed_from_outside_is_answered_after_the_restart(service: Service) -> None:
    gate = Gate()
    service.circle(once(lambda actor, event: gate.wait() and None), options=FAST)
    service.begin_bystander()
    answer = service.begin(order("bad"))
    wait_until(lambda: "bad" in service.executor.seen)

    assert kill_handlers(service.director, "request_executor") == 2

    assert answer.get(timeout=LIMIT_S).status == 200
    assert service.restarts() == 1
    service.check()


@pytest.mark.parametrize("error", [Fatal("again"), gevent.GreenletExit()], ids=["Fatal", "GreenletExit"])
@pytest.mark.parametrize("has_error_wires", [True, False])
def test_a_request_that_ends_its_handler_three_times_is_poison_and_answered_500(
    service: Service, error: BaseException, has_error_wires: bool
) -> None:
    service.circle(raising(error), options=FAST, has_error_wires=has_error_wires)

    answer = exchange(service.wsgi.port, order("bad"))

    assert answer.status == 500
    assert "detail" not in answer.problem
    assert service.executor.seen == ["bad"] * 3
    assert [letter.reason for letter in service.director.dead_letters] == ["poison"]
    service.check()


def test_a_request_killed_from_outside_three_times_is_poison_and_answered_500(service: Service) -> None:
    gate = Gate()
    service.circle(lambda actor, event: gate.wait() and None, options=FAST)
    answer = service.begin(order("bad"))
    for number in range(1, 4):
        wait_until(lambda number=number: service.executor.seen.count("bad") == number)  # type: ignore[misc]
        assert kill_handlers(service.director, "request_executor") == 1

    assert answer.get(timeout=LIMIT_S).status == 500
    assert [letter.reason for letter in service.director.dead_letters] == ["poison"]
    service.check()


def test_when_the_restart_budget_is_spent_the_request_is_answered_and_the_exit_code_is_3(
    services: Callable[..., Service],
) -> None:
    service = services(max_restarts=0).circle(raising(Fatal()), options=FAST)
    director = service.director

    answer = exchange(service.wsgi.port, order("bad"))
    report = director.block()

    assert answer.status == 503
    assert answer.headers["connection"] == "close"
    assert report.exit_code == 3
    service.check_conserved()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=["SystemExit", "KeyboardInterrupt"])
def test_an_exit_in_a_handler_stops_the_service_in_order_and_every_request_is_answered(
    service: Service, error: BaseException
) -> None:
    service.circle(once(raising(error)))
    service.begin_bystander()

    answer = service.begin(order("bad"))
    wait_until(lambda: service.director.is_stopping)
    service.executor.gate.set()
    report = service.director.block()

    assert answer.get(timeout=LIMIT_S).status == 200
    assert service.bystander is not None
    assert service.bystander.get(timeout=LIMIT_S).status == 200
    assert report.exit_code == 0
    service.check_conserved()


def test_the_door_restarts_and_the_next_request_is_served(service: Service) -> None:
    """A restart of the door ends its server; what is open gets an answer all the same."""
    service.circle()
    service.begin_bystander()
    port = service.wsgi.port

    service.director.crashed(service.wsgi._wired, "for the test")
    wait_until(lambda: service.restarts("wsgi") == 1)
    wait_until(lambda: service.director.snapshot().actors["wsgi"].state == "running")
    service.executor.gate.set()

    assert service.bystander is not None
    assert service.bystander.get(timeout=LIMIT_S).status in (200, 503)
    service.bystander = None
    assert service.wsgi.port == port
    service.check()


# ---- what is full -----------------------------------------------------------------------------------------------


class Gated(Actor):
    """Handles one event at a time, when its gate is open; counts those that have come."""

    options = ActorOptions(concurrency=1)

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.gate = Gate()
        self.begun = 0

    def consume(self, event: Event) -> None:
        self.begun += 1
        self.gate.wait()
        self.send_event(event)


def gated(service: Service, *, is_inner: bool, overflow: str, **door: Any) -> Gated:
    """Door → (pass →) gated → door, where the queue in front of the gated actor holds one event."""
    wsgi = service.door(**door)
    slow = service.director.register_actor(Gated, "slow")
    source: Actor = wsgi
    if is_inner:
        source = service.director.register_actor(Step, "pass", lambda actor, event: actor.send_event(event))
        service.director.connect_queue(wsgi, source)
    service.director.connect_queue(source, slow, capacity=1, overflow=overflow)
    service.director.connect_queue(slow, wsgi)
    service.start()
    return slow


def fill(service: Service, slow: Gated) -> "list[gevent.Greenlet[..., Answer]]":
    """One request in hand and one in the queue."""
    first = service.begin(request(b"first"))
    wait_until(lambda: slow.begun == 1)
    second = service.begin(request(b"second"))
    wait_until(lambda: slow.inbox_depth == 1)
    return [first, second]


@pytest.mark.parametrize(("is_inner", "status"), [(False, 503), (True, 504)], ids=["first outbox", "inner"])
def test_a_queue_that_stays_full_is_answered_at_the_deadline(service: Service, is_inner: bool, status: int) -> None:
    slow = gated(service, is_inner=is_inner, overflow="wait", timeout_s=SHORT_S)
    filled = fill(service, slow)
    started = Clock.monotonic()

    answer = exchange(service.wsgi.port, request(b"third"))

    assert answer.status == status
    assert Clock.monotonic() - started >= SHORT_S
    assert ("retry-after" in answer.headers) == (status == 503)
    assert [one.get(timeout=LIMIT_S).status for one in filled] == [504, 504]
    slow.gate.set()
    service.check()
    assert service.ended(Outcome.EXPIRED) == 3


@pytest.mark.parametrize("is_inner", [False, True], ids=["first outbox", "inner"])
def test_a_queue_that_gets_room_in_time_lets_all_through(service: Service, is_inner: bool) -> None:
    slow = gated(service, is_inner=is_inner, overflow="wait")
    filled = fill(service, slow)
    filled.append(service.begin(request(b"third")))
    wait_until(lambda: slow.inbox_depth == 2)

    slow.gate.set()

    answers = [one.get(timeout=LIMIT_S) for one in filled]
    assert [(answer.status, answer.body) for answer in answers] == [(200, b"first"), (200, b"second"), (200, b"third")]
    service.check()


@pytest.mark.parametrize("is_inner", [False, True], ids=["first outbox", "inner"])
@pytest.mark.parametrize("overflow", ["fail", "drop_newest"])
def test_a_full_queue_that_refuses_is_answered_503_at_once(service: Service, overflow: str, is_inner: bool) -> None:
    slow = gated(service, is_inner=is_inner, overflow=overflow, timeout_s=LIMIT_S)
    filled = fill(service, slow)

    answer = exchange(service.wsgi.port, request(b"third"))

    assert answer.status == 503
    assert "detail" not in answer.problem
    assert not any(one.ready() for one in filled)
    slow.gate.set()
    assert [one.get(timeout=LIMIT_S).status for one in filled] == [200, 200]
    service.check()
    assert service.ended(Outcome.DROPPED) == (1 if overflow == "drop_newest" else 0)


@pytest.mark.parametrize("is_inner", [False, True], ids=["first outbox", "inner"])
def test_a_full_queue_that_drops_the_oldest_answers_that_one_503_at_once(service: Service, is_inner: bool) -> None:
    slow = gated(service, is_inner=is_inner, overflow="drop_oldest", timeout_s=LIMIT_S)
    first, second = fill(service, slow)
    third = service.begin(request(b"third"))

    assert second.get(timeout=LIMIT_S).status == 503

    slow.gate.set()
    assert [one.get(timeout=LIMIT_S).status for one in (first, third)] == [200, 200]
    service.check()


@pytest.mark.parametrize("headers", [[], ["Expect: 100-continue"]], ids=["plain", "expect"])
def test_beyond_max_pending_a_request_is_answered_503_at_once_with_retry_after(
    service: Service, headers: list[str]
) -> None:
    slow = gated(service, is_inner=False, overflow="wait", max_pending=2)
    filled = fill(service, slow)
    accepted = service.director.snapshot().balance.accepted

    # Its body is not waited for: it never comes.
    client = Client(service.wsgi.port)
    lines = ["POST / HTTP/1.1", "Host: a", "Content-Length: 10", *headers]
    answer = client.send("\r\n".join(lines).encode(), b"\r\n\r\n").answer()

    assert answer.status == 503
    assert 1 <= int(answer.headers["retry-after"]) <= 3
    client.socket.shutdown(socket.SHUT_WR)
    assert client.is_closed()
    client.socket.close()
    assert service.director.snapshot().balance.accepted == accepted
    slow.gate.set()
    assert [one.get(timeout=LIMIT_S).status for one in filled] == [200, 200]
    service.check()


# ---- fan-out ----------------------------------------------------------------------------------------------------


def fan_out(service: Service, behaviours: dict[str, Callable[[Step, Any], None]], **door: Any) -> dict[str, Step]:
    """The door feeds all; those whose name begins with "answer" feed it."""
    wsgi = service.door(**door)
    steps = {name: service.director.register_actor(Step, name, behave) for name, behave in behaviours.items()}
    service.director.connect_queue(wsgi, list(steps.values()))
    for name, step in steps.items():
        if name.startswith("answer"):
            service.director.connect_queue(step, wsgi)
    service.start()
    return steps


@pytest.mark.parametrize("first", ["answer", "raiser"])
def test_whichever_branch_ends_first_answers_and_the_other_is_counted(service: Service, first: str) -> None:
    gates = {"answer": Gate(), "raiser": Gate()}

    def answer_(actor: Step, event: Event) -> None:
        gates["answer"].wait()
        actor.send_event(event)

    def raise_(actor: Step, event: Event) -> None:
        gates["raiser"].wait()
        raise ConflictError("no")

    fan_out(service, {"answer": answer_, "raiser": raise_})
    begun = service.begin(request(b"x"))
    gates[first].set()

    answer = begun.get(timeout=LIMIT_S)

    assert answer.status == (200 if first == "answer" else 409)
    assert service.wsgi.pending == 0
    assert service.director.snapshot().balance.held == 1
    for gate in gates.values():
        gate.set()
    service.check_conserved()
    # The branch that raised is a dead letter either way; the answer that came second is dropped.
    assert (service.ended(Outcome.DEAD), service.ended(Outcome.ANSWERED)) == (1, 1 if first == "answer" else 0)
    assert service.ended(Outcome.DROPPED) == (0 if first == "answer" else 1)


def test_two_branches_that_answer_give_one_answer(service: Service) -> None:
    fan_out(service, dict.fromkeys(["answer_a", "answer_b"], lambda actor, event: actor.send_event(event)))

    assert exchange(service.wsgi.port, request(b"x")).status == 200

    service.check()
    assert (service.ended(Outcome.ANSWERED), service.ended(Outcome.DROPPED)) == (2, 2)


def test_a_side_branch_that_drops_its_event_does_not_answer(service: Service) -> None:
    gate = Gate()

    def answer_(actor: Step, event: Event) -> None:
        gate.wait()
        actor.send_event(event)

    steps = fan_out(service, {"answer": answer_, "side": lambda actor, event: None})
    begun = service.begin(request(b"x"))
    wait_until(lambda: len(steps["side"].seen) == 1 and service.ended(Outcome.DELIVERED) == 1)
    assert not begun.ready()
    gate.set()

    assert begun.get(timeout=LIMIT_S).status == 200
    service.check()


@pytest.mark.parametrize("is_past_deadline", [False, True], ids=["in time", "past the deadline"])
@pytest.mark.parametrize("where", ["in hand", "queued"])
def test_a_side_branch_that_is_slower_than_the_answer_still_gets_its_event_handled(
    service: Service, where: str, is_past_deadline: bool
) -> None:
    gate = Gate()
    done: list[Any] = []

    def side(actor: Step, event: Event) -> None:
        gate.wait()
        done.append(event.data)

    steps = fan_out(
        service,
        {"answer": lambda actor, event: actor.send_event(event), "side": side},
        timeout_s=SHORT_S if is_past_deadline else LIMIT_S,
    )
    if where == "queued":
        steps["side"].pause()
    started = Clock.monotonic()
    assert exchange(service.wsgi.port, request(b"x")).status == 200
    if is_past_deadline:
        wait_until(lambda: Clock.monotonic() > started + SHORT_S + 0.1)

    steps["side"].resume()
    gate.set()

    wait_until(lambda: done == [b"x"])
    service.check()
    assert service.ended(Outcome.EXPIRED) == 0


def without_room(
    service: Service, answer: Callable[[Step, Any], None], *, full_first: bool = False
) -> tuple[Step, Step, "gevent.Greenlet[..., Answer]"]:
    """The door feeds "answer" and "full", whose queue is full with the branch of a first request."""
    wsgi = service.door(timeout_s=SHORT_S)
    branch = service.director.register_actor(Step, "answer", answer)
    full = service.director.register_actor(Step, "full", lambda actor, event: None)
    for step in (full, branch) if full_first else (branch, full):
        service.director.connect_queue(wsgi, step, capacity=1 if step is full else None)
    service.director.connect_queue(branch, wsgi)
    service.start()
    full.pause()
    first = service.begin(request(b"first"))
    wait_until(lambda: branch.seen == [b"first"] and full.inbox_depth == 1)
    return branch, full, first


@pytest.mark.parametrize("full_first", [False, True], ids=["begun", "not begun"])
def test_a_fan_out_without_room_at_the_deadline_is_answered_504_if_a_branch_has_begun_else_503(
    service: Service, full_first: bool
) -> None:
    gate = Gate()
    branch, full, first = without_room(service, lambda actor, event: gate.wait() and None, full_first=full_first)

    answer = exchange(service.wsgi.port, request(b"second"))

    assert answer.status == (503 if full_first else 504)
    assert ("retry-after" in answer.headers) == full_first
    assert branch.seen == [b"first"] if full_first else [b"first", b"second"]
    assert first.get(timeout=LIMIT_S).status == 504
    gate.set()
    full.resume()
    service.check_conserved()


def test_a_request_that_one_branch_has_answered_does_not_wait_for_room_beyond_its_deadline(
    service: Service, records: pytest.LogCaptureFixture
) -> None:
    branch, full, first = without_room(service, lambda actor, event: actor.send_event(event))
    assert first.get(timeout=LIMIT_S).status == 200

    answer = exchange(service.wsgi.port, request(b"second"))

    assert (answer.status, answer.body) == (200, b"second")
    assert "was answered by one branch and found no room for the next" in records.text
    full.resume()
    service.check()
    assert b"second" not in full.seen
    assert branch.seen[:2] == [b"first", b"second"]


def test_a_side_branch_that_fails_after_the_answer_is_a_dead_letter(service: Service) -> None:
    gate = Gate()

    def side(actor: Step, event: Event) -> None:
        gate.wait()
        raise ValueError("late")

    fan_out(service, {"answer": lambda actor, event: actor.send_event(event), "side": side})

    assert exchange(service.wsgi.port, request(b"x")).status == 200

    gate.set()
    service.check_conserved()
    assert [(letter.actor, letter.reason) for letter in service.director.dead_letters] == [("side", "failed")]


def test_a_service_that_is_an_outbox_gets_the_request_and_any_other_goes_to_all(service: Service) -> None:
    steps = fan_out(service, {name: lambda actor, event: actor.send_event(event) for name in ("answer_a", "answer_b")})

    for path in ("/answer_a", "/answer_b/further?x=1", "/elsewhere"):
        assert exchange(service.wsgi.port, request(path.encode(), path=path)).status == 200

    service.check_conserved()
    assert steps["answer_a"].seen == [b"/answer_a", b"/elsewhere"]
    assert steps["answer_b"].seen == [b"/answer_b/further?x=1", b"/elsewhere"]


def test_a_branch_that_is_dropped_leaves_the_answer_to_the_others(service: Service) -> None:
    wsgi = service.door()
    full = service.director.register_actor(Step, "full", lambda actor, event: None)
    step = service.director.register_actor(Step, "step", lambda actor, event: actor.send_event(event))
    service.director.connect_queue(wsgi, full, capacity=1, overflow="drop_newest")
    service.director.connect_queue(wsgi, step)
    service.director.connect_queue(step, wsgi)
    service.start()
    full.pause()

    assert [exchange(wsgi.port, request(b"x")).status for _ in range(3)] == [200] * 3

    full.resume()
    service.check()
    assert service.ended(Outcome.DROPPED) == 2


def test_an_answer_that_reaches_another_door_is_an_error_there_and_the_request_is_answered_500(
    service: Service, records: pytest.LogCaptureFixture
) -> None:
    wsgi = service.door()
    other = service.director.register_actor(WSGIServer, "other", port=0)
    step = service.director.register_actor(Step, "step", lambda actor, event: actor.send_event(event, "other"))
    service.director.connect_queue(wsgi, step)
    service.director.connect_queue(step, [wsgi, other])
    service.start()

    assert exchange(wsgi.port, request(b"x")).status == 500

    assert [(letter.actor, letter.reason) for letter in service.director.dead_letters] == [("other", "failed")]
    assert [r for r in records.records if "no request of 'other' waits for event" in r.getMessage()]
    service.check_conserved()


def test_outside_base_path_nothing_is_served(service: Service) -> None:
    wsgi = service.door(base_path="/api")
    step = service.director.register_actor(Step, "step", lambda actor, event: actor.send_event(event))
    service.director.connect_queue(wsgi, step)
    service.director.connect_queue(step, wsgi)
    service.good = lambda: request(b"x", path="/api/a")
    service.start()

    assert [exchange(wsgi.port, request(b"x", path=p)).status for p in ("/", "/apix", "/ap", "/API/a")] == [404] * 4
    service.check()
    assert step.seen == [b"x"]


# ---- the error wire ---------------------------------------------------------------------------------------------


def shaped(service: Service, shape: Callable[[Step, Any], None], behave: Behaviour) -> Answer:
    """The answer to a bad order whose failure goes over an actor that shapes it."""
    wsgi = service.door()
    executor = service.director.register_actor(Executor, "request_executor", behave)
    submit = service.director.register_actor(Transformer, "submit_transform", SUBMIT)
    shaper = service.director.register_actor(Step, "shaper", shape)
    service.director.connect_queue(wsgi, submit)
    service.director.connect_queue(submit, executor)
    service.director.connect_queue(executor, wsgi)
    service.director.connect_queue_error(executor, shaper)
    service.director.connect_queue(shaper, wsgi)
    service.start()
    service._executor = executor
    answer = exchange(wsgi.port, order("bad"))
    service.check()
    return answer


def test_an_error_wire_may_set_the_status_and_the_words(service: Service) -> None:
    def shape(actor: Step, event: HttpEvent) -> None:
        assert event.error is not None
        event.response.status = 418
        event.data = {"sorry": event.error.status}
        actor.send_event(event)

    answer = shaped(service, shape, raising(ConflictError("no")))

    assert (answer.status, json.loads(answer.body)) == (418, {"sorry": 409})


def test_an_error_wire_may_make_it_good(service: Service) -> None:
    def shape(actor: Step, event: HttpEvent) -> None:
        event.error = None
        event.data = "a default"
        actor.send_event(event)

    answer = shaped(service, shape, raising(ValueError("no")))

    assert (answer.status, answer.body) == (200, b"a default")


def test_an_error_wire_that_only_looks_leaves_the_error_as_it_is(service: Service) -> None:
    answer = shaped(service, lambda actor, event: actor.send_event(event), raising(ConflictError("no")))

    assert (answer.status, answer.problem["detail"]) == (409, "no")


def test_an_error_wire_that_raises_itself_is_answered_with_its_error(service: Service) -> None:
    def shape(actor: Step, event: HttpEvent) -> None:
        raise GoneError("that too")

    assert shaped(service, shape, raising(ValueError("no"))).status == 410


def test_an_error_wire_that_ends_the_event_leaves_the_errors_status(service: Service) -> None:
    assert shaped(service, lambda actor, event: None, raising(ConflictError("no"))).status == 409


def test_a_failed_request_never_goes_on_the_way_of_the_good(service: Service) -> None:
    wsgi = service.door()
    auth = service.director.register_actor(BasicAuth, "auth", {"ann": "secret"})
    inside = service.director.register_actor(Step, "inside", lambda actor, event: actor.send_event(event))
    service.director.connect_queue(wsgi, auth)
    service.director.connect_queue(auth, inside)
    service.director.connect_queue(inside, wsgi)
    service.start()

    assert exchange(wsgi.port, order("x", authorization=None)).status == 401

    assert inside.seen == []
    service.check()


def test_an_error_actor_may_answer(service: Service) -> None:
    def shape(actor: Step, event: HttpEvent) -> None:
        event.response.status = 500
        event.data = "we are sorry"
        actor.send_event(event)

    errors = service.director.register_error_actor(Step, "errors", shape)
    wsgi = service.door()
    step = service.director.register_actor(Step, "step", lambda actor, event: event.no_such_thing)
    service.director.connect_queue(wsgi, step)
    service.director.connect_queue(errors, wsgi)
    service.start()

    answer = exchange(wsgi.port, request(b"x"))

    assert (answer.status, answer.body) == (500, b"we are sorry")
    service.check_conserved()


def test_the_wires_of_the_script_can_be_joined_only_once(service: Service) -> None:
    wsgi = service.door()
    auth = service.director.register_actor(BasicAuth, "auth", {})
    service.director.connect_queue(auth, wsgi)
    service.director.connect_queue_error(auth, wsgi)

    with pytest.raises(QueueConnectedError, match="auth"):
        service.director.connect_queue_error(auth, wsgi)


# ---- the stop ---------------------------------------------------------------------------------------------------


def test_a_stop_answers_what_is_in_flight_and_then_closes(service: Service) -> None:
    service.circle()
    service.begin_bystander()
    idle = Client(service.wsgi.port).send(order("7", keeps=True))
    assert idle.answer().status == 200
    port = service.wsgi.port

    service.director.request_stop("test")

    # The port is given back and idle connections end while the bystander is still in flight.
    assert idle.is_closed()
    with pytest.raises(OSError) as caught:
        Client(port)
    assert caught.value.errno == errno.ECONNREFUSED
    assert service.bystander is not None
    assert not service.bystander.ready()
    service.executor.gate.set()
    answer = service.bystander.get(timeout=LIMIT_S)
    report = service.director.block()

    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert (report.ok, report.exit_code) == (True, 0)
    assert report.actors["acknowledge_transform"].done == 1
    service.check_conserved()


def test_a_request_that_comes_on_an_open_connection_during_the_stop_is_answered_503(service: Service) -> None:
    service.circle()
    service.begin_bystander()
    late = Client(service.wsgi.port).send(b"POST / HTTP/1.1\r\nHost: a\r\n")
    wait_until(lambda: service.wsgi._server is not None and service.wsgi._server.idle_connections == 0)

    service.director.request_stop("test")
    wait_until(lambda: service.wsgi._server is not None and not service.wsgi._server.is_accepting)
    answer = late.send(b"Content-Length: 0\r\n\r\n").answer()

    assert (answer.status, answer.headers["retry-after"], answer.headers["connection"]) == (503, "5", "close")
    assert late.is_closed()
    service.executor.gate.set()
    assert service.director.block().exit_code == 0
    service.check_conserved()


def test_a_stop_at_its_deadline_answers_503_what_hangs_and_says_so(service: Service) -> None:
    gate = Gate()
    service.circle(lambda actor, event: gate.wait() and None)
    hanging = service.begin(order("bad"))
    wait_until(lambda: "bad" in service.executor.seen)

    report = service.director.stop(timeout_s=0.2)
    answer = hanging.get(timeout=LIMIT_S)

    assert (answer.status, answer.headers["connection"], answer.headers["retry-after"]) == (503, "close", "5")
    assert (report.ok, report.exit_code) == (False, 1)
    assert (report.actors["request_executor"].left, report.actors["request_executor"].killed) == (1, 1)
    assert [(letter.actor, letter.reason) for letter in service.director.dead_letters] == [
        ("request_executor", "stopped")
    ]
    service.check_conserved()


def test_a_stop_at_its_deadline_answers_503_what_still_sends_its_body(service: Service) -> None:
    service.circle()
    client = Client(service.wsgi.port).send(request(b"x" * 10, keeps=True)[:-5])
    wait_until(lambda: service.wsgi.pending == 1)

    report = service.director.stop(timeout_s=0.2)

    assert client.answer().status == 503
    assert client.is_closed()
    assert report.exit_code == 1
    service.check_conserved()


def test_a_request_whose_body_comes_after_the_stops_deadline_begins_nothing(service: Service) -> None:
    gate = Gate()
    service.good = lambda: request(b"x")
    wsgi = service.door()
    step = service.director.register_actor(Step, "step", lambda actor, event: actor.send_event(event))
    service.director.connect_queue(wsgi, step)
    service.director.connect_queue(step, wsgi)

    class Slow(io.BytesIO):
        """A body that comes when the gate opens."""

        def read(self, size: int | None = -1) -> bytes:
            gate.wait()
            return super().read(size)

    environ: dict[str, Any] = {"REQUEST_METHOD": "POST", "CONTENT_LENGTH": "1", "wsgi.input": Slow(b"x")}
    setup_testing_defaults(environ)
    service.start()
    lines: list[str] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], object]:
        lines.append(status)
        return lambda data: None

    calling = service.greenlets.spawn(lambda: list(wsgi(environ, start_response)))
    wait_until(lambda: wsgi.pending == 1)

    report = service.director.stop(timeout_s=0.05)
    gate.set()
    calling.get(timeout=LIMIT_S)

    assert lines == ["503 Service Unavailable"]
    assert (report.exit_code, step.seen, service.ended(Outcome.DEAD)) == (1, [], 0)
    service.check_conserved()


@pytest.mark.parametrize("has_request", [False, True])
def test_after_the_stop_the_port_is_free_and_the_same_process_starts_again(
    services: Callable[..., Service], has_request: bool
) -> None:
    service = services().circle()
    port = service.wsgi.port
    if has_request:
        assert exchange(port, order("7")).status == 200
    service.director.stop()

    for _ in range(2):
        again = services().circle(port=port)
        assert exchange(port, order("7")).status == 200
        assert again.director.stop().ok


def test_the_same_director_starts_again(service: Service) -> None:
    service.circle()
    for _ in range(3):
        assert exchange(service.wsgi.port, order("7")).status == 200
        assert service.director.stop().ok
        service.director.start(block=False)
    service.check()


def test_a_port_that_is_taken_is_a_start_error_that_names_address_and_port(
    services: Callable[..., Service], trap: socket.socket
) -> None:
    port = trap.getsockname()[1]
    service = services()

    with pytest.raises(StartError) as caught:
        service.circle(port=port)

    assert "127.0.0.1" in str(caught.value)
    assert str(port) in str(caught.value)
    assert "'wsgi'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.actor == "wsgi"
    assert caught.value.report is not None
    assert caught.value.report.exit_code == 2
    assert not service.director.is_running()
    # Free again, the same Director starts.
    trap.close()
    service.director.start(block=False)
    service.check()


# ---- the client -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_client_that_goes_away_mid_request_harms_nobody(
    service: Service, records: pytest.LogCaptureFixture, how: str
) -> None:
    gate = Gate()

    def behave(actor: Executor, event: Event) -> None:
        gate.wait()
        actor.answer(event)

    service.circle(behave)
    service.begin_bystander()
    client = Client(service.wsgi.port).send(order("bad"))
    wait_until(lambda: "bad" in service.executor.seen)

    client.reset() if how == "reset" else client.socket.close()
    gate.set()

    service.check()
    assert [record for record in records.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("cut", [10, -5], ids=["in the head", "in the body"])
def test_a_client_that_goes_away_before_its_request_is_whole_reaches_nobody(
    service: Service, how: str, cut: int
) -> None:
    service.circle()
    service.begin_bystander()
    client = Client(service.wsgi.port).send(order("bad", keeps=True)[:cut])
    if cut < 0:
        wait_until(lambda: service.wsgi.pending == 2)

    client.reset() if how == "reset" else client.socket.close()

    wait_until(lambda: service.wsgi.pending == 1)
    service.check()
    assert "bad" not in service.executor.seen


def test_a_client_that_ends_only_its_sending_side_gets_its_answer(service: Service) -> None:
    service.circle()
    client = Client(service.wsgi.port).send(order("7", keeps=True))
    client.socket.shutdown(socket.SHUT_WR)

    assert client.answer().status == 200

    assert client.is_closed()
    service.check()


def test_a_body_that_does_not_come_is_answered_408_at_the_deadline(service: Service) -> None:
    service.circle(timeout_s=SHORT_S)
    client = Client(service.wsgi.port).send(order("bad", keeps=True)[:-3])

    answer = client.answer()

    assert (answer.status, answer.headers["connection"]) == (408, "close")
    client.socket.close()
    service.check()


@pytest.mark.parametrize("goes_away", [False, True])
def test_a_client_that_reads_its_answer_slowly_or_not_at_all_holds_nobody(service: Service, goes_away: bool) -> None:
    wsgi = service.door()
    step = service.director.register_actor(Step, "step", lambda actor, event: actor.send_event(event))
    service.director.connect_queue(wsgi, step)
    service.director.connect_queue(step, wsgi)
    service.good = lambda: request(b"good")
    service.start()
    big = b"x" * 8_000_000
    client = Client(wsgi.port).send(request(big))
    wait_until(lambda: service.ended(Outcome.ANSWERED) == 1)

    assert exchange(wsgi.port, request(b"small")).body == b"small"
    if goes_away:
        client.reset()
    else:
        assert client.answer().body == big
        assert client.is_closed()

    service.check()


def test_requests_leave_no_event_and_no_ticket_behind(service: Service) -> None:
    before = objects_of(HttpEvent, HttpTicket)
    service.circle(lambda actor, event: None, timeout_s=SHORT_S)
    sent = [order("7"), order("7", authorization=None), request(b"<"), order("bad"), request(method="HEAD")]

    Pool(10).map(lambda one: exchange(service.wsgi.port, one), sent * 10)

    service.check()
    service.director.dead_letters.clear()
    assert [thing for thing in objects_of(HttpEvent, HttpTicket) if not any(thing is old for old in before)] == []
    assert len(service.director.deadlines) == 0


def objects_of(*classes: type) -> list[Any]:
    gc.collect()
    return [thing for thing in gc.get_objects() if isinstance(thing, classes)]


def test_two_services_in_one_process_do_not_touch_each_other(services: Callable[..., Service]) -> None:
    first, second = services().circle(raising(ValueError("no"))), services().circle()
    second.begin_bystander()

    assert exchange(first.wsgi.port, order("bad")).status == 500
    assert first.director.stop().ok

    second.check()


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "localhost"])
def test_the_line_about_a_door_can_be_called(service: Service, records: pytest.LogCaptureFixture, address: str) -> None:
    wsgi = service.door(address=address)
    step = service.director.register_actor(Step, "step", lambda actor, event: actor.send_event(event))
    service.director.connect_queue(wsgi, step)
    service.director.connect_queue(step, wsgi)
    service.start()

    assert [r.getMessage() for r in records.records if r.levelno == logging.WARNING] == []
    (door,) = service.director.doors()
    host = "localhost" if address == "localhost" else "127.0.0.1"
    assert f"http://{host}:{wsgi.port}/" in door
    assert "curl" in door
    service.check()


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1"])
def test_without_the_extra_only_loopback_is_served(
    service: Service, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setattr("compysition.http.embedded.find_spec", lambda name: None)
    wsgi = service.door(address=address)
    step = service.director.register_actor(Step, "step", lambda actor, event: actor.send_event(event))
    service.director.connect_queue(wsgi, step)
    service.director.connect_queue(step, wsgi)

    if address == "0.0.0.0":
        with pytest.raises(StartError, match=r"'0\.0\.0\.0', which others can reach, needs the extra 'http'"):
            service.start()
    else:
        service.start()
        assert exchange(wsgi.port, order("1")).status == 200
        service.check()


def test_one_connection_serves_many_requests_good_and_bad(service: Service) -> None:
    service.circle(raising(ConflictError("no")))
    client = Client(service.wsgi.port)
    wanted = [
        (order("1", keeps=True), 200),
        (order("2", keeps=True, authorization=None), 401),
        (request(b"<", keeps=True), 400),
        (order("bad", keeps=True), 409),
        (order("3", keeps=True), 200),
    ] * 3

    for sent, status in wanted:
        answer = client.send(sent).answer()
        assert (answer.status, answer.headers.get("connection")) == (status, None)

    client.socket.close()
    service.check()


def test_pipelined_requests_are_answered_in_their_order(service: Service) -> None:
    service.circle(raising(ConflictError("no")))
    client = Client(service.wsgi.port)
    numbers = ["1", "bad", "2", "3"]

    client.send(*[order(number, keeps=True) for number in numbers], request(b"<", keeps=True), order("last"))
    answers = [client.answer() for _ in range(6)]

    assert [answer.status for answer in answers] == [200, 409, 200, 200, 400, 200]
    assert [re.findall(rb'ack id="(\w+)"', answer.body) for answer in answers] == [
        [b"1"],
        [],
        [b"2"],
        [b"3"],
        [],
        [b"last"],
    ]
    assert client.is_closed()
    service.check()


def test_a_pipelined_request_waits_for_the_one_before_it(service: Service) -> None:
    service.circle()
    client = Client(service.wsgi.port).send(order("bystander", keeps=True), order("7"))
    wait_until(lambda: service.executor.seen == ["bystander"])
    assert exchange(service.wsgi.port, order("good")).status == 200
    assert service.executor.seen == ["bystander", "good"]

    service.executor.gate.set()

    assert [client.answer().status for _ in range(2)] == [200, 200]
    assert client.is_closed()
    service.check()


def test_head_goes_through_the_flow_and_has_the_head_of_get(service: Service) -> None:
    wsgi = service.door()
    step = service.director.register_actor(Step, "step", lambda actor, event: actor.send_event(event.copy()))

    def answer_(actor: Step, event: HttpEvent) -> None:
        event.data = "hello"
        event.response.headers["X-A"] = "b"
        actor.send_event(event)

    step.behave = answer_
    service.director.connect_queue(wsgi, step)
    service.director.connect_queue(step, wsgi)
    service.start()

    got, head = (
        exchange(wsgi.port, request(method=method, content_type=None, authorization=None)) for method in ("GET", "HEAD")
    )

    assert (got.status, got.body, got.headers["content-length"]) == (200, b"hello", "5")
    assert (head.status, head.body) == (200, b"")
    ignored = ("date", "x-request-id")
    assert {k: v for k, v in head.headers.items() if k not in ignored} == {
        k: v for k, v in got.headers.items() if k not in ignored
    }
    assert len(step.seen) == 2
    service.check()


@pytest.mark.parametrize("has_error_wires", [True, False])
def test_a_head_request_that_fails_has_no_body_either(service: Service, has_error_wires: bool) -> None:
    service.circle(has_error_wires=has_error_wires)

    client = Client(service.wsgi.port)
    sent = request(method="HEAD", content_type=None, authorization=None, keeps=True)
    answer = client.send(sent).answer(has_body=False)

    assert answer.status == 401
    assert int(answer.headers["content-length"]) > 0
    assert client.send(order("7")).answer().status == 200
    assert client.is_closed()
    service.check()


def test_a_request_that_cannot_be_read_is_answered_400_and_harms_nobody(service: Service) -> None:
    service.circle()
    for sent in (b"BAD\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"):
        client = Client(service.wsgi.port).send(sent)
        client.socket.shutdown(socket.SHUT_WR)
        assert client.answer().status == 400
        assert client.is_closed()
    service.check()
