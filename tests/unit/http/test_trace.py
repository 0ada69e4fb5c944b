# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.http.trace` (W3C Trace Context, section 3.2)."""

import pytest

from compysition.http.trace import Trace, parse_trace

ID, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{ID}-{PARENT}-01"


@pytest.mark.parametrize("header", [GOOD, f"cc-{ID}-{PARENT}-01", f"cc-{ID}-{PARENT}-01-what-the-future-says"])
def test_a_valid_trace_is_read(header: str) -> None:
    assert parse_trace(header, "a=1") == Trace(ID, PARENT, "01", "a=1")


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        GOOD.upper(),
        GOOD + "-x",
        GOOD + " ",
        f"{GOOD},{GOOD}",
        f"ff-{ID}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{ID}-{'0' * 16}-01",
        f"cc-{ID}-{PARENT}-01x",
        f"00-{ID}-{PARENT}",
    ],
)
def test_any_other_is_ignored_and_its_state_with_it(header: str | None) -> None:
    assert parse_trace(header, "a=1") is None


def test_a_state_that_is_too_long_is_left_out() -> None:
    assert parse_trace(GOOD, "a" * 512) == Trace(ID, PARENT, "01", "a" * 512)
    assert parse_trace(GOOD, "a" * 513) == Trace(ID, PARENT, "01")


def test_a_child_has_the_trace_and_a_parent_of_its_own() -> None:
    trace = parse_trace(GOOD)
    assert trace is not None
    child = parse_trace(trace.child())
    assert child is not None
    assert (child.trace_id, child.flags) == (ID, "01")
    assert child.parent_id != PARENT
