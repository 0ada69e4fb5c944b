# SPDX-License-Identifier: Apache-2.0
"""What the full circle costs against a bare WSGI function on the same server: `scripts/bench http`.

Each side is a server process on one core; the load comes from the measuring process on another one. CPU per request is
that of the server process, read from its CPU clock.
"""

import argparse
import base64
import hmac
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gevent import pywsgi
from gevent.event import Event as Flag

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # as a script it would find only what lies beside it

from compysition import Actor, Director, Event
from compysition.actors import WSGI, BasicAuth, Transformer
from compysition.http.embedded import make_server
from tests.benchmarks import http_load, measure, xml_sample
from tests.benchmarks.measure import Case, Figures, Side, Target

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

#: Seconds after which no further round begins.
LIMIT_S, QUICK_LIMIT_S = 200.0, 38.0
#: How long the load lasts, and how long the one before it that warms up.
LOAD_S, QUICK_LOAD_S, WARM_UP_S = 1.5, 0.6, 0.3
SERVER_START_S = 15.0
#: A server ends by itself after this many whole seconds, in case whoever started it was killed.
SERVER_LIFE_S = 100
CONNECTIONS = 64
#: A fair server takes its connections in turn, so its slow answers take little longer than the mean.
FAIR_P99_OF_MEAN = 5.0

HOST = "127.0.0.1"
USER, PASSWORD = "benchmark", "correct horse"
CREDENTIALS = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode("ascii")
HELLO = b"Hello, this has been a test"


def face(figures: Figures) -> str:
    """Whether the server took its connections in turn, or served a few and let the others wait."""
    mean_s = figures["wall_s"] * figures["connections"]
    return "fair" if figures["p99_s"] < FAIR_P99_OF_MEAN * mean_s else "greedy"


BARE, STOCK, OURS = Side("bare"), Side("stock"), Side("compysition")
FIGURES = {
    "cpu_s": "CPU time of the server per request",
    "wall_s": "time per request",
    "p50_s": "median latency",
    "p99_s": "99th percentile of the latency",
}
CASES = (
    Case(
        "hello-64",
        f"hello over 4 hops and back, {CONNECTIONS} kept connections; bare = function on our server, stock = on pywsgi",
        (BARE, STOCK, OURS),
        FIGURES,
        ("bare", "stock"),
        (Target("cpu_s", "bare", 0.75, 1.0),),
        face,
    ),
    Case(
        "hello-1",
        "hello over 4 hops and back, 1 kept connection",
        (BARE, OURS),
        FIGURES,
        ("bare",),
        (Target("cpu_s", "bare", 0.60, 0.90),),
    ),
    Case(
        "xml-64",
        f"2 KiB of XML: parse, auth, XSLT, answer, {CONNECTIONS} kept connections; bare = the same steps in a function",
        (BARE, OURS),
        FIGURES,
        ("bare",),
        (Target("cpu_s", "bare", 0.95, 1.3),),
        face,
    ),
    Case("xml-1", "2 KiB of XML: parse, auth, XSLT, answer, 1 kept connection", (BARE, OURS), FIGURES, ("bare",)),
    Case(
        "kept",
        "hello: requests on one kept connection (keep) against a new connection for each (new)",
        (Side("bare, new"), Side("bare, keep"), Side("compysition, new"), Side("compysition, keep")),
        FIGURES,
        ("bare, new", "compysition, new"),
        (
            Target("cpu_s", "compysition, new", 1.0, 1.2, side="compysition, keep"),
            Target("p50_s", "compysition, new", 1.0, 1.2, side="compysition, keep"),
        ),
    ),
)


def request(flow: str) -> tuple[bytes, bytes]:
    """What the client sends, and the body that has to come back."""
    if flow == "hello":
        return f"GET /hello HTTP/1.1\r\nHost: {HOST}\r\nAccept: */*\r\n\r\n".encode(), HELLO
    document = xml_sample.order(xml_sample.LINES_SMALL)
    head = (
        f"POST /order HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Basic {CREDENTIALS}\r\n"
        f"Content-Type: application/xml\r\nContent-Length: {len(document)}\r\n\r\n"
    )
    return head.encode() + document, xml_sample.transform(xml_sample.stylesheet(), document)


# ---- the bases ------------------------------------------------------------------------------------------------------


def hello(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    """The least that a WSGI application can do."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(HELLO)))])
    return [HELLO]


def xml_function() -> "Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]":
    """A WSGI application with the steps of the XML flow, one after the other."""
    users = {USER: PASSWORD.encode()}
    compiled = xml_sample.stylesheet()

    def application(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        user, _, password = base64.b64decode(token, validate=True).decode().partition(":")
        known = users.get(user, b"")
        if scheme.lower() != "basic" or not hmac.compare_digest(password.encode(), known) or not known:
            start_response("401 Unauthorized", [("WWW-Authenticate", "Basic"), ("Content-Length", "0")])
            return []
        document = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        try:
            body = xml_sample.transform(compiled, document)
        except ValueError:
            start_response("400 Bad Request", [("Content-Length", "0")])
            return []
        start_response("200 OK", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [body]

    return application


class NoDelayHandler(pywsgi.WSGIHandler):
    """What keeps pywsgi from waiting 44 ms before each small answer on a kept connection."""

    def __init__(self, sock: Any, *arguments: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().__init__(sock, *arguments)


# ---- the server process ---------------------------------------------------------------------------------------------


class Relay(Actor):
    def consume(self, event: Event) -> None:
        self.send_event(event)


class Hello(Actor):
    def consume(self, event: Event) -> None:
        event.data = HELLO
        self.send_event(event)


def serve(side: str, flow: str, port: int) -> int:
    """Be the server until told to end."""
    if side == "stock":
        pywsgi.WSGIServer((HOST, port), hello, log=None, handler_class=NoDelayHandler).serve_forever()
    if side == "bare":
        application: Any = hello if flow == "hello" else xml_function()
        make_server(application, HOST, port).start()
        Flag().wait()
    director = Director()
    wsgi = director.register_actor(WSGI, "wsgi", run_server=True, address=HOST, port=port)
    if flow == "hello":
        steps: list[Actor] = [director.register_actor(Relay, f"relay_{number}") for number in range(3)]
        steps.append(director.register_actor(Hello, "hello"))
    else:
        auth = director.register_actor(BasicAuth, "auth", users={USER: PASSWORD})
        transformer = director.register_actor(Transformer, "transformer", xml_sample.STYLESHEET)
        director.connect_queue_error(auth, wsgi)
        director.connect_queue_error(transformer, wsgi)
        steps = [auth, transformer]
    for source, destination in zip([wsgi, *steps], [*steps, wsgi], strict=True):
        director.connect_queue(source, destination)
    report = director.start()
    return 0 if report is None else report.exit_code


# ---- one side: server and load --------------------------------------------------------------------------------------


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(side: str, flow: str, core: int | None) -> "Iterator[tuple[subprocess.Popen[bytes], http_load.Address]]":
    """A server process that answers, ended afterwards.

    Raises:
        RuntimeError: it does not answer in time.
    """
    address = (HOST, free_port())
    command = [sys.executable, sys.argv[0], "--serve", flow, "--side", side, "--port", str(address[1])]
    command += ["--core", str(core)] if core is not None else []
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + SERVER_START_S
        while True:
            try:
                http_load.connect(address).close()
                break
            except ConnectionRefusedError:
                if time.monotonic() > limit or process.poll() is not None:
                    raise RuntimeError(f"the server {side} did not start") from None
                time.sleep(0.02)
        yield process, address
    finally:
        process.terminate()
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def cpu_seconds(pid: int) -> float:
    """CPU time that another process has used, from its own clock: /proc counts in 10 ms. See clock_getcpuclockid(3)."""
    return time.clock_gettime((~pid << 3) | 2)


def measure_side(side: str, case: str, core: int | None, *, quick: bool) -> Figures:
    """Start the server, load it, and report."""
    name, _, mode = side.partition(", ")
    flow = "xml" if case.startswith("xml") else "hello"
    connections = CONNECTIONS if case.endswith("64") else 1
    sent, wanted = request(flow)
    others = [other for other in measure.cores() if other != core]
    with server(name, flow, core) as (process, address):
        measure.pin(others[0] if core is not None and others else None)
        answer = http_load.ask(address, sent)
        if answer != wanted:
            raise RuntimeError(f"{side} answered {answer[:200]!r}")

        def load(duration_s: float) -> http_load.Load:
            if mode == "new":
                return http_load.new_connections(address, sent, duration_s)
            return http_load.kept_connections(address, sent, duration_s, connections)

        load(WARM_UP_S)
        cpu_began = cpu_seconds(process.pid)
        measured = load(QUICK_LOAD_S if quick else LOAD_S)
        cpu_s = cpu_seconds(process.pid) - cpu_began
    requests = len(measured.latencies_s)
    return {
        "cpu_s": cpu_s / requests,
        "wall_s": measured.wall_s / requests,
        "p50_s": measured.percentile(0.5),
        "p99_s": measured.percentile(0.99),
        "connections": connections,
    }


def main() -> int:
    """Compare, be one side, or be the server of one side."""
    parser = measure.parser(__doc__ or "", CASES)
    parser.add_argument("--serve", choices=["hello", "xml"], help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        measure.pin(options.core)
        signal.alarm(SERVER_LIFE_S)
        return serve(options.side, options.serve, options.port)
    if options.side:
        measure.report_side(measure_side(options.side, measure.only_case(options), options.core, quick=options.quick))
        return 0
    limit_s = QUICK_LIMIT_S if options.quick else LIMIT_S
    return measure.compare(CASES, options, rounds=7, limit_s=limit_s, packages=("gevent", "lxml"))


if __name__ == "__main__":
    sys.exit(main())
