# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.flow.conduct`."""

import ast
from textwrap import indent

import pytest

from compysition.flow.conduct import Conduct, conduct_of


def conduct_with(*bodies: str) -> Conduct:
    """The conduct of a class with these bodies of `consume`, one per class of its line."""
    return conduct_of(
        ast.parse(f"class A(Actor):\n    def consume(self, event):\n{indent(body, ' ' * 8)}\n") for body in bodies
    )


def test_nothing_to_see_is_the_usual() -> None:
    assert conduct_of([]) == Conduct()
    assert conduct_of([ast.parse("class A(Actor):\n    pass")]) == Conduct()


@pytest.mark.parametrize(
    ("body", "sends"),
    [
        ("self.send_event(event)", True),
        ("for each in map(self.send_event, event.data): pass", True),
        ("self.store(event)", False),
        ("self.send_error(event)", False),
    ],
)
def test_an_actor_sends_if_it_names_send_event(body: str, sends: bool) -> None:
    assert conduct_with(body).sends is sends


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("self.send_event(event)", False),
        ("self.send_event(self.create_event(1, event))", False),
        ("self.send_event(event, queues='b')", True),
        ("self.send_event(event, self.choose(event))", True),
        ("self.send_event(event, **how)", True),
    ],
)
def test_an_actor_names_outboxes_if_it_says_more_than_the_event(body: str, names: bool) -> None:
    assert conduct_with(body).names_outboxes is names


@pytest.mark.parametrize("body", ["raise StopFlow", "raise StopFlow()", "raise compysition.StopFlow('x') from error"])
def test_an_actor_that_raises_stop_flow_is_seen(body: str) -> None:
    assert conduct_with(body) == Conduct(sends=False, stops_flow=True)


def test_errors_and_threads_are_seen() -> None:
    assert conduct_with("self.send_error(event)\nself.offload(f)") == Conduct(
        sends=False, sends_errors=True, offloads=True
    )


def test_what_a_class_above_does_counts_too() -> None:
    assert conduct_with("self.work(event)", "self.send_event(event, 'b')").names_outboxes
