# SPDX-License-Identifier: Apache-2.0
"""Lines for people, on standard error: standard output belongs to the data."""

import sys

from compysition.cli.arguments import EXIT_USAGE


def say(text: str) -> None:
    """Print one line, or several."""
    print(text, file=sys.stderr, flush=True)


def fail(text: str, code: int = EXIT_USAGE) -> int:
    """Say why it cannot go on. Returns the exit code."""
    say(f"compysition: {text}")
    return code
