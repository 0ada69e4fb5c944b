# SPDX-License-Identifier: Apache-2.0
"""``compysition run``: reads a script, runs its Director, says where its doors are, and exits with its code."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from compysition.cli.arguments import add_script, seconds_option
from compysition.cli.script import Reading, ScriptError, explain, find, hosted, own_traceback, read
from compysition.cli.terminal import fail, say
from compysition.director import Director
from compysition.drain import EXIT_LEFT, EXIT_NOT_STARTED, StopReport
from compysition.errors import CompysitionError

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
        type=seconds_option,
        metavar="TIME",
        help="how long a stop may take before it kills, as in 10, '500 ms' or '1 min' (default: what the script says)",
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
    host = CommandLineHost(stop_timeout_s)
    try:
        path = find(script)
        with hosted(host):
            return _run(path, arguments, host, is_verbose=verbosity > 0)
    except ScriptError as error:
        return fail(str(error))


def _run(path: Path, arguments: Sequence[str], host: CommandLineHost, *, is_verbose: bool) -> int:
    try:
        reading = read(path, arguments)
        asked_code = _asked(reading)
        if not host.started:
            if asked_code is not None:
                return asked_code
            reading.director_to_start().start()
    except KeyboardInterrupt:
        return fail(f"{path.name} was interrupted", code=130)
    except ScriptError:
        raise
    except Exception as error:  # noqa: BLE001 - boundary
        # Boundary: the command line's. Everything that leaves a script becomes one line and an exit code.
        return _explain(path, error, is_verbose=is_verbose, has_started=any(map(_has_run, host.started)))
    return max([asked_code or 0, *(_finish(director) for director in host.started)])


def _asked(reading: Reading) -> int | None:
    """The exit code that the script asks for itself."""
    if reading.exit is None:
        return None
    code = reading.exit.code
    if isinstance(code, str):
        say(code)
    return code if isinstance(code, int) else int(code is not None)


def _finish(director: Director) -> int:
    """Stop what the script has left running, and say how it went, if it did not go well."""
    report = director.block_with_signals() if director.is_running() else director.last_report
    if report is None:
        return EXIT_NOT_STARTED
    # What every actor did is worth reading only if something was lost.
    say(str(report).partition("\n")[0] if report.ok else str(report))
    return report.exit_code


def _has_run(director: Director) -> bool:
    report = director.last_report
    return director.is_running() or (report is not None and report.exit_code != EXIT_NOT_STARTED)


def _explain(path: Path, error: Exception, *, is_verbose: bool, has_started: bool) -> int:
    if is_verbose:
        say(own_traceback(path, error))
    # What is not ours is told by its traceback, to who wants it.
    hint = "" if is_verbose or isinstance(error, CompysitionError | SyntaxError) else " (-v shows the traceback)"
    return fail(explain(path, error) + hint, EXIT_LEFT if has_started else EXIT_NOT_STARTED)
