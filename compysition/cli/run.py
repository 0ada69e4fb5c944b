# SPDX-License-Identifier: Apache-2.0
"""``compysition run``: reads a script, runs its Director, says where its doors are, and exits with its code."""

import argparse
import logging
import os
import runpy
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from compysition.cli.arguments import add_script, seconds
from compysition.cli.terminal import fail, say
from compysition.director import Director
from compysition.drain import EXIT_LEFT, EXIT_NOT_STARTED, StopReport
from compysition.errors import CompysitionError, StartError
from compysition.hosting import HOST

DESCRIPTION = (
    "Run the Director of a script, and exit with its code: 0 everything drained, 1 something was left or killed, "
    "2 it could not start, 3 the restart budget was spent."
)


def declare(parser: argparse.ArgumentParser) -> None:
    """See `compysition.cli.main.Command`."""
    add_script(parser)
    parser.add_argument(
        "--stop-timeout",
        dest="stop_timeout_s",
        type=seconds,
        metavar="SECONDS",
        help="how long a stop may take before it kills (default: what the script says)",
    )


def execute(options: argparse.Namespace) -> int:
    """See `compysition.cli.main.Command`."""
    return run(options.script, options.arguments, stop_timeout_s=options.stop_timeout_s, verbosity=options.verbose)


class CommandLineHost:
    """Lets the script start its Director itself, and knows which ones it did."""

    def __init__(self, stop_timeout_s: float | None) -> None:
        self.started: list[Director] = []
        self._stop_timeout_s = stop_timeout_s

    def start(self, director: Director) -> StopReport | None:
        """Note that the script starts this one, and let it."""
        self.started.append(director)
        if self._stop_timeout_s is not None:
            director.stop_timeout_s = self._stop_timeout_s
        return None

    def ready(self, director: Director) -> None:
        """Print the doors."""
        for door in director.doors():
            say(door)


def run(script: str, arguments: Sequence[str], *, stop_timeout_s: float | None = None, verbosity: int = 0) -> int:
    """Run the Director of `script`; the script may start it itself, and is told `arguments`.

    Returns the exit code.
    """
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbosity, 2)]
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s")
    path = Path(script)
    if path.is_dir():
        return fail(f"{script!r} is a directory: name the script in it")
    if not path.is_file():
        others = sorted(str(other) for other in (path.parent if path.parent.is_dir() else Path()).glob("*.py"))
        return fail(f"there is no script {script!r}" + (f"; there are: {', '.join(others[:10])}" if others else ""))
    sys.argv = [script, *arguments]
    # As plain ``python script.py`` does it: what lies beside the script can be imported.
    sys.path.insert(0, os.fspath(path.resolve().parent))
    host = CommandLineHost(stop_timeout_s)
    token = HOST.set(host)
    try:
        return _run(path, host, is_verbose=verbosity > 0)
    finally:
        HOST.reset(token)


def _run(path: Path, host: CommandLineHost, *, is_verbose: bool) -> int:
    asked_code: int | None = None
    try:
        names = runpy.run_path(os.fspath(path), run_name="__main__")
    except SystemExit as exit_:
        if isinstance(exit_.code, str):
            say(exit_.code)
        asked_code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        names = {}
        if not host.started:
            return asked_code
    except KeyboardInterrupt:
        return fail(f"{path.name} was interrupted", code=130)
    except Exception as error:  # noqa: BLE001 - boundary
        # Boundary: the command line's. Everything that leaves a script becomes one line and an exit code.
        return _explain(path, error, is_verbose=is_verbose)
    directors = list({id(value): value for value in names.values() if isinstance(value, Director)}.values())
    waiting = [director for director in directors if director not in host.started]
    if not host.started:
        if not waiting:
            return fail(f"{path.name} makes no Director: bind one to a name at the top level, or start it")
        if len(waiting) > 1:
            return fail(f"{path.name} makes {len(waiting)} Directors and starts none: start the one that is meant")
        try:
            waiting[0].start()
        except Exception as error:  # noqa: BLE001 - boundary
            # Boundary: as above.
            return _explain(path, error, is_verbose=is_verbose)
    return max([asked_code or 0, *(_finish(director) for director in host.started)])


def _finish(director: Director) -> int:
    """Stop what the script has left running, and say how it went, if it did not go well."""
    report = director.block_with_signals() if director.is_running() else director.last_report
    if report is None:
        return EXIT_NOT_STARTED
    # What every actor did is worth reading only if something was lost.
    say(str(report).partition("\n")[0] if report.ok else str(report))
    return report.exit_code


def _explain(path: Path, error: Exception, *, is_verbose: bool) -> int:
    if is_verbose:
        traceback.print_exception(error)
        return EXIT_NOT_STARTED if isinstance(error, CompysitionError) else EXIT_LEFT
    notes = " ".join(getattr(error, "__notes__", ()))
    if isinstance(error, SyntaxError):
        return fail(f"{error.filename}:{error.lineno}: {error.msg}")
    if isinstance(error, CompysitionError):
        line = next(
            (f":{f.lineno}" for f in reversed(traceback.extract_tb(error.__traceback__)) if f.filename == str(path)), ""
        )
        text = str(error) + (f" ({notes})" if notes else "")
        if isinstance(error, StartError) and error.__cause__ is not None and str(error.__cause__) not in text:
            text += f": {error.__cause__}"
        return fail(f"{path.name}{line}: {text}")
    traceback.print_exception(error)
    return EXIT_LEFT
