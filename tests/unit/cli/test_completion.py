# SPDX-License-Identifier: Apache-2.0
"""A real bash completes what the command line takes."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from compysition.cli.completion import script
from compysition.cli.main import COMMANDS, main

BASH = shutil.which("bash")
needs_bash = pytest.mark.skipif(BASH is None, reason="there is no bash")


def complete(line: str, directory: Path) -> set[str]:
    """What bash offers for the last word of `line`; a line that ends with a space has an empty last word."""
    words = line.split(" ")
    text = (
        f"{script()}\nCOMP_WORDS=({' '.join(map(shlex.quote, words))}); COMP_CWORD={len(words) - 1}; _compysition; "
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        [BASH or "bash", "--norc", "-euc", text], cwd=directory, capture_output=True, text=True, check=True, timeout=20
    )
    assert not done.stderr
    return set(done.stdout.split())


@needs_bash
@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("compysition se", {"settings"}),
        ("compysition --v", {"--version"}),
        ("compysition run --log-f", {"--log-format"}),
        ("compysition run --log-format ", {"text", "json"}),
        ("compysition run --log-format j", {"json"}),
        ("compysition run --stop-timeout ", set()),
        ("compysition run --settings a", {"a.toml"}),
        ("compysition run f", {"flow.py"}),
        ("compysition run -q --set a=1 f", {"flow.py"}),
        ("compysition settings --format ", {"table", "json"}),
        ("compysition completion ", {"bash", "zsh", "-h", "--help"}),
        ("compysition completion z", {"zsh"}),
    ],
)
def test_bash_completes(line: str, wanted: set[str], tmp_path: Path) -> None:
    for name in "flow.py", "a.toml":
        (tmp_path / name).touch()
    assert complete(line, tmp_path) == wanted


@needs_bash
def test_every_command_is_offered_with_its_options(tmp_path: Path) -> None:
    assert set(COMMANDS) <= complete("compysition ", tmp_path)
    for name in COMMANDS:
        assert "--help" in complete(f"compysition {name} --", tmp_path)


def test_zsh_is_told_to_understand_it(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    bash = capfd.readouterr().out
    assert main(["completion", "zsh"]) == 0
    zsh = capfd.readouterr().out
    assert zsh.endswith(bash)
    assert "bashcompinit" in zsh.removesuffix(bash)
