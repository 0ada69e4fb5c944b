# SPDX-License-Identifier: Apache-2.0
"""The mistakes that can be seen in a flow before it runs: `check`. Pure functions over `Flow`.

What counts as the way of a request, and what as a mistake, stands in `docs/checks.md`. A failure is never missed: a
failed event is answered with its error's status wherever it ends, so only ways of events that did not fail are looked
for. Read next: `findings`.
"""

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import urlsplit

from compysition.components import components
from compysition.flow.conduct import Conduct
from compysition.flow.findings import Code, Finding
from compysition.flow.values import Flow, FlowActor, FlowConnection, circles_of, find_way


def check(flow: Flow, conduct: Mapping[str, Conduct | None]) -> list[Finding]:
    """All that is wrong with `flow`, errors first.

    Args:
        flow: What is looked at.
        conduct: By actor, what its source is seen to do; None for an actor whose class is not there, about which
            nothing is said. Who is missing does the usual.
    """
    unknown = {name for name, known in conduct.items() if known is None}
    seen = {name: known for name, known in conduct.items() if known is not None}
    found = [
        *(finding for door in flow.actors if door.is_door for finding in Requests(flow, door, seen).findings()),
        *_rings(flow, seen, unknown),
        *(_unconnected(actor) for actor in flow.actors if actor.name not in unknown and _is_unconnected(actor, flow)),
        *(finding for actor in flow.actors for finding in _public(actor)),
    ]
    return sorted(found, key=lambda finding: finding.code.name)


# ---- the ways of requests -------------------------------------------------------------------------------------------


class Requests:
    """The ways of the requests that come in at `door`.

    Args:
        flow: All there is.
        door: Where they come in and have to come back to.
        conduct: By actor, what is known of how it sends.
    """

    def __init__(self, flow: Flow, door: FlowActor, conduct: Mapping[str, Conduct]) -> None:
        self._flow = flow
        self._door = door
        self._conduct = conduct
        self._out: dict[str, list[FlowConnection]] = {actor.name: [] for actor in flow.actors}
        for connection in flow.connections:
            if not connection.is_error:
                self._out[connection.source].append(connection)
        self._next = {name: [each.destination for each in out] for name, out in self._out.items()}
        self._reached = self._reached_from_door()
        self._answering = self._those_with_a_way_back()

    def findings(self) -> Iterator[Finding]:
        """What is wrong with them."""
        door = self._door.name
        if not self._out[door]:
            if any(each.destination == door for each in self._flow.connections):
                yield self._nowhere()
            return
        ends: dict[str, None] = {}
        for connection in (each for name in (door, *self._reached) for each in self._out[name]):
            source, first = connection.source, connection.destination
            if first == door or first in self._answering:
                continue
            if source != door and source not in self._answering:
                continue  # it lies behind a first step that is looked at
            if self._is_other_door(first):
                if not self._names_outboxes(source):
                    yield self._wrong_door(connection)
                continue
            behind = self._ends_behind(first)
            if self._is_side_branch(source, behind):
                continue
            ends.update(dict.fromkeys(behind))
        yield from map(self._finding, ends)

    def _reached_from_door(self) -> list[str]:
        """Where requests come to, failed ones included; they go neither on from other doors nor through this one."""
        reached: dict[str, None] = {}
        waiting = list(self._next[self._door.name])
        while waiting:
            name = waiting.pop(0)
            if name not in reached and name != self._door.name:
                reached[name] = None
                if not self._is_other_door(name):
                    waiting += self._next[name]
        return list(reached)

    def _those_with_a_way_back(self) -> set[str]:
        """Actors from which a request that did not fail can come back, or that end requests on purpose."""
        sources: dict[str, list[str]] = {actor.name: [] for actor in self._flow.actors}
        for connection in self._flow.connections:
            if not connection.is_error or self._only_sends_errors(connection.source):
                sources[connection.destination].append(connection.source)
        waiting = [self._door.name, *(actor.name for actor in self._flow.actors if self._ends_on_purpose(actor))]
        found: set[str] = set()
        while waiting:
            for name in sources[waiting.pop()]:
                if name not in found and not self._flow.by_name[name].is_door:
                    found.add(name)
                    waiting.append(name)
        return found | {actor.name for actor in self._flow.actors if self._ends_on_purpose(actor)}

    def _ends_on_purpose(self, actor: FlowActor) -> bool:
        known = self._conduct.get(actor.name)
        return actor.ends_flow or (known is not None and known.stops_flow and not known.sends)

    def _only_sends_errors(self, name: str) -> bool:
        known = self._conduct.get(name)
        return known is not None and known.sends_errors and not known.sends

    def _names_outboxes(self, name: str) -> bool:
        known = self._conduct.get(name)
        return name == self._door.name or (known is not None and known.names_outboxes)

    def _is_other_door(self, name: str) -> bool:
        return name != self._door.name and self._flow.by_name[name].is_door

    def _ends_behind(self, first: str) -> list[str]:
        """Where what goes to `first` comes to its end: actors that send nowhere, or one of a ring without exit."""
        behind: dict[str, list[str]] = {}
        waiting = [first]
        while waiting:
            name = waiting.pop(0)
            if name not in behind:
                behind[name] = [] if self._is_other_door(name) else self._next[name]
                waiting += behind[name]
        return [part[0] for part in components(behind) if all(other in part for name in part for other in behind[name])]

    def _is_side_branch(self, source: str, ends: Iterable[str]) -> bool:
        """Whether nobody misses an answer from `ends`, because what `source` sent is answered by another branch."""
        if not any(name == self._door.name or name in self._answering for name in self._next[source]):
            return False
        return not self._names_outboxes(source) or all(map(self._is_end, ends))

    def _is_end(self, name: str) -> bool:
        known = self._conduct.get(name)
        return self._flow.by_name[name].is_end or (known is not None and not known.sends)

    # ---- words ------------------------------------------------------------------------------------------------------

    def _way_to(self, name: str) -> str:
        way = find_way(self._next[self._door.name], self._next.__getitem__, {name})
        return " → ".join([self._door.name, *way])

    def _finding(self, end: str) -> Finding:
        door, way = self._door.name, self._way_to(end)
        actor = self._flow.by_name[end]
        purpose = "or, if requests may end there, register it with options={'ends_flow': True}"
        code, message = (
            Code.C101,
            f"requests of {door!r} end at {end!r} without an answer: no way leads back from there",
        )
        if self._is_other_door(end):
            message = f"requests of {door!r} end at {end!r}, a door that did not ask: it fails them"
            purpose = f"and {end!r} gets only its own"
        elif self._next[end]:
            message = f"requests of {door!r} go round at {end!r} for ever: no way leads back from there"
            purpose = "or let an actor of the ring end them"
        elif self._fails_back(end):
            code = Code.C102
            message = (
                f"what {end!r} handles well is never answered: only its error wire leads back to {door!r}, so each of "
                "these requests ends as if nobody had an answer"
            )
        remedy = f"director.connect_queue({end!r}, {door!r}), {purpose}"
        if self._is_other_door(end):
            remedy = f"connect the last actor before it with {door!r}: director.connect_queue(…, {door!r}), {purpose}"
        return Finding(code, message, remedy, end, way, actor.place, self._flow.name)

    def _fails_back(self, end: str) -> bool:
        wires = {each.destination for each in self._flow.all_connections if each.is_error and each.source == end}
        return any(name == self._door.name or name in self._answering for name in wires)

    def _nowhere(self) -> Finding:
        door = self._door.name
        return Finding(
            Code.C101,
            f"requests of {door!r} go nowhere: it has no outbox, so each of them ends without an answer",
            f"director.connect_queue({door!r}, …)",
            door,
            None,
            self._door.place,
            self._flow.name,
        )

    def _wrong_door(self, connection: FlowConnection) -> Finding:
        other = connection.destination
        return Finding(
            Code.C103,
            f"answers to requests of {self._door.name!r} go from {connection.source!r} to {other!r} too, a door that "
            "did not ask: it fails them",
            f"name the outbox in {connection.source!r}: self.send_event(event, queues=…), or give each door its own "
            "last actor",
            connection.source,
            str(connection),
            connection.place,
            self._flow.name,
        )


# ---- rings ----------------------------------------------------------------------------------------------------------


def _rings(flow: Flow, conduct: Mapping[str, Conduct], unknown: set[str]) -> Iterator[Finding]:
    for ring in flow.rings:
        if unknown.intersection(ring):
            continue
        inside = flow.inside(ring)
        circles = "; ".join(" → ".join(circle) for circle in circles_of(ring, inside))
        first = flow.by_name[ring[0]]
        yield Finding(
            Code.C202,
            f"events can go round: {circles}",
            "nothing, if that is meant and every event leaves the ring at some time; in it a put never waits, and what "
            "comes from outside waits for room",
            first.name,
            circles,
            next((each.place for each in inside if each.place is not None), first.place),
            flow.name,
        )
        for name in ring:
            known = conduct.get(name)
            ways = [each for each in inside if each.source == name and not each.is_error]
            if len(ways) > 1 and not (known is not None and known.names_outboxes):
                yield Finding(
                    Code.C104,
                    f"{name!r} sends every event into {len(ways)} ways that lead back to it, so the ring fills up and "
                    f"refuses: {circles}",
                    f"name the outbox in {name!r}: self.send_event(event, queues=…), or take one of the connections "
                    "out of the ring",
                    name,
                    ", ".join(map(str, ways)),
                    ways[-1].place,
                    flow.name,
                )


# ---- single actors --------------------------------------------------------------------------------------------------


def _is_unconnected(actor: FlowActor, flow: Flow) -> bool:
    if actor.is_log_actor or actor.is_error_actor or actor.is_posted_to:
        return False
    if actor.listens and not actor.is_door:
        return False  # such as a broker: who connects to it over the network is its connection
    return all(actor.name not in (each.source, each.destination) for each in flow.connections)


def _unconnected(actor: FlowActor) -> Finding:
    what = "each of its requests ends without an answer" if actor.is_door else "no event comes to it or leaves it"
    return Finding(
        Code.C201,
        f"{actor.name!r} ({actor.kind}) is not connected: {what}",
        f"connect it with director.connect_queue(…, {actor.name!r}) or director.connect_queue({actor.name!r}, …), or "
        "leave it out",
        actor.name,
        None,
        actor.place,
    )


def _public(actor: FlowActor) -> Iterator[Finding]:
    for url in actor.listens:
        host = urlsplit(url).hostname or ""
        if not _is_loopback(host):
            yield Finding(
                Code.C203,
                f"{actor.name!r} listens on {url}: whoever reaches this machine reaches it",
                "address='127.0.0.1' and a proxy in front of it, unless the network is meant to reach it",
                actor.name,
                None,
                actor.place,
            )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
