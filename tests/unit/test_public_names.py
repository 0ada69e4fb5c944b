# SPDX-License-Identifier: Apache-2.0
"""Whatever a public call takes or returns, users can name in an annotation, from where they import."""

import inspect
import typing
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Final

import pytest

from compysition import HttpEvent, StopReport

#: Where users import from.
MODULES: Final = ("compysition", "compysition.actors", "compysition.errors", "compysition.testing")
#: Handed out, but nothing that a user needs to say more about than that it is there.
OPAQUE: Final = {
    "compysition.actor.Threads",
    "compysition.clock.Clock",
    "compysition.clock.Timer",
    "compysition.restartlet.RestartableGreenlet",
}
#: What is public only for other parts of the runtime: it stands in signatures of these alone.
NOT_FOR_USERS: Final = {
    "DeadLetters.add",
    "Director.crashed",
    "Request.from_environ",
}
#: Names in annotations that their modules do not import when they run.
ONLY_FOR_TYPE_CHECKERS: Final = {"HttpEvent": HttpEvent, "Source": object, "StopReport": StopReport}


def names_of(module: str) -> list[str]:
    """What `module` exports, or the classes that are written in it."""
    found = import_module(module)
    written = [name for name, thing in vars(found).items() if getattr(thing, "__module__", "") == module]
    return getattr(found, "__all__", written)


def classes_in(annotation: Any) -> Iterator[type]:
    """All classes in an annotation."""
    if isinstance(annotation, type):
        yield annotation
    for inner in annotation if isinstance(annotation, list) else typing.get_args(annotation):
        yield from classes_in(inner)


def with_annotations(thing: Any) -> Iterator[tuple[str, Any]]:
    """What of a public name has annotations: the function, or the class with its public methods and properties."""
    yield thing.__qualname__, inspect.unwrap(thing)
    if isinstance(thing, type):
        for name, member in inspect.getmembers_static(thing):
            place = f"{thing.__qualname__}.{name}"
            inner = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
            if (
                (not name.startswith("_") or name == "__init__")
                and place not in NOT_FOR_USERS
                and getattr(inner, "__module__", "").startswith("compysition")
                and inspect.isfunction(inner)
            ):
                yield place, inspect.unwrap(inner)


PUBLIC: Final = [getattr(import_module(module), name) for module in MODULES for name in names_of(module)]


@pytest.mark.parametrize("module", MODULES)
def test_every_name_that_is_offered_is_listed(module: str) -> None:
    assert set(names_of(module)) <= set(dir(import_module(module)))


@pytest.mark.parametrize("thing", [one for one in PUBLIC if callable(one)], ids=lambda thing: thing.__name__)
def test_every_class_that_a_public_call_names_is_offered_too(thing: Any) -> None:
    offered = {id(one) for one in PUBLIC}
    for place, annotated in with_annotations(thing):
        hints = typing.get_type_hints(annotated, localns=ONLY_FOR_TYPE_CHECKERS)
        named = {cls for name, hint in hints.items() if not name.startswith("_") for cls in classes_in(hint)}
        ours = {
            cls: f"{cls.__module__}.{cls.__qualname__}" for cls in named if cls.__module__.startswith("compysition")
        }
        assert not [name for cls, name in ours.items() if id(cls) not in offered and name not in OPAQUE], place
