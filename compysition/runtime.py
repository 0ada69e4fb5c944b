# SPDX-License-Identifier: Apache-2.0
"""`Runtime`: the half of a Director that runs; it hosts the actors, starts them, stops them, and gives everything back.

It puts the parts below together; each part says itself what it does. Must not know scripts. Read next: `asking`, then
`director`, the half that scripts talk to.
"""

import atexit
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import gevent
from gevent import get_hub, getcurrent, monkey
from gevent.threadpool import ThreadPool

from compysition.cell import Cell
from compysition.clock import CLOCK, Clock
from compysition.deadletter import DeadLetters
from compysition.deadlines import DeadlineWheel
from compysition.dispatch import Dispatcher, present_hand
from compysition.drain import EXIT_GAVE_UP, EXIT_LEFT, EXIT_NOT_STARTED, EXIT_OK, KILL_S, Drain, StopReport
from compysition.errors import (
    CompysitionError,
    DirectorStateError,
    DirectorStoppedError,
    HandlerTimeoutError,
    StartError,
    WrongContextError,
)
from compysition.event import Event
from compysition.graph import components
from compysition.ledger import Ledger
from compysition.logger import get_logger
from compysition.logs import LogBridge
from compysition.loopguard import LoopGuard
from compysition.parking import Parking
from compysition.restartlet import RestartPool
from compysition.stacks import format_all
from compysition.supervisor import ActorState, Intensity, Member, Supervisor
from compysition.wiring import Wiring, check_seconds

logger = get_logger("director")

#: Threads for `Actor.offload`: enough that some slow calls do not stop the others, few enough to be no load themselves.
OFFLOAD_THREADS = 20

NEW, STARTING, RUNNING, STOPPING, STOPPED = "new", "starting", "running", "stopping", "stopped"


class Runtime:
    """Hosts actors (`compysition.actor.ActorHost`).

    Args:
        size: Capacity of every queue that names none, in events.
        name: For logs.
        intensity: The restart budget of all actors together.
        stop_timeout_s: Seconds a stop may take before it kills.
    """

    def __init__(self, size: int, name: str, intensity: Intensity, stop_timeout_s: float) -> None:
        self.name = name
        self._logger = logger.of(self)
        self.stop_timeout_s = stop_timeout_s
        #: Called in a greenlet of its own when a stop begins, which is killed when it ends: to show how far it is.
        self.on_stop: Callable[[Drain], None] | None = None
        self.clock = CLOCK.get() or Clock()
        self.dispatcher = Dispatcher(self.clock)
        self.dead_letters = DeadLetters()
        self.deadlines = DeadlineWheel(self.clock)
        self.ledger = Ledger(self._warn_of_keep)
        self._log_ledger = Ledger(self._warn_of_keep)
        self._wiring = Wiring(self, self.ledger, self._log_ledger, size, self._make_pool)
        self._bridges: dict[str, LogBridge] = {}
        self._services = RestartPool(self.clock, calm_s=intensity.period_s, is_started=False, director=self)
        self._supervisor = Supervisor(
            self.clock,
            self.dispatcher,
            self._services,
            intensity,
            on_escalate=self._escalate,
            is_start_refused=lambda: (
                self._supervisor.is_closed or (self._state == STARTING and self._stop_reason is not None)
            ),
        )
        # Real whatever the clock: what it measures is how long the thread is held.
        self._guard = LoopGuard(Clock())
        self._state = NEW
        self._pid = 0
        self._thread = 0
        self._hub: Any = None
        self._keep_alive: Any = None
        self._threads: ThreadPool | None = None
        self._stop_reason: str | None = None
        self._stop_timeout_s: float | None = None
        self._exit_code = EXIT_OK
        self._dead_before: Counter[tuple[str, str]] = Counter()
        self._order: list[Member] = []
        self._drain: Drain | None = None
        self._report: StopReport | None = None
        self._blocked: set[Parking] = set()

    def is_running(self) -> bool:
        """Whether it was started and has not stopped; true while it drains."""
        return self._state in (RUNNING, STOPPING)

    def request_stop(self, reason: str) -> None:
        """Begin to stop and return at once. May be called from anywhere: actors, threads, signal handlers.

        Raises:
            WrongContextError: called in another process, after a fork.
        """
        self._check_process()
        if self._stop_reason is None:
            # What dies from here on belongs to the stop, also before its first step.
            self._dead_before = self.dead_letters.counts.copy()
            self._stop_reason = reason
            watcher = self._keep_alive
            if watcher is not None:
                watcher.send()

    def block(self) -> StopReport:
        """Wait until the Director has stopped, and return the report.

        Raises:
            WrongContextError, DirectorStateError: as `stop`.
        """
        self._check_may_wait("block")
        if self._state == NEW:
            raise DirectorStateError(f"Director {self.name!r} was not started")
        return self._wait_until_stopped()

    def stacks(self) -> str:
        """The stacks of all handlers and background greenlets, by actor; what SIGUSR1 prints."""
        pools = [(name, member.pool) for name, member in self._wiring.members.items()]
        return format_all(self.dispatcher, pools, self._thread)

    # ---- for actors (`ActorHost`) ---------------------------------------------------------------------------------

    @property
    def is_stopping(self) -> bool:
        """Whether intake is closed."""
        return self._state not in (STARTING, RUNNING)

    def crashed(self, cell: Cell, reason: str) -> None:
        """An actor has to be restarted."""
        self._supervisor.crashed(self._wiring.members[cell.name], reason)

    def offload(self, function: Callable[..., Any], args: tuple[Any, ...], timeout_s: float | None) -> Any:
        """Run a blocking function on the Director's threads. See `Actor.offload`."""
        if self._threads is None:
            raise DirectorStateError(f"Director {self.name!r} is {self._state}: offload needs it running")
        if timeout_s is not None:
            timeout_s = check_seconds(timeout_s, "timeout_s")
        late = gevent.Timeout()
        clock = self.clock
        clock.outside += 1
        try:
            with nullcontext() if timeout_s is None else clock.limit(timeout_s, late):
                outcome: Any = self._threads.spawn(_call_on_thread, function, args).get()
        except gevent.Timeout as timeout:
            if timeout is not late:
                raise
            raise HandlerTimeoutError(f"{function!r} took longer than {timeout_s:g} s on its thread") from None
        finally:
            clock.outside -= 1
        result, error = outcome
        if error is not None:
            raise error
        return result

    # ---- starting -----------------------------------------------------------------------------------------------

    def _start_members(self, *, is_stop_an_end: bool) -> bool:
        """Start all, or nobody. Returns whether they run.

        A stop that is asked for meanwhile is no failure where `is_stop_an_end`; then False comes back, and its report
        is there. Else it is a `StartError`: who called counts on actors that run.
        """
        if getcurrent() is get_hub():
            raise WrongContextError("start() was called from a callback of the event loop: call it in a greenlet")
        former, is_ready = self._state, False
        try:
            self._state = STARTING
            self._make_ready()
            is_ready = True
            self._start_each()
        except BaseException as error:
            # A timeout or a Ctrl-C may come at any moment: whatever was started must not stay half-way.
            if not is_ready:
                # Nothing of any actor has run: it is as if start had not been called.
                self._give_back()
                self._stop_reason, self._state = None, former
                raise
            is_end = is_stop_an_end and self._stop_reason is not None and _is_by_request(error)
            if not is_end:
                self._exit_code = EXIT_NOT_STARTED
            if self._stop_reason is None:
                is_ours = isinstance(error, StartError)
                self._stop_reason = str(error) if is_ours else f"the start was ended: {_describe(error)}"
            self._stop_and_wait()
            if is_end:
                return False
            if isinstance(error, StartError):
                error.report = self._report
            raise
        return True

    def _make_ready(self) -> None:
        """Everything before the first hook; nothing of it switches, and no actor notices it."""
        self._pid, self._thread = os.getpid(), monkey.get_original("threading", "get_ident")()
        self._hub = get_hub()
        self._report = self._drain = self._stop_timeout_s = None
        self._exit_code = EXIT_OK
        self._dead_before = self.dead_letters.counts.copy()
        self._supervisor.is_closed = False
        self.dispatcher.bind()
        # Referenced: a graph in which nothing happens must wait, not die of LoopExit.
        self._keep_alive = self._hub.loop.async_()
        self._keep_alive.start(self._begin_stop)
        self._threads = ThreadPool(OFFLOAD_THREADS, hub=self._hub)
        self._services.reset()
        self._services.on_exit = self.request_stop
        self._wiring.complete()
        self._order = self._start_order()
        for member in self._order:
            member.state, member.crash, member.attempts = ActorState.REGISTERED, None, 0
            member.cell.begin()
            member.pool.reset()
            for queue in member.cell.inboxes:
                queue.open()

    def _start_each(self) -> None:
        atexit.register(self._at_exit)
        self._services.start()
        for bridge in self._bridges.values():
            bridge.install()
            bridge.own_cells = frozenset(self._wiring.log_plane()) or bridge.own_cells
        for ring in self._wiring.rings:
            self._logger.info("ring: %s (holds at most %d events from outside)", ring, ring.limit)
        for member in self._order:
            error = self._supervisor.start(member) if self._stop_reason is None else None
            if isinstance(error, StartError):
                raise error
            if error is not None or self._stop_reason is not None:
                reason = self._stop_reason or f"actor {member.name!r} did not become ready: {_describe(error)}"
                raise StartError(reason, actor=member.name) from error
        if not self._order and self._stop_reason is not None:
            raise StartError(self._stop_reason)
        self._guard.start()
        # Before anything that may let others run: a stop that is asked for from here on is theirs to begin.
        self._state = RUNNING
        self._logger.info("Director %r is running with %d actors", self.name, len(self._order))

    def _start_order(self) -> list[Member]:
        """Log actors, then sinks first, then those that answer: nobody is fed before its successors are ready."""
        members = self._wiring.members
        flow = [cell for part in components([m.cell for m in members.values()], self._wiring.is_cut) for cell in part]
        downstream_first = [members[cell.name] for cell in reversed(flow)]
        logs = self._wiring.log_actors
        return [
            *logs,
            *(m for m in downstream_first if m not in logs and not m.actor.answers),
            *(m for m in downstream_first if m not in logs and m.actor.answers),
        ]

    # ---- stopping -------------------------------------------------------------------------------------------------

    def _begin_stop(self) -> None:
        """Runs in the hub, woken by `request_stop`."""
        if self._state == RUNNING:
            self._state = STOPPING
            self._services.spawn(self._stop_all, restart=False, name="stop")

    def _stop_and_wait(self) -> None:
        """Stop what was started. In a greenlet of its own: if this wait is cut short too, the stop goes on."""
        self._state = STOPPING
        self._services.start()
        self._services.spawn(self._stop_all, restart=False, name="stop")
        self._wait_until_stopped()

    def _wait_until_stopped(self) -> StopReport:
        place = Parking()
        self._blocked.add(place)
        try:
            while self._state != STOPPED:
                place.park()
        finally:
            self._blocked.discard(place)
        assert self._report is not None
        return self._report

    def _stop_all(self) -> None:
        try:
            self._drain_all()
        finally:
            # Whatever broke on the way: who waits for the end must see it.
            self._release()

    def _drain_all(self) -> None:
        self._state = STOPPING
        self._logger.info("Director %r stops: %s", self.name, self._stop_reason)
        logs = self._wiring.log_plane()
        self._drain = Drain(
            self._order,
            [member for member in self._order if member.cell in logs],
            self._supervisor,
            self.dispatcher,
            self.dead_letters,
            dead_before=self._dead_before,
            timeout_s=self.stop_timeout_s if self._stop_timeout_s is None else self._stop_timeout_s,
            are_logs_flushed=lambda: all(bridge.is_flushed() for bridge in self._bridges.values()),
        )
        if self.on_stop is not None:
            self._services.spawn(self.on_stop, self._drain, restart=False, name="on_stop")
        try:
            self._drain.run()
        except BaseException:
            self._exit_code = max(self._exit_code, EXIT_LEFT)
            raise
        finally:
            self._report = self._drain.report(self._stop_reason or "", self._exit_code)

    def _release(self) -> None:
        for bridge in self._bridges.values():
            bridge.remove()
        self._give_back()
        if self._report is None:
            self._report = StopReport(self._stop_reason or "", EXIT_LEFT)
        self._stop_reason = None
        self._state = STOPPED
        for place in self._blocked:
            place.wake()

    def _give_back(self) -> None:
        """Give threads, watchers and greenlets back, as far as they were made."""
        self._guard.stop()
        atexit.unregister(self._at_exit)
        self.deadlines.close()
        self.dispatcher.close()
        if self._threads is not None:
            # A function that never returns would make this wait for ever; its thread is left behind.
            with gevent.Timeout(KILL_S, False):  # type: ignore[arg-type]  # the stubs know no False
                self._threads.kill()
            self._threads = None
        for service in self._services:
            if service.greenlet is not getcurrent():
                service.kill()
        self._services.join(KILL_S)
        self._services.is_started = False
        if self._keep_alive is not None:
            self._keep_alive.close()
            self._keep_alive = None

    def _escalate(self, reason: str) -> None:
        self._exit_code = EXIT_GAVE_UP
        self.request_stop(reason)

    def _at_exit(self) -> None:
        if self.is_running() and os.getpid() == self._pid and self._is_own_thread():
            self.request_stop("the interpreter exits")
            report = self.block()
            if not report.ok:
                print(report, file=sys.stderr)

    def _report_so_far(self) -> str:
        return str(self._drain.report(self._stop_reason or "", self._exit_code)) if self._drain is not None else ""

    # ---- small things ---------------------------------------------------------------------------------------------

    def _make_pool(self, cell: Cell) -> RestartPool:
        return RestartPool(
            self.clock,
            on_death=lambda greenlet: self._supervisor.background_died(self._wiring.members[cell.name], greenlet),
            on_exit=self.request_stop,
            on_end=self.dispatcher.notice,
            is_started=False,
            director=self,
        )

    @staticmethod
    def _warn_of_keep(event: Event, sender: object | None) -> None:
        if isinstance(sender, Cell):
            sender.warn_of_keep(event)

    def _sender(self) -> Cell | None:
        """The actor inside whose handler this is called, if it is one of this Director."""
        hand = present_hand()
        sender = None if hand is None else hand.sender
        return sender if sender is not None and sender.host is self else None

    def _is_own_thread(self) -> bool:
        same: bool = self._thread == monkey.get_original("threading", "get_ident")()
        return same and os.getpid() == self._pid

    def _check_process(self) -> None:
        if self._pid not in (0, os.getpid()):
            raise WrongContextError(f"Director {self.name!r} was started in another process: make one after the fork")

    def _check_may_wait(self, what: str, *, from_actors: bool = False) -> None:
        """Refuse a call that waits for this Director where it could wait for itself."""
        if self._state == NEW:
            return
        self._check_process()
        if not self._is_own_thread():
            raise WrongContextError(
                f"{what}() works in the thread that started the Director, not in {threading.current_thread().name!r}: "
                "call request_stop() or post() from other threads"
            )
        current = getcurrent()
        if current is self._hub:
            raise WrongContextError(f"{what}() was called from a callback of the event loop: use request_stop()")
        if from_actors:
            return
        caller = None
        hand = present_hand()
        if hand is not None and hand.sender is not None:
            caller = f"a handler of actor {hand.sender.name!r}"
        for name, member in self._wiring.members.items():
            for greenlet in member.pool:
                if greenlet.greenlet is current:
                    caller = f"background greenlet {greenlet.name!r} of actor {name!r}"
        if current in self._supervisor.hooks:
            caller = self._supervisor.hooks[current]
        if caller is not None:
            raise WrongContextError(f"{what}() was called from {caller}, which it would wait for: use request_stop()")


def _describe(error: BaseException | None) -> str:
    # Our own errors say all; the text of others, such as KeyError's, may say nothing without the class.
    return str(error) if isinstance(error, CompysitionError) else f"{type(error).__name__}: {error}"


def _is_by_request(error: BaseException) -> bool:
    """Whether a start was ended by nothing but a stop that was asked for."""
    return isinstance(error, StartError) and isinstance(error.__cause__, DirectorStoppedError | None)


def _call_on_thread(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, BaseException | None]:
    """Call `function`, and hand its error over as a value: the thread pool would print it as one that nobody sees."""
    try:
        return function(*args), None
    except BaseException as error:  # noqa: BLE001 - boundary
        # Boundary between threads: raised again where `offload` was called.
        return None, error
