# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.actors.data`."""

from typing import Any

import pytest
from lxml import etree

from compysition import Director, Event
from compysition.actors import Data
from compysition.errors import RegistrationError, UnprocessableError


@pytest.fixture
def director() -> Director:
    return Director()


def register(director: Director, *args: Any, **kwargs: Any) -> Director:
    director.register_actor(Data, "data", *args, **kwargs)
    return director


@pytest.mark.parametrize("data", ["Hello, this has been a test", 7, None, {"a": [1]}, b"x"])
def test_it_replaces_the_data_of_an_event(director: Director, data: Any) -> None:
    with register(director, data=data):
        assert director.ask("data", "before").data == data


def test_without_arguments_it_takes_the_data_away(director: Director) -> None:
    with register(director):
        assert director.ask("data", "before").data is None


def test_the_event_stays_the_same_event(director: Director) -> None:
    event = Event("before", service="orders", colour="red")
    with register(director, "after"):
        answer = director.ask("data", event)
    assert answer is event
    assert (answer.service, answer.get("colour"), answer.data) == ("orders", "red", "after")


def test_every_event_gets_a_fresh_copy(director: Director) -> None:
    data = {"lines": [1, 2]}
    with register(director, data=data):
        first, second = director.ask("data", None), director.ask("data", None)
    first.data["lines"].append(3)
    first.data["more"] = True
    assert second.data == {"lines": [1, 2]}
    assert data == {"lines": [1, 2]}


def test_a_document_is_copied_too(director: Director) -> None:
    root = etree.fromstring("<a><b/></a>")
    with register(director, data=root):
        first, second = director.ask("data", None), director.ask("data", None)
    first.data.clear()
    assert len(second.data) == len(root) == 1


def test_with_a_key_it_replaces_one_entry_and_leaves_the_others(director: Director) -> None:
    with register(director, data=[12], key="price"):
        first = director.ask("data", {"article": "pen", "price": 1})
        second = director.ask("data", {})
    assert first.data == {"article": "pen", "price": [12]}
    assert second.data == {"price": [12]}
    assert first.data["price"] is not second.data["price"]


def test_with_a_key_an_event_without_data_gets_a_dict(director: Director) -> None:
    with register(director, data=12, key="price"):
        assert director.ask("data", None).data == {"price": 12}


@pytest.mark.parametrize("data", ["text", b"", 0, [], ("a", 1), etree.Element("a")], ids=repr)
def test_with_a_key_data_that_is_no_dict_fails_the_event_by_name(director: Director, data: Any) -> None:
    with register(director, data=12, key="price"):
        with pytest.raises(UnprocessableError, match=rf"'data' sets the key 'price'.*not {type(data).__name__}"):
            director.ask("data", data)
        assert director.ask("data", {}).data == {"price": 12}


def test_an_argument_it_does_not_know_is_an_error_that_names_the_actor(director: Director) -> None:
    with pytest.raises(RegistrationError, match=r"actor 'data' cannot be registered.*dat"):
        register(director, dat=1)
