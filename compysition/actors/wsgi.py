# SPDX-License-Identifier: Apache-2.0
"""`WSGI`: the door for HTTP. A request becomes an event; the event that comes back becomes the answer.

Parsing, rendering and serving are in `compysition.http`; here is only the way from one to the other. An instance is a
WSGI callable itself, so it can be mounted in another server that runs in the Director's thread.
"""

import random
from collections.abc import Callable, Iterable, Mapping
from threading import get_ident
from typing import Annotated, ClassVar
from wsgiref.types import StartResponse, WSGIEnvironment

from gevent import Timeout, get_hub, monkey

from compysition import lineage
from compysition.actor import Actor
from compysition.arguments import FLAG, PATH, Check, above, checked, one_of, text_that, whole
from compysition.deadletter import stopped_failure
from compysition.errors import (
    ConfigurationError,
    DeadlineError,
    DirectorStateError,
    DirectorStoppedError,
    QueueFullError,
    RequestError,
    UsageError,
    suggestion,
)
from compysition.event import Event, Failure
from compysition.http.body import MAX_BODY_BYTES, PEER, decode_body, read_body
from compysition.http.embedded import make_server
from compysition.http.event import HttpEvent
from compysition.http.exchange import answer_of, find_route
from compysition.http.hangups import HangUps
from compysition.http.health import PATHS, Crowd, health_answer
from compysition.http.proxies import RFC_7239, X_FORWARDED, Proxies
from compysition.http.request import Request
from compysition.http.response import Answer, problem
from compysition.http.routes import Route, RouteTable
from compysition.http.server import EmbeddedServer
from compysition.http.tickets import (
    RETRY_DRAINING_S,
    RETRY_OVERLOAD_S,
    HttpTicket,
    failure_answer,
    unavailable,
    urn,
)
from compysition.http.wire import WireLimits
from compysition.ledger import Outcome
from compysition.lineage import TicketState

#: How long after its deadline an answered request stops waiting for room in further outboxes, in seconds: behind the
#: tick of the deadlines, which ends the wait of those that are not answered.
ANSWERED_S = 0.1
#: What `tls` has to be.
PAIR_OF_PATHS = Check(
    "the paths of a certificate and its key, as a pair",
    lambda value: isinstance(value, tuple) and len(value) == 2 and all(map(PATH.holds, value)),
)
#: After the stop connections get this long for the last bytes of their answers, in seconds.
CLOSE_S = 1.0


class WSGI(Actor):
    """Makes an event of each HTTP request, and the answer of the event that comes back to it.

    The first segment of the path behind `base_path` is `event.service`. If there is an outbox of that name, the event
    goes there, else to all outboxes. Each request gets exactly one answer: the first event of its lineage that reaches
    this actor; or, with the error's status, the first that fails anywhere; or `no_answer_status` when all have ended;
    or 504 when `timeout_s` is over.

    With routes, a request goes to the outbox of the route whose pattern fits its path best, `event.service` is the
    name of that outbox, and `event.params` holds what the pattern's parameters stand for; see `route`.

    An event that arrives with its `error` set is answered as problem details with the error's status. To shape such an
    answer, an actor on the error path sets `event.response.status` or its content type (then `event.data` is
    rendered), or clears `event.error`.

    Args:
        name: Its name.
        base_path: Requests outside this path are answered 404.
        address: Where the embedded server listens. Any other than loopback needs the extra ``http``.
        port: Its port; 0 = a free one.
        run_server: Whether to start the embedded server.
        timeout_s: Seconds from the end of a request's head to its answer, at most.
        max_pending: Requests that may wait for their answer at once; further ones are answered 503.
        max_body_bytes: Larger bodies are answered 413.
        no_answer_status: The answer when all events of a request have ended without one.
        tls: Paths of a certificate and its key, both in PEM, for the embedded server; needs the extra ``http``.
        health: Whether to answer ``/-/live`` (200) and ``/-/ready`` (503 while starting, draining or crowded: 90 % of
            `max_pending` for a second), with one word. A few connections are kept free for them.
        routes: Patterns and the outboxes that they lead to, such as ``{"/orders/{id:int}": "orders", "POST /orders":
            "create"}``; short for calls of `route`.
        header_timeout_s: Seconds for a request's head from its first byte to its end, and for the first byte on a new
            connection; then 408.
        keepalive_s: Seconds that a connection may be idle between two requests.
        body_idle_s: Seconds between two pieces of a body; then 408.
        write_timeout_s: Seconds in which the client has to take some more of its answer; then the connection is reset.
        probe_half_close: Whether to send a client that has ended its sending side a ``100 Continue``, to see whether it
            has gone. Turn it off behind a proxy that cannot take one.
        trusted_proxies: Addresses or networks whose word about the client counts (``unix`` for a Unix socket). What
            others say of it is not shown to actors.
        forwarded: What these proxies write: ``x-forwarded`` or ``rfc7239``.

    Raises:
        ConfigurationError: an argument makes no sense.
    """

    answers = True
    _is_door = True
    #: What `run_server` is if it is not given.
    serves_by_default: ClassVar[bool] = False

    @checked
    def __init__(
        self,
        name: str,
        base_path: Annotated[str, text_that("begins with '/'", lambda path: path.startswith("/"))] = "/",
        *,
        address: Annotated[str, text_that("is an address of this machine", bool)] = "127.0.0.1",
        port: Annotated[int, whole(0, 65535)] = 8080,
        run_server: Annotated[bool | None, FLAG] = None,
        timeout_s: Annotated[float, above(0, "seconds")] = 30.0,
        max_pending: Annotated[int, whole(1)] = 1000,
        max_body_bytes: Annotated[int, whole(1)] = MAX_BODY_BYTES,
        no_answer_status: Annotated[int, whole(200, 599)] = 204,
        tls: Annotated[tuple[str, str] | None, PAIR_OF_PATHS] = None,
        health: Annotated[bool, FLAG] = False,
        routes: Mapping[str, str] | None = None,
        header_timeout_s: Annotated[float, above(0, "seconds")] = 10.0,
        keepalive_s: Annotated[float, above(0, "seconds")] = 5.0,
        body_idle_s: Annotated[float, above(0, "seconds")] = 10.0,
        write_timeout_s: Annotated[float, above(0, "seconds")] = 30.0,
        probe_half_close: Annotated[bool, FLAG] = True,
        trusted_proxies: Iterable[str] = (),
        forwarded: Annotated[str, one_of(X_FORWARDED, RFC_7239)] = X_FORWARDED,
        blocking_consume: bool = False,
    ) -> None:
        super().__init__(name, blocking_consume=blocking_consume)
        self.base_path = base_path
        self.address = address
        self.timeout_s = timeout_s
        self.max_pending = max_pending
        self.max_body_bytes = max_body_bytes
        self.no_answer_status = no_answer_status
        self.health = health
        self._tls = tls
        self.run_server = self.serves_by_default if run_server is None else run_server
        self.probe_half_close = probe_half_close
        self._limits = WireLimits(
            header_timeout_s=header_timeout_s,
            keepalive_s=keepalive_s,
            body_idle_s=body_idle_s,
            write_timeout_s=write_timeout_s,
        )
        self._routes = RouteTable()
        if routes is not None:
            self._routes.add_all(routes)
        self._proxies = Proxies(trusted_proxies, forwarded) if trusted_proxies else None
        self._port = port
        self._bound_port: int | None = None
        self._has_warned_of_threads = False
        self._close_s = CLOSE_S
        self._server: EmbeddedServer | None = None
        self._open: set[HttpTicket] = set()
        self._crowd = Crowd(max_pending)
        self._is_closed = True
        self._get_ident: Callable[[], int] = get_ident
        self._thread = 0

    def route(
        self,
        pattern: str,
        outbox: str,
        *,
        methods: Iterable[str] | None = None,
        timeout_s: float | None = None,
        max_body_bytes: int | None = None,
        consumes: Iterable[str] | None = None,
        produces: Iterable[str] | None = None,
    ) -> None:
        """Send the requests whose path fits `pattern` to `outbox`. Call it before the Director starts.

        A pattern is a path with parameters as whole segments: ``{name}`` takes one segment, ``{name:int}`` one of 1 to
        18 digits, ``{name:uuid}`` a UUID, ``{name:path}`` all the rest. At each segment a literal is better than a
        number or UUID, that better than any text, that better than all the rest; the order of calls does not matter.
        From the first route on, what none fits is answered 404, and a method that it does not take 405.

        Args:
            pattern: Such as ``/orders/{id:int}``, behind `base_path`. ``/a`` and ``/a/`` are two paths.
            outbox: The name of an outbox; that of the actor behind it, unless the connection says otherwise.
            methods: What it takes; HEAD with GET. All common ones but OPTIONS if not given, which is answered here.
            timeout_s: Seconds for these requests, instead of the door's.
            max_body_bytes: Limit of their bodies, instead of the door's.
            consumes: Types of body that it takes, such as ``application/json`` or ``*/*+json``; else 415.
            produces: Types of answer that it gives, the preferred first. Who accepts none of them is answered 406.

        Raises:
            ConfigurationError: An argument makes no sense, or another route takes the same paths.
            DirectorStateError: The Director runs already.
        """
        if not self._is_closed:
            raise DirectorStateError(f"route {pattern!r} of {self.name!r}: routes are made before the start")
        self._routes.add(
            pattern,
            outbox,
            methods=methods,
            timeout_s=timeout_s,
            max_body_bytes=max_body_bytes,
            consumes=consumes,
            produces=produces,
        )

    # ---- life -----------------------------------------------------------------------------------------------------

    def pre_hook(self) -> None:
        """Begin to take requests; start the server if this actor has one."""
        self._check_outboxes()
        self._get_ident = monkey.get_original("threading", "get_ident")
        self._thread = self._get_ident()
        self._is_closed = False
        self._close_s = CLOSE_S
        self._hangups = HangUps(self._hosted.clock, probes=self.probe_half_close)
        if self.run_server:
            # A restart of the actor comes back on the port that its clients know.
            port = self._bound_port or self._port
            spare_paths = PATHS if self.health else ()
            self._server = make_server(self, self.address, port, self._limits, tls=self._tls, spare_paths=spare_paths)
            self._server.start()
            self._bound_port = self._server.port

    def _check_outboxes(self) -> None:
        known = self._wired.outboxes
        for route in self._routes:
            if route.outbox not in known:
                raise ConfigurationError(
                    f"route {route.pattern!r} leads to {route.outbox!r}, and {self.name!r} has no such outbox"
                    f"{suggestion(route.outbox, known)}"
                )

    def post_hook(self) -> None:
        """Close the server, when its last answers are out."""
        self._is_closed = True
        if self._server is not None:
            self._server.close(timeout_s=self._close_s)
            self._server = None
        self._hangups.close()

    @property
    def port(self) -> int:
        """The port on which it listens, also when 0 was given."""
        return self._server.port if self._server is not None else self._port

    @property
    def pending(self) -> int:
        """Requests that wait for their answer."""
        return len(self._open)

    def _close_intake(self) -> None:
        self._is_closed = True
        self._bound_port = None
        if self._server is not None:
            self._server.stop_accepting()

    def _trouble(self) -> str | None:
        """Why no requests should be sent here, in a word."""
        if self._is_closed:
            return "draining" if self._host is not None and self._host.is_stopping else "starting"
        return "crowded" if self._crowd.lasts(self._hosted.clock.monotonic()) else None

    def _is_answering(self) -> bool:
        return bool(self._open)

    def _abort(self) -> int:
        # Their time is over: who still sends its request is not waited for.
        self._close_s = 0.0
        number = len(self._open)
        failure = stopped_failure()
        for ticket in tuple(self._open):
            ticket.fail(failure)
        return number

    def _door(self) -> str | None:
        if self._server is None:
            return None
        url = self._server.url.rstrip("/") + self.base_path
        return f"{self.name}: {url}  (try: curl -i {url})"

    def _listens_on(self) -> tuple[str, ...]:
        host = f"[{self.address}]" if ":" in self.address.strip("[]") else self.address
        return (f"http://{host}:{self._port}{self.base_path}",) if self.run_server else ()

    # ---- answers --------------------------------------------------------------------------------------------------

    def consume(self, event: Event) -> None:
        """Take `event` as the answer to its request. Never waits."""
        token = event._lineage
        ticket = token.ticket if token is not None else None
        if ticket is None or (isinstance(ticket, HttpTicket) and ticket.door is not self):
            raise UsageError(
                f"no request of {self.name!r} waits for event {event.event_id}: an answer has to be the request's own "
                "event, a copy of it, or made by self.create_event()"
            )
        outcome = lineage.answer(event, self._wired.ledger)
        if outcome is not Outcome.ANSWERED and ticket.late + ticket.second == 1:
            self.logger.info(
                "request %s was answered already (%s): event %s is not used",
                event.meta_id,
                ticket.state.value,
                event.event_id,
                extra={"event_id": event.event_id},
            )

    # ---- requests -------------------------------------------------------------------------------------------------

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request: the WSGI application. Waits, at most `timeout_s`, for the answer."""
        status, headers, body = self._answer(environ)
        start_response(status, headers)
        return [body] if body else []

    #: The same under the name that WSGI servers know.
    application = __call__

    def _answer(self, environ: WSGIEnvironment) -> Answer:
        method: str = environ["REQUEST_METHOD"]
        accept: str | None = environ.get("HTTP_ACCEPT")
        if self.health:
            path = environ.get("PATH_INFO", "")
            if path in PATHS:
                return health_answer(path, method, self._trouble())
        if self._is_closed:
            return unavailable(RETRY_DRAINING_S, method, accept)
        if self._get_ident() != self._thread:
            if not self._has_warned_of_threads:
                self._has_warned_of_threads = True
                self.logger.error(
                    "a request came in another thread than the Director's and was answered 500: serve it with gevent's "
                    "greenlets (said once)"
                )
            return problem(500, method=method, accept=accept)
        request: Request | None = None
        try:
            request = Request.from_environ(environ, self.base_path, self._proxies)
            found = find_route(self._routes, request, self.max_body_bytes)
            if isinstance(found, Route):
                if len(self._open) < self.max_pending:
                    return self._take(found, request, environ)
                refusal = unavailable(random.choice(RETRY_OVERLOAD_S), method, accept)
            else:
                refusal = found
        except RequestError as error:
            meta_id = (request.request_id if request else None) or Event().event_id
            refusal = failure_answer(Failure.of(error), urn(meta_id), method, accept)
            refusal[1].append(("X-Request-ID", meta_id))
        return refusal

    def _take(self, route: Route, request: Request, environ: WSGIEnvironment) -> Answer:
        host = self._hosted
        timeout_s = route.timeout_s or self.timeout_s
        ticket = HttpTicket(host.clock, host.deadlines, timeout_s, get_hub().loop)
        ticket.door = self
        self._open.add(ticket)
        if len(self._open) >= self._crowd.size:
            self._crowd.grew(host.clock.monotonic())
        peer = environ.get(PEER)
        if peer is not None:
            self._hangups.watch(ticket, peer)
        try:
            return self._ask(ticket, route, request, environ, timeout_s)
        finally:
            self._open.discard(ticket)
            if len(self._open) < self._crowd.size:
                self._crowd.since = None
            if peer is not None:
                self._hangups.unwatch(ticket)
            # Only if this greenlet was killed, or something broke, is it still open: what comes then is for nobody.
            ticket.cancel()

    def _ask(
        self, ticket: HttpTicket, route: Route, request: Request, environ: WSGIEnvironment, timeout_s: float
    ) -> Answer:
        meta_id = request.request_id
        try:
            body = read_body(environ, route.max_body_bytes or self.max_body_bytes, timeout_s=timeout_s)
            decoded = decode_body(request.content_type, body)
            event = HttpEvent(decoded.data, request, route.outbox or request.service, meta_id)
            event.files = decoded.files
            meta_id = event.meta_id
            ticket.attach(event)
            try:
                has_begun = self._send(event, ticket)
            finally:
                # Nothing here may keep the event: its end is the end of the last reference.
                del event
            if has_begun or ticket.state in (TicketState.ANSWERED, TicketState.FAILED):
                ticket.wait()
                status, headers, content = answer_of(
                    ticket,
                    request,
                    meta_id,
                    produces=route.produces,
                    no_answer_status=self.no_answer_status,
                    logger=self.logger,
                )
            else:
                status, headers, content = unavailable(random.choice(RETRY_OVERLOAD_S), request.method, request.accept)
        except RequestError as error:
            meta_id = meta_id or Event().event_id
            status, headers, content = failure_answer(Failure.of(error), urn(meta_id), request.method, request.accept)
        headers.append(("X-Request-ID", meta_id))
        return status, headers, content

    def _send(self, event: HttpEvent, ticket: HttpTicket) -> bool:
        """Put the request into the flow, waiting for room until its deadline. Returns whether anything was begun."""
        if ticket.state is not TicketState.OPEN:
            # A stop has ended it while its body came.
            return False
        outboxes = self._wired.outboxes
        outbox = event.service if event.service in outboxes else None
        # One branch may answer while the event waits for room in the next; from then on it has no time of its own.
        limit = None
        targets = outboxes.values() if outbox is None else (outboxes[outbox],)
        if sum(map(len, targets)) > 1 and ticket.deadline is not None:
            left_s = ticket.deadline - self._hosted.clock.monotonic()
            limit = Timeout.start_new(max(0.0, left_s) + ANSWERED_S)
        try:
            self.send_event(event, outbox)
        except DeadlineError as error:
            return error.has_begun
        except (DirectorStoppedError, QueueFullError):
            return False
        except Timeout as timeout:
            if timeout is not limit:
                raise
            self.logger.warning(
                "request %s was answered by one branch and found no room for the next until its deadline: those left "
                "do not get it",
                event.meta_id,
                extra={"event_id": event.event_id},
            )
        finally:
            if limit is not None:
                limit.close()
        return True


class WSGIServer(WSGI):
    """`WSGI` that starts the embedded server unless told not to. Arguments: as `WSGI`."""

    serves_by_default = True
