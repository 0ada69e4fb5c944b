# SPDX-License-Identifier: Apache-2.0
"""The process in which a script is looked at; `isolated` starts it and reads what it leaves behind.

It runs as a file of its own, with the path of who asks. Two watchdogs hold its time. A thread names the line at which
the script waits or turns, and leaves an answer. If the script lets no thread run, because it blocks in C with Python's
lock in hand, `faulthandler` writes the stacks without that lock and ends the process.
"""

import _thread
import faulthandler
import json
import os
import sys
from typing import IO, Any

#: Seconds by which the second watchdog comes behind the first.
BEHIND_S = 2.0


def main(order: dict[str, Any]) -> None:
    """Read the script, write what was found, and end the process: nothing that the script has started outlives it."""
    sys.path[:] = order["path"]
    # What follows needs threads that are threads, also where gevent makes them greenlets.
    start_thread, make_lock = _thread.start_new_thread, _thread.allocate_lock
    if order["is_patched"]:
        from gevent import monkey

        monkey.patch_all()
    from compysition.cli.inspector import Inspector

    result = os.fdopen(order["result"], "wb")
    for descriptor in (order["result"], order["stacks"]):
        # What the script starts does not get them.
        os.set_inheritable(descriptor, False)
    inspector = Inspector(order)
    is_over, is_written = make_lock(), make_lock()
    is_over.acquire()

    def watch() -> None:
        is_over.acquire(timeout=order["timeout_s"])
        if is_written.acquire(blocking=False):
            faulthandler.cancel_dump_traceback_later()
            write(result, inspector.answer_of_watchdog(order["timeout_s"]))

    start_thread(watch, ())
    faulthandler.dump_traceback_later(order["timeout_s"] + BEHIND_S, exit=True, file=order["stacks"])
    inspector.read()
    faulthandler.cancel_dump_traceback_later()
    if is_written.acquire(blocking=False):
        write(result, inspector.answer())
    # The watchdog is about to answer, and ends the process.
    is_written.acquire()


def write(result: IO[bytes], answer: dict[str, Any]) -> None:
    """Leave `answer` behind and end the process."""
    result.write(json.dumps(answer).encode())
    result.flush()
    os._exit(0)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
