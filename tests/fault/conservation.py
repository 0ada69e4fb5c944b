# SPDX-License-Identifier: Apache-2.0
"""What every fault test needs: a Director that is surely stopped, and the check that nothing was lost.

``with running(director):``
    Starts without blocking; at the end stops, and checks conservation once more. `stop_timeout_s` bounds that stop.
``assert_conserved(director)``
    ``accepted + born = ended + held`` for events and for log records, and each `dead` one has its dead letter. Works
    live and stopped; stopped, nothing is held and no handler runs.
``wait_until(condition, timeout_s=5.0, what="")``
    Lets others run until `condition()` holds; else fails the test with the stacks of all greenlets.
``Collector(name)``
    Remembers what it gets: `events`, `data`, `origins`; sends it on if it is connected.
``Handler(name, function)``
    Calls ``function(actor, event)``: one actor class for most tests.
``letters(director, reason=None)``, ``ended(director, outcome)``
    Dead letters as a list, and how many events ended in one way.
``SteeredClock()``
    A clock whose `sleep` takes no time and is remembered in `slept`, and that `advance` moves.
``observed`` (fixture, on for every test below ``tests/fault``)
    Fails a test when an error left a greenlet and nobody looked, when a consumer greenlet outlives its Director, or
    when a Director is still running. A test that means to have such an error takes it: ``observed.take(MyError)``.
"""

import gc
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from gevent import getcurrent
from gevent.hub import Hub
from greenlet import greenlet

from compysition import Actor, Director, Event, Outcome
from compysition.clock import Clock
from compysition.deadletter import DeadLetter
from compysition.dispatch import Consumer

#: Seconds between two looks at a condition.
LOOK_S = 0.002
#: A leak of greenlets should not write gigabytes.
MAX_STACK_LINES = 300
#: Seconds that a test waits for something that is to happen at once; generous, because machines are shared.
PATIENCE_S = 5.0
#: Seconds that a consumer may take to end after its Director has stopped.
END_S = 1.0


@contextmanager
def running(director: Director, *, stop_timeout_s: float = PATIENCE_S) -> Iterator[Director]:
    """`director`, started without blocking; stopped at the end, whatever happens, and conserved."""
    director.start(block=False)
    try:
        yield director
    except BaseException:
        # The failure of the body is what the reader wants to see; nothing here may take its place or keep it waiting.
        if director.is_running():
            director.stop(timeout_s=0.0)
        raise
    if director.is_running():
        director.stop(stop_timeout_s)
    assert_conserved(director)


def assert_conserved(director: Director, *, cleared: int = 0) -> None:
    """Nothing was lost and nothing counted twice.

    Args:
        director: It may run or have stopped.
        cleared: How many dead letters the test has cleared away.
    """
    snapshot = director.snapshot()
    for what, balance in (("events", snapshot.balance), ("log records", snapshot.logs)):
        assert balance.is_even, f"{what}: {balance}"
        assert balance.accepted >= 0, f"{what}: {balance}"
        assert balance.born >= 0, f"{what}: {balance}"
        assert min(balance.ended.values()) >= 0, f"{what}: {balance}"
    buried = len(director.dead_letters) + director.dead_letters.lost + cleared
    dead = snapshot.balance.ended[Outcome.DEAD] + snapshot.logs.ended[Outcome.DEAD]
    assert dead == buried, f"{dead} events are dead, but there were {buried} dead letters"
    for name, actor in snapshot.actors.items():
        assert 0 <= actor.waiting_puts <= actor.in_flight, f"{name!r}: {actor}"
    if snapshot.state == "stopped":
        assert snapshot.balance.held == 0, f"events: {snapshot.balance}"
        assert snapshot.logs.held == 0, f"log records: {snapshot.logs}"
        for name, actor in snapshot.actors.items():
            assert actor.in_flight == 0, f"{name!r}: {actor}"
            assert actor.background == 0, f"{name!r}: {actor}"
        for key, queue in snapshot.queues.items():
            assert queue.depth == queue.waiting == 0, f"{key}: {queue}"


def wait_until(condition: Callable[[], object], timeout_s: float = PATIENCE_S, *, what: str = "") -> None:
    """Let other greenlets run until `condition` holds; fail with all stacks when it does not in `timeout_s` seconds."""
    __tracebackhide__ = True
    deadline = time.perf_counter() + timeout_s
    while not condition():
        if time.perf_counter() > deadline:
            pytest.fail(f"not within {timeout_s:g} s: {what or condition}\n{all_stacks()}")
        gevent.sleep(LOOK_S)


def letters(director: Director, reason: str | None = None) -> list[DeadLetter]:
    """The dead letters that are kept, oldest first; of one `reason` only, if it is given."""
    return [letter for letter in director.dead_letters if reason is None or letter.reason == reason]


def ended(director: Director, outcome: Outcome) -> int:
    """How many events ended as `outcome`."""
    return director.snapshot().balance.ended[outcome]


class Collector(Actor):
    """Remembers what it gets, and sends it on if it is connected."""

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        #: The events themselves: this keeps them alive.
        self.events: list[Event] = []
        #: Their data, as it was when they came.
        self.data: list[Any] = []
        #: ``(origin, origin_queue)`` of each.
        self.origins: list[tuple[str, str]] = []

    def consume(self, event: Event, origin: str = "", origin_queue: str = "") -> None:
        self.events.append(event)
        self.data.append(event.data)
        self.origins.append((origin, origin_queue))
        self.send_event(event)


class Handler(Actor):
    """Calls ``function(self, event)`` for each event."""

    def __init__(self, name: str, function: Callable[[Any, Event], object], **kwargs: Any) -> None:
        super().__init__(name, **kwargs)
        self.function = function

    def consume(self, event: Event) -> None:
        self.function(self, event)


class SteeredClock(Clock):
    """Real time, but for `sleep`, which only yields, and `advance`.

    Give it to a Director by ``monkeypatch.setattr("compysition.runtime.Clock", lambda: clock)``.
    """

    def __init__(self) -> None:
        self.offset_s = 0.0
        #: What `sleep` was asked for.
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return time.perf_counter() + self.offset_s

    def advance(self, seconds: float) -> None:
        """Let so much time have passed."""
        self.offset_s += seconds

    def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)
        gevent.sleep(0)


class Observed:
    """What one test could leave behind: errors that left greenlets, consumers, Directors."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []
        self._consumers: list[Consumer] = []
        self._directors: list[Director] = []

    def take(self, error_class: type[BaseException]) -> list[BaseException]:
        """The errors of this class, which from now on count as looked at; fails if there is none."""
        taken = [error for error in self.errors if isinstance(error, error_class)]
        assert taken, f"no {error_class.__name__} left a greenlet; there are {self.errors}"
        self.errors = [error for error in self.errors if error not in taken]
        return taken

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Begin to look."""
        handle_error, make, start = Hub.handle_error, Consumer.__init__, Director.start

        def on_error(hub: Any, context: Any, kind: Any, error: Any, trace: Any) -> None:
            if isinstance(kind, type) and not issubclass(kind, hub.NOT_ERROR):
                self.errors.append(error if isinstance(error, BaseException) else kind(error))
            handle_error(hub, context, kind, error, trace)

        def on_consumer(consumer: Consumer, *args: Any, **kwargs: Any) -> None:
            self._consumers.append(consumer)
            make(consumer, *args, **kwargs)

        def on_start(director: Director, *args: Any, **kwargs: Any) -> Any:
            self._directors.append(director)
            return start(director, *args, **kwargs)

        patch.setattr(Hub, "handle_error", on_error)
        patch.setattr(Consumer, "__init__", on_consumer)
        patch.setattr(Director, "start", on_start)

    def finish(self) -> None:
        """Stop what still runs, wait for what is to end, and fail if anything was left."""
        left_running = [director for director in self._directors if director.is_running()]
        for director in left_running:
            with gevent.Timeout(PATIENCE_S, False):  # type: ignore[arg-type]  # the stubs know no False
                director.request_stop("the test has ended")
                director.stop(timeout_s=0.0)
        # What was on its way when the Director stopped has to come first: else it would be the next test's.
        gevent.sleep(LOOK_S)
        gevent.idle()
        deadline = time.perf_counter() + END_S
        while not all(consumer.dead for consumer in self._consumers) and time.perf_counter() < deadline:
            gevent.sleep(LOOK_S)
        leaked = [consumer for consumer in self._consumers if not consumer.dead]
        if leaked:
            stacks = all_stacks()
            for consumer in leaked:
                consumer.kill(block=False)
            pytest.fail(f"{len(leaked)} consumers outlive the test\n{stacks}", pytrace=False)
        if left_running:
            pytest.fail(f"the test has left {left_running} running", pytrace=False)
        if self.errors:
            pytest.fail(f"errors left greenlets and nobody looked: {self.errors!r}", pytrace=False)
        for director in self._directors:
            assert_conserved(director)


@pytest.fixture(name="observed", autouse=True)
def observed_fixture() -> Iterator[Observed]:
    """See `Observed`; on for every test of this directory."""
    observed = Observed()
    with pytest.MonkeyPatch.context() as patch:
        observed.install(patch)
        yield observed
        observed.finish()


def all_stacks() -> str:
    """The stacks of all greenlets that wait, but for the one that asks; at most `MAX_STACK_LINES` lines."""
    lines: list[str] = []
    for candidate in gc.get_objects():
        if isinstance(candidate, greenlet) and not candidate.dead and candidate is not getcurrent():
            # Not started yet, it has none.
            frame = candidate.gr_frame
            stack = "".join(traceback.format_stack(frame)) if frame is not None else "  (no frame)\n"
            lines += [repr(candidate), *stack.splitlines()]
    return "\n".join(lines[:MAX_STACK_LINES])


def collect_garbage() -> None:
    """Collect all cycles, so that what remains is held by somebody."""
    while gc.collect():
        pass
