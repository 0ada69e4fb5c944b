# SPDX-License-Identifier: Apache-2.0
"""`BasicAuth`: lets pass whom it knows, and answers everybody else with 401.

Who is known, and the words of HTTP's Basic scheme, stand in `compysition.credentials`; here is what keeps hashing away
from the hub: a small pool of threads, one flight per credential, and a bound on those that wait.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from gevent.event import AsyncResult
from gevent.threadpool import ThreadPool

from compysition.actor import Actor
from compysition.clock import Clock
from compysition.cores import usable_cores
from compysition.credentials import Check, Credentials, challenge, parse_basic
from compysition.errors import DeadlineError, UnauthorizedError, UnavailableError
from compysition.event import Event

#: Handlers that may wait for a hash at once; beyond, an event fails with 503: at 0.2 s a hash and two cores the last
#: one waits 6 s already, and whoever floods us with guesses is not helped to fill memory.
MAX_WAITING: Final = 64
#: When those come again, in seconds.
RETRY_AFTER_S: Final = 2.0


class BasicAuth(Actor):
    """Sends on the events of users who are known, and fails all others with `UnauthorizedError` (401).

    It looks into the `Authorization` header of `event.request`, or, in events that do not come from HTTP, into the
    attribute ``authorization``, which holds the same text. The name of whoever was let in is the attribute ``user``.

    It refuses everything until told whom to accept: by `users`, by `htpasswd`, or by a subclass that overrides
    `_authenticate`. Plain passwords are compared at once; hashes are checked in threads of its own, and those that
    were right are not hashed again for a minute.

    Args:
        name: Its name.
        users: User names and their plain passwords.
        htpasswd: Or the path of a file as ``htpasswd -B`` writes it; it is read again when it changes.
        realm: What the login is for; shown by browsers. Printable ASCII.
        blocking_consume: The old spelling of ``concurrency=1``.

    Raises:
        ConfigurationError: What is given cannot be used; it names the line in the file and how to mend it.
        MissingExtraError: The file holds bcrypt hashes and the extra ``http`` is not installed.

    In the flow, events fail with `UnauthorizedError` (401), with `UnavailableError` (503, with Retry-After) while too
    many wait for a hash, and with `DeadlineError` (504) if their own time is over before theirs is done.
    """

    def __init__(
        self,
        name: str,
        users: Mapping[str, str] | None = None,
        *,
        htpasswd: str | Path | None = None,
        realm: str = "compysition",
        blocking_consume: bool = False,
    ) -> None:
        super().__init__(name, blocking_consume=blocking_consume)
        self._refusal = {"WWW-Authenticate": challenge(realm)}
        self._credentials: Credentials | None = None
        if users is not None or htpasswd is not None:
            self._credentials = Credentials(users, htpasswd=htpasswd, clock=Clock.monotonic)
        is_ours = type(self)._authenticate is BasicAuth._authenticate
        self._may_wait = not is_ours or (self._credentials is not None and self._credentials.is_hashed)
        #: Made for the first hash.
        self._threads: ThreadPool | None = None
        #: By a check's key: what a check that is under way will find; None if it was given up.
        self._flights: dict[bytes, AsyncResult[bool | None]] = {}
        self._n_waiting = 0

    def pre_hook(self) -> None:
        """Warn if nobody can ever pass."""
        is_ours = type(self)._authenticate is BasicAuth._authenticate
        if is_ours and (self._credentials is None or not self._credentials.n_users):
            self.logger.warning(
                "refuses everybody: give it users= or htpasswd= with at least one user, or override _authenticate"
            )

    def post_hook(self) -> None:
        """End the threads, after the hashes that they are at."""
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.kill()

    def consume(self, event: Event) -> None:
        """Let one event pass, or fail it. Waits, cooperatively, for a hash or for a subclass's `_authenticate`."""
        request = getattr(event, "request", None)
        header = event.get("authorization") if request is None else request.headers.get("Authorization")
        given = parse_basic(header)
        if given is None:
            wanted = "log in" if header is None else "a user name and a password in HTTP's Basic scheme are wanted"
            raise UnauthorizedError(wanted, headers=self._refusal)
        if not self._ask(event, *given):
            raise UnauthorizedError("wrong user name or password", headers=self._refusal)
        event.set("user", given[0])
        self.send_event(event)

    def _authenticate(self, username: str, password: str) -> bool:
        """Say whether this user has this password. Override it to ask somebody else.

        Runs in the handler's greenlet, many at once, and may wait cooperatively; what blocks the thread belongs into
        `offload`. An exception fails the event with that exception's status. Anything but True or False is an error.
        """
        if self._credentials is None:
            return False
        check = self._credentials.check(username, password)
        return self._hash(self._credentials, check) if check.verdict is None else check.verdict

    def _ask(self, event: Event, username: str, password: str) -> bool:
        """The answer of `_authenticate`, for which nobody waits longer than the event has time."""
        deadline = None if event._lineage is None else event._lineage.ticket.deadline
        if deadline is None or not self._may_wait:
            verdict: object = self._authenticate(username, password)
        else:
            clock = self._hosted.clock
            late = DeadlineError("the time of the request was over before its login was checked")
            with clock.limit(deadline - clock.monotonic(), late):
                verdict = self._authenticate(username, password)
        if not isinstance(verdict, bool):
            # An `async def`, or a record that was found: true in an `if`, and anybody would pass.
            raise TypeError(f"_authenticate has to return True or False; it returned {type(verdict).__name__}")
        return verdict

    def _hash(self, credentials: Credentials, check: Check) -> bool:
        """What `check.run()` finds in one of our threads; the same question asked again meanwhile waits for it too."""
        if self._n_waiting >= MAX_WAITING:
            raise UnavailableError("too many logins at once", retry_after_s=RETRY_AFTER_S)
        self._n_waiting += 1
        try:
            while True:
                flight = self._flights.get(check.key)
                if flight is None:
                    return credentials.remember(check, self._fly(check))
                verdict = flight.get()
                # None: whoever was at it was killed or ran out of time. Then somebody else has to do it.
                if verdict is not None:
                    return verdict
        finally:
            self._n_waiting -= 1

    def _fly(self, check: Check) -> bool:
        flight = self._flights[check.key] = AsyncResult()
        verdict: bool | None = None
        clock = self._hosted.clock
        clock.outside += 1
        try:
            if self._threads is None:
                self._threads = ThreadPool(usable_cores())
            verdict = self._threads.apply(check.run)
        finally:
            clock.outside -= 1
            del self._flights[check.key]
            flight.set(verdict)
        return verdict
