# SPDX-License-Identifier: Apache-2.0
"""`EventRouter`: sends each event to the outboxes of the filters that it matches; `EventFilter`: one such filter."""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from compysition.actor import Actor
from compysition.arguments import Check, checked, one_of, text_that
from compysition.errors import (
    ConfigurationError,
    MissingExtraError,
    OutboxNotFoundError,
    UnprocessableError,
    suggestion,
)
from compysition.event import Event

if TYPE_CHECKING:
    from lxml import etree

_NOT_GIVEN: Final = object()
#: Documents above this size are parsed and searched beside the hub, in bytes: about a millisecond's work.
LARGE_BYTES: Final = 10_000

#: Runs a function with its arguments beside the hub, and waits for it.
Offload = Callable[..., Any]


class EventFilter:
    """Which events go to an outbox, or to several. Exactly one of the keywords but `path` and `namespaces` is given.

    What is looked at is what `Event.lookup` finds at `path`; an event that has nothing there does not match.

    Args:
        outboxes: Where matching events go: the name of an outbox of the router, or several. An outbox is called after
            its destination, unless its connection names it.
        value: Matches what is equal to this.
        regex: Matches text (or, if it is a pattern of bytes, bytes) in which this regular expression is found
            somewhere. Bytes are searched as UTF-8 by a pattern of text.
        function: Matches events for which this returns something true. It is given the event.
        xpath: Matches XML (text, bytes or an lxml tree) for which this XPath 1.0 expression is true: a set of nodes
            that is not empty, a text that is not empty, a number that is not zero, true. Needs the extra ``xml``.
        path: Where to look, for `value`, `regex` and `xpath`, as in ``data.order.kind``.
        namespaces: Prefixes that `xpath` uses.

    Raises:
        ConfigurationError: An expression does not compile, or none or several are given.
        MissingExtraError: `xpath` is given and the extra ``xml`` is not installed.
    """

    def __init__(
        self,
        outboxes: str | Sequence[str],
        *,
        value: Any = _NOT_GIVEN,
        regex: str | bytes | re.Pattern[str] | re.Pattern[bytes] | None = None,
        function: Callable[[Event], object] | None = None,
        xpath: str | None = None,
        path: str = "data",
        namespaces: Mapping[str, str] | None = None,
    ) -> None:
        self.outboxes = (outboxes,) if isinstance(outboxes, str) else _several(outboxes)
        if not self.outboxes or not all(isinstance(name, str) and name for name in self.outboxes):
            raise ConfigurationError(f"EventFilter({outboxes!r}): wanted is the name of an outbox, or several names")
        if not isinstance(path, str) or not path:
            raise ConfigurationError(f"path of {self!r} is {path!r}: wanted is text, as in 'data.order.kind'")
        self.path = path
        given = {
            name
            for name, argument in (("regex", regex), ("function", function), ("xpath", xpath))
            if argument is not None
        } | ({"value"} if value is not _NOT_GIVEN else set())
        if len(given) != 1:
            seen = " and ".join(sorted(given)) or "nothing"
            raise ConfigurationError(f"{self!r} is given {seen}: wanted is one of value=, regex=, function= and xpath=")
        self._matches: Callable[[Event, dict[str, Any], Offload], object]
        if regex is not None:
            self._matches = partial(_regex_matches, self._compile_regex(regex), path)
        elif function is not None:
            if not callable(function) or inspect.iscoroutinefunction(function):
                raise ConfigurationError(f"function of {self!r} is {function!r}: wanted is a plain function")
            self._matches = partial(_function_matches, function)
        elif xpath is not None:
            self._matches = partial(_xpath_matches, self._compile_xpath(xpath, namespaces), path)
        else:
            self._matches = partial(_value_matches, value, path)

    def __repr__(self) -> str:
        return f"EventFilter({', '.join(map(repr, self.outboxes))})"

    def _compile_regex(self, regex: object) -> re.Pattern[str] | re.Pattern[bytes]:
        if isinstance(regex, re.Pattern):
            return regex
        if not isinstance(regex, str | bytes):
            raise ConfigurationError(f"regex of {self!r} is {regex!r}: wanted is a regular expression as text or bytes")
        try:
            return re.compile(regex)
        except re.error as error:
            raise ConfigurationError(f"regex of {self!r} does not compile: {regex!r}: {error}") from error

    def _compile_xpath(self, xpath: object, namespaces: Mapping[str, str] | None) -> "etree.XPath":
        try:
            from lxml import etree
        except ModuleNotFoundError as error:
            raise MissingExtraError("EventFilter(xpath=…)", "xml") from error
        if not isinstance(xpath, str):
            raise ConfigurationError(f"xpath of {self!r} is {xpath!r}: wanted is an XPath expression as text")
        try:
            compiled = etree.XPath(xpath, namespaces=dict(namespaces or {}), smart_strings=False)
            # Prefixes, functions and variables that do not exist are noticed only when it is used.
            compiled(etree.Element("nothing"))
        except (etree.XPathError, TypeError, ValueError) as error:
            raise ConfigurationError(f"xpath of {self!r} does not compile: {xpath!r}: {error}") from error
        return compiled


def _several(outboxes: object) -> tuple[str, ...]:
    return tuple(outboxes) if isinstance(outboxes, Sequence) else ()


def _value_matches(value: object, path: str, event: Event, parsed: dict[str, Any], offload: Offload) -> object:
    return event.lookup(path, _NOT_GIVEN) == value


def _function_matches(
    function: Callable[[Event], object], event: Event, parsed: dict[str, Any], offload: Offload
) -> object:
    return function(event)


def _regex_matches(
    pattern: re.Pattern[Any], path: str, event: Event, parsed: dict[str, Any], offload: Offload
) -> object:
    found = event.lookup(path)
    if isinstance(pattern.pattern, str) and isinstance(found, bytes | bytearray):
        found = found.decode(errors="backslashreplace")
    if not isinstance(found, str if isinstance(pattern.pattern, str) else (bytes, bytearray)):
        return False
    return pattern.search(found)


def _xpath_matches(
    expression: "etree.XPath", path: str, event: Event, parsed: dict[str, Any], offload: Offload
) -> object:
    from compysition import xml

    found = event.lookup(path)
    is_large = xml.size_of(found) > LARGE_BYTES
    if isinstance(found, str | bytes | bytearray | memoryview):
        # Several filters look at the same document.
        if path not in parsed:
            parsed[path] = offload(xml.parse, found) if is_large else xml.parse(found)
        found = parsed[path]
    elif not hasattr(found, "getroot") and not hasattr(found, "iterancestors"):
        return False
    result: Any = offload(expression, found) if is_large else expression(found)
    return bool(result) and result == result  # noqa: PLR0124 - the number NaN is false in XPath


class EventRouter(Actor):
    """Sends each event to the outboxes of the filters that it matches.

    An event that matches no filter goes to the outbox `default`. Without one it fails with `UnprocessableError` (422):
    it takes the error outboxes, or becomes a dead letter. Every outbox that is named has to be connected, or the
    Director does not start. Large XML documents are searched in a thread, so they may leave in another order than they
    came, unless the actor's options say ``concurrency=1``.

    Args:
        name: Its name.
        filters: The filters, in the order in which they are tried.
        match: ``first``: the event goes where the first filter that matches says. ``all``: it goes, copied, where any
            filter that matches says, once to each outbox.
        default: The outbox of events that match nothing; None: they fail.

    Raises:
        ConfigurationError: An argument makes no sense.

    In the flow, events also fail with `MalformedError` (400: a filter has an `xpath`, and the text is no well-formed
    XML), or with what a filter's `function` raises.

    >>> from compysition import Director
    >>> from compysition.actors import EventFilter, EventRouter, STDOUT
    >>> director = Director()
    >>> filters = [EventFilter("small", function=lambda event: event.data < 10), EventFilter("round", value=100)]
    >>> router = director.register_actor(EventRouter, "router", filters, default="rest")
    >>> for name in ("small", "round", "rest"):
    ...     out = director.register_actor(STDOUT, name, prefix=f"{name} ")
    ...     director.connect_queue(router, out)
    >>> with director:
    ...     for number in (7, 100, 11):
    ...         director.post(router, number)
    small 7
    round 100
    rest 11
    """

    @checked
    def __init__(
        self,
        name: str,
        filters: Annotated[
            Sequence[EventFilter],
            Check(
                "a list of EventFilter, at least one",
                lambda value: (
                    isinstance(value, Sequence) and bool(value) and all(isinstance(one, EventFilter) for one in value)
                ),
            ),
        ],
        *,
        match: Annotated[Literal["first", "all"], one_of("first", "all")] = "first",
        default: Annotated[str | None, text_that("is the name of an outbox", bool)] = None,
        blocking_consume: bool = False,
    ) -> None:
        super().__init__(name, blocking_consume=blocking_consume)
        self.filters = tuple(filters)
        self.match = match
        self.default = default

    def pre_hook(self) -> None:
        """Refuse to start if a filter names an outbox that does not exist; warn of one that no filter names."""
        outboxes = self._wired.outboxes
        named = [name for one in self.filters for name in one.outboxes]
        if self.default is not None:
            named.append(self.default)
        for name in named:
            if name not in outboxes:
                raise OutboxNotFoundError(
                    f"{self.name!r} sends to an outbox {name!r}, which it does not have{suggestion(name, outboxes)} "
                    f"(connect_queue(({self.name!r}, {name!r}), …) makes one of that name)"
                )
        idle = sorted(set(outboxes).difference(named))
        if idle:
            self.logger.warning("no filter of %s names the outbox %s: nothing goes there", self.name, ", ".join(idle))

    def consume(self, event: Event) -> None:
        """Send `event` where it belongs. Waits, cooperatively, only for large XML documents."""
        chosen: dict[str, None] = {}
        parsed: dict[str, Any] = {}
        for one in self.filters:
            if one._matches(event, parsed, self.offload):
                chosen.update(dict.fromkeys(one.outboxes))
                if self.match == "first":
                    break
        if chosen:
            self.send_event(event, chosen)
        elif self.default is not None:
            self.send_event(event, self.default)
        else:
            raise UnprocessableError(f"no filter of {self.name!r} matches, and it has no default outbox")
