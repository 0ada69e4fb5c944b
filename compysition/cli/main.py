# SPDX-License-Identifier: Apache-2.0
"""The command line: finds the command, reads its arguments, runs it.

Each command is a module beside this one, imported when it is asked for: `Command` says what is in it. What the
commands share is in `arguments` (options) and `terminal` (lines for people). Read next: `run`.

Exit codes: those of the Director (0 all drained, 1 something left or killed, 2 could not start, 3 restart budget
spent); 2 as well for wrong arguments and for a script that cannot be read.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Protocol, cast

from compysition.__about__ import __version__
from compysition.cli.arguments import EXIT_USAGE, Parser
from compysition.setting_sources import SOURCES, Sources

#: Every command, in the order of the help, with the line that says what it does. Its module has the same name.
COMMANDS: dict[str, str] = {
    "run": "run the Director of a script",
    "check": "look for mistakes in the flow of a script, without starting it",
    "graph": "draw the flow of a script",
    "settings": "show what a script asks for, and where each value comes from",
    "completion": "print what makes a shell complete all this",
}


class Command(Protocol):
    """The module of a command. Importing it must import nothing that a patch would come too late for."""

    #: What ``compysition NAME --help`` begins with.
    DESCRIPTION: str

    def declare(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments."""

    def execute(self, options: argparse.Namespace) -> int:
        """Do it, and return the exit code. With ``options.patch`` the standard library is patched by now."""


def command(name: str) -> Command:
    """The module of the command `name`."""
    return cast(Command, import_module(f"compysition.cli.{name.replace('-', '_')}"))


def build_parser(wanted: Iterable[str] = COMMANDS) -> argparse.ArgumentParser:
    """The parser, in which only the commands `wanted` know their arguments: the others are not imported."""
    parser = Parser(prog="compysition", description="Run event-driven data flows.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"compysition {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, line in COMMANDS.items():
        known = command(name) if name in wanted else None
        one = commands.add_parser(name, help=line, description=known.DESCRIPTION if known else None, allow_abbrev=False)
        if known is not None:
            known.declare(one)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit code; wrong arguments and ``--help`` exit at once."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = next((word for word in words if not word.startswith("-")), "")
    parser = build_parser([name])
    options = parser.parse_args(words)
    if options.command is None:
        parser.print_help(sys.stderr)
        return EXIT_USAGE
    if getattr(options, "patch", False):
        # Before anything else is imported: what has been bound already stays blocking.
        from gevent import monkey

        monkey.patch_all()
    # Here, so that every command that reads a script gives it the same settings.
    sources = Sources(dict(getattr(options, "flags", None) or ()), getattr(options, "settings", None))
    token = SOURCES.set(sources)
    try:
        return command(options.command).execute(options)
    finally:
        SOURCES.reset(token)
