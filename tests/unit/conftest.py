# SPDX-License-Identifier: Apache-2.0
"""What unit tests share: nobody's error goes unseen, and a kernel that is looked at when the test is over."""

from collections.abc import Iterator
from typing import Any

import pytest
from gevent import get_hub

from compysition.testing import VirtualClock
from tests.unit.kernel import Flow, Kernel


@pytest.fixture(autouse=True)
def unobserved(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[BaseException]]:
    """Errors that nobody saw but the hub. A test that wants some takes them out of this list."""
    hub = get_hub()
    report = hub.handle_error
    seen: list[BaseException] = []

    def handle_error(context: object, kind: Any, value: Any, trace: Any) -> None:
        if not issubclass(kind, hub.NOT_ERROR):
            seen.append(value if isinstance(value, BaseException) else kind(value))
        report(context, kind, value, trace)

    monkeypatch.setattr(hub, "handle_error", handle_error)
    yield seen
    assert not seen


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """A kernel in real time."""
    kernel = Kernel()
    yield kernel
    kernel.close()


@pytest.fixture
def clock() -> VirtualClock:
    """A clock that is moved by hand."""
    return VirtualClock()


@pytest.fixture
def timeless(clock: VirtualClock) -> Iterator[Kernel]:
    """A kernel on `clock`."""
    kernel = Kernel(clock)
    yield kernel
    kernel.close()


@pytest.fixture
def flow(kernel: Kernel) -> Iterator[Flow]:
    """Actors on a kernel in real time."""
    flow = Flow(kernel)
    yield flow
    flow.close()


@pytest.fixture
def timeless_flow(timeless: Kernel) -> Iterator[Flow]:
    """Actors on `timeless`."""
    flow = Flow(timeless)
    yield flow
    flow.close()
