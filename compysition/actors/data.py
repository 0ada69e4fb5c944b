# SPDX-License-Identifier: Apache-2.0
"""`Data`: puts fixed data into events."""

from typing import Any

from compysition.actor import Actor
from compysition.copying import copy_data
from compysition.errors import UnprocessableError
from compysition.event import Event


class Data(Actor):
    """Replaces `event.data`, or one key of it, and sends the event on.

    Args:
        name: Its name.
        data: The data. Every event gets a fresh copy, so that nobody downstream can change another event's.
        key: Replace only this key of a mapping in `event.data`; None replaces all of it. An event without data gets a
            dict with that key.

    An event whose data is something else than a dict fails with `UnprocessableError` when a `key` is given.

    >>> from compysition import Director
    >>> from compysition.actors import Data
    >>> director = Director()
    >>> _ = director.register_actor(Data, "price", data=12, key="price")
    >>> with director:
    ...     director.ask("price", {"article": "pen"}).data
    {'article': 'pen', 'price': 12}
    """

    def __init__(self, name: str, data: Any = None, *, key: str | None = None, blocking_consume: bool = False) -> None:
        super().__init__(name, blocking_consume=blocking_consume)
        self.data = data
        self.key = key

    def consume(self, event: Event) -> None:
        """Put the data in and send `event` on."""
        fresh = copy_data(self.data)
        if self.key is None:
            event.data = fresh
        elif event.data is None:
            event.data = {self.key: fresh}
        elif isinstance(event.data, dict):
            event.data[self.key] = fresh
        else:
            raise UnprocessableError(
                f"{self.name!r} sets the key {self.key!r}: data has to be a dict, not {type(event.data).__name__}"
            )
        self.send_event(event)
