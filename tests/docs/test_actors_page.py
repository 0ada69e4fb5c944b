# SPDX-License-Identifier: Apache-2.0
"""The page on actors lists what ships, with the arguments that it takes; its examples print what is wanted."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from compysition import actors
from tests.docs.test_docs import DOCS, blocks_of, quoted_in, rows_of

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = DOCS / "guides" / "actors.md"
ROWS: Final = {quoted_in(row[0])[0]: row for row in rows_of(PAGE, "Actors that come with it") if quoted_in(row[0])}
#: Whose arguments are listed; those of the others are many and stand in the reference.
LISTED: Final = sorted(name for name, row in ROWS.items() if name in actors.__all__ and "reference" not in row[2])


def test_every_actor_of_the_table_ships() -> None:
    wanted = {name for name in ROWS if name[0].isupper()}
    assert wanted <= set(actors.__all__)
    assert len(LISTED) >= 12


@pytest.mark.parametrize("name", LISTED)
def test_arguments_and_defaults_are_those_of_the_constructor(name: str) -> None:
    parameters = list(inspect.signature(getattr(actors, name)).parameters.values())[1:]
    assert quoted_in(ROWS[name][2]) == [
        parameter.name if parameter.default is parameter.empty else f"{parameter.name}={parameter.default!r}"
        for parameter in parameters
        if parameter.name != "blocking_consume"
    ]


@pytest.mark.parametrize("name", LISTED)
def test_every_argument_has_its_words_in_the_docstring(name: str) -> None:
    cls = getattr(actors, name)
    words = inspect.getdoc(cls) or ""
    missing = [parameter for parameter in inspect.signature(cls).parameters if f"\n    {parameter}: " not in words]
    assert missing in ([], ["blocking_consume"])


def test_the_page_has_a_script_for_each_new_part() -> None:
    code = "\n".join(block.text for block in blocks_of(PAGE) if block.language == "python")
    for name in ("EventRouter", "EventAttributeModifier", "EventJoin", "Timer", "FileLogger", "EventLogger"):
        assert re.search(rf"register_actor\(\s*{name},", code), name


def run(example: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / example)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_the_example_of_routing_and_joining(tmp_path: Path) -> None:
    done = run("04_route_and_join.py", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    # Two actors print side by side.
    assert sorted(done.stdout.splitlines()) == [
        "offer: {'price': 12, 'stock': 3}",
        "offer: {'price': 12, 'stock': 3}",
        "refused: {'id': 2, 'kind': 'boat'}",
    ]


def test_the_example_of_a_batch(tmp_path: Path) -> None:
    done = run("05_batch_to_file.py", tmp_path)
    assert (done.returncode, done.stdout) == (0, "everything is done; exit code 0\n")
    assert done.stderr == "three [square failed: UnprocessableError: 'three' is no number]\n"
    assert (tmp_path / "squares.txt").read_text() == "1\n4\n16\n"


def test_the_example_of_a_batch_that_cannot_write_says_so_in_one_line_by_the_command_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "compysition.cli", "run", str(ROOT / "examples" / "05_batch_to_file.py")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COMPYSITION_PATH": "none/squares.txt"},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 2
    assert f"'squares' cannot open its file: [Errno 2] No such file or directory: {tmp_path}/none/squares.txt" in (
        done.stderr
    )
