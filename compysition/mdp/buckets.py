# SPDX-License-Identifier: Apache-2.0
"""Times at which something has to be looked at, without a clock: who asks says what time it is.

As `compysition.deadlines`, but for the machines, which have no timers: they say in `wakes_at` when to be asked again.
An entry is taken out as soon as it does not matter, so answered requests leave nothing behind. Read next: `recently`.
"""

import math
from collections.abc import Hashable, Iterator
from typing import Final, Generic, TypeVar

#: Width of a bucket in seconds, and so how late a time may be noticed.
TICK_S: Final = 0.05

Entry = TypeVar("Entry", bound=Hashable)


class Buckets(Generic[Entry]):
    """Entries by the time at which they are due."""

    __slots__ = ("_buckets", "wakes_at")

    def __init__(self) -> None:
        self._buckets: dict[int, dict[Entry, None]] = {}
        #: No entry is due before this time; `math.inf` if there is none. It may be early, never late.
        self.wakes_at = math.inf

    def add(self, entry: Entry, at: float) -> int:
        """Have `entry` be due at `at`, at most `TICK_S` later. Returns its bucket, for `discard`."""
        index = math.ceil(at / TICK_S)
        if index * TICK_S < at:  # rounded below it
            index += 1
        bucket = self._buckets.get(index)
        if bucket is None:
            bucket = self._buckets[index] = {}
            self.wakes_at = min(self.wakes_at, index * TICK_S)
        bucket[entry] = None
        return index

    def discard(self, entry: Entry, index: int) -> None:
        """Forget `entry`; harmless when it was due already."""
        bucket = self._buckets.get(index)
        if bucket is not None:
            bucket.pop(entry, None)
            if not bucket:
                del self._buckets[index]

    def due(self, now: float) -> Iterator[Entry]:
        """Take out and yield all that is due at `now`. Entries may be added and discarded meanwhile."""
        if now < self.wakes_at:
            return
        for index in sorted(index for index in self._buckets if index * TICK_S <= now):
            bucket = self._buckets.get(index)
            while bucket:
                yield bucket.popitem()[0]
            if self._buckets.get(index) is bucket:
                # Else it was emptied by `discard`, and another one may stand in its place.
                del self._buckets[index]
        self.wakes_at = min(self._buckets) * TICK_S if self._buckets else math.inf

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))
