# SPDX-License-Identifier: Apache-2.0
"""``compysition run`` as people and log collectors see it: on a real terminal, in pipes, and as JSON."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from compysition import Actor, Director, Event
from compysition.actors import Source
from compysition.cli import run as run_command
from compysition.cli.run import CommandLineHost
from compysition.cli.terminal import Terminal
from compysition.drain import Drain, StopProgress
from tests.fault.conservation import Handler, assert_conserved, wait_until

ROOT: Final = Path(__file__).parents[2]
PATIENCE_S: Final = 20.0
COMMAND: Final = (sys.executable, "-m", "compysition.cli", "run")

SCRIPT: Final = """
import gevent
from compysition import Actor, Director
from compysition.actors import Source, WSGI

class Slow(Actor):
    def consume(self, event):
        if event.data == 0:
            while not director.is_running():
                gevent.sleep(0.01)
            print("began", flush=True)
        gevent.sleep({sleep_s})

director = Director(stop_timeout_s={timeout_s})
source = director.register_actor(Source, "source", range(3))
slow = director.register_actor(Slow, "slow", options={{"concurrency": 1}})
director.register_actor(WSGI, "wsgi", run_server=True, port=0)
director.connect_queue(source, slow)
director.start()
"""
DOOR: Final = re.compile(r"^wsgi: http://127\.0\.0\.1:\d+/  \(try: curl -i http://127\.0\.0\.1:\d+/\)$")


def environment(**names: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    return {**own, "PYTHONPATH": str(ROOT), "TERM": "xterm", **names}


class Process:
    """A command with its standard error at a terminal or at a pipe; `said` is what it wrote there."""

    def __init__(self, arguments: Sequence[str], *, is_terminal: bool, **names: str) -> None:
        self._reading, writing = pty.openpty() if is_terminal else os.pipe()
        if is_terminal:
            fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
        self.popen = subprocess.Popen(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=writing, env=environment(**names)
        )
        os.close(writing)
        self.said = ""

    def begin(self) -> None:
        """Wait until its handler runs."""
        assert self.popen.stdout is not None
        assert select.select([self.popen.stdout], [], [], PATIENCE_S)[0]
        assert self.popen.stdout.readline() == b"began\n", self.finish()

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.said:
            assert time.monotonic() < deadline, self.said
            assert self._read(1.0) is not False, self.said

    def finish(self) -> tuple[int, str]:
        """Its exit code, and all that it said."""
        while self._read(PATIENCE_S):
            pass
        return self.popen.wait(PATIENCE_S), self.said

    def close(self) -> None:
        self.popen.kill()
        self.popen.communicate()
        os.close(self._reading)

    def _read(self, timeout_s: float) -> bool | None:
        """Whether there was something; False at the end, None when the time is over."""
        if not select.select([self._reading], [], [], timeout_s)[0]:
            return None
        try:
            block = os.read(self._reading, 65536)
        except OSError:  # what Linux says at the end of a terminal
            block = b""
        self.said += block.decode().replace("\r\n", "\n")
        return bool(block)


class Launch:
    def __init__(self, script: Path) -> None:
        self._script = script
        self.started: list[Process] = []

    def __call__(
        self,
        *options: str,
        is_terminal: bool,
        sleep_s: float = 0.3,
        timeout_s: float = 10.0,
        names: dict[str, str] | None = None,
    ) -> Process:
        self._script.write_text(SCRIPT.format(sleep_s=sleep_s, timeout_s=timeout_s))
        self.started.append(Process([*COMMAND, *options, str(self._script)], is_terminal=is_terminal, **names or {}))
        return self.started[-1]


@pytest.fixture(name="launch")
def launch_fixture(tmp_path: Path) -> Iterator[Launch]:
    launch = Launch(tmp_path / "flow.py")
    yield launch
    for process in launch.started:
        process.close()


# ---- on a terminal ------------------------------------------------------------------------------------------------


def test_a_terminal_sees_how_far_the_stop_is_and_then_the_report(launch: Launch) -> None:
    process = launch(is_terminal=True, sleep_s=0.5)
    process.begin()
    process.popen.send_signal(signal.SIGINT)
    code, said = process.finish()
    assert code == 0
    assert DOOR.match(said.partition("\n")[0])
    assert "SIGINT: stopping; once more ends at once\n" in said
    assert re.search(r"\r\x1b\[K[12] left, \d+ s\r", said)
    assert re.search(r"\r\x1b\[K\x1b\[32mstopped after [\d.]+ s:\x1b\[0m everything drained .*SIGINT\n$", said)


def test_the_second_signal_ends_at_once_on_a_line_of_its_own(launch: Launch) -> None:
    process = launch(is_terminal=True, sleep_s=60)
    process.begin()
    process.popen.send_signal(signal.SIGINT)
    process.wait_for("3 left")
    process.popen.send_signal(signal.SIGINT)
    code, said = process.finish()
    assert code == 128 + signal.SIGINT
    assert "\r\x1b[KSIGINT again: ending at once\nstopped after " in said
    assert re.search(r"\n  slow +0 done +3 left +0 dropped\n", said)


@pytest.mark.parametrize("names", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_who_wants_no_colour_gets_none(launch: Launch, names: dict[str, str]) -> None:
    process = launch(is_terminal=True, sleep_s=0.01, names=names)
    process.begin()
    process.popen.send_signal(signal.SIGTERM)
    code, said = process.finish()
    assert code == 0
    assert "\x1b[3" not in said


# ---- in pipes -----------------------------------------------------------------------------------------------------


def test_a_pipe_sees_the_doors_and_the_end_and_no_control_characters(launch: Launch) -> None:
    process = launch(is_terminal=False)
    process.begin()
    process.popen.send_signal(signal.SIGTERM)
    code, said = process.finish()
    assert code == 0
    door, end = said.splitlines()
    assert DOOR.match(door)
    assert re.fullmatch(r"stopped after [\d.]+ s: everything drained \(exit code 0\); SIGTERM", end)


def test_quiet_says_nothing_if_all_went_well(launch: Launch) -> None:
    process = launch("-q", is_terminal=False, sleep_s=0.01)
    process.begin()
    process.popen.send_signal(signal.SIGTERM)
    assert process.finish() == (0, "")


def test_quiet_says_what_was_left(launch: Launch) -> None:
    process = launch("-q", "--stop-timeout", "100 ms", is_terminal=False, sleep_s=60)
    process.begin()
    process.popen.send_signal(signal.SIGTERM)
    code, said = process.finish()
    assert code == 1
    assert re.search(r"^stopped after .*: not everything drained", said, re.MULTILINE)
    assert re.search(r"^  slow +0 done +3 left", said, re.MULTILINE)


def test_in_json_every_line_is_an_object(launch: Launch) -> None:
    process = launch("--log-format", "json", "--stop-timeout", "0.1", is_terminal=False, sleep_s=60)
    process.begin()
    process.popen.send_signal(signal.SIGTERM)
    code, said = process.finish()
    lines = [json.loads(line) for line in said.splitlines()]
    assert code == 1
    assert DOOR.match(lines[0]["message"])
    assert {line["level"] for line in lines[1:-1]} == {"WARNING"}
    assert {line["actor"] for line in lines[1:-1]} == {"slow"}
    assert (lines[-1]["level"], lines[-1]["exit_code"], lines[-1]["actors"]["slow"]["left"]) == ("ERROR", 1, 3)


def test_an_error_of_the_script_is_an_object_in_json_with_its_traceback(tmp_path: Path) -> None:
    script = tmp_path / "flow.py"
    script.write_text("\n1 / 0\n")
    done = subprocess.run(
        [*COMMAND, "--log-format=json", str(script)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    line = json.loads(done.stderr)
    assert (done.returncode, line["exit_code"], line["message"]) == (
        2,
        2,
        "flow.py:2: ZeroDivisionError: division by zero",
    )
    assert line["traceback"].endswith("ZeroDivisionError: division by zero")


# ---- what holds a stop --------------------------------------------------------------------------------------------


class Keeping(Actor):
    def consume(self, event: Event) -> None:
        self.keep(event)


class Watching(Actor):
    def pre_hook(self) -> None:
        self.background(self.watch)

    def watch(self) -> None:
        wait_until(lambda: False, 60.0)


def test_a_long_stop_names_who_holds_it_and_with_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_command, "SHORT_S", 0.0)
    monkeypatch.setattr(run_command, "LONG_S", 0.01)
    monkeypatch.setattr(run_command, "TICK_S", 0.01)
    said: list[str] = []
    terminal = Terminal(is_shared=False, environment={})
    monkeypatch.setattr(terminal, "say", lambda text, **fields: said.append(text))
    director = Director(stop_timeout_s=0.3)
    CommandLineHost(terminal, None).start(director)
    director.register_actor(Keeping, "keeping")
    director.register_actor(Watching, "watching")
    director.start(block=False)
    director.post("keeping", 1)
    wait_until(lambda: director.snapshot().actors["keeping"].kept == 1)
    assert not director.stop().ok
    (line,) = said
    assert line.startswith("still stopping: 1 left, 0 s until the rest is killed; ")
    assert "'keeping': 1 kept" in line
    assert "'watching': background greenlet 'Watching.watch'" in line
    assert_conserved(director)


def test_progress_counts_what_is_in_hand_and_queued() -> None:
    seen: list[StopProgress] = []

    def look(drain: Drain) -> None:
        seen.append(drain.progress())

    def wait(actor: Actor, event: Event) -> None:
        actor.sleep(60)

    director = Director()
    source = director.register_actor(Source, "source", range(3))
    director.connect_queue(source, director.register_actor(Handler, "slow", wait, options={"concurrency": 1}))
    director.on_stop = look
    director.start(block=False)
    wait_until(lambda: director.snapshot().actors["slow"].in_flight == 1)
    director.stop()
    assert seen[0].left in (2, 3)
    assert_conserved(director)
