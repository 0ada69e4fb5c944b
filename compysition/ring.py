# SPDX-License-Identifier: Apache-2.0
"""Rings: actors that feed each other in a circle, where a waiting put could wait for itself.

In a ring a put never waits. Instead, what comes from outside is served only while the ring holds less than the sum of
its capacities; a ring that holds four times as much refuses (`RingFullError`). So a ring whose handlers send at most
one event per event neither deadlocks nor loses, and is bounded.
Must not know actors; of a cell it uses two names. Read next: `graph`, which finds the rings, and `cell`.
"""

from collections.abc import Sequence
from typing import Protocol

from compysition.queue import Queue

#: How many times the sum of its capacities a ring may hold before its puts are refused.
HARD_FACTOR = 4


class RingCell(Protocol):
    """What a ring knows of its actors."""

    name: str
    running: int

    def settle(self) -> None:
        """Look again whether there is something to do."""


class Ring:
    """A strongly connected part of the graph.

    Args:
        cells: The actors on it, in order.
        queues: The connections between them.
    """

    __slots__ = ("_gated", "cells", "limit", "queues")

    def __init__(self, cells: Sequence[RingCell], queues: Sequence[Queue]) -> None:
        self.cells = tuple(cells)
        self.queues = tuple(queues)
        #: Sum of the capacities: at this load nothing more is let in from outside.
        self.limit = sum(queue.capacity for queue in queues)
        self._gated: dict[int, RingCell] = {}

    def load(self) -> int:
        """Events inside: in the ring's queues and in the hands of its actors."""
        return sum(len(queue.items) for queue in self.queues) + sum(cell.running for cell in self.cells)

    def room(self) -> int:
        """How many events may still come in from outside."""
        return self.limit - self.load()

    def is_overfull(self) -> bool:
        """Whether even the ring's own puts have to be refused."""
        return self.load() >= HARD_FACTOR * self.limit

    def gate(self, cell: RingCell) -> None:
        """Remember that `cell` has events from outside and may not take them yet."""
        self._gated[id(cell)] = cell

    def open(self) -> None:
        """Let gated cells look again, if there is room."""
        if self._gated and self.room() > 0:
            gated, self._gated = self._gated, {}
            for cell in gated.values():
                cell.settle()

    def __str__(self) -> str:
        names = [cell.name for cell in self.cells]
        return " → ".join([*names, names[0]])
