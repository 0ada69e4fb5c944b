# SPDX-License-Identifier: Apache-2.0
"""The command line: ``compysition run script.py``. Read next: `run`.

Importing this imports nothing that a patch would come too late for.
"""

from compysition.cli.main import main

__all__ = ["main"]
