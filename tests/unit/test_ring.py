# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.ring` on its own; what a ring in a running flow promises is in `test_dispatch`."""

from compysition.event import Event
from compysition.queue import Queue
from compysition.ring import HARD_FACTOR, Ring


class Member:
    """What a ring knows of an actor."""

    wants_wake = False

    def __init__(self, name: str) -> None:
        self.name = name
        self.running = 0
        self.looks = 0

    def settle(self) -> None:
        self.looks += 1

    def wake(self) -> None:
        raise AssertionError


def ring_of(*capacities: int) -> tuple[Ring, list[Member], list[Queue]]:
    members = [Member(f"m{number}") for number in range(len(capacities))]
    queues = [
        Queue(members[number - 1].name, member.name, member, members[number - 1].name, capacity=capacities[number])
        for number, member in enumerate(members)
    ]
    ring = Ring(members, queues)
    for queue in queues:
        queue.ring = ring
    return ring, members, queues


def fill(queue: Queue, number: int) -> None:
    queue.items.extend(Event() for _ in range(number))


def test_limit_is_the_sum_of_the_capacities() -> None:
    ring, _, _ = ring_of(3, 5, 7)
    assert (ring.limit, ring.room()) == (15, 15)


def test_load_is_what_lies_in_the_queues_and_in_hands() -> None:
    ring, members, queues = ring_of(10, 10)
    fill(queues[0], 3)
    fill(queues[1], 2)
    members[0].running = 4
    assert (ring.load(), ring.room()) == (9, 11)


def test_ring_is_overfull_at_four_times_the_sum() -> None:
    ring, members, queues = ring_of(2, 3)
    assert HARD_FACTOR == 4
    fill(queues[0], 19)
    assert not ring.is_overfull()
    members[1].running = 1
    assert ring.is_overfull()


def test_gated_actor_looks_again_as_soon_as_there_is_room() -> None:
    ring, members, queues = ring_of(1, 1)
    fill(queues[0], 2)
    ring.gate(members[1])
    ring.open()
    assert members[1].looks == 0
    queues[0].items.popleft()
    ring.open()
    assert [member.looks for member in members] == [0, 1]


def test_actor_that_is_gated_twice_looks_once() -> None:
    ring, members, _ = ring_of(1, 1)
    ring.gate(members[0])
    ring.gate(members[0])
    ring.open()
    ring.open()
    assert members[0].looks == 1


def test_actor_that_finds_no_room_again_is_gated_again() -> None:
    ring, members, queues = ring_of(1)
    member = members[0]

    def settle() -> None:
        member.looks += 1
        if ring.room() <= 0:
            ring.gate(member)

    member.settle = settle  # type: ignore[method-assign]  # what a cell does
    fill(queues[0], 1)
    ring.gate(member)
    ring.open()
    assert member.looks == 0
    queues[0].items.clear()
    member.running = 1
    ring.open()
    member.running = 0
    ring.open()
    assert member.looks == 1


def test_ring_is_named_as_a_circle() -> None:
    ring, _, _ = ring_of(1, 1, 1)
    assert str(ring) == "m0 → m1 → m2 → m0"
