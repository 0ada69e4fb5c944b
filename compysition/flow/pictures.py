# SPDX-License-Identifier: Apache-2.0
"""Pictures of a flow as text: mermaid, which pages on the web draw by themselves, and DOT, which graphviz draws.

The same flow gives the same text. An arrow says only what differs from the default: names of queues, capacity,
overflow policy. Error wires are dashed, doors and sinks of logs and errors have their own shapes, each ring has a box.
"""

import re
from collections.abc import Callable, Container, Mapping, Sequence

from compysition.flow.values import Flow, FlowActor, FlowConnection

#: Words that mermaid does not take as ids, in any case of letters.
_MERMAID_WORDS = frozenset(
    {
        *("accdescr", "acctitle", "bottom", "bt", "call", "class", "classdef", "click", "default", "direction", "down"),
        *("end", "flowchart", "graph", "href", "interpolate", "left", "linkstyle", "lr", "parent", "rl", "right"),
        *("style", "subgraph", "tb", "td", "top", "up"),
    }
)
_MERMAID_ID = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: Characters of a label that mean nothing but themselves. Mermaid 11 takes any line with "direction LR" for a command.
_MERMAID_PLAIN = re.compile(r"[^\W_]|[\-:/.,()→]|(?<!direction) |(?<=[^\W_])_(?=[^\W_])")
#: Shapes by what an actor is; the label stands between.
_MERMAID_SHAPES = {"door": ("([", "])"), "log actor": ("[/", "/]"), "error actor": ("{{", "}}"), "": ("[", "]")}
_DOT_SHAPES = {"door": "cds", "log actor": "note", "error actor": "hexagon", "": "box"}


def mermaid(flow: Flow) -> str:
    """The text of a mermaid flowchart, with a line feed at the end."""
    ids = _ids(flow, lambda name: bool(_MERMAID_ID.fullmatch(name)) and name.lower() not in _MERMAID_WORDS)
    lines = ["flowchart LR"]
    in_ring = {name for ring in flow.rings for name in ring}
    nodes = {
        actor.name: f"{ids[actor.name]}{opening}{_mermaid_text(_lines_of(actor))}{closing}"
        for actor in flow.actors
        for opening, closing in (_MERMAID_SHAPES[_role(actor)],)
    }
    lines += [f"    {node}" for name, node in nodes.items() if name not in in_ring]
    for number, ring in enumerate(_rings_in_order(flow), 1):
        title = _mermaid_text([_ring_title(number, flow)])
        lines.append(f"    subgraph {_free(f'ring_{number}', set(ids.values()))}[{title}]")
        lines += [*(f"        {nodes[name]}" for name in ring), "    end"]
    for connection in flow.connections:
        label = _label(connection, flow)
        arrow = "-.->" if connection.is_error else "-->"
        text = f"|{_mermaid_text([label])}|" if label else ""
        lines.append(f"    {ids[connection.source]} {arrow}{text} {ids[connection.destination]}")
    return "\n".join(lines) + "\n"


def dot(flow: Flow) -> str:
    """The text of a DOT digraph, with a line feed at the end."""
    ids = {name: _dot_quoted(id_) for name, id_ in _ids(flow, str.isprintable).items()}
    lines = [f"digraph {_dot_quoted(flow.name)} {{", "    rankdir=LR;", "    node [shape=box];"]
    in_ring = {name for ring in flow.rings for name in ring}
    nodes = {
        actor.name: f"{ids[actor.name]} [shape={_DOT_SHAPES[_role(actor)]}, label={_dot_text(_lines_of(actor))}];"
        for actor in flow.actors
    }
    lines += [f"    {node}" for name, node in nodes.items() if name not in in_ring]
    for number, ring in enumerate(_rings_in_order(flow), 1):
        title = _dot_text([_ring_title(number, flow)])
        lines.append(f"    subgraph cluster_ring_{number} {{")
        lines += [f"        label={title};", *(f"        {nodes[name]}" for name in ring), "    }"]
    for connection in flow.connections:
        label = _label(connection, flow)
        attributes = ["style=dashed"] if connection.is_error else []
        attributes += [f"label={_dot_text([label])}"] if label else []
        text = f" [{', '.join(attributes)}]" if attributes else ""
        lines.append(f"    {ids[connection.source]} -> {ids[connection.destination]}{text};")
    return "\n".join([*lines, "}"]) + "\n"


#: By name, what draws a flow in that format.
FORMATS: Mapping[str, Callable[[Flow], str]] = {"mermaid": mermaid, "dot": dot}


# ---- what is said ---------------------------------------------------------------------------------------------------


def _role(actor: FlowActor) -> str:
    if actor.is_log_actor:
        return "log actor"
    if actor.is_error_actor:
        return "error actor"
    return "door" if actor.is_door else ""


def _lines_of(actor: FlowActor) -> list[str]:
    role = _role(actor)
    return [actor.name, f"{actor.kind}, {role}" if role else actor.kind, *actor.listens]


def _label(connection: FlowConnection, flow: Flow) -> str:
    said = []
    if connection.outbox != connection.destination:
        said.append(f"from {connection.outbox}")
    if connection.inbox != connection.source:
        said.append(f"to {connection.inbox}")
    if connection.is_error:
        said.append("error")
    if connection.capacity != flow.size:
        said.append(f"capacity {connection.capacity}")
    if connection.overflow != "wait":
        said.append(connection.overflow)
    return ", ".join(said)


def _ring_title(number: int, flow: Flow) -> str:
    return f"ring {number}" if len(flow.rings) > 1 else "ring"


def _rings_in_order(flow: Flow) -> Sequence[Sequence[str]]:
    """The rings by their first actor, and the actors in them, as they were registered."""
    order = {actor.name: number for number, actor in enumerate(flow.actors)}
    rings = [sorted(ring, key=order.__getitem__) for ring in flow.rings]
    return sorted(rings, key=lambda ring: order[ring[0]])


# ---- how it is written --------------------------------------------------------------------------------------------


def _ids(flow: Flow, is_plain: Callable[[str], bool]) -> dict[str, str]:
    """An id for each actor: its name, if that can be one."""
    taken = {actor.name for actor in flow.actors if is_plain(actor.name)}
    ids: dict[str, str] = {}
    for number, actor in enumerate(flow.actors, 1):
        ids[actor.name] = actor.name if actor.name in taken else _free(f"actor_{number}", taken | set(ids.values()))
    return ids


def _free(wanted: str, taken: Container[str]) -> str:
    while wanted in taken:
        wanted += "_"
    return wanted


def _mermaid_text(lines: Sequence[str]) -> str:
    return '"' + "<br/>".join(map(_mermaid_escaped, lines)) + '"'


def _mermaid_escaped(line: str) -> str:
    # Letters and digits of all scripts stay. Whatever could be markup, in mermaid, HTML or markdown, becomes its
    # number: an underscore at the edge of a word emphasises, and a line that begins like the item of a list is one.
    visible = "".join(map(_visible, line))
    plain = {match.start() for match in _MERMAID_PLAIN.finditer(visible)}
    return "".join(
        char if at in plain and (at > 0 or char.isalpha()) else f"#{ord(char)};" for at, char in enumerate(visible)
    )


def _dot_quoted(text: str) -> str:
    return '"' + "".join(map(_visible, text)).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _dot_text(lines: Sequence[str]) -> str:
    # A backslash begins an escape in a label, and an ampersand an entity of HTML.
    return '"' + "\\n".join(_dot_quoted(line)[1:-1].replace("&", "&amp;") for line in lines) + '"'


def _visible(char: str) -> str:
    """The character, or the sign for one that cannot be seen."""
    if char.isprintable():
        return char
    return chr(0x2400 + ord(char)) if ord(char) < 32 else "\N{REPLACEMENT CHARACTER}"
