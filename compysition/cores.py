# SPDX-License-Identifier: Apache-2.0
"""How many processors this process may use: more threads than that only quarrel about them.

Must not know anything else. Read next: `event`.
"""

import os


def usable_cores() -> int:
    """Processors that this process may run on; all of the machine's where the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
