# SPDX-License-Identifier: Apache-2.0
"""``compysition check``: looks for mistakes in the flow of a script, without starting it. Read next: `isolated`."""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compysition.cli.arguments import add_script, seconds_option
from compysition.cli.isolated import TIMEOUT_S, Inspection, inspect
from compysition.cli.script import ScriptError, find
from compysition.cli.terminal import fail, put
from compysition.errors import suggestion
from compysition.flow.findings import Code, Finding, Severity

DESCRIPTION = (
    "Read a script and look for mistakes in its flow, without starting anything. Exit code: 0 no error was found, "
    "1 one was (with --strict, or a warning), 2 there is no such script. Every code is explained in docs/checks.md."
)
EXIT_INTERRUPTED = 130
#: Where the codes are explained.
PAGE = "docs/checks.md"


def declare(parser: argparse.ArgumentParser) -> None:
    """See `compysition.cli.main.Command`."""
    add_script(parser, is_run_here=False)
    add_timeout(parser)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="how to say it (default: text)")
    parser.add_argument("--strict", action="store_true", help="a warning makes exit code 1, too")
    parser.add_argument(
        "--ignore",
        type=_ignored,
        action="append",
        default=[],
        metavar="CODE[:ACTOR]",
        help="leave out a code, or a code for one actor, as in C101:hook; may be repeated",
    )


def add_timeout(parser: argparse.ArgumentParser) -> None:
    """The option for how long the script may take."""
    parser.add_argument(
        "--timeout",
        dest="timeout_s",
        type=_time_above_0,
        default=TIMEOUT_S,
        metavar="SECONDS",
        help=f"how long the script may take until it has come to its end (default: {TIMEOUT_S:g})",
    )


def _time_above_0(text: str) -> float:
    timeout_s = seconds_option(text)
    if timeout_s == 0:
        raise argparse.ArgumentTypeError(f"it is {text!r}: wanted is a time above 0")
    return timeout_s


def execute(options: argparse.Namespace) -> int:
    """See `compysition.cli.main.Command`."""
    try:
        path = find(options.script)
        inspection = inspect_for(path, options)
    except ScriptError as error:
        return fail(str(error))
    except KeyboardInterrupt:
        return fail(f"{options.script} was interrupted", code=EXIT_INTERRUPTED)
    known = [name for director in inspection.directors for name in director.actors]
    for _, actor in options.ignore:
        if actor is not None and inspection.directors and actor not in known:
            return fail(f"--ignore names the actor {actor!r}, which is not there{suggestion(actor, known)}")
    findings = sorted(
        (
            finding
            for finding in inspection.findings
            if not any(finding.code is code and actor in (None, finding.actor) for code, actor in options.ignore)
        ),
        key=lambda finding: finding.code.severity is Severity.WARNING,
    )
    put(_as_json(path, inspection, findings) if options.format == "json" else _as_text(path, inspection, findings))
    errors, warnings = _count(findings)
    return int(errors > 0 or (options.strict and warnings > 0))


def inspect_for(path: Path, options: argparse.Namespace) -> Inspection:
    """`inspect`, as the command line says."""
    return inspect(
        path,
        options.arguments,
        timeout_s=options.timeout_s,
        is_patched=options.patch_script,
        is_verbose=options.verbose > 0,
    )


def _count(findings: Sequence[Finding]) -> tuple[int, int]:
    errors = sum(finding.code.severity is Severity.ERROR for finding in findings)
    return errors, len(findings) - errors


def _ignored(text: str) -> tuple[Code, str | None]:
    name, colon, actor = text.partition(":")
    if name not in Code.__members__ or (colon and not actor):
        hint = suggestion(name.upper(), Code.__members__) if name not in Code.__members__ else ""
        raise argparse.ArgumentTypeError(f"it is {text!r}: wanted is a code, or a code and an actor, C101:name{hint}")
    return Code[name], actor or None


# ---- saying it ------------------------------------------------------------------------------------------------------


def _as_text(path: Path, inspection: Inspection, findings: Sequence[Finding]) -> str:
    lines = []
    has_several = len(inspection.directors) > 1
    for finding in findings:
        where = f"{_shown(finding.place.file, path)}:{finding.place.line}" if finding.place is not None else str(path)
        whose = f"Director {finding.director!r}: " if has_several and finding.director else ""
        way = f" ({finding.connection})" if finding.connection and finding.connection not in finding.message else ""
        lines.append(f"{where}: {finding.code.severity.value} {finding.code.name}: {whose}{finding.message}{way}")
        lines.append(f"    {finding.remedy}")
    if findings:
        errors, warnings = _count(findings)
        lines.append(f"{path}: {_number(errors, 'error')}, {_number(warnings, 'warning')}; see {PAGE}")
    else:
        actors = sum(len(director.actors) for director in inspection.directors)
        connections = sum(director.connections for director in inspection.directors)
        lines.append(f"{path}: nothing found in {_number(actors, 'actor')} and {_number(connections, 'connection')}")
    return "\n".join(lines) + "\n"


def _as_json(path: Path, inspection: Inspection, findings: Sequence[Finding]) -> str:
    errors, warnings = _count(findings)
    answer: dict[str, Any] = {
        "script": os.fspath(path),
        "errors": errors,
        "warnings": warnings,
        "directors": [
            {"name": each.name, "actors": len(each.actors), "connections": each.connections}
            for each in inspection.directors
        ],
        "findings": [
            {
                "code": finding.code.name,
                "severity": finding.code.severity.value,
                "title": finding.code.value,
                "message": finding.message,
                "remedy": finding.remedy,
                "director": finding.director,
                "actor": finding.actor,
                "connection": finding.connection,
                "file": finding.place.file if finding.place is not None else None,
                "line": finding.place.line if finding.place is not None else None,
            }
            for finding in findings
        ],
    }
    return json.dumps(answer, indent=2, ensure_ascii=False) + "\n"


def _number(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _shown(file: str, script: Path) -> str:
    """The file as seen from here, if it lies below and the script was named so."""
    path, here = Path(file), Path.cwd()
    is_below = path.is_absolute() and not script.is_absolute() and path.is_relative_to(here)
    return os.fspath(path.relative_to(here)) if is_below else file
