# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.components`, against definitions written out by brute force."""

from hypothesis import given
from hypothesis import strategies as st

from compysition.components import components, in_order

Graph = dict[int, list[int]]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    nodes = range(draw(st.integers(1, 8)))
    return {node: draw(st.lists(st.sampled_from(nodes), max_size=4)) for node in nodes}


def comes_to(graph: Graph, start: int) -> set[int]:
    found: set[int] = set()
    waiting = [*graph[start]]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += graph[node]
    return found


@given(graphs())
def test_components_are_the_nodes_that_can_come_to_each_other_upstream_first(graph: Graph) -> None:
    to = {node: comes_to(graph, node) for node in graph}
    found = components(graph)
    assert sorted(node for part in found for node in part) == sorted(graph)
    place = {node: number for number, part in enumerate(found) for node in part}
    for node in graph:
        for other in graph:
            is_together = node == other or (other in to[node] and node in to[other])
            assert is_together == (place[node] == place[other])
        assert all(place[node] <= place[other] for other in graph[node])


def test_a_chain_of_thousands_meets_no_recursion_limit() -> None:
    chain = {number: [number + 1] for number in range(5_000)} | {5_000: []}
    assert [part[0] for part in components(chain)] == list(chain)


@given(st.permutations(range(6)))
def test_a_plain_circle_is_put_in_the_order_of_flow(nodes: list[int]) -> None:
    graph = {node: [nodes[(number + 1) % 6]] for number, node in enumerate(nodes)}
    order = in_order(components(graph)[0], graph)
    assert all(graph[node] == [order[(number + 1) % 6]] for number, node in enumerate(order))


@given(graphs())
def test_the_order_of_a_component_has_each_node_once(graph: Graph) -> None:
    for part in components(graph):
        assert sorted(in_order(part, graph)) == sorted(part)
