# SPDX-License-Identifier: Apache-2.0
"""Starting, restarting and giving up on actors; words and meaning as in Erlang/OTP.

A restart keeps the instance, its inboxes, its kept events and its attributes: no new handler starts, those that run
get a grace and are then killed, hooks run, with a backoff between them. More than `max_restarts` in `period_s` seconds
over all actors of the Director: it escalates. Must not know the Director. Read next: `drain`.
"""

import enum
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from gevent import Greenlet, GreenletExit, get_hub

from compysition import deadletter
from compysition.actor import Actor, ActorOptions
from compysition.backoff import Backoff
from compysition.cell import Cell
from compysition.clock import Clock
from compysition.dispatch import Consumer, Dispatcher
from compysition.errors import DirectorStoppedError, HandlerTimeoutError
from compysition.event import Failure
from compysition.logger import get_logger
from compysition.readiness import NOT_STARTED, PAUSED, RESTARTING
from compysition.restartlet import OwnedGreenlet, RestartableGreenlet, RestartPool
from compysition.stacks import format_consumer

logger = get_logger("supervisor")

#: A hook that was killed gets so long to end, in seconds, before it is left behind.
HOOK_END_S = 1.0


class ActorState(enum.Enum):
    """Where an actor is in its life."""

    REGISTERED = "registered"
    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    #: The restart budget was spent on it: it handles nothing any more.
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(eq=False, slots=True)
class Member:
    """An actor with everything that belongs to it."""

    actor: Actor
    cell: Cell
    pool: RestartPool
    options: ActorOptions
    state: ActorState = ActorState.REGISTERED
    #: Restarts without a calm of `period_s` between them: what the backoff counts.
    attempts: int = 0
    last_restart: float = 0.0
    #: Why it has to be restarted, until that begins.
    crash: str | None = None
    #: The greenlet that restarts it.
    restarting: RestartableGreenlet | None = None

    @property
    def name(self) -> str:
        """The actor's name."""
        return self.cell.name


class Intensity:
    """Counts restarts in a sliding period.

    Args:
        max_restarts: So many are borne in a period.
        period_s: Its length in seconds.
    """

    def __init__(self, max_restarts: int, period_s: float) -> None:
        self.max_restarts = max_restarts
        self.period_s = period_s
        self._times: deque[float] = deque()

    def is_exceeded_by(self, now: float) -> bool:
        """Count a restart at `now`; returns whether it is one too many."""
        times = self._times
        times.append(now)
        while times[0] <= now - self.period_s:
            times.popleft()
        return len(times) > self.max_restarts


class Supervisor:
    """Restarts the actors of one Director.

    Args:
        clock: Where time comes from.
        dispatcher: Whose consumers run the handlers.
        pool: For the supervisor's own greenlets.
        intensity: The restart budget.
        on_escalate: Called with a reason when the budget is spent. Must not wait.
        is_start_refused: Whether a `pre_hook` that runs is to be ended, because a stop was asked for.
        backoff: Delays between restarts.
    """

    def __init__(
        self,
        clock: Clock,
        dispatcher: Dispatcher,
        pool: RestartPool,
        intensity: Intensity,
        *,
        on_escalate: Callable[[str], None],
        is_start_refused: Callable[[], bool],
        backoff: Backoff | None = None,
    ) -> None:
        self._clock = clock
        self._dispatcher = dispatcher
        self._pool = pool
        self._intensity = intensity
        self._on_escalate = on_escalate
        self._is_start_refused = is_start_refused
        self._backoff = backoff or Backoff()
        #: Greenlets in which a hook runs, and which one.
        self.hooks: dict[Greenlet[[], None], str] = {}
        #: Set at the deadline of a stop: nothing is restarted any more.
        self.is_closed = False

    # ---- starting and stopping one actor ------------------------------------------------------------------------

    def start(self, member: Member) -> BaseException | None:
        """Run the actor's `pre_hook` and let it take events. Returns what went wrong, or None."""
        member.state = ActorState.STARTING
        error = self._run_pre_hook(member)
        if error is None:
            member.pool.start()
            member.state = ActorState.RUNNING
            member.cell.open(NOT_STARTED)
            if member.crash is not None:
                reason, member.crash = member.crash, None
                self.crashed(member, reason)
        return error

    def stop(self, member: Member, timeout_s: float) -> bool:
        """Run the actor's `post_hook`, once everything else of it has ended. Returns whether it went well.

        The hook may take `grace_s` or `timeout_s`, whichever is less.
        """
        restarting, member.restarting = member.restarting, None
        if restarting is not None and restarting.is_alive():
            # Its hooks must not run beside ours: a killed one may have a `finally` that waits.
            restarting.kill()
            self._dispatcher.wait_until(lambda: not restarting.is_alive(), HOOK_END_S)
        was_started = member.state is not ActorState.REGISTERED
        member.cell.close(NOT_STARTED)
        # A pause ends with the run in which it was made: what it waited for is over.
        member.cell.open(PAUSED)
        member.state = ActorState.STOPPED
        return not was_started or self._run_post_hook(member, timeout_s)

    def _run_pre_hook(self, member: Member) -> BaseException | None:
        def hook() -> None:
            member.pool.is_in_hook = True
            try:
                member.actor.pre_hook()
            finally:
                member.pool.is_in_hook = False

        return self.call(
            hook, member.options.start_timeout_s, f"pre_hook of {member.name!r}", is_refused=self._is_start_refused
        )

    def _run_post_hook(self, member: Member, timeout_s: float = math.inf) -> bool:
        timeout_s = min(member.options.grace_s, timeout_s)
        error = self.call(member.actor.post_hook, timeout_s, f"post_hook of {member.name!r}")
        if error is not None:
            logger.error("post_hook of %r failed: %s", member.name, error, exc_info=error, extra={"actor": member.name})
        return error is None

    def call(
        self,
        hook: Callable[[], object],
        timeout_s: float,
        what: str,
        *,
        is_refused: Callable[[], bool] = lambda: False,
    ) -> BaseException | None:
        """Run `hook` in a greenlet of its own and wait for it, at most `timeout_s` seconds or until `is_refused`.

        Returns what left it, or None. One that takes longer is killed and counts as `HandlerTimeoutError`; one that
        survives that is left behind.
        """
        outcome: list[BaseException] = []

        def run() -> None:
            try:
                hook()
            except BaseException as error:  # noqa: BLE001 - boundary
                # Boundary: the supervisor's. Whoever called decides what a hook's failure means.
                outcome.append(error)

        greenlet = OwnedGreenlet(run)
        greenlet.director = self._pool.director
        self.hooks[greenlet] = what
        try:
            greenlet.rawlink(lambda _: self._dispatcher.notice())
            greenlet.start()
            is_in_time = self._dispatcher.wait_until(lambda: greenlet.dead or is_refused(), timeout_s)
            is_late = not greenlet.dead
        finally:
            # Also when this wait itself was ended: what comes next must not run beside the hook.
            try:
                if not greenlet.dead:
                    greenlet.kill(block=False)
                    self._dispatcher.wait_until(lambda: greenlet.dead, HOOK_END_S)
            finally:
                del self.hooks[greenlet]
        if is_late and is_in_time:
            return DirectorStoppedError(f"{what} was ended: the Director is to stop")
        if is_late:
            return HandlerTimeoutError(f"{what} did not return within {timeout_s:g} s")
        if outcome and isinstance(outcome[0], GreenletExit):
            return HandlerTimeoutError(f"{what} was killed")
        return outcome[0] if outcome else None

    # ---- restarting ---------------------------------------------------------------------------------------------

    def crashed(self, member: Member, reason: str) -> None:
        """Restart the actor, for `reason`. May be called from anywhere in the Director's thread; never waits."""
        if self.is_closed or member.state in (ActorState.REGISTERED, ActorState.FAILED, ActorState.STOPPED):
            return
        is_under_way = member.crash is not None or member.state is ActorState.RESTARTING
        member.crash = reason
        if member.state is ActorState.STARTING or is_under_way:
            return
        member.state = ActorState.RESTARTING
        member.cell.close(RESTARTING)
        member.pool.is_restarting = True
        member.actor._wake_sleepers()
        member.restarting = self._pool.spawn(self._restart, member, restart=False, name=f"restart of {member.name!r}")

    def background_died(self, member: Member, greenlet: RestartableGreenlet) -> None:
        """A background greenlet of the actor died."""
        self.crashed(member, f"background greenlet {greenlet.name!r} died: {greenlet.reason}")

    def _restart(self, member: Member) -> None:
        while member.crash is not None and not self.is_closed:
            reason, member.crash = member.crash, None
            now = self._clock.monotonic()
            if self._intensity.is_exceeded_by(now):
                self._give_up(member, reason)
                return
            if now - member.last_restart > self._intensity.period_s:
                member.attempts = 0
            member.attempts += 1
            delay_s = self._backoff.delay_s(member.attempts, self._clock.rng)
            logger.warning(
                "restarting actor %r in %.2f s: %s", member.name, delay_s, reason, extra={"actor": member.name}
            )
            self.end_handlers([member], member.options.grace_s)
            member.pool.kill()
            member.pool.join(member.options.grace_s)
            self._run_post_hook(member)
            self._clock.sleep(delay_s)
            if self.is_closed:
                return
            # What the hook spawns has to wait until `loop()` is true again.
            member.pool.is_started = False
            member.last_restart = self._clock.monotonic()
            member.cell.restarts += 1
            error = self._run_pre_hook(member)
            if error is not None:
                logger.error("pre_hook of %r failed in a restart", member.name, exc_info=error)
                member.crash = f"pre_hook failed: {error}"
        if not self.is_closed:
            member.state = ActorState.RUNNING
            member.cell.open(RESTARTING)
            member.pool.restart()

    def _give_up(self, member: Member, reason: str) -> None:
        member.state = ActorState.FAILED
        budget = f"{self._intensity.max_restarts} restarts in {self._intensity.period_s:g} s"
        text = f"actor {member.name!r} cannot be kept alive ({budget} are spent): {reason}"
        logger.critical("%s", text, extra={"actor": member.name})
        self.end_handlers([member], member.options.grace_s)
        member.pool.kill()
        self._on_escalate(text)

    # ---- handlers -----------------------------------------------------------------------------------------------

    def end_handlers(self, members: list[Member], grace_s: float, *, kill_after_s: float | None = None) -> int:
        """End the handlers of `members`: wait `grace_s`, kill, wait again, abandon what survives.

        Their events go back to the front of their inboxes when the greenlet has left the handler; those of abandoned
        handlers become dead letters. Returns how many handlers had to be killed.
        """
        if kill_after_s is None:
            kill_after_s = grace_s
        self._dispatcher.wait_until(lambda: not self._consumers_of(members), grace_s)
        victims = self._consumers_of(members)
        for consumer in victims:
            assert consumer.hand.sender is not None
            get_hub().loop.run_callback(partial(_kill, consumer, consumer.hand.sender))
        if victims:
            self._dispatcher.wait_until(lambda: not self._consumers_of(members), kill_after_s)
        by_cell = {member.cell: member for member in members}
        for consumer in self._consumers_of(members):
            # Looked at again each time: a log record may have let others run.
            cell = consumer.hand.sender
            if cell is not None and cell in by_cell:
                self._abandon(by_cell[cell], consumer)
        return len(victims)

    def _consumers_of(self, members: list[Member]) -> list[Consumer]:
        cells = {member.cell for member in members}
        return [consumer for consumer in self._dispatcher.consumers if consumer.hand.sender in cells]

    def _abandon(self, member: Member, consumer: Consumer) -> None:
        """Take everything from a handler that survived its kill, and let it be."""
        hand, cell = consumer.hand, member.cell
        stack = format_consumer(consumer)
        event, queue = hand.event, hand.queue
        is_in_hand = event is not None and event._owner is hand
        hand.is_abandoned = True
        hand.sender = None
        cell.running -= 1
        cell.abandoned += 1
        self._dispatcher.consumers.discard(consumer)
        logger.error("a handler survived its kill and is abandoned: %s", stack, extra={"actor": member.name})
        if event is not None and is_in_hand:
            failure = Failure(GreenletExit, "its handler survived a kill", actor=member.name)
            event.error = failure
            cell.bury(event, deadletter.ABANDONED, failure, queue.inbox if queue is not None else "")


def _kill(consumer: Consumer, cell: Cell) -> None:
    """Throw `GreenletExit` into the handler of `cell`, if it still runs. In the hub: nothing comes in between."""
    if consumer.hand.sender is cell and not consumer.dead:
        consumer.hand.is_kill_ours = True
        consumer.throw(GreenletExit)
