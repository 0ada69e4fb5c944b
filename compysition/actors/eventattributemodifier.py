# SPDX-License-Identifier: Apache-2.0
"""`EventAttributeModifier`: sets and removes attributes of events."""

from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final

from compysition.actor import Actor
from compysition.arguments import Check, checked
from compysition.copying import copy_data
from compysition.errors import AttributeNameError, ConfigurationError, UnprocessableError
from compysition.event import Event

_NOTHING: Final = object()

_MAPPING: Final = Check("a mapping", lambda value: isinstance(value, Mapping))
_PATHS: Final = Check(
    "a mapping to paths, as in {'order_id': 'data.order.id'}",
    lambda value: isinstance(value, Mapping) and all(isinstance(path, str) and path for path in value.values()),
)
_FUNCTIONS: Final = Check(
    "a mapping to functions of the event",
    lambda value: isinstance(value, Mapping) and all(map(callable, value.values())),
)
_NAMES: Final = Check(
    "a list of names",
    lambda value: (
        isinstance(value, Iterable) and not isinstance(value, str | bytes) and all(isinstance(n, str) for n in value)
    ),
)


class EventAttributeModifier(Actor):
    """Sets and removes attributes of each event, and sends it on.

    Attributes travel with an event and its copies, beside the data: a tenant, a priority, an id to join by. They are
    read by ``event.get(name)``. Everything is looked up and computed before the first attribute changes; then
    attributes are removed, and then set.

    Args:
        name: Its name.
        values: Attributes and their values; each event gets a copy.
        take: Attributes and where in the event their values are found, as `Event.lookup` does it.
        compute: Attributes and functions that make their values from the event.
        remove: Names of attributes to remove; that an event has none of the name is no error.

    Raises:
        ConfigurationError: An argument makes no sense, a name is given twice, or nothing is given at all.
        AttributeNameError: A name would hide one of the event's own, such as ``data``.

    In the flow, an event that has nothing where `take` looks fails with `UnprocessableError` (422); what a function of
    `compute` raises fails the event too.

    >>> from compysition import Director
    >>> from compysition.actors import EventAttributeModifier
    >>> director = Director()
    >>> _ = director.register_actor(
    ...     EventAttributeModifier, "label", {"tenant": "acme"}, take={"order_id": "data.order.id"}
    ... )
    >>> with director:
    ...     event = director.ask("label", {"order": {"id": 7}})
    >>> event.get("tenant"), event.get("order_id")
    ('acme', 7)
    """

    @checked
    def __init__(
        self,
        name: str,
        values: Annotated[Mapping[str, Any] | None, _MAPPING] = None,
        *,
        take: Annotated[Mapping[str, str] | None, _PATHS] = None,
        compute: Annotated[Mapping[str, Callable[[Event], Any]] | None, _FUNCTIONS] = None,
        remove: Annotated[Iterable[str], _NAMES] = (),
        blocking_consume: bool = False,
    ) -> None:
        super().__init__(name, blocking_consume=blocking_consume)
        self.values = dict(values or {})
        self.take = dict(take or {})
        self.compute = dict(compute or {})
        self.remove = tuple(remove)
        names = [*self.values, *self.take, *self.compute, *self.remove]
        if not names:
            raise ConfigurationError(f"{name!r} changes nothing: give it values, take=, compute= or remove=")
        for attribute in names:
            if not isinstance(attribute, str):
                raise AttributeNameError(f"{name!r} sets an attribute {attribute!r}: wanted is a name")
            # An event refuses what it would refuse in the flow.
            Event().set(attribute, None)
            if names.count(attribute) > 1:
                raise ConfigurationError(f"{name!r} is told twice what to do with the attribute {attribute!r}")

    def consume(self, event: Event) -> None:
        """Change the attributes of `event` and send it on."""
        fresh = copy_data(self.values)
        for attribute, path in self.take.items():
            found = event.lookup(path, _NOTHING)
            if found is _NOTHING:
                raise UnprocessableError(f"{self.name!r} takes {attribute!r} from {path!r}, where there is nothing")
            fresh[attribute] = copy_data(found)
        for attribute, function in self.compute.items():
            fresh[attribute] = function(event)
        for attribute in self.remove:
            event.__dict__.pop(attribute, None)
        for attribute, value in fresh.items():
            event.set(attribute, value)
        self.send_event(event)
