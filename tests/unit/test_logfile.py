# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.logfile`, on real files."""

import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from compysition.logfile import ROTATE_AGAIN_S, Block, LogFile

#: Somewhen on a day, in seconds since 1970; files of the tests are younger.
NOW = 4_000_000_000.0
DAY_S = 86_400.0


def made(path: Path, **options: Any) -> LogFile:
    return LogFile(path, **{"max_bytes": None, "max_age_s": None, "keep_files": 3, "is_synced": True, **options})


def write(file: LogFile, *lines: str, now: float = NOW) -> Block:
    block = Block([f"{line}\n".encode() for line in lines])
    file.append(block, now)
    return block


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


def contents(path: Path) -> dict[str, str]:
    """What is in the directory of `path`, by the end of the names."""
    return {found.name.removeprefix(path.name): found.read_text() for found in path.parent.iterdir()}


# ---- writing ----------------------------------------------------------------------------------------------------


def test_lines_are_appended_to_what_is_there(path: Path) -> None:
    path.write_text("first\n")
    block = write(made(path), "a", "b")
    assert path.read_text() == "first\na\nb\n"
    assert block.confirmed == block.written == 4


def test_a_block_is_one_write_and_one_sync(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name, real in (("write", os.write), ("fsync", os.fsync)):

        def call(*args: Any, name: str = name, real: Any = real) -> Any:
            calls.append(name)
            return real(*args)

        monkeypatch.setattr(os, name, call)
    file = made(path)
    file.follow(NOW)
    calls.clear()
    write(file, *("line" for _ in range(1000)))
    assert calls == ["write", "fsync"]


def test_without_sync_nothing_is_synced_until_it_is_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    file = made(path, is_synced=False)
    write(file, "a")
    assert synced == []
    file.close()
    assert len(synced) == 1


def test_short_writes_go_on_where_they_stopped(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
    write(made(path), "abcdef", "gh")
    assert path.read_text() == "abcdef\ngh\n"


def test_a_block_that_was_written_is_not_written_again(path: Path) -> None:
    file = made(path)
    block = write(file, "a")
    file.append(block, NOW)
    assert path.read_text() == "a\n"


def test_half_a_line_of_somebody_who_was_cut_off_is_ended_first(path: Path) -> None:
    path.write_text("whole\nhal")
    write(made(path), "a")
    assert path.read_text() == "whole\nhal\na\n"


def test_threads_wait_for_each_other(path: Path) -> None:
    file = made(path, max_bytes=50, keep_files=100)
    threads = [threading.Thread(target=write, args=(file, *[str(number) * 9] * 20)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted("".join(contents(path).values()).split()) == sorted(str(n) * 9 for n in range(5) for _ in range(20))


# ---- failures ---------------------------------------------------------------------------------------------------


@contextmanager
def room(size: int) -> Iterator[None]:
    """Files of this process, pytest's own among them, grow only so far: a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_confirms_whole_lines_and_names_the_file(path: Path) -> None:
    file = made(path)
    block = Block([b"aaaa\n", b"bbbb\n", b"cccc\n"])
    with room(7), pytest.raises(OSError, match=rf"File too large: {path}"):
        file.append(block, NOW)
    assert (block.confirmed, block.written) == (5, 7)


def test_a_block_that_is_tried_again_goes_on_in_the_middle_of_a_line(path: Path) -> None:
    file = made(path)
    block = Block([b"aaaa\n", b"bbbb\n"])
    with room(7), pytest.raises(OSError, match="too large"):
        file.append(block, NOW)
    file.append(block, NOW)
    assert path.read_text() == "aaaa\nbbbb\n"
    assert block.confirmed == 10


def test_behind_half_a_line_that_was_given_up_the_next_one_begins_a_line(path: Path) -> None:
    file = made(path)
    with room(7), pytest.raises(OSError, match="too large"):
        write(file, "aaaa", "bbbb")
    write(file, "cccc")
    assert path.read_text() == "aaaa\nbb\ncccc\n"


def test_half_a_line_is_written_whole_in_a_file_that_took_the_place(path: Path) -> None:
    file = made(path)
    block = Block([b"aaaa\n", b"bbbb\n"])
    with room(7), pytest.raises(OSError, match="too large"):
        file.append(block, NOW)
    path.rename(path.with_name("log.moved"))
    file.append(block, NOW)
    assert contents(path) == {"": "bbbb\n", ".moved": "aaaa\nbb"}


def test_a_failed_sync_confirms_nothing_and_all_is_written_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = made(path)
    file.follow(NOW)
    block = Block([b"a\n", b"b\n"])

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match=f"Input/output error: {path}"):
            file.append(block, NOW)
    assert block.confirmed == 0
    file.append(block, NOW)
    assert path.read_text() == "a\nb\na\nb\n"
    assert block.confirmed == 4


def test_a_directory_a_missing_one_and_a_pipe_are_refused_by_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, text in [("", "Is a directory"), ("none/log", "No such file or directory"), ("fifo", "a pipe or socket")]:
        with pytest.raises(OSError, match=f"{text}.*: {tmp_path / name}"):
            made(tmp_path / name).follow(NOW)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_device_is_written_to_and_neither_synced_nor_rotated() -> None:
    write(made(Path("/dev/null"), max_bytes=1, max_age_s=1.0), "a", "b")
    with pytest.raises(OSError, match="No space left on device: /dev/full"):
        write(made(Path("/dev/full"), max_bytes=1), "a")
    assert not Path("/dev/full.1").exists()
    assert not Path("/dev/null.1").exists()


# ---- a file that was moved --------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_file_that_was_moved_away_is_followed_by_a_new_one(path: Path, is_replaced: bool) -> None:
    file = made(path)
    write(file, "a")
    path.rename(path.with_name("log.moved"))
    if is_replaced:
        path.write_text("new\n")
    write(file, "b")
    assert contents(path) == {"": "new\nb\n" if is_replaced else "b\n", ".moved": "a\n"}


def test_a_file_that_was_cut_off_goes_on_at_its_beginning(path: Path) -> None:
    file = made(path, max_bytes=10)
    write(file, "aaaaaaaa")
    os.truncate(path, 0)
    write(file, "bbbbbbbb")
    assert contents(path) == {"": "bbbbbbbb\n"}


def test_a_stale_file_is_opened_anew(path: Path) -> None:
    file = made(path)
    write(file, "a")
    before = file._opening
    file.is_stale = True
    file.follow(NOW)
    file.follow(NOW)
    assert file._opening == before + 1


def test_a_closed_file_is_opened_by_the_next_line(path: Path) -> None:
    file = made(path)
    write(file, "a")
    file.close()
    file.close()
    write(file, "b")
    assert path.read_text() == "a\nb\n"


# ---- rotation ---------------------------------------------------------------------------------------------------


def test_a_new_file_is_begun_before_one_gets_too_large(path: Path) -> None:
    file = made(path, max_bytes=10)
    for line in ("aaaa", "bbbb", "cccc", "dddd", "eeee"):
        write(file, line)
    assert contents(path) == {"": "eeee\n", ".1": "cccc\ndddd\n", ".2": "aaaa\nbbbb\n"}


def test_a_block_is_divided_between_lines(path: Path) -> None:
    write(made(path, max_bytes=10), "aaaa", "bbbb", "cccc", "dddd", "eeee")
    assert contents(path) == {"": "eeee\n", ".1": "cccc\ndddd\n", ".2": "aaaa\nbbbb\n"}


def test_only_a_single_line_may_be_larger(path: Path) -> None:
    write(made(path, max_bytes=3), "aaaa", "bbbb", "c")
    assert contents(path) == {"": "c\n", ".1": "bbbb\n", ".2": "aaaa\n"}


def test_so_many_old_files_are_kept_and_nothing_else_is_touched(path: Path) -> None:
    path.with_name("log.9").write_text("somebody's\n")
    file = made(path, max_bytes=1, keep_files=2)
    for line in "abcdef":
        write(file, line)
    assert contents(path) == {"": "f\n", ".1": "e\n", ".2": "d\n", ".9": "somebody's\n"}


def test_what_a_file_holds_already_counts(path: Path) -> None:
    path.write_text("aaaaaaa\n")
    write(made(path, max_bytes=10), "bbbb")
    assert contents(path) == {"": "bbbb\n", ".1": "aaaaaaa\n"}


def test_a_new_file_is_begun_in_each_period(path: Path) -> None:
    file = made(path, max_age_s=DAY_S)
    midnight = (NOW // DAY_S + 1) * DAY_S
    for line, now in [("a", NOW), ("b", midnight - 1), ("c", midnight), ("d", midnight + 100), ("e", midnight + DAY_S)]:
        write(file, line, now=now)
    assert contents(path) == {"": "e\n", ".1": "c\nd\n", ".2": "a\nb\n"}


def test_a_file_of_an_earlier_period_is_moved_aside_when_the_process_comes_back(path: Path) -> None:
    write(made(path, max_age_s=DAY_S), "a")
    os.utime(path, (NOW, NOW))
    write(made(path, max_age_s=DAY_S), "b", now=NOW + 1)
    write(made(path, max_age_s=DAY_S), "c", now=NOW + 2 * DAY_S)
    assert contents(path) == {"": "c\n", ".1": "a\nb\n"}


def test_a_clock_that_was_set_back_begins_no_new_file(path: Path) -> None:
    file = made(path, max_age_s=DAY_S)
    write(file, "a")
    write(file, "b", now=NOW - 3 * DAY_S)
    assert contents(path) == {"": "a\nb\n"}


def test_a_file_that_cannot_be_moved_aside_goes_on_and_is_tried_again_later(path: Path) -> None:
    file = made(path, max_bytes=1)
    write(file, "a")
    path.with_name("log.2").touch()
    path.with_name("log.3").mkdir()
    write(file, "b", "c")
    assert path.read_text() == "a\nb\nc\n"
    assert file.rotation_error is not None
    path.with_name("log.3").rmdir()
    write(file, "d")
    assert path.read_text() == "a\nb\nc\nd\n"
    write(file, "e", now=NOW + ROTATE_AGAIN_S)
    assert path.read_text() == "e\n"
    assert file.rotation_error is None
