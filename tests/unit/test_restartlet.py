# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.restartlet`: greenlets with an owner. Words as in OTP's supervisors."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import GreenletExit, getcurrent

from compysition.backoff import Backoff
from compysition.restartlet import GreenletState, RestartableGreenlet, RestartPool
from compysition.testing import VirtualClock
from tests.unit.kernel import turn


class Flow:
    """A function for a greenlet: counts its runs and does what the test wants, or waits to be told to end."""

    def __init__(self) -> None:
        self.runs = 0
        self.arguments: list[tuple[Any, ...]] = []
        self.error: BaseException | None = None
        self.may_return = gevent.event.Event()

    def __call__(self, *args: Any) -> None:
        self.runs += 1
        self.arguments.append(args)
        if self.error is not None:
            raise self.error
        self.may_return.wait()


@pytest.fixture
def flow() -> Flow:
    return Flow()


@pytest.fixture
def pool(clock: VirtualClock) -> Iterator[RestartPool]:
    """A pool that restarts its greenlets itself, without jitter."""
    pool = RestartPool(clock, backoff=Backoff(jitter=0.0))
    yield pool
    pool.kill()
    turn()


Deaths = list[RestartableGreenlet]


@pytest.fixture
def deaths() -> Deaths:
    return []


@pytest.fixture
def owned(clock: VirtualClock, deaths: Deaths) -> Iterator[RestartPool]:
    """A pool whose owner decides about restarts."""
    pool = RestartPool(clock, on_death=deaths.append)
    yield pool
    pool.kill()
    turn()


# ---- running --------------------------------------------------------------------------------------------------------


def test_spawned_function_runs_in_a_greenlet_of_its_own(pool: RestartPool) -> None:
    seen: list[object] = []
    greenlet = pool.spawn(lambda: seen.append(getcurrent()))
    assert seen == []
    assert greenlet.state is GreenletState.RUNNING
    turn()
    assert len(seen) == 1
    assert seen[0] is not getcurrent()


def test_function_gets_its_arguments_in_every_run(pool: RestartPool, clock: VirtualClock, flow: Flow) -> None:
    flow.error = ValueError("no")
    pool.spawn(flow, 1, "two")
    turn()
    clock.advance(0.1)
    turn()
    assert flow.arguments == [(1, "two"), (1, "two")]


def test_greenlets_spawned_before_the_start_run_when_it_comes(clock: VirtualClock, flow: Flow) -> None:
    pool = RestartPool(clock, is_started=False)
    greenlet = pool.spawn(flow)
    turn()
    assert (flow.runs, greenlet.state) == (0, GreenletState.NEW)
    pool.start()
    turn()
    assert (flow.runs, greenlet.state) == (1, GreenletState.RUNNING)
    pool.start()
    turn()
    assert flow.runs == 1
    pool.kill()
    turn()


def test_name_is_the_functions_or_the_one_given(pool: RestartPool, flow: Flow) -> None:
    def poll() -> None:
        pass

    assert pool.spawn(poll).name.endswith("poll")
    assert pool.spawn(poll, name="poller").name == "poller"
    assert repr(pool.spawn(flow, name="feeder")) == "<RestartableGreenlet feeder running>"


# ---- dying and being restarted --------------------------------------------------------------------------------------


def test_greenlet_that_returned_is_not_restarted(pool: RestartPool, clock: VirtualClock, flow: Flow) -> None:
    greenlet = pool.spawn(flow)
    flow.may_return.set()
    turn()
    clock.advance(100.0)
    turn()
    assert flow.runs == 1
    assert greenlet.state is GreenletState.ENDED


def test_greenlet_that_raised_is_restarted_with_backoff(pool: RestartPool, clock: VirtualClock, flow: Flow) -> None:
    flow.error = ValueError("no")
    pool.spawn(flow)
    turn()
    for expected_s in (0.1, 0.2, 0.4, 0.8):
        runs = flow.runs
        clock.advance(expected_s - 0.01)
        turn()
        assert flow.runs == runs
        clock.advance(0.0101)
        turn()
        assert flow.runs == runs + 1


def test_a_calm_resets_the_backoff(clock: VirtualClock, flow: Flow) -> None:
    pool = RestartPool(clock, backoff=Backoff(jitter=0.0), calm_s=5.0)
    flow.error = ValueError("no")
    greenlet = pool.spawn(flow)
    turn()
    clock.advance(0.11)
    turn()
    clock.advance(0.21)
    turn()
    assert flow.runs == 3
    flow.error = None
    clock.advance(0.41)
    turn()
    assert greenlet.state is GreenletState.RUNNING
    clock.advance(5.0)
    assert greenlet.greenlet is not None
    greenlet.greenlet.kill()
    runs = flow.runs
    clock.advance(0.11)
    turn()
    assert flow.runs == runs + 1
    pool.kill()
    pool.join(1.0)


def test_greenlet_that_was_killed_from_outside_is_restarted(pool: RestartPool, clock: VirtualClock, flow: Flow) -> None:
    greenlet = pool.spawn(flow)
    turn()
    assert greenlet.greenlet is not None
    greenlet.greenlet.kill()
    clock.advance(0.2)
    turn()
    assert flow.runs == 2
    assert greenlet.state is GreenletState.RUNNING


def test_greenlet_that_was_killed_from_outside_before_it_ran_is_restarted(
    pool: RestartPool, clock: VirtualClock, flow: Flow
) -> None:
    greenlet = pool.spawn(flow)
    assert greenlet.greenlet is not None
    greenlet.greenlet.kill()
    turn()
    clock.advance(0.2)
    turn()
    assert flow.runs == 1


def test_owner_is_told_once_of_each_death_and_why(owned: RestartPool, deaths: Deaths, flow: Flow) -> None:
    flow.error = ValueError("no")
    greenlet = owned.spawn(flow)
    turn()
    assert deaths == [greenlet]
    assert (greenlet.state, greenlet.reason) == (GreenletState.DIED, "ValueError: no")
    turn()
    assert flow.runs == 1


def test_death_is_logged_with_its_traceback(owned: RestartPool, flow: Flow, caplog: pytest.LogCaptureFixture) -> None:
    flow.error = ValueError("no")
    with caplog.at_level(logging.ERROR, "compysition"):
        owned.spawn(flow, name="poller")
        turn()
    [record] = caplog.records
    assert "'poller' died" in record.getMessage()
    assert record.exc_info is not None


def test_temporary_greenlet_stays_dead_and_is_counted(
    owned: RestartPool, deaths: Deaths, clock: VirtualClock, flow: Flow, caplog: pytest.LogCaptureFixture
) -> None:
    flow.error = ValueError("no")
    with caplog.at_level(logging.WARNING, "compysition"):
        greenlet = owned.spawn(flow, restart=False)
        turn()
    clock.advance(100.0)
    owned.restart()
    turn()
    assert flow.runs == 1
    assert deaths == []
    assert owned.deaths_ignored == 1
    assert greenlet.state is GreenletState.DIED
    assert any("restart=False: it stays dead" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_end_of_the_process_that_leaves_a_greenlet_asks_for_a_stop(clock: VirtualClock, error: BaseException) -> None:
    reasons: list[str] = []
    pool = RestartPool(clock, on_exit=reasons.append)
    flow = Flow()
    flow.error = error
    pool.spawn(flow, restart=False, name="poller")
    turn()
    [reason] = reasons
    assert type(error).__name__ in reason
    assert "'poller'" in reason


@pytest.mark.parametrize("error", [MemoryError, RecursionError, gevent.Timeout, AssertionError, BaseException])
def test_whatever_leaves_a_greenlet_is_a_death(
    owned: RestartPool, deaths: Deaths, flow: Flow, error: type[BaseException]
) -> None:
    flow.error = error()
    greenlet = owned.spawn(flow)
    turn()
    assert deaths == [greenlet]


# ---- the owner's kill and restart -----------------------------------------------------------------------------------


def test_greenlet_killed_by_its_owner_is_no_death(
    owned: RestartPool, deaths: Deaths, clock: VirtualClock, flow: Flow
) -> None:
    greenlet = owned.spawn(flow)
    turn()
    owned.kill()
    turn()
    clock.advance(100.0)
    assert deaths == []
    assert greenlet.state is GreenletState.KILLED
    assert flow.runs == 1


def test_greenlet_killed_by_its_owner_before_it_ran_never_runs(owned: RestartPool, flow: Flow) -> None:
    greenlet = owned.spawn(flow)
    owned.kill()
    assert owned.join(1.0)
    turn()
    assert flow.runs == 0
    assert greenlet.state is GreenletState.KILLED


def test_kill_calls_off_restarts_to_come(pool: RestartPool, clock: VirtualClock, flow: Flow) -> None:
    flow.error = ValueError("no")
    pool.spawn(flow)
    turn()
    assert pool.is_alive()
    pool.kill()
    assert not pool.is_alive()
    clock.advance(100.0)
    turn()
    assert flow.runs == 1


def test_error_on_the_way_out_of_a_kill_is_no_death(owned: RestartPool, deaths: Deaths) -> None:
    def stubborn() -> None:
        try:
            gevent.event.Event().wait()
        finally:
            raise ValueError("while cleaning up")

    owned.spawn(stubborn)
    turn()
    owned.kill()
    assert owned.join(1.0)
    assert deaths == []


def test_restart_runs_again_what_died_or_was_killed_and_not_what_ended(owned: RestartPool, deaths: Deaths) -> None:
    dying, living, ending = Flow(), Flow(), Flow()
    dying.error = ValueError("no")
    ending.may_return.set()
    for function in (dying, living, ending):
        owned.spawn(function)
    turn()
    owned.kill()
    assert owned.join(1.0)
    owned.restart()
    turn()
    assert [each.runs for each in (dying, living, ending)] == [2, 2, 1]
    assert len(deaths) == 2


def test_restart_leaves_temporary_greenlets_alone(owned: RestartPool, flow: Flow) -> None:
    owned.spawn(flow, restart=False)
    turn()
    owned.kill()
    owned.join(1.0)
    owned.restart()
    turn()
    assert flow.runs == 1


def test_restart_leaves_to_the_hook_what_the_hook_makes(owned: RestartPool, flow: Flow) -> None:
    def hook() -> None:
        owned.is_in_hook = True
        owned.spawn(flow)
        owned.is_in_hook = False

    hook()
    turn()
    owned.kill()
    owned.join(1.0)
    hook()
    owned.restart()
    turn()
    assert flow.runs == 2
    assert sum(1 for greenlet in owned if greenlet.state is GreenletState.RUNNING) == 1


# ---- joining --------------------------------------------------------------------------------------------------------


def test_join_waits_for_the_end_of_all(owned: RestartPool) -> None:
    flows = [Flow(), Flow()]
    for each in flows:
        owned.spawn(each)
    joining = gevent.spawn(owned.join)
    turn()
    flows[0].may_return.set()
    turn()
    assert not joining.dead
    flows[1].may_return.set()
    assert joining.get() is True


def test_join_gives_up_after_its_timeout(owned: RestartPool, clock: VirtualClock, flow: Flow) -> None:
    owned.spawn(flow)
    joining = gevent.spawn(owned.join, 5.0)
    turn()
    clock.advance(4.9)
    turn()
    assert not joining.dead
    clock.advance(0.2)
    assert joining.get() is False


def test_join_of_nothing_returns_at_once(owned: RestartPool, clock: VirtualClock) -> None:
    assert owned.join()
    assert owned.join(0.0)
    assert clock.pending == 0


def test_joins_at_the_same_time_all_return(owned: RestartPool, clock: VirtualClock) -> None:
    # A restart joins an actor's greenlets, and the deadline of a stop joins them meanwhile.
    flow, other = Flow(), Flow()
    owned.spawn(flow)
    owned.spawn(other)
    joining = [gevent.spawn(owned.join, 60.0) for _ in range(3)]
    turn()
    flow.may_return.set()
    other.may_return.set()
    turn()
    assert [each.dead for each in joining] == [True] * 3
    assert clock.pending == 0


def test_join_leaves_nothing_behind_that_wakes_a_greenlet_later(owned: RestartPool) -> None:
    steps: list[str] = []
    flow, other = Flow(), Flow()

    def join_and_sleep() -> None:
        owned.join()
        steps.append("joined")
        gevent.sleep(0.01)
        steps.append("slept")

    owned.spawn(flow)
    joining = [gevent.spawn(join_and_sleep) for _ in range(2)]
    turn()
    flow.may_return.set()
    turn()
    owned.spawn(other)
    turn()
    other.may_return.set()
    gevent.joinall(joining)
    assert sorted(steps) == ["joined", "joined", "slept", "slept"]


def test_end_is_told_however_it_came(clock: VirtualClock, flow: Flow) -> None:
    ends: list[str] = []
    pool = RestartPool(clock, on_death=lambda greenlet: None, on_end=lambda: ends.append("end"))
    dying, killed = Flow(), Flow()
    dying.error = ValueError("no")
    flow.may_return.set()
    for function in (dying, killed, flow):
        pool.spawn(function)
    turn()
    pool.kill()
    turn()
    assert len(ends) == 3


# ---- what a pool knows ----------------------------------------------------------------------------------------------


def test_pool_is_alive_while_a_restart_is_to_come(pool: RestartPool, clock: VirtualClock, flow: Flow) -> None:
    flow.error = ValueError("no")
    pool.spawn(flow)
    turn()
    assert pool.is_alive()
    flow.error = None
    flow.may_return.set()
    clock.advance(0.2)
    turn()
    assert not pool.is_alive()


def ends_well() -> None:
    pass


def raises() -> None:
    raise ValueError("no")


@pytest.mark.parametrize("function", [ends_well, raises])
def test_pool_forgets_greenlets_that_will_not_run_again(owned: RestartPool, function: Callable[[], None]) -> None:
    # An actor may spawn one per event for months.
    for _ in range(30):
        owned.spawn(function, restart=False)
        turn()
    assert len(owned) < 10


def test_kill_of_one_greenlet_leaves_the_others(owned: RestartPool, flow: Flow) -> None:
    first, second = owned.spawn(flow), owned.spawn(flow)
    turn()
    first.kill()
    turn()
    assert not first.is_alive()
    assert second.is_alive()
    assert [greenlet.state for greenlet in owned] == [GreenletState.KILLED, GreenletState.RUNNING]


def test_exit_raised_by_the_function_itself_is_a_death(owned: RestartPool, deaths: Deaths, flow: Flow) -> None:
    flow.error = GreenletExit()
    greenlet = owned.spawn(flow)
    turn()
    assert deaths == [greenlet]
    assert greenlet.reason == "it was killed from outside"
