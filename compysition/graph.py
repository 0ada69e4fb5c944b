# SPDX-License-Identifier: Apache-2.0
"""The graph of actors: its components in the order of flow, and the rings in it.

Pure functions over cells and their queues. Must not know the Director. Read next: `supervisor`, `drain`.
"""

from collections.abc import Callable, Iterable, Sequence

from compysition import components as circles
from compysition.cell import Cell
from compysition.queue import Queue
from compysition.ring import Ring


def out_queues(cell: Cell) -> list[Queue]:
    """All connections that begin at `cell`, error outboxes included."""
    return [
        queue for outboxes in (cell.outboxes, cell.error_outboxes) for queues in outboxes.values() for queue in queues
    ]


def components(cells: Sequence[Cell], is_cut: Callable[[Cell], bool]) -> list[list[Cell]]:
    """The strongly connected components of the graph, upstream first.

    Connections that lead to a cell for which `is_cut` holds do not count: such an actor's inbox does not feed its own
    outboxes, so no circle goes through it.
    """
    return circles.components(_successors(cells, is_cut))


def find_rings(cells: Sequence[Cell], is_cut: Callable[[Cell], bool]) -> list[Ring]:
    """Find the rings, and tell their cells and queues that they are on one."""
    rings = []
    for cell in cells:
        cell.ring = None
        for queue in out_queues(cell):
            queue.ring = None
    for component in components(cells, is_cut):
        members = set(component)
        inner = [
            queue
            for cell in component
            for queue in out_queues(cell)
            if queue.cell in members and not (isinstance(queue.cell, Cell) and is_cut(queue.cell))
        ]
        if inner:
            ring = Ring(circles.in_order(component, _successors(component, is_cut)), inner)
            rings.append(ring)
            for cell in component:
                cell.ring = ring
            for queue in inner:
                queue.ring = ring
    return rings


def reachable(starts: Iterable[Cell]) -> set[Cell]:
    """All cells that events from `starts` can come to, `starts` included."""
    seen: set[Cell] = set()
    waiting = list(starts)
    while waiting:
        cell = waiting.pop()
        if cell not in seen:
            seen.add(cell)
            waiting += [queue.cell for queue in out_queues(cell) if isinstance(queue.cell, Cell)]
    return seen


def _successors(cells: Sequence[Cell], is_cut: Callable[[Cell], bool]) -> dict[Cell, list[Cell]]:
    return {
        cell: [queue.cell for queue in out_queues(cell) if isinstance(queue.cell, Cell) and not is_cut(queue.cell)]
        for cell in cells
    }
