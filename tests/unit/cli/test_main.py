# SPDX-License-Identifier: Apache-2.0
"""The command line's own part: which command it is, and what is wrong with its arguments."""

import subprocess
import sys

import pytest

from compysition.cli.main import COMMANDS, build_parser, command, main


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["rn", "flow.py"], "there is no command 'rn'; did you mean 'run'? (see compysition --help)"),
        (
            ["run", "--no-pach", "flow.py"],
            "there is no option '--no-pach'; did you mean '--no-patch'? (see compysition run --help)",
        ),
        (
            ["check", "flow.py", "x"],
            "there is no argument 'x' here; what the script is to find in sys.argv[1:] comes last, behind '--' (see ",
        ),
        (["settings", "flow.py", "--formt", "json"], "there is no option '--formt'; did you mean '--format'? (see "),
        (["settings", "flow.py", "--set"], "argument --set: expected one argument (see compysition settings --help)"),
        (["run", "--stop-timout=4", "flow.py"], "there is no option '--stop-timout'; did you mean '--stop-timeout'?"),
        (["--verson"], "there is no option '--verson'; did you mean '--version'? (see compysition --help)"),
        (["-v", "run", "x"], "option '-v' belongs behind the command, as in 'compysition run -v' (see "),
        (["run"], "wanted is: script (see compysition run --help)"),
        (
            ["run", "--stop-timeout", "x", "a.py"],
            "argument --stop-timeout: it is 'x': wanted is a time: seconds as a n",
        ),
        (["check", "--timeout", "0", "a.py"], "argument --timeout: it is '0': wanted is a time above 0 (see compys"),
        (["run", "--set", "port", "a.py"], "argument --set: it is 'port': wanted is name=value (see compysition run"),
        (["run", "--set", "=1", "a.py"], "argument --set: it is '=1': wanted is name=value (see compysition run "),
    ],
)
def test_wrong_arguments_are_one_line_with_what_was_meant(
    arguments: list[str], wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    out, err = capsys.readouterr()
    assert (caught.value.code, out) == (2, "")
    assert err.startswith(f"compysition: {wanted}")
    assert err.count("\n") == 1


def test_a_command_that_resembles_none_is_told_all(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["zzzzz"])
    assert f"there is no command 'zzzzz'; there are: {', '.join(COMMANDS)}" in capsys.readouterr().err


def test_without_a_command_the_help_is_shown_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert (out, err.partition(" ")[0]) == ("", "usage:")
    assert all(line in err for line in COMMANDS.values())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_declares_itself(name: str) -> None:
    assert command(name).DESCRIPTION
    with pytest.raises(SystemExit) as caught:
        build_parser([name]).parse_args([name, "--help"])
    assert caught.value.code == 0


def test_only_the_command_that_is_asked_for_is_imported() -> None:
    look = (
        "import sys; from compysition.cli.main import COMMANDS, build_parser; build_parser(['run']);"
        "print(*(name for name in COMMANDS if f'compysition.cli.{name}' in sys.modules), 'lxml' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "run False\n"
