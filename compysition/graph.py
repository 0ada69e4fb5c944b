# SPDX-License-Identifier: Apache-2.0
"""The graph of actors: its components in the order of flow, and the rings in it.

Pure functions over cells and their queues. Must not know the Director. Read next: `supervisor`, `drain`.
"""

from collections.abc import Callable, Iterable, Sequence

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
    successors: dict[Cell, list[Cell]] = {
        cell: [queue.cell for queue in out_queues(cell) if isinstance(queue.cell, Cell) and not is_cut(queue.cell)]
        for cell in cells
    }
    found: list[list[Cell]] = []
    index: dict[Cell, int] = {}
    lowest: dict[Cell, int] = {}
    path: list[Cell] = []
    on_path: set[Cell] = set()
    # Tarjan's algorithm with a stack of its own: a chain of a thousand actors must not meet the recursion limit.
    for root in cells:
        if root in index:
            continue
        stack: list[tuple[Cell, int]] = [(root, 0)]
        while stack:
            cell, position = stack.pop()
            if position == 0:
                index[cell] = lowest[cell] = len(index)
                path.append(cell)
                on_path.add(cell)
            for next_position, other in enumerate(successors[cell][position:], position + 1):
                if other not in index:
                    stack += [(cell, next_position), (other, 0)]
                    break
                if other in on_path:
                    lowest[cell] = min(lowest[cell], index[other])
            else:
                if lowest[cell] == index[cell]:
                    component: list[Cell] = []
                    while not component or component[-1] is not cell:
                        component.append(path.pop())
                        on_path.discard(component[-1])
                    found.append(component[::-1])
                if stack:
                    parent = stack[-1][0]
                    lowest[parent] = min(lowest[parent], lowest[cell])
    return found[::-1]


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
            ring = Ring(_in_order(component, inner), inner)
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


def _in_order(component: Sequence[Cell], inner: Sequence[Queue]) -> list[Cell]:
    """The component's cells, each behind one that feeds it where that is possible."""
    order = [component[0]]
    while len(order) < len(component):
        following = [q.cell for q in inner if q.source == order[-1].name and q.cell not in order]
        rest = [cell for cell in component if cell not in order]
        order.append(next((cell for cell in following if isinstance(cell, Cell)), rest[0]))
    return order
