# SPDX-License-Identifier: Apache-2.0
"""`Source`: the items of an iterable as events."""

from collections.abc import Iterable
from typing import Any

from gevent import idle

from compysition.actor import Actor
from compysition.errors import EventNotOwnedError
from compysition.event import Event

#: After so many items that never waited, others get a turn.
ITEMS_AT_ONCE = 500


class Source(Actor):
    """Sends one event for each item of `iterable`, as fast as its connections take them, and is then finished.

    An item that is an `Event` is sent as it is. When the Director stops, it ends after the item it is at. If iterating
    raises, the actor is restarted, and goes on with what the iterator gives next: a generator that raised is at its
    end.

    Args:
        name: Its name.
        iterable: Where items come from.

    >>> from compysition import Director
    >>> from compysition.actors import STDOUT, Source
    >>> director = Director()
    >>> source = director.register_actor(Source, "numbers", range(3))
    >>> out = director.register_actor(STDOUT, "out", prefix="number ")
    >>> director.connect_queue(source, out)
    >>> director.start(until_idle=True).ok
    number 0
    number 1
    number 2
    True
    """

    def __init__(self, name: str, iterable: Iterable[Any], *, blocking_consume: bool = False) -> None:
        super().__init__(name, blocking_consume=blocking_consume)
        self._iterator = iter(iterable)
        self._in_hand: Event | None = None
        self._is_again = False
        self.background(self._run)

    def _run(self) -> None:
        number = 0
        # It may have been killed after the event had gone in, but before it knew.
        self._is_again = self._in_hand is not None
        while self.loop():
            if self._in_hand is None:
                try:
                    item = next(self._iterator)
                except StopIteration:
                    return
                self._in_hand = item if isinstance(item, Event) else Event(item)
            # Killed while it waits for room, it still has the event in hand and sends it when it is run again.
            try:
                self.send_event(self._in_hand)
            except EventNotOwnedError:
                if not self._is_again:
                    raise
            self._in_hand = None
            self._is_again = False
            number += 1
            if number % ITEMS_AT_ONCE == 0:
                idle()
