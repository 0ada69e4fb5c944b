# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.supervisor.Intensity`; restarts themselves are in `tests/fault/test_supervision.py`."""

from hypothesis import given
from hypothesis import strategies as st

from compysition.supervisor import Intensity


def test_so_many_restarts_in_a_period_are_borne_and_one_more_is_not() -> None:
    intensity = Intensity(3, 60.0)
    assert [intensity.is_exceeded_by(float(number)) for number in range(5)] == [False, False, False, True, True]


def test_restarts_older_than_the_period_do_not_count() -> None:
    intensity = Intensity(1, 60.0)
    assert not intensity.is_exceeded_by(0.0)
    assert not intensity.is_exceeded_by(60.0)
    assert intensity.is_exceeded_by(119.0)


def test_intensity_of_none_bears_no_restart() -> None:
    assert Intensity(0, 60.0).is_exceeded_by(0.0)


@given(st.lists(st.floats(0.0, 50.0), max_size=40), st.integers(0, 5), st.floats(0.1, 100.0))
def test_intensity_is_a_sliding_count(gaps: list[float], most: int, period_s: float) -> None:
    intensity, times, now = Intensity(most, period_s), [], 0.0
    for gap in gaps:
        now += gap
        times.append(now)
        expected = sum(1 for time in times if time > now - period_s) > most
        assert intensity.is_exceeded_by(now) == expected
