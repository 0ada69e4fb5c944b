# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.flow.pictures`: what is written is read again and compared with the flow."""

import shutil
import subprocess
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from compysition.flow.pictures import FORMATS, dot, mermaid
from compysition.flow.values import Flow, FlowActor, FlowConnection
from tests.unit.flow.readers import Picture, read_dot, read_mermaid

READERS: dict[str, Callable[[str], Picture]] = {"mermaid": read_mermaid, "dot": read_dot}


def connection(source: str, destination: str, *, is_error: bool = False) -> FlowConnection:
    return FlowConnection(source, destination, destination, source, 500, is_error=is_error)


def flow_of(names: list[str], edges: list[tuple[int, int, bool]]) -> Flow:
    connections = (connection(names[a % len(names)], names[b % len(names)], is_error=error) for a, b, error in edges)
    return Flow("default", 500, tuple(map(FlowActor, names)), tuple(connections))


def seen(text: str) -> str:
    """What a picture shows of a name."""
    return "".join(
        char if char.isprintable() else chr(0x2400 + ord(char)) if ord(char) < 32 else "\ufffd" for char in text
    )


NASTY = [
    "end",
    'say "hi"',
    "a[b](c){d}",
    "line\nfeed",
    "1. first",
    "- item",
    "<b>&amp;",
    "`x`",
    "a|b",
    "back\\slash\\n",
]


@given(
    st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=6, unique=True),
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.booleans()), max_size=8),
)
@example(
    [*NASTY, "actor_1", "ring_1", "ring_1_", "END", "graph", "é", "上"], [(0, 1, False), (1, 2, True), (2, 2, False)]
)
@pytest.mark.parametrize("name", FORMATS)
def test_whatever_actors_are_called_the_picture_shows_them_and_their_connections(
    name: str, names: list[str], edges: list[tuple[int, int, bool]]
) -> None:
    flow = flow_of(names, edges)
    picture = READERS[name](FORMATS[name](flow))

    assert len(picture.labels) == len(names)
    by_id = {id_: lines[0] for id_, lines in picture.labels.items()}
    assert sorted(by_id.values()) == sorted(map(seen, names))
    assert [(by_id[a], by_id[b], dashed) for a, b, dashed, _ in picture.edges] == [
        (seen(each.source), seen(each.destination), each.is_error) for each in flow.connections
    ]
    in_boxes = sorted(sorted(by_id[id_] for id_ in box) for box in picture.boxes)
    assert in_boxes == sorted(sorted(map(seen, ring)) for ring in flow.rings)


@pytest.mark.parametrize(
    "word", ["end", "End", "graph", "subgraph", "style", "class", "default", "click", "call", "TB"]
)
def test_a_word_of_mermaid_is_no_id_but_stays_the_label(word: str) -> None:
    picture = read_mermaid(mermaid(flow_of([word, "actor_1"], [(0, 1, False)])))
    assert picture.labels == {"actor_1_": [word, "Actor"], "actor_1": ["actor_1", "Actor"]}
    assert picture.edges == [("actor_1_", "actor_1", False, "")]


FULL = Flow(
    "default",
    500,
    (
        FlowActor("wsgi", "WSGIServer", is_door=True, is_cut=True, listens=("http://127.0.0.1:8080/",)),
        FlowActor("logs", "STDOUT", is_log_actor=True),
        FlowActor("errors", "STDOUT", is_error_actor=True),
        FlowActor("a"),
        FlowActor("b"),
    ),
    (
        connection("wsgi", "a"),
        FlowConnection("a", "high", "b", "jobs", 10, "drop_oldest"),
        connection("b", "a"),
        connection("b", "wsgi", is_error=True),
        connection("a", "wsgi"),
    ),
)


@pytest.mark.parametrize("name", FORMATS)
def test_an_arrow_says_what_differs_from_the_default(name: str) -> None:
    edges = READERS[name](FORMATS[name](FULL)).edges
    assert [label for *_, label in edges] == ["", "from high, to jobs, capacity 10, drop_oldest", "", "error", ""]


@pytest.mark.parametrize("name", FORMATS)
def test_doors_and_sinks_of_logs_and_errors_are_told_apart(name: str) -> None:
    text = FORMATS[name](FULL)
    labels = READERS[name](text).labels
    assert labels["wsgi"] == ["wsgi", "WSGIServer, door", "http://127.0.0.1:8080/"]
    assert labels["logs"] == ["logs", "STDOUT, log actor"]
    assert labels["errors"] == ["errors", "STDOUT, error actor"]
    shapes = ['wsgi(["', 'logs[/"', 'errors{{"'] if name == "mermaid" else ["shape=cds", "shape=note", "shape=hexagon"]
    assert all(text.count(shape) == 1 for shape in shapes)


def test_the_error_actor_has_no_arrows_that_nobody_made() -> None:
    assert not [edge for edge in read_dot(dot(FULL)).edges if "errors" in edge[:2]]


def test_the_text_is_this_one() -> None:
    assert mermaid(FULL) == (
        "flowchart LR\n"
        '    wsgi(["wsgi<br/>WSGIServer, door<br/>http://127.0.0.1:8080/"])\n'
        '    logs[/"logs<br/>STDOUT, log actor"/]\n'
        '    errors{{"errors<br/>STDOUT, error actor"}}\n'
        '    subgraph ring_1["ring"]\n'
        '        a["a<br/>Actor"]\n'
        '        b["b<br/>Actor"]\n'
        "    end\n"
        "    wsgi --> a\n"
        '    a -->|"from high, to jobs, capacity 10, drop_oldest"| b\n'
        "    b --> a\n"
        '    b -.->|"error"| wsgi\n'
        "    a --> wsgi\n"
    )


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is not installed")
@pytest.mark.parametrize("flow", [FULL, flow_of(NASTY, [(0, 1, False), (1, 2, True), (2, 2, False)])])
def test_graphviz_draws_it(flow: Flow) -> None:
    done = subprocess.run(["dot", "-Tplain"], input=dot(flow), capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\nedge ") == len(flow.connections)
    assert done.stdout.count("\nnode ") == len(flow.actors)
