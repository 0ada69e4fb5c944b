# SPDX-License-Identifier: Apache-2.0
"""``compysition run``: reads a script, runs its Director, says where its doors are, and exits with its code."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import gevent

from compysition.cli.arguments import add_output, add_script, seconds_option
from compysition.cli.loglines import logging_to
from compysition.cli.script import Reading, ScriptError, explain, find, hosted, own_traceback, read
from compysition.cli.terminal import Terminal
from compysition.director import Director
from compysition.drain import EXIT_LEFT, EXIT_NOT_STARTED, Drain, StopReport
from compysition.errors import CompysitionError

DESCRIPTION = (
    "Run the Director of a script, and exit with its code: 0 everything drained, 1 something was left or killed, "
    "2 it could not start, 3 the restart budget was spent."
)

#: A stop that takes no longer than this shows no progress, in seconds.
SHORT_S = 0.5
#: How often the line of progress is written anew, in seconds.
TICK_S = 0.2
#: A stop that takes longer than this says what holds it, in seconds.
LONG_S = 3.0


def declare(parser: argparse.ArgumentParser) -> None:
    """See `compysition.cli.main.Command`."""
    add_script(parser, is_started=True)
    add_output(parser)
    parser.add_argument(
        "--stop-timeout",
        dest="stop_timeout_s",
        type=seconds_option,
        metavar="TIME",
        help="how long a stop may take before it kills, as in 10, '500 ms' or '1 min' (default: what the script says)",
    )


def execute(options: argparse.Namespace) -> int:
    """See `compysition.cli.main.Command`."""
    terminal = Terminal(is_json=options.log_format == "json", is_quiet=options.quiet)
    return run(
        options.script,
        options.arguments,
        stop_timeout_s=options.stop_timeout_s,
        verbosity=options.verbose,
        terminal=terminal,
    )


class CommandLineHost:
    """Lets the script start its Director itself, knows which ones it did, and shows what becomes of them."""

    def __init__(self, terminal: Terminal, stop_timeout_s: float | None) -> None:
        self.started: list[Director] = []
        self._terminal = terminal
        self._stop_timeout_s = stop_timeout_s

    def start(self, director: Director) -> StopReport | None:
        """Note that the script starts this one, and let it."""
        if director not in self.started:
            self.started.append(director)
        if self._stop_timeout_s is not None:
            director.stop_timeout_s = self._stop_timeout_s
        director.on_stop = self._show_stop
        return None

    def ready(self, director: Director) -> None:
        """Print the doors."""
        if not self._terminal.is_quiet:
            for door in director.doors():
                self._terminal.say(door)

    def _show_stop(self, drain: Drain) -> None:
        """Say how far the stop is; runs in a greenlet of the Director until it is killed.

        On a terminal in one line; elsewhere once, if it takes long.
        """
        terminal = self._terminal
        began_s = drain.progress().left_s
        gevent.sleep(SHORT_S)
        while True:
            progress = drain.progress()
            is_long = began_s - progress.left_s >= LONG_S or progress.left_s == 0
            held = f"; {'; '.join(progress.holders)}" if progress.holders else ""
            if terminal.is_live:
                terminal.progress(f"{progress}{held if is_long else ''}")
            elif is_long and not terminal.is_quiet:
                terminal.say(
                    f"still stopping: {progress} until the rest is killed{held}", **dataclasses.asdict(progress)
                )
                return
            gevent.sleep(TICK_S)


def run(
    script: str,
    arguments: Sequence[str],
    *,
    stop_timeout_s: float | None = None,
    verbosity: int = 0,
    terminal: Terminal | None = None,
) -> int:
    """Run the Director of `script`; the script may start it itself, and is told `arguments`.

    Returns the exit code.
    """
    terminal = terminal or Terminal()
    host = CommandLineHost(terminal, stop_timeout_s)
    try:
        path = find(script)
        with logging_to(terminal, path, verbosity), hosted(host):
            return _run(path, arguments, host, terminal, is_verbose=verbosity > 0)
    except ScriptError as error:
        return terminal.fail(str(error))


def _run(path: Path, arguments: Sequence[str], host: CommandLineHost, terminal: Terminal, *, is_verbose: bool) -> int:
    try:
        reading = read(path, arguments)
        asked_code = _asked(reading, terminal)
        if not host.started:
            if asked_code is not None:
                return asked_code
            reading.director_to_start().start()
    except KeyboardInterrupt:
        return terminal.fail(f"{path.name} was interrupted", code=130)
    except ScriptError:
        raise
    except Exception as error:  # noqa: BLE001 - boundary
        # Boundary: the command line's. Everything that leaves a script becomes one line and an exit code.
        code = EXIT_LEFT if any(map(_has_run, host.started)) else EXIT_NOT_STARTED
        return _explain(path, error, terminal, code, is_verbose=is_verbose)
    return max([asked_code or 0, *(_finish(director, terminal) for director in host.started)])


def _asked(reading: Reading, terminal: Terminal) -> int | None:
    """The exit code that the script asks for itself."""
    if reading.exit is None:
        return None
    code = reading.exit.code
    if isinstance(code, str):
        terminal.say(code, "ERROR")
    return code if isinstance(code, int) else int(code is not None)


def _finish(director: Director, terminal: Terminal) -> int:
    """Stop what the script has left running, and say how it went, if it did not go well."""
    report = director.block_with_signals() if director.is_running() else director.last_report
    if report is None:
        return EXIT_NOT_STARTED
    if terminal.is_quiet and report.ok:
        return report.exit_code
    # What every actor did is worth reading only if something was lost.
    lines = str(report) if not report.ok else str(report).partition("\n")[0]
    if terminal.is_json:
        terminal.say(lines.partition("\n")[0], "INFO" if report.ok else "ERROR", **dataclasses.asdict(report))
    else:
        verdict, _, rest = lines.partition(": ")
        terminal.write_marked(f"{verdict}:", "green" if report.ok else "red", rest)
    return report.exit_code


def _has_run(director: Director) -> bool:
    report = director.last_report
    return director.is_running() or (report is not None and report.exit_code != EXIT_NOT_STARTED)


def _explain(path: Path, error: Exception, terminal: Terminal, code: int, *, is_verbose: bool) -> int:
    text, trace = explain(path, error), own_traceback(path, error)
    if terminal.is_json:
        return terminal.fail(text, code, traceback=trace)
    if is_verbose:
        terminal.write(trace)
    # What is not ours is told by its traceback, to who wants it.
    hint = "" if is_verbose or isinstance(error, CompysitionError | SyntaxError) else " (-v shows the traceback)"
    return terminal.fail(text + hint, code)
