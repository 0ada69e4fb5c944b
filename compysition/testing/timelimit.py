# SPDX-License-Identifier: Apache-2.0
"""`TimeLimit`: ends a test that hangs, in whatever greenlet it is stuck, and shows all stacks.

It needs SIGALRM and the main thread. The plugin ``pytest_compysition`` puts it in the place of pytest-timeout's own
timer.
"""

import faulthandler
import io
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import greenlet
from gevent import get_hub, util

#: Seconds between attempts to end a test whose time is over.
INSIST_S = 1.0
#: Seconds after which a test that none of them could end takes the whole process with it.
LAST_RESORT_S = 30.0
#: A leak of greenlets should not write gigabytes.
MAX_STACK_LINES = 3000


class TimeLimit:
    """Raises in the greenlet that makes it when its time is over.

    A handler of SIGALRM that raises does so where the signal happens to be handled. With greenlets that can be one that
    has nothing to do with the wait: then that one dies and the test waits on. Here the error goes to the greenlet that
    runs the test.

    Args:
        what: Whose time it is, for the message.
        timeout_s: Real seconds.
        make_error: Makes the error of a text; of a class that code under test does not catch.
        last_resort_fd: A descriptor on which the interpreter writes the stacks of all threads before it ends the
            process, when the test does not even end by that error; None: it never does.
    """

    def __init__(
        self, what: str, timeout_s: float, make_error: Callable[[str], BaseException], last_resort_fd: int | None = None
    ) -> None:
        self._what = what
        self._timeout_s = timeout_s
        self._make_error = make_error
        self._runner = greenlet.getcurrent()
        self._wake_up: Any = None
        self._is_due = False
        self._old_handler = signal.signal(signal.SIGALRM, self._on_alarm)
        signal.setitimer(signal.ITIMER_REAL, timeout_s, INSIST_S)
        if last_resort_fd is not None:
            # Works without the interpreter's help: for code that never returns to it.
            faulthandler.dump_traceback_later(timeout_s + LAST_RESORT_S, exit=True, file=last_resort_fd)

    def cancel(self) -> None:
        """Call it off; what can hang from here on is bounded by the last resort."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._old_handler)
        if self._wake_up is not None:
            self._wake_up.stop()

    @staticmethod
    def cancel_last_resort() -> None:
        """Let the process live."""
        faulthandler.cancel_dump_traceback_later()

    def _on_alarm(self, _signal: int, _frame: FrameType | None) -> None:
        __tracebackhide__ = True
        text = f"{self._what}: not done after {self._timeout_s:g} s"
        is_first, self._is_due = not self._is_due, True
        if is_first:
            print(f"\n{'+' * 40} {text}\n{_run_info()}\n{'+' * 40}", file=sys.stderr)
        if greenlet.getcurrent() is self._runner:
            raise self._make_error(text)
        if is_first:
            # The runner waits, directly or not, for the hub.
            self._wake_up = get_hub().loop.run_callback(self._runner.throw, self._make_error(text))
        else:
            # The hub did not get there: whoever runs now does not let go.
            raise self._make_error(text)


def _run_info() -> str:
    """The stacks of all threads and greenlets."""
    info = io.StringIO()
    util.print_run_info(file=info)
    lines = info.getvalue().splitlines()
    if len(lines) > MAX_STACK_LINES:
        lines[MAX_STACK_LINES:] = [f"… {len(lines) - MAX_STACK_LINES} more lines"]
    return "\n".join(lines)
