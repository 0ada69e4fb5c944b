# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.backoff`."""

import dataclasses
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compysition.backoff import Backoff

BACKOFFS = st.builds(
    Backoff,
    first_s=st.floats(0.001, 10.0),
    factor=st.floats(1.0, 100.0),
    most_s=st.floats(0.001, 3600.0),
    jitter=st.floats(0.0, 1.0),
)


def test_defaults_are_those_of_the_design() -> None:
    assert dataclasses.astuple(Backoff()) == (0.1, 2.0, 30.0, 0.2)


def test_delays_double_up_to_the_limit() -> None:
    backoff = Backoff(jitter=0.0)
    assert [backoff.delay_s(attempt) for attempt in range(1, 11)] == [
        *(0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6),
        30.0,
    ]


@given(BACKOFFS, st.integers(1, 10**9), st.randoms(use_true_random=False))
def test_delay_is_never_negative_and_never_far_beyond_the_limit(
    backoff: Backoff, attempt: int, rng: random.Random
) -> None:
    assert 0.0 <= backoff.delay_s(attempt, rng) <= backoff.most_s * (1 + backoff.jitter) * (1 + 1e-9)


@given(BACKOFFS, st.integers(1, 200))
def test_delay_without_jitter_never_shrinks(backoff: Backoff, attempt: int) -> None:
    plain = dataclasses.replace(backoff, jitter=0.0)
    assert plain.delay_s(attempt) <= plain.delay_s(attempt + 1)


@given(BACKOFFS, st.integers(1, 200), st.randoms(use_true_random=False))
def test_jitter_stays_within_its_share(backoff: Backoff, attempt: int, rng: random.Random) -> None:
    plain_s = dataclasses.replace(backoff, jitter=0.0).delay_s(attempt)
    assert abs(backoff.delay_s(attempt, rng) - plain_s) <= plain_s * backoff.jitter * (1 + 1e-9)


def test_jitter_goes_both_ways() -> None:
    rng = random.Random(1)
    delays = [Backoff(first_s=1.0).delay_s(1, rng) for _ in range(100)]
    assert min(delays) < 0.9
    assert max(delays) > 1.1


def test_same_seed_gives_the_same_delays() -> None:
    delays = [[Backoff().delay_s(attempt, rng) for attempt in range(1, 20)] for rng in map(random.Random, (7, 7))]
    assert delays[0] == delays[1]


@pytest.mark.parametrize("attempt", [1_000, 10**6, 10**12])
def test_number_of_attempts_cannot_overflow(attempt: int) -> None:
    assert Backoff(jitter=0.0).delay_s(attempt) == 30.0
