# SPDX-License-Identifier: Apache-2.0
"""compysition: a runtime for event-driven data flow on gevent.

A `Director` wires supervised actors with queues; see the README. Actors that come with it are in
`compysition.actors`, errors in `compysition.errors`. Reading path: `director`, then downwards layer by layer.
"""

from compysition.__about__ import __version__
from compysition.actor import Actor, ActorOptions
from compysition.deadletter import DeadLetter
from compysition.director import Director
from compysition.drain import StopReport
from compysition.errors import Fatal, Retry, StopFlow
from compysition.event import Event, Failure
from compysition.ledger import Outcome

__all__ = [
    "Actor",
    "ActorOptions",
    "DeadLetter",
    "Director",
    "Event",
    "Failure",
    "Fatal",
    "Outcome",
    "Retry",
    "StopFlow",
    "StopReport",
    "__version__",
]
