# SPDX-License-Identifier: Apache-2.0
"""For tests of actors and Directors, the project's own and yours.

`drive` runs one actor alone, `running` a whole Director; `VirtualClock` is time that a test moves, `wait_until` waits
for a condition. All of it works with every test runner, and with the standard library patched or not. The fixtures for
pytest are in ``pytest_compysition``, a module of its own, so that this one knows no test runner.
"""

from compysition.testing.actors import Collector, Handler
from compysition.testing.clock import VirtualClock
from compysition.testing.drive import Kit, drive
from compysition.testing.http import HttpAnswer, http_call, http_event
from compysition.testing.running import assert_conserved, describe, ended, letters, running, stop
from compysition.testing.waiting import all_stacks, settle, wait_until
from compysition.testing.watch import Watch

__all__ = [
    "Collector",
    "Handler",
    "HttpAnswer",
    "Kit",
    "VirtualClock",
    "Watch",
    "all_stacks",
    "assert_conserved",
    "describe",
    "drive",
    "ended",
    "http_call",
    "http_event",
    "letters",
    "running",
    "settle",
    "stop",
    "wait_until",
]
