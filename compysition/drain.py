# SPDX-License-Identifier: Apache-2.0
"""The ordered stop: intake closes, the graph drains upstream first, by a deadline, with a report.

The steps are those of docs/architecture.md, "The stop", one method each. Must not know the Director.
Read next: `director`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from compysition import deadletter
from compysition.cell import Cell
from compysition.deadletter import DeadLetters
from compysition.dispatch import Dispatcher
from compysition.graph import components
from compysition.logger import get_logger
from compysition.readiness import KILLED_AT_DEADLINE
from compysition.supervisor import ActorState, Member, Supervisor

logger = get_logger("drain")

#: Exit codes: all drained; something was left or killed; could not start; the restart budget was spent.
EXIT_OK, EXIT_LEFT, EXIT_NOT_STARTED, EXIT_GAVE_UP = 0, 1, 2, 3
#: All `post_hook`s together have the time up to the stop's deadline, but at least so long, in seconds …
HOOKS_S = 2.0
#: … and whatever those before it took, each one has so long: enough for all that does not wait.
HOOK_LEAST_S = 0.05
#: After the deadline killed handlers get this long to leave, in seconds, before they are abandoned.
KILL_S = 1.0


@dataclass(frozen=True, slots=True)
class ActorReport:
    """What one actor did during the stop, in events.

    Attributes:
        done: Handled after the stop began.
        left: Not handled: dead letters of this stop, or in a report made before its end, still held.
        dropped: Dropped by overflow policies on the way to it.
        killed: Handlers and background greenlets that had to be killed, open requests that were cut, and a
            `post_hook` that failed.
    """

    done: int = 0
    left: int = 0
    dropped: int = 0
    killed: int = 0


@dataclass(frozen=True, slots=True)
class StopReport:
    """How a Director stopped.

    Attributes:
        reason: Why.
        exit_code: 0 all drained, 1 something was left or killed, 2 could not start, 3 restart budget spent.
        took_s: Seconds from the first step to the last.
        actors: By actor's name, what each did.
    """

    reason: str
    exit_code: int = EXIT_OK
    took_s: float = 0.0
    actors: Mapping[str, ActorReport] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing was lost."""
        return self.exit_code == EXIT_OK

    def __str__(self) -> str:
        verdict = {
            EXIT_OK: "everything drained",
            EXIT_LEFT: "not everything drained",
            EXIT_NOT_STARTED: "could not start",
            EXIT_GAVE_UP: "gave up",
        }.get(self.exit_code, "")
        lines = [f"stopped after {self.took_s:.1f} s: {verdict} (exit code {self.exit_code}); {self.reason}"]
        width = max(map(len, self.actors), default=0)
        for name, report in self.actors.items():
            killed = f"  {report.killed} killed" if report.killed else ""
            lines.append(
                f"  {name:<{width}}  {report.done:>6} done  {report.left:>6} left  {report.dropped:>6} dropped{killed}"
            )
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class StopProgress:
    """How far a stop is.

    Attributes:
        left: Events that are still held.
        left_s: Seconds until what is left is killed.
        holders: One text for each actor that holds the stop, such as ``'slow': 1 in its handler, 2 queued``.
    """

    left: int
    left_s: float
    holders: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.left} left, {self.left_s:.0f} s"


class Drain:
    """One stop of one Director.

    Args:
        members: All actors, in the order in which they were started.
        log_members: Those that take log records, stopped last.
        supervisor: Ends handlers and runs hooks.
        dispatcher: Whose consumers run the handlers.
        dead_letters: Where what is left ends.
        dead_before: Their counts when the stop was asked for.
        timeout_s: Seconds until what is left is killed.
        are_logs_flushed: Whether every log record has reached its actor.
    """

    def __init__(
        self,
        members: Sequence[Member],
        log_members: Iterable[Member],
        supervisor: Supervisor,
        dispatcher: Dispatcher,
        dead_letters: DeadLetters,
        *,
        dead_before: Counter[tuple[str, str]],
        timeout_s: float,
        are_logs_flushed: Callable[[], bool],
    ) -> None:
        self._members = members
        self._log_members = list(log_members)
        self._flow_members = [member for member in members if member not in self._log_members]
        self._by_cell = {member.cell: member for member in members}
        self._supervisor = supervisor
        self._dispatcher = dispatcher
        self._dead_letters = dead_letters
        clock = self._clock = dispatcher.clock
        self._are_logs_flushed = are_logs_flushed
        self._began = clock.monotonic()
        self._deadline = self._began + timeout_s
        self._taken = {member: _taken(member.cell) for member in members}
        self._dropped = {member: _dropped(member.cell) for member in members}
        self._unhandled = {member: _unhandled(member, dead_before) for member in members}
        self._killed: dict[Member, int] = dict.fromkeys(members, 0)
        #: Actors whose `on_drain` is running, or was run and changed nothing.
        self._offered: set[Member] = set()

    def run(self) -> None:
        """All steps. Runs in a greenlet of its own and returns when every actor has stopped."""
        self.close_intake()
        in_time = self._drain_flow() and self._drain_answers()
        if not in_time:
            self._kill(self._flow_members)
        self._run_hooks(self._flow_members)
        # Log records of everything above have to come out, also when the deadline has passed: they say why.
        if not self._wait(self._log_members, extra_s=KILL_S, also=self._are_logs_flushed):
            self._kill(self._log_members)
        self._run_hooks(self._log_members)

    def _run_hooks(self, members: Sequence[Member]) -> None:
        """Step 5, in reverse order of start. Log actors come after all others, so that they hear of these hooks."""
        until = max(self._deadline, self._clock.monotonic() + HOOKS_S)
        for member in reversed(members):
            if not self._supervisor.stop(member, max(until - self._clock.monotonic(), HOOK_LEAST_S)):
                self._killed[member] += 1
            # What a hook has begun in the background has nobody left to work for.
            member.pool.kill()
            for queue in member.cell.inboxes:
                queue.close()
            # A post_hook may have sent something; it ends here, with its name.
            member.cell.collect(deadletter.STOPPED)

    def close_intake(self) -> None:
        """Step 1: doors refuse; `loop()` is false and `sleep` returns, because the Director says that it stops."""
        for member in self._flow_members:
            member.actor._close_intake()
            member.cell.refuse_retries(self._deadline)
            member.actor._wake_sleepers()

    def report(self, reason: str, exit_code: int) -> StopReport:
        """The report so far: what is still held counts as left. Complete after `run`."""
        actors = {
            member.name: ActorReport(
                done=_taken(member.cell) - self._taken[member],
                left=_unhandled(member, self._dead_letters.counts) - self._unhandled[member] + _held(member.cell),
                dropped=_dropped(member.cell) - self._dropped[member],
                killed=self._killed[member],
            )
            for member in self._members
        }
        has_loss = any(actor.left or actor.killed for actor in actors.values())
        return StopReport(
            reason=reason,
            exit_code=max(exit_code, EXIT_LEFT if has_loss else EXIT_OK),
            took_s=self._clock.monotonic() - self._began,
            actors=actors,
        )

    def progress(self) -> StopProgress:
        """How far it is; may be asked at any time."""
        return StopProgress(
            left=sum(_held(member.cell) for member in self._flow_members),
            left_s=max(0.0, self._deadline - self._clock.monotonic()),
            holders=tuple(text for member in self._members if (text := _what_holds(member))),
        )

    def _drain_flow(self) -> bool:
        """Step 2: components of the graph, upstream first. Returns whether all were done in time."""
        cells = [member.cell for member in self._flow_members]
        for component in components(cells, self._is_answering_cell):
            members = [self._by_cell[cell] for cell in component if not self._is_answering_cell(cell)]
            if not self._wait(members):
                return False
        return True

    def _drain_answers(self) -> bool:
        """Step 3: actors that answer, until no request is open.

        A request that was being read when intake closed may have put events into actors that were done: all are
        looked at once more.
        """
        for member in self._flow_members:
            member.actor._on_flow_drained()
        return self._wait(self._flow_members)

    def _wait(self, members: list[Member], extra_s: float = 0.0, also: Callable[[], bool] | None = None) -> bool:
        def is_done() -> bool:
            self._end_what_failed_actors_hold()
            # A list, so that every member is looked at: that is what offers the drain to those that only keep.
            return (also is None or also()) and all([self._is_done(member) for member in members])  # noqa: C419

        left_s = max(self._deadline - self._clock.monotonic(), extra_s)
        return self._dispatcher.wait_until(is_done, left_s)

    def _is_done(self, member: Member) -> bool:
        cell = member.cell
        if member.state in (ActorState.REGISTERED, ActorState.STARTING):
            # It never was ready, because the start failed: nobody will handle what lies here.
            cell.collect(deadletter.STOPPED)
            return True
        if member.state is ActorState.FAILED:
            return not cell.running
        if member.state is ActorState.RESTARTING or member.pool.is_alive():
            return False
        if cell.has_only_kept():
            if member not in self._offered:
                self._offered.add(member)
                self._offer_drain(member)
            return False
        if member in self._offered and cell.depth:
            self._offered.discard(member)
        return cell.is_quiet() and not member.actor._is_answering()

    def _end_what_failed_actors_hold(self) -> None:
        """Nobody will ever handle these: say so now rather than at the deadline, and make room for who waits."""
        for member in self._members:
            if member.state is ActorState.FAILED:
                member.cell.collect(deadletter.KILLED)

    def _offer_drain(self, member: Member) -> None:
        kept = len(member.cell.kept.events)

        def offer() -> None:
            try:
                member.actor.on_drain()
            except Exception:
                # Boundary: a user's hook. What it kept is still held and will be reported.
                logger.exception("on_drain of %r failed", member.name, extra={"actor": member.name})
            if 0 < len(member.cell.kept.events) < kept:
                # Something was sent, so a further call may send more.
                self._offered.discard(member)

        member.pool.spawn(offer, restart=False, name=f"on_drain of {member.name!r}")

    def _kill(self, members: list[Member]) -> None:
        """The deadline has passed: kill what runs, and end what is held, as dead letters."""
        self._supervisor.is_closed = True
        for member in members:
            self._killed[member] += len([greenlet for greenlet in member.pool if greenlet.is_alive()])
            member.pool.kill()
            self._killed[member] += sum(
                1 for consumer in self._dispatcher.consumers if consumer.hand.sender is member.cell
            )
            member.cell.close(KILLED_AT_DEADLINE)
        self._supervisor.end_handlers(members, 0.0, kill_after_s=KILL_S)
        for member in members:
            self._killed[member] += member.actor._abort()
            member.pool.join(KILL_S)
            member.cell.collect(deadletter.STOPPED)

    def _is_answering_cell(self, cell: Cell) -> bool:
        return self._by_cell[cell].actor.answers


def _unhandled(member: Member, counts: Counter[tuple[str, str]]) -> int:
    return sum(counts[member.name, reason] for reason in deadletter.UNHANDLED)


def _held(cell: Cell) -> int:
    return cell.depth + cell.running + len(cell.kept.events) + len(cell.retrying.events)


def _what_holds(member: Member) -> str | None:
    """What an actor still has to do; None if it has nothing."""
    cell = member.cell
    counts = {
        "in its handler": cell.running,
        "queued": cell.depth,
        "waiting for a retry": len(cell.retrying.events),
        "kept": len(cell.kept.events),
    }
    parts = [f"{count} {what}" for what, count in counts.items() if count]
    parts += [f"background greenlet {greenlet.name!r}" for greenlet in member.pool if greenlet.is_alive()]
    if member.actor._is_answering():
        parts.append("open requests")
    return f"{member.name!r}: {', '.join(parts)}" if parts else None


def _taken(cell: Cell) -> int:
    return sum(queue.taken for queue in cell.inboxes)


def _dropped(cell: Cell) -> int:
    return sum(queue.dropped for queue in cell.inboxes)
