# SPDX-License-Identifier: Apache-2.0
"""What unit tests share: a kernel that is looked at when the test is over."""

from collections.abc import Iterator

import pytest

from compysition.testing import VirtualClock, Watch
from tests.unit.kernel import Flow, Kernel


@pytest.fixture
def unobserved(compysition_watch: Watch) -> list[BaseException]:
    """Errors that nobody saw but the hub. A test that wants some takes them out of this list."""
    return compysition_watch.errors


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
