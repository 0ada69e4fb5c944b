# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.errors`."""

import builtins
import copy
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from compysition import errors
from compysition.errors import (
    CompysitionError,
    ControlFlow,
    Fatal,
    KeptFullError,
    MissingExtraError,
    QueueFullError,
    RequestError,
    Retry,
    RingFullError,
    StopFlow,
    suggestion,
)

LINE = re.compile(r"^(?P<branch>[│├└ ]*─* ?)(?P<name>[A-Z]\w*)\s*(?P<about>.*)$")


@dataclass(frozen=True)
class Drawn:
    """One line of the tree in the module's docstring."""

    name: str
    parent: str | None
    standard: str | None
    status: int | None


def drawn_tree() -> dict[str, Drawn]:
    text = (errors.__doc__ or "").split("::\n\n", 1)[1].split("\n\nControl flow", 1)[0]
    found: dict[str, Drawn] = {}
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        match = LINE.match(line)
        assert match, line
        depth = len(match["branch"])
        while path and path[-1][0] >= depth:
            path.pop()
        standard = re.match(r"\((\w+)\)", match["about"])
        status = re.search(r"\b([45]\d\d)\b", match["about"])
        found[match["name"]] = Drawn(
            match["name"],
            path[-1][1] if path else None,
            standard[1] if standard else None,
            int(status[1]) if status else None,
        )
        path.append((depth, match["name"]))
    return found


def all_classes(base: type[BaseException]) -> Iterator[type[BaseException]]:
    yield base
    for cls in base.__subclasses__():
        if cls.__module__ == errors.__name__:
            yield from all_classes(cls)


TREE = drawn_tree()
ERRORS: dict[str, type[CompysitionError]] = {
    cls.__name__: cls for cls in all_classes(CompysitionError) if issubclass(cls, CompysitionError)
}
#: Arguments of classes that want more than a text.
ARGUMENTS: dict[type[CompysitionError], dict[str, Any]] = {
    QueueFullError: {"queue": "a → b", "capacity": 5},
    RingFullError: {"queue": "a → b", "capacity": 5},
    KeptFullError: {"actor": "a", "max_kept": 1},
}


def make(cls: type[CompysitionError], text: str = "seen, wanted, what to do") -> CompysitionError:
    if cls is MissingExtraError:
        return MissingExtraError(text, "xml")
    return cls(text, **ARGUMENTS.get(cls, {}))


# ---- the tree -------------------------------------------------------------------------------------------------------


def test_drawing_names_every_error_and_no_other() -> None:
    assert set(TREE) == set(ERRORS)


@pytest.mark.parametrize("drawn", TREE.values(), ids=lambda drawn: drawn.name)
def test_class_stands_where_it_is_drawn(drawn: Drawn) -> None:
    bases = [base.__name__ for base in ERRORS[drawn.name].__bases__]
    assert bases == [name for name in (drawn.parent or "Exception", drawn.standard) if name is not None]


@pytest.mark.parametrize("drawn", [drawn for drawn in TREE.values() if drawn.standard], ids=lambda drawn: drawn.name)
def test_standard_base_is_a_builtin_error(drawn: Drawn) -> None:
    assert issubclass(getattr(builtins, drawn.standard or ""), Exception)


@pytest.mark.parametrize("drawn", [drawn for drawn in TREE.values() if drawn.status], ids=lambda drawn: drawn.name)
def test_status_is_the_drawn_one(drawn: Drawn) -> None:
    assert ERRORS[drawn.name].status == drawn.status


@pytest.mark.parametrize("name", ["ConfigurationError", "UsageError"])
def test_what_a_programmer_has_to_mend_counts_as_500(name: str) -> None:
    assert {cls.status for cls in ERRORS.values() if issubclass(cls, ERRORS[name])} == {500}


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_every_class_is_named_as_an_error_and_says_what_it_is(name: str) -> None:
    assert name.endswith("Error")
    assert inspect.getdoc(ERRORS[name])


def test_subclass_of_a_users_own_inherits_the_status() -> None:
    class OutOfStockError(errors.ConflictError):
        pass

    assert OutOfStockError("none left").status == 409


# ---- each class -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ERRORS))
def test_every_class_can_be_made_raised_and_read(name: str) -> None:
    with pytest.raises(CompysitionError, match="seen, wanted, what to do") as raised:
        raise make(ERRORS[name])
    assert type(raised.value) is ERRORS[name]
    assert "seen, wanted, what to do" in repr(raised.value)


@pytest.mark.parametrize("name", sorted(name for name, cls in ERRORS.items() if issubclass(cls, RequestError)))
def test_every_request_error_can_be_made_without_a_text(name: str) -> None:
    assert str(ERRORS[name]()) == ""


def test_headers_belong_to_one_error_not_to_the_class() -> None:
    headers = {"WWW-Authenticate": "Basic"}
    error = errors.UnauthorizedError("log in", headers=headers)
    headers.clear()
    assert dict(error.headers) == {"WWW-Authenticate": "Basic"}
    assert dict(errors.UnauthorizedError("log in").headers) == {}
    assert dict(CompysitionError.headers) == {}


def test_request_error_says_when_to_come_again() -> None:
    assert errors.UnavailableError("not now", retry_after_s=3.0).retry_after_s == 3.0
    assert errors.UnavailableError("not now").retry_after_s is None


def test_facts_of_an_error_are_attributes() -> None:
    full = QueueFullError("full", queue="a → b", capacity=500)
    start = errors.StartError("not ready", actor="a")
    extra = MissingExtraError("actor Transformer", "xml")
    assert (full.queue, full.capacity) == ("a → b", 500)
    assert (start.actor, start.report) == ("a", None)
    assert errors.StylesheetError("no", 7).line == 7
    assert errors.StylesheetError("no").line is None
    assert extra.extra == "xml"
    assert str(extra) == "actor Transformer needs the extra 'xml': pip install 'compysition[xml]'"


@pytest.mark.parametrize("name", sorted(name for name, cls in ERRORS.items() if issubclass(cls, RequestError)))
def test_error_survives_a_copy(name: str) -> None:
    # An error in an event's data is copied with it when the event is sent to several.
    error = make(ERRORS[name])
    twin = copy.deepcopy(error)
    assert type(twin) is type(error)
    assert (str(twin), twin.args) == (str(error), error.args)


# ---- control flow ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [StopFlow, Retry, Fatal])
def test_control_flow_is_no_error(cls: type[ControlFlow]) -> None:
    assert not issubclass(cls, CompysitionError)
    assert not cls.__name__.endswith("Error")


def test_all_control_flow_is_what_the_docstring_lists() -> None:
    assert {cls for cls in all_classes(ControlFlow) if cls is not ControlFlow} == {StopFlow, Retry, Fatal}


def test_retry_says_when() -> None:
    assert Retry().after_s is None
    assert Retry(0.5).after_s == 0.5
    assert Retry(after_s=2).after_s == 2


# ---- suggestion -----------------------------------------------------------------------------------------------------


def test_suggestion_is_the_nearest_name() -> None:
    assert suggestion("outpt", ["input", "output", "other"]) == "; did you mean 'output'?"


def test_suggestion_lists_all_names_when_none_is_near() -> None:
    assert suggestion("zzz", ["wsgi", "auth"]) == "; there are: 'auth', 'wsgi'"


def test_suggestion_says_that_there_are_no_names() -> None:
    assert suggestion("zzz", []) == "; there are none"


def test_suggestion_without_a_list_says_nothing_when_no_name_is_near() -> None:
    assert suggestion("zzz", ["wsgi", "auth"], is_listed=False) == ""
    assert suggestion("aut", ["wsgi", "auth"], is_listed=False) == "; did you mean 'auth'?"


def test_suggestion_takes_any_iterable_once() -> None:
    assert suggestion("aut", iter(["auth", "wsgi"])) == "; did you mean 'auth'?"


def test_capitals_do_not_hide_what_was_meant() -> None:
    assert suggestion("Stdout", ["STDOUT", "Source"]) == "; did you mean 'STDOUT'?"
    assert suggestion("source", ["STDOUT", "Source"]) == "; did you mean 'Source'?"


def test_a_long_list_of_names_is_cut() -> None:
    names = [f"{letter}x" for letter in "abcdefghijklmnop"]
    assert suggestion("1234", names).endswith("'kx', 'lx' and 4 more")
