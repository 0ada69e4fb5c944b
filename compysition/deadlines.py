# SPDX-License-Identifier: Apache-2.0
"""One timer for all deadlines: a wheel of buckets.

An entry is taken out as soon as it does not matter any more, so that requests answered in time leave nothing behind.
Must not know events. Read next: `lineage`.
"""

from typing import Protocol

from compysition.clock import Clock, Timer

#: Width of a bucket in seconds, and so how late a deadline may be noticed.
TICK_S = 0.05


class Expiring(Protocol):
    """Something that has to be told when its time is over."""

    def expire(self) -> None:
        """The deadline has passed. Runs in the hub; must not wait."""


class DeadlineWheel:
    """Calls `expire` on what was added, at most `TICK_S` after its deadline."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: dict[int, dict[int, Expiring]] = {}
        self._timer: Timer | None = None
        self._due = 0

    def add(self, entry: Expiring, deadline: float) -> int:
        """Expire `entry` at `deadline`, a time of `Clock.monotonic`. Returns the bucket, for `discard`."""
        index = int(deadline / TICK_S) + 1
        bucket = self._buckets.get(index)
        if bucket is None:
            bucket = self._buckets[index] = {}
            if self._timer is None or index < self._due:
                self._arm(index)
        bucket[id(entry)] = entry
        return index

    def discard(self, entry: Expiring, index: int) -> None:
        """Forget `entry`; harmless when it has expired."""
        bucket = self._buckets.get(index)
        if bucket is not None:
            bucket.pop(id(entry), None)
            if not bucket:
                del self._buckets[index]

    def close(self) -> None:
        """Expire everything at once: nobody will look at the time any more."""
        entries = [entry for bucket in self._buckets.values() for entry in bucket.values()]
        self._buckets.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for entry in entries:
            entry.expire()

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def _arm(self, index: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = index
        self._timer = self._clock.call_later(index * TICK_S - self._clock.monotonic(), self._turn)

    def _turn(self) -> None:
        self._timer = None
        now = self._clock.monotonic()
        # Multiplied, never divided: a time of exactly one bucket must not be rounded below it.
        for index in sorted(index for index in self._buckets if index * TICK_S <= now):
            for entry in self._buckets.pop(index, {}).values():
                entry.expire()
        if self._buckets and (self._timer is None or min(self._buckets) < self._due):
            self._arm(min(self._buckets))
