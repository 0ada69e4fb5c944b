# SPDX-License-Identifier: Apache-2.0
"""`FileLogger` on disks that are full, read-only or slow, with files that are moved away, under kills and signals."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import gevent
import pytest
from gevent import monkey

from compysition import Director
from compysition.actors import FileLogger
from compysition.errors import StartError
from compysition.ledger import Outcome
from compysition.logfile import LogFile
from tests.fault.conservation import Collector, assert_conserved, letters, running, wait_until

ROOT: Final = Path(__file__).parents[2]
LIMIT_S: Final = 20.0

#: What scripts of processes begin with. `finish` says how the events ended and leaves with the report's exit code.
PRELUDE: Final = """
import json, os, resource, signal, sys
from collections import Counter
import gevent
from compysition import Director
from compysition.actors import FileLogger, Source

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def until(condition):
    with gevent.Timeout(10):
        while not condition():
            gevent.sleep(0.002)

def finish(director, report):
    balance = director.snapshot().balance
    letters = Counter(f"{one.actor} {one.reason} {one.error.error_class.__name__}" for one in director.dead_letters)
    ended = {outcome.value: number for outcome, number in balance.ended.items() if number}
    print(json.dumps({"even": balance.is_even, "held": balance.held, "letters": letters, "ended": ended}), flush=True)
    os._exit(report.exit_code)
"""


def dedented(script: str) -> str:
    return "\n".join(line.removeprefix("    ") for line in script.splitlines())


def start(script: str, **names: Any) -> "subprocess.Popen[str]":
    constants = "".join(f"{name} = {value!r}\n" for name, value in names.items())
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + constants + dedented(script)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: "subprocess.Popen[str]") -> dict[str, Any]:
    """What the process said about its events. They are all accounted for."""
    out, errors = process.communicate(timeout=LIMIT_S)
    assert "Traceback" not in errors, errors
    said: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert said["even"], said
    assert said["held"] == 0, said
    return said | {"code": process.returncode, "errors": errors}


# ---- disks --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_on_a_full_disk_events_fail_by_name_and_the_flow_goes_on() -> None:
    director = Director()
    log = director.register_actor(FileLogger, "log", "/dev/full")
    sink, errors = director.register_actor(Collector, "sink"), director.register_actor(Collector, "errors")
    director.connect_queue(log, sink)
    director.connect_queue_error(log, errors)
    with running(director):
        for number in range(100):
            director.post(log, number)
        wait_until(lambda: len(errors.data) == 100)
    assert errors.data == list(range(100))
    assert {str(event.error) for event in errors.events} == {"OSError: [Errno 28] No space left on device: /dev/full"}
    assert sink.data == []


def test_a_disk_that_gets_full_fails_what_is_not_in_the_file_and_nothing_else(tmp_path: Path) -> None:
    script = """
    director = Director()
    source = director.register_actor(Source, "source", (f"{number:04d}" for number in range(1000)))
    director.connect_queue(source, director.register_actor(FileLogger, "log", PATH))
    limit(2002)
    finish(director, director.start(until_idle=True))
    """
    said = end(start(script, PATH=str(tmp_path / "log")))
    lines = (tmp_path / "log").read_text().split("\n")
    assert lines[:400] == [f"{number:04d}" for number in range(400)]
    assert lines[400] == "04"
    assert (said["ended"], said["letters"]) == ({"delivered": 400, "dead": 600}, {"log failed OSError": 600})
    assert said["code"] == 0


def test_with_retry_a_disk_that_gets_room_again_loses_nothing(tmp_path: Path) -> None:
    script = """
    director = Director()
    source = director.register_actor(Source, "source", (f"{number:04d}" for number in range(1000)))
    log = director.register_actor(FileLogger, "log", PATH, retry_s=60.0)
    director.connect_queue(source, log)
    limit(2002)
    director.start(block=False)
    until(lambda: os.path.getsize(PATH) == 2002)
    until(lambda: log.inbox_depth)
    limit(resource.RLIM_INFINITY)
    until(lambda: director.snapshot().balance.held == 0)
    finish(director, director.stop())
    """
    said = end(start(script, PATH=str(tmp_path / "log")))
    assert (tmp_path / "log").read_text().split() == [f"{number:04d}" for number in range(1000)]
    assert (said["ended"], said["code"]) == ({"delivered": 1000}, 0)


def test_a_stop_does_not_wait_for_a_disk_that_stays_full(tmp_path: Path) -> None:
    script = """
    director = Director()
    log = director.register_actor(FileLogger, "log", PATH, retry_s=3600.0)
    limit(2)
    director.start(block=False)
    for number in range(10):
        director.post(log, f"{number:04d}")
    until(lambda: os.path.getsize(PATH) == 2)
    report = director.stop()
    assert report.took_s < 20, report
    finish(director, report)
    """
    said = end(start(script, PATH=str(tmp_path / "log")))
    assert (said["letters"], said["code"]) == ({"log failed OSError": 10}, 0)


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Any]:
    """Mounts a small tmpfs, where that is allowed."""
    places: list[Path] = []

    def mount(options: str) -> Path:
        place = tmp_path / f"mount{len(places)}"
        place.mkdir(exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
        places.append(place)
        return place

    yield mount
    for place in places:
        subprocess.run(["umount", str(place)], check=True)


def test_a_small_file_system_gets_full_and_has_room_again(mounted: Any) -> None:
    path = mounted("size=64k") / "log"
    director = Director()
    log = director.register_actor(FileLogger, "log", path)
    with running(director):
        for _ in range(100):
            director.post(log, "x" * 1000)
        wait_until(lambda: director.snapshot().balance.held == 0)
        n_full = len(letters(director))
        assert 30 < n_full < 60
        path.rename(path.with_name("old"))
        path.with_name("old").unlink()
        # The descriptor still holds the room; the next line lets it go.
        log.reopen()
        wait_until(path.exists)
        director.post(log, "room again")
    assert path.read_text() == "room again\n"
    assert len(letters(director)) == n_full


def test_a_directory_that_may_not_be_written_to_stops_the_start(mounted: Any, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        directory, reason = mounted("size=64k,ro"), "Read-only file system"
    else:
        directory, reason = tmp_path / "closed", "Permission denied"
        directory.mkdir(mode=0o500)
    director = Director()
    director.register_actor(FileLogger, "log", directory / "log")
    with pytest.raises(StartError, match=f"'log' cannot open its file: .*{reason}: {directory}/log"):
        director.start(block=False)
    assert_conserved(director)


# ---- files that are moved away ------------------------------------------------------------------------------------


def test_a_file_that_is_moved_away_under_the_writer_loses_no_line_and_doubles_none(tmp_path: Path) -> None:
    path = tmp_path / "log"
    director = Director()
    log = director.register_actor(FileLogger, "log", path)
    with running(director):
        for number in range(2000):
            director.post(log, f"{number:05d}")
            if number % 100 == 50:
                path.rename(tmp_path / f"moved{number:05d}")
                wait_until(lambda: path.exists() or log.inbox_depth == 0)
                log.reopen()
                wait_until(path.exists)
    lines = "".join(found.read_text() for found in [*sorted(tmp_path.glob("moved*")), path]).split()
    assert lines == [f"{number:05d}" for number in range(2000)]


def test_a_directory_that_goes_away_fails_events_by_name_until_it_is_back(tmp_path: Path) -> None:
    place = tmp_path / "logs"
    place.mkdir()
    director = Director()
    log = director.register_actor(FileLogger, "log", place / "log")
    with running(director):
        director.ask(log, "a")
        place.rename(tmp_path / "old")
        with pytest.raises(OSError, match="No such file or directory"):
            director.ask(log, "b")
        place.mkdir()
        director.ask(log, "c")
    assert (place / "log").read_text() == "c\n"
    assert (tmp_path / "old" / "log").read_text() == "a\n"


# ---- signals ------------------------------------------------------------------------------------------------------

BLOCKING: Final = """
    director = Director()
    log = director.register_actor(FileLogger, "log", PATH)
    director.post(log, "before")
    def shout(number, frame):
        print("mine", flush=True)
    if OWN_HANDLER:
        signal.signal(signal.SIGUSR2, shout)
    def ready():
        until(lambda: director.snapshot().balance.held == 0 and os.path.getsize(PATH))
        print("ready", flush=True)
    gevent.spawn(ready)
    report = director.start()
    assert signal.getsignal(signal.SIGUSR2) is (shout if OWN_HANDLER else signal.SIG_DFL)
    finish(director, report)
"""


def test_sigusr2_has_the_file_opened_anew_at_once_while_start_blocks(tmp_path: Path) -> None:
    path = tmp_path / "log"
    process = start(BLOCKING, PATH=str(path), OWN_HANDLER=False)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    path.rename(tmp_path / "log.moved")
    process.send_signal(signal.SIGUSR2)
    deadline = time.monotonic() + LIMIT_S
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    said = end(process)
    assert (said["code"], said["ended"]) == (0, {"delivered": 1})
    assert (path.read_text(), (tmp_path / "log.moved").read_text()) == ("", "before\n")


def test_a_handler_of_the_scripts_own_for_sigusr2_stays(tmp_path: Path) -> None:
    process = start(BLOCKING, PATH=str(tmp_path / "log"), OWN_HANDLER=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGUSR2)
    assert process.stdout.readline() == "mine\n"
    process.send_signal(signal.SIGTERM)
    assert end(process)["code"] == 0


# ---- kills --------------------------------------------------------------------------------------------------------


class SlowDisk:
    """Holds the threads that append, until it is opened."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._lock = monkey.get_original("_thread", "allocate_lock")()
        self._lock.acquire()
        self.entered = 0
        real = LogFile.append

        def append(file: LogFile, *args: Any) -> None:
            self.entered += 1
            with self._lock:
                pass
            real(file, *args)

        patch.setattr(LogFile, "append", append)

    def open(self) -> None:
        self._lock.release()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    return SlowDisk(monkeypatch)


def kill_handler(director: Director, name: str) -> None:
    for consumer in tuple(director.dispatcher.consumers):
        if consumer.hand.sender is not None and consumer.hand.sender.name == name:
            consumer.kill(block=False)


def test_a_disk_that_hangs_does_not_hold_the_hub(disk: SlowDisk, tmp_path: Path) -> None:
    director = Director()
    director.register_actor(FileLogger, "log", tmp_path / "log")
    with running(director):
        director.post("log", "a")
        wait_until(lambda: disk.entered == 1)
        for number in range(50):
            director.post("log", number)
            gevent.sleep(0)
        disk.open()
    assert (tmp_path / "log").read_text().split() == ["a", *map(str, range(50))]


def test_a_handler_killed_while_a_thread_writes_writes_nothing_twice(disk: SlowDisk, tmp_path: Path) -> None:
    director = Director()
    log = director.register_actor(FileLogger, "log", tmp_path / "log")
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(log, sink)
    with running(director):
        for number in range(100):
            director.post(log, number)
        wait_until(lambda: disk.entered == 1)
        kill_handler(director, "log")
        disk.open()
        wait_until(lambda: director.snapshot().actors["log"].restarts == 1)
        wait_until(lambda: len(sink.data) == 100)
    assert sink.data == list(range(100))
    assert (tmp_path / "log").read_text().split() == [str(number) for number in range(100)]


def test_a_disk_that_hangs_at_a_stop_leaves_events_by_name(disk: SlowDisk, tmp_path: Path) -> None:
    director = Director()
    director.register_actor(FileLogger, "log", tmp_path / "log")
    director.start(block=False)
    for number in range(10):
        director.post("log", number)
    wait_until(lambda: disk.entered == 1)
    threading.Timer(0.3, disk.open).start()
    report = director.stop(timeout_s=0.05)
    assert report.exit_code == 1
    assert {letter.reason for letter in letters(director)} == {"stopped"}
    assert len(letters(director)) == 10
    assert director.snapshot().balance.ended[Outcome.DEAD] == 10
    assert_conserved(director)


def test_what_has_gone_on_is_in_the_file_when_the_process_is_killed(tmp_path: Path) -> None:
    script = """
    from compysition import Actor
    class Tell(Actor):
        def consume(self, event):
            print(event.data, flush=True)
    director = Director()
    source = director.register_actor(Source, "source", (f"{number:06d}" for number in range(1_000_000)))
    log = director.register_actor(FileLogger, "log", PATH, max_bytes=10_000, keep_files=1000)
    director.connect_queue(source, log)
    director.connect_queue(log, director.register_actor(Tell, "tell"))
    director.start()
    """
    process = start(script, PATH=str(tmp_path / "log"))
    assert process.stdout is not None
    told = [process.stdout.readline() for _ in range(2000)]
    process.kill()
    told += process.stdout.read().splitlines(keepends=True)
    process.communicate()
    files = sorted(tmp_path.glob("log.*"), key=lambda found: -int(found.suffix[1:]))
    lines = "".join(found.read_text() for found in [*files, tmp_path / "log"]).splitlines(keepends=True)
    told = [line for line in told if line.endswith("\n")]
    assert lines[: len(told)] == told
