# SPDX-License-Identifier: Apache-2.0
"""`Flow`: the actors and connections of one Director as values, whether it runs or not, and the ways through them.

Read next: `checks`, which looks for mistakes in it, and `pictures`, which draws it.
"""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from compysition.components import components, in_order

#: Frames of files below are ours.
_PACKAGE = os.fspath(Path(__file__).parents[1]) + os.sep


class Place(NamedTuple):
    """A line of somebody's script.

    Attributes:
        file: The file, as Python names it.
        line: Its number, from 1 on.
    """

    file: str
    line: int


def caller() -> Place | None:
    """The line outside this package from which the package was called; None if there is none."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(_PACKAGE):
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return Place(frame.f_code.co_filename, frame.f_lineno)


@dataclass(frozen=True, slots=True)
class FlowActor:
    """An actor.

    Attributes:
        name: Its name.
        kind: The name of its class.
        is_door: Whether requests come in here, each of which wants an answer in its inbox.
        is_cut: Whether its inbox does not feed its outboxes, so that no circle goes through it.
        is_log_actor: Whether log records go to it.
        is_error_actor: Whether failed events go to it whose actor has no error outbox.
        is_end: Whether flows end here by its nature.
        ends_flow: Whether its script says that requests may end here.
        is_posted_to: Whether the script has put events into it itself.
        listens: URLs on which it listens once it is started.
        place: Where it was registered.
    """

    name: str
    kind: str = "Actor"
    is_door: bool = False
    is_cut: bool = False
    is_log_actor: bool = False
    is_error_actor: bool = False
    is_end: bool = False
    ends_flow: bool = False
    is_posted_to: bool = False
    listens: tuple[str, ...] = ()
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class FlowConnection:
    """A connection.

    Attributes:
        source: The actor that sends.
        outbox: The name of its outbox.
        destination: The actor that receives.
        inbox: The name of its inbox.
        capacity: In events.
        overflow: What a full queue does, as a word: ``wait``, ``drop_newest``, ``drop_oldest`` or ``fail``.
        is_error: Whether it carries failed events.
        place: Where it was made.
    """

    source: str
    outbox: str
    destination: str
    inbox: str
    capacity: int
    overflow: str = "wait"
    is_error: bool = False
    place: Place | None = None

    def __str__(self) -> str:
        left = self.source if self.outbox == self.destination else f"{self.source}.{self.outbox}"
        right = self.destination if self.inbox == self.source else f"{self.destination}.{self.inbox}"
        return f"{left} → {right}"


@dataclass(frozen=True)
class Flow:
    """All of one Director.

    Attributes:
        name: The Director's name.
        size: Capacity of connections that name none, in events.
        actors: In the order in which they were registered.
        connections: By source in that order, then as they were made; error connections behind the others.
    """

    name: str
    size: int
    actors: tuple[FlowActor, ...]
    connections: tuple[FlowConnection, ...]

    @cached_property
    def by_name(self) -> Mapping[str, FlowActor]:
        """The actors by their names."""
        return {actor.name: actor for actor in self.actors}

    @cached_property
    def error_actor(self) -> FlowActor | None:
        """The actor to which failed events go whose actor has no error outbox."""
        return next((actor for actor in self.actors if actor.is_error_actor), None)

    @cached_property
    def all_connections(self) -> Sequence[FlowConnection]:
        """The connections, with those to the error actor that `start` makes."""
        error_actor = self.error_actor
        if error_actor is None:
            return self.connections
        have_own = {connection.source for connection in self.connections if connection.is_error}
        return [
            *self.connections,
            *(
                FlowConnection(actor.name, error_actor.name, error_actor.name, actor.name, self.size, is_error=True)
                for actor in self.actors
                if actor is not error_actor and not actor.is_log_actor and actor.name not in have_own
            ),
        ]

    @cached_property
    def rings(self) -> Sequence[Sequence[str]]:
        """The rings: actors that feed each other in circles, each in the order of flow as far as there is one."""
        successors: dict[str, list[str]] = {actor.name: [] for actor in self.actors}
        for connection in self.all_connections:
            if not self.by_name[connection.destination].is_cut:
                successors[connection.source].append(connection.destination)
        return [
            in_order(part, successors)
            for part in components(successors)
            if len(part) > 1 or part[0] in successors[part[0]]
        ]

    def inside(self, ring: Sequence[str]) -> list[FlowConnection]:
        """The connections that keep events in `ring`."""
        return [
            connection
            for connection in self.all_connections
            if connection.source in ring
            and connection.destination in ring
            and not self.by_name[connection.destination].is_cut
        ]


def circles_of(ring: Sequence[str], inside: Iterable[FlowConnection]) -> list[list[str]]:
    """Short circles that together go through every actor of `ring`; each begins and ends with the same name."""
    successors: dict[str, list[str]] = {name: [] for name in ring}
    for connection in inside:
        successors[connection.source].append(connection.destination)
    seen: set[str] = set()
    found = []
    for name in ring:
        if name not in seen:
            circle = [name, *find_way(successors[name], successors.__getitem__, {name})]
            seen.update(circle)
            found.append(circle)
    return found


def find_way(starts: Sequence[str], successors: Callable[[str], Iterable[str]], goals: Iterable[str]) -> list[str]:
    """A shortest way from one of `starts` to one of `goals`, both ends included; empty if there is none."""
    goals = set(goals)
    before: dict[str, str | None] = dict.fromkeys(starts)
    waiting = deque(before)
    while waiting:
        name = waiting.popleft()
        if name in goals:
            found = []
            here: str | None = name
            while here is not None:
                found.append(here)
                here = before[here]
            return found[::-1]
        for other in successors(name):
            if other not in before:
                before[other] = name
                waiting.append(other)
    return []
