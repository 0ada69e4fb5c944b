# SPDX-License-Identifier: Apache-2.0
"""Log records as lines of the command line: for people, or as JSON. Read next: `terminal`."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compysition.cli.script import place_of
from compysition.cli.terminal import Terminal
from compysition.logs import LogEntry

_COLOURS = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red", "DEBUG": "dim"}


class TerminalHandler(logging.Handler):
    """Writes each record as one line; the traceback behind it if it `is_verbose`, else where it was raised.

    Args:
        terminal: Where to.
        script: The script that runs, to tell its lines from others'.
        is_verbose: Whether tracebacks are shown. In JSON they always are.
    """

    def __init__(self, terminal: Terminal, script: Path, *, is_verbose: bool) -> None:
        super().__init__()
        self._terminal = terminal
        self._script = script
        self._is_verbose = is_verbose
        self._has_hinted = is_verbose

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        entry = LogEntry.of(record)
        if self._terminal.is_json:
            fields = {"level": entry["level"], "logger": entry["name"], "message": entry["message"]}
            fields |= {key: entry[key] for key in ("actor", "event_id", "traceback") if entry[key]}
            self._terminal.write_json(fields, entry["time"])
            return
        level = entry["level"]
        colour = _COLOURS.get(level)
        text = f"{entry['name']}: {entry['message']}"
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and self._is_verbose:
            text += f"\n{entry['traceback'].rstrip()}"
        elif error is not None:
            place = place_of(self._script, error)
            hint = "" if self._has_hinted else "-v shows tracebacks"
            self._has_hinted = True
            words = "; ".join(filter(None, (place, hint)))
            text += f" ({words})" if words else ""
        self._terminal.write_marked(level, colour, text)


@contextmanager
def logging_to(terminal: Terminal, script: Path, verbosity: int) -> Iterator[None]:
    """Log records go to the terminal inside: warnings, with a `verbosity` of 1 what happens, with 2 everything."""
    root = logging.getLogger()
    handler = TerminalHandler(terminal, script, is_verbose=verbosity > 0)
    level = root.level
    root.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbosity, 2)])
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
