# SPDX-License-Identifier: Apache-2.0
"""Reading a script: what every command that needs its Director does in the same way. Read next: `run`.

A script is run as plain ``python script.py`` would run it, with a host that says what becomes of `Director.start`.
"""

import os
import runpy
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from compysition.director import Director
from compysition.errors import CompysitionError, StartError
from compysition.hosting import HOST, ScriptHost


class ScriptError(Exception):
    """There is no such script, or nothing in it that could be started. The text is one line."""


@dataclass(frozen=True)
class Reading:
    """What a script has left behind.

    Attributes:
        script: Where it is.
        directors: Those that are bound to names at its top level, in that order.
        exit: What it exited with by itself; None if it came to its end.
    """

    script: Path
    directors: Sequence[Director] = field(default=())
    exit: SystemExit | None = None

    def director_to_start(self) -> Director:
        """The one that is meant, if the script has started none.

        Raises:
            ScriptError: there is none, or more than one.
        """
        if not self.directors:
            raise ScriptError(f"{self.script.name} makes no Director: bind one to a name at the top level, or start it")
        if len(self.directors) > 1:
            number = len(self.directors)
            raise ScriptError(
                f"{self.script.name} makes {number} Directors and starts none: start the one that is meant"
            )
        return self.directors[0]


def find(script: str) -> Path:
    """The file of `script`.

    Raises:
        ScriptError: there is none; says which there are.
    """
    path = Path(script)
    if path.is_dir():
        raise ScriptError(f"{script!r} is a directory: name the script in it")
    if not path.is_file():
        others = sorted(str(other) for other in (path.parent if path.parent.is_dir() else Path()).glob("*.py"))
        raise ScriptError(
            f"there is no script {script!r}" + (f"; there are: {', '.join(others[:10])}" if others else "")
        )
    return path


@contextmanager
def hosted(host: ScriptHost) -> Iterator[None]:
    """What is started inside asks `host` first."""
    token = HOST.set(host)
    try:
        yield
    finally:
        HOST.reset(token)


def read(path: Path, arguments: Sequence[str] = ()) -> Reading:
    """Run the script, which is told `arguments`. The process then is that of the script: its arguments and its path.

    Raises:
        BaseException: whatever leaves the script, but for `SystemExit`.
    """
    sys.argv = [os.fspath(path), *arguments]
    # As plain ``python script.py`` does it: what lies beside the script can be imported.
    sys.path.insert(0, os.fspath(path.resolve().parent))
    try:
        names = runpy.run_path(os.fspath(path), run_name="__main__")
    except SystemExit as exit_:
        return Reading(path, exit=exit_)
    found = {id(value): value for value in names.values() if isinstance(value, Director)}
    return Reading(path, tuple(found.values()))


def explain(path: Path, error: Exception) -> str | None:
    """What left the script at `path`, in one line that says where; None for an error that only a traceback explains."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {error.msg}"
    if not isinstance(error, CompysitionError):
        return None
    number = line_of(path, error)
    notes = " ".join(getattr(error, "__notes__", ()))
    text = str(error) + (f" ({notes})" if notes else "")
    if isinstance(error, StartError) and error.__cause__ is not None and str(error.__cause__) not in text:
        text += f": {error.__cause__}"
    return f"{path.name}{'' if number is None else f':{number}'}: {text}"


def line_of(path: Path, error: BaseException) -> int | None:
    """The innermost line of the script at `path` that `error` came through."""
    trace = reversed(traceback.extract_tb(error.__traceback__))
    return next((frame.lineno for frame in trace if frame.filename == os.fspath(path)), None)
