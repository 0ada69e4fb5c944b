# SPDX-License-Identifier: Apache-2.0
"""Clients that go away while their request is at work.

A server cannot tell a client that closes from one that only ends its sending side: both send a FIN. Only a write tells,
because whoever has closed answers it with a reset. So a client of HTTP/1.1 that has sent a FIN is sent one ``100
Continue``, which every client takes at any time (RFC 9110, section 15.2); one that still does not reset is half-closed
and gets its answer. One look at all of them, a few times a second: a watcher for each request would cost each of them.

Must not know events or actors. Read next: `compysition.actors.wsgi`.
"""

import select
from typing import Any, Final, Protocol

from gevent import monkey

from compysition.clock import Clock, Timer
from compysition.lineage import Ticket

#: Between two looks, and the age of a request before its first one, in seconds.
LOOK_S: Final = 0.25
#: Looks after the probe before its client counts as half-closed.
PATIENCE: Final = 3

# Linux's, which the module knows only there; elsewhere only a reset is seen.
_RDHUP: Final = getattr(select, "POLLRDHUP", 0)
_GONE: Final = getattr(select, "POLLERR", 0) | getattr(select, "POLLHUP", 0)


class Peer(Protocol):
    """The connection of a request, as the server puts it into the environ."""

    #: Set here: nothing that is written reaches anybody.
    is_gone: bool
    #: Whether the client may be sent a ``1xx``.
    takes_interim: bool

    def fileno(self) -> int:
        """Its descriptor; -1 if it is closed."""

    def probe(self) -> None:
        """Send a ``100 Continue``. Must not wait."""


class HangUps:
    """Cancels the tickets whose clients have gone away.

    Args:
        clock: Time, and the timer between looks; it runs only while there are requests.
        probes: Whether to send a client that has sent a FIN something.
    """

    def __init__(self, clock: Clock, *, probes: bool = True) -> None:
        self._clock = clock
        self._probes = probes
        #: The oldest first.
        self._watched: dict[Ticket, tuple[Peer, float]] = {}
        #: Those that have ended their sending side, and how often they were looked at since.
        self._ended: dict[Ticket, int] = {}
        self._timer: Timer | None = None
        self._poll: Any = monkey.get_original("select", "poll") if hasattr(select, "poll") else None

    def watch(self, ticket: Ticket, peer: Peer) -> None:
        """Look after the client of a request until `unwatch`."""
        if self._poll is None:
            return
        self._watched[ticket] = (peer, self._clock.monotonic())
        if self._timer is None:
            self._timer = self._clock.call_later(LOOK_S, self._look)

    def unwatch(self, ticket: Ticket) -> None:
        """Its request has its answer."""
        self._watched.pop(ticket, None)
        if self._ended:
            self._ended.pop(ticket, None)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._watched.clear()
        self._ended.clear()

    def __len__(self) -> int:
        return len(self._watched)

    def _look(self) -> None:
        self._timer = self._clock.call_later(LOOK_S, self._look) if self._watched else None
        by_descriptor: dict[int, Ticket] = {}
        poll, youngest = self._poll(), self._clock.monotonic() - LOOK_S
        for ticket, (peer, began) in self._watched.items():
            if began > youngest:
                break
            number = peer.fileno()
            if number >= 0:
                by_descriptor[number] = ticket
                poll.register(number, _RDHUP)
        for number, events in poll.poll(0) if by_descriptor else ():
            self._judge(by_descriptor[number], events)

    def _judge(self, ticket: Ticket, events: int) -> None:
        peer = self._watched[ticket][0]
        looks = self._ended.get(ticket, 0)
        if not events & _GONE:
            self._ended[ticket] = looks + 1
            if looks == 0 and self._probes and peer.takes_interim:
                peer.probe()
            elif looks == 0 or looks >= PATIENCE:
                # Half-closed: it waits for its answer.
                self.unwatch(ticket)
                return
        if events & _GONE or peer.is_gone:
            peer.is_gone = True
            self.unwatch(ticket)
            ticket.cancel()
