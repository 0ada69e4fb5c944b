# SPDX-License-Identifier: Apache-2.0
"""The plugin for pytest, in a pytest of its own: what it watches leaves no trace in this one.

The projects here have no settings and no other plugins than those that are installed.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

CASES = """
import time
import gevent
import pytest
from gevent import get_hub
from compysition import Actor, Director
from compysition.clock import Clock
from compysition.testing import Collector, drive, running


def fail():
    raise ZeroDivisionError("unseen")


def test_unseen_error():
    gevent.spawn(fail).join()


def test_taken_error(compysition_watch):
    gevent.spawn(fail).join()
    assert compysition_watch.take(ZeroDivisionError)


def test_left_greenlet():
    gevent.spawn(gevent.sleep, 3600)


def test_left_director():
    director = Director()
    director.register_actor(Collector, "got")
    director.start(block=False)


def test_uneven_balance():
    director = Director()
    director.register_actor(Collector, "got")
    with running(director):
        pass
    director.ledger.accepted += 1


def test_clean(virtual_clock):
    director = Director()
    assert director.clock is virtual_clock
    got = director.register_actor(Collector, "got")
    with running(director):
        assert director.ask(got, 1).data == 1


def test_no_virtual_clock_here():
    assert type(Director().clock) is Clock


@pytest.fixture
def own():
    greenlet = gevent.spawn(gevent.sleep, 3600)
    yield
    greenlet.kill()


@pytest.fixture(scope="module")
def shared():
    greenlet = gevent.spawn(gevent.sleep, 3600)
    yield
    greenlet.kill()


def test_own_fixture_cleans_up_before_the_watch_looks(own): ...


def test_shared_fixture_may_outlive_the_test(shared): ...


@pytest.mark.parametrize("number", [1, 2])
def test_parametrized(number, own): ...
"""

BAD = "test_unseen_error", "test_left_greenlet", "test_left_director", "test_uneven_balance"

TIME_IS_OVER = """
import time
import gevent
import pytest


def wait_for_nobody():
    gevent.sleep(3600)


@pytest.mark.timeout(0.3)
def test_waits_for_ever():
    gevent.spawn(wait_for_nobody)
    gevent.sleep(3600)


def test_next():
    pass
"""


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    # Not in this process: what is watched there would be watched here too.
    return pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:cacheprovider", *arguments, timeout=50)


@pytest.mark.parametrize("is_patched", [False, True])
def test_every_test_is_watched_where_the_project_says_so(pytester: pytest.Pytester, is_patched: bool) -> None:
    pytester.makepyfile(CASES)
    pytester.makeini("[pytest]\ncompysition_watch = true")
    start = ("-m", "gevent.monkey", "--module", "pytest") if is_patched else ("-m", "pytest")
    result = pytester.run(
        sys.executable, *start, "-v", "-rE", "-p", "no:randomly", "-p", "no:cacheprovider", timeout=50
    )
    result.assert_outcomes(passed=11, errors=4)
    for name in BAD:
        result.stdout.fnmatch_lines([f"ERROR *::{name}*"])
    result.stdout.fnmatch_lines(["*nobody looked at them*: ZeroDivisionError('unseen')"])
    result.stdout.fnmatch_lines(["*1 greenlets outlive the test*"])
    result.stdout.fnmatch_lines(["*the test has left <Director 'default' running, 1 actors> running*"])
    result.stdout.fnmatch_lines(["*the balance of events is not even: 1 accepted*"])


def test_a_project_that_says_nothing_is_left_alone_but_for_the_tests_that_ask(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import gevent
        from compysition import Director


        def fail():
            raise ZeroDivisionError("unseen")


        def test_does_not_ask():
            gevent.spawn(fail).join()
            gevent.spawn(gevent.sleep, 3600)


        def test_asks(compysition_watch):
            gevent.spawn(fail).join()
        """
    )
    result = run(pytester, "-rE")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["ERROR *::test_asks*"])


def test_it_costs_a_project_that_does_not_use_it_no_import(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_nothing_was_loaded():
            assert "pytest_compysition" in sys.modules
            assert not [name for name in sys.modules if name.partition(".")[0] in ("compysition", "gevent", "greenlet")]
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_a_test_whose_time_is_over_fails_with_all_stacks_and_the_run_goes_on(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TIME_IS_OVER)
    pytester.makeini("[pytest]\ncompysition_watch = true")
    result = run(pytester)
    outcomes = result.parseoutcomes()
    assert (outcomes["failed"], outcomes["passed"]) == (1, 1)
    result.stdout.fnmatch_lines(["*test_waits_for_ever: not done after 0.3 s*"])
    assert "in wait_for_nobody" in str(result.stdout)


def test_a_test_that_is_not_watched_keeps_the_timer_of_pytest_timeout(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TIME_IS_OVER.replace("    gevent.sleep", "    time.sleep"))
    result = run(pytester)
    outcomes = result.parseoutcomes()
    assert outcomes["failed"] == 1
    assert "not done after" not in str(result.stdout)
    result.stdout.fnmatch_lines(["*Timeout*0.3s*"])


def test_it_can_be_switched_off(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_asks(compysition_watch): ...")
    result = run(pytester, "-p", "no:compysition")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*fixture 'compysition_watch' not found*"])


def test_loading_it_does_nothing_but_define() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import pytest_compysition; "
        "print(sorted(set(sys.modules) - before))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=50, check=True
    )
    assert eval(done.stdout) == ["pytest_compysition"]
