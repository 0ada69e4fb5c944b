# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.cli.script`."""

import sys
from pathlib import Path

import pytest

from compysition import Director
from compysition.cli.script import ScriptError, explain, find, hosted, line_of, read
from compysition.drain import StopReport
from compysition.errors import StartError


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a script is given is taken back."""
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    monkeypatch.setattr(sys, "path", [*sys.path])


class Host:
    """Starts nothing."""

    def __init__(self) -> None:
        self.asked: list[Director] = []

    def start(self, director: Director) -> StopReport:
        self.asked.append(director)
        return StopReport("hosted", 0)

    def ready(self, director: Director) -> None:
        raise AssertionError("it was not started")


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# ---- finding ----------------------------------------------------------------------------------------------------


def test_a_script_that_is_not_there_is_said_with_those_that_are(tmp_path: Path) -> None:
    written(tmp_path / "flow.py", "")
    with pytest.raises(ScriptError, match=r"there is no script '.*flwo\.py'; there are: .*flow\.py$"):
        find(str(tmp_path / "flwo.py"))
    with pytest.raises(ScriptError, match="is a directory: name the script in it"):
        find(str(tmp_path))


# ---- reading ----------------------------------------------------------------------------------------------------


def test_a_script_sees_what_plain_python_would_show_it(tmp_path: Path) -> None:
    written(tmp_path / "beside.py", "VALUE = 7")
    path = written(
        tmp_path / "flow.py",
        "import sys\nfrom compysition import Director\nimport beside\n"
        "assert __name__ == '__main__' and beside.VALUE == 7\ndirector = Director(name=' '.join(sys.argv))\n",
    )
    reading = read(path, ["a", "-b"])
    assert reading.director_to_start().name == f"{path} a -b"
    assert reading.exit is None


def test_one_director_under_two_names_is_one(tmp_path: Path) -> None:
    path = written(tmp_path / "flow.py", "from compysition import Director\na = b = Director(name='x')\n")
    assert read(path).director_to_start().name == "x"


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "makes no Director"), ("a, b = Director(), Director()", "makes 2 Directors and starts none")],
)
def test_a_script_with_none_or_several_directors_says_so(tmp_path: Path, text: str, words: str) -> None:
    path = written(tmp_path / "flow.py", f"from compysition import Director\n{text}\n")
    with pytest.raises(ScriptError, match=words):
        read(path).director_to_start()


def test_an_exit_of_the_script_is_part_of_what_was_read(tmp_path: Path) -> None:
    path = written(tmp_path / "flow.py", "raise SystemExit(3)")
    reading = read(path)
    assert reading.exit is not None
    assert (reading.exit.code, reading.directors) == (3, ())


def test_a_script_that_starts_its_director_asks_the_host_and_nobody_is_asked_later(tmp_path: Path) -> None:
    path = written(
        tmp_path / "flow.py",
        "import sys\nfrom compysition import Director\nif __name__ == '__main__':\n"
        "    sys.exit(Director(name='x').start().exit_code)\n",
    )
    host = Host()
    with hosted(host):
        reading = read(path)
    assert [director.name for director in host.asked] == ["x"]
    assert reading.exit is not None
    assert reading.exit.code == 0
    with hosted(Host()):
        pass
    assert len(host.asked) == 1


# ---- explaining -------------------------------------------------------------------------------------------------


def failure(path: Path) -> Exception:
    try:
        read(path)
    except Exception as error:
        return error
    raise AssertionError("it came to its end")


def test_an_error_of_ours_is_explained_with_the_line_of_the_script(tmp_path: Path) -> None:
    path = written(tmp_path / "flow.py", "from compysition import Director\n\nDirector().connect_queue('a', 'b')\n")
    error = failure(path)
    assert explain(path, error) == "flow.py:3: there is no actor 'a'; there are none"
    assert line_of(path, error) == 3


def test_a_syntax_error_is_explained_with_its_file_and_line(tmp_path: Path) -> None:
    path = written(tmp_path / "flow.py", "\ndirector = = 1\n")
    assert explain(path, failure(path)) == f"{path}:2: invalid syntax"


def test_an_error_at_the_start_tells_its_cause(tmp_path: Path) -> None:
    error = StartError("actor 'a' did not become ready")
    error.__cause__ = OSError("no disk")
    assert explain(tmp_path / "flow.py", error) == "flow.py: actor 'a' did not become ready: no disk"


def test_any_other_error_needs_its_traceback(tmp_path: Path) -> None:
    path = written(tmp_path / "flow.py", "1 / 0\n")
    assert explain(path, failure(path)) is None
