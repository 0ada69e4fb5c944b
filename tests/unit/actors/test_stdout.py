# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.actors.stdout` that need no descriptor; those that do are in `tests/fault/test_stdout.py`."""

import io
import sys
from typing import Any

import pytest

from compysition import Director, Event
from compysition.actors import STDOUT, Source
from compysition.errors import ConfigurationError
from compysition.ledger import Outcome
from tests.fault.conservation import Collector, assert_conserved


def printed(capsys: pytest.CaptureFixture[str], items: list[Any], **kwargs: Any) -> str:
    """What standard output, which has no descriptor here, is given."""
    director = Director()
    source = director.register_actor(Source, "source", items)
    director.connect_queue(source, director.register_actor(STDOUT, "out", **kwargs))
    director.start(until_idle=True)
    assert director.snapshot().balance.ended[Outcome.DELIVERED] == len(items)
    assert_conserved(director)
    return capsys.readouterr().out


def test_a_line_is_prefix_and_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, ["a", 1, None, b"b"], prefix="> ") == "> a\n> 1\n> None\n> b\n"


def test_without_a_prefix_a_line_is_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, ["a"]) == "a\n"


def test_the_timestamp_stands_in_front(capsys: pytest.CaptureFixture[str]) -> None:
    line = printed(capsys, ["a"], prefix="> ", timestamp=True)
    assert (line[0], line[5], line[11], line[27:]) == ("[", "-", " ", "] > a\n")


def test_complete_prints_the_event(capsys: pytest.CaptureFixture[str]) -> None:
    event = Event("a", service="s")
    assert printed(capsys, [event], complete=True) == f"{event!r}\n"


@pytest.mark.parametrize("prefix", [None, 7, b"> "])
def test_a_prefix_that_is_no_text_is_refused_by_name(prefix: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"prefix of 'out' is .*: wanted is text"):
        Director().register_actor(STDOUT, "out", prefix=prefix)


def test_it_handles_one_event_at_a_time() -> None:
    director = Director()
    director.register_actor(STDOUT, "out")
    assert director.get_actor("out")._wired.concurrency == 1


def test_it_forwards_if_it_is_connected(capsys: pytest.CaptureFixture[str]) -> None:
    director = Director()
    out = director.register_actor(STDOUT, "out")
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(out, sink)
    with director:
        for number in range(100):
            director.post(out, number)
    assert sink.data == list(range(100))
    assert capsys.readouterr().out.split() == [str(number) for number in range(100)]
    assert_conserved(director)


def test_it_is_the_answer_of_who_asks(capsys: pytest.CaptureFixture[str]) -> None:
    director = Director()
    director.register_actor(STDOUT, "out")
    with director:
        assert director.ask("out", "x").data == "x"
    assert capsys.readouterr().out == "x\n"


def test_what_takes_the_place_of_standard_output_gets_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    director = Director()
    director.register_actor(STDOUT, "out")
    there = io.StringIO()
    with director:
        monkeypatch.setattr(sys, "stdout", there)
        director.ask("out", "é")
        monkeypatch.undo()
    assert there.getvalue() == "é\n"


def test_an_object_that_refuses_to_be_written_to_fails_the_event_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError("no room")

    director = Director()
    director.register_actor(STDOUT, "out")
    with director:
        monkeypatch.setattr(sys, "stdout", Refusing())
        with pytest.raises(OSError, match="no room"):
            director.ask("out", "x")
        monkeypatch.undo()
    assert [(letter.actor, letter.reason) for letter in director.dead_letters] == [("out", "failed")]
    assert_conserved(director)
