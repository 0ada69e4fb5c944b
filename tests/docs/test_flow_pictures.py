# SPDX-License-Identifier: Apache-2.0
"""Rules of docs/extensions/flow_pictures.py: what a picture shows is what the flow is."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Final
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compysition import Director
from compysition.actors import STDOUT, FlowController, WSGIServer

FILE: Final = Path(__file__).parents[2] / "docs" / "extensions" / "flow_pictures.py"


def load() -> ModuleType:
    """The extension, which lies in no package."""
    spec = importlib.util.spec_from_file_location("flow_pictures", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


flow_pictures: Final = load()


def flow(edges: list[tuple[int, int]]) -> Director:
    director = Director()
    actors = [director.register_actor(FlowController, f"actor {number}") for number in range(6)]
    for source, target in dict.fromkeys(edges):
        director.connect_queue(actors[source], actors[target])
    return director


def drawn(director: Director) -> ElementTree.Element:
    return ElementTree.fromstring(flow_pictures.draw(director.graph()))


def texts(picture: ElementTree.Element, kind: str) -> list[str]:
    return [text.text or "" for text in picture.iter("text") if text.get("class") == kind]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=14))
@settings(max_examples=60, deadline=None)
def test_every_actor_and_every_connection_is_drawn_once(edges: list[tuple[int, int]]) -> None:
    picture = drawn(flow(edges))
    assert sorted(texts(picture, "name")) == [f"actor {number}" for number in range(6)]
    assert len([path for path in picture.iter("path") if path.get("marker-end")]) == len(set(edges))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=14))
@settings(max_examples=60, deadline=None)
def test_no_actor_lies_on_another_one_or_outside(edges: list[tuple[int, int]]) -> None:
    picture = drawn(flow(edges))
    svg = picture.find("svg")
    assert svg is not None
    boxes = [[float(box.get(name, "")) for name in ("x", "y", "width", "height")] for box in picture.iter("rect")]
    for number, (x, y, width, height) in enumerate(boxes):
        assert x >= 0
        assert y >= 0
        assert x + width <= float(svg.get("width", ""))
        assert y + height <= float(svg.get("height", ""))
        for x2, y2, width2, height2 in boxes[number + 1 :]:
            assert x + width <= x2 or x2 + width2 <= x or y + height <= y2 or y2 + height2 <= y


def test_doors_error_wires_rings_and_what_differs_are_shown() -> None:
    director = Director()
    wsgi = director.register_actor(WSGIServer, "wsgi", port=8080)
    a, b = (director.register_actor(FlowController, name) for name in ("<a>", "b"))
    director.register_error_actor(STDOUT, "errors")
    director.connect_queue(wsgi, a, capacity=3, overflow="drop_newest")
    director.connect_queue(a, [b, wsgi])
    director.connect_queue(b, a)
    director.connect_queue_error(a, wsgi)

    picture = drawn(director)

    assert texts(picture, "name") == ["wsgi", "errors", "<a>", "b"]
    assert [box.get("class") for box in picture.iter("rect")] == ["door", "actor ring", "actor ring"]
    assert "FlowController, in a ring" in texts(picture, "more")
    assert sorted(texts(picture, "label")) == ["capacity 3, drop_newest", "error"]
    assert len([path for path in picture.iter("path") if path.get("class") == "dashed"]) == 1


@pytest.mark.parametrize("text", ["graph TD\n    a --> b", "flowchart LR\n    click a callback"])
def test_what_no_picture_of_a_flow_says_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"wanted is|nothing that"):
        flow_pictures.draw(text)
