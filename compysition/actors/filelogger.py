# SPDX-License-Identifier: Apache-2.0
"""`FileLogger`: one line per event in a file, written and synced beside the hub.

What a file does, rotation above all, stands in `compysition.logfile`, and when lines are written in
`compysition.actors.linewriter`; here is only how the two meet: which lines are in a thread's hands, what becomes of
their events, and how the file is opened anew from outside.
"""

import os
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from gevent import get_hub

from compysition.actors.linewriter import LineWriter
from compysition.arguments import FLAG, PATH, TEXT, above, checked, number, one_of, whole
from compysition.backoff import Backoff
from compysition.errors import ConfigurationError
from compysition.logfile import Block, LogFile


class FileLogger(LineWriter):
    """Appends ``[timestamp ]prefix + data`` to a file as one line per event, and sends the event on.

    Lines are written once per chunk of events, in a thread. An event goes on when its line is in the file, and with
    ``sync="chunk"`` on the disk: while one chunk is synced the next one gathers, so the busier it is, the fewer syncs
    an event costs. When the Director stops, everything is written and synced before it reports.

    If the file cannot be written (a full disk, one that is read-only) the events whose lines are not in it fail with
    `OSError`: they take the error outboxes or become dead letters. With `retry_s` the write is tried again first, and
    until then nothing is taken from the inbox. Half a line that a failure left is ended before the next one.

    The file may be moved away at any time, as logrotate does it: each chunk goes to what the path names. So that the
    old file is let go at once, `reopen` may be called; SIGUSR2 does it while `Director.start` blocks, unless the script
    has a handler of its own for it. Each file wants one `FileLogger`.

    Args:
        name: Its name.
        path: The file. Its directory has to exist.
        complete: Write the whole event, ids and all, instead of its data.
        prefix: In front of the data.
        timestamp: Write the local time, to the microsecond, in square brackets.
        max_bytes: Begin a new file before this one would get larger; only a single line may be.
        max_age_s: Begin a new file in each period of so many seconds, counted from 1970, UTC: 86 400 is midnight. The
            file changes when the first line of the period comes.
        keep_files: How many old files are kept, as ``path.1`` (the newest) to ``path.N``; the one behind is deleted.
        sync: ``chunk``: an event goes on when its line is on the disk. ``stop``: when it is with the operating system,
            which syncs when the file is changed and at the stop.
        retry_s: How long a write that fails is tried again, with growing pauses, in seconds.

    Raises:
        ConfigurationError: An argument makes no sense. If the file cannot be opened, the Director does not start.

    >>> import tempfile
    >>> from compysition import Director
    >>> from compysition.actors import FileLogger, Source
    >>> directory = tempfile.TemporaryDirectory()
    >>> director = Director()
    >>> source = director.register_actor(Source, "source", ["a", "b"])
    >>> log = director.register_actor(FileLogger, "log", f"{directory.name}/orders.log", prefix="order ")
    >>> director.connect_queue(source, log)
    >>> director.start(until_idle=True).ok
    True
    >>> print(log.path.read_text(), end="")
    order a
    order b
    >>> directory.cleanup()
    """

    _block_bytes: ClassVar[int] = 65_536

    @checked
    def __init__(
        self,
        name: str,
        path: Annotated[str | os.PathLike[str], PATH],
        *,
        complete: Annotated[bool, FLAG] = False,
        prefix: Annotated[str, TEXT] = "",
        timestamp: Annotated[bool, FLAG] = False,
        max_bytes: Annotated[int | None, whole(1)] = None,
        max_age_s: Annotated[float | None, above(0, "seconds")] = None,
        keep_files: Annotated[int, whole(1)] = 10,
        sync: Annotated[Literal["chunk", "stop"], one_of("chunk", "stop")] = "chunk",
        retry_s: Annotated[float, number(0, "seconds")] = 0.0,
        blocking_consume: bool = False,
    ) -> None:
        super().__init__(name, complete=complete, prefix=prefix, timestamp=timestamp, blocking_consume=blocking_consume)
        # Absolute: whoever changes the working directory later does not move the log.
        self.path = Path(path).absolute()
        self.retry_s = retry_s
        self._file = LogFile(
            self.path,
            max_bytes=max_bytes,
            max_age_s=max_age_s,
            keep_files=keep_files,
            is_synced=sync == "chunk",
        )
        #: What a thread writes at this moment, or has written without anybody having looked: whoever is killed while
        #: he waits for the thread finds it here.
        self._block: Block | None = None
        self._reopener: Any = None
        self._has_warned_of_rotation = False

    def reopen(self) -> None:
        """Open the file anew, soon. May be called from anywhere: other threads, signal handlers."""
        self._file.is_stale = True
        watcher = self._reopener
        if watcher is not None:
            watcher.send()

    def pre_hook(self) -> None:
        """Open the file, and write what a handler that was killed has left."""
        try:
            self.offload(self._file.follow, self._hosted.clock.wall())
        except OSError as error:
            remedy = "; make the directory, or give another path" if isinstance(error, FileNotFoundError) else ""
            raise ConfigurationError(f"{self.name!r} cannot open its file: {error}{remedy}") from error
        self._reopener = get_hub().loop.async_(ref=False)
        self._reopener.start(lambda: self.background(self._follow, restart=False))
        super().pre_hook()

    def post_hook(self) -> None:
        """Sync and close the file."""
        watcher, self._reopener = self._reopener, None
        if watcher is not None:
            watcher.close()
        n_pending = len(self._pending)
        super().post_hook()
        if len(self._pending) < n_pending:
            # Its events have ended, killed at the stop's deadline: nobody will ask what became of it.
            self._block = None
        self.offload(self._file.close)

    def _reopen(self) -> None:
        self.reopen()

    def _follow(self) -> None:
        try:
            self.offload(self._file.follow, self._hosted.clock.wall())
        except OSError as error:
            self.logger.error("%s cannot open its file, and tries again with the next line: %s", self.name, error)

    def _write_block(self) -> None:
        block = self._block = self._block or Block(self._next_lines())
        error = self._append(block)
        self._block = None
        self._mark_written(block.confirmed)
        self._let_go()
        if error is not None:
            self._fail_first(sum(1 for end in block.ends if end > block.confirmed), error)

    def _append(self, block: Block) -> OSError | None:
        """Have a thread write `block`; again, if that fails and there is time. Returns what went wrong at last."""
        clock, backoff = self._hosted.clock, Backoff()
        give_up_at = clock.monotonic() + self.retry_s
        attempt = 0
        while True:
            try:
                self.offload(self._file.append, block, clock.wall())
            except OSError as error:
                attempt += 1
                delay_s = backoff.delay_s(attempt, clock.rng)
                if clock.monotonic() + delay_s > give_up_at:
                    return error
                if attempt == 1:
                    self.logger.warning("%s cannot write, and tries for %g s: %s", self.name, self.retry_s, error)
                if not self.sleep(delay_s):
                    return error
            else:
                self._warn_of_rotation()
                return None

    def _warn_of_rotation(self) -> None:
        error = self._file.rotation_error
        if error is not None and not self._has_warned_of_rotation:
            self.logger.error("%s cannot begin a new file, so this one goes on: %s", self.name, error)
        self._has_warned_of_rotation = error is not None
