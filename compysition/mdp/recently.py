# SPDX-License-Identifier: Apache-2.0
"""Who was told something a short while ago: once per peer and period, in bounded memory. Read next: `service`."""

from collections import OrderedDict
from collections.abc import Hashable


class Recently:
    """Remembers keys for a period, at most so many; beyond, the oldest is forgotten early.

    Args:
        period_s: For how long a key is remembered, in seconds.
        most: How many keys are remembered.
    """

    __slots__ = ("_period_s", "_seen", "most")

    def __init__(self, period_s: float, most: int = 10_000) -> None:
        self._period_s = period_s
        self.most = most
        self._seen: OrderedDict[Hashable, float] = OrderedDict()

    def is_first(self, key: Hashable, now: float) -> bool:
        """Whether `key` is not remembered; from now on it is."""
        self._forget_old(now)
        if key in self._seen:
            return False
        self.note(key, now)
        return True

    def note(self, key: Hashable, now: float) -> None:
        """Remember `key` from now on."""
        self._seen[key] = now
        self._seen.move_to_end(key)
        while len(self._seen) > self.most:
            self._seen.popitem(last=False)

    def forget(self, key: Hashable) -> None:
        """Remember `key` no longer."""
        self._seen.pop(key, None)

    def _forget_old(self, now: float) -> None:
        seen = self._seen
        while seen:
            key = next(iter(seen))
            if now - seen[key] < self._period_s:
                return
            del seen[key]

    def __len__(self) -> int:
        return len(self._seen)
