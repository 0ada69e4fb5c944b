# SPDX-License-Identifier: Apache-2.0
"""Fixtures for pytest, there as soon as compysition is installed, and silent until a test asks for them.

A module of its own beside the package, because pytest loads it in every project of the environment: it imports neither
compysition nor gevent, and patches nothing. What it offers is in ``docs/guides/testing.md``.
"""

import os
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import pytest

if TYPE_CHECKING:
    from compysition.testing import VirtualClock, Watch
    from compysition.testing.timelimit import TimeLimit

#: The ini option that gives every test the watch, and the watch's name.
WATCH = "compysition_watch"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the ini option."""
    parser.addini(WATCH, f"give every test the fixture {WATCH}", type="bool", default=False)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give every test function the watch, if the project wants that.

    It comes behind what several tests share, which may outlive the test, and before all that is the test's own.
    """
    if not config.getini(WATCH):
        return
    for item in items:
        if isinstance(item, pytest.Function):
            names = item.fixturenames
            if WATCH in names:
                names.remove(WATCH)
            names.insert(sum(1 for name in names if _is_shared(item, name)), WATCH)


def _is_shared(item: pytest.Function, name: str) -> bool:
    """Whether the fixture `name` is made for more than this test; those stand before all others."""
    definitions = item._fixtureinfo.name2fixturedefs.get(name)
    return definitions is not None and definitions[-1].scope != "function"


@pytest.fixture(name=WATCH)
def watch_fixture() -> Iterator["Watch"]:
    """Fail the test if an error left a greenlet unseen, a greenlet or a Director was left, or a balance is uneven.

    An error that is meant is taken out: ``compysition_watch.take(MyError)``.
    """
    from compysition.testing import Watch

    watch = Watch()
    watch.begin()
    try:
        yield watch
    finally:
        problems = watch.end()
    if problems:
        pytest.fail(problems, pytrace=False)


@pytest.fixture
def virtual_clock() -> Iterator["VirtualClock"]:
    """A clock that stands still until the test moves it; the clock of every Director that is made in the test."""
    from compysition.testing import VirtualClock

    with VirtualClock() as clock:
        yield clock


# ---- the time limit -------------------------------------------------------------------------------------------------


class TimeSettings(Protocol):
    """What pytest-timeout knows about a test: ini, command line and ``@pytest.mark.timeout(seconds)``."""

    timeout: float | None
    method: str


time_limit: pytest.StashKey["TimeLimit"] = pytest.StashKey()
terminal_fd: pytest.StashKey[int] = pytest.StashKey()


def pytest_configure(config: pytest.Config) -> None:
    """Keep a way to the terminal, before pytest captures it; the last resort has nobody to ask."""
    # pytest has one resort of its own of this kind, and there is one timer for both.
    if config.pluginmanager.hasplugin("timeout") and not float(config.getini("faulthandler_timeout") or 0):
        config.stash[terminal_fd] = os.dup(2)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close it."""
    fd = config.stash.get(terminal_fd, None)
    if fd is not None:
        del config.stash[terminal_fd]
        os.close(fd)


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: TimeSettings) -> bool | None:
    """Put our timer in the place of pytest-timeout's, for a test that is watched. Before the first fixture."""
    if WATCH not in getattr(item, "fixturenames", ()) or not hasattr(signal, "SIGALRM"):
        return None
    if settings.method != "signal" or threading.current_thread() is not threading.main_thread():
        return None
    if settings.timeout and settings.timeout > 0:
        from compysition.testing.timelimit import TimeLimit

        item.stash[time_limit] = TimeLimit(
            item.nodeid, settings.timeout, pytest.fail.Exception, item.config.stash.get(terminal_fd, None)
        )
    return True


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_timeout_cancel_timer(item: pytest.Item) -> bool | None:
    """After the last fixture, and as soon as a test has failed."""
    limit = item.stash.get(time_limit, None)
    if limit is None:
        return None
    limit.cancel()
    return True


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Call the last resort off when the test is over."""
    try:
        return (yield)
    finally:
        limit = item.stash.get(time_limit, None)
        if limit is not None:
            del item.stash[time_limit]
            limit.cancel_last_resort()


def pytest_enter_pdb() -> None:
    """Let whoever debugs take all the time there is."""
    import faulthandler

    faulthandler.cancel_dump_traceback_later()
