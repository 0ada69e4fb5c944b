# SPDX-License-Identifier: Apache-2.0
"""Routes: which outbox a request goes to, by its path and method, and what it is refused for before its body is read.

The most specific pattern that fits the path decides, never the order in which routes were made; the method is looked
at afterwards. Must not know events, actors or the text of HTTP. Read next: `compysition.actors.wsgi`.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, NamedTuple
from uuid import UUID

from compysition.errors import (
    ConfigurationError,
    MethodNotAllowedError,
    NotAcceptableError,
    NotFoundError,
    UnsupportedTypeError,
)
from compysition.http.accept import best, check_patterns, is_one_of
from compysition.http.headers import is_token
from compysition.http.request import KNOWN_METHODS, Request

#: What a route without `methods` takes. OPTIONS is answered by the door, unless a route names it.
DEFAULT_METHODS: Final = frozenset(KNOWN_METHODS) - {"OPTIONS"}

_NO_PARAMS: Final[Mapping[str, Any]] = MappingProxyType({})
_is_parameter: Final = re.compile(r"\{([^{}:]*)(?::([^{}:]*))?\}").fullmatch
_is_int: Final = re.compile(r"[0-9]{1,18}").fullmatch
_is_uuid: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE).fullmatch
#: The kinds of parameter, each with what it takes of a segment and what it makes of it; the more specific first.
_CONVERTERS: Final[dict[str, tuple[Callable[[str], object], Callable[[str], Any]]]] = {
    "int": (_is_int, int),
    "uuid": (_is_uuid, UUID),
    "str": (bool, str),
}
_PATH: Final = "path"


@dataclass(frozen=True, slots=True)
class Route:
    """One route. Made by `RouteTable.add`.

    Attributes:
        pattern: As given, such as ``/orders/{id:int}``.
        outbox: The name of the outbox that its requests go to.
        methods: What it takes; HEAD with GET.
        timeout_s: Seconds for its requests; None = as the door.
        max_body_bytes: Limit of their bodies; None = as the door.
        consumes: Types of body that it takes; None = any.
        produces: Types of answer that it gives, the preferred first; None = what the answer's data is rendered as.
    """

    pattern: str
    outbox: str
    methods: frozenset[str] = DEFAULT_METHODS
    timeout_s: float | None = None
    max_body_bytes: int | None = None
    consumes: tuple[str, ...] | None = None
    produces: tuple[str, ...] | None = None
    names: tuple[str, ...] = field(default=(), repr=False)

    def check(self, request: Request) -> None:
        """Refuse what this route cannot take or give, before its body is read.

        Raises:
            UnsupportedTypeError: A body of a type that is not in `consumes`, or of none; says which are taken.
            NotAcceptableError: The client accepts nothing of `produces`.
        """
        if self.consumes is not None and request.has_body and not is_one_of(request.content_type, self.consumes):
            taken = ", ".join(self.consumes)
            raise UnsupportedTypeError(f"the body has to be one of: {taken}", headers={"Accept": taken})
        if self.produces is not None and best(request.accept, self.produces) is None:
            raise NotAcceptableError(f"an answer can be one of: {', '.join(self.produces)}")


class Match(NamedTuple):
    """What was found for a request."""

    route: Route
    params: Mapping[str, Any]


class _Node:
    """What may follow after some segments of a path."""

    __slots__ = ("literals", "parameters", "path", "routes")

    def __init__(self) -> None:
        self.literals: dict[str, _Node] = {}
        #: By kind.
        self.parameters: dict[str, _Node] = {}
        #: Routes that end here, and those that take all the rest; of each no two with a method in common.
        self.routes: list[Route] = []
        self.path: list[Route] = []


class RouteTable:
    """The routes of one door."""

    def __init__(self) -> None:
        self._root = _Node()
        self._routes: list[Route] = []
        #: Methods beyond the common ones that some route takes.
        self._own_methods: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self._routes)

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes)

    def add_all(self, routes: Mapping[str, str]) -> None:
        """Add routes in short: ``{"/orders/{id:int}": "orders", "POST /orders": "create"}``.

        Raises:
            ConfigurationError: As `add`, or this is no such mapping.
        """
        if not isinstance(routes, Mapping):
            raise ConfigurationError(f"routes are {routes!r}: wanted is a mapping of patterns to names of outboxes")
        for text, outbox in routes.items():
            if not isinstance(text, str):
                raise ConfigurationError(f"route {text!r}: a pattern is text, such as '/orders/{{id:int}}'")
            method, blank, pattern = text.partition(" ")
            self.add(pattern.strip() if blank else text, outbox, methods=[method] if blank else None)

    def add(
        self,
        pattern: str,
        outbox: str,
        *,
        methods: Iterable[str] | None = None,
        timeout_s: float | None = None,
        max_body_bytes: int | None = None,
        consumes: Iterable[str] | None = None,
        produces: Iterable[str] | None = None,
    ) -> Route:
        """Add one route; see `Route` for the arguments.

        Raises:
            ConfigurationError: An argument makes no sense, or there is a route for the same paths with a method in
                common, or for the same paths under other names.
        """
        where = f"route {pattern!r}"
        segments = _split(pattern)
        names = tuple(name for name, kind in segments if kind is not None)
        for name in names:
            if not name.isidentifier() or names.count(name) > 1:
                raise ConfigurationError(f"{where}: {name!r} is no name for a parameter, or is there twice")
        if not isinstance(outbox, str) or not outbox:
            raise ConfigurationError(f"{where} leads to {outbox!r}: wanted is the name of an outbox")
        _check_number(where, "timeout_s", timeout_s, (int, float))
        _check_number(where, "max_body_bytes", max_body_bytes, (int,))
        route = Route(
            pattern,
            outbox,
            _checked_methods(methods, where),
            timeout_s,
            max_body_bytes,
            None if consumes is None else check_patterns(_listed(consumes), where),
            None if produces is None else check_patterns(_listed(produces), where),
            names,
        )
        if route.produces is not None and (not route.produces or any("*" in kind for kind in route.produces)):
            raise ConfigurationError(f"{where}: produces={route.produces!r} has to name whole types, without '*'")
        self._insert(route, segments)
        self._routes.append(route)
        self._own_methods |= route.methods - frozenset(KNOWN_METHODS)
        return route

    def knows(self, method: str) -> bool:
        """Whether some route takes this method, which is none of the common ones."""
        return method in self._own_methods

    def match(self, request: Request) -> Match | frozenset[str]:
        """The route for a request; or, for OPTIONS that no route names, the methods that its path takes.

        Raises:
            NotFoundError: No pattern fits the path.
            MethodNotAllowedError: The best one does, but not with this method; carries ``Allow``.
        """
        found = _find(self._root, request.segments, 0)
        if found is None:
            raise NotFoundError("nothing is served at this path")
        routes, values = found
        method = request.method
        for route in routes:
            if method in route.methods:
                return Match(
                    route, MappingProxyType(dict(zip(route.names, values, strict=True))) if values else _NO_PARAMS
                )
        allowed = frozenset({"OPTIONS"}).union(*[route.methods for route in routes])
        if method == "OPTIONS":
            return allowed
        headers = {"Allow": ", ".join(sorted(allowed))}
        raise MethodNotAllowedError(f"{method} is not taken at this path", headers=headers)

    def _insert(self, route: Route, segments: list[tuple[str, str | None]]) -> None:
        node = self._root
        for text, kind in segments:
            if kind == _PATH:
                break
            children = node.literals if kind is None else node.parameters
            node = children.setdefault(text if kind is None else kind, _Node())
        here = node.path if segments and segments[-1][1] == _PATH else node.routes
        for other in here:
            if other.names != route.names:
                raise ConfigurationError(
                    f"route {route.pattern!r} takes the same paths as {other.pattern!r}: name its parameters alike"
                )
            if common := other.methods & route.methods:
                raise ConfigurationError(
                    f"route {route.pattern!r} is there already, to {other.outbox!r}, for {', '.join(sorted(common))}"
                )
        here.append(route)


def _find(node: _Node, segments: tuple[str, ...], at: int) -> tuple[list[Route], list[Any]] | None:
    """The routes of the best pattern for the segments from `at` on, and the values of its parameters.

    Tried in the order of specificity at each segment, so what is found first is the best: a literal before a number or
    UUID before any text before all the rest. Two patterns that differ nowhere in that are one pattern.
    """
    if at == len(segments):
        return (node.routes, []) if node.routes else None
    segment = segments[at]
    child = node.literals.get(segment)
    if child is not None and (found := _find(child, segments, at + 1)) is not None:
        return found
    for kind, (takes, convert) in _CONVERTERS.items() if node.parameters else ():
        child = node.parameters.get(kind)
        if child is not None and takes(segment) and (found := _find(child, segments, at + 1)) is not None:
            found[1].insert(0, convert(segment))
            return found
    # An empty segment matches nothing; and one that holds a slash would look like two in the value.
    if node.path and all(rest and "/" not in rest for rest in segments[at:]):
        return node.path, ["/".join(segments[at:])]
    return None


def _split(pattern: object) -> list[tuple[str, str | None]]:
    """The segments of a pattern: text and None for a literal, name and kind for a parameter."""
    if not isinstance(pattern, str) or not pattern.startswith("/") or not pattern.isprintable() or " " in pattern:
        raise ConfigurationError(f"route {pattern!r}: a pattern begins with '/', such as '/orders/{{id:int}}'")
    texts = pattern[1:].split("/") if pattern != "/" else []
    segments: list[tuple[str, str | None]] = []
    for number, text in enumerate(texts, 1):
        match = _is_parameter(text)
        if match is not None:
            name, kind = match[1], match[2] or "str"
            if kind != _PATH and kind not in _CONVERTERS:
                known = ", ".join([*_CONVERTERS, _PATH])
                raise ConfigurationError(f"route {pattern!r}: there is no converter {kind!r}; there are {known}")
            if kind == _PATH and number < len(texts):
                raise ConfigurationError(f"route {pattern!r}: {text} takes all the rest, so it has to be the last")
            segments.append((name, kind))
        elif "{" in text or "}" in text:
            raise ConfigurationError(f"route {pattern!r}: a parameter is a whole segment, such as '{{id:int}}'")
        elif "%" in text or "?" in text or "#" in text or text in (".", ".."):
            raise ConfigurationError(f"route {pattern!r}: {text!r} matches nothing; write paths decoded, without query")
        elif not text and number < len(texts):
            raise ConfigurationError(f"route {pattern!r}: an empty segment matches nothing")
        else:
            segments.append((text, None))
    return segments


def _checked_methods(methods: Iterable[str] | None, where: str) -> frozenset[str]:
    if methods is None:
        return DEFAULT_METHODS
    taken = frozenset(_listed(methods))
    for method in taken:
        if not isinstance(method, str) or not is_token(method) or method != method.upper():
            raise ConfigurationError(f"{where}: {method!r} is no method; they are written in upper case, such as 'GET'")
        if method in ("CONNECT", "TRACE"):
            raise ConfigurationError(f"{where}: {method} is never served")
    if not taken:
        raise ConfigurationError(f"{where}: methods is empty; leave it out for all of them")
    return taken | {"HEAD"} if "GET" in taken else taken


def _listed(given: Iterable[str]) -> tuple[str, ...]:
    """One text is meant as one item, not as its characters."""
    return (given,) if isinstance(given, str) else tuple(given)


def _check_number(where: str, option: str, value: Any, kinds: tuple[type, ...]) -> None:
    if value is None:
        return
    if type(value) not in kinds or not 0 < value < math.inf:
        raise ConfigurationError(f"{where}: {option} is {value!r}; wanted is a number above 0")
