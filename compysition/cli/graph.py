# SPDX-License-Identifier: Apache-2.0
"""``compysition graph``: draws the flow of a script as text, without starting it. Read next: `isolated`."""

import argparse
from collections.abc import Sequence

from compysition.cli.arguments import add_script
from compysition.cli.check import EXIT_INTERRUPTED, add_timeout, inspect_for
from compysition.cli.isolated import Look
from compysition.cli.script import ScriptError, find
from compysition.cli.terminal import fail, put
from compysition.errors import suggestion
from compysition.flow.findings import Severity
from compysition.flow.pictures import FORMATS

DESCRIPTION = (
    "Draw the flow of a script: its actors and connections, doors with their URLs, error wires dashed, rings in boxes. "
    "Nothing is started. It is the text of director.graph()."
)


def declare(parser: argparse.ArgumentParser) -> None:
    """See `compysition.cli.main.Command`."""
    add_script(parser, is_run_here=False)
    add_timeout(parser)
    parser.add_argument(
        "--format", choices=tuple(FORMATS), default="mermaid", help="the language of the picture (default: mermaid)"
    )
    parser.add_argument("--director", metavar="NAME", help="which one, if the script starts several: name or number")


def execute(options: argparse.Namespace) -> int:
    """See `compysition.cli.main.Command`."""
    try:
        path = find(options.script)
        inspection = inspect_for(path, options)
        for finding in inspection.findings:
            if finding.director is None and finding.code.severity is Severity.ERROR:
                line = f"{finding.place.file}:{finding.place.line}" if finding.place is not None else str(path)
                raise ScriptError(f"{line}: {finding.message}; {finding.remedy}")
        put(_chosen(inspection.directors, options.director).pictures[options.format])
    except ScriptError as error:
        return fail(str(error))
    except KeyboardInterrupt:
        return fail(f"{options.script} was interrupted", code=EXIT_INTERRUPTED)
    return 0


def _chosen(directors: Sequence[Look], wanted: str | None) -> Look:
    names = [director.name for director in directors]
    if wanted is None:
        if len(directors) == 1:
            return directors[0]
        listed = ", ".join(f"{number} {name!r}" for number, name in enumerate(names, 1))
        raise ScriptError(f"the script starts {len(directors)} Directors: choose one with --director: {listed}")
    if names.count(wanted) == 1:
        return directors[names.index(wanted)]
    if wanted.isdecimal() and 1 <= int(wanted) <= len(directors):
        return directors[int(wanted) - 1]
    if wanted in names:
        raise ScriptError(f"several Directors are called {wanted!r}: choose by number, 1 to {len(directors)}")
    raise ScriptError(f"there is no Director {wanted!r}{suggestion(wanted, names)}")
