# SPDX-License-Identifier: Apache-2.0
"""A `consume` that could never work is refused when it is registered, not event by event."""

from collections.abc import Iterator

import pytest

from compysition import Actor, Director, Event
from compysition.actors import Source
from compysition.errors import RegistrationError, UsageError


class Generator(Actor):
    def consume(self, event: Event) -> Iterator[Event]:  # type: ignore[override]
        yield event


class Coroutine(Actor):
    async def consume(self, event: Event) -> None:  # type: ignore[override]
        self.send_event(event)


class TakesNothing(Actor):
    def consume(self) -> None:  # type: ignore[override]
        pass


class TakesTwo(Actor):
    def consume(self, event: Event, other: Event) -> None:  # type: ignore[override]
        pass


class TakesOrigin(Actor):
    def consume(self, event: Event, origin: str) -> None:  # type: ignore[override]
        self.send_event(event)


@pytest.mark.parametrize("cls", [Generator, Coroutine, TakesNothing, TakesTwo])
def test_a_consume_that_cannot_handle_an_event_is_refused_by_name(cls: type[Actor]) -> None:
    director = Director()
    with pytest.raises(RegistrationError, match=rf"{cls.__name__}\.consume of actor 'wrong'"):
        director.register_actor(cls, "wrong")


def test_an_origin_that_is_filled_in_by_name_may_be_required() -> None:
    director = Director()
    director.register_actor(TakesOrigin, "right")
    with director:
        assert director.ask("right", 1).data == 1
    assert director.snapshot().balance.is_even


class Mistyped(Actor):
    def consum(self, event: Event) -> None:
        self.send_event(event)


def test_an_actor_without_consume_is_named_at_start_with_what_was_meant(caplog: pytest.LogCaptureFixture) -> None:
    director = Director()
    source = director.register_actor(Source, "source", [1])
    director.connect_queue(source, director.register_actor(Mistyped, "mistyped"))
    director.start(until_idle=True)
    warnings = [record.getMessage() for record in caplog.records if "no consume()" in record.getMessage()]
    assert warnings == [
        "Mistyped has no consume(): its events pass through unchanged; did you mean to call 'consum' so?"
    ]
    assert director.snapshot().balance.is_even


def test_a_background_function_that_is_none_is_refused_at_once() -> None:
    actor = Actor("actor")
    with pytest.raises(UsageError, match="wanted is a function"):
        actor.background("run")  # type: ignore[arg-type]
