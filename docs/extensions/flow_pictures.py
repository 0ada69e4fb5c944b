# SPDX-License-Identifier: Apache-2.0
"""Pictures of flows, drawn while the site is built.

A ``mermaid`` block is what `Director.graph` writes. Code hosts draw it; a site would have to load three megabytes of
script for that, from somewhere else. So it is drawn here, as SVG, from the words that `compysition.flow.pictures` uses.
A line in any other words is a warning.
"""

import html
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util import logging

logger = logging.getLogger(__name__)

NODE = re.compile(r'^(\w+)(\(\[|\[/|\{\{|\[)"(.*)"(?:\]\)|/\]|\}\}|\])$')
EDGE = re.compile(r'^(\w+) (-->|-\.->)(?:\|"(.*)"\|)? (\w+)$')
BOX = re.compile(r'^subgraph \w+\["(.*)"\]$')
SHAPES = {"([": "door", "[/": "log", "{{": "error", "[": "actor"}

#: In pixels: of one letter, of one line, between columns, between rows, between lanes of the way back.
LETTER, LINE, COLUMN, ROW, LANE = 7.3, 17, 46, 22, 20
MARGIN = 12


@dataclass(slots=True)
class Node:
    """One actor, or a place in a column through which a long arrow passes."""

    lines: Sequence[str] = ()
    shape: str = ""
    is_in_ring: bool = False
    layer: int = 0
    x: float = 0.0
    y: float = 0.0

    @property
    def width(self) -> float:
        """In pixels."""
        return max(map(len, self.lines)) * LETTER + 24 if self.lines else 0.0

    @property
    def height(self) -> float:
        """In pixels."""
        return len(self.lines) * LINE + 14.0 if self.lines else 10.0


@dataclass(slots=True)
class Arrow:
    """One connection; `path` are the ids of its nodes, with the places it passes through."""

    source: str
    target: str
    is_dashed: bool
    label: str
    is_back: bool = False
    path: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Picture:
    """What a block says."""

    nodes: dict[str, Node] = field(default_factory=dict)
    arrows: list[Arrow] = field(default_factory=list)


def plain(text: str) -> str:
    """The text of a label without mermaid's escapes."""
    return re.sub(r"#(\d+);", lambda code: chr(int(code[1])), text)


def read(text: str) -> Picture:
    """Read a block.

    Raises:
        ValueError: it holds a line that `compysition.flow.pictures` would not write.
    """
    picture = Picture()
    is_in_ring = False
    first, *lines = text.strip().splitlines()
    if first.strip() != "flowchart LR":
        raise ValueError(f"{first!r}: wanted is 'flowchart LR'")
    for line in map(str.strip, lines):
        if node := NODE.match(line):
            said = [plain(part) for part in node[3].split("<br/>")]
            if is_in_ring:
                said[1:2] = [f"{part}, in a ring" for part in said[1:2]]
            picture.nodes[node[1]] = Node(said, SHAPES[node[2]], is_in_ring)
        elif arrow := EDGE.match(line):
            picture.arrows.append(Arrow(arrow[1], arrow[4], arrow[2] == "-.->", plain(arrow[3] or "")))
        elif BOX.match(line) or line == "end":
            is_in_ring = line != "end"
        else:
            raise ValueError(f"{line!r} is nothing that a picture of a flow says")
    return picture


# ---- where everything stands --------------------------------------------------------------------------------------


def turn_back(picture: Picture) -> None:
    """Mark the arrows that lead back to where the flow has been, so that the others have one direction."""
    ahead: dict[str, list[Arrow]] = defaultdict(list)
    for arrow in picture.arrows:
        ahead[arrow.source].append(arrow)
    open_, done = set[str](), set[str]()

    def visit(name: str) -> None:
        open_.add(name)
        for arrow in ahead[name]:
            arrow.is_back = arrow.target in open_
            if not arrow.is_back and arrow.target not in done:
                visit(arrow.target)
        open_.discard(name)
        done.add(name)

    fed = {arrow.target for arrow in picture.arrows}
    for name in sorted(picture.nodes, key=lambda name: name in fed):
        if name not in done:
            visit(name)


def put_in_columns(picture: Picture) -> list[list[str]]:
    """Give every node its column, as far left as its feeders allow, and long arrows a place in each they cross."""
    forward = [arrow for arrow in picture.arrows if not arrow.is_back]
    for _ in picture.nodes:
        for arrow in forward:
            target = picture.nodes[arrow.target]
            target.layer = max(target.layer, picture.nodes[arrow.source].layer + 1)
    for number, arrow in enumerate(forward):
        arrow.path = [arrow.source]
        for layer in range(picture.nodes[arrow.source].layer + 1, picture.nodes[arrow.target].layer):
            name = f"{number} in {layer}"
            picture.nodes[name] = Node(layer=layer)
            arrow.path.append(name)
        arrow.path.append(arrow.target)
    columns: list[list[str]] = [[] for _ in range(1 + max(node.layer for node in picture.nodes.values()))]
    for name, node in picture.nodes.items():
        columns[node.layer].append(name)
    return columns


def sort_columns(columns: Sequence[list[str]], arrows: Iterable[Arrow]) -> None:
    """Bring each node near to those it is connected to, some times from either side."""
    pairs = [pair for arrow in arrows for pair in pairwise(arrow.path)]
    before, behind = defaultdict(list), defaultdict(list)
    for source, target in pairs:
        before[target].append(source)
        behind[source].append(target)
    for sweep in range(6):
        neighbours: Mapping[str, list[str]] = before if sweep % 2 == 0 else behind
        for column in columns if sweep % 2 == 0 else reversed(columns):
            places = {name: place for other in columns for place, name in enumerate(other)}
            column.sort(
                key=lambda name, places=places, near=neighbours: (  # type: ignore[misc]
                    sum(places[other] for other in near[name]) / len(near[name]) if near[name] else places[name]
                )
            )


def place(picture: Picture, columns: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Give every node its middle. Returns the width and height of it all, without the way back."""
    gaps = [COLUMN] * len(columns)
    for arrow in picture.arrows:
        if arrow.label and not arrow.is_back:
            layer = picture.nodes[arrow.source].layer
            gaps[layer] = max(gaps[layer], int(len(arrow.label) * LETTER * 0.85) + 24)
    heights = [sum(picture.nodes[name].height for name in column) + ROW * (len(column) - 1) for column in columns]
    x = float(MARGIN)
    for column, height, gap in zip(columns, heights, gaps, strict=True):
        width = max(picture.nodes[name].width for name in column)
        y = MARGIN + (max(heights) - height) / 2
        for name in column:
            node = picture.nodes[name]
            node.x, node.y = x + width / 2, y + node.height / 2
            y += node.height + ROW
        x += width + gap
    return x - gaps[-1] + MARGIN, max(heights) + 2 * MARGIN


# ---- how it is drawn ----------------------------------------------------------------------------------------------


def draw_node(node: Node) -> str:
    """The shape of one actor with its words."""
    left, top, width, height = node.x - node.width / 2, node.y - node.height / 2, node.width, node.height
    ring = " ring" if node.is_in_ring else ""
    if node.shape == "error":
        points = [(0, 0.5), (8, 0), (-8, 0), (0, 0.5), (-8, 1), (8, 1)]
        corners = " ".join(
            f"{left + dx + (width if index in (2, 3, 4) else 0):.1f},{top + height * part:.1f}"
            for index, (dx, part) in enumerate(points)
        )
        shape = f'<polygon class="error{ring}" points="{corners}"/>'
    else:
        round_ = height / 2 if node.shape == "door" else 3
        shape = (
            f'<rect class="{node.shape}{ring}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'rx="{round_:.1f}"/>'
        )
    first = node.y - (len(node.lines) - 1) * LINE / 2 + 4.5
    words = "".join(
        f'<text class="{"name" if number == 0 else "more"}" x="{node.x:.1f}" y="{first + number * LINE:.1f}">'
        f"{html.escape(line)}</text>"
        for number, line in enumerate(node.lines)
    )
    return shape + words


def draw_forward(picture: Picture, arrow: Arrow, shift: float) -> tuple[str, float, float]:
    """The path of an arrow to the right, and where its label goes."""
    stops = [picture.nodes[name] for name in arrow.path]
    source, target = stops[0], stops[-1]
    points = [(source.x + source.width / 2, source.y + shift)]
    points += [(stop.x, stop.y) for stop in stops[1:-1]]
    points.append((target.x - target.width / 2 - 1, target.y + shift))
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x1, y1), (x2, y2) in pairwise(points):
        middle = (x1 + x2) / 2
        path += f" C{middle:.1f} {y1:.1f} {middle:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
    return path, (points[0][0] + points[1][0]) / 2, (points[0][1] + points[1][1]) / 2 - 5


def draw_back(source: Node, target: Node, lane_y: float, offsets: tuple[float, float]) -> tuple[str, float, float]:
    """The path of an arrow back to the left, below everything, and where its label goes."""
    x1, x2 = source.x + offsets[0], target.x + offsets[1]
    bend = 8 if x1 > x2 else -8
    path = (
        f"M{x1:.1f} {source.y + source.height / 2:.1f} V{lane_y - 8:.1f} Q{x1:.1f} {lane_y:.1f} {x1 - bend:.1f} "
        f"{lane_y:.1f} H{x2 + bend:.1f} Q{x2:.1f} {lane_y:.1f} {x2:.1f} {lane_y - 8:.1f} "
        f"V{target.y + target.height / 2 + 1:.1f}"
    )
    return path, (x1 + x2) / 2, lane_y - 5


def draw(text: str) -> str:
    """The SVG of a block.

    Raises:
        ValueError: as `read`.
    """
    picture = read(text)
    turn_back(picture)
    columns = put_in_columns(picture)
    sort_columns(columns, picture.arrows)
    width, height = place(picture, columns)
    parts, labels = [], []
    beside: dict[tuple[str, str], int] = defaultdict(int)
    back = [arrow for arrow in picture.arrows if arrow.is_back]
    # Short ways back lie above long ones, and leave and reach their actors beside each other.
    back.sort(key=lambda arrow: picture.nodes[arrow.source].layer - picture.nodes[arrow.target].layer)
    for arrow in picture.arrows:
        if arrow.is_back:
            lane = back.index(arrow)
            lane_y = height + (lane + 0.4) * LANE
            is_loop = arrow.source == arrow.target
            offsets = (18.0, -18.0) if is_loop else (0.0, -10.0 * lane + 5 * (len(back) - 1))
            path, x, y = draw_back(picture.nodes[arrow.source], picture.nodes[arrow.target], lane_y, offsets)
        else:
            number = beside[arrow.source, arrow.target]
            beside[arrow.source, arrow.target] += 1
            path, x, y = draw_forward(picture, arrow, number * 12.0)
        dashed = ' class="dashed"' if arrow.is_dashed else ""
        parts.append(f'<path{dashed} d="{path}" marker-end="url(#flow-head)"/>')
        if arrow.label:
            labels.append(f'<text class="label" x="{x:.1f}" y="{y:.1f}">{html.escape(arrow.label)}</text>')
    parts += labels
    parts += [draw_node(node) for node in picture.nodes.values() if node.lines]
    height += (len(back) + 0.4) * LANE if back else 0
    said = html.escape("; ".join(f"{a.source} to {a.target}" for a in picture.arrows), quote=True)
    return (
        f'<div class="flow-picture"><svg width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} '
        f'{height:.0f}" role="img" aria-label="Flow: {said}"><defs><marker id="flow-head" viewBox="0 0 8 8" refX="7" '
        f'refY="4" markerWidth="7" markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>'
        f"{''.join(parts)}</svg></div>"
    )


class DrawFlows(SphinxTransform):
    """Puts pictures in the place of ``mermaid`` blocks."""

    default_priority = 500

    def apply(self, **kwargs: object) -> None:
        """See `SphinxTransform`."""
        for block in list(self.document.findall(nodes.literal_block)):
            if block.get("language") != "mermaid":
                continue
            try:
                picture = draw(block.astext())
            except ValueError as error:
                logger.warning("mermaid: %s", error, location=block)
                block["language"] = "text"
            else:
                block.replace_self(nodes.raw("", picture, format="html"))


def setup(app: Sphinx) -> dict[str, bool]:
    """For sphinx."""
    app.add_transform(DrawFlows)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
