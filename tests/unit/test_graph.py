# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.graph`, against definitions written out by brute force."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compysition.cell import Cell
from compysition.graph import components, find_rings, out_queues, reachable
from tests.unit.kernel import Kernel

Edge = tuple[int, int, bool]


class Graph:
    """Cells and edges, and what can be said of them without cleverness."""

    def __init__(self, number: int, edges: list[Edge], cut: set[int]) -> None:
        self.kernel = Kernel()
        self.cells = [self.kernel.cell(f"c{index}") for index in range(number)]
        self.edges = edges
        self.cut = cut
        self.queues = [
            self.kernel.connect(
                self.cells[source], self.cells[target], outbox=f"to {target} {position}", capacity=5, is_error=is_error
            )
            for position, (source, target, is_error) in enumerate(edges)
        ]

    def is_cut(self, cell: Cell) -> bool:
        return self.cells.index(cell) in self.cut

    @property
    def counting_edges(self) -> list[tuple[int, int]]:
        return [(source, target) for source, target, _ in self.edges if target not in self.cut]

    def comes_to(self, edges: list[tuple[int, int]]) -> list[set[int]]:
        """For each cell, where one step or more can lead."""
        found: list[set[int]] = [set() for _ in self.cells]
        for _ in self.cells:
            for source, target in edges:
                found[source] |= {target} | found[target]
        return found

    def parts(self) -> set[frozenset[int]]:
        """Cells that can come to each other, together."""
        to = self.comes_to(self.counting_edges)
        return {
            frozenset({other for other in range(len(self.cells)) if other in to[cell] and cell in to[other]} | {cell})
            for cell in range(len(self.cells))
        }

    def indices(self, cells: list[Cell]) -> frozenset[int]:
        return frozenset(self.cells.index(cell) for cell in cells)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    number = draw(st.integers(1, 8))
    node = st.integers(0, number - 1)
    edges = draw(st.lists(st.tuples(node, node, st.booleans()), max_size=16))
    return Graph(number, edges, draw(st.sets(node, max_size=3)))


# ---- components -----------------------------------------------------------------------------------------------------


@given(graphs())
def test_components_are_the_cells_that_can_come_to_each_other(graph: Graph) -> None:
    found = components(graph.cells, graph.is_cut)
    assert sum(map(len, found)) == len(graph.cells)
    assert {graph.indices(component) for component in found} == graph.parts()


@given(graphs())
def test_components_come_upstream_first(graph: Graph) -> None:
    place = {
        cell: position
        for position, component in enumerate(components(graph.cells, graph.is_cut))
        for cell in graph.indices(component)
    }
    for source, target in graph.counting_edges:
        assert place[source] <= place[target]


def test_actor_that_answers_is_behind_nothing_on_account_of_its_inbox() -> None:
    # wsgi → auth → wsgi, the full circle: wsgi feeds auth, and its answers close no circle.
    graph = Graph(2, [(0, 1, False), (1, 0, False), (1, 0, True)], {0})
    assert components(graph.cells, graph.is_cut) == [[graph.cells[0]], [graph.cells[1]]]
    assert find_rings(graph.cells, graph.is_cut) == []


def test_chain_of_thousands_meets_no_recursion_limit() -> None:
    graph = Graph(3_000, [(index, index + 1, False) for index in range(2_999)], set())
    assert [component[0] for component in components(graph.cells, graph.is_cut)] == graph.cells


def test_ring_of_thousands_is_one_component() -> None:
    graph = Graph(3_000, [(index, (index + 1) % 3_000, False) for index in range(3_000)], set())
    assert [len(component) for component in components(graph.cells, graph.is_cut)] == [3_000]


# ---- rings ----------------------------------------------------------------------------------------------------------


@given(graphs())
def test_rings_are_the_components_that_feed_themselves(graph: Graph) -> None:
    rings = find_rings(graph.cells, graph.is_cut)
    expected = {
        part
        for part in graph.parts()
        if any(source in part and target in part for source, target in graph.counting_edges)
    }
    assert {frozenset(int(cell.name[1:]) for cell in ring.cells) for ring in rings} == expected


@given(graphs())
def test_cells_and_inner_connections_know_their_ring_and_others_have_none(graph: Graph) -> None:
    rings = find_rings(graph.cells, graph.is_cut)
    for cell in graph.cells:
        assert cell.ring in (None, *rings)
        assert (cell.ring is not None) == any(cell in ring.cells for ring in rings)
    for queue, (source, target, _) in zip(graph.queues, graph.edges, strict=True):
        ring = graph.cells[source].ring
        is_inner = ring is not None and graph.cells[target].ring is ring and target not in graph.cut
        assert queue.ring is (ring if is_inner else None)
        assert (queue in ring.queues) == is_inner if ring is not None else True


@given(graphs())
def test_limit_of_a_ring_is_the_sum_of_its_inner_capacities(graph: Graph) -> None:
    for ring in find_rings(graph.cells, graph.is_cut):
        assert ring.limit == 5 * len(ring.queues)


def test_actor_connected_to_itself_is_a_ring() -> None:
    graph = Graph(1, [(0, 0, False)], set())
    assert [str(ring) for ring in find_rings(graph.cells, graph.is_cut)] == ["c0 → c0"]


def test_error_connection_closes_a_circle_too() -> None:
    graph = Graph(2, [(0, 1, False), (1, 0, True)], set())
    assert [str(ring) for ring in find_rings(graph.cells, graph.is_cut)] == ["c0 → c1 → c0"]


def test_ring_is_named_in_the_order_of_flow() -> None:
    graph = Graph(4, [(0, 2, False), (2, 3, False), (3, 1, False), (1, 0, False)], set())
    [ring] = find_rings(graph.cells, graph.is_cut)
    names = [cell.name for cell in ring.cells]
    start = names.index("c0")
    assert names[start:] + names[:start] == ["c0", "c2", "c3", "c1"]


def test_rings_are_found_anew_each_time() -> None:
    graph = Graph(2, [(0, 1, False), (1, 0, False)], set())
    find_rings(graph.cells, graph.is_cut)
    assert find_rings(graph.cells, lambda cell: cell is graph.cells[0]) == []
    assert [cell.ring for cell in graph.cells] == [None, None]
    assert [queue.ring for queue in graph.queues] == [None, None]


# ---- walking --------------------------------------------------------------------------------------------------------


@given(graphs(), st.sets(st.integers(0, 7), max_size=3))
def test_reachable_is_where_events_can_come_to(graph: Graph, starts: set[int]) -> None:
    starts = {index for index in starts if index < len(graph.cells)}
    to = graph.comes_to([(source, target) for source, target, _ in graph.edges])
    expected = starts.union(*(to[index] for index in starts))
    assert {graph.cells.index(cell) for cell in reachable(graph.cells[index] for index in starts)} == expected


@pytest.mark.parametrize("is_error", [True, False])
def test_out_queues_are_those_of_both_kinds(is_error: bool) -> None:
    graph = Graph(2, [(0, 1, is_error), (0, 1, not is_error), (1, 0, False)], set())
    assert set(out_queues(graph.cells[0])) == set(graph.queues[:2])
