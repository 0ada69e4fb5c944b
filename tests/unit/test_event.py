# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.event`."""

import copy
import gc
import json
import os
import time
import types
import warnings
import weakref
from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest
from gevent import GreenletExit, get_hub
from hypothesis import given
from hypothesis import strategies as st

from compysition.clock import Clock
from compysition.deadlines import DeadlineWheel
from compysition.errors import (
    ActorError,
    AttributeNameError,
    CompysitionError,
    ConflictError,
    NotFoundError,
    QueueFullError,
    UnauthorizedError,
    UnavailableError,
)
from compysition.event import Event, Failure
from compysition.lineage import Ticket


class OrderEvent(Event):
    """A user's subclass."""


def caught(raiser: Callable[[], object]) -> BaseException:
    try:
        raiser()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


# ---- ids ------------------------------------------------------------------------------------------------------------


def test_ids_are_unique() -> None:
    ids = [Event().event_id for _ in range(10_000)]
    assert len(set(ids)) == len(ids)


def test_id_never_changes() -> None:
    event = Event()
    first = event.event_id
    event.data = "changed"
    event.copy()
    assert event.event_id == first


def test_id_is_made_when_first_asked_for() -> None:
    # Ids count upwards, so the order of asking shows.
    made_first, asked_first = Event(), Event()
    numbers = [int(event.event_id.rpartition("-")[2], 16) for event in (asked_first, made_first)]
    assert numbers[1] == numbers[0] + 1


def test_id_cannot_be_assigned() -> None:
    event = Event()
    with pytest.raises(AttributeError):
        event.event_id = "mine"  # type: ignore[misc]  # that is the point


def test_ids_of_threads_are_unique() -> None:
    ids: list[str] = []
    threads = [Thread(target=lambda: ids.extend([Event().event_id for _ in range(2000)])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 8000


def in_child(function: Callable[[], Any]) -> Any:
    """What `function` returns in a forked child, as plain data."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Newer interpreters warn of threads; nothing here takes a lock.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:  # pragma: no cover - coverage does not follow
        try:
            os.write(writing, json.dumps(function()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    return json.loads(text)


def test_id_that_was_made_is_the_same_in_a_forked_child() -> None:
    event = Event()
    here = event.event_id
    assert in_child(lambda: event.event_id) == here


def test_forked_child_makes_ids_of_its_own() -> None:
    Event().event_id  # noqa: B018 - the parent has begun to count
    there = in_child(lambda: [Event().event_id for _ in range(100)])
    also_there = in_child(lambda: [Event().event_id for _ in range(100)])
    here = [Event().event_id for _ in range(100)]
    assert len({*here, *there, *also_there}) == 300


def test_child_of_a_child_makes_ids_of_its_own() -> None:
    def child() -> list[str]:
        before = Event().event_id
        inner = in_child(lambda: Event().event_id)
        return [before, inner, Event().event_id]

    assert len({Event().event_id, *in_child(child), Event().event_id}) == 5


def test_event_without_an_id_gets_different_ones_in_parent_and_child() -> None:
    event = Event()
    there = in_child(lambda: event.event_id)
    assert event.event_id != there


# ---- correlation ----------------------------------------------------------------------------------------------------


def test_meta_id_is_the_own_id_by_default() -> None:
    event = Event()
    assert event.meta_id == event.event_id


def test_meta_id_can_be_given() -> None:
    event = Event(meta_id="order-7")
    assert event.meta_id == "order-7"
    assert event.event_id != "order-7"


@pytest.mark.parametrize("is_asked_before", [True, False])
def test_copy_has_its_own_id_and_the_originals_meta_id(is_asked_before: bool) -> None:
    event = Event()
    before = event.event_id if is_asked_before else None
    twin = event.copy()
    assert twin.meta_id == event.event_id == event.meta_id
    assert twin.event_id != event.event_id
    assert before in (None, event.event_id)


def test_copies_of_copies_keep_the_first_meta_id() -> None:
    event = Event()
    twin = event.copy().copy()._derive(None).copy()
    assert twin.meta_id == event.event_id


def test_given_meta_id_goes_to_copies() -> None:
    assert Event(meta_id="order-7").copy().meta_id == "order-7"


def test_plain_event_inherits_nothing() -> None:
    first, second = Event(), Event()
    assert first.meta_id != second.meta_id
    assert second.service == "default"


def test_derived_event_inherits_correlation_and_service_and_nothing_else() -> None:
    parent = OrderEvent({"a": 1}, "orders", "order-7", customer="ann")
    parent.error = Failure(ValueError, "no")
    child = parent._derive("part")
    assert type(child) is OrderEvent
    assert (child.data, child.service, child.meta_id) == ("part", "orders", "order-7")
    assert child.error is None
    assert child.get("customer") is None
    assert child.attempts == 0


def test_copies_and_derived_events_belong_to_whoever_waits() -> None:
    clock = Clock()
    ticket = Ticket(clock, DeadlineWheel(clock), None, get_hub().loop)
    event = Event()
    ticket.attach(event)
    assert event.copy()._lineage is event._lineage
    assert event._derive(None)._lineage is event._lineage
    assert Event()._lineage is None
    ticket.cancel()


# ---- copies ---------------------------------------------------------------------------------------------------------


def test_copy_has_its_own_data_and_attributes() -> None:
    event = OrderEvent({"lines": [1]}, "orders", tags=["new"])
    twin = event.copy()
    twin.data["lines"].append(2)
    twin.get("tags").append("seen")
    assert type(twin) is OrderEvent
    assert twin.service == "orders"
    assert event.data == {"lines": [1]}
    assert event.get("tags") == ["new"]
    assert twin.data == {"lines": [1, 2]}


def test_copy_keeps_error_and_time_of_creation() -> None:
    event = Event()
    event.error = Failure(ValueError, "no")
    twin = event.copy()
    assert twin.error == event.error
    assert twin.created == event.created


def test_created_is_the_time_in_seconds_since_1970() -> None:
    assert abs(Event().created - time.time()) < 5.0


def test_copy_belongs_to_nobody_yet() -> None:
    event = Event()
    assert repr(event.copy()._owner) == "nobody"


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_module_copy_makes_what_copy_makes(duplicate: Callable[[Event], Event]) -> None:
    # Else a second object would claim the same id and the same place in the ledger.
    event = OrderEvent({"a": [1]}, tags=["x"])
    twin = duplicate(event)
    assert type(twin) is OrderEvent
    assert twin.event_id != event.event_id
    assert twin.meta_id == event.event_id
    twin.get("tags").append("y")
    assert event.get("tags") == ["x"]


def test_event_within_the_data_of_another_is_copied_with_it() -> None:
    part = Event({"a": 1})
    twin = Event([part]).copy()
    assert twin.data[0] is not part
    assert twin.data[0].data == {"a": 1}
    assert twin.data[0].event_id != part.event_id


# ---- attributes -----------------------------------------------------------------------------------------------------


def test_attributes_are_given_set_or_assigned() -> None:
    event = Event("data", customer="ann")
    event.set("order", 7)
    event.colour = "red"  # type: ignore[attr-defined]  # any attribute
    assert event.customer == "ann"  # type: ignore[attr-defined]  # as above
    assert [event.get(name) for name in ("customer", "order", "colour")] == ["ann", 7, "red"]


def test_absent_attribute_is_the_default() -> None:
    event = Event()
    assert event.get("customer") is None
    assert event.get("customer", "nobody") == "nobody"


def test_get_sees_attributes_only() -> None:
    assert Event("data").get("data", "none") == "none"


def test_attribute_names_need_not_be_identifiers() -> None:
    event = Event()
    event.set("x-order id", 1)
    assert event.get("x-order id") == 1


API = [name for name in dir(Event) if not name.startswith("_")]


@pytest.mark.parametrize("name", [*API, "_owner", "_mine", "__dict__"])
def test_attribute_that_would_hide_the_api_is_refused(name: str) -> None:
    event = Event("data")
    with pytest.raises(AttributeNameError, match=r"cannot be called .*choose another name"):
        event.set(name, 1)
    assert event.data == "data"


@pytest.mark.parametrize("name", [name for name in API if name not in ("data", "meta_id", "service")])
def test_keyword_that_would_hide_the_api_is_refused(name: str) -> None:
    attributes: dict[str, Any] = {name: 1}
    with pytest.raises(AttributeNameError, match="choose another name"):
        Event(None, **attributes)


# ---- lookup ---------------------------------------------------------------------------------------------------------


def nested() -> Event:
    data = {"order": types.SimpleNamespace(lines=[{"id": 7, "note": None}, ("a", "b")], _secret=1), "text": "abc"}
    return Event(data, customer={"name": "ann"})


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("data.order.lines.0.id", 7),
        ("data.order.lines.1.1", "b"),
        ("data.order.lines.0.note", None),
        ("data.text", "abc"),
        ("customer.name", "ann"),
        ("service", "default"),
    ],
)
def test_lookup_goes_into_mappings_sequences_and_attributes(path: str, found: object) -> None:
    assert nested().lookup(path, "default") == found


@pytest.mark.parametrize(
    "path",
    [
        "data.none",
        "data.order.lines.2",
        "data.order.lines.x",
        "data.order.lines.0.id.more",
        "data.order._secret",
        "data.text.0",
        "_owner",
        "__class__",
        "",
        "..",
        "data.",
        "none.none",
    ],
)
def test_lookup_that_leads_nowhere_is_the_default(path: str) -> None:
    missing = object()
    assert nested().lookup(path, missing) is missing
    assert nested().lookup(path) is None


#: Few characters, so that paths lead somewhere.
_STEPS = st.text("a0-_.", max_size=2)


@given(
    st.lists(_STEPS | st.text(max_size=5), max_size=4).map(".".join),
    st.recursive(
        st.none() | st.integers() | _STEPS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_STEPS, inner, max_size=3),
        max_leaves=8,
    ),
)
def test_lookup_never_raises_for_plain_data(path: str, data: Any) -> None:
    Event(data).lookup(f"data.{path}")


# ---- repr -----------------------------------------------------------------------------------------------------------


def test_repr_names_class_id_and_data() -> None:
    event = OrderEvent({"a": 1})
    assert repr(event) == f"OrderEvent({event.event_id}, data={{'a': 1}})"


def test_repr_shows_what_is_not_the_default() -> None:
    event = Event(1, "orders", "order-7")
    event.error = Failure(ValueError, "no good")
    text = repr(event)
    for part in ("service='orders'", "meta_id='order-7'", "error='ValueError: no good'"):
        assert part in text


def test_repr_of_much_data_is_short() -> None:
    assert len(repr(Event("x" * 100_000))) < 200


# ---- failures -------------------------------------------------------------------------------------------------------


def test_failure_holds_class_text_status_and_traceback() -> None:
    lines: dict[str, int] = {}
    error = caught(lambda: lines["missing"])
    failure = Failure.of(error, actor="a")
    assert failure.error_class is KeyError
    assert (failure.text, failure.status, failure.actor) == ("'missing'", 500, "a")
    assert "in caught" in failure.traceback
    assert str(failure) == "KeyError: 'missing'"


def test_failure_of_our_tree_has_its_status_and_headers() -> None:
    failure = Failure.of(UnauthorizedError("log in", headers={"WWW-Authenticate": "Basic"}))
    assert failure.status == 401
    assert failure.headers == {"WWW-Authenticate": "Basic"}
    assert Failure.of(UnavailableError("later", retry_after_s=2.0)).retry_after_s == 2.0


def test_failure_shows_the_cause_too() -> None:
    def raiser() -> None:
        try:
            raise OSError("disk")
        except OSError as error:
            raise ConflictError("not now") from error

    text = Failure.of(caught(raiser)).traceback
    assert "disk" in text
    assert "not now" in text


class Payload:
    """Something in a handler's frame."""


def test_failure_keeps_no_frame_and_no_exception_alive() -> None:
    seen: list[weakref.ref[Any]] = []

    def handler() -> None:
        payload = Payload()
        seen.append(weakref.ref(payload))
        raise NotFoundError("nothing here")

    failure = Failure.of(caught(handler))
    # Copied and raised again, it still keeps nothing.
    again = failure.exception()
    gc.collect()
    assert seen[0]() is None
    assert failure.traceback
    assert again.__traceback__ is None


def test_failure_of_an_error_whose_text_raises_is_still_a_failure() -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    failure = Failure.of(caught(lambda: (_ for _ in ()).throw(MuteError())))
    assert failure.error_class is MuteError
    assert "MuteError" in failure.text
    assert "MuteError" in failure.traceback


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no good"),
        ValueError(),
        NotFoundError("nothing here"),
        ConflictError(),
        ZeroDivisionError("division by zero"),
    ],
    ids=repr,
)
def test_failure_gives_back_an_error_of_the_same_class_and_text(error: Exception) -> None:
    again = Failure.of(error, actor="a").exception()
    assert type(again) is type(error)
    assert str(again) == str(error)


def test_error_given_back_has_the_facts_of_the_first_one() -> None:
    error = UnavailableError("later", headers={"X-Queue": "7"}, retry_after_s=2.5)
    again = Failure.of(error).exception()
    assert isinstance(again, UnavailableError)
    assert again.status == 503
    assert again.headers == {"X-Queue": "7"}
    assert again.retry_after_s == 2.5


class TwoWordsError(Exception):
    """A user's class that cannot be built from one text."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (TwoWordsError("no", "good"), 500),
        (KeyError("missing"), 500),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), 500),
        (QueueFullError("full", queue="a → b", capacity=1), 503),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_class_that_cannot_be_built_from_its_text_is_stood_in_for(error: Exception, status: int) -> None:
    again = Failure.of(error).exception()
    assert type(again) is ActorError or type(again) is type(error)
    assert isinstance(again, CompysitionError | type(error))
    assert type(error).__name__ in f"{type(again).__name__} {again}"
    assert str(error) in str(again)
    assert getattr(again, "status", 500) == status


@pytest.mark.parametrize("error", [GreenletExit("killed"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_what_ends_greenlets_and_processes_is_never_raised_again(error: BaseException) -> None:
    again = Failure.of(error).exception()
    assert type(again) is ActorError
    assert type(error).__name__ in str(again)


def test_error_given_back_tells_actor_and_traceback_in_its_notes() -> None:
    again = Failure.of(caught(lambda: 1 // 0), actor="divider").exception()
    [note] = again.__notes__
    assert "'divider'" in note
    assert "ZeroDivisionError" in note


def test_failure_cannot_be_changed() -> None:
    failure = Failure(ValueError, "no")
    with pytest.raises(AttributeError):
        failure.text = "yes"  # type: ignore[misc]  # that is the point
