# SPDX-License-Identifier: Apache-2.0
"""`VirtualClock`: time that stands still until a test moves it.

It keeps the contract of `compysition.clock.Clock`. Must not know Directors. Read next: `running`.
"""

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Token
from heapq import heappop, heappush
from itertools import count
from types import TracebackType
from typing import Self

import gevent
from gevent import get_hub, getcurrent

from compysition.clock import CLOCK, Clock, Timer
from compysition.errors import UsageError
from compysition.parking import Parking
from compysition.testing.waiting import PATIENCE_S, describe, idle, patience, settle

#: Timers that may fire without time going on before that counts as an endless loop.
STANDING_STILL = 1_000
#: Sums of decimal fractions miss by so many seconds: what is due then is due now.
ROUNDING_S = 1e-6
#: Real seconds between two looks at whether a thread has done its work.
LOOK_S = 0.001


class VirtualTimer:
    """A call that is still to come, on a `VirtualClock`."""

    __slots__ = ("callback", "due")

    def __init__(self, due: float, callback: Callable[[], object]) -> None:
        self.due = due
        #: None as soon as it was made or cancelled.
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """As `compysition.clock.Timer.cancel`."""
        self.callback = None


class _Middle(random.Random):
    """No chance: every draw is the middle, so that jitter is none."""

    def random(self) -> float:
        return 0.5


class VirtualClock(Clock):
    """Time stands still until `advance`, `jump_until` or `jumping` moves it.

    As a context manager it becomes the clock of every Director that is made in the block, also by a script's own
    functions::

        with VirtualClock() as clock:
            director = build()          # the script's
        with running(director):
            clock.advance(30.0)         # everything that is due within half a minute has happened

    Delays of actors and of the Director are counted on it: `Actor.sleep`, `Retry`, backoff, restart periods, deadlines
    of requests and of `ask`, `offload`'s timeout, grace, the stop's deadline. Real time rules for sockets, threads,
    other processes, `gevent.sleep` and `time` in the user's own code, `Event.created` and the loop guard.

    Args:
        now: What `monotonic` says at first.
        seed: For the jitter of backoffs; by default there is none, so that the first retry comes after exactly 0.1 s.
    """

    def __init__(self, now: float = 1_000.0, *, seed: int | None = None) -> None:
        self.now = now
        self.rng = _Middle() if seed is None else random.Random(seed)
        self._timers: list[tuple[float, int, VirtualTimer]] = []
        self._numbers = count()
        self._standing = 0
        self._tokens: list[Token[Clock | None]] = []
        #: Who moves time at this moment.
        self._mover: str | None = None
        #: Where the jumper waits for a timer to jump to.
        self._jumper: Parking | None = None

    def __enter__(self) -> Self:
        self._tokens.append(CLOCK.set(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        CLOCK.reset(self._tokens.pop())

    # ---- the contract of Clock ------------------------------------------------------------------------------------

    def monotonic(self) -> float:
        """Seconds; goes forward only when it is moved."""
        return self.now

    def wall(self) -> float:
        """Seconds since 1970: some day in 2001, and as much later as this clock was moved."""
        return 1_000_000_000.0 + self.now

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """As `Clock.call_later`."""
        timer = VirtualTimer(self.now + max(0.0, delay_s), callback)
        heappush(self._timers, (timer.due, next(self._numbers), timer))
        if self._jumper is not None:
            self._jumper.wake()
        return timer

    def sleep(self, delay_s: float) -> None:
        """As `Clock.sleep`."""
        place, is_over = Parking(), False

        def over() -> None:
            nonlocal is_over
            is_over = True
            place.wake()

        timer = self.call_later(delay_s, over)
        try:
            while not is_over:
                place.park()
        finally:
            timer.cancel()

    # ---- moving time ----------------------------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        """How many calls are still to come."""
        return sum(1 for _, _, timer in self._timers if timer.callback is not None)

    @property
    def is_moving(self) -> bool:
        """Whether something moves this clock at this moment."""
        return self._mover is not None

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass.

        Each call that becomes due is made at its time and in its order, in the hub, and all that comes of it is done
        before the next one, see `settle`. Waits for the other greenlets, never for time or for threads.

        Raises:
            ValueError: time does not go back.
            UsageError: something else moves this clock already.
            AssertionError: timers fire for ever and time does not go on, or other greenlets do not come to rest.
            Exception: what a call raised.
        """
        __tracebackhide__ = True
        if not 0 <= seconds < math.inf:
            raise ValueError(f"seconds is {seconds!r}: wanted is a number from 0 on; time does not go back")
        with self._moving("advance()"):
            settle()
            end = self.now + seconds
            while self._fire_next(end + ROUNDING_S):
                settle()
            self.now = max(self.now, end)

    def jump_until(self, condition: Callable[[], object], timeout_s: float = PATIENCE_S) -> float:
        """Let time jump from one timer to the next until `condition` holds. Returns the seconds that have passed.

        Waits for threads (`offload`), sockets and other processes in real time, when there is no timer to jump to.

        Args:
            condition: Looked at when all other greenlets have come to rest.
            timeout_s: Real seconds until this gives up.

        Raises:
            UsageError: something else moves this clock already.
            AssertionError: it does not hold after `timeout_s` real seconds. The text shows all stacks.
        """
        __tracebackhide__ = True
        began = self.now
        with self._moving("jump_until()"), patience(f"this to hold: {describe(condition)}", timeout_s):
            settle(timeout_s)
            while not condition():
                if self.outside or not self._fire_next(math.inf):
                    gevent.sleep(LOOK_S)
                settle(timeout_s)
        return self.now - began

    @contextmanager
    def jumping(self) -> Iterator[None]:
        """In this block time jumps to the next timer by itself, whenever all greenlets wait.

        For calls that wait for time and cannot return before it is moved: ``director.ask(…)`` of a flow that retries,
        ``director.stop()``, a ``start()`` whose hooks sleep. While something waits for a thread time holds; for
        sockets and other processes it does not.

        Raises:
            UsageError: something else moves this clock already.
            AssertionError: timers fire for ever and time does not go on.
        """
        __tracebackhide__ = True
        caller = getcurrent()

        def jump() -> None:
            try:
                while True:
                    idle()
                    if self.outside:
                        gevent.sleep(LOOK_S)
                    elif not self._fire_next(math.inf):
                        self._wait_for_a_timer()
            except Exception as error:  # noqa: BLE001 - boundary between greenlets: raised where time is waited for
                get_hub().loop.run_callback(caller.throw, error)

        with self._moving("jumping()"):
            jumper = gevent.spawn(jump)
            try:
                yield
            finally:
                jumper.kill()

    def _wait_for_a_timer(self) -> None:
        self._jumper = Parking()
        try:
            while not self._timers:
                self._jumper.park()
        finally:
            self._jumper = None

    @contextmanager
    def _moving(self, mover: str) -> Iterator[None]:
        if self._mover is not None:
            raise UsageError(f"{mover} was called while {self._mover} moves this clock: let one of them do it")
        self._mover = mover
        self._standing = 0
        try:
            yield
        finally:
            self._mover = None

    def _fire_next(self, end: float) -> bool:
        """Go to the next timer that is due by `end`, and make its call in the hub. Returns whether there was one."""
        while self._timers and self._timers[0][0] <= end:
            due, _, timer = heappop(self._timers)
            callback, timer.callback = timer.callback, None
            if callback is None:
                continue
            self._standing = 0 if due > self.now else self._standing + 1
            if self._standing >= STANDING_STILL:
                raise AssertionError(f"timers fire for ever and time does not go on; the newest calls {callback!r}")
            self.now = max(self.now, due)
            call_in_hub(callback)
            return True
        return False


def call_in_hub(callback: Callable[[], object]) -> None:
    """Call `callback` in the hub and wait until that has happened; what it raises is raised here."""
    place = Parking()
    outcome: list[BaseException | None] = []

    def call() -> None:
        try:
            callback()
        except BaseException as error:  # noqa: BLE001 - boundary between greenlets: raised where it was asked for
            outcome.append(error)
        else:
            outcome.append(None)
        place.wake()

    get_hub().loop.run_callback(call)
    while not outcome:
        place.park()
    if outcome[0] is not None:
        raise outcome[0]
