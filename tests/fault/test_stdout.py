# SPDX-License-Identifier: Apache-2.0
"""`STDOUT` in processes of its own, on pipes whose reader pauses or goes away, files, devices and terminals.

Each process says at its end, as the last line of its standard error, how its events ended.
"""

import fcntl
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pytest

ROOT: Final = Path(__file__).parents[2]
#: Nothing here takes longer, unless it hangs.
LIMIT_S: Final = 10.0
#: The smallest pipe that Linux makes, in bytes.
SMALL_PIPE: Final = 4096
#: Ticks of the child's hub after which it has surely turned, 5 ms apart.
TICKS: Final = 20

#: What every script begins with. `ticker` writes a "t" on standard error as long as the hub turns; `finish` says how
#: the events ended and leaves with the report's exit code.
PRELUDE: Final = """
import fcntl, json, os, signal, sys
from collections import Counter
import gevent
from compysition import Director, Event
from compysition.actor import Actor
from compysition.actors import STDOUT, Source

def tick():
    while True:
        gevent.sleep(0.005)
        os.write(2, b"t")

def finish(director, report):
    balance = director.snapshot().balance
    letters = Counter(
        f"{letter.actor} {letter.reason} {letter.error.error_class.__name__ if letter.error else None}"
        for letter in director.dead_letters
    )
    said = {
        "even": balance.is_even, "held": balance.held, "accepted": balance.accepted, "letters": letters,
        "lost_letters": director.dead_letters.lost, "took_s": report.took_s,
        "ended": {outcome.value: number for outcome, number in balance.ended.items() if number},
    }
    os.write(2, b"\\n" + json.dumps(said).encode() + b"\\n")
    sys.stdout = None
    os._exit(report.exit_code)

def lines(director, items, *names, **options):
    source = director.register_actor(Source, "source", items)
    for name in names or ["out"]:
        director.connect_queue(source, director.register_actor(STDOUT, name, **options))
"""

#: Prints numbered lines with one STDOUT, until told to stop.
NUMBERS: Final = """
director = Director(stop_timeout_s=STOP_S)
lines(director, (f"{number:05d}" for number in range(COUNT)), *NAMES)
ticker = gevent.spawn(tick)
finish(director, director.start(until_idle=True))
"""

#: What scripts begin with that post by themselves.
POSTING: Final = """
import gevent.event, gevent.socket

class Slow(Actor):
    def __init__(self, name):
        super().__init__(name, blocking_consume=True)
        self.gate = gevent.event.Event()
        self.seen = []
    def consume(self, event):
        self.gate.wait()
        self.seen.append(event.data)

def kill_handler(name):
    for consumer in director.dispatcher.consumers:
        if consumer.hand.sender is not None and consumer.hand.sender.name == name:
            consumer.kill(block=False)

def until(condition):
    with gevent.Timeout(4):
        while not condition():
            gevent.sleep(0.002)

director = Director(stop_timeout_s=2.0)
"""


class Child:
    """A process that runs a script, with its standard output at `stdout`."""

    def __init__(
        self, script: str, stdout: Any, env: dict[str, str] | None = None, *, is_closed: bool = False, **names: Any
    ) -> None:
        constants = "".join(f"{name} = {value!r}\n" for name, value in names.items())
        self.process = subprocess.Popen(
            [
                "/bin/sh",
                "-c",
                f'exec "$0" "$@" {">&-" * is_closed}',
                sys.executable,
                "-c",
                PRELUDE + constants + script,
            ],
            stdout=stdout,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONUTF8": "1", **(env or {})},
        )
        self.errors = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def await_ticks(self, number: int = TICKS) -> None:
        """Wait until the hub of the process has turned so often from now on."""
        assert self.process.stderr is not None
        descriptor = self.process.stderr.fileno()
        while select.select([descriptor], [], [], 0)[0]:
            self._read_errors(descriptor)
        seen = 0
        deadline = time.monotonic() + LIMIT_S
        while seen < number:
            assert time.monotonic() < deadline
            assert select.select([descriptor], [], [], 2.0)[0], f"the hub does not turn: {seen} ticks"
            seen += self._read_errors(descriptor).count(b"t")

    def await_word(self, word: bytes) -> None:
        """Wait until the process has written `word` on its standard error."""
        while word not in self.errors:
            self.await_ticks(1)

    def _read_errors(self, descriptor: int) -> bytes:
        piece = os.read(descriptor, 65536)
        assert piece, f"the process has ended: {self.errors!r}"
        self.errors += piece
        return piece

    def end(self) -> dict[str, Any]:
        """Wait for the end of the process; what it said about its events. They are all accounted for."""
        assert self.process.stderr is not None
        self.errors += self.process.stderr.read()
        self.process.wait(timeout=LIMIT_S)
        assert b"Traceback" not in self.errors, self.errors.decode()
        said: dict[str, Any] = json.loads(self.errors.splitlines()[-1])
        assert said["even"], said
        assert said["held"] == 0, said
        return said | {"code": self.process.returncode}


class Pipe:
    """A pipe; the test reads it, the process writes it. Both sides see its flags."""

    def __init__(self, size: int | None = None) -> None:
        self.read_fd, self.write_fd = os.pipe()
        if size is not None:
            fcntl.fcntl(self.write_fd, fcntl.F_SETPIPE_SZ, size)
        self.size = fcntl.fcntl(self.write_fd, fcntl.F_GETPIPE_SZ)
        self.flags = fcntl.fcntl(self.write_fd, fcntl.F_GETFL)

    def hand_over(self) -> None:
        """Only the process has the writing side from now on."""
        os.close(self.write_fd)
        self.write_fd = -1

    def close_reader(self) -> None:
        os.close(self.read_fd)
        self.read_fd = -1

    def waiting(self) -> int:
        """How many bytes wait to be read."""
        return int.from_bytes(fcntl.ioctl(self.read_fd, 0x541B, b"\0" * 4), sys.byteorder)  # FIONREAD

    def await_full(self) -> None:
        """Wait until no block fits into it any more."""
        deadline = time.monotonic() + LIMIT_S
        while self.waiting() <= self.size - 4096:
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def read_all(self) -> bytes:
        with open(self.read_fd, "rb", closefd=False) as file:
            return file.read()

    def close(self) -> None:
        for descriptor in (self.read_fd, self.write_fd):
            if descriptor >= 0:
                os.close(descriptor)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


@pytest.fixture
def small_pipe() -> Iterator[Pipe]:
    pipe = Pipe(SMALL_PIPE)
    yield pipe
    pipe.close()


def run(script: str, *, env: dict[str, str] | None = None, **names: Any) -> tuple[bytes, dict[str, Any]]:
    """What the script wrote into a pipe that is always read, and how it ended."""
    with Child(script, subprocess.PIPE, env, **names) as child:
        assert child.process.stdout is not None
        with child.process.stdout as file:
            written = file.read()
        return written, child.end()


def numbers(count: int) -> list[str]:
    return [f"{number:05d}" for number in range(count)]


# ---- a reader that goes away ------------------------------------------------------------------------------------


def test_when_the_reader_has_gone_events_fail_with_a_name_and_the_process_stays_up(pipe: Pipe) -> None:
    pipe.close_reader()
    with Child(NUMBERS, pipe.write_fd, STOP_S=5.0, COUNT=100, NAMES=[]) as child:
        pipe.hand_over()
        said = child.end()

    assert said["letters"] == {"out failed BrokenPipeError": 100}
    assert said["accepted"] == 100
    assert said["code"] == 0


def test_when_the_reader_goes_away_in_the_middle_each_event_is_written_or_fails(small_pipe: Pipe) -> None:
    with Child(NUMBERS, small_pipe.write_fd, STOP_S=5.0, COUNT=3000, NAMES=[]) as child:
        small_pipe.hand_over()
        small_pipe.await_full()
        small_pipe.close_reader()
        said = child.end()

    assert list(said["letters"]) == ["out failed BrokenPipeError"]
    assert said["ended"]["delivered"] + said["ended"]["dead"] == 3000
    assert said["ended"]["dead"] > 2000


def test_failed_lines_take_the_error_wire(pipe: Pipe) -> None:
    script = """
    class Sink(Actor):
        seen = []
        def consume(self, event):
            self.seen.append((event.data, event.error.error_class.__name__, event.error.actor))

    director = Director()
    lines(director, ["a", "b"])
    director.connect_queue_error("out", director.register_actor(Sink, "errors"))
    report = director.start(until_idle=True)
    assert Sink.seen == [("a", "BrokenPipeError", "out"), ("b", "BrokenPipeError", "out")], Sink.seen
    finish(director, report)
    """
    pipe.close_reader()
    with Child(dedented(script), pipe.write_fd) as child:
        pipe.hand_over()
        said = child.end()

    assert (said["letters"], said["ended"]) == ({}, {"delivered": 2})


def dedented(script: str) -> str:
    return "\n".join(line.removeprefix("    ") for line in script.splitlines())


@pytest.mark.parametrize("how", ["sys.stdout.close()", "sys.stdout = None", "at the start"])
def test_a_standard_output_that_is_closed_fails_events_with_a_name(how: str) -> None:
    script = """
    director = Director()
    lines(director, ["a"])
    finish(director, director.start(until_idle=True))
    """
    if how == "at the start":
        command = Child(dedented(script), subprocess.DEVNULL, is_closed=True)
    else:
        command = Child(f"{how}\n{dedented(script)}", subprocess.DEVNULL)
    with command as child:
        said = child.end()
    assert said["letters"] == {"out failed OSError": 1}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_fails_events_with_a_name() -> None:
    with Path("/dev/full").open("wb") as full, Child(NUMBERS, full, STOP_S=5.0, COUNT=10, NAMES=[]) as child:
        said = child.end()
    assert said["letters"] == {"out failed OSError": 10}


# ---- a reader that pauses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [["out"], ["out", "second"], ["out", "second", "third", "fourth"]], ids=len)
def test_a_reader_that_pauses_holds_only_the_lines_and_loses_none(small_pipe: Pipe, names: list[str]) -> None:
    """With several actors on one pipe, each must look again before it writes: another one may have filled it."""
    read = b""
    with Child(NUMBERS, small_pipe.write_fd, STOP_S=5.0, COUNT=3000, NAMES=names) as child:
        small_pipe.hand_over()
        for _ in range(3):
            small_pipe.await_full()
            child.await_ticks()
            read += os.read(small_pipe.read_fd, SMALL_PIPE)
        read += small_pipe.read_all()
        said = child.end()

    assert len(read) == 3000 * 6 * len(names)
    assert (said["code"], said["ended"]) == (0, {"delivered": 3000 * len(names)})


@pytest.mark.parametrize("kind", ["pipe", "terminal", "file"])
def test_lines_of_several_actors_are_never_mixed(kind: str, tmp_path: Path) -> None:
    names = ["out", "second", "third"]
    script = NUMBERS.replace(':05d}"', ':05d}" * (1 + number % 7)')
    wanted = sorted([f"{number:05d}" * (1 + number % 7) for number in range(10_000)] * len(names))
    size = sum(len(line) + 1 for line in wanted)
    pipe, (master, slave) = Pipe(), pty.openpty()
    tty.setraw(slave)
    try:
        with (tmp_path / "out").open("wb") as file:
            stdout = {"pipe": pipe.write_fd, "terminal": slave, "file": file.fileno()}[kind]
            with Child(script, stdout, STOP_S=5.0, COUNT=10_000, NAMES=names) as child:
                if kind == "file":
                    child.end()
                    read = (tmp_path / "out").read_bytes()
                else:
                    read = read_exactly(pipe.read_fd if kind == "pipe" else master, size)
                    child.end()
    finally:
        pipe.close()
        os.close(master)
        os.close(slave)

    assert sorted(read.decode().splitlines()) == wanted


def test_a_reader_that_paused_gets_every_line_in_order(small_pipe: Pipe) -> None:
    with Child(NUMBERS, small_pipe.write_fd, STOP_S=5.0, COUNT=5000, NAMES=[]) as child:
        small_pipe.hand_over()
        small_pipe.await_full()
        child.await_ticks()
        written = small_pipe.read_all()
        said = child.end()

    assert written.decode().splitlines() == numbers(5000)
    assert said["ended"] == {"delivered": 5000}


@pytest.mark.parametrize("names", [["out"], ["out", "second"]], ids=len)
def test_a_terminal_whose_reader_pauses_holds_only_the_lines(names: list[str]) -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    flags = fcntl.fcntl(slave, fcntl.F_GETFL)
    try:
        with Child(NUMBERS, slave, STOP_S=5.0, COUNT=20_000, NAMES=names) as child:
            child.await_ticks()
            # It is full by now, or soon.
            child.await_ticks(2 * TICKS)
            written = read_exactly(master, 20_000 * 6 * len(names))
            said = child.end()
        assert fcntl.fcntl(slave, fcntl.F_GETFL) == flags
    finally:
        os.close(master)
        os.close(slave)

    assert (said["code"], said["ended"]) == (0, {"delivered": 20_000 * len(names)})
    assert sorted(written.decode().splitlines()) == sorted(numbers(20_000) * len(names))


def test_a_terminal_with_little_room_holds_only_the_lines() -> None:
    """It calls itself writable when it has room for one byte; a write of more than fits waits for the rest."""
    script = """
    import pty, select, tty
    # Both sides are here, so that what room is left is the same in each run.
    master, slave = pty.openpty()
    tty.setraw(slave)
    os.dup2(slave, 1)
    own = os.open(os.ttyname(slave), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    room = select.poll()
    room.register(slave, select.POLLOUT)

    def fill():
        for size in (4000, 1):
            try:
                while True:
                    os.write(own, b"-" * size)
            except BlockingIOError:
                pass

    fill()
    for _ in range(3):
        while not room.poll(0):
            os.read(master, 50)
        fill()
    while not room.poll(0):
        os.read(master, 50)
    out = director.register_actor(STDOUT, "out")
    director.start(block=False)
    ticker = gevent.spawn(tick)
    gevent.sleep(0.02)
    director.post("out", "x" * 4000)
    gevent.sleep(0.1)
    os.write(2, b" alive ")
    read = b""
    while not read.endswith(b"\\n"):
        gevent.socket.wait_read(master)
        read += os.read(master, 65536)
    assert read.replace(b"-", b"") == b"x" * 4000 + b"\\n"
    until(lambda: director.snapshot().balance.held == 0)
    finish(director, director.stop())
    """
    with Child(POSTING + dedented(script), subprocess.DEVNULL) as child:
        child.await_word(b" alive ")
        said = child.end()
    assert (said["code"], said["ended"]) == (0, {"delivered": 1})


def read_exactly(descriptor: int, number: int) -> bytes:
    pieces = b""
    while len(pieces) < number:
        assert select.select([descriptor], [], [], LIMIT_S)[0], f"{len(pieces)} of {number} bytes have come"
        pieces += os.read(descriptor, number - len(pieces))
    return pieces


@pytest.mark.parametrize("kind", ["pipe", "terminal"])
def test_a_reader_that_pauses_at_the_stops_deadline_leaves_dead_letters_and_exit_code_1(kind: str) -> None:
    pipe = Pipe(SMALL_PIPE)
    descriptors = list(pty.openpty()) if kind == "terminal" else []
    if descriptors:
        tty.setraw(descriptors[1])
    script = NUMBERS.replace("director.start(until_idle=True)", "director.start()")
    try:
        stdout = descriptors[1] if descriptors else pipe.write_fd
        with Child(script, stdout, STOP_S=0.3, COUNT=20_000, NAMES=[]) as child:
            child.await_ticks()
            if not descriptors:
                pipe.await_full()
            child.await_ticks()
            child.process.send_signal(signal.SIGTERM)
            said = child.end()
    finally:
        pipe.close()
        for descriptor in descriptors:
            os.close(descriptor)

    assert said["code"] == 1
    assert list(said["letters"]) == ["out stopped DirectorStoppedError"]
    assert said["ended"]["dead"] == sum(said["letters"].values()) + said["lost_letters"]
    assert said["ended"]["dead"] + said["ended"]["delivered"] == said["accepted"]
    assert said["took_s"] < 3.0


def test_a_reader_that_pauses_makes_back_pressure_instead_of_memory(small_pipe: Pipe) -> None:
    script = """
    director = Director(size=10)
    made = []
    def items():
        for number in range(2000):
            made.append(number)
            yield f"{number:05d}"
    lines(director, items())
    def say():
        while True:
            gevent.sleep(0.005)
            os.write(2, b"t")
            os.write(2, f" {len(made)} ".encode())
    ticker = gevent.spawn(say)
    finish(director, director.start(until_idle=True))
    """
    with Child(dedented(script), small_pipe.write_fd) as child:
        small_pipe.hand_over()
        small_pipe.await_full()
        child.await_ticks()
        made = [int(word) for word in re.findall(rb" (\d+) ", child.errors)]
        small_pipe.read_all()
        said = child.end()

    # What is in the pipe, the block at hand, and the queue.
    assert made[-1] == made[-2] < 2 * 4096 / 6 + 10 + 100
    assert said["ended"] == {"delivered": 2000}


# ---- a handler that is killed -----------------------------------------------------------------------------------


def test_lines_that_wait_when_their_handler_is_killed_are_written_after_the_restart(small_pipe: Pipe) -> None:
    script = """
    out = director.register_actor(STDOUT, "out")
    director.start(block=False)
    for number in range(1000):
        gevent.spawn(director.post, "out", f"{number:05d}")
    ticker = gevent.spawn(tick)
    signal.signal(signal.SIGUSR2, lambda *_: kill_handler("out"))
    until(lambda: director.snapshot().actors["out"].restarts == 1)
    os.write(2, b"restarted")
    until(lambda: director.snapshot().balance.held == 0)
    finish(director, director.stop())
    """
    with Child(POSTING + dedented(script), small_pipe.write_fd) as child:
        small_pipe.hand_over()
        small_pipe.await_full()
        child.await_ticks()
        child.process.send_signal(signal.SIGUSR2)
        # Read before that, the pipe would let the handler end by itself.
        child.await_word(b"restarted")
        written = small_pipe.read_all()
        said = child.end()

    assert written.decode().splitlines() == numbers(1000)
    assert (said["code"], said["ended"]) == (0, {"delivered": 1000})


def test_lines_that_wait_when_their_handler_is_killed_need_no_further_event_to_be_written(small_pipe: Pipe) -> None:
    script = """
    out = director.register_actor(STDOUT, "out")
    director.start(block=False)
    director.post("out", "x" * 10_000)
    ticker = gevent.spawn(tick)
    signal.signal(signal.SIGUSR2, lambda *_: kill_handler("out"))
    until(lambda: director.snapshot().actors["out"].restarts == 1)
    os.write(2, b"restarted")
    until(lambda: director.snapshot().balance.held == 0)
    finish(director, director.stop())
    """
    with Child(POSTING + dedented(script), small_pipe.write_fd) as child:
        small_pipe.hand_over()
        small_pipe.await_full()
        child.await_ticks()
        child.process.send_signal(signal.SIGUSR2)
        child.await_word(b"restarted")
        written = small_pipe.read_all()
        said = child.end()

    assert written == b"x" * 10_000 + b"\n"
    assert (said["code"], said["ended"]) == (0, {"delivered": 1})


@pytest.mark.parametrize("kind", ["sent on", "failed"])
def test_an_event_that_waits_for_room_behind_its_line_when_the_handler_is_killed_goes_on(kind: str) -> None:
    script = """
    out = director.register_actor(STDOUT, "out")
    slow = director.register_actor(Slow, "slow")
    (director.connect_queue_error if FAILS else director.connect_queue)(out, slow, capacity=2)
    if FAILS:
        sys.stdout = None
    director.start(block=False)
    for number in range(10):
        director.post("out", f"{number:05d}")
    until(lambda: director.snapshot().actors["out"].waiting_puts == 1)
    kill_handler("out")
    until(lambda: director.snapshot().actors["out"].restarts == 1)
    slow.gate.set()
    report = director.stop()
    assert slow.seen == [f"{number:05d}" for number in range(10)], slow.seen
    finish(director, report)
    """
    fails = kind == "failed"
    with Child(POSTING + dedented(script), subprocess.PIPE, FAILS=fails) as child:
        assert child.process.stdout is not None
        with child.process.stdout as file:
            written = file.read()
        said = child.end()

    assert written.decode().splitlines() == ([] if fails else numbers(10))
    assert (said["code"], said["ended"]) == (0, {"delivered": 10})


# ---- what is behind the descriptor ------------------------------------------------------------------------------


@pytest.mark.parametrize("is_blocking", [True, False])
def test_the_flags_of_the_descriptor_stay_as_they_are(is_blocking: bool) -> None:
    pipe = Pipe(SMALL_PIPE)
    if not is_blocking:
        os.set_blocking(pipe.write_fd, False)
    flags = fcntl.fcntl(pipe.write_fd, fcntl.F_GETFL)
    try:
        with Child(NUMBERS, pipe.write_fd, STOP_S=5.0, COUNT=3000, NAMES=[]) as child:
            pipe.await_full()
            child.await_ticks()
            while_it_waits = fcntl.fcntl(pipe.write_fd, fcntl.F_GETFL)
            written = read_exactly(pipe.read_fd, 3000 * 6)
            said = child.end()
        after = fcntl.fcntl(pipe.write_fd, fcntl.F_GETFL)
    finally:
        pipe.close()

    assert [while_it_waits, after] == [flags, flags]
    assert bool(flags & os.O_NONBLOCK) is not is_blocking
    assert written.decode().splitlines() == numbers(3000)
    assert said["code"] == 0


def test_lines_go_into_a_file_behind_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("first\n")
    with path.open("ab") as file, Child(NUMBERS, file, STOP_S=5.0, COUNT=3000, NAMES=["a", "b"]) as child:
        said = child.end()

    written = path.read_text().splitlines()
    assert written[0] == "first"
    assert sorted(written[1:]) == sorted(numbers(3000) * 2)
    assert said["code"] == 0


def test_the_null_device_takes_everything() -> None:
    with Child(NUMBERS, subprocess.DEVNULL, STOP_S=5.0, COUNT=3000, NAMES=[]) as child:
        said = child.end()
    assert (said["code"], said["ended"]) == (0, {"delivered": 3000})


def test_a_socket_takes_everything() -> None:
    import socket

    ours, theirs = socket.socketpair()
    with ours, theirs, Child(NUMBERS, theirs.fileno(), STOP_S=5.0, COUNT=50_000, NAMES=["a", "b"]) as child:
        child.await_ticks(5 * TICKS)
        written = read_exactly(ours.fileno(), 50_000 * 6 * 2)
        said = child.end()
    assert sorted(written.decode().split()) == sorted(numbers(50_000) * 2)
    assert said["code"] == 0


# ---- what the lines hold ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ("text", "text"),
        ("é€😀", "é€😀"),
        ("", ""),
        (b"bytes", "bytes"),
        (b"\xc3\xa9", "é"),
        (b"\xff\x00", "\\xff\x00"),
        (bytearray(b"ab"), "ab"),
        ("half \ud800 pair", "half \\ud800 pair"),
        ("two\nlines", "two\nlines"),
        (None, "None"),
        (7, "7"),
        ({"a": [1, "é"]}, "{'a': [1, 'é']}"),
        ("x" * 20_000, "x" * 20_000),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_a_line_is_prefix_and_data(data: Any, line: str) -> None:
    script = """
    director = Director()
    lines(director, [DATA, "next"], prefix="it is ")
    finish(director, director.start(until_idle=True))
    """
    written, said = run(dedented(script), DATA=data)
    assert written.decode() == f"it is {line}\nit is next\n"
    assert said["ended"] == {"delivered": 2}


def test_what_the_encoding_of_standard_output_cannot_hold_is_escaped() -> None:
    script = """
    director = Director()
    lines(director, ["é€"], prefix="ß ")
    finish(director, director.start(until_idle=True))
    """
    written, _ = run(dedented(script), env={"PYTHONIOENCODING": "latin-1"})
    assert written == b"\xdf \xe9\\u20ac\n"


def test_data_that_cannot_be_printed_fails_alone() -> None:
    script = """
    class Unprintable:
        def __str__(self):
            raise ValueError("no")

    director = Director()
    lines(director, ["a", Unprintable(), "b"])
    finish(director, director.start(until_idle=True))
    """
    # The traceback in the log is the user's.
    with Child(dedented(script), subprocess.PIPE) as child:
        assert child.process.stdout is not None
        with child.process.stdout as file:
            assert file.read() == b"a\nb\n"
        assert child.process.stderr is not None
        said = json.loads(child.process.stderr.read().splitlines()[-1])
    assert said["letters"] == {"out failed ValueError": 1}
    assert said["even"]


def test_the_timestamp_is_the_local_time_to_the_microsecond() -> None:
    script = """
    director = Director()
    lines(director, ["x"] * 50, prefix="it is ", timestamp=True)
    finish(director, director.start(until_idle=True))
    """
    began = time.time() - 1
    written, _ = run(dedented(script), env={"TZ": "UTC"})
    stamps = re.findall(r"^\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6})\] it is x$", written.decode(), re.MULTILINE)
    assert len(stamps) == 50
    assert stamps == sorted(stamps)
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(began))
    assert at <= stamps[0] <= stamps[-1] <= time.strftime("%Y-%m-%d %H:%M:%S.999999", time.gmtime())


def test_complete_prints_the_whole_event() -> None:
    script = """
    director = Director()
    lines(director, [Event("d", service="s", meta_id="m")], complete=True)
    finish(director, director.start(until_idle=True))
    """
    written, _ = run(dedented(script))
    assert re.fullmatch(r"Event\(\S+, data='d', service='s', meta_id='m'\)\n", written.decode())


def test_the_event_goes_on_when_its_line_is_written(small_pipe: Pipe) -> None:
    script = """
    class Sink(Actor):
        def consume(self, event):
            os.write(2, f" {event.data} ".encode())

    director = Director()
    lines(director, (f"{number:05d}" for number in range(2000)))
    director.connect_queue("out", director.register_actor(Sink, "sink"))
    ticker = gevent.spawn(tick)
    finish(director, director.start(until_idle=True))
    """
    with Child(dedented(script), small_pipe.write_fd) as child:
        small_pipe.hand_over()
        small_pipe.await_full()
        child.await_ticks()
        passed = re.findall(rb" (\d{5}) ", child.errors)
        read = small_pipe.read_all()
        child.end()

    # Whoever comes behind sees only what is in the pipe by then.
    assert len(passed) <= SMALL_PIPE / 6
    assert read.decode().splitlines() == numbers(2000)
    assert [word.decode() for word in re.findall(rb" (\d{5}) ", child.errors)] == numbers(2000)


def test_a_million_short_lines_take_seconds(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file, Child(NUMBERS, file, STOP_S=5.0, COUNT=1_000_000, NAMES=[]) as child:
        began = time.monotonic()
        child.process.wait(timeout=25)
        took_s = time.monotonic() - began
        said = child.end()

    assert (tmp_path / "out").read_bytes().count(b"\n") == 1_000_000
    assert said["ended"] == {"delivered": 1_000_000}
    # A bound against writing line by line, not a benchmark: 6 to 10 s would be usual for that.
    assert took_s < 25


# ---- the end of the process -------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)", "pass", "sys.exit(0)"])
@pytest.mark.parametrize("count", [1, 3000])
def test_when_stop_has_returned_all_lines_are_written(end: str, count: int) -> None:
    script = """
    director = Director()
    lines(director, [])
    director.start(block=False)
    for number in range(COUNT):
        director.post("out", f"{number:05d}")
    director.stop()
    """
    with Child(dedented(script) + f"\n{end}\n", subprocess.PIPE, COUNT=count) as child:
        assert child.process.stdout is not None
        with child.process.stdout as file:
            written = file.read()
        child.process.wait(timeout=LIMIT_S)
    assert written.decode().splitlines() == numbers(count)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_and_nothing_is_lost_between(sent: signal.Signals) -> None:
    script = """
    director = Director()
    def items():
        number = 0
        while True:
            yield f"{number:05d}"
            number += 1
    lines(director, items())
    ticker = gevent.spawn(tick)
    finish(director, director.start())
    """
    with Child(dedented(script), subprocess.PIPE) as child:
        assert child.process.stdout is not None
        with child.process.stdout as file:
            first = os.read(file.fileno(), 6000)
            child.process.send_signal(sent)
            written = first + file.read()
        said = child.end()

    lines = written.decode().splitlines()
    assert lines == numbers(len(lines))
    assert (said["code"], said["ended"]) == (0, {"delivered": len(lines)})


def test_a_director_that_nobody_stopped_writes_its_lines_at_exit() -> None:
    script = """
    director = Director()
    lines(director, [])
    director.start(block=False)
    for number in range(COUNT):
        director.post("out", f"{number:05d}")
    """
    with Child(dedented(script), subprocess.PIPE, COUNT=300) as child:
        assert child.process.stdout is not None
        with child.process.stdout as file:
            written = file.read()
        assert child.process.wait(timeout=LIMIT_S) == 0
    assert written.decode().splitlines() == numbers(300)
