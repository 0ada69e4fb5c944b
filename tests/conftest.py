# SPDX-License-Identifier: Apache-2.0
"""Which tests belong to this process, and what happens when a test takes too long.

Patching the standard library is for a whole process, so the suite runs twice: with plain ``pytest``, and as
``python -m gevent.monkey --module pytest``. Each test is taken by the run that fits its marker, ``patched`` or
``unpatched`` or both; without one, ``tests/integration`` is patched (its clients and servers share one process) and
everything else is not. ``scripts/test`` does both runs.
"""

import faulthandler
import io
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Protocol

import gevent
import greenlet
import hypothesis
import pytest
from gevent import monkey, util

TESTS = Path(__file__).parent
#: Directories whose tests are ``patched`` unless they say otherwise.
PATCHED_BY_DEFAULT = ("integration",)
#: Seconds between attempts to end a test whose time is over.
INSIST_S = 1.0
#: Seconds after which a test that none of them could end takes the whole run with it.
LAST_RESORT_S = 30.0
#: A leak of greenlets should not write gigabytes.
MAX_STACK_LINES = 3000

# Machines are shared: how long one example takes says nothing. And a failure must come back when it is looked for.
hypothesis.settings.register_profile("compysition", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("compysition")


# ---- which tests ------------------------------------------------------------------------------------------------


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    mode = "patched" if monkey.is_module_patched("socket") else "unpatched"
    taken: list[pytest.Item] = []
    left: list[pytest.Item] = []
    for item in items:
        marked = {marker.name for marker in item.iter_markers()} & {"patched", "unpatched"}
        if not marked:
            place = item.path.relative_to(TESTS).parts[0]
            marked = {"patched" if place in PATCHED_BY_DEFAULT else "unpatched"}
        (taken if mode in marked else left).append(item)
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = taken


# ---- the time limit ---------------------------------------------------------------------------------------------


class TimeSettings(Protocol):
    """What pytest-timeout knows about a test: ini, command line and ``@pytest.mark.timeout(seconds)``."""

    timeout: float | None


class TimeLimit:
    """Ends one test when its time is over, in whatever greenlet it is stuck, and shows all stacks.

    pytest-timeout raises where the signal happens to be handled. With greenlets that can be one that has nothing to do
    with the wait: then that one dies and the test waits on. Here the error goes to the greenlet that runs the tests.
    """

    def __init__(self, item: pytest.Item, timeout_s: float) -> None:
        self._item = item
        self._timeout_s = timeout_s
        self._runner = greenlet.getcurrent()
        self._wake_up: object | None = None
        self._is_due = False
        self._old_handler = signal.signal(signal.SIGALRM, self._on_alarm)
        signal.setitimer(signal.ITIMER_REAL, timeout_s, INSIST_S)
        # Works without the interpreter's help: for code that never returns to it.
        faulthandler.dump_traceback_later(timeout_s + LAST_RESORT_S, exit=True, file=terminal_fd)

    def cancel(self) -> None:
        """Call it off; what can hang from here on is bounded by the last resort."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._old_handler)
        if self._wake_up is not None:
            self._wake_up.stop()  # type: ignore[attr-defined]  # a callback of the loop; its class has no public name

    def _on_alarm(self, _signal: int, _frame: FrameType | None) -> None:
        __tracebackhide__ = True
        text = f"{self._item.nodeid}: not done after {self._timeout_s:g} s"
        is_first, self._is_due = not self._is_due, True
        if is_first:
            stacks_io = io.StringIO()
            util.print_run_info(file=stacks_io)
            lines = stacks_io.getvalue().splitlines()
            dropped = len(lines) - MAX_STACK_LINES
            stacks = "\n".join(lines[:MAX_STACK_LINES]) + (f"\n… {dropped} more lines" if dropped > 0 else "")
            print(f"\n{'+' * 40} {text}\n{stacks}\n{'+' * 40}", file=sys.stderr)
        if greenlet.getcurrent() is self._runner:
            pytest.fail(text, pytrace=True)
        if is_first:
            # The runner waits, directly or not, for the hub.
            self._wake_up = gevent.get_hub().loop.run_callback(self._runner.throw, pytest.fail.Exception(text))
        else:
            # The hub did not get there: whoever runs now does not let go.
            raise pytest.fail.Exception(text)


time_limit = pytest.StashKey[TimeLimit]()
#: Set before pytest captures the descriptor.
terminal_fd = 2


def pytest_configure() -> None:
    global terminal_fd  # noqa: PLW0603  # the last resort has nobody to ask
    terminal_fd = os.dup(2)


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: TimeSettings) -> bool:
    """Replace the timer of pytest-timeout. Runs in the greenlet of the tests, before the first fixture."""
    if settings.timeout and settings.timeout > 0:
        item.stash[time_limit] = TimeLimit(item, settings.timeout)
    return True


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_timeout_cancel_timer(item: pytest.Item) -> bool:
    """Runs after the last fixture, and as soon as a test has failed."""
    limit = item.stash.get(time_limit, None)
    if limit is not None:
        limit.cancel()
        del item.stash[time_limit]
    return True


def pytest_runtest_logfinish() -> None:
    faulthandler.cancel_dump_traceback_later()


def pytest_enter_pdb() -> None:
    faulthandler.cancel_dump_traceback_later()
