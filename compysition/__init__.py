# SPDX-License-Identifier: Apache-2.0
"""compysition: a runtime for event-driven data flow on gevent.

A `Director` wires supervised actors with queues; see the README. Actors that come with it are in
`compysition.actors`, errors in `compysition.errors`. Reading path: `director`, then downwards layer by layer.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from compysition.__about__ import __version__
from compysition.actor import Actor, ActorOptions
from compysition.deadletter import DeadLetter, DeadLetters
from compysition.director import Director
from compysition.drain import ActorReport, StopReport
from compysition.errors import Fatal, Retry, StopFlow
from compysition.event import Event, Failure
from compysition.flow.values import Flow, FlowActor, FlowConnection, Place
from compysition.ledger import Balance, Outcome
from compysition.logs import LogEntry
from compysition.queue import Overflow
from compysition.setting_types import seconds
from compysition.settings import Setting
from compysition.snapshot import ActorSnapshot, QueueSnapshot, Snapshot

if TYPE_CHECKING:
    from compysition.http.body import FormFile
    from compysition.http.event import HttpEvent
    from compysition.http.headers import FrozenHeaders
    from compysition.http.multidict import MultiDict
    from compysition.http.request import Request
    from compysition.http.response import ResponseHead, ResponseHeaders
    from compysition.http.trace import Trace

__all__ = [
    "Actor",
    "ActorOptions",
    "ActorReport",
    "ActorSnapshot",
    "Balance",
    "DeadLetter",
    "DeadLetters",
    "Director",
    "Event",
    "Failure",
    "Fatal",
    "Flow",
    "FlowActor",
    "FlowConnection",
    "FormFile",
    "FrozenHeaders",
    "HttpEvent",
    "LogEntry",
    "MultiDict",
    "Outcome",
    "Overflow",
    "Place",
    "QueueSnapshot",
    "Request",
    "ResponseHead",
    "ResponseHeaders",
    "Retry",
    "Setting",
    "Snapshot",
    "StopFlow",
    "StopReport",
    "Trace",
    "__version__",
    "seconds",
]

#: What is imported when somebody asks for it, and from where: a flow without HTTP should not pay for it.
_LATE: Final = {
    "FormFile": "compysition.http.body",
    "FrozenHeaders": "compysition.http.headers",
    "HttpEvent": "compysition.http.event",
    "MultiDict": "compysition.http.multidict",
    "Request": "compysition.http.request",
    "ResponseHead": "compysition.http.response",
    "ResponseHeaders": "compysition.http.response",
    "Trace": "compysition.http.trace",
}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        return getattr(import_module(_LATE[name]), name)
    raise AttributeError(f"module 'compysition' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE})
