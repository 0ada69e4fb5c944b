# SPDX-License-Identifier: Apache-2.0
"""Lines for people, on standard error: standard output belongs to the data.

On a terminal there is colour and, while a stop takes its time, a line that is written anew; in pipes there is neither.
`NO_COLOR` and `FORCE_COLOR` are respected. With `is_json` every line is a JSON object. Read next: `run`.
"""

import json
import os
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, TextIO

from compysition.cli.arguments import EXIT_USAGE

_CODES: Final = {"red": "31", "yellow": "33", "green": "32", "dim": "2"}
#: The cursor goes to the begin of the line, and what was there goes away.
_CLEAR: Final = "\r\x1b[K"
#: What would speak to a terminal instead of to who reads it; a line may hold data of events.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Terminal:
    """Where the command line speaks.

    Args:
        stream: Standard error, unless a test says otherwise.
        is_json: Whether every line is a JSON object.
        is_quiet: Whether nothing is said that is no trouble.
        is_shared: Whether standard output goes to a terminal as well; None: look.
        environment: The variables of the process.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        is_json: bool = False,
        is_quiet: bool = False,
        is_shared: bool | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.is_json = is_json
        self.is_quiet = is_quiet
        is_terminal = self.stream is not None and self.stream.isatty() and environment.get("TERM") != "dumb"
        #: Whether a line may be written anew.
        self.is_live = is_terminal and not is_json
        self.has_colour = not is_json and _has_colour(environment, is_terminal)
        self._is_shared = (sys.stdout is not None and sys.stdout.isatty()) if is_shared is None else is_shared
        self._progress = ""

    def say(self, text: str, level: str = "INFO", **fields: object) -> None:
        """Print a line, or several. `fields` are for JSON only."""
        if self.is_json:
            self.write_json({"level": level, "logger": "compysition.cli", "message": text, **fields})
        else:
            self.write(text)

    def fail(self, text: str, code: int = EXIT_USAGE, **fields: object) -> int:
        """Say why it cannot go on. Returns the exit code. `fields` are for JSON only."""
        if self.is_json:
            self.say(text, "ERROR", exit_code=code, **fields)
        else:
            self.write_marked("compysition:", "red", text)
        return code

    def paint(self, text: str, colour: str) -> str:
        """The text in that colour, if there are colours."""
        return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if self.has_colour else text

    def progress(self, text: str) -> None:
        """Show this in the line that is written anew; empty: take it away. Nothing happens where there is none."""
        if self.is_live and text != self._progress:
            columns = _columns(self.stream)
            shown = _harmless(text)[: columns - 1]
            if self._is_shared:
                # What actors print meanwhile begins where the cursor is, and is not to be read together with this.
                shown = shown.rjust(columns - 1)
            self._put(f"{_CLEAR}{shown}\r")
            self._progress = text

    def write(self, text: str) -> None:
        """Write lines as they are, but for what would steer the terminal."""
        self._line(_harmless(text))

    def write_marked(self, mark: str, colour: str | None, text: str) -> None:
        """The same, behind a word in a colour."""
        self._line(f"{self.paint(mark, colour) if colour else mark} {_harmless(text)}")

    def _line(self, text: str) -> None:
        clear = _CLEAR if self._progress else ""
        self._progress = ""
        self._put(f"{clear}{text}\n")

    def write_json(self, fields: Mapping[str, object], time: float | None = None) -> None:
        """Write an object with its time, in seconds since 1970; None: now."""
        at = datetime.now(UTC) if time is None else datetime.fromtimestamp(time, UTC)
        stamp = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._put(json.dumps({"time": stamp, **fields}, ensure_ascii=False, default=str) + "\n")

    def _put(self, text: str) -> None:
        if self.stream is None:
            return  # There is no standard error.
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):
            return  # Nobody reads any more: there is nobody to tell, and what runs should go on.


def say(text: str) -> None:
    """Print one line, or several."""
    Terminal().say(text)


def fail(text: str, code: int = EXIT_USAGE) -> int:
    """Say why it cannot go on. Returns the exit code."""
    return Terminal().fail(text, code)


def put(text: str) -> None:
    """Write data to standard output, as UTF-8 whatever the locale is. A reader that has gone is nobody's mistake."""
    if sys.stdout is None:
        return  # it was closed before we began
    sys.stdout.flush()
    descriptor = sys.stdout.fileno()
    try:
        # Names of files that are no text here come out as the bytes they were.
        rest = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        rest = text.encode("utf-8", "backslashreplace")
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except BrokenPipeError:
        pass


def _has_colour(environment: Mapping[str, str], is_terminal: bool) -> bool:
    # https://no-color.org: any text that is not empty.
    if environment.get("NO_COLOR"):
        return False
    return is_terminal or environment.get("FORCE_COLOR", "0") not in ("", "0")


def _harmless(text: str) -> str:
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _columns(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80
