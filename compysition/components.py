# SPDX-License-Identifier: Apache-2.0
"""Strongly connected components: which nodes of a graph can come to each other, whatever the nodes are.

Must not know actors. Read next: `graph`, which asks it about cells, and `flow.values`, which asks it about names.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def components(successors: Mapping[T, Sequence[T]]) -> list[list[T]]:
    """The strongly connected components of the graph, upstream first.

    Args:
        successors: By node, where its edges lead; all of those have to be keys.
    """
    found: list[list[T]] = []
    index: dict[T, int] = {}
    lowest: dict[T, int] = {}
    path: list[T] = []
    on_path: set[T] = set()
    # Tarjan's algorithm with a stack of its own: a chain of a thousand actors must not meet the recursion limit.
    for root in successors:
        if root in index:
            continue
        stack: list[tuple[T, int]] = [(root, 0)]
        while stack:
            node, position = stack.pop()
            if position == 0:
                index[node] = lowest[node] = len(index)
                path.append(node)
                on_path.add(node)
            for next_position, other in enumerate(successors[node][position:], position + 1):
                if other not in index:
                    stack += [(node, next_position), (other, 0)]
                    break
                if other in on_path:
                    lowest[node] = min(lowest[node], index[other])
            else:
                if lowest[node] == index[node]:
                    component: list[T] = []
                    while not component or component[-1] != node:
                        component.append(path.pop())
                        on_path.discard(component[-1])
                    found.append(component[::-1])
                if stack:
                    parent = stack[-1][0]
                    lowest[parent] = min(lowest[parent], lowest[node])
    return found[::-1]


def in_order(component: Sequence[T], successors: Mapping[T, Sequence[T]]) -> list[T]:
    """The nodes of a component, each behind one that leads to it where that is possible."""
    order = [component[0]]
    rest = dict.fromkeys(component[1:])
    while rest:
        following = (node for node in successors[order[-1]] if node in rest)
        order.append(next(following, next(iter(rest))))
        del rest[order[-1]]
    return order
