# SPDX-License-Identifier: Apache-2.0
"""`MDPWorker`: requests of MajorDomo brokers become events, and the events that come back the answers.

The rules are in `compysition.mdp.pool` and `worker`, the sockets in `compysition.mdp.driving`.
"""

import os
import socket
from collections import deque
from collections.abc import Sequence
from typing import Annotated, Any

from gevent import get_hub

from compysition import lineage
from compysition.actor import Actor
from compysition.arguments import above, checked, one_of, text_that, whole
from compysition.backoff import Backoff
from compysition.errors import (
    CompysitionError,
    DeadlineError,
    DirectorStoppedError,
    QueueFullError,
    UsageError,
)
from compysition.event import Event, Failure
from compysition.ledger import Outcome
from compysition.lineage import Ticket, TicketState
from compysition.mdp.discovery import LOOPBACK, Finder, Place, brokers_of, places_of
from compysition.mdp.driving import WorkerDriver
from compysition.mdp.frames import is_service_name
from compysition.mdp.hello import MOST_CREDIT, WorkerHello
from compysition.mdp.neighbours import Neighbours
from compysition.mdp.pool import WorkerPool
from compysition.mdp.window import Answer, RepeatWindow
from compysition.mdp.worker import Job, WorkerSettings
from compysition.parking import Parking
from compysition.wire import answer_of, answer_of_failure, event_of

BACKOFF = Backoff(first_s=0.05, factor=2.0, most_s=5.0, jitter=0.2)


class JobTicket(Ticket):
    """Waits for the answer to one job of `worker`."""

    __slots__ = ("job", "worker")

    job: Job
    worker: "MDPWorker"

    def _close(self, state: TicketState) -> None:
        is_open = self.state is TicketState.OPEN
        super()._close(state)
        if is_open:
            self.worker._closed(self)


class MDPWorker(Actor):
    """Serves one service: each request becomes an event, and the event that comes back to it is the answer.

    As with `WSGI` the answer is the first event of the request's lineage that reaches this actor, or the error of the
    first that fails anywhere, or nothing (None) when all have ended. A request comes at least once: one that this
    process has answered before is answered again from memory, but another process would execute it.

    Args:
        name: Its name.
        service: What it serves: 1 to 255 bytes of text.
        brokers: Endpoints of all brokers to work for, such as ``tcp://10.0.0.5:5555``; by default those that the
            registrar knows.
        registrar: Whom to ask for brokers: a pair of endpoints (asked, published), or several pairs; by default the one
            on loopback.
        concurrency: How many requests it works on at once, over all brokers.
        protocol: "0.1" or "0.2" towards foreign brokers; by default it is found out.
        envelope: "always" if all clients behind a foreign broker are ours.
        repeat_window_s: How long answers are remembered, in seconds.
        timeout_s: How long a request that brings no deadline may take, in seconds; None = for ever.

    Raises:
        ConfigurationError: an argument makes no sense.
    """

    answers = True
    _is_door = True

    @checked
    def __init__(
        self,
        name: str,
        service: Annotated[
            str,
            text_that(
                "names a service, 1 to 255 bytes without control characters, not beginning with 'mmi.'",
                lambda text: is_service_name(text.encode()) and not text.startswith("mmi."),
            ),
        ],
        *,
        brokers: Sequence[str] | None = None,
        registrar: Place | Sequence[Place] | None = LOOPBACK,
        concurrency: Annotated[int, whole(1, MOST_CREDIT)] = 100,
        protocol: Annotated[str | None, one_of("0.1", "0.2")] = None,
        envelope: Annotated[str, one_of("auto", "always")] = "auto",
        repeat_window_s: Annotated[float, above(0, "seconds")] = 600.0,
        timeout_s: Annotated[float | None, above(0, "seconds")] = None,
        blocking_consume: bool = False,
    ) -> None:
        super().__init__(name, blocking_consume=blocking_consume)
        self.service = service
        self.brokers = brokers_of(brokers, who=name)
        self.registrars = places_of(registrar, who=name)
        self.concurrency = concurrency
        self.timeout_s = timeout_s
        self._protocol = protocol
        self._envelope = envelope
        self._window: RepeatWindow[Job] = RepeatWindow(repeat_window_s)
        self._driver: WorkerDriver | None = None
        self._jobs: deque[Job] = deque()
        self._tickets: set[JobTicket] = set()
        self._done: deque[tuple[JobTicket, TicketState]] = deque()
        self._feeding: Parking | None = None

    # ---- life -----------------------------------------------------------------------------------------------------

    def pre_hook(self) -> None:
        """Connect to the brokers; they need not be there yet."""
        host = self._hosted
        hello = WorkerHello(self.concurrency, f"{self.name}-{os.urandom(4).hex()}", os.getpid(), socket.gethostname())
        settings = WorkerSettings(protocol=self._protocol, envelope=self._envelope, hello=hello)
        pool = WorkerPool(
            self.service.encode(),
            settings,
            concurrency=self.concurrency,
            delay_s=BACKOFF.delay_s,
            window=self._window,
            # After a restart: what was begun is finished, and answers whoever asks again.
            running=len(self._jobs) + len(self._tickets) + len(self._done),
        )
        driver = self._driver = WorkerDriver(
            host.clock, pool, on_job=self._begin_soon, on_answers=self._finish, on_turn=self._leave_if_done
        )
        if self.brokers is not None:
            pool.set_brokers(self.brokers, host.clock.monotonic())
        else:
            driver.finder = Finder(driver.reactor, self.registrars, "worker", pool.set_brokers)
        neighbours = Neighbours.of(host)
        neighbours.workers.add(self.name)
        neighbours.listen(self.name, driver.reactor.wake)
        self.background(driver.reactor.run)
        self.background(self._feed)

    def post_hook(self) -> None:
        """Close the connections."""
        driver, self._driver = self._driver, None
        if driver is not None:
            driver.pool.abandon(self._hosted.clock.monotonic())
            Neighbours.of(self._hosted).done(self.name)
            driver.reactor.close()

    def _close_intake(self) -> None:
        if self._driver is not None:
            self._driver.reactor.wake()

    def _is_answering(self) -> bool:
        return bool(self._tickets)

    def _abort(self) -> int:
        # Their time is over; the brokers give them to others.
        number = len(self._tickets)
        failure = Failure(DirectorStoppedError, "the worker stopped", 503)
        for ticket in tuple(self._tickets):
            ticket.fail(failure)
        if self._driver is not None:
            self._driver.flush(self._hosted.clock.monotonic())
        return number

    # ---- requests become events -----------------------------------------------------------------------------------

    def _begin_soon(self, job: Job) -> None:
        self._jobs.append(job)
        if self._feeding is not None:
            self._feeding.wake()

    def _feed(self) -> None:
        """Send events of jobs. In a greenlet of its own: it may wait for room, and heartbeats must go on meanwhile."""
        place = self._feeding = Parking()
        try:
            while self._driver is not None and self._driver.reactor.is_running:
                while self._jobs:
                    self._begin(self._jobs.popleft())
                place.park()
        finally:
            self._feeding = None
            place.calm()

    def _begin(self, job: Job) -> None:
        host = self._hosted
        now = host.clock.monotonic()
        timeout_s = self.timeout_s if job.deadline is None else max(0.0, job.deadline - now)
        ticket = JobTicket(host.clock, host.deadlines, timeout_s, get_hub().loop)
        ticket.job = job
        ticket.worker = self
        self._tickets.add(ticket)
        try:
            event = event_of(job.body, job.envelope, self.service)
            ticket.attach(event)
            try:
                self.send_event(event)
            finally:
                # Nothing here may keep the event: its end is the end of the last reference.
                del event
        except (CompysitionError, QueueFullError, DeadlineError, DirectorStoppedError) as error:
            ticket.fail(Failure.of(error))

    # ---- and events answers ---------------------------------------------------------------------------------------

    def consume(self, event: Event) -> None:
        """Take `event` as the answer to its request. Never waits."""
        token = event._lineage
        ticket = token.ticket if token is not None else None
        if not isinstance(ticket, JobTicket) or ticket.worker is not self:
            raise UsageError(
                f"no request of {self.name!r} waits for event {event.event_id}: an answer has to be the request's own "
                "event, a copy of it, or made by self.create_event()"
            )
        outcome = lineage.answer(event, self._wired.ledger)
        if outcome is not Outcome.ANSWERED:
            self.logger.info("event %s comes too late or second as an answer and is not used", event.event_id)

    def _closed(self, ticket: JobTicket) -> None:
        """May run anywhere in the Director's thread. Must not wait."""
        self._tickets.discard(ticket)
        self._done.append((ticket, ticket.state))
        if self._driver is not None:
            self._driver.reactor.wake()

    def _finish(self, now: float) -> None:
        """Send the answers that have come; when a stop has begun, take nothing more."""
        driver = self._driver
        if driver is None:
            return
        while self._done:
            ticket, state = self._done.popleft()
            driver.pool.finish(ticket.job, self._answer(ticket, state), now)
        is_needed_here = bool(Neighbours.of(self._hosted).clients)
        if self._hosted.is_stopping and not is_needed_here and not driver.pool.is_draining:
            driver.pool.drain(now)

    def _leave_if_done(self) -> None:
        """During a stop: end when everything is answered and goodbye is said."""
        driver = self._driver
        if driver is not None and driver.pool.is_ended() and not self._done:
            driver.reactor.stop()
            Neighbours.of(self._hosted).done(self.name)
            if self._feeding is not None:
                self._feeding.wake()

    def _answer(self, ticket: JobTicket, state: TicketState) -> Answer:
        event, ticket.answer = ticket.answer, None
        envelope = ticket.job.envelope
        try:
            if state is TicketState.ANSWERED and event is not None:
                return answer_of(event, is_plain=envelope is None)
            if state is TicketState.FAILED and ticket.failure is not None:
                return answer_of_failure(ticket.failure, _id_of(ticket))
            if state is TicketState.ENDED and not ticket.has_drop:
                return answer_of(Event(None), is_plain=envelope is None)
        except CompysitionError as error:
            self.logger.error("the answer cannot be sent: %s", error)
            return answer_of_failure(Failure.of(error), _id_of(ticket))
        if state is TicketState.ENDED:
            return Answer((b"the request was dropped: the worker is overloaded",), 503, is_error=True)
        return Answer((b"the deadline has passed",), 504, is_error=True)


def _id_of(ticket: Any) -> str:
    envelope = ticket.job.envelope
    return "?" if envelope is None else envelope.id.hex()
