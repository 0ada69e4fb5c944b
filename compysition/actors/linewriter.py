# SPDX-License-Identifier: Apache-2.0
"""`LineWriter`: what `STDOUT` and `FileLogger` share. A line per event, written once per chunk of events.

An event is kept until its line is out: a kill in between must not lose it without a name. Then it is sent on. Where
lines go, and how that is done without holding the hub, is the subclasses' part.
"""

import datetime
from collections import deque
from contextlib import suppress
from itertools import islice
from typing import Any, ClassVar

from gevent.lock import BoundedSemaphore

from compysition.actor import Actor, ActorOptions
from compysition.clock import Timer
from compysition.errors import EventNotOwnedError
from compysition.event import Event, Failure

#: Lines wait at most this long for further ones behind them, in seconds.
FLUSH_S = 0.01


class LineWriter(Actor):
    """Writes ``[timestamp ]prefix + data`` as one line per event, and sends the event on if it is connected.

    Args:
        name: Its name.
        complete: Write the whole event, ids and all, instead of its data.
        prefix: In front of the data.
        timestamp: Whether the local time of writing, to the microsecond, stands in square brackets in front of it.
    """

    # Order is what people read by.
    options = ActorOptions(concurrency=1)
    _is_end = True
    #: Lines are written when they are so many bytes, or when nothing comes behind them.
    _block_bytes: ClassVar[int] = 4_096

    def __init__(
        self, name: str, *, complete: bool, prefix: str, timestamp: bool, blocking_consume: bool = False
    ) -> None:
        super().__init__(name, blocking_consume=blocking_consume)
        self.complete = complete
        self.prefix = prefix
        self.timestamp = timestamp
        #: What is left to write of each line, b"" when only the event has still to go on, or to fail; the event; and
        #: why it fails.
        self._pending: deque[tuple[bytes, Event, Failure | None]] = deque()
        self._pending_bytes = 0
        self._timer: Timer | None = None
        self._writing = BoundedSemaphore()

    def consume(self, event: Event) -> None:
        """Write `event` and send it on. Waits until its line is out, or others come behind it."""
        line = self._line(event)
        self.keep(event)
        self._pending.append((line, event, None))
        self._pending_bytes += len(line)
        if self._pending_bytes >= self._block_bytes or not self.inbox_depth:
            self._flush()
        elif self._timer is None:
            # What is still queued may expire instead of coming here; the lines must not wait for it.
            self._timer = self._hosted.clock.call_later(FLUSH_S, self._flush_soon)

    def pre_hook(self) -> None:
        """Write what a handler that was killed has left."""
        if self._pending:
            self.background(self._flush, restart=False)

    def post_hook(self) -> None:
        """Forget lines whose events have ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        held = self._wired.kept.events
        self._pending = deque(entry for entry in self._pending if id(entry[1]) in held)
        self._pending_bytes = sum(len(line) for line, *_ in self._pending)

    def on_drain(self) -> None:
        """Write what is left."""
        self._flush()

    # ---- for subclasses -------------------------------------------------------------------------------------------

    def _write_block(self) -> None:
        """Write some pending lines; say so by `_mark_written`, and fail by `_fail_first` what cannot be written."""
        raise NotImplementedError

    def _encoding(self) -> str:
        """In which encoding lines are written."""
        return "utf-8"

    def _next_lines(self) -> list[bytes]:
        """The lines that make up the next block."""
        number, size = 0, 0
        for line, *_ in self._pending:
            number, size = number + 1, size + len(line)
            if size >= self._block_bytes:
                break
        return [line for line, *_ in islice(self._pending, number)]

    def _mark_written(self, written: int) -> None:
        """The first `written` bytes are out. Their events stay pending until they have gone on."""
        self._pending_bytes -= written
        for index, (line, event, failure) in enumerate(self._pending):
            if not written:
                break
            part = min(written, len(line))
            written -= part
            self._pending[index] = (line[part:], event, failure)

    def _let_go(self) -> None:
        """Send the events whose lines are out, and fail those that have got none."""
        while self._pending and not self._pending[0][0]:
            _, event, failure = self._pending[0]
            # Still pending while it waits for room: whoever is killed there must find it again.
            with suppress(EventNotOwnedError):  # it was killed after the event had gone on
                if failure is None:
                    self.send_event(event)
                else:
                    event.error = failure
                    self.send_error(event)
            self._pending.popleft()

    def _fail_first(self, number: int, error: OSError) -> None:
        """The first `number` lines cannot be written, because of `error`: their events fail."""
        failure = Failure.of(error, actor=self.name)
        for index in range(number):
            line, event, _ = self._pending[index]
            self._pending_bytes -= len(line)
            self._pending[index] = (b"", event, failure)
        self._let_go()

    # ---- private ----------------------------------------------------------------------------------------------------

    def _line(self, event: Event) -> bytes:
        data: Any = event if self.complete else event.data
        if isinstance(data, bytes | bytearray):
            data = data.decode(errors="backslashreplace")
        stamp = (
            f"[{datetime.datetime.now().astimezone().replace(tzinfo=None).isoformat(' ', 'microseconds')}] "
            if self.timestamp
            else ""
        )
        return f"{stamp}{self.prefix}{data}\n".encode(self._encoding(), "backslashreplace")

    def _flush_soon(self) -> None:
        self._timer = None
        self.background(self._flush, restart=False)

    def _flush(self) -> None:
        """Write all pending lines, and let their events go on."""
        with self._writing:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._let_go()
            while self._pending:
                self._write_block()
                self._let_go()
