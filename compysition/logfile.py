# SPDX-License-Identifier: Apache-2.0
"""A file that lines are appended to: written in one piece, synced, rotated, and opened anew when somebody moved it.

`LogFile` is plain blocking calls, made for a thread: whoever asks waits for whoever is at it. A block of lines knows
how much of it is out, so that asking again, after a failure or a kill, goes on where it stopped and writes nothing
twice. Must not know actors or events. Read next: `compysition.actors.filelogger`.
"""

import errno
import math
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from gevent import monkey

#: How files are opened: what others append in between is left alone.
_FLAGS: Final = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY
#: When a new file could not be begun, this one goes on for so many seconds before it is tried again.
ROTATE_AGAIN_S: Final = 60.0

P = ParamSpec("P")
T = TypeVar("T")


class Block:
    """Lines that are written together.

    Args:
        lines: The lines, each with its end.

    Attributes:
        data: All of them.
        written: Bytes of it that are in the file.
        confirmed: Bytes of whole lines that are in the file and, if that is asked for, on the disk.
    """

    __slots__ = ("confirmed", "data", "ends", "opening", "written")

    def __init__(self, lines: Sequence[bytes]) -> None:
        self.data = b"".join(lines)
        self.ends = list(accumulate(map(len, lines)))
        self.written = 0
        self.confirmed = 0
        #: At which opening of the file it was written.
        self.opening = 0

    @property
    def whole(self) -> int:
        """Bytes of lines that are whole in the file."""
        return max((end for end in self.ends if end <= self.written), default=0)

    def end_within(self, room: float) -> int:
        """Where to stop, so that not more than `room` bytes are written: behind a line, and at least one."""
        left = [end for end in self.ends if end > self.written]
        return max((end for end in left if end - self.written <= room), default=left[0])


class LogFile:
    """A file of lines.

    Args:
        path: Where it lies.
        max_bytes: A new file is begun before this one would get larger; only a single line may be.
        max_age_s: A new file is begun in each period of so many seconds, counted from 1970, UTC: 86 400 is midnight.
        keep_files: How many old ones are kept, as ``path.1`` (the newest) to ``path.N``.
        is_synced: Whether a block is on the disk when `append` returns.
    """

    def __init__(
        self, path: Path, *, max_bytes: int | None, max_age_s: float | None, keep_files: int, is_synced: bool
    ) -> None:
        self.path = path
        #: Why the newest attempt to begin a new file failed; None if it did not.
        self.rotation_error: OSError | None = None
        #: Set from anywhere: the file is opened anew before anything else is written.
        self.is_stale = False
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._keep_files = keep_files
        self._is_synced = is_synced
        self._fd: int | None = None
        self._status: os.stat_result | None = None
        self._size = 0
        self._period = 0
        #: How often it was opened.
        self._opening = 0
        #: Whether it ends with half a line.
        self._is_torn = False
        self._has_failed_sync = False
        self._next_rotation = 0.0
        # A real lock: those who wait are threads.
        self._lock = monkey.get_original("_thread", "allocate_lock")()

    def follow(self, now: float) -> None:
        """Open the file if it is not open, or if its path names another one by now. `now`: seconds since 1970.

        Raises:
            OSError: it cannot be opened.
        """
        with self._lock:
            self._follow(now)

    def append(self, block: Block, now: float) -> None:
        """Write what of `block` is not written yet.

        Raises:
            OSError: something is wrong with the file; `block` says how far it came.
        """
        with self._lock:
            self._has_failed_sync = False
            try:
                self._follow(now)
                self._take_up(block)
                if self._max_age_s is not None and now // self._max_age_s > self._period:
                    self._rotate(now)
                    self._take_up(block)
                while block.written < len(block.data):
                    self._write_some(block, now)
                self._confirm(block)
            except OSError:
                self._is_torn = self._is_torn or block.whole < block.written
                if self._has_failed_sync:
                    # What the kernel has dropped nobody knows: it is written again.
                    block.written = block.confirmed
                else:
                    self._confirm(block)
                raise

    def close(self) -> None:
        """Sync it and close it.

        Raises:
            OSError: what was written may not be on the disk.
        """
        with self._lock:
            self._close()

    # ---- with the lock held -----------------------------------------------------------------------------------------

    def _follow(self, now: float) -> None:
        if self._fd is not None:
            there = None
            with suppress(FileNotFoundError):
                there = os.stat(self.path)  # noqa: PTH116 - one call for all there is to know
            known = self._status
            assert known is not None
            if there is not None and (there.st_dev, there.st_ino) == (known.st_dev, known.st_ino) and not self.is_stale:
                # What others appended or cut off counts too.
                self._size = there.st_size
                return
            self._close()
        self._open(now)

    def _open(self, now: float) -> None:
        is_new = True
        with suppress(FileNotFoundError):
            mode = os.stat(self.path).st_mode  # noqa: PTH116 - beside the other one
            is_new = False
            if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
                raise OSError(errno.EINVAL, f"a pipe or socket, where a file is wanted: {self.path}")
        self._fd = _named(self.path, os.open, self.path, _FLAGS, 0o666)
        self._opening += 1
        self.is_stale = False
        self._status = os.fstat(self._fd)
        self._size = self._status.st_size
        self._is_torn = self._is_regular() and _ends_within_a_line(self.path)
        if self._max_age_s is not None:
            # A file that is there already belongs to the period in which it was written last.
            self._period = int((min(self._status.st_mtime, now) if self._size else now) // self._max_age_s)
        if is_new and self._is_synced:
            self._sync_directory()

    def _sync_directory(self) -> None:
        """The name of a new file is on the disk only when its directory is. Not every file system can do that."""
        with suppress(OSError):
            directory = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def _take_up(self, block: Block) -> None:
        """Begin `block`, or go on with it, where the file ends."""
        if block.opening != self._opening:
            # Half a line that is in another file, or in this one before it was opened anew, is written once more.
            block.opening, block.written = self._opening, block.whole
        if self._is_torn and block.written == block.whole:
            assert self._fd is not None
            self._size += _named(self.path, os.write, self._fd, b"\n")
        self._is_torn = False

    def _write_some(self, block: Block, now: float) -> None:
        """Write lines of `block`, as many as this file may hold."""
        room = math.inf if self._max_bytes is None else self._max_bytes - self._size
        end = block.end_within(room)
        if end - block.written > room and self._size and block.written == block.whole:
            if self._rotate(now):
                self._take_up(block)
                end = block.end_within(self._max_bytes or math.inf)
            else:
                end = len(block.data)
        while block.written < end:
            assert self._fd is not None
            number = _named(self.path, os.write, self._fd, block.data[block.written : end])
            block.written += number
            self._size += number

    def _confirm(self, block: Block) -> None:
        if self._is_synced:
            self._sync()
        block.confirmed = block.whole

    def _sync(self) -> None:
        if self._is_regular():
            assert self._fd is not None
            try:
                _named(self.path, os.fsync, self._fd)
            except OSError:
                self._has_failed_sync = True
                # A second one on this descriptor would say that all is well.
                self._drop()
                raise

    def _close(self) -> None:
        if self._fd is not None:
            self._sync()
            self._drop()

    def _drop(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)

    def _rotate(self, now: float) -> bool:
        """Move this file aside and begin a new one. If that cannot be done, this one goes on: returns False."""
        if not self._is_regular() or now < self._next_rotation:
            return False
        try:
            for number in range(self._keep_files - 1, 0, -1):
                with suppress(FileNotFoundError):
                    os.replace(self._old(number), self._old(number + 1))  # noqa: PTH105 - beside os.open and os.write
            os.replace(self.path, self._old(1))  # noqa: PTH105
        except OSError as error:
            self.rotation_error = error
            # Each attempt moves the older files, so not with each block.
            self._next_rotation = now + ROTATE_AGAIN_S
            return False
        self.rotation_error = None
        self._close()
        self._open(now)
        return True

    def _old(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def _is_regular(self) -> bool:
        return self._fd is not None and self._status is not None and stat.S_ISREG(self._status.st_mode)


def _named(path: Path, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """What `function` returns; its error says which file it is about."""
    try:
        return function(*arguments, **named)
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror}: {path}") from error


def _ends_within_a_line(path: Path) -> bool:
    """Whether somebody was cut off there. A file that may not be read is taken for whole."""
    try:
        with path.open("rb") as file:
            if not file.seek(0, os.SEEK_END):
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:
        return False
