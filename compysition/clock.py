# SPDX-License-Identifier: Apache-2.0
"""The only place where the project asks what time it is and has itself woken later.

Everything above takes a `Clock`, so that a virtual one can take its place in tests and in a simulation: a Director
takes the one in `CLOCK` when it is made. Must not know events, actors or queues. Read next: `backoff`.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Protocol

import gevent
from gevent import getcurrent


class Timer(Protocol):
    """A call that is still to come."""

    def cancel(self) -> None:
        """Make sure the call does not happen; harmless when it has happened."""


class _LoopTimer:
    """One shot of a timer of the event loop; the callback runs in the hub and must not wait."""

    __slots__ = ("_callback", "_watcher")

    def __init__(self, delay_s: float, callback: Callable[[], object]) -> None:
        self._callback: Callable[[], object] | None = callback
        self._watcher = gevent.get_hub().loop.timer(max(0.0, delay_s))
        # Without `update` the delay would count from when the loop last looked at the time, before what runs now.
        self._watcher.start(self._fire, update=True)

    def _fire(self) -> None:
        callback = self._callback
        self.cancel()
        if callback is not None:
            callback()

    def cancel(self) -> None:
        # A closed watcher keeps nothing alive; a stopped one keeps its callback and with it whatever that refers to.
        self._callback = None
        self._watcher.stop()
        self._watcher.close()


class Clock:
    """Real time: the process's monotonic clock, the wall clock, and timers of gevent's loop."""

    #: Seconds on a clock that only goes forward; its zero means nothing.
    monotonic = staticmethod(time.perf_counter)
    #: Seconds since 1970, UTC.
    wall = staticmethod(time.time)
    #: Where chance comes from, such as the jitter of a backoff; None = the process's own.
    rng: random.Random | None = None
    #: How many greenlets wait for a thread, where time is always real: a clock that jumps holds meanwhile.
    outside = 0

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Timer:
        """Call `callback` in the hub after `delay_s` seconds. It must neither wait nor raise."""
        return _LoopTimer(delay_s, callback)

    def sleep(self, delay_s: float) -> None:
        """Let other greenlets run for `delay_s` seconds."""
        gevent.sleep(delay_s)

    @contextmanager
    def limit(self, delay_s: float, error: BaseException) -> Iterator[None]:
        """Raise `error` in the present greenlet if the block has not ended after `delay_s` seconds."""
        timer = self.call_later(delay_s, partial(getcurrent().throw, error))
        try:
            yield
        finally:
            timer.cancel()


#: The clock of Directors that are made in this context; None = a real one of their own.
CLOCK: ContextVar[Clock | None] = ContextVar("compysition_clock", default=None)
