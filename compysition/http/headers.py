# SPDX-License-Identifier: Apache-2.0
"""Header fields: names without case, and the checks that keep a line break out of an answer.

The grammar is that of RFC 9110, section 5. Must not know requests or answers. Read next: `request`.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, ClassVar, Final, Self

from compysition.errors import HeaderError, MalformedError, TooLargeError
from compysition.http.multidict import MultiDict

#: Longest value of a field, in bytes: what servers and proxies commonly take.
MAX_VALUE_BYTES: Final = 8190

#: Digits of a Content-Length; more of them is no size that anybody sends (RFC 9110, section 8.6).
MAX_LENGTH_DIGITS: Final = 15

#: Fields that `repr` does not show: it ends up in logs.
_SECRET: Final = frozenset({"authorization", "cookie", "proxy-authorization", "set-cookie"})

is_token: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_is_value: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*").fullmatch


def check_name(name: object) -> str:
    """Return `name`, or raise `HeaderError` if it is no token (RFC 9110, section 5.6.2)."""
    if not isinstance(name, str) or not is_token(name):
        raise HeaderError(f"{name!r} is no header name: letters, digits and !#$%&'*+-.^_`|~ are")
    return name


def check_value(name: str, value: object) -> str:
    """Return `value`, or raise `HeaderError` if it cannot stand in a header (RFC 9110, section 5.5)."""
    if not isinstance(value, str):
        raise HeaderError(f"the value of header {name!r} must be a str, not {type(value).__name__}")
    if not _is_value(value):
        raise HeaderError(
            f"the value of header {name!r} holds a control character or one outside Latin-1: {value[:80]!r}"
        )
    if len(value) > MAX_VALUE_BYTES:
        raise HeaderError(f"the value of header {name!r} has {len(value)} bytes; {MAX_VALUE_BYTES} is the limit")
    return value


def split_list(text: str, separator: str = ",") -> list[str]:
    """The elements of a list in a value; a separator in a quoted string is none (RFC 9110, section 5.6).

    >>> split_list('a, "b,c", d')
    ['a', '"b,c"', 'd']
    """
    if '"' not in text:
        return [element.strip() for element in text.split(separator)]
    # One step per character: what backtracks could be made to take seconds.
    elements, start, is_quoted, is_escaped = [], 0, False, False
    for at, character in enumerate(text):
        if is_escaped:
            is_escaped = False
        elif is_quoted and character == "\\":
            is_escaped = True
        elif character == '"':
            is_quoted = not is_quoted
        elif character == separator and not is_quoted:
            elements.append(text[start:at].strip())
            start = at + 1
    return [*elements, text[start:].strip()]


def parse_content_length(text: str | None) -> int | None:
    """The size that a ``Content-Length`` announces, in bytes; None when there is none.

    Raises:
        MalformedError: It is no plain decimal number (signs, spaces, lists and underscores included).
        TooLargeError: It has more digits than any size.
    """
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise MalformedError("the Content-Length is no number of bytes")
    if len(text) > MAX_LENGTH_DIGITS:
        raise TooLargeError("the Content-Length is larger than any limit")
    return int(text)


@lru_cache(maxsize=256)
def _field_name(name: str) -> tuple[str, str]:
    """A field's name as it is shown and as it is compared, from its name in an environ."""
    shown = name.removeprefix("HTTP_").replace("_", "-").title()
    return shown, shown.lower()


class FrozenHeaders(MultiDict):
    """The header fields of a request: a `MultiDict` whose names have no case.

    >>> FrozenHeaders([("Content-Type", "text/plain")])["content-type"]
    'text/plain'
    """

    __slots__ = ()

    @staticmethod
    def _key(name: str) -> str:
        return name.lower()

    @classmethod
    def from_environ(cls, fields: Iterable[tuple[str, str]]) -> Self:
        """Make them from the names of a WSGI environ, such as ``HTTP_X_REQUEST_ID`` or ``CONTENT_TYPE``.

        The server has joined repeated fields with a comma already, as WSGI demands.
        """
        new = cls()
        for name, value in fields:
            shown, key = _field_name(name)
            new._pairs.append((shown, value))
            new._index.setdefault(key, []).append(value)
        return new

    def __repr__(self) -> str:
        shown = [(name, "…" if name.lower() in _SECRET else value) for name, value in self._pairs]
        return f"{type(self).__name__}({shown!r})"


class Headers(FrozenHeaders):
    """Header fields that may be changed. Names and values are checked when they are set, so the setter gets the error.

    >>> headers = Headers({"Vary": "Accept"})
    >>> headers.add("vary", "Origin")
    >>> headers.get_all("Vary")
    ['Accept', 'Origin']

    Args:
        fields: A mapping, or pairs.

    Raises:
        HeaderError: A name or value cannot be sent, or the name is not the script's to set.
    """

    __slots__ = ()

    #: Names, in lower case, that cannot be set because they belong to somebody else.
    reserved: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, fields: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        super().__init__()
        if fields:
            for name, value in fields.items() if isinstance(fields, Mapping) else fields:
                self.add(name, value)

    def _check(self, name: object, value: object) -> tuple[str, str]:
        checked = check_name(name)
        if checked.lower() in self.reserved:
            raise HeaderError(f"the header {checked!r} is set by the server and cannot be set here")
        return checked, check_value(checked, value)

    def add(self, name: str, value: str) -> None:
        """Add a field, beside those of the same name."""
        pair = self._check(name, value)
        self._pairs.append(pair)
        self._index.setdefault(name.lower(), []).append(pair[1])

    def __setitem__(self, name: str, value: str) -> None:
        """Replace every field of that name by this one."""
        pair = self._check(name, value)
        self.discard(name)
        self._pairs.append(pair)
        self._index[name.lower()] = [pair[1]]

    def __delitem__(self, name: str) -> None:
        if name not in self:
            raise KeyError(name)
        self.discard(name)

    def discard(self, name: str) -> None:
        """Remove every field of that name, if there is one."""
        key = name.lower()
        if self._index.pop(key, None) is not None:
            self._pairs = [pair for pair in self._pairs if pair[0].lower() != key]

    def copy(self) -> Self:
        """Headers of the same class that change on their own."""
        new = type(self)()
        new._pairs = list(self._pairs)
        new._index = {name: list(values) for name, values in self._index.items()}
        return new

    def __copy__(self) -> Self:
        return self.copy()

    def __deepcopy__(self, memo: Any) -> Self:
        return self.copy()
