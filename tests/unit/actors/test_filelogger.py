# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.actors.filelogger`; faults of disks and processes are in `tests/fault/test_filelogger.py`."""

import errno
import logging
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from compysition import Director, Event
from compysition.actors import FileLogger, Source
from compysition.errors import ConfigurationError, StartError
from compysition.logfile import Block, LogFile
from compysition.testing import drive
from tests.fault.conservation import Collector, assert_conserved


def logged(path: Path, items: list[Any], **kwargs: Any) -> str:
    """What the file holds."""
    director = Director()
    source = director.register_actor(Source, "source", items)
    director.connect_queue(source, director.register_actor(FileLogger, "log", path, **kwargs))
    report = director.start(until_idle=True)
    assert report is not None
    assert report.ok
    assert_conserved(director)
    return path.read_text()


def test_a_line_is_prefix_and_data(tmp_path: Path) -> None:
    text = logged(tmp_path / "log", ["é\ud800", 1, None, b"b\xff"], prefix="> ")
    assert text == "> é\\ud800\n> 1\n> None\n> b\\xff\n"


def test_complete_and_timestamp(tmp_path: Path) -> None:
    event = Event("a")
    line = logged(tmp_path / "log", [event], complete=True, timestamp=True)
    assert (line[0], line[5], line[11], line[27:]) == ("[", "-", " ", f"] {event!r}\n")


def test_lines_are_written_once_per_chunk_and_synced_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: dict[str, list[int]] = {"write": [], "fsync": []}
    for name, real in (("write", os.write), ("fsync", os.fsync)):

        def call(fd: int, *args: Any, name: str = name, real: Any = real) -> Any:
            calls[name].append(threading.get_native_id())
            return real(fd, *args)

        monkeypatch.setattr(os, name, call)
    text = logged(tmp_path / "log", list(range(5000)))
    assert text.split() == [str(number) for number in range(5000)]
    assert len(calls["write"]) < 100
    assert len(calls["fsync"]) <= len(calls["write"]) + 3
    assert threading.get_native_id() not in {*calls["write"], *calls["fsync"]}


def test_an_event_goes_on_when_its_line_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "log", []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(path.read_text()) or real(fd))  # type: ignore[func-returns-value]
    director = Director()
    director.register_actor(FileLogger, "log", path)
    with director:
        assert director.ask("log", "x").data == "x"
        assert synced[-1] == "x\n"


def test_with_sync_stop_it_is_synced_once_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append((tmp_path / "log").read_text()))
    logged(tmp_path / "log", ["a", "b"], sync="stop")
    assert synced == ["a\nb\n"]


def test_it_forwards_in_order(tmp_path: Path) -> None:
    director = Director()
    log = director.register_actor(FileLogger, "log", str(tmp_path / "log"))
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(log, sink)
    with director:
        for number in range(1000):
            director.post(log, number)
    assert sink.data == list(range(1000))
    assert log._wired.concurrency == 1
    assert_conserved(director)


def test_an_event_on_an_error_path_goes_on_with_its_error(tmp_path: Path) -> None:
    director = Director()
    log = director.register_actor(FileLogger, "log", tmp_path / "log")
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(log, sink)
    event = Event("x")
    event.error = "anything"  # type: ignore[assignment]
    with director:
        director.post(log, event)
    assert [str(event.error) for event in sink.events] == ["anything"]


def test_files_are_rotated(tmp_path: Path) -> None:
    path = tmp_path / "log"
    logged(path, ["aaaa", "bbbb", "cccc"], max_bytes=10, keep_files=1)
    assert (path.read_text(), path.with_name("log.1").read_text()) == ("cccc\n", "aaaa\nbbbb\n")


def test_it_takes_log_records(tmp_path: Path) -> None:
    path = tmp_path / "log"
    director = Director()
    director.register_log_actor(FileLogger, "log", path)
    with director:
        logging.getLogger("compysition.test").warning("hear me")
    assert "WARNING compysition.test: hear me\n" in path.read_text()
    assert "INFO compysition.director: Director 'default' stops" in path.read_text()


def test_the_path_stays_where_it_was_when_the_working_directory_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    log = FileLogger("log", "a.log")
    monkeypatch.chdir("/")
    assert log.path == tmp_path / "a.log"


def test_nothing_is_opened_before_the_start(tmp_path: Path) -> None:
    Director().register_actor(FileLogger, "log", tmp_path / "log")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "reason", "remedy"),
    [
        ("none/log", "No such file or directory", "; make the directory, or give another path"),
        ("", "Is a directory", ""),
    ],
)
def test_a_file_that_cannot_be_opened_stops_the_start(tmp_path: Path, name: str, reason: str, remedy: str) -> None:
    director = Director()
    director.register_actor(FileLogger, "log", tmp_path / name)
    with pytest.raises(StartError, match=f"'log' cannot open its file: .*{reason}: {tmp_path / name}{remedy}$"):
        director.start(block=False)
    assert_conserved(director)


def test_a_failed_write_is_tried_again_after_the_backoff_of_the_directors_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = 0
    append = LogFile.append

    def refuse_at_first(file: LogFile, block: Block, now: float) -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise OSError(errno.ENOSPC, "no space left")
        append(file, block, now)

    monkeypatch.setattr(LogFile, "append", refuse_at_first)
    with drive(FileLogger, "log", tmp_path / "log", retry_s=5.0) as kit:
        kit.send("line")
        assert attempts == 1
        kit.advance(0.099)
        assert attempts == 1
        kit.advance(0.002)
        assert attempts == 2
        kit.advance(0.2)
        assert attempts == 3
        assert kit.one().data == "line"
    assert (tmp_path / "log").read_text() == "line\n"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("path", ""),
        ("path", None),
        ("path", 7),
        ("prefix", 7),
        ("complete", "no"),
        ("max_bytes", 0),
        ("max_bytes", 1.5),
        ("max_age_s", 0),
        ("max_age_s", "1 day"),
        ("keep_files", 0),
        ("sync", "never"),
        ("retry_s", -1),
        ("retry_s", None),
    ],
)
def test_an_argument_that_makes_no_sense_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"{option} of 'log' is {value!r}: wanted is "):
        Director().register_actor(FileLogger, "log", **{"path": "log", option: value})
