# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.actors.eventattributemodifier`."""

from typing import Any

import pytest

from compysition import Director, Event
from compysition.actors import EventAttributeModifier
from compysition.errors import AttributeNameError, ConfigurationError, UnprocessableError
from tests.fault.conservation import assert_conserved, letters


def changed(event: Event, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The attributes of `event` behind the actor."""
    director = Director()
    director.register_actor(EventAttributeModifier, "modifier", *args, **kwargs)
    with director:
        answer = director.ask("modifier", event)
    assert_conserved(director)
    return dict(answer.__dict__)


def test_values_are_set_and_others_stay() -> None:
    assert changed(Event(tenant="old", other=1), {"tenant": "acme"}) == {"tenant": "acme", "other": 1}


def test_each_event_gets_its_own_copy_of_a_value() -> None:
    tags = ["a"]
    first, second = changed(Event(), {"tags": tags}), changed(Event(), {"tags": tags})
    first["tags"].append("b")
    assert second["tags"] == tags == ["a"]


def test_take_finds_values_in_the_event() -> None:
    event = Event({"order": {"lines": [{"id": 7}]}}, service="shop")
    assert changed(event, take={"line": "data.order.lines.0.id", "asked": "service"}) == {"line": 7, "asked": "shop"}


def test_what_was_taken_is_no_part_of_the_data_any_more() -> None:
    event = Event({"tags": ["a"]})
    changed(event, take={"tags": "data.tags"})["tags"].append("b")
    assert event.data == {"tags": ["a"]}


def test_take_refuses_an_event_that_has_nothing_there_and_changes_nothing() -> None:
    event = Event({}, old=1)
    with pytest.raises(UnprocessableError, match=r"takes 'id' from 'data\.id', where there is nothing"):
        changed(event, {"new": 2}, take={"id": "data.id"}, remove=["old"])
    assert event.__dict__ == {"old": 1}


def test_compute_makes_values_from_the_event() -> None:
    assert changed(Event([1, 2]), compute={"size": lambda event: len(event.data)}) == {"size": 2}


def test_what_a_function_raises_fails_the_event() -> None:
    with pytest.raises(TypeError):
        changed(Event(7), compute={"size": lambda event: len(event.data)})


def test_remove_takes_attributes_away_and_minds_none_that_is_not_there() -> None:
    assert changed(Event(a=1, b=2), remove=["a", "c"]) == {"b": 2}


def test_an_attribute_can_be_renamed_by_its_value() -> None:
    assert changed(Event(a=1), take={"b": "a"}, remove=["a"]) == {"b": 1}


@pytest.mark.parametrize("name", ["data", "copy", "_secret", "meta_id"])
@pytest.mark.parametrize("how", ["values", "take", "compute", "remove"])
def test_names_of_the_events_own_are_refused_at_registration(name: str, how: str) -> None:
    given: Any = {"values": {name: 1}, "take": {name: "data"}, "compute": {name: id}, "remove": [name]}[how]
    with pytest.raises(AttributeNameError, match=repr(name)):
        Director().register_actor(EventAttributeModifier, "modifier", **{how: given})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "'modifier' changes nothing"),
        ({"values": ["a"]}, "values of 'modifier' is .*: wanted is a mapping"),
        ({"take": {"a": 7}}, "take of 'modifier' is .*: wanted is a mapping to paths"),
        ({"compute": {"a": 7}}, "compute of 'modifier' is .*: wanted is a mapping to functions"),
        ({"remove": "ab"}, "remove of 'modifier' is 'ab': wanted is a list of names"),
        ({"remove": [7]}, "remove of 'modifier' is .*: wanted is a list of names"),
        ({"values": {"a": 1}, "remove": ["a"]}, "told twice what to do with the attribute 'a'"),
        ({"values": {7: 1}}, "sets an attribute 7: wanted is a name"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigurationError, AttributeNameError), match=message):
        Director().register_actor(EventAttributeModifier, "modifier", **arguments)


def test_a_failed_event_is_accounted_for() -> None:
    director = Director()
    director.register_actor(EventAttributeModifier, "modifier", take={"id": "data.id"})
    with director:
        director.post("modifier", {})
    assert [letter.reason for letter in letters(director)] == ["failed"]
    assert_conserved(director)
