# SPDX-License-Identifier: Apache-2.0
"""The arguments of an actor, declared once: type, check and default in its constructor, words in its docstring.

::

    @checked
    def __init__(self, name: str, *, port: Annotated[int, whole(0, 65535)] = 8080) -> None:

A type checker sees ``int``; whoever gives something else reads what was seen and what was wanted, with the names of
the argument and the actor. None passes where the type allows it. Checks are for what can be said about one argument
alone. Must not know actors. Read next: any file in `actors`.
"""

import inspect
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from types import NoneType
from typing import Annotated, Any, Final, ParamSpec, get_args, get_origin

from compysition.errors import ConfigurationError

P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class Check:
    """What a value has to be.

    Attributes:
        wanted: In words that follow "wanted is".
        holds: Whether a value is that. It is given anything at all.
    """

    wanted: str
    holds: Callable[[Any], bool]


def checked(init: Callable[P, None]) -> Callable[P, None]:
    """Check the annotated arguments of a constructor whose first argument is the actor's `name`.

    Raises:
        ConfigurationError: by the constructor, for an argument that does not hold its `Check`.
    """
    signature = inspect.signature(init)
    checks = checks_of(signature)

    @wraps(init)
    def check_first(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            given: Mapping[str, Any] = signature.bind(*args, **kwargs).arguments
        except TypeError:
            given = {}  # The call below says what is wrong, in Python's own words.
        for argument, check in checks:
            if argument in given and not check.holds(given[argument]):
                raise refusal(argument, given.get("name"), given[argument], check)
        init(*args, **kwargs)

    return check_first


def refusal(argument: str, actor: object, value: object, check: Check) -> ConfigurationError:
    """The error for a `value` that does not hold `check`."""
    return ConfigurationError(f"{argument} of {actor!r} is {value!r}: wanted is {check.wanted}")


def checks_of(signature: inspect.Signature) -> list[tuple[str, Check]]:
    """The checks that a signature declares, with the names of their arguments."""
    found = []
    for parameter in signature.parameters.values():
        if get_origin(parameter.annotation) is Annotated:
            declared, *notes = get_args(parameter.annotation)
            found += [(parameter.name, _or_none(note, declared)) for note in notes if isinstance(note, Check)]
    return found


def _or_none(check: Check, declared: object) -> Check:
    """`check`, holding for None too if the declared type does."""
    if NoneType not in get_args(declared):
        return check
    return Check(f"{check.wanted}, or None", lambda value: value is None or check.holds(value))


# ---- what is wanted -----------------------------------------------------------------------------------------------


def whole(least: int, most: int | None = None) -> Check:
    """A whole number in these limits, both included."""

    def holds(value: Any) -> bool:
        return type(value) is int and value >= least and (most is None or value <= most)

    return Check(
        f"a whole number, {least} to {most}" if most is not None else f"a whole number, {least} or more", holds
    )


def number(least: float, unit: str = "") -> Check:
    """A finite number from `least` on, of a `unit`."""
    return Check(
        f"a number {f'of {unit} ' if unit else ''}from {least:g} on",
        lambda value: _is_number(value) and value >= least,
    )


def above(least: float, unit: str = "") -> Check:
    """A finite number above `least`, of a `unit`."""
    return Check(
        f"a number {f'of {unit} ' if unit else ''}above {least:g}",
        lambda value: _is_number(value) and value > least,
    )


def text_that(condition: str, holds: Callable[[str], bool]) -> Check:
    """Text that `holds`, which `condition` puts into words after "text that"."""
    return Check(f"text that {condition}", lambda value: isinstance(value, str) and holds(value))


def one_of(*choices: str) -> Check:
    """One of these words."""
    return Check(f"one of {', '.join(map(repr, choices))}", lambda value: isinstance(value, str) and value in choices)


#: True or False, and nothing that only counts as one of them, such as the text "no".
FLAG: Final = Check("True or False", lambda value: isinstance(value, bool))
#: Any text.
TEXT: Final = Check("text", lambda value: isinstance(value, str))
#: The path of a file.
PATH: Final = Check("the path of a file", lambda value: isinstance(value, str | os.PathLike) and bool(os.fspath(value)))
#: Something to call.
FUNCTION: Final = Check(
    "a plain function (an `async def` would never run)",
    lambda value: callable(value) and not inspect.iscoroutinefunction(value),
)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
