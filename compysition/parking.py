# SPDX-License-Identifier: Apache-2.0
"""How a greenlet waits for a condition, and how somebody else wakes it.

Must not know events or queues. Read next: `lineage`.
"""

import math
from collections.abc import Callable
from typing import Any

from gevent import get_hub, getcurrent

from compysition.clock import Clock
from compysition.errors import WrongContextError


class Parking:
    """The present greenlet's place to wait at. Use it in a loop over the condition, never for one bare switch.

    ::

        place = Parking()
        while not condition():
            place.park()

    A greenlet that leaves its wait by an exception takes the wake-up that may be on its way along: a stray switch
    would break whatever it waits for next.
    """

    __slots__ = ("_callback", "_greenlet", "_hub")

    def __init__(self) -> None:
        self._hub = get_hub()
        self._greenlet = getcurrent()
        self._callback: Any = None
        if self._greenlet is self._hub:
            raise WrongContextError("a callback of the event loop cannot wait: do this in a greenlet")

    def park(self) -> None:
        """Let others run until `wake` is called, or something else switches here."""
        try:
            self._hub.switch()
        finally:
            callback, self._callback = self._callback, None
            if callback is not None:
                callback.stop()

    def wake(self) -> None:
        """Make `park` return soon. Any greenlet or hub callback of the same thread may call it, also repeatedly."""
        if self._callback is None:
            self._callback = self._hub.loop.run_callback(self._greenlet.switch)

    def calm(self) -> None:
        """Take back a wake-up that nobody parks for any more; for whoever leaves for good."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback.stop()


def wait_until(
    condition: Callable[[], bool],
    *,
    clock: Clock,
    timeout_s: float,
    places: set[Parking],
    look_s: float = math.inf,
) -> bool:
    """Wait until `condition` holds, at most `timeout_s` seconds. Returns whether it does.

    Unless it holds at once others run, even if there is no time at all.

    Args:
        condition: Looked at whenever the present greenlet is woken.
        clock: Where time comes from.
        timeout_s: `math.inf` for as long as it takes.
        places: Where the present greenlet waits meanwhile: whoever changes what the condition depends on wakes these.
        look_s: How often to look in any case, in seconds: for what nobody announces.
    """
    if condition():
        return True
    deadline = clock.monotonic() + timeout_s
    place = Parking()
    places.add(place)
    try:
        while True:
            wait_s = min(deadline - clock.monotonic(), look_s)
            timer = clock.call_later(wait_s, place.wake) if wait_s < math.inf else None
            try:
                place.park()
            finally:
                if timer is not None:
                    timer.cancel()
            if condition():
                return True
            if clock.monotonic() >= deadline:
                return False
    finally:
        places.discard(place)
