# SPDX-License-Identifier: Apache-2.0
"""The example of settings says what it is told, by each way of telling it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
EXAMPLE = str(ROOT / "examples" / "03_settings.py")
RUN = ("-m", "compysition.cli", "run")
DEFAULTS = "Hello, Ada\nHello, Grace\n"


def run(*arguments: str, cwd: Path = ROOT, **environment: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_it_runs_with_its_defaults() -> None:
    assert run(EXAMPLE) == (0, DEFAULTS, "")
    assert run(*RUN, EXAMPLE)[:2] == (0, DEFAULTS)


def test_a_plain_script_is_told_by_the_environment_and_by_the_file_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "app.toml").write_text('greeting = "Hi"\nnames = ["Bob"]\n')
    told = run(EXAMPLE, cwd=tmp_path, COMPYSITION_SETTINGS="app.toml", COMPYSITION_TIMES="2")
    assert told == (0, "Hi, Bob\nHi, Bob\n", "")


def test_the_command_line_tells_it_by_flags_and_by_a_file(tmp_path: Path) -> None:
    (tmp_path / "app.toml").write_text('greeting = "Hi"\nnames = ["Bob"]\n')
    flags = ("--settings", "app.toml", "--set", "names=Eve,Ada", "--set", "greeting=a=b")
    assert run(*RUN, *flags, EXAMPLE, cwd=tmp_path, COMPYSITION_NAMES="Zoe")[:2] == (0, "a=b, Eve\na=b, Ada\n")


def test_a_mistyped_flag_is_one_line_and_nothing_starts() -> None:
    code, out, err = run(*RUN, "--set", "greting=Hi", EXAMPLE)
    assert (code, out) == (2, "")
    assert err == (
        "compysition: 03_settings.py:13: the script asks for no setting 'greting' (from --set); did you mean "
        "'greeting'?\n"
    )


def test_a_value_that_does_not_fit_is_one_line(tmp_path: Path) -> None:
    code, out, err = run(*RUN, EXAMPLE, COMPYSITION_TIMES="often")
    assert (code, out) == (2, "")
    assert err == (
        "compysition: 03_settings.py:8: setting 'times' is 'often' (from environment COMPYSITION_TIMES): "
        "wanted is a whole number\n"
    )
    code, out, err = run(*RUN, "--settings", "no.toml", EXAMPLE, cwd=tmp_path)
    assert (code, err) == (
        2,
        "compysition: 03_settings.py:6: settings file 'no.toml' (from --settings) does not exist\n",
    )
