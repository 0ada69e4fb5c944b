# SPDX-License-Identifier: Apache-2.0
"""The process's signals while a Director blocks in `start`.

Handlers only set a flag and wake the loop; the second SIGTERM or SIGINT ends the process from the handler itself, so
that it works however the first one fares. What was there before is put back. Read next: `director`.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Signals:
    """Handlers for SIGTERM, SIGINT and SIGUSR1, and for SIGUSR2 if somebody has files to open anew.

    Args:
        on_stop: Called in the handler of the first stop signal with its name; must be safe there.
        report: What to print before the second one ends the process.
        stacks: What SIGUSR1 prints.
        on_reopen: Called in the handler of SIGUSR2; must be safe there. None leaves that signal alone, and so does a
            handler that the script has set.
    """

    def __init__(
        self,
        *,
        on_stop: Callable[[str], None],
        report: Callable[[], str],
        stacks: Callable[[], str],
        on_reopen: Callable[[], None] | None = None,
    ) -> None:
        self._on_stop = on_stop
        self._report = report
        self._stacks = stacks
        self._on_reopen = on_reopen
        self._former: dict[int, Any] = {}
        self._has_stopped = False

    def install(self) -> None:
        """Set the handlers; in any other thread than the main one this is impossible, and nothing is done."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in STOP_SIGNALS:
            self._former[number] = signal.signal(number, self._stop)
        self._former[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._print_stacks)
        if self._on_reopen is not None and signal.getsignal(signal.SIGUSR2) is signal.SIG_DFL:
            self._former[signal.SIGUSR2] = signal.signal(signal.SIGUSR2, self._reopen)

    def remove(self) -> None:
        """Put back what was there before."""
        if signal.SIGUSR2 in self._former and signal.getsignal(signal.SIGUSR2) != self._reopen:
            # Somebody has taken it meanwhile.
            del self._former[signal.SIGUSR2]
        for number, former in self._former.items():
            # None: it had been set by C code, and Python cannot put that back.
            signal.signal(number, signal.SIG_DFL if former is None else former)
        self._former.clear()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self._has_stopped:
            _write(f"{_clear()}{name} again: ending at once\n{self._report()}\n")
            os._exit(128 + number)
        self._has_stopped = True
        if _is_terminal():
            _write(f"{_clear()}{name}: stopping; once more ends at once\n")
        self._on_stop(name)

    def _reopen(self, number: int, frame: FrameType | None) -> None:
        assert self._on_reopen is not None
        self._on_reopen()

    def _print_stacks(self, number: int, frame: FrameType | None) -> None:
        _write(self._stacks())


def _is_terminal() -> bool:
    return os.isatty(2) and os.environ.get("TERM") != "dumb"


def _clear() -> str:
    # The terminal has written ^C into the line, and perhaps there was something before.
    return "\r\x1b[K" if _is_terminal() else ""


def _write(text: str) -> None:
    # Straight to the descriptor: the buffered stream may be the very thing that the handler has interrupted.
    try:
        os.write(sys.stderr.fileno(), text.encode(errors="backslashreplace"))
    except (OSError, ValueError, AttributeError):
        return  # No standard error to print to: nothing more can be done from inside a signal handler.
