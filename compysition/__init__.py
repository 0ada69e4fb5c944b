# SPDX-License-Identifier: Apache-2.0
"""compysition: a runtime for event-driven data flow on gevent.

A `Director` wires supervised actors with queues; see the README. Actors that come with it are in
`compysition.actors`, errors in `compysition.errors`. Reading path: `director`, then downwards layer by layer.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from compysition.__about__ import __version__
from compysition.actor import Actor, ActorOptions
from compysition.deadletter import DeadLetter
from compysition.director import Director
from compysition.drain import StopReport
from compysition.errors import Fatal, Retry, StopFlow
from compysition.event import Event, Failure
from compysition.ledger import Outcome
from compysition.setting_types import seconds

if TYPE_CHECKING:
    from compysition.http.event import HttpEvent

__all__ = [
    "Actor",
    "ActorOptions",
    "DeadLetter",
    "Director",
    "Event",
    "Failure",
    "Fatal",
    "HttpEvent",
    "Outcome",
    "Retry",
    "StopFlow",
    "StopReport",
    "__version__",
    "seconds",
]


def __getattr__(name: str) -> Any:
    # Not before somebody asks: a flow without HTTP should not pay for it.
    if name == "HttpEvent":
        return import_module("compysition.http.event").HttpEvent
    raise AttributeError(f"module 'compysition' has no attribute {name!r}")
