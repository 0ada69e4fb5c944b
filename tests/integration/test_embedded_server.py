# SPDX-License-Identifier: Apache-2.0
"""Rules of both embedded servers, `compysition.http.strict` and its fallback `compysition.http.pywsgi`.

On real sockets, in a patched process and in one that is not. Where the fallback differs, the test says so.
"""

import _socket
import errno
import gc
import json
import logging
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple
from wsgiref.types import StartResponse, WSGIEnvironment
from wsgiref.validate import validator

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from compysition.errors import ConfigurationError, MalformedError, RequestError, UsageError
from compysition.http import message, pywsgi_handler, receiver
from compysition.http.body import read_body
from compysition.http.pywsgi import PywsgiServer
from compysition.http.request import Request
from compysition.http.response import ResponseHead, problem, render
from compysition.http.server import EmbeddedServer
from compysition.http.strict import StrictServer

pytestmark = [pytest.mark.patched, pytest.mark.unpatched]

#: Nothing here takes longer, unless it hangs.
DEADLINE_S = 10.0

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
CLOSING = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """One connection. Reads exactly one answer at a time; what follows is the next one's."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.socket.settimeout(DEADLINE_S)
        self.buffer = b""

    def send(self, *pieces: bytes) -> "Client":
        self.socket.sendall(b"".join(pieces))
        return self

    def _receive(self) -> None:
        piece = self.socket.recv(65536)
        if not piece:
            raise EOFError(f"the server closed the connection after {self.buffer!r}")
        self.buffer += piece

    def head(self) -> tuple[int, dict[str, str]]:
        while b"\r\n\r\n" not in self.buffer:
            self._receive()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        line, *fields = head.decode("latin-1").split("\r\n")
        assert line.startswith("HTTP/1.1 ")
        return int(line.split(" ")[1]), {name.lower(): value for name, value in (f.split(": ", 1) for f in fields)}

    def answer(self, *, has_body: bool = True) -> Answer:
        status, headers = self.head()
        length = int(headers.get("content-length", 0)) if has_body else 0
        while len(self.buffer) < length:
            self._receive()
        body, self.buffer = self.buffer[:length], self.buffer[length:]
        return Answer(status, headers, body)

    def is_closed(self) -> bool:
        """Whether nothing but the end comes any more. Waits for it."""
        assert self.buffer == b""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return False

    def close(self) -> None:
        self.socket.close()


class Service:
    """Servers and clients of one test; `seen` has every request that reached the application."""

    def __init__(self, server_class: type[EmbeddedServer]) -> None:
        self.server_class = server_class
        self.seen: list[Request] = []
        self.errors: list[Exception] = []
        self.servers: list[EmbeddedServer] = []
        self.clients: list[Client] = []
        self.handlers: dict[str, Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]] = {}

    def application(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Echo the body; a handler for the request's service comes first."""
        try:
            request = Request.from_environ(environ)
            self.seen.append(request)
            if request.service in self.handlers:
                return self.handlers[request.service](environ, start_response)
            body = read_body(environ, 100_000)
            status, fields, body = render(ResponseHead(), body or b"hello", method=request.method)
        except RequestError as error:
            self.errors.append(error)
            status, fields, body = problem(error.status, str(error))
        start_response(status, fields)
        return [body]

    def serve(self, **options: Any) -> EmbeddedServer:
        server = self.server_class(
            options.pop("application", self.application), options.pop("address", "127.0.0.1"), 0, **options
        )
        server.start()
        self.servers.append(server)
        return server

    def connect(self, port: int | None = None, address: str = "127.0.0.1") -> Client:
        client = Client(socket.create_connection((address, port or self.servers[0].port)))
        self.clients.append(client)
        return client

    def close(self) -> None:
        for client in self.clients:
            client.close()
        for server in self.servers:
            server.close(1.0)
            assert server.open_connections == 0


@pytest.fixture(params=[StrictServer, PywsgiServer])
def server_class(request: pytest.FixtureRequest) -> type[EmbeddedServer]:
    chosen: type[EmbeddedServer] = request.param
    return chosen


@pytest.fixture
def service(server_class: type[EmbeddedServer]) -> Iterator[Service]:
    service = Service(server_class)
    yield service
    service.close()


@pytest.fixture
def server(service: Service) -> EmbeddedServer:
    return service.serve()


@pytest.fixture
def client(service: Service, server: EmbeddedServer) -> Client:
    return service.connect()


def answering(
    status: str, result: Iterable[bytes], *fields: tuple[str, str]
) -> Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]:
    def handler(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, list(fields))
        return result

    return handler


def wait_until(condition: Callable[[], object]) -> None:
    with gevent.Timeout(DEADLINE_S):
        while not condition():
            gevent.sleep(0.001)


# ---- answers --------------------------------------------------------------------------------------------------------


def test_a_request_is_answered(client: Client, service: Service) -> None:
    answer = client.send(b"GET /a%2Fb?x=1 HTTP/1.1\r\nHost: a:1\r\nX_Y: 1\r\n\r\n").answer()
    assert (answer.status, answer.body) == (200, b"hello")
    assert answer.headers["content-length"] == "5"
    assert "date" in answer.headers
    assert "server" not in answer.headers
    assert "connection" not in answer.headers
    request = service.seen[0]
    assert (request.segments, request.query["x"], request.host) == (("a/b",), "1", "a:1")
    assert (request.client, "X-Y" in request.headers) == ("127.0.0.1", False)


def data_segments(client: Client) -> int:
    """How many segments with data the kernel has received for it (``tcpi_data_segs_in``)."""
    info = client.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    if len(info) < 156:
        pytest.skip("this kernel does not count segments")
    return int(struct.unpack_from("I", info, 152)[0])


def test_head_and_body_of_an_answer_are_one_segment(client: Client) -> None:
    client.send(GET).answer()
    if data_segments(client) == 0:
        pytest.skip("this kernel does not count segments")
    for number in range(2, 6):
        assert client.send(GET).answer().body == b"hello"
        assert data_segments(client) == number


def test_an_answer_does_not_wait_for_the_clients_acknowledgement(client: Client) -> None:
    client.send(GET).answer()
    # The server runs in this process: its end of the connection is the socket whose peer is the client's.
    ends = [
        sock
        for sock in gc.get_objects()
        if isinstance(sock, socket.socket)
        and sock.fileno() >= 0
        and sock.type == socket.SOCK_STREAM
        and is_peer(sock, client.socket.getsockname())
    ]
    assert [end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0 for end in ends] == [True]


def is_peer(sock: Any, address: Any) -> bool:
    try:
        return bool(sock.getpeername() == address)
    except OSError:
        return False


def test_a_connection_serves_many_requests(client: Client, server: EmbeddedServer) -> None:
    for number in range(50):
        body = b"%d" % number
        client.send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body), body)
        assert client.answer().body == body
    assert server.open_connections == 1
    wait_until(lambda: server.idle_connections == 1)


def test_a_large_answer_arrives(service: Service, client: Client) -> None:
    data = bytes(range(256)) * 20_000
    service.handlers["large"] = answering("200 OK", [data], ("Content-Length", str(len(data))))
    assert client.send(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n").answer().body == data
    assert client.send(GET).answer().body == b"hello"


def test_head_has_no_body(service: Service, client: Client) -> None:
    assert client.send(GET.replace(b"GET", b"HEAD")).answer(has_body=False).headers["content-length"] == "5"
    results: dict[str, Iterable[bytes]] = {"list": [b"body"], "iterator": iter([b"bo", b"dy"])}
    for name, result in results.items():
        service.handlers[name] = answering("200 OK", result)
        client.send(b"HEAD /%s HTTP/1.1\r\nHost: a\r\n\r\n" % name.encode()).answer(has_body=False)
    assert client.send(GET).answer().body == b"hello"


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_an_answer_without_body_keeps_the_connection(service: Service, client: Client, status: str) -> None:
    service.handlers["none"] = answering(status, [])
    assert "content-length" not in client.send(b"GET /none HTTP/1.1\r\nHost: a\r\n\r\n").answer().headers
    assert client.send(GET).answer().body == b"hello"


def test_an_answer_in_parts_is_chunked_and_to_http_1_0_ends_with_the_connection(service: Service) -> None:
    service.serve()
    service.handlers["parts"] = answering("200 OK", iter((b"a", b"b")))
    client = service.connect()
    status, headers = client.send(b"GET /parts HTTP/1.1\r\nHost: a\r\n\r\n").head()
    assert (status, headers["transfer-encoding"]) == (200, "chunked")
    with gevent.Timeout(DEADLINE_S):
        while not client.buffer.endswith(b"0\r\n\r\n"):
            client.buffer += client.socket.recv(1000)
    assert client.buffer == b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n"
    service.handlers["parts"] = answering("200 OK", iter((b"a", b"b")))
    old = service.connect()
    _, headers = old.send(b"GET /parts HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").head()
    assert headers["connection"] == "close"
    with gevent.Timeout(DEADLINE_S):
        while piece := old.socket.recv(1000):
            old.buffer += piece
    assert old.buffer == b"ab"


@pytest.mark.parametrize(
    ("head", "is_kept"),
    [
        (b"GET / HTTP/1.1\r\nHost: a\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: foo, Close\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n", True),
        (b"GET / HTTP/1.0\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n", True),
        (b"GET / HTTP/1.0\r\nConnection: foo, keep-alive\r\n", True),
        (b"\r\nGET / HTTP/1.1\r\nHost: a\r\n", True),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX:\r\n", True),
    ],
)
def test_a_connection_is_kept_as_the_client_says(client: Client, head: bytes, is_kept: bool) -> None:
    answer = client.send(head, b"\r\n").answer()
    assert answer.status == 200
    assert (answer.headers.get("connection") == "close") is not is_kept
    if is_kept:
        assert client.send(GET).answer().status == 200
    else:
        assert client.is_closed()


def test_pipelined_requests_are_answered_in_order(client: Client) -> None:
    bodies = [b"%d" % number for number in range(100)]
    client.send(*(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body) for body in bodies))
    assert [client.answer().body for _ in bodies] == bodies


def test_a_busy_connection_lets_others_in(service: Service, client: Client) -> None:
    other = service.connect()
    other.send(GET).answer()
    order: list[str] = []

    def busy(_: WSGIEnvironment, start: StartResponse) -> list[bytes]:
        if not order:
            other.send(GET.replace(b"/", b"/other", 1))
        order.append("busy")
        sum(range(20_000))
        start("204 No Content", [])
        return []

    def note(_: WSGIEnvironment, start: StartResponse) -> list[bytes]:
        order.append("other")
        start("204 No Content", [])
        return []

    service.handlers |= {"busy": busy, "other": note}
    client.send(b"GET /busy HTTP/1.1\r\nHost: a\r\n\r\n" * 150)
    for _ in range(150):
        assert client.answer().status == 204
    assert other.answer().status == 204
    assert order.index("other") < 100


def test_the_application_gets_what_pep_3333_wants(service: Service) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH", 0)))
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]

    service.serve(application=validator(application))
    client = service.connect()
    assert client.send(b"POST /x?y HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab").answer().body == b"ab"
    assert client.send(GET).answer().status == 200


# ---- heads that are refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET / HTTX/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.x\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\n\r\n", 400),
        (b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n X: a\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nabc\r\n\r\n", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * 150 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + (b"X: " + b"a" * 8000 + b"\r\n") * 9 + b"\r\n", 431),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\n" + b"transfer-encoding: chunked\r\n" * 2 + b"\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\vchunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ],
    ids=lambda value: repr(value[:60]) if isinstance(value, bytes) else str(value),
)
def test_a_head_that_cannot_be_trusted_is_refused_and_the_connection_closed(
    service: Service, client: Client, request_bytes: bytes, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    answer = client.send(request_bytes, GET).answer()
    assert (answer.status, answer.headers["connection"]) == (status, "close")
    assert answer.headers["content-type"] == "application/problem+json"
    assert json.loads(answer.body)["status"] == status
    assert client.is_closed()
    assert service.seen == []
    assert capfd.readouterr().err == ""


def test_a_head_that_was_cut_off_is_not_served(service: Service, client: Client) -> None:
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n").socket.shutdown(socket.SHUT_WR)
    assert client.answer().status == 400
    assert service.seen == []


def test_a_refused_request_leaves_the_ones_before_it_alone(client: Client) -> None:
    client.send(GET, b"BAD\r\n\r\n")
    assert [client.answer().status, client.answer().status] == [200, 400]
    assert client.is_closed()


def test_a_client_that_goes_away_is_no_error(
    service: Service, server: EmbeddedServer, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    for sent in (
        b"",
        b"GET / HT",
        b"GET / HTTP/1.1\r\nHo",
        GET,
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc",
    ):
        client = service.connect()
        wait_until(lambda: server.open_connections == 1)
        client.send(sent)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()  # by a reset
        wait_until(lambda: server.open_connections == 0)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert capfd.readouterr().err == ""


# ---- bodies ---------------------------------------------------------------------------------------------------------

POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        (POST + b"Content-Length: 3\r\n\r\nabc", b"abc"),
        (CHUNKED + b"3\r\nabc\r\n0\r\n\r\n", b"abc"),
        (CHUNKED + b"1\r\na\r\nA;x=y\r\nbcdefghijk\r\n0\r\nX: 1\r\n\r\n", b"abcdefghijk"),
        (CHUNKED + b"0\r\n\r\n", b"hello"),
        (GET[:-2] + b"Content-Length: 3\r\n\r\nabc", b"abc"),
    ],
)
def test_a_body_is_read_and_the_connection_kept(client: Client, sent: bytes, body: bytes) -> None:
    assert client.send(sent).answer().body == body
    assert client.send(GET).answer().status == 200


@pytest.mark.parametrize(
    "chunks", [b"-3\r\nabc\r\n", b"0x3\r\nabc\r\n", b"3\r\nabcXX0\r\n\r\n", b"3\nabc\n0\n\n", b"f" * 17]
)
def test_chunks_that_cannot_be_read_are_400_and_close(service: Service, client: Client, chunks: bytes) -> None:
    answer = client.send(CHUNKED, chunks, GET).answer()
    assert (answer.status, answer.headers["connection"]) == (400, "close")
    assert client.is_closed()
    assert [type(error) for error in service.errors] == [MalformedError]


@pytest.mark.parametrize(
    "sent", [POST + b"Content-Length: 9\r\n\r\nabc", CHUNKED + b"9\r\nabc", CHUNKED + b"3\r\nabc\r\n"]
)
def test_a_body_that_ends_early_is_400_and_closes(client: Client, sent: bytes) -> None:
    client.send(sent).socket.shutdown(socket.SHUT_WR)
    answer = client.answer()
    assert (answer.status, answer.headers["connection"]) == (400, "close")
    assert client.is_closed()


def test_a_body_that_does_not_come_is_408_and_closes(service: Service, client: Client) -> None:
    def impatient(environ: WSGIEnvironment, start: StartResponse) -> list[bytes]:
        with pytest.raises(RequestError) as caught:
            read_body(environ, timeout_s=0.01)
        status, fields, body = problem(caught.value.status)
        start(status, fields)
        return [body]

    service.handlers["impatient"] = impatient
    client.send(b"POST /impatient HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
    answer = client.answer()
    assert (answer.status, answer.headers["connection"]) == (408, "close")
    assert client.is_closed()


def test_a_body_that_is_too_large_is_refused_before_it_is_read_and_the_answer_arrives(client: Client) -> None:
    client.send(POST, b"Content-Length: 1000000\r\n\r\n")
    answer = client.answer()
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    # What is on its way is taken in for a while: a reset would destroy an answer that the client has not read yet.
    client.send(b"x" * 10_000)
    client.socket.shutdown(socket.SHUT_WR)
    assert client.is_closed()


def test_a_chunked_body_that_is_too_large_is_refused_where_it_exceeds(client: Client) -> None:
    client.send(CHUNKED, b"19000\r\n", b"x" * 0x19000)
    answer = client.answer()
    assert (answer.status, answer.headers["connection"]) == (413, "close")


def test_a_small_body_that_nobody_reads_never_becomes_a_request(service: Service, client: Client) -> None:
    service.handlers["ignore"] = answering("204 No Content", [])
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
    client.send(b"POST /ignore HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(smuggled), smuggled), GET)
    first = client.answer()
    assert (first.status, first.headers.get("connection")) == (204, None)
    assert client.answer().status == 200
    assert [request.service for request in service.seen] == ["ignore", "default"]


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 100000\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n",
    ],
)
def test_a_body_that_nobody_reads_and_that_may_be_long_closes(service: Service, client: Client, head: bytes) -> None:
    service.handlers["ignore"] = answering("204 No Content", [])
    answer = client.send(b"POST /ignore HTTP/1.1\r\nHost: a\r\n", head).answer()
    assert (answer.status, answer.headers["connection"]) == (204, "close")
    client.socket.shutdown(socket.SHUT_WR)
    assert client.is_closed()


def test_a_small_body_that_nobody_reads_and_that_does_not_come_closes(
    service: Service, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (message, pywsgi_handler):
        monkeypatch.setattr(module, "LINGER_S", 0.01)
    monkeypatch.setattr(receiver, "LINGER_S", 0.01)
    service.handlers["ignore"] = answering("204 No Content", [])
    client.send(b"POST /ignore HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
    assert client.answer().status == 204
    assert client.is_closed()


def test_the_client_is_told_to_continue_when_the_body_is_wanted(client: Client) -> None:
    client.send(POST, b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    assert client.head() == (100, {})
    assert client.send(b"abc").answer().body == b"abc"
    assert client.send(GET).answer().status == 200
    client.send(POST, b"Expect: 100-continue\r\nContent-Length: 1000000\r\n\r\n")
    assert client.answer().status == 413


# ---- applications that fail -----------------------------------------------------------------------------------------


def test_an_application_that_raises_is_500_and_logged_and_others_go_on(
    service: Service, client: Client, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(_: WSGIEnvironment, start: StartResponse) -> list[bytes]:
        raise ValueError("secret reason")

    service.handlers["broken"] = broken
    other = service.connect()
    answer = client.send(b"GET /broken?secret=1 HTTP/1.1\r\nHost: a\r\n\r\n").answer()
    assert (answer.status, answer.headers["connection"]) == (500, "close")
    assert b"secret" not in answer.body
    assert client.is_closed()
    assert other.send(GET).answer().status == 200
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.name == "compysition.http"
    assert record.exc_info is not None
    assert record.exc_info[0] is ValueError
    assert "/broken" in record.getMessage()
    assert "secret" not in record.getMessage()
    assert capfd.readouterr().err == ""


def test_an_application_that_raises_in_the_middle_cuts_the_answer(
    service: Service, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    def parts() -> Iterator[bytes]:
        yield b"ab"
        raise ValueError

    service.handlers["cut"] = answering("200 OK", parts())
    client.send(b"GET /cut HTTP/1.1\r\nHost: a\r\n\r\n").head()
    with gevent.Timeout(DEADLINE_S):
        try:
            while piece := client.socket.recv(1000):
                client.buffer += piece
        except ConnectionResetError:
            pass  # so that nobody takes what came for the whole
    assert client.buffer == b"2\r\nab\r\n"
    assert "failed" in caplog.text


def test_a_header_with_a_line_break_is_500(service: Service, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    service.handlers["split"] = answering("200 OK", [], ("X", "a\r\nB: c"))
    answer = client.send(b"GET /split HTTP/1.1\r\nHost: a\r\n\r\n").answer()
    assert (answer.status, "b" in answer.headers) == (500, False)
    assert "failed" in caplog.text


# ---- the port -------------------------------------------------------------------------------------------------------


def test_a_taken_port_is_named(server: EmbeddedServer) -> None:
    second = type(server)(lambda *_: [], "127.0.0.1", server.port)
    with pytest.raises(
        ConfigurationError, match=rf"'127\.0\.0\.1', port {server.port}: Address already in use"
    ) as caught:
        second.start()
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EADDRINUSE
    assert not second.is_accepting
    assert second.close() == 0


@pytest.mark.parametrize(("address", "port"), [("127.0.0.1", 70_000), ("192.0.2.1", 0), ("no.such.host.invalid", 0)])
def test_an_address_that_cannot_be_listened_on_is_named(
    server_class: type[EmbeddedServer], address: str, port: int
) -> None:
    with pytest.raises(ConfigurationError, match=f"'{address}', port {port}: "):
        server_class(lambda *_: [], address, port).start()


def test_nothing_happens_before_start(server_class: type[EmbeddedServer]) -> None:
    server = server_class(lambda *_: [], "127.0.0.1", 4711)
    assert (server.port, server.url, server.open_connections, server.idle_connections) == (
        4711,
        "http://127.0.0.1:4711",
        0,
        0,
    )
    assert not server.is_accepting
    server.stop_accepting()
    assert server.close() == 0


def test_the_url_is_one_that_a_client_can_use(server_class: type[EmbeddedServer]) -> None:
    def url(address: str) -> str:
        return server_class(lambda *_: [], address, 80).url

    assert url("0.0.0.0") == "http://127.0.0.1:80"
    assert url("::") == url("[::1]") == url("::1") == "http://[::1]:80"
    assert url("localhost") == "http://localhost:80"


def test_the_port_is_free_afterwards_and_the_same_server_can_start_again(service: Service) -> None:
    server = service.serve()
    port = server.port
    client = service.connect()
    client.send(CLOSING).answer()  # the server closes first: its end waits in the kernel for a minute
    assert client.is_closed()
    assert server.close(1.0) == 0
    assert server.port == port
    again = service.server_class(service.application, "127.0.0.1", port)
    service.servers.append(again)
    again.start()
    assert service.connect(port).send(CLOSING).answer().status == 200
    again.close(1.0)
    server.start()
    assert server.is_accepting


def test_a_server_starts_once(server: EmbeddedServer) -> None:
    with pytest.raises(UsageError, match="runs already"):
        server.start()


def test_ipv6_is_served(service: Service) -> None:
    try:
        server = service.serve(address="::1")
    except ConfigurationError as error:
        pytest.skip(str(error))
    client = service.connect(server.port, "::1")
    assert client.send(GET).answer().status == 200
    assert service.seen[0].client == "::1"
    assert server.url == f"http://[::1]:{server.port}"


def test_when_all_places_are_taken_the_longest_idle_makes_room(service: Service) -> None:
    server = service.serve(max_connections=2)
    first, second = service.connect(), service.connect()
    for client in (first, second):
        assert client.send(GET).answer().status == 200
    wait_until(lambda: server.idle_connections == 1)  # the last place was taken: one is always ready to be
    assert first.is_closed()
    third = service.connect()
    assert third.send(GET).answer().status == 200
    assert second.is_closed()
    assert server.open_connections <= 2


@pytest.mark.parametrize("server_class", [StrictServer], indirect=True)
def test_beyond_the_last_place_a_few_are_kept_for_some_paths(service: Service) -> None:
    held = Held()
    service.handlers["held"] = held
    server = service.serve(max_connections=2, spare_paths=["/spare"])
    for _ in range(2):
        service.connect().send(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
    wait_until(lambda: held.waiting == 2)

    assert service.connect().send(b"GET /spare HTTP/1.1\r\nHost: a\r\n\r\n").answer().status == 200
    refused = service.connect().send(GET)
    answer = refused.answer()
    assert (answer.status, answer.headers["connection"], answer.headers["retry-after"]) == (503, "close", "1")
    assert refused.is_closed()

    held.released.set()
    for client in service.clients[:2]:
        assert client.answer().status == 200
        client.close()
    wait_until(lambda: server.open_connections < 2)
    assert service.connect().send(GET).answer().status == 200


# ---- stopping -------------------------------------------------------------------------------------------------------


class Held:
    """A handler whose requests wait until they are released."""

    def __init__(self) -> None:
        self.released = Event()
        self.waiting = 0
        self.killed = 0

    def __call__(self, _: WSGIEnvironment, start: StartResponse) -> list[bytes]:
        self.waiting += 1
        try:
            self.released.wait()
        except gevent.GreenletExit:
            self.killed += 1
            raise
        start("200 OK", [("Content-Length", "4")])
        return [b"done"]


HELD = b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def held(service: Service, server: EmbeddedServer) -> Held:
    held = Held()
    service.handlers["held"] = held
    return held


def test_stopping_ends_idle_connections_and_serves_those_with_a_request(
    service: Service, server: EmbeddedServer, held: Held
) -> None:
    idle, silent, busy = service.connect(), service.connect(), service.connect()
    idle.send(GET).answer()
    busy.send(HELD)
    wait_until(lambda: held.waiting == 1 and server.idle_connections == 2)
    server.stop_accepting()
    assert not server.is_accepting
    assert idle.is_closed()
    assert silent.is_closed()
    with pytest.raises(ConnectionRefusedError):
        service.connect()
    wait_until(lambda: server.open_connections == 1)
    held.released.set()
    answer = busy.answer()
    assert (answer.status, answer.body, answer.headers["connection"]) == (200, b"done", "close")
    assert busy.is_closed()
    assert server.close(1.0) == 0


def test_stopping_serves_what_the_kernel_has_accepted(service: Service, server: EmbeddedServer) -> None:
    for sent in (GET, b"") * 10:
        # Without gevent: nothing lets the server accept it.
        plain = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
        plain.connect(("127.0.0.1", server.port))
        plain.sendall(sent)
        service.clients.append(Client(socket.socket(fileno=plain.detach())))
    asking, silent = service.clients[::2], service.clients[1::2]
    server.stop_accepting()
    answers = [client.answer() for client in asking]
    assert {(answer.status, answer.headers["connection"]) for answer in answers} == {(200, "close")}
    assert all(client.is_closed() for client in asking + silent)
    wait_until(lambda: server.open_connections == 0)


def test_stopping_waits_for_a_head_on_its_way(service: Service, server: EmbeddedServer, client: Client) -> None:
    client.send(GET).answer()
    client.send(GET[:20])
    wait_until(lambda: server.idle_connections == 0)
    server.stop_accepting()
    client.send(GET[20:])
    assert client.answer().headers["connection"] == "close"


def test_close_waits_for_requests(service: Service, server: EmbeddedServer, client: Client, held: Held) -> None:
    client.send(HELD)
    wait_until(lambda: held.waiting == 1)
    closing = gevent.spawn(server.close, DEADLINE_S)
    wait_until(lambda: not server.is_accepting)
    assert not closing.ready()
    held.released.set()
    assert client.answer().body == b"done"
    assert closing.get(timeout=DEADLINE_S) == 0


def test_close_cuts_what_does_not_end_and_says_how_many(service: Service, server: EmbeddedServer, held: Held) -> None:
    clients = [service.connect().send(HELD) for _ in range(3)]
    clients.append(service.connect().send(b"GET / HTT"))
    wait_until(lambda: held.waiting == 3 and server.open_connections == 4 and server.idle_connections == 0)
    assert server.close(0.01) == 4
    assert server.open_connections == 0
    assert held.killed == 3
    for client in clients[:3]:
        answer = client.answer()
        assert (answer.status, answer.headers["connection"]) == (503, "close")
        assert client.is_closed()
