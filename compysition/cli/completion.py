# SPDX-License-Identifier: Apache-2.0
"""``compysition completion``: prints what makes a shell complete commands, options and files.

It is made from the parser when it is asked for: a script that was shipped would be wrong after the next new option.
"""

import argparse
import shlex
from collections.abc import Iterator

from compysition.cli.main import COMMANDS, build_parser
from compysition.cli.terminal import put

DESCRIPTION = (
    "Print what makes a shell complete the commands, options and files of compysition. For bash, put "
    "'eval \"$(compysition completion bash)\"' into ~/.bashrc; for zsh, the same with zsh into ~/.zshrc."
)

_BASH = """\
_compysition() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" previous="${{COMP_WORDS[COMP_CWORD-1]}}" command="" words="" word
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        if [[ "$word" != -* ]]; then
            command="$word"
            break
        fi
    done
    COMPREPLY=()
    case "$command $previous" in
{values}
    esac
    case "$command" in
{options}
    esac
    if [[ -z "$command" || "$current" == -* || " {closed} " == *" $command "* ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$current"))
    else
        COMPREPLY=($(compgen -f -- "$current"))
    fi
}}
complete -o filenames -F _compysition compysition
"""
#: zsh understands the functions of bash, once it is told to.
_ZSH = "autoload -Uz +X compinit bashcompinit && compinit && bashcompinit\n"


def declare(parser: argparse.ArgumentParser) -> None:
    """See `compysition.cli.main.Command`."""
    parser.add_argument("shell", choices=("bash", "zsh"), help="for which shell")


def execute(options: argparse.Namespace) -> int:
    """See `compysition.cli.main.Command`."""
    put((_ZSH if options.shell == "zsh" else "") + script())
    return 0


def script() -> str:
    """The function for bash."""
    values = [
        line
        for name, parser in _parsers()
        for action in parser._actions
        if action.option_strings and action.nargs != 0
        for line in _value(name, action)
    ]
    options = []
    for name, parser in _parsers():
        words = [option for action in parser._actions for option in action.option_strings]
        words += [*COMMANDS] if not name else _choices(parser)
        options.append(f"        {shlex.quote(name)}) words={shlex.quote(' '.join(words))} ;;")
    # Where words are known, files are not meant.
    closed = " ".join(name for name, parser in _parsers() if name and _choices(parser))
    return _BASH.format(values="\n".join(values), options="\n".join(options), closed=closed)


def _parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """The parser of each command by its name, and that of no command."""
    top = build_parser()
    yield "", top
    for action in top._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def _value(command: str, action: argparse.Action) -> Iterator[str]:
    """What completes the value of an option."""
    patterns = "|".join(shlex.quote(f"{command} {option}") for option in action.option_strings)
    if action.choices:
        found = f'COMPREPLY=($(compgen -W {shlex.quote(" ".join(map(str, action.choices)))} -- "$current")); return'
    elif action.metavar in ("FILE", "DIRECTORY"):
        found = 'COMPREPLY=($(compgen -f -- "$current")); return'
    else:
        found = "return"
    yield f"        {patterns}) {found} ;;"


def _choices(parser: argparse.ArgumentParser) -> list[str]:
    """The words that a command takes by position."""
    return [str(choice) for action in parser._actions if not action.option_strings for choice in action.choices or ()]
