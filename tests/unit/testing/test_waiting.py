# SPDX-License-Identifier: Apache-2.0
"""Waiting for a condition, and for everything to settle."""

import functools
import operator

import gevent
import pytest
from gevent.event import Event as Gate

from compysition.testing import all_stacks, settle, wait_until

pytestmark = [pytest.mark.patched, pytest.mark.unpatched]


def wait_at_the_gate(gate: Gate) -> None:
    gate.wait()


def test_it_returns_as_soon_as_the_condition_holds() -> None:
    done: list[int] = []
    gevent.spawn_later(0.005, done.append, 1)
    wait_until(lambda: done)
    assert done == [1]


def test_a_condition_that_holds_already_lets_nobody_else_run() -> None:
    done: list[int] = []
    gevent.spawn(done.append, 1)
    wait_until(lambda: True)
    assert done == []
    gevent.sleep(0)


def test_the_failure_names_the_condition_by_its_source_and_shows_all_stacks() -> None:
    gate = Gate()
    waiting = gevent.spawn(wait_at_the_gate, gate)
    light: list[str] = []
    with pytest.raises(AssertionError) as caught:
        wait_until(lambda: "green" in light, timeout_s=0.01)
    gate.set()
    waiting.join()
    text = str(caught.value)
    assert text.startswith("not within 0.01 s: ")
    assert 'lambda: "green" in light' in text
    assert "test_waiting.py:" in text
    assert "in wait_at_the_gate" in text


def test_the_failure_says_what_was_waited_for_if_the_test_says_so() -> None:
    with pytest.raises(AssertionError, match=r"not within 0 s: a green light\n"):
        wait_until(lambda: False, 0.0, what="a green light")


def test_a_condition_without_source_is_named_all_the_same() -> None:
    with pytest.raises(AssertionError, match=r"functools\.partial\(<built-in function truth>"):
        wait_until(functools.partial(operator.truth, 0), 0.0)


def test_what_the_condition_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        wait_until(lambda: 1 / 0)


def test_settling_follows_what_is_ready_through_any_number_of_greenlets() -> None:
    depths: list[int] = []

    def go_on(depth: int) -> None:
        depths.append(depth)
        if depth < 50:
            gevent.sleep(0)
            gevent.spawn(go_on, depth + 1)

    gevent.spawn(go_on, 1)
    settle()
    assert depths == list(range(1, 51))


def test_settling_does_not_wait_for_time() -> None:
    done: list[int] = []
    later = gevent.spawn_later(3600.0, done.append, 1)
    settle()
    assert done == []
    later.kill()


def test_what_never_settles_is_an_error_with_stacks() -> None:
    def turn_for_ever() -> None:
        while True:
            gevent.sleep(0)

    turning = gevent.spawn(turn_for_ever)
    with pytest.raises(AssertionError, match=r"(?s)waited 0.05 s for everything to settle.*in turn_for_ever"):
        settle(0.05)
    turning.kill()


def test_stacks_are_cut_where_they_would_be_endless() -> None:
    gate = Gate()
    waiting = [gevent.spawn(wait_at_the_gate, gate) for _ in range(300)]
    settle()
    lines = all_stacks().splitlines()
    gate.set()
    gevent.joinall(waiting)
    assert len(lines) == 301
    assert lines[-1].endswith("more lines")
