# SPDX-License-Identifier: Apache-2.0
"""A whole Director in a test: surely stopped at the end, and nothing lost on the way.

Read next: `drive`, which does the same for one actor.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from compysition.deadletter import DeadLetter
from compysition.director import Director
from compysition.drain import StopReport
from compysition.ledger import Outcome
from compysition.snapshot import Snapshot
from compysition.testing.clock import VirtualClock
from compysition.testing.waiting import PATIENCE_S, all_stacks

#: Dead letters that a failure shows.
LETTERS_SHOWN = 10


@contextmanager
def running(director: Director, *, stop_timeout_s: float = PATIENCE_S, allow_left: bool = False) -> Iterator[Director]:
    """Start `director` without blocking, and at the end of the block stop it and check that nothing was lost.

    Where the Director has a virtual clock, time jumps while it starts and while it stops; in the block it moves only
    when the test moves it.

    Args:
        director: Registered and connected, not started.
        stop_timeout_s: Seconds until the stop kills what is left.
        allow_left: Whether something may be left or killed at the stop. What is lost without a name fails in any case.

    Raises:
        StartError: an actor did not become ready.
        AssertionError: something was left, or the balance is not even. The text shows the report of the stop, the
            balance, dead letters and stacks.
    """
    __tracebackhide__ = True
    with jumping(director):
        director.start(block=False)
    try:
        yield director
    except BaseException:
        # The failure of the body is what the reader wants to see; nothing here may take its place or keep it waiting.
        if director.is_running():
            stop(director, 0.0)
        raise
    stacks = ""
    if director.is_running():
        stacks = director.stacks()
        stop(director, stop_timeout_s)
    report = director.last_report
    if report is not None and not report.ok and not allow_left:
        raise AssertionError(f"{report}\n{describe(director)}\nstacks before the stop:\n{stacks or '(had stopped)'}")
    assert_conserved(director)


def stop(director: Director, timeout_s: float = PATIENCE_S) -> StopReport:
    """Stop `director`; on a virtual clock time jumps meanwhile."""
    with jumping(director):
        return director.stop(timeout_s)


def jumping(director: Director) -> AbstractContextManager[None]:
    """`VirtualClock.jumping` if the Director has such a clock and nobody lets it jump already; else nothing."""
    clock = director.clock
    return clock.jumping() if isinstance(clock, VirtualClock) and not clock.is_moving else nullcontext()


def assert_conserved(director: Director, *, cleared: int = 0) -> None:
    """Check that nothing was lost and nothing counted twice; while it runs, and when it has stopped.

    Args:
        director: Its events and log records are looked at.
        cleared: How many dead letters the test has cleared away.

    Raises:
        AssertionError: ``accepted + born = ended + held`` does not hold, a dead event has no dead letter, or a stopped
            Director holds something.
    """
    __tracebackhide__ = True
    wrong = list(_what_is_wrong(director, cleared))
    if wrong:
        raise AssertionError("\n".join([*wrong, describe(director), all_stacks()]))


def _what_is_wrong(director: Director, cleared: int) -> Iterator[str]:
    snapshot = director.snapshot()
    balances = {"events": snapshot.balance, "log records": snapshot.logs}
    for what, balance in balances.items():
        if not balance.is_even or min(balance.accepted, balance.born, *balance.ended.values()) < 0:
            yield f"the balance of {what} is not even: {balance}"
    buried = len(director.dead_letters) + director.dead_letters.lost + cleared
    dead = sum(balance.ended[Outcome.DEAD] for balance in balances.values())
    if dead != buried:
        yield f"{dead} events are dead, but there were {buried} dead letters"
    for name, actor in snapshot.actors.items():
        if not 0 <= actor.waiting_puts <= actor.in_flight:
            yield f"actor {name!r} does not count its waiting puts right: {actor}"
    if snapshot.state == "stopped":
        yield from _what_is_left(snapshot)


def _what_is_left(snapshot: Snapshot) -> Iterator[str]:
    for what, balance in (("events", snapshot.balance), ("log records", snapshot.logs)):
        if balance.held:
            yield f"it has stopped and holds {what}: {balance}"
    for name, actor in snapshot.actors.items():
        if actor.in_flight or actor.background:
            yield f"it has stopped and actor {name!r} runs: {actor}"
    for key, queue in snapshot.queues.items():
        if queue.depth or queue.waiting:
            yield f"it has stopped and a queue is not empty: {key}: {queue}"


def describe(director: Director) -> str:
    """Balance, actors that hold something, and the newest dead letters of `director`, as lines."""
    snapshot = director.snapshot()
    lines = [f"{director!r}", f"  balance: {snapshot.balance}"]
    for name, actor in snapshot.actors.items():
        numbers = (actor.queued, actor.in_flight, actor.kept, actor.delayed)
        if any(numbers):
            lines.append("  {!r}: {} queued, {} in flight, {} kept, {} delayed".format(name, *numbers))
    for letter in list(director.dead_letters)[-LETTERS_SHOWN:]:
        lines.append(f"  dead letter ({letter.reason}) of {letter.actor!r}: {letter.event!r}")
        if letter.error is not None:
            lines.append(f"    {letter.error}")
            lines += [f"    {line}" for line in letter.error.traceback.splitlines()]
    return "\n".join(lines)


def letters(director: Director, reason: str | None = None) -> list[DeadLetter]:
    """The dead letters that are kept, oldest first; of one `reason` only, if it is given."""
    return [letter for letter in director.dead_letters if reason is None or letter.reason == reason]


def ended(director: Director, outcome: Outcome) -> int:
    """How many events ended as `outcome`."""
    return director.snapshot().balance.ended[outcome]
