# SPDX-License-Identifier: Apache-2.0
"""`MDPClient`: events go to workers in other processes, and the event that comes back is the event that went.

The rules are in `compysition.mdp.client` and `link`, the sockets in `compysition.mdp.driving`.
"""

import os
from collections import deque
from collections.abc import Sequence
from typing import Annotated

from compysition.actor import Actor
from compysition.arguments import FLAG, above, checked, one_of, whole
from compysition.backoff import Backoff
from compysition.errors import (
    CompysitionError,
    EventNotOwnedError,
    UnavailableError,
    UnprocessableError,
)
from compysition.event import Event, Failure
from compysition.mdp.client import Call, Client, ClientSettings, News, NewsKind
from compysition.mdp.discovery import LOOPBACK, Finder, Place, brokers_of, places_of
from compysition.mdp.driving import ClientDriver
from compysition.mdp.envelope import NO_REDISPATCH, NO_WAIT
from compysition.mdp.frames import is_service_name
from compysition.mdp.neighbours import Neighbours
from compysition.parking import Parking
from compysition.wire import failure_of, request_of, take_answer

BACKOFF = Backoff(first_s=0.05, factor=2.0, most_s=5.0, jitter=0.2)
#: Partial replies of one request that are put together, in bytes, at most.
MOST_PART_BYTES = 64 * 1024 * 1024


class _Open:
    """An event on its way: kept by the client until its answer has come."""

    __slots__ = ("call", "event", "parts", "size")

    def __init__(self, event: Event, call: Call) -> None:
        self.event = event
        self.call = call
        self.parts: list[bytes] = []
        self.size = 0


class MDPClient(Actor):
    """Sends each event to a worker of `event.service`, and sends it on when the answer is in it.

    The event that comes out is the one that went in: the same identity, HTTP request and lineage, with the worker's
    data, and its status and headers if it is an `HttpEvent`. A worker's error, or that of a broker, fails the event
    with the same status. Several partial replies arrive together, as a list.

    While `max_in_flight` events are on their way it takes no further ones from its inboxes.

    Args:
        name: Its name.
        brokers: Endpoints of all brokers that may be asked, such as ``tcp://10.0.0.5:5555``; by default those that the
            registrar knows. A request goes to the one with the fewest outstanding, and to another if that one dies.
        registrar: Whom to ask for brokers: a pair of endpoints (asked, published), or several pairs; by default the one
            on loopback.
        service: Ask for this service whatever `event.service` is.
        timeout_s: Seconds until an answer has to be there; less if the event's own deadline is nearer.
        max_in_flight: Events on their way at once.
        redispatch: Whether a request may be given to a second worker if the first one dies. False = at most once.
        wait: Whether to wait for a worker while none is registered. False = answered with 404 at once.
        protocol: "0.1" or "0.2" towards foreign brokers; by default it is found out.
        envelope: "always" if all workers behind a foreign broker are ours.
        try_timeout_s: After so many seconds without a reply a foreign broker is asked again.

    Raises:
        ConfigurationError: an argument makes no sense.
    """

    answers = True

    @checked
    def __init__(
        self,
        name: str,
        *,
        brokers: Sequence[str] | None = None,
        registrar: Place | Sequence[Place] | None = LOOPBACK,
        service: str | None = None,
        timeout_s: Annotated[float, above(0, "seconds")] = 30.0,
        max_in_flight: Annotated[int, whole(1)] = 1000,
        redispatch: Annotated[bool, FLAG] = True,
        wait: Annotated[bool, FLAG] = True,
        protocol: Annotated[str | None, one_of("0.1", "0.2")] = None,
        envelope: Annotated[str, one_of("auto", "always")] = "auto",
        try_timeout_s: Annotated[float, above(0, "seconds")] = 10.0,
        blocking_consume: bool = False,
    ) -> None:
        super().__init__(name, blocking_consume=blocking_consume)
        self.brokers = brokers_of(brokers, who=name)
        self.registrars = places_of(registrar, who=name)
        self.service = service
        self.timeout_s = timeout_s
        self.max_in_flight = max_in_flight
        self._flags = (0 if redispatch else NO_REDISPATCH) | (0 if wait else NO_WAIT)
        self._settings = ClientSettings(
            max_in_flight=max_in_flight, protocol=protocol, envelope=envelope, try_timeout_s=try_timeout_s
        )
        self._driver: ClientDriver | None = None
        self._open: dict[bytes, _Open] = {}
        self._news: deque[News] = deque()
        self._feeding: Parking | None = None
        self._id_prefix = b""
        self._next_id = 0
        self._is_flow_drained = False

    # ---- life -----------------------------------------------------------------------------------------------------

    def pre_hook(self) -> None:
        """Connect to the brokers; they need not be there yet. After a restart, ask again what is open."""
        host = self._hosted
        now = host.clock.monotonic()
        client = Client(self._settings, BACKOFF.delay_s)
        driver = self._driver = ClientDriver(host.clock, client, on_news=self._take_soon, on_turn=self._leave_if_done)
        if self.brokers is not None:
            client.set_brokers(self.brokers, now)
        else:
            driver.finder = Finder(driver.reactor, self.registrars, "client", client.set_brokers)
        self._is_flow_drained = False
        # Drawn here, in the process that uses it: a forked one must not count where its parent does.
        self._id_prefix = os.urandom(8)
        for one in self._open.values():
            old = one.call
            one.call = Call(
                old.id, old.service, old.data, metadata=old.metadata, deadline=old.deadline, flags=old.flags
            )
            one.call.plain = old.plain
            one.parts.clear()
            client.ask(one.call, now)
        neighbours = Neighbours.of(host)
        neighbours.clients.add(self.name)
        neighbours.listen(self.name, driver.reactor.wake)
        self.background(driver.reactor.run)
        self.background(self._feed)

    def post_hook(self) -> None:
        """Close the connections."""
        driver, self._driver = self._driver, None
        if driver is not None:
            now = self._hosted.clock.monotonic()
            driver.client.stop(now)
            driver.flush(now)
            Neighbours.of(self._hosted).done(self.name)
            driver.reactor.close()

    def _on_flow_drained(self) -> None:
        self._is_flow_drained = True
        if self._driver is not None:
            self._driver.reactor.wake()

    def _is_answering(self) -> bool:
        return bool(self._open)

    @property
    def in_flight(self) -> int:
        """Events on their way."""
        return len(self._open)

    # ---- there ----------------------------------------------------------------------------------------------------

    def consume(self, event: Event) -> None:
        """Send `event` to a worker. Never waits.

        Raises:
            UnprocessableError: the service's name or the data cannot be sent.
            TooLargeError: it is too large to be sent.
            UnavailableError: the client has stopped.
        """
        driver = self._driver
        if driver is None or not driver.reactor.is_running:
            raise UnavailableError("the MajorDomo client has stopped", retry_after_s=5.0)
        service = (self.service if self.service is not None else event.service).encode()
        if not is_service_name(service):
            raise UnprocessableError(f"service {event.service!r}: wanted are 1 to 255 bytes without control characters")
        data, plain, metadata = request_of(event)
        now = self._hosted.clock.monotonic()
        deadline = now + self.timeout_s
        if event._lineage is not None and event._lineage.ticket.deadline is not None:
            deadline = min(deadline, event._lineage.ticket.deadline)
        self._next_id += 1
        identity = self._id_prefix + self._next_id.to_bytes(8)
        call = Call(identity, service, data, metadata=metadata, deadline=deadline, flags=self._flags)
        call.plain = plain
        self.keep(event)
        self._open[identity] = _Open(event, call)
        driver.client.ask(call, now)
        driver.reactor.wake()
        if len(self._open) >= self.max_in_flight:
            self.pause()

    # ---- and back -------------------------------------------------------------------------------------------------

    def _take_soon(self, news: News) -> None:
        self._news.append(news)
        if self._feeding is not None:
            self._feeding.wake()

    def _feed(self) -> None:
        """Send events on. In a greenlet of its own: it may wait for room, and pings must go on meanwhile."""
        place = self._feeding = Parking()
        try:
            while self._driver is not None and self._driver.reactor.is_running:
                while self._news:
                    self._take(self._news.popleft())
                if self._is_flow_drained and not self._open:
                    self._driver.reactor.wake()
                place.park()
        finally:
            self._feeding = None
            place.calm()

    def _take(self, news: News) -> None:
        one = self._open.get(news.call.id)
        if one is None or one.call is not news.call:
            return
        if news.is_restart:
            one.parts.clear()
            one.size = 0
        if news.kind is NewsKind.PARTIAL:
            one.parts += news.body
            one.size += sum(map(len, news.body))
            if one.size > MOST_PART_BYTES and self._driver is not None:
                self._driver.client.cancel(news.call, self._hosted.clock.monotonic())
                self._finish(one, Failure(CompysitionError, "its partial replies are too large", 502))
            return
        failure: Failure | None = None
        if news.kind is NewsKind.FAILED:
            failure = failure_of(news.body[0], news.status, {})
        else:
            try:
                take_answer(one.event, [*one.parts, *news.body], news.envelope)
            except CompysitionError as error:
                failure = Failure(type(error), f"the answer cannot be read: {error}", 502)
        self._finish(one, failure)

    def _finish(self, one: _Open, failure: Failure | None) -> None:
        event = one.event
        if failure is not None:
            event.error = failure
        try:
            if event.error is not None:
                self.send_error(event)
            else:
                self.send_event(event)
        except EventNotOwnedError:
            pass  # it ended while it was kept, as at the deadline of a stop
        except CompysitionError as error:
            self.logger.info("event %s could not be sent on: %s", event.event_id, error)
        finally:
            self._open.pop(one.call.id, None)
            if len(self._open) < self.max_in_flight:
                self.resume()

    def _leave_if_done(self) -> None:
        """During a stop: end when nothing more will come and nothing is open."""
        driver = self._driver
        if driver is None or not self._is_flow_drained:
            return
        for one in [one for one in self._open.values() if one.call.id in driver.client.calls]:
            token = one.event._lineage
            if token is not None and token.ticket.is_expired():
                # Nobody waits for it any more, so neither does the stop.
                driver.client.cancel(one.call, self._hosted.clock.monotonic())
                self._take_soon(News(one.call, NewsKind.FAILED, (b"nobody waits for the answer any more",), status=504))
        if not self._open and not self.inbox_depth:
            driver.reactor.stop()
            Neighbours.of(self._hosted).done(self.name)
            if self._feeding is not None:
                self._feeding.wake()
