# SPDX-License-Identifier: Apache-2.0
"""Events from outside: `post` puts one in, `ask` waits for what becomes of it. The part of a Director that does so.

Must not know how actors are registered or connected. Read next: `director`.
"""

from typing import Any

from gevent import GreenletExit, monkey

from compysition.actor import Actor
from compysition.errors import (
    DeadlineError,
    DirectorStateError,
    DirectorStoppedError,
    QueueFullError,
    UnavailableError,
)
from compysition.event import Event, Failure
from compysition.lineage import AskTicket, TicketState
from compysition.runtime import NEW, RUNNING, STOPPED, STOPPING, Runtime
from compysition.supervisor import Member
from compysition.wiring import check_seconds


class Asking(Runtime):
    """A `Runtime` that takes events from whoever is no actor."""

    def post(self, actor: Actor | str, event_or_data: Any, inbox: str | None = None) -> None:
        """Put an event into an actor's inbox, from outside of any actor or from anywhere else.

        Waits for room as any sender does. Before `start` there is nobody to make room. Safe from other threads, which
        wait until the event is in.

        Args:
            actor: The actor or its name.
            event_or_data: An event, or data for a new one.
            inbox: Name of the inbox; it is what `origin_queue` tells.

        Raises:
            ActorNotFoundError: there is no such actor.
            EventNotOwnedError: the event is somebody else's.
            QueueFullError: before `start`, or from a hub callback: the inbox is full.
            DirectorStateError: the Director is stopping or has stopped.
        """
        member = self._wiring.find(actor)
        event = event_or_data if isinstance(event_or_data, Event) else Event(event_or_data)
        if self._state in (NEW, STOPPED) or self._is_own_thread():
            self._post(member, event, inbox or "")
        else:
            self._post_from_thread(member, event, inbox or "")

    def ask(self, actor: Actor | str, event_or_data: Any, timeout_s: float = 30.0) -> Event:
        """Post an event and wait for what becomes of it.

        The answer is the first event of its lineage that an actor without outbox sends, that `StopFlow` ends, or that
        reaches an actor which answers requests; if there is none, the last one that a handler finished with.

        Raises:
            DeadlineError: there was no answer within `timeout_s` seconds.
            DirectorStateError, WrongContextError: the Director does not run, or not here.
            UnavailableError: all branches of the event were dropped by overflow policies.
            Exception: what an event of the lineage failed with, or the error that the answer carries; its notes tell
                the actor and the traceback.
        """
        self._check_may_wait("ask", from_actors=True)
        if self._state != RUNNING:
            raise DirectorStateError(f"Director {self.name!r} is {self._state}: ask needs it running")
        member = self._wiring.find(actor)
        timeout_s = check_seconds(timeout_s, "timeout_s")
        ticket = AskTicket(self.clock, self.deadlines, timeout_s, self._hub.loop)
        event = event_or_data if isinstance(event_or_data, Event) else Event(event_or_data)
        # Nothing here may keep the event: its end is the end of the last reference.
        del event_or_data
        outer = event._lineage
        try:
            # Before the token is changed: whoever has this event now may be waiting for its end.
            former = self.ledger.check(event, self._sender())
            ticket.attach(event)
            try:
                self._post(member, event, "")
            except BaseException:
                if event._owner is former:
                    # It is still the caller's, and so is whoever waited for it before.
                    event._lineage = outer
                raise
            del event
            state = ticket.wait()
        finally:
            # If this wait was ended by an exception, an answer that comes later is for nobody.
            ticket.cancel()
        answer = ticket.answer
        failure = ticket.failure or (answer.error if answer is not None else None)
        if failure is None and answer is None:
            failure = Failure.of(self._no_answer(ticket, state, member.name, timeout_s))
        if failure is not None:
            if outer is not None:
                outer.ticket.fail(failure)
            raise failure.exception()
        assert answer is not None
        # What is made of the answer belongs to whoever waited for the event before.
        answer._lineage = outer
        return answer

    def _no_answer(self, ticket: AskTicket, state: TicketState, name: str, timeout_s: float) -> Exception:
        if self._state != RUNNING and (ticket.deadline is None or self.clock.monotonic() < ticket.deadline):
            return DirectorStoppedError(f"the Director stopped before {name!r} had answered")
        if state is TicketState.ENDED and ticket.has_drop:
            return UnavailableError(
                f"what came from the event sent to {name!r} was dropped by overflow policies on the way"
            )
        return DeadlineError(f"{name!r} was asked and there was no answer within {timeout_s:g} s")

    def _post(self, member: Member, event: Event, inbox: str) -> None:
        if self._state in (STOPPING, STOPPED):
            raise DirectorStateError(f"Director {self.name!r} is {self._state}: it takes no events")
        queue = self._wiring.outside_queue(member, inbox)
        if self._state == NEW and len(queue.items) >= queue.capacity:
            raise QueueFullError(
                f"the inbox of {member.name!r} is full (capacity {queue.capacity}) and the Director was not started: "
                "nobody makes room yet",
                queue=queue.name,
                capacity=queue.capacity,
            )
        sender = self._sender()
        queue.put(event, member.cell.ledger, sender, sender)

    def _post_from_thread(self, member: Member, event: Event, inbox: str) -> None:
        self._check_process()
        done = monkey.get_original("threading", "Event")()
        outcome: list[BaseException] = []

        def put() -> None:
            try:
                self._post(member, event, inbox)
            except BaseException as error:  # noqa: BLE001 - boundary
                # Boundary between threads: the error is raised in the thread that posts.
                outcome.append(error)
            finally:
                done.set()

        def begin() -> None:
            self._services.spawn(put, restart=False, name="post from a thread")

        self._hub.loop.run_callback_threadsafe(begin)
        while not done.wait(0.1):
            if self._state == STOPPED:
                raise DirectorStateError(f"Director {self.name!r} has stopped: it takes no events")
        if outcome:
            if isinstance(outcome[0], GreenletExit):
                raise DirectorStoppedError(f"Director {self.name!r} stopped while an event waited for room")
            raise outcome[0]
