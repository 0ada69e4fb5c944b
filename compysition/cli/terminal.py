# SPDX-License-Identifier: Apache-2.0
"""Lines for people, on standard error: standard output belongs to the data."""

import os
import sys

from compysition.cli.arguments import EXIT_USAGE


def say(text: str) -> None:
    """Print one line, or several."""
    print(text, file=sys.stderr, flush=True)


def fail(text: str, code: int = EXIT_USAGE) -> int:
    """Say why it cannot go on. Returns the exit code."""
    say(f"compysition: {text}")
    return code


def put(text: str) -> None:
    """Write data to standard output, as UTF-8 whatever the locale is. A reader that has gone is nobody's mistake."""
    sys.stdout.flush()
    descriptor = sys.stdout.fileno()
    rest = text.encode("utf-8", "backslashreplace")
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except BrokenPipeError:
        pass
