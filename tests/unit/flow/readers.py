# SPDX-License-Identifier: Apache-2.0
"""Readers of the two languages of pictures, so that what is written can be compared with what was meant.

`read_dot` follows the grammar of graphviz (https://graphviz.org/doc/info/lang.html) for what we use of it.
`read_mermaid` follows the flowchart syntax; what it reads was shown to mermaid's own parser once.
"""

import re
from dataclasses import dataclass, field


@dataclass
class Picture:
    """What is in a picture: labels by id, edges as (from, to, is dashed, label), and the ids in each box."""

    labels: dict[str, list[str]] = field(default_factory=dict)
    edges: list[tuple[str, str, bool, str]] = field(default_factory=list)
    boxes: list[list[str]] = field(default_factory=list)


# ---- DOT --------------------------------------------------------------------------------------------------------

_DOT_TOKEN = re.compile(
    r'\s*(?:(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<word>[A-Za-z_][A-Za-z_0-9]*)|(?P<mark>->|[{}\[\]=;,]))', re.DOTALL
)


def read_dot(text: str) -> Picture:
    tokens = _dot_tokens(text)
    picture = Picture()
    assert tokens.pop(0) == "digraph"
    tokens.pop(0)
    _read_block(tokens, picture, None)
    assert not tokens
    return picture


def _dot_tokens(text: str) -> list[str]:
    tokens, position = [], 0
    while text[position:].strip():
        match = _DOT_TOKEN.match(text, position)
        assert match is not None, text[position : position + 40]
        tokens.append(match[match.lastgroup or ""])
        position = match.end()
    return tokens


def _read_block(tokens: list[str], picture: Picture, box: list[str] | None) -> None:
    assert tokens.pop(0) == "{"
    while tokens[0] != "}":
        if tokens[0] == "subgraph":
            del tokens[:2]
            picture.boxes.append([])
            _read_block(tokens, picture, picture.boxes[-1])
            continue
        first = tokens.pop(0)
        if tokens[0] == "=":
            del tokens[:2]
        elif tokens[0] == "->":
            tokens.pop(0)
            second = tokens.pop(0)
            attributes = _read_attributes(tokens)
            is_dashed = attributes.get("style") == "dashed"
            picture.edges.append((_id(first), _id(second), is_dashed, _label(attributes.get("label", '""'))[0]))
        else:
            attributes = _read_attributes(tokens)
            if first != "node":
                picture.labels[_id(first)] = _label(attributes["label"])
                if box is not None:
                    box.append(_id(first))
        assert tokens.pop(0) == ";"
    tokens.pop(0)


def _read_attributes(tokens: list[str]) -> dict[str, str]:
    found = {}
    if tokens[0] == "[":
        while tokens.pop(0) != "]":
            name, sign, value = tokens[:3]
            assert sign == "="
            found[name] = value
            del tokens[:3]
    return found


def _id(token: str) -> str:
    # In an id only the quotation mark is escaped; two backslashes stay two, which is as good as one.
    return token[1:-1].replace('\\"', '"').replace("\\\\", "\\") if token.startswith('"') else token


def _label(token: str) -> list[str]:
    lines = [""]
    for escape, char in re.findall(r"\\(.)|([^\\])", token[1:-1], re.DOTALL):
        if escape == "n":
            lines.append("")
        else:
            assert escape in ("", "\\", '"'), f"graphviz would take \\{escape} for something else"
            lines[-1] += escape or char
    return [line.replace("&amp;", "&") for line in lines]


# ---- mermaid ----------------------------------------------------------------------------------------------------

_ID = r"[A-Za-z_][A-Za-z0-9_]*"
_TEXT = r'"([^"`<>\[\]{}|\\&]|<br/>)*"'
_NODE = re.compile(
    rf"(?P<id>{_ID})(?:\(\[(?P<a>{_TEXT})\]\)|\[/(?P<b>{_TEXT})/\]|\{{\{{(?P<c>{_TEXT})\}}\}}|\[(?P<d>{_TEXT})\])"
)
_EDGE = re.compile(rf"(?P<source>{_ID}) (?P<arrow>-->|-\.->)(?:\|(?P<label>{_TEXT})\|)? (?P<target>{_ID})")
_BOX = re.compile(rf"subgraph {_ID}\[{_TEXT}\]")


def read_mermaid(text: str) -> Picture:
    lines = [line.strip() for line in text.splitlines()]
    assert lines.pop(0) == "flowchart LR"
    picture = Picture()
    box: list[str] | None = None
    for line in lines:
        assert not re.search(r"direction\s+(TB|BT|RL|LR|TD)", line), "mermaid would take the whole line for a command"
        if line == "end":
            assert box is not None
            box = None
        elif _BOX.fullmatch(line):
            box = []
            picture.boxes.append(box)
        elif edge := _EDGE.fullmatch(line):
            label = _plain(edge["label"] or '""')[0]
            picture.edges.append((edge["source"], edge["target"], edge["arrow"] == "-.->", label))
        else:
            node = _NODE.fullmatch(line)
            assert node is not None, line
            picture.labels[node["id"]] = _plain(next(node[name] for name in "abcd" if node[name]))
            if box is not None:
                box.append(node["id"])
    return picture


def _plain(text: str) -> list[str]:
    return [re.sub(r"#(\d+);", lambda match: chr(int(match[1])), line) for line in text[1:-1].split("<br/>")]
