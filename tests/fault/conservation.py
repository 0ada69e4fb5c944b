# SPDX-License-Identifier: Apache-2.0
"""What every fault test needs, most of it from `compysition.testing`, and the check that nothing was lost.

``running(director)``
    As `compysition.testing.running`, but something may be left when it stops: what is left, and with which name, is
    what these tests are about.
``SteeredClock()``
    A clock whose `sleep` takes no time and is remembered in `slept`, and that `advance` moves.
``observed`` (fixture)
    The watch that every test has (``compysition_watch``). A test that means to have an error leave a greenlet takes it:
    ``observed.take(MyError)``.
"""

import gc
import time
from functools import partial

import gevent
import pytest

from compysition.clock import Clock
from compysition.testing import Collector, Handler, Watch, all_stacks, assert_conserved, ended, letters, wait_until
from compysition.testing import running as running_to_the_end

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


#: What `observed` is: see `compysition.testing.Watch`.
Observed = Watch


@pytest.fixture(name="observed")
def observed_fixture(compysition_watch: Watch) -> Watch:
    """What watches every test."""
    return compysition_watch


def collect_garbage() -> None:
    """Collect all cycles, so that what remains is held by somebody."""
    while gc.collect():
        pass
