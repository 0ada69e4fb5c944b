# SPDX-License-Identifier: Apache-2.0
"""What `Watch` sees, without pytest around it; `test_plugin` is about the fixture."""

import contextlib
import threading
from collections.abc import Iterator

import gevent
import pytest
from gevent.event import Event as Gate

from compysition import Actor, Director, Event
from compysition.testing import Collector, Handler, VirtualClock, Watch, running, settle, wait_until

pytestmark = [pytest.mark.patched, pytest.mark.unpatched]


@pytest.fixture(autouse=True)
def quiet(compysition_watch: Watch) -> Iterator[None]:
    """The errors here are meant: the outer watch, which every test has, is to bear them."""
    yield
    compysition_watch.errors.clear()


def fail() -> None:
    raise ZeroDivisionError


def test_a_test_that_leaves_nothing_passes() -> None:
    director = Director()
    got = director.register_actor(Collector, "got")
    with Watch(), running(director):
        director.post(got, 1)
        gevent.spawn(settle).join()
    assert got.data == [1]


def test_an_error_that_left_a_greenlet_is_seen() -> None:
    with pytest.raises(AssertionError, match=r"nobody looked at them.*: ZeroDivisionError"), Watch():
        gevent.spawn(fail).join()


def test_an_error_that_leaves_a_greenlet_only_afterwards_is_seen() -> None:
    with pytest.raises(AssertionError, match="ZeroDivisionError"), Watch():
        gevent.spawn(fail)


def test_an_error_in_a_callback_of_the_hub_is_seen() -> None:
    with pytest.raises(AssertionError, match="ZeroDivisionError"), Watch():
        gevent.get_hub().loop.run_callback(fail)
        settle()


def test_an_error_that_is_taken_is_no_failure() -> None:
    with Watch() as watch:
        gevent.spawn(fail).join()
        assert [type(error) for error in watch.take(ZeroDivisionError)] == [ZeroDivisionError]
        with pytest.raises(AssertionError, match="no ZeroDivisionError left a greenlet"):
            watch.take(ZeroDivisionError)


def test_a_greenlet_that_is_left_is_seen_with_its_stack_and_killed() -> None:
    gate = Gate()

    def wait_here() -> None:
        gate.wait()

    with pytest.raises(AssertionError, match=r"(?s)1 greenlets outlive the test.*in wait_here"), Watch():
        left = gevent.spawn(wait_here)
    assert left.dead


def test_a_greenlet_that_is_to_start_later_is_seen() -> None:
    with pytest.raises(AssertionError, match="1 greenlets outlive the test"), Watch():
        gevent.spawn_later(3600.0, fail)


def test_a_greenlet_that_ends_soon_is_waited_for() -> None:
    with Watch():
        ending = gevent.spawn(gevent.sleep, 0.02)
    assert ending.dead


def test_a_greenlet_that_several_tests_share_may_stay() -> None:
    with Watch() as watch:
        shared = gevent.spawn(Gate().wait)
        watch.allow(shared)
    assert not shared.dead
    shared.kill()


def test_a_greenlet_that_was_there_before_may_stay() -> None:
    before = gevent.spawn(Gate().wait)
    settle()
    with Watch():
        settle()
    assert not before.dead
    before.kill()


def test_a_director_that_several_tests_share_may_go_on_and_grow() -> None:
    director = Director()
    got = director.register_actor(Collector, "got")
    with running(director):
        with Watch():
            director.post(got, 1)
            settle()
        with Watch():
            director.post(got, 2)
            settle()
        assert got.data == [1, 2]


def test_a_handler_that_survives_its_director_is_seen() -> None:
    gate = Gate()

    def hold_on(actor: Actor, event: Event) -> None:
        while not gate.is_set():
            with contextlib.suppress(gevent.GreenletExit):
                gate.wait()

    with VirtualClock():
        director = Director()
    director.register_actor(Handler, "stubborn", hold_on)
    with (
        pytest.raises(AssertionError, match=r"(?s)1 greenlets outlive the test.*in hold_on"),
        Watch(),
        running(director, allow_left=True),
    ):
        director.post("stubborn", 1)
        settle()
    gate.set()
    settle()


def test_a_director_that_is_left_running_is_seen_and_stopped() -> None:
    director = Director(name="forgotten")
    director.register_actor(Collector, "got")
    with pytest.raises(AssertionError, match="the test has left <Director 'forgotten' running"), Watch():
        director.start(block=False)
    assert not director.is_running()


def test_an_uneven_balance_is_seen() -> None:
    director = Director()
    director.register_actor(Collector, "got")
    with pytest.raises(AssertionError, match="the balance of events is not even"), Watch():
        with running(director):
            pass
        director.ledger.accepted += 1
    director.ledger.accepted -= 1


def test_the_failure_of_the_test_itself_is_what_is_raised() -> None:
    with pytest.raises(KeyError), Watch():
        gevent.spawn(fail)
        raise KeyError


def test_greenlets_of_other_threads_are_none_of_its_business() -> None:
    gate = Gate()
    ready: list[int] = []

    def serve() -> None:
        gevent.spawn(gate.wait, 0.3)
        ready.append(1)
        gevent.sleep(0.2)

    thread = gevent.monkey.get_original("threading", "Thread")(target=serve)
    with Watch():
        thread.start()
        wait_until(lambda: ready)
    thread.join()
    assert threading.current_thread() is threading.main_thread()
