# SPDX-License-Identifier: Apache-2.0
"""The actors that come with compysition, one per file, imported when asked for.

A part whose extra is not installed says which one it needs when it is imported from here.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from compysition.errors import MissingExtraError, suggestion

if TYPE_CHECKING:
    from compysition.actors.basicauth import BasicAuth
    from compysition.actors.data import Data
    from compysition.actors.eventattributemodifier import EventAttributeModifier
    from compysition.actors.eventjoin import EventJoin
    from compysition.actors.eventlogger import EventLogger
    from compysition.actors.eventrouter import EventFilter, EventRouter
    from compysition.actors.filelogger import FileLogger
    from compysition.actors.flowcontroller import FlowController
    from compysition.actors.mdpbroker import MDPBroker
    from compysition.actors.mdpbrokerregistrationservice import MDPBrokerRegistrationService
    from compysition.actors.mdpclient import MDPClient
    from compysition.actors.mdpworker import MDPWorker
    from compysition.actors.null import Null
    from compysition.actors.source import Source
    from compysition.actors.stdout import STDOUT
    from compysition.actors.testevent import TestEvent
    from compysition.actors.timer import Timer
    from compysition.actors.transformer import Transformer
    from compysition.actors.wsgi import WSGI, WSGIServer

#: Public name → its module, and the extra that brings what it imports.
_ACTORS: dict[str, tuple[str, str | None]] = {
    "BasicAuth": ("basicauth", None),
    "Data": ("data", None),
    "EventAttributeModifier": ("eventattributemodifier", None),
    "EventFilter": ("eventrouter", None),
    "EventJoin": ("eventjoin", None),
    "EventLogger": ("eventlogger", None),
    "EventRouter": ("eventrouter", None),
    "FileLogger": ("filelogger", None),
    "FlowController": ("flowcontroller", None),
    "MDPBroker": ("mdpbroker", "zmq"),
    "MDPBrokerRegistrationService": ("mdpbrokerregistrationservice", "zmq"),
    "MDPClient": ("mdpclient", "zmq"),
    "MDPWorker": ("mdpworker", "zmq"),
    "Null": ("null", None),
    "STDOUT": ("stdout", None),
    "Source": ("source", None),
    "TestEvent": ("testevent", None),
    "Timer": ("timer", None),
    "Transformer": ("transformer", "xml"),
    "WSGI": ("wsgi", None),
    "WSGIServer": ("wsgi", None),
}


def __getattr__(name: str) -> Any:
    if name not in _ACTORS:
        raise AttributeError(f"compysition.actors has no {name!r}{suggestion(name, _ACTORS)}")
    module, extra = _ACTORS[name]
    try:
        return getattr(import_module(f"compysition.actors.{module}"), name)
    except ModuleNotFoundError as error:
        if extra is None or (error.name or "").startswith("compysition"):
            raise
        raise MissingExtraError(f"actor {name}", extra) from error


def __dir__() -> list[str]:
    return sorted(_ACTORS)


__all__ = [
    "STDOUT",
    "WSGI",
    "BasicAuth",
    "Data",
    "EventAttributeModifier",
    "EventFilter",
    "EventJoin",
    "EventLogger",
    "EventRouter",
    "FileLogger",
    "FlowController",
    "MDPBroker",
    "MDPBrokerRegistrationService",
    "MDPClient",
    "MDPWorker",
    "Null",
    "Source",
    "TestEvent",
    "Timer",
    "Transformer",
    "WSGIServer",
]
