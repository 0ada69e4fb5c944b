# SPDX-License-Identifier: Apache-2.0
"""`STDOUT`: one line per event on standard output, without ever holding the hub.

A pipe whose reader is slow blocks the process that writes to it, and making the descriptor non-blocking would change it
for every process that shares it. So blocks of at most 4 096 bytes are written behind an I/O watcher, where the system
allows it through a descriptor of the actor's own, which may be non-blocking.
"""

import errno
import os
import stat
import sys
from contextlib import suppress
from typing import Annotated, ClassVar

from gevent import get_hub
from gevent.lock import BoundedSemaphore

from compysition.actors.linewriter import LineWriter
from compysition.arguments import FLAG, TEXT, checked

#: What a writable pipe takes without blocking (PIPE_BUF on Linux).
BLOCK_BYTES = 4_096
#: Standard output is one for the process, so is its lock: a pipe with room for one block is writable for everybody.
_DESCRIPTOR_LOCK = BoundedSemaphore()


class STDOUT(LineWriter):
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

    _block_bytes: ClassVar[int] = BLOCK_BYTES

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
        super().__init__(name, complete=complete, prefix=prefix, timestamp=timestamp, blocking_consume=blocking_consume)
        self._twin: int | None = None
        self._twin_key: tuple[int, int, int] | None = None

    def post_hook(self) -> None:
        """Close what was opened beside standard output, and forget lines whose events have ended."""
        super().post_hook()
        self._close_twin()

    def _encoding(self) -> str:
        return getattr(sys.stdout, "encoding", None) or "utf-8"

    def _write_block(self) -> None:
        try:
            # Other actors write to the same place: each gets whole lines out.
            with _DESCRIPTOR_LOCK:
                self._write_lines(b"".join(self._next_lines()))
        except OSError as error:
            # Those whose lines are out go on; for all others the place is gone.
            self._let_go()
            self._fail_first(len(self._pending), error)

    def _write_lines(self, lines: bytes) -> None:
        """Write `lines` to their end."""
        written = 0
        try:
            while written < len(lines):
                written += self._write(lines[written : written + BLOCK_BYTES])
        finally:
            self._mark_written(written)

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
