# SPDX-License-Identifier: Apache-2.0
"""What a worker process remembers of requests it has seen, so that a repeat is answered and not executed again (ours).

At least once stays at least once: another process knows nothing of this. Read next: `worker`.
"""

import enum
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from compysition.mdp.service import size_of

#: What an entry takes beside its answer, in bytes, about.
ENTRY_BYTES: Final = 300

Waiter = TypeVar("Waiter")


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a request.

    Attributes:
        body: The data, one frame towards plain peers.
        status: 200, or that of the error.
        is_error: Whether the data is the text of an error.
        metadata: The event's, encoded.
    """

    body: Sequence[bytes]
    status: int = 200
    is_error: bool = False
    metadata: bytes = b""


class Seen(enum.Enum):
    """What is known of a request without an answer."""

    NEW = "new"
    #: It is being worked on; whoever asked again is answered with the first.
    RUNNING = "running"


class _Entry(Generic[Waiter]):
    __slots__ = ("answer", "at", "size", "waiters")

    def __init__(self) -> None:
        self.answer: Answer | None = None
        self.at = 0.0
        self.size = 0
        self.waiters: list[Waiter] = []


class RepeatWindow(Generic[Waiter]):
    """Ids of requests, and the answers of those that are done.

    Args:
        period_s: For how long an answer is remembered, in seconds.
        most_ids: How many, at most.
        most_bytes: How much they take together, at most.
    """

    def __init__(self, period_s: float = 600.0, *, most_ids: int = 10_000, most_bytes: int = 16 * 1024 * 1024) -> None:
        self.period_s = period_s
        self.most_ids = most_ids
        self.most_bytes = most_bytes
        self.size = 0
        self._running: dict[bytes, _Entry[Waiter]] = {}
        self._done: OrderedDict[bytes, _Entry[Waiter]] = OrderedDict()

    def begin(self, identity: bytes, waiter: Waiter, now: float) -> Answer | Seen:
        """A request with that id has come. If it is `Seen.RUNNING`, `waiter` comes back from `done` or `forget`."""
        self._forget_old(now)
        entry = self._done.get(identity)
        if entry is not None and entry.answer is not None:
            return entry.answer
        entry = self._running.get(identity)
        if entry is not None:
            entry.waiters.append(waiter)
            return Seen.RUNNING
        self._running[identity] = _Entry()
        return Seen.NEW

    def done(self, identity: bytes, answer: Answer, now: float) -> list[Waiter]:
        """It is answered. Returns whoever asked again meanwhile."""
        entry = self._running.pop(identity)
        entry.answer = answer
        entry.at = now
        entry.size = size_of(answer.body) + len(answer.metadata) + ENTRY_BYTES
        waiters, entry.waiters = entry.waiters, []
        if entry.size <= self.most_bytes:
            self._done[identity] = entry
            self.size += entry.size
        self._forget_old(now)
        return waiters

    def forget(self, identity: bytes) -> list[Waiter]:
        """It was not executed after all, or its answer cannot be repeated. Returns whoever asked again meanwhile."""
        return self._running.pop(identity).waiters

    def _forget_old(self, now: float) -> None:
        done = self._done
        while done:
            entry = next(iter(done.values()))
            if now - entry.at < self.period_s and len(done) <= self.most_ids and self.size <= self.most_bytes:
                return
            done.popitem(last=False)
            self.size -= entry.size

    def __len__(self) -> int:
        return len(self._running) + len(self._done)
