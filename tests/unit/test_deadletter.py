# SPDX-License-Identifier: Apache-2.0
"""Rules of `compysition.deadletter`."""

import pytest

from compysition import deadletter
from compysition.deadletter import DEAD_LETTERS_KEPT, DeadLetter, DeadLetters
from compysition.event import Event, Failure


def letter(number: int) -> DeadLetter:
    return DeadLetter(Event(number), "auth", "wsgi", deadletter.FAILED, Failure(ValueError, "no"), 0, 1.0)


def numbers(letters: DeadLetters) -> list[int]:
    return [each.event.data for each in letters]


def test_letters_are_kept_oldest_first() -> None:
    letters = DeadLetters()
    for number in range(3):
        letters.add(letter(number))
    assert numbers(letters) == [0, 1, 2]
    assert len(letters) == 3
    assert letters.lost == 0


def test_oldest_falls_out_of_a_full_ring_and_is_counted() -> None:
    letters = DeadLetters(kept=3)
    for number in range(5):
        letters.add(letter(number))
    assert numbers(letters) == [2, 3, 4]
    assert (len(letters), letters.lost) == (3, 2)


def test_ring_keeps_a_thousand() -> None:
    letters = DeadLetters()
    for number in range(1001):
        letters.add(letter(number))
    assert (DEAD_LETTERS_KEPT, len(letters), letters.lost) == (1000, 1000, 1)


def test_letters_may_be_added_while_one_iterates() -> None:
    letters = DeadLetters(kept=2)
    letters.add(letter(0))
    letters.add(letter(1))
    seen = []
    for each in letters:
        seen.append(each.event.data)
        letters.add(letter(9))
    assert seen == [0, 1]


def test_clear_forgets_the_letters_and_not_the_count() -> None:
    letters = DeadLetters(kept=1)
    letters.add(letter(0))
    letters.add(letter(1))
    letters.clear()
    assert (list(letters), len(letters), letters.lost) == ([], 0, 1)


def test_empty_ring_is_false_and_a_filled_one_true() -> None:
    letters = DeadLetters()
    assert not letters
    letters.add(letter(0))
    assert letters


def test_letter_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        letter(0).reason = "other"  # type: ignore[misc]  # that is the point


def test_reasons_are_those_of_the_design() -> None:
    reasons = {value for name, value in vars(deadletter).items() if name.isupper() and isinstance(value, str)}
    assert reasons == {"failed", "poison", "retries", "overflow", "stopped", "killed", "abandoned"}


def test_repr_says_how_many() -> None:
    letters = DeadLetters(kept=1)
    letters.add(letter(0))
    letters.add(letter(1))
    assert repr(letters) == "<DeadLetters 1 kept, 1 lost>"
