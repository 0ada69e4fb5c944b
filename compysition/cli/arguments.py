# SPDX-License-Identifier: Apache-2.0
"""What the commands share of their arguments: the parser, which says "did you mean", and the options of scripts.

Must not import what a patch of the standard library would come too late for. Read next: `main`.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import NoReturn

from compysition.setting_types import seconds

EXIT_USAGE = 2

#: Texts of argparse that we say in our own way.
_UNKNOWN = re.compile(r"unrecognized arguments: (.*)", re.DOTALL)
_REQUIRED = re.compile(r"the following arguments are required: (.*)", re.DOTALL)
_CHOICE = re.compile(r"argument (?P<where>.*?): invalid choice: (?P<seen>'.*?'|\".*?\"|\S+) ", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong with the arguments, with a suggestion, and exits with code 2."""

    def parse_known_args(  # type: ignore[override]  # of the overloads, the one that is called
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As `argparse.ArgumentParser.parse_known_args`; argparse itself loses what stands behind ``--``."""
        words = list(sys.argv[1:] if args is None else args)
        # Only for a command that has a place for it, see `add_script`.
        at = words.index("--") if "--" in words and self.get_default("arguments") is not None else len(words)
        found, unknown = super().parse_known_args(words[:at], namespace)
        if at < len(words):
            found.arguments = words[at + 1 :]
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """As `argparse.ArgumentParser.error`."""
        prog = self.prog
        if found := _UNKNOWN.fullmatch(message):
            message = self._unknown(found[1].split())
            # Only the command that is asked for has declared more than its help, see `main.build_parser`.
            prog = next((one.prog for one in self._commands().values() if len(one._actions) > 1), prog)
        elif found := _REQUIRED.fullmatch(message):
            rest = [action.dest for action in self._actions if action.nargs == argparse.REMAINDER]
            message = f"wanted is: {', '.join(name for name in found[1].split(', ') if name not in rest)}"
        elif found := _CHOICE.match(message):
            message = self._no_choice(found["where"], found["seen"].strip("'\""))
        self.exit(EXIT_USAGE, f"compysition: {message} (see {prog} --help)\n")

    def _unknown(self, words: list[str]) -> str:
        # The first one only: what comes behind an unknown option may be its value.
        wrong = next((word for word in words if word.startswith("-")), words[0])
        commands = self._commands()
        if not wrong.startswith("-"):
            takes_more = any(parser.get_default("arguments") is not None for parser in commands.values())
            more = "; what the script is to find in sys.argv[1:] comes last, behind '--'" if takes_more else ""
            return f"there is no argument {wrong!r} here{more}"
        name = wrong.partition("=")[0]
        for command, parser in commands.items():
            if name in parser._option_string_actions:
                return f"option {name!r} belongs behind the command, as in '{self.prog} {command} {name}'"
        known = [option for parser in (self, *commands.values()) for option in parser._option_string_actions]
        return f"there is no option {name!r}{_near(name, known)}"

    def _no_choice(self, where: str, seen: str) -> str:
        action = next(
            action
            for action in self._actions
            if action.choices is not None and where in ("/".join(action.option_strings), action.metavar, action.dest)
        )
        choices = [str(choice) for choice in action.choices or ()]
        what = (
            f"there is no {where.lower()} {seen!r}" if isinstance(action, _Commands) else f"{where} cannot be {seen!r}"
        )
        return what + (_near(seen, choices) or f"; there are: {', '.join(choices)}")

    def _commands(self) -> dict[str, argparse.ArgumentParser]:
        return {
            name: parser
            for action in self._actions
            if isinstance(action, _Commands)
            for name, parser in action.choices.items()
        }


_Commands = argparse._SubParsersAction


def _near(wrong: str, known: list[str]) -> str:
    close = get_close_matches(wrong, known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def add_script(parser: argparse.ArgumentParser, *, is_run_here: bool = True, is_started: bool = False) -> None:
    """The arguments of every command that reads a script.

    They are ``script``, ``arguments`` and ``verbose``; `main` does what ``patch``, ``flags`` and ``settings`` say. For
    a script that is not run in this process it is ``patch_script``, which `main` leaves alone. Where the script is
    started all that stands behind it is its own, as with ``python script.py``; else options may stand there too, and
    its own arguments come after ``--``.
    """
    what = "a Python file that makes a Director, and may start it"
    if is_started:
        parser.add_argument("script", help=what)
        parser.add_argument("arguments", nargs=argparse.REMAINDER, help="what the script finds in sys.argv[1:]")
    else:
        parser.add_argument("script", help=f"{what}; behind '--', last of all: what it finds in sys.argv[1:]")
        parser.set_defaults(arguments=[])
    parser.add_argument(
        "--no-patch",
        dest="patch" if is_run_here else "patch_script",
        action="store_false",
        help="leave the standard library as it is; blocking calls of the script then hold all actors",
    )
    parser.add_argument(
        "--set",
        dest="flags",
        action="append",
        type=_assignment,
        metavar="NAME=VALUE",
        help="a setting that the script asks for; may be repeated (see it with 'compysition settings')",
    )
    parser.add_argument(
        "--settings",
        metavar="FILE",
        help="a TOML file with settings (default: the one that the environment variable COMPYSITION_SETTINGS names)",
    )
    parser.add_argument(
        "-v", "--verbose", action="count", default=0, help="log what happens, show tracebacks; twice: debug messages"
    )


def add_output(parser: argparse.ArgumentParser) -> None:
    """The options of commands that run something: ``log_format``, ``quiet``."""
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        default="text",
        help="how lines on standard error are written: for people, or as one JSON object each",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing of doors and of a stop that went well")


def seconds_option(text: str) -> float:
    """The type of an option whose value is a time."""
    try:
        return seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"it is {text!r}: {error}") from None


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"it is {text!r}: wanted is name=value")
    return name, value
