# SPDX-License-Identifier: Apache-2.0
"""`FlowController`: forwards what it gets; a place to join, fork or name a flow."""

from compysition.actor import Actor
from compysition.event import Event


class FlowController(Actor):
    """Sends every event on as it is, to all its outboxes.

    Args:
        name: Its name.

    >>> from compysition import Director
    >>> from compysition.actors import FlowController
    >>> director = Director()
    >>> _ = director.register_actor(FlowController, "join")
    >>> with director:
    ...     director.ask("join", "as it was").data
    'as it was'
    """

    def consume(self, event: Event) -> None:
        """Send `event` on."""
        self.send_event(event)
