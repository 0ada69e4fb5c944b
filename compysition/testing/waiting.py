# SPDX-License-Identifier: Apache-2.0
"""How a test waits for what is to happen, and what every greenlet is doing when it does not.

Always in real time, also beside a virtual clock. Must not know Directors. Read next: `clock`.
"""

import gc
import inspect
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from gevent import get_hub, getcurrent
from greenlet import greenlet

#: Seconds that a test waits for something that is to happen at once; generous, because machines are shared.
PATIENCE_S = 5.0
#: Seconds between two looks at a condition.
LOOK_S = 0.002
#: A leak of greenlets should not write gigabytes.
MAX_STACK_LINES = 300


def wait_until(condition: Callable[[], object], timeout_s: float = PATIENCE_S, *, what: str = "") -> None:
    """Let other greenlets run until `condition` holds.

    Args:
        condition: Looked at about every 2 ms; it must not wait.
        timeout_s: Real seconds until this gives up.
        what: What is waited for, for the message; by default the condition's own source.

    Raises:
        AssertionError: it did not hold in time. The text says what was waited for and shows all stacks.
    """
    __tracebackhide__ = True
    deadline = time.perf_counter() + timeout_s
    while not condition():
        if time.perf_counter() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what or describe(condition)}\n{all_stacks()}")
        gevent.sleep(LOOK_S)


def settle(timeout_s: float = PATIENCE_S) -> None:
    """Let other greenlets run until none of them can go on without time, a socket or a thread.

    What is ready when this is called is handled, and all that comes of it, also what goes through many greenlets.

    Args:
        timeout_s: Real seconds until this gives up.

    Raises:
        AssertionError: something goes on and on. The text shows all stacks.
    """
    __tracebackhide__ = True
    with patience("everything to settle", timeout_s):
        idle()


def idle() -> None:
    """As `settle`, without an end."""
    # An idle watcher of the lowest priority is called when no callback, no timer that is due and no socket that is
    # ready is left: libev looks at it last.
    gevent.idle(get_hub().loop.MINPRI)  # type: ignore[attr-defined]  # the stubs do not know it


@contextmanager
def patience(what: str, timeout_s: float = PATIENCE_S) -> Iterator[None]:
    """Bound a block that waits for `what` to `timeout_s` real seconds.

    Raises:
        AssertionError: it took longer. The text shows all stacks.
    """
    __tracebackhide__ = True
    timeout = gevent.Timeout.start_new(timeout_s)
    try:
        yield
    except gevent.Timeout as reached:
        if reached is not timeout:
            raise
        raise AssertionError(f"waited {timeout_s:g} s for {what}\n{all_stacks()}") from None
    finally:
        timeout.close()


def all_stacks() -> str:
    """The stacks of all greenlets that wait, but for the one that asks; at most `MAX_STACK_LINES` lines."""
    lines: list[str] = []
    for candidate in gc.get_objects():
        if isinstance(candidate, greenlet) and not candidate.dead and candidate is not getcurrent():
            lines += describe_greenlet(candidate).splitlines()
    if len(lines) > MAX_STACK_LINES:
        lines[MAX_STACK_LINES:] = [f"… {len(lines) - MAX_STACK_LINES} more lines"]
    return "\n".join(lines)


def describe_greenlet(candidate: Any) -> str:
    """A greenlet, and its stack below it."""
    # Not started yet, it has none.
    frame = candidate.gr_frame
    return f"{candidate!r}\n" + ("".join(traceback.format_stack(frame)) if frame is not None else "  (no frame)\n")


def describe(condition: Callable[[], object]) -> str:
    """The condition in its own words: the lines of source that make it, and where they stand."""
    try:
        lines, number = inspect.getsourcelines(condition)
        file = inspect.getsourcefile(condition)
    except (OSError, TypeError):  # typed in, built in, or a callable object
        return repr(condition)
    source = " ".join(line.strip() for line in lines)
    return f"{source if len(source) <= 200 else source[:197] + '...'}  ({file}:{number})"
