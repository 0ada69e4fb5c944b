# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.cli.script`."""

import re
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

from compysition import Director
from compysition.cli.script import EXTRAS, ScriptError, explain, find, hosted, own_traceback, read
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
    with pytest.raises(ScriptError, match=r"there is no script '.*flwo\.py'; did you mean 'flow\.py'\?$"):
        find(str(tmp_path / "flwo.py"))
    with pytest.raises(ScriptError, match=r"there is no script '.*12345'; there are: 'flow\.py'$"):
        find(str(tmp_path / "12345"))
    with pytest.raises(ScriptError, match=r"there is no directory '.*/no'$"):
        find(str(tmp_path / "no" / "flow.py"))
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


def test_a_syntax_error_is_explained_with_its_file_and_line(tmp_path: Path) -> None:
    path = written(tmp_path / "flow.py", "\ndirector = = 1\n")
    assert explain(path, failure(path)) == f"{path}:2: invalid syntax"


def test_a_script_of_bytes_that_are_no_text_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "flow.py"
    path.write_bytes(b"x = 1\n\0")
    assert explain(path, failure(path)).startswith(f"{path}: source code ")


def test_an_error_at_the_start_tells_its_cause(tmp_path: Path) -> None:
    error = StartError("actor 'a' did not become ready")
    error.__cause__ = OSError("no disk")
    assert explain(tmp_path / "flow.py", error) == "flow.py: actor 'a' did not become ready: no disk"


def test_an_error_at_the_start_is_told_with_the_line_that_raised(tmp_path: Path) -> None:
    path = written(
        tmp_path / "flow.py",
        "from compysition import Actor, Director\n"
        "class Broken(Actor):\n"
        "    def pre_hook(self):\n"
        "        raise OSError('no disk')\n"
        "director = Director()\n"
        "director.register_actor(Broken, 'broken')\n"
        "director.start()\n",
    )
    assert explain(path, failure(path)) == "flow.py:4: actor 'broken' did not become ready: OSError: no disk"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1 / 0", "flow.py:1: ZeroDivisionError: division by zero"),
        ("raise ValueError('two\\nlines')", "flow.py:1: ValueError: two lines"),
        ("import failing_neighbour", "failing_neighbour.py:2: KeyError: 'x'"),
        ("import no_such_module_at_all", "flow.py:1: there is no module 'no_such_module_at_all'"),
        (
            "from compysition.actors import Stdout",
            "flow.py:1: compysition.actors has no 'Stdout'; did you mean 'STDOUT'?",
        ),
        (
            "from compysition import Director; Director(max_restart=1)",
            "flow.py:1: Director() takes no argument 'max_restart'; did you mean 'max_restarts'?",
        ),
        (
            "from compysition import Director; Director().connect_queue('a', 'b', capcity=1)",
            "flow.py:1: Director.connect_queue() takes no argument 'capcity'; did you mean 'capacity'?",
        ),
        (
            "from compysition import ActorOptions; ActorOptions(concurency=1)",
            "flow.py:1: ActorOptions() takes no argument 'concurency'; did you mean 'concurrency'?",
        ),
        (
            "from compysition.actors import EventFilter; EventFilter('x', regx='a')",
            "flow.py:1: EventFilter() takes no argument 'regx'; did you mean 'regex'?",
        ),
        (
            "class Own:\n    def __init__(self): pass\nOwn(sise=2)",
            "flow.py:3: TypeError: Own.__init__() got an unexpected keyword argument 'sise'",
        ),
        (
            "from compysition import Director; Director().registr_actor",
            "flow.py:1: Director has no 'registr_actor'; did you mean 'register_actor'?",
        ),
        ("import math; math.no_such", "flow.py:1: AttributeError: module 'math' has no attribute 'no_such'"),
        (
            "import compysition.acters",
            "flow.py:1: there is no module 'compysition.acters'; did you mean 'compysition.actors'?",
        ),
        ("from compysition import Evnt", "flow.py:1: compysition has no 'Evnt'; did you mean 'Event'?"),
        ("from compysition import WSGI", "flow.py:1: compysition has no 'WSGI'; there are: 'Actor', "),
        (
            "raise ModuleNotFoundError('', name='lxml.etree')",
            "flow.py:1: there is no module 'lxml.etree': it comes with the extra 'xml': pip install 'compysition[xml]'",
        ),
        (
            "from compysition import Director, actors\nDirector().register_actor(actors.WSGI, 'wsgi', port=-1)",
            "flow.py:2: port of 'wsgi' is -1: wanted is a whole number, 0 to 65535",
        ),
    ],
)
def test_whatever_leaves_a_script_is_one_line_with_its_place(text: str, wanted: str, tmp_path: Path) -> None:
    written(tmp_path / "failing_neighbour.py", "\n{}['x']\n")
    path = written(tmp_path / "flow.py", text + "\n")
    line = explain(path, failure(path))
    assert line == wanted or (wanted.endswith(" ") and line.startswith(wanted))
    sys.modules.pop("failing_neighbour", None)


def test_the_traceback_begins_at_the_script(tmp_path: Path) -> None:
    path = written(tmp_path / "flow.py", "1 / 0\n")
    lines = own_traceback(path, failure(path)).splitlines()
    assert (lines[0], lines[1]) == ("Traceback (most recent call last):", f'  File "{path}", line 1, in <module>')
    assert lines[-1] == "ZeroDivisionError: division by zero"


def test_modules_of_extras_are_those_that_the_extras_bring() -> None:
    declared = [re.split(r"[\[<>=;]", text)[0] + text.partition(";")[2] for text in requires("compysition") or ()]
    for module, extra in EXTRAS.items():
        names = {module, f"py{module}"}
        assert any(text.startswith(tuple(names)) and f'"{extra}"' in text for text in declared), module
