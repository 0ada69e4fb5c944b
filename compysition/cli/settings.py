# SPDX-License-Identifier: Apache-2.0
"""``compysition settings``: what a script asks for, with the source of each value; nothing is started."""

import argparse
import json
from collections.abc import Sequence

from compysition.cli.arguments import add_script
from compysition.cli.loglines import logging_to
from compysition.cli.script import ScriptError, explain, find, hosted, own_traceback, read
from compysition.cli.terminal import Terminal, put
from compysition.director import Director
from compysition.drain import StopReport
from compysition.setting_sources import SOURCES, Sources
from compysition.settings import MASK, Setting

DESCRIPTION = (
    "Show what a script asks for: each setting with its value and where that comes from. The script is read, and "
    "nothing is started. Secrets are masked. The exit code is 2 if a setting is missing or does not fit."
)


def declare(parser: argparse.ArgumentParser) -> None:
    """See `compysition.cli.main.Command`."""
    parser.add_argument("--format", choices=("table", "json"), default="table", help="how they are written")
    add_script(parser)


class ReadingHost:
    """Lets a script start nothing: `Director.start` returns at once."""

    def start(self, director: Director) -> StopReport:
        """Tell the script that somebody else starts this one."""
        return StopReport("hosted")

    def ready(self, director: Director) -> None:
        """Never called: nothing is started."""


def execute(options: argparse.Namespace) -> int:
    """See `compysition.cli.main.Command`."""
    terminal = Terminal()
    sources = SOURCES.get() or Sources()
    try:
        path = find(options.script)
    except ScriptError as error:
        return terminal.fail(str(error))
    trouble = ""
    with logging_to(terminal, path, options.verbose), hosted(ReadingHost()):
        try:
            read(path, options.arguments)
            # Of these `Director.start` speaks as well, but not every script starts its Director itself.
            sources.check_flags()
            for line in sources.unused():
                terminal.write_marked("WARNING", "yellow", line)
        except KeyboardInterrupt:
            return terminal.fail(f"{path.name} was interrupted", code=130)
        except Exception as error:  # noqa: BLE001 - boundary
            # Boundary: the command line's. What was asked for until then is shown all the same.
            trouble = explain(path, error)
            if options.verbose:
                terminal.write(own_traceback(path, error))
    text = _json(sources.settings) if options.format == "json" else _table(sources.settings)
    put(text)
    if not trouble and not sources.settings:
        terminal.say(f"{path.name} asks for no setting")
    return terminal.fail(trouble) if trouble else 0


def _table(settings: Sequence[Setting]) -> str:
    rows = [(setting.name, setting.text, setting.source, setting.doc) for setting in settings]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows
    ]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _json(settings: Sequence[Setting]) -> str:
    found = [
        {
            "name": setting.name,
            "value": MASK if setting.is_secret else setting.value,
            "source": setting.source,
            "type": setting.type,
            "environment": setting.environment,
            "secret": setting.is_secret,
            "doc": setting.doc,
        }
        for setting in settings
    ]
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"
