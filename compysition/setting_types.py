# SPDX-License-Identifier: Apache-2.0
"""The types that a setting may have: how each is read from text or from TOML, and how a value is shown.

Flags and the environment know nothing but text, so every type has its spelling there; a text in a TOML file is read in
the same way. A number where text is wanted is an error: it lacks its quotes. Must not know where values come from.
Read next: `settings`.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import get_args, get_origin

from compysition.errors import ConfigurationError, suggestion

_TRUE, _FALSE = frozenset({"true", "yes", "on", "1"}), frozenset({"false", "no", "off", "0"})
#: Seconds per unit.
_UNITS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_SPAN = re.compile(r"(\d+(?:\.\d+)?) ?(ms|s|min|h|d) ?", re.ASCII)
_SECONDS = "a time: seconds as a number, or with units, as in '250 ms', '1 min 30 s', '2 h'"


class UnfitError(Exception):
    """A value does not fit its type; the text says what is wanted."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of settings.

    Attributes:
        name: For tables and messages.
        wanted: For messages, as in ``a whole number``.
        of: What it was made from; kinds are the same if these are.
        cls: What a default has to be an instance of; None if anything goes.
        read: Makes the value from what was found; raises `UnfitError`.
    """

    name: str = field(compare=False)
    wanted: str = field(compare=False)
    of: object
    cls: type | None = field(compare=False)
    read: Callable[[object], object] = field(compare=False)

    def takes_default(self, default: object) -> bool:
        """Whether `default` is of this kind, or None."""
        if default is None or self.cls is None:
            return True
        if isinstance(default, bool):
            return self.cls is bool
        return isinstance(default, (int, float) if self.cls is float else self.cls)

    def of_default(self, default: object) -> object:
        """The value that a default stands for: a list of its own, and 1.0 for 1 where a number is wanted."""
        if isinstance(default, list):
            return list(default)
        return float(default) if self.cls is float and isinstance(default, int) else default


def kind_of(name: str, type_: object) -> Kind:
    """The kind for the type that a script gave for its setting `name`.

    Raises:
        ConfigurationError: it is none that can be read.
    """
    if type_ is list or get_origin(type_) is list:
        item = kind_of(name, (get_args(type_) or (str,))[0])
        return Kind(f"list[{item.name}]", f"a list, each of it {item.wanted}", (list, item.of), list, _list_of(item))
    if isinstance(type_, type):
        if type_ in _PLAIN:
            return _PLAIN[type_]
        if issubclass(type_, Enum):
            return _enum(type_)
        if issubclass(type_, dict | tuple | set | frozenset | bytes | complex | type(None)):
            type_ = None
    if not callable(type_):
        raise ConfigurationError(
            f"setting {name!r} cannot have this type: wanted is bool, int, float, str, Path, an Enum, list[…] of "
            "these, or a function that makes the value from text, such as compysition.seconds"
        )
    return _function(type_)


def kind_of_default(name: str, default: object) -> Kind:
    """The kind that goes without saying, from the default of the setting `name`.

    Raises:
        ConfigurationError: nobody can tell.
    """
    if isinstance(default, list):
        kinds = {type(item) for item in default}
        if len(kinds) != 1:
            raise ConfigurationError(
                f"the default of setting {name!r} does not tell what the list is of: say it, as in type=list[str]"
            )
        return kind_of(name, list[kinds.pop()])  # type: ignore[misc]  # a type that is known now
    if isinstance(default, Enum):
        return _enum(type(default))
    for cls, kind in _PLAIN.items():
        if isinstance(default, cls):
            return kind
    raise ConfigurationError(
        f"the default of setting {name!r} is a {type(default).__name__}: say with type=… how it is read from text"
    )


def seconds(text: str) -> float:
    """A time in seconds, from a number or from numbers with units: ``ms``, ``s``, ``min``, ``h``, ``d``.

    >>> seconds("2.5"), seconds("250 ms"), seconds("1 min 30 s")
    (2.5, 0.25, 90.0)

    Raises:
        ValueError: it is no time from 0 on.
    """
    try:
        value = float(text)
    except ValueError:
        if not re.fullmatch(rf"(?:{_SPAN.pattern})+", text.strip() + " ", re.ASCII):
            raise ValueError(f"wanted is {_SECONDS}") from None
        value = math.fsum(float(number) * _UNITS[unit] for number, unit in _SPAN.findall(text))
    if not 0 <= value < math.inf:
        raise ValueError(f"wanted is {_SECONDS}, from 0 on")
    return value


def plain(value: object) -> object:
    """The value as JSON and TOML know it: bool, number, text, list or None."""
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def show(value: object) -> str:
    """The value as it would stand in a TOML file."""
    value = plain(value)
    if value is None:
        return "(none)"
    if isinstance(value, list):
        return f"[{', '.join(map(show, value))}]"
    return json.dumps(value, ensure_ascii=False)


# ---- how each is read ---------------------------------------------------------------------------------------------


def _bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word in _TRUE | _FALSE:
        return word in _TRUE
    raise UnfitError("wanted is true or false")


def _int(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            pass
    raise UnfitError("wanted is a whole number")


def _float(value: object) -> float:
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    raise UnfitError("wanted is a number")


def _str(value: object) -> str:
    if isinstance(value, str):
        return value
    raise UnfitError("wanted is text, in quotes")


def _path(value: object) -> Path:
    if isinstance(value, str) and value and "\0" not in value:
        try:
            return Path(value).expanduser()
        except RuntimeError:
            raise UnfitError("wanted is a path, and nobody knows that home directory") from None
    raise UnfitError("wanted is a path")


_PLAIN: dict[type, Kind] = {
    bool: Kind("bool", "true or false", bool, bool, _bool),
    int: Kind("int", "a whole number", int, int, _int),
    float: Kind("float", "a number", float, float, _float),
    str: Kind("str", "text", str, str, _str),
    Path: Kind("Path", "a path", Path, Path, _path),
}


def _enum(cls: type[Enum]) -> Kind:
    # By its value, as a file would have it, or by its name.
    members = {str(plain(member)): member for member in cls}
    wanted = f"one of {', '.join(map(repr, members))}"

    def read(value: object) -> Enum:
        text = str(plain(value)).strip()
        for member in cls:
            if text == str(plain(member)) or text.lower() == member.name.lower():
                return member
        raise UnfitError(f"wanted is {wanted}{suggestion(text, members, is_listed=False)}")

    return Kind(cls.__name__, wanted, cls, cls, read)


def _list_of(item: Kind) -> Callable[[object], list[object]]:
    def read(value: object) -> list[object]:
        items = value
        if isinstance(value, str):
            items = [part.strip() for part in value.split(",")] if value.strip() else []
        if not isinstance(items, list):
            raise UnfitError("wanted is a list")
        found: list[object] = []
        for number, one in enumerate(items, 1):
            try:
                found.append(item.read(one))
            except UnfitError as error:
                raise UnfitError(f"item {number} does not fit: {error}") from None
        return found

    return read


def _function(function: Callable[[str], object]) -> Kind:
    name = getattr(function, "__name__", type(function).__name__)

    def read(value: object) -> object:
        if not isinstance(value, str | bool | int | float):
            raise UnfitError("wanted is text")
        try:
            return function(value if isinstance(value, str) else json.dumps(value))
        except (ValueError, TypeError, ArithmeticError, LookupError) as error:
            # Others than ValueError speak to programmers.
            says = str(error) if isinstance(error, ValueError) else ""
            raise UnfitError(says or f"wanted is {wanted}") from None

    wanted = _SECONDS if function is seconds else f"what {name}() takes"
    return Kind(name, wanted, function, function if isinstance(function, type) else None, read)
