# SPDX-License-Identifier: Apache-2.0
"""Actors for tests: one that remembers, one that does what a function says, one through which a test sends.

Must not know Directors. Read next: `running`.
"""

from collections.abc import Callable
from typing import Any

from compysition.actor import Actor
from compysition.event import Event


class Collector(Actor):
    """Remembers what it gets, in order, and sends it on if it is connected.

    Attributes:
        events: The events themselves; this keeps them alive.
        data: Their data, as it was when they came.
        origins: ``(origin, origin_queue)`` of each.
    """

    def __init__(self, name: str, *, blocking_consume: bool = False) -> None:
        super().__init__(name, blocking_consume=blocking_consume)
        self.events: list[Event] = []
        self.data: list[Any] = []
        self.origins: list[tuple[str, str]] = []

    def consume(self, event: Event, origin: str = "", origin_queue: str = "") -> None:
        """Remember `event`."""
        self.events.append(event)
        self.data.append(event.data)
        self.origins.append((origin, origin_queue))
        self.send_event(event)


class Handler(Actor):
    """Calls ``function(actor, event)`` for each event: an actor in one line.

    Args:
        name: Its name.
        function: Given this actor, for its tools, and the event.
    """

    def __init__(
        self, name: str, function: "Callable[[Handler, Event], object]", *, blocking_consume: bool = False
    ) -> None:
        super().__init__(name, blocking_consume=blocking_consume)
        self.function = function

    def consume(self, event: Event) -> None:
        """Call the function."""
        self.function(self, event)


class Feeder(Actor):
    """Sends what a test gives it: the actor that stands in front of the one under test."""
