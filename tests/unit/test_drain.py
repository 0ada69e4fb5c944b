# SPDX-License-Identifier: Apache-2.0
"""Rules of the report in `compysition.drain`; how a stop goes is in `tests/fault/test_stop.py`."""

import dataclasses

import pytest

from compysition.drain import (
    EXIT_GAVE_UP,
    EXIT_LEFT,
    EXIT_NOT_STARTED,
    EXIT_OK,
    ActorReport,
    StopReport,
)


def test_exit_codes_are_those_of_the_design() -> None:
    assert (EXIT_OK, EXIT_LEFT, EXIT_NOT_STARTED, EXIT_GAVE_UP) == (0, 1, 2, 3)


@pytest.mark.parametrize(("exit_code", "ok"), [(0, True), (1, False), (2, False), (3, False)])
def test_report_is_ok_when_nothing_was_lost(exit_code: int, ok: bool) -> None:
    assert StopReport("SIGTERM", exit_code).ok is ok


def test_numbers_of_an_actor_are_integers_and_begin_at_none() -> None:
    assert dataclasses.astuple(ActorReport()) == (0, 0, 0, 0)


def test_text_is_a_few_aligned_lines() -> None:
    report = StopReport(
        "SIGTERM",
        exit_code=1,
        took_s=2.04,
        actors={
            "wsgi": ActorReport(done=3),
            "acknowledge_transform": ActorReport(done=12345, left=2, dropped=1, killed=2),
            "stdout": ActorReport(),
        },
    )
    assert str(report).splitlines() == [
        "stopped after 2.0 s: not everything drained (exit code 1); SIGTERM",
        "  wsgi                        3 done       0 left       0 dropped",
        "  acknowledge_transform   12345 done       2 left       1 dropped  2 killed",
        "  stdout                      0 done       0 left       0 dropped",
    ]


@pytest.mark.parametrize(
    ("exit_code", "words"),
    [
        (EXIT_OK, "everything drained (exit code 0)"),
        (EXIT_LEFT, "not everything drained (exit code 1)"),
        (EXIT_NOT_STARTED, "could not start (exit code 2)"),
        (EXIT_GAVE_UP, "gave up (exit code 3)"),
    ],
)
def test_text_says_how_it_went_and_why(exit_code: int, words: str) -> None:
    assert str(StopReport("everything is done", exit_code)) == f"stopped after 0.0 s: {words}; everything is done"


def test_report_of_a_hosted_start_has_a_reason_and_no_actors() -> None:
    report = StopReport("hosted")
    assert (report.reason, report.ok, dict(report.actors)) == ("hosted", True, {})


def test_report_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        StopReport("SIGTERM").exit_code = 0  # type: ignore[misc]  # that is the point
