# SPDX-License-Identifier: Apache-2.0
"""What the source of an actor's class is seen to do with its events. Nothing is run.

What cannot be seen is taken for the usual: every event is sent to all outboxes. Read next: `checks`.
"""

import ast
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Conduct:
    """How an actor sends.

    Attributes:
        sends: Whether it calls `send_event` at all.
        names_outboxes: Whether it calls it with the names of outboxes, so that not every one gets every event.
        sends_errors: Whether it calls `send_error`.
        stops_flow: Whether it raises `StopFlow`.
        offloads: Whether it calls `offload`.
    """

    sends: bool = True
    names_outboxes: bool = False
    sends_errors: bool = False
    stops_flow: bool = False
    offloads: bool = False


def conduct_of(classes: Iterable[ast.AST]) -> Conduct:
    """The conduct of an actor from the source of its class and those above it, `Actor` itself left out."""
    nodes = [node for tree in classes for node in ast.walk(tree)]
    # Named and not only called: `map(self.send_event, events)` sends too.
    named = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    raised = [node.exc for node in nodes if isinstance(node, ast.Raise) and node.exc is not None]
    return Conduct(
        sends="send_event" in named or not any(_is_consume(node) for node in nodes),
        names_outboxes=any(_names_outboxes(node) for node in nodes),
        sends_errors="send_error" in named,
        stops_flow=any(_last_name(part) == "StopFlow" for error in raised for part in ast.walk(error)),
        offloads="offload" in named,
    )


def _is_consume(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef) and node.name == "consume"


def _names_outboxes(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Call)
        and _last_name(node.func) == "send_event"
        and (len(node.args) > 1 or any(keyword.arg in (None, "queues") for keyword in node.keywords))
    )


def _last_name(node: ast.AST) -> str | None:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else None
