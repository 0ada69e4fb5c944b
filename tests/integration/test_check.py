# SPDX-License-Identifier: Apache-2.0
"""`compysition check` and `compysition graph`, on real scripts in real processes."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from compysition.cli import check
from compysition.cli.isolated import Inspection, Look, inspect
from compysition.cli.main import main
from compysition.flow.findings import Code, Finding

pytestmark = pytest.mark.unpatched

ROOT: Final = Path(__file__).parents[2]
EXAMPLES: Final = sorted((ROOT / "examples").glob("[0-9]*.py"))
#: The third script of the design, as printed, is open to the network and has an actor that nothing comes to.
WARNED: Final = {"06_majordomo.py": ["C201", "C203"]}
LIMIT_S: Final = 30.0
HEAD: Final = """\
import sys, time
from compysition import Actor, Director, StopFlow
from compysition.actors import *

class Step(Actor):
    def consume(self, event):
        self.send_event(event)

director = Director()
"""
LIGHT: Final = "import sys\nfrom compysition import Director\ndirector = Director()\n"
HEAD_LINES: Final = HEAD.count("\n")

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "flow.py", head: str = HEAD) -> Path:
        path = tmp_path / name
        path.write_text(head + text, encoding="utf-8")
        return path

    return write


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """The command line in this process; the script has its own in any case."""

    def command(*words: "str | Path") -> Done:
        capfd.readouterr()
        try:
            code = main([*map(str, words)])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        return Done(code, *capfd.readouterr())

    return command


Command = Callable[..., Done]


def only(inspection: Inspection) -> Finding:
    (finding,) = inspection.findings
    return finding


# ---- examples ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_nothing_is_found_in_an_example_but_what_it_means(example: Path) -> None:
    inspection = inspect(example)
    assert [finding.code.name for finding in inspection.findings] == WARNED.get(example.name, [])
    assert len(inspection.directors) == 1


# ---- planted mistakes -------------------------------------------------------------------------------------------

#: Each with a Director of its own, all in one script: by code, what is wrong, and at which actor.
MISTAKES: Final = {
    "C101": ("last", "build('wsgi', 'first', 'last'); wire('wsgi first last')"),
    "C102": ("last", "build('wsgi', 'last'); wire('wsgi last'); d.connect_queue_error('last', 'wsgi')"),
    "C103": ("step", "build('wsgi1', 'wsgi2', 'step'); wire('wsgi1 step wsgi1'); wire('wsgi2 step wsgi2')"),
    "C104": ("a", "build('a', 'b', 'c'); wire('a b a'); wire('a c a')"),
    "C201": ("lonely", "build('lonely')"),
    "C202": ("a", "build('a', 'b'); wire('a b a')"),
    "C203": ("wsgi", "d.register_actor(WSGIServer, 'wsgi', address='0.0.0.0'); wire('wsgi wsgi')"),
    # A door for each service, and a router for each kind: the second has no way back.
    "C101 service": ("users", "build('wsgi', 'orders', 'users'); wire('wsgi orders wsgi'); wire('wsgi users')"),
    "C101 router": ("b", "build('wsgi', 'router', 'a', 'b'); wire('wsgi router a wsgi'); wire('router b')"),
    "C101 filters": (
        "b",
        """build('wsgi', 'a', 'b'); d.register_actor(EventRouter, 'r', [EventFilter('a', value=1)], default='b'); \
wire('wsgi r a wsgi'); wire('r b')""",
    ),
}
#: What looks alike and is right.
RIGHT: Final = {
    "a tap": "build('wsgi', 'a', 'tap'); wire('wsgi a wsgi'); wire('a tap')",
    "an end on purpose": "build('wsgi'); d.register_actor(Step, 'x', options={'ends_flow': True}); wire('wsgi x')",
    "an end by StopFlow": "build('wsgi', 'stop'); wire('wsgi stop')",
    "failures without a wire": "build('wsgi', 'a', 'b'); wire('wsgi a b wsgi')",
}
PLANT: Final = """
class Router(Actor):
    def consume(self, event):
        self.send_event(event, queues="a" if event.data else "b")

class Stop(Actor):
    def consume(self, event):
        raise StopFlow

def build(*names):
    for name in names:
        d.register_actor({"wsgi": WSGIServer, "rout": Router, "stop": Stop}.get(name[:4], Step), name)

def wire(names):
    for source, target in zip(names.split(), names.split()[1:]):
        d.connect_queue(source, target)
"""


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Finding]]:
    path = tmp_path_factory.mktemp("planted") / "flow.py"
    texts = {name: text for name, (_, text) in MISTAKES.items()} | RIGHT
    flows = "".join(f"d = Director(name={name!r}); {text}; d.start(block=False)\n" for name, text in texts.items())
    path.write_text(HEAD + PLANT + flows)
    inspection = inspect(path)
    assert [each.name for each in inspection.directors] == list(texts)
    return {name: [each for each in inspection.findings if each.director == name] for name in texts}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_found(planted: dict[str, list[Finding]], name: str) -> None:
    found = {finding.code.name: finding for finding in planted[name]}
    finding = found.pop(name[:4])
    assert finding.actor == MISTAKES[name][0]
    assert finding.place is not None
    assert finding.place.file.endswith("flow.py")
    assert finding.place.line > HEAD_LINES
    assert set(found) <= {"C202"}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_not_found(planted: dict[str, list[Finding]], name: str) -> None:
    assert planted[name] == []


@pytest.mark.parametrize("is_patched", [True, False])
def test_a_library_that_holds_all_actors_is_found_where_it_does(write: Write, tmp_path: Path, is_patched: bool) -> None:
    (tmp_path / "client.py").write_text("import http.client\n")
    text = """
import subprocess, client

class Offloads(Actor):
    def consume(self, event):
        self.offload(subprocess.run, ["true"])

class Holds(Actor):
    def consume(self, event):
        client.http.client
        self.send_event(event)

source = director.register_actor(TestEvent, "source")
for cls in (Offloads, Holds):
    director.connect_queue(source, director.register_actor(cls, cls.__name__))
"""
    findings = inspect(write(text), is_patched=is_patched).findings
    assert sorted((each.code.name, each.actor, each.message.split(": ")[1].split(",")[0]) for each in findings) == (
        [] if is_patched else [("C204", "Holds", "http.client"), ("C204", "Holds", "subprocess")]
    )


def test_an_actor_whose_extra_is_missing_is_stood_in_for(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['lxml'] = None\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    path = write(
        'director.register_actor(Transformer, "shape", "<x/>")\n'
        'director.register_actor(STDOUT, "out")\ndirector.connect_queue("shape", "out")\n',
        head=HEAD.replace("*", "STDOUT, Transformer"),
    )
    finding = only(inspect(path))
    assert (finding.code, finding.actor) == (Code.C205, "shape")
    assert finding.remedy == "pip install 'compysition[xml]'"

    finding = only(inspect(write("import lxml.etree\n", head="")))
    assert (finding.code, finding.remedy) == (Code.C115, "pip install 'compysition[xml]'")
    assert "pip" not in finding.message


# ---- scripts that do not build ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "text", "words"),
    [
        (Code.C110, "director = = 1", "invalid syntax"),
        (Code.C110, "open('missing.xml')", "missing.xml"),
        (Code.C110, "sys.exit('usage: flow.py FILE')", "usage: flow.py FILE"),
        (Code.C110, "input()", "EOFError"),
        (Code.C111, "del director", "makes no Director"),
        (Code.C112, "other = Director()", "makes 2 Directors"),
        (Code.C113, "import gevent.event; gevent.event.Event().wait()", "can never come"),
        (Code.C114, "import os; os._exit(0)", "exit code 0"),
        (Code.C114, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
    ],
)
def test_a_script_that_does_not_build_is_one_error(write: Write, code: Code, text: str, words: str) -> None:
    path = write(text + "\n", head=LIGHT)
    finding = only(inspect(path))
    assert finding.code is code
    assert words in finding.message
    assert finding.place is not None
    assert finding.place.file == str(path)
    if code in (Code.C110, Code.C113) and "usage" not in text:
        assert finding.place.line == LIGHT.count("\n") + 1


@pytest.mark.parametrize(
    ("text", "is_patched"),
    [
        pytest.param("time.sleep(60)", True, id="waits"),
        pytest.param("time.sleep(60)", False, id="waits unpatched"),
        pytest.param("gevent.spawn(spin).join()", True, id="holds the hub"),
        pytest.param("re.match('(a+)+$', 'a' * 64 + 'b')", True, id="blocks in C and lets no thread run"),
    ],
)
def test_a_script_that_does_not_come_to_its_end_is_told_with_the_line(
    write: Write, text: str, is_patched: bool
) -> None:
    # Nothing that has to be read first: its time is short.
    path = write(f"import gevent, re, time\ndef spin():\n    while True: pass\n{text}\n", head="")
    finding = only(inspect(path, timeout_s=1.0, is_patched=is_patched))
    assert finding.code is Code.C113
    assert finding.place == (str(path), 3 if "spin" in text else 4)


# ---- scripts that start -----------------------------------------------------------------------------------------

FLOW: Final = 'director.register_actor(WSGIServer, "wsgi", port={port})\ndirector.connect_queue("wsgi", "wsgi")\n'


@pytest.mark.parametrize(
    "start",
    [
        pytest.param("director.start()", id="at the top level"),
        pytest.param("if __name__ == '__main__':\n    sys.exit(director.start().exit_code)", id="and exits"),
        pytest.param("with director:\n    print(director.ask('wsgi', 1))", id="as a context, and asks"),
        pytest.param("director.start(block=False)\nwhile True: pass", id="and never returns"),
        pytest.param("import gevent\ngevent.spawn(director.start).join()", id="in a greenlet"),
        pytest.param(
            "import threading\nt = threading.Thread(target=director.start)\nt.start(); t.join()", id="in a thread"
        ),
        pytest.param("", id="not by itself"),
    ],
)
def test_no_start_of_a_script_starts_anything(write: Write, start: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        # Were it started, it could not.
        inspection = inspect(write(FLOW.format(port=taken.getsockname()[1]) + start + "\n"), timeout_s=5.0)
    assert inspection.findings == ()
    assert [(each.actors, each.connections) for each in inspection.directors] == [(("wsgi",), 1)]


def test_a_module_that_starts_when_it_is_imported_is_looked_at(write: Write) -> None:
    write(FLOW.format(port=1) + "director.start()\n", "service.py")
    assert [each.actors for each in inspect(write("import service\n", head="")).directors] == [("wsgi",)]


def test_all_directors_that_a_script_starts_are_looked_at(write: Write) -> None:
    path = write(
        "second = Director(name='second')\nsecond.register_actor(STDOUT, 'out')\nsecond.start(False)\n"
        "director.start()\n"
    )
    inspection = inspect(path)
    assert [each.name for each in inspection.directors] == ["second", "default"]
    assert only(inspection).director == "second"


AUDIT: Final = """\
import gc, json, sys
sys.path.insert(0, {root!r})
if {is_patched}:
    from gevent import monkey
    monkey.patch_all()
import gevent, greenlet
from compysition.cli.inspector import Inspector
opened = []
sys.addaudithook(lambda event, arguments: opened.append(event) if event.startswith("socket.") else None)
greenlet.getcurrent()
before = {{id(each) for each in gc.get_objects() if isinstance(each, greenlet.greenlet)}}
order = {{"script": {script!r}, "arguments": [], "is_verbose": False, "flags": {{}}, "settings": None}}
inspector = Inspector(order)
inspector.read()
answer = inspector.answer()
made = [each for each in gc.get_objects() if isinstance(each, greenlet.greenlet) and id(each) not in before]
made = [repr(each) for each in made if not isinstance(each, gevent.hub.Hub)]
print(json.dumps([opened, made, len(answer["directors"]), answer["findings"]]), file=sys.stderr)
"""


@pytest.mark.parametrize(("example", "is_patched"), [*((each, True) for each in EXAMPLES), (EXAMPLES[1], False)])
def test_no_socket_is_opened_and_no_greenlet_is_left(example: Path, is_patched: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", AUDIT.format(root=str(ROOT), script=str(example), is_patched=is_patched)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    opened, made, number, findings = json.loads(done.stderr.splitlines()[-1])
    assert (opened, made, number) == ([], [], 1)
    assert [finding["code"] for finding in findings] == WARNED.get(example.name, [])


def test_what_a_script_has_started_is_ended_with_it(write: Write, tmp_path: Path) -> None:
    path = write(
        "import subprocess\n"
        f"child = subprocess.Popen(['sleep', '600'])\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))\n"
    )
    assert inspect(path).findings == ()
    pid = int((tmp_path / "pid").read_text())
    status = Path(f"/proc/{pid}/stat")
    # Dead, or a zombie that nobody has fetched yet.
    wait_for(lambda: not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z")


# ---- the command ------------------------------------------------------------------------------------------------

CIRCLE: Final = (
    'director.register_actor(WSGIServer, "wsgi", address="0.0.0.0")\ndirector.register_actor(Step, "hook")\n'
)


def test_findings_are_lines_with_a_place_and_the_exit_code_is_1(
    write: Write, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(CIRCLE + 'director.connect_queue("wsgi", "hook")\nprint("noise")\n')
    done = command("check", "flow.py")
    error, remedy, warning, _, summary = done.stdout.splitlines()
    assert error == (
        f"flow.py:{HEAD_LINES + 2}: error C101: requests of 'wsgi' end at 'hook' without an answer: no way leads back "
        "from there (wsgi → hook)"
    )
    assert "director.connect_queue('hook', 'wsgi')" in remedy
    assert warning.startswith(f"flow.py:{HEAD_LINES + 1}: warning C203: 'wsgi' listens on http://0.0.0.0:8080/")
    assert summary == "flow.py: 1 error, 1 warning; see docs/checks.md"
    assert (done.stderr, done.returncode) == ("noise\n", 1)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Inspection]:
    path = tmp_path_factory.mktemp("once") / "flow.py"
    path.write_text(HEAD + CIRCLE + 'director.connect_queue("wsgi", "hook")\nprint("noise")\n')
    return path, inspect(path)


@pytest.fixture
def seen(once: tuple[Path, Inspection], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script with one error and one warning, which is read once for all."""
    monkeypatch.setattr(check, "inspect", lambda *_, **__: once[1])
    return once[0]


@pytest.mark.parametrize(
    ("options", "code", "codes"),
    [
        ([], 1, ["C101", "C203"]),
        (["--ignore", "C101"], 0, ["C203"]),
        (["--ignore", "C101:hook"], 0, ["C203"]),
        (["--ignore", "C101:wsgi"], 1, ["C101", "C203"]),
        (["--ignore", "C101", "--strict"], 1, ["C203"]),
        (["--ignore", "C101", "--strict", "--ignore", "C203"], 0, []),
    ],
)
def test_codes_can_be_left_out_and_warnings_can_count(
    seen: Path, command: Command, options: list[str], code: int, codes: list[str]
) -> None:
    done = command("check", seen, "--format", "json", *options)
    answer: dict[str, Any] = json.loads(done.stdout)
    assert [finding["code"] for finding in answer["findings"]] == codes
    assert done.returncode == code
    assert answer["errors"] + answer["warnings"] == len(codes)


def test_a_wrong_code_or_actor_to_leave_out_gets_a_suggestion(seen: Path, command: Command) -> None:
    done = command("check", seen, "--ignore", "C101:hok")
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean 'hook'?" in done.stderr
    done = command("check", seen, "--ignore", "c101")
    assert done.returncode == 2
    assert "did you mean 'C101'?" in done.stderr


def test_a_script_gets_its_arguments_behind_two_dashes_and_its_settings(write: Write, command: Command) -> None:
    path = write(
        "assert sys.argv[1:] == ['-x', 'y'], sys.argv\n"
        "director.register_actor(STDOUT, director.setting('who', 'nobody', str))\n"
    )
    done = command("check", path, "--set", "who=me", "--format", "json", "--", "-x", "y")
    assert [finding["actor"] for finding in json.loads(done.stdout)["findings"]] == ["me"]


def test_a_script_that_is_not_there_is_exit_code_2(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for word in ("check", "graph"):
        done = command(word, "nothing.py")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "compysition: there is no script 'nothing.py'; there are none\n"


def test_ctrl_c_ends_the_script_with_the_command(write: Write, tmp_path: Path) -> None:
    path = write(f"import os; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", "compysition.cli", "check", str(path)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    assert err == f"compysition: {path} was interrupted\n"
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_picture_is_the_text_of_director_graph(write: Write, command: Command) -> None:
    path = write(
        CIRCLE
        + 'director.connect_queue("wsgi", "hook")\nprint("noise")\nprint(director.graph(), file=sys.stderr, end="")\n'
    )
    done = command("graph", path)
    assert done.returncode == 0
    assert done.stdout.startswith("flowchart LR\n")
    assert done.stderr == "noise\n" + done.stdout
    assert command("graph", path, "--format", "dot").stdout.startswith('digraph "default" {\n')


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], "the script starts 2 Directors: choose one with --director: 1 'default', 2 'second'"),
        (["--director", "second"], "picture of the second"),
        (["--director", "2"], "picture of the second"),
        (["--director", "secnd"], "there is no Director 'secnd'; did you mean 'second'?"),
        (["--director", "3"], "there is no Director '3'"),
    ],
)
def test_a_picture_of_one_of_several_directors_has_to_be_chosen(
    write: Write, command: Command, monkeypatch: pytest.MonkeyPatch, options: list[str], text: str
) -> None:
    looks = tuple(Look(name, (), 0, {"mermaid": f"picture of the {name}\n"}) for name in ("default", "second"))
    monkeypatch.setattr(check, "inspect", lambda *_, **__: Inspection((), looks))
    done = command("graph", write(""), *options)
    assert done.returncode == (0 if "picture" in text else 2)
    assert text in (done.stderr if done.returncode else done.stdout)


def test_no_picture_of_a_script_that_does_not_build(write: Write, command: Command) -> None:
    path = write("director = = 1\n")
    done = command("graph", path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{path}:{HEAD_LINES + 1}: invalid syntax" in done.stderr


@pytest.mark.parametrize("where", ["| true", "| head -1", ">&-", "2>&-"])
def test_a_reader_that_is_not_there_is_no_error(write: Write, where: str) -> None:
    path = write(CIRCLE + 'director.connect_queue("wsgi", "wsgi")\nprint("noise")\n', "flöw.py")
    done = subprocess.run(
        f"{sys.executable} -m compysition.cli graph {path} {where}; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr in ("noise\n", "")
    assert ("flowchart" in done.stdout) is (where in ("| head -1", "2>&-"))
