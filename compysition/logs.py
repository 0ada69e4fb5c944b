# SPDX-License-Identifier: Apache-2.0
"""From the `logging` module to a log actor, without ever waiting where a record is made.

`LogBridge.emit` may be called from any thread, callback or finalizer. It turns the record into plain data, puts that
into a bounded ring and wakes a feeder, which is a greenlet of the Director and gives the actor its events.
Records made by the log actor itself, by actors that only it feeds, or by the feeder go to standard error.
"""

import logging
import sys
import traceback
from collections import deque
from collections.abc import Callable
from typing import Any

from gevent import get_hub, getcurrent

from compysition.cell import Cell
from compysition.dispatch import present_hand
from compysition.errors import DirectorStoppedError
from compysition.event import Event
from compysition.ledger import Ledger
from compysition.logger import DIRECTOR
from compysition.parking import Parking
from compysition.queue import Queue
from compysition.restartlet import OwnedGreenlet

#: Records that may wait for the log actor; beyond, the oldest are dropped and counted.
RECORDS_KEPT = 10_000
#: The logger above all of compysition's.
ROOT = "compysition"
#: From here on they are heard, unless that logger has a level.
LEVEL = logging.INFO


class LogEntry(dict[str, Any]):
    """A log record as plain data: ``level, time, name, message, traceback, actor, event_id``.

    `time` is in seconds since 1970, UTC; `actor` and `event_id` are None where a record has none. As text it is one
    line, and the traceback below it if there is one.
    """

    def __str__(self) -> str:
        text = f"{self['level']} {self['name']}: {self['message']}"
        return f"{text}\n{self['traceback'].rstrip()}" if self["traceback"] else text

    def __deepcopy__(self, memo: dict[int, Any]) -> "LogEntry":
        # Plain data that nobody changes; an actor that does, changes its own copy.
        return LogEntry(self)

    @classmethod
    def of(cls, record: logging.LogRecord) -> "LogEntry":
        """The record's data, as text: it keeps no event, no exception and no frame alive."""
        try:
            message = record.getMessage()
        except Exception as error:  # noqa: BLE001 - boundary
            # Boundary: the caller's arguments do not fit the format, or their text raised. The record still counts.
            kind = record.msg if isinstance(record.msg, str) else f"<{type(record.msg).__name__}>"
            message = f"{kind} (could not be formatted: {type(error).__name__})"
        text = ""
        if record.exc_info and record.exc_info[1] is not None:
            text = "".join(traceback.format_exception(*record.exc_info))
        event_id = getattr(record, "event_id", None)
        return cls(
            level=record.levelname,
            time=record.created,
            name=record.name,
            message=message,
            traceback=text,
            actor=getattr(record, "actor", None),
            event_id=event_id if event_id is None else str(event_id),
        )


class LogBridge(logging.Handler):
    """A logging handler whose records become events of a log actor.

    It hears what its own Director and that one's actors say, and what is said outside of any Director.

    Args:
        cell: The log actor's cell.
        queue: Its inbox for records.
        ledger: Where its events are counted, apart from all others.
    """

    def __init__(self, cell: Cell, queue: Queue, ledger: Ledger) -> None:
        super().__init__()
        #: Cells whose own records must not come back: the log actor's, and those only it feeds.
        self.own_cells: frozenset[Cell] = frozenset({cell})
        #: Records dropped because the ring was full.
        self.lost = 0
        self._cell = cell
        self._director = id(cell.host)
        self._queue = queue
        self._ledger = ledger
        self._ring: deque[LogEntry] = deque(maxlen=RECORDS_KEPT)
        self._lost_reported = 0
        self._is_feeding = False
        self._feeder: object | None = None
        self._place: Parking | None = None
        self._wake_feeder: Callable[[], object] = lambda: None
        self._former_level: int | None = None

    # ---- where a record is made ---------------------------------------------------------------------------------

    def createLock(self) -> None:  # noqa: N802 - the name is logging's
        """No lock: `emit` is atomic where it has to be, and a lock could make a finalizer wait for its own thread."""
        self.lock = None

    def handle(self, record: logging.LogRecord) -> bool:
        """As `logging.Handler.handle`, without a lock."""
        accepted = bool(self.filter(record))
        if accepted:
            self.emit(record)
        return accepted

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record. Never waits or switches."""
        hand = present_hand()
        maker = None if hand is None else hand.sender
        director = getattr(record, DIRECTOR, None)
        if director is None and maker is not None:
            director = id(maker.host)
        elif director is None and isinstance(current := getcurrent(), OwnedGreenlet):
            director = current.director
        if director is not None and director != self._director:
            return
        entry = LogEntry.of(record)
        if (
            maker in self.own_cells
            or any(cell.name == entry["actor"] for cell in self.own_cells)
            or getcurrent() is self._feeder
        ):
            _to_stderr(entry)
            return
        if len(self._ring) == RECORDS_KEPT:
            self.lost += 1
        self._ring.append(entry)
        self._wake_feeder()

    # ---- where it is fed ----------------------------------------------------------------------------------------

    def install(self) -> None:
        """Listen to everything under the logger ``compysition``, from INFO on unless that logger has a level."""
        root = logging.getLogger(ROOT)
        if self in root.handlers:
            return
        if root.level == logging.NOTSET:
            self._former_level = root.level
            root.setLevel(LEVEL)
        root.addHandler(self)

    def remove(self) -> None:
        """Listen no more. What the ring still holds goes to standard error: it is not lost without a trace."""
        root = logging.getLogger(ROOT)
        root.removeHandler(self)
        former, self._former_level = self._former_level, None
        if former is not None:
            # The level is for all that listen: the last one puts it back, unless somebody has changed it meanwhile.
            heir = next((handler for handler in root.handlers if isinstance(handler, LogBridge)), None)
            if heir is not None:
                heir._former_level = former
            elif root.level == LEVEL:
                root.setLevel(former)
        self._wake_feeder = lambda: None
        if self.lost > self._lost_reported:
            _to_stderr(_lost_entry(self.lost - self._lost_reported))
            self._lost_reported = self.lost
        while self._ring:
            _to_stderr(self._ring.popleft())

    def is_flushed(self) -> bool:
        """Whether every record has reached the actor's inbox."""
        return not self._ring and not self._is_feeding

    def feed(self) -> None:
        """Give the actor its events, for ever. Runs in a greenlet of the Director."""
        self._feeder = getcurrent()
        self._place = place = Parking()
        watcher = get_hub().loop.async_()
        # The only thing that may be called from another thread is the watcher's send.
        watcher.start(place.wake)
        self._wake_feeder = watcher.send
        try:
            while True:
                while self._ring:
                    self._is_feeding = True
                    if self.lost > self._lost_reported:
                        number, self._lost_reported = self.lost - self._lost_reported, self.lost
                        self._give(_lost_entry(number))
                    entry = self._ring[0]
                    self._give(entry)
                    # Taken out only now: a feeder killed while it waits for room must leave it here. It may have
                    # fallen out meanwhile.
                    if self._ring and self._ring[0] is entry:
                        self._ring.popleft()
                self._is_feeding = False
                place.park()
        finally:
            if self._feeder is getcurrent():
                self._is_feeding = False
                self._wake_feeder = lambda: None
                self._feeder = None
            watcher.stop()
            watcher.close()

    def _give(self, entry: LogEntry) -> None:
        try:
            self._queue.put(Event(entry, service="log"), self._ledger, None, None)
        except DirectorStoppedError:
            _to_stderr(entry)


def _lost_entry(number: int) -> LogEntry:
    record = logging.LogRecord(f"{ROOT}.logs", logging.WARNING, "", 0, "%d records lost", (number,), None)
    return LogEntry.of(record)


def _to_stderr(entry: LogEntry) -> None:
    stream = sys.stderr
    if stream is not None:
        try:
            stream.write(f"{entry}\n")
        except (OSError, ValueError):
            return  # Standard error is closed: there is no place left to say anything.
