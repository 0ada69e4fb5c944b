# SPDX-License-Identifier: Apache-2.0
"""The example of settings says what it is told, by each way of telling it."""

import json
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


# ---- compysition settings -----------------------------------------------------------------------------------------

SHOW = ("-m", "compysition.cli", "settings")


def test_settings_are_shown_with_their_sources_and_nothing_starts(tmp_path: Path) -> None:
    (tmp_path / "app.toml").write_text('greeting = "Hi"\n')
    code, out, err = run(*SHOW, "--settings", "app.toml", "--set", "times=2", EXAMPLE, cwd=tmp_path)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        'greeting  "Hi"              app.toml:1   what is said',
        'names     ["Ada", "Grace"]  default      to whom',
        "times     2                 --set times  how often each of them hears it",
    ]


def test_settings_are_shown_as_json() -> None:
    code, out, err = run(*SHOW, "--format=json", EXAMPLE, COMPYSITION_TIMES="3")
    assert (code, err) == (0, "")
    assert json.loads(out)[2] == {
        "name": "times",
        "value": 3,
        "source": "environment COMPYSITION_TIMES",
        "type": "int",
        "environment": "COMPYSITION_TIMES",
        "secret": False,
        "doc": "how often each of them hears it",
    }


def test_what_is_wrong_is_said_behind_what_is_right() -> None:
    code, out, err = run(*SHOW, EXAMPLE, COMPYSITION_TIMES="often")
    assert (code, out.splitlines()[0]) == (2, 'greeting  "Hello"           default  what is said')
    assert err.startswith("compysition: 03_settings.py:8: setting 'times' is 'often' (from environment COMP")
    code, out, err = run(*SHOW, "--set", "greting=Hi", EXAMPLE)
    assert (code, out.count("\n")) == (2, 3)
    assert "did you mean 'greeting'?" in err


def test_secrets_are_masked_in_every_form(tmp_path: Path) -> None:
    script = tmp_path / "flow.py"
    script.write_text(
        "from compysition import Director\ndirector = Director()\n"
        "director.setting('token', 'default-s3cr3t')\ndirector.setting('pin', 0, secret=True)\n"
        "director.setting('url', 'http://a:s3cr3t@b/')\n"
    )
    for options in ((), ("--format=json",), ("-vv",)):
        told = run(*SHOW, *options, "--set", "pin=s3cr3t", str(script))
        assert told[0] == 2
        assert "********" in told[1]
        assert "s3cr3t" not in told[1] + told[2]


def test_a_script_without_settings_or_that_is_not_there_is_said() -> None:
    assert run(*SHOW, str(ROOT / "examples" / "01_one_way.py")) == (0, "", "01_one_way.py asks for no setting\n")
    code, _, err = run(*SHOW, str(ROOT / "examples" / "01_one_wa.py"))
    assert code == 2
    assert err.startswith("compysition: there is no script ")


def test_a_reader_that_has_gone_is_no_traceback() -> None:
    command = f"{sys.executable} {' '.join(SHOW)} {EXAMPLE}; echo $? >&2"
    shell = subprocess.Popen(
        ["/bin/sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT, text=True
    )
    assert shell.stdout is not None
    shell.stdout.close()
    assert shell.stderr is not None
    assert shell.stderr.read() == "0\n"
    shell.stderr.close()
    shell.wait(20)
