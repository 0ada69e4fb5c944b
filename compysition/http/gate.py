# SPDX-License-Identifier: Apache-2.0
"""The gate: what a parsed head may still hold that two readers could take for two things.

The parser has refused what is no HTTP; here is what it leaves open. A head that is refused closes its connection: where
the next request begins is not trusted any more. Must not know sockets. Read next: `message`.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

from compysition.errors import MalformedError
from compysition.http.headers import MAX_LENGTH_DIGITS
from compysition.http.proxies import is_host
from compysition.http.request import check_path, check_query, is_plain_target

#: All fields of a head together, in bytes.
MAX_FIELDS_BYTES: Final = 64 * 1024

#: Fields that may stand in a request once at most (RFC 9110, section 5.3). The parser looks after the others.
_ONCE: Final = frozenset({"AUTHORIZATION", "EXPECT"})
_WATCHED: Final = frozenset({"CONNECTION", "CONTENT-LENGTH", "COOKIE", "HOST", "TRANSFER-ENCODING"}) | _ONCE


class Head(Protocol):
    """The head of a request, as the parser gives it."""

    method: str
    #: What stood in the request line.
    uri: str
    version: tuple[int, int]
    #: Names in upper case, and values without blanks around them, in the order they came.
    headers: Sequence[tuple[str, str]]


class RefusedError(Exception):
    """A request whose head is not taken.

    Args:
        status: Of the answer.
        reason: For the log, and for the client if it is the client's fault.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Verdict(NamedTuple):
    """What the gate makes of a head that it lets through.

    Attributes:
        fields: The header fields under their names in a WSGI environ.
        keeps: Whether the client wants the connection to stay.
    """

    fields: dict[str, str]
    keeps: bool


def examine(head: Head) -> Verdict:
    """Let a head through, or refuse it.

    Raises:
        RefusedError: It is not to be trusted, or nothing here can serve it.
    """
    fields: dict[str, str] = {}
    connection: list[str] = []
    host: str | None = None
    n_bytes = 0
    for name, value in head.headers:
        key = _key(name)
        n_bytes += len(name) + len(value) + 4
        present = fields.get(key)
        if name in _WATCHED:
            if name == "CONNECTION":
                connection += [token.strip().lower() for token in value.split(",")]
            elif name == "HOST":
                host = value
            elif name == "TRANSFER-ENCODING":
                if value.lower() != "chunked":
                    raise RefusedError(501, "a Transfer-Encoding other than chunked is not taken")
            elif name == "CONTENT-LENGTH" and len(value) > MAX_LENGTH_DIGITS:
                raise RefusedError(413, "the Content-Length is larger than any limit")
            elif present is not None and name in _ONCE:
                raise RefusedError(400, f"there are two fields {name.title()}")
        if present is not None:
            # Cookies hold commas (RFC 6265, section 5.4 forbids two fields, and browsers under HTTP/2 send them).
            fields[key] = f"{present}; {value}" if name == "COOKIE" else f"{present},{value}"
        else:
            fields[key] = value
    if n_bytes > MAX_FIELDS_BYTES:
        raise RefusedError(431, "the header fields are too long")
    _check_target(head, host)
    if head.version >= (1, 1):
        return Verdict(fields, "close" not in connection)
    return Verdict(fields, "keep-alive" in connection and "close" not in connection)


def _check_target(head: Head, host: str | None) -> None:
    target, method = head.uri, head.method
    if method == "CONNECT":
        raise RefusedError(501, "CONNECT is not served")
    if host is None:
        if head.version >= (1, 1):
            raise RefusedError(400, "the header Host is missing")
    elif not is_host(host):
        raise RefusedError(400, "the header Host is not of the form host[:port]")
    if is_plain_target(target) or (target == "*" and method == "OPTIONS"):
        return
    path, _, query = target.partition("?")
    if path[:1] != "/":
        scheme, separator, rest = path.partition("://")
        authority, slash, path = rest.partition("/")
        if not separator or scheme.lower() not in ("http", "https") or not is_host(authority):
            raise RefusedError(400, "the request target is neither a path nor a URL of http or https")
        path = slash + path
    try:
        check_path(path)
        check_query(query)
    except MalformedError as error:
        raise RefusedError(400, str(error)) from error


@lru_cache(maxsize=256)
def _key(name: str) -> str:
    """The name of a field in a WSGI environ."""
    key = name.replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
