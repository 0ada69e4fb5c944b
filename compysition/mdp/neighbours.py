# SPDX-License-Identifier: Apache-2.0
"""Who of MajorDomo runs under the same Director, so that a stop takes clients, then workers, then brokers.

A worker alone in its process says goodbye as soon as the stop begins. One whose client is in the same Director must go
on until that client has its answers, and the broker until both are done. Must not know actors. Read next: `reactor`.
"""

import weakref
from collections.abc import Callable
from typing import Final

#: By who runs the actors.
_BY_HOST: Final[weakref.WeakKeyDictionary[object, "Neighbours"]] = weakref.WeakKeyDictionary()


class Neighbours:
    """The MajorDomo actors of one Director that still need the others."""

    def __init__(self) -> None:
        self.clients: set[str] = set()
        self.workers: set[str] = set()
        self._listeners: dict[str, Callable[[], None]] = {}

    @classmethod
    def of(cls, host: object) -> "Neighbours":
        """Those that `host` runs."""
        found = _BY_HOST.get(host)
        if found is None:
            found = _BY_HOST[host] = cls()
        return found

    def listen(self, name: str, function: Callable[[], None]) -> None:
        """Call `function` whenever somebody is done."""
        self._listeners[name] = function

    def done(self, name: str) -> None:
        """The actor `name` needs nobody any more."""
        self.clients.discard(name)
        self.workers.discard(name)
        self._listeners.pop(name, None)
        for function in list(self._listeners.values()):
            function()
