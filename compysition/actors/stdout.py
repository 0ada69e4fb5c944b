# SPDX-License-Identifier: Apache-2.0
"""`STDOUT`: one line per event on standard output, without ever holding the hub.

A pipe whose reader is slow blocks the process that writes to it, and making the descriptor non-blocking would change it
for every process that shares it. So blocks of at most 4 096 bytes are written behind an I/O watcher, where the system
allows it through a descriptor of the actor's own, which may be non-blocking.
"""

import datetime
import errno
import os
import stat
import sys
from collections import deque
from contextlib import suppress
from itertools import islice
from typing import Annotated, Any

from gevent import get_hub
from gevent.lock import BoundedSemaphore

from compysition.actor import Actor, ActorOptions
from compysition.arguments import FLAG, TEXT, checked
from compysition.clock import Timer
from compysition.errors import EventNotOwnedError
from compysition.event import Event, Failure

#: What a writable pipe takes without blocking (PIPE_BUF on Linux).
BLOCK_BYTES = 4_096
#: Lines wait at most this long for further ones behind them, in seconds.
FLUSH_S = 0.01
#: Standard output is one for the process, so is its lock: a pipe with room for one block is writable for everybody.
_DESCRIPTOR_LOCK = BoundedSemaphore()


class STDOUT(Actor):
    """Prints ``[timestamp ]prefix + data`` as one line, and sends the event on if it is connected.

    Lines are written in the order of the events, once per chunk of events and before the process ends. When standard
    output is closed by its reader, events fail with `BrokenPipeError`.

    Args:
        name: Its name.
        complete: Print the whole event, ids and all, instead of its data.
        prefix: Printed in front of the data.
        timestamp: Print the local time of printing, to the microsecond, in square brackets.

    >>> from compysition import Director
    >>> from compysition.actors import STDOUT
    >>> director = Director()
    >>> _ = director.register_actor(STDOUT, "out", prefix="it is ")
    >>> with director:
    ...     director.post("out", "me")
    it is me
    """

    # Order is what people read by.
    options = ActorOptions(concurrency=1)
    _is_end = True

    @checked
    def __init__(
        self,
        name: str,
        *,
        complete: Annotated[bool, FLAG] = False,
        prefix: Annotated[str, TEXT] = "",
        timestamp: Annotated[bool, FLAG] = False,
        blocking_consume: bool = False,
    ) -> None:
        super().__init__(name, blocking_consume=blocking_consume)
        self.complete = complete
        self.prefix = prefix
        self.timestamp = timestamp
        self._pending: deque[tuple[bytes, Event]] = deque()
        self._pending_bytes = 0
        self._timer: Timer | None = None
        self._writing = BoundedSemaphore()
        self._twin: int | None = None
        self._twin_key: tuple[int, int, int] | None = None

    def consume(self, event: Event) -> None:
        """Print `event` and send it on. Waits until standard output takes the line, or others come behind it."""
        line = self._line(event)
        # Until its line is written the event is held: a kill in between must not lose it without a name.
        self.keep(event)
        self._pending.append((line, event))
        self._pending_bytes += len(line)
        if self._pending_bytes >= BLOCK_BYTES or not self.inbox_depth:
            self._flush()
        elif self._timer is None:
            # What is still queued may expire instead of coming here; the lines must not wait for it.
            self._timer = self._hosted.clock.call_later(FLUSH_S, self._flush_soon)

    def pre_hook(self) -> None:
        """Write what a handler that was killed has left."""
        if self._pending:
            self.background(self._flush, restart=False)

    def post_hook(self) -> None:
        """Close what was opened beside standard output, and forget lines whose events have ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        held = self._wired.kept.events
        self._pending = deque(entry for entry in self._pending if id(entry[1]) in held)
        self._pending_bytes = sum(len(line) for line, _ in self._pending)
        self._close_twin()

    def on_drain(self) -> None:
        """Write what is left."""
        self._flush()

    def _line(self, event: Event) -> bytes:
        data: Any = event if self.complete else event.data
        if isinstance(data, bytes | bytearray):
            data = data.decode(errors="backslashreplace")
        stamp = (
            f"[{datetime.datetime.now().astimezone().replace(tzinfo=None).isoformat(' ', 'microseconds')}] "
            if self.timestamp
            else ""
        )
        return f"{stamp}{self.prefix}{data}\n".encode(
            getattr(sys.stdout, "encoding", None) or "utf-8", "backslashreplace"
        )

    def _flush_soon(self) -> None:
        self._timer = None
        self.background(self._flush, restart=False)

    def _flush(self) -> None:
        """Write all pending lines, and let their events go on."""
        with self._writing:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            while self._pending:
                try:
                    # Other actors write to the same place: each gets whole lines out.
                    with _DESCRIPTOR_LOCK:
                        self._write_lines()
                except OSError as error:
                    self._fail_all(error)
                    return
                self._let_go()

    def _write_lines(self) -> None:
        """Write the lines that make up the next block, to their end."""
        number, size = 0, 0
        for line, _ in self._pending:
            number, size = number + 1, size + len(line)
            if size >= BLOCK_BYTES:
                break
        lines = b"".join([line for line, _ in islice(self._pending, number)])
        written = 0
        try:
            while written < len(lines):
                written += self._write(lines[written : written + BLOCK_BYTES])
        finally:
            self._mark_written(written)

    def _mark_written(self, written: int) -> None:
        """The first `written` bytes are out. Their events stay pending until they have gone on."""
        self._pending_bytes -= written
        for index, (line, event) in enumerate(self._pending):
            if not written:
                break
            part = min(written, len(line))
            written -= part
            self._pending[index] = (line[part:], event)

    def _let_go(self) -> None:
        """Send the events whose lines are out."""
        while self._pending and not self._pending[0][0]:
            # Still pending while it waits for room: whoever is killed there must find it again.
            with suppress(EventNotOwnedError):  # it was killed after the event had gone on
                self.send_event(self._pending[0][1])
            self._pending.popleft()

    def _fail_all(self, error: OSError) -> None:
        while self._pending:
            line, event = self._pending[0]
            self._pending_bytes -= len(line)
            self._pending[0] = (b"", event)
            event.error = Failure.of(error, actor=self.name)
            with suppress(EventNotOwnedError):  # as above
                self.send_error(event)
            self._pending.popleft()

    def _write(self, block: bytes) -> int:
        """Write some of `block`. Waits until the descriptor is writable; returns how many bytes it took."""
        stream = sys.stdout
        try:
            descriptor = stream.fileno()
        except (OSError, ValueError, AttributeError):
            # Somebody has put an object without a descriptor there (a test's capture, a notebook): it cannot block.
            if stream is None or stream.closed:
                raise OSError(errno.EBADF, "standard output is closed") from None
            stream.write(block.decode(stream.encoding or "utf-8", "backslashreplace"))
            stream.flush()
            return len(block)
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode):
            return os.write(descriptor, block)
        twin = self._twin_of(descriptor, status)
        self._wait_until_writable(twin)
        try:
            return os.write(twin, block)
        except BlockingIOError:
            # There is less room than the block wants, or somebody else was faster.
            return 0

    def _twin_of(self, descriptor: int, status: os.stat_result) -> int:
        """A descriptor of the same pipe or terminal that never blocks; `descriptor` itself where there is none."""
        key = (descriptor, status.st_dev, status.st_ino)
        if key != self._twin_key:
            self._close_twin()
            self._twin_key = key
            if stat.S_ISFIFO(status.st_mode) or stat.S_ISCHR(status.st_mode):
                # Opened anew, it has flags of its own; those of standard output are shared with other processes. Not
                # every system or owner allows it: then a block behind the watcher is what is left.
                with suppress(OSError):
                    self._twin = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        return descriptor if self._twin is None else self._twin

    def _close_twin(self) -> None:
        if self._twin is not None:
            os.close(self._twin)
        self._twin = self._twin_key = None

    def _wait_until_writable(self, descriptor: int) -> None:
        watcher = get_hub().loop.io(descriptor, 2)
        try:
            get_hub().wait(watcher)
        finally:
            watcher.close()
