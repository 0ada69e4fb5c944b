# SPDX-License-Identifier: Apache-2.0
"""A worker process as a machine: sessions with all its brokers, and how many jobs run at once.

MDP gives a worker one request at a time, but a worker is a socket, not a process. So towards a foreign broker there is
one idle session more than busy ones, up to `concurrency`; towards one of ours, one session with credit. Jobs beyond
`concurrency` wait here, their deadlines counting, while the sessions' heartbeats go on (ours, MDP.md section 8).
Whoever drives it empties `out` and `starts` after each call. Read next: `link`.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from compysition.mdp.window import Answer, RepeatWindow, Seen
from compysition.mdp.worker import Action, Job, Session, State, WorkerSettings

#: A session beyond those that are needed is closed after so many idle seconds.
SURPLUS_S: Final = 30.0

LATE: Final = Answer((b"the deadline has passed",), status=504, is_error=True)


class BrokerSessions:
    """All sessions with the broker at `endpoint`."""

    __slots__ = ("endpoint", "is_listed", "sessions")

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.sessions: list[Session] = []
        #: Whether it is still named; a broker that is not is left when its connection is lost.
        self.is_listed = True


class WorkerPool:
    """The sessions of one worker process.

    Args:
        service: What it serves.
        settings: How it speaks; the credit in its hello is set to `concurrency`.
        concurrency: How many jobs may run at once.
        delay_s: Seconds to wait before try number n of a session.
        window: What is remembered of requests.
        running: Jobs of a pool before this one that are still to be finished here.

    Attributes:
        out: What to do with which session's socket.
        starts: Jobs to begin with; each has to end with `finish`.
        running: How many have begun and not finished.
        counts: How often anything odd happened, by fixed words.
    """

    def __init__(
        self,
        service: bytes,
        settings: WorkerSettings,
        *,
        concurrency: int,
        delay_s: Callable[[int], float],
        window: RepeatWindow[Job] | None = None,
        running: int = 0,
    ) -> None:
        self.service = service
        self.settings = settings
        self.concurrency = concurrency
        self.out: list[tuple[Session, Action]] = []
        self.starts: list[Job] = []
        self.running = running
        self.counts: Counter[str] = Counter()
        self.is_draining = False
        self._delay_s = delay_s
        self._window: RepeatWindow[Job] = window if window is not None else RepeatWindow()
        self._brokers: dict[str, BrokerSessions] = {}
        self._by_session: dict[Session, BrokerSessions] = {}
        self._waiting: deque[Job] = deque()

    @property
    def wakes_at(self) -> float:
        """When `tick` has something to do."""
        at = min((job.deadline for job in self._waiting if job.deadline is not None), default=math.inf)
        for broker in self._brokers.values():
            surplus = len(broker.sessions) - self._wanted(broker)
            for session in broker.sessions:
                at = min(at, session.wakes_at)
                if surplus > 0 and session.state is State.IDLE and session is not broker.sessions[0]:
                    at = min(at, session.idle_since + SURPLUS_S)
        return at

    @property
    def waiting(self) -> int:
        """Jobs that have come and not begun."""
        return len(self._waiting)

    def sessions(self) -> list[Session]:
        """All sessions that have not ended."""
        return list(self._by_session)

    def endpoint_of(self, session: Session) -> str:
        """Where the broker of `session` is."""
        return self._by_session[session].endpoint

    def is_ended(self) -> bool:
        """Whether a drain is done."""
        return self.is_draining and not self._by_session and not self.running and not self._waiting

    # ---- what happens ---------------------------------------------------------------------------------------------

    def set_brokers(self, endpoints: Iterable[str], now: float) -> None:
        """These are the brokers now. One that is missing is left only when its connection is lost."""
        named = set(endpoints)
        for broker in self._brokers.values():
            broker.is_listed = broker.endpoint in named
        for endpoint in sorted(named - self._brokers.keys()):
            broker = self._brokers[endpoint] = BrokerSessions(endpoint)
            if not self.is_draining:
                self._open(broker, now)
        self._end_unlisted(now)

    def connected(self, session: Session, now: float) -> None:
        """The socket of `session` can send."""
        session.connected(now)
        self._collect(session, now)

    def receive(self, session: Session, frames: Sequence[bytes], now: float) -> None:
        """Something came on the socket of `session`."""
        session.receive(frames, now)
        self._collect(session, now)

    def lost(self, session: Session, now: float) -> None:
        """The connection of `session` is gone, or a frame could not be sent."""
        session.lost(now)
        self._collect(session, now)

    def tick(self, now: float) -> None:
        """Do what is due."""
        for session in list(self._by_session):
            if session.wakes_at <= now:
                session.tick(now)
                self._collect(session, now)
        for job in [job for job in self._waiting if job.is_late(now) or job.is_orphan()]:
            self._waiting.remove(job)
            self._give_up(job, now)
        for broker in self._brokers.values():
            self._close_surplus(broker, now)

    def abandon(self, now: float) -> None:
        """Leave all connections without a word: another pool takes over the window, and what is running."""
        for session in list(self._by_session):
            session.lost(now)
        for job in self._waiting:
            if job.envelope is not None:
                self._window.forget(job.envelope.id)
        self._waiting.clear()

    def drain(self, now: float) -> None:
        """Take nothing more. Idle sessions say DISCONNECT at once, the others when their last job is done."""
        self.is_draining = True
        for session in list(self._by_session):
            session.drain(now)
            self._collect(session, now)

    # ---- jobs -----------------------------------------------------------------------------------------------------

    def partial(self, job: Job, body: Sequence[bytes], metadata: bytes = b"", *, now: float) -> bool:
        """Send one of several replies. Returns False if it could not be: nobody waits, or 0.1 is spoken."""
        is_sent = job.session.partial(job, body, metadata)
        self._collect(job.session, now)
        return is_sent

    def finish(self, job: Job, answer: Answer, now: float, *, is_repeatable: bool = True) -> bool:
        """A job that had begun is done.

        The answer is remembered, and goes to whoever asked again meanwhile; not if it was only the last part of
        several (`is_repeatable` False). Returns whether anybody got it.
        """
        self.running -= 1
        waiters: list[Job] = []
        if job.envelope is not None and is_repeatable:
            waiters = self._window.done(job.envelope.id, answer, now)
        elif job.envelope is not None:
            waiters = self._window.forget(job.envelope.id)
        is_sent = self._reply(job, answer, now)
        for waiter in waiters:
            if is_repeatable:
                is_sent = self._reply(waiter, answer, now, is_repeat=True) or is_sent
            else:
                self._arrive(waiter, now)
        if not is_sent:
            self.counts["result without a broker"] += 1
        self._start_waiting(now)
        return is_sent

    def _reply(self, job: Job, answer: Answer, now: float, *, is_repeat: bool = False) -> bool:
        is_sent = job.session.final(job, answer, now, is_repeat=is_repeat)
        self._collect(job.session, now)
        return is_sent

    def _arrive(self, job: Job, now: float) -> None:
        if job.is_orphan():
            return
        if job.is_late(now):
            # An expired request is not worked on.
            self.counts["late"] += 1
            self._reply(job, LATE, now)
            return
        if job.envelope is not None:
            seen = self._window.begin(job.envelope.id, job, now)
            if seen is Seen.RUNNING:
                self.counts["repeat while running"] += 1
                return
            if isinstance(seen, Answer):
                self.counts["repeat"] += 1
                self._reply(job, seen, now, is_repeat=True)
                return
        self._waiting.append(job)
        self._start_waiting(now)

    def _start_waiting(self, now: float) -> None:
        while self._waiting and self.running < self.concurrency:
            job = self._waiting.popleft()
            if job.is_orphan() or job.is_late(now):
                self._give_up(job, now)
            else:
                self.running += 1
                self.starts.append(job)

    def _give_up(self, job: Job, now: float) -> None:
        """`job` has not begun and will not. Whoever asked again has perhaps more time, or a connection."""
        again = self._window.forget(job.envelope.id) if job.envelope is not None else []
        if not job.is_orphan():
            self.counts["late"] += 1
            self._reply(job, LATE, now)
        for waiter in again:
            self._arrive(waiter, now)

    # ---- sessions -------------------------------------------------------------------------------------------------

    def _collect(self, session: Session, now: float) -> None:
        """Take over what `session` has to say, and see whether there are enough sessions."""
        if session.out:
            self.out += [(session, action) for action in session.out]
            session.out.clear()
        while session.jobs:
            self._arrive(session.jobs.pop(0), now)
        broker = self._by_session.get(session)
        if broker is None:
            return
        if session.state is State.ENDED:
            self._forget(session, broker)
        elif session.state is State.BACKOFF and (not broker.is_listed or session is not broker.sessions[0]):
            # Only the first one comes back by itself; others follow as they are needed.
            session.drain(now)
            self._forget(session, broker)
        self._grow(broker, now)

    def _forget(self, session: Session, broker: BrokerSessions) -> None:
        self.counts.update(session.counts)
        if session.out:
            self.out += [(session, action) for action in session.out]
            session.out.clear()
        broker.sessions.remove(session)
        del self._by_session[session]
        if not broker.sessions and not broker.is_listed:
            del self._brokers[broker.endpoint]

    def _wanted(self, broker: BrokerSessions) -> int:
        if any(session.has_credit() for session in broker.sessions):
            return 1
        busy = sum(1 for session in broker.sessions if session.state is State.WORKING)
        return min(busy + 1, self.concurrency)

    def _grow(self, broker: BrokerSessions, now: float) -> None:
        if self.is_draining or not broker.sessions:
            return
        first = broker.sessions[0]
        if first.is_joined() and first.capabilities is None:
            while len(broker.sessions) < self._wanted(broker):
                self._open(broker, now, is_known_plain=True)

    def _open(self, broker: BrokerSessions, now: float, *, is_known_plain: bool = False) -> None:
        session = Session(self.service, self.settings, self._delay_s)
        broker.sessions.append(session)
        self._by_session[session] = broker
        session.start(now, is_known_plain=is_known_plain)
        self.out += [(session, action) for action in session.out]
        session.out.clear()

    def _close_surplus(self, broker: BrokerSessions, now: float) -> None:
        surplus = len(broker.sessions) - self._wanted(broker)
        for session in reversed(broker.sessions[1:]):
            if surplus > 0 and session.state is State.IDLE and now >= session.idle_since + SURPLUS_S:
                surplus -= 1
                session.drain(now)
                self._collect(session, now)

    def _end_unlisted(self, now: float) -> None:
        for broker in [broker for broker in self._brokers.values() if not broker.is_listed]:
            for session in list(broker.sessions):
                if not session.is_joined():
                    session.drain(now)
                    self._collect(session, now)
