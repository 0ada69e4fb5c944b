# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.actors.eventrouter`."""

import logging
import re
import sys
from typing import Any

import pytest
from lxml import etree

from compysition import Director, Event
from compysition.actors import EventFilter, EventRouter
from compysition.errors import ConfigurationError, MalformedError, MissingExtraError, StartError, UnprocessableError
from compysition.ledger import Outcome
from tests.fault.conservation import Collector, assert_conserved, letters

NAMES = ("a", "b", "rest")


def routed(items: list[Any], filters: list[EventFilter], **kwargs: Any) -> dict[str, list[Any]]:
    """What each of the outboxes `NAMES` got."""
    director, sinks = wired(filters, **kwargs)
    with director:
        for item in items:
            director.post("router", item)
    assert_conserved(director)
    assert not letters(director)
    return {name: sink.data for name, sink in sinks.items() if sink.data}


def wired(filters: list[EventFilter], **kwargs: Any) -> tuple[Director, dict[str, Collector]]:
    director = Director()
    router = director.register_actor(EventRouter, "router", filters, **kwargs)
    sinks = {name: director.register_actor(Collector, name) for name in NAMES}
    director.connect_queue(router, list(sinks.values()))
    return director, sinks


# ---- which events match -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "items", "matching"),
    [
        ({"value": 7}, [7, 8, "7", None], [7]),
        ({"value": None}, [None, 0, ""], [None]),
        ({"value": "x", "path": "data.kind"}, [{"kind": "x"}, {"kind": "y"}, {}, "x"], [{"kind": "x"}]),
        ({"value": 2, "path": "data.lines.0"}, [{"lines": [2, 3]}, {"lines": []}], [{"lines": [2, 3]}]),
        ({"regex": "b+"}, ["abc", "ac", b"abc", 7, None], ["abc", b"abc"]),
        ({"regex": re.compile("B", re.IGNORECASE)}, ["abc", "ac"], ["abc"]),
        ({"regex": b"\xff"}, [b"a\xff", b"a", "a\xff"], [b"a\xff"]),
        ({"regex": "é"}, ["é".encode(), b"\xe9"], ["é".encode()]),
        ({"regex": "^ad", "path": "data.to"}, [{"to": "ada"}, {"to": "bob"}, {}, 3], [{"to": "ada"}]),
        ({"function": lambda event: event.data > 2}, [1, 3], [3]),
        ({"function": lambda event: event.get("vip")}, [1], []),
        ({"xpath": "/a[@k='1']"}, ["<a k='1'/>", "<a k='2'/>", b"<a k='1'/>", {}], ["<a k='1'/>", b"<a k='1'/>"]),
        ({"xpath": "count(//b) > 1"}, ["<a><b/><b/></a>", "<a><b/></a>"], ["<a><b/><b/></a>"]),
        ({"xpath": "count(//b)"}, ["<a><b/></a>", "<a/>"], ["<a><b/></a>"]),
        ({"xpath": "number(/a)"}, ["<a>1</a>", "<a>0</a>", "<a>x</a>"], ["<a>1</a>"]),
        ({"xpath": "string(/a)"}, ["<a>x</a>", "<a/>"], ["<a>x</a>"]),
        ({"xpath": "/n:a", "namespaces": {"n": "urn:n"}}, ["<a xmlns='urn:n'/>", "<a/>"], ["<a xmlns='urn:n'/>"]),
        ({"xpath": "/a", "path": "data.xml"}, [{"xml": "<a/>"}, {"xml": "<b/>"}, {}], [{"xml": "<a/>"}]),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_filter_matches_what_it_says(wanted: dict[str, Any], items: list[Any], matching: list[Any]) -> None:
    got = routed(items, [EventFilter("a", **wanted)], default="rest")
    assert got.get("a", []) == matching
    assert got.get("rest", []) == [item for item in items if item not in matching]


def test_trees_and_elements_of_lxml_are_searched_as_they_are() -> None:
    root = etree.fromstring("<a><b/></a>")
    got = routed(
        [root, etree.ElementTree(root), etree.fromstring("<c/>")], [EventFilter("a", xpath="//b")], default="b"
    )
    assert [len(got["a"]), len(got["b"])] == [2, 1]


def test_a_large_document_is_searched_beside_the_hub_and_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    offloaded = []

    def offload(router: EventRouter, function: Any, *args: Any) -> Any:
        offloaded.append(getattr(function, "__name__", type(function).__name__))
        return function(*args)

    monkeypatch.setattr(EventRouter, "offload", offload)
    large = f"<a>{'<b/>' * 5000}<c/></a>"
    got = routed([large, "<a/>"], [EventFilter("a", xpath="//d"), EventFilter("b", xpath="//c")], default="rest")
    assert got == {"b": [large], "rest": ["<a/>"]}
    assert offloaded == ["parse", "XPath", "XPath"]


# ---- where they go ----------------------------------------------------------------------------------------------


FILTERS = [
    EventFilter("a", function=lambda event: event.data >= 2),
    EventFilter(["a", "b"], function=lambda event: event.data >= 3),
]


def test_first_sends_where_the_first_filter_that_matches_says() -> None:
    assert routed([1, 2, 3], FILTERS, default="rest") == {"a": [2, 3], "rest": [1]}


def test_all_sends_where_any_filter_that_matches_says_once_to_each_outbox() -> None:
    assert routed([1, 2, 3], FILTERS, match="all", default="rest") == {"a": [2, 3], "b": [3], "rest": [1]}


def test_an_event_that_matches_nothing_fails_by_name_and_goes_nowhere() -> None:
    director, sinks = wired([EventFilter("a", value=1), EventFilter("b", value=2)])
    with director, pytest.raises(UnprocessableError, match="'router' matches, and it has no default outbox"):
        director.ask("router", 3)
    assert not any(sink.data for sink in sinks.values())
    assert [(letter.actor, letter.reason) for letter in letters(director)] == [("router", "failed")]
    assert_conserved(director)


def test_an_event_that_matches_nothing_takes_the_error_outbox() -> None:
    director, sinks = wired([EventFilter("a", value=1)])
    errors = director.register_actor(Collector, "errors")
    director.connect_queue_error("router", errors)
    with director:
        director.post("router", 3)
    assert errors.data == [3]
    assert errors.events[0].error is not None
    assert errors.events[0].error.status == 422
    assert not any(sink.data for sink in sinks.values())


def test_what_a_function_raises_fails_its_event_alone() -> None:
    director, sinks = wired([EventFilter("a", function=lambda event: 1 / event.data)])
    with director:
        for number in (0, 1):
            director.post("router", number)
    assert sinks["a"].data == [1]
    assert [letter.error.error_class for letter in letters(director) if letter.error] == [ZeroDivisionError]
    assert_conserved(director)


def test_text_that_is_no_xml_fails_its_event() -> None:
    director, _ = wired([EventFilter("a", xpath="/a")], default="rest")
    with director, pytest.raises(MalformedError):
        director.ask("router", "<a")


def test_the_copies_of_a_request_share_its_lineage() -> None:
    director, sinks = wired([EventFilter(["a", "b"], value=1)])
    with director:
        director.post("router", Event(1))
    assert sinks["a"].events[0].meta_id == sinks["b"].events[0].meta_id
    assert director.snapshot().balance.ended[Outcome.DELIVERED] == 2


# ---- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"regex": "a("}, r"regex of EventFilter\('a'\) does not compile: 'a\(': missing \), unterminated subpattern"),
        ({"regex": 7}, "regex of .* is 7: wanted is a regular expression"),
        ({"xpath": "/a["}, r"xpath of EventFilter\('a'\) does not compile: '/a\[': Invalid expression"),
        ({"xpath": "/n:a"}, "xpath of .* does not compile: '/n:a': Undefined namespace prefix"),
        ({"xpath": "nonsense(/a)"}, "xpath of .* does not compile: .*: Unregistered function"),
        ({"xpath": "$a"}, "xpath of .* does not compile: .*: Undefined variable"),
        ({"xpath": b"/a"}, "xpath of .* is b'/a': wanted is an XPath expression as text"),
        ({"function": "len"}, "function of .* is 'len': wanted is a plain function"),
        ({}, r"EventFilter\('a'\) is given nothing: wanted is one of value=, regex=, function= and xpath="),
        ({"value": 1, "regex": "a"}, "is given regex and value: wanted is one of"),
        ({"value": 1, "path": ""}, "path of .* is ''"),
    ],
)
def test_a_filter_that_makes_no_sense_is_refused_when_it_is_made(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        EventFilter("a", **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("outboxes", ["", [], [""], 7, None, ["a", 7]])
def test_a_filter_without_outboxes_is_refused(outboxes: Any) -> None:
    with pytest.raises(ConfigurationError, match="wanted is the name of an outbox, or several names"):
        EventFilter(outboxes, value=1)


@pytest.mark.parametrize("filters", [[], None, EventFilter("a", value=1), ["a"], [EventFilter("a", value=1), None]])
def test_a_router_wants_a_list_of_filters(filters: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"filters of 'router' is .*: wanted is a list of EventFilter"):
        Director().register_actor(EventRouter, "router", filters)


def test_a_match_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="match of 'router' is 'any': wanted is one of 'first', 'all'"):
        Director().register_actor(EventRouter, "router", FILTERS, match="any")


def test_without_lxml_a_filter_with_xpath_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lxml", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'compysition\[xml\]'"):
        EventFilter("a", xpath="/a")


@pytest.mark.parametrize(("outbox", "default"), [("restt", None), ("a", "restt")])
def test_an_outbox_that_is_not_connected_stops_the_start_with_a_suggestion(outbox: str, default: str | None) -> None:
    director, _ = wired([EventFilter(outbox, value=1)], default=default)
    with pytest.raises(StartError, match="'router' sends to an outbox 'restt', which it does not have; did you mean"):
        director.start(block=False)
    assert_conserved(director)


def test_an_outbox_that_no_filter_names_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    director, _ = wired([EventFilter("a", value=1)], default="rest")
    with caplog.at_level(logging.WARNING), director:
        pass
    assert "no filter of router names the outbox b: nothing goes there" in caplog.text
