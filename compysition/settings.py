# SPDX-License-Identifier: Apache-2.0
"""What a script is told from outside: each value with its type, where it came from, and whether it is a secret.

`Settings` remembers what one Director was asked for; `Configured` is the part of the Director that asks it. Must not
know the Director. Read next: `setting_sources`, then `setting_types`.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from compysition.errors import ConfigurationError, SettingError
from compysition.setting_sources import FILE_VARIABLE, PREFIX, Found, Sources
from compysition.setting_types import Kind, UnfitError, kind_of, kind_of_default, plain, show

T = TypeVar("T")

#: What stands in every output for the value of a secret.
MASK = "********"
#: Stands for "no default": the setting is required.
REQUIRED = object()

_NAME = re.compile(r"[a-z][a-z0-9_]*")
#: Words of a name that make it a secret, unless the script says otherwise.
_SECRET_WORDS = frozenset(
    {"password", "passwd", "passphrase", "pwd", "secret", "secrets", "token", "tokens", "credential", "credentials"}
    | {"key", "keys", "apikey"}
)
#: ``scheme://user:password@host``
_URL_PASSWORD = re.compile(r"(?<=://)([^/@\s:]*):([^/@\s]+)@")


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting and what became of it.

    Attributes:
        name: As the script calls it.
        value: As TOML and JSON know it, a password in a URL masked; None for a secret.
        source: Where the value comes from, or ``default``.
        type: The name of its type.
        environment: The environment variable that sets it.
        is_secret: Whether its value is masked.
        doc: What it is for, in the script's words.
    """

    name: str
    value: object
    source: str
    type: str
    environment: str
    is_secret: bool = False
    doc: str = ""

    @property
    def text(self) -> str:
        """The value as it would stand in the file; `MASK` for a secret."""
        return MASK if self.is_secret else show(self.value)

    def __str__(self) -> str:
        return f"{self.name} = {self.text} ({self.source})"


@dataclass(frozen=True, slots=True)
class _Declaration:
    """What a script said when it asked."""

    default: object
    kind: Kind
    environment: str
    is_secret: bool

    def __str__(self) -> str:
        has_default = self.default is not REQUIRED
        shown = MASK if self.is_secret else show(_masked(plain(self.default))) if has_default else ""
        return f"{self.kind.name}, {f'default {shown}' if has_default else 'required'}, from {self.environment}"


class Settings:
    """What one Director was asked for.

    Args:
        sources: Where the values come from.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._declared: dict[str, _Declaration] = {}
        self._values: dict[str, object] = {}
        self._settings: dict[str, Setting] = {}

    def __repr__(self) -> str:
        return f"<Settings {', '.join(map(str, self)) or 'nothing was asked for'}>"

    def __iter__(self) -> Iterator[Setting]:
        """What was asked for, in that order."""
        return iter(self._settings.values())

    def ask(
        self,
        name: str,
        default: object,
        type_: object,
        *,
        environment: str | None,
        secret: bool | None,
        doc: str,
    ) -> object:
        """See `Director.setting`."""
        declaration = self._declare(name, default, type_, environment, secret)
        former = self._declared.get(name)
        if former is not None:
            if former != declaration:
                raise ConfigurationError(
                    f"setting {name!r} is asked for twice and not in the same way: first ({former}), then "
                    f"({declaration}): ask once and pass the value on"
                )
            return self._values[name]
        self._sources.asked[name] = declaration.environment
        found = self._sources.find(name, declaration.environment)
        if found is None and default is REQUIRED:
            raise SettingError(
                f"setting {name!r} has no value and no default: give it with 'compysition run --set {name}=…', in the "
                f"environment as {declaration.environment}, or as '{name} = …' in a file that --settings or "
                f"{FILE_VARIABLE} names",
                name=name,
            )
        value = declaration.kind.of_default(default) if found is None else _read(name, found, declaration)
        self._declared[name], self._values[name] = declaration, value
        self._settings[name] = Setting(
            name,
            None if declaration.is_secret else _masked(plain(value)),
            "default" if found is None else found.source,
            declaration.kind.name,
            declaration.environment,
            declaration.is_secret,
            doc,
        )
        self._sources.settings.append(self._settings[name])
        return value

    def _declare(
        self, name: str, default: object, type_: object, environment: str | None, secret: bool | None
    ) -> _Declaration:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            fitting = re.sub(r"\W+", "_", str(name).lower(), flags=re.ASCII).strip("_0123456789")
            raise ConfigurationError(
                f"a setting cannot be called {name!r}: wanted is a lower-case identifier"
                + (f", as {fitting!r}" if _NAME.fullmatch(fitting) else "")
            )
        variable = environment or PREFIX + name.upper()
        if variable == FILE_VARIABLE:
            raise ConfigurationError(f"a setting cannot be called {name!r}: {FILE_VARIABLE} names the settings file")
        for other, declared in self._declared.items():
            if declared.environment == variable and other != name:
                raise ConfigurationError(f"setting {name!r} cannot have the variable {variable}: {other!r} has it")
        if type_ is None and (default is None or default is REQUIRED):
            raise ConfigurationError(f"setting {name!r} has no type: say it, as in setting({name!r}, type=str)")
        kind = kind_of_default(name, default) if type_ is None else kind_of(name, type_)
        if default is not REQUIRED and not kind.takes_default(default):
            raise ConfigurationError(
                f"the default of setting {name!r} is of type {type(default).__name__}: wanted is {kind.name}, or None"
            )
        is_secret = bool(_SECRET_WORDS.intersection(name.split("_"))) if secret is None else secret
        return _Declaration(default, kind, variable, is_secret)


class Configured:
    """The part of a Director that scripts ask for settings."""

    _settings: Settings

    @overload
    def setting(
        self,
        name: str,
        *,
        type: type[T] | Callable[[str], T],
        environment: str | None = None,
        secret: bool | None = None,
        doc: str = "",
    ) -> T: ...

    @overload
    def setting(
        self,
        name: str,
        default: None,
        type: type[T] | Callable[[str], T],
        *,
        environment: str | None = None,
        secret: bool | None = None,
        doc: str = "",
    ) -> T | None: ...

    @overload
    def setting(
        self,
        name: str,
        default: T,
        type: type[T] | Callable[[str], T] | None = None,
        *,
        environment: str | None = None,
        secret: bool | None = None,
        doc: str = "",
    ) -> T: ...

    def setting(
        self,
        name: str,
        default: Any = REQUIRED,
        type: Any = None,  # noqa: A002 - as argparse calls it
        *,
        environment: str | None = None,
        secret: bool | None = None,
        doc: str = "",
    ) -> Any:
        """What the script is told from outside: by a flag, else the environment, else a file, else `default`.

        The flag is ``compysition run --set name=value``, the variable `COMPYSITION_NAME`, and the file a TOML file that
        ``--settings`` or `COMPYSITION_SETTINGS` names. To ask again in the same way gives the same value.

        Args:
            name: A lower-case identifier.
            default: The value where none is given; without one the setting is required.
            type: ``bool``, ``int``, ``float``, ``str``, ``Path``, an ``Enum``, ``list[…]`` of these, or a function that
                makes the value from text, such as `compysition.seconds`; by default the type of `default`.
            environment: Another name for the variable.
            secret: Whether the value is masked wherever it is shown; by default if the name has a word such as
                ``password``, ``token`` or ``key``.
            doc: What it is for; shown by ``compysition settings``.

        Raises:
            SettingError: it is required and was not given, or what was given does not fit, or the file cannot be used.
            ConfigurationError: the name, the type or the default make no sense, or it was asked for differently before.
        """
        return self._settings.ask(name, default, type, environment=environment, secret=secret, doc=doc)

    def settings(self) -> list[Setting]:
        """What the script has asked for, with the source of each value; the values of secrets are not in it."""
        return list(self._settings)


def _read(name: str, found: Found, declaration: _Declaration) -> object:
    kind = declaration.kind
    is_empty = found.value == ""
    # An empty text is a text; but who requires one wants something to be in it.
    why = f"wanted is {kind.wanted}" if is_empty and declaration.default is REQUIRED else ""
    if not why:
        try:
            if isinstance(found.value, str):
                found.value.encode()
            return kind.read(found.value)
        except UnicodeEncodeError:
            why = "wanted is text in UTF-8"
        except UnfitError as error:
            # What the script's own function says may hold the value.
            why = f"wanted is {kind.wanted}" if declaration.is_secret else str(_masked(str(error)))
    if is_empty and declaration.default is not REQUIRED:
        why += "; take it away for the default"
    seen = "empty" if is_empty else MASK if declaration.is_secret else _seen(found.value)
    # Not chained: what raised may carry the value.
    raise SettingError(
        f"setting {name!r} is {seen} (from {found.source}): {why}", name=name, source=found.source
    ) from None


def _seen(value: object) -> str:
    text = str(_masked(repr(value)))
    return text if len(text) <= 80 else f"{text[:77]}…"


def _masked(value: object) -> object:
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return _URL_PASSWORD.sub(rf"\1:{MASK}@", value) if isinstance(value, str) else value
