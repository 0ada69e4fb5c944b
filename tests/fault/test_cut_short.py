# SPDX-License-Identifier: Apache-2.0
"""A start, a stop or a restart that something breaks into: an exception, a timeout, a kill, another stop."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import gevent
import pytest
from gevent import GreenletExit, get_hub
from gevent.event import Event as Gate

from compysition import Actor, Director, Event, Fatal
from compysition.dispatch import Dispatcher
from compysition.errors import DirectorStoppedError, StartError, WrongContextError
from compysition.logs import LogBridge
from compysition.loopguard import LoopGuard
from compysition.restartlet import RestartPool
from compysition.runtime import Runtime
from compysition.supervisor import Supervisor
from compysition.wiring import Wiring
from tests.fault.conservation import (
    Collector,
    Handler,
    SteeredClock,
    assert_conserved,
    letters,
    running,
    wait_until,
)

pytestmark = pytest.mark.timeout(20)


Hooks = Mapping[str, Callable[[Any], object]]


class Hooked(Collector):
    """Writes down the begin and the end of its hooks; `hooks` holds what they call in between."""

    def __init__(self, name: str, diary: list[str] | None = None, hooks: Hooks | None = None) -> None:
        super().__init__(name)
        self.diary: list[str] = [] if diary is None else diary
        self.hooks: Hooks = hooks or {}

    def pre_hook(self) -> None:
        self._run("pre")

    def post_hook(self) -> None:
        self._run("post")

    def _run(self, hook: str) -> None:
        self.diary.append(f"{hook} {self.name}")
        try:
            self.hooks.get(hook, lambda actor: None)(self)
        finally:
            self.diary.append(f"end of {hook} {self.name}")


def slow_to_end(actor: Actor) -> None:
    """Hangs, and takes its time when it is killed."""
    try:
        gevent.sleep(60)
    finally:
        gevent.sleep(0.05)


def chain(**hooks: Callable[[Any], object]) -> tuple[Director, list[str], Hooked]:
    """Source → middle → sink. The hooks are the middle one's; the sink has a background greenlet."""
    diary: list[str] = []
    director = Director(stop_timeout_s=3.0)
    sink = director.register_actor(Hooked, "sink", diary, {"pre": lambda actor: actor.background(actor.sleep, 3600)})
    middle = director.register_actor(Hooked, "middle", diary, hooks)
    source = director.register_actor(Hooked, "source", diary)
    director.connect_queue(source, middle)
    director.connect_queue(middle, sink)
    return director, diary, sink


def assert_works(director: Director, sink: Collector) -> None:
    """It starts, passes an event on, and stops with nothing lost."""
    with running(director):
        director.post("source", "works")
        wait_until(lambda: sink.data[-1:] == ["works"])
    assert director.last_report is not None
    assert director.last_report.ok, director.last_report


def alive(director: Director) -> list[str]:
    """The background greenlets of all actors and of the Director that have still to end."""
    pools = [director._services, *(member.pool for member in director._wiring.members.values())]
    return [greenlet.name for pool in pools for greenlet in pool if greenlet.is_alive()]


# ---- a start that is cut short ------------------------------------------------------------------------------------

PARTS = [
    *((Dispatcher, "bind"), (RestartPool, "reset"), (Wiring, "complete"), (Runtime, "_start_order")),
    *((RestartPool, "start"), (Supervisor, "start"), (LoopGuard, "start")),
]


@pytest.mark.parametrize("is_again", [False, True], ids=["first start", "second start"])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("owner", "part"), PARTS, ids=[f"{owner.__name__}.{part}" for owner, part in PARTS])
def test_a_start_that_is_interrupted_anywhere_leaves_nothing_running_and_can_be_repeated(
    owner: type, part: str, when: str, is_again: bool
) -> None:
    director, _, sink = chain()
    director.register_log_actor(Collector, "log")
    if is_again:
        assert_works(director, sink)
    original = getattr(owner, part)

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if when == "after":
            original(*args, **kwargs)
        patch.undo()
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, part, interrupted)
        with pytest.raises(KeyboardInterrupt):
            director.start(block=False)

    assert not director.is_running()
    assert alive(director) == []
    assert_works(director, sink)
    assert [
        handler for handler in logging.getLogger("compysition").handlers if type(handler).__name__ == "LogBridge"
    ] == []


@pytest.mark.parametrize(
    "error", [gevent.Timeout(), GreenletExit(), KeyboardInterrupt()], ids=lambda e: type(e).__name__
)
def test_whoever_ends_a_start_from_outside_gets_the_error_and_those_started_are_stopped_again(
    error: BaseException,
) -> None:
    hanging = Gate()

    def pre(actor: Actor) -> None:
        hanging.set()
        slow_to_end(actor)

    director, diary, _ = chain(pre=pre)

    def start() -> BaseException | None:
        try:
            director.start(block=False)
        except BaseException as seen:
            return seen
        return None

    starting = gevent.spawn(start)
    hanging.wait()
    starting.kill(error, block=False)

    assert starting.get(timeout=5) is error
    assert not director.is_running()
    assert director.last_report is not None
    assert director.last_report.exit_code == 2
    # The hook that was cut has ended before its own post_hook begins; the source never began.
    assert diary[2:] == [
        *("pre middle", "end of pre middle", "post middle", "end of post middle"),
        *("post sink", "end of post sink"),
    ]
    assert_conserved(director)


def test_a_start_that_is_cut_again_while_it_is_taken_back_is_taken_back_all_the_same() -> None:
    stopping, may_stop = Gate(), Gate()

    def post(actor: Actor) -> None:
        stopping.set()
        may_stop.wait()

    def pre(actor: Actor) -> None:
        raise ValueError("no")

    director, diary, _ = chain(pre=pre, post=post)
    starting = gevent.spawn(director.start, block=False)
    stopping.wait()
    starting.kill()
    assert director.is_running()
    may_stop.set()

    assert director.block().exit_code == 2
    assert diary[-2:] == ["post sink", "end of post sink"]
    assert alive(director) == []
    assert_conserved(director)


def test_a_start_in_a_callback_of_the_event_loop_is_refused_and_changes_nothing() -> None:
    director, diary, sink = chain()
    errors: list[BaseException] = []

    def start() -> None:
        try:
            director.start(block=False)
        except WrongContextError as error:
            errors.append(error)

    get_hub().loop.run_callback(start)
    wait_until(lambda: errors)
    assert "callback of the event loop" in str(errors[0])
    assert diary == []
    assert_works(director, sink)


def test_a_director_without_actors_that_was_told_to_stop_before_its_start_has_a_report() -> None:
    director = Director()
    director.request_stop("not today")
    with pytest.raises(StartError, match="not today") as caught:
        director.start(block=False)
    assert caught.value.report is not None
    assert caught.value.report.exit_code == 2


@pytest.mark.parametrize(("posted", "exit_code"), [(0, 0), (2, 1)])
def test_a_stop_asked_for_while_a_blocking_start_makes_ready_is_a_stop_and_no_failure(
    posted: int, exit_code: int
) -> None:
    def pre(actor: Actor) -> None:
        director.request_stop("enough")
        gevent.sleep(60)

    director, _, _ = chain(pre=pre)
    for number in range(posted):
        director.post("source", number)
    report = director.start()
    assert report is not None
    assert (report.reason, report.exit_code) == ("enough", exit_code)
    assert len(letters(director)) == posted
    assert_conserved(director)


def test_a_stop_asked_for_while_a_start_that_does_not_block_makes_ready_is_an_error() -> None:
    def pre(actor: Actor) -> None:
        director.request_stop("enough")
        gevent.sleep(60)

    director, _, _ = chain(pre=pre)
    with pytest.raises(StartError, match="enough") as caught:
        director.start(block=False)
    assert caught.value.report is not None
    assert caught.value.report.exit_code == 2


def test_an_actor_that_fails_while_a_stop_is_asked_for_is_still_a_failure() -> None:
    def pre(actor: Actor) -> None:
        director.request_stop("enough")
        raise ValueError("no such host")

    director, _, _ = chain(pre=pre)
    with pytest.raises(StartError, match="enough") as caught:
        director.start()
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.report is not None
    assert caught.value.report.exit_code == 2


def test_a_stop_asked_for_by_whoever_hears_that_it_runs_is_not_lost() -> None:
    class Impatient(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "is running with" in record.getMessage():
                director.request_stop("heard it")
                gevent.sleep(0.01)

    director, _, _ = chain()
    logger, handler = logging.getLogger("compysition.director"), Impatient()
    logger.addHandler(handler)
    before = logger.level
    logger.setLevel(logging.INFO)
    try:
        with gevent.Timeout(5.0):
            report = director.start()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
    assert report is not None
    assert (report.reason, report.exit_code) == ("heard it", 0)


def test_who_asks_for_a_stop_when_it_is_over_does_not_end_the_next_start() -> None:
    director, _, sink = chain()
    assert_works(director, sink)
    director.request_stop("late")
    assert_works(director, sink)


def test_a_start_right_after_one_that_failed_has_one_feeder_for_its_log_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    feeding: list[object] = []
    feed = LogBridge.feed

    def counted(bridge: LogBridge) -> None:
        feeding.append(bridge)
        try:
            feed(bridge)
        finally:
            feeding.remove(bridge)

    monkeypatch.setattr(LogBridge, "feed", counted)
    is_broken = True

    def pre(actor: Actor) -> None:
        if is_broken:
            raise ValueError("no")

    director, _, _ = chain(pre=pre)
    log = director.register_log_actor(Collector, "log")
    with pytest.raises(StartError):
        director.start(block=False)
    is_broken = False
    with running(director):
        gevent.sleep(0.2)  # longer than the first backoff, after which a second one would begin
        assert len(feeding) == 1
        logging.getLogger("compysition.test").warning("once")
        wait_until(lambda: any(entry["message"] == "once" for entry in log.data))
    assert [entry["message"] for entry in log.data].count("once") == 1


# ---- what a stop meets --------------------------------------------------------------------------------------------


@pytest.fixture
def steered(monkeypatch: pytest.MonkeyPatch) -> SteeredClock:
    """Backoff takes no time."""
    clock = SteeredClock()
    monkeypatch.setattr("compysition.runtime.Clock", lambda: clock)
    return clock


@pytest.mark.parametrize("hook", ["pre", "post"])
def test_a_stop_at_its_deadline_in_the_middle_of_a_restart_never_runs_two_hooks_at_once(
    hook: str, steered: SteeredClock
) -> None:
    times = 0

    def hang_in_the_restart(actor: Actor) -> None:
        nonlocal times
        times += 1
        if times == (2 if hook == "pre" else 1):
            slow_to_end(actor)

    def fatal(actor: Actor, event: Event) -> None:
        raise Fatal

    director = Director(stop_timeout_s=3.0)
    actor = director.register_actor(Hooked, "actor", hooks={hook: hang_in_the_restart})
    actor.consume = lambda event: fatal(actor, event)  # type: ignore[assignment, misc, method-assign]
    director.start(block=False)
    director.post(actor, 1)
    wait_until(lambda: actor.diary[-1] == f"{hook} actor" and len(actor.diary) > 2)

    report = director.stop(timeout_s=0.05)

    assert report.exit_code == 1
    begun = [line for line in actor.diary if not line.startswith("end of ")]
    assert actor.diary == [each for line in begun for each in (line, f"end of {line}")]
    assert begun[-1] == "post actor"
    assert_conserved(director)


def test_what_a_post_hook_begins_in_the_background_ends_with_the_stop() -> None:
    director, _, _ = chain(post=lambda actor: actor.background(gevent.sleep, 3600))
    with running(director):
        pass
    assert alive(director) == []


def test_hooks_that_hang_are_bounded_by_the_stops_deadline_and_each_one_is_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("compysition.drain.HOOKS_S", 0.05)
    director = Director()
    diary: list[str] = []
    for number in range(3):
        # The time limit of the test is far below the grace.
        director.register_actor(
            Hooked, f"a{number}", diary, {"post": lambda actor: gevent.sleep(3600)}, options={"grace_s": 600}
        )
    director.start(block=False)
    report = director.stop(timeout_s=0.05)
    assert [line for line in diary if line.startswith("post")] == ["post a2", "post a1", "post a0"]
    assert [actor.killed for actor in report.actors.values()] == [1, 1, 1]
    assert report.exit_code == 1


def test_who_asks_while_the_director_stops_at_its_deadline_is_told_so() -> None:
    director = Director()
    actor = director.register_actor(Handler, "actor", lambda actor, event: actor.offload(time.sleep, 0.2))
    director.start(block=False)
    asking = gevent.spawn(_error_of, lambda: director.ask(actor, 1))
    wait_until(lambda: director.snapshot().actors["actor"].in_flight == 1)
    gevent.spawn(_error_of, lambda: director.ask("actor", 2))

    director.stop(timeout_s=0.05)

    assert isinstance(asking.get(timeout=5), DirectorStoppedError)
    assert len(letters(director, "stopped")) == 2
    assert_conserved(director)


def _error_of(call: Callable[[], object]) -> BaseException | None:
    try:
        call()
    except Exception as error:
        return error
    return None
