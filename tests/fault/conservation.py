# SPDX-License-Identifier: Apache-2.0
"""What every fault test needs, most of it from `compysition.testing`, and the check that nothing was lost.

``running(director)``
    As `compysition.testing.running`, but something may be left when it stops: what is left, and with which name, is
    what these tests are about.
``SteeredClock()``
    A clock whose `sleep` takes no time and is remembered in `slept`, and that `advance` moves.
``observed`` (fixture, on for every test below ``tests/fault``)
    Fails a test when an error left a greenlet and nobody looked, when a consumer greenlet outlives its Director, or
    when a Director is still running. A test that means to have such an error takes it: ``observed.take(MyError)``.
"""

import gc
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import gevent
import pytest
from gevent.hub import Hub

from compysition import Director
from compysition.clock import Clock
from compysition.dispatch import Consumer
from compysition.testing import Collector, Handler, all_stacks, assert_conserved, ended, letters, wait_until
from compysition.testing import running as running_to_the_end
from compysition.testing.waiting import LOOK_S, PATIENCE_S

__all__ = [
    "Collector",
    "Handler",
    "Observed",
    "SteeredClock",
    "all_stacks",
    "assert_conserved",
    "collect_garbage",
    "ended",
    "letters",
    "observed_fixture",
    "running",
    "wait_until",
]

#: Seconds that a consumer may take to end after its Director has stopped.
END_S = 1.0

running = partial(running_to_the_end, allow_left=True)


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


def collect_garbage() -> None:
    """Collect all cycles, so that what remains is held by somebody."""
    while gc.collect():
        pass
