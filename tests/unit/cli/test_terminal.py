# SPDX-License-Identifier: Apache-2.0
"""What is written to standard error: colour and progress on a terminal, neither in pipes, JSON if asked for."""

import io
import json
import logging
import os
import pty
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from compysition.cli.loglines import logging_to
from compysition.cli.terminal import Terminal

PLAIN: Mapping[str, str] = {"TERM": "xterm"}


class TtyIO(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(name="tty")
def tty_fixture() -> Iterator[tuple[int, io.TextIOWrapper]]:
    """The two ends of a real terminal: to read from, and to write to."""
    master, slave = pty.openpty()
    with os.fdopen(slave, "w", encoding="utf-8") as stream:
        yield master, stream
    os.close(master)


def all_of(descriptor: int, length: int) -> bytes:
    """So many bytes: a terminal gives them in the pieces in which they were written."""
    found = b""
    while len(found) < length:
        found += os.read(descriptor, length - len(found))
    return found


def test_there_is_colour_on_a_terminal(tty: tuple[int, io.TextIOWrapper]) -> None:
    master, stream = tty
    terminal = Terminal(stream, environment=PLAIN)
    assert terminal.fail("no", 2) == 2
    wanted = b"\x1b[31mcompysition:\x1b[0m no\r\n"
    assert all_of(master, len(wanted)) == wanted


@pytest.mark.parametrize(
    ("environment", "is_terminal", "wanted"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"NO_COLOR": "1"}, True, False),
        ({"NO_COLOR": ""}, True, True),
        ({"TERM": "dumb"}, True, False),
        ({"FORCE_COLOR": "1"}, False, True),
        ({"FORCE_COLOR": "0"}, False, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
    ],
)
def test_no_color_and_force_color_are_respected(
    environment: Mapping[str, str], is_terminal: bool, wanted: bool
) -> None:
    terminal = Terminal(TtyIO() if is_terminal else io.StringIO(), environment=environment)
    assert terminal.has_colour is wanted
    assert not Terminal(TtyIO(), is_json=True, environment=PLAIN).has_colour


def test_progress_is_one_line_that_is_written_anew_and_taken_away_by_the_next(
    tty: tuple[int, io.TextIOWrapper],
) -> None:
    master, stream = tty
    terminal = Terminal(stream, is_shared=False, environment=PLAIN)
    terminal.progress("12 left, 4 s")
    terminal.progress("12 left, 4 s")
    terminal.progress("11 left, 4 s")
    terminal.say("stopped")
    terminal.say("end")
    wanted = b"\r\x1b[K12 left, 4 s\r\r\x1b[K11 left, 4 s\r\r\x1b[Kstopped\r\nend\r\n"
    assert all_of(master, len(wanted)) == wanted


def test_progress_never_fills_the_line_so_that_it_cannot_wrap(tty: tuple[int, io.TextIOWrapper]) -> None:
    master, stream = tty
    Terminal(stream, environment=PLAIN).progress("x" * 500)
    wanted = b"\r\x1b[K" + b"x" * 79 + b"\r"
    assert all_of(master, len(wanted)) == wanted


def test_progress_keeps_to_the_right_where_actors_print_as_well(tty: tuple[int, io.TextIOWrapper]) -> None:
    master, stream = tty
    Terminal(stream, is_shared=True, environment=PLAIN).progress("1 left, 4 s")
    wanted = b"\r\x1b[K" + b" " * 68 + b"1 left, 4 s\r"
    assert all_of(master, len(wanted)) == wanted


def test_in_a_pipe_there_is_no_progress() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream, environment=PLAIN)
    terminal.progress("12 left, 4 s")
    terminal.say("stopped")
    assert stream.getvalue() == "stopped\n"


def test_data_cannot_steer_the_terminal() -> None:
    stream = io.StringIO()
    Terminal(stream, environment=PLAIN).say("a\x1b[2J\x07b\nc\td")
    assert stream.getvalue() == "a\\x1b[2J\\x07b\nc\td\n"


def test_a_reader_that_has_gone_is_no_error() -> None:
    receiving, sending = os.pipe()
    os.close(receiving)
    stream = os.fdopen(sending, "w", encoding="utf-8")
    Terminal(stream, environment=PLAIN).say("x")
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_without_standard_error_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", None)
    assert Terminal(environment=PLAIN).fail("x") == 2


def test_every_line_is_an_object_in_json() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream, is_json=True, environment=PLAIN)
    terminal.say("two\nlines", at=Path("a"))
    terminal.fail("no", 2)
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first.pop("time").endswith("Z")
    assert first == {"level": "INFO", "logger": "compysition.cli", "message": "two\nlines", "at": "a"}
    assert (second["level"], second["message"], second["exit_code"]) == ("ERROR", "no", 2)


# ---- log records --------------------------------------------------------------------------------------------------


def log_all(script: Path) -> None:
    logger = logging.getLogger("compysition.actor.a")
    logger.debug("debug")
    logger.info("info")
    logger.warning("warn %s", "ing", extra={"actor": "a", "event_id": "1-1"})
    for _ in range(2):
        try:
            exec(compile("\n1 / 0", script, "exec"))
        except ZeroDivisionError:
            logger.exception("failed")


@pytest.fixture(name="script")
def script_fixture(tmp_path: Path) -> Path:
    script = tmp_path / "flow.py"
    script.write_text("\n1 / 0\n")
    return script


def test_a_log_record_is_one_line_with_the_place_of_its_error(script: Path) -> None:
    stream = io.StringIO()
    with logging_to(Terminal(stream, environment=PLAIN), script, 0):
        log_all(script)
    assert stream.getvalue().splitlines() == [
        "WARNING compysition.actor.a: warn ing",
        "ERROR compysition.actor.a: failed (flow.py:2; -v shows tracebacks)",
        "ERROR compysition.actor.a: failed (flow.py:2)",
    ]
    assert not any(type(handler).__name__ == "TerminalHandler" for handler in logging.getLogger().handlers)


def test_verbose_shows_what_happens_and_tracebacks(script: Path) -> None:
    stream = io.StringIO()
    with logging_to(Terminal(stream, environment=PLAIN), script, 1):
        log_all(script)
    text = stream.getvalue()
    assert text.startswith("INFO compysition.actor.a: info\n")
    assert text.count("ZeroDivisionError: division by zero\n") == 2
    assert "-v shows" not in text


def test_the_level_is_in_colour_on_a_terminal(script: Path) -> None:
    stream = TtyIO()
    with logging_to(Terminal(stream, environment=PLAIN), script, 2):
        log_all(script)
    lines = stream.getvalue().splitlines()
    assert lines[:3] == [
        "\x1b[2mDEBUG\x1b[0m compysition.actor.a: debug",
        "INFO compysition.actor.a: info",
        "\x1b[33mWARNING\x1b[0m compysition.actor.a: warn ing",
    ]


def test_in_json_a_record_has_its_actor_event_and_traceback(script: Path) -> None:
    stream = io.StringIO()
    with logging_to(Terminal(stream, is_json=True, environment=PLAIN), script, 0):
        log_all(script)
    warning, error, _ = map(json.loads, stream.getvalue().splitlines())
    warning.pop("time")
    assert warning == {
        "level": "WARNING",
        "logger": "compysition.actor.a",
        "message": "warn ing",
        "actor": "a",
        "event_id": "1-1",
    }
    assert error["traceback"].endswith("ZeroDivisionError: division by zero\n")
