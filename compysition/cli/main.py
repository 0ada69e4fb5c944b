# SPDX-License-Identifier: Apache-2.0
"""Arguments of the command line, and what every command shares: suggestions, one-line errors, exit codes.

Exit codes: those of the Director (0 all drained, 1 something left or killed, 2 could not start, 3 restart budget
spent); 2 as well for wrong arguments and for a script that cannot be read.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NoReturn

from compysition.__about__ import __version__

EXIT_USAGE = 2


class _Parser(argparse.ArgumentParser):
    """Says "did you mean" for a mistyped command or option."""

    def error(self, message: str) -> NoReturn:
        known = [*self._option_string_actions]
        for action in self._actions:
            for name, choice in dict(action.choices or {}).items():
                known += [name, *getattr(choice, "_option_string_actions", ())]
        wrong = [word for word in re.split(r"[\s':,()]+", message) if word not in known]
        if "unrecognized" in message:
            wrong = [word for word in wrong if word.startswith("-")]
        close = [match for word in wrong for match in get_close_matches(word, known, n=1, cutoff=0.6)]
        hint = f"; did you mean {close[0]!r}?" if close else ""
        self.exit(EXIT_USAGE, f"{self.prog}: {message}{hint}\n{self.format_usage()}")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The arguments as a namespace; exits with a message if they make no sense."""
    parser = _Parser(prog="compysition", description="Run event-driven data flows.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"compysition {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    run = commands.add_parser(
        "run",
        help="run the Director of a script",
        description="Run the Director of a script, and exit with its code: 0 everything drained, 1 something was left "
        "or killed, 2 it could not start, 3 the restart budget was spent.",
        allow_abbrev=False,
    )
    run.add_argument("script", help="a Python file that makes a Director, and may start it")
    run.add_argument("arguments", nargs=argparse.REMAINDER, help="what the script finds in sys.argv[1:]")
    run.add_argument(
        "--no-patch",
        dest="patch",
        action="store_false",
        help="leave the standard library as it is; blocking calls of the script then hold all actors",
    )
    run.add_argument(
        "--stop-timeout",
        dest="stop_timeout_s",
        type=_seconds,
        metavar="SECONDS",
        help="how long a stop may take before it kills (default: what the script says)",
    )
    run.add_argument(
        "-v", "--verbose", action="count", default=0, help="log what happens, show tracebacks; twice: debug messages"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code."""
    options = parse(sys.argv[1:] if arguments is None else arguments)
    if options.patch:
        # Before anything else is imported: what has been bound already stays blocking.
        from gevent import monkey

        monkey.patch_all()
    from compysition.cli.run import run

    return run(
        options.script,
        options.arguments,
        stop_timeout_s=options.stop_timeout_s,
        verbosity=options.verbose,
    )


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0 on")
    return seconds
