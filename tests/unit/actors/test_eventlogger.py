# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.actors.eventlogger`."""

import logging
from typing import Any

import pytest

from compysition import Director, Event
from compysition.actors import EventLogger, Source
from compysition.errors import ConfigurationError
from tests.fault.conservation import Collector, Handler, assert_conserved, letters


def logged(caplog: pytest.LogCaptureFixture, items: list[Any], **kwargs: Any) -> list[logging.LogRecord]:
    """The records that the actor made."""
    director = Director()
    source = director.register_actor(Source, "source", items)
    director.connect_queue(source, director.register_actor(EventLogger, "events", **kwargs))
    with caplog.at_level(logging.DEBUG):
        director.start(until_idle=True)
    assert_conserved(director)
    assert not letters(director)
    name = kwargs.get("logger_name") or "compysition.actor.events"
    return [record for record in caplog.records if record.name == name]


def test_a_record_is_prefix_and_data_in_the_order_of_the_events(caplog: pytest.LogCaptureFixture) -> None:
    records = logged(caplog, ["a", 1, None, b"b"], prefix="> ")
    assert [record.getMessage() for record in records] == ["> a", "> 1", "> None", "> b"]


def test_a_record_says_which_event_and_actor_it_is_of(caplog: pytest.LogCaptureFixture) -> None:
    event = Event("a", meta_id="request-7")
    (record,) = logged(caplog, [event], level="warning")
    assert (record.levelname, record.actor, record.event_id, record.meta_id) == (  # type: ignore[attr-defined]
        *("WARNING", "events"),
        *(event.event_id, "request-7"),
    )


def test_another_logger_can_be_named(caplog: pytest.LogCaptureFixture) -> None:
    (record,) = logged(caplog, ["a"], logger_name="audit", level="error")
    assert (record.name, record.levelname) == ("audit", "ERROR")


def test_complete_logs_the_event(caplog: pytest.LogCaptureFixture) -> None:
    event = Event("a", service="s")
    (record,) = logged(caplog, [event], complete=True)
    assert record.getMessage() == repr(event)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("two\nlines", r"two\nlines"),
        ("\x1b[31mred\r", r"\x1b[31mred\r"),
        ("\u202egnp", r"\u202egnp"),
        ("é€😀 %s %d", "é€😀 %s %d"),
        (b"\xff\n", r"\xff\n"),
        ("half \ud800", r"half \ud800"),
    ],
)
def test_data_cannot_write_a_line_of_its_own(caplog: pytest.LogCaptureFixture, data: Any, message: str) -> None:
    (record,) = logged(caplog, [data])
    assert record.getMessage() == message


@pytest.mark.parametrize("data", ["x" * 1007, b"x" * 1007])
def test_long_data_is_cut_and_says_so(caplog: pytest.LogCaptureFixture, data: Any) -> None:
    (record,) = logged(caplog, [data], max_chars=10)
    assert record.getMessage() == f"{'x' * 10}… (997 more)"


def test_an_event_with_an_error_says_so() -> None:
    records: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record.getMessage())

    def fail(actor: Any, event: Event) -> None:
        raise ValueError("no\nway")

    listener = Listener()
    logging.getLogger("errors").addHandler(listener)
    director = Director()
    director.register_actor(Handler, "bad", fail)
    director.register_error_actor(EventLogger, "errors", level="error", logger_name="errors")
    with director:
        director.post("bad", "x")
    logging.getLogger("errors").removeHandler(listener)
    assert records == [r"x [bad failed: ValueError: no\nway]"]


def test_what_nobody_listens_to_is_not_made(caplog: pytest.LogCaptureFixture) -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise AssertionError("it was printed")

    caplog.set_level(logging.WARNING, "quiet")
    assert logged(caplog, [Unprintable()], logger_name="quiet", level="info") == []


def test_data_that_cannot_be_printed_fails_its_event_alone() -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise ValueError("no text")

    director = Director()
    sink = director.register_actor(Collector, "sink")
    director.connect_queue(director.register_actor(EventLogger, "events", level="critical"), sink)
    with director:
        for item in ("a", Unprintable(), "b"):
            director.post("events", item)
    assert sink.data == ["a", "b"]
    assert [letter.error.text for letter in letters(director) if letter.error] == ["no text"]
    assert_conserved(director)


def test_it_forwards_in_order() -> None:
    director = Director()
    sink = director.register_actor(Collector, "sink")
    events = director.register_actor(EventLogger, "events")
    director.connect_queue(events, sink)
    with director:
        for number in range(100):
            director.post(events, number)
    assert sink.data == list(range(100))
    assert events._wired.concurrency == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [("level", "warn"), ("level", 20), ("prefix", None), ("complete", 1), ("max_chars", 0), ("logger_name", "")],
)
def test_an_argument_that_makes_no_sense_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"{option} of 'events' is {value!r}: wanted is "):
        Director().register_actor(EventLogger, "events", **{option: value})
