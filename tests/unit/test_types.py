# SPDX-License-Identifier: Apache-2.0
"""What the types say to a user's code, in an environment that has nothing but compysition and gevent.

gevent ships no types, and whoever installs compysition need not have those that we check with. So mypy looks here at an
environment without them: what comes from gevent is `Any` there, and none of it may reach a user's code. The only `Any`
that does is an event's data, and what a user stores beside it.
"""

import os
import re
import subprocess
import sys
import venv
from pathlib import Path

import gevent
import greenlet
import pytest

pytest.importorskip("mypy", reason="mypy looks once, on the Python of .venv: the other environments have no tools")

ROOT = Path(__file__).parents[2]

SCRIPT = '''
"""A user's script: every line is looked at by mypy, in its strictest form."""

import sys

from compysition import Actor, ActorOptions, Director, Event, Fatal, HttpEvent, Outcome, Retry, StopFlow, StopReport
from compysition.actors import (
    STDOUT, WSGI, BasicAuth, Data, EventJoin, EventLogger, EventRouter, FlowController, Null, Source, TestEvent, Timer,
    WSGIServer,
)
from compysition.errors import DeadlineError, NotFoundError


class Shout(Actor):
    options = ActorOptions(concurrency=1)

    def __init__(self, name: str, mark: str = "!") -> None:
        super().__init__(name)
        self.mark = mark

    def pre_hook(self) -> None:
        greenlet = self.background(self.tick, restart=False)
        if greenlet is not None:
            self.logger.info("started %s", greenlet.name)

    def tick(self) -> None:
        while self.loop():
            part = self.create_event(data="tick")
            part.set("mark", self.mark)
            self.send_event(part, queues="out")
            if not self.sleep(1.0):
                return

    def consume(self, event: Event, origin: str = "") -> None:
        text = str(event.data)
        if not text:
            raise NotFoundError("nothing to shout")
        if event.attempts > 3:
            raise Fatal("no more")
        if isinstance(event, HttpEvent):
            event.response.status = 201
            event.response.headers["X-Name"] = event.query.get("name", "")
        shouted = self.offload(str.upper, text, timeout_s=1.0)
        reveal_type(shouted)  # str
        event.data = shouted + self.mark
        self.send_event(event)

    def on_drain(self) -> None:
        if self.inbox_depth:
            raise Retry(after_s=1.0)
        raise StopFlow


def build() -> Director:
    director = Director(size=100, name="typed")
    door = director.register_actor(WSGI, "door", port=0)
    shout = director.register_actor(
        Shout,
        "shout",
        mark="?",
        options={"concurrency": 2},
    )
    ready = director.register_actor(Null("ready"), "ready")
    log = director.register_log_actor(STDOUT, "log", timestamp=True)
    errors = director.register_error_actor(STDOUT, "errors")
    director.connect_queue(door, [shout, (ready, "inbox")], capacity=10, overflow="drop_oldest")
    director.connect_queue((shout, "out"), door)
    director.connect_queue_error(shout, "door")
    reveal_type(door)  # compysition.actors.wsgi.WSGI
    reveal_type(shout)  # user.Shout
    reveal_type(ready)  # compysition.actors.null.Null
    reveal_type(log)  # compysition.actors.stdout.STDOUT
    reveal_type(errors)  # compysition.actors.stdout.STDOUT
    reveal_type(shout.mark)  # str
    reveal_type(door.port)  # int
    reveal_type(director.get_actor("shout"))  # compysition.actor.Actor
    return director


def look(director: Director) -> None:
    snapshot = director.snapshot()
    reveal_type(snapshot.actors["shout"].in_flight)  # int
    reveal_type(snapshot.balance.ended[Outcome.DEAD])  # int
    reveal_type([queue.depth for queue in snapshot.queues.values()])  # list[int]
    for letter in director.dead_letters:
        reveal_type(letter.reason)  # str
        reveal_type(letter.event)  # compysition.event.Event
        if letter.error is not None:
            reveal_type(letter.error.status)  # int
    try:
        reveal_type(director.ask("shout", "a", timeout_s=1.0))  # compysition.event.Event
    except DeadlineError as error:
        reveal_type(error.status)  # int
    director.post("shout", "a", inbox="side")


def main() -> int:
    with build() as director:
        reveal_type(director)  # compysition.director.Director
        look(director)
    report = director.start(until_idle=True)
    reveal_type(report)  # compysition.drain.StopReport | None
    stopped: StopReport = director.stop(timeout_s=1.0)
    reveal_type(stopped.actors["shout"].done)  # int
    return stopped.exit_code


if __name__ == "__main__":
    sys.exit(main())
'''

TEST = '''
"""A user's test."""

from collections.abc import Iterator

import pytest
from compysition import Actor, Director, Event, HttpEvent
from compysition.actors import WSGI
from compysition.testing import (
    Collector, Handler, Kit, VirtualClock, Watch, assert_conserved, drive, http_call, http_event, running, settle,
    wait_until,
)
from user import Shout, build


@pytest.fixture
def kit() -> Iterator[Kit[Shout]]:
    with drive(Shout, "shout", mark="!", outboxes=("out",)) as kit:
        reveal_type(kit)  # compysition.testing.drive.Kit[user.Shout]
        yield kit


def send_on(actor: Handler, event: Event) -> None:
    reveal_type(actor.offload(len, "abc"))  # int
    actor.send_event(event)


def test_handler() -> None:
    with drive(Handler, "up", send_on) as kit:
        reveal_type(kit.send())  # compysition.event.Event


def test_one(kit: Kit[Shout], compysition_watch: Watch, virtual_clock: VirtualClock) -> None:
    reveal_type(kit.send("a"))  # compysition.event.Event
    reveal_type(kit.send(http_event("GET", "/a")))  # compysition.http.event.HttpEvent
    reveal_type(kit.one())  # compysition.event.Event
    reveal_type(kit.sent("out"))  # list[compysition.event.Event]
    reveal_type(kit.actor.mark)  # str
    reveal_type([letter.reason for letter in kit.dead_letters])  # list[str]
    reveal_type(kit.state.kept)  # int
    kit.advance(1.0)
    virtual_clock.advance(2.0)
    reveal_type(compysition_watch.take(ValueError))  # list[ValueError]


def test_two() -> None:
    with VirtualClock() as clock, running(build()) as director:
        reveal_type(clock)  # compysition.testing.clock.VirtualClock
        reveal_type(director)  # compysition.director.Director
        reveal_type(clock.jump_until(lambda: True))  # float
        got = director.register_actor(Collector, "got")
        reveal_type([event.meta_id for event in got.events])  # list[str]
        with clock.jumping():
            director.ask(got, 1)
        wait_until(lambda: bool(got.events), what="an event")
        settle()
        assert_conserved(director)
        door = director.register_actor(WSGI, "door")
        answer = http_call(door, "POST", "/a", {"b": 1})
        reveal_type(answer.status)  # int
        reveal_type(answer.headers["a"])  # str
'''

FILES = {"user.py": SCRIPT, "test_user.py": TEST}
#: Expressions that mypy finds `Any` in, and why that is no leak.
BORNE = {
    "text = str(event.data)": "an event's data is the user's own",
    "if isinstance(event, HttpEvent):": "its constructor takes data and attributes, which are the user's own",
    "@pytest.fixture": "pytest's own",
    'options={"concurrency": 2},': "a mapping, as the user gives it",
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with compysition and gevent, and pytest for the user's test."""
    home = tmp_path_factory.mktemp("clean")
    venv.create(home, symlinks=True)
    (site,) = (home / "lib").glob("python*/site-packages")
    # As installed: each package by itself, and none of the stubs that lie beside them where we work.
    for place in (ROOT / "compysition", ROOT / "pytest_compysition.py", *map(package_of, (gevent, greenlet, pytest))):
        (site / place.name).symlink_to(place)
    (site / "_pytest").symlink_to(package_of(pytest).parent / "_pytest")
    return home / "bin" / "python"


def package_of(module: object) -> Path:
    return Path(str(getattr(module, "__file__", ""))).parent


@pytest.fixture(scope="module")
def findings(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, int, str]]:
    """What mypy says: file, line, and ``note: …`` or ``error: …``."""
    place = tmp_path_factory.mktemp("user")
    for name, text in FILES.items():
        (place / name).write_text(text, encoding="utf-8")
    options = ["--strict", "--disallow-any-expr", "--no-pretty", "--hide-error-context", "--config-file", os.devnull]
    places = ["--python-executable", str(environment), "--cache-dir", str(place / "cache")]
    command = [sys.executable, "-m", "mypy", *options, *places, *FILES]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, 1), done.stderr
    lines = [re.match(r"(\w+\.py):(\d+): (\w+: .*)", line) for line in done.stdout.splitlines()]
    return [(found[1], int(found[2]), found[3]) for found in lines if found]


def line_of(file: str, number: int) -> str:
    return FILES[file].splitlines()[number - 1]


@pytest.mark.timeout(300)
def test_types_are_known(findings: list[tuple[str, int, str]]) -> None:
    revealed = {
        (file, number): text.partition('"')[2].rpartition('"')[0]
        for file, number, text in findings
        if text.startswith("note: Revealed type")
    }
    wanted = {
        (file, number): line.rpartition("  # ")[2]
        for file, text in FILES.items()
        for number, line in enumerate(text.splitlines(), 1)
        if "reveal_type(" in line
    }
    plain = {key: text.replace("builtins.", "") for key, text in revealed.items()}
    assert plain == wanted


@pytest.mark.timeout(300)
def test_nothing_is_any_but_the_data_of_an_event(findings: list[tuple[str, int, str]]) -> None:
    errors = [(file, number, text) for file, number, text in findings if text.startswith("error: ")]
    found = {line_of(file, number).strip(): text for file, number, text in errors}
    assert found.keys() == BORNE.keys(), found
    assert all(text.endswith("[misc]") for text in found.values()), found
